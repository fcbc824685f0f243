"""Running parts of the system in the foreground: the embedded cluster (`swell dev`), or one service (`swell serve`)."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from swell import cluster
from swell.errors import SwellError, invalid


def dev(*, scheduler_port: int, ledger_port: int, nats_port: int) -> int:
    """Own the cluster until Ctrl-C; if somebody owns it already, keep it alive until Ctrl-C."""
    state_dir = cluster.default_state_dir()
    cluster.prepare_state_dir(state_dir)
    if cluster.is_owned(state_dir):
        return _stay(state_dir)
    from swell import daemon, parts  # noqa: PLC0415 - asyncio and the process module are of use only here

    began = time.monotonic()

    def ready(status: cluster.Status) -> None:
        _print_where(status, state_dir, f"ready after {time.monotonic() - began:.1f} s")

    ports = parts.Ports(nats=nats_port, scheduler=scheduler_port, ledger=ledger_port)
    failure = daemon.own(state_dir, ports=ports, on_ready=ready)
    if failure is not None:
        raise cluster.failed(failure)
    return 0


def _stay(state_dir: Path) -> int:
    joined = cluster.Cluster.join_or_start(state_dir)
    try:
        status = cluster.read_status(state_dir)
        if status is not None:
            _print_where(status, state_dir, f"already running as process {status.pid}")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        joined.close()
    return 0


def _print_where(status: cluster.Status, state_dir: Path, how: str) -> None:
    sys.stdout.write(
        f"cluster {how}\n"
        f"  scheduler  {status.scheduler}\n"
        f"  ledger     {status.ledger}\n"
        f"  token      {status.token_file}\n"
        f"  state      {state_dir}\n"
        f"  logs       {state_dir / 'logs'}\n"
        "Ctrl-C ends it.\n"
    )
    sys.stdout.flush()


def stop_dev() -> int:
    """End the cluster of the state folder, whoever owns it."""
    state_dir = cluster.default_state_dir()
    stopped = cluster.stop(state_dir)
    sys.stdout.write(f"cluster of {state_dir} {'ended' if stopped else 'was not running'}\n")
    return 0


def become(service: str, config: Path) -> NoReturn:
    """Become the service: this process is replaced, so that signals and exit codes are the service's own."""
    if not config.is_file():
        raise invalid("NO_CONFIG", "there is no such file", "Name the service's TOML file.", str(config))
    sys.stdout.flush()
    try:
        os.execv(  # noqa: S606 - replaces this process; no other is started
            sys.executable, [sys.executable, "-m", f"services.{service}", str(config)]
        )
    except OSError as error:
        raise SwellError("INTERNAL", "EXEC", f"the {service} cannot be started: {error}") from error
