"""Reports in JUnit's XML, as pytest and most test runners write it.

The file is written by code that an agent has changed, so it is hostile: no DTD, no entities, no depth; and it is read
as it streams by, so that millions of elements take no room. A report without any test is a finding by itself, whatever
the exit code; a report cut short is an error.
"""

import re
from typing import Final
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from services.executor.diagnostics.report import Counts, Findings, ReportError, digits

DEPTH_MAX: Final = 100
TEXT_CHARS: Final = 200_000
PLACES_MAX: Final = 200

# Neither may run over the end of a line: a text of line ends alone would take forever.
_PYTEST_PLACE = re.compile(r"^(?P<path>[^\s:][^:\n]*):(?P<line>\d+): ", re.MULTILINE)
_PYTHON_PLACE = re.compile(r'^E?[ \t]*File "(?P<path>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each test that failed or broke; and how many there were, failed and were skipped."""
    target = _Target(found)
    try:
        parser = defusedxml.ElementTree.XMLParser(target=target, forbid_dtd=True)
        parser.feed(data)
        parser.close()
    except DefusedXmlException as error:
        raise ReportError(f"the JUnit report declares a DTD or entities, which is refused ({error}).") from error
    except (ParseError, ValueError, LookupError) as error:
        raise ReportError(f"the JUnit report is not valid XML ({error}). The test run was cut short.") from error
    found.tests = Counts(target.tests, target.failures, target.skipped)
    if not target.tests:
        found.add(tool=target.tool, code="no-tests", message="no test was found, so nothing was tested")


class _Target:
    """Takes the elements as they come; of a test that is going on it holds the attributes, of a failure the text."""

    def __init__(self, found: Findings) -> None:
        self.tests = 0
        self.failures = 0
        self.skipped = 0
        self.tool = ""
        self._found = found
        self._depth = 0
        self._case: dict[str, str] | None = None
        self._case_depth = 0
        self._outcome: dict[str, str] | None = None
        self._failed = False
        self._text: list[str] = []
        self._chars = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._depth and tag not in {"testsuites", "testsuite"}:
            raise ReportError(f"the JUnit report begins with <{tag[:80]}>, not with <testsuites> or <testsuite>.")
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ReportError("the JUnit report is unreadable: nested too deeply for any report.")
        if tag == "testsuite":
            self.tool = self.tool or attributes.get("name", "")
        elif tag == "testcase":
            self.tests += 1
            self._case, self._case_depth, self._failed = attributes, self._depth, False
        elif self._case is not None and self._depth == self._case_depth + 1:
            self._inside(tag, attributes)

    def _inside(self, tag: str, attributes: dict[str, str]) -> None:
        """What a test has come to."""
        if tag in {"failure", "error"}:
            self._outcome, self._text, self._chars = attributes, [], 0
            self.failures += not self._failed
            self._failed = True
        elif tag == "skipped":
            self.skipped += 1

    def data(self, text: str) -> None:
        if self._outcome is not None and self._depth == self._case_depth + 1 and self._chars < TEXT_CHARS:
            self._text.append(text[: TEXT_CHARS - self._chars])
            self._chars += len(text)

    def end(self, tag: str) -> None:
        if self._case is not None and self._outcome is not None and self._depth == self._case_depth + 1:
            _add(self._case, tag, self._outcome, "".join(self._text), self.tool, self._found)
            self._outcome = None
        elif self._depth == self._case_depth:
            self._case = None
        self._depth -= 1

    def close(self) -> None:
        """The end of the document; there is nothing left to do."""


def _add(case: dict[str, str], tag: str, outcome: dict[str, str], text: str, tool: str, found: Findings) -> None:
    test = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
    summary = outcome.get("message") or text.strip().rpartition("\n")[2]
    path, line = _place(case, text, found) if not found.full else ("", None)
    found.add(tool=tool or "junit", path=path, line=line, code=tag, message=f"{test}: {summary}")


def _place(case: dict[str, str], text: str, found: Findings) -> tuple[str, int | None]:
    """Where it went wrong: the innermost place of the traceback inside the worktree, else where the test stands."""
    places = [*_PYTEST_PLACE.finditer(text), *_PYTHON_PLACE.finditer(text)]
    for place in sorted(places, key=re.Match.start, reverse=True)[:PLACES_MAX]:
        path = found.file_inside(place["path"])
        if path is not None:
            return path, digits(place["line"])
    line = digits(case.get("line"))
    return case.get("file", ""), None if line is None or "file" not in case else line + 1
