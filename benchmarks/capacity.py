"""What one of each carries, where other benchmarks do not say: appends on one server and on three, and a scheduler full of runs.

Appends are awaited, each on a subject of its own, expecting nothing there, as claims do. The three servers share this machine's
processors and its disk: three machines have three of each, and a network between them. Baseline of a server is the one that syncs
its disk at every write.

The scheduler has 100 live runs of 100 workstreams, and no executor: their first commands wait. Baseline is the same scheduler
before it has any run.
"""

import asyncio
import contextlib
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.trio import NATS_SERVER, bare, repository
from services.bus import Bus, BusConfig

SECONDS = 4.0
AT_ONCE = 64
ENTRY_BYTES = 1024
RUNS = 100
WORKSTREAMS = 100
PROFILES = {"true": {"command": "true", "args": []}}


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    synced, synced_ms = _appends(1, synced=True)
    rows = [_row("one server that syncs, awaited appends, 64 at a time", synced, "1/s", None)]
    rows.append(_row("the same, one at a time, p50", synced_ms, "ms", None))
    loose, _ = _appends(1, synced=False)
    rows.append(_row("one server that does not, 64 at a time", loose, "1/s", synced))
    three, three_ms = _appends(3, synced=True)
    rows.append(_row("three servers that sync, three copies, 64 at a time", three, "1/s", synced))
    rows.append(_row("the same, one at a time, p50", three_ms, "ms", synced_ms))
    return rows + _full_scheduler()


def _full_scheduler() -> list[dict[str, Any]]:
    with bare() as made:
        made.start_bus()
        made.start_service("scheduler", "run_timeout_s = 86400.0\nqueue_timeout_s = 86400.0")
        made.await_ready("scheduler")
        made.connect_scheduler()
        empty_mb = made.resident_mb("scheduler")
        folder = repository(made.root / "repository", 1)
        bundles = [_bundle(number) for number in range(WORKSTREAMS)]
        started = time.perf_counter()
        for _ in range(RUNS):
            made.submit(folder, bundles, PROFILES, dry_run=True, max_workers=4)
        took_s = time.perf_counter() - started
        time.sleep(5)
        full_mb, used_s = made.resident_mb("scheduler"), _processor_s(made.processes["scheduler"].pid)
        time.sleep(10)
        idle = (_processor_s(made.processes["scheduler"].pid) - used_s) / 10
    return [
        _row(f"scheduler with {RUNS} live runs of {WORKSTREAMS} workstreams, resident", full_mb, "MB", empty_mb),
        _row("processor that it takes while they wait", idle * 100, "%", None),
        _row(f"a run of {WORKSTREAMS} workstreams submitted, answered", took_s / RUNS * 1000, "ms", None),
    ]


def _bundle(number: int) -> dict[str, Any]:
    return {
        "id": f"ws-{number}", "openspec_change": "bench", "ccpm_issue": 1, "gate": 1, "files_scope": [f"ws-{number}"],
        "tasks": ["measure"], "tool": "true", "metadata": {"swell": {"gates": "none"}},
    }  # fmt: skip


def _processor_s(pid: int) -> float:
    """User and system time of a process so far; a tick is 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _appends(servers: int, *, synced: bool) -> tuple[float, float]:
    """Appends a second with AT_ONCE under way, and how long one takes alone, milliseconds."""
    with _running(servers, synced=synced) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_appended(BusConfig(url=url, replicas=servers, synced=True, connect_timeout_s=30)))


async def _appended(config: BusConfig) -> tuple[float, float]:
    bus = await Bus.connect(config, name="bench")
    await bus.ensure_streams()
    data = b"x" * ENTRY_BYTES
    count = 0

    async def one() -> None:
        nonlocal count
        await bus.append(f"swell.event.{uuid.uuid4().hex}.run", data, expect=0)
        count += 1

    async def without_end(until: float) -> None:
        while time.perf_counter() < until:
            await one()

    await asyncio.gather(*(without_end(time.perf_counter() + 1) for _ in range(AT_ONCE)))
    count, started = 0, time.perf_counter()
    await asyncio.gather(*(without_end(started + SECONDS) for _ in range(AT_ONCE)))
    rate = count / (time.perf_counter() - started)
    alone = []
    for _ in range(200):
        began = time.perf_counter()
        await one()
        alone.append(time.perf_counter() - began)
    await bus.close()
    return rate, sorted(alone)[100] * 1000


@contextlib.contextmanager
def _running(count: int, *, synced: bool) -> Iterator[str]:
    """That many servers of one cluster; their URLs, with commas."""
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        clients, routes = _free_ports(count), _free_ports(count)
        processes = []
        try:
            for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
                file = Path(folder) / f"n{number}.conf"
                sync = ", sync_interval: always" if synced else ""
                text = f'server_name: n{number}\nlisten: "127.0.0.1:{client}"\n'
                text += f'jetstream {{ store_dir: "{folder}/n{number}"{sync} }}\n'
                if count > 1:
                    others = ", ".join(f"nats://127.0.0.1:{other}" for other in routes if other != route)
                    text += f'cluster {{ name: bench, listen: "127.0.0.1:{route}", routes: [{others}] }}\n'
                file.write_text(text)
                processes.append(subprocess.Popen([NATS_SERVER, "-c", file], stderr=subprocess.DEVNULL))
            yield ",".join(f"nats://127.0.0.1:{client}" for client in clients)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _row(name: str, value: float, unit: str, baseline: float | None) -> dict[str, Any]:
    return {
        "name": name, "value": value, "unit": unit, "baseline": baseline,
        "ratio": None if baseline is None else value / baseline,
    }  # fmt: skip
