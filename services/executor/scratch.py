"""The folder of one attempt, outside of every worktree: home, temporary files and caches of its tools, and what they print.

    <root>/attempt-<random>/home, tmp, cache

All of it goes when the attempt is over. Caches as well: what a tool wrote must not speak for what another attempt is given.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Final

from services.executor.workspace import removed

FOLDERS: Final = ("home", "tmp", "cache")
PREFIX: Final = "attempt-"


def caches(folder: Path) -> dict[str, str]:
    """Where programs put what they have fetched or worked out before: most obey the first variable, pip and npm their own."""
    return {
        "XDG_CACHE_HOME": str(folder),
        "PIP_CACHE_DIR": str(folder / "pip"),
        "npm_config_cache": str(folder / "npm"),
    }


class Scratches:
    """The folders below `root` of attempts that are under way, and a few that stand ready."""

    def __init__(self, root: Path, kept: int) -> None:
        """`kept` is how many may stand ready."""
        self._root = root
        self._kept = kept
        self._ready: list[Path] = []
        self._used: set[Path] = set()
        self.removing: set[asyncio.Task[None]] = set()

    def take(self) -> Path:
        """A folder for one attempt; one that was given back clean is as good as new, and cheaper."""
        if self._ready:
            folder = self._ready.pop()
        else:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._root))
            for name in FOLDERS:
                (folder / name).mkdir()
        self._used.add(folder)
        return folder

    def give_back(self, folder: Path) -> None:
        """The attempt is over: what it left is removed, behind its back if there is much of it."""
        if len(self._ready) < self._kept and _emptied(folder):
            self._used.discard(folder)
            self._ready.append(folder)
            return
        task = asyncio.create_task(self._removed(folder))
        self.removing.add(task)
        task.add_done_callback(self.removing.discard)

    async def _removed(self, folder: Path) -> None:
        try:
            await removed(folder)
        finally:
            self._used.discard(folder)

    def left(self) -> list[Path]:
        """Folders of attempts that are over, and which could not be removed."""
        known = {*self._ready, *self._used}
        return [folder for folder in sorted(self._root.glob(f"{PREFIX}*")) if folder not in known]


def _emptied(folder: Path) -> bool:
    """Remove the files of a scratch folder; False when anything else is there that should not be."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
        kept = 0
        for entry in found:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()
            elif entry.name not in FOLDERS or any(Path(entry.path).iterdir()):
                return False
            else:
                kept += 1
    except OSError:
        return False
    return kept == len(FOLDERS)
