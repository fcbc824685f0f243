"""What all report parsers share: limits, the error, and paths as Swell writes them."""

from pathlib import Path, PurePosixPath

from services.diagnostic import Severity

REPORT_BYTES = 10 * 1024 * 1024
DIAGNOSTICS_MAX = 1_000  # more than anybody, or any prompt, can use; the rest shows when these are gone
MESSAGE_CHARS = 2_000


class ReportError(Exception):
    """A report is missing, too large, or not what its format says: the check has no verdict, which is no "all clear"."""


def relative(name: str, worktree: Path) -> str:
    """The path inside the worktree, with ``/``; a path outside of it stays as it is."""
    path = Path(name)
    if path.is_absolute():
        for root in (worktree, worktree.resolve()):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
    return str(PurePosixPath(name))


def natural(number: int | None) -> int | None:
    """A line or column that counts from 1; None for what a tool writes when it knows none (0, -1)."""
    return number if number is not None and number >= 1 else None


def severity(word: str) -> Severity:
    """A tool's own word for how bad it is; what is not known to be milder is an error."""
    match word.lower():
        case "warning" | "warn":
            return "warning"
        case "note" | "info" | "information" | "hint" | "help":
            return "info"
        case _:
            return "error"
