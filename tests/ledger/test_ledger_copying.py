"""Backups of a ledger in use, and what becomes of files that are put in its place."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import duckdb
import pytest
from ledger_disk import small_disk
from ledger_histories import MemoryLog, steady

from services.ledger.copying import Copied, Copies, CopyBusyError, CopyError, copy_store, remove_left
from services.ledger.projector import Projector
from services.ledger.store import Store, StoreError, restored_file, seal
from services.ledger.verify import Difference, compare


def folded(file: Path, records, *, batch: int = 100, created_ns: int = 42) -> Store:
    store = Store.open(file)
    store.bind(created_ns)
    projector = Projector(store.tip, store)
    for first in range(0, len(records), batch):
        store.commit(projector.fold(records[first : first + batch]))
    return store


def equal(one: Path, other: Path) -> bool:
    left, right = Store.open(one, readers=1), Store.open(other, readers=1)
    try:
        with left.snapshot() as stored, right.snapshot() as fresh:
            return not any(isinstance(said, Difference) for said in compare(stored, fresh))
    finally:
        left.close()
        right.close()


def test_a_copy_of_a_ledger_in_use_is_a_whole_batch_of_it(tmp_path):
    """Copied again and again while much is committed: each copy is what was folded straight up to its position."""
    records = steady(30, 10)
    store = folded(tmp_path / "l", records[:500])
    projector = Projector(store.tip, store)

    def commit() -> None:
        for first in range(500, len(records), 50):
            store.commit(projector.fold(records[first : first + 50]))

    writing = threading.Thread(target=commit)
    writing.start()
    copies = []
    while len(copies) < 2 or (writing.is_alive() and len(copies) < 4):
        before = store.tip.position
        copied = copy_store(store, tmp_path / f"copy-{len(copies)}")
        assert before <= copied.position <= len(records)
        copies.append(copied)
    writing.join()
    assert len({copied.position for copied in copies}) > 1, "much was committed meanwhile"
    store.close()
    assert not list(tmp_path.glob("copy-*.wal")), "each is one file"
    for number, copied in enumerate(copies):
        assert seal(tmp_path / f"copy-{number}").tip.position == copied.position
    folded(tmp_path / "straight", records[: copies[1].position], batch=2000).close()
    assert equal(tmp_path / "copy-1", tmp_path / "straight")


async def test_a_full_disk_refuses_a_copy_and_leaves_nothing(tmp_path):
    with small_disk(tmp_path / "disk", 6) as disk:
        store = folded(disk / "l", steady(1, 1))
        held = sorted(file.name for file in disk.iterdir())
        (disk / "filler").write_bytes(bytes(3_000_000))
        with pytest.raises(CopyError, match="Make room there"):
            copy_store(store, disk / "copy")
        assert sorted(file.name for file in disk.iterdir()) == ["filler", *held]
        with pytest.raises(CopyError, match=r"bytes free, a copy needs .*make room"):
            await anext(Copies(store, MemoryLog()).backup())
        (disk / "filler").unlink()
        store.close()


async def received(copies: Copies) -> tuple[Copied, bytes]:
    first, *pieces, last = [said async for said in copies.backup()]
    assert (first.position, first.sha256) == (last.position, "")
    data = b"".join(pieces)
    assert (last.size_bytes, last.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return last, data


async def pieces(data: bytes, size: int = 30_000) -> AsyncIterator[bytes]:
    for first in range(0, len(data), size):
        yield data[first : first + size]


async def test_a_backup_is_restored_and_catches_up(tmp_path):
    records = steady(4, 5)
    log = MemoryLog(records)
    store = folded(tmp_path / "l", records[:100])
    copied, data = await received(Copies(store, log))
    assert copied.position == 100
    projector = Projector(store.tip, store)
    store.commit(projector.fold(records[100:]))
    restored = await Copies(store, log).restore(copied.sha256, len(data), pieces(data))
    assert restored.position == 100
    store.close()
    with contextlib.closing(Store.open(tmp_path / "l")) as again:
        assert again.tip.position == 100
        again.commit(Projector(again.tip, again).fold(records[100:]))
    assert equal(tmp_path / "l", tmp_path / "l.corrupt-1"), "the one before is kept for a look"
    assert not restored_file(tmp_path / "l").exists()


async def test_a_restored_file_stays_though_the_one_it_replaces_was_deleted(tmp_path):
    """The mark of the deleted one must not condemn the restored one."""
    store = folded(tmp_path / "l", steady(1, 1))
    copied, data = await received(Copies(store, MemoryLog()))
    (tmp_path / "l").unlink()
    (tmp_path / "l.wal").unlink()
    store.look()
    store.close()
    restored_file(tmp_path / "l").write_bytes(data)
    with contextlib.closing(Store.open(tmp_path / "l")) as again:
        assert (again.tip.position, again.made_anew, again.restored) == (copied.position, False, True)
    with contextlib.closing(Store.open(tmp_path / "l")) as again:
        assert (again.tip.position, again.restored) == (copied.position, False)


async def test_one_at_a_time_and_one_that_is_left_early_leaves_nothing(tmp_path):
    store = folded(tmp_path / "l", steady(4, 5))
    copies = Copies(store, MemoryLog())
    backup = copies.backup()
    await anext(backup)
    with pytest.raises(CopyBusyError, match="under way"):
        await anext(copies.backup())
    await backup.aclose()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["l", "l.lock", "l.wal"]
    await received(copies)
    for left in ("l.copy", "l.copy.wal", "l.upload"):
        (tmp_path / left).write_bytes(b"half")
    remove_left(tmp_path / "l")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["l", "l.lock", "l.wal"]
    store.close()


def other_tables(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE more (a INTEGER)")


def other_version(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE meta SET projection = 1")


def torn_tip(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("DELETE FROM entries WHERE position = (SELECT max(position) FROM entries)")


UNFIT = {
    "no database at all": (lambda file: file.write_bytes(b"nonsense" * 1000), "no file of this version"),
    "cut short": (lambda file: os.truncate(file, file.stat().st_size // 2), "no file of"),
    "of another version": (other_version, "no file of this version"),
    "with other tables": (other_tables, "do not fit together"),
    "without its newest entry": (torn_tip, "do not fit together"),
}


@pytest.mark.parametrize("what", UNFIT)
async def test_a_file_that_is_none_of_ours_changes_nothing(tmp_path, what):
    records = steady(1, 2)
    store = folded(tmp_path / "l", records)
    copy_store(store, tmp_path / "bad")
    does, said = UNFIT[what]
    does(tmp_path / "bad")
    data = (tmp_path / "bad").read_bytes()
    with pytest.raises(CopyError, match=f"what was sent is refused.*{said}"):
        await Copies(store, MemoryLog(records)).restore(hashlib.sha256(data).hexdigest(), len(data), pieces(data))
    assert not restored_file(store.file).exists()
    store.close()
    shutil.copyfile(tmp_path / "bad", restored_file(tmp_path / "l"))  # put there by hand, while the ledger was stopped
    with contextlib.closing(Store.open(tmp_path / "l")) as again:
        assert again.tip.position == len(records), "the present file stays in use"
    assert (tmp_path / "l.restore-refused").exists()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (MemoryLog(steady(1, 2), created_ns=43), "of another log"),
        (MemoryLog(steady(1, 2)[:-1]), "the log has lost entries"),
        (MemoryLog([*steady(1, 2)[:-1], steady(2, 2)[20]]), "another entry at position"),
    ],
)
async def test_a_file_of_another_log_is_refused(tmp_path, log, said):
    records = steady(1, 2)
    store = folded(tmp_path / "l", records)
    if said.startswith("another entry"):
        log.records[-1] = type(records[0])(records[-1].sequence, records[-1].subject, 1, b"{}")
    copied, data = await received(Copies(store, log))
    with pytest.raises(CopyError, match=said):
        await Copies(store, log).restore(copied.sha256, len(data), pieces(data))
    store.close()


async def test_a_backup_whose_caller_leaves_while_it_is_copied_ends_at_once(tmp_path, monkeypatch):
    store = folded(tmp_path / "l", steady(1, 1))
    copies = Copies(store, MemoryLog())
    begun, ended = threading.Event(), []

    def copying(target: Path, stop: threading.Event) -> None:
        begun.set()
        ended.append(stop.wait(10))
        raise StoreError("the ledger stops")

    with monkeypatch.context() as slow:
        slow.setattr(store, "copy", copying)
        backup = asyncio.ensure_future(anext(copies.backup()))
        await asyncio.to_thread(begun.wait, 10)
        backup.cancel()
        await asyncio.wait([backup])
    assert ended == [True]
    await received(copies)
    store.close()


async def test_what_comes_torn_or_too_long_is_refused(tmp_path):
    store = folded(tmp_path / "l", steady(1, 1))
    copies = Copies(store, MemoryLog(steady(1, 1)))
    copied, data = await received(copies)
    for sent in (data[:-1], data + b"x", b"y" + data[1:]):
        with pytest.raises(CopyError, match="send it again"):
            await copies.restore(copied.sha256, len(data), pieces(sent))
    assert (await copies.restore(copied.sha256, len(data), pieces(data))).position == copied.position
    store.close()


def test_a_copy_is_sealed_only_if_its_tables_fit(tmp_path):
    folded(tmp_path / "l", steady(1, 1)).close()
    sealed = seal(tmp_path / "l")
    assert (sealed.stream_created_ns, sealed.tip.position) == (42, len(steady(1, 1)))
    torn_tip(tmp_path / "l")
    with pytest.raises(StoreError, match="do not fit together"):
        seal(tmp_path / "l")
