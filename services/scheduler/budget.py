"""Budgets: what attempts may draw, what they have drawn, and when that is to be told.

    refusal(book, draw)          -> Refusal | None   may it be dispatched?
    reserve(book, draw)          -> book             its cap is taken before dispatch
    settle(book, attempt, report) -> book            it is closed; what it cost takes the place of the cap
    late(book, attempt, report)  -> book             what was learnt after the close
    notices(book)                -> [Notice]         the thresholds that are to be told, each once

    reserved ── closed with its cost ──▶ spent, and forgotten
        └── closed without (lost, cancelled, unknown price, a lower bound) ──▶ spent at the full cap ── late cost ──▶ corrected

An account sums up what counts against one budget: a run's, a workstream's, and for each day the fleet's, a tool's or a tenant's. An
attempt draws on several at once.

Invariants: in the mode `halt`, spent and reserved together are within the limit whenever a draw is accepted, so spent
exceeds it only by what attempts overshoot their caps; what is not known counts as the full cap, never as zero; late reports
give the same sum in any order and however often they come; each operation costs the same however large the book is.

Total: whatever stands in the log, folding goes on. As in `services.scheduler.state`, operations own the book and change it
in place. Money is in whole nano-dollars. Pure: no clock (the day of an account is an argument), no I/O.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from services.events import StepCancelled, StepFinished, StepLost
from services.outcome import NANO_USD_MAX, SUM_MAX, BudgetMode, BudgetThreshold, Cap, NanoUsd

WARN_PERMILLE: Final = 800

FLEET_BUDGET: Final = "fleet"
"""The name of the budget of all runs together, for each day."""

_OF_DAYS: Final = ("tool/", "tenant/", f"{FLEET_BUDGET}/")


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit in nano-dollars; 0 is one under which nothing may be spent. A warning is due at `warn_permille` of it."""

    limit_nano: NanoUsd
    warn_permille: Annotated[int, Meta(ge=1, le=1000)] = WARN_PERMILLE
    mode: BudgetMode = "halt"


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt takes before it is dispatched: `cap_nano` from each of `accounts`.

    Without an enforced cap it is what the attempt is expected to cost, and what it counts as when nobody learns more.
    """

    attempt: str
    accounts: tuple[str, ...]
    cap_nano: int
    cap: Cap = "enforced"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt cost; with `lower_bound`, at least."""

    nano_usd: int
    lower_bound: bool = False


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a draw is not accepted, and by which account.

    `reserved`: it may fit once open attempts have settled. `used_up`: only another budget helps. `uncapped`: nothing keeps
    the attempt to an amount, and its profile does not say that this is accepted.
    """

    account: str
    reason: Literal["reserved", "used_up", "uncapped"]
    limit_nano: int
    spent_nano: int
    reserved_nano: int
    cap_nano: int


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold that an account has reached and that has not been told."""

    account: str
    kind: BudgetThreshold
    mode: BudgetMode
    limit_nano: int
    spent_nano: int
    reserved_nano: int


class Account(msgspec.Struct):
    """What counts against one budget; `warned` and `exceeded` say what has been told."""

    spent_nano: int = 0
    reserved_nano: int = 0
    warned: bool = False
    exceeded: bool = False


class Hold(msgspec.Struct):
    """What an attempt holds: its cap while it is open, then what is known of its cost.

    `floor_nano` is the highest lower bound reported, `figure_nano` the highest cost, None for none.
    """

    accounts: tuple[str, ...]
    cap_nano: int
    closed: bool = False
    floor_nano: int = 0
    figure_nano: int | None = None

    @property
    def amount_nano(self) -> int:
        """What a closed attempt counts as."""
        if self.figure_nano is None:
            return max(self.cap_nano, self.floor_nano)
        return max(self.figure_nano, self.floor_nano)


class Book(msgspec.Struct):
    """All budgets and accounts. `holds` are attempts that are open, or closed without their cost; `owed` accounts with notices."""

    budgets: dict[str, Budget] = {}
    accounts: dict[str, Account] = {}
    holds: dict[str, Hold] = {}
    owed: dict[str, None] = {}

    def budget_of(self, account: str) -> Budget | None:
        """The budget that an account counts against; that of the fleet or of a tool holds for each of its days."""
        return self.budgets.get(budget_name(account))


def run_account(run: str) -> str:
    """The account of a run, and the name of its budget."""
    return f"run/{run}"


def workstream_account(run: str, workstream: str) -> str:
    """The account of a workstream, and the name of its budget."""
    return f"workstream/{run}/{workstream}"


def account_of(run: str, workstream: str) -> str:
    """The account of a workstream; of the run where none is named."""
    return workstream_account(run, workstream) if workstream else run_account(run)


def tool_budget(tool: str) -> str:
    """The name of a tool's budget, for each day."""
    return f"tool/{tool}"


def tenant_budget(tenant: str) -> str:
    """The name of a tenant's budget, for each day."""
    return f"tenant/{tenant}"


def day_account(name: str, day: str) -> str:
    """The account of a day, UTC, such as 2026-11-23, that counts against the fleet's budget, a tool's or a tenant's."""
    return f"{name}/{day}"


def budget_name(account: str) -> str:
    """The name of the budget that an account counts against: its own, or without its day."""
    return account.rpartition("/")[0] if account.startswith(_OF_DAYS) else account


def holder_of(workstream: str, attempt: int) -> str:
    """The name of an attempt in the book of its run."""
    return f"{workstream}/{attempt}"


def budget_of(limit_nano: int | None, mode: BudgetMode) -> Budget | None:
    """A budget as it is asked for; None for none."""
    return None if limit_nano is None else Budget(limit_nano=limit_nano, mode=mode)


def set_budget(book: Book, name: str, budget: Budget | None, day: str = "") -> Book:
    """Give a run or a workstream another budget, or none; the fleet or a tool, from `day` on.

    What was told of thresholds that are not reached under the new budget may be told again.
    """
    if budget is None:
        book.budgets.pop(name, None)
    else:
        book.budgets[name] = budget
    key = day_account(name, day) if day else name
    account = book.accounts.get(key)
    if account is not None:
        account.warned = account.warned and _reached(account, budget, "warning")
        account.exceeded = account.exceeded and _reached(account, budget, "exceeded")
        _note(book, key)
    return book


def refusal(book: Book, draw: Draw, promised: Mapping[str, int] | None = None) -> Refusal | None:
    """Why the draw cannot be accepted now, None if it can; of several reasons one that waiting does not help goes first.

    `promised` is what each account has promised besides, to draws that are decided on and not folded yet.
    """
    cap = max(draw.cap_nano, 0)
    full: Refusal | None = None
    for key in draw.accounts:
        budget = book.budget_of(key)
        if budget is None or budget.mode != "halt":
            continue
        account = book.accounts.get(key) or Account()
        if draw.cap == "none":
            return _refusal(key, "uncapped", budget, account, cap)
        if account.spent_nano + cap > budget.limit_nano or account.spent_nano >= budget.limit_nano:
            return _refusal(key, "used_up", budget, account, cap)
        reserved_nano = account.reserved_nano + (promised or {}).get(key, 0)
        if account.spent_nano + reserved_nano + cap > budget.limit_nano:
            full = full or _refusal(key, "reserved", budget, account, cap)
    return full


def reserve(book: Book, draw: Draw) -> Book:
    """Fold a dispatch: hold the cap on each account, whether or not it has a budget. Again for the same attempt is nothing.

    A dispatch that is recorded is folded as it stands; whether it may be is `refusal`'s question, before.
    """
    if draw.attempt in book.holds:
        return book
    hold = Hold(accounts=tuple(dict.fromkeys(draw.accounts)), cap_nano=_clamped(draw.cap_nano))
    book.holds[draw.attempt] = hold
    for key in hold.accounts:
        book.accounts.setdefault(key, Account()).reserved_nano += hold.cap_nano
    return book


def settle(book: Book, attempt: str, report: Report | None) -> Book:
    """Fold the close of an attempt: `report` is what it cost, None when nobody knows (lost, cancelled, no price).

    Without a cost it counts as its full cap, and `late` may still correct that. An attempt that holds nothing is nothing.
    """
    hold = book.holds.get(attempt)
    if hold is None or hold.closed:
        return late(book, attempt, report)
    hold.closed = True
    _learn(hold, report)
    for key in hold.accounts:
        account = book.accounts.setdefault(key, Account())
        account.reserved_nano -= hold.cap_nano
        account.spent_nano = min(account.spent_nano + hold.amount_nano, SUM_MAX)
        _note(book, key)
    if report is not None and not report.lower_bound:
        del book.holds[attempt]
    return book


def late(book: Book, attempt: str, report: Report | None) -> Book:
    """Fold what was learnt after the close, in the place of the full cap; of several reports the highest counts.

    Before the close it is kept for it. For an attempt that closed with its cost, or holds nothing, it is nothing.
    """
    hold = book.holds.get(attempt)
    if hold is None or report is None:
        return book
    before = hold.amount_nano
    _learn(hold, report)
    if hold.closed:
        for key in hold.accounts:
            if key in book.accounts:
                account = book.accounts[key]
                account.spent_nano = min(max(account.spent_nano + hold.amount_nano - before, 0), SUM_MAX)
                _note(book, key)
    return book


def release(book: Book, attempt: str) -> Book:
    """Fold that an attempt is not dispatched after all: it has cost nothing."""
    return settle(book, attempt, Report(nano_usd=0))


def forget_days(book: Book, before: str) -> Book:
    """Forget the accounts of days before this one, and what attempts hold on them; late reports no longer count there."""
    old = {
        key
        for key, account in book.accounts.items()
        if budget_name(key) != key and key.rpartition("/")[2] < before and account.reserved_nano == 0
    }
    if old:
        for key in old:
            del book.accounts[key]
            book.owed.pop(key, None)
        book.holds = {
            name: hold for name, hold in book.holds.items() if not hold.closed or old.isdisjoint(hold.accounts)
        }
    return book


def cost_of(event: StepFinished | StepCancelled | StepLost, *, begun: bool) -> Report | None:
    """What a closed attempt cost: nothing, if nobody began it; the full cap, if nobody knows."""
    if isinstance(event, StepFinished):
        return report_of(event)
    return None if begun else Report(nano_usd=0)


def report_of(result: StepFinished) -> Report | None:
    """What an attempt cost, as far as it is known."""
    if result.cost is None:
        return None
    lower_bound = result.usage is not None and result.usage.lower_bound
    return Report(nano_usd=result.cost.nano_usd, lower_bound=lower_bound)


def notices(book: Book) -> Iterator[Notice]:
    """The thresholds to be told, of each account the warning first; recorded ones are folded by `told`."""
    for key in book.owed:
        account, budget = book.accounts[key], book.budget_of(key)
        if budget is None:
            continue
        for kind in _due(account, budget):
            yield Notice(
                account=key,
                kind=kind,
                mode=budget.mode,
                limit_nano=budget.limit_nano,
                spent_nano=account.spent_nano,
                reserved_nano=account.reserved_nano,
            )


def told(book: Book, account: str, kind: BudgetThreshold) -> Book:
    """Fold that a threshold was told."""
    known = book.accounts.get(account)
    if known is None:
        return book
    if kind == "warning":
        known.warned = True
    else:
        known.exceeded = True
    _note(book, account)
    return book


def _clamped(nano: int) -> int:
    return min(max(nano, 0), NANO_USD_MAX)


def _learn(hold: Hold, report: Report | None) -> None:
    if report is None:
        return
    nano = _clamped(report.nano_usd)
    if report.lower_bound:
        hold.floor_nano = max(hold.floor_nano, nano)
    else:
        hold.figure_nano = max(hold.figure_nano or 0, nano)


def _reached(account: Account, budget: Budget | None, kind: BudgetThreshold) -> bool:
    """Whether the spending has reached a threshold; nothing is reached by nothing."""
    if budget is None or account.spent_nano == 0:
        return False
    permille = budget.warn_permille if kind == "warning" else 1000
    return account.spent_nano * 1000 >= budget.limit_nano * permille


def _due(account: Account, budget: Budget) -> list[BudgetThreshold]:
    due: list[BudgetThreshold] = []
    if not account.warned and _reached(account, budget, "warning"):
        due.append("warning")
    if not account.exceeded and _reached(account, budget, "exceeded"):
        due.append("exceeded")
    return due


def _note(book: Book, key: str) -> None:
    """Keep `owed` true after an account or its budget changed."""
    budget = book.budget_of(key)
    if budget is not None and _due(book.accounts[key], budget):
        book.owed[key] = None
    else:
        book.owed.pop(key, None)


def _refusal(
    key: str, reason: Literal["reserved", "used_up", "uncapped"], budget: Budget, account: Account, cap: int
) -> Refusal:
    return Refusal(
        account=key,
        reason=reason,
        limit_nano=budget.limit_nano,
        spent_nano=account.spent_nano,
        reserved_nano=account.reserved_nano,
        cap_nano=cap,
    )
