"""How many seeds the simulation plays in a second of processor time: runs of 20 workstreams, with all their faults.

The baseline is the mixture of small runs that the soak plays when no size is asked for.
"""

from typing import Any

from tests.simulation.soak import Tally, play

SIZE = 20
SEEDS = 200


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, baseline and ratio."""
    mixed, sized = _rate(play(range(SEEDS))), _rate(play(range(SEEDS), size=SIZE))
    return [
        {
            "name": f"simulated runs of {SIZE} workstreams, {SEEDS} seeds",
            "value": sized,
            "unit": "seeds/s",
            "baseline": mixed,
            "ratio": sized / mixed,
        }
    ]


def _rate(tally: Tally) -> float:
    if tally.findings:
        raise SystemExit(
            f"seed {tally.findings[0][0]} is wrong, and what is wrong has no speed: {tally.findings[0][1]}"
        )
    return tally.runs / tally.cpu_s
