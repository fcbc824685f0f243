import pytest
from parcelkit.tables import Column, Table, TableError, quote, show, summarise

ROWS = [["Box S", 12, 0.5], ["Tape", 3, None], ["Box L", 7, 1.25]]


@pytest.fixture
def table():
    return Table([Column("Article"), Column("Qty", "right"), Column("EUR", "right")], list(ROWS))


def test_render(table):
    assert table.render().splitlines() == [
        "Article  Qty   EUR",
        "-------  ---  ----",
        "Box S     12  0.50",
        "Tape       3",
        "Box L      7  1.25",
    ]


def test_wrapped_cells():
    table = Table([Column("Note", width=8), Column("No", "centre")], [["handle with care", 1]])
    assert table.render().splitlines()[2:] == ["handle  1", "with", "care"]


def test_sort(table):
    table.sort("EUR")
    assert table.column("Article") == ["Tape", "Box S", "Box L"]
    table.sort("Article", reverse=True)
    assert table.column("Article") == ["Tape", "Box S", "Box L"]


def test_refusals(table):
    with pytest.raises(TableError):
        table.add(["too short"])
    with pytest.raises(TableError):
        table.index("Price")
    with pytest.raises(TableError):
        Column("x", "middle")


def test_csv(table):
    table.add(['6" pipe, short', 1, 2.0])
    assert table.to_csv().splitlines()[0] == "Article,Qty,EUR"
    assert table.to_csv().splitlines()[-1] == '"6"" pipe, short",1,2.00'
    assert table.to_csv(";").splitlines()[2] == "Tape;3;"


def test_cells():
    assert [show(cell) for cell in (None, 3, 2.5, "x")] == ["", "3", "2.50", "x"]
    assert quote("plain") == "plain"


def test_summarise():
    summary = summarise([["a", 1], ["b", 5], ["a", 2]], 0, lambda row: row[1])
    assert summary == [["a", 2, 3], ["b", 1, 5]]
