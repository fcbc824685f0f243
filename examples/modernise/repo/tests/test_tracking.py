import datetime

import pytest

from parcelkit.tracking import Scan, Track, TrackingError, guess_scan, overdue, parse_scan, parse_track

DAY_ONE = datetime.datetime(2024, 5, 3, 10, 15)

JOURNEY = u"""
2024-05-03T10:15 accepted Hannover
something nobody can read
2024-05-04T02:00 sorted Leipzig hub
2024-05-06T08:30 loaded
2024-05-06T14:05 delivered
"""


def test_parse_scan():
    scan = parse_scan("2024-05-03T10:15 sorted Leipzig hub")
    assert str(scan) == "2024-05-03 10:15 sorted (Leipzig hub)"
    for line in ("nothing", "yesterday sorted", "2024-05-03 eaten"):
        with pytest.raises(TrackingError):
            parse_scan(line)
        assert guess_scan(line) is None


def test_journey():
    track = parse_track("P1", JOURNEY)
    assert len(track.scans) == 4
    assert track.finished()
    assert track.describe() == "P1: delivered after 3d 3h"


def test_impossible_scans():
    track = Track("P2")
    track.add(Scan(DAY_ONE, "accepted"))
    with pytest.raises(TrackingError):
        track.add(Scan(DAY_ONE, "delivered"))
    with pytest.raises(TrackingError):
        track.add(Scan(DAY_ONE - datetime.timedelta(hours=1), "sorted"))


def test_overdue():
    slow, quick = Track("P3"), parse_track("P4", JOURNEY)
    assert slow.status() == "unknown" and slow.seconds() == 0
    slow.add(Scan(DAY_ONE, "accepted"))
    slow.add(Scan(DAY_ONE + datetime.timedelta(days=5), "sorted"))
    assert overdue([slow, quick], 3) == ["P3"]
    assert overdue([slow, quick], 5) == []
