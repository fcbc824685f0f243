"""Reports of ``ruff check --output-format json``."""

from pathlib import Path

import msgspec

from services.diagnostic import Diagnostic
from services.executor.diagnostics.report import MESSAGE_CHARS, ReportError, natural, relative, severity


class _Place(msgspec.Struct, frozen=True):
    row: int
    column: int


class _Finding(msgspec.Struct, frozen=True):
    filename: str
    message: str
    location: _Place
    end_location: _Place
    code: str | None = None  # a syntax error has none
    severity: str = "error"


_findings = msgspec.json.Decoder(list[_Finding])


def parse(data: bytes, worktree: Path) -> list[Diagnostic]:
    """One diagnostic for each finding."""
    try:
        findings = _findings.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ReportError(f"ruff did not print a JSON report ({error}). Its standard error says why.") from error
    return [
        Diagnostic(
            tool="ruff",
            path=relative(finding.filename, worktree),
            line=natural(finding.location.row),
            column=natural(finding.location.column),
            end_line=natural(finding.end_location.row),
            end_column=natural(finding.end_location.column),
            severity=severity(finding.severity),
            code=finding.code or "syntax-error",
            message=finding.message[:MESSAGE_CHARS],
        )
        for finding in findings
    ]
