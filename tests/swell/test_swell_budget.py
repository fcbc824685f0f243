"""`--budget` and `swell budget`: a run out of money waits, says so, and goes on with another budget."""

import json
from collections.abc import Callable
from pathlib import Path

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
@pytest.mark.parametrize("amount", ["lots", "-1", "nan", "0.0000000001", "1e30"])
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
