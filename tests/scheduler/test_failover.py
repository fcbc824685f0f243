"""What must hold when schedulers go, come back, stand still, or are two: named cases on the real shell."""

import asyncio
import time

import msgspec
import pytest
from memory_bus import Faults
from scheduler_harness import RUN, START_NS, bundle, spec
from test_shell import NO_KIND, Cluster, PlayedSteps

from services.beats import Beat
from services.bus import EXECUTORS
from services.events import (
    CancelRequested,
    RequestAnswered,
    RollbackFinished,
    RollbackRequested,
    RunFinished,
    RunStopping,
    StepLost,
    StepScheduled,
    StepStarted,
)
from services.scheduler import shell as shells
from services.scheduler.shell import Clock
from services.wire import late_subject, run_subject

A, B, C = "ws-a", "ws-b", "ws-c"
SECOND_NS = 10**9


@pytest.fixture
async def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    await made.close()


def one(**rest):
    return spec([bundle(A, **rest)])


def cancel(request_id="q-cancel"):
    return CancelRequested(request_id=request_id, actor="ann")


def answers(cluster, request_id):
    return [e for e in cluster.of(RequestAnswered) if e.request_id == request_id]


# Appends


async def test_a_decision_whose_acknowledgement_is_lost_stands_once(cluster):
    cluster.shell("s1", Faults(lose_answers=frozenset(range(1, 60, 2))))
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A), bundle(B, A)]))
    assert (await cluster.finished()).state == "completed"
    cluster.check()


async def test_a_submission_that_comes_twice_is_one_run(cluster):
    cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(one())
    await cluster.submit(one())
    assert (await cluster.finished()).state == "completed"
    assert [e.attempt for e in cluster.of(StepScheduled) if e.step == "edit"] == [1]
    cluster.check()


@pytest.mark.parametrize("turns", [1, 3, 10, 40])
async def test_nothing_is_decided_while_a_decision_is_not_folded_back(cluster, turns):
    """The entry is stored, its follower is late, and everything that wakes the shell finds it waiting."""
    shell = cluster.shell("s1", Faults(delivery_turns=(turns,), single_deliveries=True), reconcile_s=0.001)
    cluster.executor("e1")
    await cluster.submit(one())
    while not cluster.of(RunFinished):
        shell._wake(RUN)
        await asyncio.sleep(0)
    cluster.check()


@pytest.mark.parametrize("leaders", [2, 3])
async def test_shells_that_all_believe_to_lead_never_decide_twice(cluster, leaders):
    shells_ = [cluster.shell(f"s{n}", Faults(delivery_turns=(n, 0, 2 * n))) for n in range(leaders)]
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A), bundle(B), bundle(C, A)]))
    while not cluster.of(RunFinished):
        for shell in shells_:
            shell.leader = True
            shell._wake(RUN)
        await asyncio.sleep(0)
    cluster.check()
    assert len(cluster.of(RunFinished)) == 1


async def test_reconciling_alone_finds_everything_that_is_owed(cluster):
    """Whoever missed every wake-up still does everything, a little later."""
    shell = cluster.shell("s1", reconcile_s=0.01)
    wake = shell._wake

    def only_reconciled(run):
        if asyncio.current_task().get_coro().__name__ == "_reconcile":
            wake(run)

    shell._wake = only_reconciled
    cluster.executor("e1")
    await cluster.submit(spec([bundle(A), bundle(B, A)]))
    assert (await cluster.finished()).state == "completed"
    cluster.check()


# Requests and the end


@pytest.mark.parametrize("turns", range(6))
async def test_a_request_that_races_with_the_end_is_answered_once(cluster, turns):
    """It arrives between the decision to finish and its append: the end is refused and decided anew, or came first."""
    shell = cluster.shell("s1")
    cluster.executor("e1")
    append, asked = shell._bus.append, []

    async def racing(subject, data, **given):
        if b'"run_finished"' in data and not asked:
            asked.append(True)
            asking = asyncio.ensure_future(cluster.request(cancel()))
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns < 3:
                await asking
        return await append(subject, data, **given)

    shell._bus.append = racing
    await cluster.submit(one())
    end = await cluster.finished()
    await cluster.until(lambda: answers(cluster, "q-cancel"))
    [answer] = answers(cluster, "q-cancel")
    assert asked
    assert (end.state, answer.answer) in {("cancelled", "accepted"), ("completed", "refused")}
    if turns < 3:
        assert end.state == "cancelled", "it stands in the log before the end"
    cluster.check()


async def test_a_request_repeated_after_the_end_gets_its_first_answer(cluster):
    shell = cluster.shell("s1")
    cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(one())
    await cluster.until(lambda: cluster.of(StepStarted))
    await cluster.request(cancel())
    await cluster.finished()
    await cluster.until(lambda: RUN in shell.over)
    await cluster.request(cancel())
    await cluster.request(cancel("q-other"))
    await cluster.until(lambda: answers(cluster, "q-other"))
    assert [e.answer for e in answers(cluster, "q-cancel")] == ["accepted"]
    assert (await shell.answer(RUN, "q-cancel", 1.0)).answer == "accepted"
    assert answers(cluster, "q-other")[0].answer == "refused"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("subject", [run_subject(RUN), late_subject(RUN, A, 1)])
async def test_a_rollback_works_over_entries_that_cannot_be_read(cluster, subject, restarted):
    """A run that has ended is folded again from the log, and what is unreadable there is skipped as it was before."""
    shell = cluster.shell("s1")
    cluster.executor("e1")
    await cluster.submit(one(compensation_actions=("cmd:undo",)))
    await cluster.finished()
    await cluster.until(lambda: RUN in shell.over)
    await cluster.bus.add(subject, b"garbage")
    await cluster.bus.add(subject, NO_KIND)
    if restarted:
        await cluster.kill("s1")
        shell = cluster.shell("s2")
    await cluster.request(RollbackRequested(request_id="q-rollback", actor="ann"))
    await cluster.until(lambda: cluster.of(RollbackFinished))
    assert cluster.of(RollbackFinished)[0].state == "compensated"
    recalled = await shell.recall(RUN)
    assert recalled.workstreams[A].state == "compensated"
    assert recalled.status == "completed"


async def test_a_decision_that_cannot_be_taken_stops_its_run_with_the_reason(cluster):
    """And no other run: poison in one is not everybody's trouble."""
    shell = cluster.shell("s1")
    cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(one())
    await cluster.until(lambda: cluster.of(StepStarted))
    await shell.folded(cluster.server.events.last, 1.0)
    shell.runs[RUN].agenda.add(A)  # nothing has closed: no decision can be taken on it
    end = await cluster.finished()
    assert end.state == "failed"
    assert "could not decide: ValueError" in end.reason
    assert A in end.reason
    assert len(cluster.of(RunStopping)) == 1
    assert not cluster.tasks["s1"].done()
    cluster.check()


# Time


def test_log_time_never_goes_back_and_says_what_it_has_jumped():
    local = [0]
    clock = Clock(lambda: local[0])
    clock.saw(START_NS)
    local[0] += 5 * SECOND_NS
    assert clock.now_ns() == START_NS + 5 * SECOND_NS
    assert clock.saw(START_NS + 2 * SECOND_NS) == 0
    assert clock.now_ns() == START_NS + 5 * SECOND_NS
    assert clock.saw(START_NS + 65 * SECOND_NS) == 60 * SECOND_NS
    assert clock.now_ns() == START_NS + 65 * SECOND_NS


async def test_time_that_the_log_has_jumped_was_not_watched(cluster):
    """A server whose clock is set forward makes nobody lost."""
    offset = [0]
    cluster.server.now_ns = lambda: time.time_ns() + offset[0]
    for stream in (cluster.server.events, cluster.server.commands):
        stream._now_ns = cluster.server.now_ns
    shell = cluster.shell("s1", lease_s=5)
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(one(), "q-run")
    await cluster.until(lambda: steps.hanging and shell.leader)
    since_ns = shell._sightings.since_ns
    offset[0] = 60 * SECOND_NS
    await cluster.bus.add("swell.event.r9.request", b"garbage")
    await shell.folded(cluster.server.events.last, 1.0)
    assert shell._sightings.since_ns - since_ns > 59 * SECOND_NS
    for _ in range(20):
        shell._wake(RUN)
        await asyncio.sleep(0)
    assert cluster.of(StepLost) == []
    steps.hang.clear()
    steps.hanging[RUN, A, 1].set()
    assert (await cluster.finished()).state == "completed"


async def test_a_leader_that_stood_still_steps_back_and_declares_nobody_lost(cluster):
    """Its loop did not move for longer than a lease: what it did not see meanwhile proves nothing."""
    shell = cluster.shell("s1", lease_s=0.9, reconcile_s=0.005)
    steps = cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(one())
    await cluster.until(lambda: steps.hanging and shell.leader and shell._sightings.executors)
    time.sleep(shells.STALL_S + 0.2)  # noqa: ASYNC251 - to stand still is what is tested
    assert shell._stood_still()
    assert not shell.leader
    assert cluster.of(StepLost) == []
    await asyncio.sleep(0)
    steps.hang.clear()
    steps.hanging[RUN, A, 1].set()
    assert (await cluster.finished()).state == "completed"
    assert cluster.of(StepLost) == []
    cluster.check()


async def test_the_first_decision_after_standing_still_is_made_by_nobody(cluster):
    """Also when what wakes it comes before the tick has noticed."""
    shell = cluster.shell("s1", lease_s=60)
    await cluster.until(lambda: shell.leader)
    await cluster.submit(one())
    await cluster.until(
        lambda: RUN in shell.runs and shell.runs[RUN].unclaimed and not shell._driving
    )  # and what it appended is folded
    shell._ticked -= shells.STALL_S + 1
    before = len(cluster.entries)
    shell._dirty.add(RUN)
    await shell._drive(RUN)
    assert not shell.leader
    assert len(cluster.entries) == before


async def test_a_new_leader_waits_a_lease_of_its_own_before_it_declares_anybody_lost(cluster):
    """It begins to watch when it begins to lead, however old the claim is."""
    cluster.shell("s1", lease_s=60)
    cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(one())
    await cluster.until(lambda: cluster.of(StepStarted))
    await cluster.kill("e1")
    await cluster.kill("s1")
    shell = cluster.shell("s2", lease_s=0.3)
    await cluster.until(lambda: shell.leader)
    led = shell.clock.now_ns()
    cluster.executor("e2")
    await cluster.until(lambda: cluster.of(StepLost))
    [lost_ns] = [r.time_ns for _, e, r in cluster.entries if isinstance(e.events[0], StepLost)]
    assert lost_ns - led > 0.25 * SECOND_NS
    assert (await cluster.finished()).state == "completed"


async def test_an_executor_that_says_it_has_ended_loses_its_attempts_at_once(cluster):
    shell = cluster.shell("s1", lease_s=60)
    cluster.executor("e1", PlayedSteps(hang={(A, "edit")}))
    await cluster.submit(one())
    await cluster.until(lambda: cluster.of(StepStarted))
    [claim] = cluster.of(StepStarted)
    await cluster.until(lambda: shell._sightings.executors)
    await cluster.kill("e1")
    last = Beat(executor="e1", boot=claim.boot, pool="default", slots=4, state="terminated")
    await cluster.bus.put_key(EXECUTORS, "default.e1", msgspec.json.encode(last))
    cluster.executor("e2")
    assert (await cluster.finished()).state == "completed"
    assert "has ended" in cluster.of(StepLost)[0].reason
