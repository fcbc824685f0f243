"""Reports of ``mypy --output json``: one JSON object on each line."""

from pathlib import Path

import msgspec

from services.diagnostic import Diagnostic
from services.executor.diagnostics.report import MESSAGE_CHARS, ReportError, natural, relative, severity


class _Finding(msgspec.Struct, frozen=True):
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


def parse(data: bytes, worktree: Path) -> list[Diagnostic]:
    """One diagnostic for each line; nothing at all, or one empty line, is mypy's way to say that all is well."""
    diagnostics = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            finding = _finding.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            shown = line[:200].decode(errors="replace")
            raise ReportError(f"mypy printed something else than JSON in line {number}: {shown}") from error
        diagnostics.append(_diagnostic(finding, worktree))
    return diagnostics


def _diagnostic(finding: _Finding, worktree: Path) -> Diagnostic:
    # Columns count from 0, but those of its parser's errors from 1.
    first = 0 if finding.code == "syntax" else 1
    return Diagnostic(
        tool="mypy",
        path=relative(finding.file, worktree),
        line=natural(finding.line),
        column=natural(finding.column + first),
        end_line=natural(finding.end_line),
        end_column=None if finding.end_column is None else natural(finding.end_column + first),
        severity=severity(finding.severity),
        code=finding.code or "",
        message=": ".join(part for part in (finding.message, finding.hint) if part)[:MESSAGE_CHARS],
    )
