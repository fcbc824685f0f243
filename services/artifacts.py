"""Artifacts: bytes too large for an entry, stored once under a fresh name and proven by their SHA-256."""

import asyncio
import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from services.bus import BusError, BusUnavailableError
from services.events import Artifact

T = TypeVar("T")

ARTIFACT_BYTES_MAX = 256 * 1024 * 1024
"""The largest object that is written or read whole."""


class ArtifactDamagedError(BusError):
    """An object does not have the digest its fact names."""


class ObjectStore(Protocol):
    """Where objects stand; see services.bus.Objects."""

    async def write(self, name: str, data: bytes) -> None:
        """Store an object under a fresh name."""

    def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        """An object in chunks."""


class Artifacts:
    """Writes and reads artifacts; keeps the newest few in memory, because a run's definition is read again and again."""

    CACHE_BYTES = 64 * 1024 * 1024

    def __init__(self, objects: ObjectStore, *, patience_s: float = 120.0) -> None:
        """`objects` is the bus's object store; `patience_s` how long an unanswered read or write is tried again."""
        self._objects = objects
        self._patience_s = patience_s
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0

    async def put(self, role: str, data: bytes, *, keep: bool = False) -> Artifact:
        """Store `data`; it is there once this returns. `keep` holds it in memory for later reads here.

        Raises BusError when it is larger than ARTIFACT_BYTES_MAX, BusUnavailableError when the bus does not answer.
        """
        if len(data) > ARTIFACT_BYTES_MAX:
            raise BusError(f"{role} is {len(data)} bytes, over the limit of {ARTIFACT_BYTES_MAX} for one artifact")
        digest = hashlib.sha256(data).hexdigest()

        async def write() -> str:
            name = f"{role}-{uuid.uuid4().hex}"
            await self._objects.write(name, data)
            return name

        name = await self._patiently(write)
        if keep:
            self._remember(digest, data)
        return Artifact(role=role, digest=digest, name=name, size_bytes=len(data))

    async def get(self, artifact: Artifact, *, keep: bool = False) -> bytes:
        """The bytes of an artifact, proven by its digest.

        Raises ObjectMissingError, ArtifactDamagedError, BusUnavailableError.
        """
        known = self._cache.get(artifact.digest)
        if known is not None:
            self._cache.move_to_end(artifact.digest)
            return known

        async def read() -> bytes:
            reading = self._objects.read(artifact.name, limit_bytes=ARTIFACT_BYTES_MAX)
            return b"".join([chunk async for chunk in reading])

        data = await self._patiently(read)
        if hashlib.sha256(data).hexdigest() != artifact.digest:
            raise ArtifactDamagedError(f"object {artifact.name} does not have the digest {artifact.digest[:12]}…")
        if keep:
            self._remember(artifact.digest, data)
        return data

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Try again while the bus does not answer: what a tool has made is not given up for a pause of the bus."""
        deadline = time.monotonic() + self._patience_s
        pause_s = 0.2
        while True:
            try:
                return await act()
            except BusUnavailableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)

    def _remember(self, digest: str, data: bytes) -> None:
        if digest not in self._cache:
            self._cache[digest] = data
            self._cached_bytes += len(data)
        while self._cached_bytes > self.CACHE_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)
