"""`execute_with_aim` with real programs: the chain, its limits, and what is kept of it."""

import json
import logging
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import swell
from services.profiles import ToolProfile
from swell import execute_with_aim, is_aim_available

SECRET = "sk-proj-0123456789abcdefghijklmn"


def sh(script: str, *arguments: str, **fields) -> ToolProfile:
    return ToolProfile(
        command="sh", args=("-c", script.replace("{", "{{").replace("}", "}}"), "sh", *arguments), **fields
    )


class Machine:
    """A machine with tools `a`, `b`, `c` and `direct`, a registry of our own, a state folder and a place to work."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worktree = folder / "work"
        self.worktree.mkdir()
        self.state = folder / "state"
        self.file = folder / "registry.json"
        self.profiles: dict[str, ToolProfile] = {}
        monkeypatch.setenv("SWELL_STATE_DIR", str(self.state))
        monkeypatch.setenv("AIM_REGISTRY_PATH", str(self.file))
        self.registry()

    def registry(self, security=None, capability="code_generation", **route) -> None:
        tools = {name: {} for name in ("a", "b", "c")}
        routes = {capability: {"primary": "a", "fallback": ["b", "c"], **route}}
        self.file.write_text(json.dumps({"capabilities": routes, "tools": tools, "security": security or {}}))

    def tools(self, **scripts: str | ToolProfile) -> None:
        """Profiles, or scripts, which note that they were run."""
        for name, tool in scripts.items():
            self.profiles[name] = sh(f"echo {name} >> ran; {tool}") if isinstance(tool, str) else tool

    def ask(self, payload=None, *, fallback="direct", capability="code_generation", **context):
        given = {"worktree_path": str(self.worktree), **context}
        return execute_with_aim(
            capability, {"prompt": "do it"} if payload is None else payload, fallback, given, "r1", "ws-a",
            profiles=self.profiles,
        )  # fmt: skip

    @property
    def ran(self) -> list[str]:
        file = self.worktree / "ran"
        return file.read_text().split() if file.exists() else []

    @property
    def audit(self) -> list[dict]:
        return [json.loads(file.read_text()) for file in sorted(self.state.glob("aim_audit/*/*.json"))]


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    made.tools(a="exit 3", b="echo bad >&2; exit 4", c="echo hi", direct="echo direct")
    return made


# Is there a registry?


def test_the_shipped_registry_is_available(monkeypatch):
    monkeypatch.delenv("AIM_REGISTRY_PATH", raising=False)
    assert is_aim_available()
    assert {"is_aim_available", "execute_with_aim"} <= set(swell.__all__)


@pytest.mark.parametrize("content", [None, "{", '{"capabilities": {"testing": {"primary": "x"}}}'])
def test_without_a_registry_there_is_one_warning_and_the_direct_tool(machine, caplog, content):
    machine.file.unlink()
    if content is not None:
        machine.file.write_text(content)
    with caplog.at_level(logging.WARNING, "swell.aim"):
        assert not is_aim_available()
        assert not is_aim_available()
        result = machine.ask()
    assert (result.success, result.tool_id, machine.ran) == (True, "direct", ["direct"])
    assert len(caplog.records) == 1
    assert str(machine.file) in caplog.text


# The chain


def test_the_first_that_succeeds_wins_and_those_after_it_are_not_asked(machine):
    machine.tools(b="echo fine")
    result = machine.ask()
    assert (result.success, result.tool_id, result.stdout) == (True, "b", "fine\n")
    assert machine.ran == ["a", "b"]


def test_tools_that_are_not_found_or_have_no_profile_are_passed_over(machine):
    machine.tools(a=ToolProfile(command="no-such-program"))
    del machine.profiles["b"]
    assert machine.ask().tool_id == "c"
    assert machine.ran == ["c"]
    assert [record["tool_id"] for record in machine.audit] == ["c"], "what was never asked leaves no record"


def test_when_all_failed_each_says_why_and_the_fallback_tool_is_run(machine):
    machine.tools(a=ToolProfile(command="no-such-program"), c="exit 5")
    result = machine.ask(fallback=None)
    assert (result.success, result.exit_code) == (False, 1)
    assert result.stderr == (
        "AIM: All tools failed for capability code_generation: a: no-such-program was not found on this machine; "
        "b: exit code 4: bad; c: exit code 5"
    )
    assert machine.ask().tool_id == "direct"


@pytest.mark.parametrize(
    ("fallback", "said"), [("direct", "direct: exit code 9: no"), ("nobody", "there is no tool profile 'nobody'")]
)
def test_when_both_fail_both_are_told(machine, fallback, said):
    machine.tools(c="exit 5", direct="echo no >&2; exit 9")
    result = machine.ask(fallback=fallback)
    assert (result.success, result.exit_code, result.stdout) == (False, 1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith("AIM: All tools failed for capability code_generation: a: exit code 3; b:")
    assert second == f"Fallback: {said}"
    assert datetime.fromisoformat(result.started_at) < datetime.fromisoformat(result.completed_at)


@pytest.mark.parametrize("capability", ["testing", "../../x\0"])
def test_a_capability_without_a_route_goes_to_the_fallback_tool(machine, capability):
    assert machine.ask(capability=capability).tool_id == "direct"
    result = machine.ask(capability=capability, fallback=None)
    assert result.stderr == f"AIM: the registry has no route for the capability {capability!r}"
    folders = set(machine.state.rglob("*.json"))
    assert all(path.parent.parent.name == "aim_audit" for path in folders)


def test_the_payload_is_merged_into_the_context_and_the_context_says_where(machine, tmp_path):
    machine.tools(a=sh('echo "$@"', "{prompt}", "{language}", "{model}", "{files}"))
    payload = {"prompt": "own", "files": ["x", "y"], "language": "python", "worktree_path": str(tmp_path / "absent")}
    result = machine.ask(payload, prompt="other", files=["z"], model="small")
    assert result.stdout == "own python small x y\n"
    assert machine.ask({"prompt": "own", "language": "c"}, model="m").stdout == "own c m\n", "no files are no error"


def test_balanced_tools_come_first_in_turn(machine):
    machine.registry(strategy="load_balance")
    machine.tools(a="", b="", c="")
    assert sorted(machine.ask().tool_id for _ in range(3)) == ["a", "b", "c"]


def test_asking_for_a_version_does_nothing_else(machine):
    """Also for a tool whose profile would start to work."""
    machine.registry(capability="version_checking")
    machine.profiles = {
        "a": ToolProfile(command="git", args=("init", "{prompt}"), type="ai", secrets={"A": "env:NONE"})
    }
    result = machine.ask(capability="version_checking")
    assert (result.success, result.command_line) == (True, "git --version")
    registry = json.loads(machine.file.read_text())
    registry["tools"]["a"] = {"versionCommand": ["sh", "-c", "echo 1.2"]}
    machine.file.write_text(json.dumps(registry))
    assert machine.ask(capability="version_checking").stdout == "1.2\n"


# Limits


def test_a_payloads_time_limit_beats_the_routes_and_is_no_reason_to_try_again(machine):
    machine.registry(timeout_ms=86_400_000, max_retries=3)
    machine.tools(a="exec sleep 60", b="echo fine")
    result = machine.ask({"prompt": "x", "timeout_ms": 1999, "max_retries": 2}, timeout_sec=500)
    assert (result.tool_id, machine.ran) == ("b", ["a", "b"])
    first = machine.audit[0]["result"]
    assert (first["timed_out"], first["exit_code"]) == (True, -1)
    assert 1 <= first["duration_sec"] < 30


def test_the_routes_time_limit_is_in_force(machine):
    machine.registry(timeout_ms=1000, fallback=[])
    machine.tools(a="exec sleep 60")
    assert machine.ask(fallback=None, timeout_sec=500).stderr.startswith(
        "AIM: All tools failed for capability code_generation: a: its time was up"
    )


def test_a_tool_that_failed_is_asked_again_as_often_as_its_route_says(machine):
    machine.registry(max_retries=1, fallback=["b"])
    machine.tools(a="test $(grep -c a ran) = 2")
    assert machine.ask().tool_id == "a"
    assert machine.ran == ["a", "a"]
    assert [record["result"]["success"] for record in machine.audit] == [False, True]


@pytest.mark.parametrize(
    "tool",
    [
        sh("echo a >> ran; exit 7", error_classes={"7": "auth"}),
        sh("echo a >> ran", working_dir="absent"),
        sh("echo a >> ran", "{nobody}"),
    ],
    ids=["wrong login", "cannot be started", "unknown placeholder"],
)
def test_what_would_fail_again_is_not_tried_again(machine, tool):
    machine.registry(max_retries=5, fallback=["b"])
    machine.tools(a=tool, b="echo fine")
    assert machine.ask().tool_id == "b"
    assert [record["tool_id"] for record in machine.audit] == ["a", "b"]


def test_a_missing_requirement_asks_no_tool_of_the_route(machine):
    machine.registry(context_requirements={"prompt": "required", "files": "required", "language": "optional"})
    result = machine.ask({"prompt": "x", "files": []}, fallback=None)
    assert result.stderr.startswith("AIM: files: is required by the route and not given")
    assert machine.ran == []
    assert machine.ask({"prompt": "x"}).tool_id == "direct"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"prompt": "x" * 300}, r"payload: is \d+ bytes of JSON, over 200"),
        ({"files": ["a", "b", "c"]}, "files: names 3 files, over 2"),
        ({"files": ["conf/.env"]}, r"files: 'conf/\.env' is forbidden by '\*\*/\.env'"),
        ({"files": ["../up"]}, "contains '..'"),
        ({"files": ["/etc/passwd"]}, "is absolute"),
        ({"files": "a"}, r"cannot be used: Expected `array`, got `str` - at `\$.files`"),
        ({"files": [5]}, r"Expected `str`, got `int`"),
        ({"prompt": 5}, r"at `\$.prompt`"),
        ({"prompt": ""}, "length >= 1"),
        ({"timeout_ms": 999}, r"at `\$.timeout_ms`"),
        ({"timeout_ms": "5"}, r"at `\$.timeout_ms`"),
        ({"max_retries": 6}, r"at `\$.max_retries`"),
        ({"x": float("nan"), "y": "\ud800"}, "must be an object of JSON"),
        ([1], "must be an object of JSON"),
        (None, "must be an object of JSON"),
    ],
)  # fmt: skip
def test_a_payload_beyond_the_limits_or_of_wrong_types_reaches_no_tool_at_all(machine, payload, said):
    machine.registry({"max_payload_size_bytes": 200, "max_file_count": 2, "forbidden_paths": ["**/.env"]})
    result = execute_with_aim(
        "code_generation", payload, "direct", {"worktree_path": machine.worktree}, profiles=machine.profiles
    )
    assert (result.success, result.exit_code) == (False, 1)
    assert re.match(rf"AIM: .*{said}", result.stderr)
    assert "Fallback" not in result.stderr
    assert (machine.ran, machine.audit) == ([], [])


def test_files_of_the_context_are_within_the_limits_as_well(machine):
    machine.registry({"forbidden_paths": ["**/.env"]})
    context = {"worktree_path": machine.worktree, "files": [".env"]}
    result = execute_with_aim("code_generation", {"prompt": "x"}, "direct", context, profiles=machine.profiles)
    assert result.stderr.startswith("AIM: files: '.env' is forbidden")
    assert machine.ran == []


def test_a_payload_that_holds_itself_is_a_failure_too(machine):
    payload: dict = {}
    payload["again"] = payload
    assert machine.ask(payload).stderr.startswith("AIM: the payload must be an object of JSON")


def test_the_shipped_route_without_any_tool_names_them_all(machine, monkeypatch):
    """What a machine without coding tools says."""
    monkeypatch.delenv("AIM_REGISTRY_PATH")
    machine.profiles = {"aider": ToolProfile(command="no-aider"), "claude": ToolProfile(command="no-claude")}
    result = machine.ask(fallback=None)
    assert re.fullmatch(
        r"AIM: All tools failed for capability code_generation: jules: .*; aider: .*not found.*; claude-cli: .*not found.*",
        result.stderr,
    )


# The audit


def test_every_invocation_leaves_one_record_of_six_fields(machine):
    before = datetime.now(UTC)
    machine.ask({"prompt": "x", "nested": {"n": [1, None, True]}})
    after = datetime.now(UTC)
    assert [record["tool_id"] for record in machine.audit] == ["a", "b", "c"] == machine.ran
    for record in machine.audit:
        assert list(record) == ["timestamp", "actor", "tool_id", "capability", "payload", "result"]
        assert before <= datetime.strptime(record["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) <= after
        assert record["actor"].startswith("user:")
        assert record["capability"] == "code_generation"
        assert record["payload"] == {"prompt": "x", "nested": {"n": [1, None, True]}}
        assert (record["result"]["run_id"], record["result"]["ws_id"]) == ("r1", "ws-a")
    assert [record["result"]["exit_code"] for record in machine.audit] == [3, 4, 0]
    for file in machine.state.glob("aim_audit/*/*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{6}_[abc]_code_generation\.json", file.name)
        assert file.name.startswith(file.parent.name)


def test_the_fallback_tool_leaves_a_record_too(machine):
    machine.tools(c="exit 1")
    machine.ask()
    assert [record["tool_id"] for record in machine.audit] == ["a", "b", "c", "direct"]


def test_no_secret_is_kept(machine, monkeypatch):
    """Neither one that a profile hands to a tool, nor what looks like one, whichever field it stands in."""
    monkeypatch.setenv("TEAM_KEY", "correct horse battery staple")
    machine.tools(a=sh("echo $KEY >&2; exit 1", secrets={"KEY": "env:TEAM_KEY"}))
    payload = {
        "prompt": f"use {SECRET}", "api_key": "0a1b2c3d4e5f6a7b8c9d", "list": [f"x {SECRET}"],
        "note": "it is correct horse battery staple", "deep": {"password": "hunter2hunter2"},
    }  # fmt: skip
    machine.ask(payload)
    kept = "".join(file.read_text() for file in machine.state.glob("aim_audit/*/*"))
    for secret in (SECRET, "0a1b2c3d4e5f6a7b8c9d", "correct horse", "hunter2hunter2"):
        assert secret not in kept
    assert machine.audit[0]["payload"]["prompt"] == "use [secret]"


def test_records_are_removed_after_thirty_days_and_nothing_else_is(machine):
    today = datetime.now(UTC).date()
    folder = machine.state / "aim_audit"
    names = [(today - timedelta(days=days)).isoformat() for days in (30, 31, 400)]
    for name in (*names, "0000-notes"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.json").write_text("{}")
    (folder / "2001-01-01").write_text("a file")
    (folder / "2001-01-02").symlink_to(machine.worktree)
    machine.state.chmod(0o700)
    machine.ask()
    left = {path.name for path in folder.iterdir()}
    assert left - {datetime.now(UTC).date().isoformat()} == {names[0], "0000-notes", "2001-01-01", "2001-01-02"}
    assert machine.worktree.is_dir()


def test_an_audit_that_cannot_be_written_costs_a_warning_and_not_the_work(machine, caplog):
    machine.state.mkdir(mode=0o700)
    (machine.state / "aim_audit").write_text("in the way")
    with caplog.at_level(logging.WARNING, "swell.aim"):
        assert machine.ask().tool_id == "c"
    assert caplog.text.count("cannot be written") == 3


async def test_it_may_be_called_while_a_loop_runs(machine):
    assert machine.ask().tool_id == "c"
