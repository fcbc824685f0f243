"""What `swell plan` tells beyond waves: how long it takes with so many workers and executors, and what will conflict.

An earlier run is read from the ledger: how long its attempts worked, which files they really changed, which merges met.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from swell.text import columns, duration, one_line

if TYPE_CHECKING:
    from services.bundle import WorkstreamBundle
    from services.forecast import Forecast, History
    from services.plan import PlanReport
    from swell.client import Client

PAIRS_SHOWN: Final = 20
NAMES_SHOWN: Final = 10
SLOTS: Final = 2
"""Attempts an executor runs at a time, where nothing else is said."""


def history_of(client: Client, run: str) -> History:
    """What a run tells of its workstreams. Of an attempt that changed many files, the ledger names the first 200."""
    from services.forecast import History  # noqa: PLC0415 - help must not wait for this

    seconds: dict[str, float] = defaultdict(float)
    touched: dict[str, set[str]] = defaultdict(set)
    for attempt in client.list_attempts(run):
        if attempt.started_ns and attempt.closed_ns >= attempt.started_ns:
            seconds[attempt.workstream] += (attempt.closed_ns - attempt.started_ns) / 1e9
        if attempt.step in {"edit", "fix"}:
            touched[attempt.workstream].update(attempt.files)
    conflicted: dict[tuple[str, str], set[str]] = defaultdict(set)
    for event in client.list_events(run, kinds=["merge_refused"]):
        mine = str(event.payload.get("workstream", ""))
        for other in event.payload.get("others", []):
            conflicted[min(mine, other), max(mine, other)].update(event.payload.get("files", []))
    return History(
        run=run,
        seconds=dict(seconds),
        touched={id_: tuple(sorted(files)) for id_, files in touched.items()},
        conflicted={pair: tuple(sorted(files)) for pair, files in conflicted.items()},
    )


def outlook_of(
    bundles: Sequence[WorkstreamBundle],
    report: PlanReport,
    *,
    workers: Sequence[int],
    executors: Sequence[int],
    slots: int,
    history: History | None,
) -> Forecast | None:
    """The forecast of a plan; None when its dependencies leave none."""
    from services.forecast import forecast  # noqa: PLC0415 - as above

    if report.plan is None:
        return None
    return forecast(
        bundles, report.plan, report.overlaps, workers=workers, executors=executors, slots=slots, history=history
    )


def with_outlook(report: PlanReport, outlook: Forecast | None) -> str:
    """The report as JSON, with the forecast as its key `forecast`."""
    return msgspec.json.encode({**msgspec.structs.asdict(report), "forecast": outlook}).decode()


def outlook_lines(outlook: Forecast) -> list[str]:
    """Tables of estimates and of conflicts."""

    def told(value: float | None) -> str:
        if value is None:
            return "-"
        return duration(value) if outlook.unit == "s" else f"{value:g} steps"

    rows = [["workers", "executors", "at a time", "in waves", "eager"]]
    rows += [
        [
            str(one.workers),
            "any" if one.executors is None else str(one.executors),
            str(one.places),
            told(one.waves),
            told(one.eager),
        ]
        for one in outlook.estimates
    ]
    path = " -> ".join(outlook.critical_path[:NAMES_SHOWN]) + (
        " -> …" if len(outlook.critical_path) > NAMES_SHOWN else ""
    )
    basis = f"as in run {outlook.like}" if outlook.like else "one step for each workstream"
    lines = ["", f"what if ({basis}; {told(outlook.work)} of work, merges and gates not counted):"]
    lines += [f"  {line}" for line in columns(rows)]
    lines.append(f"  no fleet is faster than {told(outlook.critical_path_length)}: {one_line(path)}")
    if outlook.conflicts:
        lines += ["", f"changed the same files in run {outlook.like}:"]
        rows = [["workstream", "other", "now", "files"]]
        rows += [
            [
                pair.workstream,
                pair.other,
                ("side by side" if pair.together else "one after another")
                + (", conflicted" if pair.conflicted else ""),
                ", ".join(pair.files),
            ]
            for pair in outlook.conflicts[:PAIRS_SHOWN]
        ]
        lines += [f"  {line}" for line in columns(rows)]
        if (more := len(outlook.conflicts) - PAIRS_SHOWN) > 0:
            lines.append(f"  and {more} more pairs, see --json")
    return lines
