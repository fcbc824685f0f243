"""Data in prompts cannot leave its place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.prompts import quoting

# Text that is likely to hold what could break out.
hostile = st.lists(
    st.sampled_from(["`", "```", "~~~", "\n", "\r", "\r\n", "\x1b[31m", "\x00", "\u2028", "\u202e", "\ud800", " ", "# x", "> ", "- "])
    | st.text(max_size=5)
).map("".join)  # fmt: skip


def unfenced(text):
    """What a reader of Markdown takes for the content of the one block that `text` is."""
    mark = re.match("`{3,}", text).group()
    first, *rest = text.split("\n")
    assert "`" not in first.removeprefix(mark), "the line that opens a fence holds no backtick"
    closing = [n for n, line in enumerate(rest) if re.fullmatch(rf" {{0,3}}`{{{len(mark)},}}[ \t]*", line)]
    assert closing == [len(rest) - 1], "the fence is closed once, by its last line"
    return "\n".join(rest[:-1])


@given(hostile)
def test_no_content_closes_its_fence(text):
    content = unfenced(quoting.fence(text))
    assert content == quoting.plain(text).removesuffix("\n") or not text


@given(st.lists(hostile))
def test_no_item_closes_the_fence_of_its_list(items):
    unfenced(quoting.bullets(items))
    unfenced(quoting.numbered(items))


@given(hostile)
def test_code_in_a_line_stays_in_its_line(text):
    quoted = quoting.code(text)
    assert "\n" not in quoted
    mark = re.match("`+", quoted).group()
    assert quoted.endswith(mark)
    inside = quoted[len(mark) : -len(mark)]
    assert mark not in re.findall("`+", inside)


@given(st.lists(hostile))
def test_every_line_of_a_quotation_has_its_mark(items):
    quoted = quoting.blockquote(items)
    assert all(line.startswith("> ") for line in quoted.split("\n")) or not items
    assert len(quoted.splitlines()) <= quoted.count("\n") + 1


@given(hostile)
def test_quoted_text_is_printable_utf8(text):
    quoted = quoting.plain(text)
    quoted.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", quoted)
    assert quoting.plain(quoted) == quoted


def test_ordinary_text_stays_as_it_is():
    text = "say $(id) `id` ${HOME} {files} {{ x }} {% raw %} %s \\n 'single' \"double\"\t# é ☃ 漢字 👩‍💻"
    assert quoting.plain(text) == text
    assert quoting.numbered([text]) == f"```text\n1. {text}\n```"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        ("a\0b\x7f", "a\\x00b\\x7f"),
        ("exe\u202etxt", "exe\\u202etxt"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_what_nobody_sees_is_spelt_out(text, expected):
    assert quoting.plain(text) == expected


def test_further_lines_of_an_item_are_indented():
    assert quoting.bullets(["a\n- b\n\nc"]) == "```text\n- a\n  - b\n\n  c\n```"
    assert quoting.numbered(["a\n2. b"]) == "```text\n1. a\n   2. b\n```"


def test_what_is_cut_says_how_much_is_missing():
    assert quoting.cut_end("abcdef", 2) == "ab\n[... 4 more characters left out]"
    assert quoting.cut_start("abcdef", 2) == "[... 4 characters left out]\nef"
    assert quoting.cut_start("abcdef", 0) == "[... 6 characters left out]\n"
    assert quoting.shortened(["abc", "d", "e"], 2, 2) == ["ab [...]", "d", "[... 1 more left out]"]
    assert quoting.shortened(["abc"], 1, 3) == ["abc"]
