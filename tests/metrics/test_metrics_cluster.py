"""The embedded cluster, scraped over HTTP: what the three services say agrees with what the ledger answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from metrics_rig import Scrape, get
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from services.bundle import parse_bundles
from services.profiles import parse_tool_profiles
from swell.client import Client
from swell.cluster import Cluster, Status, read_status, stop
from swell.settings import RunSettings
from swell.submission import assemble

T = TypeVar("T")
SERVICES = ("scheduler", "ledger", "executor")


class Lab:
    """The cluster of this module."""

    def __init__(self, state_dir: Path, client: Client) -> None:
        self.state_dir = state_dir
        self.client = client

    @property
    def status(self) -> Status:
        found = read_status(self.state_dir)
        assert found is not None
        return found

    def scrape(self, service: str) -> Scrape:
        status, _, text = get(int(self.status.metrics[service].rpartition(":")[2]))
        assert status == 200
        return Scrape(text)


def until(look: Callable[[], T], timeout_s: float = 30.0) -> T:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    state_dir = tmp_path_factory.mktemp("metrics") / "state"
    with Cluster.join_or_start(state_dir, timeout_s=60) as endpoints, Client(endpoints) as client:
        yield Lab(state_dir, client)
    assert stop(state_dir)


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@invalid")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def run(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of two workstreams that has ended; one of them needs a FIX."""
    repo = tmp_path_factory.mktemp("repo") / "repo"
    repo.mkdir()
    git(repo, "init", "--quiet", "--initial-branch", "main")
    (repo / "a.txt").write_text("")
    (repo / "b.txt").write_text("")
    (repo / "swell.toml").write_text('static_tools = ["check"]\n')
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "files")
    required = {"openspec_change": "E2E", "ccpm_issue": 1, "gate": 1, "tasks": ["change it"]}
    bundles = [
        {"id": f"ws-{name}", "files_scope": [f"{name}.txt"], "tool": f"edit-{name}", **required} for name in "ab"
    ]
    profiles: dict[str, Any] = {
        "edit-a": {"command": "sh", "args": ["-c", 'echo good > "$1"', "tool", "{files}"]},
        "edit-b": {
            "command": "sh",
            "args": ["-c", 'echo bad > "$1"', "tool", "{files}"],
            "fix_args": ["-c", 'echo good > "$1"', "tool", "{files}"],
        },
        "check": {"command": "sh", "args": ["-c", "! grep -s bad a.txt b.txt", "tool"]},
    }
    submission = assemble(
        parse_bundles([("bundles.json", json.dumps(bundles).encode())]),
        repo=repo,
        settings=RunSettings(review="fail"),
        profiles=parse_tool_profiles(json.dumps(profiles).encode(), "profiles"),
    )
    made = lab.client.submit_run(submission.header, submission.documents).run
    until(
        lambda: any(
            one.run == made and one.state in {"completed", "failed", "partial"}
            for one in lab.client.list_runs(limit=10)
        )
    )
    assert lab.client.get_run(made).state == "completed"
    return made


def test_the_ports_stand_where_they_are_looked_for(lab: Lab) -> None:
    """In cluster.json, and in the settings that a restarted service reads."""
    for service in SERVICES:
        settings = tomllib.loads((lab.state_dir / "config" / f"{service}.toml").read_text())
        assert settings["metrics_address"] == lab.status.metrics[service]


def test_three_services_agree_with_the_ledger(lab: Lab, run: str) -> None:
    attempts = lab.client.list_attempts(run)
    steps = Counter((one.step,) for one in attempts)
    outcomes = Counter((one.step, "ok" if one.ok else one.error_class) for one in attempts)
    assert steps["fix",] == 1
    end = max(event.position for event in lab.client.list_events(run))
    scheduler, ledger, executor = until(
        lambda: level([lab.scrape(service) for service in SERVICES], end, len(attempts))
    )

    assert scheduler.by("swell_scheduler_steps_scheduled_total", "step") == steps
    assert scheduler.by("swell_scheduler_steps_closed_total", "step", "outcome") == outcomes
    assert executor.by("swell_executor_steps_closed_total", "step", "outcome") == outcomes
    assert scheduler.value("swell_scheduler_steps_closed_total", step="edit", tool="edit-a", outcome="ok") == 1
    assert scheduler.value("swell_scheduler_fix_iterations_total", step="static") == 1
    assert scheduler.value("swell_scheduler_queue_wait_seconds_count", pool="default") == len(attempts)
    kinds = Counter((event.kind,) for event in lab.client.list_events(run))
    folded = scheduler.by("swell_scheduler_events_folded_total", "kind")
    assert {kind: folded[kind] for kind in kinds} == kinds
    assert scheduler.value("swell_scheduler_leader") == 1
    assert scheduler.value("swell_scheduler_lag_entries") == 0
    assert scheduler.value("swell_scheduler_runs_ended") == 1
    assert scheduler.by("swell_scheduler_executors", "pool", "state").keys() <= {
        ("default", "idle"),
        ("default", "busy"),
    }
    assert scheduler.value("swell_rpc_requests_total", method=RPC["submit"], code="OK") == 1

    assert ledger.value("swell_ledger_caught_up") == ledger.value("swell_ledger_replay_progress_ratio") == 1
    assert ledger.value("swell_ledger_events_folded_total") == sum(folded.values())
    assert ledger.value("swell_ledger_entries_folded_total") == scheduler.value("swell_scheduler_entries_folded_total")
    assert ledger.value("swell_ledger_commit_duration_seconds_count") > 0
    assert ledger.value("swell_ledger_file_bytes") > 0

    assert executor.by("swell_executor_claims_total", "outcome") == {("won",): len(attempts)}
    assert executor.value("swell_executor_upload_bytes_total") > 0
    assert executor.by("swell_executor_tool_seconds_total", "step")["edit",] > 0
    assert executor.by("swell_executor_state", "state").keys() <= {("idle",), ("busy",)}


RPC = {"submit": "/swell.scheduler.v1.SchedulerService/SubmitRun"}


def level(scrapes: list[Scrape], end: int, attempts: int) -> list[Scrape] | None:
    """The scrapes, once everything of the run is folded and committed, and the services are at the same position."""
    scheduler, ledger, executor = scrapes
    positions = {scheduler.value("swell_scheduler_position"), ledger.value("swell_ledger_position")}
    done = sum(executor.by("swell_executor_steps_closed_total").values()) == attempts
    return scrapes if done and len(positions) == 1 and min(positions) >= end else None


def test_no_run_is_a_label(lab: Lab, run: str) -> None:
    for service in SERVICES:
        text = lab.scrape(service).text
        assert run not in text
        assert "ws-a" not in text


@pytest.mark.parametrize("service", SERVICES)
def test_a_port_in_use_ends_a_service_with_a_remedy(lab: Lab, service: str, tmp_path: Path) -> None:
    """The settings of a service that runs, with a state of its own and the port of the one that runs."""
    settings = tomllib.loads((lab.state_dir / "config" / f"{service}.toml").read_text())
    bus = settings.pop("bus")
    settings |= {"ready_file": str(tmp_path / "ready")} | ({"bind": "127.0.0.1:0"} if "bind" in settings else {})
    settings |= {key: str(tmp_path / key) for key in ("file", "state_dir") if key in settings}
    settings |= {"id": "other"} if "id" in settings else {}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[bus]", *(f"{key} = {json.dumps(value)}" for key, value in bus.items())]
    file = tmp_path / "settings.toml"
    file.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}", file],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"nothing can listen on metrics_address {lab.status.metrics[service]}" in done.stderr
    assert "set another port" in done.stderr
    assert not (tmp_path / "ready").exists()


def test_a_service_that_is_restarted_is_scraped_where_it_was(lab: Lab, run: str) -> None:
    """Its counters begin anew, and what was there before is not counted again."""
    before = lab.scrape("scheduler")
    address, pid = lab.status.metrics["scheduler"], lab.status.children["scheduler"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: lab.status.children["scheduler"] != pid)

    def back() -> Scrape | None:
        with contextlib.suppress(OSError, KeyError):
            found = lab.scrape("scheduler")
            return found if found.value("swell_scheduler_caught_up") else None
        return None

    after = until(back)
    assert lab.status.metrics["scheduler"] == address
    assert before.by("swell_scheduler_steps_closed_total", "step")["edit",] == 2
    assert after.by("swell_scheduler_steps_closed_total", "step") == {}
    assert after.value("swell_scheduler_position") >= before.value("swell_scheduler_position")
    assert after.value("swell_scheduler_runs_ended") == 1


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_shown_is_openmetrics_to_its_strict_reader(lab: Lab, run: str, service: str) -> None:
    """Every family with its type and its help, every sample in its family, no family twice."""
    port = int(lab.status.metrics[service].rpartition(":")[2])
    status, kind, text = get(port, Accept="application/openmetrics-text; version=1.0.0")
    assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
    families = list(openmetrics(text))
    assert len({family.name for family in families}) == len(families) > 10
    assert all(family.documentation and family.type != "unknown" for family in families)
