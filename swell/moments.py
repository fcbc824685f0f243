"""Times as people write them, and as the services count them. Pure but for the zone of this machine."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Final

from swell.errors import SwellError, invalid

_AGO: Final = re.compile(r"([0-9]{1,9})\s*([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
TIME_NS_MAX: Final = 2**63 - 1
"""In the year 2262; what the services count with."""


def moment_ns(option: str, text: str, now_ns: int | None = None) -> int:
    """Nanoseconds since 1970-01-01 UTC of `30m` (so long ago; s, m, h, d or w) or of a date or time by ISO 8601.

    A time without a zone is one of this machine's. Empty is 0. Raises SwellError that names the option.
    """
    if not text:
        return 0
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        now = time.time_ns() if now_ns is None else now_ns
        return max(now - int(ago[1]) * _SECONDS[ago[2]] * 1_000_000_000, 1)
    try:
        found = dt.datetime.fromisoformat(text.strip()).astimezone()
        time_ns = (found - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError) as error:
        raise _no_time(option, text) from error
    if time_ns > TIME_NS_MAX:
        raise _no_time(option, text)
    return max(time_ns, 1)


def _no_time(option: str, text: str) -> SwellError:
    remedy = "Use 30m, 2h or 7d for so long ago, or a date such as 2026-11-23 or 2026-11-23T14:30."
    return invalid("BAD_TIME", f"{option} {text[:40]!r} is no time", remedy)


def span_ns(since: str, until: str) -> tuple[int, int]:
    """Both ends of a span of time, 0 where one is open. Raises SwellError when they stand the wrong way round."""
    now_ns = time.time_ns()
    first_ns, last_ns = moment_ns("--since", since, now_ns), moment_ns("--until", until, now_ns)
    if 0 < last_ns <= first_ns:
        raise invalid("BAD_TIME", f"--since {since} is not before --until {until}", "Exchange them, or give another.")
    return first_ns, last_ns
