"""What the scheduler decides: given a plan and what its attempts come to, then these decisions."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness import (
    RUN,
    SECOND_NS,
    Lost,
    Play,
    Unclaimed,
    broken,
    bundle,
    failed,
    made,
    spec,
)

from services.events import (
    Artifact,
    CheckResult,
    DeliveryRefused,
    FixLoopEnded,
    GateFlaked,
    IntegrationAdvanced,
    LineDelivered,
    MergeRefused,
    ProcessesReaped,
    RequestAnswered,
    ResultRefused,
    RunFinished,
    RunStopping,
    Snapshot,
    StepCancelled,
    StepFinished,
    StepLost,
    StepScheduled,
    WaveFinished,
    WaveStarted,
)
from services.scheduler.decide import due, outstanding
from services.scheduler.routing import Sighting, Sightings
from services.scheduler.steps import GROUP_MAX
from services.spec import Definitions
from services.wire import Place, encode_entry

A, B, C, D = "ws-a", "ws-b", "ws-c", "ws-d"
GREEN = ["edit", "static", "runtime"]


def chain():
    """A ← b ← c, and d by itself."""
    return [bundle(A), bundle(B, A), bundle(C, B), bundle(D)]


# Waves and slots


def test_one_workstream_goes_through_every_step_and_is_delivered():
    play = Play(spec([bundle(A)])).play()
    assert play.steps_of(A) == [*GREEN, "merge", "gate: verdict_reused"]
    assert play.moves == [
        "ws-a pending → ready",
        "ws-a ready → editing",
        "ws-a editing → static_check",
        "ws-a static_check → runtime_check",
        "ws-a runtime_check → validating",
        "ws-a validating → merging",
        "ws-a merging → completed",
    ]
    [delivered] = play.of(LineDelivered)
    assert delivered.ref == f"refs/heads/swell/{RUN}"
    assert delivered.commit == play.state.line.head.commit
    assert (play.state.status, play.state.finished.reason) == ("completed", "all 1 workstreams completed")


def test_a_wave_starts_after_everything_of_the_one_before_is_merged_and_delivered():
    play = Play(spec(chain())).play()
    order = [e for e in play.events if isinstance(e, WaveStarted | WaveFinished | IntegrationAdvanced | LineDelivered)]
    assert [(type(e).__name__, getattr(e, "wave", getattr(e, "workstream", ""))) for e in order] == [
        ("WaveStarted", 0), ("IntegrationAdvanced", A), ("IntegrationAdvanced", D), ("LineDelivered", ""), ("WaveFinished", 0),
        ("WaveStarted", 1), ("IntegrationAdvanced", B), ("LineDelivered", ""), ("WaveFinished", 1),
        ("WaveStarted", 2), ("IntegrationAdvanced", C), ("LineDelivered", ""), ("WaveFinished", 2),
    ]  # fmt: skip


def test_a_workstream_starts_from_the_head_that_holds_its_dependencies():
    play = Play(spec(chain())).play()
    heads = {e.workstream: e.to.commit for e in play.of(IntegrationAdvanced)}
    started = {e.workstream: e for e in play.of(StepScheduled) if e.step == "edit"}
    assert started[B].input.commit == heads[D]
    assert started[C].input.commit == started[C].base.commit == heads[B]


def test_slots_are_never_exceeded_and_always_used():
    names = [f"ws-{n}" for n in range(7)]
    play = Play(spec([bundle(n) for n in names], max_workers=3)).play()
    assert play.most_open == 3
    assert set(play.states.values()) == {"completed"}


def test_one_slot_is_enough():
    play = Play(spec(chain(), max_workers=1)).play()
    assert play.most_open == 1
    assert set(play.states.values()) == {"completed"}


def test_a_wave_of_thousands_starts_in_groups_that_fit():
    names = [f"ws-{n:05}-{'x' * 80}" for n in range(3 * GROUP_MAX + 1)]
    play = Play(spec([bundle(n) for n in names], max_workers=2))
    play.apply(play.due())
    first = play.due()
    assert [len(d.events[0].workstreams) for d in first] == [GROUP_MAX] * 3 + [1]
    assert [d.events[0].more for d in first] == [True] * 3 + [False]
    play.apply(first[:1])
    assert not play.state.open, "nothing starts before the wave is complete"
    play.settle()
    assert len(play.state.open) == 2
    assert play.state.unsettled == len(names)


def test_the_next_wave_waits_for_its_delay():
    play = Play(spec([bundle(A), bundle(B, A)], wave_delay_s=30))
    play.settle()
    while play.state.wave_open:
        play.act(*min(play.state.open))
        play.settle()
    ended_ns = play.now_ns
    assert play.due() == []
    play.now_ns = play.state.next_not_before_ns - 1
    assert play.due() == []
    play.now_ns += 1
    [decision] = play.due()
    assert decision.events[0] == WaveStarted(wave=1, workstreams=[B])
    assert play.now_ns >= ended_ns + 29 * SECOND_NS


def test_there_is_no_delay_after_the_last_wave():
    play = Play(spec([bundle(A)], wave_delay_s=30)).play()
    assert play.now_ns - play.facts[0].time_ns < SECOND_NS


def test_of_a_dry_run_only_the_trail_exists():
    play = Play(spec(chain(), dry_run=True)).play()
    assert play.steps_of(B) == [*GREEN, "merge: dry_run"]
    assert all(e.dry_run for e in play.of(StepScheduled))
    assert not play.of(LineDelivered)
    assert play.state.status == "completed"
    assert play.state.line.head.commit == play.spec.repository.base_commit


def test_without_checks_nothing_is_checked_and_it_says_so():
    unchecked = [bundle(A, metadata={"swell": {"gates": "none"}})]
    play = Play(spec(unchecked, static=(), runtime=None)).play()
    assert play.steps_of(A) == ["edit", "static: noop", "runtime: noop", "merge", "gate: noop"]
    assert play.states == {A: "completed"}


# Failure


def test_dependents_of_a_failure_are_blocked_however_far_and_name_its_root():
    play = Play(spec(chain()), {(A, "edit"): [broken("tool_failed")]}).play()
    assert play.states == {A: "failed", B: "blocked", C: "blocked", D: "completed"}
    assert play.reason(A) == "edit: tool_failed happened"
    assert play.reason(B) == play.reason(C) == "dependency ws-a failed"
    assert play.steps_of(B) == play.steps_of(C) == []
    assert (play.state.status, play.state.finished.reason) == ("partial", "1 of 4 workstreams completed")


def test_of_two_failed_dependencies_one_is_named():
    play = Play(
        spec([bundle(A), bundle(B), bundle(C, A, B)]),
        {(A, "edit"): [broken("tool_failed")], (B, "edit"): [broken("tool_failed")]},
    ).play()
    assert play.states == {A: "failed", B: "failed", C: "blocked"}
    assert play.reason(C) in {"dependency ws-a failed", "dependency ws-b failed"}
    assert play.state.status == "failed"


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_fail_fast_starts_nothing_after_the_first_failure(max_workers):
    """Also not in the very entry that records the failure."""
    play = Play(
        spec([bundle(A), bundle(B), bundle(C), bundle(D, C)], fail_fast=True, max_workers=max_workers),
        {(A, "edit"): [broken("tool_failed")]},
    )
    play.settle()
    before = play.state.open.keys() - {(A, 1)}
    play.act(A, 1)
    play.play()
    begun = {e.workstream for e in play.of(StepScheduled) if e.step == "edit"}
    assert begun == {A, *(name for name, _ in before)}
    for name in {B, C, D} - begun:
        assert play.states[name] == "cancelled"
    for name in begun - {A}:
        assert play.states[name] == "completed"
    assert play.reason(D) == "fail_fast: another workstream failed"


def test_without_fail_fast_the_others_go_on():
    play = Play(spec([bundle(A), bundle(B), bundle(C)], max_workers=1), {(A, "edit"): [broken("timeout")]}).play()
    assert play.states == {A: "failed", B: "completed", C: "completed"}


@pytest.mark.parametrize(
    "error_class",
    [
        "no_change",
        "scope_violation",
        "tampering",
        "setup_error",
        "tool_missing",
        "tool_failed",
        "timeout",
        "protocol_error",
        "check_error",
    ],
)
@pytest.mark.parametrize("step", ["edit", "static", "runtime"])
def test_only_a_failed_check_starts_a_fix(step, error_class):
    play = Play(spec([bundle(A)]), {(A, step): [broken(error_class)]}).play()
    assert play.states == {A: "failed"}
    assert "fix" not in play.steps_of(A)
    assert play.reason(A) == f"{step}: {error_class} happened"


@pytest.mark.parametrize("error_class", ["scope_violation", "tampering"])
def test_what_is_beyond_the_scope_or_tampered_with_is_named(error_class):
    play = Play(spec([bundle(A)]), {(A, "edit"): [broken(error_class, violations=["etc/passwd", "b.py"])]}).play()
    assert play.reason(A) == f"edit: {error_class}: etc/passwd, b.py"


def test_a_fix_outside_the_scope_ends_the_workstream():
    play = Play(
        spec([bundle(A)]),
        {(A, "static"): [failed()], (A, "fix"): [broken("scope_violation", violations=["x"])]},
    ).play()
    assert play.states == {A: "failed"}
    assert play.reason(A) == "fix: scope_violation: x"


def test_an_edit_that_may_change_nothing_is_checked_and_has_nothing_to_merge():
    """`allow_no_change`: the executor says ok, on the tree it started from."""
    script = {(A, "edit"): [StepFinished(ok=True, snapshot=Snapshot(commit="b" * 40, tree="base"))]}
    play = Play(spec([bundle(A)]), script).play()
    assert play.steps_of(A) == [*GREEN, "merge: nothing_to_merge"]
    assert play.states == {A: "completed"}
    assert not play.of(LineDelivered)


# FIX loops


def signatures():
    return [failed(f"e{n}") for n in range(50)]


def test_static_has_three_fixes_by_default():
    play = Play(spec([bundle(A)]), {(A, "static"): signatures()}).play()
    assert play.steps_of(A) == ["edit", *["static", "fix"] * 3, "static"]
    [ended] = play.of(FixLoopEnded)
    assert (ended.step, ended.limit) == ("static", "max_fix_iterations")
    assert play.reason(A).startswith("static: max_fix_iterations: static has had 3 FIX calls of 3 allowed")


def test_runtime_has_two_fixes_by_default_and_each_tree_is_checked_statically_again():
    play = Play(spec([bundle(A)]), {(A, "runtime"): signatures()}).play()
    assert play.steps_of(A) == ["edit", "static", "runtime", *["fix", "static", "runtime"] * 2]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["max_fix_iterations"]


def test_a_fix_that_works_leads_on():
    play = Play(spec([bundle(A)]), {(A, "static"): [failed()]}).play()
    assert play.steps_of(A) == ["edit", "static", "fix", "static", "runtime", "merge", "gate: verdict_reused"]
    assert play.states == {A: "completed"}


def test_counters_span_the_workstream():
    """Static fixes spent before RUNTIME are not given back after it."""
    ok = StepFinished(ok=True)
    script = {
        (A, "static"): [failed("s1"), failed("s2"), ok, failed("s3"), failed("s4"), failed("s5")],
        (A, "runtime"): [failed("r1")],
    }
    play = Play(spec([bundle(A)]), script).play()
    assert play.steps_of(A) == [
        "edit", "static", "fix", "static", "fix", "static", "runtime", "fix", "static", "fix", "static",
    ]  # fmt: skip
    [ended] = play.of(FixLoopEnded)
    assert (ended.step, ended.limit) == ("static", "max_fix_iterations")


def test_the_same_error_twice_is_going_round_in_circles():
    play = Play(spec([bundle(A)]), {(A, "static"): [failed("e1"), failed("e2"), failed("e1")]}).play()
    assert play.steps_of(A) == ["edit", "static", "fix", "static", "fix", "static"]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["oscillation_signature"]


def test_the_same_tree_twice_is_going_round_in_circles():
    script = {(A, "edit"): [made("t1")], (A, "static"): signatures(), (A, "fix"): [made("t2"), made("t1")]}
    play = Play(spec([bundle(A)]), script).play()
    assert play.steps_of(A) == ["edit", "static", "fix", "static", "fix", "static"]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["oscillation_tree"]


@pytest.mark.parametrize("fix", [made("t1"), broken("no_change"), broken("tool_failed"), broken("timeout")])
def test_a_fix_that_changes_nothing_is_not_checked_again(fix):
    """The same tree would be judged the same."""
    script = {(A, "edit"): [made("t1")], (A, "static"): [failed()], (A, "fix"): [fix]}
    play = Play(spec([bundle(A)]), script).play()
    assert play.steps_of(A) == ["edit", "static", "fix"]
    [ended] = play.of(FixLoopEnded)
    assert ended.limit == "oscillation_signature"
    assert play.states == {A: "failed"}


def test_a_failed_fix_that_changed_the_tree_is_checked():
    snapshot = Snapshot(commit="c2", tree="t2")
    script = {(A, "static"): [failed()], (A, "fix"): [broken("tool_failed", snapshot=snapshot, changed=True)]}
    play = Play(spec([bundle(A)]), script).play()
    assert play.states == {A: "completed"}
    assert [e.input.tree for e in play.of(StepScheduled) if e.step == "static"][1] == "t2"


def test_a_bundle_may_allow_fewer_fixes():
    play = Play(spec([bundle(A, circuit_breaker={"max_attempts": 2})]), {(A, "static"): signatures()}).play()
    assert play.steps_of(A) == ["edit", "static", "fix", "static"]


def test_no_fix_at_all_when_none_is_allowed():
    limits = {"max_fix_iterations": {"static": 0, "runtime": 0}}
    play = Play(spec([bundle(A)], breaker=limits), {(A, "static"): [failed()]}).play()
    assert play.steps_of(A) == ["edit", "static"]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["max_fix_iterations"]


def test_a_fix_is_told_what_failed_and_what_was_tried():
    from services.events import Artifact

    diagnostics = Artifact(role="diagnostics", digest="d" * 64, name="d", size_bytes=1)
    patches = [Artifact(role="patch", digest=f"{n}" * 64, name=f"p{n}", size_bytes=1) for n in range(2)]
    script = {
        (A, "static"): [msgspec.structs.replace(failed(f"e{n}"), artifacts=[diagnostics]) for n in range(3)],
        (A, "fix"): [msgspec.structs.replace(made(f"f{n}"), artifacts=[p]) for n, p in enumerate(patches)],
    }
    play = Play(spec([bundle(A)]), script).play()
    fixes = [e for e in play.of(StepScheduled) if e.step == "fix"]
    assert [e.fix.earlier_patches for e in fixes] == [[], patches[:1], patches]
    assert [(e.fix.step, e.fix.attempt, e.fix.diagnostics) for e in fixes] == [
        ("static", 2, diagnostics), ("static", 4, diagnostics), ("static", 6, diagnostics),
    ]  # fmt: skip


# Losses and deadlines


@pytest.mark.parametrize("step", ["edit", "static", "runtime", "fix", "merge", "gate", "deliver"])
def test_a_lost_attempt_has_a_successor_until_too_many_are_lost(step):
    plan = spec([bundle(A), bundle(B)], losses_max=2, waves=[[A, B]])
    who = "" if step == "deliver" else B
    base = {(B, "static"): [failed()]} if step == "fix" else {}
    survived = Play(plan, base | {(who, step): [Lost, Lost]}).play()
    assert survived.state.status == "completed"
    ended = Play(plan, base | {(who, step): [Lost, Lost, Lost]}).play()
    assert ended.state.status == "partial"
    assert len([e for e in ended.of(StepScheduled) if e.step == step and who in (e.workstream, e.on_behalf, "")]) >= 3
    if step == "deliver":
        assert len(ended.of(DeliveryRefused)) == 1
    else:
        assert ended.states == {A: "completed", B: "failed"}


@pytest.mark.parametrize("error_class", ["workspace_error", "unknown"])
@pytest.mark.parametrize("step", ["edit", "static", "runtime", "fix", "merge", "gate"])
def test_what_says_nothing_about_the_workstream_is_tried_again_like_a_loss(step, error_class):
    """A full disk, a crash of the harness: neither the workstream's fault nor a reason to try for ever."""
    plan = spec([bundle(A), bundle(B)], losses_max=2, waves=[[A, B]])
    base = {(B, "static"): [failed()]} if step == "fix" else {}
    survived = Play(plan, base | {(B, step): [broken(error_class), Lost]}).play()
    assert survived.states == {A: "completed", B: "completed"}
    assert not survived.of(FixLoopEnded)
    ended = Play(plan, base | {(B, step): [broken(error_class)] * 3}).play()
    assert ended.states == {A: "completed", B: "failed"}
    assert len([e for e in ended.of(StepScheduled) if e.step == step and B in (e.workstream, e.on_behalf)]) == 3


def test_losses_count_in_a_row():
    plan = spec([bundle(A)], losses_max=1)
    play = Play(plan, {(A, "edit"): [Lost], (A, "static"): [Lost], (A, "runtime"): [Lost]}).play()
    assert play.states == {A: "completed"}


def test_losses_of_one_merge_are_not_held_against_the_next():
    plan = spec([bundle(A), bundle(B)], losses_max=1)
    play = Play(plan, {(A, "merge"): [Lost, Lost], (B, "merge"): [Lost]}).play()
    assert play.states == {A: "failed", B: "completed"}


def test_what_nobody_claims_in_time_is_cancelled_and_fails():
    play = Play(spec([bundle(A)], queue_timeout_s=10), {(A, "static"): [Unclaimed]}).play()
    assert play.states == {A: "failed"}
    [cancelled] = play.of(StepCancelled)
    assert cancelled.reason == "no executor of pool default claimed it within 10 s: start one"
    assert play.reason(A) == f"static: {cancelled.reason}"
    assert cancelled.error_class == "queue_timeout"


def test_a_queue_deadline_holds_for_the_unclaimed_only():
    play = Play(spec([bundle(A)], queue_timeout_s=10))
    play.settle()
    play.claim(A, 1)
    play.now_ns += 11 * SECOND_NS
    assert play.due() == []


def test_a_merge_nobody_claims_is_refused():
    play = Play(spec([bundle(A), bundle(B)]), {(A, "merge"): [Unclaimed]}).play()
    assert play.states == {A: "failed", B: "completed"}
    assert [e.reason for e in play.of(MergeRefused)] == ["error"]


def test_the_run_has_a_deadline():
    play = Play(spec([bundle(A), bundle(B, A)], timeout_s=100, queue_timeout_s=1e6))
    play.settle()
    play.claim(A, 1)
    play.now_ns = play.state.accepted.deadline_ns - 1
    assert play.due() == []
    play.now_ns += 1
    play.play()
    assert play.states == {A: "cancelled", B: "cancelled"}
    assert (play.state.status, play.state.finished.reason) == ("failed", "the run's time limit of 100 s has passed")


def sightings(lease_s=10.0, since_ns=1, **executors):
    return Sightings(executors=executors, since_ns=since_ns, lease_s=lease_s)


@pytest.fixture
def claimed():
    play = Play(spec([bundle(A)]))
    play.settle()
    play.claim(A, 1)
    return play


def test_an_executor_that_names_its_attempt_keeps_it(claimed):
    claimed.now_ns += 3600 * SECOND_NS // 2
    sight = Sighting(boot="k1", seen_ns=claimed.now_ns, named={(RUN, A, 1): claimed.now_ns - 9 * SECOND_NS})
    assert claimed.due(sightings(e1=sight)) == []


def test_an_executor_that_has_not_named_it_for_a_lease_has_lost_it(claimed):
    claimed.now_ns += 600 * SECOND_NS
    sight = Sighting(boot="k1", seen_ns=claimed.now_ns, named={(RUN, A, 1): claimed.now_ns - 11 * SECOND_NS})
    [decision] = claimed.due(sightings(e1=sight))
    [lost] = decision.events
    assert isinstance(lost, StepLost)
    assert lost.executor == "e1"
    assert decision.attempt.sequence == claimed.sequence


def test_the_time_before_we_could_see_steals_nothing(claimed):
    """A scheduler that has just begun to look, or was cut off, waits a full lease of its own."""
    claimed.now_ns += 600 * SECOND_NS
    assert claimed.due(sightings(since_ns=claimed.now_ns - 9 * SECOND_NS)) == []
    assert len(claimed.due(sightings(since_ns=claimed.now_ns - 11 * SECOND_NS))) == 1


def test_a_new_boot_has_forgotten_what_the_old_one_claimed(claimed):
    claimed.now_ns += SECOND_NS // 2
    [decision] = claimed.due(sightings(e1=Sighting(boot="k2", seen_ns=claimed.now_ns)))
    assert decision.events[0].reason == "executor e1 has started anew"


def test_a_beat_from_before_the_claim_proves_nothing(claimed):
    """The executor restarted, claimed at once, and only its old boot's beat has been seen."""
    before_ns = claimed.state.open[A, 1].started_ns - 1
    assert claimed.due(sightings(e1=Sighting(boot="k0", seen_ns=before_ns))) == []


# Cancelling


@pytest.mark.parametrize("acts", range(10))
@pytest.mark.parametrize("claim", [False, True])
def test_a_run_may_be_cancelled_in_every_phase(acts, claim):
    play = Play(spec([bundle(A), bundle(B, A)], max_workers=1))
    play.settle()
    for _ in range(acts):
        play.act(*min(play.state.open))
        play.settle()
    if claim:
        key = min(play.state.open)
        play.claim(*key)
    was_open = sorted(play.state.open)
    play.cancel()
    play.settle()
    play.check_end()
    assert play.state.status == "cancelled"
    assert set(play.states.values()) <= {"completed", "cancelled"}
    assert len(play.of(StepCancelled)) == len(was_open) == 1
    assert RequestAnswered(request_id="q-cancel", answer="accepted") in play.events


def test_a_result_that_comes_before_the_cancellation_counts_and_leads_nowhere():
    play = Play(spec([bundle(A)]))
    play.settle()
    play.claim(A, 1)
    play.cancel()
    play.apply(play.due())
    assert [type(event) for decision in play.due() for event in decision.events] == [StepCancelled]
    play.write(Place("attempt", RUN, A, 1), made("t1"))
    play.settle()
    assert play.states == {A: "cancelled"}
    assert not play.of(StepCancelled)


def test_cancelling_starts_nothing_in_the_same_breath():
    """A result and a cancellation arrive together: the entry that stops the run must not schedule the next step."""
    play = Play(spec([bundle(A), bundle(B)], max_workers=1))
    play.settle()
    play.claim(A, 1)
    play.write(Place("attempt", RUN, A, 1), made("t1"))
    play.cancel()
    events = [event for decision in play.due() for event in decision.events]
    assert any(isinstance(event, RunStopping) for event in events)
    assert not any(isinstance(event, StepScheduled) for event in events)


def test_two_who_cancel_at_once_are_both_answered_and_the_run_stops_once():
    play = Play(spec([bundle(A)]))
    play.settle()
    play.cancel("q-1", "first")
    play.cancel("q-2", "second")
    play.settle()
    play.check_end()
    assert {e.request_id for e in play.of(RequestAnswered)} == {"q-1", "q-2"}
    assert [e.reason for e in play.of(RunStopping)] == ["first"]


def test_cancelled_before_it_was_accepted():
    play = Play(spec([bundle(A)]))
    play.cancel()
    play.settle()
    play.check_end()
    assert play.states == {A: "cancelled"}
    assert play.attempts == 0


def test_the_same_request_twice_is_answered_once():
    play = Play(spec([bundle(A)]))
    play.settle()
    play.cancel()
    play.cancel()
    play.settle()
    assert len([e for e in play.of(RequestAnswered) if e.request_id == "q-cancel"]) == 1


@pytest.mark.parametrize("reason", ["😀" * 500, "\x00" * 500, "ß" * 500])
def test_a_big_run_can_be_cancelled_for_any_reason(reason):
    """Every decision fits into an entry, whatever people write and however JSON escapes it."""
    names = [f"ws-{n:03}-{'x' * 90}" for n in range(GROUP_MAX)]
    play = Play(spec([bundle(n) for n in names], max_workers=1))
    play.settle()
    play.cancel(reason=reason)
    play.settle()
    play.check_end()


# Requests that come late


def test_a_request_to_a_run_that_is_over_is_refused_with_a_reason():
    play = Play(spec([bundle(A)])).play()
    play.cancel("q-late")
    play.ask(A, "edit", "q-later")
    play.settle()
    answers = {e.request_id: e for e in play.of(RequestAnswered)}
    assert {answers[q].answer for q in ("q-late", "q-later")} == {"refused"}
    assert answers["q-late"].reason == f"run {RUN} is over: completed"
    assert not play.state.alive
    assert len(play.of(RunFinished)) == 1


def test_the_last_word_is_said_only_if_nothing_has_happened_since():
    """RunFinished is `final`: it expects the last sequence over everything of the run."""
    play = Play(spec([bundle(A)]))
    play.settle()
    while True:
        decisions = play.due()
        if decisions and decisions[0].final:
            break
        if decisions:
            play.apply(decisions)
        else:
            play.act(*min(play.state.open))
    assert [d.final for d in decisions] == [True]
    expected = play.state.last_sequence
    play.cancel()
    assert play.state.last_sequence > expected, "so the append is refused, and decided anew"
    play.settle()
    assert RequestAnswered(request_id="q-cancel", answer="accepted") in play.events
    play.check_end()


def test_a_late_fact_changes_nothing_but_the_end_of_the_log():
    play = Play(spec([bundle(A)]), {(A, "edit"): [Lost]})
    play.settle()
    play.act(A, 1)
    before = play.states
    play.write(
        Place("late", RUN, A, 1),
        ResultRefused(executor="e1", boot="k1", result=made("too late")),
        ProcessesReaped(executor="e1", boot="k1", processes=3),
    )
    assert play.states == before
    assert play.state.last_sequence == play.sequence
    assert play.play().state.status == "completed"


# The line


def test_merges_stand_in_plan_order_however_the_attempts_end():
    names = [f"ws-{n}" for n in range(5)]
    play = Play(spec([bundle(n) for n in names], max_workers=5)).play(pick=lambda found: found[-1])
    assert [e.workstream for e in play.of(IntegrationAdvanced)] == names


def test_a_merged_tree_that_nobody_has_seen_is_gated_with_everything_it_carries():
    play = Play(spec([bundle(A), bundle(B)])).play()
    [gate] = [e for e in play.of(StepScheduled) if e.step == "gate"]
    assert gate.on_behalf == B
    assert gate.merged == [(0, 2)]
    assert [c.name for c in gate.checks] == ["ruff", "pytest"]
    assert gate.input.tree == "ws-a-edit-1+ws-b-edit-1"


def test_a_gate_whose_verdict_is_known_is_not_run():
    play = Play(spec([bundle(A)])).play()
    assert "gate: verdict_reused" in play.steps_of(A)


def test_a_check_known_for_a_tree_is_not_run_again():
    """A FIX that leads to a tree which passed before."""
    script = {
        (A, "edit"): [made("t1")],
        (B, "edit"): [made("t1")],
    }
    play = Play(spec([bundle(A), bundle(B, A)]), script).play()
    assert play.steps_of(B)[:3] == ["edit", "static: verdict_reused", "runtime: verdict_reused"]


def test_a_verdict_belongs_to_the_definition_of_the_check():
    """The same tree under another set of static tools is checked for what is not known yet."""
    two = bundle(B, A, metadata={"swell": {"static_tools": ["ruff", "mypy"]}})
    play = Play(spec([bundle(A), two]), {(A, "edit"): [made("t1")], (B, "edit"): [made("t1")]}).play()
    [static] = [e for e in play.of(StepScheduled) if e.workstream == B and e.step == "static"]
    assert [c.name for c in static.checks] == ["mypy"]


def test_a_conflict_fails_the_workstream_and_names_files_and_others():
    conflict = broken("merge_conflict", conflicts=["x.py", "y.py"], others=[A])
    play = Play(spec([bundle(A), bundle(B), bundle(C, B), bundle(D)]), {(B, "merge"): [conflict]}).play()
    assert play.states == {A: "completed", B: "failed", C: "blocked", D: "completed"}
    assert play.reason(B) == "merge conflict with ws-a in x.py, y.py"
    [refused] = play.of(MergeRefused)
    assert (refused.workstream, refused.reason, refused.files, refused.others) == (B, "conflict", ["x.py", "y.py"], [A])


def in_conflict(number=1):
    """A conflict that can be mended: the tree has conflict markers."""
    marked = Snapshot(commit=f"commit-of-marked-{number}", tree=f"marked-{number}")
    told = Artifact(role="diagnostics", digest="d" * 64, name="told", size_bytes=1)
    return broken("merge_conflict", conflicts=["x.py"], others=[A], snapshot=marked, artifacts=[told])


def test_a_conflict_goes_back_with_both_sides_and_is_checked_and_merged_again():
    play = Play(spec([bundle(A), bundle(B)]), {(B, "merge"): [in_conflict()]}).play()
    assert play.states == {A: "completed", B: "completed"}
    assert play.steps_of(B) == [*GREEN, "merge", "fix", "static", "runtime", "merge", "gate: verdict_reused"]
    [fix] = [e for e in play.of(StepScheduled) if e.step == "fix"]
    assert (fix.fix.step, fix.fix.diagnostics.role) == ("merge", "diagnostics")
    assert fix.input.tree == "marked-1"
    [first] = [e for e in play.of(IntegrationAdvanced) if e.workstream == A]
    assert fix.base == first.to
    [again] = [e for e in play.of(StepScheduled) if e.step == "merge" and e.on_behalf == B][1:]
    assert again.base == again.input == first.to


def test_a_fix_that_leaves_conflict_markers_is_counted_and_never_checked():
    left = made("half")
    half = msgspec.structs.replace(left, ok=False, error_class="merge_conflict", conflicts=["x.py"])
    script = {(B, "merge"): [in_conflict()], (B, "fix"): [half, half]}
    play = Play(spec([bundle(A), bundle(B)]), script).play()
    assert play.steps_of(B) == [*GREEN, "merge", "fix", "fix"]
    assert play.states[B] == "failed"
    assert "merge" in play.reason(B)


def test_conflicts_are_sent_back_as_often_as_is_configured_then_a_person_decides():
    script = {(B, "merge"): [in_conflict(number) for number in range(9)]}
    play = Play(spec([bundle(A), bundle(B)], recovery={"retries": 0, "conflicts": 1}), script).play()
    assert play.states == {A: "completed", B: "failed"}
    assert play.steps_of(B) == [*GREEN, "merge", "fix", "static", "runtime", "merge"]
    assert play.reason(B) == "merge conflict with ws-a in x.py (sent back 1 times)"


def test_red_as_merged_does_not_become_the_head_and_goes_back_with_the_merged_tree():
    play = Play(spec([bundle(A), bundle(B), bundle(C)]), {(B, "gate"): [failed()]}).play()
    assert play.states == {A: "completed", B: "completed", C: "completed"}
    [refused] = play.of(MergeRefused)
    assert refused.reason == "red"
    assert refused.result.tree == "ws-a-edit-1+ws-b-edit-1"
    assert [e.workstream for e in play.of(IntegrationAdvanced)] == [A, B, C]
    [fix] = [e for e in play.of(StepScheduled) if e.step == "fix"]
    assert (fix.fix.step, fix.input) == ("gate", refused.result)
    assert play.state.line.merged == ((0, 3),)


def test_what_no_fix_makes_green_as_merged_is_given_up_and_the_others_go_on():
    script = {(B, "gate"): [failed()], (B, "fix"): [broken("no_change"), broken("no_change")]}
    play = Play(spec([bundle(A), bundle(B), bundle(C)]), script).play()
    assert play.states == {A: "completed", B: "failed", C: "completed"}
    assert play.steps_of(B) == [*GREEN, "merge", "gate", "fix", "fix"]
    assert [e.workstream for e in play.of(IntegrationAdvanced)] == [A, C]
    assert play.state.line.merged == ((0, 1), (2, 3))


def test_a_check_that_fails_as_merged_runs_once_more_before_anybody_is_sent_back():
    """It passes then: it is flaky, and that is told."""
    definition = spec([bundle(A), bundle(B)])
    [ruff, *_] = Definitions(definition).line([(0, 1)])
    red = msgspec.structs.replace(
        failed(), checks=[CheckResult(check=ruff.check, kind="static", name="ruff", outcome="failed")]
    )
    play = Play(definition, {(B, "gate"): [red]}).play()
    assert play.states == {A: "completed", B: "completed"}
    assert play.of(MergeRefused) == []
    first, again = [e for e in play.of(StepScheduled) if e.step == "gate"]
    assert first.checks == again.checks, "what was not reached the first time is asked as well"
    assert first.input == again.input
    [flaked] = play.of(GateFlaked)
    assert (flaked.gate, flaked.tree, flaked.failures) == ("ruff", first.input.tree, 1)


@pytest.mark.parametrize("step", ["merge", "gate"])
@pytest.mark.parametrize("error_class", ["check_error", "timeout", "setup_error", "tool_failed"])
def test_a_merge_or_gate_that_could_not_be_judged_is_not_the_head(step, error_class):
    play = Play(spec([bundle(A), bundle(B)]), {(B, step): [broken(error_class)]}).play()
    assert play.states == {A: "completed", B: "failed"}
    assert [e.reason for e in play.of(MergeRefused)] == ["error"]


def test_every_wave_is_delivered_after_the_last_delivery():
    play = Play(spec([bundle(A), bundle(B, A)])).play()
    first, second = [e for e in play.of(StepScheduled) if e.step == "deliver"]
    assert first.base is None
    assert second.base.commit == first.input.commit
    assert [e.commit for e in play.of(LineDelivered)] == [first.input.commit, second.input.commit]


def test_a_refused_delivery_does_not_stop_the_work_and_is_tried_with_the_next_head():
    play = Play(spec([bundle(A), bundle(B, A)]), {("", "deliver"): [broken("delivery_refused")]}).play()
    assert play.states == {A: "completed", B: "completed"}
    assert play.state.status == "completed"
    assert len(play.of(DeliveryRefused)) == len(play.of(LineDelivered)) == 1


def test_a_result_that_was_never_delivered_is_no_success():
    refused = broken("delivery_refused")
    play = Play(spec([bundle(A), bundle(B, A)]), {("", "deliver"): [refused, refused]}).play()
    assert play.states == {A: "completed", B: "completed"}
    assert play.state.status == "partial"
    assert play.state.finished.reason == "the result could not be delivered: delivery_refused happened"


def test_a_wave_that_merged_nothing_delivers_nothing():
    play = Play(spec([bundle(A)]), {(A, "edit"): [broken("tool_failed")]}).play()
    assert "deliver" not in [step for _, step in play.steps]
    assert play.state.status == "failed"


# Definitions that cannot be read


def test_a_run_without_a_readable_definition_ends_and_says_so():
    play = Play(spec([bundle(A)]))
    play.readable = False
    play.settle()
    assert play.state.status == "failed"
    assert "cannot be read" in play.state.finished.reason


# Stepwise runs


def stepwise(**options):
    play = Play(spec([bundle(A), bundle(B, A)], stepwise=True, **options))
    play.settle()
    return play


def finish_open(play):
    for _ in range(40):
        play.settle()
        if not play.state.open:
            return
        play.act(*min(play.state.open))
    raise AssertionError("the goal is never reached")


def answers(play, request_id):
    return [(e.answer, e.ok) for e in play.of(RequestAnswered) if e.request_id == request_id]


def test_a_stepwise_run_does_only_what_is_asked():
    play = stepwise()
    assert play.attempts == 0
    for step in ("edit", "static", "runtime"):
        play.ask(A, step, f"q-{step}")
        finish_open(play)
        assert answers(play, f"q-{step}") == [("accepted", True), ("done", True)]
    assert play.steps_of(A) == ["edit", "static", "runtime"]
    assert play.steps_of(B) == []
    assert play.due() == []


def test_a_failed_step_is_answered_and_may_be_fixed_by_hand():
    play = stepwise()
    play.script = {(A, "static"): [failed()]}
    play.ask(A, "fix", "q-early")
    finish_open(play)
    assert answers(play, "q-early") == [("refused", False)]
    for step, ok in (("edit", True), ("static", False), ("fix", True), ("static", True)):
        request_id = f"q-{play.sequence}"
        play.ask(A, step, request_id)
        finish_open(play)
        assert answers(play, request_id) == [("accepted", True), ("done", ok)], step


def test_a_step_with_fix_drives_its_loop_to_an_end():
    play = stepwise()
    play.script = {(A, "static"): [failed("e1"), failed("e2")]}
    play.ask(A, "edit", "q-1")
    finish_open(play)
    play.ask(A, "static", "q-2", with_fix=True)
    finish_open(play)
    assert play.steps_of(A) == ["edit", "static", "fix", "static", "fix", "static"]
    assert answers(play, "q-2") == [("accepted", True), ("done", True)]


def test_a_step_with_fix_ends_when_the_loop_does():
    play = stepwise()
    play.script = {(A, "static"): signatures()}
    play.ask(A, "static", "q-1", with_fix=True)
    finish_open(play)
    assert answers(play, "q-1") == [("accepted", True), ("done", False)]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["max_fix_iterations"]


def test_two_requests_for_one_workstream_are_done_one_after_the_other():
    """Also when both arrive before anything is decided: whoever was accepted is told the end."""
    play = stepwise()
    play.ask(A, "edit", "q-1")
    play.ask(A, "static", "q-2")
    finish_open(play)
    assert answers(play, "q-1") == answers(play, "q-2") == [("accepted", True), ("done", True)]
    assert play.steps_of(A) == ["edit", "static"]


def test_requests_for_two_workstreams_run_together():
    play = stepwise()
    play.ask(A, "edit", "q-1")
    play.ask(B, "edit", "q-2")
    play.settle()
    assert sorted(play.state.open) == [(A, 1), (B, 1)]


def test_a_stepwise_run_has_slots_too():
    play = stepwise(max_workers=1)
    play.ask(A, "edit", "q-1")
    play.ask(B, "edit", "q-2")
    play.settle()
    assert len(play.state.open) == 1
    finish_open(play)
    assert answers(play, "q-2") == [("accepted", True), ("done", True)]


@pytest.mark.parametrize(
    ("workstream", "step", "reason"),
    [
        ("ws-none", "edit", "has no workstream"),
        (A, "merge", "cannot be asked for"),
        (A, "fix", "nothing to fix"),
    ],
)
def test_a_step_that_cannot_be_asked_for_is_refused_with_a_reason(workstream, step, reason):
    play = stepwise()
    play.ask(workstream, step, "q-1")
    play.settle()
    [answer] = [e for e in play.of(RequestAnswered) if e.request_id == "q-1"]
    assert answer.answer == "refused"
    assert reason in answer.reason


def test_a_run_that_schedules_itself_takes_no_step_requests():
    play = Play(spec([bundle(A)]))
    play.settle()
    play.ask(A, "static", "q-1")
    play.settle()
    [answer] = [e for e in play.of(RequestAnswered) if e.request_id == "q-1"]
    assert (answer.answer, "stepwise" in answer.reason) == ("refused", True)


def test_the_losses_of_one_asked_step_are_not_held_against_the_next():
    play = stepwise(losses_max=1)
    play.script = {(A, "edit"): [Lost, Lost, Lost]}
    play.ask(A, "edit", "q-1")
    finish_open(play)
    assert answers(play, "q-1") == [("accepted", True), ("done", False)]
    play.ask(A, "edit", "q-2")
    finish_open(play)
    assert answers(play, "q-2") == [("accepted", True), ("done", True)]


def test_a_stepwise_run_can_be_cancelled():
    play = stepwise()
    play.ask(A, "edit", "q-1")
    play.settle()
    play.cancel()
    play.settle()
    play.check_end()
    assert play.state.status == "cancelled"


# Commands


def test_outstanding_are_the_unclaimed():
    play = Play(spec([bundle(A), bundle(B)]))
    play.settle()
    commands = outstanding(play.state)
    assert [(c.run, c.step.workstream, c.step.attempt, c.step.step) for c in commands] == [
        (RUN, A, 1, "edit"), (RUN, B, 1, "edit"),
    ]  # fmt: skip
    assert {c.scheduled_ns for c in commands} == {play.now_ns}
    assert commands == outstanding(play.state), "they can be derived as often as need be"
    play.claim(A, 1)
    assert [c.step.workstream for c in outstanding(play.state)] == [B]


def test_nothing_is_decided_while_every_attempt_is_open():
    play = Play(spec([bundle(A), bundle(B)]))
    play.settle()
    play.claim(A, 1)
    assert play.due() == []


# Any behaviour at all


SIGNATURES = ["e1", "e2", "e3", "e4", "e5"]
TREES = ["t1", "t2", "t3", "t4"]
ANYTHING = st.one_of(
    st.just("success"),
    st.just("success"),
    st.builds(failed, st.sampled_from(SIGNATURES)),
    st.builds(made, st.sampled_from(TREES)),
    st.builds(
        broken,
        st.sampled_from(
            [
                "no_change",
                "scope_violation",
                "tampering",
                "tool_failed",
                "timeout",
                "check_error",
                "merge_conflict",
                "delivery_refused",
                "unknown",
            ]
        ),
    ),
    st.just(StepFinished(ok=True)),
    st.just(StepFinished(ok=False)),
    st.just(Lost),
    st.just(Unclaimed),
)
GRAPHS = st.lists(st.integers(0, 2**6 - 1), min_size=1, max_size=6)


def graph(masks):
    """Workstreams of which each depends on some before it."""
    names = [f"ws-{n}" for n in range(len(masks))]
    return [bundle(n, *(names[j] for j in range(i) if masks[i] >> j & 1)) for i, n in enumerate(names)]


class Arbitrary(Play):
    """Executors that do whatever is drawn."""

    def __init__(self, definition, data, **rest):
        super().__init__(definition, **rest)
        self.data = data

    def outcome(self, scheduled):
        drawn = self.data.draw(ANYTHING)
        return self.success(scheduled) if drawn == "success" else drawn


OFTEN = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@OFTEN
@given(
    data=st.data(), masks=GRAPHS, max_workers=st.integers(1, 4), losses_max=st.integers(0, 2), fail_fast=st.booleans()
)
def test_every_run_ends_whatever_the_tools_and_executors_do(data, masks, max_workers, losses_max, fail_fast):
    """I5, I8, I9: slots hold at every step, and the attempts of a workstream are bounded."""
    plan = spec(graph(masks), max_workers=max_workers, losses_max=losses_max, fail_fast=fail_fast, timeout_s=1e7)
    play = Arbitrary(plan, data, decisions_at_once=lambda: data.draw(st.integers(1, 6)))
    play.play(pick=lambda found: data.draw(st.sampled_from(found)))
    per_step = losses_max + 1
    # edit, and every FIX call (3 + 2) with the two checks of its tree, and the first two checks
    assert all(w.attempts <= (1 + 2 + 5 * 3) * per_step for w in play.state.workstreams.values())
    assert play.state.line.attempts <= (2 * len(masks) + len(plan.waves)) * per_step
    for ws in plan.bundles:
        for dependency in ws.depends_on:
            if play.states[ws.id] == "completed":
                assert play.states[dependency] == "completed"
    merged = [e.workstream for e in play.of(IntegrationAdvanced)]
    order = [name for wave in plan.waves for name in wave]
    assert merged == [name for name in order if name in merged]


@OFTEN
@given(data=st.data(), masks=GRAPHS, max_workers=st.integers(1, 4))
def test_a_run_can_be_cancelled_at_any_moment(data, masks, max_workers):
    play = Arbitrary(spec(graph(masks), max_workers=max_workers, timeout_s=1e7), data)
    play.decisions_at_once = lambda: data.draw(st.integers(1, 4))
    for _ in range(data.draw(st.integers(0, 25))):
        decisions = play.due()
        if play.state.finished is not None:
            break
        if decisions:
            play.apply(decisions)
        elif play.state.open:
            play.act(*data.draw(st.sampled_from(sorted(play.state.open))))
    play.cancel()
    play.settle()
    play.check_end()
    assert [e for e in play.of(RequestAnswered) if e.request_id == "q-cancel"]


@OFTEN
@given(data=st.data(), masks=GRAPHS, max_workers=st.integers(1, 4))
def test_the_shell_may_stop_after_any_decision(data, masks, max_workers):
    """What is left is derived again: any prefix of any list of decisions leads to the same end."""
    names = [f"ws-{n}" for n in range(len(masks))]
    keys = [(n, s) for n in names for s in ("edit", "static", "runtime", "fix", "merge", "gate")] + [("", "deliver")]
    script = data.draw(
        st.dictionaries(
            st.sampled_from(keys),
            st.lists(
                st.one_of(st.builds(failed, st.sampled_from(SIGNATURES)), st.builds(broken, st.just("timeout")), st.just(Lost)),
                max_size=4,
            ),
            max_size=8,
        )
    )  # fmt: skip
    plan = spec(graph(masks), max_workers=max_workers)
    whole = Play(plan, script).play()
    parts = Play(plan, script, decisions_at_once=lambda: data.draw(st.integers(1, 3)))
    parts.play(pick=lambda found: data.draw(st.sampled_from(found)))
    assert parts.states == whole.states
    assert parts.state.finished == whole.state.finished
    assert parts.state.line.head == whole.state.line.head
    assert {n: parts.steps_of(n) for n in names} == {n: whole.steps_of(n) for n in names}


@OFTEN
@given(data=st.data(), masks=GRAPHS)
def test_asked_steps_are_all_answered(data, masks):
    """A stepwise run under any requests and any behaviour: each request is answered, and each accepted one is done."""
    play = Arbitrary(spec(graph(masks), stepwise=True, max_workers=2, timeout_s=1e7), data)
    play.settle()
    asked = []
    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.booleans()):
            asked.append(f"q-{len(asked)}")
            name = f"ws-{data.draw(st.integers(0, len(masks)))}"
            step = data.draw(st.sampled_from(["edit", "static", "runtime", "fix", "gate"]))
            play.ask(name, step, asked[-1], with_fix=data.draw(st.booleans()))
        else:
            play.settle()
            if play.state.open:
                play.act(*data.draw(st.sampled_from(sorted(play.state.open))))
    finish_open(play)
    for request_id in asked:
        assert answers(play, request_id)[0][0] in {"accepted", "refused"}
        assert answers(play, request_id)[-1][0] in {"done", "refused"}


@given(data=st.data(), masks=GRAPHS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_decision_fits_into_an_entry(data, masks):
    """Long ids, long reasons, long messages of tools."""
    play = Arbitrary(spec(graph(masks), timeout_s=1e7), data)
    original = play.outcome

    def loud(scheduled):
        outcome = original(scheduled)
        if isinstance(outcome, StepFinished) and not outcome.ok:
            return msgspec.structs.replace(outcome, message="\x01" * 2000, violations=["\x01" * 4000] * 5)
        return outcome

    play.outcome = loud
    play.play(pick=lambda found: data.draw(st.sampled_from(found)))
    for fact in play.facts:
        encode_entry(fact.entry)


def test_due_needs_no_sightings_and_changes_nothing():
    play = Play(spec(chain()))
    play.settle()
    assert due(play.state, play.now_ns, None) == due(play.state, play.now_ns, None) == []


def test_a_check_that_was_green_before_its_step_broke_off_is_not_asked_again():
    """STATIC of two checks: the first passes, the second cannot judge; the repetition asks the second only."""

    def broke_off(scheduled):
        first, second = scheduled.checks
        results = [
            CheckResult(name=first.name, check=first.check, kind=first.kind, outcome="passed"),
            CheckResult(name=second.name, check=second.check, kind=second.kind, outcome="error"),
        ]
        return StepFinished(ok=False, error_class="check_error", message="ended by supervisor", checks=results)

    play = Play(spec([bundle(A)], static=("ruff", "mypy"), recovery={"retries": 1}))
    play.settle()
    play.act(A, 1)
    play.settle()
    scheduled = play.state.open[A, 2].scheduled
    play.claim(A, 2)
    play.write(Place("attempt", RUN, A, 2), broke_off(scheduled))
    play.play()
    static = [e for e in play.of(StepScheduled) if e.step == "static"]
    assert [[check.name for check in e.checks] for e in static] == [["ruff", "mypy"], ["mypy"]]
    assert play.state.status == "completed"
