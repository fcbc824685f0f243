"""The ledger's loop: follow the log, fold, commit, tell the watchers.

Folding and committing happen in one writing thread; what watchers see was committed before. A batch under way is
committed even when the loop is told to stop, so stopping never tears one.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Protocol

import structlog

from services.bus import BusError, Recorded, StreamIdentity
from services.ledger import queries
from services.ledger.projector import Batch, Projector
from services.ledger.queries import EntryEvents
from services.ledger.store import Store

log = structlog.get_logger()


class EventLog(Protocol):
    """What absorbing needs of the bus; services.bus.Bus is one."""

    @property
    def connected(self) -> bool:
        """Whether the bus can be reached now."""

    async def identity(self) -> StreamIdentity:
        """Which stream it is, and what it holds."""

    async def read(self, sequence: int) -> Recorded | None:
        """The message at a position, None when it is purged."""

    def follow(self, after: int, *, linger_s: float, batch_max: int) -> AsyncIterator[list[Recorded]]:
        """The messages after a position, in order and without gap, for ever."""


class WatchOverflowError(RuntimeError):
    """The watcher read too slowly; it can resume from the position it has."""


class WatchEndedError(RuntimeError):
    """The ledger stops; the watcher can resume from the position it has."""


class Watch:
    """What is committed while somebody watches, until it is taken: at most `backlog` entries."""

    def __init__(self, run: str, backlog: int) -> None:
        """Watch one run, or (run '') all."""
        self.run = run
        self._backlog = backlog
        self._waiting: deque[EntryEvents] = deque()
        self._woken = asyncio.Event()
        self._end: Exception | None = None

    def offer(self, entries: Sequence[EntryEvents]) -> None:
        """Take what matches; overflow ends the watch."""
        if self._end is not None:
            return
        self._waiting.extend(entry for entry in entries if self.run in ("", entry.run))
        if len(self._waiting) > self._backlog:
            self._waiting.clear()
            self.end(WatchOverflowError(f"more than {self._backlog} entries waited to be read"))
        elif self._waiting:
            self._woken.set()

    def end(self, reason: Exception) -> None:
        """Make `take` raise once what waits is taken."""
        self._end = reason
        self._woken.set()

    async def take(self, timeout_s: float) -> list[EntryEvents]:
        """Everything that waits; empty when nothing came within `timeout_s`.

        Raises WatchOverflowError, WatchEndedError.
        """
        if not self._waiting and self._end is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
        self._woken.clear()
        if not self._waiting and self._end is not None:
            raise self._end
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


REST = 4
REST_MAX_S = 0.1
"""After a small commit, rest that many times as long as it took, at most so long: it bounds the ledger's share of a core."""

SMALL_BATCH = 10
"""A batch is small below that part of `batch_max`; a ledger that is behind never rests."""


class Absorber:
    """Absorbs the log into the store.

    Gauges: `position` (absorbed and committed), `stream_last` (the log's end when it was last looked at),
    `lag` (entries between them), `entries`, `events` and `commits` (counted since the start).
    """

    def __init__(
        self,
        store: Store,
        event_log: EventLog,
        *,
        linger_s: float = 0.03,
        batch_max: int = 2000,
        watch_backlog: int = 10_000,
    ) -> None:
        """`linger_s` is how long a batch is let fill, `batch_max` and `watch_backlog` count entries."""
        self._store = store
        self._log = event_log
        self._linger_s = linger_s
        self._batch_max = batch_max
        self._watch_backlog = watch_backlog
        self._projector = Projector(store.tip, store)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")
        self._watches: set[Watch] = set()
        self.position = store.tip.position
        self.stream_last = 0
        self.entries = 0
        self.events = 0
        self.commits = 0

    @property
    def lag(self) -> int:
        """How many positions of the log are not absorbed yet, as far as is known."""
        return max(0, self.stream_last - self.position)

    @property
    def connected(self) -> bool:
        """Whether the log can be reached now."""
        return self._log.connected

    async def verify(self) -> None:
        """Check once, before `run`, that the file and the log belong together.

        Raises services.ledger.store.LedgerMismatchError, services.bus.BusError.
        """
        identity = await self._log.identity()
        self.stream_last = identity.last
        at_tip = await self._log.read(self.position) if 0 < self.position <= identity.last else None
        self._store.verify(identity, at_tip)
        if self._store.stream_created_ns == 0:
            self._store.bind(identity.created_ns)
        if self.position + 1 < identity.first:
            log.warning("ledger.purged", position=self.position, first=identity.first)

    async def look(self) -> None:
        """Bring `stream_last` up to date; leave it when the log cannot be reached."""
        with contextlib.suppress(BusError):
            self.stream_last = (await self._log.identity()).last

    async def run(self) -> None:
        """Absorb until cancelled. Raises services.ledger.store.StoreError; the process should end then."""
        following = self._log.follow(self.position, linger_s=self._linger_s, batch_max=self._batch_max)
        async with aclosing(following) as batches:  # type: ignore[type-var]  # an async generator, typed as an iterator
            async for records in batches:
                started = time.monotonic()
                await self._absorb(records)
                if len(records) < self._batch_max // SMALL_BATCH:
                    # A commit costs much the same for one entry and for a hundred: under a steady trickle, let more come.
                    await asyncio.sleep(min((time.monotonic() - started) * REST, REST_MAX_S))

    async def _absorb(self, records: list[Recorded]) -> None:
        work = asyncio.get_running_loop().run_in_executor(self._writer, self._store_batch, records)
        try:
            batch = await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        self.position = batch.tip.position
        self.stream_last = max(self.stream_last, self.position)
        self.entries += len(batch.entries)
        self.events += len(batch.events)
        self.commits += 1
        if self._watches:
            committed = queries.events_of(batch)
            for watch in self._watches:
                watch.offer(committed)

    def _store_batch(self, records: list[Recorded]) -> Batch:
        batch = self._projector.fold(records)
        self._store.commit(batch)
        return batch

    @contextlib.contextmanager
    def watch(self, run: str) -> Iterator[Watch]:
        """Everything committed from now on, of one run or (run '') of all."""
        watch = Watch(run, self._watch_backlog)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def close(self) -> None:
        """End every watch and the writing thread; `run` must have ended."""
        for watch in self._watches:
            watch.end(WatchEndedError("the ledger stops"))
        self._writer.shutdown()
