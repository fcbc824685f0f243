"""What happened to a run: its changes of state, its errors, the facts of one attempt, and how all of it stood earlier.

How a run stood at a position is folded anew from its own entries up to there, by the same projector that folds the log:
nothing of another run enters a row of it. All functions block: call them in a thread.
"""

# ruff: noqa: S608 - columns, operators and directions come from this module; every value is bound
from collections.abc import Iterator

import msgspec

from services.bus import Recorded
from services.ledger.projector import (
    AttemptRow,
    ExecutorRow,
    KnownRun,
    PauseRow,
    Projector,
    RunRow,
    Tip,
    ToolBreakerRow,
    WorkstreamRow,
)
from services.ledger.queries import EventRecord, with_entries
from services.ledger.store import Reads, columns_of, rows_of
from services.ledger.verify import pieces_of
from services.wire import attempt_subject, late_subject

AS_OF_BYTES_MAX = 64 * 1024 * 1024
"""Entries of a run that are folded for an answer about an earlier moment, in bytes."""

PIECE_BYTES = 4 * 1024 * 1024
"""So much of them is read at a time."""

FACTS_MAX = 200
"""Events of one attempt's subject that are told with it."""

_CLOSES = frozenset({"step_finished", "step_cancelled", "step_lost"})


class Transition(msgspec.Struct, frozen=True):
    """A change of state of a run (workstream '') or a workstream; the fields are the columns of `transitions`, in order."""

    position: int
    idx: int
    run: str
    workstream: str
    from_state: str
    to_state: str
    reason: str
    actor: str
    time_ns: int


class ErrorFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed attempts are meant; what is empty or 0 leaves it open. The times (`until_ns` excluded) are of their close."""

    run: str = ""
    workstream: str = ""
    step: str = ""
    tool: str = ""
    error_class: str = ""
    since_ns: int = 0
    until_ns: int = 0


class ErrorRecord(msgspec.Struct, frozen=True):
    """A failure, each once, as in the view `errors`; `position` and `idx` are where its newest attempt was scheduled."""

    run: str
    workstream: str
    step: str
    signature: str
    error_class: str
    message: str
    count: int
    first_seen_ns: int
    last_seen_ns: int
    first_attempt: int
    last_attempt: int
    tool: str
    position: int
    idx: int


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt with the events that made it what it is: how it was scheduled, claimed, closed, and what came after."""

    row: AttemptRow
    scheduled: EventRecord | None
    claim: EventRecord | None
    close: EventRecord | None
    late: list[EventRecord]
    position: int


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stood at `position`: the newest of its entries up to what was asked for."""

    position: int
    row: RunRow
    workstreams: list[WorkstreamRow]
    attempts: list[AttemptRow]


class TooMuchHistoryError(RuntimeError):
    """More entries than are folded for one answer."""


def list_transitions(
    reads: Reads,
    run: str,
    *,
    workstream: str | None,
    actor: str,
    newest_first: bool,
    cursor: tuple[int, int] | None,
    limit: int,
) -> tuple[list[Transition], int] | None:
    """Changes of state of a run and its workstreams, behind (position, idx) `cursor`, and the position the answer reflects.

    `workstream` '' is the run itself, None all. None when there is no such run.
    """
    stands = reads.read("SELECT (SELECT position FROM meta), first_position, position FROM runs WHERE run = ?", [run])
    if not stands:
        return None
    ((reached, first, last),) = stands
    conditions = ["position BETWEEN ? AND ?", "run = ?"]
    values: list[object] = [first, last, run]
    if workstream is not None:
        conditions.append("workstream = ?")
        values.append(workstream)
    if actor:
        conditions.append("actor = ?")
        values.append(actor)
    if cursor is not None:
        conditions.append(f"(position, idx) {'<' if newest_first else '>'} (?, ?)")
        values.extend(cursor)
    way = "DESC" if newest_first else "ASC"
    sql = f"""
        SELECT {", ".join(Transition.__struct_fields__)} FROM transitions WHERE {" AND ".join(conditions)}
        ORDER BY position {way}, idx {way} LIMIT ?"""
    return [Transition(*row) for row in reads.read(sql, [*values, limit])], reached


def list_errors(
    reads: Reads, wanted: ErrorFilter, *, behind: tuple[int, int, int] | None, limit: int
) -> tuple[list[ErrorRecord], int]:
    """Failures, the one seen last first, behind (last_seen_ns, position, idx), and the position the answer reflects."""
    conditions = ["closed_ns > 0", "NOT ok", "error_class <> ''"]
    values: list[object] = []
    for column in ("run", "workstream", "step", "tool", "error_class"):
        if value := getattr(wanted, column):
            conditions.append(f"{column} = ?")
            values.append(value)
    if wanted.run:
        # The positions alone let whole row groups be skipped.
        conditions.append("scheduled_position >= ?")
        found = reads.read("SELECT first_position FROM runs WHERE run = ?", [wanted.run])
        values.append(found[0][0] if found else 0)
    if wanted.since_ns:
        conditions.append("closed_ns >= ?")
        values.append(wanted.since_ns)
    if wanted.until_ns:
        conditions.append("closed_ns < ?")
        values.append(wanted.until_ns)
    place = "(last_seen_ns, position, idx)"
    sql = f"""
        SELECT run, workstream, step, CASE WHEN signature = '' THEN error_class ELSE signature END AS signature,
            arg_max(error_class, attempt) AS error_class, arg_max(message, attempt) AS message, count(*)::INTEGER,
            min(closed_ns), max(closed_ns) AS last_seen_ns, min(attempt), max(attempt), arg_max(tool, attempt),
            max(scheduled_position) AS position, arg_max(scheduled_idx, scheduled_position) AS idx
        FROM attempts WHERE {" AND ".join(conditions)}
        GROUP BY run, workstream, step, CASE WHEN signature = '' THEN error_class ELSE signature END
        {f"HAVING {place} < (?, ?, ?)" if behind else ""}
        ORDER BY last_seen_ns DESC, position DESC, idx DESC LIMIT ?"""
    ((reached,),) = reads.read("SELECT position FROM meta")
    return [ErrorRecord(*row) for row in reads.read(sql, [*values, *(behind or ()), limit])], reached


def get_attempt(reads: Reads, run: str, workstream: str, attempt: int) -> AttemptFacts | None:
    """An attempt and its facts, the first FACTS_MAX of them; None when there is no such attempt."""
    key = [run, workstream, attempt]
    found = reads.read(
        f"""SELECT (SELECT position FROM meta), (SELECT position FROM runs WHERE run = ?), {columns_of(AttemptRow)}
            FROM attempts WHERE run = ? AND workstream = ? AND attempt = ?""",
        [run, *key],
    )
    if not found:
        return None
    row = rows_of(AttemptRow, [found[0][2:]])[0]
    facts = reads.read(
        f"""SELECT {", ".join(EventRecord.__struct_fields__[:10])} FROM events
            WHERE position BETWEEN ? AND ? AND run = ? AND workstream = ? AND attempt = ?
            ORDER BY position, idx LIMIT {FACTS_MAX}""",
        [row.scheduled_position, found[0][1], *key],
    )
    records = with_entries(reads, facts)
    own = _on_its_subject(reads, run, workstream, attempt, records)
    scheduled = claim = close = None
    late: list[EventRecord] = []
    for fact in records:
        if fact.position not in own:
            scheduled = fact if fact.kind == "step_scheduled" and scheduled is None else scheduled
        elif close is not None:
            late.append(fact)
        elif fact.kind in _CLOSES:
            close = fact
        elif fact.kind == "step_started":
            claim = claim or fact
    return AttemptFacts(row=row, scheduled=scheduled, claim=claim, close=close, late=late, position=found[0][0])


def _on_its_subject(reads: Reads, run: str, workstream: str, attempt: int, facts: list[EventRecord]) -> set[int]:
    """The positions of those facts that executors, or whoever closed it, told of the attempt itself."""
    if not facts:
        return set()
    subjects = [attempt_subject(run, workstream, attempt), late_subject(run, workstream, attempt)]
    sql = """
        SELECT position FROM entries
        WHERE position BETWEEN ? AND ? AND subject IN (?, ?)"""
    return {position for (position,) in reads.read(sql, [facts[0].position, facts[-1].position, *subjects])}


class Nothing:
    """What is stored before the first entry; see services.ledger.projector.Known."""

    def run(self, run: str) -> KnownRun | None:  # noqa: ARG002 - as Known has it
        return None

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:  # noqa: ARG002 - as above
        return None

    def executor(self, executor: str) -> ExecutorRow | None:  # noqa: ARG002 - as above
        return None

    def tool_breaker(self, tool: str) -> ToolBreakerRow | None:  # noqa: ARG002 - as above
        return None

    def pauses(self) -> list[PauseRow]:
        return []


def _recorded(reads: Reads, run: str, first: int, last: int) -> Iterator[Recorded]:
    """The entries of a run, a few megabytes at a time."""
    for after, until in pieces_of(reads, first - 1, last, most_bytes=PIECE_BYTES):
        found = reads.read(
            "SELECT position, subject, time_ns, raw FROM entries WHERE position > ? AND position <= ? AND run = ? ORDER BY position",
            [after, until, run],
        )
        for sequence, subject, taken_ns, raw in found:
            yield Recorded(sequence, subject, taken_ns, bytes(raw))


def as_of(reads: Reads, run: str, *, position: int = 0, time_ns: int = 0, entries_max: int) -> AsOf | None:
    """How a run stood at a position of the log, or (position 0) when the log took its newest entry up to a time.

    None when it was not mentioned yet, or never. Raises TooMuchHistoryError beyond `entries_max` entries.
    """
    found = reads.read("SELECT first_position, position FROM runs WHERE run = ?", [run])
    if not found:
        return None
    ((first, last),) = found
    last = min(last, position) if position else last
    if not position:
        ((last,),) = reads.read(
            "SELECT coalesce(max(position), 0) FROM entries WHERE position BETWEEN ? AND ? AND run = ? AND time_ns <= ?",
            [first, last, run, time_ns],
        )
    ((count, size_bytes),) = reads.read(
        "SELECT count(*), coalesce(sum(octet_length(raw)), 0) FROM entries WHERE position BETWEEN ? AND ? AND run = ?",
        [first, last, run],
    )
    if count > entries_max or size_bytes > AS_OF_BYTES_MAX:
        raise TooMuchHistoryError(
            f"run {run} has {count} entries of {size_bytes} bytes up to position {last}, and at most {entries_max} of "
            f"{AS_OF_BYTES_MAX} bytes together are folded for one answer"
        )
    projector = Projector(Tip(), Nothing())
    batch = projector.fold(_recorded(reads, run, first, last))
    rows = [row for row in batch.runs if row.run == run]
    if not rows:
        return None
    return AsOf(
        position=projector.tip.position,
        row=rows[0],
        workstreams=sorted(batch.workstreams, key=lambda row: row.ordinal),
        attempts=sorted(batch.attempts, key=lambda row: (row.scheduled_position, row.scheduled_idx)),
    )
