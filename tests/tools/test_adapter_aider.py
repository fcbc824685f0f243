"""aider's own word, from captured output and its log."""

import pytest
from captured import captured, heard, lines, reported, usage

from services.executor.adapters import Aider

BEGUN = {"event": "message_send_starting", "properties": {}}
EXIT = {"event": "exit", "properties": {"reason": "Completed --message"}}


def answered(**properties):
    told = {"main_model": "gpt-4o", "prompt_tokens": 1000, "completion_tokens": 50, "cost": 0.0037, **properties}
    return {"event": "message_send", "properties": told}


@pytest.mark.parametrize("chunk", [0, 1, 64])
def test_exact_numbers_come_from_the_log(chunk):
    found = heard(Aider(), stdout="aider_ok.txt", file="aider_analytics.jsonl", chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", usage(6500, 0, 0, 120), reported(11_200_000))
    assert (found.model, found.provider, found.turns) == ("openai/mock-model", "openai", 1)


@pytest.mark.parametrize(
    ("name", "error_class"),
    [("aider_401.txt", "auth"), ("aider_429.txt", "rate_limited"), ("aider_drop.txt", "network")],
)
def test_exit_code_0_hides_no_error(name, error_class):
    for log in (lines(BEGUN, EXIT), b""):
        found = heard(Aider(), stdout=name, file=log, exit_code=0)
        assert found.error_class == error_class
        assert found.usage is None


def test_a_model_that_the_log_keeps_to_itself_is_named_by_standard_output():
    log = lines(BEGUN, answered(main_model="openai/REDACTED"), EXIT)
    assert heard(Aider(), stdout="aider_ok.txt", file=log).model == "openai/mock-model"


@pytest.mark.parametrize(
    ("line", "error_class"),
    [
        (b"litellm.BadRequestError: OpenAIException - Invalid API key provided.", "auth"),
        (b"litellm.AuthenticationError: AnthropicException - x", "auth"),
        (
            b"litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current quota, please",
            "usage_limit",
        ),
        (b"litellm.InternalServerError: AnthropicException - Overloaded", "overloaded"),
        (b"litellm.InternalServerError: x", "server_error"),
        (b"litellm.APIConnectionError: x", "network"),
        (b"litellm.Timeout: x", "network"),
        (b"litellm.ContextWindowExceededError: x", "context_window"),
        (b"litellm.NotFoundError: no such model", "model_not_found"),
        (b"litellm.BadRequestError: LLM Provider NOT provided", "unsupported_params"),
    ],
)
def test_classes_by_litellm_s_names_and_the_provider_s_words(line, error_class):
    assert heard(Aider(), stdout=line + b"\n", file=lines(BEGUN, EXIT)).error_class == error_class


def test_a_model_that_prints_an_error_line_decides_nothing():
    """The log says that every message was answered."""
    fake = b"litellm.AuthenticationError: OpenAIException - Invalid API key\nOnly 3 reflections allowed, stopping.\n"
    found = heard(Aider(), stdout=fake + captured("aider_ok.txt"), file="aider_analytics.jsonl")
    assert found.error_class == ""


def test_an_error_that_it_got_over_is_none():
    stdout = captured("aider_429.txt") + captured("aider_ok.txt")
    assert heard(Aider(), stdout=stdout, file=lines(BEGUN, answered(), EXIT)).error_class == ""


def test_a_second_message_that_failed_is_a_failure_with_the_first_one_s_usage():
    found = heard(Aider(), stdout="aider_429.txt", file=lines(BEGUN, answered(), BEGUN, EXIT))
    assert (found.error_class, found.usage) == ("rate_limited", usage(1000, 0, 0, 50, lower_bound=True))


def test_a_message_that_was_not_answered_without_a_reason():
    assert heard(Aider(), stdout=b"", file=lines(BEGUN, EXIT)).error_class == "tool_failed"


def test_used_up_reflections_are_no_success():
    log = lines(*([BEGUN, answered()] * 4), EXIT)
    found = heard(Aider(), stdout=b"Only 3 reflections allowed, stopping.\n", file=log)
    assert (found.error_class, found.turns, found.usage) == ("max_turns", 4, usage(4000, 0, 0, 200))


def test_killed_it_has_used_at_least_what_was_answered():
    found = heard(Aider(), stdout=b"", file=lines(BEGUN, answered(), BEGUN), exit_code=None)
    assert (found.usage, found.cost) == (usage(1000, 0, 0, 50, lower_bound=True), reported(3_700_000))


def test_a_model_without_a_price_costs_an_unknown_amount():
    log = lines(BEGUN, answered(), BEGUN, answered(cost=0.0), EXIT)
    assert heard(Aider(), stdout=b"", file=log).cost is None


@pytest.mark.parametrize("number", [-1, 1.5, 10**13, "many", None])
def test_numbers_that_cannot_be_leave_usage_unknown_with_a_note(number):
    found = heard(Aider(), stdout=b"", file=lines(BEGUN, answered(prompt_tokens=number), EXIT))
    assert (found.usage, found.cost, found.error_class) == (None, None, "")
    assert "cannot be" in found.note


def test_a_log_that_is_missing_or_broken_is_noted():
    assert "log is not there" in heard(Aider(), stdout="aider_ok.txt").note
    assert "could not be read" in heard(Aider(), stdout=b"", file=lines(BEGUN, answered()) + b'{"event": "ex').note


def test_what_was_spent_so_far_stands_in_its_log():
    adapter = Aider()
    assert adapter.so_far() == ()
    adapter.feed(captured("aider_analytics.jsonl"), "file")
    [part] = adapter.so_far()
    assert (part.usage, part.cost) == (usage(6500, output=120, lower_bound=True), reported(11_200_000))
