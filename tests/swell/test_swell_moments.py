"""Times as people write them."""

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


@pytest.mark.parametrize("text", ["soon", "5", "-5m", "2026-13-01", "99999999999d", "5y", "\0"])
def test_what_is_no_time_is_told_with_its_option(text):
    with pytest.raises(SwellError, match=r"--since .* is no time"):
        moment_ns("--since", text)


def test_a_span_stands_the_right_way_round():
    assert span_ns("", "") == (0, 0)
    with pytest.raises(SwellError, match="Exchange them"):
        span_ns("1h", "2h")
