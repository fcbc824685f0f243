import pytest

from parcelkit.address import (
    Address,
    AddressError,
    countries_in,
    find_country,
    normalise_postcode,
    parse_address,
    split_town,
)


def test_find_country():
    assert find_country("gb").name == "United Kingdom"
    assert find_country(" japan ").code == "JP"
    assert find_country("Atlantis") is None


def test_zones():
    assert countries_in("home") == ["DE"]
    assert "%s" % (countries_in("world"),) == "['HK', 'JP', 'US']"


@pytest.mark.parametrize(
    ("country", "postcode", "good"),
    [
        ("DE", "30159", True),
        ("DE", "3015", False),
        ("NL", "1012 AB", True),
        ("GB", "SW1A 1AA", True),
        ("PL", "00950", False),
        ("US", "94103-1234", True),
    ],
)
def test_postcodes(country, postcode, good):
    assert find_country(country).accepts(normalise_postcode(postcode)) == good


def test_problems():
    assert Address("Ada", "Way 1", "Hannover", "30159").problems() == []
    assert Address("", "Way 1", "Paris", "7500", "FR").problems() == [
        "name is missing",
        "'7500' is no postcode of France",
    ]
    assert Address("Bo", "Way 1", "Rome", "00100", "IT").problems() == ["unknown country 'IT'"]
    assert Address("Li", "Way 1", "Central", "", "HK").problems() == []


def test_lines_name_the_country_only_abroad():
    assert Address("Ada", "Way 1", "Bonn", "53111").lines() == ["Ada", "Way 1", "53111 Bonn"]
    assert Address("Bo", "Way 1", "Wien", "1010", "at").lines()[-1] == "AUSTRIA"


def test_parse():
    address = parse_address("Ada Vos\nDam 1\n1012 ab Amsterdam\nNetherlands")
    assert address.lines()[2:] == ["1012 Ab Amsterdam".replace("Ab", "ab"), "NETHERLANDS"]
    assert repr(parse_address("A\nB 1\n30159 Hannover")) == "<Address A, DE 30159>"
    for text in ("A\nB", "A\nB\nC\nNowhere"):
        with pytest.raises(AddressError):
            parse_address(text)


def test_split_town():
    assert split_town("30159 Hannover") == ("30159", "Hannover")
    assert split_town("SW1A 1AA London") == ("SW1A 1AA", "London")
    assert split_town("Central") == ("", "Central")
