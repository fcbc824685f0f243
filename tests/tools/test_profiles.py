"""Tool profiles: what a file may say, and what becomes of placeholders."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.profiles import (
    PROFILES_BYTES,
    PlaceholderError,
    ProfileError,
    Report,
    ToolProfile,
    load_tool_profiles,
    model_of,
    overlay,
    parse_tool_profiles,
    placeholders,
    shipped_tool_profiles,
    substitute,
    substitute_one,
)


def parse(document) -> dict[str, ToolProfile]:
    return parse_tool_profiles(json.dumps(document).encode(), "profiles.json")


def test_both_spellings_mean_the_same():
    kebab = parse({"t": {"binary": "x", "timeout-sec": 5, "working-dir": "d", "success-exit-codes": [0, 5]}})
    snake = parse({"t": {"command": "x", "timeout_sec": 5, "working_dir": "d", "success_exit_codes": [0, 5]}})
    assert kebab == snake
    assert kebab["t"].success_exit_codes == (0, 5)


def test_what_a_failed_tool_means_and_who_stands_in_for_it():
    found = parse(
        {
            "t": {
                "command": "x",
                "error-classes": {"41": "auth", "173": "rate_limited"},
                "fallback": ["u", "v"],
                "idle-timeout-sec": 0,
            }
        }
    )["t"]
    assert [found.error_class(code) for code in (41, 173, 1, None)] == [
        "auth",
        "rate_limited",
        "tool_failed",
        "tool_failed",
    ]
    assert found.fallback == ("u", "v")
    assert found.idle_timeout_sec == 0


def test_the_form_of_the_readme_is_understood():
    found = parse(
        {
            "aider": {
                "binary": "aider",
                "args": ["--yes", "--message", "{prompt}"],
                "env": {"AIDER_NO_GIT": "1"},
                "timeout_sec": 300,
            }
        }
    )
    assert found["aider"].command == "aider"
    assert found["aider"].timeout_sec == 300
    assert found["aider"].success_exit_codes == (0,)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"t": {"command": "x", "tmeout": 1}}, "unknown field 'tmeout'"),
        ({"t": {"command": "x", "report": {"format": "sarif9"}}}, "report"),
        ({"t": {"command": "x", "report": {"fmt": "none"}}}, "fmt"),
        ({"t": {"args": []}}, "command"),
        ({"t": {"command": ""}}, "must not be empty"),
        ({"t": {"command": "x", "binary": "y"}}, "given twice"),
        ({"t": {"command": "x", "fallback": ["t"]}}, "fallback names the tool itself"),
        ({"t": {"command": "x", "fallback": ["a", "a"]}}, "each once"),
        ({"t": {"command": "x", "fallback": [""]}}, "each once"),
        ({"t": {"command": "x", "fallback": [str(n) for n in range(11)]}}, "at most 10"),
        ({"t": {"command": "x", "error_classes": {"41": "no_key"}}}, "error_classes"),
        ({"t": {"command": "x", "error_classes": {"041": "auth"}}}, '"0" to "255"'),
        ({"t": {"command": "x", "error_classes": {"-1": "auth"}}}, '"0" to "255"'),
        ({"t": {"command": "x", "error_classes": {"9" * 5000: "auth"}}}, '"0" to "255"'),
        ({"t": {"command": "x", "error_classes": {"0": "auth"}}}, "calls a success"),
        ({"t": {"command": "x", "idle_timeout_sec": -1}}, "idle_timeout_sec"),
        ({"t": {"command": "x", "timeout_sec": 0}}, "timeout_sec must be above 0"),
        ({"t": {"command": "x", "args": "no list"}}, "args"),
        ({"t": {"command": "x", "env": {"A": 1}}}, "env"),
        ({"t": []}, "must be an object"),
        ([], "must be an object"),
        ({"t": {"command": "x", "grace_sec": 3e6}}, "grace_sec must be at least 0 and at most 60"),
        ({"t": {"command": "x", "timeout-sec": 30 * 86_400 + 1}}, "timeout_sec must be above 0 and at most 2592000"),
        ({"t": {"command": "x", "idle_timeout_sec": 1e9}}, "idle_timeout_sec must be above 0 and at most 2592000"),
        ({"t": {"command": "x", "output_bytes": 2**53 + 1}}, "output_bytes is 9007199254740993, not a finite number"),
        ({"t": {"command": "x", "success_exit_codes": [0, 10**400]}}, "success_exit_codes[1] is 1000"),
        ({"t": {"command": "x", "args": ["a"] * 1001}}, "args has 1001 entries. Use at most 1000"),
        ({"t": {"command": "x", "env": {f"N{n}": "" for n in range(1001)}}}, "env has 1001 entries"),
        ({"t": {"command": "x", "args": ["a", "ä" * 32_769]}}, "args[1] is 65538 bytes long"),
        ({"t": {"command": "x", "args": [[[[[[["a"]]]]]]]}}, "nested too deeply"),
        ({"t": {"command": "x\0"}}, "command holds NUL"),
        ({"t": {"binary": "x", "fix-args": ["", "a\0b"]}}, "fix-args[1] holds NUL"),
        ({"t": {"command": "x", "env": {"A": "\0"}}}, "env['A'] holds NUL"),
        ({"t": {"command": "x", "env": {"A\0": ""}}}, "a name in env holds NUL"),
        ({"t": {"command": "x", "report": {"source": "\0"}}}, "report['source'] holds NUL"),
        ({"t": {"command": "x", "stdin": "\ud800"}}, "stdin holds half of a surrogate pair"),
        ({"t": {"command": "x", "working_dir": "\udc80"}}, "working_dir holds half of a surrogate pair"),
        ({"t\ud800": {"command": "x"}}, "its id holds half of a surrogate pair"),
        ({"t\0": {"command": "x"}}, "its id holds NUL"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(document, said):
    with pytest.raises(ProfileError, match=r"profiles\.json") as raised:
        parse(document)
    assert said in str(raised.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_by_name(number):
    """The JSON reader takes them, and the next writer would make them null."""
    data = f'{{"t": {{"command": "x", "idle-timeout-sec": {number}}}}}'.encode()
    with pytest.raises(ProfileError, match=r"profiles\.json: tool 't': idle-timeout-sec is .*not a finite number"):
        parse_tool_profiles(data, "profiles.json")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e308])
def test_a_profile_made_in_python_has_the_same_limits(number):
    for name in ("timeout_sec", "idle_timeout_sec", "grace_sec"):
        with pytest.raises(ValueError, match=f"{name} must be .* at most"):
            ToolProfile(command="x", **{name: number})


def test_whole_surrogate_pairs_are_letters():
    found = parse_tool_profiles(b'{"t": {"command": "x", "args": ["\\ud83d\\ude00"]}}', "profiles.json")
    assert found["t"].args == ("\U0001f600",)


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"a": {}, "a": {}}', b"[" * 100_000, b" " * (PROFILES_BYTES + 1)])
def test_hostile_bytes_are_refused(data):
    with pytest.raises(ProfileError):
        parse_tool_profiles(data, "profiles.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"absent\.json"):
        load_tool_profiles(tmp_path / "absent.json")


def test_the_shipped_profiles_load():
    found = shipped_tool_profiles()
    assert {"echo", "ruff", "mypy", "pytest", "black", "yamllint", "codespell", "gitleaks"} <= set(found)
    assert {"aider", "claude", "codex"} <= set(found)
    assert found["pytest"].success_exit_codes == (0,)
    assert found["pytest"].report == Report(format="junit-xml", source="{scratch}/junit.xml")


def test_the_shipped_profiles_name_no_placeholder_that_a_step_does_not_have():
    context = {"prompt": "", "prompt_file": "", "files": [], "cwd": "", "scratch": ""}
    for profile in shipped_tool_profiles().values():
        substitute((*profile.args, *(profile.fix_args or ()), *profile.env.values(), profile.stdin or ""), context)


def test_json_in_the_shipped_profiles_is_json_when_it_reaches_the_tool():
    """Two braces in a row would come out as one."""
    found = 0
    for profile in shipped_tool_profiles().values():
        for text in [
            *profile.home_files.values(),
            *(substitute_one(value, {"scratch": ""}) for value in profile.env.values()),
        ]:
            if text.startswith("{"):
                json.loads(text)
                found += 1
    assert found == 2


def test_a_group_of_arguments_is_there_when_all_of_its_values_are():
    arguments = ("a", ["--model", "{model}"], ["--at={x}", "{y}"], ["-f", "{files}"], "z")
    assert substitute(arguments, {}) == ["a", "z"]
    assert substitute(arguments, {"model": "", "x": 1, "files": []}) == ["a", "z"]
    context = {"model": "m {x}", "x": 0, "y": "b", "files": ["f", "g"]}
    assert substitute(arguments, context) == ["a", "--model", "m {x}", "--at=0", "b", "-f", "f", "g", "z"]


def test_groups_and_their_placeholders_are_read():
    found = parse({"t": {"command": "x", "args": ["a", ["--model", "{model}"]], "fix_args": [["{files}"]]}})["t"]
    assert found.args == ("a", ("--model", "{model}"))
    assert placeholders(found, fix=False) == {"model"}
    assert placeholders(found, fix=True) == {"files"}


def test_an_overlay_replaces_whole_profiles():
    base = parse({"a": {"command": "a", "timeout_sec": 9}, "b": {"command": "b"}})
    merged = overlay(base, parse({"a": {"command": "other"}}))
    assert merged["a"] == ToolProfile(command="other")
    assert merged["b"] == base["b"]


def test_files_alone_become_one_argument_each():
    assert substitute(["x", "{files}", "y"], {"files": ["a b.py", "c.py"]}) == ["x", "a b.py", "c.py", "y"]
    assert substitute(["{files}"], {"files": []}) == []
    assert substitute(["--files={files}"], {"files": ["a", "b"]}) == ["--files=a b"]


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_value_is_never_looked_at_again(prompt):
    """A prompt with placeholders, quotes or shell text stays one argument, letter by letter."""
    assert substitute(["--message", "{prompt}"], {"prompt": prompt, "files": ["no"]}) == ["--message", prompt]


def test_prompt_with_placeholders_and_shell_text_stays_literal():
    prompt = "{files} {nope} {{x}} $(rm -rf /) `id` ; & | \" ' \n"
    assert substitute(["{prompt}"], {"prompt": prompt, "files": ["a"]}) == [prompt]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{prompt}}", "{prompt}"),
        ("{{{prompt}}}", "{P}"),
        ('{"key": 1}', '{"key": 1}'),
        ("a{prompt}b{count}", "aPb3"),
        ("{}", "{}"),
        ("{python}", sys.executable),
    ],
)
def test_braces(text, expected):
    assert substitute_one(text, {"prompt": "P", "count": 3}) == expected


@pytest.mark.parametrize(
    ("arguments", "context", "said"),
    [
        (["{nope}"], {"prompt": ""}, r"unknown placeholder \{nope\}.*prompt"),
        (["{files}"], {}, "names no files"),
        (["{files}"], {"files": "a b"}, "list of paths"),
        (["{flag}"], {"flag": True}, "bool"),
        (["{deep}"], {"deep": {}}, "dict"),
        (["{prompt.x} {prompt_}"], {"prompt": ""}, "prompt_"),
        (["a {prompt}"], {"prompt": "a\0b"}, r"\{prompt\} stands for a text that holds NUL"),
        (["{files}"], {"files": ["a", "b\0"]}, r"\{files\} stands for a text that holds NUL"),
        (["--files={files}"], {"files": ["b\0"]}, r"\{files\} stands for a text that holds NUL"),
    ],
)
def test_what_the_context_does_not_have_is_refused(arguments, context, said):
    with pytest.raises(PlaceholderError, match=said):
        substitute(arguments, context)


@pytest.mark.parametrize(
    ("arguments", "context", "model"),
    [
        ([["--model", "{claude_model}"]], {"claude_model": "opus", "codex_model": "o4"}, "opus"),
        (["-m={model}"], {"model": "gpt-4"}, "gpt-4"),
        ([["--model", "{claude_model}"]], {"codex_model": "o4", "model": "m"}, ""),
        (["{claude_model}"], {"claude_model": 7}, ""),
        (["{prompt}"], {"model": "m"}, ""),
    ],
)
def test_the_model_of_a_call_is_the_one_that_the_context_names(arguments, context, model):
    profile = parse_tool_profiles(json.dumps({"t": {"command": "t", "type": "ai", "args": arguments}}).encode(), "f")[
        "t"
    ]
    assert model_of(profile, context, fix=False) == model


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "ai", "context_tokens": 0}, "context_tokens must be above 0"),
        ({"type": "test", "context_tokens": 9000}, 'context_tokens is given, but type is test; set type to "ai"'),
    ],
)
def test_a_window_is_for_ai_tools_and_above_nothing(fields, said):
    with pytest.raises(ProfileError, match=said):
        parse_tool_profiles(json.dumps({"t": {"command": "t", **fields}}).encode(), "f")
