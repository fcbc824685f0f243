"""Pauses: nothing new is scheduled meanwhile, what runs goes on, and afterwards nothing is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_harness import SECOND_NS, Play, broken, bundle, spec

from services.events import (
    FleetPaused,
    PauseRequested,
    RequestAnswered,
    ResumeRequested,
    RunAccepted,
    RunStopping,
    RunTransitioned,
    StepDelayed,
    StepScheduled,
)
from services.profiles import ToolProfile

A, B, C = "ws-a", "ws-b", "ws-c"


def begun(**options):
    play = Play(spec([bundle(A), bundle(B), bundle(C, A)], **options))
    play.settle()
    return play


def pause(play, request_id="q-pause"):
    play.request(PauseRequested(request_id=request_id, actor="ann", reason="lunch"))
    play.settle()
    return play.state.answers[request_id]


def resume(play, request_id="q-resume"):
    play.request(ResumeRequested(request_id=request_id, actor="ann"))
    play.settle()
    return play.state.answers[request_id]


def finish_what_runs(play):
    while play.state.open:
        play.act(*min(play.state.open))
        play.settle()


def test_while_a_run_is_paused_running_attempts_close_and_nothing_follows():
    play = begun()
    assert pause(play).answer == "accepted"
    before = len(play.of(StepScheduled))
    finish_what_runs(play)
    play.now_ns += 1000 * SECOND_NS
    play.settle()
    assert len(play.of(StepScheduled)) == before
    assert (play.state.status, play.state.reason) == ("paused", "lunch")
    [held] = [e for e in play.of(RunTransitioned) if e.to_state == "paused"]
    assert (held.cause, held.actor) == ("request", "ann")
    assert resume(play).ok
    play.play()
    assert play.state.status == "completed"


@given(st.lists(st.booleans(), max_size=60))
def test_a_run_paused_at_any_moments_comes_to_the_same_end(moments):
    plain = Play(spec([bundle(A), bundle(B), bundle(C, A)])).play()
    play = begun()
    for number, paused in enumerate(moments):
        if play.state.finished is not None or not play.state.open:
            break
        if paused:
            pause(play, f"p{number}")
            before = len(play.of(StepScheduled))
            play.act(*min(play.state.open))
            play.settle()
            assert len(play.of(StepScheduled)) == before
            resume(play, f"r{number}")
        else:
            play.act(*min(play.state.open))
            play.settle()
    play.play()
    assert play.states == plain.states
    assert sorted(play.steps) == sorted(plain.steps)


def test_a_run_may_be_submitted_paused():
    play = Play(spec([bundle(A)], paused=True))
    play.settle()
    assert play.of(RunAccepted)
    assert play.state.status == "paused"
    assert play.of(StepScheduled) == []
    resume(play)
    play.play()
    assert play.states == {A: "completed"}


def test_pausing_twice_and_resuming_twice_is_answered_and_changes_nothing_more():
    play = begun()
    assert pause(play, "p1").ok
    assert pause(play, "p2").ok
    assert resume(play, "r1").ok
    assert resume(play, "r2").ok
    assert [e.to_state for e in play.of(RunTransitioned)] == ["running", "paused", "running"]
    assert play.state.status == "running"


def test_the_deadline_of_a_paused_run_stands_still():
    play = begun(timeout_s=100)
    pause(play)
    finish_what_runs(play)
    play.now_ns += 1000 * SECOND_NS
    play.settle()
    assert play.of(RunStopping) == []
    resume(play)
    play.now_ns += 50 * SECOND_NS
    play.settle()
    assert play.of(RunStopping) == []


def test_a_paused_run_can_be_cancelled():
    play = begun()
    pause(play)
    play.cancel()
    play.play()
    assert play.state.status == "cancelled"


def test_a_run_that_waits_for_a_review_stays_paused_for_whoever_paused_it():
    """Two reasons to stand still: each is ended by its own word."""
    play = Play(spec([bundle(A)], review="wait"), {(A, "edit"): [broken("auth")]}).until_stuck()
    assert pause(play).ok
    play.review("approve", A)
    assert play.state.status == "paused"
    assert len(play.of(StepScheduled)) == 1
    assert resume(play).ok
    play.play()
    assert play.states == {A: "completed"}


@pytest.mark.parametrize(("scope", "name"), [("pool", "default"), ("all", "")])
def test_a_paused_pool_starts_nothing_and_goes_on_afterwards(scope, name):
    play = begun()
    play.fleet.paused[scope, name] = FleetPaused(scope=scope, name=name, actor="ann")
    before = len(play.of(StepScheduled))
    finish_what_runs(play)
    assert len(play.of(StepScheduled)) == before
    assert play.state.finished is None
    play.fleet.paused.clear()
    play.play()
    assert play.state.status == "completed"


def test_another_pool_is_no_reason_to_wait():
    play = begun()
    play.fleet.paused["pool", "gpu"] = FleetPaused(scope="pool", name="gpu", actor="ann")
    play.play()
    assert play.state.status == "completed"


def test_requests_are_answered_while_a_pool_is_paused():
    play = begun()
    play.fleet.paused["all", ""] = FleetPaused(scope="all", actor="ann")
    assert pause(play).answer == "accepted"
    play.cancel()
    play.play()
    assert play.state.status == "cancelled"
    assert len(play.of(RequestAnswered)) == 2


def test_what_needs_a_paused_tool_waits_and_says_so_while_checks_go_on():
    play = begun(profiles={"editor": ToolProfile(command="e")})
    play.fleet.paused["tool", "editor"] = FleetPaused(scope="tool", name="editor", actor="ann", reason="bill")
    finish_what_runs(play)
    assert play.states == {A: "completed", B: "completed", C: "editing"}
    [delayed] = play.of(StepDelayed)
    assert (delayed.cause, delayed.step.workstream, delayed.until_ns) == ("tool_paused", C, 0)
    assert "paused by ann: bill" in delayed.reason
    play.fleet.paused.clear()
    play.play()
    assert play.state.status == "completed"


def test_a_paused_tool_is_stood_in_for_by_its_fallback():
    profiles = {"editor": ToolProfile(command="e", fallback=("second",)), "second": ToolProfile(command="s")}
    play = Play(spec([bundle(A)], profiles=profiles))
    play.fleet.paused["tool", "editor"] = FleetPaused(scope="tool", name="editor", actor="ann")
    play.play()
    [edit] = [e for e in play.of(StepScheduled) if e.step == "edit"]
    assert edit.tool == "second"
    assert "editor is paused" in edit.reason
