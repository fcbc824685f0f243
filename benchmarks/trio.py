"""A scheduler, an executor, a ledger and a nats-server of one's own, for measuring."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc

from services.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from services.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from tests.crash.rig import Process, below_of, process_of

START_TIMEOUT_S = 30.0
RUN_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 15.0
NATS_SERVER = Path(sys.executable).with_name("nats-server")

T = TypeVar("T")


class Trio:
    """The running processes and how to talk to them.

    A service is named after what it is, with a number where there are several: "scheduler", "executor-2".
    """

    def __init__(self, root: Path) -> None:
        """`root`: a folder that is there, for everything they write."""
        self.root = root
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = ""
        self._left: list[Process] = []

    def start(self, slots: int) -> None:
        """Start one of each and wait until it answers. `slots`: attempts the executor runs at a time."""
        self.start_bus()
        self.start_service("scheduler")
        self.start_service("executor", f"slots = {slots}")
        self.start_service("ledger", f'file = "{self.root}/ledger.duckdb"')
        for name in ("scheduler", "executor", "ledger"):
            self.await_ready(name)
        self.connect_scheduler()
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(self.channel("ledger"))  # type: ignore[no-untyped-call]  # generated code

    def connect_scheduler(self) -> None:
        """From here on runs can be submitted."""
        self.scheduler = scheduler_pb2_grpc.SchedulerServiceStub(self.channel("scheduler"))  # type: ignore[no-untyped-call]  # generated code

    def start_bus(self, *, durable: bool = True) -> None:
        """Start the nats-server; unless `durable`, it syncs its disk only now and then."""
        (self.root / "ports").mkdir()
        sync = ", sync_interval: always" if durable else ""
        (self.root / "nats.conf").write_text(
            f'host: 127.0.0.1\nport: -1\nports_file_dir: "{self.root}/ports"\n'
            f'jetstream {{ store_dir: "{self.root}/jetstream"{sync} }}\n'
        )
        self._spawn("nats", str(NATS_SERVER), "-c", str(self.root / "nats.conf"))
        ports = awaited(lambda: next(iter((self.root / "ports").glob("*.ports")), None))
        self.url = json.loads(ports.read_text())["nats"][0]

    def start_service(self, name: str, settings: str = "") -> None:
        """Start a service, or start it again; `settings` are lines of its configuration file."""
        kind = name.partition("-")[0]
        if kind == "executor":
            settings += f'\nstate_dir = "{self.root}/{name}"'
        ready = self._ready_file(name)
        ready.unlink(missing_ok=True)
        file = self.root / f"{name}.toml"
        file.write_text(f'{settings}\nready_file = "{ready}"\n[bus]\nurl = "{self.url}"\n')
        self._spawn(name, sys.executable, "-m", f"services.{kind}", str(file))

    def await_ready(self, name: str) -> None:
        """Wait until a service says that it can be used."""
        awaited(lambda: self._ready_file(name).exists() or None)

    def channel(self, name: str) -> grpc.Channel:
        """A connection to a service that is ready."""
        return grpc.insecure_channel(f"127.0.0.1:{self.port(name)}")

    def port(self, name: str) -> int:
        """Where a service that is ready listens."""
        return int(json.loads(self._ready_file(name).read_text())["port"])

    def _ready_file(self, name: str) -> Path:
        return self.root / f"{name}.ready"

    def _spawn(self, name: str, *argv: str) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> int:
        """End a service by SIGKILL; when, in nanoseconds since 1970. `stop` sees to the processes that it leaves."""
        process = self.processes.pop(name)
        self._left += below_of(process.pid)
        killed_ns = time.time_ns()
        process.kill()
        process.wait()
        return killed_ns

    def stop(self) -> None:
        """End every process that was started; the bus last, without which none of the others ends soon."""
        bus, others = ("nats",), tuple(name for name in self.processes if name != "nats")
        for names in (others, bus):
            ending = [name for name in names if name in self.processes]
            for name in ending:
                self.processes[name].send_signal(signal.SIGTERM)
            for name in ending:
                try:
                    self.processes[name].wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    self.kill(name)
        for left in self._left:
            if process_of(left.pid) == left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left.pid, signal.SIGKILL)

    def resident_mb(self, name: str, *, peak: bool = False) -> float:
        """Resident memory of a service in megabytes: at present, or the most it has ever had."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        key = "VmHWM" if peak else "VmRSS"
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(key))) / 1024

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
        self.await_end(run)
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

    def await_end(self, run: str) -> None:
        """Wait until a run has finished."""
        awaited(lambda: self._finished(run) or None, RUN_TIMEOUT_S, 0.1)

    def _finished(self, run: str) -> bool:
        try:
            return bool(self.ledger.GetRun(ledger_pb2.GetRunRequest(run=run), timeout=10).run.finished_ns)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise


@contextlib.contextmanager
def bare() -> Iterator[Trio]:
    """A trio of which nothing runs yet; what is started in the block ends with it."""
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        made = Trio(Path(folder))
        try:
            yield made
        finally:
            made.stop()


@contextlib.contextmanager
def trio(slots: int) -> Iterator[Trio]:
    """A trio for as long as the block runs."""
    with bare() as made:
        made.start(slots)
        yield made


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


def awaited(probe: Callable[[], T | None], timeout_s: float = START_TIMEOUT_S, pause_s: float = 0.01) -> T:
    """What `probe` finds, as soon as it is not None."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = probe()
        if found is not None:
            return found
        time.sleep(pause_s)
    raise RuntimeError(f"not there after {timeout_s:g} s")


async def until(probe: Callable[[], T | None], timeout_s: float, pause_s: float = 0.01) -> T:
    """The same, while other tasks go on. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = probe()
            if found is not None:
                return found
            await asyncio.sleep(pause_s)
