"""The process that starts tools, holds them to their limits, and leaves nothing of them behind.

It runs as a script of the standard library alone, beside one executor, and talks to it in JSON lines over the socket
that is its standard input. Being small and single-threaded, it forks cheaply and safely; being apart, it survives a
kill of the executor and then ends the tools itself.

    supervisor.py serve auto|pidns|sweep     start tools until the socket closes
    supervisor.py sweep MARKER …             kill every process whose environment carries one of the markers, and
                                             print how many those were: {"MARKER": n, …}
    supervisor.py tether PID PROGRAM …       become PROGRAM, and die when process PID, the parent, dies

Containment, in the order of preference:

* ``pidns``: every tool is the child of an init of its own in a PID namespace of its own. When the tool ends, its init
  ends, and the kernel kills whatever is left. PID 1 does not get default signal actions, hence an init of our own: it
  passes SIGTERM on to everybody, reaps, and reports how the tool ended. It dies with the supervisor.
* ``sweep``: the supervisor is a child subreaper, so every orphan of a tool becomes its child. When the tool ends, the
  orphans that carry its marker, or belong to its session, are killed with all their descendants, until none is left.
  An orphan that can be ascribed to nobody is killed too: what hid from us is not kept.

A tool that makes no progress for as long as it was told is ended. Progress is output, or CPU time of its processes, or
a change below the folder it was started in. The last two are looked for only while it prints nothing, LOOKS times in
each idle limit, and LOOKS looks in a row that find nothing end it: never one look after a machine that stood still, in
which the tool stood still as well. So a tool without progress is ended after the limit and at most 1/LOOKS more. A
change is told from what the last look found, not from a clock, which may be set back. CPU time counts from CPU_SHARE of one processor on (and CPU_MIN_S, the clock being coarse): a compiler or a test takes all of one, and a
wrapper that only polls, forking a `sleep` ten times a second, takes 1 to 2 %, and must not keep itself alive for ever.

A tool may be wrapped: its first program is a wrapper of ours (a sandbox) that passes no signal on and, when it dies, takes
the tool with it. SIGTERM then goes to everything but the wrapper, so that the tool has its grace.

The limit on processes is held more than once. RLIMIT_NPROC is exact, but the kernel does not apply it to root. So they are
counted, and a tool above its limit is ended without grace, in which what multiplies would multiply: by its init every
INIT_COUNT_S, with real-time priority where that can be had, for a fork bomb leaves nobody else a turn; without one by the
supervisor every COUNT_S. And a PID namespace runs out of ids, from Linux 6.14 on.

Who follows an output while it comes needs what the file has no room for, too: where it is asked for, that goes to a ring
beside the file (NAME.ring): two numbers of eight bytes, little-endian, which are the position after the newest byte of the
output and the position of the first that is here; then a fixed number of bytes, in which byte n of the output stands at n
modulo that number, until a later one overwrites it.

Invariants: an exit is reported only after the last process of the tool is dead (an orphan that changed its environment
included); memory does not grow with a tool's output; a tool inherits no descriptor but 0, 1 and 2.
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from typing import Any

# Literals of <sched.h>, <sys/prctl.h> and <sys/mount.h>; Python 3.11 offers none of them.
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000

MARKER_VARIABLE = "SWELL_ATTEMPT"
PIPE_BYTES = 256 * 1024  # a fuller pipe costs fewer wake-ups; above the kernel's default of 64 KiB
RING_HEADER_BYTES = 16
TAIL_BYTES = 256 * 1024  # kept from the end of an output that is cut; tools print their result last
REQUEST_BYTES = 16 * 1024 * 1024  # one request: a command line and an environment (the kernel takes 2 MiB)
REFUSAL_CHARS = 1000
PAUSE_S = 3600.0  # the longest wait in one piece: the kernel counts milliseconds in 32 bits
DESCRIPTORS = 1 << 16
OUTPUT_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
SWEEP_PAUSE_S = 0.005
CLOSE_GRACE_S = 3.0  # for the tools, once the executor is gone
LOOKS = 4
CPU_SHARE = 0.03
CPU_MIN_S = 0.05
ENTRIES_LOOKED_AT = 4000  # files and folders below the tool's folder, breadth first; about 10 ms
COUNT_S = 0.1
INIT_COUNT_S = 0.02
THREADS = 32  # for each process that a tool may have, when ids are set aside: threads take one each
RESERVED_IDS = 301  # the least that a namespace may have
OWN_IDS_SINCE = (6, 14)  # before this version, writing the limit would change that of the whole machine
WRAPPER_PROCESSES = 2  # what a wrapper adds to the tool's own: itself, and the init of its namespace
TICKS_S = os.sysconf("SC_CLK_TCK")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
# What a request can make a system call raise: NUL and half of a surrogate pair are ValueErrors.
_UNUSABLE = (OSError, ValueError, OverflowError)
_buffer = bytearray(PIPE_BYTES)
_view = memoryview(_buffer)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _die_with_parent() -> None:
    _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class Stream:
    """One output of a tool, drained into a file: the beginning as it comes, and the end when it is cut."""

    __slots__ = ("fd", "file", "head_bytes", "ring", "ring_bytes", "tail", "tail_bytes", "total", "truncated")

    def __init__(self, fd: int, file: int, limit: int, ring: int | None = None, ring_bytes: int = 0) -> None:
        self.fd = fd
        self.file = file
        self.ring = ring
        self.ring_bytes = ring_bytes
        self.tail_bytes = min(limit // 4, TAIL_BYTES)
        self.head_bytes = limit - self.tail_bytes
        self.tail = bytearray()
        self.total = 0
        self.truncated = False

    def drain(self) -> int | None:
        """The number of bytes taken; 0 at the end of the stream, None when there is nothing now."""
        try:
            count = os.readv(self.fd, [_buffer])
        except BlockingIOError:
            return None
        room = max(self.head_bytes - self.total, 0)
        if room:
            self._write(_view[: min(room, count)])
        if count > room:
            self.tail += _view[room:count]
            if len(self.tail) > 2 * self.tail_bytes + PIPE_BYTES:
                del self.tail[: len(self.tail) - self.tail_bytes]
        self.total += count
        if count > room and self.ring is not None:
            self._lay(self.ring, _view[room:count])
        return count

    def finish(self) -> None:
        """Writes the end and, where bytes were left out before it, a mark that says how many."""
        while self.drain():
            pass
        left_out = self.total - self.head_bytes - self.tail_bytes
        if left_out > 0:
            self.truncated = True
            del self.tail[: len(self.tail) - self.tail_bytes]
            self._write(memoryview(b"\n[swell: %d bytes left out here]\n" % left_out))
        self._write(memoryview(self.tail))
        for fd in (self.fd, self.file, self.ring):
            if fd is not None:
                os.close(fd)

    def _lay(self, ring: int, data: memoryview) -> None:
        """What the file has no room for, each byte where its position leads, and then up to where it goes."""
        start = self.total - len(data)
        try:
            while data:
                at = start % self.ring_bytes
                piece = data[: self.ring_bytes - at]
                written = os.pwrite(ring, piece, RING_HEADER_BYTES + at)
                start += written
                data = data[written:]
            os.pwrite(ring, struct.pack("<QQ", self.total, self.head_bytes), 0)
        except OSError:  # the disk is full: who follows sees that nothing comes
            os.close(ring)
            self.ring = None

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(self.file, data) :]
        except OSError:  # the disk is full: the tool must still be drained, and what is missing must show
            self.truncated = True


class Tool:
    """A running tool, from the request to start it until its last process is dead."""

    __slots__ = (
        "counted",
        "cpu_s",
        "cwd",
        "deadline",
        "ended_by",
        "grace_s",
        "idle_s",
        "key",
        "kill_at",
        "killed",
        "last_progress",
        "looked",
        "looks",
        "marker",
        "newest",
        "outcome",
        "pid",
        "processes",
        "started",
        "streams",
        "survivors",
        "usage",
        "wall_s",
        "wrapped",
    )

    def __init__(self, request: dict[str, Any], now: float) -> None:
        self.key: int = request["id"]
        self.marker: str = request["marker"]
        self.pid = 0  # its init under `pidns`, the tool itself under `sweep`
        self.streams: list[Stream] = []
        self.cwd: str = request["cwd"]
        self.started = self.last_progress = self.looked = now
        self.looks = 0  # in a row that found nothing
        self.cpu_s = 0.0
        self.deadline = now + float(request["timeout_s"])
        self.idle_s = None if request["idle_timeout_s"] is None else float(request["idle_timeout_s"])
        self.newest = (0, 0) if self.idle_s is None else _newest(self.cwd)
        self.grace_s = float(request["grace_s"])
        self.processes: int | None = None  # set where nobody else counts them
        self.counted = now
        self.wrapped: bool = request["wrapped"]
        self.kill_at: float | None = None
        self.killed = False
        self.ended_by = "itself"
        self.outcome: int | None = None  # a wait status
        self.usage: resource.struct_rusage | None = None
        self.survivors = 0
        self.wall_s = 0.0

    def due(self) -> float:
        if self.killed:
            return float("inf")
        if self.kill_at is not None:
            return self.kill_at
        return min(self.deadline, self.look_due(), self.count_due())

    def look_due(self) -> float:
        if self.idle_s is None:
            return float("inf")
        return max(self.last_progress, self.looked) + self.idle_s / LOOKS

    def count_due(self) -> float:
        return float("inf") if self.processes is None else self.counted + COUNT_S

    def progressed(self, now: float) -> None:
        self.last_progress = now
        self.looks = 0

    def report(self) -> dict[str, object]:
        out, err = self.streams
        code = sign = None
        if self.outcome is not None:
            code = os.WEXITSTATUS(self.outcome) if os.WIFEXITED(self.outcome) else None
            sign = os.WTERMSIG(self.outcome) if os.WIFSIGNALED(self.outcome) else None
        usage = self.usage
        return {
            "op": "exit",
            "id": self.key,
            "exit_code": code,
            "signal": sign,
            "ended_by": self.ended_by,
            "wall_s": self.wall_s,
            "cpu_s": usage.ru_utime + usage.ru_stime if usage else 0.0,
            "max_rss_bytes": usage.ru_maxrss * 1024 if usage else 0,
            "stdout_bytes": out.total,
            "stderr_bytes": err.total,
            "stdout_truncated": out.truncated,
            "stderr_truncated": err.truncated,
            "survivors": self.survivors,
        }


class Refused(Exception):  # noqa: N818 - a request turned down is an answer, not an error of ours
    """The tool was not started; the first argument is ``not_found`` or ``failed``, the second says why."""


def _reason(reason: object) -> str:
    """A reason in at most 1,000 characters that every encoder takes; a path in it may hold anything."""
    return str(reason)[:REFUSAL_CHARS].encode(errors="backslashreplace").decode()[:REFUSAL_CHARS]


def _program(name: str, cwd: str, search: str) -> str:
    """The file to execute, as a shell would find it with the tool's own PATH and working folder."""
    if "/" in name:
        path = os.path.join(cwd, name)  # noqa: PTH118 - pathlib would be a third of this script's start
        if not os.path.exists(path):  # noqa: PTH110
            raise Refused("not_found", f"{name} does not exist")
        return path
    for folder in search.split(os.pathsep):
        path = os.path.join(cwd, folder, name)  # noqa: PTH118
        if folder and os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112
            return path
    raise Refused("not_found", f"{name} is in no folder of the tool's PATH ({search})")


def _limit(request: dict[str, Any]) -> None:
    # RLIMIT_DATA, not RLIMIT_AS: JavaScript engines reserve address space by the terabyte and use little of it.
    if request["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (request["memory_bytes"],) * 2)
    if request["processes"] is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (request["processes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _isolate(request: dict[str, Any]) -> None:
    if request["offline"]:
        _call("unshare", CLONE_NEWNET)


def _keep_count(processes: int) -> None:
    """Prepares the init of a namespace to see too many processes, whatever they do."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    release = os.uname().release.split(".")
    with contextlib.suppress(OSError, ValueError):
        if (int(release[0]), int(release[1])) >= OWN_IDS_SINCE:
            with open("/proc/sys/kernel/pid_max", "w") as file:  # noqa: PTH123 - as elsewhere: no pathlib here
                file.write(str(min(RESERVED_IDS + THREADS * processes, 1 << 22)))


def _crowded(request: dict[str, Any]) -> bool:
    most: int | None = request["processes"]
    if most is None:
        return False
    own: int = 1 + WRAPPER_PROCESSES * request["wrapped"]
    return sum(map(str.isdigit, os.listdir("/proc"))) > most + own  # noqa: PTH208 - as elsewhere


_PLAIN_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_HELD_SIGNALS = (signal.SIGTERM, signal.SIGCHLD)


def _private_mounts() -> None:
    """A /proc that shows the processes of this namespace, and nobody else sees."""
    _call("unshare", CLONE_NEWNS)
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _call("mount", b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def _nest() -> None:
    """Continues as the first process of a user and a PID namespace of our own; the outer copy waits for it.

    Both are needed: a user who is root only in its own user namespace may come back only to a PID namespace of that.
    """
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        file = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(file, text.encode())
        os.close(file)
    inner = os.fork()
    if inner:
        os.close(0)  # the executor must see the link close when the inner copy ends
        signal.signal(signal.SIGTERM, lambda *_: os.kill(inner, signal.SIGTERM))
        os._exit(abs(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])))
    _die_with_parent()
    _private_mounts()


def _fork_init() -> int:
    """Forks into a new PID namespace.

    Unsharing says where the next child goes; going back to our own namespace afterwards lets us do it again, and
    spares the process in between that would otherwise have to unshare and fork.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    pid = -1
    try:
        _call("unshare", CLONE_NEWPID)
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                _call("setns", own, CLONE_NEWPID)
    finally:
        os.close(own)
    return pid


def _can_contain(*, user_namespace: bool) -> bool:
    """Whether an init in a PID namespace can be had here, found out by making one."""
    probe = os.fork()
    if probe == 0:
        code = 1
        try:
            if user_namespace:
                _nest()
            init = _fork_init()
            if init == 0:
                _private_mounts()
                os._exit(0 if os.getpid() == 1 else 1)
            code = abs(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]))
        finally:  # whatever happened, the copy must not run on as a second supervisor
            os._exit(code)
    return os.waitpid(probe, 0)[1] == 0


def _establish(wanted: str) -> str:
    """The containment that is in force from now on."""
    if wanted == "sweep":
        return "sweep"
    if _can_contain(user_namespace=False):
        return "pidns"
    if _can_contain(user_namespace=True):
        _nest()
        return "pidns"
    if wanted == "pidns":
        raise SystemExit(
            "swell supervisor: containment = \"pidns\" was asked for, but neither root's nor a user's PID namespace can be"
            ' had here. Allow unprivileged user namespaces or CAP_SYS_ADMIN, or set containment = "auto".'
        )
    return "sweep"


def _become_init(request: dict[str, Any], program: str, streams: tuple[int, int], report: int) -> None:
    """The first process of a tool's namespace; never returns. Its end is the end of everything in it."""
    key = request["id"]
    try:
        _die_with_parent()
        os.dup2(request["input"], 0)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        if report != 3:
            report = os.dup2(report, 3, inheritable=False)
        os.closerange(4, DESCRIPTORS)
        _private_mounts()
        _isolate(request)
        os.chdir(request["cwd"])
        _limit(request)
        if request["processes"] is not None:
            _keep_count(request["processes"])
        main = os.posix_spawn(
            program, request["argv"], request["env"], setsid=True, setsigmask=(), setsigdef=_PLAIN_SIGNALS
        )
        # If the supervisor died before the death signal was asked for, nobody reads this: the write fails, and we end.
        os.write(report, b"%d started 0\n" % key)
        outcome = None
        pause = 2 * PAUSE_S if request["processes"] is None else INIT_COUNT_S
        while outcome is None:
            came = signal.sigtimedwait(_HELD_SIGNALS, pause)
            if _crowded(request):
                os.write(report, b"%d crowded 0\n" % key)
                return
            if came is not None and came.si_signo == signal.SIGTERM:
                if request["wrapped"]:
                    _terminate_all_but(main)
                else:
                    os.kill(-1, signal.SIGTERM)
            outcome = _reap_until(main)
        survivors = _count_others(wrapped=request["wrapped"])
        os.write(report, b"%d ended %d %d\n" % (key, outcome, survivors))
    except _UNUSABLE as error:
        os.write(report, b"%d failed %s\n" % (key, _reason(error).replace("\n", " ").encode()[:REFUSAL_CHARS]))
    finally:
        os._exit(0)


def _reap_until(main: int) -> int | None:
    """The wait status of the tool's main process, when it is among those that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == main:
            return status
        if pid == 0:
            return None


def _terminate_all_but(wrapper: int) -> None:
    for pid in _processes():
        if pid not in {os.getpid(), wrapper}:
            _signal(pid, signal.SIGTERM)


def _count_others(*, wrapped: bool) -> int:
    """How many live processes the namespace has beside this one, and beside the init that an ended wrapper leaves."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:  # no child: every process of the namespace descends from us, so there is none
        return 0
    others = [process for pid, process in _processes().items() if pid != 1 and process.state != "Z"]
    return sum(1 for process in others if not (wrapped and process.parent == 1))


class Process:
    """What /proc says of a process."""

    __slots__ = ("cpu_ticks", "parent", "session", "state")

    def __init__(self, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split(b" ", 15)
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.cpu_ticks = sum(map(int, fields[11:15]))  # its own, and that of children it has waited for


def _read(path: str) -> bytes:
    """The content of a file of /proc; empty when the process is gone or not ours to read."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(file, 65536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(file)


def _processes() -> dict[int, Process]:
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above: no pathlib here
        if name.isdigit() and (stat := _read(f"/proc/{name}/stat")):
            found[int(name)] = Process(stat)
    return found


def _marker_of(pid: int) -> str | None:
    prefix = MARKER_VARIABLE.encode() + b"="
    for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode(errors="replace")
    return None


def _newest(top: str) -> tuple[int, int]:
    """The youngest status below `top` and how many entries there are: another answer means that something changed.

    `.git` is left out, and so is what is beyond the bound. The time of the status, not that of the content: unpacking
    a file sets the latter to whenever it was packed.
    """
    folders = [top]
    newest = seen = 0
    for folder in folders:  # grows while it is read
        try:
            newest = max(newest, os.lstat(folder).st_ctime_ns)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if seen == ENTRIES_LOOKED_AT:
                        return newest, seen
                    seen += 1
                    if entry.name == ".git":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        newest = max(newest, entry.stat(follow_symlinks=False).st_ctime_ns)
        except OSError:  # gone meanwhile, which shows in its parent, or not ours to read
            continue
    return newest, seen


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # it has ended, or took another identity: nothing to be done here
        return


class Supervisor:
    """Starts tools on request and answers with how they ended. See the module for what holds."""

    def __init__(self, link: socket.socket, containment: str) -> None:
        self.link = link
        self.mode = _establish(containment)
        _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # a tool of the same user must not read other tools' environments
        self.selector = selectors.DefaultSelector()
        self.tools: dict[int, Tool] = {}
        self.by_pid: dict[int, Tool] = {}
        self.sweeping: list[Tool] = []
        self.received = bytearray()
        self.unsent = bytearray()
        self.closing = self.asked_to_close = self.child_ended = False
        self.report_in, self.report_out = os.pipe()
        os.set_blocking(self.report_in, False)
        self.reports = bytearray()
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.ask_to_close)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        link.setblocking(False)
        self.selector.register(link, selectors.EVENT_READ, self.receive)
        self.selector.register(self.report_in, selectors.EVENT_READ, self.read_reports)
        self.selector.register(wake_in, selectors.EVENT_READ, lambda: self.wake(wake_in))

    def serve(self) -> None:
        self.send({"op": "ready", "mode": self.mode})
        gc.freeze()
        while not (self.closing and not self.tools):
            due = min((tool.due() for tool in self.tools.values()), default=float("inf"))
            pause = None if due == float("inf") else min(max(due - time.monotonic(), 0), PAUSE_S)
            if self.sweeping:
                pause = SWEEP_PAUSE_S if pause is None else min(pause, SWEEP_PAUSE_S)
            for key, _ in self.selector.select(pause):
                key.data()
            if self.child_ended:  # only now: finishing a tool closes descriptors that this round may still have named
                self.child_ended = False
                self.reap()
            if self.asked_to_close:
                self.close()
            self.expire()
            for tool in self.sweeping[:]:
                self.sweep(tool)

    def ask_to_close(self, *_: object) -> None:
        # Only noted here: the signal may have come in the middle of a spawn.
        self.asked_to_close = True

    # The link to the executor

    def send(self, message: dict[str, object]) -> None:
        self.unsent += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        try:
            while self.unsent:
                del self.unsent[: self.link.send(self.unsent)]
        except BlockingIOError:
            if not self.closing:
                self.selector.modify(self.link, selectors.EVENT_READ | selectors.EVENT_WRITE, self.receive)
            return
        except OSError:
            self.unsent.clear()

    def receive(self) -> None:
        if self.unsent:
            self.flush()
            if not self.unsent:
                self.selector.modify(self.link, selectors.EVENT_READ, self.receive)
        try:
            data = self.link.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self.received) > REQUEST_BYTES:
            self.close()
            return
        self.received += data
        while (end := self.received.find(b"\n")) >= 0:
            line = bytes(self.received[:end])
            del self.received[: end + 1]
            self.obey(json.loads(line))

    def obey(self, request: dict[str, Any]) -> None:
        if request["op"] == "spawn":
            try:
                self.spawn(request)
            except Refused as refusal:
                self.refuse(request["id"], *refusal.args)
            except _UNUSABLE as error:
                self.refuse(request["id"], "failed", error)
        elif (tool := self.tools.get(request["id"])) is not None:
            self.stop(tool, request["reason"], request["grace_s"])

    def refuse(self, key: int, kind: str, reason: object) -> None:
        self.send({"op": "refused", "id": key, "kind": kind, "message": _reason(reason)})

    def close(self) -> None:
        """The executor is gone, or we are asked to go: end everything, then end."""
        if self.closing:
            return
        self.closing = True
        self.selector.unregister(self.link)
        for tool in self.tools.values():
            self.stop(tool, "supervisor", CLOSE_GRACE_S)

    # Starting

    def spawn(self, request: dict[str, Any]) -> None:
        program = _program(request["argv"][0], request["cwd"], request["env"].get("PATH", os.defpath))
        request["env"][MARKER_VARIABLE] = request["marker"]
        tool = Tool(request, time.monotonic())  # first: numbers that will not do must show before anything runs
        pipes: list[tuple[int, int]] = []
        files: list[int] = []
        rings: list[int | None] = []
        try:
            # O_NONBLOCK: a FIFO in the place of a file must not stop everything here.
            request["input"] = os.open(request["stdin"] or "/dev/null", os.O_RDONLY | os.O_NONBLOCK)
        except _UNUSABLE as error:
            raise Refused("failed", error) from error
        try:
            for name in ("stdout", "stderr"):
                files.append(os.open(request[name], OUTPUT_FLAGS, 0o600))
                rings.append(os.open(f"{request[name]}.ring", OUTPUT_FLAGS, 0o600) if request["ring_bytes"] else None)
                pipes.append(os.pipe())
            writers = (pipes[0][1], pipes[1][1])
            pid = (
                self.contained(request, program, writers)
                if self.mode == "pidns"
                else self.plain(request, program, writers)
            )
        except _UNUSABLE as error:
            for fd in (*files, *(ring for ring in rings if ring is not None), *(reader for reader, _ in pipes)):
                os.close(fd)
            raise Refused("failed", error) from error
        finally:
            for fd in (request["input"], *(writer for _, writer in pipes)):
                os.close(fd)
        for (reader, _), file, ring in zip(pipes, files, rings, strict=True):
            os.set_blocking(reader, False)
            with contextlib.suppress(OSError):  # the user's quota of pipe memory is spent: smaller pipes do as well
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            tool.streams.append(Stream(reader, file, request["output_bytes"], ring, request["ring_bytes"]))
        tool.pid = pid
        self.tools[tool.key] = self.by_pid[pid] = tool
        for stream in tool.streams:
            self.selector.register(stream.fd, selectors.EVENT_READ, lambda s=stream: self.drain(tool, s))
        if self.mode == "sweep":
            tool.processes = request["processes"]
            self.send({"op": "started", "id": tool.key, "pid": pid})

    def contained(self, request: dict[str, Any], program: str, writers: tuple[int, int]) -> int:
        """Forks the init of a new PID namespace."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
        try:
            pid = _fork_init()
            if pid == 0:
                _become_init(request, program, writers, self.report_out)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid

    def plain(self, request: dict[str, Any], program: str, writers: tuple[int, int]) -> int:
        """Forks and executes the tool; an error of the execution is raised here."""
        parent = os.getpid()
        error_in, error_out = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(error_in)
            os.close(error_out)
            raise
        if pid == 0:
            try:
                _die_with_parent()
                if os.getppid() != parent:
                    os._exit(1)
                os.setsid()
                os.dup2(request["input"], 0)
                os.dup2(writers[0], 1)
                os.dup2(writers[1], 2)
                for number in _PLAIN_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                _isolate(request)
                os.chdir(request["cwd"])
                _limit(request)
                os.execve(program, request["argv"], request["env"])  # noqa: S606 - no shell is the point
            except _UNUSABLE as error:
                os.write(error_out, _reason(error).encode()[:REFUSAL_CHARS])
            finally:
                os._exit(1)
        os.close(error_out)
        message = os.read(error_in, REFUSAL_CHARS)
        os.close(error_in)
        if message:
            os.waitpid(pid, 0)
            raise OSError(message.decode(errors="replace"))
        return pid

    # Watching

    def wake(self, fd: int) -> None:
        os.read(fd, 4096)
        self.child_ended = True

    def drain(self, tool: Tool, stream: Stream) -> None:
        count = stream.drain()
        if count:
            tool.progressed(time.monotonic())
        elif count == 0:
            self.selector.unregister(stream.fd)

    def read_reports(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.reports += os.read(self.report_in, 65536)
        *lines, rest = self.reports.split(b"\n")
        self.reports = bytearray(rest)
        for line in lines:
            key, what, detail = line.split(b" ", 2)
            tool = self.tools[int(key)]
            if what == b"started":
                self.send({"op": "started", "id": tool.key, "pid": tool.pid})
            elif what == b"failed":
                self.refuse(tool.key, "failed", detail.decode(errors="replace"))
                del self.tools[tool.key]
            elif what == b"crowded":
                tool.ended_by = "processes"
            else:
                tool.outcome, tool.survivors = map(int, detail.split())

    def reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            tool = self.by_pid.pop(pid, None)
            if tool is None:
                continue
            tool.usage = usage
            tool.wall_s = time.monotonic() - tool.started
            tool.killed = True
            if self.mode == "pidns":
                self.read_reports()  # what an init has to say it says before it ends
                self.finish(tool)
            else:
                tool.outcome = status
                self.sweeping.append(tool)

    def expire(self) -> None:
        now = time.monotonic()
        for tool in self.tools.values():
            if tool.due() > now:
                continue
            if tool.kill_at is not None:
                self.kill(tool)
            elif tool.deadline <= now:
                self.stop(tool, "timeout")
            elif tool.count_due() <= now and self.multiplies(tool, now):
                self.stop(tool, "processes", 0.0)
                self.kill(tool)
            elif tool.look_due() > now:
                continue
            elif self.advanced(tool, now):
                tool.progressed(now)
            else:
                tool.looks += 1
                if tool.looks >= LOOKS:
                    self.stop(tool, "idle")

    def multiplies(self, tool: Tool, now: float) -> bool:
        """Whether a tool has more processes than it may."""
        tool.counted = now
        own = WRAPPER_PROCESSES * tool.wrapped
        return tool.processes is not None and len(self.tree(tool, _processes())) > tool.processes + own

    def advanced(self, tool: Tool, now: float) -> bool:
        """Whether a tool that prints nothing has done anything since the last look."""
        everything = _processes()
        cpu_s = sum(everything[pid].cpu_ticks for pid in self.tree(tool, everything)) / TICKS_S
        since = max(tool.last_progress, tool.started)
        # What children used that nobody waited for is gone with them, so the sum may fall.
        tool.cpu_s = min(tool.cpu_s, cpu_s)
        worked = cpu_s - tool.cpu_s >= max(CPU_MIN_S, CPU_SHARE * (now - since))
        newest = _newest(tool.cwd)
        moved = worked or newest != tool.newest
        tool.looked, tool.newest = now, newest
        if moved:
            tool.cpu_s = cpu_s
        return moved

    # Ending

    def stop(self, tool: Tool, reason: str, grace_s: float | None = None) -> None:
        """SIGTERM now, SIGKILL after the tool's grace. A second reason does not replace the first."""
        if grace_s is not None:
            tool.grace_s = min(tool.grace_s, grace_s)
        if tool.kill_at is not None or tool.pid not in self.by_pid:
            return
        tool.ended_by = reason
        tool.kill_at = time.monotonic() + tool.grace_s
        if self.mode == "pidns":
            _signal(tool.pid, signal.SIGTERM)
        else:
            for pid in (*([] if tool.wrapped else [tool.pid]), *self.members(tool)):
                _signal(pid, signal.SIGTERM)

    def kill(self, tool: Tool) -> None:
        tool.killed = True
        if self.mode == "sweep":
            for pid in self.members(tool):
                _signal(pid, signal.SIGKILL)
        if tool.pid in self.by_pid:
            _signal(tool.pid, signal.SIGKILL)

    def sweep(self, tool: Tool) -> None:
        """One pass over what the ended tool left behind; the tool is finished when a pass finds nothing."""
        left = self.members(tool) if self.has_orphans() else ()
        for pid in left:
            _signal(pid, signal.SIGKILL)
        self.reap()
        if left:
            tool.survivors = max(tool.survivors, len(left))
        else:
            self.sweeping.remove(tool)
            self.finish(tool)

    def has_orphans(self) -> bool:
        """Whether we have children that are no tools. One small file answers, so an ordinary exit needs no scan."""
        pid = os.getpid()
        try:
            with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # noqa: PTH123 - as above
                children = file.read().split()
        except OSError:  # a kernel without that file: then only a scan can tell
            return True
        return any(int(child) not in self.by_pid for child in children)

    def members(self, tool: Tool) -> list[int]:
        """Every live process of the tool but its main one."""
        everything = _processes()
        return [pid for pid in self.tree(tool, everything) if pid != tool.pid and everything[pid].state != "Z"]

    def tree(self, tool: Tool, everything: dict[int, Process]) -> list[int]:
        """The tool's main process, its descendants, its orphans, and theirs."""
        children: dict[int, list[int]] = {}
        for pid, process in everything.items():
            children.setdefault(process.parent, []).append(pid)
        roots = [
            pid
            for pid in children.get(os.getpid(), ())
            if pid not in self.by_pid and self.owns(tool, pid, everything[pid])
        ]
        found = roots + [tool.pid] * (tool.pid in self.by_pid and tool.pid in everything)
        for pid in found:  # grows while it is read
            found += children.get(pid, ())
        return found

    def owns(self, tool: Tool, pid: int, orphan: Process) -> bool:
        marker = _marker_of(pid)
        if marker is not None:
            return marker == tool.marker
        if orphan.session in self.by_pid:
            return orphan.session == tool.pid
        return tool.pid not in self.by_pid  # nobody's: goes with whichever tool ends first

    def finish(self, tool: Tool) -> None:
        for stream in tool.streams:
            if stream.fd in self.selector.get_map():
                self.selector.unregister(stream.fd)
            stream.finish()
        if self.tools.pop(tool.key, None) is not None:
            self.send(tool.report())


def _sweep_markers(markers: list[str]) -> None:
    """Kills what carries a marker until a look finds nothing; for when there is no supervisor to do it."""
    killed: dict[str, set[int]] = {marker: set() for marker in markers}
    deadline = time.monotonic() + CLOSE_GRACE_S
    while time.monotonic() < deadline:
        alive = [pid for pid, process in _processes().items() if process.state != "Z"]
        found = [(pid, marker) for pid in alive if (marker := _marker_of(pid)) in killed]
        if not found:
            sys.stdout.write(json.dumps({marker: len(pids) for marker, pids in killed.items()}))
            return
        for pid, marker in found:
            _signal(pid, signal.SIGKILL)
            killed[marker].add(pid)
        time.sleep(SWEEP_PAUSE_S)
    raise SystemExit("swell supervisor: some processes did not die; look for those in state D with ps -eo pid,stat,cmd")


def _tether(parent: int, argv: list[str]) -> None:
    _die_with_parent()
    if os.getppid() != parent:
        return
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - as above
    except OSError as error:
        code = 127 if error.errno == errno.ENOENT else 126
        sys.stderr.write(f"swell: cannot run {argv[0]}: {error}. Install it or put its folder on PATH.\n")
        raise SystemExit(code) from error


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve", ("auto" | "pidns" | "sweep") as containment]:
            Supervisor(socket.socket(fileno=0), containment).serve()
        case ["sweep", *markers]:
            _sweep_markers(markers)
        case ["tether", parent, _, *_]:
            _tether(int(parent), arguments[2:])
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
