"""The AIM registry: a file that is hostile until it was read, and what of it a run keeps."""

import contextlib
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aim import (
    CAPABILITIES,
    REGISTRY_BYTES,
    Registry,
    RegistryError,
    Route,
    Security,
    beyond_limits,
    load_registry,
    missing_context,
    parse_registry,
    payload_of,
    pinned,
    registry_file,
    route_for,
)
from services.bundle import WorkstreamBundle
from services.profiles import ToolProfile, shipped_tool_profiles

SHIPPED = registry_file({})
TOOLS = {"a": {"name": "A"}, "b": {}, "c": {"capabilities": ["testing"]}}


def parse(route=None, tools=TOOLS, **more) -> Registry:
    capabilities = {} if route is None else {"refactoring": route}
    return parse_registry(json.dumps({"capabilities": capabilities, "tools": tools, **more}).encode(), "r.json")


def profile(**fields) -> ToolProfile:
    return ToolProfile(command="true", **fields)


# The shipped one


def test_the_shipped_registry_serves_every_capability_in_the_order_of_the_documents():
    registry = load_registry(SHIPPED)
    assert set(registry.capabilities) == set(CAPABILITIES)
    order = {name: route.tools for name, route in registry.capabilities.items()}
    assert order["code_generation"] == ("aider", "jules", "claude-cli")
    assert order["refactoring"] == ("aider", "claude-cli")
    assert (order["linting"], order["testing"]) == (("ruff",), ("pytest",))
    assert registry.capabilities["version_checking"].strategy == "load_balance"
    assert (registry.security.max_payload_size_bytes, registry.security.max_file_count) == (1_048_576, 50)


def test_of_the_shipped_tools_only_jules_has_no_shipped_profile_and_no_route_is_shorter_than_its_tools_need():
    registry, profiles = load_registry(SHIPPED), shipped_tool_profiles()
    able, skipped = pinned(registry, profiles, CAPABILITIES)
    assert {skip.tool for skip in skipped} == {"jules"}
    assert set(able.capabilities) == set(CAPABILITIES)
    for capability, route in able.capabilities.items():
        if capability != "version_checking":
            assert route.timeout_s == profiles[able.profiles_of(route)[0]].timeout_sec


# Where it is


def test_the_variable_names_the_file_and_must_name_one_that_is_there(tmp_path):
    own = tmp_path / "own.json"
    own.write_text("{}")
    assert registry_file({"AIM_REGISTRY_PATH": str(own)}) == own
    assert registry_file({"AIM_REGISTRY_PATH": ""}) == SHIPPED
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(RegistryError, match=r"AIM_REGISTRY_PATH: there is no file .*unset the variable"):
            registry_file({"AIM_REGISTRY_PATH": str(absent)})
    with pytest.raises(RegistryError, match="absent: cannot be read"):
        load_registry(tmp_path / "absent")


# What it may say


def test_both_spellings_are_read_and_what_older_files_say_beside_it_is_passed_over():
    tool = {
        "name": "Aider", "detectCommands": ["aider --version"], "versionCommand": ["aider", "--version"],
        "installCommand": [["pipx", "install", "aider"]], "updateCommand": [], "configPaths": ["%APPDATA%/x"],
        "logPaths": [], "capabilities": ["refactoring"], "adapterScript": None,
    }  # fmt: skip
    snake = {
        "detect_commands": ["x"], "version_command": ["aider", "--version"], "install_command": ["x"],
        "update_command": ["x"], "config_paths": ["x"], "log_paths": ["x"], "adapter_script": "x",
        "capabilities": ["refactoring"], "name": "Aider",
    }  # fmt: skip
    more = {"crossToolRulesPath": "x", "conflict_resolution": {"concurrent_access": {"strategy": "queue"}}}
    registry = parse({"primary": "a", "loadBalance": True}, {"a": tool}, **more)
    assert registry == parse({"primary": "a", "strategy": "load_balance"}, {"a": snake})
    assert registry.tools["a"].version_command == ("aider", "--version")
    assert parse({"primary": "a", "load_balance": False}).capabilities["refactoring"].strategy == "order"


REFUSED = [
    ({"primary": "x"}, r": there is no tool 'x'\. Add it to tools, or name one of: a, b, c"),
    ({"primary": "a", "fallback": ["x"]}, "there is no tool 'x'"),
    ({"primary": "a", "fallback": ["b", "a"]}, r"\.fallback: names 'a' again, the primary"),
    ({"primary": "a", "fallback": ["a"]}, "names 'a' again, the primary"),
    ({"primary": "a", "fallback": ["b", "b"]}, "names 'b' again, the same tool"),
    ({"primary": "c"}, "'c' does not have refactoring among its capabilities"),
    ({}, "missing required field `primary`"),
    ({"primary": 5}, r"\.primary: Expected `str`"),
    ({"primary": "a", "fallback": "b"}, r"\.fallback: Expected `array`"),
    ({"primary": "a", "fallback": ["b"] * 11}, "length <= 10"),
    ({"primary": "a", "timeout_ms": 999}, r"\.timeout_ms: Expected `int` >= 1000"),
    ({"primary": "a", "timeout_ms": 86_400_001}, "<= 86400000"),
    ({"primary": "a", "timeout_ms": "1000"}, "Expected `int"),
    ({"primary": "a", "timeout_ms": True}, "Expected `int"),
    ({"primary": "a", "max_retries": 6}, r"\.max_retries: Expected `int` <= 5"),
    ({"primary": "a", "max_retries": -1}, ">= 0"),
    ({"primary": "a", "strategy": "best"}, r"\.strategy: Invalid enum value 'best'"),
    ({"primary": "a", "loadBalance": "yes"}, "Expected `bool`"),
    ({"primary": "a", "loadBalance": True, "strategy": "order"}, "load_balance contradicts strategy"),
    ({"primary": "a", "loadBalance": True, "load_balance": True}, "load_balance is given twice, in two spellings"),
    ({"primary": "a", "context_requirements": {"x": "must"}}, "Invalid enum value 'must'"),
    ({"primary": "a", "context_requirements": ["x"]}, "Expected `object`"),
    ({"primary": "a", "priority": 1}, "unknown field `priority`"),
    (["a"], "must be an object, not list"),
]


@pytest.mark.parametrize(("route", "text"), REFUSED)
def test_a_wrong_route_is_refused_by_name(route, text):
    with pytest.raises(RegistryError, match=rf"^r\.json: capabilities\.refactoring.*{text}") as refused:
        parse(route)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"tools": ' * 50_000, "not valid JSON"),
        (b'{"tools": {"a": {"name": "\\ud800"}}}', "not valid JSON"),
        (b'{"tools": {}, "tools": {}}', "'tools' stands twice"),
        (b'{"tools": {"a": {}, "a": {}}}', "'a' stands twice"),
        (b'{"security": {"max_file_count": NaN}}', "NaN is no number"),
        (b'{"security": {"max_file_count": 1e999}}', "max_file_count: Expected `int`"),
        (b"[]", "must be an object, not list"),
        (b"null", "must be an object"),
        (b'{"tools": []}', "tools must be an object"),
        (b'{"tools": {"a": []}}', r"tools\.'a' must be an object"),
        (b'{"tools": {"a": {"binary": "x"}}}', r"tools\.'a': Object contains unknown field `binary`"),
        (b'{"tools": {"a": {"detectCommands": "x"}}}', r"detect_commands: Expected `array`"),
        (b'{"tools": {"a": {"versionCommand": [""]}}}', "version_command"),
        (b'{"tools": {"a": {"capabilities": ["magic"]}}}', "Invalid enum value 'magic'"),
        (b'{"tools": {"a/../b": {}}}', "the id 'a/../b'"),
        (b'{"tools": {"": {}}}', "the id ''"),
        (b'{"tools": {"a\\n": {}}}', r"the id 'a\\n'"),
        (
            b'{"capabilities": {"magic": {"primary": "a"}}}',
            "there is no capability 'magic'. Known are: code_generation",
        ),
        (b'{"preferred_tools": []}', "unknown field 'preferred_tools'"),
        (b'{"security": {"forbidden_paths": ["/etc"]}}', r"forbidden_paths: path '/etc' is absolute"),
        (b'{"security": {"forbidden_paths": ["a/../b"]}}', "contains '..'"),
        (b'{"security": {"allowed_file_patterns": ["!x"]}}', "is a negation"),
        (b'{"security": {"allowed_file_patterns": "*.py"}}', "Expected `array`"),
        (b'{"security": {"max_payload_size_bytes": 0}}', ">= 1"),
        (b'{"security": {"max_payload_size_bytes": 99999999999}}', "<= 67108864"),
        (b'{"conflict_resolution": 5}', "Expected `object`"),
        (b" " * (REGISTRY_BYTES + 1), "larger than 1048576 bytes"),
    ],
    ids=range(31),
)
def test_hostile_files_are_refused_with_a_reason(tmp_path, document, text):
    with pytest.raises(RegistryError, match=rf"^r\.json: .*{text}") as refused:
        parse_registry(document, "r.json")
    assert len(str(refused.value)) < 1000
    file = tmp_path / "r.json"
    file.write_bytes(document)
    with pytest.raises(RegistryError):
        load_registry(file)


def test_too_many_tools_and_patterns_are_refused():
    with pytest.raises(RegistryError, match=r"tools has 201 entries\. Use at most 200"):
        parse(tools={f"t{number}": {} for number in range(201)})
    with pytest.raises(RegistryError, match=r"forbidden_paths: .*length <= 100"):
        parse(security={"forbidden_paths": ["x"] * 101})


@given(st.data())
def test_any_damage_to_the_shipped_file_is_read_or_refused(data):
    whole = SHIPPED.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from([b"", whole[at + 1 :], b'"' + whole[at + 1 :], b"9" + whole[at + 1 :]]))
    with contextlib.suppress(RegistryError):
        parse_registry(whole[:at] + damage, "r.json")


# What a run keeps


def test_a_pinned_registry_leads_to_profiles_that_exist():
    tools = {"explicit": {"profile": "p"}, "declared": {}, "same": {}, "absent": {}, "wrong": {"profile": "nope"}}
    names = ["absent", "explicit", "declared", "same", "wrong"]
    registry = parse({"primary": names[0], "fallback": names[1:], "max_retries": 2}, tools)
    profiles = {"p": profile(), "q": profile(aim_tool_id="declared"), "same": profile(), "declared": profile()}
    able, skipped = pinned(registry, profiles, {"refactoring", "testing"})
    route = able.capabilities["refactoring"]
    assert (route.tools, route.max_retries) == (("explicit", "declared", "same"), 2)
    assert able.profiles_of(route) == ("p", "q", "same"), (
        "the profile that declares the tool comes before one of its name"
    )
    assert {skip.tool: skip.reason for skip in skipped} == {
        "absent": "there is no tool profile 'absent'", "wrong": "there is no tool profile 'nope'",
    }  # fmt: skip
    assert set(able.tools) == set(route.tools)
    again, none = pinned(able, profiles, {"refactoring"})
    assert (again, none) == (able, [])


def test_a_profile_is_asked_only_for_what_it_declares():
    registry = parse({"primary": "a", "fallback": ["b"]})
    profiles = {"a": profile(aim_capabilities=("testing",)), "b": profile(aim_capabilities=("refactoring",))}
    able, (skipped,) = pinned(registry, profiles, {"refactoring"})
    assert able.capabilities["refactoring"].tools == ("b",)
    assert "aim_capabilities of the tool profile 'a'" in skipped.reason


def test_a_route_without_any_tool_and_one_that_nobody_asks_for_are_left_out():
    registry = parse({"primary": "a"})
    assert pinned(registry, {}, {"refactoring"})[0].capabilities == {}
    assert pinned(registry, {"a": profile()}, {"testing"}) == (Registry(security=registry.security), [])


def test_what_is_pinned_comes_back_from_its_bytes():
    able, _ = pinned(load_registry(SHIPPED), shipped_tool_profiles(), CAPABILITIES)
    assert msgspec.json.decode(msgspec.json.encode(able), type=Registry) == able


# Limits


@pytest.mark.parametrize(
    ("payload", "timeout_s", "retries"),
    [
        ({}, 60.0, 1),
        ({"timeout_ms": 1999, "max_retries": 0}, 1.0, 0),
        ({"timeout_ms": 999, "max_retries": 6}, 60.0, 1),
        ({"timeout_ms": "5000", "max_retries": None}, 60.0, 1),
        ({"timeout_ms": True, "max_retries": True}, 60.0, 1),
    ],
)
def test_a_payloads_own_limits_are_in_force_instead_of_the_routes(payload, timeout_s, retries):
    route = route_for(Route(primary="a", timeout_ms=60_000, max_retries=1), payload)
    assert (route.timeout_s, route.max_retries) == (timeout_s, retries)


@pytest.mark.parametrize("given_value", [None, "", [], {}])
def test_what_is_required_must_be_there_and_hold_something(given_value):
    route = Route(primary="a", context_requirements={"prompt": "required", "files": "optional"})
    assert missing_context(route, {"prompt": "x"}) == []
    for payload in ({}, {"prompt": given_value}):
        (breach,) = missing_context(route, payload)
        assert (breach.code, breach.field) == ("MISSING_CONTEXT", "prompt")
        assert breach.remedy


def codes(security, payload=None, files=()):
    return [breach.code for breach in beyond_limits(security, payload or {}, files)]


def test_payload_and_files_are_limited_exactly():
    security = Security(max_payload_size_bytes=10, max_file_count=2)
    assert codes(security, {"a": "1234"}) == ["PAYLOAD_TOO_LARGE"]
    assert codes(security, {"a": "12"}) == []
    assert codes(security, files=["a", "b", "a"]) == ["TOO_MANY_FILES"]
    assert codes(security, files=["a", "b", "c"]) == ["TOO_MANY_FILES"]


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("src/a.py", False),
        ("src/secret/a.py", True),
        ("src/secret", True),
        ("src", True),
        ("src/**", True),
        ("docs", False),
        ("docs/**", False),
        (".env", True),
        ("deep/down/.env", True),
        (".env.py", False),
        ("../a.py", True),
        ("/etc/passwd", True),
        (".git/config", True),
        ("C:\\x", True),
        ("", True),
        ("a\0b", True),
    ],
)
def test_forbidden_paths_are_refused_and_what_is_known_to_hold_one(path, refused):
    """`src` holds `src/secret`, which is spelt out; whether `docs` holds an `.env` nobody knows before."""
    security = Security(forbidden_paths=("src/secret", "**/.env"))
    assert codes(security, files=[path]) == ["FORBIDDEN_PATH"] * refused


@pytest.mark.parametrize(
    ("path", "refused"),
    [("src/a.py", False), ("src/*.py", False), ("src/**/*.py", False), ("src", True), ("src/**", True), ("a.js", True)],
)
def test_with_allowed_patterns_everything_else_is_refused(path, refused):
    assert codes(Security(allowed_file_patterns=("**/*.py",)), files=[path]) == ["FORBIDDEN_PATH"] * refused


def test_a_payload_is_made_of_scope_and_tasks_and_what_the_bundle_gives_over_them():
    bundle = WorkstreamBundle(
        id="ws-a", openspec_change="OS-1", ccpm_issue=1, gate=1, files_scope=("a",), files_create=("b",), tasks=("x", "y"),
        tool="t", capability_payload={"prompt": "own", "more": [1]},
    )  # fmt: skip
    assert payload_of(bundle) == {"files": ["a", "b"], "prompt": "own", "more": [1]}


def test_the_shipped_file_is_found_whatever_the_current_folder_is(tmp_path):
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert load_registry(registry_file({})).tools
    finally:
        os.chdir(before)
