"""What is told of calls, over real channels."""

import asyncio
import contextlib

import grpc
import grpc.aio
import pytest
from metrics_rig import Scrape

from services.access import with_token
from services.metrics import OTHER, Exposition
from services.rpc import CallMetrics, Health, RpcError, create_server, serve

NAME = "swell.test.v1.TestService"
ONE, MANY = f"/{NAME}/One", f"/{NAME}/Many"


class Calls:
    """A service with one method of each shape; the request decides what happens."""

    def __init__(self):
        self.entered = asyncio.Event()

    async def one(self, request, context):
        return await self._behave(request, context)

    async def many(self, request, context):
        yield b"first"
        yield await self._behave(request, context)

    async def _behave(self, request, context):
        match request:
            case b"refuse":
                raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LATE", "do it earlier")
            case b"break":
                raise ZeroDivisionError
            case b"abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
            case b"wait":
                self.entered.set()
                await asyncio.Event().wait()
        return request


class Served:
    def __init__(self, channel, calls, exposition):
        self.channel = channel
        self.calls = calls
        self.exposition = exposition

    def call(self, method, request, bearer="right"):
        metadata = (("authorization", f"Bearer {bearer}"),)
        if method == MANY:
            return drained(self.channel.unary_stream(method)(request, metadata=metadata))
        return self.channel.unary_unary(method)(request, metadata=metadata)

    async def scrape(self):
        self.exposition._asked.loop = asyncio.get_running_loop()
        return Scrape(await asyncio.to_thread(self.exposition.text))

    async def ended(self, count):
        """The scrape after so many calls: a call is counted a moment after its answer is out."""
        async with asyncio.timeout(10):
            while True:
                found = await self.scrape()
                if sum(found.by("swell_rpc_requests_total").values()) == count:
                    return found


async def drained(call):
    return [message async for message in call]


@pytest.fixture
async def served():
    calls, exposition = Calls(), Exposition("scheduler")
    server = create_server(
        access=with_token("right"), max_message_bytes=1000, concurrent_rpcs=50, metrics=CallMetrics(exposition)
    )
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(calls.one),
        "Many": grpc.unary_stream_rpc_method_handler(calls.many),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    port = await serve(server, "127.0.0.1:0", [NAME], Health([NAME]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(channel, calls, exposition)
    await server.stop(0)


@pytest.mark.parametrize("method", [ONE, MANY])
@pytest.mark.parametrize(
    ("request_", "token", "code"),
    [
        (b"x", "right", "OK"), (b"refuse", "right", "FAILED_PRECONDITION"), (b"break", "right", "INTERNAL"),
        (b"abort", "right", "NOT_FOUND"), (b"x", "wrong", "UNAUTHENTICATED"),
    ],
)  # fmt: skip
async def test_a_call_is_counted_with_its_code(served, method, request_, token, code):
    with contextlib.nullcontext() if code == "OK" else pytest.raises(grpc.aio.AioRpcError):
        await served.call(method, request_, token)
    found = await served.ended(1)
    assert found.by("swell_rpc_requests_total", "method", "code") == {(method, code): 1}
    assert found.value("swell_rpc_duration_seconds_count", method=method) == 1
    assert found.value("swell_rpc_in_flight", method=method) == 0


@pytest.mark.parametrize("method", [ONE, MANY])
async def test_a_call_under_way_is_in_flight_until_it_is_cancelled(served, method):
    calling = asyncio.ensure_future(served.call(method, b"wait"))
    await served.calls.entered.wait()
    assert (await served.scrape()).value("swell_rpc_in_flight", method=method) == 1
    calling.cancel()
    found = await served.ended(1)
    assert found.by("swell_rpc_requests_total", "method", "code") == {(method, "CANCELLED"): 1}


@pytest.mark.parametrize(("token", "code"), [("right", "UNIMPLEMENTED"), ("wrong", "UNAUTHENTICATED")])
async def test_methods_that_do_not_exist_are_one(served, token, code):
    for number in range(5):
        with pytest.raises(grpc.aio.AioRpcError):
            await served.call(f"/{NAME}/Invented{number}", b"x", token)
    found = await served.ended(5)
    assert found.by("swell_rpc_requests_total", "method", "code") == {(OTHER, code): 5}
    assert "Invented" not in found.text
