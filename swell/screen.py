"""What lines are written for: how wide it is, and whether it shows colours. Only `Screen.of` looks outside.

A terminal gets lines that fit it, and colours unless NO_COLOR is set. A file or a pipe gets whole lines without either, so
that what is searched for is not cut in two.
"""

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final, Self, TextIO

import msgspec

from swell.text import one_line

WIDTH_MIN: Final = 40
GAP: Final = "  "

_STYLES: Final = {"good": "32", "bad": "31", "wait": "33", "odd": "35", "dim": "2", "strong": "1"}
_OF_STATE: Final = {
    "completed": "good",
    "ok": "good",
    "failed": "bad",
    "compensation_failed": "bad",
    "lost": "bad",
    "partial": "wait",
    "paused": "wait",
    "awaiting_review": "wait",
    "blocked": "odd",
    "cancelled": "odd",
    "compensated": "odd",
    "pending": "dim",
}


class Cell(msgspec.Struct, frozen=True):
    """What stands in a table: its text and how it looks; `right`: numbers, which end where their column ends."""

    text: str
    style: str = ""
    right: bool = False


def state_cell(state: str) -> Cell:
    """The state of a run, a workstream or an attempt, in its colour."""
    return Cell(state.replace("_", " "), _OF_STATE.get(state, ""))


def number(text: str) -> Cell:
    """A figure; a dim dash where there is none."""
    return Cell(text or "-", "" if text else "dim", right=True)


class Screen(msgspec.Struct, frozen=True):
    """`width` in characters, None where lines may be of any length."""

    width: int | None = None
    colour: bool = False

    @classmethod
    def of(cls, out: TextIO, environ: Mapping[str, str] = os.environ) -> Self:
        """What `out` is. NO_COLOR (of any value) and TERM=dumb are no colours."""
        if not out.isatty():
            return cls()
        width = max(shutil.get_terminal_size().columns, WIDTH_MIN)
        return cls(width, not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb")

    def paint(self, text: str, style: str) -> str:
        """The text in a style: good, bad, wait, odd, dim or strong; "" for none. The text must be visible already."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def state(self, state: str) -> str:
        """A state in its colour."""
        cell = state_cell(state)
        return self.paint(cell.text, cell.style)

    def heading(self, text: str) -> str:
        """The title of a section."""
        return self.paint(text, "strong")

    def wrapped(self, text: str, indent: str = "", limit: int = 500) -> list[str]:
        """One visible line of at most `limit` characters, on as many lines as it takes, each behind `indent`."""
        line = one_line(text, limit)
        if self.width is None or len(indent) + len(line) <= self.width:
            return [indent + line]
        room = max(self.width - len(indent), WIDTH_MIN // 2)
        return [indent + part for part in textwrap.wrap(line, room, break_on_hyphens=False)]

    def facts(self, rows: Sequence[tuple[str, str]], indent: str = GAP) -> list[str]:
        """Names and what they are, the second below one another; what does not fit goes on below itself."""
        shown = [(name, text) for name, text in rows if text]
        width = max((len(name) for name, _ in shown), default=0)
        lines = []
        for name, text in shown:
            first, *rest = self.wrapped(text, indent + " " * (width + len(GAP)))
            lines.append(indent + self.paint(name, "dim") + first[len(indent) + len(name) :])
            lines += rest
        return lines

    def table(
        self, titles: Sequence[str], rows: Sequence[Sequence[Cell | str]], indent: str = "", *, gives: int = -1
    ) -> list[str]:
        """Rows below their titles. Where they do not fit, the column `gives` is cut, with an ellipsis, as far as it takes."""
        table = [[_shown(cell) for cell in row] for row in rows]
        widths = [max([len(title), *(len(row[at].text) for row in table)]) for at, title in enumerate(titles)]
        over = 0 if self.width is None else len(indent) + sum(widths) + len(GAP) * (len(widths) - 1) - self.width
        if over > 0 and titles:
            at = gives % len(titles)
            widths[at] = max(widths[at] - over, len(titles[at]), 8)
        right = [any(row[at].right for row in table) for at in range(len(titles))]
        head = [Cell(title, "dim", right=is_right) for title, is_right in zip(titles, right, strict=True)]
        return [self._row(row, widths, indent) for row in [head, *table]]

    def _row(self, row: Sequence[Cell], widths: Sequence[int], indent: str) -> str:
        parts = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = cell.text if len(cell.text) <= width else cell.text[: width - 1] + "…"
            pad = " " * (width - len(text))
            last = at == len(widths) - 1 and not cell.right
            painted = self.paint(text, cell.style)
            parts.append(pad + painted if cell.right else painted + ("" if last else pad))
        return (indent + GAP.join(parts)).rstrip()


def _shown(cell: Cell | str) -> Cell:
    found = Cell(cell) if isinstance(cell, str) else cell
    return msgspec.structs.replace(found, text=one_line(found.text, 400))


def bar(share: float, width: int) -> str:
    """A share of a whole as a bar of `width` characters; anything above nothing shows."""
    full = min(max(round(share * width), 1 if share > 0 else 0), width)
    return "█" * full + "░" * (width - full)
