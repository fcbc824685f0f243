"""Spans for an OpenTelemetry collector, where one is configured: OTLP over HTTP, as JSON. Off by default.

    what happened ──▶ queue of QUEUE_MAX spans ──▶ POST <endpoint>/v1/traces, BATCH_MAX at a time ──▶ collector

* Nothing waits for a collector: `offer` only puts spans into the queue. What does not fit, what the collector refuses, and
  what it does not take after TRIES_MAX tries is dropped and counted, with one line in the log in a minute.
* A span is exported once at most. Which span is exported by whom is said in docs/logs.md.
* Headers may hold a key: they are in no line of the log, and do not go over an open network.

Why no SDK: the spans of runs and attempts begin and end in other processes, at other times, under ids that are given; what
an SDK is for (current span, its clock, its ids) has no part in that, and its exporter would bring three packages to encode
a handful of fields. The protocol: https://opentelemetry.io/docs/specs/otlp/#otlphttp.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote

import msgspec
import structlog

from services.config import ConfigError
from services.metrics import Exposition, version
from services.posting import PostError, Receiver
from services.trace import Trace

log = structlog.get_logger()

ENDPOINT: Final = "SWELL_OTLP_ENDPOINT"
HEADERS: Final = "SWELL_OTLP_HEADERS"
STANDARD_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
STANDARD_HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
VARIABLES: Final = (ENDPOINT, HEADERS, STANDARD_ENDPOINT, STANDARD_HEADERS)
"""Where a collector is found, and what is sent along as `name=value,…`; ours are looked at first. Each endpoint has its own headers."""

PATH: Final = "/v1/traces"
QUEUE_MAX: Final = 10_000
BATCH_MAX: Final = 500
LINGER_S: Final = 1.0
"""How long a batch is let fill."""

TIMEOUT_S: Final = 10.0
TRIES_MAX: Final = 3
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0
LAST_S: Final = 2.0
"""How long the end of a service waits for what is queued."""

TOLD_EVERY_S: Final = 60.0
TEXT_CHARS_MAX: Final = 500
ANSWER_BYTES: Final = 16 * 1024
_RETRYABLE: Final = frozenset({429, 502, 503, 504})

Kind: TypeAlias = Literal["internal", "server"]
Value: TypeAlias = str | bool | int | float
_KINDS: Final[dict[Kind, int]] = {"internal": 1, "server": 2}


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has ended. `parent` is a span's id in the same trace, "" for none; times are since 1970, in ns.

    `error` says why it failed, None if it did not.
    """

    trace: Trace
    name: str
    start_ns: int
    end_ns: int
    parent: str = ""
    kind: Kind = "internal"
    error: str | None = None
    attributes: Mapping[str, Value] = {}


def collector(env: Mapping[str, str]) -> Receiver | None:
    """The collector that the environment names, None for none. Raises ConfigError for one that cannot be used."""
    for endpoint, headers in ((ENDPOINT, HEADERS), (STANDARD_ENDPOINT, STANDARD_HEADERS)):
        if url := env.get(endpoint, ""):
            return _collector(endpoint, url, headers, env.get(headers, ""))
    return None


def _collector(endpoint: str, url: str, headers: str, sent: str) -> Receiver:
    try:
        receiver = Receiver(endpoint, url.rstrip("/") + PATH, _headers(headers, sent))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if receiver.has_user:
        raise ConfigError(f"{endpoint} must not hold a user: put what admits it into {headers}")
    if sent and not receiver.is_private:
        raise ConfigError(f"{headers} would be readable on the way to {receiver.host}: set {endpoint} to https://…")
    return receiver


def _headers(setting: str, sent: str) -> dict[str, str]:
    """Names and values of `name=value,…`, the values percent-encoded. Raises ConfigError, which repeats no value."""
    found: dict[str, str] = {}
    for part in filter(str.strip, sent.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{setting} must be name=value, several with commas between them")
        found[name.strip()] = unquote(value.strip())
    return found


class Exporter:
    """Exports the spans of one service; without a collector it takes none. Enter `exporting`, then `offer`."""

    def __init__(
        self, service: str, to: Receiver | None, exposition: Exposition, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`service`: scheduler or ledger. What becomes of spans is counted in `exposition`."""
        self._to = to
        self._clock = clock
        self._spans = exposition.counter(
            "swell_otlp_spans_total", "Spans for the OpenTelemetry collector, by what became of them.", "outcome"
        )
        self._queue: deque[Span] = deque()
        self._woken = asyncio.Event()
        self._told_at = -TOLD_EVERY_S
        self._untold = 0
        self._resource = [_attribute("service.name", f"swell-{service}"), _attribute("service.version", version())]

    @property
    def wanted(self) -> bool:
        """Whether there is a collector."""
        return self._to is not None

    def offer(self, spans: Iterable[Span]) -> None:
        """Export these, as far as their traces are sampled; in the service's event loop. Never waits, never raises."""
        if self._to is None:
            return
        for span in spans:
            if not span.trace.sampled:
                continue
            if len(self._queue) >= QUEUE_MAX:
                self._lost("dropped", 1, f"more than {QUEUE_MAX} spans wait to be exported")
            else:
                self._queue.append(span)
        if self._queue:
            self._woken.set()

    @contextlib.asynccontextmanager
    async def exporting(self) -> AsyncIterator[None]:
        """Export as long as this is entered, and LAST_S longer at most."""
        if self._to is None:
            yield
            return
        task = asyncio.create_task(self._export(self._to))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    while self._queue:
                        await self._send(self._to, self._taken(), tries=1)
            if self._queue:
                self._lost("dropped", len(self._queue), "the service has ended")

    async def _export(self, receiver: Receiver) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            if len(self._queue) < BATCH_MAX:
                await asyncio.sleep(LINGER_S)
            while self._queue:
                await self._send(receiver, self._taken(), tries=TRIES_MAX)

    def _taken(self) -> list[Span]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]

    async def _send(self, receiver: Receiver, spans: list[Span], *, tries: int) -> None:
        try:
            await self._posted(receiver, spans, tries)
        except asyncio.CancelledError:
            self._lost("failed", len(spans), "the service has ended")
            raise

    async def _posted(self, receiver: Receiver, spans: list[Span], tries: int) -> None:
        body = encoded(self._resource, spans)
        pause_s, reason = PAUSE_FIRST_S, ""
        for left in range(tries - 1, -1, -1):
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await receiver.post(body, answer_bytes=ANSWER_BYTES)
            except PostError as error:
                reason, asked_s = f"it could not be reached, or does not speak HTTP ({type(error).__name__})", 0
            else:
                if 200 <= answer.status < 300:
                    self._taken_by_collector(len(spans), _rejected(answer.body))
                    return
                reason, asked_s = f"it answered {answer.status}", answer.retry_after_s
                if answer.status not in _RETRYABLE:
                    break
            if left:
                await asyncio.sleep(min(max(pause_s, asked_s), PAUSE_MAX_S))
                pause_s *= 2
        self._lost("failed", len(spans), reason)

    def _taken_by_collector(self, spans: int, rejected: int) -> None:
        rejected = min(rejected, spans)
        if rejected:
            self._lost("rejected", rejected, "it took the request and rejected these spans")
        if spans > rejected:
            self._spans.add(("exported",), spans - rejected)

    def _lost(self, outcome: str, spans: int, reason: str) -> None:
        self._spans.add((outcome,), spans)
        self._untold += spans
        if self._clock() - self._told_at >= TOLD_EVERY_S and self._to is not None:
            host = self._to.host
            log.warning("otlp.spans_lost", collector=host, spans=self._untold, outcome=outcome, reason=reason)
            self._told_at, self._untold = self._clock(), 0


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_spans: int | str = 0


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


def _rejected(body: bytes) -> int:
    """How many spans an answer says were rejected; 0 for an answer that cannot be read."""
    try:
        partial = msgspec.json.decode(body, type=_Response).partial_success
        return 0 if partial is None else max(int(partial.rejected_spans), 0)
    except (ValueError, RecursionError):
        return 0


def encoded(resource: Sequence[object], spans: Iterable[Span]) -> bytes:
    """These spans as an ExportTraceServiceRequest; `resource` are the attributes of who exports them."""
    scope = {"scope": {"name": "swell", "version": version()}, "spans": [_message(span) for span in spans]}
    return msgspec.json.encode({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]})


def _message(span: Span) -> dict[str, object]:
    """As OTLP has it in JSON: ids in hexadecimal digits, 64-bit numbers as text."""
    message: dict[str, object] = {
        "traceId": span.trace.trace_id,
        "spanId": span.trace.span_id,
        "flags": int(span.trace.sampled),
        "name": _short(span.name),
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(max(span.end_ns, span.start_ns)),
        "attributes": [_attribute(name, value) for name, value in span.attributes.items()],
        "status": {} if span.error is None else {"code": 2, "message": _short(span.error)},
    }
    return message | ({"parentSpanId": span.parent} if span.parent else {})


def _attribute(name: str, value: Value) -> dict[str, object]:
    match value:
        case bool():
            return {"key": name, "value": {"boolValue": value}}
        case int():
            return {"key": name, "value": {"intValue": str(value)}}
        case float():
            return {"key": name, "value": {"doubleValue": value}}
        case str():
            return {"key": name, "value": {"stringValue": _short(value)}}


def _short(text: str) -> str:
    return text[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()
