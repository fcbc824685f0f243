"""Anchors: the hash of one position, to be kept where nobody who can change the ledger's file or the log can change it too.

    position:hash stream=created        one line, as `swell audit anchor` prints it and `swell audit verify --anchor` reads it

The ledger tells one at its start and then every `anchor_interval_s`, if it has moved on: as the line `ledger.anchor` of its
own log, for whoever collects logs, and as one line of JSON in `anchors_file`. A file that cannot be written costs no more
than an error in the log; a line in it is on the disk before the next one is begun, and none is ever changed.
"""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from services.ledger.projector import Tip

log = structlog.get_logger()

POLL_S = 1.0
"""How often a ledger that catches up is looked at: it tells no anchor before it is whole."""


class Anchor(msgspec.Struct, frozen=True):
    """The hash of the entry at a position, and when the stream was created that it is a position of; 0 where nobody knows."""

    position: int
    hash: bytes
    stream_created_ns: int = 0


class Anchored(Protocol):
    """What anchors are taken of; services.ledger.store.Store is one."""

    tip: Tip
    stream_created_ns: int


class CatchesUp(Protocol):
    """Whether the tables are whole; services.ledger.absorb.Absorber is one."""

    @property
    def catching_up(self) -> bool:
        """Whether they are not."""


async def tell(store: Anchored, absorber: CatchesUp, *, interval_s: float, file: Path | None) -> None:
    """Tell an anchor of what is newest, again and again, until cancelled."""
    while absorber.catching_up:  # noqa: ASYNC110 - the gauge is what is public
        await asyncio.sleep(POLL_S)
    told = 0
    while True:
        tip = store.tip
        if tip.position > told:
            anchor = Anchor(tip.position, tip.hash, store.stream_created_ns)
            log.info(
                "ledger.anchor",
                position=anchor.position,
                hash=anchor.hash.hex(),
                stream_created_ns=anchor.stream_created_ns,
            )
            if file is not None:
                await asyncio.to_thread(_kept, file, anchor)
            told = tip.position
        await asyncio.sleep(interval_s)


def _kept(file: Path, anchor: Anchor) -> None:
    try:
        keep(file, anchor, datetime.now(UTC))
    except OSError as error:
        log.error("ledger.anchor_lost", file=str(file), position=anchor.position, error=str(error))


def keep(file: Path, anchor: Anchor, at: datetime) -> None:
    """Add an anchor to a file, which is made if need be, and wait until it is on the disk. Raises OSError."""
    line = {
        "position": anchor.position,
        "hash": anchor.hash.hex(),
        "stream_created_ns": anchor.stream_created_ns,
        "at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
    }
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "rb+", buffering=0) as opened:
        end = opened.seek(0, os.SEEK_END)
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        opened.write((b"\n" if torn else b"") + msgspec.json.encode(line) + b"\n")
        os.fsync(descriptor)
    if end == 0:
        folder = os.open(file.absolute().parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


__all__ = ["Anchor", "keep", "tell"]
