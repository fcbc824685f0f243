"""The beat of an executor, from a thread of its own with a connection of its own.

However long the main event loop is held up, or waits for a disk, the beat goes on: so the scheduler can tell an executor
that is busy from one that is gone. But a beat names only those attempts whose supervising loop has moved since the last
one, which a main loop that stands still moves none of.

    spawning → idle ⇄ busy → draining → terminated

Invariants: a state follows another only where services.beats allows it; `terminated` is said once, as the last word of a
clean end, after everything else is closed; the thread touches nothing of the main loop's but what stands under its lock.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from services.beats import Beat, beat_key, moved
from services.bus import EXECUTORS, BusError
from services.events import ExecutorState
from services.metrics import version

log = structlog.get_logger()

BEAT_S: Final = 1.0
PUT_S: Final = 2.0
"""How long one beat may take to be written; the next one says as much."""

CLOSE_S: Final = 2.0
JOIN_S: Final = 6.0

Key = tuple[str, str, int]


class PulseGoneError(Exception):
    """The thread has ended although nobody asked it to."""


class BeatBus(Protocol):
    """What a beat needs of a connection; services.bus.Bus is one."""

    async def put_key(self, bucket: str, key: str, value: bytes) -> None:
        """Write a key whatever stands there."""

    async def close(self) -> None:
        """Close the connection."""


class Pulse:
    """Says every second who this is, what it does, and which attempts move. `start` it first, `close` it last.

    `sent` and `failed` count its beats.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[BeatBus]], *, executor: str, boot: str, pool: str, slots: int
    ) -> None:
        """`connect` makes a connection; it is called in the thread, and again until it succeeds."""
        self.executor = executor
        self.boot = boot
        self.pool = pool
        self.slots = slots
        self._connect = connect
        self._lock = threading.Lock()
        self._moves: dict[Key, int] = {}
        self._named: dict[Key, int] = {}
        self._state: ExecutorState = "spawning"
        self._tools: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._version = version()
        self._over = False
        self.sent = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name="swell-beats", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry: asyncio.Event | None = None
        self._ending: asyncio.Event | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Start the thread, from the main loop."""
        self._main = asyncio.get_running_loop()
        self._thread.start()

    @property
    def state(self) -> ExecutorState:
        """What is said at present."""
        return self._state

    def enter(self, state: ExecutorState) -> None:
        """Go to a state; raises services.beats.ExecutorMoveError. What is not mere busyness is said at once."""
        with self._lock:
            before, self._state = self._state, moved(self._state, state)
        if state != before and {before, state} != {"idle", "busy"}:
            self._now()

    def advance(self, key: Key) -> None:
        """The supervising loop of this attempt has moved."""
        with self._lock:
            self._moves[key] = self._moves.get(key, 0) + 1

    def announce(self, tools: Mapping[str, str], missing: Mapping[str, str]) -> bool:
        """These tools were found here, id to version, and those were not, id to program; whether that is news."""
        with self._lock:
            before = self._tools, self._missing
            self._tools, self._missing = dict(tools), dict(missing)
            return (self._tools, self._missing) != before

    def forget(self, key: Key) -> None:
        """The attempt is no longer open here."""
        with self._lock:
            self._moves.pop(key, None)
            self._named.pop(key, None)

    async def gone(self) -> None:
        """Returns when the thread has ended, for whatever reason."""
        await self._ended.wait()

    async def close(self, *, terminated: bool) -> None:
        """End the thread; `terminated` is the last word if everything is closed in order. Bounded in time."""
        if not self._thread.is_alive():
            return
        with self._lock:
            if terminated:
                self._state = moved(self._state, "terminated")
            self._over = True
        self._now(ending=True)
        await asyncio.to_thread(self._thread.join, JOIN_S)

    def _now(self, *, ending: bool = False) -> None:
        if self._loop is None:  # the first beat is still to come
            return
        with contextlib.suppress(RuntimeError):  # the thread has ended meanwhile
            for event in (self._hurry, self._ending if ending else None):
                if event is not None:
                    self._loop.call_soon_threadsafe(event.set)

    # In the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._beating())
        finally:
            with contextlib.suppress(RuntimeError):  # the main loop is closed: nobody waits
                self._main.call_soon_threadsafe(self._ended.set)

    async def _beating(self) -> None:
        self._hurry, self._ending = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        bus: BeatBus | None = None
        try:
            while True:
                started = time.monotonic()
                self._hurry.clear()
                over, beat = self._beat()
                if over:
                    self._ending.set()
                try:
                    bus = bus or await self._connected(self._ending)
                    if bus is not None:
                        async with asyncio.timeout(PUT_S):
                            await bus.put_key(EXECUTORS, beat_key(self.pool, self.executor), msgspec.json.encode(beat))
                        self.sent += 1
                except (BusError, TimeoutError) as error:
                    self.failed += 1
                    log.warning("executor.beat_unsaid", error=str(error) or "time-out")
                if over:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(started + BEAT_S - time.monotonic(), 0)):
                        await self._hurry.wait()
        finally:
            if bus is not None:
                with contextlib.suppress(BusError, TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await bus.close()

    def _beat(self) -> tuple[bool, Beat]:
        """Whether it is the last one, and what it says."""
        with self._lock:
            names = [key for key, moves in self._moves.items() if moves != self._named.get(key)]
            self._named = dict(self._moves)
            return self._over, Beat(
                executor=self.executor,
                boot=self.boot,
                pool=self.pool,
                slots=self.slots,
                state=self._state,
                attempts=names,
                tools=self._tools,
                missing=self._missing,
                version=self._version,
                at_ns=time.time_ns(),
            )

    async def _connected(self, ending: asyncio.Event) -> BeatBus | None:
        """A connection, or None when nobody needs it any more."""
        connecting = asyncio.ensure_future(self._connect())
        waiting = asyncio.create_task(ending.wait())
        try:
            await asyncio.wait({connecting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return connecting.result() if connecting.done() else None
        finally:
            for task in (connecting, waiting):
                task.cancel()
            await asyncio.wait({connecting, waiting})
