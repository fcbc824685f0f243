"""Whether a log keeps what the design promises, told from the bytes of the stream alone.

Written from the meaning of the facts: entries are opened with `services.wire`, and what they say is judged here, without
the scheduler's fold and without the ledger's. Kinds and states that this module does not know are passed over, so that
a newer version can be judged by it. Every rule takes the facts of one run in the order of the stream and returns what is
broken, one line each; `broken` applies all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from services.wire import Recorded, WireError, decode_envelope, parse_subject

Key = tuple[str, int]
Rule = Callable[[Sequence["Fact"], "Expected"], list[str]]

LINE: Final = "_line"
CLOSES: Final = {"step_finished", "step_cancelled", "step_lost"}
LIFE: Final = CLOSES | {"step_started"}
WORKSTREAM_ENDS: Final = {"completed", "failed", "cancelled", "blocked"}
RUN_ENDS: Final = {"completed", "partial", "failed", "cancelled"}
JUDGED: Final = {"passed", "failed", "not_executable"}
REQUESTS: Final = {"run_requested", "cancel_requested", "step_requested"}


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One event of one entry. `where` is run, request, attempt or late; `by` and `seen` are its entry's."""

    position: int
    index: int
    where: str
    run: str
    workstream: str
    attempt: int
    by: str
    seen: int
    time_ns: int
    kind: str
    body: dict[str, Any]

    @property
    def key(self) -> Key:
        """Its attempt."""
        return self.workstream, self.attempt

    @property
    def target(self) -> Key:
        """The attempt that it schedules."""
        return str(self.body["workstream"]), int(self.body["attempt"])


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What was submitted, and what somebody asked for since. `outcome` is the state it has to end in; empty: any."""

    run: str
    max_workers: int
    depends_on: Mapping[str, Sequence[str]]
    outcome: str = ""


def opened(records: Iterable[Recorded]) -> list[Fact]:
    """The facts of a stream, oldest first. Raises WireError for what is no entry, or stands on no subject of ours."""
    facts = []
    for record in records:
        place, entry = parse_subject(record.subject), decode_envelope(record.data)
        if entry.run != place.run:
            raise WireError(f"position {record.sequence}: an entry of run {entry.run} stands on {record.subject}")
        for index, raw in enumerate(entry.events):
            body = msgspec.json.decode(raw, type=dict[str, Any])
            facts.append(
                Fact(
                    position=record.sequence,
                    index=index,
                    where=place.kind,
                    run=place.run,
                    workstream=place.workstream,
                    attempt=place.attempt,
                    by=entry.by,
                    seen=entry.seen,
                    time_ns=record.time_ns,
                    kind=str(body["kind"]),
                    body=body,
                )
            )
    return facts


def broken(facts: Sequence[Fact], expected: Expected) -> list[str]:
    """Everything that the facts of one run break, each line with the rule's name."""
    mine = [fact for fact in facts if fact.run == expected.run]
    return [f"{expected.run}: {rule.__name__}: {line}" for rule in RULES for line in rule(mine, expected)]


# One attempt


def one_life_each(facts: Sequence[Fact], _: Expected) -> list[str]:
    """Scheduled once; claimed at most once; closed exactly once; nothing on its subject after that."""
    lives: dict[Key, list[str]] = {}
    for fact in facts:
        if fact.kind == "step_scheduled":
            lives.setdefault(fact.target, []).append(fact.kind)
        elif fact.where == "attempt":
            lives.setdefault(fact.key, []).append(fact.kind)
    proper = (
        ["step_scheduled", "step_started", "step_finished"],
        ["step_scheduled", "step_started", "step_cancelled"],
        ["step_scheduled", "step_started", "step_lost"],
        ["step_scheduled", "step_cancelled"],
    )
    return [f"attempt {key} lived so: {life}" for key, life in lives.items() if life not in proper]


def written_by_the_right(facts: Sequence[Fact], _: Expected) -> list[str]:
    """Decisions by schedulers, requests by clients, the claim and the finish of an attempt by one and the same executor."""
    wrong = []
    claims: dict[Key, str] = {}
    for fact in facts:
        role = fact.by.partition(":")[0]
        match fact.where, fact.kind:
            case "run", _:
                good = role == "scheduler" and fact.kind not in LIFE | REQUESTS
            case "request", _:
                good = fact.kind in REQUESTS
            case "attempt", "step_started":
                claims[fact.key] = fact.by
                good = fact.by == f"executor:{fact.body['executor']}"
            case "attempt", "step_finished":
                good = fact.by == claims.get(fact.key)
            case "attempt", ("step_cancelled" | "step_lost"):
                good = role == "scheduler"
            case "late", _:
                good = role == "executor" and fact.kind not in LIFE
            case _:
                good = True
        if not good:
            wrong.append(f"{fact.kind} at {fact.position} stands on the {fact.where} subject, written by {fact.by}")
    return wrong


def numbered_without_gaps(facts: Sequence[Fact], _: Expected) -> list[str]:
    """1, 2, 3 … for each workstream and for the line, one attempt of each open at a time."""
    numbers: dict[str, list[int]] = {}
    open_: dict[str, Key] = {}
    wrong = []
    for fact in facts:
        if fact.kind == "step_scheduled":
            workstream, number = fact.target
            numbers.setdefault(workstream, []).append(number)
            if workstream in open_:
                wrong.append(f"{fact.target} is scheduled at {fact.position} while {open_[workstream]} is open")
            open_[workstream] = fact.target
        elif fact.kind in CLOSES and fact.where == "attempt" and open_.get(fact.workstream) == fact.key:
            del open_[fact.workstream]
    return wrong + [
        f"the attempts of {workstream} are numbered {found}"
        for workstream, found in numbers.items()
        if found != list(range(1, len(found) + 1))
    ]


# One run


def within_max_workers(facts: Sequence[Fact], expected: Expected) -> list[str]:
    """At no position are more attempts scheduled and not closed than the run may have."""
    open_: set[Key] = set()
    wrong = []
    for fact in facts:
        if fact.kind == "step_scheduled":
            open_.add(fact.target)
            if len(open_) > expected.max_workers:
                wrong.append(f"{len(open_)} attempts are open at {fact.position}: {sorted(open_)}")
        elif fact.kind in CLOSES and fact.where == "attempt":
            open_.discard(fact.key)
    return wrong


def transitions_chain(facts: Sequence[Fact], _: Expected) -> list[str]:
    """Each transition of a workstream and of the run starts where the one before it led; no end is left again."""
    states: dict[str, str] = {}
    wrong = []
    for fact in facts:
        if fact.kind not in {"workstream_transitioned", "run_transitioned"}:
            continue
        name, ends = fact.body.get("workstream", ""), WORKSTREAM_ENDS if fact.body.get("workstream") else RUN_ENDS
        before = states.get(name, "pending")
        if fact.body["from_state"] != before:
            who = name or "the run"
            wrong.append(f"{who} goes from {fact.body['from_state']} at {fact.position}, but it is {before}")
        elif before in ends:
            wrong.append(f"{name or 'the run'} leaves {before} at {fact.position}")
        states[name] = fact.body["to_state"]
    return wrong


def ends_once(facts: Sequence[Fact], expected: Expected) -> list[str]:
    """Accepted once; finished once; then every attempt is closed, every workstream at its end, and nothing is decided."""
    accepted = [fact.position for fact in facts if fact.kind == "run_accepted"]
    ends = [at for at, fact in enumerate(facts) if fact.kind == "run_finished"]
    wrong = [] if len(accepted) == 1 else [f"it was accepted at {accepted}"]
    if len(ends) != 1:
        return [*wrong, f"it has ended {len(ends)} times"]
    end = facts[ends[0]]
    for fact in facts[ends[0] + 1 :]:
        refusal = fact.kind == "request_answered" and fact.body["answer"] == "refused"
        if fact.where not in {"late", "request"} and not refusal:
            wrong.append(f"{fact.kind} at {fact.position} comes after the end at {end.position}")
    closed = {fact.key for fact in facts if fact.kind in CLOSES and fact.position < end.position}
    left = {fact.target for fact in facts if fact.kind == "step_scheduled"} - closed
    if left:
        wrong.append(f"it ended at {end.position} with open attempts {sorted(left)}")
    states: dict[str, str] = {}
    for fact in facts:
        if fact.kind == "workstream_transitioned":
            states[fact.body["workstream"]] = fact.body["to_state"]
    counted = {name: list(states.values()).count(name) for name in ("completed", "failed", "blocked", "cancelled")}
    said = {name: end.body[name] for name in counted}
    if said != counted:
        wrong.append(f"it says {said}, its workstreams are {counted}")
    if set(states) != set(expected.depends_on):
        wrong.append(f"its end mentions {sorted(states)}, submitted were {sorted(expected.depends_on)}")
    if expected.outcome and end.body["state"] != expected.outcome:
        reasons = [fact.body.get("reason", "") for fact in facts if fact.body.get("to_state") == "failed"]
        wrong.append(f"it ended as {end.body['state']} ({end.body['reason']}; {reasons}), not as {expected.outcome}")
    return wrong


def requests_are_answered(facts: Sequence[Fact], _: Expected) -> list[str]:
    """Every request has one answer (and one that is accepted perhaps a word that it is done); nothing else is answered."""
    asked = {fact.body["request_id"] for fact in facts if fact.where == "request"}
    answers: Counter[str] = Counter()
    for fact in facts:
        first = fact.kind == "request_answered" and fact.body["answer"] != "done"
        if first or fact.kind == "run_accepted":
            answers[fact.body["request_id"]] += 1
    wrong = [f"request {request} has {answers[request]} answers" for request in asked if answers[request] != 1]
    return wrong + [f"{request} was answered, but never asked" for request in answers if request not in asked]


def nothing_is_done_twice(facts: Sequence[Fact], _: Expected) -> list[str]:
    """No second EDIT after one that succeeded; no check again on a tree for which its verdict was known to the decider.

    A check that fails on the line is asked once more, in case it is flaky.
    """
    scheduled: dict[Key, Fact] = {}
    failed: set[tuple[str, str]] = set()
    edited: dict[str, int] = {}
    judged: dict[tuple[str, str], int] = {}
    wrong = []
    for fact in facts:
        if fact.kind == "step_scheduled":
            scheduled[fact.target] = fact
            workstream, tree = fact.body["workstream"], fact.body["input"].get("tree", "")
            if fact.body["step"] == "edit" and workstream in edited:
                wrong.append(f"{fact.target} edits at {fact.position} what was edited at {edited[workstream]}")
            for check in fact.body.get("checks", []):
                known = judged.get((tree, check["check"]), 0)
                if 0 < known <= fact.seen:
                    wrong.append(f"{fact.target} has {check['name']} judge tree {tree[:12]}, as it did at {known}")
        elif fact.kind == "step_finished" and fact.where == "attempt" and fact.key in scheduled:
            asked = scheduled[fact.key].body
            if asked["step"] == "edit" and fact.body["ok"]:
                edited[fact.workstream] = fact.position
            for result in fact.body.get("checks", []):
                verdict = (asked["input"].get("tree", ""), result["check"])
                if result["outcome"] == "failed" and fact.workstream == LINE and verdict not in failed:
                    failed.add(verdict)
                elif result["outcome"] in JUDGED:
                    judged.setdefault(verdict, fact.position)
    return wrong


def dependencies_come_first(facts: Sequence[Fact], expected: Expected) -> list[str]:
    """A workstream starts from the head of the line, and all its dependencies are on the line by then."""
    on_line: set[str] = set()
    begun: set[str] = set()
    head = ""
    wrong = []
    for fact in facts:
        body = fact.body
        match fact.kind:
            case "run_accepted":
                head = body["base_commit"]
            case "integration_advanced":
                on_line.add(body["workstream"])
                head = body["to"]["commit"]
            case "step_skipped" if body["step"] == "merge":
                on_line.add(body["workstream"])
            case "step_scheduled" if body["workstream"] not in begun | {LINE}:
                workstream = body["workstream"]
                begun.add(workstream)
                missing = set(expected.depends_on.get(workstream, ())) - on_line
                if missing:
                    wrong.append(f"{workstream} starts at {fact.position} without {sorted(missing)}")
                if body["input"]["commit"] != head:
                    wrong.append(f"{workstream} starts from {body['input']['commit']}, the head is {head}")
    return wrong


def line_is_green_and_unbroken(facts: Sequence[Fact], _: Expected) -> list[str]:
    """Each head follows the one before it, its tree has passed what its gate names, and only heads are delivered."""
    inputs: dict[Key, dict[str, Any]] = {}
    passed: dict[str, set[str]] = {}
    gated: dict[tuple[str, str], set[str]] = {}
    head = delivered = ""
    wrong = []
    for fact in facts:
        body = fact.body
        match fact.kind:
            case "run_accepted":
                head = body["base_commit"]
            case "step_scheduled":
                inputs[fact.target] = body
                if body["step"] == "gate":
                    _name(gated, body["on_behalf"], body["input"]["tree"], body)
            case "step_skipped" if body["step"] == "gate":
                _name(gated, body["workstream"], body["tree"], body)
            case "step_finished" if fact.where == "attempt":
                tree = inputs.get(fact.key, {}).get("input", {}).get("tree", "")
                good = {c["check"] for c in body.get("checks", []) if c["outcome"] in {"passed", "not_executable"}}
                passed.setdefault(tree, set()).update(good)
            case "integration_advanced":
                tree = body["to"]["tree"]
                wanted = gated.get((body["workstream"], tree))
                if body["from_commit"] != head:
                    wrong.append(f"the line goes on from {body['from_commit']} at {fact.position}, its head is {head}")
                if wanted is None:
                    wrong.append(f"{body['workstream']} became the head at {fact.position} without a gate on {tree}")
                elif missing := wanted - passed.get(tree, set()):
                    wrong.append(f"tree {tree} became the head at {fact.position} without having passed {missing}")
                head = body["to"]["commit"]
            case "line_delivered":
                delivered = body.get("head", body["commit"])
                if delivered != head:
                    wrong.append(f"{delivered} was delivered at {fact.position}, the head is {head}")
            case "run_finished" if body["state"] == "completed" and head_moved(facts) and delivered != head:
                wrong.append(f"it completed with head {head}, delivered is {delivered or 'nothing'}")
    return wrong


def head_moved(facts: Sequence[Fact]) -> bool:
    """Whether anything was merged."""
    return any(fact.kind == "integration_advanced" for fact in facts)


def _name(gated: dict[tuple[str, str], set[str]], workstream: str, tree: str, body: Mapping[str, Any]) -> None:
    gated.setdefault((workstream, tree), set()).update(one["check"] for one in body.get("checks", []))


RULES: Final[tuple[Rule, ...]] = (
    one_life_each,
    written_by_the_right,
    numbered_without_gaps,
    within_max_workers,
    transitions_chain,
    ends_once,
    requests_are_answered,
    nothing_is_done_twice,
    dependencies_come_first,
    line_is_green_and_unbroken,
)


# What tools have written down themselves


class Effect(msgspec.Struct, frozen=True):
    """One line of a tool's own diary: `what` is start or end."""

    what: str
    tool: str
    attempt: str


def effects(diary: str) -> list[Effect]:
    """The lines `start|end TOOL RUN/WORKSTREAM/ATTEMPT`; a tool that was killed leaves no half line."""
    return [Effect(*line.split()) for line in diary.splitlines()]


def effects_are_recorded(facts: Sequence[Fact], done: Sequence[Effect]) -> list[str]:
    """Every start of a tool belongs to a claimed attempt and happens once; every verdict and every result has its tool."""
    counted = Counter(done)
    started = {f"{fact.run}/{fact.workstream}/{fact.attempt}" for fact in facts if fact.kind == "step_started"}
    wrong = [f"{effect} happened {count} times" for effect, count in counted.items() if count > 1]
    wrong += [f"{effect} belongs to no claimed attempt" for effect in counted if effect.attempt not in started]
    steps = {fact.target: fact.body for fact in facts if fact.kind == "step_scheduled"}
    for fact in facts:
        if fact.kind != "step_finished" or fact.where != "attempt" or fact.key not in steps:
            continue
        name = f"{fact.run}/{fact.workstream}/{fact.attempt}"
        tools = [check["name"] for check in fact.body.get("checks", []) if check["outcome"] in {"passed", "failed"}]
        if steps[fact.key]["step"] in {"edit", "fix"} and fact.body["ok"]:
            tools = [f"edit-{fact.workstream}"]
        for tool in tools:
            wrong += [
                f"{name} is finished, but {tool} has written down no {what}"
                for what in ("start", "end")
                if not counted[Effect(what, tool, name)]
            ]
    return wrong


# The stream as a whole


def stream_is_whole(records: Sequence[Recorded], watched: Sequence[Recorded]) -> list[str]:
    """No gap, no entry twice, and everything that anybody was ever shown is still there, byte for byte."""
    wrong = []
    if [record.sequence for record in records] != list(range(1, len(records) + 1)):
        wrong.append("the stream has gaps")
    stored = {record.sequence: record for record in records}
    wrong += [
        f"position {record.sequence} was {record.data[:200]!r} when it was watched, and is something else now"
        for record in watched
        if stored.get(record.sequence) != record
    ]
    ids: dict[str, int] = {}
    for record in records:
        if parse_subject(record.subject).kind == "late":
            continue  # written at least once
        entry = decode_envelope(record.data).id
        if entry in ids:
            wrong.append(f"entry {entry} stands at {ids[entry]} and at {record.sequence}")
        ids.setdefault(entry, record.sequence)
    return wrong


def chain_of(records: Sequence[Recorded]) -> bytes:
    """The hash that a ledger has reached: SHA-256(previous, position, length of the subject, subject, bytes), entry by entry."""
    digest = bytes(32)
    for record in records:
        subject = record.subject.encode()
        head = digest + record.sequence.to_bytes(8, "big") + len(subject).to_bytes(2, "big")
        digest = hashlib.sha256(head + subject + record.data).digest()
    return digest


def keep(file: Path, records: Iterable[Recorded]) -> None:
    """Write a stream as JSON lines, for whoever has to find out."""
    with file.open("w") as out:
        for record in records:
            entry = {"sequence": record.sequence, "subject": record.subject, "time_ns": record.time_ns}
            out.write(json.dumps(entry | {"data": record.data.decode(errors="replace")}) + "\n")
