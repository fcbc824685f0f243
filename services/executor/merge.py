"""Merging as a function of three commits: no worktree, no index, no ref takes part.

Invariants:

* The common ancestor is the one the caller names, never one that git looks for: a workstream is merged by what it
  changed since *its* base, however the line was rebuilt meanwhile. Both sides are given that base as their only
  parent in two throw-away commits, which every supported git understands (`--merge-base` needs 2.40).
* Clean, conflict and failure are told apart: a failure never passes for a conflict.
* The same input gives the same commit id. Commits of the line name their run, workstream and attempt in trailers,
  by which `blame_workstreams` finds whose changes a conflict met.

    MergeUnavailableError     git could not judge; nothing is known about the merge
"""

import asyncio
import os
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from services.diagnostic import printable
from services.executor.mirror import Mirror, MirrorError
from services.executor.snapshot import commit_tree
from services.git import COMMIT, GitError, readable
from services.outcome import usd_text

BLAMED_FILES_MAX: Final = 200
"""Conflicting files that are looked up; more say nothing new about whose changes collide."""

SIDE_BYTES_MAX: Final = 200_000
"""Of what one side has made of the conflicting files; enough to see what it wanted."""

# Sides are named by the ids of throw-away commits.
_MARKER: Final = re.compile(rb"^(?:<{7}|>{7}) [0-9a-f]{40,64}\r?$", re.MULTILINE)

_VALUE: Final = re.compile(r"\A[A-Za-z0-9_-]{1,128}\Z")


# Guessed renames would make conflicts of edits that do not touch: scopes name paths, not what became of folders.
_MERGE: Final = ("-c", "merge.renames=false", "-c", "merge.directoryRenames=false")


class MergeUnavailableError(Exception):
    """The merge could not be tried. `remedy` says what to do next."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}. {self.remedy}"


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides' changes in one tree."""

    tree: str


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """The sides disagree in `files`; `kinds` are git's words for how, such as `CONFLICT (contents)`, file by file.

    `paths` are the same files as git takes them. `tree` holds what could be merged and, where text could not, both sides between conflict markers (`is_marked`).
    """

    tree: str
    files: tuple[str, ...]
    paths: tuple[str, ...]
    kinds: tuple[str, ...]


Outcome: TypeAlias = Merged | Conflict


async def three_tree(mirror: Mirror, *, base: str, ours: str, theirs: str) -> Outcome:
    """What `theirs` changed since `base`, applied to `ours`; when the tree is that of `ours`, there is nothing to merge.

    All three are commits that the mirror has. Raises MergeUnavailableError.
    """
    mirror.guard()
    try:
        trees = await asyncio.gather(*(mirror.tree(commit) for commit in (base, ours, theirs)))
        if trees[1] in (trees[0], trees[2]) or trees[0] == trees[2]:
            return Merged(tree=trees[1] if trees[0] == trees[2] else trees[2])
        sides = await asyncio.gather(*(commit_tree(mirror.git, tree, [base], "side", 0) for tree in trees[1:]))
        done = await mirror.git.run(*_MERGE, "merge-tree", "--write-tree", "-z", "--messages", *sides, ok=(0, 1))
    except MirrorError as error:
        raise MergeUnavailableError(str(error.args[0]), error.remedy) from error
    except GitError as error:
        raise MergeUnavailableError(f"`{error.command}` failed: {error.stderr_tail}", error.remedy) from error
    tree, _, rest = done.stdout.partition(b"\0")
    if not COMMIT.match(tree.decode("ascii", "replace")):
        raise MergeUnavailableError("`git merge-tree` answered nothing that can be read", "Check the version of git.")
    name = tree.decode("ascii")
    return _conflict(name, rest) if done.exit_code else Merged(tree=name)


async def commit_on(
    mirror: Mirror,
    *,
    tree: str,
    parent: str,
    subject: str,
    run: str,
    workstream: str,
    attempt: int,
    time_ns: int,
    tools: Sequence[str] = (),
    cost_nano: int | None = None,
    reverts: bool = False,
) -> str:
    """Commits a merged tree on the line: one parent, so that the line reads like a list of workstreams.

    `tools` made what is merged, which cost so many nano-dollars (None: nothing that costs was used); `reverts`: it is
    taken out again.
    """
    if not (_VALUE.match(run) and _VALUE.match(workstream)):
        raise ValueError(f"{run!r} and {workstream!r} cannot be trailers: use letters, digits, '-' and '_'")
    line = printable(" ".join(subject.split())) or workstream
    trailers = [
        f"Swell-Run: {run}",
        f"Swell-Workstream: {workstream}",
        f"Swell-Attempt: {attempt}",
        *(f"Swell-Tool: {' '.join(tool.split())}" for tool in tools),
        *([f"Swell-Cost: {usd_text(cost_nano)}"] if cost_nano is not None else []),
        *([f"Swell-Reverts: {workstream}"] if reverts else []),
    ]
    commit = await commit_tree(mirror.git, tree, [parent], "\n".join([line, "", *trailers, ""]), time_ns)
    mirror.learn(commit, tree)
    return commit


async def blame_workstreams(mirror: Mirror, *, base: str, head: str, files: Sequence[str]) -> list[str]:
    """The workstreams whose commits between `base` and `head` touched any of `files`, latest first."""
    if not files or base == head:
        return []
    trailer = "%(trailers:key=Swell-Workstream,valueonly,separator=%x20)"
    listed = await mirror.git(
        "log", "-z", "--no-renames", f"--format={trailer}", f"{base}..{head}", "--", *files[:BLAMED_FILES_MAX]
    )
    return list(dict.fromkeys(name.strip() for name in listed.decode("utf-8", "replace").split("\0") if name.strip()))


def is_marked(content: bytes) -> bool:
    """Whether a conflict marker of ours is left in a file: they name commits, so no other text looks like them."""
    return _MARKER.search(content) is not None


async def side(mirror: Mirror, conflict: Conflict, *, base: str, commit: str) -> str:
    """What one side has made of the conflicting files since `base`, as a patch; "" where that is longer than SIDE_BYTES_MAX."""
    try:
        shown = await mirror.git(
            "diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", base, commit, "--",
            *conflict.paths[:BLAMED_FILES_MAX], output_bytes=SIDE_BYTES_MAX,
        )  # fmt: skip
    except GitError:
        return ""
    return shown.decode("utf-8", "backslashreplace")


def _conflict(tree: str, rest: bytes) -> Conflict:
    r"""Reads `<mode> <id> <stage>\t<path>` records, an empty one, then messages: count, paths, kind, text."""
    records, _, messages = rest.partition(b"\0\0")
    kinds = {record.partition(b"\t")[2]: b"CONFLICT" for record in records.split(b"\0")}
    fields = iter(messages.split(b"\0"))
    for count in fields:
        if not count.strip().isdigit():
            break
        paths = [next(fields, b"") for _ in range(int(count))]
        kind, _text = next(fields, b""), next(fields, b"")
        if kind.startswith(b"CONFLICT"):
            kinds |= {path: kind for path in paths if path in kinds}
    return Conflict(
        tree=tree,
        paths=tuple(os.fsdecode(path) for path in kinds),
        files=tuple(readable(path) for path in kinds),
        kinds=tuple(kind.decode("utf-8", "replace") for kind in kinds.values()),
    )
