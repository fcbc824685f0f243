"""What attempts draw on across runs: slots of pools, budgets of the fleet, of tools and of tenants, and rates of providers.

    wanted ──▶ granted on the fleet's subject, its cap reserved, its rates taken ──▶ scheduled ──▶ closed: settled
                  └── not scheduled before it expires ──▶ returned on the run's subject: the cap is free again

A grant is given on the fleet's subject, after the sequence that was folded there, so two schedulers never give the same
money or rate twice. It is used, or returned, on its run's subject alone, so never both, and ends with its run; one that is
given after that is returned on the fleet's. What a returned grant took from a rate is not given back.

A tenant is on whose behalf a run is. Where the slots of a pool are limited, they go to the tenants in proportion to their
weights: the next one goes to whoever has the fewest of that pool for its weight, among equals to whoever was served longest
ago, and within a tenant to its runs in turn. So nobody waits for longer than it takes those before it to end one attempt
each, however much others have asked for. The steps of the line, one of a run at a time, take slots and wait for none.

The limits in force stand in the log: those of the configuration (`LimitsSet`), and over them what people have set
(`BudgetChanged`); hence the fold is the same whatever a scheduler's own file says. Every attempt of an AI tool is counted,
limits or not, so a budget that is set during a day sees all of that day; and so is every attempt as far as slots go.

Total: whatever stands in the log, folding goes on. Operations own `Shared` and change it in place. Pure: no clock, no I/O.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from services.events import (
    AnyEvent,
    AttemptGranted,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    GrantReturned,
    LimitsSet,
    Rate,
    StepCancelled,
    StepFinished,
    StepLost,
    StepScheduled,
    TenantShare,
)
from services.labels import tenant_problem
from services.outcome import NANO_USD_MAX, BudgetMode, Cap, nano_of
from services.scheduler.budget import (
    FLEET_BUDGET,
    Account,
    Book,
    Budget,
    Draw,
    Refusal,
    budget_name,
    budget_of,
    cost_of,
    day_account,
    forget_days,
    late,
    notices,
    refusal,
    release,
    report_of,
    reserve,
    set_budget,
    settle,
    tenant_budget,
    told,
    tool_budget,
)
from services.scheduler.rates import Bucket, is_full, keep, opens_ns, pay, take

GRANTS_MAX: Final = 200
"""Grants of one decision; further ones are given after it is folded."""

LIMITS_BYTES_MAX: Final = 100_000
"""The names and amounts of a configuration; an entry of the log holds no more than some of these."""

NAMED_MAX: Final = 1000
"""Tools and tenants that people may give budgets, and tools, tenants, pools and rates that a configuration may name."""

EACH: Final = "*"
"""In a configuration: each pool, or each tenant, that is not named; runs on behalf of nobody are one tenant, named ""."""

DAYS_KEPT: Final = 7
"""For so many days the accounts of a day are corrected by late reports; then they are forgotten."""

_PARTS: Final = 1_000_000
"""Parts of a slot, so that shares compare as whole numbers."""

_SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * _SECOND_NS
_EPOCH = date(1970, 1, 1)
_Usd = Annotated[float, Meta(ge=0, le=10**9)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a pool may be used at a time.

    `slots`: attempts of all runs under way or queued. Default 0: as many as its executors carry, and a quarter more, so that
    none of them waits for work.
    """

    slots: Annotated[int, Meta(ge=0, le=100_000)] = 0


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant may have.

    `weight`: its share of a pool's slots, where several tenants want them, is in proportion to this. Default 1.
    `concurrency`: its attempts under way or queued at a time, in all pools. Default 0: any number.
    `usd_per_day`: what its attempts of a day, UTC, may cost, dollars. Default none: any amount. Runs on behalf of nobody
        have no budget but the fleet's.
    """

    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    concurrency: Annotated[int, Meta(ge=0, le=100_000)] = 0
    usd_per_day: _Usd | None = None


class SharedLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What all runs of the fleet may draw together. Nothing is limited by default.

    `fleet_usd_per_day`: what all attempts of a day, UTC, may cost, dollars. `tool_usd_per_day`: the same for single tools.
    `mode`: what follows when such a budget is used up: halt (nothing that might not fit begins), warn or continue.
    `rates`: how fast attempts may begin, by provider or provider/model (services.events.Rate).
    `pools`: the slots of pools (PoolLimits) by name, "*" for each that is not named; with none, slots are not counted, and
        who comes first is served first.
    `tenants`: what tenants may have (TenantLimits) by name, "*" for each that is not named.
    `grant_s`: how long an attempt may take to use what it was granted, seconds.
    """

    fleet_usd_per_day: _Usd | None = None
    tool_usd_per_day: Annotated[dict[_Name, _Usd], Meta(max_length=NAMED_MAX)] = {}
    mode: BudgetMode = "halt"
    rates: Annotated[dict[_Name, Rate], Meta(max_length=NAMED_MAX)] = {}
    pools: Annotated[dict[_Name, PoolLimits], Meta(max_length=NAMED_MAX)] = {}
    tenants: Annotated[dict[_Name, TenantLimits], Meta(max_length=NAMED_MAX)] = {}
    grant_s: Annotated[float, Meta(ge=1)] = 30.0

    def __post_init__(self) -> None:
        for tenant in self.tenants:
            if tenant != EACH and (problem := tenant_problem(tenant)):
                raise ValueError(problem)
        if len(msgspec.json.encode(self)) > LIMITS_BYTES_MAX:
            raise ValueError(
                f"names too much to be told in one entry: at most {LIMITS_BYTES_MAX} bytes of names and amounts"
            )

    @cached_property
    def recorded(self) -> LimitsSet:
        """These limits as the log tells them."""
        return LimitsSet(
            fleet_nano=None if self.fleet_usd_per_day is None else nano_of(self.fleet_usd_per_day),
            tools_nano={tool: nano_of(usd) for tool, usd in sorted(self.tool_usd_per_day.items())},
            mode=self.mode,
            rates=dict(sorted(self.rates.items())),
            pools={name: pool.slots for name, pool in sorted(self.pools.items())},
            tenants={
                name: TenantShare(
                    weight=tenant.weight,
                    concurrency=tenant.concurrency,
                    budget_nano=None if tenant.usd_per_day is None else nano_of(tenant.usd_per_day),
                )
                for name, tenant in sorted(self.tenants.items())
            },
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that asks for its share. `provider` and `model` are those that its profile names, "" for none.

    `cap` is None for one that costs nothing.
    """

    run: str
    workstream: str
    attempt: int
    tool: str
    provider: str = ""
    model: str = ""
    cap: Cap | None = "none"
    cap_nano: int = 0
    pool: str = ""
    tenant: str = ""


class Opened(msgspec.Struct):
    """An attempt that is scheduled and not closed; `rates` are those that its tokens count against.

    `pool` is "" where its slot is not counted: what a run does after its end.
    """

    rates: tuple[str, ...] = ()
    begun: bool = False
    pool: str = ""
    tenant: str = ""


class Turn(msgspec.Struct):
    """Which of its runs a tenant's last grant went to, and the how manieth grant of all that was."""

    count: int
    run: str


class Shared(msgspec.Struct):
    """What runs draw on together, folded.

    `grants` are not used yet, by run. `tenants` are those of live runs, "" for nobody; `using` the slots taken or granted by
    pool and tenant, `turns` when tenants had a grant last.
    """

    book: Book = msgspec.field(default_factory=Book)
    limits: LimitsSet = LimitsSet()
    people: dict[str, BudgetChanged] = {}
    buckets: dict[str, Bucket] = {}
    grants: dict[str, dict[tuple[str, int], AttemptGranted]] = {}
    opened: dict[str, Opened] = {}
    tenants: dict[str, str] = {}
    using: dict[tuple[str, str], int] = {}
    turns: dict[str, Turn] = {}
    granted: int = 0
    day: str = ""

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited at all."""
        return bool(self.book.budgets or self.limits.rates or self.limits.pools or self.limits.tenants)

    def grant_of(self, ask: Ask) -> AttemptGranted | None:
        """The unused grant of an attempt."""
        return self.grants.get(ask.run, {}).get((ask.workstream, ask.attempt))


def day_of(time_ns: int) -> str:
    """The day of a time since 1970, UTC, such as 2026-11-23."""
    days = min(max(time_ns // _DAY_NS, 0), (date.max - _EPOCH).days)
    return date.fromordinal(_EPOCH.toordinal() + days).isoformat()


def midnight_ns(time_ns: int) -> int:
    """When the next day begins, UTC."""
    return (time_ns // _DAY_NS + 1) * _DAY_NS


def draw_of(ask: Ask, day: str) -> Draw:
    """What an attempt takes from the budgets across runs."""
    names = _money_of(ask)
    holder = _holder(ask.run, ask.workstream, ask.attempt)
    accounts = tuple(day_account(name, day) for name in names)
    return Draw(attempt=holder, accounts=accounts, cap_nano=ask.cap_nano, cap=ask.cap or "none")


def _money_of(ask: Ask) -> tuple[str, ...]:
    """The names of the budgets across runs that an attempt counts against."""
    if ask.cap is None:
        return ()
    own = (tenant_budget(ask.tenant),) if ask.tenant else ()
    return (FLEET_BUDGET, tool_budget(ask.tool), *own)


def share_of(limits: LimitsSet, tenant: str) -> TenantShare:
    """What a tenant may have."""
    return limits.tenants.get(tenant) or limits.tenants.get(EACH) or TenantShare()


def slots_of(shared: Shared, ask: Ask) -> list[str]:
    """In words, the slots that an attempt needs one of."""
    found = [f"pool {ask.pool}"] if _slots(shared.limits, ask.pool) is not None else []
    if share_of(shared.limits, ask.tenant).concurrency:
        found.append(f"tenant {ask.tenant}" if ask.tenant else "runs without a tenant")
    return found


def _slots(limits: LimitsSet, pool: str) -> int | None:
    """How many slots a pool has by the configuration, 0 for as many as its executors carry; None if nobody counts them."""
    return limits.pools.get(pool, limits.pools.get(EACH))


def slots_in(limits: LimitsSet, pool: str, carried: Mapping[str, int]) -> int | None:
    """How many attempts of a pool may be under way or queued; None for any number.

    Where that is as many as its executors carry (`carried`), it is a quarter more, one at least.
    """
    slots = _slots(limits, pool)
    if slots != 0:
        return slots
    found = carried.get(pool, 0)
    return found + max(found // 4, 1)


def rates_of(shared: Shared, provider: str, model: str) -> list[str]:
    """The names of the rates in force for a model of a provider."""
    names = [provider, f"{provider}/{model}"] if model else [provider]
    return [name for name in names if name in shared.limits.rates]


def stopping_budgets(shared: Shared, ask: Ask) -> list[str]:
    """The names of the budgets across runs that let an attempt begin only as far as they hold it."""
    budgets = {name: shared.book.budgets.get(name) for name in _money_of(ask)}
    return [name for name, budget in budgets.items() if budget is not None and budget.mode == "halt"]


def limit_nano(shared: Shared, ask: Ask) -> int:
    """The most that an attempt may cost under the budgets across runs."""
    return min((shared.book.budgets[name].limit_nano for name in stopping_budgets(shared, ask)), default=NANO_USD_MAX)


# Folding


def accepted(shared: Shared, time_ns: int, run: str, tenant: str) -> None:
    """Fold on whose behalf a run is."""
    shared.tenants[run] = tenant
    _budget_tenant(shared, time_ns, tenant)


def scheduled(shared: Shared, time_ns: int, run: str, event: StepScheduled) -> None:
    """Fold a dispatch: its grant is used. One without, from before there were limits, is counted all the same."""
    name = _holder(run, event.workstream, event.attempt)
    grant = _taken(shared, run, event.workstream, event.attempt)
    tenant = grant.tenant if grant is not None else shared.tenants.get(run, "")
    ask = Ask(
        run=run,
        workstream=event.workstream,
        attempt=event.attempt,
        tool=event.tool,
        cap=event.cap,
        cap_nano=event.cap_nano,
        pool=event.pool,
        tenant=tenant,
    )
    rates: tuple[str, ...] = ()
    if grant is not None and event.cap is not None:
        rates = tuple(rates_of(shared, grant.provider, grant.model))
    if grant is not None and (grant.tool, grant.cap, grant.cap_nano) != (event.tool, event.cap, event.cap_nano):
        release(shared.book, name)
    if event.cap is not None:
        reserve(shared.book, draw_of(ask, _today(shared, time_ns)))
    pool = event.pool if run in shared.tenants else ""
    if event.cap is None and not pool:
        return
    if name not in shared.opened:
        _use(shared, pool, tenant, 1)
    shared.opened[name] = Opened(rates=rates, pool=pool, tenant=tenant)


def started(shared: Shared, run: str, attempt: StepScheduled) -> None:
    """Fold that somebody has begun an attempt."""
    opened = shared.opened.get(_holder(run, attempt.workstream, attempt.attempt))
    if opened is not None:
        opened.begun = True


def closed(
    shared: Shared, time_ns: int, run: str, attempt: StepScheduled, event: StepFinished | StepCancelled | StepLost
) -> None:
    """Fold the close of an attempt: what it cost, and what tokens it has used."""
    name = _holder(run, attempt.workstream, attempt.attempt)
    opened = _closed(shared, name)
    if opened is None or attempt.cap is None:
        return
    settle(shared.book, name, cost_of(event, begun=opened.begun))
    usage = event.usage if isinstance(event, StepFinished) else None
    if usage is None:
        return
    tokens = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens
    for rate in opened.rates:
        if rate in shared.limits.rates:
            pay(shared.buckets.setdefault(rate, Bucket()), shared.limits.rates[rate], tokens, time_ns)


def left(shared: Shared, run: str, attempt: StepScheduled) -> None:
    """Note an attempt that is open though its run is over: how it was closed has left the stream with the run."""
    _closed(shared, _holder(run, attempt.workstream, attempt.attempt))


def learnt(shared: Shared, run: str, workstream: str, attempt: int, result: StepFinished) -> None:
    """Fold what was learnt of an attempt after its close."""
    late(shared.book, _holder(run, workstream, attempt), report_of(result))


def returned(shared: Shared, run: str, event: GrantReturned) -> None:
    """Fold that a grant is not used."""
    if _taken(shared, run, event.workstream, event.attempt) is not None:
        release(shared.book, _holder(run, event.workstream, event.attempt))


def ended(shared: Shared, run: str) -> None:
    """Fold the end of a run: it uses no grant any more. Of a run that left the stream, its grants and this are what is left."""
    for (workstream, attempt), grant in shared.grants.pop(run, {}).items():
        release(shared.book, _holder(run, workstream, attempt))
        _use(shared, grant.pool, grant.tenant, -1)
    for name in [name for name in shared.opened if name.startswith(f"{run}/")]:
        release(shared.book, name)
        _closed(shared, name)
    shared.tenants.pop(run, None)


def granted(shared: Shared, time_ns: int, event: AttemptGranted) -> None:
    """Fold a grant; one for an attempt that has been scheduled meanwhile takes its rate, and is nothing else."""
    if event.cap is not None:
        for rate in rates_of(shared, event.provider, event.model):
            take(shared.buckets.setdefault(rate, Bucket()), shared.limits.rates[rate], time_ns)
    shared.granted += 1
    shared.turns.pop(event.tenant, None)
    shared.turns[event.tenant] = Turn(count=shared.granted, run=event.run)
    while len(shared.turns) > NAMED_MAX:
        shared.turns.pop(next(iter(shared.turns)))
    name = _holder(event.run, event.workstream, event.attempt)
    if (
        name in shared.opened
        or name in shared.book.holds
        or (event.workstream, event.attempt) in shared.grants.get(event.run, ())
    ):
        return
    ask = Ask(
        run=event.run,
        workstream=event.workstream,
        attempt=event.attempt,
        tool=event.tool,
        cap=event.cap,
        cap_nano=event.cap_nano,
        tenant=event.tenant,
    )
    if event.cap is not None:
        _budget_tenant(shared, time_ns, event.tenant)
        reserve(shared.book, draw_of(ask, _today(shared, time_ns)))
    _use(shared, event.pool, event.tenant, 1)
    shared.grants.setdefault(event.run, {})[event.workstream, event.attempt] = event


def limited(shared: Shared, time_ns: int, event: LimitsSet) -> None:
    """Fold what the configuration says."""
    known = {*shared.tenants.values(), *shared.turns} - {""}
    names = [*_budgets(shared.limits), *_budgets(event), *(tenant_budget(tenant) for tenant in sorted(known))]
    shared.limits = event
    for name, rate in event.rates.items():
        if name in shared.buckets:
            keep(shared.buckets[name], rate, time_ns)
    shared.buckets = {  # of those without a rate, what would count if theirs came back
        name: bucket for name, bucket in shared.buckets.items() if name in event.rates or not is_full(bucket, time_ns)
    }
    for name in dict.fromkeys(names):
        set_budget(shared.book, name, _in_force(shared, name), day_of(time_ns))


def changed(shared: Shared, time_ns: int, event: BudgetChanged) -> None:
    """Fold what a person has set."""
    name = _budget_of(event)
    shared.people[name] = event
    set_budget(shared.book, name, _in_force(shared, name), day_of(time_ns))


def reached(shared: Shared, event: BudgetReached) -> None:
    """Fold that a threshold was told."""
    name = tool_budget(event.tool) if event.tool else tenant_budget(event.tenant) if event.tenant else FLEET_BUDGET
    told(shared.book, day_account(name, event.day), event.threshold)


def _today(shared: Shared, time_ns: int) -> str:
    """The day; with the first attempt of one, days long past are forgotten."""
    day = day_of(time_ns)
    if day > shared.day:
        shared.day = day
        forget_days(shared.book, day_of(max(time_ns - DAYS_KEPT * _DAY_NS, 0)))
        _forget_tenants(shared)
    return day


def _forget_tenants(shared: Shared) -> None:
    """Tenants for whom nothing ran for days, and whom nobody names, have no budget of their own any more."""
    known = {budget_name(key) for key in shared.book.accounts} | shared.people.keys()
    known |= {tenant_budget(tenant) for tenant in (*shared.tenants.values(), *shared.limits.tenants)}
    for name in [name for name in shared.book.budgets if name.startswith("tenant/") and name not in known]:
        del shared.book.budgets[name]


def _taken(shared: Shared, run: str, workstream: str, attempt: int) -> AttemptGranted | None:
    """The unused grant of an attempt, which it loses."""
    mine = shared.grants.get(run)
    if mine is None:
        return None
    grant = mine.pop((workstream, attempt), None)
    if not mine:
        del shared.grants[run]
    if grant is not None:
        _use(shared, grant.pool, grant.tenant, -1)
    return grant


def _closed(shared: Shared, name: str) -> Opened | None:
    """The attempt that was open, and is not any more."""
    opened = shared.opened.pop(name, None)
    if opened is not None:
        _use(shared, opened.pool, opened.tenant, -1)
    return opened


def _use(shared: Shared, pool: str, tenant: str, slots: int) -> None:
    if not pool:
        return
    used = shared.using.pop((pool, tenant), 0) + slots
    if used > 0:
        shared.using[pool, tenant] = used


def _budget_tenant(shared: Shared, time_ns: int, tenant: str) -> None:
    """A tenant that was not heard of before has the budget of each; runs of nobody have none but the fleet's."""
    if not tenant:
        return
    name = tenant_budget(tenant)
    wanted = _in_force(shared, name)
    if shared.book.budgets.get(name) != wanted:
        set_budget(shared.book, name, wanted, day_of(time_ns))


def _holder(run: str, workstream: str, attempt: int) -> str:
    return f"{run}/{workstream}/{attempt}"


def _budgets(limits: LimitsSet) -> dict[str, Budget]:
    """The budgets that a configuration names."""
    found = {tool_budget(tool): nano for tool, nano in limits.tools_nano.items()}
    for tenant, share in limits.tenants.items():
        if tenant != EACH and share.budget_nano is not None:
            found[tenant_budget(tenant)] = share.budget_nano
    if limits.fleet_nano is not None:
        found[FLEET_BUDGET] = limits.fleet_nano
    return {name: Budget(limit_nano=nano, mode=limits.mode) for name, nano in found.items()}


def _in_force(shared: Shared, name: str) -> Budget | None:
    """What a person has set, else what the configuration says."""
    person = shared.people.get(name)
    if person is not None:
        return budget_of(person.limit_nano, person.mode)
    kind, _, tenant = name.partition("/")
    if kind == "tenant":
        nano = share_of(shared.limits, tenant).budget_nano
        return None if nano is None else Budget(limit_nano=nano, mode=shared.limits.mode)
    return _budgets(shared.limits).get(name)


def _budget_of(event: BudgetRequested | BudgetChanged) -> str:
    match event.scope:
        case "tool":
            return tool_budget(event.name)
        case "tenant":
            return tenant_budget(event.name)
        case _:
            return FLEET_BUDGET


# Deciding


def refusal_of(shared: Shared, now_ns: int, ask: Ask) -> Refusal | None:
    """Why the budgets across runs do not hold another attempt today, None if they do."""
    return refusal(shared.book, draw_of(ask, day_of(now_ns)))


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A budget across runs today: a tool's, a tenant's, or with neither the fleet's. `actor` has set it, "" where the configuration has.

    `unknown`: closed attempts that count as their whole cap, because nobody knows what they cost.
    """

    tool: str
    tenant: str
    budget: Budget | None
    spent_nano: int
    reserved_nano: int
    unknown: int
    actor: str


def overdrawn(shared: Shared, grant: AttemptGranted) -> bool:
    """Whether a budget was lowered since the grant, below what is spent and reserved, the grant's own cap included."""
    hold = shared.book.holds.get(_holder(grant.run, grant.workstream, grant.attempt))
    for key in hold.accounts if hold is not None else ():
        budget, account = shared.book.budgets.get(budget_name(key)), shared.book.accounts.get(key)
        halts = budget is not None and budget.mode == "halt"
        if halts and budget and account and account.spent_nano + account.reserved_nano > budget.limit_nano:
            return True
    return False


def standing(shared: Shared, now_ns: int) -> list[Standing]:
    """The fleet's money of today first, then that of each tool or tenant that has a budget or has spent today."""
    day = day_of(now_ns)
    today = [budget_name(key) for key in shared.book.accounts if key.rpartition("/")[2] == day]
    others = {*shared.book.budgets, *today} - {FLEET_BUDGET}
    names = [FLEET_BUDGET, *sorted(others, key=lambda name: (not name.startswith("tool/"), name))]
    unknown: dict[str, int] = {}
    for hold in shared.book.holds.values():
        if hold.closed and hold.figure_nano is None:
            for key in hold.accounts:
                unknown[key] = unknown.get(key, 0) + 1
    found: list[Standing] = []
    for name in names:
        key = day_account(name, day)
        account = shared.book.accounts.get(key, Account())
        person = shared.people.get(name)
        found.append(
            Standing(
                tool=name.removeprefix("tool/") if name.startswith("tool/") else "",
                tenant=name.removeprefix("tenant/") if name.startswith("tenant/") else "",
                budget=shared.book.budgets.get(name),
                spent_nano=account.spent_nano,
                reserved_nano=account.reserved_nano,
                unknown=unknown.get(key, 0),
                actor=person.actor if person is not None else "",
            )
        )
    return found


class SlotsStanding(msgspec.Struct, frozen=True, kw_only=True):
    """The slots of a pool that a tenant has; `pool_slots` are those of the pool together, 0 where nobody counts them."""

    pool: str
    tenant: str
    used: int
    share: TenantShare
    pool_slots: int


def free_slots(shared: Shared, carried: Mapping[str, int]) -> dict[str, int]:
    """How many slots are free in pools that anybody uses and whose slots are counted; less than one: it is full."""
    used: dict[str, int] = {}
    for (pool, _), count in shared.using.items():
        used[pool] = used.get(pool, 0) + count
    found = {pool: slots_in(shared.limits, pool, carried) for pool in used}
    return {pool: slots - used[pool] for pool, slots in found.items() if slots is not None}


def slots_standing(shared: Shared, carried: Mapping[str, int]) -> list[SlotsStanding]:
    """Who has slots, by pool and tenant. `carried` are the slots of pools' executors."""
    return [
        SlotsStanding(
            pool=pool,
            tenant=tenant,
            used=used,
            share=share_of(shared.limits, tenant),
            pool_slots=slots_in(shared.limits, pool, carried) or 0,
        )
        for (pool, tenant), used in sorted(shared.using.items())
    ]


def unfit(shared: Shared, request: BudgetRequested) -> str:
    """Why a budget across runs cannot be set as it is asked for; "" when it can."""
    if request.scope == "run" or (request.scope in {"tool", "tenant"}) != bool(request.name):
        return "say whose budget is meant: the fleet's, or that of a tool or a tenant, by its name"
    if len(shared.people) >= NAMED_MAX and _budget_of(request) not in shared.people:
        return (
            f"{NAMED_MAX} tools and tenants have budgets of their own: name the others in the scheduler's configuration"
        )
    return ""


def due(
    shared: Shared,
    now_ns: int,
    limits: SharedLimits,
    *,
    asks: Sequence[Ask],
    live: Collection[str] | None,
    carried: Mapping[str, int] | None = None,
) -> list[AnyEvent]:
    """What is owed to those who draw on what runs share. Any prefix of it is safe to record.

    `asks` name the provider that they are served by, those of a run in the order of its plan. `live` are the runs that are
    not over, None for all. `carried` are the slots of pools' executors.
    """
    configured = limits.recorded
    if configured != shared.limits:
        return [configured]  # what follows from it is decided on once it is folded
    events: list[AnyEvent] = [*_notices(shared)] if shared.book.owed else []
    if live is not None:
        events.extend(
            GrantReturned(run=run, workstream=workstream, attempt=attempt, reason="its run is over")
            for run, mine in shared.grants.items()
            if run not in live
            for workstream, attempt in mine
        )
    if asks:
        events.extend(_grants(shared, now_ns, int(limits.grant_s * _SECOND_NS), asks, carried or {}))
    return events


def _notices(shared: Shared) -> Iterator[BudgetReached]:
    """Each threshold of each budget is told once for a day."""
    for notice in notices(shared.book):
        name = budget_name(notice.account)
        yield BudgetReached(
            threshold=notice.kind,
            limit_nano=notice.limit_nano,
            spent_nano=min(notice.spent_nano, NANO_USD_MAX),
            reserved_nano=min(notice.reserved_nano, NANO_USD_MAX),
            mode=notice.mode,
            tool=name.removeprefix("tool/") if name.startswith("tool/") else "",
            tenant=name.removeprefix("tenant/") if name.startswith("tenant/") else "",
            day=notice.account.rpartition("/")[2],
        )


def _grants(
    shared: Shared, now_ns: int, lasts_ns: int, asks: Sequence[Ask], carried: Mapping[str, int]
) -> Iterator[AttemptGranted]:
    """A share for each, in turn, as far as slots, budgets and rates go.

    Whoever finds a budget or a rate full keeps its place: those behind who draw on the same one are not let past.
    """
    day = day_of(now_ns)
    promised: dict[str, int] = {}
    buckets: dict[str, Bucket] = {}
    full: set[str] = set()
    given = 0
    queues = _Queues(shared, asks, carried)
    while given < GRANTS_MAX and (ask := queues.next()) is not None:
        draw = draw_of(ask, day)
        rates = rates_of(shared, ask.provider, ask.model) if ask.cap is not None else []
        if not rates and not stopping_budgets(shared, ask) and not slots_of(shared, ask):
            continue  # it draws on nothing any more
        if shared.grant_of(ask) is not None or not full.isdisjoint((*draw.accounts, *rates)):
            continue
        refused = refusal(shared.book, draw, promised)
        if refused is not None:
            if refused.reason == "reserved":
                full.add(refused.account)
            continue
        for name in rates:
            if name not in buckets:
                buckets[name] = msgspec.structs.replace(shared.buckets.get(name, Bucket()))
        shut = [name for name in rates if opens_ns(buckets[name], shared.limits.rates[name]) > now_ns]
        if shut:
            full.update(shut)
            continue
        for name in rates:
            take(buckets[name], shared.limits.rates[name], now_ns)
        for account in draw.accounts:
            promised[account] = promised.get(account, 0) + draw.cap_nano
        given += 1
        queues.granted(ask)
        yield AttemptGranted(
            run=ask.run,
            workstream=ask.workstream,
            attempt=ask.attempt,
            tool=ask.tool,
            provider=ask.provider,
            model=ask.model,
            cap=ask.cap,
            cap_nano=ask.cap_nano,
            pool=ask.pool,
            tenant=ask.tenant,
            expires_ns=now_ns + lasts_ns,
        )


class _Queues:
    """Who asks, by pool and tenant, and whose turn it is."""

    def __init__(self, shared: Shared, asks: Sequence[Ask], carried: Mapping[str, int]) -> None:
        """Everybody keeps what it has; slots that are free go to these."""
        self._limits = shared.limits
        self._turns = dict(shared.turns)
        self._count = shared.granted
        self._using = dict(shared.using)
        self._free: dict[str, int] = {}
        self._left: dict[str, int] = {}
        used: dict[str, int] = {}
        has: dict[str, int] = {}
        for (pool, tenant), count in shared.using.items():
            used[pool] = used.get(pool, 0) + count
            has[tenant] = has.get(tenant, 0) + count
        by_run: dict[tuple[str, str], dict[str, list[Ask]]] = {}
        for ask in asks:
            by_run.setdefault((ask.pool, ask.tenant), {}).setdefault(ask.run, []).append(ask)
        self._queues: dict[tuple[str, str], deque[Ask]] = {}
        for (pool, tenant), runs in by_run.items():
            last = self._turns[tenant].run if tenant in self._turns else ""
            self._queues[pool, tenant] = deque(_in_turn(runs, last))
            slots = slots_in(self._limits, pool, carried)
            if slots is not None:
                self._free[pool] = slots - used.get(pool, 0)
            concurrency = share_of(self._limits, tenant).concurrency
            if concurrency:
                self._left[tenant] = concurrency - has.get(tenant, 0)
        self._heap = [(*self._place(key), key) for key in self._queues]
        heapq.heapify(self._heap)

    def _place(self, key: tuple[str, str]) -> tuple[int, int]:
        """The smaller, the sooner: what it would have for its weight with one more slot, and when it was served last."""
        share = (self._using.get(key, 0) + 1) * _PARTS // share_of(self._limits, key[1]).weight
        turn = self._turns.get(key[1])
        return share, turn.count if turn is not None else 0

    def next(self) -> Ask | None:
        """Whose turn it is; None when nobody is left who could have anything."""
        while self._heap:
            share, count, key = self._heap[0]
            pool, tenant = key
            if self._free.get(pool, 1) <= 0 or self._left.get(tenant, 1) <= 0 or not self._queues[key]:
                heapq.heappop(self._heap)
                continue
            now = self._place(key)
            if (share, count) != now:  # it was served meanwhile, here or in another pool
                heapq.heapreplace(self._heap, (*now, key))
                continue
            return self._queues[key].popleft()
        return None

    def granted(self, ask: Ask) -> None:
        """It has its share now."""
        key = ask.pool, ask.tenant
        self._using[key] = self._using.get(key, 0) + 1
        self._count += 1
        self._turns[ask.tenant] = Turn(count=self._count, run=ask.run)
        if ask.pool in self._free:
            self._free[ask.pool] -= 1
        if ask.tenant in self._left:
            self._left[ask.tenant] -= 1


def _in_turn(runs: Mapping[str, Sequence[Ask]], last: str) -> Iterator[Ask]:
    """One of each run, again and again, from the run behind the one that had the last grant."""
    names = sorted(runs, key=lambda run: (run <= last, run))
    for place in range(max((len(mine) for mine in runs.values()), default=0)):
        for run in names:
            if place < len(runs[run]):
                yield runs[run][place]
