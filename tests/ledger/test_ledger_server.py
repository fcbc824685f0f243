"""LedgerService over a real channel: lists, watches, artifacts, refusals."""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import duckdb
import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ledger_damage import bulky, harm_unseen
from ledger_histories import (
    LOG,
    MemoryLive,
    MemoryLog,
    MemoryObjects,
    Story,
    moved,
    scheduled,
    sha256,
    snapshot,
    steady,
)

from services import events as ev
from services.access import anybody
from services.ledger.absorb import Absorber
from services.ledger.archive import Archivist
from services.ledger.audit import Auditor
from services.ledger.copying import Copies
from services.ledger.history import History
from services.ledger.projector import VERSION
from services.ledger.replica import Freshness
from services.ledger.segment import Archive
from services.ledger.server import SERVICE, LedgerServer
from services.ledger.snapshots import Snapshots
from services.ledger.sql import Limits, Questions
from services.ledger.store import Store, StoreDamagedError, restored_file
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.v1 import ledger_pb2_grpc
from services.ledger.verify import Verifier
from services.ledger.watches import Watching
from services.rpc import Health, RpcError, create_server, serve


class Served:
    """A ledger over a log in memory."""

    def __init__(
        self,
        log: MemoryLog,
        absorber: Absorber,
        stub: ledger_pb2_grpc.LedgerServiceStub,
        live: MemoryLive,
        start: asyncio.Event,
        answers: LedgerServer,
        address: str,
    ) -> None:
        self.address = address
        self.answers = answers
        self.log = log
        self.start = start
        self.live = live
        self.absorber = absorber
        self.stub = stub

    async def level(self) -> None:
        """Wait until everything in the log is absorbed."""
        async with asyncio.timeout(10):
            while self.absorber.position < len(self.log.records):  # noqa: ASYNC110 - the gauge is what is public
                await asyncio.sleep(0.002)


async def absorb(start: asyncio.Event, absorber: Absorber) -> None:
    await start.wait()
    with contextlib.suppress(StoreDamagedError):
        await absorber.run()


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    records=(),
    *,
    objects: MemoryObjects | None = None,
    backlog=10_000,
    heartbeat_s=15.0,
    absorbed=True,
    lag_max=1000,
    wait_s=5.0,
    watching=None,
    archive: Archive | None = None,
    **settings,
):
    store = Store.open(folder / "l")
    log = MemoryLog(list(records))
    history = History(archive)
    absorber = Absorber(
        store,
        log,
        linger_s=0,
        batch_max=50,
        watching=watching or Watching(entries_max=backlog),
        lag_max=lag_max,
        history=history,
    )
    await absorber.verify()
    start = asyncio.Event()
    if absorbed:
        start.set()
    absorbing = asyncio.create_task(absorb(start, absorber))
    server = create_server(
        access=anybody(),
        max_message_bytes=65536,
        concurrent_rpcs=50,
        within=[Freshness(SERVICE, absorber, wait_s=wait_s)],
    )
    live = MemoryLive()
    answers = LedgerServer(
        store,
        absorber,
        objects or MemoryObjects(),
        live,
        Verifier(store, absorber, log, batch_max=50, history=history),
        Auditor(store, log, history=history),
        Questions(Snapshots(store), Limits()),
        archivist=None
        if archive is None
        else Archivist(store, absorber, log, archive, remover=lambda: nullcontext(log)),
        copies=Copies(store, log, history=history),
        heartbeat_s=heartbeat_s,
        artifact_bytes_max=10**9,
        started_ns=17,
        **settings,
    )
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(answers, server)
    port = await serve(server, "127.0.0.1:0", [SERVICE], Health([SERVICE]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        served = Served(
            log, absorber, ledger_pb2_grpc.LedgerServiceStub(channel), live, start, answers, f"127.0.0.1:{port}"
        )
        if absorbed:
            await served.level()
        try:
            yield served
        finally:
            absorbing.cancel()
            await asyncio.wait([absorbing])
            absorber.close()
            await server.stop(0)
            await answers.close()
            store.close()


async def reason(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    return caught.value.code(), info.reason


async def pages(call, request, field: str) -> list:
    """Everything that a list gives, page after page."""
    found = []
    while True:
        answer = await call(request)
        found += getattr(answer, field)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def rich() -> list:
    story = Story()
    story.accepted("a", "b")
    finish = ev.StepFinished(ok=True, snapshot=snapshot("d"), files=["x.py"], artifacts=[LOG], exit_code=0)
    story.step("a", 1, "edit", finish)
    story.step("b", 1, "edit", ev.StepFinished(ok=False, error_class="no_change"))
    story.decide(moved("a", "editing", "completed"), moved("b", "editing", "failed", "it changed nothing"))
    story.decide(scheduled(ev.LINE, 1, "merge", on_behalf="a"))
    story.accepted("c", run="r2")
    return story.records


async def test_a_run_and_what_belongs_to_it(tmp_path):
    records = rich()
    async with serving(tmp_path, records) as ledger:
        answer = await ledger.stub.GetRun(pb.GetRunRequest(run="r1"))
        assert answer.position == len(records)
        assert (answer.run.state, answer.run.completed, answer.run.failed, answer.run.attempts) == ("running", 1, 1, 3)
        workstreams = await ledger.stub.ListWorkstreams(pb.ListWorkstreamsRequest(run="r1"))
        assert [(w.workstream, w.state, list(w.steps_executed)) for w in workstreams.workstreams] == [
            ("a", "completed", ["edit"]),
            ("b", "failed", ["edit"]),
        ]
        assert workstreams.position == len(records)
        attempts = (await ledger.stub.ListAttempts(pb.ListAttemptsRequest(run="r1"))).attempts
        assert [(a.workstream, a.attempt, a.state) for a in attempts] == [
            ("a", 1, "finished"),
            ("b", 1, "finished"),
            (ev.LINE, 1, "scheduled"),
        ]
        assert (list(attempts[0].files), attempts[0].artifacts[0].digest) == (["x.py"], LOG.digest)
        assert [attempt.HasField("exit_code") for attempt in attempts] == [True, False, False]


def changed_twice() -> list:
    """A workstream whose second patch is the same change as that of another workstream."""
    story = Story()
    story.accepted("a", "b")
    for workstream, attempt, step, letter in (("a", 1, "edit", "1"), ("a", 2, "fix", "2"), ("b", 1, "edit", "2")):
        kept = ev.Artifact(role="patch", digest=letter * 64, name=f"patch-{letter}", size_bytes=9)
        finish = ev.StepFinished(ok=True, snapshot=snapshot("d"), files=["x.py"], files_total=1, artifacts=[kept])
        story.step(workstream, attempt, step, finish)
    story.decide(moved("a", "validating", "merging"))
    return story.records


async def test_patches_and_their_history(tmp_path):
    records = changed_twice()
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub
        patches = await pages(stub.ListPatches, pb.ListPatchesRequest(page_size=2), "patches")
        assert [(p.workstream, p.attempt, p.step, p.state) for p in patches] == [
            ("a", 1, "edit", "dropped"),
            ("a", 2, "fix", "queued"),
            ("b", 1, "edit", "validated"),
        ]
        assert (list(patches[1].files), patches[1].files_total, patches[1].artifact) == (["x.py"], 1, "patch-2")
        for request, found in (
            (pb.ListPatchesRequest(digest="2" * 64), [("a", 2), ("b", 1)]),
            (pb.ListPatchesRequest(run="r1", workstream="a"), [("a", 1), ("a", 2)]),
            (pb.ListPatchesRequest(run="r1", state="dropped"), [("a", 1)]),
            (pb.ListPatchesRequest(run="r2"), []),
        ):
            answer = await stub.ListPatches(request)
            assert [(p.workstream, p.attempt) for p in answer.patches] == found
            assert answer.position == len(records)
        answer = await stub.GetPatch(pb.GetPatchRequest(run="r1", workstream="a"))
        assert (answer.patch, answer.position) == (patches[1], len(records))
        assert (await stub.GetPatch(pb.GetPatchRequest(run="r1", workstream="a", attempt=1))).patch == patches[0]
        request = pb.ListPatchMovesRequest(run="r1", workstream="a", page_size=1)
        moves = await pages(stub.ListPatchMoves, request, "moves")
        assert [(m.attempt, m.from_state, m.to_state) for m in moves] == [
            (1, "", "created"),
            (1, "created", "validated"),
            (2, "", "created"),
            (2, "created", "validated"),
            (1, "validated", "dropped"),
            (2, "validated", "queued"),
        ]
        of_one = await stub.ListPatchMoves(pb.ListPatchMovesRequest(run="r1", workstream="b", attempt=1))
        assert [(m.index, m.turn, m.to_state) for m in of_one.moves] == [(0, 0, "created"), (0, 1, "validated")]
        for attempt in (0, 7):
            missing = stub.GetPatch(pb.GetPatchRequest(run="r1", workstream="nope", attempt=attempt))
            assert await reason(missing) == (grpc.StatusCode.NOT_FOUND, "PATCH_NOT_FOUND")


async def test_lists_page_without_gap_or_repetition(tmp_path):
    records = steady(3, 4)
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub
        runs = await pages(stub.ListRuns, pb.ListRunsRequest(page_size=1), "runs")
        assert [run.run for run in runs] == ["run2", "run1", "run0"]
        some = await pages(stub.ListWorkstreams, pb.ListWorkstreamsRequest(run="run1", page_size=3), "workstreams")
        assert [w.workstream for w in some] == ["w0", "w1", "w2", "w3"]
        attempts = await pages(stub.ListAttempts, pb.ListAttemptsRequest(run="run1", page_size=5), "attempts")
        assert [(a.workstream, a.attempt) for a in attempts] == list(
            itertools.product(["w0", "w1", "w2", "w3"], [1, 2, 3])
        )
        one = await pages(
            stub.ListAttempts, pb.ListAttemptsRequest(run="run1", workstream="w2", page_size=2), "attempts"
        )
        assert len(one) == 3
        events = await pages(stub.ListEvents, pb.ListEventsRequest(page_size=7), "events")
        places = [(e.position, e.index) for e in events]
        assert places == sorted(set(places))
        assert {e.position for e in events} == {record.sequence for record in records}
        back = await pages(stub.ListEvents, pb.ListEventsRequest(page_size=7, newest_first=True), "events")
        assert [(e.position, e.index) for e in back] == places[::-1]


async def test_events_are_filtered_and_tell_their_entry(tmp_path):
    async with serving(tmp_path, rich()) as ledger:
        request = pb.ListEventsRequest(run="r1", workstream="a", kinds=["step_started", "step_finished"])
        events = (await ledger.stub.ListEvents(request)).events
        assert [(e.kind, e.attempt, e.by) for e in events] == [
            ("step_started", 1, "writer:1"),
            ("step_finished", 1, "writer:1"),
        ]
        assert events[0].entry == f"id-{events[0].position}"
        assert '"kind":"step_finished"' in events[1].payload_json
        after = await ledger.stub.ListEvents(pb.ListEventsRequest(run="r1", after_position=events[1].position))
        assert min(e.position for e in after.events) > events[1].position


async def test_filters_by_state(tmp_path):
    async with serving(tmp_path, rich()) as ledger:
        failed = await ledger.stub.ListWorkstreams(pb.ListWorkstreamsRequest(run="r1", state="failed"))
        assert [w.workstream for w in failed.workstreams] == ["b"]
        none = await ledger.stub.ListWorkstreams(pb.ListWorkstreamsRequest(run="r1", state="merging"))
        assert (list(none.workstreams), none.position) == ([], len(ledger.log.records))
        assert len((await ledger.stub.ListRuns(pb.ListRunsRequest(state="running"))).runs) == 2


async def test_large_answers_are_cut_to_what_a_client_takes(tmp_path):
    story = Story()
    story.accepted("a")
    for _ in range(60):
        story.raw(
            "swell.event.r1.run",
            b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[{"kind":"k","x":"%s"}]}' % (b"x" * 200_000),
        )
    async with serving(tmp_path, story.records) as ledger:
        assert (
            len(await pages(ledger.stub.ListEvents, pb.ListEventsRequest(kinds=["k"], page_size=1000), "events")) == 60
        )


async def test_what_cannot_be_answered_says_why(tmp_path):
    invalid = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    missing = (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
    async with serving(tmp_path, rich()) as ledger:
        stub = ledger.stub
        token = (await stub.ListEvents(pb.ListEventsRequest(page_size=1))).next_page_token
        foreign = pb.ListEventsRequest(page_size=1, page_token=token, run="r1")
        assert await reason(stub.ListEvents(foreign)) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_PAGE_TOKEN")
        assert await reason(stub.GetRun(pb.GetRunRequest(run="nope"))) == missing
        assert await reason(stub.ListWorkstreams(pb.ListWorkstreamsRequest(run="nope"))) == missing
        assert await reason(stub.ListAttempts(pb.ListAttemptsRequest(run="nope"))) == missing
        for call in (
            stub.GetRun(pb.GetRunRequest()),
            stub.GetRun(pb.GetRunRequest(run="a.b")),
            stub.GetRun(pb.GetRunRequest(run="a" * 129)),
            stub.ListRuns(pb.ListRunsRequest(page_size=-1)),
            stub.ListRuns(pb.ListRunsRequest(state="' OR 1=1")),
            stub.ListAttempts(pb.ListAttemptsRequest(run="r1", workstream="a b")),
            stub.ListEvents(pb.ListEventsRequest(after_position=-1)),
            stub.GetPatch(pb.GetPatchRequest(run="r1")),
            stub.GetPatch(pb.GetPatchRequest(run="r1", workstream="a", attempt=-1)),
            stub.ListPatches(pb.ListPatchesRequest(digest="short")),
            stub.ListPatchMoves(pb.ListPatchMovesRequest()),
            stub.ListEvents(pb.ListEventsRequest(kinds=["k"] * 65)),
            stub.WatchEvents(pb.WatchEventsRequest(run="*")).read(),
            stub.ReadArtifact(pb.ReadArtifactRequest(name="n", digest="short")).read(),
            stub.ReadArtifact(pb.ReadArtifactRequest(name="", digest="a" * 64)).read(),
        ):
            assert await reason(call) == invalid


async def watched(call, until: int) -> list[tuple[int, int]]:
    """The places of the events of a watch up to a position."""
    places = []
    async with asyncio.timeout(20):
        while (answer := await call.read()).position < until:
            places += [(event.position, event.index) for event in answer.events]
    call.cancel()
    return places + [(event.position, event.index) for event in answer.events]


async def test_a_watch_replays_and_goes_on_live_without_gap_or_repetition(tmp_path):
    """Watchers join at any moment while the log grows; each gets every event once, in order."""
    records = steady(2, 30)
    async with serving(tmp_path, records[:50]) as ledger:
        watching = []
        for start in range(50, len(records), 25):
            ledger.log.extend(records[start : start + 25])
            call = ledger.stub.WatchEvents(pb.WatchEventsRequest(after_position=start // 3))
            watching.append((start // 3, asyncio.create_task(watched(call, len(records)))))
            await call.wait_for_connection()
        await ledger.level()
        everything = await pages(ledger.stub.ListEvents, pb.ListEventsRequest(page_size=1000), "events")
        for after, task in watching:
            assert await task == [(e.position, e.index) for e in everything if e.position > after]


async def test_a_watch_resumes_where_it_was_cut(tmp_path):
    records = steady(1, 20)
    async with serving(tmp_path, records) as ledger:
        places, after = [], 0
        while after < len(records):
            call = ledger.stub.WatchEvents(pb.WatchEventsRequest(after_position=after))
            for _ in range(17):
                answer = await call.read()
                places += [(event.position, event.index) for event in answer.events]
                after = answer.position
                if after >= len(records):
                    break
            call.cancel()
        everything = await pages(ledger.stub.ListEvents, pb.ListEventsRequest(page_size=1000), "events")
        assert places == [(e.position, e.index) for e in everything]


async def test_a_watch_of_one_run_hears_only_of_it_but_moves_on(tmp_path):
    records = steady(2, 3)
    async with serving(tmp_path, records, heartbeat_s=0.05) as ledger:
        call = ledger.stub.WatchEvents(pb.WatchEventsRequest(run="run0"))
        runs, positions = set(), [0]
        while positions[-1] < len(records):
            answer = await call.read()
            runs |= {event.run for event in answer.events}
            positions.append(answer.position)
        assert runs == {"run0"}
        assert positions == sorted(positions)
        story = Story()
        story.records = list(records)
        story.accepted("x", run="run7")
        ledger.log.extend(story.records[len(records) :])
        while (answer := await call.read()).position < len(story.records):
            assert not answer.events
        call.cancel()


async def test_a_silent_watch_hears_its_position(tmp_path):
    async with serving(tmp_path, heartbeat_s=0.02) as ledger:
        call = ledger.stub.WatchEvents(pb.WatchEventsRequest())
        for _ in range(3):
            answer = await call.read()
            assert (len(answer.events), answer.position) == (0, 0)
        call.cancel()


async def test_a_watch_that_falls_behind_goes_on_from_the_store(tmp_path):
    records = steady(1, 20)
    async with serving(tmp_path, records[:2], backlog=5) as ledger:
        call = ledger.stub.WatchEvents(pb.WatchEventsRequest(after_position=2))
        assert (await call.read()).position == 2
        ledger.log.extend(records[2:])
        places = await watched(call, len(records))
        assert places == sorted(set(places))
        assert {position for position, _ in places} == {record.sequence for record in records[2:]}


async def test_watches_end_when_the_ledger_stops(tmp_path):
    async with serving(tmp_path) as ledger:
        call = ledger.stub.WatchEvents(pb.WatchEventsRequest())
        await call.read()
        ledger.absorber.close()
        assert await reason(call.read()) == (grpc.StatusCode.UNAVAILABLE, "WATCH_ENDED")


async def test_artifacts_come_in_chunks_and_are_checked(tmp_path):
    data = bytes(range(256)) * 20_000
    async with serving(tmp_path, objects=MemoryObjects(big=data, empty=b"")) as ledger:

        def read(name: str, digest: str):
            return ledger.stub.ReadArtifact(pb.ReadArtifactRequest(name=name, digest=digest))

        chunks = [answer.chunk async for answer in read("big", sha256(data))]
        assert b"".join(chunks) == data
        assert max(map(len, chunks)) <= 1024 * 1024
        assert b"".join([answer.chunk async for answer in read("empty", sha256(b""))]) == b""

        async def whole(name: str) -> None:
            async for _ in read(name, "0" * 64):
                pass

        assert await reason(whole("big")) == (grpc.StatusCode.DATA_LOSS, "ARTIFACT_DIGEST_MISMATCH")
        assert await reason(whole("none")) == (grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND")


async def test_live_output_comes_as_it_is_printed_and_only_of_what_was_asked_for(tmp_path):
    async with serving(tmp_path, heartbeat_s=0.05) as served:
        call = served.stub.WatchOutput(pb.WatchOutputRequest(run="r1", workstream="ws-a"))
        assert (await call.read()).chunk == b""  # a sign of life: the watch is listening
        served.live.say("swell.live.r1.ws-b", b"not this")
        served.live.say("swell.live.r1.ws-a", b"this")
        answer = await call.read()
        while not answer.chunk:
            answer = await call.read()
        assert (answer.workstream, answer.chunk) == ("ws-a", b"this")
        call.cancel()


async def test_live_output_of_a_run_that_cannot_be_named_is_refused(tmp_path):
    async with serving(tmp_path) as served:
        call = served.stub.WatchOutput(pb.WatchOutputRequest(run="r1.>"))
        assert (await reason(call.read()))[0] == grpc.StatusCode.INVALID_ARGUMENT


def fleet() -> list:
    """Three executors, one of them gone; two breakers; two pauses."""
    story = Story()

    def moves(name: str, to_state: str) -> ev.ExecutorTransitioned:
        return ev.ExecutorTransitioned(
            executor=name, boot="k1", pool="p", slots=2, from_state="spawning", to_state=to_state, reason="seen"
        )

    story.decide(moves("e1", "idle"), moves("e2", "idle"), run="fleet")
    story.decide(moves("e3", "idle"), run="fleet")
    story.decide(moves("e2", "terminated"), run="fleet")
    story.decide(
        ev.ToolBreakerOpened(tool="zed", failures=3, until_ns=9, reason="out", error_class="auth"),
        ev.ToolBreakerOpened(tool="aider", failures=2, until_ns=8, reason="out"),
        ev.FleetPaused(scope="tool", name="aider", actor="ann", reason="costs"),
        ev.FleetPaused(scope="all", actor="bob"),
        run="fleet",
    )
    return story.records


async def test_executors_breakers_and_pauses(tmp_path):
    records = fleet()
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub
        executors = await pages(stub.ListExecutors, pb.ListExecutorsRequest(page_size=1), "executors")
        assert [(e.executor, e.state, e.terminated_ns > 0) for e in executors] == [
            ("e3", "idle", False),
            ("e2", "terminated", True),
            ("e1", "idle", False),
        ]
        idle = await stub.ListExecutors(pb.ListExecutorsRequest(state="idle"))
        assert [e.executor for e in idle.executors] == ["e3", "e1"]
        assert (idle.executors[0].pool, idle.executors[0].slots, idle.position) == ("p", 2, len(records))
        breakers = await stub.ListToolBreakers(pb.ListToolBreakersRequest())
        assert [(b.tool, b.state, b.failures, b.error_class) for b in breakers.tool_breakers] == [
            ("aider", "open", 2, "unknown"),
            ("zed", "open", 3, "auth"),
        ]
        assert breakers.position == len(records)
        pauses = await stub.ListPauses(pb.ListPausesRequest())
        assert [(p.scope, p.name, p.actor, p.reason) for p in pauses.pauses] == [
            ("all", "", "bob", ""),
            ("tool", "aider", "ann", "costs"),
        ]
        assert pauses.position == len(records)


async def test_an_empty_fleet_is_an_answer(tmp_path):
    async with serving(tmp_path) as ledger:
        stub = ledger.stub
        assert list((await stub.ListExecutors(pb.ListExecutorsRequest())).executors) == []
        assert list((await stub.ListToolBreakers(pb.ListToolBreakersRequest())).tool_breakers) == []
        assert list((await stub.ListPauses(pb.ListPausesRequest())).pauses) == []


async def test_the_new_fields_of_runs_workstreams_and_attempts(tmp_path):
    story = Story()
    story.accepted("a")
    handed = ev.HandedContext(decision="reduced", left_out=3, tokens=9)
    story.decide(scheduled("a", 1, "edit", tool="claude", reduction=1, capability="refactoring"))
    story.live("a", 1, ev.StepStarted(executor="e1", boot="k1"))
    story.live("a", 1, ev.StepFinished(ok=False, context=handed))
    delayed = ev.StepDelayed(step=scheduled("a", 2, "edit"), cause="tool_paused", reason="paused", until_ns=0)
    story.decide(delayed, moved("a", "editing", "awaiting_review"), delayed)
    story.decide(ev.RollbackStarted(request_id="q", actor="ann", workstreams=0, reason="regret"))
    async with serving(tmp_path, story.records) as ledger:
        run = (await ledger.stub.GetRun(pb.GetRunRequest(run="r1"))).run
        assert (run.awaiting_review, run.rollback, run.rollback_reason) == (1, "running", "regret")
        (row,) = (await ledger.stub.ListWorkstreams(pb.ListWorkstreamsRequest(run="r1"))).workstreams
        assert (row.waiting_for, row.waiting_reason, row.waiting_until_ns, row.tool) == (
            "tool_paused", "paused", 0, "claude",
        )  # fmt: skip
        (attempt,) = (await ledger.stub.ListAttempts(pb.ListAttemptsRequest(run="r1"))).attempts
        assert (attempt.tool, attempt.reduction, attempt.action, attempt.capability) == ("claude", 1, "", "refactoring")
        assert (attempt.context, attempt.left_out, attempt.context_tokens) == ("reduced", 3, 9)


async def test_until_it_has_caught_up_it_answers_only_how_far_it_is(tmp_path):
    """Better no answer than that a run which is in the log does not exist; watches deliver what is true in any case."""
    records = steady(2, 10)
    behind = (grpc.StatusCode.UNAVAILABLE, "LEDGER_BEHIND")
    async with serving(tmp_path, records, absorbed=False) as ledger:
        stub = ledger.stub
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert (status.position, status.stream_last, status.caught_up, status.rebuilding) == (
            0, len(records), False, True,
        )  # fmt: skip
        assert (status.projection, status.started_ns, status.seconds_left) == (VERSION, 17, -1)
        assert status.file_bytes > 0
        assert await reason(stub.GetRun(pb.GetRunRequest(run="run0"))) == behind
        assert await reason(stub.ListExecutors(pb.ListExecutorsRequest())) == behind
        assert (await reason(stub.VerifyLedger(pb.VerifyLedgerRequest()).read()))[1] == "LEDGER_BEHIND"
        refused = (grpc.StatusCode.FAILED_PRECONDITION, "REBUILD_RUNNING")
        assert await reason(stub.RebuildLedger(pb.RebuildLedgerRequest())) == refused
        watching = asyncio.create_task(watched(stub.WatchEvents(pb.WatchEventsRequest()), len(records)))
        ledger.start.set()
        await ledger.level()
        assert {position for position, _ in await watching} == {record.sequence for record in records}
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert (status.caught_up, status.rebuilding, status.seconds_left) == (True, False, 0)
        assert status.events_per_s > 0
        assert (await stub.GetRun(pb.GetRunRequest(run="run0"))).run.state == "completed"


@pytest.mark.parametrize(("lag_max", "answers"), [(10_000, True), (5, False)])
async def test_a_file_that_is_a_little_behind_answers_and_one_far_behind_does_not(tmp_path, lag_max, answers):
    records = steady(2, 10)
    async with serving(tmp_path, records[:-20]):
        pass
    async with serving(tmp_path, records, absorbed=False, lag_max=lag_max) as ledger:
        status = await ledger.stub.GetStatus(pb.GetStatusRequest())
        assert (status.caught_up, status.rebuilding) == (answers, False)
        call = ledger.stub.GetRun(pb.GetRunRequest(run="run0"))
        if answers:
            assert (await call).run.run == "run0"
        else:
            assert (await reason(call))[1] == "LEDGER_BEHIND"


async def test_a_rebuild_that_never_committed_is_still_one_after_a_restart(tmp_path):
    """A file that holds nothing must not answer that no run exists."""
    async with serving(tmp_path):
        pass
    async with serving(tmp_path, steady(2, 10), absorbed=False, lag_max=10_000) as ledger:
        status = await ledger.stub.GetStatus(pb.GetStatusRequest())
        assert (status.position, status.caught_up, status.rebuilding, status.archived) == (0, False, True, 0)
        assert (await reason(ledger.stub.GetRun(pb.GetRunRequest(run="run0"))))[1] == "LEDGER_BEHIND"


async def verified(stub, **request) -> tuple[list[pb.Difference], pb.VerifyResult]:
    said = [answer async for answer in stub.VerifyLedger(pb.VerifyLedgerRequest(**request))]
    assert said[-1].WhichOneof("said") == "result"
    return [answer.difference for answer in said if answer.WhichOneof("said") == "difference"], said[-1].result


async def test_a_verification_tells_progress_then_what_came_of_it(tmp_path):
    records = [*steady(2, 5)]
    async with serving(tmp_path, records) as ledger:
        differences, result = await verified(ledger.stub)
        assert (differences, result.ok, result.position, result.entries) == ([], True, len(records), len(records))
        assert len(result.hash) == 64
        for most in (-1, 1001):
            call = ledger.stub.VerifyLedger(pb.VerifyLedgerRequest(differences_max=most)).read()
            assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_verification_tells_so_many_differences_and_counts_all(tmp_path):
    records = steady(2, 5)
    async with serving(tmp_path, records):
        pass
    with duckdb.connect(str(tmp_path / "l")) as tampering:
        tampering.execute("UPDATE workstreams SET reason = 'x'")
    async with serving(tmp_path, records) as ledger:
        differences, result = await verified(ledger.stub, differences_max=3)
        assert (len(differences), result.differences, result.ok) == (3, 10, False)
        assert (differences[0].table, differences[0].key, differences[0].column, differences[0].stored) == (
            "workstreams", "run=run0 workstream=w0", "reason", "x",
        )  # fmt: skip


async def condemned(ledger: Served) -> None:
    """Wait until the file is: once the answer is on its way."""
    async with asyncio.timeout(5):
        await ledger.absorber.condemned.wait()


async def test_a_rebuild_condemns_the_file_once(tmp_path):
    records = steady(1, 2)
    async with serving(tmp_path, records) as ledger:
        too_long = pb.RebuildLedgerRequest(reason="x" * 501)
        assert (await reason(ledger.stub.RebuildLedger(too_long)))[1] == "INVALID_FIELD"
        ledger.log.connected = False
        assert (await reason(ledger.stub.RebuildLedger(pb.RebuildLedgerRequest())))[1] == "BUS_UNAVAILABLE"
        ledger.log.connected = True
        answer = await ledger.stub.RebuildLedger(pb.RebuildLedgerRequest(reason="doubt"))
        assert (answer.position, answer.stream_last) == (len(records), len(records))
        await condemned(ledger)
        assert (await reason(ledger.stub.RebuildLedger(pb.RebuildLedgerRequest())))[1] == "REBUILD_RUNNING"
    async with serving(tmp_path, records) as ledger:
        assert (tmp_path / "l.corrupt-1").exists()
        assert (await ledger.stub.GetRun(pb.GetRunRequest(run="run0"))).run.state == "completed"


async def test_nothing_is_condemned_for_a_harmed_archive_and_everything_that_reads_it_says_so(tmp_path):
    records = steady(2, 5)
    async with serving(tmp_path, records[:20], archive=Archive(tmp_path / "archive")) as ledger:
        stub = ledger.stub

        def calls() -> dict[str, Callable[[], Awaitable[object]]]:
            return {
                "rebuild": lambda: stub.RebuildLedger(pb.RebuildLedgerRequest()),
                "restore": lambda: stub.RestoreLedger(sent(b"".join(chunks)), timeout=10),
                "verify": lambda: verified(stub),
                "archive": lambda: last_of(stub.ArchiveLedger(pb.ArchiveLedgerRequest(older_than_days=0))),
                "dry run": lambda: last_of(stub.ArchiveLedger(pb.ArchiveLedgerRequest(dry_run=True))),
                "purge": lambda: last_of(stub.ArchiveLedger(pb.ArchiveLedgerRequest(purge=True))),
            }

        chunks = [said.chunk async for said in stub.BackupLedger(pb.BackupLedgerRequest(), timeout=10)]
        ledger.log.extend(records[20:])
        await ledger.level()
        await last_of(stub.ArchiveLedger(pb.ArchiveLedgerRequest(older_than_days=0)))
        (segment,) = (tmp_path / "archive").glob("*.parquet")
        sound = segment.read_bytes()
        segment.write_bytes(sound[:-1] + b"?")
        for asked, call in calls().items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call()
            assert refused.value.code() == grpc.StatusCode.DATA_LOSS, asked
            assert segment.name in refused.value.details()
        assert not ledger.absorber.condemned.is_set()
        assert not restored_file(tmp_path / "l").exists()
        segment.write_bytes(sound)
        await calls()["restore"]()
        await condemned(ledger)


async def last_of(call) -> object:
    *_, last = [said async for said in call]
    return last


async def test_damage_met_by_a_question_condemns_the_file(tmp_path):
    records = bulky()
    async with serving(tmp_path, records):
        pass
    harm_unseen(tmp_path / "l")
    async with serving(tmp_path, records) as ledger:
        everything = pages(ledger.stub.ListEvents, pb.ListEventsRequest(page_size=1000), "events")
        assert await reason(everything) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_DAMAGED")
        await condemned(ledger)


async def test_an_archive_needs_a_folder_and_days_that_make_sense(tmp_path):
    async with serving(tmp_path, steady(1, 1)) as ledger:
        for days, said in ((0, "NO_ARCHIVE"), (-1, "INVALID_FIELD"), (36_501, "INVALID_FIELD")):
            call = ledger.stub.ArchiveLedger(pb.ArchiveLedgerRequest(older_than_days=days)).read()
            assert (await reason(call))[1] == said


def sent(data: bytes, digest: str = "", **header):
    yield pb.RestoreLedgerRequest(
        header=pb.RestoreHeader(**({"size_bytes": len(data), "sha256": digest or sha256(data)} | header))
    )
    for first in range(0, len(data), 32_768):
        yield pb.RestoreLedgerRequest(chunk=data[first : first + 32_768])


async def test_a_backup_comes_in_chunks_and_takes_the_place_of_the_file(tmp_path):
    records = steady(2, 5)
    async with serving(tmp_path, records) as ledger:
        said = [answer async for answer in ledger.stub.BackupLedger(pb.BackupLedgerRequest(), timeout=30)]
        data = b"".join(answer.chunk for answer in said)
        assert (said[0].copy.position, said[0].copy.sha256) == (len(records), "")
        assert (said[-1].copy.size_bytes, said[-1].copy.sha256) == (len(data), sha256(data))
        for call in (ledger.stub.BackupLedger(pb.BackupLedgerRequest()).read(), ledger.stub.RestoreLedger(sent(data))):
            assert (await reason(call))[1] == "DEADLINE_REQUIRED"
        restore = functools.partial(ledger.stub.RestoreLedger, timeout=30)
        refused = [
            (iter(()), "INVALID_FIELD"),
            (iter([pb.RestoreLedgerRequest(chunk=b"x")]), "INVALID_FIELD"),
            (sent(data, "f" * 63), "INVALID_FIELD"),
            (sent(data, size_bytes=0), "INVALID_FIELD"),
            (sent(data, reason="x" * 501), "INVALID_FIELD"),
            (sent(data, "f" * 64), "COPY_IMPOSSIBLE"),
            (sent(b"nonsense" * 5000), "COPY_IMPOSSIBLE"),
            (sent(b"x", size_bytes=2**62), "COPY_IMPOSSIBLE"),
        ]
        for parts, why in refused:
            assert (await reason(restore(parts)))[1] == why
        assert not ledger.absorber.condemned.is_set()
        answer = await restore(sent(data, reason="a drill"))
        assert (answer.copy.position, answer.stream_last) == (len(records), len(records))
        await condemned(ledger)
    async with serving(tmp_path, records) as ledger:
        assert (tmp_path / "l.corrupt-1").exists()
        assert (await ledger.stub.GetRun(pb.GetRunRequest(run="run0"))).run.state == "completed"


async def test_a_service_that_ends_waits_for_no_read_and_leaves_none(tmp_path):
    """More reads than there are cursors, none of which would end by itself soon."""
    endless = "SELECT count(*) FROM range(100000000) AS a, range(100000) AS b"
    async with serving(tmp_path, steady(1, 1)) as ledger:
        reading = [asyncio.create_task(ledger.answers._read(lambda tables: tables.read(endless))) for _ in range(8)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            await ledger.answers.close()
        outcomes = await asyncio.gather(*reading, return_exceptions=True)
    assert all(isinstance(outcome, RpcError | asyncio.CancelledError) for outcome in outcomes)
