"""The ledger's file: the only module that imports duckdb.

* One writer (the thread that absorbs) and a fixed number of reading cursors, each answer fetched whole: an unfinished
  result would own its connection and stop the next flush.
* One transaction per batch holds its entries, events, transitions, the rows that changed, and the new tip. So after a
  crash the tables are those of some whole batch, and absorbing goes on behind it.
* The file is disposable. What cannot be opened, is damaged or belongs to another version of the projection is moved
  aside as `<file>.corrupt-<n>` and rebuilt from the log. A file that belongs to another log is not: that is an error.
"""

import contextlib
import fcntl
import os
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec
import structlog

from services.bus import Recorded, StreamIdentity
from services.ledger import projector
from services.ledger.projector import AttemptRow, Batch, KnownRun, RunRow, Tip, WorkstreamRow

log = structlog.get_logger()

_SCHEMA = Path(__file__).with_name("schema.sql")
_CLOSED_STATES = "('finished', 'cancelled', 'lost')"
_UPSERTED = ("runs", "workstreams", "attempts")
_APPENDED = ("entries", "events", "transitions")
# What goes wrong around a sound file; anything else that opening or committing meets is taken for damage.
_SURROUNDINGS = ("no space left", "permission denied", "read-only file system", "too many open files")

Row = TypeVar("Row", RunRow, WorkstreamRow, AttemptRow)


class StoreError(RuntimeError):
    """The file cannot be used; the text says what to do."""


class StoreBusyError(StoreError):
    """Another process holds the file."""


class StoreDamagedError(StoreError):
    """The file broke while in use: it is moved aside at the next start."""


class QueryTooSlowError(StoreError):
    """A read took longer than its limit."""


class LedgerMismatchError(StoreError):
    """The file was folded from another log than the one it is shown."""


def columns_of(row: type[msgspec.Struct]) -> str:
    """The columns of a row's table for a SELECT, in the order of its fields."""
    return ", ".join(row.__struct_fields__)


class Store:
    """The open file. `commit` belongs to one thread; `read` may be called from any."""

    def __init__(
        self, file: Path, lock: int, connection: duckdb.DuckDBPyConnection, *, readers: int, query_timeout_s: float
    ) -> None:
        """Use `Store.open`."""
        self.file = file
        self._lock = lock
        self._connection = connection
        self._query_timeout_s = query_timeout_s
        self._appenders = {
            **{table: connection.appender(table) for table in _APPENDED},
            **{table: connection.appender(table, action="upsert") for table in _UPSERTED},
        }
        self._cursors: queue.SimpleQueue[duckdb.DuckDBPyConnection] = queue.SimpleQueue()
        self._readers = readers
        for _ in range(readers):
            cursor = connection.cursor()
            cursor.execute(f"SET max_execution_time = {max(1, int(query_timeout_s * 1000))}").fetchall()
            self._cursors.put(cursor)
        created, position, entry, digest = connection.execute(
            "SELECT stream_created_ns, position, entry, hash FROM meta"
        ).fetchall()[0]
        self.stream_created_ns: int = created
        self.tip = Tip(position, entry, bytes(digest))

    @classmethod
    def open(
        cls,
        file: Path,
        *,
        memory_limit_mb: int = 256,
        threads: int = 2,
        readers: int = 4,
        query_timeout_s: float = 30.0,
    ) -> "Store":
        """Open or make the file.

        Raises StoreBusyError when another process has it, StoreError when its surroundings do not let it be used.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the folder of {file} cannot be made: {error.strerror}; set `file` elsewhere") from error
        lock = _take_lock(file)
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_limit_mb}MB",
            "threads": threads,
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        try:
            if _condemned(file).exists():
                _move_aside(file, "it was found damaged while in use")
            try:
                connection = _connect(file, settings)
            except duckdb.Error as error:
                _complain_of_surroundings(file, error)
                _move_aside(file, str(error))
                connection = _connect(file, settings)
            return cls(file, lock, connection, readers=readers, query_timeout_s=query_timeout_s)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Let go of the file. No read or commit may be under way."""
        self._appenders.clear()
        for _ in range(self._readers):
            self._cursors.get().close()
        self._connection.close()
        os.close(self._lock)

    # Writing

    def bind(self, stream_created_ns: int) -> None:
        """Remember which stream the file is folded from; once, before the first commit."""
        self._connection.execute("UPDATE meta SET stream_created_ns = ?", [stream_created_ns]).fetchall()
        self.stream_created_ns = stream_created_ns

    def verify(self, identity: StreamIdentity, at_tip: Recorded | None) -> None:
        """Check that this file was folded from that stream; `at_tip` is the message at the tip, None if it is purged.

        Raises LedgerMismatchError.
        """
        if self.stream_created_ns == 0:
            return
        remedy = (
            "Point the ledger at the log it belongs to, or, if the log was replaced on purpose, "
            f"stop the ledger, move {self.file} away and start it again: it is rebuilt from the log"
        )
        if identity.created_ns != self.stream_created_ns:
            raise LedgerMismatchError(
                f"{self.file} was folded from a stream created at {self.stream_created_ns} ns, "
                f"but this one was created at {identity.created_ns} ns. {remedy}"
            )
        if self.tip.position > identity.last:
            raise LedgerMismatchError(
                f"{self.file} reaches position {self.tip.position}, "
                f"but the stream ends at {identity.last}: it lost entries. {remedy}"
            )
        if at_tip is None or self.tip.position == 0:
            return
        rows = self._connection.execute(
            "SELECT hash FROM entries WHERE position < ? ORDER BY position DESC LIMIT 1", [self.tip.position]
        ).fetchall()
        previous = bytes(rows[0][0]) if rows else projector.GENESIS
        if projector.chained(previous, at_tip.sequence, at_tip.subject, at_tip.data) != self.tip.hash:
            raise LedgerMismatchError(
                f"the entry at position {self.tip.position} is not the one that {self.file} absorbed there "
                f"(entry {self.tip.entry or 'without id'}). {remedy}"
            )

    def commit(self, batch: Batch) -> None:
        """Store a batch in one transaction. Raises StoreDamagedError, StoreError; the process should end then."""
        rows: dict[str, Sequence[Sequence[object]]] = {
            "entries": batch.entries,
            "events": batch.events,
            "transitions": batch.transitions,
            "runs": [msgspec.structs.astuple(row) for row in batch.runs],
            "workstreams": [msgspec.structs.astuple(row) for row in batch.workstreams],
            "attempts": [msgspec.structs.astuple(row) for row in batch.attempts],
        }
        try:
            self._connection.begin()
            for table, values in rows.items():
                if values:
                    appender = self._appenders[table]
                    appender.append_rows(values)
                    appender.flush()
            self._connection.execute(
                "UPDATE meta SET position = ?, entry = ?, hash = ?",
                [batch.tip.position, batch.tip.entry, batch.tip.hash],
            ).fetchall()
            self._connection.commit()
        except duckdb.Error as error:
            with contextlib.suppress(duckdb.Error):
                self._connection.rollback()
            _complain_of_surroundings(self.file, error)
            _condemned(self.file).touch()
            raise StoreDamagedError(
                f"{self.file} cannot be written ({error}): restart the ledger, it rebuilds the file from the log"
            ) from error
        self.tip = batch.tip

    # What the fold needs back

    def run(self, run: str) -> KnownRun | None:
        """A stored run with its workstreams and open attempts; for the writing thread."""
        found = self._rows(RunRow, "runs WHERE run = ?", [run])
        if not found:
            return None
        return KnownRun(
            found[0],
            self._rows(WorkstreamRow, "workstreams WHERE run = ? ORDER BY ordinal", [run]),
            self._rows(AttemptRow, f"attempts WHERE run = ? AND state NOT IN {_CLOSED_STATES}", [run]),
        )

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:
        """A stored attempt; for the writing thread."""
        found = self._rows(
            AttemptRow, "attempts WHERE run = ? AND workstream = ? AND attempt = ?", [run, workstream, attempt]
        )
        return found[0] if found else None

    def _rows(self, row: type[Row], source: str, values: Sequence[object]) -> list[Row]:
        found = self._connection.execute(f"SELECT {columns_of(row)} FROM {source}", values).fetchall()  # noqa: S608 - constants
        return rows_of(row, found)

    # Reading

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The whole answer to a query, as of one commit. Blocks: call it in a thread.

        Raises QueryTooSlowError after `query_timeout_s`, StoreDamagedError when the file is broken, StoreError.
        """
        with self._cursor() as cursor:
            try:
                return cursor.execute(sql, list(values)).fetchall()
            except duckdb.InterruptException as error:
                raise QueryTooSlowError(
                    f"the ledger needed more than {self._query_timeout_s:g} s: ask for less, such as one run or a smaller page"
                ) from error
            except duckdb.Error as error:
                raise StoreError(f"the ledger's file could not be read: {error}") from error

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._cursors.get()
        try:
            yield cursor
        finally:
            self._cursors.put(cursor)


def rows_of(row: type[Row], found: Sequence[tuple[Any, ...]]) -> list[Row]:
    """Rows as read with `columns_of`."""
    fields = row.__struct_fields__
    return [row(**dict(zip(fields, values, strict=True))) for values in found]


def _connect(file: Path, settings: dict[str, str | bool | int | float | list[str]]) -> duckdb.DuckDBPyConnection:
    """An open file of this version with all its tables; raises duckdb.Error for any other."""
    fresh = not file.exists()
    connection = duckdb.connect(str(file), config=settings)
    try:
        if fresh:
            connection.begin()
            connection.execute(_SCHEMA.read_text()).fetchall()
            connection.execute(
                "INSERT INTO meta VALUES (?, 0, 0, '', ?)", [projector.VERSION, projector.GENESIS]
            ).fetchall()
            connection.commit()
            connection.execute("CHECKPOINT").fetchall()
        _check_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_tables(connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute("SELECT projection FROM meta").fetchall()
    if found != [(projector.VERSION,)]:
        raise duckdb.InvalidInputException(f"projection {found} is not version {projector.VERSION}")
    for table in (*_APPENDED, *_UPSERTED):
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()  # noqa: S608 - constants


def _take_lock(file: Path) -> int:
    """A lock that outlives no process; kept beside the file, which may be moved."""
    name = file.with_name(file.name + ".lock")
    try:
        lock = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"{name} cannot be opened: {error.strerror}; set `file` to a folder that can be written"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreBusyError(
            f"{file} is in use by another ledger: stop it, or give this one a `file` of its own"
        ) from error
    return lock


def _complain_of_surroundings(file: Path, error: duckdb.Error) -> None:
    text = str(error)
    if "Could not set lock" in text:
        raise StoreBusyError(f"{file} is open in another process: close it. {text}") from error
    if isinstance(error, duckdb.OutOfMemoryException):
        raise StoreError(f"{file} needs more memory: raise `memory_limit_mb`. {text}") from error
    if any(sign in text.lower() for sign in _SURROUNDINGS):
        raise StoreError(
            f"{file} cannot be used: {text}. Free space or mend the permissions, then start again"
        ) from error


def _condemned(file: Path) -> Path:
    return file.with_name(file.name + ".condemned")


def _move_aside(file: Path, reason: str) -> None:
    number = 1
    while (target := file.with_name(f"{file.name}.corrupt-{number}")).exists():
        number += 1
    log.warning("ledger.rebuild", file=str(file), moved_to=str(target), reason=reason)
    journal = file.with_name(file.name + ".wal")
    if journal.exists():
        journal.replace(target.with_name(target.name + ".wal"))
    if file.exists():
        file.replace(target)
    _condemned(file).unlink(missing_ok=True)
