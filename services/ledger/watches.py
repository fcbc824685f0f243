"""Who watches, and what they are told: the commits of the projection, encoded once for all who ask the same.

    Watching   everybody who watches or waits; the absorber tells it of each commit
    Feed       what all watchers with one filter are told, gathered for at most COALESCE_S, then cut into frames
    Watch      the frames that wait for one watcher, bounded in entries and in bytes

A frame is an encoded message; the watchers of one feed share its bytes. Whoever falls behind goes on from the store, at
its own pace; whoever does not read at all loses the watch, and may resume where it ended. Nobody else waits for them. What
the protocol looks like is the server's: feeds are given how a thing is encoded.

Everything here belongs to one event loop.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from typing import NoReturn, Protocol

import msgspec

from services.ledger import queries
from services.ledger.projector import Batch, RunRow
from services.ledger.queries import EntryEvents, EventRecord
from services.ledger.runs import RunFilter

COALESCE_S = 0.1
"""What is committed is told at once, or, when something was told just before, so long after that."""

FRAME_BYTES = 512 * 1024
"""A frame is cut once it is so large; an entry stays whole."""

STALL_S = 30.0
"""A client that has not taken a frame for so long has lost its watch."""

GRACE_S = 1.0
"""So long may a client whose watch has ended take what is being written to it."""


class WatchOverflowError(RuntimeError):
    """The watcher does not read; it can resume from the position it has."""

    position = 0


class WatchEndedError(RuntimeError):
    """The ledger stops; the watcher can resume from the position it has."""

    position = 0


class TooManyWatchesError(RuntimeError):
    """So many watch already that questions would not be answered any more."""


class Frame(msgspec.Struct, frozen=True):
    """An encoded message. Everything up to `position` has been told with it; it holds that many `entries`, or runs."""

    data: bytes
    position: int
    entries: int


class Commit:
    """What was committed, as far as somebody wants to know: nothing is looked at or encoded twice."""

    def __init__(self, batch: Batch) -> None:
        """Of a batch that is stored; to be used before the next one is folded."""
        self.batch = batch
        self.position = batch.tip.position
        self.before = batch.entries[0][0] - 1 if batch.entries else self.position
        self._entries: list[EntryEvents] | None = None
        self._by_run: dict[str, list[EntryEvents]] = {}
        self._left: dict[str, set[str]] | None = None
        self._encoded: dict[Hashable, bytes] = {}

    def entries(self, run: str) -> Sequence[EntryEvents]:
        """The entries of one run, or (run '') all."""
        if self._entries is None:
            self._entries = queries.events_of(self.batch)
            for entry in self._entries:
                self._by_run.setdefault(entry.run, []).append(entry)
        return self._entries if not run else self._by_run.get(run, [])

    def left(self, run: str) -> set[str]:
        """The states that a run has been in and left."""
        if self._left is None:
            self._left = {}
            for row in self.batch.transitions:
                if not row[3]:
                    self._left.setdefault(row[2], set()).add(row[4])
        return self._left.get(run, set())

    def encoded(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """What `make` makes, made once for a key."""
        found = self._encoded.get(key)
        if found is None:
            found = self._encoded[key] = make()
        return found


class Feed(Protocol):
    """What the watchers with one filter are told."""

    def take(self, commit: Commit) -> list[Frame]:
        """Gather what matches; the frames that are full already."""

    def cut(self) -> list[Frame]:
        """What was gathered, as frames."""

    def end(self, position: int) -> bytes:
        """A message that says nothing but how far the watch has come."""


class EventFeed:
    """Events of one run, or (run '') of all, of some kinds, or (none named) of any."""

    def __init__(
        self,
        run: str,
        kinds: tuple[str, ...],
        *,
        event: Callable[[EventRecord], bytes],
        end: Callable[[int], bytes],
    ) -> None:
        """A frame is its events as `event` encodes them, joined, and what `end` makes of its position."""
        self._run = run
        self._kinds = frozenset(kinds)
        self._event = event
        self.end = end
        self._parts: list[bytes] = []
        self._bytes = 0
        self._entries = 0
        self._position = 0

    def take(self, commit: Commit) -> list[Frame]:
        """Gather the events that match."""
        frames: list[Frame] = []
        for entry in commit.entries(self._run):
            self._gather(entry, commit)
            if self._bytes >= FRAME_BYTES:
                frames += self.cut()
        self._position = commit.position
        return frames

    def _gather(self, entry: EntryEvents, commit: Commit | None) -> None:
        before = len(self._parts)
        for record in entry.events:
            if self._kinds and record.kind not in self._kinds:
                continue
            if commit is None:
                part = self._event(record)
            else:
                part = commit.encoded((record.position, record.idx), lambda record=record: self._event(record))  # type: ignore[misc]
            self._parts.append(part)
            self._bytes += len(part)
        self._entries += len(self._parts) > before
        self._position = entry.position

    def cut(self) -> list[Frame]:
        """One frame, or none when nothing was gathered."""
        if not self._parts:
            return []
        frame = Frame(b"".join((*self._parts, self.end(self._position))), self._position, self._entries)
        self._parts, self._bytes, self._entries = [], 0, 0
        return [frame]

    def replayed(self, entries: Sequence[EntryEvents], position: int) -> list[Frame]:
        """Entries from the store as frames; without any that match, one that only says how far they go."""
        frames: list[Frame] = []
        for entry in entries:
            self._gather(entry, None)
            if self._bytes >= FRAME_BYTES:
                frames += self.cut()
        self._position = position
        return frames + (self.cut() or [Frame(self.end(position), position, 0)])


class RunFeed:
    """Runs whose row has changed and that match, each once in a frame, as its newest row has it.

    One that has left the state that is asked for is told once more, and that it `left`.
    """

    def __init__(
        self,
        wanted: RunFilter,
        *,
        change: Callable[[RunRow, bool], bytes],
        end: Callable[[int], bytes],
    ) -> None:
        """A frame is its runs as `change` encodes them, joined, and what `end` makes of its position."""
        self._wanted = wanted
        self._change = change
        self.end = end
        self._parts: dict[str, bytes] = {}
        self._told = 0
        self._position = 0

    def take(self, commit: Commit) -> list[Frame]:
        """Gather the runs that match."""
        if not self._parts:
            self._told = commit.before
        for row in commit.batch.runs:
            matches = self._wanted.matches(row)
            if matches or (self._wanted.state in commit.left(row.run) and self._wanted.matches(row, in_any_state=True)):
                self._parts[row.run] = commit.encoded(
                    (row.run, matches),
                    lambda row=row, matches=matches: self._change(row, not matches),  # type: ignore[misc]
                )
        self._position = commit.position
        return self.cut() if sum(map(len, self._parts.values())) >= FRAME_BYTES else []

    def cut(self) -> list[Frame]:
        """What was gathered; before the last frame of it, nothing counts as told."""
        frames = self._frames(self._parts.values(), self._told, self._position)
        self._parts = {}
        return frames

    def _frames(self, changes: Iterable[bytes], before: int, position: int) -> list[Frame]:
        frames: list[Frame] = []
        parts: list[bytes] = []
        size = 0
        for part in changes:
            if size + len(part) > FRAME_BYTES and parts:
                frames.append(Frame(b"".join((*parts, self.end(before))), before, len(parts)))
                parts, size = [], 0
            parts.append(part)
            size += len(part)
        if parts:
            frames.append(Frame(b"".join((*parts, self.end(position))), position, len(parts)))
        return frames

    def replayed(self, rows: Sequence[tuple[RunRow, bool]], before: int, position: int) -> list[Frame]:
        """Runs from the store, each with whether it left, as frames; without any, one that says how far they go."""
        changes = (self._change(row, left) for row, left in rows)
        return self._frames(changes, before, position) or [Frame(self.end(position), position, 0)]


class Watch:
    """The frames that wait for one watcher. `behind`: more would have waited than may, and nothing does any more."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        """So many entries, and bytes, may wait."""
        self.behind = False
        self.waiting_bytes = 0
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._waiting: deque[Frame] = deque()
        self._entries = 0
        self._woken = asyncio.Event()
        self._end: WatchEndedError | None = None
        self._writing: asyncio.Timeout | None = None

    def offer(self, frame: Frame) -> None:
        """Take a frame, unless it is too much: then the watch is behind, and a client that does not read is given up soon."""
        if self._end is not None or self.behind:
            return
        self._waiting.append(frame)
        self._entries += frame.entries
        self.waiting_bytes += len(frame.data)
        self._woken.set()
        if self._entries > self._entries_max or self.waiting_bytes > self._bytes_max:
            self.drain()
            self.behind = True
            self._hurry()

    def end(self, reason: WatchEndedError) -> None:
        """Make `take` raise once what waits is taken."""
        self._end = self._end or reason
        self._woken.set()
        self._hurry()

    def _hurry(self) -> None:
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time() + GRACE_S)

    def drain(self) -> list[Frame]:
        """Everything that waits."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._entries = self.waiting_bytes = 0
        return taken

    async def take(self, timeout_s: float) -> list[Frame]:
        """Everything that waits; empty when nothing came within `timeout_s`, or the watch is behind.

        Raises WatchEndedError.
        """
        if not self._waiting and self._end is None and not self.behind:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
        self._woken.clear()
        if not self._waiting and self._end is not None:
            raise self._end
        return self.drain()

    async def write(self, write: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
        """Write a message, as long as the client takes it. Raises WatchOverflowError, WatchEndedError."""
        patience_s = STALL_S if self._end is None else GRACE_S
        try:
            async with asyncio.timeout(patience_s) as self._writing:
                await write(data)
        except TimeoutError as error:
            raise self._end or WatchOverflowError("what was sent was not read, and more waited than is kept") from error
        finally:
            self._writing = None


class _Channel:
    """A feed with those who watch it."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.watches: set[Watch] = set()

    def tell(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            for watch in self.watches:
                watch.offer(frame)


class Watching:
    """Everybody who watches, and whoever waits until a position is committed. `position` is what is committed."""

    def __init__(self, *, entries_max: int = 10_000, bytes_max: int = 1024**2, watches_max: int = 1000) -> None:
        """`entries_max` and `bytes_max` bound what waits for one watcher, `watches_max` how many there are."""
        self.position = 0
        self.under_way = 0
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._watches_max = watches_max
        self._channels: dict[Hashable, _Channel] = {}
        self._waiting: set[tuple[int, asyncio.Future[None]]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = 0.0
        self._closed = False

    def committed(self, batch: Batch) -> None:
        """Tell everybody; of a batch that is stored."""
        self.position = batch.tip.position
        for waiting in [one for one in self._waiting if one[0] <= self.position]:
            if not waiting[1].done():
                waiting[1].set_result(None)
        if not self._channels:
            return
        commit = Commit(batch)
        for channel in self._channels.values():
            channel.tell(channel.feed.take(commit))
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_s:
            self._tell()
        elif self._timer is None:
            self._timer = loop.call_at(self._next_s, self._tell)

    def _tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next_s = asyncio.get_running_loop().time() + COALESCE_S
        for channel in self._channels.values():
            channel.tell(channel.feed.cut())

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Whether a position is committed, waiting for it so long at most."""
        if self.position >= position:
            return True
        waiting = (position, asyncio.get_running_loop().create_future())
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(timeout_s):
                await waiting[1]
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiting)
        return True

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """One more watches meanwhile. Raises TooManyWatchesError."""
        if self.under_way >= self._watches_max:
            raise TooManyWatchesError(f"{self.under_way} watches are under way, and no more are taken")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def watch(self) -> Watch:
        """Room for what waits for one watcher."""
        return Watch(self._entries_max, self._bytes_max)

    async def follow(
        self,
        watch: Watch,
        key: Hashable,
        feed: Feed,
        after: int,
        *,
        behind: Callable[[int], Awaitable[Sequence[Frame]]],
        write: Callable[[bytes], Awaitable[None]],
        heartbeat_s: float,
    ) -> NoReturn:
        """Write everything behind a position: what is stored, as `behind` reads it, then what is committed, for ever.

        Watchers with one `key` share the first one's `feed`. Raises WatchOverflowError and WatchEndedError, with the
        position to resume from.
        """
        told = after
        try:
            while True:
                if told < self.position:
                    for frame in await behind(told):
                        await watch.write(write, frame.data)
                        told = frame.position
                elif told > self.position:  # another ledger was ahead of this one
                    if not await self.reached(told, heartbeat_s):
                        await watch.write(write, feed.end(told))
                else:
                    with self._joined(key, feed, watch) as channel:
                        await watch.write(write, channel.feed.end(told))
                        while not watch.behind:
                            frames = await watch.take(heartbeat_s)
                            if not frames and not watch.behind:
                                channel.tell(channel.feed.cut())  # or the position that is told would be ahead of it
                                frames = watch.drain() or [Frame(channel.feed.end(self.position), self.position, 0)]
                            for frame in frames:
                                await watch.write(write, frame.data)
                                told = frame.position
        except (WatchOverflowError, WatchEndedError) as ended:
            ended.position = told
            raise

    @contextlib.contextmanager
    def _joined(self, key: Hashable, feed: Feed, watch: Watch) -> Iterator[_Channel]:
        """From now on the watch is told what is committed; what was committed before is for those who joined before."""
        channel = self._channels.setdefault(key, _Channel(feed))
        channel.tell(channel.feed.cut())
        channel.watches.add(watch)
        watch.behind = False
        if self._closed:
            watch.end(WatchEndedError("the ledger stops"))
        try:
            yield channel
        finally:
            channel.watches.discard(watch)
            if not channel.watches and self._channels.get(key) is channel:
                del self._channels[key]

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for channel in self._channels.values():
            channel.tell(channel.feed.cut())
            for watch in channel.watches:
                watch.end(WatchEndedError("the ledger stops"))
