"""Data in prompts: what comes from bundles, repositories and tools, in a form that it cannot break out of.

Invariants:

* A fence is longer than any run of backticks in what it holds, so nothing inside closes it.
* Nothing quoted holds a control character but line feed and tab, a line separator by another name, a character that
  turns the direction of writing, or half a surrogate pair; they are spelt out. So a prompt is valid UTF-8, fits into an
  argument, and reads as it looks.
* Only `Quoted` text gets through a template (see templates.py), and only this module makes it.

Pure.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

_ESCAPE_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_LINE_END: Final = re.compile(r"\r\n?")
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SPELT_OUT: Final = {
    point: chr(point).encode("unicode_escape").decode()
    for point in (*range(0xA0), *range(0x2028, 0x206A), *range(0xD800, 0xE000))
    if _UNSEEN.match(chr(point))
}
_BACKTICKS: Final = re.compile("`+")


class Quoted(str):
    """Text that a template may print: quoted data, or words of our own."""

    __slots__ = ()


def words(text: str) -> Quoted:
    """Words of our own, printed as they are. Never for anything that came from outside."""
    return Quoted(text)


def plain(text: str) -> str:
    """The text with line feeds as line ends, without terminal sequences, and with what nobody sees spelt out."""
    text = _LINE_END.sub("\n", _ESCAPE_SEQUENCE.sub("", text))
    return text.translate(_SPELT_OUT) if _UNSEEN.search(text) else text


def fence(text: str, kind: str = "text") -> Quoted:
    """The text as a block of its own. `kind` is a word of ours that names its language."""
    body = plain(text)
    longest = max((len(run) for run in _BACKTICKS.findall(body)), default=0)
    mark = "`" * max(longest + 1, 3)
    if body and not body.endswith("\n"):
        body += "\n"
    return Quoted(f"{mark}{kind}\n{body}{mark}")


def code(text: str) -> Quoted:
    """The text within a line: line ends are spelt out, and the marks are longer than any run of backticks inside."""
    body = plain(text).replace("\n", "\\n").replace("\t", "\\t")
    longest = max((len(run) for run in _BACKTICKS.findall(body)), default=0)
    mark = "`" * (longest + 1)
    space = " " if not body.strip() or "`" in (body[:1], body[-1:]) else ""
    return Quoted(f"{mark}{space}{body}{space}{mark}")


def bullets(items: Iterable[str]) -> Quoted:
    """A fenced list; the further lines of an item are indented."""
    return fence("\n".join(_item("- ", item) for item in items))


def numbered(items: Sequence[str]) -> Quoted:
    """A fenced list with numbers from 1."""
    return fence("\n".join(_item(f"{number}. ", item) for number, item in enumerate(items, 1)))


def blockquote(items: Iterable[str]) -> Quoted:
    """Every line with a mark of its own, an empty one between the items."""
    lines = [f"> {line}" for item in items for line in (*plain(item).split("\n"), "")]
    return Quoted("\n".join(lines[:-1]))


def cut_end(text: str, chars: int) -> str:
    """The first `chars` characters, and how many are missing."""
    return text if len(text) <= chars else f"{text[:chars]}\n[... {len(text) - chars} more characters left out]"


def cut_start(text: str, chars: int) -> str:
    """The last `chars` characters, and how many are missing before them: tools say last what failed."""
    return text if len(text) <= chars else f"[... {len(text) - chars} characters left out]\n{text[len(text) - chars :]}"


def shortened(items: Sequence[str], count: int, chars: int) -> list[str]:
    """The first `count` items, none longer than `chars`, and how many are missing."""
    kept = [item if len(item) <= chars else f"{item[:chars]} [...]" for item in items[:count]]
    return kept if len(items) <= count else [*kept, f"[... {len(items) - count} more left out]"]


def _item(mark: str, text: str) -> str:
    first, *rest = plain(text).split("\n")
    return "\n".join([f"{mark}{first}", *(f"{' ' * len(mark)}{line}" if line else "" for line in rest)])
