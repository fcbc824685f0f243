"""What a run's definition implies, where no other test says it."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aim import AimTool, Registry, Route
from services.bundle import WorkstreamBundle
from services.checks import Checks
from services.profiles import ToolProfile
from services.spec import Definitions, Repository, RunSpec, decode_spec, encode_spec, ranges_with


@given(st.lists(st.integers(min_value=0, max_value=30)))
def test_ranges_hold_what_was_put_in_and_are_ascending_and_apart(indices):
    ranges = ()
    for index in indices:
        ranges = ranges_with(ranges, index)
    held = [index for start, end in ranges for index in range(start, end)]
    assert held == sorted(set(indices))
    assert all(start < end for start, end in ranges)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(ranges))


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
