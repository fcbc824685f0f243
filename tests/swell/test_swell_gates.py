"""The repository's gates on their way into a run: read at the base commit, refused where they cannot be used."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_repository import bundle, git

from services.gates import Gate
from services.scheduler.config import SchedulerConfig
from services.scheduler.submission import Header, Submissions
from services.spec import Definitions
from swell.errors import SwellError
from swell.listing import attempt_lines, local_plan
from swell.settings import RunSettings, in_force
from swell.submission import assemble, load_bundles
from swell.values import Attempt

SETTINGS = 'gates_file = "tools/gates.yaml"\ntest_gates = [{type = "GATE_UNIT"}]\n'


@pytest.fixture
def gated(repo: Path) -> Callable[..., Path]:
    """The repository with this file of gates committed, or without it."""

    def commit(gates: str | None, settings: str = SETTINGS) -> Path:
        (repo / "swell.toml").write_text(settings)
        if gates is not None:
            (repo / "tools").mkdir()
            (repo / "tools" / "gates.yaml").write_text(gates)
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", "gates")
        return repo

    return commit


def submitted(repo: Path, bundles: Path) -> Any:
    """What the client sends."""
    return assemble(load_bundles(bundles), repo=repo, settings=in_force(RunSettings()), allow_dirty=True).header


def test_a_run_s_gates_are_those_of_its_base_commit(gated: Callable[..., Path], bundles: Callable[..., Path]) -> None:
    repo = gated("GATE_UNIT: {tool: mypy, timeout_s: 9}\n")
    (repo / "tools" / "gates.yaml").write_text("GATE_UNIT: {tool: echo}\n")
    header = submitted(repo, bundles(bundle("ws-a")))
    sent = Header(
        request_id="request-1",
        location="/repo",
        base_commit=header.base_commit,
        checks_toml=header.checks_toml,
        gates_json=header.gates_json,
    )
    wanted = bundle("ws-a") | {"tool": "echo", "test_gates": [{"type": "GATE_INTEGRATION", "required": False}]}
    spec = Submissions(SchedulerConfig()).plan(sent, [("a.json", json.dumps([wanted]).encode())]).spec
    assert spec is not None
    assert spec.gates["GATE_UNIT"] == Gate(tool="mypy", timeout_s=9.0)
    definitions = Definitions(spec)
    assert [check.name for check in definitions.runtime("ws-a")] == ["GATE_UNIT"]
    assert [check.name for check in definitions.wave_gates([(0, 1)])] == ["GATE_INTEGRATION"]


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        (None, "names the gates tools/gates.yaml, which the base commit does not have"),
        ("GATE_MAGIC: {tool: x}", "tools/gates.yaml at"),
        ("GATE_UNIT: {tool: x, when: now}", "when"),
        ("- x", "must hold a mapping"),
        ("x: [", "not YAML"),
    ],
)
def test_a_file_of_gates_that_cannot_be_used_refuses_run_and_plan(
    gated: Callable[..., Path], bundles: Callable[..., Path], gates: str | None, said: str
) -> None:
    repo, wanted = gated(gates), bundles(bundle("ws-a"))
    for refused in (lambda: submitted(repo, wanted), lambda: local_plan(wanted, repo)):
        with pytest.raises(SwellError, match=re.escape(said)) as raised:
            refused()
        assert (raised.value.reason, raised.value.remedy != "") == ("BAD_GATES", True)


@pytest.mark.parametrize(
    ("settings", "own", "valid"),
    [
        (SETTINGS, [], True),
        (SETTINGS, [{"type": "GATE_UNIT", "required": False}], False),
        ("", [{"type": "GATE_SECURITY"}], True),
        ("", [{"type": "GATE_SECURITY", "required": False}], False),
    ],
)
def test_plan_knows_gates_as_checks(
    gated: Callable[..., Path], bundles: Callable[..., Path], settings: str, own: list[dict[str, Any]], valid: bool
) -> None:
    wanted = bundles(bundle("ws-a") | {"test_gates": own})
    found = local_plan(wanted, gated("{}", settings))
    assert [finding.code for finding in found.errors] == ([] if valid else ["NO_CHECKS"])


def test_show_tells_what_gates_said_and_counted() -> None:
    checks = [
        {"name": "GATE_UNIT", "outcome": "failed", "tests": 4, "failures": 1, "message": "a.py:1: no"},
        {"name": "GATE_LINT", "outcome": "failed", "optional": True},
        {"name": "GATE_SECURITY", "outcome": "passed", "optional": True},
    ]
    plain = {
        field.name: field.type() for field in msgspec.structs.fields(Attempt) if field.type in {str, int, bool, float}
    }
    told = {"checks_json": json.dumps(checks), "exit_code": None, "files": [], "artifacts": []}
    attempt = Attempt(**(plain | told))
    assert [line.strip() for line in attempt_lines(attempt) if "GATE" in line] == [
        "check GATE_UNIT: failed, 4 tests, 1 failed, 0 skipped: a.py:1: no",
        "check GATE_LINT: failed (a warning)",
        "check GATE_SECURITY: passed",
    ]
