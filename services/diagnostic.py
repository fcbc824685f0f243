"""What a checker said about a place in the code, and the signature by which a recurring error is recognised.

Invariant: a signature does not change with what differs between two runs of the same failure (white space, case, where
the working folder lies, line numbers, durations, addresses, colours, temporary names, time of day), and does change
with the tool, the code or the words.

Pure. Time is linear in the text: no expression here can backtrack over it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec

OUTPUT_CHARS_MAX: Final = 1_000_000
"""Characters at the end of an output without diagnostics that enter its signature: tools say last what failed."""

Severity = Literal["error", "warning", "info"]


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One finding. `path` is relative to the repository; lines and columns count from 1; what is unknown is absent."""

    tool: str
    path: str = ""
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    severity: Severity = "error"
    code: str = ""
    message: str


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would act on, line ends included: for words from outside."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def error_signature(diagnostics: Sequence[Diagnostic], fallback: Sequence[tuple[str, int, str]] = ()) -> str:
    """SHA-256, in hex, of the sorted multiset of (tool, code, path, normalised message).

    `fallback` holds (tool, exit code, output) of the failed checks; it counts for those tools that have no diagnostic.
    A relative path counts whole, of an absolute one only the file name.
    """
    told = {d.tool for d in diagnostics}
    parts = [(d.tool, _flat(d.code), _placed(d.path), normalised(d.message)) for d in diagnostics]
    parts += [
        (tool, str(exit_code), "", normalised(output[-OUTPUT_CHARS_MAX:]))
        for tool, exit_code, output in fallback
        if tool not in told
    ]
    text = "\x1e".join("\x1f".join(part) for part in sorted(parts))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def normalised(message: str) -> str:
    """The words of a message: lower case, one space between them, `#` for what varies, of each path the last name."""
    text = _flat(_ESCAPE.sub("", message))
    text = _TOKEN.sub(_last_name, _DRIVE.sub("", text))
    for pattern in _VARYING:
        text = pattern.sub("#", text)
    return _flat(_ONE_MARK.sub("#", text))


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_DRIVE = re.compile(r"\b[a-z]:(?=[\\/])")
_TOKEN = re.compile(r"[^\s'\"`()\[\]{}<>,;:=|]+")
_VARYING = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},? (?=\d|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)",
        r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6} \d{1,2}\b",
        r"\b\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:z|[+-]\d\d:?\d\d)?)?\b",
        r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
        r"\b0x[0-9a-f]+\b",
        r"\btmp[._-]?(?=[a-z_]*\d|[a-z0-9_]{8}\b)[a-z0-9_]{6,}",
        r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b",
        r"\b\d+(?:[.,:]\d+)*(?: ?(?:ns|us|ms|s|secs?|seconds?|m|mins?|minutes?|h|hours?))?\b",
    )
)
_ONE_MARK = re.compile(r"#(?:[ :.,]{0,2}#)+")


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


def _placed(path: str) -> str:
    path = path.replace("\\", "/").strip()
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return path.rstrip("/").rpartition("/")[2].lower()
    return path.removeprefix("./").lower()


def _last_name(token: re.Match[str]) -> str:
    text = token.group().replace("\\", "/")
    return text.rstrip("/").rpartition("/")[2] or "/" if "/" in text else token.group()
