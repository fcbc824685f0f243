"""Copies of the ledger's file that questions in SQL are asked of, made when one is asked for and the newest is too old.

The store copies itself while it goes on committing; a process of its own then takes the journal into the copy and adds the
documented views (services/ledger/views.sql). One copy is made at a time, for everybody who waits for it. The newest stays;
the one before is removed at once, for a question holds its own link to the file that it reads. All stand in
`<file>.sql`, which belongs to this process: what is there at its start was left by one that was killed.
"""

import asyncio
import shutil
import sys
import threading
import time
from functools import partial
from pathlib import Path

import grpc
import msgspec
import structlog

from services.ledger.sql_child import DATABASE, Prepare, Prepared
from services.ledger.store import Store, StoreCopyError
from services.process import Piped, ProcessError, child_environment, spawn_piped
from services.rpc import RpcError

log = structlog.get_logger()

AGE_MAX_S = 60.0
AGE_PER_MAKING = 5.0
"""A copy stands for at least so many times what it took to make: most of the time none is made, however large the file."""
PREPARE_TIMEOUT_S = 600.0
OUTPUT_BYTES = 64 * 1024

CHILD = Path(__file__).with_name("sql_child.py")
_VIEWS = Path(__file__).with_name("views.sql")


def child(use: str) -> list[str]:
    """The command that starts the process for a use: as a script, apart from wherever it is started."""
    return [sys.executable, "-I", "-X", "utf8", str(CHILD), use]


def environment() -> dict[str, str]:
    """All that the process is told of its surroundings: one heap, so that a limit on memory is about memory in use."""
    return {"MALLOC_ARENA_MAX": "1", "LANG": "C.UTF-8"}


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that can be read. `position` is the newest it holds; `taken_s` (monotonic) when, `made_s` how long that took."""

    file: Path
    position: int
    taken_s: float
    made_s: float

    @property
    def age_s(self) -> float:
        """How old it is, in seconds."""
        return time.monotonic() - self.taken_s


class Snapshots:
    """The copies of one store. `age_s`: one that is older is not given out; `idle_s`: unasked that long, it is removed.

    `newest` is the one that stands, if one does.
    """

    def __init__(self, store: Store, *, age_s: float = 5.0, idle_s: float = 300.0, memory_mb: int = 256) -> None:
        """Start without any; remove what a killed process left."""
        self.folder = store.file.with_name(store.file.name + ".sql")
        shutil.rmtree(self.folder, ignore_errors=True)
        self._store = store
        self._age_s = age_s
        self._idle_s = idle_s
        self._memory_bytes = memory_mb * 2**20
        self._stop = threading.Event()
        self._made = 0
        self.newest: Copy | None = None
        self._making: asyncio.Task[Copy] | None = None
        self._preparing: Piped | None = None
        self._removal: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Remove all of them. Nobody may ask any more."""
        self._stop.set()
        if self._preparing is not None:
            self._preparing.kill()
        if self._making is not None:
            await asyncio.wait({self._making})
        if self._removal is not None:
            self._removal.cancel()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def linked(self, target: Path, min_position: int) -> Copy:
        """A copy that is young enough and holds `min_position`, under a name of the caller's own, which keeps it.

        Raises RpcError.
        """
        if self._store.tip.position < min_position:
            raise _behind(min_position, self._store.tip.position)
        copy = self.newest
        if copy is None or not self._fits(copy, min_position):
            copy = await self._next()
            if copy.position < min_position:  # it was under way already
                copy = await self._next()
        self._keep()
        target.hardlink_to(copy.file)  # noqa: ASYNC240 - at once, before anybody can remove it
        return copy

    def _fits(self, copy: Copy, min_position: int) -> bool:
        age_max_s = max(self._age_s, min(AGE_PER_MAKING * copy.made_s, AGE_MAX_S))
        return copy.age_s <= age_max_s and copy.position >= min_position

    async def _next(self) -> Copy:
        """The copy that is being made, or a new one; cancelling one who waits does not cancel it for the others."""
        if self._making is None:
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(self._settle)
        making = self._making
        await asyncio.wait({making})
        return making.result()

    def _settle(self, making: asyncio.Task[Copy]) -> None:
        self._making = None
        if not making.cancelled():
            making.exception()  # whoever waited is told; perhaps nobody does any more

    def _keep(self) -> None:
        """Remove the newest once nobody has asked for a while."""
        if self._removal is not None:
            self._removal.cancel()
        self._removal = asyncio.get_running_loop().call_later(self._idle_s, self._remove)

    def _remove(self) -> None:
        if self.newest is not None:
            folder, self.newest = self.newest.file.parent, None
            asyncio.get_running_loop().run_in_executor(None, partial(shutil.rmtree, folder, ignore_errors=True))

    async def _make(self) -> Copy:
        self._made += 1
        folder = self.folder / f"copy-{self._made}"
        taken_s = time.monotonic()
        try:
            folder.mkdir(parents=True, mode=0o700)
            await asyncio.to_thread(self._store.copy, folder / DATABASE, self._stop)
            copied_s = time.monotonic() - taken_s
            position = await self._prepare(folder)
        except (OSError, ProcessError, StoreCopyError, msgspec.MsgspecError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            log.error("ledger.copy_failed", file=str(self._store.file), error=str(error))
            raise RpcError(
                grpc.StatusCode.UNAVAILABLE, "SNAPSHOT_FAILED", f"no copy of the ledger to ask: {error}"
            ) from error
        made_s = time.monotonic() - taken_s
        log.info("ledger.copied", position=position, seconds=round(made_s, 3), copying_s=round(copied_s, 3))
        self._remove()
        self._keep()
        self.newest = Copy(file=folder / DATABASE, position=position, taken_s=taken_s, made_s=made_s)
        return self.newest

    async def _prepare(self, folder: Path) -> int:
        """Let a process of its own make a copy ready; its position. `close` kills that process."""
        given = Prepare(views=_VIEWS.read_text(), memory_bytes=self._memory_bytes)
        process = await spawn_piped(
            child("prepare"), cwd=folder, env=child_environment(environment()), buffer_bytes=OUTPUT_BYTES
        )
        self._preparing = process
        try:
            if self._stop.is_set():
                raise ProcessError("the ledger stops")
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await process.send(msgspec.json.encode(given))
                process.close_input()
                said = await process.stdout.read()
        except TimeoutError as error:
            raise ProcessError(f"it took more than {PREPARE_TIMEOUT_S:g} s to be made ready") from error
        finally:
            self._preparing = None
            _, complaint = await asyncio.shield(asyncio.ensure_future(process.end()))
        if not said:
            raise ProcessError("the ledger stops" if self._stop.is_set() else complaint.strip()[-1000:] or "it died")
        return msgspec.json.decode(said, type=Prepared).position


def _behind(wanted: int, position: int) -> RpcError:
    return RpcError(
        grpc.StatusCode.UNAVAILABLE,
        "LEDGER_BEHIND",
        f"the ledger is at position {position}, not yet at {wanted}: try again",
        {"position": str(position), "min_position": str(wanted)},
    )
