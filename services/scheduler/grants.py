"""What attempts draw on across runs: budgets of the fleet and of tools for each day, and rates of providers.

    wanted ──▶ granted on the fleet's subject, its cap reserved, its rates taken ──▶ scheduled ──▶ closed: settled
                  └── not scheduled before it expires ──▶ returned on the run's subject: the cap is free again

A grant is given on the fleet's subject, after the sequence that was folded there, so two schedulers never give the same
money or rate twice. It is used, or returned, on its run's subject alone, so never both, and ends with its run; one that is
given after that is returned on the fleet's. What a returned grant took from a rate is not given back.

The limits in force stand in the log: those of the configuration (`LimitsSet`), and over them what people have set
(`BudgetChanged`); hence the fold is the same whatever a scheduler's own file says. Every attempt of an AI tool is counted,
limits or not, so a budget that is set during a day sees all of that day.

Total: whatever stands in the log, folding goes on. Operations own `Shared` and change it in place. Pure: no clock, no I/O.
"""

from collections.abc import Collection, Iterator, Sequence
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
)
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
    told,
    tool_budget,
)
from services.scheduler.rates import Bucket, is_full, keep, opens_ns, pay, take

GRANTS_MAX: Final = 200
"""Grants of one decision; further ones are given after it is folded."""

LIMITS_BYTES_MAX: Final = 100_000
"""The names and amounts of a configuration; an entry of the log holds no more than some of these."""

NAMED_MAX: Final = 1000
"""Tools that people may give budgets, and tools and rates that a configuration may name."""

DAYS_KEPT: Final = 7
"""For so many days the accounts of a day are corrected by late reports; then they are forgotten."""

_SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * _SECOND_NS
_EPOCH = date(1970, 1, 1)
_Usd = Annotated[float, Meta(ge=0, le=10**9)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class SharedLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What all runs of the fleet may draw together. Nothing is limited by default.

    `fleet_usd_per_day`: what all attempts of a day, UTC, may cost, dollars. `tool_usd_per_day`: the same for single tools.
    `mode`: what follows when such a budget is used up: halt (nothing that might not fit begins), warn or continue.
    `rates`: how fast attempts may begin, by provider or provider/model (services.events.Rate).
    `grant_s`: how long an attempt may take to use what it was granted, seconds.
    """

    fleet_usd_per_day: _Usd | None = None
    tool_usd_per_day: Annotated[dict[_Name, _Usd], Meta(max_length=NAMED_MAX)] = {}
    mode: BudgetMode = "halt"
    rates: Annotated[dict[_Name, Rate], Meta(max_length=NAMED_MAX)] = {}
    grant_s: Annotated[float, Meta(ge=1)] = 30.0

    def __post_init__(self) -> None:
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
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that asks for its share. `provider` and `model` are those that its profile names, "" for none."""

    run: str
    workstream: str
    attempt: int
    tool: str
    provider: str = ""
    model: str = ""
    cap: Cap = "none"
    cap_nano: int = 0


class Opened(msgspec.Struct):
    """An attempt that is scheduled and not closed; `rates` are those that its tokens count against."""

    rates: tuple[str, ...] = ()
    begun: bool = False


class Shared(msgspec.Struct):
    """What runs draw on together, folded. `grants` are not used yet, by run; `turn` is the run that had the last one."""

    book: Book = msgspec.field(default_factory=Book)
    limits: LimitsSet = LimitsSet()
    people: dict[str, BudgetChanged] = {}
    buckets: dict[str, Bucket] = {}
    grants: dict[str, dict[tuple[str, int], AttemptGranted]] = {}
    opened: dict[str, Opened] = {}
    turn: str = ""
    day: str = ""

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited at all."""
        return bool(self.book.budgets or self.limits.rates)

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
    accounts = (day_account(FLEET_BUDGET, day), day_account(tool_budget(ask.tool), day))
    holder = _holder(ask.run, ask.workstream, ask.attempt)
    return Draw(attempt=holder, accounts=accounts, cap_nano=ask.cap_nano, cap=ask.cap)


def rates_of(shared: Shared, provider: str, model: str) -> list[str]:
    """The names of the rates in force for a model of a provider."""
    names = [provider, f"{provider}/{model}"] if model else [provider]
    return [name for name in names if name in shared.limits.rates]


def stopping_budgets(shared: Shared, tool: str) -> list[str]:
    """The names of the budgets across runs that let attempts of a tool begin only as far as they hold them."""
    budgets = {name: shared.book.budgets.get(name) for name in (FLEET_BUDGET, tool_budget(tool))}
    return [name for name, budget in budgets.items() if budget is not None and budget.mode == "halt"]


def limit_nano(shared: Shared, tool: str) -> int:
    """The most that an attempt of a tool may cost under the budgets across runs."""
    return min((shared.book.budgets[name].limit_nano for name in stopping_budgets(shared, tool)), default=NANO_USD_MAX)


# Folding


def scheduled(shared: Shared, time_ns: int, run: str, event: StepScheduled) -> None:
    """Fold a dispatch: its grant is used. One without, from before there were limits, is counted all the same."""
    if event.cap is None:
        return
    name = _holder(run, event.workstream, event.attempt)
    ask = Ask(
        run=run,
        workstream=event.workstream,
        attempt=event.attempt,
        tool=event.tool,
        cap=event.cap,
        cap_nano=event.cap_nano,
    )
    grant = _taken(shared, run, event.workstream, event.attempt)
    rates: tuple[str, ...] = ()
    if grant is not None:
        rates = tuple(rates_of(shared, grant.provider, grant.model))
    if grant is not None and (grant.tool, grant.cap_nano) != (event.tool, event.cap_nano):
        release(shared.book, name)
    reserve(shared.book, draw_of(ask, _today(shared, time_ns)))
    shared.opened[name] = Opened(rates=rates)


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
    opened = shared.opened.pop(name, None)
    if opened is None:
        return
    settle(shared.book, name, cost_of(event, begun=opened.begun))
    usage = event.usage if isinstance(event, StepFinished) else None
    if usage is None:
        return
    tokens = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens
    for rate in opened.rates:
        if rate in shared.limits.rates:
            pay(shared.buckets.setdefault(rate, Bucket()), shared.limits.rates[rate], tokens, time_ns)


def learnt(shared: Shared, run: str, workstream: str, attempt: int, result: StepFinished) -> None:
    """Fold what was learnt of an attempt after its close."""
    late(shared.book, _holder(run, workstream, attempt), report_of(result))


def returned(shared: Shared, run: str, event: GrantReturned) -> None:
    """Fold that a grant is not used."""
    if _taken(shared, run, event.workstream, event.attempt) is not None:
        release(shared.book, _holder(run, event.workstream, event.attempt))


def ended(shared: Shared, run: str) -> None:
    """Fold the end of a run: it uses no grant any more. Of a run that left the stream, its grants and this are what is left."""
    for workstream, attempt in shared.grants.pop(run, {}):
        release(shared.book, _holder(run, workstream, attempt))


def granted(shared: Shared, time_ns: int, event: AttemptGranted) -> None:
    """Fold a grant; one for an attempt that has been scheduled meanwhile takes its rate, and is nothing else."""
    for rate in rates_of(shared, event.provider, event.model):
        take(shared.buckets.setdefault(rate, Bucket()), shared.limits.rates[rate], time_ns)
    shared.turn = event.run
    name = _holder(event.run, event.workstream, event.attempt)
    if name in shared.opened or name in shared.book.holds:
        return
    ask = Ask(
        run=event.run,
        workstream=event.workstream,
        attempt=event.attempt,
        tool=event.tool,
        cap=event.cap,
        cap_nano=event.cap_nano,
    )
    reserve(shared.book, draw_of(ask, _today(shared, time_ns)))
    shared.grants.setdefault(event.run, {})[event.workstream, event.attempt] = event


def limited(shared: Shared, time_ns: int, event: LimitsSet) -> None:
    """Fold what the configuration says."""
    names = [*_budgets(shared.limits), *_budgets(event)]
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
    name = tool_budget(event.tool) if event.tool else FLEET_BUDGET
    told(shared.book, day_account(name, event.day), event.threshold)


def _today(shared: Shared, time_ns: int) -> str:
    """The day; with the first attempt of one, days long past are forgotten."""
    day = day_of(time_ns)
    if day > shared.day:
        shared.day = day
        forget_days(shared.book, day_of(max(time_ns - DAYS_KEPT * _DAY_NS, 0)))
    return day


def _taken(shared: Shared, run: str, workstream: str, attempt: int) -> AttemptGranted | None:
    """The unused grant of an attempt, which it loses."""
    mine = shared.grants.get(run)
    if mine is None:
        return None
    grant = mine.pop((workstream, attempt), None)
    if not mine:
        del shared.grants[run]
    return grant


def _holder(run: str, workstream: str, attempt: int) -> str:
    return f"{run}/{workstream}/{attempt}"


def _budgets(limits: LimitsSet) -> dict[str, Budget]:
    """The budgets that a configuration names."""
    found = {tool_budget(tool): nano for tool, nano in limits.tools_nano.items()}
    if limits.fleet_nano is not None:
        found[FLEET_BUDGET] = limits.fleet_nano
    return {name: Budget(limit_nano=nano, mode=limits.mode) for name, nano in found.items()}


def _in_force(shared: Shared, name: str) -> Budget | None:
    """What a person has set, else what the configuration says."""
    person = shared.people.get(name)
    return budget_of(person.limit_nano, person.mode) if person is not None else _budgets(shared.limits).get(name)


def _budget_of(event: BudgetRequested | BudgetChanged) -> str:
    return tool_budget(event.name) if event.scope == "tool" else FLEET_BUDGET


# Deciding


def refusal_of(shared: Shared, now_ns: int, ask: Ask) -> Refusal | None:
    """Why the budgets across runs do not hold another attempt today, None if they do."""
    return refusal(shared.book, draw_of(ask, day_of(now_ns)))


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A budget across runs today; `tool` is "" for the fleet's. `actor` has set it, "" where the configuration has.

    `unknown`: closed attempts that count as their whole cap, because nobody knows what they cost.
    """

    tool: str
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
    """The fleet's money of today first, then that of each tool that has a budget or was used today."""
    day = day_of(now_ns)
    today = [budget_name(key) for key in shared.book.accounts if key.rpartition("/")[2] == day]
    names = dict.fromkeys([FLEET_BUDGET, *sorted({*shared.book.budgets, *today} - {FLEET_BUDGET})])
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
                tool="" if name == FLEET_BUDGET else name.removeprefix("tool/"),
                budget=shared.book.budgets.get(name),
                spent_nano=account.spent_nano,
                reserved_nano=account.reserved_nano,
                unknown=unknown.get(key, 0),
                actor=person.actor if person is not None else "",
            )
        )
    return found


def unfit(shared: Shared, request: BudgetRequested) -> str:
    """Why a budget across runs cannot be set as it is asked for; "" when it can."""
    if request.scope == "run" or (request.scope == "tool") != bool(request.name):
        return "say whose budget is meant: the fleet's, or that of a tool, by its name"
    if len(shared.people) >= NAMED_MAX and _budget_of(request) not in shared.people:
        return f"{NAMED_MAX} tools have budgets of their own: name the others in the scheduler's configuration"
    return ""


def due(
    shared: Shared,
    now_ns: int,
    limits: SharedLimits,
    *,
    asks: Sequence[Ask],
    live: Collection[str] | None,
) -> list[AnyEvent]:
    """What is owed to those who draw on what runs share. Any prefix of it is safe to record.

    `asks` name the provider that they are served by, those of a run in the order of its plan. `live` are the runs that are
    not over, None for all.
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
        events.extend(_grants(shared, now_ns, int(limits.grant_s * _SECOND_NS), asks))
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
            tool=name.removeprefix("tool/") if name != FLEET_BUDGET else "",
            day=notice.account.rpartition("/")[2],
        )


def _grants(shared: Shared, now_ns: int, lasts_ns: int, asks: Sequence[Ask]) -> Iterator[AttemptGranted]:
    """A share for each, run by run, as far as budgets and rates go.

    Whoever finds one full keeps its place: those behind who draw on the same one are not let past.
    """
    day = day_of(now_ns)
    promised: dict[str, int] = {}
    buckets: dict[str, Bucket] = {}
    full: set[str] = set()
    given = 0
    for ask in _in_turn(asks, shared.turn):
        if given == GRANTS_MAX:
            return
        draw = draw_of(ask, day)
        rates = rates_of(shared, ask.provider, ask.model)
        if not rates and not stopping_budgets(shared, ask.tool):
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
        yield AttemptGranted(
            run=ask.run,
            workstream=ask.workstream,
            attempt=ask.attempt,
            tool=ask.tool,
            provider=ask.provider,
            model=ask.model,
            cap=ask.cap,
            cap_nano=ask.cap_nano,
            expires_ns=now_ns + lasts_ns,
        )


def _in_turn(asks: Sequence[Ask], last: str) -> Iterator[Ask]:
    """One of each run, again and again, from the run behind the one that had the last grant."""
    by_run: dict[str, list[Ask]] = {}
    for ask in asks:
        by_run.setdefault(ask.run, []).append(ask)
    names = sorted(by_run, key=lambda run: (run <= last, run))
    for place in range(max((len(mine) for mine in by_run.values()), default=0)):
        for run in names:
            if place < len(by_run[run]):
                yield by_run[run][place]
