"""The embedded cluster as its clients see it: where it lives, how it is joined, started and stopped.

A state folder outside any repository holds everything. One process owns it (`swell/daemon.py`) through an exclusive
lock on `owner.lock`; whoever uses the cluster holds a shared lock on `clients.lock`, so that the owner knows when nobody
does. `cluster.json` says how far the owner is; it counts only while `owner.lock` is held.

    state folder (0700)
      owner.lock clients.lock cluster.json
      secrets/   password of the bus, token of the services (0600)
      config/    one file per process, written at every start (0600)
      nats/ ledger/ executor/   what the processes keep
      logs/      one file per process
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from swell.errors import SwellError, invalid
from swell.values import Endpoints

POLL_S: Final = 0.02
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 35.0
"""Longer than the graces of all children together (swell/daemon.py)."""
VANISHED_S: Final = 3.0
"""A launched owner has taken the lock by then, or is gone."""
LAUNCH_TIMEOUT_S: Final = 15.0
LAUNCH_OUTPUT_BYTES: Final = 64 * 1024
STATUS_BYTES_MAX: Final = 256 * 1024
TOKEN_BYTES_MAX: Final = 4096
ROOM_BYTES_MIN: Final = 4 * 1024 * 1024
"""A disk with less room than this counts as full."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the cluster could not be started or kept: what, where to look, what to do."""

    reason: str
    message: str
    remedy: str
    where: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far the owner of the folder is. `waiting_for` names what is not ready yet; `children` maps name to pid.

    `metrics` maps a service to where Prometheus finds its /metrics; `failing` maps a child that keeps dying to what is
    known of it, until it has lived for a while again. `error` is why the cluster ended.
    """

    pid: int
    state: Literal["starting", "ready", "failed"]
    started_ns: int
    waiting_for: list[str] = []
    children: dict[str, int] = {}
    scheduler: str = ""
    ledger: str = ""
    metrics: dict[str, str] = {}
    token_file: str = ""
    error: Failure | None = None
    failing: dict[str, Failure] = {}
    version: int = 1


_status_decoder = msgspec.json.Decoder(Status)


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$SWELL_STATE_DIR`, else `swell` under `$XDG_STATE_HOME` or `~/.local/state`."""
    if chosen := environ.get("SWELL_STATE_DIR"):
        return Path(chosen).expanduser().absolute()
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base).absolute() / "swell"
    return Path.home() / ".local" / "state" / "swell"


def prepare_state_dir(state_dir: Path) -> None:
    """Make the folder, for its owner alone.

    Raises SwellError: STATE_IN_REPOSITORY, STATE_NOT_WRITABLE, STATE_NOT_OURS.
    """
    for folder in (state_dir, *state_dir.resolve().parents):
        if (folder / ".git").exists():
            raise invalid(
                "STATE_IN_REPOSITORY",
                f"the state folder lies inside the repository {folder}",
                "Set SWELL_STATE_DIR to a folder outside any repository.",
                str(state_dir),
            )
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = state_dir.stat()
        if info.st_uid != os.geteuid():
            raise invalid(
                "STATE_NOT_OURS",
                "the state folder belongs to another user",
                "Set SWELL_STATE_DIR to a folder of your own.",
                str(state_dir),
            )
        if stat.S_IMODE(info.st_mode) != 0o700:
            state_dir.chmod(0o700)
        os.close(os.open(state_dir / "clients.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise invalid(
            "STATE_NOT_WRITABLE",
            f"the state folder cannot be used: {error.strerror or error}",
            "Make it a writable folder, or set SWELL_STATE_DIR to one.",
            str(state_dir),
        ) from error


def has_room(state_dir: Path) -> bool:
    """Whether the disk of a state folder takes anything more; one that cannot be asked counts as if it did."""
    try:
        return shutil.disk_usage(state_dir).free >= ROOM_BYTES_MIN
    except OSError:
        return True


def take_lock(file: Path, kind: int, *, timeout_s: float) -> int | None:
    """A descriptor that holds the lock (`fcntl.LOCK_SH` or `LOCK_EX`), or None when it is not free in time."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(POLL_S)
        else:
            return descriptor


def is_owned(state_dir: Path) -> bool:
    """Whether a process owns the folder at this moment."""
    try:
        descriptor = take_lock(state_dir / "owner.lock", fcntl.LOCK_SH, timeout_s=0)
    except OSError:
        return False
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def read_status(state_dir: Path) -> Status | None:
    """What the last owner said of itself; None when there is nothing readable."""
    try:
        with (state_dir / "cluster.json").open("rb") as file:
            return _status_decoder.decode(file.read(STATUS_BYTES_MAX))
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def write_private(file: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner alone."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as opened:  # noqa: PTH123 - takes the descriptor
        opened.write(data)
    fresh.replace(file)


class Cluster:
    """A cluster in use: `endpoints` say where it is. While this is open, an implicitly started cluster stays."""

    def __init__(self, endpoints: Endpoints, claim: int | None = None) -> None:
        self.endpoints = endpoints
        self._claim = claim

    @classmethod
    def join_or_start(
        cls,
        state_dir: Path,
        *,
        timeout_s: float = START_TIMEOUT_S,
        report: Callable[[str], None] = lambda _text: None,
        start: bool = True,
    ) -> Cluster:
        """Join the cluster that owns the folder, or start one and wait until it serves.

        `report` is told what is being waited for. With `start` false, no cluster is an error (NO_CLUSTER).
        Raises SwellError with the tail of the failing part's log.
        """
        prepare_state_dir(state_dir)
        claim = take_lock(state_dir / "clients.lock", fcntl.LOCK_SH, timeout_s=timeout_s)
        if claim is None:
            raise SwellError(
                "UNAVAILABLE",
                "CLUSTER_STOPPING",
                f"the cluster has been stopping for {timeout_s:g} s",
                "End it with `swell dev --stop`, then try again.",
                str(state_dir),
            )
        try:
            status = _await_ready(state_dir, timeout_s, report, start=start)
            return cls(endpoints_of(status, state_dir), claim)
        except BaseException:
            os.close(claim)
            raise

    def close(self) -> None:
        """Use it no longer."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def __enter__(self) -> Endpoints:
        return self.endpoints

    def __exit__(self, *_: object) -> None:
        self.close()


def endpoints_of(status: Status, state_dir: Path) -> Endpoints:
    """Where the services of a ready cluster are."""
    token = read_secret(Path(status.token_file))
    return Endpoints(scheduler=status.scheduler, ledger=status.ledger, token=token, state_dir=state_dir)


def read_secret(file: Path) -> str:
    """The text of a secret's file. Raises SwellError TOKEN_UNREADABLE."""
    try:
        with file.open("rb") as opened:
            data = opened.read(TOKEN_BYTES_MAX + 1)
        text = data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(
            "TOKEN_UNREADABLE",
            f"the token file cannot be read: {error}",
            "Make it a readable file with one line of text.",
            str(file),
        ) from error
    if not text or len(data) > TOKEN_BYTES_MAX or any(not " " < letter < "\x7f" for letter in text):
        raise invalid(
            "TOKEN_UNREADABLE", "the file does not hold a token", "Write one line of text into it.", str(file)
        )
    return text


@contextlib.contextmanager
def connected(
    state_dir: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    report: Callable[[str], None] = lambda _text: None,
) -> Iterator[Endpoints]:
    """The configured remote cluster, or the embedded one, joined for the duration."""
    remote = remote_endpoints(environ)
    if remote is not None:
        yield remote
        return
    with Cluster.join_or_start(state_dir or default_state_dir(environ), report=report) as endpoints:
        yield endpoints


def remote_endpoints(environ: Mapping[str, str]) -> Endpoints | None:
    """The cluster named by SWELL_SCHEDULER and SWELL_LEDGER, and how it is spoken to; None when none is.

    SWELL_TOKEN_FILE holds who we are, SWELL_CA_FILE who they are: without it there is no TLS. SWELL_CERTIFICATE_FILE,
    SWELL_KEY_FILE and SWELL_TLS_NAME as in `Endpoints`. Raises SwellError.
    """
    scheduler, ledger = environ.get("SWELL_SCHEDULER", ""), environ.get("SWELL_LEDGER", "")
    if not scheduler and not ledger:
        return None
    for name, value in (("SWELL_SCHEDULER", scheduler), ("SWELL_LEDGER", ledger)):
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise invalid(
                "BAD_ENDPOINT",
                f"{value!r} is not host:port",
                "Set SWELL_SCHEDULER and SWELL_LEDGER both, each as host:port; or neither.",
                name,
            )
    files = {name: Path(environ[name]) if environ.get(name) else None for name in _FILES}
    token_file = files["SWELL_TOKEN_FILE"]
    return Endpoints(
        scheduler=scheduler,
        ledger=ledger,
        token=read_secret(token_file) if token_file else "",
        token_file=token_file,
        ca_file=files["SWELL_CA_FILE"],
        certificate_file=files["SWELL_CERTIFICATE_FILE"],
        key_file=files["SWELL_KEY_FILE"],
        tls_name=environ.get("SWELL_TLS_NAME", ""),
    )


def stop(state_dir: Path, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End the cluster that owns the folder and wait for its end; False when there is none.

    An owner that does not end in time is killed; its children die with it.
    """
    if not is_owned(state_dir):
        return False
    deadline = time.monotonic() + timeout_s
    signalled = 0.0
    while is_owned(state_dir):
        status = read_status(state_dir)
        if status is not None and not signalled:
            _signal(status.pid, signal.SIGTERM)
            signalled = time.monotonic()
        elif status is not None and time.monotonic() > deadline:
            _signal(status.pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return True


def _lives(pid: int) -> bool:
    """Whether an owner runs under this pid; one that ended has no command line, even while nobody has waited for it.

    Between taking the lock and saying so, an owner is preceded by the status of the last one: its pid may be reused.
    """
    try:
        return b"swell" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    if _lives(pid):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _await_ready(state_dir: Path, timeout_s: float, report: Callable[[str], None], *, start: bool) -> Status:
    deadline = time.monotonic() + timeout_s
    launched_ns = 0
    vanished = deadline
    reported = ""
    while True:
        owned = is_owned(state_dir)
        status = read_status(state_dir)
        if owned and status is not None and not _lives(status.pid):
            status = None  # the last owner's: the one that holds the lock now has not said anything yet
        if owned and status is not None and status.state == "ready":
            return status
        if not owned:
            if launched_ns and status is not None and status.started_ns >= launched_ns and status.error is not None:
                raise failed(status.error)
            if not start:
                raise SwellError(
                    "UNAVAILABLE",
                    "NO_CLUSTER",
                    "no cluster is running",
                    "Start one with `swell dev` or `swell run`.",
                    str(state_dir),
                )
            if not launched_ns:
                launched_ns = time.time_ns()
                _launch(state_dir)
                vanished = time.monotonic() + VANISHED_S
            elif time.monotonic() > vanished:
                raise _vanished(state_dir)
        if time.monotonic() > deadline:
            raise _too_slow(state_dir, status, timeout_s)
        waiting = ", ".join(status.waiting_for) if owned and status is not None else "the cluster"
        if waiting != reported:
            reported = waiting
            report(f"waiting for {waiting}")
        time.sleep(POLL_S)


def _launch(state_dir: Path) -> None:
    """Start an owner that outlives this process. Several may be started at once: one gets the lock, the others leave."""
    from services.process import ProcessError, run_sync  # noqa: PLC0415 - joining a running cluster needs none of it

    # The executor hands on what a tool profile names in `env_allow`; what reaches our own cluster stays out.
    environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    try:
        done = run_sync(
            [sys.executable, "-m", "swell.daemon", "--detach", str(state_dir)],
            cwd=state_dir,
            env=environment | {"PYTHONSAFEPATH": "1"},
            timeout_s=LAUNCH_TIMEOUT_S,
            output_bytes=LAUNCH_OUTPUT_BYTES,
        )
    except ProcessError as error:
        raise SwellError("UNAVAILABLE", "CLUSTER_START", f"the cluster could not be started: {error}") from error
    if done.exit_code != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise SwellError(
            "UNAVAILABLE", "CLUSTER_START", f"the cluster could not be started: {tail}", "Mend what it names."
        )


_FILES = ("SWELL_TOKEN_FILE", "SWELL_CA_FILE", "SWELL_CERTIFICATE_FILE", "SWELL_KEY_FILE")
_PRIVATE = frozenset({"SWELL_SCHEDULER", "SWELL_LEDGER", "SWELL_TLS_NAME", *_FILES})


def failed(failure: Failure) -> SwellError:
    """The failure as an error; what a person can mend counts as input."""
    code = (
        "FAILED_PRECONDITION"
        if failure.reason in {"PORT_TAKEN", "NATS_TOO_OLD", "NATS_MISSING", "STATE_NOT_WRITABLE"}
        else "UNAVAILABLE"
    )
    return SwellError(code, failure.reason, failure.message, failure.remedy, failure.where)


def _vanished(state_dir: Path) -> SwellError:
    log = state_dir / "logs" / "cluster.log"
    return SwellError(
        "UNAVAILABLE",
        "CLUSTER_START",
        f"the cluster ended while it started, and did not say why\n{tail_of(log)}".rstrip(),
        "Look into the log, then try again.",
        str(log),
    )


def _too_slow(state_dir: Path, status: Status | None, timeout_s: float) -> SwellError:
    waiting = status.waiting_for if status is not None and status.waiting_for else ["cluster"]
    log = state_dir / "logs" / f"{waiting[0]}.log"
    return SwellError(
        "UNAVAILABLE",
        "CLUSTER_START",
        f"the cluster was not ready after {timeout_s:g} s: still waiting for {', '.join(waiting)}\n{tail_of(log)}".rstrip(),
        "Look into the log, or stop it with `swell dev --stop` and try again.",
        str(log),
    )


def tail_of(log: Path, lines: int = 12, limit_bytes: int = 8192) -> str:
    """The last lines of a log, indented; empty when there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - limit_bytes, 0))
            text = file.read(limit_bytes).decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
