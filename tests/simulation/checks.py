"""What must hold of a history, judged from its entries alone, by rules written down here once more and not shared with Swell.

I1 what was asked is in the log and answered         I5 slots, groups, scopes, parallel_ok
I2 one claim at most, one close, only `late` after   I9 bounded attempts
I3 what is merged and delivered passed its checks    moves: only documented ones, each from where the last one led
I4 a start contains what it depends on               pauses, breakers, losses, waits, ends
I6 what is spent and reserved is within the budgets, of runs and of all together, but for what tools overshoot; shares of
   what runs draw on together are given as fast as rates allow, used or given back once, and held by nobody
"""

import math
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from services.bundle import BundleGate
from services.events import (
    LINE,
    AnyEvent,
    AttemptGranted,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    DeliveryRequested,
    FleetPaused,
    FleetResumed,
    GateFlaked,
    GrantReturned,
    IntegrationAdvanced,
    IntegrationReverted,
    LimitsSet,
    LineDelivered,
    MergeRefused,
    MergeStaged,
    PauseRequested,
    ProbeGranted,
    RecoveryChosen,
    RequestAnswered,
    ResultRefused,
    RevertFinished,
    RevertStarted,
    RollbackFinished,
    RollbackStarted,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunStopping,
    RunTransitioned,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    StepSkipped,
    StepStarted,
    ToolBreakerClosed,
    ToolBreakerHalfOpened,
    ToolBreakerOpened,
    WorkstreamTransitioned,
)
from services.spec import RunSpec
from services.wire import Entry, Recorded, parse_subject
from tests.simulation.algebra import Repository
from tests.simulation.clockwork import SECOND_NS
from tests.simulation.scenario import Scenario

MOVES = {
    "pending": {"blocked", "ready", "cancelled"},
    "ready": {"editing", "static_check", "runtime_check", "fixing", "cancelled", "failed", "awaiting_review"},
    "editing": {"static_check"},
    "static_check": {"fixing", "runtime_check"},
    "fixing": {"static_check", "runtime_check"},
    "runtime_check": {"fixing", "validating"},
    "validating": {"merging"},
    "merging": {"completed", "fixing"},
    "awaiting_review": {"ready", "failed", "cancelled"},
    "completed": {"compensating"},
    "compensating": {"compensated", "compensation_failed"},
    "compensation_failed": {"compensating"},
}
STEPWISE = {
    "editing": {"runtime_check", "fixing"},
    "static_check": {"editing"},
    "fixing": {"editing"},
    "runtime_check": {"static_check", "editing"},
}
ACTIVE = {"editing", "static_check", "fixing", "runtime_check", "validating", "merging"}
ENDS = {"failed", "cancelled", "awaiting_review"}
ENDED = {"completed", "failed", "cancelled", "blocked", "compensated", "compensation_failed"}

ATTEMPTS_MAX = 160
"""Attempts of one workstream, and of the line for each of its merges, between two words of a person."""

STOP_S = 5.0
"""Within so long an executor that is connected stops an attempt that was closed elsewhere: a few beats."""

WAIT_S = 45.0
"""A workstream under way that nothing is scheduled for, and nothing holds, may stand for so long."""


class Attempt:
    """One scheduled attempt, as its entries tell."""

    __slots__ = ("at", "claimed", "closed", "closed_ns", "day", "granted", "late", "scheduled", "scheduled_ns")

    def __init__(self, scheduled: StepScheduled, scheduled_ns: int, at: int) -> None:
        self.scheduled_ns = scheduled_ns
        self.at = at
        self.day = _day(scheduled_ns)
        self.granted = False
        self.scheduled = scheduled
        self.claimed: StepStarted | None = None
        self.closed: AnyEvent | None = None
        self.closed_ns = 0
        self.late: list[StepFinished] = []

    def amount(self) -> int:
        """What the closed attempt counts as: what its tool told, at least; its cap where that is not all."""
        if isinstance(self.closed, StepCancelled) and self.claimed is None:
            return 0
        told = [self.closed] if isinstance(self.closed, StepFinished) else []
        exact = [one for one in told if one.cost is not None and not (one.usage and one.usage.lower_bound)]
        if exact:
            return max(one.cost.nano_usd for one in exact if one.cost is not None)
        told += self.late
        exact = [one for one in told if one.cost is not None and not (one.usage and one.usage.lower_bound)]
        least = max((one.cost.nano_usd for one in told if one.cost is not None), default=0)
        return least if exact else max(least, self.scheduled.cap_nano)


class Ran:
    """A run, as its entries tell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec: RunSpec | None = None
        self.states: dict[str, str] = {}
        self.status = "pending"
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.open: set[tuple[str, int]] = set()
        self.passed: dict[str, set[tuple[str, str]]] = {}
        self.every: dict[str, bool] = {}
        self.latest: dict[str, Any] = {}
        self.merged: list[str] = []
        self.staged: list[str] = []
        self.searches = 0
        self.head = ""
        self.heads: dict[str, str] = {}
        self.delivered: set[str] = set()
        self.delayed: dict[str, StepDelayed] = {}
        self.paused = False
        self.stopping = False
        self.finished: RunFinished | None = None
        self.rolling = False
        self.wished: set[str] = set()
        self.delivering: set[str] = set()
        self.rollbacks = 0
        self.since_word: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.waiting_ns: dict[str, int] = {}
        self.answered: Counter[str] = Counter()
        self.accepted = 0
        self.asked: set[str] = set()
        self.answers: dict[str, str] = {}
        self.deadline_ns = 0
        self.tenant = ""
        self.paused_ns = 0
        self.paused_since_ns = 0
        self.limit_nano: int | None = None
        self.told: Counter[tuple[str, str, int]] = Counter()


class Breaker:
    """The breaker of a tool, as its entries tell."""

    def __init__(self) -> None:
        self.state = "closed"
        self.at = 0
        self.grant: ProbeGranted | None = None
        self.grant_at = 0
        self.probes = 0


class Share:
    """A grant across runs that is neither used nor given back."""

    def __init__(self, event: AttemptGranted, recorded: Recorded) -> None:
        self.event = event
        self.at = recorded.sequence
        self.day = _day(recorded.time_ns)


class Together:
    """What runs draw on together, as the entries tell."""

    def __init__(self) -> None:
        self.limits = LimitsSet()
        self.people: dict[str, BudgetChanged] = {}
        self.changed_at = 0
        self.changed_ns = 0
        self.shares: dict[tuple[str, str, int], Share] = {}
        self.granted_ns: dict[str, list[int]] = {}
        self.told: Counter[tuple[str, str, str]] = Counter()
        self.earlier: set[tuple[str, str, str]] = set()

    def budget(self, tool: str) -> int | None:
        """What may be spent a day, by a tool or ("") by all, where that stops anybody."""
        person = self.people.get(tool)
        if person is not None:
            return person.limit_nano if person.mode == "halt" else None
        limit_nano = self.limits.tools_nano.get(tool) if tool else self.limits.fleet_nano
        return limit_nano if self.limits.mode == "halt" else None

    def counted(self, pool: str, tenant: str) -> bool:
        """Whether slots of a pool or of a tenant are counted."""
        share = self.limits.tenants.get(tenant) or self.limits.tenants.get("*")
        return bool({pool, "*"} & self.limits.pools.keys()) or (share is not None and share.concurrency > 0)

    def rates(self, provider: str, model: str) -> list[str]:
        """The rates in force for a model of a provider."""
        return [name for name in (provider, f"{provider}/{model}") if name in self.limits.rates]

    def change(self, recorded: Recorded) -> None:
        """The limits are others now."""
        self.changed_at, self.changed_ns = recorded.sequence, recorded.time_ns
        self.earlier |= self.told.keys()  # what is reached under the new budget as well is not told again
        self.told.clear()


def _day(time_ns: int) -> str:
    return _day_of(time_ns // SECOND_NS // 86_400)


@lru_cache(maxsize=1000)
def _day_of(days: int) -> str:
    return datetime.fromtimestamp(days * 86_400, UTC).date().isoformat()


class Checker:
    """The judge of one history."""

    def __init__(self, world: Any, repository: Repository, made: Scenario) -> None:
        self._world = world
        self._repository = repository
        self._made = made
        self.friendly_from_ns = 0
        self.attempts = 0
        self.stats: Counter[str] = Counter()
        self.runs: dict[str, Ran] = {}
        self._findings: list[str] = []
        self._breakers: dict[str, Breaker] = {}
        self._pauses: dict[tuple[str, str], int] = {}
        self._together = Together()
        self._moved_ns = 0
        self._by: dict[str, str] = {}
        self._asked: dict[str, Any] = {}

    def judge(self, log: list[Recorded], history: list[Entry], people: Any, *, ended: bool) -> list[str]:
        """Everything that is wrong with a history; `ended`: it is a whole one."""
        for recorded, entry in zip(log, history, strict=True):
            place = parse_subject(recorded.subject)
            if place.run == "fleet":
                if place.kind == "run":
                    self._fleet(recorded, entry)
                else:
                    self._asked.update({one.request_id: one for one in entry.events})  # type: ignore[union-attr]
            else:
                run = self.runs.get(place.run)
                if run is None:
                    run = self.runs[place.run] = Ran(place.run)
                if place.kind == "run":
                    self._decided(run, recorded, entry)
                elif place.kind == "attempt":
                    self._lived(run, recorded, entry, (place.workstream, place.attempt))
                elif place.kind == "late":
                    self._late(run, recorded, entry, (place.workstream, place.attempt))
                elif place.kind == "request":
                    run.asked.update(one.request_id for one in entry.events)  # type: ignore[union-attr]
                    run.wished.update(one.request_id for one in entry.events if isinstance(one, DeliveryRequested))
            if recorded.time_ns > self.friendly_from_ns:
                self._waits(recorded)
                self._owed_to_all(recorded)
            if self._findings:
                return [f"{self._findings[0]} (position {recorded.sequence})"]
        if ended:
            self._ended(people)
        return self._findings

    def _wrong(self, said: str) -> None:
        self._findings.append(said)

    # Decisions of a run

    def _decided(self, run: Ran, recorded: Recorded, entry: Entry) -> None:
        scheduled, moved = False, ""
        delivering = bool(run.delivering)
        for event in entry.events:
            match event:
                case StepScheduled():
                    scheduled = True
                    self._scheduled(run, recorded, entry, event)
                case WorkstreamTransitioned():
                    self._moved(run, event)
                case RunAccepted():
                    run.accepted += 1
                    if run.accepted > 1:
                        self._wrong(f"{run.name} accepted twice")
                    run.spec = self._world.specs[event.spec.digest]
                    run.states = {one.id: "pending" for one in run.spec.bundles}
                    run.head = event.base_commit
                    run.answered[event.request_id] += 1
                    run.deadline_ns = event.deadline_ns
                    run.tenant = event.tenant
                    options = run.spec.options
                    run.limit_nano = options.budget_nano if options.budget_mode == "halt" else None
                case RunAmended():
                    run.spec = self._world.specs[event.spec.digest]
                    self.stats["amended"] += 1
                case RequestAnswered():
                    run.answered[event.request_id] += 1
                    before = run.answers.setdefault(event.request_id, event.answer)
                    if event.request_id in run.wished:
                        (run.delivering.add if event.answer == "accepted" else run.delivering.discard)(event.request_id)
                        self.stats[f"delivery asked for: {event.answer}"] += 1
                    if event.answer != before and (before, event.answer) != ("accepted", "done"):
                        self._wrong(f"I1: {event.request_id} is {event.answer}, and was {before}")
                case RunTransitioned():
                    if event.from_state != run.status:
                        self._wrong(f"{run.name} moves from {event.from_state} and is {run.status}")
                    run.status = event.to_state
                    if event.to_state == "paused" and not run.paused:
                        run.paused_since_ns = recorded.time_ns
                    elif event.to_state != "paused" and run.paused:
                        run.paused_ns += recorded.time_ns - run.paused_since_ns
                    run.paused = event.to_state == "paused"
                    self._moved_ns = recorded.time_ns
                    self.stats[f"run {event.to_state} {event.cause}".strip()] += 1
                case RunStopping():
                    if run.stopping:
                        self._wrong(f"{run.name} stops twice")
                    run.stopping = True
                    early_s = (run.deadline_ns + run.paused_ns - recorded.time_ns) / SECOND_NS
                    if event.cause == "run_timeout" and (run.deadline_ns == 0 or early_s > 1 or run.paused):
                        self._wrong(f"{run.name} times out {early_s:.0f} s too early: it was paused {run.paused_ns} ns")
                case RunFinished():
                    self._finished(run, event)
                    shares = self._together.shares  # what the run was granted and did not use ends with it
                    self._together.shares = {key: share for key, share in shares.items() if key[0] != run.name}
                case IntegrationAdvanced():
                    self._advanced(run, event)
                    moved = event.to.tree
                case MergeStaged():
                    run.staged.append(event.workstream)
                    run.searches = 0
                    self.stats["staged"] += 1
                case MergeRefused():
                    self._refused(run, event)
                case GateFlaked():
                    self.stats["gates flaked"] += 1
                case StepSkipped():
                    self._known_elsewhere(run, event)
                case LineDelivered():
                    head = event.head or event.commit
                    if head != run.head:
                        self._wrong(f"I3: {head} delivered, the head is {run.head}")
                    run.delivered.add(head)
                case StepDelayed():
                    name = event.step.on_behalf if event.step.workstream == LINE else event.step.workstream
                    run.delayed[name] = event
                    self.stats[f"delayed: {event.cause}"] += 1
                case RecoveryChosen():
                    self._recovered(run, event)
                case BudgetChanged():
                    run.limit_nano = event.limit_nano if event.mode == "halt" else None
                    run.told.clear()
                    self.stats["budgets changed"] += 1
                case BudgetReached():
                    run.told[event.workstream, event.threshold, event.limit_nano] += 1
                    if run.told[event.workstream, event.threshold, event.limit_nano] > 1:
                        self._wrong(f"I6: {event.threshold} of {event.workstream or run.name} is told twice")
                    self.stats[f"budget {event.threshold}"] += 1
                case GrantReturned():
                    self._given_back(run.name, event)
                case RollbackStarted():
                    run.rolling = True
                    run.rollbacks += 1
                    self.stats["rollbacks"] += 1
                case RollbackFinished():
                    run.rolling = False
                case RevertStarted():
                    run.rolling = True
                    self.stats["reverts"] += 1
                case RevertFinished():
                    run.rolling = False
                    self.stats[f"revert {event.state}"] += 1
                case IntegrationReverted():
                    self._reverted(run, event)
                case _:
                    pass
        if moved:
            self._whole(run, moved)
        if scheduled and run.finished is not None and not (run.rolling or run.delivering or delivering):
            self._wrong(f"{run.name} has ended, and schedules")

    def _scheduled(self, run: Ran, recorded: Recorded, entry: Entry, event: StepScheduled) -> None:
        self.attempts += 1
        name, key = event.workstream, (event.workstream, event.attempt)
        self.stats[f"step {event.step}"] += 1
        if run.spec is None:
            self._wrong(f"{key} scheduled before {run.name} is accepted")
            return
        if key in run.attempts:
            self._wrong(f"I2: {key} scheduled twice")
        if event.attempt > 1 and (name, event.attempt - 1) not in run.attempts:
            self._wrong(f"I2: {key} skips a number")
        if any(one == name for one, _ in run.open):
            self._wrong(f"I2: {key} scheduled while {sorted(run.open)} are open")
        if run.finished is not None and event.step != "compensate" and not (run.rolling or run.delivering):
            self._wrong(f"{key} is {event.step} after the end of {run.name}")
        if run.stopping and run.finished is None:
            self._wrong(f"{key} scheduled while {run.name} stops")
        if run.paused and not event.request_id:  # a delivery that was asked for is no work of the run
            self._wrong(f"paused: {key} scheduled while {run.name} is paused")
        for (scope, named), at in self._pauses.items():
            held = scope == "all" or (scope == "pool" and named == event.pool)
            held = held or (scope == "tool" and named == event.tool and event.tool != "" and not event.dry_run)
            if held and entry.seen >= at:
                self._wrong(f"paused: {key} scheduled though {scope} {named} is paused since {at}, seen {entry.seen}")
        run.attempts[key] = Attempt(event, recorded.time_ns, recorded.sequence)
        if event.cap is not None or (name != LINE and run.finished is None):
            self._share(run, entry, run.attempts[key])
        run.open.add(key)
        if event.cap is not None:
            self._money(run, "", run.limit_nano)
            bundle = next((one for one in run.spec.bundles if one.id == name), None)
            if bundle is not None and bundle.max_cost_usd is not None and run.spec.options.budget_mode == "halt":
                self._money(run, name, round(bundle.max_cost_usd * 10**9))
        run.delayed.pop(event.on_behalf or name, None)
        run.waiting_ns.pop(name, None)
        if len(run.open) > run.spec.options.max_workers:
            self._wrong(f"I5: {len(run.open)} attempts open, {run.spec.options.max_workers} allowed")
        if event.tool and not event.dry_run:
            self._breaker(run, recorded, entry, event)
        owner = event.on_behalf or name
        run.since_word[owner] += 1
        if run.since_word[owner] > ATTEMPTS_MAX:
            self._wrong(f"I9: {run.since_word[owner]} attempts on behalf of {owner}")
        if name != LINE and event.step == "edit" and not run.spec.options.stepwise:
            self._starts(run, event)
        if name != LINE and event.step != "compensate" and run.states[name] not in ACTIVE:
            self._wrong(f"moves: {key} scheduled while {name} is {run.states[name]}")
        judged = event.theirs if event.step == "merge" else event.input
        judging = event.step in {"static", "runtime", "merge", "gate"} and not event.dry_run
        if judging and judged is not None and self._repository.is_marked(judged.commit):
            self._wrong(f"merge: {key} takes {judged.commit} with its conflict markers")

    def _money(self, run: Ran, workstream: str, limit_nano: int | None) -> None:
        """At a dispatch, it included: what is spent and reserved, against the budget and what was overshot."""
        if limit_nano is None:
            return
        total = overshot = 0
        for (name, _), attempt in run.attempts.items():
            if attempt.scheduled.cap is None or (workstream and name != workstream):
                continue
            cap = attempt.scheduled.cap_nano
            amount = cap if attempt.closed is None else attempt.amount()
            total += amount
            overshot += max(amount - cap, 0)
        self.stats["dispatches under a budget"] += 1
        if total > limit_nano + overshot:
            self._wrong(
                f"I6: {total} spent and reserved of {limit_nano} by {workstream or run.name}, {overshot} overshot"
            )

    # Money and rates across runs

    def _granted(self, recorded: Recorded, entry: Entry, event: AttemptGranted) -> None:
        """A share is given: the slots suffice, the budgets hold it, and the rates allow it."""
        self.stats["grants"] += 1
        self.stats["grants of slots"] += bool(self._together.limits.pools or self._together.limits.tenants)
        together, key = self._together, (event.run, event.workstream, event.attempt)
        if key in together.shares:
            self._wrong(f"I6: {key} is granted twice")
        run = self.runs.get(event.run)
        if run is None or key[1:] not in run.attempts:
            together.shares[key] = Share(event, recorded)
        if entry.seen >= together.changed_at:
            self._slots(event)
        if event.cap is None:
            return
        for tool in ("", event.tool):
            limit_nano = together.budget(tool)
            if limit_nano is None:
                continue
            total, _, overshot = self._spent_by_all(tool, _day(recorded.time_ns), entry.seen)
            self.stats["grants under a budget"] += 1
            if total > limit_nano + overshot:
                self._wrong(f"I6: {total} spent and reserved of {limit_nano} by {tool or 'all'}, {overshot} overshot")
        for name in together.rates(event.provider, event.model):
            rate, times = together.limits.rates[name], together.granted_ns.setdefault(name, [])
            times.append(recorded.time_ns)
            for count, first_ns in enumerate(reversed(times), 1):
                allowed = rate.burst + (recorded.time_ns - first_ns) / (60 * SECOND_NS) * (rate.attempts_per_min or 0)
                if count > allowed + 1e-6:
                    self._wrong(f"I6: {count} attempts granted where the rate of {name} allows {allowed:.1f}")

    def _slots(self, event: AttemptGranted) -> None:
        """What is granted, or under way and no step of a line, is within the slots of its pool and of its tenant."""
        limits = self._together.limits
        held = [(share.event.pool, share.event.tenant) for share in self._together.shares.values()]
        for run in self.runs.values():
            if run.finished is None:
                held += [(run.attempts[key].scheduled.pool, run.tenant) for key in run.open if key[0] != LINE]
        slots = limits.pools.get(event.pool, limits.pools.get("*", 0))
        used = sum(pool == event.pool for pool, _ in held)
        if slots and used > slots:
            self._wrong(f"I5: {used} slots of {slots} of pool {event.pool} are taken")
        share = limits.tenants.get(event.tenant) or limits.tenants.get("*")
        used = sum(tenant == event.tenant for _, tenant in held)
        if share is not None and share.concurrency and used > share.concurrency:
            self._wrong(f"I5: tenant {event.tenant!r} has {used} slots, and may have {share.concurrency}")

    def _spent_by_all(self, tool: str, day: str, seen: int) -> tuple[int, int, int]:
        """Spent and reserved, spent, and overshot on a day by all runs, but for what nobody was asked for and had not seen."""
        total = spent = overshot = 0
        for share in self._together.shares.values():
            if share.day == day and tool in ("", share.event.tool):
                total += share.event.cap_nano
        for run in self.runs.values():
            for attempt in run.attempts.values():
                scheduled = attempt.scheduled
                if scheduled.cap is None or attempt.day != day or tool not in ("", scheduled.tool):
                    continue
                if not attempt.granted and attempt.at > seen:
                    continue
                amount = scheduled.cap_nano if attempt.closed is None else attempt.amount()
                total += amount
                spent += amount if attempt.closed is not None else 0
                overshot += max(amount - scheduled.cap_nano, 0)
        return total, spent, overshot

    def _share(self, run: Ran, entry: Entry, attempt: Attempt) -> None:
        """A dispatch that draws on something shared has its share. One that does not, and crosses a grant, ends that."""
        event, together = attempt.scheduled, self._together
        share = together.shares.pop((run.name, event.workstream, event.attempt), None)
        if share is not None and (share.event.tool, share.event.cap_nano) == (event.tool, event.cap_nano):
            attempt.day = share.day
            if entry.seen >= share.at:
                attempt.granted = True
                return
        assert run.spec is not None
        limited = event.workstream != LINE and together.counted(event.pool, run.tenant)
        if event.cap is not None:
            profile = run.spec.profiles[event.tool]
            limited = limited or any(together.budget(tool) is not None for tool in ("", event.tool))
            limited = limited or bool(together.rates(profile.provider or event.tool, profile.model or ""))
        if limited and entry.seen >= together.changed_at:
            self._wrong(f"I6: {event.workstream}/{event.attempt} of {run.name} begins without a grant")

    def _given_back(self, run: str, event: GrantReturned) -> None:
        self.stats["grants returned"] += 1
        if self._together.shares.pop((run, event.workstream, event.attempt), None) is None:
            self._wrong(f"I6: {run}/{event.workstream}/{event.attempt} gives back what it does not have")

    def _told_to_all(self, event: BudgetReached) -> None:
        self.stats[f"fleet budget {event.threshold}"] += 1
        self._together.told[event.tool, event.day, event.threshold] += 1
        if self._together.told[event.tool, event.day, event.threshold] > 1:
            self._wrong(f"I6: {event.threshold} of {event.tool or 'all'} on {event.day} is told twice")

    def _owed_to_all(self, recorded: Recorded) -> None:
        """What is over is told, and what is granted is used or given back, within a while."""
        together = self._together
        for key, share in together.shares.items():
            since_ns = max(share.event.expires_ns, self.friendly_from_ns)
            if recorded.time_ns - since_ns > WAIT_S * SECOND_NS:
                self._wrong(f"I8: {key} holds what it was granted, though its time is over")
        if recorded.time_ns - max(together.changed_ns, self._moved_ns, self.friendly_from_ns) < WAIT_S * SECOND_NS:
            return
        day = _day(recorded.time_ns)
        for tool in ("", *together.limits.tools_nano):
            limit_nano = together.budget(tool)
            spent = self._spent_by_all(tool, day, recorded.sequence)[1] if limit_nano is not None else 0
            told = together.told[tool, day, "exceeded"] or (tool, day, "exceeded") in together.earlier
            if limit_nano is not None and 0 < spent >= limit_nano and not told:
                self._wrong(f"I6: {spent} of {limit_nano} is spent by {tool or 'all'}, and that is not told")

    def _starts(self, run: Ran, event: StepScheduled) -> None:
        """I4: what an EDIT starts from contains everything it depends on."""
        assert run.spec is not None
        ancestors = self._repository.ancestors.get(event.input.commit, frozenset())
        bundle = next(one for one in run.spec.bundles if one.id == event.workstream)
        for dependency in bundle.depends_on:
            if run.states[dependency] != "completed":
                self._wrong(f"I4: {event.workstream} starts, and {dependency} is {run.states[dependency]}")
            merged = run.heads.get(dependency)
            if merged is not None and merged not in ancestors:
                self._wrong(f"I4: {event.workstream} starts from {event.input.commit} without {dependency} ({merged})")

    def _moved(self, run: Ran, event: WorkstreamTransitioned) -> None:
        name, before, after = event.workstream, event.from_state, event.to_state
        self.stats[f"→ {after}"] += 1
        if run.states.get(name) != before:
            self._wrong(f"moves: {name} moves from {before}, and is {run.states.get(name)}")
        assert run.spec is not None
        allowed = MOVES.get(before, set()) | (ENDS if before in ACTIVE else set())
        if run.spec.options.stepwise:
            allowed = allowed | STEPWISE.get(before, set())
        if after not in allowed:
            self._wrong(f"moves: {name} goes from {before} to {after}")
        run.states[name] = after
        if run.finished is not None and not run.rolling:
            self._wrong(f"moves: {name} goes to {after} after the end of {run.name}")
        if after == "ready":
            run.since_word[name] = 0
            run.losses[name] = 0
        if after in ENDED or after == "awaiting_review":
            run.delayed.pop(name, None)
            run.waiting_ns.pop(name, None)
        if after == "merging" and not run.spec.options.dry_run:
            self._green(run, self._tree(run, name), [name], f"{name} goes to be merged")
        if after == "blocked":
            self._blocked(run, name)
        if after in ACTIVE and before not in ACTIVE and not run.spec.options.stepwise:
            self._beside(run, name)

    def _blocked(self, run: Ran, name: str) -> None:
        assert run.spec is not None
        needed = {one.id: one.depends_on for one in run.spec.bundles}
        found, queue = set(), list(needed[name])
        while queue:
            dependency = queue.pop()
            if dependency not in found:
                found.add(dependency)
                queue.extend(needed[dependency])
        if not any(run.states[one] == "failed" for one in found):
            self._wrong(f"moves: {name} is blocked, and nothing it depends on has failed")

    def _beside(self, run: Ran, name: str) -> None:
        """I5: what clashes is not under way together."""
        assert run.spec is not None
        bundles = {one.id: one for one in run.spec.bundles}
        mine = bundles[name]
        for other, state in run.states.items():
            if other == name or state not in ACTIVE:
                continue
            theirs = bundles[other]
            together = {*mine.files_scope, *mine.files_create} & {*theirs.files_scope, *theirs.files_create}
            group = mine.conflict_group is not None and mine.conflict_group == theirs.conflict_group
            if together or group or not (mine.parallel_ok and theirs.parallel_ok):
                self._wrong(f"I5: {name} starts beside {other}, which is {state}")

    def _tree(self, run: Ran, name: str) -> str:
        latest = run.latest.get(name)
        return latest.tree if latest is not None else ""

    def _required(self, run: Ran, names: list[str]) -> set[tuple[str, str]]:
        """The checks of these workstreams, by kind and name."""
        assert run.spec is not None
        checks = run.spec.checks
        wanted = {("static", tool) for tool in checks.static_tools or ()}
        if checks.runtime_tool:
            wanted.add(("runtime", checks.runtime_tool))
        for one in run.spec.bundles:
            if one.id in names:
                wanted |= {("acceptance", text) for text in one.acceptance_tests}
                wanted |= {
                    ("gate", gate.type) for gate in one.test_gates if gate.required and not self._late_gate(run, gate)
                }
        return wanted

    def _known_elsewhere(self, run: Ran, event: StepSkipped) -> None:
        """I3: a verdict of another run is one that was given there, on this tree."""
        given: set[tuple[str, str]] = set()
        for source in event.sources:
            other, name, number = source.split("/")
            ran = self.runs.get(other)
            attempt = ran.attempts.get((name, int(number))) if ran is not None else None
            closed = attempt.closed if attempt is not None else None
            if attempt is None or not isinstance(closed, StepFinished) or attempt.scheduled.input.tree != event.tree:
                self._wrong(f"I3: {source} says nothing of {event.tree}")
                return
            given |= {(one.kind, one.name) for one in closed.checks if one.outcome == "passed"}
        if event.sources:
            self.stats["verdicts of other runs"] += 1
            run.passed.setdefault(event.tree, set()).update(given)

    def _late_gate(self, run: Ran, gate: BundleGate) -> bool:
        """Whether a gate judges what a wave has come to, not each merge of it."""
        assert run.spec is not None
        return run.spec.gates[gate.type].wave_boundary

    def _whole(self, run: Ran, tree: str) -> None:
        """I3: what becomes a base, or is delivered, has passed the gates of the wave."""
        assert run.spec is not None
        wanted = {
            ("gate", gate.type)
            for one in run.spec.bundles
            if one.id in run.merged
            for gate in one.test_gates
            if gate.required and self._late_gate(run, gate)
        }
        missing = wanted - run.passed.get(tree, set())
        if missing:
            self._wrong(f"I3: {tree} became the head without {sorted(missing)}")
        self.stats["waves judged"] += bool(wanted)

    def _refused(self, run: Ran, event: MergeRefused) -> None:
        """A search for a culprit takes no more runs of the gate than it may."""
        self.stats[f"merge refused: {event.reason}{', taken back' if event.taken_back else ''}"] += 1
        if event.taken_back and event.reason == "red":
            bound = 2 * math.ceil(math.log2(max(len(run.staged), 1))) + 2
            if run.searches > bound:
                self._wrong(f"search: {run.searches} runs for one of {len(run.staged)}, {bound} allowed")
            self.stats["culprits found"] += 1
            verdict = ("gate", event.gate)
            if event.onto is None or verdict not in run.passed.get(event.onto.tree, set()):
                self._wrong(f"blame: {event.workstream} for {event.gate}, which is not known to pass without it")
            if event.result is None or verdict in run.passed.get(event.result.tree, set()):
                self._wrong(f"blame: {event.workstream} for {event.gate}, which passes with it")
            self.stats["culprits found that are two"] += bool(event.others)
        if event.taken_back:
            del run.staged[run.staged.index(event.workstream) :]
        run.searches = 0

    def _green(self, run: Ran, tree: str, names: list[str], what: str) -> None:
        missing = self._required(run, names) - run.passed.get(tree, set())
        if missing:
            self._wrong(f"I3: {what}, and its tree {tree} has not passed {sorted(missing)}")

    def _advanced(self, run: Ran, event: IntegrationAdvanced) -> None:
        if event.from_commit != run.head:
            self._wrong(f"I3: the head moves from {event.from_commit}, and is {run.head}")
        if run.states.get(event.workstream) != "merging":
            self._wrong(f"I3: {event.workstream} is merged while it is {run.states.get(event.workstream)}")
        ancestors = self._repository.ancestors.get(event.to.commit, frozenset())
        latest = run.latest.get(event.workstream)
        if run.head not in ancestors or latest is None or latest.commit not in ancestors:
            self._wrong(f"I3: {event.to.commit} does not contain the head {run.head} and {event.workstream}")
        run.merged.append(event.workstream)
        run.staged = [name for name in run.staged if name != event.workstream]
        run.searches = 0
        self._green(run, event.to.tree, run.merged, f"{event.workstream} is merged")
        run.head = event.to.commit
        run.heads[event.workstream] = event.to.commit
        run.since_word[event.workstream] = 0

    def _reverted(self, run: Ran, event: IntegrationReverted) -> None:
        """I3: what is left without some work has passed all that it must."""
        if event.from_commit != run.head:
            self._wrong(f"I3: work is taken off {event.from_commit}, and the head is {run.head}")
        run.merged = [name for name in run.merged if name not in event.workstreams]
        files = self._repository.files_at(event.to.commit)
        texts = [version.text for version in files.values()]
        left = [name for name in event.workstreams if any(f"{name}/" in text for text in texts)]
        if left:
            self._wrong(f"revert: the work of {left} is still there")
        if run.merged:
            self._green(run, event.to.tree, run.merged, f"{event.workstreams} are taken off the line")
            self._whole(run, event.to.tree)
        run.head = event.to.commit

    def _recovered(self, run: Ran, event: RecoveryChosen) -> None:
        self.stats[f"recovery: {event.strategy}"] += 1
        attempt = run.attempts.get((event.workstream, event.attempt))
        if attempt is None:
            return
        closed = attempt.closed
        handed = isinstance(closed, StepFinished) and closed.error_class == "handed_back"
        if handed and event.error_class != "budget":  # what it has cost by then may leave no room for its successor
            self._wrong(
                f"handed back: {event.workstream}/{event.attempt} leads to {event.strategy} ({event.error_class})"
            )
        assert run.spec is not None
        if event.error_class == "lost" and run.losses[event.workstream] <= run.spec.options.losses_max:
            self._wrong(f"losses: {event.workstream} given up after {run.losses[event.workstream]} losses in a row")

    def _finished(self, run: Ran, event: RunFinished) -> None:
        if run.finished is not None:
            self._wrong(f"{run.name} ends twice")
        if run.open:
            self._wrong(f"{run.name} ends while {sorted(run.open)} are open")
        left = [name for name, state in run.states.items() if state not in ENDED]
        if left and run.spec is not None and run.accepted and not self._unreadable(event):
            self._wrong(f"{run.name} ends while {left} have not")
        run.finished, run.paused = event, False
        overlooked = run.asked - run.answered.keys()
        if overlooked:
            self._wrong(f"I1: {run.name} ends, and overlooks {sorted(overlooked)}")
        self.stats[f"run {event.state}"] += 1
        states = Counter(run.states.values())
        told = {
            "completed": event.completed,
            "failed": event.failed,
            "blocked": event.blocked,
            "cancelled": event.cancelled,
        }
        if any(states[state] != count for state, count in told.items()):
            self._wrong(f"{run.name} ends with {told}, and the moves say {dict(states)}")
        if event.state == "completed" and set(run.states.values()) != {"completed"}:
            self._wrong(f"{run.name} is completed, and {dict(states)}")
        wanted = run.spec is not None and run.spec.options.deliver != "never"
        if run.merged and event.state == "completed" and wanted and run.head not in run.delivered:
            self._wrong(f"{run.name} is completed, and its head {run.head} is not delivered")

    @staticmethod
    def _unreadable(event: RunFinished) -> bool:
        return "cannot be read" in event.reason

    # The life of an attempt

    def _lived(self, run: Ran, recorded: Recorded, entry: Entry, key: tuple[str, int]) -> None:
        attempt = run.attempts.get(key)
        if attempt is None:
            self._wrong(f"I2: {key} lives without being scheduled")
            return
        for event in entry.events:
            if attempt.closed is not None:
                self._wrong(f"I2: {type(event).__name__} after the close of {key}")
            match event:
                case StepStarted():
                    if attempt.claimed is not None:
                        self._wrong(f"I2: {key} claimed twice")
                    attempt.claimed = event
                    self._by[f"{run.name}/{key}"] = entry.by
                case StepFinished():
                    if attempt.claimed is None:
                        self._wrong(f"I2: {key} finished, and nobody has claimed it")
                    if self._by.get(f"{run.name}/{key}") != entry.by:
                        self._wrong(f"I2: {key} finished by {entry.by}")
                    self._closed(run, recorded, key, attempt, event)
                case StepCancelled() | StepLost():
                    self._offered(run, recorded, key, attempt, event)
                    if isinstance(event, StepLost):
                        self.stats["lost"] += 1
                        if attempt.claimed is None:
                            self._wrong(f"I2: {key} lost, and nobody has claimed it")
                        if entry.id in self._world.false_losses:
                            self._wrong(f"loss: {self._world.false_losses[entry.id]}; {event.reason}")
                    self._closed(run, recorded, key, attempt, event)
                case _:
                    self._wrong(f"I2: {type(event).__name__} on the subject of {key}")

    def _offered(
        self, run: Ran, recorded: Recorded, key: tuple[str, int], attempt: Attempt, event: StepCancelled | StepLost
    ) -> None:
        """What nobody claims in time was offered to somebody."""
        if isinstance(event, StepLost) or event.error_class != "queue_timeout":
            return
        if recorded.time_ns < attempt.scheduled.queue_deadline_ns:
            self._wrong(f"queue: {key} is given up before its deadline")
        if attempt.scheduled_ns > self.friendly_from_ns and (run.name, *key) not in self._world.offered:
            self._wrong(f"queue: {key} is given up, and its command was never published")

    def _closed(self, run: Ran, recorded: Recorded, key: tuple[str, int], attempt: Attempt, event: AnyEvent) -> None:
        attempt.closed, attempt.closed_ns = event, recorded.time_ns
        run.open.discard(key)
        self._moved_ns = recorded.time_ns
        name, step = key[0], attempt.scheduled
        if name != LINE:
            run.waiting_ns[name] = recorded.time_ns
        if isinstance(event, StepFinished):
            self.stats[f"closed: {event.error_class or 'ok'}"] += 1
            handed = event.error_class == "handed_back"
            if not handed:
                lost = event.error_class in {"workspace_error", "unknown"}
                run.losses[name] = run.losses[name] + 1 if lost else 0
            beyond = step.fix is not None and step.fix.mechanical and event.violations  # thrown away
            if step.step in {"edit", "fix"} and event.snapshot is not None and (handed or not lost) and not beyond:
                run.latest[name] = event.snapshot
            passed = {(one.kind, one.name) for one in event.checks if one.outcome in {"passed", "not_executable"}}
            if passed:
                run.passed.setdefault(step.input.tree, set()).update(passed)
            if step.step == "gate" and step.purpose == "search" and event.error_class in {None, "check_failed"}:
                run.searches += 1
        elif isinstance(event, StepLost):
            run.losses[name] += 1
        else:
            self.stats["closed: cancelled"] += 1

    def _late(self, run: Ran, recorded: Recorded, entry: Entry, key: tuple[str, int]) -> None:
        attempt = run.attempts.get(key)
        self.stats["late facts"] += 1
        if attempt is None or attempt.closed is None:
            self._wrong(f"I2: a late fact of {key}, which is not closed ({recorded.subject})")
            return
        for event in entry.events:
            mine = isinstance(attempt.closed, StepFinished) and self._by.get(f"{run.name}/{key}") == entry.by
            claimed = attempt.claimed
            if isinstance(event, ResultRefused):
                attempt.late.append(event.result)
            if claimed is None or not isinstance(event, ResultRefused) or event.boot != claimed.boot:
                continue
            if mine:
                self._wrong(f"fence: {key} was closed by its executor, which took its own close for a refusal")
            went_on_s = (recorded.time_ns - attempt.closed_ns) / SECOND_NS
            if attempt.closed_ns > self.friendly_from_ns and went_on_s > STOP_S:
                self._wrong(f"I11: {key} was closed, and its executor went on for {went_on_s:.1f} s")

    # What runs share

    def _fleet(self, recorded: Recorded, entry: Entry) -> None:
        self._shared(recorded, entry)
        wanted = {}
        for event in entry.events:
            if isinstance(event, RequestAnswered) and event.answer == "accepted":
                request = self._asked[event.request_id]
                if isinstance(request, BudgetRequested):
                    continue
                wanted[request.scope, request.name] = isinstance(request, PauseRequested)
        for key, paused in wanted.items():
            if (key in self._pauses) != paused:
                self._wrong(f"paused: {key} was last asked to be {'paused' if paused else 'resumed'}, and is not")

    def _shared(self, recorded: Recorded, entry: Entry) -> None:
        for event in entry.events:
            match event:
                case FleetPaused():
                    self._pauses[event.scope, event.name] = recorded.sequence
                    self.stats[f"paused {event.scope}"] += 1
                case FleetResumed():
                    self._pauses.pop((event.scope, event.name), None)
                    self._moved_ns = recorded.time_ns
                case ToolBreakerOpened() | ToolBreakerHalfOpened() | ToolBreakerClosed():
                    breaker = self._breakers.setdefault(event.tool, Breaker())
                    kind = type(event).__name__.removeprefix("ToolBreaker")
                    after = {"Opened": "open", "HalfOpened": "half_open", "Closed": "closed"}[kind]
                    allowed = {
                        "closed": {"open"},
                        "open": {"open", "half_open", "closed"},
                        "half_open": {"open", "closed"},
                    }
                    if after not in allowed[breaker.state]:
                        self._wrong(f"breaker: {event.tool} goes from {breaker.state} to {after}")
                    breaker.state, breaker.at, breaker.grant, breaker.probes = after, recorded.sequence, None, 0
                    self.stats[f"breaker {after}"] += 1
                    self._moved_ns = recorded.time_ns
                case ProbeGranted():
                    breaker = self._breakers.setdefault(event.tool, Breaker())
                    if breaker.state != "half_open":
                        self._wrong(f"breaker: a probe of {event.tool} granted while it is {breaker.state}")
                    breaker.grant, breaker.grant_at = event, recorded.sequence
                    self._moved_ns = recorded.time_ns
                    self.stats["probes"] += 1
                case LimitsSet():
                    self._together.limits, self._together.granted_ns = event, {}
                    self._together.change(recorded)
                case BudgetChanged():
                    self._together.people[event.name] = event
                    self._together.change(recorded)
                    self.stats["fleet budgets changed"] += 1
                case AttemptGranted():
                    self._granted(recorded, entry, event)
                    self._moved_ns = recorded.time_ns
                case GrantReturned():
                    self._given_back(event.run, event)
                case BudgetReached():
                    self._told_to_all(event)
                case _:
                    pass

    def _breaker(self, run: Ran, recorded: Recorded, entry: Entry, event: StepScheduled) -> None:
        """A breaker that the scheduler has folded holds: nothing while open, one probe while half open."""
        breaker = self._breakers.get(event.tool)
        if breaker is None or breaker.state == "closed" or entry.seen < breaker.at:
            return
        if breaker.state == "open":
            self._wrong(
                f"breaker: {event.workstream} uses {event.tool}, which is open since {breaker.at}, seen {entry.seen}"
            )
            return
        grant = breaker.grant
        if grant is None:
            self._wrong(f"breaker: {event.workstream} probes {event.tool} without a grant")
        elif entry.seen >= breaker.grant_at:
            if (grant.run, grant.workstream, grant.attempt) != (run.name, event.workstream, event.attempt):
                self._wrong(f"breaker: {event.workstream}/{event.attempt} probes {event.tool}, granted to {grant}")
            breaker.probes += 1

    # Waiting, and the end

    def _waits(self, recorded: Recorded) -> None:
        """A workstream under way has an open attempt, or a reason that the log tells."""
        since_ns = max(self._moved_ns, self.friendly_from_ns)
        for run in self.runs.values():
            if run.spec is None or run.finished is not None or run.paused or run.stopping or run.spec.options.stepwise:
                continue
            if self._pauses or len(run.open) >= run.spec.options.max_workers:
                continue
            for name, closed_ns in run.waiting_ns.items():
                if run.states[name] not in ACTIVE or run.states[name] == "merging" or name in run.delayed:
                    continue
                if recorded.time_ns - max(closed_ns, since_ns) > WAIT_S * SECOND_NS:
                    self._wrong(f"wait: {name} is {run.states[name]} and waits for nothing that is recorded")

    def _ended(self, people: Any) -> None:
        for request, run_name in people.acknowledged.items():
            if run_name == "fleet":
                if request not in people.fleet_answered:
                    self._wrong(f"I1: {request} of the fleet was never answered")
                continue
            run = self.runs[run_name]
            stands = request in run.answered
            if not stands:
                self._wrong(f"I1: {request} of {run_name} was never answered")
        for run in self.runs.values():
            if run.finished is None:
                self._wrong(f"I8: {run.name} never ended")
            for key, attempt in run.attempts.items():
                if attempt.closed is None:
                    self._wrong(f"I2: {key} of {run.name} was never closed")
