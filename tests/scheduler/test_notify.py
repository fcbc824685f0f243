"""People are told at least once: over a real HTTP server, a real command, the tests' bus and a real nats-server."""

import asyncio
import contextlib
import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from memory_bus import MemoryBus, MemoryServer

from services.bus import EVENTS, Bus
from services.config import ConfigError, load
from services.events import (
    BudgetReached,
    RunFinished,
    RunTransitioned,
    ToolBreakerOpened,
    WaveStarted,
    WorkstreamTransitioned,
)
from services.process import child_environment
from services.scheduler.config import PREFIX, NotificationKind, NotificationsConfig, SchedulerConfig
from services.scheduler.notify import (
    Command,
    NotDeliveredError,
    Notifier,
    Webhook,
    channels,
    notifications,
    signature,
)
from services.wire import Entry, UnknownKindError, WireError, encode_entry

WAIT_S = 15
ROOT = Path(__file__).parents[2]
SECRET = "a secret of some length"
ENDED = RunFinished(state="partial", reason="1 of 2 failed", completed=1, failed=1, blocked=0, cancelled=0)
REVIEW = WorkstreamTransitioned(
    workstream="ws-a", from_state="runtime_check", to_state="awaiting_review", reason="tests fail"
)
HELD = RunTransitioned(from_state="running", to_state="paused", cause="review", reason="1 workstream awaits review")
OPENED = ToolBreakerOpened(tool="aider", failures=5, until_ns=1, reason="5 failures in a row")
PAUSED = RunTransitioned(from_state="running", to_state="paused", cause="request", actor="alice")


class Receiver:
    """An HTTP server on the loopback. `answers` is what it does, one after the other; then it takes everything."""

    def __init__(self, answers=(), tls=None):
        self.got = []
        self.released = threading.Event()
        left = list(answers)
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                answer = left.pop(0) if left else 204
                if answer == "hang":
                    receiver.released.wait(WAIT_S)
                    return
                if answer == "garbage":
                    self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
                    return
                if answer == "endless":
                    with contextlib.suppress(OSError):
                        while True:
                            self.wfile.write(b"X-Padding: " + b"x" * 1000 + b"\r\n")
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                """A client that goes away is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/hook?channel=swell"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def told(self):
        return [json.loads(body) for _, _, body in self.got]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server():
    return MemoryServer()


@pytest.fixture
def secret_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    return file


def config(**changes):
    return NotificationsConfig(**{"timeout_s": 2.0, "retry_max_s": 0.02} | changes)


async def eventually(claim):
    async with asyncio.timeout(WAIT_S):
        while not (found := claim()):  # noqa: ASYNC110 - the receiver is a thread
            await asyncio.sleep(0.005)
    return found


async def decide(bus, *events, run="r1"):
    """An entry of decisions; its id."""
    entry = Entry(id=uuid.uuid4().hex, run=run, at_ns=0, by="scheduler:test", events=list(events))
    await bus.add(f"swell.event.{run}.run", encode_entry(entry))
    return entry.id


@contextlib.asynccontextmanager
async def telling(server, settings):
    """A notifier at work on a bus of its own."""
    bus = MemoryBus(server)
    async with Notifier(settings).telling(bus):
        names = {f"swell-notify-{channel.name}" for channel in channels(settings)}
        await eventually(lambda: names <= set(server.consumers))
        yield bus
    await bus.close()


# What is said


def test_each_kind_of_notification_comes_from_its_event():
    entry = Entry(
        id="e1", run="r1", at_ns=0, by="s", events=[REVIEW, WaveStarted(wave=1, workstreams=["ws-b"]), HELD, ENDED]
    )
    said = notifications("swell.event.r1.run", 7, 1_700_000_000_123_456_789, encode_entry(entry))
    common = {"run": "r1", "tool": "", "time": "2023-11-14T22:13:20.123Z", "position": 7}
    assert [msgspec.to_builtins(n) for n in said] == [
        common
        | {
            "id": "e1-0",
            "kind": "review_needed",
            "workstream": "ws-a",
            "state": "awaiting_review",
            "reason": "tests fail",
            "actor": "scheduler",
        },
        common
        | {
            "id": "e1-2",
            "kind": "run_held",
            "workstream": "",
            "state": "paused",
            "reason": "1 workstream awaits review",
            "actor": "scheduler",
        },
        common
        | {
            "id": "e1-3",
            "kind": "run_ended",
            "workstream": "",
            "state": "partial",
            "reason": "1 of 2 failed",
            "actor": "",
        },
    ]


def test_what_concerns_all_runs_names_none():
    entry = Entry(id="e1", run="fleet", at_ns=0, by="s", events=[OPENED])
    [said] = notifications("swell.event.fleet.run", 1, 0, encode_entry(entry))
    assert (said.kind, said.run, said.tool, said.state) == ("breaker_open", "", "aider", "open")


@pytest.mark.parametrize("threshold", ["warning", "exceeded"])
def test_a_budget_that_is_reached_is_told_with_its_amounts(threshold):
    reached = BudgetReached(threshold=threshold, limit_nano=10**9, spent_nano=9 * 10**8, reserved_nano=3 * 10**8)
    entry = Entry(id="e1", run="r1", at_ns=0, by="s", events=[reached])
    [said] = notifications("swell.event.r1.run", 1, 0, encode_entry(entry))
    assert (said.kind, said.run, said.state) == (f"budget_{threshold}", "r1", "halt")
    assert said.reason == "$0.90 of $1.00 spent, $0.30 reserved for attempts under way"


@pytest.mark.parametrize(("tool", "whose"), [("", "of the fleet"), ("claude", "of the tool")])
def test_a_budget_across_runs_that_is_reached_is_told_with_its_day(tool, whose):
    reached = BudgetReached(
        threshold="warning", limit_nano=10**9, spent_nano=9 * 10**8, tool=tool, day="2026-11-23", mode="warn"
    )
    entry = Entry(id="e1", run="fleet", at_ns=0, by="s", events=[reached])
    [said] = notifications("swell.event.fleet.run", 1, 0, encode_entry(entry))
    assert (said.kind, said.run, said.tool, said.state) == ("budget_warning", "", tool, "warn")
    assert said.reason.startswith(f"{whose} on 2026-11-23: $0.90 of $1.00 spent")


def test_a_run_that_waits_for_its_budget_is_told():
    held = RunTransitioned(from_state="running", to_state="paused", reason="spent", cause="budget")
    [said] = notifications(
        "swell.event.r1.run", 1, 0, encode_entry(Entry(id="e1", run="r1", at_ns=0, by="s", events=[held]))
    )
    assert (said.kind, said.reason) == ("run_held", "spent")


def test_a_pause_that_somebody_asked_for_is_no_news():
    entry = Entry(id="e1", run="r1", at_ns=0, by="s", events=[PAUSED])
    assert notifications("swell.event.r1.run", 1, 0, encode_entry(entry)) == []


def test_what_cannot_be_read_is_an_error_of_the_wire():
    with pytest.raises(WireError):
        notifications("swell.event.r1.run", 1, 0, b"{")
    newer = b'{"id":"e","run":"r1","at_ns":0,"by":"s","events":[{"kind":"budget_warned"}]}'
    with pytest.raises(UnknownKindError, match="budget_warned"):
        notifications("swell.event.r1.run", 1, 0, newer)


# Settings


def test_nothing_is_sent_by_default_and_then_everything():
    settings = load(SchedulerConfig, None, {}, PREFIX).notifications
    assert channels(settings) == []
    assert settings.on == get_args(NotificationKind)


def test_settings_come_from_the_environment_as_well():
    env = {"SWELL_NOTIFICATIONS_COMMAND": '["cat", "-"]', "SWELL_NOTIFICATIONS_ON": '["run_ended"]'}
    settings = load(SchedulerConfig, None, env, PREFIX).notifications
    assert (settings.command, settings.on) == (("cat", "-"), ("run_ended",))


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="run_started"):
        load(SchedulerConfig, None, {"SWELL_NOTIFICATIONS_ON": '["run_started"]'}, PREFIX)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://example.org/hook", "use https"),
        ("http://10.0.0.1/hook", "use https"),
        ("ftp://127.0.0.1/hook", "must be https://"),
        ("https://", "must be https://"),
        ("/hook", "must be https://"),
        ("https://example.org/a b", "must be https://"),
        ("https://example.org/a\r\nX-Injected: 1", "must be https://"),
        ("https://exämple.org/", "must be https://"),
        ("https://example.org/#part", "must be https://"),
        ("https://user:word@example.org/", "must not hold a user"),
        ("https://example.org:99999/", "not a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_reason(url, named):
    with pytest.raises(ConfigError, match=r"notifications\.webhook_url.*") as refused:
        channels(config(webhook_url=url))
    assert named in str(refused.value)


@pytest.mark.parametrize("url", ["https://example.org", "http://localhost:1/x", "http://[::1]:1/", "http://127.0.0.2/"])
def test_https_and_this_machine_are_taken(url):
    assert [channel.name for channel in channels(config(webhook_url=url))] == ["webhook"]


@pytest.mark.parametrize("content", [None, b"", b"short", b"x" * 5000])
def test_a_secret_that_cannot_be_used_is_refused(tmp_path, content):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="webhook_secret_file"):
        channels(config(webhook_url="https://example.org", webhook_secret_file=file))


def test_a_secret_without_a_webhook_is_refused(secret_file):
    with pytest.raises(ConfigError, match="webhook_url is not"):
        channels(config(webhook_secret_file=secret_file))


def test_a_command_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="'no-such-program' is not an executable program"):
        channels(config(command=("no-such-program",)))


async def test_without_a_channel_no_consumer_is_made(server):
    bus = MemoryBus(server)
    async with Notifier(config()).telling(bus):
        await decide(bus, ENDED)
    assert server.consumers == {}


# The webhook


async def test_a_failing_receiver_is_told_again_until_it_takes_it(server, secret_file):
    with Receiver([500, 503]) as receiver:
        async with telling(server, config(webhook_url=receiver.url, webhook_secret_file=secret_file)) as bus:
            entry = await decide(bus, ENDED)
            await eventually(lambda: len(receiver.got) == 3 and not server.consumers["swell-notify-webhook"].pending)
        assert [told["id"] for told in receiver.told] == [f"{entry}-0"] * 3
        assert receiver.told[0]["kind"] == "run_ended"


async def test_what_is_posted_is_signed(server, secret_file):
    """As the documentation tells receivers to verify it."""
    with Receiver() as receiver:
        async with telling(server, config(webhook_url=receiver.url, webhook_secret_file=secret_file)) as bus:
            await decide(bus, ENDED)
            await eventually(lambda: receiver.got)
        [(path, headers, body)] = receiver.got
    assert (path, headers["Content-Type"]) == ("/hook?channel=swell", "application/json")
    fields = dict(part.split("=", 1) for part in headers["Swell-Signature"].split(","))
    expected = hmac.new(SECRET.encode(), fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(fields["v1"], expected)
    assert abs(time.time() - int(fields["t"])) < 60


def test_the_signature_does_not_change():
    """Receivers depend on it."""
    assert signature(b"secret", 1_700_000_000, b"{}") == (
        "t=1700000000,v1=" + hmac.new(b"secret", b"1700000000.{}", hashlib.sha256).hexdigest()
    )


async def test_without_a_secret_nothing_is_signed():
    with Receiver() as receiver:
        await Webhook(receiver.url, None, 2.0).send(b"{}")
        assert "Swell-Signature" not in receiver.got[0][1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("hang", "did not answer within 0.2 s"),
        (302, "redirects (302), which is not followed: set the final URL"),
        (404, "answered 404"),
        ("garbage", "does not speak HTTP"),
        ("endless", "does not speak HTTP"),
    ],
)
async def test_a_receiver_that_misbehaves_has_not_taken_it(answer, said):
    """It is asked once: a redirect is not followed, an endless answer not read to its end."""
    with Receiver([answer]) as receiver:
        with pytest.raises(NotDeliveredError) as failure:
            await Webhook(receiver.url, None, 0.2 if answer == "hang" else 5.0).send(b"{}")
        assert said in str(failure.value)
        assert "/hook" not in str(failure.value)
        assert len(receiver.got) == 1


async def test_nobody_listening_has_not_taken_it():
    with pytest.raises(NotDeliveredError, match="could not be reached"):
        await Webhook("http://127.0.0.1:1/", None, 2.0).send(b"{}")


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Receiver() as receiver:
        await Webhook(receiver.url, None, 2.0).send(b"{}")
        assert len(receiver.got) == 1


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself, and a server's context with it."""
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *files,
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return tmp_path / "cert.pem", context


async def test_a_certificate_must_be_trusted(certificate, monkeypatch):
    file, context = certificate
    with Receiver(tls=context) as receiver:
        with pytest.raises(NotDeliveredError, match="no certificate that can be trusted"):
            await Webhook(receiver.url, None, 2.0).send(b"{}")
        assert receiver.got == []
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        await Webhook(receiver.url, None, 2.0).send(b"{}")
        assert len(receiver.got) == 1


# The command


def keeping(tmp_path, exit_codes="0"):
    """A command that appends what it gets to a file, and ends with one exit code after the other, the last for ever."""
    program = tmp_path / "tell.py"
    program.write_text(
        "import json, os, sys\n"
        "text, file = sys.stdin.read(), sys.argv[1]\n"
        "with open(file, 'a') as kept:\n"
        "    kept.write(json.dumps({'text': json.loads(text), 'env': dict(os.environ), 'argv': sys.argv[2:]}) + '\\n')\n"
        "times = sum(1 for _ in open(file))\n"
        "print('x' * 100)\n"
        "codes = [int(code) for code in sys.argv[2].split(',')]\n"
        "sys.exit(codes[min(times, len(codes)) - 1])\n"
    )
    kept = tmp_path / "kept"
    kept.touch()
    return kept, (sys.executable, "-I", "-S", str(program), str(kept), exit_codes)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_a_command_gets_json_on_its_standard_input_until_it_ends_well(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "not for the command")
    kept, command = keeping(tmp_path, "1,7,0")
    async with telling(server, config(command=command)) as bus:
        entry = await decide(bus, REVIEW)
        await eventually(lambda: len(lines(kept)) == 3 and not server.consumers["swell-notify-command"].pending)
    got = lines(kept)
    assert [line["text"]["id"] for line in got] == [f"{entry}-0"] * 3
    assert (got[0]["text"]["kind"], got[0]["text"]["workstream"]) == ("review_needed", "ws-a")
    assert "SOME_API_KEY" not in got[0]["env"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("false",), "ended with exit code 1: run it by hand"),
        (("sleep", "60"), "was killed after 0.3 s"),
        (("sh", "-c", "kill -9 $$"), "ended with exit code -9"),
    ],
)
async def test_a_command_that_fails_has_not_taken_it(argv, said):
    with pytest.raises(NotDeliveredError, match=said):
        await Command(argv, 0.3 if argv[0] == "sleep" else 5.0).send(b"{}")


async def test_a_command_may_print_what_it_likes():
    await Command(("head", "-c", "20000000", "/dev/zero"), 10.0).send(b"{}")


async def test_arguments_are_no_shell(tmp_path):
    await Command(("sh", "-c", f'test "$1" = "; touch {tmp_path}/x"', "sh", f"; touch {tmp_path}/x"), 5.0).send(b"{}")
    assert not (tmp_path / "x").exists()


async def test_a_command_need_not_read():
    await Command(("true",), 5.0).send(b"x" * 1_000_000)


# Delivery


async def test_only_what_was_asked_for_is_sent(server):
    with Receiver() as receiver:
        async with telling(server, config(webhook_url=receiver.url, on=("run_held", "breaker_open"))) as bus:
            await decide(bus, REVIEW, HELD, ENDED)
            await decide(bus, OPENED, run="fleet")
            await eventually(lambda: len(receiver.got) == 2)
            await eventually(lambda: not server.consumers["swell-notify-webhook"].pending)
        assert {told["kind"] for told in receiver.told} == {"run_held", "breaker_open"}


async def test_an_installation_is_not_told_old_news(server):
    bus = MemoryBus(server)
    await decide(bus, ENDED, run="r0")
    with Receiver() as receiver:
        async with telling(server, config(webhook_url=receiver.url)):
            await decide(bus, ENDED, run="r1")
            await eventually(lambda: receiver.got)
        assert [told["run"] for told in receiver.told] == ["r1"]


async def test_what_happened_while_no_scheduler_lived_is_told_by_the_next(server):
    with Receiver() as receiver:
        settings = config(webhook_url=receiver.url)
        async with telling(server, settings):
            pass
        await decide(MemoryBus(server), ENDED)
        async with telling(server, settings):
            await eventually(lambda: receiver.got)


async def test_two_schedulers_tell_once(server):
    with Receiver() as receiver:
        settings = config(webhook_url=receiver.url)
        async with telling(server, settings) as bus, telling(server, settings):
            for number in range(20):
                await decide(bus, ENDED, run=f"r{number}")
            await eventually(lambda: len(receiver.got) >= 20 and not server.consumers["swell-notify-webhook"].pending)
        assert sorted(told["run"] for told in receiver.told) == sorted(f"r{number}" for number in range(20))


async def test_who_is_killed_before_the_acknowledgement_leaves_it_to_another(server):
    """The receiver gets it twice, under one id."""
    with Receiver(["hang"]) as receiver:
        settings = config(webhook_url=receiver.url, timeout_s=WAIT_S)
        async with telling(server, settings) as bus:
            entry = await decide(bus, ENDED)
            await eventually(lambda: receiver.got)
        async with telling(server, settings):
            await eventually(lambda: len(receiver.got) == 2)
        assert [told["id"] for told in receiver.told] == [f"{entry}-0"] * 2


async def test_one_that_hangs_does_not_hold_up_the_others(server):
    with Receiver(["hang"]) as receiver:
        async with telling(server, config(webhook_url=receiver.url, timeout_s=WAIT_S)) as bus:
            await decide(bus, ENDED, run="r0")
            await eventually(lambda: len(receiver.got) == 1)
            await decide(bus, ENDED, run="r1")
            await eventually(lambda: len(receiver.got) == 2)
            await eventually(lambda: len(server.consumers["swell-notify-webhook"].pending) == 1)


async def test_channels_do_not_wait_for_each_other(server, tmp_path):
    """And one that took it is not told again because the other did not."""
    kept, command = keeping(tmp_path, "1")
    with Receiver() as receiver:
        async with telling(server, config(webhook_url=receiver.url, command=command)) as bus:
            await decide(bus, ENDED)
            await eventually(lambda: len(lines(kept)) >= 3)
        assert len(receiver.got) == 1


async def test_of_several_in_one_entry_only_the_missing_are_told_again(server):
    with Receiver([204, 500]) as receiver:
        async with telling(server, config(webhook_url=receiver.url)) as bus:
            await decide(bus, REVIEW, HELD, ENDED)
            await eventually(lambda: len(receiver.got) == 4)
        assert [told["kind"] for told in receiver.told] == ["review_needed", "run_held", "run_held", "run_ended"]


async def test_at_the_end_of_the_patience_it_is_dropped_with_an_error(server, capsys):
    with Receiver([500] * 100) as receiver:
        async with telling(server, config(webhook_url=receiver.url, give_up_s=0.001)) as bus:
            entry = await decide(bus, ENDED)
            await eventually(lambda: len(receiver.got) >= 5 and not server.consumers["swell-notify-webhook"].pending)
        assert len(receiver.got) == 5
    printed = capsys.readouterr().out
    assert "notify.given_up" in printed
    assert f"{entry}-0" in printed


async def test_an_entry_of_a_newer_version_is_left_to_a_newer_scheduler(server):
    newer = b'{"id":"e","run":"r1","at_ns":0,"by":"s","events":[{"kind":"budget_warned"}]}'
    with Receiver() as receiver:
        async with telling(server, config(webhook_url=receiver.url)) as bus:
            position = await bus.add("swell.event.r1.run", newer)
            await decide(bus, ENDED)
            await eventually(lambda: receiver.got)
            await eventually(lambda: server.consumers["swell-notify-webhook"].pending.get(position, (0, 0))[1] >= 2)


async def test_what_is_no_entry_is_dropped_and_stops_nothing(server):
    with Receiver() as receiver:
        async with telling(server, config(webhook_url=receiver.url)) as bus:
            await bus.add("swell.event.r1.run", b"garbage")
            await decide(bus, ENDED)
            await eventually(lambda: receiver.got and not server.consumers["swell-notify-webhook"].pending)


async def test_telling_begins_when_the_bus_can_be_reached(server):
    """And goes on when it comes back."""
    bus = MemoryBus(server)
    bus.cut()
    with Receiver() as receiver:
        async with Notifier(config(webhook_url=receiver.url)).telling(bus):
            await asyncio.sleep(0)
            bus.came_back()
            await eventually(lambda: "swell-notify-webhook" in server.consumers)
            await decide(bus, ENDED)
            await eventually(lambda: receiver.got)


async def consumer_of(bus):
    """Return when the webhook's consumer exists on a real server."""
    async with asyncio.timeout(WAIT_S):
        while "error" in await bus._api(f"CONSUMER.INFO.{EVENTS}.swell-notify-webhook"):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def test_a_scheduler_killed_before_its_acknowledgement_leaves_it_to_the_next(own_nats_server, tmp_path):
    """Real schedulers, SIGKILL: the receiver is told twice, under one id."""
    bus = await Bus.connect(own_nats_server.config(), name="test")
    await bus.ensure_streams()
    with contextlib.ExitStack() as running, Receiver(["hang"]) as receiver:
        running.callback(receiver.released.set)

        def scheduler():
            with (tmp_path / "log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "services.scheduler"],
                    env=child_environment()
                    | {
                        "SWELL_BUS_URL": own_nats_server.url,
                        "SWELL_BUS_USER": own_nats_server.user,
                        "SWELL_BUS_PASSWORD_FILE": str(own_nats_server.password_file),
                        "SWELL_NOTIFICATIONS_WEBHOOK_URL": receiver.url,
                        "SWELL_NOTIFICATIONS_TIMEOUT_S": "1",
                    },
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            running.callback(process.wait)
            running.callback(process.kill)
            return process

        first = scheduler()
        await consumer_of(bus)
        entry = await decide(bus, OPENED, run="fleet")
        await eventually(lambda: receiver.got)
        first.kill()
        scheduler()
        await eventually(lambda: len(receiver.got) >= 2)
        assert {told["id"] for told in receiver.told} == {f"{entry}-0"}
    await bus.close()


async def test_on_a_real_server_across_its_death(own_nats_server, secret_file):
    """Told on, told again after a failure, and told of what happens after the server was killed."""
    bus = await Bus.connect(own_nats_server.config(), name="test")
    await bus.ensure_streams()
    await decide(bus, ENDED, run="r0")
    with Receiver([500]) as receiver:
        settings = config(webhook_url=receiver.url, webhook_secret_file=secret_file)
        async with Notifier(settings).telling(bus):
            await consumer_of(bus)
            first = await decide(bus, WaveStarted(wave=1, workstreams=["ws-a"]), ENDED, run="r1")
            await eventually(lambda: len(receiver.got) == 2)
            own_nats_server.kill()
            own_nats_server.start()
            await eventually(lambda: bus.revision == 1)
            second = await decide(bus, HELD, run="r2")
            await eventually(lambda: receiver.told[-1]["id"] == f"{second}-0")
        assert {told["id"] for told in receiver.told} == {f"{first}-1", f"{second}-0"}
    await bus.close()
