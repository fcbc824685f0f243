"""Delivery as a user asks for it: elsewhere, in another style, as patches; and one workstream taken back."""

from __future__ import annotations

from pathlib import Path

import checker
import pytest
from lab import Lab, Outcome, bundle, commit_files, git, sh, witness

TOOLS = {"edit": sh('for f in "$@"; do echo "new in $0" >> "$f"; done'), "check": sh("true", "-")}
FILES = {f"{name}.txt": f"{name}\n" for name in "abce"} | {"swell.toml": 'static_tools = ["check"]\n'}
BUNDLES = [
    bundle("ws-a", "edit", "a.txt"),
    bundle("ws-b", "edit", "b.txt"),
    bundle("ws-c", "edit", "c.txt", depends_on=["ws-a"]),
    bundle("ws-e1", "edit", "e.txt"),
    bundle("ws-e2", "edit", "e.txt"),
]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream")
    git(folder, "init", "--quiet", "--bare", "r.git")
    return folder / "r.git"


@pytest.fixture(scope="module")
def delivered(lab: Lab, upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run that was delivered once, at its end."""
    repo = tmp_path_factory.mktemp("delivery") / "repo"
    commit_files(repo, FILES)
    git(repo, "remote", "add", "upstream", str(upstream))
    return lab.run(repo, BUNDLES, TOOLS, deliver="end", delivery_style="merge")


def head_of(repo: Path, run: str) -> str:
    return git(repo, "rev-parse", f"refs/heads/swell/{run}")


def test_it_was_delivered_once_as_a_merge(delivered: Outcome) -> None:
    (told,) = delivered.payloads("line_delivered")
    assert told["head"] == delivered.payloads("integration_advanced")[-1]["to"]["commit"]
    assert git(delivered.repo, "log", "-1", "--format=%P", told["commit"]).split() == [
        delivered.run.base_commit, told["head"],
    ]  # fmt: skip
    assert delivered.delivered_files() == {"a.txt", "b.txt", "c.txt", "e.txt"}


def test_swell_deliver_puts_it_elsewhere_in_another_style(delivered: Outcome, upstream: Path) -> None:
    run = delivered.run.run
    before = witness(delivered.repo)
    for _ in range(2):
        done = delivered.lab.swell("deliver", run, "--remote", "upstream", "--style", "squash", cwd=delivered.repo)
        assert done.returncode == 0, done.stderr
        assert f"delivered: branch swell/{run} of {upstream} at {head_of(upstream, run)[:12]}" in done.stdout
    assert f"of {upstream}" in delivered.lab.swell("status", run).stdout
    assert git(upstream, "log", "-1", "--format=%P", f"swell/{run}") == delivered.run.base_commit
    assert git(upstream, "rev-parse", f"swell/{run}^{{tree}}") == git(
        delivered.repo, "rev-parse", f"swell/{run}^{{tree}}"
    )
    assert witness(delivered.repo) == before


def test_a_branch_that_somebody_moved_is_left_alone(delivered: Outcome, tmp_path: Path) -> None:
    run, other = delivered.run.run, tmp_path / "other.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(delivered.repo), str(other))
    git(other, "update-ref", f"refs/heads/swell/{run}", delivered.run.base_commit)
    done = delivered.lab.swell("deliver", run, "--remote", other)
    assert (done.returncode, head_of(other, run)) == (1, delivered.run.base_commit)
    assert "delivery refused" in done.stdout
    assert "Somebody else moved it" in done.stdout


def test_a_series_is_written_here(delivered: Outcome, tmp_path: Path) -> None:
    done = delivered.lab.swell("deliver", delivered.run.run, "--series", tmp_path / "series")
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "series").iterdir())
    assert len(files) == 5
    git(tmp_path, "clone", "--quiet", str(delivered.repo), "clone")
    git(tmp_path / "clone", "am", "--quiet", *map(str, files))
    tree = git(tmp_path / "clone", "rev-parse", "HEAD^{tree}")
    assert tree == git(delivered.repo, "rev-parse", f"swell/{delivered.run.run}^{{tree}}")


def test_one_workstream_is_taken_back_with_what_builds_on_it(delivered: Outcome, upstream: Path) -> None:
    lab, run, repo = delivered.lab, delivered.run.run, delivered.repo
    before, head = witness(repo), head_of(repo, run)
    named = lab.swell("rollback", run, "--workstream", "ws-a")
    assert named.returncode != 0
    assert "ws-c built on it" in named.stderr
    conflict = lab.swell("rollback", run, "--workstream", "ws-e1")
    assert conflict.returncode == 1
    assert "conflicts with ws-e2 in e.txt" in conflict.stdout
    assert head_of(repo, run) == head, "nothing moved"

    done = lab.swell("rollback", run, "--workstream", "ws-a", "--with-dependents", "--reason", "not wanted")
    assert done.returncode == 0, done.stdout + done.stderr
    names = set(git(repo, "diff", "--name-only", delivered.run.base_commit, f"swell/{run}").splitlines())
    assert names == {"b.txt", "e.txt"}
    assert head_of(repo, run) != head
    assert git(upstream, "rev-parse", f"swell/{run}^{{tree}}") == git(repo, "rev-parse", f"swell/{run}^{{tree}}")
    assert witness(repo) == before

    states = {one.workstream: one.state for one in lab.client.list_workstreams(run)}
    assert states == {
        "ws-a": "compensated", "ws-c": "compensated", "ws-b": "completed", "ws-e1": "completed", "ws-e2": "completed",
    }  # fmt: skip
    events = list(lab.client.list_events(run))
    ordered = sorted(events, key=lambda event: (event.position, event.index))
    for promise in (checker.attempts_live_once, checker.numbers_have_no_gaps, checker.line_is_green_and_unbroken):
        assert promise(ordered) == []
    assert "rollback reverted" in " ".join(lab.swell("status", run).stdout.split())
