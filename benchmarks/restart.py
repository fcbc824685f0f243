"""How long a scheduler takes to start: 10,000 runs have ended, 100 go on, and the log is as long as that made it.

From the log alone, and from the fold snapshot that the first start leaves plus what came after it: fewer entries than
the next snapshot is due for. Time runs from the first connection until it leads and has folded everything. The log is a
real one, in a nats-server, with a definition of its own for each run. Each start is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import uvloop

from benchmarks.decisions import SPEC, play
from benchmarks.trio import bare, until
from services.artifacts import Artifacts
from services.bus import LEASES, Bus, BusConfig
from services.events import Artifact
from services.scheduler.config import SchedulerConfig
from services.scheduler.shell import Shell
from services.scheduler.submission import Header, Submissions
from services.spec import RunSpec, encode_spec
from services.wire import Entry, Place, attempt_subject, encode_entry, request_subject, run_subject

ENDED = 10_000
ENDED_LATER = 60
LIVE = 100
LIVE_WORKSTREAMS = 20
UPLOADS_AT_ONCE = 32
CHECKS = b'static_tools = ["ruff"]\nruntime_tool = "pytest"\n'
START_TIMEOUT_S = 600


class Template(NamedTuple):
    """The definition of a run and the entries it wrote; others differ in their names alone."""

    spec: RunSpec
    entries: list[tuple[Place, bytes]]


def template(workstreams: int) -> Template:
    """A run to its end, as the real decisions make it of the shipped policies."""
    bundles = [
        {
            "id": f"ws-{number:02}",
            "openspec_change": "OS-1",
            "ccpm_issue": 1,
            "gate": 1,
            "files_scope": [f"src/m{number}.py"],
            "tasks": ["Do it"],
            "tool": "aider",
        }
        for number in range(workstreams)
    ]
    header = Header(request_id=str(uuid.uuid4()), location="/srv/repo", base_commit="b" * 40, checks_toml=CHECKS)
    planned = Submissions(SchedulerConfig()).plan(header, [("bundles.json", json.dumps(bundles).encode())])
    if planned.spec is None:
        raise SystemExit(f"the plan has errors: {planned.report.errors}")
    entries: list[tuple[Place, bytes]] = []

    def keep(place: Place, entry: Entry) -> None:
        entries.append((place, encode_entry(entry)))

    play(planned.spec, start_ns=time.time_ns(), keep=keep)
    return Template(planned.spec, entries)


def messages(of: Template, run: str, spec: Artifact, entries: int) -> Iterator[tuple[str, bytes]]:
    """Subjects and bytes of the first entries of such a run."""
    names = [(of.spec.run, run), (SPEC.digest, spec.digest), (f'"name":"{SPEC.name}"', f'"name":"{spec.name}"')]
    for place, entry in of.entries[:entries]:
        data = entry
        for old, new in names:
            data = data.replace(old.encode(), new.encode())
        yield _subject(msgspec.structs.replace(place, run=run)), data


def _subject(place: Place) -> str:
    match place.kind:
        case "run":
            return run_subject(place.run)
        case "request":
            return request_subject(place.run)
        case _:
            return attempt_subject(place.run, place.workstream, place.attempt)


async def write(bus: Bus, of: Template, runs: Sequence[str], entries: int) -> None:
    """Store so many runs, each with its definition."""
    artifacts = Artifacts(bus.objects)
    uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def upload(run: str) -> tuple[str, Artifact]:
        async with uploads:
            return run, await artifacts.put("spec", encode_spec(msgspec.structs.replace(of.spec, run=run)))

    last = (await bus.identity()).last
    for run, spec in await asyncio.gather(*map(upload, runs)):
        *others, (subject, end) = messages(of, run, spec, entries)
        for other in others:
            await bus.say(*other)
        await bus.add(subject, end)  # answered, so all of the run is stored
        last += entries
    if (await bus.identity()).last != last:
        raise SystemExit("the log is not what was written")


async def _measured(url: str) -> dict[str, dict[str, float]]:
    bus = await Bus.connect(BusConfig(url=url), name="bench")
    await bus.ensure_streams()
    ended, live = template(1), template(LIVE_WORKSTREAMS)
    runs = [f"run-{number:012x}" for number in range(ENDED + LIVE)]
    await write(bus, live, runs[ENDED:], len(live.entries) // 2)
    found: dict[str, dict[str, float]] = {}
    for name, some in (("log", runs[: ENDED - ENDED_LATER]), ("snapshot", runs[ENDED - ENDED_LATER : ENDED])):
        await write(bus, ended, some, len(ended.entries))
        await _leaderless(bus)
        code = f"from benchmarks.restart import start; start({url!r}, snapshot={name == 'log'})"
        child = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=START_TIMEOUT_S
        )
        found[name] = json.loads(child.stdout.splitlines()[-1])
    await bus.close()
    return found


async def _leaderless(bus: Bus) -> None:
    """Wait until the lease of the scheduler before has run out."""
    while True:
        if await bus.get_key(LEASES, "scheduler") is None:
            return
        await asyncio.sleep(0.05)


def start(url: str, *, snapshot: bool) -> None:
    """Start a scheduler and print what it took; leave a fold snapshot if one is wanted. Runs in a process of its own."""
    print(json.dumps(uvloop.run(_started(url, snapshot=snapshot))))


async def _started(url: str, *, snapshot: bool) -> dict[str, float]:
    began = time.perf_counter()
    bus = await Bus.connect(BusConfig(url=url), name="bench")
    await bus.ensure_streams()
    config = SchedulerConfig()
    shell = Shell(
        bus,
        Artifacts(bus.objects),
        name="bench",
        lease_s=config.executor_lease_s,
        reconcile_s=config.reconcile_s,
        snapshot_entries=config.fold_snapshot_entries,
    )
    running = asyncio.create_task(shell.run())
    await until(lambda: (shell.leader and shell.caught_up) or running.done() or None, START_TIMEOUT_S, 0.002)
    took_s = time.perf_counter() - began
    found = {
        "seconds": took_s,
        "entries": shell.position,
        "ended": len(shell.over),
        "live": len(shell.runs),
        "resident_bytes": _resident_bytes(),
    }
    await until(lambda: not snapshot or shell.snapshot_ns or running.done() or None, START_TIMEOUT_S)
    await shell.drain()
    if not running.cancel():
        running.result()
    await bus.close()
    return found


def _resident_bytes() -> int:
    """The most that this process has ever had."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, baseline and ratio; the baseline of the snapshot is the log alone."""
    with bare() as cluster:
        cluster.start_bus(durable=False)
        found = asyncio.run(_measured(cluster.url))
    rows = []
    for key, unit, scale in (("seconds", "s", 1.0), ("resident_bytes", "MB", 1e-6)):
        for name, one in found.items():
            if (one["ended"], one["live"]) not in {(ENDED, LIVE), (ENDED - ENDED_LATER, LIVE)}:
                raise SystemExit(f"the scheduler does not know the runs that there are: {one}")
            baseline = None if name == "log" else found["log"][key] * scale
            what = "started" if key == "seconds" else "resident"
            rows.append(
                {
                    "name": f"{what} from {name}, {one['entries']:,.0f} entries, {ENDED:,} ended, {LIVE} live",
                    "value": one[key] * scale,
                    "unit": unit,
                    "baseline": baseline,
                    "ratio": one[key] * scale / baseline if baseline else None,
                }
            )
    return rows
