"""`swell costs` and `swell stats`: amounts that are exact, labels that lead to them, CSV that no spreadsheet executes."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, bundle, git
from typer.testing import Result

import swell as api
from swell.client import Client
from swell.cluster import connected
from swell.costs import cost_lines, csv_text, month_of
from swell.errors import SwellError
from swell.moments import moment_ns
from swell.settings import RunSettings, from_environment, layered, parse_labels
from swell.stats import stat_lines
from swell.submission import named_by, tenant_of
from swell.values import Costs, CriticalLink, Evidence, Metrics, Recommendation, Spent, ToolFigures

SAY = 'import sys; open(sys.argv[1], "a").write("# changed\\n"); print(\'{"cost": 0.30, "model": "gpt-4"}\')'
AGENT = {
    "type": "ai",
    "command": "{python}",
    "args": ["-c", SAY, "{files}"],
    "adapter": "generic",
    "result": {"format": "json", "cost_usd": "/cost", "model": "/model"},
}


def row(*key: str, cost_nano: int | None = 0, **more: Any) -> Costs:
    counts = dict.fromkeys(field for field in Costs.__struct_fields__ if field not in {"key", "cost_nano"})
    zeros = {field: None if field == "list_cost_nano" else 0 for field in counts}
    return Costs(**{**zeros, "key": list(key), "cost_nano": cost_nano, **more})


@pytest.mark.usefixtures("cluster")
def test_labels_lead_from_the_command_line_to_the_bill(
    repo: Path, bundles: Callable[..., Path], swell: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Option over environment over repository, each label for itself; then by label, by month as CSV, and as statistics."""
    (repo / "tools.json").write_text(json.dumps(PROFILES | {"agent": AGENT}))
    settings = (
        repo / "swell.toml"
    ).read_text() + 'tenant = "acme"\n[labels]\nteam = "pay"\nci = "no"\nwhere = "here"\n'
    (repo / "swell.toml").write_text(settings)
    git(repo, "commit", "-qam", "an agent")
    monkeypatch.setenv("SWELL_LABELS", "ci=maybe,who=me")
    folder = bundles(bundle("ws-a", "agent"), bundle("ws-b", "agent", scope="src/b.py"))
    ran = swell("run", folder, "--repo", repo, "--label", "ci=yes", "--label", "formula==1+1", "--json")
    assert ran.exit_code == 0, ran.output
    with connected() as endpoints, Client(endpoints) as client:
        run = client.list_runs(limit=1)[0].run
        (asked,) = client.list_events(run, kinds=["run_accepted"])
    labels = {"ci": "yes", "formula": "=1+1", "team": "pay", "where": "here", "who": "me"}
    assert (asked.payload["labels"], asked.payload["tenant"]) == (labels, "acme")

    found = json.loads(swell("costs", run, "--by", "tool,label:ci,label:formula", "--json").stdout)
    assert [(one["key"], one["cost_nano"]) for one in found["rows"]] == [(["agent", "yes", "=1+1"], 600_000_000)]
    shown = swell("costs", run, "--label", "team=pay", "--tenant", "acme")
    assert "$0.60" in shown.stdout
    month = datetime.now(UTC).strftime("%Y-%m")
    lines = list(csv.DictReader(io.StringIO(swell("costs", run, "--month", month, "--csv").stdout)))
    wanted = {
        "repository": str(repo),
        "tenant": "acme",
        "tool": "agent",
        "model": "gpt-4",
        "cost_usd": "0.60",
        "attempts": "2",
    }
    assert [{key: line[key] for key in wanted} for line in lines] == [wanted]
    other = list(csv.DictReader(io.StringIO(swell("costs", run, "--by", "label:formula", "--csv").stdout)))
    assert other[0]["label:formula"] == "'=1+1"

    told = json.loads(swell("stats", run, "--json").stdout)
    assert (told["total_workstreams"], told["successful"], told["workers"]) == (2, 2, 4)
    assert sum(link["duration_s"] for link in told["critical_path"]) == pytest.approx(told["wall_s"])
    assert told["costs"]["cost_nano"] == 600_000_000
    assert "agent" in swell("stats", run).stdout
    metrics = api.get_run_metrics(run)
    assert metrics["avg_duration_sec"] == pytest.approx(metrics["total_duration_sec"] / 2)
    assert api.get_costs(["tool"], run=run)["total"]["cost_nano"] == 600_000_000
    with pytest.raises(SwellError, match="boredom"):
        api.get_costs(boredom=1)
    with pytest.raises(SwellError, match="labels: 'A' is no label"):
        api.get_costs(labels={"A": "b"})


@pytest.mark.usefixtures("cluster")
def test_what_is_tried_again_stays_with_its_labels_and_tenant(repo: Path) -> None:
    context = {
        "repo_root": repo,
        "recovery": str(repo.parent / "once.yaml"),
        "labels": {"team": "pay"},
        "tenant": "acme",
    }
    (repo.parent / "once.yaml").write_text("classes:\n  tool_failed: [review]\n")
    run = f"again-{repo.parent.name}"[:60]
    assert api.run_workstream(run, "ws-a", bundle("ws-a", "break"), context)["success"] is False
    again = api.retry_run(run)
    api.cancel_run(again)
    with connected() as endpoints, Client(endpoints) as client:
        (asked,) = client.list_events(again, kinds=["run_requested"])
    assert (asked.payload["labels"], asked.payload["tenant"]) == ({"team": "pay"}, "acme")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--by", "nothing"], ["--csv", "--json"], ["--month", "2026-13"], ["--month", "2026-11", "--since", "1d"],
        ["--since", "2026-11-02", "--until", "2026-11-01"], ["--since", "yesterday"], ["--label", "team"],
        ["--tenant", "a b"], ["no-such-run-at-all"],
    ],
)  # fmt: skip
@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_asked_ends_with_2(swell: Callable[..., Result], arguments: list[str]) -> None:
    ended = swell("costs", *arguments)
    assert ended.exit_code == 2, ended.output
    assert ended.output.startswith("error: ")


# CSV


def test_csv_is_exact_whole_and_executes_nothing() -> None:
    hostile = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "a,b", 'say "x"', "two\nlines", "plain", ""]
    rows = [row(text, cost_nano=nano) for text, nano in zip(hostile, range(10), strict=True)]
    text = csv_text(
        ("label:x",), [*rows, row("unknown", cost_nano=None, unpriced=1), row("much", cost_nano=10**18 + 1)]
    )
    assert text.count("\r\n") == len(rows) + 2, "RFC 4180 ends lines with both"
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0][:3] == ["label:x", "cost_usd", "list_cost_usd"]
    assert [line[0] for line in read[1:11]] == [f"'{t}" if t[:1] in {*"=+-@\t"} and t else t for t in hostile]
    assert [line[1] for line in read[1:4]] == ["0.00", "0.000000001", "0.000000002"]
    assert read[11][1] == ""
    assert read[12][1] == "1000000000.000000001"


@pytest.mark.parametrize(
    ("nano", "text"), [(10**9, "1.00"), (1_500_000_000, "1.50"), (125_000, "0.000125"), (12 * 10**9 + 10**7, "12.01")]
)
def test_amounts_are_written_as_decimals(nano: int, text: str) -> None:
    assert csv_text((), [row(cost_nano=nano)]).splitlines()[1].split(",")[0] == text


# Times


def test_a_month_ends_where_the_next_begins() -> None:
    begin, end = month_of("2026-12")
    assert (begin, end) == (moment_ns("", "2026-12-01T00:00Z"), moment_ns("", "2027-01-01T00:00Z"))
    assert month_of("2024-02")[1] - month_of("2024-02")[0] == 29 * 86_400 * 10**9


# Tables


def test_a_table_tells_what_it_leaves_out() -> None:
    total = row(cost_nano=5 * 10**9, unpriced=2, lower_bounds=1, attempts=9)
    spent = Spent(rows=[row("\x1b[31m", cost_nano=None)], total=total, groups=3, price_tables=["t-1"], position=1)
    text = "\n".join(cost_lines(("tool",), spent))
    assert "\x1b" not in text
    for wanted in (
        "unknown",
        "$5.00",
        "2 rows more",
        "what 2 attempts cost is not known",
        "1 attempt ended",
        "t-1",
    ):
        assert wanted in text


def metrics(**known: Any) -> Metrics:
    """Figures of nothing, but for what is given."""
    empty: dict[str, Any] = dict.fromkeys(Metrics.__struct_fields__) | {
        field: [] for field in (
            "tools", "durations", "queue_waits", "fix_attempts", "breaker_trips", "errors", "recoveries", "flaky_gates",
            "contexts", "critical_path", "recommendations",
        )
    } | dict.fromkeys(
        ("runs", "total_workstreams", "successful", "failed", "total_duration_sec", "wave_count", "single_waves",
         "merge_conflicts", "gate_failures", "position"), 0,
    ) | {"utilization_basis": "", "costs": row()}  # fmt: skip
    return Metrics(**empty | known)


def test_statistics_leave_out_what_cannot_be_known() -> None:
    text = "\n".join(stat_lines(metrics()))
    assert "None" not in text
    assert "efficiency" not in text
    link = CriticalLink(kind="step", workstream="ws-a", attempt=1, step="edit", tool="x", started_ns=1, duration_s=7)
    advice = Recommendation(
        category="workers", current_value="8", recommended_value="2", expected_improvement="less", reasoning="idle",
        evidence=[Evidence(name="peak", value=2, source="peak_parallelism")],
    )  # fmt: skip
    text = "\n".join(stat_lines(metrics(critical_path=[link], recommendations=[advice])))
    for wanted in ("7.0 s  step  ws-a  edit 1", "workers: 8 -> 2", "peak = 2 (peak_parallelism)"):
        assert wanted in text


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ({"cost_nano": 0, "attempts": 0, "unpriced": 0}, "-"),
        ({"cost_nano": None, "attempts": 2, "unpriced": 2}, "?"),
        ({"cost_nano": 270_000_000, "attempts": 2, "unpriced": 1}, "$0.27+?"),
        ({"cost_nano": 270_000_000, "attempts": 2, "unpriced": 0}, "$0.27"),
    ],
)
def test_the_cost_of_a_tool_says_what_of_it_is_known(known: dict[str, Any], shown: str) -> None:
    tool = ToolFigures(tool="agent", workstreams=2, completed=2, first_pass=2, fix_attempts=0, **known)
    (line,) = [line for line in stat_lines(metrics(tools=[tool])) if line.startswith("agent")]
    assert line.split()[-1] == shown


# Labels


def test_labels_of_layers_come_together() -> None:
    found = layered(RunSettings(labels={"a": "1"}), RunSettings(), RunSettings(labels={"a": "2", "b": "3"}))
    assert found.labels == {"a": "1", "b": "3"}
    assert layered(RunSettings()).labels is None
    assert from_environment({"SWELL_LABELS": "a=1, b=x=y", "SWELL_TENANT": "t"}).labels == {"a": "1", "b": "x=y"}


def test_bad_labels_and_tenants_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(SwellError, match="KEY=VALUE"):
        parse_labels(["team"])
    with pytest.raises(SwellError, match="no label"):
        named_by({"Team": "x"})
    with pytest.raises(SwellError, match="no tenant"):
        tenant_of("a b")
