"""Tracking: scans of a parcel on its way, and what they say about where it is."""

import datetime

from parcelkit.durations import DAY, format_duration

#: Which kinds of scan may follow which.
FOLLOWS = {
    "announced": ["accepted", "cancelled"],
    "accepted": ["sorted", "returned"],
    "sorted": ["sorted", "loaded", "returned"],
    "loaded": ["delivered", "attempted", "returned"],
    "attempted": ["loaded", "held", "returned"],
    "held": ["delivered", "returned"],
    "delivered": [],
    "returned": [],
    "cancelled": [],
}


class TrackingError(ValueError):
    """A scan that cannot be read, or that cannot have happened."""


class Scan(object):
    """One scan: when, what and where.

    :ivar datetime.datetime at: when
    :ivar str kind: one of :data:`FOLLOWS`
    :ivar str place: where
    """

    def __init__(self, at, kind, place=""):
        """Check the kind and keep the rest.

        :param datetime.datetime at: when
        :param str kind: one of :data:`FOLLOWS`
        :param str place: where
        """
        if kind not in FOLLOWS:
            raise TrackingError("unknown kind of scan %r" % (kind,))
        self.at = at
        self.kind = kind
        self.place = place

    def __str__(self):
        """One line for a list.

        :rtype: str
        """
        text = "%s %s" % (self.at.strftime("%Y-%m-%d %H:%M"), self.kind)
        return "%s (%s)" % (text, self.place) if self.place else text


def parse_scan(line):
    """Read ``2024-05-03T10:15 sorted Hannover``.

    :param str line: time, kind and, if known, the place
    :rtype: Scan
    """
    words = line.split(None, 2)
    if len(words) < 2:
        raise TrackingError("not a scan: %r" % (line,))
    try:
        at = datetime.datetime.fromisoformat(words[0])
    except ValueError:
        raise TrackingError("not a time: %r; write for example 2024-05-03T10:15" % (words[0],))
    return Scan(at, words[1], words[2] if len(words) == 3 else "")


def guess_scan(line):
    """Read a scan, or nothing where the line cannot be read.

    :param str line: time, kind and, if known, the place
    :rtype: Scan or None
    """
    try:
        return parse_scan(line)
    except:
        return None


class Track(object):
    """All scans of one parcel, in order.

    :ivar str number: of the parcel
    :ivar list[Scan] scans: earliest first
    """

    def __init__(self, number):
        """A parcel that nobody has seen yet.

        :param str number: of the parcel
        """
        self.number = number
        self.scans = []

    def add(self, scan):
        """Add a scan; it must not be earlier than the last, and must be able to follow it.

        :param Scan scan: the scan
        """
        if self.scans:
            last = self.scans[-1]
            if scan.at < last.at:
                raise TrackingError("%s comes before %s" % (scan, last))
            if scan.kind not in FOLLOWS[last.kind]:
                raise TrackingError("%s cannot follow %s" % (scan.kind, last.kind))
        self.scans.append(scan)

    def status(self):
        """The kind of the last scan, or ``unknown``.

        :rtype: str
        """
        return self.scans[-1].kind if self.scans else "unknown"

    def finished(self):
        """Whether nothing can follow any more.

        :rtype: bool
        """
        return bool(self.scans) and not FOLLOWS[self.status()]

    def seconds(self):
        """From the first scan to the last.

        :rtype: int
        """
        if not self.scans:
            return 0
        return int((self.scans[-1].at - self.scans[0].at).total_seconds())

    def late(self, promised_days):
        """Whether it took longer than promised.

        :param int promised_days: what the customer was told
        :rtype: bool
        """
        return self.seconds() > promised_days * DAY

    def describe(self):
        """One line for a list.

        :rtype: str
        """
        return "%s: %s after %s" % (self.number, self.status(), format_duration(self.seconds()))


def parse_track(number, text):
    """Read a parcel's scans; lines that cannot be read are passed over.

    :param str number: of the parcel
    :param str text: one scan a line
    :rtype: Track
    """
    track = Track(number)
    for line in text.splitlines():
        scan = guess_scan(line)
        if scan != None:
            track.add(scan)
    return track


def overdue(tracks, promised_days):
    """The numbers of parcels that are late and still on their way.

    :param list[Track] tracks: in any order
    :param int promised_days: what the customers were told
    :rtype: list[str]
    """
    late = [track for track in tracks if track.late(promised_days) and not track.finished()]
    return sorted(track.number for track in late)
