"""CostTracker: what calls of models cost, against a budget."""

import logging
import math
import threading
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swell
from services.outcome import Usage
from services.prices import load_prices
from swell.cost import BudgetEvent, BudgetExceededError, CostBudget, CostTracker

DAY = date(2026, 11, 23)
TABLE = load_prices()


def tracker(budget: float | CostBudget | None = None, **settings) -> CostTracker:
    return CostTracker(budget, prices=TABLE, **settings)


def spend(on: CostTracker, calls: int = 1, **settings) -> float | None:
    """Calls of six cents each."""
    cost = None
    for _ in range(calls):
        cost = on.record_usage(model="gpt-4", input_tokens=1000, output_tokens=500, at=DAY, **settings)
    return cost


def test_the_seed_s_example():
    costs = swell.CostTracker(budget_usd=10.0)
    assert costs.record_usage(model="gpt-4", input_tokens=1000, output_tokens=500) == 0.06
    assert costs.total_cost_usd == 0.06
    assert not costs.is_over_budget()
    with pytest.raises(swell.BudgetExceededError, match=r"^Budget exceeded: \$0\.06$"):
        raise swell.BudgetExceededError(f"Budget exceeded: ${costs.total_cost_usd:.2f}")


def test_many_records_do_not_drift():
    costs = tracker()
    spend(costs, 1000)
    assert costs.total_cost_usd == 60.0


def test_each_threshold_is_told_once(caplog: pytest.LogCaptureFixture):
    told: list[BudgetEvent] = []
    costs = tracker(0.3, on_event=told.append)
    with caplog.at_level(logging.WARNING, "swell.cost"):
        states = []
        for _ in range(7):
            spend(costs)
            states.append(costs.get_budget_status()["status"])
    assert states == ["ok", "ok", "ok", "warning", "exceeded", "exceeded", "exceeded"]
    assert told == [
        BudgetEvent(type="budget_warning", total_cost_usd=0.24, budget_usd=0.3),
        BudgetEvent(type="budget_exceeded", total_cost_usd=0.3, budget_usd=0.3),
    ]
    assert costs.events == tuple(told)
    assert len(caplog.records) == 2


def test_a_record_that_jumps_over_both_thresholds_tells_both():
    costs = tracker(0.01)
    spend(costs)
    assert [event.type for event in costs.events] == ["budget_warning", "budget_exceeded"]


def test_halt_raises_at_every_record_over_the_budget_and_counts_it():
    costs = tracker(CostBudget(max_cost_usd=0.1, enforcement_mode="halt"))
    spend(costs)
    for total in (0.12, 0.18):
        with pytest.raises(BudgetExceededError, match=rf"\${total}"):
            spend(costs)
        assert costs.total_cost_usd == total
    assert len(costs.events) == 2


def test_continue_logs_nothing(caplog: pytest.LogCaptureFixture):
    costs = tracker(CostBudget(max_cost_usd=0.01, enforcement_mode="continue"))
    spend(costs)
    assert costs.is_over_budget()
    assert not caplog.records


def test_the_status_of_a_budget():
    costs = tracker(0.1)
    spend(costs)
    assert costs.get_budget_status() == {
        "total_cost_usd": 0.06, "budget_usd": 0.1, "remaining_usd": 0.04, "usage_pct": 60.0, "budget_enabled": True,
        "status": "ok",
    }  # fmt: skip
    spend(costs)
    assert costs.get_budget_status()["remaining_usd"] == 0


def test_without_a_budget_nothing_is_ever_over():
    costs = tracker()
    spend(costs, 10)
    assert not costs.is_over_budget()
    assert costs.events == ()
    assert costs.get_budget_status() == {
        "total_cost_usd": 0.6, "budget_usd": None, "remaining_usd": None, "usage_pct": None, "budget_enabled": False,
        "status": "ok",
    }  # fmt: skip


def test_a_budget_of_zero_is_used_up_from_the_start():
    costs = tracker(0)
    assert costs.is_over_budget()
    assert costs.get_budget_status()["usage_pct"] == 100
    spend(costs, 2)
    assert len(costs.events) == 2


def test_a_warning_may_come_earlier_or_later():
    costs = tracker(CostBudget(max_cost_usd=0.12, warning_threshold=0.5))
    spend(costs)
    assert costs.get_budget_status()["status"] == "warning"


def test_costs_are_kept_by_run_and_workstream():
    costs = tracker()
    spend(costs, run_id="r1", workstream_id="ws-a")
    spend(costs, run_id="r1", workstream_id="ws-b")
    spend(costs, run_id="r2", workstream_id="ws-a")
    assert costs.get_total_cost("r1") == 0.12
    assert costs.get_total_cost("r1", "ws-a") == 0.06
    assert costs.get_total_cost("r3") == costs.get_total_cost("r1", "ws-c") == 0


def test_cached_tokens_have_their_own_rates():
    cost = tracker().record_usage("claude-sonnet-4-5", 1200, 0, cache_read_tokens=5000, cache_write_tokens=300, at=DAY)
    assert cost == 0.006225


def test_a_model_without_a_price_is_refused_and_not_counted():
    costs = tracker(1.0)
    with pytest.raises(swell.UnknownModelError):
        costs.record_usage("mock-model", 10, 10)
    assert costs.total_cost_usd == costs.unpriced_tokens == 0


def test_a_model_without_a_price_may_be_held_to_a_number_of_tokens():
    costs = tracker(1.0, unknown_model="token_cap", token_cap=30)
    assert costs.record_usage("mock-model", 10, 10) is None
    assert not costs.is_over_budget()
    assert costs.record_usage("mock-model", 5, 2, cache_read_tokens=2, cache_write_tokens=1) is None
    assert costs.unpriced_tokens == 30
    assert costs.is_over_budget()
    assert costs.get_budget_status()["status"] == "exceeded"


@pytest.mark.parametrize("budget", [-1, -0.01, math.nan, math.inf, 10**10, True, "10"])
def test_what_is_no_budget_is_refused(budget):
    with pytest.raises(ValueError, match="the budget is"):
        tracker(budget)
    with pytest.raises(ValueError, match="the budget is"):
        tracker(CostBudget(max_cost_usd=budget))


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, math.nan, True, "0.8"])
def test_what_is_no_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        tracker(CostBudget(max_cost_usd=1, warning_threshold=threshold))


@pytest.mark.parametrize(
    "settings",
    [{"unknown_model": "guess"}, {"unknown_model": "token_cap"}, {"token_cap": 1},
     {"unknown_model": "token_cap", "token_cap": -1}],
)  # fmt: skip
def test_what_is_no_policy_is_refused(settings):
    with pytest.raises(ValueError, match="token_cap"):
        tracker(1.0, **settings)


def test_what_is_no_mode_is_refused():
    with pytest.raises(ValueError, match="mode"):
        tracker(CostBudget(max_cost_usd=1, enforcement_mode="stop"))


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"])
@pytest.mark.parametrize("tokens", [-1, 10**12 + 1, 1.5, True, "1", None, math.nan])
def test_what_is_no_number_of_tokens_is_refused_and_not_counted(field, tokens):
    costs = tracker()
    with pytest.raises(ValueError, match=field):
        costs.record_usage(**{"model": "gpt-4", "input_tokens": 1, "output_tokens": 1, field: tokens})
    assert costs.total_cost_usd == 0


def test_threads_may_share_a_tracker():
    """Nothing is lost, and each threshold is told once, to a listener that asks the tracker itself."""
    told: list[tuple[str, bool]] = []
    costs = tracker(24.0, on_event=lambda event: told.append((event.type, costs.total_cost_usd > 0)))
    threads = [threading.Thread(target=spend, args=(costs, 50)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert costs.total_cost_usd == 24.0
    assert sorted(told) == [("budget_exceeded", True), ("budget_warning", True)]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20), st.integers(0, 10**6))
def test_the_total_is_the_sum_of_the_table_s_costs(calls, budget):
    costs = tracker(budget)
    for read, written in calls:
        costs.record_usage("claude-opus-5", read, written, at=DAY)
    nano = sum(
        TABLE.cost("claude-opus-5", Usage(input_tokens=read, output_tokens=written), at=DAY).nano_usd
        for read, written in calls
    )
    assert costs.total_cost_usd == nano / 10**9
    assert costs.is_over_budget() == (nano >= budget * 10**9)
    assert len(costs.events) <= 2
