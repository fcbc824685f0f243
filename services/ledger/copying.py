"""Backup and restore of the ledger's file while it is in use.

    backup:  journal, then file, copied beside it ─▶ sealed: one whole file ─▶ to the caller in chunks
    restore: from the caller in chunks ─▶ checked: digest, version, tables, stream, chain at the log ─▶ the present file condemned,
             and at the next start the new one takes its place

The file is a projection and can be rebuilt; a backup saves the time of a rebuild, and after entries were lost it is the only
place that still has what they said.
"""

import asyncio
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from services.bus import Recorded, StreamIdentity
from services.ledger.history import History, in_thread
from services.ledger.projector import chained
from services.ledger.store import Seal, Store, StoreError, journal_of, restored_file, seal

log = structlog.get_logger()

CHUNK_BYTES = 1024 * 1024
MARGIN_BYTES = 64 * 1024 * 1024


class CopyError(StoreError):
    """A backup or a restore is not possible; the text says what to do. Nothing was changed."""


class CopyBusyError(CopyError):
    """Another backup or restore is under way."""


class Origin(Protocol):
    """What a restored file is compared with; services.bus.Bus is one."""

    async def identity(self) -> StreamIdentity:
        """Which stream it is, and what it holds."""

    async def read(self, sequence: int) -> Recorded | None:
        """The message at a position, None when it is purged."""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A copy: the tables as of `position`, where the chain has this hash, of the stream that was created then."""

    position: int
    hash: bytes
    stream_created_ns: int
    size_bytes: int
    sha256: str = ""


def copy_store(store: Store, target: Path, stop: threading.Event | None = None) -> Copied:
    """Copy a store that is in use into one file, as of a position that is committed by now or later. Blocks.

    `stop` ends it. Raises CopyError, and then there is no `target`.
    """
    try:
        store.copy(target, stop or threading.Event())
        sealed = seal(target)
        _sync(target)
        return Copied(
            position=sealed.tip.position,
            hash=sealed.tip.hash,
            stream_created_ns=sealed.stream_created_ns,
            size_bytes=target.stat().st_size,
        )
    except (OSError, StoreError) as error:
        _remove(target)
        raise CopyError(
            f"the ledger's file could not be copied to {target}: {error}. Make room there, then try again"
        ) from error


def _remove(target: Path) -> None:
    for part in (target, journal_of(target)):
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as opened:
        os.fsync(opened.fileno())


class Copies:
    """Backups and restores of one store, one at a time."""

    def __init__(self, store: Store, origin: Origin, *, history: History | None = None) -> None:
        """`origin` is the log that the store is folded from. `history` as the absorber's."""
        self._store = store
        self._origin = origin
        self._history = history or History()
        self._busy = False

    async def backup(self) -> AsyncGenerator[Copied | bytes, None]:
        """What the copy is, its bytes, and at last again what it is, with its SHA-256. Raises CopyError, CopyBusyError."""
        target = _part(self._store.file, "copy")
        self._begin(self._store.size_bytes)
        try:
            copied = await self._copied(target)
            yield copied
            digest = hashlib.sha256()
            with target.open("rb") as opened:
                while piece := await in_thread(opened.read, CHUNK_BYTES):
                    digest.update(piece)
                    yield piece
            yield msgspec.structs.replace(copied, sha256=digest.hexdigest())
        finally:
            self._busy = False
            _remove(target)

    async def _copied(self, target: Path) -> Copied:
        """A copy whose caller may leave: then it ends at once."""
        stop = threading.Event()
        copying = asyncio.ensure_future(asyncio.to_thread(copy_store, self._store, target, stop))
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([copying])
            raise

    async def restore(self, sha256: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> Copied:
        """Take a file that takes the place of the present one at the next start. Raises CopyError, CopyBusyError, BusError,
        services.ledger.segment.ArchiveError when the archive does not have what follows.

        The caller condemns the present one then.
        """
        target = _part(self._store.file, "upload")
        self._begin(size_bytes)
        try:
            await self._received(target, sha256, size_bytes, chunks)
            try:
                sealed = await in_thread(seal, target)
            except StoreError as error:
                raise CopyError(f"what was sent is refused: {error}") from error
            await self._check(sealed)
            await in_thread(_sync, target)
            target.replace(restored_file(self._store.file))
        finally:
            self._busy = False
            _remove(target)
        log.info("ledger.restore", position=sealed.tip.position, present=self._store.tip.position)
        return Copied(
            position=sealed.tip.position,
            hash=sealed.tip.hash,
            stream_created_ns=sealed.stream_created_ns,
            size_bytes=size_bytes,
            sha256=sha256,
        )

    def _begin(self, size_bytes: int) -> None:
        if self._busy:
            raise CopyBusyError("a backup or a restore is under way: wait for its end")
        folder = self._store.file.parent
        free = shutil.disk_usage(folder).free
        if free < size_bytes + MARGIN_BYTES:
            raise CopyError(
                f"{folder} has {free:,} bytes free, a copy needs {size_bytes + MARGIN_BYTES:,}: make room, then try again"
            )
        self._busy = True

    async def _received(self, target: Path, sha256: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        digest, got = hashlib.sha256(), 0
        try:
            with target.open("wb") as opened:
                async for chunk in chunks:
                    got += len(chunk)
                    if got > size_bytes:
                        break
                    digest.update(chunk)
                    await in_thread(opened.write, chunk)
        except OSError as error:
            raise CopyError(f"{target} cannot be written: {error.strerror}; make room, then try again") from error
        if got != size_bytes or digest.hexdigest() != sha256:
            raise CopyError(
                f"{got:,} bytes came with the SHA-256 {digest.hexdigest()}, {size_bytes:,} with {sha256} were announced: send it again"
            )

    async def _check(self, sealed: Seal) -> None:
        """The file must be a projection of the beginning of this very log."""
        identity = await self._origin.identity()
        if sealed.stream_created_ns != identity.created_ns:
            raise CopyError(
                f"the file was folded from a stream created at {sealed.stream_created_ns} ns, this one was created at "
                f"{identity.created_ns} ns: it is of another log"
            )
        position = sealed.tip.position
        if position > identity.last:
            raise CopyError(
                f"the file reaches position {position}, the log ends at {identity.last}: the log has lost entries"
            )
        found = await self._origin.read(position) if position else None
        if found and chained(sealed.hash_before, position, found.subject, found.data) != sealed.tip.hash:
            raise CopyError(
                f"the log has another entry at position {position} than the file: one of the two was changed"
            )
        await self._history.check(identity.created_ns, position)


def remove_left(file: Path) -> None:
    """Remove what a backup or a restore of `file` left when it was killed."""
    for kind in ("copy", "upload"):
        _remove(_part(file, kind))


def _part(file: Path, kind: str) -> Path:
    return file.with_name(f"{file.name}.{kind}")


__all__ = ["Copied", "Copies", "CopyBusyError", "CopyError", "copy_store", "remove_left"]
