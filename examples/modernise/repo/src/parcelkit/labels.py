"""Labels: tracking numbers with check digits, and the text that is printed on a box."""

_WEIGHTS = (8, 6, 4, 2, 3, 5, 9, 7)


class LabelError(ValueError):
    """A number that is not what it claims to be."""


def check_digit(serial):
    """The check digit of an eight-digit serial number, by the rule of the UPU's standard S10.

    >>> check_digit("47312482")
    '9'

    :param str serial: eight digits
    :rtype: int
    """
    if len(serial) != 8 or not serial.isdigit():
        raise LabelError("a serial number has 8 digits: %r" % (serial,))
    rest = 11 - sum(int(digit) * weight for digit, weight in zip(serial, _WEIGHTS)) % 11
    return {10: "0", 11: "5"}.get(rest, str(rest))


def tracking_number(service, serial, country):
    """The whole number: service, serial, check digit, country.

    >>> tracking_number("RR", 47312482, "GB")
    'RR473124829GB'

    :param str service: two letters
    :param int serial: a running number
    :param str country: two letters
    :rtype: str
    """
    digits = "%08d" % (serial,)
    return service + digits + check_digit(digits) + country


def verify(number):
    """Whether a tracking number's check digit is right.

    :param str number: thirteen signs
    :rtype: bool
    """
    if len(number) != 13 or not number[2:11].isdigit():
        return False
    return check_digit(number[2:10]) == number[10]


class Label(object):
    """What is printed on a box.

    :ivar str number: the tracking number
    :ivar list[str] lines: the address
    """

    def __init__(self, number, lines):
        """A label needs a number that is right.

        :param str number: the tracking number
        :param list[str] lines: the address
        """
        if not verify(number):
            raise LabelError("wrong check digit in %s" % (number,))
        self.number = number
        self.lines = lines

    def bars(self):
        """The number as bars: each sign as eight, dark for a one.

        :rtype: str
        """
        bits = "".join(bin(ord(sign))[2:].zfill(8) for sign in self.number)
        return bits.replace("1", "|").replace("0", " ")

    def render(self, width=40):
        """The label in a frame.

        :param int width: of the frame
        :rtype: str
        """
        rule = "+%s+" % ("-" * (width - 2),)
        rows = ["| %s |" % (line[: width - 4].ljust(width - 4),) for line in self.lines]
        number = "| %s |" % (self.number.center(width - 4),)
        return "\n".join([rule] + rows + [rule, number, rule])
