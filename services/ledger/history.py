"""The log as a whole: what the archive holds, then what the stream holds, without a hole.

The stream may lack entries that the archive has. One that neither has is an error that names it: nothing is folded past a
hole unless a person has said that it may be (`missing_up_to`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import structlog

from services.ledger.projector import Tip
from services.ledger.segment import Archive
from services.ledger.store import StoreError
from services.wire import Recorded

log = structlog.get_logger()

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, from a thread; a caller that is cancelled waits for its end."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def check_segments(archive: Archive, after: int = 0) -> None:
    """Read the segments that reach behind position `after` whole. Raises services.ledger.segment.ArchiveError for a harmed one."""
    for segment in list(archive.segments):
        if segment.last > after:
            await in_thread(archive.check, segment)


class LogGapError(StoreError):
    """Neither the stream nor the archive has some entries."""


class History:
    """Reads everything behind a position in order. Its archive, if there is one, belongs to the stream that is read."""

    def __init__(self, archive: Archive | None = None, *, missing_up_to: int = 0) -> None:
        """`missing_up_to`: up to that position entries may be missing; by default none may."""
        self.archive = archive
        self._missing_up_to = missing_up_to

    async def load(self, stream_created_ns: int) -> None:
        """Look at the archive. Raises services.ledger.segment.ArchiveError."""
        if self.archive is not None:
            await in_thread(self.archive.load, stream_created_ns)

    async def check(self, stream_created_ns: int, after: int) -> None:
        """Whether what follows position `after` can be folded from the archive. Raises services.ledger.segment.ArchiveError."""
        await self.load(stream_created_ns)
        if self.archive is not None:
            await check_segments(self.archive, after)

    @property
    def archived(self) -> int:
        """The position up to which everything is archived, as last looked at."""
        return self.archive.end if self.archive is not None else 0

    def check_end(self, found: int, last: int) -> None:
        """Raise LogGapError if the stream's end, position `last`, is beyond the last entry that is found anywhere."""
        if max(found, self._missing_up_to) < last:
            raise self._gap(found, last)

    async def batches(
        self, stream_created_ns: int, tip: Callable[[], Tip], read: Callable[[int], AsyncIterator[list[Recorded]]]
    ) -> AsyncIterator[list[Recorded]]:
        """What follows `tip`, in order, from the archive as far as it reaches, then as `read` after a position tells.

        Each batch must have been folded, so that `tip` has moved, before the next is asked for. Close it when leaving it
        early. Raises LogGapError, services.ledger.segment.ArchiveError, and what `read` raises.
        """
        while True:
            async for batch in self._archived(tip()):
                yield batch
            position = tip().position
            missing = 0
            async with aclosing(read(position)) as batches:  # type: ignore[type-var]  # an async generator, typed as an iterator
                async for records in batches:
                    whole = self._whole(position, records)
                    if whole:
                        yield whole
                        position = whole[-1].sequence
                    if len(whole) < len(records):
                        missing = records[len(whole)].sequence - 1
                        break
            if not missing:
                return
            await self.load(stream_created_ns)  # it may have grown, and the stream have been purged, since we looked
            if self.archived <= position:
                raise self._gap(position, missing)
            log.info("ledger.from_archive", position=position, archived=self.archived)

    def _whole(self, position: int, records: list[Recorded]) -> list[Recorded]:
        """The first of these that follow each other from a position on."""
        if records[-1].sequence - position == len(records):
            return records
        for number, record in enumerate(records):
            if record.sequence != position + 1 and record.sequence - 1 > self._missing_up_to:
                return records[:number]
            position = record.sequence
        return records

    def _gap(self, position: int, missing: int) -> LogGapError:
        reach = (
            f"the archive {self.archive.folder} ends at {self.archive.end}"
            if self.archive
            else "no archive is configured"
        )
        return LogGapError(
            f"the stream lacks positions {position + 1} to {missing}, and {reach}: set `archive` to the folder that has them, or "
            "restore the stream or the ledger's file from a backup (`swell ledger restore`). To go on without them for good, "
            f"set `missing_up_to = {missing}`"
        )

    async def _archived(self, tip: Tip) -> AsyncIterator[list[Recorded]]:
        if self.archive is None or self.archive.end <= tip.position:
            return
        pages = self.archive.records(tip.position, tip.hash)
        try:
            while page := await in_thread(next, pages, None):
                yield page
        finally:
            await in_thread(pages.close)  # type: ignore[attr-defined]  # a generator, typed as an iterator


__all__ = ["History", "LogGapError", "check_segments", "in_thread"]
