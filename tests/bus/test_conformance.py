"""What services.bus promises, held against JetStream and against the tests' own bus: one suite for both."""

import asyncio
import contextlib
import hashlib
import uuid
from contextlib import aclosing

import pytest
from memory_bus import Faults, MemoryBus, MemoryServer, newest_of_key
from proxy import AnswerSwallower

from services.artifacts import ARTIFACT_BYTES_MAX, ArtifactDamagedError, Artifacts
from services.bus import EXECUTORS, LEASES, SNAPSHOTS, Bus, BusConfig, BusError, ObjectMissingError, RefusedError
from services.events import Artifact

KIB, MIB = 1024, 1024 * 1024
WAIT_S = 10


class JetStreamWorld:
    """Connections to a real server."""

    def __init__(self, server):
        self._server = server
        self._open = contextlib.AsyncExitStack()

    async def bus(self, **config):
        bus = await Bus.connect(self._server.config(**config), name="test")
        self._open.push_async_callback(bus.close)
        await bus.ensure_streams()
        return bus

    async def deaf_bus(self, answers):
        """A connection that loses the answers to its first publishes."""
        proxy = AnswerSwallower(self._server.port)
        port = await proxy.start()
        self._open.push_async_callback(proxy.stop)
        bus = await Bus.connect(self._server.config(url=f"nats://127.0.0.1:{port}"), name="test")
        self._open.push_async_callback(bus.close)
        proxy.armed = answers
        return bus

    async def close(self):
        await self._open.aclose()


class MemoryWorld:
    """Connections to one server in memory."""

    def __init__(self):
        self._server = MemoryServer(BusConfig(lease_ttl_s=0.3))

    async def bus(self, **config):
        return MemoryBus(self._server)

    async def deaf_bus(self, answers):
        return MemoryBus(self._server, Faults(lose_answers=frozenset(range(1, answers + 1))))

    async def close(self):
        pass


@pytest.fixture(params=["memory", "jetstream"])
async def world(request):
    made = MemoryWorld() if request.param == "memory" else JetStreamWorld(request.getfixturevalue("nats_server"))
    yield made
    await made.close()


@pytest.fixture
async def bus(world):
    return await world.bus()


@pytest.fixture
def run():
    return f"r{uuid.uuid4().hex[:12]}"


async def taken(stream, count):
    """The next `count` messages."""
    got = []
    async with asyncio.timeout(WAIT_S):
        async for batch in stream:
            got += batch
            if len(got) >= count:
                return got
    raise AssertionError("the stream ended")


# Append


async def test_appends_one_after_the_other(bus, run):
    subject = f"swell.event.{run}.run"
    first = await bus.append(subject, b"1", expect=0)
    second = await bus.append(subject, b"2", expect=first)
    assert second > first
    last = await bus.last(subject)
    assert (last.sequence, last.subject, last.data) == (second, subject, b"2")


async def test_expecting_nothing_where_something_stands_is_refused_with_what_stands_there(bus, run):
    subject = f"swell.event.{run}.run"
    first = await bus.append(subject, b"1", expect=0)
    with pytest.raises(RefusedError) as refused:
        await bus.append(subject, b"2", expect=0)
    assert (refused.value.subject, refused.value.expected) == (subject, 0)
    assert (refused.value.last.sequence, refused.value.last.data) == (first, b"1")
    assert (await bus.last(subject)).data == b"1"


async def test_expecting_something_where_nothing_stands_is_refused(bus, run):
    with pytest.raises(RefusedError, match="nothing stands there") as refused:
        await bus.append(f"swell.event.{run}.run", b"1", expect=99)
    assert refused.value.last is None


async def test_the_same_bytes_again_are_the_same_append(bus, run):
    """Equality of bytes is how a lost acknowledgement is recognised."""
    subject = f"swell.event.{run}.run"
    first = await bus.append(subject, b"mine", expect=0)
    assert await bus.append(subject, b"mine", expect=0) == first


async def test_expectations_are_of_one_subject(bus, run):
    """What happens on other subjects of the run does not refuse an append."""
    first = await bus.append(f"swell.event.{run}.run", b"1", expect=0)
    await bus.append(f"swell.event.{run}.request", b"2", expect=0)
    assert await bus.append(f"swell.event.{run}.run", b"3", expect=first) > first


async def test_expecting_over_a_wildcard_sees_every_subject_of_the_run(bus, run):
    subject, everything = f"swell.event.{run}.run", f"swell.event.{run}.>"
    await bus.append(subject, b"1", expect=0, over=everything)
    asked = await bus.append(f"swell.event.{run}.request", b"2", expect=0)
    with pytest.raises(RefusedError) as refused:
        await bus.append(subject, b"3", expect=asked - 1, over=everything)
    assert refused.value.last.sequence == asked
    last = await bus.append(subject, b"3", expect=asked, over=everything)
    assert last == asked + 1
    assert (await bus.last(everything)).sequence == last


async def test_of_many_who_expect_the_same_one_wins(world, run):
    buses = [await world.bus() for _ in range(4)]
    subject = f"swell.event.{run}.ws-a.1"
    results = await asyncio.gather(
        *(b.append(subject, f"{n}".encode(), expect=0) for n, b in enumerate(buses * 5)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, RefusedError) for result in results) == len(results) - 1


async def test_a_lost_acknowledgement_is_not_a_refusal(world, bus, run):
    """The first answers are swallowed after the server stored the entries: each append still returns where it stands."""
    everything = f"swell.event.{run}-2.>"
    asked = await bus.append(f"swell.event.{run}-2.request", b"asked", expect=0)
    deaf = await world.deaf_bus(4)
    subjects = [f"swell.event.{run}.{name}" for name in ("run", "ws-a.1", "ws-b.1")]
    *sequences, end = await asyncio.gather(
        *(deaf.append(subject, subject.encode(), expect=0) for subject in subjects),
        deaf.append(f"swell.event.{run}-2.run", b"end", expect=asked, over=everything),
    )
    for subject, sequence in zip(subjects, sequences, strict=True):
        last = await bus.last(subject)
        assert (last.sequence, last.data) == (sequence, subject.encode())
    last = await bus.last(everything)
    assert (last.sequence, last.data) == (end, b"end")
    async with aclosing(bus.follow(asked)) as stream:
        got = [m for m in await taken(stream, 4) if run in m.subject]
    assert sorted(m.sequence for m in got) == sorted([*sequences, end])
    assert (await bus.identity()).last == max(*sequences, end)


async def test_add_needs_no_expectation(bus, run):
    subject = f"swell.event.{run}.ws-a.1.late"
    first = await bus.add(subject, b"1")
    assert await bus.add(subject, b"2") > first


async def test_an_entry_over_the_streams_limit_is_refused_for_good(bus, run):
    with pytest.raises(BusError, match=f"append to swell.event.{run}.run failed"):
        await bus.append(f"swell.event.{run}.run", bytes(513 * KIB), expect=0)
    assert await bus.last(f"swell.event.{run}.run") is None


async def test_the_largest_entry_fits(bus, run):
    data = bytes(256 * KIB)
    sequence = await bus.append(f"swell.event.{run}.run", data, expect=0)
    assert (await bus.read(sequence)).data == data


# Reading


async def test_nothing_is_none(bus, run):
    assert await bus.last(f"swell.event.{run}.run") is None
    assert await bus.last(f"swell.event.{run}.>") is None
    assert await bus.read((await bus.identity()).last + 1000) is None


async def test_a_message_has_place_and_time(bus, run):
    sequence = await bus.append(f"swell.event.{run}.run", b"1", expect=0)
    recorded = await bus.read(sequence)
    assert recorded == await bus.last(f"swell.event.{run}.run")
    later = await bus.read(await bus.append(f"swell.event.{run}.run", b"2", expect=sequence))
    assert recorded.time_ns < later.time_ns
    identity = await bus.identity()
    assert identity.created_ns < recorded.time_ns
    assert (identity.first, identity.last) == (1, later.sequence)


async def test_time_is_the_same_however_it_is_read(bus, run):
    sequence = await bus.append(f"swell.event.{run}.run", b"1", expect=0)
    async with aclosing(bus.follow(sequence - 1)) as stream:
        assert await taken(stream, 1) == [await bus.read(sequence)]


# Following


async def test_follows_what_is_there_and_what_comes_in_order(world, bus, run):
    other = await world.bus()
    subjects = [f"swell.event.{run}.ws-{n % 7}.{n}" for n in range(40)]
    start = (await bus.identity()).last
    for subject in subjects[:20]:
        await bus.append(subject, subject.encode(), expect=0)
    async with aclosing(bus.follow(start)) as stream:
        got = await taken(stream, 20)
        for subject in subjects[20:]:
            await other.append(subject, subject.encode(), expect=0)
        got += await taken(stream, 20)
    assert [m.subject for m in got] == subjects
    assert [m.sequence for m in got] == list(range(start + 1, start + 41))
    assert [m.data.decode() for m in got] == subjects


async def test_batches_keep_their_limit(bus, run):
    start = (await bus.identity()).last
    for number in range(10):
        await bus.append(f"swell.event.{run}.ws-a.{number}", b"x", expect=0)
    got = []
    async with aclosing(bus.follow(start, linger_s=0.05, batch_max=3)) as stream:
        async for batch in stream:
            assert 0 < len(batch) <= 3
            got += batch
            if len(got) == 10:
                break
    assert [m.sequence for m in got] == list(range(start + 1, start + 11))


async def test_two_followers_see_the_same(bus, run):
    start = (await bus.identity()).last
    async with aclosing(bus.follow(start)) as one, aclosing(bus.follow(start)) as two:
        await bus.append(f"swell.event.{run}.run", b"1", expect=0)
        assert await taken(one, 1) == await taken(two, 1)


# Replaying


async def test_what_is_purged_is_gone_and_nothing_else(bus, run):
    """A subject ends where its newest message that is left stands; one without any accepts a first one again."""
    decisions, attempt = f"swell.event.{run}.run", f"swell.event.{run}.w.1"
    at = [
        await bus.add(subject, b"%d" % number)
        for number, subject in enumerate([decisions, attempt, decisions, attempt])
    ]
    late = await bus.add(f"{attempt}.late", b"4")
    assert await bus.purge(f"swell.event.{run}.*.>", before=late) == 2
    assert await bus.purge(decisions, before=at[2]) == 1
    assert [(one.sequence, one.data) for one in await replayed(bus, f"swell.event.{run}.>")] == [
        (at[2], b"2"),
        (late, b"4"),
    ]
    assert await bus.purge(decisions, before=at[2]) == 0
    with pytest.raises(RefusedError):
        await bus.append(decisions, b"5", expect=at[0])
    assert await bus.append(decisions, b"5", expect=at[2]) > late
    assert await bus.append(attempt, b"6", expect=0) > late


async def test_a_single_message_is_erased_once(bus, run):
    subject = f"swell.event.{run}.request"
    first, second = await bus.add(subject, b"1"), await bus.add(subject, b"2")
    assert await bus.erase(second)
    assert not await bus.erase(second)
    assert await bus.read(second) is None
    assert (await bus.last(subject)).sequence == first


async def replayed(bus, subject, **options):
    return [message async for batch in bus.replay(subject, **options) for message in batch]


async def test_a_replay_is_what_a_wildcard_names_in_order_and_then_it_ends(bus, run):
    names = ["run", "request", "ws-a.1", "run", "ws-a.1.late", "run"]
    for number, name in enumerate(names):
        await bus.add(f"swell.event.{run}.{name}", b"%d" % number)
        await bus.add(f"swell.event.{run}-other.{name}", b"other")
    got = await replayed(bus, f"swell.event.{run}.>")
    assert [(m.subject.removeprefix(f"swell.event.{run}."), m.data) for m in got] == [
        (name, b"%d" % number) for number, name in enumerate(names)
    ]
    assert [m.sequence for m in got] == sorted(m.sequence for m in got)
    assert [m.data for m in await replayed(bus, f"swell.event.{run}.run")] == [b"0", b"3", b"5"]
    assert got[0] == await bus.read(got[0].sequence)


async def test_a_replay_of_nothing_is_empty(bus, run):
    assert await replayed(bus, f"swell.event.{run}.>") == []


async def test_a_replay_may_start_after_a_position(bus, run):
    sequences = [await bus.add(f"swell.event.{run}.run", b"%d" % number) for number in range(4)]
    got = await replayed(bus, f"swell.event.{run}.>", after=sequences[1])
    assert [m.sequence for m in got] == sequences[2:]
    assert await replayed(bus, f"swell.event.{run}.>", after=sequences[3]) == []


async def test_a_replay_ends_at_what_was_the_end_when_it_began(bus, run):
    """However much is written meanwhile."""
    for number in range(5):
        await bus.add(f"swell.event.{run}.run", b"%d" % number)
    got = []
    async with aclosing(bus.replay(f"swell.event.{run}.>", batch_max=2)) as batches:
        async for batch in batches:
            assert len(batch) <= 2
            got += [m.data for m in batch]
            await bus.add(f"swell.event.{run}.ws-{len(got)}.1", b"later")
    assert got == [b"%d" % number for number in range(5)]


async def test_a_replay_can_be_left_early(bus, run):
    for number in range(5):
        await bus.add(f"swell.event.{run}.run", b"%d" % number)
    async with aclosing(bus.replay(f"swell.event.{run}.>", batch_max=1)) as batches:
        assert [m.data for m in await anext(batches)] == [b"0"]
    assert len(await replayed(bus, f"swell.event.{run}.>")) == 5


# Commands


async def test_a_subject_holds_at_most_one_command(bus, run):
    subject = f"swell.command.{run}.{run}.ws-a.1"
    assert await bus.command(subject, b"1") is True
    assert await bus.command(subject, b"1") is False
    assert await bus.command(subject, b"2") is False
    puller = bus.commands(run)
    await puller.open()
    [delivery] = await puller.next(wanted=5, timeout_s=WAIT_S)
    assert (delivery.subject, delivery.data) == (subject, b"1")
    await puller.close()


async def test_a_consumed_command_may_be_issued_again(bus, run):
    """Commands carry no message id: de-duplication would swallow a re-issue."""
    subject = f"swell.command.{run}.{run}.ws-a.1"
    puller = bus.commands(run)
    await puller.open()
    for _ in range(3):
        assert await bus.command(subject, b"1") is True
        [delivery] = await puller.next(wanted=1, timeout_s=WAIT_S)
        assert delivery.data == b"1"
        await delivery.ack()
        async with asyncio.timeout(WAIT_S):
            while await bus.last(subject, stream="SWELL_COMMANDS") is not None:  # noqa: ASYNC110 - an ack is not answered
                await asyncio.sleep(0)
    await puller.close()


async def test_what_is_not_acknowledged_still_holds_its_subject(bus, run):
    subject = f"swell.command.{run}.{run}.ws-a.1"
    await bus.command(subject, b"1")
    puller = bus.commands(run)
    await puller.open()
    assert len(await puller.next(wanted=1, timeout_s=WAIT_S)) == 1
    assert await bus.command(subject, b"1") is False
    assert await puller.next(wanted=1, timeout_s=0.05) == []
    await puller.close()


async def test_a_command_that_is_put_off_goes_to_somebody_else_then(world, bus, run):
    await bus.command(f"swell.command.{run}.{run}.ws-a.1", b"1")
    puller, other = bus.commands(run), (await world.bus()).commands(run)
    await puller.open()
    await other.open()
    [delivery] = await puller.next(wanted=1, timeout_s=WAIT_S)
    await puller.close()
    await delivery.nak(0.1)
    [again] = await other.next(wanted=1, timeout_s=WAIT_S)
    assert (again.subject, again.data) == (delivery.subject, b"1")
    await other.close()


async def test_no_more_is_pulled_than_wanted_and_nothing_twice(world, bus, run):
    for number in range(10):
        await bus.command(f"swell.command.{run}.{run}.ws-{number}.1", b"x")
    pullers = [bus.commands(run), (await world.bus()).commands(run)]
    got = []
    for puller in pullers:
        await puller.open()
    while len(got) < 10:
        for puller in pullers:
            deliveries = await puller.next(wanted=2, timeout_s=WAIT_S if len(got) < 10 else 0.01)
            assert len(deliveries) <= 2
            got += [d.subject for d in deliveries]
            for delivery in deliveries:
                await delivery.ack()
    assert len(set(got)) == len(got) == 10
    for puller in pullers:
        await puller.close()


async def test_a_pool_gets_its_own_commands(bus, run):
    await bus.command(f"swell.command.{run}a.{run}.ws-a.1", b"a")
    await bus.command(f"swell.command.{run}b.{run}.ws-a.1", b"b")
    puller = bus.commands(f"{run}b")
    await puller.open()
    assert [d.data for d in await puller.next(wanted=5, timeout_s=WAIT_S)] == [b"b"]
    await puller.close()


async def test_a_command_that_comes_later_ends_the_wait(bus, run):
    puller = bus.commands(run)
    await puller.open()
    waiting = asyncio.create_task(puller.next(wanted=3, timeout_s=WAIT_S))
    await asyncio.sleep(0)
    await bus.command(f"swell.command.{run}.{run}.ws-a.1", b"x")
    assert [d.data for d in await waiting] == [b"x"]
    await puller.close()


# Consumers


def consumer_of(bus, run, **options):
    return bus.consume(run, [f"swell.event.{run}.run", f"swell.event.{run}.*.1"], **{"ack_wait_s": 30.0} | options)


async def consumed(consumer, count):
    got = []
    async with asyncio.timeout(WAIT_S):
        while len(got) < count:
            got += await consumer.next(wanted=count - len(got), timeout_s=1.0)
    return got


async def test_a_new_consumer_gets_what_comes_and_not_what_was(bus, run):
    await bus.add(f"swell.event.{run}.run", b"old news")
    consumer = consumer_of(bus, run)
    await consumer.open()
    sequences = [
        await bus.add(f"swell.event.{run}.{name}", name.encode())
        for name in ("run", "request", "ws-a.1", "ws-a.2", "run")
    ]
    got = await consumed(consumer, 3)
    assert [d.data for d in got] == [b"run", b"ws-a.1", b"run"]
    assert [d.sequence for d in got] == [sequences[0], sequences[2], sequences[4]]
    stored = await bus.read(got[1].sequence)
    assert (got[1].subject, got[1].time_ns, got[1].count) == (stored.subject, stored.time_ns, 1)
    assert await consumer.next(wanted=1, timeout_s=0.05) == []
    await consumer.close()


async def test_a_consumer_that_exists_goes_on_where_it_was(world, bus, run):
    """What came while nobody was there is delivered to whoever opens it next."""
    first = consumer_of(bus, run)
    await first.open()
    await first.close()
    await bus.add(f"swell.event.{run}.run", b"meanwhile")
    other = consumer_of(await world.bus(), run)
    await other.open()
    [delivery] = await consumed(other, 1)
    assert delivery.data == b"meanwhile"
    await delivery.ack()
    await other.close()


async def test_consumers_of_one_name_share_and_of_two_names_do_not(world, bus, run):
    shared = [consumer_of(bus, run), consumer_of(await world.bus(), run)]
    alone = bus.consume(f"{run}-b", [f"swell.event.{run}.run"], ack_wait_s=30.0)
    for consumer in (*shared, alone):
        await consumer.open()
    for number in range(6):
        await bus.add(f"swell.event.{run}.run", b"%d" % number)
    got = await consumed(shared[0], 3) + await consumed(shared[1], 3)
    assert sorted(d.data for d in got) == [b"%d" % number for number in range(6)]
    assert [d.data for d in await consumed(alone, 6)] == [b"%d" % number for number in range(6)]
    for consumer in (*shared, alone):
        await consumer.close()


async def test_what_is_not_acknowledged_comes_again_and_says_so(world, bus, run):
    """To anybody, when its time is over; what is acknowledged does not."""
    first = consumer_of(bus, run, ack_wait_s=0.3)
    await first.open()
    await bus.add(f"swell.event.{run}.run", b"kept")
    await bus.add(f"swell.event.{run}.run", b"done")
    kept, done = await consumed(first, 2)
    await done.ack()
    await first.close()
    other = consumer_of(await world.bus(), run, ack_wait_s=0.3)
    await other.open()
    [again] = await consumed(other, 1)
    assert (again.sequence, again.data, kept.count, again.count) == (kept.sequence, b"kept", 1, 2)
    await again.ack()
    assert await other.next(wanted=1, timeout_s=0.5) == []
    await other.close()


async def test_what_is_put_off_comes_again_later_and_blocks_nothing(bus, run):
    consumer = consumer_of(bus, run)
    await consumer.open()
    await bus.add(f"swell.event.{run}.run", b"1")
    [first] = await consumed(consumer, 1)
    await first.nak(0.4)
    await bus.add(f"swell.event.{run}.run", b"2")
    [second] = await consumed(consumer, 1)
    assert second.data == b"2"
    await second.ack()
    assert await consumer.next(wanted=1, timeout_s=0.1) == []
    [again] = await consumed(consumer, 1)
    assert (again.data, again.count) == (b"1", 2)
    await again.nak(0.0)
    [once_more] = await consumed(consumer, 1)
    assert once_more.count == 3
    await once_more.ack()
    await consumer.close()


async def test_who_asks_for_more_time_keeps_it(world, bus, run):
    """For longer than it would have had."""
    holder = consumer_of(bus, run, ack_wait_s=0.4)
    other = consumer_of(await world.bus(), run, ack_wait_s=0.4)
    await holder.open()
    await other.open()
    await bus.add(f"swell.event.{run}.run", b"1")
    [held] = await consumed(holder, 1)
    for _ in range(6):
        await held.more_time()
        assert await other.next(wanted=1, timeout_s=0.1) == []
    await held.ack()
    assert await other.next(wanted=1, timeout_s=0.5) == []
    for consumer in (holder, other):
        await consumer.close()


async def test_no_more_is_outstanding_than_allowed(bus, run):
    consumer = consumer_of(bus, run, outstanding_max=2)
    await consumer.open()
    for number in range(3):
        await bus.add(f"swell.event.{run}.run", b"%d" % number)
    one, _ = await consumed(consumer, 2)
    assert await consumer.next(wanted=1, timeout_s=0.1) == []
    await one.ack()
    [three] = await consumed(consumer, 1)
    assert three.data == b"2"
    await consumer.close()


# Keys


async def test_a_key_holds_its_newest_value(bus, run):
    assert await newest_of_key(bus, EXECUTORS, run) is None
    await bus.put_key(EXECUTORS, run, b"1")
    await bus.put_key(EXECUTORS, run, b"2")
    assert (await newest_of_key(bus, EXECUTORS, run)).data == b"2"


async def test_a_key_is_taken_once(world, bus, run):
    other = await world.bus()
    revision = await bus.take_key(LEASES, run, b"mine", expect=0)
    assert revision
    assert await other.take_key(LEASES, run, b"theirs", expect=0) is None
    assert await bus.take_key(LEASES, run, b"mine", expect=revision) > revision
    assert await bus.take_key(LEASES, run, b"mine", expect=revision) is None
    assert (await newest_of_key(other, LEASES, run)).data == b"mine"


async def test_a_lease_that_is_not_renewed_ends(bus, run):
    """And only then may somebody else take it."""
    taken_at = await bus.take_key(LEASES, run, b"mine", expect=0)
    async with asyncio.timeout(bus.config.lease_ttl_s + 3):
        while (found := await newest_of_key(bus, LEASES, run)) is not None:
            assert found.sequence == taken_at
            await asyncio.sleep(0.01)
    assert await bus.take_key(LEASES, run, b"theirs", expect=0) > taken_at


async def test_following_keys_starts_with_what_is_there(bus, run):
    await bus.put_key(EXECUTORS, f"{run}-a", b"1")
    await bus.put_key(EXECUTORS, f"{run}-a", b"2")
    await bus.put_key(EXECUTORS, f"{run}-b", b"3")
    seen = []
    async with aclosing(bus.follow_keys(EXECUTORS)) as stream, asyncio.timeout(WAIT_S):
        async for batch in stream:
            seen += [(m.subject.rpartition(".")[2], m.data) for m in batch if run in m.subject]
            if (f"{run}-b", b"3") in seen and (f"{run}-b", b"4") not in seen:
                await bus.put_key(EXECUTORS, f"{run}-b", b"4")
            if (f"{run}-b", b"4") in seen:
                break
    assert seen == [(f"{run}-a", b"2"), (f"{run}-b", b"3"), (f"{run}-b", b"4")]


async def test_a_snapshot_is_replaced_by_whoever_knows_its_revision(world, bus, run):
    """And it stays: nothing of it expires."""
    other = await world.bus()
    assert await bus.get_key(SNAPSHOTS, run) is None
    revision = await bus.take_key(SNAPSHOTS, run, b"1", expect=0)
    found = await other.get_key(SNAPSHOTS, run)
    assert (found.sequence, found.data) == (revision, b"1")
    assert await other.take_key(SNAPSHOTS, run, b"theirs", expect=0) is None
    newer = await other.take_key(SNAPSHOTS, run, b"2", expect=revision)
    assert await bus.take_key(SNAPSHOTS, run, b"mine", expect=revision) is None
    found = await bus.get_key(SNAPSHOTS, run)
    assert (found.sequence, found.data) == (newer, b"2")


async def test_keys_do_not_mix(bus, run):
    await bus.take_key(SNAPSHOTS, f"{run}.a", b"a", expect=0)
    assert await bus.get_key(SNAPSHOTS, run) is None
    assert await bus.get_key(SNAPSHOTS, f"{run}.b") is None
    assert (await bus.get_key(SNAPSHOTS, f"{run}.a")).data == b"a"


# What is said


async def test_what_is_said_is_heard_by_who_listens(world, bus, run):
    other = await world.bus()
    async with bus.hear(f"swell.nudge.{run}") as heard:
        await newest_of_key(bus, LEASES, run)  # the server has the subscription before anything is said
        await other.say(f"swell.nudge.{run}x", b"not mine")
        await other.say(f"swell.nudge.{run}", b"mine")
        async with asyncio.timeout(WAIT_S):
            assert await heard.get() == (f"swell.nudge.{run}", b"mine")


async def test_who_does_not_read_loses_the_oldest(bus, run):
    async with bus.hear(f"swell.live.{run}.>", backlog=2) as heard:
        for number in range(5):
            await bus.say(f"swell.live.{run}.ws-a", f"{number}".encode())
        async with bus.hear(f"swell.end.{run}") as end:
            await bus.say(f"swell.end.{run}", b"")
            async with asyncio.timeout(WAIT_S):
                await end.get()
        assert [heard.get_nowait()[1] for _ in range(2)] == [b"3", b"4"]
        assert heard.empty()


# Objects


@pytest.mark.parametrize("size", [0, 1, 128 * KIB, MIB, 5 * MIB + 1])
async def test_an_artifact_comes_back(world, bus, size):
    data = hashlib.sha256(b"seed").digest() * (size // 32 + 1)
    data = data[:size]
    artifact = await Artifacts(bus.objects).put("log", data)
    assert artifact == Artifact(
        role="log", digest=hashlib.sha256(data).hexdigest(), name=artifact.name, size_bytes=size
    )
    assert await Artifacts((await world.bus()).objects).get(artifact) == data


async def test_equal_content_has_one_digest_and_two_names(bus):
    artifacts = Artifacts(bus.objects)
    one, two = await artifacts.put("log", b"x"), await artifacts.put("log", b"x")
    assert one.digest == two.digest
    assert one.name != two.name


async def test_a_missing_object_is_said_to_be_missing(bus, run):
    with pytest.raises(ObjectMissingError, match=run):
        await Artifacts(bus.objects).get(Artifact(role="log", digest="0" * 64, name=run, size_bytes=1))


@pytest.mark.parametrize("damage", [b"other content", b"", b"stored conten", b"stored content and more"])
async def test_a_damaged_object_is_not_given_out(bus, run, damage):
    await bus.objects.write(run, damage)
    told = Artifact(role="log", digest=hashlib.sha256(b"stored content").hexdigest(), name=run, size_bytes=14)
    with pytest.raises(ArtifactDamagedError, match=run):
        await Artifacts(bus.objects).get(told)


async def test_an_object_that_is_written_again_stays_what_it_was(bus):
    artifact = await Artifacts(bus.objects).put("log", b"stored content")
    await bus.objects.write(artifact.name, b"forged content")
    assert await Artifacts(bus.objects).get(artifact) == b"stored content"


async def test_an_object_over_the_readers_limit_is_not_read(bus, run):
    await bus.objects.write(run, bytes(10))
    with pytest.raises(BusError, match="over the limit of 9"):
        _ = [chunk async for chunk in bus.objects.read(run, limit_bytes=9)]


@pytest.mark.parametrize("size", [0, 5, 300 * KIB])
async def test_a_deleted_object_is_missing(bus, run, size):
    """Deleting again says that it was not there; others stay."""
    await bus.objects.write(run, bytes(size))
    await bus.objects.write(f"{run}-other", b"other")
    assert await bus.objects.delete(run) is True
    with pytest.raises(ObjectMissingError, match=run):
        _ = [chunk async for chunk in bus.objects.read(run, limit_bytes=MIB)]
    assert await bus.objects.delete(run) is False
    assert [chunk async for chunk in bus.objects.read(f"{run}-other", limit_bytes=MIB)] == [b"other"]


async def test_an_artifact_over_the_limit_is_not_written():
    class Never:
        async def write(self, name, data):
            raise AssertionError(name)

    class Huge(bytes):
        def __len__(self):
            return ARTIFACT_BYTES_MAX + 1

    with pytest.raises(BusError, match="over the limit"):
        await Artifacts(Never()).put("log", Huge())


# Connections


async def test_a_connection_stands_until_it_is_closed(bus):
    assert bus.connected
    assert bus.revision == 0
    assert isinstance(bus.config, BusConfig)
    await bus.close()
    assert not bus.connected
