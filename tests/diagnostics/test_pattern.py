"""Expressions of a profile: what they find, and that none is let through that could take forever."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.diagnostics import ReportError, parse, pattern
from services.executor.diagnostics.report import Findings
from services.expression import (
    _CATEGORIES,
    LINE_CHARS,
    ExpressionError,
    _bit,
    check,
    compiled,
)

GCC = r"^(?P<file>.*?):(?P<line>\d+):(?P<column>\d*):?\s+(?:fatal\s+)?(?P<severity>warning|error):\s+(?P<message>.*)$"
YAMLLINT = r"(?P<file>[^:]+):(?P<line>\d+):(?P<column>\d+): \[(?P<severity>error|warning)\] (?P<message>.*) \((?P<code>[^()]*)\)$"


def test_a_pattern_finds():
    data = b"note: x\nsrc/a.c:3:7: warning: unused\n\x1b[1msrc/b.c:4: \x1b[0m fatal error: no file\r\nmake: *** [x] Error 1\n"
    found = parse("pattern", data, worktree=Path("/w"), expression=GCC)
    assert [(one.path, one.line, one.column, one.severity, one.message) for one in found] == [
        ("src/a.c", 3, 7, "warning", "unused"),
        ("src/b.c", 4, None, "error", "no file"),
    ]


def test_a_pattern_with_a_code_at_the_end():
    (found,) = parse(
        "pattern", b"a.yml:1:81: [error] too long (line-length)\n", worktree=Path("/w"), expression=YAMLLINT
    )
    assert (found.code, found.message) == ("line-length", "too long")


@pytest.mark.parametrize(
    "text",
    [
        GCC,
        YAMLLINT,
        r"^(?P<file>[^\s(]+)\((?P<line>\d+),(?P<column>\d+)\): (?P<severity>error|warning) (?P<code>TS\d+): (?P<message>.*)$",
        r"(?P<file>[^:]+):(?P<line>\d+): (?P<severity>error|note): (?P<message>.+?)  \[(?P<code>[a-z-]+)\]$",
        r"(?P<file>.+?):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<message>.*)",
        r"(?P<message>[A-Z]{2,5}\d{4}.*)",
        r"(?P<message>\d++x)",
    ],
)
def test_ordinary_patterns_pass(text):
    check(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(a+)+$", "repeats a group"),
        ("(?P<message>(a|a)*)$", "repeats a group"),
        ("(?P<message>(?:a|aa)+)$", "repeats a group"),
        ("(?P<message>(a?){30}a{30})", "repeats a group"),
        ("(?P<message>.*.*.*x)", "too many ways"),
        ("(?P<message>.*.*.*$b)", "too many ways"),
        (r"(?P<message>\s*\s*\s*x)", "too many ways"),
        ("(?P<message>" + "a?" * 20 + "a" * 20 + ")", "too many ways"),
        ("(?P<message>" + "(?:[ab]|ab)" * 14 + "x)", "too many ways"),
        ("(?P<message>" + "(?:a?b?)?" * 9 + "x)", "too many ways"),
        (r"(?P<message>x)\1", "back reference"),
        (r"(?P<message>x)(?P=message)", "back reference"),
        (r"(x)?(?(1)a|b)(?P<message>x)", "condition"),
        (r"(?P<message>x)(?=y)", "looks around"),
        (r"(?<!x)(?P<message>x)", "looks around"),
        (r"(?>a+)(?P<message>x)", "atomic"),
        (r"(?i)(?P<message>x)", "flags"),
        (r"(?P<message>(?i:x))", "flags"),
        (r"(?P<message>x", "no regular expression"),
        ("(?P<message>[[a])", "no regular expression"),
        ("x{99999999999999999999}", "no regular expression"),
        ("(" * 400 + ")" * 400, "nested too deeply"),
        ("x" * 1_001, "1 to 1000 characters"),
        ("", "1 to 1000 characters"),
        ("(?P<nope>x)", "unknown group 'nope'"),
        ("(?P<file>x)", r"no group \(\?P<message>"),
    ],
)
def test_what_is_refused_and_why(text, said):
    with pytest.raises(ExpressionError, match=said):
        check(text)
    with pytest.raises(ReportError, match=r"report\.pattern"):
        parse("pattern", b"aaa\n", worktree=Path("/w"), expression=text)


ATOMS = ["a", "b", ":", " ", ".", "[ab]", "[^a]", "[^:]", r"\d", r"\w", r"\s", r"\S", "1", "é", "[^é]"]
REPEATS = ["", "", "", "*", "+", "?", "*?", "+?", "{0,3}", "{2,5}?", "{3}", "*+"]
ITEM = st.builds(str.__add__, st.sampled_from(ATOMS), st.sampled_from(REPEATS)) | st.sampled_from(["$", "^", r"\b"])
EXPRESSIONS = st.recursive(
    ITEM,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=5).map("".join)
        | st.builds(lambda one, end: f"({one}){end}", inner, st.sampled_from(["", "?", "??"]))
        | st.builds(lambda one, other, end: f"(?:{one}|{other}){end}", inner, inner, st.sampled_from(["", "?"]))
    ),
    max_leaves=12,
)
HOSTILE = [
    ((base * LINE_CHARS)[: LINE_CHARS - 1] + last)[:LINE_CHARS]
    for base in ("a", "ab", "a:", "1", "1a", " ", "a ", "é", "ab:1 ")
    for last in ("X", "\x00", "b")
]


@given(EXPRESSIONS)
@settings(max_examples=300)
def test_whatever_passes_is_quick_on_hostile_lines(text):
    try:
        expression = compiled(text)
    except ExpressionError:
        return
    for line in HOSTILE:
        started = time.process_time()
        expression.match(line)
        assert time.process_time() - started < 1.5


def test_letters_beyond_ascii_are_sorted_as_re_sorts_them():
    """What is called disjoint must be so for `re`: each of its classes has the same members as ours."""
    for number in [*range(128, 0x3000), 0x1D7CE, 0xFF10, 0x10FFFF]:
        for letter, kind in (("d", "DIGIT"), ("s", "SPACE"), ("w", "WORD")):
            found = compiled(rf"\{letter}").match(chr(number)) is not None
            assert found == bool(_bit(number) & _CATEGORIES[f"CATEGORY_{kind}"])


def test_a_report_that_takes_too_long_as_a_whole_has_no_verdict():
    """The clock between lines is the last resort; with no time at all the first line is one too many."""
    with pytest.raises(ReportError, match="took more than 0 s"):
        pattern.parse(b"a\n" * 1_000, Findings(Path("/w")), "(?P<message>a)", matching_s=0.0)
