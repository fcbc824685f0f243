"""Reports of ``pyright --outputjson``, and of basedpyright.

Lines and columns count from 0. Without findings ``generalDiagnostics`` is empty; a report that says it analysed no file
is an error. Exit codes: 0, 1 findings, 2 a crash, 3 a bad configuration, 4 bad arguments.
"""

import msgspec

from services.executor.diagnostics.report import Findings, ReportError, decoded, severity, text_of


class _Place(msgspec.Struct, frozen=True, gc=False):
    line: int
    character: int


class _Range(msgspec.Struct, frozen=True, gc=False):
    start: _Place
    end: _Place


class _Finding(msgspec.Struct, frozen=True, gc=False):
    severity: str
    message: str
    file: str = ""
    rule: str | None = None
    range: _Range | None = None


class _Summary(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    files_analyzed: int = 1


class _Report(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    general_diagnostics: list[_Finding]
    summary: _Summary = _Summary()


_report = msgspec.json.Decoder(_Report)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each finding."""
    report = decoded(_report, text_of(data), "pyright's JSON report")
    if not report.general_diagnostics and report.summary.files_analyzed <= 0:
        raise ReportError("pyright found no source file, so it checked nothing. Name files, or correct its include.")
    for finding in report.general_diagnostics:
        start = finding.range.start if finding.range else None
        end = finding.range.end if finding.range else None
        found.add(
            tool="pyright",
            path=finding.file,
            line=start.line + 1 if start else None,
            column=start.character + 1 if start else None,
            end_line=end.line + 1 if end else None,
            end_column=end.character + 1 if end else None,
            severity=severity(finding.severity),
            code=finding.rule or "",
            message=finding.message,
        )
