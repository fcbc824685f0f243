"""Parcels and shipments: what is sent, what it weighs for the carrier, and whether it may be sent."""

from parcelkit.address import Address, find_country
from parcelkit.units import Dimensions, Mass, parse_dimensions, parse_mass, total_mass

#: Grams per litre: a large light box is charged as if it weighed this much.
VOLUMETRIC_GRAMS_PER_LITRE = 200

#: The heaviest single parcel that any carrier takes, in kilograms.
HEAVIEST_KG = 31.5

LIMITS = parse_dimensions("120 x 60 x 60 cm")


class ShipmentError(ValueError):
    """A shipment that cannot be sent as it is."""


class Parcel(object):
    """One box.

    :ivar Mass mass: what the scales say
    :ivar Dimensions dimensions: its sides
    :ivar str content: for customs
    """

    def __init__(self, mass, dimensions, content=""):
        """Keep what was measured.

        :param Mass mass: what the scales say
        :param Dimensions dimensions: its sides
        :param str content: for customs
        """
        self.mass = mass
        self.dimensions = dimensions
        self.content = content

    def volumetric(self):
        """What the box would weigh at the carrier's density.

        :rtype: Mass
        """
        return Mass(self.dimensions.litres() * VOLUMETRIC_GRAMS_PER_LITRE, "g")

    def chargeable(self):
        """The weight that is paid for: the larger of the real and the volumetric one.

        :rtype: Mass
        """
        volumetric = self.volumetric()
        if volumetric.base() > self.mass.base():
            return volumetric
        return self.mass

    def problems(self):
        """What keeps the box from being taken; empty if nothing does.

        :rtype: list[str]
        """
        found = []
        if self.mass.to("kg") > HEAVIEST_KG:
            found.append("%s is heavier than %s kg" % (self.mass, HEAVIEST_KG))
        if not self.dimensions.fits(LIMITS):
            found.append("%s is larger than %s" % (self.dimensions, LIMITS))
        return found


def parse_parcel(text):
    """Read ``2.5 kg, 30 x 20 x 10 cm, books``.

    :param str text: weight, sides and, if given, the content
    :rtype: Parcel
    """
    words = [word.strip() for word in text.split(",", 2)]
    if len(words) < 2:
        raise ShipmentError("not a parcel: %r; write for example 2 kg, 30 x 20 x 10 cm" % (text,))
    content = words[2] if len(words) == 3 else ""
    return Parcel(parse_mass(words[0]), parse_dimensions(words[1]), content)


class Shipment(object):
    """Parcels that go to one address together.

    :ivar str number: the shipper's own number
    :ivar Address receiver: where they go
    :ivar list[Parcel] parcels: at least one before it is sent
    """

    def __init__(self, number, receiver, parcels=None):
        """Begin with some parcels, or none.

        :param str number: the shipper's own number
        :param Address receiver: where they go
        :param list[Parcel] parcels: what is known already
        """
        self.number = number
        self.receiver = receiver
        self.parcels = list(parcels or [])

    def add(self, parcel):
        """Put one more box with the others.

        :param Parcel parcel: the box
        """
        self.parcels.append(parcel)

    def mass(self):
        """What all boxes weigh.

        :rtype: Mass
        """
        return total_mass([parcel.mass for parcel in self.parcels])

    def chargeable(self):
        """What is paid for: box by box, not the sum against the sum.

        :rtype: Mass
        """
        return total_mass([parcel.chargeable() for parcel in self.parcels])

    def zone(self):
        """The tariff zone of the receiver's country.

        :rtype: str
        """
        country = find_country(self.receiver.country)
        return country.zone

    def needs_customs(self):
        """Whether a customs form must go with it.

        :rtype: bool
        """
        return self.zone() == "world"

    def problems(self):
        """Everything that keeps the shipment from being sent.

        :rtype: list[str]
        """
        found = self.receiver.problems()
        if not self.parcels:
            found.append("no parcels")
        for number, parcel in enumerate(self.parcels, 1):
            found.extend("parcel %d: %s" % (number, text) for text in parcel.problems())
        if not found and self.needs_customs():
            for number, parcel in enumerate(self.parcels, 1):
                if not parcel.content:
                    found.append("parcel %d: customs wants to know its content" % (number,))
        return found

    def describe(self):
        """One line for a list.

        :rtype: str
        """
        count = len(self.parcels)
        noun = "parcel" if count == 1 else "parcels"
        return "%s: %d %s, %s, to %s" % (
            self.number,
            count,
            noun,
            self.mass(),
            self.receiver.city,
        )


def split_by_zone(shipments):
    """Shipments by the tariff zone they go to.

    :param list[Shipment] shipments: in any order
    :rtype: dict[str, list[Shipment]]
    """
    zones = {}
    for shipment in shipments:
        zones.setdefault(shipment.zone(), []).append(shipment)
    return zones
