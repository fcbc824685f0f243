"""Three servers of one cluster: one dies while entries are appended, and none of those that were acknowledged is lost."""

import asyncio
import contextlib
import socket
import time

import pytest
from test_jetstream import eventually

from services.bus import EVENTS, Bus, BusConfig

PAUSE_MAX_S = 30.0
"""Loose: a new leader is elected after 4 to 9 s without word of the old one, and this machine may be busy."""


def free_ports(count):
    """Free when they were looked for; servers of a cluster must know each other's before they start."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Nodes:
    """Three servers that know each other."""

    def __init__(self, kind, folder):
        routes = free_ports(3)
        self.servers = []
        for number, port in enumerate(routes):
            home = folder / f"n{number}"
            home.mkdir()
            server = kind(home)
            if number:
                server.password_file.write_text(self.servers[0].password_file.read_text())
                server.authorization = self.servers[0].authorization
            others = ", ".join(f"nats://127.0.0.1:{other}" for other in routes if other != port)
            server.more = (
                f'server_name: n{number}\ncluster {{ name: three, listen: "127.0.0.1:{port}", routes: [{others}] }}\n'
            )
            self.servers.append(server)
        for server in self.servers:
            server.start()

    @property
    def config(self):
        first = self.servers[0]
        url = ", ".join(server.url for server in self.servers)
        return BusConfig(url=url, user=first.user, password_file=first.password_file, replicas=3, connect_timeout_s=30)

    def kill(self):
        for server in self.servers:
            server.kill()


@pytest.fixture
def nodes(nats_server, tmp_path):
    made = Nodes(type(nats_server), tmp_path)
    yield made
    made.kill()


async def test_a_node_dies_and_no_acknowledged_entry_is_lost(nodes, tell):
    """The one that leads the log's stream, as by a power cut: appending pauses and goes on, and so do readers and commands."""
    bus = await Bus.connect(nodes.config, name="writer")
    reader = await Bus.connect(nodes.config, name="reader")
    try:
        await bus.ensure_streams()
        await bus.commands("p").open()
        seen, acknowledged, took = [], [], []

        async def read():
            async for batch in reader.follow(0):
                seen.extend((message.sequence, message.data) for message in batch)

        async def write(number):
            began = time.monotonic()
            last = acknowledged[-1] if acknowledged else 0
            acknowledged.append(await bus.append("swell.event.r1.run", b"%d" % number, expect=last))
            took.append(time.monotonic() - began)

        reading = asyncio.create_task(read())
        for number in range(200):
            await write(number)
        leader = (await bus._api(f"STREAM.INFO.{EVENTS}"))["cluster"]["leader"]
        writing = asyncio.create_task(write(200))
        nodes.servers[int(leader[1:])].kill()
        async with asyncio.timeout(PAUSE_MAX_S):
            await writing
            for number in range(201, 250):
                await write(number)
            while len(seen) < len(acknowledged):  # noqa: ASYNC110 - what is waited for happens elsewhere
                await asyncio.sleep(0.02)
        reading.cancel()
        assert await eventually(lambda: bus.command("swell.command.p.r1.ws-a.1", b"go on"), PAUSE_MAX_S)
        puller = bus.commands("p")
        [delivery] = await eventually(lambda: puller.next(wanted=1, timeout_s=0.5), PAUSE_MAX_S)
        assert delivery.data == b"go on"
        await puller.close()
        held = [(one.sequence, one.data) async for batch in bus.replay("swell.event.r1.run") for one in batch]
        assert held == seen == [(at, b"%d" % number) for number, at in enumerate(acknowledged)]
        tell(f"the leader of the log killed: {len(held)} appends, none lost, the longest took {max(took):.1f} s")
    finally:
        await asyncio.gather(bus.close(), reader.close())
