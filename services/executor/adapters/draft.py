"""An outcome in the making: what every adapter fills in, within the limits that every outcome keeps.

Invariants: numbers are whole and within bounds or they are not there; money goes from decimal text to nano-dollars
without a float; texts are one line, without control characters, and bounded.
"""

import math
import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, TypeVar

import msgspec

from services.outcome import Basis, Cost, Outcome, OutcomeClass, Usage

TOKENS_MAX: Final = 10**12
NANO_USD_MAX: Final = 10**18
WAIT_S_MAX: Final = 30 * 86_400.0
SECONDS_MAX: Final = 2**32
"""A time in seconds since 1970 beyond this is no time."""

MESSAGE_CHARS: Final = 500
NAME_CHARS: Final = 200
DENIALS_MAX: Final = 20
NOTES_MAX: Final = 5
TURNS_MAX: Final = 10**9
COUNTED_MAX: Final = 100_000
"""Messages that are told apart by their ids; what comes after them is not counted, which a lower bound allows."""

_T = TypeVar("_T")

_BARE: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f]+|\s+")

_STATUS_CLASSES: Final[dict[int, OutcomeClass]] = {
    400: "unsupported_params",
    401: "auth",
    402: "usage_limit",
    403: "auth",
    404: "model_not_found",
    408: "network",
    413: "context_window",
    422: "unsupported_params",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}


def class_of_status(status: int) -> OutcomeClass:
    """What an HTTP status of a provider means; tool_failed for one that says nothing."""
    known = _STATUS_CLASSES.get(status)
    if known is not None:
        return known
    return "server_error" if 500 <= status <= 599 else "tool_failed"


def one_line(text: str, chars: int = MESSAGE_CHARS) -> str:
    """The text in one line of at most so many characters."""
    return _BARE.sub(" ", text[: 4 * chars]).strip()[:chars]


class Draft:
    """Collects; `conclude` makes the outcome. The last error told is the one that counts."""

    def __init__(self) -> None:
        self.error_class: OutcomeClass = ""
        self.message = ""
        self.provider = ""
        self.model = ""
        self.provider_status = 0
        self.retry_after_s = 0.0
        self.resets_at_ns = 0
        self.session = ""
        self.usage: Usage | None = None
        self.cost: Cost | None = None
        self.turns = 0
        self._denials: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    def fail(self, error_class: OutcomeClass, message: str, status: int = 0) -> None:
        """The harness says that it did not succeed."""
        self.error_class = error_class
        self.message = message
        self.provider_status = status

    def note(self, text: str) -> None:
        """Something could not be read."""
        if text and len(self._notes) < NOTES_MAX:
            self._notes[one_line(text)] = None

    def deny(self, tool: str) -> None:
        """The agent wanted this tool and was refused it."""
        if len(self._denials) < DENIALS_MAX:
            self._denials[one_line(tool, 100) or "?"] = None

    def waits(self, seconds: float) -> None:
        """The provider asks for so many seconds."""
        if math.isfinite(seconds) and 0 < seconds <= WAIT_S_MAX:
            self.retry_after_s = round(seconds, 3)

    def resets(self, epoch_s: float) -> None:
        """The limit starts anew at this time, seconds since 1970."""
        if math.isfinite(epoch_s) and 0 < epoch_s <= SECONDS_MAX:
            self.resets_at_ns = int(epoch_s * 1000) * 1_000_000

    def conclude(self) -> Outcome:
        """The outcome, within its limits."""
        return Outcome(
            error_class=self.error_class,
            message=one_line(self.message),
            note="; ".join(self._notes)[:MESSAGE_CHARS],
            provider=one_line(self.provider, NAME_CHARS),
            model=one_line(self.model, NAME_CHARS),
            provider_status=self.provider_status if 0 < self.provider_status < 1000 else 0,
            retry_after_s=self.retry_after_s,
            resets_at_ns=self.resets_at_ns,
            session=one_line(self.session, NAME_CHARS),
            usage=self.usage,
            cost=self.cost,
            denials=tuple(self._denials),
            turns=self.turns if 0 <= self.turns <= TURNS_MAX else 0,
        )

    def spent(self) -> tuple[Outcome, ...]:
        """What it has used until now, and by whom it was served; empty where that is not known."""
        if self.usage is None and self.cost is None:
            return ()
        return (
            Outcome(
                provider=one_line(self.provider, NAME_CHARS),
                model=one_line(self.model, NAME_CHARS),
                usage=self.usage,
                cost=self.cost,
            ),
        )

    # Amounts

    def count(
        self,
        *,
        fresh: int,
        cache_read: int = 0,
        cache_write: int = 0,
        output: int = 0,
        lower_bound: bool = False,
    ) -> None:
        """What it used; numbers that cannot be are noted, and leave the usage unknown."""
        if all(0 <= number <= TOKENS_MAX for number in (fresh, cache_read, cache_write, output)):
            self.usage = Usage(
                input_tokens=fresh,
                cache_read_tokens=cache_read,
                cache_write_tokens=cache_write,
                output_tokens=output,
                lower_bound=lower_bound,
            )
        else:
            self.usage = None
            self.note("its usage holds numbers that cannot be")

    def charge(self, usd: Decimal, basis: Basis = "reported") -> None:
        """What it says that it cost. Nothing for something used is no price: the tool does not know one."""
        nano = nano_usd(usd)
        if nano is None:
            self.cost = None
            self.note("its cost is a number that cannot be")
        elif nano == 0 and self.usage is not None and used(self.usage):
            self.cost = None
        else:
            self.cost = Cost(nano_usd=nano, basis=basis)


def used(usage: Usage) -> int:
    """All tokens together."""
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens


def nano_usd(usd: Decimal) -> int | None:
    """Dollars in nano-dollars, rounded half to even; None for what is no sum of money."""
    if not usd.is_finite() or not 0 <= usd <= NANO_USD_MAX // 10**9:
        return None
    return int((usd * 10**9).to_integral_value(ROUND_HALF_EVEN))


class Counted:
    """Ids that were counted already; bounded, and by hash, for ids may be long."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    @property
    def full(self) -> bool:
        """Whether there are too many to tell any more."""
        return len(self._known) >= COUNTED_MAX

    def first(self, key: str) -> bool:
        """Whether this id was not there before; False too once there are too many to tell."""
        found = hash(key)
        if found in self._known or self.full:
            return False
        self._known.add(found)
        return True


def converted(raw: msgspec.Raw, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """A part of an event that was set aside; None when it is not there, null, or not of that form."""
    data = bytes(raw)
    if not data or data == b"null":
        return None
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
