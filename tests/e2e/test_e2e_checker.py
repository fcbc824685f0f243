"""The checker of the other tests notices what it is there for: facts of a real run, spoilt one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checker
import msgspec
import pytest
from lab import Lab, bundle, commit_files, sh

from swell.values import Event

TOOLS = {"edit": sh('echo BAD >> "$1"', fix='sed -i s/BAD/GOOD/ "$1"'), "no-bad": sh('! grep BAD "$@"')}
DEPENDS = {"ws-a": [], "ws-b": ["ws-a"]}
Spoil = Callable[[list[Event]], list[Event]]


@pytest.fixture(scope="module")
def events(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    repo = tmp_path_factory.mktemp("checker") / "repo"
    commit_files(repo, {"a.txt": "", "b.txt": "", "swell.toml": 'static_tools = ["no-bad"]\n'})
    bundles = [bundle(f"ws-{n}", "edit", f"{n}.txt", depends_on=DEPENDS[f"ws-{n}"]) for n in "ab"]
    return lab.run(repo, bundles, TOOLS).events


def without(kind: str, which: int = 0) -> Spoil:
    def spoil(events: list[Event]) -> list[Event]:
        gone = [event for event in events if event.kind == kind][which]
        return [event for event in events if event is not gone]

    return spoil


def again(kind: str, which: int = 0) -> Spoil:
    def spoil(events: list[Event]) -> list[Event]:
        twin = [event for event in events if event.kind == kind][which]
        at = events.index(twin)
        return [*events[: at + 1], twin, *events[at + 1 :]]

    return spoil


def changed(kind: str, which: int = 0, **fields: Any) -> Spoil:
    def spoil(events: list[Event]) -> list[Event]:
        old = [event for event in events if event.kind == kind][which]
        new = msgspec.structs.replace(old, payload={**old.payload, **fields})
        return [new if event is old else event for event in events]

    return spoil


def earlier(kind: str, which: int = -1) -> Spoil:
    """The fact stands right behind the acceptance of the run."""

    def spoil(events: list[Event]) -> list[Event]:
        moved = [event for event in events if event.kind == kind][which]
        early = msgspec.structs.replace(moved, position=2, index=99)
        return [early if event is moved else event for event in events]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("step_finished"), "lived so"),
        (again("step_finished"), "lived so"),
        (again("step_started"), "lived so"),
        (without("step_started"), "lived so"),
        (without("step_scheduled", 1), "numbered"),
        (changed("step_scheduled", 1, attempt=7), "numbered"),
        (without("workstream_transitioned", 2), "goes from"),
        (without("integration_advanced"), "without ['ws-a']"),
        (changed("integration_advanced", 1, from_commit="0" * 40), "the line goes on from"),
        (changed("integration_advanced", 0, to={"commit": "0" * 40, "tree": "1" * 40}), "without a gate"),
        (changed("step_finished", -2, checks=[]), "without having passed"),
        (changed("line_delivered", -1, commit="0" * 40), "was delivered"),
        (without("run_finished"), "ended 0 times"),
        (again("run_finished"), "ended 2 times"),
        (earlier("run_finished"), "comes after the end"),
        (changed("run_finished", 0, completed=1), "its workstreams are"),
        (changed("step_scheduled", 0, input={"commit": "0" * 40}), "the head is"),
    ],
)
def test_a_broken_promise_is_noticed(events: list[Event], spoil: Spoil, said: str) -> None:
    with pytest.raises(AssertionError) as caught:
        checker.check(spoil(events), max_workers=4, depends_on=DEPENDS)
    assert said in str(caught.value)


def test_more_open_attempts_than_workers_are_noticed(lab: Lab, repo: Path) -> None:
    """A run of two at a time is not one of one at a time."""
    commit_files(repo, {"a.txt": "", "b.txt": "", "swell.toml": 'static_tools = ["no-bad"]\n'})
    run = lab.run(repo, [bundle(f"ws-{n}", "edit", f"{n}.txt") for n in "ab"], TOOLS, max_workers=2)
    checker.check(run.events, max_workers=2, depends_on={})
    with pytest.raises(AssertionError, match="2 attempts are open"):
        checker.check(run.events, max_workers=1, depends_on={})
