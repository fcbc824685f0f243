"""Nothing that a tool printed steers a terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from swell.listing import attempt_lines
from swell.text import columns, duration, one_line, size, visible
from swell.values import Attempt


@given(st.text())
def test_no_control_character_but_line_feed_and_tab_survives(text: str) -> None:
    left = {c for c in visible(text) if unicodedata.category(c) in {"Cc", "Zl", "Zp"}}
    assert left <= {"\n", "\t"}


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line_of_limited_length(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line


def test_escapes_and_reordering_are_spelt_out() -> None:
    assert visible("a\x1b[31mb\u202ec\r\nd\x9be") == "a\\x1b[31mb\\u202ec\nd\\x9be"


def test_lengths_of_time_and_sizes_read_well() -> None:
    assert [duration(s) for s in (0.44, 59.9, 61, 3720)] == ["0.4 s", "59.9 s", "1 min 01 s", "1 h 02 min"]
    assert [size(n) for n in (5, 2048, 3 * 1024**2, 5 * 1024**3)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]


def test_columns_are_aligned_and_visible() -> None:
    assert columns([["a", "b"], ["long", "\x1b"]]) == ["a     b", "long  \\x1b"]


def test_an_attempt_says_which_capability_it_serves() -> None:
    none = dict.fromkeys(
        ("error_class", "message", "executor", "commit", "tree", "on_behalf", "signature", "action", "context"), ""
    )
    zero = dict.fromkeys(
        (
            "scheduled_ns",
            "started_ns",
            "closed_ns",
            "tool_wall_s",
            "late_facts",
            "reduction",
            "left_out",
            "context_tokens",
        ),
        0,
    )
    plain = {
        **none,
        **zero,
        "run": "r1",
        "ok": False,
        "exit_code": None,
        "files": [],
        "artifacts": [],
        "checks_json": "",
    }
    told = {"workstream": "ws-a", "attempt": 2, "step": "edit", "state": "started", "tool": "claude"}
    for capability, text in (("", "edit: started"), ("refactoring", "edit as refactoring: started")):
        attempt = Attempt(**{**plain, **told, "capability": capability})
        assert attempt_lines(attempt)[0] == f"ws-a/2 {text}, with claude"
