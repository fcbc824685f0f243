"""What the scheduler owes. Pure: no clock, no I/O, no randomness.

    due(run, now_ns, sightings) -> [Decision]
    outstanding(run)            -> [RunStep]

A Decision is a group of events that belong together; the shell appends decisions in order and may stop after any of
them, because what is left is derived again from the state that the appended ones fold into. Recovery is therefore
nothing special: fold the log, append what is due, publish what is outstanding.
"""

from collections.abc import Iterator, Mapping
from typing import assert_never

import msgspec

from services.commands import RunStep
from services.events import (
    LINE,
    TERMINAL_WORKSTREAM,
    AnyEvent,
    CancelRequested,
    Check,
    DeliveryRefused,
    FixInput,
    FixLoopEnded,
    IntegrationAdvanced,
    LineDelivered,
    MergeRefused,
    RequestAnswered,
    RunAccepted,
    RunFinished,
    RunStatus,
    RunStopping,
    RunTransitioned,
    Snapshot,
    Step,
    StepCancelled,
    StepFinished,
    StepLost,
    StepRequested,
    StepScheduled,
    StepSkipped,
    WaveFinished,
    WaveStarted,
    WorkstreamState,
    WorkstreamTransitioned,
)
from services.scheduler.breaker import BreakerConfig, decide
from services.scheduler.state import (
    ALLOWED,
    Attempt,
    Closed,
    Line,
    RunState,
    Workstream,
    is_loss,
    is_over,
    unknown_checks,
)
from services.spec import CHECKS_NAMED_MAX, STEP_TIMEOUT_S, Definitions, Options, ranges_of

GROUP_MAX = 400
"""Workstreams named by one decision: keeps an entry under its size limit whatever the ids."""

DECISIONS_MAX = 2000
"""Decisions of one call: what is left is derived again."""

REASON_MAX = 1500
"""Characters of a reason."""

_SECOND_NS = 1_000_000_000

_STATE_OF: Mapping[Step, WorkstreamState] = {
    "edit": "editing",
    "static": "static_check",
    "runtime": "runtime_check",
    "fix": "fixing",
}


class Decision(msgspec.Struct, frozen=True):
    """Events that take effect together.

    `attempt` is set when they close that attempt, on its own subject, after the sequence `expect`. `final` decisions hold only if nothing at all has
    happened in the run since: they expect the last sequence over everything of the run.
    """

    events: list[AnyEvent]
    attempt: Attempt | None = None
    expect: int = 0
    final: bool = False


class Sighting(msgspec.Struct):
    """The newest beat of an executor: its boot, and when each attempt was last named, in the scheduler's own time."""

    boot: str
    seen_ns: int
    named: dict[tuple[str, str, int], int] = {}


class Sightings(msgspec.Struct):
    """What the scheduler has seen of executors. `since_ns`: connected and caught up without a break since then."""

    executors: dict[str, Sighting]
    since_ns: int
    lease_s: float


def due(run: RunState, now_ns: int, sightings: Sightings | None = None) -> list[Decision]:
    """The decisions the scheduler owes to a run at `now_ns` (log time). Without `sightings` nobody is declared lost."""
    decisions: list[Decision] = []
    for decision in _due(run, now_ns, sightings):
        decisions.append(decision)
        if len(decisions) >= DECISIONS_MAX:
            break
    return decisions


def outstanding(run: RunState) -> list[RunStep]:
    """The commands of attempts that are scheduled and that nobody has claimed, oldest first."""
    if run.accepted is None or is_over(run):
        return []
    spec = run.accepted.spec
    return [
        RunStep(run=run.run, spec=spec, scheduled_ns=attempt.scheduled_ns, step=attempt.scheduled)
        for attempt in run.unclaimed.values()
    ]


def _due(run: RunState, now_ns: int, sightings: Sightings | None) -> Iterator[Decision]:
    if is_over(run):
        for request in run.requests.values():
            yield Decision([_refuse(request.request_id, f"run {run.run} is over: {run.status}")])
        return
    if run.accepted is None:
        if run.requested is not None:
            yield _accept(run, now_ns)
        return
    yield from _closes(run, now_ns, sightings)
    yield from _answers(run)
    if run.unreadable:
        yield _finish(run, "failed", run.unreadable)
        return
    if any(isinstance(request, CancelRequested) for request in run.requests.values()):
        return
    definitions = run.definitions
    if definitions is None:
        return
    if run.stopping is not None:
        yield from _stop(run, run.stopping)
        return
    if now_ns >= run.accepted.deadline_ns > 0:
        limit = definitions.spec.options.timeout_s
        yield Decision([RunStopping(outcome="failed", reason=f"the run's time limit of {limit:g} s has passed")])
        return
    yield from _Deciding(run, definitions, now_ns).decisions()


def _accept(run: RunState, now_ns: int) -> Decision:
    request = run.requested
    if request is None:
        raise ValueError(f"run {run.run} was not requested")
    return Decision(
        [
            RunAccepted(
                request_id=request.request_id,
                actor=request.actor,
                spec=request.spec,
                workstreams=request.workstreams,
                repository=request.repository,
                base_commit=request.base_commit,
                deadline_ns=now_ns + int(request.timeout_s * _SECOND_NS) if request.timeout_s else 0,
            ),
            RunTransitioned(from_state="pending", to_state="running", reason="accepted", actor=request.actor),
        ]
    )


def _refuse(request_id: str, reason: str) -> RequestAnswered:
    return RequestAnswered(request_id=request_id, answer="refused", reason=reason, ok=False)


def _closes(run: RunState, now_ns: int, sightings: Sightings | None) -> Iterator[Decision]:
    """Attempts that the scheduler itself closes: unclaimed past their deadline, unwanted, or without an executor."""
    for attempt in list(run.open.values()):
        if run.stopping is not None:
            reason = run.stopping.reason or run.stopping.outcome
            yield Decision([StepCancelled(reason=reason, actor=run.stopping.actor)], attempt, attempt.sequence)
        elif not attempt.executor:
            if now_ns >= attempt.scheduled.queue_deadline_ns:
                waited = (now_ns - attempt.scheduled_ns) / _SECOND_NS
                reason = f"no executor of pool {attempt.scheduled.pool} claimed it within {waited:.0f} s: start one"
                yield Decision([StepCancelled(reason=reason)], attempt, attempt.sequence)
        elif sightings is not None and (reason := _loss(run.run, attempt, now_ns, sightings)):
            yield Decision([StepLost(reason=reason, executor=attempt.executor)], attempt, attempt.sequence)


def _loss(run: str, attempt: Attempt, now_ns: int, sightings: Sightings) -> str:
    """Why an attempt counts as lost, or nothing.

    An executor that beats under another boot has forgotten it. Otherwise a full lease must pass, of the scheduler's own
    connected and caught-up time, without a beat that names the attempt: an outage of the bus steals nothing.
    """
    sighting = sightings.executors.get(attempt.executor)
    if sighting is not None and sighting.boot != attempt.boot and sighting.seen_ns >= attempt.started_ns:
        return f"executor {attempt.executor} has started anew"
    key = (run, attempt.scheduled.workstream, attempt.scheduled.attempt)
    named_ns = sighting.named.get(key, 0) if sighting is not None else 0
    silent_ns = now_ns - max(named_ns, attempt.started_ns, sightings.since_ns)
    if silent_ns > sightings.lease_s * _SECOND_NS:
        return f"executor {attempt.executor} has not named it for {silent_ns / _SECOND_NS:.1f} s"
    return ""


def _answers(run: RunState) -> Iterator[Decision]:
    """Answers to what was asked of a live run, in the order of asking."""
    stopping = run.stopping is not None
    taken = {workstream.id for workstream in run.workstreams.values() if workstream.goal is not None}
    for request in run.requests.values():
        match request:
            case CancelRequested():
                events: list[AnyEvent] = [RequestAnswered(request_id=request.request_id, answer="accepted")]
                if not stopping:
                    reason = request.reason or f"cancelled by {request.actor}"
                    events.append(RunStopping(outcome="cancelled", reason=reason, actor=request.actor))
                stopping = True
                yield Decision(events)
            case StepRequested():
                refusal = "the run is stopping" if stopping else _step_refusal(run, request)
                if refusal:
                    yield Decision([_refuse(request.request_id, refusal)])
                elif request.workstream not in taken:
                    taken.add(request.workstream)
                    yield Decision([RequestAnswered(request_id=request.request_id, answer="accepted")])
            case _:
                assert_never(request)


def _step_refusal(run: RunState, request: StepRequested) -> str:
    definitions = run.definitions
    if definitions is None or not definitions.spec.options.stepwise:
        return "the run schedules its steps itself: submit it as a stepwise run to ask for single steps"
    workstream = run.workstreams.get(request.workstream)
    if workstream is None:
        return f"run {run.run} has no workstream {request.workstream}"
    if request.step not in _STATE_OF:
        return f"step {request.step!r} cannot be asked for: ask for edit, static, runtime or fix"
    if request.step == "fix" and workstream.failure is None:
        return "there is nothing to fix: no check of this workstream has failed yet"
    return ""


def _stop(run: RunState, stopping: RunStopping) -> Iterator[Decision]:
    """A stopping run: once every attempt is closed, what has not ended is cancelled, and the run ends."""
    if run.open:
        return
    left = [w for w in run.workstreams.values() if w.state not in TERMINAL_WORKSTREAM]
    for workstream in left:
        yield Decision([_move(workstream, "cancelled", stopping.reason, stopping.actor)])
    if not left:
        yield _finish(run, stopping.outcome, stopping.reason)


def _finish(run: RunState, state: RunStatus, reason: str) -> Decision:
    counts: dict[str, int] = {}
    for workstream in run.workstreams.values():
        counts[workstream.state] = counts.get(workstream.state, 0) + 1
    event = RunFinished(
        state=state,
        reason=reason[:REASON_MAX],
        completed=counts.get("completed", 0),
        failed=counts.get("failed", 0),
        blocked=counts.get("blocked", 0),
        cancelled=counts.get("cancelled", 0),
    )
    return Decision([event], final=True)


def _move(workstream: Workstream, to: WorkstreamState, reason: str = "", actor: str = "scheduler") -> AnyEvent:
    return WorkstreamTransitioned(
        workstream=workstream.id, from_state=workstream.state, to_state=to, reason=reason[:REASON_MAX], actor=actor
    )


class _Draft:
    """The decision about one workstream, written step by step: later moves start where earlier ones lead."""

    def __init__(self, workstream: Workstream) -> None:
        self.workstream = workstream
        self.state = workstream.state
        self.events: list[AnyEvent] = []

    def move(self, to: WorkstreamState, reason: str = "") -> None:
        if to == self.state:
            return
        if to not in ALLOWED[self.state]:
            raise ValueError(f"{self.workstream.id} cannot go from {self.state} to {to}")
        self.events.append(
            WorkstreamTransitioned(
                workstream=self.workstream.id, from_state=self.state, to_state=to, reason=reason[:REASON_MAX]
            )
        )
        self.state = to

    def add(self, event: AnyEvent) -> None:
        self.events.append(event)

    def decision(self) -> Decision:
        return Decision(self.events)


class _Deciding:
    """One call of `due` for a run that is going on."""

    def __init__(self, run: RunState, definitions: Definitions, now_ns: int) -> None:
        self.run = run
        self.definitions = definitions
        self.options: Options = definitions.spec.options
        self.now_ns = now_ns
        self.slots = self.options.max_workers - len(run.open)
        self.failing = run.failures > 0

    def decisions(self) -> Iterator[Decision]:
        if self.run.doomed:
            yield from self._block()
            return
        for workstream in sorted(self.run.agenda, key=lambda name: self.definitions.index[name]):
            if self.slots > 0:
                yield self._after_close(self.run.workstreams[workstream])
        if self.options.stepwise:
            yield from self._goals()
            return
        if self.options.fail_fast and self.run.failures:
            yield from self._give_up_unstarted()
        yield from self._start()
        if self.run.wave_open:
            yield from self._line()
        else:
            yield from self._next_wave()

    # Waves

    def _block(self) -> Iterator[Decision]:
        """Dependents of what failed, however far: blocked, with the workstream at the root of it."""
        moves: list[AnyEvent] = []
        queue = list(self.run.doomed.items())
        seen = set(self.run.doomed)
        while queue:
            name, root = queue.pop(0)
            moves.append(_move(self.run.workstreams[name], "blocked", f"dependency {root} failed"))
            for dependent in self.run.dependents.get(name, ()):
                if dependent not in seen and self.run.workstreams[dependent].state == "pending":
                    seen.add(dependent)
                    queue.append((dependent, root))
        for move in moves:
            yield Decision([move])

    def _give_up_unstarted(self) -> Iterator[Decision]:
        left = [
            w for w in self.run.workstreams.values() if w.state in {"pending", "ready"} and w.id not in self.run.doomed
        ]
        for workstream in left:
            yield Decision([_move(workstream, "cancelled", "fail_fast: another workstream failed")])

    def _next_wave(self) -> Iterator[Decision]:
        if self.run.agenda:
            return
        if self.options.fail_fast and self.run.failures:
            if all(w.state in TERMINAL_WORKSTREAM for w in self.run.workstreams.values()):
                yield self._end()
            return
        wave = self.run.wave + 1
        waves = self.definitions.spec.waves
        while wave < len(waves) and not self._pending(wave):
            wave += 1
        if wave >= len(waves):
            yield self._end()
        elif self.now_ns >= self.run.next_not_before_ns:
            yield from self._wave_start(wave)

    def _pending(self, wave: int) -> list[Workstream]:
        members = (self.run.workstreams[name] for name in self.definitions.spec.waves[wave])
        return [w for w in members if w.state == "pending"]

    def _wave_start(self, wave: int) -> Iterator[Decision]:
        members = self._pending(wave)
        for start in range(0, len(members), GROUP_MAX):
            group = members[start : start + GROUP_MAX]
            more = start + GROUP_MAX < len(members)
            yield Decision(
                [
                    WaveStarted(wave=wave, workstreams=[w.id for w in group], more=more),
                    *(_move(w, "ready", f"wave {wave + 1}") for w in group),
                ]
            )

    def _start(self) -> Iterator[Decision]:
        """Ready workstreams, in plan order, as far as there are slots."""
        if self.run.wave_open and not self.run.wave_complete:
            yield from self._wave_start(self.run.wave)
            return
        if self.options.fail_fast and self.failing:
            return
        line = self.run.line
        for index in self.run.startable:
            if self.slots <= 0 or line is None:
                return
            draft = _Draft(self.run.workstreams[self.definitions.order[index]])
            draft.move("editing", "dispatched")
            self._schedule(draft, "edit", line.head)
            yield draft.decision()

    def _end(self) -> Decision:
        states = [w.state for w in self.run.workstreams.values()]
        completed = states.count("completed")
        line = self.run.line
        if line is not None and line.refused:
            return _finish(self.run, "partial", f"the result could not be delivered: {line.refusal}")
        if completed == len(states):
            return _finish(self.run, "completed", f"all {completed} workstreams completed")
        reason = f"{completed} of {len(states)} workstreams completed"
        return _finish(self.run, "partial" if completed else "failed", reason)

    # One workstream

    def _schedule(
        self,
        draft: _Draft,
        step: Step,
        snapshot: Snapshot,
        *,
        checks: list[Check] | None = None,
        fix: FixInput | None = None,
    ) -> None:
        workstream = draft.workstream
        index = workstream.index
        draft.add(
            StepScheduled(
                workstream=workstream.id,
                attempt=workstream.attempts + 1,
                step=step,
                pool=self.options.pool,
                input=snapshot,
                base=workstream.base or snapshot,
                timeout_s=self._timeout_s(step),
                queue_deadline_ns=self._queue_deadline_ns(),
                checks=_named(checks),
                every_check=_too_many(checks),
                merged=[(index, index + 1)] if checks else [],
                fix=fix,
                dry_run=self.options.dry_run,
            )
        )
        self.slots -= 1

    def _timeout_s(self, step: Step) -> float:
        breaker = self.run.breaker
        configured = getattr(breaker.timeouts, step, None) if breaker is not None else None
        return float(configured if configured is not None else STEP_TIMEOUT_S[step])

    def _queue_deadline_ns(self) -> int:
        return self.now_ns + int(self.options.queue_timeout_s * _SECOND_NS)

    def _after_close(self, workstream: Workstream) -> Decision:
        draft = _Draft(workstream)
        closed = workstream.closed
        if closed is None:
            raise ValueError(f"{workstream.id} stands in the agenda without a closed attempt")
        match closed.event:
            case StepLost():
                self._after_loss(draft, closed, closed.event.reason)
            case StepCancelled():
                self._fail(draft, closed.event.reason)
            case StepFinished() if is_loss(closed.event):
                self._after_loss(draft, closed, closed.event.message)
            case StepFinished():
                self._after_finish(draft, closed.attempt.scheduled, closed.event)
            case _:
                assert_never(closed.event)
        return draft.decision()

    def _after_loss(self, draft: _Draft, closed: Closed, reason: str) -> None:
        """The same step again, from the newest snapshot; a command that keeps killing executors stops."""
        scheduled = closed.attempt.scheduled
        workstream = draft.workstream
        if workstream.losses > self.options.losses_max:
            self._fail(draft, f"{scheduled.step}: lost {workstream.losses} times, the last time: {reason}")
            return
        snapshot = scheduled.input if scheduled.step != "edit" else workstream.latest or scheduled.input
        checks = scheduled.checks
        if scheduled.every_check:
            checks = self.definitions.required(scheduled.step, scheduled.merged)
        self._schedule(draft, scheduled.step, snapshot, checks=checks, fix=scheduled.fix)

    def _after_finish(self, draft: _Draft, scheduled: StepScheduled, event: StepFinished) -> None:
        step = scheduled.step
        workstream = draft.workstream
        if step == "fix" and event.error_class in {None, "tool_failed", "timeout", "no_change"}:
            self._after_fix(draft, scheduled)
        elif event.ok:
            if workstream.goal is not None:
                self._answer(draft, ok=True, reason="")
            elif step == "edit":
                self._static(draft, event.snapshot or scheduled.input)
            elif step == "static":
                self._runtime(draft, scheduled.input)
            elif step == "runtime":
                self._validated(draft)
        elif event.error_class == "check_failed" and step in {"static", "runtime"}:
            self._after_failed_check(draft, step)
        else:
            detail = event.message or event.error_class or "failed"
            if event.violations:
                detail = f"scope_violation: {', '.join(event.violations[:10])}"
            self._fail(draft, f"{step}: {detail}")

    def _static(self, draft: _Draft, snapshot: Snapshot) -> None:
        draft.move("static_check")
        if self.options.dry_run:
            self._schedule(draft, "static", snapshot)
            return
        checks = self.definitions.static(draft.workstream.id)
        missing = unknown_checks(self.run, snapshot.tree, checks)
        if missing:
            self._schedule(draft, "static", snapshot, checks=missing)
        else:
            draft.add(_skipped(draft.workstream.id, "static", snapshot.tree, checks))
            self._runtime(draft, snapshot)

    def _runtime(self, draft: _Draft, snapshot: Snapshot) -> None:
        draft.move("runtime_check")
        if self.options.dry_run:
            self._schedule(draft, "runtime", snapshot)
            return
        checks = self.definitions.runtime(draft.workstream.id)
        missing = unknown_checks(self.run, snapshot.tree, checks)
        if missing:
            self._schedule(draft, "runtime", snapshot, checks=missing)
        else:
            draft.add(_skipped(draft.workstream.id, "runtime", snapshot.tree, checks))
            self._validated(draft)

    def _validated(self, draft: _Draft) -> None:
        """Scope was checked with every snapshot, and one tree has now passed every check: it may be merged."""
        draft.move("validating")
        draft.move("merging")

    def _policy(self, workstream: Workstream) -> BreakerConfig:
        policy = self.run.breaker or BreakerConfig()
        return policy.for_bundle(self.definitions.bundles[workstream.id])

    def _after_failed_check(self, draft: _Draft, step: Step) -> None:
        workstream = draft.workstream
        if workstream.goal is not None and not workstream.goal.with_fix:
            self._answer(draft, ok=False, reason=f"{step} failed")
            return
        self._fix_or_end(draft, step)

    def _after_fix(self, draft: _Draft, scheduled: StepScheduled) -> None:
        workstream = draft.workstream
        latest = workstream.latest or scheduled.input
        step: Step = scheduled.fix.step if scheduled.fix is not None else "static"
        goal = workstream.goal
        if goal is not None and goal.step == "fix":
            closed = workstream.closed.event if workstream.closed is not None else None
            ok = isinstance(closed, StepFinished) and closed.ok
            self._answer(draft, ok=ok, reason="" if ok else "the FIX tool did not succeed")
        elif workstream.failure is not None and latest.tree == workstream.failure.tree:
            self._fix_or_end(draft, step)
        elif goal is not None:
            self._check(draft, goal.step, latest)
        else:
            self._static(draft, latest)

    def _fix_or_end(self, draft: _Draft, step: Step) -> None:
        """Another FIX attempt if the FIX-loop breaker allows one; otherwise the loop ends, with the limit that tripped."""
        workstream = draft.workstream
        failure = workstream.failure
        verdict = decide(workstream.fix, step, self._policy(workstream))
        if verdict.allowed and failure is not None:
            self._schedule_fix(draft, step)
            return
        limit = verdict.limit or "not_fixable"
        draft.add(FixLoopEnded(workstream=workstream.id, step=step, limit=limit, reason=verdict.reason[:REASON_MAX]))
        self._fail(draft, f"{step}: {limit}: {verdict.reason}")

    def _schedule_fix(self, draft: _Draft, step: Step) -> None:
        workstream = draft.workstream
        failure = workstream.failure
        if failure is None:
            raise ValueError(f"{workstream.id} has nothing to fix")
        draft.move("fixing", f"{step} failed")
        fix = FixInput(
            step=step,
            attempt=failure.attempt,
            diagnostics=failure.diagnostics,
            earlier_patches=workstream.patches[-5:],
        )
        self._schedule(draft, "fix", self._latest(workstream), fix=fix)

    def _fail(self, draft: _Draft, reason: str) -> None:
        if draft.workstream.goal is not None:
            self._answer(draft, ok=False, reason=reason)
        else:
            self.failing = True
            draft.move("failed", reason)

    def _latest(self, workstream: Workstream) -> Snapshot:
        line = self.run.line
        if workstream.latest is not None:
            return workstream.latest
        if line is None:
            raise ValueError(f"run {self.run.run} has no line")
        return line.head

    # Stepwise runs

    def _answer(self, draft: _Draft, *, ok: bool, reason: str) -> None:
        goal = draft.workstream.goal
        if goal is not None:
            draft.add(RequestAnswered(request_id=goal.request_id, answer="done", ok=ok, reason=reason[:REASON_MAX]))

    def _goals(self) -> Iterator[Decision]:
        """Steps that were asked for and that nothing is running for yet."""
        for workstream in self.run.workstreams.values():
            goal = workstream.goal
            if goal is None or workstream.open is not None or workstream.closed is not None or self.slots <= 0:
                continue
            draft = _Draft(workstream)
            if draft.state == "pending":
                draft.move("ready", "asked for")
            latest = self._latest(workstream)
            if goal.step == "edit":
                draft.move("editing")
                self._schedule(draft, "edit", latest)
            elif goal.step == "fix":
                self._schedule_fix(draft, workstream.failure.step if workstream.failure else "static")
            else:
                self._check(draft, goal.step, latest)
            yield draft.decision()

    def _check(self, draft: _Draft, step: Step, snapshot: Snapshot) -> None:
        draft.move(_STATE_OF[step])
        name = draft.workstream.id
        checks = self.definitions.static(name) if step == "static" else self.definitions.runtime(name)
        if checks or self.options.dry_run:
            self._schedule(draft, step, snapshot, checks=checks)
        else:
            draft.add(_skipped(name, step, snapshot.tree, checks))
            self._answer(draft, ok=True, reason="noop: nothing is configured")

    # The line

    def _line(self) -> Iterator[Decision]:
        """Once every workstream of the wave is settled: merge in plan order, deliver, close the wave."""
        run, line = self.run, self.run.line
        if line is None or run.unsettled or run.agenda or not run.wave_complete or line.open is not None:
            return
        if line.closed is not None:
            yield self._after_line_close(line, line.closed)
        elif run.mergeable:
            yield self._merge(line, run.workstreams[self.definitions.order[run.mergeable[0]]])
        elif line.merged and line.head.commit not in {line.delivered, line.refused}:
            yield self._schedule_line("deliver", line.head, delivered=line.delivered)
        else:
            delay_ns = int(self.options.wave_delay_s * _SECOND_NS)
            yield Decision([WaveFinished(wave=run.wave, next_not_before_ns=self.now_ns + delay_ns)])

    def _schedule_line(
        self,
        step: Step,
        snapshot: Snapshot,
        *,
        workstream: Workstream | None = None,
        checks: list[Check] | None = None,
        merged: tuple[tuple[int, int], ...] = (),
        delivered: str = "",
    ) -> Decision:
        line = self.run.line
        base = workstream.base if workstream is not None else None
        if delivered:
            base = Snapshot(commit=delivered, tree="")
        attempts = line.attempts if line is not None else 0
        return Decision(
            [
                StepScheduled(
                    workstream=LINE,
                    attempt=attempts + 1,
                    step=step,
                    pool=self.options.pool,
                    input=snapshot,
                    base=base,
                    theirs=workstream.latest if workstream is not None and step == "merge" else None,
                    on_behalf=workstream.id if workstream is not None else "",
                    timeout_s=self._timeout_s(step),
                    queue_deadline_ns=self._queue_deadline_ns(),
                    checks=_named(checks),
                    every_check=_too_many(checks),
                    merged=list(merged),
                )
            ]
        )

    def _merge(self, line: Line, workstream: Workstream) -> Decision:
        base, latest = workstream.base, workstream.latest
        if self.options.dry_run or latest is None or base is None or latest.commit == base.commit:
            dry = self.options.dry_run
            skipped = StepSkipped(
                workstream=workstream.id,
                step="merge",
                tree=line.head.tree,
                reason="dry_run" if dry else "nothing_to_merge",
            )
            reason = "dry run" if dry else f"nothing to merge{self._unverified(workstream)}"
            return Decision([skipped, _move(workstream, "completed", reason)])
        return self._schedule_line("merge", line.head, workstream=workstream)

    def _after_line_close(self, line: Line, closed: Closed) -> Decision:
        scheduled = closed.attempt.scheduled
        workstream = self.run.workstreams.get(scheduled.on_behalf)
        event = closed.event
        if is_loss(event) and line.losses <= self.options.losses_max:
            again = msgspec.structs.replace(
                scheduled, attempt=line.attempts + 1, queue_deadline_ns=self._queue_deadline_ns()
            )
            return Decision([again])
        if scheduled.step == "deliver":
            return self._after_delivery(scheduled, event)
        if workstream is None:
            raise ValueError(f"line attempt {scheduled.attempt} is on behalf of nobody")
        if isinstance(event, StepFinished) and event.ok:
            if scheduled.step == "merge":
                return self._gate(line, workstream, event.snapshot or line.head)
            return self._advance(line, workstream, scheduled.input)
        return self._refuse_merge(workstream, scheduled.step, event)

    def _gate(self, line: Line, workstream: Workstream, candidate: Snapshot) -> Decision:
        """A merged tree becomes the head only if it passes every check of everything it carries; verdicts are reused."""
        carried = sorted({*line.merged, workstream.index})
        checks = self.definitions.line(carried)
        missing = unknown_checks(self.run, candidate.tree, checks)
        if missing:
            return self._schedule_line(
                "gate", candidate, workstream=workstream, checks=missing, merged=ranges_of(carried)
            )
        advance = self._advance(line, workstream, candidate)
        return Decision([_skipped(workstream.id, "gate", candidate.tree, checks), *advance.events])

    def _advance(self, line: Line, workstream: Workstream, to: Snapshot) -> Decision:
        return Decision(
            [
                IntegrationAdvanced(workstream=workstream.id, from_commit=line.head.commit, to=to),
                _move(workstream, "completed", f"merged{self._unverified(workstream)}"),
            ]
        )

    def _unverified(self, workstream: Workstream) -> str:
        """What is to be said of a workstream that nothing has checked."""
        name = workstream.id
        checked = self.definitions.static(name) or self.definitions.runtime(name)
        return "" if checked else "; unverified: no check is configured (gates: none)"

    def _refuse_merge(
        self, workstream: Workstream, step: Step, event: StepFinished | StepLost | StepCancelled
    ) -> Decision:
        if isinstance(event, StepFinished) and event.error_class == "merge_conflict":
            others = event.others
            reason = f"merge conflict with {', '.join(others) or 'the line'} in {', '.join(event.conflicts[:10])}"
            refused = MergeRefused(
                workstream=workstream.id,
                reason="conflict",
                message=reason[:REASON_MAX],
                files=event.conflicts[:200],
                others=others[:50],
            )
        elif isinstance(event, StepFinished) and event.error_class == "check_failed":
            failed = [result.name for result in event.checks if result.outcome == "failed"]
            reason = f"red as merged: {', '.join(failed)} passed on its own tree and fails on the merged one: {event.message}"
            refused = MergeRefused(workstream=workstream.id, reason="red", message=reason[:REASON_MAX])
        else:
            detail = event.message if isinstance(event, StepFinished) else event.reason
            reason = f"{step}: {detail}"
            refused = MergeRefused(workstream=workstream.id, reason="error", message=reason[:REASON_MAX])
        return Decision([refused, _move(workstream, "failed", reason)])

    def _after_delivery(self, scheduled: StepScheduled, event: StepFinished | StepLost | StepCancelled) -> Decision:
        ref = f"refs/heads/swell/{self.run.run}"
        commit = scheduled.input.commit
        if isinstance(event, StepFinished) and event.ok:
            return Decision([LineDelivered(ref=ref, commit=commit)])
        reason = event.message if isinstance(event, StepFinished) else event.reason
        return Decision([DeliveryRefused(ref=ref, commit=commit, reason=reason[:REASON_MAX])])


def _too_many(checks: list[Check] | None) -> bool:
    return checks is not None and len(checks) > CHECKS_NAMED_MAX


def _named(checks: list[Check] | None) -> list[Check]:
    """The checks, if an event can name them all."""
    return [] if checks is None or _too_many(checks) else checks


def _skipped(workstream: str, step: Step, tree: str, checks: list[Check]) -> StepSkipped:
    """A step without an attempt: nothing is configured, or everything is known to pass on this tree."""
    return StepSkipped(
        workstream=workstream,
        step=step,
        tree=tree,
        reason="verdict_reused" if checks else "noop",
        checks=checks[:CHECKS_NAMED_MAX],
    )
