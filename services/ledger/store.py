"""The ledger's file: the only module that imports duckdb.

* One writer (the thread that absorbs) and a fixed number of reading cursors, each answer fetched whole: an unfinished
  result would own its connection and stop the next flush.
* One transaction per batch holds its entries, events, transitions, moves of patches, the rows that changed, and the new tip. So after a
  crash the tables are those of some whole batch, and absorbing goes on behind it.
* The file is disposable. What cannot be opened, is damaged or belongs to another version of the projection is moved
  aside as `<file>.corrupt-<n>` and rebuilt from the log. A file that belongs to another log is not: that is an error.
* Damage found in use condemns the file: the mark `<file>.condemned` says why, whoever found it gets StoreDamagedError,
  and the process should end; the next `open` moves the file aside. A full disk or a lack of memory is no damage.
"""

import contextlib
import fcntl
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import duckdb
import msgspec
import structlog

from services.bus import Recorded, StreamIdentity
from services.ledger import projector
from services.ledger.patches import PatchRow
from services.ledger.projector import (
    AttemptRow,
    Batch,
    ExecutorRow,
    KnownRun,
    PauseRow,
    RunRow,
    Tip,
    ToolBreakerRow,
    WaveRow,
    WorkstreamRow,
)

log = structlog.get_logger()

JOURNAL_LIMIT = "64MB"
"""The journal is merged into the file at that size: four times the default halves the cost of commits while much is
absorbed, and is replayed within a second after a kill."""

JOURNAL_BYTES = 64 * 1024 * 1024
NO_LIMIT = "1TB"
COPY_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 3 * 4096
"""What a checkpoint rewrites of the file's beginning."""

READER_MEMORY_MB = 16
"""What a read may take at least, megabytes."""

MEMORY_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""How long a commit that finds no memory waits before it is tried again."""

_SCHEMA = Path(__file__).with_name("schema.sql")
_ALL_COLUMNS = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY table_name, column_index"
_CLOSED_STATES = "('finished', 'cancelled', 'lost')"
_CURRENT_PATCHES = (
    "patches WHERE run = ? AND (workstream, attempt) IN (SELECT workstream, patch FROM workstreams WHERE run = ?)"
)
_UPSERTED = ("runs", "workstreams", "attempts", "patches", "executors", "tool_breakers", "waves")
_APPENDED = ("entries", "events", "transitions", "patch_history")
_REPLACED = ("pauses",)
# What goes wrong around a sound file; anything else that opening or committing meets is taken for damage.
_SURROUNDINGS = (
    "no space left",
    "disk quota exceeded",
    "permission denied",
    "read-only file system",
    "too many open files",
)
# What a read says of the query or of a store being closed. Anything else is taken for damage: a block whose checksum is
# wrong is reported as a plain duckdb.Error.
_MISTAKES = (
    duckdb.ProgrammingError,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.ConnectionException,
    duckdb.ResourceInUseException,
    duckdb.TransactionException,
)
_ASIDE = re.compile(r"\.corrupt-([0-9]{1,9})(\.wal)?\Z")
_SCRATCH = ".verify"

Row = TypeVar("Row", RunRow, WorkstreamRow, AttemptRow, PatchRow, ExecutorRow, ToolBreakerRow, PauseRow, WaveRow)


class StoreError(RuntimeError):
    """The file cannot be used; the text says what to do."""


class StoreBusyError(StoreError):
    """Another process holds the file."""


class StoreMemoryError(StoreError):
    """DuckDB had no memory left for it; nothing has changed."""


class StoreDamagedError(StoreError):
    """The file broke while in use and is condemned: it is moved aside at the next start."""


class QueryTooSlowError(StoreError):
    """A read took longer than its limit."""


class StoreCopyError(StoreError):
    """The file was not copied; it is as sound as before."""


class LedgerMismatchError(StoreError):
    """The file was folded from another log than the one it is shown."""


def columns_of(row: type[msgspec.Struct]) -> str:
    """The columns of a row's table for a SELECT, in the order of its fields."""
    return ", ".join(row.__struct_fields__)


class _Seen:
    """Names that may be stored: one that was never added is told from them, but for one in a thousand, without a query.

    A Bloom filter of 1 MiB, for half a million names; with more it only asks more often.
    """

    _BITS = 2**23

    def __init__(self) -> None:
        self._bits = bytearray(self._BITS // 8)

    def add(self, name: str) -> None:
        for bit in self._places(name):
            self._bits[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, name: str) -> bool:
        return all(self._bits[bit >> 3] & (1 << (bit & 7)) for bit in self._places(name))

    def _places(self, name: str) -> tuple[int, ...]:
        mixed = hash(name)
        first, step = mixed % self._BITS, (mixed >> 23) % self._BITS | 1
        return tuple((first + step * turn) % self._BITS for turn in range(4))


class Reads(Protocol):
    """What queries are put to: a Store, or a Snapshot of one. `tip` is how far the tables reach."""

    tip: Tip

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The whole answer to a query."""


class Snapshot:
    """The tables as of one commit, however long they are read; belongs to one thread at a time."""

    def __init__(self, store: "Store", cursor: duckdb.DuckDBPyConnection) -> None:
        """Use `Store.snapshot`."""
        self._store = store
        self._cursor = cursor
        position, entry, digest = self.read("SELECT position, entry, hash FROM meta")[0]
        self.tip = Tip(position, entry, bytes(digest))

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """As `Store.read`."""
        return self._store.answer(self._cursor, sql, values)


class Store:
    """The open file. `commit` belongs to one thread; `read`, `snapshot` and `condemn` may be called from any.

    `made_anew`: this `open` found no file that could be used, or one that holds nothing yet; `restored`: it let a restored
    file take the place of the one that stood there. `condemned`: why the file is not to be used any more, or ''.
    """

    def __init__(
        self,
        file: Path,
        lock: int,
        connection: duckdb.DuckDBPyConnection,
        *,
        readers: int,
        query_timeout_s: float,
        memory_limit_mb: int,
        made_anew: bool,
    ) -> None:
        """Use `Store.open`."""
        # Together they leave half of the memory to commits.
        self._reader_memory_mb = max(READER_MEMORY_MB, memory_limit_mb // (2 * readers))
        self.file = file
        self.restored = False
        self.condemned = ""
        self._lock = lock
        self._inode = file.stat().st_ino
        self._connection = connection
        self._committing = threading.Lock()
        self._copying = threading.Lock()
        self._query_timeout_s = query_timeout_s
        self._appenders = {
            **{table: connection.appender(table) for table in (*_APPENDED, *_REPLACED)},
            **{table: connection.appender(table, action="upsert") for table in _UPSERTED},
        }
        self._cursors: queue.SimpleQueue[duckdb.DuckDBPyConnection] = queue.SimpleQueue()
        self._readers = readers
        self._reading = [self._new_cursor() for _ in range(readers)]
        for cursor in self._reading:
            self._cursors.put(cursor)
        created, position, entry, digest = connection.execute(
            "SELECT stream_created_ns, position, entry, hash FROM meta"
        ).fetchall()[0]
        self.stream_created_ns: int = created
        self.tip = Tip(position, entry, bytes(digest))
        self.made_anew = made_anew or position == 0
        self._runs = _Seen()
        for (run,) in connection.execute("SELECT run FROM runs").fetchall():
            self._runs.add(run)

    def _new_cursor(self) -> duckdb.DuckDBPyConnection:
        cursor = self._connection.cursor()
        cursor.execute(f"SET max_execution_time = {max(1, int(self._query_timeout_s * 1000))}").fetchall()
        cursor.execute(f"SET operator_memory_limit = '{self._reader_memory_mb}MB'").fetchall()
        return cursor

    @classmethod
    def open(
        cls,
        file: Path,
        *,
        memory_limit_mb: int = 256,
        threads: int = 2,
        readers: int = 4,
        query_timeout_s: float = 30.0,
        aside_max: int = 2,
    ) -> "Store":
        """Open or make the file; of those moved aside, now or before, the newest `aside_max` are kept.

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
            "wal_autocheckpoint": JOURNAL_LIMIT,
        }
        try:
            remove_scratch(file)
            restored = _take_restored(file, aside_max)
            reason = _unusable(file)
            if reason:
                _move_aside(file, reason, aside_max)
            try:
                store = cls._opened(
                    file,
                    lock,
                    settings,
                    readers=readers,
                    query_timeout_s=query_timeout_s,
                    memory_limit_mb=memory_limit_mb,
                )
                store.restored = restored
                return store  # noqa: TRY300 - below it is another one
            except duckdb.Error as error:
                _complain_of_surroundings(file, error)
                _move_aside(file, str(error), aside_max)
            return cls._opened(
                file, lock, settings, readers=readers, query_timeout_s=query_timeout_s, memory_limit_mb=memory_limit_mb
            )
        except duckdb.Error as error:  # a new file cannot be made either
            os.close(lock)
            _complain_of_surroundings(file, error)
            raise StoreError(f"{file} cannot be made: {error}. Mend its folder, or set `file` elsewhere") from error
        except OSError as error:
            os.close(lock)
            raise StoreError(
                f"{error.filename or file} cannot be used: {error.strerror}. "
                "Free space or mend the permissions, then start again"
            ) from error
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _opened(
        cls,
        file: Path,
        lock: int,
        settings: dict[str, str | bool | int | float | list[str]],
        *,
        readers: int,
        query_timeout_s: float,
        memory_limit_mb: int,
    ) -> "Store":
        """The file as it is, or a new one; raises duckdb.Error when it cannot be used."""
        made_anew = not file.exists()
        connection = _connect(file, settings)
        try:
            return cls(
                file,
                lock,
                connection,
                readers=readers,
                query_timeout_s=query_timeout_s,
                memory_limit_mb=memory_limit_mb,
                made_anew=made_anew,
            )
        except BaseException:
            connection.close()
            raise

    @property
    def readers(self) -> int:
        """Reads that can be under way at a time; more wait for one of them."""
        return self._readers

    def interrupt(self) -> None:
        """End the reads that are under way; they raise QueryTooSlowError."""
        for cursor in self._reading:
            with contextlib.suppress(duckdb.Error):
                cursor.interrupt()

    def close(self) -> None:
        """Let go of the file. No read or commit may be under way."""
        self._appenders.clear()
        with contextlib.suppress(duckdb.Error):  # of a file that is broken; a sound one has stored all it was given
            for _ in range(self._readers):
                self._cursors.get().close()
            self._connection.close()
        os.close(self._lock)

    # Whether it can be used

    def condemn(self, reason: str) -> None:
        """Mark the file: the next `open` moves it aside. The first reason stands."""
        if self.condemned:
            return
        self.condemned = reason
        log.error("ledger.condemned", file=str(self.file), reason=reason)
        with contextlib.suppress(OSError):  # without the mark the next start finds the damage again
            _condemned(self.file).write_text(reason[:2000])

    def look(self) -> None:
        """Condemn the file if it is no longer where it was opened: what is committed to it is lost with this process."""
        try:
            gone = self.file.stat().st_ino != self._inode
        except FileNotFoundError:
            gone = True
        except OSError:
            gone = False
        if gone:
            self.condemn("it was deleted or replaced while in use")

    @property
    def size_bytes(self) -> int:
        """The size of the file and its journal."""
        total = 0
        for part in (self.file, journal_of(self.file)):
            with contextlib.suppress(OSError):
                total += part.stat().st_size
        return total

    @property
    def disk_free_bytes(self) -> int:
        """Bytes free on the disk of the file; 0 when that cannot be told."""
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.file.parent).free
        return 0

    @property
    def aside_files(self) -> int:
        """How many files that were damaged or of another version are kept beside this one."""
        return len(_aside(self.file))

    def _fail(self, error: duckdb.Error, *, writing: bool) -> NoReturn:
        _complain_of_surroundings(self.file, error)
        if writing or not isinstance(error, _MISTAKES):
            self.condemn(f"it failed in use: {error}")
            raise StoreDamagedError(
                f"{self.file} cannot be {'written' if writing else 'read'} ({error}): "
                "restart the ledger, it rebuilds the file from the log"
            ) from error
        raise StoreError(f"the ledger's file could not be read: {error}") from error

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
            "patches": [msgspec.structs.astuple(row) for row in batch.patches],
            "patch_history": batch.patch_moves,
            "executors": [msgspec.structs.astuple(row) for row in batch.executors],
            "tool_breakers": [msgspec.structs.astuple(row) for row in batch.tool_breakers],
            "pauses": [msgspec.structs.astuple(row) for row in batch.pauses or ()],
            "waves": [msgspec.structs.astuple(row) for row in batch.waves],
        }
        pauses_s = iter(MEMORY_PAUSES_S)
        while True:
            try:
                with self._committing:
                    self._commit(batch, rows)
            except StoreMemoryError as error:
                # Readers take from the same memory, and give it back.
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise
                log.warning("ledger.commit_retry", error=str(error), pause_s=pause_s)
                time.sleep(pause_s)
            else:
                break
        self.tip = batch.tip
        for row in batch.runs:
            self._runs.add(row.run)

    def _commit(self, batch: Batch, rows: dict[str, Sequence[Sequence[object]]]) -> None:
        try:
            self._connection.begin()
            if batch.pauses is not None:
                self._connection.execute("DELETE FROM pauses").fetchall()
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
            for appender in self._appenders.values():
                with contextlib.suppress(duckdb.Error):
                    appender.clear()  # what it was given is not to come with the next batch
            self._fail(error, writing=True)

    # What the fold needs back

    def run(self, run: str) -> KnownRun | None:
        """A stored run with its workstreams and open attempts; for the writing thread."""
        if run not in self._runs:
            return None
        found = self._rows(RunRow, "runs WHERE run = ?", [run])
        if not found:
            return None
        return KnownRun(
            found[0],
            self._rows(WorkstreamRow, "workstreams WHERE run = ? ORDER BY ordinal", [run]),
            self._rows(AttemptRow, f"attempts WHERE run = ? AND state NOT IN {_CLOSED_STATES}", [run]),
            self._rows(PatchRow, _CURRENT_PATCHES, [run, run]),
            self._rows(WaveRow, "waves WHERE run = ?", [run]),
        )

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:
        """A stored attempt; for the writing thread."""
        found = self._rows(
            AttemptRow, "attempts WHERE run = ? AND workstream = ? AND attempt = ?", [run, workstream, attempt]
        )
        return found[0] if found else None

    def executor(self, executor: str) -> ExecutorRow | None:
        """A stored executor; for the writing thread."""
        found = self._rows(ExecutorRow, "executors WHERE executor = ?", [executor])
        return found[0] if found else None

    def tool_breaker(self, tool: str) -> ToolBreakerRow | None:
        """The stored breaker of a tool; for the writing thread."""
        found = self._rows(ToolBreakerRow, "tool_breakers WHERE tool = ?", [tool])
        return found[0] if found else None

    def pauses(self) -> list[PauseRow]:
        """Everything stored as paused; for the writing thread."""
        return self._rows(PauseRow, "pauses", [])

    def _rows(self, row: type[Row], source: str, values: Sequence[object]) -> list[Row]:
        try:
            found = self._connection.execute(f"SELECT {columns_of(row)} FROM {source}", values).fetchall()  # noqa: S608 - constants
        except duckdb.Error as error:
            self._fail(error, writing=True)
        return rows_of(row, found)

    # Reading

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The whole answer to a query, as of one commit. Blocks: call it in a thread.

        Raises QueryTooSlowError after `query_timeout_s`, StoreDamagedError when the file is broken, StoreError.
        """
        with self._cursor() as cursor:
            return self.answer(cursor, sql, values)

    def answer(self, cursor: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """What a cursor of this store answers; raises as `read`."""
        try:
            return cursor.execute(sql, list(values)).fetchall()
        except duckdb.InterruptException as error:
            raise QueryTooSlowError(
                f"the ledger needed more than {self._query_timeout_s:g} s: ask for less, such as one run or a smaller page"
            ) from error
        except duckdb.Error as error:
            self._fail(error, writing=False)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The tables as they are now, while commits go on. Blocks: use it in a thread. Raises as `read`."""
        cursor = self._new_cursor()
        try:
            cursor.begin()
            yield Snapshot(self, cursor)
        finally:
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
                cursor.close()

    def copy(self, target: Path, stop: threading.Event) -> None:
        """Copy the file and its journal, as of one commit, while commits go on. Blocks: use it in a thread.

        A commit waits for it no longer than it takes to ask for the journal's size. Meanwhile no checkpoint happens, so the
        journal grows. What is copied is then what a kill would have left: whoever opens it first replays the journal.
        `stop` ends it. Raises StoreCopyError.
        """
        if self.condemned:
            raise StoreCopyError(f"{self.file} is condemned: {self.condemned}")
        needed = 2 * self.size_bytes + JOURNAL_BYTES
        if (free := shutil.disk_usage(target.parent).free) < needed:
            raise StoreCopyError(
                f"a copy of {self.file} needs {needed // 2**20} MiB, and {free // 2**20} MiB are free: make room on its disk"
            )
        try:
            with self._copying, self._no_checkpoints(), self.file.open("rb") as file:
                with self._committing:  # the one under way may be followed by a checkpoint that was due before
                    head = os.pread(file.fileno(), HEAD_BYTES, 0)
                    file_bytes = os.fstat(file.fileno()).st_size
                    journal = self._journal_opened()
                    journal_bytes = 0 if journal < 0 else os.fstat(journal).st_size
                try:
                    if journal_bytes:
                        _copy_bytes(journal, journal_of(target), journal_bytes, stop)
                finally:
                    if journal >= 0:
                        os.close(journal)
                _copy_bytes(file.fileno(), target, file_bytes, stop)
                if os.pread(file.fileno(), HEAD_BYTES, 0) != head:
                    raise StoreCopyError(f"{self.file} changed while it was copied; try again")
        except OSError as error:
            raise StoreCopyError(
                f"{self.file} cannot be copied to {target}: {error.strerror}; make room or mend it"
            ) from error
        except duckdb.Error as error:
            raise StoreCopyError(f"{self.file} cannot be copied: {error}") from error

    @contextlib.contextmanager
    def _no_checkpoints(self) -> Iterator[None]:
        """An open transaction does not keep them away; a journal that may grow does."""
        cursor = self._new_cursor()
        try:
            cursor.execute(f"SET GLOBAL wal_autocheckpoint = '{NO_LIMIT}'").fetchall()
            yield
        finally:
            cursor.execute(f"SET GLOBAL wal_autocheckpoint = '{JOURNAL_LIMIT}'").fetchall()
            cursor.close()

    def _journal_opened(self) -> int:
        """A descriptor of the journal, -1 where there is none."""
        try:
            return os.open(journal_of(self.file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1

    @contextlib.contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """As `snapshot`, for a few short queries: it takes one of the cursors that answers share."""
        with self._cursor() as cursor:
            cursor.begin()
            try:
                yield Snapshot(self, cursor)
            finally:
                with contextlib.suppress(duckdb.Error):
                    cursor.rollback()

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
    for table in (*_APPENDED, *_UPSERTED, *_REPLACED):
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()  # noqa: S608 - constants


class Seal(msgspec.Struct, frozen=True):
    """What a closed file is: folded from which stream, up to which entry, and the hash before that."""

    stream_created_ns: int
    tip: Tip
    hash_before: bytes


def seal(file: Path, *, memory_limit_mb: int = 256) -> Seal:
    """Merge the journal of a file that nobody has open into it, and check that it is one of ours. Blocks.

    Raises StoreError for one that is damaged, of another version of the projection, or with other tables.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_limit_mb}MB",
        "threads": 1,
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with contextlib.closing(_connect(file, settings)) as connection:
            connection.execute("CHECKPOINT").fetchall()
            columns = connection.execute(_ALL_COLUMNS).fetchall()
            created, position, entry, digest = connection.execute(
                "SELECT stream_created_ns, position, entry, hash FROM meta"
            ).fetchall()[0]
            newest = connection.execute("SELECT position, hash FROM entries ORDER BY position DESC LIMIT 2").fetchall()
    except duckdb.Error as error:
        _complain_of_surroundings(file, error)
        raise StoreError(f"{file} is no file of this version of the ledger: {error}") from error
    tip = Tip(position, entry, bytes(digest))
    if (newest[0] if newest else (0, projector.GENESIS)) != (tip.position, tip.hash) or columns != _expected_columns():
        raise StoreError(f"{file} is no file of the ledger: its tables do not fit together")
    return Seal(created, tip, bytes(newest[1][1]) if len(newest) > 1 else projector.GENESIS)


def _expected_columns() -> list[tuple[Any, ...]]:
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        connection.execute(_SCHEMA.read_text()).fetchall()
        return connection.execute(_ALL_COLUMNS).fetchall()


def restored_file(file: Path) -> Path:
    """Where a file stands that takes the place of `file` when that is next opened."""
    return file.with_name(file.name + ".restore")


def _take_restored(file: Path, aside_max: int) -> bool:
    """Let a restored file take its place, if there is one; one that cannot be used is left aside, and nothing changes."""
    restored = restored_file(file)
    if not restored.exists():
        return False
    try:
        sealed = seal(restored)
    except StoreError as error:
        refused = restored.with_name(restored.name + "-refused")
        log.error("ledger.restore_refused", file=str(restored), moved_to=str(refused), error=str(error))
        restored.replace(refused)
        return False
    if file.exists() or journal_of(file).exists():
        _move_aside(file, "a restored file takes its place", aside_max)
    _condemned(file).unlink(missing_ok=True)  # the mark was of a file that somebody has removed
    restored.replace(file)
    log.info("ledger.restored", file=str(file), position=sealed.tip.position)
    return True


def _copy_bytes(source: int, target: Path, count: int, stop: threading.Event) -> None:
    """The first bytes of an open file, without moving its place; shared with the original where the file system can."""
    with target.open("xb") as made:
        at = 0
        while at < count:
            if stop.is_set():
                raise StoreCopyError("the ledger stops")
            done = os.copy_file_range(source, made.fileno(), min(COPY_BYTES, count - at), at)
            if not done:
                raise StoreCopyError(f"{target} could not be filled: the original is shorter than it was")
            at += done


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
        raise StoreMemoryError(f"{file} needs more memory: raise `memory_limit_mb`. {text}") from error
    if any(sign in text.lower() for sign in _SURROUNDINGS):
        raise StoreError(
            f"{file} cannot be used: {text}. Free space or mend the permissions, then start again"
        ) from error


def _condemned(file: Path) -> Path:
    return file.with_name(file.name + ".condemned")


def journal_of(file: Path) -> Path:
    """Where the journal of a file stands."""
    return file.with_name(file.name + ".wal")


def scratch_file(file: Path) -> Path:
    """Where a second store for a verification of `file` stands."""
    return file.with_name(file.name + _SCRATCH)


def remove_scratch(file: Path) -> None:
    """Remove what a verification of `file` left; opening `file` does so too."""
    for left in file.parent.iterdir():
        if not left.name.startswith(scratch_file(file).name):
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def _unusable(file: Path) -> str:
    """Why what stands there cannot be opened, or ''."""
    mark = _condemned(file)
    if mark.exists():
        return mark.read_text(errors="replace")[:2000] or "it was found damaged while in use"
    if not file.exists() and journal_of(file).exists():
        return "it was deleted, its journal was not"
    return ""


def _move_aside(file: Path, reason: str, aside_max: int) -> None:
    number = max(_aside(file), default=0) + 1
    target = file.with_name(f"{file.name}.corrupt-{number}")
    log.warning("ledger.rebuild", file=str(file), moved_to=str(target), reason=reason)
    if journal_of(file).exists():
        journal_of(file).replace(target.with_name(target.name + ".wal"))
    if file.exists():
        file.replace(target)
    _condemned(file).unlink(missing_ok=True)
    for old in sorted(_aside(file))[: -aside_max or None]:
        for part in (file.with_name(f"{file.name}.corrupt-{old}"), file.with_name(f"{file.name}.corrupt-{old}.wal")):
            part.unlink(missing_ok=True)


def _aside(file: Path) -> set[int]:
    """The numbers of the files moved aside."""
    named = (_ASIDE.fullmatch(found.name.removeprefix(file.name)) for found in file.parent.iterdir())
    return {int(match[1]) for match in named if match}
