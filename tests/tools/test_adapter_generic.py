"""Tools that Swell does not know, read as their profiles say."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from captured import captured, heard, lines, reported, usage

from services.executor.adapters import adapter_of, file_of
from services.profiles import ProfileError, Result, parse_tool_profiles

JSON = {
    "format": "json",
    "usage": {"input": "/usage/in", "cache_read": "/usage/cached", "output": "/usage/out"},
    "cost_usd": "/cost",
    "model": "/model",
    "session": "/id",
    "turns": "/turns",
    "provider": "acme",
    "error": {"when": "/error", "message": "/error/text", "code": "/error/code", "classes": {"429": "rate_limited"}},
}
NDJSON = {
    "format": "ndjson",
    "select": {"/type": "step_finish"},
    "repeated": "sum",
    "usage": {
        "input": "/part/tokens/input", "cache_read": "/part/tokens/cache/read", "cache_write": "/part/tokens/cache/write",
        "output": "/part/tokens/output", "reasoning": "/part/tokens/reasoning", "output_includes_reasoning": False,
    },
    "cost_usd": "/part/cost",
    "session": "/sessionID",
}  # fmt: skip
TEXT = {
    "format": "text",
    "usage": {"input": "Tokens in", "output": "Tokens out"},
    "cost_usd": "Cost",
    "model": "Model",
    "error": {"when": "FATAL", "classes": {"401": "auth", "quota": "usage_limit"}},
}


def profile(result, **fields):
    document = {"t": {"command": "t", "type": "ai", "adapter": "generic", "result": result, **fields}}
    return parse_tool_profiles(json.dumps(document).encode(), "profiles.json")["t"]


def told(result, data, exit_code=0, **more):
    adapter = adapter_of(profile(result))
    (source,) = adapter.sources
    return heard(adapter, exit_code=exit_code, **{source: data}, **more)


@pytest.mark.parametrize("chunk", [0, 1])
def test_one_object(chunk):
    data = {"usage": {"in": 7, "cached": 5, "out": 3}, "cost": 0.25, "model": "m1", "id": "s1", "turns": 4}
    found = told(JSON, json.dumps(data, indent=1).encode(), chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", usage(7, 5, 0, 3), reported(250_000_000))
    assert (found.model, found.session, found.turns, found.provider) == ("m1", "s1", 4, "acme")
    found = told(JSON | {"usage": JSON["usage"] | {"input_includes_cache": True}}, json.dumps(data).encode())
    assert found.usage == usage(2, 5, 0, 3)


@pytest.mark.parametrize(
    ("error", "error_class", "message"),
    [
        ({"code": 429, "text": "slow down"}, "rate_limited", "slow down"),
        ({"code": "429"}, "rate_limited", "it says that it failed"),
        ({"code": True, "text": "x"}, "tool_failed", "x"),
        ("bad", "tool_failed", "it says that it failed"),
        (None, "", ""),
        (False, "", ""),
        ("", "", ""),
    ],
)
def test_errors_of_one_object(error, error_class, message):
    found = told(JSON, json.dumps({"error": error}).encode(), 0)
    assert (found.error_class, found.message) == (error_class, message)


def test_lines_that_are_parts_of_a_sum():
    """The profile of a tool that has an adapter of its own reads the same numbers."""
    found = told(NDJSON, captured("opencode.ndjson"))
    assert (found.usage, found.cost) == (usage(3000, 10_000, 0, 240), reported(15_600_000))
    assert told(NDJSON, captured("opencode.ndjson"), None).usage.lower_bound


def test_the_last_line_has_the_totals():
    result = {"format": "ndjson", "select": {"/type": "turn.completed"}, "usage": {"input": "/usage/input_tokens",
              "cache_read": "/usage/cached_input_tokens", "output": "/usage/output_tokens",
              "input_includes_cache": True}}  # fmt: skip
    assert told(result, captured("codex_ok.ndjson") * 2).usage == usage(3000, 10_000, 0, 240)
    assert told(result, b"").error_class == ""
    assert told(result | {"required": True}, b"noise\n{}\n").error_class == "protocol_error"
    assert told(result | {"required": True}, b"", 1).error_class == ""


def test_text_by_the_beginnings_of_lines():
    data = b"hello\nModel: x-1\nTokens in: 1,234\nTokens out = 56\r\n  Tokens in: 9\nCost: $0.0037 for all\n"
    found = told(TEXT, data)
    assert (found.usage, found.cost, found.model) == (usage(1234, 0, 0, 56), reported(3_700_000), "x-1")
    assert told(TEXT, b"FATAL: 401 no key\n").error_class == "auth"
    assert told(TEXT, b"FATAL monthly quota is used up\n").error_class == "usage_limit"
    assert told(TEXT, b"FATAL\n").error_class == "tool_failed"
    assert told(TEXT, b"the model says FATAL: 401\n").error_class == ""


@pytest.mark.parametrize("number", [-1, 1.5, 10**13, 10**400, "7", True, [], {}])
@pytest.mark.parametrize("repeated", ["last", "sum"])
def test_numbers_that_cannot_be_leave_usage_unknown_with_a_note(number, repeated):
    result = {"format": "ndjson", "repeated": repeated, "usage": {"input": "/in", "output": "/out"}}
    found = told(result, lines({"in": 1, "out": 1}, {"in": number, "out": 1}))
    assert (found.usage, found.error_class) == (None, "")
    assert found.note


def test_what_is_not_said_is_unknown_and_never_zero():
    assert told(JSON, b"{}").usage is None
    assert told(JSON, b"{}").cost is None
    assert told(JSON, b"no json").usage is None
    assert told(TEXT, b"Tokens in: many\n").usage is None


def test_a_cost_that_cannot_be_is_unknown():
    for cost in ("-1", "1e99", '"NaN"', "NaN", "1e999999999"):
        assert told(JSON, b'{"cost": %s}' % cost.encode()).cost is None


def test_the_source_may_be_the_other_output_or_a_file():
    assert adapter_of(profile(JSON | {"source": "stderr"})).sources == ("stderr",)
    in_a_file = profile(JSON | {"source": "{scratch}/r.json"})
    assert (adapter_of(in_a_file).sources, file_of(in_a_file)) == (("file",), "{scratch}/r.json")
    assert file_of(profile(JSON)) is None


def test_a_document_that_is_too_long_is_noted():
    found = told(JSON, b'{"a": "' + b"x" * 5_000_000 + b'"}')
    assert (found.usage, "longer than" in found.note) == (None, True)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({}, "format"),
        ({"format": "xml"}, "format"),
        ({"format": "json", "usge": {}}, "usge"),
        ({"format": "json", "usage": {"inptu": "/a"}}, "inptu"),
        ({"format": "json", "usage": {"input": "a"}}, "result.usage.input is 'a': a JSON pointer begins with /"),
        ({"format": "json", "cost_usd": "/a~2"}, "result.cost_usd is '/a~2': in a JSON pointer ~ is written ~0"),
        ({"format": "json", "model": "/a" * 21}, "at most 20 steps"),
        ({"format": "json", "error": {}}, "when"),
        ({"format": "json", "error": {"when": ""}}, "result.error.when must not be empty"),
        ({"format": "json", "error": {"when": "/e", "classes": {"1": "nonsense"}}}, "nonsense"),
        ({"format": "json", "error": {"when": "/e", "classes": {"1": ""}}}, "leads to no class"),
        ({"format": "json", "select": {"/a": 1}}, "set format to ndjson"),
        ({"format": "ndjson", "select": {"a": 1}}, "result.select is 'a'"),
        ({"format": "text", "turns": "Turns"}, "text has no place for"),
        ({"format": "json", "source": ""}, "result.source must be"),
        ({"format": "json", "repeated": "first"}, "repeated"),
    ],
)
def test_a_bad_reading_is_refused_by_file_tool_and_field(result, said):
    with pytest.raises(ProfileError, match=r"profiles\.json: tool 't'") as raised:
        profile(result)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"adapter": "generic"}, "needs it; give both, or neither"),
        ({"result": JSON}, "needs it; give both, or neither"),
        ({"adapter": "claude", "result": JSON}, "needs it; give both, or neither"),
        ({"adapter": "gpt"}, "adapter"),
        ({"adapter": "claude", "type": "test"}, 'set type to "ai", or drop it'),
        ({"adapter": "aider", "args": ["--message-file", "{prompt_file}"]}, 'add "--analytics-log"'),
        ({"adapter": "codex", "args": ["exec", "resume", "--last"]}, "drop resume"),
        ({"args": [["--quiet"]]}, "which holds no placeholder; drop its brackets"),
        ({"args": [["{a}", ["{b}"]]]}, "args"),
        ({"provider": ""}, "provider must have 1 to 200 characters"),
        ({"model": "x" * 201}, "model must have 1 to 200 characters"),
        ({"model": "big", "type": "test"}, "model is given, but type is test"),
        ({"home_files": {"../x": ""}}, "without .."),
        ({"home_files": {"/etc/x": ""}}, "below the home folder"),
        ({"home_files": {"": ""}}, "below the home folder"),
        ({"home_files": {f"f{n}": "" for n in range(21)}}, "at most 20"),
    ],
)
def test_what_adapters_need_is_asked_of_a_profile(fields, said):
    document = {"t": {"command": "t", "type": "ai", **fields}}
    with pytest.raises(ProfileError, match=r"profiles\.json: tool 't'") as raised:
        parse_tool_profiles(json.dumps(document).encode(), "profiles.json")
    assert said in str(raised.value)


def test_a_reading_survives_the_way_into_a_run_s_definition():
    whole = profile(NDJSON)
    assert msgspec.json.decode(msgspec.json.encode(whole), type=type(whole)) == whole
    assert isinstance(whole.result, Result)


def test_the_example_of_the_documentation_is_read():
    text = (Path(__file__).parents[2] / "docs" / "tool-profiles.md").read_text()
    (example,) = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"generic"' in block]
    reading = parse_tool_profiles(example.encode(), "docs")["my-agent"].result
    done = {"type": "done", "usage": {"prompt": 9, "cached": 4, "completion": 2, "cost": 0.5}, "error": {"status": 401}}
    found = heard(adapter_of(profile(msgspec.to_builtins(reading))), stdout=lines({"type": "start"}, done))
    assert (found.usage, found.cost, found.error_class) == (usage(5, 4, 0, 2), reported(500_000_000), "auth")


def test_what_was_spent_so_far_is_told_line_by_line():
    adapter = adapter_of(profile({"format": "ndjson", "repeated": "sum", "cost_usd": "/usd", "provider": "p"}))
    adapter.feed(lines({"usd": 0.25}, {"usd": 0.5}))
    [part] = adapter.so_far()
    assert (part.cost, part.provider) == (reported(750_000_000), "p")


@pytest.mark.parametrize(("repeated", "turns"), [("sum", 6), ("last", 4)])
def test_turns_are_repeated_as_amounts_are(repeated, turns):
    reading = {"format": "ndjson", "repeated": repeated, "usage": {"input": "/in"}, "turns": "/t"}
    told = lines({"in": 1, "t": 2}, {"in": 1, "t": "9"}, {"in": 1, "t": -9}, {"in": 1, "t": 10**30}, {"in": 1, "t": 4})
    assert heard(adapter_of(profile(reading)), stdout=told).turns == turns
