"""What a kill -9 costs: from the signal until the log has the next dispatch, on real processes with real tools.

Times are the signal's, by this machine's clock, and the stream's own time stamps, which a nats-server on the same machine
takes from the same clock. Nobody of the killed is asked to help.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from benchmarks.steps import bundle
from benchmarks.trio import Trio, bare, repository, until
from services.beats import Beat
from services.bus import EXECUTORS, LEASES, Bus, BusConfig
from services.events import AnyEvent, StepScheduled, StepStarted
from services.scheduler.config import SchedulerConfig
from services.scheduler.v1 import scheduler_pb2_grpc
from services.wire import decode_entry

SCHEDULERS = ("scheduler-1", "scheduler-2")
KILLS = 10
LOSSES = 6
RESTARTS = 6
SLOTS = 8
PATIENCE_S = 60.0
LEADER_LEASE_S = BusConfig().lease_ttl_s
EXECUTOR_LEASE_S = SchedulerConfig().executor_lease_s
PROFILES = {"nap": {"command": "sleep", "args": ["0.5"]}, "sleep": {"command": "sleep", "args": ["600"]}}


class Told(msgspec.Struct, frozen=True):
    """An event, when the stream took it, and who wrote it."""

    time_ns: int
    by: str
    event: AnyEvent
    subject: str


class Log:
    """Everything that is in the log, and when each start of an executor was heard of first, as both come in."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.told: list[Told] = []
        self.born: dict[tuple[str, str], int] = {}

    async def read(self) -> None:
        """Read on until cancelled."""
        async for batch in self._bus.follow(0):
            for recorded in batch:
                entry = decode_entry(recorded.data)
                self.told += [Told(recorded.time_ns, entry.by, event, recorded.subject) for event in entry.events]

    async def hear(self) -> None:
        """Hear beats until cancelled."""
        async for batch in self._bus.follow_keys(EXECUTORS):
            for recorded in batch:
                beat = msgspec.json.decode(recorded.data, type=Beat)
                self.born.setdefault((beat.executor, beat.boot), recorded.time_ns)

    async def leader(self) -> str:
        """Who leads, once somebody does."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                lease = await self._bus.get_key(LEASES, "scheduler")
                if lease is not None:
                    return lease.data.decode()
                await asyncio.sleep(0.01)

    async def dispatch(self, after_ns: int, *, by: str = "", workstream: str = "") -> int:
        """When the first attempt after `after_ns` was scheduled, by that scheduler and of that workstream if they are named."""

        def found() -> int | None:
            first = None
            for told in reversed(self.told):
                if told.time_ns <= after_ns:
                    break
                if isinstance(told.event, StepScheduled) and by in {"", told.by}:
                    first = told.time_ns if workstream in {"", told.event.workstream} else first
            return first

        return await until(found, PATIENCE_S)

    def claims(self) -> dict[str, Told]:
        """The newest claim of each executor."""
        return {told.event.executor: told for told in self.told if isinstance(told.event, StepStarted)}


@contextlib.asynccontextmanager
async def watched(url: str) -> AsyncIterator[Log]:
    """The log of a cluster, read along."""
    bus = await Bus.connect(BusConfig(url=url), name="bench")
    log = Log(bus)
    readers = [asyncio.create_task(log.read()), asyncio.create_task(log.hear())]
    try:
        yield log
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await bus.close()


def start(cluster: Trio, executors: int, *, slots: int) -> None:
    """A nats-server, two schedulers, and so many executors that run so many attempts each."""
    cluster.start_bus()
    for name in SCHEDULERS:
        start_scheduler(cluster, name)
    names = [f"executor-{number + 1}" for number in range(executors)]
    for name in names:
        start_executor(cluster, name, slots)
    for name in (*SCHEDULERS, *names):
        cluster.await_ready(name)
    cluster.scheduler = scheduler_pb2_grpc.SchedulerServiceStub(cluster.channel(SCHEDULERS[0]))  # type: ignore[no-untyped-call]  # generated code


def start_scheduler(cluster: Trio, name: str) -> None:
    """However often its executor dies, an attempt is made again."""
    cluster.start_service(name, f'id = "{name}"\nlosses_max = 10000')


def start_executor(cluster: Trio, name: str, slots: int) -> None:
    """Its tools end with it."""
    cluster.start_service(name, f'id = "{name}"\nslots = {slots}\nstop_grace_s = 0')


def submit(cluster: Trio, tool: str, workstreams: int, at_once: int) -> None:
    """A run of workstreams that each do nothing but wait for a tool."""
    bundles = [bundle(number, tool, real=False) for number in range(workstreams)]
    cluster.submit(repository(cluster.root / "repository", 1), bundles, PROFILES, max_workers=at_once)


async def some_time() -> None:
    """A moment that differs: a kill falls anywhere between two renewals of a lease, and between two beats."""
    await asyncio.sleep(random.uniform(0.5, 1.5))


async def schedulers_die() -> list[float]:
    """Seconds from the end of the leading scheduler to the first dispatch by the other, while eight tools run."""
    found = []
    with bare() as cluster:
        start(cluster, 1, slots=SLOTS)
        submit(cluster, "nap", 200 * KILLS, SLOTS)
        async with watched(cluster.url) as log:
            for _ in range(KILLS):
                await log.dispatch(time.time_ns())
                await some_time()
                killed = await log.leader()
                killed_ns = cluster.kill(killed)
                other = next(f"scheduler:{name}" for name in SCHEDULERS if name != killed)
                at_ns = await log.dispatch(killed_ns, by=other)
                found.append((at_ns - killed_ns) / 1e9)
                start_scheduler(cluster, killed)
                cluster.await_ready(killed)
    return found


async def executors_die() -> list[float]:
    """Seconds from the end of an executor, which does not come back, to its attempt's successor; another is there."""

    async def successor(claim: Told, killed_ns: int) -> float:
        workstream = claim.subject.split(".")[3]
        at_ns = await log.dispatch(killed_ns, workstream=workstream)
        return (at_ns - killed_ns) / 1e9

    with bare() as cluster:
        start(cluster, LOSSES, slots=1)
        submit(cluster, "sleep", LOSSES, LOSSES)
        async with watched(cluster.url) as log:
            claims = await until(lambda: log.claims() if len(log.claims()) == LOSSES else None, PATIENCE_S)
            start_executor(cluster, "executor-spare", LOSSES)
            cluster.await_ready("executor-spare")
            waiting = []
            for executor, claim in claims.items():
                await asyncio.sleep(random.uniform(0.3, 0.9))
                waiting.append(asyncio.create_task(successor(claim, cluster.kill(executor))))
            return await asyncio.gather(*waiting)


async def executors_restart() -> tuple[list[float], list[float]]:
    """Seconds to the successor of an attempt whose executor is killed and started again at once: from its start, its beat."""
    started, beaten = [], []
    name = "executor-1"
    with bare() as cluster:
        start(cluster, 1, slots=1)
        submit(cluster, "sleep", 1, 1)
        async with watched(cluster.url) as log:
            killed_ns = 0
            for _ in range(RESTARTS):

                def anew(killed_ns: int = killed_ns) -> Told | None:
                    claim = log.claims().get(name)
                    return claim if claim is not None and claim.time_ns > killed_ns else None

                await until(anew, PATIENCE_S)
                await some_time()
                killed_ns = cluster.kill(name)
                started_ns = time.time_ns()
                start_executor(cluster, name, 1)
                at_ns = await log.dispatch(killed_ns)
                started.append((at_ns - started_ns) / 1e9)
                beaten.append((at_ns - max(log.born.values())) / 1e9)
    return started, beaten


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, baseline and ratio; the baseline is the lease that is waited for, or need not be."""
    takeovers = asyncio.run(schedulers_die())
    losses = asyncio.run(executors_die())
    started, beaten = asyncio.run(executors_restart())
    return [
        row
        for name, samples, lease_s in (
            ("leading scheduler killed → next dispatch", takeovers, LEADER_LEASE_S),
            ("executor killed for good → successor dispatched", losses, EXECUTOR_LEASE_S),
            ("executor restarted: its start → successor dispatched", started, EXECUTOR_LEASE_S),
            ("executor restarted: its first beat → the same", beaten, EXECUTOR_LEASE_S),
        )
        for row in (
            _row(f"{name}, median of {len(samples)}", statistics.median(samples), lease_s),
            _row(f"{name}, longest", max(samples), lease_s),
        )
    ]


def _row(name: str, value: float, baseline: float) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "s", "baseline": baseline, "ratio": value / baseline}
