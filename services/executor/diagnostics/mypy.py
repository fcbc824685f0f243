"""Reports of ``mypy --output json``: one JSON object on each line.

Nothing at all, or one empty line, is mypy's way to say that all is well. Exit codes: 0, 1 findings, 2 a syntax error,
which is a finding, or a crash, which prints text.
"""

import msgspec

from services.executor.diagnostics.report import Findings, ReportError, clean, decoded, lines_of, severity


class _Finding(msgspec.Struct, frozen=True, gc=False):
    file: str
    line: int
    column: int
    message: str
    severity: str
    end_line: int | None = None
    end_column: int | None = None
    hint: str | None = None
    code: str | None = None


_finding = msgspec.json.Decoder(_Finding)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each line."""
    for number, line in enumerate(lines_of(data), start=1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            raise ReportError(f"mypy printed something else than JSON in line {number}: {clean(line, 200)}")
        _add(decoded(_finding, line, f"line {number} of mypy's report"), found)


def _add(finding: _Finding, found: Findings) -> None:
    # Columns count from 0, but those of its parser's errors from 1.
    first = 0 if finding.code == "syntax" else 1
    found.add(
        tool="mypy",
        path=finding.file,
        line=finding.line,
        column=finding.column + first,
        end_line=finding.end_line,
        end_column=None if finding.end_column is None else finding.end_column + first,
        severity=severity(finding.severity),
        code=finding.code or "",
        message=": ".join(part for part in (finding.message, finding.hint) if part),
    )
