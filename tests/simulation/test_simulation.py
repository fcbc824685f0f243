"""Seeded runs of the whole system in virtual time; see tests/simulation/simulate.py. More: python -m tests.simulation.soak."""

import gc
from collections import Counter

import pytest

from tests.simulation.simulate import simulate
from tests.simulation.soak import Tally, play

SEEDS = 1000
CHUNKS = 5


def _told(tally: Tally) -> str:
    said = [f"{finding} (again: python -m tests.simulation.replay {seed})" for seed, finding in tally.findings]
    return "\n".join([tally.text(), *said])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_that_must_hold_breaks_whatever_fails(chunk, tell):
    """Runs of all sizes under every mix of faults: no invariant breaks, and every run comes to its end."""
    size = SEEDS // CHUNKS
    tally = play(range(chunk * size, (chunk + 1) * size))
    tell(f"seeds {chunk * size} to {(chunk + 1) * size - 1}: {tally.text()}")
    assert not tally.findings, _told(tally)


def test_large_runs_too(tell):
    """Twenty workstreams at a time."""
    tally = play(range(100_000, 100_060), 20)
    tell(f"20 workstreams each: {tally.text()}")
    assert not tally.findings, _told(tally)


@pytest.mark.parametrize("seed", [54, 154, 8, 20795, 50148])
def test_what_was_found_once_stays_mended(seed):
    """Deliveries and reverts after the end of a run, conflict markers, a share that was given back twice."""
    assert not simulate(seed).findings


def test_a_seed_is_one_history():
    """What a seed comes to does not depend on what ran before it."""
    first = simulate(30)
    simulate(31)
    again = simulate(30)
    assert [one.data for one in first.log] == [one.data for one in again.log]
    assert first.faults == again.faults


def test_what_a_run_leaves_behind_is_freed_at_once():
    """Thousands of runs in a row need no collector: nobody of a run that is over still knows anybody."""
    simulate(30)
    gc.collect()
    gc.disable()
    try:
        simulate(31)
        assert gc.collect() < 100
    finally:
        gc.enable()


def test_every_kind_of_trouble_occurs_and_every_story_is_told():
    """The seeds reach what they are for: no fault, strategy, or state is left out."""
    tally = Counter()
    for seed in range(120):
        outcome = simulate(seed)
        tally += outcome.faults
        tally += outcome.stats
    wanted = {
        "request lost", "answer lost", "request late", "command lost", "command doubled", "commands reordered", "beat lost",
        "lease believed by two", "lease answer lost", "server restarted, memory lost", "server away", "connection cut",
        "executor stopped and continued", "scheduler stopped and continued", "scheduler's host suspended", "slow consumer",
        "scheduler crash: at any time", "executor crash: at any time", "tool killed its executor", "executor drained",
        "request races the end", "request repeated", "ledger crash: folded, not committed", "clock of an executor jumps",
        "→ awaiting_review", "→ compensated", "→ blocked", "→ fixing", "recovery: retry", "recovery: fallback_tool",
        "recovery: reduce_context", "recovery: review", "delayed: tool_breaker", "breaker open", "breaker half_open",
        "breaker closed", "probes", "paused tool", "run paused request", "run paused review", "closed: handed_back", "lost",
        "closed: cancelled", "amended", "late facts", "step compensate", "step gate", "rollbacks", "run partial",
        "dispatches under a budget", "delayed: budget", "run paused budget", "budgets changed", "budget warning",
        "budget exceeded", "recovery: wait", "delayed: limit", "grants under a budget", "grants returned",
        "fleet budget warning", "fleet budget exceeded", "fleet budgets changed", "staged", "waves judged", "culprits found",
        "culprits found that are two", "gates flaked", "merge refused: conflict", "merge refused: red, taken back",
        "merge refused: error, taken back", "reverts", "revert reverted", "delivery asked for: accepted",
    }  # fmt: skip
    assert wanted - tally.keys() == set()
