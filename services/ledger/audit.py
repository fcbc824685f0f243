"""Whether what is recorded is what was recorded: the chain of hashes, anchors, and the log's own bytes.

    entries ──▶ each hash follows from the one before it           which position was changed, removed or put in
       │   └──▶ what its bytes say equals what `entries` and `events` say of them
       ├─────▶ an anchor, kept elsewhere, names the hash of its position
       └─────▶ (asked for) the log holds the same bytes at the same position

What it promises (docs/audit.md says what each of these proves, and against whom):

* It reads as of one commit, in pieces of bounded size, and changes nothing; the ledger goes on meanwhile.
* A finding names the row: its table and position, and what differs. One row that does not fit is told once, however long
  the chain behind it; the row after it tells whether its content, its hash, or a row before it is at fault.
* Whatever a hand has written into the file is a finding, never an exception; a file that cannot be read at all is condemned
  as everywhere.

Tables that are folded from many entries (runs, attempts …) are not looked at: services.ledger.verify folds them anew.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Literal

import msgspec

from services.bus import BusError, Recorded
from services.ledger.absorb import ALL_EVENTS, EventLog
from services.ledger.anchors import Anchor
from services.ledger.history import History
from services.ledger.projector import (
    GENESIS,
    AttemptRow,
    ExecutorRow,
    KnownRun,
    PauseRow,
    Projector,
    Tip,
    ToolBreakerRow,
    chained,
    place_of,
)
from services.ledger.segment import Manifest
from services.ledger.store import Reads, Snapshot, Store
from services.ledger.verify import (
    HIGHEST,
    LOWEST,
    TELL_S,
    OneThread,
    Readable,
    Values,
    columns_in,
    differences_of,
    pieces_of,
    shown,
    some_of,
)

SUBJECT_BYTES_MAX = 2**16 - 1
"""The chain's formula has two bytes for the length of a subject; nothing longer was ever recorded."""

PIECE_BYTES = 4 * 1024 * 1024
"""The entries of one piece together, in bytes: what is made of them takes a multiple."""

LOG_BATCH = 1000
"""Entries of the log that are compared at a time."""

Kind = Literal["changed", "missing", "extra"]
Source = Literal["chain", "entry", "anchor", "log", "tip"]


class AuditError(RuntimeError):
    """The audit could not be carried out; the text says what to do. It says nothing about what is recorded."""


class AuditBusyError(AuditError):
    """Another audit is under way."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A row, or several in a row, that is not what was recorded.

    `position` to `until` is where; `source` says what it was held against: the hash of the row before it (`chain`), the bytes
    of its entry (`entry`), an anchor, the log, or how far the ledger says it is (`tip`). `column` is '' for whole rows.
    `anchor` counts those that were given, from 1; 0 for any other finding. Values are cut for reading.
    """

    kind: Kind
    source: Source
    table: str
    position: int
    until: int
    text: str
    key: str = ""
    column: str = ""
    stored: str = ""
    expected: str = ""
    anchor: int = 0


class Audited(msgspec.Struct, frozen=True):
    """So many more rows are looked at, the last of them at `position`."""

    position: int
    entries: int
    events: int


class AuditProgress(msgspec.Struct, frozen=True):
    """How far an audit is; `phase` is stored or log."""

    phase: Literal["stored", "log"]
    position: int
    end: int


class AuditResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit came to: `start` to `end` are the positions it was about, `hash` the stored one at or before `end`.

    `logged` entries were compared with the log; `unlogged` are no longer in it.
    """

    start: int
    end: int
    hash: bytes
    stream_created_ns: int
    findings: int
    entries: int
    events: int
    anchors: int
    logged: int
    unlogged: int
    wall_s: float

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.findings == 0


# The chain


class _Doubt(msgspec.Struct, frozen=True):
    """An entry that does not follow from the one before it: what could be true of it is told by the next."""

    position: int
    stored: bytes
    computed: bytes
    before: bytes
    behind: int
    sure: bool


class _Chain:
    """Follows hashes entry by entry from a known one; every finding comes one entry after the row it is about."""

    def __init__(self, previous: bytes, behind: int) -> None:
        """`previous` is the hash of the entry at `behind`, 0 for none."""
        self.previous = previous
        self.behind = behind
        self._before: tuple[bytes, int] | None = None
        self._doubt: _Doubt | None = None

    def follow(self, position: int, subject: str, raw: bytes, digest: bytes) -> Finding | None:
        """Go on to the next entry; what is wrong with the one before it, if anything."""

        def fits(previous: bytes) -> bool:
            return _hash(previous, position, subject, raw) == digest

        finding = None
        doubt, self._doubt = self._doubt, None
        if doubt is not None:
            finding = _judged(doubt, fits)
            sound = any(map(fits, (doubt.stored, doubt.computed, doubt.before)))
        elif fits(self.previous):
            sound = True
        elif self._before is not None and fits(self._before[0]):
            sound = True
            finding = _extra(self.behind, "the entries around it follow from each other without it")
        else:
            sound = False
        if not sound:
            computed = _hash(self.previous, position, subject, raw)
            self._doubt = _Doubt(position, digest, computed, self.previous, self.behind, sure=doubt is None)
        self._before = (self.previous, self.behind)
        self.previous, self.behind = digest, position
        return finding

    def end(self, fits: Callable[[bytes], bool]) -> Finding | None:
        """What is wrong with the last entry; `fits` tells whether what comes after it follows from a hash."""
        doubt, self._doubt = self._doubt, None
        return None if doubt is None else _judged(doubt, fits)


def _hash(previous: bytes, position: int, subject: str, raw: bytes) -> bytes:
    """The hash of an entry; of one that nobody can have recorded, none."""
    return chained(previous, position, subject, raw) if _possible(position, subject) else b""


def _possible(position: int, subject: str) -> bool:
    return position > 0 and len(subject.encode(errors="replace")) <= SUBJECT_BYTES_MAX


def _judged(doubt: _Doubt, fits: Callable[[bytes], bool]) -> Finding:
    """What is wrong with an entry that did not follow, by what follows from it."""
    if fits(doubt.computed):
        return Finding(
            kind="changed",
            source="chain",
            table="entries",
            position=doubt.position,
            until=doubt.position,
            key=f"position={doubt.position}",
            column="hash",
            stored=shown(doubt.stored),
            expected=shown(doubt.computed),
            text="its hash was changed: the entry after it follows from what its content gives",
        )
    if doubt.sure and fits(doubt.before):
        return _extra(doubt.position, "the entries around it follow from each other without it")
    if doubt.position > doubt.behind + 1:
        return _missing(
            doubt.behind + 1,
            doubt.position - 1,
            f"{doubt.position} does not follow from {doubt.behind or 'the beginning'}: "
            f"what stood between them was removed, or {doubt.position} was changed",
        )
    return Finding(
        kind="changed",
        source="chain",
        table="entries",
        position=doubt.position,
        until=doubt.position,
        key=f"position={doubt.position}",
        stored=shown(doubt.stored),
        expected=shown(doubt.computed),
        text="its subject or its bytes are not those that its hash was made of",
    )


def _extra(position: int, text: str) -> Finding:
    return Finding(
        kind="extra",
        source="chain",
        table="entries",
        position=position,
        until=position,
        key=f"position={position}",
        text=text,
    )


def _missing(position: int, until: int, text: str, source: Source = "chain") -> Finding:
    key = f"position={position}" if position == until else f"position={position}..{until}"
    return Finding(kind="missing", source=source, table="entries", position=position, until=until, key=key, text=text)


# What is stored


def audited(stored: Readable, tip: Tip, start: int, end: int, anchors: Sequence[Anchor]) -> Iterator[Finding | Audited]:
    """What is wrong with the entries from `start` to `end` (at most the tip), and with the events in them.

    `start` 1 is the very beginning, and an `end` at the tip includes what is stored behind it.
    """
    low = LOWEST if start <= 1 else start - 1
    high = HIGHEST if end >= tip.position else end
    chain = _Chain(*_begin(stored, low, anchors))
    columns = {table: columns_in(stored, table) for table in ("entries", "events")}
    told = _picked(columns["entries"], "position", "subject", "raw", "hash")
    for piece in pieces_of(stored, low, high, most_bytes=PIECE_BYTES):
        rows = stored.read(
            "SELECT * FROM entries WHERE position > ? AND position <= ? ORDER BY position, octet_length(raw), hash",
            piece,
        )
        events = stored.read("SELECT * FROM events WHERE position > ? AND position <= ? ORDER BY position, idx", piece)
        for position, subject, raw, digest in map(told, rows):
            if not 0 < position <= tip.position:
                yield _extra(position, f"nothing was recorded there: the ledger reaches from 1 to {tip.position}")
            elif finding := chain.follow(position, subject, bytes(raw), bytes(digest)):
                yield finding
        yield from _said_otherwise(columns, rows, events)
        yield Audited(rows[-1][0] if rows else chain.behind, len(rows), len(events))
    yield from _ended(stored, tip, end, chain)


def _picked(columns: list[str], *names: str) -> Callable[[Values], Values]:
    """What gives these columns of a row."""
    return itemgetter(*(columns.index(name) for name in names))


def _begin(stored: Readable, low: int, anchors: Sequence[Anchor]) -> tuple[bytes, int]:
    """The hash to start from, and its position: what stands before, else an anchor that the first entry follows from."""
    if low > 0:
        before = stored.read(
            "SELECT hash, position FROM entries WHERE position <= ? AND position > 0 ORDER BY position DESC LIMIT 1",
            [low],
        )
        if before:
            return bytes(before[0][0]), before[0][1]
    first = stored.read(
        "SELECT position, subject, raw, hash FROM entries WHERE position > 0 ORDER BY position LIMIT 1", []
    )
    for position, subject, raw, digest in first:
        for anchor in anchors:
            if anchor.position < position and _hash(anchor.hash, position, subject, bytes(raw)) == bytes(digest):
                return anchor.hash, anchor.position
    return GENESIS, 0


def _ended(stored: Readable, tip: Tip, end: int, chain: _Chain) -> Iterator[Finding]:
    """What is wrong with the last entry, and with how far the ledger says it is."""
    if end < tip.position:
        after = stored.read(
            "SELECT position, subject, raw, hash FROM entries WHERE position > ? ORDER BY position LIMIT 1", [end]
        )
        for position, subject, raw, digest in after:
            if finding := chain.end(lambda previous: _hash(previous, position, subject, bytes(raw)) == bytes(digest)):  # noqa: B023 - one row
                yield finding
        return
    last, hash_of_last = chain.behind, chain.previous
    finding = chain.end(lambda previous: previous == tip.hash)
    if finding is not None:
        yield finding
    if last < tip.position:
        yield _missing(last + 1, tip.position, f"the ledger says that it reaches {tip.position}", "tip")
    elif finding is None and hash_of_last != tip.hash:
        yield Finding(
            kind="changed",
            source="tip",
            table="meta",
            position=tip.position,
            until=tip.position,
            column="hash",
            stored=shown(tip.hash),
            expected=shown(hash_of_last),
            text="it is not the hash of the last entry",
        )


class _Nobody:
    """Knows of nothing: what an entry's own bytes say needs nothing else."""

    # ruff: noqa: ARG002 - the arguments are those of services.ledger.projector.Known

    def run(self, run: str) -> KnownRun | None:
        return None

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:
        return None

    def executor(self, executor: str) -> ExecutorRow | None:
        return None

    def tool_breaker(self, tool: str) -> ToolBreakerRow | None:
        return None

    def pauses(self) -> list[PauseRow]:
        return []


def _said_otherwise(columns: dict[str, list[str]], rows: list[Values], events: list[Values]) -> Iterator[Finding]:
    """Where columns of entries, or rows of events, are not what the bytes of their entries say."""
    recorded = _picked(columns["entries"], "position", "subject", "time_ns", "raw")
    records = [Recorded(*recorded(row)) for row in rows if _possible(*recorded(row)[:2])]
    stored = [row for row in rows if _possible(*recorded(row)[:2])]
    said = Projector(Tip(), _Nobody()).fold(records)
    place = columns["entries"].index("hash")  # the chain looks after the hashes
    expected = [
        (*entry[:place], row[place], *entry[place + 1 :]) for entry, row in zip(said.entries, stored, strict=True)
    ]
    for table, key, ours, theirs in (
        ("entries", ("position",), stored, expected),
        ("events", ("position", "idx"), events, _with_tools(columns["events"], records, said.events, events)),
    ):
        places = [columns[table].index(column) for column in key]
        for found in differences_of(table, columns[table], places, ours, theirs):
            position = int(found.key.partition("position=")[2].split()[0])
            yield Finding(
                kind=found.kind,
                source="entry",
                table=table,
                position=position,
                until=position,
                key=found.key,
                column=found.column,
                stored=found.stored,
                expected=found.folded,
                text=_SAID[found.kind],
            )


def _with_tools(
    columns: list[str], records: list[Recorded], folded: Sequence[Values], stored: list[Values]
) -> list[Values]:
    """Folded events in order. The tool of an attempt was named when it was scheduled, in another entry: it is left as it is."""
    place = columns.index("tool")
    known = {row[:2]: row[place] for row in stored}
    elsewhere = {record.sequence for record in records if place_of(record.subject).kind in ("attempt", "late")}
    return sorted(
        (
            (*row[:place], known.get(row[:2], row[place]), *row[place + 1 :]) if row[0] in elsewhere else row
            for row in folded
        ),
        key=lambda row: row[:2],
    )


_SAID: dict[Kind, str] = {
    "changed": "the bytes of the entry say otherwise",
    "missing": "the bytes of the entry say it, and it is not there",
    "extra": "no stored entry says it",
}


def anchored(stored: Readable, tip: Tip, stream_created_ns: int, anchors: Sequence[Anchor]) -> Iterator[Finding]:
    """Which anchors name another hash than the one that is stored at their position."""
    for number, anchor in enumerate(anchors, 1):
        if anchor.stream_created_ns not in (0, stream_created_ns):
            yield _unanchored(
                number,
                anchor,
                str(stream_created_ns),
                str(anchor.stream_created_ns),
                "it was taken of another stream: the log was replaced since, or it belongs to another cluster",
            )
            continue
        rows = stored.read("SELECT hash FROM entries WHERE position = ?", [anchor.position])
        if not rows:
            first = stored.read("SELECT min(position) FROM entries WHERE position > 0")[0][0]
            if first is None or anchor.position > first:
                where = f"the ledger reaches {tip.position}, and nothing stands there"
                yield _unanchored(number, anchor, "", shown(anchor.hash), where)
            elif _begin(stored, LOWEST, [anchor]) != (anchor.hash, anchor.position):
                where = f"what is stored begins at {first}, and does not follow from the anchor"
                yield _unanchored(number, anchor, "", shown(anchor.hash), where)
        elif any(bytes(digest) != anchor.hash for (digest,) in rows):
            where = "the entries up to this position are not those of the time when it was taken"
            yield _unanchored(number, anchor, shown(bytes(rows[0][0])), shown(anchor.hash), where)


def _unanchored(number: int, anchor: Anchor, stored: str, expected: str, text: str) -> Finding:
    return Finding(
        kind="changed" if stored else "missing",
        source="anchor",
        table="entries",
        position=anchor.position,
        until=anchor.position,
        key=f"position={anchor.position}",
        column="hash",
        stored=stored,
        expected=expected,
        anchor=number,
        text=text,
    )


# The log


class _AgainstLog:
    """Compares stored entries with the log's, batch by batch, and follows the chain through the log's own bytes."""

    def __init__(self, stored: Readable, start: int, end: int, archived: int) -> None:
        """From `start` to `end`. The log may lack its beginning, and anything up to position `archived`: nothing is said of it."""
        self._stored = stored
        self._end = end
        self._archived = archived
        self._behind = start - 1
        self._hash: bytes | None = None
        self._apart = False
        self.logged = self.unlogged = 0

    def compare(self, records: list[Recorded]) -> list[Finding]:
        """What the next messages of the log say otherwise."""
        if self._hash is None:
            self._begin(records[0].sequence)
        reached = records[-1].sequence
        rows: dict[int, list[Values]] = {}
        for row in self._stored.read(
            """SELECT position, subject, time_ns, raw, hash FROM entries
               WHERE position > ? AND position <= ? ORDER BY position, octet_length(raw), hash""",
            [self._behind, reached],
        ):
            rows.setdefault(row[0], []).append(row)
        found: list[Finding] = []
        stored = deque(rows.items())
        for record in records:
            while stored and stored[0][0] < record.sequence:
                found += self._gone(*stored.popleft())
            mine = stored.popleft()[1] if stored and stored[0][0] == record.sequence else []
            found += self._compared(record, mine)
        self._behind = reached
        return found

    def close(self) -> list[Finding]:
        """What is stored behind the end of the log."""
        rows = self._stored.read(
            "SELECT position FROM entries WHERE position > ? AND position <= ? ORDER BY position",
            [self._behind, self._end],
        )
        behind = [] if self._hash is None else [position for (position,) in rows if position > self._archived]
        self.unlogged += len(rows) - len(behind)
        return [self._unknown_to_log(position) for position in behind]

    def _gone(self, position: int, rows: list[Values]) -> list[Finding]:
        """The log holds nothing there: a run that was archived has left it, or it has lost something."""
        if position > self._archived:
            return [self._unknown_to_log(position)]
        self.unlogged += 1
        self._hash = bytes(rows[-1][4])
        return []

    def _begin(self, first: int) -> None:
        """The log may have been pruned: its chain goes on from what is stored before its first entry."""
        before = self._stored.read(
            "SELECT hash FROM entries WHERE position > 0 AND position < ? ORDER BY position DESC LIMIT 1", [first]
        )
        self._hash = bytes(before[0][0]) if before else GENESIS
        ((pruned,),) = self._stored.read(
            "SELECT count(*) FROM entries WHERE position > ? AND position < ?", [self._behind, first]
        )
        self.unlogged += pruned
        self._behind = first - 1

    def _compared(self, record: Recorded, rows: list[Values]) -> Iterator[Finding]:
        self.logged += 1
        self._hash = chained(self._hash or GENESIS, record.sequence, record.subject, record.data)
        if not rows:
            yield _missing(record.sequence, record.sequence, "the log holds it, the ledger does not", "log")
            return
        told = next((row for row in rows if (row[1], bytes(row[3])) == (record.subject, record.data)), rows[0])
        for _ in rows[1:]:
            yield self._unknown_to_log(record.sequence, "the log holds one entry at this position")
        _, subject, time_ns, raw, digest = told
        for column, here, there in (
            ("subject", subject, record.subject),
            ("time_ns", time_ns, record.time_ns),
            ("raw", bytes(raw), record.data),
        ):
            if here != there:
                yield self._unlike_log(record.sequence, column, here, there, "the log holds another")
        apart, self._apart = self._apart, bytes(digest) != self._hash
        if self._apart and not apart:
            text = "from here on the stored chain is not that of the log"
            yield self._unlike_log(record.sequence, "hash", bytes(digest), self._hash, text)

    def _unlike_log(self, position: int, column: str, here: object, there: object, text: str) -> Finding:
        return Finding(
            kind="changed",
            source="log",
            table="entries",
            position=position,
            until=position,
            key=f"position={position}",
            column=column,
            stored=shown(here),
            expected=shown(there),
            text=text,
        )

    def _unknown_to_log(self, position: int, text: str = "the log holds nothing at this position") -> Finding:
        return msgspec.structs.replace(_extra(position, text), source="log")


def _unlike_archive(stored: Readable, segments: Sequence[Manifest]) -> Iterator[Finding]:
    """Where the archive is another beginning of the log than what is stored, if it is."""
    for segment in segments:
        rows = stored.read("SELECT hash FROM entries WHERE position = ?", [segment.last])
        said = bytes(rows[0][0]).hex() if rows else ""
        if said != segment.hash_after:
            yield Finding(
                kind="changed" if said else "missing",
                source="log",
                table="entries",
                position=segment.last,
                until=segment.last,
                key=f"position={segment.last}",
                column="hash",
                stored=said,
                expected=segment.hash_after,
                text=f"the archive's {segment.name} has another hash: one of the two was changed up to here",
            )
            return


class Auditor:
    """Audits a store, one audit at a time."""

    def __init__(self, store: Store, event_log: EventLog, *, history: History | None = None) -> None:
        """`event_log` is read only when an audit is to compare with it. `history` as the absorber's."""
        self._store = store
        self._log = event_log
        self._history = history or History()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> bool:
        """Whether an audit is under way."""
        return not self._idle.is_set()

    async def close(self) -> None:
        """Wait for the end of an audit whose caller has left: it still reads the ledger's file."""
        await self._idle.wait()

    async def audit(
        self, *, start: int = 1, end: int = 0, anchors: Sequence[Anchor] = (), with_log: bool = False
    ) -> AsyncGenerator[AuditProgress | Finding | AuditResult, None]:
        """Progress, every finding, and at last one result. `end` 0 is the newest entry.

        Raises AuditBusyError, AuditError (also for an `end` that the ledger has not reached),
        services.ledger.segment.ArchiveError, services.ledger.store.StoreError when the file cannot be read.
        """
        if self.running:
            raise AuditBusyError("an audit is under way: wait for its end")
        self._idle.clear()
        thread = OneThread("ledger-audit")
        try:
            async with aclosing(self._audited(thread, start, end, anchors, with_log=with_log)) as told:
                async for said in told:
                    yield said
        finally:
            try:
                await thread.close()
            finally:
                self._idle.set()

    async def _audited(
        self, thread: OneThread, start: int, end: int, anchors: Sequence[Anchor], *, with_log: bool
    ) -> AsyncGenerator[AuditProgress | Finding | AuditResult, None]:
        started = time.monotonic()
        archived = await self._archived() if with_log else []
        live = await thread.do(lambda: thread.enter(self._store.snapshot()))
        reached = live.tip.position
        if start > max(reached, 1) or end > reached:
            what = f"nothing from {start} on" if start > max(reached, 1) else f"no position {end} to end at"
            raise AuditError(f"there is {what}: the ledger ends at {reached}; give at most that, or nothing")
        end = end or reached
        archived = [segment for segment in archived if segment.last <= reached]
        created_ns = self._store.stream_created_ns
        findings = entries = events = 0
        for finding in await thread.do(lambda: list(anchored(live, live.tip, created_ns, anchors))):
            findings += 1
            yield finding
        auditing = audited(live, live.tip, start, end, anchors)
        position = start - 1
        while some := await thread.do(some_of, auditing):
            for said in some:
                if isinstance(said, Finding):
                    findings += 1
                    yield said
                else:
                    entries, events, position = entries + said.entries, events + said.events, said.position
            yield AuditProgress("stored", position, end)
        against = _AgainstLog(live, start, end, archived[-1].last if archived else 0)
        if with_log:
            for finding in await thread.do(lambda: list(_unlike_archive(live, archived))):
                findings += 1
                yield finding
            async with aclosing(self._against_log(thread, against, start, end)) as told:
                async for compared in told:
                    findings += isinstance(compared, Finding)
                    yield compared
        yield AuditResult(
            start=start,
            end=end,
            hash=await thread.do(_hash_at, live, end),
            stream_created_ns=created_ns,
            findings=findings,
            entries=entries,
            events=events,
            anchors=len(anchors),
            logged=against.logged,
            unlogged=against.unlogged,
            wall_s=time.monotonic() - started,
        )

    async def _archived(self) -> list[Manifest]:
        """The segments of the archive, which may hold what the log does not hold any more."""
        await self._history.load(self._store.stream_created_ns)
        return list(self._history.archive.segments) if self._history.archive is not None else []

    async def _against_log(
        self, thread: OneThread, against: _AgainstLog, start: int, end: int
    ) -> AsyncGenerator[AuditProgress | Finding, None]:
        told = time.monotonic()
        reading = self._log.replay(ALL_EVENTS, after=start - 1, batch_max=LOG_BATCH)
        try:
            async with aclosing(reading) as batches:  # type: ignore[type-var]  # an async generator, typed as an iterator
                async for batch in batches:
                    if records := [record for record in batch if record.sequence <= end]:
                        for finding in await thread.do(against.compare, records):
                            yield finding
                    if batch[-1].sequence >= end:
                        break
                    if time.monotonic() - told > TELL_S:
                        told = time.monotonic()
                        yield AuditProgress("log", batch[-1].sequence, end)
        except BusError as error:
            raise AuditError(f"the log could not be read to position {end}: {error}") from error
        for finding in await thread.do(against.close):
            yield finding


def anchor_at(store: Reads, position: int) -> tuple[Anchor, int] | None:
    """The anchor of a position, 0 for the newest, and when the stream took its entry; None where nothing is recorded."""
    rows = store.read(
        """SELECT position, hash, (SELECT stream_created_ns FROM meta), time_ns FROM entries
           WHERE position = CASE WHEN ? = 0 THEN (SELECT position FROM meta) ELSE ? END LIMIT 1""",
        [position, position],
    )
    return (Anchor(rows[0][0], bytes(rows[0][1]), rows[0][2]), rows[0][3]) if rows else None


def _hash_at(stored: Snapshot, position: int) -> bytes:
    """The stored hash of the newest entry up to a position; the first of all hashes where there is none."""
    rows = stored.read(
        "SELECT hash FROM entries WHERE position > 0 AND position <= ? ORDER BY position DESC LIMIT 1", [position]
    )
    return bytes(rows[0][0]) if rows else GENESIS


__all__ = [
    "AuditBusyError",
    "AuditError",
    "AuditProgress",
    "AuditResult",
    "Audited",
    "Auditor",
    "Finding",
    "anchor_at",
    "anchored",
    "audited",
]
