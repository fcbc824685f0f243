"""What a scheduler makes of a run that left the stream: it is over, it stays over, and nobody gets its id again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import grpc
import msgspec
import pytest

from services.artifacts import Artifacts
from services.bus import BusError, Recorded
from services.events import AttemptGranted, DeliveryRequested, ProbeGranted, RollbackRequested, RunRequested
from services.ledger.absorb import Absorber
from services.ledger.archive import Archivist, Outcome
from services.ledger.history import History
from services.ledger.projector import Projector
from services.ledger.segment import Archive
from services.ledger.store import Store
from services.rpc import RpcError
from services.scheduler.appends import appends
from services.scheduler.decide import due
from services.scheduler.fleet import ToolBreaker
from services.scheduler.requests import Requests
from services.scheduler.shell import Shell
from services.spec import encode_spec
from services.wire import Entry, Place, attempt_subject, encode_entry, request_subject, run_subject
from tests.memory_bus import MemoryBus
from tests.scheduler.scheduler_harness import RUN, Lost, Play, bundle, failed, spec

LATER_NS = 4_000_000_000 * 1_000_000_000


def story() -> Play:
    """A run with FIX, a loss, requests on the way and after the end, and a delivery and a rollback that were asked for."""
    play = Play(
        spec([bundle("ws-a", compensation_actions=["true"]), bundle("ws-b")]),
        {("ws-a", "static"): [failed()], ("ws-b", "edit"): [Lost]},
    )
    play.settle()
    play.ask("ws-a", "static", "q-not-stepwise")
    play.until_stuck()
    play.request(DeliveryRequested(request_id="q-deliver", actor="ann"))
    play.until_stuck()
    play.request(RollbackRequested(request_id="q-back", actor="ann"))
    play.until_stuck()
    assert play.state.finished
    assert not play.state.alive
    return play


def subject_of(place: Place) -> str:
    if place.kind == "attempt":
        return attempt_subject(place.run, place.workstream, place.attempt)
    return (run_subject if place.kind == "run" else request_subject)(place.run)


class Stopping:
    """A stream that stops being purged after so many operations, as when the ledger is killed."""

    def __init__(self, bus: MemoryBus, left: int) -> None:
        self._bus = bus
        self.left = left

    async def last(self, subject: str, **stream: str) -> Recorded | None:
        return await self._bus.last(subject, **stream)

    def replay(self, subject: str, **batches: int) -> AsyncIterator[list[Recorded]]:
        return self._bus.replay(subject, **batches)

    async def purge(self, subject: str, *, before: int) -> int:
        self._count()
        return await self._bus.purge(subject, before=before)

    async def erase(self, sequence: int) -> bool:
        self._count()
        return await self._bus.erase(sequence)

    def _count(self) -> None:
        if self.left == 0:
            raise BusError("killed here")
        self.left -= 1


class World:
    """The story in a log, with a grant of the fleet for each of its attempts, and a ledger that has folded it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.end = 0
        self.bus = MemoryBus()
        self.artifacts = Artifacts(self.bus.objects)

    async def make(self, *, halfway: Callable[[], Awaitable[None]] | None = None, after: int = 0) -> "World":
        """`halfway` is awaited once so many entries of the run are in the log."""
        play = story()
        kept = await self.artifacts.put("spec", encode_spec(play.spec), keep=True)
        await self.grant("ws-b", 99)  # never used
        for number, fact in enumerate(play.facts):
            if number == after and halfway is not None:
                await halfway()
            for event in fact.entry.events:
                if getattr(event, "cap", None) is not None:
                    await self.grant(event.workstream, event.attempt)
            told = [
                msgspec.structs.replace(event, spec=kept) if getattr(event, "spec", None) else event
                for event in fact.entry.events
            ]
            self.end = await self.bus.add(
                subject_of(fact.place), encode_entry(msgspec.structs.replace(fact.entry, events=told))
            )
        self.end = await self.bus.add(run_subject("fleet"), encode_entry(entry("fleet")))
        self.store = Store.open(self.folder / "l")
        self.store.bind((await self.bus.identity()).created_ns)
        records = [one async for batch in self.bus.replay(">") for one in batch]
        self.store.commit(Projector(self.store.tip, self.store).fold(records))
        return self

    async def grant(self, workstream: str, attempt: int) -> None:
        grant = AttemptGranted(
            run=RUN, workstream=workstream, attempt=attempt, tool="t", provider="p", expires_ns=1, cap_nano=7
        )
        await self.bus.add(run_subject("fleet"), encode_entry(entry("fleet", grant)))

    async def purge(self, operations: int = -1) -> int:
        archive = Archive(self.folder / "archive")
        absorber = Absorber(self.store, self.bus, history=History(archive))
        stream = Stopping(self.bus, operations)
        archivist = Archivist(
            self.store, absorber, stream, archive, remover=lambda: nullcontext(stream), now_ns=lambda: LATER_NS
        )
        try:
            *_, last = [said async for said in archivist.work(0, purge=True)]
        except BusError:
            return 0
        assert isinstance(last, Outcome)
        return last.purged_runs

    @contextlib.asynccontextmanager
    async def scheduler(self, shell: Shell | None = None) -> AsyncIterator[Shell]:
        """A scheduler that has folded the log from its beginning, or `shell`, which has folded some of it."""
        shell = shell or Shell(self.bus, self.artifacts, name="s", lease_s=10.0, reconcile_s=10.0)
        following = asyncio.create_task(shell._follow())
        try:
            assert await shell.folded(self.end, 10)
            yield shell
        finally:
            following.cancel()
            await asyncio.wait({following})


def entry(run: str, *told) -> Entry:
    return Entry(id="e", run=run, at_ns=0, by="x", events=list(told))


@pytest.fixture
async def world(tmp_path):
    made = await World(tmp_path).make()
    yield made
    made.store.close()


async def test_wherever_a_purge_is_killed_the_run_is_over_for_every_scheduler_that_starts(world):
    async with world.scheduler() as before:
        assert before.runs == {}
        whole = before.over[RUN]
    held = len([one async for batch in world.bus.replay(f"swell.event.{RUN}.>") for one in batch])
    for operations in (0, 1, 2, -1):  # requests on the way, decisions before the end, attempts
        assert await world.purge(operations) == (operations == -1)
        async with world.scheduler() as shell:
            assert shell.runs == {}, f"killed after {operations} operations"
            over = shell.over[RUN]
            assert (over.finished, over.request_id) == (whole.finished, "q-run")
            assert over.last_run_sequence == (await world.bus.last(run_subject(RUN))).sequence
            assert shell.fleet.shared.grants == {}, "no avalanche of returned grants"
            assert shell.fleet.shared.opened == {}
            assert all(account.reserved_nano == 0 for account in shell.fleet.shared.book.accounts.values())
    left = [one async for batch in world.bus.replay(f"swell.event.{RUN}.>") for one in batch]
    assert len(left) < held / 2
    assert left[0].subject == request_subject(RUN)
    assert {one.subject for one in left} == {request_subject(RUN), run_subject(RUN)}


@pytest.mark.parametrize("asked", [RollbackRequested, DeliveryRequested])
async def test_what_is_asked_of_a_purged_run_is_refused_and_the_refusal_can_be_written(world, asked):
    await world.purge()
    async with world.scheduler() as shell:
        event = asked(request_id="q-late", actor="ann")
        at = await world.bus.add(request_subject(RUN), encode_entry(entry(RUN, event)))
        assert await shell.folded(at, 10)
        run = shell.runs[RUN]
        (decision,) = due(run, shell.now_ns, None, shell.fleet)
        (answer,) = decision.events
        assert (answer.request_id, answer.answer) == ("q-late", "refused")
        assert "is over" in answer.reason
        (append,) = appends(run, [decision])
        data = encode_entry(entry(RUN, *append.events))
        end = await world.bus.append(append.subject, data, expect=append.expect, over=append.over)
        assert await shell.folded(end, 10)
        assert RUN not in shell.runs


async def test_nobody_gets_the_id_of_a_purged_run_and_its_own_request_is_still_known(world):
    await world.purge()
    async with world.scheduler() as shell:
        requests = Requests(world.bus, shell)
        held = world.bus.server.events.last
        (first,) = [one async for batch in world.bus.replay(request_subject(RUN)) for one in batch][:1]
        again = msgspec.json.decode(first.data, type=Entry).events[0]
        assert isinstance(again, RunRequested)
        assert await requests.first(RUN, again), "a repeated submission is the one that was"
        with pytest.raises(RpcError) as refused:
            await requests.first(RUN, msgspec.structs.replace(again, request_id="q-another"))
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RUN_EXISTS")
        assert world.bus.server.events.last == held


@pytest.mark.parametrize("after", [7, 12, 17])
async def test_a_scheduler_that_knew_half_of_a_run_before_its_purge_has_nothing_open_after_it(tmp_path, after):
    """As one that starts from a snapshot of its fold: the closes of the attempts that were open then have left the stream."""
    world = World(tmp_path)
    known: list[Shell] = []

    async def halfway() -> None:
        async with world.scheduler() as shell:
            (run,) = shell.runs.values()
            working = [attempt.scheduled for attempt in run.open.values() if attempt.scheduled.tool]
            assert sum(record.open for record in shell.fleet.records.values()) == len(working) > 0
            step = working[0]
            probe = ProbeGranted(
                tool=step.tool, run=RUN, workstream=step.workstream, attempt=step.attempt, expires_ns=1
            )
            shell.fleet.breakers[step.tool] = ToolBreaker(tool=step.tool, state="half_open", probe=probe, probing=True)
            known.append(shell)

    await world.make(halfway=halfway, after=after)
    assert await world.purge() == 1
    async with world.scheduler(known[0]) as shell:
        assert shell.runs == {}
        assert {tool: record.open for tool, record in shell.fleet.records.items() if record.open} == {}
        (breaker,) = shell.fleet.breakers.values()
        assert (breaker.probe, breaker.probing) == (None, False)
        assert shell.fleet.shared.opened == {}
        assert all(account.reserved_nano == 0 for account in shell.fleet.shared.book.accounts.values())
    world.store.close()
