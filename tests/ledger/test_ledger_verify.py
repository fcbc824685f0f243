"""Verification: every planted difference is found, and nothing is found where nothing differs."""

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_histories import MemoryLog, Story, batchings, histories, scheduled, snapshot, steady

from services import events as ev
from services.ledger import verify
from services.ledger.absorb import Absorber
from services.ledger.projector import Projector
from services.ledger.store import Snapshot, Store
from services.ledger.verify import (
    KEYS,
    Compared,
    Difference,
    Progress,
    Result,
    Verifier,
    VerifyBusyError,
    VerifyError,
    compare,
    links,
)


def full() -> Story:
    """A history that leaves at least two rows in every table but `meta`."""
    story = Story()
    story.records = steady(2, 3)
    for name in ("e1", "e2"):
        story.decide(
            ev.ExecutorTransitioned(executor=name, boot="k", pool="p", slots=1, from_state="spawning", to_state="idle"),
            ev.ToolBreakerOpened(tool=f"tool-{name}", failures=3, until_ns=7, reason="out"),
            ev.FleetPaused(scope="pool", name=name, actor="ann"),
            run="fleet",
        )
    story.accepted("a", run="r9")
    patch = ev.Artifact(role="patch", digest="d" * 64, name="patch-1", size_bytes=56)
    for attempt, step in enumerate(("edit", "fix"), 1):
        story.step("a", attempt, step, ev.StepFinished(ok=True, snapshot=snapshot("d"), artifacts=[patch]), run="r9")
    story.decide(scheduled("a", 3, "static"), run="r9")
    return story


def made(file: Path, records: Sequence) -> Store:
    store = Store.open(file)
    store.bind(42)
    store.commit(Projector(store.tip, store).fold(records))
    return store


@functools.cache
def sound() -> Path:
    """A file that holds `full`, to be copied."""
    file = Path(tempfile.mkdtemp()) / "l"
    atexit.register(shutil.rmtree, file.parent)
    made(file, full().records).close()
    return file


@contextlib.contextmanager
def both(folder: Path, statement: str = "") -> Iterator[tuple[Snapshot, Snapshot]]:
    """Two stores of the same history; the first was tampered with."""
    shutil.copyfile(sound(), folder / "stored")
    shutil.copyfile(sound(), folder / "folded")
    if statement:
        with duckdb.connect(str(folder / "stored")) as tampering:
            tampering.execute(statement)
    stored, folded = Store.open(folder / "stored", readers=1), Store.open(folder / "folded", readers=1)
    try:
        with stored.snapshot() as one, folded.snapshot() as two:
            yield one, two
    finally:
        stored.close()
        folded.close()


def found(stored: Snapshot, folded: Snapshot) -> list[Difference]:
    return [said for said in compare(stored, folded) if isinstance(said, Difference)]


def test_equal_stores_have_no_difference_and_every_row_is_compared(tmp_path):
    with both(tmp_path) as (stored, folded):
        said = list(compare(stored, folded))
        assert [one for one in said if isinstance(one, Difference)] == []
        for table in KEYS:
            rows = sum(one.rows for one in said if isinstance(one, Compared) and one.table == table)
            assert rows == stored.read(f"SELECT count(*) FROM {table}")[0][0] > 0, table  # noqa: S608 - constants


CHANGED = {
    "meta": ("UPDATE meta SET entry = 'x'", "entry"),
    "entries": ("UPDATE entries SET cause = 'x' WHERE position = 7", "cause"),
    "events": ("UPDATE events SET payload = 'x' WHERE position = 7", "payload"),
    "transitions": ("UPDATE transitions SET reason = 'x' WHERE position = 2", "reason"),
    "runs": ("UPDATE runs SET completed = 99 WHERE run = 'run1'", "completed"),
    "workstreams": ("UPDATE workstreams SET state = 'x' WHERE run = 'run1' AND workstream = 'w1'", "state"),
    "attempts": ("UPDATE attempts SET exit_code = 9 WHERE run = 'run1' AND workstream = 'w1' AND attempt = 2", "exit_code"),
    "patches": ("UPDATE patches SET state = 'committed' WHERE attempt = 1", "state"),
    "patch_history": ("UPDATE patch_history SET reason = 'x' WHERE to_state = 'dropped'", "reason"),
    "executors": ("UPDATE executors SET slots = 9 WHERE executor = 'e2'", "slots"),
    "tool_breakers": ("UPDATE tool_breakers SET until_ns = 9 WHERE tool = 'tool-e1'", "until_ns"),
    "waves": ("UPDATE waves SET finished_ns = 9 WHERE run = 'run0'", "finished_ns"),
    "pauses": ("UPDATE pauses SET actor = 'x' WHERE name = 'e1'", "actor"),
}  # fmt: skip


@pytest.mark.parametrize("table", KEYS)
def test_a_changed_column_is_found_in_every_table(tmp_path, table):
    statement, column = CHANGED[table]
    with both(tmp_path, statement) as (stored, folded):
        (difference,) = found(stored, folded)
        assert (difference.table, difference.kind, difference.column) == (table, "changed", column)
        assert difference.stored != difference.folded
        assert all(f"{part}=" in difference.key for part in KEYS[table])


@pytest.mark.parametrize("table", [table for table in KEYS if table != "meta"])
def test_a_missing_row_is_found_in_every_table(tmp_path, table):
    key = ", ".join(KEYS[table])
    statement = f"DELETE FROM {table} WHERE ({key}) = (SELECT ({key}) FROM {table} LIMIT 1)"  # noqa: S608 - constants
    with both(tmp_path, statement) as (stored, folded):
        assert [(one.table, one.kind, one.column) for one in found(stored, folded)] == [(table, "missing", "")]


@pytest.mark.parametrize("table", [table for table in KEYS if table != "meta"])
def test_an_extra_row_is_found_in_every_table(tmp_path, table):
    key = KEYS[table][0]
    other = "-5" if key == "position" else f"{key} || '-more'"
    statement = f"INSERT INTO {table} SELECT * REPLACE ({other} AS {key}) FROM {table} LIMIT 1"  # noqa: S608 - constants
    with both(tmp_path, statement) as (stored, folded):
        assert [(one.table, one.kind, one.column) for one in found(stored, folded)] == [(table, "extra", "")]


@pytest.mark.parametrize("table", ["events", "pauses"])
def test_a_row_that_stands_twice_is_found(tmp_path, table):
    with both(tmp_path, f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1") as (stored, folded):  # noqa: S608
        assert [(one.table, one.kind) for one in found(stored, folded)] == [(table, "extra")]


def test_pages_and_pieces_hide_nothing(tmp_path, monkeypatch):
    """Differences stand where small pages begin and end, and pages of the two stores end at different keys."""
    monkeypatch.setattr(verify, "PAGE_ROWS", 2)
    monkeypatch.setattr(verify, "PIECE_BYTES", 1)
    monkeypatch.setattr(verify, "BLOCK", 3)
    statement = """
        DELETE FROM attempts WHERE workstream = 'w0';
        UPDATE attempts SET tool = 'x' WHERE workstream = 'w1' AND attempt = 3;
        DELETE FROM events WHERE position IN (3, 4, 12);
        UPDATE workstreams SET tool = 'x';"""
    with both(tmp_path, statement) as (stored, folded):
        kinds = [(one.table, one.kind) for one in found(stored, folded)]
    assert kinds.count(("attempts", "missing")) == 6
    assert kinds.count(("attempts", "changed")) == 2
    assert kinds.count(("workstreams", "changed")) == 7
    assert kinds.count(("events", "missing")) == 3
    assert len(set(kinds)) == 4


def test_a_table_of_another_shape_is_a_difference(tmp_path):
    with both(tmp_path) as (stored, folded):

        class Other:
            def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
                rows = stored.read(sql, values)
                return rows[:-1] if "duckdb_columns" in sql and list(values) == ["pauses"] else rows

        (difference,) = found(Other(), folded)
        assert (difference.table, difference.kind, difference.column) == ("pauses", "changed", "")


def test_long_values_are_cut_and_hashes_are_hex(tmp_path):
    statement = "UPDATE entries SET raw = 'y'::BLOB || repeat('x', 500)::BLOB, hash = '\\x01'::BLOB WHERE position = 7"
    with both(tmp_path, statement) as (stored, folded):
        by_column = {one.column: one for one in found(stored, folded)}
        assert len(by_column["raw"].stored) == 200
        assert by_column["hash"].stored == "01"


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("", 0),
        ("UPDATE entries SET raw = '{}'::BLOB WHERE position = 7", 7),
        ("UPDATE entries SET hash = '\\x01'::BLOB WHERE position = 7", 7),
        ("UPDATE entries SET subject = 'swell.event.x.run' WHERE position = 1", 1),
        ("DELETE FROM entries WHERE position = 9", 10),
    ],
)
def test_the_chain_is_followed_through_what_is_stored(tmp_path, monkeypatch, statement, broken_at):
    monkeypatch.setattr(verify, "PIECE_BYTES", 1)
    monkeypatch.setattr(verify, "BLOCK", 4)
    with both(tmp_path, statement) as (stored, _):
        told = list(links(stored))
        assert next((one.broken_at for one in told if one.broken_at), 0) == broken_at
        assert sum(one.entries for one in told) == stored.read("SELECT count(*) FROM entries")[0][0]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_live_store_equals_the_fold_of_its_log(data, tmp_path_factory):
    """Whatever the history, wherever its batches ended: no difference, and a chain that holds."""
    folder = tmp_path_factory.mktemp("verify")
    records = data.draw(histories())
    live = Store.open(folder / "live")
    live.bind(42)
    fold = Projector(live.tip, live)
    for batch in data.draw(batchings(records)):
        live.commit(fold.fold(batch))
    anew = made(folder / "anew", records)
    with live.snapshot() as one, anew.snapshot() as two:
        assert found(one, two) == []
        assert [said.broken_at for said in links(one)] == [0]
    live.close()
    anew.close()


@contextlib.asynccontextmanager
async def verifying(folder: Path, records: list, *, tampered: str = ""):
    """A verifier over a store that absorbed the records."""
    made(folder / "l", records).close()
    if tampered:
        with duckdb.connect(str(folder / "l")) as tampering:
            tampering.execute(tampered)
    store = Store.open(folder / "l")
    log = MemoryLog(records)
    absorber = Absorber(store, log)
    await absorber.verify()
    try:
        yield Verifier(store, absorber, log, batch_max=7), store, log
    finally:
        absorber.close()
        store.close()


async def outcome(verifier: Verifier) -> tuple[list[Difference], Result]:
    said = [one async for one in verifier.verify()]
    assert isinstance(said[-1], Result)
    assert any(isinstance(one, Progress) for one in said)
    return [one for one in said if isinstance(one, Difference)], said[-1]


async def test_a_sound_ledger_is_verified_and_leaves_nothing_behind(tmp_path):
    records = full().records
    async with verifying(tmp_path, records) as (verifier, store, _):
        differences, result = await outcome(verifier)
        assert (differences, result.ok, result.position) == ([], True, len(records))
        assert (result.entries, result.hash, result.chain_broken_at) == (len(records), store.tip.hash, 0)
        assert not verifier.running
        assert [file.name for file in tmp_path.iterdir() if "verify" in file.name] == []
        assert (await outcome(verifier))[1].ok, "it can be asked again"


async def test_what_is_absorbed_meanwhile_makes_no_difference(tmp_path):
    """Entries come between the rounds and during the comparison; the tables are compared as of one position."""
    records = full().records
    async with verifying(tmp_path, records[:-3]) as (verifier, store, log):
        fold = Projector(store.tip, store)
        late = iter(records[-3:])
        position = 0
        async for said in verifier.verify():
            if (record := next(late, None)) is not None:
                log.extend([record])
                store.commit(fold.fold([record]))
            if isinstance(said, Result):
                assert said.ok
                position = said.position
        assert len(records) - 3 <= position < len(records)
        assert (await outcome(verifier))[1].position > position


async def test_differences_and_a_broken_chain_are_told(tmp_path):
    tampered = "UPDATE entries SET raw = '{}'::BLOB WHERE position = 7; UPDATE runs SET state = 'x'"
    async with verifying(tmp_path, full().records, tampered=tampered) as (verifier, store, _):
        differences, result = await outcome(verifier)
        assert {(one.table, one.column) for one in differences} == {("entries", "raw"), ("runs", "state")}
        assert (result.ok, result.differences, result.chain_broken_at) == (False, len(differences), 7)
        assert not store.condemned, "it is for people to decide"


async def test_one_at_a_time_and_one_that_is_left_early_ends_cleanly(tmp_path):
    async with verifying(tmp_path, full().records) as (verifier, _, _):
        first = verifier.verify()
        await anext(first)
        with pytest.raises(VerifyBusyError, match="under way"):
            await anext(verifier.verify())
        await first.aclose()
        assert [file.name for file in tmp_path.iterdir() if "verify" in file.name] == []
        assert (await outcome(verifier))[1].ok


async def test_a_log_that_was_purged_cannot_be_verified(tmp_path):
    async with verifying(tmp_path, full().records) as (verifier, _, log):
        del log.records[:2]
        with pytest.raises(VerifyError, match="the stream lacks positions 1 to 2, and no archive is configured"):
            await outcome(verifier)
