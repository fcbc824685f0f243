"""Pausing, reviewing, trying again, undoing: from the command line to the log and back, on a real cluster."""

import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, bundle, git
from typer.testing import Result

from swell.client import Client
from swell.cluster import connected
from swell.errors import SwellError
from swell.values import Adjustment

pytestmark = pytest.mark.usefixtures("cluster")

Swell = Callable[..., Result]
Bundles = Callable[..., Path]
WAIT_S = 20.0

_numbers = count()


def fresh() -> str:
    return f"control-{os.getpid()}-{next(_numbers)}"


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


@pytest.fixture
def client() -> Iterator[Client]:
    with connected() as endpoints, Client(endpoints) as made:
        yield made


@pytest.fixture
def stuck(swell: Swell, bundles: Bundles, repo: Path, at_once: Path, tmp_path: Path) -> str:
    """A run of three: one waits for a person, one depends on it, one has completed.

    Its failing tool has a name of its own: failures of one tool are counted across runs.
    """
    run = fresh()
    profiles = tmp_path / "broken.json"
    profiles.write_text(json.dumps({f"broken-{run}": PROFILES["break"]}))
    folder = bundles(
        bundle("ws-a", f"broken-{run}"),
        bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]),
        bundle("ws-c", scope="src/c.py"),
    )
    shown = swell("run", folder, "--repo", repo, "--recovery", at_once, "--run", run, "--tool-profiles", profiles)
    assert shown.exit_code == 1, shown.output
    return run


def states(client: Client, run: str) -> dict[str, str]:
    return {item.workstream: item.state for item in client.list_workstreams(run)}


def ok(shown: Result) -> str:
    assert shown.exit_code == 0, shown.output
    return shown.output


# Submitting


def test_an_eager_run_says_so_in_its_definition_and_completes(
    swell: Swell, bundles: Bundles, repo: Path, client: Client
) -> None:
    run = fresh()
    folder = bundles(bundle("ws-a"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    ok(swell("run", folder, "--repo", repo, "--eager", "--pool", "default", "--pool", "gpu", "--run", run))
    requested = next(client.list_events(run, kinds=["run_requested"]))
    spec = definition(client, requested.payload["spec"])
    assert spec["options"]["scheduling"] == "eager"
    assert spec["options"]["review"] == "wait"
    assert (spec["options"]["pool"], spec["options"]["other_pools"]) == ("default", ["gpu"])
    assert spec["recovery"]["classes"]["auth"] == ["review"]


def definition(client: Client, artifact: dict[str, Any]) -> dict[str, Any]:
    from swell.values import Artifact

    found: dict[str, Any] = json.loads(b"".join(client.read_artifact(Artifact(**artifact))))
    return found


def test_a_run_submitted_as_paused_starts_nothing_before_it_is_resumed(
    swell: Swell, bundles: Bundles, repo: Path, client: Client
) -> None:
    run = fresh()
    ok(swell("submit", bundles(bundle("ws-a")), "--repo", repo, "--paused", "--run", run))
    eventually(lambda: client.get_run(run).state == "paused")
    assert client.get_run(run).attempts == 0
    ok(swell("resume", run))
    assert "finished: completed" in ok(swell("watch", run))


def test_a_recovery_table_that_cannot_be_used_is_refused(
    swell: Swell, bundles: Bundles, repo: Path, tmp_path: Path
) -> None:
    table = tmp_path / "bad.yaml"
    table.write_text("classes:\n  no_such_class: [retry]\n")
    shown = swell("run", bundles(bundle("ws-a")), "--repo", repo, "--recovery", table)
    assert shown.exit_code == 2
    assert "no_such_class" in shown.output


# Pauses


def test_a_paused_run_goes_on_when_it_is_resumed(swell: Swell, bundles: Bundles, repo: Path, client: Client) -> None:
    run = fresh()
    folder = bundles(bundle("ws-a", "pause"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    ok(swell("submit", folder, "--repo", repo, "--run", run))
    assert f"swell resume {run}" in ok(swell("pause", run, "--reason", "lunch"))
    eventually(lambda: client.get_run(run).state == "paused")
    assert "lunch" in client.get_run(run).reason
    again = swell("pause", run)
    assert again.exit_code in {0, 2}, again.output
    ok(swell("resume", run))
    shown = ok(swell("watch", run))
    assert "asks to pause: lunch" in shown
    assert "goes on" in shown


def test_a_paused_tool_holds_its_workstreams_only(swell: Swell, bundles: Bundles, repo: Path, client: Client) -> None:
    """The wait is seen, with its reason, while the others complete."""
    run = fresh()
    ok(swell("pause", "--tool", "repair", "--reason", "being upgraded"))
    try:
        assert "tool repair" in ok(swell("executors"))
        folder = bundles(bundle("ws-a", "repair"), bundle("ws-c", scope="src/c.py"))
        ok(swell("submit", folder, "--repo", repo, "--eager", "--run", run))
        eventually(lambda: any(item.waiting_for == "tool_paused" for item in client.list_workstreams(run)))
        assert "waits for tool paused" in ok(swell("status", run))
        eventually(lambda: states(client, run).get("ws-c") == "completed")
    finally:
        ok(swell("resume", "--tool", "repair"))
    assert "finished: completed" in ok(swell("watch", run))
    pauses = json.loads(ok(swell("executors", "--json")))["pauses"]
    assert pauses == []
    assert "fleet_paused" in ok(swell("events", "fleet"))


@pytest.mark.parametrize("given", [[], ["r", "--all"], ["--tool", "a", "--pool", "b"]])
def test_a_pause_of_nothing_or_of_two_things_is_refused(swell: Swell, given: list[str]) -> None:
    assert swell("pause", *given).exit_code == 2


def test_executors_are_shown_with_their_state(swell: Swell) -> None:
    shown = ok(swell("executors"))
    assert "local" in shown
    (executor,) = [e for e in json.loads(ok(swell("executors", "--json")))["executors"] if e["state"] != "terminated"]
    assert executor["executor"] == "local"
    assert executor["state"] in {"idle", "busy"}
    assert executor["slots"] > 0


# Reviews


def test_a_run_that_needs_a_person_says_what_and_how(swell: Swell, stuck: str, client: Client) -> None:
    """Following ends with 1; the run lives, and its independent work is done."""
    shown = swell("watch", stuck)
    assert shown.exit_code == 1
    assert f"swell review show {stuck} ws-a" in shown.output
    assert "tool_failed" in shown.output
    assert client.get_run(stuck).state == "paused"
    assert states(client, stuck) | {"ws-b": ""} == {"ws-a": "awaiting_review", "ws-b": "", "ws-c": "completed"}
    assert f"swell review list --run {stuck}" in ok(swell("status", stuck))
    (summary,) = [json.loads(line) for line in swell("watch", stuck, "--json").stdout.splitlines()][-1:]
    assert summary["exit_code"] == 1
    assert [review["workstream"] for review in summary["reviews"]] == ["ws-a"]


def test_reviews_are_listed_and_shown(swell: Swell, stuck: str) -> None:
    found = json.loads(ok(swell("review", "list", "--run", stuck, "--json")))
    assert [(review["workstream"], review["step"], review["error_class"]) for review in found] == [
        ("ws-a", "edit", "tool_failed")
    ]
    assert found[0]["attempts"] == 1
    assert json.loads(ok(swell("review", "list", "--run", stuck, "--class", "auth", "--json"))) == []
    assert stuck in ok(swell("review", "list", "--text", "PERSON"))
    shown = ok(swell("review", "show", stuck, "ws-a"))
    for part in ("ws-a/1 edit: failed", "patch so far", f"swell review approve {stuck} ws-a", "swell review adjust"):
        assert part in shown
    other = swell("review", "show", stuck, "ws-c")
    assert other.exit_code == 2
    assert "does not wait" in other.output


def test_what_is_rejected_fails_and_blocks_what_depends_on_it(swell: Swell, stuck: str, client: Client) -> None:
    assert "rejected" in ok(swell("review", "reject", stuck, "ws-a", "--reason", "hopeless"))
    shown = swell("watch", stuck)
    assert shown.exit_code == 1
    assert "finished: partial" in shown.output
    assert states(client, stuck) == {"ws-a": "failed", "ws-b": "blocked", "ws-c": "completed"}
    assert ok(swell("review", "list", "--run", stuck)).strip() == "nothing waits for a person"


def test_what_is_approved_is_tried_again(swell: Swell, stuck: str, client: Client) -> None:
    ok(swell("review", "approve", stuck, "--yes"))
    eventually(lambda: [attempt.step for attempt in client.list_attempts(stuck, "ws-a")] == ["edit", "edit"])
    eventually(lambda: [review.attempts for review in client.list_reviews(stuck)] == [2])


def test_nothing_is_decided_without_a_yes(swell: Swell, stuck: str, client: Client) -> None:
    assert swell("review", "approve", stuck).exit_code == 1
    assert states(client, stuck)["ws-a"] == "awaiting_review"
    assert swell("review", "approve").exit_code == 2
    assert swell("review", "approve", stuck, "ws-c").exit_code == 2


def test_adjusting_lets_a_workstream_complete_with_another_tool(
    swell: Swell, stuck: str, client: Client, repo: Path
) -> None:
    """A scope, a hint and a tool; what depended on it completes as well."""
    adjusted = ["--tool", "append", "--create", "src/new.py", "--hint", "Take the other road", "--attempts", "2"]
    assert "adjusted ws-a" in ok(swell("review", "adjust", stuck, "ws-a", *adjusted))
    shown = ok(swell("watch", stuck))
    assert "amended by" in shown
    assert states(client, stuck) == {"ws-a": "completed", "ws-b": "completed", "ws-c": "completed"}
    (amended,) = client.list_events(stuck, kinds=["run_amended"])
    changed = next(b for b in definition(client, amended.payload["spec"])["bundles"] if b["id"] == "ws-a")
    assert (changed["tool"], changed["hints"]) == ("append", ["Take the other road"])
    assert changed["files_create"] == ["src/new.py"]
    assert changed["circuit_breaker"] == {"max_attempts": 6}
    assert git(repo, "show", f"swell/{stuck}:src/a.py") == "A = 1\nX = 2"


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--tool", "no-such-tool"], "tool"),
        (["--scope", "../up"], "add_files_scope[0]"),
        (["--hint", "x" * 20_001], "hint"),
        (["--attempts", "100000"], "more_attempts"),
        ([], "workstream"),
    ],
)
def test_an_adjustment_that_cannot_be_is_refused_by_its_field(
    swell: Swell, stuck: str, client: Client, flags: list[str], field: str
) -> None:
    shown = swell("review", "adjust", stuck, "ws-a", *flags)
    assert shown.exit_code == 2
    assert f"error: {field}: " in shown.output
    assert states(client, stuck)["ws-a"] == "awaiting_review"


def test_the_same_request_gets_the_first_answer(stuck: str, client: Client) -> None:
    """A repeated call decides nothing twice, whatever came in between."""
    change = Adjustment(hint="again")
    first = client.adjust_workstream(stuck, "ws-a", change, reason="", actor="t", request_id="same-request-1")
    again = client.adjust_workstream(stuck, "ws-a", change, reason="", actor="t", request_id="same-request-1")
    assert (first.position > 0, again.position) == (True, 0)
    done = client.pause_run(stuck, reason="", actor="t", request_id="same-request-2")
    assert client.pause_run(stuck, reason="", actor="t", request_id="same-request-2").answer == done.answer
    client.resume_run(stuck, reason="", actor="t")
    eventually(lambda: list(client.list_events(stuck, kinds=["resume_requested"])) != [])
    asked = [event.kind for event in client.list_events(stuck, kinds=["review_requested", "pause_requested"])]
    assert asked == ["review_requested", "pause_requested"]
    client.wait(stuck, client.cancel_run(stuck, reason="", actor="t") - 1)
    assert client.pause_run(stuck, reason="", actor="t", request_id="same-request-2").answer == done.answer
    with pytest.raises(SwellError, match="has ended already"):
        client.pause_run(stuck, reason="", actor="t")


def test_a_refusal_tells_why(stuck: str, client: Client) -> None:
    with pytest.raises(SwellError) as caught:
        client.resolve_reviews(stuck, "approve", ["ws-c"], reason="", actor="t")
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "REFUSED")
    assert "ws-c" in caught.value.message


# Trying again


def test_a_live_run_is_tried_again_where_it_stopped(swell: Swell, stuck: str, client: Client) -> None:
    ok(swell("retry", stuck, "ws-a", "--from", "edit"))
    eventually(lambda: len(client.list_attempts(stuck, "ws-a")) == 2)
    (resolved,) = client.list_events(stuck, kinds=["review_resolved"])
    assert resolved.payload["verdict"] == "retry"


def test_an_ended_run_is_tried_again_as_a_new_one_from_what_was_delivered(
    swell: Swell, stuck: str, client: Client, repo: Path
) -> None:
    """Only what did not complete runs again, on top of what did."""
    ok(swell("review", "reject", stuck, "ws-a"))
    swell("watch", stuck)
    done = json.loads(ok(swell("retry", stuck, "--json")))
    assert done["new_run"] is True
    assert set(done["workstreams"]) == {"ws-a", "ws-b"}
    new = client.get_run(done["run"])
    assert new.base_commit == git(repo, "rev-parse", f"swell/{stuck}")
    assert new.workstreams == 2
    again = client.retry_run(stuck, reason="", actor="t", request_id="retry-of-" + stuck)
    assert client.retry_run(stuck, reason="", actor="t", request_id="retry-of-" + stuck).run == again.run
    refused = swell("retry", stuck, "--from", "static")
    assert refused.exit_code == 2
    assert "leave it out" in refused.output
    refused = swell("retry", stuck, "ws-c")
    assert refused.exit_code == 2
    assert "ws-c completed" in refused.output


# Undoing


def test_a_rollback_undoes_what_completed_in_reverse(
    swell: Swell, bundles: Bundles, repo: Path, client: Client
) -> None:
    run = fresh()
    folder = bundles(
        bundle("ws-a", compensation_actions=["branch:delete"]),
        bundle("ws-b", scope="src/b.py", depends_on=["ws-a"], compensation_actions=["cmd:true"]),
        bundle("ws-c", scope="src/c.py"),
    )
    ok(swell("run", folder, "--repo", repo, "--run", run))
    assert git(repo, "branch", "--list", f"swell/{run}")
    shown = ok(swell("rollback", run, "--reason", "wrong quarter"))
    assert "rollback finished: compensated (2 compensated, 0 failed, 1 without actions)" in shown
    assert git(repo, "branch", "--list", f"swell/{run}") == ""
    order = [e.workstream for e in client.list_events(run, kinds=["step_finished"]) if e.workstream != "_line"][-2:]
    assert order == ["ws-b", "ws-a"]
    assert states(client, run) == {"ws-a": "compensated", "ws-b": "compensated", "ws-c": "completed"}
    assert "rollback compensated" in " ".join(ok(swell("status", run)).split())


def test_a_live_run_is_not_rolled_back(swell: Swell, stuck: str) -> None:
    shown = swell("rollback", stuck)
    assert shown.exit_code == 2
    assert f"swell cancel {stuck}" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--remote", "nobody"], "no remote 'nobody'"),
        (["--remote", "ext::sh -c x"], "is no location of a repository"),
        (["--series", "x", "--style", "merge"], "Give --series alone"),
        (["--credential", "ghp_0123456789"], "is no reference"),
    ],
)
def test_a_delivery_that_cannot_be_says_why(
    swell: Swell, stuck: str, repo: Path, arguments: list[str], said: str
) -> None:
    shown = swell("deliver", stuck, "--repo", repo, *arguments)
    assert shown.exit_code == 2
    assert said in shown.output
    assert "ghp_" not in shown.output


@pytest.mark.parametrize(
    ("action", "code"), [("git:revert", "COMPENSATION_UNAVAILABLE"), ("undo", "INVALID_COMPENSATION")]
)
def test_an_action_that_nobody_could_carry_out_is_refused_before_the_run(
    swell: Swell, bundles: Bundles, repo: Path, action: str, code: str
) -> None:
    folder = bundles(bundle("ws-a", compensation_actions=[action]))
    shown = swell("run", folder, "--repo", repo)
    assert shown.exit_code == 2
    assert action in shown.output
    assert code in swell("validate", folder, "--repo", repo).output
