"""What coding tools have cost, added up as asked. Plain SQL over the attempts; the read side of money.

An attempt of a coding tool counts once it was started and has ended; any attempt counts whose tool told of usage or money. One whose cost nobody knows adds nothing to a sum, and is counted as unpriced: zero is never put
in its place. What is told after the close stands in the attempt's columns, so a sum may grow later.
"""

# ruff: noqa: S608 - columns and expressions come from this module; every value is bound
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

import msgspec

from services.labels import key_problem
from services.ledger.selection import AT, Condition, Selection, label_path, of_attempts
from services.ledger.store import Reads
from services.outcome import SUM_MAX
from services.rpc import invalid

GROUPS_MAX: Final = 6
ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 10_000
TABLES_MAX: Final = 1000

_LABEL = "label:"
_DAY_NS = 86_400_000_000_000
_EPOCH = date(1970, 1, 1)
_OF_ATTEMPTS = ("run", "workstream", "step", "tool", "provider", "model")
_OF_RUNS = ("repository", "tenant")
_OF_TIME = {
    "day": f"({AT}) // {_DAY_NS}",
    "month": f"CAST(date_trunc('month', make_timestamp(({AT}) // 1000)) AS DATE)",
}
COUNTED = """(
    a.cost_nano IS NOT NULL OR a.basis <> '' OR (a.cap <> '' AND a.started_ns > 0 AND a.closed_ns > 0)
    OR a.input_tokens > 0 OR a.output_tokens > 0 OR a.cache_read_tokens > 0 OR a.cache_write_tokens > 0
)"""
"""What holds for the attempts that count."""

# One pass over the attempts, by where a price comes from as well; what is asked for is made of these few rows.
_PARTS = """a.price_table, a.basis, sum(a.cost_nano) AS cost_nano, count(*) - count(a.cost_nano) AS unpriced,
    sum(a.list_cost_nano) AS list_cost_nano, count(a.list_cost_nano) AS listed, sum(a.input_tokens) AS input_tokens,
    sum(a.cache_read_tokens) AS cache_read_tokens, sum(a.cache_write_tokens) AS cache_write_tokens,
    sum(a.output_tokens) AS output_tokens, count(*) AS attempts, count(*) FILTER (a.lower_bound) AS lower_bounds"""

_MEASURES = {
    "cost_nano": "sum(cost_nano)",
    **{f"{basis}_nano": f"sum(cost_nano) FILTER (basis = '{basis}')" for basis in ("reported", "list", "estimate")},
    **{
        name: f"sum({name})"
        for name in (
            "unpriced", "list_cost_nano", "listed", "input_tokens", "cache_read_tokens", "cache_write_tokens",
            "output_tokens", "attempts", "lower_bounds",
        )
    },
}  # fmt: skip


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What some attempts have cost; see Costs in the protocol."""

    key: list[str] = []
    cost_nano: int | None = None
    reported_nano: int = 0
    list_nano: int = 0
    estimate_nano: int = 0
    unpriced: int = 0
    list_cost_nano: int | None = None
    listed: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 0
    lower_bounds: int = 0


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question about costs; `groups` counts all rows, also those there was no room for."""

    rows: list[Costs]
    total: Costs
    groups: int
    price_tables: list[str]
    position: int


def grouping(asked: Sequence[str]) -> tuple[str, ...]:
    """What to group by, checked; raises RpcError (INVALID_ARGUMENT)."""
    if len(asked) > GROUPS_MAX:
        raise invalid("group_by", f"{len(asked)} are too many: give at most {GROUPS_MAX}")
    if len(set(asked)) < len(asked):
        raise invalid("group_by", "names something twice: name each once")
    for name in asked:
        if name.startswith(_LABEL):
            if problem := key_problem(name.removeprefix(_LABEL)):
                raise invalid("group_by", problem)
        elif name not in {*_OF_ATTEMPTS, *_OF_RUNS, *_OF_TIME}:
            known = ", ".join((*_OF_ATTEMPTS, *_OF_TIME, *_OF_RUNS, "label:KEY"))
            raise invalid("group_by", f"{name[:80]!r} is nothing to group by: use {known}")
    return tuple(asked)


def row_limit(asked: int) -> int:
    """How many rows to answer; raises RpcError (INVALID_ARGUMENT)."""
    if not 0 <= asked <= ROWS_MAX:
        raise invalid("limit", f"{asked} cannot be used: give 1 to {ROWS_MAX}, or 0 for {ROWS_DEFAULT}")
    return asked or ROWS_DEFAULT


def get_costs(reads: Reads, selection: Selection, group_by: Sequence[str], limit: int) -> Spent:
    """What was spent. Blocks: call it in a thread."""
    return costs_in(reads, of_attempts(selection), group_by, limit)


def costs_in(reads: Reads, where: Condition, group_by: Sequence[str] = (), limit: int = 1) -> Spent:
    """As `get_costs`, of the rows of `attempts` AS a for which a condition holds."""
    keys, given = _keys(group_by)
    joined = "JOIN runs AS r ON r.run = a.run" if any(_is_of_run(name) for name in group_by) else ""
    names = [f"k{number}" for number in range(len(keys))]
    columns = [f"{key} AS {name}" for key, name in zip(keys, names, strict=True)]
    measures = [f"{sql} AS {name}" for name, sql in _MEASURES.items()]
    order = ", ".join(["cost_nano DESC NULLS LAST", "unpriced DESC", *names])
    totals = [f"sum({name})" for name in _MEASURES]
    sql = f"""
        WITH parts AS MATERIALIZED (
            SELECT {", ".join([*columns, _PARTS])} FROM attempts AS a {joined}
            WHERE {COUNTED} AND {where.sql} GROUP BY {", ".join([*names, "a.price_table", "a.basis"])}),
        groups AS MATERIALIZED (
            SELECT {", ".join([*names, *measures])} FROM parts {f"GROUP BY {', '.join(names)}" if names else ""})
        SELECT count(*), (SELECT list(DISTINCT price_table) FROM parts), {", ".join([*["NULL"] * len(names), *totals])}
        FROM groups
        UNION ALL
        (SELECT -1, NULL, {", ".join([*names, *_MEASURES])} FROM groups ORDER BY {order} LIMIT ?)"""
    found = reads.read(sql, [*given, *where.values, limit if names else 0])
    ((groups, tables, *total),) = (values for values in found if values[0] >= 0)
    return Spent(
        rows=[_row(values[2:], group_by) for values in found if values[0] < 0],
        total=_row(total[len(names) :], ()),
        groups=groups if names else 0,
        price_tables=sorted(table for table in tables or () if table)[:TABLES_MAX],
        position=reads.tip.position,
    )


def _keys(group_by: Sequence[str]) -> tuple[list[str], list[object]]:
    """The SQL that each group is told by, and the values bound in it."""
    keys: list[str] = []
    given: list[object] = []
    for name in group_by:
        if name.startswith(_LABEL):
            keys.append("coalesce(json_extract_string(r.labels, ?), '')")
            given.append(label_path(name.removeprefix(_LABEL)))
        else:
            keys.append(_OF_TIME.get(name, f"{'r' if name in _OF_RUNS else 'a'}.{name}"))
    return keys, given


def _is_of_run(name: str) -> bool:
    return name in _OF_RUNS or name.startswith(_LABEL)


def _row(values: Sequence[Any], group_by: Sequence[str]) -> Costs:
    key = [_text(name, value) for name, value in zip(group_by, values, strict=False)]
    measured = dict(zip(_MEASURES, values[len(key) :], strict=True))
    sums = {name: None if value is None else min(int(value), SUM_MAX) for name, value in measured.items()}
    cost_nano, list_cost_nano = sums.pop("cost_nano"), sums.pop("list_cost_nano")
    if not sums["attempts"]:
        cost_nano = 0
    known = {name: value or 0 for name, value in sums.items()}
    return Costs(key=key, cost_nano=cost_nano, list_cost_nano=list_cost_nano, **known)


def _text(name: str, value: Any) -> str:
    match name:
        case "day":
            return (_EPOCH + timedelta(days=value)).isoformat()
        case "month":
            return str(value.isoformat()[:7])
        case _:
            return str(value)
