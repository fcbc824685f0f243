"""Every Python snippet of the contract runs as it stands there, on a real cluster with small real tools.

The snippets are data (seed_snippets.txt). Of their text only this is replaced: names of modules by `swell`, the run's id
by one that nobody has used, and the path that stands for a worktree.
"""

import itertools
import json
import os
import re
import shlex
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, bundle, git

import swell
from swell.metrics import STEPS, WORKSTREAMS_MAX

SNIPPETS: dict[str, str] = dict(
    re.findall(
        r"^## ([^\n]+)\n\n```python\n(.*?)^```$",
        (Path(__file__).parent / "seed_snippets.txt").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
)
MODULES = re.compile(r"\b(?:core\.(?:engine|state)|src\.pipeline)\.\w+")
WORKSTREAMS = ("ws-feature-auth", "ws-db-setup", "ws-api-routes")
AIDER = {
    "binary": "{python}",
    "args": ["-c", "import sys; [open(f, 'a').write('X = 2\\n') for f in sys.argv[1:]]", "{files}"],
    "env": {"AIDER_NO_GIT": "1"},
    "timeout_sec": 300,
}

_numbers = itertools.count()


class Desk:
    """A folder as the snippets expect it around them: a repository with bundles, tool profiles, and an aider on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "desk"
        self.run = f"seed-{os.getpid()}-{next(_numbers)}"
        for part in ("src", "config", "workstreams/examples", "bin"):
            (self.root / part).mkdir(parents=True)
        for name in ("auth", "db", "api"):
            (self.root / "src" / f"{name}.py").write_text("A = 1\n")
        (self.root / "unique").write_text(str(folder))
        (self.root / "config/tool_profiles.json").write_text(json.dumps({**PROFILES, "aider": AIDER}))
        (self.root / "swell.toml").write_text(
            'static_tools = ["no-bad"]\ntool_profiles = "config/tool_profiles.json"\n'
        )
        self.bundles = {
            "ws-feature-auth": bundle("ws-feature-auth", "repair", "src/auth.py"),
            "ws-db-setup": bundle("ws-db-setup", "aider", "src/db.py"),
            "ws-api-routes": bundle("ws-api-routes", "break", "src/api.py"),
        }
        (self.root / "workstreams/examples/all.json").write_text(json.dumps(list(self.bundles.values())))
        aider = self.root / "bin/aider"
        aider.write_text(
            f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c \"open('src/auth.py', 'a').write('B = 2')\"\n"
        )
        aider.chmod(aider.stat().st_mode | stat.S_IXUSR)
        (self.root / ".gitignore").write_text("bin/\n")
        git(self.root, "init", "-q", "-b", "main")
        git(self.root, "add", "-A")
        git(self.root, "commit", "-qm", "begin")

    def play(self, heading: str, **names: Any) -> dict[str, Any]:
        """Run a snippet among `names`; what it has named at its end."""
        (key,) = (known for known in SNIPPETS if known.startswith(heading))
        text = MODULES.sub("swell", SNIPPETS[key])
        text = text.replace("run-2025-11-22-001", self.run).replace("/path/to/worktree", str(self.root))
        exec(compile(text, key, "exec"), names)  # noqa: S102 - the snippet is ours, and that it runs is the claim
        return names

    def bundle(self, ws_id: str) -> swell.WorkstreamBundle:
        found = swell.load_and_validate_bundles(self.root / "workstreams/examples")
        return next(one for one in found if one.id == ws_id)


@pytest.fixture
def desk(tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The desk, with this process sitting at it."""
    made = Desk(tmp_path)
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("PATH", f"{made.root / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("AIM_REGISTRY_PATH", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "swell").mkdir()
    table = tmp_path / "recovery.yaml"
    table.write_text("initial_delay_s: 0.1\njitter: 0\nclasses:\n  check_error: [retry]\n  tool_failed: [review]\n")
    (tmp_path / "swell/config.toml").write_text(f'[run]\nrecovery = "{table}"\n')
    return made


def test_there_are_as_many_snippets_as_in_the_contract() -> None:
    assert len(SNIPPETS) == 11
    assert not any("swell" in code for code in SNIPPETS.values()), "they stand here as they stand there"


def test_single_workstream_execution(desk: Desk) -> None:
    result = desk.play("Single Workstream", bundle=desk.bundle("ws-feature-auth"))["result"]
    assert (result["success"], result["final_status"]) == (True, "completed")
    assert result["steps_executed"] == ["edit", "static", "runtime"]
    assert type(result["total_fix_iterations"]) is int
    assert result["total_fix_iterations"] == 1
    assert type(result["elapsed_seconds"]) is float


def test_parallel_execution(desk: Desk) -> None:
    results = desk.play("Parallel Execution")["results"]
    assert set(results) == set(WORKSTREAMS)
    assert {name: result["success"] for name, result in results.items()} == {
        "ws-feature-auth": True,
        "ws-db-setup": True,
        "ws-api-routes": False,
    }
    assert isinstance(results["ws-api-routes"]["error"], str)
    assert results["ws-api-routes"]["error"]
    keys = {"success", "final_status", "steps_executed", "total_fix_iterations", "elapsed_seconds"}
    assert all(keys <= set(result) for result in results.values())


def test_step_functions(desk: Desk) -> None:
    names = desk.play(
        "Step Functions",
        run_id=desk.run,
        ws_id="ws-feature-auth",
        bundle=desk.bundle("ws-feature-auth"),
        context={"dry_run": False},
    )
    for name in ("edit", "static", "runtime"):
        result = names[f"{name}_result"]
        assert (result["step_name"], result["success"], result["error_message"]) == (name, True, None)
        assert isinstance(result["details"], dict)
    assert callable(names["run_static_step"])
    assert callable(names["run_runtime_step"])


def test_scheduler(desk: Desk) -> None:
    bundles = swell.load_and_validate_bundles("workstreams/examples")
    plan = desk.play("Scheduler", bundles=bundles)["plan"]
    assert plan["waves"] == [sorted(WORKSTREAMS)]
    assert (plan["total_waves"], plan["total_workstreams"]) == (1, 3)
    assert plan["dependency_graph"] == {name: [] for name in WORKSTREAMS}


def test_tool_adapter(desk: Desk) -> None:
    names = desk.play("Tool Adapter")
    assert set(names["profiles"]) >= {"aider"}
    result = names["result"]
    assert isinstance(result, swell.ToolResult)
    assert (result.success, result.exit_code, result.stderr) == (True, 0, "")
    assert isinstance(result.stdout, str)
    assert type(result.elapsed_sec) is float
    assert result.content["files_modified"] == ["src/auth.py"]
    assert "+X = 2" in str(result.content["diff"])
    assert result.content["tool"] == "aider"


def test_circuit_breakers(desk: Desk) -> None:
    asked = []
    known = {"breaker_config": {"max_fix_iterations": {"static": 3}}, "CircuitBreakerError": swell.CircuitBreakerError}
    names = desk.play("Circuit Breakers", run_fix_step=asked.append, **known)
    assert asked == [...], "an attempt was allowed, and nothing oscillated"
    assert names["state"] == swell.FixLoopState()


@pytest.mark.parametrize("registry", ["shipped", "none"])
def test_aim_integration(desk: Desk, registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a registry by capability; without one the tool directly."""
    if registry == "none":
        monkeypatch.setenv("AIM_REGISTRY_PATH", str(desk.root / "nothing.json"))
    context = {"worktree_path": str(desk.root), "files": ["src/auth.py"], "prompt": "Add error handling"}
    result = desk.play("AIM Integration", run_tool=swell.run_tool, context=context)["result"]
    assert isinstance(result, swell.ToolResult)
    assert (result.success, result.tool_id, result.content["files_modified"]) == (True, "aider", ["src/auth.py"])


def test_recovery_manager(desk: Desk) -> None:
    """A step that failed for a reason that passes is done again."""
    crash = {"binary": "{python}", "args": ["-c", "import os; os.kill(os.getpid(), 9)"]}
    context = {"tool_profiles": {"crash": crash}, "static_tools": ["crash"]}
    given = (desk.run, "ws-feature-auth", desk.bundle("ws-feature-auth"), context)
    assert swell.run_edit_step(*given)["success"]
    failed = swell.run_static_step(*given)
    assert not failed["success"]
    again: list[Any] = []

    def run_static_step(_: object) -> object:
        again.append(swell.run_static_step(*given))
        return again[-1]

    exception = RuntimeError(failed["error_message"])
    names = desk.play("Recovery Manager", exception=exception, run_static_step=run_static_step)
    assert names["recovered"] is True
    assert names["result"]["step_name"] == "static"
    assert len(again) == 1


def test_metrics_and_telemetry(desk: Desk) -> None:
    names = desk.play("Metrics and Telemetry")
    assert names["summary"] == {
        "total_workstreams": 1,
        "successful": 1,
        "failed": 0,
        "total_duration_sec": 45.2,
        "avg_duration_sec": 45.2,
    }


@pytest.mark.parametrize(("budget", "over"), [(10.0, False), (0.01, True)])
def test_cost_tracking(desk: Desk, budget: float, over: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own budget as it stands there; with a smaller one the error is raised with the text that it gives it."""
    monkeypatch.setitem(
        SNIPPETS, "Cost Tracking (`cost_tracker.py`)", _with_budget("Cost Tracking (`cost_tracker.py`)", budget)
    )
    if over:
        with pytest.raises(swell.BudgetExceededError, match=r"^Budget exceeded: \$0\.06$"):
            desk.play("Cost Tracking", BudgetExceededError=swell.BudgetExceededError)
        return
    names = desk.play("Cost Tracking", BudgetExceededError=swell.BudgetExceededError)
    assert names["tracker"].total_cost_usd == 0.06


def _with_budget(heading: str, usd: float) -> str:
    return SNIPPETS[heading].replace("budget_usd=10.0", f"budget_usd={usd}")


def test_migration_from_legacy(desk: Desk) -> None:
    names = desk.play("Migration")
    assert (names["run_workstream"], names["run_tool"]) == (swell.run_workstream, swell.run_tool)


# The aggregator of metrics


def test_the_average_is_the_total_by_workstreams() -> None:
    """The numbers of the contract: 320.5 s of five workstreams, 64.1 s each."""
    metrics = swell.MetricsAggregator()
    for number, seconds in enumerate((45.2, 100.3, 75.0, 50.0, 50.0)):
        metrics.record_step_execution(f"ws-{number}", "edit", seconds, success=number != 4)
    assert metrics.get_summary() == {
        "total_workstreams": 5,
        "successful": 4,
        "failed": 1,
        "total_duration_sec": 320.5,
        "avg_duration_sec": 64.1,
    }


@pytest.mark.parametrize(
    ("steps", "successful"),
    [
        ([("edit", True), ("static", False)], 0),
        ([("edit", True), ("static", False), ("fix", True)], 0),
        ([("edit", True), ("static", False), ("fix", True), ("static", True)], 1),
        ([("static", False), ("fix", False), ("static", True)], 1),
        ([("edit", True), ("fix", False)], 0),
        ([("edit", False), ("edit", True), ("runtime", False)], 0),
    ],
)
def test_a_workstream_is_what_the_newest_of_each_step_says(steps: list[tuple[str, bool]], successful: int) -> None:
    metrics = swell.MetricsAggregator()
    for step, success in steps:
        metrics.record_step_execution("ws-a", step, 1, success)
    assert metrics.get_summary()["successful"] == successful
    assert metrics.get_summary()["failed"] == 1 - successful
    assert metrics.get_summary()["total_duration_sec"] == len(steps)


def test_nothing_recorded_is_zero() -> None:
    assert set(swell.MetricsAggregator().get_summary().values()) == {0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("ws_id", value) for value in ("", "a b", "x" * 129, "ä", "a\n", None, 3)),
        *(("step", value) for value in ("", "EDIT", "edit ", None, 7)),
        *(("duration_sec", value) for value in (-0.1, float("nan"), float("inf"), 1e10, "1", None, True, 1 + 2j)),
        pytest.param("duration_sec", 10**5000, id="huge"),
        *(("success", value) for value in (1, 0, None, "yes")),
    ],
)
def test_what_is_no_execution_is_refused_and_counts_nothing(field: str, value: object) -> None:
    metrics = swell.MetricsAggregator()
    given: dict[str, Any] = {"ws_id": "ws-a", "step": "edit", "duration_sec": 1.0, "success": True, field: value}
    with pytest.raises(ValueError, match=f"^{field} is ") as caught:
        metrics.record_step_execution(**given)
    assert len(str(caught.value)) < 250
    assert metrics.get_summary()["total_workstreams"] == 0


def test_it_is_bounded_and_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.metrics.WORKSTREAMS_MAX", 100)
    metrics = swell.MetricsAggregator()

    def record(number: int) -> None:
        metrics.record_step_execution(f"ws-{number % 100}", STEPS[number % 3], 0.1, success=True)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(record, range(3000)))
    summary = metrics.get_summary()
    assert (summary["total_workstreams"], summary["total_duration_sec"]) == (100, 300.0)
    with pytest.raises(ValueError, match="new MetricsAggregator"):
        metrics.record_step_execution("ws-another", "edit", 1, success=True)
    assert WORKSTREAMS_MAX == 100_000
