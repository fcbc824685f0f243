"""Starts an executor: `python -m services.executor [FILE]`, where FILE is a TOML file such as config/executor.toml.

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

import structlog

from services import telemetry
from services.artifacts import Artifacts
from services.bus import Bus, BusError
from services.config import ConfigError, load
from services.executor.config import PREFIX, ExecutorConfig
from services.executor.step import StepConfig, Steps
from services.executor.tools import tool_path
from services.executor.worker import Executor
from services.process import ProcessError, Supervisor, SupervisorGoneError
from services.ready import announce

log = structlog.get_logger()


async def run(config: ExecutorConfig) -> None:
    """Execute until SIGTERM or SIGINT. Raises BusError, ConfigError, ProcessError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as open_things:
        # The supervisor comes first: it forks, and a small process forks cheaply.
        supervisor = Supervisor(config.containment)
        await supervisor.start()
        open_things.push_async_callback(supervisor.close)
        bus = await Bus.connect(config.bus, name="swell-executor")
        open_things.push_async_callback(bus.close)
        await bus.ensure_streams()
        slots = config.slots or max(2, os.cpu_count() or 2)
        steps = Steps(
            StepConfig(
                root=config.state_dir.absolute(),
                slots=slots,
                output_bytes=config.output_bytes,
                setup_timeout_s=config.setup_timeout_s,
            ),
            Artifacts(bus.objects),
            supervisor,
            bus,
        )
        await steps.prepare()
        executor = Executor(bus, steps, name=_name(config), pool=config.pool, slots=slots)
        await _serve(config, executor, supervisor, stop)


async def _serve(config: ExecutorConfig, executor: Executor, supervisor: Supervisor, stop: asyncio.Event) -> None:
    """Execute until `stop`, or until the supervisor is gone: without one nothing can be run, so a restart is due."""
    executing = asyncio.create_task(executor.run())
    stopping = asyncio.create_task(stop.wait())
    orphaned = asyncio.create_task(supervisor.gone())
    try:
        if config.ready_file is not None:
            announce(config.ready_file, 0)
        await asyncio.wait({executing, stopping, orphaned}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone = orphaned.done()
        if not executing.done():
            await executor.drain(0 if gone else config.stop_grace_s)
        for task in (executing, stopping, orphaned):
            task.cancel()
        await asyncio.wait({executing, stopping, orphaned})
        if config.ready_file is not None:
            config.ready_file.unlink(missing_ok=True)
    if not executing.cancelled():
        executing.result()
    if gone:
        raise SupervisorGoneError("the tool supervisor has ended: the executor must be started anew")
    log.info("executor.stopped")


def _name(config: ExecutorConfig) -> str:
    """Its name: configured, or drawn once and kept, so that a restart is recognised as one. Raises ConfigError."""
    if config.id:
        return config.id
    file = config.state_dir / "executor-id"
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            file.write_text(f"executor-{uuid.uuid4().hex[:8]}")
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"state_dir {config.state_dir} cannot be used ({error.strerror}): set another") from error


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run with these arguments; return the exit code."""
    try:
        telemetry.configure("executor", env)
        if len(arguments) > 1:
            raise ConfigError(f"the executor takes one argument, its configuration file, not {len(arguments)}")
        config = load(ExecutorConfig, Path(arguments[0]) if arguments else None, env, PREFIX)
    except ValueError as error:
        sys.stderr.write(f"executor: {error}\n")
        return 2
    # Acceptance tests are looked up on this PATH: what stands beside the interpreter counts.
    os.environ["PATH"] = tool_path(os.environ.get("PATH", os.defpath))
    try:
        asyncio.run(run(config))
    except (BusError, ProcessError, OSError, ValueError) as error:
        log.error("executor.failed", error=str(error), kind=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
