"""Files that a `per_file` check has found nothing in, so that they need not be looked at again.

    <folder>/<checker>     one file for each checker: the marks of what it found clean, the newest last

A checker is everything but the file that its verdict depends on: its profile, what stands in its arguments, its program as
it lies on the disk, its setup, and the repository's files that it reads (`config_files`, and those it is given as arguments).
A mark is a file's path, mode and blob; so nothing but the very same file under the same name is ever spared.

Invariants: what cannot be read, is no such file, too large or not of its form, counts as empty and is written anew; both
folder and files are limited, what is oldest goes; nothing here is needed, and anybody may remove the folder at any time.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog

from services.executor.found import program_of
from services.executor.trial import file_identity
from services.git import Git
from services.profiles import ToolProfile, placeholders
from services.scope import Droppings

log = structlog.get_logger()

MARKS_MAX: Final = 20_000
CHECKERS_MAX: Final = 64
FILE_BYTES_MAX: Final = 1024 * 1024
LISTING_BYTES: Final = 512 * 1024 * 1024
_IN_WORKTREE: Final = re.compile(r"^(?:\{(?:worktree_path|repo_root|cwd)\}/|\./)")
_MARK: Final = r"[0-9a-f]{32}"
_FILE: Final = re.compile(rb"(?:100644|100755) blob [0-9a-f]{40,64}")

OF_ONE_CALL: Final = frozenset(
    {"files", "scratch", "cache", "worktree_path", "repo_root", "cwd", "run", "workstream", "step", "attempt", "python"}
)
"""Placeholders that differ from call to call, whatever is judged."""


class _Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checker: str
    marks: Annotated[list[Annotated[str, msgspec.Meta(pattern=f"^{_MARK}$")]], msgspec.Meta(max_length=MARKS_MAX)]


class CleanFiles:
    """What this executor's checks have found clean."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when it is first written to."""
        self._folder = folder

    def known(self, checker: str) -> set[str]:
        """The marks of what a checker found clean."""
        return set(self._read(checker))

    def add(self, checker: str, marks: Iterable[str]) -> None:
        """These too. A disk that takes nothing is no reason for anything: it is only logged."""
        new = list(dict.fromkeys(marks))
        if not new:
            return
        kept = [*(mark for mark in self._read(checker) if mark not in set(new)), *new][-MARKS_MAX:]
        file = self._folder / checker
        made = file.with_name(f"{checker}.new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            made.unlink(missing_ok=True)
            made.write_bytes(msgspec.json.encode(_Marks(checker, kept)))
            made.replace(file)
            self._forget()
        except OSError as error:
            log.warning("executor.clean_files_not_written", file=str(file), error=str(error))
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)

    def _read(self, checker: str) -> list[str]:
        try:
            file = os.open(self._folder / checker, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return []
            data = os.pread(file, FILE_BYTES_MAX + 1, 0)
            found = msgspec.json.decode(data, type=_Marks) if len(data) <= FILE_BYTES_MAX else None
        except (OSError, ValueError, RecursionError):
            return []
        finally:
            os.close(file)
        return found.marks if found is not None and found.checker == checker else []

    def _forget(self) -> None:
        """Removes what has not been written to for longest, beyond CHECKERS_MAX."""
        with os.scandir(self._folder) as entries:
            files = sorted(entries, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
        for entry in files[CHECKERS_MAX:]:
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


Listing = Mapping[str, str]
"""The regular files of a tree: path to mode and blob."""


async def listing(git: Git, commit: str) -> Listing:
    """What stands in a commit; links and submodules, whose content is elsewhere, are left out. Raises GitError."""
    data = await git("ls-tree", "-r", "-z", "--full-tree", commit, output_bytes=LISTING_BYTES)
    entries = (entry.partition(b"\t") for entry in data.split(b"\0") if entry)
    return {os.fsdecode(path): what.decode() for what, _, path in entries if _FILE.fullmatch(what)}


def mark(path: str, files: Listing) -> str | None:
    """The mark of a file, as it is handed to a tool; None for what has none."""
    path = path.removeprefix("./")
    what = files.get(path)
    return None if what is None else hashlib.sha256(os.fsencode(f"{what}\0{path}")).hexdigest()[:32]


def checker_of(
    name: str, profile: ToolProfile, context: Mapping[str, object], env: Mapping[str, str], files: Listing
) -> str | None:
    """What a check's verdict on a file depends on besides that file, in 64 hex digits; None when that cannot be told.

    It cannot be told for a program that is not found before it is started, such as one of the worktree.
    """
    program = program_of(profile, env["PATH"])
    if program is None:
        return None
    config = Droppings(profile.config_files)
    words = [word for argument in profile.args for word in ((argument,) if isinstance(argument, str) else argument)]
    words += [*profile.headless_args, *profile.env.values(), profile.stdin or ""]
    named = {_IN_WORKTREE.sub("", word) for word in words}
    read = sorted(path for path in files if path in named or config.matches(path))
    parts = [
        name,
        profile,
        str(program),
        file_identity(program),
        env.get("SWELL_SETUP_DIR", ""),
        {key: str(context.get(key)) for key in sorted(placeholders(profile, fix=False) - OF_ONE_CALL)},
        {key: os.environ.get(key, "") for key in sorted(profile.env_allow)},
        [(os.fsencode(path).hex(), files[path]) for path in read],
    ]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
