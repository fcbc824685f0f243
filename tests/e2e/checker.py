"""Whether the events of a run keep the promises of the design, told from nothing but the events.

This is written from the meaning of the events, and shares no code with the services: it would notice if the scheduler's own
idea of a run were wrong. `check` raises AssertionError with every promise that was broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swell.values import Event

Key = tuple[str, int]
CLOSES = {"step_finished", "step_cancelled", "step_lost"}
LATE = {"processes_reaped", "result_refused"}
LINE = "_line"


def check(
    events: Sequence[Event], *, max_workers: int, depends_on: Mapping[str, Sequence[str]], finished: bool = True
) -> None:
    """All promises. `depends_on` and `max_workers` are what was submitted; `finished`: the run has come to its end."""
    broken: list[str] = []
    ordered = sorted(events, key=lambda event: (event.position, event.index))
    checks: list[Callable[..., list[str]]] = [
        attempts_live_once,
        numbers_have_no_gaps,
        transitions_follow_one_another,
        line_is_green_and_unbroken,
    ]
    for one in checks:
        broken += one(ordered)
    broken += never_more_open_than(ordered, max_workers)
    broken += dependencies_come_first(ordered, depends_on)
    if finished:
        broken += ended_once(ordered)
    assert not broken, "\n".join(["the events of the run break what was promised:", *broken[:20]])


def attempts_live_once(events: Sequence[Event]) -> list[str]:
    """Scheduled, perhaps started, closed exactly once; after that nothing but late facts."""
    lives: dict[Key, list[str]] = {}
    for event in events:
        if event.kind == "step_scheduled":
            lives.setdefault((event.payload["workstream"], event.payload["attempt"]), []).append(event.kind)
        elif event.kind in CLOSES | LATE | {"step_started"}:
            lives.setdefault((event.workstream, event.attempt), []).append(event.kind)
    broken = []
    for key, life in lives.items():
        facts = [kind for kind in life if kind not in LATE]
        proper = (
            facts[:1] == ["step_scheduled"]
            and facts[1:-1] in ([], ["step_started"])
            and facts[-1] in CLOSES
            and (facts[-1] == "step_cancelled" or "step_started" in facts)
            and life[: len(facts)] == facts
        )
        if not proper:
            broken.append(f"attempt {key} lived so: {life}")
    return broken


def numbers_have_no_gaps(events: Sequence[Event]) -> list[str]:
    """1, 2, 3 … for each workstream and for the line; one attempt of each open at a time."""
    numbers: dict[str, list[int]] = {}
    open_: set[str] = set()
    broken = []
    for event in events:
        if event.kind == "step_scheduled":
            workstream = event.payload["workstream"]
            numbers.setdefault(workstream, []).append(event.payload["attempt"])
            if workstream in open_:
                broken.append(f"{workstream} has two open attempts at {event.position}")
            open_.add(workstream)
        elif event.kind in CLOSES:
            open_.discard(event.workstream)
    return broken + [
        f"the attempts of {workstream} are numbered {found}"
        for workstream, found in numbers.items()
        if found != list(range(1, len(found) + 1))
    ]


def never_more_open_than(events: Sequence[Event], max_workers: int) -> list[str]:
    """At no position are more attempts scheduled and not closed."""
    open_: set[Key] = set()
    broken = []
    for event in events:
        if event.kind == "step_scheduled":
            open_.add((event.payload["workstream"], event.payload["attempt"]))
        elif event.kind in CLOSES:
            open_.discard((event.workstream, event.attempt))
        if len(open_) > max_workers:
            broken.append(f"{len(open_)} attempts are open at {event.position}, more than {max_workers}")
    return broken


def dependencies_come_first(events: Sequence[Event], depends_on: Mapping[str, Sequence[str]]) -> list[str]:
    """A workstream starts from the head of the line, and all its dependencies are on the line by then."""
    on_line: set[str] = set()
    begun: set[str] = set()
    head = ""
    broken = []
    for event in events:
        fact = event.payload
        if event.kind == "run_accepted":
            head = fact["base_commit"]
        elif event.kind == "integration_advanced":
            on_line.add(fact["workstream"])
            head = fact["to"]["commit"]
        elif event.kind == "step_skipped" and fact["step"] == "merge":
            on_line.add(fact["workstream"])
        elif event.kind == "step_scheduled" and fact["workstream"] not in begun | {LINE}:
            workstream = fact["workstream"]
            begun.add(workstream)
            missing = set(depends_on.get(workstream, ())) - on_line
            if missing:
                broken.append(f"{workstream} starts at {event.position} without {sorted(missing)}")
            if fact["input"]["commit"] != head:
                broken.append(f"{workstream} starts from {fact['input']['commit']}, the head is {head}")
    return broken


def line_is_green_and_unbroken(events: Sequence[Event]) -> list[str]:
    """Each head follows the one before, and its tree has passed what its gate names, by its gate or before it."""
    inputs: dict[Key, dict[str, Any]] = {}
    passed: dict[str, set[str]] = {}
    gated: dict[tuple[str, str], list[str]] = {}
    head = ""
    broken = []
    for event in events:
        fact = event.payload
        match event.kind:
            case "run_accepted":
                head = fact["base_commit"]
            case "step_scheduled":
                inputs[fact["workstream"], fact["attempt"]] = fact
                if fact["step"] == "gate":
                    _gate(gated, fact["on_behalf"], fact["input"]["tree"], fact)
            case "step_skipped":
                if fact["step"] == "gate":
                    _gate(gated, fact["workstream"], fact["tree"], fact)
                if fact.get("sources"):  # verdicts of other runs, which it names
                    passed.setdefault(fact["tree"], set()).update(one["check"] for one in fact["checks"])
            case "step_finished":
                tree = inputs.get((event.workstream, event.attempt), {}).get("input", {}).get("tree", "")
                good = {
                    one["check"]
                    for one in fact.get("checks", [])
                    if one["outcome"] in {"passed", "not_executable"} or one.get("optional")
                }
                passed.setdefault(tree, set()).update(good)
            case "integration_advanced":
                tree = fact["to"]["tree"]
                wanted = gated.get((fact["workstream"], tree))
                if fact["from_commit"] != head:
                    broken.append(f"the line goes on from {fact['from_commit']}, its head is {head}")
                if wanted is None:
                    broken.append(f"{fact['workstream']} became the head without a gate on its tree {tree}")
                elif missing := set(wanted) - passed.get(tree, set()):
                    broken.append(f"tree {tree} became the head without having passed {sorted(missing)}")
                head = fact["to"]["commit"]
            case "line_delivered" if fact.get("head", fact["commit"]) != head:
                broken.append(f"{fact.get('head', fact['commit'])} was delivered, the head is {head}")
            case "integration_reverted":
                tree = fact["to"]["tree"]
                wanted = gated.get((fact["workstreams"][-1], tree))
                if fact["from_commit"] != head:
                    broken.append(f"the line goes back from {fact['from_commit']}, its head is {head}")
                if wanted is None or not set(wanted) <= passed.get(tree, set()):
                    broken.append(f"tree {tree} became the head again without having passed {wanted}")
                head = fact["to"]["commit"]
    return broken


def _gate(gated: dict[tuple[str, str], list[str]], workstream: str, tree: str, fact: Mapping[str, Any]) -> None:
    gated.setdefault((workstream, tree), []).extend(one["check"] for one in fact.get("checks", []))


def transitions_follow_one_another(events: Sequence[Event]) -> list[str]:
    """Each transition starts where the one before it led, and nothing leaves a terminal state."""
    terminal = {"completed", "failed", "cancelled", "blocked"}
    states: dict[str, str] = {}
    broken = []
    for event in events:
        if event.kind == "workstream_transitioned":
            fact = event.payload
            before = states.get(fact["workstream"], "pending")
            if fact["from_state"] != before or before in terminal:
                broken.append(f"{fact['workstream']} goes from {fact['from_state']}, but it is {before}")
            states[fact["workstream"]] = fact["to_state"]
    return broken


def ended_once(events: Sequence[Event]) -> list[str]:
    """One end, after every close and every workstream's end; its counts are true."""
    ends = [at for at, event in enumerate(events) if event.kind == "run_finished"]
    if len(ends) != 1:
        return [f"the run ended {len(ends)} times"]
    broken = [
        f"{event.kind} comes after the end of the run"
        for event in events[ends[0] + 1 :]
        if event.kind not in LATE | {"request_answered", "cancel_requested", "step_requested"}
    ]
    states: dict[str, str] = {}
    for event in events:
        if event.kind == "workstream_transitioned":
            states[event.payload["workstream"]] = event.payload["to_state"]
    end = events[ends[0]].payload
    counted = {name: list(states.values()).count(name) for name in ("completed", "failed", "blocked", "cancelled")}
    said = {name: end[name] for name in counted}
    return broken + ([f"the run says {said}, its workstreams are {counted}"] if said != counted else [])
