"""When the scheduler has gates run: behind RUNTIME on a workstream's tree, the required ones again on merged trees."""

import msgspec
from scheduler_harness import LINE, Play, bundle, failed, spec

from services.bundle import BundleGate
from services.events import CheckResult, StepFinished, StepScheduled
from services.gates import Gate
from services.profiles import ToolProfile
from services.spec import Definitions

STAND_FOR = {"GATE_UNIT": Gate(tool="unit"), "GATE_LINT": Gate(tool="lint")}
PROFILES = {name: ToolProfile(command=name) for name in ("editor", "unit", "lint")}


def run(*bundles, test_gates=()):
    definition = spec(bundles, static=(), runtime=None, profiles=PROFILES)
    checks = msgspec.structs.replace(definition.checks, test_gates=test_gates)
    return msgspec.structs.replace(definition, checks=checks, gates=STAND_FOR)


def gate(type_, **fields):
    return BundleGate(type=type_, **fields)


def asked(play, step, workstream):
    return [
        [check.name for check in event.checks]
        for event in play.of(StepScheduled)
        if event.step == step and event.workstream == workstream
    ]


def test_gates_run_as_runtime_and_what_is_required_again_on_each_merged_tree():
    own = (gate("GATE_LINT", required=False), gate("GATE_UNIT"))
    play = Play(run(bundle("ws-a", test_gates=own), bundle("ws-b"))).play()
    assert play.states == {"ws-a": "completed", "ws-b": "completed"}
    assert asked(play, "runtime", "ws-a") == [["GATE_LINT", "GATE_UNIT"]]
    assert asked(play, "runtime", "ws-b") == []
    assert asked(play, "gate", LINE) == [["GATE_UNIT"]]  # ws-a alone is the tree that has passed it


def test_a_red_gate_is_mended_by_fix_and_a_warning_by_nobody():
    definition = run(bundle("ws-a"), test_gates=(gate("GATE_UNIT"), gate("GATE_LINT", required=False)))
    play = Play(definition, {("ws-a", "runtime"): [failed()]}).play()
    assert asked(play, "runtime", "ws-a") == [["GATE_UNIT", "GATE_LINT"]] * 2
    assert [step for step in play.steps_of("ws-a") if step in {"edit", "runtime", "fix"}] == [
        "edit",
        "runtime",
        "fix",
        "runtime",
    ]
    assert play.states == {"ws-a": "completed"}
    unit, lint = Definitions(definition).runtime("ws-a")
    warned = StepFinished(
        ok=True,
        checks=[
            CheckResult(check=unit.check, kind=unit.kind, name=unit.name, outcome="passed"),
            CheckResult(check=lint.check, kind=lint.kind, name=lint.name, outcome="failed", optional=True),
        ],
    )
    play = Play(definition, {("ws-a", "runtime"): [warned]}).play()
    assert "fix" not in play.steps_of("ws-a")
    assert play.states == {"ws-a": "completed"}
    [scheduled] = [event for event in play.of(StepScheduled) if event.step == "runtime"]
    assert play.state.verdicts[scheduled.input.tree] == {unit.check}
