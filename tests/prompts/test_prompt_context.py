"""What fits into a context window, and what is left out when it does not."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.context import (
    ContextFile,
    LeftOut,
    decide_context,
    estimate_tokens,
    halved,
    input_limit,
    named_by_prefix,
)
from swell.context import FILE_BYTES_MAX, ContextEstimator


def sized(**tokens):
    return [ContextFile(name, 4 * count) for name, count in tokens.items()]


@pytest.mark.parametrize(
    ("chars", "model", "tokens"),
    [
        (0, "", 0),
        (1, "", 1),
        (4, "", 1),
        (5, "", 2),
        (4000, "somebody/else", 1000),
        (4000, "gpt-4", 1000),
        (4000, "openai/GPT-5.2-codex", 1000),
        (4000, "gemini-3-pro", 1000),
        (3500, "anthropic/claude-opus-5", 1001),
        (1000, "deepseek-chat", 300),
    ],
)
def test_tokens_are_estimated_by_family_and_rounded_up(chars, model, tokens):
    assert estimate_tokens(chars, model) == tokens


def test_the_longest_name_in_a_table_counts():
    windows = {"gpt-4": 8_192, "gpt-4.1": 1_000_000, "Claude": 200_000}
    assert named_by_prefix("openai/gpt-4.1-mini", windows, 1) == 1_000_000
    assert named_by_prefix("gpt-4", windows, 1) == 8_192
    assert named_by_prefix("claude-opus", windows, 1) == 200_000
    assert named_by_prefix("other", windows, 1) == 1


def test_room_for_the_answer_is_reserved_but_never_more_than_half():
    assert input_limit() == 112_000
    assert input_limit("gpt-4", {"gpt-4": 8_192}) == 4_096
    assert input_limit("claude-opus-5", {"claude": 1_000_000}) == 984_000


def test_what_fits_stays_as_it_is():
    done = decide_context(sized(b=300, a=200), limit_tokens=600, prompt_tokens=100)
    assert (done.decision, done.files, done.estimated_tokens) == ("fits", ("b", "a"), 600)
    assert (done.left_out, done.reasons) == ((), ())


def test_priority_tokens_count_once_and_the_limit_is_used_to_its_last_token():
    """A limit of 1000 with a priority file of 500 has room for 200, 150 and 150 more."""
    files = sized(big=900, first=500, small=200, one=150, two=150)
    done = decide_context(files, limit_tokens=1000, priority={"first"})
    assert (done.decision, done.files) == ("reduced", ("first", "small", "one", "two"))
    assert done.estimated_tokens == 1000
    assert done.left_out == (LeftOut("big", "window"),)
    assert "1900 tokens are estimated, 1000 are allowed" in done.reasons


def test_the_smallest_others_are_kept_in_their_order():
    done = decide_context(sized(e=50, d=40, c=30, b=20, a=10), limit_tokens=100)
    assert (done.decision, done.files) == ("reduced", ("d", "c", "b", "a"))


def test_priority_files_are_kept_even_over_the_limit():
    done = decide_context(sized(a=700, b=700, c=1), limit_tokens=1000, priority={"a", "b"})
    assert (done.decision, done.files, done.estimated_tokens) == ("too_large", ("a", "b"), 1400)
    assert done.left_out == (LeftOut("c", "window"),)
    assert "priority files alone are 1400 tokens" in done.reasons[-1]


def test_files_of_which_none_fits_are_too_large():
    done = decide_context(sized(a=700), limit_tokens=1000, prompt_tokens=400)
    assert (done.decision, done.files) == ("too_large", ())
    assert "a single file does not fit" in done.reasons[-1]


def test_a_split_keeps_the_order_and_repeats_the_priority_files():
    done = decide_context(sized(a=400, first=100, b=400, c=500), limit_tokens=1000, priority={"first"}, excess="split")
    assert (done.decision, done.parts) == ("split", (("first", "a", "b"), ("first", "c")))
    assert (done.estimated_tokens, done.left_out) == (900, ())


def test_a_split_with_a_file_that_fits_nowhere_is_too_large():
    done = decide_context(sized(a=10, b=1001), limit_tokens=1000, excess="split")
    assert done.decision == "too_large"


def test_a_reduction_comes_before_the_window():
    done = decide_context(sized(a=1, b=1, c=1, d=1), limit_tokens=100, reduction=1, priority={"d"})
    assert (done.decision, done.files) == ("reduced", ("a", "d"))
    assert done.left_out == (LeftOut("b", "reduction"), LeftOut("c", "reduction"))


@pytest.mark.parametrize(
    ("reduction", "left"), [(0, "abcde"), (1, "abc"), (2, "ab"), (9, "a"), (10**9, "a"), (-1, "abcde")]
)
def test_each_halving_leaves_half_rounded_up(reduction, left):
    assert halved(list("abcde"), reduction) == list(left)


def test_halving_keeps_priority_files_and_their_place():
    assert halved(list("abcdef"), 1, {"f", "e"}) == ["a", "e", "f"]
    assert halved(list("abcd"), 2, {"b", "c", "d"}) == ["b", "c", "d"]
    assert halved([], 3) == []


names = st.sampled_from([f"f{n}" for n in range(12)])


@given(
    st.lists(st.builds(ContextFile, names, st.integers(0, 400))),
    st.integers(0, 1000),
    st.integers(0, 300),
    st.frozensets(names, max_size=4),
    st.integers(0, 4),
    st.sampled_from(["reduce", "split"]),
    st.sampled_from(["", "claude-x"]),
)
def test_a_decision_never_exceeds_its_limit_without_saying_so(files, limit, prompt, priority, reduction, excess, model):
    """Every part is within the limit unless the decision is `too_large`; every file is in a part or named as left out."""
    done = decide_context(
        files,
        limit_tokens=limit,
        prompt_tokens=prompt,
        priority=priority,
        reduction=reduction,
        excess=excess,
        model=model,
    )
    sizes: dict[str, int] = {}
    for file in files:
        sizes.setdefault(file.path, estimate_tokens(file.chars, model))
    parts = [prompt + sum(sizes[path] for path in part) for part in done.parts]
    assert done.estimated_tokens == max(parts)
    assert (done.estimated_tokens <= limit) or done.decision == "too_large"
    assert set(sizes) == {*done.files, *(left.path for left in done.left_out)}
    assert set(done.files).isdisjoint(left.path for left in done.left_out)
    assert priority & set(sizes) <= set(done.files)
    assert (len(done.parts) > 1) <= (done.decision == "split")
    assert bool(done.reasons) == (done.decision != "fits")


# From Python


def test_the_estimator_reads_files_and_counts_what_it_cannot_read_as_empty(tmp_path):
    (tmp_path / "a").write_text("ü" * 400)
    (tmp_path / "b").write_bytes(b"\xff" * 40)
    os.mkfifo(tmp_path / "pipe")
    files = [tmp_path / name for name in ("a", "b", "pipe", "none")] + [tmp_path, "a\0b"]
    estimator = ContextEstimator()
    assert estimator.estimate_tokens(files, "x" * 8) == 100 + 10 + 2
    told = estimator.get_file_statistics(files)
    assert (told["file_count"], told["total_chars"], told["total_tokens"]) == (6, 440, 110)
    assert [file["tokens"] for file in told["largest_files"]] == [100, 10, 0, 0, 0]


def test_a_huge_file_is_measured_by_its_size(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 4)
    assert ContextEstimator().estimate_tokens([tmp_path / "huge"]) == FILE_BYTES_MAX // 4 + 1


def test_the_estimator_prunes_the_largest_but_never_a_priority_file(tmp_path):
    files = []
    for name, tokens in (("first", 500), ("small", 200), ("large", 400)):
        (tmp_path / name).write_text("x" * 4 * tokens)
        files.append(tmp_path / name)
    assert ContextEstimator(1000).optimize_context(files, priority_files=files[:1]) == {
        "estimated_tokens": 700,
        "file_count": 2,
        "total_chars": 2800,
        "optimization_applied": True,
        "pruned_files": [str(files[2])],
        "decision": "reduced",
    }
    assert ContextEstimator(400).optimize_context(files, priority_files=files[:1])["decision"] == "too_large"


def test_chunks_keep_the_order_and_an_oversize_file_has_its_own(tmp_path):
    files = []
    for name, tokens in (("a", 30), ("b", 70), ("c", 101), ("d", 1)):
        (tmp_path / name).write_text("x" * 4 * tokens)
        files.append(str(tmp_path / name))
    a, b, c, d = files
    assert ContextEstimator().split_context(files, 100) == [[a, b], [c], [d]]
    assert ContextEstimator().split_context([], 100) == []


def test_limits_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ContextEstimator(0)
    with pytest.raises(ValueError, match="at least 1"):
        ContextEstimator().split_context([], 0)
