"""Whatever a tool writes: no adapter raises, keeps much of it, or says what cannot be stored."""

import json
import time
import tracemalloc

import msgspec
import pytest
from captured import FIXTURES, captured, heard, lines
from hypothesis import given
from hypothesis import strategies as st

from services.events import StepFinished
from services.executor.adapters import Aider, Claude, Codex, Gemini, Opencode, Qwen, adapter_of
from services.executor.adapters.lines import LINE_BYTES_MAX, Lines, mended
from services.outcome import Outcome
from services.profiles import Result, ToolProfile, shipped_tool_profiles


def generic(**reading):
    return adapter_of(ToolProfile(command="t", type="ai", adapter="generic", result=Result(**reading)))


ADAPTERS = {
    "aider": Aider, "claude": Claude, "codex": Codex, "gemini": Gemini, "opencode": Opencode, "qwen": Qwen,
    "json": lambda: generic(format="json", model="/type", cost_usd="/cost"),
    "ndjson": lambda: generic(format="ndjson", model="/type", cost_usd="/cost", repeated="sum"),
    "text": lambda: generic(format="text", model="{", cost_usd="Cost"),
}  # fmt: skip
STREAMS = [path.read_bytes() for path in sorted(FIXTURES.iterdir())]


def storable(outcome):
    """An outcome goes into an event and comes out of it as it was."""
    assert isinstance(outcome, Outcome)
    assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome
    finished = StepFinished(ok=False, usage=outcome.usage, cost=outcome.cost, retry_after_s=outcome.retry_after_s)
    assert msgspec.json.decode(msgspec.json.encode(finished), type=StepFinished) == finished
    assert len(outcome.message) <= 500
    assert not any(ord(char) < 32 for char in outcome.message + outcome.session + outcome.model)


@pytest.mark.parametrize("name", ADAPTERS)
@given(
    data=st.one_of(st.binary(max_size=300), st.sampled_from(STREAMS)),
    noise=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=12)), max_size=4),
    cut=st.integers(1, 5000),
    exit_code=st.sampled_from([None, 0, 1, 41, 53, 145]),
)
def test_bytes_of_any_kind_come_to_an_outcome(name, data, noise, cut, exit_code):
    for at, inserted in noise:
        data = data[:at] + inserted + data[at:]
    storable(heard(ADAPTERS[name](), stdout=data, stderr=data, file=data, exit_code=exit_code, chunk=cut))


@pytest.mark.parametrize("name", ADAPTERS)
@given(
    data=st.one_of(st.binary(max_size=300), st.sampled_from(STREAMS)),
    cut=st.integers(1, 5000),
    exit_code=st.sampled_from([None, 0, 1]),
)
def test_asking_what_was_spent_so_far_changes_nothing(name, data, cut, exit_code):
    asked = ADAPTERS[name]()
    for start in range(0, len(data), cut):
        for source in ("stdout", "stderr", "file"):
            asked.feed(data[start : start + cut], source)
            for part in asked.so_far():
                storable(part)
    told = heard(ADAPTERS[name](), stdout=data, stderr=data, file=data, exit_code=exit_code, chunk=cut)
    assert asked.finish(exit_code) == told


KEYS = sorted({key for data in STREAMS for line in data.splitlines() if line.startswith(b"{") and line.endswith(b"}")
               for key in json.loads(line)})  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ADAPTERS)
@given(data=st.data(), exit_code=st.sampled_from([None, 0, 1]))
def test_events_with_anything_in_their_fields_come_to_an_outcome(name, data, exit_code):
    stream = data.draw(st.sampled_from([one for one in STREAMS if one.startswith(b"{")]))
    events = [json.loads(line) for line in stream.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    for event in events:
        for key in data.draw(st.lists(st.sampled_from(sorted(event)), max_size=2)):
            event[key] = data.draw(ANYTHING)
    storable(heard(ADAPTERS[name](), stdout=lines(*events), file=lines(*events), exit_code=exit_code))


@pytest.mark.parametrize(
    "spoilt",
    [
        b"\x1b[32m%s\x1b[0m",
        b"\0\0%s\0",
        b"  \t%s\r",
        b"\x1b]0;title\x07%s",
        b"noise\n%s",
        b'{"type": "resu\n%s',
        b"\xff\xfe\n%s",
        b"[1, 2\n%s",
        b"{" * 5000 + b"\n%s",
        b'{"type": "unknown.kind", "usage": {"input_tokens": -5}}\n%s',
        b'{"type": 7}\n%s',
        b'{"a":' * 100_000 + b"\n%s",
    ],
)
def test_a_result_is_found_among_what_spoils_it(spoilt):
    *before, last = captured("claude_tool.ndjson").strip().split(b"\n")
    found = heard(Claude(), stdout=b"\n".join([*before, spoilt.replace(b"%s", last), b""]))
    assert (found.error_class, found.usage.output_tokens, found.cost.nano_usd) == ("", 59, 13_335_000)


@pytest.mark.parametrize(
    "text", [b'"\\ud83d"', b'"\\ude00 x"', b'"\x01\x02"', b'"\x1b[1m"', b'"\xff\xfe"', b'"\\ud83d\\ud83d\\ude00"']
)
def test_a_result_with_text_that_is_no_json_is_mended(text):
    line = captured("claude_ok.json").replace(b'"result":"All done."', b'"result":' + text)
    assert heard(Claude(), stdout=line).usage.output_tokens == 17
    json.loads(mended(line))


def test_half_pairs_are_replaced_and_whole_ones_are_kept():
    assert json.loads(mended(b'"\\ud83d\\ude00 \\ud83d x \\ude00"')) == "\U0001f600 \ufffd x \ufffd"


# Amounts of it


@pytest.mark.parametrize("name", ADAPTERS)
def test_100_mb_on_one_line_take_no_memory_and_what_follows_is_read(name):
    adapter = ADAPTERS[name]()
    piece = b"x" * 1_000_000
    tracemalloc.start()
    for source in ("stdout", "stderr", "file"):
        adapter.feed(b'{"type": "', source)
        for _ in range(100):
            adapter.feed(piece, source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * LINE_BYTES_MAX
    for source in ("stdout", "file"):
        adapter.feed(b"\n" + captured("claude_tool.ndjson"), source)
    outcome = adapter.finish(0)
    storable(outcome)
    if name == "claude":
        assert outcome.usage.output_tokens == 59
        assert "1 of its lines were longer than" in outcome.note


def test_many_different_messages_take_no_memory():
    adapter = Claude()
    event = b'{"type":"assistant","message":{"id":"%s%d","usage":{"input_tokens":1}}}\n'
    tracemalloc.start()
    for start in range(0, 200_000, 20_000):
        adapter.feed(b"".join(event % (b"m" * 40, number) for number in range(start, start + 20_000)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20_000_000
    assert adapter.finish(None).usage.input_tokens == 100_000


def test_lines_are_cut_the_same_however_they_come():
    data = b"a\n\nbb\n" + b"c" * 50 + b"\nd\n" + b"e" * 50
    for size in range(1, 120):
        cut = Lines(10)
        found = [line for at in range(0, len(data), size) for line in cut.feed(data[at : at + size])]
        assert ([line for line in found if line], cut.rest(), cut.dropped) == ([b"a", b"bb", b"d"], b"", 2)


def test_a_stream_of_events_is_read_fast():
    """Far below the 50 MB/s that are measured, so that a busy machine does not fail it."""
    stream = b"".join(captured("claude_tool.ndjson").splitlines(keepends=True)[:-1])
    data = stream * (4_000_000 // len(stream))
    adapter = Claude()
    started = time.perf_counter()
    for at in range(0, len(data), 131_072):
        adapter.feed(data[at : at + 131_072])
    assert len(data) / (time.perf_counter() - started) > 10_000_000


def test_every_shipped_ai_tool_has_an_adapter():
    for profile in shipped_tool_profiles().values():
        assert (adapter_of(profile) is not None) == (profile.type == "ai")
