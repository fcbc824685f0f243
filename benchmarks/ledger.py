"""How the ledger's answers hold up when it has absorbed much: `make bench-ledger EVENTS=10000000`.

A real ledger behind a real nats-server. The log is written first, then the ledger makes its file from it, then it is
asked, watched and fed by clients over gRPC. Nothing else should run meanwhile: client and server share the processors, so
every figure is that of both.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec
import nats

from benchmarks.trio import Trio, awaited, bare
from services import events as ev
from services.bus import Bus, BusConfig
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.v1 import ledger_pb2_grpc
from services.outcome import Cost, Usage
from services.wire import Entry, attempt_subject, request_subject, run_subject

EVENTS = int(os.environ.get("EVENTS", "1000000"))
WORKSTREAMS = 7
IN_FLIGHT = 2000
ASKED = 300
READERS = 4
BURST_S = 20.0
WATCHERS = 500
WATCHED_S = 15.0
CATCH_UP_S = 3600.0
MODELS = (
    ("claude", "anthropic", "claude-sonnet"),
    ("codex", "openai", "gpt-codex"),
    ("aider", "deepseek", "deepseek-chat"),
)
BASE = ev.Snapshot(commit="b" * 40, tree="c" * 40)
LOG = ev.Artifact(role="log", digest="a" * 64, name="log", size_bytes=1000)
SPEC = ev.Artifact(role="spec", digest="5" * 64, name="spec", size_bytes=1000)

BY_MODEL = "SELECT model, sum(cost_usd) FROM attempts GROUP BY model"

_encoder = msgspec.json.Encoder()

Told = tuple[str, list[ev.AnyEvent]]
Row = dict[str, object]


def measure() -> Iterator[Row]:
    """Rows {"name", "value", "unit", "baseline", "ratio"}, as they are known."""
    with bare() as cluster:
        cluster.start_bus(durable=False)
        written, runs = asyncio.run(_written(cluster.url, EVENTS))
        settings = f'file = "{cluster.root}/ledger.duckdb"\nconcurrent_rpcs = 1000'
        started = time.monotonic()
        cluster.start_service("ledger", settings)
        cluster.await_ready("ledger")
        channel = cluster.channel("ledger")
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code
        awaited(lambda: _whole(ledger), CATCH_UP_S, 0.5)
        seconds = time.monotonic() - started
        status = ledger.GetStatus(pb.GetStatusRequest())
        million = written / 1_000_000
        yield _row(
            f"ledger made from a log of {written:,} events, {runs:,} runs", written / seconds, "events/s", 30_000
        )
        yield _row("its resident memory, the most it has had", cluster.resident_mb("ledger", peak=True), "MB", 600)
        yield _row("its file for a million events", status.file_bytes / 2**20 / million, "MiB", None)
        yield from _asked(ledger, runs)
        yield from _added_up(ledger, runs)
        yield from _in_sql(ledger)
        yield from _read_while_fed(cluster, ledger, channel, runs)
        yield from asyncio.run(_watched(cluster, ledger))
        yield _row("resident memory at the end", cluster.resident_mb("ledger"), "MB", 600)


def _row(name: str, value: float, unit: str, baseline: float | None) -> Row:
    ratio = None if baseline is None else value / baseline
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


def _whole(ledger: Any) -> bool | None:
    status = ledger.GetStatus(pb.GetStatusRequest())
    return (status.caught_up and status.position >= status.stream_last) or None


# The log


async def _written(url: str, events: int) -> tuple[int, int]:
    """How many events were written, and of how many runs."""
    bus = await Bus.connect(BusConfig(url=url), name="bench")
    await bus.ensure_streams()
    await bus.close()
    count = runs = 0
    async with _publishing(url) as publish:
        for number in itertools.count():
            for subject, told in run_of(number):
                await publish(subject, _encoder.encode(_entry(number, told)))
                count += len(told)
            runs += 1
            if count >= events:
                break
    return count, runs


@asynccontextmanager
async def _publishing(url: str) -> AsyncIterator[Callable[[str, bytes], Any]]:
    """Appends that are answered later; at the end every one has been."""
    connection = await nats.connect(url)
    stream = connection.jetstream(publish_async_max_pending=IN_FLIGHT)
    failed: list[BaseException] = []

    async def publish(subject: str, data: bytes) -> None:
        (await stream.publish_async(subject, data, wait_stall=60)).add_done_callback(
            lambda done: failed.append(error) if (error := done.exception()) is not None else None
        )

    try:
        yield publish
        await stream.publish_async_completed()
        if failed:
            raise failed[0]
    finally:
        await connection.close()


def _entry(number: int, told: list[ev.AnyEvent]) -> Entry:
    return Entry(id=f"{random.getrandbits(128):032x}", run=name_of(number), at_ns=1, by="scheduler:1", events=told)


def name_of(number: int) -> str:
    """A run's id."""
    return f"run{number:07}"


def run_of(number: int) -> Iterator[Told]:
    """A run of WORKSTREAMS workstreams, a quarter of which needs a FIX: about 110 events, as a scheduler would tell them."""
    run, names = name_of(number), [f"ws-{index}" for index in range(WORKSTREAMS)]
    known: dict[str, Any] = {
        "request_id": run, "actor": f"user-{number % 7}", "spec": SPEC, "workstreams": WORKSTREAMS,
        "repository": f"/srv/repository-{number % 20}", "base_commit": BASE.commit,
        "labels": {"team": f"team-{number % 5}"}, "tenant": f"tenant-{number % 3}",
    }  # fmt: skip
    yield request_subject(run), [ev.RunRequested(**known)]
    yield run_subject(run), [ev.RunAccepted(**known), ev.RunTransitioned(from_state="pending", to_state="running")]
    yield run_subject(run), [ev.WaveStarted(wave=0, workstreams=names)]
    for index, name in enumerate(names):
        yield from _worked(run, name, number + index)
    yield run_subject(run), [ev.WaveFinished(wave=0)]
    done: dict[str, Any] = {"completed": WORKSTREAMS, "failed": 0, "blocked": 0, "cancelled": 0}
    yield run_subject(run), [ev.RunFinished(state="completed", reason="all merged", **done)]


def _worked(run: str, name: str, draw: int) -> Iterator[Told]:
    tool, provider, model = MODELS[draw % len(MODELS)]
    red = ev.StepFinished(ok=False, error_class="check_failed", signature=f"E{draw % 50}", message="2 tests failed")
    green = ev.StepFinished(ok=True, tool_wall_s=1.5, wall_s=1.6)
    usage = Usage(input_tokens=1000 + draw % 1000, cache_read_tokens=draw % 5000, output_tokens=draw % 700)
    made = ev.StepFinished(
        ok=True, snapshot=BASE, changed=True, files=["a.py", "b.py"], files_total=2, artifacts=[LOG], tool_wall_s=30.5,
        wall_s=31.0, usage=usage, model=model, provider=provider,
        cost=Cost(nano_usd=1_000_000 + draw % 9_000_000, basis="reported"),
    )  # fmt: skip
    steps: list[tuple[ev.Step, ev.StepFinished]] = [("edit", made), ("static", green), ("runtime", green)]
    if draw % 4 == 0:
        steps[2:] = [("runtime", red), ("fix", made), ("static", green), ("runtime", green)]
    for attempt, (step, finish) in enumerate(steps, 1):
        subject = attempt_subject(run, name, attempt)
        moved = ev.WorkstreamTransitioned(workstream=name, from_state="ready", to_state=_STATES[step])
        producing = step in ("edit", "fix")
        scheduled = ev.StepScheduled(
            workstream=name, attempt=attempt, step=step, pool="default", input=BASE, timeout_s=60, queue_deadline_ns=1,
            tool=tool if producing else "",
        )  # fmt: skip
        yield run_subject(run), [moved, scheduled]
        yield subject, [ev.StepStarted(executor=f"executor-{draw % 50}", boot="boot-1")]
        yield subject, [finish]
    done = ev.WorkstreamTransitioned(workstream=name, from_state="merging", to_state="completed")
    yield run_subject(run), [done]


_STATES: dict[ev.Step, ev.WorkstreamState] = {
    "edit": "editing", "static": "static_check", "runtime": "runtime_check", "fix": "fixing",
}  # fmt: skip


# Questions


def _asked(ledger: Any, runs: int) -> Iterator[Row]:
    """How long answers take when one asks at a time; the last column says how they compare with the aim."""
    draw = random.Random(7)

    def some() -> str:
        return name_of(draw.randrange(runs))

    page = ledger.ListRuns(pb.ListRunsRequest(page_size=50))
    for _ in range(20):
        page = ledger.ListRuns(pb.ListRunsRequest(page_size=50, page_token=page.next_page_token))
    deep = page.next_page_token
    questions: dict[str, tuple[Callable[[], object], float]] = {
        "GetStatus (asks no table)": (lambda: ledger.GetStatus(pb.GetStatusRequest()), 2.0),
        "GetRun": (lambda: ledger.GetRun(pb.GetRunRequest(run=some())), 5.0),
        "ListRuns, the first 50": (lambda: ledger.ListRuns(pb.ListRunsRequest(page_size=50)), 20.0),
        "ListRuns, page 22": (lambda: ledger.ListRuns(pb.ListRunsRequest(page_size=50, page_token=deep)), 20.0),
        "ListWorkstreams of a run": (lambda: ledger.ListWorkstreams(pb.ListWorkstreamsRequest(run=some())), 20.0),
        "ListAttempts of a run": (lambda: ledger.ListAttempts(pb.ListAttemptsRequest(run=some())), 20.0),
        "ListEvents of a run, 100": (lambda: ledger.ListEvents(pb.ListEventsRequest(run=some())), 20.0),
        "ListEvents, the newest 100": (lambda: ledger.ListEvents(pb.ListEventsRequest(newest_first=True)), 20.0),
    }
    for name, (ask, aim_ms) in questions.items():
        took = timed(ask, ASKED)
        yield _row(f"{name}: p50; baseline: the aim", statistics.median(took), "ms", aim_ms)
        yield _row(f"{name}: p99", took[int(len(took) * 0.99)], "ms", None)


def _added_up(ledger: Any, runs: int) -> Iterator[Row]:
    """Sums over everything, and over one run."""
    for name, ask, aim_ms in (
        ("GetCosts by model over everything", lambda: ledger.GetCosts(pb.GetCostsRequest(group_by=["model"])), 200.0),
        (
            "GetCosts by tool, model and day",
            lambda: ledger.GetCosts(pb.GetCostsRequest(group_by=["tool", "model", "day"])),
            None,
        ),
        ("GetCosts by label", lambda: ledger.GetCosts(pb.GetCostsRequest(group_by=["label:team"])), None),
        (
            "GetMetrics of a run",
            lambda: ledger.GetMetrics(pb.GetMetricsRequest(selection=pb.Selection(run=name_of(runs // 2)))),
            None,
        ),
        ("GetMetrics over everything", lambda: ledger.GetMetrics(pb.GetMetricsRequest()), None),
    ):
        yield _row(
            f"{name}: p50{'; baseline: the aim' if aim_ms else ''}", statistics.median(timed(ask, 7)), "ms", aim_ms
        )


def _in_sql(ledger: Any) -> Iterator[Row]:
    """The first question makes a copy of the file; the others are asked of it."""

    def ask() -> object:
        return list(ledger.Query(pb.QueryRequest(sql=BY_MODEL), timeout=300))

    yield _row("SQL: the first question, with a copy of the file", timed(ask, 1)[0], "ms", None)
    yield _row("SQL: cost by model, p50", statistics.median(timed(ask, 7)), "ms", None)


def timed(ask: Callable[[], object], times: int) -> list[float]:
    """Milliseconds that each of so many calls took, sorted."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        ask()
        took.append((time.perf_counter() - started) * 1000)
    return sorted(took)


def _read_while_fed(cluster: Trio, ledger: Any, channel: grpc.Channel, runs: int) -> Iterator[Row]:
    """Events absorbed in a second while READERS ask without a pause and more comes than it can take."""
    ending = threading.Event()
    answered = [0] * READERS

    def read(reader: int) -> None:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code
        draw = random.Random(reader)
        asking = itertools.cycle(
            (
                lambda: stub.GetRun(pb.GetRunRequest(run=name_of(draw.randrange(runs)))),
                lambda: stub.ListRuns(pb.ListRunsRequest(page_size=50)),
                lambda: stub.ListAttempts(pb.ListAttemptsRequest(run=name_of(draw.randrange(runs)))),
            )
        )
        while not ending.is_set():
            next(asking)()
            answered[reader] += 1

    # What is fed is written while the ledger stands still, so that the writer takes no part of what is measured.
    process = cluster.processes["ledger"]
    process.send_signal(19)
    fed = asyncio.run(_fed(cluster.url, runs))
    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    started = time.monotonic()
    process.send_signal(18)
    for thread in threads:
        thread.start()
    awaited(lambda: _whole(ledger), CATCH_UP_S, 0.1)
    seconds = time.monotonic() - started
    ending.set()
    for thread in threads:
        thread.join()
    yield _row(
        f"absorbed while {READERS} readers ask without pause; baseline: the aim", fed / seconds, "events/s", 12_000
    )
    yield _row("answers to them meanwhile", sum(answered) / seconds, "calls/s", None)


async def _fed(url: str, runs: int) -> int:
    """Enough events for about BURST_S at the aim."""
    count = 0
    async with _publishing(url) as publish:
        for number in itertools.count(runs):
            for subject, told in run_of(number):
                await publish(subject, _encoder.encode(_entry(number, told)))
                count += len(told)
            if count >= 12_000 * BURST_S:
                return count
    return count


# Watching


async def _watched(cluster: Trio, ledger: Any) -> list[Row]:
    """How soon a fact is seen: by one watcher at 500 events a second, by WATCHERS at 100."""
    rows: list[Row] = []
    for watchers, rate, copies, aim_ms in ((1, 500, False, 150.0), (1, 500, True, None), (WATCHERS, 100, False, 300.0)):
        delays, messages, events = await _delays(cluster, ledger, watchers, rate, copies=copies)
        name = f"fact to its watcher, {watchers} watching, {rate} events/s{', SQL copies made' if copies else ''}"
        rows += [
            _row(f"{name}: p50", statistics.median(delays), "ms", None),
            _row(
                f"{name}: p99{'; baseline: the aim' if aim_ms else ''}", delays[int(len(delays) * 0.99)], "ms", aim_ms
            ),
            _row(f"{name}: longest", delays[-1], "ms", None),
            _row(f"{name}: events in a message", events / max(messages, 1), "", None),
        ]
    return rows


async def _delays(
    cluster: Trio, ledger: Any, watchers: int, rate: int, *, copies: bool
) -> tuple[list[float], int, int]:
    """Milliseconds from a fact's time in the log to each watcher, sorted; how many messages, with how many events.

    `copies`: meanwhile somebody asks in SQL again and again, so that copies of the file are made.
    """
    from json import loads  # noqa: PLC0415 - the ready file is JSON

    port = loads((cluster.root / "ledger.ready").read_text())["port"]
    position = ledger.GetStatus(pb.GetStatusRequest()).position
    first = 10 * position  # runs that nobody knows yet
    delays: list[float] = []
    seen = [0, 0]

    async def watch(stub: Any, ready: asyncio.Semaphore) -> None:
        call = stub.WatchEvents(pb.WatchEventsRequest(after_position=position))
        first = True
        async for message in call:
            if first:
                first = False
                ready.release()
            now_ns = time.time_ns()
            seen[0] += bool(message.events)
            seen[1] += len(message.events)
            delays.extend((now_ns - event.time_ns) / 1e6 for event in message.events)

    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) for _ in range(10)
    ]
    ready = asyncio.Semaphore(0)
    stubs = [ledger_pb2_grpc.LedgerServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    tasks = [asyncio.create_task(watch(stubs[index % len(stubs)], ready)) for index in range(watchers)]
    for _ in range(watchers):
        await ready.acquire()
    if copies:
        tasks.append(asyncio.create_task(_asking_in_sql(stubs[-1])))
    async with _publishing(cluster.url) as publish:
        facts = (told for number in itertools.count(first) for told in run_of(number))
        started = time.monotonic()
        count = 0
        while (passed := time.monotonic() - started) < WATCHED_S:
            while count < passed * rate:
                subject, told = next(facts)
                await publish(subject, _encoder.encode(_entry(first, told)))
                count += len(told)
            await asyncio.sleep(0.005)
    await asyncio.sleep(2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return sorted(delays), seen[0], seen[1]


async def _asking_in_sql(stub: Any) -> None:
    while True:
        async for _ in stub.Query(pb.QueryRequest(sql="SELECT count(*) FROM runs"), timeout=300):
            pass
        await asyncio.sleep(0.5)


def main() -> None:
    """Print the rows as they are known."""
    print(f"{'':84} {'value':>12} {'unit':9} {'baseline':>10} {'ratio':>6}")
    for row in measure():
        baseline = "" if row["baseline"] is None else f"{row['baseline']:,.6g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['name']:84} {row['value']:12,.6g} {row['unit']:9} {baseline:>10} {ratio:>6}", flush=True)


if __name__ == "__main__":
    main()
