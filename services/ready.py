"""The ready file: how a service tells whoever started it that it answers, and where."""

import os
from pathlib import Path

import msgspec

from services.config import ConfigError


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
