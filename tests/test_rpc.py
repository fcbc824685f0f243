"""What every gRPC server shares, over real channels."""

import asyncio
import contextlib
import socket

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from services.access import anybody, with_token
from services.rpc import BindError, Health, RpcError, caller, check_bind, create_server, read_token, serve
from services.trace import parsed

NAME = "swell.test.v1.TestService"


class Calls:
    """A service with one method of each shape; a request of b"…" decides what happens."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.callers: list[str] = []

    async def one(self, request: bytes, context) -> bytes:
        await self._behave(request)
        return request

    async def many(self, request: bytes, context):
        yield b"first"
        await self._behave(request)
        yield request

    async def _behave(self, request: bytes) -> None:
        self.callers.append(caller())
        match request:
            case b"refuse":
                raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LATE", "do it earlier", {"run": "r1"})
            case b"break":
                raise ZeroDivisionError("secret detail")
            case b"wait":
                self.entered.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case _:
                pass


@contextlib.asynccontextmanager
async def served(token: str | None = None, *, concurrent_rpcs: int = 10, exporting=None):
    calls, health = Calls(), Health([NAME])
    server = create_server(
        access=with_token(token), max_message_bytes=1000, concurrent_rpcs=concurrent_rpcs, exporting=exporting
    )
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(calls.one),
        "Many": grpc.unary_stream_rpc_method_handler(calls.many),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    port = await serve(server, "127.0.0.1:0", [NAME], health)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, calls, health, port
    await server.stop(0)


def one(channel, request: bytes, token: str | None = None):
    return channel.unary_unary(f"/{NAME}/One")(request, metadata=_bearer(token))


def many(channel, request: bytes, token: str | None = None):
    return channel.unary_stream(f"/{NAME}/Many")(request, metadata=_bearer(token))


def _bearer(token: str | None):
    return () if token is None else (("authorization", f"Bearer {token}"),)


async def failure(call) -> tuple[grpc.StatusCode, str, error_details_pb2.ErrorInfo | None]:
    """How a call failed: code, text and ErrorInfo."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    if status is None:
        return caught.value.code(), caught.value.details(), None
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    return caught.value.code(), caught.value.details(), info


async def drained(call) -> list[bytes]:
    return [message async for message in call]


async def test_answers_and_streams_pass():
    async with served() as (channel, *_):
        assert await one(channel, b"hello") == b"hello"
        assert await drained(many(channel, b"hello")) == [b"first", b"hello"]


async def test_an_error_carries_reason_domain_and_metadata():
    async with served() as (channel, *_):
        for call in (one(channel, b"refuse"), drained(many(channel, b"refuse"))):
            code, text, info = await failure(call)
            assert (code, text) == (grpc.StatusCode.FAILED_PRECONDITION, "do it earlier")
            assert (info.reason, info.domain, dict(info.metadata)) == ("TOO_LATE", "swell", {"run": "r1"})


async def test_an_unexpected_exception_shows_an_id_and_no_detail(capfd):
    said = ""
    async with served() as (channel, *_):
        for call in (one(channel, b"break"), drained(many(channel, b"break"))):  # both are under way from here on
            code, text, info = await failure(call)
            assert (code, info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert "secret detail" not in text
            said += "".join(capfd.readouterr())
            assert info.metadata["error_id"] in said
            assert "secret detail" in said


@pytest.mark.parametrize("shape", [one, many])
async def test_a_cancelled_call_is_cancelled_inside(shape):
    async with served() as (channel, calls, *_), asyncio.timeout(5):
        call = shape(channel, b"wait")
        reading = asyncio.ensure_future(drained(call) if shape is many else call)
        await calls.entered.wait()
        call.cancel()
        await calls.cancelled.wait()
        await asyncio.wait([reading])
        assert reading.cancelled()


@pytest.mark.parametrize("wrong", [None, "", "other", "right ", "rightright"])
async def test_a_call_without_the_token_is_refused(wrong):
    async with served("right") as (channel, *_):
        for call in (one(channel, b"x", wrong), drained(many(channel, b"x", wrong))):
            code, _, info = await failure(call)
            assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert await one(channel, b"x", "right") == b"x"


async def test_two_tokens_are_none():
    async with served("right") as (channel, *_):
        call = channel.unary_unary(f"/{NAME}/One")(b"x", metadata=(*_bearer("right"), *_bearer("wrong")))
        assert (await failure(call))[0] == grpc.StatusCode.UNAUTHENTICATED


async def test_health_needs_no_token_and_follows_what_is_said():
    async with served("right") as (channel, _, health, _):
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", NAME):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await health.say(True)
            assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
            await health.say(False)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await health.say(True)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await health.leave()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_reflection_needs_the_token_and_lists_the_services():
    async def asked(channel, token: str | None) -> list[str]:
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(requests), metadata=_bearer(token)
        )
        return [service.name async for answer in call for service in answer.list_services_response.service]

    async with served("right") as (channel, *_):
        assert (await failure(asked(channel, None)))[0] == grpc.StatusCode.UNAUTHENTICATED
        assert {NAME, "grpc.health.v1.Health"} <= set(await asked(channel, "right"))


async def test_an_unknown_method_is_unimplemented_only_for_those_admitted():
    async with served("right") as (channel, *_):
        call = channel.unary_unary(f"/{NAME}/None")
        assert (await failure(call(b"")))[0] == grpc.StatusCode.UNAUTHENTICATED
        assert (await failure(call(b"", metadata=_bearer("right"))))[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_requests_over_the_limit_are_refused():
    async with served() as (channel, *_):
        assert (await failure(one(channel, b"x" * 2000)))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_over_the_limit_are_refused():
    async with served(concurrent_rpcs=1) as (channel, *_):
        held = many(channel, b"wait")
        assert await held.read() == b"first"
        assert (await failure(one(channel, b"x")))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        held.cancel()


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "192.0.2.1:50051", "[::]:0"])
def test_an_address_that_others_can_reach_is_refused(bind):
    for tls, auth, named in (
        (False, False, "certificate_file.*principals_file"),
        (True, False, "principals_file"),
        (False, True, "key_file"),
    ):
        with pytest.raises(BindError, match=f"other machines: set .*{named}"):
            check_bind(bind, tls=tls, auth=auth)
    check_bind(bind, tls=True, auth=True)


@pytest.mark.parametrize("bind", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "host:1", ":5"])
def test_what_is_no_address_is_refused(bind):
    with pytest.raises(BindError, match="is not an address"):
        check_bind(bind, tls=True, auth=True)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.8.8:65535"])
def test_loopback_is_accepted(bind):
    check_bind(bind, tls=False, auth=False)


@pytest.mark.parametrize("by", ["socket", "server"])
async def test_a_taken_port_is_a_clear_error(by):
    with contextlib.ExitStack() as stack:
        async with contextlib.AsyncExitStack() as servers:
            if by == "socket":
                holder = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                port = holder.getsockname()[1]
            else:
                *_, port = await servers.enter_async_context(served())
            server = create_server(access=anybody(), max_message_bytes=1000, concurrent_rpcs=1)
            with pytest.raises(BindError, match="in use"):
                await serve(server, f"127.0.0.1:{port}", [NAME], Health([NAME]))
            await server.stop(0)


def test_a_token_file_must_hold_a_token(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(BindError, match="write one line"):
        read_token(file)
    for content in (b"", b"\n", b"x" * 5000):
        file.write_bytes(content)
        with pytest.raises(BindError, match="must hold one token"):
            read_token(file)
    file.write_bytes(b"secret\n")
    assert read_token(file) == "secret"


# Traces

ASKED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(channel, *said: str):
    return channel.unary_unary(f"/{NAME}/One")(b"hello", metadata=[("traceparent", one) for one in said])


async def test_a_call_is_part_of_its_callers_trace_and_of_no_other():
    async with served() as (channel, calls, *_):
        await traced(channel, ASKED)
        await drained(channel.unary_stream(f"/{NAME}/Many")(b"hello", metadata=[("traceparent", ASKED)]))
        assert calls.callers == [ASKED, ASKED]
        await traced(channel)
        await asyncio.gather(*(traced(channel, ASKED.replace("-b7", f"-a{n}")) for n in range(8)))
    assert parsed(calls.callers[2]) is not None
    assert calls.callers[2] != ASKED
    assert {one[36:38] for one in calls.callers[3:]} == {f"a{n}" for n in range(8)}
    assert caller() == ""


@pytest.mark.parametrize("said", ["", "x" * 5000, f"{ASKED}-more", ASKED.upper(), "00-" + "0" * 32 + ASKED[35:]])
async def test_what_is_no_traceparent_begins_a_trace(said):
    async with served() as (channel, calls, *_):
        await traced(channel, said)
    assert parsed(calls.callers[0]) is not None
    assert calls.callers[0][3:35] != ASKED[3:35]


async def test_a_call_is_a_span_between_its_caller_and_what_it_asks_for():
    """So what is recorded because of it names the call; probes are none."""
    spans = []
    async with served(exporting=spans.extend) as (channel, calls, *_), asyncio.timeout(10):
        await traced(channel, ASKED)
        with pytest.raises(grpc.aio.AioRpcError):
            await one(channel, b"refuse")
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME))
        call = many(channel, b"wait")
        waiting = asyncio.create_task(drained(call))
        await calls.entered.wait()
        call.cancel()  # the task's own cancellation may come before it reads, and is not told to the server then
        await calls.cancelled.wait()
        await asyncio.wait([waiting])
    answered, refused, cancelled = spans
    assert (answered.trace.text, answered.parent) == (calls.callers[0], ASKED[36:52])
    assert (answered.trace.trace_id, answered.name, answered.error) == (ASKED[3:35], f"{NAME}/One", None)
    assert answered.end_ns >= answered.start_ns
    assert (refused.parent, refused.error) == ("", "FAILED_PRECONDITION")
    assert (cancelled.error, cancelled.attributes["rpc.method"]) == ("CANCELLED", "Many")
