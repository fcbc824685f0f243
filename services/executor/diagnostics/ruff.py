"""Reports of ``ruff check --output-format json``.

Without findings it is ``[]``. Exit codes: 0, 1 findings, 2 ruff could not work, and then it prints no report.
"""

import msgspec

from services.executor.diagnostics.report import Findings, decoded, severity, text_of


class _Place(msgspec.Struct, frozen=True, gc=False):
    row: int
    column: int


class _Finding(msgspec.Struct, frozen=True, gc=False):
    filename: str
    message: str
    location: _Place
    end_location: _Place
    code: str | None = None  # a syntax error has none
    severity: str = "error"


_findings = msgspec.json.Decoder(list[_Finding])


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each finding."""
    for finding in decoded(_findings, text_of(data), "ruff's JSON report"):
        found.add(
            tool="ruff",
            path=finding.filename,
            line=finding.location.row,
            column=finding.location.column,
            end_line=finding.end_location.row,
            end_column=finding.end_location.column,
            severity=severity(finding.severity),
            code=finding.code or "syntax-error",
            message=finding.message,
        )
