"""The repository's plugins on their way into a run: read at the base commit, told by `swell plan`, found by `swell tools`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_repository import bundle, git
from typer.testing import Result

from services.profiles import parse_tool_profiles
from services.scheduler.config import SchedulerConfig
from services.scheduler.submission import Header, Submissions
from services.spec import Definitions
from swell.errors import SwellError
from swell.listing import local_plan
from swell.settings import RunSettings, in_force
from swell.submission import assemble, load_bundles
from swell.tools import known_tools

SETTINGS = 'static_tools = ["pass"]\ntool_profiles = "tools.json"\nplugins = "tools/plugins"\n'


@pytest.fixture
def plugged(repo: Path) -> Callable[..., Path]:
    """The repository with these plugins committed."""

    def commit(settings: str = SETTINGS, **plugins: dict[str, Any]) -> Path:
        (repo / "swell.toml").write_text(settings)
        for name, changes in plugins.items():
            (repo / "tools" / "plugins" / name).mkdir(parents=True)
            manifest = {"plugin_id": name, "name": name, "tool": {"command": name}} | changes
            (repo / "tools" / "plugins" / name / "manifest.json").write_text(json.dumps(manifest))
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", "plugins")
        return repo

    return commit


def submitted(repo: Path, bundles: Path, **settings: Any) -> Any:
    """What the client sends."""
    wanted = msgspec.structs.replace(in_force(RunSettings()), **settings)
    return assemble(load_bundles(bundles), repo=repo, settings=wanted)


def test_a_run_is_checked_by_the_plugins_of_its_base_commit(
    plugged: Callable[..., Path], bundles: Callable[..., Path]
) -> None:
    repo = plugged(zeta={}, alpha={"requires": ["zeta"], "file_extensions": [".py"]})
    header = submitted(repo, bundles(bundle("ws-a"), bundle("ws-b", scope="src/b.py"))).header
    found = parse_tool_profiles(header.tool_profiles_json, "sent")
    assert {tool for tool, profile in found.items() if profile.plugin} == {"alpha", "zeta"}
    sent = Header(
        request_id="request-1",
        location="/repo",
        base_commit=header.base_commit,
        checks_toml=header.checks_toml,
        tool_profiles_json=header.tool_profiles_json,
    )
    documents = [("a.json", json.dumps([bundle("ws-a"), bundle("ws-b", scope="src/b.py")]).encode())]
    spec = Submissions(SchedulerConfig()).plan(sent, documents).spec
    assert spec is not None
    assert [check.name for check in Definitions(spec).static("ws-b")] == ["pass", "zeta", "alpha"]
    (repo / "tools" / "plugins" / "zeta" / "manifest.json").write_text("{")
    again = submitted_dirty(repo, bundles(bundle("ws-a")))
    assert parse_tool_profiles(again.header.tool_profiles_json, "sent") == found


def submitted_dirty(repo: Path, bundles: Path) -> Any:
    return assemble(load_bundles(bundles), repo=repo, settings=in_force(RunSettings()), allow_dirty=True)


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        ({}, "tools/plugins at"),
        ({"alpha": {"file_extensions": ["py"]}}, "tools/plugins/alpha/manifest.json at"),
        ({"alpha": {"plugin_id": "beta"}}, "tools/plugins/alpha/manifest.json at"),
        ({"alpha": {"requires": ["alpha"]}}, "requires names the tool itself"),
        ({"pass": {}}, "'pass' has the id of the plugin"),
    ],
)
def test_plugins_that_cannot_be_used_are_refused_before_anything_is_sent(
    plugged: Callable[..., Path], bundles: Callable[..., Path], plugins: dict[str, Any], said: str
) -> None:
    repo = plugged(**plugins)
    looks: list[Callable[[], object]] = [
        lambda: submitted(repo, bundles(bundle("ws-a"))),
        lambda: known_tools(repo),
    ]
    for look in looks:
        with pytest.raises(SwellError) as refused:
            look()
        assert refused.value.reason == "BAD_PROFILES"
        assert said in refused.value.message


def test_nobodys_own_file_takes_a_plugin_out(
    plugged: Callable[..., Path], bundles: Callable[..., Path], tmp_path: Path
) -> None:
    repo = plugged(alpha={})
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"alpha": {"command": "true"}}))
    with pytest.raises(SwellError, match="'alpha' has the id of the plugin"):
        submitted(repo, bundles(bundle("ws-a")), tool_profiles=str(mine))


def test_a_plan_without_a_cluster_knows_the_plugins(plugged: Callable[..., Path], bundles: Callable[..., Path]) -> None:
    repo = plugged('plugins = "tools/plugins"\n', alpha={"requires": ["elsewhere"]})
    assert local_plan(bundles(bundle("ws-a")), repo).valid, "what it requires may be the scheduler's"


def test_a_plan_without_a_cluster_tells_of_circles(plugged: Callable[..., Path], bundles: Callable[..., Path]) -> None:
    repo = plugged(alpha={"requires": ["beta"]}, beta={"requires": ["alpha"]})
    report = local_plan(bundles(bundle("ws-a")), repo)
    assert (report.valid, [finding.code for finding in report.errors]) == (False, ["REQUIREMENT_CYCLE"])
    assert "alpha/manifest.json: requires goes round in a circle: alpha -> beta -> alpha" in report.errors[0].message


def test_a_plan_without_a_cluster_refuses_bad_manifests(
    plugged: Callable[..., Path], bundles: Callable[..., Path]
) -> None:
    repo = plugged(alpha={"tool": {}})
    with pytest.raises(SwellError, match="alpha/manifest"):
        local_plan(bundles(bundle("ws-a")), repo)


def test_a_plan_without_a_cluster_knows_the_profiles_of_a_file(
    plugged: Callable[..., Path], bundles: Callable[..., Path], tmp_path: Path, swell: Callable[..., Result]
) -> None:
    """They are laid over those of the repository, as in a submission."""
    repo, folder = plugged(alpha={"requires": ["mine"]}), bundles(bundle("ws-a"))
    mine = tmp_path / "mine.json"
    for command in ("plan", "validate"):
        mine.write_text(json.dumps({"mine": {"command": "true", "plugin": "Mine"}}))
        assert swell(command, folder, "--repo", repo, "--tool-profiles", mine).exit_code == 0
        mine.write_text(json.dumps({"mine": {"command": "true", "plugin": "Mine", "requires": ["alpha"]}}))
        shown = swell(command, folder, "--repo", repo, "--tool-profiles", mine)
        assert (shown.exit_code, "alpha -> mine -> alpha" in shown.output) == (2, True)
        for bad, said in ({"mine": {}}, "command"), ({"alpha": {"command": "x"}}, "'alpha' has the id of the plugin"):
            mine.write_text(json.dumps(bad))
            shown = swell(command, folder, "--repo", repo, "--tool-profiles", mine)
            assert shown.exit_code == 2
            assert said in shown.output
    elsewhere = tmp_path / "no-repository"
    elsewhere.mkdir()
    with pytest.raises(SwellError, match=r"mine\.json"):
        local_plan(folder, elsewhere, str(mine.with_name("mine.json.gone")))


def test_tools_of_a_run_are_the_plugins_too(plugged: Callable[..., Path]) -> None:
    known = known_tools(plugged(ruff={}))
    assert known.checks is not None
    assert known.checks.static_tools == ("pass", "ruff")
    assert (known.tools["ruff"].origin, known.profiles["ruff"].plugin) == ("repository", "ruff")


PATTERN = r"(?P<file>[^:]+):(?P<line>\d+): (?P<code>\w+) (?P<message>.*)"


def complaining(code: str, category: str, **more: Any) -> dict[str, Any]:
    """A plugin that finds the same in each of its files."""
    script = f"import sys; [print(f + ':2: {code} no') for f in sys.argv[1:]]; sys.exit(1)"
    return {
        "tool": {"command": "{python}", "args": ["-c", script, "{files}"]},
        "report": {"format": "pattern", "pattern": PATTERN},
        "categories": {code: category},
        **more,
    }


@pytest.mark.usefixtures("cluster")
def test_a_run_passes_its_plugins_and_tells_what_they_tolerate(
    swell: Callable[..., Result], plugged: Callable[..., Path], bundles: Callable[..., Path]
) -> None:
    """Through the whole of it: two plugins in order, one without a file for it, and findings that do not fail."""
    repo = plugged(
        SETTINGS + "strict = false\n",
        alpha=complaining("LONG", "style", requires=["beta"]),
        beta={"file_extensions": [".md"], "tool": {"command": "no-such-program"}},
    )
    shown = swell("run", bundles(bundle("ws-a")), "--repo", repo, "--json")
    assert shown.exit_code == 0, shown.output
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    judged = [
        {check["name"]: check for check in one["payload"]["checks"]}
        for one in events
        if one["kind"] == "step_finished" and one["payload"].get("checks")
    ]
    assert list(judged[0]) == ["pass", "beta", "alpha"]
    assert {check["outcome"] for check in judged[0].values()} == {"passed"}
    assert judged[0]["beta"]["message"] == "noop: no file of the scope ends in .md"
    assert "strict is false" in judged[0]["alpha"]["message"]
    assert judged[0]["alpha"]["findings"] == 1


@pytest.mark.usefixtures("cluster")
def test_a_review_shows_what_was_found_by_category(
    swell: Callable[..., Result], plugged: Callable[..., Path], bundles: Callable[..., Path]
) -> None:
    name = f"found-{os.getpid()}"
    settings = SETTINGS + "strict = false\n"
    repo = plugged(settings, alpha=complaining("LONG", "style"), beta=complaining("BROKEN", "syntax"))
    once = bundle("ws-a", circuit_breaker={"max_attempts": 1})
    assert swell("run", bundles(once), "--repo", repo, "--run", name, "--review", "wait").exit_code == 1
    shown = swell("review", "show", name, "ws-a").stdout
    for part in ("src/a.py:2: BROKEN no", "findings: 1 style, 1 syntax", "1 of these tolerated"):
        assert part in shown
    assert swell("cancel", name).exit_code == 0
