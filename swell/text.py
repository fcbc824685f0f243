"""How values become text for people. Pure.

What comes from tools and repositories may hold anything; `visible` is what stands between it and a terminal.
"""

import re
from collections.abc import Iterable, Sequence

# C0 and C1 controls but line feed and tab, DEL, and the characters that reorder what is displayed.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with control and reordering characters spelt out, so that it cannot steer a terminal."""
    return _HIDDEN.sub(_escape, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 300) -> str:
    """The text on one visible line of at most `limit` characters."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _escape(match: re.Match[str]) -> str:
    point = ord(match.group())
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def many(count: int, one: str, more: str = "") -> str:
    """So many of something: 1 attempt, 2 attempts. `more` is for what does not end with an s."""
    return f"{count} {one if count == 1 else more or f'{one}s'}"


def duration(seconds: float) -> str:
    """A length of time: 0.4 s, 12.3 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def size(count: int) -> str:
    """A number of bytes: 812 B, 3.4 KiB, 1.2 MiB."""
    if count < 1024:
        return f"{count} B"
    value = count / 1024
    for unit in ("KiB", "MiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns; the last column is not padded."""
    table = [[one_line(cell, 400) for cell in row] for row in rows]
    if not table:
        return []
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
