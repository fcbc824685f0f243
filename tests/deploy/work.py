"""Real work for a local cluster that is being scraped: the shipped example, and a run whose tools cost, fail and lose their executor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from examples.materialise import materialise
from services.bundle import parse_bundles
from services.profiles import parse_tool_profiles
from swell.client import Client
from swell.cluster import Cluster, Status, read_status, stop
from swell.settings import RunSettings
from swell.submission import assemble
from tests.deploy.shipped import ROOT

ACTOR: Final = "metrics-test"
EXAMPLE_S: Final = 300.0
WAIT_S: Final = 120.0
STILL_S: Final = 4.0
"""So long something stands still, for Prometheus to see it."""

_GIT: Final = ("git", "-c", "user.name=Somebody", "-c", "user.email=somebody@invalid")
_SAYS: Final = '{"usage": {"in": 1200, "cached": 800, "out": 150}, "cost": 0.05, "model": "large-1"}'
_AGENT: Final[dict[str, Any]] = {
    "type": "ai",
    "command": "sh",
    "adapter": "generic",
    "cost_cap_usd": 0.1,
    "result": {
        "format": "ndjson",
        "usage": {"input": "/usage/in", "cache_read": "/usage/cached", "output": "/usage/out"},
        "cost_usd": "/cost",
        "model": "/model",
    },
}
PROFILES: Final[dict[str, Any]] = {
    "agent": {
        **_AGENT,
        "args": ["-c", f"sleep 1; echo bad > \"$1\"; echo '{_SAYS}'", "tool", "{files}"],
        "fix_args": ["-c", f"sleep 2; echo good > \"$1\"; echo '{_SAYS}'", "tool", "{files}"],
    },
    "slow": {**_AGENT, "args": ["-c", f"sleep 4; echo good > \"$1\"; echo '{_SAYS}'", "tool", "{files}"]},
    "idle": {**_AGENT, "args": ["-c", "true"]},
    "broken": {"command": "sh", "args": ["-c", "exit 3"]},
    "check": {"command": "sh", "args": ["-c", "! grep -s bad *.txt", "tool"]},
}
WORKSTREAMS: Final = {"a": "agent", "b": "agent", "c": "slow", "d": "broken", "e": "broken", "f": "broken", "g": "idle"}

T = TypeVar("T")


def until(look: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """What `look` finds, once it finds something; raises AssertionError after a while."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.1)
    return found


class Local:
    """The local cluster of a state folder."""

    def __init__(self, state_dir: Path, client: Client) -> None:
        self.state_dir = state_dir
        self.client = client

    @property
    def status(self) -> Status:
        """Where its services are."""
        found = read_status(self.state_dir)
        assert found is not None
        return found


class Told(msgspec.Struct, frozen=True):
    """What the ledger has of all runs."""

    runs: list[str]
    dollars: float
    tokens: int
    closed: int
    lost: int


@contextlib.contextmanager
def local_cluster(folder: Path) -> Iterator[Local]:
    """A cluster of its own, ended at the end."""
    state_dir = folder / "state"
    try:
        with Cluster.join_or_start(state_dir, timeout_s=60) as endpoints, Client(endpoints) as client:
            yield Local(state_dir, client)
    finally:
        stop(state_dir)


def limit(cluster: Local) -> None:
    """Budgets of the day for the fleet and a tool: attempts draw on what is shared."""
    cluster.client.set_shared_budget("", 50 * 10**9, reason="a limit", actor=ACTOR)
    cluster.client.set_shared_budget("agent", 5 * 10**9, reason="a limit", actor=ACTOR)


def run_example(cluster: Local, folder: Path) -> None:
    """The shipped example, as `make demo` runs it; raises AssertionError unless it completes."""
    repository = materialise("modernise", folder / "modernise")
    command = [
        str(Path(sys.executable).with_name("swell")),
        "run",
        str(ROOT / "examples" / "modernise" / "workstreams"),
    ]
    command += ["--repo", str(repository), "--context", f"example_tools={ROOT / 'examples' / 'tools'}"]
    command += ["--tool-profiles", str(ROOT / "examples" / "modernise" / "tool_profiles.json")]
    environment = os.environ | {"SWELL_STATE_DIR": str(cluster.state_dir), "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=EXAMPLE_S
    )
    assert done.returncode == 0, f"swell run ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def run_troubled(cluster: Local, folder: Path) -> None:
    """A run under a budget: FIX, an executor that is killed at work, a tool whose breaker opens, reviews; then cancelled."""
    client, run = cluster.client, _submit(cluster, folder / "troubled")
    assert client.await_run(run, WAIT_S), "the ledger does not know the run"
    until(lambda: any(one.tool == "slow" and one.executor for one in client.list_attempts(run)), "the slow tool")
    os.kill(cluster.status.children["executor"], signal.SIGKILL)
    until(lambda: any(event.kind == "step_lost" for event in client.list_events(run)), "a lost attempt")
    until(lambda: any(event.kind == "tool_breaker_opened" for event in client.list_events("fleet")), "an open breaker")
    client.pause_fleet("tool", "broken", reason="it fails", actor=ACTOR)
    time.sleep(STILL_S)
    client.set_budget(run, 2 * 10**9, reason="what was lost counts in full", actor=ACTOR)
    until(lambda: _completed(client, run) >= set("abc"), "the workstreams whose tools work")
    until(lambda: client.list_reviews(run), "a review")
    time.sleep(STILL_S)
    client.cancel_run(run, reason="what was to be seen was seen", actor=ACTOR)
    until(lambda: client.get_run(run).state == "cancelled", "the end of the run")


def told_by_ledger(cluster: Local) -> Told:
    """Sums over every event of every run."""
    runs = [run.run for run in cluster.client.list_runs()]
    events = [event for run in runs for event in cluster.client.list_events(run)]
    results = [event.payload for event in events if event.kind == "step_finished"]
    results += [event.payload["result"] for event in events if event.kind == "result_refused"]
    kinds = Counter(event.kind for event in events)
    return Told(
        runs=runs,
        dollars=sum(result["cost"]["nano_usd"] for result in results if "cost" in result) / 1e9,
        tokens=sum(
            count for result in results for name, count in result.get("usage", {}).items() if name.endswith("_tokens")
        ),
        closed=kinds["step_finished"] + kinds["step_lost"] + kinds["step_cancelled"],
        lost=kinds["step_lost"],
    )


def _completed(client: Client, run: str) -> set[str]:
    return {one.workstream.removeprefix("ws-") for one in client.list_workstreams(run, state="completed")}


def _submit(cluster: Local, repository: Path) -> str:
    repository.mkdir()
    for name in WORKSTREAMS:
        (repository / f"{name}.txt").write_text("", encoding="utf-8")
    (repository / "swell.toml").write_text('static_tools = ["check"]\n', encoding="utf-8")
    for arguments in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["add", "--all"],
        ["commit", "--quiet", "-m", "x"],
    ):
        subprocess.run([*_GIT, *arguments], cwd=repository, check=True, capture_output=True, timeout=30)
    required = {"openspec_change": "M", "ccpm_issue": 1, "gate": 1, "tasks": ["change it"]}
    bundles = [
        {"id": f"ws-{name}", "files_scope": [f"{name}.txt"], "tool": tool, **required}
        for name, tool in WORKSTREAMS.items()
    ]
    submission = assemble(
        parse_bundles([("bundles.json", json.dumps(bundles).encode())]),
        repo=repository,
        settings=RunSettings(review="wait", budget_usd=0.4, max_workers=8, scheduling="eager"),
        profiles=parse_tool_profiles(json.dumps(PROFILES).encode(), "profiles"),
    )
    return cluster.client.submit_run(submission.header, submission.documents).run
