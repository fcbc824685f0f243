"""Which runs are meant, and in which order: filters, orders, and the SQL of both.

Runs are ordered by a column and, among equals, by where they were first mentioned in the log. `submitted_ns` orders by
that place alone: the clock of the log may have gone back, its positions have not. By `finished_ns`, either way, runs that
have not ended come last.

All functions block: call them in a thread.
"""

# ruff: noqa: S608 - columns, operators and directions come from this module; every value is bound
from typing import Final, Protocol

import msgspec

from services.ledger.projector import RunRow
from services.ledger.store import Reads, columns_of, rows_of

ORDERS: Final = ("submitted_ns", "finished_ns", "cost_nano", "attempts")
WINDOW: Final = 8
"""Runs that are looked at for one that used a tool, before all attempts are."""

_EVER_NS = 2**63 - 1


class Described(Protocol):
    """What of a run's row a filter looks at."""

    state: str
    repository: str
    actor: str
    tenant: str
    labels: str
    submitted_ns: int


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are meant; what is empty or 0 leaves it open, and so does None for `tenant`. All that is given must hold.

    `labels` are `key=value`, or `key` for any value. `since_ns` and `until_ns` (excluded) are about the submission.
    `tool`: one of its EDIT or FIX attempts was to use it.
    """

    state: str = ""
    repository: str = ""
    tool: str = ""
    labels: tuple[str, ...] = ()
    tenant: str | None = None
    actor: str = ""
    since_ns: int = 0
    until_ns: int = 0

    def matches(self, row: Described, *, in_any_state: bool = False) -> bool:
        """Whether a row is meant, as far as it can tell: not by its tools."""
        return (
            (in_any_state or self.state in ("", row.state))
            and self.repository in ("", row.repository)
            and self.tenant in (None, row.tenant)
            and self.actor in ("", row.actor)
            and self.since_ns <= row.submitted_ns < (self.until_ns or _EVER_NS)
            and all(_is_labelled(row.labels, label) for label in self.labels)
        )

    def where(self, *, in_any_state: bool = False) -> tuple[list[str], list[object]]:
        """The same as conditions on `runs`, and their values."""
        conditions: list[str] = []
        values: list[object] = []
        for column, value in (
            ("state", "" if in_any_state else self.state),
            ("repository", self.repository),
            ("actor", self.actor),
        ):
            if value:
                conditions.append(f"{column} = ?")
                values.append(value)
        if self.tenant is not None:
            conditions.append("tenant = ?")
            values.append(self.tenant)
        if self.since_ns:
            conditions.append("submitted_ns >= ?")
            values.append(self.since_ns)
        if self.until_ns:
            conditions.append("submitted_ns < ?")
            values.append(self.until_ns)
        for label in self.labels:
            first, later = _label_signs(label)
            conditions.append("(starts_with(labels, ?) OR contains(labels, ?))")
            values.extend((first, later))
        return conditions, values


def _label_signs(label: str) -> tuple[str, str]:
    """How a JSON object of texts begins whose first member is this label, and what any other holds that has it.

    A quote within a text is always escaped, so neither can stand anywhere else.
    """
    key, has_value, value = label.partition("=")
    sign = msgspec.json.encode(key).decode() + ":"
    if has_value:
        sign += msgspec.json.encode(value).decode()
    return "{" + sign, "," + sign


def _is_labelled(labels: str, label: str) -> bool:
    first, later = _label_signs(label)
    return labels.startswith(first) or later in labels


class RunOrder(msgspec.Struct, frozen=True, kw_only=True):
    """By which column, and which way."""

    column: str = "submitted_ns"
    descending: bool = True

    @property
    def key(self) -> str:
        """What it goes by, in SQL."""
        if self._ends_first:
            return f"CASE finished_ns WHEN 0 THEN {_EVER_NS} ELSE finished_ns END"
        return "first_position" if self.column == "submitted_ns" else self.column

    @property
    def _ends_first(self) -> bool:
        return self.column == "finished_ns" and not self.descending

    def cursor_of(self, row: RunRow) -> list[int]:
        """Where a run stands in this order."""
        if self._ends_first:
            return [row.finished_ns or _EVER_NS, row.first_position]
        return [getattr(row, self.key), row.first_position]

    def behind(self, cursor: tuple[int, int]) -> tuple[str, list[object]]:
        """The condition for what comes behind a place, and its values."""
        sign = "<" if self.descending else ">"
        if self.key == "first_position":
            return f"first_position {sign} ?", [cursor[1]]
        return f"({self.key} {sign} ? OR ({self.key} = ? AND first_position {sign} ?))", [cursor[0], *cursor]

    def sql(self) -> str:
        """As it stands behind ORDER BY."""
        way = "DESC" if self.descending else "ASC"
        return f"{self.key} {way}" + ("" if self.key == "first_position" else f", first_position {way}")


def parse_order(text: str) -> RunOrder:
    """An order as AIP-132 writes it: a field, then `asc` (default) or `desc`; empty: the newest first.

    Raises ValueError, which names the fields there are.
    """
    words = text.split()
    if not words:
        return RunOrder()
    if words[0] not in ORDERS or len(words) > 2 or words[1:] not in ([], ["asc"], ["desc"]):
        raise ValueError(f"{text[:80]!r} is no order: use one of {', '.join(ORDERS)}, alone or followed by ' desc'")
    return RunOrder(column=words[0], descending=words[1:] == ["desc"])


def list_runs(
    reads: Reads, wanted: RunFilter, order: RunOrder, *, behind: tuple[int, int] | None, limit: int
) -> list[RunRow]:
    """Runs that are meant, behind a place in that order."""
    if not wanted.tool:
        return _page(reads, wanted, order, behind=behind, limit=limit)
    # A tool that many runs use is found among the first ones; one that few use, among all attempts.
    window = limit * WINDOW
    places = _places(reads, wanted, order, behind=behind, limit=window)
    used = _using(reads, wanted.tool, places) if places else set()
    names = [place[0] for place in places if place[0] in used]
    if len(names) < limit and len(places) == window:
        names += _places_using(reads, wanted, order, behind=places[-1][1:3], limit=limit - len(names))
    sql = f"SELECT {columns_of(RunRow)} FROM runs WHERE run IN (SELECT unnest(?)) ORDER BY {order.sql()}"
    return rows_of(RunRow, reads.read(sql, [names[:limit]])) if names else []


def _places_using(
    reads: Reads, wanted: RunFilter, order: RunOrder, *, behind: tuple[int, int], limit: int
) -> list[str]:
    """The names of runs that are meant, their tool among it, behind a place in that order."""
    where, values = _meant(wanted, order, behind)
    sql = f"""
        SELECT run FROM runs
        WHERE {where} AND run IN (SELECT run FROM attempts WHERE tool = ? AND step IN ('edit', 'fix'))
        ORDER BY {order.sql()} LIMIT ?"""
    return [run for (run,) in reads.read(sql, [*values, wanted.tool, limit])]


def _page(
    reads: Reads, wanted: RunFilter, order: RunOrder, *, behind: tuple[int, int] | None, limit: int
) -> list[RunRow]:
    where, values = _meant(wanted, order, behind)
    sql = f"SELECT {columns_of(RunRow)} FROM runs WHERE {where} ORDER BY {order.sql()} LIMIT ?"
    return rows_of(RunRow, reads.read(sql, [*values, limit]))


def _places(
    reads: Reads, wanted: RunFilter, order: RunOrder, *, behind: tuple[int, int] | None, limit: int
) -> list[tuple[str, int, int, int]]:
    """Runs by name, each with its place in the order, and the position of its newest entry."""
    where, values = _meant(wanted, order, behind)
    sql = f"""
        SELECT run, {order.key}, first_position, position FROM runs WHERE {where} ORDER BY {order.sql()} LIMIT ?"""
    return [(run, key, first, last) for run, key, first, last in reads.read(sql, [*values, limit])]


def _meant(wanted: RunFilter, order: RunOrder, behind: tuple[int, int] | None) -> tuple[str, list[object]]:
    conditions, values = wanted.where()
    if behind is not None:
        condition, more = order.behind(behind)
        conditions.append(condition)
        values += more
    return " AND ".join(conditions) or "true", values


def _using(reads: Reads, tool: str, places: list[tuple[str, int, int, int]]) -> set[str]:
    """Those of some runs of which an EDIT or FIX attempt was to use a tool."""
    first, last = min(place[2] for place in places), max(place[3] for place in places)
    sql = """
        SELECT DISTINCT run FROM attempts
        WHERE scheduled_position BETWEEN ? AND ? AND tool = ? AND step IN ('edit', 'fix')
            AND run IN (SELECT unnest(?))"""
    return {run for (run,) in reads.read(sql, [first, last, tool, [place[0] for place in places]])}


def changed_runs(reads: Reads, wanted: RunFilter, *, after: int, limit: int) -> tuple[list[tuple[RunRow, bool]], int]:
    """Runs with entries behind a position, those whose newest entry is oldest first, and how far that goes.

    Each that is meant; and, if a state is asked for, each that has left it since then, marked so.
    """
    conditions, values = wanted.where(in_any_state=True)
    found = reads.read(
        f"""
        SELECT meta.position, r.* FROM meta LEFT JOIN (
            SELECT {columns_of(RunRow)} FROM runs WHERE {" AND ".join(["position > ?", *conditions])}
            ORDER BY position LIMIT ?) AS r ON true
        ORDER BY r.position""",
        [after, *values, limit],
    )
    rows = rows_of(RunRow, [row[1:] for row in found if row[1] is not None])
    reached = rows[-1].position if len(rows) == limit else found[0][0]
    left: set[str] = set()
    if elsewhere := [row.run for row in rows if not wanted.matches(row)]:
        sql = """
            SELECT DISTINCT run FROM transitions
            WHERE position > ? AND workstream = '' AND from_state = ? AND run IN (SELECT unnest(?))"""
        left = {run for (run,) in reads.read(sql, [after, wanted.state, elsewhere])}
    told = [
        (row, False) if wanted.matches(row) else (row, True) for row in rows if wanted.matches(row) or row.run in left
    ]
    return told, max(reached, after)


def present_runs(reads: Reads, wanted: RunFilter, *, after: int, limit: int) -> list[RunRow]:
    """Runs that are meant and were first mentioned behind a position, the oldest first."""
    order = RunOrder(descending=False)
    return _page(reads, wanted, order, behind=(after, after), limit=limit)
