"""A depot: packaging in stock, and the queue of shipments that wait for a van."""

from parcelkit.shipment import Shipment
from parcelkit.units import Mass, total_mass


class DepotError(ValueError):
    """Stock that is not there, or a shipment that does not fit."""


class Stock(object):
    """How much of what lies on the shelves.

    :ivar dict[str, int] counts: pieces by article
    :ivar dict[str, int] minimum: when to order more, by article
    """

    def __init__(self, counts=None, minimum=None):
        """Begin with what was counted.

        :param dict[str, int] counts: pieces by article
        :param dict[str, int] minimum: when to order more, by article
        """
        self.counts = dict(counts or {})
        self.minimum = dict(minimum or {})

    def put(self, article, pieces):
        """Put pieces on the shelf; returns how many there are now.

        :param str article: what it is
        :param int pieces: how many
        :rtype: int
        """
        if pieces <= 0:
            raise DepotError("cannot put %d pieces of %s" % (pieces, article))
        self.counts[article] = self.counts.get(article, 0) + pieces
        return self.counts[article]

    def take(self, article, pieces=1):
        """Take pieces from the shelf; returns how many are left.

        :param str article: what it is
        :param int pieces: how many
        :rtype: int
        """
        there = self.counts.get(article, 0)
        if pieces > there:
            raise DepotError("%s: %d wanted, %s there" % (article, pieces, there))
        self.counts[article] = there - pieces
        return self.counts[article]

    def to_order(self):
        """Articles below their minimum, with the pieces that are missing.

        :rtype: dict[str, int]
        """
        missing = {}
        for article, least in sorted(self.minimum.items()):
            there = self.counts.get(article, 0)
            if there < least:
                missing[article] = least - there
        return missing


class Van(object):
    """What one van takes.

    :ivar str name: of the van
    :ivar Mass limit: the most it may carry
    :ivar list[Shipment] load: what is on it
    """

    def __init__(self, name, limit):
        """An empty van.

        :param str name: of the van
        :param Mass limit: the most it may carry
        """
        self.name = name
        self.limit = limit
        self.load = []

    def carried(self):
        """What is on it weighs.

        :rtype: Mass
        """
        return total_mass([shipment.mass() for shipment in self.load])

    def has_room(self, shipment):
        """Whether a shipment may go on it.

        :param Shipment shipment: the shipment
        :rtype: bool
        """
        return self.carried().plus(shipment.mass()).base() <= self.limit.base()


class Queue(object):
    """Shipments that wait, first come first served; urgent ones go before the others.

    :ivar list[Shipment] urgent: these first
    :ivar list[Shipment] normal: then these
    """

    def __init__(self):
        """Nothing waits."""
        self.urgent = []
        self.normal = []

    def __len__(self):
        """How many wait.

        :rtype: int
        """
        return len(self.urgent) + len(self.normal)

    def push(self, shipment, urgent=False):
        """Let a shipment wait; it must have nothing against it.

        :param Shipment shipment: the shipment
        :param bool urgent: before the others
        """
        problems = shipment.problems()
        if problems:
            raise DepotError("%s cannot wait: %s" % (shipment.number, "; ".join(problems)))
        (self.urgent if urgent else self.normal).append(shipment)

    def waiting(self):
        """All that wait, in the order they go.

        :rtype: list[Shipment]
        """
        return self.urgent + self.normal

    def load(self, van):
        """Load what fits, in order, and return it; what does not fit goes on waiting.

        :param Van van: where to
        :rtype: list[Shipment]
        """
        loaded = [shipment for shipment in self.waiting() if self._try(van, shipment)]
        self.urgent = [shipment for shipment in self.urgent if shipment not in loaded]
        self.normal = [shipment for shipment in self.normal if shipment not in loaded]
        return loaded

    def _try(self, van, shipment):
        """Load one shipment if there is room.

        :param Van van: where to
        :param Shipment shipment: the shipment
        :rtype: bool
        """
        if not van.has_room(shipment):
            return False
        van.load.append(shipment)
        return True
