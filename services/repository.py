"""A person's repository as a run's starting point: what it is, whether a run may start from it, what stands in it.

Invariants:

* Nothing here changes anything: no ref, no index (not even its cached times), no file, no configuration.
* Content is read from git objects of a given commit, never from the checkout.
* This reads with the person's own git configuration, as their own `git status` would: their ignore files, line
  endings, content filters and `safe.directory` apply. Nothing that only the repository's configuration names is run:
  it may have come with the repository.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from services.git import COMMIT, Git, GitError, GitMissingError, readable, text, version_of

DIRTY_SHOWN_MAX: Final = 20
"""Paths named when a dirty checkout is refused; the count is always the true one."""

LISTING_BYTES: Final = 512 * 1024 * 1024
"""Bytes of one listing of a tree; about five million paths."""

FILTERS_BYTES: Final = 64 * 1024
"""Of all `filter.*` settings; they are handed to git in its environment."""

RepositoryCode = Literal[
    "GIT_MISSING", "NOT_A_REPOSITORY", "NO_COMMIT", "BASE_REF_MISSING", "SHALLOW", "DIRTY",
    "FILE_UNREADABLE", "FILE_TOO_LARGE", "BAD_PATTERN", "REMOTE_MISSING", "GIT_FAILED",
]  # fmt: skip


class RepositoryError(Exception):
    """A run cannot start from this repository. `code` is stable, `remedy` says what to do next."""

    def __init__(self, code: RepositoryCode, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}. {self.remedy}"


class RepositoryState(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs to know of its repository.

    `root` is the top of the checkout, or the repository itself when it is bare. `base_ref` is the full name of the ref
    that `base_commit` came from, or what was given when that is no ref; `branch` the checked-out branch, "" when
    there is none. `dirty` are up to DIRTY_SHOWN_MAX lines of status, of `dirty_count` in all.
    """

    root: Path
    base_commit: str
    base_ref: str
    tree: str
    branch: str
    bare: bool = False
    dirty: tuple[str, ...] = ()
    dirty_count: int = 0


def inspect(
    path: Path, *, base_ref: str | None = None, allow_dirty: bool = False, exempt: Sequence[Path] = ()
) -> RepositoryState:
    """Looks at the repository that holds `path`.

    `base_ref` is any name of a commit; default: what is checked out. A checkout that differs from its commit, be it by
    an untracked file, is refused when that commit is the base, because what a person sees would not be what runs;
    `allow_dirty` runs the commit and leaves the rest alone. `exempt` are files or folders that do not count, such as
    the bundles being submitted.

    Raises:
        RepositoryError: GIT_MISSING, NOT_A_REPOSITORY, SHALLOW, NO_COMMIT, BASE_REF_MISSING, DIRTY or GIT_FAILED.
    """
    root, bare = _root(path)
    git = _git(root)
    base_commit, base_name = _base(git, base_ref)
    head = _commit(git, "HEAD")
    dirty = [] if bare or base_commit != head else _dirty(git, root, exempt)
    if dirty and not allow_dirty:
        raise _refused_dirty(root, dirty)
    return RepositoryState(
        root=root,
        base_commit=base_commit,
        base_ref=base_name,
        tree=_one(git, "rev-parse", "--verify", f"{base_commit}^{{tree}}"),
        branch=_one(git, "symbolic-ref", "--quiet", "--short", "HEAD", ok=(0, 1)),
        bare=bare,
        dirty=tuple(dirty[:DIRTY_SHOWN_MAX]),
        dirty_count=len(dirty),
    )


def address_of(path: Path, remote: str) -> str:
    """What the repository that holds `path` has as the address of a remote it names.

    Raises:
        RepositoryError: NOT_A_REPOSITORY, REMOTE_MISSING, GIT_FAILED.
    """
    root, _ = _root(path)
    found = "" if remote.startswith("-") else _one(_git(root), "remote", "get-url", "--push", remote, ok=(0, 2, 128))
    if not found:
        raise RepositoryError(
            "REMOTE_MISSING",
            f"the repository has no remote {remote[:80]!r}",
            "Name one that `git remote` shows, or give an address or a path.",
        )
    return found


def read_file(root: Path, commit: str, path: str, max_bytes: int) -> bytes | None:
    """The content of `path` in `commit`; None when there is no such path.

    Raises:
        RepositoryError: FILE_UNREADABLE for a symbolic link, a folder or a submodule (what it leads to is not content
            of the commit), FILE_TOO_LARGE above `max_bytes`, GIT_FAILED.
    """
    git, path = _git(root), path.rstrip("/")
    found = _run(git, "ls-tree", "-z", "--long", "--full-tree", _checked(commit), "--", path) if path else b""
    entry = found.rstrip(b"\0")
    if not entry:
        return None
    mode, kind, oid, size = entry.partition(b"\t")[0].decode().split()
    if kind != "blob" or mode == "120000":
        what = "a symbolic link" if mode == "120000" else f"a {kind}"
        raise RepositoryError(
            "FILE_UNREADABLE", f"{path} at {commit[:12]} is {what}, not a file", "Replace it by a regular file."
        )
    if not size.isdecimal():
        raise RepositoryError("GIT_FAILED", f"the content of {path} at {commit[:12]} is missing", "Run `git fetch`.")
    if int(size) > max_bytes:
        raise RepositoryError(
            "FILE_TOO_LARGE", f"{path} at {commit[:12]} has {size} bytes, over {max_bytes}", "Make it smaller."
        )
    return _run(git, "cat-file", "blob", oid)


def list_files(root: Path, commit: str, limit: int) -> list[str]:
    """The first `limit` paths of `commit` in git's order; symbolic links and submodules are named as well."""
    names = _listing(_git(root), _checked(commit)).split(b"\0", limit)
    return [readable(name) for name in names[:limit] if name]


def list_folder(root: Path, commit: str, path: str, limit: int) -> dict[str, str] | None:
    """What stands in the folder `path` of `commit`, at most `limit` names: name to "folder", "file", "link" or "submodule".

    None when there is no such folder. Raises RepositoryError GIT_FAILED.
    """
    path = path.rstrip("/")
    listed = _run(
        _git(root), "ls-tree", "-z", "--full-tree", _checked(commit), "--", f"{path}/", output_bytes=LISTING_BYTES
    )
    entries = [entry for entry in listed.split(b"\0", limit)[:limit] if entry]
    found = {}
    for entry in entries:
        description, _, name = entry.partition(b"\t")
        found[readable(name.rpartition(b"/")[2])] = _KINDS.get(description.split()[0], "file")
    return found or None


def count_matching_lines(root: Path, commit: str, pattern: str) -> dict[str, int]:
    """The text files of `commit` with lines that match a POSIX extended regular expression: path to their number.

    Symbolic links and submodules are not looked into. Raises RepositoryError BAD_PATTERN, GIT_FAILED.
    """
    arguments = ("grep", "--no-color", "-E", "-I", "-c", "-z", "--full-name", "-e", pattern, _checked(commit), "--")
    try:
        output = _git(root).sync(*arguments, ok=(0, 1), output_bytes=LISTING_BYTES).stdout
    except GitMissingError as error:
        raise RepositoryError("GIT_MISSING", error.stderr_tail, error.remedy) from error
    except GitError as error:
        if "-e option" in error.stderr_tail:
            raise RepositoryError(
                "BAD_PATTERN", f"git cannot use the pattern: {error.stderr_tail}", "Write it as for `git grep -E`."
            ) from error
        raise RepositoryError("GIT_FAILED", f"`{error.command}` failed: {error.stderr_tail}", error.remedy) from error
    found = {}
    start = len(commit) + 1
    for line in output.split(b"\n"):
        name, _, count = line.partition(b"\0")
        if count:
            found[readable(name[start:])] = int(count)
    return found


_KINDS: Final = {b"040000": "folder", b"120000": "link", b"160000": "submodule"}


def _git(folder: Path) -> Git:
    return Git(folder, user_config=True)


def _run(
    git: Git,
    *args: str,
    ok: Sequence[int] = (0,),
    environment: dict[str, str] | None = None,
    output_bytes: int | None = None,
) -> bytes:
    try:
        return git.sync(*args, ok=ok, environment=environment, output_bytes=output_bytes).stdout
    except GitMissingError as error:
        raise RepositoryError("GIT_MISSING", error.stderr_tail, error.remedy) from error
    except GitError as error:
        raise RepositoryError("GIT_FAILED", f"`{error.command}` failed: {error.stderr_tail}", error.remedy) from error


def _one(git: Git, *args: str, ok: Sequence[int] = (0,)) -> str:
    return text(_run(git, *args, ok=ok))


def _checked(commit: str) -> str:
    if not COMMIT.match(commit):
        raise RepositoryError("BASE_REF_MISSING", f"{commit[:80]!r} is not a commit id", "Give the full id.")
    return commit


def _root(path: Path) -> tuple[Path, bool]:
    if not path.is_dir():
        raise RepositoryError("NOT_A_REPOSITORY", f"{path} is not a folder", "Name the folder of a git repository.")
    git = _git(path)
    version = _one(git, "version")
    try:
        version_of(version)
        facts = git.sync("rev-parse", "--is-bare-repository", "--is-shallow-repository", "--absolute-git-dir").stdout
    except GitMissingError as error:
        raise RepositoryError("GIT_MISSING", error.stderr_tail, error.remedy) from error
    except GitError as error:
        if "dubious ownership" in error.stderr_tail:
            raise RepositoryError("GIT_FAILED", error.stderr_tail, error.remedy) from error
        raise RepositoryError(
            "NOT_A_REPOSITORY", f"{path} is not inside a git repository", "Run `git init`, commit, and try again."
        ) from error
    bare, shallow, git_dir = text(facts).split("\n")
    if shallow == "true":
        raise RepositoryError(
            "SHALLOW", f"{path} is a shallow clone, its history is not complete", "Run `git fetch --unshallow`."
        )
    if bare == "true":
        return Path(git_dir), True
    if _one(git, "rev-parse", "--is-inside-work-tree") != "true":
        raise RepositoryError("NOT_A_REPOSITORY", f"{path} is inside a .git folder", "Name the checkout around it.")
    return Path(_one(git, "rev-parse", "--show-toplevel")), False


def _commit(git: Git, name: str) -> str:
    return _one(git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", ok=(0, 1, 128))


def _base(git: Git, base_ref: str | None) -> tuple[str, str]:
    commit = _commit(git, base_ref or "HEAD")
    if not COMMIT.match(commit):
        if base_ref is None or not _one(git, "rev-list", "--all", "--max-count=1"):
            raise RepositoryError("NO_COMMIT", "the repository has no commit to start from", "Commit something first.")
        raise RepositoryError(
            "BASE_REF_MISSING", f"{base_ref!r} names no commit of the repository", "See `git branch --all`."
        )
    name = base_ref or "HEAD"
    full = "" if name.startswith("-") else _one(git, "rev-parse", "--symbolic-full-name", name, ok=(0, 1, 128))
    return commit, full or name


def _listing(git: Git, commit: str) -> bytes:
    return _run(git, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, output_bytes=LISTING_BYTES)


def _dirty(git: Git, root: Path, exempt: Sequence[Path]) -> list[str]:
    """Lines of status, such as ` M src/a.py`; renames are two paths, as they touch both."""
    found = _run(
        git, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty",
        environment=_filters_of_the_person(git), output_bytes=LISTING_BYTES,
    )  # fmt: skip
    spared = [path.absolute().resolve() for path in exempt]
    lines = [line for line in found.split(b"\0") if line]
    return [readable(line) for line in lines if not _is_spared(root / _path_of(line), spared)]


def _filters_of_the_person(git: Git) -> dict[str, str]:
    """Settings by which the content filters of the repository's own configuration are those of the person again, or none."""
    listed = _run(git, "config", "--show-scope", "-z", "--get-regexp", r"^filter\.", ok=(0, 1))
    fields = listed.decode("utf-8", "surrogateescape").split("\0")[:-1]
    persons: dict[str, str] = {}
    repositorys: set[str] = set()
    for scope, entry in zip(fields[::2], fields[1::2], strict=True):
        key, _, value = entry.partition("\n")
        if scope in {"local", "worktree"}:
            repositorys.add(key)
        else:
            persons[key] = value
    if len(listed) > FILTERS_BYTES:
        raise RepositoryError(
            "GIT_FAILED",
            "the repository's configuration has too many content filters",
            "Remove filter.* from .git/config.",
        )
    environment = {"GIT_CONFIG_COUNT": str(len(repositorys))}
    for number, key in enumerate(sorted(repositorys)):
        nothing = "false" if key.endswith(".required") else ""
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = persons.get(key, nothing)
    return environment


def _path_of(line: bytes) -> str:
    """The path of one `git status --porcelain` line, as the file system spells it."""
    return line[3:].decode("utf-8", "surrogateescape")


def _is_spared(path: Path, spared: Sequence[Path]) -> bool:
    return any(path == entry or entry in path.parents for entry in spared)


def _refused_dirty(root: Path, dirty: Sequence[str]) -> RepositoryError:
    shown = ", ".join(line.strip() for line in dirty[:DIRTY_SHOWN_MAX])
    more = f" and {len(dirty) - DIRTY_SHOWN_MAX} more" if len(dirty) > DIRTY_SHOWN_MAX else ""
    return RepositoryError(
        "DIRTY",
        f"{root} has {len(dirty)} uncommitted change(s): {shown}{more}",
        "Commit or stash them, or allow a dirty checkout (--allow-dirty): the run then starts from the commit alone.",
    )
