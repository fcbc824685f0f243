"""What a traceparent says, and which ids derive from names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trace import DRAWN_BYTES, Trace, begun, normal, of_attempt, of_run, parsed

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASKED = f"00-{ID}-{SPAN}-01"
KEY = ("r1", "ws-a", 3)


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (ASKED, True),
        (f"00-{ID}-{SPAN}-00", False),
        (f"00-{ID}-{SPAN}-03", True),  # a flag of a later level
        (f"00-{ID}-{SPAN}-fe", False),
        (f"cc-{ID}-{SPAN}-01", True),  # a later version
        (f"cc-{ID}-{SPAN}-01-what-it-adds", True),
    ],
)
def test_what_is_a_traceparent(text, sampled):
    """By https://www.w3.org/TR/trace-context/#versioning-of-traceparent."""
    assert parsed(text) == Trace(ID, SPAN, sampled)
    assert normal(text) == f"00-{ID}-{SPAN}-{'01' if sampled else '00'}"


@pytest.mark.parametrize(
    "text",
    [
        "", "00", "-", ASKED.upper(), f" {ASKED}", f"{ASKED} ", f"{ASKED}\n", f"{ASKED}-more", f"ff-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01", f"00-{ID[:-1]}-{SPAN}-01", f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}", f"cc-{ID}-{SPAN}-01{'x' * 1000}", f"cc-{ID}-{SPAN}-01-{'x' * 1000}", f"00-{ID}-{SPAN}-0g",
        ASKED.replace("a", "\u0430"),
    ],
)  # fmt: skip
def test_what_is_none(text):
    assert parsed(text) is None
    assert normal(text) == ""
    assert of_run("r1", text) == of_run("r1")


@given(st.text() | st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"))
def test_no_text_breaks_it_and_what_it_writes_it_reads(text):
    found = parsed(text)
    assert found is None or parsed(found.text) == found


@given(st.binary(min_size=DRAWN_BYTES, max_size=DRAWN_BYTES))
def test_what_begins_here_is_a_trace(drawn):
    assert parsed(begun(drawn).text) == begun(drawn)


def test_zeros_stand_for_no_trace_and_are_none_of_ours():
    assert parsed(begun(bytes(DRAWN_BYTES)).text) is not None


def test_a_run_and_its_attempts_are_in_the_trace_of_the_request():
    """Whether somebody asks by the request's span, by the run's or by an attempt's: all know the same spans."""
    run = of_run("r1", ASKED)
    attempt = of_attempt(run, KEY)
    assert {run.trace_id, attempt.trace_id} == {ID}
    assert len({SPAN, run.span_id, attempt.span_id, of_attempt(run, KEY, "queue").span_id}) == 4
    assert of_run("r1", run.text) == of_run("r1", attempt.text) == run
    assert not of_attempt(of_run("r1", ASKED[:-1] + "0"), KEY).sampled


def test_ids_do_not_change():
    """Executors, ledgers and rebuilt ledgers of other versions derive the same."""
    run = of_run("r1")
    assert run.text == "00-94c1d754b2a316ad707d2450a79edd2e-da694ddd4aa494be-01"
    assert of_attempt(run, ("r1", "a", 1)).span_id == "12a9c4540359bf39"
    assert of_run("r1", ASKED).span_id == run.span_id


def test_names_that_look_alike_have_spans_of_their_own():
    keys = [("r1", "ws-a", 3), ("r1", "ws-a", 13), ("r1", "ws-a-1", 3), ("r11", "ws-a", 3), ("r1", "_line", 3)]
    assert len({of_attempt(of_run("r1"), key).span_id for key in keys}) == len(keys)
