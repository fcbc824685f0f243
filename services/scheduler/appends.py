"""What of the scheduler's decisions is appended next, where, and after which sequence. Pure.

    decisions ──▶ closes, each on its attempt's own subject; else as many run decisions as one entry holds

Every append carries the sequence that was folded when its decision was taken, so of two schedulers that decide at once one
is refused. After an append nothing more is decided for the run until the entry has been folded back (`may_decide`).
"""

from collections.abc import Sequence

import msgspec

from services.events import AnyEvent
from services.scheduler.state import RunState
from services.scheduler.steps import Decision
from services.wire import ENTRY_BYTES_MAX, all_of_run, attempt_subject, run_subject

ENTRY_BUDGET_BYTES = ENTRY_BYTES_MAX * 3 // 4

_encoder = msgspec.json.Encoder()


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Events that become one entry of `subject`, after sequence `expect` of it (or of all that matches `over`).

    `executor` of `pool` holds the attempt that they close, if somebody has claimed it.
    """

    subject: str
    events: list[AnyEvent]
    expect: int
    over: str = ""
    executor: str = ""
    pool: str = ""


def may_decide(run: RunState, awaiting: int) -> bool:
    """Whether everything this scheduler has appended to the run, up to sequence `awaiting`, is folded."""
    return run.last_sequence >= awaiting


def fitting(events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """The first of these events that one entry holds, at least one; what is left is derived again."""
    size = 0
    for number, event in enumerate(events):
        size += len(msgspec.json.encode(event))
        if number and size > ENTRY_BUDGET_BYTES:
            return list(events[:number])
    return list(events)


def appends(run: RunState, decisions: Sequence[Decision]) -> list[Append]:
    """What to append now; what is left of the decisions is derived again afterwards."""
    closes = [decision for decision in decisions if decision.attempt is not None]
    if closes:
        return [_close(run, decision) for decision in closes]
    if decisions[0].final:
        return [
            Append(
                subject=run_subject(run.run),
                events=decisions[0].events,
                expect=run.last_sequence,
                over=all_of_run(run.run),
            )
        ]
    events: list[AnyEvent] = []
    size = 0
    for decision in decisions:
        if len(decisions) > 1:  # one alone is appended whatever its size
            size += len(_encoder.encode(decision.events))
        if decision.final or (events and size > ENTRY_BUDGET_BYTES):
            break
        events.extend(decision.events)
    return [Append(subject=run_subject(run.run), events=events, expect=run.last_run_sequence)]


def _close(run: RunState, decision: Decision) -> Append:
    attempt = decision.attempt
    if attempt is None:
        raise ValueError("a decision that closes no attempt")
    scheduled = attempt.scheduled
    return Append(
        subject=attempt_subject(run.run, scheduled.workstream, scheduled.attempt),
        events=decision.events,
        expect=decision.expect,
        executor=attempt.executor,
        pool=scheduled.pool,
    )
