"""What runs share: pauses, tool breakers, executors, and what attempts draw on together (services.scheduler.grants).

Folded from `swell.event.fleet.>` and from the attempts of all runs.

    evolve(fleet, fact, attempt) -> fleet
    due(fleet, now_ns, …)        -> [events]

    closed ── N failures in a row ──▶ open ── its time is over ──▶ half_open ── probe succeeds ──▶ closed
                                       ▲                               └────── probe fails ──┐
                                       └─────────────────────────────────────────────────────┘

A provider that refuses for now (its rate, a quota, overload) opens a breaker at once, until it takes requests again: that
of the provider, for every tool that has told that it works with it, or the tool's own where none has told.

A breaker never fails a workstream: what needs the tool goes to another tool, or waits. Failures are folded facts, so every
scheduler counts the same, and a restart forgets nothing. Which tool an attempt used stands in its `StepScheduled`.

Pure: no clock, no I/O, no randomness.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.beats import EXECUTOR_MOVES
from services.events import (
    AnyEvent,
    AttemptGranted,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    CheckResult,
    ErrorClass,
    ExecutorState,
    ExecutorTransitioned,
    FleetPaused,
    FleetResumed,
    GrantReturned,
    LimitsSet,
    PauseRequested,
    PauseScope,
    ProbeGranted,
    RequestAnswered,
    ResultRefused,
    ResumeRequested,
    RunAccepted,
    RunFinished,
    StepCancelled,
    StepFinished,
    StepLost,
    StepScheduled,
    StepStarted,
    ToolBreakerClosed,
    ToolBreakerHalfOpened,
    ToolBreakerOpened,
    stands_on,
)
from services.outcome import usd_text
from services.scheduler import grants
from services.scheduler.budget import FLEET_BUDGET, Refusal, budget_name
from services.scheduler.grants import Ask, Shared, SharedLimits
from services.scheduler.recovery import DELAY_S_MAX, LIMITED
from services.scheduler.routing import Record
from services.wire import Entry, Place

FLEET = "fleet"
"""Stands where a run's id stands; no run can have it."""

TOOL_FAULTS: frozenset[ErrorClass] = frozenset(
    {
        "tool_missing",
        "tool_failed",
        "timeout",
        "idle_timeout",
        "auth",
        "server_error",
        "network",
        "model_not_found",
        "unsupported_params",
    }
)
"""Failures that say something about the tool, not about the work."""

PROVIDER = "provider:"
"""Begins the name of the breaker that all tools of one provider share."""

TREES_KEPT = 20_000
"""Trees whose verdicts are remembered, the newest; about 10 MB."""

TOOLS_KEPT = 1000
"""Tools whose provider and whose record are remembered."""

_SAYS_NOTHING: frozenset[ErrorClass] = frozenset({"handed_back", "workspace_error", "unknown", "setup_error", *LIMITED})
"""Ends of attempts that say nothing about how well a tool works."""

_CLOSES = (StepFinished, StepCancelled, StepLost)
_CARRIES = frozenset[ExecutorState]({"idle", "busy"})
_JUDGING = frozenset({"static", "runtime", "gate"})

EVENTS_MAX = 200
"""Events of one decision; what is left is derived again."""

TERMINATED_KEPT = 200
"""Executors that have gone and are still remembered."""

LIMITED_NS_MAX = int(DELAY_S_MAX) * 1_000_000_000
"""The longest that a provider's word keeps its breaker open; then one attempt asks again."""

_SECOND_NS = 1_000_000_000
_Seconds = Annotated[float, Meta(gt=0)]


class ToolLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the breaker of one tool opens, and for how long, seconds."""

    failures: Annotated[int, Meta(ge=1)] = 5
    open_s: _Seconds = 60.0


class BreakerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tool breakers: `failures` in a row open one, for `open_s` seconds; `tools` overrides both for single tools.

    `probe_s`: how long a grant for a probe stands before another workstream may have it, seconds.
    """

    failures: Annotated[int, Meta(ge=1)] = 5
    open_s: _Seconds = 60.0
    probe_s: _Seconds = 30.0
    tools: dict[str, ToolLimits] = {}

    def of(self, tool: str) -> ToolLimits:
        """The limits of one tool."""
        return self.tools.get(tool) or ToolLimits(failures=self.failures, open_s=self.open_s)


class ToolBreaker(msgspec.Struct):
    """The breaker of a tool or a provider. `failures` in a row; `probe` is the attempt that may use a half-open one.

    `limited_until_ns`: until when a provider refuses, as far as it said so; 0 when it does not refuse.
    """

    tool: str
    state: Literal["closed", "open", "half_open"] = "closed"
    failures: int = 0
    error_class: ErrorClass = "unknown"
    opened_ns: int = 0
    until_ns: int = 0
    reason: str = ""
    probe: ProbeGranted | None = None
    probing: bool = False
    verdict: bool | None = None
    limited_until_ns: int = 0


class ExecutorLife(msgspec.Struct):
    """An executor as it was last recorded."""

    executor: str
    boot: str
    pool: str
    slots: int
    state: ExecutorState
    since_ns: int
    reason: str = ""


class Want(msgspec.Struct, frozen=True):
    """An attempt that waits for the breaker of a tool."""

    tool: str
    run: str
    workstream: str
    attempt: int


class Seen(msgspec.Struct, frozen=True):
    """What the scheduler sees of an executor: its newest beat, and for how long there was none (in its own connected time)."""

    executor: str
    boot: str
    pool: str
    slots: int
    state: ExecutorState
    silent_s: float


class Passed(msgspec.Struct, frozen=True):
    """A check has passed a tree: in which attempt, `<run>/<workstream>/<n>`, and when; and so many tests ran, if it told."""

    attempt: str
    at_ns: int
    tests: int | None = None


class Fleet(msgspec.Struct):
    """Everything that runs share. `verdicts`: by tree, then by pool and check, where it passed last."""

    paused: dict[tuple[PauseScope, str], FleetPaused] = {}
    breakers: dict[str, ToolBreaker] = {}
    providers: dict[str, str] = {}
    records: dict[str, Record] = {}
    executors: dict[str, ExecutorLife] = {}
    verdicts: dict[str, dict[str, Passed]] = {}
    shared: Shared = msgspec.field(default_factory=Shared)
    requests: dict[str, PauseRequested | ResumeRequested | BudgetRequested] = {}
    answers: dict[str, RequestAnswered] = {}
    last_run_sequence: int = 0
    last_sequence: int = 0
    last_entry: str = ""

    def pause_of(self, pool: str) -> FleetPaused | None:
        """The pause that holds everything of a pool, if any."""
        return self.paused.get(("all", "")) or self.paused.get(("pool", pool))

    def passed(self, tree: str, pool: str, check: str) -> Passed | None:
        """Where a check has passed a tree in a pool, as far as that is remembered."""
        return self.verdicts.get(tree, {}).get(f"{pool}/{check}")

    def breakers_of(self, tool: str) -> list[ToolBreaker]:
        """The breakers that stand before a tool: its own, and that of its provider."""
        names = [tool] + ([PROVIDER + self.providers[tool]] if tool in self.providers else [])
        return [self.breakers[name] for name in names if name in self.breakers]


class Barrier(msgspec.Struct, frozen=True):
    """Why a tool cannot be used now; `until_ns` is 0 when nobody knows how long.

    `limited` is the class of the refusal where a provider refuses for now. `unprobed`: the breaker is half open, and nobody
    has its probe. `in_turn`: it keeps its place among those under way, for its turn comes, or nobody else could begin either.
    """

    cause: Literal["tool_breaker", "tool_paused", "tool_missing", "limit"]
    reason: str
    until_ns: int = 0
    limited: ErrorClass | None = None
    unprobed: bool = False
    in_turn: bool = False


def barrier(fleet: Fleet, tool: str, want: Want) -> Barrier | None:
    """What stands between an attempt and a tool, or None."""
    pause = fleet.paused.get(("tool", tool))
    if pause is not None:
        return Barrier("tool_paused", f"tool {tool} is paused by {pause.actor}{_because(pause.reason)}")
    for breaker in fleet.breakers_of(tool):
        found = _before(breaker, want)
        if found is not None:
            return found
    return None


def _before(breaker: ToolBreaker, want: Want) -> Barrier | None:
    if breaker.state == "closed":
        return None
    limited = breaker.error_class if breaker.error_class in LIMITED else None
    if breaker.state == "open":
        reason = f"the breaker of {breaker.tool} is open: {breaker.reason}"
        return Barrier("tool_breaker", reason, breaker.until_ns, limited)
    if _probes(breaker, want.run, want.workstream, want.attempt) and not breaker.probing:
        return None
    reason = f"the breaker of {breaker.tool} is half open: one attempt probes it"
    return Barrier("tool_breaker", reason, limited=limited, unprobed=breaker.probe is None)


def ungranted(fleet: Fleet, now_ns: int, ask: Ask) -> Barrier | Refusal | None:
    """What stands between an attempt and its share of what runs draw on together; None if nothing is limited for it.

    A refusal is one that no waiting helps. The reason of a barrier holds no amounts that change while it waits.
    """
    shared = fleet.shared
    if not shared.is_limited:
        return None
    grant = shared.grant_of(ask)
    fits = grant is not None and wants_same(grant, ask)
    if fits and grant is not None and now_ns < grant.expires_ns and not grants.overdrawn(shared, grant):
        return None
    ask = served(fleet, ask)
    rates = grants.rates_of(shared, ask.provider, ask.model) if ask.cap is not None else []
    limited = grants.stopping_budgets(shared, ask)
    slots = grants.slots_of(shared, ask)
    if not (rates or limited or slots):
        return None
    refused = grants.refusal_of(shared, now_ns, ask)
    if refused is not None and refused.reason == "uncapped":
        return refused
    if refused is not None and refused.reason == "used_up":
        whose = _whose(budget_name(refused.account))
        flag = "--fleet" if whose == "the fleet" else f"--{whose}"
        reason = (
            f"{whose} may spend {usd_text(refused.limit_nano)} a day, UTC, and what is left of today's does not hold this "
            f"attempt, which may cost {usd_text(refused.cap_nano)}: `swell budget set {flag} USD`"
        )
        return Barrier("limit", reason, grants.midnight_ns(now_ns), in_turn=not whose.startswith("tool "))
    names = [
        *(f"a slot of {name}" for name in slots),
        *(f"the budget of {_whose(name)}" for name in limited),
        *(f"the rate of {name}" for name in rates),
    ]
    return Barrier("limit", f"its turn: it draws on {', '.join(names)}", in_turn=True)


def wants_same(grant: AttemptGranted, ask: Ask) -> bool:
    """Whether an attempt asks for what it was granted."""
    return (grant.tool, grant.cap, grant.cap_nano, grant.pool) == (ask.tool, ask.cap, ask.cap_nano, ask.pool)


def served(fleet: Fleet, ask: Ask) -> Ask:
    """The same with its provider: as its profile names it, else as the tool has told; a tool that has not is its own."""
    if ask.provider or ask.cap is None:
        return ask
    return msgspec.structs.replace(ask, provider=fleet.providers.get(ask.tool, ask.tool))


def _whose(budget: str) -> str:
    kind, _, name = budget.partition("/")
    return "the fleet" if budget == FLEET_BUDGET else f"{kind} {name}"


def _probes(breaker: ToolBreaker, run: str, workstream: str, attempt: int) -> bool:
    """Whether an attempt is the one that may probe."""
    probe = breaker.probe
    return probe is not None and (probe.run, probe.workstream, probe.attempt) == (run, workstream, attempt)


def evolve(
    fleet: Fleet, sequence: int, time_ns: int, place: Place, entry: Entry, attempt: StepScheduled | None
) -> Fleet:
    """Fold one entry of the log; `attempt` is the open attempt on whose subject it stands. Total; changes its argument."""
    events = [event for event in entry.events if stands_on(event) == place.kind]
    if place.run != FLEET:
        for event in events:
            if attempt is not None:
                if attempt.step in _JUDGING and isinstance(event, StepFinished):
                    _judged(fleet, place.run, time_ns, attempt, event)
                if attempt.tool:
                    _note(fleet, place.run, time_ns, attempt, event)
                _draw(fleet.shared, place.run, time_ns, attempt, event)
            match event:
                case StepScheduled():
                    if event.tool:
                        _scheduled(fleet, place.run, event)
                    grants.scheduled(fleet.shared, time_ns, place.run, event)
                case GrantReturned():
                    grants.returned(fleet.shared, place.run, event)
                case RunAccepted():
                    grants.accepted(fleet.shared, time_ns, place.run, event.tenant)
                case RunFinished():
                    grants.ended(fleet.shared, place.run)
                case ResultRefused():
                    grants.learnt(fleet.shared, place.run, place.workstream, place.attempt, event.result)
                case _:
                    pass
        return fleet
    fleet.last_sequence, fleet.last_entry = sequence, entry.id
    if place.kind == "run":
        fleet.last_run_sequence = sequence
    for event in events:
        _fold(fleet, time_ns, place, event)
    return fleet


def left(fleet: Fleet, run: str, attempt: StepScheduled) -> None:
    """Note an attempt that is open though its run is over: how it was closed has left the stream with the run."""
    grants.left(fleet.shared, run, attempt)
    record = fleet.records.get(attempt.tool)
    if record is not None and not attempt.dry_run:
        record.open = max(record.open - 1, 0)
    _unprobed(fleet, run, attempt)


def skip(fleet: Fleet, sequence: int, place: Place | None) -> Fleet:
    """Note an entry that cannot be read."""
    fleet.last_sequence = sequence
    if place is not None and place.kind == "run":
        fleet.last_run_sequence = sequence
    return fleet


def _judged(fleet: Fleet, run: str, time_ns: int, attempt: StepScheduled, event: StepFinished) -> None:
    """What has passed is known to all runs. The commit that a run starts from has no tree in its own words."""
    tree = attempt.input.tree or (event.snapshot.tree if event.snapshot is not None else "")
    passed = [result for result in event.checks if result.outcome == "passed"]
    if not tree or not passed:
        return
    known = fleet.verdicts.pop(tree, {})
    name = f"{run}/{attempt.workstream}/{attempt.attempt}"
    fleet.verdicts[tree] = known | {
        f"{attempt.pool}/{result.check}": Passed(name, time_ns, tests_run(result)) for result in passed
    }
    while len(fleet.verdicts) > TREES_KEPT:
        fleet.verdicts.pop(next(iter(fleet.verdicts)))


def tests_run(result: CheckResult) -> int | None:
    """How many tests a check ran, without those that were skipped; None if it did not tell."""
    return None if result.tests is None else max(result.tests - (result.skipped or 0), 0)


def _note(fleet: Fleet, run: str, time_ns: int, attempt: StepScheduled, event: AnyEvent) -> None:
    """The close of an attempt tells whether its tool works; a cancelled, lost or handed back one tells nothing."""
    if isinstance(event, StepFinished) and event.provider:
        fleet.providers.pop(attempt.tool, None)
        fleet.providers[attempt.tool] = event.provider
        while len(fleet.providers) > TOOLS_KEPT:
            fleet.providers.pop(next(iter(fleet.providers)))
    if isinstance(event, _CLOSES):
        _record(fleet, attempt, event)
    match event:
        case StepFinished(dry_run=False) if event.error_class in LIMITED:
            _refused(fleet, run, time_ns, attempt, event)
        case StepFinished(dry_run=False) if event.error_class not in {"handed_back", "workspace_error", "unknown"}:
            if event.error_class in TOOL_FAULTS:
                fleet.breakers.setdefault(attempt.tool, ToolBreaker(tool=attempt.tool))
            for breaker in fleet.breakers_of(attempt.tool):
                _judge(breaker, run, attempt, event)
        case StepFinished() | StepCancelled() | StepLost():
            _unprobed(fleet, run, attempt)
        case _:
            pass


def _unprobed(fleet: Fleet, run: str, attempt: StepScheduled) -> None:
    """The probe that an attempt had is free."""
    for breaker in fleet.breakers_of(attempt.tool):
        if _probes(breaker, run, attempt.workstream, attempt.attempt):
            breaker.probe, breaker.probing = None, False


def _record(fleet: Fleet, attempt: StepScheduled, event: StepFinished | StepCancelled | StepLost) -> None:
    """How well its tool has done."""
    record = fleet.records.get(attempt.tool)
    if record is None or attempt.dry_run:
        return
    record.open = max(record.open - 1, 0)
    if isinstance(event, StepFinished) and event.error_class not in _SAYS_NOTHING:
        cost_nano = event.cost.nano_usd if event.cost is not None else 0
        record.note(ok=event.ok, wall_ns=int(event.tool_wall_s * _SECOND_NS), cost_nano=cost_nano)


def _draw(shared: Shared, run: str, time_ns: int, attempt: StepScheduled, event: AnyEvent) -> None:
    """What the life of an attempt says of what it draws."""
    match event:
        case StepStarted():
            grants.started(shared, run, attempt)
        case StepFinished() | StepCancelled() | StepLost():
            grants.closed(shared, time_ns, run, attempt, event)
        case _:
            pass


def _judge(breaker: ToolBreaker, run: str, attempt: StepScheduled, event: StepFinished) -> None:
    """What a close says of a breaker: a provider that took the request does not refuse, whatever the tool made of it."""
    failed = event.error_class in TOOL_FAULTS and not breaker.tool.startswith(PROVIDER)
    if breaker.state == "closed":
        breaker.failures = breaker.failures + 1 if failed else 0
    elif _probes(breaker, run, attempt.workstream, attempt.attempt):
        breaker.verdict = not failed
        breaker.failures += failed
    if failed:
        breaker.error_class = event.error_class or "unknown"
        breaker.reason = f"{breaker.failures} failures in a row, the last one: {event.message[:300]}"


def _refused(fleet: Fleet, run: str, time_ns: int, attempt: StepScheduled, event: StepFinished) -> None:
    """The provider refuses for now: whoever works with it waits."""
    provider = fleet.providers.get(attempt.tool, "")
    name = PROVIDER + provider if provider else attempt.tool
    breaker = fleet.breakers.setdefault(name, ToolBreaker(tool=name))
    asked_ns = max(event.resets_at_ns, time_ns + int(min(event.retry_after_s, DELAY_S_MAX) * _SECOND_NS))
    breaker.limited_until_ns = max(breaker.limited_until_ns, asked_ns)
    breaker.failures += 1
    breaker.error_class = event.error_class or "unknown"
    breaker.reason = f"{event.error_class}: {event.message[:300]}"
    for other in fleet.breakers_of(attempt.tool):
        if _probes(other, run, attempt.workstream, attempt.attempt):
            if other is breaker:
                other.verdict = False
            else:
                other.probe, other.probing = None, False


def _scheduled(fleet: Fleet, run: str, event: StepScheduled) -> None:
    if not event.dry_run:
        record = fleet.records.pop(event.tool, None) or Record()
        record.open += 1
        fleet.records[event.tool] = record
        while len(fleet.records) > TOOLS_KEPT:
            fleet.records.pop(next(iter(fleet.records)))
    for breaker in fleet.breakers_of(event.tool):
        if _probes(breaker, run, event.workstream, event.attempt):
            breaker.probing = True


def _fold(fleet: Fleet, time_ns: int, place: Place, event: AnyEvent) -> None:
    match event:
        case PauseRequested() | ResumeRequested() | BudgetRequested() if place.kind == "request":
            if event.request_id not in fleet.answers:
                fleet.requests.setdefault(event.request_id, event)
        case _ if place.kind != "run":
            pass
        case RequestAnswered():
            fleet.requests.pop(event.request_id, None)
            fleet.answers[event.request_id] = event
            while len(fleet.answers) > TERMINATED_KEPT:
                fleet.answers.pop(next(iter(fleet.answers)))
        case FleetPaused():
            fleet.paused[event.scope, event.name] = event
        case FleetResumed():
            fleet.paused.pop((event.scope, event.name), None)
        case ToolBreakerOpened():
            breaker = fleet.breakers.setdefault(event.tool, ToolBreaker(tool=event.tool))
            breaker.state, breaker.opened_ns, breaker.until_ns = "open", time_ns, event.until_ns
            breaker.failures, breaker.error_class, breaker.reason = event.failures, event.error_class, event.reason
            breaker.probe, breaker.probing, breaker.verdict = None, False, None
            breaker.limited_until_ns = 0
        case ToolBreakerHalfOpened():
            breaker = fleet.breakers.setdefault(event.tool, ToolBreaker(tool=event.tool))
            breaker.state, breaker.probe, breaker.probing, breaker.verdict = "half_open", None, False, None
        case ProbeGranted():
            breaker = fleet.breakers.setdefault(event.tool, ToolBreaker(tool=event.tool))
            breaker.probe, breaker.probing = event, False
        case ToolBreakerClosed():
            fleet.breakers.pop(event.tool, None)
        case LimitsSet():
            grants.limited(fleet.shared, time_ns, event)
        case BudgetChanged(scope="tool" | "tenant" | "fleet"):
            grants.changed(fleet.shared, time_ns, event)
        case BudgetReached():
            grants.reached(fleet.shared, event)
        case AttemptGranted():
            grants.granted(fleet.shared, time_ns, event)
        case GrantReturned():
            grants.returned(fleet.shared, event.run, event)
        case ExecutorTransitioned():
            fleet.executors[event.executor] = ExecutorLife(
                executor=event.executor,
                boot=event.boot,
                pool=event.pool,
                slots=event.slots,
                state=event.to_state,
                since_ns=time_ns,
                reason=event.reason,
            )
            _forget_gone(fleet)
        case _:
            pass


def _forget_gone(fleet: Fleet) -> None:
    gone = [life.executor for life in fleet.executors.values() if life.state == "terminated"]
    for executor in gone[: max(len(gone) - TERMINATED_KEPT, 0)]:
        del fleet.executors[executor]


def due(
    fleet: Fleet,
    now_ns: int,
    limits: BreakerLimits,
    *,
    wants: Sequence[Want],
    seen: Sequence[Seen],
    watched_s: float,
    lease_s: float,
    shared: SharedLimits | None = None,
    asks: Sequence[Ask] = (),
    live: Collection[str] | None = None,
) -> list[AnyEvent]:
    """What is owed across runs at `now_ns`. Any prefix of it is safe to record: the rest is derived again.

    `wants` are the attempts that wait for breakers; `seen` the executors, of which one that was silent for three leases
    counts as gone. `watched_s`: for how long beats have been watched without a break. `shared` are the configuration's limits
    across runs (default none), `asks` the attempts that wait for their share, `live` the runs that are not over (default all).
    """
    events: list[AnyEvent] = []
    answered: set[tuple[str, str]] = set()
    for request in fleet.requests.values():
        if (request.scope, request.name) not in answered:  # the next one is judged by what this one leads to
            answered.add((request.scope, request.name))
            events.extend(_answer(fleet, request))
    if events:
        return events[:EVENTS_MAX]  # what they change is decided on once it is folded
    for breaker in fleet.breakers.values():
        mine = [want for want in wants if breaker in fleet.breakers_of(want.tool)] if wants else []
        events.extend(_breaker(breaker, now_ns, limits, mine))
    events.extend(_executors(fleet, {found.executor: found for found in seen}, watched_s, lease_s))
    asking = [served(fleet, ask) for ask in asks]
    carried = slots_carried(fleet) if asking else {}
    limits_now = shared or SharedLimits()
    events.extend(grants.due(fleet.shared, now_ns, limits_now, asks=asking, live=live, carried=carried))
    return events[:EVENTS_MAX]


def slots_carried(fleet: Fleet) -> dict[str, int]:
    """How many attempts the executors of each pool carry together."""
    carried: dict[str, int] = {}
    for life in fleet.executors.values():
        if life.state in _CARRIES:
            carried[life.pool] = carried.get(life.pool, 0) + life.slots
    return carried


def _answer(fleet: Fleet, request: PauseRequested | ResumeRequested | BudgetRequested) -> list[AnyEvent]:
    if isinstance(request, BudgetRequested):
        return _budget_answer(fleet, request)
    scope, name, actor = request.scope, request.name, request.actor
    events: list[AnyEvent] = []
    if scope == "run" or (scope in {"tool", "pool"}) != bool(name):
        reason = "name a tool or a pool, or ask for all"
        return [RequestAnswered(request_id=request.request_id, answer="refused", reason=reason, ok=False)]
    if isinstance(request, PauseRequested):
        if (scope, name) not in fleet.paused:
            events.append(FleetPaused(scope=scope, name=name, actor=actor, reason=request.reason))
    else:
        if (scope, name) in fleet.paused:
            events.append(FleetResumed(scope=scope, name=name, actor=actor, reason=request.reason))
        breaker = fleet.breakers.get(name) if scope == "tool" else None
        if breaker is not None and breaker.state != "closed":
            events.append(ToolBreakerClosed(tool=name, reason=f"reset by {actor}", actor=actor))
    return [*events, RequestAnswered(request_id=request.request_id, answer="accepted")]


def _budget_answer(fleet: Fleet, request: BudgetRequested) -> list[AnyEvent]:
    reason = grants.unfit(fleet.shared, request)
    if reason:
        return [RequestAnswered(request_id=request.request_id, answer="refused", reason=reason, ok=False)]
    changed = BudgetChanged(
        actor=request.actor,
        limit_nano=request.limit_nano,
        mode=request.mode,
        reason=request.reason,
        scope=request.scope,
        name=request.name,
    )
    return [changed, RequestAnswered(request_id=request.request_id, answer="accepted")]


def _breaker(breaker: ToolBreaker, now_ns: int, limits: BreakerLimits, wants: Sequence[Want]) -> list[AnyEvent]:
    own = limits.of(breaker.tool)
    match breaker.state:
        case "closed" if breaker.failures >= own.failures or breaker.limited_until_ns:
            return [_opened(breaker, now_ns, own)]
        case "open" if breaker.limited_until_ns > breaker.until_ns:  # refused meanwhile, and for longer
            return [_opened(breaker, now_ns, own)]
        case "open" if now_ns >= breaker.until_ns:
            return [ToolBreakerHalfOpened(tool=breaker.tool)]
        case "half_open" if breaker.verdict is not None:
            if breaker.verdict:
                return [ToolBreakerClosed(tool=breaker.tool, reason="its probe succeeded")]
            return [_opened(breaker, now_ns, own)]
        case "half_open" if breaker.probe is None or (not breaker.probing and now_ns >= breaker.probe.expires_ns):
            expired = breaker.probe
            for want in wants:
                same = expired is not None and (want.run, want.workstream) == (expired.run, expired.workstream)
                if not same:
                    return [_grant(breaker, want, now_ns, limits)]
            # Nobody else wants it: the one whose grant ran out may try again.
            return [_grant(breaker, wants[0], now_ns, limits)] if wants else []
        case _:
            return []


def _opened(breaker: ToolBreaker, now_ns: int, limits: ToolLimits) -> ToolBreakerOpened:
    until_ns = now_ns + int(limits.open_s * _SECOND_NS)
    if breaker.limited_until_ns > now_ns:  # it said until when, which may be anything
        until_ns = min(breaker.limited_until_ns, now_ns + LIMITED_NS_MAX)
    return ToolBreakerOpened(
        tool=breaker.tool,
        failures=breaker.failures,
        until_ns=until_ns,
        reason=breaker.reason[:1500],
        error_class=breaker.error_class,
    )


def _grant(breaker: ToolBreaker, want: Want, now_ns: int, limits: BreakerLimits) -> ProbeGranted:
    return ProbeGranted(
        tool=breaker.tool,
        run=want.run,
        workstream=want.workstream,
        attempt=want.attempt,
        expires_ns=now_ns + int(limits.probe_s * _SECOND_NS),
    )


def _executors(fleet: Fleet, seen: Mapping[str, Seen], watched_s: float, lease_s: float) -> list[AnyEvent]:
    """Who came, who drains, who went: by their own word, or by silence."""
    events: list[AnyEvent] = []
    for found in seen.values():
        life = fleet.executors.get(found.executor)
        silent = found.silent_s > 3 * lease_s
        says: ExecutorState = "idle" if found.state == "busy" else found.state
        if life is not None and life.boot == found.boot and life.state == says and not silent:
            continue  # as it is recorded
        if life is not None and life.boot != found.boot and life.state != "terminated":
            events.append(_moved(life, "terminated", "it has started anew"))
            life = None
        if life is None or life.boot != found.boot or (life.state == "terminated" and says != "terminated"):
            if silent or says in {"terminated", "spawning"}:
                continue
            back = life is not None and life.boot == found.boot
            life = ExecutorLife(
                executor=found.executor,
                boot=found.boot,
                pool=found.pool,
                slots=found.slots,
                state="spawning",
                since_ns=0,
            )
            events.append(_moved(life, "idle", "it was silent, and is back" if back else "it beats"))
            life.state = "idle"
        if silent and life.state != "terminated":
            events.append(_moved(life, "terminated", f"not seen for {found.silent_s:.0f} s"))
        elif says != life.state and says in EXECUTOR_MOVES[life.state]:
            events.append(_moved(life, says, "it says so"))
    if watched_s > 3 * lease_s:
        events.extend(
            _moved(life, "terminated", "its beats are gone")
            for executor, life in fleet.executors.items()
            if executor not in seen and life.state != "terminated"
        )
    return events


def _moved(life: ExecutorLife, to: ExecutorState, reason: str) -> ExecutorTransitioned:
    return ExecutorTransitioned(
        executor=life.executor,
        boot=life.boot,
        pool=life.pool,
        slots=life.slots,
        from_state=life.state,
        to_state=to,
        reason=reason,
    )


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
