import io
import os

import pytest

from parcelkit.address import Address
from parcelkit.report import (
    ReportError,
    cost_table,
    main,
    overdue_report,
    read_tracks,
    total_line,
    write_report,
)
from parcelkit.shipment import Shipment, parse_parcel
from parcelkit.tariff import Tariff, parse_card

TARIFF = Tariff([parse_card("Post home\n5 kg = EUR 5.00\n31.5 kg = EUR 15.00")])
HOME = Address("Ada", "Way 1", "Hannover", "30159")


@pytest.fixture
def scans(tmp_path):
    folder = str(tmp_path)
    text = u"2024-05-03T10:15 accepted\n2024-05-09T10:15 sorted\n"
    for name in ("P1.scans", "P2.scans", "notes.txt"):
        with io.open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            out.write(text if name == "P1.scans" else text.splitlines()[0])
    return folder


def test_costs():
    shipments = [
        Shipment("S1", HOME, [parse_parcel("3 kg, 20 x 20 x 10 cm")]),
        Shipment("S2", HOME, [parse_parcel("12 kg, 20 x 20 x 10 cm")]),
    ]
    table = cost_table(shipments, TARIFF)
    assert table.column("Price") == ["EUR 5.95", "EUR 17.85"]
    assert total_line(shipments, TARIFF) == "Total: EUR 23.80"


def test_reports_are_never_overwritten(tmp_path):
    folder = os.path.join(str(tmp_path), "new", "reports")
    first = write_report(folder, "may", "one")
    second = write_report(folder, "may", "two\n\n")
    assert [os.path.basename(path) for path in (first, second)] == ["may.txt", "may-2.txt"]
    with io.open(second, encoding="utf-8") as lines:
        assert lines.read() == "two\n"


def test_read_tracks(scans):
    tracks = read_tracks(scans)
    assert [track.number for track in tracks] == ["P1", "P2"]
    assert overdue_report(tracks, 3) == "1 of 2 overdue:\n  P1: sorted after 6d"
    assert overdue_report(tracks, 9) == "Nothing is overdue."


def test_no_folder(scans):
    with pytest.raises(ReportError):
        read_tracks(os.path.join(scans, "missing"))


def test_command(scans, capsys):
    assert main([scans]) == 0
    assert main([os.path.join(scans, "missing")]) == 2
    out = capsys.readouterr().out
    assert out.startswith("1 of 2 overdue:") and "parcelkit-report: no folder" in out
