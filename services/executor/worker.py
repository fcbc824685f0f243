"""An executor: pulls commands as slots come free, claims their attempts, runs them, and appends what happened.

    pull → claim (append StepStarted, expecting nothing there) → acknowledge → run → close (append StepFinished after it)

An attempt is claimed once and closed once; who loses either race stops. Commands only deliver: a redelivered one finds its
subject taken. While an attempt is open its subject is re-read every second, and at once when nudged: an entry that is not
ours means that the scheduler closed it. Then the tool is killed, its work is kept, and what was learnt goes to the
attempt's late subject. An executor that is told to stop hands back what it cannot finish: it closes the attempt itself,
and its work is kept as well.

Nothing durable lives here: kill an executor at any time. Its journal only lets the next life say what became of processes.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
import structlog

from services import process
from services.beats import nudge_subject
from services.bus import Bus, BusError, BusUnavailableError, Delivery, RefusedError
from services.commands import RunStep
from services.events import AnyEvent, ProcessesReaped, ResultRefused, StepFinished
from services.executor import claims
from services.executor.found import ToolFinder, announced
from services.executor.housekeeping import Housekeeping
from services.executor.journal import Journal
from services.executor.metrics import UNREADABLE, ExecutorMetrics
from services.executor.pulse import Pulse
from services.executor.step import MESSAGE_CHARS, Steps, Stopped
from services.metrics import Exposition
from services.process import ProcessError
from services.telemetry import about
from services.trace import Trace, of_attempt, of_run
from services.wire import (
    Entry,
    Recorded,
    WireError,
    attempt_subject,
    decode_command,
    decode_entry,
    encode_entry,
    late_subject,
)

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often the subjects of open attempts are read again."""

MOVE_S: Final = 0.25
"""How often the supervising loop says of its attempts that it has them in hand."""

RETRY_S: Final = 0.2
PULL_S: Final = 1.0
"""How long one look for commands waits: after a reconnection the next look asks anew."""

ROOM_S: Final = 1.0
"""How often an executor whose disk has no room looks whether it has."""

HAND_BACK_S: Final = 10.0
"""How long attempts may take to be handed back: the grace of their tools, their snapshots, and the close."""

GLANCE_S = 30.0
"""How often an executor looks whether tools have come or gone."""

Key = tuple[str, str, int]


class Work(msgspec.Struct):
    """An attempt this executor has claimed. `sequence` is its claim; `ending` says why it does not go on, if it does not.

    `step` is what it is asked to do, `trace` its span. `processes` counts those that were ended for it.
    """

    key: Key
    sequence: int
    step: str
    trace: Trace | None
    task: "asyncio.Task[StepFinished] | None" = None
    ending: Literal["", "closed", "handed_back"] = ""
    claimed_at: float = 0.0
    processes: int = 0


class Executor:
    """One executor. `run` it; `drain` ends the pulling, and ends or hands back what is running."""

    def __init__(
        self,
        bus: Bus,
        steps: Steps,
        pulse: Pulse,
        journal: Journal,
        metrics: ExecutorMetrics | None = None,
        finder: ToolFinder | None = None,
        house: Housekeeping | None = None,
    ) -> None:
        """`pulse` says who it is; its name stays the same across restarts, and every start has a fresh boot id.

        `metrics` are told what becomes of attempts; by default nobody reads them. What `finder` finds is announced.
        `house` looks after the disk: while it has no room, nothing is pulled.
        """
        self._finder = finder
        self._house = house
        self._metrics = metrics or ExecutorMetrics(Exposition("executor"))
        self._bus = bus
        self._steps = steps
        self._pulse = pulse
        self._journal = journal
        self._name = pulse.executor
        self._boot = pulse.boot
        self._puller = bus.commands(pulse.pool)
        self._work: dict[Key, Work] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def running(self) -> int:
        """How many attempts are under way here."""
        return len(self._work)

    async def run(self, leftovers: Mapping[Key, int] | None = None) -> None:
        """Run until cancelled. `leftovers`: attempts of a former life, and how many of their processes were ended."""
        await self._puller.open()
        self._pulse.enter("idle")
        pulse = self._pulse
        log.info("executor.ready", executor=self._name, boot=self._boot, slots=pulse.slots, pool=pulse.pool)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._supervise())
            group.create_task(self._reread())
            group.create_task(self._nudges())
            group.create_task(self._pull())
            group.create_task(self._tell_leftovers(leftovers or {}))
            group.create_task(self._find_tools())
            if self._house is not None:
                group.create_task(self._house.run())

    async def drain(self, grace_s: float, *, hurry: asyncio.Event | None = None, hand_back: bool = True) -> None:
        """Take nothing new; wait for what is running, at most `grace_s` and not after `hurry`; hand back the rest.

        Takes HAND_BACK_S and a moment longer than the grace at most. Without `hand_back` the rest is left to be lost.
        """
        self._stopping.set()
        if self._pulse.state != "spawning":
            self._pulse.enter("draining")
        log.info("executor.draining", attempts=len(self._work), grace_s=grace_s)
        await self._puller.close()
        await self._quiet(grace_s, hurry or asyncio.Event())
        if hand_back:
            for work in self._work.values():
                self._end(work, "handed_back")
            if self._busy:
                await asyncio.wait(self._busy, timeout=HAND_BACK_S)
        for task in list(self._busy):
            task.cancel()
        if self._busy:
            await asyncio.wait(self._busy, timeout=HAND_BACK_S)

    async def _quiet(self, grace_s: float, hurry: asyncio.Event) -> None:
        hurrying = asyncio.create_task(hurry.wait())
        try:
            async with asyncio.timeout(grace_s):
                while self._busy and not hurrying.done():
                    await asyncio.wait({*self._busy, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return
        finally:
            hurrying.cancel()

    # Commands

    async def _pull(self) -> None:
        while not self._stopping.is_set():
            free = self._pulse.slots - len(self._busy)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            if self._house is not None and not await self._house.has_room():
                await asyncio.sleep(ROOM_S)
                continue
            try:
                deliveries = await self._puller.next(wanted=free, timeout_s=PULL_S)
            except BusError as error:
                log.warning("executor.pull_retry", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if self._stopping.is_set():  # not acknowledged, so they are delivered to somebody else
                return
            for delivery in deliveries:
                task = asyncio.create_task(self._take(delivery))
                self._busy.add(task)
                task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._busy.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("executor.attempt_crashed", exc_info=error)

    async def _take(self, delivery: Delivery) -> None:
        """One command from claim to close."""
        try:
            command = decode_command(delivery.data)
        except WireError as error:
            await self._refuse(delivery, str(error))
            return
        key = (command.run, command.step.workstream, command.step.attempt)
        trace = span_of(command)
        with _about(key, trace):
            await self._work_on(key, trace, command, delivery)

    async def _work_on(self, key: Key, trace: Trace, command: RunStep, delivery: Delivery) -> None:
        self._journal.opened(key)
        sequence = await self._claim(key, trace, delivery)
        if sequence == 0:
            self._journal.closed(key)
            return
        step = command.step.step
        log.info("executor.claimed", step=step, tool=command.step.tool)
        work = Work(key=key, sequence=sequence, step=step, trace=trace, claimed_at=time.monotonic())
        self._take_up(work)
        try:
            result = await self._carry_out(work, command)
            if await self._close(work, result):
                self._journal.closed(key)
        finally:
            self._put_down(work)

    def _take_up(self, work: Work) -> None:
        self._work[work.key] = work
        self._pulse.advance(work.key)
        if not self._stopping.is_set():
            self._pulse.enter("busy")

    def _put_down(self, work: Work) -> None:
        self._work.pop(work.key, None)
        self._pulse.forget(work.key)
        if not self._work and not self._stopping.is_set():
            self._pulse.enter("idle")

    async def _claim(self, key: Key, trace: Trace | None, delivery: Delivery) -> int:
        """The sequence of our claim; 0 when the attempt is somebody else's, or over."""
        fenced = claims.claim(self._name, self._boot)
        data = encode_entry(self._entry(key[0], fenced.events, trace))
        try:
            with self._metrics.claiming():
                sequence = await self._bus.append(attempt_subject(*key), data, expect=fenced.expect)
        except RefusedError:
            sequence = 0
        except BusUnavailableError as error:
            log.warning("executor.claim_unanswered", error=str(error))
            return 0
        await delivery.ack()
        return sequence

    async def _refuse(self, delivery: Delivery, reason: str) -> None:
        """A command this version cannot read is refused with a fact, so that nobody waits for it."""
        tokens = delivery.subject.split(".")
        key = (tokens[3], tokens[4], int(tokens[5]))
        with _about(key):
            log.error("executor.unreadable_command", subject=delivery.subject, error=reason)
            sequence = await self._claim(key, None, delivery)
            if sequence:
                work = Work(key=key, sequence=sequence, step=UNREADABLE, trace=None)
                message = f"{reason}: upgrade this executor"[:MESSAGE_CHARS]
                await self._close(work, StepFinished(ok=False, error_class="protocol_error", message=message))

    async def _carry_out(self, work: Work, command: RunStep) -> StepFinished | None:
        """The result; of a step that is ended early what it leaves, or None when that is nothing and the attempt closed."""
        if command.step.dry_run:
            return StepFinished(ok=True, dry_run=True)
        work.task = asyncio.create_task(self._steps.run(command))
        try:
            await asyncio.wait({work.task})
        finally:
            if not work.task.done():
                work.task.cancel()
                await asyncio.wait({work.task})
        if work.task.cancelled():
            return self._left_by(work, self._steps.stopped(work.key))
        error = work.task.exception()
        if error is None:
            return work.task.result()
        log.error("executor.step_crashed", exc_info=error)
        message = f"the executor could not carry it out: {type(error).__name__}: {error}"
        return StepFinished(ok=False, error_class="unknown", message=message[:MESSAGE_CHARS])

    def _left_by(self, work: Work, stopped: Stopped) -> StepFinished | None:
        work.processes += stopped.processes
        if stopped.whole and work.ending != "closed":
            return stopped.kept
        if work.ending == "closed":
            if stopped.kept is None:
                return None
            message = "the attempt was closed elsewhere while its tool was running: this is its work until then"
        else:
            message = "the executor was told to stop before the step was done"
            message += (
                ": its work is kept, the next attempt goes on from it"
                if stopped.kept and stopped.kept.snapshot
                else ": nothing was made yet"
            )
        left = stopped.kept or StepFinished(ok=False)
        if left.message:
            message = f"{message}; {left.message}"[:MESSAGE_CHARS]
        return msgspec.structs.replace(left, ok=False, error_class="handed_back", message=message)

    async def _close(self, work: Work, result: StepFinished | None) -> bool:
        """Append the result after our claim, or what came too late to the late subject; whether everything is told."""
        if result is not None and await self._appended(work, result):
            self._metrics.closed(work.step, result)
            log.info("executor.closed", ok=result.ok, error_class=result.error_class, wall_s=result.wall_s)
            return True
        log.info("executor.result_refused")
        self._metrics.refused(work.step, result)
        events: list[AnyEvent] = []
        if result is not None:
            events.append(ResultRefused(executor=self._name, boot=self._boot, result=_minimal(result)))
        try:
            # The supervisor has ended what it knew; this proves it, and finds what a former supervisor left.
            swept = await process.sweep([marker_of(work.key)])
        except ProcessError as error:
            log.error("executor.processes_live", error=str(error))
            await self._late(work.key, events, work.trace)
            return False
        processes = work.processes + sum(swept.values())
        self._metrics.reaped(processes)
        events.append(ProcessesReaped(executor=self._name, boot=self._boot, processes=processes))
        return await self._late(work.key, events, work.trace)

    async def _appended(self, work: Work, result: StepFinished) -> bool:
        """Whether the close is ours; tried until it is, or somebody else's."""
        run = work.key[0]
        fenced = claims.close(result, work.sequence)
        try:
            data = encode_entry(self._entry(run, fenced.events, work.trace))
        except WireError as error:
            log.error("executor.result_too_large", error=str(error))
            data = encode_entry(self._entry(run, claims.close(_minimal(result), work.sequence).events, work.trace))
        while work.ending != "closed":
            try:
                await self._bus.append(attempt_subject(*work.key), data, expect=fenced.expect)
            except RefusedError:
                return False
            except BusError as error:
                log.warning("executor.close_retry", error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return True
        return False

    async def _late(self, key: Key, events: list[AnyEvent], trace: Trace | None) -> bool:
        """Add to the late subject, for as long as it takes; while draining once. Whether it is stored."""
        if not events:
            return True
        try:
            data = encode_entry(self._entry(key[0], events, trace))
        except WireError as error:
            log.error("executor.late_fact_lost", error=str(error))
            return False
        while True:
            try:
                await self._bus.add(late_subject(*key), data)
            except BusError as error:
                log.warning("executor.late_fact_retry", error=str(error))
                if self._stopping.is_set():
                    return False
                await asyncio.sleep(RETRY_S)
            else:
                return True

    async def _tell_leftovers(self, leftovers: Mapping[Key, int]) -> None:
        """Say of each attempt that a former life had open that nothing of it lives; then it is forgotten."""
        for key, processes in leftovers.items():
            self._metrics.reaped(processes)
            with _about(key):
                last = await self._last(key)
            entry = None if last is None else _read(last)
            trace = None if entry is None else of_attempt(of_run(key[0], entry.trace), key)
            with _about(key, trace):
                # Nothing is to be said of an attempt that was never claimed, or whose close is ours.
                told = last is None or (entry is not None and self._is_own_close(entry))
                reaped = ProcessesReaped(executor=self._name, boot=self._boot, processes=processes)
                if told or await self._late(key, [reaped], trace):
                    self._journal.closed(key)

    async def _last(self, key: Key) -> Recorded | None:
        """The newest entry of an attempt, asked for until there is an answer."""
        while True:
            try:
                return await self._bus.last(attempt_subject(*key))
            except BusError as error:
                log.warning("executor.leftover_retry", error=str(error))
                await asyncio.sleep(RETRY_S)

    def _is_own_close(self, entry: Entry) -> bool:
        return entry.by == self._by and any(isinstance(event, StepFinished) for event in entry.events)

    @property
    def _by(self) -> str:
        return claims.writer(self._name)

    def _entry(self, run: str, events: Sequence[AnyEvent], trace: Trace | None) -> Entry:
        return Entry(
            id=uuid.uuid4().hex,
            run=run,
            at_ns=time.time_ns(),
            by=self._by,
            events=list(events),
            trace=trace.text if trace is not None else "",
        )

    # Signs of life, and of their end

    async def _supervise(self) -> None:
        """What a beat may say of an attempt depends on this: that somebody here still turns to it."""
        while True:
            await asyncio.sleep(MOVE_S)
            for work in self._work.values():
                self._pulse.advance(work.key)

    async def _find_tools(self) -> None:
        told: dict[str, str] = {}
        while self._finder is not None:
            told = await self._announce(self._finder, told)  # tools can be used before they tell their version
            await self._finder.look()
            told = await self._announce(self._finder, told)
            await asyncio.sleep(GLANCE_S)

    async def _announce(self, finder: ToolFinder, told: dict[str, str]) -> dict[str, str]:
        """Say what was found; what of it runs without the sandbox it wants, which is logged where `told` did not say so."""
        found = await finder.glance()
        tools, missing = announced(found), finder.missing(found)
        if self._pulse.announce(tools, missing):
            log.info("executor.tools_found", tools=tools, missing=sorted(missing))
        unconfined = {tool: one.unconfined for tool, one in found.items() if one.unconfined}
        if unconfined != told and not self._steps.bubblewrap.reason:  # that, the start has told
            log.warning("executor.tools_unconfined", tools=unconfined)
        return unconfined

    async def _reread(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            older = [work for work in self._work.values() if time.monotonic() - work.claimed_at > LOOK_S]
            await asyncio.gather(*(self._look(work) for work in older))

    async def _nudges(self) -> None:
        async with self._bus.hear(nudge_subject(self._pulse.pool, self._name)) as heard:
            while True:
                _, data = await heard.get()
                subject = data.decode(errors="replace")
                for work in list(self._work.values()):
                    if attempt_subject(*work.key) == subject:
                        await self._look(work)

    async def _look(self, work: Work) -> None:
        """Re-read an open attempt's subject; an entry that is not ours ends it."""
        try:
            last = await self._bus.last(attempt_subject(*work.key))
        except BusError:
            return
        if claims.is_foreign(last, self._name):
            self._end(work, "closed")

    def _end(self, work: Work, ending: Literal["closed", "handed_back"]) -> None:
        """Stop working on an attempt. What is closed elsewhere cannot be handed back any more; the reverse may happen."""
        if work.ending in {ending, "closed"}:
            return
        first = not work.ending
        work.ending = ending
        with _about(work.key, work.trace):
            log.info("executor.attempt_ended_early", ending=ending)
        if first and work.task is not None and not work.task.done():
            work.task.cancel()


def span_of(command: RunStep) -> Trace:
    """The span of the attempt that a command asks for."""
    step = command.step
    run = of_run(command.run, command.trace)
    return of_attempt(run, (command.run, step.workstream, step.attempt))


def _read(recorded: Recorded) -> Entry | None:
    try:
        return decode_entry(recorded.data)
    except WireError:
        return None


def _about(key: Key, trace: Trace | None = None) -> contextlib.AbstractContextManager[object]:
    run, workstream, attempt = key
    return about(run=run, workstream=workstream, attempt=attempt, trace=trace)


def marker_of(key: Key) -> str:
    """What every process of an attempt carries in its environment."""
    return "/".join(map(str, key))


def _minimal(result: StepFinished) -> StepFinished:
    """The form of a result that always fits: its verdict, its snapshot, its cost, and where the evidence is."""
    return StepFinished(
        ok=result.ok,
        error_class=result.error_class,
        message=result.message[:500],
        exit_code=result.exit_code,
        snapshot=result.snapshot,
        changed=result.changed,
        files_total=result.files_total,
        signature=result.signature,
        findings=result.findings,
        artifacts=result.artifacts[:20],
        tool_wall_s=result.tool_wall_s,
        wall_s=result.wall_s,
        usage=result.usage,
        cost=result.cost,
        list_cost=result.list_cost,
        model=result.model,
        provider=result.provider,
        session=result.session,
        denials=result.denials,
        retry_after_s=result.retry_after_s,
        resets_at_ns=result.resets_at_ns,
        context=result.context,
    )
