"""Manifests: the list of labelled shipments that a driver signs."""

from parcelkit.labels import Label, LabelError, tracking_number
from parcelkit.shipment import Shipment
from parcelkit.units import total_mass


class Manifest(object):
    """Shipments of one service, numbered without gaps.

    :ivar str service: two letters
    :ivar int serial: of the next label
    :ivar dict[str, Shipment] shipments: by tracking number
    """

    def __init__(self, service, serial=1):
        """Begin at a serial number.

        :param str service: two letters
        :param int serial: of the first label
        """
        if len(service) != 2 or not service.isalpha():
            raise LabelError("a service has two letters: %r" % (service,))
        self.service = service.upper()
        self.serial = serial
        self.shipments = {}

    def add(self, shipment):
        """Number a shipment and give its label.

        :param Shipment shipment: what goes along
        :rtype: Label
        """
        number = tracking_number(self.service, self.serial, shipment.receiver.country)
        self.serial += 1
        self.shipments[number] = shipment
        return Label(number, shipment.receiver.lines())

    def render(self):
        """The list, with the weight of all and room for a signature.

        :rtype: str
        """
        lines = [
            "%s  %s" % (number, shipment.describe()) for number, shipment in self.shipments.items()
        ]
        mass = total_mass([shipment.mass() for shipment in self.shipments.values()])
        lines.append("%s shipments, %s" % (len(self.shipments), mass))
        lines.append("received: ____________________")
        return "\n".join(lines)
