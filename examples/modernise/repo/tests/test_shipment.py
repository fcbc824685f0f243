import pytest

from parcelkit.address import Address
from parcelkit.shipment import Shipment, ShipmentError, parse_parcel, split_by_zone

HOME = Address("Ada", "Way 1", "Hannover", "30159")
ABROAD = Address("Bo", "Pine St 2", "Portland", "97201", "US")


def test_parse_parcel():
    parcel = parse_parcel("2.5 kg, 30 x 20 x 10 cm, books, mostly")
    assert parcel.content == "books, mostly"
    assert parcel.mass.to("g") == 2500
    with pytest.raises(ShipmentError):
        parse_parcel("2.5 kg")


def test_light_boxes_pay_for_their_size():
    assert parse_parcel("1 kg, 50 x 40 x 30 cm").chargeable().to("kg") == pytest.approx(12)
    assert parse_parcel("9 kg, 30 x 20 x 10 cm").chargeable().to("kg") == pytest.approx(9)


def test_problems():
    assert Shipment("S1", HOME).problems() == ["no parcels"]
    shipment = Shipment("S2", HOME, [parse_parcel("40 kg, 130 x 20 x 10 cm")])
    assert shipment.problems() == [
        "parcel 1: 40 kg is heavier than 31.5 kg",
        "parcel 1: 130 cm x 20 cm x 10 cm is larger than 120 cm x 60 cm x 60 cm",
    ]


def test_customs_wants_the_content():
    shipment = Shipment("S3", ABROAD, [parse_parcel("1 kg, 20 x 20 x 10 cm")])
    assert shipment.needs_customs()
    assert shipment.problems() == ["parcel 1: customs wants to know its content"]


def test_describe():
    shipment = Shipment("S4", HOME)
    shipment.add(parse_parcel("1 kg, 20 x 20 x 10 cm"))
    shipment.add(parse_parcel("500 g, 20 x 20 x 10 cm"))
    assert shipment.describe() == "S4: 2 parcels, 1.5 kg, to Hannover"


def test_each_shipment_has_its_own_parcels():
    first, second = Shipment("A", HOME), Shipment("B", HOME)
    first.add(parse_parcel("1 kg, 20 x 20 x 10 cm"))
    assert second.parcels == []


def test_split_by_zone():
    zones = split_by_zone([Shipment("A", HOME), Shipment("B", ABROAD), Shipment("C", HOME)])
    assert sorted((zone, len(found)) for zone, found in zones.items()) == [("home", 2), ("world", 1)]
