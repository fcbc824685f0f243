"""Findings by a regular expression of the profile, for a tool that has none of the other formats.

Each line is matched from its beginning; one that is empty or does not match says nothing. Nothing at all is a clean run, if the tool
ended with success. Time is bounded: a line by the expression's own worst case (``expression``), and all together by
MATCHING_S, after which the report has no verdict.
"""

import time
from typing import Final

from services.executor.diagnostics.report import Findings, ReportError, clean, digits, lines_of, severity
from services.expression import LINE_CHARS, ExpressionError, check

MATCHING_S: Final = 5.0


def parse(data: bytes, found: Findings, pattern: str, *, matching_s: float = MATCHING_S) -> None:
    """One diagnostic for each line that matches; of each line the first LINE_CHARS count, and all may take so long."""
    try:
        expression = check(pattern)
    except ExpressionError as error:
        raise ReportError(f"the profile's report.pattern {error}.") from error
    until = time.monotonic() + matching_s
    for line in lines_of(data):
        matched = expression.match(clean(line, LINE_CHARS)) if line else None
        if matched is not None:
            groups = matched.groupdict()
            found.add(
                tool="pattern",
                path=groups.get("file") or "",
                line=digits(groups.get("line")),
                column=digits(groups.get("column")),
                severity=severity(groups.get("severity") or "error"),
                code=groups.get("code") or "",
                message=groups.get("message") or "",
            )
        if time.monotonic() > until:
            raise ReportError(
                f"matching report.pattern took more than {matching_s:g} s. Simplify it, or have the tool print less."
            )
