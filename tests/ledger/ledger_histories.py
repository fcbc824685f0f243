"""Histories for the ledger's tests: entries as the bus would record them, and an event log in memory that behaves as it."""

import asyncio
import contextlib
import fnmatch
import hashlib
import itertools
from collections.abc import AsyncIterator

from hypothesis import strategies as st

from services import events as ev
from services.bus import COMMANDS, EVENTS, ObjectMissingError, Recorded, StreamIdentity
from services.outcome import Cost, Usage
from services.wire import Entry, attempt_subject, encode_entry, late_subject, request_subject, run_subject

START_NS = 1_790_000_000_000_000_000
SPEC = ev.Artifact(role="spec", digest="5" * 64, name="spec-1", size_bytes=12)
LOG = ev.Artifact(role="log", digest="a" * 64, name="log-1", size_bytes=34)
BASE = ev.Snapshot(commit="b" * 40, tree="c" * 40)


class Story:
    """Writes entries one after the other."""

    def __init__(self) -> None:
        self.records: list[Recorded] = []

    def raw(self, subject: str, data: bytes) -> Recorded:
        position = len(self.records) + 1
        record = Recorded(position, subject, START_NS + position * 1000, data)
        self.records.append(record)
        return record

    def entry(self, subject: str, *told: ev.AnyEvent, run: str = "r1", cause: str = "") -> Recorded:
        position = len(self.records) + 1
        entry = Entry(id=f"id-{position}", run=run, at_ns=7, by="writer:1", events=list(told), cause=cause)
        return self.raw(subject, encode_entry(entry))

    def decide(self, *told: ev.AnyEvent, run: str = "r1") -> Recorded:
        return self.entry(run_subject(run), *told, run=run)

    def live(self, workstream: str, attempt: int, *told: ev.AnyEvent, run: str = "r1") -> Recorded:
        return self.entry(attempt_subject(run, workstream, attempt), *told, run=run)

    def late(self, workstream: str, attempt: int, *told: ev.AnyEvent, run: str = "r1") -> Recorded:
        return self.entry(late_subject(run, workstream, attempt), *told, run=run)

    def accepted(self, *workstreams: str, run: str = "r1") -> None:
        """A run is asked for, accepted and started with one wave."""
        known = {
            "request_id": f"q-{run}", "actor": "ann", "spec": SPEC, "workstreams": len(workstreams),
            "repository": "repo", "base_commit": BASE.commit,
        }  # fmt: skip
        self.entry(request_subject(run), ev.RunRequested(**known), run=run)
        self.decide(
            ev.RunAccepted(**known),
            ev.RunTransitioned(from_state="pending", to_state="running"),
            ev.WaveStarted(wave=0, workstreams=list(workstreams)),
            run=run,
        )

    def step(
        self, workstream: str, attempt: int, step: str, finish: ev.StepFinished, *, run: str = "r1", **rest
    ) -> None:
        """An attempt is scheduled, claimed and finished."""
        self.decide(scheduled(workstream, attempt, step, **rest), run=run)
        self.live(workstream, attempt, ev.StepStarted(executor="e1", boot="k1"), run=run)
        self.live(workstream, attempt, finish, run=run)

    def finished(self, state: str = "completed", *, run: str = "r1", completed: int = 1) -> None:
        self.decide(
            ev.RunFinished(state=state, reason="all merged", completed=completed, failed=0, blocked=0, cancelled=0),
            run=run,
        )


def scheduled(workstream: str, attempt: int, step: str, **rest) -> ev.StepScheduled:
    return ev.StepScheduled(
        workstream=workstream,
        attempt=attempt,
        step=step,
        pool="p",
        input=BASE,
        timeout_s=60,
        queue_deadline_ns=1,
        **rest,
    )


def snapshot(letter: str) -> ev.Snapshot:
    return ev.Snapshot(commit=letter * 40, tree=letter.upper() * 40)


def moved(workstream: str, from_state: str, to_state: str, reason: str = "") -> ev.WorkstreamTransitioned:
    return ev.WorkstreamTransitioned(workstream=workstream, from_state=from_state, to_state=to_state, reason=reason)


def steady(runs: int, workstreams: int) -> list[Recorded]:
    """Plain runs in which every workstream is edited, checked and completed."""
    story = Story()
    for number in range(runs):
        run = f"run{number}"
        names = [f"w{index}" for index in range(workstreams)]
        story.accepted(*names, run=run)
        for name in names:
            for attempt, step in enumerate(("edit", "static", "runtime"), 1):
                made = snapshot("d") if step == "edit" else None
                finish = ev.StepFinished(ok=True, snapshot=made, files=["a.py"], artifacts=[LOG])
                story.step(name, attempt, step, finish, run=run)
            story.decide(moved(name, "merging", "completed"), run=run)
        story.finished(run=run, completed=workstreams)
    return story.records


def _is_on(subject: str, pattern: str) -> bool:
    """Whether a subject is one of a NATS wildcard."""
    places, named = pattern.split("."), subject.split(".")
    rest = places[-1] == ">"
    places = places[:-1] if rest else places
    fits = len(named) > len(places) if rest else len(named) == len(places)
    return fits and all(place in ("*", name) for place, name in zip(places, named, strict=False))


class MemoryLog:
    """An event log in memory: ordered, replayed, then live. Purging leaves holes, as it does in a stream."""

    def __init__(self, records: list[Recorded] = (), *, created_ns: int = 42) -> None:
        self.records = list(records)
        self.created_ns = created_ns
        self.commands: list[Recorded] = []
        self.last_sequence = 0
        self.connected = True
        self._grown = asyncio.Event()

    def extend(self, records: list[Recorded]) -> None:
        self.records.extend(records)
        self._grown.set()

    async def identity(self) -> StreamIdentity:
        if not self.records:
            return StreamIdentity(self.created_ns, self.last_sequence + bool(self.last_sequence), self.last_sequence)
        last = max(self.last_sequence, self.records[-1].sequence)
        return StreamIdentity(self.created_ns, self.records[0].sequence, last)

    async def read(self, sequence: int) -> Recorded | None:
        return next((record for record in self.records if record.sequence == sequence), None)

    async def last(self, subject: str, stream: str = EVENTS) -> Recorded | None:
        held = self.commands if stream == COMMANDS else self.records
        return next((one for one in reversed(held) if _is_on(one.subject, subject)), None)

    async def purge(self, subject: str, *, before: int) -> int:
        gone = [one for one in self.records if one.sequence < before and _is_on(one.subject, subject)]
        self.records = [one for one in self.records if one not in gone]
        return len(gone)

    async def erase(self, sequence: int) -> bool:
        held = len(self.records)
        self.records = [one for one in self.records if one.sequence != sequence]
        return len(self.records) < held

    async def replay(self, subject: str, *, after: int = 0, batch_max: int = 2000) -> AsyncIterator[list[Recorded]]:
        records = [record for record in self.records if record.sequence > after and _is_on(record.subject, subject)]
        for first in range(0, len(records), batch_max):
            await asyncio.sleep(0)
            yield records[first : first + batch_max]

    async def follow(self, after: int, *, linger_s: float, batch_max: int) -> AsyncIterator[list[Recorded]]:
        while True:
            batch = [record for record in self.records if record.sequence > after][:batch_max]
            if batch:
                after = batch[-1].sequence
                yield batch
                continue
            self._grown.clear()
            await self._grown.wait()


class MemoryObjects:
    """Stored objects in memory, given in pieces."""

    def __init__(self, **held: bytes) -> None:
        self.held = held

    async def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        if name not in self.held:
            raise ObjectMissingError(f"object {name} is not stored (any more)")
        half = len(self.held[name]) // 2
        yield self.held[name][:half]
        yield self.held[name][half:]


class MemoryLive:
    """What is said and not kept: each listener gets what was said of its subject from then on."""

    def __init__(self) -> None:
        self.listeners: list[tuple[str, asyncio.Queue[tuple[str, bytes]]]] = []

    def say(self, subject: str, data: bytes) -> None:
        for pattern, queue in self.listeners:
            if fnmatch.fnmatchcase(subject, pattern):
                queue.put_nowait((subject, data))

    @contextlib.asynccontextmanager
    async def hear(self, subject: str) -> AsyncIterator[asyncio.Queue[tuple[str, bytes]]]:
        listener = (subject, asyncio.Queue())
        self.listeners.append(listener)
        try:
            yield listener[1]
        finally:
            self.listeners.remove(listener)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Histories that hypothesis makes: anything that is an entry, and some that is not.

_runs = st.sampled_from(["r1", "r2", "fleet"])
_names = st.sampled_from(["w1", "w2", ev.LINE])
_numbers = st.integers(0, 4)
_steps = st.sampled_from(["edit", "static", "runtime", "fix", "merge", "gate", "deliver", "compensate"])
_states = st.sampled_from(
    [
        "pending", "ready", "editing", "static_check", "merging", "completed", "failed", "blocked", "cancelled", "awaiting_review",
        "compensating", "compensated", "compensation_failed",
    ]
)  # fmt: skip
_run_states = st.sampled_from(["pending", "running", "paused", "completed", "failed", "cancelled"])
_big = st.integers(-(2**80), 2**80)
_texts = st.text(max_size=5)
_snapshots = st.builds(ev.Snapshot, commit=_texts, tree=_texts)
_artifacts = st.builds(ev.Artifact, role=_texts | st.just("patch"), digest=_texts, name=_texts, size_bytes=_big)
_costs = st.none() | st.builds(
    Cost,
    nano_usd=st.integers(0, 10**18),
    basis=st.sampled_from(["reported", "list", "estimate", "unknown"]),
    table=_texts,
)
_usages = st.none() | st.builds(
    Usage, input_tokens=st.integers(0, 10**12), output_tokens=st.integers(0, 10**12), lower_bound=st.booleans()
)
_finishes = st.builds(
    ev.StepFinished,
    usage=_usages,
    cost=_costs,
    list_cost=_costs,
    model=_texts,
    provider=_texts,
    session=_texts,
    findings=_big,
    wall_s=st.floats(allow_nan=False, allow_infinity=False),
    ok=st.booleans(),
    error_class=st.none() | st.sampled_from(["timeout", "handed_back", "unknown"]),
    violations=st.lists(_texts, max_size=1),
    message=_texts,
    exit_code=st.none() | _big,
    snapshot=st.none() | _snapshots,
    files=st.lists(_texts, max_size=2),
    artifacts=st.lists(_artifacts, max_size=2),
    signature=_texts,
    context=st.none() | st.builds(ev.HandedContext, decision=st.just("reduced"), left_out=_big, tokens=_big),
)
_known = {
    "request_id": st.sampled_from(["q1", "q2"]), "actor": _texts, "spec": _artifacts, "workstreams": _big,
    "repository": _texts, "base_commit": _texts, "labels": st.dictionaries(_texts, _texts, max_size=2),
    "tenant": _texts,
}  # fmt: skip
_scheduled = st.builds(
    scheduled,
    _names,
    _numbers,
    _steps,
    tool=_texts,
    reduction=_big,
    action=_texts,
    capability=_texts,
    on_behalf=_names | st.just(""),
)
_asked = {"request_id": _known["request_id"], "actor": _texts, "reason": _texts}
_tools = st.sampled_from(["aider", "claude", "\0", ""])
_scopes = st.sampled_from(["run", "tool", "pool", "all"])
_executors = st.sampled_from(["e1", "e2", "\u00e9"])
_executor_states = st.sampled_from(["spawning", "idle", "busy", "draining", "terminated"])
_classes = st.sampled_from(["timeout", "lost", "handed_back", "rate_limited", "unknown"])
_told = st.one_of(
    st.builds(ev.CancelRequested, **_asked),
    st.builds(ev.StepRequested, request_id=_known["request_id"], actor=_texts, workstream=_names, step=_steps),
    st.builds(ev.PauseRequested, **_asked, scope=_scopes, name=_tools),
    st.builds(ev.ResumeRequested, **_asked, scope=_scopes, name=_tools),
    st.builds(ev.ReviewRequested, **_asked, verdict=st.just("adjust"), workstreams=st.lists(_names, max_size=2)),
    st.builds(ev.RecoveryRequested, **_asked, workstream=_names, step=_steps),
    st.builds(ev.RollbackRequested, **_asked),
    st.builds(ev.RunAmended, spec=_artifacts, amends=_texts, workstreams=st.lists(_names, max_size=2), actor=_texts),
    st.builds(ev.RunStopping, outcome=_run_states, reason=_texts),
    st.builds(ev.WaveFinished, wave=_big),
    st.builds(ev.StepDelayed, step=_scheduled, cause=st.just("tool_breaker"), reason=_texts, until_ns=_big),
    st.builds(
        ev.RecoveryChosen,
        workstream=_names,
        step=_steps,
        attempt=_big,
        error_class=_classes,
        strategy=st.sampled_from(["retry", "reduce_context", "fallback_tool", "review", "fail"]),
        reason=_texts,
    ),
    st.builds(ev.ReviewResolved, workstream=_names, verdict=st.just("retry"), actor=_texts),
    st.builds(ev.MergeRefused, workstream=_names, reason=st.just("red"), message=_texts),
    st.builds(ev.MergeRefused, workstream=_names, reason=st.just("conflict"), message=_texts),
    st.builds(ev.DeliveryRefused, ref=_texts, commit=_texts, reason=_texts),
    st.builds(ev.RollbackStarted, request_id=_known["request_id"], actor=_texts, workstreams=_big, reason=_texts),
    st.builds(
        ev.RollbackFinished,
        state=st.sampled_from(["compensated", "compensation_failed"]),
        compensated=_big,
        failed=_big,
        without_actions=_big,
        reason=_texts,
    ),
    st.builds(ev.StepCancelled, reason=_texts, error_class=_classes),
    st.builds(ev.RunRequested, **_known),
    st.builds(ev.RunAccepted, **_known),
    st.builds(ev.RequestAnswered, request_id=_known["request_id"], answer=st.sampled_from(["accepted", "refused"])),
    st.builds(ev.RunTransitioned, from_state=_run_states, to_state=_run_states, reason=_texts),
    st.builds(ev.WaveStarted, wave=_big, workstreams=st.lists(_names, max_size=2)),
    st.builds(ev.WorkstreamTransitioned, workstream=_names, from_state=_states, to_state=_states, reason=_texts),
    _scheduled,
    st.builds(
        ev.StepSkipped, workstream=_names, step=_steps, tree=_texts, reason=st.sampled_from(["noop", "verdict_reused"])
    ),
    st.builds(ev.FixLoopEnded, workstream=_names, step=_steps, limit=st.just("oscillation_tree"), reason=_texts),
    st.builds(ev.IntegrationAdvanced, workstream=_names, from_commit=_texts, to=_snapshots),
    st.builds(ev.MergeStaged, workstream=_names, from_commit=_texts, to=_snapshots),
    st.builds(ev.MergePostponed, workstream=_names, reason=_texts),
    st.builds(ev.GateFlaked, gate=_names, check=_names, tree=_names, failures=st.integers(1, 9)),
    st.builds(ev.LineDelivered, ref=_texts, commit=_texts),
    st.builds(
        ev.RunFinished,
        state=_run_states,
        reason=_texts,
        completed=_big,
        failed=_big,
        blocked=_numbers,
        cancelled=_numbers,
    ),
    st.builds(ev.StepStarted, executor=_texts, boot=_texts),
    _finishes,
    st.builds(ev.StepCancelled, reason=_texts),
    st.builds(ev.StepLost, reason=_texts, executor=_texts),
    st.builds(ev.ProcessesReaped, executor=_texts, boot=_texts, processes=_numbers),
    st.builds(ev.ResultRefused, executor=_texts, boot=_texts, result=_finishes),
)
_across_runs = st.one_of(
    st.builds(ev.FleetPaused, scope=_scopes, name=_tools, actor=_texts, reason=_texts),
    st.builds(ev.FleetPaused, scope=_scopes, name=_tools, reason=_texts),
    st.builds(ev.FleetResumed, scope=_scopes, name=_tools),
    st.builds(ev.ToolBreakerOpened, tool=_tools, failures=_big, until_ns=_big, reason=_texts, error_class=_classes),
    st.builds(ev.ToolBreakerHalfOpened, tool=_tools),
    st.builds(ev.ProbeGranted, tool=_tools, run=_runs, workstream=_names, attempt=_big, expires_ns=_big),
    st.builds(ev.LimitsSet, tools_nano=st.dictionaries(_tools, st.integers(0, 10**18), max_size=2)),
    st.builds(
        ev.AttemptGranted, run=_runs, workstream=_names, attempt=_big, tool=_tools, provider=_texts, expires_ns=_big
    ),
    st.builds(ev.GrantReturned, run=_runs, workstream=_names, attempt=_big, reason=_texts),
    st.builds(ev.ToolBreakerClosed, tool=_tools, reason=_texts),
    st.builds(
        ev.ExecutorTransitioned,
        executor=_executors,
        boot=st.sampled_from(["k1", "k2"]),
        pool=_texts,
        slots=_big,
        from_state=_executor_states,
        to_state=_executor_states,
        reason=_texts,
    ),
)
_subjects = st.one_of(
    st.builds(run_subject, _runs),
    st.builds(run_subject, _runs),
    st.builds(request_subject, _runs),
    st.builds(attempt_subject, _runs, _names, _numbers),
    st.builds(attempt_subject, _runs, _names, _numbers),
    st.builds(late_subject, _runs, _names, _numbers),
    st.sampled_from(["swell.event.r1.w1.²", "swell.event.r1", "swell.event.r1.w1." + "9" * 5000]),
)
_garbage = st.binary(max_size=20) | st.sampled_from(
    [
        b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[{"kind":"of_tomorrow","workstream":"w1","attempt":1}]}',
        b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[{"kind":"step_finished","ok":"yes"},{"no":"kind"},3]}',
        b'{"id":"x","run":"r1","at_ns":99999999999999999999999,"by":"b","events":[{"kind":"k","attempt":1e30}]}',
        b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[{"kind":"k","z":"\xff"}]}',
        b'{"id":"x","run":"r1","at_ns":1,"by":"b\\u0000","events":[{"kind":"k\\u0000"}]}',
        b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[]}',
        b"[" * 5000,
    ]
)


@st.composite
def histories(draw) -> list[Recorded]:
    """Up to 40 messages; most are entries with events on subjects where they may or may not belong."""
    story = Story()
    for _ in range(draw(st.integers(1, 40))):
        subject = draw(_subjects)
        match draw(st.integers(0, 9)):
            case 0:
                story.raw(subject, draw(_garbage))
            case 1 | 2:
                fleet = draw(st.sampled_from([run_subject("fleet"), run_subject("fleet"), subject]))
                story.entry(fleet, *draw(st.lists(_across_runs, max_size=3)))
            case _:
                story.entry(subject, *draw(st.lists(_told, max_size=3)))
    return story.records


@st.composite
def batchings(draw, records: list[Recorded]) -> list[list[Recorded]]:
    """The records cut into batches somewhere."""
    cuts = sorted(draw(st.sets(st.integers(1, len(records)), max_size=6)) - {len(records)})
    edges = [0, *cuts, len(records)]
    return [records[a:b] for a, b in itertools.pairwise(edges)]
