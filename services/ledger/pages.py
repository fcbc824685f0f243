"""Page tokens by AIP-158: opaque, URL-safe, bound to the arguments they were made for, and without any authority.

A token is base64url(check ‖ cursor): the cursor in MessagePack, and before it the first 16 bytes of
SHA-256(method ‖ arguments ‖ cursor). The check is no secret: a token opens nothing that its bearer may not read anyway,
any replica takes it, and it survives a restart. It tells a mangled token, or one from another question, from a good one.
"""

import base64
import binascii
import hashlib

import grpc
import msgspec

from services.rpc import RpcError, invalid

TOKEN_CHARACTERS_MAX = 256
PAGE_SIZE_MAX = 1000

_CHECK_BYTES = 16
_cursor_decoder = msgspec.msgpack.Decoder(list[int])


def page_size(asked: int, default: int) -> int:
    """The size of a page: 0 means the default, more than the most is cut to it; raises RpcError when negative."""
    if asked < 0:
        raise invalid("page_size", f"{asked} is negative: use 1 to {PAGE_SIZE_MAX}, or 0 for {default}")
    return min(asked or default, PAGE_SIZE_MAX)


def token_of(method: str, arguments: tuple[object, ...], cursor: list[int]) -> str:
    """The token that continues `method` with `arguments` behind `cursor`."""
    body = msgspec.msgpack.encode(cursor)
    return base64.urlsafe_b64encode(_check(method, arguments, body) + body).rstrip(b"=").decode()


def cursor_of(
    token: str, method: str, arguments: tuple[object, ...], size: int, *, field: str = "page_token"
) -> list[int] | None:
    """The cursor of `size` numbers in a token, None for an empty token; `field` is where the token stands in the request.

    Raises RpcError (INVALID_ARGUMENT, BAD_PAGE_TOKEN) for a token that was not made for these arguments.
    """
    if not token:
        return None
    try:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise _bad(field)
        data = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        cursor = _cursor_decoder.decode(body)
    except (UnicodeEncodeError, binascii.Error, msgspec.MsgspecError) as error:
        raise _bad(field) from error
    if check != _check(method, arguments, body) or len(cursor) != size:
        raise _bad(field)
    return cursor


def _check(method: str, arguments: tuple[object, ...], body: bytes) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((method, arguments, body))).digest()[:_CHECK_BYTES]


def _bad(field: str) -> RpcError:
    return RpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"BAD_{field.upper()}",
        f"{field}: it does not belong to this request; repeat the request that returned it, "
        "with the same arguments, or start without a token",
        {"field": field},
    )
