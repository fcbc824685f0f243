"""Virtual time, and processes that crash, freeze and come back in it. One seed is one run of events, in one order."""

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

START_NS = 1_750_000_000_000_000_000
SECOND_NS = 1_000_000_000


class Clockwork:
    """A queue of what happens next. `faulty` until faults cease; `faults` counts what was broken, by kind."""

    __slots__ = (
        "_drawn",
        "_queue",
        "draw",
        "faults",
        "faulty",
        "now_ns",
        "random",
    )

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_ns = START_NS
        self.faulty = True
        self.faults: Counter[str] = Counter()
        self.draw = self.random.random
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...], Process | None, int]] = []
        self._drawn = 0

    def after(self, delay_s: float, do: Callable[..., None], *args: Any) -> None:
        """Do something in `delay_s` seconds, 0 or more."""
        self._drawn += 1
        heappush(self._queue, (self.now_ns + int(delay_s * SECOND_NS), self._drawn, do, args, None, 0))

    def after_in(
        self, delay_s: float, process: "Process", epoch: int, do: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        """The same within a process: nothing once it has crashed since `epoch`; and only when it runs again, if it is frozen."""
        self._drawn += 1
        heappush(self._queue, (self.now_ns + int(delay_s * SECOND_NS), self._drawn, do, args, process, epoch))

    def play(self, events: int, findings: list[str]) -> None:
        """The next events, so many of them; fewer when there are no more, or once something is found."""
        queue = self._queue
        for _ in range(events):
            if not queue:
                return
            at_ns, _, do, args, process, epoch = heappop(queue)
            self.now_ns = at_ns
            if process is None:
                do(*args)
            elif process.epoch == epoch:
                if process.frozen:
                    process.hold(do, args)
                else:
                    do(*args)
            if findings:
                return

    def stop(self) -> None:
        """Nothing happens any more."""
        self._queue.clear()

    def chance(self, probability: float, kind: str) -> bool:
        """Whether something breaks now; counted by its kind. Never once faults have ceased."""
        if not self.faulty or probability <= 0.0 or self.draw() >= probability:
            return False
        self.faults[kind] += 1
        return True


class Process:
    """Something that runs. Its timers die with it, and wait while it is frozen."""

    __slots__ = (
        "_cut_at_ns",
        "_frozen_at_ns",
        "_held",
        "_suspended_ns",
        "alive",
        "clockwork",
        "connected",
        "epoch",
        "frozen",
        "name",
        "revision",
    )

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
        self.clockwork.after_in(delay_s, self, self.epoch, do, args)

    def hold(self, do: Callable[..., None], args: tuple[Any, ...]) -> None:
        """It is frozen: this is done when it runs again."""
        self._held.append((do, args))

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
