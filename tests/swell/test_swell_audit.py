"""`swell audit`: what it takes for an anchor and for a time, and the whole of it on a real cluster."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_repository import bundle
from typer.testing import Result

from services.ledger import anchors
from swell.audit import anchor_line, anchors_in, finding_line, result_lines
from swell.errors import SwellError
from swell.values import Anchor, AuditFinding, AuditResult

Swell = Callable[..., Result]
HASH = "0123456789abcdef" * 4


def test_an_anchor_is_read_as_it_was_printed_and_as_the_ledger_keeps_it(tmp_path: Path) -> None:
    known = Anchor(position=12, hash=HASH, stream_created_ns=1_790_000_000_000_000_000)
    assert anchor_line(known) == f"12:{HASH} stream=1790000000000000000"
    assert anchors_in(anchor_line(known)) == [("12 as given", known)]
    assert anchors_in(f"12:{HASH}")[0][1].stream_created_ns == 0
    file = tmp_path / "anchors"
    file.write_text(f"# kept by hand\n\n{anchor_line(known)}\n")
    anchors.keep(file, anchors.Anchor(13, bytes.fromhex(HASH), 7), datetime(2026, 11, 1, tzinfo=UTC))
    assert anchors_in(str(file)) == [
        (f"{file}:3", known),
        (f"{file}:4", Anchor(position=13, hash=HASH, stream_created_ns=7)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"0:{HASH}", f"-1:{HASH}", f"12:{HASH[1:]}", f"12:{HASH.upper()}", f"12:{HASH}0", "12:", "nowhere/at/all", "",
        "x" * 5000, "a\0b", f"{'9' * 40}:{HASH}",
        f"1:{HASH} stream={'9' * 19}",
    ],
)  # fmt: skip
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(SwellError) as refused:
        anchors_in(text)
    assert (refused.value.reason, refused.value.is_input) == ("BAD_ANCHOR", True)


@pytest.mark.parametrize(
    "content", [b"", b"# none\n", b'{"position":', b"\xff\xfe", b"{}", b"[" * 5000, b'{"position":1,"hash":5}']
)
def test_a_file_of_anchors_with_a_line_that_is_none_names_the_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "anchors"
    file.write_bytes(content)
    with pytest.raises(SwellError, match=r"anchor|text") as refused:
        anchors_in(str(file))
    assert refused.value.where.startswith(str(file)[:100])


def test_findings_and_results_are_told_in_words() -> None:
    found = AuditFinding(
        kind="changed", source="anchor", table="entries", position=7, until=7, key="position=7", column="hash",
        stored="aa", expected="bb", anchor=1, text="the entries up to it\x1b[31m are others",
    )  # fmt: skip
    line = finding_line(found, "kept.txt:3")
    assert line.startswith(
        "changed: entries position=7 hash: the entries up to it\\x1b[31m are others [anchor kept.txt:3]"
    )
    result = AuditResult(
        ok=False, start=1, end=9, hash=HASH, stream_created_ns=5, findings=2, entries=9, events=11, anchors=0, logged=0,
        unlogged=9, wall_s=0.5,
    )  # fmt: skip
    text = "\n".join(result_lines(result))
    assert "2 findings from 1 to 9" in text
    assert "9 are no longer in it" in text
    assert f"9:{HASH} stream=5" in text


@pytest.mark.parametrize(
    ("against", "proves"), [({}, False), ({"anchors": 1}, True), ({"logged": 9}, True), ({"unlogged": 9}, True)]
)
def test_a_chain_by_itself_is_not_called_a_proof(against: dict[str, int], proves: bool) -> None:
    told = {"anchors": 0, "logged": 0, "unlogged": 0, **against}
    result = AuditResult(
        ok=True, start=3, end=9, hash=HASH, stream_created_ns=5, findings=0, entries=7, events=8, wall_s=0.5, **told
    )
    text = "\n".join(result_lines(result))
    assert "no alteration was found from 3 to 9" in text
    assert ("give --anchor or --log" in text) is not proves
    assert f"ends at   9:{HASH}" in text
    assert "newest" not in text


@pytest.mark.usefixtures("cluster")
def test_what_is_recorded_is_proven_and_taken_elsewhere(
    swell: Swell, bundles: Callable[..., Path], repo: Path, tmp_path: Path
) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    anchor = swell("audit", "anchor").stdout.strip()
    first = swell("audit", "anchor", "--at", "1").stdout
    kept = tmp_path / "anchors"
    kept.write_text(first * 1200 + anchor + "\n")
    shown = swell("audit", "verify", "--log", "--anchor", kept, "--anchor", anchor)
    assert shown.exit_code == 0, shown.output
    assert "no alteration was found from 1 to" in shown.stdout
    assert "1202 looked up" in shown.stdout
    wrong = f"1:{HASH}"
    shown = swell("audit", "verify", "--anchor", wrong, "--json")
    assert shown.exit_code == 1, shown.output
    finding, result = map(json.loads, shown.stdout.splitlines())
    assert (finding["record"], finding["source"], finding["anchor_name"], result["ok"]) == (
        "audit_finding",
        "anchor",
        "1 as given",
        False,
    )
    assert swell("audit", "verify", "--from", "5", "--to", "2").exit_code == 2

    out = tmp_path / "entries.jsonl"
    shown = swell("audit", "export", "--entries", "--out", out)
    assert shown.exit_code == 0, shown.output
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    assert shown.stdout.strip() == f"wrote {len(entries)} lines to {out}"
    position, _, digest = anchor.partition(" ")[0].partition(":")
    assert entries[int(position) - 1]["hash"] == digest
    assert swell("audit", "export", "--out", out).exit_code == 2, "it is there already"
    assert swell("audit", "export", "--run", "last", "--out", out, "--force").exit_code == 0
    run = json.loads(out.read_text().splitlines()[0])["run"]
    assert swell("audit", "export", "--run", run).stdout == out.read_text()
    assert swell("audit", "export", "--since", "2026-01-02", "--until", "2026-01-01").exit_code == 2
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".half"] == []
    assert "no tool was called by capability" in swell("audit", "aim").stdout
    assert swell("audit", "aim", "--json").stdout == ""
