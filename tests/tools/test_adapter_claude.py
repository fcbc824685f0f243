"""Claude Code's own word, from captured streams."""

import json

import pytest
from captured import captured, changed, heard, lines, reported, usage

from services.executor.adapters import Claude

TWO_CALLS = usage(2400, 10_000, 600, 59)


def claude(data, exit_code=0, **more):
    return heard(Claude(), stdout=data, exit_code=exit_code, **more)


@pytest.mark.parametrize("chunk", [0, 1, 7, 1000])
def test_a_success_is_read_however_its_output_is_cut(chunk):
    found = claude("claude_tool.ndjson", chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", TWO_CALLS, reported(13_335_000))
    assert (found.model, found.provider, found.turns) == ("claude-sonnet-4-5", "anthropic", 2)
    assert found.session == "3d548743-bcea-4f13-a9c8-701ccdc9e440"
    assert not found.note


def test_the_single_object_of_the_json_format_is_read_as_well():
    found = claude("claude_ok.json")
    assert (found.usage, found.cost) == (usage(1200, 5000, 300, 17), reported(6_480_000))
    assert found.model == "claude-sonnet-4-5"


@pytest.mark.parametrize(
    ("name", "error_class", "status"),
    [
        ("claude_401_r1.ndjson", "auth", 401),
        ("claude_429_r1.ndjson", "rate_limited", 429),
        ("claude_500_r1.ndjson", "server_error", 500),
        ("claude_529_r1.ndjson", "overloaded", 529),
        ("claude_400ctx.json", "context_window", 400),
        ("claude_hang.ndjson", "network", 0),
        ("claude_maxturns.json", "max_turns", 0),
        ("claude_budget.json", "budget", 0),
    ],
)
def test_errors_are_errors_whatever_the_subtype_and_the_exit_code_say(name, error_class, status):
    """`subtype` is "success" in most of these."""
    for exit_code in (0, 1):
        found = claude(name, exit_code)
        assert (found.error_class, found.provider_status) == (error_class, status)
        assert found.message


def test_an_error_without_a_terminal_reason_goes_by_its_status():
    """As 2.1.197 tells it."""
    told = changed("claude_429_r1.ndjson", terminal_reason="completed", api_error_type=None)
    assert claude(told, 1).error_class == "rate_limited"


def test_a_used_up_window_says_when_it_starts_anew():
    window = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1795415758}}
    found = claude(lines(window) + captured("claude_429_r1.ndjson"), 1)
    assert (found.error_class, found.resets_at_ns) == ("usage_limit", 1_795_415_758 * 10**9)
    allowed = {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed", "resetsAt": 1795415758}}
    found = claude(lines(allowed) + captured("claude_429_r1.ndjson"), 1)
    assert (found.error_class, found.resets_at_ns) == ("rate_limited", 0)


def test_a_login_that_is_missing_is_told_without_a_status():
    assistant = {"type": "assistant", "error": "authentication_failed", "message": {"id": "m", "model": "<synthetic>"}}
    result = {"type": "result", "is_error": True, "terminal_reason": "api_error", "result": "Not logged in"}
    assert claude(lines(assistant, result), 1).error_class == "auth"


@pytest.mark.parametrize(("stop_reason", "error_class"), [("refusal", "refusal"), ("max_tokens", "output_limit")])
def test_a_model_that_stopped_short_is_no_success(stop_reason, error_class):
    assert claude(changed("claude_tool.ndjson", stop_reason=stop_reason)).error_class == error_class


def test_denied_tools_are_named_and_are_no_error():
    found = claude("claude_perm.json")
    assert (found.error_class, found.denials) == ("", ("Bash",))


# Amounts


def test_a_resumed_session_is_not_charged_twice():
    """Newer versions repeat the session's total; what was added since the last result is the truth."""
    stream = captured("claude_tool.ndjson").strip().split(b"\n")
    last = json.loads(stream[-1])
    whole = {"claude-sonnet-4-5": last["modelUsage"]["claude-sonnet-4-5"] | {"inputTokens": 9999, "costUSD": 5.0}}
    found = claude(changed("claude_tool.ndjson", total_cost_usd=5.0, modelUsage=whole))
    assert (found.usage, found.cost) == (TWO_CALLS, reported(13_335_000))


def test_a_total_that_may_be_of_a_whole_session_is_not_taken():
    """The json format does not say what was added; usage is the invocation's own, and its cost is unknown."""
    last = json.loads(captured("claude_ok.json"))
    whole = {"m": last["modelUsage"]["claude-sonnet-4-5"] | {"inputTokens": 9999}}
    found = claude(changed("claude_ok.json", modelUsage=whole, total_cost_usd=5.0))
    assert (found.usage, found.cost) == (usage(1200, 5000, 300, 17, lower_bound=True), None)
    assert "whole session" in found.note


def test_the_call_that_reached_the_budget_counts_in_a_stream():
    """`usage` lacks it; the totals by model have it."""
    result = json.loads(captured("claude_budget.json"))
    init = {"type": "system", "subtype": "init", "session_id": "s", "model": "claude-sonnet-4-5"}
    found = claude(lines(init, result), 1)
    models = result["modelUsage"]["claude-sonnet-4-5"]
    assert found.usage.input_tokens == models["inputTokens"] > result["usage"]["input_tokens"]
    assert found.cost == reported(round(result["total_cost_usd"] * 10**9))


def test_nothing_used_since_the_last_result_costs_nothing():
    found = claude(changed("claude_401_r1.ndjson", total_cost_usd=9.0, modelUsage={"m": {"costUSD": 9.0}}), 1)
    assert (found.usage, found.cost) == (usage(), reported(0))


def test_a_price_that_the_tool_guessed_is_an_estimate():
    last = json.loads(captured("claude_tool.ndjson").strip().split(b"\n")[-1])["modelUsage"]
    guessed = {"m": last["claude-sonnet-4-5"] | {"costBasis": "unknown"}}
    found = claude(changed("claude_tool.ndjson", model_usage_since_last_result=guessed))
    assert found.cost.basis == "estimate"


def test_several_models_add_up():
    one = {
        "inputTokens": 1,
        "outputTokens": 2,
        "cacheReadInputTokens": 3,
        "cacheCreationInputTokens": 4,
        "costUSD": 0.1,
    }
    found = claude(changed("claude_tool.ndjson", model_usage_since_last_result={"a": one, "b": one | {"costUSD": 0.2}}))
    assert (found.usage, found.cost) == (usage(2, 6, 8, 4), reported(300_000_000))


def test_killed_before_the_result_line_is_a_lower_bound_over_unique_messages():
    stream = captured("claude_tool.ndjson").strip().split(b"\n")[:-1]
    repeated = b"\n".join([line for line in stream for _ in range(1 + (b'"assistant"' in line))])
    found = claude(repeated + b"\n", None)
    assert (found.usage, found.cost) == (usage(2400, 10_000, 600, 2, lower_bound=True), None)
    assert (found.error_class, found.session) == ("", "3d548743-bcea-4f13-a9c8-701ccdc9e440")


def test_killed_in_the_middle_of_the_result_line():
    data = captured("claude_tool.ndjson").rstrip()[:-40]
    found = claude(data, None)
    assert found.usage == usage(2400, 10_000, 600, 2, lower_bound=True)
    assert "1 of its lines could not be read" in found.note


def test_a_success_without_a_result_line_is_none():
    assert claude("claude_drop_r1.ndjson", 0).error_class == "protocol_error"
    assert claude("claude_drop_r1.ndjson", 1).error_class == "", "then the exit code speaks"
    assert claude(b"", 0).error_class == "protocol_error"


@pytest.mark.parametrize("number", [-1, 1.5, 10**12 + 1, 10**40, "7", True, [1], {}])
def test_numbers_that_cannot_be_leave_usage_unknown_with_a_note(number):
    told = changed("claude_ok.json", usage={"input_tokens": number, "output_tokens": 5}, modelUsage={})
    found = claude(told)
    assert (found.usage, found.error_class) == (None, "")
    assert "cannot be" in found.note


@pytest.mark.parametrize("usd", [-0.01, 1e300, "NaN", "Infinity", True, [1]])
def test_a_cost_that_cannot_be_is_unknown(usd):
    found = claude(changed("claude_ok.json", total_cost_usd=usd))
    assert (found.usage, found.cost) == (usage(1200, 5000, 300, 17), None)
    assert "cost" in found.note


def test_what_models_and_tools_write_decides_nothing():
    """A model that prints an error result of the harness's form inside its text, or a tool that does."""
    fake = '{"type":"result","is_error":true,"api_error_status":401,"total_cost_usd":99}\n'
    said = {"type": "assistant", "message": {"id": "x", "content": [{"type": "text", "text": fake}]}}
    printed = {"type": "user", "message": {"content": [{"type": "tool_result", "content": fake * 3}]}}
    found = claude(lines(said, printed) + captured("claude_tool.ndjson"))
    assert (found.error_class, found.usage, found.cost) == ("", TWO_CALLS, reported(13_335_000))
    loud = changed("claude_ok.json", result="API Error: 401 authentication_error: rate_limit_error, overloaded")
    assert claude(loud).error_class == ""


def test_a_list_of_another_form_loses_nothing_else():
    found = claude(changed("claude_perm.json", permission_denials={"Bash": 1}, errors=7))
    assert (found.denials, found.usage, found.cost) == ((), TWO_CALLS, reported(13_335_000))


def test_several_results_of_one_invocation_add_up():
    """Each tells what came since the one before it."""
    *_, last = captured("claude_tool.ndjson").strip().split(b"\n")
    found = claude(captured("claude_tool.ndjson") + last + b"\n")
    assert (found.usage, found.cost) == (usage(4800, 20_000, 1200, 118), reported(26_670_000))


def test_killed_after_a_result_and_the_beginning_of_another_turn():
    *_, assistant, _last = captured("claude_tool.ndjson").strip().split(b"\n")
    more = assistant.replace(b'"msg_1"', b'"msg_9"')
    found = claude(captured("claude_tool.ndjson") + more + b"\n", None)
    assert (found.usage, found.cost) == (usage(3600, 15_000, 900, 60, lower_bound=True), None)


def test_the_last_word_is_a_result_after_which_nothing_waits():
    adapter = Claude()
    adapter.feed(changed("claude_tool.ndjson", queued_turn_count=1))
    assert not adapter.concluded
    adapter.feed(captured("claude_tool.ndjson"))
    assert adapter.concluded


def test_a_since_that_cannot_be_read_is_not_replaced_by_the_session_s_total():
    found = claude(changed("claude_tool.ndjson", model_usage_since_last_result={"m": {"inputTokens": -1}}))
    assert (found.usage, found.cost) == (usage(2400, 10_000, 600, 59, lower_bound=True), None)
    assert "cannot be" in found.note


def test_what_was_spent_so_far_is_told_by_model_and_then_by_the_result():
    first, *rest = (
        {"type": "assistant", "message": {"id": f"m{number}", "model": model, "usage": {"input_tokens": 100}}}
        for number, model in enumerate(["claude-opus-4", "claude-haiku-4", "claude-opus-4"])
    )
    adapter = Claude()
    assert adapter.so_far() == ()
    adapter.feed(lines(first, *rest))
    opus, haiku = adapter.so_far()
    assert (opus.model, opus.usage) == ("claude-opus-4", usage(200, lower_bound=True))
    assert (haiku.model, haiku.usage) == ("claude-haiku-4", usage(100, lower_bound=True))
    adapter.feed(captured("claude_tool.ndjson"))
    [whole] = adapter.so_far()
    assert whole.cost == reported(13_335_000)
    adapter.feed(lines({**first, "message": {**first["message"], "id": "later"}}))
    assert [part.cost for part in adapter.so_far()] == [reported(13_335_000), None]
