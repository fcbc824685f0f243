"""The one honest fake: a bus in memory that keeps the promises of services.bus, and breaks what it is told to break.

It passes the same suite as JetStream (tests/bus/test_conformance.py). What may go wrong is data, given at construction
(`Faults`); nothing here draws a random number or reads a clock but the one it is given.

    MemoryServer    what is stored: streams, keys, objects, who listens; several connections may share one
    MemoryBus       one connection, with the public methods of services.bus.Bus
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import msgspec

from services.bus import (
    COMMANDS,
    EVENTS,
    LEASES,
    SNAPSHOTS,
    BusConfig,
    BusError,
    BusUnavailableError,
    Delivery,
    ObjectMissingError,
    Recorded,
    RefusedError,
    StreamIdentity,
)

CHUNK_BYTES = 128 * 1024
ACK_WAIT_S = 30.0
MESSAGE_BYTES_MAX = 512 * 1024


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong on one connection. Numbers count the calls of this connection from 1.

    lose_answers: appends that are stored and whose acknowledgement is lost; the bus's own re-reading settles them.
    unknown_appends: appends that are stored, and the caller learns only that nothing was answered.
    unanswered_appends: appends that are not stored and not answered.
    lose_commands: commands that are taken and then forgotten.
    duplicate_commands: every command is delivered twice.
    delivery_turns: how many turns of the event loop a follower's batches are late, one after the other, cyclically.
    single_deliveries: followers get one message at a time.
    everybody_leads: a lease is granted to whoever asks for it.
    """

    lose_answers: frozenset[int] = frozenset()
    unknown_appends: frozenset[int] = frozenset()
    unanswered_appends: frozenset[int] = frozenset()
    lose_commands: frozenset[int] = frozenset()
    duplicate_commands: bool = False
    delivery_turns: tuple[int, ...] = (0,)
    single_deliveries: bool = False
    everybody_leads: bool = False


class _Stream:
    """Messages by sequence. `one_per_subject` keeps only the newest of each subject; `max_age_s` 0 keeps for ever."""

    def __init__(self, now_ns: Callable[[], int], *, one_per_subject: bool = False, max_age_s: float = 0.0) -> None:
        self._now_ns = now_ns
        self._one_per_subject = one_per_subject
        self._max_age_ns = int(max_age_s * 1e9)
        self.created_ns = now_ns()
        self.messages: dict[int, Recorded] = {}
        self.by_subject: dict[str, int] = {}
        self.last = 0
        self._time_ns = 0
        self.grown: set[asyncio.Event] = set()

    def store(self, subject: str, data: bytes) -> int:
        self.last += 1
        self._time_ns = max(self._time_ns + 1, self._now_ns())
        before = self.by_subject.get(subject)
        if self._one_per_subject and before is not None:
            self.messages.pop(before, None)
        self.messages[self.last] = Recorded(self.last, subject, self._time_ns, data)
        self.by_subject[subject] = self.last
        self.wake()
        return self.last

    def wake(self) -> None:
        """Have everybody who waits look again."""
        for event in self.grown:
            event.set()

    def remove(self, sequence: int) -> None:
        gone = self.messages.pop(sequence, None)
        if gone is not None and self.by_subject.get(gone.subject) == sequence:
            del self.by_subject[gone.subject]
            left = max((s for s, message in self.messages.items() if message.subject == gone.subject), default=0)
            if left:
                self.by_subject[gone.subject] = left

    def newest(self, subject: str) -> Recorded | None:
        self.expire()
        if not _is_wildcard(subject):
            sequence = self.by_subject.get(subject)
            return None if sequence is None else self.messages[sequence]
        found = [sequence for name, sequence in self.by_subject.items() if matches(subject, name)]
        return self.messages[max(found)] if found else None

    def after(self, position: int, subject: str, limit: int) -> list[Recorded]:
        self.expire()
        if position >= self.last:
            return []
        found: list[Recorded] = []
        for sequence in range(position + 1, self.last + 1):
            message = self.messages.get(sequence)
            if message is not None and matches(subject, message.subject):
                found.append(message)
                if len(found) >= limit:
                    break
        return found

    def expire(self) -> None:
        if self._max_age_ns:
            oldest_ns = self._now_ns() - self._max_age_ns
            for sequence in [s for s, message in self.messages.items() if message.time_ns < oldest_ns]:
                self.remove(sequence)

    @property
    def first(self) -> int:
        return min(self.messages, default=self.last + 1 if self.last else 0)


class MemoryServer:
    """What all connections share. `now_ns` is the server's clock."""

    def __init__(self, config: BusConfig | None = None, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.config = config or BusConfig()
        self.now_ns = now_ns
        self.events = _Stream(now_ns)
        self.snapshots = _Stream(now_ns, one_per_subject=True)
        self.objects: dict[str, bytes] = {}
        self.listeners: list[tuple[str, asyncio.Queue[tuple[str, bytes]]]] = []
        self.connections: list[MemoryBus] = []
        self.in_flight: dict[int, float] = {}
        self.consumers: dict[str, _Durable] = {}
        self._forget()

    def _forget(self) -> None:
        """Streams that live in the server's memory begin anew; the log, the snapshots and the objects are on its disk."""
        self.commands = _Stream(self.now_ns)
        self.buckets: dict[str, _Stream] = {}
        self.in_flight.clear()

    def restart(self) -> None:
        """Kill the server and start it again: commands, beats and leases are gone, and every connection comes back."""
        grown = [event for stream in (self.commands, *self.buckets.values()) for event in stream.grown]
        self._forget()
        for event in grown:
            event.set()
        for connection in self.connections:
            connection.came_back()

    def stream(self, name: str) -> _Stream:
        if name == EVENTS:
            return self.events
        if name == COMMANDS:
            return self.commands
        if name == f"KV_{SNAPSHOTS}":
            return self.snapshots
        if not name.startswith("KV_"):
            raise BusError(f"stream {name} does not exist")
        ttl_s = self.config.lease_ttl_s if name == f"KV_{LEASES}" else self.config.beat_ttl_s
        return self.buckets.setdefault(name, _Stream(self.now_ns, one_per_subject=True, max_age_s=ttl_s))

    def publish(self, stream: str, subject: str, data: bytes, *, expect: int | None, over: str = "") -> int | None:
        """The sequence, or None when something else than `expect` stands there."""
        if len(data) > MESSAGE_BYTES_MAX:
            raise BusError(f"append to {subject} failed: message size exceeds maximum allowed")
        kept = self.stream(stream)
        if expect is not None:
            last = kept.newest(over or subject)
            if (last.sequence if last is not None else 0) != expect:
                return None
        return kept.store(subject, data)


class MemoryBus:
    """One connection to a MemoryServer; the public methods and promises are those of services.bus.Bus."""

    def __init__(self, server: MemoryServer | None = None, faults: Faults | None = None) -> None:
        self.server = server or MemoryServer()
        self.server.connections.append(self)
        self.config = self.server.config
        self.faults = faults or Faults()
        self.objects = MemoryObjects(self)
        self._connected = True
        self._closed = False
        self._revision = 0
        self._appends = 0
        self._commands = 0
        self._back = asyncio.Event()
        self._back.set()

    @property
    def connected(self) -> bool:
        return self._connected and not self._closed

    @property
    def revision(self) -> int:
        return self._revision

    async def close(self) -> None:
        self._closed = True
        if self in self.server.connections:
            self.server.connections.remove(self)

    def cut(self) -> None:
        """Lose the connection until `came_back`."""
        self._connected = False
        self._back.clear()

    def came_back(self) -> None:
        """The connection stands again."""
        self._connected = True
        self._revision += 1
        self._back.set()

    async def ensure_streams(self) -> None:
        await self._turn()

    async def identity(self, stream: str = EVENTS) -> StreamIdentity:
        await self._turn()
        kept = self.server.stream(stream)
        return StreamIdentity(kept.created_ns, kept.first, kept.last)

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if not self.connected:
            raise BusUnavailableError("the bus cannot be reached")

    # The log

    async def append(self, subject: str, data: bytes, *, expect: int, over: str = "") -> int:
        self._appends += 1
        number = self._appends
        now = asyncio.get_running_loop().time
        deadline = now() + self.config.append_timeout_s
        deaf = number in self.faults.lose_answers
        pause = 0.001
        while True:
            try:
                sequence = await self._publish(number, subject, data, expect, over)
                if sequence is not None and not deaf:
                    return sequence
                deaf = False
                mine = await self.last(subject)
                if mine is not None and mine.data == data:
                    return mine.sequence
                last = mine if not over else await self.last(over)
                if (last.sequence if last is not None else 0) != expect:
                    raise RefusedError(over or subject, expect, last)
            except BusUnavailableError:
                if self.connected or now() >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _publish(self, number: int, subject: str, data: bytes, expect: int, over: str) -> int | None:
        """The sequence, or None when the expectation is wrong. Raises BusUnavailableError when nothing can be learnt."""
        await self._turn()
        unanswered = BusUnavailableError(f"append to {subject} was not answered")
        if number in self.faults.unanswered_appends:
            raise unanswered
        sequence = self.server.publish(EVENTS, subject, data, expect=expect, over=over)
        if number in self.faults.unknown_appends:
            raise unanswered
        return sequence

    async def add(self, subject: str, data: bytes) -> int:
        self._appends += 1
        await self._turn()
        if self._appends in self.faults.unanswered_appends:
            raise BusUnavailableError(f"append to {subject} was not answered")
        sequence = self.server.publish(EVENTS, subject, data, expect=None)
        assert sequence is not None
        return sequence

    async def last(self, subject: str, stream: str = EVENTS) -> Recorded | None:
        await self._turn()
        return self.server.stream(stream).newest(subject)

    async def read(self, sequence: int, stream: str = EVENTS) -> Recorded | None:
        await self._turn()
        kept = self.server.stream(stream)
        kept.expire()
        return kept.messages.get(sequence)

    async def next(self, subject: str, *, after: int = 0, stream: str = EVENTS) -> Recorded | None:
        await self._turn()
        return next(iter(self.server.stream(stream).after(after, subject, 1)), None)

    async def purge(self, subject: str, *, before: int) -> int:
        await self._turn()
        kept = self.server.events
        gone = [s for s, message in kept.messages.items() if s < before and matches(subject, message.subject)]
        for sequence in gone:
            kept.remove(sequence)
        return len(gone)

    async def erase(self, sequence: int) -> bool:
        await self._turn()
        there = sequence in self.server.events.messages
        self.server.events.remove(sequence)
        return there

    async def follow(
        self, after: int, *, linger_s: float = 0.0, batch_max: int = 2000, stream: str = EVENTS, subject: str = ">"
    ) -> AsyncIterator[list[Recorded]]:
        async for batch in self._follow(lambda: self.server.stream(stream), subject, after, batch_max, linger_s):
            yield batch

    async def _follow(
        self, of: Callable[[], _Stream], subject: str, after: int, batch_max: int, linger_s: float = 0.0
    ) -> AsyncIterator[list[Recorded]]:
        limit = 1 if self.faults.single_deliveries else batch_max
        stream = of()
        grown = asyncio.Event()
        stream.grown.add(grown)
        deliveries = 0
        try:
            while True:
                await self._back.wait()
                if of() is not stream:  # the server forgot it, and counts from 1 again
                    stream.grown.discard(grown)
                    stream, after = of(), 0
                    stream.grown.add(grown)
                grown.clear()
                batch = stream.after(after, subject, limit)
                if not batch:
                    await grown.wait()
                    continue
                if linger_s:
                    await asyncio.sleep(linger_s)
                    batch = stream.after(after, subject, limit)
                turns = self.faults.delivery_turns
                for _ in range(turns[deliveries % len(turns)]):
                    await asyncio.sleep(0)
                deliveries += 1
                after = batch[-1].sequence
                yield batch
        finally:
            stream.grown.discard(grown)

    async def replay(self, subject: str, *, after: int = 0, batch_max: int = 2000) -> AsyncIterator[list[Recorded]]:
        end = await self.last(subject)
        position = after
        limit = 1 if self.faults.single_deliveries else batch_max
        while end is not None and position < end.sequence:
            await asyncio.sleep(0)
            await self._back.wait()
            batch = [m for m in self.server.events.after(position, subject, limit) if m.sequence <= end.sequence]
            if not batch:
                raise BusError(f"{subject} was purged while it was read: read it from its archive")
            position = batch[-1].sequence
            yield batch

    # Commands

    async def command(self, subject: str, data: bytes) -> bool:
        self._commands += 1
        number = self._commands
        await self._turn()
        sequence = self.server.publish(COMMANDS, subject, data, expect=0)
        if sequence is not None and number in self.faults.lose_commands:
            self.server.commands.remove(sequence)
        return sequence is not None

    def commands(self, pool: str) -> "MemoryPuller":
        return MemoryPuller(self, pool)

    def consume(
        self, name: str, subjects: Iterable[str], *, ack_wait_s: float, outstanding_max: int = 10_000
    ) -> "MemoryConsumer":
        return MemoryConsumer(self, name, list(subjects), ack_wait_s, outstanding_max)

    # Keys: beats and leases expire, fold snapshots stay

    async def get_key(self, bucket: str, key: str) -> Recorded | None:
        return await self.last(f"$KV.{bucket}.{key}", stream=f"KV_{bucket}")

    async def put_key(self, bucket: str, key: str, value: bytes) -> None:
        await self._turn()
        self.server.publish(f"KV_{bucket}", f"$KV.{bucket}.{key}", value, expect=None)

    async def take_key(self, bucket: str, key: str, value: bytes, *, expect: int) -> int | None:
        await self._turn()
        free = self.faults.everybody_leads and bucket == LEASES
        return self.server.publish(f"KV_{bucket}", f"$KV.{bucket}.{key}", value, expect=None if free else expect)

    async def follow_keys(self, bucket: str) -> AsyncIterator[list[Recorded]]:
        async for batch in self._follow(
            lambda: self.server.stream(f"KV_{bucket}"), f"$KV.{bucket}.>", after=0, batch_max=2000
        ):
            yield batch

    # What is said and not kept

    async def say(self, subject: str, data: bytes) -> None:
        if not self.connected:
            return
        await asyncio.sleep(0)
        for wanted, queue in list(self.server.listeners):
            if matches(wanted, subject):
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait((subject, data))

    @contextlib.asynccontextmanager
    async def hear(self, subject: str, *, backlog: int = 1000) -> AsyncIterator["asyncio.Queue[tuple[str, bytes]]"]:
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(backlog)
        listener = (subject, queue)
        self.server.listeners.append(listener)
        try:
            yield queue
        finally:
            self.server.listeners.remove(listener)


class MemoryPuller:
    """Commands of one pool, each to one puller until its acknowledgement is overdue."""

    def __init__(self, bus: MemoryBus, pool: str) -> None:
        self._bus = bus
        self._subject = f"swell.command.{pool}.>"
        self._again: list[Delivery] = []
        self._closed = False

    async def open(self) -> None:
        await self._bus._turn()

    async def next(self, *, wanted: int, timeout_s: float) -> list[Delivery]:
        """Up to `wanted` commands; at least one unless `timeout_s` passes first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    stream = self._bus.server.commands
                    grown = asyncio.Event()
                    stream.grown.add(grown)
                    try:
                        got = self._take(wanted)
                        if got:
                            await asyncio.sleep(0)
                            return got
                        await grown.wait()
                    finally:
                        stream.grown.discard(grown)
        return []

    def _take(self, wanted: int) -> list[Delivery]:
        if self._closed or not self._bus.connected:
            return []
        got, self._again = self._again[:wanted], self._again[wanted:]
        server = self._bus.server
        now = asyncio.get_running_loop().time()
        for message in server.commands.after(0, self._subject, len(server.commands.messages)):
            if len(got) >= wanted:
                break
            if server.in_flight.get(message.sequence, 0.0) > now:
                continue
            server.in_flight[message.sequence] = now + ACK_WAIT_S
            delivery = Delivery(
                message.sequence,
                message.subject,
                message.time_ns,
                message.data,
                1,
                self._acknowledge(server.commands, message.sequence),
                self._put_off(message.sequence),
                self._extend(message.sequence),
            )
            got.append(delivery)
            if self._bus.faults.duplicate_commands:
                self._again.append(delivery)
        return got

    def _acknowledge(self, stream: _Stream, sequence: int) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            await asyncio.sleep(0)
            stream.remove(sequence)

        return ack

    def _put_off(self, sequence: int) -> Callable[[float], Awaitable[None]]:
        async def nak(delay_s: float) -> None:
            await asyncio.sleep(0)
            server, loop = self._bus.server, asyncio.get_running_loop()
            if sequence in server.in_flight:
                server.in_flight[sequence] = loop.time() + delay_s
                loop.call_later(delay_s, server.commands.wake)

        return nak

    def _extend(self, sequence: int) -> Callable[[], Awaitable[None]]:
        put_off = self._put_off(sequence)

        async def more_time() -> None:
            await put_off(ACK_WAIT_S)

        return more_time

    async def close(self) -> None:
        self._closed = True


class _Durable:
    """What a server keeps of one consumer: where it is, and until when each message is somebody's, for which time."""

    def __init__(self, subjects: list[str], position: int) -> None:
        self.subjects = subjects
        self.position = position
        self.pending: dict[int, tuple[float, int]] = {}


class MemoryConsumer:
    """A durable consumer of the log, shared by all that use its name; each message is somebody's until acknowledged."""

    def __init__(self, bus: MemoryBus, name: str, subjects: list[str], ack_wait_s: float, outstanding_max: int) -> None:
        self._bus = bus
        self._name = name
        self._subjects = subjects
        self._ack_wait_s = ack_wait_s
        self._outstanding_max = outstanding_max
        self._closed = False

    async def open(self) -> None:
        await self._bus._turn()
        server = self._bus.server
        kept = server.consumers.setdefault(self._name, _Durable(self._subjects, server.events.last))
        kept.subjects = self._subjects

    async def next(self, *, wanted: int, timeout_s: float) -> list[Delivery]:
        """Up to `wanted` messages; at least one unless `timeout_s` passes first."""
        await self._bus._turn()
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        stream = self._bus.server.events
        grown = asyncio.Event()
        stream.grown.add(grown)
        try:
            while True:
                grown.clear()
                got = self._take(wanted)
                left_s = deadline - now()
                if got or left_s <= 0:
                    return got
                due = [until for until, _ in self._bus.server.consumers[self._name].pending.values()]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(min([left_s, *(until - now() for until in due)]), 0.001)):
                        await grown.wait()
        finally:
            stream.grown.discard(grown)

    def _take(self, wanted: int) -> list[Delivery]:
        if self._closed or not self._bus.connected:
            return []
        kept, events = self._bus.server.consumers[self._name], self._bus.server.events
        now = asyncio.get_running_loop().time()
        got = [sequence for sequence, (until, _) in sorted(kept.pending.items()) if until <= now][:wanted]
        for message in events.after(kept.position, ">", len(events.messages)):
            if len(got) >= wanted or len(kept.pending) >= self._outstanding_max:
                break
            kept.position = message.sequence
            if any(matches(subject, message.subject) for subject in kept.subjects):
                kept.pending[message.sequence] = (now, 0)
                got.append(message.sequence)
        return [self._deliver(kept, events.messages[sequence], now) for sequence in got]

    def _deliver(self, kept: _Durable, message: Recorded, now: float) -> Delivery:
        count = kept.pending[message.sequence][1] + 1
        kept.pending[message.sequence] = (now + self._ack_wait_s, count)

        async def ack() -> None:
            await asyncio.sleep(0)
            kept.pending.pop(message.sequence, None)

        async def nak(delay_s: float) -> None:
            await asyncio.sleep(0)
            if message.sequence in kept.pending:
                kept.pending[message.sequence] = (asyncio.get_running_loop().time() + delay_s, count)
                self._bus.server.events.wake()

        async def more_time() -> None:
            await nak(self._ack_wait_s)

        return Delivery(message.sequence, message.subject, message.time_ns, message.data, count, ack, nak, more_time)

    async def close(self) -> None:
        self._closed = True


class MemoryObjects:
    """Stored objects by unique name."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus

    async def write(self, name: str, data: bytes) -> None:
        await self._bus._turn()
        self._bus.server.objects.setdefault(name, data)

    async def delete(self, name: str) -> bool:
        await self._bus._turn()
        return self._bus.server.objects.pop(name, None) is not None

    async def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        await self._bus._turn()
        data = self._bus.server.objects.get(name)
        if data is None:
            raise ObjectMissingError(f"object {name} is not stored (any more)")
        if len(data) > limit_bytes:
            raise BusError(f"object {name} is {len(data)} bytes, over the limit of {limit_bytes}")
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


def _is_wildcard(subject: str) -> bool:
    return subject.endswith(">") or "*" in subject


def matches(wanted: str, subject: str) -> bool:
    """Whether a subject is one of those that a subject or wildcard names."""
    if wanted in (">", subject):
        return True
    want, have = wanted.split("."), subject.split(".")
    for at, token in enumerate(want):
        if token == ">":
            return len(have) > at
        if at >= len(have) or token not in ("*", have[at]):
            return False
    return len(want) == len(have)


async def newest_of_key(bus: Any, bucket: str, key: str) -> Recorded | None:
    """A key's present value and revision, on either bus."""
    found: Recorded | None = await bus.get_key(bucket, key)
    return found
