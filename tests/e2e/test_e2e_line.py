"""The integration line: what is green alone and red together, neighbours, order, nothing to merge; and how a run is paced."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Lab, Outcome, bundle, commit_files, git, sh, witness

TOOLS = {
    "edit": sh('for f in "$@"; do echo new >> "$f"; done'),
    "edit-slowly": sh('sleep 0.6; for f in "$@"; do echo new >> "$f"; done'),
    "not-both": sh("! { grep -q new a.txt && grep -q new b.txt; } || { echo 'a and b disagree'; exit 1; }", "-"),
    "nothing": sh("true"),
    "move": sh("mkdir -p moved && mv pkg/one.txt pkg/two.txt moved/", "-"),
    "add-beside": sh("echo three > pkg/three.txt", "-"),
    "fail": sh("echo 'no way' >&2; exit 7"),
}
FILES = {
    "a.txt": "a\n", "b.txt": "b\n", "c.txt": "c\n", "d.txt": "d\n", "z.txt": "z\n",
    "pkg/one.txt": "one\nuno\nun\neins\n", "pkg/two.txt": "two\ndos\ndeux\nzwei\n",
    "swell.toml": 'static_tools = ["not-both"]\n',
}  # fmt: skip


@pytest.fixture(scope="module")
def line(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One wave of everything, and one workstream after it."""
    repo = tmp_path_factory.mktemp("line") / "repo"
    commit_files(repo, FILES)
    before = witness(repo)
    outcome = lab.run(
        repo,
        [
            bundle("ws-a", "edit-slowly", "a.txt"),
            bundle("ws-b", "edit", "b.txt"),
            bundle("ws-c", "edit", "c.txt"),
            bundle("ws-move", "move", ["pkg/one.txt", "pkg/two.txt"], files_create=["moved/one.txt", "moved/two.txt"]),
            bundle("ws-nothing", "nothing", "d.txt", swell={"allow_no_change": True}),
            bundle("ws-stay", "add-beside", "pkg/three.txt", files_create=["pkg/three.txt"]),
            bundle("ws-z", "edit", "z.txt", depends_on=["ws-a", "ws-c", "ws-nothing"]),
            bundle("ws-zz", "edit", "d.txt", depends_on=["ws-b"]),
        ],
        TOOLS,
        max_workers=6,
    )
    assert witness(repo) == before
    return outcome


def test_what_is_red_together_is_refused(line: Outcome) -> None:
    """Each is green on its own tree; the second merge is refused, and no FIX mends it: it fails, the first one stays."""
    for name in ("ws-a", "ws-b"):
        static = line.of(name, "static")[0]
        assert line.checks(static) == {"not-both": "passed"}
    assert line.state("ws-a") == "completed"
    assert line.state("ws-b") == "failed"
    (refused,) = line.payloads("merge_refused", reason="red")
    assert refused["workstream"] == "ws-b"
    assert "not-both" in refused["message"]
    assert "a and b disagree" in refused["message"]
    assert line.of("ws-b", "fix")
    assert "the same error" in line.reason("ws-b")
    assert line.delivered("a.txt") == "a\nnew\n"
    assert line.delivered("b.txt") == "b\n"


def test_scopes_that_do_not_overlap_do_not_collide(line: Outcome) -> None:
    """One moves the files of a folder, another adds a file to it: each keeps the paths it declared."""
    assert line.payloads("merge_refused", reason="conflict") == []
    assert line.state("ws-move") == line.state("ws-stay") == "completed"
    assert {"moved/one.txt", "moved/two.txt", "pkg/three.txt"} <= line.delivered_files()
    assert line.delivered("pkg/three.txt") == "three\n"


def test_merges_follow_the_plan_and_not_the_clock(line: Outcome) -> None:
    """The slowest stands first in the plan, so it is merged first."""
    settled = [fact["workstream"] for fact in line.payloads("workstream_transitioned", to_state="merging")]
    assert settled.index("ws-c") < settled.index("ws-a")
    planned = [name for wave in line.payloads("wave_started") for name in wave["workstreams"]]
    assert planned[:2] == ["ws-a", "ws-b"]
    assert line.merged() == [name for name in planned if name in line.merged()]
    assert line.merged() == ["ws-a", "ws-c", "ws-move", "ws-stay", "ws-z"]


def test_allowed_to_change_nothing_is_completed_without_a_merge(line: Outcome) -> None:
    assert line.state("ws-nothing") == "completed"
    assert line.payloads("step_skipped", workstream="ws-nothing", step="merge")[0]["reason"] == "nothing_to_merge"
    assert line.state("ws-z") == "completed"


def test_a_refused_merge_blocks_its_dependents(line: Outcome) -> None:
    assert line.state("ws-zz") == "blocked"
    assert line.reason("ws-zz") == "dependency ws-b failed"
    assert line.run.state == "partial"


def test_fail_fast_starts_nothing_more(lab: Lab, repo: Path) -> None:
    """What is running is brought to its end and merged; what has not begun is cancelled."""
    commit_files(repo, FILES)
    run = lab.run(
        repo,
        [
            bundle("ws-a", "fail", "a.txt"),
            bundle("ws-b", "edit-slowly", "b.txt"),
            bundle("ws-c", "edit", "c.txt"),
            bundle("ws-d", "edit", "d.txt", depends_on=["ws-b"]),
        ],
        TOOLS,
        fail_fast=True,
        max_workers=2,
    )
    assert run.states() == {"ws-a": "failed", "ws-b": "completed", "ws-c": "cancelled", "ws-d": "cancelled"}
    assert "exit code 7: no way" in run.reason("ws-a")
    assert "fail_fast" in run.reason("ws-c")
    assert run.of("ws-c") == run.of("ws-d") == []
    assert run.delivered("b.txt") == "b\nnew\n"


def test_waves_keep_their_distance_and_workers_their_number(lab: Lab, repo: Path) -> None:
    """`wave_delay` lies between the end of a wave and the start of the next; `max_workers` 1 runs one at a time."""
    commit_files(repo, FILES)
    run = lab.run(
        repo,
        [
            bundle("ws-a", "edit", "a.txt"),
            bundle("ws-c", "edit", "c.txt"),
            bundle("ws-d", "edit", "d.txt", depends_on=["ws-a"]),
        ],
        TOOLS,
        wave_delay_s=0.7,
        max_workers=1,
    )
    assert run.run.state == "completed"
    times = {kind: [e.time_ns for e in run.events if e.kind == kind] for kind in ("wave_started", "wave_finished")}
    assert times["wave_started"][1] - times["wave_finished"][0] >= 0.7e9
    tools = [e for e in run.events if e.kind in {"step_started", "step_finished"}]
    assert [e.kind for e in tools] == ["step_started", "step_finished"] * (len(tools) // 2)


def test_a_branch_that_somebody_moved_is_not_overwritten(lab: Lab, repo: Path) -> None:
    """The delivery is refused, the run says so, and the branch stays as it was put."""
    mine = commit_files(repo, FILES)
    git(repo, "branch", "swell/run-e2e-taken")
    run = lab.run(repo, [bundle("ws-a", "edit", "a.txt")], TOOLS, run="run-e2e-taken")
    assert run.run.state == "partial"
    assert "swell/run-e2e-taken" in run.run.reason
    assert git(repo, "rev-parse", "swell/run-e2e-taken") == mine
