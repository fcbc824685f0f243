# -*- coding: utf-8 -*-
"""Weights and lengths: parsing, converting, comparing, and the measures of a box."""

import re
from typing import Dict, List, Optional, Tuple

GRAMS: Dict[str, float] = {u"g": 1.0, u"kg": 1000.0, u"oz": 28.349523125, u"lb": 453.59237, u"t": 1000000.0}
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4, "ft": 304.8}

_QUANTITY = re.compile(r"^\s*(\d+(?:[.,]\d+)?)\s*([a-z]+)\s*$", re.IGNORECASE)


class UnitError(ValueError):
    """A unit nobody knows, or two units that do not belong together."""


class Quantity(object):
    """A value with a unit. The subclasses say which units there are."""

    factors: Dict[str, float] = {}

    def __init__(self, value: float, unit: str) -> None:
        if unit not in self.factors:
            raise UnitError("unknown unit {!r}; known: {}".format(unit, ", ".join(self.factors)))
        self.value = value
        self.unit = unit

    def __repr__(self) -> str:
        return "%s(%r, %r)" % (type(self).__name__, self.value, self.unit)

    def __str__(self) -> str:
        return "{:g} {}".format(self.value, self.unit)

    def base(self) -> float:
        """The value in the smallest unit: grams or millimetres."""
        return self.value * self.factors[self.unit]

    def to(self, unit: str) -> float:
        """The value in another unit of the same kind."""
        if unit not in self.factors:
            raise UnitError("cannot convert %s to %s" % (self.unit, unit))
        return self.base() / self.factors[unit]


class Mass(Quantity):
    """A weight.

    >>> Mass(2, "kg").to("g")
    2000.0
    """

    factors = GRAMS

    def __init__(self, value: float, unit: str = u"kg") -> None:
        super(Mass, self).__init__(value, unit)
        if value < 0:
            raise UnitError("a weight cannot be negative: {}".format(value))

    def plus(self, other: "Mass") -> "Mass":
        """The sum, in the unit of the first."""
        return Mass(self.value + other.to(self.unit), self.unit)


class Length(Quantity):
    """A length.

    >>> round(Length(1, "ft").to("cm"), 2)
    30.48
    """

    factors = MILLIMETRES

    def __init__(self, value: float, unit: str = u"cm") -> None:
        super(Length, self).__init__(value, unit)
        if value <= 0:
            raise UnitError("a length must be more than 0, not {}".format(value))


class Dimensions(object):
    """Length, width and height of a box, longest side first."""

    def __init__(self, sides: List[Length]) -> None:
        if len(sides) != 3:
            raise UnitError("a box has 3 sides, not {}".format(len(sides)))
        self.sides = sorted(sides, key=lambda side: side.base(), reverse=True)

    def __str__(self) -> str:
        return " x ".join(str(side) for side in self.sides)

    def litres(self) -> float:
        """The room the box takes."""
        volume = 1.0
        for side in self.sides:
            volume *= side.base()
        return volume / 1000000.0

    def girth(self) -> Length:
        """Once around the box: twice the two shorter sides."""
        shorter = [side.to("cm") for side in self.sides[1:]]
        return Length(2 * sum(shorter), "cm")

    def fits(self, limit: "Dimensions") -> bool:
        """Whether this box goes into another one."""
        pairs = zip(self.sides, limit.sides)
        return all(side.base() <= most.base() for side, most in pairs)


def _split(text: str) -> Tuple[float, str]:
    match = _QUANTITY.match(text)
    if match is None:
        raise UnitError("not a quantity: {!r}; write for example 2.5 kg".format(text))
    return float(match.group(1).replace(",", ".")), match.group(2).lower()


def parse_mass(text: str) -> Mass:
    """Read ``2.5 kg``, ``300g`` or ``4 oz``."""
    value, unit = _split(text)
    return Mass(value, unit)


def parse_length(text: str) -> Length:
    """Read ``30 cm`` or ``12in``."""
    value, unit = _split(text)
    return Length(value, unit)


def parse_dimensions(text: str, unit: Optional[str] = None) -> Dimensions:
    """Read ``30 x 20 x 10 cm``; a side without a unit takes the last one's, or the one given."""
    words = [word.strip() for word in text.lower().split("x")]
    last = re.sub(r"[\d.,\s]", "", words[-1]) or unit
    if last is None:
        raise UnitError("no unit in {!r}; write for example 30 x 20 x 10 cm".format(text))
    sides: List[Length] = []
    for word in words:
        sides.append(parse_length(word if word[-1:].isalpha() else word + last))
    return Dimensions(sides)


def total_mass(masses: List[Mass], unit: str = "kg") -> Mass:
    """The sum of some weights in one unit."""
    return Mass(sum(mass.to(unit) for mass in masses), unit)


def heaviest(masses: List[Mass]) -> Optional[Mass]:
    """The heaviest of some weights, or nothing of nothing."""
    best: Optional[Mass] = None
    for mass in masses:
        if best is None or mass.base() > best.base():
            best = mass
    return best
