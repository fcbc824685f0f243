"""What a service tells Prometheus, and where it is asked. The only module that imports prometheus_client.

Invariants: a registry belongs to one `Exposition`, never to the process; every value of a label comes from a set that is
bounded here or in the code that names it, so no run, workstream or attempt is ever a label; whoever scrapes never touches
the service's state: what is read from it is read in the service's own event loop, and a loop that does not answer in time
costs a scrape those series and nothing else. Nothing of the service waits for a scrape, or depends on one. Counting takes
no lock, since it stands where entries are folded: only one thread ever adds to a series.

Counters count since the process started. Names and labels are a public contract: docs/metrics.md, compared by a test.
"""

import asyncio
import contextlib
import importlib.metadata
import socket
import socketserver
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
import prometheus_client
import structlog
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily

from services.address import loopback
from services.config import ConfigError

log = structlog.get_logger()

PATH: Final = "/metrics"
OTHER: Final = "other"
"""The value of a bounded label that stands for all that are over the bound."""

LABEL_CHARS_MAX: Final = 100
EXEMPLAR_CHARS_MAX: Final = 128
"""What an exemplar's names and values may come to, by the OpenMetrics specification."""

SCRAPES_MAX: Final = 8
"""Scrapes at a time; whoever comes then is turned away."""

REQUEST_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 2.0
"""How long a scrape waits for the event loop of its service."""

READ_EVERY_S: Final = 0.25
"""The state is read at most so often, however many scrape."""

POLL_S: Final = 0.2

PLAIN_REMEDY: Final = (
    "set metrics_plaintext = true if they may read it without TLS, as where a network policy guards it"
)

STEP_BUCKETS_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
RUN_BUCKETS_S: Final = (5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
WAIT_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 1800, 3600,
)  # fmt: skip
CALL_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
COMMIT_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

DELAY_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Series(msgspec.Struct, frozen=True):
    """One series as it is documented: `name` as a query writes it (a histogram's without suffix), its labels in order."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


Reading: TypeAlias = tuple[Series, tuple[str, ...], float]
"""The value of a series for these values of its labels."""

Reader: TypeAlias = Callable[[], Awaitable[Iterable[Reading]]]
"""Reads a service's state, in its event loop."""

_RESPONSIVE = Series(
    "swell_event_loop_responsive",
    "gauge",
    "1 if the event loop answered this scrape in time; with 0 every series that is read from the state is missing.",
)
_LAG = Series("swell_event_loop_lag_seconds", "gauge", "How long the event loop took to turn to this scrape.")
_BUILD = Series("swell_build_info", "gauge", "Always 1; which service and version this is.", ("service", "version"))


class Bounded:
    """Values of a label that come from outside: the first `limit` are told apart, the others are all OTHER."""

    def __init__(self, limit: int) -> None:
        """`limit`: how many values are told apart."""
        self._limit = limit
        self._known: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        """The label for a value; "none" for an empty one."""
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) >= self._limit:
            return OTHER
        return self._known.setdefault(value, value[:LABEL_CHARS_MAX] or "none")


Labels: TypeAlias = tuple[str, ...]
"""The values of a series' labels, in their order."""

Attempt: TypeAlias = tuple[str, str, int]
"""Run, workstream and number."""


class Counter:
    """Counts, from one thread."""

    def __init__(self, series: Series) -> None:
        """`series` says what it is called; without labels it is there from the start."""
        self.series = series
        self._values: dict[Labels, float] = {} if series.labels else {(): 0}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        """Count `amount` more, at least 0, for these values of the labels."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def family(self) -> CounterMetricFamily:
        """What a scrape shows; from any thread."""
        family = CounterMetricFamily(self.series.name, self.series.text, labels=self.series.labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        return family


class Histogram:
    """Counts observations by size, from one thread."""

    def __init__(self, series: Series, buckets: Sequence[float]) -> None:
        """`buckets`: their upper bounds, ascending."""
        self.series = series
        self._bounds = tuple(buckets)
        self._cells: dict[Labels, _Cell] = {}
        if not series.labels:
            self._cell(())

    def begin(self, labels: Labels) -> None:
        """Show these values of the labels from now on, with nothing observed."""
        if labels not in self._cells:
            self._cell(labels)

    def observe(self, labels: Labels, value: float, attempt: Attempt | None = None) -> None:
        """Count a value, at least 0, for these values of the labels; `attempt` becomes the bucket's exemplar."""
        cell = self._cells.get(labels) or self._cell(labels)
        bucket = bisect_left(self._bounds, value)
        cell.counts[bucket] += 1
        cell.total += value
        if attempt is not None:
            cell.newest[bucket] = (attempt, value)

    def family(self) -> HistogramMetricFamily:
        """What a scrape shows; from any thread."""
        family = HistogramMetricFamily(self.series.name, self.series.text, labels=self.series.labels)
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for labels, cell in list(self._cells.items()):
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            total = 0
            for name, count, newest in zip(names, list(cell.counts), list(cell.newest), strict=True):
                total += count
                exemplar = None if newest is None else _exemplar(*newest)
                buckets.append((name, total) if exemplar is None else (name, total, exemplar))
            family.add_metric(labels, buckets, cell.total)
        return family

    def _cell(self, labels: Labels) -> "_Cell":
        width = len(self._bounds) + 1
        return self._cells.setdefault(labels, _Cell([0] * width, 0.0, [None] * width))


class _Cell(msgspec.Struct):
    """The observations with the same labels: how many in each bucket, their sum, and each bucket's newest attempt."""

    counts: list[int]
    total: float
    newest: list[tuple[Attempt, float] | None]


def _exemplar(attempt: Attempt, value: float) -> Exemplar | None:
    """The exemplar that names an attempt; None when its name is too long for one."""
    name = "/".join(map(str, attempt))
    return Exemplar({"attempt": name}, value) if len(name) + len("attempt") <= EXEMPLAR_CHARS_MAX else None


class Exposition:
    """The series of one process. Declare them first, then enter `served`."""

    def __init__(self, service: str) -> None:
        """`service`: scheduler, executor or ledger."""
        self._service = service
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._registry)
        prometheus_client.PlatformCollector(registry=self._registry)
        self._read_series: list[Series] = [_BUILD, _RESPONSIVE, _LAG]
        self._readers: list[Reader] = []
        self._counted: list[Counter | Histogram] = []
        self._asked = _Asked(self._read)
        self._collector = _Collector(self._read_series, self._readings)
        self._registry.register(self._collector)

    @property
    def series(self) -> tuple[Series, ...]:
        """Every series of Swell's own that this process may show."""
        return (*self._read_series, *(one.series for one in self._counted))

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter; `name` ends in _total."""
        made = Counter(Series(name, "counter", text, labels))
        self._register(made)
        return made

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        """A histogram; `name` ends in its unit."""
        made = Histogram(Series(name, "histogram", text, labels), buckets)
        self._register(made)
        return made

    def _register(self, made: Counter | Histogram) -> None:
        self._counted.append(made)
        self._registry.register(_Counted(made))

    def read(self, series: Iterable[Series], reader: Reader) -> None:
        """Have these series read by `reader` at each scrape, in the event loop that `served` is entered in."""
        self._registry.unregister(self._collector)
        self._read_series.extend(series)
        self._registry.register(self._collector)
        self._readers.append(reader)

    def text(self) -> str:
        """What a scrape gets, in Prometheus's text format."""
        return prometheus_client.generate_latest(self._registry).decode()

    @contextlib.asynccontextmanager
    async def served(self, address: str, *, plaintext: bool = False) -> AsyncIterator[int]:
        """Answer scrapes at `address` ("host:port", port 0 for any; "": nowhere); the port, 0 for none.

        With `plaintext` other machines may reach it too, though nothing is encrypted. Raises services.address.AddressError for
        an address beyond loopback without it, ConfigError when nothing can listen there.
        """
        if not address:
            yield 0
            return
        host, port = loopback("metrics_address", address, beyond=plaintext, remedy=PLAIN_REMEDY)
        try:
            server = _Server(host, port, self._registry)
        except OSError as error:
            raise ConfigError(
                f"nothing can listen on metrics_address {address} ({error.strerror}): stop what uses it, set another "
                'port, 127.0.0.1:0 for any, or "" for no metrics'
            ) from error
        self._asked.loop = asyncio.get_running_loop()
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="swell-metrics", daemon=True)
        thread.start()
        log.info("metrics.serving", port=server.server_port, path=PATH)
        try:
            yield server.server_port
        finally:
            self._asked.loop = None
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    async def _read(self) -> list[Reading]:
        return [reading for reader in self._readers for reading in await reader()]

    def _readings(self) -> Iterable[Reading]:
        """In the thread of a scrape."""
        answer = self._asked.readings()
        yield _BUILD, (self._service, version()), 1
        yield _RESPONSIVE, (), answer.readings is not None
        yield _LAG, (), answer.lag_s
        yield from answer.readings or ()


class _Answer(msgspec.Struct, frozen=True):
    """What the event loop said; `readings` is None when it did not say it in time."""

    readings: list[Reading] | None
    lag_s: float
    at: float


class _Asked:
    """Asks an event loop from other threads, one at a time and not too often."""

    def __init__(self, read: Callable[[], Awaitable[list[Reading]]]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._read = read
        self._lock = threading.Lock()
        self._newest = _Answer(None, 0.0, -READ_EVERY_S)

    def readings(self) -> _Answer:
        """The newest answer, if it is fresh; else a new one."""
        with self._lock:
            if time.monotonic() - self._newest.at >= READ_EVERY_S:
                self._newest = self._ask(self.loop)
            return self._newest

    def _ask(self, loop: asyncio.AbstractEventLoop | None) -> _Answer:
        asked = time.monotonic()
        turned: list[float] = []

        async def turn() -> list[Reading]:
            turned.append(time.monotonic() - asked)
            return await self._read()

        readings: list[Reading] | None = None
        if loop is not None and loop.is_running():
            answering = asyncio.run_coroutine_threadsafe(turn(), loop)
            try:
                readings = answering.result(READ_TIMEOUT_S)
            except (TimeoutError, asyncio.CancelledError):
                answering.cancel()
        now = time.monotonic()
        return _Answer(readings, turned[0] if turned else now - asked, now)


class _Counted:
    """A series that is counted as things happen."""

    def __init__(self, counted: Counter | Histogram) -> None:
        self._counted = counted

    def describe(self) -> list[CounterMetricFamily | HistogramMetricFamily]:
        """What it is called."""
        return [self._counted.family()]

    def collect(self) -> list[CounterMetricFamily | HistogramMetricFamily]:
        """What was counted."""
        return [self._counted.family()]


class _Collector:
    """Series whose values are read when they are asked for."""

    def __init__(self, series: list[Series], read: Callable[[], Iterable[Reading]]) -> None:
        self._series = series
        self._read = read

    def describe(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        """The series without values."""
        return [_family(series) for series in self._series]

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        """The series with their values; one without a value at present is left out."""
        readings = list(self._read())
        families = {series: _family(series) for series in self._series}
        for series, values, value in readings:
            families[series].add_metric(values, float(value))
        return [family for family in families.values() if family.samples]


def _family(series: Series) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    return kind(series.name, series.text, labels=series.labels)


def version() -> str:
    try:
        return importlib.metadata.version("swell")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# Over HTTP


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Scrapes are no news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each scrape, a few at a time."""

    daemon_threads = True
    allow_reuse_port = False
    """Otherwise two services would share one port, and each get some of the scrapes."""

    def __init__(self, host: str, port: int, registry: prometheus_client.CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(SCRAPES_MAX)
        super().__init__((host, port), _Handler)
        self.set_app(_app(registry))

    def server_bind(self) -> None:
        """Listen, without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or not at all when too many are at it."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """Whoever connects and says nothing sensible ends its own connection."""
        log.debug("metrics.request_failed", client=str(client_address), error=repr(sys.exception()))


def _app(registry: prometheus_client.CollectorRegistry) -> Callable[[dict[str, Any], Callable[..., Any]], Any]:
    exposing = prometheus_client.make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if environ.get("PATH_INFO") != PATH:
            return _plain(start, "404 Not Found", f"the metrics are at {PATH}\n")
        try:
            return exposing(environ, start)
        except Exception as error:
            log.error("metrics.scrape_failed", exc_info=error)
            return _plain(start, "500 Internal Server Error", "the scrape failed; the service's log tells why\n")

    return app


def _plain(start: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]
