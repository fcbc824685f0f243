"""How much one caller may ask for: token buckets, and calls under way, of callers of whom only the latest are remembered.

No clock: the time is handed in, seconds that only grow.
"""

from collections import OrderedDict
from typing import Final

REMEMBERED_MAX: Final = 10_000
"""Callers that are told apart at a time; whoever was silent longest is forgotten first, and begins anew."""


class Buckets:
    """A token bucket for each caller: `per_s` calls a second, `burst` at once."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._filled: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now_s: float) -> float:
        """Take one token; 0, or in how many seconds there is one again."""
        left, since_s = self._filled.pop(caller, (float(self._burst), now_s))
        left = min(float(self._burst), left + (now_s - since_s) * self._per_s)
        taken = left >= 1.0
        self._filled[caller] = (left - 1.0 if taken else left), now_s
        if len(self._filled) > REMEMBERED_MAX:
            self._filled.popitem(last=False)
        return 0.0 if taken else (1.0 - left) / self._per_s


class Seats:
    """At most `limit` calls under way of each caller."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: dict[str, int] = {}

    def take(self, caller: str) -> bool:
        """Take a seat, to be given back by `leave`; false when none is free."""
        taken = self._taken.get(caller, 0)
        if taken >= self._limit:
            return False
        self._taken[caller] = taken + 1
        return True

    def leave(self, caller: str) -> None:
        """Give a seat back."""
        left = self._taken[caller] - 1
        if left:
            self._taken[caller] = left
        else:
            del self._taken[caller]
