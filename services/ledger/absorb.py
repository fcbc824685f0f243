"""The ledger's loop: follow the log, fold, commit, tell the watchers.

Folding and committing happen in one writing thread; what watchers see was committed before. A batch under way is
committed even when the loop is told to stop, so stopping never tears one.

A ledger whose file is new, or far behind, at its start catches up first: until it reaches what the log held then, its
tables are not whole and should not be asked.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Protocol

import msgspec
import structlog

from services.bus import BusError, Recorded, StreamIdentity
from services.ledger.history import History
from services.ledger.metrics import LedgerMetrics
from services.ledger.projector import Batch, Projector
from services.ledger.store import Store
from services.ledger.watches import Watching
from services.metrics import Exposition

log = structlog.get_logger()

ALL_EVENTS = "swell.event.>"

RATE_WINDOW_S = 10.0
"""Rates are of the last seconds, that many at most."""


class EventLog(Protocol):
    """What absorbing needs of the bus; services.bus.Bus is one."""

    @property
    def connected(self) -> bool:
        """Whether the bus can be reached now."""

    async def identity(self) -> StreamIdentity:
        """Which stream it is, and what it holds."""

    async def read(self, sequence: int) -> Recorded | None:
        """The message at a position, None when it is purged."""

    async def last(self, subject: str) -> Recorded | None:
        """The newest message of a subject or wildcard."""

    def replay(self, subject: str, *, after: int, batch_max: int) -> AsyncIterator[list[Recorded]]:
        """What stands on a subject or wildcard after a position, in order, up to the present end."""

    def follow(self, after: int, *, linger_s: float, batch_max: int) -> AsyncIterator[list[Recorded]]:
        """The messages after a position, in order and without gap, for ever."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far the ledger is. `seconds_left` is 0 when it is level with the log, -1 when nobody knows."""

    position: int
    stream_last: int
    caught_up: bool
    rebuilding: bool
    events_per_s: float
    seconds_left: float


REST = 4
REST_MAX_S = 0.1
"""After a small commit, rest that many times as long as it took, at most so long: it bounds the ledger's share of a core."""

SMALL_BATCH = 25
"""A batch is small below that part of `batch_max`; a ledger that is behind never rests."""


class Absorber:
    """Absorbs the log into the store.

    Gauges: `position` (absorbed and committed), `stream_last` (the log's end when it was last looked at),
    `lag` (entries between them), `entries`, `events` and `commits` (counted since the start).

    `condemned` is set when the file is not to be used any more: the process should end, its next start rebuilds the file.
    """

    def __init__(
        self,
        store: Store,
        event_log: EventLog,
        *,
        linger_s: float = 0.03,
        batch_max: int = 5000,
        watching: Watching | None = None,
        lag_max: int = 1000,
        metrics: LedgerMetrics | None = None,
        history: History | None = None,
        on_commit: Callable[[Batch], None] | None = None,
    ) -> None:
        """`linger_s` is how long a batch is let fill; `batch_max` and `lag_max` count entries.

        `watching` is told of each commit. Up to `lag_max` entries behind the log the ledger is caught up. `metrics` are told
        of commits; by default nobody reads them. `history` knows the archive; by default there is none, and the stream must be whole. `on_commit` is
        shown each batch that is stored, but for those behind a rebuild or a restore, which hold nothing new.
        """
        self._history = history or History()
        self._on_commit = on_commit
        self._metrics = metrics or LedgerMetrics(Exposition("ledger"))
        self._store = store
        self._log = event_log
        self._linger_s = linger_s
        self._batch_max = batch_max
        self._projector = Projector(store.tip, store)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")
        self.watching = watching or Watching()
        self.watching.position = store.tip.position
        self._lag_max = lag_max
        self._catch_up_to = 0
        self._marks: deque[tuple[float, int, int]] = deque()
        self.condemned = asyncio.Event()
        self.position = store.tip.position
        self.stream_last = 0
        self.entries = 0
        self.events = 0
        self.commits = 0

    @property
    def log(self) -> EventLog:
        """What is absorbed."""
        return self._log

    @property
    def lag(self) -> int:
        """How many positions of the log are not absorbed yet, as far as is known."""
        return max(0, self.stream_last - self.position)

    @property
    def connected(self) -> bool:
        """Whether the log can be reached now."""
        return self._log.connected

    @property
    def catching_up(self) -> bool:
        """Whether the tables do not hold yet what the log held at the start."""
        return self.position < self._catch_up_to

    @property
    def caught_up(self) -> bool:
        """Whether answers are as fresh as promised: the log can be reached, and the lag is within its limit."""
        return self.connected and not self.catching_up and self.lag <= self._lag_max

    @property
    def rebuilding(self) -> bool:
        """Whether a new file is made from the log."""
        return self._store.made_anew and self.catching_up

    @property
    def repeating(self) -> bool:
        """Whether what is absorbed stood before in a file that is no longer used."""
        return (self._store.made_anew or self._store.restored) and self.catching_up

    @property
    def archived(self) -> int:
        """The newest position that the archive holds, 0 without one."""
        return self._history.archived

    @property
    def progress(self) -> float:
        """How much of what the log held at the start is absorbed, from 0 to 1."""
        return min(self.position / self._catch_up_to, 1.0) if self._catch_up_to else 1.0

    @property
    def watches(self) -> int:
        """Watches under way."""
        return self.watching.under_way

    def status(self) -> Status:
        """How far it is."""
        entries_per_s, events_per_s = self._rates(time.monotonic())
        unknown = self.lag > 0 and entries_per_s == 0
        return Status(
            position=self.position,
            stream_last=self.stream_last,
            caught_up=self.caught_up,
            rebuilding=self.rebuilding,
            events_per_s=events_per_s,
            seconds_left=-1.0 if unknown else self.lag / (entries_per_s or 1.0),
        )

    def _rates(self, now: float) -> tuple[float, float]:
        """Entries and events absorbed in a second, lately."""
        while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_WINDOW_S:
            self._marks.popleft()
        if not self._marks:
            return 0.0, 0.0
        since, entries, events = self._marks[0]
        passed_s = max(now - since, 0.001)
        return (self.entries - entries) / passed_s, (self.events - events) / passed_s

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Whether a position is absorbed and committed, waiting for it so long at most."""
        return await self.watching.reached(position, timeout_s)

    def condemn(self, reason: str) -> None:
        """Condemn the file, and let whoever waits for `condemned` end the process."""
        self._store.condemn(reason)
        self.condemned.set()

    async def verify(self) -> None:
        """Check once, before `run`, that the file and the log belong together, and how far it has to catch up.

        Raises services.ledger.store.LedgerMismatchError, services.ledger.segment.ArchiveError,
        services.ledger.history.LogGapError, services.bus.BusError.
        """
        identity = await self._log.identity()
        self.stream_last = identity.last
        at_tip = await self._log.read(self.position) if 0 < self.position <= identity.last else None
        self._store.verify(identity, at_tip)
        if self._store.stream_created_ns == 0:
            self._store.bind(identity.created_ns)
        await self._history.load(identity.created_ns)
        newest = await self._log.last(ALL_EVENTS)  # the stream's own end may be purged
        end = max(0 if newest is None else newest.sequence, self._history.archived)
        self._history.check_end(max(end, self.position), identity.last)
        behind = self.position < self._history.archived or self.lag > self._lag_max
        if behind or self._store.made_anew or self._store.restored:
            self._catch_up_to = end

    async def look(self) -> None:
        """Look after the file, and bring `stream_last` up to date; leave it when the log cannot be reached."""
        await asyncio.to_thread(self._store.look)
        if self._store.condemned:
            self.condemned.set()
        with contextlib.suppress(BusError):
            self.stream_last = (await self._log.identity()).last

    async def run(self) -> None:
        """Absorb until cancelled. Raises services.ledger.store.StoreError; the process should end then."""
        self._marks.append((time.monotonic(), self.entries, self.events))
        following = self._history.batches(
            self._store.stream_created_ns,
            lambda: self._store.tip,
            lambda after: self._log.follow(after, linger_s=self._linger_s, batch_max=self._batch_max),
        )
        async with aclosing(following) as batches:  # type: ignore[type-var]  # an async generator, typed as an iterator
            async for records in batches:
                started = time.monotonic()
                await self._absorb(records)
                if len(records) < self._batch_max // SMALL_BATCH:
                    # A commit costs much the same for one entry and for a hundred: under a steady trickle, let more come.
                    rest_s = min((time.monotonic() - started) * REST, REST_MAX_S)
                    await asyncio.sleep(max(0.0, rest_s - self._linger_s))  # the next batch lingers before it is taken

    async def _absorb(self, records: list[Recorded]) -> None:
        work = asyncio.get_running_loop().run_in_executor(self._writer, self._store_batch, records)
        try:
            batch = await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        if self._on_commit is not None and not self.repeating:
            self._on_commit(batch)
        self.position = batch.tip.position
        self.stream_last = max(self.stream_last, self.position)
        self.entries += len(batch.entries)
        self.events += len(batch.events)
        self.commits += 1
        self._marks.append((time.monotonic(), self.entries, self.events))
        self._rates(self._marks[-1][0])
        self.watching.committed(batch)

    def _store_batch(self, records: list[Recorded]) -> Batch:
        started = time.monotonic()
        batch = self._projector.fold(records)
        folded = time.monotonic()
        self._store.commit(batch)
        delay_s = None if self.catching_up else time.time() - records[0].time_ns / 1e9
        self._metrics.committed(folded - started, time.monotonic() - folded, delay_s)
        return batch

    def close(self) -> None:
        """End every watch and the writing thread; `run` must have ended."""
        self.watching.close()
        self._writer.shutdown()
