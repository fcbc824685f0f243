"""A whole Swell as processes that die: one nats-server, two schedulers, two executors, one ledger, all on the loopback.

The rig starts them, starts again at once what has ended, strikes them with signals, and watches the log by a connection
of its own. It looks into no service: what it knows is the stream, the lease, /proc, and what the services print.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from services import permissions
from services.bus import LEASES, Bus, BusConfig, BusError, Recorded
from services.process import Service, child_environment, spawn_service
from services.wire import WireError
from swell.client import Client
from swell.values import Endpoints
from tests.crash.history import Fact, opened

CHECKOUT: Final = Path(__file__).resolve().parents[2]
SCHEDULERS: Final = ("scheduler-1", "scheduler-2")
USERS: Final = {
    "scheduler": permissions.scheduler(),
    "ledger": permissions.ledger(),
    "executor": permissions.executor("default"),
    "rig": permissions.User(
        "rig", tuple(permissions.Grant(may, ">", "it watches") for may in ("publish", "subscribe"))
    ),
}
EXECUTORS: Final = ("executor-1", "executor-2")
SERVICES: Final = (*SCHEDULERS, *EXECUTORS, "ledger")

EXECUTOR_LEASE_S: Final = 2.0
LEASE_TTL_S: Final = 2.0
TOOL_GRACE_S: Final = 1.0
GONE_S: Final = EXECUTOR_LEASE_S + 3.0 + 2.0
"""Tools of a dead executor are gone by then: its lease, the supervisor's own grace, and a busy machine."""
START_S: Final = 30.0
TERM_S: Final = 20.0
"""A service that was asked to end has ended by then."""

T = TypeVar("T")


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that was sent: to which part, when, at which point of the run; `leading`: it held the lease."""

    part: str
    number: signal.Signals
    point: str
    at_ns: int
    leading: bool


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """A process that ended; `struck`: a signal of ours had been sent to it."""

    part: str
    exit_code: int
    struck: bool


class Part:
    """A part of the system and the process that is it at the moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.service: Service | None = None
        self.struck = False
        self.stopped = False
        self.starts = 0

    @property
    def alive(self) -> bool:
        return self.service is not None and self.service.exit_code is None


class Rig:
    """Start it, strike it, stop it. `folder` keeps everything: logs, the stream, worktrees, the ledger's file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = {name: Part(name) for name in ("nats", *SERVICES)}
        self.watched: list[Recorded] = []
        self.listeners: list[Callable[[Fact, float], None]] = []
        self.strikes: list[Strike] = []
        self.deaths: list[Death] = []
        self.wrong: list[str] = []
        self.reaping_s: list[float] = []
        self.leader = ""
        self._addresses: dict[str, int] = {}
        self._stopping: set[str] = set()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._vigils: set[asyncio.Task[None]] = set()
        self._bus: Bus | None = None
        self._clients: dict[str, Client] = {}
        self._password = secrets.token_hex(16)

    # Its life

    async def start(self) -> None:
        """Everything is up and can be used."""
        for name in ("store", "ports", "ready", "logs", "config"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "password").write_text(self._password)
        self._write_nats(-1)
        self._keepers["nats"] = asyncio.create_task(self._keep(self.parts["nats"]))
        port = await until(self._nats_port, "nats-server")
        self._write_nats(port)
        self._addresses["nats"] = port
        for name in SERVICES:
            self._write(name)
            self._keepers[name] = asyncio.create_task(self._keep(self.parts[name]))
        self._bus = await Bus.connect(self._bus_config(), name="crash-matrix")
        await self._bus.ensure_streams()
        self._watchers = [asyncio.create_task(self._watch()), asyncio.create_task(self._follow_lease())]
        await self.ready()

    async def ready(self) -> None:
        """Every part runs and says so."""
        for name in SERVICES:
            port = await until(lambda name=name: self._ready_port(name), f"{name} (its log: {self.log(name)})")  # type: ignore[misc]
            if name not in self._addresses:
                self._addresses[name] = port
                self._write(name)

    async def stop(self) -> None:
        """End every part in order; one that does not end by itself is a finding."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        if self._bus is not None:
            await self._bus.close()
        for client in self._clients.values():
            client.close()
        await asyncio.gather(*(self.end(name) for name in SERVICES))
        await self.end("nats")
        if self._vigils:
            await asyncio.wait(self._vigils)

    async def end(self, name: str) -> None:
        """SIGTERM, and nobody starts it again."""
        part = self.parts[name]
        self._stopping.add(name)
        if part.stopped and part.service is not None:
            self._signal(part, signal.SIGCONT)
        if part.service is not None and part.alive:
            code = await part.service.terminate(TERM_S)
            if code == -signal.SIGKILL:
                self.wrong.append(f"{name} did not end within {TERM_S:g} s of SIGTERM")
        if name in self._keepers:
            await self._keepers.pop(name)

    def log(self, name: str) -> Path:
        """What a part has printed, in all of its lives."""
        return self.folder / "logs" / f"{name}.log"

    async def _keep(self, part: Part) -> None:
        """Start a part again whenever it has ended."""
        while part.name not in self._stopping:
            part.struck = part.stopped = False
            started = time.monotonic()
            part.service = await spawn_service(
                self._argv(part.name), env=self._environment(part.name), log_file=self.log(part.name), cwd=self.folder
            )
            part.starts += 1
            code = await part.service.wait()
            if part.name not in self._stopping:
                self.deaths.append(Death(part=part.name, exit_code=code, struck=part.struck))
                if not part.struck and time.monotonic() - started < 0.5:
                    await asyncio.sleep(0.2)  # it cannot start: say so less often

    # Its configuration

    def code_of(self, name: str) -> Path:
        """The folder whose code a part runs from its next start on."""
        return CHECKOUT

    def _environment(self, name: str) -> dict[str, str]:
        own = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(self.code_of(name)), "HOME": str(self.folder)}
        return child_environment(own, allow=("SWELL_LOG_LEVEL",))

    def _argv(self, name: str) -> list[str]:
        if name == "nats":
            return [str(Path(sys.executable).parent / "nats-server"), "-c", str(self.folder / "config" / "nats.conf")]
        return [
            sys.executable,
            "-m",
            f"services.{name.partition('-')[0]}",
            str(self.folder / "config" / f"{name}.toml"),
        ]

    def _write_nats(self, port: int) -> None:
        (self.folder / "config" / "nats.conf").write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'ports_file_dir: "{self.folder / "ports"}"\n'
            f"max_payload: 8MB\n"
            f'jetstream {{ store_dir: "{self.folder / "store"}", sync_interval: always }}\n'
            + permissions.nats_conf(list(USERS.values()), {user.name: self._password for user in USERS.values()})
        )

    def _nats_port(self) -> int:
        for written in (self.folder / "ports").glob("*.ports"):
            text = written.read_text()
            if text.endswith("}"):
                return int(json.loads(text)["nats"][0].rpartition(":")[2])
        return 0

    def _bus_config(self) -> BusConfig:
        url = f"nats://127.0.0.1:{self._addresses['nats']}"
        return BusConfig(url=url, user=USERS["rig"].name, password_file=self.folder / "password")

    def _write(self, name: str) -> None:
        settings: dict[str, object] = {"ready_file": str(self.folder / "ready" / f"{name}.json")}
        if name in EXECUTORS:
            state = str(self.folder / name)
            settings |= {"id": name, "slots": 4, "state_dir": state, "stop_grace_s": 1.0}
        else:
            settings |= {"bind": f"127.0.0.1:{self._addresses.get(name, 0)}"}
        if name in SCHEDULERS:
            # However often executors die, no attempt is given up: a run that nobody cancels has to complete.
            settings |= {"id": name, "executor_lease_s": EXECUTOR_LEASE_S, "losses_max": 10_000, "stop_grace_s": 0.5}
        if name == "ledger":
            settings |= {"file": str(self.folder / "ledger.duckdb"), "stop_grace_s": 0.5}
        bus = {
            "url": f"nats://127.0.0.1:{self._addresses['nats']}",
            "user": USERS[name.partition("-")[0]].name,
            "password_file": str(self.folder / "password"),
            "lease_ttl_s": LEASE_TTL_S,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += ["[bus]", *(f"{key} = {json.dumps(value)}" for key, value in bus.items())]
        (self.folder / "config" / f"{name}.toml").write_text("\n".join(lines) + "\n")

    def _ready_port(self, name: str) -> int | None:
        """Where it listens (an executor: 1), once this very process has said that it is ready."""
        service = self.parts[name].service
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((self.folder / "ready" / f"{name}.json").read_text())
            if service is not None and service.exit_code is None and said["pid"] == service.pid:
                return int(said["port"]) or 1
        return None

    # Asking it

    def client(self, scheduler: str) -> Client:
        """A client of one of the two schedulers, and of the ledger."""
        if scheduler not in self._clients:
            at = [f"127.0.0.1:{self._addresses[name]}" for name in (scheduler, "ledger")]
            self._clients[scheduler] = Client(Endpoints(scheduler=at[0], ledger=at[1]))
        return self._clients[scheduler]

    async def records(self) -> list[Recorded]:
        """The whole stream, read anew from the server."""
        if self._bus is None:
            raise RuntimeError("the rig has not been started")
        deadline = time.monotonic() + START_S
        while True:
            try:
                end = (await self._bus.identity()).last
                break
            except BusError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        found: list[Recorded] = []
        following = self._bus.follow(0)
        try:
            while len(found) < end:
                async with asyncio.timeout(START_S):
                    found += await anext(following)
        finally:
            await following.aclose()  # type: ignore[attr-defined]  # an async generator, typed as an iterator
        return found[:end]

    async def _watch(self) -> None:
        if self._bus is None:
            return
        async for batch in self._bus.follow(0):
            for record in batch:
                self.watched.append(record)
                at = time.monotonic()
                try:
                    facts = opened([record])
                except WireError as error:
                    self.wrong.append(str(error))
                    continue
                for fact in facts:
                    for listener in list(self.listeners):
                        listener(fact, at)

    async def _follow_lease(self) -> None:
        if self._bus is None:
            return
        async for batch in self._bus.follow_keys(LEASES):
            self.leader = batch[-1].data.decode()

    # Striking it

    def strike(self, name: str, number: signal.Signals, point: str, pause_s: float) -> bool:
        """Send a signal at once; SIGSTOP ends after `pause_s`. False when there is no process that it could reach."""
        part = self.parts[name]
        if part.service is None or not part.alive or (part.stopped and number is not signal.SIGKILL):
            return False
        leading = name == self.leader
        below = below_of(part.service.pid) if name in EXECUTORS else []
        tools = {process.pid: process for process in below if process.marker}
        self._note(name, number, point, leading=leading)
        part.struck = part.struck or number is not signal.SIGSTOP
        self._signal(part, number)
        if number is signal.SIGSTOP:
            part.stopped = True
            self._vigil(self._continue(part, part.service, pause_s))
        if number is signal.SIGTERM:
            self._vigil(self._see_it_end(part, part.service))
        if tools and number is signal.SIGKILL:
            self._vigil(self._see_tools_end(name, tools))
        return True

    def strike_host(self, name: str, point: str) -> bool:
        """Kill an executor and everything below it at once, as the end of its machine would."""
        part = self.parts[name]
        if part.service is None or not part.alive:
            return False
        below = below_of(part.service.pid)
        for process in below:
            _send(process.pid, signal.SIGSTOP)  # nothing of it sees the others die
        self._note("host", signal.SIGKILL, point, leading=False)
        part.struck = True
        for pid in (part.service.pid, *(process.pid for process in below)):
            _send(pid, signal.SIGKILL)
        if tools := {process.pid: process for process in below if process.marker}:
            self._vigil(self._see_tools_end(name, tools))
        return True

    def strike_supervisor(self, name: str, point: str) -> bool:
        """Kill the process through which an executor starts its tools."""
        part = self.parts[name]
        if part.service is None or not part.alive or part.stopped:
            return False
        pid = part.service.pid
        below = below_of(pid)
        found = [process for process in below if process.parent == pid and b"supervisor.py" in _arguments(process.pid)]
        if not found:
            return False
        self._note("supervisor", signal.SIGKILL, point, leading=False)
        part.struck = True
        _send(found[0].pid, signal.SIGKILL)
        self._vigil(self._see_it_end(part, part.service))
        if tools := {process.pid: process for process in below if process.marker}:
            self._vigil(self._see_tools_end(name, tools))
        return True

    def _note(self, part: str, number: signal.Signals, point: str, *, leading: bool) -> None:
        self.strikes.append(Strike(part=part, number=number, point=point, at_ns=time.time_ns(), leading=leading))

    def _signal(self, part: Part, number: signal.Signals) -> None:
        if part.service is not None and part.alive:
            _send(part.service.pid, number)

    def _vigil(self, watch: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(watch)
        self._vigils.add(task)
        task.add_done_callback(self._vigils.discard)

    async def _continue(self, part: Part, service: Service, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        if part.service is service and service.exit_code is None:
            part.stopped = False
            _send(service.pid, signal.SIGCONT)

    async def _see_it_end(self, part: Part, service: Service) -> None:
        deadline = time.monotonic() + TERM_S
        while service.exit_code is None and part.name not in self._stopping:
            if part.stopped or self.parts["nats"].stopped or not self.parts["nats"].alive:
                deadline = time.monotonic() + TERM_S  # nobody can end well while what it talks to stands still
            if time.monotonic() > deadline:
                self.wrong.append(f"{part.name} did not end within {TERM_S:g} s of SIGTERM, or of its supervisor's end")
                self._signal(part, signal.SIGKILL)
                return
            await asyncio.sleep(0.05)

    async def _see_tools_end(self, name: str, tools: dict[int, Process]) -> None:
        started = time.monotonic()
        while left := [process for pid, process in tools.items() if process_of(pid) == process]:
            if time.monotonic() - started > GONE_S:
                self.wrong.append(f"{name} was killed {GONE_S:g} s ago, and of its tools live {left}")
                return
            await asyncio.sleep(0.02)
        self.reaping_s.append(time.monotonic() - started)

    async def calm(self) -> None:
        """The faults are over: whatever stands still goes on, whatever is dead is up again."""
        for part in self.parts.values():
            if part.stopped:
                part.stopped = False
                self._signal(part, signal.SIGCONT)
        await self.ready()

    def complaints(self) -> Counter[str]:
        """What the services have logged as errors, and how tracebacks end, by part."""
        counted: Counter[str] = Counter()
        for name in SERVICES:
            with contextlib.suppress(OSError):
                falling = False
                for line in self.log(name).read_text(errors="replace").splitlines():
                    if line.startswith("Traceback"):
                        falling = True
                    elif falling and line[:1] not in {"", " ", "|", "+"}:
                        falling = False
                        counted[f"{name.partition('-')[0]} {line[:120]}"] += 1
                    elif '"error"' in line or '"critical"' in line:
                        with contextlib.suppress(ValueError):
                            said = json.loads(line)
                            if said.get("level") in {"error", "critical"}:
                                detail = str(said.get("error", ""))[:80]
                                counted[f"{name.partition('-')[0]} {said.get('event')} {detail}".rstrip()] += 1
        return counted


async def until(look: Callable[[], T | None], what: str, timeout_s: float = START_S) -> T:
    """What `look` finds, as soon as it is something."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        await asyncio.sleep(0.01)
    return found


# Processes


class Process(msgspec.Struct, frozen=True):
    """A living process: when it was started (in the kernel's ticks) tells it from another one of the same number."""

    pid: int
    parent: int
    started: int
    marker: str


def process_of(pid: int) -> Process | None:
    """A process that is neither gone nor a zombie; `marker` is the attempt that its environment names."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    marker = b""
    for variable in environment.split(b"\0"):
        if variable.startswith(b"SWELL_ATTEMPT="):
            marker = variable.partition(b"=")[2]
    return Process(pid, int(fields[1]), int(fields[19]), marker.decode(errors="replace"))


def processes() -> Iterator[Process]:
    """Every living process of the machine."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - many times a second
        if entry.isdigit() and (found := process_of(int(entry))) is not None:
            yield found


def below_of(ancestor: int) -> list[Process]:
    """The processes below one: its children, their children, and so on."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    ancestors = [ancestor]
    while ancestors:
        below = children.get(ancestors.pop(), [])
        found += below
        ancestors += [process.pid for process in below]
    return found


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
