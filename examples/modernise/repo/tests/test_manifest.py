import pytest

from parcelkit.address import Address
from parcelkit.labels import LabelError
from parcelkit.manifest import Manifest
from parcelkit.shipment import Shipment, parse_parcel


def test_manifest():
    manifest = Manifest("rr", 47312482)
    receiver = Address("Ada", "Way 1", "Hannover", "30159")
    label = manifest.add(Shipment("S1", receiver, [parse_parcel("1 kg, 20 x 20 x 10 cm")]))
    assert label.number == "RR473124829DE"
    manifest.add(Shipment("S2", receiver, [parse_parcel("2 kg, 20 x 20 x 10 cm")]))
    lines = manifest.render().splitlines()
    assert lines[0] == "RR473124829DE  S1: 1 parcel, 1 kg, to Hannover"
    assert lines[2] == "2 shipments, 3 kg"


def test_service_has_two_letters():
    with pytest.raises(LabelError):
        Manifest("R2D2")
