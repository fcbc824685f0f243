"""People: they submit, cancel, pause, resume, review, roll back, twice over and at the worst time; in the end they are friendly.

What they know they read off the log, as anybody does who watches it.
"""

from typing import Any, Literal

import msgspec

from services.events import (
    AnyEvent,
    Artifact,
    BudgetChanged,
    BudgetRequested,
    CancelRequested,
    DeliveryRequested,
    ErrorClass,
    FleetPaused,
    FleetResumed,
    PauseRequested,
    RecoveryRequested,
    RequestAnswered,
    ResumeRequested,
    RevertFinished,
    RevertStarted,
    ReviewRequested,
    RollbackFinished,
    RollbackRequested,
    RollbackStarted,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunRequested,
    RunTransitioned,
    Step,
    StepDelayed,
    StepFinished,
    StepRequested,
    StepScheduled,
    StepStarted,
    WorkstreamTransitioned,
)
from services.scheduler.amendment import Adjustment, amended
from services.scheduler.fleet import FLEET
from services.scheduler.submission import SubmissionError
from services.spec import RunSpec
from services.wire import Entry, Recorded, request_subject
from tests.simulation.broker import Broker
from tests.simulation.clockwork import Clockwork
from tests.simulation.scenario import PROFILES, Habits, Scenario
from tests.simulation.schedulers import World


class Seen(msgspec.Struct):
    """What the log says of a run, as far as people look."""

    spec: RunSpec
    digest: str
    status: str = "pending"
    cause: str = ""
    finished: bool = False
    rolling: bool = False
    waiting: set[str] = set()
    states: dict[str, str] = {}
    reviews: dict[str, int] = {}
    asked: set[str] = set()
    answered: set[str] = set()
    steps: int = 0
    wanted_rollback: bool = False
    wanted_revert: bool = False
    deliveries: set[str] = set()
    """Deliveries that were asked for and are not done."""


class People:
    """Everybody who asks something of the runs of a scenario."""

    def __init__(self, clockwork: Clockwork, broker: Broker, world: World, made: Scenario) -> None:
        self.clockwork = clockwork
        self.broker = broker
        self.world = world
        self.habits: Habits = made.habits
        self._tenants = made.tenants
        self.runs: dict[str, Seen] = {}
        self.paused: dict[tuple[str, str], bool] = {}
        self.acknowledged: dict[str, str] = {}
        """Every acknowledged request and its run."""
        self.fleet_answered: set[str] = set()
        self._without_money: dict[tuple[Literal["fleet", "tool"], str], None] = {}
        """Budgets across runs that somebody waits for."""
        self._numbers = 0
        self._steps_asked: set[str] = set()
        self._specs = 0
        self._racing = False
        broker.before_final = self._race
        for definition, at_s in zip(made.specs, made.submitted_s, strict=True):
            clockwork.after(at_s, self._submit, definition)
        clockwork.after(1.0, self._look)
        if self.habits.cancel:
            clockwork.after(clockwork.random.random() * 120, self._cancel)
        if self.habits.pause_s:
            clockwork.after(self._some(self.habits.pause_s), self._pause)
        if self.habits.fleet_pause_s:
            clockwork.after(self._some(self.habits.fleet_pause_s), self._pause_fleet)

    def _some(self, mean_s: float) -> float:
        return min(self.clockwork.random.expovariate(1 / mean_s), mean_s * 4)

    # Asking

    def ask(self, run: str, event: AnyEvent) -> bool:
        """Append a request after the last one, as the server does; whether it is acknowledged."""
        if self.broker.down:
            return False
        subject = request_subject(run)
        for _ in range(2 if self.clockwork.chance(self.habits.repeated, "request repeated") else 1):
            data, read = self.broker.encoded(self._entry(run, event))
            last = self.broker.last(subject)
            expect = 0 if isinstance(event, RunRequested) else last.sequence if last is not None else 0
            if not self.broker.store(subject, data, read, expect):
                return False
            self.acknowledged[event.request_id] = run  # type: ignore[union-attr]
        if not isinstance(event, RunRequested) and self.clockwork.chance(
            self.habits.repeated, "request repeated later"
        ):
            self.clockwork.after(self.clockwork.random.random() * 60, self._repeat, run, event)
        if run in self.runs:
            self.runs[run].asked.add(event.request_id)  # type: ignore[union-attr]
        return True

    def _repeat(self, run: str, event: AnyEvent) -> None:
        """The same request once more, whatever has become of the first."""
        if not self.broker.down:
            subject = request_subject(run)
            data, read = self.broker.encoded(self._entry(run, event))
            last = self.broker.last(subject)
            self.broker.store(subject, data, read, last.sequence if last is not None else 0)

    def _entry(self, run: str, event: AnyEvent) -> Entry:
        return Entry(
            id=f"{self.clockwork.random.getrandbits(64):016x}",
            run=run,
            at_ns=self.clockwork.now_ns,
            by="client",
            events=[event],
        )

    def _id(self) -> str:
        self._numbers += 1
        return f"request-{self._numbers}"

    def stored_spec(self, definition: RunSpec) -> Artifact:
        self._specs += 1
        digest = f"{self._specs:064}"
        self.world.specs[digest] = definition
        return Artifact(role="spec", digest=digest, name=f"spec-{self._specs}", size_bytes=1)

    def _submit(self, definition: RunSpec) -> None:
        if self.broker.down:
            self.clockwork.after(1.0, self._submit, definition)
            return
        spec = self.stored_spec(definition)
        self.runs[definition.run] = Seen(definition, spec.digest)
        event = RunRequested(
            request_id=self._id(),
            actor="ann",
            spec=spec,
            workstreams=len(definition.bundles),
            repository="repo",
            base_commit=definition.repository.base_commit,
            timeout_s=definition.options.timeout_s,
            paused=definition.options.paused,
            tenant=self._tenants.get(definition.run, ""),
        )
        self.ask(definition.run, event)

    def _cancel(self) -> None:
        for name in self.runs:
            self.ask(name, CancelRequested(request_id=self._id(), actor="ann", reason="enough"))

    def scripted(self, what: str) -> None:
        """What a script asks for."""
        for name in self.runs:
            match what:
                case "cancel":
                    self.ask(name, CancelRequested(request_id=self._id(), actor="ann", reason="enough"))
                case "pause":
                    self.ask(name, PauseRequested(request_id=self._id(), actor="ann", reason="lunch"))
                case _:
                    self.ask(name, ResumeRequested(request_id=self._id(), actor="ann"))

    def _pause(self) -> None:
        if not self.clockwork.faulty:
            return
        for name, seen in self.runs.items():
            kind = (
                ResumeRequested if seen.status == "paused" and self.clockwork.random.random() < 0.8 else PauseRequested
            )
            self.ask(name, kind(request_id=self._id(), actor="ann"))
        self.clockwork.after(self._some(self.habits.pause_s), self._pause)

    def _pause_fleet(self) -> None:
        if not self.clockwork.faulty:
            return
        scope, name = self.clockwork.random.choice(
            [("tool", "editor"), ("tool", "spare"), ("pool", "default"), ("all", ""), ("tool", "")]
        )
        kind = ResumeRequested if self.paused and self.clockwork.random.random() < 0.6 else PauseRequested
        if kind is ResumeRequested:
            scope, name = self.clockwork.random.choice(sorted(self.paused))
        self.ask(FLEET, kind(request_id=self._id(), actor="ann", scope=scope, name=name))  # type: ignore[arg-type]
        self.clockwork.after(self._some(self.habits.fleet_pause_s), self._pause_fleet)

    def _race(self, run: str) -> None:
        """Somebody asks for something just before the run's last entry arrives."""
        if self._racing or self.clockwork.random.random() >= self.habits.races_end:
            return
        self.clockwork.faults["request races the end"] += 1
        self._racing = True
        kind = self.clockwork.random.choice([CancelRequested, PauseRequested])
        self.ask(run, kind(request_id=self._id(), actor="bob"))
        self._racing = False

    # Looking

    def _look(self) -> None:
        """Resolve what waits for a person; when friendly, also end every pause."""
        friendly = not self.clockwork.faulty
        if friendly:
            for scope, name in sorted(self.paused):
                self._once(FLEET, f"resume/{scope}/{name}/{self._numbers}", scope, name)
        self._give_to_all(friendly=friendly)
        for name, seen in self.runs.items():
            if self.habits.delivers and self.clockwork.random.random() < self.habits.delivers and not friendly:
                self.ask(name, DeliveryRequested(request_id=self._id(), actor="ann"))
            if seen.finished:
                self._after_end(name, seen)
                continue
            if friendly and seen.status == "paused":
                self.ask(name, ResumeRequested(request_id=self._id(), actor="ann"))
            if seen.status == "paused" and seen.cause == "budget":
                limit_nano = None if friendly else 10**9 * (1 + self._numbers % 5)
                self.ask(name, BudgetRequested(request_id=self._id(), actor="ann", limit_nano=limit_nano))
            if seen.waiting:
                self._review(name, seen)
            if seen.spec.options.stepwise:
                self._ask_step(name, seen)
        self.clockwork.after(2.0 if friendly else self._some(self.habits.review_s), self._look)

    def _give_to_all(self, *, friendly: bool) -> None:
        """Another budget for the fleet and for tools that somebody waits for; when friendly, none."""
        for scope, name in list(self._without_money):
            limit_nano = None if friendly else 10**9 * (1 + self._numbers % 5)
            event = BudgetRequested(request_id=self._id(), actor="ann", limit_nano=limit_nano, scope=scope, name=name)
            self.ask(FLEET, event)

    def _once(self, run: str, _why: str, scope: str, name: str) -> None:
        self.ask(run, ResumeRequested(request_id=self._id(), actor="ann", scope=scope, name=name))  # type: ignore[arg-type]

    def _review(self, run: str, seen: Seen) -> None:
        random = self.clockwork.random
        name = random.choice(sorted(seen.waiting))
        seen.reviews[name] = seen.reviews.get(name, 0) + 1
        verdict = "reject"
        if seen.reviews[name] <= self.habits.approvals:
            verdict = random.choice(["approve", "retry", "adjust"])
        rest: dict[str, Any] = {}
        if verdict == "adjust":
            change = Adjustment(workstream=name, more_attempts=1, hint=f"try {self._numbers}")
            if random.random() < 0.3:
                change = msgspec.structs.replace(change, tool="spare")
            if random.random() < 0.3:
                other = random.choice(seen.spec.bundles)
                change = msgspec.structs.replace(change, add_files_scope=(other.files_scope[0],))
            try:
                rest = {
                    "spec": self.stored_spec(amended(seen.spec, change, PROFILES)),
                    "amends": seen.digest if random.random() < 0.9 else "0" * 64,
                }
            except SubmissionError:
                verdict = "approve"
        if verdict != "reject" and random.random() < 0.4:
            rest["from_step"] = random.choice(["edit", "static", "runtime", "fix", "merge"])
        named = [] if verdict == "reject" and random.random() < 0.2 else [name]
        if len(seen.waiting) > 1 and random.random() < 0.3:
            named = sorted(seen.waiting)
        self.ask(run, ReviewRequested(request_id=self._id(), actor="ann", verdict=verdict, workstreams=named, **rest))  # type: ignore[arg-type]

    def _ask_step(self, run: str, seen: Seen) -> None:
        """A stepwise run goes where somebody drives it; in the end it is cancelled."""
        if seen.asked - seen.answered:
            return
        seen.steps += 1
        if seen.steps > 12:
            self.ask(run, CancelRequested(request_id=self._id(), actor="ann", reason="that was all"))
            return
        name = self.clockwork.random.choice(seen.spec.bundles).id
        step: Step = self.clockwork.random.choice(["edit", "static", "runtime", "fix", "merge"])
        fix = self.clockwork.random.random() < 0.3
        if self.clockwork.random.random() < 0.2:
            kind: ErrorClass = self.clockwork.random.choice(
                ["tool_failed", "timeout", "check_error", "no_change", "auth"]
            )
            self.ask(
                run, RecoveryRequested(request_id=self._id(), actor="ann", workstream=name, step=step, error_class=kind)
            )
            return
        self.ask(run, StepRequested(request_id=self._id(), actor="ann", workstream=name, step=step, with_fix=fix))

    def _after_end(self, run: str, seen: Seen) -> None:
        random = self.clockwork.random
        done = sorted(name for name, state in seen.states.items() if state == "completed")
        if self.habits.reverts and done and not seen.wanted_revert:
            wanted = random.sample(done, min(len(done), random.choice([1, 1, 2])))
            event = RollbackRequested(
                request_id=self._id(), actor="ann", workstreams=wanted, with_dependents=random.random() < 0.8
            )
            seen.wanted_revert = self.ask(run, event)
        elif self.habits.rollback and (not seen.wanted_rollback or self.clockwork.random.random() < 0.05):
            if self.ask(run, RollbackRequested(request_id=self._id(), actor="ann", reason="undo it")):
                seen.wanted_rollback = True
        elif not self.clockwork.faulty and self.clockwork.random.random() < 0.02:
            self.ask(run, PauseRequested(request_id=self._id(), actor="late"))

    @property
    def satisfied(self) -> bool:
        """Whether everything asked for has come to its end."""
        return all(run != FLEET or one in self.fleet_answered for one, run in self.acknowledged.items()) and all(
            seen.finished
            and not seen.rolling
            and not seen.deliveries
            and (seen.wanted_rollback or not self.habits.rollback)
            and seen.asked <= seen.answered
            for seen in self.runs.values()
        )

    # Reading

    def read(self, _recorded: Recorded, entry: Entry) -> None:
        """What stands in the log now."""
        seen = self.runs.get(entry.run)
        for event in entry.events:
            match event:
                case StepScheduled() | StepStarted() | StepFinished():
                    pass
                case WorkstreamTransitioned() if seen is not None:
                    seen.states[event.workstream] = event.to_state
                    if event.to_state == "awaiting_review":
                        seen.waiting.add(event.workstream)
                    else:
                        seen.waiting.discard(event.workstream)
                case RunTransitioned() if seen is not None:
                    seen.status, seen.cause = event.to_state, event.cause
                case RunAccepted() if seen is not None:
                    seen.answered.add(event.request_id)
                case RunAmended() if seen is not None:
                    seen.spec, seen.digest = self.world.specs[event.spec.digest], event.spec.digest
                case RequestAnswered():
                    if seen is not None:
                        if event.answer != "accepted":
                            seen.deliveries.discard(event.request_id)
                        if (
                            event.answer != "accepted"
                            or not seen.spec.options.stepwise
                            or not self._is_step(event.request_id)
                        ):
                            seen.answered.add(event.request_id)
                    else:
                        self.fleet_answered.add(event.request_id)
                case RunFinished() if seen is not None:
                    seen.finished, seen.status = True, event.state
                    seen.answered |= {one for one in seen.asked if self._is_step(one)}
                case RollbackStarted() | RevertStarted() if seen is not None:
                    seen.rolling = True
                case RollbackFinished() | RevertFinished() if seen is not None:
                    seen.rolling = False
                case DeliveryRequested() if seen is not None:
                    if event.request_id not in seen.answered:  # or it is the same one once more
                        seen.deliveries.add(event.request_id)
                case StepDelayed(cause="limit") if "may spend" in event.reason:
                    self._without_money["fleet", ""] = self._without_money["tool", event.step.tool] = None
                case BudgetChanged(limit_nano=None) if seen is None and event.scope != "run":
                    self._without_money.pop((event.scope, event.name), None)
                case FleetPaused():
                    self.paused[event.scope, event.name] = True
                case FleetResumed():
                    self.paused.pop((event.scope, event.name), None)
                case _:
                    if isinstance(event, StepRequested):
                        self._steps_asked.add(event.request_id)

    def _is_step(self, request_id: str) -> bool:
        return request_id in self._steps_asked
