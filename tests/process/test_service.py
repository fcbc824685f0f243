"""Long-lived parts of the system, tied to the life of their parent."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.process import SpawnError, child_environment, spawn_service


async def until(condition):
    async with asyncio.timeout(8):
        while not condition():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.005)


async def test_runs_with_its_environment_and_logs_both_outputs(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    service = await spawn_service(
        ["sh", "-c", "echo $NAME; echo err >&2; exit 4"], env=child_environment({"NAME": "me"}), log_file=log
    )
    assert await service.wait() == service.exit_code == 4
    assert sorted(log.read_text().splitlines()) == ["before", "err", "me"]


async def test_terminate_asks_first(tmp_path):
    log = tmp_path / "log"
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    service = await spawn_service(["sh", "-c", script], env=child_environment(), log_file=log)
    await until(lambda: log.read_text() == "ready\n")
    assert await service.terminate(5) == 0
    assert log.read_text() == "ready\nbye\n"


async def test_terminate_kills_what_does_not_listen(tmp_path):
    log = tmp_path / "log"
    service = await spawn_service(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"], env=child_environment(), log_file=log
    )
    await until(lambda: log.read_text() == "ready\n")
    assert await service.terminate(0.1) == -signal.SIGKILL


async def test_a_missing_program_shows_in_the_log(tmp_path):
    service = await spawn_service(["no-such-service"], env=child_environment(), log_file=tmp_path / "log")
    assert await service.wait() == 127
    assert "no-such-service" in (tmp_path / "log").read_text()


async def test_a_log_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(SpawnError, match="writable"):
        await spawn_service(["true"], env=child_environment(), log_file=tmp_path / "absent" / "log")


PARENT = """
import asyncio, sys
from pathlib import Path
from services.process import child_environment, spawn_service

async def main():
    service = await spawn_service(["sleep", "600"], env=child_environment(), log_file=Path(sys.argv[1]))
    print(service.pid, flush=True)
    await service.wait()

asyncio.run(main())
"""


async def test_a_service_dies_with_its_parent(tmp_path):
    argv = [sys.executable, "-c", PARENT, tmp_path / "log"]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it is to be killed
    pid = int(parent.stdout.readline())
    await until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_a_service_has_a_session_of_its_own(tmp_path):
    """So Ctrl-C in the terminal does not reach it behind its parent's back."""
    service = await spawn_service(["sleep", "600"], env=child_environment(), log_file=tmp_path / "log")
    assert os.getsid(service.pid) == service.pid
    await service.terminate(1)
