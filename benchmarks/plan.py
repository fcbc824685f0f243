"""How planning grows: seconds for 1,000, 10,000 and 100,000 workstreams, and their ratio (10 and 100 are linear).

`swell plan` is measured as a process: it reads the bundles from files, looks at a repository, and prints the plan.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.bundle import WorkstreamBundle, encode_bundles
from services.forecast import forecast
from services.plan import PlanReport, build_execution_plan, validate_plan

EDGES_PER_WORKSTREAM = 3
WORKSTREAMS_PER_GROUP = 10
SIZES = (1_000, 10_000, 100_000)
SAMPLES = 3
WORKSTREAMS_PER_FILE = 1_000


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
            acceptance_tests=("make test",),
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
    fleets = {size: fleet(size) for size in SIZES}
    reports = {size: _report(bundles) for size, bundles in fleets.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {size: _written(bundles, Path(scratch, str(size))) for size, bundles in fleets.items()}
        return [
            *_rows("build_execution_plan", lambda size: build_execution_plan(fleets[size])),
            *_rows("validate_plan", lambda size: _report(fleets[size])),
            *_rows("forecast for 16 workers", lambda size: _forecast(fleets[size], reports[size])),
            *_rows("swell plan, from files to the last line", lambda size: _planned(folders[size])),
        ]


def _rows(name: str, run: Callable[[int], object]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        seconds = min(_seconds(run, size) for _ in range(1 if size > 10_000 else SAMPLES))
        baseline = rows[0]["value"] if rows else seconds
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


def _report(bundles: list[WorkstreamBundle]) -> PlanReport:
    return validate_plan(bundles, known_tools=None, max_workers=4, checks_present=lambda _: True)


def _forecast(bundles: list[WorkstreamBundle], report: PlanReport) -> None:
    assert report.plan is not None
    forecast(bundles, report.plan, report.overlaps, workers=[16], executors=[], slots=1)


def _written(bundles: list[WorkstreamBundle], folder: Path) -> Path:
    folder.mkdir()
    for first in range(0, len(bundles), WORKSTREAMS_PER_FILE):
        (folder / f"{first:06}.json").write_bytes(encode_bundles(bundles[first : first + WORKSTREAMS_PER_FILE]))
    return folder


def _planned(folder: Path) -> None:
    command = [sys.executable, "-m", "swell.cli", "plan", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _seconds(run: Callable[[int], object], size: int) -> float:
    start = time.perf_counter()
    run(size)
    return time.perf_counter() - start
