"""What an event means depends on where it stands: executors may write on the subjects of attempts, and are believed only there.

A stolen executor must not decide, ask, command or invent runs by writing elsewhere's events on a subject of its own.
"""

import sys
from pathlib import Path

import msgspec
import pytest
from scheduler_harness import BASE, SPEC, START_NS, bundle, spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wire"))

import samples

from services.events import RunAccepted, RunRequested, StepScheduled, stands_on
from services.scheduler import fleet as fleets
from services.scheduler.decide import due, outstanding
from services.scheduler.fleet import Fleet
from services.scheduler.state import Fact, evolve
from services.wire import Entry, parse_subject

SUBJECTS = {
    "request": "swell.event.r1.request",
    "run": "swell.event.r1.run",
    "attempt": "swell.event.r1.ws-a.1",
    "late": "swell.event.r1.ws-a.1.late",
}
SAMPLES = {name: event for table in (samples.FULL, samples.MINIMAL) for name, event in table.items()}


class Folded:
    """A run of one workstream whose EDIT is scheduled, and the fleet."""

    def __init__(self):
        self.fleet, self.run, self.position = Fleet(), None, 0
        self.definition = msgspec.structs.replace(spec([bundle("ws-a")]), run="r1")
        request = RunRequested(
            request_id="q1", actor="ann", spec=SPEC, workstreams=1, repository="repo", base_commit=BASE
        )
        self.add("swell.event.r1.request", request)
        for _ in range(4):
            decisions = due(self.run, START_NS + self.position, None, self.fleet)
            for decision in decisions:
                self.add("swell.event.r1.run", *decision.events)
            if not decisions:
                break
        assert len(outstanding(self.run)) == 1

    def add(self, subject, *events):
        self.position += 1
        place = parse_subject(subject)
        entry = Entry(id=f"e{self.position}", run=place.run, at_ns=0, by="x", events=list(events))
        named = self.definition if any(isinstance(event, RunAccepted) for event in events) else None
        run = self.run
        attempt = run.open.get((place.workstream, place.attempt)) if run and place.kind == "attempt" else None
        scheduled = attempt.scheduled if attempt is not None else None
        fleets.evolve(self.fleet, self.position, START_NS + self.position, place, entry, scheduled)
        self.run = evolve(run, Fact(self.position, START_NS + self.position, place, entry, named))

    def meaning(self):
        """All that is folded, but for where the log ends."""
        run = msgspec.to_builtins(self.run, enc_hook=repr)
        for key in ("last_sequence", "last_run_sequence", "last_entry"):
            run.pop(key, None)
        for attempt in run.get("open", {}).values():
            attempt.pop("sequence", None)
        for workstream in run.get("workstreams", {}).values():
            (workstream.get("open") or {}).pop("sequence", None)
        for attempt in run.get("unclaimed", {}).values():
            attempt.pop("sequence", None)
        return run, msgspec.to_builtins(self.fleet, enc_hook=repr)


@pytest.mark.parametrize("place", SUBJECTS)
def test_an_event_that_stands_where_it_does_not_belong_means_nothing(place):
    """Every kind, on every subject but its own: nothing of the run or of the fleet changes."""
    folded = Folded()
    before = folded.meaning()
    wrong = [event for event in SAMPLES.values() if stands_on(event) != place]
    assert len(wrong) > 10
    for event in wrong:
        folded.add(SUBJECTS[place], event)
        assert folded.meaning() == before, f"{type(event).__name__} on {place}"


def test_an_invented_attempt_takes_no_slot_and_is_no_command():
    folded = Folded()
    [step] = [command.step for command in outstanding(folded.run)]
    for number in range(2, 50):
        forged = msgspec.structs.replace(step, attempt=number)
        assert isinstance(forged, StepScheduled)
        folded.add(f"swell.event.r1.zz.{number}", forged)
    assert len(outstanding(folded.run)) == 1
    assert sum(folded.fleet.shared.using.values()) == 1
