"""Bad input ends with 2, and says what, where and what to do next; none of this needs a cluster."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from small_repository import bundle, git
from typer.testing import Result

import swell as api
from services.events import RunStatus
from swell.errors import SwellError
from swell.settings import RunSettings
from swell.submission import assemble, documents_of, load_bundles, parse_context

Swell = Callable[..., Result]
Bundles = Callable[..., Path]

COMMANDS = (
    "init", "plan", "validate", "run", "submit", "status", "report", "list", "show", "logs", "diff", "events", "watch", "cancel",
    "dev", "serve",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state folder that cannot be: whatever tried to start a cluster would say so."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWELL_STATE_DIR", str(tmp_path / "file" / "state"))


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "next: " in result.stderr
    assert "Traceback" not in result.output
    for text in said:
        assert text in result.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [("upstream", "https://git.example/r.git"), ("ssh://git@git.example/r", "ssh://git@git.example/r")],
)
def test_executors_find_the_repository_where_they_are_told(
    repo: Path, bundles: Bundles, given: str, found: str
) -> None:
    git(repo, "remote", "add", "upstream", "https://git.example/r.git")
    made = assemble(load_bundles(bundles(bundle("ws-a"))), repo=repo, settings=RunSettings(location=given))
    assert made.header.location == found


def test_executors_are_not_told_of_what_is_no_repository(swell: Swell, repo: Path, bundles: Bundles) -> None:
    refused(
        swell("submit", str(bundles(bundle("ws-a"))), "--repo", str(repo), "--location", "ext::x"),
        "no location of a repository",
    )


def test_help_names_every_command_and_is_quick() -> None:
    began = time.monotonic()
    shown = subprocess.run([sys.executable, "-m", "swell.cli", "--help"], capture_output=True, text=True, check=True)
    assert all(f" {command} " in shown.stdout for command in COMMANDS)
    assert time.monotonic() - began < 3  # a generous bound: machines that test are busy


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; import swell.cli; print(*(m for m in ('grpc', 'duckdb', 'nats', 'msgspec', 'rich') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_an_unknown_option_is_refused(swell: Swell) -> None:
    assert swell("run", "--max-worker", "3").exit_code == 2


@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_a_bad_number_is_refused(swell: Swell, value: str) -> None:
    assert swell("run", "--max-workers", value).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--state", "bogus"], "'pending', 'running', 'paused'"),
        (["--label", "BAD=1"], "'BAD' is no label"),
        (["--label", "=x"], "'' is no label"),
        (["--tenant", "x y"], "'x y' is no tenant"),
        (["--order", "cost_nano"], "submitted, finished, cost, attempts"),
        (["--order", "cost down"], "no order"),
    ],
)
def test_a_filter_that_no_run_can_match_is_refused(swell: Swell, arguments: list[str], said: str) -> None:
    shown = swell("list", *arguments)
    assert shown.exit_code == 2, shown.output
    assert said in " ".join(shown.stderr.replace("│", " ").split())


def test_every_state_of_a_run_can_be_listed(swell: Swell) -> None:
    shown = " ".join(swell("list", "--state", "bogus").stderr.replace("│", " ").split())
    assert all(f"'{state}'" in shown for state in get_args(RunStatus))


@pytest.mark.parametrize(
    "command", [["list"], ["events", "r"], ["errors", "r"], ["costs"], ["stats"], ["audit", "aim"]]
)
def test_every_command_reads_times_alike(swell: Swell, command: list[str]) -> None:
    refused(swell(*command, "--since", "soon"), "--since 'soon' is no time", "Use 30m, 2h or 7d")
    refused(swell(*command, "--since", "30m", "--until", "1w"), "--since 30m is not before --until 1w")
    assert "cannot" in swell(*command, "--since", "90s").stderr, "it was a time, and there is no cluster to ask"


@pytest.mark.parametrize(
    "more", [["--since", "2030-01-01"], ["--until", "1d"], ["--tenant", ""], ["--label", "a=b"], ["--repository", "x"]]
)
def test_figures_are_of_a_run_or_of_those_that_are_described(swell: Swell, more: list[str]) -> None:
    refused(swell("stats", "r1", *more), "a run is named", "leave it out")


@pytest.mark.parametrize("run", ["", None, "a b", "x" * 129, 7])
def test_figures_of_what_is_no_run_are_refused(run: Any) -> None:
    with pytest.raises(SwellError, match="no run id"):
        api.get_run_metrics(run)


def test_one_text_is_no_list_of_groups() -> None:
    with pytest.raises(SwellError, match=r"group_by: 'tool' is one text. Give a list"):
        api.get_costs("tool")


@pytest.mark.parametrize("command", [["rebuild"], ["restore", "--from", __file__]])
def test_what_nobody_can_be_asked_needs_a_yes(swell: Swell, command: list[str]) -> None:
    refused(swell("ledger", *command), "nobody can be asked", "--yes")


def test_an_empty_folder_is_refused(swell: Swell, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for command in ("run", "plan", "validate"):
        refused(swell(command, tmp_path / "none", "--repo", repo), str(tmp_path / "none"))


def test_a_missing_path_is_refused(swell: Swell, repo: Path) -> None:
    refused(swell("run", "--repo", repo), "no such file or folder", "workstreams")


def test_malformed_json_names_file_line_and_column(swell: Swell, repo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "one.json").write_text('{"id": }')
    refused(swell("run", folder, "--repo", repo), "one.json", "line 1, column 8")


def test_all_problems_of_all_files_are_told_at_once(swell: Swell, bundles: Bundles) -> None:
    folder = bundles(bundle("ws-a", gate=0), {"id": "WS B"})
    refused(swell("validate", folder), "gate", "missing required fields", "WS B")


def test_a_cycle_is_refused(swell: Swell, bundles: Bundles) -> None:
    folder = bundles(bundle("ws-a", depends_on=["ws-b"]), bundle("ws-b", depends_on=["ws-a"]))
    refused(swell("plan", folder), "ws-a -> ws-b -> ws-a")


def test_what_is_no_repository_is_refused(swell: Swell, bundles: Bundles, tmp_path: Path) -> None:
    refused(swell("run", bundles(bundle("ws-a")), "--repo", tmp_path), "repository")


def test_a_dirty_checkout_is_refused_with_its_list(swell: Swell, bundles: Bundles, repo: Path) -> None:
    (repo / "src" / "a.py").write_text("changed\n")
    (repo / "new.txt").write_text("new\n")
    refused(swell("run", bundles(bundle("ws-a")), "--repo", repo), "src/a.py", "new.txt", "--allow-dirty")


def test_a_missing_base_is_refused(swell: Swell, bundles: Bundles, repo: Path) -> None:
    refused(swell("run", bundles(bundle("ws-a")), "--repo", repo, "--base", "nowhere"), "nowhere")


def test_a_state_folder_that_cannot_be_written_is_refused(swell: Swell, bundles: Bundles, repo: Path) -> None:
    refused(swell("run", bundles(bundle("ws-a")), "--repo", repo), "state folder", "SWELL_STATE_DIR")


def test_a_state_folder_inside_a_repository_is_refused(
    swell: Swell, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_STATE_DIR", str(repo / "deep" / "state"))
    refused(swell("list"), "inside the repository", str(repo))
    assert not (repo / "deep").exists()


def test_half_a_remote_cluster_is_refused(swell: Swell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_SCHEDULER", "127.0.0.1:1")
    refused(swell("list"), "SWELL_LEDGER")


def test_a_taken_port_is_named(repo: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "swell.cli", "dev", "--scheduler-port", str(port)],
            env={"SWELL_STATE_DIR": str(tmp_path / "state"), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


def test_a_context_that_is_not_key_and_value_is_refused(swell: Swell, bundles: Bundles, repo: Path) -> None:
    refused(swell("run", bundles(bundle("ws-a")), "--repo", repo, "--context", "novalue"), "KEY=VALUE")
    assert parse_context(["a=b=c", "d="]) == {"a": "b=c", "d": ""}


def test_bad_tool_profiles_are_refused(swell: Swell, bundles: Bundles, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"x": {"comand": "y"}}')
    refused(swell("run", bundles(bundle("ws-a")), "--repo", repo, "--tool-profiles", tmp_path / "p.json"), "comand")


def test_a_bad_breaker_file_is_refused(swell: Swell, bundles: Bundles, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("oscilation_window: 5\n")
    refused(
        swell("run", bundles(bundle("ws-a")), "--repo", repo, "--breaker", tmp_path / "b.yaml"), "oscilation_window"
    )


def test_debug_shows_the_traceback(swell: Swell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_DEBUG", "0")
    assert isinstance(swell("--debug", "validate", tmp_path / "none").exception, SwellError)


def test_init_writes_checks_once(swell: Swell, repo: Path) -> None:
    refused(swell("init", "--repo", repo), "--force")
    (repo / "swell.toml").unlink()
    assert swell("init", "--repo", repo).exit_code == 0
    assert (repo / "swell.toml").read_text().strip()
    assert swell("init", "--repo", repo, "--force").exit_code == 0


def test_plan_shows_waves_and_why(swell: Swell, bundles: Bundles, repo: Path) -> None:
    folder = bundles(bundle("ws-a"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    shown = swell("plan", folder, "--repo", repo)
    assert shown.exit_code == 0
    assert "2     ws-b        ws-a   depends on ws-a in wave 1" in shown.stdout
    assert '"waves":[["ws-a"],["ws-b"]]' in swell("plan", folder, "--repo", repo, "--json").stdout


def test_validate_accepts_what_is_right_and_refuses_what_nothing_checks(
    swell: Swell, bundles: Bundles, repo: Path
) -> None:
    folder = bundles(bundle("ws-a"))
    assert swell("validate", folder, "--repo", repo).exit_code == 0
    git(repo, "rm", "-q", "swell.toml")
    git(repo, "commit", "-qm", "unchecked")
    shown = swell("validate", folder, "--repo", repo)
    assert shown.exit_code == 2
    assert "NO_CHECKS" in shown.stdout


def test_what_is_submitted_is_pinned_by_content(bundles: Bundles, repo: Path) -> None:
    folder = bundles(bundle("ws-a"))
    (repo / "swell.toml").write_text("not committed")
    found = assemble(load_bundles(folder), repo=repo, settings=RunSettings(), allow_dirty=True, context={"model": "m"})
    assert found.header.base_commit == git(repo, "rev-parse", "HEAD")
    assert found.header.checks_toml.startswith(b"static_tools")
    assert b'"append"' in found.header.tool_profiles_json
    assert found.header.actor.startswith("user:")
    assert found.header.options.context_json == '{"model":"m"}'


def test_many_bundles_are_several_documents(bundles: Bundles) -> None:
    text = "x" * 19_000
    folder = bundles(*(bundle(f"ws-{n}", tasks=[text], scope=f"f{n}") for n in range(50)))
    many = [one for _ in range(3) for one in load_bundles(folder)]
    documents = documents_of(many)
    assert len(documents) == 3
    assert all(len(document.content) <= 1024 * 1024 for document in documents)


# Capabilities


def test_the_named_aim_registry_must_be_there_for_those_who_need_one(
    swell: Swell, repo: Path, bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIM_REGISTRY_PATH", str(tmp_path / "absent.json"))
    folder = bundles(bundle("ws-a", capability="testing"))
    for command in ("run", "plan", "validate"):
        refused(swell(command, folder, "--repo", repo), "AIM_REGISTRY_PATH", "absent.json")
    assert swell("validate", bundles(bundle("ws-a")), "--repo", repo).exit_code == 0


def test_the_named_aim_registry_is_submitted_as_it_is_and_else_the_schedulers_own_counts(
    repo: Path, bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with it the plan tells, as a warning."""
    found = load_bundles(bundles(bundle("ws-a", capability="testing")))
    monkeypatch.delenv("AIM_REGISTRY_PATH", raising=False)
    assert assemble(found, repo=repo, settings=RunSettings()).header.aim_registry_json == b""
    (tmp_path / "own.json").write_text("{broken")
    monkeypatch.setenv("AIM_REGISTRY_PATH", str(tmp_path / "own.json"))
    assert assemble(found, repo=repo, settings=RunSettings()).header.aim_registry_json == b"{broken"
    (tmp_path / "own.json").write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(SwellError, match="larger than 1048576 bytes"):
        assemble(found, repo=repo, settings=RunSettings())


def test_validate_tells_what_the_limits_of_the_registry_refuse(
    swell: Swell, repo: Path, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIM_REGISTRY_PATH", raising=False)
    told = swell("validate", bundles(bundle("ws-a", scope="conf/.env", capability="testing")), "--repo", repo)
    assert told.exit_code == 2
    assert "FORBIDDEN_PATH ws-a: capability testing: files 'conf/.env' is forbidden by '**/.env'" in told.output
