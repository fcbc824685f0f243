"""Definitions of runs, read from their artifacts and kept: the ledger's tables hold what happened, not what is planned."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Protocol

from services.bus import BusError
from services.events import Artifact
from services.spec import Definitions, decode_spec

KEPT_MAX = 8
SPEC_BYTES_MAX = 16 * 1024 * 1024
"""A larger definition is not read: what is asked is answered without it."""

READ_S = 5.0


class Objects(Protocol):
    """Stored objects; services.bus.Objects is one."""

    def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        """An object in chunks."""


class DefinitionCache:
    """The definitions that were asked for last."""

    def __init__(self, objects: Objects) -> None:
        """Read them from there."""
        self._objects = objects
        self._kept: OrderedDict[str, Definitions] = OrderedDict()

    async def of(self, spec: Artifact) -> Definitions | None:
        """The definition in an artifact; None when it is gone, damaged, too large, or of another version."""
        known = self._kept.get(spec.digest)
        if known is not None:
            self._kept.move_to_end(spec.digest)
            return known
        try:
            async with asyncio.timeout(READ_S):
                data = await self._read(spec)
            found = await asyncio.to_thread(_decoded, data, spec.digest)
        except (BusError, ValueError, TimeoutError):
            return None
        self._kept[spec.digest] = found
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return found

    async def _read(self, spec: Artifact) -> bytes:
        reading = self._objects.read(spec.name, limit_bytes=SPEC_BYTES_MAX)
        async with aclosing(reading) as pieces:  # type: ignore[type-var]  # an async generator, typed as an iterator
            return b"".join([piece async for piece in pieces])


def _decoded(data: bytes, digest: str) -> Definitions:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the bytes are not those of the digest")
    return Definitions(decode_spec(data))
