"""Eager scheduling: no waves, the same rules, the same result."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_harness import LINE, Play, broken, bundle, spec

from services import scope
from services.events import IntegrationAdvanced, LineDelivered, StepScheduled, WaveStarted
from services.scheduler.state import ACTIVE

A, B, C, D = "ws-a", "ws-b", "ws-c", "ws-d"


def clash(a, b):
    """What the bundles' own words forbid to be under way together."""
    group = a.conflict_group is not None and a.conflict_group == b.conflict_group
    overlap = scope.overlap([*a.files_scope, *a.files_create], [*b.files_scope, *b.files_create])
    return not (a.parallel_ok and b.parallel_ok) or group or overlap is not None


class Watched(Play):
    """A play in which nothing that clashes is ever under way together."""

    def check_state(self):
        super().check_state()
        bundles = {b.id: b for b in self.spec.bundles}
        active = [name for name, w in self.state.workstreams.items() if w.state in ACTIVE]
        for number, one in enumerate(active):
            for other in active[:number]:
                assert not clash(bundles[one], bundles[other]), f"{one} and {other} are under way together"


def eager(bundles, script=None, **options):
    return Watched(spec(bundles, scheduling="eager", **options), script)


def begun(play):
    return [e.workstream for e in play.of(StepScheduled) if e.step == "edit"]


def only(play, *names):
    """Attempts of these end first."""

    def pick(open_attempts):
        mine = [key for key in open_attempts if key[0] in names or key[0] == LINE]
        return (mine or open_attempts)[0]

    return play.play(pick)


def test_it_starts_as_soon_as_its_own_dependencies_are_merged():
    play = eager([bundle(A), bundle(B), bundle(C, A)])
    only(play, A, C)
    assert begun(play) == [A, B, C]
    merged = [e.workstream for e in play.of(IntegrationAdvanced)]
    assert merged == [A, C, B], "C did not wait for B, which was of an earlier wave"
    assert play.of(WaveStarted) == []


def test_it_starts_from_a_head_that_holds_its_dependencies():
    play = eager([bundle(A), bundle(B), bundle(C, A)])
    only(play, A, C)
    [edit] = [e for e in play.of(StepScheduled) if (e.workstream, e.step) == (C, "edit")]
    assert "ws-a" in edit.input.tree


@pytest.mark.parametrize(
    "one_and_other",
    [
        (bundle(A, conflict_group="g"), bundle(B, conflict_group="g")),
        (bundle(A, files_scope=("src/**",)), bundle(B, files_scope=("src/x.py",))),
        (bundle(A, parallel_ok=False), bundle(B)),
    ],
)
def test_what_clashes_is_never_under_way_together(one_and_other):
    play = eager(one_and_other, waves=[[A], [B]])
    play.settle()
    assert begun(play) == [A]
    play.play()
    assert set(play.states.values()) == {"completed"}


def test_merges_are_done_in_the_order_in_which_work_is_ready():
    play = eager([bundle(A), bundle(B), bundle(C)])
    only(play, C, B)
    assert [e.workstream for e in play.of(IntegrationAdvanced)] != [A, B, C]
    assert [e.workstream for e in play.of(IntegrationAdvanced)][-1] == A


def test_it_is_delivered_once_when_nothing_is_under_way():
    play = eager([bundle(A), bundle(B, A), bundle(C, B), bundle(D)]).play()
    assert len(play.of(LineDelivered)) == 1
    assert [e.step for e in play.of(StepScheduled)][-1] == "deliver"
    assert play.of(LineDelivered)[0].commit == play.state.line.head.commit


def test_what_can_start_is_started_before_anything_is_delivered():
    play = eager([bundle(A), bundle(B, A), bundle(C, B)]).play()
    assert len(play.of(LineDelivered)) == 1


@pytest.mark.parametrize("max_workers", [1, 2, 3])
def test_no_more_attempts_than_workers_the_lines_included(max_workers):
    play = eager([bundle(f"ws-{n}") for n in range(6)], max_workers=max_workers).play()
    assert play.most_open == max_workers


def test_a_failure_blocks_its_dependents_and_nobody_else():
    play = eager([bundle(A), bundle(B, A), bundle(C)], {(A, "edit"): [broken("auth")]}).play()
    assert play.states == {A: "failed", B: "blocked", C: "completed"}


def test_fail_fast_starts_nothing_after_a_failure():
    play = eager([bundle(A), bundle(B, A), bundle(C), bundle(D, C)], {(A, "edit"): [broken("auth")]}, fail_fast=True)
    play.play()
    assert D not in begun(play)
    assert play.states[D] == "cancelled"


def test_what_awaits_review_holds_nobody_up_but_its_dependents():
    play = eager([bundle(A), bundle(B, A), bundle(C)], {(A, "edit"): [broken("auth")]}, review="wait").until_stuck()
    assert play.states == {A: "awaiting_review", B: "pending", C: "completed"}
    assert play.state.status == "paused"
    play.review("approve", A)
    play.play()
    assert set(play.states.values()) == {"completed"}


@st.composite
def graphs(draw):
    names = [f"ws-{n}" for n in range(draw(st.integers(1, 7)))]
    made = []
    for number, name in enumerate(names):
        depends = draw(st.sets(st.sampled_from(names[:number]), max_size=2)) if number else set()
        rest = {"conflict_group": draw(st.sampled_from([None, None, "g"])), "parallel_ok": draw(st.integers(0, 7)) != 0}
        made.append(bundle(name, *sorted(depends), **rest))
    return made


@given(graphs(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_result_holds_the_same_as_with_waves(bundles, max_workers, random):
    """Whatever ends when: never more than may be under way, and in the end the same content: every workstream's, once."""

    def any_of(open_attempts):
        return random.choice(open_attempts)

    # One wave for each: what may clash within a level of dependencies is the planner's business.
    waves = [[b.id] for b in bundles]
    plain = Play(spec(bundles, waves=waves, max_workers=max_workers)).play()
    play = eager(bundles, waves=waves, max_workers=max_workers).play(any_of)
    assert play.states == plain.states
    contents = [sorted(e.workstream for e in each.of(IntegrationAdvanced)) for each in (plain, play)]
    assert contents[0] == contents[1] == sorted(b.id for b in bundles)
    for event in play.of(StepScheduled):
        if event.step == "edit":
            needed = next(b for b in bundles if b.id == event.workstream).depends_on
            done = set()
            for other in play.events:
                if other is event:
                    break
                if isinstance(other, IntegrationAdvanced):
                    done.add(other.workstream)
            assert set(needed) <= done
    assert play.of(LineDelivered)[-1].commit == play.state.line.head.commit
