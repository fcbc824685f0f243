"""The report on a plan: stable codes, nothing hidden, nothing done."""

import json

import pytest

from services.aim import AimTool, Registry, Route, Security
from services.bundle import BundleGate, WorkstreamBundle
from services.plan import validate_plan

QUIET = {"max_cost_usd": 0.1, "estimated_context_tokens": 10}


def ws(id_, *needs, files=None, **fields):
    return WorkstreamBundle(
        id=id_,
        openspec_change="OS-1",
        ccpm_issue=1,
        gate=1,
        files_scope=tuple(files or [f"src/{id_}.py"]),
        tasks=("Do it",),
        tool="tool",
        depends_on=needs,
        **fields,
    )


def report(*bundles, known_tools=frozenset({"tool"}), checked=True, max_workers=4, registry=None):
    return validate_plan(
        bundles,
        known_tools=known_tools,
        max_workers=max_workers,
        checks_present=lambda _: checked,
        registry=registry,
    )


def found(findings, code):
    return [finding.workstream for finding in findings if finding.code == code]


def test_a_sound_plan_is_valid():
    told = report(ws("ws-a", **QUIET), ws("ws-b", **QUIET))
    assert told.valid
    assert told.errors == []
    assert told.plan is not None
    assert told.what_if == {1: 2, 2: 1, 4: 1, 8: 1, 16: 1, 32: 1}
    assert told.total_cost_limit_usd == "0.2"


def test_errors_in_the_dependencies_leave_no_plan():
    told = report(ws("ws-a", "ws-b"), ws("ws-b", "ws-a"), ws("ws-c", "ws-x"))
    assert not told.valid
    assert told.plan is None
    assert found(told.errors, "CYCLE") == ["ws-a"]
    assert found(told.errors, "UNKNOWN_DEPENDENCY") == ["ws-c"]
    assert told.what_if == {}
    assert "NOT VALID" in told.to_text()


def test_every_unknown_tool_is_an_error():
    bundle = ws("ws-a", metadata={"swell": {"static_tools": ["ruff", "tool"], "runtime_tool": "x", "fix_tool": "y"}})
    told = report(bundle)
    assert [e.message for e in told.errors] == [f"there is no tool profile '{tool}'" for tool in ("ruff", "x", "y")]
    assert found(report(bundle, known_tools=None).errors, "UNKNOWN_TOOL") == []


def test_a_workstream_without_checks_is_an_error_unless_it_says_so():
    told = report(ws("ws-a"), ws("ws-b", metadata={"swell": {"gates": "none"}}), checked=False)
    assert found(told.errors, "NO_CHECKS") == ["ws-a"]


def test_what_is_not_enforced_is_named():
    told = report(
        ws("ws-a", test_gates=(BundleGate(type="GATE_LINT"),)),
        ws("ws-d", capability="testing", compensation_actions=("cmd:undo",), circuit_breaker={"max_tries": 3}),
    )
    assert told.valid
    assert found(told.warnings, "NOT_ENFORCED") == ["ws-d"]


def test_a_gate_that_is_asked_for_twice_is_an_error():
    told = report(
        ws("ws-a", test_gates=(BundleGate(type="GATE_LINT"), BundleGate(type="GATE_UNIT"))),
        ws("ws-b", test_gates=(BundleGate(type="GATE_LINT"), BundleGate(type="GATE_LINT", required=False))),
    )
    assert found(told.errors, "DUPLICATE_GATE") == ["ws-b"]


ROUTED = Registry(
    capabilities={
        "refactoring": Route(primary="a", context_requirements={"prompt": "required", "language": "required"}),
        "linting": Route(primary="a"),
    },
    tools={"a": AimTool(profile="tool")},
    security=Security(forbidden_paths=("secret",), max_payload_size_bytes=200, max_file_count=3),
)


def test_a_capability_that_nothing_routes_is_a_warning_that_names_what_is_done():
    bundles = [ws("ws-a", capability="testing"), ws("ws-b", capability="linting"), ws("ws-c")]
    for registry, workstreams in ((None, ["ws-a", "ws-b"]), (ROUTED, ["ws-a"])):
        told = report(*bundles, registry=registry)
        assert told.valid
        assert sorted(found(told.warnings, "NOT_ROUTED")) == workstreams
        assert all("its own tool is used" in f.message for f in told.warnings if f.code == "NOT_ROUTED")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"capability_payload": {"language": "python"}}, None),
        ({}, "MISSING_CONTEXT"),
        ({"capability_payload": {"language": ""}}, "MISSING_CONTEXT"),
        ({"capability_payload": {"language": "x" * 200}}, "PAYLOAD_TOO_LARGE"),
        ({"capability": "linting", "files": ["a", "b", "c", "d"]}, "TOO_MANY_FILES"),
        ({"capability": "linting", "files": ["a", "b"], "files_create": ("c", "d")}, "TOO_MANY_FILES"),
        ({"capability": "linting", "files_create": ("secret/x",)}, "FORBIDDEN_PATH"),
        ({"capability": "linting", "capability_payload": {"files": ["../x"]}}, "FORBIDDEN_PATH"),
        ({"capability": "testing", "files": ["secret"]}, None),
        ({"capability": None, "files": ["secret"]}, None),
    ],
)
def test_what_a_route_or_its_limits_do_not_allow_refuses_the_workstream(fields, code):
    told = report(ws("ws-a", **{"capability": "refactoring", **fields}), registry=ROUTED)
    assert [(f.code, f.workstream) for f in told.errors] == ([(code, "ws-a")] if code else [])
    assert all(f.remedy and f.message.startswith("capability ") for f in told.errors)


def test_only_independent_overlaps_are_warned_about():
    told = report(
        ws("ws-a", files=["src"]),
        ws("ws-b", "ws-a"),
        ws("ws-c", "ws-b", files=["src/x.py"]),
        ws("ws-d", files=["src/*.py"]),
        ws("ws-e", files=["docs"]),
    )
    assert sorted(found(told.warnings, "SCOPE_OVERLAP")) == ["ws-a", "ws-b", "ws-c"]
    assert all("ws-d" in w.message for w in told.warnings if w.code == "SCOPE_OVERLAP")


def test_many_findings_of_a_kind_are_counted():
    told = report(*(ws(f"ws-{n:02}", files=["same.py"]) for n in range(15)))
    for code in ("NO_COST_LIMIT", "NO_CONTEXT_ESTIMATE", "SINGLETON_WAVE", "SCOPE_OVERLAP"):
        listed = found(told.warnings, code)
        assert len(listed) == 11
        assert listed[-1] == ""
    overlaps = [w.message for w in told.warnings if w.code == "SCOPE_OVERLAP"]
    assert overlaps[-1].startswith(f"and {15 * 14 // 2 - 10} more")


def test_an_empty_plan_is_warned_about():
    assert [w.code for w in report().warnings] == ["EMPTY_PLAN"]
    assert "0 workstreams" in report().to_text()


def test_the_sum_of_limits_is_exact():
    assert report(*(ws(f"ws-{n}", max_cost_usd=0.1) for n in range(3))).total_cost_limit_usd == "0.3"


@pytest.mark.parametrize(("workers", "steps"), [(1, 11), (3, 5), (5, 3), (100, 2)])
def test_what_if_counts_unit_steps_wave_by_wave(workers, steps):
    told = report(*(ws(f"ws-{n}") for n in range(10)), ws("ws-z", "ws-0"), max_workers=workers)
    assert told.what_if[workers] == steps


def test_text_and_json_carry_the_same_findings():
    told = report(ws("ws-a"), ws("ws-b", "ws-a"))
    text, data = told.to_text(), json.loads(told.to_json())
    assert data["plan"]["waves"] == [["ws-a"], ["ws-b"]]
    assert data["what_if"]["4"] == 2
    assert {w["code"] for w in data["warnings"]} == {w.code for w in told.warnings}
    assert all(w["code"] in text for w in data["warnings"])
    assert text == told.to_text()
