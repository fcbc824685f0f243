"""What only a real server can do to us: contradict, refuse, fall silent, die, and come back."""

import asyncio
import base64
import contextlib
import json
import time
from contextlib import aclosing

import pytest

from services.bus import (
    COMMANDS,
    EVENTS,
    EXECUTORS,
    LEASES,
    Bus,
    BusConfig,
    BusError,
    BusUnavailableError,
    ObjectMissingError,
    StreamMismatchError,
    stream_settings,
)

WAIT_S = 5


@contextlib.asynccontextmanager
async def connected(server, **config):
    bus = await Bus.connect(server.config(**config), name="test")
    try:
        yield bus
    finally:
        await bus.close()


async def taken(stream, count):
    got = []
    async with asyncio.timeout(WAIT_S):
        async for batch in stream:
            got += batch
            if len(got) >= count:
                return got
    raise AssertionError("the stream ended")


async def eventually(claim):
    """The truth of a claim, once it is true; BusError on the way means not yet."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(BusError):
                if found := await claim():
                    return found
            await asyncio.sleep(0.02)


# Settings


async def test_streams_are_created_once_and_then_only_checked(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        before = {s["name"]: await bus.identity(s["name"]) for s in stream_settings(bus.config)}
        await bus.append("swell.event.r1.run", b"1", expect=0)
        await bus.ensure_streams()
        for name, identity in before.items():
            assert (await bus.identity(name)).created_ns == identity.created_ns
        assert (await bus.identity()).last == 1


async def test_two_that_start_at_once_agree(own_nats_server):
    async with connected(own_nats_server) as one, connected(own_nats_server) as two:
        await asyncio.gather(one.ensure_streams(), two.ensure_streams(), one.ensure_streams())


@pytest.mark.parametrize(
    ("stream", "changes", "named"),
    [
        (EVENTS, {"max_age": 60_000_000_000}, "max_age is 60000000000, must be 0"),
        (EVENTS, {"discard": "old"}, "discard is 'old', must be 'new'"),
        (EVENTS, {"storage": "memory"}, "storage is 'memory', must be 'file'"),
        (EVENTS, {"allow_direct": True}, "allow_direct is True, must be False"),
        (EVENTS, {"subjects": ["swell.event.>", "swell.more.>"]}, "subjects is"),
        (EVENTS, {"max_msg_size": 1024}, "max_msg_size is 1024, must be 524288"),
        (COMMANDS, {"retention": "limits"}, "retention is 'limits', must be 'workqueue'"),
        (f"KV_{LEASES}", {"max_age": 9_000_000_000}, "max_age is 9000000000, must be 2000000000"),
        (f"KV_{EXECUTORS}", {"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, must be 1"),
    ],
)
async def test_a_stream_with_other_settings_is_an_error_that_says_how_to_mend_it(
    own_nats_server, stream, changes, named
):
    """And it is left as it was found."""
    settings = next(s for s in stream_settings(BusConfig()) if s["name"] == stream)
    async with connected(own_nats_server) as bus:
        created = await bus._api(f"STREAM.CREATE.{stream}", settings | changes)
        assert "error" not in created, created
        with pytest.raises(StreamMismatchError) as mismatch:
            await bus.ensure_streams()
        text = str(mismatch.value)
        assert f"stream {stream} exists with other settings" in text
        assert named in text
        assert f"nats stream edit {stream}" in text
        found = await bus._api(f"STREAM.INFO.{stream}")
        assert {key: found["config"].get(key) for key in changes} == changes


async def test_a_log_that_acknowledges_before_it_writes_contradicts_us(own_nats_server):
    """`persist_mode: async` acknowledges what a crash may still take back."""
    settings = next(s for s in stream_settings(BusConfig()) if s["name"] == EVENTS)
    async with connected(own_nats_server) as bus:
        created = await bus._api(f"STREAM.CREATE.{EVENTS}", settings | {"persist_mode": "async"})
        assert "error" not in created, created
        with pytest.raises(StreamMismatchError, match="persist_mode"):
            await bus.ensure_streams()


@pytest.mark.parametrize("limit", [{"max_msgs": 10}, {"max_msgs_per_subject": 1}])
async def test_a_log_that_can_fill_up_contradicts_us(own_nats_server, limit):
    """Retention has no limit; a full log refuses every decision, and one message a subject refuses the second."""
    settings = next(s for s in stream_settings(BusConfig()) if s["name"] == EVENTS)
    async with connected(own_nats_server) as bus:
        created = await bus._api(f"STREAM.CREATE.{EVENTS}", settings | limit)
        assert "error" not in created, created
        with pytest.raises(StreamMismatchError, match=next(iter(limit))):
            await bus.ensure_streams()


async def test_a_log_that_does_not_exist_says_who_creates_it(own_nats_server):
    async with connected(own_nats_server, append_timeout_s=0.1) as bus:
        with pytest.raises(BusError, match="start a scheduler, it creates it"):
            await bus.identity()
        with pytest.raises(BusUnavailableError):
            await bus.append("swell.event.r1.run", b"1", expect=0)
        with pytest.raises(BusUnavailableError, match="no stream takes"):
            await bus.command("swell.command.p.r1.ws-a.1", b"1")


# Whom we talk to


async def test_nothing_listening_is_said_in_time(nats_server):
    before = time.monotonic()
    with pytest.raises(BusUnavailableError, match=r"no NATS server answered at nats://127\.0\.0\.1:1 within 0\.3 s"):
        await Bus.connect(BusConfig(url="nats://127.0.0.1:1", connect_timeout_s=0.3), name="test")
    assert time.monotonic() - before < 3


async def test_a_wrong_password_is_named_as_the_reason(nats_server, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    with pytest.raises(BusError, match=r"refused user 'swell'.*password_file"):
        await Bus.connect(nats_server.config(password_file=wrong, connect_timeout_s=1.0), name="test")


async def test_no_password_is_named_as_the_reason(nats_server):
    with pytest.raises(BusError, match="refused user"):
        await Bus.connect(BusConfig(url=nats_server.url, connect_timeout_s=1.0), name="test")


@contextlib.asynccontextmanager
async def server_that_says(info):
    """Speaks just enough of the protocol to be connected to."""
    writers = set()

    async def serve(reader, writer):
        writers.add(writer)
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("version", ["2.9.10", "2.11.0", "1.4.1"])
async def test_an_old_server_is_named_with_what_is_needed(version):
    info = {"server_id": "x", "version": version, "proto": 1, "max_payload": 1048576, "headers": True}
    async with server_that_says(info) as url:
        with pytest.raises(BusError, match=rf"version {version}, too old: Swell needs 2\.12 or newer"):
            await Bus.connect(BusConfig(url=url), name="test")


@pytest.mark.parametrize("version", ["2.12.0", "3.0.1"])
async def test_a_newer_server_is_taken(version):
    info = {"server_id": "x", "version": version, "proto": 1, "max_payload": 1048576, "headers": True}
    async with server_that_says(info) as url:
        bus = await Bus.connect(BusConfig(url=url), name="test")
        await bus.close()


# Death and return


async def test_following_goes_on_across_a_kill_of_the_server(own_nats_server):
    """Nothing is missed, nothing comes twice, and what was acknowledged before the kill is there."""
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        for number in range(20):
            await bus.append(f"swell.event.r1.ws-a.{number}", b"%d" % number, expect=0)
        async with aclosing(bus.follow(0)) as stream:
            got = await taken(stream, 20)
            own_nats_server.kill()
            waiting = asyncio.create_task(taken(stream, 20))
            own_nats_server.start()
            await eventually(lambda: asyncio.sleep(0, bus.revision == 1))
            for number in range(20, 40):
                await bus.append(f"swell.event.r1.ws-a.{number}", b"%d" % number, expect=0)
            got += await waiting
        assert [m.sequence for m in got] == list(range(1, 41))
        assert [m.data for m in got] == [b"%d" % n for n in range(40)]
        assert bus.revision == 1


async def test_an_append_waits_for_the_server_to_come_back(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        first = await bus.append("swell.event.r1.run", b"1", expect=0)
        own_nats_server.kill()
        await eventually(lambda: asyncio.sleep(0, not bus.connected))
        appending = asyncio.create_task(bus.append("swell.event.r1.run", b"2", expect=first))
        await asyncio.sleep(0)
        own_nats_server.start()
        assert await appending == first + 1
        assert (await bus.last("swell.event.r1.run")).data == b"2"


async def test_commands_reach_executors_again_after_a_kill_of_the_server(own_nats_server):
    """The commands stream lives in memory: what was in it is lost, what is issued afterwards arrives, without anybody's help."""
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        puller = bus.commands("p")
        await puller.open()
        await bus.command("swell.command.p.r1.ws-a.1", b"1")
        assert len(await puller.next(wanted=2, timeout_s=WAIT_S)) == 1
        own_nats_server.kill()
        own_nats_server.start()
        await eventually(lambda: asyncio.sleep(0, bus.revision == 1))

        async def issued():
            return await bus.command("swell.command.p.r1.ws-b.1", b"2")

        async def arrived():
            return await puller.next(wanted=2, timeout_s=0.2)

        assert await eventually(issued)
        [delivery] = await eventually(arrived)
        assert delivery.data == b"2"


async def test_leases_and_beats_go_on_after_a_kill_of_the_server(own_nats_server):
    """Both live in memory: whoever follows the keys sees what is written afterwards, however much was written before."""
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        for number in range(50):
            await bus.put_key(EXECUTORS, "e1", b"before %d" % number)
        revision = await bus.take_key(LEASES, "scheduler", b"me", expect=0)
        assert revision
        async with aclosing(bus.follow_keys(EXECUTORS)) as stream:
            await taken(stream, 1)
            own_nats_server.kill()
            own_nats_server.start()
            await eventually(lambda: asyncio.sleep(0, bus.revision == 1))
            assert await eventually(lambda: bus.take_key(LEASES, "scheduler", b"me", expect=0))

            async def beaten():
                await bus.put_key(EXECUTORS, "e1", b"after")
                return True

            assert await eventually(beaten)
            got = await taken(stream, 1)
        assert got[-1].data == b"after"


async def test_objects_survive_a_kill_of_the_server(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        await bus.objects.write("o1", b"x" * 300_000)
        own_nats_server.kill()
        own_nats_server.start()
        await eventually(lambda: asyncio.sleep(0, bus.revision == 1))

        async def read():
            return b"".join([chunk async for chunk in bus.objects.read("o1", limit_bytes=1_000_000)])

        assert await eventually(read) == b"x" * 300_000


async def test_an_object_without_its_chunks_is_missing(nats_server):
    """A writer that died in the middle leaves a description; readers must not wait for the rest."""
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        info = {"name": "torn", "bucket": "SWELL_ARTIFACTS", "nuid": "torn", "size": 3, "chunks": 1}
        meta = base64.urlsafe_b64encode(b"torn").decode()
        await bus._publish(f"$O.SWELL_ARTIFACTS.M.{meta}", json.dumps(info).encode(), {"Nats-Rollup": "sub"})
        with pytest.raises(ObjectMissingError, match="torn"):
            async with asyncio.timeout(2):
                _ = [chunk async for chunk in bus.objects.read("torn", limit_bytes=10)]
