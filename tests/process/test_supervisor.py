"""Tools under the supervisor, in both containments, on real processes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest

from services import process
from services.executor import supervisor as script
from services.process import (
    Launch,
    ProgramMissingError,
    SpawnError,
    Supervisor,
    SupervisorGoneError,
    child_environment,
)


@pytest.fixture(params=["pidns", "sweep"])
async def supervisor(request):
    started = Supervisor(request.param)
    try:
        await started.start()
    except SupervisorGoneError:
        pytest.skip(f"{request.param} cannot be had here")
    yield started
    await started.close()


@pytest.fixture
def launch(tmp_path):
    def make(*argv, **options):
        settings = {
            "cwd": tmp_path,
            "env": child_environment(),
            "stdout": tmp_path / "out",
            "stderr": tmp_path / "err",
            "timeout_s": 30,
            "grace_s": 0.3,
            "output_bytes": 1_000_000,
            "marker": f"test/{tmp_path.name}/1",
        }
        return Launch(argv=tuple(map(str, argv)), **{**settings, **options})

    return make


def living(marker: str) -> list[int]:
    """Processes whose environment carries the marker, zombies apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"SWELL_ATTEMPT={marker}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for child in found for below in descendants(child)]


async def run(supervisor, launch):
    return await (await supervisor.spawn(launch)).wait()


async def until(condition, timeout_s=8.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.005)


async def test_reports_how_a_tool_ended(supervisor, launch, tmp_path):
    ended = await run(supervisor, launch("sh", "-c", "echo out; echo oops >&2; exit 7"))
    assert (ended.exit_code, ended.signal, ended.ended_by) == (7, None, "itself")
    assert (tmp_path / "out").read_text() == "out\n"
    assert (tmp_path / "err").read_text() == "oops\n"
    assert (ended.stdout_bytes, ended.stderr_bytes, ended.survivors) == (4, 5, 0)
    assert not ended.stdout_truncated
    assert 0 < ended.wall_s < 5
    assert ended.max_rss_bytes > 0


async def test_reports_a_signal(supervisor, launch):
    ended = await run(supervisor, launch("sh", "-c", "kill -SEGV $$"))
    assert (ended.exit_code, ended.signal, ended.ended_by) == (None, signal.SIGSEGV, "itself")


async def test_a_missing_program_is_typed(supervisor, launch):
    with pytest.raises(ProgramMissingError, match="no-such-tool"):
        await supervisor.spawn(launch("no-such-tool"))
    with pytest.raises(ProgramMissingError, match="bin/none"):
        await supervisor.spawn(launch("bin/none"))


async def test_what_cannot_be_executed_is_typed(supervisor, launch, tmp_path):
    (tmp_path / "plain").write_text("text")
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(SpawnError):
        await supervisor.spawn(launch("./plain"))
    with pytest.raises(SpawnError):
        await supervisor.spawn(launch("./script"))
    with pytest.raises(SpawnError):
        await supervisor.spawn(launch("true", cwd=tmp_path / "absent"))
    with pytest.raises(SpawnError):
        await supervisor.spawn(launch("echo", "a\0b"))
    assert (await run(supervisor, launch("true"))).exit_code == 0


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
async def test_text_that_the_system_cannot_take_is_refused(supervisor, launch, tmp_path, bad):
    """Wherever it stands; the next tool starts all the same."""
    for wanted in (
        launch(bad),
        launch(f"bin/{bad}"),
        launch("echo", bad),
        launch("true", cwd=tmp_path / bad),
        launch("true", stdin=tmp_path / bad),
        launch("true", stdout=tmp_path / bad),
        launch("true", env={"PATH": bad}),
        launch("true", env={**child_environment(), "A": bad}),
        launch("true", env={**child_environment(), bad: "A"}),
        launch("true", marker=bad),
    ):
        with pytest.raises((SpawnError, ProgramMissingError)):
            await supervisor.spawn(wanted)
    assert (await run(supervisor, launch("true"))).exit_code == 0


async def test_text_that_is_not_utf_8_reaches_the_tool_as_it_is(supervisor, launch, tmp_path):
    text = os.fsdecode(b"caf\xe9")
    (tmp_path / text).write_text("in")
    await run(
        supervisor, launch("sh", "-c", 'printf %s "$1$A"; cat', "sh", text, env={**child_environment(), "A": text})
    )
    assert (tmp_path / "out").read_bytes() == b"caf\xe9caf\xe9"
    await run(supervisor, launch("cat", stdin=tmp_path / text))
    assert (tmp_path / "out").read_text() == "in"


@pytest.mark.parametrize("field", ["timeout_s", "idle_timeout_s", "grace_s", "memory_bytes", "processes"])
async def test_numbers_that_will_not_do_are_refused(supervisor, launch, field):
    """None of them is one; too large for a float, for a system call, and to be written out."""
    for number in (float("nan"), float("inf"), 10**400, 10**4400):
        with pytest.raises(SpawnError):
            await supervisor.spawn(launch("true", **{field: number}))
    assert (await run(supervisor, launch("true"))).exit_code == 0


async def test_limits_far_away_are_waited_for_in_pieces(supervisor, launch, tmp_path):
    """More milliseconds than the kernel counts, before and after the tool is asked to end."""
    script = "trap 'echo asked' TERM; echo ready; while ! test -e go; do sleep 0.01; done"
    tool = await supervisor.spawn(launch("sh", "-c", script, timeout_s=1e9, idle_timeout_s=1e8, grace_s=3e6))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    tool.stop()
    await until(lambda: "asked" in (tmp_path / "out").read_text())
    assert (await run(supervisor, launch("true", stdout=tmp_path / "other"))).exit_code == 0
    (tmp_path / "go").touch()
    assert (await tool.wait()).ended_by == "cancel"


async def test_a_request_beyond_the_limit_is_refused_with_a_remedy(supervisor, launch, tmp_path):
    other = await supervisor.spawn(launch("sleep", "60"))
    with pytest.raises(SpawnError, match=rf"more than the limit of {process.REQUEST_BYTES}.*prompt_file"):
        await supervisor.spawn(launch("echo", "x" * process.REQUEST_BYTES))
    with pytest.raises(SpawnError, match="too long"):
        await supervisor.spawn(launch("echo", "x" * (process.REQUEST_BYTES - 10_000)))
    assert not other.ended.done()
    assert (await run(supervisor, launch("true"))).exit_code == 0
    other.stop()
    await other.wait()


def test_both_sides_name_the_same_limit():
    assert script.REQUEST_BYTES == process.REQUEST_BYTES


async def test_a_refusal_is_short_whatever_it_is_about(supervisor, launch):
    """Longer than one line of the supervisor may be."""
    with pytest.raises(ProgramMissingError) as raised:
        await supervisor.spawn(launch("none", env={"PATH": "/x\udc80:" * 400_000}))
    assert len(str(raised.value)) < 1200
    with pytest.raises(ProgramMissingError) as raised:
        await supervisor.spawn(launch("/" + "\U0001f600" * 1_000_000))
    assert len(str(raised.value)) < 1200
    assert supervisor.alive


@pytest.mark.parametrize(
    "line", [b"x" * (process.LINE_BYTES + 1), b"no JSON\n", b'{"op": "started", "id": 1, "pid": []}\n']
)
async def test_a_link_that_cannot_be_read_ends_every_tool_and_every_wait(launch, line):
    """Whatever the supervisor may come to say, no attempt waits for ever and no tool runs on unseen."""
    supervisor = Supervisor("auto")
    await supervisor.start()
    tool = await supervisor.spawn(launch("sleep", "60"))
    supervisor._writer.transport.get_protocol().data_received(line)
    async with asyncio.timeout(8):
        assert (await tool.wait()).ended_by == "supervisor"
        await supervisor.gone()
    assert living(tool.marker) == []
    assert supervisor._process.returncode is not None
    with pytest.raises(SupervisorGoneError):
        await supervisor.spawn(launch("true"))
    await supervisor.close()


async def test_an_answer_about_no_tool_is_passed_over(supervisor, launch):
    supervisor._writer.transport.get_protocol().data_received(b'{"op": "started", "id": 99, "pid": 1}\n')
    assert (await run(supervisor, launch("true"))).exit_code == 0


async def test_gone_returns_when_the_supervisor_has_ended(supervisor, launch):
    tool = await supervisor.spawn(launch("sleep", "60"))
    watching = asyncio.create_task(supervisor.gone())
    given_up = asyncio.create_task(supervisor.gone())
    assert (await run(supervisor, launch("true"))).exit_code == 0
    assert not watching.done()
    given_up.cancel()
    await asyncio.wait({given_up})
    assert supervisor.alive
    os.kill(supervisor._process.pid, signal.SIGKILL)
    async with asyncio.timeout(8):
        await watching
    assert not supervisor.alive
    assert tool.ended.done()
    assert living(tool.marker) == []


async def test_gone_returns_after_close_and_before_start():
    supervisor = Supervisor("sweep")
    async with asyncio.timeout(8):
        await supervisor.gone()
        await supervisor.start()
        await supervisor.close()
        await supervisor.gone()


async def test_a_start_that_is_cancelled_goes_on_only_when_the_tool_is_dead(supervisor, launch):
    """At every moment of the start; and a tool that does not listen is killed after its grace."""
    wanted = launch("sh", "-c", "trap '' TERM; while :; do sleep 0.01; done", grace_s=0.2)
    for turns in range(6):
        starting = asyncio.create_task(supervisor.spawn(wanted))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert living(wanted.marker) == []
        assert supervisor._tools == {}
    starting = asyncio.create_task(supervisor.spawn(launch("no-such-tool")))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert supervisor._tools == {}


async def test_the_program_is_looked_for_on_the_tools_own_path(supervisor, launch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mine").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "bin" / "mine").chmod(0o755)
    await run(supervisor, launch("mine", env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}))
    assert (tmp_path / "out").read_text() == "mine\n"


async def test_a_tool_gets_its_environment_and_the_marker_and_nothing_else(supervisor, launch, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    await run(supervisor, launch("env", env={"PATH": "/usr/bin:/bin", "A": "ä"}))
    lines = set((tmp_path / "out").read_text().splitlines())
    assert lines == {"PATH=/usr/bin:/bin", "A=ä", f"SWELL_ATTEMPT=test/{tmp_path.name}/1"}


async def test_a_tool_inherits_no_descriptor_and_no_blocked_or_ignored_signal(supervisor, launch, tmp_path):
    program = (
        "import os, re\n"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:3], os.path.exists('/proc/self/fd/4'))\n"
        "print(os.read(0, 10), os.getsid(0) == os.getpid())\n"
        "status = open('/proc/self/status').read()\n"
        "print(re.findall(r'SigBlk:\\s*(\\w+)', status))"
    )
    await run(supervisor, launch("/usr/bin/env", "python3", "-I", "-c", program))
    assert (tmp_path / "out").read_text().splitlines() == ["[0, 1, 2] False", "b'' True", "['0000000000000000']"]


async def test_a_file_can_be_standard_input(supervisor, launch, tmp_path):
    (tmp_path / "in").write_text("prompt")
    await run(supervisor, launch("cat", stdin=tmp_path / "in"))
    assert (tmp_path / "out").read_text() == "prompt"


async def test_output_beyond_the_limit_is_drained_counted_and_marked(supervisor, launch, tmp_path):
    program = "import sys\nfor _ in range(3000): sys.stdout.buffer.write(b'x' * 100_000)\nprint('the end')"
    ended = await run(supervisor, launch(sys.executable, "-c", program, output_bytes=100_000))
    assert ended.exit_code == 0
    assert ended.stdout_bytes == 300_000_000 + len("the end\n")
    assert ended.stdout_truncated
    kept = (tmp_path / "out").read_bytes()
    assert len(kept) < 100_200
    assert kept.startswith(b"x" * 1000)
    assert b"bytes left out here]" in kept
    assert kept.endswith(b"the end\n")


async def test_output_of_exactly_the_limit_is_whole(supervisor, launch, tmp_path):
    ended = await run(supervisor, launch("printf", "%0100d", "7", output_bytes=100))
    assert not ended.stdout_truncated
    assert len((tmp_path / "out").read_bytes()) == 100


async def test_time_out_ends_a_tool(supervisor, launch):
    ended = await run(supervisor, launch("sleep", "60", timeout_s=0.2))
    assert ended.ended_by == "timeout"
    assert ended.wall_s < 2


async def test_silence_ends_a_tool_and_output_postpones_it(supervisor, launch):
    ended = await run(
        supervisor, launch("sh", "-c", "for i in 1 2 3 4; do echo; sleep 0.15; done; sleep 60", idle_timeout_s=0.4)
    )
    assert ended.ended_by == "idle"
    assert 0.8 < ended.wall_s < 5
    assert ended.stdout_bytes == 4


async def test_stop_gives_the_tool_its_grace(supervisor, launch, tmp_path):
    """SIGTERM reaches the tool, which may still say its last word; the exit code it then has is not taken for its own."""
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    tool = await supervisor.spawn(launch("sh", "-c", script, grace_s=5))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    tool.stop()
    ended = await tool.wait()
    assert ended.ended_by == "cancel"
    assert ended.wall_s < 4
    assert (tmp_path / "out").read_text() == "ready\nbye\n"


# Progress


@pytest.mark.parametrize(
    "working",
    [
        "end = time.monotonic() + 2.5\nwhile time.monotonic() < end: pass",
        "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 2.4: pass'])",
        "for n in range(25): time.sleep(0.1); open('file', 'w').write('same')",
        "for n in range(25): time.sleep(0.1); pathlib.Path('a/b', str(n)).mkdir(parents=True)",
        "for n in range(25): time.sleep(0.1); print(n, flush=True)",
    ],
)
async def test_a_tool_that_makes_progress_is_not_idle(supervisor, launch, working):
    """CPU time, its own or that of a child; a changed file or folder; output."""
    program = f"import pathlib, subprocess, sys, time\n{working}"
    ended = await run(supervisor, launch(sys.executable, "-c", program, idle_timeout_s=2.0))
    assert (ended.ended_by, ended.exit_code) == ("itself", 0)


async def test_time_in_which_the_machine_stood_still_is_not_idle_time(supervisor, launch, tmp_path):
    """A frozen machine freezes the tool as well: once it goes on, the tool has its chance to go on too."""
    working = "import time; open('ready', 'w'); time.sleep(1.5); print()"
    tool = await supervisor.spawn(launch(sys.executable, "-c", working, idle_timeout_s=2.0))
    await until((tmp_path / "ready").exists)
    await asyncio.sleep(0.8)  # a look has seen that file
    frozen = [supervisor.pid, *descendants(supervisor.pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2.5)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.2)  # the supervisor first
    ended = await tool.wait()
    assert (ended.ended_by, ended.exit_code) == ("itself", 0)


@pytest.mark.parametrize(
    "idle",
    [
        "while :; do sleep 0.2; done",
        "(setsid sleep 600 &); sleep 600",
        "mkdir .git; while :; do sleep 0.2; echo x > .git/x; done",
        "while :; do sleep 0.2; cat big > /dev/null; done",
    ],
)
async def test_polling_and_reading_are_no_progress(supervisor, launch, tmp_path, idle):
    (tmp_path / "big").write_bytes(bytes(10_000))
    started = time.monotonic()
    ended = await run(supervisor, launch("sh", "-c", idle, idle_timeout_s=1.0))
    assert ended.ended_by == "idle"
    assert time.monotonic() - started < 6


async def test_progress_that_ends_is_followed_by_the_idle_limit(supervisor, launch):
    program = "import time\nwhile time.process_time() < 1: pass\ntime.sleep(600)"
    ended = await run(supervisor, launch(sys.executable, "-c", program, idle_timeout_s=0.6, timeout_s=60))
    assert ended.ended_by == "idle"
    assert ended.wall_s > 1.3


async def test_one_tools_progress_is_not_anothers(supervisor, launch, tmp_path):
    busy = await supervisor.spawn(
        launch(
            sys.executable, "-c", "while True: pass", cwd=tmp_path.parent, marker="test/busy/1", idle_timeout_s=1.0,
            stdout=tmp_path / "busy", stderr=tmp_path / "busy.err",
        )
    )  # fmt: skip
    ended = await run(supervisor, launch("sleep", "600", idle_timeout_s=1.0))
    assert ended.ended_by == "idle"
    assert not busy.ended.done()
    busy.stop()
    assert (await busy.wait()).ended_by == "cancel"


async def test_nothing_is_left_of_an_idle_tool(supervisor, launch, tmp_path):
    """It ignores SIGTERM, and its children left its session, its tree and its environment."""
    tool = await supervisor.spawn(launch(sys.executable, "-c", STUBBORN, "stay", idle_timeout_s=1.0, grace_s=0.5))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    assert len(descendants_of(supervisor._process.pid)) >= 5
    assert (await tool.wait()).ended_by == "idle"
    assert descendants_of(supervisor._process.pid) == []
    assert living(tool.marker) == []


async def test_a_stop_can_shorten_the_grace(supervisor, launch, tmp_path):
    script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
    tool = await supervisor.spawn(launch("sh", "-c", script, grace_s=60))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    tool.stop(grace_s=0.2)
    async with asyncio.timeout(8):
        assert (await tool.wait()).ended_by == "cancel"


async def test_a_sweep_counts_what_it_ended_by_marker(tmp_path):
    marked = [
        subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], "SWELL_ATTEMPT": f"{tmp_path.name}/{n}"})  # noqa: ASYNC220
        for n in (1, 1, 2)
    ]
    others = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - as above: to be swept, and not to be
    try:
        await until(lambda: len(living(f"{tmp_path.name}/")) == 3)
        swept = await process.sweep([f"{tmp_path.name}/{n}" for n in (1, 2, 3)])
        assert swept == {f"{tmp_path.name}/1": 2, f"{tmp_path.name}/2": 1, f"{tmp_path.name}/3": 0}
        assert [one.wait() for one in marked] == [-signal.SIGKILL] * 3
        assert others.poll() is None
        assert await process.sweep([]) == {}
    finally:
        for one in (*marked, others):
            one.kill()
            one.wait()


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
subprocess.Popen(sleeper)                                        # an ordinary child
subprocess.Popen(sleeper, start_new_session=True)                # one in a session of its own
if os.fork() == 0:                                               # a daemon: forked twice, its parent gone
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, sleeper, dict(os.environ))
    os._exit(0)
subprocess.Popen(sleeper, env={}, start_new_session=True)        # one that has thrown the marker away
os.wait()
print("ready", flush=True)
if sys.argv[1] == "stay":
    time.sleep(600)
"""


def descendants_of(pid: int) -> list[int]:
    """All living processes of this machine that descend from a process, by parent links."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


async def test_nothing_is_left_of_a_tool_that_ignores_sigterm_and_forks_away(supervisor, launch, tmp_path):
    tool = await supervisor.spawn(launch(sys.executable, "-c", STUBBORN, "stay", timeout_s=60, grace_s=0.5))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    everything = descendants_of(supervisor._process.pid)
    assert len(everything) >= 5
    stopped = time.monotonic()
    tool.stop("timeout")
    ended = await tool.wait()
    assert time.monotonic() - stopped < 0.5 + 1
    assert ended.ended_by == "timeout"
    assert descendants_of(supervisor._process.pid) == []
    assert living(tool.marker) == []


async def test_survivors_of_a_tool_that_ended_itself_are_killed_and_counted(supervisor, launch, tmp_path):
    ended = await run(supervisor, launch(sys.executable, "-c", STUBBORN, "go"))
    assert (ended.ended_by, ended.exit_code) == ("itself", 0)
    assert ended.survivors >= 4
    assert descendants_of(supervisor._process.pid) == []


async def test_the_end_of_one_tool_does_not_touch_another(supervisor, launch, tmp_path):
    other = launch("sh", "-c", "sleep 60 & echo ready; wait", stdout=tmp_path / "other", marker="test/other/1")
    staying = await supervisor.spawn(other)
    await until(lambda: (tmp_path / "other").read_text() == "ready\n")
    before = living("test/other/1")
    while len(before) != 2:  # between fork and exec a process has no environment to be known by
        await asyncio.sleep(0.005)
        before = living("test/other/1")
    await run(supervisor, launch(sys.executable, "-c", STUBBORN, "go"))
    assert living("test/other/1") == before
    staying.stop()
    assert (await staying.wait()).ended_by == "cancel"


async def test_close_ends_all_tools(supervisor, launch):
    tools = [await supervisor.spawn(launch("sleep", "60")) for _ in range(3)]
    await supervisor.close()
    assert [(await tool.wait()).ended_by for tool in tools] == ["supervisor"] * 3
    with pytest.raises(SupervisorGoneError):
        await supervisor.spawn(launch("true"))


async def test_tools_die_when_the_supervisor_is_killed(supervisor, launch, tmp_path):
    tool = await supervisor.spawn(launch(sys.executable, "-c", STUBBORN, "stay"))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    await until(lambda: len(living(tool.marker)) >= 4)
    everything = descendants_of(supervisor._process.pid)
    os.kill(supervisor._process.pid, signal.SIGKILL)
    try:
        assert (await tool.wait()).ended_by == "supervisor"
        await until(lambda: living(tool.marker) == [])
        assert not supervisor.alive
        if supervisor.mode == "pidns":
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything))
    finally:  # a sweep cannot find what has thrown its marker away, once nobody is its ancestor
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


EXECUTOR = """
import asyncio, sys
from pathlib import Path
from services.process import Launch, Supervisor, child_environment

async def main(mode, folder, program):
    supervisor = Supervisor(mode)
    await supervisor.start()
    tool = await supervisor.spawn(Launch(
        argv=(sys.executable, "-c", program, "stay"), cwd=folder, env=child_environment(), stdout=folder / "out",
        stderr=folder / "err", timeout_s=60, grace_s=0.3, output_bytes=1000, marker=f"test/{folder.name}/1"))
    await tool.wait()

asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
"""


async def test_tools_die_when_the_executor_is_killed(supervisor, tmp_path):
    """`supervisor` only chooses the containment here; the one under test belongs to the process that is killed."""
    argv = [sys.executable, "-c", EXECUTOR, supervisor.mode, tmp_path, STUBBORN]
    executor = subprocess.Popen(argv)  # noqa: ASYNC220 - it is to be killed
    out = tmp_path / "out"
    await until(lambda: out.exists() and out.read_text() == "ready\n")
    everything = descendants_of(executor.pid)
    assert len(everything) >= 6
    executor.kill()
    executor.wait()
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything))


async def test_limits_reach_the_tool(supervisor, launch, tmp_path):
    program = "import resource as r; print(r.getrlimit(r.RLIMIT_DATA)[0], r.getrlimit(r.RLIMIT_CORE)[0]); x = bytearray(1 << 30)"
    ended = await run(supervisor, launch(sys.executable, "-c", program, memory_bytes=200_000_000))
    assert (tmp_path / "out").read_text() == "200000000 0\n"
    assert ended.exit_code == 1
    assert "MemoryError" in (tmp_path / "err").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="the kernel counts all processes of this user, and refuses more")
async def test_a_tool_with_too_many_processes_is_ended(supervisor, launch, tmp_path):
    """The kernel does not hold root to a limit, so they are counted; as many as are allowed are no reason."""
    few = await supervisor.spawn(launch("sh", "-c", "for n in 1 2 3; do sleep 0.5 & done; wait", processes=4))
    many = launch("sh", "-c", "for n in $(seq 300); do sleep 60 & done; wait", processes=20, marker="crowd/1/1")
    ended = await (await supervisor.spawn(many)).wait()
    assert ended.ended_by == "processes"
    assert ended.wall_s < 10
    assert living("crowd/1/1") == []
    assert (await few.wait()).ended_by == "itself"


async def test_a_wrapper_is_spared_the_signal_that_the_tool_gets(supervisor, launch, tmp_path):
    """As of a sandbox, which would die of it and take the tool along before its grace is over."""
    inner = "trap 'echo graceful; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    tool = await supervisor.spawn(launch("sh", "-c", f'sh -c "{inner}"; exit $?', wrapped=True, grace_s=20.0))
    await until(lambda: (tmp_path / "out").read_text() == "ready\n")
    tool.stop()
    ended = await tool.wait()
    assert (ended.exit_code, ended.ended_by) == (5, "cancel")
    assert (tmp_path / "out").read_text() == "ready\ngraceful\n"


async def test_an_offline_tool_reaches_not_even_itself(supervisor, launch, tmp_path):
    if supervisor.mode == "sweep" and os.getuid() != 0:
        pytest.skip("needs a network namespace")
    script = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); socket.create_connection(s.getsockname())"
    assert (await (await supervisor.spawn(launch(sys.executable, "-c", script))).wait()).exit_code == 0
    ended = await (await supervisor.spawn(launch(sys.executable, "-c", script, offline=True))).wait()
    assert ended.exit_code == 1
    assert "unreachable" in (tmp_path / "err").read_text()


async def test_many_tools_at_once(supervisor, launch, tmp_path):
    """Sixty tools on eight lanes: none is confused with another."""

    async def lane(number):
        for turn in range(8):
            name = f"{number}-{turn}"
            settings = {"stdout": tmp_path / name, "stderr": tmp_path / f"{name}.err", "marker": f"test/{name}/1"}
            ended = await run(supervisor, launch("sh", "-c", f"echo {name}; exit {turn}", **settings))
            assert (ended.exit_code, (tmp_path / name).read_text()) == (turn, f"{name}\n")

    await asyncio.gather(*(lane(number) for number in range(8)))


async def test_containment_that_nobody_knows_is_refused_at_start():
    with pytest.raises(SupervisorGoneError, match="standard error"):
        await Supervisor("jail").start()  # type: ignore[arg-type]


SYSTEM_PYTHON = Path("/usr/bin/python3")  # the one of the virtual environment may lie where only root can read


@pytest.mark.skipif(os.getuid() != 0 or not SYSTEM_PYTHON.exists(), reason="needs root and the system's Python")
def test_a_user_without_privileges_gets_namespaces_inside_one_of_its_own(launch):
    """Spoken in the supervisor's own protocol, as another user."""
    script = Path(process.__file__).parent / "executor" / "supervisor.py"
    ours, theirs = socket.socketpair()
    with (
        ours,
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [SYSTEM_PYTHON, "-I", "-S", script, "serve", "pidns"],
            stdin=theirs,
            user=65534,
            group=65534,
            extra_groups=[],
        ) as running,
    ):
        theirs.close()
        answers = ours.makefile("rb")
        os.chown(folder, 65534, 65534)
        ready = answers.readline()
        if not ready:
            pytest.skip("this machine lets no ordinary user have a user namespace, or read the script")
        wanted = launch(
            SYSTEM_PYTHON,
            "-c",
            STUBBORN,
            "go",
            cwd=Path(folder),
            stdout=Path(folder) / "out",
            stderr=Path(folder) / "err",
            marker="test/unprivileged/1",
        )
        for key in range(3):
            request = {"op": "spawn", "id": key, **msgspec.to_builtins(wanted, enc_hook=str)}
            ours.sendall(msgspec.json.encode(request) + b"\n")
            assert msgspec.json.decode(answers.readline())["op"] == "started"
            ended = msgspec.json.decode(answers.readline())
            assert (ended["exit_code"], ended["survivors"]) == (0, 4)
            assert living("test/unprivileged/1") == []
        assert (Path(folder) / "out").stat().st_uid == 65534
        answers.close()
        ours.close()
        assert running.wait(5) == 0
