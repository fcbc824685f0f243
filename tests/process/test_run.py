"""Short trusted helpers: `run` and `run_sync`; and `spawn_piped`, whose output is taken as it comes."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from services.process import (
    Completed,
    ProgramMissingError,
    ProgramOutputError,
    ProgramTimeoutError,
    SpawnError,
    child_environment,
    run,
    run_sync,
    spawn_piped,
)

ROOT = Path("/")
ENV = {"PATH": os.environ["PATH"]}


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.005)


async def _run(argv, way, **options) -> Completed:
    settings = {"cwd": ROOT, "timeout_s": 10, "output_bytes": 10_000_000, **options}
    if way == "sync":
        return await asyncio.to_thread(run_sync, argv, **settings)
    return await run(argv, **settings)


@pytest.fixture(params=["async", "sync"])
def way(request):
    return request.param


async def test_gives_exit_code_and_both_outputs(way):
    done = await _run(["sh", "-c", "echo out; echo err >&2; exit 3"], way)
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


async def test_a_signal_is_a_negative_exit_code(way):
    assert (await _run(["sh", "-c", "kill -9 $$"], way)).exit_code == -9


async def test_feeds_more_than_a_pipe_holds_while_reading(way):
    data = bytes(range(256)) * 4000
    assert (await _run(["cat"], way, stdin=data)).stdout == data


async def test_a_helper_that_does_not_read_its_input_is_no_error(way):
    assert (await _run(["true"], way, stdin=b"x" * 1_000_000)).exit_code == 0


async def test_stdin_is_closed_by_default(way):
    assert (await _run(["cat"], way)).stdout == b""


async def test_a_missing_program_is_named_with_a_remedy(way):
    with pytest.raises(ProgramMissingError, match=r"no-such-program.*Install it"):
        await _run(["no-such-program"], way)


async def test_a_missing_folder_is_not_a_missing_program(way):
    with pytest.raises(SpawnError, match=r"/no/such/folder.*Create it"):
        await _run(["true"], way, cwd=Path("/no/such/folder"))


async def test_a_file_that_may_not_be_executed_is_a_spawn_error(way, tmp_path):
    (tmp_path / "plain").write_text("text")
    with pytest.raises(SpawnError, match="plain"):
        await _run([str(tmp_path / "plain")], way)


async def test_time_out_kills_the_whole_group(way, tmp_path):
    """A child in the background holds the pipes, and is killed with the helper."""
    pid = tmp_path / "pid"
    with pytest.raises(ProgramTimeoutError, match=r"0\.3 s"):
        await _run(["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], way, timeout_s=0.3)
    await until(lambda: gone(int(pid.read_text())))


async def test_too_much_output_is_refused_not_cut(way):
    with pytest.raises(ProgramOutputError, match="output_bytes"):
        await _run([sys.executable, "-c", "print('x' * 100_000)"], way, output_bytes=1000)


async def test_cancelling_kills_the_group(tmp_path):
    pid = tmp_path / "pid"
    task = asyncio.create_task(_run(["sh", "-c", f"echo $$ > {pid}; exec sleep 60"], "async", timeout_s=60))
    await until(lambda: pid.exists() and pid.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: gone(int(pid.read_text())))


async def test_a_helper_costs_a_few_milliseconds_at_most():
    """The target is 3 ms; the bound leaves room for a busy machine."""
    started = time.monotonic()
    for _ in range(50):
        await _run(["true"], "async")
    assert (time.monotonic() - started) / 50 < 0.02


def test_the_environment_is_an_allow_list(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("API_KEY", "key")
    found = child_environment({"MORE": "1"}, home=tmp_path, temporary=tmp_path / "t", allow=["API_KEY", "ABSENT"])
    assert "SECRET_TOKEN" not in found
    assert found["API_KEY"] == "key"
    assert found["MORE"] == "1"
    assert found["HOME"] == str(tmp_path)
    assert found["TMPDIR"] == str(tmp_path / "t")
    assert (found["LANG"], found["LC_ALL"], found["TERM"]) == ("C.UTF-8", "C.UTF-8", "dumb")
    assert set(found) <= {
        "API_KEY", "HOME", "LANG", "LC_ALL", "MORE", "PATH", "TERM", "TMPDIR", "TZ", "USER"
    }  # fmt: skip


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def test_a_helper_that_never_stops_printing_does_not_hold_its_caller(tmp_path):
    """Twenty times, since it is a race: what is left in the pipes of a killed helper must not be waited for."""
    for _ in range(20):
        with pytest.raises(ProgramOutputError):
            async with asyncio.timeout(15):
                await run(["sh", "-c", "yes"], cwd=tmp_path, timeout_s=20, output_bytes=1 << 20)


async def test_a_piped_process_is_talked_to_and_ends_when_it_is_told():
    process = await spawn_piped(
        ["sh", "-c", "read said; echo oops >&2; echo $said; sleep 60"], cwd=ROOT, env=ENV, buffer_bytes=99
    )
    await process.send(b"hello\n")
    assert await process.stdout.readline() == b"hello\n"
    assert await process.end() == (-9, "oops\n")


async def test_a_piped_process_waits_for_who_reads_it():
    """What nobody takes stays with the process: here never more than its pipe and twice the buffer."""
    process = await spawn_piped(["sh", "-c", "yes; echo unreached"], cwd=ROOT, env=ENV, buffer_bytes=1000)
    await asyncio.sleep(0.2)
    assert len(process.stdout._buffer) < 300_000
    code, complaint = await process.end()
    assert (code, complaint) == (-9, "")


async def test_a_piped_process_that_has_ended_tells_how():
    process = await spawn_piped(["sh", "-c", "exit 7"], cwd=ROOT, env=ENV, buffer_bytes=99)
    assert await process.stdout.read() == b""
    await process.send(b"too late")
    async with asyncio.timeout(5):
        while process.exit_code is None:  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.005)
    assert await process.end() == (7, "")


async def test_a_piped_process_that_cannot_start_says_so(tmp_path):
    with pytest.raises(SpawnError, match="cannot start"):
        await spawn_piped(["sh"], cwd=tmp_path / "none", env=ENV, buffer_bytes=99)
