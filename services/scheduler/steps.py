"""The steps of a workstream: what is scheduled, with which tool and share, and what follows from how it ended. Pure.

`Steps` is one call of `due` for a run that is going on, as far as single workstreams are concerned; services.scheduler.line
adds what becomes of their work on the line, services.scheduler.decide what begins when, and what people ask.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import assert_never

import msgspec

from services.events import (
    AnyEvent,
    Check,
    Delay,
    ErrorClass,
    FixInput,
    FixLoopEnded,
    GrantReturned,
    RecoveryChosen,
    RequestAnswered,
    Snapshot,
    Step,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    StepSkipped,
    WorkstreamState,
    WorkstreamTransitioned,
)
from services.outcome import NANO_USD_MAX, nano_of, usd_text
from services.profiles import model_of, placeholders
from services.scheduler.breaker import BreakerConfig, decide
from services.scheduler.budget import (
    Refusal,
    account_of,
    budget_name,
    refusal,
    run_account,
)
from services.scheduler.fleet import Barrier, Fleet, Want, barrier, tests_run, ungranted, wants_same
from services.scheduler.grants import Ask, limit_nano
from services.scheduler.recovery import Choice, RecoveryConfig, Used, choose
from services.scheduler.routing import Places, Sightings, ordered
from services.scheduler.state import (
    ALLOWED,
    COUNTED_BY_FIX_LOOP,
    Attempt,
    Closed,
    RunState,
    Workstream,
    draw_of,
    is_handed_back,
    is_loss,
    unknown_checks,
)
from services.spec import CHECKS_NAMED_MAX, STEP_TIMEOUT_S, Definitions, Options

GROUP_MAX = 400
"""Workstreams named by one decision: keeps an entry under its size limit whatever the ids."""

HELD_MAX = 200
"""EDITs of a run that wait for the same tools; further ones are not begun before some of these are."""

REASON_MAX = 1500
"""Characters of a reason."""

SECOND_NS = 1_000_000_000

STATE_OF: Mapping[Step, WorkstreamState] = {
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


def ask_for(run: RunState, definitions: Definitions, step: StepScheduled) -> Ask:
    """What a step of a run asks for of what runs share."""
    profile = definitions.spec.profiles.get(step.tool)
    return Ask(
        run=run.run,
        workstream=step.workstream,
        attempt=step.attempt,
        tool=step.tool,
        provider=(profile.provider if profile is not None else None) or "",
        model="" if profile is None else model_of(profile, definitions.spec.options.context, fix=step.step == "fix"),
        cap=step.cap,
        cap_nano=step.cap_nano,
        pool=step.pool,
        tenant=run.accepted.tenant if run.accepted is not None else "",
    )


def choice_of(
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
    chain = chain_of(definitions, workstream, step)
    tool = tried or in_force(own, chain)
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
    reason = f"{chosen.reason}{because(detail)}"
    event = RecoveryChosen(
        workstream=workstream.id,
        step=step,
        attempt=workstream.attempts,
        error_class=error_class,
        strategy=chosen.strategy,
        reason=reason[:REASON_MAX],
        tool=chosen.tool,
        reduction=chosen.reduction,
        not_before_ns=now_ns + int(chosen.delay_s * SECOND_NS) if chosen.delay_s else 0,
        replaced=tool if chosen.strategy == "fallback_tool" else "",
    )
    return msgspec.structs.replace(chosen, reason=reason[:REASON_MAX]), [event]


def in_force(used: Used, chain: Sequence[str]) -> str:
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


def chain_of(definitions: Definitions, workstream: Workstream, step: Step) -> tuple[str, ...]:
    """The tools to try for a step that changes the tree, the wanted one first; () for any other step."""
    if step == "fix":
        tiers = definitions.checks(workstream.id).fix_tiers
        failed = workstream.failure.step if workstream.failure is not None else "static"
        tier = min(workstream.fix.fix_attempts_by_step.get(failed, 0), len(tiers))
        if tier:
            return definitions.with_fallbacks(tiers[tier - 1])
    return definitions.chain(workstream.id, step)


def because(reason: str) -> str:
    return f": {reason}" if reason else ""


def moved_to(workstream: Workstream, to: WorkstreamState, reason: str = "", actor: str = "scheduler") -> AnyEvent:
    return WorkstreamTransitioned(
        workstream=workstream.id, from_state=workstream.state, to_state=to, reason=reason[:REASON_MAX], actor=actor
    )


class Draft:
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


class Steps:
    """One call of `due` for a run that is going on: the steps of its workstreams."""

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
        self.queues: dict[tuple[str, str, int], Barrier | Refusal | None] = {}
        """What stands before attempts without a grant, by tool, pool and cap: the same for all of them."""
        self.lined = False
        """Whether this call has decided about the line already: it does one thing at a time."""

    # One workstream

    def _schedule(
        self,
        draft: Draft,
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
        chain = chain_of(self.definitions, workstream, step)
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
                checks=named_checks(checks),
                every_check=too_many(checks),
                merged=[(index, index + 1)] if checks else [],
                fix=fix,
                dry_run=self.options.dry_run,
                tool=tool or in_force(used, chain),
                reduction=0 if tool else used.reductions,
                trusted=workstream.trusted,
                idle_timeout_s=self._idle_s(),
            ),
            not_before_ns=not_before_ns,
        )

    def _dispatch(self, draft: Draft, step: StepScheduled, *, not_before_ns: int = 0) -> None:
        """Schedule a step, or record what it waits for."""
        if not_before_ns > self.now_ns:
            reason = "it failed, and is tried again after a pause"
            draft.add(StepDelayed(step=step, cause="retry", reason=reason, until_ns=not_before_ns))
            return
        step, found = self._routed(draft.workstream, step)
        if isinstance(found, Refusal):
            reason = money_reason(self.run.run, found)
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
            ask = ask_for(self.run, self.definitions, msgspec.structs.replace(step, cap="none"))
            most_nano = min(self._limit_nano(step.workstream), limit_nano(self.fleet.shared, ask))
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
        if not self.fleet.shared.is_limited:
            return step, None
        key = (step.tool, step.pool, step.cap_nano)
        granted = (step.workstream, step.attempt) in self.fleet.shared.grants.get(self.run.run, ())
        if granted or key not in self.queues:
            found = ungranted(self.fleet, self.now_ns, ask_for(self.run, self.definitions, step))
            if not granted:
                self.queues[key] = found
        else:
            found = self.queues[key]
        if found is not None and step.cap is not None:  # what it was promised of the run's budgets is not taken yet
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
        wanted = in_force(workstream.recovery.get(step.step, Used()), chain) or step.tool
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
                    f"only pool {elsewhere.pool} has {tool}, and {pause.actor} has paused it{because(pause.reason)}"
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
        chain = chain_of(self.definitions, workstream, step)
        return routed if chain[: len(routed)] == routed else ()

    def _candidates(self, workstream: Workstream, step: Step) -> tuple[str, ...]:
        """The tools for a step, in the order of now."""
        chain = chain_of(self.definitions, workstream, step)
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
                draft = Draft(workstream)
                reason = money_reason(self.run.run, found)
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
                    draft = Draft(workstream)
                    self._fix_or_end(draft, step.fix.step, after=step.fix.mechanical)
                    yield draft.decision()
            elif delayed.cause == found.cause == "tool_missing" and self.now_ns >= delayed.until_ns:
                draft = Draft(workstream)
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
        if grant is None or wants_same(grant, ask_for(self.run, self.definitions, step)):
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
        return self.now_ns + int(self.options.queue_timeout_s * SECOND_NS)

    def _after_close(self, workstream: Workstream) -> Decision:
        draft = Draft(workstream)
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

    def _after_loss(self, draft: Draft, closed: Closed, reason: str) -> None:
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

    def _again(self, draft: Draft, scheduled: StepScheduled, *, not_before_ns: int = 0) -> None:
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
        self, draft: Draft, scheduled: StepScheduled, error_class: ErrorClass, detail: str, wait_s: float = 0.0
    ) -> None:
        """What the recovery table says: the step again, later or otherwise; or a person."""
        workstream = draft.workstream
        if workstream.goal is not None:
            self._answer(draft, ok=False, reason=f"{scheduled.step}: {detail}")
            return
        chosen, events = choice_of(
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
        delay_ns = int(chosen.delay_s * SECOND_NS)
        self._again(draft, scheduled, not_before_ns=self.now_ns + delay_ns if delay_ns else 0)

    def _stop_for(self, draft: Draft, step: Step, error_class: ErrorClass, reason: str) -> None:
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

    def _give_up(self, draft: Draft, reason: str) -> None:
        """A person decides what becomes of the workstream; in a run that nobody watches, it fails."""
        if self.options.review == "fail" or self.options.fail_fast:
            self.failing = True
            draft.move("failed", reason)
        else:
            draft.move("awaiting_review", reason)

    def _after_finish(self, draft: Draft, scheduled: StepScheduled, event: StepFinished) -> None:
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
            wait_s = max(event.retry_after_s, (event.resets_at_ns - self.now_ns) / SECOND_NS)
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

    def _static(self, draft: Draft, snapshot: Snapshot) -> None:
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
            draft.add(skipped_step(draft.workstream.id, "static", snapshot.tree, checks, sources))
            self._runtime(draft, snapshot)

    def _runtime(self, draft: Draft, snapshot: Snapshot) -> None:
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
            draft.add(skipped_step(draft.workstream.id, "runtime", snapshot.tree, checks, sources))
            self._validated(draft)

    def _validated(self, draft: Draft) -> None:
        """Scope was checked with every snapshot, and one tree has now passed every check: it may be merged."""
        draft.move("validating")
        draft.move("merging")

    def _elsewhere(self, tree: str, checks: list[Check]) -> list[str]:
        """The attempts of other runs in which all of these passed this tree, not too long ago; none if one of them did not."""
        oldest_ns = self.now_ns - int(self.options.verdict_reuse_s * SECOND_NS)
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

    def _after_failed_check(self, draft: Draft, step: Step) -> None:
        workstream = draft.workstream
        if workstream.goal is not None and not workstream.goal.with_fix:
            self._answer(draft, ok=False, reason=f"{step} failed")
            return
        self._fix_or_end(draft, step)

    def _after_fix(self, draft: Draft, scheduled: StepScheduled) -> None:
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

    def _fix_or_end(self, draft: Draft, step: Step, *, after: int = 0) -> None:
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

    def _schedule_fix(self, draft: Draft, step: Step, *, autofix: int = 0) -> None:
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

    def _answer(self, draft: Draft, *, ok: bool, reason: str) -> None:
        goal = draft.workstream.goal
        if goal is not None:
            draft.add(RequestAnswered(request_id=goal.request_id, answer="done", ok=ok, reason=reason[:REASON_MAX]))

    def _check(self, draft: Draft, step: Step, snapshot: Snapshot) -> None:
        draft.move(STATE_OF[step])
        name = draft.workstream.id
        checks = self.definitions.static(name) if step == "static" else self.definitions.runtime(name)
        if checks or self.options.dry_run:
            self._schedule(draft, step, snapshot, checks=checks)
        else:
            draft.add(skipped_step(name, step, snapshot.tree, checks))
            self._answer(draft, ok=True, reason="noop: nothing is configured")


def money_reason(run: str, refused: Refusal) -> str:
    """Why an attempt does not fit into a budget, and what would help."""
    whose = "the run" if refused.account == run_account(run) else "the workstream"
    if budget_name(refused.account) != refused.account:
        whose = "the fleet, the tenant or the tool,"
    remedy = f"`swell budget set {run} USD`" if whose == "the run" else "adjust its max_cost_usd"
    if refused.reason == "uncapped":
        return f"{whose} has a budget, and nothing says what an attempt costs at most: set cost_cap_usd in the tool's profile"
    if refused.reason == "reserved":  # no amounts: they change with every attempt that ends
        return f"what {whose} may still spend is reserved for attempts under way"
    spent = f"{usd_text(refused.spent_nano)} of {usd_text(refused.limit_nano)}"
    return f"{whose} has spent {spent}, and this attempt may cost {usd_text(refused.cap_nano)}: {remedy}"


def _asks_otherwise(before: StepScheduled, now: StepScheduled) -> bool:
    return (before.attempt, before.tool, before.cap_nano, before.pool) != (
        now.attempt,
        now.tool,
        now.cap_nano,
        now.pool,
    )


def _differs(delayed: StepDelayed, found: Barrier) -> bool:
    cause: Delay = found.cause
    if delayed.cause == cause == "tool_missing":
        return delayed.reason != found.reason
    return (delayed.cause, delayed.reason, delayed.until_ns) != (cause, found.reason, found.until_ns)


def too_many(checks: list[Check] | None) -> bool:
    return checks is not None and len(checks) > CHECKS_NAMED_MAX


def named_checks(checks: list[Check] | None) -> list[Check]:
    """The checks, if an event can name them all."""
    return [] if checks is None or too_many(checks) else checks


def skipped_step(
    workstream: str, step: Step, tree: str, checks: list[Check], sources: Sequence[str] = ()
) -> StepSkipped:
    """A step without an attempt: nothing is configured, or everything is known to pass on this tree."""
    return StepSkipped(
        workstream=workstream,
        step=step,
        tree=tree,
        reason="verdict_reused" if checks else "noop",
        checks=checks[:CHECKS_NAMED_MAX],
        sources=list(sources),
    )
