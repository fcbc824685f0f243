"""When garbage is collected: from time to time, when somebody asks (SIGUSR1), and when the disk has no room.

Without room no command is taken, so that others of the pool get it: commands wait in their queue, and nothing is lost. What
had been claimed before that is refused as `workspace_error`.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from services.bus import BusError
from services.executor.garbage import Garbage, Occasion
from services.sweep import ANSWER_FILE, FILE_BYTES_MAX, REQUEST_FILE, Sweep, SweepAnswer, SweepRequest

log = structlog.get_logger()

PRESSED_S: Final = 30.0
"""How long after one attempt at making room the next one follows."""


class Housekeeping:
    """Looks after one executor's folder. `swept` counts what was freed, in bytes."""

    def __init__(self, garbage: Garbage, *, disk_free_bytes: int, interval_s: float, asked: asyncio.Event) -> None:
        """`interval_s` 0: only when asked, and without room; `asked` is set when there is a request to be read."""
        self._garbage = garbage
        self._root = garbage.root
        self._disk_free_bytes = disk_free_bytes
        self._interval_s = interval_s
        self._asked = asked
        self._pressed_at = float("-inf")
        self.out_of_room = False
        self.freed_bytes = 0

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s or None):
                    await self._asked.wait()
            if self._asked.is_set():
                self._asked.clear()
                await self._answer()
            else:
                await self._sweep("routine")

    async def has_room(self) -> bool:
        """Whether the disk has room for another attempt; where it has not, garbage is collected first."""
        if not self._is_short():
            if self.out_of_room:
                log.info("executor.room_again", free_bytes=self.free_bytes)
            self.out_of_room = False
            return True
        if time.monotonic() - self._pressed_at >= PRESSED_S:
            await self._sweep("pressed", enough=lambda: not self._is_short())
            self._pressed_at = time.monotonic()
            if not self._is_short():
                return True
        if not self.out_of_room:
            log.warning(
                "executor.no_room",
                folder=str(self._root),
                free_bytes=self.free_bytes,
                disk_free_bytes=self._disk_free_bytes,
                consequence="no command is taken",
                remedy="free space there, or give the executor a state_dir on a larger disk",
            )
        self.out_of_room = True
        return False

    @property
    def free_bytes(self) -> int:
        """What the disk has free; 0 when it cannot be asked."""
        try:
            return shutil.disk_usage(self._root).free
        except OSError:
            return 0

    def _is_short(self) -> bool:
        return bool(self._disk_free_bytes) and self.free_bytes < self._disk_free_bytes

    async def _sweep(
        self, occasion: Occasion, *, dry_run: bool = False, enough: Callable[[], bool] = lambda: True
    ) -> Sweep | BusError | OSError:
        started = time.monotonic()
        try:
            sweep = await self._garbage.sweep(occasion, dry_run=dry_run, enough=enough)
        except (BusError, OSError) as error:
            log.warning("executor.sweep_put_off", error=str(error))
            return error
        if not dry_run:
            self.freed_bytes += sweep.bytes
            if sweep.removed:
                log.info(
                    "executor.swept",
                    occasion=occasion,
                    freed_bytes=sweep.bytes,
                    removed=len(sweep.removed),
                    wall_s=round(time.monotonic() - started, 3),
                )
        return sweep

    async def _answer(self) -> None:
        try:
            request = _read(self._root / REQUEST_FILE)
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning("executor.sweep_request_unreadable", error=str(error))
            return
        sweep = await self._sweep("asked", dry_run=request.dry_run)
        told = SweepAnswer(
            id=request.id,
            sweep=sweep if isinstance(sweep, Sweep) else None,
            error="" if isinstance(sweep, Sweep) else str(sweep),
            free_bytes=self.free_bytes,
        )
        try:
            _write(self._root / ANSWER_FILE, msgspec.json.encode(told))
        except OSError as error:
            log.warning("executor.sweep_not_answered", error=str(error))


def _read(file: Path) -> SweepRequest:
    with file.open("rb") as opened:
        return msgspec.json.decode(opened.read(FILE_BYTES_MAX), type=SweepRequest)


def _write(file: Path, data: bytes) -> None:
    """Replaces a file as a whole, readable by its owner alone."""
    new = file.with_name(f".{file.name}")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as opened:  # noqa: PTH123 - takes the descriptor
        opened.write(data)
    new.replace(file)
