"""Reports in reviewdog's format: ``rdjson``, one document, and ``rdjsonl``, a diagnostic on each line.

They are protocol buffers in JSON, so a severity may be a number, and what is empty may be left out. Nothing at all is a
missing rdjson; rdjsonl has no other way to say that all is well.
"""

from typing import Final

import msgspec

from services.diagnostic import Severity
from services.executor.diagnostics.report import Findings, ReportError, clean, decoded, lines_of, severity, text_of

_NUMBERS: Final[dict[int, Severity]] = {1: "error", 2: "warning", 3: "info"}
_UNKNOWN: Final = frozenset({None, "", "UNKNOWN_SEVERITY", 0})


class _Place(msgspec.Struct, frozen=True, gc=False):
    line: int | None = None
    column: int | None = None


class _Range(msgspec.Struct, frozen=True, gc=False):
    start: _Place | None = None
    end: _Place | None = None


class _Location(msgspec.Struct, frozen=True, gc=False):
    path: str = ""
    range: _Range | None = None


class _Source(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class _Code(msgspec.Struct, frozen=True, gc=False):
    value: str = ""


class _Diagnostic(msgspec.Struct, frozen=True, gc=False):
    message: str
    location: _Location | None = None
    severity: str | int | None = None
    source: _Source | None = None
    code: _Code | None = None


class _Report(msgspec.Struct, frozen=True, gc=False):
    diagnostics: list[_Diagnostic] | None = None
    source: _Source | None = None
    severity: str | int | None = None


_report = msgspec.json.Decoder(_Report)
_diagnostic = msgspec.json.Decoder(_Diagnostic)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each of the document; source and severity of the document stand in for theirs."""
    report = decoded(_report, text_of(data), "the rdjson report")
    if report.diagnostics is None and report.source is None:
        raise ReportError("the rdjson report has neither diagnostics nor a source, so it is none.")
    for one in report.diagnostics or ():
        _add(one, report, found)


def parse_lines(data: bytes, found: Findings) -> None:
    """One diagnostic for each line."""
    for number, line in enumerate(lines_of(data), start=1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            raise ReportError(f"line {number} of the rdjsonl report is not JSON: {clean(line, 200)}")
        _add(decoded(_diagnostic, line, f"line {number} of the rdjsonl report"), _Report(), found)


def _add(one: _Diagnostic, report: _Report, found: Findings) -> None:
    location = one.location or _Location()
    span = location.range or _Range()
    start, end = span.start or _Place(), span.end or _Place()
    source = one.source or report.source
    level = report.severity if one.severity in _UNKNOWN else one.severity
    found.add(
        tool=(source.name if source else "") or "rdjson",
        path=location.path,
        line=start.line,
        column=start.column,
        end_line=end.line,
        end_column=end.column,
        severity=_severity(level),
        code=one.code.value if one.code else "",
        message=one.message,
    )


def _severity(level: str | int | None) -> Severity:
    return severity(level) if isinstance(level, str) else _NUMBERS.get(level or 0, "error")
