"""Several ledgers over one log: each answer says how far it is, each question may say how far it has to be."""

import asyncio
import contextlib

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ledger_histories import Story, steady
from test_ledger_server import reason, serving
from test_ledger_service import connected, nats, running  # noqa: F401 - a fixture

from services.ledger.replica import MIN_POSITION, POSITION, least_position
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.v1 import ledger_pb2_grpc
from services.rpc import RpcError
from swell.client import Client
from swell.errors import SwellError
from swell.values import Endpoints


def at_least(position: object) -> dict:
    return {"metadata": ((MIN_POSITION, str(position)),)}


async def told(call) -> int:
    return int(dict(await call.trailing_metadata())[POSITION])


async def test_every_answer_says_how_far_it_is(tmp_path):
    records = steady(1, 2)
    async with serving(tmp_path, records) as ledger:
        for call in (
            ledger.stub.GetRun(pb.GetRunRequest(run="run0")),
            ledger.stub.ListRuns(pb.ListRunsRequest()),
            ledger.stub.GetStatus(pb.GetStatusRequest()),
            ledger.stub.ListErrors(pb.ListErrorsRequest()),
        ):
            await call
            assert await told(call) == len(records)


async def test_a_question_waits_until_its_position_is_absorbed(tmp_path):
    records = steady(2, 2)
    async with serving(tmp_path, records[:10]) as ledger:
        call = ledger.stub.GetRun(pb.GetRunRequest(run="run1"), **at_least(len(records)))
        asking = asyncio.create_task(answered(call))
        await asyncio.sleep(0.05)
        assert not asking.done()
        ledger.log.extend(records[10:])
        assert (await asking).run.state == "completed"
        assert await told(call) == len(records)


async def answered(call):
    return await call


async def test_a_question_for_what_is_not_there_is_refused_in_time(tmp_path):
    async with serving(tmp_path, steady(1, 1), wait_s=0.1) as ledger:
        behind = ledger.stub.GetRun(pb.GetRunRequest(run="run0"), **at_least(10**18))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await behind
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        details = rpc_status.from_call(caught.value).details
        assert details[0].Unpack(info)
        assert details[1].Unpack(retry)
        assert (caught.value.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_BEHIND")
        assert retry.retry_delay.ToMilliseconds() == 1000
        for wrong in ("-1", "x", "1" * 20):
            call = ledger.stub.GetRun(pb.GetRunRequest(run="run0"), **at_least(wrong))
            assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        hurried = ledger.stub.GetRun(pb.GetRunRequest(run="run0"), timeout=0.1, **at_least(10**18))
        assert (await reason(hurried))[1] == "LEDGER_BEHIND"
        assert ledger.absorber.watching._waiting == set()


def test_positions_are_read_strictly():
    assert least_position(None) == least_position(()) == 0
    assert least_position(((MIN_POSITION, "17"),)) == 17
    for wrong in (b"17", "\u0661", "1.0", ""):
        with pytest.raises(RpcError):
            least_position(((MIN_POSITION, wrong),))


async def test_a_client_reads_what_it_has_seen_from_a_ledger_that_lags(tmp_path):
    """It has seen a position at one ledger; the other, behind it, answers only once it is there."""
    records = steady(2, 2)
    async with serving(tmp_path / "1", records) as ahead, serving(tmp_path / "2", records[:10]) as lagging:
        client = Client(Endpoints(scheduler="127.0.0.1:1", ledger=ahead.address))
        other = Client(Endpoints(scheduler="127.0.0.1:1", ledger=lagging.address))
        with contextlib.closing(client), contextlib.closing(other):
            assert (await asyncio.to_thread(client.get_run, "run1")).state == "completed"
            with pytest.raises(SwellError, match="no run run1"):
                await asyncio.to_thread(other.get_run, "run1")
            other.saw(client.seen)
            asking = asyncio.create_task(asyncio.to_thread(other.get_run, "run1"))
            await asyncio.sleep(0.05)
            assert not asking.done()
            status = await asyncio.to_thread(other.ledger_status)
            assert status.position == 10
            lagging.log.extend(records[10:])
            assert (await asking).state == "completed"


async def rows_of(channel, position: int) -> list[bytes]:
    """Everything that a ledger holds of runs, as it answers."""
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    found = [await stub.ListRuns(pb.ListRunsRequest(page_size=1000), **at_least(position))]
    for run in list(found[0].runs):
        found.append(await stub.ListWorkstreams(pb.ListWorkstreamsRequest(run=run.run), **at_least(position)))
        found.append(await stub.ListAttempts(pb.ListAttemptsRequest(run=run.run), **at_least(position)))
        found.append(await stub.ListTransitions(pb.ListTransitionsRequest(run=run.run), **at_least(position)))
    *_, last = [answer async for answer in stub.VerifyLedger(pb.VerifyLedgerRequest())]
    assert last.result.ok
    return [answer.SerializeToString(deterministic=True) for answer in found] + [last.result.hash.encode()]


async def test_two_ledgers_on_one_bus_hold_the_same(tmp_path, nats):  # noqa: F811 - the fixture
    """Each has its own file and its own place in the log; neither takes anything from the other."""
    records = steady(2, 4)
    story = Story()
    story.accepted("a", run="r9")
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    async with (
        connected(nats) as bus,
        running(tmp_path / "1", nats) as (_, one),
        running(tmp_path / "2", nats) as (_, two),
    ):
        for record in [*records, *story.records]:
            last = await bus.add(record.subject, record.data)
        first, second = await rows_of(one, last), await rows_of(two, last)
        assert first == second
        assert len(first) == 11
