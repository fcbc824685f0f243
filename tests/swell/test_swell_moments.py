"""Times as people write them."""

import time

import pytest

from swell.errors import SwellError
from swell.moments import moment_ns, span_ns

NOW_NS = 1_790_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "ago_s"), [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), (" 1w ", 604_800)]
)
def test_so_long_ago(text, ago_s):
    assert moment_ns("--since", text, NOW_NS) == NOW_NS - ago_s * 1_000_000_000


def test_dates_and_times():
    assert moment_ns("--since", "") == 0
    assert moment_ns("--since", "2026-11-23T14:30:00Z") == 1_795_444_200_000_000_000
    assert moment_ns("--since", "2026-11-23T14:30:00.000001+00:00") == 1_795_444_200_000_001_000
    assert moment_ns("--since", "1969-01-01") == 1


def test_a_time_without_a_zone_is_one_of_this_machine(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert moment_ns("--since", "2026-11-23T14:30") == moment_ns("--since", "2026-11-23T05:30Z")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text", ["soon", "5", "-5m", "2026-13-01", "99999999999d", "5y", "\0", "9" * 60, "9999-01-01", "\u0667d"]
)
def test_what_is_no_time_is_told_with_its_option(text):
    with pytest.raises(SwellError, match=r"--since .* is no time"):
        moment_ns("--since", text)


def test_a_span_stands_the_right_way_round():
    assert span_ns("", "") == (0, 0)
    for since, until in (("1h", "2h"), ("1h", "1h"), ("2026-11-02", "2026-11-01")):
        with pytest.raises(SwellError, match="Exchange them"):
            span_ns(since, until)
    first_ns, last_ns = span_ns("2h", "1h")
    assert last_ns - first_ns == 3600 * 10**9
