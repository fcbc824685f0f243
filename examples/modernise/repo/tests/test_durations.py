import pytest

from parcelkit.durations import (
    DAY,
    DurationError,
    Window,
    clock,
    format_duration,
    merge_windows,
    parse_clock,
    parse_duration,
    parse_window,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2d 4h", 2 * DAY + 4 * 3600),
        ("90 min", 5400),
        ("1 week", 7 * DAY),
        ("3 days, 2 hours", 3 * DAY + 7200),
        ("P1DT2H", DAY + 7200),
        ("P2W", 14 * DAY),
    ],
)
def test_parse(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "3 moons", "P", "PT", "1h and more"])
def test_parse_refuses(text):
    with pytest.raises(DurationError):
        parse_duration(text)


def test_format_keeps_the_largest_parts():
    assert format_duration(0) == "0s"
    assert format_duration(8 * DAY + 61) == "1w 1d"
    assert format_duration(3725, parts=3) == "1h 2m 5s"
    assert format_duration(-90) == "-1m 30s"


def test_clock_both_ways():
    assert [parse_clock(clock(minutes)) for minutes in (0, 61, 1439)] == [0, 61, 1439]
    for text in ("9", "25:00", "09:60", "a:b"):
        with pytest.raises(DurationError):
            parse_clock(text)
    with pytest.raises(DurationError):
        clock(-1)


def test_windows():
    window = parse_window("09:00 - 17:30")
    assert "%s" % (window,) == "09:00-17:30"
    assert window.minutes() == 510
    assert window.contains(540) and not window.contains(1050)
    assert window.overlaps(Window(1000, 1100)) and not window.overlaps(Window(1050, 1100))
    with pytest.raises(DurationError):
        Window(600, 600)


def test_merge_windows():
    merged = merge_windows([Window(600, 660), Window(0, 60), Window(660, 700), Window(50, 70)])
    assert [(window.start, window.end) for window in merged] == [(0, 70), (600, 700)]
