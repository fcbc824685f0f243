"""What gates say of a tree: what they stop, what they only warn of, and what is no verdict."""

import msgspec
import pytest
from executor_rig import Run, sh

from services.bundle import BundleGate
from services.checks import Checks
from services.gates import Gate
from services.profiles import Report, ToolProfile
from services.spec import Definitions

LINES = Report(format="pattern", pattern=r"(?P<file>[^:]*):(?P<line>\d+): (?P<message>.*)")
JUNIT = Report(format="junit-xml", source="{scratch}/junit.xml")
FINDS = "echo 'a.txt:3: wrong'; exit 1"
TYPES = ("GATE_LINT", "GATE_UNIT", "GATE_INTEGRATION", "GATE_SECURITY")


def gated(tmp_path, tools, runtime=None, **asked) -> Run:
    """A run whose gates are judged by these tools, of the types in order; `asked` says how by the end of a type."""
    types = TYPES[: len(tools)]
    profiles = dict(zip(types, tools, strict=True))
    test_gates = tuple(BundleGate(type=type_, **asked.get(type_[5:].lower(), {})) for type_ in types)
    run = Run(tmp_path, profiles | ({"runtime": runtime} if runtime else {}), test_gates=test_gates)
    run.spec = msgspec.structs.replace(
        run.spec,
        checks=Checks(runtime_tool="runtime" if runtime else None),
        gates={type_: Gate(tool=type_) for type_ in types},
    )
    return run


async def judged(bench, run, **fields):
    checks = fields.pop("checks", None) or Definitions(run.spec).runtime("ws-a")
    return await bench.do(run, "runtime", checks=checks, **fields)


def verdicts(done) -> list[tuple[str, str, bool]]:
    found = sorted(done.checks, key=lambda check: TYPES.index(check.name) if check.name in TYPES else -1)
    return [(check.name[5:].lower(), check.outcome, check.optional) for check in found]


NOT_REQUIRED = {"required": False}
NOT_BLOCKING = {"blocking": False}


@pytest.mark.parametrize(
    ("asked", "ok", "outcomes"),
    [
        ({}, False, ["failed"]),
        (NOT_BLOCKING, False, ["failed", "passed"]),
        (NOT_REQUIRED, True, ["failed", "passed"]),
        (NOT_REQUIRED | NOT_BLOCKING, True, ["failed", "passed"]),
    ],
)
async def test_a_blocking_gate_stops_a_required_one_fails_at_the_end_any_other_warns(
    bench, tmp_path, asked, ok, outcomes
):
    run = gated(tmp_path, [sh(FINDS, report=LINES), sh("true")], lint=asked)
    done = await judged(bench, run)
    assert (done.ok, done.error_class) == (ok, None if ok else "check_failed")
    assert [outcome for _, outcome, _ in verdicts(done)] == outcomes
    assert bool(done.signature) is not ok
    assert done.message == ("warning: " * ok) + "GATE_LINT: a.txt:3: wrong"
    told = msgspec.json.decode(await bench.read(done, "diagnostics"))
    assert [(one["tool"], one["path"]) for one in told["tolerated" if ok else "diagnostics"]] == [
        ("GATE_LINT", "a.txt")
    ]
    assert told["diagnostics" if ok else "tolerated"] == []


@pytest.mark.parametrize(
    ("tool", "error_class", "said"),
    [
        (ToolProfile(command="no-such-program"), "check_error", "tool_missing"),
        (sh("kill -9 $$"), "check_error", "signal"),
        (sh("exit 0", report=JUNIT), "check_error", "junit.xml"),
        (sh("echo nothing; exit 1", report=LINES), "check_error", "reported no error"),
        (sh("sleep 20", timeout_sec=0.2), "timeout", "0.2"),
    ],
)
@pytest.mark.parametrize("required", [True, False])
async def test_a_gate_that_cannot_judge_has_not_passed(bench, tmp_path, tool, error_class, said, required):
    run = gated(tmp_path, [tool, sh("true")], lint={"required": required})
    done = await judged(bench, run)
    assert verdicts(done)[0] == ("lint", "error", not required)
    assert len(done.checks) == (1 if required else 2)
    assert (done.ok, done.error_class) == ((False, error_class) if required else (True, None))
    assert said in done.message


async def test_a_red_runtime_tool_keeps_no_gate_from_its_say(bench, tmp_path):
    run = gated(tmp_path, [sh("true"), sh("exit 1")], runtime=sh("exit 1", "x"))
    done = await judged(bench, run)
    assert (done.ok, verdicts(done)[0][1:]) == (False, ("failed", False))
    assert verdicts(done)[1:] == [("lint", "passed", False), ("unit", "failed", False)]


async def test_what_the_same_tool_has_said_is_not_asked_again(bench, tmp_path):
    tool = sh(f"echo ran >> {tmp_path}/ran; {FINDS}", report=LINES)
    run = gated(tmp_path, [tool, tool], runtime=tool, lint=NOT_REQUIRED)
    done = await judged(bench, run)
    assert (tmp_path / "ran").read_text() == "ran\n"
    said = {check.name: (check.outcome, check.optional, check.message) for check in done.checks}
    assert said == {
        "runtime": ("failed", False, "a.txt:3: wrong"),
        "GATE_LINT": ("failed", True, "as runtime: a.txt:3: wrong"),
        "GATE_UNIT": ("failed", False, "as runtime: a.txt:3: wrong"),
    }


async def test_a_warning_is_no_verdict_for_a_gate_that_is_required(bench, tmp_path):
    """Otherwise it would fail without a finding that tells why."""
    tool = sh(f"echo ran >> {tmp_path}/ran; {FINDS}", report=LINES)
    done = await judged(bench, gated(tmp_path, [tool, tool], lint=NOT_REQUIRED))
    assert (tmp_path / "ran").read_text() == "ran\nran\n"
    assert (done.ok, done.findings, bool(done.signature)) == (False, 2, True)


REPORT = """<testsuite name='t'><testcase name='a'/><testcase name='b'><skipped/></testcase>
<testcase name='c'><failure message='no'/><error message='nor this'/></testcase></testsuite>"""


async def test_counts_of_a_report_stand_in_the_verdict(bench, tmp_path):
    writes = sh(f'cat > "$1" <<E\n{REPORT}\nE\nexit 1', "{scratch}/junit.xml", report=JUNIT)
    done = await judged(bench, gated(tmp_path, [writes, sh("exit 0")], lint=NOT_BLOCKING))
    counted = {check.name: (check.tests, check.failures, check.skipped) for check in done.checks}
    assert counted == {"GATE_LINT": (3, 1, 1), "GATE_UNIT": (None, None, None)}


async def test_the_line_runs_a_wave_s_gates_on_the_whole_tree_and_puts_back_what_they_change(bench, tmp_path):
    run = gated(tmp_path, [sh(f"ls > {tmp_path}/seen; echo x > a.txt; {FINDS}", "x", report=LINES)])
    gates = {"GATE_LINT": Gate(tool="GATE_LINT", wave_boundary=True)}
    run.spec = msgspec.structs.replace(run.spec, gates=gates)
    definitions = Definitions(run.spec)
    assert (definitions.runtime("ws-a"), definitions.line([(0, 1)])) == ([], [])
    command = await run.command(bench.artifacts, "gate", checks=definitions.wave_gates([(0, 1)]), merged=[(0, 1)])
    step = msgspec.structs.replace(command.step, workstream="_line")
    done = await bench.steps.run(msgspec.structs.replace(command, step=step))
    assert (done.ok, done.error_class, verdicts(done)) == (False, "check_failed", [("lint", "failed", False)])
    assert (tmp_path / "seen").read_text().split() == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert done.discarded == ["a.txt"]
    assert "diagnostics" in {artifact.role for artifact in done.artifacts}


async def test_a_step_of_every_check_runs_the_gates_that_warn_as_well(bench, tmp_path):
    run = gated(tmp_path, [sh("true"), sh("exit 1")], unit=NOT_REQUIRED)
    done = await bench.do(run, "runtime", every_check=True)
    assert (done.ok, verdicts(done)) == (True, [("lint", "passed", False), ("unit", "failed", True)])
