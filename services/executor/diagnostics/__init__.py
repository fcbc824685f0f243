"""What checkers found, in one shape, whatever the checker.

A report comes from a process that ran code an agent wrote: it is limited in size and parsed strictly. Lines and columns
count from 1; paths are relative to the worktree. Invariant: a checker that crashed, or whose report is missing or does
not parse, is a ``ReportError``; it never looks like a checker without findings.
"""

from pathlib import Path
from typing import Final

import msgspec

from services.diagnostic import Diagnostic
from services.executor.diagnostics import (
    cargo,
    eslint,
    gitlab,
    gotest,
    govet,
    junit,
    mypy,
    pattern,
    pyright,
    rdjson,
    ruff,
    sarif,
    tsc,
)
from services.executor.diagnostics.report import REPORT_BYTES, Counts, Findings, ReportError, read
from services.profiles import ReportFormat

__all__ = [
    "REPORT_DECIDES",
    "Counts",
    "Diagnostic",
    "ReportError",
    "Reported",
    "finding_codes",
    "judge",
    "parse",
    "read",
]

CRASH_CODES: Final[dict[ReportFormat, frozenset[int]]] = {
    "ruff-json": frozenset({2}),
    "eslint-json": frozenset({2}),
    "pyright-json": frozenset({2, 3, 4}),
}
"""Exit codes by which a tool says that it could not work, whatever else it printed."""

FINDING_CODES: Final[dict[ReportFormat, frozenset[int]]] = {
    "tsc-text": frozenset({1, 2}),
    "cargo-json": frozenset({101}),
    "go-vet-json": frozenset(),
}
"""Exit codes by which a tool says that it worked, and found something; of every other format it is 1.

A crash of a shell's child (128 and a signal), or of what ends with a code of its own, is none of them.
"""

ERRORS_ALONE: Final[frozenset[ReportFormat]] = frozenset({"cargo-json"})
"""Formats of tools that fail for errors only: with nothing but warnings they have failed for something else."""

MILD: Final[frozenset[ReportFormat]] = frozenset({"sarif", "rdjson", "rdjsonl", "gitlab-json", "pattern"})
"""Formats of tools that may fail for nothing worse than an info."""

REPORT_DECIDES: Final[frozenset[ReportFormat]] = frozenset({"go-vet-json"})
"""Formats of tools that end with success whatever they find, so that findings alone make a failure."""


class Reported(msgspec.Struct, frozen=True):
    """What a report says: its findings, and how many tests it tells of."""

    diagnostics: list[Diagnostic]
    counts: Counts


def parse(
    report_format: ReportFormat, data: bytes, *, worktree: Path, tool: str = "", expression: str = ""
) -> list[Diagnostic]:
    """The findings of a report; [] for the format "none", which reports nothing.

    At most the first thousand; where there are more, one last diagnostic (info, "more-findings") says how many.

    Args:
        report_format: which form it has.
        data: its bytes.
        worktree: the folder that paths are made relative to.
        tool: what the diagnostics call their tool; by default what the report says, or who it is of.
        expression: for the format "pattern": how a line with a finding looks.

    Raises:
        ReportError: the report is larger than 10 MiB, or not what its format says.
    """
    return _found(report_format, data, worktree, tool, expression).diagnostics()


def judge(
    report_format: ReportFormat,
    data: bytes,
    *,
    worktree: Path,
    exit_code: int,
    success: bool,
    tool: str = "",
    expression: str = "",
) -> Reported:
    """The same and its counts for a tool that has ended, with its exit code held against its report.

    Raises:
        ReportError: as ``parse``; and also when the tool did not succeed and yet names nothing it failed for, or its
            exit code says that it could not work: it has crashed.
    """
    found = _found(report_format, data, worktree, tool, expression)
    if success:
        return Reported(found.diagnostics(), found.tests)
    if exit_code in CRASH_CODES.get(report_format, ()):
        raise ReportError(f"the tool ended with exit code {exit_code}: it could not work. Its output says why.")
    severe = found.counts["error"]
    severe += found.counts["warning"] if report_format not in ERRORS_ALONE else 0
    severe += found.counts["info"] if report_format in MILD else 0
    if report_format != "none" and not severe:
        raise ReportError(f"the tool ended with exit code {exit_code} and reported no error. Its output says why.")
    return Reported(found.diagnostics(), found.tests)


def finding_codes(report_format: ReportFormat) -> frozenset[int]:
    """The exit codes, none of success, by which a tool says that it has findings and nothing worse."""
    return FINDING_CODES.get(report_format, frozenset({1}))


def _found(report_format: ReportFormat, data: bytes, worktree: Path, tool: str, expression: str) -> Findings:
    if len(data) > REPORT_BYTES:
        raise ReportError(f"the report is larger than {REPORT_BYTES} bytes. Narrow down what the tool checks.")
    found = Findings(worktree, tool, report_format)
    match report_format:
        case "ruff-json":
            ruff.parse(data, found)
        case "mypy-json":
            mypy.parse(data, found)
        case "junit-xml":
            junit.parse(data, found)
        case "sarif":
            sarif.parse(data, found)
        case "pyright-json":
            pyright.parse(data, found)
        case "eslint-json":
            eslint.parse(data, found)
        case "tsc-text":
            tsc.parse(data, found)
        case "cargo-json":
            cargo.parse(data, found)
        case "go-test-json":
            gotest.parse(data, found)
        case "go-vet-json":
            govet.parse(data, found)
        case "rdjson":
            rdjson.parse(data, found)
        case "rdjsonl":
            rdjson.parse_lines(data, found)
        case "gitlab-json":
            gitlab.parse(data, found)
        case "pattern":
            pattern.parse(data, found, expression)
        case "none":
            pass
    return found
