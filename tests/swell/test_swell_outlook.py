"""`swell plan` beyond waves: estimates, what conflicts, a picture, and more workstreams than one run takes."""

import json
import re
from pathlib import Path

import pytest
from small_repository import bundle

from services import bundle as bundle_module


def test_a_plan_prints_what_it_always_did_and_no_forecast_unless_asked(swell, repo: Path, bundles):
    folder = bundles(bundle("ws-a"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    done = swell("plan", folder, "--repo", repo)
    assert done.exit_code == 0
    assert done.output.splitlines()[:3] == [
        "wave  workstream  after  why",
        "1     ws-a        -      no dependencies",
        "2     ws-b        ws-a   depends on ws-a in wave 1",
    ]
    assert "what if" not in done.output
    told = json.loads(swell("plan", folder, "--repo", repo, "--json").output)
    assert (told["plan"]["waves"], told["what_if"]["4"], told["forecast"]) == ([["ws-a"], ["ws-b"]], 2, None)


def test_what_if_there_were_so_many(swell, repo: Path, bundles):
    folder = bundles(*(bundle(f"ws-{n}", scope=f"src/{n}.py") for n in range(6)))
    done = swell("plan", folder, "--repo", repo, "--workers", 4, "--workers", 6, "--executors", 1, "--slots", 3)
    rows = [line.split() for line in done.output.splitlines() if re.match(r"  \d", line)]
    assert rows == [["4", "1", "3", "2", "steps", "2", "steps"], ["6", "1", "3", "2", "steps", "2", "steps"]]
    assert "no fleet is faster than 1 steps" in done.output
    refused = swell("plan", folder, "--repo", repo, "--slots", 3)
    assert (refused.exit_code, "--executors" in refused.output) == (2, True)


def test_what_overlaps_is_told_in_text_json_and_picture(swell, repo: Path, bundles):
    folder = bundles(bundle("ws-a", scope="src"), bundle("ws-b", scope="src/b.py"))
    assert "SCOPE_OVERLAP ws-a: is independent of ws-b" in swell("plan", folder, "--repo", repo).output
    told = json.loads(swell("plan", folder, "--repo", repo, "--json").output)
    assert told["overlaps"] == [
        {"workstream": "ws-a", "other": "ws-b", "pattern": "src", "other_pattern": "src/b.py"}
    ]  # fmt: skip
    assert "n0 -. conflict .- n1" in swell("plan", folder, "--repo", repo, "--mermaid").output


def test_the_picture_has_frames_boxes_and_arrows(swell, repo: Path, bundles):
    folder = bundles(
        bundle("ws-a"), bundle("ws-end", scope="src/b.py", depends_on=["ws-a"]), bundle("ws-c", scope="src/c.py")
    )
    assert swell("plan", folder, "--repo", repo, "--mermaid").output.splitlines() == [
        "flowchart LR",
        '  subgraph w1["wave 1"]',
        '    n0["ws-a"]',
        '    n1["ws-c"]',
        "  end",
        '  subgraph w2["wave 2"]',
        '    n2["ws-end"]',
        "  end",
        "  n0 ==> n2",
    ]


def test_a_large_picture_is_drawn_by_its_waves(swell, repo: Path, bundles):
    chain = [bundle(f"ws-{n:03}", scope=f"src/{n}.py", depends_on=[f"ws-{n - 1:03}"] if n else []) for n in range(200)]
    lines = swell("plan", bundles(*chain), "--repo", repo, "--mermaid").output.splitlines()
    assert lines[1] == '  w1["wave 1: 1 workstreams"]'
    assert '  rest["50 more waves: 50 workstreams"]' in lines
    assert "  w1 -->|1| w2" in lines
    assert len(lines) < 400


def test_json_and_mermaid_exclude_each_other(swell, repo: Path, bundles):
    refused = swell("plan", bundles(bundle("ws-a")), "--repo", repo, "--json", "--mermaid")
    assert (refused.exit_code, "JSON or as Mermaid" in refused.stderr) == (2, True)


def test_more_workstreams_than_a_run_takes_are_planned_with_a_warning(swell, repo: Path, bundles, monkeypatch):
    folder = bundles(*(bundle(f"ws-{n}", scope=f"src/{n}.py") for n in range(5)))
    for name in ("services.plan.WORKSTREAMS_MAX", "services.bundle.WORKSTREAMS_MAX"):
        monkeypatch.setattr(name, 4)
    planned = swell("plan", folder, "--repo", repo)
    assert (planned.exit_code, "BEYOND_ONE_RUN" in planned.output) == (0, True)
    assert swell("validate", folder, "--repo", repo).exit_code == 2
    monkeypatch.setattr(bundle_module, "PLANNED_MAX", 4)
    refused = swell("plan", folder, "--repo", repo)
    assert (refused.exit_code, "more than 4 workstreams" in refused.stderr) == (2, True)


def test_what_a_budget_and_a_window_do_not_hold_is_told(swell, repo: Path, bundles, tmp_path: Path):
    profiles = tmp_path / "profiles.json"
    profiles.write_text(json.dumps({"small": {"command": "true", "type": "ai", "context_tokens": 1000}}))
    folder = bundles(
        bundle("ws-a", "small", max_cost_usd=3, estimated_context_tokens=1001),
        bundle("ws-b", "small", "src/b.py", max_cost_usd=2.5, estimated_context_tokens=1000),
    )
    output = swell("plan", folder, "--repo", repo, "--tool-profiles", profiles, "--budget", 5).output
    assert "LIMITS_OVER_BUDGET: the workstreams may cost 5.5 USD together, more than the budget of 5 USD" in output
    assert "CONTEXT_OVER_WINDOW ws-a: expects more" in output
    assert "LIMITS_OVER_BUDGET" not in swell("plan", folder, "--repo", repo, "--budget", 5.5).output


@pytest.mark.parametrize(
    ("scope", "created", "told"),
    [
        ("src/a.py", [], False), ("src", [], False), ("src/*.py", [], False), ("*.py", [], False), ("**", [], False),
        ("src/z.py", [], True), ("src/a.pyi", [], True), ("src/*.go", [], True), ("lib", [], True), ("*.md", [], True),
        ("docs/new.md", ["docs/new.md"], False), ("docs", ["docs/new.md"], False),
    ],
)  # fmt: skip
def test_a_scope_that_stands_for_no_file_is_told(swell, repo: Path, bundles, scope, created, told):
    folder = bundles(bundle("ws-a", scope=scope, files_create=created))
    assert ("SCOPE_UNMATCHED" in swell("plan", folder, "--repo", repo).output) == told


def test_an_earlier_run_tells_durations_and_files(cluster: Path, swell, repo: Path, bundles):
    folder = bundles(bundle("ws-a"), bundle("ws-b", scope="src/b.py"))
    assert swell("run", folder, "--repo", repo, "--run", "run-before").exit_code == 0
    narrow = bundles(bundle("ws-a", scope="src/c.py"), bundle("ws-b", scope="src/b.py"), bundle("ws-c", scope="src"))
    told = json.loads(swell("plan", narrow, "--repo", repo, "--like", "run-bef", "--json").output)["forecast"]
    assert (told["like"], told["unit"]) == ("run-before", "s")
    assert told["work"] > 0
    assert {finding["code"] for finding in told["findings"]} == {"NO_HISTORY", "CHANGED_OUTSIDE_SCOPE"}
    shown = swell("plan", narrow, "--repo", repo, "--like", "run-before")
    assert "what if (as in run run-before" in shown.output
    assert "warning: CHANGED_OUTSIDE_SCOPE ws-a: changed src/a.py in run run-before" in shown.output
    missing = swell("plan", narrow, "--repo", repo, "--like", "no-such-run")
    assert missing.exit_code == 2
