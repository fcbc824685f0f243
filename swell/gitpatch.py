"""What a patch in git's format says, file by file. Pure: nothing is opened, nothing is applied.

Paths are read as git writes them: quoted in C's way, with a tab behind a name that has spaces, `/dev/null` for no file.
Text around the files, such as the head and the foot of a mail, says nothing and is passed over.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

START: Final = b"diff --git "

Status = Literal["added", "deleted", "modified", "renamed", "copied"]

_HUNK: Final = re.compile(rb"@@ -\d{1,18}(?:,(\d{1,18}))? \+\d{1,18}(?:,(\d{1,18}))? @@")
_INDEX: Final = re.compile(rb"index ([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: ([0-7]{6}))?\Z")
_MODE: Final = re.compile(rb"(old mode|new mode|new file mode|deleted file mode) ([0-7]{6})\Z")
_MOVE: Final = re.compile(rb"(rename|copy) (from|to) (.+)\Z", re.DOTALL)
_ESCAPES: Final = {
    b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r", b'"': b'"', b"\\": b"\\",
}  # fmt: skip
_ESCAPED: Final = re.compile(rb'\\([0-3][0-7]{2}|[abtnvfr"\\])')
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


class PatchFormatError(ValueError):
    """The text cannot be read as a patch of git. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class FilePatch(msgspec.Struct, kw_only=True):
    """What a patch does to one file.

    `old_path` is None for a file that is made, `new_path` for one that is deleted; names are bytes, as in the file system.
    Modes are git's, in octal, and ids those of git's objects, shortened or not; both are "" where the patch does not say.
    """

    old_path: bytes | None
    new_path: bytes | None
    old_mode: str = ""
    new_mode: str = ""
    old_id: str = ""
    new_id: str = ""
    copied: bool = False
    binary: bool = False
    hunks: int = 0
    additions: int = 0
    deletions: int = 0

    @property
    def status(self) -> Status:
        """What becomes of the file."""
        if self.old_path is None:
            return "added"
        if self.new_path is None:
            return "deleted"
        if self.old_path == self.new_path:
            return "modified"
        return "copied" if self.copied else "renamed"

    @property
    def path(self) -> bytes:
        """Its name afterwards; of a deleted file the one it had."""
        path = self.old_path if self.new_path is None else self.new_path
        return path or b""


def parse_patch(content: bytes) -> list[FilePatch]:
    """What the patch does, in its order; nothing for an empty one. Raises PatchFormatError."""
    lines = content.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    files = []
    at = 0
    while at < len(lines):
        if lines[at].startswith(START):
            file, at = _file(lines, at)
            files.append(file)
        else:
            at += 1
    if not files and content.strip():
        raise PatchFormatError(1, "no line begins with `diff --git`")
    return files


def _file(lines: list[bytes], at: int) -> tuple[FilePatch, int]:
    """The file whose section begins at a line, and the line behind the section."""
    start = at
    names = _names(lines[at][len(START) :])
    file = FilePatch(old_path=names, new_path=names)
    made = deleted = False
    at += 1
    while at < len(lines):
        line = lines[at]
        if mode := _MODE.match(line):
            said = mode[2].decode()
            made |= mode[1] == b"new file mode"
            deleted |= mode[1] == b"deleted file mode"
            if mode[1].startswith(b"new"):
                file.new_mode = said
            else:
                file.old_mode = said
        elif move := _MOVE.match(line):
            path = _unquoted(move[3], at)
            file.copied = move[1] == b"copy"
            if move[2] == b"from":
                file.old_path = path
            else:
                file.new_path = path
        elif index := _INDEX.match(line):
            file.old_id, file.new_id = index[1].decode(), index[2].decode()
            if index[3]:
                file.old_mode = file.new_mode = index[3].decode()
        elif line.startswith((b"similarity index ", b"dissimilarity index ")):
            pass
        else:
            break
        at += 1
    if at < len(lines) and lines[at].startswith(b"--- "):
        if at + 1 >= len(lines) or not lines[at + 1].startswith(b"+++ "):
            raise PatchFormatError(at + 2, "`+++` is missing")
        old, new = _side(lines[at][4:], b"a/", at), _side(lines[at + 1][4:], b"b/", at + 1)
        file.old_path, file.new_path = old, new
        made, deleted = made or old is None, deleted or new is None
        at = _hunks(lines, at + 2, file)
    elif at < len(lines) and (lines[at] == b"GIT binary patch" or lines[at].startswith(b"Binary files ")):
        file.binary = True
        at += 1
    if made:
        file.old_path = None
    if deleted:
        file.new_path = None
    if file.old_path is None and file.new_path is None:
        raise PatchFormatError(start + 1, "the name of the file cannot be read")
    return file, at


def _hunks(lines: list[bytes], at: int, file: FilePatch) -> int:
    """Count the hunks of a file; the line behind them. What stands in a hunk is content, whatever it looks like."""
    while at < len(lines) and (hunk := _HUNK.match(lines[at])):
        file.hunks += 1
        old, new = (1 if count is None else int(count) for count in hunk.groups())
        at += 1
        while old > 0 or new > 0 or (at < len(lines) and lines[at].startswith(b"\\")):
            if at >= len(lines):
                raise PatchFormatError(at, "the patch ends within a hunk")
            match lines[at][:1]:
                case b"+":
                    new, file.additions = new - 1, file.additions + 1
                case b"-":
                    old, file.deletions = old - 1, file.deletions + 1
                case b" " | b"":
                    old, new = old - 1, new - 1
                case b"\\":
                    pass
                case _:
                    raise PatchFormatError(at + 1, "a line of a hunk begins with ' ', '+', '-' or '\\'")
            at += 1
        if old < 0 or new < 0:
            raise PatchFormatError(at, "a hunk is longer than it says")
    return at


def _names(text: bytes) -> bytes | None:
    """The one name in `a/NAME b/NAME`; None where there are two, which other lines then tell."""
    if text.startswith(b'"'):
        if (first := _QUOTED.match(text)) is None:
            return None
        old, new = first[0], text[first.end() + 1 :]
    else:
        half = len(text) // 2
        old, new = text[:half], text[half + 1 :]
    try:
        old, new = _unquoted(old, 0), _unquoted(new, 0)
    except PatchFormatError:
        return None
    named = old.startswith(b"a/") and new.startswith(b"b/") and old[2:] == new[2:]
    return old[2:] if named else None


def _side(text: bytes, prefix: bytes, at: int) -> bytes | None:
    """The name behind `---` or `+++`, None for no file."""
    quoted = _QUOTED.match(text)
    name = _unquoted(quoted[0] if quoted else text.partition(b"\t")[0], at)
    if name == b"/dev/null":
        return None
    if not name.startswith(prefix):
        raise PatchFormatError(at + 1, f"the name does not begin with {prefix.decode()}")
    return name[len(prefix) :]


def _unquoted(text: bytes, at: int) -> bytes:
    """A name as it is in the file system."""
    if not text.startswith(b'"'):
        return text
    if not _QUOTED.fullmatch(text) or b"\\" in _ESCAPED.sub(b"", text):
        raise PatchFormatError(at + 1, "a quoted name cannot be read")

    def meant(match: re.Match[bytes]) -> bytes:
        return _ESCAPES.get(match[1]) or bytes([int(match[1], 8)])

    return _ESCAPED.sub(meant, text[1:-1])


__all__ = ["FilePatch", "PatchFormatError", "parse_patch"]
