"""Refusals of calls that would have changed something, on their way into the log.

A hostile client must not be able to fill the log: what is refused for the same reason to the same principal by the same
method is one event with a count, told every WINDOW_S; at most EVENTS_PER_MIN events are written in a minute, what is left
over is told later, its count grown meanwhile. Beyond PENDING_MAX kinds of refusal nobody is told apart any more.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import structlog

from services.events import AccessRefused
from services.rpc import RefusedCall, RpcError
from services.scheduler.requests import Requests

log = structlog.get_logger()

WINDOW_S: Final = 2.0
EVENTS_PER_MIN: Final = 30
PENDING_MAX: Final = 1000
MANY: Final = "MANY"
"""The reason of refusals that are not told apart."""
END_S: Final = 2.0
"""How long an end waits for what is still to be told."""


class Refusals:
    """The refusals of one server."""

    def __init__(self, requests: Requests, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` only grows, seconds."""
        self._requests = requests
        self._clock = clock
        self._pending: dict[tuple[str, str, str], AccessRefused] = {}
        self._written: list[tuple[float, int]] = []
        self._some = asyncio.Event()

    def tell(self, refused: RefusedCall) -> None:
        """A call was refused."""
        key = (refused.principal, refused.method, refused.reason)
        if key not in self._pending and len(self._pending) >= PENDING_MAX:
            key = ("", refused.method, MANY)
        known = self._pending.get(key)
        if known is None:
            principal, method, reason = key
            self._pending[key] = AccessRefused(principal=principal, method=method, reason=reason, run=refused.run)
        else:
            self._pending[key] = msgspec.structs.replace(known, count=known.count + 1)
        self._some.set()

    @contextlib.asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Write what is told, for as long as this is open; what is left at the end, too."""
        writing = asyncio.create_task(self._run())
        try:
            yield
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await self.write()

    async def write(self) -> None:
        """Write as much as may be written now."""
        now = self._clock()
        self._written = [(at, count) for at, count in self._written if now - at < 60.0]
        room = EVENTS_PER_MIN - sum(count for _, count in self._written)
        told = dict(list(self._pending.items())[: max(room, 0)])
        if not told:
            return
        for key in told:
            del self._pending[key]
        self._written.append((now, len(told)))
        try:
            await self._requests.refused(list(told.values()))
        except RpcError as error:
            log.warning("scheduler.refusals_not_recorded", error=str(error), events=len(told))
            self._keep(told)
        except asyncio.CancelledError:
            self._keep(told)
            raise

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(WINDOW_S)
            await self.write()
            if not self._pending:
                self._some.clear()

    def _keep(self, told: dict[tuple[str, str, str], AccessRefused]) -> None:
        for key, event in told.items():
            more = self._pending.get(key)
            self._pending[key] = (
                event if more is None else msgspec.structs.replace(event, count=event.count + more.count)
            )
