"""Working days, holidays, and a small calendar of events."""

import datetime
from typing import Dict, List, Optional, Set

Date = datetime.date

_FIXED = {(1, 1): "New Year", (5, 1): "Labour Day", (12, 25): "Christmas", (12, 26): "Boxing Day"}
_EASTER = {-2: "Good Friday", 1: "Easter Monday", 39: "Ascension", 50: "Whit Monday"}


class CalendarError(ValueError):
    """A date that makes no sense where it was given."""


def easter(year: int) -> Date:
    """Easter Sunday of a year, by the method printed anonymously in Nature in 1876.

    >>> easter(2024)
    datetime.date(2024, 3, 31)
    """
    golden = year % 19
    century, rest = divmod(year, 100)
    leap, shift = divmod(century, 4)
    correction = (century - (century + 8) // 25 + 1) // 3
    moon = (19 * golden + century - leap - correction + 15) % 30
    quarter, left = divmod(rest, 4)
    weekday = (32 + 2 * shift + 2 * quarter - moon - left) % 7
    late = (golden + 11 * moon + 22 * weekday) // 451
    month, day = divmod(moon + weekday - 7 * late + 114, 31)
    return Date(year, month, day + 1)


def holidays(year: int) -> Dict[Date, str]:
    """The holidays of a year by date."""
    found: Dict[Date, str] = {}
    for (month, day), name in _FIXED.items():
        found[Date(year, month, day)] = name
    for offset, name in _EASTER.items():
        found[easter(year) + datetime.timedelta(days=offset)] = name
    return found


def is_working_day(day: Date, closed: Optional[Set[Date]] = None) -> bool:
    """Whether anything is delivered on a day; a depot may name days on which it is closed."""
    if day.weekday() >= 5 or day in (closed or set()):
        return False
    return day not in holidays(day.year)


def add_working_days(day: Date, count: int, closed: Optional[Set[Date]] = None) -> Date:
    """The day a number of working days later; 0 gives the next working day, or the day itself."""
    if count < 0:
        raise CalendarError("cannot go back {} working days".format(-count))
    while not is_working_day(day, closed):
        day += datetime.timedelta(days=1)
    for _ in range(count):
        day += datetime.timedelta(days=1)
        while not is_working_day(day, closed):
            day += datetime.timedelta(days=1)
    return day


def working_days_between(start: Date, end: Date) -> int:
    """How many working days lie after the start, up to and including the end."""
    if end < start:
        raise CalendarError("{} comes before {}".format(end, start))
    days = (end - start).days
    return sum(is_working_day(start + datetime.timedelta(days=n)) for n in range(1, days + 1))


class Event(object):
    """Something that takes place on a day, once or every so many days."""

    def __init__(self, name: str, day: Date, every_days: Optional[int] = None) -> None:
        if every_days is not None and every_days < 1:
            raise CalendarError("an event cannot repeat every {} days".format(every_days))
        self.name = name
        self.day = day
        self.every_days = every_days

    def on(self, day: Date) -> bool:
        """Whether the event takes place on a day."""
        if self.every_days is None or day < self.day:
            return day == self.day
        return (day - self.day).days % self.every_days == 0


class EventCalendar(object):
    """Events, and what is on when."""

    def __init__(self, events: Optional[List[Event]] = None) -> None:
        self.events = list(events or [])

    def add(self, event: Event) -> None:
        """Put an event into the calendar."""
        self.events.append(event)

    def on(self, day: Date) -> List[str]:
        """The names of everything on a day, holidays first."""
        names = sorted(event.name for event in self.events if event.on(day))
        holiday = holidays(day.year).get(day)
        return names if holiday is None else [holiday] + names

    def agenda(self, start: Date, days: int) -> List[str]:
        """A line for each day on which something is on."""
        lines: List[str] = []
        for number in range(days):
            day = start + datetime.timedelta(days=number)
            names = self.on(day)
            if names:
                lines.append("{}: {}".format(day.isoformat(), ", ".join(names)))
        return lines

    def next(self, name: str, after: Date, horizon_days: int = 366) -> Optional[Date]:
        """The next day on which an event takes place, within a horizon."""
        for number in range(1, horizon_days + 1):
            day = after + datetime.timedelta(days=number)
            if name in self.on(day):
                return day
        return None
