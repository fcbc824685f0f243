"""Steps through the whole trio: the protocol alone, with real processes, and with a repository to work on.

Baselines, on the same server and machine in the same run: appends that are waited for (each is one fsync), and
processes started by the supervisor with nothing around them.
"""

import asyncio
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.trio import Trio, repository, trio
from services.bus import Bus, BusConfig
from services.process import Launch, Supervisor, child_environment

PROFILES = {
    "true": {"command": "true", "args": []},
    "check": {"command": "true", "args": ["{files}"]},
    "write": {"command": "sh", "args": ["-c", "echo {workstream} > new-{workstream}"]},
}


def bundle(number: int, tool: str, *, real: bool) -> dict[str, Any]:
    """A workstream whose three steps all have something of their own to do."""
    name = f"ws-{number}"
    swell: dict[str, Any] = {"allow_no_change": True, "static_tools": ["check"]} if real else {"gates": "none"}
    return {
        "id": name,
        "openspec_change": "bench",
        "ccpm_issue": 1,
        "gate": 1,
        "files_scope": [f"new-{name}"],
        "tasks": ["measure"],
        "tool": tool,
        "acceptance_tests": [f"$ true {number}"] if real else [],
        "metadata": {"swell": swell},
    }


def rate(events: list[dict[str, Any]]) -> float:
    """Steps per second, from acceptance to the last close."""
    accepted = next(event["time_ns"] for event in events if event["kind"] == "run_accepted")
    closes = [event["time_ns"] for event in events if event["kind"] == "step_finished"]
    return len(closes) / ((closes[-1] - accepted) / 1e9)


def engine_ms(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """For every step: scheduled to closed, less the tool's own time, in milliseconds."""
    scheduled = {(e["workstream"], e["attempt"]): e for e in events if e["kind"] == "step_scheduled"}
    found: dict[str, list[float]] = {}
    for event in events:
        if event["kind"] == "step_finished":
            start = scheduled[event["workstream"], event["attempt"]]
            spent = (event["time_ns"] - start["time_ns"]) / 1e6 - event.get("tool_wall_s", 0.0) * 1e3
            kind = f"{start['step']}{'' if event.get('changed') or start['step'] != 'edit' else ' unchanged'}"
            found.setdefault(kind, []).append(spent)
    return found


async def appends(url: str) -> tuple[float, float]:
    """Appends per second that are waited for: one after another, and 64 at a time on subjects of their own."""
    bus = await Bus.connect(BusConfig(url=url), name="bench")
    run = f"bench-{uuid.uuid4().hex[:8]}"
    data = b"x" * 400
    started = time.perf_counter()
    last = 0
    for _ in range(500):
        last = await bus.append(f"swell.event.{run}.run", data + str(last).encode(), expect=last)
    alone = 500 / (time.perf_counter() - started)
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with gate:
            await bus.append(f"swell.event.{run}.w{number}.1", data, expect=0)

    started = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(2000)))
    together = 2000 / (time.perf_counter() - started)
    await bus.close()
    return alone, together


async def spawns() -> float:
    """`true` per second through the supervisor, four at a time."""
    supervisor = Supervisor()
    await supervisor.start()
    with tempfile.TemporaryDirectory() as folder:

        async def several(lane: int) -> None:
            for _ in range(150):
                launch = Launch(
                    argv=("true",),
                    cwd=Path(folder),
                    env=child_environment(),
                    stdout=Path(folder) / f"{lane}.out",
                    stderr=Path(folder) / f"{lane}.err",
                    timeout_s=10,
                    output_bytes=1000,
                    marker="bench",
                )
                await (await supervisor.spawn(launch)).wait()

        started = time.perf_counter()
        await asyncio.gather(*(several(lane) for lane in range(4)))
        elapsed = time.perf_counter() - started
    await supervisor.close()
    return 600 / elapsed


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    rows: list[dict[str, Any]] = []
    with trio(slots=64) as wide:
        tiny = repository(wide.root / "tiny", 1)
        alone, together = asyncio.run(appends(wide.url))
        rows.append(_row("appends waited for, one after another", alone, "1/s", None))
        rows.append(_row("appends waited for, 64 at a time", together, "1/s", None))
        dry = [bundle(number, "true", real=False) for number in range(300)]
        rates = [rate(wide.events(wide.submit(tiny, dry, PROFILES, dry_run=True, max_workers=64))) for _ in range(3)]
        rows.append(_row("no-op steps, 300 x 3, 64 in flight", statistics.median(rates), "steps/s", together))
        rows.append(_row("3 steps of one workstream, p50", _single_ms(wide, tiny), "ms", 6e3 / alone))
        thousand = [bundle(number, "true", real=False) for number in range(1000)]
        wide.events(wide.submit(tiny, thousand, PROFILES, dry_run=True, max_workers=64))
        for name, limit in (("scheduler", 120), ("executor", 120), ("ledger", 250)):
            rows.append(_row(f"{name} resident after 1,000 workstreams", wide.resident_mb(name), "MB", limit))
        most = [bundle(number, "true", real=False) for number in range(10_000)]
        wide.await_end(wide.submit(tiny, most, PROFILES, dry_run=True, max_workers=64))
        peak = wide.resident_mb("scheduler", peak=True)
        rows.append(_row("scheduler resident at most, a run of 10,000 workstreams", peak, "MB", 300))
    with trio(slots=4) as narrow:
        rows += _real(narrow)
    return rows


def _single_ms(wide: Trio, tiny: Path) -> float:
    found = []
    for _ in range(15):
        events = wide.events(wide.submit(tiny, [bundle(0, "true", real=False)], PROFILES, dry_run=True))
        scheduled = next(event["time_ns"] for event in events if event["kind"] == "step_scheduled")
        found.append((max(e["time_ns"] for e in events if e["kind"] == "step_finished") - scheduled) / 1e6)
    return statistics.median(found)


def _real(narrow: Trio) -> list[dict[str, Any]]:
    tiny = repository(narrow.root / "tiny", 1)
    large = repository(narrow.root / "large", 500)
    spawned = asyncio.run(spawns())
    quick = [bundle(number, "true", real=True) for number in range(150)]
    rates = [rate(narrow.events(narrow.submit(tiny, quick, PROFILES, max_workers=4))) for _ in range(3)]
    rows = [
        _row("`true` by the supervisor alone, 4 at a time", spawned, "1/s", None),
        _row("steps with a real process, 4 slots", statistics.median(rates), "steps/s", spawned),
    ]
    idle = engine_ms(narrow.events(narrow.submit(large, quick[:30], PROFILES, max_workers=1)))
    writing = [bundle(number, "write", real=True) for number in range(20)]
    busy = engine_ms(narrow.events(narrow.submit(large, writing, PROFILES, max_workers=1)))
    rows += [
        _row(f"engine time, 500 files, {kind}, p50", statistics.median(idle[kind]), "ms", None)
        for kind in ("edit unchanged", "static", "runtime")
    ]
    base = rows[-1]["value"]
    for kind in ("edit", "static", "merge", "gate"):
        value = statistics.median(busy[kind])
        rows.append(_row(f"engine time, 500 files, {kind} of a changed tree, p50", value, "ms", base))
    return rows


def _row(name: str, value: float, unit: str, baseline: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": value / baseline if baseline else None,
    }
