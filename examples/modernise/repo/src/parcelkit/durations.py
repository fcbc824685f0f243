"""Durations in whole seconds, read from what people write, and opening hours in minutes of the day."""

import re

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_UNITS = {
    "s": 1,
    "sec": 1,
    "m": MINUTE,
    "min": MINUTE,
    "h": HOUR,
    "hour": HOUR,
    "d": DAY,
    "day": DAY,
    "w": WEEK,
    "week": WEEK,
}
_PART = re.compile(r"(\d+)\s*([a-z]+)")
_ISO = re.compile(
    r"^P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?"
    r"(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+)S)?)?$"
)


class DurationError(ValueError):
    """A text that is no duration, or a time of day that does not exist."""


def parse_duration(text):
    """Read ``2d 4h``, ``90 min``, ``1 week`` or the ISO form ``P1DT2H`` as seconds.

    >>> parse_duration("1h 30m")
    5400

    :param str text: what was written
    :rtype: int
    """
    text = text.strip()
    if text.startswith("P"):
        return _parse_iso(text)
    seconds = 0
    rest = text.lower()
    for match in _PART.finditer(rest):
        unit = match.group(2)
        if unit not in _UNITS:
            unit = unit.rstrip("s")
        try:
            seconds += int(match.group(1)) * _UNITS[unit]
        except KeyError:
            raise DurationError("unknown unit %r in %r" % (match.group(2), text))
    if _PART.sub("", rest).strip(" ,") or not rest:
        raise DurationError("not a duration: %r" % (text,))
    return seconds


def _parse_iso(text):
    """Read an ISO 8601 duration of weeks, days, hours, minutes and seconds.

    :param str text: beginning with P
    :rtype: int
    """
    match = _ISO.match(text)
    if match == None or text in ("P", "PT"):
        raise DurationError("not an ISO 8601 duration: %r" % (text,))
    return sum(int(count) * _UNITS[unit] for unit, count in match.groupdict(default="0").items())


def format_duration(seconds, parts=2):
    """Write seconds with the largest units first.

    >>> format_duration(93784)
    '1d 2h'

    :param int seconds: the duration
    :param int parts: how many units to print at most
    :rtype: str
    """
    if seconds < 0:
        return "-%s" % (format_duration(-seconds, parts),)
    words = []  # type: list[str]
    for unit, size in (("w", WEEK), ("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count and len(words) < parts:
            words.append("%s%s" % (count, unit))
    return " ".join(words) or "0s"


def clock(minutes):
    """Write minutes of the day as a clock shows them.

    >>> clock(545)
    '09:05'

    :param int minutes: since midnight
    :rtype: str
    """
    if minutes < 0 or minutes > 24 * 60:
        raise DurationError("a day has no minute %d" % (minutes,))
    hours, rest = divmod(minutes, 60)
    return "%02d:%02d" % (hours, rest)


def parse_clock(text):
    """Read ``09:05`` as minutes since midnight.

    :param str text: hours and minutes with a colon
    :rtype: int
    """
    try:
        hours, minutes = [int(word) for word in text.split(":")]
    except ValueError:
        raise DurationError("not a time of day: %r" % (text,))
    if not (0 <= hours <= 24 and 0 <= minutes < 60):
        raise DurationError("no clock shows %r" % (text,))
    return hours * 60 + minutes


class Window(object):
    """A span of one day, for instance opening hours; the end is not part of it.

    :ivar int start: minutes since midnight
    :ivar int end: minutes since midnight
    """

    def __init__(self, start, end):
        """A window must not be empty.

        :param int start: minutes since midnight
        :param int end: minutes since midnight
        """
        if end <= start:
            raise DurationError("%s does not come after %s" % (clock(end), clock(start)))
        self.start = start
        self.end = end

    def __str__(self):
        """As written on a door.

        :rtype: str
        """
        return "%s-%s" % (clock(self.start), clock(self.end))

    def contains(self, minute):
        """Whether a minute of the day lies in the window.

        :param int minute: since midnight
        :rtype: bool
        """
        return self.start <= minute < self.end

    def overlaps(self, other):
        """Whether two windows share a minute.

        :param Window other: the other window
        :rtype: bool
        """
        return self.start < other.end and other.start < self.end

    def minutes(self):
        """How long the window is.

        :rtype: int
        """
        return self.end - self.start


def parse_window(text):
    """Read ``09:00-17:30``.

    :param str text: two times of day with a hyphen
    :rtype: Window
    """
    start, hyphen, end = text.partition("-")
    if not hyphen:
        raise DurationError("not a window: %r; write for example 09:00-17:30" % (text,))
    return Window(parse_clock(start.strip()), parse_clock(end.strip()))


def merge_windows(windows):
    """Join windows that overlap or touch; the result is in order.

    :param list[Window] windows: in any order
    :rtype: list[Window]
    """
    merged = []  # type: list[Window]
    for window in sorted(windows, key=lambda each: each.start):
        if merged and window.start <= merged[-1].end:
            merged[-1] = Window(merged[-1].start, max(merged[-1].end, window.end))
        else:
            merged.append(window)
    return merged
