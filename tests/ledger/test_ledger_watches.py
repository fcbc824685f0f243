"""Watches: shared frames, what waits for each, clients that do not read, and runs as they change."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from ledger_histories import Story, scheduled, steady
from test_ledger_server import pages, reason, serving, watched

from services import events as ev
from services.ledger import watches
from services.ledger.past import Nothing
from services.ledger.projector import Batch, Projector, Tip
from services.ledger.queries import events_of
from services.ledger.runs import RunFilter
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.watches import COALESCE_S, EventFeed, Frame, RunFeed, Watching, WatchOverflowError
from services.rpc import RpcError


def folded(records: list, size: int) -> Iterator[Batch]:
    """Commits of so many entries each; one is to be used before the next."""
    fold = Projector(Tip(), Nothing())
    for first in range(0, len(records), size):
        yield fold.fold(records[first : first + size])


def batches(records: list, size: int) -> list[Batch]:
    """The same, for their events."""
    return list(folded(records, size))


def feed(run: str = "", kinds: tuple[str, ...] = (), encoded: list | None = None) -> EventFeed:
    """A feed whose frames are readable."""

    def event(record) -> bytes:
        if encoded is not None:
            encoded.append((record.position, record.idx))
        return b"%d.%d " % (record.position, record.idx)

    return EventFeed(run, kinds, event=event, end=lambda position: b"=%d;" % position)


class Reader:
    """Somebody who watches, and may stop reading."""

    def __init__(self, watching: Watching, key: str, make=feed, after: int = 0) -> None:
        self.read: list[bytes] = []
        self.times: list[float] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.ended: BaseException | None = None
        self.watch = watching.watch()
        self.task = asyncio.create_task(self.run(watching, key, make(), after))

    async def run(self, watching: Watching, key: str, made, after: int) -> None:
        async def behind(told: int) -> list[Frame]:
            raise AssertionError(f"nothing is behind {told}")

        try:
            with watching.counted():
                await watching.follow(self.watch, key, made, after, behind=behind, write=self.write, heartbeat_s=60)
        except WatchOverflowError as error:
            self.ended = error

    async def write(self, data: bytes) -> None:
        await self.reading.wait()
        self.read.append(data)
        self.times.append(asyncio.get_running_loop().time())

    def places(self) -> list[str]:
        return [word for data in self.read for word in data.decode().split() if not word.startswith("=")]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def readers(watching: Watching, count: int, **made):
    found = [Reader(watching, "all", **made) for _ in range(count)]
    await settled()
    try:
        yield found
    finally:
        for reader in found:
            reader.task.cancel()
        await asyncio.wait([reader.task for reader in found])
        assert watching.under_way == 0
        assert watching._channels == {}


async def test_each_event_is_encoded_once_however_many_watch():
    encoded: list = []
    watching = Watching()
    made = batches(steady(2, 4), 10)
    async with readers(watching, 50, make=lambda: feed(encoded=encoded)) as found:
        for batch in made:
            watching.committed(batch)
        await asyncio.sleep(COALESCE_S * 1.5)
        told = [f"{record.position}.{record.idx}" for batch in made for e in events_of(batch) for record in e.events]
        assert all(reader.places() == told for reader in found)
        assert len(encoded) == len(set(encoded)) == len(told)
        assert {len(reader.read) for reader in found} == {3}  # where they begin, at once, and the rest after a pause


async def test_a_watch_is_told_at_once_and_then_in_intervals():
    watching = Watching()
    made = batches(steady(3, 10), 4)
    async with readers(watching, 1) as (reader,):
        began = asyncio.get_running_loop().time()
        for batch in made:
            watching.committed(batch)
            await asyncio.sleep(0.005)
        await asyncio.sleep(COALESCE_S * 1.5)
        passed = asyncio.get_running_loop().time() - began
        assert len(reader.read) - 1 <= passed / COALESCE_S + 1
        assert reader.times[1] - began < COALESCE_S / 2
        assert reader.read[-1].endswith(b"=%d;" % made[-1].tip.position)


async def test_a_thousand_watches_of_which_half_never_read():
    """Those that read get everything; the others are ended and cost next to nothing."""
    watching = Watching(entries_max=100, bytes_max=4096)
    made = batches(steady(10, 10), 20)
    async with readers(watching, 1000) as found:
        silent = found[::2]
        for reader in silent:
            reader.reading.clear()
        for batch in made:
            watching.committed(batch)
            watching._tell()
            await settled()
        assert max(reader.watch.waiting_bytes for reader in found) <= 4096
        everything = {reader.watch.waiting_bytes for reader in silent}
        assert everything == {0}
        lively = found[1::2]
        assert all(reader.places() == lively[0].places() for reader in lively)
        assert len(lively[0].places()) == sum(len(batch.events) for batch in made)
        assert not any(reader.ended for reader in lively)
        async with asyncio.timeout(watches.GRACE_S + 5):
            await asyncio.wait([reader.task for reader in silent])
        assert all(reader.ended is not None for reader in silent)
        assert watching.under_way == 500


async def test_who_joins_gets_nothing_that_was_committed_before():
    watching = Watching()
    made = batches(steady(1, 6), 5)
    async with readers(watching, 1) as (first,):
        watching.committed(made[0])
        watching.committed(made[1])  # gathered, and not told yet
        second = Reader(watching, "all", after=watching.position)
        await settled()
        watching.committed(made[2])
        await asyncio.sleep(COALESCE_S * 1.5)
        second.task.cancel()
        await asyncio.wait([second.task])
        assert first.places()[-len(second.places()) :] == second.places()
        assert second.places()[0].startswith(f"{made[1].tip.position + 1}.")


async def test_a_heartbeat_is_never_ahead_of_what_was_told():
    watching = Watching()
    made = batches(steady(1, 6), 5)

    async def no(told: int) -> list[Frame]:
        raise AssertionError(told)

    read: list[bytes] = []

    async def write(data: bytes) -> None:
        read.append(data)

    task = asyncio.create_task(
        watching.follow(watching.watch(), "k", feed(), 0, behind=no, write=write, heartbeat_s=0.001)
    )
    await settled()
    for batch in made:
        watching.committed(batch)
        await asyncio.sleep(0.004)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    told = 0
    for data in read:
        *places, end = data.decode().rstrip(";").split()
        assert all(int(place.partition(".")[0]) > told for place in places)
        told = int(end.lstrip("="))
        assert all(int(place.partition(".")[0]) <= told for place in places)
    assert sum(data.count(b".") for data in read) == sum(len(batch.events) for batch in made)


def test_runs_are_told_as_they_are_newest_and_once_more_when_they_leave():
    wanted = RunFeed(
        RunFilter(state="running"),
        change=lambda row, left: f"{row.run}:{row.state}:{row.position}{'!' if left else ''} ".encode(),
        end=lambda position: b"=%d;" % position,
    )
    for batch in folded(steady(2, 2), 7):
        assert wanted.take(watches.Commit(batch)) == []
    (frame,) = wanted.cut()
    assert frame.data.decode().split() == ["run0:completed:23!", "run1:completed:46!", "=46;"]
    assert wanted.cut() == []


def test_a_large_change_is_told_in_parts_that_promise_nothing_before_the_last(monkeypatch):
    monkeypatch.setattr(watches, "FRAME_BYTES", 12)
    (batch,) = batches(steady(3, 1), 1000)
    wanted = RunFeed(RunFilter(), change=lambda row, _: row.run.encode() * 3, end=lambda position: b"=%d" % position)
    frames = wanted.take(watches.Commit(batch))
    assert [frame.position for frame in frames] == [0, 0, batch.tip.position]


async def test_a_watch_of_some_kinds_resumes_by_its_token(tmp_path):
    records = steady(2, 6)
    async with serving(tmp_path, records[:30], heartbeat_s=0.05) as ledger:
        stub = ledger.stub
        kinds = ["step_finished", "run_finished"]
        places, token = [], ""
        for upto in (30, 60, len(records)):
            ledger.log.extend(records[len(ledger.log.records) : upto])
            call = stub.WatchEvents(pb.WatchEventsRequest(kinds=kinds, resume_token=token))
            while (answer := await call.read()).position < upto:
                places += [(event.position, event.index) for event in answer.events]
            places += [(event.position, event.index) for event in answer.events]
            token = answer.resume_token
            call.cancel()
        wanted = await pages(stub.ListEvents, pb.ListEventsRequest(kinds=kinds, page_size=1000), "events")
        assert places == [(event.position, event.index) for event in wanted]
        bad = (grpc.StatusCode.INVALID_ARGUMENT, "BAD_RESUME_TOKEN")
        assert await reason(stub.WatchEvents(pb.WatchEventsRequest(resume_token=token)).read()) == bad
        twice = pb.WatchEventsRequest(kinds=kinds, resume_token=token, after_position=3)
        assert (await reason(stub.WatchEvents(twice).read()))[1] == "INVALID_FIELD"


async def changes(call, upto: int) -> tuple[list[tuple[str, str, bool]], str]:
    told = []
    async with asyncio.timeout(20):
        while True:
            answer = await call.read()
            told += [(change.run.run, change.run.state, change.left) for change in answer.changes]
            if answer.position >= upto:
                return told, answer.resume_token


async def test_runs_are_watched_from_the_beginning_and_resumed(tmp_path):
    story = Story()
    story.accepted("a", run="r1")
    story.accepted("a", run="r2")
    story.finished(run="r1")
    async with serving(tmp_path, story.records) as ledger:
        stub = ledger.stub
        everything = stub.WatchRuns(pb.WatchRunsRequest(include_initial=True))
        assert (await changes(everything, 5))[0] == [("r1", "completed", False), ("r2", "running", False)]
        running = stub.WatchRuns(pb.WatchRunsRequest(state="running", include_initial=True))
        told, token = await changes(running, 5)
        assert told == [("r2", "running", False)]
        running.cancel()
        later = stub.WatchRuns(pb.WatchRunsRequest(state="running"))
        assert (await changes(later, 5))[0] == []
        story.accepted("a", run="r3")
        story.decide(ev.RunTransitioned(from_state="running", to_state="paused"), run="r2")
        ledger.log.extend(story.records[5:])
        left = {("r3", "running", False), ("r2", "paused", True)}
        assert set((await changes(later, 8))[0]) == left
        resumed = stub.WatchRuns(pb.WatchRunsRequest(state="running", resume_token=token))
        assert set((await changes(resumed, 8))[0]) == left
        later.cancel()
        resumed.cancel()
        everything.cancel()


class Taker:
    """A caller who takes so many messages, and then none."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.told: list[str] = []

    async def write(self, data: bytes) -> None:
        if not self.patience:
            await asyncio.sleep(60)
        self.patience -= 1
        answer = pb.WatchRunsResponse.FromString(data)
        self.told += [change.run.run for change in answer.changes]


async def test_who_stops_within_the_beginning_is_sent_to_its_start(tmp_path, monkeypatch):
    """A token would leave out the runs that were not told."""
    monkeypatch.setattr(watches, "STALL_S", 0.1)
    monkeypatch.setattr("services.ledger.server.RUNS_PER_FRAME", 1)
    story = Story()
    for run in ("r1", "r2", "r3"):
        story.accepted("a", run=run)
    async with serving(tmp_path, story.records) as ledger:
        for patience, told, has_token in ((1, ["r1"], False), (4, ["r1", "r2", "r3"], True)):
            taker = Taker(patience)
            with pytest.raises(RpcError) as caught:
                await ledger.answers.WatchRuns(pb.WatchRunsRequest(include_initial=True), taker)
            assert (taker.told, caught.value.reason) == (told, "WATCH_OVERFLOW")
            assert bool(caught.value.metadata["resume_token"]) == has_token
            assert ("from the beginning" in caught.value.message) != has_token


async def none_watch(ledger) -> None:
    async with asyncio.timeout(10):
        while ledger.absorber.watches:  # noqa: ASYNC110 - the gauge is what is public
            await asyncio.sleep(0.01)


async def test_cancelled_watches_leave_nothing_behind(tmp_path):
    async with serving(tmp_path, steady(1, 3)) as ledger:
        calls = [ledger.stub.WatchEvents(pb.WatchEventsRequest()) for _ in range(20)]
        calls += [ledger.stub.WatchRuns(pb.WatchRunsRequest()) for _ in range(20)]
        for call in calls:
            await call.read()
        assert ledger.absorber.watches == 40
        for call in calls:
            call.cancel()
        await none_watch(ledger)
        assert ledger.absorber.watching._channels == {}
        gc.collect()
        assert not [task for task in asyncio.all_tasks() if "follow" in repr(task)]


def loud(count: int) -> list:
    """Entries of a size that fills what the transport buffers."""
    story = Story()
    story.accepted("a")
    for number in range(1, count + 1):
        story.decide(scheduled("a", number, "edit", reason="x" * 1500, action="y" * 30_000))
    return story.records


async def resume_token_of(call) -> str:
    """What a watch that has ended says to go on with."""
    status = dict(await call.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(status).details[0].Unpack(info)
    return dict(info.metadata)["resume_token"]


async def test_clients_that_stop_reading_lose_their_watch_and_hold_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(watches, "GRACE_S", 0.1)
    monkeypatch.setattr(watches, "STALL_S", 1.5)
    records = loud(300)
    async with serving(tmp_path, records[:2], watching=Watching(entries_max=10_000, bytes_max=200_000)) as ledger:
        silent = [ledger.stub.WatchEvents(pb.WatchEventsRequest(after_position=2)) for _ in range(12)]
        for call in silent:
            await call.read()
        lively = [
            asyncio.create_task(watched(ledger.stub.WatchEvents(pb.WatchEventsRequest(after_position=2)), len(records)))
            for _ in range(12)
        ]
        for first in range(2, len(records), 4):
            ledger.log.extend(records[first : first + 4])
            await asyncio.sleep(0.01)
        for task in lively:
            assert len(await task) == len(records) - 2
        await none_watch(ledger)
        for call in silent:
            assert await reason(watched(call, len(records))) == (grpc.StatusCode.ABORTED, "WATCH_OVERFLOW")
        token = await resume_token_of(silent[0])
        resumed = ledger.stub.WatchEvents(pb.WatchEventsRequest(resume_token=token))
        assert (await watched(resumed, len(records)))[-1][0] == len(records)


async def test_more_watches_than_are_taken_are_refused(tmp_path):
    async with serving(tmp_path, steady(1, 1), watching=Watching(watches_max=2)) as ledger:
        calls = [ledger.stub.WatchEvents(pb.WatchEventsRequest()) for _ in range(2)]
        for call in calls:
            await call.read()
        third = ledger.stub.WatchRuns(pb.WatchRunsRequest()).read()
        assert await reason(third) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
        assert (await ledger.stub.GetRun(pb.GetRunRequest(run="run0"))).run.run == "run0"
        calls[0].cancel()
        calls[1].cancel()
        await none_watch(ledger)
        assert (await ledger.stub.WatchRuns(pb.WatchRunsRequest()).read()).position > 0


async def test_what_is_committed_is_told_soon(tmp_path):
    """Twenty watchers of a steady stream: all of it within the promised time."""
    records = steady(1, 30)
    async with serving(tmp_path, records[:5]) as ledger:
        calls = [ledger.stub.WatchEvents(pb.WatchEventsRequest(after_position=5)) for _ in range(20)]
        for call in calls:
            await call.read()
        said: dict[int, float] = {}
        late: list[float] = []

        async def listen(call) -> None:
            position = 5
            while position < len(records):
                answer = await call.read()
                late.extend(time.monotonic() - said[event.position] for event in answer.events)
                position = answer.position

        listening = [asyncio.create_task(listen(call)) for call in calls]
        for record in records[5:]:
            said[record.sequence] = time.monotonic()
            ledger.log.extend([record])
            await asyncio.sleep(0.002)
        async with asyncio.timeout(20):
            await asyncio.gather(*listening)
        assert sorted(late)[len(late) // 2] < 1.0
