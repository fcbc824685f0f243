"""What a scheduler tells Prometheus.

    entries folded live → counters          the state as it is folded → gauges, read at each scrape

Counters count what was folded, appended or noticed since this process began to follow the log: entries that were there
before are history, and a start does not count them again. Standby schedulers fold the same entries, so whoever adds up
schedulers takes the leader's (docs/metrics.md). Gauges are of the folded state, hence the same in every scheduler that
has caught up, but for leadership and fold snapshots.
"""

import asyncio
import contextlib
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from typing import Final, Protocol, get_args

from services.bus import BusError, RefusedError, StreamIdentity
from services.events import (
    TERMINAL_RUN,
    AnyEvent,
    AttemptGranted,
    BudgetReached,
    Delay,
    ExecutorState,
    ExecutorTransitioned,
    FixLimit,
    FixLoopEnded,
    GateFlaked,
    MergeRefused,
    PauseScope,
    RecoveryChosen,
    ResultRefused,
    RunFinished,
    Step,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    StepStarted,
    Strategy,
    ToolBreakerOpened,
    WorkstreamState,
    WorkstreamTransitioned,
)
from services.metrics import (
    LABEL_CHARS_MAX,
    OTHER,
    RUN_BUCKETS_S,
    STEP_BUCKETS_S,
    WAIT_BUCKETS_S,
    Bounded,
    Exposition,
    Reading,
    Series,
)
from services.outcome import BudgetThreshold
from services.scheduler.budget import Account, run_account
from services.scheduler.fleet import ExecutorLife, Fleet
from services.scheduler.grants import standing
from services.scheduler.rates import Bucket, opens_ns
from services.scheduler.state import Attempt, Over, RunState
from services.wire import Entry, Place

TOOLS_MAX: Final = 200
"""Tools that are told apart: their names come with submissions."""

POOLS_MAX: Final = 50
TENANTS_MAX: Final = 50
"""Pools that are told apart: their names come from executors."""

MODELS_MAX: Final = 500
"""Pairs of a tool and a model that are told apart: models are named by tools."""

ASKING_MAX: Final = 10_000
"""Attempts that wait for their share and whose waiting is timed."""

CLOSED_MAX: Final = 10_000
"""Attempts that closed before it was known what they cost, and whose late cost is counted."""

RATES_MAX: Final = 200
"""Rates that are told: a configuration may name more."""

LOG_TIMEOUT_S: Final = 1.0
"""How long a scrape waits for the bus to say where the log ends."""

WORKSTREAMS_AT_ONCE: Final = 5000
"""How many are counted before the loop gets its turn."""

_TOKENS: Final = ("input", "cache_read", "cache_write", "output")
_LIVE_STATES: Final = ("pending", "running", "paused", "ended")
_BREAKER_STATES: Final = ("closed", "open", "half_open")
_RUN_BUDGET_KEYS: Final = (
    ("yes", "limit"), ("yes", "spent"), ("yes", "reserved"), ("no", "spent"), ("no", "reserved"),
)  # fmt: skip

LEADER = Series("swell_scheduler_leader", "gauge", "1 if this scheduler holds the lease and decides.")
CAUGHT_UP = Series("swell_scheduler_caught_up", "gauge", "1 if what the log held at the start is folded.")
HALTED = Series(
    "swell_scheduler_halted",
    "gauge",
    "1 if it decides nothing more: it stops, or the log holds a newer version's entry.",
)
POSITION = Series("swell_scheduler_position", "gauge", "The position in the log up to which entries are folded.")
LAG = Series(
    "swell_scheduler_lag_entries", "gauge", "Positions of the log that are not folded yet; missing without the bus."
)
SNAPSHOT_AGE = Series(
    "swell_scheduler_snapshot_age_seconds",
    "gauge",
    "How long ago, in log time, the newest fold snapshot that this process wrote or started from was made.",
)
RUNS = Series(
    "swell_scheduler_runs", "gauge", "Live runs by status; `ended` are those that still owe something.", ("state",)
)
RUNS_ENDED = Series("swell_scheduler_runs_ended", "gauge", "Runs that have ended and owe nothing.")
WORKSTREAMS = Series("swell_scheduler_workstreams", "gauge", "Workstreams of live runs by state.", ("state",))
ATTEMPTS = Series("swell_scheduler_attempts_open", "gauge", "Attempts scheduled and not closed, by step.", ("step",))
QUEUE = Series("swell_scheduler_queue_depth", "gauge", "Attempts scheduled and not claimed, by pool.", ("pool",))
QUEUE_OLDEST = Series(
    "swell_scheduler_queue_oldest_seconds",
    "gauge",
    "For how long, in log time, the oldest unclaimed attempt of a pool has waited.",
    ("pool",),
)
DELAYED = Series(
    "swell_scheduler_steps_delayed",
    "gauge",
    "Steps decided that cannot be scheduled yet, by what they wait for.",
    ("cause",),
)
REVIEWS = Series("swell_scheduler_reviews_pending", "gauge", "Workstreams of live runs that await a person's review.")
BREAKERS = Series(
    "swell_scheduler_tool_breaker_state",
    "gauge",
    "1 for the state that the breaker of a tool is in, 0 for the others; for `other`, how many tools are in it.",
    ("tool", "state"),
)
PAUSES = Series("swell_scheduler_pauses", "gauge", "Pauses in force that somebody asked for, by scope.", ("scope",))
BUDGETS = Series(
    "swell_scheduler_shared_budget_dollars",
    "gauge",
    "Money of today, UTC, of the `fleet`, a `tool` or a `tenant`: `limit` where there is a budget, `spent`, `reserved`.",
    ("scope", "tool", "tenant", "amount"),
)
SLOTS_USED = Series(
    "swell_scheduler_pool_slots_used",
    "gauge",
    "Attempts granted, queued or under way, by pool and tenant (empty: runs on behalf of nobody).",
    ("pool", "tenant"),
)
SLOTS_WANTED = Series(
    "swell_scheduler_pool_slots_wanted",
    "gauge",
    "Steps that wait for their share of what runs draw on together, by pool and tenant: slots, budgets, rates.",
    ("pool", "tenant"),
)
RUN_BUDGETS = Series(
    "swell_scheduler_run_budget_dollars",
    "gauge",
    "Money of live runs together, with and without a budget of their own (limited: yes, no): `limit`, `spent`, `reserved`.",
    ("limited", "amount"),
)
GRANTS = Series(
    "swell_scheduler_grants_unused", "gauge", "Attempts that have their share across runs and are not scheduled yet."
)
RATE_WAIT = Series(
    "swell_scheduler_rate_wait_seconds",
    "gauge",
    "How long it is, in log time, until one more attempt may begin under a rate; 0 when one may.",
    ("rate",),
)
EXECUTORS = Series(
    "swell_scheduler_executors",
    "gauge",
    "Executors by pool and life-cycle state; of those terminated, the newest 200 are remembered.",
    ("pool", "state"),
)
SLOTS = Series(
    "swell_scheduler_executor_slots", "gauge", "Slots of the executors in each state, by pool.", ("pool", "state")
)

READ: Final = (
    LEADER, CAUGHT_UP, HALTED, POSITION, LAG, SNAPSHOT_AGE, RUNS, RUNS_ENDED, WORKSTREAMS, ATTEMPTS, QUEUE, QUEUE_OLDEST,
    DELAYED, REVIEWS, BREAKERS, PAUSES, BUDGETS, RUN_BUDGETS, GRANTS, RATE_WAIT, SLOTS_USED, SLOTS_WANTED, EXECUTORS, SLOTS,
)  # fmt: skip


_NOTED: Final[frozenset[type]] = frozenset(
    {
        StepScheduled, StepStarted, StepFinished, StepCancelled, StepLost, FixLoopEnded, RecoveryChosen, GateFlaked, MergeRefused,
        RunFinished, ToolBreakerOpened, ExecutorTransitioned, StepDelayed, AttemptGranted, WorkstreamTransitioned, BudgetReached,
        ResultRefused,
    }
)  # fmt: skip
"""Kinds of events of which more is told than their number."""


class Folding(Protocol):
    """What of a scheduler is read; services.scheduler.shell.Shell is one."""

    runs: dict[str, RunState]
    over: dict[str, Over]
    fleet: Fleet
    position: int
    caught_up: bool
    leader: bool
    halted: str

    @property
    def now_ns(self) -> int:
        """Log time now."""

    @property
    def snapshot_ns(self) -> int:
        """The log time of the newest fold snapshot, 0 for none."""

    @property
    def executors(self) -> Mapping[str, ExecutorLife]:
        """Every recorded executor."""

    @property
    def spawning(self) -> list[ExecutorLife]:
        """Executors that beat and are not ready yet."""


class LogEnd(Protocol):
    """Who knows where the log ends; services.bus.Bus is one."""

    async def identity(self) -> StreamIdentity:
        """Which stream it is, and what it holds."""


class SchedulerMetrics:
    """A scheduler's series. The shell tells it what it folds and appends; `read` has the gauges read."""

    def __init__(self, exposition: Exposition) -> None:
        """Declare the counters in `exposition`."""
        self._exposition = exposition
        self._tools = Bounded(TOOLS_MAX)
        self._pools = Bounded(POOLS_MAX)
        self._tenants = Bounded(TENANTS_MAX)
        self._models = Bounded(MODELS_MAX)
        self._seen_tools: dict[str, None] = {}
        counter, histogram = exposition.counter, exposition.histogram
        self._entries = counter("swell_scheduler_entries_folded_total", "Entries of the log that were folded.")
        self._unreadable = counter("swell_scheduler_entries_unreadable_total", "Entries that could not be read.")
        self._events = counter("swell_scheduler_events_folded_total", "Events that were folded, by kind.", "kind")
        self._appends = counter(
            "swell_scheduler_appends_total",
            "Entries this scheduler tried to append: stored, refused by the fence (somebody was first), or unanswered.",
            "outcome",
        )
        self._decisions = counter(
            "swell_scheduler_decisions_total", "Events in the entries that this scheduler has appended."
        )
        self._scheduled = counter("swell_scheduler_steps_scheduled_total", "Attempts that were scheduled.", "step")
        self._closed = counter(
            "swell_scheduler_steps_closed_total",
            "Attempts that were closed; the outcome is ok, lost, cancelled, or the class of the error.",
            "step",
            "tool",
            "outcome",
        )
        self._duration = histogram(
            "swell_scheduler_step_duration_seconds",
            "Wall time of attempts that their executor closed, as its close states it.",
            "step",
            buckets=STEP_BUCKETS_S,
        )
        self._wait = histogram(
            "swell_scheduler_queue_wait_seconds",
            "Time from an attempt's scheduling to its claim, by the times of the log.",
            "pool",
            buckets=WAIT_BUCKETS_S,
        )
        self._shared_wait = histogram(
            "swell_scheduler_shared_wait_seconds",
            "Time that attempts waited for their share across runs, by the times of the log.",
            buckets=WAIT_BUCKETS_S,
        )
        self._granted = counter(
            "swell_scheduler_grants_total", "Attempts that were given their share across runs, by tool.", "tool"
        )
        self._asked_ns: dict[tuple[str, str, int], int] = {}
        self._fixes = counter(
            "swell_scheduler_fix_iterations_total",
            "FIX attempts scheduled, by the step whose failure they mend.",
            "step",
        )
        self._fix_ends = counter("swell_scheduler_fix_loops_ended_total", "FIX loops stopped, by limit.", "limit")
        self._recoveries = counter("swell_scheduler_recoveries_total", "What recovery chose, by strategy.", "strategy")
        self._flakes = counter("swell_scheduler_gate_flakes_total", "Gates that failed and passed on the same tree.")
        self._merges = counter("swell_scheduler_merges_refused_total", "Merges that did not become the head.", "reason")
        self._finished = counter("swell_scheduler_runs_finished_total", "Runs that ended, by their state.", "state")
        self._opened = counter("swell_scheduler_tool_breaker_opened_total", "Openings of a tool's breaker.", "tool")
        self._moves = counter(
            "swell_scheduler_executor_transitions_total",
            "Recorded moves of executors, by pool and the state they went to.",
            "pool",
            "state",
        )
        self._run_duration = histogram(
            "swell_scheduler_run_duration_seconds",
            "Time from a run's acceptance to its end, pauses included, by the times of the log.",
            "state",
            buckets=RUN_BUCKETS_S,
        )
        self._workstreams = counter(
            "swell_scheduler_workstream_transitions_total", "Moves of workstreams, by the state they went to.", "state"
        )
        self._cost = counter("swell_scheduler_cost_dollars_total", "What attempts have cost, by tool.", "tool")
        self._model_cost = counter(
            "swell_scheduler_model_cost_dollars_total",
            "The same by tool, model, and where the figure comes from.",
            "tool",
            "model",
            "basis",
        )
        self._tokens = counter(
            "swell_scheduler_tokens_total",
            "Tokens that attempts have told, by tool, model, and kind: input, cache_read, cache_write or output.",
            "tool",
            "model",
            "kind",
        )
        self._unpriced = counter(
            "swell_scheduler_unpriced_attempts_total",
            "Attempts of tools that cost money whose close did not tell how much.",
            "tool",
        )
        self._thresholds = counter(
            "swell_scheduler_budgets_reached_total",
            "Thresholds of budgets that spending has reached: warning (0.8 of it by default) or exceeded.",
            "scope",
            "threshold",
        )
        self._late_tools: dict[tuple[str, str, int], str] = {}
        self._leadership = counter(
            "swell_scheduler_leadership_changes_total",
            "How often this scheduler took the lease (leading) or found it lost (standing_by).",
            "to",
        )
        self._stood_still = counter(
            "swell_scheduler_stood_still_total",
            "How often this scheduler found that it had stood still, and stepped back.",
        )
        self._kinds: dict[type, tuple[str]] = {kind: (str(kind.__struct_config__.tag),) for kind in get_args(AnyEvent)}
        self._begin_at_nothing()
        self._counted: dict[str, tuple[int, Tally[str]]] = {}

    def _begin_at_nothing(self) -> None:
        """Show what can be counted before it is: a rate does not see the first of what was not there before."""
        for counter, values in (
            (self._appends, ("stored", "refused", "unanswered")),
            (self._leadership, ("leading", "standing_by")),
            (self._scheduled, get_args(Step)),
            (self._fixes, ("static", "runtime")),
            (self._fix_ends, get_args(FixLimit)),
            (self._recoveries, get_args(Strategy)),
            (self._merges, ("conflict", "red", "error")),
            (self._finished, sorted(TERMINAL_RUN)),
            (self._workstreams, get_args(WorkstreamState)),
        ):
            for value in values:
                counter.add((value,), 0)
        for labels in self._kinds.values():
            self._events.add(labels, 0)
        for step in get_args(Step):
            self._duration.begin((step,))
        for state in sorted(TERMINAL_RUN):
            self._run_duration.begin((state,))
        for scope in ("run", "workstream", "tool", "fleet"):
            for threshold in get_args(BudgetThreshold):
                self._thresholds.add((scope, threshold), 0)

    # Told by the shell

    def folded(
        self, place: Place, entry: Entry, time_ns: int, attempt: Attempt | None, run: RunState | None = None
    ) -> None:
        """An entry is about to be folded; `attempt` is the open one on whose subject it stands, `run` its run if it lives."""
        self._entries.add()
        for event in entry.events:
            kind = type(event)
            self._events.add(self._kinds[kind])
            if kind in _NOTED:
                self._note(place, event, time_ns, attempt, run)

    def _note(self, place: Place, event: AnyEvent, time_ns: int, attempt: Attempt | None, run: RunState | None) -> None:
        match event:
            case StepScheduled():
                self._scheduled.add((event.step,))
                tool = self._tools(event.tool)
                self._closed.add((event.step, tool, "ok"), 0)
                if event.tool:
                    self._opened.add((tool,), 0)
                if event.cap is not None:
                    self._cost.add((tool,), 0)
                    self._unpriced.add((tool,), 0)
                if event.step == "fix" and event.fix is not None:
                    self._fixes.add((event.fix.step,))
            case StepStarted() if attempt is not None and not attempt.started_ns:
                waited_s = max(time_ns - attempt.scheduled_ns, 0) / 1e9
                self._wait.observe((self._pools(attempt.scheduled.pool),), waited_s, _key(place))
            case StepFinished() if attempt is not None:
                self._close(attempt, "ok" if event.ok else event.error_class or "unknown")
                self._duration.observe((attempt.scheduled.step,), max(event.wall_s, 0.0), _key(place))
                self._spend(place, attempt, event)
            case StepCancelled() if attempt is not None:
                self._close(attempt, event.error_class or "cancelled")
                self._spend(place, attempt, None)
            case StepLost() if attempt is not None:
                self._close(attempt, "lost")
                self._spend(place, attempt, None)
            case ResultRefused():
                told_late = self._late_tools.pop(_key(place), None)
                if told_late is not None:
                    self._used(told_late, event.result)
            case WorkstreamTransitioned():
                self._workstreams.add((event.to_state,))
            case FixLoopEnded():
                self._fix_ends.add((event.limit,))
            case RecoveryChosen():
                self._recoveries.add((event.strategy,))
            case GateFlaked():
                self._flakes.add(())
            case MergeRefused():
                self._merges.add((event.reason,))
            case RunFinished():
                self._finished.add((event.state,))
                if run is not None and run.accepted_ns:
                    self._run_duration.observe((event.state,), max(time_ns - run.accepted_ns, 0) / 1e9)
            case _:
                self._note_shared(place, event, time_ns)

    def _note_shared(self, place: Place, event: AnyEvent, time_ns: int) -> None:
        """Of what runs share: money, rates, tools, executors."""
        match event:
            case BudgetReached():
                self._thresholds.add((_scope_of(event), event.threshold))
            case StepDelayed(cause="limit"):
                self._granted.add((self._tools(event.step.tool),), 0)
                self._asked_ns.setdefault((place.run, event.step.workstream, event.step.attempt), time_ns)
                while len(self._asked_ns) > ASKING_MAX:
                    del self._asked_ns[next(iter(self._asked_ns))]
            case AttemptGranted():
                self._granted.add((self._tools(event.tool),))
                since_ns = self._asked_ns.pop((event.run, event.workstream, event.attempt), 0)
                if since_ns:
                    self._shared_wait.observe((), max(time_ns - since_ns, 0) / 1e9)
            case ToolBreakerOpened():
                self._opened.add((self._tools(event.tool),))
            case ExecutorTransitioned():
                self._moves.add((self._pools(event.pool), event.to_state))
            case _:
                pass

    def _close(self, attempt: Attempt, outcome: str) -> None:
        tool = self._tools(attempt.scheduled.tool)
        self._seen_tools[tool] = None
        self._closed.add(
            (
                attempt.scheduled.step,
                tool,
                outcome,
            )
        )

    def _spend(self, place: Place, attempt: Attempt, result: StepFinished | None) -> None:
        """Of an attempt that closes, what it used; what its close does not tell may still come late, once."""
        scheduled = attempt.scheduled
        if result is not None:
            self._used(scheduled.tool, result)
        elif attempt.executor and scheduled.tool:
            self._late_tools[_key(place)] = scheduled.tool
            while len(self._late_tools) > CLOSED_MAX:
                del self._late_tools[next(iter(self._late_tools))]
        begun = result is not None or bool(attempt.executor)
        known = result is not None and result.cost is not None and result.cost.basis != "unknown"
        if scheduled.cap is not None and begun and not known:
            self._unpriced.add((self._tools(scheduled.tool),))

    def _used(self, tool: str, result: StepFinished) -> None:
        if result.cost is None and result.usage is None:
            return
        labels = (self._tools(tool), self._model(tool, result.model))
        if result.cost is not None:
            dollars = result.cost.nano_usd / 1e9
            self._cost.add(labels[:1], dollars)
            self._model_cost.add((*labels, result.cost.basis), dollars)
        if result.usage is not None:
            for kind in _TOKENS:
                self._tokens.add((*labels, kind), getattr(result.usage, f"{kind}_tokens"))

    def _model(self, tool: str, model: str) -> str:
        """The label of a model; the bound is on pairs, since a tool may name what it likes."""
        if not model:
            return "none"
        return OTHER if self._models(f"{tool}\n{model}") == OTHER else model[:LABEL_CHARS_MAX]

    def leads(self, leading: bool) -> None:
        """The scheduler has taken the lease, or found that it no longer holds it."""
        self._leadership.add(("leading" if leading else "standing_by",))

    def unreadable(self) -> None:
        """An entry cannot be read."""
        self._unreadable.add()

    def stood_still(self) -> None:
        """The scheduler's loop had not moved for a while."""
        self._stood_still.add()

    @contextlib.contextmanager
    def appending(self, events: int) -> Iterator[None]:
        """Around the append of an entry with so many events."""
        try:
            yield
        except RefusedError:
            self._appends.add(("refused",))
            raise
        except BusError:
            self._appends.add(("unanswered",))
            raise
        self._appends.add(("stored",))
        self._decisions.add((), events)

    # Read at a scrape

    def read(self, scheduler: Folding, log_end: LogEnd) -> None:
        """Have the gauges read from `scheduler` from now on."""

        async def reader() -> list[Reading]:
            return [
                *_own(scheduler),
                *await _lag(scheduler, log_end),
                *await self._runs(scheduler),
                *self._queue(scheduler),
                *self._breakers(scheduler.fleet),
                *self._executors(scheduler),
                *_pauses(scheduler),
                *self._shared(scheduler),
                *_run_budgets(scheduler),
            ]

        self._exposition.read(READ, reader)

    async def _runs(self, scheduler: Folding) -> list[Reading]:
        """Counts over live runs; the workstreams of a run are counted anew only if something happened to it."""
        runs = list(scheduler.runs.values())
        states: Tally[str] = Tally(dict.fromkeys(_LIVE_STATES, 0))
        workstreams: Tally[str] = Tally(dict.fromkeys(get_args(WorkstreamState), 0))
        steps: Tally[str] = Tally(dict.fromkeys(get_args(Step), 0))
        delays: Tally[str] = Tally(dict.fromkeys(get_args(Delay), 0))
        reviews = 0
        before, self._counted = self._counted, {}
        at_once = 0
        for run in runs:
            states["ended" if run.finished is not None else run.status] += 1
            reviews += len(run.reviews)
            steps.update(attempt.scheduled.step for attempt in run.open.values())
            delays.update(_delays(run))
            known = before.get(run.run)
            if known is None or known[0] != run.last_sequence:
                known = (run.last_sequence, Tally(one.state for one in run.workstreams.values()))
                at_once += len(run.workstreams)
            self._counted[run.run] = known
            workstreams.update(known[1])
            if at_once >= WORKSTREAMS_AT_ONCE:
                at_once = 0
                await asyncio.sleep(0)
        return [
            *((RUNS, (state,), count) for state, count in states.items()),
            (RUNS_ENDED, (), len(scheduler.over)),
            *((WORKSTREAMS, (state,), count) for state, count in workstreams.items()),
            *((ATTEMPTS, (step,), count) for step, count in steps.items()),
            *((DELAYED, (cause,), count) for cause, count in delays.items()),
            (REVIEWS, (), reviews),
        ]

    def _queue(self, scheduler: Folding) -> list[Reading]:
        depth: Tally[str] = Tally({self._pools(life.pool): 0 for life in scheduler.executors.values()})
        oldest: dict[str, int] = {}
        for run in scheduler.runs.values():
            for attempt in run.unclaimed.values():
                pool = self._pools(attempt.scheduled.pool)
                depth[pool] += 1
                oldest[pool] = min(attempt.scheduled_ns, oldest.get(pool, attempt.scheduled_ns))
        now_ns = scheduler.now_ns
        return [
            *((QUEUE, (pool,), count) for pool, count in depth.items()),
            *((QUEUE_OLDEST, (pool,), max(now_ns - oldest.get(pool, now_ns), 0) / 1e9) for pool in depth),
        ]

    def _breakers(self, fleet: Fleet) -> list[Reading]:
        """Of tools that failed lately, and of those that were used since the start."""
        found: Tally[tuple[str, str]] = Tally()
        told: set[str] = set()
        for breaker in fleet.breakers.values():
            tool = self._tools(breaker.tool)
            told.add(tool)
            found[tool, breaker.state] += 1
        for tool in self._seen_tools:
            if tool not in told and tool != "none":
                found[tool, "closed"] += 1
        tools = dict.fromkeys(tool for tool, _ in found)
        return [(BREAKERS, (tool, state), found[tool, state]) for tool in tools for state in _BREAKER_STATES]

    def _shared(self, scheduler: Folding) -> list[Reading]:
        """What runs draw on together, where anything is limited; tools beyond those told apart are added up."""
        shared = scheduler.fleet.shared
        if not shared.is_limited:
            return []
        amounts: Tally[tuple[str, str, str, str]] = Tally()
        for found in standing(shared, scheduler.now_ns):
            whose = ("fleet", "", "")
            if found.tool:
                whose = ("tool", self._tools(found.tool), "")
            elif found.tenant:
                whose = ("tenant", "", self._tenants(found.tenant))
            if found.budget is not None:
                amounts[*whose, "limit"] += found.budget.limit_nano
            amounts[*whose, "spent"] += found.spent_nano
            amounts[*whose, "reserved"] += found.reserved_nano
        used: Tally[tuple[str, str]] = Tally()
        for (pool, tenant), slots in shared.using.items():
            used[self._pools(pool), self._tenants(tenant) if tenant else ""] += slots
        wanted: Tally[tuple[str, str]] = Tally(dict.fromkeys(used, 0))
        for run in scheduler.runs.values():
            behalf = run.accepted.tenant if run.accepted is not None else ""
            tenant = self._tenants(behalf) if behalf else ""
            for name in run.delayed:
                delayed = run.workstreams[name].delayed
                if delayed is not None and delayed.cause == "limit":
                    wanted[self._pools(delayed.step.pool), tenant] += 1
        waits = {
            name: max(opens_ns(shared.buckets.get(name, Bucket()), rate) - scheduler.now_ns, 0) / 1e9
            for name, rate in list(shared.limits.rates.items())[:RATES_MAX]
        }
        return [
            *((BUDGETS, key, nano / 1e9) for key, nano in amounts.items()),
            (GRANTS, (), sum(len(mine) for mine in shared.grants.values())),
            *((RATE_WAIT, (name,), wait_s) for name, wait_s in waits.items()),
            *((SLOTS_USED, key, slots) for key, slots in used.items()),
            *((SLOTS_WANTED, key, count) for key, count in wanted.items()),
        ]

    def _executors(self, scheduler: Folding) -> list[Reading]:
        count: Tally[tuple[str, str]] = Tally()
        slots: Tally[tuple[str, str]] = Tally()
        for life in (*scheduler.executors.values(), *scheduler.spawning):
            key = (self._pools(life.pool), life.state)
            count[key] += 1
            slots[key] += life.slots
        pools = dict.fromkeys(pool for pool, _ in count)
        keys = [(pool, state) for pool in pools for state in get_args(ExecutorState)]
        return [*((EXECUTORS, key, count[key]) for key in keys), *((SLOTS, key, slots[key]) for key in keys)]


def _own(scheduler: Folding) -> list[Reading]:
    readings: list[Reading] = [
        (LEADER, (), scheduler.leader),
        (CAUGHT_UP, (), scheduler.caught_up),
        (HALTED, (), bool(scheduler.halted)),
        (POSITION, (), scheduler.position),
    ]
    if scheduler.snapshot_ns:
        readings.append((SNAPSHOT_AGE, (), max(scheduler.now_ns - scheduler.snapshot_ns, 0) / 1e9))
    return readings


async def _lag(scheduler: Folding, log_end: LogEnd) -> list[Reading]:
    try:
        async with asyncio.timeout(LOG_TIMEOUT_S):
            end = (await log_end.identity()).last
    except (BusError, TimeoutError):
        return []
    return [(LAG, (), max(end - scheduler.position, 0))]


def _delays(run: RunState) -> Iterator[str]:
    for name in run.delayed:
        delayed = run.workstreams[name].delayed
        if delayed is not None:
            yield delayed.cause
    if run.line is not None and run.line.delayed is not None:
        yield run.line.delayed.cause


def _key(place: Place) -> tuple[str, str, int]:
    return place.run, place.workstream, place.attempt


def _scope_of(event: BudgetReached) -> str:
    """Whose budget it is."""
    if event.day:
        return "tool" if event.tool else "tenant" if event.tenant else "fleet"
    return "workstream" if event.workstream else "run"


def _run_budgets(scheduler: Folding) -> list[Reading]:
    """Sums over live runs: which run it is of is the ledger's to tell."""
    sums: Tally[tuple[str, str]] = Tally()
    for run in scheduler.runs.values():
        name = run_account(run.run)
        budget, account = run.book.budgets.get(name), run.book.accounts.get(name) or Account()
        limited = "no" if budget is None else "yes"
        if budget is not None:
            sums[limited, "limit"] += budget.limit_nano
        sums[limited, "spent"] += account.spent_nano
        sums[limited, "reserved"] += account.reserved_nano
    return [(RUN_BUDGETS, key, sums[key] / 1e9) for key in _RUN_BUDGET_KEYS]


def _pauses(scheduler: Folding) -> list[Reading]:
    scopes: Tally[str] = Tally(dict.fromkeys(get_args(PauseScope), 0))
    scopes.update(scope for scope, _ in scheduler.fleet.paused)
    scopes["run"] += sum(run.held == "request" for run in scheduler.runs.values())
    return [(PAUSES, (scope,), count) for scope, count in scopes.items()]
