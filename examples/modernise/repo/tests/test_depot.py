import pytest

from parcelkit.address import Address
from parcelkit.depot import DepotError, Queue, Stock, Van
from parcelkit.shipment import Shipment, parse_parcel
from parcelkit.units import Mass


def shipment(number, kilograms):
    parcel = parse_parcel("%s kg, 30 x 20 x 10 cm" % (kilograms,))
    return Shipment(number, Address("Ada", "Way 1", "Hannover", "30159"), [parcel])


def test_stock():
    stock = Stock({"box": 3}, {"box": 2, "tape": 5})
    assert stock.put("tape", 1) == 1
    assert stock.take("box", 2) == 1
    assert stock.to_order() == {"box": 1, "tape": 4}
    with pytest.raises(DepotError) as caught:
        stock.take("box", 2)
    assert str(caught.value) == "box: 2 wanted, 1 there"
    with pytest.raises(DepotError):
        stock.put("box", 0)


def test_urgent_goes_first():
    queue = Queue()
    queue.push(shipment("A", 1))
    queue.push(shipment("B", 1), urgent=True)
    assert [waiting.number for waiting in queue.waiting()] == ["B", "A"]


def test_load_passes_over_what_does_not_fit():
    queue, van = Queue(), Van("v1", Mass(20))
    for number, kilograms in (("A", 15), ("B", 10), ("C", 4)):
        queue.push(shipment(number, kilograms))
    assert [loaded.number for loaded in queue.load(van)] == ["A", "C"]
    assert len(queue) == 1
    assert van.carried().to("kg") == pytest.approx(19)


def test_what_cannot_be_sent_does_not_wait():
    with pytest.raises(DepotError) as caught:
        Queue().push(shipment("A", 50))
    assert str(caught.value) == "A cannot wait: parcel 1: 50 kg is heavier than 31.5 kg"
