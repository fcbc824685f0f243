"""Which paths of a repository a workstream may touch, and when two declarations collide.

A declared pattern is one of

* an exact path (`src/api/handler.py`), which as a directory also covers everything below it (`src/api`);
* a gitignore-like glob (`*`, `?`, `[..]`, `**`): with a `/` inside it is anchored at the root, without one it
  matches at any depth, and a matched directory covers everything below it. Negation is refused.

A pattern always covers the path spelt exactly like it, so `app/[slug]/page.tsx` means the file of that name too.

Invariants:

* Nothing here touches a disk; a path is text, compared exactly (case and Unicode form included).
* Two patterns overlap exactly when one's overlap key is a prefix of the other's (`overlap_key`). This errs on
  the side of a conflict: it never calls two patterns disjoint that can match one path.
* Matching a glob costs at most segments x segments: hostile patterns cannot make it backtrack. That is why the
  declared patterns are matched here and only droppings, whose wildcards are few, go through `pathspec`.
* A path inside a `.git` folder is in no scope, whatever is declared.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import msgspec
from pathspec import GitIgnoreSpec

PATH_BYTES_MAX: Final = 4096
"""Bytes of one path: PATH_MAX on Linux."""

PATTERN_SEGMENTS_MAX: Final = 64
"""Segments of one declared pattern; bounds the work of a match, and how deep declared paths can nest in a plan."""

DROPPING_CHARS_MAX: Final = 200
"""Characters of one dropping pattern."""

DROPPING_WILDCARDS_MAX: Final = 3
"""Runs of `*` in one dropping pattern; each multiplies what a regular expression may have to try."""

_DRIVE = re.compile(r"[A-Za-z]:")
_GLOB = re.compile(r"[*?\[]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Git itself refuses these two spellings of its folder: NTFS gives `.git` the short name `git~1`.
_GIT_NAMES: Final = frozenset({".git", "git~1"})


class ScopeError(ValueError):
    """A path or pattern that cannot be declared; carries what to do about it in `remedy`."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.remedy}"


def normalise(path: str) -> str:
    """One spelling per path: `/` as separator, without leading `./` and `/`, trailing `/`, empty or `.` segments.

    Raises:
        ScopeError: the path is empty, longer than `PATH_BYTES_MAX`, holds NUL or another control character,
            is not Unicode text, leaves the repository by a `..` segment, or lies in a `.git` folder.
    """
    shown = ascii(path[:40])
    if _CONTROL.search(path):
        raise ScopeError(f"path {shown} contains a control character", "remove it")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise ScopeError(f"path {shown} is not Unicode text", "spell it in UTF-8") from None
    if size > PATH_BYTES_MAX:
        raise ScopeError(f"path {shown}... is {size} bytes long", f"use at most {PATH_BYTES_MAX} bytes")
    segments = [s for s in path.replace("\\", "/").split("/") if s not in {"", "."}]
    if not segments:
        raise ScopeError(f"path {shown} is empty", "name a file or a folder inside the repository; `**` is everything")
    if ".." in segments:
        raise ScopeError(f"path {shown} contains '..'", "name the path as seen from the repository root")
    if any(map(_is_git, segments)):
        raise ScopeError(f"path {shown} lies in a .git folder", "leave git's own files out of every scope")
    return "/".join(segments)


def declare(pattern: str) -> str:
    """The normal form of a declared scope pattern; declaring the result again changes nothing.

    Raises:
        ScopeError: as `normalise`, and for absolute and drive paths, negation, surrounding white space,
            more than `PATTERN_SEGMENTS_MAX` segments, and `[[:class:]]`.
    """
    shown = ascii(pattern[:40])
    if pattern != pattern.strip():
        raise ScopeError(f"pattern {shown} begins or ends with white space", "remove it")
    if pattern.startswith("!"):
        raise ScopeError(f"pattern {shown} is a negation", "list what the workstream may touch, not what it may not")
    if pattern.startswith(("/", "\\")) or _DRIVE.match(pattern):
        raise ScopeError(f"path {shown} is absolute", "write it relative to the repository root, without a leading '/'")
    path = normalise(pattern)
    if path.count("/") >= PATTERN_SEGMENTS_MAX:
        raise ScopeError(f"pattern {shown} has too many segments", f"use at most {PATTERN_SEGMENTS_MAX}")
    if not _GLOB.search(path):
        return path
    if "[:" in path:
        raise ScopeError(f"pattern {shown} uses a character class like [:alpha:]", "spell out the range, as in [a-z]")
    if pattern.endswith(("/", "\\")) and not path.endswith("**"):
        # A final `/` means "folders only": keep that meaning in a form that survives without the slash.
        path = f"{path}/**" if "/" in path else f"**/{path}/**"
    return path


def overlap_key(pattern: str) -> str:
    """The text before the first wildcard of a declared pattern; an exact path ends in `/`.

    Two patterns overlap exactly when one's key is a prefix of the other's.
    """
    wildcard = _GLOB.search(pattern)
    if wildcard is None:
        return pattern + "/"
    return pattern[: wildcard.start()] if "/" in pattern else ""


def overlap(a: Iterable[str], b: Iterable[str]) -> tuple[str, str] | None:
    """The smallest pair (one of `a`, one of `b`) of declared patterns that overlap, or None.

    Exact path, directory prefix, or globs whose literal prefixes nest. The answer does not depend on the order.
    """
    keyed_b = [(overlap_key(p), p) for p in sorted(b)]
    for left in sorted(a):
        key = overlap_key(left)
        for other, right in keyed_b:
            if key.startswith(other) or other.startswith(key):
                return left, right
    return None


def nesting(keys: Iterable[str]) -> dict[str, str | None]:
    """Each distinct overlap key with the longest other key that is a prefix of it.

    Following the links from a key visits every key it lies in, so a planner sees all overlaps of n keys in
    O(n log n): sorted text puts everything that begins with a key right behind it.
    """
    parent: dict[str, str | None] = {}
    enclosing: list[str] = []
    for key in sorted(set(keys)):
        while enclosing and not key.startswith(enclosing[-1]):
            enclosing.pop()
        parent[key] = enclosing[-1] if enclosing else None
        enclosing.append(key)
    return parent


class ScopePattern(msgspec.Struct, frozen=True, kw_only=True):
    """One declared pattern in normal form."""

    text: str

    @classmethod
    def parse(cls, pattern: str) -> ScopePattern:
        """Raises `ScopeError` for what `declare` refuses."""
        return cls(text=declare(pattern))

    def covers(self, path: str) -> bool:
        """Whether `path`, spelt as git spells it, is matched or lies below what is matched."""
        return _covers(self.text, path)


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the declared scope does not allow.

    `status` is git's letter; `twin` is the other spelling that would have been allowed, or that collides, when the
    two differ only in case or Unicode form; else None.
    """

    status: str
    path: str
    message: str
    twin: str | None = None


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a workstream may do: change what `edit` covers, add what `edit` or `create` covers.

    Both hold declared patterns in normal form (`files_scope` and `files_create` of a bundle).
    """

    edit: tuple[str, ...]
    create: tuple[str, ...] = ()

    def outside(self, changed: Iterable[tuple[str, str]]) -> list[Violation]:
        """The changes that are not allowed, in the order given.

        `changed` is git's name-status list without rename detection: (`A`, `M`, `D` or `T`, path). A renamed file
        thus shows both its sides. Paths are compared exactly; one that differs from an allowed path only in case or
        Unicode form is a violation that names its twin, and so is a new file that is such a twin of another change.
        """
        entries = list(changed)
        spelt: dict[str, str] = {}
        violations = []
        for status, path in sorted(entries):
            if not status.startswith("D"):
                spelt.setdefault(_folded(path), path)
        for status, path in entries:
            allowed = self.edit + self.create if status[:1] in {"A", "C", "R"} else self.edit
            if _in_git(path) or not any(_covers(pattern, path) for pattern in allowed):
                violations.append(
                    Violation(
                        status=status,
                        path=path,
                        message=f"File {path!r} is not in declared scope",
                        twin=None if _in_git(path) else _twin(path, allowed),
                    )
                )
            elif status.startswith("A") and (first := spelt[_folded(path)]) != path:
                violations.append(
                    Violation(
                        status=status,
                        path=path,
                        message=f"File {path!r} differs from {first!r} only in case or Unicode form",
                        twin=first,
                    )
                )
        return violations


class Droppings:
    """What tools leave behind: full gitignore rules, the last matching one wins.

    Raises `ScopeError` for a pattern beyond `DROPPING_CHARS_MAX` or `DROPPING_WILDCARDS_MAX`, or one that is not valid.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            if len(pattern) > DROPPING_CHARS_MAX or len(re.findall(r"\*+", pattern)) > DROPPING_WILDCARDS_MAX:
                raise ScopeError(
                    f"dropping {pattern[:80]!a} is too complex",
                    f"use at most {DROPPING_CHARS_MAX} characters and {DROPPING_WILDCARDS_MAX} runs of '*'",
                )
        try:
            self._spec = GitIgnoreSpec.from_lines(patterns)
        except (ValueError, re.error) as error:
            raise ScopeError(f"not a gitignore pattern: {error}", "correct it or remove it") from None

    def matches(self, path: str) -> bool:
        return len(path) <= PATH_BYTES_MAX and self._spec.match_file(path)


def _is_git(segment: str) -> bool:
    return segment.casefold() in _GIT_NAMES


def _in_git(path: str) -> bool:
    return any(map(_is_git, path.split("/")))


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _twin(path: str, allowed: Sequence[str]) -> str | None:
    folded = _folded(path)
    return next((p for p in sorted(allowed) if _covers(_folded(p), folded)), None)


def _covers(pattern: str, path: str) -> bool:
    if path == pattern or path.startswith(pattern + "/"):
        return True
    return _GLOB.search(pattern) is not None and _glob_covers(_segments(pattern), path.split("/"))


def _glob_covers(pattern: Sequence[re.Pattern[str] | None], path: Sequence[str]) -> bool:
    """Run `pattern` as an automaton over the path's segments: a set of positions, never a choice to take back.

    None stands for `**`. Reaching the end early means that a directory above the path is matched.
    """
    end = len(pattern)
    positions = _skip({0}, pattern)
    for segment in path:
        following = set()
        for at in positions:
            step = pattern[at]
            if step is None:
                following.add(end if at == end - 1 else at)
            elif step.match(segment):
                following.add(at + 1)
        if end in following:
            return True
        positions = _skip(following, pattern)
    return False


def _skip(positions: set[int], pattern: Sequence[re.Pattern[str] | None]) -> set[int]:
    """Add what is reached by letting a `**` stand for nothing; a final one stands for at least one segment."""
    reached = set(positions)
    for at in positions:
        ahead = at
        while ahead < len(pattern) - 1 and pattern[ahead] is None:
            ahead += 1
            reached.add(ahead)
    return reached


@lru_cache(maxsize=4096)
def _segments(pattern: str) -> tuple[re.Pattern[str] | None, ...]:
    # fnmatch writes each run of text after a `*` as an atomic group: the first place it fits is final.
    anchored = pattern if "/" in pattern else f"**/{pattern}"
    return tuple(
        None if s == "**" else re.compile(fnmatch.translate(s.replace("[^", "[!"))) for s in anchored.split("/")
    )
