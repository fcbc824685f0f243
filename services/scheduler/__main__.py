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
from services.artifacts import Artifacts
from services.bus import Bus, BusError
from services.config import ConfigError, load
from services.metrics import Exposition
from services.posting import Receiver
from services.ready import announce
from services.rpc import BindError, CallMetrics, Health, check_bind, create_server, read_token, serve
from services.scheduler.config import PREFIX, SchedulerConfig
from services.scheduler.metrics import SchedulerMetrics
from services.scheduler.notify import Notifier
from services.scheduler.server import SERVICE, SchedulerServer
from services.scheduler.shell import Shell
from services.scheduler.submission import Submissions
from services.scheduler.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server

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
    check_bind(config.bind)
    token = None if config.token_file is None else read_token(config.token_file)
    submissions = Submissions(config)
    notifier = Notifier(config.notifications)
    exposition = Exposition("scheduler")
    metrics, calls = SchedulerMetrics(exposition), CallMetrics(exposition)
    spans = otlp.Exporter("scheduler", collector, exposition)
    async with contextlib.AsyncExitStack() as open_things:
        metrics_port = await open_things.enter_async_context(exposition.served(config.metrics_address))
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
        server = create_server(
            token=token,
            max_message_bytes=REQUEST_BYTES_MAX,
            concurrent_rpcs=config.concurrent_rpcs,
            metrics=calls,
            exporting=spans.offer if collector is not None else None,
        )
        answers = SchedulerServer(config, bus, artifacts, shell, submissions)
        add_SchedulerServiceServicer_to_server(answers, server)  # type: ignore[no-untyped-call]  # generated code
        await open_things.enter_async_context(notifier.telling(bus))
        await _serve(config, server, shell, bus, stop, metrics_port)


async def _serve(
    config: SchedulerConfig, server: grpc.aio.Server, shell: Shell, bus: Bus, stop: asyncio.Event, metrics_port: int
) -> None:
    """Fold, decide and answer until `stop`, or until the shell fails."""
    health = Health([SERVICE])
    port = await serve(server, config.bind, [SERVICE], health)
    scheduling = asyncio.create_task(shell.run())
    probing = asyncio.create_task(_probe(health, shell, bus))
    stopping = asyncio.create_task(stop.wait())
    try:
        if config.ready_file is not None:
            announce(config.ready_file, port, metrics_port)
        log.info("scheduler.serving", port=port)
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
