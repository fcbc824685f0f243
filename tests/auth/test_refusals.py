"""Refusals reach the log added up, and no client can fill it with them."""

import asyncio

import pytest
from memory_bus import MemoryBus, MemoryServer

from services.artifacts import Artifacts
from services.bus import BusConfig, BusUnavailableError
from services.events import AccessRefused
from services.rpc import RefusedCall
from services.scheduler import refusals
from services.scheduler.refusals import EVENTS_PER_MIN, MANY, PENDING_MAX, Refusals
from services.scheduler.requests import Requests
from services.scheduler.shell import Shell
from services.wire import decode_entry, request_subject

CANCEL = "/swell.scheduler.v1.SchedulerService/CancelRun"


class World:
    """A bus in memory, the refusals, and a clock that stands still."""

    def __init__(self):
        self.bus = MemoryBus(MemoryServer(BusConfig(append_timeout_s=0.2)))
        self.shell = Shell(self.bus, Artifacts(self.bus.objects), name="s", lease_s=10.0, reconcile_s=10.0)
        self.now = 1000.0
        self.refusals = Refusals(Requests(self.bus, self.shell), clock=lambda: self.now)

    def refuse(self, principal="eve", *, reason="ROLE_MISSING", run="r1"):
        self.refusals.tell(RefusedCall(principal, CANCEL, reason, run))

    async def told(self) -> list[AccessRefused]:
        found = []
        async for batch in self.bus.replay(request_subject("fleet")):
            for recorded in batch:
                found += decode_entry(recorded.data).events
        return found


@pytest.fixture
def world():
    return World()


async def test_the_same_refusal_again_and_again_is_one_event(world):
    for number in range(1000):
        world.refuse(run=f"r{number}")
    world.refuse("ann")
    await world.refusals.write()
    assert await world.told() == [
        AccessRefused(principal="eve", method=CANCEL, reason="ROLE_MISSING", run="r0", count=1000),
        AccessRefused(principal="ann", method=CANCEL, reason="ROLE_MISSING", run="r1"),
    ]


async def test_no_more_than_so_many_are_written_in_a_minute_and_none_is_lost(world):
    for number in range(100):
        world.refuse(f"p{number}")
    for _ in range(10):
        world.now += 5.0
        await world.refusals.write()
        world.refuse("p99")
    assert len(await world.told()) == EVENTS_PER_MIN
    for _ in range(20):
        world.now += 60.0
        await world.refusals.write()
    told = await world.told()
    assert len(told) == 100
    assert sum(one.count for one in told) == 110


async def test_beyond_so_many_kinds_nobody_is_told_apart(world):
    for number in range(PENDING_MAX + 500):
        world.refuse(f"p{number}")
    assert len(world.refusals._pending) <= PENDING_MAX + 1
    for _ in range(60):
        world.now += 60.0
        await world.refusals.write()
    told = await world.told()
    assert sum(one.count for one in told) == PENDING_MAX + 500
    assert [one.count for one in told if one.reason == MANY] == [500]


async def test_what_the_bus_does_not_take_is_told_later(world, monkeypatch):
    async def away(*_args, **_more):
        raise BusUnavailableError("away")

    world.refuse()
    with monkeypatch.context() as broken:
        broken.setattr(world.bus, "append", away)
        await world.refusals.write()
    world.refuse()
    world.now += 60.0
    await world.refusals.write()
    assert [one.count for one in await world.told()] == [2]


async def test_they_are_written_by_themselves_and_at_the_end(world, monkeypatch):
    monkeypatch.setattr(refusals, "WINDOW_S", 0.01)
    async with world.refusals.recording():
        world.refuse()
        async with asyncio.timeout(5):
            while not await world.told():  # noqa: ASYNC110 - the log is what is waited for
                await asyncio.sleep(0.01)
        monkeypatch.setattr(refusals, "WINDOW_S", 60.0)
        await asyncio.sleep(0.02)
        world.refuse("ann")
    assert [one.principal for one in await world.told()] == ["eve", "ann"]
