"""`swell sql`: questions about everything the ledger holds, and answers as a table, CSV, JSON or Parquet. Imports as swell/cli.py does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from swell.command import cluster_client, command
from swell.errors import invalid

if TYPE_CHECKING:
    from swell.client import Client
    from swell.values import QueryColumn, QueryEnd, QueryHeader

    Part = QueryHeader | list[tuple[Any, ...]] | bytes | QueryEnd

DOCUMENTATION = (
    "SELECT view_name, about, column_name, data_type, comment FROM documentation ORDER BY view_name, ordinal"
)
STDIN_BYTES = 1024 * 1024
CELL_CHARACTERS = 60
CELL_CHARACTERS_MIN = 8
_QUOTE = '"'
_QUOTED = re.compile('[",\r\n]')

Format = Literal["table", "csv", "json", "jsonl", "parquet"]
Row = tuple[Any, ...]


@command
def ask(
    sql: Annotated[str, typer.Argument(help="One SELECT; `-` reads it from standard input.", metavar="[SQL]")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Tell the views, their columns and what they mean.")] = False,
    style: Annotated[Format, typer.Option("--format", "-f", help="How the answer is written.")] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file to write it to; `-` prints it.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    rows_max: Annotated[
        int, typer.Option("--max-rows", min=0, help="More rows are an error; 0: the ledger's limit.")
    ] = 0,
) -> int:
    """Ask the ledger in SQL: one SELECT over documented views, as they were a moment ago."""
    if schema == bool(sql):
        raise invalid(
            "BAD_QUESTION", "there is no question, or one with --schema", "Give one SELECT, or --schema alone."
        )
    output = None if str(output) == "-" else output
    if style == "parquet" and output is None:
        raise invalid("NO_OUTPUT", "Parquet needs a file", "Name one with --output.")
    if output is not None and not force and os.path.lexists(output):
        raise invalid("EXISTS", "it is there already", "Name another place, or replace it with --force.", str(output))
    text = DOCUMENTATION if schema else sys.stdin.read(STDIN_BYTES) if sql == "-" else sql
    with cluster_client() as client:
        if schema and style == "table":
            _describe(client, sys.stdout)
        elif style == "parquet" and output is not None:
            _parquet(client, text, rows_max, output)
        else:
            with _opened(output) as out:
                _write(client, text, rows_max, style, out)
    return 0


# The views


def _describe(client: Client, out: TextIO) -> None:
    from swell.text import columns  # noqa: PLC0415 - as the module says

    views: dict[tuple[str, str], list[list[str]]] = {}
    for part in client.query(DOCUMENTATION):
        for view, about, *column in part if isinstance(part, list) else ():
            views.setdefault((view, about), []).append([str(cell) for cell in column])
    for (view, about), found in views.items():
        out.write(f"{view}: {about}\n" + "".join(f"  {line}\n" for line in columns(found)) + "\n")


# Answers


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that has its name once it is whole."""
    if output is None:
        yield sys.stdout
        return
    with _half(output) as half, half.open("w", encoding="utf-8", newline="") as opened:
        yield opened


@contextmanager
def _half(output: Path) -> Iterator[Path]:
    half = output.with_name(f".{output.name}.half")
    try:
        try:
            yield half
            half.replace(output)
        except OSError as error:
            reason = error.strerror or str(error)
            raise invalid("NOT_WRITABLE", f"cannot be written: {reason}", "Name another place.", str(output)) from error
    finally:
        half.unlink(missing_ok=True)


def _write(client: Client, sql: str, rows_max: int, style: Format, out: TextIO) -> None:
    header, parts = _header(client.query(sql, rows_max=rows_max))
    rows = (row for part in parts if isinstance(part, list) for row in part)
    match style:
        case "csv":
            count = _csv(header.columns, rows, out)
        case "json" | "jsonl":
            count = _json(header.columns, rows, out, lines=style == "jsonl")
        case _:
            count = _table(header.columns, rows, out)
    out.flush()
    _note(header, count)


def _header(parts: Iterator[Part]) -> tuple[QueryHeader, Iterator[Part]]:
    from swell.values import QueryHeader  # noqa: PLC0415 - as the module says

    header = next(parts)
    assert isinstance(header, QueryHeader)  # noqa: S101 - the first message, by the protocol
    return header, parts


def _note(header: QueryHeader, count: int) -> None:
    """What the answer is of, beside it."""
    sys.stderr.write(
        f"{count} row{'' if count == 1 else 's'}, as of position {header.position}, {header.age_s:.1f} s ago\n"
    )


def _table(columns: Sequence[QueryColumn], rows: Iterator[Row], out: TextIO) -> int:
    """Aligned columns; on a terminal cut to its width as far as CELL_CHARACTERS_MIN for each allow."""
    from swell.screen import Screen  # noqa: PLC0415 - as the module says
    from swell.text import columns as aligned  # noqa: PLC0415 - as above
    from swell.text import one_line  # noqa: PLC0415 - as above

    cells = [[one_line(_shown(value), CELL_CHARACTERS) for value in row] for row in rows]
    table = [[one_line(column.name) for column in columns], *cells]
    if width := Screen.of(out).width:
        limits = _narrowed([max(len(row[at]) for row in table) for at in range(len(columns))], width)
        table = [[one_line(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in table]
    out.writelines(f"{line}\n" for line in aligned(table))
    return len(cells)


def _narrowed(widths: list[int], width: int) -> list[int]:
    """The widths of columns with two spaces between them, of which the widest give until they fit."""
    found = list(widths)
    over = sum(found) + 2 * (len(found) - 1) - width
    while over > 0 and max(found) > CELL_CHARACTERS_MIN:
        found[found.index(max(found))] -= 1
        over -= 1
    return found


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.hex()
        case _:
            return str(value)


def _csv(columns: Sequence[QueryColumn], rows: Iterator[Row], out: TextIO) -> int:
    """RFC 4180: the values as they are; for a terminal made visible."""
    from swell.text import visible  # noqa: PLC0415 - as the module says

    shown = visible if out.isatty() else str
    out.write(shown(",".join(_field(column.name) for column in columns)) + "\r\n")
    count = 0
    for row in rows:
        # A line without anything would be no row to most readers.
        line = '""' if row == (None,) else ",".join(map(_field, row))
        out.write(shown(line) + "\r\n")
        count += 1
    return count


def _field(value: Any) -> str:
    """A value in CSV: nothing for NULL, and quotes for an empty text."""
    if value is None:
        return ""
    text = _shown(value)
    return f'"{text.replace(_QUOTE, _QUOTE * 2)}"' if not text or _QUOTED.search(text) else text


def _json(columns: Sequence[QueryColumn], rows: Iterator[Row], out: TextIO, *, lines: bool) -> int:
    """Objects, one on each line: a whole array, or (`lines`) each for itself."""
    import msgspec  # noqa: PLC0415 - as the module says

    names = _distinct([column.name for column in columns])
    values = [
        _number if _is_number(column.type) else _nested if _is_nested(column.type) else None for column in columns
    ]
    encode = msgspec.json.Encoder().encode
    count = 0
    for row in rows:
        told = [
            value if read is None or value is None else read(value) for read, value in zip(values, row, strict=True)
        ]
        text = encode(dict(zip(names, told, strict=True))).decode()
        out.write(f"{text}\n" if lines else f"{',' if count else '['}\n{text}")
        count += 1
    if not lines:
        out.write("\n]\n" if count else "[]\n")
    return count


def _is_number(kind: str) -> bool:
    return kind.startswith("DECIMAL") or kind in {"HUGEINT", "UHUGEINT", "UBIGINT"}


def _is_nested(kind: str) -> bool:
    return kind == "JSON" or kind.endswith("]") or kind.startswith(("STRUCT(", "MAP("))


def _number(text: str) -> Any:
    import msgspec  # noqa: PLC0415 - as the module says

    return msgspec.Raw(text.encode())  # every digit of it


def _nested(text: str) -> Any:
    import msgspec  # noqa: PLC0415 - as the module says

    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:  # a map with keys that JSON has not
        return text
    return msgspec.Raw(text.encode())


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind one that came before."""
    found: dict[str, None] = {}
    for name in names:
        given, number = name, 1
        while given in found:
            given, number = f"{name}_{number}", number + 1
        found[given] = None
    return list(found)


def _parquet(client: Client, sql: str, rows_max: int, output: Path) -> None:
    from swell.parquet import write_parquet  # noqa: PLC0415 - as the module says

    header, parts = _header(client.query(sql, arrow=True, rows_max=rows_max))
    stream = b"".join(part for part in parts if isinstance(part, bytes))
    with _half(output) as half:
        count = write_parquet(stream, _distinct([column.name for column in header.columns]), half)
    _note(header, count)
