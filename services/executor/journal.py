"""Which attempts an executor has open, on its disk: so that its next life can clean up after a sudden end.

    <folder>/<sha256 of the attempt>     one file for each attempt, from before its claim until everything is told
    <folder>/supervisor                  which process ends the tools when the executor is gone

Invariants: an attempt's file is there before any process of it can be, and is whole or not at all; it goes only once its
close is in the log, or refused and the late facts are told. What cannot be read is no entry. Nothing here is needed to
carry on with a run: without the folder, only the end of left-over processes goes unrecorded.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

log = structlog.get_logger()

ENTRY_BYTES_MAX: Final = 4096
POLL_S: Final = 0.02
_SUPERVISOR: Final = "supervisor"

Key = tuple[str, str, int]
T = TypeVar("T")


class StateDirBusyError(Exception):
    """Another executor works in this folder."""


class _Open(msgspec.Struct, frozen=True):
    run: str
    workstream: str
    attempt: int


class _Process(msgspec.Struct, frozen=True):
    pid: int
    started: str


def lock(state_dir: Path) -> int:
    """Makes a state folder ours for the life of this process; the descriptor of the lock.

    Raises StateDirBusyError when another executor has it, OSError when it cannot be used.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StateDirBusyError(
            f"state_dir {state_dir} is in use by another executor: give each executor a folder of its own"
        ) from error
    return descriptor


class Journal:
    """The open attempts of one executor."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when it is first written to."""
        self._folder = folder

    def opened(self, key: Key) -> None:
        """The attempt is about to be claimed. A disk that takes nothing is no reason not to: it is only logged."""
        self._write(_name(key), msgspec.json.encode(_Open(*key)))

    def closed(self, key: Key) -> None:
        """Everything about the attempt is told."""
        with contextlib.suppress(OSError):
            (self._folder / _name(key)).unlink(missing_ok=True)

    def entries(self) -> list[Key]:
        """The attempts that are open, in no order. What is no entry is removed."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self._folder)):
                if entry.name == _SUPERVISOR:
                    continue
                read = None if entry.name.endswith(".new") else _read(Path(entry.path), _Open)
                if read is None:
                    log.warning("executor.journal_entry_unreadable", file=entry.path)
                    with contextlib.suppress(OSError):
                        Path(entry.path).unlink()
                else:
                    found.append((read.run, read.workstream, read.attempt))
        return found

    def supervised_by(self, pid: int) -> None:
        """From now on this process ends the tools when the executor is gone."""
        self._write(_SUPERVISOR, msgspec.json.encode(_Process(pid, _started(pid))))

    async def former_supervisor_ended(self, timeout_s: float) -> bool:
        """Waits for the supervisor of the former life, which is ending its tools; False when it takes too long."""
        former = _read(self._folder / _SUPERVISOR, _Process)
        deadline = time.monotonic() + timeout_s
        while former is not None and former.started and _started(former.pid) == former.started:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _write(self, name: str, data: bytes) -> None:
        file = self._folder / name
        new = file.with_name(f"{name}.new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            new.write_bytes(data)
            new.replace(file)
        except OSError as error:
            log.warning("executor.journal_not_written", file=str(file), error=str(error))
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)


def _name(key: Key) -> str:
    """A name of fixed length: that of an attempt may be longer than a file's may be."""
    return hashlib.sha256("/".join(map(str, key)).encode()).hexdigest()


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        with file.open("rb") as stream:
            return msgspec.json.decode(stream.read(ENTRY_BYTES_MAX), type=kind)
    except (OSError, ValueError):
        return None


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" when there is none: process ids are used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]
