"""Gates that judge what a wave has merged: staged until they pass, and taken back without anybody who is not to blame."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_harness import Lost, Play, broken, bundle, made, spec

from services.bundle import BundleGate
from services.events import (
    CheckResult,
    GateFlaked,
    IntegrationAdvanced,
    LineDelivered,
    MergePostponed,
    MergeRefused,
    MergeStaged,
    Snapshot,
    StepFinished,
    StepScheduled,
)
from services.gates import Gate

GATE = (BundleGate(type="GATE_INTEGRATION"),)
NAMES = [f"ws-{number}" for number in range(8)]


class WavePlay(Play):
    """A run with a gate of the wave, which `is_red` of the set of workstreams in a tree; a FIX mends whoever it is of."""

    def __init__(
        self,
        bundles,
        is_red=lambda _: False,
        script=None,
        *,
        conflicts=(),
        crashes=0,
        answer=None,
        gates=GATE,
        short_trees=False,
        **options,
    ):
        self.answer, self.short_trees = answer, short_trees
        self.crashes = crashes
        self.is_red, self.conflicts = is_red, list(conflicts)
        definition = spec(
            [msgspec.structs.replace(one, test_gates=one.test_gates or gates) for one in bundles],
            **{"max_workers": 8, "recovery": {"retries": 1, "initial_delay_s": 0.0}, **options},
        )
        gates = {"GATE_INTEGRATION": Gate(tool="integration", wave_boundary=True)}
        super().__init__(msgspec.structs.replace(definition, gates=gates), script)
        self.judged = []

    def success(self, scheduled):
        if scheduled.step == "merge" and scheduled.purpose is None and scheduled.on_behalf in self.conflicts:
            self.conflicts.remove(scheduled.on_behalf)
            marked = Snapshot(commit="marked", tree="marked")
            return broken("merge_conflict", conflicts=["x"], snapshot=marked)
        if scheduled.step == "gate" and scheduled.checks and scheduled.checks[0].kind == "gate":
            if self.answer is not None:
                return self.answer(scheduled.checks)
            if self.crashes:
                self.crashes -= 1
                return broken("check_error")
            self.judged.append((scheduled.purpose, work(scheduled.input.tree)))
            if self.is_red(work(scheduled.input.tree)):
                return red(scheduled.checks)
        done = super().success(scheduled)
        if self.short_trees and scheduled.step == "merge":
            return made(f"{scheduled.attempt:040}")
        return done


def work(tree):
    """Whose work is in a tree; a workstream that was in FIX counts as another one."""
    parts = [part.split("-") for part in tree.split("+") if part]
    return frozenset(f"ws-{part[1]}{'!' if part[2] == 'fix' else ''}" for part in parts)


def results(checks, outcome):
    optional = outcome == "error"
    return [
        CheckResult(check=one.check, kind="gate", name=one.name, outcome=outcome, optional=optional) for one in checks
    ]


def red(checks):
    judged = results(checks, "failed")
    return StepFinished(ok=False, error_class="check_failed", message="red", signature="e", checks=judged)


def wave(count=8):
    return [bundle(name) for name in NAMES[:count]]


def gates_run(play, *purposes):
    return [e for e in play.of(StepScheduled) if e.step == "gate" and e.purpose in purposes]


def test_one_gate_judges_the_whole_wave_and_nothing_is_the_head_before():
    play = WavePlay([*wave(3), bundle("ws-9", "ws-0")]).play()
    assert set(play.states.values()) == {"completed"}
    assert [purpose for purpose, _ in play.judged] == ["wave", "wave"]
    kinds = [type(e) for e in play.of((MergeStaged, IntegrationAdvanced, LineDelivered))]
    staged, advanced = [MergeStaged] * 3, [IntegrationAdvanced] * 3
    assert kinds == [*staged, *advanced, LineDelivered, MergeStaged, IntegrationAdvanced, LineDelivered]


@pytest.mark.parametrize("scheduling", ["barrier", "eager"])
def test_no_dependent_starts_before_the_gate_has_passed(scheduling):
    late = bundle("ws-9", "ws-0")
    play = WavePlay([*wave(2), late], lambda merged: "ws-0" in merged, scheduling=scheduling).play()
    order = [
        (e.workstream, type(e).__name__)
        for e in play.of((StepScheduled, IntegrationAdvanced))
        if e.workstream in {"ws-0", "ws-9"} and (not isinstance(e, StepScheduled) or e.step == "edit")
    ]
    assert order.index(("ws-0", "IntegrationAdvanced")) < order.index(("ws-9", "StepScheduled"))
    assert set(play.states.values()) == {"completed"}


@pytest.mark.parametrize("guilty", range(8))
def test_a_single_culprit_is_found_sent_back_and_the_rest_is_merged_without_it(guilty):
    culprit = NAMES[guilty]
    play = WavePlay(wave(), lambda merged: culprit in merged).play()
    assert set(play.states.values()) == {"completed"}
    [refused] = play.of(MergeRefused)
    assert (refused.workstream, refused.reason, refused.gate, refused.others) == (
        culprit,
        "red",
        "GATE_INTEGRATION",
        [],
    )
    assert len(gates_run(play, "search")) <= math.log2(8) + 1
    [fix] = [e for e in play.of(StepScheduled) if e.step == "fix"]
    assert (fix.workstream, fix.fix.step) == (culprit, "gate")
    assert culprit in work(fix.input.tree)
    assert culprit not in work(fix.base.tree), "it goes on from the last green point"
    assert sorted(e.workstream for e in play.of(IntegrationAdvanced)) == NAMES


@pytest.mark.parametrize(("one", "other"), [(0, 7), (0, 1), (2, 5), (6, 7), (3, 4)])
def test_two_that_fail_only_together_are_both_named_and_the_later_one_is_sent_back(one, other):
    pair = {NAMES[one], NAMES[other]}
    play = WavePlay(wave(), lambda merged: pair <= merged).play()
    assert set(play.states.values()) == {"completed"}
    [refused] = play.of(MergeRefused)
    assert (refused.workstream, refused.others) == (NAMES[other], [NAMES[one]])
    assert len(gates_run(play, "search")) <= 2 * math.log2(8) + 2
    [fix] = [e for e in play.of(StepScheduled) if e.step == "fix"]
    assert pair <= work(fix.input.tree), "what it is at odds with is there to be seen"


def test_several_culprits_are_found_one_after_another():
    guilty = {"ws-1", "ws-4", "ws-6"}
    play = WavePlay(wave(), lambda merged: bool(guilty & merged)).play()
    assert {e.workstream for e in play.of(MergeRefused)} == guilty
    assert set(play.states.values()) == {"completed"}


def test_a_culprit_that_no_fix_mends_goes_to_a_person_and_the_others_go_on():
    def is_red(merged):
        return any(name.startswith("ws-3") for name in merged)

    play = WavePlay(wave(), is_red).play()
    assert play.states == {name: "failed" if name == "ws-3" else "completed" for name in NAMES}
    assert len(play.of(MergeRefused)) == 3
    assert "sent back 2 times" in play.reason("ws-3")
    assert "ws-3" not in [e.workstream for e in play.of(IntegrationAdvanced)]


def test_what_was_red_before_the_wave_blames_nobody():
    play = WavePlay(wave(3), lambda merged: True).play()
    assert set(play.states.values()) == {"failed"}
    assert play.of(IntegrationAdvanced) == []
    assert {e.reason for e in play.of(MergeRefused)} == {"error"}
    assert "red before this wave" in play.reason("ws-0")
    assert gates_run(play, "search") == []


def test_a_person_lets_the_wave_go_on_once_the_gate_is_mended():
    mended = []
    play = WavePlay(wave(3), lambda merged: not mended, review="wait").until_stuck()
    assert set(play.states.values()) == {"awaiting_review"}
    mended.append(True)
    assert play.review("approve").ok
    play.play()
    assert set(play.states.values()) == {"completed"}
    assert [e.step for e in play.of(StepScheduled) if e.step in {"edit", "fix"}] == ["edit"] * 3


def test_a_gate_that_fails_once_is_flaky_and_holds_nobody_up():
    once = []

    def is_red(merged):
        once.append(merged)
        return len(once) == 1

    play = WavePlay(wave(4), is_red).play()
    assert set(play.states.values()) == {"completed"}
    assert play.of(MergeRefused) == []
    [flaked] = play.of(GateFlaked)
    assert (flaked.gate, flaked.failures) == ("GATE_INTEGRATION", 1)
    assert len(gates_run(play, "wave")) == 2


def test_a_gate_that_goes_on_failing_by_chance_goes_to_a_person_and_blames_nobody():
    """At the start it fails, then passes; at the end it never passes."""
    at_start = iter([True, False])
    play = WavePlay(wave(4), lambda merged: bool(merged) or next(at_start)).play()
    assert set(play.states.values()) == {"failed"}
    assert "nobody is to blame" in play.reason("ws-0")
    assert [e.failures for e in play.of(GateFlaked)] == [1]
    assert len(gates_run(play, "wave")) == 4
    assert gates_run(play, "search") == []


def test_a_gate_that_cannot_judge_is_tried_again_then_a_person_decides():
    play = WavePlay(wave(2), crashes=2).play()
    assert set(play.states.values()) == {"failed"}
    assert play.of(IntegrationAdvanced) == []
    play = WavePlay(wave(2), crashes=1).play()
    assert set(play.states.values()) == {"completed"}


def test_a_lost_gate_of_the_wave_runs_again():
    play = WavePlay(wave(2), script={("ws-1", "gate"): [Lost, Lost]}).play()
    assert set(play.states.values()) == {"completed"}


def test_what_conflicts_with_something_staged_waits_until_that_is_verified():
    play = WavePlay(wave(3), conflicts=["ws-1"]).play()
    assert set(play.states.values()) == {"completed"}
    [postponed] = play.of(MergePostponed)
    assert postponed.workstream == "ws-1"
    assert play.of(MergeRefused) == [], "it merges with what is verified"


def test_an_optional_gate_of_the_wave_that_cannot_judge_warns_as_well():
    optional = (BundleGate(type="GATE_INTEGRATION", required=False),)
    play = WavePlay(
        wave(2), answer=lambda checks: StepFinished(ok=True, checks=results(checks, "error")), gates=optional
    )
    assert set(play.play().states.values()) == {"completed"}
    assert len(gates_run(play, "wave")) == 1


def test_whatever_a_gate_says_the_decision_about_all_that_is_staged_fits_into_an_entry():
    """The longest names, the longest words, as many as are staged together."""
    said = msgspec.structs.replace(broken("check_error"), message="\U0001f600\x01" * 700)
    named = [bundle(f"ws-{'x' * 90}-{number:02}") for number in range(64)]
    play = WavePlay(named, answer=lambda _: said, review="wait", max_workers=64, short_trees=True).until_stuck()
    assert set(play.states.values()) == {"awaiting_review"}


def test_a_search_knows_nothing_of_the_work_that_a_fix_has_replaced():
    def is_red(merged):
        return {"ws-0", "ws-2"} <= merged or "ws-2!" in merged

    play = WavePlay(wave(3), is_red, review="wait").until_stuck()
    assert [(e.workstream, e.others) for e in play.of(MergeRefused)][:2] == [("ws-2", ["ws-0"]), ("ws-2", [])]


def test_an_optional_gate_of_the_wave_warns():
    optional = (BundleGate(type="GATE_INTEGRATION", required=False),)
    play = WavePlay(wave(3), lambda merged: True, gates=optional).play()
    assert set(play.states.values()) == {"completed"}
    assert len(play.judged) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_red_the_line_is_green_at_its_end(data):
    """Random culprits, pairs, orders of arrival, decisions cut short: no head has a culprit in it, and every run ends."""
    guilty = data.draw(st.sets(st.frozensets(st.sampled_from(NAMES), min_size=1, max_size=2), max_size=3))
    waits = data.draw(st.booleans())
    seed = data.draw(st.randoms(use_true_random=False))
    play = WavePlay(
        [bundle(name, *([NAMES[0]] if name == NAMES[7] else [])) for name in NAMES],
        lambda merged: any(group <= merged for group in guilty),
        conflicts=data.draw(st.lists(st.sampled_from(NAMES), max_size=2)),
        scheduling=data.draw(st.sampled_from(["barrier", "eager"])),
        max_workers=data.draw(st.integers(1, 8)),
    )
    if waits:
        play.decisions_at_once = lambda: seed.randint(1, 3)
    play.play(lambda open_: seed.choice(sorted(open_)))
    head = work(play.state.line.head.tree)
    assert not any(group <= head for group in guilty)
    assert set(play.states.values()) <= {"completed", "failed", "blocked"}
    for base in [e.base for e in play.of(StepScheduled) if e.step == "edit" and e.base is not None]:
        assert not any(group <= work(base.tree) for group in guilty), "nobody starts from what is red"
