"""Which trace the calls of the front door are part of."""

from concurrent import futures

import grpc
import pytest

from services.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from services.trace import parsed
from swell.client import Client
from swell.values import Document, Endpoints, Header

ASKED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Noting(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Notes what comes with a call."""

    def __init__(self) -> None:
        self.said: list[dict[str, str]] = []

    def CancelRun(self, request, context):  # noqa: N802 - the name of the RPC
        self.said.append(dict(context.invocation_metadata()))
        return scheduler_pb2.CancelRunResponse(position=1)

    def SubmitRun(self, request_iterator, context):  # noqa: N802 - the name of the RPC
        self.said.append(dict(context.invocation_metadata()))
        return scheduler_pb2.SubmitRunResponse(run="r1", position=1)


@pytest.fixture
def noting():
    server = grpc.server(futures.ThreadPoolExecutor(2))
    noting = Noting()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(noting, server)
    noting.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield noting
    server.stop(0).wait()


def calls(noting: Noting) -> list[str]:
    with Client(Endpoints(scheduler=noting.address, ledger=noting.address, token="t0k3n")) as client:
        client.cancel_run("r1", reason="", actor="ann")
        client.submit_run(Header(location="repo", base_commit="a" * 40), [Document(name="a.json", content=b"{}")])
    assert [said["authorization"] for said in noting.said] == ["Bearer t0k3n"] * 2
    return [said["traceparent"] for said in noting.said]


def test_calls_are_part_of_the_trace_that_swell_was_started_in(noting, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", ASKED)
    assert calls(noting) == [ASKED, ASKED]


@pytest.mark.parametrize("variable", [None, "", "nonsense", ASKED.upper()])
def test_without_one_each_call_begins_its_own(noting, monkeypatch, variable):
    if variable is None:
        monkeypatch.delenv("TRACEPARENT", raising=False)
    else:
        monkeypatch.setenv("TRACEPARENT", variable)
    first, second = (parsed(text) for text in calls(noting))
    assert first.trace_id != second.trace_id
    assert first.sampled
    assert second.sampled
