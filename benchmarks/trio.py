"""A scheduler, an executor, a ledger and a nats-server of one's own, for measuring."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from services.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from services.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

START_TIMEOUT_S = 30.0
RUN_TIMEOUT_S = 600.0
NATS_SERVER = Path(sys.executable).with_name("nats-server")


class Trio:
    """The running processes and how to talk to them."""

    def __init__(self, root: Path, slots: int, *, ledger: bool = True) -> None:
        """`slots`: attempts the executor runs at a time."""
        self.root = root
        self.slots = slots
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = ""
        self._ledger = ledger

    def start(self) -> None:
        """Start everything and wait until it answers."""
        (self.root / "ports").mkdir()
        (self.root / "nats.conf").write_text(
            f'host: 127.0.0.1\nport: -1\nports_file_dir: "{self.root}/ports"\n'
            f'jetstream {{ store_dir: "{self.root}/jetstream", sync_interval: always }}\n'
        )
        self._spawn("nats", str(NATS_SERVER), "-c", str(self.root / "nats.conf"))
        ports = _awaited(lambda: next(iter((self.root / "ports").glob("*.ports")), None))
        self.url = json.loads(ports.read_text())["nats"][0]
        settings = {
            "scheduler": "",
            "executor": f'state_dir = "{self.root}/executor"\nslots = {self.slots}\n',
            "ledger": f'file = "{self.root}/ledger.duckdb"\n',
        }
        for name, text in settings.items():
            file = self.root / f"{name}.toml"
            file.write_text(f'{text}ready_file = "{self.root}/{name}.ready"\n[bus]\nurl = "{self.url}"\n')
            self._spawn(name, sys.executable, "-m", f"services.{name}", str(file))
        for name in settings:
            _awaited(lambda name=name: (self.root / f"{name}.ready").exists() or None)
        self.scheduler = scheduler_pb2_grpc.SchedulerServiceStub(self._channel("scheduler"))
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(self._channel("ledger"))

    def _channel(self, name: str) -> grpc.Channel:
        port = json.loads((self.root / f"{name}.ready").read_text())["port"]
        return grpc.insecure_channel(f"127.0.0.1:{port}")

    def _spawn(self, name: str, *argv: str) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        """End every process that was started."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes.values()):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def resident_mb(self, name: str) -> float:
        """Resident memory of a service in megabytes."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024

    def submit(self, repository: Path, bundles: list[dict[str, Any]], profiles: dict[str, Any], **options: Any) -> str:
        """Submit a run; return its id."""
        commit = subprocess.check_output(["git", "-C", str(repository), "rev-parse", "HEAD"], text=True).strip()
        header = scheduler_pb2.RunHeader(
            request_id=str(uuid.uuid4()),
            repository=scheduler_pb2.Repository(location=str(repository), base_commit=commit),
            options=scheduler_pb2.RunOptions(**options),
            tool_profiles_json=json.dumps(profiles).encode(),
            actor="benchmark",
        )

        def messages() -> Iterator[scheduler_pb2.SubmitRunRequest]:
            yield scheduler_pb2.SubmitRunRequest(header=header)
            for start in range(0, len(bundles), 1000):
                content = json.dumps(bundles[start : start + 1000]).encode()
                document = scheduler_pb2.BundleDocument(name=f"{start}.json", content=content)
                yield scheduler_pb2.SubmitRunRequest(document=document)

        return str(self.scheduler.SubmitRun(messages(), timeout=60).run)

    def events(self, run: str) -> list[dict[str, Any]]:
        """Every event of a run, once it has finished, with `time_ns`, `workstream` and `attempt`.

        Nobody watches while it goes on: a watcher would take its share of the processors.
        """
        found: list[dict[str, Any]] = []
        _awaited(lambda: self._finished(run) or None, RUN_TIMEOUT_S, 0.1)
        request = ledger_pb2.WatchEventsRequest(run=run)
        for message in self.ledger.WatchEvents(request, timeout=RUN_TIMEOUT_S):
            for event in message.events:
                payload = json.loads(event.payload_json)
                payload |= {"time_ns": event.time_ns, "workstream": event.workstream, "attempt": event.attempt}
                found.append(payload)
            if found and found[-1]["kind"] == "run_finished":
                if found[-1]["state"] != "completed":
                    raise RuntimeError(f"the measured run ended as {found[-1]}")
                return found
        raise RuntimeError("the watch ended before the run")

    def _finished(self, run: str) -> bool:
        try:
            return bool(self.ledger.GetRun(ledger_pb2.GetRunRequest(run=run), timeout=10).run.finished_ns)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise


@contextlib.contextmanager
def trio(slots: int) -> Iterator[Trio]:
    """A trio for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        made = Trio(Path(folder), slots)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def repository(folder: Path, files: int) -> Path:
    """A git repository with that many small files."""
    folder.mkdir(parents=True)
    for number in range(files):
        file = folder / f"package{number % 20}" / f"module{number}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"value = {number}\n" * 30)
    environment = os.environ | {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Bench"), ("EMAIL", "bench@invalid"))
    }
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True, env=environment)
    return folder


def _awaited(probe: Any, timeout_s: float = START_TIMEOUT_S, pause_s: float = 0.01) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = probe()
        if found is not None:
            return found
        time.sleep(pause_s)
    raise RuntimeError(f"not there after {timeout_s:g} s")
