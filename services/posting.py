"""Posts JSON to a URL that somebody has configured, or reads what it says. services.oidc fetches keys; nobody else speaks HTTP.

Redirects are not followed, proxies not asked. Certificates are verified; SSL_CERT_FILE names other authorities. Nothing here
has a time limit of its own: callers set one around it, which holds for all of it, however slowly the other side answers.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from services.address import is_loopback

HEAD_BYTES_MAX: Final = 64 * 1024

_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)

PostError = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)
"""What `Receiver.post` and `get` raise when nothing that speaks HTTP could be reached."""


class Answer(msgspec.Struct, frozen=True):
    """The status; how long the receiver wants to be left alone, 0 when it does not say; the body, as far as it was asked for."""

    status: int
    retry_after_s: int = 0
    body: bytes = b""


class Receiver:
    """Where to post, or to read. `host` is safe to be told: a URL may be a secret, and is not."""

    def __init__(self, setting: str, url: str, headers: Mapping[str, str] | None = None) -> None:
        """`setting` gave the URL. Raises ValueError, whose text names it and says what to do, for what cannot be used."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ValueError(f"{setting} is not a URL ({error}): write https://host/path") from error
        if not _VISIBLE_ASCII.fullmatch(url) or not host or parts.scheme not in ("https", "http") or parts.fragment:
            raise ValueError(f"{setting} must be https://host/path in ASCII, without spaces and without #")
        for name, value in (headers or {}).items():
            if not _HEADER.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"{setting}: a header that goes with it has characters that no header may have")
        self.host = host
        self.has_user = "@" in parts.netloc
        self.is_private = parts.scheme == "https" or is_loopback(host)
        """Whether nobody between here and there can read what is sent."""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # By HTTP/1.0 the other side sends the body in one piece, and closes.
        self._get = f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nUser-Agent: swell\r\n{_lines(headers or {})}\r\n"
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: swell\r\nConnection: close\r\n"
            "Content-Type: application/json\r\n" + _lines(headers or {})
        )

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None, *, answer_bytes: int = 0) -> Answer:
        """Post it. Of the answer's body at most `answer_bytes` are read, and only if it says how long it is. Raises PostError."""
        head = f"{self._head}Content-Length: {len(body)}\r\n{_lines(headers or {})}\r\n"
        reader, writer = await asyncio.open_connection(self.host, self._port, ssl=self._tls, limit=HEAD_BYTES_MAX)
        try:
            writer.write(head.encode("ascii") + body)
            await writer.drain()
            status = 0
            while status < 200:  # interim answers come before the one that counts
                answer = await reader.readuntil(b"\r\n\r\n")
                status = _status(answer)
            length = min(_number(_LENGTH, answer), answer_bytes)
            return Answer(status, _number(_RETRY_AFTER, answer), await reader.readexactly(length) if length else b"")
        finally:
            writer.close()

    async def get(self, *, answer_bytes: int) -> Answer:
        """What it says, up to `answer_bytes`. Raises PostError."""
        reader, writer = await asyncio.open_connection(self.host, self._port, ssl=self._tls, limit=HEAD_BYTES_MAX)
        try:
            writer.write(self._get.encode("ascii"))
            await writer.drain()
            status = _status(await reader.readuntil(b"\r\n\r\n"))
            body = b""
            while len(body) < answer_bytes and (more := await reader.read(answer_bytes - len(body))):
                body += more
            return Answer(status, 0, body)
        finally:
            writer.close()


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _status(head: bytes) -> int:
    found = _STATUS.match(head)
    if found is None:
        raise ValueError("no HTTP status line")
    return int(found[1])


def _number(header: re.Pattern[bytes], head: bytes) -> int:
    found = header.search(head)
    return int(found[1]) if found is not None else 0
