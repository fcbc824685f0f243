"""`swell tools`: which tools there are, whether they are found, and whether they are held back."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_repository import PROFILES, git
from typer.testing import Result

from services.executor.found import FoundTool
from services.profiles import ToolProfile, shipped_tool_profiles
from swell.errors import SwellError
from swell.tools import Known, KnownTool, Place, ToolTable, known_tools, place_of, served_capabilities
from swell.values import Executor, Fleet, FleetPause, ToolBreaker

Swell = Callable[..., Result]
HERE = Place(kind="here", path="/usr/bin:/bin", variables=frozenset())


def agent(folder: Path, name: str, script: str = "echo 1.2.3") -> Path:
    """A program that leaves a mark when it is started."""
    file = folder / name
    file.write_text(f"#!/bin/sh\ntouch {file}.started\n{script}\n")
    file.chmod(0o755)
    return file


def profiles(folder: Path, **tools: dict[str, object]) -> Path:
    file = folder / "mine.json"
    file.write_text(json.dumps(tools))
    return file


# Whose profiles


def test_a_run_has_the_shipped_tools_the_repositorys_and_those_of_a_file(repo: Path, tmp_path: Path) -> None:
    (repo / "tools.json").write_text(json.dumps({"not": {"command": "committed"}}))
    file = profiles(tmp_path, ruff={"command": "my-ruff"}, append={"command": "my-append"})
    known = known_tools(repo, str(file))
    assert {
        tool for tool, item in known.tools.items() if item.origin == "shipped"
    } == shipped_tool_profiles().keys() - {"ruff"}
    assert {tool for tool, item in known.tools.items() if item.origin == "repository"} == PROFILES.keys() - {"append"}
    assert {tool: known.profiles[tool].command for tool, item in known.tools.items() if item.origin == "file"} == {
        "ruff": "my-ruff",
        "append": "my-append",
    }
    assert known.checks is not None
    assert known.checks.static_tools == ("pass",)


def test_a_folder_that_is_no_repository_has_the_shipped_tools(tmp_path: Path) -> None:
    known = known_tools(tmp_path)
    assert known.profiles == shipped_tool_profiles()
    assert known.checks is None


@pytest.mark.parametrize(
    ("name", "content", "reason", "told"),
    [
        ("swell.toml", "statik_tools = []", "BAD_CHECKS", "statik_tools"),
        ("swell.toml", 'tool_profiles = "gone.json"', "BAD_PROFILES", "gone.json"),
        ("tools.json", '{"x": {"comand": "y"}}', "BAD_PROFILES", "comand"),
        ("tools.json", "[" * 100_000, "BAD_PROFILES", "not valid JSON"),
    ],
)
def test_what_a_repository_says_wrongly_is_named(repo: Path, name: str, content: str, reason: str, told: str) -> None:
    (repo / name).write_text(content)
    git(repo, "commit", "-qam", "break it")
    with pytest.raises(SwellError, match=told) as caught:
        known_tools(repo)
    assert caught.value.reason == reason
    assert caught.value.remedy


# Where


def test_the_environment_of_the_running_executor_counts(cluster: Path) -> None:
    place = place_of(cluster, {"PATH": "/nowhere", "OPENAI_API_KEY": "x"})
    assert place.kind == "cluster"
    assert place.path != "/nowhere"
    assert "PATH" in place.variables
    assert "OPENAI_API_KEY" not in place.variables


def test_without_a_cluster_our_own_environment_counts(tmp_path: Path) -> None:
    place = place_of(tmp_path / "state", {"PATH": "/somewhere", "SET": "x", "EMPTY": ""})
    assert place.kind == "here"
    assert place.path.startswith("/somewhere:")
    assert place.variables == {"PATH", "SET"}
    assert not (tmp_path / "state").exists()


def test_a_process_that_is_no_executor_does_not_count(tmp_path: Path) -> None:
    """What a former cluster left behind names a process id that somebody else may have by now."""
    (tmp_path / "cluster.json").write_text(
        json.dumps({"pid": os.getpid(), "state": "ready", "started_ns": 1, "children": {"executor": os.getpid()}})
    )
    assert place_of(tmp_path, {"PATH": "/somewhere"}).kind == "here"


# The table


def table(fleet: Fleet, found: dict[str, FoundTool] | None = None, *, remote: bool = False, **spent: int) -> ToolTable:
    claude = ToolProfile(command="claude", type="ai", adapter="claude", fallback=("codex",))
    tools = {
        "claude": KnownTool(profile=claude, origin="shipped"),
        "ruff": KnownTool(profile=ToolProfile(command="ruff", type="static-check"), origin="repository"),
    }
    served = {"claude": ["code_generation"]}
    return ToolTable.of(Known(tools=tools), found or {}, fleet, HERE, remote=remote, served=served, spent_nano=spent)


def test_what_tools_have_cost_today_is_told_those_of_other_runs_as_well() -> None:
    shown = table(Fleet(executors=[], breakers=[], pauses=[]), claude=1_250_000_000, elsewhere=10**7)
    told = {row.tool: row.spent_nano for row in shown.tools}
    assert told == {"claude": 1_250_000_000, "ruff": 0, "elsewhere": 10**7}
    lines = shown.lines()
    assert next(line for line in lines if line.startswith("claude")).endswith("$1.25")
    assert next(line for line in lines if line.startswith("ruff")).endswith("-")


def test_capabilities_are_those_that_the_registry_in_force_routes(tmp_path: Path) -> None:
    profiles = {"claude": ToolProfile(command="c", type="ai"), "aider": ToolProfile(command="a", type="ai")}
    assert served_capabilities(profiles, {})["aider"][0] == "code_generation"
    assert "refactoring" in served_capabilities(profiles, {})["claude"]
    broken = tmp_path / "registry.json"
    broken.write_text("{")
    assert served_capabilities(profiles, {"AIM_REGISTRY_PATH": str(broken)}) == {}


def breaker(tool: str, state: str, failures: int = 0, until_ns: int = 0, reason: str = "") -> ToolBreaker:
    return ToolBreaker(tool=tool, state=state, failures=failures, until_ns=until_ns, reason=reason)


def test_a_row_says_all_of_a_tool() -> None:
    found = {"claude": FoundTool(program="/opt/claude", version="2.0.14", sandboxed="yes")}
    executors = [
        Executor(
            executor=name, boot="b", pool="default", slots=1, state="idle", since_ns=0, reason="", tools={"claude": ""}
        )
        for name in ("e1", "e2")
    ]
    head, claude, ruff, *_ = table(Fleet(executors=executors, breakers=[], pauses=[]), found).lines()
    assert head.split() == [
        "tool",
        "type",
        "executors",
        "found",
        "version",
        "sandbox",
        "adapter",
        "capabilities",
        "fallback",
        "breaker",
        "today",
    ]
    assert claude.split() == [
        "claude",
        "ai",
        "2",
        "/opt/claude",
        "2.0.14",
        "yes",
        "claude",
        "code_generation",
        "codex",
        "closed",
        "-",
    ]
    assert ruff.split() == ["ruff", "static-check", "-", "no", "-", "-", "-", "-", "-", "closed", "-"]


def test_breakers_and_pauses_are_told_those_of_providers_and_unknown_tools_as_well() -> None:
    day = 86_400 * 10**9
    fleet = Fleet(
        executors=[],
        breakers=[
            breaker("claude", "closed", 2),
            breaker("provider:anthropic", "open", 1, 20_000 * day, "usage_limit"),
            breaker("theirs", "half_open", 5),
        ],
        pauses=[
            FleetPause(scope="tool", name="ruff", actor="user:x", reason=""),
            FleetPause(scope="pool", name="gpu", actor="user:x", reason=""),
        ],
    )
    rows = {line.split()[0]: line for line in table(fleet).lines() if line}
    assert "  closed, 2 failed" in rows["claude"]
    assert "  paused" in rows["ruff"]
    assert "open until 2024-10-0" in rows["provider:anthropic"]
    assert ": usage_limit" in rows["provider:anthropic"]
    assert "  half open, 5 failed" in rows["theirs"]
    assert "gpu" not in rows


def test_tools_without_the_sandbox_that_they_want_are_named_with_the_reason() -> None:
    why = "/opt/claude does not start inside of the sandbox: name what it needs"
    found = {
        "claude": FoundTool(program="/opt/claude", sandboxed="no", unconfined=why),
        "ruff": FoundTool(program="/opt/ruff", sandboxed="no"),
    }
    lines = table(Fleet(executors=[], breakers=[], pauses=[]), found).lines()
    assert [line.split()[5] for line in lines[1:3]] == ["no", "no"]
    assert f"without a sandbox: claude: {why}" in lines
    assert not [line for line in lines if line.startswith("without a sandbox") and "ruff" in line]


def test_what_tools_say_cannot_steer_a_terminal() -> None:
    found = {"claude": FoundTool(program="/x/\x1b[31m\nclaude", version="", reason="it said \x1b]0;x\x07")}
    text = "\n".join(table(Fleet(executors=[], breakers=[], pauses=[]), found).lines())
    assert "\x1b" not in text
    assert "\x07" not in text


def test_of_a_cluster_elsewhere_nothing_is_claimed() -> None:
    assert "other machines" in table(Fleet(executors=[], breakers=[], pauses=[]), remote=True).lines()[-1]


# The command


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The current folder is no repository."""
    monkeypatch.chdir(tmp_path)
    return


@pytest.mark.usefixtures("cluster", "elsewhere")
def test_tools_are_listed_with_their_versions(swell: Swell, tmp_path: Path) -> None:
    mine = {"type": "ai", "command": str(agent(tmp_path, "agent"))}
    shown = swell("tools", "--tool-profiles", profiles(tmp_path, mine=mine))
    assert shown.exit_code == 0, shown.output
    rows = {line.split()[0]: line.split() for line in shown.output.splitlines() if line}
    assert rows["mine"][1:5] == ["ai", "-", mine["command"], "1.2.3"]
    assert rows.keys() >= shipped_tool_profiles().keys()
    assert "on the PATH of the running cluster" in shown.output


@pytest.mark.usefixtures("cluster")
def test_a_repositorys_tools_are_looked_up_and_never_started(swell: Swell, repo: Path, tmp_path: Path) -> None:
    theirs = agent(tmp_path, "theirs")
    (repo / "tools.json").write_text(json.dumps(PROFILES | {"theirs": {"type": "ai", "command": str(theirs)}}))
    git(repo, "commit", "-qam", "a tool")
    shown = swell("tools", "--repo", repo, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    row = next(row for row in found["tools"] if row["tool"] == "theirs")
    assert (row["origin"], row["program"], row["version"]) == ("repository", str(theirs), "")
    assert found["found_by"] == "cluster"
    assert found["remote"] is False
    assert not Path(f"{theirs}.started").exists()


@pytest.mark.usefixtures("cluster", "elsewhere")
def test_a_paused_tool_is_shown_as_paused(swell: Swell) -> None:
    assert swell("pause", "--tool", "qwen").exit_code == 0
    try:
        rows = {line.split()[0]: line for line in swell("tools").output.splitlines() if line}
        assert "  paused" in rows["qwen"]
    finally:
        swell("resume", "--tool", "qwen")


@pytest.mark.usefixtures("cluster", "elsewhere")
def test_profiles_that_cannot_be_used_are_refused(swell: Swell, tmp_path: Path) -> None:
    shown = swell("tools", "--tool-profiles", profiles(tmp_path, bad={"comand": "x"}))
    assert shown.exit_code == 2
    assert "comand" in shown.output
