"""Reports in JUnit's XML, as pytest and most test runners write it.

The file is written by code that an agent has changed, so it is hostile: no DTD, no entities.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from services.diagnostic import Diagnostic
from services.executor.diagnostics.report import MESSAGE_CHARS, ReportError, natural, relative

_PYTEST_PLACE = re.compile(r"^(?P<path>[^\s:][^:\n]*):(?P<line>\d+): ", re.MULTILINE)
_PYTHON_PLACE = re.compile(r'^E?\s*File "(?P<path>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)


def parse(data: bytes, worktree: Path) -> list[Diagnostic]:
    """One diagnostic for each test that failed or broke; a report without any test is a finding by itself."""
    try:
        root = defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise ReportError(f"the JUnit report declares a DTD or entities, which is refused ({error}).") from error
    except (ParseError, ValueError, LookupError) as error:
        raise ReportError(f"the JUnit report is not valid XML ({error}). The test run was cut short.") from error
    if root.tag not in {"testsuites", "testsuite"}:
        raise ReportError(f"the JUnit report begins with <{root.tag}>, not with <testsuites> or <testsuite>.")
    suites = [root] if root.tag == "testsuite" else list(root.iter("testsuite"))
    tool = next((name for suite in suites if (name := suite.get("name"))), "junit")
    if next(root.iter("testcase"), None) is None:
        return [Diagnostic(tool=tool, path="", code="no-tests", message="no test was found, so nothing was tested")]
    return list(_failures(root, tool, worktree))


def _failures(root: Element, tool: str, worktree: Path) -> Iterator[Diagnostic]:
    for case in root.iter("testcase"):
        for outcome in case:
            if outcome.tag in {"failure", "error"}:
                yield _diagnostic(case, outcome, tool, worktree)


def _diagnostic(case: Element, outcome: Element, tool: str, worktree: Path) -> Diagnostic:
    text = outcome.text or ""
    name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
    summary = outcome.get("message") or text.strip().rpartition("\n")[2]
    path, line = _place(case, text, worktree)
    return Diagnostic(
        tool=tool,
        path=path,
        line=line,
        code=outcome.tag,
        message=f"{name}: {summary}"[:MESSAGE_CHARS],
    )


def _place(case: Element, text: str, worktree: Path) -> tuple[str, int | None]:
    """Where it went wrong: the innermost place of the traceback inside the worktree, else where the test stands."""
    places = [*_PYTEST_PLACE.finditer(text), *_PYTHON_PLACE.finditer(text)]
    for place in sorted(places, key=re.Match.start, reverse=True):
        path = relative(place["path"], worktree)
        if not path.startswith(("/", "../", "<")) and (worktree / path).is_file():
            return path, natural(int(place["line"]))
    file = case.get("file")
    if file is None:
        return "", None
    line = case.get("line", "")
    return relative(file, worktree), int(line) + 1 if line.isdecimal() and len(line) < 10 else None
