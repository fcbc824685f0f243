"""What lies in an executor's folder and nothing needs any more: found, told, and removed.

    kind          what                                                      goes when
    refs          snapshots and base commits of runs in mirrors             the log says that the run has ended
    objects       what no ref of a mirror reaches                           nobody uses the repository, and it is worth it
    mirror        a mirror with its workspaces and caches                   no live run, and not used for `keep_s`
    workspace     a worktree that stands ready                              the disk has no room, and nobody uses the repository
    cache         the caches of a repository's tools and setups             the same
    setup         what a repository's `setup` made                          not used for `keep_s`
    scratch       the folder of an attempt that is over                     always: it could not be removed then

Invariants:

* The log says which runs have ended; what it does not say plainly, has not. What attempts have in hand here counts as live.
* A snapshot is in its bundle, among the artifacts, before the log names it; so what goes can be had again. What exists
  nowhere else is never removed: quarantined snapshots are only counted.
* Of each mirror the newest base commit stays, whoever's it was: the next fetch builds upon it.
* A mirror that a live run has refs in is not removed, whatever the disk says.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import structlog

from services.events import (
    BudgetChanged,
    BudgetReached,
    RequestAnswered,
    RevertFinished,
    RollbackFinished,
    RunFinished,
)
from services.executor.mirror import MirrorError
from services.executor.repositories import Repositories, Repository, bytes_in, time_of
from services.executor.scratch import Scratches
from services.executor.workspace import WorkspaceError, removed
from services.git import GitError
from services.sweep import Kind, Removed, Sweep
from services.wire import Entry, Recorded, WireError, decode_entry, run_subject

logger = structlog.get_logger()

LOOSE_FILES_MAX: Final = 5_000
LOOSE_BYTES_MAX: Final = 256 * 1024 * 1024
"""What came to a mirror since it was made, before it is worth looking what of that is still needed."""

Occasion = Literal["routine", "asked", "pressed"]
"""From time to time; because somebody asked; because the disk has no room."""

_TROUBLE: Final = (MirrorError, WorkspaceError, GitError, OSError)
_QUIET: Final = (RequestAnswered, BudgetChanged, BudgetReached)
"""What is still said of a run that has ended, without waking it."""


class RunLog(Protocol):
    """What is read of the log; services.bus.Bus is one."""

    async def last(self, subject: str) -> Recorded | None:
        """The newest message of a subject."""

    async def next(self, subject: str, *, after: int = 0) -> Recorded | None:
        """The first message of a subject after a position."""


async def has_ended(log: RunLog, run: str) -> bool:
    """Whether the log says that a run has ended, and nothing undoes it just now. Raises BusError.

    A run that the log knows nothing of is none of this cluster: it counts as ended.
    """
    last = await log.last(run_subject(run))
    if last is None:
        return True
    said, done = _said(last)
    if said is not None and not done:
        return said
    finished = working = False
    position = 0
    while (recorded := await log.next(run_subject(run), after=position)) is not None:
        position = recorded.sequence
        said, done = _said(recorded)
        finished = finished or bool(said)
        working = working if said is None else not said
        working = working and not (finished and done)
    return finished and not working


def _said(recorded: Recorded) -> tuple[bool | None, bool]:
    """Whether a run has ended with this entry, None when it says nothing about that; and whether what was asked for is done:
    a delivery that was asked for after the end is over with its answer.
    """
    try:
        entry: Entry = decode_entry(recorded.data)
    except WireError:
        return False, False  # of a newer version, perhaps: nothing is known
    said: bool | None = None
    done = False
    for event in entry.events:
        done = done or (isinstance(event, RequestAnswered) and event.answer == "done")
        if isinstance(event, RunFinished | RollbackFinished | RevertFinished):
            said = True
        elif not isinstance(event, _QUIET):
            said = False
    return said, done


class Garbage:
    """Looks through an executor's folder, one look at a time."""

    def __init__(
        self,
        root: Path,
        log: RunLog,
        repositories: Repositories,
        scratches: Scratches,
        setups: Mapping[str, int],
        *,
        keep_s: float,
    ) -> None:
        """`setups` are those that attempts use just now; `keep_s` is how long what can be made again is kept unused."""
        self.root = root
        self.repositories = repositories
        self._log = log
        self._scratches = scratches
        self._setups = setups
        self._keep_s = keep_s
        self._alone = asyncio.Lock()

    async def sweep(
        self, occasion: Occasion, *, dry_run: bool = False, enough: Callable[[], bool] = lambda: True
    ) -> Sweep:
        """Removes what nothing needs; with `dry_run` it only says what that would be.

        When the disk is pressed, what can be made again goes as well, until there is `enough` room. Raises BusError.
        """
        async with self._alone:
            look = _Look(self, occasion, dry_run=dry_run)
            before = time.time() - self._keep_s
            for folder in self._scratches.left():
                await look.remove("scratch", folder)
            for folder in self.repositories.unknown():
                if time_of(folder) < before:
                    await look.remove("mirror", folder)
            stored = [one for location in self.repositories.stored() if (one := await look.opened(location))]
            for repository in stored:
                await look.at(repository, before)
            await look.setups(before, lambda: False)
            if occasion == "pressed":
                await look.spare(stored, enough)
            return look.told()

    def uses(self, setup: str) -> bool:
        """Whether an attempt uses what this setup made."""
        return bool(self._setups.get(setup))

    async def ended_in(self, held: Iterable[str]) -> set[str]:
        """Of these runs, those that have ended and that nothing has in hand here."""
        return {run for run in held if not self.repositories.runs[run] and await has_ended(self._log, run)}


class _Look:
    """One look through the folder."""

    def __init__(self, garbage: Garbage, occasion: Occasion, *, dry_run: bool) -> None:
        self._garbage = garbage
        self._repositories = garbage.repositories
        self._occasion = occasion
        self._dry_run = dry_run
        self._removed: list[Removed] = []
        self._troubles: list[str] = []
        self._live: set[str] = set()
        self._needed: set[Repository] = set()
        self._quarantined = 0
        self._busy = 0

    def told(self) -> Sweep:
        """What came of it."""
        return Sweep(
            dry_run=self._dry_run,
            removed=self._removed,
            live_runs=len(self._live),
            quarantined=self._quarantined,
            busy=self._busy,
            troubles=self._troubles,
        )

    async def opened(self, location: str) -> Repository | None:
        """The repository of a mirror; None when that is in no order, which the others are not to suffer from."""
        try:
            return await self._repositories.open(location)
        except _TROUBLE as error:
            self._trouble(self._garbage.root / "mirrors", error)
            return None

    async def at(self, repository: Repository, before: float) -> None:
        """What of a repository nobody needs; all of it, if it was not used since `before`."""
        try:
            mirror = repository.mirror
            held = await mirror.kept()
            ended = await self._garbage.ended_in(held)
            live, quarantined = held.keys() - ended, await mirror.quarantined()
            self._live |= live
            self._quarantined += quarantined
            if live or quarantined:
                self._needed.add(repository)
            elif time_of(repository.mirror.lock_file) < before and await self._whole(repository):
                return
            newest = await mirror.newest_base()
            gone = [ref for run in sorted(ended) for ref in held[run] if ref != newest]
            if gone:
                if not self._dry_run:
                    await mirror.forget(gone)
                self._say("refs", mirror.key[:12], count=len(gone))
            await self._objects(repository)
        except _TROUBLE as error:
            self._trouble(repository.mirror.folder, error)

    async def _objects(self, repository: Repository) -> None:
        files, size = repository.mirror.loose()
        worth = files > LOOSE_FILES_MAX or size > LOOSE_BYTES_MAX
        if not files or not (worth or self._occasion != "routine"):
            return
        async with self._repositories.quiet(repository) as quiet:
            self._busy += not quiet
            freed = 0
            if quiet:
                freed = size if self._dry_run else await repository.mirror.prune()
            if freed:
                self._say("objects", repository.mirror.key[:12], size=freed)

    async def _whole(self, repository: Repository) -> bool:
        """Whether a repository was removed, or would be; not one that somebody uses."""
        async with self._repositories.quiet(repository) as quiet:
            if quiet:
                folders = (repository.mirror.folder, repository.pool.root, repository.cache)
                size = sum([await asyncio.to_thread(bytes_in, folder) for folder in folders])
                if not self._dry_run:
                    await self._repositories.remove(repository)
                self._say("mirror", repository.mirror.key[:12], size=size)
        return quiet

    async def spare(self, stored: Sequence[Repository], enough: Callable[[], bool]) -> None:
        """Removes what can be made again, what costs least to make first, until there is room."""
        try:
            for repository in stored:
                if not enough():
                    await self._ready(repository)
            await self.setups(time.time(), enough)
            for repository in stored:
                if not enough() and repository not in self._needed and not repository.gone:
                    await self._whole(repository)
        except _TROUBLE as error:
            self._trouble(self._garbage.root, error)

    async def _ready(self, repository: Repository) -> None:
        """Workspaces and caches of a repository that nobody uses."""
        async with self._repositories.quiet(repository) as quiet:
            if not quiet or repository.gone:
                return
            ready = repository.pool.free
            size = sum([await asyncio.to_thread(bytes_in, folder) for folder in ready])
            if ready:
                if not self._dry_run:
                    await repository.pool.shrink()
                self._say("workspace", repository.mirror.key[:12], count=len(ready), size=size)
            if repository.cache.is_dir():
                await self.remove("cache", repository.cache)

    async def setups(self, before: float, enough: Callable[[], bool]) -> None:
        """Removes what setups made that nobody uses, and that nobody has used since `before`."""
        for folder in sorted((self._garbage.root / "setup").glob("*")):
            if not enough() and time_of(folder / ".complete", folder) < before and not self._garbage.uses(folder.name):
                gone = folder
                if not self._dry_run and not folder.name.endswith(_GONE):
                    gone = folder.with_name(folder.name + _GONE)
                    try:
                        folder.rename(gone)  # at once: an attempt that comes now makes its own
                    except OSError as error:
                        self._trouble(folder, error)
                        continue
                await self.remove("setup", gone)

    async def remove(self, kind: Kind, folder: Path) -> None:
        """Removes a folder, and says so."""
        size = await asyncio.to_thread(bytes_in, folder)
        if not self._dry_run:
            try:
                await removed(folder)
            except OSError as error:
                self._trouble(folder, error)
                return
        self._say(kind, folder.name.removesuffix(_GONE), size=size)

    def _say(self, kind: Kind, name: str, *, count: int = 1, size: int = 0) -> None:
        self._removed.append(Removed(kind=kind, name=name, count=count, bytes=size))

    def _trouble(self, folder: Path, error: Exception) -> None:
        logger.warning("executor.garbage_stays", folder=str(folder), error=str(error))
        self._troubles.append(f"{folder.name}: {error}"[:500])


_GONE: Final = ".gone"
