import pytest

from parcelkit.money import Money, MoneyError, cheapest, format_money, parse_money, tally


@pytest.mark.parametrize(
    ("text", "minor", "currency"),
    [
        ("EUR 12.50", 1250, "EUR"),
        ("12.5 GBP", 1250, "GBP"),
        ("JPY 1200", 1200, "JPY"),
        ("-3.999 KWD", -3999, "KWD"),
        ("1 234.00 CHF", 123400, "CHF"),
    ],
)
def test_parse(text, minor, currency):
    money = parse_money(text)
    assert (money.minor, money.currency) == (minor, currency)


def test_parse_with_a_currency_given():
    assert parse_money("7", "USD") == Money(700, "USD")


@pytest.mark.parametrize("text", ["12.50", "EUR", "EUR 1.234", "XXX 1", "EUR one"])
def test_parse_refuses(text):
    with pytest.raises(MoneyError):
        parse_money(text)


def test_format():
    assert format_money(Money(123456789, "EUR")) == "EUR 1,234,567.89"
    assert format_money(Money(-5, "GBP"), symbol=True) == "-£0.05"
    assert format_money(Money(1500, "JPY"), symbol=True) == "¥1,500"
    assert format_money(Money(100000, "CHF"), separator="'") == "CHF 1'000.00"


def test_repr_makes_an_equal_amount():
    money = Money(12, "EUR")
    assert eval("%r" % (money,)) == money


def test_arithmetic():
    assert Money(100, "EUR") + Money(1, "EUR") == Money(101, "EUR")
    assert Money(100, "EUR") - Money(101, "EUR") == Money(-1, "EUR")
    assert Money(100, "EUR") * 3 == Money(300, "EUR")
    assert Money(0, "EUR").is_zero()
    assert Money(1, "EUR") != Money(1, "USD")


def test_currencies_do_not_mix():
    with pytest.raises(MoneyError) as caught:
        Money(1, "EUR") + Money(1, "USD")
    assert str(caught.value) == "cannot mix EUR and USD"


def test_allocate_loses_nothing():
    shares = Money(1001, "EUR").allocate([5, 3, 2])
    assert [share.minor for share in shares] == [501, 300, 200]
    assert sum(share.minor for share in shares) == 1001


def test_percent_rounds_half_up():
    assert Money(50, "EUR").percent(19) == Money(10, "EUR")
    assert Money(50, "EUR").percent(7) == Money(4, "EUR")


def test_tally_by_currency():
    sums = tally([Money(1, "EUR"), Money(2, "USD"), Money(3, "EUR")], {})
    assert sums == {"EUR": Money(4, "EUR"), "USD": Money(2, "USD")}


def test_tally_starts_from_nothing_each_time():
    assert tally([Money(5, "EUR")]) == {"EUR": Money(5, "EUR")}
    assert tally([Money(5, "EUR")]) == {"EUR": Money(5, "EUR")}


def test_cheapest():
    assert cheapest([Money(3, "EUR"), Money(2, "EUR"), Money(9, "EUR")]) == Money(2, "EUR")
    with pytest.raises(MoneyError):
        cheapest([])
