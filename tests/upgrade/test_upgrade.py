"""A rolling upgrade under load: every service is replaced by a build that writes a kind of event the present one does not know.

In the order ledger, executors, schedulers, as docs/runbook.md says; runs are under way all the time. What was promised holds
as in the crash matrix, whose rules judge the history: nothing is lost, nothing done twice, and no attempt is lost either.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.crash.faults import rolling
from tests.crash.history import opened
from tests.crash.rig import CHECKOUT, EXECUTORS, SCHEDULERS, Rig
from tests.crash.session import Session, close_and_compare
from tests.crash.test_crash_matrix import disturbances, kept

SEED = 14

PLANTED = {
    "services/events.py": [
        (
            "AnyEvent = (\n    RunRequested",
            (
                'class Noted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="noted"):\n'
                '    """Something was decided by the next version."""\n\n'
                '    text: str = ""\n\n\n'
                "AnyEvent = (\n    Noted\n    | RunRequested"
            ),
        )
    ],
    "services/scheduler/state.py": [
        ("from services.events import (\n", "from services.events import (\n    Noted,\n"),
        (
            "            | ExecutorTransitioned()\n        ):",
            "            | ExecutorTransitioned()\n            | Noted()\n        ):",
        ),
    ],
    "services/scheduler/shell.py": [
        ("from services.events import (\n", "from services.events import (\n    Noted,\n"),
        (
            "self._entry(state, one.events))) for one in appends",
            "self._entry(state, noting(state, one)))) for one in appends",
        ),
        (
            "class Clock:",
            (
                "def noting(state: RunState, one: Append) -> list[AnyEvent]:\n"
                "    noted: list[AnyEvent] = [Noted()] if one.subject == run_subject(state.run) else []\n"
                "    return [*noted, *one.events]\n\n\n"
                "class Clock:"
            ),
        ),
    ],
    "services/ledger/projector.py": [
        (
            "                | events.PauseRequested()\n",
            "                | events.PauseRequested()\n                | events.Noted()\n",
        ),
        # As serious as a kind that nobody knows: so the present version's fold of the log gives the same tables.
        (
            "_SEVERITY_OF_KIND: dict[type, str] = {\n",
            '_SEVERITY_OF_KIND: dict[type, str] = {\n    events.Noted: "error",\n',
        ),
    ],
}


def next_version(folder: Path) -> Path:
    """A copy of the code with an added kind of event, which its scheduler writes with every decision."""
    for name in ("services", "swell", "config"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in PLANTED.items():
        file = folder / name
        text = file.read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{name} has changed: {before!r} is there {text.count(before)} times"
            text = text.replace(before, after)
        file.write_text(text)
    return folder


class Upgrading(Rig):
    """From `upgrade` on, whatever ends is started again from the next version's code."""

    def __init__(self, folder: Path, following: Path) -> None:
        super().__init__(folder)
        self._following = following
        self.upgrading = False
        self.upgraded: set[str] = set()

    def code_of(self, name: str) -> Path:
        if not self.upgrading or name == "nats":
            return CHECKOUT
        self.upgraded.add(name)
        return self._following


async def test_a_run_goes_on_while_every_service_is_upgraded(tmp_path: Path, tell: Callable[[str], None]) -> None:
    rig = Upgrading(tmp_path / "rig", next_version(tmp_path / "next"))
    wrong: list[str] = []
    try:
        await rig.start()
        rig.upgrading = True
        verdict = await Session(rig, SEED, kills=1, planned=rolling, strikers=1).run()
        wrong = [*verdict.wrong, *disturbances(rig, 0), *await close_and_compare(rig)]
    finally:
        await rig.stop()
    assert not wrong, f"{wrong}; stream and logs are kept in {kept(rig)}"
    assert rig.upgraded == {*SCHEDULERS, *EXECUTORS, "ledger"}
    facts = opened(rig.watched)
    noted = {fact.run: fact.position for fact in reversed(facts) if fact.kind == "noted"}
    begun = {fact.run: fact.position for fact in facts if fact.kind == "run_accepted"}
    ended = {fact.run for fact in facts if fact.kind == "run_finished"}
    through = [
        run for run in begun if noted.get(run, 0) > begun[run] and run in ended and not _noted_at_once(facts, run)
    ]
    assert through, "no run was under way during the upgrade"
    halted = [name for name in SCHEDULERS if _said(rig, name, "scheduler.halted")]
    tell(
        f"upgrade: {verdict.runs} runs, {len(through)} of them begun by the old version and ended by the new one; "
        f"{len(noted)} with events of the new kind; old schedulers that stood back: {', '.join(halted) or 'none'}"
    )


def _noted_at_once(facts: list, run: str) -> bool:
    """Whether the new version has accepted the run already."""
    accepted = next(fact.position for fact in facts if fact.run == run and fact.kind == "run_accepted")
    return any(fact.position == accepted and fact.kind == "noted" for fact in facts)


def _said(rig: Rig, name: str, event: str) -> bool:
    return any(
        line.startswith("{") and json.loads(line).get("event") == event
        for line in rig.log(name).read_text(errors="replace").splitlines()
    )
