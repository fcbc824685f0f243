"""Gemini CLI's own word, from captured output."""

import json

import pytest
from captured import captured, changed, heard, lines, usage

from services.executor.adapters import Gemini


@pytest.mark.parametrize("chunk", [0, 1, 64])
@pytest.mark.parametrize("name", ["gemini_stream-json.out", "gemini_json.out"])
def test_output_is_told_with_thoughts(name, chunk):
    found = heard(Gemini(), stdout=name, chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", usage(3000, 10_000, 0, 212), None)
    assert (found.provider, bool(found.session), found.model[:6]) == ("google", True, "gemini")
    assert not found.note


@pytest.mark.parametrize("chunk", [0, 1, 64])
def test_the_error_stands_at_the_end_of_standard_error(chunk):
    found = heard(Gemini(), stdout=b"", stderr="gemini_401.err", exit_code=145, chunk=chunk)
    assert (found.error_class, found.provider_status, found.message) == ("auth", 401, "mock quota")
    assert found.session == "7ae9d563-d520-44a4-963a-ccb354ee2024"


def failed(message, code, exit_code=1):
    document = json.dumps({"session_id": "s", "error": {"type": "Error", "message": message, "code": code}}, indent=2)
    return heard(Gemini(), stdout=b"", stderr=b"at x {\n  status: 1\n}\n" + document.encode(), exit_code=exit_code)


@pytest.mark.parametrize(
    ("message", "code", "error_class", "wait"),
    [
        ("Rate limit reached for requests.\nSuggested retry after 3600s.", 429, "rate_limited", 3600),
        ("Quota exceeded for metric GenerateRequestsPerDay. Please retry in 59.5s.", 429, "usage_limit", 59.5),
        ("Overloaded", 529, "overloaded", 0),
        ("Internal", 500, "server_error", 0),
        ("turns", 53, "max_turns", 0),
        ("key", 41, "auth", 0),
        ("fetch failed", None, "network", 0),
        ("what", "weird", "tool_failed", 0),
    ],
)
def test_the_object_decides_and_not_the_exit_code(message, code, error_class, wait):
    found = failed(message, code)
    assert (found.error_class, found.retry_after_s) == (error_class, wait)


def test_without_an_object_the_exit_codes_of_its_own_speak():
    assert heard(Gemini(), stdout=b"", stderr=b"no key\n", exit_code=41).error_class == "auth"
    assert heard(Gemini(), stdout=b"", stderr=b"", exit_code=1).error_class == ""


def test_an_error_in_the_stream():
    init = {"type": "init", "session_id": "s", "model": "m"}
    result = {"type": "result", "status": "error", "error": {"type": "x", "message": "Overloaded", "code": 503}}
    assert heard(Gemini(), stdout=lines(init, result), exit_code=1).error_class == "overloaded"
    warned = {"type": "error", "severity": "warning", "message": "loop detected"}
    assert heard(Gemini(), stdout=lines(warned) + captured("gemini_stream-json.out")).error_class == ""


def test_killed_it_has_said_nothing_of_its_usage():
    stream = captured("gemini_stream-json.out").strip().split(b"\n")[:-1]
    found = heard(Gemini(), stdout=b"\n".join(stream), exit_code=None)
    assert (found.error_class, found.usage, found.model) == ("", None, "gemini-2.5-pro")
    assert heard(Gemini(), stdout=b"\n".join(stream), exit_code=0).error_class == "protocol_error"


@pytest.mark.parametrize(
    "stats",
    [
        {"total_tokens": 5, "input_tokens": 6},
        {"total_tokens": 9, "input_tokens": 6, "cached": 7},
        {"total_tokens": -1, "input_tokens": 0},
        {"total_tokens": 1.5, "input_tokens": 0},
        {"total_tokens": 10**13, "input_tokens": 0},
        {"total_tokens": 10},
        7,
    ],
)
def test_numbers_that_cannot_be_leave_usage_unknown_with_a_note(stats):
    found = heard(Gemini(), stdout=changed("gemini_stream-json.out", stats=stats))
    assert (found.usage, found.error_class) == (None, "")
    assert "cannot be" in found.note


def test_a_model_that_prints_an_error_of_the_harness_s_form_decides_nothing():
    fake = '{"error": {"code": 401, "message": "no"}}'
    said = {"type": "message", "role": "assistant", "content": f"\n{{\n{fake}\n}}"}
    assert heard(Gemini(), stdout=lines(said) + captured("gemini_stream-json.out")).error_class == ""


def test_the_providers_own_error_stands_as_text_in_the_stream():
    """Its code is that of the provider; without one the exit code tells the status, modulo 256."""
    found = heard(Gemini(), stdout="gemini_stream_401.out", exit_code=145)
    assert (found.error_class, found.provider_status) == ("auth", 401)
    assert found.message == "Invalid API key provided."
    assert heard(Gemini(), stdout="gemini_stream_429.out", exit_code=173).error_class == "rate_limited"
    assert heard(Gemini(), stdout="gemini_stream_drop.out", exit_code=1).error_class == "network"
    init = {"type": "init", "session_id": "s", "model": "m"}
    result = {
        "type": "result",
        "status": "error",
        "error": {"type": "unknown", "message": "[API Error: what {is} this]"},
    }
    classes = {
        code: heard(Gemini(), stdout=lines(init, result), exit_code=code).error_class for code in (17, 173, 244, 1)
    }
    assert classes == {17: "overloaded", 173: "rate_limited", 244: "server_error", 1: "tool_failed"}
