"""What a run's definition implies, where no other test says it."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aim import AimTool, Registry, Route
from services.bundle import BundleGate, WorkstreamBundle
from services.checks import Checks
from services.gates import Gate
from services.profiles import ToolProfile
from services.spec import Definitions, Repository, RunSpec, decode_spec, encode_spec, ranges_with, ranges_without


@given(st.lists(st.integers(min_value=0, max_value=30)))
def test_ranges_hold_what_was_put_in_and_are_ascending_and_apart(indices):
    ranges = ()
    for index in indices:
        ranges = ranges_with(ranges, index)
    held = [index for start, end in ranges for index in range(start, end)]
    assert held == sorted(set(indices))
    assert all(start < end for start, end in ranges)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(ranges))


@given(st.sets(st.integers(min_value=0, max_value=30)), st.lists(st.integers(min_value=0, max_value=30)))
def test_ranges_lose_what_was_taken_out_and_nothing_else(indices, taken):
    ranges = ()
    for index in indices:
        ranges = ranges_with(ranges, index)
    for index in taken:
        ranges = ranges_without(ranges, index)
    assert [index for start, end in ranges for index in range(start, end)] == sorted(indices - set(taken))
    assert all(start < end for start, end in ranges)


# Which tools may do a step


def definitions(*, registry=True, fix_tool=None, fallbacks=("other", "gone"), **bundle) -> Definitions:
    """Two workstreams: `ws-a` as told, and `ws-b` without a capability."""
    common = {"openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "tasks": ("x",), "tool": "own"}
    told = {"capability": "refactoring", **bundle}
    spec = RunSpec(
        run="r1",
        repository=Repository(location="/r", base_commit="a" * 40),
        bundles=[
            WorkstreamBundle(id="ws-a", files_scope=("a",), **(common | told)),
            WorkstreamBundle(id="ws-b", files_scope=("b",), **common),
        ],
        waves=[["ws-a", "ws-b"]],
        checks=Checks(fix_tool=fix_tool),
        profiles={
            "own": ToolProfile(command="own", fallback=fallbacks),
            "mend": ToolProfile(command="mend", fallback=("other",)),
            **{name: ToolProfile(command=name) for name in ("other", "p", "q")},
        },
        registry=Registry(
            capabilities={"refactoring": Route(primary="one", fallback=("two",), timeout_ms=5000, max_retries=1)},
            tools={"one": AimTool(profile="p"), "two": AimTool(profile="q")},
        )
        if registry
        else msgspec.UNSET,
    )
    return Definitions(decode_spec(encode_spec(spec)))


@pytest.mark.parametrize(
    ("fields", "edit", "fix"),
    [
        ({}, "p q own other", "p q own other"),
        ({"tool": "q"}, "p q", "p q"),
        ({"tool": "unknown"}, "p q unknown", "p q unknown"),
        ({"fallbacks": ("p", "other")}, "p q own other", "p q own other"),
        ({"fix_tool": "mend"}, "p q own other", "mend other"),
        ({"fix_tool": "own"}, "p q own other", "own other"),
        ({"registry": False}, "own other", "own other"),
        ({"capability": "testing"}, "own other", "own other"),
        ({"capability": None}, "own other", "own other"),
    ],
)
def test_a_route_comes_before_the_tool_of_the_bundle_and_its_fallbacks(fields, edit, fix):
    found = definitions(**fields)
    assert " ".join(found.chain("ws-a", "edit")) == edit
    assert " ".join(found.chain("ws-a", "fix")) == fix
    assert found.chain("ws-b", "edit")[0] == "own"
    assert found.chain("ws-a", "edit") is found.chain("ws-a", "edit")


@pytest.mark.parametrize("step", ["static", "runtime", "merge", "gate", "deliver", "compensate"])
def test_only_what_changes_the_tree_has_tools_to_choose_from(step):
    assert definitions().chain("ws-a", step) == ()


def test_the_route_has_the_limits_of_the_payload():
    assert definitions().route("ws-a") == Route(primary="one", fallback=("two",), timeout_ms=5000, max_retries=1)
    own = definitions(capability_payload={"timeout_ms": 2500, "max_retries": 0}).route("ws-a")
    assert (own.timeout_s, own.max_retries) == (2.0, 0)
    assert definitions().routed("ws-a") == ("p", "q")
    for without in (definitions(registry=False), definitions(capability="testing"), definitions(capability=None)):
        assert (without.route("ws-a"), without.routed("ws-a")) == (None, ())


# Gates

STAND_FOR = {
    "GATE_LINT": Gate(tool="lint"),
    "GATE_UNIT": Gate(tool="unit", timeout_s=5.0),
    "GATE_INTEGRATION": Gate(tool="slow", wave_boundary=True),
    "GATE_SECURITY": Gate(tool="files", wave_boundary=True),
}
PROFILES = {
    "tool": ToolProfile(command="tool"),
    "static": ToolProfile(command="static"),
    "lint": ToolProfile(command="lint"),
    "unit": ToolProfile(command="unit", timeout_sec=60),
    "slow": ToolProfile(command="slow"),
    "files": ToolProfile(command="files", args=("{files}",)),
}


def asking(*types: str, **fields) -> tuple[BundleGate, ...]:
    return tuple(BundleGate(type=type_, **fields) for type_ in types)


def gated(*of_bundles, repository=(), gates=STAND_FOR, profiles=PROFILES, **bundle) -> Definitions:
    """One workstream for each tuple of gates, `ws-0` and so on, all in one wave; of its own each has no more."""
    common = {"openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "tasks": ("x",), "tool": "tool", **bundle}
    bundles = [
        WorkstreamBundle(id=f"ws-{number}", files_scope=(f"f{number}",), test_gates=own, **common)
        for number, own in enumerate(of_bundles)
    ]
    spec = RunSpec(
        run="r1",
        repository=Repository(location="/r", base_commit="a" * 40),
        bundles=bundles,
        waves=[[one.id for one in bundles]],
        checks=Checks(static_tools=("static",), test_gates=repository),
        profiles=profiles,
        gates=gates,
    )
    return Definitions(decode_spec(encode_spec(spec)))


def names(checks) -> list[str]:
    return [check.name for check in checks]


def test_gates_run_behind_runtime_or_at_the_wave_s_boundary_and_the_line_runs_what_is_required():
    found = gated(
        asking("GATE_UNIT", "GATE_INTEGRATION"),
        asking("GATE_LINT", "GATE_SECURITY", required=False),
        (),
        acceptance_tests=("true",),
    )
    assert [names(found.runtime(name)) for name in found.order] == [
        ["true", "GATE_UNIT"],
        ["true", "GATE_LINT"],
        ["true"],
    ]
    assert names(found.line([(0, 3)])) == ["static", "true", "GATE_UNIT"]
    assert names(found.line([(1, 3)])) == ["static", "true"]
    assert names(found.required("runtime", [(1, 2)])) == ["true"]
    assert names(found.asked("runtime", [(1, 2)])) == ["true", "GATE_LINT"]
    assert names(found.asked("static", [(0, 3)])) == ["static"]
    assert found.asked("gate", [(0, 3)]) == found.required("gate", [(0, 3)]) == found.line([(0, 3)])
    assert names(found.wave_gates([(0, 3)])) == ["GATE_INTEGRATION", "GATE_SECURITY"]
    assert names(found.wave_gates([(1, 3)])) == ["GATE_SECURITY"]
    assert found.wave_gates([(2, 3)]) == found.wave_gates([]) == []


def test_a_gate_is_required_and_blocking_where_one_workstream_that_asks_says_so():
    found = gated(
        asking("GATE_UNIT", required=False), asking("GATE_UNIT", blocking=False), asking("GATE_UNIT"), repository=()
    )
    (gate,) = found.runtime("ws-0")
    told = [
        (found.is_required(gate, ranges), found.is_blocking(gate, ranges))
        for ranges in ([(0, 1)], [(0, 2)], [(0, 1), (2, 3)], [])
    ]
    assert told == [(False, False), (True, False), (True, True), (False, False)]
    (static,) = found.static("ws-0")
    assert (found.is_required(static, [(0, 1)]), found.is_blocking(static, [(0, 1)])) == (True, True)


def test_what_the_repository_asks_for_every_workstream_has_unless_its_bundle_says_otherwise():
    found = gated((), asking("GATE_UNIT", required=False), repository=asking("GATE_UNIT", "GATE_INTEGRATION"))
    gate, lenient = found.runtime("ws-0"), found.runtime("ws-1")
    assert gate == lenient
    assert [found.is_required(gate[0], [(n, n + 1)]) for n in (0, 1)] == [True, False]
    assert names(found.wave_gates([(1, 2)])) == ["GATE_INTEGRATION"]
    alike = gated((), (), repository=asking("GATE_UNIT"))
    assert alike.line([(0, 2)]) == alike.line([(1, 2)])


def test_a_gate_s_identity_covers_its_profile_and_what_it_is_given():
    def identity(ranges=((0, 1),), *, command="unit", **gate):
        tools = PROFILES | {"unit": ToolProfile(command=command, timeout_sec=60)}
        stand_for = STAND_FOR | {"GATE_UNIT": Gate(**{"tool": "unit", **gate})}
        return gated(asking("GATE_UNIT"), (), gates=stand_for, profiles=tools).line(ranges)[-1].check

    same = identity()
    assert same == identity() == identity(timeout_s=60.0) == identity(((0, 2),))
    others = [identity(command="other"), identity(timeout_s=5.0), identity(tool="lint"), identity(tool="files")]
    assert len({same, *others, identity(((0, 2),), tool="files")}) == 6


def test_a_gate_is_called_by_the_profile_that_its_type_stands_for_within_its_own_time():
    found = gated(asking("GATE_UNIT", "GATE_LINT"))
    unit, lint = found.runtime("ws-0")
    assert (found.tool(unit), found.profile(unit).timeout_sec, found.profile(unit).command) == ("unit", 5.0, "unit")
    assert (found.tool(lint), found.profile(lint)) == ("lint", PROFILES["lint"])
    assert found.is_strict(unit, [(0, 1)])
    (static,) = found.static("ws-0")
    assert (found.tool(static), found.profile(static)) == ("static", PROFILES["static"])


def test_a_type_that_stands_for_nothing_is_no_check():
    """Only an amended or an older definition could have one: a submission is refused for it."""
    found = gated(asking("GATE_UNIT"), gates={"GATE_LINT": Gate(tool="gone")})
    assert found.runtime("ws-0") == found.wave_gates([(0, 1)]) == []
