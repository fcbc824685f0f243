"""The ledger's file: real DuckDB, real kills, damaged files, other logs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_histories import MemoryLog, Story, batchings, histories, steady

from services.bus import Recorded
from services.ledger import projector
from services.ledger.absorb import Absorber
from services.ledger.projector import (
    AttemptRow,
    ExecutorRow,
    PauseRow,
    Projector,
    RunRow,
    ToolBreakerRow,
    WorkstreamRow,
)
from services.ledger.store import LedgerMismatchError, QueryTooSlowError, Store, StoreBusyError, StoreError

TABLES = (
    "meta", "entries", "events", "transitions", "runs", "workstreams", "attempts", "executors", "tool_breakers",
    "pauses",
)  # fmt: skip


def absorb(file: Path, batches: list[list[Recorded]], *, reopening: bool = False) -> dict[str, list[tuple]]:
    """Fold batches behind what the file holds; every table afterwards."""
    store = Store.open(file)
    fold = Projector(store.tip, store)
    for batch in batches:
        store.commit(fold.fold(batch))
        if reopening:
            store.close()
            store = Store.open(file)
            fold = Projector(store.tip, store)
    tables = rows(store)
    store.close()
    return tables


def rows(store: Store) -> dict[str, list[tuple]]:
    return {table: store.read(f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES}  # noqa: S608


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_rebuilt_tables_equal_the_live_ones(data, tmp_path_factory):
    """Row for row, whatever the history contains, wherever batches end, and however often the ledger restarted."""
    folder = tmp_path_factory.mktemp("rebuild")
    records = data.draw(histories())
    live = absorb(folder / "live", data.draw(batchings(records)), reopening=data.draw(st.booleans()))
    assert absorb(folder / "rebuilt", [records]) == live


def test_every_column_stands_where_its_field_stands(tmp_path):
    store = Store.open(tmp_path / "l")
    for table, row in (
        ("runs", RunRow),
        ("workstreams", WorkstreamRow),
        ("attempts", AttemptRow),
        ("executors", ExecutorRow),
        ("tool_breakers", ToolBreakerRow),
        ("pauses", PauseRow),
    ):
        found = store.read(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table]
        )
        assert [name for (name,) in found] == list(row.__struct_fields__)
    store.close()


CHILD = """
import sys
from pathlib import Path
from ledger_histories import steady
from services.ledger.projector import Projector
from services.ledger.store import Store

store = Store.open(Path(sys.argv[1]))
fold = Projector(store.tip, store)
records = steady(2, 60)
while True:
    batch = records[store.tip.position : store.tip.position + 7]
    store.commit(fold.fold(batch))
    print(store.tip.position, flush=True)
"""


def test_a_killed_writer_leaves_whole_batches(tmp_path):
    """SIGKILL at any moment: the file reopens at or behind the last commit told, and equals the fold up to there."""
    records = steady(2, 60)
    file = tmp_path / "l"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(projector.__file__).parents[2])])
    told = 0
    for commits in (3, 11, 24):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(file)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for _ in range(commits):
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        store = Store.open(file)
        position = store.tip.position
        survived = rows(store)
        store.close()
        assert position >= told
        assert position % 7 == 0
        assert survived == absorb(tmp_path / f"again{commits}", [records[:position]])


def test_a_damaged_file_is_moved_aside_and_rebuilt(tmp_path):
    file = tmp_path / "l"
    records = steady(1, 3)
    before = absorb(file, [records])
    data = bytearray(file.read_bytes())
    data[12288::97] = bytes(len(data[12288::97]))
    file.write_bytes(data)
    assert absorb(file, [records]) == before
    assert (tmp_path / "l.corrupt-1").exists()
    file.write_bytes(b"no database at all")
    assert absorb(file, [records]) == before
    assert (tmp_path / "l.corrupt-2").exists()


def test_a_file_of_another_projection_is_rebuilt(tmp_path, monkeypatch):
    file = tmp_path / "l"
    absorb(file, [steady(1, 1)])
    monkeypatch.setattr(projector, "VERSION", projector.VERSION + 1)
    store = Store.open(file)
    assert store.tip.position == 0
    store.close()
    assert (tmp_path / "l.corrupt-1").exists()


def test_a_file_that_failed_in_use_is_rebuilt_at_the_next_start(tmp_path):
    """A batch that the file refuses condemns it; what was committed before is not trusted either."""
    file = tmp_path / "l"
    store = Store.open(file)
    records = steady(1, 1)
    batch = Projector(store.tip, store).fold(records)
    impossible = msgspec.structs.replace(batch, entries=[(2**70, *batch.entries[0][1:])])
    with pytest.raises(StoreError, match="restart the ledger"):
        store.commit(impossible)
    store.close()
    assert absorb(file, [records])["meta"][0][2] == len(records)
    assert (tmp_path / "l.corrupt-1").exists()


def test_one_ledger_at_a_time(tmp_path):
    store = Store.open(tmp_path / "l")
    with pytest.raises(StoreBusyError, match="another ledger"):
        Store.open(tmp_path / "l")
    store.close()
    Store.open(tmp_path / "l").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="set `file` elsewhere"):
        Store.open(tmp_path / "file" / "l")


def test_a_query_has_a_time_limit(tmp_path):
    store = Store.open(tmp_path / "l", query_timeout_s=0.2)
    with pytest.raises(QueryTooSlowError, match="ask for less"):
        store.read("SELECT count(*) FROM range(100000000) a, range(1000) b WHERE a.range % 7 = b.range % 5")
    assert store.read("SELECT 1") == [(1,)]
    store.close()


async def verified(file: Path, log: MemoryLog) -> None:
    store = Store.open(file)
    try:
        await Absorber(store, log).verify()
    finally:
        store.close()


async def absorbed(file: Path, log: MemoryLog) -> None:
    store = Store.open(file)
    await Absorber(store, log).verify()
    store.commit(Projector(store.tip, store).fold(log.records))
    store.close()


async def test_a_file_goes_on_with_its_own_log(tmp_path):
    log = MemoryLog(steady(1, 2))
    await absorbed(tmp_path / "l", log)
    await verified(tmp_path / "l", log)


async def test_another_stream_is_refused(tmp_path):
    log = MemoryLog(steady(1, 2))
    await absorbed(tmp_path / "l", log)
    with pytest.raises(LedgerMismatchError, match=r"created at 43 ns.*rebuilt from the log"):
        await verified(tmp_path / "l", MemoryLog(log.records, created_ns=43))


async def test_a_stream_that_lost_entries_is_refused(tmp_path):
    log = MemoryLog(steady(1, 2))
    await absorbed(tmp_path / "l", log)
    with pytest.raises(LedgerMismatchError, match="it lost entries"):
        await verified(tmp_path / "l", MemoryLog(log.records[:-1]))


async def test_another_entry_at_the_position_is_refused(tmp_path):
    log = MemoryLog(steady(1, 2))
    await absorbed(tmp_path / "l", log)
    forged = msgspec.structs.replace(log.records[-1], data=log.records[-1].data + b" ")
    with pytest.raises(LedgerMismatchError, match="is not the one"):
        await verified(tmp_path / "l", MemoryLog([*log.records[:-1], forged]))
    assert not (tmp_path / "l.corrupt-1").exists(), "it never rebuilds by itself"


async def test_a_purged_entry_at_the_position_is_no_mismatch(tmp_path):
    log = MemoryLog(steady(1, 2))
    await absorbed(tmp_path / "l", log)
    story = Story()
    story.records = list(log.records)
    story.accepted("z", run="later")
    await verified(tmp_path / "l", MemoryLog(story.records[len(log.records) :]))
