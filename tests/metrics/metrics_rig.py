"""What the tests of metrics work with: a scrape over HTTP, read back by the library's own parser."""

import asyncio
import http.client
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from services.executor.metrics import ExecutorMetrics
from services.ledger.metrics import LedgerMetrics
from services.metrics import Exposition
from services.otlp import Exporter
from services.rpc import CallMetrics
from services.scheduler.metrics import SchedulerMetrics
from services.tls import TlsConfig, certificates_of
from services.watched import tell_refused

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def get(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Status, content type and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def samples_of(text: str) -> Samples:
    """Every sample of an exposition, by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = samples_of(text)

    def value(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels."""
        return self.samples[name, tuple(sorted(labels.items()))]

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """A series added up by some of its labels; what is 0 is left out."""
        found: dict[tuple[str, ...], float] = {}
        for (named, pairs), value in self.samples.items():
            if named == name and value:
                key = tuple(dict(pairs)[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found


async def scrape(port: int) -> Scrape:
    """A scrape, as Prometheus does it."""
    status, _, text = await asyncio.to_thread(get, port)
    assert status == 200, text
    return Scrape(text)


class _Unused:
    """Nothing is read from it: the series are only declared."""


def declared() -> Iterator[tuple[str, Exposition]]:
    """The expositions of the services as their composition roots make them, without a service."""
    for service, kind in (("scheduler", SchedulerMetrics), ("executor", ExecutorMetrics), ("ledger", LedgerMetrics)):
        exposition = Exposition(service)
        kind(exposition).read(*([_Unused()] * (3 if service == "executor" else 2)))
        if service != "executor":
            CallMetrics(exposition)
            certificates_of(TlsConfig(), exposition)
            tell_refused(exposition, {})
            Exporter(service, None, exposition)
        yield service, exposition
