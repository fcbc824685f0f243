import pytest

from parcelkit.money import Money
from parcelkit.tariff import RateCard, Surcharge, Tariff, TariffError, parse_card
from parcelkit.units import Mass

SWIFT = "Swift home\n2 kg = EUR 4.99\n10 kg = EUR 9.49"
SLOW = "Slow Post home\n5 kg = EUR 5.49\n31.5 kg = EUR 14.99"


def test_parse_card():
    card = parse_card(SWIFT)
    assert (card.carrier, card.zone) == ("Swift", "home")
    assert card.price(Mass(2)) == Money(499, "EUR")
    with pytest.raises(TariffError):
        parse_card("Swift home\n2 kg: EUR 4.99")


def test_bands_are_found_in_any_order():
    card = RateCard("Any", "world")
    card.add(Mass(10), Money(3000, "EUR")).add(Mass(1), Money(900, "EUR"))
    assert card.price(Mass(600, "g")) == Money(900, "EUR")
    assert card.price(Mass(11)) is None


def test_heavier_is_never_cheaper():
    card = RateCard("Odd", "zone-of-its-own")
    card.add(Mass(31), Money(9900, "EUR"))
    with pytest.raises(TariffError):
        card.add(Mass(100), Money(100, "EUR"))


def test_a_new_card_is_empty():
    parse_card(SWIFT)
    assert RateCard("Fresh", "europe").heaviest() is None


def test_surcharges():
    fuel = Surcharge("fuel", percent=10)
    island = Surcharge("island", fixed=Money(300, "EUR"), zones=("europe",))
    assert fuel.amount(Money(1000, "EUR")) == Money(100, "EUR")
    assert island.amount(Money(1000, "EUR")) == Money(300, "EUR")
    assert fuel.applies("home") and not island.applies("home")


def test_best_quote():
    tariff = Tariff([parse_card(SLOW)], [Surcharge("fuel", percent=10)])
    quote = tariff.best("home", Mass(3))
    assert quote.lines() == [
        "Slow Post: EUR 5.49",
        "fuel: EUR 0.55",
        "tax: EUR 1.15",
        "total: EUR 7.19",
    ]
    with pytest.raises(TariffError):
        tariff.best("moon", Mass(3))
