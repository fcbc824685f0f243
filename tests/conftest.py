"""Shared by all tests: a real nats-server on a free port of the loopback."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from services.bus import BusConfig

# No example is timed: a busy machine is not a bug. A failure prints what reproduces it. The suite takes the same
# examples each time, so that what fails fails for its author; new ones are searched for by `make soak`.
settings.register_profile(
    "search", deadline=None, print_blob=True, suppress_health_check=list(HealthCheck), max_examples=2000
)
settings.register_profile(
    "swell", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("swell")

TOLD = "told"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something in the summary of the suite: what was done to whom is a result as well. Whichever process runs the test."""
    return lambda text: record_property(TOLD, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests had to tell, of those that failed as well."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    told = [(report.nodeid, text) for report in reports for name, text in report.user_properties if name == TOLD]
    if told:
        terminalreporter.section("what tests tell")
    for nodeid, text in sorted(told):
        terminalreporter.write_line(f"{nodeid.rpartition('::')[2]}:\n{text}\n")


NATS_SERVER = Path(sys.executable).parent / "nats-server"
START_S = 10.0


class NatsServer:
    """A nats-server process with JetStream on disk, credentials, and a port that it keeps across restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = "swell"
        self.password_file = folder / "password"
        self.password_file.write_text(secrets.token_hex(16) + "\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.port = -1
        self.authorization = (
            f'authorization {{ user: {self.user}, password: "{self.password_file.read_text().strip()}" }}'
        )
        self.jetstream = f'jetstream {{ store_dir: "{folder / "store"}", sync_interval: always }}'
        self.more = ""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def config(self, **changes) -> BusConfig:
        """How to reach it."""
        settings = {"url": self.url, "user": self.user, "password_file": self.password_file, **changes}
        return BusConfig(**settings)

    def start(self) -> None:
        """Start it and wait until it says where it listens."""
        ports = self.folder / "ports"
        ports.mkdir(exist_ok=True)
        for old in ports.iterdir():
            old.unlink()
        file = self.folder / "nats.conf"
        file.write_text(
            f"""
            listen: "127.0.0.1:{self.port}"
            ports_file_dir: "{ports}"
            {self.jetstream}
            {self.authorization}
            {self.more}
            """
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([NATS_SERVER, "-c", file], stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            for written in ports.glob("*.ports"):
                text = written.read_text()
                if text.endswith("}"):
                    self.port = int(json.loads(text)["nats"][0].rpartition(":")[2])
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory):
    """One server for all tests; take fresh names."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_nats_server(tmp_path):
    """A server of one's own, to stop, to start again, to misconfigure."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.kill()
