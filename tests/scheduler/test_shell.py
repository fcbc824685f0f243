"""The real shell and the real executor on a bus that loses, repeats and delays; only the tools are played."""

import asyncio
import contextlib
import itertools
import time
import uuid
from collections import Counter

import msgspec
import pytest
from memory_bus import Faults, MemoryBus, MemoryServer, newest_of_key
from scheduler_harness import BASE, RUN, bundle, passed, spec
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.artifacts import Artifacts
from services.beats import Beat
from services.bus import EVENTS, EXECUTORS, LEASES, BusConfig, BusUnavailableError, Recorded, RefusedError
from services.commands import RunStep
from services.events import (
    LINE,
    Artifact,
    CancelRequested,
    IntegrationAdvanced,
    ProcessesReaped,
    RequestAnswered,
    ResultRefused,
    RunFinished,
    RunRequested,
    RunStopping,
    Snapshot,
    StepCancelled,
    StepFinished,
    StepLost,
    StepRequested,
    StepScheduled,
    StepStarted,
    WaveFinished,
    WorkstreamTransitioned,
)
from services.executor.journal import Journal
from services.executor.pulse import Pulse
from services.executor.step import Stopped
from services.executor.worker import Executor
from services.scheduler.decide import due
from services.scheduler.shell import Shell
from services.spec import encode_spec
from services.trace import of_attempt, of_run
from services.wire import (
    Entry,
    attempt_subject,
    command_subject,
    decode_entry,
    encode_command,
    encode_entry,
    parse_subject,
    request_subject,
    run_subject,
)

A, B, C = "ws-a", "ws-b", "ws-c"
WAIT_S = 10
CLOSES = StepFinished | StepCancelled | StepLost


class PlayedSteps:
    """Steps that end at once, unless they are told to hang: the second implementation of what an executor carries out."""

    def __init__(self, hang=()):
        self.hang = set(hang)
        self.ran = []
        self.hanging = {}
        self.cancelled = []

    async def run(self, command):
        step = command.step
        key = (command.run, step.workstream, step.attempt)
        self.ran.append(key)
        if (step.workstream, step.step) in self.hang:
            self.hanging[key] = asyncio.Event()
            try:
                await self.hanging[key].wait()
            except asyncio.CancelledError:
                self.cancelled.append(key)
                raise
        await asyncio.sleep(0)
        return result_of(step)

    def stopped(self, _key):
        return Stopped(processes=1)


def result_of(step):
    name = f"{step.workstream}-{step.attempt}"
    if step.step in {"edit", "fix", "merge"}:
        tree = step.theirs.tree if step.step == "merge" and step.input.commit == step.base.commit else f"t-{name}"
        return StepFinished(ok=True, changed=True, snapshot=Snapshot(commit=f"c-{name}", tree=tree))
    return passed(step)


class BeatLine:
    """The connection for beats: the server in memory belongs to the main loop, so the thread of a pulse asks there.

    A severed one takes no last word.
    """

    def __init__(self, bus):
        self.bus = bus
        self.loop = asyncio.get_running_loop()
        self.severed = False

    async def connect(self):
        return self

    async def put_key(self, bucket, key, value):
        if self.severed:
            raise BusUnavailableError("the process is gone")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.bus.put_key(bucket, key, value), self.loop))

    async def close(self):
        pass


class Cluster:
    """Schedulers and executors over one server in memory."""

    def __init__(self, folder, **config):
        self.folder = folder
        self.executors = {}
        self.server = MemoryServer(BusConfig(**{"lease_ttl_s": 0.2, "append_timeout_s": 0.5, **config}))
        self.bus = MemoryBus(self.server)
        self.tasks = {}
        self.crashed = []

    async def submit(self, definition, request_id="q-run", trace=""):
        artifact = await Artifacts(self.bus.objects).put("spec", encode_spec(definition))
        event = RunRequested(
            request_id=request_id, actor="ann", spec=artifact, workstreams=len(definition.bundles), repository="repo",
            base_commit=BASE, timeout_s=definition.options.timeout_s,
        )  # fmt: skip
        await self.request(event, trace=trace)

    async def request(self, event, run=RUN, trace=""):
        entry = Entry(id=uuid.uuid4().hex, run=run, at_ns=0, by="client", events=[event], trace=trace)
        await self.bus.add(request_subject(run), encode_entry(entry))

    def shell(self, name, faults=None, *, lease_s=10.0, reconcile_s=0.02):
        bus = MemoryBus(self.server, faults)
        shell = Shell(bus, Artifacts(bus.objects), name=name, lease_s=lease_s, reconcile_s=reconcile_s)
        self.start(name, shell.run())
        return shell

    def executor(self, name, steps=None, faults=None, slots=4):
        bus = MemoryBus(self.server, faults)
        steps = steps or PlayedSteps()
        line = BeatLine(bus)
        pulse = Pulse(line.connect, executor=name, boot=uuid.uuid4().hex, pool="default", slots=slots)
        pulse.start()
        executor = Executor(bus, steps, pulse, Journal(self.folder / name))
        self.executors[name] = executor, pulse, line
        self.start(name, executor.run())
        return steps

    def start(self, name, work):
        self.tasks[name] = asyncio.create_task(work, name=name)

    async def kill(self, name):
        """As a SIGKILL would: at once, and without a last word."""
        if name in self.executors:
            executor, pulse, line = self.executors.pop(name)
            line.severed = True
            await executor.drain(0, hand_back=False)
            await pulse.close(terminated=False)
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.wait({task})

    async def close(self):
        for name in list(self.tasks):
            task = self.tasks[name]
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.crashed.append((name, task.exception()))
            await self.kill(name)
        assert self.crashed == []

    # What stands in the log

    @property
    def entries(self):
        told = []
        for recorded in self.server.events.messages.values():
            with contextlib.suppress(ValueError):
                told.append((parse_subject(recorded.subject), decode_entry(recorded.data), recorded))
        return told

    def of(self, *kinds):
        return [event for _, entry, _ in self.entries for event in entry.events if isinstance(event, kinds)]

    async def until(self, condition, timeout_s=WAIT_S):
        """Wait for the log to grow until something holds of it."""
        grown = asyncio.Event()
        self.server.events.grown.add(grown)
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    grown.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await grown.wait()
        finally:
            self.server.events.grown.discard(grown)

    async def finished(self, timeout_s=WAIT_S):
        await self.until(lambda: self.of(RunFinished), timeout_s)
        [end] = self.of(RunFinished)
        return end

    def check(self):
        """I2, and one decision at a time: what must hold of the log whatever went wrong."""
        closes = Counter()
        claims = Counter()
        scheduled = Counter()
        states = {}
        expected = 0
        for place, entry, recorded in self.entries:
            for event in entry.events:
                key = (place.workstream, place.attempt)
                match event:
                    case StepScheduled():
                        scheduled[event.workstream, event.attempt] += 1
                    case StepStarted() if place.kind == "attempt":
                        assert not closes[key], f"{key} was claimed after its close"
                        claims[key] += 1
                    case StepFinished() | StepCancelled() | StepLost() if place.kind == "attempt":
                        closes[key] += 1
                    case WorkstreamTransitioned():
                        before = states.get(event.workstream, "pending")
                        assert event.from_state == before, f"{event} was decided on another state: {before}"
                        states[event.workstream] = event.to_state
            if place.kind == "run" and place.run != "fleet":
                assert entry.seen >= expected, f"{recorded.sequence} was decided before {expected} had been folded"
                expected = recorded.sequence
        assert set(scheduled.values()) <= {1}, "two decisions"
        assert set(closes.values()) <= {1}, f"two closes: {closes}"
        assert set(claims.values()) <= {1}
        assert closes.keys() == scheduled.keys() or not self.of(RunFinished)
        merged = [event.workstream for event in self.of(IntegrationAdvanced)]
        assert len(merged) == len(set(merged))
        return states


@pytest.fixture
async def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    await made.close()


def three():
    return spec([bundle(A), bundle(B), bundle(C, A)])


async def test_a_run_goes_through(cluster):
    cluster.shell("s1")
    steps = cluster.executor("e1")
    await cluster.submit(three())
    end = await cluster.finished()
    assert (end.state, end.completed) == ("completed", 3)
    assert set(cluster.check().values()) == {"completed"}
    assert len(steps.ran) == len(set(steps.ran)) == len(cluster.of(StepScheduled))


async def test_the_log_is_the_only_memory(cluster):
    """Every entry names the position its writer had folded and the entry that led to it."""
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(three())
    await cluster.finished()
    known = {entry.id for _, entry, _ in cluster.entries}
    for place, entry, recorded in cluster.entries:
        if place.kind == "run":
            assert entry.by == "scheduler:s1"
            assert entry.cause in known or (place.run == "fleet" and not entry.cause), "a beat is no entry"
            assert entry.seen < recorded.sequence


# Traces

ASKED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("asked", [ASKED, "", "nonsense\n"])
async def test_a_run_is_part_of_the_trace_that_asked_for_it(cluster, asked):
    """Decisions carry the request's traceparent, what an executor writes its attempt's, of the same trace."""
    cluster.shell("s1")
    steps = cluster.executor("e1")
    await cluster.submit(three(), trace=asked)
    await cluster.finished()
    trace = asked if asked == ASKED else ""
    attempts = 0
    for place, entry, _ in cluster.entries:
        if place.kind == "run" and place.run == RUN:
            assert entry.trace == trace
        elif place.kind == "attempt":
            attempts += 1
            assert entry.trace == of_attempt(of_run(RUN, trace), (RUN, place.workstream, place.attempt)).text
    assert attempts == 2 * len(steps.ran)


async def test_the_trace_outlives_the_scheduler_and_the_run(cluster):
    """Who takes over knows it from the log; a request after the end is answered in it."""
    cluster.shell("s1")
    cluster.executor("e1", PlayedSteps(hang=[(A, "edit")]))
    await cluster.submit(spec([bundle(A)]), trace=ASKED)
    await cluster.until(lambda: cluster.of(StepStarted))
    await cluster.kill("s1")
    cluster.shell("s2")
    cancel = CancelRequested(request_id="q-cancel", actor="bob", reason="")
    await cluster.request(cancel, trace=ASKED.replace("-0af7", "-1111"))
    await cluster.finished()
    late = msgspec.structs.replace(cancel, request_id="q-late")
    await cluster.request(late, trace=ASKED.replace("-0af7", "-2222"))
    await cluster.until(lambda: any(answer.request_id == "q-late" for answer in cluster.of(RequestAnswered)))
    decided = [entry for place, entry, _ in cluster.entries if place.kind == "run" and place.run == RUN]
    assert {entry.trace for entry in decided} == {ASKED}


async def test_lines_of_the_log_say_which_run_and_attempt_they_are_about(cluster):
    """Of the scheduler's decisions and of a step, whichever module has something to say."""
    faults = Faults(unanswered_appends=frozenset({2, 3, 4}))
    with capture_logs([merge_contextvars]) as told:
        cluster.shell("s1", faults)
        cluster.executor("e1", PlayedSteps(hang=[(A, "edit")]))
        await cluster.submit(spec([bundle(A)]), trace=ASKED)
        await cluster.until(lambda: cluster.of(StepStarted))
        cancel = CancelRequested(request_id="q-cancel", actor="bob", reason="")
        await cluster.request(cancel)
        await cluster.finished()
        await cluster.until(lambda: cluster.of(ResultRefused, ProcessesReaped))
    run, ours = of_run(RUN, ASKED), [line for line in told if "run" in line and line["run"] == RUN]
    span = of_attempt(run, (RUN, A, 1))
    assert {line["trace_id"] for line in ours} == {run.trace_id}
    about_attempt = [line for line in ours if "workstream" in line]
    assert {
        "executor.claimed", "executor.attempt_ended_early", "executor.result_refused", "scheduler.attempt_closed",
    } == {line["event"] for line in about_attempt}  # fmt: skip
    assert {(line["workstream"], line["attempt"], line["span_id"]) for line in about_attempt} == {(A, 1, span.span_id)}
    about_run = {line["event"]: line["span_id"] for line in ours if "workstream" not in line}
    decided = {"scheduler.run_accepted", "scheduler.append_unanswered", "scheduler.run_finished"}
    assert about_run == dict.fromkeys(decided, run.span_id)


# Lost answers


@pytest.mark.parametrize("number", range(1, 13))
@pytest.mark.parametrize("fault", ["lose_answers", "unknown_appends", "unanswered_appends"])
async def test_no_answer_to_a_decision_loses_or_repeats_it(cluster, fault, number):
    """Stored and not acknowledged, stored and never learnt, or not stored at all: each decision stands once."""
    cluster.shell("s1", Faults(**{fault: frozenset({number})}))
    cluster.executor("e1")
    await cluster.submit(three())
    assert (await cluster.finished()).state == "completed"
    cluster.check()


@pytest.mark.parametrize("fault", ["lose_answers", "unanswered_appends"])
@pytest.mark.parametrize("number", range(1, 5))
async def test_no_answer_to_an_executor_loses_or_repeats_what_it_did(cluster, fault, number):
    cluster.shell("s1", lease_s=0.3)
    cluster.executor("e1", faults=Faults(**{fault: frozenset({number})}), slots=1)
    await cluster.submit(spec([bundle(A)]))
    if fault == "unanswered_appends" and number % 2:
        # A claim that was not stored: its command comes again when its acknowledgement is overdue, or to somebody else.
        cluster.server.in_flight = _NeverInFlight()
    assert (await cluster.finished()).state == "completed"
    cluster.check()


class _NeverInFlight(dict):
    """Acknowledgements are overdue at once."""

    def __setitem__(self, key, value):
        pass


async def test_a_claim_of_which_nothing_was_learnt_is_lost_and_has_a_successor(cluster):
    """It stands in the log, and its executor does not know: no beat names it, so it is lost after a lease."""
    cluster.shell("s1", lease_s=0.2)
    cluster.executor("e1", faults=Faults(unknown_appends=frozenset({1})))
    await cluster.submit(spec([bundle(A)]))
    assert (await cluster.finished()).state == "completed"
    assert len(cluster.of(StepLost)) == 1
    cluster.check()


# Two schedulers


@pytest.mark.parametrize("late", [(0,), (1, 0, 3), (5, 2), (0, 7, 1, 4)])
@pytest.mark.parametrize("single", [False, True])
async def test_two_schedulers_that_both_lead_never_both_decide(cluster, late, single):
    """Leadership is only for liveness: the expected sequence keeps them apart."""
    faults = Faults(everybody_leads=True)
    late_faults = Faults(everybody_leads=True, delivery_turns=late, single_deliveries=single)
    one, two = cluster.shell("s1", faults), cluster.shell("s2", late_faults)
    cluster.executor("e1")
    await cluster.submit(three())
    assert (await cluster.finished()).state == "completed"
    assert one.leader
    assert two.leader
    cluster.check()


async def test_of_two_schedulers_one_leads_and_the_other_takes_over(cluster):
    one = cluster.shell("s1")
    await cluster.until(lambda: one.leader)
    two = cluster.shell("s2")
    cluster.executor("e1", PlayedSteps(hang={(A, "static")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: len(cluster.of(StepStarted)) == 2)
    assert not two.leader
    assert (await one.leads(), await two.leads()) == ("s1", "s1")
    await cluster.kill("s1")
    await cluster.until(lambda: two.leader, timeout_s=3)
    await cluster.request(CancelRequested(request_id="q-cancel", actor="ann"))
    assert (await cluster.finished()).state == "cancelled"
    cluster.check()


async def test_who_cannot_read_the_log_gives_the_lease_up(cluster):
    """An event of a newer version: this scheduler stops deciding, and one that knows it must be able to lead."""
    shell = cluster.shell("s1")
    await cluster.until(lambda: shell.leader)
    unknown = b'{"id":"x","run":"r9","at_ns":1,"by":"scheduler:new","events":[{"kind":"brand_new"}]}'
    await cluster.bus.add(run_subject("r9"), unknown)
    await cluster.until(lambda: shell.halted)
    assert "brand_new" in shell.halted
    assert "upgrade" in shell.halted
    assert not shell.leader

    async with asyncio.timeout(1.5):
        while await newest_of_key(cluster.bus, LEASES, "scheduler") is not None:  # noqa: ASYNC110 - nothing tells that a key expired
            await asyncio.sleep(0.01)


# Restarts


@pytest.mark.parametrize("after", range(1, 12))
async def test_a_fresh_shell_goes_on_where_the_log_ends(cluster, after):
    """Killed after any number of its decisions: fold, then do what is due."""
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(three())

    def decided():
        return sum(place.kind == "run" for place, _, _ in cluster.entries)

    await cluster.until(lambda: decided() >= after or cluster.of(RunFinished))
    await cluster.kill("s1")
    cluster.shell("s2")
    assert (await cluster.finished()).state == "completed"
    cluster.check()


async def test_a_shell_may_be_killed_again_and_again(cluster):
    cluster.executor("e1")
    await cluster.submit(three())
    for number in itertools.count():
        before = len(cluster.entries)
        cluster.shell(f"s{number}")
        await cluster.until(lambda before=before: len(cluster.entries) >= before + 4 or cluster.of(RunFinished))
        if cluster.of(RunFinished):
            break
        await cluster.kill(f"s{number}")
    assert cluster.of(RunFinished)[0].state == "completed"
    cluster.check()


@pytest.mark.parametrize("claims", [1, 2, 4])
async def test_a_restart_of_the_bus_loses_commands_and_nothing_else(cluster, claims):
    """Commands, beats and leases live in the server's memory; all can be derived."""
    cluster.shell("s1")
    cluster.executor("e1", slots=1)
    await cluster.submit(three())
    await cluster.until(lambda: len(cluster.of(StepStarted)) >= claims)
    cluster.server.restart()
    assert (await cluster.finished()).state == "completed"
    cluster.check()


async def test_a_lost_command_is_offered_again(cluster):
    """By the same scheduler, a few seconds later; its subject takes only one, so that harms nothing."""
    cluster.shell("s1", Faults(lose_commands=frozenset({1})))
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)]))
    assert (await cluster.finished(timeout_s=14)).state == "completed"
    assert cluster.of(StepCancelled, StepLost) == []
    cluster.check()


async def test_a_fresh_shell_offers_lost_commands_at_once(cluster):
    cluster.shell("s1", Faults(lose_commands=frozenset(range(1, 100))))
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: cluster.of(StepScheduled))
    await cluster.kill("s1")
    cluster.shell("s2")
    assert (await cluster.finished()).state == "completed"
    cluster.check()


async def test_commands_that_come_twice_are_carried_out_once(cluster):
    cluster.shell("s1")
    steps = [cluster.executor(name, faults=Faults(duplicate_commands=True), slots=2) for name in ("e1", "e2")]
    await cluster.submit(three())
    assert (await cluster.finished()).state == "completed"
    ran = steps[0].ran + steps[1].ran
    assert len(ran) == len(set(ran))
    cluster.check()


# Executors that go away


async def test_an_executor_that_started_anew_has_lost_its_attempt(cluster):
    """Its new boot is enough: nobody waits for a lease."""
    cluster.shell("s1", lease_s=60)
    cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: cluster.of(StepStarted))
    await cluster.kill("e1")
    cluster.executor("e1")
    assert (await cluster.finished()).state == "completed"
    [lost] = cluster.of(StepLost)
    assert lost.executor == "e1"
    assert "started anew" in lost.reason
    edits = [e.attempt for e in cluster.of(StepScheduled) if e.step == "edit"]
    assert edits == [1, 2]
    cluster.check()


async def test_an_executor_that_falls_silent_loses_its_attempt_after_a_lease(cluster):
    cluster.shell("s1", lease_s=0.4)
    cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: cluster.of(StepStarted))
    await cluster.kill("e1")
    cluster.executor("e2")
    assert (await cluster.finished()).state == "completed"
    [lost] = cluster.of(StepLost)
    assert "has not named it" in lost.reason
    cluster.check()


async def test_nobody_beats_in_anothers_name(cluster):
    """Who may write below one pool only cannot say of another's executor that it has ended, is elsewhere, or began anew."""
    shell = cluster.shell("s1", lease_s=60)
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging and shell._sightings.executors)
    true = shell._sightings.executors["e1"].boot
    for key, pool in (("other.e1", "default"), ("other.e1", "other"), ("other.x", "other"), ("e1", "default")):
        forged = Beat(executor="e1", boot="forged", pool=pool, slots=4, state="terminated")
        await cluster.bus.put_key(EXECUTORS, key, msgspec.json.encode(forged))
    seen = Beat(executor="e2", boot="b2", pool="other", slots=1)
    await cluster.bus.put_key(EXECUTORS, "other.e2", msgspec.json.encode(seen))
    await cluster.until(lambda: "e2" in shell._sightings.executors)
    sighting = shell._sightings.executors["e1"]
    assert (sighting.boot, sighting.pool, sighting.gone) == (true, "default", False)
    steps.hanging[RUN, A, 1].set()
    assert (await cluster.finished()).state == "completed"
    assert cluster.of(StepLost) == []


async def test_an_executors_clock_that_is_an_hour_off_is_told_and_decides_nothing(cluster):
    shell = cluster.shell("s1")
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging and shell.beat_of("e1"))
    said = msgspec.structs.replace(shell.beat_of("e1"), at_ns=time.time_ns() + 3_600_000_000_000)
    before_ns = shell.now_ns
    await cluster.bus.put_key(EXECUTORS, "default.e1", msgspec.json.encode(said))
    await cluster.until(lambda: shell.clock_ahead_ns("e1") > 3_500_000_000_000)
    assert shell.now_ns - before_ns < 60_000_000_000
    steps.hanging[RUN, A, 1].set()
    assert (await cluster.finished()).state == "completed"
    assert cluster.of(StepLost) == []


async def test_an_executor_that_beats_keeps_its_attempt_for_longer_than_a_lease(cluster):
    cluster.shell("s1", lease_s=1.2)
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging)
    beats = []
    async with asyncio.timeout(WAIT_S):
        async for batch in cluster.bus.follow_keys(EXECUTORS):
            beats += batch
            if beats[-1].time_ns - beats[0].time_ns > 2 * 0.9e9:
                break
    assert cluster.of(StepLost) == []
    steps.hang.clear()
    steps.hanging[RUN, A, 1].set()
    assert (await cluster.finished()).state == "completed"


async def test_a_tool_is_stopped_when_its_attempt_is_closed_elsewhere(cluster):
    """Cancelled: the executor is nudged, ends the tool, and tells that its processes are gone."""
    cluster.shell("s1")
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging)
    await cluster.request(CancelRequested(request_id="q-cancel", actor="ann"))
    assert (await cluster.finished()).state == "cancelled"
    await cluster.until(lambda: cluster.of(ProcessesReaped))
    assert steps.cancelled == [(RUN, A, 1)]
    assert [e.actor for e in cluster.of(StepCancelled)] == ["ann"]
    cluster.check()


async def test_a_result_that_comes_too_late_is_kept_as_a_late_fact(cluster):
    """What was learnt and paid for is not dropped, and changes nothing."""
    cluster.shell("s1")
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging)
    [claim] = [r for place, entry, r in cluster.entries if isinstance(entry.events[0], StepStarted)]
    lost = Entry(id="x", run=RUN, at_ns=0, by="scheduler:other", events=[StepLost(reason="silent", executor="e1")])
    steps.hang.clear()
    steps.hanging[RUN, A, 1].set()
    await cluster.bus.append(attempt_subject(RUN, A, 1), encode_entry(lost), expect=claim.sequence)
    assert (await cluster.finished()).state == "completed"
    await cluster.until(lambda: cluster.of(ResultRefused))
    [refused] = cluster.of(ResultRefused)
    assert refused.result.snapshot.commit == "c-ws-a-1"
    cluster.check()


async def test_an_executor_that_cannot_read_a_command_says_so_in_the_log(cluster):
    subject = command_subject("default", RUN, A, 1)
    cluster.executor("e1")
    await cluster.bus.command(subject, b'{"kind":"run_step_of_next_year"}')
    await cluster.until(lambda: cluster.of(StepFinished))
    [close] = cluster.of(StepFinished)
    assert (close.ok, close.error_class) == (False, "protocol_error")
    assert "upgrade this executor" in close.message


@pytest.mark.parametrize("name", ["swell.command.default.r1.ws-a.x", "swell.command.default.r1.ws-a"])
async def test_a_command_in_no_place_at_all_does_not_stop_an_executor(cluster, name):
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.bus.command(name, b"garbage")
    await cluster.submit(spec([bundle(A)]))
    assert (await cluster.finished()).state == "completed"


# One close


@pytest.mark.parametrize("turns", [(8,), *((8, n) for n in range(4)), *((n, 8) for n in range(4))])
@pytest.mark.parametrize("moment", ["asked", "stopping"])
async def test_a_result_and_a_cancellation_that_meet_make_one_close(cluster, moment, turns):
    """The result is stored at the moment of the request, or of the decision to stop; it is folded some turns later.

    One of these falls between the decision to close the attempt and the append of that close.
    """
    cluster.shell("s1", Faults(delivery_turns=turns, single_deliveries=True), reconcile_s=5)
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: cluster.of(StepScheduled))
    subject = attempt_subject(RUN, A, 1)

    def write(event, expect):
        entry = Entry(id=uuid.uuid4().hex, run=RUN, at_ns=0, by="executor:e1", events=[event])
        return cluster.server.publish(EVENTS, subject, encode_entry(entry), expect=expect)

    claim = write(StepStarted(executor="e1", boot="k1"), 0)
    await cluster.request(CancelRequested(request_id="q-cancel", actor="ann"))
    if moment == "stopping":
        await cluster.until(lambda: cluster.of(RunStopping))
    write(StepFinished(ok=True, snapshot=Snapshot(commit="c", tree="t")), claim)
    assert (await cluster.finished()).state == "cancelled"
    cluster.check()


async def test_what_is_folded_while_a_close_is_on_its_way_does_not_make_it_valid(cluster):
    """The close expects what was folded when it was decided, not what has been folded by the time it is sent."""
    await cluster.submit(spec([bundle(A)]))
    shell = cluster.shell("s1", reconcile_s=5)
    await cluster.until(lambda: cluster.of(StepScheduled))
    subject = attempt_subject(RUN, A, 1)
    state = shell.runs[RUN]
    await shell.folded(cluster.server.events.last, WAIT_S)
    shell.leader = False
    decisions = due(state, state.open[A, 1].scheduled.queue_deadline_ns)
    assert [type(e) for d in decisions for e in d.events] == [StepCancelled]
    appending = asyncio.ensure_future(shell._append(state, decisions))
    await asyncio.sleep(0)
    # It is under way, and has not reached the bus: an executor claims, finishes, and both are folded.
    for event in (StepStarted(executor="e1", boot="k1"), StepFinished(ok=True)):
        entry = Entry(id=uuid.uuid4().hex, run=RUN, at_ns=0, by="executor:e1", events=[event])
        sequence = cluster.server.publish(EVENTS, subject, encode_entry(entry), expect=None)
        await shell._fold(Recorded(sequence, subject, 1, encode_entry(entry)))
    with pytest.raises(RefusedError):
        await appending
    assert cluster.of(StepCancelled) == []


# What stands in the log and should not


NO_KIND = b'{"id":"x","run":"r1","at_ns":1,"by":"x","events":[{}]}'
GARBAGE = [b"", b"garbage", b"\xff\xfe", b"[" * 5000, b'{"id":1}', NO_KIND]
PLACES = [
    "swell.event.r1.request", "swell.event.r1.ws-a.1.late", "swell.event.r1.nowhere", "swell.event.r2.run",
    "swell.event.r1.ws-a.\u00b2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "garbage"), [("swell.event.r1.run", g) for g in GARBAGE] + [(p, NO_KIND) for p in PLACES]
)
async def test_an_unreadable_entry_does_not_hold_the_run_up(cluster, subject, garbage):
    """It is skipped and counted: what expects the end of a subject must know where that is."""
    shell = cluster.shell("s1")
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging)
    await cluster.bus.add(subject, garbage)
    steps.hang.clear()
    steps.hanging[RUN, A, 1].set()
    end = await cluster.finished(timeout_s=1.5)
    assert end.state == "completed"
    assert not shell.halted


@pytest.mark.parametrize("subject", ["swell.event.r1.run", *PLACES])
async def test_an_unreadable_entry_just_before_the_end_does_not_keep_the_run_from_ending(cluster, subject):
    """The last word expects the last sequence over everything of the run, and that is what cannot be read."""
    cluster.shell("s1", Faults(delivery_turns=(50,)))
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: cluster.of(WaveFinished))
    cluster.server.publish(EVENTS, subject, b"garbage", expect=None)
    assert (await cluster.finished(timeout_s=1.5)).state == "completed"


NEW_KIND = b'{"id":"x","run":"r1","at_ns":1,"by":"executor:thief","events":[{"kind":"brand_new"}]}'


@pytest.mark.parametrize("garbage", [b"garbage", NEW_KIND])
async def test_an_unreadable_entry_on_an_attempt_does_not_keep_it_open_for_ever(cluster, garbage):
    """Neither its executor nor the scheduler wrote it; the attempt must still get its one close, and nobody stops deciding."""
    shell = cluster.shell("s1", lease_s=0.3)
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: steps.hanging)
    await cluster.bus.add(attempt_subject(RUN, A, 1), garbage)
    await cluster.kill("e1")
    cluster.executor("e2")
    assert (await cluster.finished(timeout_s=2)).state == "completed"
    assert not shell.halted
    cluster.check()


async def test_a_definition_of_another_version_ends_its_run_and_no_other(cluster):
    """The scheduler must survive it, restarts included."""
    shell = cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)], breaker={"key_of_next_year": 1}))
    await cluster.until(lambda: cluster.of(RunFinished) or cluster.tasks["s1"].done(), timeout_s=3)
    assert not cluster.tasks["s1"].done()
    assert cluster.of(RunFinished)[0].state == "failed"
    assert not shell.halted


async def test_a_missing_definition_ends_its_run(cluster):
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.bus.objects.write("unrelated", b"")
    await cluster.submit(spec([bundle(A)]))
    cluster.server.objects.clear()
    end = await cluster.finished()
    assert end.state == "failed"
    assert "cannot be read" in end.reason


# Requests


async def test_a_late_request_is_answered_also_after_a_restart(cluster):
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)]))
    await cluster.finished()
    for number, name in enumerate(["s2", "s3"]):
        await cluster.request(CancelRequested(request_id=f"q-{number}", actor="ann"))
        await cluster.until(lambda n=number: [e for e in cluster.of(RequestAnswered) if e.request_id == f"q-{n}"])
        await cluster.kill(f"s{number + 1}")
        cluster.shell(name)
    answers = cluster.of(RequestAnswered)
    assert [(e.request_id, e.answer) for e in answers] == [("q-0", "refused"), ("q-1", "refused")]
    assert len(cluster.of(RunFinished)) == 1


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_no_request_is_overlooked_by_the_end_of_the_run(cluster, turns):
    """RunFinished expects the last sequence over everything of the run; whoever asks is answered, before or after."""
    cluster.shell("s1", Faults(delivery_turns=(2, 0, 1)))
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)]))
    await cluster.until(lambda: [e for e in cluster.of(StepScheduled) if e.workstream == LINE and e.step == "deliver"])
    for _ in range(turns):
        await asyncio.sleep(0)
    await cluster.request(CancelRequested(request_id="q-cancel", actor="ann"))
    await cluster.finished()
    await cluster.until(lambda: cluster.of(RequestAnswered))
    [answer] = cluster.of(RequestAnswered)
    order = cluster.of(RequestAnswered, RunFinished)
    if answer.answer == "accepted":
        assert isinstance(order[-1], RunFinished)
    else:
        assert isinstance(order[0], RunFinished)
    cluster.check()


async def test_an_unreadable_entry_after_the_end_does_not_keep_a_late_request_from_its_answer(cluster):
    """What is remembered of a run that has ended includes where its subject ends."""
    shell = cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)]))
    await cluster.finished()
    await cluster.until(lambda: RUN in shell.over)
    await cluster.bus.add(run_subject(RUN), b"garbage")
    await cluster.request(CancelRequested(request_id="q-late", actor="ann"))
    await cluster.until(lambda: cluster.of(RequestAnswered), timeout_s=1.5)


async def test_requests_to_a_stepwise_run_are_done(cluster):
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A)], stepwise=True))
    for step in ("edit", "static", "runtime"):
        await cluster.request(StepRequested(request_id=f"q-{step}", actor="ann", workstream=A, step=step))
        await cluster.until(
            lambda s=step: [e for e in cluster.of(RequestAnswered) if (e.request_id, e.answer) == (f"q-{s}", "done")]
        )
    assert [e.step for e in cluster.of(StepScheduled)] == ["edit", "static", "runtime"]
    cluster.check()


async def test_many_runs_at_once(cluster):
    cluster.shell("s1")
    cluster.executor("e1", slots=8)
    runs = [f"many-{n}" for n in range(12)]
    for run in runs:
        definition = msgspec.structs.replace(three(), run=run)
        artifact = await Artifacts(cluster.bus.objects).put("spec", encode_spec(definition))
        event = RunRequested(
            request_id=f"q-{run}", actor="ann", spec=artifact, workstreams=3, repository="r", base_commit=BASE
        )
        await cluster.request(event, run)
    await cluster.until(lambda: len(cluster.of(RunFinished)) == len(runs))
    assert {e.state for e in cluster.of(RunFinished)} == {"completed"}
    assert sorted(
        place.run for place, entry, _ in cluster.entries if isinstance(entry.events[-1], RunFinished)
    ) == sorted(runs)


def test_a_beat_names_what_its_executor_holds():
    """The scheduler reads what executors write."""
    beat = Beat(executor="e1", boot="k1", pool="p", slots=2, attempts=[(RUN, A, 1)])
    assert msgspec.json.decode(msgspec.json.encode(beat), type=Beat) == beat


def test_commands_of_the_largest_decision_fit():
    scheduled = StepScheduled(
        workstream=A, attempt=1, step="gate", pool="p" * 128, input=Snapshot(commit="c" * 64, tree="t" * 64),
        timeout_s=1, queue_deadline_ns=1, merged=[(n, n + 1) for n in range(0, 10_000, 2)],
    )  # fmt: skip
    artifact = Artifact(role="spec", digest="d" * 64, name="n" * 200, size_bytes=1)
    assert encode_command(RunStep(run=RUN, spec=artifact, scheduled_ns=1, step=scheduled))
