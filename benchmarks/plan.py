"""How planning grows: seconds for 1,000 and for 10,000 workstreams, and their ratio (10 is linear)."""

from __future__ import annotations

import random
import time
from typing import Any

from services.bundle import WorkstreamBundle
from services.plan import build_execution_plan, validate_plan

EDGES_PER_WORKSTREAM = 3
WORKSTREAMS_PER_GROUP = 10
SAMPLES = 3


def fleet(size: int, *, seed: int = 1) -> list[WorkstreamBundle]:
    """`size` workstreams with three dependencies each, ten to a conflict group, some sharing files and folders."""
    draw = random.Random(seed)
    return [
        WorkstreamBundle(
            id=f"ws-{at:05}",
            openspec_change="OS-001",
            ccpm_issue=at,
            gate=1,
            files_scope=(f"src/{at % 997}/module_{at}.py", f"docs/{draw.randrange(size)}.md"),
            files_create=(f"tests/{at % 97}/{at}/**",),
            tasks=("Do it",),
            tool="tool",
            depends_on=tuple(
                f"ws-{draw.randrange(max(0, at - 500), at):05}" for _ in range(EDGES_PER_WORKSTREAM) if at > 0
            ),
            conflict_group=f"group-{at % max(1, size // WORKSTREAMS_PER_GROUP)}",
            parallel_ok=at % 1_000 != 7,
        )
        for at in range(size)
    ]


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, baseline and ratio; the baseline is the time for 1,000 workstreams."""
    rows = []
    for name, run in (
        ("build_execution_plan", build_execution_plan),
        (
            "validate_plan",
            lambda bundles: validate_plan(bundles, known_tools=None, max_workers=4, checks_present=lambda _: True),
        ),
    ):
        baseline = None
        for size in (1_000, 10_000):
            bundles = fleet(size)
            seconds = min(_seconds(run, bundles) for _ in range(SAMPLES))
            baseline = baseline or seconds
            rows.append(
                {
                    "name": f"{name}, {size} workstreams",
                    "value": seconds,
                    "unit": "s",
                    "baseline": baseline,
                    "ratio": seconds / baseline,
                }
            )
    return rows


def _seconds(run: Any, bundles: list[WorkstreamBundle]) -> float:
    start = time.perf_counter()
    run(bundles)
    return time.perf_counter() - start
