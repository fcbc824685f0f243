"""What no recovery helps waits for a person, and goes on by the person's word."""

import msgspec
import pytest
from scheduler_harness import SECOND_NS, Lost, Play, broken, bundle, failed, made, spec

from services.events import (
    Artifact,
    MergeRefused,
    RecoveryChosen,
    RequestAnswered,
    ResumeRequested,
    ReviewRequested,
    ReviewResolved,
    RunAmended,
    RunStopping,
    RunTransitioned,
    Snapshot,
    StepFinished,
    StepScheduled,
)

A, B, C = "ws-a", "ws-b", "ws-c"
OTHER = Artifact(role="spec", digest="6" * 64, name="spec-2", size_bytes=1)


def waiting(script, *bundles, **options):
    """A run that has gone as far as it goes without a person."""
    given = {"review": "wait", **options}
    return Play(spec(bundles or [bundle(A), bundle(B), bundle(C, A)], **given), script).until_stuck()


def scheduled(play, name=A):
    return [e for e in play.of(StepScheduled) if name in (e.workstream, e.on_behalf)]


def test_the_others_go_on_then_the_run_is_paused_and_names_who_is_waited_for():
    play = waiting({(A, "edit"): [broken("auth")]})
    assert play.states == {A: "awaiting_review", B: "completed", C: "pending"}
    assert play.state.status == "paused"
    [held] = [e for e in play.of(RunTransitioned) if e.to_state == "paused"]
    assert held.cause == "review"
    assert A in held.reason
    assert play.of(RecoveryChosen)[-1].strategy == "review"
    assert play.reason(A) == "edit: auth happened"


def test_many_that_wait_are_counted():
    names = [f"ws-{n:02}" for n in range(20)]
    play = waiting({(n, "edit"): [broken("auth")] for n in names}, *(bundle(n) for n in names))
    assert "ws-00" in play.state.reason
    assert "15 more" in play.state.reason


def test_approved_it_goes_on_at_the_step_that_stopped_with_fresh_counters():
    errors = [broken("check_error")] * 4
    play = waiting({(A, "static"): errors + [broken("check_error")] * 3}, recovery={"retries": 3, "jitter": 0})
    assert play.states[A] == "awaiting_review"
    before = len(scheduled(play))
    assert play.review("approve", A).answer == "accepted"
    assert play.state.status == "running"
    assert scheduled(play)[before].step == "static"
    play.play()
    assert set(play.states.values()) == {"completed"}
    [resolved] = play.of(ReviewResolved)
    assert (resolved.workstream, resolved.verdict, resolved.actor) == (A, "approve", "bob")
    assert [c.strategy for c in play.of(RecoveryChosen)] == ["retry"] * 3 + ["review"] + ["retry"] * 3


def test_rejected_it_fails_and_its_dependents_are_blocked():
    play = waiting({(A, "edit"): [broken("auth")]})
    assert play.review("reject", A, reason="not worth it").ok
    play.play()
    assert play.states == {A: "failed", B: "completed", C: "blocked"}
    assert play.state.status == "partial"
    assert "reject by bob: not worth it" in play.reason(A)


def test_a_retry_may_say_where_to_begin():
    play = waiting({(A, "static"): [broken("check_error")]}, recovery={"retries": 0})
    before = len(scheduled(play))
    assert play.review("retry", A, from_step="edit").ok
    play.play()
    assert scheduled(play)[before].step == "edit"
    assert set(play.states.values()) == {"completed"}


@pytest.mark.parametrize(
    ("step", "said"),
    [("runtime", "start at edit"), ("fix", "start at edit"), ("merge", "use edit"), ("deliver", "use edit")],
)
def test_it_cannot_begin_where_there_is_nothing_to_begin_with(step, said):
    play = waiting({(A, "edit"): [broken("auth")]})
    answer = play.review("retry", A, from_step=step)
    assert (answer.answer, answer.ok) == ("refused", False)
    assert said in answer.reason
    assert play.states[A] == "awaiting_review"


def test_a_runtime_retry_still_has_one_tree_that_passed_everything():
    """I3: going on later than where the work changed does not skip a check."""
    play = waiting({(A, "fix"): [broken("auth")], (A, "static"): [failed()]})
    assert play.review("retry", A, from_step="runtime").ok
    play.play()
    assert play.states[A] == "completed"
    kinds = {check.name for e in scheduled(play) for check in e.checks if e.attempt > 3}
    assert {"ruff", "pytest"} <= kinds


def test_an_exhausted_fix_loop_starts_afresh_on_a_persons_word():
    red = [failed(f"e{n}") for n in range(20)]
    play = waiting({(A, "static"): red})
    loops = sum(e.step == "fix" for e in scheduled(play))
    assert loops == 3
    assert play.review("approve", A).ok
    play.until_stuck()
    assert sum(e.step == "fix" for e in scheduled(play)) == 6
    assert play.states[A] == "awaiting_review"


# Adjusting


def adjusted(play, amends=None, **changes):
    changed = [msgspec.structs.replace(b, **changes) if b.id == A else b for b in play.spec.bundles]
    play.specs[OTHER.digest] = msgspec.structs.replace(play.spec, bundles=changed)
    return play.review("adjust", A, spec=OTHER, amends=play.state.spec.digest if amends is None else amends)


def test_an_adjustment_replaces_the_definition_and_goes_on():
    play = waiting({(A, "edit"): [broken("auth")]})
    assert adjusted(play, tool="other").ok
    play.play()
    assert set(play.states.values()) == {"completed"}
    assert [e.tool for e in scheduled(play) if e.step == "edit"] == ["editor", "other"]
    assert play.state.spec == OTHER
    [amended] = play.of(RunAmended)
    assert (amended.spec, amended.workstreams, amended.actor) == (OTHER, [A], "bob")


@pytest.mark.parametrize("amends", ["", "7" * 64])
def test_an_adjustment_of_another_definition_is_refused(amends):
    play = waiting({(A, "edit"): [broken("auth")]})
    answer = adjusted(play, amends, tool="other")
    assert answer.answer == "refused"
    assert "ask again" in answer.reason
    assert play.states[A] == "awaiting_review"
    assert play.of(RunAmended) == []


def test_of_two_adjustments_made_from_one_definition_the_second_is_refused():
    play = waiting({(A, "edit"): [broken("auth")], (B, "edit"): [broken("auth")]})
    first = play.state.spec.digest
    assert adjusted(play, tool="other").ok
    play.specs["7" * 64] = play.spec
    third = Artifact(role="spec", digest="7" * 64, name="spec-3", size_bytes=1)
    answer = play.review("adjust", B, request_id="q-2", spec=third, amends=first)
    assert answer.answer == "refused"
    assert play.states[B] == "awaiting_review"


def test_an_adjustment_without_a_definition_is_refused():
    play = waiting({(A, "edit"): [broken("auth")]})
    assert play.review("adjust", A).answer == "refused"


def test_an_adjustment_starts_the_fix_loop_afresh_with_the_limit_it_sets():
    """`max_attempts` counts runs of the step, the first included: five are four FIX calls, after the three of before."""
    red = [failed(f"e{n}") for n in range(20)]
    play = waiting({(A, "static"): red})
    assert adjusted(play, circuit_breaker={"max_attempts": 5}).ok
    play.until_stuck()
    assert sum(e.step == "fix" for e in scheduled(play)) == 3 + 4


# Answers


def test_all_that_wait_are_resolved_when_none_is_named():
    names = [f"ws-{n}" for n in range(6)]
    play = waiting({(n, "edit"): [broken("auth")] for n in names[:5]}, *(bundle(n) for n in names))
    assert play.review("approve").ok
    play.play()
    assert set(play.states.values()) == {"completed"}
    assert {e.workstream for e in play.of(ReviewResolved)} == set(names[:5])
    assert len(play.of(RequestAnswered)) == 1


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_bulk_verdict_that_is_cut_short_is_finished_and_answered_once(at_once):
    """Any prefix of its decisions is a state to go on from."""
    names = [f"ws-{n}" for n in range(5)]
    play = waiting({(n, "edit"): [broken("auth")] for n in names}, *(bundle(n) for n in names))
    play.decisions_at_once = lambda: at_once
    assert play.review("reject", *names).ok
    play.play()
    assert set(play.states.values()) == {"failed"}
    assert sorted(e.workstream for e in play.of(ReviewResolved)) == names
    assert len(play.of(RequestAnswered)) == 1


def test_a_repeated_request_is_answered_once():
    play = waiting({(A, "edit"): [broken("auth")] * 2})
    play.review("approve", A)
    play.until_stuck()
    assert play.states[A] == "awaiting_review"
    play.review("approve", A)
    play.until_stuck()
    assert play.states[A] == "awaiting_review", "the repetition is not a second word"
    assert len(play.of(RequestAnswered)) == len(play.of(ReviewResolved)) == 1


@pytest.mark.parametrize("names", [[B], [A, B], ["ws-nobody"]])
def test_a_verdict_on_what_does_not_wait_is_refused_as_a_whole(names):
    play = waiting({(A, "edit"): [broken("auth")]})
    answer = play.review("approve", *names)
    assert answer.answer == "refused"
    assert "does not await review" in answer.reason
    assert play.states[A] == "awaiting_review"
    assert play.of(ReviewResolved) == []


def test_of_two_verdicts_on_one_workstream_the_second_is_judged_by_what_the_first_led_to():
    play = waiting({(A, "edit"): [broken("auth")]})
    play.request(_review("q-1", "reject"))
    play.request(_review("q-2", "approve"))
    play.play()
    assert play.states[A] == "failed"
    assert [play.state.answers[q].answer for q in ("q-1", "q-2")] == ["accepted", "refused"]


def _review(request_id, verdict):

    return ReviewRequested(request_id=request_id, actor="bob", verdict=verdict, workstreams=[A])


def test_a_run_that_waits_for_a_review_is_not_resumed():
    play = waiting({(A, "edit"): [broken("auth")]})
    play.request(ResumeRequested(request_id="q-resume", actor="ann"))
    play.settle()
    answer = play.state.answers["q-resume"]
    assert answer.answer == "refused"
    assert A in answer.reason
    assert play.state.status == "paused"


def test_a_run_that_waits_for_a_review_can_be_cancelled():
    play = waiting({(A, "edit"): [broken("auth")]})
    play.cancel()
    play.play()
    assert play.state.status == "cancelled"
    assert play.states == {A: "cancelled", B: "completed", C: "cancelled"}


def test_the_deadline_of_a_run_stands_still_while_it_waits():
    play = waiting({(A, "edit"): [broken("auth")]}, timeout_s=100)
    play.now_ns += 10_000 * SECOND_NS
    play.settle()
    assert play.of(RunStopping) == []
    play.review("approve", A)
    play.now_ns += 90 * SECOND_NS
    play.settle()
    assert play.of(RunStopping) == []
    play.now_ns += 20 * SECOND_NS
    play.settle()
    assert play.of(RunStopping)[0].cause == "run_timeout"


# Merges and scopes


CONFLICT = StepFinished(ok=False, error_class="merge_conflict", conflicts=["x.py"], others=[A])
MARKED = msgspec.structs.replace(CONFLICT, snapshot=Snapshot(commit="marked", tree="marked"))
ONCE = {"retries": 0, "conflicts": 0, "reds": 0}


@pytest.mark.parametrize("script", [{(B, "merge"): [CONFLICT]}, {(B, "gate"): [failed("red as merged")]}])
def test_what_does_not_merge_starts_over_on_the_head_if_edit_is_asked_for(script):
    play = waiting(script, recovery=ONCE)
    assert play.states == {A: "completed", B: "awaiting_review", C: "completed"}
    head = play.state.line.head
    assert play.review("approve", B, from_step="edit").ok
    again = [e for e in scheduled(play, B) if e.step == "edit"][-1]
    assert (again.input, again.base) == (head, head)
    play.play()
    assert set(play.states.values()) == {"completed"}


@pytest.mark.parametrize("script", [{(B, "merge"): [MARKED]}, {(B, "gate"): [failed("red as merged")]}])
def test_what_does_not_merge_is_mended_when_it_is_approved(script):
    play = waiting(script, recovery=ONCE)
    assert play.states[B] == "awaiting_review"
    [refused] = play.of(MergeRefused)
    play.review("approve", B)
    fix = scheduled(play, B)[-1]
    assert (fix.step, fix.input, fix.base) == ("fix", refused.result, refused.onto)
    play.play()
    assert set(play.states.values()) == {"completed"}


def test_a_conflict_that_nothing_is_known_of_is_merged_again_when_it_is_approved():
    play = waiting({(B, "merge"): [CONFLICT]})
    play.review("approve", B)
    assert scheduled(play, B)[-1].step == "merge"
    play.play()
    assert play.states[B] == "completed"


def test_conflict_markers_are_never_checked_as_they_are():
    play = waiting({(B, "merge"): [MARKED]}, recovery=ONCE)
    play.review("approve", B, from_step="static")
    assert scheduled(play, B)[-1].step == "fix"
    play.play()


@pytest.mark.parametrize(
    ("error_class", "verdict"), [("scope_violation", "approve"), ("scope_violation", "retry"), ("tampering", "retry")]
)
def test_work_that_broke_its_scope_starts_over_when_it_is_let_go_on(error_class, verdict):
    kept = Snapshot(commit="kept", tree="kept")
    play = waiting({(A, "edit"): [broken(error_class, violations=["etc"], snapshot=kept)]}, bundle(A))
    assert play.states[A] == "awaiting_review"
    play.review(verdict, A)
    assert scheduled(play)[-1].input.commit == play.spec.repository.base_commit
    play.play()


@pytest.mark.parametrize("error_class", ["scope_violation", "tampering"])
def test_work_that_broke_its_scope_is_gone_on_with_when_the_scope_is_adjusted(error_class):
    kept = Snapshot(commit="kept", tree="kept")
    play = waiting({(A, "edit"): [broken(error_class, violations=["etc"], snapshot=kept)]}, bundle(A))
    assert adjusted(play, files_scope=("etc", f"{A}.py")).ok
    assert scheduled(play)[-1].input == kept
    play.play()


@pytest.mark.parametrize("step", ["edit", "fix"])
def test_what_a_person_approves_of_its_judges_goes_on_and_is_not_looked_for_again(step):
    kept = Snapshot(commit="kept", tree="kept")
    tampered = broken("tampering", violations=["test_a.py: holds fewer tests"], snapshot=kept)
    script = {(A, step): [tampered], (A, "static"): [failed("one"), failed("two")]}
    play = waiting(script, bundle(A))
    assert play.states[A] == "awaiting_review"
    play.review("approve", A)
    assert (scheduled(play)[-1].step, scheduled(play)[-1].input) == ("static", kept)
    play.play()
    assert play.states[A] == "completed"
    assert [e.trusted for e in scheduled(play) if e.step in {"edit", "fix"}][-1] is True


# Handed back, lost


def handed_back(tree="part"):
    return StepFinished(ok=False, error_class="handed_back", snapshot=Snapshot(commit=f"c-{tree}", tree=tree))


@pytest.mark.parametrize("step", ["edit", "static", "runtime", "merge", "gate"])
def test_what_is_handed_back_counts_neither_as_a_failure_nor_as_a_loss(step):
    given = handed_back() if step == "edit" else broken("handed_back")
    play = waiting({(A, step): [given] * 30}, bundle(A), losses_max=1)
    assert play.states == {A: "completed"}
    assert play.of(RecoveryChosen) == []


def test_what_was_handed_back_is_gone_on_with_from_its_snapshot():
    play = waiting({(A, "edit"): [handed_back("one"), handed_back("two"), made("done")]}, bundle(A))
    assert [e.input.tree for e in scheduled(play) if e.step == "edit"][1:] == ["one", "two"]
    assert play.states == {A: "completed"}


def test_a_hand_back_does_not_forgive_losses():
    play = waiting({(A, "edit"): [Lost, handed_back(), Lost, handed_back(), Lost]}, bundle(A), losses_max=2)
    assert play.states == {A: "awaiting_review"}
    assert play.of(RecoveryChosen)[-1].error_class == "lost"


@pytest.mark.parametrize("step", ["edit", "static", "runtime"])
def test_an_attempt_that_is_lost_too_often_goes_to_a_person(step):
    """A command that kills executors stops, and the person's word gives it as many lives again."""
    play = waiting({(A, step): [Lost] * 5}, bundle(A), losses_max=2)
    assert play.states == {A: "awaiting_review"}
    assert "lost 3 times" in play.reason(A)
    play.review("approve", A)
    play.play()
    assert play.states == {A: "completed"}


def test_a_line_that_is_lost_too_often_goes_to_a_person_and_on_again():
    play = waiting({(A, "merge"): [Lost] * 3}, bundle(A), losses_max=2)
    assert play.states == {A: "awaiting_review"}
    play.review("approve", A)
    play.play()
    assert play.states == {A: "completed"}


@pytest.mark.parametrize(
    ("error_class", "from_step"),
    [("tampering", None), ("tampering", "static"), ("permission_denied", "static"), ("permission_denied", "edit")],
)
def test_what_a_fix_left_of_a_conflict_is_never_checked_and_never_gone_on_with(error_class, from_step):
    """However its FIX ended, and wherever a person lets it go on."""
    half = Snapshot(commit="half", tree="half")
    fix = msgspec.structs.replace(broken(error_class, conflicts=["x.py"], violations=["uv.lock"]), snapshot=half)
    play = waiting({(B, "merge"): [MARKED], (B, "fix"): [fix]})
    assert play.states[B] == "awaiting_review"
    play.review("approve", B, from_step=from_step)
    step = scheduled(play, B)[-1]
    assert step.step == ("edit" if from_step == "edit" else "fix")
    assert step.step == "fix" or step.input == play.state.line.head
    play.play()
    assert [e for e in scheduled(play, B) if e.step != "fix" and e.input.tree in {"half", "marked"}] == []


@pytest.mark.parametrize("verdict", ["approve", "retry"])
def test_what_is_begun_anew_is_not_trusted(verdict):
    half = Snapshot(commit="half", tree="half")
    tampered = broken("tampering", violations=["test_a.py: holds fewer tests"], snapshot=half)
    play = waiting({(A, "edit"): [tampered]}, bundle(A))
    play.review(verdict, A, from_step="edit")
    again = scheduled(play)[-1]
    assert (again.step, again.input, again.trusted) == ("edit", play.state.line.head, False)
    play.play()


def test_an_edit_that_made_nothing_begins_from_the_head_of_its_day():
    """What others have merged meanwhile is not part of its own change."""
    play = waiting({(A, "edit"): [broken("setup_error")]}, bundle(A), bundle(B))
    head = play.state.line.head
    assert head.commit != play.spec.repository.base_commit
    play.review("approve", A)
    again = scheduled(play)[-1]
    assert (again.input, again.base) == (head, head)
    assert play.state.workstreams[A].base == head
    play.play()
