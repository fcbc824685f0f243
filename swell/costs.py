"""`swell costs`: what was spent, as a table, JSON or CSV. Imports as swell/cli.py does."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from swell.command import cluster_client, command, say
from swell.errors import SwellError, invalid
from swell.options import JsonOption, Since, Until

if TYPE_CHECKING:
    from swell.client import Client
    from swell.values import Costs, Selection, Spent

CSV_ROWS_MAX: Final = 10_000
"""Rows that the ledger answers at a time; a month is asked for by days."""
MONTHLY: Final = ("day", "repository", "tenant", "tool", "model")
"""One line for each of them together, in the CSV of a month."""
_FORMULA: Final = "=+-@\t\r\n"

SomeRun = Annotated[str, typer.Argument(help="A run's id, the beginning of one, or 'last'.", metavar="[RUN]")]
By = Annotated[
    str,
    typer.Option(
        "--by",
        help="Up to six of run, workstream, step, tool, provider, model, day, month, repository, tenant, label:KEY; "
        "with commas. Default: tool,model.",
        metavar="WHAT",
        show_default=False,
    ),
]
Repository = Annotated[str, typer.Option("--repository", help="Runs over the repository at this place.")]
OfLabels = Annotated[list[str] | None, typer.Option("--label", help="Runs with this label.", metavar="KEY=VALUE")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Runs of this tenant; '' for those of none.")]


@command
def costs(
    run: SomeRun = "",
    *,
    by: By = "",
    since: Since = "",
    until: Until = "",
    month: Annotated[
        str, typer.Option("--month", help="A month in UTC, such as 2026-11, in place of the two.", metavar="MONTH")
    ] = "",
    tool: Annotated[str, typer.Option("--tool", help="Attempts of this tool.")] = "",
    model: Annotated[str, typer.Option("--model", help="Attempts of this model.")] = "",
    repository: Repository = "",
    label: OfLabels = None,
    tenant: OfTenant = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=CSV_ROWS_MAX, help="Rows of the table.")] = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, all of it, with exact amounts.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Show what coding tools have cost, the dearest first. What is not known is counted, and never zero."""
    if as_csv and as_json:
        raise invalid("BAD_OPTIONS", "costs are printed as CSV or as JSON", "Leave one of the two out.")
    if month and (since or until):
        raise invalid("BAD_OPTIONS", "a month has its own beginning and end", "Leave --since and --until out.")
    from swell.moments import span_ns  # noqa: PLC0415 - as the module says

    begin, end = month_of(month) if month else span_ns(since, until)
    group_by = tuple(by.split(",")) if by else MONTHLY if month and as_csv else ("tool", "model")
    with cluster_client() as client:
        selection = selected(
            client,
            run,
            since_ns=begin,
            until_ns=end,
            tool=tool,
            model=model,
            repository=repository,
            label=label,
            tenant=tenant,
        )
        if as_csv:
            say(csv_text(group_by, daily(client, selection, group_by) if month else whole(client, selection, group_by)))
            return 0
        spent = client.get_costs(selection, group_by, limit=limit)
    if as_json:
        import msgspec  # noqa: PLC0415 - as the module says

        say(msgspec.json.encode(spent).decode())
    else:
        say(cost_lines(group_by, spent))
    return 0


def selected(
    client: Client,
    run: str,
    *,
    label: list[str] | None,
    repository: str = "",
    since_ns: int = 0,
    until_ns: int = 0,
    **more: str | None,
) -> Selection:
    """What the options select. Raises SwellError."""
    from swell.listing import location_of, resolve_run  # noqa: PLC0415 - as above
    from swell.settings import parse_labels  # noqa: PLC0415 - as above
    from swell.values import Selection  # noqa: PLC0415 - as above

    named = {key: value for key, value in more.items() if value is not None}
    return Selection(
        run=resolve_run(client, run) if run else "",
        labels=parse_labels(label or []),
        repository=location_of(repository),
        since_ns=since_ns,
        until_ns=until_ns,
        **named,
    )


# Times


def month_of(text: str) -> tuple[int, int]:
    """The beginning of a month and of the next, in nanoseconds, UTC. Raises SwellError BAD_MONTH."""
    found = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", text, re.ASCII)
    if found is None or not 1970 <= int(found[1]) <= 2200:
        raise invalid("BAD_MONTH", f"{text[:40]!a} is no month", "Use a year and a month such as 2026-11.", "--month")
    first = date(int(found[1]), int(found[2]), 1)
    after = (first + timedelta(days=31)).replace(day=1)
    begin, end = (round(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()) * 10**9 for day in (first, after))
    return max(begin, 1), end


# CSV


def whole(client: Client, selection: Selection, group_by: tuple[str, ...]) -> list[Costs]:
    """Every row. Raises SwellError TOO_MANY_ROWS when the ledger has more than it answers at a time."""
    spent = client.get_costs(selection, group_by, limit=CSV_ROWS_MAX)
    if spent.groups > len(spent.rows):
        raise SwellError(
            "OUT_OF_RANGE",
            "TOO_MANY_ROWS",
            f"there are {spent.groups} rows, and {len(spent.rows)} fit an answer",
            "Select less with --since and --until, --tenant or --repository, or group by less.",
        )
    return spent.rows


def daily(client: Client, selection: Selection, group_by: tuple[str, ...]) -> list[Costs]:
    """Every row of a selection with an end, asked for day by day; those of different days are not added up."""
    from msgspec.structs import replace  # noqa: PLC0415 - as above

    if "day" not in group_by:
        return whole(client, selection, group_by)
    rows: list[Costs] = []
    day_ns = 86_400 * 10**9
    at = selection.since_ns
    while at < selection.until_ns:
        after = min((at // day_ns + 1) * day_ns, selection.until_ns)
        rows += sorted(
            whole(client, replace(selection, since_ns=at, until_ns=after), group_by), key=lambda row: row.key
        )
        at = after
    return rows


def csv_text(group_by: tuple[str, ...], rows: list[Costs]) -> str:
    """RFC 4180. Texts that a spreadsheet would take for a formula begin with an apostrophe; an unknown cost is empty."""
    import csv  # noqa: PLC0415 - as above
    import io  # noqa: PLC0415 - as above

    counts = ("attempts", "unpriced", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*(_cell(name) for name in group_by), "cost_usd", "list_cost_usd", *counts])
    for row in rows:
        amounts = [_exact(row.cost_nano), _exact(row.list_cost_nano)]
        writer.writerow([*(_cell(value) for value in row.key), *amounts, *(getattr(row, name) for name in counts)])
    return text.getvalue().removesuffix("\n")


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] and text[0] in _FORMULA else text


def _exact(nano: int | None) -> str:
    """US dollars as a decimal number, nothing rounded; '' for an unknown amount."""
    if nano is None:
        return ""
    whole_part, part = divmod(nano, 10**9)
    return f"{whole_part}.{part:09}".rstrip("0").ljust(len(str(whole_part)) + 3, "0")


# Tables


def cost_lines(group_by: tuple[str, ...], spent: Spent) -> list[str]:
    """The rows, then the total of everything, then what is to be known of it."""
    from swell.text import columns, many  # noqa: PLC0415 - as above

    header = [*group_by, "cost", "by list", "attempts", "unknown", "in", "cached", "out"]
    table = [header, *([*(value or "-" for value in row.key), *_numbers(row)] for row in spent.rows)]
    total = ["total", *[""] * (len(group_by) - 1), *_numbers(spent.total)]
    lines = columns([*table, total])
    if spent.groups > len(spent.rows):
        lines.append(f"  {many(spent.groups - len(spent.rows), 'row')} more in the total: see all with --limit")
    if not spent.total.attempts:
        lines.append("  no attempt of a coding tool is among what was selected")
    if spent.total.unpriced:
        lines.append(f"  what {many(spent.total.unpriced, 'attempt')} cost is not known, and not in the total")
    if spent.total.lower_bounds:
        lines.append(f"  {many(spent.total.lower_bounds, 'attempt')} ended before telling all that was used")
    if spent.price_tables:
        lines.append(f"  prices of {', '.join(spent.price_tables)}")
    return lines


def _numbers(row: Costs) -> list[str]:
    cached = row.cache_read_tokens + row.cache_write_tokens
    counts = (row.attempts, row.unpriced, row.input_tokens, cached, row.output_tokens)
    by_list = "-" if row.list_cost_nano is None else amount(row.list_cost_nano)
    return [amount(row.cost_nano), by_list, *map(str, counts)]


def amount(nano: int | None) -> str:
    """Money for people; `unknown` where it is not known."""
    from services.outcome import usd_text  # noqa: PLC0415 - as above

    return "unknown" if nano is None else usd_text(nano)
