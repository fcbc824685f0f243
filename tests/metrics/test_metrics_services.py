"""The executor's and the ledger's series: real executor and real DuckDB, over the bus in memory."""

import asyncio
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_bus import MemoryBus
from metrics_rig import Scrape, samples_of
from played_cluster import Told, until
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as TheirCounter
from prometheus_client import Histogram as TheirHistogram

from services.beats import nudge_subject
from services.bus import BusUnavailableError
from services.events import Artifact as StoredObject
from services.events import (
    ProcessesReaped,
    RunRequested,
    Snapshot,
    StepCancelled,
    StepFinished,
    StepStarted,
)
from services.executor.metrics import ExecutorMetrics
from services.executor.step import Stopped
from services.ledger.absorb import Absorber
from services.ledger.metrics import LedgerMetrics
from services.ledger.store import Store
from services.metrics import Exposition
from services.wire import Entry, attempt_subject, encode_entry, request_subject

SPEC = StoredObject(role="spec", digest="5" * 64, name="spec-1", size_bytes=12)


class HangingSteps:
    """Steps that end when they are told to."""

    def __init__(self):
        self.started = asyncio.Event()

    async def run(self, _command):
        self.started.set()
        await asyncio.Event().wait()

    def stopped(self, _key):
        made = Snapshot(commit="c", tree="t")
        return Stopped(processes=3, kept=StepFinished(ok=False, snapshot=made, tool_wall_s=2.5))


async def one_at_work(cluster):
    """An executor whose tool hangs, and the scheduler's word on it."""
    scheduler, steps = cluster.scheduler(), HangingSteps()
    executor = cluster.executor(steps=steps)
    await cluster.submit("r1", "ws-a")
    await steps.started.wait()
    await until(lambda: cluster.of(StepStarted))
    await cluster.folded(scheduler)
    return scheduler, executor


async def test_an_executor_at_work_says_so(cluster):
    scheduler, executor = await one_at_work(cluster)
    told = await executor.scrape()
    assert told.value("swell_executor_attempts_running") == 1
    assert told.value("swell_executor_slots") == 4
    assert told.by("swell_executor_state", "state") == {("busy",): 1}
    assert told.value("swell_executor_state", state="draining") == 0
    assert (await scheduler.scrape()).by("swell_scheduler_queue_depth", "pool") == {}


async def test_a_result_that_comes_after_the_close_is_counted_with_its_tool_and_processes(cluster):
    _, executor = await one_at_work(cluster)
    subject = attempt_subject("r1", "ws-a", 1)
    claim = await cluster.bus.last(subject)
    entry = Entry(id=uuid.uuid4().hex, run="r1", at_ns=0, by="scheduler:x", events=[StepCancelled(reason="enough")])
    await cluster.bus.append(subject, encode_entry(entry), expect=claim.sequence)
    await cluster.bus.say(nudge_subject("default", "e1"), subject.encode())
    await until(lambda: cluster.of(ProcessesReaped))
    told = await executor.scrape()
    assert told.by("swell_executor_results_refused_total", "step") == {("edit",): 1}
    assert told.value("swell_executor_processes_reaped_total") == 3
    assert told.value("swell_executor_tool_seconds_total", step="edit") == 2.5
    assert told.by("swell_executor_steps_closed_total", "step") == {}


async def test_a_hand_back_is_a_close(cluster):
    _, executor = await one_at_work(cluster)
    await executor.part.drain(0)
    told = await executor.scrape()
    assert told.by("swell_executor_steps_closed_total", "step", "outcome") == {("edit", "handed_back"): 1}
    assert told.by("swell_executor_state", "state") == {("draining",): 1}
    assert told.value("swell_executor_attempts_running") == 0


async def test_bytes_count_once_they_are_taken():
    exposition = Exposition("executor")

    class Objects:
        taken = False

        async def write(self, name, data):
            if not self.taken:
                raise BusUnavailableError("not now")

        async def read(self, name, *, limit_bytes):
            yield b"abc"

    objects = Objects()
    counted = ExecutorMetrics(exposition).counted(objects)
    with pytest.raises(BusUnavailableError):
        await counted.write("a", b"12345")
    objects.taken = True
    await counted.write("a", b"12345")
    assert [chunk async for chunk in counted.read("a", limit_bytes=9)] == [b"abc"]
    assert Scrape(exposition.text()).value("swell_executor_upload_bytes_total") == 5


# The ledger


async def ask(bus, run):
    event = RunRequested(
        request_id=f"q-{run}", actor="ann", spec=SPEC, workstreams=1, repository="repo", base_commit="b" * 40
    )
    await bus.add(request_subject(run), encode_entry(Entry(id=run, run=run, at_ns=0, by="c", events=[event])))


async def a_log(runs):
    """A log in which so many runs were asked for."""
    bus = MemoryBus()
    for number in range(runs):
        await ask(bus, f"r{number}")
    return bus


async def test_a_ledger_says_how_far_its_replay_is(tmp_path):
    bus = await a_log(120)
    store = Store.open(tmp_path / "l")
    exposition = Exposition("ledger")
    metrics = LedgerMetrics(exposition)
    absorber = Absorber(store, bus, linger_s=0, batch_max=50, metrics=metrics)
    metrics.read(absorber, store)
    ledger = Told(exposition, absorber)
    await absorber.verify()
    told = await ledger.scrape()
    assert told.value("swell_ledger_rebuilding") == 1
    assert told.value("swell_ledger_caught_up") == told.value("swell_ledger_replay_progress_ratio") == 0
    assert told.value("swell_ledger_lag_entries") == 120
    absorbing = asyncio.create_task(absorber.run())
    await until(lambda: absorber.position == 120)
    with absorber.watching.counted():
        told = await ledger.scrape()
    await ask(bus, "r-new")
    await until(lambda: absorber.position == 121)
    after = await ledger.scrape()
    absorbing.cancel()
    await asyncio.wait([absorbing])
    absorber.close()
    assert told.value("swell_ledger_rebuilding") == told.value("swell_ledger_lag_entries") == 0
    assert told.value("swell_ledger_caught_up") == told.value("swell_ledger_replay_progress_ratio") == 1
    assert told.value("swell_ledger_entries_folded_total") == told.value("swell_ledger_position") == 120
    assert told.value("swell_ledger_commit_duration_seconds_count") == absorber.commits - 1 >= 3
    assert told.value("swell_ledger_fold_duration_seconds_count") == absorber.commits - 1
    assert told.value("swell_ledger_commit_delay_seconds_count") == 0
    assert after.value("swell_ledger_commit_delay_seconds_count") == 1
    assert after.value("swell_ledger_commit_delay_seconds_sum") < 10
    assert told.value("swell_ledger_watches") == 1
    store.condemn("for the test")
    assert (await ledger.scrape()).value("swell_ledger_condemned") == 1
    store.close()
    again = Store.open(tmp_path / "l")
    try:
        assert again.aside_files == 1
    finally:
        again.close()


# Our counters and histograms show what the library's own would

LABELS = st.tuples(st.sampled_from(["a", "b", 'c"\\\n']), st.sampled_from(["x", "y"]))
VALUES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), st.floats(0, 100))


@given(st.lists(st.tuples(LABELS, VALUES), max_size=30))
def test_ours_show_what_the_librarys_own_show(given_):
    exposition, registry = Exposition("scheduler"), CollectorRegistry()
    counter = exposition.counter("swell_test_steps_total", "Steps.", "p", "q")
    histogram = exposition.histogram("swell_test_duration_seconds", "Time.", "p", "q", buckets=(0.5, 1, 2))
    theirs = TheirCounter("swell_test_steps_total", "Steps.", ["p", "q"], registry=registry)
    their_histogram = TheirHistogram(
        "swell_test_duration_seconds", "Time.", ["p", "q"], registry=registry, buckets=(0.5, 1, 2)
    )
    for labels, value in given_:
        counter.add(labels, value)
        theirs.labels(*labels).inc(value)
        histogram.observe(labels, value)
        their_histogram.labels(*labels).observe(value)
    ours = {key: value for key, value in samples_of(exposition.text()).items() if key[0].startswith("swell_test_")}
    library = samples_of(generate_latest(registry).decode())
    assert ours == {key: value for key, value in library.items() if not key[0].endswith("_created")}


def test_a_series_without_labels_is_there_from_the_start():
    exposition = Exposition("scheduler")
    exposition.counter("swell_test_steps_total", "Steps.")
    exposition.histogram("swell_test_duration_seconds", "Time.", buckets=(1,))
    told = Scrape(exposition.text())
    assert told.value("swell_test_steps_total") == told.value("swell_test_duration_seconds_count") == 0
