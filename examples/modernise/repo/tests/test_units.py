# -*- coding: utf-8 -*-
import pytest

from parcelkit.units import (
    Dimensions,
    Length,
    Mass,
    UnitError,
    heaviest,
    parse_dimensions,
    parse_length,
    parse_mass,
    total_mass,
)


def test_mass_converts():
    assert Mass(1, "lb").to("g") == pytest.approx(453.59237)
    assert parse_mass(u"1,5 KG").to("g") == 1500
    assert "{}".format(parse_mass("300g")) == "300 g"


def test_length_converts():
    assert parse_length("12in").to("ft") == pytest.approx(1)
    with pytest.raises(UnitError):
        parse_length("0 cm")


@pytest.mark.parametrize("text", ["", "kg", "2 stone", "-1 kg", "1 kg 2"])
def test_mass_refuses(text):
    with pytest.raises(UnitError):
        parse_mass(text)


def test_kinds_do_not_mix():
    with pytest.raises(UnitError) as caught:
        Mass(1).to("cm")
    assert str(caught.value) == "cannot convert kg to cm"


def test_plus_keeps_the_first_unit():
    assert str(Mass(1, "kg").plus(Mass(500, "g"))) == "1.5 kg"
    assert repr(Mass(1)) == "Mass(1, 'kg')"


def test_dimensions():
    box = parse_dimensions("10 x 30 x 20 cm")
    assert str(box) == "30 cm x 20 cm x 10 cm"
    assert box.litres() == pytest.approx(6)
    assert box.girth().to("cm") == pytest.approx(60)


def test_dimensions_fit():
    small, large = parse_dimensions("1 x 2 x 3", "cm"), parse_dimensions("40 x 30 x 20 mm")
    assert small.fits(large) and not large.fits(small)
    with pytest.raises(UnitError):
        Dimensions([Length(1), Length(2)])
    with pytest.raises(UnitError):
        parse_dimensions("1 x 2 x 3")


def test_sums():
    masses = [Mass(1), Mass(2.5), Mass(500, "g")]
    assert total_mass(masses).value == pytest.approx(4)
    assert heaviest(masses) is masses[1]
    assert heaviest([]) is None
