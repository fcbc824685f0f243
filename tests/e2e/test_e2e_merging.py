"""What is merged is green: conflicts that are mended, waves that are bisected, and a repository with thirty workstreams."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, Outcome, bundle, commit_files, git, sh, witness

NAMES = [f"ws-{number}" for number in range(8)]
FILES = {f"f{number}.txt": f"{number}\n" for number in range(8)}
GATES = "GATE_INTEGRATION: {tool: together, wave_boundary: true}\n"
SETTINGS = """
static_tools = ["has-text"]
test_gates = [{type = "GATE_INTEGRATION"}]
gates_file = "tools/gates.yaml"
"""
TOOLS: dict[str, Any] = {
    "edit": sh('for f in "$@"; do echo new >> "$f"; done', fix='for f in "$@"; do echo peace >> "$f"; done'),
    "has-text": sh('for f in "$@"; do test -s "$f" || exit 1; done'),
    # ws-1 is red by itself; ws-4 and ws-6 only together.
    "together": sh(
        "red() { grep -q new f$1.txt && ! grep -q peace f$1.txt; }; "
        "red 1 && echo 'one is red' && exit 1; red 4 && red 6 && echo 'four and six disagree' && exit 1; exit 0",
        "-",
    ),
}


@pytest.fixture(scope="module")
def wave(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Eight workstreams in one wave: one that a gate refuses by itself, and two that it refuses together."""
    repo = tmp_path_factory.mktemp("wave") / "repo"
    commit_files(repo, {**FILES, "tools/gates.yaml": GATES, "swell.toml": SETTINGS})
    before = witness(repo)
    bundles = [bundle(name, "edit", f"f{number}.txt") for number, name in enumerate(NAMES)]
    late = bundle("ws-late", "edit", "f0.txt", depends_on=["ws-0"])
    outcome = lab.run(repo, [*bundles, late], TOOLS, max_workers=8)
    assert witness(repo) == before
    return outcome


def test_a_wave_is_bisected_and_whoever_made_it_red_is_sent_back(wave: Outcome, tell: Any) -> None:
    assert wave.run.state == "completed"
    refused = wave.payloads("merge_refused")
    assert [(one["workstream"], one["gate"], one.get("others", [])) for one in refused] == [
        ("ws-1", "GATE_INTEGRATION", []),
        ("ws-6", "GATE_INTEGRATION", ["ws-4"]),
    ]
    runs = [0]
    for event in wave.events:
        fact = event.payload
        if event.kind == "step_scheduled" and fact["step"] == "gate" and fact.get("purpose") == "search":
            runs[-1] += 1
        elif event.kind == "merge_refused":
            runs.append(0)
    assert runs[0] <= math.log2(8) + 1
    assert runs[1] <= 2 * math.log2(8) + 2
    tell(f"runs of a gate in search of one culprit of 8: {runs[0]}, of two that are red together: {runs[1]}")


def test_it_is_mended_in_the_tree_that_is_red_and_told_why(wave: Outcome) -> None:
    [fix] = wave.of("ws-6", "fix")
    assert b"four and six disagree" in wave.artifact(fix, "prompt")
    assert wave.delivered("f6.txt") == "6\nnew\npeace\n"
    assert wave.delivered("f4.txt") == "4\nnew\n"


def test_nobody_starts_before_the_gate_has_passed(wave: Outcome) -> None:
    kinds = [(e.kind, e.payload.get("workstream")) for e in wave.events]
    assert kinds.index(("integration_advanced", "ws-0")) < kinds.index(("workstream_transitioned", "ws-late"))
    passed = [e.payload for e in wave.events if e.kind == "integration_advanced"]
    assert sorted(fact["workstream"] for fact in passed) == sorted([*NAMES, "ws-late"])


def test_the_delivered_branch_passes_the_gate(wave: Outcome, tmp_path: Path) -> None:
    git(wave.repo, "worktree", "add", "--detach", str(tmp_path / "out"), f"swell/{wave.run.run}")
    script = TOOLS["together"]["args"][1].replace("{{", "{").replace("}}", "}")
    assert subprocess.run(["sh", "-c", script], cwd=tmp_path / "out", check=False).returncode == 0
    git(wave.repo, "worktree", "remove", "--force", str(tmp_path / "out"))


def conflicting(lab: Lab, repo: Path, once: Path, fix: str) -> tuple[str, list[dict[str, Any]]]:
    """One workstream waits for a person while another one changes the same line; then it goes on from where it was."""
    tools = {
        "first-fails": sh(f'echo mine > "$1"; [ -e {once} ] || {{ touch {once}; exit 5; }}', fix=fix),
        "theirs": sh('echo theirs > "$1"'),
        "has-text": TOOLS["has-text"],
    }
    commit_files(repo, {"a.txt": "base\n", "swell.toml": 'static_tools = ["has-text"]\n'})
    bundles = [bundle("ws-a", "first-fails", "a.txt"), bundle("ws-b", "theirs", "a.txt")]
    run = lab.submit(repo, bundles, tools, review="wait")
    lab.until_event(run, "run_transitioned", to_state="paused")
    lab.client.resolve_reviews(run, "approve", ["ws-a"], reason="", actor="user:ann")
    return run, bundles


def test_a_conflict_is_mended_by_a_fix_with_both_sides(lab: Lab, repo: Path, tmp_path: Path) -> None:
    run, bundles = conflicting(lab, repo, tmp_path / "once", 'sed -i "/^<<<<<<<\\|^=======\\|^>>>>>>>/d" "$1"')
    outcome = lab.outcome(run, repo, bundles)
    assert outcome.run.state == "completed"
    [refused] = outcome.payloads("merge_refused")
    assert (refused["workstream"], refused["reason"], refused["files"], refused["others"]) == (
        "ws-a", "conflict", ["a.txt"], ["ws-b"],
    )  # fmt: skip
    [fix] = outcome.of("ws-a", "fix")
    prompt = outcome.artifact(fix, "prompt").decode()
    assert "+theirs" in prompt
    assert "+mine" in prompt
    assert outcome.delivered("a.txt") == "theirs\nmine\n"


def test_a_fix_that_leaves_the_markers_in_is_not_merged(lab: Lab, repo: Path, tmp_path: Path) -> None:
    run, bundles = conflicting(lab, repo, tmp_path / "once", 'echo more >> "$1"')
    lab.until_event(run, "run_transitioned", 2, to_state="paused")
    lab.client.resolve_reviews(run, "reject", ["ws-a"], reason="", actor="user:ann")
    outcome = lab.outcome(run, repo, bundles)
    fixes = outcome.of("ws-a", "fix")
    assert [fix.error_class for fix in fixes] == ["merge_conflict"] * len(fixes)
    assert fixes
    assert outcome.of("ws-a", "static") == []
    assert outcome.delivered("a.txt") == "theirs\n"


def test_thirty_workstreams_over_two_hundred_files(lab: Lab, tmp_path: Path, tell: Any) -> None:
    """A history of 21 commits, four slots, dependencies across packages, some that need FIX: what is delivered is green."""
    repo = tmp_path / "repo"
    names = [f"pkg{number % 10}/mod{number:03}.py" for number in range(198)]
    for commit in range(20):
        commit_files(repo, dict.fromkeys(names[commit * 10 :], f"VALUE = {commit}\n"), f"values of {commit}")
    files = {"swell.toml": f'static_tools = ["compiles"]\nruntime_tool = "sums"\n{SETTINGS.split(chr(10), 2)[2]}'}
    files["tools/gates.yaml"] = "GATE_INTEGRATION: {tool: adds-up, wave_boundary: true}\n"
    commit_files(repo, files, "checks")
    before = witness(repo)
    tools = {
        "edit": sh('for f in "$@"; do echo "EXTRA = 1" >> "$f"; done'),
        "edit-badly": sh('echo "EXTRA = (" >> "$1"', fix='sed -i "s/EXTRA = (/EXTRA = 1/" "$1"'),
        "compiles": sh('python3 -m py_compile "$@"'),
        "sums": sh("python3 -m compileall -q pkg0 >/dev/null", "-"),
        "adds-up": sh("! grep -rl 'EXTRA = (' pkg0 pkg1 pkg2", "-"),
    }
    bundles = [
        bundle(
            f"ws-{number:02}",
            "edit-badly" if number % 7 == 3 else "edit",
            [
                f"pkg{number % 10}/mod{module:03}.py"
                for module in range(number % 10, 198, 10)
                if module // 60 == number // 10
            ],
            depends_on=[f"ws-{number - 10:02}"] if number >= 10 else [],
        )
        for number in range(30)
    ]
    outcome = lab.run(repo, bundles, tools, max_workers=4)
    assert outcome.run.state == "completed"
    assert witness(repo) == before
    assert len(outcome.merged()) == 30
    changed = git(repo, "diff", "--name-only", outcome.run.base_commit, f"swell/{outcome.run.run}").splitlines()
    scopes = [one["files_scope"] if one["tool"] == "edit" else one["files_scope"][:1] for one in bundles]
    assert sorted(changed) == sorted(name for scope in scopes for name in scope)
    git(repo, "worktree", "add", "--detach", str(tmp_path / "out"), f"swell/{outcome.run.run}")
    green = subprocess.run(["python3", "-m", "compileall", "-q", "."], cwd=tmp_path / "out", check=False)
    assert green.returncode == 0
    commits = git(
        repo,
        "log",
        "--format=%(trailers:key=Swell-Workstream,valueonly)",
        f"{outcome.run.base_commit}..swell/{outcome.run.run}",
    )
    assert len(set(commits.split())) == 30
    tell(f"30 workstreams, 198 files: {len(outcome.attempts)} attempts, {len(outcome.payloads('wave_started'))} waves")


def test_a_second_run_of_the_same_asks_for_no_verdict_again(lab: Lab, repo: Path, tell: Any) -> None:
    """The same bundles on the same base: nine of ten verdicts or more are those of the first run, which is named."""
    commit_files(repo, {**FILES, "tools/gates.yaml": GATES, "swell.toml": SETTINGS})
    tools = {**TOOLS, "edit": sh('for f in "$@"; do echo fine >> "$f"; done')}
    bundles = [bundle(name, "edit", f"f{number}.txt") for number, name in enumerate(NAMES)]
    first = lab.run(repo, bundles, tools, max_workers=4)
    again = lab.run(repo, bundles, tools, max_workers=4)
    asked = [len([one for one in run.attempts if one.step in {"static", "gate"}]) for run in (first, again)]
    known = [source for fact in again.payloads("step_skipped") for source in fact.get("sources", [])]
    assert again.run.state == "completed"
    assert asked[1] <= asked[0] / 10
    assert known
    assert all(source.startswith(f"{first.run.run}/") for source in known)
    tell(f"steps that judge, in a first run {asked[0]}, in a second one of the same {asked[1]}")
