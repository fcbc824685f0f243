"""Delivery: when, where to, in which style; by itself and when somebody asks, at any time of a run's life."""

import pytest
from scheduler_harness import Lost, Play, broken, bundle, replay, same, spec

from services.events import (
    DeliveryRefused,
    DeliveryRequested,
    Destination,
    LineDelivered,
    PauseRequested,
    RequestAnswered,
    ResumeRequested,
    RunFinished,
    Snapshot,
    StepFinished,
    StepScheduled,
)
from services.outcome import Cost
from services.profiles import ToolProfile

A, B, C = "ws-a", "ws-b", "ws-c"
CHAIN = [bundle(A), bundle(B, A), bundle(C, B)]
ELSEWHERE = Destination(style="squash", remote="https://example.com/r.git", credential="env:TOKEN", hook="open-pr")


def ask(play, request_id="q-deliver", **fields):
    play.request(DeliveryRequested(request_id=request_id, actor="ann", **fields))
    return play


def deliveries(play):
    return [event for event in play.of(StepScheduled) if event.step == "deliver"]


def done(play, request_id="q-deliver"):
    """How the request was answered in the end."""
    answers = [e for e in play.of(RequestAnswered) if e.request_id == request_id]
    assert [e.answer for e in answers] in (["refused"], ["accepted", "done"])
    return answers[-1]


@pytest.mark.parametrize("scheduling", ["barrier", "eager"])
@pytest.mark.parametrize(("deliver", "times"), [("wave", {"barrier": 3, "eager": 1}), ("end", 1), ("never", 0)])
def test_it_is_delivered_after_each_wave_or_at_the_end_or_never(scheduling, deliver, times):
    play = Play(spec(CHAIN, deliver=deliver, scheduling=scheduling)).play()
    wanted = times if isinstance(times, int) else times[scheduling]
    assert len(deliveries(play)) == len(play.of(LineDelivered)) == wanted
    assert play.state.finished.state == "completed"
    if wanted:
        assert play.of(LineDelivered)[-1].commit == play.state.line.head.commit


def test_the_end_waits_for_reviews():
    play = Play(spec([bundle(A), bundle(B)], deliver="end", review="wait"), {(B, "edit"): [broken("auth")]})
    play.until_stuck()
    assert (play.state.held, deliveries(play)) == ("review", [])
    play.review("retry", B)
    play.play()
    assert len(deliveries(play)) == 1


def test_a_run_that_fails_fast_still_delivers_at_its_end():
    play = Play(
        spec([bundle(A), bundle(B), bundle(C, A)], deliver="end", fail_fast=True), {(B, "edit"): [broken("auth")]}
    )
    play.play()
    assert [e.commit for e in play.of(LineDelivered)] == [play.state.line.head.commit]


def test_a_delivery_names_its_destination_and_what_stands_there():
    pushed = Snapshot(commit="squashed", tree="t")
    play = Play(
        spec(CHAIN[:2], destination=ELSEWHERE),
        {("", "deliver"): [StepFinished(ok=True, snapshot=pushed, message="open-pr failed")]},
    ).play()
    first, second = deliveries(play)
    assert (first.delivery, first.base) == (second.delivery, None) == (ELSEWHERE, None)
    assert second.base == Snapshot(commit="squashed", tree="")
    told = play.of(LineDelivered)[0]
    assert (told.commit, told.head, told.to, told.warning) == (
        "squashed",
        first.input.commit,
        ELSEWHERE,
        "open-pr failed",
    )


@pytest.mark.parametrize("when", ["live", "paused", "ended"])
def test_who_asks_gets_what_is_verified_at_that_time(when):
    play = Play(spec(CHAIN, deliver="never"))
    if when == "ended":
        play.play()
    else:
        while not play.state.line or play.state.workstreams[A].state != "completed":
            play.settle()
            if play.state.open and play.state.workstreams[A].state != "completed":
                play.act(*min(play.state.open))
    if when == "paused":
        play.request(PauseRequested(request_id="q-pause", actor="ann"))
        play.settle()
    head = play.state.line.head.commit
    ask(play, remote="/srv/r.git", style="merge")
    play.until_stuck()
    answer = done(play)
    assert (answer.ok, answer.reason) == (True, "")
    (delivery,) = deliveries(play)
    assert delivery.delivery == Destination(style="merge", remote="/srv/r.git")
    assert [(e.commit, e.to.remote) for e in play.of(LineDelivered)] == [(delivery.input.commit, "/srv/r.git")]
    assert when == "live" or delivery.input.commit == head
    if when == "paused":
        assert (play.state.held, play.state.finished) == ("request", None)
        play.request(ResumeRequested(request_id="q-resume", actor="ann"))
        play.play()
    assert play.state.finished.state == "completed"
    assert not play.state.alive
    assert same(replay(play.facts), play.state)


def test_a_question_is_asked_again_without_harm():
    play = Play(spec(CHAIN[:1])).play()
    for number in range(2):
        ask(play, f"q-deliver-{number}").until_stuck()
        assert done(play, f"q-deliver-{number}").ok
    ask(play, "q-deliver-0").until_stuck()
    assert len(deliveries(play)) == 3
    assert {e.base.commit for e in deliveries(play)[1:]} == {play.state.line.head.commit}


def test_a_series_pushes_nothing():
    play = ask(Play(spec(CHAIN[:1], deliver="never")).play(), series=True).until_stuck()
    assert deliveries(play)[0].series
    assert done(play).ok
    assert play.of(LineDelivered) == []


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [({"dry_run": True}, {}, "dry run"), ({}, {(A, "edit"): [broken("auth")]}, "nothing verified")],
)
def test_there_has_to_be_something_verified(options, script, said):
    play = ask(Play(spec(CHAIN[:1], **options), script).play()).until_stuck()
    assert done(play).answer == "refused"
    assert said in done(play).reason


def test_one_at_a_time():
    play = Play(spec(CHAIN[:1], deliver="never")).play()
    ask(ask(play), "q-second")
    play.until_stuck()
    assert done(play).ok
    assert (done(play, "q-second").answer, "again" in done(play, "q-second").reason) == ("refused", True)


def test_what_is_refused_elsewhere_is_told_and_does_not_change_the_run():
    play = Play(spec(CHAIN[:2], deliver="end"), {("", "deliver"): [broken("delivery_refused")]})
    play.settle()
    while not play.state.line.merged:
        play.act(*min(play.state.open))
        play.settle()
    ask(play, remote="/srv/r.git")
    play.play()
    answer = done(play)
    assert (answer.ok, answer.reason) == (False, "delivery_refused happened")
    assert [e.to.remote for e in play.of(DeliveryRefused)] == ["/srv/r.git"]
    assert play.state.finished.state == "completed"


@pytest.mark.parametrize("outcome", [Lost, broken("handed_back"), broken("workspace_error")])
def test_a_delivery_that_tells_nothing_is_tried_again(outcome):
    play = ask(Play(spec(CHAIN[:1], deliver="never")).play())
    play.script["", "deliver"] = [outcome]
    play.until_stuck()
    assert done(play).ok
    assert [e.request_id for e in deliveries(play)] == ["q-deliver"] * 2


def test_a_run_that_is_cancelled_meanwhile_still_answers():
    play = Play(spec(CHAIN, deliver="never"))
    play.settle()
    while not play.state.line.merged:
        play.act(*min(play.state.open))
        play.settle()
    ask(play).settle()
    play.cancel()
    play.until_stuck()
    assert play.of(RunFinished)[-1].state == "cancelled"
    assert not done(play).ok
    assert not play.state.alive


@pytest.mark.parametrize("scheduling", ["barrier", "eager"])
@pytest.mark.parametrize("at_once", [None, 1])
def test_asked_at_any_moment_everything_comes_to_its_end(scheduling, at_once):
    """A request at every position of a run's log: it is answered, only verified heads go out, the run completes."""
    definition = spec(CHAIN, scheduling=scheduling)
    whole = Play(definition).play()
    for cut in range(2, len(whole.facts) + 1):
        play = Play(definition, decisions_at_once=None if at_once is None else lambda: at_once)
        play.facts = list(whole.facts[:cut])
        play.state = replay(play.facts)
        play.sequence, play.now_ns = play.facts[-1].sequence, play.facts[-1].time_ns
        ask(play, remote="/srv/r.git").until_stuck()
        assert play.state.finished.state == "completed", cut
        assert done(play).answer == (
            "done" if done(play).ok and play.state.line.deliveries.get("/srv/r.git") else "refused"
        )
        assert play.state.line.deliveries[""].head == play.state.line.head.commit
        assert not play.state.alive
        assert same(replay(play.facts), play.state)


def test_a_merge_names_the_tools_and_what_they_cost():
    tool = ToolProfile(command="x", type="ai", cost_cap_usd=1.0)
    paid = StepFinished(
        ok=True, changed=True, snapshot=Snapshot(commit="c", tree="t"), cost=Cost(nano_usd=20_000_000, basis="reported")
    )
    play = Play(spec([bundle(A), bundle(B)], profiles={"editor": tool}), {(A, "edit"): [paid]}).play()
    merges = {e.on_behalf: e for e in play.of(StepScheduled) if e.step == "merge"}
    assert (merges[A].tools, merges[A].cost_nano) == (["editor"], 20_000_000)
    assert (merges[B].tools, merges[B].cost_nano) == (["editor"], 1_000_000_000), "what nobody knows counts as the cap"
