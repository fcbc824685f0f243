"""What mends a red check: programs first, then FIX tools, tier by tier; and what becomes of it when nothing does."""

import msgspec
import pytest
from scheduler_harness import Lost, Play, broken, bundle, failed, made, spec
from test_routing import beating, tell

from services.checks import ChecksError, parse_checks
from services.events import FixLoopEnded, FleetPaused, Snapshot, StepScheduled, ToolBreakerOpened
from services.profiles import ToolProfile
from services.wire import Place

A = "ws-a"
PROFILES = {name: ToolProfile(command=name) for name in ("aider", "codex", "claude", "ruff", "black", "editor")}


def mending(autofix=(), tiers=(), fix_tool=None, **rest):
    """A run of one workstream with these programs, and these tools after its own."""
    definition = spec([bundle(A)], profiles=PROFILES, **rest)
    checks = msgspec.structs.replace(definition.checks, autofix=autofix, fix_tiers=tiers, fix_tool=fix_tool)
    return msgspec.structs.replace(definition, checks=checks)


def fixes(play):
    return [(e.tool, e.fix.mechanical > 0) for e in play.of(StepScheduled) if e.step == "fix"]


def different():
    return [failed(f"e{n}") for n in range(50)]


def test_a_program_mends_before_any_tool_and_is_not_counted():
    play = Play(mending(autofix=("ruff",)), {(A, "static"): [failed()]}).play()
    assert play.steps_of(A)[:4] == ["edit", "static", "fix", "static"]
    assert fixes(play) == [("ruff", True)]
    assert play.states == {A: "completed"}
    assert play.state.workstreams[A].fix.fix_attempts == 0


def test_programs_run_one_after_another_before_the_tree_is_checked_again():
    play = Play(mending(autofix=("ruff", "black")), {(A, "static"): [failed()]}).play()
    assert play.steps_of(A)[:5] == ["edit", "static", "fix", "fix", "static"]
    inputs = [e.input.tree for e in play.of(StepScheduled) if e.step in {"fix", "static"}]
    assert inputs == ["ws-a-edit-1", "ws-a-edit-1", "ws-a-fix-3", "ws-a-fix-4"]


@pytest.mark.parametrize("error_class", ["no_change", "tool_missing", "tool_failed", "timeout", "permission_denied"])
def test_a_program_that_does_not_help_leads_on_without_another_check(error_class):
    script = {(A, "static"): [failed()], (A, "fix"): [broken(error_class), broken(error_class)]}
    play = Play(mending(autofix=("ruff", "black"), fix_tool="aider"), script).play()
    assert play.steps_of(A)[:6] == ["edit", "static", "fix", "fix", "fix", "static"]
    assert fixes(play) == [("ruff", True), ("black", True), ("aider", False)]
    assert play.states == {A: "completed"}


def test_what_a_program_changed_outside_the_scope_is_not_gone_on_with():
    outside = broken("scope_violation", violations=["x"], snapshot=Snapshot(commit="c" * 40, tree="bad"), changed=True)
    play = Play(mending(autofix=("ruff",)), {(A, "static"): [failed()], (A, "fix"): [outside]}).play()
    assert [e.input.tree for e in play.of(StepScheduled) if e.step == "fix"] == ["ws-a-edit-1"] * 2
    assert play.states == {A: "completed"}


def test_what_a_program_left_counts_as_one_failure_with_what_it_found():
    """The tool must get its chance although the error is the same as before the program."""
    play = Play(mending(autofix=("ruff",)), {(A, "static"): [failed("e1"), failed("e1")]}).play()
    assert fixes(play) == [("ruff", True), ("editor", False)]
    assert play.states == {A: "completed"}
    assert play.state.workstreams[A].fix.recent_signatures == ("e1",)


def test_programs_run_again_after_a_tool_has_changed_the_tree_and_not_otherwise():
    script = {(A, "static"): different(), (A, "fix"): [broken("no_change"), broken("tool_failed")]}
    play = Play(mending(autofix=("ruff",), breaker={"min_oscillation_repeats": 0}), script).play()
    once = [("ruff", True), ("editor", False), ("editor", False)]
    assert fixes(play) == [*once, ("ruff", True), ("editor", False), ("ruff", True)]
    [ended] = play.of(FixLoopEnded)
    assert ended.limit == "max_fix_iterations"


def test_a_red_runtime_is_nothing_for_programs():
    play = Play(mending(autofix=("ruff",)), {(A, "runtime"): [failed()]}).play()
    assert fixes(play) == [("editor", False)]


def test_a_program_that_dies_with_its_executor_is_run_again():
    play = Play(mending(autofix=("ruff",)), {(A, "static"): [failed()], (A, "fix"): [Lost]}).play()
    assert fixes(play) == [("ruff", True)] * 2
    assert play.states == {A: "completed"}


def test_each_tier_has_one_attempt_and_the_last_one_what_is_left():
    play = Play(mending(tiers=("codex", "claude"), fix_tool="aider"), {(A, "static"): different()}).play()
    assert fixes(play) == [("aider", False), ("codex", False), ("claude", False)]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["max_fix_iterations"]
    play = Play(
        mending(tiers=("codex",), breaker={"max_fix_iterations": {"static": 4}}), {(A, "static"): different()}
    ).play()
    assert [tool for tool, _ in fixes(play)] == ["editor", "codex", "codex", "codex"]


def test_going_round_in_circles_ends_a_tier_and_not_the_loop():
    same = [failed("e1")] * 9
    play = Play(mending(tiers=("codex", "claude")), {(A, "static"): same}).play()
    assert [tool for tool, _ in fixes(play)] == ["editor", "codex", "claude"]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["max_fix_iterations"]
    play = Play(mending(tiers=("codex",), breaker={"max_fix_iterations": {"static": 9}}), {(A, "static"): same}).play()
    assert [tool for tool, _ in fixes(play)] == ["editor", "codex"]
    assert [e.limit for e in play.of(FixLoopEnded)] == ["oscillation_signature"]


def test_each_loop_has_tiers_of_its_own():
    script = {(A, "static"): [failed("s1")], (A, "runtime"): [failed("r1"), failed("r2")]}
    play = Play(mending(tiers=("codex",)), script).play()
    assert [tool for tool, _ in fixes(play)] == ["editor", "editor", "codex"]


@pytest.mark.parametrize("error_class", ["rate_limited", "server_error", "network"])
def test_a_fix_that_could_not_be_made_takes_nothing_of_the_loop(error_class):
    """A provider that refuses, or cannot be reached, has not tried."""
    script = {(A, "static"): [failed()], (A, "fix"): [broken(error_class), broken(error_class)]}
    play = Play(mending(tiers=("codex",), recovery={"retries": 3, "waits": 3}), script).play()
    assert [tool for tool, _ in fixes(play)] == ["editor"] * 3
    assert play.states == {A: "completed"}
    assert play.state.workstreams[A].fix.fix_attempts == 1


def test_when_nothing_helps_the_work_awaits_a_person_with_its_last_tree():
    """Quarantine: nothing is merged, nothing is thrown away."""
    play = Play(mending(autofix=("ruff",), tiers=("codex",), review="wait"), {(A, "static"): different()})
    play.until_stuck()
    assert play.states == {A: "awaiting_review"}
    last = [e for e in play.of(StepScheduled) if e.step == "static"][-1].input.tree
    assert play.state.workstreams[A].latest == made(last).snapshot


@pytest.mark.parametrize("how", ["breaker", "paused", "missing"])
def test_a_program_that_cannot_be_used_now_is_passed_over(how):
    play = Play(mending(autofix=("ruff", "black"), review="wait"), {(A, "static"): [failed()]})
    seen = None
    match how:
        case "breaker":
            event = ToolBreakerOpened(
                tool="ruff", failures=5, until_ns=play.now_ns * 2, reason="exit 123", error_class="tool_failed"
            )
            tell(play.fleet, Place("run", "fleet"), event)
        case "paused":
            tell(play.fleet, Place("run", "fleet"), FleetPaused(scope="tool", name="ruff", actor="ann"))
        case _:
            seen = beating(play.now_ns, e1=("default", "ruff"))
    for _ in range(20):
        play.settle(seen)
        for key in sorted(play.state.open):
            play.act(*key)
    assert fixes(play) == [("black", True)]
    assert play.states == {A: "completed"}


def test_a_program_whose_breaker_opens_while_it_waits_is_passed_over_as_well():
    play = Play(mending(autofix=("ruff",), review="wait"), {(A, "static"): [failed()], (A, "fix"): [Lost]})
    while not (play.state and play.state.workstreams.get(A) and play.state.workstreams[A].failure):
        play.settle()
        play.act(*min(play.state.open))
    tell(play.fleet, Place("run", "fleet"), FleetPaused(scope="tool", name="ruff", actor="ann"))
    play.until_stuck()
    assert fixes(play)[-1] == ("editor", False)
    assert play.states == {A: "completed"}


def test_a_tool_that_recovery_chose_for_one_tier_is_not_that_of_the_next():
    profiles = PROFILES | {"aider": ToolProfile(command="aider", fallback=("editor",))}
    definition = mending(tiers=("codex", "claude"), fix_tool="aider", recovery={"retries": 0, "reductions": 0})
    play = Play(
        msgspec.structs.replace(definition, profiles=profiles),
        {(A, "static"): different(), (A, "fix"): [broken("refusal")]},
    ).play()
    assert [tool for tool, _ in fixes(play)] == ["aider", "editor", "codex", "claude"]


@pytest.mark.parametrize("key", ["autofix", "fix_tiers"])
def test_only_so_many_take_their_turn(key):
    named = ", ".join(f'"t{number}"' for number in range(21))
    with pytest.raises(ChecksError, match=f"{key} names 21 tools"):
        parse_checks(f"{key} = [{named}]".encode(), "swell.toml")
