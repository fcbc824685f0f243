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
from services.bus import ARTIFACTS, COMMANDS, EVENTS, EXECUTORS, Bus, BusError
from services.config import ConfigError, load
from services.executor.config import PREFIX, ExecutorConfig
from services.executor.found import ToolFinder
from services.executor.garbage import Garbage
from services.executor.housekeeping import Housekeeping
from services.executor.journal import Journal, Key, StateDirBusyError, lock
from services.executor.metrics import ExecutorMetrics
from services.executor.pulse import Pulse, PulseGoneError
from services.executor.secrets import masked_for_log
from services.executor.step import StepConfig, Steps
from services.executor.tools import tool_path
from services.executor.worker import HAND_BACK_S, Executor, marker_of
from services.metrics import Exposition
from services.process import ProcessError, Supervisor, SupervisorGoneError, sweep
from services.profiles import shipped_tool_profiles
from services.ready import announce

log = structlog.get_logger()

END_S = 2.0


FORMER_LIFE_S = 6.0
"""How long a former life's supervisor may take to end its tools, before this life does it."""


async def run(config: ExecutorConfig) -> None:
    """Execute until SIGTERM or SIGINT; a second one skips the grace, and SIGUSR1 asks for garbage (services/sweep.py). Raises BusError, ConfigError, ProcessError."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.set)
    locked = _locked(config)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)  # a killed predecessor left it
    name = _name(config)
    slots = config.slots or max(2, os.cpu_count() or 2)
    journal = Journal(config.state_dir.absolute() / "journal")
    pulse = Pulse(
        lambda: Bus.connect(config.bus, name="swell-executor-beats"),
        executor=name,
        boot=uuid.uuid4().hex[:12],
        pool=config.pool,
        slots=slots,
    )
    exposition = Exposition("executor")
    metrics = ExecutorMetrics(exposition)
    async with contextlib.AsyncExitStack() as open_things:
        open_things.callback(os.close, locked)
        metrics_port = await open_things.enter_async_context(
            exposition.served(config.metrics_address, plaintext=config.metrics_plaintext)
        )
        # Opened early, hence closed late: its last word is that everything else is closed.
        pulse.start()
        open_things.push_async_exit(lambda kind, *_: pulse.close(terminated=kind is None))
        leftovers = await _clean_up(journal)
        # The supervisor comes early: it forks, and a small process forks cheaply.
        supervisor = Supervisor(config.containment)
        await supervisor.start()
        open_things.push_async_callback(supervisor.close)
        journal.supervised_by(supervisor.pid)
        bus = await Bus.connect(config.bus, name="swell-executor")
        open_things.push_async_callback(bus.close)
        await bus.find_streams(EVENTS, COMMANDS, f"OBJ_{ARTIFACTS}", f"KV_{EXECUTORS}")
        steps = Steps(
            StepConfig(
                root=config.state_dir.absolute(),
                slots=slots,
                output_bytes=config.output_bytes,
                setup_timeout_s=config.setup_timeout_s,
                keep_work_timeout_s=config.keep_work_timeout_s,
                prices_files=(config.prices_file,) if config.prices_file is not None else (),
                sandbox_read=tuple(config.sandbox_read),
                hidden=hidden_of(config),
                port_first=config.port_first,
                port_last=config.port_last,
                disk_free_bytes=config.disk_free_bytes,
                partial_clone=config.partial_clone,
            ),
            Artifacts(metrics.counted(bus.objects)),
            supervisor,
            bus,
        )
        open_things.callback(steps.ports.close)
        await steps.prepare()
        garbage = Garbage(
            steps.config.root, bus, steps.repositories, steps.scratches, steps.setups, keep_s=config.gc_keep_s
        )
        house = Housekeeping(
            garbage, disk_free_bytes=config.disk_free_bytes, interval_s=config.gc_interval_s, asked=asked
        )
        finder = ToolFinder(
            supervisor,
            steps.config.root / "scratch",
            shipped_tool_profiles(),
            sandbox=steps.sandbox(),
            trials=steps.trials,
        )
        executor = Executor(bus, steps, pulse, journal, metrics, finder, house)
        metrics.read(pulse, executor, house)
        serving = asyncio.create_task(executor.run(leftovers))
        await _serve(config, executor, serving, (supervisor, pulse), (stop, hurry), metrics_port)


def hidden_of(config: ExecutorConfig) -> tuple[Path, ...]:
    """What no tool may see besides the state folder."""
    return tuple(path.absolute() for path in (*config.sandbox_hidden, *config.bus.secret_files))


async def _clean_up(journal: Journal) -> dict[Key, int]:
    """Ends what a former life left running: its attempts, and how many of their processes that were."""
    entries = {marker_of(key): key for key in journal.entries()}
    if not entries:
        return {}
    if not await journal.former_supervisor_ended(FORMER_LIFE_S):
        log.warning("executor.former_supervisor_lives", remedy="its tools are ended by this life now")
    swept = await sweep(list(entries))
    log.info("executor.cleaned_up", attempts=len(entries), processes=sum(swept.values()))
    return {key: swept[marker] for marker, key in entries.items()}


async def _serve(
    config: ExecutorConfig,
    executor: Executor,
    executing: asyncio.Task[None],
    needed: tuple[Supervisor, Pulse],
    asked: tuple[asyncio.Event, asyncio.Event],
    metrics_port: int,
) -> None:
    """Execute until asked to stop, or until the supervisor or the pulse is gone: without them a restart is due."""
    supervisor, pulse = needed
    stop, hurry = asked
    stopping = asyncio.create_task(stop.wait())
    orphaned = asyncio.create_task(supervisor.gone())
    pulseless = asyncio.create_task(pulse.gone())
    try:
        if config.ready_file is not None:
            announce(config.ready_file, 0, metrics_port)
        await asyncio.wait({executing, stopping, orphaned, pulseless}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone = orphaned.done()
        if not executing.done():
            # Where the supervisor is gone its tools are dead, so the steps come to their ends by themselves. They are not
            # handed back: a tool that ends supervisors must not be started again and again.
            grace_s = HAND_BACK_S if gone else config.stop_grace_s
            await executor.drain(grace_s, hurry=hurry, hand_back=not gone)
        for task in (executing, stopping, orphaned, pulseless):
            task.cancel()
        # Bounded: what a cancellation did not end is cancelled once more, task by task, when the loop closes.
        await asyncio.wait({executing, stopping, orphaned, pulseless}, timeout=END_S)
        if config.ready_file is not None:
            config.ready_file.unlink(missing_ok=True)
    if executing.done() and not executing.cancelled():
        executing.result()
    if gone:
        raise SupervisorGoneError("the tool supervisor has ended: the executor must be started anew")
    if pulseless.done() and not pulseless.cancelled():
        raise PulseGoneError("the thread of the beats has ended: the executor must be started anew")
    log.info("executor.stopped")


def _locked(config: ExecutorConfig) -> int:
    """The lock of the state folder, which two executors would empty under each other. Raises ConfigError."""
    try:
        return lock(config.state_dir)
    except StateDirBusyError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"state_dir {config.state_dir} cannot be used ({error.strerror}): set another") from error


def _name(config: ExecutorConfig) -> str:
    """Its name: configured, or drawn once and kept, so that a restart is recognised as one. Raises ConfigError."""
    if config.id:
        return config.id
    file = config.state_dir / "executor-id"
    try:
        if not file.is_file():
            file.write_text(f"executor-{uuid.uuid4().hex[:8]}")
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"state_dir {config.state_dir} cannot be used ({error.strerror}): set another") from error


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run with these arguments; return the exit code."""
    try:
        telemetry.configure("executor", env, mask=masked_for_log)
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
    except (BusError, ProcessError, PulseGoneError, OSError, ValueError) as error:
        log.error("executor.failed", error=str(error), kind=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
