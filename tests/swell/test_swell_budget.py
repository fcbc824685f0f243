"""`--budget` and `swell budget`: a run out of money waits, says so, and goes on with another budget."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, bundle, git
from typer.testing import Result

from swell.errors import SwellError

SAY = 'import sys; open(sys.argv[1], "a").write("# changed\\n"); print(\'{"cost": 0.30, "model": "gpt-4"}\')'
AGENT = {
    "type": "ai",
    "command": "{python}",
    "args": ["-c", SAY, "{files}"],
    "adapter": "generic",
    "result": {"format": "json", "cost_usd": "/cost", "model": "/model"},
    "cost_cap_usd": 0.30,
}


@pytest.fixture
def paid(repo: Path) -> Path:
    """A repository whose tool costs thirty cents each time."""
    (repo / "tools.json").write_text(json.dumps(PROFILES | {"agent": AGENT}))
    (repo / "src" / "d.py").write_text("D = 1\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "an agent")
    return repo


@pytest.mark.usefixtures("cluster")
def test_a_run_out_of_money_waits_and_goes_on_with_another_budget(
    paid: Path, bundles: Callable[..., Path], swell: Callable[..., Result]
) -> None:
    folder = bundles(*(bundle(f"ws-{name}", "agent", scope=f"src/{name}.py") for name in "abcd"))
    ran = swell("run", folder, "--repo", paid, "--budget", "1.00", "--json")
    summary = json.loads(ran.stdout.splitlines()[-1])
    run = summary["run"]["run"] if isinstance(summary["run"], dict) else summary["run"]
    shown = json.loads(swell("budget", "show", run, "--json").stdout)
    assert (shown["limit_nano"], shown["spent_nano"], shown["reserved_nano"]) == (10**9, 9 * 10**8, 0)
    assert shown["state"] == "paused"
    assert "$0.90" in swell("budget", "show", run).stdout
    refused = swell("resume", run)
    assert refused.exit_code != 0
    assert "swell budget set" in refused.stderr
    assert swell("budget", "set", run, "2").exit_code == 0
    watched = swell("watch", run)
    assert watched.exit_code == 0, watched.output
    ended = json.loads(swell("budget", "show", run, "--json").stdout)
    assert (ended["state"], ended["spent_nano"]) == ("completed", 12 * 10**8)


@pytest.mark.usefixtures("cluster")
def test_the_fleet_keeps_to_a_budget_of_the_day(
    paid: Path, bundles: Callable[..., Path], swell: Callable[..., Result]
) -> None:
    """Two of four fit into what is left of the day; the others say what they wait for, until there is another budget."""

    def fleet() -> dict[str, Any]:
        return json.loads(swell("budget", "show", "--fleet", "--json").stdout)["budgets"][0]

    before = fleet()["spent_nano"]
    said = swell("budget", "set", "--fleet", str((before + 6 * 10**8) / 10**9), "--reason", "a test")
    assert said.exit_code == 0, said.output
    folder = bundles(*(bundle(f"ws-{name}", "agent", scope=f"src/{name}.py") for name in "abcd"))
    try:
        run = json.loads(swell("submit", folder, "--repo", paid, "--json").stdout.splitlines()[-1])["run"]
        deadline = time.monotonic() + 60
        while "the fleet may spend" not in swell("status", run).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert fleet()["spent_nano"] == before + 6 * 10**8
        shown = swell("budget", "show", "--fleet").stdout
        assert "the fleet" in shown
        assert "tool agent" in shown
        assert fleet()["limit_nano"] == before + 6 * 10**8
    finally:
        assert swell("budget", "set", "--fleet", "none").exit_code == 0
    watched = swell("watch", run)
    assert watched.exit_code == 0, watched.output
    assert (fleet()["spent_nano"], fleet()["limit_nano"]) == (before + 12 * 10**8, None)
    assert "attempt_granted" in swell("events", "fleet", "--json").stdout


@pytest.mark.parametrize(
    "given",
    [
        ("show",), ("show", "last", "--fleet"), ("set", "5"), ("set", "last", "5", "--fleet"),
        ("set", "--fleet", "--tool", "agent", "5"),
    ],
)  # fmt: skip
def test_it_must_be_clear_whose_budget_is_meant(swell: Callable[..., Result], given: tuple[str, ...]) -> None:
    said = swell("budget", *given)
    assert said.exit_code != 0
    assert "whose budget is meant" in said.output


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("amount", ["lots", "-1", "nan", "0.0000000001", "1e30", "1e999999", "1_000", "٣"])
def test_an_amount_that_is_none_is_refused(swell: Callable[..., Result], amount: str) -> None:
    said = swell("budget", "set", "last", "--", amount)
    assert said.exit_code != 0
    assert isinstance(said.exception, SystemExit | SwellError)


@pytest.mark.usefixtures("cluster")
def test_a_tool_without_a_cap_is_refused_under_a_budget(
    paid: Path, bundles: Callable[..., Path], swell: Callable[..., Result]
) -> None:
    (paid / "tools.json").write_text(
        json.dumps(PROFILES | {"agent": {key: value for key, value in AGENT.items() if key != "cost_cap_usd"}})
    )
    git(paid, "commit", "-qam", "no cap")
    refused = swell("run", bundles(bundle("ws-a", "agent")), "--repo", paid, "--budget", "1")
    assert refused.exit_code != 0
    assert "UNCAPPED_TOOL" in refused.stderr
