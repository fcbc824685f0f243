"""The ledger's file: real DuckDB, real kills, damaged files, other logs."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_damage import bulky, harm_unseen
from ledger_histories import MemoryLog, Story, batchings, histories, scheduled, steady

from services import events as ev
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
    WaveRow,
    WorkstreamRow,
)
from services.ledger.store import (
    LedgerMismatchError,
    QueryTooSlowError,
    Store,
    StoreBusyError,
    StoreCopyError,
    StoreDamagedError,
    StoreError,
    StoreMemoryError,
    scratch_file,
)

TABLES = (
    "meta", "entries", "events", "transitions", "runs", "workstreams", "attempts", "executors", "tool_breakers",
    "pauses", "waves", "patches", "patch_history",
)  # fmt: skip


def absorb(file: Path, batches: list[list[Recorded]], *, reopening: bool = False) -> dict[str, list[tuple]]:
    """Fold batches behind what the file holds; every table afterwards."""
    store = Store.open(file)
    try:
        fold = Projector(store.tip, store)
        for batch in batches:
            store.commit(fold.fold(batch))
            if reopening:
                store.close()
                store = Store.open(file)
                fold = Projector(store.tip, store)
        return rows(store)
    finally:
        store.close()


def absorb_the_rest(file: Path, records: list[Recorded]) -> dict[str, list[tuple]]:
    """Fold what the file does not hold yet; every table afterwards."""
    store = Store.open(file)
    position = store.tip.position
    store.close()
    assert position > 0, "what was committed stays"
    return absorb(file, [records[position:]])


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
        ("waves", WaveRow),
    ):
        found = store.read(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table]
        )
        assert [name for (name,) in found] == list(row.__struct_fields__)
    store.close()


def test_every_invocation_by_capability_is_one_record_of_six_fields(tmp_path):
    story = Story()
    story.accepted("a")
    routed = {"tool": "claude", "capability": "refactoring"}
    prompt = ev.Artifact(role="prompt", digest="f" * 64, name="prompt-1", size_bytes=1)
    log = ev.Artifact(role="log", digest="e" * 64, name="log-1", size_bytes=1)
    for number, finish in (
        (1, ev.StepFinished(ok=True, artifacts=[log, prompt])),
        (2, ev.StepFinished(ok=False, error_class="timeout")),
        (3, ev.StepLost(reason="gone")),
        (4, None),
    ):
        story.decide(scheduled("a", number, "edit", **routed))
        story.live("a", number, ev.StepStarted(executor="e1", boot="k1"))
        if finish is not None:
            story.live("a", number, finish)
    story.decide(scheduled("a", 5, "edit", **routed))  # nobody has claimed it
    story.step("a", 6, "edit", ev.StepFinished(ok=True))  # its tool was not routed
    absorb(tmp_path / "l", [story.records])
    store = Store.open(tmp_path / "l")
    columns = store.read(
        "SELECT column_name FROM duckdb_columns() WHERE table_name = 'aim_audit' ORDER BY column_index"
    )
    assert [name for (name,) in columns] == ["timestamp", "actor", "tool_id", "capability", "payload", "result"]
    found = store.read("SELECT * FROM aim_audit ORDER BY timestamp")
    store.close()
    assert [row[1:] for row in found] == [
        ("ann", "claude", "refactoring", "f" * 64, "ok"),
        ("ann", "claude", "refactoring", "", "timeout"),
        ("ann", "claude", "refactoring", "", "lost"),
        ("ann", "claude", "refactoring", "", "started"),
    ]
    claims = [record.time_ns for record in story.records if b'"step_started"' in record.data][:4]
    told = [datetime.strptime(row[0], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) for row in found]
    assert [round(at.timestamp() * 1e6) for at in told] == [time_ns // 1000 for time_ns in claims]


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


def cut(size: int) -> Callable[[Path], None]:
    """Truncate a file to a size; a negative one counts from its end."""
    return lambda file: os.truncate(file, size if size >= 0 else file.stat().st_size + size)


def scribble(offset: int, size: int = 200) -> Callable[[Path], None]:
    """Overwrite bytes; a negative offset counts from the end."""

    def write(file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
            opened.write(bytes(range(7, 207))[:size])

    return write


def survive(file: Path, records: list[Recorded]) -> dict[str, list[tuple]]:
    """What a supervised ledger does: start, absorb, read everything; start again when the file turns out to be broken."""
    for _ in range(2):
        store = None
        try:
            store = Store.open(file)
            fold = Projector(store.tip, store)
            store.commit(fold.fold(records[store.tip.position :]))
            return rows(store)
        except StoreDamagedError:
            assert file.with_name(file.name + ".condemned").exists()
        finally:
            if store is not None:
                store.close()
    raise AssertionError("the second start found a broken file again")


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(cut(0), id="empty"),
        *(pytest.param(cut(size), id=f"cut at {size}") for size in (100, 4096, 12288, 300_000, -262_144, -10)),
        *(pytest.param(scribble(at), id=f"scribbled at {at}") for at in (0, 4096, 8192, 12288, 270_000, 700_000, -900)),
        pytest.param(Path.unlink, id="deleted"),
    ],
)
def test_whatever_harms_the_file_it_is_rebuilt_equal(tmp_path, harm):
    file = tmp_path / "l"
    records = steady(2, 40)
    before = absorb(file, [records])
    harm(file)
    assert survive(file, records) == before


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The folder of a ledger that was killed with everything in its journal."""
    folder = tmp_path_factory.mktemp("killed")
    child = "import os, sys; from test_ledger_store import *; store = Store.open(Path(sys.argv[1])); fold = "
    child += "Projector(store.tip, store); records = steady(2, 40)\n"
    child += "for n in range(0, len(records), 100): store.commit(fold.fold(records[n:n + 100]))\nos._exit(9)"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(projector.__file__).parents[2])])
    ended = subprocess.run(
        [sys.executable, "-c", child, str(folder / "l")], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert ended.returncode == 9
    assert (folder / "l.wal").stat().st_size > 100_000
    return folder


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda _: None, id="nothing"),
        pytest.param(Path.unlink, id="deleted"),
        *(pytest.param(cut(size), id=f"cut at {size}") for size in (0, 10, 1000, 100_000, -5)),
        *(pytest.param(scribble(at, 60), id=f"scribbled at {at}") for at in (0, 20, 500, 100_000, -100)),
    ],
)
def test_whatever_harms_the_journal_the_tables_become_whole_again(tmp_path, killed, harm):
    shutil.copytree(killed, tmp_path / "c")
    records = steady(2, 40)
    harm(tmp_path / "c" / "l.wal")
    assert survive(tmp_path / "c" / "l", records) == absorb(tmp_path / "anew", [records])


def test_a_journal_without_its_file_is_not_replayed_into_a_new_one(tmp_path, killed):
    shutil.copytree(killed, tmp_path / "c")
    (tmp_path / "c" / "l").unlink()
    store = Store.open(tmp_path / "c" / "l")
    assert (store.tip.position, store.made_anew) == (0, True)
    store.close()
    assert (tmp_path / "c" / "l.corrupt-1.wal").exists()


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_deleted_or_replaced_in_use_is_condemned(tmp_path, replace):
    file = tmp_path / "l"
    records = steady(1, 3)
    store = Store.open(file)
    store.commit(Projector(store.tip, store).fold(records))
    store.look()
    assert not store.condemned
    file.rename(tmp_path / "gone")
    if replace:
        file.write_bytes(b"something else")
    store.look()
    assert "deleted or replaced" in store.condemned
    store.close()
    assert survive(file, records) == absorb(tmp_path / "anew", [records])


def test_damage_that_a_read_meets_condemns_the_file(tmp_path):
    """The blocks of a column are read when somebody asks for it: long after the start."""
    file = tmp_path / "l"
    records = bulky()
    absorb(file, [records])
    harm_unseen(file)
    store = Store.open(file)
    assert store.tip.position == len(records), "nothing is seen at the start"
    with pytest.raises(StoreDamagedError, match="rebuilds the file from the log"):
        rows(store)
    assert store.condemned
    store.close()
    assert survive(file, records) == absorb(tmp_path / "anew", [records])


def test_a_mistaken_query_condemns_nothing(tmp_path):
    store = Store.open(tmp_path / "l")
    with pytest.raises(StoreError, match="could not be read"):
        store.read("SELECT position + 'x' FROM meta")
    assert not store.condemned
    store.close()


def test_of_the_files_moved_aside_the_newest_are_kept(tmp_path):
    file = tmp_path / "l"
    (tmp_path / "l.corrupt-x").write_text("not ours")
    for number in range(4):
        file.write_bytes(b"broken %d" % number)
        Store.open(file, aside_max=2).close()
    kept = {found.name: found.read_bytes() for found in tmp_path.glob("l.corrupt-?")}
    assert kept == {"l.corrupt-3": b"broken 2", "l.corrupt-4": b"broken 3", "l.corrupt-x": b"not ours"}
    file.write_bytes(b"broken")
    Store.open(file, aside_max=0).close()
    assert [found.name for found in tmp_path.glob("l.corrupt-?")] == ["l.corrupt-x"]


def test_what_a_killed_verification_left_is_removed(tmp_path):
    Store.open(scratch_file(tmp_path / "l")).close()
    (tmp_path / "l.verify.tmp").mkdir()
    Store.open(tmp_path / "l").close()
    assert [found.name for found in tmp_path.iterdir() if "verify" in found.name] == []


def test_a_snapshot_stands_still_while_commits_go_on(tmp_path):
    records = steady(2, 3)
    store = Store.open(tmp_path / "l")
    fold = Projector(store.tip, store)
    store.commit(fold.fold(records[:20]))
    with store.snapshot() as snapshot:
        store.commit(fold.fold(records[20:]))
        assert snapshot.tip.position == 20
        assert snapshot.read("SELECT max(position) FROM entries") == [(20,)]
    assert store.read("SELECT max(position) FROM entries") == [(len(records),)]
    store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 2 MiB; root only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_it_with_a_remedy_and_it_goes_on_when_there_is_room(tmp_path, small_disk):
    """Nothing is condemned or moved aside: the file is sound, and what was committed stays."""
    file = small_disk / "l"
    records = steady(4, 300)
    hundreds = [records[first : first + 100] for first in range(0, len(records), 100)]
    with pytest.raises(StoreError, match="Free space") as stopped:
        absorb(file, hundreds)
    assert not isinstance(stopped.value, StoreDamagedError)
    assert str(file) in str(stopped.value)
    with pytest.raises(StoreError, match="Free space"):
        absorb_the_rest(file, records)  # as often as it is started while the disk is full
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert absorb_the_rest(file, records) == absorb(tmp_path / "anew", [records])
    assert not list(small_disk.glob("*.corrupt-*"))


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


def test_copies_under_commits_are_whole(tmp_path, monkeypatch):
    """Whenever it is taken, a copy is the tables as of one commit; checkpoints, which would tear it, happen between copies."""
    monkeypatch.setattr("services.ledger.store.JOURNAL_LIMIT", "200KB")
    store = Store.open(tmp_path / "l")
    fold = Projector(store.tip, store)
    records = steady(6, 5)
    heads = set()

    def ingest() -> None:
        for at in range(0, len(records), 20):
            store.commit(fold.fold(records[at : at + 20]))
            heads.add((tmp_path / "l").read_bytes()[:12288])

    writing = threading.Thread(target=ingest)
    writing.start()
    positions = []
    for number in range(5):
        target = tmp_path / f"copy-{number}"
        store.copy(target, threading.Event())
        with duckdb.connect(str(target)) as copy:
            (found,) = copy.execute(
                "SELECT position, (SELECT max(position) FROM entries), (SELECT count(*) FROM entries), "
                "(SELECT count(DISTINCT position) FROM events) FROM meta"
            ).fetchall()
        assert len(set(found)) == 1
        positions.append(found[0])
    writing.join()
    store.close()
    assert positions == sorted(positions)
    assert len(set(positions)) > 1, "commits went on"
    assert len(heads) > 1, "checkpoints were made"


def test_a_copy_that_is_not_made_harms_nothing(tmp_path):
    store = Store.open(tmp_path / "l")
    store.commit(Projector(store.tip, store).fold(steady(1, 2)))
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(StoreCopyError, match="stops"):
        store.copy(tmp_path / "one", stopped)
    with pytest.raises(StoreCopyError, match="cannot be copied"):
        store.copy(tmp_path / "l", threading.Event())
    assert store.read("SELECT current_setting('wal_autocheckpoint')") == [("61.0 MiB",)]
    assert store.condemned == ""
    store.close()


class Refusing:
    """An appender that finds no memory so many times."""

    def __init__(self, inner: object, times: int) -> None:
        self._inner = inner
        self.times = times

    def append_rows(self, rows) -> None:
        self._inner.append_rows(rows)

    def flush(self) -> None:
        if self.times:
            self.times -= 1
            raise duckdb.OutOfMemoryException("no memory left")
        self._inner.flush()

    def clear(self) -> None:
        self._inner.clear()


@pytest.mark.parametrize("table", ["entries", "attempts"])
def test_a_commit_that_finds_no_memory_is_tried_again_and_nothing_comes_twice(tmp_path, monkeypatch, table):
    monkeypatch.setattr("services.ledger.store.MEMORY_PAUSES_S", (0.0, 0.0))
    records = steady(2, 2)
    store = Store.open(tmp_path / "l")
    fold = Projector(store.tip, store)
    store._appenders[table] = Refusing(store._appenders[table], 2)
    store.commit(fold.fold(records[:20]))
    store._appenders[table].times = 3
    with pytest.raises(StoreMemoryError, match="memory_limit_mb"):
        store.commit(fold.fold(records[20:]))
    store.close()
    assert not (tmp_path / "l.condemned").exists(), "a lack of memory is no damage"
    absorb_the_rest(tmp_path / "l", records)
    assert absorb(tmp_path / "l", []) == absorb(tmp_path / "whole", [records])


def test_readers_leave_half_of_the_memory_to_commits(tmp_path):
    store = Store.open(tmp_path / "l", memory_limit_mb=256, readers=4)
    with store.reading() as tables:
        ((limit,),) = tables.read("SELECT current_setting('operator_memory_limit')")
    assert limit == "30.5 MiB"
    store.close()
