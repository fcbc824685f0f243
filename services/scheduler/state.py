"""The state of a run, folded from the log. Pure: no clock, no I/O, no randomness.

    evolve(run, fact) -> run

is total: whatever stands in the log, folding goes on. It owns its argument and changes it in place, so that a decision
costs the same in a run of ten workstreams and of ten thousand; callers keep only what it returns.

A fact never moves a workstream by itself: facts are noted (`closed`), and the scheduler's recorded decisions move it.
What a decision has still to be taken on stands in `agenda`; deciding is `services.scheduler.decide`.

    pending → blocked | ready → editing → static_check ⇄ fixing → runtime_check ⇄ fixing → validating → merging → completed
    any active state → failed | cancelled | awaiting_review;  awaiting_review → ready | failed
    completed → compensating → compensated | compensation_failed

A step that is decided and cannot be scheduled yet is `delayed`: a recorded decision with its cause and, where one is
known, its time. A run is `held` while it is paused: by somebody's request, or because all that is left awaits review, or a budget.
"""

from bisect import bisect_left, insort
from typing import Literal, assert_never

import msgspec

from services.events import (
    LINE,
    TERMINAL_RUN,
    TERMINAL_WORKSTREAM,
    AccessRefused,
    AnyEvent,
    Artifact,
    AttemptGranted,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    CancelRequested,
    Check,
    Delivered,
    DeliveryRefused,
    DeliveryRequested,
    Destination,
    ErrorClass,
    ExecutorTransitioned,
    FixLoopEnded,
    FleetPaused,
    FleetResumed,
    GateFlaked,
    GrantReturned,
    IntegrationAdvanced,
    IntegrationReverted,
    LimitsSet,
    LineDelivered,
    MergePostponed,
    MergeRefused,
    MergeStaged,
    PauseRequested,
    ProbeGranted,
    ProcessesReaped,
    RecoveryChosen,
    RecoveryRequested,
    RequestAnswered,
    ResultRefused,
    ResumeRequested,
    RevertFinished,
    RevertStarted,
    ReviewRequested,
    ReviewResolved,
    RollbackFinished,
    RollbackRequested,
    RollbackStarted,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunRequested,
    RunStatus,
    RunStopping,
    RunTransitioned,
    Snapshot,
    Step,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepRequested,
    StepScheduled,
    StepSkipped,
    StepStarted,
    ToolBreakerClosed,
    ToolBreakerHalfOpened,
    ToolBreakerOpened,
    WaveFinished,
    WaveStarted,
    WorkstreamState,
    WorkstreamTransitioned,
    stands_on,
)
from services.outcome import nano_of
from services.scheduler.bisection import joint
from services.scheduler.breaker import (
    BreakerConfig,
    BreakerConfigError,
    FixLoopState,
    parse_breaker_config,
    record_failure,
    record_fix,
)
from services.scheduler.budget import (
    Book,
    Draw,
    account_of,
    budget_of,
    cost_of,
    holder_of,
    late,
    report_of,
    reserve,
    run_account,
    set_budget,
    settle,
    told,
    workstream_account,
)
from services.scheduler.recovery import (
    RecoveryConfig,
    RecoveryConfigError,
    Used,
    after,
    parse_recovery_config,
)
from services.spec import Definitions, Ranges, RunSpec, ranges_with, ranges_without
from services.trace import normal
from services.wire import Entry, Place

UNSETTLED: frozenset[str] = frozenset({"ready", "editing", "static_check", "runtime_check", "fixing", "validating"})
"""States in which a workstream still holds its wave open."""

ACTIVE: frozenset[str] = (UNSETTLED - {"ready"}) | {"merging"}
"""States in which a workstream may have changed what it declares: nothing that clashes with it is started."""

_ENDS: frozenset[WorkstreamState] = frozenset({"awaiting_review", "failed", "cancelled"})

ALLOWED: dict[WorkstreamState, frozenset[WorkstreamState]] = {
    "pending": frozenset({"ready", "blocked", "cancelled"}),
    "ready": frozenset({"editing", "static_check", "runtime_check", "fixing", "merging", *_ENDS}),
    "editing": frozenset({"static_check", "runtime_check", "fixing", "editing", *_ENDS}),
    "static_check": frozenset({"fixing", "runtime_check", "editing", *_ENDS}),
    "fixing": frozenset({"static_check", "runtime_check", "editing", *_ENDS}),
    "runtime_check": frozenset({"fixing", "validating", "static_check", "editing", *_ENDS}),
    "validating": frozenset({"merging", *_ENDS}),
    "merging": frozenset({"completed", "fixing", *_ENDS}),
    "awaiting_review": frozenset({"ready", "failed", "cancelled"}),
    "completed": frozenset({"compensating"}),
    "compensating": frozenset({"compensated", "compensation_failed"}),
    "compensation_failed": frozenset({"compensating"}),
    "compensated": frozenset(),
    "failed": frozenset(),
    "blocked": frozenset(),
    "cancelled": frozenset(),
}
"""Which moves exist. The moves between check states and back to `editing` happen in stepwise runs, where a person orders them."""

COUNTED_BY_FIX_LOOP = frozenset({None, "tool_failed", "timeout", "idle_timeout", "no_change", "merge_conflict"})
"""Ends of a FIX attempt that its loop counts, and after which it goes on; any other is the recovery table's."""

Close = StepFinished | StepCancelled | StepLost
Request = (
    CancelRequested
    | StepRequested
    | PauseRequested
    | ResumeRequested
    | ReviewRequested
    | RecoveryRequested
    | RollbackRequested
    | DeliveryRequested
    | BudgetRequested
)
TOOLS_NAMED_MAX = 10
"""Tools of a workstream that are remembered."""

ANSWERS_KEPT = 10_000
"""Answers that a run remembers, so that a repeated request gets the first one."""


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


class Review(msgspec.Struct, frozen=True):
    """What stopped a workstream, so that a person has to decide."""

    step: Step
    error_class: ErrorClass
    reason: str
    since_ns: int = 0


class Workstream(msgspec.Struct):
    """A workstream of a run. `base` is the head it was dispatched from, `latest` its newest snapshot.

    `recovery` counts by step what recovery has done. `restart` is the step at which a review lets it go on. `missing`
    dependencies are not merged yet. `actions` of its compensation have succeeded. So many `autofixed` programs have had their turn
    since an AI tool or a person changed its tree. `conflicts` and `reds` count how often its merge was refused since a person
    last decided about it. `trusted`: a person has approved what it changes of what judges it. `tools` have worked on it. While
    it is on the line, `before` and `merged` are the heads without and with it, and `merged_at` counts what was merged until then.
    """

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
    delayed: StepDelayed | None = None
    recovery: dict[str, Used] = {}
    review: Review | None = None
    restart: Step | None = None
    returned: bool = False
    missing: int = 0
    actions: int = 0
    autofixed: int = 0
    conflicts: int = 0
    reds: int = 0
    trusted: bool = False
    tools: list[str] = []
    before: Snapshot | None = None
    merged: Snapshot | None = None
    merged_at: int = 0


class Rollback(msgspec.Struct, frozen=True):
    """The undoing of completed work: `order` names the workstreams with compensation actions, the first to undo first."""

    request_id: str
    order: tuple[str, ...]
    without_actions: int


class Staged(msgspec.Struct, frozen=True):
    """A merge that waits for the gates of the wave: what the line is with it."""

    workstream: str
    snapshot: Snapshot


class Reverting(msgspec.Struct):
    """Work that is being taken off the line: of `order`, so many are `taken` out of the candidate.

    `reverted`: the head is the one without it. `undelivered` destinations did not take that head.
    """

    request_id: str
    order: list[str]
    taken: int = 0
    reverted: bool = False
    undelivered: list[str] = []


class Line(msgspec.Struct):
    """The run's integration line. `head` has passed every gate; `staged` are merges on top of it that some gates of the wave have
    still to pass, in order. `candidate` is a merge result that is neither yet. `postponed` workstreams are merged once nothing is staged.

    `red` counts by tree and check how often a gate of the line failed, `findings` keeps by tree what it found; `joined` is what
    merges in search of a culprit made (services.scheduler.bisection). `deliveries` are by remote what stands on the run's
    branches. `refused` is the head that the run's own destination did not take, `refusal` why.
    """

    head: Snapshot
    attempts: int = 0
    open: Attempt | None = None
    closed: Closed | None = None
    losses: int = 0
    candidate: Snapshot | None = None
    merged: Ranges = ()
    staged: list[Staged] = []
    postponed: set[int] = set()
    red: dict[str, dict[str, int]] = {}
    findings: dict[str, Artifact] = {}
    joined: dict[str, Snapshot | None] = {}
    merges: int = 0
    deliveries: dict[str, Delivered] = {}
    refused: str = ""
    refusal: str = ""
    delayed: StepDelayed | None = None
    recovery: dict[str, Used] = {}

    @property
    def tip(self) -> Snapshot:
        """What the next merge goes onto."""
        return self.staged[-1].snapshot if self.staged else self.head


class RunState(msgspec.Struct):
    """Everything the scheduler knows of a run, and all that is needed to issue its commands again."""

    run: str
    status: RunStatus = "pending"
    reason: str = ""
    requested: RunRequested | None = None
    accepted: RunAccepted | None = None
    accepted_ns: int = 0
    definitions: Definitions | None = None
    spec: Artifact | None = None
    breaker: BreakerConfig | None = None
    recovery: RecoveryConfig | None = None
    unreadable: str = ""
    held: Literal["", "request", "review", "budget"] = ""
    held_since_ns: int = 0
    held_ns: int = 0
    workstreams: dict[str, Workstream] = {}
    line: Line | None = None
    wave: int = -1
    wave_open: bool = False
    wave_complete: bool = True
    next_not_before_ns: int = 0
    unsettled: int = 0
    startable: list[int] = []
    mergeable: list[int] = []
    eligible: list[int] = []
    active: set[str] = set()
    reviews: set[str] = set()
    delayed: set[str] = set()
    returned: set[str] = set()
    doomed: dict[str, str] = {}
    agenda: set[str] = set()
    open: dict[tuple[str, int], Attempt] = {}
    unclaimed: dict[tuple[str, int], Attempt] = {}
    verdicts: dict[str, set[str]] = {}
    requests: dict[str, Request] = {}
    answers: dict[str, RequestAnswered] = {}
    resolved: dict[str, set[str]] = {}
    book: Book = msgspec.field(default_factory=Book)
    rollback: Rollback | None = None
    rolled_back: RollbackFinished | None = None
    delivering: DeliveryRequested | None = None
    reverting: Reverting | None = None
    stopping: RunStopping | None = None
    failures: int = 0
    finished: RunFinished | None = None
    last_run_sequence: int = 0
    last_sequence: int = 0
    last_entry: str = ""
    trace: str = ""
    dependents: dict[str, list[str]] = {}

    @property
    def alive(self) -> bool:
        """Whether anything may still be owed to this run."""
        return self.finished is None or bool(self.requests) or self.is_resumed

    @property
    def is_resumed(self) -> bool:
        """Whether somebody has asked for something that goes on after the end."""
        return self.rollback is not None or self.delivering is not None or self.reverting is not None


class Over(msgspec.Struct, frozen=True):
    """What is remembered of a run that has ended."""

    request_id: str
    finished: RunFinished
    last_run_sequence: int
    answers: dict[str, RequestAnswered]
    trace: str = ""

    def again(self, run: str) -> RunState:
        """As much of its state as a late request needs to be answered."""
        return RunState(
            run=run,
            status=self.finished.state,
            finished=self.finished,
            requested=None,
            answers=dict(self.answers),
            last_run_sequence=self.last_run_sequence,
            trace=self.trace,
        )


def evolve(run: RunState | None, fact: Fact) -> RunState:
    """Fold one entry. See the module's docstring."""
    if run is None:
        run = RunState(run=fact.place.run)
    entry, kind = fact.entry, fact.place.kind
    run.last_sequence = fact.sequence
    run.last_entry = entry.id
    if kind == "run":
        run.last_run_sequence = fact.sequence
    attempt = _attempt_at(run, fact) if kind == "attempt" else None
    for event in entry.events:
        if stands_on(event) == kind:
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


def _fold(  # noqa: PLR0915 - one case per kind of event, the frequent ones first
    run: RunState, fact: Fact, event: AnyEvent, attempt: Attempt | None
) -> None:
    match event:
        case WorkstreamTransitioned():
            _transition(run, event)
        case StepScheduled():
            _schedule(run, fact, event)
        case StepStarted():
            if attempt is not None:
                attempt.executor, attempt.boot, attempt.started_ns = event.executor, event.boot, fact.time_ns
                run.unclaimed.pop((attempt.scheduled.workstream, attempt.scheduled.attempt), None)
        case StepFinished() | StepCancelled() | StepLost():
            if attempt is not None:
                _close(run, attempt, event)
        case IntegrationAdvanced():
            _advance(run, event)
        case MergeStaged() | MergePostponed():
            _stage(run, event)
        case MergeRefused():
            _refuse(run, event)
        case StepDelayed():
            _delay(run, event)
        case RecoveryChosen():
            _recover(run, fact, event)
        case StepSkipped():
            if event.sources:
                run.verdicts.setdefault(event.tree, set()).update(check.check for check in event.checks)
        case FixLoopEnded() | ProcessesReaped() | GateFlaked():
            pass
        case RequestAnswered():
            _answer(run, event)
        case RunRequested():
            if run.requested is None:
                run.requested = event
                run.trace = normal(fact.entry.trace)
        case (
            CancelRequested()
            | StepRequested()
            | PauseRequested()
            | ResumeRequested()
            | ReviewRequested()
            | RecoveryRequested()
            | RollbackRequested()
            | DeliveryRequested()
            | BudgetRequested()
        ):
            if event.request_id not in run.answers:
                run.requests.setdefault(event.request_id, event)
        case RunAccepted():
            _accept(run, fact, event)
        case RunTransitioned():
            _run_transition(run, fact, event)
        case RunAmended():
            _amend(run, fact.spec, event)
        case RunStopping():
            run.stopping = event
        case WaveStarted():
            run.wave, run.wave_open, run.wave_complete = event.wave, True, not event.more
        case WaveFinished():
            run.wave_open, run.next_not_before_ns = False, event.next_not_before_ns
        case ReviewResolved():
            _resolve(run, event)
        case BudgetChanged():
            set_budget(run.book, run_account(run.run), budget_of(event.limit_nano, event.mode))
        case BudgetReached():
            told(run.book, account_of(run.run, event.workstream), event.threshold)
        case ResultRefused():
            late(run.book, holder_of(fact.place.workstream, fact.place.attempt), report_of(event.result))
        case (
            AccessRefused()
            | FleetPaused()
            | FleetResumed()
            | ToolBreakerOpened()
            | ToolBreakerHalfOpened()
            | ProbeGranted()
            | LimitsSet()
            | AttemptGranted()
            | GrantReturned()
            | ToolBreakerClosed()
            | ExecutorTransitioned()
        ):
            pass  # across runs: services.scheduler.fleet
        case LineDelivered():
            _delivered(run, event)
        case DeliveryRefused():
            _undelivered(run, event)
        case RevertStarted():
            run.reverting = Reverting(event.request_id, list(event.workstreams))
            _clear_line(run)
        case IntegrationReverted():
            _revert(run, event)
        case RevertFinished():
            run.reverting = None
            _clear_line(run)
        case RollbackStarted():
            _start_rollback(run, event)
        case RollbackFinished():
            run.rollback, run.rolled_back = None, event
        case RunFinished():
            run.finished, run.status, run.reason = event, event.state, event.reason
            if not _is_asked_for(run):
                _clear_line(run)  # so that a delivery that was asked for goes on
        case _:
            assert_never(event)


def _advance(run: RunState, event: IntegrationAdvanced) -> None:
    line, workstream = run.line, run.workstreams.get(event.workstream)
    if line is None:
        return
    if workstream is not None:
        line.merged = ranges_with(line.merged, workstream.index)
        line.merges += 1
        workstream.before, workstream.merged, workstream.merged_at = line.head, event.to, line.merges
    line.head, line.recovery = event.to, {}
    _clear_line(run)
    if line.staged and line.staged[0].workstream == event.workstream:
        del line.staged[0]
    if not line.staged:
        _settle_line(run, line)


def _revert(run: RunState, event: IntegrationReverted) -> None:
    line = run.line
    if line is None:
        return
    for name in event.workstreams:
        workstream = run.workstreams.get(name)
        if workstream is not None:
            line.merged = ranges_without(line.merged, workstream.index)
            workstream.before = workstream.merged = None
    line.head = event.to
    if run.reverting is not None:
        run.reverting.reverted = True
    _clear_line(run)


def _clear_line(run: RunState) -> None:
    """Nothing is owed any more for what the line has tried last."""
    if run.line is not None:
        run.line.candidate = run.line.closed = run.line.delayed = None
        run.line.losses = 0


def _is_asked_for(run: RunState) -> bool:
    """Whether the line has just closed a delivery that somebody asked for: the answer is owed."""
    closed = run.line.closed if run.line is not None else None
    return closed is not None and bool(closed.attempt.scheduled.request_id)


def _delivered(run: RunState, event: LineDelivered) -> None:
    line, to = run.line, event.to or Destination()
    if line is None:
        return
    line.deliveries = {
        **line.deliveries,
        to.remote: Delivered(to=to, commit=event.commit, head=event.head or event.commit),
    }
    line.closed = None
    if _is_own(run, to):
        line.refused = ""


def _undelivered(run: RunState, event: DeliveryRefused) -> None:
    line, to = run.line, event.to or Destination()
    if line is None:
        return
    line.closed, line.losses = None, 0
    if _is_own(run, to):
        line.refused, line.refusal = event.commit, event.reason
    if run.reverting is not None:
        run.reverting.undelivered.append(to.remote)


def _is_own(run: RunState, to: Destination) -> bool:
    """Whether a destination is the one that the run's definition names."""
    return run.definitions is not None and run.definitions.spec.options.destination.remote == to.remote


def _accept(run: RunState, fact: Fact, event: RunAccepted) -> None:
    if run.accepted is not None:
        return
    run.accepted, run.accepted_ns, run.spec = event, fact.time_ns, event.spec
    run.answers[event.request_id] = RequestAnswered(request_id=event.request_id, answer="accepted")
    spec = fact.spec
    if spec is None:
        run.unreadable = f"the run's definition {event.spec.digest[:12]} cannot be read"
        return
    try:
        run.breaker = parse_breaker_config(spec.breaker, "the run's definition")
        run.recovery = parse_recovery_config(spec.recovery, "the run's definition")
    except (BreakerConfigError, RecoveryConfigError) as error:
        run.unreadable = str(error)[:1000]
        return
    run.definitions = Definitions(spec)
    set_budget(run.book, run_account(run.run), budget_of(spec.options.budget_nano, spec.options.budget_mode))
    _set_workstream_budgets(run, run.definitions)
    run.line = Line(head=Snapshot(commit=spec.repository.base_commit, tree=""))
    run.workstreams = {
        workstream: Workstream(id=workstream, index=index) for workstream, index in run.definitions.index.items()
    }
    for bundle in spec.bundles:
        run.workstreams[bundle.id].missing = len(bundle.depends_on)
        for dependency in bundle.depends_on:
            run.dependents.setdefault(dependency, []).append(bundle.id)
    run.eligible = [workstream.index for workstream in run.workstreams.values() if workstream.missing == 0]
    run.eligible.sort()


def _amend(run: RunState, spec: RunSpec | None, event: RunAmended) -> None:
    """A definition of the same workstreams in the same order takes the place of the one before; any other is no amendment."""
    if spec is None or run.definitions is None:
        return
    definitions = Definitions(spec)
    if definitions.order == run.definitions.order:
        run.spec, run.definitions = event.spec, definitions
        _set_workstream_budgets(run, definitions)


def _set_workstream_budgets(run: RunState, definitions: Definitions) -> None:
    """Bundles say what a workstream may cost; one that says nothing may cost anything."""
    for name, bundle in definitions.bundles.items():
        account = workstream_account(run.run, name)
        limit_nano = nano_of(bundle.max_cost_usd) if bundle.max_cost_usd is not None else None
        budget = budget_of(limit_nano, definitions.spec.options.budget_mode)
        if budget != run.book.budgets.get(account):
            set_budget(run.book, account, budget)


def _answer(run: RunState, event: RequestAnswered) -> None:
    run.answers[event.request_id] = event
    while len(run.answers) > ANSWERS_KEPT:
        run.answers.pop(next(iter(run.answers)))
    run.resolved.pop(event.request_id, None)
    request = run.requests.pop(event.request_id, None)
    if event.answer == "accepted" and isinstance(request, StepRequested):
        workstream = run.workstreams.get(request.workstream)
        if workstream is not None:
            workstream.goal = Goal(event.request_id, request.step, request.with_fix)
    if event.answer == "accepted" and isinstance(request, DeliveryRequested):
        run.delivering = request
        if is_over(run):
            _clear_line(run)
    if event.answer == "done" and run.delivering is not None and run.delivering.request_id == event.request_id:
        run.delivering = None
        _clear_line(run)
    elif event.answer == "done":
        for workstream in run.workstreams.values():
            if workstream.goal is not None and workstream.goal.request_id == event.request_id:
                workstream.goal = workstream.closed = workstream.delayed = None
                workstream.losses = 0
                run.agenda.discard(workstream.id)
                run.delayed.discard(workstream.id)


def _transition(run: RunState, event: WorkstreamTransitioned) -> None:
    workstream = run.workstreams.get(event.workstream)
    if workstream is None:
        return
    before, after = workstream.state, event.to_state
    workstream.state, workstream.reason = after, event.reason
    run.unsettled += (after in UNSETTLED) - (before in UNSETTLED)
    _move_between_lists(run, workstream, before, after)
    if after in {"merging", "awaiting_review"} or after in TERMINAL_WORKSTREAM:
        workstream.closed = workstream.delayed = None
        run.agenda.discard(workstream.id)
        run.delayed.discard(workstream.id)
    if after == "awaiting_review":
        workstream.losses = 0
    if after in TERMINAL_WORKSTREAM or after == "ready":
        workstream.review = None
    if after in {"failed", "blocked"}:
        run.failures += after == "failed"
        root = run.doomed.pop(workstream.id, workstream.id)
        for dependent in run.dependents.get(workstream.id, ()):
            if run.workstreams[dependent].state == "pending":
                run.doomed.setdefault(dependent, root)
    elif after in TERMINAL_WORKSTREAM:
        run.doomed.pop(workstream.id, None)


def _move_between_lists(run: RunState, workstream: Workstream, before: WorkstreamState, after: WorkstreamState) -> None:
    """Who may start, who may be merged, who is under way: kept, so that no decision has to look at every workstream."""
    index = workstream.index
    if before == "pending":
        _drop(run.eligible, index)
    if after == "ready":
        insort(run.startable, index)
    if before == "ready":
        _drop(run.startable, index)
    if after == "merging":
        _queue_merge(run, index)
    if before == "merging" and index in run.mergeable:
        run.mergeable.remove(index)
    (run.active.add if after in ACTIVE else run.active.discard)(workstream.id)
    (run.reviews.add if after == "awaiting_review" else run.reviews.discard)(workstream.id)
    if after not in ACTIVE and after != "ready":
        workstream.returned = False
        run.returned.discard(workstream.id)
    if after == "completed":
        for dependent in run.dependents.get(workstream.id, ()):
            other = run.workstreams[dependent]
            other.missing -= 1
            if other.missing == 0 and other.state == "pending":
                insort(run.eligible, other.index)


def _drop(ascending: list[int], index: int) -> None:
    at = bisect_left(ascending, index)
    if at < len(ascending) and ascending[at] == index:
        del ascending[at]


def _run_transition(run: RunState, fact: Fact, event: RunTransitioned) -> None:
    """A paused run's deadline stands still: the time it was held is added to it."""
    if event.to_state == "paused":
        if not run.held:
            run.held_since_ns = fact.time_ns
        run.held = event.cause or "request"
    elif run.held:
        run.held_ns += max(fact.time_ns - run.held_since_ns, 0)
        run.held = ""
    run.status, run.reason = event.to_state, event.reason


def _stage(run: RunState, event: MergeStaged | MergePostponed) -> None:
    line, workstream = run.line, run.workstreams.get(event.workstream)
    if line is None or workstream is None:
        return
    line.candidate, line.closed, line.losses, line.recovery = None, None, 0, {}
    if workstream.index in run.mergeable:
        run.mergeable.remove(workstream.index)
    if isinstance(event, MergeStaged):
        line.staged.append(Staged(event.workstream, event.to))
    else:
        line.postponed.add(workstream.index)


def _refuse(run: RunState, event: MergeRefused) -> None:
    """What the workstream goes on with; and of what was staged, it and all that stood on it are taken back."""
    line, workstream = run.line, run.workstreams.get(event.workstream)
    if line is None or workstream is None:
        return
    line.candidate, line.closed, line.losses, line.recovery = None, None, 0, {}
    if event.taken_back:
        place = next((at for at, one in enumerate(line.staged) if one.workstream == event.workstream), len(line.staged))
        for one in line.staged[place + 1 :]:
            line.postponed.add(run.workstreams[one.workstream].index)
        del line.staged[place:]
        if not line.staged:
            _settle_line(run, line)
    line.joined = {key: made for key, made in line.joined.items() if not key.endswith(f"/{workstream.id}")}
    workstream.conflicts += event.reason == "conflict"
    workstream.reds += event.reason == "red"
    if event.onto is not None and event.result is not None:
        workstream.base, workstream.latest = event.onto, event.result
        workstream.failure = Failure(
            step="merge" if event.reason == "conflict" else "gate",
            attempt=line.attempts,
            signature="",
            tree=event.result.tree,
            diagnostics=event.diagnostics,
        )
        workstream.fix = FixLoopState()


def _settle_line(run: RunState, line: Line) -> None:
    """Nothing is staged any more: what waited for that can be merged, and what was found out on the way is done with."""
    for index in sorted(line.postponed):
        _queue_merge(run, index)
    line.postponed, line.red, line.findings, line.joined = set(), {}, {}, {}


def _queue_merge(run: RunState, index: int) -> None:
    if run.definitions is not None and run.definitions.spec.options.scheduling == "eager":
        run.mergeable.append(index)
    else:
        insort(run.mergeable, index)


def _delay(run: RunState, event: StepDelayed) -> None:
    if event.step.workstream == LINE:
        if run.line is not None:
            run.line.delayed, run.line.closed = event, None
        return
    workstream = run.workstreams.get(event.step.workstream)
    if workstream is None:
        return
    workstream.delayed, workstream.closed = event, None
    run.agenda.discard(workstream.id)
    run.delayed.add(workstream.id)


def _recover(run: RunState, fact: Fact, event: RecoveryChosen) -> None:
    owner = run.line if event.workstream == LINE else run.workstreams.get(event.workstream)
    if owner is None:
        return
    used = owner.recovery.get(event.step, Used())
    owner.recovery = {
        **owner.recovery,
        event.step: after(used, event.strategy, event.tool, event.reduction, event.replaced),
    }
    if isinstance(owner, Workstream) and event.strategy == "review":
        owner.review = Review(event.step, event.error_class, event.reason, fact.time_ns)


def _resolve(run: RunState, event: ReviewResolved) -> None:
    """The person's word renews what recovery may do, and says where to go on."""
    workstream = run.workstreams.get(event.workstream)
    if workstream is None:
        return
    run.resolved.setdefault(event.request_id, set()).add(event.workstream)
    if event.verdict == "reject":
        return
    stopped = workstream.review
    workstream.recovery, workstream.losses, workstream.returned = {}, 0, True
    run.returned.add(workstream.id)
    workstream.restart = event.from_step or (stopped.step if stopped is not None else "edit")
    if stopped is not None and stopped.error_class == "tampering" and event.verdict == "approve":
        workstream.restart = event.from_step or "static"
        workstream.trusted = workstream.restart != "edit"
    workstream.conflicts = workstream.reds = 0
    workstream.fix = FixLoopState()
    if workstream.restart == "edit" and (_must_start_over(stopped, event) or is_marked(workstream)):
        workstream.base = workstream.latest = workstream.failure = None
        workstream.patches, workstream.trusted = [], False


def is_marked(workstream: Workstream) -> bool:
    """Whether conflict markers are left in what it has made."""
    failure, latest = workstream.failure, workstream.latest
    return failure is not None and failure.step == "merge" and latest is not None and latest.tree == failure.tree


def _must_start_over(stopped: Review | None, event: ReviewResolved) -> bool:
    """Work that broke its scope is begun again on the head, and so is what did not merge if EDIT is asked for; any other is gone on with."""
    if stopped is None:
        return False
    return stopped.step in {"merge", "gate"} or (
        stopped.error_class in {"scope_violation", "tampering"} and event.verdict != "adjust"
    )


def _start_rollback(run: RunState, event: RollbackStarted) -> None:
    order: list[str] = []
    without = 0
    if run.definitions is not None:
        for name in reversed(run.definitions.order):
            if run.workstreams[name].state in {"completed", "compensating", "compensation_failed"}:
                if run.definitions.bundles[name].compensation_actions:
                    order.append(name)
                else:
                    without += 1
    run.rollback = Rollback(event.request_id, tuple(order), without)
    for name in order:
        workstream = run.workstreams[name]
        workstream.recovery, workstream.losses, workstream.closed = {}, 0, None


def _schedule(run: RunState, fact: Fact, event: StepScheduled) -> None:
    attempt = Attempt(scheduled=event, scheduled_ns=fact.time_ns)
    if event.workstream == LINE:
        if run.line is None:
            return
        run.line.attempts, run.line.open, run.line.closed = event.attempt, attempt, None
        run.line.delayed = None
    else:
        workstream = run.workstreams.get(event.workstream)
        if workstream is None:
            return
        workstream.attempts, workstream.open, workstream.closed = event.attempt, attempt, None
        workstream.delayed = workstream.restart = None
        run.agenda.discard(workstream.id)
        run.delayed.discard(workstream.id)
        if workstream.base is None or workstream.latest is None:  # as long as nothing is made, it starts from the head
            workstream.base = event.base or event.input
    if event.cap is not None:
        reserve(run.book, draw_of(run.run, event))
    run.open[event.workstream, event.attempt] = attempt
    run.unclaimed[event.workstream, event.attempt] = attempt


def draw_of(run: str, step: StepScheduled) -> Draw:
    """What an attempt takes from the budgets of its workstream and of its run."""
    return Draw(
        attempt=holder_of(step.workstream, step.attempt),
        accounts=(run_account(run), workstream_account(run, step.workstream)),
        cap_nano=step.cap_nano,
        cap=step.cap or "none",
    )


def _close(run: RunState, attempt: Attempt, event: Close) -> None:
    scheduled = attempt.scheduled
    run.open.pop((scheduled.workstream, scheduled.attempt), None)
    run.unclaimed.pop((scheduled.workstream, scheduled.attempt), None)
    closed = Closed(attempt, event)
    owner = run.line if scheduled.workstream == LINE else run.workstreams[scheduled.workstream]
    if owner is None:
        return
    owner.open, owner.closed = None, closed
    settle(
        run.book,
        holder_of(scheduled.workstream, scheduled.attempt),
        cost_of(event, begun=bool(attempt.executor)),
    )
    if not is_handed_back(event):
        owner.losses = owner.losses + 1 if is_loss(event) else 0
    if isinstance(event, StepFinished):
        known = run.verdicts.setdefault(scheduled.input.tree, set())
        known.update(result.check for result in event.checks if result.outcome in {"passed", "not_executable"})
        if event.ok and run.definitions is not None and scheduled.every_check:
            known.update(check.check for check in run.definitions.required(scheduled.step, scheduled.merged))
    if isinstance(owner, Line):
        if isinstance(event, StepFinished):
            _note_on_line(owner, scheduled, event)
            if event.ok and scheduled.step == "merge" and scheduled.reverts and run.reverting is not None:
                run.reverting.taken += 1
        return
    run.agenda.add(owner.id)
    _note_tool(run, owner, scheduled)
    if isinstance(event, StepFinished) and is_handed_back(event):
        if scheduled.step in {"edit", "fix"}:
            owner.latest = event.snapshot or owner.latest
    elif isinstance(event, StepFinished) and not is_loss(event):
        _note(owner, scheduled, event)


def _note_on_line(line: Line, scheduled: StepScheduled, event: StepFinished) -> None:
    """What a merge made, or a gate found. Of what was only to be found out, no decision is owed."""
    conflict = event.error_class == "merge_conflict"
    if scheduled.step == "merge" and scheduled.purpose == "search":
        if event.ok or conflict:
            line.joined[joint(scheduled.input.commit, scheduled.on_behalf)] = None if conflict else event.snapshot
            line.closed = None
    elif scheduled.step == "merge" and event.ok:
        line.candidate = event.snapshot
    elif scheduled.step == "gate":
        tree = scheduled.input.tree
        for result in event.checks:
            if result.outcome == "failed" or (result.outcome == "error" and result.optional):
                line.red[tree] = {**line.red.get(tree, {})}
                line.red[tree][result.check] = line.red[tree].get(result.check, 0) + 1
        found = next((artifact for artifact in event.artifacts if artifact.role == "diagnostics"), None)
        if found is not None:
            line.findings[tree] = found
        if scheduled.purpose is not None and (event.ok or event.error_class == "check_failed"):
            line.closed = None


def _note_tool(run: RunState, workstream: Workstream, scheduled: StepScheduled) -> None:
    """Who has worked on it; a program that mends what a machine can is not told."""
    if scheduled.step not in {"edit", "fix"} or (scheduled.fix is not None and scheduled.fix.mechanical):
        return
    chain = run.definitions.chain(workstream.id, scheduled.step) if run.definitions is not None else ()
    tool = scheduled.tool or (chain[0] if chain else "")
    if tool and tool not in workstream.tools and len(workstream.tools) < TOOLS_NAMED_MAX:
        workstream.tools = [*workstream.tools, tool]


def _note(workstream: Workstream, scheduled: StepScheduled, event: StepFinished) -> None:
    """What a finished attempt tells about its workstream: its newest snapshot, and the history of its FIX loop."""
    match scheduled.step:
        case "edit":
            workstream.latest, workstream.autofixed = event.snapshot or workstream.latest, 0
        case "static" | "runtime":
            workstream.latest = workstream.latest or scheduled.input
            if not event.ok and event.error_class == "check_failed":
                before = workstream.failure if workstream.autofixed else None
                replaces = before.signature if before is not None and before.step == scheduled.step else None
                workstream.fix = record_failure(
                    workstream.fix, scheduled.step, event.signature, scheduled.input.tree, replaces=replaces
                )
                workstream.failure = Failure(
                    step=scheduled.step,
                    attempt=scheduled.attempt,
                    signature=event.signature,
                    tree=scheduled.input.tree,
                    diagnostics=next((a for a in event.artifacts if a.role == "diagnostics"), None),
                )
        case "fix" if scheduled.fix is not None and scheduled.fix.mechanical:
            if not event.violations:
                workstream.latest = event.snapshot or workstream.latest
            workstream.autofixed = scheduled.fix.mechanical
        case "fix":
            workstream.latest = event.snapshot or workstream.latest
            failure = workstream.failure
            if failure is not None and failure.step == "merge" and event.conflicts and workstream.latest is not None:
                # What is left of the conflict is still the same failure.
                failure = workstream.failure = msgspec.structs.replace(failure, tree=workstream.latest.tree)
            if event.error_class not in COUNTED_BY_FIX_LOOP:
                return
            step = scheduled.fix.step if scheduled.fix is not None else "static"
            workstream.fix = record_fix(workstream.fix, step)
            workstream.patches = [*workstream.patches, *(a for a in event.artifacts if a.role == "patch")]
            if failure is None or workstream.latest is None or workstream.latest.tree != failure.tree:
                workstream.autofixed = 0
            else:
                # The same tree would be judged the same: the verdict is known, so it is counted and not taken again.
                workstream.fix = record_failure(workstream.fix, failure.step, failure.signature, failure.tree)
        case "compensate":
            workstream.actions += event.ok
        case "merge" | "gate" | "deliver":
            pass


def is_loss(event: Close) -> bool:
    """Whether the attempt ended without telling anything about its workstream: it may be tried again."""
    return isinstance(event, StepLost) or (
        isinstance(event, StepFinished) and event.error_class in {"workspace_error", "unknown"}
    )


def is_handed_back(event: Close) -> bool:
    """Whether an executor that had to stop gave the attempt back: neither a failure nor a loss."""
    return isinstance(event, StepFinished) and event.error_class == "handed_back"


def is_over(run: RunState) -> bool:
    """Whether the run has ended."""
    return run.status in TERMINAL_RUN


def unknown_checks(run: RunState, tree: str, checks: list[Check]) -> list[Check]:
    """Those checks whose passing on this tree is not known yet."""
    known = run.verdicts.get(tree, set())
    return [check for check in checks if check.check not in known]
