import datetime

import pytest

from parcelkit.workdays import (
    CalendarError,
    Event,
    EventCalendar,
    add_working_days,
    easter,
    holidays,
    is_working_day,
    working_days_between,
)

Date = datetime.date


@pytest.mark.parametrize(
    ("year", "month", "day"), [(1961, 4, 2), (2000, 4, 23), (2024, 3, 31), (2025, 4, 20), (2038, 4, 25)]
)
def test_easter(year, month, day):
    assert easter(year) == Date(year, month, day)


def test_holidays():
    assert holidays(2024)[Date(2024, 5, 9)] == "Ascension"
    assert not is_working_day(Date(2024, 3, 29))
    assert not is_working_day(Date(2024, 3, 30))
    assert is_working_day(Date(2024, 4, 2))
    assert not is_working_day(Date(2024, 4, 2), {Date(2024, 4, 2)})


def test_add_working_days():
    assert add_working_days(Date(2024, 3, 28), 1) == Date(2024, 4, 2)
    assert add_working_days(Date(2024, 3, 30), 0) == Date(2024, 4, 2)
    with pytest.raises(CalendarError):
        add_working_days(Date(2024, 3, 28), -1)


def test_working_days_between():
    assert working_days_between(Date(2024, 3, 28), Date(2024, 4, 5)) == 4
    with pytest.raises(CalendarError):
        working_days_between(Date(2024, 4, 5), Date(2024, 3, 28))


def test_calendar():
    calendar = EventCalendar([Event("pick-up", Date(2024, 4, 30), every_days=1)])
    calendar.add(Event("stocktaking", Date(2024, 5, 2)))
    assert calendar.agenda(Date(2024, 5, 1), 2) == [
        "2024-05-01: Labour Day, pick-up",
        "2024-05-02: pick-up, stocktaking",
    ]
    assert calendar.next("stocktaking", Date(2024, 5, 1)) == Date(2024, 5, 2)
    assert calendar.next("party", Date(2024, 5, 1), horizon_days=7) is None
    with pytest.raises(CalendarError):
        Event("never", Date(2024, 5, 1), every_days=0)
