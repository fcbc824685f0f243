"""Spans reach a collector that is there; one that is not, or misbehaves, costs nothing but the spans."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from structlog.testing import capture_logs

from services import otlp
from services.config import ConfigError
from services.metrics import Exposition
from services.otlp import BATCH_MAX, QUEUE_MAX, Exporter, Span, collector, encoded
from services.trace import begun, of_attempt, of_run

RUN = of_run("r1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def span(number: int = 1, **fields) -> Span:
    given = {
        "trace": of_attempt(RUN, ("r1", "ws-a", number)), "parent": RUN.span_id, "name": "edit",
        "start_ns": 1_790_000_000_000_000_000 + number, "end_ns": 1_790_000_001_000_000_000 + number, **fields,
    }  # fmt: skip
    return Span(**given)


class Asked(BaseHTTPRequestHandler):
    """Takes what is posted, and answers by what its server is told to."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == "hang":
            self.server.over.wait(20)
        elif answer == "garbage":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        elif answer == "endless":
            with contextlib.suppress(OSError):
                while not self.server.over.is_set():
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif answer == "trickle":
            with contextlib.suppress(OSError):
                while not self.server.over.wait(0.02):
                    self.wfile.write(b"H")
        else:
            status, said = answer if isinstance(answer, tuple) else (answer, b"{}")
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(said)

    def log_message(self, *_):
        """Keep the output of the tests clean."""


@pytest.fixture
def receiver():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.daemon_threads = True
    server.got, server.answers, server.over = [], [], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(otlp, "LINGER_S", 0.01)
    monkeypatch.setattr(otlp, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(otlp, "PAUSE_MAX_S", 0.02)
    monkeypatch.setattr(otlp, "TIMEOUT_S", 0.3)


def at(server, **env) -> dict[str, str]:
    return {"SWELL_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}", **env}


def exporter(env: dict[str, str], **settings) -> Exporter:
    return Exporter("ledger", collector(env), Exposition("ledger"), **settings)


def counted(made: Exporter) -> dict[str, float]:
    return {labels[0]: count for labels, count in made._spans._values.items()}


async def until(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def spans_in(request: dict) -> list[dict]:
    """The spans of a request that keeps to the form of OTLP's JSON."""
    assert request.keys() == {"resourceSpans"}
    [group] = request["resourceSpans"]
    resource = {one["key"]: one["value"] for one in group["resource"]["attributes"]}
    assert resource["service.name"] == {"stringValue": "swell-ledger"}
    [scoped] = group["scopeSpans"]
    assert scoped["scope"]["name"] == "swell"
    for one in scoped["spans"]:
        assert (len(one["traceId"]), len(one["spanId"])) == (32, 16)
        assert int(one["traceId"], 16) * int(one["spanId"], 16) > 0
        assert len(one.get("parentSpanId", "0" * 16)) == 16
        assert one["kind"] in {1, 2}
        for name in ("startTimeUnixNano", "endTimeUnixNano"):
            assert isinstance(one[name], str)
        assert int(one["endTimeUnixNano"]) >= int(one["startTimeUnixNano"])
        for attribute in one["attributes"]:
            [(kind, value)] = attribute["value"].items()
            wanted = {"stringValue": str, "boolValue": bool, "intValue": str, "doubleValue": float}
            assert isinstance(value, wanted[kind])
    return scoped["spans"]


# What is sent


async def test_spans_are_posted_as_otlp_says(receiver):
    made = exporter(at(receiver, SWELL_OTLP_HEADERS="api-key=s%2Ccret%3D1, x-team=a"))
    attributes = {"swell.run": "r1", "swell.attempt": 7, "swell.tool_wall_s": 1.5, "swell.dry": True}
    failed = span(2, parent="", kind="server", error="tool_failed: " + "x" * 5000, attributes={"a": "\n\x00" * 5000})
    async with made.exporting():
        made.offer([span(attributes=attributes), failed])
        await until(lambda: counted(made) == {"exported": 2})
    [(path, headers, request)] = receiver.got
    assert path == "/v1/traces"
    assert (headers["Content-Type"], headers["api-key"], headers["x-team"]) == ("application/json", "s,cret=1", "a")
    good, bad = spans_in(request)
    assert (good["traceId"], good["parentSpanId"], good["name"]) == (RUN.trace_id, RUN.span_id, "edit")
    assert good["startTimeUnixNano"] == "1790000000000000001"
    assert {one["key"]: one["value"] for one in good["attributes"]} == {
        "swell.run": {"stringValue": "r1"},
        "swell.attempt": {"intValue": "7"},
        "swell.tool_wall_s": {"doubleValue": 1.5},
        "swell.dry": {"boolValue": True},
    }
    assert good["status"] == {}
    assert "parentSpanId" not in bad
    assert (bad["kind"], bad["status"]["code"], len(bad["status"]["message"])) == (2, 2, 500)


def test_a_clock_that_went_back_makes_no_span_of_negative_length():
    [one] = spans_in(json.loads(encoded(Exporter("ledger", None, Exposition(""))._resource, [span(end_ns=5)])))
    assert one["startTimeUnixNano"] == one["endTimeUnixNano"]


async def test_a_trace_that_is_not_sampled_is_not_exported(receiver):
    made = exporter(at(receiver))
    async with made.exporting():
        made.offer([span(trace=of_run("r1", f"00-{RUN.trace_id}-{RUN.span_id}-00")), span()])
        await until(lambda: counted(made))
    assert counted(made) == {"exported": 1}


async def test_without_a_collector_nothing_happens():
    made = exporter({})
    async with made.exporting():
        made.offer([span()])
    assert (counted(made), made._queue) == ({}, made._queue.__class__())


async def test_what_is_queued_at_the_end_is_sent(receiver, monkeypatch):
    monkeypatch.setattr(otlp, "LINGER_S", 60.0)
    made = exporter(at(receiver))
    async with made.exporting():
        made.offer([span(number) for number in range(BATCH_MAX - 1)])
        await asyncio.sleep(0.02)
    assert counted(made) == {"exported": BATCH_MAX - 1}


async def test_many_spans_are_several_requests(receiver):
    made = exporter(at(receiver))
    async with made.exporting():
        made.offer([span(number) for number in range(3 * BATCH_MAX)])
        await until(lambda: counted(made) == {"exported": 3 * BATCH_MAX})
    assert [len(spans_in(request)) for _, _, request in receiver.got] == [BATCH_MAX] * 3


# A collector that is not there, is slow, or is no collector


@pytest.mark.parametrize(
    ("answers", "outcome", "posts"),
    [
        ([503, 429], {"exported": 1}, 3),
        ([502, 504, 503], {"failed": 1}, 3),
        (["hang", "hang", "hang"], {"failed": 1}, 3),
        (["garbage"] * 3, {"failed": 1}, 3),
        (["endless"] * 3, {"failed": 1}, 3),
        (["trickle"] * 3, {"failed": 1}, 3),
        ([400], {"failed": 1}, 1),
        ([307], {"failed": 1}, 1),
        ([(200, b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no"}}')], {"rejected": 1}, 1),
        ([(200, b'{"partialSuccess":{"rejectedSpans":99}}')], {"rejected": 1}, 1),
        ([(200, b"<html>")], {"exported": 1}, 1),
        ([(200, b"[" * 100_000)], {"exported": 1}, 1),
        ([(200, b'{"partialSuccess":{"rejectedSpans":"-5"}}')], {"exported": 1}, 1),
    ],
)
async def test_what_a_collector_says_decides(receiver, answers, outcome, posts):
    """Nothing is followed, nothing read without end, nothing tried without end, and nothing raised."""
    receiver.answers[:] = answers
    made = exporter(at(receiver))
    async with made.exporting():
        made.offer([span()])
        await until(lambda: counted(made))
    assert counted(made) == outcome
    assert len(receiver.got) == posts


async def test_a_dead_endpoint_costs_counted_spans_and_a_line_in_a_minute():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        now = [0.0]
        env = {"SWELL_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        made = exporter(env, clock=lambda: now[0])
        with capture_logs() as told:
            async with made.exporting():
                for number in range(1, 5):
                    made.offer([span(number)])
                    await until(lambda number=number: counted(made) == {"failed": number})
                    now[0] += 25.0
    assert [one["spans"] for one in told if one["event"] == "otlp.spans_lost"] == [1, 3]


async def test_a_slow_collector_holds_up_nobody_and_fills_a_bounded_queue(receiver):
    receiver.answers[:] = ["hang"] * 10
    made = exporter(at(receiver))
    async with made.exporting():
        started = time.monotonic()
        made.offer([span()] * (QUEUE_MAX + 700))
        assert time.monotonic() - started < 0.5
        assert counted(made) == {"dropped": 700}
        assert len(made._queue) == QUEUE_MAX
        made._queue.clear()


async def test_a_slow_collector_does_not_hold_up_the_end(receiver, monkeypatch):
    monkeypatch.setattr(otlp, "TIMEOUT_S", 30.0)
    monkeypatch.setattr(otlp, "LAST_S", 0.1)
    receiver.answers[:] = ["hang"] * 10
    made = exporter(at(receiver))
    started = time.monotonic()
    async with made.exporting():
        made.offer([span()] * (2 * BATCH_MAX + 1))
        await until(lambda: receiver.got)
    assert time.monotonic() - started < 2.0
    assert counted(made) == {"failed": 2 * BATCH_MAX, "dropped": 1}, "every span is accounted for"


# Settings


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SWELL_OTLP_ENDPOINT": "collector:4318"}, "SWELL_OTLP_ENDPOINT must be https://"),
        ({"SWELL_OTLP_ENDPOINT": "http://[::1"}, "SWELL_OTLP_ENDPOINT is not a URL"),
        ({"SWELL_OTLP_ENDPOINT": "http://h:99999"}, "SWELL_OTLP_ENDPOINT is not a URL"),
        ({"SWELL_OTLP_ENDPOINT": "http://h/a b"}, "must be https://"),
        ({"SWELL_OTLP_ENDPOINT": "https://user:s3cret-pass@h"}, "must not hold a user: put what admits it into SWELL_OTLP_HEADERS"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://h:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be https://"),
        ({"SWELL_OTLP_ENDPOINT": "https://h", "SWELL_OTLP_HEADERS": "s3cret-pass"}, "SWELL_OTLP_HEADERS must be name=value"),
        ({"SWELL_OTLP_ENDPOINT": "https://h", "SWELL_OTLP_HEADERS": "a=s3cret-pass%0d%0ab"}, "no header may have"),
        ({"SWELL_OTLP_ENDPOINT": "https://h", "SWELL_OTLP_HEADERS": "a b=s3cret-pass"}, "no header may have"),
        ({"SWELL_OTLP_ENDPOINT": "http://h", "SWELL_OTLP_HEADERS": "a=s3cret-pass"}, "would be readable on the way to h"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_name_of_the_setting(env, said):
    with pytest.raises(ConfigError) as refused:
        collector(env)
    assert said in str(refused.value)
    assert "s3cret-pass" not in str(refused.value)


def test_ours_is_looked_at_first_and_each_endpoint_has_its_own_headers():
    """A key for one collector is not sent to another."""
    both = {"SWELL_OTLP_ENDPOINT": "http://ours:1/base/", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://theirs",
            "OTEL_EXPORTER_OTLP_HEADERS": "key=theirs-alone"}  # fmt: skip
    found = collector(both)
    assert (found.host, "theirs-alone" in found._head, "POST /base/v1/traces " in found._head) == ("ours", False, True)
    del both["SWELL_OTLP_ENDPOINT"]
    found = collector(both)
    assert (found.host, "key: theirs-alone\r\n" in found._head) == ("theirs", True)
    assert collector({"SWELL_OTLP_ENDPOINT": ""}) is None


def test_what_begins_here_can_be_exported():
    assert spans_in(
        json.loads(encoded(Exporter("ledger", None, Exposition(""))._resource, [span(trace=begun(bytes(24)))]))
    )
