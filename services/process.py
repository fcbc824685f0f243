"""Starting processes: the one place, with ``services/executor/supervisor.py``, where the system does so.

Four kinds, by how far they are trusted:

* ``run`` and ``run_sync``: a short helper that is ours to trust (git); its output is returned;
* ``Supervisor``: tools, which are not trusted; they run under the supervisor process, inside limits, contained;
* ``spawn_service``: a part of the system itself, which lives as long as its parent and dies with it;
* ``spawn_piped``: code of ours that handles what is not trusted (a question in SQL): it bounds itself, is followed through
  pipes while it works, and is killed at any time.

Nothing here inherits an environment as a whole: ``child_environment`` builds one from an allow-list.

    ProcessError
    ├── ProgramMissingError     not installed, or not on PATH
    ├── ProgramTimeoutError     killed because its time was up
    ├── ProgramOutputError      killed because it printed more than was allowed
    ├── SpawnError              it is there and could not be started
    └── SupervisorGoneError     the supervisor process ended; start a new one
"""

import asyncio
import contextlib
import functools
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

Containment = Literal["auto", "pidns", "sweep"]
EndedBy = Literal["itself", "timeout", "idle", "cancel", "processes", "supervisor"]
StopReason = Literal["timeout", "idle", "cancel"]

MARKER_VARIABLE = "SWELL_ATTEMPT"
INHERITED_VARIABLES = ("PATH", "TZ", "USER")
SUPERVISOR_START_S = 10.0
SUPERVISOR_END_S = 12.0  # above its own grace, so that it is the supervisor who ends the tools
READ_BYTES = 64 * 1024
REAP_S = 5.0  # until a killed helper is gone; what holds its pipes longer is not waited for
LINE_BYTES = 1024 * 1024  # one answer of the supervisor; the longest carries one error message
MARKERS_AT_ONCE = 500
COMPLAINT_BYTES = 4096
REQUEST_BYTES = 16 * 1024 * 1024  # one request to it; its script, which imports nothing of ours, says the same

_T = TypeVar("_T")
_SCRIPT = Path(__file__).parent / "executor" / "supervisor.py"


class ProcessError(Exception):
    """A process could not be started, or was not allowed to go on."""


class ProgramMissingError(ProcessError):
    """The program is not installed, or not on the PATH that was given."""


class ProgramTimeoutError(ProcessError):
    """The program took longer than it was allowed to, and was killed."""


class ProgramOutputError(ProcessError):
    """The program printed more than it was allowed to, and was killed; a part of the output would mislead."""


class SpawnError(ProcessError):
    """The program exists, but the system refused to start it."""


class SupervisorGoneError(ProcessError):
    """The supervisor process is not there any more; its tools are dead, and a new supervisor must be started."""


# Trusted helpers


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """How a helper ended: ``exit_code`` is negative for a signal; ``wall_s`` is in seconds."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    wall_s: float


def _missing(argv: Sequence[str], cwd: Path) -> ProcessError:
    if not cwd.is_dir():
        return SpawnError(f"cannot run {argv[0]} in {cwd}: no such folder. Create it first.")
    return ProgramMissingError(f"cannot run {argv[0]}: not found. Install it, or put its folder on PATH.")


def _too_slow(argv: Sequence[str], timeout_s: float) -> ProgramTimeoutError:
    return ProgramTimeoutError(
        f"{shlex.join(argv)[:500]} was killed after {timeout_s:g} s. Give it more time, or find out what it waits for."
    )


def _too_much(argv: Sequence[str], output_bytes: int) -> ProgramOutputError:
    return ProgramOutputError(
        f"{shlex.join(argv)[:500]} printed more than {output_bytes} bytes and was killed. Raise output_bytes."
    )


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout_s: float,
    output_bytes: int,
) -> Completed:
    """Runs a trusted helper to its end; an exit code other than 0 is an answer, not an error.

    ``env`` defaults to the allow-list of ``child_environment``; ``stdin`` to nothing at all. ``output_bytes`` limits
    standard output and standard error, each. The helper's process group is killed when the time is up and when the
    caller is cancelled.

    Raises:
        ProgramMissingError: the program is not there.
        SpawnError: the working folder is not there, or the system refused.
        ProgramTimeoutError: it was not done after ``timeout_s`` seconds.
        ProgramOutputError: it printed more than ``output_bytes``.
    """
    started = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=child_environment() if env is None else env,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing(argv, cwd) from error
    except (OSError, ValueError) as error:
        raise SpawnError(f"cannot run {argv[0]}: {error}. Check that it may be executed.") from error
    out = asyncio.create_task(_read(process.stdout, output_bytes, argv))
    err = asyncio.create_task(_read(process.stderr, output_bytes, argv))
    feeding = asyncio.create_task(_feed(process.stdin, stdin))
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr, _ = await asyncio.gather(out, err, feeding)
            exit_code = await process.wait()
    except BaseException as error:
        _kill_group(process.pid)  # even when it has ended itself: a child of its may be what holds the pipes
        for task in (out, err, feeding):
            task.cancel()
        await asyncio.wait({out, err, feeding})
        await _reaped(process)
        if isinstance(error, TimeoutError):
            raise _too_slow(argv, timeout_s) from error
        raise
    return Completed(exit_code=exit_code, stdout=stdout, stderr=stderr, wall_s=time.monotonic() - started)


async def _reaped(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a killed helper. Its end is told once its pipes are at theirs, so what is in them goes."""

    async def discard(stream: asyncio.StreamReader | None) -> None:
        while stream is not None and await stream.read(READ_BYTES):
            pass

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_S):
            await asyncio.gather(discard(process.stdout), discard(process.stderr), process.wait())


async def _read(stream: asyncio.StreamReader | None, limit: int, argv: Sequence[str]) -> bytes:
    assert stream is not None  # noqa: S101 - a pipe was asked for
    parts: list[bytes] = []
    total = 0
    while part := await stream.read(READ_BYTES):
        total += len(part)
        if total > limit:
            raise _too_much(argv, limit)
        parts.append(part)
    return b"".join(parts)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes | None) -> None:
    if stream is None or data is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it did not want to read: its exit code tells
        stream.write(data)
        await stream.drain()
    stream.close()


def run_sync(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout_s: float,
    output_bytes: int,
) -> Completed:
    """The same as ``run``, for callers without an event loop; same arguments, same errors."""
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=child_environment() if env is None else env,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing(argv, cwd) from error
    except (OSError, ValueError) as error:
        raise SpawnError(f"cannot run {argv[0]}: {error}. Check that it may be executed.") from error
    with process:
        try:
            stdout, stderr = _exchange(process, stdin or b"", started + timeout_s, output_bytes)
            exit_code = process.wait(max(started + timeout_s - time.monotonic(), 0))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise _too_slow(argv, timeout_s) from error
        except OverflowError as error:
            raise _too_much(argv, output_bytes) from error
        finally:
            if process.returncode is None:
                _kill_group(process.pid)
    return Completed(exit_code=exit_code, stdout=stdout, stderr=stderr, wall_s=time.monotonic() - started)


def _exchange(process: subprocess.Popen[bytes], data: bytes, deadline: float, limit: int) -> tuple[bytes, bytes]:
    """Feeds and reads until both outputs have ended. OverflowError: more than ``limit`` bytes on one of them."""
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    outputs = {process.stdout: bytearray(), process.stderr: bytearray()}
    rest = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for stream, collected in outputs.items():
            selector.register(stream, selectors.EVENT_READ, collected)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.data is None:
                    rest = rest[_write_some(key.fd, rest) :]
                    ended = not rest
                else:
                    part = os.read(key.fd, READ_BYTES)
                    key.data.extend(part)
                    ended = not part
                    if len(key.data) > limit:
                        raise OverflowError
                if ended:
                    selector.unregister(key.fileobj)
                    if key.data is None and process.stdin is not None:
                        process.stdin.close()
    return bytes(outputs[process.stdout]), bytes(outputs[process.stderr])


def _write_some(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data[:READ_BYTES])
    except BrokenPipeError:  # it did not want to read: its exit code tells
        return len(data)


# Environments


def child_environment(
    extra: Mapping[str, str] | None = None,
    *,
    home: Path | None = None,
    temporary: Path | None = None,
    allow: Iterable[str] = (),
) -> dict[str, str]:
    """An environment from an allow-list: nothing of ours gets through that is not named here.

    PATH, TZ and USER come from our own environment, and so do the names in ``allow`` (a profile that needs a key names
    it); HOME is ``home``, TMPDIR is ``temporary``, each left out when not given; the locale and the terminal are fixed.
    ``extra`` is added last and wins.
    """
    found = {name: os.environ[name] for name in (*INHERITED_VARIABLES, *allow) if name in os.environ}
    found.setdefault("PATH", os.defpath)
    found |= {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    if home is not None:
        found["HOME"] = str(home)
    if temporary is not None:
        found["TMPDIR"] = str(temporary)
    return found | dict(extra or {})


# Tools


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A tool to be started. The environment is taken as it is, plus ``SWELL_ATTEMPT=<marker>``.

    Standard input is the file ``stdin``, or nothing at all: several tools wait for ever on an open pipe.
    ``timeout_s`` is the limit on the whole, ``idle_timeout_s`` on time without progress (None: no limit): no output, no
    CPU time worth the name, no change below ``cwd``; ``grace_s`` is what lies between SIGTERM and SIGKILL. ``output_bytes`` limits what is kept of each of the two outputs: more is
    drained and counted, its beginning and its end are kept, and a mark between them says how much is missing.
    ``memory_bytes`` limits the private writable memory of each process (RLIMIT_DATA), ``processes`` its processes: at
    once by what the kernel counts, which are all of the user it runs as, and none of root's (RLIMIT_NPROC); and within a
    fraction of a second by our own count, upon which it is killed (``Exit.ended_by`` "processes").
    ``ring_bytes``: so many of the newest bytes that ``output_bytes`` left no room for can be followed while the tool runs,
    in a ring beside each output's file (services.executor.output); 0 for none.
    ``wrapped``: ``argv`` starts a sandbox around the tool, which SIGTERM must spare. ``offline``: in a network namespace of
    its own in which not even the loopback is up; needs what "pidns" needs.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    stdin: Path | None = None
    stdout: Path
    stderr: Path
    timeout_s: float
    idle_timeout_s: float | None = None
    grace_s: float = 5.0
    output_bytes: int
    ring_bytes: int = 0
    memory_bytes: int | None = None
    processes: int | None = None
    wrapped: bool = False
    offline: bool = False
    marker: str


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a tool ended; when this is known, the last of its processes is dead.

    ``exit_code`` is None when a signal ended the tool, ``signal`` when none did, both when its end was not seen. They
    mean something only when ``ended_by`` is "itself": many tools answer SIGTERM with exit code 0. ``survivors`` counts
    the processes that were still there when the main one had ended, and were killed. The ``*_bytes`` of the outputs
    are what was printed, not what was kept.
    """

    exit_code: int | None
    signal: int | None
    ended_by: EndedBy
    wall_s: float
    cpu_s: float
    max_rss_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    stdout_truncated: bool
    stderr_truncated: bool
    survivors: int


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Any line of the supervisor, before its kind is looked at."""

    op: Literal["ready", "started", "refused", "exit"]
    id: int = -1
    mode: Literal["pidns", "sweep"] = "sweep"
    pid: int = 0
    kind: Literal["not_found", "failed"] = "failed"
    message: str = ""


_answers = msgspec.json.Decoder(_Answer)
_exits = msgspec.json.Decoder(Exit)


class Tool:
    """A started tool. ``pid`` is its first process as the supervisor sees it, for logs; ``wrapped`` is as in its Launch."""

    def __init__(self, supervisor: "Supervisor", key: int, launch: Launch) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.marker = launch.marker
        self.wrapped = launch.wrapped
        self._supervisor = supervisor
        self._key = key
        self.started: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()

    async def wait(self) -> Exit:
        """How it ended. Cancelling the wait does not stop the tool."""
        return await asyncio.shield(self.ended)

    def stop(self, reason: StopReason = "cancel", *, grace_s: float | None = None) -> None:
        """SIGTERM to the whole tree, SIGKILL after the grace; ``reason`` becomes ``Exit.ended_by``. Returns at once.

        ``grace_s`` can only shorten the grace that the tool was started with.
        """
        if not self.ended.done():
            self._supervisor.send({"op": "stop", "id": self._key, "reason": reason, "grace_s": grace_s})


class Supervisor:
    """The supervisor process of one executor, started before anything else of it.

    ``containment`` is a setting: "pidns" or "sweep" insist, "auto" takes what can be had; ``mode`` says what it is.
    """

    def __init__(self, containment: Containment = "auto") -> None:
        self.mode: Literal["pidns", "sweep"] = "sweep"
        self._containment = containment
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._linked = False
        self._tools: dict[int, Tool] = {}
        self._next_key = 0

    async def start(self) -> None:
        """Starts the process and learns the mode.

        Raises:
            SupervisorGoneError: it ended, or said nothing for ten seconds; its standard error says why.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-X", "utf8", str(_SCRIPT), "serve", self._containment),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        try:
            async with asyncio.timeout(SUPERVISOR_START_S):
                line = await reader.readline()
        except TimeoutError:
            line = b""
        if not line:
            await self.close()
            raise SupervisorGoneError("the tool supervisor did not start. Its standard error says why.")
        self.mode = _answers.decode(line).mode
        self._linked = True
        self._listener = asyncio.create_task(self._listen(reader))

    @property
    def alive(self) -> bool:
        """Whether tools can be started."""
        return self._linked

    @property
    def pid(self) -> int:
        """Its process; 0 before the start."""
        return 0 if self._process is None else self._process.pid

    async def gone(self) -> None:
        """Returns when the process or the link to it has ended, whoever ended it, and every tool is dead and told.

        Returns at once where nothing was started. Cancelling it ends nothing.
        """
        if self._listener is not None:
            await asyncio.wait({self._listener})

    async def spawn(self, launch: Launch) -> Tool:
        """Starts a tool; returns when it is executing. Cancelling it stops the tool and waits until that is dead.

        Raises:
            ProgramMissingError: the program is not on the PATH of ``launch.env``.
            SpawnError: it is there, and could not be started; or command line and environment exceed 16 MiB.
            SupervisorGoneError: there is no supervisor.
        """
        if not self.alive:
            raise SupervisorGoneError("the tool supervisor is not running. Start a new one.")
        key = self._next_key + 1
        request = _encoded({"op": "spawn", "id": key, **msgspec.to_builtins(launch, enc_hook=str)})
        self._next_key = key
        tool = self._tools[key] = Tool(self, key, launch)
        self._write(request)
        try:
            await asyncio.shield(tool.started)
        except asyncio.CancelledError:
            tool.stop()  # the caller will never hold it, so nobody else could
            with contextlib.suppress(ProcessError):  # refused: there is nothing to be waited for
                await asyncio.shield(tool.started)
                await tool.wait()
            raise
        return tool

    async def close(self) -> None:
        """Ends every tool and the process; returns when all are dead."""
        await self._end()
        if self._listener is not None:
            await self._listener

    async def _end(self) -> None:
        """Closes the link, upon which the process ends its tools and itself; kills it when it does not."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            try:
                async with asyncio.timeout(SUPERVISOR_END_S):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    def send(self, message: dict[str, object]) -> None:
        self._write(_encoded(message))

    def _write(self, line: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            # An answer that is too long or cannot be read is no better than none: nothing after it can be trusted.
            with contextlib.suppress(OSError, ValueError):
                while line := await reader.readline():
                    self._take(line)
        finally:
            self._linked = False
            try:
                await self._end()  # where only the link is broken, its tools live: it knows those without a marker
            finally:
                await self._bury()

    def _take(self, line: bytes) -> None:
        answer = _answers.decode(line)
        tool = self._tools.get(answer.id)
        if tool is None:
            return
        match answer.op:
            case "started":
                tool.pid = answer.pid
                _settle(tool.started, None)
            case "refused":
                del self._tools[answer.id]
                failure = (
                    ProgramMissingError(f"{answer.message}. Install it, or put its folder on the tool's PATH.")
                    if answer.kind == "not_found"
                    else SpawnError(f"cannot start the tool: {answer.message}")
                )
                if not tool.started.done():
                    tool.started.set_exception(failure)
            case "exit":
                del self._tools[answer.id]
                _settle(tool.started, None)
                _settle(tool.ended, _exits.decode(line))
            case "ready":
                return

    async def _bury(self) -> None:
        """The supervisor went first: what it left is killed from here, and every wait gets its answer."""
        markers = [tool.marker for tool in self._tools.values()]
        try:
            if markers:
                with contextlib.suppress(ProcessError):
                    await sweep(markers)
        finally:
            self._settle_all()

    def _settle_all(self) -> None:
        unseen = Exit(
            exit_code=None,
            signal=None,
            ended_by="supervisor",
            wall_s=0.0,
            cpu_s=0.0,
            max_rss_bytes=0,
            stdout_bytes=0,
            stderr_bytes=0,
            stdout_truncated=True,
            stderr_truncated=True,
            survivors=0,
        )
        for tool in self._tools.values():
            _settle(tool.started, None)
            _settle(tool.ended, unseen)
        self._tools.clear()


async def sweep(markers: Sequence[str]) -> dict[str, int]:
    """Kills every process that carries one of the markers; how many those were, by marker. None of them lives then.

    For when there is no supervisor that knows the tools: a process that has thrown its marker away is not found.

    Raises:
        ProcessError: some did not die.
    """
    killed: dict[str, int] = {}
    for start in range(0, len(markers), MARKERS_AT_ONCE):
        asked = markers[start : start + MARKERS_AT_ONCE]
        done = await run(
            [sys.executable, "-I", "-S", "-X", "utf8", str(_SCRIPT), "sweep", *asked],
            cwd=Path("/"),
            timeout_s=SUPERVISOR_END_S,
            output_bytes=LINE_BYTES,
        )
        if done.exit_code != 0:
            raise ProcessError(done.stderr.decode(errors="replace").strip()[-1000:] or "the sweep ended without a word")
        killed |= msgspec.json.decode(done.stdout, type=dict[str, int])
    return killed


def _encoded(message: dict[str, object]) -> bytes:
    """A message to the supervisor as a line. Raises SpawnError for what is no JSON, or longer than it reads.

    JSON in ASCII: half of a surrogate pair, which is how a file name that is not UTF-8 stands in a string, gets through.
    """
    try:
        line = json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except ValueError as error:
        raise SpawnError(f"cannot start the tool: {error}. Every limit must be a finite number.") from error
    if len(line) > REQUEST_BYTES:
        raise SpawnError(
            f"cannot start the tool: its command line and environment take {len(line)} bytes, more than the limit of "
            f"{REQUEST_BYTES}. Pass long texts in a file ({{prompt_file}}), and fewer files at once."
        )
    return line


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


# Parts of the system


class Service:
    """A running part of the system, started by ``spawn_service``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """The exit code, when it has ended."""
        return await self._process.wait()

    async def terminate(self, grace_s: float) -> int:
        """SIGTERM, and after ``grace_s`` seconds SIGKILL to its process group; the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                return await self._process.wait()
        except TimeoutError:
            _kill_group(self.pid)
            return await self._process.wait()


async def spawn_service(
    argv: Sequence[str], *, env: Mapping[str, str], log_file: Path, cwd: Path = Path("/")
) -> Service:
    """Starts a long-lived part of the system, appending both its outputs to ``log_file`` (mode 0600).

    It has a session of its own, so Ctrl-C reaches only the parent, which ends it in order; and it is killed by the
    kernel when the *thread* that started it ends, so call this from the main thread. The program is looked for on the
    PATH in ``env``; one that is missing shows as exit code 127 and a line in the log.

    Raises:
        SpawnError: the log file or the working folder cannot be used.
    """
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise SpawnError(f"cannot write the log {log_file}: {error}. Make its folder writable.") from error
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_SCRIPT), "tether", str(os.getpid()), *argv),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    except OSError as error:
        raise SpawnError(f"cannot start {argv[0]} in {cwd}: {error}. Check that the folder exists.") from error
    finally:
        os.close(log)
    return Service(process)


# Code of ours that is not let near anything


class Piped:
    """A process that is talked to through its pipes, started by ``spawn_piped``. ``stdout`` is what it says."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: "_Output", stderr: "_Output") -> None:
        self.pid = process.pid
        self.stdout = stdout.reader
        self._process = process
        self._outputs = (stdout, stderr)
        self._complaint = b""
        self._listening = asyncio.create_task(self._listen(stderr.reader))

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while part := await stderr.read(READ_BYTES):
            self._complaint = (self._complaint + part)[-COMPLAINT_BYTES:]

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    async def send(self, data: bytes) -> None:
        """Writes to its standard input, which stays open; nothing happens when it does not read any more."""
        await asyncio.to_thread(self._send, data)

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def close_input(self) -> None:
        """Lets its standard input end."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        """SIGKILL to its process group."""
        if self._process.poll() is None:
            _kill_group(self.pid)

    async def end(self) -> tuple[int, str]:
        """Kills it if it lives; its exit code, negative for a signal, and the end of what it said on standard error."""
        self.kill()
        code = await asyncio.to_thread(self._process.wait)
        await self._listening
        self.close_input()
        for output in self._outputs:
            output.transport.close()
        return code, self._complaint.decode(errors="replace")


class _Output(msgspec.Struct, frozen=True):
    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport


async def spawn_piped(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], buffer_bytes: int) -> Piped:
    """Starts a program of ours; ``buffer_bytes`` bounds what is read of its output ahead of whoever takes it (twice that).

    Not by way of the event loop: uvloop forks, and a fork of a process in which gRPC has threads may die before it
    executes anything. Popen does not (vfork).

    Raises:
        SpawnError: the system refused, or the working folder is not there.
    """
    loop = asyncio.get_running_loop()
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond, and in a thread it could not be cancelled
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise SpawnError(
            f"cannot start {argv[0]} in {cwd}: {error}. Check that there is room for a process."
        ) from error
    outputs: list[_Output] = []
    try:
        for pipe in (process.stdout, process.stderr):
            reader = asyncio.StreamReader(limit=buffer_bytes)
            connected = functools.partial(asyncio.StreamReaderProtocol, reader)
            transport, _ = await loop.connect_read_pipe(connected, pipe)
            outputs.append(_Output(reader, transport))
    except BaseException:
        for output in outputs:
            output.transport.close()
        with process:  # closes what is left of its pipes
            _kill_group(process.pid)
        raise
    return Piped(process, *outputs)
