"""Budgets of a run and of its workstreams: what may begin, what waits, what is told, and what sets it going again."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness import SECOND_NS, Lost, Play, broken, bundle, made, spec

from services.events import (
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    CancelRequested,
    ResultRefused,
    ResumeRequested,
    RunTransitioned,
    Snapshot,
    StepDelayed,
    StepFinished,
    StepScheduled,
)
from services.outcome import Cost, Usage
from services.profiles import Result, ToolProfile, UsageFields
from services.scheduler.budget import Account, run_account
from services.scheduler.fleet import ToolBreaker
from services.wire import Place

NANO = 10**9


def cents(count):
    return count * NANO // 100


def paid(tree, count, *, lower_bound=False, ok=True, **rest):
    """An edit that cost so many cents."""
    usage = Usage(output_tokens=10, lower_bound=lower_bound)
    cost = Cost(nano_usd=cents(count), basis="reported")
    snapshot = Snapshot(commit=f"commit-of-{tree}", tree=tree)
    return StepFinished(ok=ok, changed=True, snapshot=snapshot, usage=usage, cost=cost, **rest)


def ai(cap_usd=0.30, *, flag=True, **rest):
    args = ("--max-budget-usd", "{max_cost_usd}") if flag else ()
    return ToolProfile(command="ai", type="ai", args=args, cost_cap_usd=cap_usd, **rest)


def play(count=6, *, budget=100, cap_usd=0.30, script=None, profile=None, bundles=None, extra=None, **options):
    """Independent workstreams under a budget in cents, with a tool that costs 30 cents each time."""
    names = [f"ws-{letter}" for letter in "abcdefgh"[:count]]
    known = bundles or [bundle(name) for name in names]
    script = {(b.id, "edit"): [paid(f"t-{b.id}", 30)] * 3 for b in known} | (script or {})
    nano = None if budget is None else cents(budget)
    return Play(
        spec(
            known,
            profiles={"editor": profile or ai(cap_usd), **(extra or {})},
            **{"budget_nano": nano, "review": "wait", "max_workers": 2, **options},
        ),
        script,
    )


def budget(usd_cents, request_id="q-budget", **rest):
    return BudgetRequested(
        request_id=request_id, actor="ann", limit_nano=None if usd_cents is None else cents(usd_cents), **rest
    )


def edits(run):
    return [e for e in run.of(StepScheduled) if e.step == "edit"]


def spent(run):
    return run.state.book.accounts[run_account(run.state.run)].spent_nano


# What may begin


def test_attempts_reserve_their_cap_and_begin_only_while_it_fits():
    """A dollar, thirty cents each: three begin, and the fourth does not, whatever else is ready."""
    run = play().until_stuck()
    assert len(edits(run)) == 3
    assert {(e.cap, e.cap_nano) for e in edits(run)} == {("enforced", cents(30))}
    assert spent(run) == cents(90)
    [held] = [e for e in run.of(RunTransitioned) if e.to_state == "paused"]
    assert held.cause == "budget"
    assert "$0.90 of $1.00" in held.reason
    assert "swell budget set" in held.reason


def test_what_is_reserved_counts_before_it_is_spent():
    """Two begin at once: in one decision as well, the second one sees the first."""
    run = play(budget=59)
    run.settle()
    assert len(edits(run)) == 1
    [delayed] = run.of(StepDelayed)
    assert (delayed.cause, "reserved" in delayed.reason) == ("budget", True)


def test_an_attempt_that_costs_less_leaves_room_for_the_next():
    run = play(3, budget=60, script={(f"ws-{c}", "edit"): [paid(f"t{c}", 10)] for c in "abc"})
    run.play()
    assert run.state.status == "completed"
    assert run.state.finished.spent_nano == cents(30)


def test_a_budget_of_nothing_lets_nothing_begin():
    run = play(budget=0).until_stuck()
    assert edits(run) == []
    assert run.state.held == "budget"


def test_without_a_budget_the_spending_is_kept_all_the_same():
    run = play(budget=None).play()
    assert run.state.finished.spent_nano == cents(180)
    assert run.of(BudgetReached) == []


def test_tools_that_are_no_ai_cost_nothing():
    run = play(
        budget=0, profile=ToolProfile(command="sed"), script={(f"ws-{c}", "edit"): [made(f"t{c}")] for c in "abcdef"}
    )
    run.play()
    assert run.state.status == "completed"
    assert {e.cap for e in edits(run)} == {None}


def test_a_tool_that_nothing_holds_to_an_amount_is_refused_under_a_budget():
    run = play(1, profile=ToolProfile(command="ai", type="ai")).until_stuck()
    assert edits(run) == []
    workstream = run.state.workstreams["ws-a"]
    assert (workstream.state, workstream.review.error_class) == ("awaiting_review", "budget")
    assert "cost_cap_usd" in workstream.review.reason


@pytest.mark.parametrize(
    ("result", "cap"),
    [
        (None, "soft"),
        (Result(format="ndjson", repeated="sum", cost_usd="/usd"), "enforced"),
        (Result(format="ndjson", repeated="last", cost_usd="/usd"), "soft"),
        (Result(format="ndjson", repeated="sum", usage=UsageFields(output="/out")), "soft"),
        (Result(format="json", repeated="sum", cost_usd="/usd"), "soft"),
    ],
)
def test_a_cap_that_is_only_expected_is_marked_so(result, cap):
    """A tool that says with each answer what that has cost can be ended at its cap; no other one that has no flag."""
    run = play(1, profile=ai(flag=False, adapter=result and "generic", result=result))
    run.settle()
    assert edits(run)[0].cap == cap


@pytest.mark.parametrize("mode", ["warn", "continue"])
def test_the_other_modes_only_tell(mode):
    run = play(budget=100, budget_mode=mode).play()
    assert run.state.status == "completed"
    assert [(e.threshold, e.mode) for e in run.of(BudgetReached)] == [("warning", mode), ("exceeded", mode)]


# What an attempt counts as


def test_an_attempt_that_is_lost_counts_as_its_cap_until_its_cost_is_known():
    run = play(2, budget=100, max_workers=1, script={("ws-a", "edit"): [Lost, paid("t", 30)]})
    run.settle()
    run.act("ws-a", 1)
    assert spent(run) == cents(30)
    late = ResultRefused(executor="e1", boot="k1", result=paid("x", 4))
    run.write(Place("late", run.state.run, "ws-a", 1), late)
    assert spent(run) == cents(4)
    run.play()
    assert run.state.finished.spent_nano == cents(64)


def test_an_attempt_that_nobody_began_cost_nothing():
    run = play(1)
    run.settle()
    run.cancel()
    run.until_stuck()
    assert run.state.finished.spent_nano == 0


def test_a_tool_that_does_not_say_what_it_cost_counts_as_its_cap():
    run = play(1, script={("ws-a", "edit"): [made("t")]}).play()
    assert run.state.finished.spent_nano == cents(30)


def test_a_lower_bound_is_no_cost():
    run = play(1, script={("ws-a", "edit"): [paid("t", 2, lower_bound=True)]}).play()
    assert run.state.finished.spent_nano == cents(30)


def test_what_a_failed_attempt_cost_counts():
    failed = broken("tool_failed", cost=Cost(nano_usd=cents(7), basis="list", table="t"))
    run = play(1, recovery={"retries": 2}, script={("ws-a", "edit"): [failed, failed, paid("t", 30)]}).play()
    assert run.state.finished.spent_nano == cents(44)


# Thresholds


def test_each_threshold_is_told_once():
    run = play(budget=100).until_stuck()
    assert [(e.threshold, e.spent_nano) for e in run.of(BudgetReached)] == [("warning", cents(90))]
    run = play(budget=90).until_stuck()
    assert [e.threshold for e in run.of(BudgetReached)] == ["warning", "exceeded"]


def test_a_jump_over_both_tells_both_and_another_budget_tells_anew():
    run = play(1, budget=50, script={("ws-a", "edit"): [paid("t", 80)]}).until_stuck()
    assert [e.threshold for e in run.of(BudgetReached)] == ["warning", "exceeded"]


# Another budget


def test_another_budget_sets_the_run_going_again():
    run = play().until_stuck()
    deadline = run.state.accepted.deadline_ns
    run.now_ns += 5_000 * SECOND_NS
    run.request(budget(200))
    run.settle()
    assert [e.to_state for e in run.of(RunTransitioned)][-1] == "running"
    [changed] = run.of(BudgetChanged)
    assert (changed.limit_nano, changed.actor) == (cents(200), "ann")
    run.play()
    assert (run.state.status, run.state.finished.spent_nano) == ("completed", cents(180))
    assert run.state.accepted.deadline_ns == deadline


def test_a_budget_that_is_still_too_small_changes_nothing():
    run = play().until_stuck()
    run.request(budget(110))
    run.until_stuck()
    assert run.state.held == "budget"
    assert len(edits(run)) == 3


def test_no_budget_at_all_lets_everything_go_on():
    run = play().until_stuck()
    run.request(budget(None))
    run.play()
    assert run.state.status == "completed"


def test_resuming_does_not_help_and_says_what_does():
    run = play().until_stuck()
    run.request(ResumeRequested(request_id="q-resume", actor="ann"))
    run.settle()
    answer = run.state.answers["q-resume"]
    assert (answer.answer, "swell budget set" in answer.reason) == ("refused", True)


def test_a_run_that_waits_for_its_budget_can_be_cancelled():
    run = play().until_stuck()
    run.request(CancelRequested(request_id="q", actor="ann"))
    run.until_stuck()
    assert run.state.status == "cancelled"


def test_a_budget_of_a_run_that_is_over_is_refused():
    run = play(1).play()
    run.request(budget(5))
    run.settle()
    assert run.state.answers["q-budget"].answer == "refused"


@pytest.mark.parametrize("scheduling", ["barrier", "eager"])
def test_in_a_run_that_nobody_watches_what_does_not_fit_fails_and_the_rest_is_delivered(scheduling):
    run = play(review="fail", scheduling=scheduling).play()
    assert (run.state.status, run.state.finished.completed, run.state.finished.failed) == ("partial", 3, 3)
    assert run.state.finished.spent_nano == cents(90)
    assert "swell budget set" in next(w.reason for w in run.state.workstreams.values() if w.state == "failed")


def test_a_run_is_not_paused_by_the_decision_that_begins_something():
    """Two retries are due at once, and the money holds one of them."""
    failed = broken("tool_failed", cost=Cost(nano_usd=0, basis="reported"))
    script = {("ws-a", "edit"): [failed, paid("t", 30)], ("ws-b", "edit"): [failed, paid("u", 30)]}
    run = play(2, budget=59, recovery={"retries": 2}, script=script, max_workers=2).until_stuck()
    for entry in run.facts:
        kinds = [type(event).__name__ for event in entry.entry.events]
        assert not ("RunTransitioned" in kinds and "StepScheduled" in kinds and len(kinds) > 2), kinds
    assert run.state.held == "budget"


# Workstreams


def test_a_workstream_may_have_a_budget_of_its_own():
    """Its first attempt fails and costs most of it: the second does not fit, a person decides, the others go on."""
    bundles = [bundle("ws-a", max_cost_usd=0.5), bundle("ws-b")]
    failed = broken("tool_failed", cost=Cost(nano_usd=cents(30), basis="reported"))
    run = play(budget=None, bundles=bundles, recovery={"retries": 3}, script={("ws-a", "edit"): [failed] * 3})
    run.until_stuck()
    states = {name: w.state for name, w in run.state.workstreams.items()}
    assert states == {"ws-a": "awaiting_review", "ws-b": "completed"}
    assert run.state.workstreams["ws-a"].review.error_class == "budget"
    assert "max_cost_usd" in run.state.workstreams["ws-a"].review.reason
    assert len([e for e in edits(run) if e.workstream == "ws-a"]) == 1


def test_a_workstream_whose_own_budget_is_used_up_is_not_held_by_that_of_the_run():
    """Once the run has money again, its own budget still has none: a person decides."""
    failed = broken("tool_failed", cost=Cost(nano_usd=cents(30), basis="reported"))
    bundles = [bundle("ws-a", max_cost_usd=0.5)]
    run = play(budget=50, bundles=bundles, recovery={"retries": 3}, script={("ws-a", "edit"): [failed] * 3})
    run.until_stuck()
    assert run.state.held == "budget"
    run.request(budget(None))
    run.until_stuck()
    assert run.state.workstreams["ws-a"].state == "awaiting_review"
    assert run.state.held == "review"


# Always


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    limit=st.integers(0, 300),
    cap=st.integers(1, 60),
    costs=st.lists(st.integers(0, 90), min_size=6, max_size=6),
    lies=st.lists(st.sampled_from(["tells", "tells", "silent", "lost"]), min_size=6, max_size=6),
    workers=st.integers(1, 6),
    scheduling=st.sampled_from(["barrier", "eager"]),
)
def test_spending_stays_within_the_budget_but_for_what_tools_overshoot(limit, cap, costs, lies, workers, scheduling):
    """At each dispatch what is spent and reserved fits; in the end spending exceeds it only by the overshoots."""
    script = {}
    for name, cost, lie in zip("abcdef", costs, lies, strict=True):
        told = {"tells": paid(f"t{name}", cost), "silent": made(f"t{name}"), "lost": Lost}[lie]
        script[f"ws-{name}", "edit"] = [told, paid(f"u{name}", cost), paid(f"v{name}", cost)]
    run = play(budget=limit, cap_usd=cap / 100, script=script, max_workers=workers, scheduling=scheduling)
    overshoots = 0
    seen = 0
    while True:
        run.settle()
        for event in edits(run)[seen:]:
            account = run.state.book.accounts[run_account(run.state.run)]
            assert account.spent_nano + account.reserved_nano <= cents(limit) + overshoots, event
        seen = len(edits(run))
        if not run.state.open:
            break
        key = min(run.state.open)
        before = spent(run) if run_account(run.state.run) in run.state.book.accounts else 0
        run.act(*key)
        account = run.state.book.accounts.get(run_account(run.state.run))
        grown = (account.spent_nano if account else 0) - before
        overshoots += max(grown - cents(min(cap, limit)), 0)
    assert run.state.held == "budget" or run.state.finished is not None
    if run_account(run.state.run) in run.state.book.accounts:
        assert spent(run) <= cents(limit) + overshoots


# Beside the ordinary


def test_a_tool_that_may_cost_more_than_there_is_is_held_to_what_there_is():
    """A cap of five dollars under a budget of one: the attempt gets the dollar, not nothing."""
    run = play(1, budget=100, cap_usd=5.0, script={("ws-a", "edit"): [paid("t", 30)]})
    run.settle()
    assert [e.cap_nano for e in edits(run)] == [cents(100)]
    run.play()
    assert run.state.status == "completed"


def test_a_step_by_step_goal_that_does_not_fit_is_answered_and_leaves_nothing_behind():
    run = play(2, budget=60, stepwise=True, max_workers=4)
    run.settle()
    run.ask("ws-a", "edit", "q-a")
    run.ask("ws-b", "edit", "q-b")
    run.settle()
    run.act("ws-a", 1)
    run.act("ws-b", 1)
    run.settle()
    run.ask("ws-a", "edit", "q-c")
    run.settle()
    answer = run.state.answers["q-c"]
    assert (answer.answer, answer.ok) == ("done", False)
    assert run.state.delayed == set()
    assert run.state.workstreams["ws-a"].state not in {"awaiting_review", "failed"}


def test_costs_beyond_all_measure_do_not_keep_a_run_from_its_end():
    huge = StepFinished(
        ok=True, changed=True, snapshot=Snapshot(commit="c", tree="t"), cost=Cost(nano_usd=10**18, basis="reported")
    )
    script = {(f"ws-{name}", "edit"): [huge] for name in "ab"}
    run = play(2, budget=None, script=script).play()
    assert run.state.finished.spent_nano == 10**18


def test_a_fallback_that_is_too_dear_is_waited_past():
    """The tool's breaker is open and its stand-in costs more than there is: the step waits for the tool, not for money."""
    dear = ai(0.9)
    run = play(
        1,
        budget=100,
        profile=ai(0.1, fallback=("dear",)),
        script={("ws-a", "edit"): [paid("t", 10)]},
        extra={"dear": dear},
        bundles=[bundle("ws-a")],
    )
    run.state.book.accounts.setdefault(run_account(run.state.run), Account(spent_nano=cents(50)))
    opened = ToolBreaker(tool="editor", state="open", until_ns=run.now_ns + 60 * SECOND_NS, reason="down")
    run.fleet.breakers["editor"] = opened
    run.settle()
    [delayed] = run.of(StepDelayed)
    assert delayed.cause == "tool_breaker"
    assert run.state.held == ""
