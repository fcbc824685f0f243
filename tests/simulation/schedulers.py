"""The scheduler's shell, modelled: what services/scheduler/shell.py does, step by step, around the real pure functions.

It also knows what the real one cannot: what executors really do, and since when itself it has been running, connected and
awake. By that truth each of its StepLost is judged when it is decided.
"""

import functools
from typing import Any

import msgspec

from services.events import (
    AnyEvent,
    RequestAnswered,
    RollbackRequested,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunStopping,
    StepLost,
)
from services.scheduler import fleet as fleets
from services.scheduler.appends import Append, appends, fitting, may_decide
from services.scheduler.decide import asking, due, outstanding, wanting
from services.scheduler.fleet import FLEET, BreakerLimits, Fleet, Seen
from services.scheduler.grants import SharedLimits
from services.scheduler.routing import Sighting, Sightings
from services.scheduler.state import Fact, RunState, evolve, skip
from services.scheduler.steps import Decision
from services.spec import RunSpec
from services.wire import Entry, Place, Recorded, all_of_run, command_subject, parse_subject, run_subject
from tests.simulation.broker import Answer, Broker
from tests.simulation.clockwork import SECOND_NS, Clockwork, Process

_DEFINING = (RunAccepted, RunAmended)
_SERVING = frozenset({"idle", "busy"})

RETRY_S = 0.5
STALL_S = 1.0
REPUBLISH_S = 5.0
UNDER_WAY_S = 0.02
"""Longer than a beat takes to a scheduler that is not slow."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How schedulers are set up in a run."""

    lease_s: float
    reconcile_s: float
    lease_ttl_s: float
    limits: BreakerLimits
    shared: SharedLimits = SharedLimits()
    crash: float = 0.0
    """How likely each named point is the last one of a process."""


class Over(msgspec.Struct, frozen=True):
    finished: RunFinished
    last_run_sequence: int
    answers: dict[str, RequestAnswered]


class World(msgspec.Struct):
    """What all processes of a run share besides the bus: definitions by digest, findings."""

    specs: dict[str, RunSpec] = {}
    findings: list[str] = []
    executors: dict[str, Any] = {}
    offered: set[tuple[str, str, int]] = set()
    """Attempts whose command was published at least once."""
    false_losses: dict[str, str] = {}
    """What is wrong with a StepLost, by the id of its entry."""


class Scheduler(Process):
    """One scheduler of the simulation."""

    __slots__ = (
        "_base_at_ns",
        "_base_ns",
        "_boots",
        "_delivering",
        "_end",
        "_inbox",
        "_quickening",
        "_revision",
        "_seen_revision",
        "_stalled_ns",
        "awaiting",
        "beats",
        "broker",
        "caught_up",
        "dirty",
        "driving",
        "fleet",
        "good_since_ns",
        "leader",
        "over",
        "position",
        "published",
        "runs",
        "settings",
        "sightings",
        "slow",
        "world",
    )

    def __init__(self, clockwork: Clockwork, broker: Broker, world: World, settings: Settings, name: str) -> None:
        super().__init__(clockwork, name)
        self.broker = broker
        self.world = world
        self.settings = settings
        self.slow = self._quickening = False
        broker.followers.append(self)
        self._boots = 0
        self._reset()

    def _reset(self) -> None:
        self.runs: dict[str, RunState] = {}
        self.over: dict[str, Over] = {}
        self.fleet = Fleet()
        self.position = 0
        self.caught_up = False
        self.leader = False
        self.awaiting: dict[str, int] = {}
        self.driving: set[str] = set()
        self.dirty: set[str] = set()
        self.published: dict[str, dict[tuple[str, int], int]] = {}
        self.sightings = Sightings(executors={}, since_ns=0, lease_s=self.settings.lease_s)
        self.beats: dict[str, Any] = {}
        self._inbox: list[tuple[int, Any]] = []
        self._delivering = False
        self._base_ns = 0
        self._base_at_ns = self.monotonic_ns()
        self._stalled_ns = 0
        self._revision = 0
        self._seen_revision = self.revision
        self.good_since_ns = self.clockwork.now_ns
        self._end = 0

    def start(self) -> None:
        self._boots += 1
        self.alive = True
        self._reset()
        self._end = len(self.broker.log)
        self.caught_up = self._end == 0
        self._inbox.extend(self.broker.beats.values())
        self._deliver_later()
        self.later(self.clockwork.random.random() * 0.1, self._lead)
        self.later(self.settings.reconcile_s, self._reconcile)

    # Time

    def saw(self, time_ns: int) -> None:
        """Log time that jumps was not watched: what happened meanwhile proves nothing about executors."""
        now_ns = self.clockwork.now_ns - self._suspended_ns
        jump_ns = time_ns - (self._base_ns + now_ns - self._base_at_ns)
        if jump_ns > 0 or self._base_ns == 0:
            self._base_ns, self._base_at_ns = time_ns, now_ns
            if self.sightings.since_ns:
                self.sightings.since_ns = min(self.sightings.since_ns + jump_ns, time_ns)

    def log_time_ns(self) -> int:
        return self._base_ns + self.monotonic_ns() - self._base_at_ns

    def thawed(self, suspended: bool) -> None:
        if not suspended:
            if self.clockwork.now_ns - self._frozen_at_ns >= STALL_S * SECOND_NS:
                self.good_since_ns = self.clockwork.now_ns
            self._stalled_ns = self._frozen_at_ns - self._suspended_ns
            self.later(0.0, self._tick)
        self._deliver_later()

    def joined(self) -> None:
        if self.clockwork.now_ns - self._cut_at_ns > self.settings.reconcile_s * SECOND_NS:
            self.good_since_ns = self.clockwork.now_ns
        self._inbox.extend(self.broker.beats.values())
        self._deliver_later()

    def slowed(self, duration_s: float) -> None:
        """What it is sent reaches it late, for a while."""
        self.slow = True
        self._quickening = False
        self.clockwork.after(duration_s, self._quick)

    def _quick(self) -> None:
        """What was late has arrived."""
        self._quickening = True
        if self._delivering:
            self.clockwork.after(0.5, self._quick)
            return
        self.slow = False

    def _tick(self) -> None:
        self._stood_still()

    def _stood_still(self) -> bool:
        if not self._stalled_ns:
            return False
        still_ns = self.monotonic_ns() - self._stalled_ns
        self._stalled_ns = 0
        if still_ns < STALL_S * SECOND_NS:
            return False
        self.sightings.since_ns = self.log_time_ns()
        self.leader = False
        return True

    # Folding

    def grown(self) -> None:
        if self.alive and not self._delivering and self.connected:
            self._deliver_later()

    def beaten(self, time_ns: int, beat: Any) -> None:
        if self.alive and self.connected:
            self._inbox.append((time_ns, beat))
            if not self._delivering:
                self._deliver_later()

    def _deliver_later(self) -> None:
        if self._delivering or not self.connected:
            return
        self._delivering = True
        clockwork = self.clockwork
        draw = clockwork.draw()
        delay_s = 1.0 + draw * 9.0 if self.slow and not self._quickening else 0.0005 + draw * 0.002
        clockwork.after_in(delay_s, self, self.epoch, self._deliver, ())

    def _deliver(self) -> None:
        self._delivering = False
        broker = self.broker
        if not self.connected or broker.down:
            return
        if self._inbox and self.clockwork.draw() < 0.5:
            self._see_all()
        if self.position < len(broker.log):
            self._follow()
        if self._inbox:
            self._see_all()
        if self._inbox or self.position < len(broker.log):
            self._deliver_later()

    def _follow(self) -> None:
        log = self.broker.log
        end = len(log)
        if self.clockwork.faulty and end - self.position > 1:
            end = self.clockwork.random.randint(self.position + 1, end)
        touched: set[str] = set()
        entries = self.broker.entries
        for at in range(self.position, end):
            touched.add(self._fold(log[at], entries[at]))
        self.position = end
        self.saw(log[end - 1].time_ns)
        if not self.caught_up and self.position >= self._end:
            self.caught_up = True
            self.sightings.since_ns = self.log_time_ns()
            self.good_since_ns = max(self.good_since_ns, self.clockwork.now_ns)
            touched.update(self.runs)
            touched.add(FLEET)
        if FLEET in touched:
            touched.update(self.runs)
        if self.settings.crash and self.clockwork.chance(self.settings.crash, "scheduler crash: folded, not appended"):
            self.die()
            return
        if self.fleet.shared.is_limited:
            touched.add(FLEET)
        if self.leader:
            for run in sorted(touched):
                self.wake(run)

    def _fold(self, recorded: Recorded, entry: Entry) -> str:
        place = parse_subject(recorded.subject)
        name = place.run
        if not entry.id:
            return self._skip(recorded, place)
        run = self.runs.get(name)
        attempt = run.open.get((place.workstream, place.attempt)) if run is not None else None
        scheduled = attempt.scheduled if attempt is not None and place.kind == "attempt" else None
        fleets.evolve(self.fleet, recorded.sequence, recorded.time_ns, place, entry, scheduled)
        if name == FLEET:
            return FLEET
        if run is None and (over := self.over.get(name)) is not None:
            if place.kind != "request":
                return ""
            if any(isinstance(event, RollbackRequested) for event in entry.events):
                run = self.recall(name, recorded.sequence)
            else:
                run = RunState(
                    run=name,
                    status=over.finished.state,
                    finished=over.finished,
                    last_run_sequence=over.last_run_sequence,
                    answers=dict(over.answers),
                )
        folded = evolve(run, self._fact(recorded, place, entry))
        if folded.alive:
            self.runs[name] = folded
        else:
            if folded.finished is not None:
                self.over[name] = Over(folded.finished, folded.last_run_sequence, folded.answers)
            self.runs.pop(name, None)
            self.awaiting.pop(name, None)
            self.published.pop(name, None)
        return name

    def _skip(self, recorded: Recorded, place: Place) -> str:
        """An entry that cannot be read still ends its subject."""
        name = place.run
        if name == FLEET:
            fleets.skip(self.fleet, recorded.sequence, place)
            return FLEET
        run, over = self.runs.get(name), self.over.get(name)
        if run is None:
            if over is not None and place.kind == "run":
                self.over[name] = msgspec.structs.replace(over, last_run_sequence=recorded.sequence)
            return ""
        skip(run, recorded.sequence, place)
        return name

    def _fact(self, recorded: Recorded, place: Place, entry: Entry) -> Fact:
        spec = None
        if place.kind == "run":
            for event in entry.events:
                if isinstance(event, _DEFINING):
                    spec = self.world.specs.get(event.spec.digest)
        return Fact(recorded.sequence, recorded.time_ns, place, entry, spec)

    def recall(self, run: str, before: int) -> RunState | None:
        state: RunState | None = None
        for recorded, entry in zip(self.broker.log[: before - 1], self.broker.entries, strict=False):
            place = parse_subject(recorded.subject)
            if place.run != run:
                continue
            if entry.id:
                state = evolve(state, self._fact(recorded, place, entry))
            elif state is not None:
                skip(state, recorded.sequence, place)
        return state

    def _see_all(self) -> None:
        inbox, self._inbox = self._inbox, []
        if len(inbox) > 1 and self.clockwork.faulty:
            some = self.clockwork.random.randint(1, len(inbox))
            inbox, self._inbox = inbox[:some], inbox[some:]
        for time_ns, beat in inbox:
            self._see(beat, time_ns)

    def _see(self, beat: Any, time_ns: int) -> None:
        self.saw(time_ns)
        name = beat.executor
        sighting = self.sightings.executors.get(name)
        anew = ended = False
        if sighting is None or beat is not self.beats[name]:  # else it says what it said before
            anew = sighting is not None and sighting.boot != beat.boot
            gone = beat.state == "terminated"
            ended = gone and (sighting is None or not sighting.gone)
            if sighting is None or anew:
                sighting = self.sightings.executors[name] = Sighting(boot=beat.boot, seen_ns=time_ns)
            sighting.gone, sighting.missing = gone, beat.missing
            sighting.pool, sighting.serves = beat.pool, beat.state in _SERVING
            self.beats[name] = beat
        sighting.seen_ns = time_ns
        if sighting.named:
            sighting.named = {key: at for key, at in sighting.named.items() if self._is_open(key)}
        for key in beat.attempts:
            sighting.named[key] = time_ns
        if anew or ended:
            for run in (FLEET, *self.runs):
                self.wake(run)

    def _is_open(self, key: tuple[str, str, int]) -> bool:
        run = self.runs.get(key[0])
        return run is not None and key[1:] in run.open

    # Deciding

    def wake(self, run: str) -> None:
        if not (self.leader and self.caught_up) or (run not in self.runs and run != FLEET):
            return
        self.dirty.add(run)
        if run not in self.driving:
            self.driving.add(run)
            self.later(0.0, self._drive_fleet if run == FLEET else self._drive, *(() if run == FLEET else (run,)))

    def _drive(self, run: str) -> None:
        while run in self.dirty and self.leader:
            self.dirty.discard(run)
            state = self.runs.get(run)
            if state is None or not may_decide(state, self.awaiting.get(run, 0)):
                continue
            if self._stood_still():
                break
            try:
                decisions = due(state, self.log_time_ns(), self.sightings, self.fleet)
            except Exception as error:  # noqa: BLE001 - as the shell: one run's trouble must not become everybody's
                self.world.findings.append(f"run {run}: deciding failed: {type(error).__name__}: {error}")
                self._give_up(state, error)
                return
            self._publish(state)
            if not self.alive:
                return
            if decisions:
                self._append(state, decisions)
                return
        self.driving.discard(run)

    def _give_up(self, state: RunState, error: Exception) -> None:
        if state.stopping is not None:
            self.later(RETRY_S, self._drive, state.run)
            return
        events: list[AnyEvent] = [RunStopping(outcome="failed", reason=f"could not decide: {error}")]
        self._send(state.run, [Append(subject=run_subject(state.run), events=events, expect=state.last_run_sequence)])

    def _append(self, state: RunState, decisions: list[Decision]) -> None:
        self._send(state.run, appends(state, decisions))

    def _send(self, run: str, wanted: list[Append]) -> None:
        if self.clockwork.chance(self.settings.crash, "scheduler crash: decided, not appended"):
            self.die()
            return
        left = [len(wanted), 0]  # answers still to come; those that nothing was learnt from

        def answered(append: Append, answer: Answer, sequence: int) -> None:
            if self.clockwork.chance(self.settings.crash, "scheduler crash: appended, not published"):
                self.die()
                return
            left[0] -= 1
            if answer == "ok":
                self.awaiting[run] = max(sequence, self.awaiting.get(run, 0))
                if append.executor:
                    self._nudge(append.executor)
            if answer == "refused":
                newest = self.broker.last(append.over or append.subject)
                at = newest.sequence if newest is not None else 0
                mine = at > 0 and self.broker.entries[at - 1].by == f"scheduler:{self.name}"
                if mine and append.expect < at <= self.awaiting.get(run, 0):
                    self.world.findings.append(f"{self.name} decided for {run} before its own entry {at} had come back")
            left[1] += answer == "unavailable"
            if left[0] == 0:
                self.later(RETRY_S if left[1] else 0.0, self._drive, run)

        state = self.runs[run]
        for append in wanted:
            entry = self._entry(run, append.events, state.last_entry)
            for event in append.events:
                if isinstance(event, StepLost):
                    self._judge(run, append, entry)
            self.broker.append(
                self,
                append.subject,
                entry,
                append.expect,
                functools.partial(answered, append),
                append.over,
            )
        if self.clockwork.chance(self.settings.crash, "scheduler crash: sent, not answered"):
            self.die()

    def _nudge(self, executor: str) -> None:
        worker = self.world.executors.get(executor)
        if worker is not None and self.clockwork.draw() < 0.9:
            worker.later(self.broker.latency_s(), worker.nudged)

    def _entry(self, run: str, events: list[AnyEvent], cause: str) -> Entry:
        return Entry(
            id=f"{self.clockwork.random.getrandbits(64):016x}",
            run=run,
            at_ns=self.clockwork.now_ns,
            by=f"scheduler:{self.name}",
            events=events,
            seen=self.position,
            cause=cause,
        )

    def _drive_fleet(self) -> None:
        while FLEET in self.dirty and self.leader:
            self.dirty.discard(FLEET)
            if self.fleet.last_sequence < self.awaiting.get(FLEET, 0):
                continue
            if self._stood_still():
                continue
            events = self._due_across_runs()
            if events:
                entry = self._entry(FLEET, events, self.fleet.last_entry)
                self.broker.append(self, run_subject(FLEET), entry, self.fleet.last_run_sequence, self._fleet_answered)
                return
        self.driving.discard(FLEET)

    def _fleet_answered(self, answer: Answer, sequence: int) -> None:
        if answer == "ok":
            self.awaiting[FLEET] = sequence
        self.later(RETRY_S if answer == "unavailable" else 0.0, self._drive_fleet)

    def _due_across_runs(self) -> list[AnyEvent]:
        now_ns = self.log_time_ns()
        since_ns = self.sightings.since_ns
        watched_s = (now_ns - since_ns) / 1e9 if since_ns else 0.0
        seen = [
            Seen(
                name,
                sighting.boot,
                beat.pool,
                beat.slots,
                beat.state,
                min((now_ns - sighting.seen_ns) / 1e9, watched_s),
            )
            for name, sighting in self.sightings.executors.items()
            for beat in (self.beats[name],)
        ]
        probing = any(breaker.state == "half_open" for breaker in self.fleet.breakers.values())
        wants = [want for run in self.runs.values() if run.delayed for want in wanting(run)] if probing else []
        limited = self.fleet.shared.is_limited
        owed = fleets.due(
            self.fleet,
            now_ns,
            self.settings.limits,
            wants=wants,
            seen=seen,
            watched_s=watched_s,
            lease_s=self.settings.lease_s,
            shared=self.settings.shared,
            asks=asking(self.runs.values(), self.fleet) if limited else [],
            live={name for name, run in self.runs.items() if run.finished is None}
            if self.fleet.shared.grants
            else None,
        )
        return fitting(owed) if owed else owed

    def _publish(self, state: RunState) -> None:
        if not state.unclaimed:
            return
        published = self.published.setdefault(state.run, {})
        now = self.monotonic_ns()
        if all(published.get(key, 0) > now for key in state.unclaimed):
            return
        for command in outstanding(state):
            step = command.step
            key = (step.workstream, step.attempt)
            if published.get(key, 0) <= now:
                published[key] = now + int(REPUBLISH_S * SECOND_NS)
                if self.connected and not self.broker.down:
                    self.world.offered.add((state.run, *key))
                    self.broker.command(command_subject(step.pool, command.run, step.workstream, step.attempt), command)
                if self.clockwork.chance(self.settings.crash, "scheduler crash: between commands"):
                    self.die()
                    return

    # Keeping at it

    def _reconcile(self) -> None:
        self.later(self.settings.reconcile_s, self._reconcile)
        connected = self.connected and not self.broker.down
        if self._seen_revision != self.revision:
            self._seen_revision = self.revision
            self.published.clear()
        if not connected:
            self.sightings.since_ns = 0
        elif self.sightings.since_ns == 0:
            self.sightings.since_ns = self.log_time_ns()
        if connected and self.caught_up:
            self.wake(FLEET)
            for run in list(self.runs):
                self.wake(run)

    def _lead(self) -> None:
        taken = None
        if self.connected and not self.broker.down:
            taken = self.broker.take_lease(self.name, self._revision)
            if taken is not None and self.clockwork.chance(self.broker.mix.lose_answer, "lease answer lost"):
                taken = None
        leading = taken is not None
        self._revision = taken or 0
        if leading != self.leader:
            self.leader = leading
            if leading:
                self.sightings.since_ns = self.log_time_ns()
                for run in (FLEET, *self.runs):
                    self.wake(run)
        self.later(self.settings.lease_ttl_s / 4, self._lead)

    def die(self) -> None:
        """Crash; it is started anew a little later."""
        self.crash()
        self.clockwork.after(0.2 + self.clockwork.random.random() * 10, self.start)

    # The truth

    def _judge(self, run: str, append: Append, entry: Entry) -> None:
        """Whether what is declared lost here is: by what the model knows of the executor and of this scheduler."""
        place = parse_subject(append.subject)
        key = (run, place.workstream, place.attempt)
        executor = self.world.executors.get(append.executor)
        work = executor.work.get(key) if executor is not None and executor.alive else None
        if executor is None or work is None or self.slow or not self.connected or self.broker.down:
            return
        now_ns = self.clockwork.now_ns
        named_ns = executor.named_ns.get(key, 0)
        if now_ns - named_ns < UNDER_WAY_S * SECOND_NS:
            return  # it was silent until a moment ago, and its beat has not arrived yet
        claimed_ns = self.broker.log[work.sequence - 1].time_ns
        silent_ns = now_ns - max(named_ns, claimed_ns, self.good_since_ns)
        if silent_ns < self.settings.lease_s * SECOND_NS - SECOND_NS // 5:
            self.world.false_losses[entry.id] = (
                f"{key} declared lost after {silent_ns / 1e9:.1f} s of its scheduler's own watching, "
                f"and its executor {append.executor} lives"
            )


def runs_of(subject: str) -> str:
    """Every subject of the run that a subject belongs to."""
    return all_of_run(subject.split(".")[2])
