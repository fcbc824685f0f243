"""The Python API: names, arguments and result shapes, on a real cluster."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, bundle

import swell
from swell.client import Client
from swell.cluster import connected

pytestmark = pytest.mark.usefixtures("cluster")

_numbers = count()


def fresh() -> str:
    return f"api-{os.getpid()}-{next(_numbers)}"


def loaded(bundles: Callable[..., Path], *workstreams: dict[str, Any]) -> list[swell.WorkstreamBundle]:
    return swell.load_and_validate_bundles(bundles(*workstreams))


def test_importing_swell_imports_nothing_else() -> None:
    code = "import sys; import swell; print([m for m in ('msgspec', 'grpc', 'asyncio') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_one_workstream_gives_the_result_of_the_contract(repo: Path, bundles: Callable[..., Path]) -> None:
    run = fresh()
    (one,) = loaded(bundles, bundle("ws-a"))
    result = swell.run_workstream(run_id=run, ws_id="ws-a", bundle_obj=one, context={"repo_root": str(repo)})
    assert result["success"] is True
    assert result["final_status"] == "completed"
    assert result["steps_executed"] == ["edit", "static", "runtime"]
    assert result["total_fix_iterations"] == 0
    assert result["elapsed_seconds"] > 0
    assert (result["run_id"], result["ws_id"]) == (run, "ws-a")
    assert [step["step_name"] for step in result["steps"]] == ["edit", "static", "runtime"]
    assert all(set(step) == {"step_name", "success", "details", "error_message"} for step in result["steps"])
    assert result["steps"][2]["details"]["noop"] is True
    assert "error" not in result


def test_fix_iterations_are_counted(repo: Path, bundles: Callable[..., Path]) -> None:
    (one,) = loaded(bundles, bundle("ws-a", "repair"))
    context = {"repo_root": repo, "static_tools": ["no-bad"]}
    result = swell.run_workstream(fresh(), "ws-a", one, context)
    assert result["success"] is True
    assert result["total_fix_iterations"] == 1


def test_every_workstream_has_a_result_also_when_blocked(
    repo: Path, bundles: Callable[..., Path], at_once: Path
) -> None:
    several = loaded(
        bundles,
        bundle("ws-a", "break"),
        bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]),
        bundle("ws-c", scope="src/c.py"),
    )
    context = {"repo_root": repo, "max_workers": 2, "recovery": str(at_once)}
    results = swell.execute_workstreams_parallel(fresh(), several, context)
    assert set(results) == {"ws-a", "ws-b", "ws-c"}
    assert results["ws-a"]["success"] is False
    assert results["ws-a"]["steps_executed"] == ["edit"]
    assert results["ws-b"]["error"] == "dependency ws-a failed"
    assert results["ws-b"]["steps"] == []
    assert results["ws-c"]["success"] is True


def test_fail_fast_cancels_what_was_not_started(repo: Path, bundles: Callable[..., Path], at_once: Path) -> None:
    scopes = ("src/b.py", "src/c.py")
    several = loaded(bundles, bundle("ws-a", "break"), *(bundle(f"ws-{s[4]}", scope=s) for s in scopes))
    context = {"repo_root": repo, "max_workers": 1, "fail_fast": True, "recovery": str(at_once)}
    results = swell.execute_workstreams_parallel(fresh(), several, context)
    assert results["ws-c"]["final_status"] == "cancelled"
    assert results["ws-c"]["error"]


def test_a_dry_run_says_so(repo: Path, bundles: Callable[..., Path]) -> None:
    (one,) = loaded(bundles, bundle("ws-a", "break"))
    result = swell.run_workstream(fresh(), "ws-a", one, {"repo_root": repo, "dry_run": True})
    assert result["success"] is True
    assert all(step["details"]["dry_run"] for step in result["steps"])


def test_steps_one_by_one(repo: Path, bundles: Callable[..., Path]) -> None:
    run = fresh()
    (one,) = loaded(bundles, bundle("ws-a", "repair"))
    context = {"repo_root": repo, "static_tools": ["no-bad"]}
    edited = swell.run_edit_step(run, "ws-a", one, context)
    assert edited["success"] is True
    assert edited["details"]["files"] == ["src/a.py"]
    failed = swell.run_static_step(run, "ws-a", one, context)
    assert failed["success"] is False
    assert failed["error_message"]
    assert swell.run_fix_step(run, "ws-a", one, context)["success"] is True
    assert swell.run_static_step(run, "ws-a", one, context)["success"] is True
    assert swell.run_runtime_step(run, "ws-a", one, context)["details"]["noop"] is True


def test_a_step_with_fix_repairs(repo: Path, bundles: Callable[..., Path]) -> None:
    run = fresh()
    (one,) = loaded(bundles, bundle("ws-a", "repair"))
    context = {"repo_root": repo, "static_tools": ["no-bad"]}
    assert swell.run_edit_step(run, "ws-a", one, context)["success"] is True
    fixed = swell.run_static_with_fix(run, "ws-a", one, context)
    assert fixed["success"] is True
    assert fixed["details"]["fix_iterations"] == 1
    assert swell.run_runtime_with_fix(run, "ws-a", one, context)["success"] is True


def test_fixing_nothing_is_refused_with_a_reason(repo: Path, bundles: Callable[..., Path]) -> None:
    (one,) = loaded(bundles, bundle("ws-a"))
    result = swell.run_fix_step(fresh(), "ws-a", one, {"repo_root": repo})
    assert result["success"] is False
    assert result["error_message"]


def test_another_workstream_of_the_same_stepwise_run_is_refused(repo: Path, bundles: Callable[..., Path]) -> None:
    run = fresh()
    first, second = loaded(bundles, bundle("ws-a"), bundle("ws-b"))
    swell.run_edit_step(run, "ws-a", first, {"repo_root": repo})
    with pytest.raises(swell.SwellError, match="ws-b"):
        swell.run_edit_step(run, "ws-b", second, {"repo_root": repo})


def test_bundles_and_profiles_may_be_mappings(repo: Path) -> None:
    own = {"mine": {"binary": "{python}", "args": ["-c", "open('src/a.py', 'a').write('{word} = 1\\n')"]}}
    context = {"repo_root": repo, "tool_profiles": own, "word": "HELLO"}
    assert swell.run_workstream(fresh(), "ws-a", bundle("ws-a", "mine"), context)["success"] is True


def test_a_bundle_of_another_name_is_refused(repo: Path) -> None:
    with pytest.raises(ValueError, match="ws-a, not ws-b"):
        swell.run_workstream(fresh(), "ws-b", bundle("ws-a"), {"repo_root": repo})


def test_dependencies_that_lead_nowhere_are_refused_before_anything_is_asked(repo: Path) -> None:
    with pytest.raises(swell.BundleDependencyError):
        swell.execute_workstreams_parallel(fresh(), [bundle("ws-a", depends_on=["ws-x"])], {"repo_root": repo})


@pytest.mark.parametrize(
    "context", [{"max_workers": 0}, {"max_workers": "many"}, {"fail_fast": "yes"}, {"x": object()}]
)
def test_a_bad_context_is_refused(repo: Path, context: dict[str, object]) -> None:
    with pytest.raises(swell.SwellError) as caught:
        swell.run_workstream(fresh(), "ws-a", bundle("ws-a"), {"repo_root": repo, **context})
    assert caught.value.is_input


def test_a_tool_runs_without_any_cluster(tmp_path: Path) -> None:
    profiles = swell.load_tool_profiles(_file(tmp_path))
    context = {"worktree_path": str(tmp_path), "files": ["a"], "prompt": "Add", "timeout_sec": 30}
    result = swell.run_tool(tool_id="pass", context=context, profiles=profiles)
    assert (result.success, result.exit_code) == (True, 0)
    assert "looks good" in result.stdout


def _file(folder: Path) -> Path:
    import json

    file = folder / "profiles.json"
    file.write_text(json.dumps(PROFILES))
    return file


def test_the_breaker_is_there_as_the_contract_shows_it() -> None:
    state = swell.FixLoopState()
    assert swell.allow_fix_attempt(state, step="static", cfg={"max_fix_iterations": {"static": 1}})
    assert not swell.allow_fix_attempt(state, step="static", cfg={"max_fix_iterations": {"static": 0}})
    assert not swell.detect_oscillation(state, cfg={})
    assert issubclass(swell.CircuitBreakerError, RuntimeError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        swell.nothing  # type: ignore[attr-defined]  # noqa: B018 - the access is the claim


# When something went wrong


def steps_of(tool: str, tmp_path: Path, repo: Path, table: str) -> dict[str, Any]:
    """A context whose only AI tool has a name of its own (failures of one are counted across runs), and a recovery table."""
    file = tmp_path / "table.yaml"
    file.write_text(table)
    profiles = {tool: PROFILES["break"], f"{tool}-other": PROFILES["append"]}
    profiles[tool] = {**profiles[tool], "fallback": [f"{tool}-other"]}
    return {"repo_root": repo, "tool_profiles": profiles, "recovery": str(file)}


def test_a_failed_step_is_recovered_from_in_the_order_of_the_table(
    repo: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    """Retry, then another tool, whose success ends it; the seed's call in the seed's shape."""
    run = fresh()
    table = "retries: 1\ninitial_delay_s: 0.3\njitter: 0\nclasses:\n  tool_failed: [retry, fallback_tool, review]\n"
    context = steps_of(f"flaky-{run}", tmp_path, repo, table)
    one = bundle("ws-a", f"flaky-{run}")
    failed = swell.run_edit_step(run, "ws-a", one, context)
    assert failed["success"] is False
    recovery = swell.RecoveryManager()
    error = RuntimeError("it broke")
    began = time.monotonic()
    assert recovery.attempt_recovery(run_id=run, ws_id="ws-a", error=error, context={"step": "edit"}) is True
    assert time.monotonic() - began >= 0.3, "the delay of the retry was waited out"
    assert swell.run_edit_step(run, "ws-a", one, context)["success"] is False
    assert recovery.attempt_recovery(run, "ws-a", error, {"step": "edit"}) is True
    done = swell.run_edit_step(run, "ws-a", one, context)
    assert done["success"] is True, done
    with connected() as endpoints, Client(endpoints) as client:
        chosen = [event.payload for event in client.list_events(run, kinds=["recovery_chosen"])]
        asked = [event.payload for event in client.list_events(run, kinds=["recovery_requested"])]
    assert [fact["strategy"] for fact in chosen] == ["retry", "fallback_tool"]
    assert {fact["error_class"] for fact in asked} == {"tool_failed"}
    assert asked[0]["reason"] == "it broke"


def test_what_nothing_automatic_helps_goes_to_a_person(
    repo: Path, bundles: Callable[..., Path], tmp_path: Path
) -> None:
    run = fresh()
    context = steps_of(f"flaky-{run}", tmp_path, repo, "retries: 3\n")
    swell.run_edit_step(run, "ws-a", bundle("ws-a", f"flaky-{run}"), context)
    given = {"step": "edit", "error_class": "auth"}
    assert swell.RecoveryManager().attempt_recovery(run, "ws-a", "no login", given) is False


@pytest.mark.parametrize("context", [{}, {"step": "merge"}, {"step": "edit", "error_class": "boredom"}])
def test_a_recovery_of_nothing_known_is_refused(repo: Path, context: dict[str, str]) -> None:
    run = fresh()
    swell.run_edit_step(run, "ws-a", bundle("ws-a"), {"repo_root": repo})
    with pytest.raises(swell.SwellError) as caught:
        swell.RecoveryManager().attempt_recovery(run, "ws-a", "x", context)
    assert caught.value.is_input


def test_runs_are_steered_from_python(repo: Path, tmp_path: Path) -> None:
    """Wait for a person, decide, try again: without the command line."""
    run = fresh()
    context = steps_of(f"flaky-{run}", tmp_path, repo, "retries: 0\nreductions: 0\nclasses:\n  tool_failed: [review]\n")
    results: dict[str, Any] = {}

    def work() -> None:
        given = {**context, "review": "wait"}
        results.update(swell.execute_workstreams_parallel(run, [bundle("ws-a", f"flaky-{run}")], given))

    waiting = threading.Thread(target=work)
    waiting.start()
    deadline = time.monotonic() + 20
    while not (found := [review for review in swell.list_reviews() if review["run"] == run]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found[0]["workstream"] == "ws-a"
    swell.pause_run(run, "later")
    swell.resume_run(run)
    with pytest.raises(swell.SwellError):
        swell.resolve_reviews(run, "perhaps")
    swell.resolve_reviews(run, "reject", ["ws-a"], reason="no")
    waiting.join(20)
    assert results["ws-a"]["final_status"] == "failed"
    new = swell.retry_run(run)
    assert new != run
    assert swell.cancel_run(new) in {"cancelled", "failed"}
