"""A report of a run over the real ledger: its figures are those of the rows, on the terminal, as JSON, and in the page."""

import asyncio
import contextlib
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from ledger_histories import BASE, START_NS, MemoryObjects, Story, moved, scheduled, sha256, snapshot
from test_ledger_server import pages, serving

from services import events as ev
from services.bundle import WorkstreamBundle
from services.bus import Recorded
from services.checks import Checks
from services.ledger.v1 import ledger_pb2 as pb
from services.outcome import Cost, Usage
from services.spec import Options, Repository, RunSpec, encode_spec
from services.wire import run_subject
from swell.client import Client
from swell.report.material import Material
from swell.report.page import page
from swell.report.terminal import report_lines
from swell.screen import Screen
from swell.values import Endpoints

CENT = 10**7
DIAGNOSTICS = msgspec.json.encode(
    {
        "checks": [{"check": "mypy", "exit_code": 1, "output_tail": "many words"}],
        "diagnostics": [{"path": "src/a.py", "line": 3, "code": "arg-type", "message": "wrong"}],
    }
)
PATCH = b"""diff --git a/src/a.py b/src/a.py
index 111..222 100644
--- a/src/a.py
+++ b/src/a.py
@@ -1,2 +1,2 @@
-A = 1
+A = 2
 B = 1
"""


class TimedStory(Story):
    """A story whose entries are recorded when it says."""

    def __init__(self) -> None:
        super().__init__()
        self.s = 0.0
        self.objects: dict[str, bytes] = {}

    def raw(self, subject: str, data: bytes) -> Recorded:
        record = Recorded(len(self.records) + 1, subject, START_NS + int(self.s * 1e9), data)
        self.records.append(record)
        return record

    def kept(self, role: str, data: bytes) -> ev.Artifact:
        name = f"{role}-{len(self.objects)}"
        self.objects[name] = data
        return ev.Artifact(role=role, digest=sha256(data), name=name, size_bytes=len(data))

    def attempt(self, name: str, number: int, step: str, times: tuple[float, float, float], finish, **rest) -> None:
        """An attempt that is scheduled, claimed and finished at these seconds."""
        self.s = times[0]
        self.decide(scheduled(name, number, step, **rest))
        self.s = times[1]
        self.live(name, number, ev.StepStarted(executor="e1", boot="k1"))
        self.s = times[2]
        self.live(name, number, finish)


def worked(story: TimedStory, cents: int | None, model="opus", basis="reported", **rest) -> ev.StepFinished:
    """A coding tool's result: a patch, its tokens, what it cost."""
    return ev.StepFinished(
        ok=True,
        snapshot=snapshot("d"),
        files=["src/a.py"],
        files_total=1,
        artifacts=[story.kept("patch", PATCH)],
        usage=Usage(input_tokens=1000, cache_read_tokens=300, output_tokens=50),
        cost=None if cents is None else Cost(nano_usd=cents * CENT, basis=basis),
        model=model,
        provider="anthropic",
        **rest,
    )


def spec_of(**after: tuple[str, ...]) -> bytes:
    bundles = [
        WorkstreamBundle(
            id=f"ws-{name}",
            openspec_change="OS-1",
            ccpm_issue=1,
            gate=1,
            files_scope=(f"src/{name}.py",),
            tasks=("do it",),
            tool="claude",
            depends_on=tuple(f"ws-{one}" for one in depends_on),
        )
        for name, depends_on in after.items()
    ]
    return encode_spec(
        RunSpec(
            run="r1",
            repository=Repository(location="repo", base_commit=BASE.commit),
            bundles=bundles,
            waves=[["ws-a", "ws-b"], ["ws-c"]],
            checks=Checks(),
            profiles={},
            options=Options(max_workers=2, budget_nano=100 * CENT),
        )
    )


def told() -> TimedStory:
    """Two waves: ws-a is mended once and merged; ws-b fails with a tool whose cost nobody knows; ws-c waits for a person."""
    story = TimedStory()
    known = {
        "request_id": "q", "actor": "ann", "spec": story.kept("spec", spec_of(a=(), b=(), c=("a",))), "workstreams": 3,
        "repository": "https://example.org/repo", "base_commit": BASE.commit, "labels": {"team": "core"}, "tenant": "acme",
    }  # fmt: skip
    story.decide(
        ev.RunAccepted(**known),
        ev.RunTransitioned(from_state="pending", to_state="running"),
        ev.WaveStarted(wave=0, workstreams=["ws-a", "ws-b"]),
    )
    ai = {"tool": "claude", "cap": "soft", "cap_nano": 50 * CENT}
    story.attempt("ws-a", 1, "edit", (0, 1, 11), worked(story, 12), **ai)
    story.attempt("ws-b", 1, "edit", (11, 11, 13), worked(story, None, model=""), **{**ai, "tool": "aider"})
    red = ev.StepFinished(
        ok=False, error_class="check_failed", message="mypy: wrong", signature="s1",
        artifacts=[story.kept("diagnostics", DIAGNOSTICS)],
    )  # fmt: skip
    story.attempt("ws-a", 2, "static", (13, 13, 15), red)
    story.attempt("ws-b", 2, "static", (15, 15, 16), red)
    story.attempt("ws-a", 3, "fix", (16, 17, 21), worked(story, 3, model="haiku", basis="list"), **ai)
    story.decide(moved("ws-a", "fixing", "static_check"), moved("ws-b", "static_check", "failed", "its FIX went round"))
    story.attempt("ws-a", 4, "static", (21, 21, 23), ev.StepFinished(ok=True))
    merged = ev.StepFinished(ok=True, snapshot=snapshot("e"))
    story.attempt(ev.LINE, 1, "merge", (23, 23, 24), merged, on_behalf="ws-a")
    story.decide(
        ev.IntegrationAdvanced(workstream="ws-a", from_commit=BASE.commit, to=snapshot("e")),
        moved("ws-a", "merging", "completed", "merged"),
        ev.LineDelivered(ref="refs/heads/swell/r1", commit="e" * 40),
        ev.WaveFinished(wave=0),
        ev.WaveStarted(wave=1, workstreams=["ws-c"]),
    )
    across = [
        ev.ToolBreakerOpened(tool=tool, failures=3, until_ns=START_NS, reason=f"{tool} is down")
        for tool in ("claude", "unused", "provider:anthropic")
    ]
    paused = [
        ev.FleetPaused(scope=scope, name=name, actor="bob")
        for scope, name in (("pool", "p"), ("pool", "other"), ("all", ""))
    ]
    story.entry(run_subject("fleet"), *across, *paused, run="fleet")
    # Its executor was given up: what it tells later counts.
    story.decide(scheduled("ws-c", 1, "edit", **ai))
    story.live("ws-c", 1, ev.StepStarted(executor="e1", boot="k1"))
    story.s = 30
    story.live("ws-c", 1, ev.StepLost(reason="its executor is gone", executor="e1"))
    story.late("ws-c", 1, ev.ResultRefused(executor="e1", boot="k1", result=worked(story, 7)))
    story.decide(moved("ws-c", "editing", "awaiting_review", "lost twice"))
    story.s = 5000
    story.decide(
        ev.ReviewResolved(workstream="ws-c", verdict="retry", actor="bob"), moved("ws-c", "awaiting_review", "ready")
    )
    story.decide(scheduled("ws-c", 2, "edit", **ai))
    return story


@contextlib.asynccontextmanager
async def reported(folder: Path, story: TimedStory):
    """The material of a report, 5 s after the last entry, and the ledger that it was read from."""
    objects = MemoryObjects(**story.objects)
    async with serving(folder, story.records, objects=objects) as ledger:
        client = Client(Endpoints(scheduler="127.0.0.1:1", ledger=ledger.address))
        now_ns = START_NS + int((story.s + 5) * 1e9)
        try:
            yield await asyncio.to_thread(Material.of, client, "r1", now_ns, diffs=True), ledger
        finally:
            await asyncio.to_thread(client.close)


class Page(HTMLParser):
    """What a page says: its elements, the text of its tables by cell, and every `data` value by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.data: dict[str, str] = {}
        self.tags: list[str] = []
        self._table: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        match tag:
            case "table":
                self._table = self.tables.setdefault(given.get("id", ""), [])
            case "tr":
                self._table.append([])
            case "td" | "th":
                self._in_cell = True
                self._table[-1].append("")
            case "data":
                self.data.setdefault(given.get("id", ""), given["value"])
                if self._in_cell:
                    self._table[-1][-1] += f"={given['value']} "

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in {"td", "th"}

    def handle_data(self, data):
        if self._in_cell:
            self._table[-1][-1] += data


def cents(cell: str) -> int:
    return int(re.match(r"=(\d+) ", cell)[1]) // CENT


async def test_every_figure_of_a_page_is_that_of_the_rows(tmp_path):
    async with reported(tmp_path, told()) as (material, ledger):
        attempts = await pages(ledger.stub.ListAttempts, pb.ListAttemptsRequest(run="r1"), "attempts")
        run = (await ledger.stub.GetRun(pb.GetRunRequest(run="r1"))).run
    shown = Page(page(material))
    total = sum(attempt.cost_nano for attempt in attempts)
    assert total == run.cost_nano == int(shown.data["cost"]) == 22 * CENT
    assert run.unpriced == int(shown.data["unpriced"]) == 1
    for kind, rows in {
        "tool": {"claude": 22, "aider": 0},
        "model": {"anthropic/opus": 19, "anthropic/haiku": 3, "not said": 0},
        "step": {"edit": 19, "fix": 3},
        "basis": {"reported": 19, "list": 3, "not said": 0},
    }.items():
        head, *body, foot = shown.tables[f"by-{kind}"]
        assert {row[0]: cents(row[1]) for row in body} == rows
        assert (cents(foot[1]), foot[2]) == (22, "4")
        for column, name in ((4, "input_tokens"), (5, "cache_read_tokens"), (7, "output_tokens")):
            assert head[column] in {"tokens in", "from a cache", "out"}
            in_rows = sum(int(row[column].partition(" ")[0][1:]) for row in body)
            assert in_rows == sum(getattr(one, name) for one in attempts) == getattr(run, name)
    assert int(shown.data["position"]) == material.status.position


async def test_a_report_tells_what_happened(tmp_path):
    async with reported(tmp_path, told()) as (material, _):
        lines = report_lines(material, Screen())
    text = "\n".join(lines)
    for said in (
        "run r1 running",
        "1/3 completed, 1 failed",
        "$0.22, and that of 1 of 4 attempts, which nobody knows",
        "4000 in, 1200 from a cache, 200 out",
        "https://example.org/repo at bbbbbbbbbbbb",
        "team=core",
        "acme",
        "branch swell/r1 at eeeeeeeeeeee",
        "$1.00, of which $0.22 are spent",
        "ws-a (11.0 s) -> ws-b (2.0 s) -> ws-a (10.0 s) -> the line (1.0 s) -> ws-c (6.0 s)",
        "ws-b/2 static: check_failed",
        "src/a.py:3: arg-type wrong",
        "ws-a/2 static: check_failed (later mended)",
        "edit waits for a free slot in pool p, for 5.0 s",
        "its FIX went round",
        "ws-c review: retry by bob",
        "delivered: branch swell/r1",
        "claude is down",
        "provider:anthropic is down",
        "pool p paused by bob",
        "everything paused by bob",
    ):
        assert said in text, text
    assert "unused" not in text
    assert "pool other" not in text
    assert "many words" not in text, "findings say more than output"
    same = lines[lines.index("The same again") + 2]
    assert same.split() == ["2", "check_failed", "static", "ws-a,ws-b", "mypy:", "wrong"]


async def test_the_json_of_a_report_holds_its_figures(tmp_path):
    async with reported(tmp_path, told()) as (material, ledger):
        found = msgspec.json.decode(material.json())
        told_to_others = await ledger.stub.GetMetrics(pb.GetMetricsRequest(selection=pb.Selection(run="r1")))
    figures = found["figures"]
    assert figures["utilisation"] == told_to_others.worker_utilization
    assert [(link["kind"], link["workstream"], link["duration_s"]) for link in figures["critical_path"]] == [
        (link.kind, link.workstream, link.duration_s) for link in told_to_others.critical_path
    ]
    assert (figures["spent"]["cost_nano"], figures["spent"]["unpriced"]) == (22 * CENT, 1)
    assert figures["workers"] == 2
    assert [wave["completed"] for wave in figures["waves"]] == [1, 0]
    assert figures["waves"][0]["took_s"] == 24
    assert [(one["tool"], one["passed"], one["ended"], one["fixes"]) for one in figures["first_pass"]] == [
        ("aider", 0, 1, 0),
        ("claude", 0, 1, 1),
    ]
    queue = figures["queue"]
    assert (queue["count"], queue["max_s"], queue["total_s"]) == (8, 1, 2)


async def test_artifacts_that_are_gone_are_said_to_be(tmp_path):
    story = told()
    story.objects.clear()
    async with reported(tmp_path, story) as (material, _):
        text = page(material)
    assert material.definition.workers == 0
    assert all("not stored" in diff.missing for diff in material.diffs)
    assert len(material.diffs) == 2
    assert "artifacts are collected once no live run refers to them" in text


async def test_of_a_diff_of_ten_megabytes_only_the_beginning_is_read(tmp_path):
    story = told()
    large = PATCH + b"+one more line\n" * (10 * 2**20 // 15)
    kept = story.kept("patch", large)
    story.live("ws-c", 2, ev.StepStarted(executor="e1", boot="k1"))
    story.live(
        "ws-c", 2, ev.StepFinished(ok=True, snapshot=snapshot("f"), files=["x"], files_total=1, artifacts=[kept])
    )
    async with reported(tmp_path, story) as (material, _):
        text = page(material)
    diff = next(diff for diff in material.diffs if diff.workstream == "ws-c")
    assert len(diff.text) + diff.cut_bytes == len(large)
    assert diff.text.endswith("+one more line\n")
    assert len(text) < 2**18
    assert "9.9 MiB more are not shown: <code>swell diff r1 ws-c</code>" in text


async def test_waves_are_listed_in_pages(tmp_path):
    async with serving(tmp_path, told().records) as ledger:
        request = pb.ListWavesRequest(run="r1", page_size=1)
        waves = await pages(ledger.stub.ListWaves, request, "waves")
        assert [(wave.wave, wave.workstreams, wave.finished_ns > 0) for wave in waves] == [(0, 2, True), (1, 1, False)]
        with pytest.raises(Exception, match="no run"):
            await ledger.stub.ListWaves(pb.ListWavesRequest(run="no"))
