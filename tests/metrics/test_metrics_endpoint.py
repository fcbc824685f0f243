"""The endpoint over real HTTP: what it answers, what it refuses, and that the service does not wait for it."""

import asyncio
import contextlib
import socket
import time

import pytest
from metrics_rig import Scrape, get, samples_of, scrape
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from services.address import AddressError
from services.config import ConfigError
from services.metrics import OTHER, SCRAPES_MAX, Bounded, Exposition, Series

HERE = "127.0.0.1:0"
DEPTH = Series("swell_test_depth", "gauge", "How deep it is.", ("pool",))


async def ask(*arguments, **headers):
    return await asyncio.to_thread(get, *arguments, **headers)


async def test_a_scrape_shows_what_was_counted_and_what_is_read_in_the_loop():
    exposition = Exposition("scheduler")
    steps = exposition.counter("swell_test_steps_total", "Steps.", "step")
    loop = asyncio.get_running_loop()

    async def reader():
        assert asyncio.get_running_loop() is loop
        return [(DEPTH, ("a",), 3)]

    exposition.read([DEPTH], reader)
    steps.add(("edit",), 2)
    async with exposition.served(HERE) as port:
        found = await scrape(port)
    assert found.value("swell_test_steps_total", step="edit") == 2
    assert found.value("swell_test_depth", pool="a") == 3
    assert found.value("swell_event_loop_responsive") == 1
    assert found.by("swell_build_info", "service") == {("scheduler",): 1}
    assert found.value("process_resident_memory_bytes") > 1_000_000


async def test_two_expositions_share_nothing():
    one, other = Exposition("a"), Exposition("b")
    one.counter("swell_test_steps_total", "Steps.").add()
    assert "swell_test_steps_total" not in other.text()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/metrics?x=1", "GET", 200), ("/metrics", "OPTIONS", 200), ("/", "GET", 404), ("/metrics/", "GET", 404),
        ("/../etc/passwd", "GET", 404), ("/metrics", "POST", 405), ("/metrics", "DELETE", 405),
        ("/metrics?name[]=%00&name[]=swell_nothing", "GET", 200), ("/" + "x" * 70_000, "GET", 414),
    ],
)  # fmt: skip
async def test_what_is_asked_wrongly_is_refused(path, method, status):
    async with Exposition("scheduler").served(HERE) as port:
        assert (await ask(port, path, method))[0] == status
        assert (await ask(port))[0] == 200


async def test_one_series_can_be_asked_for():
    exposition = Exposition("scheduler")

    async def reader():
        return [(DEPTH, ("a",), 3)]

    exposition.read([DEPTH], reader)
    async with exposition.served(HERE) as port:
        _, _, text = await ask(port, "/metrics?name[]=swell_test_depth")
    assert {name for name, _ in samples_of(text)} == {"swell_test_depth"}


async def test_noise_and_silence_disturb_nobody():
    """Bytes that are no request end their connection; as many silent ones as scrapes fit leave the service as it is."""
    async with Exposition("scheduler").served(HERE) as port:
        for noise in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    await asyncio.to_thread(connection.recv, 65536)
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(SCRAPES_MAX)]
        await refused(port)
        for connection in silent:
            connection.close()
        await answered(port)


async def refused(port: int) -> None:
    """Until a scrape is turned away."""
    async with asyncio.timeout(10):
        while True:
            try:
                await ask(port)
            except (OSError, EOFError):
                return


async def answered(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                assert (await ask(port))[0] == 200
                return


async def test_a_loop_that_stands_still_costs_its_own_series_only(monkeypatch):
    exposition = Exposition("scheduler")
    exposition.counter("swell_test_steps_total", "Steps.").add()

    async def reader():
        return [(DEPTH, ("a",), 3)]

    exposition.read([DEPTH], reader)
    monkeypatch.setattr("services.metrics.READ_TIMEOUT_S", 0.1)
    async with exposition.served(HERE) as port:
        asking = asyncio.ensure_future(ask(port))
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251 - the loop is to stand still
        _, _, text = await asking
    found = Scrape(text)
    assert found.value("swell_event_loop_responsive") == 0
    assert found.value("swell_event_loop_lag_seconds") >= 0.1
    assert found.value("swell_test_steps_total") == 1
    assert "swell_test_depth" not in found.text


async def test_many_scrapes_read_the_state_a_few_times():
    exposition = Exposition("scheduler")
    reads = 0

    async def reader():
        nonlocal reads
        reads += 1
        return []

    exposition.read([], reader)
    async with exposition.served(HERE) as port:
        started = time.monotonic()
        await asyncio.gather(*(ask(port) for _ in range(5)))
        for _ in range(20):
            await ask(port)
        assert reads <= 2 + (time.monotonic() - started) / 0.25


async def test_a_reader_that_fails_is_an_error_of_the_scrape_and_nothing_else(capfd):
    exposition = Exposition("scheduler")

    async def reader():
        raise ZeroDivisionError("secret detail")

    exposition.read([DEPTH], reader)
    async with exposition.served(HERE) as port:
        status, _, text = await ask(port)
        assert (status, "secret" in text) == (500, False)
        assert (await ask(port, "/"))[0] == 404
    assert "metrics.scrape_failed" in "".join(capfd.readouterr())


@pytest.mark.parametrize("address", ["", "127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_an_address_is_loopback_or_none(address):
    async with Exposition("scheduler").served(address) as port:
        assert (port == 0) == (not address)


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "0.0.0.0:0", "x:1", ":0"])
async def test_an_address_that_cannot_be_used_is_named(address):
    with pytest.raises(AddressError, match=r"^metrics_address "):
        async with Exposition("scheduler").served(address):
            pass


async def test_a_port_in_use_is_named_with_a_remedy():
    async with Exposition("scheduler").served(HERE) as port:
        with pytest.raises(
            ConfigError, match=rf"metrics_address 127.0.0.1:{port} \(Address already in use\): stop what"
        ):
            async with Exposition("executor").served(f"127.0.0.1:{port}"):
                pass
        assert (await ask(port))[0] == 200


async def test_nothing_is_answered_after_the_end_and_the_port_is_free():
    async with Exposition("scheduler").served(HERE) as port:
        await ask(port)
    with pytest.raises(ConnectionRefusedError):
        await ask(port)
    async with Exposition("scheduler").served(f"127.0.0.1:{port}") as again:
        assert again == port


async def test_an_exemplar_names_the_attempt_for_whoever_asks_for_openmetrics():
    exposition = Exposition("scheduler")
    seconds = exposition.histogram("swell_test_duration_seconds", "Time.", buckets=(1, 2))
    seconds.observe((), 1.5, ("r1", "ws-a", 3))
    seconds.observe((), 0.5, ("r" * 100, "w" * 100, 3))
    async with exposition.served(HERE) as port:
        _, kind, text = await ask(port, Accept="application/openmetrics-text; version=1.0.0")
        _, plain_kind, plain = await ask(port)
    assert kind.startswith("application/openmetrics-text")
    assert plain_kind.startswith("text/plain")
    found = [sample.exemplar.labels for family in openmetrics(text) for sample in family.samples if sample.exemplar]
    assert found == [{"attempt": "r1/ws-a/3"}]
    assert "ws-a" not in plain


def test_labels_from_outside_are_bounded():
    bounded = Bounded(3)
    given = ["a", "", "b" * 1000, "c", "d", "a"]
    assert [bounded(value) for value in given] == ["a", "none", "b" * 100, OTHER, OTHER, "a"]
