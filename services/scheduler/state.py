"""The state of a run, folded from the log. Pure: no clock, no I/O, no randomness.

    evolve(run, fact) -> run

is total: whatever stands in the log, folding goes on. It owns its argument and changes it in place, so that a decision
costs the same in a run of ten workstreams and of ten thousand; callers keep only what it returns.

A fact never moves a workstream by itself: facts are noted (`closed`), and the scheduler's recorded decisions move it.
What a decision has still to be taken on stands in `agenda`; deciding is `services.scheduler.decide`.

    pending → blocked | ready → editing → static_check ⇄ fixing → runtime_check ⇄ fixing → validating → merging → completed
    any active state → failed | cancelled
"""

from bisect import insort
from typing import assert_never

import msgspec

from services.events import (
    LINE,
    TERMINAL_RUN,
    TERMINAL_WORKSTREAM,
    AnyEvent,
    Artifact,
    CancelRequested,
    Check,
    DeliveryRefused,
    FixLoopEnded,
    IntegrationAdvanced,
    LineDelivered,
    MergeRefused,
    ProcessesReaped,
    RequestAnswered,
    ResultRefused,
    RunAccepted,
    RunFinished,
    RunRequested,
    RunStatus,
    RunStopping,
    RunTransitioned,
    Snapshot,
    Step,
    StepCancelled,
    StepFinished,
    StepLost,
    StepRequested,
    StepScheduled,
    StepSkipped,
    StepStarted,
    WaveFinished,
    WaveStarted,
    WorkstreamState,
    WorkstreamTransitioned,
)
from services.scheduler.breaker import (
    BreakerConfig,
    BreakerConfigError,
    FixLoopState,
    parse_breaker_config,
    record_failure,
    record_fix,
)
from services.spec import Definitions, RunSpec
from services.wire import Entry, Place

UNSETTLED: frozenset[str] = frozenset({"ready", "editing", "static_check", "runtime_check", "fixing", "validating"})
"""States in which a workstream still holds its wave open."""

ALLOWED: dict[WorkstreamState, frozenset[WorkstreamState]] = {
    "pending": frozenset({"ready", "blocked", "cancelled"}),
    "ready": frozenset({"editing", "static_check", "runtime_check", "fixing", "failed", "cancelled"}),
    "editing": frozenset({"static_check", "runtime_check", "fixing", "editing", "failed", "cancelled"}),
    "static_check": frozenset({"fixing", "runtime_check", "editing", "failed", "cancelled"}),
    "fixing": frozenset({"static_check", "runtime_check", "editing", "failed", "cancelled"}),
    "runtime_check": frozenset({"fixing", "validating", "static_check", "editing", "failed", "cancelled"}),
    "validating": frozenset({"merging", "failed", "cancelled"}),
    "merging": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "blocked": frozenset(),
    "cancelled": frozenset(),
}
"""Which moves exist. The moves between check states and back to `editing` happen in stepwise runs, where a person orders them."""

Close = StepFinished | StepCancelled | StepLost


class Fact(msgspec.Struct, frozen=True):
    """One entry of the log with its place and time. `spec` is the run's definition, given with the entry that accepts it."""

    sequence: int
    time_ns: int
    place: Place
    entry: Entry
    spec: RunSpec | None = None


class Attempt(msgspec.Struct):
    """A scheduled attempt. `sequence` is the newest entry on its subject, 0 while nobody has claimed it."""

    scheduled: StepScheduled
    scheduled_ns: int
    sequence: int = 0
    executor: str = ""
    boot: str = ""
    started_ns: int = 0


class Closed(msgspec.Struct, frozen=True):
    """An attempt that ended and on which a decision is owed."""

    attempt: Attempt
    event: Close


class Failure(msgspec.Struct, frozen=True):
    """The newest failed check of a workstream: what a FIX attempt is told, and which tree is known to be red."""

    step: Step
    attempt: int
    signature: str
    tree: str
    diagnostics: Artifact | None


class Goal(msgspec.Struct, frozen=True):
    """What somebody asked of a workstream of a stepwise run."""

    request_id: str
    step: Step
    with_fix: bool


class Workstream(msgspec.Struct):
    """A workstream of a run. `base` is the head it was dispatched from, `latest` its newest snapshot."""

    id: str
    index: int
    state: WorkstreamState = "pending"
    reason: str = ""
    base: Snapshot | None = None
    latest: Snapshot | None = None
    attempts: int = 0
    open: Attempt | None = None
    closed: Closed | None = None
    fix: FixLoopState = msgspec.field(default_factory=FixLoopState)
    failure: Failure | None = None
    losses: int = 0
    patches: list[Artifact] = []
    goal: Goal | None = None


class Line(msgspec.Struct):
    """The run's integration line. `candidate` is a merge result that is not the head yet.

    `refused` is the head that the repository did not take, `refusal` why.
    """

    head: Snapshot
    attempts: int = 0
    open: Attempt | None = None
    closed: Closed | None = None
    losses: int = 0
    candidate: Snapshot | None = None
    merged: list[int] = []
    delivered: str = ""
    refused: str = ""
    refusal: str = ""


class RunState(msgspec.Struct):
    """Everything the scheduler knows of a run, and all that is needed to issue its commands again."""

    run: str
    status: RunStatus = "pending"
    reason: str = ""
    requested: RunRequested | None = None
    accepted: RunAccepted | None = None
    accepted_ns: int = 0
    definitions: Definitions | None = None
    breaker: BreakerConfig | None = None
    unreadable: str = ""
    workstreams: dict[str, Workstream] = {}
    line: Line | None = None
    wave: int = -1
    wave_open: bool = False
    wave_complete: bool = True
    next_not_before_ns: int = 0
    unsettled: int = 0
    startable: list[int] = []
    mergeable: list[int] = []
    doomed: dict[str, str] = {}
    agenda: set[str] = set()
    open: dict[tuple[str, int], Attempt] = {}
    unclaimed: dict[tuple[str, int], Attempt] = {}
    verdicts: dict[str, set[str]] = {}
    requests: dict[str, CancelRequested | StepRequested] = {}
    answered: set[str] = set()
    stopping: RunStopping | None = None
    failures: int = 0
    finished: RunFinished | None = None
    last_run_sequence: int = 0
    last_sequence: int = 0
    last_entry: str = ""
    dependents: dict[str, list[str]] = {}

    @property
    def alive(self) -> bool:
        """Whether anything may still be owed to this run."""
        return self.finished is None or bool(self.requests)


def evolve(run: RunState | None, fact: Fact) -> RunState:
    """Fold one entry. See the module's docstring."""
    if run is None:
        run = RunState(run=fact.place.run)
    run.last_sequence = fact.sequence
    run.last_entry = fact.entry.id
    if fact.place.kind == "run":
        run.last_run_sequence = fact.sequence
    attempt = _attempt_at(run, fact) if fact.place.kind == "attempt" else None
    for event in fact.entry.events:
        _fold(run, fact, event, attempt)
    return run


def skip(run: RunState, sequence: int, place: Place | None) -> RunState:
    """Note an entry that cannot be read: it says nothing, but whoever appends next must know that it stands there."""
    run.last_sequence = sequence
    if place is not None and place.kind == "run":
        run.last_run_sequence = sequence
    if place is not None and place.kind == "attempt":
        attempt = run.open.get((place.workstream, place.attempt))
        if attempt is not None:
            attempt.sequence = sequence
    return run


def _attempt_at(run: RunState, fact: Fact) -> Attempt | None:
    """The open attempt whose subject the entry stands on."""
    place = fact.place
    if place.workstream == LINE:
        attempt = run.line.open if run.line is not None else None
    else:
        workstream = run.workstreams.get(place.workstream)
        attempt = workstream.open if workstream is not None else None
    if attempt is None or attempt.scheduled.attempt != place.attempt:
        return None
    attempt.sequence = fact.sequence
    return attempt


def _fold(  # noqa: PLR0915 - one case per kind of event
    run: RunState, fact: Fact, event: AnyEvent, attempt: Attempt | None
) -> None:
    match event:
        case RunRequested():
            if run.requested is None:
                run.requested = event
        case CancelRequested() | StepRequested():
            if event.request_id not in run.answered:
                run.requests.setdefault(event.request_id, event)
        case RequestAnswered():
            _answer(run, event)
        case RunAccepted():
            _accept(run, fact, event)
        case RunTransitioned():
            run.status, run.reason = event.to_state, event.reason
        case RunStopping():
            run.stopping = event
        case WaveStarted():
            run.wave, run.wave_open, run.wave_complete = event.wave, True, not event.more
        case WaveFinished():
            run.wave_open, run.next_not_before_ns = False, event.next_not_before_ns
        case WorkstreamTransitioned():
            _transition(run, event)
        case StepScheduled():
            _schedule(run, fact, event)
        case StepSkipped() | FixLoopEnded() | ProcessesReaped() | ResultRefused():
            pass
        case IntegrationAdvanced():
            if run.line is not None:
                run.line.head, run.line.candidate, run.line.closed, run.line.losses = event.to, None, None, 0
                workstream = run.workstreams.get(event.workstream)
                if workstream is not None:
                    insort(run.line.merged, workstream.index)
        case MergeRefused():
            if run.line is not None:
                run.line.candidate = run.line.closed = None
                run.line.losses = 0
        case LineDelivered():
            if run.line is not None:
                run.line.delivered, run.line.refused, run.line.closed = event.commit, "", None
        case DeliveryRefused():
            if run.line is not None:
                run.line.refused, run.line.refusal, run.line.closed = event.commit, event.reason, None
                run.line.losses = 0
        case RunFinished():
            run.finished, run.status, run.reason = event, event.state, event.reason
        case StepStarted():
            if attempt is not None:
                attempt.executor, attempt.boot, attempt.started_ns = event.executor, event.boot, fact.time_ns
                run.unclaimed.pop((attempt.scheduled.workstream, attempt.scheduled.attempt), None)
        case StepFinished() | StepCancelled() | StepLost():
            if attempt is not None:
                _close(run, attempt, event)
        case _:
            assert_never(event)


def _accept(run: RunState, fact: Fact, event: RunAccepted) -> None:
    if run.accepted is not None:
        return
    run.accepted, run.accepted_ns = event, fact.time_ns
    run.answered.add(event.request_id)
    spec = fact.spec
    if spec is None:
        run.unreadable = f"the run's definition {event.spec.digest[:12]} cannot be read"
        return
    try:
        run.breaker = parse_breaker_config(spec.breaker, "the run's definition")
    except BreakerConfigError as error:
        run.unreadable = str(error)[:1000]
        return
    run.definitions = Definitions(spec)
    run.line = Line(head=Snapshot(commit=spec.repository.base_commit, tree=""))
    run.workstreams = {
        workstream: Workstream(id=workstream, index=index) for workstream, index in run.definitions.index.items()
    }
    for bundle in spec.bundles:
        for dependency in bundle.depends_on:
            run.dependents.setdefault(dependency, []).append(bundle.id)


def _answer(run: RunState, event: RequestAnswered) -> None:
    run.answered.add(event.request_id)
    request = run.requests.pop(event.request_id, None)
    if event.answer == "accepted" and isinstance(request, StepRequested):
        workstream = run.workstreams.get(request.workstream)
        if workstream is not None:
            workstream.goal = Goal(event.request_id, request.step, request.with_fix)
    if event.answer == "done":
        for workstream in run.workstreams.values():
            if workstream.goal is not None and workstream.goal.request_id == event.request_id:
                workstream.goal = workstream.closed = None
                workstream.losses = 0
                run.agenda.discard(workstream.id)


def _transition(run: RunState, event: WorkstreamTransitioned) -> None:
    workstream = run.workstreams.get(event.workstream)
    if workstream is None:
        return
    before, after = workstream.state, event.to_state
    workstream.state, workstream.reason = after, event.reason
    run.unsettled += (after in UNSETTLED) - (before in UNSETTLED)
    if after == "ready":
        insort(run.startable, workstream.index)
    if before == "ready" and workstream.index in run.startable:
        run.startable.remove(workstream.index)
    if after == "merging":
        insort(run.mergeable, workstream.index)
    if before == "merging" and workstream.index in run.mergeable:
        run.mergeable.remove(workstream.index)
    if after == "merging" or after in TERMINAL_WORKSTREAM:
        workstream.closed = None
        run.agenda.discard(workstream.id)
    if after in {"failed", "blocked"}:
        run.failures += after == "failed"
        root = run.doomed.pop(workstream.id, workstream.id)
        for dependent in run.dependents.get(workstream.id, ()):
            if run.workstreams[dependent].state == "pending":
                run.doomed.setdefault(dependent, root)
    elif after in TERMINAL_WORKSTREAM:
        run.doomed.pop(workstream.id, None)


def _schedule(run: RunState, fact: Fact, event: StepScheduled) -> None:
    attempt = Attempt(scheduled=event, scheduled_ns=fact.time_ns)
    if event.workstream == LINE:
        if run.line is None:
            return
        run.line.attempts, run.line.open, run.line.closed = event.attempt, attempt, None
    else:
        workstream = run.workstreams.get(event.workstream)
        if workstream is None:
            return
        workstream.attempts, workstream.open, workstream.closed = event.attempt, attempt, None
        run.agenda.discard(workstream.id)
        if workstream.base is None:
            workstream.base = event.base or event.input
    run.open[event.workstream, event.attempt] = attempt
    run.unclaimed[event.workstream, event.attempt] = attempt


def _close(run: RunState, attempt: Attempt, event: Close) -> None:
    scheduled = attempt.scheduled
    run.open.pop((scheduled.workstream, scheduled.attempt), None)
    run.unclaimed.pop((scheduled.workstream, scheduled.attempt), None)
    closed = Closed(attempt, event)
    owner = run.line if scheduled.workstream == LINE else run.workstreams[scheduled.workstream]
    if owner is None:
        return
    owner.open, owner.closed = None, closed
    owner.losses = owner.losses + 1 if is_loss(event) else 0
    if isinstance(event, StepFinished):
        known = run.verdicts.setdefault(scheduled.input.tree, set())
        known.update(result.check for result in event.checks if result.outcome in {"passed", "not_executable"})
        if event.ok and run.definitions is not None and scheduled.every_check:
            known.update(check.check for check in run.definitions.required(scheduled.step, scheduled.merged))
    if isinstance(owner, Line):
        if isinstance(event, StepFinished) and event.ok and scheduled.step == "merge":
            owner.candidate = event.snapshot
        return
    run.agenda.add(owner.id)
    if isinstance(event, StepFinished) and not is_loss(event):
        _note(owner, scheduled, event)


def _note(workstream: Workstream, scheduled: StepScheduled, event: StepFinished) -> None:
    """What a finished attempt tells about its workstream: its newest snapshot, and the history of its FIX loop."""
    match scheduled.step:
        case "edit":
            workstream.latest = event.snapshot or workstream.latest
        case "static" | "runtime":
            workstream.latest = workstream.latest or scheduled.input
            if not event.ok and event.error_class == "check_failed":
                workstream.fix = record_failure(workstream.fix, scheduled.step, event.signature, scheduled.input.tree)
                workstream.failure = Failure(
                    step=scheduled.step,
                    attempt=scheduled.attempt,
                    signature=event.signature,
                    tree=scheduled.input.tree,
                    diagnostics=next((a for a in event.artifacts if a.role == "diagnostics"), None),
                )
        case "fix":
            workstream.latest = event.snapshot or workstream.latest
            failure = workstream.failure
            step = scheduled.fix.step if scheduled.fix is not None else "static"
            workstream.fix = record_fix(workstream.fix, step)
            workstream.patches = [*workstream.patches, *(a for a in event.artifacts if a.role == "patch")]
            if failure is not None and workstream.latest is not None and workstream.latest.tree == failure.tree:
                # The same tree would be judged the same: the verdict is known, so it is counted and not taken again.
                workstream.fix = record_failure(workstream.fix, failure.step, failure.signature, failure.tree)
        case "merge" | "gate" | "deliver" | "compensate":
            pass


def is_loss(event: Close) -> bool:
    """Whether the attempt ended without telling anything about its workstream: it may be tried again."""
    return isinstance(event, StepLost) or (
        isinstance(event, StepFinished) and event.error_class in {"workspace_error", "unknown"}
    )


def is_over(run: RunState) -> bool:
    """Whether the run has ended."""
    return run.status in TERMINAL_RUN


def unknown_checks(run: RunState, tree: str, checks: list[Check]) -> list[Check]:
    """Those checks whose passing on this tree is not known yet."""
    known = run.verdicts.get(tree, set())
    return [check for check in checks if check.check not in known]
