"""What a user can get wrong at the command line, and odd repositories that are right. The rest stands in tests/swell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, bundle, commit_files, git, sh, witness

TOOLS = {"edit": sh('echo new >> "$1"'), "pass": sh("true", "-")}
CHECKS = 'static_tools = ["pass"]\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Where bundles go, and a file of tool profiles."""
    profiles = tmp_path / "profiles.json"
    profiles.write_text(json.dumps(TOOLS))
    (tmp_path / "workstreams").mkdir()
    return tmp_path / "workstreams", profiles


def run(
    lab: Lab, repo: Path, files: tuple[Path, Path], *bundles: dict[str, Any], options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    folder, profiles = files
    if bundles:
        (folder / "all.json").write_text(json.dumps(bundles))
    return lab.swell("run", folder, "--repo", repo, "--tool-profiles", profiles, *options)


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Exit code 2; an error of a few lines that says what, where, and what to do next; no run."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "next: " in done.stderr or "; " in done.stderr, "no remedy"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for text in said:
        assert text in done.stderr


def summary(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "branch: " in line]
    return line.partition("branch: ")[2].split()[0]


def test_allow_dirty_runs_the_commit(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    """What is not committed is neither used nor changed."""
    commit_files(repo, {"a.txt": "committed\n", "swell.toml": CHECKS})
    (repo / "a.txt").write_text("not committed\n")
    (repo / "new.txt").write_text("new\n")
    git(repo, "add", "new.txt")
    before = witness(repo)
    refused(run(lab, repo, files, bundle("ws-a", "edit", "a.txt")), "a.txt", "new.txt", "--allow-dirty")
    branch = summary(run(lab, repo, files, bundle("ws-a", "edit", "a.txt"), options=("--allow-dirty",)))
    assert git(repo, "show", f"{branch}:a.txt") == "committed\nnew"
    assert git(repo, "diff", "--name-only", "main", branch) == "a.txt"
    assert witness(repo) == before


def test_a_run_starts_where_base_says(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    """Checks are those of that commit, too; a HEAD without a branch is as good as one."""
    first = commit_files(repo, {"a.txt": "first\n", "swell.toml": CHECKS})
    commit_files(repo, {"a.txt": "second\n", "swell.toml": 'static_tools = ["no-such"]\n'})
    git(repo, "checkout", "--quiet", "--detach")
    branch = summary(run(lab, repo, files, bundle("ws-a", "edit", "a.txt"), options=("--base", "main~1")))
    assert git(repo, "rev-parse", f"{branch}~1") == first


def test_a_shallow_clone_is_as_good_or_refused(lab: Lab, tmp_path: Path, files: tuple[Path, Path]) -> None:
    """A clone without its history either works or is refused with what to do; it is never half done."""
    whole, clone = tmp_path / "whole", tmp_path / "clone"
    commit_files(whole, {"a.txt": "1\n", "swell.toml": CHECKS})
    commit_files(whole, {"a.txt": "2\n"})
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{whole}", str(clone))
    before = witness(clone)
    done = run(lab, clone, files, bundle("ws-a", "edit", "a.txt"))
    if done.returncode == 2:
        refused(done, "shallow", "unshallow")
    else:
        assert git(clone, "show", f"{summary(done)}:a.txt") == "2\nnew"
    assert witness(clone) == before


def test_a_repository_without_a_commit_is_refused(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    repo.mkdir()
    git(repo, "init", "--quiet")
    refused(run(lab, repo, files, bundle("ws-a", "edit", "a.txt")), "commit")


def test_an_unknown_dependency_is_named(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    refused(run(lab, repo, files, bundle("ws-a", "edit", "a.txt", depends_on=["ws-ghost"])), "ws-a", "ws-ghost")


def test_a_cycle_is_named_as_a_whole(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    circle = [bundle(f"ws-{a}", "edit", f"{a}.txt", depends_on=[f"ws-{b}"]) for a, b in ("ab", "bc", "ca")]
    refused(run(lab, repo, files, *circle), "ws-a -> ws-b -> ws-c -> ws-a")


def test_an_unknown_tool_is_named(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    refused(run(lab, repo, files, bundle("ws-a", "no-such-tool", "a.txt")), "ws-a", "no-such-tool")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('static_tool = ["pass"]\n', "static_tool"),
        ("static_tools = [\n", "TOML"),
        ('static_tools = ["no-such-check"]\n', "no-such-check"),
        ('tool_profiles = "../outside.json"\n', "../outside.json"),
        ("", "NO_CHECKS"),
    ],
)
def test_checks_that_cannot_be_used_are_refused(
    lab: Lab, repo: Path, files: tuple[Path, Path], text: str, said: str
) -> None:
    commit_files(repo, {"a.txt": "", "swell.toml": text})
    refused(run(lab, repo, files, bundle("ws-a", "edit", "a.txt")), said)


def test_a_bundle_of_50_megabytes_is_refused_at_once(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    """By its size, before it is read as a whole."""
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    folder, _ = files
    with (folder / "huge.json").open("wb") as file:
        file.write(b'[{"id": "ws-a", "tasks": ["')
        file.truncate(50 * 1024 * 1024)
    refused(run(lab, repo, files), "huge.json", "bytes")


def test_a_bundle_nested_without_end_is_refused(lab: Lab, repo: Path, files: tuple[Path, Path]) -> None:
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    (files[0] / "deep.json").write_text("[" * 100_000)
    refused(run(lab, repo, files), "deep.json")


@pytest.mark.parametrize("scope", ["../outside.txt", "/etc/passwd", ".git/config"])
def test_a_scope_outside_the_repository_is_refused(lab: Lab, repo: Path, files: tuple[Path, Path], scope: str) -> None:
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    refused(run(lab, repo, files, bundle("ws-a", "edit", scope)), "all.json", "files_scope")


def test_a_placeholder_that_means_nothing_fails_before_anything_is_started(
    lab: Lab, repo: Path, files: tuple[Path, Path]
) -> None:
    """The workstream says which one, and which there are."""
    commit_files(repo, {"a.txt": "", "swell.toml": CHECKS})
    files[1].write_text(json.dumps({**TOOLS, "edit": {"command": "echo", "args": ["{no_such_value}"]}}))
    done = run(lab, repo, files, bundle("ws-a", "edit", "a.txt"))
    assert done.returncode == 1
    assert "{no_such_value}" in done.stdout
    assert "worktree_path" in done.stdout
