"""What checks have found: one line each, with what to do; and how they are carried out at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from swell.errors import SwellError
from swell.text import one_line

State = Literal["ok", "warning", "failed"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one check. `remedy` says what to do, and is empty when all is right."""

    name: str
    state: State
    found: str
    remedy: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """All checks; `ok` unless one has failed."""

    ok: bool
    checks: list[Check]

    def json(self) -> str:
        """All of it as one JSON object."""
        return msgspec.json.encode(self).decode()

    def lines(self) -> list[str]:
        """One line for each check, and what to do below those that need it."""
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{check.state:<8} {check.name:<{width}}  {one_line(check.found, 1000)}")
            if check.remedy:
                lines.append(f"{'':<8} {'':<{width}}  next: {one_line(check.remedy, 1000)}")
        failed = sum(check.state == "failed" for check in self.checks)
        warnings = sum(check.state == "warning" for check in self.checks)
        told = "all is right" if not failed + warnings else f"{failed} to mend, {warnings} to know about"
        return [*lines, "", told]


def ok(name: str, found: str) -> Check:
    """All is right."""
    return Check(name=name, state="ok", found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """Something to know about."""
    return Check(name=name, state="warning", found=found, remedy=remedy)


def failed(name: str, found: str, remedy: str) -> Check:
    """Something to mend."""
    return Check(name=name, state="failed", found=found, remedy=remedy)


class Running:
    """A look in a thread of its own, which the end of the process does not wait for; what breaks is a failed check."""

    def __init__(self, name: str, look: Callable[[], Check | Sequence[Check]], *, limit_s: float) -> None:
        """`limit_s` is what is told of a look that took too long."""
        self._name = name
        self._look = look
        self._limit_s = limit_s
        self._checks: Sequence[Check] = ()
        self._thread = threading.Thread(target=self._run, name=f"doctor-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            found = self._look()
            self._checks = (found,) if isinstance(found, Check) else found
        except SwellError as error:
            where = f"{error.where}: " if error.where else ""
            self._checks = (failed(self._name, where + error.message, error.remedy or "Mend what it names."),)
        except Exception as error:  # noqa: BLE001 - whatever a machine does to one check, the others must be told
            said = f"{type(error).__name__}: {error}"
            self._checks = (
                failed(self._name, f"it could not be looked at: {said}", "Mend what it names, then look again."),
            )

    def result(self, timeout_s: float) -> Sequence[Check]:
        """What it has found by then."""
        self._thread.join(timeout_s)
        return self._checks or (
            failed(
                self._name,
                f"it took more than {self._limit_s:g} s",
                "Find out what it waits for: a disk, a network, a stopped process?",
            ),
        )
