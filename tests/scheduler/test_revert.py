"""Taking workstreams off the line of an ended run: dependents first named, conflicts and red trees move nothing."""

import pytest
from scheduler_harness import Lost, Play, broken, bundle, failed, made, replay, same, spec

from services.events import (
    DeliveryRequested,
    IntegrationReverted,
    LineDelivered,
    RequestAnswered,
    RevertFinished,
    RevertStarted,
    RollbackRequested,
    StepFinished,
    StepScheduled,
)

A, B, C, D = "ws-a", "ws-b", "ws-c", "ws-d"
GRAPH = [bundle(A), bundle(B, A), bundle(C, B), bundle(D)]


def ended(script=None, bundles=None, **options):
    return Play(spec(bundles or GRAPH, **options), script).play()


def roll_back(play, *workstreams, request_id="q-revert", with_dependents=False):
    play.request(
        RollbackRequested(
            request_id=request_id, actor="ann", workstreams=list(workstreams), with_dependents=with_dependents
        )
    )
    return play.until_stuck()


def after(play, kind=StepScheduled):
    """What was decided once the run had ended."""
    start = next(n for n, fact in enumerate(play.facts) if isinstance(fact.entry.events[0], RollbackRequested))
    return [e for fact in play.facts[start:] for e in fact.entry.events if isinstance(e, kind)]


def refusal(play, request_id="q-revert"):
    (answer,) = [e for e in play.of(RequestAnswered) if e.request_id == request_id]
    assert answer.answer == "refused"
    return answer.reason


def test_the_change_is_taken_out_the_rest_checked_and_delivered():
    play = ended()
    line = play.state.line
    before, merged = play.state.workstreams[D].before, play.state.workstreams[D].merged
    head = line.head
    roll_back(play, D)
    merge, gate, delivery = after(play)
    assert (merge.step, merge.on_behalf, merge.reverts) == ("merge", D, True)
    assert (merge.base, merge.input, merge.theirs) == (merged, head, before)
    assert (gate.step, gate.input.commit, gate.every_check) == ("gate", play.state.line.head.commit, False)
    order = play.state.definitions.order
    assert {order[index] for start, end in gate.merged for index in range(start, end)} == {A, B, C}
    assert {check.name for check in gate.checks} == {"ruff", "pytest"}
    assert (delivery.step, delivery.base.commit) == ("deliver", head.commit)
    assert play.of(LineDelivered)[-1].commit == play.state.line.head.commit != head.commit
    assert play.states == {A: "completed", B: "completed", C: "completed", D: "compensated"}
    (told,) = play.of(RevertFinished)
    assert (told.state, told.workstreams) == ("reverted", [D])
    assert not play.state.alive
    assert same(replay(play.facts), play.state)


def test_what_builds_on_it_is_named_and_nothing_begun():
    play = roll_back(ended(), A)
    assert refusal(play).startswith(f"{B}, {C} built on it")
    assert after(play) == []
    assert set(play.states.values()) == {"completed"}


def test_with_what_builds_on_it_the_last_merge_goes_first():
    play = roll_back(ended(), A, with_dependents=True)
    assert [e.on_behalf for e in after(play) if e.step == "merge"] == [C, B, A]
    (reverted,) = play.of(IntegrationReverted)
    assert reverted.workstreams == [C, B, A]
    assert play.states == {A: "compensated", B: "compensated", C: "compensated", D: "completed"}
    assert [move for move in play.moves if move.startswith(A)][-2:] == [
        f"{A} completed → compensating", f"{A} compensating → compensated",
    ]  # fmt: skip


def test_a_dependent_that_is_off_the_line_already_stands_in_nobodys_way():
    play = roll_back(ended(), C)
    roll_back(play, B, request_id="q-next")
    assert play.states == {A: "completed", B: "compensated", C: "compensated", D: "completed"}


def test_with_nothing_left_there_is_nothing_to_check():
    play = roll_back(ended(bundles=[bundle(A)]), A)
    assert [e.step for e in after(play)] == ["merge", "deliver"]
    assert play.state.line.merged == ()


@pytest.mark.parametrize(
    ("names", "said"),
    [(("ws-none",), "has no workstream ws-none"), ((B,), "ws-b is not on the line: it is failed")],
)
def test_only_what_is_on_the_line_can_be_taken_off(names, said):
    play = roll_back(ended({(B, "edit"): [broken("auth")]}), *names)
    assert said in refusal(play)


def test_a_live_run_is_left_alone():
    play = Play(spec(GRAPH))
    play.settle()
    play.request(RollbackRequested(request_id="q-revert", actor="ann", workstreams=[A]))
    play.settle()
    assert "cancel it first" in refusal(play)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            {(D, "merge"): [broken("merge_conflict", conflicts=["a.py"], others=[B])]},
            "taking ws-d off the line conflicts with ws-b in a.py",
        ),
        ({(D, "gate"): [failed("E1")]}, "what is left is red without it"),
        ({(D, "gate"): [broken("check_error")]}, "check_error happened"),
        ({(D, "merge"): [Lost] * 3}, "has started anew"),
    ],
)
def test_a_conflict_a_red_tree_and_what_nobody_can_judge_move_nothing(script, said):
    play = ended(losses_max=2)
    head, delivered = play.state.line.head, dict(play.state.line.deliveries)
    play.script |= script
    roll_back(play, D)
    (told,) = play.of(RevertFinished)
    assert told.state == "refused"
    assert said in told.reason
    assert (play.state.line.head, play.state.line.deliveries) == (head, delivered)
    assert play.states[D] == "completed"
    assert play.of(IntegrationReverted) == []
    play.script.clear()
    roll_back(play, D, request_id="q-again")
    assert play.states[D] == "compensated"


@pytest.mark.parametrize("step", ["merge", "gate", "deliver"])
@pytest.mark.parametrize("outcome", [Lost, broken("handed_back"), broken("workspace_error")])
def test_an_executor_that_goes_away_does_not_end_it(step, outcome):
    play = ended()
    play.script["" if step == "deliver" else D, step] = [outcome]
    roll_back(play, D)
    assert [e.state for e in play.of(RevertFinished)] == ["reverted"]


def test_what_does_not_take_the_new_head_is_told_and_can_be_delivered_later():
    play = ended()
    play.request(DeliveryRequested(request_id="q-deliver", actor="ann", remote="/srv/r.git"))
    play.until_stuck()
    old = play.state.line.head.commit
    play.script["", "deliver"] = [broken("delivery_refused")]
    roll_back(play, D)
    (told,) = play.of(RevertFinished)
    assert (told.state, "swell deliver" in told.reason) == ("undelivered", True)
    heads = {remote: known.head for remote, known in play.state.line.deliveries.items()}
    assert heads == {"": old, "/srv/r.git": play.state.line.head.commit}
    assert play.states[D] == "compensated"
    play.request(DeliveryRequested(request_id="q-later", actor="ann"))
    play.until_stuck()
    assert play.state.line.deliveries[""].head == play.state.line.head.commit


def test_a_run_that_was_never_delivered_stays_so():
    play = roll_back(ended(deliver="never"), D)
    assert play.of(LineDelivered) == []
    assert [e.state for e in play.of(RevertFinished)] == ["reverted"]


def test_the_same_tree_as_before_is_not_checked_again():
    """What is left is the tree that was the head before the last merge: its verdicts are known."""
    play = ended()
    last = max(play.state.workstreams.values(), key=lambda one: one.merged_at)
    play.script[last.id, "merge"] = [made(last.before.tree)]
    roll_back(play, last.id)
    assert [e.step for e in after(play)] == ["merge", "deliver"]


@pytest.mark.parametrize("at_once", [None, 1])
def test_interrupted_anywhere_it_goes_on_where_it_stood(at_once):
    whole = ended()
    whole.script[B, "merge"] = [broken("handed_back")]
    roll_back(whole, A, with_dependents=True)
    start = next(n for n, f in enumerate(whole.facts) if isinstance(f.entry.events[0], RollbackRequested))
    for cut in range(start + 1, len(whole.facts) + 1):
        play = Play(whole.spec, {}, decisions_at_once=None if at_once is None else lambda: at_once)
        play.facts = list(whole.facts[:cut])
        play.state = replay(play.facts)
        play.sequence, play.now_ns = play.facts[-1].sequence, play.facts[-1].time_ns
        play.until_stuck()
        assert play.states == whole.states
        told = [e for fact in play.facts for e in fact.entry.events]
        assert sum(isinstance(e, RevertStarted) for e in told) == sum(isinstance(e, RevertFinished) for e in told) == 1
        finished = [e for e in told if isinstance(e, StepFinished)]
        assert sum(e.ok for e in finished) == sum(isinstance(e, StepFinished) and e.ok for e in whole.events)
        assert same(replay(play.facts), play.state)


def test_what_could_not_be_delivered_can_be_asked_for_when_nothing_is_left_on_the_line():
    play = ended({("", "deliver"): [made("x"), broken("delivery_refused")]}, bundles=[bundle(A)])
    roll_back(play, A)
    told = play.of(RevertFinished)[-1]
    assert told.state == "undelivered"
    assert "swell deliver" in told.reason
    play.request(DeliveryRequested(request_id="q-d", actor="ann"))
    play.until_stuck()
    assert (play.state.answers["q-d"].answer, play.state.answers["q-d"].ok) == ("done", True)
