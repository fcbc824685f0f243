"""What the processes of an embedded cluster are told: their configuration files, environments and arguments.

Invariants: no credential is ever an argument or part of an environment; every file here is readable by its owner alone;
an address that a service has had is asked for again when it is restarted.
"""

import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from services import permissions
from services.otlp import VARIABLES
from services.process import child_environment
from swell.cluster import read_secret, write_private

EXECUTOR_SLOTS: Final = 32
"""A ceiling for the one machine; `max_workers` of a run decides how many of its tools run."""
EXECUTOR_STOP_GRACE_S: Final = 5.0
"""Somebody waits at the terminal: steps that take longer are handed back soon, with their work, and go on at the next start."""
EXECUTOR_FREE_BYTES: Final = 16 * 1024 * 1024
"""It shares its disk with the log, which takes nothing more with a quarter of this."""
NATS_PAYLOAD: Final = "8MB"
EXECUTOR: Final = ("default", "local")
"""Pool and id of the one executor."""
BUS_USERS: Final = {
    "scheduler": permissions.scheduler(),
    "ledger": permissions.ledger(),
    "executor": permissions.executor(*EXECUTOR),
    "admin": permissions.admin(),
}
"""Who they are on the bus. The ledger uses `admin` to remove archived runs."""


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Fixed ports; 0 takes any free one."""

    nats: int = 0
    scheduler: int = 0
    ledger: int = 0


class Parts:
    """The configuration of nats, scheduler, ledger and executor in one state folder."""

    def __init__(self, state_dir: Path, ports: Ports) -> None:
        self._state_dir = state_dir
        self._ports = ports
        self._nats_url = ""
        self.addresses: dict[str, str] = {}
        self.metrics: dict[str, str] = {}

    @property
    def token_file(self) -> Path:
        """The bearer token of scheduler and ledger."""
        return self._state_dir / "secrets" / "token"

    def password_file(self, user: str) -> Path:
        """The password of one of BUS_USERS."""
        return self._state_dir / "secrets" / f"bus_{user}"

    @property
    def secrets(self) -> list[Path]:
        """Every file that holds one."""
        return [self.token_file, *map(self.password_file, BUS_USERS)]

    def log(self, name: str) -> Path:
        """What a process says."""
        return self._state_dir / "logs" / f"{name}.log"

    def ready_file(self, name: str) -> Path:
        """Written by a service once it can be used."""
        return self._state_dir / "ready" / f"{name}.json"

    def argv(self, name: str) -> list[str]:
        """How a service is started."""
        return [sys.executable, "-m", f"services.{name}", str(self._config(f"{name}.toml"))]

    def nats_argv(self, binary: str) -> list[str]:
        """How the bus is started."""
        return [binary, "-c", str(self._config("nats.conf"))]

    def environment(self, name: str) -> dict[str, str]:
        """The variables of a process. The executor gets ours, to hand on what a tool profile names in `env_allow`."""
        own = {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
        if name != "executor":
            return child_environment(own, allow=("SWELL_LOG_LEVEL", *VARIABLES))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SWELL_")}
        return {**kept, **own, **{key: os.environ[key] for key in ("SWELL_LOG_LEVEL",) if key in os.environ}}

    def write_nats(self, port: int) -> None:
        """Configure the bus; port -1 lets it choose."""
        store = self._state_dir / "nats"
        passwords = {user.name: read_secret(self.password_file(name)) for name, user in BUS_USERS.items()}
        text = (
            f"server_name: swell\nlisten: 127.0.0.1:{port}\nports_file_dir: {_quoted(store)}\n"
            f"max_payload: {NATS_PAYLOAD}\n"
            f"{permissions.nats_conf(list(BUS_USERS.values()), passwords)}"
            f"jetstream {{ store_dir: {_quoted(store)}, sync_interval: always }}\n"
        )
        write_private(self._config("nats.conf"), text.encode())

    def found_nats(self, url: str) -> None:
        """The bus listens there, and will again: the others find it by its address."""
        self._nats_url = url
        self.write_nats(int(url.rpartition(":")[2]))

    def write(self, name: str) -> None:
        """Configure a service."""
        lines = [f"ready_file = {_quoted(self.ready_file(name))}"]
        lines += [f"metrics_address = {_quoted(self.metrics.get(name, '127.0.0.1:0'))}"]
        if name == "executor":
            lines += [f"pool = {_quoted(EXECUTOR[0])}", f"id = {_quoted(EXECUTOR[1])}", f"slots = {EXECUTOR_SLOTS}"]
            lines += [f"stop_grace_s = {EXECUTOR_STOP_GRACE_S}", f"disk_free_bytes = {EXECUTOR_FREE_BYTES}"]
            lines += [f"state_dir = {_quoted(self._state_dir / 'executor')}"]
            lines += [f"sandbox_hidden = [{_quoted(self._state_dir.absolute())}]"]
        else:
            wanted = f"127.0.0.1:{getattr(self._ports, name)}"
            lines += [f"bind = {_quoted(self.addresses.get(name, wanted))}"]
            lines += [f"token_file = {_quoted(self.token_file)}"]
        if name == "scheduler":
            lines += ['id = "local"']
        if name == "ledger":
            lines += [
                f"file = {_quoted(self._state_dir / 'ledger' / 'ledger.duckdb')}",
                f"archive = {_quoted(self._state_dir / 'archive')}",
                f"purge_user = {_quoted(BUS_USERS['admin'].name)}",
                f"purge_password_file = {_quoted(self.password_file('admin'))}",
            ]
        lines += ["", "[bus]", f"url = {_quoted(self._nats_url)}", f"user = {_quoted(BUS_USERS[name].name)}"]
        lines += [f"password_file = {_quoted(self.password_file(name))}", "synced = true"]
        write_private(self._config(f"{name}.toml"), ("\n".join(lines) + "\n").encode())

    def _config(self, name: str) -> Path:
        return self._state_dir / "config" / name


def _quoted(value: object) -> str:
    """A text as TOML and the bus's configuration both read it: a JSON string."""
    return msgspec.json.encode(str(value)).decode()
