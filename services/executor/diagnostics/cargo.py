"""Reports of cargo with ``--message-format=json``: check, clippy, build and test.

One JSON object on each line, and the last of a build says that it is finished: without it the report was cut short. What
``cargo test`` prints after the build is text; the tests that failed are read from it. Lines that do not begin like an
object are a program's own words (The Cargo Book, External tools). Exit codes: 0, 101 for any failure.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from services.executor.diagnostics.report import (
    Counts,
    Findings,
    ReportError,
    clean,
    decoded,
    digits,
    lines_of,
    severity,
)

EXPANSIONS_MAX: Final = 20
_LINE_CHARS: Final = 10_000
_FAILED = re.compile(r"---- (\S.*) stdout ----$")
_PLACE = re.compile(r"([^:]+):(\d+):(\d+):?")
_RESULT = re.compile(r"test result: \w+\. (\d{1,9}) passed; (\d{1,9}) failed; (\d{1,9}) ignored;")
_SUMMARY = re.compile(r"(?:aborting due to |could not compile |\d+ warnings? emitted)")


class _Expansion(msgspec.Struct, frozen=True, gc=False):
    span: "_Span"


class _Span(msgspec.Struct, frozen=True, gc=False):
    file_name: str
    line_start: int
    line_end: int
    column_start: int
    column_end: int
    is_primary: bool = False
    label: str | None = None
    expansion: _Expansion | None = None


class _Code(msgspec.Struct, frozen=True, gc=False):
    code: str = ""


class _Message(msgspec.Struct, frozen=True, gc=False):
    message: str
    level: str
    code: _Code | None = None
    spans: list[_Span] = []


class _Line(msgspec.Struct, frozen=True, gc=False):
    reason: str = ""
    message: _Message | None = None


_line = msgspec.json.Decoder(_Line)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each message of the compiler, however many targets it was told for, and each failed test."""
    lines = lines_of(data)
    _build(lines, found)
    _tests(lines, found)


def _build(lines: Iterator[str], found: Findings) -> None:
    told: set[tuple[object, ...]] = set()
    for number, line in enumerate(lines, start=1):
        if not line.startswith("{"):
            continue
        message = decoded(_line, line, f"line {number} of cargo's report")
        if message.reason == "build-finished":
            return
        if message.reason == "compiler-message" and message.message is not None:
            _add(message.message, told, found)
    raise ReportError("cargo's report does not say that the build is finished. Its output says why.")


def _add(message: _Message, told: set[tuple[object, ...]], found: Findings) -> None:
    if "internal compiler error" in message.level:
        raise ReportError(f"the compiler itself has crashed: {clean(message.message, 300)}")
    if message.level == "failure-note" or (not message.spans and _SUMMARY.match(message.message)):
        return
    primary = next((span for span in message.spans if span.is_primary), None)
    span = _written(primary, found) if primary is not None else None
    label = primary.label if primary is not None else None
    code = message.code.code if message.code is not None else ""
    key = (
        message.level,
        code,
        message.message,
        label,
        *((span.file_name, span.line_start, span.column_start) if span else ()),
    )
    if key in told:
        return
    told.add(key)
    found.add(
        tool="cargo",
        path=span.file_name if span else "",
        line=span.line_start if span else None,
        column=span.column_start if span else None,
        end_line=span.line_end if span else None,
        end_column=span.column_end if span else None,
        severity=severity(message.level),
        code=code,
        message=": ".join(part for part in (message.message, label) if part),
    )


def _written(span: _Span, found: Findings) -> _Span:
    """Where it stands in the worktree: a macro of somebody else expands from a place that can be mended."""
    first = span
    for _ in range(EXPANSIONS_MAX):
        path = found.relative(span.file_name)
        if path and not path.startswith(("/", "..", "<")):
            return span
        if span.expansion is None:
            break
        span = span.expansion.span
    return first


def _tests(lines: Iterable[str], found: Findings) -> None:
    """The blocks of libtest: a heading with the test's name, and what it printed; mostly of a panic."""
    test, words = "", ""
    place: tuple[str, int | None, int | None] | None = None
    counted: list[tuple[int, int, int]] = []
    for full in lines:
        line = clean(full, _LINE_CHARS)
        if result := _RESULT.match(line):
            counted.append((int(result[1]), int(result[2]), int(result[3])))
        heading = _FAILED.match(line)
        if heading is not None or line in {"failures:", "successes:"} or line.startswith("test result:"):
            _add_test(test, place, words, found)
            test, place, words = heading[1] if heading is not None else "", None, ""
        elif test and place is None and line.startswith("thread '") and " panicked at " in line:
            place, words = _panic(line)
        elif test and not words and line.strip() and not line.startswith("note: "):
            words = line.strip()
    _add_test(test, place, words, found)
    if counted:
        passed, failed, ignored = map(sum, zip(*counted, strict=True))
        found.tests = Counts(passed + failed + ignored, failed, ignored)


def _panic(line: str) -> tuple[tuple[str, int | None, int | None] | None, str]:
    """Its place, and before Rust 1.73 its words in the same line: `panicked at 'words', src/lib.rs:3:5`."""
    words, _, where = line.partition(" panicked at ")[2].rpartition("', ")
    place = _PLACE.fullmatch(where)
    if place is None:
        return None, words[1:]
    return (place[1], digits(place[2]), digits(place[3])), words[1:]


def _add_test(test: str, place: tuple[str, int | None, int | None] | None, words: str, found: Findings) -> None:
    if not test:
        return
    path, line, column = place or ("", None, None)
    found.add(
        tool="cargo",
        path=path,
        line=line,
        column=column,
        code="test-failed",
        message=f"{test}: {words}" if words else test,
    )
