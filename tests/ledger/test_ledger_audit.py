"""The audit: whatever a hand does to the file is found, and located; what nothing but an anchor or the log can tell, they tell."""

# ruff: noqa: S608, ASYNC110 - tables and positions come from this module; what is waited for is a file
import asyncio
import contextlib
import itertools
import json
import random
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_histories import MemoryLog, Story, batchings, histories, steady
from test_ledger_verify import full, made

from services.bus import BusError
from services.ledger import anchors as anchors_module
from services.ledger import audit as audit_module
from services.ledger import verify
from services.ledger.anchors import Anchor, keep, tell
from services.ledger.audit import (
    AuditBusyError,
    AuditError,
    Auditor,
    AuditProgress,
    AuditResult,
    Finding,
    anchor_at,
    audited,
)
from services.ledger.history import History
from services.ledger.projector import GENESIS, Projector, chained
from services.ledger.segment import Archive, ArchiveError
from services.ledger.store import Store
from services.ledger.verify import Readable

RECORDS = full().records
LAST = len(RECORDS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A file that holds RECORDS, to be copied."""
    file = tmp_path_factory.mktemp("sound") / "l"
    made(file, RECORDS).close()
    return file


@pytest.fixture(scope="module")
def plain_store(sound):
    """What nobody has touched, to be read only."""
    store = Store.open(sound, readers=1)
    yield store
    store.close()


@pytest.fixture
def open_store(sound, tmp_path):
    """Opens a copy of the sound file, after a hand has been in it."""
    with contextlib.ExitStack() as stack:

        def opened(*statements: str, by: Callable[[duckdb.DuckDBPyConnection], None] | None = None) -> Store:
            file = tmp_path / "l"
            shutil.copyfile(sound, file)
            with duckdb.connect(str(file)) as hand:
                for statement in statements:
                    hand.execute(statement)
                if by is not None:
                    by(hand)
            store = Store.open(file, readers=1)
            stack.callback(store.close)
            return store

        yield opened


async def audit(store: Store, *, log=None, history=None, **asked) -> tuple[list[Finding], AuditResult]:
    auditor = Auditor(store, log or MemoryLog(RECORDS), history=history)
    said = [one async for one in auditor.audit(with_log=log is not None, **asked)]
    assert isinstance(said[-1], AuditResult)
    findings = [one for one in said if isinstance(one, Finding)]
    assert said[-1].findings == len(findings)
    assert said[-1].ok == (not findings)
    return findings, said[-1]


def where(findings: list[Finding]) -> list[tuple[str, str, str, int, int, str]]:
    return [(one.source, one.kind, one.table, one.position, one.until, one.column) for one in findings]


def of_chain(findings: list[Finding]) -> list[tuple[str, int, int, str]]:
    """What the chain says of entries."""
    return [(one.kind, one.position, one.until, one.column) for one in findings if one.source in ("chain", "tip")]


async def test_a_sound_ledger_has_no_finding_and_every_row_is_looked_at(plain_store):
    store = plain_store
    findings, result = await audit(store, log=MemoryLog(RECORDS))
    assert findings == []
    assert (result.start, result.end, result.hash) == (1, LAST, store.tip.hash)
    assert (result.entries, result.logged, result.unlogged) == (LAST, LAST, 0)
    assert result.events == store.read("SELECT count(*) FROM events")[0][0]


RAW = "UPDATE entries SET raw = encode(replace(decode(raw), 'writer', 'forger')) WHERE position = 7"
TAMPERED = {
    "one byte of a raw message": (RAW, [("changed", 7, 7, "")]),
    "one byte of a hash": ("UPDATE entries SET hash = unhex('00' || substr(hex(hash), 3)) WHERE position = 7", [("changed", 7, 7, "hash")]),
    "a subject": ("UPDATE entries SET subject = 'swell.event.x.run' WHERE position = 7", [("changed", 7, 7, "")]),
    "a subject of 70,000 bytes": ("UPDATE entries SET subject = repeat('x', 70000) WHERE position = 7", [("changed", 7, 7, "")]),
    "the first entry": ("UPDATE entries SET raw = '{}'::BLOB WHERE position = 1", [("changed", 1, 1, "")]),
    "the last entry": (f"UPDATE entries SET raw = '{{}}'::BLOB WHERE position = {LAST}", [("changed", LAST, LAST, "")]),
    "the last hash": (f"UPDATE entries SET hash = '\\x01'::BLOB WHERE position = {LAST}", [("changed", LAST, LAST, "hash")]),
    "two neighbours": (
        "UPDATE entries SET raw = '{}'::BLOB WHERE position IN (7, 8)", [("changed", 7, 7, ""), ("changed", 8, 8, "")],
    ),
    "a row removed": ("DELETE FROM entries WHERE position = 9", [("missing", 9, 9, "")]),
    "rows removed": ("DELETE FROM entries WHERE position BETWEEN 9 AND 12", [("missing", 9, 12, "")]),
    "the beginning removed": ("DELETE FROM entries WHERE position < 4", [("missing", 1, 3, "")]),
    "the tail removed": (f"DELETE FROM entries WHERE position > {LAST - 3}", [("missing", LAST - 2, LAST, "")]),
    "every row removed": ("DELETE FROM entries", [("missing", 1, LAST, "")]),
    "a copy put in": ("INSERT INTO entries SELECT * FROM entries WHERE position = 9", [("extra", 9, 9, "")]),
    "a row put in beside another": (
        "INSERT INTO entries SELECT * REPLACE ('{}'::BLOB AS raw) FROM entries WHERE position = 9", [("extra", 9, 9, "")],
    ),
    "a row put in behind the end": (
        f"INSERT INTO entries SELECT * REPLACE ({LAST + 1} AS position) FROM entries WHERE position = 9",
        [("extra", LAST + 1, LAST + 1, "")],
    ),
    "a row put in before the beginning": (
        "INSERT INTO entries SELECT * REPLACE (-5 AS position) FROM entries WHERE position = 9", [("extra", -5, -5, "")],
    ),
    "two swapped": (
        "UPDATE entries SET position = CASE position WHEN 9 THEN 10 ELSE 9 END WHERE position IN (9, 10)",
        [("changed", 9, 9, ""), ("changed", 10, 10, "")],
    ),
    "how far the ledger is": ("UPDATE meta SET hash = '\\x01'::BLOB", [("changed", LAST, LAST, "hash")]),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
async def test_a_changed_removed_or_inserted_entry_is_located(open_store, monkeypatch, name):
    """By the chain alone, wherever pieces begin and end; and the log, when it is asked, names the same positions."""
    statement, expected = TAMPERED[name]
    store = open_store(statement)
    assert of_chain((await audit(store))[0]) == expected
    monkeypatch.setattr(audit_module, "PIECE_BYTES", 1)
    monkeypatch.setattr(verify, "BLOCK", 3)
    findings, result = await audit(store, log=MemoryLog(RECORDS))
    assert of_chain(findings) == expected
    assert result.logged == LAST
    told = {one.position for one in findings if one.source == "log"}
    named = {position for _, first, last, _ in expected for position in range(max(first, 1), min(last, LAST) + 1)}
    if name != "how far the ledger is":
        assert told == named


@pytest.mark.parametrize(
    ("statement", "kind", "column"),
    [
        ("UPDATE events SET payload = replace(payload, 'ann', 'bob') WHERE position = 1", "changed", "payload"),
        ("UPDATE events SET kind = 'x' WHERE position = 7 AND idx = 0", "changed", "kind"),
        ("UPDATE events SET time_ns = time_ns + 1 WHERE position = 7", "changed", "time_ns"),
        ("UPDATE events SET severity = 'x' WHERE position = 7", "changed", "severity"),
        ("DELETE FROM events WHERE position = 7", "missing", ""),
        ("INSERT INTO events SELECT * REPLACE (9 AS idx) FROM events WHERE position = 7", "extra", ""),
        ("INSERT INTO events SELECT * FROM events WHERE position = 7", "extra", ""),
        ("UPDATE entries SET \"by\" = 'x' WHERE position = 7", "changed", "by"),
        ("UPDATE entries SET at_ns = 1 WHERE position = 7", "changed", "at_ns"),
        ("UPDATE entries SET trace = 'x' WHERE position = 7", "changed", "trace"),
    ],
)
async def test_what_the_bytes_of_an_entry_say_is_compared_with_what_is_stored_of_it(
    open_store, statement, kind, column
):
    findings, _ = await audit(open_store(statement))
    (found,) = findings
    assert (found.source, found.kind, found.column) == ("entry", kind, column)
    assert found.position == (1 if "position = 1" in statement else 7)
    assert found.table in statement


async def test_the_time_of_the_stream_is_in_no_hash_and_only_the_log_knows_it(open_store):
    statements = (f"UPDATE {table} SET time_ns = 5 WHERE position = 7" for table in ("entries", "events"))
    store = open_store(*statements)
    assert (await audit(store))[0] == []
    findings, _ = await audit(store, log=MemoryLog(RECORDS))
    assert where(findings) == [("log", "changed", "entries", 7, 7, "time_ns")]


def rewrite(hand: duckdb.DuckDBPyConnection, *, first: int = 7) -> None:
    """Change one entry, and every hash from there on, and all that is said of the entry: as who knows how it is done."""
    rows = hand.execute("SELECT position, subject, raw FROM entries ORDER BY position").fetchall()
    previous = GENESIS
    for position, subject, raw in rows:
        changed = raw.replace(b"writer", b"forger") if position == first else raw
        previous = chained(previous, position, subject, changed)
        hand.execute("UPDATE entries SET raw = ?, hash = ? WHERE position = ?", [changed, previous, position])
    hand.execute("UPDATE entries SET \"by\" = replace(\"by\", 'writer', 'forger') WHERE position = ?", [first])
    hand.execute("UPDATE meta SET hash = ?", [previous])


async def test_a_chain_that_was_written_anew_is_found_by_an_anchor_and_by_the_log(open_store, plain_store):
    kept = {position: anchor_at(plain_store, position)[0] for position in (6, 7, LAST)}
    store = open_store(by=rewrite)
    assert (await audit(store))[0] == [], "the file agrees with itself"
    findings, _ = await audit(store, anchors=[kept[6], kept[7], kept[LAST]])
    assert [(one.source, one.position, one.anchor) for one in findings] == [("anchor", 7, 2), ("anchor", LAST, 3)]
    findings, _ = await audit(store, log=MemoryLog(RECORDS))
    assert where(findings) == [
        ("log", "changed", "entries", 7, 7, "raw"),
        ("log", "changed", "entries", 7, 7, "hash"),
    ]


async def test_a_tail_that_was_cut_off_cleanly_is_found_by_an_anchor_and_mended_by_the_log(open_store, plain_store):
    """Who cuts off the end, and says so in `meta`, leaves a shorter ledger without a flaw; it absorbs the rest again."""
    newest = anchor_at(plain_store, 0)[0]
    end = LAST - 3

    def cut(hand: duckdb.DuckDBPyConnection) -> None:
        for table in ("entries", "events", "transitions", "patch_history"):
            hand.execute(f"DELETE FROM {table} WHERE position > {end}")
        hand.execute(f"UPDATE meta SET position = {end}, hash = (SELECT hash FROM entries WHERE position = {end})")

    store = open_store(by=cut)
    assert (await audit(store, log=MemoryLog(RECORDS)))[0] == []
    findings, _ = await audit(store, anchors=[newest])
    assert where(findings) == [("anchor", "missing", "entries", LAST, LAST, "hash")]
    store.commit(Projector(store.tip, store).fold(RECORDS[end:]))
    assert (await audit(store, anchors=[newest]))[0] == []


async def test_a_part_is_verified_from_what_stands_before_it(open_store):
    store = open_store("UPDATE entries SET raw = '{}'::BLOB WHERE position IN (7, 20)")
    for start, end, expected in ((1, 6, []), (8, 19, []), (8, 0, [20]), (7, 7, [7]), (1, 19, [7]), (20, 20, [20])):
        findings, result = await audit(store, start=start, end=end)
        assert [one.position for one in findings if one.source == "chain"] == expected, (start, end)
        assert (result.start, result.end) == (start, end or LAST)
        assert result.entries == (end or LAST) - start + 1


@pytest.mark.parametrize(
    "part", [{"start": LAST + 1}, {"start": 10**12}, {"end": LAST + 1}, {"start": 2, "end": 10**12}]
)
async def test_a_part_that_is_not_there_is_refused(plain_store, part):
    with pytest.raises(AuditError, match=f"the ledger ends at {LAST}"):
        await audit(plain_store, **part)


async def test_an_anchor_of_another_stream_is_no_anchor_of_this_one(plain_store):
    store = plain_store
    newest = anchor_at(store, 0)[0]
    assert newest == Anchor(LAST, store.tip.hash, 42)
    other = msgspec.structs.replace(newest, stream_created_ns=43)
    unknown = msgspec.structs.replace(newest, stream_created_ns=0)
    findings, result = await audit(store, anchors=[newest, other, unknown])
    assert [(one.anchor, one.stored, one.expected) for one in findings] == [(2, "42", "43")]
    assert result.anchors == 3


async def test_a_ledger_that_begins_later_begins_with_an_anchor(tmp_path, plain_store):
    """After retention: what is stored has to follow from an anchor that was taken before, and one of it is not missed."""
    kept = {position: anchor_at(plain_store, position)[0] for position in (3, 5, 9)}
    store = Store.open(tmp_path / "later", readers=1)
    store.bind(42)
    tip = msgspec.structs.replace(store.tip, position=5, hash=kept[5].hash)
    store.commit(Projector(tip, store).fold(RECORDS[5:]))
    try:
        assert (await audit(store, anchors=[kept[5], kept[9]]))[0] == []
        findings, _ = await audit(store)
        assert of_chain(findings) == [("missing", 1, 5, "")]
        findings, _ = await audit(store, anchors=[kept[3]])
        assert [(one.source, one.position) for one in findings] == [("anchor", 3), ("chain", 1)]
    finally:
        store.close()


async def test_what_the_log_does_not_hold_any_more_is_counted_and_no_finding(open_store, plain_store):
    log = MemoryLog(RECORDS[10:])
    findings, result = await audit(open_store(RAW), log=log)
    assert {one.source for one in findings} == {"chain", "entry"}
    assert (result.logged, result.unlogged) == (LAST - 10, 10)
    findings, result = await audit(plain_store, log=MemoryLog([]))
    assert (findings, result.logged, result.unlogged) == ([], 0, LAST)


def archived(store: Store, folder: Path, last: int) -> History:
    """An archive of what a store has up to a position."""
    archive = Archive(folder)
    rows = store.read("SELECT position, subject, time_ns, hash, raw FROM entries WHERE position <= ?", [last])
    with archive.writing(store.stream_created_ns):
        archive.add(store.stream_created_ns, [sorted(rows)], [], last)
    return History(archive)


ARCHIVED = 30


@pytest.fixture
def history(plain_store, tmp_path):
    return archived(plain_store, tmp_path / "archive", ARCHIVED)


@pytest.mark.parametrize("seed", range(10))
async def test_what_left_the_log_for_the_archive_is_counted_and_no_finding(plain_store, history, seed):
    some = random.Random(seed)
    left = [one for one in RECORDS if one.sequence > ARCHIVED or some.random() < 0.4]
    findings, result = await audit(plain_store, log=MemoryLog(left), history=history)
    assert findings == []
    assert (result.logged, result.unlogged) == (len(left), LAST - len(left))
    findings, result = await audit(plain_store, log=MemoryLog(left), history=history, end=ARCHIVED)
    assert (findings, result.logged + result.unlogged) == ([], ARCHIVED)


async def test_a_loss_behind_the_archive_and_a_change_between_holes_are_found(plain_store, history):
    lost = MemoryLog([one for one in RECORDS if one.sequence not in (5, ARCHIVED + 1)])
    findings, _ = await audit(plain_store, log=lost, history=history)
    assert where(findings)[0] == ("log", "extra", "entries", ARCHIVED + 1, ARCHIVED + 1, "")
    forged = [
        msgspec.structs.replace(one, data=one.data + b" ") if one.sequence == 10 else one
        for one in RECORDS
        if one.sequence not in (4, 9)
    ]
    findings, _ = await audit(plain_store, log=MemoryLog(forged), history=history)
    assert where(findings) == [
        ("log", "changed", "entries", 10, 10, "raw"),
        ("log", "changed", "entries", 10, 10, "hash"),
    ]


async def test_a_chain_written_anew_where_the_log_has_only_holes_is_found_by_the_archive(open_store, history):
    left = [one for one in RECORDS if one.sequence not in range(3, ARCHIVED)]
    findings, _ = await audit(open_store(by=rewrite), log=MemoryLog(left), history=history)
    assert ("log", "changed", "entries", ARCHIVED, ARCHIVED, "hash") in where(findings)


async def test_without_a_sound_archive_there_is_no_verdict(plain_store, history):
    next(history.archive.folder.glob("*.json")).write_text("{}")
    with pytest.raises(ArchiveError, match="not a manifest"):
        await audit(plain_store, log=MemoryLog(RECORDS), history=history)
    assert (await audit(plain_store, history=history))[1].ok, "it is asked for only with the log"


async def test_a_hole_that_the_log_had_is_no_finding(tmp_path):
    story = full().records
    records = [record for record in story if record.sequence not in (5, 6)]
    store = made(tmp_path / "l", records)
    try:
        assert (await audit(store, log=MemoryLog(records)))[0] == []
        previous = chained(store.read("SELECT hash FROM entries WHERE position = 4")[0][0], 5, "s", b"{}")
        store.close()
        with duckdb.connect(str(tmp_path / "l")) as hand:
            hand.execute(
                """INSERT INTO entries SELECT * REPLACE (5 AS position, 's' AS subject, '{}'::BLOB AS raw, ?::BLOB AS hash)
                   FROM entries WHERE position = 4""",
                [previous],
            )
        store = Store.open(tmp_path / "l", readers=1)
        findings, _ = await audit(store)
        assert of_chain(findings) == [("extra", 5, 5, "")], "it has a hash that fits, and its successor does without it"
        findings, _ = await audit(store, log=MemoryLog(records))
        assert ("log", "extra", "entries", 5, 5, "") in where(findings)
    finally:
        store.close()


class Unreachable(MemoryLog):
    async def replay(self, subject, *, after=0, batch_max=0):
        raise BusError("no server")
        yield []


async def test_a_log_that_cannot_be_read_is_no_verdict(plain_store):
    store = plain_store
    with pytest.raises(AuditError, match="no server"):
        await audit(store, log=Unreachable())
    assert (await audit(store))[1].ok, "it can be asked again"


async def test_one_at_a_time_and_one_that_is_left_early_ends_cleanly(plain_store):
    auditor = Auditor(plain_store, MemoryLog(RECORDS))
    first = auditor.audit()
    assert isinstance(await anext(first), AuditProgress)
    with pytest.raises(AuditBusyError, match="under way"):
        await anext(auditor.audit())
    await first.aclose()
    await auditor.close()
    assert [one async for one in auditor.audit()][-1].ok


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_every_replica_has_the_same_hashes_whatever_its_batches(data, tmp_path_factory):
    """Two ledgers that absorbed the same log in other batches; whatever stood in it, neither has a finding."""
    folder = tmp_path_factory.mktemp("replicas")
    records = data.draw(histories())
    hashes = []
    for name in ("one", "two"):
        store = Store.open(folder / name, readers=1)
        store.bind(42)
        fold = Projector(store.tip, store)
        for batch in data.draw(batchings(records)):
            store.commit(fold.fold(batch))
        hashes.append(store.read("SELECT position, hash FROM entries ORDER BY position"))
        assert (await audit(store, log=MemoryLog(records)))[0] == []
        store.close()
    assert hashes[0] == hashes[1]


class Altered:
    """Stored tables in which one message is another."""

    def __init__(self, stored: Readable, position: int, raw: bytes) -> None:
        self._stored, self._position, self._raw = stored, position, raw

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        rows = self._stored.read(sql, values)
        if "FROM entries" not in sql or not sql.startswith("SELECT *"):
            return rows
        return [(*row[:-1], self._raw) if row[0] == self._position else row for row in rows]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_of_any_message_is_under_the_chain(data, plain_store):
    with plain_store.snapshot() as stored:
        position = data.draw(st.integers(1, LAST))
        raw = RECORDS[position - 1].data
        place = data.draw(st.integers(0, len(raw) - 1))
        changed = raw[:place] + bytes([raw[place] ^ data.draw(st.integers(1, 255))]) + raw[place + 1 :]
        said = list(audited(Altered(stored, position, changed), stored.tip, 1, LAST, []))
    assert of_chain([one for one in said if isinstance(one, Finding)]) == [("changed", position, position, "")]


# Anchors that the ledger tells


def test_anchors_are_added_and_never_changed_whatever_was_torn(tmp_path):
    file = tmp_path / "anchors"
    at = datetime(2026, 11, 1, 10, 30, tzinfo=UTC)
    keep(file, Anchor(1, b"\x01" * 32, 42), at)
    first = file.read_bytes()
    assert json.loads(first) == {
        "position": 1, "hash": "01" * 32, "stream_created_ns": 42, "at": "2026-11-01T10:30:00Z",
    }  # fmt: skip
    with file.open("ab") as torn:
        torn.write(b'{"position":')
    keep(file, Anchor(2, b"\x02" * 32, 42), at)
    lines = file.read_bytes().split(b"\n")
    assert lines[0] + b"\n" == first
    assert (lines[1], json.loads(lines[2])["position"], lines[3]) == (b'{"position":', 2, b"")


class Whole:
    catching_up = False


async def test_the_ledger_tells_an_anchor_whenever_it_has_moved_on(tmp_path, monkeypatch, open_store):
    told: list[dict[str, object]] = []
    monkeypatch.setattr(anchors_module.log, "info", lambda event, **fields: told.append({"event": event, **fields}))
    store = open_store()
    file = tmp_path / "anchors"
    telling = asyncio.create_task(tell(store, Whole(), interval_s=0.01, file=file))
    try:
        async with asyncio.timeout(5):
            while not file.exists():
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert len(told) == 1, "nothing has moved"
            story = Story()
            story.records = list(RECORDS)
            store.commit(Projector(store.tip, store).fold([story.decide(run="r9")]))
            while len(file.read_bytes().splitlines()) < 2:
                await asyncio.sleep(0.005)
    finally:
        telling.cancel()
        await asyncio.wait([telling])
    assert [(one["event"], one["position"]) for one in told] == [("ledger.anchor", LAST), ("ledger.anchor", LAST + 1)]
    assert told[1]["hash"] == store.tip.hash.hex() == json.loads(file.read_bytes().splitlines()[1])["hash"]


async def test_a_file_that_takes_no_anchor_stops_nothing(tmp_path, monkeypatch, plain_store):
    lost: list[dict[str, object]] = []
    monkeypatch.setattr(anchors_module.log, "error", lambda event, **fields: lost.append({"event": event, **fields}))
    telling = asyncio.create_task(tell(plain_store, Whole(), interval_s=0.01, file=tmp_path))
    try:
        async with asyncio.timeout(5):
            while not lost:
                await asyncio.sleep(0.005)
        assert not telling.done()
    finally:
        telling.cancel()
        await asyncio.wait([telling])
    assert (lost[0]["event"], lost[0]["position"]) == ("ledger.anchor_lost", LAST)


def test_a_steady_ledger_is_audited_in_bounded_pieces(tmp_path):
    """Pieces are as many as the bytes ask for, and hold every position once."""
    store = made(tmp_path / "l", steady(1, 200))
    try:
        pieces = list(verify.pieces_of(store, 100, 900, most_bytes=20_000))
        assert len(pieces) > 3
        assert (pieces[0][0], pieces[-1][1]) == (100, 900)
        assert all(one[1] == other[0] for one, other in itertools.pairwise(pieces))
    finally:
        store.close()
