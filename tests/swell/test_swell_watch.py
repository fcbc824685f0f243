"""A watch of a run that is quiet for a long time."""

import itertools
import threading
from concurrent import futures

import grpc
import pytest

from services.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from swell.client import Client
from swell.errors import SwellError
from swell.values import Endpoints


class QuietLedger(ledger_pb2_grpc.LedgerServiceServicer):
    """Nothing happens; a sign of life comes every `pause_s`, `lives` times in all."""

    def __init__(self, pause_s: float, lives: float = float("inf")) -> None:
        self.pause_s = pause_s
        self.lives = lives
        self.calls = 0
        self.over = threading.Event()

    def WatchEvents(self, request, context):  # noqa: N802 - the name of the RPC
        self.calls += 1
        while not self.over.wait(self.pause_s) and context.is_active():
            if self.lives > 0:
                self.lives -= 1
                yield ledger_pb2.WatchEventsResponse(position=7)


@pytest.fixture
def serving():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    port = server.add_insecure_port("127.0.0.1:0")
    started = []

    def serve(ledger: QuietLedger) -> Client:
        started.append(ledger)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, server)
        server.start()
        address = f"127.0.0.1:{port}"
        return Client(Endpoints(scheduler=address, ledger=address))

    yield serve
    for ledger in started:
        ledger.over.set()
    server.stop(0).wait()


def test_a_quiet_watch_goes_on_however_long_each_of_its_calls_may_take(serving, monkeypatch):
    """The last sign of life of a call may be older than an outage when the call's own limit ends it."""
    monkeypatch.setattr("swell.client.WATCH_TIMEOUT_S", 0.5)
    monkeypatch.setattr("swell.client.OUTAGE_S", 0.05)
    ledger = QuietLedger(pause_s=0.2)
    with serving(ledger) as client:
        signs = list(itertools.islice(client.watch("r1"), 6))
    assert [sign.position for sign in signs] == [7] * 6
    assert ledger.calls >= 3


def test_a_ledger_that_has_fallen_silent_is_an_outage(serving, monkeypatch):
    """Calls that end without a single answer are not mended for ever."""
    monkeypatch.setattr("swell.client.WATCH_TIMEOUT_S", 0.3)
    monkeypatch.setattr("swell.client.OUTAGE_S", 0.4)
    with serving(QuietLedger(pause_s=0.05, lives=1)) as client, pytest.raises(SwellError):
        list(client.watch("r1"))


class StrictLedger(QuietLedger):
    """Ends each call after one answer, since its token is over; after `calls` of them it lets none in."""

    def __init__(self, calls: int) -> None:
        super().__init__(pause_s=0.0)
        self.admitted = calls

    def WatchEvents(self, request, context):  # noqa: N802 - the name of the RPC
        self.calls += 1
        if self.calls <= self.admitted:
            yield ledger_pb2.WatchEventsResponse(position=self.calls, resume_token=str(self.calls))
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"over, behind {request.resume_token}")


def test_a_watch_whose_token_is_over_is_asked_for_anew_until_that_is_refused(serving):
    """The token is read again for each call, so one that was renewed meanwhile lets it go on."""
    with serving(StrictLedger(3)) as client:
        watching = client.watch("r1")
        assert [next(watching).position for _ in range(3)] == [1, 2, 3]
        with pytest.raises(SwellError, match="over, behind 3"):
            next(watching)
