"""The pure scheduler with everything around it played: the log is a list, executors are tables of what happens.

A `Play` folds every decision back as the shell would, checks what must hold at every step, and lets attempts be claimed,
finished or lost in any order. Nothing here waits, and nothing is random but what a test passes in.
"""

from collections.abc import Callable, Iterable

import msgspec

from services.bundle import WorkstreamBundle
from services.checks import Checks
from services.events import (
    LINE,
    AnyEvent,
    Artifact,
    CancelRequested,
    CheckResult,
    RequestAnswered,
    ReviewRequested,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunRequested,
    RunStopping,
    Snapshot,
    StepCancelled,
    StepFinished,
    StepLost,
    StepRequested,
    StepScheduled,
    StepSkipped,
    StepStarted,
    WorkstreamTransitioned,
)
from services.scheduler.appends import ENTRY_BUDGET_BYTES
from services.scheduler.decide import due, outstanding
from services.scheduler.fleet import Fleet
from services.scheduler.routing import Sightings
from services.scheduler.state import ALLOWED, Fact, RunState, evolve
from services.scheduler.steps import Decision
from services.spec import Options, Repository, RunSpec
from services.wire import Entry, Place, encode_entry

START_NS = 1_790_000_000_000_000_000
SECOND_NS = 1_000_000_000
RUN = "r1"
BASE = "b" * 40
SPEC = Artifact(role="spec", digest="5" * 64, name="spec-1", size_bytes=1)
DECIDING_MAX = 3000


def bundle(name: str, *depends_on: str, **rest) -> WorkstreamBundle:
    given = {
        "openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "files_scope": (f"{name}.py",), "tasks": ("do it",),
        "tool": "editor",
    }  # fmt: skip
    return WorkstreamBundle(id=name, depends_on=depends_on, **{**given, **rest})


def spec(
    bundles: Iterable[WorkstreamBundle],
    *,
    waves: list[list[str]] | None = None,
    static: tuple[str, ...] = ("ruff",),
    runtime: str | None = "pytest",
    breaker: dict | None = None,
    recovery: dict | None = None,
    profiles: dict | None = None,
    **options,
) -> RunSpec:
    """A run; without `waves`, each level of dependencies is one.

    What fails, fails at once, unless a test says otherwise: nothing is retried, and nobody reviews.
    """
    known = list(bundles)
    return RunSpec(
        run=RUN,
        repository=Repository(location="repo", base_commit=BASE),
        bundles=known,
        waves=waves if waves is not None else levels(known),
        checks=Checks(static_tools=static, runtime_tool=runtime),
        profiles=profiles or {},
        breaker=breaker or {},
        recovery={"retries": 0, "reductions": 0} if recovery is None else recovery,
        options=Options(**{"max_workers": 4, "review": "fail", **options}),
    )


def levels(bundles: list[WorkstreamBundle]) -> list[list[str]]:
    waves: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(bundles):
        wave = [b.id for b in bundles if b.id not in placed and set(b.depends_on) <= placed]
        assert wave, "the bundles depend on each other in a circle"
        waves.append(wave)
        placed.update(wave)
    return waves


# What an attempt comes to


class Lost:
    """The executor dies with it."""


class Unclaimed:
    """Nobody takes the command until its deadline is over."""


Outcome = StepFinished | type[Lost] | type[Unclaimed]


def failed(signature: str = "e1") -> StepFinished:
    """A check says no."""
    return StepFinished(ok=False, error_class="check_failed", message=f"{signature}!", signature=signature)


def broken(error_class: str, **rest) -> StepFinished:
    return StepFinished(ok=False, error_class=error_class, message=f"{error_class} happened", **rest)


def made(tree: str) -> StepFinished:
    """EDIT or FIX that leads to a tree."""
    return StepFinished(ok=True, changed=True, snapshot=Snapshot(commit=f"commit-of-{tree}", tree=tree))


Key = tuple[str, str]
"""Of whom and which step: ("ws-a", "static"); of the line ("ws-a", "merge"), ("", "deliver")."""


class Play:
    """A run in the making."""

    def __init__(
        self,
        definition: RunSpec,
        script: dict[Key, list[Outcome]] | None = None,
        *,
        decisions_at_once: Callable[[], int] | None = None,
    ) -> None:
        """`script`: what happens to each step in turn; what it does not name succeeds. `decisions_at_once`: the
        decisions of one call that are appended before the next call; all of them by default.
        """
        self.spec = definition
        self.script = {key: list(outcomes) for key, outcomes in (script or {}).items()}
        self.decisions_at_once = decisions_at_once
        self.readable = True
        self.specs = {SPEC.digest: definition}
        self.fleet = Fleet()
        self.now_ns = START_NS
        self.sequence = 0
        self.facts: list[Fact] = []
        self.state: RunState | None = None
        self.steps: list[tuple[str, str]] = []
        self.attempts = 0
        self.most_open = 0
        self.trees = 0
        self.request(
            RunRequested(
                request_id="q-run", actor="ann", spec=SPEC, workstreams=len(definition.bundles), repository="repo",
                base_commit=BASE, timeout_s=definition.options.timeout_s, paused=definition.options.paused,
            )
        )  # fmt: skip

    # The log

    def write(self, place: Place, *events: AnyEvent) -> Fact:
        self.sequence += 1
        self.now_ns += 1_000_000
        entry = Entry(id=f"id-{self.sequence}", run=RUN, at_ns=0, by="x", events=list(events))
        encode_entry(entry)
        named = [event.spec.digest for event in events if isinstance(event, RunAccepted | RunAmended)]
        spec_given = self.specs.get(named[0]) if named and self.readable else None
        fact = Fact(self.sequence, self.now_ns, place, entry, spec_given)
        self.facts.append(fact)
        self.state = evolve(self.state, fact)
        return fact

    def request(self, event: AnyEvent) -> None:
        self.write(Place("request", RUN), event)

    def cancel(self, request_id: str = "q-cancel", reason: str = "enough") -> None:
        self.request(CancelRequested(request_id=request_id, actor="ann", reason=reason))

    def ask(self, workstream: str, step: str, request_id: str, *, with_fix: bool = False) -> None:
        self.request(
            StepRequested(request_id=request_id, actor="ann", workstream=workstream, step=step, with_fix=with_fix)
        )

    def review(self, verdict: str, *workstreams: str, request_id: str = "q-review", **rest) -> RequestAnswered:
        """A person's verdict, and how it is answered."""
        self.request(
            ReviewRequested(
                request_id=request_id, actor="bob", verdict=verdict, workstreams=list(workstreams), **rest
            )
        )  # fmt: skip
        self.settle()
        return self.state.answers[request_id]

    # Deciding, as the shell does

    def due(self, sightings: Sightings | None = None) -> list[Decision]:
        return due(self.state, self.now_ns, sightings, self.fleet)

    def settle(self, sightings: Sightings | None = None) -> None:
        """Decide until nothing more is due."""
        for _ in range(DECIDING_MAX):
            decisions = self.due(sightings)
            if not decisions:
                return
            self.apply(decisions)
        raise AssertionError(f"still deciding after {DECIDING_MAX} rounds: {decisions[:3]}")

    def apply(self, decisions: list[Decision]) -> None:
        """Append some of these: closes on their own subjects, a final one only by itself, the others in order."""
        some = len(decisions) if self.decisions_at_once is None else max(1, self.decisions_at_once())
        closes = [d for d in decisions if d.attempt is not None][:some]
        if closes:
            for decision in closes:
                scheduled = decision.attempt.scheduled
                self.write(Place("attempt", RUN, scheduled.workstream, scheduled.attempt), *decision.events)
            return
        events: list[AnyEvent] = []
        size = 0
        for number, decision in enumerate(decisions[:some]):
            size += len(msgspec.json.encode(decision.events))
            if number and (decision.final or size > ENTRY_BUDGET_BYTES):
                break
            events += decision.events
        self.check(events)
        self.write(Place("run", RUN), *events)
        self.check_state()

    def check(self, events: list[AnyEvent]) -> None:
        """What must hold of decisions before they are folded."""
        states = {name: w.state for name, w in self.state.workstreams.items()}
        stopping = self.state.stopping is not None
        for event in events:
            match event:
                case WorkstreamTransitioned():
                    assert event.from_state == states[event.workstream], event
                    assert event.to_state in ALLOWED[event.from_state], event
                    states[event.workstream] = event.to_state
                case StepScheduled():
                    assert not stopping, "nothing new is started once the run stops"
                    self.attempts += 1
                    self.steps.append((event.on_behalf if event.workstream == LINE else event.workstream, event.step))
                    self._check_attempt(event)
                case RunStopping():
                    assert not stopping, "a run stops once"
                    stopping = True
                case RunFinished():
                    assert self.state.finished is None
                    assert not self.state.open

    def _check_attempt(self, event: StepScheduled) -> None:
        owner = self.state.line if event.workstream == LINE else self.state.workstreams[event.workstream]
        assert owner.open is None, f"{event.workstream} has an open attempt already"
        assert event.attempt == owner.attempts + 1
        assert event.queue_deadline_ns > self.now_ns
        assert event.timeout_s > 0

    def check_state(self) -> None:
        """I5, and that what is counted is what is there."""
        run = self.state
        self.most_open = max(self.most_open, len(run.open))
        assert len(run.open) <= self.spec.options.max_workers, sorted(run.open)
        owners = [*run.workstreams.values(), *([run.line] if run.line is not None else [])]
        assert {id(o.open) for o in owners if o.open is not None} == {id(a) for a in run.open.values()}
        assert set(run.unclaimed) <= set(run.open)
        assert run.startable == sorted(w.index for w in run.workstreams.values() if w.state == "ready") or (
            self.spec.options.stepwise
        )
        eager = self.spec.options.scheduling == "eager"
        assert eager or run.mergeable == sorted(run.mergeable)
        waiting = [*run.mergeable]
        if run.line is not None:
            waiting += [run.workstreams[one.workstream].index for one in run.line.staged] + [*run.line.postponed]
        assert sorted(waiting) == sorted(w.index for w in run.workstreams.values() if w.state == "merging")

    # Executors

    def outcome(self, scheduled: StepScheduled) -> Outcome:
        """What the script says of this attempt, else success."""
        who = scheduled.on_behalf if scheduled.workstream == LINE else scheduled.workstream
        left = self.script.get((who, scheduled.step))
        if left:
            return left.pop(0)
        return self.success(scheduled)

    def success(self, scheduled: StepScheduled) -> StepFinished:
        match scheduled.step:
            case "edit" | "fix":
                if scheduled.dry_run:
                    return StepFinished(ok=True, dry_run=True)
                self.trees += 1
                tree = f"{scheduled.workstream}-{scheduled.step}-{scheduled.attempt}"
                return made(tree)
            case "merge":
                fast = scheduled.input.commit == scheduled.base.commit
                tree = scheduled.theirs.tree if fast else f"{scheduled.input.tree}+{scheduled.theirs.tree}"
                return made(tree)
            case _:
                return passed(scheduled)

    def claim(self, workstream: str, attempt: int, executor: str = "e1", boot: str = "k1") -> None:
        self.write(Place("attempt", RUN, workstream, attempt), StepStarted(executor=executor, boot=boot))

    def act(self, workstream: str, attempt: int) -> None:
        """One open attempt comes to its end."""
        scheduled = self.state.open[workstream, attempt].scheduled
        place = Place("attempt", RUN, workstream, attempt)
        outcome = self.outcome(scheduled)
        if outcome is Unclaimed:
            self.now_ns = max(self.now_ns, scheduled.queue_deadline_ns)
            return
        if (workstream, attempt) in self.state.unclaimed:
            self.claim(workstream, attempt)
        if outcome is Lost:
            self.write(place, StepLost(reason="executor e1 has started anew", executor="e1"))
        else:
            self.write(place, outcome)

    def play(self, pick: Callable[[list[tuple[str, int]]], tuple[str, int]] | None = None) -> "Play":
        """To the end of the run: `pick` chooses which open attempt ends next, by default the oldest."""
        self.until_stuck(pick)
        assert self.state.finished is not None, "the run waits for nothing"
        self.check_end()
        return self

    def until_stuck(self, pick: Callable[[list[tuple[str, int]]], tuple[str, int]] | None = None) -> "Play":
        """As far as it goes by itself: to the end, or until it waits for somebody."""
        for _ in range(2000):
            self.settle()
            if self.state.finished is not None and not self.state.is_resumed:
                return self
            if self.state.open:
                self.act(*(pick or _oldest)(sorted(self.state.open)))
            elif (waits_ns := self.waits_ns) is not None:
                self.now_ns = waits_ns
            else:
                return self
        raise AssertionError("the run does not end")

    @property
    def waits_ns(self) -> int | None:
        """The next time at which something falls due by itself."""
        if self.state.held:
            return None
        line = [self.state.line] if self.state.line is not None else []
        delays = [owner.delayed.until_ns for owner in (*self.state.workstreams.values(), *line) if owner.delayed]
        return min((at for at in (self.state.next_not_before_ns, *delays) if at > self.now_ns), default=None)

    def check_end(self) -> None:
        """What must hold of a run that has ended."""
        run = self.state
        assert run.finished is not None
        assert not run.open
        assert outstanding(run) == []
        assert not run.requests
        counts = [w.state for w in run.workstreams.values()]
        finished = run.finished
        assert (finished.completed, finished.failed, finished.blocked, finished.cancelled) == tuple(
            counts.count(state) for state in ("completed", "failed", "blocked", "cancelled")
        )
        assert finished.completed + finished.failed + finished.blocked + finished.cancelled == len(counts)
        closes = [
            (fact.place.workstream, fact.place.attempt)
            for fact in self.facts
            for event in fact.entry.events
            if isinstance(event, StepFinished | StepCancelled | StepLost)
        ]
        assert len(closes) == len(set(closes)) == self.attempts
        assert same(replay(self.facts), run)

    # What came of it

    @property
    def events(self) -> list[AnyEvent]:
        return [event for fact in self.facts for event in fact.entry.events]

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def states(self) -> dict[str, str]:
        return {name: w.state for name, w in self.state.workstreams.items()}

    def reason(self, workstream: str) -> str:
        return self.state.workstreams[workstream].reason

    def steps_of(self, workstream: str) -> list[str]:
        """Attempts on behalf of a workstream, and what needed none."""
        told = []
        for event in self.events:
            match event:
                case StepScheduled() if workstream in (event.workstream, event.on_behalf):
                    told.append(event.step)
                case StepSkipped() if event.workstream == workstream:
                    told.append(f"{event.step}: {event.reason}")
        return told

    @property
    def moves(self) -> list[str]:
        return [f"{e.workstream} {e.from_state} → {e.to_state}" for e in self.of(WorkstreamTransitioned)]


def passed(scheduled: StepScheduled) -> StepFinished:
    results = [CheckResult(check=c.check, kind=c.kind, name=c.name, outcome="passed") for c in scheduled.checks]
    return StepFinished(ok=True, checks=results, dry_run=scheduled.dry_run)


def replay(facts: list[Fact]) -> RunState | None:
    """The state that a log folds into."""
    state = None
    for fact in facts:
        state = evolve(state, fact)
    return state


def same(one: RunState, two: RunState) -> bool:
    """Equality of states; their definitions are derived from the same facts."""
    left, right = one.definitions, two.definitions
    one.definitions = two.definitions = None
    try:
        return one == two
    finally:
        one.definitions, two.definitions = left, right


def _oldest(open_attempts: list[tuple[str, int]]) -> tuple[str, int]:
    return open_attempts[0]
