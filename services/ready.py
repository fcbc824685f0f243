"""The ready file: how a service tells whoever started it that it answers, and where.

`python -m services.ready FILE` asks whether the service of such a file is there, for an orchestrator's probes; with --responsive
also whether its event loop moves, as its metrics tell. Exit codes: 0 when it is, 1 when it is not.
"""

import argparse
import http.client
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.config import ConfigError

READY_BYTES_MAX = 4096
METRICS_BYTES_MAX = 16 * 1024 * 1024
METRICS_TIMEOUT_S = 5.0


class Announced(msgspec.Struct, frozen=True):
    """What a ready file holds."""

    port: int
    pid: int
    metrics_port: int = 0


def announce(file: Path, port: int, metrics_port: int = 0) -> None:
    """Write {"port": …, "pid": …}, whole or not at all; port 0 for a service without one. Raises ConfigError.

    With a `metrics_port`, that one is written as well.
    """
    told = {"port": port, "pid": os.getpid()} | ({"metrics_port": metrics_port} if metrics_port else {})
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        scratch.write_bytes(msgspec.json.encode(told))
        scratch.replace(file)
    except OSError as error:
        raise ConfigError(
            f"ready_file {file} cannot be written ({error.strerror}): make its folder, or set another"
        ) from error


def missing(file: Path, *, responsive: bool) -> str:
    """What the service of a ready file lacks to be there; "" when nothing does. `responsive` asks for its event loop too."""
    try:
        with file.open("rb") as opened:
            told = msgspec.json.decode(opened.read(READY_BYTES_MAX), type=Announced)
        os.kill(told.pid, 0)
    except (OSError, msgspec.DecodeError) as error:
        return f"{file}: {error}"
    if not responsive:
        return ""
    if not told.metrics_port:
        return f"{file} names no metrics_port: set metrics_address"
    return _unresponsive(told.metrics_port)


def _unresponsive(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=METRICS_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read(METRICS_BYTES_MAX).splitlines()
    except (OSError, http.client.HTTPException) as error:
        return f"127.0.0.1:{port} does not answer: {error}"
    finally:
        connection.close()
    return "" if b"swell_event_loop_responsive 1.0" in lines else "its event loop does not answer"


def main(arguments: Sequence[str]) -> int:
    """Ask with these arguments; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.ready", description="Is the service of a ready file there?"
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--responsive", action="store_true", help="its event loop has to move as well")
    given = parser.parse_args(arguments)
    lacking = missing(given.file, responsive=given.responsive)
    sys.stderr.write(f"ready: {lacking}\n" if lacking else "")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
