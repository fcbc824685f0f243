"""Reports in GitLab's code quality format, a part of Code Climate's: one list of issues.

Without findings it is ``[]``. It does not name its tool. Severities: critical, blocker and major are errors, minor is a
warning, info is info.
"""

from typing import Final

import msgspec

from services.diagnostic import Severity
from services.executor.diagnostics.report import Findings, decoded, text_of

_SEVERITIES: Final[dict[str, Severity]] = {"info": "info", "minor": "warning"}


class _Place(msgspec.Struct, frozen=True, gc=False):
    line: int | None = None
    column: int | None = None


class _Lines(msgspec.Struct, frozen=True, gc=False):
    begin: int | _Place | None = None
    end: int | _Place | None = None


class _Location(msgspec.Struct, frozen=True, gc=False):
    path: str
    lines: _Lines | None = None
    positions: _Lines | None = None


class _Issue(msgspec.Struct, frozen=True, gc=False):
    description: str
    location: _Location
    check_name: str = ""
    severity: str = "major"


_issues = msgspec.json.Decoder(list[_Issue])


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each issue."""
    for issue in decoded(_issues, text_of(data), "the GitLab code quality report"):
        span = issue.location.positions or issue.location.lines or _Lines()
        start, end = _place(span.begin), _place(span.end)
        found.add(
            tool="gitlab",
            path=issue.location.path,
            line=start.line,
            column=start.column,
            end_line=end.line,
            end_column=end.column,
            severity=_SEVERITIES.get(issue.severity.lower(), "error"),
            code=issue.check_name,
            message=issue.description.removeprefix(f"{issue.check_name}: "),
        )


def _place(given: int | _Place | None) -> _Place:
    return given if isinstance(given, _Place) else _Place(line=given)
