"""The error signature: blind to what differs between two runs of one failure, and to nothing else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.diagnostic import Diagnostic, error_signature, normalised

WORD = st.text("ghijklnopqrtuvwxyz", min_size=3, max_size=8)
BASE = Diagnostic(tool="ruff", path="src/a.py", line=3, column=1, code="E501", message="Line too long")


def of_text(text):
    return error_signature([], [("pytest", 1, text)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/a.py:3: error: Boom", "/tmp/wt-1/src/a.py:117: error: boom"),
        ("C:\\work\\src\\a.py: boom", "/home/x/src/a.py: boom"),
        ("1 failed,  3 passed in 0.03s", "1 failed, 3 passed\nin 12.51 seconds"),
        ("<Foo object at 0x7f3a00c0ffee>", "<Foo object at 0xdeadbeef>"),
        ("\x1b[31;1mboom\x1b[0m", "boom"),
        ("\x1b]8;;http://x\x07boom\x1b]8;;\x07", "boom"),
        ("cannot open /tmp/tmpab12cd_3", "cannot open /tmp/tmpzz98yy_1"),
        ("rootdir: /tmp/pytest-of-root/pytest-12/test_x0", "rootdir: /tmp/pytest-of-root/pytest-7/test_x0"),
        ("at 2026-01-02T10:11:12.123Z boom", "at 2025-12-31 23:59:59 boom"),
        ("Sun Nov 23 06:32:01 2025 boom", "Mon Dec 1 16:02:11 2026 boom"),
        ("commit 1a2b3c4d5e boom", "commit 99aa88bb77 boom"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id 00000000-0000-4000-8000-00000000000a"),
        ("  BOOM\r\n", "boom"),
    ],
)
def test_what_varies_between_runs_does_not_count(one, other):
    assert normalised(one) == normalised(other)
    assert of_text(one) == of_text(other)
    assert error_signature([replace(BASE, message=one)]) == error_signature([replace(BASE, message=other)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("E501 boom", "E502 boom"),
        ("test_one failed", "test_two failed"),
        ("test_x_1 failed", "test_x_2 failed"),
        ("a.py: boom", "b.py: boom"),
        ("src/a.py: boom", "src/b.py: boom"),
        ("undefined name 'x'", "undefined name 'y'"),
        ("facade", "decade"),
        ("", "boom"),
    ],
)
def test_different_text_differs(one, other):
    assert of_text(one) != of_text(other)


@given(st.lists(WORD, min_size=1, max_size=5), st.integers(0, 9999), st.integers(0, 9999), WORD)
def test_signature_is_invariant(words, line, other_line, folder):
    plain = f"src/a.py:{line}: " + " ".join(words)
    noisy = f"/{folder}/src/a.py:{other_line}:  \x1b[1m" + "\t ".join(words).upper() + "\n"
    assert of_text(plain) == of_text(noisy)
    there = [replace(BASE, path=f"/{folder}/src/a.py", line=other_line, message=noisy)]
    here = [replace(BASE, path="/w/src/a.py", line=line, message=plain)]
    assert error_signature(here) == error_signature(there)


@given(st.lists(WORD, min_size=1, max_size=4), st.lists(WORD, min_size=1, max_size=4))
def test_signature_distinguishes_words(one, other):
    assert (of_text(" ".join(one)) == of_text(" ".join(other))) == (one == other)


@given(st.lists(st.builds(lambda w, c: replace(BASE, message=w, code=c), WORD, WORD), max_size=4), st.randoms())
def test_order_does_not_count_but_number_does(diagnostics, random):
    shuffled = list(diagnostics)
    random.shuffle(shuffled)
    assert error_signature(shuffled) == error_signature(diagnostics)
    assert error_signature([*diagnostics, BASE]) != error_signature([*diagnostics, BASE, BASE])


@pytest.mark.parametrize(
    "change", [{"tool": "mypy"}, {"code": "E502"}, {"path": "src/b.py"}, {"path": "lib/a.py"}, {"message": "no"}]
)
def test_tool_code_path_and_message_count(change):
    assert error_signature([replace(BASE, **change)]) != error_signature([BASE])


@pytest.mark.parametrize(
    "change", [{"line": 9}, {"column": None}, {"end_line": 4}, {"end_column": 4}, {"path": "./SRC/a.py"}]
)
def test_place_in_the_file_does_not_count(change):
    assert error_signature([replace(BASE, **change)]) == error_signature([BASE])


def test_output_counts_only_for_tools_without_a_diagnostic():
    plain = error_signature([BASE])
    assert error_signature([BASE], [("ruff", 1, "text")]) == plain
    assert error_signature([BASE], [("pytest", 1, "text")]) != plain
    assert error_signature([], [("pytest", 1, "x")]) != error_signature([], [("pytest", 2, "x")])


def test_a_signature_is_a_sha256_of_anything():
    assert len(of_text("\ud800\x00\udcff")) == 64
    assert len(error_signature([], [])) == 64


@pytest.mark.parametrize(
    "unit", ["a", "1:", "a/", "\x1b[", "\x1b]", "tmp", "# ", "f", " \\", "1 ", "1.", "[", "0x", "jan "]
)
def test_hostile_output_takes_linear_time(unit):
    start = time.perf_counter()
    of_text(unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - start < 5
