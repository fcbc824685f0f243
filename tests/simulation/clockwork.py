"""Virtual time, and processes that crash, freeze and come back in it. One seed is one run of events, in one order."""

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

START_NS = 1_750_000_000_000_000_000
SECOND_NS = 1_000_000_000


class Clockwork:
    """A queue of what happens next. `faulty` until faults cease; `faults` counts what was broken, by kind."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_ns = START_NS
        self.faulty = True
        self.faults: Counter[str] = Counter()
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._drawn = 0

    def after(self, delay_s: float, do: Callable[..., None], *args: Any) -> None:
        self._drawn += 1
        heapq.heappush(self._queue, (self.now_ns + int(delay_s * SECOND_NS), self._drawn, do, args))

    def step(self) -> bool:
        """The next event; False when there is none."""
        if not self._queue:
            return False
        at_ns, _, do, args = heapq.heappop(self._queue)
        self.now_ns = max(self.now_ns, at_ns)
        do(*args)
        return True

    def chance(self, probability: float, kind: str) -> bool:
        """Whether something breaks now; counted by its kind. Never once faults have ceased."""
        if not self.faulty or probability <= 0.0 or self.random.random() >= probability:
            return False
        self.faults[kind] += 1
        return True


class Process:
    """Something that runs. Its timers die with it, and wait while it is frozen."""

    def __init__(self, clockwork: Clockwork, name: str) -> None:
        self.clockwork = clockwork
        self.name = name
        self.alive = False
        self.frozen = False
        self.connected = True
        self.revision = 0
        self.epoch = 0
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._suspended_ns = 0
        self._frozen_at_ns = 0
        self._cut_at_ns = 0

    def monotonic_ns(self) -> int:
        """Its monotonic clock, which stands still while its host is suspended."""
        return self.clockwork.now_ns - self._suspended_ns

    def later(self, delay_s: float, do: Callable[..., None], *args: Any) -> None:
        self.clockwork.after(delay_s, self.do, self.epoch, do, args)

    def do(self, epoch: int, do: Callable[..., None], args: tuple[Any, ...]) -> None:
        """What was put off until now, unless the process has crashed since."""
        if epoch != self.epoch:
            return
        if self.frozen:
            self._held.append((do, args))
        else:
            do(*args)

    def crash(self) -> None:
        """Everything it knew is gone."""
        self.epoch += 1
        self.alive = False
        self.frozen = False
        self._held.clear()

    def freeze(self, duration_s: float, *, suspended: bool) -> None:
        """It stands still; `suspended`: and so does its monotonic clock."""
        if self.frozen or not self.alive:
            return
        self.frozen = True
        self._frozen_at_ns = self.clockwork.now_ns
        self.clockwork.after(duration_s, self._thaw, self.epoch, suspended)

    def _thaw(self, epoch: int, suspended: bool) -> None:
        if epoch != self.epoch:
            return
        self.frozen = False
        if suspended:
            self._suspended_ns += self.clockwork.now_ns - self._frozen_at_ns
        held, self._held = self._held, []
        self.clockwork.random.shuffle(held)
        self.thawed(suspended)
        for do, args in held:
            self.later(0.0, do, *args)

    def thawed(self, suspended: bool) -> None:
        """It runs again; what was held back follows."""

    def cut(self, duration_s: float) -> None:
        """It loses its connection for a while."""
        if self.connected:
            self.sever()
            self.clockwork.after(duration_s, self.join)

    def sever(self) -> None:
        """It loses its connection, until it joins again."""
        if self.connected:
            self.connected = False
            self._cut_at_ns = self.clockwork.now_ns

    def join(self) -> None:
        """The connection stands again."""
        if self.connected:
            return
        self.connected = True
        self.revision += 1
        if self.alive:
            self.joined()

    def joined(self) -> None:
        """What it does once it is connected again."""
