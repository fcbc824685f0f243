"""What checkers found, in one shape, whatever the checker.

A report comes from a process that ran code an agent wrote: it is limited in size and parsed strictly. Lines and columns
count from 1; paths are relative to the worktree. Invariant: a checker that crashed, or whose report is missing or does
not parse, is a ``ReportError``; it never looks like a checker without findings.
"""

from pathlib import Path

from services.diagnostic import Diagnostic
from services.executor.diagnostics import junit, mypy, ruff
from services.executor.diagnostics.report import DIAGNOSTICS_MAX, REPORT_BYTES, ReportError
from services.profiles import ReportFormat

__all__ = ["Diagnostic", "ReportError", "judge", "parse", "read"]


def parse(report_format: ReportFormat, data: bytes, *, worktree: Path) -> list[Diagnostic]:
    """The findings of a report, at most the first thousand; [] for the format "none", which reports nothing.

    Raises:
        ReportError: the report is larger than 10 MiB, or not what its format says.
    """
    if len(data) > REPORT_BYTES:
        raise ReportError(f"the report is larger than {REPORT_BYTES} bytes. Narrow down what the tool checks.")
    match report_format:
        case "ruff-json":
            found = ruff.parse(data, worktree)
        case "mypy-json":
            found = mypy.parse(data, worktree)
        case "junit-xml":
            found = junit.parse(data, worktree)
        case "none":
            found = []
    return found[:DIAGNOSTICS_MAX]


def judge(
    report_format: ReportFormat, data: bytes, *, worktree: Path, exit_code: int, success: bool
) -> list[Diagnostic]:
    """The same for a tool that has ended, with its exit code held against its report.

    Raises:
        ReportError: as ``parse``; and also when the tool did not succeed and yet names no error: it has crashed.
    """
    found = parse(report_format, data, worktree=worktree)
    if not success and report_format != "none" and not any(one.severity == "error" for one in found):
        raise ReportError(f"the tool ended with exit code {exit_code} and reported no error. Its output says why.")
    return found


def read(path: Path) -> bytes:
    """The bytes of a report file, one more than the limit at most.

    Raises:
        ReportError: there is none, or it is no regular file.
    """
    try:
        if not path.is_file() or path.is_symlink():
            raise ReportError(f"the tool wrote no report to {path.name}. Its output says why.")
        with path.open("rb") as file:
            return file.read(REPORT_BYTES + 1)
    except OSError as error:
        raise ReportError(f"the report {path.name} cannot be read ({error.strerror}).") from error
