"""What every gRPC server of Swell shares: its boundary, how errors look, health, reflection, traces, and where it may listen.

Errors are google.rpc.Status with exactly one ErrorInfo: an UPPER_SNAKE reason, the domain "swell", and whatever of the
text is variable as metadata. The same reason always means the same error.

A call is part of the trace that its metadata `traceparent` names, or begins one. Lines of the log about it say so, and the
run that it is about.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2

# These packages carry no types.
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from services.access import Access, TenantOf, narrow, principal
from services.address import AddressError, loopback
from services.metrics import CALL_BUCKETS_S, OTHER, Exposition, Reading, Series
from services.otlp import Span
from services.principals import LOCAL, Principal
from services.quota import Buckets
from services.refusal import Refusal
from services.telemetry import about
from services.tls import Certificates
from services.trace import DRAWN_BYTES, METADATA, Trace, begun, parsed

log = structlog.get_logger()

DOMAIN = "swell"
TOKEN_BYTES_MAX = 4096
RUN_CHARACTERS_MAX = 128
PROBE_BYTES_MAX = 1024
PROBES_MAX = 64
_OPEN_TO_ALL = "/grpc.health.v1.Health/"
_OWN = f"/{DOMAIN}."

_Context = grpc.aio.ServicerContext[Any, Any]

Exporting: TypeAlias = Callable[[Sequence[Span]], None]
"""Takes spans that have ended."""


class RefusedCall(NamedTuple):
    """A call that was not let in, and would have changed something. `principal` is "" for a stranger, `run` where none is named."""

    principal: str
    method: str
    reason: str
    run: str


Recording: TypeAlias = Callable[[RefusedCall], None]
"""Takes what is to be recorded of refusals; it neither waits nor raises."""

REFUSALS_LOGGED_PER_S = 1.0
REFUSALS_LOGGED_BURST = 60

_caller: ContextVar[str] = ContextVar("caller", default="")

IN_FLIGHT = Series("swell_rpc_in_flight", "gauge", "Calls under way, by method.", ("method",))


class RpcError(Exception):
    """An answer that is an error: `message` tells the caller what to do, `metadata` repeats what in it is variable."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        *,
        retry_s: float | None = None,
    ) -> None:
        """`reason` is UPPER_SNAKE, at most 63 characters, and always means the same error.

        `retry_s`: how long a caller should wait before it tries again, seconds; None where nobody knows.
        """
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_s = retry_s


class BindError(RuntimeError):
    """The server cannot listen where it was told to; the text says what to do."""


def invalid(field: str, message: str) -> RpcError:
    """The error for a request whose `field` cannot be used."""
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", f"{field}: {message}", {"field": field})


def caller() -> str:
    """The traceparent of the call that is being answered here, for what is recorded because of it."""
    return _caller.get()


def status_of(error: RpcError) -> status_pb2.Status:
    """The error as google.rpc.Status with its ErrorInfo, and RetryInfo where it is known when to try again."""
    details = [any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.retry_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_s * 1000))
        details.append(any_pb2.Any())
        details[1].Pack(retry)
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=details)


def read_token(file: Path) -> str:
    """The bearer token in a file; raises BindError when there is none."""
    try:
        with file.open("rb") as opened:
            data = opened.read(TOKEN_BYTES_MAX + 1)
        token = data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BindError(
            f"the token file {file} cannot be read ({error}): write one line of ASCII text into it"
        ) from error
    if not token or len(data) > TOKEN_BYTES_MAX:
        raise BindError(f"the token file {file} must hold one token of 1 to {TOKEN_BYTES_MAX} characters")
    return token


class CallMetrics:
    """What of the calls is told to Prometheus: how many, how they ended, how long they took, how many are under way.

    A method is told by its full name if it exists here, so that nobody's inventions become labels.
    """

    def __init__(self, exposition: Exposition) -> None:
        """Declare the series in `exposition`."""
        self._handled = exposition.counter(
            "swell_rpc_requests_total", "Calls that have ended, by method and status code.", "method", "code"
        )
        self._duration = exposition.histogram(
            "swell_rpc_duration_seconds",
            "How long calls took; of one that streams, until the stream's end.",
            "method",
            buckets=CALL_BUCKETS_S,
        )
        self._refused = exposition.counter(
            "swell_rpc_refused_total", "Calls that were not let in, by method and reason.", "method", "reason"
        )
        self._under_way: dict[str, int] = {}
        exposition.read((IN_FLIGHT,), self._read)

    async def _read(self) -> list[Reading]:
        return [(IN_FLIGHT, (method,), count) for method, count in self._under_way.items()]

    @contextlib.contextmanager
    def call(self, method: str, context: _Context) -> Iterator[None]:
        """Around a call; what ends it says how."""
        started = time.monotonic()
        self._under_way[method] = self._under_way.get(method, 0) + 1
        code = grpc.StatusCode.UNKNOWN.name
        try:
            yield
            code = _code_of(context)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except Exception:
            code = _code_of(context)
            raise
        finally:
            self._under_way[method] -= 1
            self._handled.add((method, code))
            self._duration.observe((method,), time.monotonic() - started)

    def refused(self, method: str, reason: str) -> None:
        """A call was not let in."""
        self._refused.add((method, reason))

    def unimplemented(self) -> None:
        """Somebody called a method that does not exist here."""
        self._handled.add((OTHER, grpc.StatusCode.UNIMPLEMENTED.name))


def _code_of(context: _Context) -> str:
    """The name of the status that a call has ended with."""
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return _CODES.get(number or 0, grpc.StatusCode.UNKNOWN.name)


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def create_server(
    *,
    access: Access,
    max_message_bytes: int,
    concurrent_rpcs: int,
    metrics: CallMetrics | None = None,
    exporting: Exporting | None = None,
    recording: Recording | None = None,
    tenant_of: TenantOf | None = None,
    within: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """A server that lets in whom `access` does, and every health probe.

    `max_message_bytes` bounds a request, `concurrent_rpcs` the calls under way; more are refused. `metrics` are told of
    each call; by default nobody reads them. `exporting` gets a span of each call, by default nobody. `recording` gets the
    refusals of calls that would have changed something, by default nobody. `tenant_of` tells whose a run is; without it no run
    is of a tenant. `within` are interceptors of the service's own, inside the message boundary: what they raise becomes a
    status as well.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_cancellation)
    boundary = _Boundary(access, metrics or CallMetrics(Exposition("")), exporting, recording)
    return grpc.aio.server(
        interceptors=[boundary, *within, _Tenancy(access, tenant_of or _of_no_tenant)],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            # Without this, two servers would share one port and each get some of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
        maximum_concurrent_rpcs=concurrent_rpcs,
    )


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Whether a line of grpc's own log is worth reading: it calls every call that its client gave up an error."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


class Health:
    """The standard health service for a server and each of its services; NOT_SERVING until said otherwise."""

    def __init__(self, services: Sequence[str]) -> None:
        """`services` are full names, such as swell.ledger.v1.LedgerService."""
        self._servicer = health.aio.HealthServicer()
        self._services = ["", *services]
        self.serving = False

    async def attach(self, server: grpc.aio.Server) -> None:
        """Answer on this server."""
        for service in self._services:
            await self._servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def answer_checks(self, server: grpc.aio.Server) -> None:
        """Answer checks on this server as well; watches would hold its few places."""
        check = grpc.unary_unary_rpc_method_handler(
            self._servicer.Check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check}),))

    async def say(self, serving: bool) -> None:
        """Whether calls should come here now."""
        if serving == self.serving:
            return
        self.serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self._servicer.set(service, status)

    async def leave(self) -> None:
        """NOT_SERVING from now on."""
        self.serving = False
        await self._servicer.enter_graceful_shutdown()


async def serve(
    server: grpc.aio.Server, bind: str, services: Sequence[str], probe: Health, certificates: Certificates | None = None
) -> int:
    """Add health and reflection for `services` (full names), listen on `bind` ("host:port", port 0 for any), start.

    With `certificates` by TLS. `check_bind` says where it may listen. Returns the port. Raises BindError for an address in use.
    """
    await probe.attach(server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        if certificates is None:
            port = server.add_insecure_port(bind)
        else:
            port = server.add_secure_port(bind, certificates.credentials())
    except RuntimeError as error:
        raise _taken("bind", bind) from error
    await server.start()
    return port


@contextlib.asynccontextmanager
async def probed(address: str, probe: Health) -> AsyncIterator[int]:
    """Answer health checks, and nothing else, without TLS at `address`; the port, 0 for none. "" is nowhere.

    For probes that speak no TLS. It may be reached from other machines: it says nothing but whether calls should come here.
    Raises BindError.
    """
    if not address:
        yield 0
        return
    _checked("health_address", address, beyond=True, remedy="")
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", PROBE_BYTES_MAX), ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=PROBES_MAX,
    )
    probe.answer_checks(server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _taken("health_address", address) from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def check_bind(bind: str, *, tls: bool, auth: bool) -> None:
    """Raise BindError unless `bind` is an address with a port, and loopback or protected by both TLS and knowing who calls."""
    missing = [] if tls else ["certificate_file and key_file in [tls]"]
    missing += [] if auth else ["principals_file in [auth], or issuer in [auth.oidc]"]
    _checked("bind", bind, beyond=tls and auth, remedy=f"set {', and '.join(missing)} to protect it")


def _checked(setting: str, address: str, *, beyond: bool, remedy: str) -> None:
    try:
        loopback(setting, address, beyond=beyond, remedy=remedy)
    except AddressError as error:
        raise BindError(str(error)) from error


def _taken(setting: str, address: str) -> BindError:
    return BindError(
        f"nothing can listen on {address}: the address is in use or not ours; stop what uses it, or set `{setting}` to "
        "another port"
    )


class _Boundary(grpc.aio.ServerInterceptor):
    """The message boundary: who calls, and what becomes of exceptions."""

    def __init__(
        self, access: Access, metrics: CallMetrics, exporting: Exporting | None, recording: Recording | None
    ) -> None:
        self._access = access
        self._metrics = metrics
        self._exporting = exporting
        self._refusals = _Refusals(access, metrics, recording)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the call, within the boundary."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        named: Principal | None = None
        is_open = method.startswith(_OPEN_TO_ALL)
        if not is_open:
            try:
                named = await self._access.named(handler_call_details.invocation_metadata)
            except Refusal as refusal:
                return self._turned_away(method if handler is not None else OTHER, refusal)
        if handler is None:
            self._metrics.unimplemented()
            return None
        exporting = self._exporting if method.startswith(_OWN) else None
        entrance = _Entrance(
            None if is_open else self._access, named, method, streaming=bool(handler.response_streaming)
        )
        return _bounded(handler, _Call(method, self._metrics, exporting, entrance, self._refusals))

    def _turned_away(self, method: str, refusal: Refusal) -> Any:
        """A handler that reads nothing of the request."""

        async def refuse(_request: Any, context: _Context) -> None:
            with self._metrics.call(method, context):
                answered = self._refusals.tell(method, refusal, "", context.peer())
                await context.abort_with_status(rpc_status.to_status(status_of(_as_error(answered))))

        return grpc.stream_stream_rpc_method_handler(refuse)


class _Entrance:
    """Where one call is let in, or not; open to all without `access`."""

    def __init__(self, access: Access | None, named: Principal | None, method: str, *, streaming: bool) -> None:
        self._access = access
        self._named = named
        self._method = method
        self._streaming = streaming

    @contextlib.contextmanager
    def passed(self, context: _Context) -> Iterator[Principal]:
        """Around the call; who makes it. Raises Refusal."""
        if self._access is None:
            yield LOCAL
            return
        who = self._access.certain(self._named, context.auth_context())
        with self._access.admitted(who, self._method, streaming=self._streaming):
            yield who

    async def held(self, who: Principal, context: _Context, streaming: Awaitable[None]) -> None:
        """Wait for a call that streams its answer, for as long as it would be let in. Raises Refusal."""
        if self._access is None or self._access.recheck_s is None:
            await streaming
            return
        refused: list[Refusal] = []
        try:
            async with asyncio.timeout(None) as limit:
                asking = asyncio.create_task(self._ask_again(self._access, who, context, limit, refused))
                try:
                    await streaming
                finally:
                    asking.cancel()
        except TimeoutError:
            if refused:
                raise refused[0] from None
            raise

    async def _ask_again(
        self, access: Access, who: Principal, context: _Context, limit: asyncio.Timeout, refused: list[Refusal]
    ) -> None:
        """Until the call would not be let in any more: then its time is over."""
        while not refused:
            await asyncio.sleep(access.recheck_s or 0.0)
            try:
                await access.recheck(who, self._method, context.invocation_metadata(), context.auth_context())
            except Refusal as refusal:
                refused.append(refusal)
        limit.reschedule(asyncio.get_running_loop().time())


class _Refusals:
    """Counts refusals, has them recorded, and tells the log of them, unless there are too many to tell."""

    def __init__(self, access: Access, metrics: CallMetrics, recording: Recording | None) -> None:
        self._access = access
        self._metrics = metrics
        self._recording = recording
        self._lines = Buckets(REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_BURST)
        self._unlogged = 0

    def tell(self, method: str, refusal: Refusal, run: str, peer: str) -> Refusal:
        """A call was not let in; what is answered to it. A stranger who was told too often is told to wait."""
        self._metrics.refused(method, refusal.reason)
        if self._recording is not None and method != OTHER and self._access.changes(method):
            self._recording(RefusedCall(refusal.principal, method, refusal.reason, run[:RUN_CHARACTERS_MAX]))
        if self._lines.take("", time.monotonic()):
            self._unlogged += 1
        else:
            log.warning(
                "rpc.refused",
                method=method,
                reason=refusal.reason,
                principal=refusal.principal,
                unlogged=self._unlogged,
            )
            self._unlogged = 0
        return refusal if refusal.principal else self._access.patience(peer) or refusal


class _Tenancy(grpc.aio.ServerInterceptor):
    """The innermost: what principals who are bound to tenants ask for is held to what is theirs."""

    def __init__(self, access: Access, tenant_of: TenantOf) -> None:
        self._access = access
        self._tenant_of = tenant_of

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the call, which looks whose it is first."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(_OPEN_TO_ALL):
            return handler
        rule = self._access.rule(method)
        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

            async def stream(request: Any, context: _Context) -> None:
                await narrow(request, rule, principal(), self._tenant_of)
                await _streamed(behaviour(request, context), context)

            return (
                grpc.stream_stream_rpc_method_handler(stream, **coding)
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler(stream, **coding)
            )
        answered = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def answer(request: Any, context: _Context) -> Any:
            await narrow(request, rule, principal(), self._tenant_of)
            return await answered(request, context)

        return (
            grpc.stream_unary_rpc_method_handler(answer, **coding)
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler(answer, **coding)
        )


async def _of_no_tenant(_run: str) -> str | None:
    return None


def _as_error(refusal: Refusal) -> RpcError:
    return RpcError(refusal.code, refusal.reason, refusal.message, refusal.metadata, retry_s=refusal.retry_s)


class _Call:
    """What is done around each call of a method: it is counted, part of a trace, and let in or not."""

    def __init__(
        self,
        method: str,
        metrics: CallMetrics,
        exporting: Exporting | None,
        entrance: _Entrance,
        refusals: _Refusals,
    ) -> None:
        self.method = method
        self.entrance = entrance
        self._metrics = metrics
        self._exporting = exporting
        self._refusals = refusals

    def refused(self, request: Any, refusal: Refusal, peer: str) -> Refusal:
        """It was not let in; what is answered to it."""
        run = getattr(request, "run", "")
        return self._refusals.tell(self.method, refusal, run if isinstance(run, str) else "", peer)

    @contextlib.contextmanager
    def made(self, request: Any, context: _Context) -> Iterator[None]:
        """Around a call; what ends it says how."""
        asked = _traceparent(context)
        trace = _trace_of_call(asked, exported=self._exporting is not None)
        run = getattr(request, "run", "")
        started_ns = time.time_ns()
        told = _caller.set(trace.text)
        try:
            with about(run=run if isinstance(run, str) else "", trace=trace), self._metrics.call(self.method, context):
                yield
        finally:
            _caller.reset(told)
            if self._exporting is not None:
                self._exporting([self._span(trace, asked, started_ns, context)])

    def _span(self, trace: Trace, asked: Trace | None, started_ns: int, context: _Context) -> Span:
        ended_by = sys.exception()
        code = "CANCELLED" if isinstance(ended_by, asyncio.CancelledError) else _code_of(context)
        _, service, name = self.method.split("/")
        return Span(
            trace=trace,
            parent="" if asked is None else asked.span_id,
            name=self.method[1:],
            kind="server",
            start_ns=started_ns,
            end_ns=time.time_ns(),
            error=None if code == grpc.StatusCode.OK.name else code,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "swell.code": code},
        )


def _trace_of_call(asked: Trace | None, *, exported: bool) -> Trace:
    """The span of a call. One that nobody exports would be missing between caller and run: then it is the caller's own."""
    if asked is not None and not exported:
        return asked
    fresh = begun(os.urandom(DRAWN_BYTES))
    return fresh if asked is None else asked.within(fresh.span_id)


def _traceparent(context: _Context) -> Trace | None:
    """What the caller says of its trace; None if it says nothing that can be used."""
    said = next((value for key, value in context.invocation_metadata() or () if key == METADATA), "")
    return parsed(said) if isinstance(said, str) else None


def _bounded(handler: Any, call: _Call) -> Any:
    """The same handler; what it raises becomes a status, and what `call` does is done around it."""
    coding = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": _once(handler.response_serializer),
    }
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(_streaming(behaviour, call), **coding)
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(_answering(behaviour, call), **coding)


def _once(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """The same serializer, but for bytes: an answer that goes to many is encoded already."""

    def encoded(message: Any) -> bytes:
        return message if isinstance(message, bytes) else serializer(message)

    return encoded


def _answering(behaviour: Callable[[Any, _Context], Awaitable[Any]], call: _Call) -> Callable[[Any, _Context], Any]:
    async def answer(request: Any, context: _Context) -> Any:
        with call.made(request, context):
            try:
                with call.entrance.passed(context):
                    return await behaviour(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise  # swallowing a cancellation leaks memory of the native call
            except Exception as error:  # noqa: BLE001 - the message boundary
                return await _abort(context, call, request, error)

    return answer


def _streaming(behaviour: Callable[[Any, _Context], Any], call: _Call) -> Callable[[Any, _Context], Any]:
    async def stream(request: Any, context: _Context) -> None:
        with call.made(request, context):
            try:
                with call.entrance.passed(context) as who:
                    await call.entrance.held(who, context, _streamed(behaviour(request, context), context))
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise  # swallowing a cancellation leaks memory of the native call
            except Exception as error:  # noqa: BLE001 - the message boundary
                await _abort(context, call, request, error)

    return stream


async def _streamed(outcome: Any, context: _Context) -> None:
    """Write what a handler yields, or wait for one that writes by itself."""
    if not hasattr(outcome, "__aiter__"):
        await outcome
        return
    async with aclosing(outcome) as messages:
        async for message in messages:
            await context.write(message)


async def _abort(context: _Context, call: _Call, request: Any, error: Exception) -> NoReturn:
    if isinstance(error, Refusal):
        error = _as_error(call.refused(request, error, context.peer()))
    if not isinstance(error, RpcError):
        name = uuid.uuid4().hex
        log.error("rpc.failed", method=call.method, error_id=name, exc_info=error)
        error = RpcError(
            grpc.StatusCode.INTERNAL,
            "INTERNAL",
            f"the call failed inside the service; its log tells why under {name}",
            {"error_id": name},
        )
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
