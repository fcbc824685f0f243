"""Tariffs: what a shipment costs, by zone and weight, with surcharges and tax."""

from typing import Dict, List, Optional, Tuple

from parcelkit.money import Money, cheapest, parse_money
from parcelkit.units import Mass, parse_mass

#: Value added tax in percent, by zone.
TAX_PERCENT = {"home": 19, "europe": 19, "world": 0}  # type: Dict[str, int]


class TariffError(ValueError):
    """A tariff with holes, or a shipment that no tariff covers."""


class Band(object):
    """One price for everything up to a weight."""

    def __init__(self, limit: Mass, price: Money) -> None:
        self.limit = limit
        self.price = price

    def __repr__(self) -> str:
        return "Band({!r}, {!r})".format(self.limit, self.price)

    def covers(self, mass: Mass) -> bool:
        """Whether a weight lies within the band."""
        return mass.base() <= self.limit.base()


class RateCard(object):
    """The bands of one carrier's service in one zone, lightest first."""

    bands: List[Band] = []

    def __init__(self, carrier: str, zone: str) -> None:
        self.carrier = carrier
        self.zone = zone

    def __repr__(self) -> str:
        return "<RateCard {} {}: {} bands>".format(self.carrier, self.zone, len(self.bands))

    def add(self, limit: Mass, price: Money) -> "RateCard":
        """Add a band; a heavier one must not be cheaper."""
        for band in self.bands:
            heavier = limit.base() > band.limit.base()
            if heavier and price < band.price:
                raise TariffError(
                    "{} for {} is cheaper than {} for {}".format(
                        price, limit, band.price, band.limit
                    )
                )
        self.bands.append(Band(limit, price))
        self.bands.sort(key=lambda band: band.limit.base())
        return self

    def price(self, mass: Mass) -> Optional[Money]:
        """The price for a weight; nothing if it is too heavy for the service."""
        for band in self.bands:
            if band.covers(mass):
                return band.price
        return None

    def heaviest(self) -> Optional[Mass]:
        """The most the service takes; nothing if the card is empty."""
        return self.bands[-1].limit if self.bands else None


class Surcharge(object):
    """Something added to a price: a share of it, or a fixed amount."""

    def __init__(
        self, name: str, percent: int = 0, fixed: Optional[Money] = None, zones: Tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.percent = percent
        self.fixed = fixed
        self.zones = zones

    def applies(self, zone: str) -> bool:
        """Whether it is charged in a zone; without zones it is charged in all."""
        return not self.zones or zone in self.zones

    def amount(self, price: Money) -> Money:
        """What it adds to a price."""
        share = price.percent(self.percent)
        return share + self.fixed if self.fixed is not None else share


class Quote(object):
    """A price with all that was added to it."""

    def __init__(self, carrier: str, net: Money, extras: Dict[str, Money], tax: Money) -> None:
        self.carrier = carrier
        self.net = net
        self.extras = extras
        self.tax = tax

    def total(self) -> Money:
        """What is paid in the end."""
        total = self.net + self.tax
        for extra in self.extras.values():
            total = total + extra
        return total

    def lines(self) -> List[str]:
        """The lines of an invoice."""
        lines = ["{}: {}".format(self.carrier, self.net)]
        for name, extra in sorted(self.extras.items()):
            lines.append("{}: {}".format(name, extra))
        lines.append("tax: {}".format(self.tax))
        lines.append("total: {}".format(self.total()))
        return lines


class Tariff(object):
    """All rate cards and surcharges that a shipper has agreed on."""

    def __init__(self, cards: List[RateCard], surcharges: Optional[List[Surcharge]] = None) -> None:
        self.cards = cards
        self.surcharges = surcharges or []

    def quotes(self, zone: str, mass: Mass) -> List[Quote]:
        """A quote from each carrier that takes the weight to the zone."""
        quotes: List[Quote] = []
        for card in self.cards:
            price = card.price(mass) if card.zone == zone else None
            if price is not None:
                quotes.append(self.quote(card, price))
        return quotes

    def quote(self, card: RateCard, price: Money) -> Quote:
        """The price of a card with surcharges and tax."""
        extras: Dict[str, Money] = {}
        taxed = price
        for surcharge in self.surcharges:
            if surcharge.applies(card.zone):
                extras[surcharge.name] = surcharge.amount(price)
                taxed = taxed + extras[surcharge.name]
        return Quote(card.carrier, price, extras, taxed.percent(TAX_PERCENT.get(card.zone, 0)))

    def best(self, zone: str, mass: Mass) -> Quote:
        """The cheapest quote in the end."""
        quotes = self.quotes(zone, mass)
        if not quotes:
            raise TariffError("no carrier takes {} to zone {}".format(mass, zone))
        least = cheapest([quote.total() for quote in quotes])
        return [quote for quote in quotes if quote.total() == least][0]


def parse_card(text: str) -> RateCard:
    """Read a card: a line with carrier and zone, then lines of weight and price.

    >>> parse_card("Swift home\\n2 kg = EUR 4.99").price(parse_mass("1 kg"))
    Money(499, 'EUR')
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    carrier, zone = lines[0].rsplit(None, 1)
    card = RateCard(carrier, zone)
    for line in lines[1:]:
        limit, sign, price = line.partition("=")
        if not sign:
            raise TariffError("not a band: {!r}; write for example 2 kg = EUR 4.99".format(line))
        card.add(parse_mass(limit), parse_money(price))
    return card
