"""Schedulers and executors over the bus in memory: everything is real but the bus and the tools."""

import asyncio
import contextlib
import uuid

import msgspec
from memory_bus import MemoryBus, MemoryServer
from metrics_rig import Scrape

from services.artifacts import Artifacts
from services.beats import Beat, beat_key
from services.bundle import WorkstreamBundle
from services.bus import EXECUTORS, BusConfig
from services.checks import Checks
from services.events import (
    RunRequested,
    Snapshot,
    StepFinished,
)
from services.executor.journal import Journal
from services.executor.metrics import ExecutorMetrics
from services.executor.pulse import Pulse
from services.executor.worker import Executor
from services.metrics import Exposition
from services.scheduler.metrics import SchedulerMetrics
from services.scheduler.shell import Shell
from services.spec import Options, Repository, RunSpec, encode_spec
from services.wire import (
    Entry,
    decode_entry,
    encode_entry,
    parse_subject,
    request_subject,
)

BASE = "b" * 40
WAIT_S = 10


class SpaciousDisk:
    """Stands for the housekeeping of an executor with room."""

    out_of_room = False
    freed_bytes = 0
    free_bytes = 10**9


class PlayedSteps:
    """Steps that end at once; the first static check of `red` workstreams fails."""

    def __init__(self, red=()):
        self.red = set(red)

    async def run(self, command):
        step = command.step
        name = f"{step.workstream}-{step.attempt}"
        await asyncio.sleep(0)
        if step.step in {"edit", "fix", "merge"}:
            tree = step.theirs.tree if step.step == "merge" and step.input.commit == step.base.commit else f"t-{name}"
            made = Snapshot(commit=f"c-{name}", tree=tree)
            return StepFinished(ok=True, changed=True, snapshot=made, wall_s=2.0, tool_wall_s=1.5)
        if step.step == "static" and step.workstream in self.red:
            self.red.discard(step.workstream)
            return StepFinished(ok=False, error_class="check_failed", signature="s", wall_s=0.2)
        return StepFinished(ok=True, wall_s=0.2)


class Told:
    """A service with its exposition, over HTTP in its own event loop."""

    def __init__(self, exposition, part):
        self.exposition = exposition
        self.part = part

    async def scrape(self):
        self.exposition._asked.loop = asyncio.get_running_loop()
        self.exposition._asked._newest = msgspec.structs.replace(self.exposition._asked._newest, at=-1.0)
        return Scrape(await asyncio.to_thread(self.exposition.text))


class Cluster:
    """Schedulers and executors over one server in memory."""

    def __init__(self, folder):
        self.folder = folder
        self.server = MemoryServer(BusConfig(lease_ttl_s=0.2, append_timeout_s=0.5))
        self.bus = MemoryBus(self.server)
        self.closing = contextlib.AsyncExitStack()

    def start(self, work):
        task = asyncio.create_task(work)

        async def end():
            task.cancel()
            await asyncio.wait({task})

        self.closing.push_async_callback(end)

    def scheduler(self, name="s1", faults=None, **settings):
        bus = MemoryBus(self.server, faults)
        exposition = Exposition("scheduler")
        metrics = SchedulerMetrics(exposition)
        shell = Shell(
            bus, Artifacts(bus.objects), name=name, lease_s=10.0, reconcile_s=0.02, metrics=metrics, **settings
        )
        metrics.read(shell, bus)
        self.start(shell.run())
        return Told(exposition, shell)

    def executor(self, name="e1", steps=None):
        bus = MemoryBus(self.server)
        loop = asyncio.get_running_loop()

        class Line:
            async def put_key(self, bucket, key, value):
                writing = asyncio.run_coroutine_threadsafe(bus.put_key(bucket, key, value), loop)
                await asyncio.wrap_future(writing)

            async def close(self):
                pass

        async def connect():
            return Line()

        pulse = Pulse(connect, executor=name, boot=uuid.uuid4().hex, pool="default", slots=4)
        exposition = Exposition("executor")
        metrics = ExecutorMetrics(exposition)
        pulse.start()
        self.closing.push_async_callback(pulse.close, terminated=False)
        executor = Executor(bus, steps or PlayedSteps(), pulse, Journal(self.folder / name), metrics)
        metrics.read(pulse, executor, SpaciousDisk())
        self.start(executor.run())
        return Told(exposition, executor)

    async def submit(self, run, *workstreams):
        definition = RunSpec(
            run=run,
            repository=Repository(location="repo", base_commit=BASE),
            bundles=[
                WorkstreamBundle(
                    id=name, depends_on=(), openspec_change="OS-1", ccpm_issue=1, gate=1, files_scope=(f"{name}.py",),
                    tasks=("do it",), tool="editor",
                )
                for name in workstreams
            ],
            waves=[list(workstreams)],
            checks=Checks(static_tools=("ruff",)),
            profiles={},
            breaker={},
            recovery={"retries": 0, "reductions": 0},
            options=Options(max_workers=4, review="fail"),
        )  # fmt: skip
        spec = await Artifacts(self.bus.objects).put("spec", encode_spec(definition))
        event = RunRequested(
            request_id=f"q-{run}",
            actor="ann",
            spec=spec,
            workstreams=len(workstreams),
            repository="repo",
            base_commit=BASE,
        )
        await self.add(request_subject(run), run, event)

    async def add(self, subject, run, event):
        entry = Entry(id=uuid.uuid4().hex, run=run, at_ns=0, by="client", events=[event])
        await self.bus.add(subject, encode_entry(entry))

    async def beat(self, executor, state, pool="default", slots=2):
        beat = Beat(executor=executor, boot="b1", pool=pool, slots=slots, state=state)
        await self.bus.put_key(EXECUTORS, beat_key(pool, executor), msgspec.json.encode(beat))

    def events(self):
        return [
            (parse_subject(recorded.subject), event)
            for recorded in self.server.events.messages.values()
            for event in decode_entry(recorded.data).events
        ]

    def of(self, *kinds):
        return [event for _, event in self.events() if isinstance(event, kinds)]

    async def folded(self, *schedulers):
        """Until everything in the log is folded by each, and nothing more comes."""
        await until(lambda: all(one.part.position == max(self.server.events.messages, default=0) for one in schedulers))


async def until(look):
    """Wait until something holds, or a coroutine says something."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = look()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
