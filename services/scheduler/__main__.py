"""Starts a scheduler: `python -m services.scheduler [FILE]`, where FILE is a TOML file such as config/scheduler.toml.

Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot go on (the log says why), 2 when its settings cannot be used.
"""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc.aio
import structlog
import uvloop

from services import otlp, telemetry
from services.access import Access
from services.artifacts import Artifacts
from services.bus import Bus, BusError
from services.config import ConfigError, load
from services.metrics import Exposition
from services.posting import Receiver
from services.ready import announce
from services.rpc import BindError, CallMetrics, Health, check_bind, create_server, probed, read_token, serve
from services.scheduler.config import PREFIX, SchedulerConfig
from services.scheduler.metrics import SchedulerMetrics
from services.scheduler.notify import Notifier
from services.scheduler.refusals import Refusals
from services.scheduler.requests import Requests
from services.scheduler.server import SERVICE, SchedulerServer
from services.scheduler.shell import Shell
from services.scheduler.submission import Submissions
from services.scheduler.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server
from services.tls import certificates_of
from services.watched import tell_refused

log = structlog.get_logger()

REQUEST_BYTES_MAX = 4 * 1024 * 1024
HEALTH_INTERVAL_S = 0.25
END_S = 2.0
UPLOAD_PATIENCE_S = 5.0
"""How long a submission waits for the bus: well below its caller's patience, so that the reason is told."""


async def run(config: SchedulerConfig, collector: Receiver | None) -> None:
    """Schedule until SIGTERM or SIGINT; `collector` gets spans, if there is one. Raises BusError, BindError, ConfigError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    check_bind(config.bind, tls=config.tls.is_on, auth=config.auth.is_on)
    token = None if config.token_file is None else read_token(config.token_file)
    submissions = Submissions(config)
    notifier = Notifier(config.notifications)
    exposition = Exposition("scheduler")
    metrics, calls = SchedulerMetrics(exposition), CallMetrics(exposition)
    certificates = certificates_of(config.tls, exposition)
    access = Access(config.auth, token=token, certificates=config.tls.require_client_certificate)
    tell_refused(exposition, access.watched | ({} if certificates is None else certificates.watched))
    spans = otlp.Exporter("scheduler", collector, exposition)
    async with contextlib.AsyncExitStack() as open_things:
        metrics_port = await open_things.enter_async_context(
            exposition.served(config.metrics_address, plaintext=config.metrics_plaintext)
        )
        await open_things.enter_async_context(spans.exporting())
        bus = await Bus.connect(config.bus, name="swell-scheduler")
        open_things.push_async_callback(bus.close)
        await bus.ensure_streams()
        artifacts = Artifacts(bus.objects, patience_s=UPLOAD_PATIENCE_S)
        shell = Shell(
            bus,
            artifacts,
            name=config.id or uuid.uuid4().hex[:8],
            lease_s=config.executor_lease_s,
            reconcile_s=config.reconcile_s,
            limits=config.tool_breaker,
            shared=config.shared,
            snapshot_entries=config.fold_snapshot_entries,
            metrics=metrics,
        )
        metrics.read(shell, bus)
        requests = Requests(bus, shell)
        answers = SchedulerServer(config, requests, artifacts, shell, submissions)
        refusals = Refusals(requests)
        server = create_server(
            access=access,
            max_message_bytes=REQUEST_BYTES_MAX,
            concurrent_rpcs=config.concurrent_rpcs,
            metrics=calls,
            exporting=spans.offer if collector is not None else None,
            recording=refusals.tell,
            tenant_of=answers.tenant_of,
        )
        add_SchedulerServiceServicer_to_server(answers, server)  # type: ignore[no-untyped-call]  # generated code
        await open_things.enter_async_context(notifier.telling(bus))
        await open_things.enter_async_context(refusals.recording())
        health = Health([SERVICE])
        port = await serve(server, config.bind, [SERVICE], health, certificates)
        await open_things.enter_async_context(probed(config.health_address, health))
        await _serve(config, server, health, shell, bus, stop, (port, metrics_port))


async def _serve(
    config: SchedulerConfig,
    server: grpc.aio.Server,
    health: Health,
    shell: Shell,
    bus: Bus,
    stop: asyncio.Event,
    ports: tuple[int, int],
) -> None:
    """Fold, decide and answer until `stop`, or until the shell fails. `ports` are those of calls and of metrics."""
    scheduling = asyncio.create_task(shell.run())
    probing = asyncio.create_task(_probe(health, shell, bus))
    stopping = asyncio.create_task(stop.wait())
    try:
        if config.ready_file is not None:
            announce(config.ready_file, *ports)
        log.info("scheduler.serving", port=ports[0])
        await asyncio.wait({scheduling, probing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await health.leave()
        await shell.drain()
        ended = [task for task in (scheduling, probing) if task.done()]
        for task in (scheduling, probing, stopping):
            task.cancel()
        # Bounded: what a cancellation did not end is cancelled once more, task by task, when the loop closes.
        await asyncio.wait({scheduling, probing, stopping}, timeout=END_S)
        if config.ready_file is not None:
            config.ready_file.unlink(missing_ok=True)
        await server.stop(config.stop_grace_s)
    for task in ended:
        task.result()
    log.info("scheduler.stopped", position=shell.position)


async def _probe(health: Health, shell: Shell, bus: Bus) -> None:
    while True:
        await health.say(bus.connected and shell.caught_up and not shell.halted)
        await asyncio.sleep(HEALTH_INTERVAL_S)


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run with these arguments; return the exit code."""
    try:
        telemetry.configure("scheduler", env)
        if len(arguments) > 1:
            raise ConfigError(f"the scheduler takes one argument, its configuration file, not {len(arguments)}")
        config = load(SchedulerConfig, Path(arguments[0]) if arguments else None, env, PREFIX)
        collector = otlp.collector(env)
    except ValueError as error:
        sys.stderr.write(f"scheduler: {error}\n")
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(config, collector))
    except (BusError, BindError, ValueError) as error:
        log.error("scheduler.failed", error=str(error), kind=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
