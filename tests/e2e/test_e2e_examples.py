"""The shipped examples, run by the command line as a user would, and judged by git, pytest and ruff themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lab import CHECKOUT, Lab, Outcome, git, witness

from examples.materialise import materialise
from examples.thirdparty.make import make

EXAMPLES = CHECKOUT / "examples"


class Told(msgspec.Struct, frozen=True):
    """What `swell run --json` said, and the run as the ledger knows it."""

    exit_code: int
    lines: list[dict[str, Any]]
    summary: dict[str, Any]
    outcome: Outcome
    before: dict[str, Any]


def run_example(lab: Lab, repo: Path, workstreams: Path, profiles: Path, *options: str) -> Told:
    before = witness(repo)
    command = ["run", workstreams, "--repo", repo, "--tool-profiles", profiles, *options]
    done = lab.swell(*command, "--context", f"example_tools={EXAMPLES / 'tools'}", "--json")
    assert done.stdout, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    bundles = [json.loads(file.read_text()) for file in workstreams.glob("*.json")]
    outcome = lab.outcome(lines[-1]["run"], repo, bundles)
    return Told(done.returncode, lines[:-1], lines[-1], outcome, before)


@pytest.fixture(scope="module")
def modernised(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Told:
    repo = materialise("modernise", tmp_path_factory.mktemp("modernise") / "repo")
    (repo / "src" / "parcelkit" / "units.py").write_text((repo / "src/parcelkit/units.py").read_text() + "# mine\n")
    git(repo, "stash", "push", "--quiet")
    git(repo, "branch", "mine")
    git(repo, "tag", "v1")
    return run_example(lab, repo, EXAMPLES / "modernise/workstreams", EXAMPLES / "modernise/tool_profiles.json")


@pytest.fixture(scope="module")
def blocked(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Told:
    repo = materialise("blocked", tmp_path_factory.mktemp("blocked") / "repo")
    profiles = EXAMPLES / "modernise/tool_profiles.json"
    return run_example(lab, repo, EXAMPLES / "blocked/workstreams", profiles, "--review", "fail")


def test_modernise_completes(modernised: Told) -> None:
    """Exit code 0; at least six workstreams in at least three waves, every one of them merged."""
    assert modernised.exit_code == 0
    assert modernised.summary["exit_code"] == 0
    assert modernised.summary["state"] == "completed"
    states = modernised.outcome.states()
    assert len(states) >= 6
    assert set(states.values()) == {"completed"}
    assert len(modernised.outcome.payloads("wave_started")) >= 3
    assert sorted(modernised.outcome.merged()) == sorted(states)


def test_modernise_repairs_what_a_check_found(modernised: Told) -> None:
    """A FIX loop of STATIC and one of RUNTIME ended green."""
    fixed = {fact["fix"]["step"] for fact in modernised.outcome.payloads("step_scheduled", step="fix")}
    assert fixed == {"static", "runtime"}
    assert modernised.outcome.payloads("fix_loop_ended") == []
    assert sum(item["fix_iterations"] for item in modernised.summary["workstreams"].values()) >= 2


def test_modernise_takes_no_known_verdict_again(modernised: Told) -> None:
    """At least one gate was passed by a verdict that its tree had already."""
    assert modernised.outcome.payloads("step_skipped", reason="verdict_reused")


def test_json_output_is_the_recorded_events(modernised: Told) -> None:
    """What `--json` prints is what the ledger lists, event for event."""
    listed = [(event.position, event.index, event.kind) for event in modernised.outcome.events]
    assert [(line["position"], line["index"], line["kind"]) for line in modernised.lines] == listed


def test_modernise_delivers_a_green_branch(modernised: Told, tmp_path: Path) -> None:
    """Somebody else's clone of the branch is clean under ruff and pytest, and was not before."""
    repo = modernised.outcome.repo
    clone = tmp_path / "clone"
    branch = modernised.summary["branch"]
    assert branch == f"swell/{modernised.summary['run']}"
    git(tmp_path, "clone", "--quiet", "--branch", branch, str(repo), str(clone))
    assert git(clone, "rev-parse", "HEAD") == modernised.summary["commit"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"}

    def exit_code(*command: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=clone, env=environment, capture_output=True, check=False, timeout=60
        ).returncode

    changed = sorted(modernised.outcome.delivered_files())
    lint = ["ruff", "check", "--no-cache", "--", *changed]
    suite = ["pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "src", "tests"]
    assert exit_code(*lint) == 0
    assert exit_code(*suite) == 0
    git(clone, "checkout", "--quiet", "origin/main")
    assert exit_code(*(word for word in lint if (clone / word).exists() or "/" not in word)) == 1
    assert exit_code(*suite) == 1


def test_modernise_leaves_the_checkout_alone(modernised: Told) -> None:
    """HEAD, branches, tags, index, stash, status, configuration, hooks and every file are as they were."""
    assert witness(modernised.outcome.repo) == modernised.before


def test_each_commit_of_the_line_names_its_workstream(modernised: Told) -> None:
    repo, run = modernised.outcome.repo, modernised.outcome.run
    log = git(
        repo, "log", "--reverse", "--format=%(trailers:key=Swell-Workstream,valueonly)", f"main..{run.delivered_ref}"
    )
    assert log.split() == modernised.outcome.merged()


def test_blocked_ends_with_exit_code_1(blocked: Told) -> None:
    """What failed says why, what depends on it is blocked by name, and the rest is delivered."""
    assert blocked.exit_code == 1
    assert blocked.summary["state"] == "partial"
    assert blocked.outcome.states() == {
        "ws-labels": "failed", "ws-manifests": "blocked", "ws-dispatch": "blocked", "ws-tables": "completed",
        "ws-units": "completed",
    }  # fmt: skip
    for dependent in ("ws-manifests", "ws-dispatch"):
        assert blocked.summary["workstreams"][dependent]["reason"] == "dependency ws-labels failed"
        assert blocked.outcome.of(dependent) == []
    reason = blocked.summary["workstreams"]["ws-labels"]["reason"]
    (ended,) = blocked.outcome.payloads("fix_loop_ended")
    assert ended["limit"].startswith("oscillation")
    assert ended["limit"] in reason
    assert "static" in reason
    assert sorted(blocked.outcome.merged()) == ["ws-tables", "ws-units"]
    assert not any("labels" in path for path in blocked.outcome.delivered_files())
    assert witness(blocked.outcome.repo) == blocked.before


def test_a_failure_names_the_check_and_what_is_wrong(lab: Lab, blocked: Told) -> None:
    """The run's last lines for people hold the failing check and its first finding."""
    shown = lab.swell("watch", blocked.summary["run"])
    assert shown.returncode == 1
    assert "mypy: src/parcelkit/labels.py:" in shown.stdout
    assert "dependency ws-labels failed" in shown.stdout
    assert f"branch: {blocked.summary['branch']}" in shown.stdout


def test_a_third_party_package_is_modernised(lab: Lab, tmp_path: Path) -> None:
    """Three codemods on a package of more than 5,000 lines that nobody prepared for this."""
    repo = tmp_path / "rich"
    make("rich", repo)
    lines = sum(file.read_bytes().count(b"\n") for file in (repo / "rich").rglob("*.py"))
    assert lines >= 5_000
    told = run_example(lab, repo, repo / "workstreams", EXAMPLES / "thirdparty/tool_profiles.json")
    assert told.exit_code == 0
    assert list(told.outcome.states().values()) == ["completed"] * 3
    scope = {
        path for file in (repo / "workstreams").glob("*.json") for path in json.loads(file.read_text())["files_scope"]
    }
    assert set() < told.outcome.delivered_files() <= scope
    assert witness(repo) == told.before
