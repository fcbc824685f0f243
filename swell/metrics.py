"""Swell from Python: how steps of workstreams went, added up in one's own program, without a cluster.

    metrics = MetricsAggregator()
    metrics.record_step_execution(ws_id="ws-feature-auth", step="edit", duration_sec=45.2, success=True)
    metrics.get_summary()

What runs of a cluster came to is the ledger's to tell: `get_run_metrics` and `get_costs` (swell/figures.py).
"""

from __future__ import annotations

import math
import re
from threading import Lock
from typing import Final, TypedDict

STEPS: Final = ("edit", "static", "runtime", "fix", "merge", "gate", "deliver", "compensate")
WORKSTREAMS_MAX: Final = 100_000
DURATION_S_MAX: Final = 10**9
"""Of one execution of a step; 31 years."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NANO: Final = 10**9


class MetricsSummary(TypedDict):
    """What was recorded. `avg_duration_sec` is `total_duration_sec` divided by `total_workstreams`, 0 without any."""

    total_workstreams: int
    successful: int
    failed: int
    total_duration_sec: float
    avg_duration_sec: float


class MetricsAggregator:
    """Counts workstreams and adds up how long their steps took.

    A workstream is successful while the newest execution of each of its steps succeeded: STATIC that failed, was fixed and
    passed counts as passed. A FIX only counts until the next execution of another step, which says whether it helped.

    Threads may share one. It knows at most 100,000 workstreams. Time is counted in whole nanoseconds, so no number of
    records makes the sum drift.
    """

    def __init__(self) -> None:
        """An aggregator that knows nothing yet."""
        self._lock = Lock()
        self._newest: dict[str, dict[str, bool]] = {}
        self._total_ns = 0

    def record_step_execution(self, ws_id: str, step: str, duration_sec: float, success: bool) -> None:
        """Count one execution of a step: edit, static, runtime, fix, merge, gate, deliver or compensate.

        Raises ValueError, and counts nothing, for a workstream that is no name (1 to 128 letters, digits, '-', '_'), an
        unknown step, a duration that is not between 0 and 10^9 seconds, a success that is neither True nor False, and for
        more than 100,000 workstreams.
        """
        if not isinstance(ws_id, str) or not _NAME.fullmatch(ws_id):
            raise ValueError(f"ws_id is {_shown(ws_id)}: give 1 to 128 letters, digits, '-' or '_'")
        if step not in STEPS:
            raise ValueError(f"step is {_shown(step)}: give one of {', '.join(STEPS)}")
        number = isinstance(duration_sec, int | float) and not isinstance(duration_sec, bool)
        if not number or not 0 <= duration_sec <= DURATION_S_MAX:
            raise ValueError(
                f"duration_sec is {_shown(duration_sec)}: give seconds, a number between 0 and {DURATION_S_MAX}"
            )
        if not isinstance(success, bool):
            raise ValueError(f"success is {_shown(success)}: give True or False")  # noqa: TRY004 - as all the others
        with self._lock:
            if ws_id not in self._newest and len(self._newest) >= WORKSTREAMS_MAX:
                raise ValueError(f"{WORKSTREAMS_MAX} workstreams are recorded: go on with a new MetricsAggregator")
            steps = self._newest.setdefault(ws_id, {})
            if step != "fix":
                steps.pop("fix", None)
            steps[step] = success
            self._total_ns += round(duration_sec * _NANO)

    def get_summary(self) -> MetricsSummary:
        """What was recorded so far."""
        with self._lock:
            count, total_ns = len(self._newest), self._total_ns
            successful = sum(all(steps.values()) for steps in self._newest.values())
        return MetricsSummary(
            total_workstreams=count,
            successful=successful,
            failed=count - successful,
            total_duration_sec=total_ns / _NANO,
            avg_duration_sec=total_ns / _NANO / count if count else 0.0,
        )


def _shown(value: object) -> str:
    """A value for an error message: it may be anything."""
    if isinstance(value, str | bytes):
        return f"{value[:40]!a}"
    if isinstance(value, bool | None) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return f"{value:.6g}" if isinstance(value, int | float) and abs(value) < 10**300 else f"a {type(value).__name__}"
