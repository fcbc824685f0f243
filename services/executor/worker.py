"""An executor: pulls commands as slots come free, claims their attempts, runs them, and appends what happened.

    pull → claim (append StepStarted, expecting nothing there) → acknowledge → run → close (append StepFinished after it)

An attempt is claimed once and closed once; who loses either race stops. Commands only deliver: a redelivered one finds its
subject taken. While an attempt is open its subject is re-read with every beat, and at once when nudged: an entry that is
not ours means that the scheduler closed it, so the tool is killed, and what was learnt goes to the attempt's late subject.
Nothing durable lives here: kill an executor at any time.
"""

import asyncio
import contextlib
import time
import uuid

import msgspec
import structlog

from services.beats import Beat, nudge_subject
from services.bus import EXECUTORS, Bus, BusError, BusUnavailableError, Delivery, RefusedError
from services.commands import RunStep
from services.events import AnyEvent, ProcessesReaped, ResultRefused, StepFinished, StepStarted
from services.executor.step import Steps
from services.wire import (
    Entry,
    WireError,
    attempt_subject,
    decode_command,
    decode_entry,
    encode_entry,
    late_subject,
)

log = structlog.get_logger()

BEAT_S = 1.0
RETRY_S = 0.2
PULL_S = 1.0
"""How long one look for commands waits: after a reconnection the next look asks anew."""

Key = tuple[str, str, int]


class Work(msgspec.Struct):
    """An attempt this executor has claimed. `sequence` is its claim; `wanted` until the scheduler closes it."""

    key: Key
    sequence: int
    task: "asyncio.Task[StepFinished] | None" = None
    wanted: bool = True
    claimed_at: float = 0.0


class Executor:
    """One executor. `run` it; `drain` ends the pulling and waits for what is running."""

    def __init__(self, bus: Bus, steps: Steps, *, name: str, pool: str, slots: int) -> None:
        """`name` stays the same across restarts; every start has a fresh boot id."""
        self._bus = bus
        self._steps = steps
        self._name = name
        self._boot = uuid.uuid4().hex[:12]
        self._pool = pool
        self._slots = slots
        self._puller = bus.commands(pool)
        self._work: dict[Key, Work] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self._draining = False

    async def run(self) -> None:
        """Run until cancelled."""
        await self._puller.open()
        await self._beat()
        log.info("executor.ready", executor=self._name, boot=self._boot, slots=self._slots, pool=self._pool)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beats())
            group.create_task(self._nudges())
            group.create_task(self._pull())

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; wait for what is running, then stop it."""
        self._draining = True
        await self._puller.close()
        if self._busy:
            await asyncio.wait(self._busy, timeout=grace_s)
        for task in list(self._busy):
            task.cancel()
        if self._busy:
            await asyncio.wait(self._busy, timeout=10)

    # Commands

    async def _pull(self) -> None:
        while not self._draining:
            free = self._slots - len(self._busy)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                deliveries = await self._puller.next(wanted=free, timeout_s=PULL_S)
            except BusError as error:
                log.warning("executor.pull_retry", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
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
        sequence = await self._claim(key, delivery)
        if sequence == 0:
            return
        work = Work(key=key, sequence=sequence, claimed_at=time.monotonic())
        self._work[key] = work
        try:
            result = await self._carry_out(work, command)
            if result is not None:
                await self._close(work, result)
        finally:
            self._work.pop(key, None)

    async def _claim(self, key: Key, delivery: Delivery) -> int:
        """The sequence of our claim; 0 when the attempt is somebody else's, or over."""
        entry = self._entry(key[0], [StepStarted(executor=self._name, boot=self._boot)])
        try:
            sequence = await self._bus.append(attempt_subject(*key), encode_entry(entry), expect=0)
        except RefusedError:
            sequence = 0
        except BusUnavailableError as error:
            log.warning("executor.claim_unanswered", attempt=key, error=str(error))
            return 0
        await delivery.ack()
        return sequence

    async def _refuse(self, delivery: Delivery, reason: str) -> None:
        """A command this version cannot read is refused with a fact, so that nobody waits for it."""
        log.error("executor.unreadable_command", subject=delivery.subject, error=reason)
        tokens = delivery.subject.split(".")
        key = (tokens[3], tokens[4], int(tokens[5]))
        sequence = await self._claim(key, delivery)
        if sequence:
            work = Work(key=key, sequence=sequence)
            message = f"{reason}: upgrade this executor"
            await self._close(work, StepFinished(ok=False, error_class="protocol_error", message=message))

    async def _carry_out(self, work: Work, command: RunStep) -> StepFinished | None:
        """The result, or None when the attempt was closed meanwhile and its processes are gone."""
        if command.step.dry_run:
            return StepFinished(ok=True, dry_run=True)
        work.task = asyncio.create_task(self._steps.run(command))
        try:
            return await work.task
        except asyncio.CancelledError:
            if work.wanted:
                work.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work.task
                raise
            await self._tell_reaped(work)
            return None
        except Exception as error:
            log.error("executor.step_crashed", attempt=work.key, exc_info=error)
            message = f"the executor could not carry it out: {type(error).__name__}: {error}"
            return StepFinished(ok=False, error_class="unknown", message=message[:1500])

    async def _close(self, work: Work, result: StepFinished) -> None:
        """Append the result after our claim; when somebody closed the attempt first, keep it as a late fact."""
        run = work.key[0]
        try:
            data = encode_entry(self._entry(run, [result]))
        except WireError as error:
            log.error("executor.result_too_large", attempt=work.key, error=str(error))
            data = encode_entry(self._entry(run, [_minimal(result)]))
        while True:
            try:
                await self._bus.append(attempt_subject(*work.key), data, expect=work.sequence)
            except RefusedError:
                log.info("executor.result_refused", attempt=work.key)
                refused = ResultRefused(executor=self._name, boot=self._boot, result=_minimal(result))
                await self._late(work, [refused])
                await self._tell_reaped(work)
                return
            except BusError as error:
                log.warning("executor.close_retry", attempt=work.key, error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _tell_reaped(self, work: Work) -> None:
        processes = self._steps.processes_ended(work.key)
        await self._late(work, [ProcessesReaped(executor=self._name, boot=self._boot, processes=processes)])

    async def _late(self, work: Work, events: list[AnyEvent]) -> None:
        try:
            await self._bus.add(late_subject(*work.key), encode_entry(self._entry(work.key[0], events)))
        except (BusError, WireError) as error:
            log.error("executor.late_fact_lost", attempt=work.key, error=str(error))

    def _entry(self, run: str, events: list[AnyEvent]) -> Entry:
        return Entry(id=uuid.uuid4().hex, run=run, at_ns=time.time_ns(), by=f"executor:{self._name}", events=events)

    # Signs of life, and of their end

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(BusError):
                await self._beat()
            older = [work for work in self._work.values() if time.monotonic() - work.claimed_at > BEAT_S]
            await asyncio.gather(*(self._look(work) for work in older))

    async def _beat(self) -> None:
        beat = Beat(executor=self._name, boot=self._boot, pool=self._pool, slots=self._slots, attempts=list(self._work))
        await self._bus.put_key(EXECUTORS, self._name, msgspec.json.encode(beat))

    async def _nudges(self) -> None:
        async with self._bus.hear(nudge_subject(self._name)) as heard:
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
            mine = last is None or decode_entry(last.data).by == f"executor:{self._name}"
        except (BusError, WireError):
            return
        if not mine and work.wanted and work.task is not None and not work.task.done():
            log.info("executor.attempt_closed_elsewhere", attempt=work.key)
            work.wanted = False
            work.task.cancel()


def _minimal(result: StepFinished) -> StepFinished:
    """The form of a result that always fits: its verdict, its snapshot, and where the evidence is."""
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
    )
