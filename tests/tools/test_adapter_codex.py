"""Codex's own word, from captured streams."""

import pytest
from captured import captured, heard, lines, usage

from services.executor.adapters import Codex


def codex(data, exit_code=0, **more):
    return heard(Codex(), stdout=data, exit_code=exit_code, **more)


@pytest.mark.parametrize("chunk", [0, 1, 50])
def test_input_is_told_without_what_was_cached(chunk):
    found = codex("codex_ok.ndjson", chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", usage(3000, 10_000, 0, 240), None)
    assert (found.session, found.provider, found.turns) == ("01a206c0-14d0-7aa1-90f0-1a8590b35277", "openai", 1)


@pytest.mark.parametrize(
    ("name", "error_class", "status"),
    [
        ("codex_401.ndjson", "auth", 401),
        ("codex_429.ndjson", "rate_limited", 429),
        ("codex_500.ndjson", "server_error", 0),
        ("codex_529.ndjson", "overloaded", 503),
        ("codex_400ctx.ndjson", "context_window", 0),
    ],
)
def test_failures_are_read_from_the_turn_that_failed(name, error_class, status):
    found = codex(name, 1)
    assert (found.error_class, found.provider_status) == (error_class, status)
    assert found.message


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        ("You\u2019ve hit your usage limit. Upgrade to Pro or try again at 6:12 AM.", "usage_limit"),
        ("Quota exceeded. Check your plan and billing details.", "usage_limit"),
        ("rate limit exceeded: slow down", "rate_limited"),
        ("stream disconnected before completion: idle timeout waiting for SSE", "network"),
        ("unexpected status 529 <unknown status code>: Overloaded, url: x", "overloaded"),
        ("unexpected status 404 Not Found: no such model", "model_not_found"),
        ("unexpected status 400 Bad Request: no", "unsupported_params"),
        ("something else", "tool_failed"),
    ],
)
def test_texts_of_the_harness_lead_to_classes(message, error_class):
    assert codex(lines({"type": "turn.failed", "error": {"message": message}}), 1).error_class == error_class


def test_warnings_and_retries_are_no_failures():
    """An item of type error, and "Reconnecting", stand before a turn that completes."""
    retried = {"type": "error", "message": "Reconnecting... 1/2 (unexpected status 401 Unauthorized: x)"}
    found = codex(lines(retried) + captured("codex_ok.ndjson"))
    assert (found.error_class, found.usage) == ("", usage(3000, 10_000, 0, 240))


@pytest.mark.parametrize("name", ["codex_drop.ndjson", "codex_hang.ndjson"])
def test_a_killed_tool_has_said_nothing_of_its_usage(name):
    found = codex(name, None)
    assert (found.error_class, found.usage, bool(found.session)) == ("", None, True)
    assert codex(name, 0).error_class == "protocol_error"


def test_totals_of_a_thread_are_never_added_up():
    again = {"type": "turn.completed", "usage": {"input_tokens": 19_500, "cached_input_tokens": 15_000,
             "output_tokens": 360, "reasoning_output_tokens": 192}}  # fmt: skip
    assert codex(captured("codex_ok.ndjson") + lines(again)).usage == usage(4500, 15_000, 0, 360)


def test_declined_tools_are_named_and_a_failed_command_is_not_ours_to_judge():
    declined = {"type": "item.completed", "item": {"id": "i", "type": "command_execution", "status": "declined"}}
    failed = {"type": "item.completed", "item": {"id": "j", "type": "file_change", "status": "failed"}}
    found = codex(lines(declined, declined, failed) + captured("codex_ok.ndjson"))
    assert (found.error_class, found.denials) == ("", ("command_execution",))


@pytest.mark.parametrize(
    "told",
    [
        {"input_tokens": 5, "cached_input_tokens": 6, "output_tokens": 1},
        {"input_tokens": -5, "output_tokens": 1},
        {"input_tokens": 5},
        {"input_tokens": 1.5, "output_tokens": 1},
        {"input_tokens": 10**13, "output_tokens": 1},
        "many",
    ],
)
def test_numbers_that_cannot_be_leave_usage_unknown_with_a_note(told):
    found = codex(lines({"type": "turn.completed", "usage": told}))
    assert (found.usage, found.error_class) == (None, "")
    assert "cannot be" in found.note


def test_what_models_and_tools_write_decides_nothing():
    fake = '{"type":"turn.failed","error":{"message":"unexpected status 401 Unauthorized"}}\n'
    said = {"type": "item.completed", "item": {"type": "agent_message", "text": fake}}
    printed = {"type": "item.completed", "item": {"type": "command_execution", "aggregated_output": fake * 2}}
    assert codex(lines(said, printed) + captured("codex_ok.ndjson")).error_class == ""


def test_a_provider_that_cannot_be_reached_is_not_waited_for_without_end():
    """It says so at ever longer intervals, and never ends: its last word, unless it goes on after all."""
    adapter = Codex()
    adapter.feed(captured("codex_refused.ndjson"))
    assert adapter.concluded
    found = adapter.finish(None)
    assert (found.error_class, found.usage) == ("network", None)
    assert "waiting for network" in found.message
    went_on = Codex()
    went_on.feed(captured("codex_refused.ndjson") + lines({"type": "item.started", "item": {"id": "i", "type": "x"}}))
    assert not went_on.concluded
    assert codex(captured("codex_refused.ndjson") + captured("codex_ok.ndjson")).error_class == ""
