"""What a tool left in its workspace, as a commit; and what that commit changes, as data and as a patch.

Invariants:

* The tree is that of the files as they lie there: untracked and deleted files, modes and links included, whatever the
  tool did with git meanwhile (commits, branches, a staged or broken index, no `.git` at all). Only ignored files and
  the droppings stay out, unless they are tracked.
* The same input gives the same commit id: author, committer and time zone are fixed, the time is given.
* The workspace keeps its content; only files that no tree can hold (sockets, pipes, devices) are removed from it.
* No nested repository becomes a submodule: it stays out as a whole, and is reported.
* Changes are read from trees, by `diff-tree --raw -z --no-renames`: both sides of a rename appear, no path is quoted.

    SnapshotError
"""

import asyncio
import contextlib
import itertools
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from services.executor.workspace import Manifest, Workspace
from services.git import Git, GitError, readable, text
from services.process import ProgramOutputError

FILE_BYTES_MAX: Final = 100 * 1024 * 1024
"""A larger file is not source; most git servers refuse it."""

LISTING_BYTES: Final = 512 * 1024 * 1024
LINK_TARGET_BYTES: Final = 4096

_AUTHOR: Final = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "Swell"), ("EMAIL", "swell@invalid"))
}
# Spellings of `.git` that some file system takes for it; git refuses them as well.
_GIT_NAMES: Final = frozenset({".git", "git~1"})
_SYMLINK: Final = "120000"
_GITLINK: Final = "160000"

SnapshotCode = Literal["FILE_TOO_LARGE", "UNREADABLE"]
Status = Literal["A", "D", "M", "T"]


class SnapshotError(Exception):
    """No snapshot can be taken. `code` is stable, `remedy` says what to do next."""

    def __init__(self, code: SnapshotCode, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}. {self.remedy}"


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: `changed` says whether its tree differs from the parent's; if not, `commit` is the parent.

    `left_out` are paths that no commit should hold: nested repositories, names that git refuses, special files.
    """

    commit: str
    tree: str
    changed: bool
    left_out: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True, kw_only=True):
    r"""One path that differs between two trees.

    `status`: added, deleted, modified, or changed in type. Modes are git's, in octal; "000000" where there is nothing.
    `path` is always valid text; where the name is not UTF-8, `is_utf8` is false and the odd bytes appear as `\xNN`.
    """

    status: Status
    path: str
    old_mode: str
    new_mode: str
    old_id: str
    new_id: str
    is_utf8: bool = True

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link now."""
        return self.new_mode == _SYMLINK

    @property
    def is_gitlink(self) -> bool:
        """Whether it is a submodule now."""
        return self.new_mode == _GITLINK


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """A readable patch; when it would be too long, `complete` is false and `content` lists sizes of changes only."""

    content: bytes
    complete: bool


def commit_environment(time_ns: int) -> dict[str, str]:
    """The environment that makes `commit-tree` deterministic; git counts whole seconds."""
    moment = f"@{max(time_ns, 0) // 1_000_000_000} +0000"  # `@`: small numbers would be read as dates
    return {**_AUTHOR, "GIT_AUTHOR_DATE": moment, "GIT_COMMITTER_DATE": moment}


async def take(
    workspace: Workspace, *, parent: str, message: str, time_ns: int, droppings: Sequence[str] = ()
) -> Taken:
    """Commits what lies in the workspace on top of `parent`.

    `time_ns` is the time of the commit, by the caller's choice (the attempt's `StepScheduled`), so that repeating it
    gives the same commit. `droppings` are gitignore patterns. No git process runs when the workspace is untouched and
    `parent` is what it was made from.

    Raises:
        SnapshotError: FILE_TOO_LARGE, UNREADABLE.
        GitError: git could not do it, for example because the disk is full.
    """
    now = await asyncio.to_thread(_scanned, workspace)
    if workspace.changed(now):
        tree, left_out = await _written(workspace, now, droppings)
    else:
        tree, left_out = workspace.tree, []
    mirror = workspace.mirror
    parents_tree = workspace.tree if parent == workspace.commit else await mirror.tree(parent)
    commit = parent
    if tree != parents_tree:
        commit = await commit_tree(mirror.git, tree, [parent], message, time_ns)
        mirror.learn(commit, tree)
    shown = tuple(readable(_as_bytes(path)) for path in left_out)
    return Taken(commit=commit, tree=tree, changed=tree != parents_tree, left_out=shown)


def _scanned(workspace: Workspace) -> Manifest:
    try:
        if not workspace.path.exists():
            workspace.path.mkdir()  # a tool that deletes even its own folder has deleted all files
        return workspace.scan()
    except OSError as error:
        raise SnapshotError(
            "UNREADABLE", f"the workspace cannot be read: {error}", "Find out what the tool did to its folder."
        ) from error


async def _written(workspace: Workspace, now: Manifest, droppings: Sequence[str]) -> tuple[str, list[str]]:
    """The tree of what lies in the workspace, and what stayed out of it."""
    workspace.mirror.guard()
    touched = [path for path in workspace.differences(now) if path in now]
    _make_readable(workspace.path, now, touched)
    with tempfile.TemporaryDirectory(prefix="snapshot-", dir=workspace.path.parent) as scratch:
        index, excludes = Path(scratch, "index"), Path(scratch, "excludes")
        with contextlib.suppress(FileNotFoundError):
            # With its time: git looks at the content of files as young as the index. A younger copy would make it trust
            # the status of a file that was rewritten in the very second it was checked out, and the change would be lost.
            shutil.copy2(workspace.index, index)
        git, settings = workspace.git(index), ("-c", f"core.excludesFile={excludes}")
        _write_excludes(excludes, droppings, [])
        left_out = await _left_out(git, settings, now, touched)
        if left_out:
            _write_excludes(excludes, droppings, left_out)
        await git(*settings, "-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", ".")
        return text(await git("write-tree")), left_out


async def _left_out(git: Git, settings: Sequence[str], now: Manifest, touched: Sequence[str]) -> list[str]:
    """What must stay out though nothing ignores it; raises SnapshotError for a file that is too large."""
    unfit = _unfit(now, touched)
    large = [path for path in touched if len(now[path]) > 1 and now[path][2] > FILE_BYTES_MAX]
    if not (unfit or large):
        return []
    ignored = await _ignored(git, settings, [*unfit, *large])
    for path in large:
        if path not in ignored:
            raise SnapshotError(
                "FILE_TOO_LARGE",
                f"{path} has {now[path][2]} bytes, over {FILE_BYTES_MAX}",
                "Add it to .gitignore or to `droppings` in swell.toml, or let the tool not make it.",
            )
    return [path for path in unfit if path not in ignored]


async def _ignored(git: Git, settings: Sequence[str], paths: Sequence[str]) -> set[str]:
    """`./` because this command takes no literal paths: a leading colon would mean something."""
    asked = {b"./" + _as_bytes(path): path for path in paths}
    listed = await git(
        *settings, "--no-literal-pathspecs", "check-ignore", "-z", "--stdin", stdin=b"\0".join(asked) + b"\0", ok=(0, 1)
    )
    return {asked[path] for path in listed.split(b"\0") if path}


async def commit_tree(git: Git, tree: str, parents: Iterable[str], message: str, time_ns: int) -> str:
    """The id of a new commit, which depends on nothing but the arguments; `tree` may be any name of a tree."""
    flags = [flag for parent in parents for flag in ("-p", parent)]
    committed = await git(
        "commit-tree", *flags, tree, stdin=message.encode("utf-8", "replace"), environment=commit_environment(time_ns)
    )
    return text(committed)


async def changes(git: Git, base_tree: str, tree: str) -> list[Change]:
    """What differs between two trees (or commits), in git's order of paths."""
    raw = await git(
        "diff-tree", "--raw", "-z", "--no-renames", "--no-abbrev", "-r", base_tree, tree, output_bytes=LISTING_BYTES
    )
    return parse_raw(raw)


def parse_raw(raw: bytes) -> list[Change]:
    """Reads `:<old mode> <new mode> <old id> <new id> <status>` and path, each ended by NUL."""
    fields = raw.split(b"\0")[:-1]
    found = []
    for head, path in zip(fields[::2], fields[1::2], strict=True):
        old_mode, new_mode, old_id, new_id, status = head.decode("ascii").removeprefix(":").split()
        found.append(
            Change(
                status=_status(status),
                path=readable(path),
                old_mode=old_mode,
                new_mode=new_mode,
                old_id=old_id,
                new_id=new_id,
                is_utf8=_is_utf8(path),
            )
        )
    return found


async def patch(git: Git, base: str, commit: str, max_bytes: int) -> Patch:
    """The patch from `base` to `commit`, which `git apply` takes; a statistic instead when it is over `max_bytes`."""
    command = ("diff-tree", "-p", "-r", "--no-ext-diff", "--no-textconv", "--no-color")
    try:
        content = await git(*command, "--binary", "--full-index", "-M", base, commit, output_bytes=max_bytes)
    except GitError as error:
        if not isinstance(error.__cause__, ProgramOutputError):
            raise
    else:
        return Patch(content=content, complete=True)
    stat_command = ("diff-tree", "-r", "--no-color", "--stat=120", "--stat-count=1000", "--summary")
    stat_text = await git(*stat_command, base, commit, output_bytes=LISTING_BYTES)
    mark = f"The patch is over {max_bytes} bytes; these are its files. Read it with: git diff {base} {commit}\n"
    return Patch(content=(mark.encode() + stat_text)[:max_bytes], complete=False)


async def hazards(git: Git, found: Sequence[Change], tree: str) -> list[str]:
    """Why a person should look at these changes of `tree`, whatever the scope says; each line names the path first.

    Links that leave the tree, submodules, names inside `.git`, names that are not text, and names that differ from
    another one of the tree only in case or Unicode form, which some checkouts cannot hold side by side.
    """
    new = [change for change in found if change.status != "D"]
    targets, twins = await asyncio.gather(_link_targets(git, new), _twins(git, new, tree))
    lines = []
    for change in new:
        lines += [f"{change.path}: {reason}" for reason in _reasons(change, targets.get(change.new_id))]
        if change.path in twins:
            lines.append(f"{change.path}: differs from {twins[change.path]} only in case or Unicode form")
    return lines


def _reasons(change: Change, target: bytes | None) -> list[str]:
    reasons = []
    parts = change.path.split("/")
    if change.is_gitlink:
        reasons.append("is a submodule")
    if parts[-1].casefold() == ".gitmodules":
        reasons.append("declares submodules")
    if any(part.casefold() in _GIT_NAMES for part in parts):
        reasons.append("is inside a .git folder")
    if not change.is_utf8:
        reasons.append("has a name that is not UTF-8")
    if change.is_symlink and (target is None or leaves_tree(change.path, target)):
        reasons.append("is a symbolic link that leaves the tree")
    return reasons


def leaves_tree(path: str, target: bytes) -> bool:
    """Whether a link at `path` may lead out of the tree, or into its `.git`; its text decides, not what it meets."""
    if target.startswith(b"/") or b"\0" in target or not target:
        return True
    depth = path.count("/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0 or part.lower() in (b".git", b"git~1"):
            return True
    return False


async def _link_targets(git: Git, new: Sequence[Change]) -> dict[str, bytes]:
    """Targets by object id; a link whose text is too long for a path is not in it."""
    wanted = sorted({change.new_id for change in new if change.is_symlink})
    if not wanted:
        return {}
    out = await git("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in wanted).encode())
    found, at = {}, 0
    for oid in wanted:
        end = out.index(b"\n", at)
        size = int(out[at:end].split()[-1])
        if size <= LINK_TARGET_BYTES:
            found[oid] = out[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    return found


async def _twins(git: Git, new: Sequence[Change], tree: str) -> dict[str, str]:
    """For each added path, another path (or folder) of the tree that folds to the same name."""
    added = [change.path for change in new if change.status == "A"]
    if not added:
        return {}
    listed = await git("ls-tree", "-r", "-z", "--name-only", "--full-tree", tree, output_bytes=LISTING_BYTES)
    by_fold: dict[str, set[str]] = {}
    wanted = {_folded(name) for path in added for name in _with_folders(path)}
    for name in itertools.chain.from_iterable(map(_with_folders, readable(listed).split("\0")[:-1])):
        if (folded := _folded(name)) in wanted:
            by_fold.setdefault(folded, set()).add(name)
    found = {}
    for path in added:
        for name in _with_folders(path):
            if others := by_fold.get(_folded(name), set()) - {name}:
                found[path] = min(others)
                break
    return found


def _with_folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _status(letter: str) -> Status:
    for status in get_args(Status):
        if letter == status:
            return status  # type: ignore[no-any-return]  # get_args knows no element type
    raise ValueError(f"git reports status {letter!r} between two trees")


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unfit(now: Manifest, touched: Sequence[str]) -> list[str]:
    """Roots of nested repositories, names that git refuses, and files that are none."""
    found = set()
    for path in touched:
        folder, _, name = path.rpartition("/")
        if name == ".git" and folder:
            found.add(folder)
        elif name.casefold() in _GIT_NAMES or not _is_content(now[path][0]):
            found.add(path)
    return sorted(found)


def _is_content(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)


def _make_readable(top: Path, now: Manifest, touched: Sequence[str]) -> None:
    """Lets git read every file, and removes what is no file: git fails where such a thing replaces a tracked one."""
    for path in touched:
        mode = now[path][0]
        if not _is_content(mode):
            (top / path).unlink()
        elif stat.S_ISREG(mode) and not mode & stat.S_IRUSR:
            (top / path).chmod(stat.S_IMODE(mode) | stat.S_IRUSR)


def _write_excludes(file: Path, droppings: Sequence[str], left_out: Sequence[str]) -> None:
    lines = (*droppings, *(f"/{_escaped(path)}" for path in left_out))
    file.write_bytes(b"".join(_as_bytes(line) + b"\n" for line in lines))


def _escaped(path: str) -> str:
    """A path as a gitignore pattern; the line breaks that would end it can only be said by a wildcard."""
    out = "".join(f"\\{char}" if char in "\\*?[ !#" else char for char in path)
    return out.replace("\n", "?").replace("\r", "?")


def _as_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
