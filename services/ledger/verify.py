"""Whether the ledger's tables are what the log says: fold archive and log anew into a second file, and compare row for row.

What it promises:

* The ledger goes on meanwhile: the stored tables are read as of one commit, and the log is folded to just that position.
* `compare` and `links` read in pieces of bounded size and change nothing, so memory stays flat whatever the tables hold.
* The second file stands beside the ledger's and is removed at the end, or at the next start after a kill.
"""

# ruff: noqa: S608 - tables and columns come from this module and the schema; every value is bound
import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from services.bus import BusError, Recorded, StreamIdentity
from services.ledger.absorb import ALL_EVENTS, Absorber, EventLog
from services.ledger.history import History, LogGapError
from services.ledger.projector import GENESIS, Projector, chained
from services.ledger.store import Store, StoreError, remove_scratch, scratch_file

KEYS: dict[str, tuple[str, ...]] = {
    "meta": (),
    "entries": ("position",),
    "events": ("position", "idx"),
    "transitions": ("position", "idx"),
    "runs": ("run",),
    "workstreams": ("run", "workstream"),
    "attempts": ("run", "workstream", "attempt"),
    "patches": ("run", "workstream", "attempt"),
    "patch_history": ("position", "idx", "turn"),
    "executors": ("executor",),
    "tool_breakers": ("tool",),
    "waves": ("run", "wave"),
    "pauses": ("scope", "name"),
}
"""Every table, and what tells its rows apart."""

VALUE_CHARACTERS_MAX = 200
PAGE_ROWS = 5000
PIECE_BYTES = 16 * 1024 * 1024
BLOCK = 256
"""Positions are counted in blocks of that many when pieces of about `PIECE_BYTES` are made."""

TELL_S = 0.5
"""How often progress is told."""

LOWEST, HIGHEST = -(2**63), 2**63 - 1
"""The positions that a column can hold."""

_ON_POSITION = ("entries", "events", "transitions", "patch_history")

Values = tuple[Any, ...]
T = TypeVar("T")


class VerifyError(RuntimeError):
    """The verification could not be carried out; the text says what to do. It says nothing about the tables."""


class VerifyBusyError(VerifyError):
    """Another verification is under way."""


class Readable(Protocol):
    """Tables that stand still; services.ledger.store.Snapshot is one."""

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Values]:
        """The whole answer to a query."""


class Difference(msgspec.Struct, frozen=True):
    """Where two stores differ. `column` is '' for a row that only one of them has; values are cut for reading."""

    table: str
    key: str
    kind: Literal["changed", "missing", "extra"]
    column: str
    stored: str
    folded: str


class Compared(msgspec.Struct, frozen=True):
    """So many more rows of a table have been compared."""

    table: str
    rows: int


class Linked(msgspec.Struct, frozen=True):
    """So many more stored entries have been chained; `broken_at` is the first position that does not follow, or 0."""

    entries: int
    broken_at: int


class Progress(msgspec.Struct, frozen=True):
    """How far a verification is. Folding goes from 0 to `end`; comparing counts rows of all tables."""

    phase: Literal["folding", "comparing"]
    position: int
    end: int
    table: str = ""
    rows: int = 0


class Result(msgspec.Struct, frozen=True):
    """What a verification came to. `hash` is the log's at `position`."""

    position: int
    differences: int
    rows: int
    entries: int
    chain_broken_at: int
    hash: bytes
    wall_s: float

    @property
    def ok(self) -> bool:
        """Whether the tables are what the log says."""
        return self.differences == 0 and self.chain_broken_at == 0


def compare(stored: Readable, folded: Readable) -> Iterator[Difference | Compared]:
    """Every difference between the tables of two stores, table by table in order of key."""
    for table, key in KEYS.items():
        columns = columns_in(folded, table)
        if (found := columns_in(stored, table)) != columns:
            yield Difference(table, "", "changed", "", shown(", ".join(found)), shown(", ".join(columns)))
            continue
        pieces = _by_position(stored, folded, table) if table in _ON_POSITION else _by_key(stored, folded, table)
        places = [columns.index(column) for column in key]
        for ours, theirs in pieces:
            yield from differences_of(table, columns, places, ours, theirs)
            yield Compared(table, max(len(ours), len(theirs)))


def links(stored: Readable) -> Iterator[Linked]:
    """Whether the hash of every stored entry follows from the one before it and from what is stored of it."""
    previous = GENESIS
    broken_at = 0
    for low, high in pieces_of(stored):
        rows = stored.read(
            "SELECT position, subject, raw, hash FROM entries WHERE position > ? AND position <= ? ORDER BY position",
            [low, high],
        )
        for position, subject, raw, digest in rows:
            if not broken_at and chained(previous, position, subject, bytes(raw)) != bytes(digest):
                broken_at = position
            previous = bytes(digest)
        yield Linked(len(rows), broken_at)


def columns_in(tables: Readable, table: str) -> list[str]:
    """The columns of a table, in order."""
    sql = "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
    return [name for (name,) in tables.read(sql, [table])]


def pieces_of(
    tables: Readable, after: int = LOWEST, until: int = HIGHEST, *, most_bytes: int = 0
) -> Iterator[tuple[int, int]]:
    """Ranges (after, up to) of positions that hold about `most_bytes` (0: PIECE_BYTES) of entries each.

    Together they hold every position behind `after` up to `until`.
    """
    most_bytes = most_bytes or PIECE_BYTES
    low, held_bytes = after, 0
    sizes = tables.read(
        f"""SELECT position // {BLOCK}, sum(octet_length(raw)) FROM entries WHERE position > ? AND position <= ?
            GROUP BY 1 ORDER BY 1""",
        [after, until],
    )
    for block, size_bytes in sizes:
        if held_bytes and held_bytes + size_bytes > most_bytes:
            yield low, block * BLOCK - 1
            low, held_bytes = block * BLOCK - 1, 0
        held_bytes += size_bytes
    yield low, until


def _by_position(stored: Readable, folded: Readable, table: str) -> Iterator[tuple[list[Values], list[Values]]]:
    order = ", ".join(KEYS[table])
    sql = f"SELECT * FROM {table} WHERE position > ? AND position <= ? ORDER BY {order}"
    for piece in pieces_of(folded):
        yield stored.read(sql, piece), folded.read(sql, piece)


def _by_key(stored: Readable, folded: Readable, table: str) -> Iterator[tuple[list[Values], list[Values]]]:
    """Pages of both from one key to another."""
    key = KEYS[table]
    if not key:
        yield stored.read(f"SELECT * FROM {table}"), folded.read(f"SELECT * FROM {table}")
        return
    columns = columns_in(folded, table)
    places = [columns.index(column) for column in key]
    order = ", ".join(key)
    after: Values | None = None
    while True:
        behind = f"WHERE ({order}) > ({', '.join('?' * len(key))})" if after is not None else ""
        sql = f"SELECT * FROM {table} {behind} ORDER BY {order} LIMIT {PAGE_ROWS}"
        pages = [tables.read(sql, after or ()) for tables in (stored, folded)]
        ends = [_key(page[-1], places) for page in pages if len(page) == PAGE_ROWS]
        if not ends:
            yield pages[0], pages[1]
            return
        after = end = min(ends)
        ours, theirs = ([row for row in page if _key(row, places) <= end] for page in pages)
        yield ours, theirs


def _key(row: Values, places: Sequence[int]) -> Values:
    return tuple(row[place] for place in places)


def differences_of(
    table: str, columns: Sequence[str], places: Sequence[int], ours: list[Values], theirs: list[Values]
) -> Iterator[Difference]:
    """Where rows of a table, those stored and those folded, differ; `places` are those of the key's columns."""
    if ours == theirs:
        return
    left, right = _keyed(ours, places), _keyed(theirs, places)
    for key in sorted(left.keys() | right.keys()):
        name = " ".join(f"{columns[place]}={value}" for place, value in zip(places, key[0], strict=True))
        stored, folded = left.get(key), right.get(key)
        if stored is None:
            yield Difference(table, name, "missing", "", "", shown(folded))
        elif folded is None:
            yield Difference(table, name, "extra", "", shown(stored), "")
        else:
            for column, here, there in zip(columns, stored, folded, strict=True):
                if here != there:
                    yield Difference(table, name, "changed", column, shown(here), shown(there))


def _keyed(rows: list[Values], places: Sequence[int]) -> dict[tuple[Values, int], Values]:
    """Rows by key; what has the same key, as no sound table does, is told apart by its turn."""
    keyed: dict[tuple[Values, int], Values] = {}
    for row in rows:
        key, turn = _key(row, places), 0
        while (key, turn) in keyed:
            turn += 1
        keyed[key, turn] = row
    return keyed


def shown(value: object) -> str:
    """A value as text for reading, cut."""
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


class Verifier:
    """Verifies a store against its log, one verification at a time."""

    def __init__(
        self,
        store: Store,
        absorber: Absorber,
        event_log: EventLog,
        *,
        batch_max: int = 5000,
        memory_limit_mb: int = 256,
        query_timeout_s: float = 30.0,
        history: History | None = None,
    ) -> None:
        """`memory_limit_mb` is what the second file may take besides; `batch_max` counts entries. `history` as the absorber's."""
        self._history = history or History()
        self._store = store
        self._absorber = absorber
        self._log = event_log
        self._batch_max = batch_max
        self._memory_limit_mb = memory_limit_mb
        self._query_timeout_s = query_timeout_s
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> bool:
        """Whether a verification is under way."""
        return not self._idle.is_set()

    async def close(self) -> None:
        """Wait for the end of a verification whose caller has left: it still reads the ledger's file."""
        await self._idle.wait()

    async def verify(self) -> AsyncGenerator[Progress | Difference | Result, None]:
        """Progress, every difference, and at last one result.

        Raises VerifyBusyError, VerifyError, services.ledger.segment.ArchiveError, services.ledger.store.StoreError when the
        ledger's own file cannot be read.
        """
        if self.running:
            raise VerifyBusyError("a verification is under way: wait for its end")
        self._idle.clear()
        try:
            await self._check_room()
            thread = OneThread("ledger-verify")
            try:
                async with aclosing(self._verified(thread)) as told:
                    async for said in told:
                        yield said
            finally:
                await thread.close()
        finally:
            self._idle.set()

    async def _check_room(self) -> None:
        await self._history.load((await self._asked_log()).created_ns)
        needed = 2 * self._store.size_bytes
        free = shutil.disk_usage(self._store.file.parent).free
        if free < needed:
            raise VerifyError(
                f"{self._store.file.parent} has {free:,} bytes free, a second file may need {needed:,}: free space, then try again"
            )

    async def _asked_log(self) -> StreamIdentity:
        try:
            return await self._log.identity()
        except BusError as error:
            raise VerifyError(f"the log cannot be reached: {error}") from error

    async def _verified(self, thread: "OneThread") -> AsyncGenerator[Progress | Difference | Result, None]:
        started = time.monotonic()
        await thread.do(remove_scratch, self._store.file)
        second = await thread.do(self._open_second)
        thread.on_close(lambda: remove_scratch(self._store.file))
        thread.on_close(second.close)
        projector = Projector(second.tip, second)
        # Two rounds: the journal grows while a snapshot stands, so only what came during the first is folded then.
        async for progress in self._folded(second, projector, thread, self._absorber.position):
            yield progress
        live = await thread.do(lambda: thread.enter(self._store.snapshot()))
        async for progress in self._folded(second, projector, thread, live.tip.position):
            yield progress
        fresh = await thread.do(lambda: thread.enter(second.snapshot()))
        rows = differences = entries = broken_at = 0
        comparing = compare(live, fresh)
        while some := await thread.do(some_of, comparing):
            for said in some:
                if isinstance(said, Difference):
                    differences += 1
                    yield said
                else:
                    rows += said.rows
            yield Progress("comparing", live.tip.position, live.tip.position, _table(some), rows)
        chaining = links(live)
        while linked := await thread.do(some_of, chaining):
            entries += sum(said.entries for said in linked)
            broken_at = broken_at or linked[-1].broken_at
            yield Progress("comparing", live.tip.position, live.tip.position, "entries", rows)
        yield Result(
            position=live.tip.position,
            differences=differences,
            rows=rows,
            entries=entries,
            chain_broken_at=broken_at,
            hash=fresh.tip.hash,
            wall_s=time.monotonic() - started,
        )

    async def _folded(
        self, second: Store, projector: Projector, thread: "OneThread", end: int
    ) -> AsyncGenerator[Progress, None]:
        """Fold what the log has up to `end`. Raises VerifyError."""

        def store(records: list[Recorded]) -> None:
            try:
                second.commit(projector.fold(records))
            except StoreError as error:
                raise VerifyError(f"the second file beside the ledger's cannot be written: {error}") from error

        told = time.monotonic()
        reading = self._history.batches(
            second.stream_created_ns,
            lambda: second.tip,
            lambda after: self._log.replay(ALL_EVENTS, after=after, batch_max=self._batch_max),
        )
        try:
            async with aclosing(reading) as batches:  # type: ignore[type-var]  # an async generator, typed as an iterator
                async for batch in batches:
                    if batch[0].sequence > end:
                        return
                    await thread.do(store, [record for record in batch if record.sequence <= end])
                    if time.monotonic() - told > TELL_S:
                        told = time.monotonic()
                        yield Progress("folding", second.tip.position, end)
        except (BusError, LogGapError) as error:
            raise VerifyError(f"the log could not be read to position {end}: {error}") from error

    def _open_second(self) -> Store:
        try:
            second = Store.open(
                scratch_file(self._store.file),
                memory_limit_mb=self._memory_limit_mb,
                threads=1,
                readers=1,
                query_timeout_s=self._query_timeout_s,
            )
        except StoreError as error:
            raise VerifyError(f"no second file can be made beside the ledger's: {error}") from error
        second.bind(self._store.stream_created_ns)
        return second


class OneThread:
    """One thread for everything that blocks; what was entered in it is left in it."""

    def __init__(self, name: str) -> None:
        """`name` is how it is called in a list of threads."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._open_things = contextlib.ExitStack()

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """What the work comes to."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def enter(self, thing: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context until `close`; in this thread."""
        return self._open_things.enter_context(thing)

    def on_close(self, work: Callable[[], object]) -> None:
        """Do this in `close`."""
        self._open_things.callback(work)

    async def close(self) -> None:
        """Once the work under way has ended, leave everything."""
        leaving = asyncio.ensure_future(self.do(self._open_things.close))
        await asyncio.wait([leaving])
        self._executor.shutdown(wait=False)
        leaving.result()


def some_of(told: Iterator[T]) -> list[T]:
    """What comes within TELL_S, at least one; empty at the end."""
    some: list[T] = []
    deadline = time.monotonic() + TELL_S
    for said in told:
        some.append(said)
        if time.monotonic() > deadline:
            break
    return some


def _table(said: Sequence[Difference | Compared]) -> str:
    return said[-1].table


__all__ = [
    "HIGHEST",
    "KEYS",
    "LOWEST",
    "TELL_S",
    "Compared",
    "Difference",
    "Linked",
    "OneThread",
    "Progress",
    "Readable",
    "Result",
    "Values",
    "Verifier",
    "VerifyBusyError",
    "VerifyError",
    "columns_in",
    "compare",
    "differences_of",
    "links",
    "pieces_of",
    "shown",
    "some_of",
]
