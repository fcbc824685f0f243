"""The read side: plain SQL over the ledger's tables, paged by key.

An answer is of one commit. Pages are asked with one row more than wanted; what is over tells
that there is a next page. All functions block: call them in a thread.
"""

# ruff: noqa: S608 - columns, operators and directions come from this module; every value is bound
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
from services.ledger.store import Store, columns_of, rows_of

ENTRIES_PER_REPLAY = 200
SMALL_LIST_MAX = 1000
"""Rows of a list that has no pages."""

_POSITION = "(SELECT position FROM meta)"
_EVENT = 'e.position, e.idx, e.kind, e.run, e.workstream, e.attempt, e.time_ns, n."by", e.payload, n.id, n.cause'


class EventRecord(msgspec.Struct, frozen=True):
    """An event with what its entry says of all its events."""

    position: int
    idx: int
    kind: str
    run: str
    workstream: str
    attempt: int
    time_ns: int
    by: str
    payload: str
    entry: str
    cause: str


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


def get_run(store: Store, run: str) -> tuple[RunRow, int] | None:
    """A run and the position the answer reflects; None when there is no such run."""
    found = store.read(f"SELECT {_POSITION}, {columns_of(RunRow)} FROM runs WHERE run = ?", [run])
    return (rows_of(RunRow, [found[0][1:]])[0], found[0][0]) if found else None


def list_runs(store: Store, *, state: str, before: int | None, limit: int) -> list[RunRow]:
    """Runs that were first mentioned before position `before`, newest first."""
    sql = f"""
        SELECT {columns_of(RunRow)} FROM runs
        WHERE (? = '' OR state = ?) AND (? IS NULL OR first_position < ?)
        ORDER BY first_position DESC LIMIT ?"""
    return rows_of(RunRow, store.read(sql, [state, state, before, before, limit]))


def list_workstreams(
    store: Store, run: str, *, state: str, after: int | None, limit: int
) -> tuple[list[WorkstreamRow], int] | None:
    """Workstreams of a run behind ordinal `after`, and the position the answer reflects; None when there is no such run."""
    sql = f"""
        SELECT {_POSITION}, w.* FROM runs LEFT JOIN (
            SELECT {columns_of(WorkstreamRow)} FROM workstreams
            WHERE run = ? AND (? = '' OR state = ?) AND ordinal > ?
            ORDER BY ordinal LIMIT ?) AS w ON true
        WHERE runs.run = ? ORDER BY w.ordinal"""
    found = store.read(sql, [run, state, state, -1 if after is None else after, limit, run])
    if not found:
        return None
    return rows_of(WorkstreamRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_attempts(
    store: Store, run: str, *, workstream: str, after: tuple[int, int], limit: int
) -> list[AttemptRow] | None:
    """Attempts of a run scheduled behind (position, idx) `after`, in that order; None when there is no such run."""
    sql = f"""
        SELECT a.* FROM runs LEFT JOIN (
            SELECT {columns_of(AttemptRow)} FROM attempts
            WHERE run = ? AND (? = '' OR workstream = ?) AND (scheduled_position, scheduled_idx) > (?, ?)
            ORDER BY scheduled_position, scheduled_idx LIMIT ?) AS a ON true
        WHERE runs.run = ? ORDER BY a.scheduled_position, a.scheduled_idx"""
    found = store.read(sql, [run, workstream, workstream, *after, limit, run])
    if not found:
        return None
    return rows_of(AttemptRow, [row for row in found if row[0] is not None])


def list_waves(store: Store, run: str, *, after: int, limit: int) -> tuple[list[WaveRow], int] | None:
    """Waves of a run behind number `after`, and the position the answer reflects; None when there is no such run."""
    sql = f"""
        SELECT {_POSITION}, w.* FROM runs LEFT JOIN (
            SELECT {columns_of(WaveRow)} FROM waves WHERE run = ? AND wave > ? ORDER BY wave LIMIT ?) AS w ON true
        WHERE runs.run = ? ORDER BY w.wave"""
    found = store.read(sql, [run, after, limit, run])
    if not found:
        return None
    return rows_of(WaveRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def get_patch(store: Store, run: str, workstream: str, attempt: int) -> tuple[PatchRow, int] | None:
    """The patch of an attempt, or (attempt 0) the one its workstream goes on with, and the position the answer reflects."""
    which = "attempt = ?" if attempt else "attempt = (SELECT patch FROM workstreams WHERE run = ? AND workstream = ?)"
    found = store.read(
        f"SELECT {_POSITION}, {columns_of(PatchRow)} FROM patches WHERE run = ? AND workstream = ? AND {which}",
        [run, workstream, *([attempt] if attempt else [run, workstream])],
    )
    return (rows_of(PatchRow, [found[0][1:]])[0], found[0][0]) if found else None


def list_patches(
    store: Store, *, run: str, workstream: str, state: str, digest: str, after: tuple[int, int], limit: int
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
    store: Store, run: str, *, workstream: str, attempt: int, after: tuple[int, int, int], limit: int
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
    store: Store, *, state: str, before: tuple[int, int] | None, limit: int
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


def list_tool_breakers(store: Store) -> tuple[list[ToolBreakerRow], int]:
    """Every tool's breaker, at most SMALL_LIST_MAX, and the position the answer reflects."""
    sql = f"""
        SELECT meta.position, b.* FROM meta LEFT JOIN (
            SELECT {columns_of(ToolBreakerRow)} FROM tool_breakers ORDER BY tool LIMIT {SMALL_LIST_MAX}) AS b ON true
        ORDER BY b.tool"""
    found = store.read(sql)
    return rows_of(ToolBreakerRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_pauses(store: Store) -> tuple[list[PauseRow], int]:
    """Everything paused for all runs, at most SMALL_LIST_MAX, and the position the answer reflects."""
    sql = f"""
        SELECT meta.position, p.* FROM meta LEFT JOIN (
            SELECT {columns_of(PauseRow)} FROM pauses ORDER BY scope, name LIMIT {SMALL_LIST_MAX}) AS p ON true
        ORDER BY p.scope, p.name"""
    found = store.read(sql)
    return rows_of(PauseRow, [row[1:] for row in found if row[1] is not None]), found[0][0]


def list_events(
    store: Store,
    *,
    run: str,
    workstream: str,
    kinds: tuple[str, ...],
    after_position: int,
    newest_first: bool,
    cursor: tuple[int, int] | None,
    limit: int,
) -> list[EventRecord]:
    """Events after a position that match, behind (position, idx) `cursor` in the order asked for."""
    where = ["position > ?"]
    terms: list[object] = [after_position]
    for column, value in (("run", run), ("workstream", workstream)):
        if value:
            where.append(f"{column} = ?")
            terms.append(value)
    if kinds:
        where.append(f"kind IN ({', '.join('?' * len(kinds))})")
        terms.extend(kinds)
    if cursor is not None:
        # The first condition alone lets whole row groups be skipped.
        where.append(f"position {'<=' if newest_first else '>='} ?")
        where.append(f"(position, idx) {'<' if newest_first else '>'} (?, ?)")
        terms.extend((cursor[0], *cursor))
    way = "DESC" if newest_first else "ASC"
    sql = f"""
        SELECT {_EVENT} FROM (
            SELECT * FROM events WHERE {" AND ".join(where)} ORDER BY position {way}, idx {way} LIMIT ?) AS e
        JOIN entries AS n ON n.position = e.position
        ORDER BY e.position {way}, e.idx {way}"""
    return [EventRecord(*row) for row in store.read(sql, [*terms, limit])]


def replay(store: Store, *, run: str, after: int) -> Replay:
    """The next entries after a position, at most ENTRIES_PER_REPLAY, of one run or (run '') of all."""
    # What lies up to a position never changes, so two statements are as good as one.
    (reached, last, count), *_ = store.read(
        f"""SELECT {_POSITION}, max(position), count(*) FROM (
            SELECT position FROM entries WHERE position > ? AND (? = '' OR run = ?) ORDER BY position LIMIT ?)""",
        [after, run, run, ENTRIES_PER_REPLAY],
    )
    until = last if count == ENTRIES_PER_REPLAY else max(after, reached)
    found = store.read(
        f"""SELECT {_EVENT} FROM events AS e JOIN entries AS n ON n.position = e.position
            WHERE e.position > ? AND e.position <= ? AND n.position > ? AND n.position <= ? AND (? = '' OR e.run = ?)
            ORDER BY e.position, e.idx""",
        [after, until, after, until, run, run],
    )
    return Replay(_by_entry([EventRecord(*row) for row in found]), until)


def events_of(batch: Batch) -> list[EntryEvents]:
    """The events of a batch, as `replay` would read them back."""
    said = {entry[0]: entry for entry in batch.entries}
    records = []
    for position, idx, kind, run, workstream, attempt, time_ns, _tool, _severity, payload in batch.events:
        entry = said[position]
        records.append(
            EventRecord(position, idx, kind, run, workstream, attempt, time_ns, entry[4], payload, entry[3], entry[7])
        )
    return _by_entry(records)


def _by_entry(records: list[EventRecord]) -> list[EntryEvents]:
    entries: list[EntryEvents] = []
    for record in records:
        if not entries or entries[-1].position != record.position:
            entries.append(EntryEvents(record.position, record.run, []))
        entries[-1].events.append(record)
    return entries
