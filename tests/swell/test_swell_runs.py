"""Runs from the command line, on a real cluster, with real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_repository import bundle, git
from typer.testing import Result

pytestmark = pytest.mark.usefixtures("cluster")

Swell = Callable[..., Result]
Bundles = Callable[..., Path]


def last_line(result: Result) -> dict[str, object]:
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_a_run_that_completes_delivers_a_branch(swell: Swell, bundles: Bundles, repo: Path) -> None:
    folder = bundles(bundle("ws-a"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    shown = swell("run", folder, "--repo", repo, "--run", f"ok-{os.getpid()}")
    assert shown.exit_code == 0, shown.output
    branch = f"swell/ok-{os.getpid()}"
    assert f"branch: {branch}" in shown.stdout
    assert f"git merge {branch}" in shown.stdout
    assert git(repo, "show", f"{branch}:src/b.py") == "B = 1\nX = 2"
    assert git(repo, "status", "--porcelain") == ""
    for line in ("wave 1 started: ws-a", "ws-a edit (attempt 1) ok", "ws-b completed", "finished: completed"):
        assert line in shown.stdout


def test_a_failure_blocks_its_dependents_and_ends_with_1(
    swell: Swell, bundles: Bundles, repo: Path, at_once: Path
) -> None:
    folder = bundles(
        bundle("ws-a", "break"), bundle("ws-b", depends_on=["ws-a"], scope="src/b.py"), bundle("ws-c", scope="src/c.py")
    )
    shown = swell("run", folder, "--repo", repo, "--review", "fail", "--recovery", at_once)
    assert shown.exit_code == 1
    assert "dependency ws-a failed" in shown.stdout
    assert "no \\x1b[31mway" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "swell logs" in shown.stdout


def test_json_is_events_and_then_a_summary(swell: Swell, bundles: Bundles, repo: Path) -> None:
    shown = swell("run", bundles(bundle("ws-a")), "--repo", repo, "--json")
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [lines[0]["kind"], lines[-2]["kind"], lines[-1]["kind"]] == ["run_requested", "run_finished", "summary"]
    assert lines[-1]["exit_code"] == shown.exit_code == 0
    assert lines[-1]["workstreams"]["ws-a"]["steps_executed"] == ["edit", "static", "runtime"]


def test_a_dry_run_starts_nothing_and_says_success(swell: Swell, bundles: Bundles, repo: Path) -> None:
    shown = swell("run", bundles(bundle("ws-a", "break")), "--repo", repo, "--dry-run", "--json")
    assert shown.exit_code == 0
    assert git(repo, "branch", "--list", "swell/*") == ""


def test_an_invalid_plan_ends_with_2(swell: Swell, bundles: Bundles, repo: Path) -> None:
    shown = swell("run", bundles(bundle("ws-a", "no-such-tool")), "--repo", repo)
    assert shown.exit_code == 2
    assert "no-such-tool" in shown.stderr


def test_a_run_id_that_exists_is_refused(swell: Swell, bundles: Bundles, repo: Path) -> None:
    name = f"twice-{os.getpid()}"
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--run", name).exit_code == 0
    shown = swell("run", bundles(bundle("ws-a")), "--repo", repo, "--run", name)
    assert shown.exit_code == 2
    assert "exists already" in shown.stderr


def test_a_run_can_be_looked_at_afterwards(swell: Swell, bundles: Bundles, repo: Path, at_once: Path) -> None:
    folder = bundles(bundle("ws-a"), bundle("ws-b", "break", "src/b.py"))
    swell("run", folder, "--repo", repo, "--review", "fail", "--recovery", at_once)
    run = last_line(swell("list", "--limit", 1, "--json"))[0]["run"]  # type: ignore[index]
    assert str(run) in swell("list").stdout
    assert "ws-b" in swell("status", "last").stdout
    shown = swell("show", str(run)[:-1], "ws-a")
    assert "ws-a/1 edit: ok" in shown.stdout
    assert "patch:" in shown.stdout
    assert "ws-b/1" not in shown.stdout
    assert "edited" in swell("logs", run, "ws-a").stdout
    assert "looks good" in swell("logs", run, "--follow").stdout
    assert "+X = 2" in swell("diff", run).stdout
    kinds = {json.loads(line)["kind"] for line in swell("events", run, "--json").stdout.splitlines()}
    assert {"run_requested", "step_finished", "run_finished"} <= kinds
    assert "run_finished" in swell("events", run, "--kind", "run_finished").stdout
    assert json.loads(swell("show", run, "--json").stdout)["run"]["run"] == run
    assert set(json.loads(swell("status", run, "--json").stdout)) == {"run", "workstreams", "waves"}
    assert "finished: partial" in swell("watch", run).stdout


def test_a_run_is_reported_on(swell: Swell, bundles: Bundles, repo: Path, tmp_path: Path, at_once: Path) -> None:
    folder = bundles(bundle("ws-a"), bundle("ws-b", "break", "src/b.py"))
    swell("run", folder, "--repo", repo, "--review", "fail", "--recovery", at_once)
    lines = swell("report", "last").stdout
    for said in (
        "1/2 completed, 1 failed",
        "Merges and gates",
        "ws-b/1 edit: tool_failed",
        "no \\x1b[31mway",
        "delivered",
    ):
        assert said in lines
    file = tmp_path / "report.html"
    assert f"wrote {file}" in swell("report", "last", "--html", file).stdout
    text = file.read_text()
    assert text.startswith("<!doctype html>")
    assert '<span class="add">+X = 2</span>' in text
    assert "\x1b" not in text
    again = swell("report", "last", "--html", file)
    assert (again.exit_code, "--force" in again.stderr) == (2, True)
    assert swell("report", "last", "--html", file, "--force").exit_code == 0
    assert swell("report", "last", "--html", "-").stdout.startswith("<!doctype html>")
    found = json.loads(swell("report", "last", "--json").stdout)
    assert [(row["item"]["workstream"], row["item"]["state"]) for row in found["figures"]["workstreams"]] == [
        ("ws-a", "completed"),
        ("ws-b", "failed"),
    ]
    assert swell("report", "last", "--json", "--html", "-").exit_code == 2
    assert swell("report", "last", "--html", tmp_path / "no" / "where.html").exit_code == 2


def test_what_does_not_exist_is_said_so(swell: Swell, bundles: Bundles, repo: Path) -> None:
    assert swell("status", "no-such-run").exit_code == 2
    swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run")
    shown = swell("logs", "last", "ws-zzz")
    assert shown.exit_code == 2
    assert "ws-a" in shown.stderr


def test_an_ambiguous_beginning_is_refused(swell: Swell, bundles: Bundles, repo: Path) -> None:
    for name in ("same-1", "same-2"):
        swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run", "--run", f"{name}-{os.getpid()}")
    shown = swell("status", "same-")
    assert shown.exit_code == 2
    assert "2 runs begin with" in shown.stderr


def test_cancel_waits_until_the_processes_have_ended(swell: Swell, bundles: Bundles, repo: Path) -> None:
    submitted = swell("submit", bundles(bundle("ws-a", "sleep")), "--repo", repo, "--json")
    run = last_line(submitted)["run"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "swell.cli", "watch", str(run)], stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        _until(watching.stdout, "edit (attempt 1) started")
        shown = swell("cancel", run, "--reason", "enough")
        assert shown.exit_code == 0
        assert "processes: " in shown.stdout
        assert "in 1 running attempts" in shown.stdout
        watching.stdout.read()
        assert watching.wait(20) == 1


def _until(lines: Iterator[str], text: str) -> None:
    for line in lines:
        if text in line:
            return
    pytest.fail(f"{text!r} was never said")


def test_ctrl_c_cancels_and_waits_for_the_end(bundles: Bundles, repo: Path) -> None:
    argv = [sys.executable, "-u", "-m", "swell.cli", "run", str(bundles(bundle("ws-a", "sleep"))), "--repo", str(repo)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _until(process.stdout, "edit (attempt 1) started")
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "cancelling" in said
    assert "finished: cancelled" in rest
    assert "processes ended" in rest


def test_leaving_a_watch_leaves_the_run_alone(swell: Swell, bundles: Bundles, repo: Path) -> None:
    run = last_line(swell("submit", bundles(bundle("ws-a", "sleep")), "--repo", repo, "--json"))["run"]
    argv = [sys.executable, "-u", "-m", "swell.cli", "watch", str(run)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _until(process.stdout, "edit (attempt 1) started")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "goes on" in said
    assert "running" in swell("status", run).stdout
    assert swell("cancel", run).exit_code == 0


def test_tools_never_see_a_credential(swell: Swell, bundles: Bundles, repo: Path, cluster: Path) -> None:
    swell("run", bundles(bundle("ws-a", "environment")), "--repo", repo)
    shown = swell("logs", "last", "ws-a").stdout
    assert "PATH" in shown
    for secret in (cluster / "secrets").iterdir():
        assert secret.read_text() not in shown
    assert "SWELL_CONFIG" not in shown
    assert str(cluster / "secrets") not in shown
