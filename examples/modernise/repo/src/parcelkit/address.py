"""Addresses: countries, postcodes, and how an address is printed on a label."""

import re


class AddressError(ValueError):
    """An address that no carrier could deliver to."""


class Country(object):
    """What must be known of a country to send something there.

    :ivar str code: two letters
    :ivar str name: in English
    :ivar str zone: ``home``, ``europe`` or ``world``
    :ivar str postcode: a pattern for its postcodes, empty if it has none
    """

    def __init__(self, code, name, zone, postcode=""):
        """Keep what is known.

        :param str code: two letters
        :param str name: in English
        :param str zone: the tariff zone
        :param str postcode: a pattern, empty if the country has no postcodes
        """
        self.code = code
        self.name = name
        self.zone = zone
        self.postcode = postcode

    def accepts(self, postcode):
        """Whether a postcode has the right form for this country.

        :param str postcode: as :func:`normalise_postcode` gives it
        :rtype: bool
        """
        return re.match("^(?:%s)$" % (self.postcode,), postcode) is not None


_COUNTRIES = [
    Country("DE", "Germany", "home", r"\d{5}"),
    Country("AT", "Austria", "europe", r"\d{4}"),
    Country("CH", "Switzerland", "europe", r"\d{4}"),
    Country("FR", "France", "europe", r"\d{5}"),
    Country("NL", "Netherlands", "europe", r"\d{4} ?[A-Z]{2}"),
    Country("GB", "United Kingdom", "europe", r"[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}"),
    Country("PL", "Poland", "europe", r"\d{2}-\d{3}"),
    Country("US", "United States", "world", r"\d{5}(?:-\d{4})?"),
    Country("JP", "Japan", "world", r"\d{3}-\d{4}"),
    Country("IE", "Ireland", "europe", r"[A-Z]\d[\dW] [A-Z\d]{4}"),
    Country("HK", "Hong Kong", "world"),
]


def find_country(name):
    """The country with this code or name.

    >>> find_country("nl").name
    'Netherlands'

    :param str name: a code or an English name, in any case
    :rtype: Country
    """
    wanted = name.strip().lower()
    for country in _COUNTRIES:
        if wanted in (country.code.lower(), country.name.lower()):
            return country
    return None


def countries_in(zone):
    """The codes of all countries in a tariff zone, in order.

    :param str zone: ``home``, ``europe`` or ``world``
    :rtype: list[str]
    """
    return sorted(country.code for country in _COUNTRIES if country.zone == zone)


def normalise_postcode(text):
    """Capitals, and single blanks.

    >>> normalise_postcode(" sw1a  1aa ")
    'SW1A 1AA'

    :param str text: as written
    :rtype: str
    """
    return " ".join(text.upper().split())


class Address(object):
    """Where a parcel goes.

    :ivar str name: who gets it
    :ivar str street: street and number
    :ivar str city: the post town
    :ivar str postcode: may be empty where there are none
    :ivar str country: a two-letter code
    """

    def __init__(self, name, street, city, postcode, country="DE"):
        """Keep the parts, trimmed.

        :param str name: who gets it
        :param str street: street and number
        :param str city: the post town
        :param str postcode: may be empty where there are none
        :param str country: a two-letter code
        """
        self.name = name.strip()
        self.street = street.strip()
        self.city = city.strip()
        self.postcode = normalise_postcode(postcode)
        self.country = country.strip().upper()

    def __repr__(self):
        """Enough to recognise the address.

        :rtype: str
        """
        return "<Address %s, %s %s>" % (self.name, self.country, self.postcode)

    def problems(self):
        """What keeps the address from being delivered to; empty if nothing does.

        :rtype: list[str]
        """
        found = []
        for part in ("name", "street", "city"):
            if not getattr(self, part):
                found.append("%s is missing" % (part,))
        country = find_country(self.country)
        if country is None:
            found.append("unknown country %r" % (self.country,))
        elif country.postcode and not country.accepts(self.postcode):
            found.append("%r is no postcode of %s" % (self.postcode, country.name))
        return found

    def lines(self):
        """The lines of a label; the country only when it is another one.

        :rtype: list[str]
        """
        lines = [self.name, self.street, ("%s %s" % (self.postcode, self.city)).strip()]
        country = find_country(self.country)
        if country is not None and country.zone != "home":
            lines.append(country.name.upper())
        return lines


def parse_address(text):
    """Read an address of three or four lines: name, street, postcode and town, country.

    :param str text: the lines
    :rtype: Address
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) not in (3, 4):
        raise AddressError("an address has 3 or 4 lines, not %s" % (len(lines),))
    code = "DE"
    if len(lines) == 4:
        country = find_country(lines[3])
        if country == None:
            raise AddressError("unknown country %r" % (lines[3],))
        code = country.code
    postcode, city = split_town(lines[2])
    return Address(lines[0], lines[1], city, postcode, code)


def split_town(line):
    """Part the postcode from the town: the postcode is what has digits in it.

    >>> split_town("1012 AB Amsterdam")
    ('1012 AB', 'Amsterdam')

    :param str line: postcode and town
    :rtype: tuple[str, str]
    """
    words = line.split()
    count = 0
    while count < len(words) and (
        any(sign.isdigit() for sign in words[count]) or (count and words[count].isupper())
    ):
        count += 1
    return " ".join(words[:count]), " ".join(words[count:])
