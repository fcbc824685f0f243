"""Swell from Python: what calls of models cost, counted against a budget of one's own, without a cluster.

    tracker = CostTracker(budget_usd=10.0)
    tracker.record_usage(model="gpt-4", input_tokens=1000, output_tokens=500)
    if tracker.is_over_budget():
        raise BudgetExceededError(f"Budget exceeded: ${tracker.total_cost_usd:.2f}")

Money is counted in whole nano-dollars, so no number of records makes the sum drift; US dollars as floats stand only in
what goes in and comes out. Budgets of runs are the scheduler's, not these.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from threading import RLock
from typing import Final, Literal, TypedDict

import msgspec

from services.outcome import Usage
from services.prices import TOKENS_MAX, PriceTable, UnknownPolicy, load_prices

EnforcementMode = Literal["halt", "warn", "continue"]
"""What a used-up budget does: `halt` raises, `warn` logs and goes on, `continue` only says so in events and status."""

BUDGET_USD_MAX: Final = 1_000_000_000
_NANO: Final = 10**9
_logger = logging.getLogger("swell.cost")


class BudgetExceededError(RuntimeError):
    """A budget is used up. Raised by callers that check, and by a tracker in the mode `halt`."""


class CostBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget in US dollars, None for none, and 0 for one that is used up from the start.

    `warning_threshold` is the part of it, above 0 and at most 1, at which a warning is due.
    """

    max_cost_usd: float | None = None
    warning_threshold: float = 0.8
    enforcement_mode: EnforcementMode = "warn"


class BudgetEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold that was reached, told once: `budget_warning` or `budget_exceeded`."""

    type: Literal["budget_warning", "budget_exceeded"]
    total_cost_usd: float
    budget_usd: float


class BudgetStatus(TypedDict):
    """How a budget stands. `usage_pct` is percent, 100 for a used-up budget; without a budget it and the rest are None."""

    total_cost_usd: float
    budget_usd: float | None
    remaining_usd: float | None
    usage_pct: float | None
    budget_enabled: bool
    status: Literal["ok", "warning", "exceeded"]


class CostTracker:
    """Adds up what calls of models cost, and says when a budget is nearly and when it is wholly used up.

    Threads may share one.
    """

    def __init__(
        self,
        budget_usd: float | CostBudget | None = None,
        *,
        prices: PriceTable | None = None,
        unknown_model: UnknownPolicy = "refuse",
        token_cap: int | None = None,
        on_event: Callable[[BudgetEvent], None] | None = None,
    ) -> None:
        """A tracker at zero.

        `budget_usd`: dollars, or a CostBudget, whose default is to warn at 80 % and never to raise. `prices`: by default
        the shipped table. `unknown_model`: "refuse" raises for a model without a price; "token_cap" counts its tokens
        instead, and the budget is used up too when there are `token_cap` of them. `on_event` is called for each
        threshold, once, in the thread that recorded.

        Raises ValueError for a budget, a threshold or a cap that is none.
        """
        self._budget = budget_usd if isinstance(budget_usd, CostBudget) else CostBudget(max_cost_usd=budget_usd)
        self._limit = _nano(self._budget.max_cost_usd)
        self._warn_at = _warn_at(self._limit, self._budget.warning_threshold)
        if self._budget.enforcement_mode not in ("halt", "warn", "continue"):
            raise ValueError(f"the mode is {self._budget.enforcement_mode!a:.40}: use halt, warn or continue")
        if unknown_model not in ("refuse", "token_cap"):
            raise ValueError(f"unknown_model is {unknown_model!a:.40}: use refuse or token_cap")
        if (unknown_model == "token_cap") != (token_cap is not None):
            raise ValueError("unknown_model='token_cap' and token_cap=<tokens> belong together: give both or neither")
        self._token_cap = None if token_cap is None else _tokens("token_cap", token_cap)
        self._unknown: UnknownPolicy = unknown_model
        self._prices = load_prices() if prices is None else prices
        self._on_event = on_event
        self._lock = RLock()
        self._total = 0
        self._runs: dict[str, int] = {}
        self._workstreams: dict[tuple[str, str], int] = {}
        self._unpriced = 0
        self._events: list[BudgetEvent] = []

    def record_usage(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        *,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        provider: str | None = None,
        run_id: str = "",
        workstream_id: str = "",
        at: date | None = None,
    ) -> float | None:
        """Count one call and return its cost in US dollars; None for a model without a price under "token_cap".

        `input_tokens` are those outside a cache, `output_tokens` include reasoning. The price is that of the day `at`,
        UTC, by default today's.

        Raises:
            UnknownModelError: no price is known and the policy is "refuse"; nothing was counted.
            ValueError: a token count is no whole number between 0 and 10^12; nothing was counted.
            BudgetExceededError: in the mode `halt`, when the budget is used up; the call was counted.
        """
        usage = Usage(
            input_tokens=_tokens("input_tokens", input_tokens),
            output_tokens=_tokens("output_tokens", output_tokens),
            cache_read_tokens=_tokens("cache_read_tokens", cache_read_tokens),
            cache_write_tokens=_tokens("cache_write_tokens", cache_write_tokens),
        )
        day = datetime.now(UTC).date() if at is None else at
        cost = self._prices.cost(model, usage, at=day, provider=provider, unknown=self._unknown)
        with self._lock:
            if cost is None:
                self._unpriced += input_tokens + output_tokens + cache_read_tokens + cache_write_tokens
            else:
                self._total += cost.nano_usd
                self._runs[run_id] = self._runs.get(run_id, 0) + cost.nano_usd
                key = (run_id, workstream_id)
                self._workstreams[key] = self._workstreams.get(key, 0) + cost.nano_usd
            told = self._new_events()
            over = self.is_over_budget()
            text = f"Budget exceeded: ${self.total_cost_usd:.2f}"
        self._tell(told)
        if over and self._budget.enforcement_mode == "halt":
            raise BudgetExceededError(f"{text}. Raise the budget, or stop here; this call was counted.")
        return None if cost is None else cost.nano_usd / _NANO

    @property
    def total_cost_usd(self) -> float:
        """Everything recorded so far, in US dollars."""
        with self._lock:
            return self._total / _NANO

    @property
    def unpriced_tokens(self) -> int:
        """Tokens of models without a price, which the total does not contain."""
        with self._lock:
            return self._unpriced

    @property
    def events(self) -> tuple[BudgetEvent, ...]:
        """The thresholds reached so far, in order."""
        with self._lock:
            return tuple(self._events)

    def get_total_cost(self, run_id: str, workstream_id: str | None = None) -> float:
        """What was recorded for a run, or for one of its workstreams, in US dollars; 0 for an unknown one."""
        with self._lock:
            if workstream_id is None:
                return self._runs.get(run_id, 0) / _NANO
            return self._workstreams.get((run_id, workstream_id), 0) / _NANO

    def is_over_budget(self) -> bool:
        """Whether nothing is left to spend: the total has reached the budget, or unpriced tokens their cap."""
        with self._lock:
            capped = self._token_cap is not None and self._unpriced >= self._token_cap
            return capped or (self._limit is not None and self._total >= self._limit)

    def get_budget_status(self) -> BudgetStatus:
        """How the budget stands now; `remaining_usd` is never below 0."""
        with self._lock:
            total, limit, warn_at = self._total, self._limit, self._warn_at
            over = self.is_over_budget()
        near = warn_at is not None and total >= warn_at
        return BudgetStatus(
            total_cost_usd=total / _NANO,
            budget_usd=None if limit is None else limit / _NANO,
            remaining_usd=None if limit is None else max(limit - total, 0) / _NANO,
            usage_pct=None if limit is None else 100.0 if limit == 0 else 100 * total / limit,
            budget_enabled=limit is not None,
            status="exceeded" if over else "warning" if near else "ok",
        )

    def _new_events(self) -> list[BudgetEvent]:
        """The thresholds of the budget that this record reached for the first time."""
        if self._limit is None or self._warn_at is None:
            return []
        known = {event.type for event in self._events}
        reached: list[BudgetEvent] = []
        if self._total >= self._warn_at and "budget_warning" not in known:
            reached.append(self._event("budget_warning", self._limit))
        if self._total >= self._limit and "budget_exceeded" not in known:
            reached.append(self._event("budget_exceeded", self._limit))
        self._events += reached
        return reached

    def _event(self, kind: Literal["budget_warning", "budget_exceeded"], limit: int) -> BudgetEvent:
        return BudgetEvent(type=kind, total_cost_usd=self._total / _NANO, budget_usd=limit / _NANO)

    def _tell(self, events: list[BudgetEvent]) -> None:
        """Outside the lock: a listener may ask the tracker, from another thread too."""
        for event in events:
            if self._budget.enforcement_mode != "continue":
                _log(event)
            if self._on_event is not None:
                self._on_event(event)


def _log(event: BudgetEvent) -> None:
    what = "nearly used up" if event.type == "budget_warning" else "used up"
    _logger.warning("the budget is %s: $%.4f of $%.4f", what, event.total_cost_usd, event.budget_usd)


def _nano(value: float | None) -> int | None:
    """Whole nano-dollars; raises ValueError for what is no budget."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= BUDGET_USD_MAX:
        raise ValueError(f"the budget is {str(value)[:40]}: give US dollars between 0 and {BUDGET_USD_MAX}, or None")
    return int((Decimal(str(value)) * _NANO).to_integral_value(ROUND_HALF_UP))


def _warn_at(limit: int | None, threshold: float) -> int | None:
    """The first total at which a warning is due; raises ValueError for a threshold that is none."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise ValueError(f"the warning threshold is {threshold}: give a part of the budget, above 0 and at most 1")
    return None if limit is None else math.ceil(limit * Decimal(str(threshold)))


def _tokens(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        raise ValueError(f"{name} is {str(value)[:40]}: give a whole number between 0 and {TOKENS_MAX}")
    return value
