"""The read side: plain SQL over the ledger's tables, paged by key.

An answer is of one commit. Pages are asked with one row more than wanted; what is over tells
that there is a next page. All functions block: call them in a thread.
"""

# ruff: noqa: S608 - columns, operators and directions come from this module; every value is bound
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from services.ledger.patches import PatchRow
from services.ledger.projector import (
    AttemptRow,
    Batch,
    ExecutorRow,
    PauseRow,
    RunRow,
    ToolBreakerRow,
    WaveRow,
    WorkstreamRow,
)
from services.ledger.store import Reads, columns_of, rows_of

ENTRIES_PER_REPLAY = 200
SMALL_LIST_MAX = 1000
"""Rows of a list that has no pages."""

_POSITION = "(SELECT position FROM meta)"
_EVENT = "e.position, e.idx, e.kind, e.run, e.workstream, e.attempt, e.time_ns, e.tool, e.severity, e.payload"
WINDOW = 50_000
"""Positions that are looked at for a page of events: so many first, then always WINDOW_GROWTH times more."""
WINDOW_GROWTH = 8
MARGIN = 100_000
"""So far before the first decision of a run its events may stand, such as a request that this version cannot read."""


class EventRecord(msgspec.Struct, frozen=True):
    """An event with what its entry says of all its events."""

    position: int
    idx: int
    kind: str
    run: str
    workstream: str
    attempt: int
    time_ns: int
    tool: str
    severity: str
    payload: str
    by: str
    entry: str
    cause: str


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are meant; what is empty or 0 leaves it open. All that is given must hold.

    `since_ns` and `until_ns` (excluded) are times of the log.
    """

    run: str = ""
    workstream: str = ""
    tool: str = ""
    kinds: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = 0

    def where(self) -> tuple[list[str], list[object]]:
        """The same as conditions on `events`, and their values."""
        conditions: list[str] = []
        values: list[object] = []
        for column, value in (("run", self.run), ("workstream", self.workstream), ("tool", self.tool)):
            if value:
                conditions.append(f"{column} = ?")
                values.append(value)
        for column, several in (("kind", self.kinds), ("severity", self.severities)):
            if several:
                conditions.append(f"{column} IN ({', '.join('?' * len(several))})")
                values.extend(several)
        if self.since_ns:
            conditions.append("time_ns >= ?")
            values.append(self.since_ns)
        if self.until_ns:
            conditions.append("time_ns < ?")
            values.append(self.until_ns)
        return conditions, values


class PatchMove(msgspec.Struct, frozen=True):
    """A change of state of a patch; the fields are the columns of `patch_history`, in order."""

    position: int
    idx: int
    turn: int
    run: str
    workstream: str
    attempt: int
    from_state: str
    to_state: str
    reason: str
    time_ns: int


class EntryEvents(msgspec.Struct, frozen=True):
    """The events of one entry."""

    position: int
    run: str
    events: list[EventRecord]


class Replay(msgspec.Struct, frozen=True):
    """Entries in order, and the position up to which nothing is missing from them."""

    entries: list[EntryEvents]
    position: int


def get_run(store: Reads, run: str) -> tuple[RunRow, int] | None:
    """A run and the position the answer reflects; None when there is no such run."""
    found = store.read(f"SELECT {_POSITION}, {columns_of(RunRow)} FROM runs WHERE run = ?", [run])
    return (rows_of(RunRow, [found[0][1:]])[0], found[0][0]) if found else None


def list_workstreams(
    store: Reads, run: str, *, state: str, tool: str = "", after: int | None, limit: int
) -> tuple[list[WorkstreamRow], int] | None:
    """Workstreams of a run behind ordinal `after`, and the position the answer reflects; None when there is no such run."""
    sql = f"""
        SELECT {_POSITION}, w.* FROM runs LEFT JOIN (
            SELECT {columns_of(WorkstreamRow)} FROM workstreams
            WHERE run = ? AND (? = '' OR state = ?) AND (? = '' OR tool = ?) AND ordinal > ?
            ORDER BY ordinal LIMIT ?) AS w ON true
        WHERE runs.run = ? ORDER BY w.ordinal"""
    found = store.read(sql, [run, state, state, tool, tool, -1 if after is None else after, limit, run])
    if not found:
        return None
    return rows_of(WorkstreamRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


class AttemptFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which attempts of a run are meant; what is empty leaves it open. All that is given must hold."""

    workstream: str = ""
    state: str = ""
    step: str = ""
    tool: str = ""
    executor: str = ""
    error_class: str = ""
    ok: bool | None = None

    def matches(self, row: AttemptRow) -> bool:
        """Whether a row is meant."""
        return all(
            getattr(row, field) == value
            for field, value in msgspec.structs.asdict(self).items()
            if value is not None and value != ""
        )


def list_attempts(
    reads: Reads, run: str, wanted: AttemptFilter, *, after: tuple[int, int], limit: int
) -> tuple[list[AttemptRow], int] | None:
    """Attempts of a run scheduled behind (position, idx) `after`, in that order, and the position the answer reflects.

    None when there is no such run.
    """
    stands = reads.read(f"SELECT {_POSITION}, first_position, position FROM runs WHERE run = ?", [run])
    if not stands:
        return None
    ((reached, first, last),) = stands
    asked = {
        field: value for field, value in msgspec.structs.asdict(wanted).items() if value is not None and value != ""
    }
    # The positions alone let whole row groups be skipped.
    sql = f"""
        SELECT {columns_of(AttemptRow)} FROM attempts
        WHERE scheduled_position BETWEEN ? AND ? AND run = ? AND (scheduled_position, scheduled_idx) > (?, ?)
            {"".join(f"AND {field} = ?" for field in asked)}
        ORDER BY scheduled_position, scheduled_idx LIMIT ?"""
    found = reads.read(sql, [max(first, after[0]), last, run, *after, *asked.values(), limit])
    return rows_of(AttemptRow, found), reached


def list_waves(store: Reads, run: str, *, after: int, limit: int) -> tuple[list[WaveRow], int] | None:
    """Waves of a run behind number `after`, and the position the answer reflects; None when there is no such run."""
    sql = f"""
        SELECT {_POSITION}, w.* FROM runs LEFT JOIN (
            SELECT {columns_of(WaveRow)} FROM waves WHERE run = ? AND wave > ? ORDER BY wave LIMIT ?) AS w ON true
        WHERE runs.run = ? ORDER BY w.wave"""
    found = store.read(sql, [run, after, limit, run])
    if not found:
        return None
    return rows_of(WaveRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def get_patch(store: Reads, run: str, workstream: str, attempt: int) -> tuple[PatchRow, int] | None:
    """The patch of an attempt, or (attempt 0) the one its workstream goes on with, and the position the answer reflects."""
    which = "attempt = ?" if attempt else "attempt = (SELECT patch FROM workstreams WHERE run = ? AND workstream = ?)"
    found = store.read(
        f"SELECT {_POSITION}, {columns_of(PatchRow)} FROM patches WHERE run = ? AND workstream = ? AND {which}",
        [run, workstream, *([attempt] if attempt else [run, workstream])],
    )
    return (rows_of(PatchRow, [found[0][1:]])[0], found[0][0]) if found else None


def list_patches(
    store: Reads, *, run: str, workstream: str, state: str, digest: str, after: tuple[int, int], limit: int
) -> tuple[list[PatchRow], int]:
    """Patches made behind (position, idx) `after`, in that order, and the position the answer reflects."""
    sql = f"""
        SELECT meta.position, p.* FROM meta LEFT JOIN (
            SELECT {columns_of(PatchRow)} FROM patches
            WHERE (? = '' OR run = ?) AND (? = '' OR workstream = ?) AND (? = '' OR state = ?) AND (? = '' OR digest = ?)
                AND (created_position, created_idx) > (?, ?)
            ORDER BY created_position, created_idx LIMIT ?) AS p ON true
        ORDER BY p.created_position, p.created_idx"""
    asked = [term for term in (run, workstream, state, digest) for _ in range(2)]
    found = store.read(sql, [*asked, *after, limit])
    return rows_of(PatchRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_patch_moves(
    store: Reads, run: str, *, workstream: str, attempt: int, after: tuple[int, int, int], limit: int
) -> list[PatchMove]:
    """Changes of state of a run's patches behind (position, idx, turn) `after`, in that order."""
    sql = """
        SELECT * FROM patch_history
        WHERE run = ? AND (? = '' OR workstream = ?) AND (? = 0 OR attempt = ?)
            AND position >= ? AND (position, idx, turn) > (?, ?, ?)
        ORDER BY position, idx, turn LIMIT ?"""
    found = store.read(sql, [run, workstream, workstream, attempt, attempt, after[0], *after, limit])
    return [PatchMove(*row) for row in found]


def list_executors(
    store: Reads, *, state: str, before: tuple[int, int] | None, limit: int
) -> tuple[list[ExecutorRow], int]:
    """Executors first mentioned before (position, idx) `before`, newest first, and the position the answer reflects."""
    sql = f"""
        SELECT meta.position, e.* FROM meta LEFT JOIN (
            SELECT {columns_of(ExecutorRow)} FROM executors
            WHERE (? = '' OR state = ?) AND (? OR (first_position, first_idx) < (?, ?))
            ORDER BY first_position DESC, first_idx DESC LIMIT ?) AS e ON true
        ORDER BY e.first_position DESC, e.first_idx DESC"""
    found = store.read(sql, [state, state, before is None, *(before or (0, 0)), limit])
    return rows_of(ExecutorRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_tool_breakers(store: Reads) -> tuple[list[ToolBreakerRow], int]:
    """Every tool's breaker, at most SMALL_LIST_MAX, and the position the answer reflects."""
    sql = f"""
        SELECT meta.position, b.* FROM meta LEFT JOIN (
            SELECT {columns_of(ToolBreakerRow)} FROM tool_breakers ORDER BY tool LIMIT {SMALL_LIST_MAX}) AS b ON true
        ORDER BY b.tool"""
    found = store.read(sql)
    return rows_of(ToolBreakerRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_pauses(store: Reads) -> tuple[list[PauseRow], int]:
    """Everything paused for all runs, at most SMALL_LIST_MAX, and the position the answer reflects."""
    sql = f"""
        SELECT meta.position, p.* FROM meta LEFT JOIN (
            SELECT {columns_of(PauseRow)} FROM pauses ORDER BY scope, name LIMIT {SMALL_LIST_MAX}) AS p ON true
        ORDER BY p.scope, p.name"""
    found = store.read(sql)
    return rows_of(PauseRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_events(
    reads: Reads,
    wanted: EventFilter,
    *,
    after_position: int,
    newest_first: bool,
    cursor: tuple[int, int] | None,
    limit: int,
) -> list[EventRecord]:
    """Events after a position that match, behind (position, idx) `cursor` in the order asked for."""
    first, last = _span(reads, wanted.run)
    first = max(first, after_position + 1)
    conditions, values = wanted.where()
    if cursor is not None:
        first, last = (first, min(last, cursor[0])) if newest_first else (max(first, cursor[0]), last)
        conditions.append(f"(position, idx) {'<' if newest_first else '>'} (?, ?)")
        values.extend(cursor)
    way = "DESC" if newest_first else "ASC"
    sql = f"""
        SELECT position, idx FROM events WHERE {" AND ".join(["position BETWEEN ? AND ?", *conditions])}
        ORDER BY position {way}, idx {way} LIMIT ?"""
    found: list[tuple[Any, ...]] = []
    for low, high in _windows(first, last, newest_first=newest_first):
        found += reads.read(sql, [low, high, *values, limit - len(found)])
        if len(found) >= limit:
            break
    return _records(reads, found)


def _records(reads: Reads, places: Sequence[tuple[int, int]]) -> list[EventRecord]:
    """The events at some places, in the order of the places: only they are read, not all that matched."""
    if not places:
        return []
    positions = sorted({position for position, _ in places})
    sql = f"SELECT {_EVENT} FROM events AS e WHERE position BETWEEN ? AND ? AND position IN (SELECT unnest(?))"
    rows = {row[:2]: row for row in reads.read(sql, [positions[0], positions[-1], positions])}
    return with_entries(reads, [rows[place] for place in places])


def _span(reads: Reads, run: str) -> tuple[int, int]:
    """Between which positions the entries of a run stand; (run '', or one without a row) those of all."""
    ((last,),) = reads.read("SELECT position FROM meta")
    if not run:
        return 1, last
    found = reads.read("SELECT first_position, position FROM runs WHERE run = ?", [run])
    return (max(1, found[0][0] - MARGIN), found[0][1]) if found else (1, last)


def _windows(first: int, last: int, *, newest_first: bool) -> Iterator[tuple[int, int]]:
    """Ranges of positions that follow each other in the order asked for and together are the whole."""
    size = WINDOW
    while first <= last:
        low, high = (max(first, last - size + 1), last) if newest_first else (first, min(last, first + size - 1))
        yield low, high
        first, last = (first, low - 1) if newest_first else (high + 1, last)
        size *= WINDOW_GROWTH


def with_entries(reads: Reads, rows: Sequence[tuple[Any, ...]]) -> list[EventRecord]:
    """Rows of events, with what their entries say of all their events."""
    if not rows:
        return []
    positions = sorted({row[0] for row in rows})
    sql = """
        SELECT position, "by", id, cause FROM entries
        WHERE position BETWEEN ? AND ? AND position IN (SELECT unnest(?))"""
    said = {row[0]: row[1:] for row in reads.read(sql, [positions[0], positions[-1], positions])}
    return [EventRecord(*row, *said[row[0]]) for row in rows]


def replay(store: Reads, *, run: str, after: int) -> Replay:
    """The next entries after a position, at most ENTRIES_PER_REPLAY, of one run or (run '') of all."""
    # What lies up to a position never changes, so two statements are as good as one.
    (reached, last, count), *_ = store.read(
        f"""SELECT {_POSITION}, max(position), count(*) FROM (
            SELECT position FROM entries WHERE position > ? AND (? = '' OR run = ?) ORDER BY position LIMIT ?)""",
        [after, run, run, ENTRIES_PER_REPLAY],
    )
    until = last if count == ENTRIES_PER_REPLAY else max(after, reached)
    found = store.read(
        f"""SELECT {_EVENT}, n."by", n.id, n.cause FROM events AS e JOIN entries AS n ON n.position = e.position
            WHERE e.position > ? AND e.position <= ? AND n.position > ? AND n.position <= ? AND (? = '' OR e.run = ?)
            ORDER BY e.position, e.idx""",
        [after, until, after, until, run, run],
    )
    return Replay(_by_entry([EventRecord(*row) for row in found]), until)


def events_of(batch: Batch) -> list[EntryEvents]:
    """The events of a batch, as `replay` would read them back."""
    said = {entry[0]: entry for entry in batch.entries}
    records = []
    for row in batch.events:
        entry = said[row[0]]
        records.append(EventRecord(*row, entry[4], entry[3], entry[7]))
    return _by_entry(records)


def _by_entry(records: list[EventRecord]) -> list[EntryEvents]:
    entries: list[EntryEvents] = []
    for record in records:
        if not entries or entries[-1].position != record.position:
            entries.append(EntryEvents(record.position, record.run, []))
        entries[-1].events.append(record)
    return entries
