"""The audit over gRPC: verify, anchors, and lines of JSON that are as many as the rows."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import grpc
import pytest
from ledger_histories import START_NS, Story, scheduled, steady
from test_ledger_server import reason, serving

from services import events as ev
from services.ledger import export
from services.ledger.v1 import ledger_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]


def story() -> Story:
    """Runs, something that is no text, and an event on several lines."""
    told = Story()
    told.records = steady(2, 3)
    told.raw("swell.event.run0.run", b"\xff\xfe no entry")
    told.raw(
        "swell.event.run0.run",
        b'{"id":"x","run":"run0","at_ns":1,"by":"b","events":[{"kind":"k",\n "text":"a\\nb",\r\n"n":1}]}',
    )
    return told


RECORDS = story().records


async def lines(stub, table: str, **asked) -> tuple[list[dict], pb.ExportEnd]:
    """Every line, parsed, and what the ledger says of their number."""
    said = [answer async for answer in stub.ExportAudit(pb.ExportAuditRequest(table=table, **asked))]
    assert said[-1].WhichOneof("said") == "end"
    text = b"".join(answer.lines for answer in said)
    assert not text or text.endswith(b"\n")
    found = [json.loads(line) for line in text.splitlines()]
    assert len(found) == said[-1].end.rows
    return found, said[-1].end


def chain_of(file: Path, exported: list[dict]) -> str:
    """What the program in docs/audit.md prints of exported entries, or (empty) complains of."""
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "audit.md").read_text(), re.DOTALL | re.MULTILINE
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in exported))
    told = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    return told.stdout.strip()


async def test_exported_lines_are_the_rows_and_prove_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PIECE_BYTES", 2000)
    monkeypatch.setattr(export, "POSITIONS", 7)
    async with serving(tmp_path, RECORDS) as ledger:
        entries, end = await lines(ledger.stub, "entries")
        assert [line["position"] for line in entries] == [record.sequence for record in RECORDS]
        assert end.position == len(RECORDS)
        anchor = (await ledger.stub.GetAnchor(pb.GetAnchorRequest())).anchor
        assert chain_of(tmp_path / "lines", entries) == f"{anchor.position}:{anchor.hash.hex()}"
        entries[4]["raw"] = entries[4]["raw"].replace("a", "b", 1)
        assert chain_of(tmp_path / "lines", entries) == ""
        events, _ = await lines(ledger.stub, "events")
        listed = []
        token = ""
        while True:
            page = await ledger.stub.ListEvents(pb.ListEventsRequest(page_size=1000, page_token=token))
            listed += page.events
            if not (token := page.next_page_token):
                break
        assert [(line["position"], line["idx"], line["kind"], line["entry"]) for line in events] == [
            (event.position, event.index, event.kind, event.entry) for event in listed
        ]
        assert [line["payload"] for line in events] == [json.loads(event.payload_json) for event in listed]


async def test_an_export_is_of_a_run_and_of_a_time(tmp_path):
    async with serving(tmp_path, RECORDS) as ledger:
        everything, _ = await lines(ledger.stub, "entries")
        of_run, _ = await lines(ledger.stub, "entries", run="run1")
        assert of_run == [line for line in everything if line["run"] == "run1"] != []
        since, until = START_NS + 5000, START_NS + 9000
        for table in ("entries", "events"):
            some, _ = await lines(ledger.stub, table, since_ns=since, until_ns=until)
            assert {line["position"] for line in some} == {5, 6, 7, 8}
        assert (await lines(ledger.stub, "events", run="nobody"))[0] == []
        assert (await lines(ledger.stub, "events", run="run0", since_ns=until + 10**15))[0] == []


@pytest.mark.parametrize(
    "asked",
    [
        {"table": ""}, {"table": "runs; DROP TABLE runs"}, {"table": "aim", "run": "r1"}, {"table": "events", "run": "a b"},
        {"table": "events", "since_ns": -1}, {"table": "events", "since_ns": 5, "until_ns": 5},
        {"table": "events", "since_ns": 6, "until_ns": 5},
    ],
)  # fmt: skip
async def test_what_cannot_be_exported_is_refused(tmp_path, asked):
    async with serving(tmp_path, RECORDS[:3]) as ledger:
        call = ledger.stub.ExportAudit(pb.ExportAuditRequest(**asked)).read()
        assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def invoked(days: list[int]) -> list:
    """One invocation by capability on each of these days after START_NS."""
    told = Story()
    told.accepted("a")
    prompt = ev.Artifact(role="prompt", digest="f" * 64, name="prompt-1", size_bytes=1)
    for number, day in enumerate(days, 1):
        told.decide(scheduled("a", number, "edit", tool="claude", capability="refactoring"))
        for event in (ev.StepStarted(executor="e1", boot="k1"), ev.StepFinished(ok=True, artifacts=[prompt])):
            record = told.live("a", number, event)
            moved = record.time_ns + day * export.DAY_NS
            told.records[-1] = type(record)(record.sequence, record.subject, moved, record.data)
    return told.records


@pytest.mark.parametrize(
    ("now_day", "kept_days", "since_day", "expected"),
    [
        (40, 30, 0, [20, 39]),
        (40, 0, 0, [0, 1, 1, 20, 39]),
        (40, 0, 10, [20, 39]),
        (5, 30, 0, [0, 1, 1, 20, 39]),
        (100, 30, 0, []),
    ],
    ids=["a month", "for ever", "since", "a clock that goes back", "all of it old"],
)
async def test_aim_records_are_told_as_long_as_they_are_kept(tmp_path, now_day, kept_days, since_day, expected):
    """One record for each attempt, of six fields, with a time in UTC; the log keeps what is no longer told."""
    records = invoked([0, 1, 1, 20, 39])
    since_ns = START_NS + since_day * export.DAY_NS if since_day else 0
    async with serving(
        tmp_path, records, aim_audit_days=kept_days, clock_ns=lambda: START_NS + now_day * export.DAY_NS
    ) as ledger:
        found, _ = await lines(ledger.stub, "aim", since_ns=since_ns)
    assert all(list(line) == ["timestamp", "actor", "tool_id", "capability", "payload", "result"] for line in found)
    assert all(line["timestamp"].endswith("Z") and line["payload"] == "f" * 64 for line in found)
    stamps = [line["timestamp"][:10] for line in found]
    first = invoked([0])[-2].time_ns // 10**9
    assert stamps == [f"{datetime.fromtimestamp(first + day * 86_400, UTC):%Y-%m-%d}" for day in expected]


async def verified(stub, **asked) -> tuple[list[pb.AuditFinding], pb.AuditResult]:
    said = [answer async for answer in stub.VerifyAudit(pb.VerifyAuditRequest(**asked))]
    assert said[-1].WhichOneof("said") == "result"
    return [one.finding for one in said if one.WhichOneof("said") == "finding"], said[-1].result


async def test_an_audit_is_told_in_full_and_findings_only_so_many(tmp_path):
    async with serving(tmp_path, RECORDS) as ledger:
        anchor = (await ledger.stub.GetAnchor(pb.GetAnchorRequest(position=9))).anchor
        assert (anchor.position, anchor.stream_created_ns, len(anchor.hash)) == (9, 42, 32)
        findings, result = await verified(ledger.stub, anchors=[anchor], with_log=True)
        assert (findings, result.ok, result.end, result.anchors) == ([], True, len(RECORDS), 1)
        assert result.logged == len(RECORDS)
    with duckdb.connect(str(tmp_path / "l")) as hand:
        hand.execute("UPDATE events SET kind = 'x'")
        hand.execute("UPDATE entries SET raw = '{}'::BLOB WHERE position = 5")
    async with serving(tmp_path, RECORDS) as ledger:
        findings, result = await verified(ledger.stub, anchors=[anchor], findings_max=3)
        assert (len(findings), result.ok) == (3, False)
        assert result.findings > len(RECORDS)
        findings, result = await verified(ledger.stub, from_position=4, to_position=5, with_log=True)
        assert {(one.source, one.table) for one in findings} == {
            ("chain", "entries"), ("entry", "entries"), ("entry", "events"), ("log", "entries"),
        }  # fmt: skip
        assert (result.start, result.end, result.entries) == (4, 5, 2)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"from_position": -1}, "INVALID_FIELD"),
        ({"from_position": 5, "to_position": 4}, "INVALID_FIELD"),
        ({"findings_max": 1001}, "INVALID_FIELD"),
        ({"anchors": [pb.Anchor(position=1, hash=b"short")]}, "INVALID_FIELD"),
        ({"anchors": [pb.Anchor(position=0, hash=bytes(32))]}, "INVALID_FIELD"),
        ({"anchors": [pb.Anchor(position=1, hash=bytes(32))] * 1001}, "INVALID_FIELD"),
        ({"from_position": 10**9}, "AUDIT_IMPOSSIBLE"),
    ],
)
async def test_what_cannot_be_verified_is_refused(tmp_path, asked, said):
    async with serving(tmp_path, RECORDS[:3]) as ledger:
        assert (await reason(ledger.stub.VerifyAudit(pb.VerifyAuditRequest(**asked)).read()))[1] == said


async def test_nothing_is_audited_before_the_ledger_is_whole(tmp_path):
    async with serving(tmp_path, RECORDS, absorbed=False) as ledger:
        for call in (
            ledger.stub.VerifyAudit(pb.VerifyAuditRequest()).read(),
            ledger.stub.ExportAudit(pb.ExportAuditRequest(table="events")).read(),
            ledger.stub.GetAnchor(pb.GetAnchorRequest()),
        ):
            assert (await reason(call))[1] == "LEDGER_BEHIND"


async def test_an_empty_ledger_has_no_anchor_and_no_finding(tmp_path):
    async with serving(tmp_path) as ledger:
        assert (await reason(ledger.stub.GetAnchor(pb.GetAnchorRequest())))[1] == "NOTHING_RECORDED"
        findings, result = await verified(ledger.stub)
        assert (findings, result.ok, result.end, result.entries) == ([], True, 0, 0)
        assert (await lines(ledger.stub, "events"))[0] == []
