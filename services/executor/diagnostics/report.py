"""What all report parsers share: limits, the error, how bytes become text, and how findings are collected.

Invariants: whatever a report holds, what is collected is limited in number and size, printable but for line ends and
tabs, and free of terminal sequences; how many findings there were is told even where they are not kept.
"""

import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

import msgspec

from services.diagnostic import MORE_FINDINGS, Diagnostic, Severity
from services.executor.diagnostics.categories import category_of
from services.profiles import ReportFormat

REPORT_BYTES: Final = 10 * 1024 * 1024
DIAGNOSTICS_MAX: Final = 1_000  # more than anybody, or any prompt, can use; the rest shows when these are gone
MESSAGE_CHARS: Final = 2_000
PATH_CHARS: Final = 1_024
NAME_CHARS: Final = 200
NUMBER_MAX: Final = 2**31 - 1

_T = TypeVar("_T")
_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class ReportError(Exception):
    """A report is missing, too large, or not what its format says: the check has no verdict, which is no "all clear"."""


class Counts(msgspec.Struct, frozen=True):
    """How many tests a report tells of: all, those that failed or broke, those that were skipped. None: it does not tell."""

    tests: int | None = None
    failures: int | None = None
    skipped: int | None = None


class Findings:
    """What a parser finds, in order: the first DIAGNOSTICS_MAX as diagnostics, all of them as numbers by severity.

    A tool's words come in as they are; here they are cut, cleaned and put into Swell's form.
    """

    def __init__(self, worktree: Path, tool: str = "", report_format: ReportFormat = "none") -> None:
        """`tool` is what the diagnostics call their tool, whatever the report says; by default what the report says."""
        self.worktree = worktree
        self._format = report_format
        self.counts: dict[Severity, int] = {"error": 0, "warning": 0, "info": 0}
        self.tests = Counts()
        self._roots = (worktree, Path(os.path.realpath(worktree)))
        self._tool = tool
        self._kept: list[Diagnostic] = []

    @property
    def total(self) -> int:
        """How many findings there were, kept or not."""
        return sum(self.counts.values())

    @property
    def full(self) -> bool:
        """Whether a further finding is only counted, so that nothing needs to be found out about it."""
        return len(self._kept) == DIAGNOSTICS_MAX

    def count(self, severity: Severity) -> None:
        """One finding of which nothing is kept."""
        self.counts[severity] += 1

    def add(
        self,
        *,
        tool: str,
        message: str,
        path: str = "",
        line: int | None = None,
        column: int | None = None,
        end_line: int | None = None,
        end_column: int | None = None,
        severity: Severity = "error",
        code: str = "",
    ) -> None:
        """One finding; lines and columns count from 1, and are dropped where they cannot be."""
        self.counts[severity] += 1
        if self.full:
            return
        code = name(code)
        self._kept.append(
            Diagnostic(
                tool=self._tool or name(tool) or "unknown",
                path=self.relative(path),
                line=natural(line),
                column=natural(column),
                end_line=natural(end_line),
                end_column=natural(end_column),
                severity=severity,
                category=category_of(self._format, (tool[:NAME_CHARS], self._tool), code, severity),
                code=code,
                message=clean(message, MESSAGE_CHARS).strip() or code or "no message",
            )
        )

    def relative(self, path: str) -> str:
        """The path inside the worktree, with ``/``; one outside of it as it is; nothing for what is no path."""
        if not path or len(path) > PATH_CHARS or not path.isprintable():
            return ""
        pure = PurePosixPath(path)
        for root in self._roots if pure.is_absolute() else ():
            if pure.is_relative_to(root):
                return str(pure.relative_to(root))
        return os.path.normpath(pure)

    def file_inside(self, path: str) -> str | None:
        """The same for a regular file of the worktree; None for anything else, links that lead out of it included."""
        path = self.relative(path)
        if not path or path.startswith(("/", "..", "<")):
            return None
        try:
            whole = f"{self._roots[1]}/{path}"
            if not stat.S_ISREG(os.stat(whole).st_mode):  # noqa: PTH116  # asked of thousands of paths
                return None
            return path if Path(os.path.realpath(whole)).is_relative_to(self._roots[1]) else None
        except (OSError, ValueError):
            return None

    def diagnostics(self) -> list[Diagnostic]:
        """Those that were kept, and where there were more a last one that says how many."""
        more = self.total - len(self._kept)
        if not more:
            return self._kept
        last = Diagnostic(
            tool=self._kept[-1].tool,
            severity="info",
            code=MORE_FINDINGS,
            message=f"{more} more findings are not shown; there are {self.total} in all",
        )
        return [*self._kept, last]


def clean(text: str, chars: int) -> str:
    """At most so many characters of the text, without terminal sequences and control characters."""
    text = text[: 4 * chars]  # so that what is searched is limited as well
    if text.isprintable():
        return text[:chars]
    return _CONTROL.sub("", _ESCAPE.sub("", text))[:chars]


def name(text: str) -> str:
    """The same for a name of a tool or a rule: one line, and short."""
    return " ".join(clean(text, NAME_CHARS).split())


def natural(number: int | None) -> int | None:
    """A line or column that counts from 1; None for what a tool writes when it knows none (0, -1), or that is absurd."""
    return number if number is not None and 1 <= number <= NUMBER_MAX else None


def digits(text: str | None) -> int | None:
    """The number that these ASCII digits write; None for anything else."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= 10 else None


def severity(word: str) -> Severity:
    """A tool's own word for how bad it is; what is not known to be milder is an error."""
    match word.lower():
        case "warning" | "warn" | "w":
            return "warning"
        case "note" | "info" | "information" | "hint" | "help" | "none" | "i" | "n":
            return "info"
        case _:
            return "error"


def text_of(data: bytes) -> str:
    """The text of a report: UTF-8, or UTF-16 with its mark; bytes that are neither are replaced."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def lines_of(data: bytes) -> Iterator[str]:
    """Its lines, one at a time, without their ends. Only line feeds end a line: JSON may hold the other separators."""
    for line in io.StringIO(text_of(data), newline="\n"):
        yield line.rstrip("\r\n")


def decoded(decoder: msgspec.json.Decoder[_T], text: str, what: str) -> _T:
    """The value that a text of JSON holds. Of a key that stands twice in an object, the last counts.

    Raises:
        ReportError: it is empty, no JSON, cut short, not of the expected form, or nested too deeply.
    """
    if not text.strip():
        raise ReportError(f"{what} is missing: the tool wrote nothing. Its standard error says why.")
    try:
        return decoder.decode(text)
    except RecursionError as error:
        raise ReportError(f"{what} is unreadable: nested too deeply for any report.") from error
    except (msgspec.MsgspecError, ValueError) as error:
        shown = clean(text[:200], 120).strip()
        raise ReportError(
            f"{what} is unreadable: {clean(str(error), 300)}. It begins with {shown!r}; the tool's output says why."
        ) from error


def read(path: Path) -> bytes:
    """The bytes of a report file, one more than the limit at most. It never waits, and follows no link.

    Raises:
        ReportError: there is none, or it is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ReportError(f"the tool wrote no report to {path.name}. Its output says why.") from error
    except (OSError, ValueError) as error:
        raise ReportError(f"the report {path.name} cannot be read ({error}). It must be a regular file.") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ReportError(f"the report {path.name} is no regular file. Have the tool write one.")
        return os.pread(descriptor, REPORT_BYTES + 1, 0)
    except OSError as error:
        raise ReportError(f"the report {path.name} cannot be read ({error.strerror}).") from error
    finally:
        os.close(descriptor)
