# -*- coding: utf-8 -*-
"""Plain text tables, and the comma-separated form of the same rows."""

import textwrap
import io
from typing import Callable, Dict, List, Optional

Cell = str | int | float | None
Row = List[Cell]


class TableError(ValueError):
    """A row that does not fit its table."""


class Column(object):
    """How one column is headed and set."""

    def __init__(self, title: str, align: str = "left", width: Optional[int] = None) -> None:
        if align not in ("left", "right", "centre"):
            raise TableError("unknown alignment %r" % align)
        self.title = title
        self.align = align
        self.width = width

    def pad(self, text: str, width: int) -> str:
        """The text, filled up to a width."""
        if self.align == "right":
            return text.rjust(width)
        if self.align == "centre":
            return text.center(width)
        return text.ljust(width)

    def lines(self, cell: Cell) -> List[str]:
        """The lines a cell takes: wrapped if the column has a width."""
        text = show(cell)
        if self.width == None:
            return text.split("\n")
        return textwrap.wrap(text, self.width) or [""]


class Table(object):
    """Rows under headed columns.

    >>> print(Table([Column("Item"), Column("Qty", "right")], [["Box", 3]]).render())
    Item  Qty
    ----  ---
    Box     3
    """

    def __init__(self, columns: List[Column], rows: Optional[List[Row]] = None) -> None:
        self.columns = columns
        self.rows: List[Row] = []
        for row in rows or []:
            self.add(row)

    def add(self, row: Row) -> None:
        """Append a row; it must have a cell for each column."""
        if len(row) != len(self.columns):
            raise TableError(
                "a row of {} cells in a table of {} columns".format(len(row), len(self.columns))
            )
        self.rows.append(row)

    def sort(self, title: str, reverse: bool = False) -> None:
        """Put the rows in the order of one column; empty cells come first."""
        index = self.index(title)
        self.rows.sort(key=lambda row: sort_key(row[index]), reverse=reverse)

    def index(self, title: str) -> int:
        """The place of the column with this title."""
        for place, column in enumerate(self.columns):
            if column.title == title:
                return place
        raise TableError("no column %r; there are: %s" % (title, ", ".join(self.titles())))

    def titles(self) -> List[str]:
        """The titles, from left to right."""
        return list([column.title for column in self.columns])

    def column(self, title: str) -> List[Cell]:
        """All cells of one column."""
        place = self.index(title)
        return [row[place] for row in self.rows]

    def render(self, gap: str = "  ") -> str:
        """The table as text, without blanks at the ends of lines."""
        cells = [self.lines(row) for row in self.rows]
        widths = self.widths(cells)
        heads = [each.pad(each.title, width) for each, width in zip(self.columns, widths)]
        lines = [gap.join(heads), gap.join("-" * width for width in widths)]
        for row in cells:
            for number in range(max(len(cell) for cell in row)):
                parts = [cell[number] if number < len(cell) else "" for cell in row]
                lines.append(
                    gap.join(
                        column.pad(part, width)
                        for column, part, width in zip(self.columns, parts, widths)
                    )
                )
        return "\n".join([line.rstrip() for line in lines])

    def lines(self, row: Row) -> List[List[str]]:
        """The lines of each cell of a row."""
        return [column.lines(cell) for column, cell in zip(self.columns, row)]

    def widths(self, cells: List[List[List[str]]]) -> List[int]:
        """How wide each column must be."""
        widths = [len(column.title) for column in self.columns]
        for row in cells:
            for place, lines in enumerate(row):
                widths[place] = max([widths[place]] + [len(line) for line in lines])
        return widths

    def to_csv(self, separator: str = ",") -> str:
        """The titles and rows, one a line; cells are quoted where they must be."""
        out = io.StringIO()
        rows: List[Row] = [list(self.titles())]
        for row in rows + self.rows:
            out.write(separator.join(quote(show(cell), separator) for cell in row))
            out.write(u"\n")
        return out.getvalue()


def show(cell: Cell) -> str:
    """A cell as text: nothing for None, two digits for a fraction."""
    if cell == None:
        return ""
    if isinstance(cell, float):
        return "{:.2f}".format(cell)
    return str(cell)


def sort_key(cell: Cell) -> "tuple[int, float, str]":
    """An order for cells of any kind: empty, then numbers, then text."""
    if cell is None:
        return (0, 0.0, "")
    if isinstance(cell, str):
        return (2, 0.0, cell)
    return (1, float(cell), "")


def quote(text: str, separator: str = ",") -> str:
    """Quote a text for a comma-separated line if it needs it."""
    if separator in text or '"' in text or "\n" in text:
        return '"{}"'.format(text.replace('"', '""'))
    return text


def group(rows: List[Row], place: int) -> Dict[str, List[Row]]:
    """The rows, by the text of one of their cells."""
    groups: Dict[str, List[Row]] = {}
    for row in rows:
        groups.setdefault(show(row[place]), []).append(row)
    return groups


def summarise(rows: List[Row], place: int, measure: Callable[[Row], float]) -> List[Row]:
    """One row per group: its name, how many rows it has, and the sum of what is measured."""
    summary: List[Row] = []
    for name, members in sorted(group(rows, place).items()):
        summary.append([name, len(members), sum(measure(row) for row in members)])
    return summary
