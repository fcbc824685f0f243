"""Processes die, people change their minds: what was promised holds, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lab import (
    Lab,
    Outcome,
    bundle,
    children,
    children_reaped,
    commit_files,
    git,
    processes,
    sh,
    unread,
    until,
    witness,
)

SLEEP = "87654.3219"


def slow_tools(log: Path) -> dict[str, Any]:
    """Tools that take a moment, and write down that they were started."""
    say = f'echo "$SWELL_ATTEMPT" >> {log}; '
    return {
        "edit": sh(f'{say}sleep 0.5; echo BAD >> "$1"', fix=f'{say}sleep 0.5; sed -i s/BAD/GOOD/ "$1"'),
        "no-bad": sh('sleep 0.1; ! grep BAD "$@"'),
        "forever": sh(f"{say}(setsid env -i sleep {SLEEP} &) ; sleep {SLEEP}"),
        "pass": sh("true", "-"),
    }


def prepared(repo: Path, *names: str) -> dict[str, Any]:
    commit_files(repo, {**{f"f/{name}.txt": "" for name in names}, "swell.toml": 'static_tools = ["no-bad"]\n'})
    return witness(repo)


def chain(*names: str) -> list[dict[str, Any]]:
    """The first half side by side, the second half each after one of the first."""
    half = len(names) // 2
    return [
        bundle(f"ws-{name}", "edit", f"f/{name}.txt", depends_on=[f"ws-{names[at - half]}"] if at >= half else [])
        for at, name in enumerate(names)
    ]


def started(lab: Lab, run: str) -> int:
    return len(list(lab.client.list_events(run, kinds=["step_started"])))


def test_everything_is_killed_once_and_the_run_completes(lab: Lab, repo: Path, tmp_path: Path) -> None:
    """SIGKILL for the executor, twice, the scheduler, the ledger and the bus, each while tools are running."""
    names = ["a", "b", "c", "d", "e", "g"]
    before = prepared(repo, *names)
    bundles = chain(*names)
    run = lab.submit(repo, bundles, slow_tools(tmp_path / "log"), max_workers=3)
    marker = f"SWELL_ATTEMPT={run}/"
    for count, part in enumerate(["executor", "executor", "scheduler", "ledger", "nats"]):
        until(lambda wanted=3 + 4 * count: started(lab, run) >= wanted, "the next steps")  # type: ignore[misc]
        until(lambda: processes(marker), "a running tool")
        tools = processes(marker)
        lab.kill(part)
        if part == "executor":
            until(lambda tools=tools: not tools.keys() & processes(marker).keys(), "the end of its tools")  # type: ignore[misc]
    outcome = lab.outcome(run, repo, bundles, max_workers=3)
    assert set(outcome.states().values()) == {"completed"}
    assert outcome.payloads("step_lost"), "no executor was killed while it held an attempt"
    assert {outcome.delivered(f"f/{name}.txt") for name in names} == {"GOOD\n"}
    assert processes(marker) == {}
    assert witness(repo) == before


def test_what_is_finished_is_not_run_again_by_the_next_scheduler(lab: Lab, repo: Path, tmp_path: Path) -> None:
    """One scheduler dies after the first finished step and one after the first merge; every tool ran once for each attempt."""
    prepared(repo, "a", "b", "c", "d")
    log = tmp_path / "log"
    bundles = chain("a", "b", "c", "d")
    run = lab.submit(repo, bundles, slow_tools(log), max_workers=2)
    lab.until_event(run, "step_finished")
    lab.kill("scheduler")
    lab.until_event(run, "integration_advanced")
    lab.kill("scheduler")
    outcome = lab.outcome(run, repo, bundles, max_workers=2)
    assert set(outcome.states().values()) == {"completed"}
    for workstream in outcome.workstreams:
        assert Counter(one.step for one in outcome.of(workstream)) == {"edit": 1, "static": 2, "fix": 1}
    assert outcome.payloads("step_lost") == []
    assert max(Counter(log.read_text().splitlines()).values()) == 1
    assert len(log.read_text().splitlines()) == 8


def test_a_command_that_kills_its_executors_is_given_up(lab: Lab, repo: Path) -> None:
    """Three losses of the same attempt in a row fail its workstream, and the others go on."""
    prepared(repo, "a", "b")
    tools = {"slow": sh("sleep 30"), "quick": sh('echo new >> "$1"'), "no-bad": sh("true", "-")}
    bundles = [bundle("ws-a", "slow", "f/a.txt"), bundle("ws-b", "quick", "f/b.txt")]
    run = lab.submit(repo, bundles, tools)
    lab.until_event(run, "workstream_transitioned", workstream="ws-b", to_state="merging")
    for attempt in (1, 2, 3):
        until(lambda n=attempt: processes(f"SWELL_ATTEMPT={run}/ws-a/{n}"), "its next attempt")  # type: ignore[misc]
        lab.kill("executor")
    outcome = lab.outcome(run, repo, bundles)
    assert outcome.states() == {"ws-a": "failed", "ws-b": "completed"}
    assert "lost 3 times" in outcome.reason("ws-a")
    assert [one.state for one in outcome.of("ws-a")] == ["lost"] * 3


def test_an_executor_that_was_away_too_long_is_fenced(lab: Lab, repo: Path, tmp_path: Path) -> None:
    """Its attempt is lost after a lease; what it brings back later is kept as a late fact, and changes nothing."""
    prepared(repo, "a")
    bundles = [bundle("ws-a", "edit", "f/a.txt")]
    run = lab.submit(repo, bundles, slow_tools(tmp_path / "log"))
    until(lambda: processes(f"SWELL_ATTEMPT={run}/ws-a/1"), "its tool")
    executor = lab.pid("executor")
    os.kill(executor, signal.SIGSTOP)
    try:
        (lost,) = lab.until_event(run, "step_lost")
    finally:
        os.kill(executor, signal.SIGCONT)
    outcome = lab.outcome(run, repo, bundles)
    assert (lost.workstream, lost.attempt) == ("ws-a", 1)
    assert outcome.state("ws-a") == "completed"
    late = {event.kind for event in outcome.events if (event.workstream, event.attempt) == ("ws-a", 1)}
    assert late >= {"step_lost", "processes_reaped"}
    assert outcome.delivered("f/a.txt") == "GOOD\n"


def test_what_a_tool_made_survives_a_bus_that_dies_under_its_upload(lab: Lab, repo: Path) -> None:
    """The bus stops, takes half of the log without reading it, and is killed: the step goes on when it is back."""
    commit_files(repo, {"a.txt": "", "swell.toml": 'static_tools = ["pass"]\n'})
    talk = sh('sleep 0.5; yes talk | head -c 300000; echo new >> "$1"')
    bundles = [bundle("ws-a", "talk", "a.txt")]
    run = lab.submit(repo, bundles, {"talk": talk, "pass": sh("true", "-")})
    until(lambda: processes(f"SWELL_ATTEMPT={run}/ws-a/1"), "its tool")
    os.kill(lab.pid("nats"), signal.SIGSTOP)
    until(lambda: unread(lab.port("nats")) > 100_000, "the upload of its log")
    lab.kill("nats")
    outcome = lab.outcome(run, repo, bundles)
    assert outcome.states() == {"ws-a": "completed"}, outcome.reason("ws-a")
    assert len(outcome.artifact(outcome.of("ws-a", "edit")[0], "log")) == 300_000


@pytest.fixture
def hanging(lab: Lab, repo: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]], Path]:
    """A repository, bundles whose tools never end, and a profile file."""
    prepared(repo, "a", "b", "c")
    profiles = tmp_path / "profiles.json"
    profiles.write_text(json.dumps(slow_tools(tmp_path / "log")))
    folder = tmp_path / "workstreams"
    folder.mkdir()
    bundles = [bundle("ws-a", "forever", "f/a.txt"), bundle("ws-b", "forever", "f/b.txt")]
    bundles.append(bundle("ws-c", "edit", "f/c.txt", depends_on=["ws-a"]))
    (folder / "all.json").write_text(json.dumps(bundles))
    return repo, bundles, profiles


def assert_cancelled(outcome: Outcome, before: dict[str, Any]) -> None:
    """The run ended as cancelled, its tools' end is on record, none of their processes lives."""
    assert outcome.run.state == "cancelled"
    assert set(outcome.states().values()) == {"cancelled"}
    assert processes(SLEEP) == {}
    reaped = {event.workstream for event in outcome.events if event.kind == "processes_reaped"}
    assert reaped == {"ws-a", "ws-b"}
    assert outcome.run.delivered_ref == ""
    assert not git(outcome.repo, "branch", "--list", "swell/*")
    assert witness(outcome.repo) == before


def test_cancel_ends_a_run_and_its_tools(lab: Lab, hanging: tuple[Path, list[dict[str, Any]], Path]) -> None:
    repo, bundles, profiles = hanging
    before = witness(repo)
    run = lab.submit(repo, bundles, json.loads(profiles.read_text()))
    until(lambda: len(processes(SLEEP, "sleep")) >= 4, "the tools")
    told = lab.swell("cancel", run, "--reason", "changed my mind")
    assert told.returncode == 0
    assert processes(SLEEP) == {}, "cancel returned before the tools were dead"
    assert "processes:" in told.stdout
    outcome = lab.outcome(run, repo, bundles)
    assert_cancelled(outcome, before)
    assert "changed my mind" in outcome.run.reason


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_run_it_follows(
    lab: Lab, hanging: tuple[Path, list[dict[str, Any]], Path], number: signal.Signals
) -> None:
    """The command waits for the end, says what became of the run, and ends with 1."""
    repo, bundles, profiles = hanging
    before = witness(repo)
    workstreams = profiles.parent / "workstreams"
    run = f"run-e2e-{number.name.lower()}"
    with lab.start("run", workstreams, "--repo", repo, "--tool-profiles", profiles, "--run", run) as following:
        try:
            until(lambda: len(processes(SLEEP, "sleep")) >= 4, "the tools")
            following.send_signal(number)
            stdout, stderr = following.communicate(timeout=30)
        finally:
            following.kill()
    assert following.returncode == 1, stderr
    assert f"run {run} cancelled" in stdout
    assert "Traceback" not in stderr
    assert_cancelled(lab.outcome(run, repo, bundles), before)


def test_a_run_that_takes_too_long_fails(lab: Lab, hanging: tuple[Path, list[dict[str, Any]], Path]) -> None:
    """`--timeout` ends the run and its tools."""
    repo, bundles, profiles = hanging
    run = lab.submit(repo, bundles, json.loads(profiles.read_text()), timeout_s=1.0)
    outcome = lab.outcome(run, repo, bundles)
    assert outcome.run.state == "failed"
    assert "time limit of 1 s" in outcome.run.reason
    assert processes(SLEEP) == {}


def test_a_dry_run_of_1000_workstreams_starts_nothing(lab: Lab, repo: Path) -> None:
    """The whole trail is recorded; neither executor nor supervisor has had a child, and no branch is made."""
    prepared(repo, "a")
    bundles = [
        bundle(f"ws-{n:04d}", "edit", f"d/{n}.txt", depends_on=[f"ws-{n - 250:04d}"] if n >= 250 else [])
        for n in range(1000)
    ]
    executor = lab.pid("executor")
    (supervisor,) = children(executor)
    counted = [children_reaped(pid) for pid in (executor, supervisor)]
    before = witness(repo)
    run = lab.submit(repo, bundles, slow_tools(repo.parent / "log"), dry_run=True, max_workers=50)
    outcome = lab.outcome(run, repo, bundles, max_workers=50)
    assert [children_reaped(pid) for pid in (executor, supervisor)] == counted
    assert (children(executor), children(supervisor)) == ([supervisor], [])
    assert outcome.run.state == "completed"
    assert Counter(one.step for one in outcome.attempts) == {"edit": 1000, "static": 1000, "runtime": 1000}
    assert {one.state for one in outcome.attempts} == {"finished"}
    assert len(outcome.payloads("step_finished", dry_run=True)) == 3000
    assert len(outcome.payloads("wave_started")) >= 4
    assert set(outcome.states().values()) == {"completed"}
    assert git(repo, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert witness(repo) == before
