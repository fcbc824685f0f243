"""The repositories that an executor works on: of each its mirror and its pool of workspaces, and who uses them just now.

    <root>/mirrors/<key>.git          the mirror; its lock beside it has the time of the last use
    <root>/worktrees/<key[:16]>/<n>   the workspaces
    <root>/cache/<key[:16]>/<n>       the caches of tools, one for each workspace

Invariant: objects and folders of a repository are removed only in a `quiet` one, where no attempt uses it; an attempt that
comes meanwhile waits.
"""

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from services.executor.mirror import Mirror, location_of
from services.executor.workspace import WorkspacePool, removed

KEY_CHARS: Final = 16


class Repository:
    """One repository. `users` are the attempts that have it in hand."""

    def __init__(self, mirror: Mirror, pool: WorkspacePool, cache: Path) -> None:
        self.mirror = mirror
        self.pool = pool
        self.cache = cache
        self.users = 0
        self.gone = False
        self.gate = asyncio.Lock()


class Repositories:
    """All of them, each made when it is first needed."""

    def __init__(self, root: Path, slots: int, *, strays: Callable[[], int | None], partial: bool) -> None:
        """`root` is the executor's folder; for `strays` and `partial` see WorkspacePool and Mirror."""
        self._root = root
        self._slots = slots
        self._strays = strays
        self._partial = partial
        self._opened: dict[str, Repository] = {}
        self._opening = asyncio.Lock()
        self.runs: Counter[str] = Counter()
        """The runs of attempts that are under way here, and how many of each."""

    @contextlib.asynccontextmanager
    async def used(self, location: str, run: str) -> AsyncIterator[Repository]:
        """The repository at `location`, for an attempt of `run`: nothing of it is removed while the block runs."""
        self.runs[run] += 1
        try:
            repository = await self._entered(location)
            try:
                yield repository
            finally:
                repository.users -= 1
                with contextlib.suppress(OSError):
                    os.utime(repository.mirror.lock_file)
        finally:
            self.runs[run] -= 1
            self.runs += Counter()  # drops what has come to nothing

    async def _entered(self, location: str) -> Repository:
        while True:
            repository = await self.open(location)
            async with repository.gate:
                if not repository.gone:
                    repository.users += 1
                    return repository

    async def open(self, location: str) -> Repository:
        """The repository at `location`; what a former life left of its workspaces is removed first."""
        async with self._opening:
            known = self._opened.get(location)
            if known is None:
                mirror = Mirror(self._root / "mirrors", location, partial=self._partial)
                name = mirror.key[:KEY_CHARS]
                pool = WorkspacePool(mirror, self._root / "worktrees" / name, self._slots, strays=self._strays)
                await pool.reap_leftovers()
                known = self._opened[location] = Repository(mirror, pool, self._root / "cache" / name)
            return known

    def stored(self) -> list[str]:
        """The locations of all that there is a mirror of, opened or not, the one used longest ago first."""
        mirrors = sorted((self._root / "mirrors").glob("*.git"), key=lambda one: time_of(one.with_suffix(".lock")))
        return [location for mirror in mirrors if (location := location_of(mirror))]

    def unknown(self) -> list[Path]:
        """What lies among the mirrors and is none: half made, or of nobody."""
        opened = {repository.mirror.folder for repository in self._opened.values()}
        folders = set((self._root / "mirrors").glob("*.*")) - opened
        return sorted(folder for folder in folders if folder.suffix != ".lock" and not location_of(folder))

    @contextlib.asynccontextmanager
    async def quiet(self, repository: Repository) -> AsyncIterator[bool]:
        """Whether no attempt uses the repository; none begins to while the block runs."""
        if repository.users or repository.gate.locked():
            yield False
            return
        async with repository.gate:
            yield not repository.users

    async def remove(self, repository: Repository) -> None:
        """Removes a quiet repository with all that belongs to it; the next attempt makes it anew."""
        repository.gone = True
        self._opened.pop(repository.mirror.location, None)
        await repository.pool.shrink()
        for folder in (repository.mirror.folder, repository.pool.root, repository.cache):
            await removed(folder)


def time_of(*paths: Path) -> float:
    """The time of the first of these that there is, seconds since 1970; 0 when that cannot be told."""
    for path in paths:
        with contextlib.suppress(OSError):
            return path.lstat().st_mtime
    return 0.0


def bytes_in(folder: Path) -> int:
    """What a folder, or a file, takes on the disk."""
    if not folder.is_dir() or folder.is_symlink():
        with contextlib.suppress(OSError):
            return folder.lstat().st_blocks * 512
        return 0
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).lstat().st_blocks * 512
    return total


def has_room(folder: Path, wanted_bytes: int) -> bool:
    """Whether the disk of a folder has so many bytes free; one that cannot be asked counts as if it had."""
    try:
        return shutil.disk_usage(folder).free >= wanted_bytes
    except OSError:
        return True
