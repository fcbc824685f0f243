"""Reports of ``go test -json``: one event on each line (go doc test2json, go help buildjson).

Each package that begins must end: with pass, skip or fail; a report in which one does not, or that names no package, was
cut short. Before Go 1.24 what does not compile is told on standard error only: then the package's own failure is the
finding. Exit codes: 0, 1 for any failure.
"""

import re
from collections import Counter
from typing import Final

import msgspec

from services.executor.diagnostics.report import Counts, Findings, ReportError, clean, decoded, digits, lines_of

OUTPUT_CHARS: Final = 20_000
"""Kept of what a test or a package prints: the beginning, where the reason stands."""
PARTS_MAX: Final = 30
PLACES_MAX: Final = 50
_MESSAGE_LINES: Final = 12
_ENDS: Final = frozenset({"pass", "fail", "skip"})
# None of them runs over the end of a line, so each is linear in the text.
_BUILD: Final = re.compile(r"(?:vet: )?([^\s:][^:]*\.\w{1,5}):(\d+)(?::(\d+))?: (.*)")
_LOGGED: Final = re.compile(r"^[ \t]*([^\s:/]+\.go):(\d+): ", re.MULTILINE)
_FRAME: Final = re.compile(r"^\t(/[^\s:]+\.go):(\d+)", re.MULTILINE)
_FRAMEWORK: Final = re.compile(r"[ \t]*(?:=== |--- |PASS$|FAIL(?:\s|$)|ok\s|exit status |coverage: )")


class _Event(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    action: str = ""
    package: str = ""
    import_path: str = ""
    test: str = ""
    output: str = ""
    failed_build: str = ""


_event = msgspec.json.Decoder(_Event)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each error of the compiler, each failed test, and each package that failed without one."""
    reading = _Reading(found)
    for number, line in enumerate(lines_of(data), start=1):
        if line.startswith("{"):
            reading.take(decoded(_event, line, f"line {number} of the go test report"))
    reading.finish()


class _Reading:
    def __init__(self, found: Findings) -> None:
        self._found = found
        self._open: set[str] = set()
        self._ended = 0
        self._tests: Counter[str] = Counter()
        self._output: dict[tuple[str, str], list[str]] = {}
        self._chars: dict[tuple[str, str], int] = {}
        self._failed: set[tuple[str, str]] = set()
        self._builds: set[str] = set()
        self._told: set[tuple[object, ...]] = set()
        self._message: list[str] = []
        self._place: tuple[str, int | None, int | None] = ("", None, None)

    def take(self, event: _Event) -> None:
        if event.action == "build-output":
            self._build(event.import_path, event.output)
            return
        self._end_build()
        if not event.package:
            return
        key = (event.package, event.test)
        if event.action == "output":
            self._keep(key, event.output)
        if event.action not in _ENDS:
            self._open.add(event.package)
        elif event.test:
            self._tests[event.action] += 1
            if event.action == "fail":
                self._fail_test(key)
            self._drop(key)
        else:
            self._ended += 1
            self._open.discard(event.package)
            if event.action == "fail":
                self._fail_package(event)
            self._drop(key)

    def finish(self) -> None:
        self._end_build()
        self._found.tests = Counts(self._tests.total(), self._tests["fail"], self._tests["skip"])
        if self._open:
            raise ReportError(f"the go test report has no end for {clean(min(self._open), 200)}: it was cut short.")
        if not self._ended and not self._builds:
            raise ReportError("the go test report names no package, so nothing was tested. Its output says why.")

    def _keep(self, key: tuple[str, str], text: str) -> None:
        chars = self._chars.get(key, 0)
        if chars < OUTPUT_CHARS:
            self._chars[key] = chars + len(text)
            self._output.setdefault(key, []).append(text[: OUTPUT_CHARS - chars])

    def _drop(self, key: tuple[str, str]) -> None:
        self._output.pop(key, None)
        self._chars.pop(key, None)

    def _build(self, import_path: str, text: str) -> None:
        """One line of the compiler: a place and what is wrong there, or with a tab more about it."""
        line = clean(text, OUTPUT_CHARS).rstrip("\n")
        if line.startswith("\t"):
            if self._message and len(self._message) < _MESSAGE_LINES:
                self._message.append(line)
            return
        self._end_build()
        placed = _BUILD.match(line)
        if placed is not None:
            self._builds.add(import_path)
            self._place = (placed[1], digits(placed[2]), digits(placed[3]))
            self._message = [placed[4]]

    def _end_build(self) -> None:
        if not self._message:
            return
        message = "\n".join(self._message)
        self._message = []
        if (*self._place, message) not in self._told:  # a package and its tests are compiled apart
            self._told.add((*self._place, message))
            path, line, column = self._place
            self._found.add(tool="go", path=path, line=line, column=column, code="build", message=message)

    def _fail_test(self, key: tuple[str, str]) -> None:
        package, test = key
        text = "".join(self._output.get(key, ()))
        own = _words(text)
        within = key in self._failed
        parts = test.split("/")
        self._failed.add((package, ""))
        self._failed.update((package, "/".join(parts[:end])) for end in range(1, min(len(parts), PARTS_MAX)))
        if within and not own:
            return  # it failed because a part of it did
        path, line = self._where(package, text)
        message = f"{test}: {own}" if own else test
        self._found.add(tool="go", path=path, line=line, code="test-failed", message=message)

    def _fail_package(self, event: _Event) -> None:
        package = event.package
        if (package, "") in self._failed or event.failed_build in self._builds - {""}:
            return
        text = "".join(self._output.get((package, ""), ()))
        path, line = self._where(package, text)
        code = (
            "build" if event.failed_build or "[build failed]" in text or "[setup failed]" in text else "package-failed"
        )
        self._found.add(tool="go", path=path, line=line, code=code, message=f"{package}: {_words(text) or 'failed'}")

    def _where(self, package: str, text: str) -> tuple[str, int | None]:
        """The first place of the test's own words, else the innermost frame of a panic inside the worktree."""
        if self._found.full:
            return "", None
        logged = _LOGGED.search(text)
        if logged is not None:
            return self._file(package, logged[1]), digits(logged[2])
        for number, frame in enumerate(_FRAME.finditer(text)):
            if number == PLACES_MAX:
                break
            path = self._found.file_inside(frame[1])
            if path is not None:
                return path, digits(frame[2])
        return "", None

    def _file(self, package: str, file: str) -> str:
        """A test names its file without its folder; that is the end of the package's path that has this file."""
        parts = package.split("/")[-PARTS_MAX:]
        for start in range(len(parts) + 1):
            path = self._found.file_inside("/".join([*parts[start:], file]))
            if path is not None:
                return path
        return file


def _words(text: str) -> str:
    """What a test said, without what the framework says around it."""
    lines = [line for line in text.split("\n") if line.strip() and not _FRAMEWORK.match(line)]
    return "\n".join(lines[:_MESSAGE_LINES]).strip()
