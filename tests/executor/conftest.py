"""Supervisors, buses and benches for the executor's tests."""

import pytest
from executor_rig import Bench, Desk, Service
from memory_bus import MemoryBus

from services.artifacts import Artifacts
from services.bus import Bus
from services.process import Supervisor


@pytest.fixture
async def supervisor():
    started = Supervisor()
    await started.start()
    yield started
    await started.close()


@pytest.fixture
async def bench(tmp_path, supervisor):
    bus = MemoryBus()
    made = Bench(tmp_path, supervisor, Artifacts(bus.objects), bus)
    await made.steps.prepare()
    return made


@pytest.fixture
async def desk(nats_server):
    bus = await Bus.connect(nats_server.config(), name="tests")
    await bus.ensure_streams()
    yield Desk(bus)
    await bus.close()


@pytest.fixture
async def service(tmp_path, nats_server, desk):
    made = []

    def make(**settings):
        made.append(Service(tmp_path, nats_server, desk, **settings))
        return made[-1]

    yield make
    for one in made:
        one.kill()
