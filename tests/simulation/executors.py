"""Executors, modelled: they pull, claim, run a tool for a while, close, and tell late facts; they crash, freeze and drain.

The three rules of the log that they keep are the real ones (services/executor/claims.py).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from services.beats import Beat
from services.events import (
    AnyEvent,
    ExecutorState,
    ProcessesReaped,
    ResultRefused,
    StepFinished,
    StepScheduled,
)
from services.executor.claims import claim, close, is_foreign, writer
from services.wire import Entry, attempt_subject, late_subject
from tests.simulation.broker import Answer, Broker, Command
from tests.simulation.clockwork import SECOND_NS, START_NS, Clockwork, Process
from tests.simulation.tools import Tools

BEAT_S = 1.0
RETRY_S = 0.2

Key = tuple[str, str, int]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How likely what goes wrong with executors."""

    crash: float = 0.0
    stuck: float = 0.0


class Lack(msgspec.Struct, frozen=True):
    """Tools that an executor does not have until somebody installs them; seconds since the start."""

    tools: tuple[str, ...] = ()
    until_s: float = 0.0


class Work(msgspec.Struct):
    """An attempt this executor has claimed. `moving`: its supervising loop, so that beats name it."""

    key: Key
    sequence: int
    scheduled: StepScheduled
    scheduled_ns: int
    claimed_ns: int
    subject: str
    moving: bool = True
    done: bool = False
    result: StepFinished | None = None
    entry: Entry | None = None


class Executor(Process):
    """One executor of the simulation."""

    __slots__ = (
        "_boots",
        "_busy",
        "_said",
        "boot",
        "broker",
        "draining",
        "lacks",
        "named_ns",
        "pool",
        "rules",
        "slots",
        "tools",
        "work",
    )

    def __init__(
        self,
        clockwork: Clockwork,
        broker: Broker,
        tools: Tools,
        rules: Rules,
        name: str,
        *,
        pool: str,
        slots: int,
        lacks: Lack | None = None,
    ) -> None:
        super().__init__(clockwork, name)
        self.broker = broker
        self.tools = tools
        self.rules = rules
        self.pool = pool
        self.slots = slots
        self.lacks = lacks or Lack()
        self.boot = ""
        self.draining = False
        self.work: dict[Key, Work] = {}
        self.named_ns: dict[Key, int] = {}
        self._said: Beat | None = None
        self._busy = 0
        self._boots = 0
        broker.workers.append(self)

    def start(self) -> None:
        if self.alive:
            return
        self._boots += 1
        self.boot = f"{self.name}-{self._boots}"
        self.alive, self.draining = True, False
        self.work.clear()
        self.named_ns.clear()
        self._busy = 0
        self._beat()
        self.broker.kick()

    def die(self, kind: str = "") -> None:
        """Crash; it is started anew a little later, as another boot of the same executor."""
        if kind:
            self.clockwork.faults[kind] += 1
        self.crash()
        self.work.clear()
        self.clockwork.after(0.5 + self.clockwork.random.random() * 25, self.start)

    def _dies(self, kind: str) -> bool:
        if self.clockwork.chance(self.rules.crash, kind):
            self.die()
            return True
        return False

    # Commands

    def takes(self, pool: str) -> bool:
        return (
            self.alive
            and not self.frozen
            and not self.draining
            and self.connected
            and pool == self.pool
            and self._busy < self.slots
        )

    def pulled(self) -> None:
        self._busy += 1

    def take(self, command: Command) -> None:
        """One command from claim to close."""
        step = command.command.step
        key = (command.command.run, step.workstream, step.attempt)
        if self._dies("executor crash: before its claim"):
            return
        fenced = claim(self.name, self.boot)
        subject = attempt_subject(*key)

        def claimed(answer: Answer, sequence: int) -> None:
            if answer == "unavailable":
                self._free()
                return
            if answer == "ok" and self._dies("executor crash: claimed, not acknowledged"):
                return
            self.broker.ack(command)
            if answer == "refused":
                self._free()
                return
            self._begin(
                Work(
                    key=key,
                    sequence=sequence,
                    scheduled=step,
                    scheduled_ns=command.command.scheduled_ns,
                    claimed_ns=self.clockwork.now_ns,
                    subject=subject,
                )
            )

        self.broker.append(self, subject, self._entry(key[0], fenced.events), fenced.expect, claimed)

    def _free(self) -> None:
        self._busy -= 1
        self.broker.kick()

    def _begin(self, work: Work) -> None:
        self.work[work.key] = work
        if self._dies("executor crash: after its claim"):
            return
        if self.clockwork.chance(self.rules.stuck, "attempt stuck"):
            work.moving = False
            return
        wall_s = self.tools.wall_s(work.key[0], work.scheduled)
        if self.tools.kills(work.key[0], work.scheduled):
            self.later(min(wall_s, 5.0), self._killed, work)
        elif self.clockwork.chance(self.rules.crash, "executor crash: mid tool"):
            self.later(wall_s / 2, self.die)
        else:
            self.later(wall_s, self._ended, work)

    def _killed(self, work: Work) -> None:
        if self.work.get(work.key) is work and not work.done:
            self.die("tool killed its executor")

    def _ended(self, work: Work) -> None:
        """The tool has ended by itself."""
        if work.done or self.work.get(work.key) is not work:
            return
        work.done = True
        if work.scheduled.tool in self._missing() and not work.scheduled.dry_run:
            work.result = StepFinished(ok=False, error_class="tool_missing", message="it is not installed here")
        else:
            work.result = self.tools.result(work.key[0], work.scheduled, work.scheduled_ns, self.clockwork.now_ns)
        if not self._dies("executor crash: tool ended, not closed"):
            self._close(work)

    def _close(self, work: Work) -> None:
        result = work.result
        assert result is not None
        fenced = close(result, work.sequence)
        # The same bytes every time: by them it recognises its own entry, however late that is stored.
        work.entry = work.entry or self._entry(work.key[0], fenced.events)

        def closed(answer: Answer, _: int) -> None:
            if answer == "unavailable":
                self.later(RETRY_S, self._close, work)
                return
            if self._dies("executor crash: closed, nothing late told"):
                return
            self._forget(work)
            if answer == "refused":
                self._tell_late(work, result)

        self.broker.append(self, work.subject, work.entry, fenced.expect, closed)

    def _forget(self, work: Work) -> None:
        if self.work.pop(work.key, None) is not None:
            self._free()
        if self.draining and not self.work:
            self._leave()

    def _tell_late(self, work: Work, result: StepFinished) -> None:
        events: list[AnyEvent] = [ResultRefused(executor=self.name, boot=self.boot, result=result)]
        self._late(work, events)
        self._late(work, [ProcessesReaped(executor=self.name, boot=self.boot, processes=1)])

    def _late(self, work: Work, events: list[AnyEvent]) -> None:
        self.broker.append(
            self, late_subject(*work.key), self._entry(work.key[0], events), None, lambda _answer, _sequence: None
        )

    def _entry(self, run: str, events: Sequence[AnyEvent]) -> Entry:
        at_ns = self.clockwork.now_ns
        if self.clockwork.chance(0.02, "clock of an executor jumps"):
            at_ns += self.clockwork.random.randint(-(10**13), 10**13)
        return Entry(
            id=f"{self.clockwork.random.getrandbits(64):016x}",
            run=run,
            at_ns=at_ns,
            by=writer(self.name),
            events=list(events),
        )

    # Signs of life

    def _beat(self) -> None:
        self.later(BEAT_S, self._beat)
        if not self.connected or self.broker.down:
            return
        self._say("draining" if self.draining else "busy" if self.work else "idle")
        if self.work:
            self._look(BEAT_S)

    def _say(self, state: ExecutorState) -> None:
        named = [key for key, work in self.work.items() if work.moving]
        beat, missing = self._said, self._missing()
        if beat is None or (beat.boot, beat.state, beat.attempts, *beat.missing) != (self.boot, state, named, *missing):
            beat = self._said = Beat(
                executor=self.name,
                boot=self.boot,
                pool=self.pool,
                slots=self.slots,
                state=state,
                attempts=named,
                missing={tool: tool for tool in missing},
            )
        if self.broker.put_beat(self.name, beat):
            for key in named:
                self.named_ns[key] = self.clockwork.now_ns

    def _missing(self) -> tuple[str, ...]:
        if not self.lacks.tools:
            return ()
        installed = self.clockwork.now_ns - START_NS >= self.lacks.until_s * SECOND_NS
        return () if installed else self.lacks.tools

    def nudged(self) -> None:
        if self.alive and self.connected:
            self._look(0.0)

    def _look(self, older_s: float) -> None:
        """Re-read the subjects of open attempts: an entry of somebody else ends them."""
        for work in list(self.work.values()):
            if work.done or self.clockwork.now_ns - work.claimed_ns < older_s * SECOND_NS:
                continue
            last = self.broker.newest.get(work.subject)
            if last is not None and last.sequence != work.sequence and is_foreign(last, self.name):
                work.done = True
                partial = self.tools.partial(work.key[0], work.scheduled, work.scheduled_ns)
                self._forget(work)
                self._tell_late(work, partial)

    # Leaving

    def drain(self, grace_s: float) -> None:
        """It must stop: what is not done by then is handed back."""
        if not self.alive or self.draining:
            return
        self.draining = True
        self.clockwork.faults["executor drained"] += 1
        if self.work or self._busy:
            self.later(grace_s, self._hand_back)
        else:
            self._leave()

    def _hand_back(self) -> None:
        for work in list(self.work.values()):
            if not work.done and work.moving:
                work.done = True
                partial = self.tools.partial(work.key[0], work.scheduled, work.scheduled_ns)
                work.result = msgspec.structs.replace(partial, error_class="handed_back", message="the executor drains")
                self._close(work)
        if not self.work:
            self._leave()
        else:
            self.later(10.0, self._leave)

    def _leave(self) -> None:
        if self.connected and not self.broker.down:
            self._say("terminated")
        self.crash()
        self.work.clear()
        self.clockwork.after(1.0 + self.clockwork.random.random() * 20, self.start)


def status(executor: Any) -> str:
    """How an executor stands, for messages."""
    return f"{executor.name} alive={executor.alive} work={list(executor.work)}"
