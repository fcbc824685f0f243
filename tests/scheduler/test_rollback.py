"""Rollback: after the end, in reverse order, one at a time, and whatever was interrupted is gone on with."""

import pytest
from scheduler_harness import Lost, Play, broken, bundle, replay, same, spec

from services.events import (
    RecoveryChosen,
    RequestAnswered,
    RollbackFinished,
    RollbackRequested,
    RollbackStarted,
    RunFinished,
    StepDelayed,
    StepFinished,
    StepScheduled,
    WorkstreamTransitioned,
)

A, B, C, D = "ws-a", "ws-b", "ws-c", "ws-d"
EXACT = {"jitter": 0, "retries": 0, "reductions": 0, "compensations": 2}


def actions(name):
    return (f"cmd:undo {name}", "branch:delete")


def undoable(*names):
    return [bundle(n, *d, compensation_actions=actions(n)) for n, d in zip(names, [(), (A,), (B,)], strict=False)]


def ended(script=None, bundles=None, **options):
    return Play(
        spec(bundles or [*undoable(A, B, C), bundle(D)], recovery=EXACT, **options), script
    ).play()  # fmt: skip


def ask(play, request_id="q-rollback"):
    play.request(RollbackRequested(request_id=request_id, actor="ann", reason="wrong idea"))
    return play


def roll_back(play, request_id="q-rollback"):
    return ask(play, request_id).until_stuck()


def undone(play):
    return [(e.workstream, e.action) for e in play.of(StepScheduled) if e.step == "compensate"]


def test_completed_work_is_undone_in_reverse_order_each_with_its_actions_in_order():
    play = roll_back(ended())
    assert undone(play) == [(n, action) for n in (C, B, A) for action in actions(n)]
    assert play.states == {A: "compensated", B: "compensated", C: "compensated", D: "completed"}
    [told] = play.of(RollbackFinished)
    assert (told.state, told.compensated, told.failed, told.without_actions, told.remaining) == (
        "compensated", 3, 0, 1, [],
    )  # fmt: skip


def test_one_action_runs_at_a_time():
    play = ask(ended())
    play.settle()
    while play.state.open:
        assert len(play.state.open) == 1
        play.act(*min(play.state.open))
        play.settle()


def test_the_runs_own_end_is_not_changed():
    play = ended()
    before = play.state.finished
    roll_back(play)
    assert play.state.finished == before
    assert play.state.status == "completed"
    assert len(play.of(RunFinished)) == 1


def test_a_run_that_goes_on_is_not_rolled_back():
    play = Play(spec(undoable(A)))
    play.settle()
    ask(play).settle()
    answer = play.state.answers["q-rollback"]
    assert answer.answer == "refused"
    assert "cancel it first" in answer.reason
    play.play()
    assert undone(play) == []


def test_only_what_was_completed_is_undone():
    play = ended({(B, "edit"): [broken("auth")]})
    assert play.states[C] == "blocked"
    roll_back(play)
    assert {n for n, _ in undone(play)} == {A}
    assert play.states == {A: "compensated", B: "failed", C: "blocked", D: "completed"}


def test_a_run_with_nothing_to_undo_says_so():
    play = roll_back(ended(bundles=[bundle(D)]))
    [told] = play.of(RollbackFinished)
    assert (told.state, told.compensated, told.without_actions) == ("compensated", 0, 1)


def test_an_action_that_fails_is_repeated_after_longer_and_longer():
    play = roll_back(ended({(C, "compensate"): [broken("tool_failed")] * 2}))
    assert play.states[C] == "compensated"
    assert undone(play)[:3] == [(C, actions(C)[0])] * 3
    chosen = [e for e in play.of(RecoveryChosen) if e.step == "compensate"]
    assert [e.strategy for e in chosen] == ["retry", "retry"]
    assert len(play.of(StepDelayed)) == 2


def test_an_action_done_is_not_done_again_when_the_next_one_fails():
    play = roll_back(ended({(C, "compensate"): [StepFinished(ok=True), broken("tool_failed")]}))
    assert undone(play)[:3] == [(C, actions(C)[0]), (C, actions(C)[1]), (C, actions(C)[1])]


def test_what_fails_for_good_remains_and_the_others_go_on():
    play = roll_back(ended({(B, "compensate"): [broken("tool_failed")] * 3}))
    assert play.states == {A: "compensated", B: "compensation_failed", C: "compensated", D: "completed"}
    [told] = play.of(RollbackFinished)
    assert (told.state, told.compensated, told.failed, told.remaining) == ("compensation_failed", 2, 1, [B])
    assert "undo ws-b" in play.reason(B)


def test_a_second_rollback_retries_only_what_remains_from_where_it_stopped():
    play = roll_back(ended({(B, "compensate"): [StepFinished(ok=True), *[broken("tool_failed")] * 3]}))
    before = len(undone(play))
    roll_back(play, "q-again")
    assert undone(play)[before:] == [(B, actions(B)[1])]
    assert play.states[B] == "compensated"
    assert [e.state for e in play.of(RollbackFinished)] == ["compensation_failed", "compensated"]


@pytest.mark.parametrize("outcome", [Lost, broken("handed_back")])
def test_an_executor_that_goes_away_in_the_middle_does_not_end_it(outcome):
    play = roll_back(ended({(C, "compensate"): [outcome]}))
    assert play.states[C] == "compensated"


def test_a_hand_back_is_no_failure_of_an_action():
    play = roll_back(ended({(C, "compensate"): [broken("handed_back")] * 10}))
    assert play.states[C] == "compensated"
    assert [e for e in play.of(RecoveryChosen) if e.step == "compensate"] == []


def test_a_request_while_it_is_under_way_is_refused_and_a_repeated_one_ignored():
    play = ask(ended())
    play.settle()
    ask(play, "q-second").settle()
    assert play.state.answers["q-second"].answer == "refused"
    ask(play).until_stuck()
    assert len(play.of(RollbackStarted)) == len(play.of(RollbackFinished)) == 1
    ask(play).until_stuck()
    assert len(play.of(RollbackStarted)) == 1
    assert len([e for e in play.of(RequestAnswered) if e.request_id == "q-rollback"]) == 1


@pytest.mark.parametrize("at_once", [None, 1])
def test_interrupted_anywhere_it_goes_on_where_it_stood(at_once):
    """Every prefix of the log folds into a state from which the rest follows, and no action is done twice."""
    script = {(B, "compensate"): [broken("tool_failed")]}
    whole = roll_back(ended(script))
    start = next(n for n, f in enumerate(whole.facts) if isinstance(f.entry.events[0], RollbackRequested))
    for cut in range(start + 1, len(whole.facts) + 1):
        play = Play(whole.spec, {})
        play.facts = list(whole.facts[:cut])
        play.state = replay(play.facts)
        play.sequence, play.now_ns = play.facts[-1].sequence, play.facts[-1].time_ns
        play.decisions_at_once = None if at_once is None else lambda: at_once
        play.until_stuck()
        assert play.states == whole.states
        failed = any(isinstance(e, StepFinished) and not e.ok for fact in whole.facts[:cut] for e in fact.entry.events)
        told = [e for fact in play.facts for e in fact.entry.events]
        done = [e.action for e in told if isinstance(e, StepScheduled) and e.step == "compensate"]
        assert len(done) == 6 + failed, "only what failed is done again"
        assert len([e for e in told if isinstance(e, RollbackFinished)]) == 1
        assert same(replay(play.facts), play.state)


def test_states_move_only_as_the_table_allows():
    play = roll_back(ended({(B, "compensate"): [broken("tool_failed")] * 3}))
    moves = [(e.from_state, e.to_state) for e in play.of(WorkstreamTransitioned) if "compens" in e.to_state]
    assert set(moves) == {
        ("completed", "compensating"), ("compensating", "compensated"), ("compensating", "compensation_failed"),
    }  # fmt: skip
