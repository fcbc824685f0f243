"""The judge of the crash matrix can say no: every rule passes a good history and fails a bad one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from services.wire import Recorded, WireError
from tests.crash.faults import POINTS, plan
from tests.crash.history import (
    RULES,
    Effect,
    Expected,
    broken,
    effects,
    effects_are_recorded,
    keep,
    opened,
    stream_is_whole,
)

Entry = dict[str, Any]

EXPECTED = Expected(run="r", max_workers=1, depends_on={"a": []}, outcome="completed")
CHECK = {"check": "k1", "kind": "static", "name": "lint"}
C0 = {"commit": "c0", "tree": "t0"}
C1 = {"commit": "c1", "tree": "t1"}
C2 = {"commit": "c2", "tree": "t1"}


def entry(subject: str, by: str, *events: dict[str, Any]) -> Entry:
    """An entry on `swell.event.<run r>.<subject>`."""
    return {"subject": f"swell.event.r.{subject}", "by": by, "events": list(events)}


def decided(*events: dict[str, Any]) -> Entry:
    return entry("run", "scheduler:s1", *events)


def moved(before: str, after: str) -> dict[str, Any]:
    return {"kind": "workstream_transitioned", "workstream": "a", "from_state": before, "to_state": after}


def scheduled(workstream: str, attempt: int, step: str, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"kind": "step_scheduled", "workstream": workstream, "attempt": attempt, "step": step, "input": given}
    return head | {"pool": "default", "timeout_s": 1.0, "queue_deadline_ns": 1, **more}


def lived(workstream: str, attempt: int, **result: Any) -> list[Entry]:
    """An attempt's claim and its finish."""
    at = f"{workstream}.{attempt}"
    return [
        entry(at, "executor:e1", {"kind": "step_started", "executor": "e1", "boot": "b"}),
        entry(at, "executor:e1", {"kind": "step_finished", "ok": True, **result}),
    ]


def good() -> list[Entry]:
    """A run of one workstream from its request to its delivery."""
    counts = {"completed": 1, "failed": 0, "blocked": 0, "cancelled": 0}
    return [
        entry("request", "client", {"kind": "run_requested", "request_id": "q1"}),
        decided(
            {"kind": "run_accepted", "request_id": "q1", "base_commit": "c0"},
            {"kind": "run_transitioned", "from_state": "pending", "to_state": "running"},
        ),
        decided({"kind": "wave_started", "wave": 0, "workstreams": ["a"]}, moved("pending", "ready")),
        decided(moved("ready", "editing"), scheduled("a", 1, "edit", C0)),
        *lived("a", 1, snapshot=C1),
        decided(moved("editing", "static_check"), scheduled("a", 2, "static", C1, checks=[CHECK])),
        *lived("a", 2, checks=[CHECK | {"outcome": "passed"}]),
        decided(moved("static_check", "merging")),
        decided(scheduled("_line", 1, "merge", C0, on_behalf="a")),
        *lived("_line", 1, snapshot=C2),
        decided(
            {"kind": "step_skipped", "workstream": "a", "step": "gate", "tree": "t1", "checks": [CHECK]},
            {"kind": "integration_advanced", "workstream": "a", "from_commit": "c0", "to": C2},
            moved("merging", "completed"),
        ),
        decided(scheduled("_line", 2, "deliver", C2)),
        *lived("_line", 2),
        decided({"kind": "line_delivered", "ref": "refs/heads/swell/r", "commit": "c2"}),
        entry("run", "scheduler:s2", {"kind": "of_a_newer_version", "what": "ever"}),
        decided({"kind": "run_finished", "state": "completed", "reason": "", **counts}),
        entry("a.2.late", "executor:e1", {"kind": "processes_reaped", "executor": "e1", "boot": "b", "processes": 0}),
    ]


def records(entries: list[Entry]) -> list[Recorded]:
    """The entries as a stream that decides on everything that stands in it."""
    found = []
    for position, one in enumerate(entries, 1):
        envelope = {
            "id": f"i{position}",
            "run": "r",
            "at_ns": position,
            "by": one["by"],
            "events": one["events"],
            "seen": position - 1,
        }
        found.append(Recorded(position, one["subject"], position, msgspec.json.encode(envelope)))
    return found


def at(entries: list[Entry], kind: str, number: int = 0) -> int:
    """Where the entry stands that has the so manieth event of a kind."""
    return [i for i, one in enumerate(entries) if any(event["kind"] == kind for event in one["events"])][number]


def event(entries: list[Entry], kind: str, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = [e for one in entries for e in one["events"] if e["kind"] == kind][number]
    return found


def doubled(kind: str, number: int = 0) -> Callable[[list[Entry]], None]:
    """The entry with that event stands there twice."""
    return lambda entries: entries.insert(at(entries, kind, number), copy.deepcopy(entries[at(entries, kind, number)]))


def dropped(kind: str, number: int = 0) -> Callable[[list[Entry]], None]:
    return lambda entries: entries.__delitem__(at(entries, kind, number))


def changed(kind: str, number: int = 0, **fields: Any) -> Callable[[list[Entry]], None]:
    return lambda entries: event(entries, kind, number).update(fields)


def before(kind: str, *more: Entry) -> Callable[[list[Entry]], None]:
    """These entries come before the one with that event."""

    def put(entries: list[Entry]) -> None:
        where = at(entries, kind)
        entries[where:where] = list(more)

    return put


def after_all(*more: Entry) -> Callable[[list[Entry]], None]:
    return lambda entries: entries.extend(more)


def written_by(who: str, kind: str, number: int = 0) -> Callable[[list[Entry]], None]:
    return lambda entries: entries[at(entries, kind, number)].update(by=who)


def swapped(kind: str, other: str) -> Callable[[list[Entry]], None]:
    def swap(entries: list[Entry]) -> None:
        i, j = at(entries, kind), at(entries, other)
        entries[i], entries[j] = entries[j], entries[i]

    return swap


def renamed(entries: list[Entry]) -> None:
    """Another workstream than the one that was submitted."""
    for one in (one for whole in entries for one in whole["events"]):
        if one["kind"] == "workstream_transitioned":
            one["workstream"] = "z"


LOST = entry("a.1", "scheduler:s1", {"kind": "step_lost", "reason": "gone"})
CANCELLED = entry("a.3", "scheduler:s1", {"kind": "step_cancelled", "reason": "late"})
AGAIN = decided(scheduled("a", 3, "edit", C0))
JUDGED_AGAIN = decided(scheduled("a", 3, "static", C1, checks=[CHECK]))
CANCEL = entry("request", "client", {"kind": "cancel_requested", "request_id": "q2"})
ANSWER = decided({"kind": "request_answered", "request_id": "q2", "answer": "accepted"})
B = decided(scheduled("b", 1, "edit", C0))

BAD: list[tuple[str, Callable[[list[Entry]], None]]] = [
    ("one_life_each", doubled("step_started")),
    ("one_life_each", doubled("step_finished", 1)),
    ("one_life_each", dropped("step_started")),
    ("one_life_each", dropped("step_finished")),
    ("one_life_each", swapped("step_started", "step_finished")),
    ("one_life_each", before("integration_advanced", LOST)),
    ("one_life_each", doubled("step_scheduled")),
    ("written_by_the_right", written_by("executor:e2", "step_finished")),
    ("written_by_the_right", written_by("scheduler:s1", "step_started")),
    ("written_by_the_right", written_by("client", "run_accepted")),
    ("written_by_the_right", before("integration_advanced", entry("run", "scheduler:s1", LOST["events"][0]))),
    ("numbered_without_gaps", changed("step_scheduled", 1, attempt=3)),
    ("numbered_without_gaps", before("step_started", AGAIN)),
    ("within_max_workers", before("step_started", B)),
    ("transitions_chain", changed("workstream_transitioned", 1, from_state="editing")),
    ("transitions_chain", before("line_delivered", decided(moved("completed", "ready")))),
    ("transitions_chain", changed("run_transitioned", from_state="running")),
    ("ends_once", dropped("run_finished")),
    ("ends_once", doubled("run_finished")),
    ("ends_once", doubled("run_accepted")),
    ("ends_once", after_all(AGAIN, CANCELLED)),
    ("ends_once", after_all(entry("a.1", "executor:e1", {"kind": "step_finished", "ok": True}))),
    ("ends_once", before("run_finished", AGAIN)),
    ("ends_once", changed("run_finished", completed=2)),
    ("ends_once", changed("run_finished", state="partial")),
    ("ends_once", renamed),
    ("requests_are_answered", before("run_finished", CANCEL)),
    ("requests_are_answered", before("run_finished", ANSWER)),
    ("requests_are_answered", before("run_finished", CANCEL, ANSWER, ANSWER)),
    ("nothing_is_done_twice", before("run_finished", AGAIN, CANCELLED)),
    ("nothing_is_done_twice", before("run_finished", JUDGED_AGAIN, CANCELLED)),
    ("dependencies_come_first", changed("step_scheduled", input=C1)),
    ("line_is_green_and_unbroken", changed("integration_advanced", from_commit="c9")),
    ("line_is_green_and_unbroken", changed("step_skipped", checks=[CHECK | {"check": "k2"}])),
    ("line_is_green_and_unbroken", changed("step_skipped", tree="t9")),
    ("line_is_green_and_unbroken", changed("line_delivered", commit="c1")),
    ("line_is_green_and_unbroken", dropped("line_delivered")),
]


def test_a_good_history_breaks_nothing() -> None:
    """Kinds of a newer version among it, and a cancellation that is answered."""
    assert broken(opened(records(good())), EXPECTED) == []
    asked = good()
    before("run_finished", CANCEL, ANSWER)(asked)
    assert broken(opened(records(asked)), EXPECTED) == []


@pytest.mark.parametrize(("rule", "spoil"), BAD, ids=[f"{n}-{rule}" for n, (rule, _) in enumerate(BAD)])
def test_a_bad_history_is_noticed_by_its_rule(rule: str, spoil: Callable[[list[Entry]], None]) -> None:
    entries = copy.deepcopy(good())
    spoil(entries)
    assert rule in {line.split(": ")[1] for line in broken(opened(records(entries)), EXPECTED)}


def test_every_rule_can_fail() -> None:
    assert {rule for rule, _ in BAD} == {rule.__name__ for rule in RULES}


def test_a_dependency_that_is_not_on_the_line_is_noticed() -> None:
    expected = msgspec.structs.replace(EXPECTED, depends_on={"a": ["b"]})
    assert any("without ['b']" in line for line in broken(opened(records(good())), expected))


def test_a_verdict_that_the_decider_had_not_folded_may_be_asked_for_again() -> None:
    """`seen` tells what the writer knew."""
    entries = good()
    before("run_finished", JUDGED_AGAIN, CANCELLED)(entries)
    stream = records(entries)
    again = at(entries, "step_scheduled", 4)
    unaware = msgspec.json.decode(stream[again].data) | {"seen": 3}
    stream[again] = msgspec.structs.replace(stream[again], data=msgspec.json.encode(unaware))
    assert not any("nothing_is_done_twice" in line for line in broken(opened(stream), EXPECTED))


def test_an_entry_of_another_run_is_noticed() -> None:
    stream = records(good())
    with pytest.raises(WireError, match="stands on"):
        opened([msgspec.structs.replace(stream[0], subject="swell.event.other.request")])


def test_a_stream_that_lost_something_is_noticed() -> None:
    """A gap, an entry that was shown and is gone or another one, an entry that stands there twice."""
    stream = records(good())
    assert stream_is_whole(stream, stream) == []
    assert "gaps" in stream_is_whole([*stream[:3], *stream[4:]], [])[0]
    assert f"position {len(stream)}" in stream_is_whole(stream[:-1], stream)[0]
    other = msgspec.structs.replace(stream[5], data=stream[5].data + b" ")
    assert "position 6" in stream_is_whole([*stream[:5], other, *stream[6:]], stream)[0]
    twice = msgspec.structs.replace(stream[1], sequence=len(stream) + 1)
    assert f"stands at 2 and at {len(stream) + 1}" in stream_is_whole([*stream, twice], stream)[0]


def test_the_diaries_of_tools_are_compared_with_the_log() -> None:
    """A tool that ran twice, one without a claim, a verdict and a result that no tool has made."""
    facts = opened(records(good()))
    diary = "start edit-a r/a/1\nend edit-a r/a/1\nstart lint r/a/2\nend lint r/a/2\n"
    done = effects(diary)
    assert effects_are_recorded(facts, done) == []
    assert "2 times" in effects_are_recorded(facts, [*done, done[0]])[0]
    assert "no claimed attempt" in effects_are_recorded(facts, [*done, Effect("start", "edit-a", "r/a/9")])[0]
    assert "edit-a has written down no end" in effects_are_recorded(facts, [done[0], *done[2:]])[0]
    assert "lint has written down no start" in effects_are_recorded(facts, [*done[:2], done[3]])[0]


def test_a_history_is_kept_as_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    stream = records(good())
    keep(file, stream)
    kept = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert [(line["sequence"], line["data"].encode()) for line in kept] == [(r.sequence, r.data) for r in stream]


def test_a_seed_plans_the_same_faults_and_every_point() -> None:
    first, second = plan(Random(7)), plan(Random(7))
    planned = [next(first) for _ in range(40)]
    assert planned == [next(second) for _ in range(40)]
    assert {fault.point for fault in planned} > set(POINTS)
