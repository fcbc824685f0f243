"""Rates: how fast attempts may begin, by the generic cell rate algorithm.

    opens_ns(bucket, rate)              -> ns      when one more may be taken
    take(bucket, rate, time_ns)         -> bucket  an attempt was granted
    pay(bucket, rate, tokens, time_ns)  -> bucket  an attempt told what tokens it has used

A bucket holds two times: when it will be full again, counted in attempts and in tokens. An attempt is taken before it
begins, its tokens when they are known; what they are over a minute's worth, the next attempts wait for.

Invariant: in any span of log time no more than `burst` attempts are granted and one for each interval of the span, as long
as nobody takes from a bucket before it opens. What a tool tells of its tokens holds nobody up for longer than
DEBT_NS_MAX. Pure: no clock, times are in nanoseconds.
"""

from typing import Final

import msgspec

from services.events import Rate

MINUTE_NS: Final = 60_000_000_000

DEBT_NS_MAX: Final = 10 * MINUTE_NS
"""The longest that tokens are paid off: a tool may tell any number."""


class Bucket(msgspec.Struct):
    """When a bucket will be full again: of attempts, and of tokens."""

    attempts_ns: int = 0
    tokens_ns: int = 0


def interval_ns(rate: Rate) -> int:
    """The time in which a bucket gains one attempt; 0 for any number."""
    return -(-MINUTE_NS // rate.attempts_per_min) if rate.attempts_per_min is not None else 0


def opens_ns(bucket: Bucket, rate: Rate) -> int:
    """From when on one more attempt may be taken."""
    attempts_ns = bucket.attempts_ns - (rate.burst - 1) * interval_ns(rate) if rate.attempts_per_min is not None else 0
    tokens_ns = bucket.tokens_ns - MINUTE_NS if rate.tokens_per_min is not None else 0
    return max(attempts_ns, tokens_ns)


def take(bucket: Bucket, rate: Rate, time_ns: int) -> Bucket:
    """Take an attempt at a time. Changes its argument."""
    if rate.attempts_per_min is not None:
        bucket.attempts_ns = max(bucket.attempts_ns, time_ns) + interval_ns(rate)
    return bucket


def keep(bucket: Bucket, rate: Rate, time_ns: int) -> Bucket:
    """Go on under another rate: what was taken under the old one is no more than a whole burst of the new. Changes its argument."""
    bucket.attempts_ns = min(bucket.attempts_ns, time_ns + rate.burst * interval_ns(rate))
    return bucket


def is_full(bucket: Bucket, time_ns: int) -> bool:
    """Whether nothing is owed any more: a new bucket would be the same."""
    return max(bucket.attempts_ns, bucket.tokens_ns) <= time_ns


def pay(bucket: Bucket, rate: Rate, tokens: int, time_ns: int) -> Bucket:
    """Take what an attempt has used. Changes its argument."""
    if rate.tokens_per_min is not None:
        owed_ns = -(-max(tokens, 0) * MINUTE_NS // rate.tokens_per_min)
        bucket.tokens_ns = min(max(bucket.tokens_ns, time_ns) + owed_ns, time_ns + DEBT_NS_MAX)
    return bucket
