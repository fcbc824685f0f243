"""What the scheduler owes. Pure: no clock, no I/O, no randomness.

    due(run, now_ns, sightings, fleet) -> [Decision]
    outstanding(run)                   -> [RunStep]
    wanting(run)                       -> [Want]
    drawing(run, fleet)                -> [Ask]

A Decision is a group of events that belong together; the shell appends decisions in order and may stop after any of
them, because what is left is derived again from the state that the appended ones fold into. Recovery is therefore
nothing special: fold the log, append what is due, publish what is outstanding.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import assert_never

import msgspec

from services.commands import RunStep
from services.events import (
    LINE,
    TERMINAL_WORKSTREAM,
    AnyEvent,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    CancelRequested,
    Check,
    Delay,
    DeliveryRefused,
    DeliveryRequested,
    Destination,
    ErrorClass,
    FixInput,
    FixLoopEnded,
    GateFlaked,
    GrantReturned,
    IntegrationAdvanced,
    IntegrationReverted,
    LineDelivered,
    MergePostponed,
    MergeRefused,
    MergeStaged,
    PauseRequested,
    Purpose,
    RecoveryChosen,
    RecoveryRequested,
    RequestAnswered,
    ResumeRequested,
    RevertFinished,
    RevertStarted,
    ReviewRequested,
    ReviewResolved,
    RollbackFinished,
    RollbackRequested,
    RollbackStarted,
    RunAccepted,
    RunAmended,
    RunFinished,
    RunStatus,
    RunStopping,
    RunTransitioned,
    Snapshot,
    Step,
    StepCancelled,
    StepDelayed,
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
from services.outcome import NANO_USD_MAX, nano_of, usd_text
from services.plan import clash
from services.profiles import model_of, placeholders
from services.scheduler.bisection import FAILURES_SURE, Culprit, Flaky, Join, Judge, Known, RedBefore, next_of
from services.scheduler.breaker import BreakerConfig, FixLoopState, decide
from services.scheduler.budget import (
    Refusal,
    account_of,
    budget_name,
    notices,
    refusal,
    run_account,
    workstream_account,
)
from services.scheduler.fleet import Barrier, Fleet, Want, barrier, tests_run, ungranted
from services.scheduler.grants import GRANTS_MAX, Ask, limit_nano
from services.scheduler.recovery import Choice, RecoveryConfig, Used, choose
from services.scheduler.routing import Places, Sightings, ordered
from services.scheduler.state import (
    ALLOWED,
    COUNTED_BY_FIX_LOOP,
    Attempt,
    Closed,
    Failure,
    Line,
    Request,
    Reverting,
    Rollback,
    RunState,
    Workstream,
    draw_of,
    is_handed_back,
    is_loss,
    is_marked,
    is_over,
    unknown_checks,
)
from services.spec import CHECKS_NAMED_MAX, STEP_TIMEOUT_S, Definitions, Options, Ranges, ranges_with, ranges_without

GROUP_MAX = 400
"""Workstreams named by one decision: keeps an entry under its size limit whatever the ids."""

STAGED_MAX = 64
"""Merges that wait for the gates of a wave together; with more of them, the gates run in between."""

REVERTS_MAX = 100
"""Workstreams that are taken off the line together: what it comes to is one decision."""

HELD_MAX = 200
"""EDITs of a run that wait for the same tools; further ones are not begun before some of these are."""

DECISIONS_MAX = 2000
"""Decisions of one call: what is left is derived again."""

REASON_MAX = 1500
"""Characters of a reason."""

SHORT_REASON_BYTES = 400
"""Bytes, as they are written down, of a reason that one decision gives to everything that is staged."""

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


def drawing(run: RunState, fleet: Fleet) -> list[Ask]:
    """The attempts of a run that wait for their share of what runs draw on together, in plan order, as slots are free."""
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
        if delayed is None or delayed.cause != "limit" or delayed.until_ns:  # nothing is left for it today
            continue
        ask = _ask(run.run, definitions, delayed.step)
        if fleet.shared.grant_of(ask) is None:
            asks.append(ask)
    return asks


def _ask(run: str, definitions: Definitions, step: StepScheduled) -> Ask:
    profile = definitions.spec.profiles.get(step.tool)
    return Ask(
        run=run,
        workstream=step.workstream,
        attempt=step.attempt,
        tool=step.tool,
        provider=(profile.provider if profile is not None else None) or "",
        model="" if profile is None else model_of(profile, definitions.spec.options.context, fix=step.step == "fix"),
        cap=step.cap or "none",
        cap_nano=step.cap_nano,
    )


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
                deadline_ns=now_ns + int(request.timeout_s * _SECOND_NS) if request.timeout_s else 0,
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
                waited = (now_ns - attempt.scheduled_ns) / _SECOND_NS
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
    if silent_ns > sightings.lease_s * _SECOND_NS:
        return f"executor {attempt.executor} has not named it for {silent_ns / _SECOND_NS:.1f} s"
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
        events.append(_move(workstream, to, f"{request.verdict} by {request.actor}{_because(said)}", request.actor))
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
    chosen, events = _choice(run, definitions, workstream, request.step, request.error_class, now_ns, request.reason)
    if chosen.strategy == "review":
        events.append(_move(workstream, "awaiting_review", chosen.reason, request.actor))
    events.append(
        RequestAnswered(
            request_id=request.request_id,
            answer="done",
            ok=chosen.strategy != "review",
            reason=f"{chosen.strategy}: {chosen.reason}"[:REASON_MAX],
        )
    )
    return Decision(events)


def _choice(
    run: RunState,
    definitions: Definitions,
    workstream: Workstream,
    step: Step,
    error_class: ErrorClass,
    now_ns: int,
    detail: str,
    used: Used | None = None,
    wait_s: float = 0.0,
    tried: str = "",
) -> tuple[Choice, list[AnyEvent]]:
    """What recovery does about a failed step, and the event that puts it in force. `tried` is the tool that failed at it."""
    own = used or workstream.recovery.get(step, Used())
    chain = _chain(definitions, workstream, step)
    tool = tried or _in_force(own, chain)
    profile = definitions.spec.profiles.get(tool)
    changing = step in {"edit", "fix"}
    config = run.recovery or RecoveryConfig()
    route = definitions.route(workstream.id)
    if route is not None and tool in definitions.routed(workstream.id):  # so often for each of its tools
        config = msgspec.structs.replace(config, retries=route.max_retries * (1 + len(own.tools) // 2))
    chosen = choose(
        config,
        own,
        error_class,
        tool=tool,
        fallback=[other for other in chain if other in definitions.spec.profiles],
        reducible=changing and profile is not None and "files" in placeholders(profile, fix=step == "fix"),
        name=f"{run.run}/{workstream.id}/{step}",
        wait_s=wait_s,
    )
    reason = f"{chosen.reason}{_because(detail)}"
    event = RecoveryChosen(
        workstream=workstream.id,
        step=step,
        attempt=workstream.attempts,
        error_class=error_class,
        strategy=chosen.strategy,
        reason=reason[:REASON_MAX],
        tool=chosen.tool,
        reduction=chosen.reduction,
        not_before_ns=now_ns + int(chosen.delay_s * _SECOND_NS) if chosen.delay_s else 0,
        replaced=tool if chosen.strategy == "fallback_tool" else "",
    )
    return msgspec.structs.replace(chosen, reason=reason[:REASON_MAX]), [event]


def _in_force(used: Used, chain: Sequence[str]) -> str:
    """The tool that does a step: the one that recovery has chosen, as long as it is one of those to try, else the first."""
    if used.tool in chain:
        return used.tool
    return chain[0] if chain else ""


def _is_mechanical(step: StepScheduled) -> bool:
    """Whether a program mends what a machine can, in place of a FIX tool."""
    return step.fix is not None and step.fix.mechanical > 0


def _tiers(definitions: Definitions, workstream: Workstream) -> int:
    """How many tools FIX has in turn, each for one attempt of a loop and the last for what is left of it."""
    return 1 + len(definitions.checks(workstream.id).fix_tiers)


def _chain(definitions: Definitions, workstream: Workstream, step: Step) -> tuple[str, ...]:
    """The tools to try for a step that changes the tree, the wanted one first; () for any other step."""
    if step == "fix":
        tiers = definitions.checks(workstream.id).fix_tiers
        failed = workstream.failure.step if workstream.failure is not None else "static"
        tier = min(workstream.fix.fix_attempts_by_step.get(failed, 0), len(tiers))
        if tier:
            return definitions.with_fallbacks(tiers[tier - 1])
    return definitions.chain(workstream.id, step)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


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
        yield Decision([_move(workstream, "cancelled", stopping.reason, stopping.actor)])
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

    def __init__(
        self, run: RunState, definitions: Definitions, now_ns: int, fleet: Fleet, sightings: Sightings | None
    ) -> None:
        self.run = run
        self.definitions = definitions
        self.options: Options = definitions.spec.options
        self.now_ns = now_ns
        self.fleet = fleet
        self.places = Places(sightings, now_ns)
        self.pools = (self.options.pool, *self.options.other_pools)
        self.eager = self.options.scheduling == "eager"
        self.starting: set[str] = set()
        self.slots = self.options.max_workers - len(run.open)
        self.failing = run.failures > 0
        self.broke: Refusal | None = None
        """Why the run's own budget lets nothing more begin."""
        self.promised: dict[str, int] = {}
        self.chosen: dict[str, int] = {}
        """Steps that were decided on in this call, or wait for their turn, by tool."""
        self.probing: set[str] = set()
        """Tools for whose probe a step waits."""
        self.held: dict[tuple[str, ...], int] = {}
        """How many EDITs wait for something across runs, by the tools that they may go to."""
        self.queues: dict[tuple[str, int], Barrier | Refusal | None] = {}
        """What stands before attempts without a grant, by tool and cap: the same for all of them."""
        self.lined = False
        """Whether this call has decided about the line already: it does one thing at a time."""

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
                delay_ns = int(self.options.wave_delay_s * _SECOND_NS)
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
        reason = _money_reason(self.run.run, refused)
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
        for index in self.run.startable:
            if self.slots <= 0 or self.broke is not None:
                return
            workstream = self.run.workstreams[self.definitions.order[index]]
            if self._is_held_up(workstream):
                continue
            if self._clashes(workstream, planned=not workstream.returned and not self.eager):
                continue
            draft = _Draft(workstream)
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
            draft = _Draft(workstream)
            draft.move("ready", "its dependencies are merged")
            self._begin(draft)
            yield self._begun(draft)

    def _begun(self, draft: _Draft) -> Decision:
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

    def _begin(self, draft: _Draft) -> None:
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

    # One workstream

    def _schedule(
        self,
        draft: _Draft,
        step: Step,
        snapshot: Snapshot,
        *,
        checks: list[Check] | None = None,
        fix: FixInput | None = None,
        tool: str = "",
        not_before_ns: int = 0,
    ) -> None:
        workstream = draft.workstream
        index = workstream.index
        used = workstream.recovery.get(step, Used())
        chain = _chain(self.definitions, workstream, step)
        self._dispatch(
            draft,
            StepScheduled(
                workstream=workstream.id,
                attempt=workstream.attempts + 1,
                step=step,
                pool=self.options.pool,
                input=snapshot,
                base=(workstream.base if workstream.latest is not None else None) or snapshot,
                timeout_s=self._timeout_s(step),
                queue_deadline_ns=self._queue_deadline_ns(),
                checks=_named(checks),
                every_check=_too_many(checks),
                merged=[(index, index + 1)] if checks else [],
                fix=fix,
                dry_run=self.options.dry_run,
                tool=tool or _in_force(used, chain),
                reduction=0 if tool else used.reductions,
                trusted=workstream.trusted,
                idle_timeout_s=self._idle_s(),
            ),
            not_before_ns=not_before_ns,
        )

    def _dispatch(self, draft: _Draft, step: StepScheduled, *, not_before_ns: int = 0) -> None:
        """Schedule a step, or record what it waits for."""
        if not_before_ns > self.now_ns:
            reason = "it failed, and is tried again after a pause"
            draft.add(StepDelayed(step=step, cause="retry", reason=reason, until_ns=not_before_ns))
            return
        step, found = self._routed(draft.workstream, step)
        if isinstance(found, Refusal):
            reason = _money_reason(self.run.run, found)
            if self._is_final(found):
                self._stop_for(draft, step.step, "budget", reason)
            else:
                draft.add(StepDelayed(step=step, cause="budget", reason=reason))
            return
        if found is not None:
            draft.add(StepDelayed(step=step, cause=found.cause, reason=found.reason, until_ns=found.until_ns))
            self._held(step, found)
            self.slots -= found.in_turn
            return
        draft.add(step)
        self._choose(step)
        self.slots -= 1

    def _choose(self, step: StepScheduled) -> None:
        self.chosen[step.tool] = self.chosen.get(step.tool, 0) + 1

    def _held(self, step: StepScheduled, found: Barrier) -> None:
        """Note that a step waits for something across runs."""
        if found.in_turn:
            self._choose(step)
        if step.step == "edit":
            chain = self.definitions.chain(step.workstream, "edit")
            self.held[chain] = self.held.get(chain, 0) + 1

    def _is_held_up(self, workstream: Workstream) -> bool:
        """Whether so many wait already for what it would wait for that one more would only be one more to look at."""
        if not self.held or workstream.restart not in {None, "edit"}:
            return False
        waiting = self.held.get(self.definitions.chain(workstream.id, "edit"), 0)
        return waiting >= min(self.options.max_workers, HELD_MAX)

    def _afforded(self, step: StepScheduled) -> StepScheduled | Refusal:
        """The step with its cap, or why its budgets do not let it begin. Only AI tools cost anything."""
        profile = self.definitions.spec.profiles.get(step.tool)
        if profile is None or profile.type != "ai" or step.dry_run:
            return msgspec.structs.replace(step, cap=None, cap_nano=0)
        capped: StepScheduled
        if profile.cost_cap_usd is None:
            capped = msgspec.structs.replace(step, cap="none", cap_nano=0)
        else:
            held = self.definitions.is_capped(step.tool, fix=step.step == "fix")
            most_nano = min(self._limit_nano(step.workstream), limit_nano(self.fleet.shared, step.tool))
            cap_nano = min(nano_of(profile.cost_cap_usd), most_nano)
            capped = msgspec.structs.replace(step, cap="enforced" if held else "soft", cap_nano=cap_nano)
        draw = draw_of(self.run.run, capped)
        refused = refusal(self.run.book, draw, self.promised)
        if refused is not None:
            if not self._is_final(refused):
                self.broke = refused
            return refused
        for account in draw.accounts:
            self.promised[account] = self.promised.get(account, 0) + draw.cap_nano
        return capped

    def _limit_nano(self, workstream: str) -> int:
        """What an attempt may cost at most, whatever its tool may: all that its workstream and its run may."""
        accounts = (run_account(self.run.run), account_of(self.run.run, workstream))
        budgets = [self.run.book.budget_of(name) for name in accounts]
        limits = [budget.limit_nano for budget in budgets if budget is not None and budget.mode == "halt"]
        return min(limits, default=NANO_USD_MAX)

    def _granted(self, step: StepScheduled) -> tuple[StepScheduled, Barrier | Refusal | None]:
        """A step that is afforded, and what stands between it and its share of what runs draw on together."""
        if step.cap is None or not self.fleet.shared.is_limited:
            return step, None
        key = (step.tool, step.cap_nano)
        granted = (step.workstream, step.attempt) in self.fleet.shared.grants.get(self.run.run, ())
        if granted or key not in self.queues:
            found = ungranted(self.fleet, self.now_ns, _ask(self.run.run, self.definitions, step))
            if not granted:
                self.queues[key] = found
        else:
            found = self.queues[key]
        if found is not None:  # what it was promised of the run's budgets is not taken yet
            for account in draw_of(self.run.run, step).accounts:
                self.promised[account] -= step.cap_nano
        return step, found

    def _routed(self, workstream: Workstream, step: StepScheduled) -> tuple[StepScheduled, Barrier | Refusal | None]:
        """The step with a tool that can be used now, and its cap; else what stands before the one it should use."""
        wanted, found = self._unheld(workstream, step)
        if found is not None:
            return wanted, found
        before = self.broke
        afforded = self._afforded(wanted)
        if not isinstance(afforded, Refusal):
            return self._granted(afforded)
        held = self._unheld(workstream, step, fallbacks=False)
        if held[1] is not None:  # the one that would stand in is too dear: wait for the other one
            self.broke = before
            return held
        return wanted, afforded

    def _is_final(self, refused: Refusal) -> bool:
        """Whether the step is given up: neither waiting nor another budget of the run helps, or nobody is there to give one."""
        if refused.reason == "reserved":
            return False
        watched = self.options.review == "wait" and not (self.options.fail_fast or self.options.stepwise)
        return refused.reason == "uncapped" or refused.account != run_account(self.run.run) or not watched

    def _unheld(
        self, workstream: Workstream, step: StepScheduled, *, fallbacks: bool = True
    ) -> tuple[StepScheduled, Barrier | None]:
        """The step with a tool that no breaker and no pause holds back; else what does."""
        if not step.tool or step.dry_run:
            return step, None
        chain = self._candidates(workstream, step.step)
        wanted = _in_force(workstream.recovery.get(step.step, Used()), chain) or step.tool
        if _is_mechanical(step):
            wanted, fallbacks = step.tool, False
        pool, found = self._before(step, wanted)
        step = self._given(workstream, step, wanted, pool)
        if found is None:
            return step, None
        policy = self.run.recovery or RecoveryConfig()
        if found.limited and "fallback_tool" not in policy.strategies(found.limited):
            return step, found  # another one may be dearer
        if self._is_first_for_probe(found, wanted):
            return step, found
        probing: tuple[StepScheduled, Barrier] | None = None
        for other in chain if fallbacks else ():
            if other == wanted or other not in self.definitions.spec.profiles:
                continue
            pool, also = self._before(step, other)
            stand_in = self._given(workstream, step, other, pool, f"{found.reason}; {other} does it")
            if also is None:
                return stand_in, None
            if probing is None and also.unprobed:
                probing = stand_in, also
        if probing is not None and not found.unprobed and self._is_first_for_probe(probing[1], probing[0].tool):
            return probing
        return step, found

    def _is_first_for_probe(self, found: Barrier, tool: str) -> bool:
        """Whether this step is to wait for the probe of a half-open breaker, although another tool may do it.

        One of a run does, so that a tool which works again comes back; the others go on.
        """
        if not found.unprobed or tool in self.probing:
            return False
        self.probing.add(tool)
        return True

    def _before(self, step: StepScheduled, tool: str) -> tuple[str, Barrier | None]:
        """The pool in which a tool would do a step, and what stands before it."""
        profile = self.definitions.spec.profiles.get(tool)
        place = self.places.place(self._open_pools, tool, profile)
        if place.missing:  # first: no probe helps against it
            elsewhere = self.places.place(self.pools, tool, profile)
            pause = None if elsewhere.missing else self.fleet.pause_of(elsewhere.pool)
            if pause is not None:
                reason = (
                    f"only pool {elsewhere.pool} has {tool}, and {pause.actor} has paused it{_because(pause.reason)}"
                )
                return elsewhere.pool, Barrier("tool_paused", reason)
            return place.pool, Barrier("tool_missing", self._missing(tool), self._queue_deadline_ns())
        return place.pool, barrier(self.fleet, tool, Want(tool, self.run.run, step.workstream, step.attempt))

    def _given(
        self, workstream: Workstream, step: StepScheduled, tool: str, pool: str, reason: str = ""
    ) -> StepScheduled:
        """The step for a tool in a pool, under the terms of its route if it serves the workstream's capability."""
        served = ""
        timeout_s = self._timeout_s(step.step)
        route = self.definitions.route(workstream.id)
        if route is not None and not _is_mechanical(step) and tool in self._routed_for(workstream, step.step):
            served = self.definitions.bundles[workstream.id].capability or ""
            timeout_s = min(timeout_s, route.timeout_s or timeout_s)
        return msgspec.structs.replace(
            step, tool=tool, pool=pool, reason=reason[:REASON_MAX], capability=served, timeout_s=timeout_s
        )

    def _routed_for(self, workstream: Workstream, step: Step) -> tuple[str, ...]:
        """The tools of the workstream's route, where they are the ones that the step goes to first; else none."""
        routed = self.definitions.routed(workstream.id)
        chain = _chain(self.definitions, workstream, step)
        return routed if chain[: len(routed)] == routed else ()

    def _candidates(self, workstream: Workstream, step: Step) -> tuple[str, ...]:
        """The tools for a step, in the order of now."""
        chain = _chain(self.definitions, workstream, step)
        route = self.definitions.route(workstream.id)
        routed = self._routed_for(workstream, step)
        if route is None or route.strategy == "order" or not routed:
            return chain
        asked = workstream.delayed
        if asked is not None and asked.cause == "limit" and asked.step.tool in routed:
            return tuple(dict.fromkeys((asked.step.tool, *chain)))  # it keeps its place in the queue
        return (*ordered(routed, route.strategy, self.fleet.records, self.chosen), *chain[len(routed) :])

    @cached_property
    def _open_pools(self) -> tuple[str, ...]:
        """The run's pools that nobody has paused; never empty, since nothing is decided while the first one is."""
        return tuple(pool for pool in self.pools if self.fleet.pause_of(pool) is None) or self.pools[:1]

    def _missing(self, tool: str) -> str:
        profile = self.definitions.spec.profiles[tool]
        where = "pool" if len(self.pools) == 1 else "pools"
        return (
            f"no executor of {where} {', '.join(self.pools)} has found {profile.command!r}, the program of {tool}: install it "
            "there, start an executor that has it, or adjust the tool"
        )

    def _delayed(self) -> Iterator[Decision]:
        """Steps that wait: scheduled once nothing stands before them, or told what does now."""
        queued = 0
        for name in sorted(self.run.delayed, key=lambda one: self.definitions.index[one]):
            workstream = self.run.workstreams[name]
            delayed = workstream.delayed
            if delayed is None or (delayed.cause == "retry" and self.now_ns < delayed.until_ns):
                continue
            step = msgspec.structs.replace(
                delayed.step, attempt=workstream.attempts + 1, queue_deadline_ns=self._queue_deadline_ns()
            )
            step, found = self._routed(workstream, step)
            if isinstance(found, Refusal):
                draft = _Draft(workstream)
                reason = _money_reason(self.run.run, found)
                if self._is_final(found):
                    self._stop_for(draft, step.step, "budget", reason)
                elif (delayed.cause, delayed.reason) != ("budget", reason):
                    draft.add(StepDelayed(step=step, cause="budget", reason=reason))
                if draft.events:
                    yield draft.decision()
            elif found is None:
                if self.slots > 0:
                    self.slots -= 1
                    self._choose(step)
                    yield Decision([step])
            elif step.fix is not None and _is_mechanical(step):
                if self.slots > 0:
                    draft = _Draft(workstream)
                    self._fix_or_end(draft, step.fix.step, after=step.fix.mechanical)
                    yield draft.decision()
            elif delayed.cause == found.cause == "tool_missing" and self.now_ns >= delayed.until_ns:
                draft = _Draft(workstream)
                self._stop_for(draft, step.step, "tool_missing", found.reason)
                if draft.events:
                    yield draft.decision()
            else:
                queued += found.in_turn
                self._held(step, found)
                if _differs(delayed, found) or (found.in_turn and _asks_otherwise(delayed.step, step)):
                    delay = StepDelayed(step=step, cause=found.cause, reason=found.reason, until_ns=found.until_ns)
                    yield Decision([delay, *self._outdated_grant(step)] if found.in_turn else [delay])
        self.slots -= queued  # those whose turn comes go before what has not begun

    def _outdated_grant(self, step: StepScheduled) -> list[AnyEvent]:
        """A share of another tool or of another size is given back, so that the one that is wanted now can be given."""
        grant = self.fleet.shared.grants.get(self.run.run, {}).get((step.workstream, step.attempt))
        if grant is None or (grant.tool, grant.cap_nano) == (step.tool, step.cap_nano):
            return []
        if self.now_ns >= grant.expires_ns:  # it is given back already (_unused_grants)
            return []
        reason = "it asks for something else now"
        return [GrantReturned(workstream=step.workstream, attempt=step.attempt, reason=reason)]

    def _idle_s(self) -> float:
        return float(self.run.breaker.timeouts.idle) if self.run.breaker is not None else 0.0

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
                error_class = closed.event.error_class or "unknown"
                self._recover(draft, closed.attempt.scheduled, error_class, closed.event.reason)
            case StepFinished() if is_handed_back(closed.event):
                self._again(draft, closed.attempt.scheduled)
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
        losses = draft.workstream.losses
        if losses <= self.options.losses_max:
            self._again(draft, scheduled)
        else:
            told = f"lost {losses} times, the last time: {reason}"
            event = closed.event
            error_class: ErrorClass = "lost"
            if isinstance(event, StepFinished) and event.error_class is not None:
                error_class = event.error_class
            self._recover(draft, scheduled, error_class, told)

    def _again(self, draft: _Draft, scheduled: StepScheduled, *, not_before_ns: int = 0) -> None:
        """The step that `scheduled` was, as a new attempt: what changes the tree goes on from the newest snapshot."""
        workstream = draft.workstream
        snapshot = scheduled.input
        if scheduled.step in {"edit", "fix"}:
            snapshot = workstream.latest or scheduled.input
        checks = self._still_unknown(scheduled)
        tool = scheduled.tool if _is_mechanical(scheduled) else ""
        self._schedule(
            draft, scheduled.step, snapshot, checks=checks, fix=scheduled.fix, tool=tool, not_before_ns=not_before_ns
        )

    def _still_unknown(self, scheduled: StepScheduled) -> list[Check]:
        """What a step that is done again has yet to judge: what was green before it broke off is not asked again."""
        checks = scheduled.checks
        if scheduled.every_check:
            checks = self.definitions.asked(scheduled.step, scheduled.merged)
        return unknown_checks(self.run, scheduled.input.tree, checks) or checks

    def _recover(
        self, draft: _Draft, scheduled: StepScheduled, error_class: ErrorClass, detail: str, wait_s: float = 0.0
    ) -> None:
        """What the recovery table says: the step again, later or otherwise; or a person."""
        workstream = draft.workstream
        if workstream.goal is not None:
            self._answer(draft, ok=False, reason=f"{scheduled.step}: {detail}")
            return
        chosen, events = _choice(
            self.run,
            self.definitions,
            workstream,
            scheduled.step,
            error_class,
            self.now_ns,
            detail,
            wait_s=wait_s,
            tried=scheduled.tool,
        )
        for event in events:
            draft.add(event)
        if chosen.strategy == "review":
            self._give_up(draft, f"{scheduled.step}: {detail}")
            return
        used = Used(tool=chosen.tool, reductions=chosen.reduction)
        draft.workstream = msgspec.structs.replace(workstream, recovery={**workstream.recovery, scheduled.step: used})
        delay_ns = int(chosen.delay_s * _SECOND_NS)
        self._again(draft, scheduled, not_before_ns=self.now_ns + delay_ns if delay_ns else 0)

    def _stop_for(self, draft: _Draft, step: Step, error_class: ErrorClass, reason: str) -> None:
        """No automatic recovery is left: say so, and ask a person."""
        if draft.workstream.goal is not None:
            self._answer(draft, ok=False, reason=reason)
            return
        draft.add(
            RecoveryChosen(
                workstream=draft.workstream.id,
                step=step,
                attempt=draft.workstream.attempts,
                error_class=error_class,
                strategy="review",
                reason=reason[:REASON_MAX],
            )
        )
        self._give_up(draft, reason)

    def _give_up(self, draft: _Draft, reason: str) -> None:
        """A person decides what becomes of the workstream; in a run that nobody watches, it fails."""
        if self.options.review == "fail" or self.options.fail_fast:
            self.failing = True
            draft.move("failed", reason)
        else:
            draft.move("awaiting_review", reason)

    def _after_finish(self, draft: _Draft, scheduled: StepScheduled, event: StepFinished) -> None:
        step = scheduled.step
        workstream = draft.workstream
        if step == "fix" and (_is_mechanical(scheduled) or event.error_class in COUNTED_BY_FIX_LOOP):
            self._after_fix(draft, scheduled)
        elif event.ok:
            if workstream.goal is not None:
                self._answer(draft, ok=True, reason="")
            elif step == "edit":
                self._static(draft, event.snapshot or scheduled.input)
            elif step == "static":
                self._runtime(draft, scheduled.input)
            elif step == "runtime" and (fewer := self._fewer_tests(workstream, event)):
                self._recover(draft, scheduled, "tampering", fewer)
            elif step == "runtime":
                self._validated(draft)
        elif event.error_class == "check_failed" and step in {"static", "runtime"}:
            self._after_failed_check(draft, step)
        else:
            detail = event.message or event.error_class or "failed"
            if event.violations:
                detail = f"{event.error_class or 'scope_violation'}: {', '.join(event.violations[:10])}"
            wait_s = max(event.retry_after_s, (event.resets_at_ns - self.now_ns) / _SECOND_NS)
            self._recover(draft, scheduled, event.error_class or "unknown", detail, wait_s)

    def _fewer_tests(self, workstream: Workstream, event: StepFinished) -> str:
        """What is to be said where fewer tests have run than on the tree that the workstream started from, if that is known."""
        base = workstream.base
        if base is None or workstream.trusted or self.definitions.bundles[workstream.id].checks.tests_may_shrink:
            return ""
        for result in event.checks:
            before = self.fleet.passed(base.tree, self.options.pool, result.check)
            now = tests_run(result)
            if before is not None and before.tests is not None and now is not None and now < before.tests:
                return f"{result.name} ran {now} tests; on the tree that it started from it ran {before.tests}"
        return ""

    def _static(self, draft: _Draft, snapshot: Snapshot) -> None:
        draft.move("static_check")
        if self.options.dry_run:
            self._schedule(draft, "static", snapshot)
            return
        checks = self.definitions.static(draft.workstream.id)
        missing = unknown_checks(self.run, snapshot.tree, checks)
        sources = self._elsewhere(snapshot.tree, missing)
        if missing and not sources:
            self._schedule(draft, "static", snapshot, checks=missing)
        else:
            draft.add(_skipped(draft.workstream.id, "static", snapshot.tree, checks, sources))
            self._runtime(draft, snapshot)

    def _runtime(self, draft: _Draft, snapshot: Snapshot) -> None:
        draft.move("runtime_check")
        if self.options.dry_run:
            self._schedule(draft, "runtime", snapshot)
            return
        checks = self.definitions.runtime(draft.workstream.id)
        missing = unknown_checks(self.run, snapshot.tree, checks)
        sources = self._elsewhere(snapshot.tree, missing)
        if missing and not sources:
            self._schedule(draft, "runtime", snapshot, checks=missing)
        else:
            draft.add(_skipped(draft.workstream.id, "runtime", snapshot.tree, checks, sources))
            self._validated(draft)

    def _validated(self, draft: _Draft) -> None:
        """Scope was checked with every snapshot, and one tree has now passed every check: it may be merged."""
        draft.move("validating")
        draft.move("merging")

    def _elsewhere(self, tree: str, checks: list[Check]) -> list[str]:
        """The attempts of other runs in which all of these passed this tree, not too long ago; none if one of them did not."""
        oldest_ns = self.now_ns - int(self.options.verdict_reuse_s * _SECOND_NS)
        if not (self.options.verdict_reuse_s and tree and len(checks) <= CHECKS_NAMED_MAX):
            return []
        found: dict[str, None] = {}
        for check in checks:
            passed = self.fleet.passed(tree, self.options.pool, check.check)
            if passed is None or passed.at_ns < oldest_ns or not self.definitions.is_shared(check):
                return []
            found[passed.attempt] = None
        return list(found)

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
        elif _is_mechanical(scheduled) and (autofix := self._autofix(workstream)):
            self._schedule_fix(draft, step, autofix=autofix)
        elif goal is not None:
            self._check(draft, goal.step, latest)
        else:
            self._static(draft, latest)

    def _fix_or_end(self, draft: _Draft, step: Step, *, after: int = 0) -> None:
        """The next program of `autofix`, behind the one at `after`; else another FIX attempt if the FIX-loop breaker allows one; otherwise the loop ends, with the limit that tripped."""
        workstream = draft.workstream
        failure = workstream.failure
        autofix = self._autofix(workstream, after) if step == "static" else 0
        if failure is not None and autofix:
            self._schedule_fix(draft, step, autofix=autofix)
            return
        untried = 0 < workstream.fix.fix_attempts_by_step.get(step, 0) < _tiers(self.definitions, workstream)
        verdict = decide(workstream.fix, step, self._policy(workstream), untried=untried)
        if verdict.allowed and failure is not None:
            self._schedule_fix(draft, step)
            return
        limit = verdict.limit or "not_fixable"
        draft.add(FixLoopEnded(workstream=workstream.id, step=step, limit=limit, reason=verdict.reason[:REASON_MAX]))
        self._stop_for(draft, step, "check_failed", f"{step}: {limit}: {verdict.reason}")

    def _autofix(self, workstream: Workstream, after: int = 0) -> int:
        """The place of the next program that mends what a machine can, 0 for none.

        Each has its turn once after every change by an AI tool or a person; one that cannot be used now is passed over.
        """
        programs = () if self.options.dry_run else self.definitions.checks(workstream.id).autofix
        for place in range(max(workstream.autofixed, after), len(programs)):
            want = Want(programs[place], self.run.run, workstream.id, workstream.attempts + 1)
            profile = self.definitions.spec.profiles.get(want.tool)
            usable = barrier(self.fleet, want.tool, want) is None
            if usable and not self.places.place(self._open_pools, want.tool, profile).missing:
                return place + 1
        return 0

    def _schedule_fix(self, draft: _Draft, step: Step, *, autofix: int = 0) -> None:
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
            mechanical=autofix,
        )
        program = self.definitions.checks(workstream.id).autofix[autofix - 1] if autofix else ""
        self._schedule(draft, "fix", self._latest(workstream), fix=fix, tool=program)

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
            if workstream.delayed is not None:
                continue
            draft = _Draft(workstream)
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

    def _line_busy(self) -> bool:
        """Whether the line has something to do: an attempt, a decision, a merge, a delivery."""
        line = self.run.line
        return line is not None and bool(
            line.open
            or line.closed
            or line.delayed
            or line.staged
            or self.run.mergeable
            or self.run.delivering
            or self._undelivered(line)
        )

    def _undelivered(self, line: Line) -> bool:
        """Whether the head is to be delivered, as the run's definition has it, and was not."""
        known = line.deliveries.get(self.options.destination.remote)
        if not line.merged or line.head.commit in {known.head if known is not None else "", line.refused}:
            return False
        return self.options.deliver == "wave" or (self.options.deliver == "end" and self._is_last())

    def _is_last(self) -> bool:
        """Whether nothing more can come to the line, whatever anybody says."""
        more = self.run.eligible and not (self.options.fail_fast and self.run.failures)
        return not (more or self.run.reviews)

    def _line_step(self) -> Iterator[Decision]:
        """One thing at a time: merge in order, deliver what is verified once nothing is under way."""
        run, line = self.run, self.run.line
        if line is None or line.open is not None or self.slots <= 0 or self.lined:
            return
        decision: Decision | None = None
        if line.closed is not None:
            decision = self._after_line_close(line, line.closed)
        elif line.delayed is not None:
            if self.now_ns >= line.delayed.until_ns:
                decision = Decision([self._line_again(line, line.delayed.step)])
        elif run.mergeable and len(line.staged) < STAGED_MAX:
            decision = self._merge(line, run.workstreams[self.definitions.order[run.mergeable[0]]])
        elif line.staged:
            decision = self._verify(line)
        elif self._undelivered(line) and not run.unsettled and not (self.eager and run.eligible):
            decision = self._deliver(line, self.options.destination)
        if decision is not None:
            self.slots -= sum(isinstance(event, StepScheduled) for event in decision.events)
            yield decision

    def _line_again(self, line: Line, scheduled: StepScheduled) -> StepScheduled:
        checks = self._still_unknown(scheduled) if scheduled.step == "gate" else None
        return msgspec.structs.replace(
            scheduled,
            attempt=line.attempts + 1,
            queue_deadline_ns=self._queue_deadline_ns(),
            checks=_named(checks),
            every_check=_too_many(checks),
        )

    def _schedule_line(
        self,
        step: Step,
        snapshot: Snapshot,
        *,
        workstream: Workstream | None = None,
        checks: list[Check] | None = None,
        merged: tuple[tuple[int, int], ...] = (),
        purpose: Purpose | None = None,
    ) -> Decision:
        line = self.run.line
        base = workstream.base if workstream is not None else None
        merging = workstream if workstream is not None and step == "merge" else None
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
                    theirs=merging.latest if merging is not None else None,
                    on_behalf=workstream.id if workstream is not None else "",
                    timeout_s=self._timeout_s(step),
                    queue_deadline_ns=self._queue_deadline_ns(),
                    checks=_named(checks),
                    every_check=_too_many(checks),
                    merged=list(merged),
                    purpose=purpose,
                    tools=merging.tools if merging is not None else [],
                    cost_nano=self._cost_nano(merging) if merging is not None else None,
                )
            ]
        )

    def _cost_nano(self, workstream: Workstream) -> int | None:
        """What its attempts have cost, in nano-dollars; None where none of them could cost anything."""
        account = self.run.book.accounts.get(workstream_account(self.run.run, workstream.id))
        return None if account is None else min(account.spent_nano, NANO_USD_MAX)

    def _merge(self, line: Line, workstream: Workstream) -> Decision:
        base, latest = workstream.base, workstream.latest
        if self.options.dry_run or latest is None or base is None or latest.commit == base.commit:
            dry = self.options.dry_run
            skipped = StepSkipped(
                workstream=workstream.id,
                step="merge",
                tree=line.tip.tree,
                reason="dry_run" if dry else "nothing_to_merge",
            )
            reason = "dry run" if dry else f"nothing to merge{self._unverified(workstream)}"
            return Decision([skipped, _move(workstream, "completed", reason)])
        return self._schedule_line("merge", line.tip, workstream=workstream)

    def _after_line_close(self, line: Line, closed: Closed) -> Decision:
        scheduled = closed.attempt.scheduled
        workstream = self.run.workstreams.get(scheduled.on_behalf)
        event = closed.event
        if is_handed_back(event) or (is_loss(event) and line.losses <= self.options.losses_max):
            return Decision([self._line_again(line, scheduled)])
        if scheduled.step == "deliver":
            return self._after_delivery(scheduled, event)
        if workstream is None:
            raise ValueError(f"line attempt {scheduled.attempt} is on behalf of nobody")
        if isinstance(event, StepFinished) and event.ok:
            if scheduled.step == "merge":
                return self._gate(line, workstream, event.snapshot or line.tip)
            return self._passed(line, workstream, scheduled.input)
        retried = self._retry_line(line, workstream, scheduled, event)
        if retried is not None:
            return retried
        if scheduled.purpose is not None:
            detail = event.message if isinstance(event, StepFinished) else event.reason
            return self._take_back(line, f"the gates of the wave could not judge: {detail}")
        if isinstance(event, StepFinished) and event.error_class == "check_failed":
            again = self._unsure(line, scheduled)
            if again:
                return self._schedule_line(
                    "gate", scheduled.input, workstream=workstream, checks=again, merged=tuple(scheduled.merged)
                )
        if line.staged and _is_about_content(event):
            reason = "it does not go together with what is staged, which is not verified yet"
            return Decision([MergePostponed(workstream=workstream.id, reason=reason)])
        return self._refuse_merge(line, workstream, scheduled, event)

    def _unsure(self, line: Line, scheduled: StepScheduled) -> list[Check]:
        """What a gate has not passed, where that has failed once on its tree: whether it is flaky shows when it runs again."""
        red = line.red.get(scheduled.input.tree, {})
        left = self._still_unknown(scheduled)
        failures = [red[check.check] for check in left if check.check in red]
        return left if failures and max(failures) < FAILURES_SURE else []

    def _retry_line(
        self,
        line: Line,
        workstream: Workstream,
        scheduled: StepScheduled,
        event: StepFinished | StepLost | StepCancelled,
    ) -> Decision | None:
        """A merge or a gate that could not judge is tried again, as far as the recovery table goes."""
        if not isinstance(event, StepFinished) or event.error_class is None:
            return None
        if event.error_class in {"check_failed", "merge_conflict"}:
            return None
        used = line.recovery.get(scheduled.step, Used())
        chosen, events = _choice(
            self.run,
            self.definitions,
            workstream,
            scheduled.step,
            event.error_class,
            self.now_ns,
            event.message,
            used,
        )
        if chosen.strategy != "retry":
            return None
        until_ns = self.now_ns + int(chosen.delay_s * _SECOND_NS)
        recovery = [
            msgspec.structs.replace(found, workstream=LINE, attempt=scheduled.attempt)
            for found in events
            if isinstance(found, RecoveryChosen)
        ]
        delayed = StepDelayed(step=scheduled, cause="retry", reason=chosen.reason, until_ns=until_ns)
        return Decision([*recovery, delayed])

    def _gate(self, line: Line, workstream: Workstream, candidate: Snapshot) -> Decision:
        """A merged tree becomes the head only if it passes every check of everything it carries; verdicts are reused."""
        carried = ranges_with(self._carried(line), workstream.index)
        checks = self.definitions.line(carried)
        missing = unknown_checks(self.run, candidate.tree, checks)
        sources = self._elsewhere(candidate.tree, missing)
        if missing and not sources:
            return self._schedule_line("gate", candidate, workstream=workstream, checks=missing, merged=carried)
        passed = self._passed(line, workstream, candidate)
        return Decision([_skipped(workstream.id, "gate", candidate.tree, checks, sources), *passed.events])

    def _carried(self, line: Line) -> Ranges:
        """What the end of the line carries, staged or not."""
        carried = line.merged
        for staged in line.staged:
            carried = ranges_with(carried, self.run.workstreams[staged.workstream].index)
        return carried

    def _passed(self, line: Line, workstream: Workstream, to: Snapshot) -> Decision:
        """Merged and green: it is the head, unless gates of the wave have to judge it together with others first."""
        flaked = self._flaked(line, to, self.definitions.line(ranges_with(self._carried(line), workstream.index)))
        if self.definitions.wave_gates(ranges_with(self._carried(line), workstream.index)):
            staged = MergeStaged(workstream=workstream.id, from_commit=line.tip.commit, to=to)
            return Decision([*flaked, staged])
        return Decision([*flaked, *self._advance(workstream, line.head, to)])

    def _advance(self, workstream: Workstream, head: Snapshot, to: Snapshot) -> list[AnyEvent]:
        return [
            IntegrationAdvanced(workstream=workstream.id, from_commit=head.commit, to=to),
            _move(workstream, "completed", f"merged{self._unverified(workstream)}"),
        ]

    def _flaked(self, line: Line, at: Snapshot, checks: Sequence[Check]) -> list[AnyEvent]:
        """What is to be said of gates that failed and passed on this tree."""
        failed, passed = line.red.get(at.tree, {}), self.run.verdicts.get(at.tree, set())
        return [
            GateFlaked(gate=check.name, check=check.check, tree=at.tree, failures=failed[check.check])
            for check in checks
            if failed.get(check.check) and check.check in passed
        ]

    # The gates of a wave

    def _verify(self, line: Line) -> Decision:
        """What is staged becomes the head once the gates of the wave pass it; if one does not, whoever made it red is taken back."""
        carried = self._carried(line)
        gates = self.definitions.wave_gates(carried)
        red = line.red.get(line.tip.tree, {})
        missing = [check for check in unknown_checks(self.run, line.tip.tree, gates) if check.check not in red]
        if missing and (sources := self._elsewhere(line.tip.tree, missing)):
            return Decision([_skipped(line.staged[-1].workstream, "gate", line.tip.tree, missing, sources)])
        if missing:
            return self._judge(line, line.tip, missing, "wave")
        required = [check for check in gates if self.definitions.is_required(check, carried)]
        failed = unknown_checks(self.run, line.tip.tree, required)
        if failed:
            return self._search(line, failed[0])
        events = self._flaked(line, line.tip, gates)
        head = line.head
        for staged in line.staged:
            events += self._advance(self.run.workstreams[staged.workstream], head, staged.snapshot)
            head = staged.snapshot
        return Decision(events)

    def _judge(self, line: Line, snapshot: Snapshot, checks: list[Check], purpose: Purpose) -> Decision:
        last = self.run.workstreams[line.staged[-1].workstream]
        carried = self._carried(line)
        return self._schedule_line("gate", snapshot, workstream=last, checks=checks, merged=carried, purpose=purpose)

    def _search(self, line: Line, gate: Check) -> Decision:
        """The next thing to find out about a gate that fails on what is staged; or what follows from what was found."""
        found = next_of(
            [line.head, *(staged.snapshot for staged in line.staged)],
            [staged.workstream for staged in line.staged],
            Known(
                passed={tree for tree, checks in self.run.verdicts.items() if gate.check in checks},
                failed={tree: counts[gate.check] for tree, counts in line.red.items() if gate.check in counts},
                joined=line.joined,
            ),
        )
        match found:
            case Judge(snapshot=snapshot, at_start=at_start):
                purpose: Purpose = "start" if at_start else "wave" if snapshot == line.tip else "search"
                return self._judge(line, snapshot, [gate], purpose)
            case Join(onto=onto, merge=merge):
                joined = self.run.workstreams[line.staged[merge - 1].workstream]
                return self._schedule_line("merge", onto, workstream=joined, purpose="search")
            case Culprit(merge=merge, partner=partner):
                return self._send_back(line, gate, merge, partner)
            case RedBefore():
                return self._take_back(
                    line, f"{gate.name} was red before this wave began: nobody in it is to blame, mend it"
                )
            case Flaky():
                failures = line.red[line.tip.tree].get(gate.check, 0)
                if failures < FAILURES_SURE + (self.run.recovery or RecoveryConfig()).flakes:
                    return self._judge(line, line.tip, [gate], "wave")
                return self._take_back(
                    line, f"{gate.name} fails and passes on the same tree: nobody is to blame, mend the gate", gate
                )
            case _:
                assert_never(found)

    def _send_back(self, line: Line, gate: Check, merge: int, partner: int) -> Decision:
        """The culprit goes on from the last green point, with what the gate found; what was staged after it is merged again."""
        before = line.staged[merge - 2].snapshot if merge > 1 else line.head
        culprit = line.staged[merge - 1]
        others = [line.staged[partner - 1].workstream] if partner else []
        together = f" together with {others[0]}" if others else ""
        reason = f"{gate.name} fails since {culprit.workstream} was merged{together}, and passed before"
        found = line.findings.get(culprit.snapshot.tree) or line.findings.get(line.tip.tree)
        refused = MergeRefused(
            workstream=culprit.workstream,
            reason="red",
            message=reason,
            others=others,
            onto=before,
            result=culprit.snapshot,
            diagnostics=found,
            gate=gate.name,
            taken_back=True,
        )
        return self._back_to_fix(self.run.workstreams[culprit.workstream], refused, "gate", "check_failed")

    def _take_back(self, line: Line, reason: str, gate: Check | None = None) -> Decision:
        """Nothing can be said about what is staged: a person decides about all of it, and nothing of it is the head."""
        reason = _cut(reason, SHORT_REASON_BYTES)
        events: list[AnyEvent] = []
        if gate is not None:
            passed = next((t for t in line.red if gate.check in self.run.verdicts.get(t, ())), line.tip.tree)
            failures = line.red.get(passed, {}).get(gate.check, 0)
            events.append(GateFlaked(gate=gate.name, check=gate.check, tree=passed, failures=failures))
        for staged in reversed(line.staged):
            draft = _Draft(self.run.workstreams[staged.workstream])
            draft.add(MergeRefused(workstream=staged.workstream, reason="error", message=reason, taken_back=True))
            self._stop_for(draft, "gate", "check_error", reason)
            events += draft.events
        return Decision(events)

    def _back_to_fix(
        self, workstream: Workstream, refused: MergeRefused, step: Step, error_class: ErrorClass
    ) -> Decision:
        """What a merge made goes to FIX, as often as is configured; then to a person."""
        config = self.run.recovery or RecoveryConfig()
        draft = _Draft(workstream)
        draft.add(refused)
        used, most = (
            (workstream.conflicts, config.conflicts) if refused.reason == "conflict" else (workstream.reds, config.reds)
        )
        if refused.onto is None or refused.result is None or used >= most:
            again = f" (sent back {used} times)" if used else ""
            self._stop_for(draft, step, error_class, f"{refused.message}{again}")
            return draft.decision()
        draft.workstream = msgspec.structs.replace(
            workstream,
            base=refused.onto,
            latest=refused.result,
            fix=FixLoopState(),
            failure=Failure(
                step=step,
                attempt=self._line_attempts(),
                signature="",
                tree=refused.result.tree,
                diagnostics=refused.diagnostics,
            ),
        )
        self._schedule_fix(draft, step)
        return draft.decision()

    def _line_attempts(self) -> int:
        return self.run.line.attempts if self.run.line is not None else 0

    def _unverified(self, workstream: Workstream) -> str:
        """What is to be said of a workstream that nothing has checked."""
        name = workstream.id
        checked = (
            self.definitions.static(name)
            or [check for check in self.definitions.runtime(name) if check.kind != "gate"]
            or any(gate.required for gate in self.definitions.gates(name))
        )
        return "" if checked else "; unverified: no check is configured (gates: none)"

    def _refuse_merge(
        self,
        line: Line,
        workstream: Workstream,
        scheduled: StepScheduled,
        event: StepFinished | StepLost | StepCancelled,
    ) -> Decision:
        finished = event if isinstance(event, StepFinished) else None
        found = next((a for a in finished.artifacts if a.role == "diagnostics"), None) if finished is not None else None
        if finished is not None and finished.error_class == "merge_conflict":
            reason = f"merge conflict with {', '.join(finished.others) or 'the line'} in {', '.join(finished.conflicts[:10])}"
            refused = MergeRefused(
                workstream=workstream.id,
                reason="conflict",
                message=reason[:REASON_MAX],
                files=finished.conflicts[:200],
                others=finished.others[:50],
                onto=line.head,
                result=finished.snapshot,
                diagnostics=found,
            )
            return self._back_to_fix(workstream, refused, "merge", "merge_conflict")
        if finished is not None and finished.error_class == "check_failed":
            failed = [result.name for result in finished.checks if result.outcome == "failed"]
            reason = f"red as merged: {', '.join(failed)} passed on its own tree and fails on the merged one: {finished.message}"
            refused = MergeRefused(
                workstream=workstream.id,
                reason="red",
                message=reason[:REASON_MAX],
                onto=line.head,
                result=scheduled.input,
                diagnostics=found,
                gate=failed[0] if failed else "",
            )
            return self._back_to_fix(workstream, refused, "gate", "check_failed")
        detail = event.message if isinstance(event, StepFinished) else event.reason
        draft = _Draft(workstream)
        draft.add(
            MergeRefused(workstream=workstream.id, reason="error", message=f"{scheduled.step}: {detail}"[:REASON_MAX])
        )
        error_class: ErrorClass = (finished.error_class if finished is not None else None) or "unknown"
        self._stop_for(draft, scheduled.step, error_class, f"{scheduled.step}: {detail}")
        return draft.decision()

    # Delivery

    def asked(self, request: DeliveryRequested) -> Iterator[Decision]:
        """The delivery that somebody asked for, as soon as the line does nothing else: the head is verified at any time."""
        line = self.run.line
        if line is None or line.open is not None or self.slots <= 0:
            return
        if line.closed is not None:
            if line.closed.attempt.scheduled.request_id != request.request_id:
                return
            decision = self._after_line_close(line, line.closed)
        elif line.delayed is not None:
            return
        else:
            decision = self._deliver(line, self._destination(request), request)
        self.lined = True
        self.slots -= sum(isinstance(event, StepScheduled) for event in decision.events)
        yield decision

    def _destination(self, request: DeliveryRequested) -> Destination:
        """Where and how: as it is asked for, else as the run's definition has it."""
        own, location = self.options.destination, self.definitions.spec.repository.location
        remote = own.remote if request.remote is None else request.remote
        remote = "" if remote == location else remote
        credential = request.credential
        if credential is None:
            credential = own.credential if remote == own.remote else ""
        return Destination(style=request.style or own.style, remote=remote, credential=credential, hook=own.hook)

    def _deliver(self, line: Line, to: Destination, request: DeliveryRequested | None = None) -> Decision:
        known = line.deliveries.get(to.remote)
        return Decision(
            [
                StepScheduled(
                    workstream=LINE,
                    attempt=line.attempts + 1,
                    step="deliver",
                    pool=self.options.pool,
                    input=line.head,
                    base=Snapshot(commit=known.commit, tree="") if known is not None else None,
                    timeout_s=self._timeout_s("deliver"),
                    queue_deadline_ns=self._queue_deadline_ns(),
                    delivery=to if to != Destination() else None,
                    series=request is not None and request.series,
                    request_id=request.request_id if request is not None else "",
                )
            ]
        )

    def _after_delivery(self, scheduled: StepScheduled, event: StepFinished | StepLost | StepCancelled) -> Decision:
        ref = f"refs/heads/swell/{self.run.run}"
        head, to = scheduled.input.commit, scheduled.delivery
        ok = isinstance(event, StepFinished) and event.ok
        reason = (event.message if isinstance(event, StepFinished) else event.reason)[:REASON_MAX]
        events: list[AnyEvent] = []
        if ok and not scheduled.series:
            snapshot = event.snapshot if isinstance(event, StepFinished) else None
            commit = snapshot.commit if snapshot is not None else head
            events.append(
                LineDelivered(ref=ref, commit=commit, head=head if commit != head else "", to=to, warning=reason)
            )
        elif not scheduled.series:
            events.append(DeliveryRefused(ref=ref, commit=head, reason=reason, to=to))
        if scheduled.request_id:
            events.append(RequestAnswered(request_id=scheduled.request_id, answer="done", ok=ok, reason=reason))
        return Decision(events)

    # Taking work off the line

    def reverting(self, reverting: Reverting) -> Iterator[Decision]:
        """One after another out of the candidate, then the checks of what is left, then to wherever the run stands."""
        line = self.run.line
        if line is None or line.open is not None:
            return
        closed = line.closed
        if closed is not None and not (isinstance(closed.event, StepFinished) and closed.event.ok):
            yield self._after_failed_revert(line, reverting, closed)
        elif closed is not None and closed.attempt.scheduled.step == "deliver":
            yield self._after_delivery(closed.attempt.scheduled, closed.event)
        elif reverting.reverted:
            yield self._redeliver(line, reverting)
        elif reverting.taken < len(reverting.order):
            yield self._take_out(line, self.run.workstreams[reverting.order[reverting.taken]])
        elif closed is not None and closed.attempt.scheduled.step == "gate":
            yield self._reverted(line, reverting, line.candidate or line.head)
        else:
            yield self._gate_of_rest(line, reverting, line.candidate or line.head)

    def _take_out(self, line: Line, workstream: Workstream) -> Decision:
        """A merge of what was before it: its own change, the other way round."""
        decision = self._schedule_line("merge", line.candidate or line.head, workstream=workstream)
        return _taking_out(decision, base=workstream.merged, theirs=workstream.before)

    def _gate_of_rest(self, line: Line, reverting: Reverting, candidate: Snapshot) -> Decision:
        rest = tuple(line.merged)
        for name in reverting.order:
            rest = ranges_without(rest, self.run.workstreams[name].index)
        checks: list[Check] = []
        if rest:
            gates = [gate for gate in self.definitions.wave_gates(rest) if self.definitions.is_required(gate, rest)]
            checks = [*self.definitions.line(rest), *gates]
        missing = unknown_checks(self.run, candidate.tree, checks)
        last = self.run.workstreams[reverting.order[-1]]
        if not missing:
            skipped = _skipped(LINE, "gate", candidate.tree, checks)
            return Decision([skipped, *self._reverted(line, reverting, candidate).events])
        return _taking_out(self._schedule_line("gate", candidate, workstream=last, checks=missing, merged=rest))

    def _reverted(self, line: Line, reverting: Reverting, to: Snapshot) -> Decision:
        events: list[AnyEvent] = [
            IntegrationReverted(workstreams=reverting.order, from_commit=line.head.commit, to=to),
        ]
        for name in reverting.order:
            draft = _Draft(self.run.workstreams[name])
            draft.move("compensating", "rollback")
            draft.move("compensated", "taken off the line")
            events += draft.events
        return Decision(events)

    def _redeliver(self, line: Line, reverting: Reverting) -> Decision:
        """The new head to the next destination that has an older one; then the end."""
        for remote, known in line.deliveries.items():
            if known.head != line.head.commit and remote not in reverting.undelivered:
                return self._deliver(line, known.to)
        count = len(reverting.order)
        said = f"{count} workstream{'s' if count != 1 else ''} taken off the line"
        if reverting.undelivered:
            reason = f"{said}, and not delivered: mend what keeps it, then `swell deliver {self.run.run}`"
            return Decision([RevertFinished(state="undelivered", workstreams=reverting.order, reason=reason)])
        return Decision([RevertFinished(state="reverted", workstreams=reverting.order, reason=said)])

    def _after_failed_revert(self, line: Line, reverting: Reverting, closed: Closed) -> Decision:
        scheduled, event = closed.attempt.scheduled, closed.event
        if is_handed_back(event) or (is_loss(event) and line.losses <= self.options.losses_max):
            return Decision([self._line_again(line, scheduled)])
        if scheduled.step == "deliver":
            return self._after_delivery(scheduled, event)
        detail = event.message if isinstance(event, StepFinished) else event.reason
        files: list[str] = []
        if isinstance(event, StepFinished) and event.error_class == "merge_conflict":
            files = event.conflicts[:200]
            named = ", ".join(event.others) or "what came after it"
            detail = f"taking {scheduled.on_behalf} off the line conflicts with {named} in {', '.join(files[:10])}"
        elif isinstance(event, StepFinished) and event.error_class == "check_failed":
            failed = [result.name for result in event.checks if result.outcome == "failed"]
            detail = f"what is left is red without it: {', '.join(failed)}: {detail}"
        finished = RevertFinished(
            state="refused",
            workstreams=reverting.order,
            reason=f"nothing moved: {detail}"[:REASON_MAX],
            files=files,
        )
        return Decision([finished])

    # Undoing

    def compensation(self, rollback: Rollback) -> Iterator[Decision]:
        """Completed workstreams one after another, the last of the plan first; what fails does not stop the others."""
        for name in rollback.order:
            workstream = self.run.workstreams[name]
            if workstream.state in {"completed", "compensation_failed"} and not self._given_up(workstream):
                yield Decision([_move(workstream, "compensating", "rollback")])
                return
            if workstream.state == "compensating":
                yield from self._compensate(workstream)
                return
        states = {name: self.run.workstreams[name].state for name in rollback.order}
        remaining = [name for name, state in states.items() if state != "compensated"]
        done = len(states) - len(remaining)
        reason = f"{done} of {len(states)} workstreams compensated, {rollback.without_actions} have no actions"
        yield Decision(
            [
                RollbackFinished(
                    state="compensation_failed" if remaining else "compensated",
                    compensated=done,
                    failed=len(remaining),
                    without_actions=rollback.without_actions,
                    remaining=remaining[:GROUP_MAX],
                    reason=reason,
                )
            ]
        )

    def _given_up(self, workstream: Workstream) -> bool:
        """Whether this rollback has failed at it already."""
        return workstream.recovery.get("compensate", Used()).retries > self._compensations()

    def _compensations(self) -> int:
        return (self.run.recovery or RecoveryConfig()).compensations

    def _compensate(self, workstream: Workstream) -> Iterator[Decision]:
        """The next action of a workstream, or the failed one again after a pause."""
        actions = self.definitions.bundles[workstream.id].compensation_actions
        line = self.run.line
        if workstream.open is not None or line is None:
            return
        closed, delayed = workstream.closed, workstream.delayed
        if closed is not None and not (isinstance(closed.event, StepFinished) and closed.event.ok):
            yield self._after_failed_compensation(workstream, closed)
        elif delayed is not None and self.now_ns < delayed.until_ns:
            return
        elif workstream.actions >= len(actions):
            yield Decision([_move(workstream, "compensated", f"{len(actions)} actions done")])
        else:
            own = line.deliveries.get("")
            elsewhere = any(remote for remote in line.deliveries)
            yield Decision(
                [
                    StepScheduled(
                        workstream=workstream.id,
                        attempt=workstream.attempts + 1,
                        step="compensate",
                        pool=self.options.pool,
                        input=line.head,
                        base=Snapshot(commit=own.commit, tree="") if own is not None else None,
                        timeout_s=self._timeout_s("compensate"),
                        queue_deadline_ns=self._queue_deadline_ns(),
                        dry_run=self.options.dry_run,
                        action=actions[workstream.actions],
                        idle_timeout_s=self._idle_s(),
                        deliveries=list(line.deliveries.values()) if elsewhere else [],
                    )
                ]
            )

    def _after_failed_compensation(self, workstream: Workstream, closed: Closed) -> Decision:
        event, scheduled = closed.event, closed.attempt.scheduled
        used = workstream.recovery.get("compensate", Used())
        detail = event.message if isinstance(event, StepFinished) else event.reason
        config = self.run.recovery or RecoveryConfig()
        again = is_handed_back(event)
        delay_s = 0.0 if again else config.delay_s(used.retries, f"{self.run.run}/{workstream.id}/compensate")
        events: list[AnyEvent] = []
        if not again:
            error_class: ErrorClass = "unknown"
            if isinstance(event, StepFinished):
                error_class = event.error_class or "unknown"
            events.append(
                RecoveryChosen(
                    workstream=workstream.id,
                    step="compensate",
                    attempt=scheduled.attempt,
                    error_class=error_class,
                    strategy="retry",
                    reason=f"{scheduled.action[:200]}: {detail}"[:REASON_MAX],
                    not_before_ns=self.now_ns + int(delay_s * _SECOND_NS),
                )
            )
        if not again and used.retries >= config.compensations:
            reason = f"{scheduled.action[:200]} failed {used.retries + 1} times: {detail}"
            return Decision([*events, _move(workstream, "compensation_failed", reason)])
        until_ns = self.now_ns + int(delay_s * _SECOND_NS)
        delayed = StepDelayed(step=scheduled, cause="retry", reason=detail[:REASON_MAX], until_ns=until_ns)
        return Decision([*events, delayed])


def _cut(text: str, most: int) -> str:
    """As much of a text as takes so many bytes in an entry."""
    while len(msgspec.json.encode(text)) > most:
        text = text[: len(text) * 3 // 4]
    return text


def _is_about_content(event: StepFinished | StepLost | StepCancelled) -> bool:
    """Whether a merge or its gate found something out about what is merged."""
    return isinstance(event, StepFinished) and event.error_class in {"merge_conflict", "check_failed"}


def _taking_out(decision: Decision, **sides: Snapshot | None) -> Decision:
    """A step of the line that takes work out of it."""
    steps = [event for event in decision.events if isinstance(event, StepScheduled)]
    return Decision([msgspec.structs.replace(step, reverts=True, **sides) for step in steps])


def _money_reason(run: str, refused: Refusal) -> str:
    """Why an attempt does not fit into a budget, and what would help."""
    whose = "the run" if refused.account == run_account(run) else "the workstream"
    if budget_name(refused.account) != refused.account:
        whose = "the fleet, or the tool,"
    remedy = f"`swell budget set {run} USD`" if whose == "the run" else "adjust its max_cost_usd"
    if refused.reason == "uncapped":
        return f"{whose} has a budget, and nothing says what an attempt costs at most: set cost_cap_usd in the tool's profile"
    if refused.reason == "reserved":  # no amounts: they change with every attempt that ends
        return f"what {whose} may still spend is reserved for attempts under way"
    spent = f"{usd_text(refused.spent_nano)} of {usd_text(refused.limit_nano)}"
    return f"{whose} has spent {spent}, and this attempt may cost {usd_text(refused.cap_nano)}: {remedy}"


def _asks_otherwise(before: StepScheduled, now: StepScheduled) -> bool:
    return (before.attempt, before.tool, before.cap_nano) != (now.attempt, now.tool, now.cap_nano)


def _differs(delayed: StepDelayed, found: Barrier) -> bool:
    cause: Delay = found.cause
    if delayed.cause == cause == "tool_missing":
        return delayed.reason != found.reason
    return (delayed.cause, delayed.reason, delayed.until_ns) != (cause, found.reason, found.until_ns)


def _too_many(checks: list[Check] | None) -> bool:
    return checks is not None and len(checks) > CHECKS_NAMED_MAX


def _named(checks: list[Check] | None) -> list[Check]:
    """The checks, if an event can name them all."""
    return [] if checks is None or _too_many(checks) else checks


def _skipped(workstream: str, step: Step, tree: str, checks: list[Check], sources: Sequence[str] = ()) -> StepSkipped:
    """A step without an attempt: nothing is configured, or everything is known to pass on this tree."""
    return StepSkipped(
        workstream=workstream,
        step=step,
        tree=tree,
        reason="verdict_reused" if checks else "noop",
        checks=checks[:CHECKS_NAMED_MAX],
        sources=list(sources),
    )
