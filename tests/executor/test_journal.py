"""What one life of an executor leaves to the next."""

import asyncio
import os
import subprocess

import pytest

from services.executor.journal import Journal, StateDirBusyError, lock

KEY = ("r1", "ws-a", 1)
LONG = ("r" * 128, "w" * 128, 999_999_999)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


def test_open_attempts_are_read_back(journal, tmp_path):
    assert journal.entries() == []
    for key in (KEY, LONG):
        journal.opened(key)
    assert sorted(Journal(tmp_path / "journal").entries()) == sorted([KEY, LONG])
    journal.closed(KEY)
    journal.closed(KEY)
    assert journal.entries() == [LONG]


def test_what_is_no_entry_is_removed(journal, tmp_path):
    journal.opened(KEY)
    folder = tmp_path / "journal"
    (entry,) = folder.iterdir()
    (folder / "half").write_bytes(entry.read_bytes()[:10])
    (folder / "other.new").write_bytes(entry.read_bytes())
    (folder / "empty").write_bytes(b"")
    assert journal.entries() == [KEY]
    assert list(folder.iterdir()) == [entry]


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "journal")
    journal.opened(KEY)
    journal.closed(KEY)


async def test_the_former_supervisor_is_waited_for(journal):
    assert await journal.former_supervisor_ended(0.1)
    running = subprocess.Popen(("sleep", "60"))  # noqa: ASYNC220 - it only has to live
    journal.supervised_by(running.pid)
    assert journal.entries() == []
    assert not await journal.former_supervisor_ended(0.05)
    waiting = asyncio.create_task(journal.former_supervisor_ended(10))
    running.kill()
    assert await waiting, "a zombie has ended"
    running.wait()
    assert await journal.former_supervisor_ended(0.1)


def test_a_state_folder_belongs_to_one(tmp_path):
    held = lock(tmp_path / "state")
    with pytest.raises(StateDirBusyError, match="a folder of its own"):
        lock(tmp_path / "state")
    os.close(held)
    os.close(lock(tmp_path / "state"))
