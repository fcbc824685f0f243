"""Amounts of money, kept as whole numbers of the smallest unit (cents, pence, yen).

No amount is ever a float: prices are parsed from text, added, shared out and printed without losing
a cent.
"""

import re

#: How many digits stand behind the decimal point, per currency.
EXPONENTS = {"EUR": 2, "GBP": 2, "USD": 2, "CHF": 2, "SEK": 2, "PLN": 2, "JPY": 0, "KWD": 3}

#: What is printed in front of an amount when a symbol is asked for.
SYMBOLS = {"EUR": "€", "GBP": "£", "USD": "$", "JPY": "¥"}

_AMOUNT = re.compile(r"^(?P<sign>-?)(?P<whole>\d[\d ']*)(?:\.(?P<part>\d+))?$")


class MoneyError(ValueError):
    """An amount or a currency that makes no sense."""


class Money(object):
    """A whole number of minor units of one currency.

    >>> Money(1250, "EUR") + Money(50, "EUR")
    Money(1300, 'EUR')

    :ivar int minor: the amount in the currency's smallest unit
    :ivar str currency: the three-letter code
    """

    def __init__(self, minor, currency):
        """Check the currency and keep the amount.

        :param int minor: the amount in the currency's smallest unit
        :param str currency: the three-letter code
        """
        if currency not in EXPONENTS:
            raise MoneyError("unknown currency %r" % (currency,))
        self.minor = minor
        self.currency = currency

    def __repr__(self):
        """The call that makes an equal amount.

        :rtype: str
        """
        return "Money(%r, %r)" % (self.minor, self.currency)

    def __str__(self):
        """The amount as people write it.

        :rtype: str
        """
        return format_money(self)

    def __eq__(self, other):
        """Equal currency and equal amount.

        :param object other: anything
        :rtype: bool
        """
        if not isinstance(other, Money):
            return NotImplemented
        return (self.minor, self.currency) == (other.minor, other.currency)

    def __hash__(self):
        """Equal amounts have equal hashes.

        :rtype: int
        """
        return hash((self.minor, self.currency))

    def __lt__(self, other):
        """Compare two amounts of one currency.

        :param Money other: the other amount
        :rtype: bool
        """
        self._same_currency(other)
        return self.minor < other.minor

    def __add__(self, other):
        """The sum of two amounts of one currency.

        :param Money other: the other amount
        :rtype: Money
        """
        self._same_currency(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other):
        """The difference of two amounts of one currency.

        :param Money other: the other amount
        :rtype: Money
        """
        self._same_currency(other)
        return Money(self.minor - other.minor, self.currency)

    def __mul__(self, count):
        """The amount, a whole number of times.

        :param int count: how many times
        :rtype: Money
        """
        return Money(self.minor * count, self.currency)

    def is_zero(self):
        """Whether nothing is owed.

        :rtype: bool
        """
        return self.minor == 0

    def percent(self, rate):
        """A share of the amount in percent, rounded half up.

        >>> Money(999, "EUR").percent(19)
        Money(190, 'EUR')

        :param int rate: the share in percent
        :rtype: Money
        """
        return Money((self.minor * rate * 2 + 100) // 200, self.currency)

    def allocate(self, ratios):
        """Share the amount out by ratios; the first shares take the cents left over.

        >>> Money(100, "EUR").allocate([1, 1, 1])
        [Money(34, 'EUR'), Money(33, 'EUR'), Money(33, 'EUR')]

        :param list[int] ratios: one positive number per share
        :rtype: list[Money]
        """
        whole = sum(ratios)
        if whole <= 0:
            raise MoneyError("ratios must add up to more than 0, not %s" % (whole,))
        shares = [self.minor * ratio // whole for ratio in ratios]
        left = self.minor - sum(shares)
        for index in range(left):
            shares[index] += 1
        return [Money(share, self.currency) for share in shares]

    def _same_currency(self, other):
        """Refuse to mix currencies.

        :param Money other: the other amount
        """
        if other.currency != self.currency:
            raise MoneyError("cannot mix %s and %s" % (self.currency, other.currency))


def parse_money(text, currency=None):
    """Read an amount such as ``EUR 12.50``, ``12.50 EUR`` or, with a currency given, ``12.50``.

    >>> parse_money("GBP 3.5")
    Money(350, 'GBP')

    :param str text: what was written
    :param str currency: the currency when the text names none
    :rtype: Money
    """
    words = text.split()
    if words and words[0] in EXPONENTS:
        currency = words.pop(0)
    elif words and words[-1] in EXPONENTS:
        currency = words.pop()
    if currency == None:
        raise MoneyError("no currency in %r: write for example EUR 12.50" % (text,))
    match = _AMOUNT.match(" ".join(words))
    if match == None:
        raise MoneyError("not an amount: %r" % (text,))
    digits = EXPONENTS[currency]
    part = match.group("part") or ""
    if len(part) > digits:
        raise MoneyError("%s has %s digits behind the point, not %s" % (currency, digits, len(part)))
    whole = re.sub(r"[ ']", "", match.group("whole"))
    minor = int(whole + part.ljust(digits, "0"))
    return Money(-minor if match.group("sign") else minor, currency)


def format_money(money, symbol=False, separator=","):
    """Write an amount with the digits its currency has.

    >>> format_money(Money(-123456, "EUR"))
    'EUR -1,234.56'

    :param Money money: the amount
    :param bool symbol: print a symbol instead of the code, where there is one
    :param str separator: what stands between groups of three digits
    :rtype: str
    """
    digits = EXPONENTS[money.currency]
    sign = "-" if money.minor < 0 else ""
    whole, part = divmod(abs(money.minor), 10**digits)
    text = "{:,}".format(whole).replace(",", separator)
    if digits:
        text = "%s.%s" % (text, str(part).zfill(digits))
    if symbol and money.currency in SYMBOLS:
        return "%s%s%s" % (sign, SYMBOLS[money.currency], text)
    return "%s %s%s" % (money.currency, sign, text)


def tally(amounts, totals={}):
    """Add amounts up, currency by currency.

    :param list[Money] amounts: what to add
    :param dict[str, Money] totals: sums to go on from, which are added to
    :rtype: dict[str, Money]
    """
    for amount in amounts:
        zero = Money(0, amount.currency)
        totals[amount.currency] = totals.get(amount.currency, zero) + amount
    return totals


def cheapest(amounts):
    """The smallest of some amounts of one currency.

    :param list[Money] amounts: at least one amount
    :rtype: Money
    """
    if not amounts:
        raise MoneyError("nothing to choose from")
    best = amounts[0]
    for amount in amounts[1:]:
        if amount < best:
            best = amount
    return best
