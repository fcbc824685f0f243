"""What lets any number of ledgers stand beside each other: every answer says how far its ledger was, every question may
say how far it has to be.

Each ledger has its own file and follows the log by itself; so they are never behind the log by the same. A client that
has seen a position, of something it wrote or read, asks for at least that: then it never reads what was before, whichever
ledger answers.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from services.rpc import RpcError, invalid

POSITION = "x-swell-position"
MIN_POSITION = "x-swell-min-position"

RETRY_S = 1.0
"""A ledger that is behind should be asked again after that."""

_POSITION_MAX = 2**63 - 1
_POSITION_DIGITS = 19

Context = grpc.aio.ServicerContext[Any, Any]


class Absorbing(Protocol):
    """How far a ledger is; services.ledger.absorb.Absorber is one."""

    position: int
    stream_last: int

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Whether a position is absorbed, waiting for it so long at most."""


class Freshness(grpc.aio.ServerInterceptor):
    """Keeps the promise for the unary methods of one service."""

    def __init__(self, service: str, absorbing: Absorbing, *, wait_s: float = 5.0) -> None:
        """`service` is its full name; `wait_s` how long a question waits for its position at most."""
        self._prefix = f"/{service}/"
        self._absorbing = absorbing
        self._wait_s = wait_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the call, which waits before and tells afterwards."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.response_streaming or handler.request_streaming:
            return handler
        if not str(handler_call_details.method).startswith(self._prefix):
            return handler
        answered = handler.unary_unary

        async def answer(request: Any, context: Context) -> Any:
            await self._wait(context)
            found = await answered(request, context)
            context.set_trailing_metadata(((POSITION, str(self._absorbing.position)),))
            return found

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _wait(self, context: Context) -> None:
        """Wait for the position that is asked for. Raises RpcError when it is not there in time."""
        asked = least_position(context.invocation_metadata())
        if asked <= self._absorbing.position:
            return
        left_s = context.time_remaining()
        wait_s = self._wait_s if left_s is None else min(self._wait_s, left_s / 2)
        if await self._absorbing.reached(asked, wait_s):
            return
        position, end = self._absorbing.position, self._absorbing.stream_last
        raise RpcError(
            grpc.StatusCode.UNAVAILABLE,
            "LEDGER_BEHIND",
            f"the ledger is at position {position} of {end}, and {asked} was asked for: try again, or ask another one"
            + ("; if the log was replaced, connect anew" if asked > end else ""),
            {"position": str(position), "stream_last": str(end), "min_position": str(asked)},
            retry_s=RETRY_S,
        )


def least_position(metadata: Any) -> int:
    """The position that a question asks for, 0 for any. Raises RpcError when it is no position."""
    given = [value for key, value in metadata or () if key == MIN_POSITION]
    if not given:
        return 0
    text = given[-1]
    if not isinstance(text, str) or not (text.isascii() and text.isdigit() and len(text) <= _POSITION_DIGITS):
        raise invalid(MIN_POSITION, f"{text[:40]!r} is no position: send the digits of one, or leave it out")
    return min(int(text), _POSITION_MAX)
