"""Reports as text files: what was sent, what it cost, and what is overdue. Also a command."""

import argparse
import io
import os

from parcelkit.money import format_money, tally
from parcelkit.shipment import Shipment
from parcelkit.tables import Column, Table
from parcelkit.tariff import Tariff
from parcelkit.tracking import Track, overdue, parse_track

ENCODING = "utf-8"


class ReportError(ValueError):
    """A report that cannot be written, or tracking data that cannot be read."""


def cost_table(shipments, tariff):
    """One row per shipment: number, zone, chargeable weight, carrier and price.

    :param list[Shipment] shipments: in the order of the rows
    :param Tariff tariff: what was agreed on
    :rtype: Table
    """
    columns = [Column("Shipment"), Column("Zone"), Column("kg", "right")]
    table = Table(columns + [Column("Carrier"), Column("Price", "right")])
    for shipment in shipments:
        mass = shipment.chargeable()
        quote = tariff.best(shipment.zone(), mass)
        price = format_money(quote.total())
        table.add([shipment.number, shipment.zone(), mass.to("kg"), quote.carrier, price])
    return table


def total_line(shipments, tariff):
    """All prices together, currency by currency.

    :param list[Shipment] shipments: in any order
    :param Tariff tariff: what was agreed on
    :rtype: str
    """
    quotes = [tariff.best(shipment.zone(), shipment.chargeable()) for shipment in shipments]
    sums = tally([quote.total() for quote in quotes], {})
    return "Total: %s" % (", ".join(format_money(sums[code]) for code in sorted(sums)),)


def write_report(folder, name, text):
    """Write a report into a folder, never over another one; returns where it is.

    :param str folder: made if it is not there
    :param str name: without an ending
    :param str text: the report
    :rtype: str
    """
    if not os.path.isdir(folder):
        os.makedirs(folder)
    path = os.path.join(folder, "%s.txt" % (name,))
    number = 1
    while os.path.exists(path):
        number += 1
        path = os.path.join(folder, "%s-%d.txt" % (name, number))
    with io.open(path, "w", encoding=ENCODING) as out:
        out.write(text.rstrip("\n") + u"\n")
    return path


def read_tracks(folder):
    """Read every ``<number>.scans`` file of a folder.

    :param str folder: where the files are
    :rtype: list[Track]
    """
    if not os.path.isdir(folder):
        raise ReportError("no folder %s" % (folder,))
    tracks = []
    for name in sorted(os.listdir(folder)):
        if os.path.splitext(name)[1] == ".scans":
            path = os.path.join(folder, name)
            with io.open(path, encoding=ENCODING) as lines:
                tracks.append(parse_track(os.path.splitext(name)[0], lines.read()))
    return tracks


def overdue_report(tracks, promised_days):
    """What is late, one line each, or that nothing is.

    :param list[Track] tracks: in any order
    :param int promised_days: what the customers were told
    :rtype: str
    """
    numbers = overdue(tracks, promised_days)
    if numbers == []:
        return "Nothing is overdue."
    known = dict((track.number, track) for track in tracks)
    lines = ["%d of %d overdue:" % (len(numbers), len(tracks))]
    return "\n".join(lines + ["  %s" % (known[number].describe(),) for number in numbers])


def main(arguments=None):
    """Print what is overdue in a folder of tracking data; returns the exit code.

    :param list[str] arguments: instead of the command line's
    :rtype: int
    """
    parser = argparse.ArgumentParser(prog="parcelkit-report", description=main.__doc__)
    parser.add_argument("folder")
    parser.add_argument("--promised-days", type=int, default=3)
    options = parser.parse_args(arguments)
    try:
        print(overdue_report(read_tracks(options.folder), options.promised_days))
    except ReportError as error:
        print("parcelkit-report: %s" % (error,))
        return 2
    return 0
