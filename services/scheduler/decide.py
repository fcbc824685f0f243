"""What the scheduler owes. Pure: no clock, no I/O, no randomness.

    due(run, now_ns, sightings, fleet) -> [Decision]
    outstanding(run)                   -> [RunStep]
    wanting(run)                       -> [Want]
    asking(runs, fleet)                -> [Ask]

A Decision is a group of events that belong together; the shell appends decisions in order and may stop after any of
them, because what is left is derived again from the state that the appended ones fold into. Recovery is therefore
nothing special: fold the log, append what is due, publish what is outstanding.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import assert_never

from services.commands import RunStep
from services.events import (
    TERMINAL_WORKSTREAM,
    AnyEvent,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    CancelRequested,
    DeliveryRequested,
    GrantReturned,
    PauseRequested,
    RecoveryRequested,
    RequestAnswered,
    ResumeRequested,
    RevertStarted,
    ReviewRequested,
    ReviewResolved,
    RollbackRequested,
    RollbackStarted,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunStatus,
    RunStopping,
    RunTransitioned,
    Step,
    StepCancelled,
    StepLost,
    StepRequested,
    WaveFinished,
    WaveStarted,
    WorkstreamState,
)
from services.outcome import NANO_USD_MAX
from services.plan import clash
from services.scheduler.budget import (
    Refusal,
    account_of,
    notices,
    run_account,
)
from services.scheduler.fleet import Fleet, Want, slots_carried
from services.scheduler.grants import GRANTS_MAX, Ask, free_slots
from services.scheduler.line import OnLine
from services.scheduler.routing import Sightings
from services.scheduler.state import (
    ALLOWED,
    Attempt,
    Failure,
    Request,
    RunState,
    Workstream,
    is_marked,
    is_over,
)
from services.scheduler.steps import (
    GROUP_MAX,
    REASON_MAX,
    SECOND_NS,
    STATE_OF,
    Decision,
    Draft,
    ask_for,
    because,
    choice_of,
    money_reason,
    moved_to,
)
from services.spec import Definitions

REVERTS_MAX = 100
"""Workstreams that are taken off the line together: what it comes to is one decision."""

DECISIONS_MAX = 2000
"""Decisions of one call: what is left is derived again."""


def due(run: RunState, now_ns: int, sightings: Sightings | None = None, fleet: Fleet | None = None) -> list[Decision]:
    """The decisions the scheduler owes to a run at `now_ns` (log time).

    Without `sightings` nobody is declared lost; without `fleet` nothing is paused and every tool can be used.
    """
    decisions: list[Decision] = []
    for decision in _due(run, now_ns, sightings, fleet or Fleet()):
        decisions.append(decision)
        if len(decisions) >= DECISIONS_MAX:
            break
    return decisions


def outstanding(run: RunState) -> list[RunStep]:
    """The commands of attempts that are scheduled and that nobody has claimed, oldest first."""
    if run.spec is None or (is_over(run) and not run.is_resumed):
        return []
    spec = run.spec
    return [
        RunStep(run=run.run, spec=spec, scheduled_ns=attempt.scheduled_ns, step=attempt.scheduled)
        for attempt in run.unclaimed.values()
    ]


def wanting(run: RunState) -> list[Want]:
    """The attempts of a run that wait for the breaker of a tool, in plan order."""
    if run.held or run.stopping is not None or is_over(run):
        return []
    wants: list[Want] = []
    for name in sorted(run.delayed):
        workstream = run.workstreams[name]
        delayed = workstream.delayed
        if delayed is not None and delayed.cause == "tool_breaker":
            wants.append(Want(delayed.step.tool, run.run, name, workstream.attempts + 1))
    return wants


def asking(runs: Iterable[RunState], fleet: Fleet) -> list[Ask]:
    """The attempts of all runs that wait for their share of what runs draw on together, as far as they may have it now.

    Nobody asks for what is full, and of those who want the same no more than one decision could serve, from the run on whose
    turn it is: so this costs what is free, however many wait.
    """
    free = free_slots(fleet.shared, slots_carried(fleet))
    full = {pool for pool, slots in free.items() if slots <= 0}
    waiting = [run for run in runs if run.delayed]
    last = {tenant: turn.run for tenant, turn in fleet.shared.turns.items()}

    def turn(run: RunState) -> tuple[bool, str]:
        return run.run <= last.get(run.accepted.tenant if run.accepted is not None else "", ""), run.run

    asks: list[Ask] = []
    like: dict[tuple[str, str, str], int] = {}
    for run in sorted(waiting, key=turn):
        for ask in drawing(run, fleet, full):
            key = (ask.pool, ask.tenant, ask.tool)
            like[key] = like.get(key, 0) + 1
            if like[key] <= GRANTS_MAX:
                asks.append(ask)
    return asks


def drawing(run: RunState, fleet: Fleet, full: Collection[str] = ()) -> list[Ask]:
    """The attempts of a run that wait for their share of what runs draw on together, in plan order, as slots are free.

    Nothing is asked for in pools that are `full`.
    """
    definitions = run.definitions
    if definitions is None or run.held or run.stopping is not None or is_over(run):
        return []
    if fleet.pause_of(definitions.spec.options.pool) is not None:
        return []
    unused = len(fleet.shared.grants.get(run.run, ()))
    free = min(definitions.spec.options.max_workers - len(run.open) - unused, GRANTS_MAX)
    asks: list[Ask] = []
    for name in sorted(run.delayed, key=lambda one: definitions.index[one]):
        delayed = run.workstreams[name].delayed
        if len(asks) >= free:
            break
        if delayed is None or delayed.cause != "limit" or delayed.until_ns or delayed.step.pool in full:
            continue  # nothing is left for it, today or at present
        ask = ask_for(run, definitions, delayed.step)
        if fleet.shared.grant_of(ask) is None:
            asks.append(ask)
    return asks


def _due(run: RunState, now_ns: int, sightings: Sightings | None, fleet: Fleet) -> Iterator[Decision]:
    if is_over(run):
        yield from _after_the_end(run, now_ns, sightings, fleet)
        return
    if run.accepted is None:
        if run.requested is not None:
            yield _accept(run, now_ns)
        return
    if run.open:
        yield from _closes(run, now_ns, sightings)
    if run.run in fleet.shared.grants:
        yield from _unused_grants(run, now_ns, fleet)
    answers = list(_answers(run, now_ns)) if run.requests else []
    if answers:
        yield from answers  # what they change is decided on once it is folded
        return
    if run.unreadable:
        yield _finish(run, "failed", run.unreadable)
        return
    if run.book.owed:
        yield from _budget_notices(run)
    definitions = run.definitions
    if definitions is None:
        return
    if run.stopping is not None:
        yield from _stop(run, run.stopping)
        return
    if run.held:
        if run.delivering is not None and fleet.pause_of(definitions.spec.options.pool) is None:
            yield from _Deciding(run, definitions, now_ns, fleet, sightings).asked(run.delivering)
        yield from _resume(run, definitions, now_ns, fleet, sightings)
        return
    if now_ns >= run.accepted.deadline_ns + run.held_ns and run.accepted.deadline_ns > 0:
        limit = definitions.spec.options.timeout_s
        reason = f"the run's time limit of {limit:g} s has passed"
        yield Decision([RunStopping(outcome="failed", reason=reason, cause="run_timeout")])
        return
    if fleet.pause_of(definitions.spec.options.pool) is None:
        yield from _Deciding(run, definitions, now_ns, fleet, sightings).decisions()


def _unused_grants(run: RunState, now_ns: int, fleet: Fleet) -> Iterator[Decision]:
    """What was granted and not used in time is given back, so that it holds nobody up."""
    for grant in fleet.shared.grants.get(run.run, {}).values():
        if now_ns >= grant.expires_ns:
            reason = "it was not scheduled in time"
            yield Decision([GrantReturned(workstream=grant.workstream, attempt=grant.attempt, reason=reason)])


def _budget_notices(run: RunState) -> Iterator[Decision]:
    """Each threshold of each budget is told once."""
    prefix = account_of(run.run, "_").removesuffix("_")
    for notice in notices(run.book):
        reached = BudgetReached(
            threshold=notice.kind,
            limit_nano=notice.limit_nano,
            spent_nano=min(notice.spent_nano, NANO_USD_MAX),
            reserved_nano=min(notice.reserved_nano, NANO_USD_MAX),
            mode=notice.mode,
            workstream=notice.account.removeprefix(prefix) if notice.account.startswith(prefix) else "",
        )
        yield Decision([reached])


def _resume(
    run: RunState, definitions: Definitions, now_ns: int, fleet: Fleet, sightings: Sightings | None
) -> Iterator[Decision]:
    """A run that waited for a review or for its budget goes on as soon as there is something to do."""
    if run.held == "budget" and not _Deciding(run, definitions, now_ns, fleet, sightings).is_broke():
        reason = "its budget has room"
        yield Decision([RunTransitioned(from_state="paused", to_state="running", reason=reason, cause="budget")])
    if run.held == "review" and (run.startable or not run.reviews):
        yield Decision(
            [RunTransitioned(from_state="paused", to_state="running", reason="a review was resolved", cause="review")]
        )


def _after_the_end(run: RunState, now_ns: int, sightings: Sightings | None, fleet: Fleet) -> Iterator[Decision]:
    """An ended run owes answers, and what somebody asked for after its end: one thing at a time."""
    for request in run.requests.values():
        yield _answer_after_the_end(run, request)
        return  # the next one is judged by what this one leads to
    definitions = run.definitions
    if definitions is None or not run.is_resumed:
        return
    yield from _closes(run, now_ns, sightings)
    if fleet.pause_of(definitions.spec.options.pool) is not None:
        return
    deciding = _Deciding(run, definitions, now_ns, fleet, sightings)
    if run.rollback is not None:
        yield from deciding.compensation(run.rollback)
    elif run.reverting is not None:
        yield from deciding.reverting(run.reverting)
    elif run.delivering is not None:
        yield from deciding.asked(run.delivering)


def _answer_after_the_end(run: RunState, request: Request) -> Decision:
    definitions = run.definitions
    if definitions is None or not isinstance(request, RollbackRequested | DeliveryRequested):
        return Decision([_refuse(request.request_id, f"run {run.run} is over: {run.status}")])
    if run.rollback is not None or run.reverting is not None:
        return Decision([_refuse(request.request_id, f"run {run.run} is being rolled back already")])
    if isinstance(request, DeliveryRequested):
        return _delivery_answer(run, definitions, request)
    if run.delivering is not None:
        return Decision([_refuse(request.request_id, f"run {run.run} is being delivered: ask again after that")])
    accepted = RequestAnswered(request_id=request.request_id, answer="accepted")
    if request.workstreams:
        found = _to_revert(run, definitions, request)
        if isinstance(found, str):
            return Decision([_refuse(request.request_id, found)])
        started = RevertStarted(
            request_id=request.request_id, actor=request.actor, workstreams=found, reason=request.reason
        )
        return Decision([accepted, started])
    return Decision(
        [
            accepted,
            RollbackStarted(
                request_id=request.request_id,
                actor=request.actor,
                workstreams=sum(w.state in _COMPENSABLE for w in run.workstreams.values()),
                reason=request.reason,
            ),
        ]
    )


def _delivery_answer(run: RunState, definitions: Definitions, request: DeliveryRequested) -> Decision:
    """Whether there is something verified to deliver, and nothing else is being delivered."""
    refusal_text = ""
    if definitions.spec.options.dry_run:
        refusal_text = f"run {run.run} was a dry run: it has made nothing to deliver"
    elif run.line is None or not (run.line.merged or run.line.deliveries):
        refusal_text = f"nothing of run {run.run} is merged: there is nothing verified to deliver"
    elif run.delivering is not None:
        refusal_text = f"run {run.run} is being delivered already: ask again after that"
    if refusal_text:
        return Decision([_refuse(request.request_id, refusal_text)])
    return Decision([RequestAnswered(request_id=request.request_id, answer="accepted")])


def _to_revert(run: RunState, definitions: Definitions, request: RollbackRequested) -> list[str] | str:
    """The workstreams to take off the line, the one that was merged last first; or why that cannot be."""
    wanted = list(dict.fromkeys(request.workstreams))
    for name in wanted:
        workstream = run.workstreams.get(name)
        if workstream is None:
            return f"run {run.run} has no workstream {name[:128]}"
        if workstream.state != "completed" or workstream.merged is None:
            state = "completed without a change" if workstream.state == "completed" else workstream.state
            return f"{name} is not on the line: it is {state}"
    found, queue = set(wanted), list(wanted)
    while queue:
        for dependent in run.dependents.get(queue.pop(), ()):
            if dependent not in found and run.workstreams[dependent].state == "completed":
                found.add(dependent)
                queue.append(dependent)
    dependents = sorted(found - set(wanted), key=lambda name: definitions.index[name])
    if dependents and not request.with_dependents:
        named = ", ".join(dependents[:20]) + (f" and {len(dependents) - 20} more" if len(dependents) > 20 else "")
        return f"{named} built on it: roll them back as well (--with-dependents), or nothing"
    if len(found) > REVERTS_MAX:
        return f"{len(found)} workstreams are more than {REVERTS_MAX}: roll back fewer at a time, or the whole run"
    on_line = [name for name in found if run.workstreams[name].merged is not None]
    return sorted(on_line, key=lambda name: run.workstreams[name].merged_at, reverse=True)


_COMPENSABLE = frozenset({"completed", "compensating", "compensation_failed"})


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
                deadline_ns=now_ns + int(request.timeout_s * SECOND_NS) if request.timeout_s else 0,
                labels=request.labels,
                tenant=request.tenant,
            ),
            RunTransitioned(from_state="pending", to_state="running", reason="accepted", actor=request.actor),
            *([_paused("asked for at submission", request.actor, "running")] if request.paused else []),
        ]
    )


def _paused(reason: str, actor: str, before: RunStatus) -> RunTransitioned:
    return RunTransitioned(from_state=before, to_state="paused", reason=reason, actor=actor, cause="request")


def _refuse(request_id: str, reason: str) -> RequestAnswered:
    return RequestAnswered(request_id=request_id, answer="refused", reason=reason, ok=False)


def _closes(run: RunState, now_ns: int, sightings: Sightings | None) -> Iterator[Decision]:
    """Attempts that the scheduler itself closes: unclaimed past their deadline, unwanted, or without an executor."""
    for attempt in list(run.open.values()):
        if run.stopping is not None and not is_over(run):
            reason = run.stopping.reason or run.stopping.outcome
            yield Decision([StepCancelled(reason=reason, actor=run.stopping.actor)], attempt, attempt.sequence)
        elif not attempt.executor:
            if now_ns >= attempt.scheduled.queue_deadline_ns:
                waited = (now_ns - attempt.scheduled_ns) / SECOND_NS
                reason = f"no executor of pool {attempt.scheduled.pool} claimed it within {waited:.0f} s: start one"
                yield Decision([StepCancelled(reason=reason, error_class="queue_timeout")], attempt, attempt.sequence)
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
    if sighting is not None and sighting.gone and sighting.boot == attempt.boot:
        return f"executor {attempt.executor} has ended"
    key = (run, attempt.scheduled.workstream, attempt.scheduled.attempt)
    named_ns = sighting.named.get(key, 0) if sighting is not None else 0
    silent_ns = now_ns - max(named_ns, attempt.started_ns, sightings.since_ns)
    if silent_ns > sightings.lease_s * SECOND_NS:
        return f"executor {attempt.executor} has not named it for {silent_ns / SECOND_NS:.1f} s"
    return ""


def _answers(run: RunState, now_ns: int) -> Iterator[Decision]:
    """Answers to what was asked of a live run, in the order of asking."""
    stopping = run.stopping is not None
    held = run.held
    taken = {workstream.id for workstream in run.workstreams.values() if workstream.goal is not None}
    reviewed = delivering = False
    for request in run.requests.values():
        match request:
            case CancelRequested():
                events: list[AnyEvent] = [RequestAnswered(request_id=request.request_id, answer="accepted")]
                if not stopping:
                    reason = request.reason or f"cancelled by {request.actor}"
                    events.append(RunStopping(outcome="cancelled", reason=reason, actor=request.actor))
                stopping = True
                yield Decision(events)
            case _ if stopping:
                yield Decision([_refuse(request.request_id, "the run is stopping")])
            case PauseRequested():
                events = [RequestAnswered(request_id=request.request_id, answer="accepted")]
                if held != "request":
                    reason = request.reason or f"paused by {request.actor}"
                    events.append(_paused(reason, request.actor, "paused" if held else "running"))
                held = "request"
                yield Decision(events)
            case ResumeRequested():
                yield _resumed(run, request, held)
                held = "" if held == "request" else held
            case ReviewRequested():
                if not reviewed:  # the next one is judged by what this one leads to
                    reviewed = True
                    yield from _reviewed(run, request)
            case RecoveryRequested():
                yield _recovered(run, request, now_ns)
            case RollbackRequested():
                reason = f"run {run.run} goes on: cancel it first"
                yield Decision([_refuse(request.request_id, reason)])
            case DeliveryRequested():
                if run.definitions is not None and not delivering:
                    delivering = True
                    yield _delivery_answer(run, run.definitions, request)
            case BudgetRequested():
                changed = BudgetChanged(
                    actor=request.actor, limit_nano=request.limit_nano, mode=request.mode, reason=request.reason
                )
                yield Decision([changed, RequestAnswered(request_id=request.request_id, answer="accepted")])
            case StepRequested():
                refusal = _step_refusal(run, request)
                if refusal:
                    yield Decision([_refuse(request.request_id, refusal)])
                elif request.workstream not in taken:
                    taken.add(request.workstream)
                    yield Decision([RequestAnswered(request_id=request.request_id, answer="accepted")])
            case _:
                assert_never(request)


def _resumed(run: RunState, request: ResumeRequested, held: str) -> Decision:
    if held == "review":
        waiting = ", ".join(sorted(run.reviews)[:5])
        return Decision([_refuse(request.request_id, f"the run waits for the review of {waiting}: resolve that")])
    if held == "budget":
        remedy = f"the run waits for its budget: give it another one, `swell budget set {run.run} USD`"
        return Decision([_refuse(request.request_id, remedy)])
    events: list[AnyEvent] = [RequestAnswered(request_id=request.request_id, answer="accepted")]
    if held:
        reason = request.reason or f"resumed by {request.actor}"
        events.append(
            RunTransitioned(
                from_state="paused", to_state="running", reason=reason, actor=request.actor, cause="request"
            )
        )
    return Decision(events)


def _reviewed(run: RunState, request: ReviewRequested) -> Iterator[Decision]:
    """A person's verdict, one decision for each workstream, then the answer: any prefix is a state to go on from."""
    done = run.resolved.get(request.request_id, set())
    named = list(dict.fromkeys(request.workstreams)) or sorted(run.reviews | done)
    left = [name for name in named if name not in done]
    amending = request.spec is not None and (run.spec is None or run.spec.digest != request.spec.digest)
    refusal = ""
    if wrong := [name for name in left if name not in run.reviews]:
        refusal = f"{', '.join(wrong[:5])} of run {run.run} does not await review"
    elif not named:
        refusal = f"nothing of run {run.run} awaits review"
    elif request.verdict == "adjust" and request.spec is None:
        refusal = "an adjustment needs the definition it leads to"
    elif amending and (run.spec is None or run.spec.digest != request.amends):
        refusal = "the definition was changed meanwhile: look at it again, and ask again"
    elif request.from_step is not None and (step := _cannot_restart(run, left, request.from_step)):
        refusal = step
    if refusal:
        yield Decision([_refuse(request.request_id, refusal)])
        return
    for name in left:
        workstream = run.workstreams[name]
        events: list[AnyEvent] = []
        if amending and request.spec is not None:
            events.append(
                RunAmended(
                    spec=request.spec,
                    amends=request.amends,
                    workstreams=named[:GROUP_MAX],
                    actor=request.actor,
                    reason=request.reason,
                )
            )
            amending = False
        events.append(
            ReviewResolved(
                workstream=name,
                verdict=request.verdict,
                actor=request.actor,
                request_id=request.request_id,
                from_step=request.from_step,
                reason=request.reason,
            )
        )
        to: WorkstreamState = "failed" if request.verdict == "reject" else "ready"
        said = request.reason or workstream.reason if to == "failed" else request.reason
        events.append(moved_to(workstream, to, f"{request.verdict} by {request.actor}{because(said)}", request.actor))
        yield Decision(events)
    yield Decision([RequestAnswered(request_id=request.request_id, answer="accepted")])


def _cannot_restart(run: RunState, names: list[str], step: Step) -> str:
    """Why some workstream cannot go on at a step; '' when all can."""
    if step not in {"edit", "static", "runtime", "fix"}:
        return f"a workstream cannot go on at {step!r}: use edit, static, runtime or fix"
    for name in names:
        workstream = run.workstreams[name]
        if step != "edit" and workstream.latest is None:
            return f"{name} has nothing to go on with at {step}: start at edit"
        if step == "fix" and workstream.failure is None:
            return f"{name} has nothing to fix: no check of it has failed"
    return ""


def _recovered(run: RunState, request: RecoveryRequested, now_ns: int) -> Decision:
    """What the recovery table says about a failed step of a stepwise run, put in force."""
    workstream = run.workstreams.get(request.workstream)
    definitions = run.definitions
    if definitions is None or not definitions.spec.options.stepwise:
        return Decision([_refuse(request.request_id, "the run recovers by itself: see `swell review list`")])
    if workstream is None:
        return Decision([_refuse(request.request_id, f"run {run.run} has no workstream {request.workstream}")])
    if workstream.goal is not None or workstream.state == "awaiting_review":
        said = "awaits review" if workstream.goal is None else "is still at a step"
        return Decision([_refuse(request.request_id, f"{workstream.id} {said}")])
    if "awaiting_review" not in ALLOWED[workstream.state]:
        said = f"{workstream.id} is {workstream.state}: there is nothing to recover from"
        return Decision([_refuse(request.request_id, said)])
    chosen, events = choice_of(run, definitions, workstream, request.step, request.error_class, now_ns, request.reason)
    if chosen.strategy == "review":
        events.append(moved_to(workstream, "awaiting_review", chosen.reason, request.actor))
    events.append(
        RequestAnswered(
            request_id=request.request_id,
            answer="done",
            ok=chosen.strategy != "review",
            reason=f"{chosen.strategy}: {chosen.reason}"[:REASON_MAX],
        )
    )
    return Decision(events)


def _step_refusal(run: RunState, request: StepRequested) -> str:
    definitions = run.definitions
    if definitions is None or not definitions.spec.options.stepwise:
        return "the run schedules its steps itself: submit it as a stepwise run to ask for single steps"
    workstream = run.workstreams.get(request.workstream)
    if workstream is None:
        return f"run {run.run} has no workstream {request.workstream}"
    if request.step not in STATE_OF:
        return f"step {request.step!r} cannot be asked for: ask for edit, static, runtime or fix"
    if request.step == "fix" and workstream.failure is None:
        return "there is nothing to fix: no check of this workstream has failed yet"
    if workstream.state == "awaiting_review":
        return f"{workstream.id} awaits review: {workstream.reason}"
    if workstream.state in TERMINAL_WORKSTREAM:
        return f"{workstream.id} has ended: it is {workstream.state}"
    return ""


def _stop(run: RunState, stopping: RunStopping) -> Iterator[Decision]:
    """A stopping run: once every attempt is closed, what has not ended is cancelled, and the run ends."""
    if run.open:
        return
    left = [w for w in run.workstreams.values() if w.state not in TERMINAL_WORKSTREAM]
    for workstream in left:
        yield Decision([moved_to(workstream, "cancelled", stopping.reason, stopping.actor)])
    if not left:
        yield _finish(run, stopping.outcome, stopping.reason)


def _finish(run: RunState, state: RunStatus, reason: str) -> Decision:
    counts: dict[str, int] = {}
    for workstream in run.workstreams.values():
        counts[workstream.state] = counts.get(workstream.state, 0) + 1
    account = run.book.accounts.get(run_account(run.run))
    event = RunFinished(
        state=state,
        reason=reason[:REASON_MAX],
        completed=counts.get("completed", 0),
        failed=counts.get("failed", 0),
        blocked=counts.get("blocked", 0),
        cancelled=counts.get("cancelled", 0),
        spent_nano=min(account.spent_nano, NANO_USD_MAX) if account is not None else 0,
    )
    return Decision([event], final=True)


class _Deciding(OnLine):
    """One call of `due` for a run that is going on."""

    def decisions(self) -> Iterator[Decision]:
        if self.run.delivering is not None:
            yield from self.asked(self.run.delivering)
        if self.run.doomed:
            yield from self._block()
            return
        if self.eager and not self.options.stepwise:
            # First, so that what is done is merged before more is begun.
            yield from self._line_step()
        if self.run.agenda:
            for workstream in sorted(self.run.agenda, key=lambda name: self.definitions.index[name]):
                if self.slots > 0:
                    yield self._after_close(self.run.workstreams[workstream])
        if self.run.delayed:
            yield from self._delayed()
        if self.options.stepwise:
            yield from self._goals()
            return
        if self.options.fail_fast and self.run.failures:
            yield from self._give_up_unstarted()
        yield from self._start()
        if self.eager:
            yield from self._start_eagerly()
        if self.broke is not None and self._stands_still():
            yield from self._out_of_money(self.broke)
            return
        if self.eager:
            if not (self.run.unsettled or self.run.agenda or self.starting or self._line_busy()):
                yield self._end()
        elif not (self._under_way() or self.starting or self.run.agenda or not self.run.wave_complete):
            if self._line_busy():
                yield from self._line_step()
            elif self.run.unsettled:
                return
            elif self.run.wave_open:
                delay_ns = int(self.options.wave_delay_s * SECOND_NS)
                yield Decision([WaveFinished(wave=self.run.wave, next_not_before_ns=self.now_ns + delay_ns)])
            else:
                yield from self._next_wave()

    def is_broke(self) -> bool:
        """Whether nothing that waits for the run's budget fits into it, or is to be given up for another reason."""
        waiting = [
            delayed.step
            for delayed in (self.run.workstreams[name].delayed for name in sorted(self.run.delayed))
            if delayed is not None and delayed.cause == "budget"
        ]
        found = [self._afforded(step) for step in waiting]
        return bool(found) and all(isinstance(one, Refusal) and not self._is_final(one) for one in found)

    def _stands_still(self) -> bool:
        """Whether nothing is under way but what waits for people, or could not begin for want of money, whatever it waits for."""
        run = self.run
        waiting = all(
            delayed is not None and isinstance(self._afforded(delayed.step), Refusal)
            for delayed in (run.workstreams[name].delayed for name in sorted(run.delayed))
        )
        merging = run.line is not None and run.line.open is not None
        staged = run.line is not None and bool(run.line.staged)
        merging = merging or (self.eager and (staged or bool(run.mergeable)))  # in waves, once the wave is done
        begun = self.slots < self.options.max_workers - len(run.open)  # in this very call
        return waiting and not (run.open or run.agenda or self.starting or merging or begun)

    def _out_of_money(self, refused: Refusal) -> Iterator[Decision]:
        """What the line has begun is brought to its end; then the run waits for another budget."""
        line = self.run.line
        if line is not None and (line.closed is not None or line.delayed is not None):
            yield from self._line_step()
            return
        reason = money_reason(self.run.run, refused)
        yield Decision([RunTransitioned(from_state="running", to_state="paused", reason=reason, cause="budget")])

    def _under_way(self) -> int:
        """Unsettled workstreams that have begun; what could not begin waits for what is to be merged."""
        return self.run.unsettled - len(self.run.startable)

    # Waves

    def _block(self) -> Iterator[Decision]:
        """Dependents of what failed, however far: blocked, with the workstream at the root of it."""
        moves: list[AnyEvent] = []
        queue = list(self.run.doomed.items())
        seen = set(self.run.doomed)
        while queue:
            name, root = queue.pop(0)
            moves.append(moved_to(self.run.workstreams[name], "blocked", f"dependency {root} failed"))
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
            yield Decision([moved_to(workstream, "cancelled", "fail_fast: another workstream failed")])

    def _next_wave(self) -> Iterator[Decision]:
        """The wave of the first workstream whose dependencies are all merged."""
        if not self.run.eligible or (self.options.fail_fast and self.run.failures):
            yield self._end()
        elif self.now_ns >= self.run.next_not_before_ns:
            yield from self._wave_start(self.definitions.wave_of[self.run.eligible[0]])

    def _pending(self, wave: int) -> list[Workstream]:
        members: list[Workstream] = []
        for index in self.run.eligible:
            if self.definitions.wave_of[index] == wave:
                members.append(self.run.workstreams[self.definitions.order[index]])
            elif self.definitions.wave_of[index] > wave:
                break
        return members

    def _wave_start(self, wave: int) -> Iterator[Decision]:
        members = self._pending(wave)
        for start in range(0, len(members), GROUP_MAX):
            group = members[start : start + GROUP_MAX]
            more = start + GROUP_MAX < len(members)
            yield Decision(
                [
                    WaveStarted(wave=wave, workstreams=[w.id for w in group], more=more),
                    *(moved_to(w, "ready", f"wave {wave + 1}") for w in group),
                ]
            )

    def _start(self) -> Iterator[Decision]:
        """Ready workstreams, in plan order, as far as there are slots."""
        if self.run.wave_open and not self.run.wave_complete:
            yield from self._wave_start(self.run.wave)
            return
        if self.options.fail_fast and self.failing:
            return
        for index in self.run.startable:
            if self.slots <= 0 or self.broke is not None:
                return
            workstream = self.run.workstreams[self.definitions.order[index]]
            if self._is_held_up(workstream):
                continue
            if self._clashes(workstream, planned=not workstream.returned and not self.eager):
                continue
            draft = Draft(workstream)
            self._begin(draft)
            yield self._begun(draft)

    def _start_eagerly(self) -> Iterator[Decision]:
        """Whatever has its dependencies merged and clashes with nothing that is under way, in plan order."""
        if self.options.fail_fast and self.failing:
            return
        for index in self.run.eligible:
            if self.slots <= 0 or self.broke is not None:
                return
            workstream = self.run.workstreams[self.definitions.order[index]]
            if self._is_held_up(workstream) or self._clashes(workstream, planned=False):
                continue
            draft = Draft(workstream)
            draft.move("ready", "its dependencies are merged")
            self._begin(draft)
            yield self._begun(draft)

    def _begun(self, draft: Draft) -> Decision:
        self.starting.add(draft.workstream.id)
        return draft.decision()

    def _clashes(self, workstream: Workstream, *, planned: bool) -> bool:
        """Whether something under way stands in its place. Workstreams of one wave were planned not to clash."""
        mine = self.definitions.footprint(workstream.id)
        others = self.run.returned & self.run.active if planned else self.run.active
        return any(
            other != workstream.id and clash(mine, self.definitions.footprint(other))
            for other in (*others, *self.starting)
        )

    def _begin(self, draft: Draft) -> None:
        """The first step; for one that a review lets go on, the step at which it does."""
        workstream = draft.workstream
        failure = workstream.failure
        if (
            failure is not None
            and workstream.restart not in {None, "edit"}
            and self._is_still_refused(workstream, failure)
        ):
            self._schedule_fix(draft, failure.step)
            return
        match workstream.restart:
            case "static" | "runtime" | "merge" | "gate":
                # The verdicts that are known are reused, and one tree has to pass them all before it is merged.
                self._static(draft, self._latest(workstream))
            case "fix" if failure is not None:
                self._schedule_fix(draft, failure.step)
            case _:
                draft.move("editing", "dispatched" if workstream.restart is None else "goes on after a review")
                self._schedule(draft, "edit", self._latest(workstream))

    def _is_still_refused(self, workstream: Workstream, failure: Failure) -> bool:
        """Whether nothing has changed since its merge was refused; what has conflict markers in it is never checked as it is."""
        red = failure.step == "gate" and workstream.restart in {"merge", "gate"}
        same = workstream.latest is not None and workstream.latest.tree == failure.tree
        return is_marked(workstream) or (red and same)

    def _end(self) -> Decision:
        states = [w.state for w in self.run.workstreams.values()]
        if self.run.reviews:
            waiting = sorted(self.run.reviews)
            more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
            reason = f"waits for the review of {', '.join(waiting[:5])}{more}"
            return Decision([RunTransitioned(from_state="running", to_state="paused", reason=reason, cause="review")])
        completed = states.count("completed")
        line = self.run.line
        if line is not None and line.refused:
            return _finish(self.run, "partial", f"the result could not be delivered: {line.refusal}")
        if completed == len(states):
            return _finish(self.run, "completed", f"all {completed} workstreams completed")
        reason = f"{completed} of {len(states)} workstreams completed"
        return _finish(self.run, "partial" if completed else "failed", reason)

    # Stepwise runs

    def _goals(self) -> Iterator[Decision]:
        """Steps that were asked for and that nothing is running for yet."""
        for workstream in self.run.workstreams.values():
            goal = workstream.goal
            if goal is None or workstream.open is not None or workstream.closed is not None or self.slots <= 0:
                continue
            if workstream.delayed is not None:
                continue
            draft = Draft(workstream)
            if draft.state in TERMINAL_WORKSTREAM:
                self._answer(draft, ok=False, reason=f"{workstream.id} is {draft.state}")
                yield draft.decision()
                continue
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
