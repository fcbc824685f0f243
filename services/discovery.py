"""Plugins where they are found: in a folder of a repository at a commit, or in one on disk.

The repository's is ``plugins`` of its ``swell.toml``, read at the base commit of a run; the other is the scheduler's own.

Invariants: of a plugin nothing but its manifest is read; one that cannot be used refuses the whole folder, so no check is
missing in silence; no link below the folder is followed, and nothing is waited for.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.plugins import MANIFEST, MANIFEST_BYTES, PluginError, parse_manifest
from services.profiles import ToolProfile
from services.repository import RepositoryError, list_folder, read_file

PLUGINS_MAX: Final = 100
ENTRIES_MAX: Final = 10_000
"""Entries of a folder with plugins that are looked at."""


def plugins_at(root: Path, commit: str, folder: str) -> dict[str, ToolProfile]:
    """The plugins in a folder of a repository at a commit, by id. Only the commit counts, never the checkout.

    Raises:
        ProfileError: there is no such folder, it holds more than 100 plugins, or one that cannot be used.
        RepositoryError: git cannot tell what is there.
    """
    source = f"{folder} at {commit[:12]}"
    entries = list_folder(root, commit, folder, ENTRIES_MAX)
    if entries is None:
        raise PluginError(f"{source}: there is no such folder. Commit it, or mend `plugins` in swell.toml.")
    found = {}
    for name in _chosen(entries, source):
        file = f"{folder.rstrip('/')}/{name}/{MANIFEST}"
        try:
            data = read_file(root, commit, file, MANIFEST_BYTES)
        except RepositoryError as error:
            raise PluginError(str(error)) from error
        found[name] = _parsed(data, f"{file} at {commit[:12]}", name)
    return found


def load_plugins(folder: Path) -> dict[str, ToolProfile]:
    """The plugins in a folder on disk, by id. No link is followed below it, and nothing but regular files is read.

    Raises:
        ProfileError: it cannot be read, holds more than 100 plugins, or one that cannot be used.
    """
    try:
        with os.scandir(folder) as found:
            entries = {entry.name: _kind(entry) for entry, _ in zip(found, range(ENTRIES_MAX), strict=False)}
    except OSError as error:
        raise PluginError(f"{folder}: cannot be read ({error.strerror}). Check the path to the plugins.") from error
    return {
        name: _parsed(_read(folder / name), str(folder / name / MANIFEST), name)
        for name in _chosen(entries, str(folder))
    }


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def _chosen(entries: Mapping[str, str], source: str) -> list[str]:
    """The folders that must hold a plugin: all but those that are hidden or a cache of Python's. Files are passed over."""
    names = []
    for name, kind in sorted(entries.items()):
        if name.startswith((".", "__")) or kind == "file":
            continue
        if kind != "folder":
            raise PluginError(f"{source}: {name[:80]!r} is a {kind}, not a folder. Put the plugin itself there.")
        names.append(name)
    if len(names) > PLUGINS_MAX:
        raise PluginError(f"{source}: there are {len(names)} plugins. Use at most {PLUGINS_MAX}.")
    return names


def _parsed(data: bytes | None, source: str, folder: str) -> ToolProfile:
    if data is None:
        raise PluginError(f"{source}: there is no such file. Add it, or move the folder {folder!r} elsewhere.")
    return parse_manifest(data, source, folder)


def _read(folder: Path) -> bytes | None:
    """The manifest in a folder, one byte more than its limit at most; None when there is none. It never waits."""
    source = folder / MANIFEST
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        inside = os.open(folder, flags | os.O_DIRECTORY)
        try:
            file = os.open(MANIFEST, flags | os.O_NONBLOCK, dir_fd=inside)
        finally:
            os.close(inside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PluginError(f"{source}: cannot be read ({error.strerror}). It must be a regular file.") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise PluginError(f"{source}: is no regular file. Write the manifest there.")
        return os.pread(file, MANIFEST_BYTES + 1, 0)
    finally:
        os.close(file)
