"""opencode's own word, from captured streams."""

import pytest
from captured import captured, heard, lines, reported, usage

from services.executor.adapters import Opencode


def opencode(data, exit_code=0, **more):
    return heard(Opencode(), stdout=data, exit_code=exit_code, **more)


def step(number, cost=0.5, reason="stop", **tokens):
    given = {"input": 1, "output": 2, "reasoning": 3, "cache": {"read": 4, "write": 5}, **tokens}
    return {"type": "step_finish", "part": {"id": f"p{number}", "reason": reason, "tokens": given, "cost": cost}}


@pytest.mark.parametrize("chunk", [0, 1, 100])
def test_steps_are_added_up_with_reasoning(chunk):
    found = opencode("opencode.ndjson", chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", usage(3000, 10_000, 0, 240), reported(15_600_000))
    assert (found.session, found.turns) == ("ses_df9372a95ffedaUofHxzY12Ijt", 2)


@pytest.mark.parametrize(
    ("name", "error_class", "status", "wait"),
    [
        ("opencode_401.ndjson", "auth", 401, 0),
        ("opencode_429.ndjson", "rate_limited", 429, 1.0),
        ("opencode_400ctx.ndjson", "context_window", 0, 0),
    ],
)
def test_errors(name, error_class, status, wait):
    """The context overflow is told twice."""
    found = opencode(name, 1)
    assert (found.error_class, found.provider_status, found.retry_after_s) == (error_class, status, wait)


@pytest.mark.parametrize(
    ("data", "error_class"),
    [
        ({"message": "Cannot connect to API", "isRetryable": True}, "network"),
        ({"message": "The operation timed out."}, "network"),
        ({"statusCode": 429, "responseBody": '{"error": {"code": "insufficient_quota"}}'}, "usage_limit"),
        ({"statusCode": 529}, "overloaded"),
        ({}, "tool_failed"),
    ],
)
def test_errors_by_what_the_provider_answered(data, error_class):
    told = lines({"type": "error", "error": {"name": "APIError", "data": {"message": "x"} | data}})
    assert opencode(told, 1).error_class == error_class


@pytest.mark.parametrize("after", ["soon", "-1", "1e999", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 40])
def test_a_wait_that_is_none_is_unknown(after):
    data = {"statusCode": 429, "responseHeaders": {"Retry-After": after}}
    assert opencode(lines({"type": "error", "error": {"name": "APIError", "data": data}}), 1).retry_after_s == 0


def test_a_part_counts_once_and_a_stop_in_the_middle_is_a_lower_bound():
    found = opencode(
        lines(step(1, reason="tool-calls"), step(1, reason="tool-calls"), step(2, reason="tool-calls")), None
    )
    assert found.usage == usage(2, 8, 10, 10, lower_bound=True)
    assert found.cost == reported(1_000_000_000)


def test_a_price_of_nothing_for_something_is_no_price():
    found = opencode(lines(step(1, cost=0.5, reason="tool-calls"), step(2, cost=0)))
    assert (found.usage, found.cost) == (usage(2, 8, 10, 10), None)


@pytest.mark.parametrize("tokens", [{"input": -1}, {"output": 1.5}, {"reasoning": 10**13}, {"cache": 7}])
def test_one_step_that_cannot_be_makes_the_sum_unknown(tokens):
    found = opencode(lines(step(1), step(2, **tokens)))
    assert (found.usage, found.cost) == (None, None)
    assert "cannot be" in found.note


def test_sums_beyond_every_limit_are_unknown():
    found = opencode(lines(*(step(number, input=10**12) for number in range(2))))
    assert (found.usage, "cannot be" in found.note) == (None, True)


def test_a_success_of_which_nothing_was_said_is_none():
    assert opencode(b"", 0).error_class == "protocol_error"


def test_refused_permissions_are_named():
    stderr = b"\x1b[33m!\x1b[0m permission requested: bash (rm -rf /); auto-rejecting\n"
    found = heard(Opencode(), stdout="opencode.ndjson", stderr=stderr * 2)
    assert found.denials == ("bash",)


@pytest.mark.parametrize(("reason", "error_class"), [("length", "output_limit"), ("content-filter", "refusal")])
def test_a_model_that_stopped_short_is_no_success(reason, error_class):
    assert opencode(lines(step(1, reason=reason))).error_class == error_class


def test_an_error_that_the_tool_got_over_is_none():
    assert opencode(captured("opencode_429.ndjson") + captured("opencode.ndjson")).error_class == ""


def test_what_was_spent_so_far_is_the_sum_of_its_steps():
    adapter = Opencode()
    assert adapter.so_far() == ()
    steps = [line for line in captured("opencode.ndjson").splitlines(keepends=True) if b"step_finish" in line]
    adapter.feed(steps[0])
    [one] = adapter.so_far()
    adapter.feed(b"".join(steps[1:]))
    [all_of_them] = adapter.so_far()
    assert one.cost.nano_usd < all_of_them.cost.nano_usd
    assert all_of_them.usage.lower_bound
