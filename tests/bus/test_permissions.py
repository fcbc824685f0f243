"""Everything that the table of permissions allows works on a real server, and everything else is refused.

One server with the generated configuration. What is allowed is tried through the services' own bus where it says most, and
subject by subject; what is forbidden is tried raw: whether the server says so, and that no stream has changed by it.
"""

import asyncio
import contextlib
import json
import secrets
from pathlib import Path

import pytest
from nats.aio.client import Client
from test_jetstream import connected, eventually, taken

from services import permissions
from services.bus import COMMANDS, EVENTS, EXECUTORS, LEASES, SNAPSHOTS, Bus, BusDeniedError, BusError, stream_settings
from services.bus_config import BusConfig, inbox_of
from services.permissions import ADMIN, BEATS, LEDGER, OBJECTS, SCHEDULER, STREAMS, users

POOLS = ("default", "gpu", "gpu/e1")
DEFAULT, GPU, ONE = "swell-executor-default", "swell-executor-gpu", "swell-executor-gpu@e1"
TABLE = {user.name: user for user in users(POOLS)}
EVERYBODY = (SCHEDULER, LEDGER, DEFAULT, GPU, ONE, ADMIN)
EXECUTING = (DEFAULT, GPU, ONE)
ANSWER_S = 2.0


class Permitted:
    """A server that knows everybody, and `root`, who may do all; and a raw connection of each user."""

    def __init__(self, server, passwords):
        self.server = server
        self.passwords = passwords
        self.refusals = {}
        self._raw = {}

    def config(self, user, **changes):
        return self.server.config(user=user, password_file=self.server.folder / user, **changes)

    async def raw(self, user):
        if user not in self._raw:
            client = Client()
            heard = self.refusals[user] = asyncio.Queue()

            async def failed(error):
                heard.put_nowait(str(error))

            await client.connect(
                self.server.url, user=user, password=self.passwords[user], inbox_prefix=inbox_of(user), error_cb=failed
            )
            self._raw[user] = client
        return self._raw[user]

    async def refused(self, user, action, subject, body=b""):
        """Whether the server refuses this; nothing else may be under way."""
        client = await self.raw(user)
        heard = self.refusals[user]
        if action == "subscribe":
            await client.subscribe(subject)
        else:
            await client.publish(subject, body)
        await client._flush_pending(force_flush=True)  # nats-py's own flush may overtake what it has buffered
        await client.flush()
        said = []
        while not heard.empty():
            said.append(heard.get_nowait())
        return any("permissions violation" in text and subject.lower() in text for text in said)

    async def state(self):
        """What every stream holds, and its settings."""
        client = await self.raw("root")
        found = {}
        for name in STREAMS:
            answer = await client.request(f"$JS.API.STREAM.INFO.{name}", b'{"deleted_details": true}', timeout=ANSWER_S)
            told = json.loads(answer.data)
            found[name] = (
                {key: told["state"].get(key) for key in ("messages", "last_seq", "num_deleted", "consumer_count")},
                told["config"],
            )
        return found

    async def close(self):
        for client in self._raw.values():
            await client.close()


@pytest.fixture(scope="module")
def server(nats_server, tmp_path_factory):
    """With the configuration that is generated, and `root` beside."""
    made = type(nats_server)(tmp_path_factory.mktemp("permitted"))
    made.passwords = {name: secrets.token_hex(8) for name in (*EVERYBODY, "root")}
    for name, password in made.passwords.items():
        (made.folder / name).write_text(password)
    table = [*TABLE.values(), permissions.User("root", (*permissions._publish("", ">"), *permissions._hear("", ">")))]
    made.authorization = permissions.nats_conf(table, made.passwords)
    made.start()
    yield made
    made.kill()


@pytest.fixture
async def permitted(server):
    made = Permitted(server, server.passwords)
    async with connected_as(made, SCHEDULER) as bus:
        await bus.ensure_streams()
        root = await made.raw("root")
        for name in STREAMS:
            await root.request(f"$JS.API.STREAM.PURGE.{name}", timeout=ANSWER_S)
        yield made
    await made.close()


@contextlib.asynccontextmanager
async def connected_as(permitted, user, **config):
    bus = await Bus.connect(permitted.config(user, **config), name=user)
    try:
        yield bus
    finally:
        await bus.close()


# What is allowed


def literal(subject):
    """A subject that a wildcard stands for."""
    tokens = ["x1" if token == "*" else token for token in subject.split(".")]
    return ".".join([*tokens[:-1], "x2.x3"] if tokens[-1] == ">" else tokens)


async def test_everything_in_the_table_is_permitted(permitted):
    """Subject by subject: the server has nothing against it, whatever JetStream answers to an empty request."""
    tried = 0
    for user in TABLE.values():
        for grant in user.grants:
            # An empty purge removes everything, so it is asked for something that is not there.
            body = b'{"filter": "nothing"}' if "STREAM.PURGE" in grant.subject else b""
            assert not await permitted.refused(user.name, grant.action, literal(grant.subject), body), grant
            tried += 1
    assert tried > 80


async def test_a_run_through_all_services(permitted):
    """What each does in the course of a step, by its own user."""
    async with (
        connected_as(permitted, SCHEDULER) as scheduler,
        connected_as(permitted, GPU) as executor,
        connected_as(permitted, LEDGER) as ledger,
        connected_as(permitted, ADMIN) as admin,
    ):
        await executor.find_streams(EVENTS, COMMANDS, OBJECTS, BEATS)
        await ledger.find_streams(EVENTS, COMMANDS, OBJECTS)
        request = await scheduler.append("swell.event.r1.request", b"asked", expect=0)
        decision = await scheduler.append("swell.event.r1.run", b"decided", expect=0)
        assert await scheduler.take_key(LEASES, "scheduler", b"me", expect=0) is not None
        assert await scheduler.command("swell.command.gpu.r1.ws-a.1", b"do")
        puller = executor.commands("gpu")
        await puller.open()
        [delivery] = await puller.next(wanted=1, timeout_s=ANSWER_S)
        claim = await executor.append("swell.event.r1.ws-a.1", b"claimed", expect=0)
        await delivery.ack()
        await executor.objects.write("log-1", bytes(300_000))
        async with ledger.hear("swell.live.r1.ws-a") as live, executor.hear("swell.nudge.gpu.e7") as nudges:
            await asyncio.gather(ledger._nc.flush(), executor._nc.flush())
            await executor.say("swell.live.r1.ws-a", b"output")
            await scheduler.say("swell.nudge.gpu.e7", b"look")
            async with asyncio.timeout(ANSWER_S):
                assert (await live.get())[1] == b"output"
                assert (await nudges.get())[1] == b"look"
        await executor.put_key(EXECUTORS, "gpu.e7", b"beat")
        [beat] = await taken(scheduler.follow_keys(EXECUTORS), 1)
        assert beat.subject == f"$KV.{EXECUTORS}.gpu.e7"
        await executor.append("swell.event.r1.ws-a.1", b"finished", expect=claim)
        await executor.add("swell.event.r1.ws-a.1.late", b"late")
        assert await executor.next("swell.event.r1.run") == await scheduler.last("swell.event.r1.run")
        for bus in (scheduler, ledger, executor):
            assert b"".join([chunk async for chunk in bus.objects.read("log-1", limit_bytes=10**6)]) == bytes(300_000)
        assert await scheduler.objects.delete("log-1")
        assert await scheduler.take_key(SNAPSHOTS, "scheduler", b"here", expect=0) is not None
        assert (await scheduler.get_key(SNAPSHOTS, "scheduler")).data == b"here"
        told = await taken(ledger.follow(0, subject="swell.event.r1.>"), 5)
        assert [one.data for one in told] == [b"asked", b"decided", b"claimed", b"finished", b"late"]
        assert await ledger.last("swell.command.*.r1.>", stream=COMMANDS) is None
        notified = scheduler.consume("swell-notify-webhook", ["swell.event.*.run"], ack_wait_s=5)
        await notified.open()
        await scheduler.append("swell.event.r1.run", b"more", expect=decision)
        [delivery] = await notified.next(wanted=1, timeout_s=ANSWER_S)
        await delivery.ack()
        await notified.close()
        await puller.close()
        assert await admin.erase(request)
        assert await admin.purge("swell.event.r1.*.>", before=10**6) == 3


# What is forbidden

DELIVER = {"deliver_subject": "swell.event.r1.run", "ack_policy": "none"}


def consumer(stream, name, **config):
    return json.dumps({"stream_name": stream, "config": {"name": name, **config}}).encode()


SETTINGS = {settings["name"]: json.dumps(settings).encode() for settings in stream_settings(BusConfig())}
OTHERS = {user: [other for other in EVERYBODY if other != user] for user in EVERYBODY}


def forbidden():
    """(user, action, subject, body): everything here would do harm."""
    for user in (LEDGER, *EXECUTING, ADMIN):
        yield from (
            (user, "publish", f"$JS.API.STREAM.{verb}.{name}", SETTINGS[name])
            for name in STREAMS
            for verb in ("CREATE", "UPDATE")
        )
        yield from ((user, "publish", f"$JS.API.STREAM.DELETE.{name}", b"") for name in STREAMS)
        for subject in (
            "swell.event.r1.run", "swell.event.r1.request", "swell.event.fleet.run", "swell.event.fleet.request",
            "swell.event.fleet.ws-a.1", "swell.command.gpu.r1.ws-a.1", "swell.command.default.r1.ws-a.1",
            f"$KV.{LEASES}.scheduler", f"$KV.{SNAPSHOTS}.scheduler", f"$KV.{EXECUTORS}.e1", f"$KV.{EXECUTORS}.other.e1",
            "swell.nudge.gpu.e1", "swell.event.r1", "swell.event.r1.ws-a.1.late.more",
        ):  # fmt: skip
            yield user, "publish", subject, b"forged"
        yield user, "publish", f"$JS.API.STREAM.PURGE.{COMMANDS}", b""
        yield user, "publish", f"$JS.API.STREAM.PURGE.{OBJECTS}", b""
        yield user, "publish", f"$JS.API.STREAM.PURGE.{BEATS}", b""
        yield user, "publish", f"$JS.API.STREAM.MSG.DELETE.{OBJECTS}", b'{"seq": 1}'
        yield user, "publish", f"$JS.API.CONSUMER.CREATE.{OBJECTS}.c1", consumer(OBJECTS, "c1", **DELIVER)
        yield user, "publish", f"$JS.API.CONSUMER.CREATE.{BEATS}.c1", consumer(BEATS, "c1", **DELIVER)
        yield user, "publish", f"$JS.API.CONSUMER.DURABLE.CREATE.{EVENTS}.c1", consumer(EVENTS, "c1", durable_name="c1")
        yield user, "publish", f"$JS.API.CONSUMER.DELETE.{EVENTS}.swell-notify-webhook.x", b""
    for user in (LEDGER, ADMIN):
        for subject in (
            "swell.event.r1.ws-a.1", "swell.event.r1.ws-a.1.late", f"$KV.{EXECUTORS}.gpu.e1", "swell.live.r1.ws-a",
            f"$JS.ACK.{COMMANDS}.gpu.1.1.1.1.0", f"$JS.ACK.{EVENTS}.swell-notify-webhook.1.1.1.1.0",
            f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS}.gpu", f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.swell-notify-webhook",
        ):  # fmt: skip
            yield user, "publish", subject, b"forged"
        yield from ((user, "publish", f"$O.SWELL_ARTIFACTS.{part}.x", b"forged") for part in "CM")
        yield user, "publish", f"$JS.API.CONSUMER.CREATE.{COMMANDS}.gpu.swell.command.gpu.>", consumer(COMMANDS, "gpu")
    for user in (LEDGER, SCHEDULER, *EXECUTING):
        yield user, "publish", f"$JS.API.STREAM.PURGE.{EVENTS}", b""
        yield user, "publish", f"$JS.API.STREAM.MSG.DELETE.{EVENTS}", b'{"seq": 1}'
        yield user, "publish", f"$JS.API.STREAM.SNAPSHOT.{EVENTS}", b'{"deliver_subject": "x"}'
        yield user, "publish", f"$JS.API.STREAM.RESTORE.{EVENTS}", b"{}"
    for user in EXECUTING:
        other = "default" if user != DEFAULT else "gpu"
        own = consumer(
            COMMANDS, other, durable_name=other, filter_subject=f"swell.command.{other}.>", ack_policy="explicit"
        )
        for subject, body in (
            (f"$JS.API.CONSUMER.CREATE.{COMMANDS}.{other}.swell.command.{other}.>", own),
            (f"$JS.API.CONSUMER.CREATE.{COMMANDS}.{other}", own),
            (f"$JS.API.CONSUMER.DURABLE.CREATE.{COMMANDS}.{other}", own),
            (f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS}.{other}", b""),
            (f"$JS.API.CONSUMER.INFO.{COMMANDS}.{other}", b""),
            (f"$JS.API.CONSUMER.DELETE.{COMMANDS}.{other}", b""),
            (f"$JS.API.CONSUMER.PAUSE.{COMMANDS}.{other}", b"{}"),
            (f"$JS.ACK.{COMMANDS}.{other}.1.1.1.1.0", b"+ACK"),
            (f"$JS.ACK.D.A.{COMMANDS}.{other}.1.1.1.1.0", b"+ACK"),
            (f"$JS.API.CONSUMER.CREATE.{EVENTS}.c1", consumer(EVENTS, "c1", **DELIVER)),
            (
                f"$JS.API.CONSUMER.CREATE.{EVENTS}.c1.swell.event.>",
                consumer(EVENTS, "c1", filter_subject="swell.event.>"),
            ),
            (f"$JS.API.CONSUMER.DELETE.{EVENTS}.swell-notify-webhook", b""),
            (f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.swell-notify-webhook", b""),
            (f"$JS.ACK.{EVENTS}.swell-notify-webhook.1.1.1.1.0", b"+ACK"),
            (f"$JS.API.STREAM.MSG.GET.{COMMANDS}", b'{"seq": 1}'),
            (f"$JS.API.STREAM.MSG.GET.KV_{LEASES}", b'{"seq": 1}'),
            (f"$JS.API.STREAM.MSG.GET.KV_{SNAPSHOTS}", b'{"seq": 1}'),
            (f"$JS.API.DIRECT.GET.{BEATS}", b'{"seq": 1}'),
            ("$JS.API.STREAM.LIST", b""),
            ("$JS.API.INFO", b""),
            (f"$KV.{EXECUTORS}.{other}.e1", b"forged"),
        ):
            yield user, "publish", subject, body
    yield ONE, "publish", f"$KV.{EXECUTORS}.gpu.e2", b"forged"
    yield ONE, "subscribe", "swell.nudge.gpu.e2", b""
    yield SCHEDULER, "publish", "swell.event.r1.ws-a.1.late", b"forged"
    yield SCHEDULER, "publish", f"$KV.{EXECUTORS}.gpu.e1", b"forged"
    yield SCHEDULER, "publish", "swell.live.r1.ws-a", b"forged"
    yield SCHEDULER, "publish", f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS}.gpu", b""
    yield SCHEDULER, "publish", f"$JS.ACK.{COMMANDS}.gpu.1.1.1.1.0", b"+ACK"
    yield from (
        (SCHEDULER, "publish", f"$JS.API.STREAM.{verb}.{name}", SETTINGS[name])
        for name in STREAMS
        for verb in ("UPDATE", "DELETE")
    )
    yield from ((ADMIN, "publish", f"$JS.API.STREAM.MSG.GET.{name}", b'{"seq": 1}') for name in STREAMS)
    yield ADMIN, "publish", f"$JS.API.CONSUMER.CREATE.{EVENTS}.c1", consumer(EVENTS, "c1", **DELIVER)
    for user in EVERYBODY:
        for other in OTHERS[user]:
            yield user, "subscribe", f"{inbox_of(other)}.>", b""
        yield from (
            (user, "subscribe", subject, b"") for subject in (">", "_INBOX.>", "*.>", "swell.>", "swell.event.>")
        )
        yield from (
            (user, "subscribe", subject, b"") for subject in ("swell.command.>", "$KV.>", "$O.>", "$JS.>", "$JS.ACK.>")
        )
        yield user, "subscribe", "$SYS.>", b""
        if user != LEDGER:
            yield user, "subscribe", "swell.live.>", b""
        if user != GPU:
            yield user, "subscribe", "swell.nudge.gpu.*", b""


FORBIDDEN = list(forbidden())


async def test_everything_else_is_refused(permitted, tell):
    """Each action is tried; the server names it as a violation, and no stream has changed in anything afterwards."""
    root = await permitted.raw("root")
    for subject in ("swell.event.r9.ws-a.1", "swell.command.gpu.r9.ws-a.1", "$O.SWELL_ARTIFACTS.C.x9"):
        await root.request(subject, b"there", timeout=ANSWER_S)
    for name in ("gpu", "default"):
        await root.request(
            f"$JS.API.CONSUMER.CREATE.{COMMANDS}.{name}.swell.command.{name}.>",
            consumer(
                COMMANDS, name, durable_name=name, filter_subject=f"swell.command.{name}.>", ack_policy="explicit"
            ),
            timeout=ANSWER_S,
        )
    before = await permitted.state()
    let_through = [row[:3] for row in FORBIDDEN if not await permitted.refused(*row)]
    assert let_through == []
    after = await permitted.state()
    for stream in (EVENTS, COMMANDS, OBJECTS, f"KV_{SNAPSHOTS}"):
        assert after[stream] == before[stream], stream
    assert {name: kept[1] for name, kept in after.items()} == {name: kept[1] for name, kept in before.items()}
    by_user = {user: sum(row[0] == user for row in FORBIDDEN) for user in EVERYBODY}
    tell(f"{len(FORBIDDEN)} forbidden actions tried and refused: " + ", ".join(f"{u} {n}" for u, n in by_user.items()))


def own_consumer(**config):
    given = {"durable_name": "gpu", "name": "gpu", "ack_policy": "explicit", "filter_subject": "swell.command.gpu.>"}
    return {key: value for key, value in (given | config).items() if value is not None}


@pytest.mark.parametrize(
    "config",
    [
        {"filter_subject": "swell.command.default.>"},
        {"filter_subject": "swell.command.>"},
        {"filter_subject": None},
        {"filter_subject": None, "filter_subjects": ["swell.command.default.>"]},
        {"filter_subjects": ["swell.command.default.>"]},
        {"name": "default", "durable_name": "default"},
        {"durable_name": "default"},
    ],
)
async def test_the_consumer_of_a_pool_cannot_become_anothers(permitted, config):
    """The subject permits one name and one filter; the server refuses what says otherwise in its body."""
    client = await permitted.raw(GPU)
    body = json.dumps({"stream_name": COMMANDS, "config": own_consumer(**config)}).encode()
    subject = f"$JS.API.CONSUMER.CREATE.{COMMANDS}.gpu.swell.command.gpu.>"
    answer = json.loads((await client.request(subject, body, timeout=ANSWER_S)).data)
    assert "error" in answer
    elsewhere = json.dumps({"stream_name": EVENTS, "config": own_consumer()}).encode()
    assert "error" in json.loads((await client.request(subject, elsewhere, timeout=ANSWER_S)).data)


@pytest.mark.parametrize("rollup", ["all", "sub"])
@pytest.mark.parametrize("subject", ["$O.SWELL_ARTIFACTS.M.x8", f"$KV.{EXECUTORS}.gpu.e1", "swell.event.r8.ws-a.1"])
async def test_who_may_write_cannot_remove_by_writing(permitted, subject, rollup):
    """A header can ask a stream to forget what was before; none of ours does."""
    client = await permitted.raw(GPU)
    answer = await client.request(subject, b"x", timeout=ANSWER_S, headers={"Nats-Rollup": rollup})
    assert "rollup not permitted" in json.loads(answer.data)["error"]["description"]


async def test_what_is_answered_to_a_subject_of_anothers_is_no_entry(permitted):
    """A server answers wherever it is told to, also where who asks may not write; what it says there can be no decision."""
    from services.wire import WireError, decode_command, decode_entry

    client = await permitted.raw(GPU)
    root = await permitted.raw("root")
    forged = json.dumps({"id": "1", "run": "r7", "at_ns": 0, "by": "scheduler:x", "events": []}).encode()
    stored = json.loads((await root.request("swell.event.r7.ws-a.1", forged, timeout=ANSWER_S)).data)["seq"]
    get = json.dumps({"seq": stored}).encode()
    for asked, body in ((f"$JS.API.STREAM.MSG.GET.{EVENTS}", get), ("swell.event.r7.ws-a.2", forged)):
        await client.publish(asked, body, reply="swell.event.r7.run")
        await client.publish(asked, body, reply="swell.command.default.r7.ws-a.1")
    await client.flush()
    async with connected_as(permitted, SCHEDULER) as bus:
        found = await eventually(lambda: bus.last("swell.event.r7.run"))
        for decode in (decode_entry, decode_command):
            with pytest.raises(WireError):
                decode(found.data)


# How it is told


async def test_what_is_not_permitted_is_an_error_at_once(permitted):
    loop = asyncio.get_running_loop()
    async with connected_as(permitted, GPU) as bus:
        for act in (
            lambda: bus.append("swell.event.r1.run", b"x", expect=0),
            lambda: bus.add("swell.event.r1.request", b"x"),
            lambda: bus.command("swell.command.gpu.r1.ws-a.1", b"x"),
            lambda: bus.take_key(LEASES, "scheduler", b"x", expect=0),
            lambda: bus.purge("swell.event.>", before=9),
            lambda: bus.commands("default").open(),
            lambda: bus.get_key(SNAPSHOTS, "scheduler"),
        ):
            before = loop.time()
            with pytest.raises(BusDeniedError, match=r"user 'swell-executor-gpu' to publish to .*docs/nats\.md"):
                await act()
            assert loop.time() - before < 1
        assert await bus.last("swell.event.r5.run") is None


async def test_a_pull_that_is_not_permitted_is_told_to_who_waits(permitted):
    async with connected_as(permitted, GPU) as bus:
        puller = bus.commands("default")
        puller._checked = asyncio.get_running_loop().time()  # it exists; that it may not be looked at, others tell
        with pytest.raises(BusDeniedError, match=r"msg\.next\.swell_commands\.default"):
            await puller.next(wanted=1, timeout_s=5)
        await puller.close()


async def test_a_user_whose_inbox_is_not_its_own_is_told_so(permitted):
    """Otherwise every question would wait in vain."""
    config = permitted.config(GPU)
    bus = await Bus.connect(config, name="test")
    bus._nc._inbox_prefix = bytearray(b"_INBOX_swell-ledger")
    bus.config = BusConfig(url=config.url, user="swell-ledger")
    with pytest.raises(BusDeniedError, match=r"hear its answers on _INBOX_swell-ledger\.>"):
        await bus.identity()
    await bus.close()


async def test_a_stream_that_nobody_made_is_told_with_the_account(own_nats_server):
    async with connected(own_nats_server, connect_timeout_s=0.2) as bus:
        with pytest.raises(
            BusError, match="start a scheduler, it creates it; if one runs, user 'swell' belongs to another"
        ):
            await bus.find_streams(EVENTS)


# The table itself


def test_names_that_cannot_stand_in_a_subject_are_refused(capsys):
    assert permissions.main(["--pools", "default,a.b"]) == 2
    assert permissions.main(["--pools", "a-b,a_b"]) == 2
    assert "rename one" in capsys.readouterr().err


def test_the_document_is_the_table():
    text = (Path(__file__).parents[2] / "docs" / "nats.md").read_text()
    assert text.endswith("--format markdown -->\n" + permissions.markdown(users(["gpu"])))


async def test_a_server_takes_its_passwords_from_the_environment(nats_server, tmp_path, monkeypatch):
    """As a secret of Kubernetes would give them: plain, or hashed in quotes."""
    hashed = '"$2a$04$AXoSzqWv80kY7bVbNmZ2e.1jwaWqlDCJ5kHkT3xVmuGqKS8J0nH1C"'
    monkeypatch.setenv("SWELL_SCHEDULER_PASSWORD", "p4ssword")
    for name in ("SWELL_LEDGER", "SWELL_EXECUTOR_GPU", "SWELL_ADMIN"):
        monkeypatch.setenv(f"{name}_PASSWORD", hashed)
    server = type(nats_server)(tmp_path)
    server.authorization = permissions.nats_conf(users(["gpu"]))
    server.start()
    (tmp_path / "p").write_text("p4ssword\n")
    async with connected(server, user=SCHEDULER, password_file=tmp_path / "p") as bus:
        await bus.ensure_streams()
    with pytest.raises(BusError, match="refused user 'swell-ledger'"):
        await Bus.connect(server.config(user=LEDGER, password_file=tmp_path / "p"), name="test")
    server.kill()


def test_passwords_are_referred_to_and_never_printed(capsys):
    assert permissions.main(["--pools", "default,gpu"]) == 0
    told = capsys.readouterr().out
    assert "password: $SWELL_EXECUTOR_GPU_PASSWORD\n" in told
    assert told.count("password: $") == 5
