"""Requests reach the log once, are answered once, and silence is told as silence."""

import asyncio

import grpc
import pytest
from memory_bus import MemoryBus, MemoryServer
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.artifacts import Artifacts
from services.bus import BusConfig
from services.events import PauseRequested, RequestAnswered
from services.rpc import RpcError
from services.scheduler import requests, server
from services.scheduler.requests import Requests
from services.scheduler.shell import Shell
from services.scheduler.state import Review, RunState, Workstream
from services.scheduler.v1 import scheduler_pb2 as pb
from services.wire import Entry, decode_entry, encode_entry, request_subject, run_subject

ASKED = PauseRequested(request_id="pause-everything", actor="ann", scope="all")


class Answering:
    """A shell that only follows, and somebody else who decides."""

    def __init__(self):
        self.bus = MemoryBus(MemoryServer(BusConfig(append_timeout_s=0.5)))
        self.shell = Shell(self.bus, Artifacts(self.bus.objects), name="s", lease_s=10.0, reconcile_s=10.0)
        self.requests = Requests(self.bus, self.shell)

    async def say(self, **said):
        answer = RequestAnswered(request_id=ASKED.request_id, **said)
        entry = Entry(id="e1", run="fleet", at_ns=0, by="scheduler:x", events=[answer])
        await self.bus.append(run_subject("fleet"), encode_entry(entry), expect=0)

    async def asked(self):
        assert await self.shell.folded(1, 5)
        return (await self.bus.last(request_subject("fleet"))).sequence


@pytest.fixture
async def answering():
    made = Answering()
    following = asyncio.create_task(made.shell._follow())
    yield made
    following.cancel()
    await asyncio.wait({following})


async def test_an_answer_is_waited_for_and_given_again(answering):
    """Asking again appends nothing."""
    asking = asyncio.create_task(answering.requests.answered("fleet", ASKED))
    position = await answering.asked()
    await answering.say(answer="accepted", reason="as you wish")
    assert (await asking) == requests.Answered(position=position, text="as you wish")
    assert (await answering.requests.answered("fleet", ASKED)) == requests.Answered(position=0, text="as you wish")
    assert (await answering.bus.last(request_subject("fleet"))).sequence == position


async def test_a_request_carries_the_trace_of_its_call(answering, monkeypatch):
    asked = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr(requests, "caller", lambda: asked)
    with capture_logs([merge_contextvars]) as told:
        position = await answering.requests.add("fleet", ASKED)
    stored = await answering.bus.last(request_subject("fleet"))
    assert decode_entry(stored.data).trace == asked
    [line] = told
    assert (line["event"], line["run"], line["request"]) == ("scheduler.requested", "fleet", "pause_requested")
    assert line["position"] == position


async def test_a_refusal_is_an_error_that_says_why(answering):
    await answering.say(answer="refused", reason="is paused already")
    await answering.shell.folded(1, 5)
    with pytest.raises(RpcError) as caught:
        await answering.requests.answered("fleet", ASKED)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFUSED")
    assert caught.value.message == "is paused already"


async def test_silence_is_told_as_silence(answering, monkeypatch):
    """The request is in the log; nobody leads."""
    monkeypatch.setattr(requests, "ANSWER_TIMEOUT_S", 0.05)
    with pytest.raises(RpcError) as caught:
        await answering.requests.answered("fleet", ASKED)
    assert caught.value.reason == "NOT_ANSWERED_YET"
    assert await answering.asked()


@pytest.mark.parametrize("request_id", ["", "short", "with space in it", "x" * 65])
async def test_a_request_without_an_identity_is_refused(answering, request_id):
    with pytest.raises(RpcError, match="UUID"):
        await answering.requests.answered("fleet", PauseRequested(request_id=request_id, actor="ann", scope="all"))


def waiting(run: str, *workstreams: str) -> RunState:
    review = Review("edit", "auth", f"no login for {run}")
    made = {name: Workstream(id=name, index=0, state="awaiting_review", review=review) for name in workstreams}
    return RunState(run=run, workstreams=made, reviews=set(workstreams))


def test_reviews_come_by_run_and_workstream_from_behind_a_token_on():
    runs = {"r2": waiting("r2", "ws-b", "ws-a"), "r1": waiting("r1", "ws-a")}
    found = [(review.run, review.workstream) for review in server._reviews(runs, sorted(runs), ("", ""))]
    assert found == [("r1", "ws-a"), ("r2", "ws-a"), ("r2", "ws-b")]
    token = server._page_token("r2/ws-a")
    assert [review.workstream for review in server._reviews(runs, sorted(runs), token)] == ["ws-b"]


@pytest.mark.parametrize("token", ["r1", "/ws-a", "r1/"])
def test_a_token_of_somebody_else_is_refused(token):
    with pytest.raises(RpcError, match="page_token"):
        server._page_token(token)


@pytest.mark.parametrize(
    ("scope", "name"),
    [(pb.FLEET_SCOPE_UNSPECIFIED, "x"), (pb.FLEET_SCOPE_ALL, "x"), (pb.FLEET_SCOPE_TOOL, ""), (pb.FLEET_SCOPE_POOL, "x" * 201)],
)  # fmt: skip
def test_a_pause_names_what_it_is_about(scope, name):
    with pytest.raises(RpcError):
        server._fleet_scope(scope, name)
