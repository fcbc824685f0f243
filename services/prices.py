"""What tokens cost: the prices of models, and the arithmetic that turns usage into money. The only owner of genai_prices.

A price is looked up in our own table (config/prices.toml and files laid over it), then in the data that comes with the
library genai-prices, which is read lazily and never refreshed from a network. What a usage has
cost is recorded with the table's id, so a replay looks nothing up.

Invariants: money is an integer of nano-dollars (1 USD = 10^9), computed exactly in decimals and rounded once, half up;
nothing here reads a clock: the day is an argument; a model without a price is an error or None, never free; a price of
zero is believed from our own table only.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, overload

import msgspec
from msgspec import Meta

from services.outcome import Cost, Usage
from services.resources import resource

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

PRICES_BYTES: Final = 256 * 1024
"""Bytes of one price file."""
ENTRIES_MAX: Final = 500
USD_PER_MTOK_MAX: Final = 10_000
"""Dollars per million tokens that a table may ask for; the dearest listed model costs a sixteenth of that."""
PLACES_MAX: Final = 18
"""Decimal places of a price."""
TOKENS_MAX: Final = 10**12
NANO_USD_MAX: Final = 10**18
"""No cost is more: a billion dollars."""
NAME_CHARS: Final = 200

Fallback = Literal["genai-prices", "none"]
UnknownPolicy = Literal["refuse", "token_cap"]
"""What follows from a model without a price: an error, or None, for callers that hold the attempt to a number of tokens."""

_NAME = r"^[a-z0-9][a-z0-9._:/@+\[\]-]*\Z"
_PROVIDER = r"^([a-z0-9][a-z0-9._:@+-]*)?\Z"
_Name = Annotated[str, Meta(pattern=_NAME, max_length=NAME_CHARS)]
_ProviderName = Annotated[str, Meta(pattern=_PROVIDER, max_length=NAME_CHARS)]
_Threshold = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_UP)
_NANO_PER_USD_PER_MTOK = 1000
_DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})$", re.ASCII)
_SAME_PROVIDER = {"gemini": "google"}
"""Names that tools give a provider, and what the tables call it."""


class PriceTableError(ValueError):
    """A price file cannot be used; the text names file, model, field and remedy."""


class UnknownModelError(LookupError):
    """No table knows the price of a model, or the provider it was asked for is unknown."""

    def __init__(self, model: str, provider: str | None) -> None:
        """Names both as they were asked for, escaped and shortened."""
        seller = f" of provider {provider!a:.80}" if provider else ""
        super().__init__(
            f"no price is known for model {model!a:.120}{seller}. Add a [[price]] entry to your price file "
            "(docs/prices.md), or set the policy for unknown models to token_cap."
        )
        self.model = model
        self.provider = provider


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rates for a whole request whose input, cache included, is above `above_input_tokens`; units as in `Price`."""

    above_input_tokens: _Threshold
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None

    def __post_init__(self) -> None:
        _check_rates(self)


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one model costs, in US dollars per million tokens, from the day `effective` (UTC) on.

    `provider` "" stands for any. `also` are other names of it; with `dated`, each name followed by a date stands for it
    too. A cache rate of None means that such tokens are charged as input. Tiers ascend. `source` says where the price was
    read. `window_tokens` is the model's context window, None where nobody has said it.
    """

    model: _Name
    provider: _ProviderName = ""
    also: Annotated[tuple[_Name, ...], Meta(max_length=50)] = ()
    dated: bool = True
    effective: date
    source: Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    tiers: Annotated[tuple[Tier, ...], Meta(max_length=10)] = ()
    window_tokens: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] | None = None

    def __post_init__(self) -> None:
        _check_rates(self)
        starts = [tier.above_input_tokens for tier in self.tiers]
        if starts != sorted(set(starts)):
            raise ValueError("`tiers` must have ascending `above_input_tokens`, each once")

    def names(self) -> tuple[str, ...]:
        """Every name that stands for this model, dates aside."""
        return (self.model, *self.also)

    def cost(self, usage: Usage, *, table: str, requests: int = 1) -> Cost:
        """What `usage` costs at this price. See `PriceTable.cost`."""
        counts = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens)
        if not all(0 <= count <= TOKENS_MAX for count in counts):
            raise ValueError(f"token counts must be between 0 and {TOKENS_MAX}, not {counts}")
        read = sum(counts[:3])
        rates = _rates(self, read, max(requests, 1))
        total = Decimal(0)
        for count, rate in zip(counts, rates, strict=True):
            total = _CONTEXT.add(total, _CONTEXT.multiply(Decimal(count), rate))
        nano = int(_CONTEXT.to_integral_value(_CONTEXT.multiply(total, Decimal(_NANO_PER_USD_PER_MTOK))))
        uncertain = requests != 1 and bool(self.tiers) and read > self.tiers[0].above_input_tokens
        return Cost(nano_usd=min(nano, NANO_USD_MAX), basis="estimate" if uncertain else "list", table=table)

    def at_least(self, usage: Usage, *, table: str) -> Cost:
        """What `usage` costs however it was spread over requests: at the lowest rate of any tier. See `PriceTable.at_least`."""
        rates = [_effective(self), *map(_effective, self.tiers)]
        names = ("input", "cache_read", "cache_write", "output")
        lowest = {name: min(column) for name, column in zip(names, zip(*rates, strict=True), strict=True)}
        return msgspec.structs.replace(self, tiers=(), **lowest).cost(usage, table=table)


class PriceTable:
    """Our own prices, and the fallback behind them.

    `id` is a short hash of the content and of the fallback's version: equal ids give equal costs.
    """

    def __init__(self, entries: Iterable[Price], fallback: Fallback = "genai-prices") -> None:
        """The entries go before the fallback; two for one provider, name and day raise PriceTableError."""
        self.entries = tuple(entries)
        self.fallback = fallback
        _check_duplicates(self.entries, "the price table")
        content = msgspec.json.encode([_fallback_version(fallback), self.entries])
        self.id = hashlib.sha256(content).hexdigest()[:16]

    def price(self, model: str, *, at: date, provider: str | None = None) -> Price:
        """The price of a model on the day `at`, UTC. Raises UnknownModelError.

        `model` is a name as tools report it: in any case, with a date behind it, with its provider and a slash before
        it. With no `provider` told, an entry of any provider will do.
        """
        day = date(at.year, at.month, at.day)
        for seller, name in _readings(model, provider):
            found = _match(self.entries, name, seller, day)
            if found is None and self.fallback == "genai-prices":
                found = _fallback_price(name, seller, day)
            if found is not None:
                return found
        raise UnknownModelError(model, provider)

    def window(self, model: str, *, at: date) -> int | None:
        """The context window of a model in tokens; None where no table says it. Names and days as for `price`."""
        day = date(at.year, at.month, at.day)
        for seller, name in _readings(model, None):
            found = [_match(self.entries, name, seller, day)]
            if self.fallback == "genai-prices":
                found.append(_fallback_price(name, seller, day))
            for price in found:
                if price is not None and price.window_tokens is not None:
                    return price.window_tokens
        return None

    @overload
    def cost(
        self,
        model: str,
        usage: Usage,
        *,
        at: date,
        provider: str | None = None,
        requests: int = 1,
        unknown: Literal["refuse"] = "refuse",
    ) -> Cost: ...

    @overload
    def cost(
        self,
        model: str,
        usage: Usage,
        *,
        at: date,
        provider: str | None = None,
        requests: int = 1,
        unknown: UnknownPolicy,
    ) -> Cost | None: ...

    def cost(
        self,
        model: str,
        usage: Usage,
        *,
        at: date,
        provider: str | None = None,
        requests: int = 1,
        unknown: UnknownPolicy = "refuse",
    ) -> Cost | None:
        """What `usage` costs at list prices, in nano-dollars; `lower_bound` usage gives a lower bound.

        `requests`: how many requests to the model the usage is the sum of, 0 for unknown. Only prices with tiers ask
        for it, as a tier belongs to one request: the mean request decides, an unknown number counts as one (the dearest
        reading), and where that matters the basis is "estimate" instead of "list". Fees that are not for tokens are not
        counted. Saturates at 10^18.

        Raises:
            UnknownModelError: no price is known, unless `unknown` is "token_cap": then None is returned.
            ValueError: a token count is negative or above 10^12.
        """
        try:
            price = self.price(model, at=at, provider=provider)
        except UnknownModelError:
            if unknown == "token_cap":
                return None
            raise
        return price.cost(usage, table=self.id, requests=requests)

    def at_least(self, model: str, usage: Usage, *, at: date, provider: str | None = None) -> Cost | None:
        """What `usage` costs at the least, for a tool that still runs; never more than `cost`, whatever the requests were.

        None where no price is known. Raises ValueError as `cost` does.
        """
        try:
            price = self.price(model, at=at, provider=provider)
        except UnknownModelError:
            return None
        return price.at_least(usage, table=self.id)


def load_prices(*own: Path) -> PriceTable:
    """The shipped prices with these files laid over them: an entry replaces all of the same provider and model.

    Raises PriceTableError for a file that cannot be read or used.
    """
    files = (resource("config/prices.toml"), *own)
    entries: list[Price] = []
    fallback: Fallback = "genai-prices"
    for file in files:
        said, added = parse_prices(_read(file), str(file))
        replaced = {(price.provider, price.model) for price in added}
        entries = [price for price in entries if (price.provider, price.model) not in replaced]
        entries += added
        fallback = said or fallback
    _check_duplicates(entries, " and ".join(str(file) for file in files))
    return PriceTable(entries, fallback)


def parse_prices(data: bytes, source: str) -> tuple[Fallback | None, tuple[Price, ...]]:
    """The fallback, if it is said, and the entries of a price file; `source` names it in errors.

    Raises PriceTableError.
    """
    if len(data) > PRICES_BYTES:
        raise PriceTableError(f"{source} is larger than {PRICES_BYTES} bytes: keep only the models that you use")
    try:
        raw = tomllib.loads(data.decode(), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        text = str(error)[:200] or type(error).__name__
        raise PriceTableError(f"{source} is not TOML that can be used: {text}; mend it there") from error
    unknown = raw.keys() - {"fallback", "price"}
    if unknown:
        raise PriceTableError(f"{source}: unknown key {min(unknown)!a:.80}; known are fallback and [[price]]")
    fallback = raw.get("fallback")
    if fallback not in (None, "genai-prices", "none"):
        raise PriceTableError(f'{source}: `fallback` is {fallback!a:.80}; write "genai-prices" or "none"')
    listed = raw.get("price", [])
    if not isinstance(listed, list) or len(listed) > ENTRIES_MAX:
        raise PriceTableError(f"{source}: `price` must be at most {ENTRIES_MAX} sections, each under [[price]]")
    entries = tuple(_parsed(item, f"{source}: price {number}") for number, item in enumerate(listed, start=1))
    _check_duplicates(entries, source)
    return fallback, entries


def _parsed(item: Any, where: str) -> Price:
    model = item.get("model") if isinstance(item, dict) else None
    named = f"{where} (model {model!a:.80})" if isinstance(model, str) else where
    try:
        return msgspec.convert(item, Price)
    except (msgspec.ValidationError, ArithmeticError) as error:
        text = str(error)[:300] or type(error).__name__
        raise PriceTableError(f"{named}: {text}; mend that field, config/prices.toml explains each") from error


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(PRICES_BYTES + 1)
    except OSError as error:
        raise PriceTableError(
            f"{file} cannot be read ({error.strerror}): check the path and its permissions"
        ) from error


def _check_rates(rates: Price | Tier) -> None:
    for field in ("input", "output", "cache_read", "cache_write"):
        value = getattr(rates, field)
        if value is not None and not _is_rate(value):
            raise ValueError(
                f"`{field}` must be dollars per million tokens, between 0 and {USD_PER_MTOK_MAX} with at most "
                f"{PLACES_MAX} decimal places, not {str(value)[:40]}"
            )


def _is_rate(value: Decimal) -> bool:
    """Whether a value is a price at all; neither NaN nor an infinity is."""
    if not value.is_finite() or value.is_signed() or value > USD_PER_MTOK_MAX:
        return False
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -PLACES_MAX


def _check_duplicates(entries: Sequence[Price], source: str) -> None:
    seen: set[tuple[str, date, str]] = set()
    for price in entries:
        for name in price.names():
            key = (price.provider, price.effective, name)
            if key in seen:
                raise PriceTableError(
                    f"{source}: model {name!a:.80} of provider {price.provider!a:.80} has two prices from "
                    f"{price.effective}; keep one, or give `effective` another day"
                )
            seen.add(key)


def _readings(model: str, provider: str | None) -> Iterator[tuple[str | None, str]]:
    """What a reported name may mean, as (provider, name), the likeliest first."""
    name = model.strip().lower()
    if not name or max(len(name), len(provider or "")) > NAME_CHARS:
        return
    head, slash, rest = name.partition("/")
    if provider:
        seller = provider.strip().lower()
        yield _SAME_PROVIDER.get(seller, seller), name
        if slash and rest and head == seller:
            yield _SAME_PROVIDER.get(seller, seller), rest
    else:
        if slash and rest:
            yield _SAME_PROVIDER.get(head, head), rest
        yield None, name


def _match(entries: Iterable[Price], name: str, provider: str | None, day: date) -> Price | None:
    """The entry for a name: an exact name before one with a date behind it, the provider's own before any's, then the newest."""
    best: Price | None = None
    best_rank: tuple[bool, bool, date] | None = None
    undated = _DATE.sub("", name)
    for price in entries:
        if price.effective > day or (provider is not None and price.provider not in (provider, "")):
            continue
        exact = name in price.names()
        if not exact and not (price.dated and undated != name and undated in price.names()):
            continue
        rank = (exact, price.provider != "", price.effective)
        if best_rank is None or rank > best_rank:
            best, best_rank = price, rank
    return best


def _rates(price: Price, read: int, requests: int) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Input, cache read, cache write and output for a mean request; `read` is the input of all of them, cache included."""
    rates: Price | Tier = price
    for tier in price.tiers:
        if read > tier.above_input_tokens * requests:
            rates = tier
    return _effective(rates)


def _effective(rates: Price | Tier) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Input, cache read, cache write and output, with what stands for rates that are not named."""
    cache_read = rates.input if rates.cache_read is None else rates.cache_read
    cache_write = rates.input if rates.cache_write is None else rates.cache_write
    return rates.input, cache_read, cache_write, rates.output


def _fallback_version(fallback: Fallback) -> str:
    return "none" if fallback == "none" else f"genai-prices {version('genai-prices')}"


@lru_cache(maxsize=1024)
def _fallback_price(name: str, provider: str | None, day: date) -> Price | None:
    """The price that genai-prices has for a model.

    None too for what cannot be priced by tokens alone: no price for input or output, a fee for each request, or zero for
    everything, which nobody has vouched for.
    """
    if not re.search(_NAME, name) or not re.search(_PROVIDER, provider or ""):
        return None  # no table may have such a name
    # Read when first needed: the data takes a fifth of a second.
    from genai_prices.data import providers  # noqa: PLC0415
    from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415

    if provider is not None:
        seller = find_provider_by_id(providers, provider)
    else:
        seller = next(
            (one for one in providers if one.model_match is not None and one.model_match.is_match(name)), None
        )
    found = None if seller is None else seller.find_model(name, all_providers=providers)
    if seller is None or found is None:
        return None
    try:
        price = Price(
            model=name,
            provider=provider or seller.id,
            dated=_stands_for_its_dates(name, seller),
            effective=day,
            source=f"{_fallback_version('genai-prices')}: {seller.id} {found.id}",
            window_tokens=found.context_window or None,
            **_fallback_rates(found, day),
        )
    except ValueError:
        return None
    return price if price.input or price.output else None


def _stands_for_its_dates(name: str, seller: "Provider") -> bool:
    """Whether no model of that name and a date has a price of its own."""
    return not any(model.id != name and _DATE.sub("", model.id) == name for model in seller.models)


def _fallback_rates(model: "ModelInfo", day: date) -> dict[str, Any]:
    """The fields of a Price. Where prices differ by the hour, those of the dearest hour. Raises ValueError."""
    hours = [model.get_prices(datetime(day.year, day.month, day.day, hour, 30, tzinfo=UTC)) for hour in range(24)]
    dearest = max(hours, key=lambda prices: (_base(prices.output_mtok), _base(prices.input_mtok)))
    if dearest.requests_kcount is not None:
        raise ValueError("it has a fee for each request")
    starts = sorted({start for field in _FIELDS.values() for start in _starts(getattr(dearest, field))})
    return _rates_at(dearest, 0) | {
        "tiers": tuple(Tier(above_input_tokens=start, **_rates_at(dearest, start)) for start in starts)
    }


_FIELDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}


def _rates_at(prices: "ModelPrice", start: int) -> dict[str, Decimal]:
    """The rates of the tier that starts there, 0 for the base. Raises ValueError without one for input and for output."""
    rates = {
        name: rate for name, field in _FIELDS.items() if (rate := _rate_at(getattr(prices, field), start)) is not None
    }
    reasoning = _rate_at(prices.output_reasoning_mtok, start)
    if "input" not in rates or "output" not in rates:
        raise ValueError("it has no price for input or output tokens")
    if reasoning is not None:
        rates["output"] = max(rates["output"], reasoning)  # our usage does not tell them apart
    return rates


def _rate_at(price: "Decimal | TieredPrices | None", start: int) -> Decimal | None:
    if price is None or isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if tier.start <= start), price.base)


def _starts(price: "Decimal | TieredPrices | None") -> list[int]:
    return [] if price is None or isinstance(price, Decimal) else [tier.start for tier in price.tiers]


def _base(price: "Decimal | TieredPrices | None") -> Decimal:
    return _rate_at(price, 0) or Decimal(0)
