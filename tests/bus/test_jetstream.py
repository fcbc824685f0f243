"""What only a real server can do to us: contradict, refuse, fall silent, die, and come back."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import subprocess
import time
from contextlib import aclosing

import pytest

from services.bus import (
    COMMANDS,
    EVENTS,
    EXECUTORS,
    FOLLOW_BACKLOG_BYTES,
    LEASES,
    SNAPSHOTS,
    Bus,
    BusConfig,
    BusError,
    BusFullError,
    BusUnavailableError,
    Consumer,
    Follower,
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


async def eventually(claim, timeout_s=WAIT_S):
    """The truth of a claim, once it is true; BusError on the way means not yet."""
    async with asyncio.timeout(timeout_s):
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
async def server_that_says(info, heard=None):
    """Speaks just enough of the protocol to be connected to; `heard` gets every line."""
    writers = set()

    async def serve(reader, writer):
        writers.add(writer)
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            if heard is not None:
                heard.append(line)
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


@contextlib.asynccontextmanager
async def consuming(bus, **options):
    consumer = bus.consume("told", ["swell.event.*.run"], **{"ack_wait_s": 1.0} | options)
    await consumer.open()
    try:
        yield consumer
    finally:
        await consumer.close()


async def test_a_consumer_goes_on_across_a_kill_of_the_server(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        async with consuming(bus) as consumer:
            await bus.add("swell.event.r1.run", b"1")
            assert await eventually(lambda: consumer.next(wanted=1, timeout_s=0.2))
            own_nats_server.kill()
            own_nats_server.start()
            await eventually(lambda: asyncio.sleep(0, bus.revision == 1))
            await bus.add("swell.event.r1.run", b"2")
            got = set()
            while got != {b"1", b"2"}:
                for delivery in await eventually(lambda: consumer.next(wanted=2, timeout_s=0.2)):
                    got.add(delivery.data)
                    await delivery.ack()


@pytest.mark.parametrize("noticed_by", ["status", "check"])
async def test_a_consumer_that_somebody_deleted_is_made_again_without_a_gap(own_nats_server, noticed_by, monkeypatch):
    """What is acknowledged stays so; what came between the deletion and its discovery is delivered, as is what was under way."""
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        await bus.add("swell.event.r0.run", b"old news")
        async with consuming(bus) as consumer:
            for data in (b"1", b"2"):
                await bus.add("swell.event.r1.run", data)
                [delivery] = await eventually(lambda: consumer.next(wanted=1, timeout_s=0.2))
                await delivery.ack()

            async def acknowledged():
                await consumer.open()
                return consumer._floor == 3

            await eventually(acknowledged)
            if noticed_by == "status":
                assert await consumer.next(wanted=1, timeout_s=0.01) == []  # leaves a pull at the server, which it ends
            else:
                monkeypatch.setattr(Consumer, "_CHECK_S", 0.0)
            assert (await bus._api(f"CONSUMER.DELETE.{EVENTS}.told"))["success"]
            await bus.add("swell.event.r1.run", b"3")
            [delivery] = await eventually(lambda: consumer.next(wanted=1, timeout_s=0.2))
            assert delivery.data == b"3"
            await delivery.ack()
            assert await consumer.next(wanted=1, timeout_s=0.1) == []


async def test_other_settings_of_a_consumer_are_taken_over(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        async with consuming(bus):
            pass
        async with consuming(bus, ack_wait_s=7.0, outstanding_max=5):
            config = (await bus._api(f"CONSUMER.INFO.{EVENTS}.told"))["config"]
        assert (config["ack_wait"], config["max_ack_pending"]) == (7_000_000_000, 5)
        assert config["deliver_policy"] == "new"


async def test_what_was_fetched_and_not_handed_out_is_given_back_at_once(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        async with consuming(bus, ack_wait_s=60.0) as leaving:
            assert await leaving.next(wanted=2, timeout_s=0.01) == []
            await bus.add("swell.event.r1.run", b"1")
            await eventually(lambda: asyncio.sleep(0, not leaving._queue.empty()))
        async with consuming(bus, ack_wait_s=60.0) as other:
            [delivery] = await eventually(lambda: other.next(wanted=1, timeout_s=0.2))
            assert (delivery.data, delivery.count) == (b"1", 2)


async def test_a_pools_consumer_of_an_older_version_is_taken_over(own_nats_server):
    """It names its one subject in another field."""
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        older = {
            "durable_name": "p",
            "filter_subject": "swell.command.p.>",
            "ack_policy": "explicit",
            "ack_wait": 5_000_000_000,
            "max_deliver": -1,
            "max_ack_pending": 20000,
            "deliver_policy": "all",
            "mem_storage": True,
        }
        made = await bus._api(f"CONSUMER.DURABLE.CREATE.{COMMANDS}.p", {"stream_name": COMMANDS, "config": older})
        assert "error" not in made
        puller = bus.commands("p")
        await puller.open()
        await bus.command("swell.command.p.r1.ws-a.1", b"1")
        assert [d.data for d in await puller.next(wanted=1, timeout_s=WAIT_S)] == [b"1"]
        await puller.close()


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


async def test_snapshots_survive_a_kill_of_the_server(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        revision = await bus.take_key(SNAPSHOTS, "r1", b"state", expect=0)
        own_nats_server.kill()
        own_nats_server.start()
        await eventually(lambda: asyncio.sleep(0, bus.revision == 1))
        found = await eventually(lambda: bus.get_key(SNAPSHOTS, "r1"))
        assert (found.sequence, found.data) == (revision, b"state")


async def test_a_replay_goes_on_across_a_kill_of_the_server(own_nats_server):
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        for number in range(50):
            await bus.append(f"swell.event.r1.ws-a.{number}", b"%d" % number, expect=0)
        got = []
        async with aclosing(bus.replay("swell.event.r1.>", batch_max=1)) as batches:
            async for batch in batches:
                got += [m.data for m in batch]
                if len(got) == 10:
                    own_nats_server.kill()
                    own_nats_server.start()
                    await eventually(lambda: asyncio.sleep(0, bus.revision == 1))
        assert got == [b"%d" % number for number in range(50)]


async def test_a_replay_of_much_holds_little(own_nats_server):
    """Who reads slowly makes the server wait: what is held does not grow with the log."""
    async with connected(own_nats_server) as bus:
        await bus.ensure_streams()
        big = bytes(256 * 1024)
        await asyncio.gather(*(bus.add(f"swell.event.r1.ws-{n}.1", big) for n in range(400)))
        follower = Follower(bus, EVENTS, "swell.event.r1.>")
        async with aclosing(follower.batches(batch_max=1)) as batches:
            read = most = 0
            async for batch in batches:
                read += len(batch)
                most = max(most, follower.buffered_bytes)
                await asyncio.sleep(0.001)
                if read == 400:
                    break
        assert most <= 2 * FOLLOW_BACKLOG_BYTES


async def test_a_deleted_object_gives_its_room_back(nats_server):
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        before = (await bus._api("STREAM.INFO.OBJ_SWELL_ARTIFACTS"))["state"]["bytes"]
        await bus.objects.write("short-lived", bytes(1_000_000))
        await bus.objects.delete("short-lived")
        assert (await bus._api("STREAM.INFO.OBJ_SWELL_ARTIFACTS"))["state"]["bytes"] == before


# A full disk


@pytest.fixture
def small_disk(tmp_path, nats_server):
    """A file system of its own for the store of a server; skips where mounting is not permitted."""
    folder = tmp_path / "disk"
    (folder / "store").mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder / "store"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    server = type(nats_server)(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        subprocess.run(["umount", folder / "store"], check=True)


async def filled(bus, size_bytes):
    """How many entries were stored until the bus had enough, and what it said then."""
    for number in range(1000):
        try:
            await bus.append(f"swell.event.r1.ws-a.{number}", bytes(size_bytes), expect=0)
        except BusUnavailableError as error:
            return number, error
    raise AssertionError("the disk is larger than thought")


async def test_a_broker_without_room_is_waited_for_and_refuses_nothing(small_disk):
    """It answers so; what it took is there, and as soon as there is room the same append is stored.

    A server takes three quarters of its disk at most, if it is not told otherwise.
    """
    async with connected(small_disk, append_timeout_s=0.3) as bus, connected(small_disk) as patient:
        await bus.ensure_streams()
        stored, error = await filled(bus, 400_000)
        assert stored > 10
        assert isinstance(error, BusFullError)
        assert "cannot store swell.event.r1.ws-a." in str(error)
        assert "make room on its disk" in str(error)
        with pytest.raises(BusFullError):
            await bus.add("swell.event.r1.request", b"1")
        with pytest.raises(BusFullError):
            await bus.objects.write("o1", bytes(300_000))
        with pytest.raises(BusFullError):
            await bus.take_key(SNAPSHOTS, "r1", b"1", expect=0)
        assert await bus.take_key(LEASES, "scheduler", b"me", expect=0)
        appending = asyncio.create_task(patient.append("swell.event.r1.run", b"1", expect=0))
        adding = asyncio.create_task(patient.add("swell.event.r1.request", b"1"))
        await asyncio.sleep(0.1)
        assert not appending.done()
        await bus._api(f"STREAM.PURGE.{EVENTS}", {"filter": "swell.event.r1.ws-a.0"})
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(appending, adding)
        held = [m async for batch in bus.replay("swell.event.r1.>") for m in batch]
        assert len(held) == stored - 1 + 2


async def test_a_full_log_is_waited_for(own_nats_server):
    """Somebody limited the log while we were running: it holds no more, and what we append waits until that is mended."""
    async with connected(own_nats_server, append_timeout_s=0.3) as bus, connected(own_nats_server) as patient:
        await bus.ensure_streams()
        await bus.append("swell.event.r1.run", b"1", expect=0)
        settings = next(s for s in stream_settings(bus.config) if s["name"] == EVENTS)
        await bus._api(f"STREAM.UPDATE.{EVENTS}", settings | {"max_msgs": 1})
        with pytest.raises(BusFullError, match="maximum messages exceeded"):
            await bus.append("swell.event.r1.run", b"2", expect=1)
        appending = asyncio.create_task(patient.append("swell.event.r1.run", b"2", expect=1))
        await asyncio.sleep(0.1)
        await bus._api(f"STREAM.UPDATE.{EVENTS}", settings)
        async with asyncio.timeout(WAIT_S):
            assert await appending == 2


async def test_a_full_disk_loses_nothing_and_the_log_goes_on_after_a_restart(small_disk):
    """The server then answers nothing, and goes on refusing to store when there is room again, until it is restarted."""
    async with connected(small_disk, append_timeout_s=0.1) as bus, connected(small_disk) as patient:
        await bus.ensure_streams()
        store = small_disk.folder / "store"
        ballast = store / "ballast"
        room = os.statvfs(store)
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 1024 * 1024))
        stored, error = await filled(bus, 100_000)
        assert stored > 3
        assert "check the NATS server, its log and its disk" in str(error)
        appending = asyncio.create_task(patient.append("swell.event.r1.run", b"1", expect=0))
        await asyncio.sleep(0.1)
        ballast.unlink()
        small_disk.kill()
        small_disk.start()
        async with asyncio.timeout(20):
            await appending
        held = [m.subject async for batch in bus.replay("swell.event.r1.>") for m in batch]
        assert held[:stored] == [f"swell.event.r1.ws-a.{number}" for number in range(stored)]
        assert held[-1] == "swell.event.r1.run"


async def test_what_is_larger_than_the_server_takes_is_said_at_once(nats_server):
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        with pytest.raises(BusError, match=r"max_payload of 1048576.*artifact") as refused:
            await bus.take_key(SNAPSHOTS, "large", bytes(2_000_000), expect=0)
        assert not isinstance(refused.value, BusUnavailableError)


async def test_an_object_without_its_chunks_is_missing(nats_server):
    """A writer that died in the middle leaves a description; readers must not wait for the rest."""
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        info = {"name": "torn", "bucket": "SWELL_ARTIFACTS", "nuid": "torn", "size": 3, "chunks": 1}
        meta = base64.urlsafe_b64encode(b"torn").decode()
        assert "error" not in await bus._publish(f"$O.SWELL_ARTIFACTS.M.{meta}", json.dumps(info).encode(), None)
        with pytest.raises(ObjectMissingError, match="torn"):
            async with asyncio.timeout(2):
                _ = [chunk async for chunk in bus.objects.read("torn", limit_bytes=10)]


async def all_of(bus: Bus, name: str, limit_bytes: int = 10**6) -> bytes:
    return b"".join([chunk async for chunk in bus.objects.read(name, limit_bytes=limit_bytes)])


async def described(bus: Bus, name: str) -> tuple[str, dict]:
    """The subject of an object's description, and what stands there first."""
    subject = f"$O.SWELL_ARTIFACTS.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
    return subject, json.loads((await bus.next(subject, stream="OBJ_SWELL_ARTIFACTS")).data)


async def test_what_is_written_behind_an_object_changes_nothing_of_it(nats_server):
    """Another description, more chunks of its own, and either with a header that would take the place of the first."""
    data = bytes(range(256)) * 1200
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        await bus.objects.write("forged", data)
        await bus.objects.write("victim", b"of another")
        subject, info = await described(bus, "forged")
        _, of_another = await described(bus, "victim")
        chunks = f"$O.SWELL_ARTIFACTS.C.{info['nuid']}"
        for header in ("sub", "all"):
            for place in (subject, chunks):
                assert "error" in await bus._publish(place, b"x", {"Nats-Rollup": header})
        for forged in (b"no JSON", json.dumps(of_another).encode(), json.dumps(info | {"deleted": True}).encode()):
            assert "error" not in await bus._publish(subject, forged, None)
        assert "error" not in await bus._publish(chunks, b"forged", None)
        assert await all_of(bus, "forged") == data
        assert await bus.objects.delete("forged")
        assert await all_of(bus, "victim") == b"of another", "what is deleted is the object, not what forgers call it"
        with pytest.raises(ObjectMissingError):
            await all_of(bus, "forged")


@pytest.mark.parametrize(
    ("description", "told"),
    [
        (b"no JSON", "cannot be read"),
        (b'{"nuid": ">", "size": 3, "chunks": 1}', "cannot be read"),
        (b'{"nuid": "n1", "size": 3, "chunks": -1}', "cannot be read"),
        (b'{"nuid": "n1", "size": 3, "chunks": 1000000000}', "more bytes than the 3"),
    ],
)
async def test_a_description_that_lies_is_an_error(nats_server, description, told):
    """It comes from whoever may write objects: nothing is read without end, and no reader falls over it."""
    name = f"lie-{hashlib.sha256(description).hexdigest()}"
    subject = f"$O.SWELL_ARTIFACTS.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        assert "error" not in await bus._publish("$O.SWELL_ARTIFACTS.C.n1", bytes(4), None)
        assert "error" not in await bus._publish(subject, description, None)
        with pytest.raises(BusError, match=told) as refused:
            await all_of(bus, name)
        assert not isinstance(refused.value, BusUnavailableError)


class QuietFollower(Follower):
    """One that needs no server: nothing is mended, nothing comes."""

    async def _mend(self):
        pass

    async def _drop(self):
        pass


async def test_a_cancellation_that_meets_a_message_ends_the_following():
    """On Python 3.11 `asyncio.wait_for` swallows such a one, and whoever waits for the follower's end waits for ever."""
    follower = QuietFollower(None, "S", ">")

    async def follow():
        async for _ in follower.batches():
            pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.05)
    follower._wake.set()
    await asyncio.sleep(0)
    task.cancel()
    _, pending = await asyncio.wait({task}, timeout=3)
    assert not pending


# Cancelling


async def test_a_cancellation_that_comes_with_the_answer_is_not_forgotten(nats_server):
    """nats-py would return the answer, and whoever waits for the end of the task would wait for ever."""
    async with connected(nats_server) as bus:
        await bus.ensure_streams()
        waiting = bus._nc._resp_map

        async def ask():
            await bus.last("swell.event.r1.run")
            await asyncio.Event().wait()  # where a task that has lost its cancellation stays

        await bus.last("swell.event.r1.run")  # from now on answers come in the map
        before = set(waiting)
        task = asyncio.create_task(ask())
        async with asyncio.timeout(WAIT_S):
            while not set(waiting) - before:  # noqa: ASYNC110 - nothing tells that a request was sent
                await asyncio.sleep(0)
        (answer,) = (waiting[token] for token in set(waiting) - before)
        await asyncio.sleep(0)
        answer.add_done_callback(lambda _: task.cancel())
        _, unfinished = await asyncio.wait([task], timeout=WAIT_S)
        assert not unfinished
        assert task.cancelled()
