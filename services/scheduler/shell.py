"""The thin shell around the pure scheduler.

    follow the log → fold → (leader only) append what is due → once it has come back, publish what is outstanding

Safety never rests on leadership: every decision is appended with the sequence the shell has folded, so of two schedulers
that decide at once one is refused, folds what the other wrote, and decides anew. Leadership only keeps them from trying.
After an append nothing more is decided or published for that run until the entry has come back through the log.
A reconcile loop looks at every live run a few times a second, so nothing depends on having noticed something once.

A scheduler that stood still (stopped, starved, swapped out) steps back before it decides anything: what it has not seen in
the meantime proves nothing about executors.
"""

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
import structlog

from services.artifacts import Artifacts
from services.beats import Beat, nudge_subject
from services.bus import EXECUTORS, LEASES, Bus, BusError, BusUnavailableError, Log, Recorded, RefusedError
from services.commands import RunStep
from services.events import (
    AnyEvent,
    DeliveryRequested,
    RequestAnswered,
    RevertFinished,
    RollbackFinished,
    RollbackRequested,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunStopping,
    StepCancelled,
    StepLost,
    stands_on,
)
from services.metrics import Exposition
from services.scheduler import fleet as fleets
from services.scheduler.appends import Append, appends, fitting, may_decide
from services.scheduler.decide import asking, due, outstanding, wanting
from services.scheduler.fleet import FLEET, BreakerLimits, ExecutorLife, Fleet, Seen
from services.scheduler.grants import SharedLimits
from services.scheduler.metrics import SchedulerMetrics
from services.scheduler.routing import Sighting, Sightings
from services.scheduler.snapshots import SPECS_AT_ONCE, Folded, Snapshots, id_of
from services.scheduler.state import ANSWERS_KEPT, Fact, Over, RunState, evolve, is_over, skip
from services.scheduler.steps import GROUP_MAX, Decision
from services.spec import RunSpec, decode_spec
from services.telemetry import about
from services.trace import of_attempt, of_run
from services.wire import (
    Entry,
    Place,
    UnknownKindError,
    WireError,
    all_of_run,
    command_subject,
    decode_entry,
    encode_command,
    encode_entry,
    parse_subject,
    run_subject,
)

log = structlog.get_logger()

RETRY_S = 0.5
STALL_S = 1.0
"""A scheduler whose own loop stood still for that long has not watched executors meanwhile."""

TICK_S = 0.1
FLEET_REST = 4
"""Deciding across runs takes no more than a fifth of the time: so many times as long as it took, it rests,"""

FLEET_REST_S = 0.5
"""but no longer than this, seconds."""

LOOK_S = 1.0
REPUBLISH_S = 5.0
"""A command nobody has claimed is offered again after this long; harmless, for its subject takes only one."""


class Clock:
    """Log time: the newest folded timestamp plus the local monotonic time since. Never goes back."""

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """`monotonic_ns` is the only clock the scheduler reads."""
        self._monotonic_ns = monotonic_ns
        self._base_ns = 0
        self._at_ns = monotonic_ns()

    def saw(self, time_ns: int) -> int:
        """A message of the log carries this time. By how much the clock jumped: that time was not lived through."""
        jump_ns = time_ns - self.now_ns()
        if jump_ns <= 0 and self._base_ns:
            return 0
        self._base_ns, self._at_ns = time_ns, self._monotonic_ns()
        return jump_ns

    def now_ns(self) -> int:
        """Log time now, in nanoseconds."""
        return self._base_ns + (self._monotonic_ns() - self._at_ns)


class Shell:
    """One scheduler. `run` it; the server asks it about runs and wakes it with nothing: requests come through the log."""

    def __init__(
        self,
        bus: Bus,
        artifacts: Artifacts,
        *,
        name: str,
        lease_s: float,
        reconcile_s: float,
        limits: BreakerLimits | None = None,
        shared: SharedLimits | None = None,
        snapshot_entries: int = 0,
        metrics: SchedulerMetrics | None = None,
    ) -> None:
        """`lease_s`: how long an executor may go unseen. `reconcile_s`: how often every live run is looked at.

        `limits`: when the breakers of tools open. `shared`: what all runs may draw together. `snapshot_entries`: a fold snapshot every so many entries, 0 for none.
        `metrics` are told what is folded and appended; by default nobody reads them.
        """
        self._bus = bus
        self._log: Log = bus
        self._artifacts = artifacts
        self.name = name
        self._lease_s = lease_s
        self._reconcile_s = reconcile_s
        self.clock = Clock()
        self.runs: dict[str, RunState] = {}
        self.over: dict[str, Over] = {}
        self.position = 0
        self.caught_up = False
        self._ahead: dict[str, RunSpec | None] = {}
        self.leader = False
        self.halted = ""
        self.fleet = Fleet()
        self._limits = limits or BreakerLimits()
        self._shared = shared or SharedLimits()
        self._snapshots = Snapshots(bus, artifacts, entries=snapshot_entries)
        self._metrics = metrics or SchedulerMetrics(Exposition("scheduler"))
        self._live_after = 0
        self._beats: dict[str, Beat] = {}
        self._ticked = time.monotonic()
        self._sightings = Sightings(executors={}, since_ns=0, lease_s=lease_s)
        self._awaiting: dict[str, int] = {}
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._dirty: set[str] = set()
        self._published: dict[str, dict[tuple[str, int], float]] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._last_answers: OrderedDict[tuple[str, str], RequestAnswered] = OrderedDict()
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Run until cancelled. Raises services.scheduler.snapshots.SnapshotMismatchError."""
        await self._restore()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._lead())
            group.create_task(self._watch_executors())
            group.create_task(self._reconcile())
            group.create_task(self._tick())

    @property
    def now_ns(self) -> int:
        """Log time now."""
        return self.clock.now_ns()

    @property
    def snapshot_ns(self) -> int:
        """The log time of the newest fold snapshot that was written or restored here, 0 for none."""
        return self._snapshots.time_ns

    @property
    def spawning(self) -> list[ExecutorLife]:
        """Executors that beat and have not been ready since their start; nothing is recorded of them before they are."""
        silent_ns = self.clock.now_ns() - int(3 * self._lease_s * 1e9)
        return [
            ExecutorLife(
                executor=name,
                boot=beat.boot,
                pool=beat.pool,
                slots=beat.slots,
                state="spawning",
                since_ns=self._sightings.executors[name].seen_ns,
            )
            for name, beat in self._beats.items()
            if beat.state == "spawning" and self._sightings.executors[name].seen_ns > silent_ns
        ]

    @property
    def executors(self) -> dict[str, ExecutorLife]:
        """Every executor as it was recorded, busy or idle by its newest beat."""
        lives = dict(self.fleet.executors)
        for name, life in lives.items():
            beat = self._beats.get(name)
            if beat is not None and beat.boot == life.boot and life.state == "idle" and beat.state == "busy":
                lives[name] = msgspec.structs.replace(life, state="busy")
        return lives

    async def leads(self) -> str | None:
        """The name of whoever holds the lease of leadership, "" for nobody; None when the bus does not tell within LOOK_S."""
        if self.leader:
            return self.name
        try:
            async with asyncio.timeout(LOOK_S):
                held = await self._bus.get_key(LEASES, "scheduler")
        except (BusError, TimeoutError):
            return None
        return held.data.decode("utf-8", "replace") if held is not None else ""

    def beat_of(self, executor: str) -> Beat | None:
        """What an executor has said of itself last; None of one that has not beaten."""
        return self._beats.get(executor)

    def clock_ahead_ns(self, executor: str) -> int:
        """How far an executor's clock was ahead of the bus's at its newest beat; 0 when it does not tell."""
        beat, seen = self._beats.get(executor), self._sightings.executors.get(executor)
        return beat.at_ns - seen.seen_ns if beat is not None and seen is not None and beat.at_ns else 0

    async def answer(self, run: str, request_id: str, timeout_s: float) -> RequestAnswered | None:
        """The answer to a request of a run (or of the fleet), once it is folded; None when there is none in time."""

        def found() -> RequestAnswered | None:
            if run == FLEET:
                return self.fleet.answers.get(request_id)
            state = self.runs.get(run)
            return state.answers.get(request_id) if state is not None else self._last_answers.get((run, request_id))

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: found() is not None)
        except TimeoutError:
            return None
        return found()

    async def recall(self, run: str, before: int = 0) -> RunState | None:
        """A run folded again from the log, as far as the entry `before` (0: to the log's end as of now)."""
        state: RunState | None = None
        async for batch in self._bus.replay(all_of_run(run)):
            for recorded in batch:
                if before and recorded.sequence >= before:
                    return state
                place = None
                try:
                    place = parse_subject(recorded.subject)
                    entry = decode_entry(recorded.data)
                except WireError:
                    if state is not None:
                        skip(state, recorded.sequence, place)
                    continue
                state = evolve(state, await self._fact(recorded, place, entry))
        return state

    async def folded(self, position: int, timeout_s: float) -> bool:
        """Wait until everything up to `position` has been folded."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.position >= position)
        except TimeoutError:
            return False
        return True

    # Folding

    async def _restore(self) -> None:
        """Go on from the newest fold snapshot, if there is one that can be used."""
        restored = await self._snapshots.restore()
        if restored is None:
            return
        self.runs, self.over, self.fleet = restored.folded.runs, restored.folded.over, restored.folded.fleet
        self._last_answers = OrderedDict(((run, request), answer) for run, request, answer in restored.folded.answers)
        self.position = restored.position
        self.clock.saw(restored.time_ns)
        log.info("scheduler.restored", position=self.position, live_runs=len(self.runs), ended_runs=len(self.over))

    def _snapshot_soon(self, newest: Recorded) -> None:
        if self.leader and self.caught_up and not self.halted:
            folded = Folded(
                runs=self.runs,
                over=self.over,
                fleet=self.fleet,
                answers=[(run, request, answer) for (run, request), answer in self._last_answers.items()],
            )
            self._snapshots.soon(newest.sequence, newest.time_ns, id_of(newest.data), folded)

    async def _follow(self) -> None:
        end = self._live_after = (await self._bus.identity()).last
        self.caught_up = self.position >= end
        async for batch in self._bus.follow(self.position):
            touched: set[str] = set()
            if not self.caught_up:
                self._ahead = await self._fetched(batch)
            for recorded in batch:
                run = await self._fold(recorded)
                if run:
                    touched.add(run)
            self.position = batch[-1].sequence
            self._saw(batch[-1].time_ns)
            if not self.caught_up and self.position >= end:
                self.caught_up = True
                self._sightings.since_ns = self.clock.now_ns()
                touched.update(self.runs)
                touched.add(FLEET)
                log.info("scheduler.caught_up", position=self.position, live_runs=len(self.runs))
            self._snapshot_soon(batch[-1])
            async with self._changed:
                self._changed.notify_all()
            if FLEET in touched:
                touched.update(self.runs)
            if self.fleet.shared.is_limited:
                touched.add(FLEET)  # somebody may ask for his share, or have settled
            for run in touched:
                self._wake(run)

    async def _fold(self, recorded: Recorded) -> str:
        place: Place | None = None
        try:
            place = parse_subject(recorded.subject)
            entry = decode_entry(recorded.data)
        except WireError as error:
            # Executors write on the subjects of attempts only, and one that was stolen must not end the deciding of all.
            if isinstance(error, UnknownKindError) and (place is None or place.kind not in {"attempt", "late"}):
                with self._about(place):
                    self._halt(f"position {recorded.sequence}: {error}")
                return ""
            with self._about(place):
                log.error("scheduler.unreadable_entry", position=recorded.sequence, error=str(error))
            if recorded.sequence > self._live_after:
                self._metrics.unreadable()
            return self._skip(recorded, place)
        told = [event for event in entry.events if stands_on(event) == place.kind]
        run = self.runs.get(place.run)
        attempt = run.open.get((place.workstream, place.attempt)) if run is not None else None
        attempt = attempt if place.kind == "attempt" else None
        scheduled = attempt.scheduled if attempt is not None else None
        if recorded.sequence > self._live_after:
            self._metrics.folded(place, entry, recorded.time_ns, attempt, run)
        fleets.evolve(self.fleet, recorded.sequence, recorded.time_ns, place, entry, scheduled)
        if place.run == FLEET:
            return FLEET
        over = self.over.get(place.run)
        if run is None and over is not None:
            if place.kind != "request":
                return ""
            if any(isinstance(event, RollbackRequested | DeliveryRequested) for event in told):
                run = await self.recall(place.run, before=recorded.sequence)
            else:
                run = over.again(place.run)
        elif run is None and place.kind in {"attempt", "late"}:
            return ""  # of a run that nobody has asked for
        folded = evolve(run, await self._fact(recorded, place, entry))
        for event in told:
            if isinstance(event, RequestAnswered):
                self._last_answers[place.run, event.request_id] = event
                while len(self._last_answers) > ANSWERS_KEPT:
                    self._last_answers.popitem(last=False)
        if folded.alive:
            self.runs[place.run] = folded
        else:
            self._forget(folded)
        return place.run

    def _skip(self, recorded: Recorded, place: Place | None) -> str:
        """An entry that cannot be read still ends its subject."""
        name = recorded.subject.split(".")[2] if recorded.subject.count(".") > 1 else ""
        if name == FLEET:
            fleets.skip(self.fleet, recorded.sequence, place)
            return FLEET
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
            if isinstance(event, RunAccepted | RunAmended) and place.kind == "run":
                with self._about(Place("run", place.run)):
                    spec = await self._spec(event)
        return Fact(recorded.sequence, recorded.time_ns, place, entry, spec)

    async def _fetched(self, batch: Sequence[Recorded]) -> dict[str, RunSpec | None]:
        """The definitions that a batch names, several at a time: one after another, they are what a long start waits for."""
        named: dict[str, tuple[str, RunAccepted | RunAmended]] = {}
        for recorded in batch:
            defines = b'"run_accepted"' in recorded.data or b'"run_amended"' in recorded.data
            if defines and recorded.subject.endswith(".run"):
                with contextlib.suppress(WireError):  # folding says what is wrong with it
                    entry = decode_entry(recorded.data)
                    for event in entry.events:
                        if isinstance(event, RunAccepted | RunAmended):
                            named[event.spec.digest] = (entry.run, event)
        limit = asyncio.Semaphore(SPECS_AT_ONCE)

        async def fetch(run: str, event: RunAccepted | RunAmended) -> RunSpec | None:
            async with limit:
                with self._about(Place("run", run)):
                    return await self._spec(event)

        specs = await asyncio.gather(*(fetch(*one) for one in named.values()))
        return dict(zip(named, specs, strict=True))

    async def _spec(self, accepted: RunAccepted | RunAmended) -> RunSpec | None:
        known = self._ahead.pop(accepted.spec.digest, None)
        if known is not None:
            return known
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
            self.over[run.run] = Over(request_id, run.finished, run.last_run_sequence, run.answers, run.trace)
        for attempt in run.open.values():
            fleets.left(self.fleet, run.run, attempt.scheduled)
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
        if not (self.leader and self.caught_up) or (run not in self.runs and run != FLEET):
            return
        self._dirty.add(run)
        if run not in self._driving:
            driving = self._drive_fleet() if run == FLEET else self._drive(run)
            self._driving[run] = asyncio.create_task(driving)

    async def _drive(self, run: str) -> None:
        """Append what is due and publish what is outstanding, until nothing is left to do before the log moves on."""
        try:
            with self._about(Place("run", run)):
                await self._decide(run)
        finally:
            # At once, not by a callback: a wake-up in between would find a driver that has stopped looking.
            self._driving.pop(run, None)

    async def _decide(self, run: str) -> None:
        while run in self._dirty and self.leader:
            self._dirty.discard(run)
            state = self.runs.get(run)
            if state is None or not may_decide(state, self._awaiting.get(run, 0)):
                continue
            if self._stood_still():
                return
            try:
                decisions = due(state, self.clock.now_ns(), self._sightings, self.fleet)
                self._publish_soon(state)
                if decisions:
                    await self._append(state, decisions)
            except RefusedError as error:
                log.info("scheduler.refused", error=str(error))
            except BusError as error:
                log.warning("scheduler.append_unanswered", error=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - one run's trouble must not become everybody's
                await self._give_up(state, error)
            await asyncio.sleep(0)

    def _about(self, place: Place | None) -> contextlib.AbstractContextManager[object]:
        """Every line in this context is about what stands there."""
        if place is None or place.run == FLEET:
            return about(run=FLEET if place is not None else "")
        known: RunState | Over | None = self.runs.get(place.run) or self.over.get(place.run)
        trace = of_run(place.run, known.trace if known is not None else "")
        if place.workstream:
            trace = of_attempt(trace, (place.run, place.workstream, place.attempt))
        return about(run=place.run, workstream=place.workstream, attempt=place.attempt, trace=trace)

    async def _drive_fleet(self) -> None:
        """Append what is due across runs, until nothing is left to do before the log moves on."""
        try:
            while FLEET in self._dirty and self.leader:
                self._dirty.discard(FLEET)
                if self.fleet.last_sequence < self._awaiting.get(FLEET, 0) or self._stood_still():
                    continue
                began, decided_s = time.monotonic(), 0.0
                try:
                    events = fitting(self._due_across_runs())
                    decided_s = time.monotonic() - began
                    if events:
                        state = RunState(run=FLEET, last_entry=self.fleet.last_entry)
                        data = encode_entry(self._entry(state, events))
                        with self._metrics.appending(len(events)):
                            self._awaiting[FLEET] = await self._log.append(
                                run_subject(FLEET), data, expect=self.fleet.last_run_sequence
                            )
                except RefusedError as error:
                    log.info("scheduler.refused", run=FLEET, error=str(error))
                except (BusError, WireError) as error:
                    log.warning("scheduler.append_unanswered", run=FLEET, error=str(error))
                    await asyncio.sleep(RETRY_S)
                await asyncio.sleep(min(decided_s * FLEET_REST, FLEET_REST_S))
        finally:
            self._driving.pop(FLEET, None)

    def _due_across_runs(self) -> list[AnyEvent]:
        now_ns = self.clock.now_ns()
        since_ns = self._sightings.since_ns
        watched_s = (now_ns - since_ns) / 1e9 if since_ns else 0.0
        seen = [
            Seen(
                executor=name,
                boot=sighting.boot,
                pool=self._beats[name].pool,
                slots=self._beats[name].slots,
                state=self._beats[name].state,
                silent_s=min((now_ns - sighting.seen_ns) / 1e9, watched_s),
            )
            for name, sighting in self._sightings.executors.items()
        ]
        probing = any(breaker.state == "half_open" for breaker in self.fleet.breakers.values())
        wants = [want for run in self.runs.values() if run.delayed for want in wanting(run)] if probing else []
        limited = self.fleet.shared.is_limited
        return fleets.due(
            self.fleet,
            now_ns,
            self._limits,
            wants=wants,
            seen=seen,
            watched_s=watched_s,
            lease_s=self._lease_s,
            shared=self._shared,
            asks=asking(self.runs.values(), self.fleet) if limited else [],
            live={name for name, run in self.runs.items() if run.finished is None}
            if self.fleet.shared.grants
            else None,
        )

    async def _give_up(self, state: RunState, error: Exception) -> None:
        """A decision that cannot be taken or written stops its run, with the reason, instead of being tried for ever."""
        log.error("scheduler.decision_failed", exc_info=error)
        reason = f"the scheduler could not decide: {type(error).__name__}: {str(error)[:300]}"
        end: AnyEvent = RunStopping(outcome="failed", reason=reason)
        if state.rollback is not None:
            order = state.rollback.order
            left = [name for name in order if state.workstreams[name].state != "compensated"]
            end = RollbackFinished(
                state="compensation_failed",
                compensated=len(order) - len(left),
                failed=len(left),
                without_actions=state.rollback.without_actions,
                remaining=left[:GROUP_MAX],
                reason=reason,
            )
        elif state.reverting is not None:
            end = RevertFinished(state="refused", workstreams=state.reverting.order, reason=reason)
        elif state.delivering is not None and is_over(state):
            end = RequestAnswered(request_id=state.delivering.request_id, answer="done", ok=False, reason=reason)
        elif state.stopping is not None:
            await asyncio.sleep(RETRY_S)
            return
        try:
            data = encode_entry(self._entry(state, [end]))
            with self._metrics.appending(1):
                sequence = await self._log.append(run_subject(state.run), data, expect=state.last_run_sequence)
            self._awaiting[state.run] = sequence
        except (BusError, WireError) as failure:
            log.error("scheduler.give_up_failed", error=str(failure))
            await asyncio.sleep(RETRY_S)

    async def _append(self, state: RunState, decisions: list[Decision]) -> None:
        """Append what is next of these decisions; what is left is derived again."""
        # What is expected is taken now: by the time an append is under way, more may have been folded.
        wanted = [(one, encode_entry(self._entry(state, one.events))) for one in appends(state, decisions)]
        results = await asyncio.gather(*(self._append_one(state.run, *one) for one in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not (isinstance(result, RefusedError) and len(wanted) > 1):
                raise result

    async def _append_one(self, run: str, append: Append, data: bytes) -> None:
        with self._metrics.appending(len(append.events)):
            sequence = await self._log.append(append.subject, data, expect=append.expect, over=append.over)
        self._awaiting[run] = max(sequence, self._awaiting.get(run, 0))
        self._tell(append)
        if append.executor:
            await self._bus.say(nudge_subject(append.pool, append.executor), append.subject.encode())

    def _tell(self, append: Append) -> None:
        """What of a decision the log of this process tells: the ends of runs, and of attempts that no executor ends."""
        for event in append.events:
            match event:
                case RunAccepted():
                    log.info("scheduler.run_accepted", workstreams=event.workstreams)
                case RunFinished():
                    log.info("scheduler.run_finished", state=event.state, reason=event.reason)
                case StepCancelled() | StepLost():
                    with self._about(parse_subject(append.subject)):
                        outcome = "lost" if isinstance(event, StepLost) else "cancelled"
                        log.info("scheduler.attempt_closed", outcome=outcome, reason=event.reason)
                case _:
                    pass

    def _entry(self, state: RunState, events: list[AnyEvent]) -> Entry:
        return Entry(
            id=uuid.uuid4().hex,
            run=state.run,
            at_ns=time.time_ns(),
            by=f"scheduler:{self.name}",
            events=events,
            seen=self.position,
            cause=state.last_entry,
            trace=state.trace,
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
                task = asyncio.create_task(self._publish(msgspec.structs.replace(command, trace=state.trace)))
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
            with self._about(Place("attempt", command.run, step.workstream, step.attempt)):
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
                self._wake(FLEET)
                for run in list(self.runs):
                    self._wake(run)

    async def _tick(self) -> None:
        """Notice when this process stood still."""
        while True:
            self._stood_still()
            self._ticked = time.monotonic()
            await asyncio.sleep(TICK_S)

    def _stood_still(self) -> bool:
        """Whether the loop has not moved for a while: then nothing is decided before the lease is held anew."""
        still_s = time.monotonic() - self._ticked
        if still_s < STALL_S:
            return False
        log.warning("scheduler.stood_still", seconds=round(still_s, 1))
        self._metrics.stood_still()
        self._ticked = time.monotonic()
        self._sightings.since_ns = self.clock.now_ns()
        if self.leader:
            self._metrics.leads(False)
        self.leader = False
        return True

    async def _lead(self) -> None:
        """Hold the lease, or wait for it. Its loss only stops the trying."""
        revision = 0
        value = self.name.encode()
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
                log.info("scheduler.leading" if leading else "scheduler.standing_by", name=self.name)
                self.leader = leading
                self._metrics.leads(leading)
                if leading:
                    self._sightings.since_ns = self.clock.now_ns()
                    for run in (FLEET, *self.runs):
                        self._wake(run)
            await asyncio.sleep(interval_s)

    async def _watch_executors(self) -> None:
        decoder = msgspec.json.Decoder(Beat)
        async for batch in self._bus.follow_keys(EXECUTORS):
            for recorded in batch:
                with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                    beat = decoder.decode(recorded.data)
                    if self._is_own(beat, recorded):
                        self._see(beat, recorded.time_ns)

    def _is_own(self, beat: Beat, recorded: Recorded) -> bool:
        """Whether a beat stands where only the executor's own pool writes, and nobody of another pool has its name."""
        before = self._sightings.executors.get(beat.executor)
        own = recorded.subject == f"$KV.{EXECUTORS}.{beat.pool}.{beat.executor}"
        silent_ns = recorded.time_ns - int(self._sightings.lease_s * 1e9)
        taken = before is not None and before.pool != beat.pool and not before.gone and before.seen_ns > silent_ns
        if not own or taken:
            reason = "an executor of another pool has its name" if own else "it does not stand on its own key"
            log.warning("scheduler.beat_ignored", executor=beat.executor, key=recorded.subject, reason=reason)
        return own and not taken

    def _saw(self, time_ns: int) -> None:
        """Log time that jumps was not watched: what happened meanwhile proves nothing about executors."""
        jump_ns = self.clock.saw(time_ns)
        if self._sightings.since_ns:
            self._sightings.since_ns = min(self._sightings.since_ns + jump_ns, time_ns)

    def _see(self, beat: Beat, time_ns: int) -> None:
        self._saw(time_ns)
        before = self._sightings.executors.get(beat.executor)
        anew = before is not None and before.boot != beat.boot
        named = {} if before is None or anew else before.named
        live = dict.fromkeys(beat.attempts, time_ns)
        kept = {key: at for key, at in named.items() if self._is_open(key)}
        gone = beat.state == "terminated"
        ended = gone and (before is None or not before.gone)
        self._sightings.executors[beat.executor] = Sighting(
            boot=beat.boot,
            seen_ns=time_ns,
            gone=gone,
            named=kept | live,
            pool=beat.pool,
            serves=beat.state in {"idle", "busy"},
            missing=beat.missing,
        )
        self._beats[beat.executor] = beat
        if anew or ended:
            for run in (FLEET, *self.runs):
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
        await self._snapshots.close()
