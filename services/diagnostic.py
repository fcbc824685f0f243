"""What a checker said about a place in the code, and the signature by which a recurring error is recognised.

Invariant: a signature does not change with what differs between two runs of the same failure (white space, case, where
the working folder lies, line numbers, durations, addresses, colours, temporary names, time of day), and does change
with the tool, the code or the words.

Pure. Time is linear in the text: no expression here can backtrack over it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec

OUTPUT_CHARS_MAX: Final = 1_000_000
"""Characters at the end of an output without diagnostics that enter its signature: tools say last what failed."""

Severity = Literal["error", "warning", "info"]
Category = Literal["syntax", "type", "style", "formatting", "security", "test_failure", "other"]

HARD_FAILS: Final[frozenset[Category]] = frozenset({"syntax", "type", "test_failure"})
"""What no setting lets pass."""

MORE_FINDINGS: Final = "more-findings"
"""The code of a last diagnostic that says how many there are in all; it is none itself."""


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One finding. `path` is relative to the repository; lines and columns count from 1; what is unknown is absent."""

    tool: str
    path: str = ""
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    severity: Severity = "error"
    category: Category = "other"
    code: str = ""
    message: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What diagnostics come to, all together.

    `has_hard_fail`: one of them is of HARD_FAILS. `style_only`: there are some, and all are style or formatting.
    """

    total_issues: int
    issues_by_tool: dict[str, int]
    issues_by_category: dict[Category, int]
    has_hard_fail: bool
    style_only: bool
    total_errors: int
    total_warnings: int


def summarise(diagnostics: Sequence[Diagnostic]) -> Summary:
    """The summary of those that are kept: what MORE_FINDINGS stands for is not counted."""
    kept = [one for one in diagnostics if one.code != MORE_FINDINGS]
    categories = Counter(one.category for one in kept)
    severities = Counter(one.severity for one in kept)
    return Summary(
        total_issues=len(kept),
        issues_by_tool=dict(sorted(Counter(one.tool for one in kept).items())),
        issues_by_category=dict(sorted(categories.items())),
        has_hard_fail=not HARD_FAILS.isdisjoint(categories),
        style_only=bool(kept) and categories.keys() <= {"style", "formatting"},
        total_errors=severities["error"],
        total_warnings=severities["warning"],
    )


def tolerable(diagnostics: Sequence[Diagnostic]) -> bool:
    """Whether a check that failed for these may pass where `strict` is off: there are some, all are known, none is hard."""
    return (
        bool(diagnostics)
        and all(one.code != MORE_FINDINGS for one in diagnostics)
        and not summarise(diagnostics).has_hard_fail
    )


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
