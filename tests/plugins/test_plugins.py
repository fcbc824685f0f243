"""Plugins: what a manifest may say, where they are found, and in which order they check."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import plugins
from services.checks import Checks
from services.diagnostic import Category
from services.discovery import ENTRIES_MAX, PLUGINS_MAX, load_plugins, plugins_at
from services.executor.clean import CHECKERS_MAX, MARKS_MAX
from services.plugins import (
    MANIFEST_BYTES,
    PluginError,
    in_force,
    parse_manifest,
    requirement_problems,
    with_plugins,
)
from services.profiles import ProfileError, Report, ToolProfile, parse_tool_profiles

MANIFEST = {"plugin_id": "p", "name": "P", "tool": {"command": "p-check"}}


def parsed(**changes):
    document = {key: value for key, value in (MANIFEST | changes).items() if value is not None}
    return parse_manifest(json.dumps(document).encode(), "tools/p/manifest.json", "p")


def profile(*requires: str, plugin: str | None = "a plugin") -> ToolProfile:
    return ToolProfile(command="x", requires=requires, plugin=plugin)


def order(static_tools, profiles) -> list[str]:
    return list(in_force(Checks(static_tools=tuple(static_tools)), None, None, profiles).static_tools)


# Manifests


def test_a_manifest_is_a_tool_profile():
    found = parsed(
        file_extensions=[".py", ".pyi"],
        requires=["isort_fix"],
        tool={"command": "p-check", "args": ["{files}"], "success_codes": [0, 3], "timeout-sec": 9, "per_file": True},
        report={"format": "ruff-json"},
        categories={"S": "security"},
        severities={"": "warning"},
    )
    assert found == ToolProfile(
        command="p-check",
        type="static-check",
        args=("{files}",),
        success_exit_codes=(0, 3),
        timeout_sec=9,
        per_file=True,
        file_extensions=(".py", ".pyi"),
        requires=("isort_fix",),
        report=Report(format="ruff-json"),
        categories={"S": "security"},
        severities={"": "warning"},
        plugin="P",
    )


def test_both_spellings_mean_the_same():
    kebab = {"plugin-id": "p", "name": "P", "file-extensions": ["*"], "tool": {"binary": "x", "success-codes": [1]}}
    snake = {"plugin_id": "p", "name": "P", "file_extensions": ["*"], "tool": {"command": "x", "success_codes": [1]}}
    assert len({repr(parse_manifest(json.dumps(one).encode(), "m", "p")) for one in (kebab, snake)}) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plugin_id": None}, "plugin_id is missing"),
        ({"name": None}, "name is missing"),
        ({"tool": None}, "tool is missing"),
        ({"name": 7}, "name must be a text"),
        ({"name": " "}, "name must be a text"),
        ({"name": "n" * 201}, "name must be a text"),
        ({"plugin_id": "q"}, "one id stands for one plugin"),
        ({"plugin_id": 7}, "plugin_id is 7"),
        ({"plugin_id": "../p"}, "plugin_id is '../p'"),
        ({"requires": ["p"]}, "requires names the tool itself"),
        ({"requires": ["a", "a"]}, "requires must name"),
        ({"requires": "a"}, "requires"),
        ({"file_extensions": ["py"]}, "begin each with a dot"),
        ({"file_extensions": ["*.py"]}, "begin each with a dot"),
        ({"file_extensions": ["./a"]}, "begin each with a dot"),
        ({"file_extensions": ["."]}, "begin each with a dot"),
        ({"file_extensions": ".py"}, "file_extensions"),
        ({"file_extensions": [".py"] * 101}, "at most 100"),
        ({"categories": {"E": "grave"}}, "categories"),
        ({"categories": {"E" * 201: "style"}}, "categories may have"),
        ({"severities": {"E": "grave"}}, "severities"),
        ({"report": {"format": "none-such"}}, "report"),
        ({"tool": []}, "tool must be an object"),
        ({"tool": {"args": []}}, "command"),
        ({"tool": {"command": ""}}, "command must not be empty"),
        ({"tool": {"command": "x", "type": "ai"}}, "a plugin is a check"),
        ({"tool": {"command": "x", "args": "-v"}}, "args"),
        ({"tool": {"command": "x", "requires": []}}, "stands beside it"),
        ({"tool": {"command": "x", "file-extensions": []}}, "stands beside it"),
        ({"tool": {"command": "x", "plugin": "y"}}, "stands beside it"),
        ({"tool": {"command": "x", "shell": True}}, "unknown field 'shell'"),
        ({"tool": {"command": "x", "success_codes": [0], "success_exit_codes": [0]}}, "Keep one of them"),
        ({"tool": {"command": "x", "success_codes": [0], "success-codes": [0]}}, "Keep one of them"),
        ({"tool": {"command": "x", "per_file": True}}, "per_file is for a tool that is given its files"),
        ({"tool": {"command": "x", "args": ["{files}"], "per_file": True, "working_dir": "a"}}, "drop working_dir"),
        ({"tool": {"command": "x", "config_files": ["a"]}}, "config_files is for per_file checks"),
        ({"tool": {"command": "x", "args": ["{files}"], "per_file": True, "config_files": ["a*b*c*d*e"]}}, "config_files"),
        ({"module": "plugin.py"}, "unknown field 'module'"),
        ({"plugin-id": "p"}, "in two spellings"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used_says_where_and_what(changes, said):
    with pytest.raises(ProfileError, match=r"tools/p/manifest\.json") as refused:
        parsed(**changes)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be an object"),
        (b"[" * 60_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"name": "a", "name": "b"}', "stands twice"),
        (b" " * (MANIFEST_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_manifest_is_refused(data, said):
    with pytest.raises(ProfileError, match=said):
        parse_manifest(data, "m", "p")


@settings(max_examples=40)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_no_json_breaks_the_reader(value):
    for document in (value, MANIFEST | {"tool": value}, MANIFEST | {"requires": value}, MANIFEST | {"name": value}):
        with contextlib.suppress(ProfileError):
            assert parse_manifest(json.dumps(document).encode(), "m", "p").plugin


# A folder on disk


def put(folder: Path, plugin: str, **changes) -> Path:
    (folder / plugin).mkdir(parents=True)
    file = folder / plugin / "manifest.json"
    file.write_text(json.dumps(MANIFEST | {"plugin_id": plugin} | changes))
    return file


def test_every_folder_is_a_plugin_and_nothing_else_of_it_is_looked_at(tmp_path):
    put(tmp_path, "b")
    (put(tmp_path, "a").with_name("plugin.py")).write_text("raise SystemExit('loaded')")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "__pycache__").mkdir()
    found = load_plugins(tmp_path)
    assert list(found) == ["a", "b"]
    assert {one.plugin for one in found.values()} == {"P"}


def fifo(folder: Path) -> None:
    (folder / "a").mkdir()
    os.mkfifo(folder / "a" / "manifest.json")


def linked_manifest(folder: Path) -> None:
    outside = put(folder.parent / "outside", "a")
    (folder / "a").mkdir()
    (folder / "a" / "manifest.json").symlink_to(outside)


def linked_folder(folder: Path) -> None:
    (folder / "a").symlink_to(put(folder.parent / "outside", "a").parent)


def device(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "manifest.json").mkdir()


def too_large(folder: Path) -> None:
    put(folder, "a", name="n" * MANIFEST_BYTES)


def too_many(folder: Path) -> None:
    for number in range(PLUGINS_MAX + 1):
        (folder / f"p{number}").mkdir()


def same_id_twice(folder: Path) -> None:
    put(folder, "a")
    put(folder, "b").write_text(json.dumps(MANIFEST | {"plugin_id": "a"}))


@pytest.mark.parametrize(
    ("hazard", "said"),
    [
        (fifo, "a/manifest.json: is no regular file"),
        (linked_manifest, "a/manifest.json: cannot be read"),
        (linked_folder, "'a' is a link, not a folder"),
        (device, "a/manifest.json: is no regular file"),
        (too_large, "a/manifest.json: larger than"),
        (too_many, "there are 101 plugins"),
        (same_id_twice, "b/manifest.json: plugin_id is 'a', and its folder is 'b'"),
        (lambda folder: (folder / "a").mkdir(), "a/manifest.json: there is no such file"),
        (Path.rmdir, "Check the path to the plugins"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_as_a_whole(tmp_path, hazard, said):
    folder = tmp_path / "plugins"
    folder.mkdir()
    hazard(folder)
    with pytest.raises(PluginError) as refused:
        load_plugins(folder)
    assert said in str(refused.value)


# A folder of a commit


def git(repo: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    done = subprocess.run(("git", *identity, *arguments), cwd=repo, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def committed(repo: Path) -> str:
    if not (repo / ".git").exists():
        git(repo, "init", "--quiet")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "x")
    return git(repo, "rev-parse", "HEAD")


def test_plugins_are_those_of_the_commit_whatever_the_checkout_holds(tmp_path):
    put(tmp_path / "tools" / "plugins", "a")
    (tmp_path / "tools" / "plugins" / "README.md").write_text("about")
    commit = committed(tmp_path)
    put(tmp_path / "tools" / "plugins", "b")
    (tmp_path / "tools" / "plugins" / "a" / "manifest.json").write_text("{")
    for folder in ("tools/plugins", "tools/plugins/", "./tools/plugins"):
        assert list(plugins_at(tmp_path, commit, folder)) == ["a"]


@pytest.mark.parametrize(
    ("hazard", "said"),
    [
        (linked_manifest, "a/manifest.json at"),
        (linked_folder, "'a' is a link"),
        (too_large, "over 65536"),
        (same_id_twice, "b/manifest.json at"),
        (lambda folder: (folder / "a").mkdir() or (folder / "a" / "plugin.py").touch(), "no such file"),
        (Path.rmdir, "plugins at"),
    ],
)
def test_a_commit_whose_plugins_cannot_be_used_is_refused(tmp_path, hazard, said):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (tmp_path / "file").touch()
    hazard(folder)
    commit = committed(tmp_path)
    with pytest.raises(PluginError) as refused:
        plugins_at(tmp_path, commit, "plugins")
    assert said in str(refused.value)
    assert ENTRIES_MAX > PLUGINS_MAX


# Order


def test_plugins_come_after_the_static_tools_by_what_they_require_then_by_id():
    profiles = {
        "ruff": profile("black_fix"),
        "mypy": profile("black_fix"),
        "black_fix": profile("isort_fix"),
        "isort_fix": profile(),
        "bandit": profile(),
        "zz": profile(plugin=None),
        "aa": profile("bandit", plugin=None),
    }
    assert order(("zz", "aa"), profiles) == ["zz", "bandit", "aa", "isort_fix", "black_fix", "mypy", "ruff"]
    assert requirement_problems(order(("zz", "aa"), profiles), profiles) == []


def test_a_plugin_that_is_named_as_a_static_tool_stands_where_it_is_named():
    assert order(("b", "x", "b"), {"a": profile(), "b": profile()}) == ["b", "x", "a"]


def test_what_is_no_plugin_is_no_check_of_everybody():
    assert order((), {"a": profile(plugin=None), "b": profile()}) == ["b"]


@pytest.mark.parametrize(
    ("profiles", "said"),
    [
        ({"b": profile("c"), "c": profile("b"), "a": profile("b")}, "b/manifest.json: requires goes round in a circle: b -> c -> b"),
        ({"b": profile("b")}, "b -> b"),
        ({f"p{n}": profile(f"p{(n + 1) % 30}") for n in range(30)}, "p9 -> ..."),
        ({"a": profile("nobody")}, "a/manifest.json: requires names 'nobody', which is no check of the same workstream"),
    ],
)  # fmt: skip
def test_what_is_required_in_vain_is_told(profiles, said):
    (problem,) = requirement_problems(order((), profiles), profiles)
    assert said in problem.message
    assert problem.remedy
    assert sorted(order((), profiles)) == sorted(profiles), "nothing gets lost even then"


def test_a_profile_that_is_no_plugin_is_named_as_one():
    profiles = {"a": profile("nobody", plugin=None)}
    (problem,) = requirement_problems(("a",), profiles)
    assert problem.message.startswith("the tool profile 'a': requires")


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh")), min_size=1))
def test_whatever_is_required_everything_is_checked_once_and_after_what_it_requires(graph):
    profiles = {name: profile(*sorted(others)) for name, others in graph.items()}
    found = order((), profiles)
    assert sorted(found) == sorted(graph)
    problems = requirement_problems(found, profiles)
    if not any(problem.code == "REQUIREMENT_CYCLE" for problem in problems):
        assert all(found.index(other) < found.index(name) for name in graph for other in graph[name] & graph.keys())


def test_an_id_stands_for_a_plugin_or_for_a_profile():
    with pytest.raises(PluginError, match="'a' has the id of the plugin 'a'"):
        with_plugins({"a": ToolProfile(command="x")}, {"a": profile()})
    assert list(with_plugins({"b": ToolProfile(command="x")}, {"a": profile()})) == ["b", "a"]


# The document


TEXT = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


def test_the_documents_manifests_can_be_used_together():
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    manifests = [block for block in blocks if "plugin_id" in block]
    found = {one["plugin_id"]: parse_manifest(json.dumps(one).encode(), "m", one["plugin_id"]) for one in manifests}
    assert order((), found) == ["json-syntax", "ruff-style"]
    assert requirement_problems(order((), found), found) == []
    (example,) = [block for block in blocks if "plugin_id" not in block]
    assert parse_tool_profiles(json.dumps(example).encode(), "p")["my-linter"].per_file


def test_the_document_names_every_field_every_category_and_the_limits():
    section = TEXT.partition("## Manifest")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(plugins.FIELDS)
    section = TEXT.partition("## Categories")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == get_args(Category)
    for said in (
        f"At most {PLUGINS_MAX}.",
        f"{CHECKERS_MAX} checkers, {MARKS_MAX:,} files each",
        f"{MANIFEST_BYTES // 1024} KiB",
    ):
        assert said in TEXT
