"""How soon steps reach executors: 50 executors of 4 slots against one scheduler, 200 steps a second for half a minute.

The scheduler and the server are real. The executors speak the whole protocol, each over a connection of its own (beats,
pulls, claims, closes), but run nothing: a step lasts a second by the clock. They share one process; fifty real ones would
measure this machine's processors.

Baseline, in the same run: the same steps with one executor of four slots at a time, where nothing waits for anything else.
"""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.trio import Trio, bare, repository
from services.beats import Beat, beat_key
from services.bus import EXECUTORS, Bus, BusConfig, BusError, Delivery, RefusedError
from services.commands import RunStep
from services.events import StepFinished, StepStarted
from services.wire import Entry, attempt_subject, decode_command, encode_entry

EXECUTORS_AT_ONCE = 50
SLOTS = 4
STEP_S = 1.0
SECONDS = 30
WARM_UP_S = 5
PROFILES = {"true": {"command": "true", "args": []}}


def bundle(number: int) -> dict[str, Any]:
    """A workstream of three steps."""
    name = f"ws-{number}"
    return {
        "id": name, "openspec_change": "bench", "ccpm_issue": 1, "gate": 1, "files_scope": [name], "tasks": ["measure"],
        "tool": "true", "metadata": {"swell": {"gates": "none"}},
    }  # fmt: skip


class Played:
    """One executor that claims and closes as a real one does, and runs nothing."""

    def __init__(self, number: int, url: str) -> None:
        """`url`: of the bus."""
        self._config = BusConfig(url=url)
        self._id, self._boot = f"played-{number}", uuid.uuid4().hex[:12]
        self._held: set[tuple[str, str, int]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        self._bus = await Bus.connect(self._config, name=self._id)
        commands = self._bus.commands("default")
        await commands.open()
        working: set[asyncio.Task[None]] = set()
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                free = SLOTS - len(working)
                if not free:
                    await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                    continue
                for delivery in await commands.next(wanted=free, timeout_s=1.0):
                    task = asyncio.create_task(self._work(delivery))
                    working.add(task)
                    task.add_done_callback(working.discard)
        finally:
            beating.cancel()
            await self._bus.close()

    async def _work(self, delivery: Delivery) -> None:
        command = decode_command(delivery.data)
        key = (command.run, command.step.workstream, command.step.attempt)
        subject = attempt_subject(*key)
        try:
            claimed = await self._bus.append(
                subject, self._entry(command, StepStarted(executor=self._id, boot=self._boot)), expect=0
            )
        except RefusedError:
            await delivery.ack()
            return
        await delivery.ack()
        self._held.add(key)
        await asyncio.sleep(STEP_S * random.uniform(0.8, 1.2))
        with contextlib.suppress(RefusedError):
            await self._bus.append(subject, self._entry(command, StepFinished(ok=True, dry_run=True)), expect=claimed)
        self._held.discard(key)

    def _entry(self, command: RunStep, event: StepStarted | StepFinished) -> bytes:
        return encode_entry(
            Entry(id=uuid.uuid4().hex, run=command.run, at_ns=time.time_ns(), by=f"executor:{self._id}", events=[event])
        )

    async def _beat(self) -> None:
        while True:
            beat = Beat(
                executor=self._id, boot=self._boot, pool="default", slots=SLOTS,
                state="busy" if self._held else "idle", attempts=list(self._held),
            )  # fmt: skip
            with contextlib.suppress(BusError):
                await self._bus.put_key(EXECUTORS, beat_key("default", self._id), msgspec.json.encode(beat))
            await asyncio.sleep(1.0)


async def play(url: str, count: int) -> None:
    """That many executors until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    playing = [asyncio.create_task(Played(number, url).run()) for number in range(count)]
    await stop.wait()
    for task in playing:
        task.cancel()
    await asyncio.wait(playing)


async def times(url: str, run: str) -> dict[str, dict[tuple[str, int], int]]:
    """When the attempts of a run were scheduled, claimed and closed, by the log's time, nanoseconds."""
    bus = await Bus.connect(BusConfig(url=url), name="bench")
    found: dict[str, dict[tuple[str, int], int]] = {"step_scheduled": {}, "step_started": {}, "step_finished": {}}
    async for batch in bus.replay(f"swell.event.{run}.>"):
        for recorded in batch:
            parts = recorded.subject.split(".")
            for event in json.loads(recorded.data)["events"]:
                if event["kind"] == "step_scheduled":
                    found["step_scheduled"][event["workstream"], event["attempt"]] = recorded.time_ns
                elif event["kind"] in found and len(parts) == 5:
                    found[event["kind"]][parts[3], int(parts[4])] = recorded.time_ns
    await bus.close()
    return found


def latencies_ms(found: dict[str, dict[tuple[str, int], int]]) -> tuple[list[float], list[float], float]:
    """From the close of a step to the claim of the next, from its scheduling to its claim, and claims per second."""
    first_ns = min(found["step_started"].values()) + WARM_UP_S * 1_000_000_000
    last_ns = first_ns + (SECONDS - WARM_UP_S) * 1_000_000_000
    whole, queued = [], []
    for (name, attempt), started_ns in found["step_started"].items():
        if name == "_line" or not first_ns <= started_ns < last_ns:
            continue
        queued.append((started_ns - found["step_scheduled"][name, attempt]) / 1e6)
        if before_ns := found["step_finished"].get((name, attempt - 1)):
            whole.append((started_ns - before_ns) / 1e6)
    return sorted(whole), sorted(queued), len(queued) / ((last_ns - first_ns) / 1e9)


def measured(made: Trio, executors: int) -> tuple[list[float], list[float], float]:
    """Latencies with that many executors, all slots in use."""
    folder = repository(made.root / f"repository-{executors}", 1)
    slots = executors * SLOTS
    bundles = [bundle(number) for number in range(slots * SECONDS // 2)]
    argv = [sys.executable, "-m", "benchmarks.dispatch", made.url, str(executors)]
    with (made.root / "played.log").open("ab") as log:
        playing = subprocess.Popen(argv, stdout=log, stderr=log, cwd=Path(__file__).parents[1])
    try:
        run = made.submit(folder, bundles, PROFILES, dry_run=True, max_workers=slots)
        time.sleep(SECONDS + 3)
    finally:
        playing.terminate()
        playing.wait(30)
    return latencies_ms(asyncio.run(times(made.url, run)))


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    with bare() as made:
        made.start_bus()
        made.start_service("scheduler")
        made.await_ready("scheduler")
        made.connect_scheduler()
        alone, _, _ = measured(made, 1)
    with bare() as made:
        made.start_bus()
        made.start_service("scheduler")
        made.await_ready("scheduler")
        made.connect_scheduler()
        whole, queued, rate = measured(made, EXECUTORS_AT_ONCE)
    rows = [
        _row(
            f"steps begun, {EXECUTORS_AT_ONCE} executors of {SLOTS} slots",
            rate,
            "1/s",
            EXECUTORS_AT_ONCE * SLOTS / STEP_S,
        )
    ]
    for percent in (50, 99):
        at = _quantile(whole, percent)
        rows.append(_row(f"step closed → the next one claimed, p{percent}", at, "ms", _quantile(alone, percent)))
        rows.append(_row(f"step scheduled → claimed, p{percent}", _quantile(queued, percent), "ms", None))
    return rows


def _quantile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def _row(name: str, value: float, unit: str, baseline: float | None) -> dict[str, Any]:
    return {
        "name": name, "value": value, "unit": unit, "baseline": baseline,
        "ratio": None if baseline is None else value / baseline,
    }  # fmt: skip


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play(sys.argv[1], int(sys.argv[2])))
