"""Moves what is over and old from the stream into the archive, and bounds the stream by it.

    entries ─▶ archived: the beginning of the log, up to the first entry of a run that is not over or not old enough
    runs    ─▶ purged: wholly archived, verified, without commands, and of a day whose budgets are closed

The archive is a beginning of the log, so that its chain of hashes has no gap; a run that goes on holds up what came after its
first entry. The ledger's own file keeps all its rows: the archive bounds the stream, not what can be asked.

Of a purged run the stream keeps what a scheduler needs to know that it was there and is over, and to give nobody its id again:

    swell.event.<run>.request    the first entry, and what was asked after the end
    swell.event.<run>.run        the entry with the end, and what was decided after it

and nothing else. What is removed goes in an order in which every prefix folds to a run that is over. Entries of the fleet are
never removed: breakers, budgets, pauses and executors are folded from them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol, get_args

import msgspec
import structlog

from services import events
from services.bus import COMMANDS, BusDeniedError, BusError, Recorded
from services.events import TERMINAL_RUN
from services.ledger.absorb import Absorber
from services.ledger.history import check_segments, in_thread
from services.ledger.metrics import LedgerMetrics
from services.ledger.projector import FLEET
from services.ledger.segment import Archive, ArchiveBusyError, ArchiveError, Manifest, SegmentRow
from services.ledger.store import Store, StoreError
from services.metrics import Exposition
from services.wire import WireError, all_of_run, request_subject, run_subject

log = structlog.get_logger()

DAY_NS = 86_400 * 1_000_000_000
PURGE_DAYS_MIN = 2
"""What is younger stays in the stream: a scheduler folds the budgets of a day from the attempts of that day."""

SEGMENT_ENTRIES_MAX = 250_000
SEGMENT_BYTES_MAX = 32 * 1024 * 1024
"""A segment is closed at that many entries, or bytes of them: writing one takes memory of four times its bytes."""

ROUTINE_S = 3600.0
ROUTINE_ENTRIES_MIN = 10_000
"""Without being asked, the ledger writes a segment once so many entries are due, or some of them for a day."""

REST_S = 0.01
"""Between two segments, and two purged runs: ingest goes before."""

PAGE = 5000

TOLD_POSITIONS = 2000
"""The requests and answers of so many positions are read at a time."""

_REQUESTS = tuple(
    str(kind.__struct_config__.tag)
    for kind in get_args(events.AnyEvent)
    if kind.__name__.endswith("Requested") and "request_id" in kind.__struct_fields__
)
_BEGUN = {"rollback_started": "rollback", "revert_started": "revert"}
_ENDED = {"rollback_finished": "rollback", "revert_finished": "revert"}
_TELLING = [*_REQUESTS, "request_answered", "run_accepted", *_BEGUN, *_ENDED]


class StreamRoom(Protocol):
    """What purging needs of the bus; services.bus.Bus is one."""

    async def last(self, subject: str, stream: str = ...) -> Recorded | None:
        """The newest message of a subject or wildcard."""

    def replay(self, subject: str, *, after: int = ..., batch_max: int = ...) -> AsyncIterator[list[Recorded]]:
        """The messages of a subject or wildcard, in order, in batches."""


class Remover(Protocol):
    """Who removes; services.bus.Bus is one."""

    async def purge(self, subject: str, *, before: int) -> int:
        """Remove the messages of a subject or wildcard before a sequence; how many it was."""

    async def erase(self, sequence: int) -> bool:
        """Remove one message; whether it was there."""


class Due(msgspec.Struct, frozen=True):
    """What can be archived now: up to position `last` (no further than what is archived, if nothing can).

    `runs` end in it, by the position of their newest entry. `held_by` is the run that stops it there and `why`, '' for none.
    """

    last: int
    runs: dict[str, int]
    oldest_ns: int
    held_by: str
    why: str


class Progress(msgspec.Struct, frozen=True):
    """How far it is. Archiving goes from position to `end`; purging counts runs."""

    phase: str
    position: int
    end: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `entries`, `runs` and `size_bytes` were archived in `segments`; `purged_runs` have left the stream.

    `archived_to` is how far the archive reaches, `held_by` the run that stops it there and `why`. `kept_runs` are archived and
    stay in the stream for now, `kept_why`.
    """

    archived_to: int = 0
    segments: int = 0
    entries: int = 0
    runs: int = 0
    size_bytes: int = 0
    purged_runs: int = 0
    purged_entries: int = 0
    kept_runs: int = 0
    kept_why: str = ""
    held_by: str = ""
    why: str = ""
    wall_s: float = 0.0


class _Said(msgspec.Struct, frozen=True):
    request_id: str = ""
    answer: str = ""


_said = msgspec.json.Decoder(_Said)


class _Asked:
    """What is still owed to a run's requests, seen event by event; as services.scheduler.state counts it."""

    def __init__(self) -> None:
        self._answered: set[str] = set()
        self._pending: set[str] = set()
        self._deliveries: set[str] = set()
        self._under_way: set[str] = set()

    def saw(self, kind: str, request: str, answer: str) -> None:
        if kind in _REQUESTS:
            if request not in self._answered:
                self._pending.add(request)
            if kind == "delivery_requested":
                self._deliveries.add(request)
        elif kind == "run_accepted" or (kind == "request_answered" and not self._is_begun(request, answer)):
            self._answered.add(request)
            self._pending.discard(request)
            self._under_way.discard(request)
        elif kind == "request_answered":
            self._answered.add(request)
            self._pending.discard(request)
            self._under_way.add(request)
        elif kind in _BEGUN:
            self._under_way.add(_BEGUN[kind])
        elif kind in _ENDED:
            self._under_way.discard(_ENDED[kind])

    def _is_begun(self, request: str, answer: str) -> bool:
        return answer == "accepted" and request in self._deliveries

    @property
    def is_settled(self) -> bool:
        return not self._pending and not self._under_way


def due(store: Store, after: int, before_ns: int) -> Due:
    """What can be archived behind position `after` of what is older than `before_ns`. Blocks."""
    (young,) = store.read("SELECT min(position) FROM entries WHERE position > ? AND time_ns >= ?", [after, before_ns])[
        0
    ]
    (reach,) = store.read("SELECT max(position) FROM entries WHERE position > ?", [after])[0]
    last = (young - 1 if young is not None else reach) if reach is not None else after
    asked = _owed(store, after)
    working = {
        run
        for (run,) in store.read(
            "SELECT DISTINCT run FROM attempts WHERE state NOT IN ('finished', 'cancelled', 'lost')"
        )
    }
    known = store.read(
        "SELECT e.run, e.first, e.newest, coalesce(r.state, ''), e.newest_ns FROM ("
        "SELECT run, min(position) AS first, max(position) AS newest, max(time_ns) AS newest_ns FROM entries "
        "WHERE position > ? GROUP BY run) e LEFT JOIN runs r ON r.run = e.run WHERE e.run NOT IN ('', ?) ORDER BY e.first",
        [after, FLEET],
    )
    held_by = why = ""
    for run, first, _, state, newest_ns in known:
        reason = ""
        if state and state not in TERMINAL_RUN:
            reason = f"is {state}"
        elif newest_ns >= before_ns:
            reason = "is not old enough"
        elif run in working or (run in asked and not asked[run].is_settled):
            reason = "is still working on what was asked of it after its end"
        if reason and first - 1 <= last:
            last, held_by, why = first - 1, run, reason
            break
    (oldest_ns,) = store.read("SELECT min(time_ns) FROM entries WHERE position > ? AND position <= ?", [after, last])[0]
    return Due(
        last=max(last, after),
        runs={run: newest for run, _, newest, state, _ in known if newest <= last and state},
        oldest_ns=oldest_ns or 0,
        held_by=held_by,
        why=why,
    )


def _owed(store: Store, after: int) -> dict[str, _Asked]:
    """What is owed to requests, by run and by what is recorded behind position `after`."""
    asked: dict[str, _Asked] = {}
    ((reach,),) = store.read("SELECT coalesce(max(position), 0) FROM events")
    while after < reach:
        for run, kind, payload in store.read(
            "SELECT run, kind, payload FROM events WHERE position > ? AND position <= ? AND list_contains(?, kind) "
            "ORDER BY position, idx",
            [after, after + TOLD_POSITIONS, _TELLING],
        ):
            with contextlib.suppress(
                ValueError, RecursionError
            ):  # an event that does not fit its kind asks for nothing
                said = _said.decode(payload)
                asked.setdefault(run, _Asked()).saw(kind, said.request_id, said.answer)
        after += TOLD_POSITIONS
    return asked


class Archivist:
    """Archives and purges, one at a time. `archive` is the one that rebuilding reads, too."""

    def __init__(
        self,
        store: Store,
        absorber: Absorber,
        stream: StreamRoom,
        archive: Archive,
        *,
        after_days: int = 0,
        purge: bool = False,
        is_verifying: Callable[[], bool] = lambda: False,
        metrics: LedgerMetrics | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        segment_entries_max: int = SEGMENT_ENTRIES_MAX,
        remover: Callable[[], AbstractAsyncContextManager[Remover]],
    ) -> None:
        """`after_days`: what is older is archived without being asked, 0 for nothing; with `purge` it leaves the stream, too.

        `remover` is entered for what is removed, and no longer.
        """
        self._store = store
        self._absorber = absorber
        self._stream = stream
        self._archive = archive
        self._after_days = after_days
        self._purge = purge
        self._is_verifying = is_verifying
        self._metrics = metrics or LedgerMetrics(Exposition("ledger"))
        self._now_ns = now_ns
        self._segment_entries_max = segment_entries_max
        self._remover = remover

    @property
    def after_days(self) -> int:
        """How old a run is that is archived without being asked, 0 if none is."""
        return self._after_days

    async def run(self) -> None:
        """Archive what is due, again and again, until cancelled; what goes wrong is told and tried again."""
        self._metrics.archived(self._archive.end, self._archive.size_bytes)
        while self._after_days:
            if self._absorber.caught_up:
                try:
                    await self._routine()
                    self._metrics.archiving(failed=False)
                except ArchiveBusyError as error:
                    log.info("ledger.archive_busy", error=str(error))
                except (StoreError, BusError) as error:
                    self._metrics.archiving(failed=True)
                    log.error("ledger.archive_failed", error=str(error))
                await asyncio.sleep(ROUTINE_S)
            else:
                await asyncio.sleep(1.0)

    async def _routine(self) -> None:
        found = await self._due(self._after_days)
        waited = self._now_ns() - found.oldest_ns > (self._after_days + 1) * DAY_NS
        is_worth_it = found.last - self._archive.end >= ROUTINE_ENTRIES_MIN or (found.runs and waited)
        if not is_worth_it and not self._purge:
            return
        async for said in self.work(self._after_days, archive=bool(is_worth_it), purge=self._purge):
            if isinstance(said, Outcome) and (said.segments or said.purged_runs):
                log.info("ledger.archived", **msgspec.structs.asdict(said))

    async def _due(self, days: int) -> Due:
        return await in_thread(due, self._store, self._archive.end, self._now_ns() - days * DAY_NS)

    async def check(self) -> None:
        """Read the whole archive. Raises services.ledger.segment.ArchiveError when a rebuild could not be made from it."""
        await in_thread(self._archive.load, self._store.stream_created_ns)
        await check_segments(self._archive)

    async def work(
        self, days: int, *, archive: bool = True, purge: bool = False, dry_run: bool = False
    ) -> AsyncGenerator[Progress | Outcome, None]:
        """Archive what is older than so many days, then purge; progress, and at last what came of it.

        Raises services.ledger.segment.ArchiveError, services.ledger.store.StoreError, services.bus.BusError. What was
        archived or purged until then is, and nothing else.
        """
        started = time.monotonic()
        created_ns = self._store.stream_created_ns
        if dry_run:
            await in_thread(self._archive.load, created_ns)
            await self._check_ours()
            yield await self._foreseen(days, started)
            return
        lock = self._archive.writing(created_ns)
        await in_thread(lock.__enter__)
        try:
            await self._check_ours()
            total = Outcome()
            if archive:
                async for said in self._archived(days, created_ns):
                    if isinstance(said, Progress):
                        yield said
                    else:
                        total = said
            if purge:
                async for told in self._purged(days, total):
                    if isinstance(told, Progress):
                        yield told
                    else:
                        total = told
        finally:
            await in_thread(lock.__exit__, None, None, None)
        yield msgspec.structs.replace(total, archived_to=self._archive.end, wall_s=time.monotonic() - started)

    async def _check_ours(self) -> None:
        """The archive must be the beginning of what our file was folded from."""
        end = self._archive.end
        if end == 0:
            return
        rows = await in_thread(self._store.read, "SELECT hash FROM entries WHERE position = ?", [end])
        if self._store.tip.position < end or not rows or bytes(rows[0][0]) != self._archive.hash:
            raise ArchiveError(
                f"the archive {self._archive.folder} is not a beginning of the ledger's file: the hashes at position {end} differ. "
                "Verify the file: swell ledger verify"
            )

    async def _foreseen(self, days: int, started: float) -> Outcome:
        found = await self._due(days)
        return Outcome(
            archived_to=self._archive.end,
            entries=found.last - self._archive.end,
            runs=len(found.runs),
            held_by=found.held_by,
            why=found.why,
            wall_s=time.monotonic() - started,
        )

    async def _archived(self, days: int, created_ns: int) -> AsyncGenerator[Progress | Outcome, None]:
        found = await self._due(days)
        total = Outcome(held_by=found.held_by, why=found.why)
        while self._archive.end < found.last:
            yield Progress("archiving", self._archive.end, found.last)
            added = await in_thread(self._add, created_ns, found)
            self._metrics.archived(self._archive.end, self._archive.size_bytes)
            total = msgspec.structs.replace(
                total,
                segments=total.segments + 1,
                entries=total.entries + added.rows,
                runs=total.runs + len(added.runs),
                size_bytes=total.size_bytes + added.size_bytes,
            )
            await asyncio.sleep(REST_S)
        yield total

    def _add(self, created_ns: int, found: Due) -> Manifest:
        """The next segment of what is due."""
        after, last = self._archive.end, self._reach(found.last)
        ending = sorted(run for run, newest in found.runs.items() if after < newest <= last)
        return self._archive.add(created_ns, self._pages(after, last), ending, last)

    def _reach(self, end: int) -> int:
        """Up to which position the next segment goes."""
        (first,) = self._store.read("SELECT min(position) FROM entries WHERE position > ?", [self._archive.end])[0]
        after = first - 1
        sizes = self._store.read(
            "SELECT position, sum(octet_length(raw)) OVER (ORDER BY position) FROM entries "
            "WHERE position > ? AND position <= ? ORDER BY position",
            [after, min(end, after + self._segment_entries_max)],
        )
        fitting = [position for position, total in sizes if total <= SEGMENT_BYTES_MAX]
        return int(fitting[-1] if fitting else sizes[0][0])

    def _pages(self, after: int, last: int) -> Iterator[list[SegmentRow]]:
        while after < last:
            to = min(after + PAGE, last)
            rows: list[Any] = self._store.read(
                "SELECT position, subject, time_ns, hash, raw FROM entries WHERE position > ? AND position <= ? ORDER BY position",
                [after, to],
            )
            if rows:
                yield rows
            after = to

    # Purging

    async def _purged(self, days: int, total: Outcome) -> AsyncGenerator[Progress | Outcome, None]:
        """Run by run, oldest segment first; a segment is checked before the first of its runs is touched."""
        before_ns = self._now_ns() - max(days, PURGE_DAYS_MIN) * DAY_NS
        later = {run for (run,) in await in_thread(
            self._store.read, "SELECT DISTINCT run FROM entries WHERE position > ?", [self._archive.end]
        )}  # fmt: skip
        ends: dict[str, int] = {}
        for manifest in self._archive.segments:
            ends.update(dict.fromkeys(manifest.runs, manifest.last))
        checked: set[int] = set()
        runs = entries = kept = 0
        why = ""
        for manifest in list(self._archive.segments):
            if self._archive.is_purged(manifest):
                continue
            mine = [run for run in manifest.runs if ends[run] == manifest.last and run not in later]
            if manifest.newest_ns >= before_ns:
                kept, why = kept + len(mine), why or f"younger than {max(days, PURGE_DAYS_MIN)} days"
                continue
            stays = 0
            for run in mine:
                yield Progress("purging", runs, runs + len(mine))
                if self._is_verifying():
                    raise ArchiveBusyError("a verification reads the stream: purge after its end")
                reason, removed = await self._purge_run(run, manifest, checked)
                stays, why = stays + bool(reason), why or reason
                runs, entries = runs + (not reason), entries + removed
                await asyncio.sleep(REST_S if removed else 0)
            kept += stays
            if not stays:
                await in_thread(self._archive.purged, manifest)
        yield msgspec.structs.replace(
            total, purged_runs=runs, purged_entries=entries, kept_runs=kept, kept_why=why if kept else ""
        )

    async def _purge_run(self, run: str, manifest: Manifest, checked: set[int]) -> tuple[str, int]:
        """Why a run stays in the stream ('' if it does not), and how many of its entries were removed."""
        try:
            everything = all_of_run(run)
        except WireError:
            return "they have names that no run of ours has", 0
        found = await in_thread(self._standing, run, manifest)
        if isinstance(found, str):
            return found, 0
        first, finish, requests = found
        newest = await self._stream.last(everything)
        if newest is not None and newest.sequence > manifest.last:
            return "something was asked of them lately", 0
        if await self._stream.last(f"swell.command.*.{run}.>", stream=COMMANDS) is not None:
            return "their commands are not gone yet", 0
        for segment in self._archive.segments:
            if first <= segment.last <= manifest.last and segment.last not in checked:
                await in_thread(self._archive.check, segment)
                checked.add(segment.last)
        await self._check_same(run, everything)
        removed = 0
        try:
            async with self._remover() as remover:
                for position in requests:
                    removed += await remover.erase(position)
                removed += await remover.purge(run_subject(run), before=finish)
                removed += await remover.purge(f"swell.event.{run}.*.>", before=manifest.last + 1)
        except BusDeniedError as error:
            raise BusDeniedError(f"{error}; for removing, set purge_user of the ledger to swell-admin") from error
        self._metrics.purged(1)
        log.info("ledger.purged_run", run=run, entries=removed)
        return "", removed

    async def _check_same(self, run: str, everything: str) -> None:
        """What is about to leave the stream must be what was archived, with the time of each entry, which is in no hash."""
        reading = self._stream.replay(everything, after=0, batch_max=PAGE)
        async with aclosing(reading) as batches:  # type: ignore[type-var]  # an async generator, typed as an iterator
            async for batch in batches:
                rows = await in_thread(
                    self._store.read,
                    "SELECT position, subject, time_ns, raw FROM entries WHERE run = ? AND position >= ? AND position <= ?",
                    [run, batch[0].sequence, batch[-1].sequence],
                )
                known = {row[0]: (row[1], row[2], bytes(row[3])) for row in rows}
                for record in batch:
                    if known.get(record.sequence) != (record.subject, record.time_ns, record.data):
                        raise ArchiveError(
                            f"the stream has another entry at position {record.sequence} than the ledger's file: one of the two "
                            f"was changed, and nothing of run {run} was removed. See what differs: swell audit verify --log"
                        )

    def _standing(self, run: str, manifest: Manifest) -> tuple[int, int, list[int]] | str:
        """Where a run begins and ends, and the requests between; or why it cannot be purged."""
        known = self._store.read("SELECT first_position, state FROM runs WHERE run = ?", [run])
        if not known or known[0][1] not in TERMINAL_RUN:
            return "not over"
        first = int(known[0][0])
        (finish,) = self._store.read(
            "SELECT max(e.position) FROM events v JOIN entries e ON e.position = v.position WHERE v.position >= ? AND "
            "v.position <= ? AND e.position >= ? AND e.position <= ? AND v.run = ? AND v.kind = 'run_finished' AND e.subject = ?",
            [first, manifest.last, first, manifest.last, run, run_subject(run)],
        )[0]
        if finish is None:
            return "they were refused and have no end that could stay in their place"
        asked = [
            int(position)
            for (position,) in self._store.read(
                "SELECT position FROM entries WHERE position >= ? AND position < ? AND subject = ? ORDER BY position",
                [first, finish, request_subject(run)],
            )
        ]
        return first, int(finish), asked[1:]


__all__ = ["PURGE_DAYS_MIN", "Archivist", "Due", "Outcome", "Progress", "StreamRoom", "due"]
