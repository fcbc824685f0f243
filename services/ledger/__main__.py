"""Starts the ledger: `python -m services.ledger [FILE]`, where FILE is a TOML file such as config/ledger.toml.

Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot go on (the log says why), 2 when its settings cannot be used,
3 when its file is condemned: start it again, and it rebuilds the file from the log.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
import uvloop

from services import otlp, telemetry
from services.access import Access
from services.bus import ARTIFACTS, COMMANDS, EVENTS, Bus, BusError
from services.config import ConfigError, load
from services.ledger import anchors, spans
from services.ledger.absorb import Absorber
from services.ledger.archive import Archivist
from services.ledger.audit import Auditor
from services.ledger.config import PREFIX, LedgerConfig
from services.ledger.copying import Copies, remove_left
from services.ledger.history import History
from services.ledger.metrics import LedgerMetrics
from services.ledger.replica import Freshness
from services.ledger.segment import Archive
from services.ledger.server import SERVICE, LedgerServer
from services.ledger.snapshots import Snapshots
from services.ledger.sql import Limits, Questions
from services.ledger.store import Store, StoreDamagedError, StoreError
from services.ledger.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from services.ledger.verify import Verifier
from services.ledger.watches import Watching
from services.metrics import Exposition
from services.posting import Receiver
from services.ready import announce
from services.rpc import BindError, CallMetrics, Health, check_bind, create_server, probed, read_token, serve
from services.tls import certificates_of
from services.watched import tell_refused

log = structlog.get_logger()

CONDEMNED = 3
"""The exit code that asks for a start, and nothing else."""

PROGRESS_S = 5.0
"""How often a ledger that catches up says how far it is."""


async def run(config: LedgerConfig, collector: Receiver | None) -> None:
    """Serve until SIGTERM or SIGINT; `collector` gets spans, if there is one. Raises BusError, StoreError, BindError, ConfigError."""
    started_ns = time.time_ns()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)  # a killed predecessor left it
    check_bind(config.bind, tls=config.tls.is_on, auth=config.auth.is_on)
    token = None if config.token_file is None else read_token(config.token_file)
    exposition = Exposition("ledger")
    metrics, calls = LedgerMetrics(exposition), CallMetrics(exposition)
    certificates = certificates_of(config.tls, exposition)
    access = Access(config.auth, token=token, certificates=config.tls.require_client_certificate)
    tell_refused(exposition, access.watched | ({} if certificates is None else certificates.watched))
    exporter = otlp.Exporter("ledger", collector, exposition)
    async with contextlib.AsyncExitStack() as open_things:
        metrics_port = await open_things.enter_async_context(
            exposition.served(config.metrics_address, plaintext=config.metrics_plaintext)
        )
        await open_things.enter_async_context(exporter.exporting())
        store = await asyncio.to_thread(
            Store.open,
            config.file,
            memory_limit_mb=config.memory_limit_mb,
            threads=config.threads,
            readers=config.readers,
            query_timeout_s=config.query_timeout_s,
            aside_max=config.aside_max,
        )
        open_things.callback(store.close)
        await asyncio.to_thread(remove_left, config.file)
        bus = await Bus.connect(config.bus, name="swell-ledger")
        open_things.push_async_callback(bus.close)
        await bus.find_streams(EVENTS, COMMANDS, f"OBJ_{ARTIFACTS}")
        archive = None if config.archive is None else Archive(config.archive)
        history = History(archive, missing_up_to=config.missing_up_to)
        absorber = Absorber(
            store,
            bus,
            linger_s=config.linger_s,
            batch_max=config.batch_max,
            watching=Watching(
                entries_max=config.watch_backlog,
                bytes_max=config.watch_backlog_bytes,
                watches_max=config.watches_max,
            ),
            lag_max=config.live_lag_max,
            metrics=metrics,
            history=history,
            on_commit=None if collector is None else lambda batch: exporter.offer(spans.ended(batch)),
        )
        await absorber.verify()
        metrics.read(absorber, store)
        verifier = Verifier(
            store,
            absorber,
            bus,
            batch_max=config.batch_max,
            memory_limit_mb=config.memory_limit_mb,
            query_timeout_s=config.query_timeout_s,
            history=history,
        )
        open_things.push_async_callback(verifier.close)
        auditor = Auditor(store, bus, history=history)
        open_things.push_async_callback(auditor.close)
        archivist = (
            None
            if archive is None
            else _archivist(config, store, absorber, bus, archive, lambda: verifier.running or auditor.running, metrics)
        )
        snapshots = Snapshots(
            store,
            age_s=config.sql_snapshot_age_s,
            idle_s=config.sql_snapshot_idle_s,
            memory_mb=config.memory_limit_mb,
        )
        open_things.push_async_callback(snapshots.close)
        limits = Limits(
            queries=config.sql_queries,
            timeout_s=config.sql_timeout_s,
            memory_mb=config.sql_memory_mb,
            rows_max=config.sql_rows_max,
            bytes_max=config.sql_bytes_max,
        )
        answers = LedgerServer(
            store,
            absorber,
            bus.objects,
            bus,
            verifier,
            auditor,
            Questions(snapshots, limits),
            archivist=archivist,
            copies=Copies(store, bus, history=history),
            heartbeat_s=config.heartbeat_s,
            artifact_bytes_max=config.artifact_bytes_max,
            aim_audit_days=config.aim_audit_days,
            as_of_entries_max=config.as_of_entries_max,
            started_ns=started_ns,
        )
        open_things.push_async_callback(answers.close)
        server = create_server(
            access=access,
            max_message_bytes=config.request_bytes_max,
            concurrent_rpcs=config.concurrent_rpcs,
            metrics=calls,
            tenant_of=answers.tenant_of,
            within=[Freshness(SERVICE, absorber, wait_s=config.min_position_wait_s)],
        )
        add_LedgerServiceServicer_to_server(answers, server)  # type: ignore[no-untyped-call]  # generated code
        health = Health([SERVICE])
        port = await serve(server, config.bind, [SERVICE], health, certificates)
        await open_things.enter_async_context(probed(config.health_address, health))
        await _serve(config, server, health, store, absorber, stop, (port, metrics_port), archivist)
        if store.condemned:
            raise StoreDamagedError(
                f"{store.file} is condemned: {store.condemned}. Start the ledger again: it rebuilds it"
            )


def _archivist(
    config: LedgerConfig,
    store: Store,
    absorber: Absorber,
    bus: Bus,
    archive: Archive,
    is_verifying: Callable[[], bool],
    metrics: LedgerMetrics,
) -> Archivist:
    return Archivist(
        store,
        absorber,
        bus,
        archive,
        after_days=config.archive_after_days,
        purge=config.purge_archived,
        is_verifying=is_verifying,
        metrics=metrics,
        remover=lambda: removing(config),
    )


@contextlib.asynccontextmanager
async def removing(config: LedgerConfig) -> AsyncIterator[Bus]:
    """A connection of whoever may remove archived runs. Raises BusError."""
    bus = await Bus.connect(config.purge_bus, name="swell-ledger-purge")
    try:
        yield bus
    finally:
        await bus.close()


async def _serve(
    config: LedgerConfig,
    server: grpc.aio.Server,
    health: Health,
    store: Store,
    absorber: Absorber,
    stop: asyncio.Event,
    ports: tuple[int, int],
    archivist: Archivist | None,
) -> None:
    """Absorb and answer until `stop`, until the file is condemned, or until absorbing fails. `ports`: of calls and of metrics."""
    absorbing = asyncio.create_task(absorber.run())
    measuring = asyncio.create_task(_measure(config, absorber, health))
    stopping = asyncio.create_task(stop.wait())
    condemned = asyncio.create_task(absorber.condemned.wait())
    working = {absorbing, measuring, stopping, condemned}
    archiving = set() if archivist is None else {asyncio.create_task(archivist.run())}
    if config.anchor_interval_s:
        telling = anchors.tell(store, absorber, interval_s=config.anchor_interval_s, file=config.anchors_file)
        working.add(asyncio.create_task(telling))
    try:
        if config.ready_file is not None:
            announce(config.ready_file, *ports)
        log.info("ledger.serving", port=ports[0], position=absorber.position, lag=absorber.lag)
        await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await health.leave()
        ended = [task for task in (absorbing, measuring) if task.done()]
        await _end(working | archiving)
        absorber.close()
        if config.ready_file is not None:
            config.ready_file.unlink(missing_ok=True)
        await server.stop(config.stop_grace_s)
    for task in ended:
        task.result()
    log.info("ledger.stopped", position=absorber.position)


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel until all have ended: asyncio.wait_for of Python 3.11 swallows a cancellation that meets its result."""
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


async def _measure(config: LedgerConfig, absorber: Absorber, health: Health) -> None:
    """Keep the lag, the answer to health probes and the log up to date."""
    behind_since = time.monotonic() if absorber.catching_up else None
    said = -PROGRESS_S
    while True:
        await health.say(absorber.caught_up)
        now = time.monotonic()
        status = absorber.status()
        if behind_since is not None and not absorber.catching_up:
            log.info("ledger.whole", position=status.position, seconds=round(now - behind_since, 1))
            behind_since = None
        elif behind_since is not None and now - said >= PROGRESS_S:
            said = now
            log.info(
                "ledger.rebuilding" if status.rebuilding else "ledger.catching_up",
                position=status.position,
                end=status.stream_last,
                events_per_s=round(status.events_per_s),
                seconds_left=round(status.seconds_left),
            )
        await asyncio.sleep(config.lag_interval_s)
        await absorber.look()


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run with these arguments; return the exit code."""
    try:
        telemetry.configure("ledger", env)
        if len(arguments) > 1:
            raise ConfigError(f"the ledger takes one argument, its configuration file, not {len(arguments)}")
        config = load(LedgerConfig, Path(arguments[0]) if arguments else None, env, PREFIX)
        collector = otlp.collector(env)
    except ValueError as error:
        sys.stderr.write(f"ledger: {error}\n")
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(config, collector))
    except StoreDamagedError as error:
        log.error("ledger.failed", error=str(error), exit_code=CONDEMNED)
        return CONDEMNED
    except (BusError, StoreError, BindError, ValueError) as error:
        log.error("ledger.failed", error=str(error), kind=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
