"""The thin shell around the pure scheduler.

    follow the log → fold → (leader only) append what is due → once it has come back, publish what is outstanding

Safety never rests on leadership: every decision is appended with the sequence the shell has folded, so of two schedulers
that decide at once one is refused, folds what the other wrote, and decides anew. Leadership only keeps them from trying.
After an append nothing more is decided or published for that run until the entry has come back through the log.
A reconcile loop looks at every live run a few times a second, so nothing depends on having noticed something once.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable

import msgspec
import structlog

from services.artifacts import Artifacts
from services.beats import Beat, nudge_subject
from services.bus import EXECUTORS, LEASES, Bus, BusError, BusUnavailableError, Log, Recorded, RefusedError
from services.commands import RunStep
from services.events import AnyEvent, RunAccepted, RunFinished, RunStopping
from services.scheduler.decide import Decision, Sighting, Sightings, due, outstanding
from services.scheduler.state import Fact, RunState, evolve, skip
from services.spec import RunSpec, decode_spec
from services.wire import (
    ENTRY_BYTES_MAX,
    Entry,
    Place,
    UnknownKindError,
    WireError,
    all_of_run,
    attempt_subject,
    command_subject,
    decode_entry,
    encode_command,
    encode_entry,
    parse_subject,
    run_subject,
)

log = structlog.get_logger()

ENTRY_BUDGET_BYTES = ENTRY_BYTES_MAX * 3 // 4
RETRY_S = 0.5
REPUBLISH_S = 5.0
"""A command nobody has claimed is offered again after this long; harmless, for its subject takes only one."""


class Clock:
    """Log time: the newest folded timestamp plus the local monotonic time since. Never goes back."""

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """`monotonic_ns` is the only clock the scheduler reads."""
        self._monotonic_ns = monotonic_ns
        self._base_ns = 0
        self._at_ns = monotonic_ns()

    def saw(self, time_ns: int) -> None:
        """A message of the log carries this time."""
        if time_ns > self.now_ns() or self._base_ns == 0:
            self._base_ns, self._at_ns = time_ns, self._monotonic_ns()

    def now_ns(self) -> int:
        """Log time now, in nanoseconds."""
        return self._base_ns + (self._monotonic_ns() - self._at_ns)


class Over(msgspec.Struct, frozen=True):
    """What is remembered of a run that has ended."""

    request_id: str
    finished: RunFinished
    last_run_sequence: int

    def again(self, run: str) -> RunState:
        """As much of its state as a late request needs to be answered."""
        return RunState(
            run=run,
            status=self.finished.state,
            finished=self.finished,
            requested=None,
            last_run_sequence=self.last_run_sequence,
        )


class Shell:
    """One scheduler. `run` it; the server asks it about runs and wakes it with nothing: requests come through the log."""

    def __init__(self, bus: Bus, artifacts: Artifacts, *, name: str, lease_s: float, reconcile_s: float) -> None:
        """`lease_s`: how long an executor may go unseen. `reconcile_s`: how often every live run is looked at."""
        self._bus = bus
        self._log: Log = bus
        self._artifacts = artifacts
        self._name = name
        self._lease_s = lease_s
        self._reconcile_s = reconcile_s
        self.clock = Clock()
        self.runs: dict[str, RunState] = {}
        self.over: dict[str, Over] = {}
        self.position = 0
        self.caught_up = False
        self.leader = False
        self.halted = ""
        self.executors: dict[str, Beat] = {}
        self._sightings = Sightings(executors={}, since_ns=0, lease_s=lease_s)
        self._awaiting: dict[str, int] = {}
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._dirty: set[str] = set()
        self._published: dict[str, dict[tuple[str, int], float]] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._lead())
            group.create_task(self._watch_executors())
            group.create_task(self._reconcile())

    async def folded(self, position: int, timeout_s: float) -> bool:
        """Wait until everything up to `position` has been folded."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.position >= position)
        except TimeoutError:
            return False
        return True

    def request_of(self, run: str) -> str:
        """The id of the request that submitted a run; empty when there is none."""
        state = self.runs.get(run)
        if state is not None and state.requested is not None:
            return state.requested.request_id
        return self.over[run].request_id if run in self.over else ""

    # Folding

    async def _follow(self) -> None:
        end = (await self._bus.identity()).last
        self.caught_up = self.position >= end
        async for batch in self._bus.follow(self.position):
            touched: set[str] = set()
            for recorded in batch:
                run = await self._fold(recorded)
                if run:
                    touched.add(run)
            self.position = batch[-1].sequence
            self.clock.saw(batch[-1].time_ns)
            if not self.caught_up and self.position >= end:
                self.caught_up = True
                self._sightings.since_ns = self.clock.now_ns()
                touched.update(self.runs)
                log.info("scheduler.caught_up", position=self.position, live_runs=len(self.runs))
            async with self._changed:
                self._changed.notify_all()
            for run in touched:
                self._wake(run)

    async def _fold(self, recorded: Recorded) -> str:
        place: Place | None = None
        try:
            place = parse_subject(recorded.subject)
            entry = decode_entry(recorded.data)
        except UnknownKindError as error:
            self._halt(f"position {recorded.sequence}: {error}")
            return ""
        except WireError as error:
            log.error("scheduler.unreadable_entry", position=recorded.sequence, error=str(error))
            return self._skip(recorded, place)
        run = self.runs.get(place.run)
        over = self.over.get(place.run)
        if run is None and over is not None:
            if place.kind != "request":
                return ""
            run = over.again(place.run)
        folded = evolve(run, await self._fact(recorded, place, entry))
        if folded.alive:
            self.runs[place.run] = folded
        else:
            self._forget(folded)
        return place.run

    def _skip(self, recorded: Recorded, place: Place | None) -> str:
        """An entry that cannot be read still ends its subject."""
        name = recorded.subject.split(".")[2] if recorded.subject.count(".") > 1 else ""
        run = self.runs.get(name)
        over = self.over.get(name)
        if run is None:
            if over is not None and place is not None and place.kind == "run":
                self.over[name] = msgspec.structs.replace(over, last_run_sequence=recorded.sequence)
            return ""
        skip(run, recorded.sequence, place)
        return name

    async def _fact(self, recorded: Recorded, place: Place, entry: Entry) -> Fact:
        spec = None
        for event in entry.events:
            if isinstance(event, RunAccepted):
                spec = await self._spec(event)
        return Fact(recorded.sequence, recorded.time_ns, place, entry, spec)

    async def _spec(self, accepted: RunAccepted) -> RunSpec | None:
        while True:
            try:
                return decode_spec(await self._artifacts.get(accepted.spec, keep=True))
            except BusUnavailableError as error:
                log.warning("scheduler.definition_retry", digest=accepted.spec.digest, error=str(error))
                await asyncio.sleep(0.5)
            except (BusError, ValueError) as error:
                log.error("scheduler.definition_unreadable", digest=accepted.spec.digest, error=str(error))
                return None

    def _forget(self, run: RunState) -> None:
        """A run that has ended and owes nothing leaves memory but for its outcome."""
        before = self.over.get(run.run)
        request_id = before.request_id if before is not None else ""
        if run.requested is not None:
            request_id = run.requested.request_id
        if run.finished is not None:
            self.over[run.run] = Over(request_id, run.finished, run.last_run_sequence)
        self.runs.pop(run.run, None)
        self._awaiting.pop(run.run, None)
        self._published.pop(run.run, None)

    def _halt(self, reason: str) -> None:
        """An entry of a newer version: decide nothing more, for what this version does not know may matter."""
        if not self.halted:
            log.error("scheduler.halted", reason=reason, remedy="upgrade this scheduler")
        self.halted = self.halted or reason
        self.leader = False

    # Deciding

    def _wake(self, run: str) -> None:
        if not (self.leader and self.caught_up) or run not in self.runs:
            return
        self._dirty.add(run)
        if run not in self._driving:
            self._driving[run] = asyncio.create_task(self._drive(run))

    async def _drive(self, run: str) -> None:
        """Append what is due and publish what is outstanding, until nothing is left to do before the log moves on."""
        try:
            while run in self._dirty and self.leader:
                self._dirty.discard(run)
                state = self.runs.get(run)
                if state is None or state.last_sequence < self._awaiting.get(run, 0):
                    continue
                try:
                    decisions = due(state, self.clock.now_ns(), self._sightings)
                    self._publish_soon(state)
                    if decisions:
                        await self._append(state, decisions)
                except RefusedError as error:
                    log.info("scheduler.refused", run=run, error=str(error))
                except BusError as error:
                    log.warning("scheduler.append_unanswered", run=run, error=str(error))
                    await asyncio.sleep(RETRY_S)
                except Exception as error:  # noqa: BLE001 - one run's trouble must not become everybody's
                    await self._give_up(state, error)
                await asyncio.sleep(0)
        finally:
            # At once, not by a callback: a wake-up in between would find a driver that has stopped looking.
            self._driving.pop(run, None)

    async def _give_up(self, state: RunState, error: Exception) -> None:
        """A decision that cannot be taken or written stops its run, with the reason, instead of being tried for ever."""
        log.error("scheduler.decision_failed", run=state.run, exc_info=error)
        reason = f"the scheduler could not decide: {type(error).__name__}: {str(error)[:300]}"
        if state.stopping is not None:
            await asyncio.sleep(RETRY_S)
            return
        try:
            data = encode_entry(self._entry(state, [RunStopping(outcome="failed", reason=reason)]))
            sequence = await self._log.append(run_subject(state.run), data, expect=state.last_run_sequence)
            self._awaiting[state.run] = sequence
        except (BusError, WireError) as failure:
            log.error("scheduler.give_up_failed", run=state.run, error=str(failure))
            await asyncio.sleep(RETRY_S)

    async def _append(self, state: RunState, decisions: list[Decision]) -> None:
        """Closes on their own subjects; then as many run decisions as one entry holds. What is left is derived again."""
        run = state.run
        # What is expected is taken now: by the time an append is under way, more may have been folded.
        closes = [(d, encode_entry(self._entry(state, d.events))) for d in decisions if d.attempt is not None]
        if closes:
            results = await asyncio.gather(*(self._close(run, *close) for close in closes), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, RefusedError):
                    raise result
            return
        if decisions[0].final:
            data = encode_entry(self._entry(state, decisions[0].events))
            self._awaiting[run] = await self._log.append(
                run_subject(run), data, expect=state.last_sequence, over=all_of_run(run)
            )
            return
        events: list[AnyEvent] = []
        size = 0
        for decision in decisions:
            size += len(msgspec.json.encode(decision.events))
            if decision.final or (events and size > ENTRY_BUDGET_BYTES):
                break
            events.extend(decision.events)
        data = encode_entry(self._entry(state, events))
        expect = state.last_run_sequence
        self._awaiting[run] = await self._log.append(run_subject(run), data, expect=expect)

    async def _close(self, run: str, decision: Decision, data: bytes) -> None:
        attempt = decision.attempt
        if attempt is None:
            return
        subject = attempt_subject(run, attempt.scheduled.workstream, attempt.scheduled.attempt)
        sequence = await self._log.append(subject, data, expect=decision.expect)
        self._awaiting[run] = max(sequence, self._awaiting.get(run, 0))
        if attempt.executor:
            await self._bus.say(nudge_subject(attempt.executor), subject.encode())

    def _entry(self, state: RunState, events: list[AnyEvent]) -> Entry:
        return Entry(
            id=uuid.uuid4().hex,
            run=state.run,
            at_ns=time.time_ns(),
            by=f"scheduler:{self._name}",
            events=events,
            seen=self.position,
            cause=state.last_entry,
        )

    def _publish_soon(self, state: RunState) -> None:
        """Publish commands of unclaimed attempts; again after a few seconds, in case the bus has forgotten them."""
        published = self._published.setdefault(state.run, {})
        now = time.monotonic()
        commands = outstanding(state)
        for command in commands:
            key = (command.step.workstream, command.step.attempt)
            if published.get(key, 0.0) <= now:
                published[key] = now + REPUBLISH_S
                task = asyncio.create_task(self._publish(command))
                self._publishing.add(task)
                task.add_done_callback(self._publishing.discard)
        if len(published) > 2 * len(commands) + 64:
            keys = {(c.step.workstream, c.step.attempt) for c in commands}
            self._published[state.run] = {key: at for key, at in published.items() if key in keys}

    async def _publish(self, command: RunStep) -> None:
        step = command.step
        subject = command_subject(step.pool, command.run, step.workstream, step.attempt)
        try:
            await self._log.command(subject, encode_command(command))
        except BusError as error:
            log.warning("scheduler.command_unanswered", subject=subject, error=str(error))

    # Keeping at it

    async def _reconcile(self) -> None:
        revision = self._bus.revision
        while True:
            await asyncio.sleep(self._reconcile_s)
            if revision != self._bus.revision:
                # Commands live in the server's memory: whatever was published may be gone with it.
                revision = self._bus.revision
                self._published.clear()
            if not self._bus.connected:
                self._sightings.since_ns = 0
            elif self._sightings.since_ns == 0:
                self._sightings.since_ns = self.clock.now_ns()
            if self._bus.connected and self.caught_up:
                for run in list(self.runs):
                    self._wake(run)

    async def _lead(self) -> None:
        """Hold the lease, or wait for it. Its loss only stops the trying."""
        revision = 0
        value = self._name.encode()
        interval_s = self._bus.config.lease_ttl_s / 4
        while True:
            if self.halted:
                # The lease runs out, and somebody who can read the log takes over.
                await asyncio.sleep(interval_s)
                continue
            try:
                taken = await self._bus.take_key(LEASES, "scheduler", value, expect=revision)
            except BusError:
                taken = None
            leading = taken is not None and not self.halted
            revision = taken or 0
            if leading != self.leader:
                log.info("scheduler.leading" if leading else "scheduler.standing_by", name=self._name)
                self.leader = leading
                if leading:
                    self._sightings.since_ns = self.clock.now_ns()
                    for run in list(self.runs):
                        self._wake(run)
            await asyncio.sleep(interval_s)

    async def _watch_executors(self) -> None:
        decoder = msgspec.json.Decoder(Beat)
        async for batch in self._bus.follow_keys(EXECUTORS):
            for recorded in batch:
                with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                    self._see(decoder.decode(recorded.data), recorded.time_ns)

    def _see(self, beat: Beat, time_ns: int) -> None:
        self.clock.saw(time_ns)
        before = self._sightings.executors.get(beat.executor)
        anew = before is not None and before.boot != beat.boot
        named = {} if before is None or anew else before.named
        live = dict.fromkeys(beat.attempts, time_ns)
        kept = {key: at for key, at in named.items() if self._is_open(key)}
        self._sightings.executors[beat.executor] = Sighting(boot=beat.boot, seen_ns=time_ns, named=kept | live)
        self.executors[beat.executor] = beat
        if anew:
            for run in list(self.runs):
                self._wake(run)

    def _is_open(self, key: tuple[str, str, int]) -> bool:
        run = self.runs.get(key[0])
        return run is not None and key[1:] in run.open

    async def drain(self) -> None:
        """Decide nothing more; what is being appended is finished first."""
        self.halted = self.halted or "draining"
        self.leader = False
        pending = [*self._driving.values(), *self._publishing]
        if pending:
            await asyncio.wait(pending, timeout=2)
