"""`swell gc`: the executor is asked, does it, and it is told what went."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_repository import git
from typer.testing import Result

from services.sweep import Removed, Sweep, SweepAnswer
from swell.errors import SwellError
from swell.gc import collected, swept_lines
from swell.values import Endpoints


def bundle(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "openspec_change": "OS-1",
        "ccpm_issue": 1,
        "gate": 1,
        "files_scope": ["src/a.py"],
        "tasks": ["Do it"],
        "tool": "append",
    }


def snapshots(state_dir: Path, run: str) -> list[str]:
    """What the executor's mirrors keep of a run's attempts."""
    mirrors = (state_dir / "executor" / "mirrors").glob("*.git")
    return [ref for mirror in mirrors for ref in git(mirror, "for-each-ref", f"refs/swell/attempts/{run}").splitlines()]


def test_what_a_run_that_has_ended_kept_is_told_then_removed(
    cluster: Path, repo: Path, bundles: Callable[..., Path], swell: Callable[..., Result]
) -> None:
    run = json.loads(swell("run", bundles(bundle("ws-a")), "--repo", repo, "--json").stdout.splitlines()[-1])["run"]
    assert snapshots(cluster, run)
    told = swell("gc", "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    would = json.loads(told.stdout)
    assert would["dry_run"]
    assert any(one["kind"] == "refs" for one in would["removed"])
    assert snapshots(cluster, run)
    done = swell("gc")
    assert done.exit_code == 0, done.output
    assert "freed" in done.stdout
    assert not snapshots(cluster, run)
    patch = swell("diff", run)
    assert patch.stdout.startswith("diff --git")  # artifacts stay


def test_a_cluster_elsewhere_is_not_asked() -> None:
    with pytest.raises(SwellError, match="elsewhere") as caught:
        collected(Endpoints(scheduler="host:1", ledger="host:2", token=""), dry_run=True)
    assert caught.value.reason == "NOT_EMBEDDED"


def test_what_stays_is_told_as_well() -> None:
    sweep = Sweep(
        dry_run=False,
        removed=[Removed(kind="setup", name="abc", bytes=2048), Removed(kind="refs", name="def", count=7)],
        live_runs=2,
        quarantined=1,
        busy=1,
        troubles=["x.git: broken\x1b[2J"],
    )
    lines = swept_lines(SweepAnswer(id="1", sweep=sweep, free_bytes=3 * 1024**3))
    text = "\n".join(lines)
    for said in ("2.0 KiB freed", "3.0 GiB free", "2 live runs", "1 quarantined", "1 repositories", "x.git", "7"):
        assert said in text, said
    assert "\x1b" not in text
