"""What figures suggest: recommendations by fixed rules, each with the numbers it rests on. Pure.

Nothing is said where too little was measured; the least of each rule stands below. The same figures give the same
recommendations, in the order of the rules.
"""

import math
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from services.ledger.figures import Figures, ToolFigures
from services.outcome import usd_text

ATTEMPTS_MIN: Final = 20
"""Attempts that ran, before anything is said of workers."""
WORKSTREAMS_MIN: Final = 10
"""Workstreams of a tool, before it is compared with another."""
FIX_LOOPS_MIN: Final = 3
"""FIX loops that were stopped for going round in circles."""
WAVES_MIN: Final = 3
FLAKES_MIN: Final = 2
CONTEXTS_MIN: Final = 10

BUSY: Final = 0.85
"""The part of the slots' time from which on they are the limit."""
IDLE: Final = 0.5
"""The part of it up to which they stand idle."""
WAIT_S: Final = 5.0
"""A queue wait, at 90 %, that is worth a worker."""
BETTER: Final = 0.2
"""How much more often a tool must succeed on first pass to be worth routing to."""
CHEAPER: Final = 1.5
"""How many times as much a completed workstream must cost to be worth routing elsewhere."""
OFTEN: Final = 0.2
"""The part of attempts or workstreams that is often."""

Category = Literal["workers", "waves", "routing", "cost", "fix_loops", "gates", "context"]


class Evidence(msgspec.Struct, frozen=True):
    """A number, and where it comes from: a field of the figures, or tables for SQL."""

    name: str
    value: float
    source: str


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What to change, and why."""

    category: Category
    current_value: str
    recommended_value: str
    expected_improvement: str
    reasoning: str
    evidence: list[Evidence]


def recommendations(figures: Figures) -> list[Recommendation]:
    """What the figures suggest, in the order of the rules."""
    rules = (_workers, _waves, _routing, _cost, _fix_loops, _gates, _context)
    return [found for rule in rules for found in rule(figures)]


def _workers(figures: Figures) -> Iterator[Recommendation]:
    """Busy slots and long waits: more. Slots that were never used: fewer."""
    utilization, peak = figures.worker_utilization, figures.peak_parallelism
    ran = sum(one.count for one in figures.durations)
    if utilization is None or peak is None or ran < ATTEMPTS_MIN:
        return
    measured = [
        Evidence("worker_utilization", utilization, f"worker_utilization, by {figures.utilization_basis}"),
        Evidence("peak_parallelism", peak, "peak_parallelism"),
        Evidence("attempts", ran, "durations[].count"),
    ]
    longest = max(figures.queue_waits, key=lambda one: (one.p90_s, one.name), default=None)
    if utilization >= BUSY and longest is not None and longest.p90_s >= WAIT_S:
        wanted = peak + max(1, math.ceil(peak * min(1.0, _waited(figures))))
        yield Recommendation(
            category="workers",
            current_value=f"{peak} attempts at a time",
            recommended_value=f"{wanted} attempts at a time: more slots in pool {longest.name or 'default'}",
            expected_improvement=f"a queue wait that is shorter than {longest.p90_s:.1f} s for one attempt in ten",
            reasoning=f"{utilization:.0%} of the slots' time is used, and attempts wait for a slot",
            evidence=[
                *measured,
                Evidence("queue_wait_p90_s", longest.p90_s, f"queue_waits of pool {longest.name}"),
                Evidence("queue_wait_share", _waited(figures), "queue_waits[].total_s / durations[].total_s"),
            ],
        )
    workers = figures.workers
    if utilization <= IDLE and workers is not None and peak < workers:
        yield Recommendation(
            category="workers",
            current_value=f"{workers} workers",
            recommended_value=f"{peak} workers",
            expected_improvement=f"{workers - peak} slots for other runs, in the same time",
            reasoning=f"never more than {peak} attempts ran at a time, and {1 - utilization:.0%} of the slots' time was idle",
            evidence=[*measured, Evidence("workers", workers, "workers")],
        )


def _waited(figures: Figures) -> float:
    """The time spent in queues as a part of the time spent working."""
    worked = sum(one.total_s for one in figures.durations)
    return sum(one.total_s for one in figures.queue_waits) / worked if worked else 0.0


def _waves(figures: Figures) -> Iterator[Recommendation]:
    """Waves of one workstream run one after the other."""
    if figures.wave_count < WAVES_MIN or figures.single_waves * 2 < figures.wave_count:
        return
    yield Recommendation(
        category="waves",
        current_value=f"{figures.single_waves} of {figures.wave_count} waves have a single workstream",
        recommended_value="fewer dependencies and narrower scopes, or --eager",
        expected_improvement=f"up to {figures.single_waves} barriers fewer",
        reasoning="a wave of one uses one worker, and everything after it waits for its end",
        evidence=[
            Evidence("single_waves", figures.single_waves, "single_waves: waves WHERE workstreams = 1"),
            Evidence("wave_count", figures.wave_count, "wave_count"),
        ],
    )


def _measured(figures: Figures) -> list[ToolFigures]:
    return [tool for tool in figures.tools if tool.workstreams >= WORKSTREAMS_MIN]


def _rate(tool: ToolFigures) -> float:
    return tool.first_pass / tool.workstreams


def _routing(figures: Figures) -> Iterator[Recommendation]:
    """A tool whose work needs FIX more often than another's."""
    known = _measured(figures)
    best = max(known, key=lambda tool: (_rate(tool), tool.tool), default=None)
    if best is None:
        return
    for tool in known:
        if _rate(best) - _rate(tool) < BETTER:
            continue
        yield Recommendation(
            category="routing",
            current_value=f"{tool.tool}: {_rate(tool):.0%} on first pass",
            recommended_value=f"{best.tool}: {_rate(best):.0%} on first pass",
            expected_improvement=f"{(_rate(best) - _rate(tool)) * tool.workstreams:.0f} of {tool.workstreams} workstreams "
            "without FIX that need it now",
            reasoning=f"of what {tool.tool} edits, less completes without FIX than of what {best.tool} edits",
            evidence=[
                Evidence(name, value, f"tools of {one.tool}")
                for one in (tool, best)
                for name, value in (("workstreams", one.workstreams), ("first_pass", one.first_pass))
            ],
        )


def _cost(figures: Figures) -> Iterator[Recommendation]:
    """A tool whose completed workstreams cost more than those of another that succeeds as often."""
    priced = [
        (tool.cost_nano / tool.completed, tool)
        for tool in _measured(figures)
        if tool.cost_nano is not None and tool.attempts and not tool.unpriced and tool.completed >= WORKSTREAMS_MIN
    ]
    cheapest_nano, cheapest = min(priced, key=lambda one: (one[0], one[1].tool), default=(0.0, None))
    if cheapest is None:
        return
    for cost_nano, tool in priced:
        if cost_nano < CHEAPER * cheapest_nano or cost_nano == 0 or _rate(cheapest) < _rate(tool) - BETTER / 4:
            continue
        if tool is cheapest:
            continue
        yield Recommendation(
            category="cost",
            current_value=f"{tool.tool}: {usd_text(round(cost_nano))} for each completed workstream",
            recommended_value=f"{cheapest.tool}: {usd_text(round(cheapest_nano))} for each",
            expected_improvement=f"{usd_text(round(cost_nano - cheapest_nano))} less for each workstream",
            reasoning=f"{cheapest.tool} costs less, and completes about as much on first pass",
            evidence=[
                Evidence(name, value, f"tools of {one.tool}")
                for one in (tool, cheapest)
                for name, value in (
                    ("completed", one.completed),
                    ("cost_nano", one.cost_nano or 0),
                    ("first_pass_rate", _rate(one)),
                )
            ],
        )


def _fix_loops(figures: Figures) -> Iterator[Recommendation]:
    """FIX that goes round in circles."""
    circles = sum(
        one.count
        for one in figures.breaker_trips
        if one.name == "fix_loop" and one.reason in {"oscillation_signature", "oscillation_tree"}
    )
    fixed = sum(one.count for one in figures.fix_attempts if one.name != "0")
    if circles < FIX_LOOPS_MIN or not fixed or circles / fixed < OFTEN:
        return
    yield Recommendation(
        category="fix_loops",
        current_value=f"{circles} of {fixed} FIX loops ended because the same error or tree came back",
        recommended_value="another tool for FIX (`fix_tiers` in swell.toml), or checks whose reports say more",
        expected_improvement=f"up to {circles} workstreams more that complete, or fewer FIX attempts for nothing",
        reasoning="what the tool is told does not lead it to another result",
        evidence=[
            Evidence("oscillations", circles, "workstreams WHERE fix_limit LIKE 'oscillation%'"),
            Evidence("fixed_workstreams", fixed, "fix_attempts other than 0"),
        ],
    )


def _gates(figures: Figures) -> Iterator[Recommendation]:
    """Gates that say now this, now that of one tree."""
    for gate in figures.flaky_gates:
        if gate.count < FLAKES_MIN:
            continue
        yield Recommendation(
            category="gates",
            current_value=f"{gate.name} was flaky {gate.count} times",
            recommended_value=f"mend {gate.name}, or make it not blocking until it is",
            expected_improvement=f"{gate.count} gates that need not run again",
            reasoning="it failed and passed on one and the same tree, so its verdicts tell nothing",
            evidence=[Evidence("flakes", gate.count, "flaky_gates: events WHERE kind = 'gate_flaked'")],
        )


def _context(figures: Figures) -> Iterator[Recommendation]:
    """Files that do not fit the window of the tool's model."""
    told = sum(one.count for one in figures.contexts)
    cut = sum(one.count for one in figures.contexts if one.name in {"reduced", "too_large"})
    if told < CONTEXTS_MIN or cut / told < OFTEN:
        return
    yield Recommendation(
        category="context",
        current_value=f"{cut} of {told} attempts were handed fewer files than their scope has, or none",
        recommended_value="workstreams with smaller scopes, or a model with a larger window",
        expected_improvement=f"{cut} attempts that see all they may change",
        reasoning="a tool that does not see a file changes it blindly, or not at all",
        evidence=[
            Evidence("reduced_or_too_large", cut, "contexts: attempts WHERE context IN ('reduced', 'too_large')"),
            Evidence("attempts", told, "contexts"),
        ],
    )
