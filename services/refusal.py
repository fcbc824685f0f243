"""Why a call is not let in. Pure: `services.rpc` makes a status of it, counts it, and has it recorded."""

from collections.abc import Mapping

import grpc


class Refusal(Exception):  # noqa: N818 - not every refusal is an error of somebody
    """The answer to a call that is not let in. `reason` is UPPER_SNAKE; `principal` who called, "" for a stranger.

    `retry_s`: how long to wait before trying again, seconds; None where that would not help.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        principal: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.principal = principal
        self.metadata = dict(metadata or {})
        self.retry_s = retry_s


def unauthenticated(reason: str, message: str) -> Refusal:
    """Nobody knows who calls."""
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, reason, message)


def forbidden(reason: str, message: str, principal: str, metadata: Mapping[str, str] | None = None) -> Refusal:
    """Somebody known may not do this."""
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, reason, message, principal, metadata=metadata)


def exhausted(reason: str, message: str, principal: str, retry_s: float) -> Refusal:
    """Somebody asks for too much, and may try again."""
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message, principal, retry_s=retry_s)
