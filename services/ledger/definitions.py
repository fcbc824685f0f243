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
        data = await self.read(spec)
        if data is None:
            return None
        try:
            found = await asyncio.to_thread(_decoded, data)
        except ValueError:
            return None
        self._kept[spec.digest] = found
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return found

    async def read(self, spec: Artifact) -> bytes | None:
        """The bytes of a definition; None when they are gone, damaged or too many."""
        try:
            async with asyncio.timeout(READ_S):
                reading = self._objects.read(spec.name, limit_bytes=SPEC_BYTES_MAX)
                async with aclosing(reading) as pieces:  # type: ignore[type-var]  # an async generator, typed as an iterator
                    data = b"".join([piece async for piece in pieces])
        except (BusError, TimeoutError):
            return None
        return data if hashlib.sha256(data).hexdigest() == spec.digest else None


def _decoded(data: bytes) -> Definitions:
    return Definitions(decode_spec(data))
