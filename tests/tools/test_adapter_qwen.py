"""Qwen Code's own word, from captured output."""

import pytest
from captured import captured, heard, lines, usage

from services.executor.adapters import Qwen


@pytest.mark.parametrize("chunk", [0, 1, 64])
@pytest.mark.parametrize("name", ["qwen_stream-json.out", "qwen_json.out"])
def test_input_is_told_without_what_was_cached(name, chunk):
    found = heard(Qwen(), stdout=name, chunk=chunk)
    assert (found.error_class, found.usage, found.cost) == ("", usage(3000, 10_000, 0, 240), None)
    assert (found.model, found.turns, bool(found.session)) == ("mock-model", 2, True)


def test_an_error_stands_in_the_result():
    found = heard(Qwen(), stdout="qwen_401.json", exit_code=1)
    assert (found.error_class, found.provider_status) == ("auth", 401)


@pytest.mark.parametrize("code", [53, 55])
def test_its_limits_are_exit_codes(code):
    assert heard(Qwen(), stdout=b"", exit_code=code).error_class == "max_turns"


def test_killed_it_has_used_at_least_what_its_messages_say():
    stream = captured("qwen_stream-json.out").strip().split(b"\n")[:-1]
    found = heard(Qwen(), stdout=b"\n".join([*stream, stream[-1]]), exit_code=None)
    assert found.usage == usage(3000, 10_000, 0, 240, lower_bound=True)
    assert heard(Qwen(), stdout=b"", exit_code=0).error_class == "protocol_error"


@pytest.mark.parametrize(
    "told", [{"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 2}, {"input_tokens": -1}]
)
def test_numbers_that_cannot_be_leave_usage_unknown_with_a_note(told):
    found = heard(Qwen(), stdout=lines({"type": "result", "usage": told}))
    assert (found.usage, "cannot be" in found.note) == (None, True)


def test_what_was_spent_so_far_is_at_least_that_of_its_answers():
    adapter = Qwen()
    stream = captured("qwen_stream-json.out").splitlines(keepends=True)
    adapter.feed(b"".join(line for line in stream if b'"type":"result"' not in line))
    [part] = adapter.so_far()
    assert (part.model, part.usage.lower_bound) == ("mock-model", True)
