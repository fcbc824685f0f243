"""How deciding grows: processor time of fold and decisions for each entry, in runs of 100 to 10,000 workstreams.

The pure scheduler alone, as its shell drives it: every entry is folded, then asked what is due, until nothing is. What
executors answer is played: every step succeeds, every edit makes a tree of its own. Each size runs in a process of its
own, which also says what it holds in memory at the end.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from services.aim import AimTool, Registry, Route
from services.bundle import WorkstreamBundle
from services.checks import Checks
from services.events import (
    LINE,
    AnyEvent,
    Artifact,
    CheckResult,
    RunAccepted,
    RunRequested,
    Snapshot,
    StepFinished,
    StepScheduled,
    StepStarted,
)
from services.outcome import Cost
from services.plan import build_execution_plan
from services.profiles import ToolProfile
from services.scheduler import fleet as fleets
from services.scheduler.decide import due, outstanding
from services.scheduler.fleet import Fleet
from services.scheduler.routing import Sighting, Sightings
from services.scheduler.state import Fact, RunState, evolve
from services.spec import Options, Repository, RunSpec
from services.wire import Entry, Place

SIZES = (100, 1_000, 10_000)
SLOTS = 16
AGENT = ToolProfile(command="agent", type="ai", args=("{max_cost_usd}",), cost_cap_usd=1.0)
ROUTES = Registry(
    capabilities={"code_generation": Route(primary="one", fallback=("two",), strategy="measured")},
    tools={"one": AimTool(profile="one"), "two": AimTool(profile="two")},
)
EXECUTORS = 8
SPEC = Artifact(role="spec", digest="5" * 64, name="spec", size_bytes=1)


def definition(size: int, scheduling: str, *, priced: bool = False) -> RunSpec:
    """Three levels of dependencies, files of their own, two checks each.

    `priced`: every tool costs money under budgets of the run and of each workstream, and a measured route chooses it.
    """
    bundles = [
        WorkstreamBundle(
            id=f"ws-{at:05}", openspec_change="OS-1", ccpm_issue=1, gate=1, files_scope=(f"src/{at % 97}/m{at}.py",),
            tasks=("Do it",), tool="tool", depends_on=(f"ws-{at - size // 3:05}",) if at >= size // 3 else (),
            **({"capability": "code_generation", "max_cost_usd": 5.0} if priced else {}),
        )
        for at in range(size)
    ]  # fmt: skip
    return RunSpec(
        run="r1",
        repository=Repository(location="repo", base_commit="b" * 40),
        bundles=bundles,
        waves=build_execution_plan(bundles).waves,
        checks=Checks(static_tools=("ruff",), runtime_tool="pytest"),
        profiles=dict.fromkeys(("tool", "one", "two"), AGENT) if priced else {},
        options=Options(max_workers=SLOTS, scheduling=scheduling, budget_nano=10**15 if priced else None),
        **({"registry": ROUTES} if priced else {}),
    )


def play(
    spec: RunSpec, *, start_ns: int = 0, keep: Callable[[Place, Entry], None] = lambda _place, _entry: None
) -> dict[str, float]:
    """A whole run; returns its entries, the mean and the slowest time of one in seconds, and the resident bytes.

    It begins at `start_ns` and takes a millisecond for each entry; `keep` is handed them one by one.
    """
    resident_before = _resident_bytes()
    priced = bool(spec.profiles)
    fleet = Fleet()
    run: RunState | None = None
    sequence, spent_s, slowest_s = 0, 0.0, 0.0

    def write(place: Place, *events: AnyEvent) -> RunState:
        nonlocal run, sequence, spent_s, slowest_s
        sequence += 1
        entry = Entry(id=f"id-{sequence}", run=spec.run, at_ns=0, by="x", events=list(events))
        accepted = any(isinstance(event, RunAccepted) for event in events)
        fact = Fact(sequence, start_ns + sequence * 1_000_000, place, entry, spec if accepted else None)
        keep(place, entry)
        attempt = run.open.get((place.workstream, place.attempt)) if run is not None else None
        seen = _seen(fact.time_ns) if priced else None
        started = time.process_time()
        if priced:
            fleets.evolve(
                fleet, sequence, fact.time_ns, place, entry, attempt.scheduled if attempt is not None else None
            )
        run = evolve(run, fact)
        decisions = due(run, fact.time_ns, seen, fleet)
        took_s = time.process_time() - started
        spent_s += took_s
        slowest_s = max(slowest_s, took_s)
        for decision in decisions:
            pending.extend(decision.events)
        return run

    pending: list[AnyEvent] = []
    state = write(
        Place("request", spec.run),
        RunRequested(
            request_id="q",
            actor="ann",
            spec=SPEC,
            workstreams=len(spec.bundles),
            repository=spec.repository.location,
            base_commit=spec.repository.base_commit,
        ),
    )
    while state.finished is None:
        while pending:
            events, pending[:] = pending[:400], []
            state = write(Place("run", spec.run), *events)
        commands = outstanding(state)
        if not commands:
            break
        # What the line waits for first: beside a model at work, a merge and its gate take no time.
        step = next((command.step for command in commands if command.step.workstream == LINE), commands[0].step)
        place = Place("attempt", spec.run, step.workstream, step.attempt)
        write(place, StepStarted(executor="e1", boot="k1"))
        pending.clear()  # what a claim leads to, the close leads to as well
        state = write(place, _success(step))
    if state.finished is None:
        raise SystemExit(f"the run of {len(spec.bundles)} stands still: {state.status}")
    resident = _resident_bytes()
    return {
        "entries": sequence,
        "mean_s": spent_s / sequence,
        "slowest_s": slowest_s,
        "resident_bytes": resident,
        "grown_bytes": resident - resident_before,
    }


def _success(step: StepScheduled) -> StepFinished:
    if step.step in {"edit", "merge"}:
        name = f"{step.workstream}-{step.attempt}"
        cost = Cost(nano_usd=10**8, basis="reported") if step.cap is not None else None
        return StepFinished(ok=True, changed=True, snapshot=Snapshot(commit=f"c-{name}", tree=f"t-{name}"), cost=cost)
    results = [CheckResult(name=c.name, check=c.check, kind=c.kind, outcome="passed") for c in step.checks]
    return StepFinished(ok=True, checks=results)


def _seen(now_ns: int) -> Sightings:
    """Executors that beat, one of which lacks a tool."""
    executors = {
        f"e{number}": Sighting(
            boot="k1", seen_ns=now_ns, pool="default", serves=True, missing={} if number else {"one": "agent"},
            named={},
        )
        for number in range(EXECUTORS)
    }  # fmt: skip
    return Sightings(executors=executors, since_ns=1, lease_s=1e-9)


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _played(size: int, scheduling: str, *, priced: bool = False) -> dict[str, float]:
    """A run in a process of its own."""
    code = (
        "import json; from benchmarks.decisions import definition, play; "
        f"print(json.dumps(play(definition({size}, {scheduling!r}, priced={priced}))))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, baseline and ratio; the baseline is the smallest run of the same kind."""
    rows = []
    for scheduling in ("barrier", "eager"):
        baseline = None
        for size in SIZES:
            found = _played(size, scheduling)
            mean_us = found["mean_s"] * 1e6
            baseline = baseline or mean_us
            rows.append(
                {
                    "name": f"fold and decide an entry, {scheduling}, {size} workstreams",
                    "value": mean_us,
                    "unit": "µs",
                    "baseline": baseline,
                    "ratio": mean_us / baseline,
                }
            )
        priced_us = _played(SIZES[-1], scheduling, priced=True)["mean_s"] * 1e6
        rows.append(
            {
                "name": f"the same with budgets, a measured route and {EXECUTORS} executors' tools, {SIZES[-1]} workstreams",
                "value": priced_us,
                "unit": "µs",
                "baseline": mean_us,
                "ratio": priced_us / mean_us,
            }
        )
        for key, name, scale, unit in (
            ("slowest_s", "the slowest entry", 1e3, "ms"),
            ("resident_bytes", "resident in all", 1e-6, "MB"),
        ):
            rows.append(
                {
                    "name": f"{name}, {scheduling}, {SIZES[-1]} workstreams",
                    "value": found[key] * scale,
                    "unit": unit,
                    "baseline": None,
                    "ratio": None,
                }
            )
    return rows
