"""What costs and metrics look at: filters over runs and attempts, checked, and as conditions of SQL."""

import re

import msgspec

from services.labels import key_problem, labels_problem, tenant_problem
from services.rpc import invalid

TEXT_CHARACTERS_MAX = 4096

_RUN = re.compile(r"[A-Za-z0-9_-]{1,128}")

AT = "CASE WHEN a.closed_ns > 0 THEN a.closed_ns ELSE a.scheduled_ns END"
"""When an attempt counts, in nanoseconds: its close; an open one, of which something was told, when it was scheduled."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Filters that must all hold; '' and 0 leave one open, and so does None for `tenant`."""

    run: str = ""
    tool: str = ""
    provider: str = ""
    model: str = ""
    repository: str = ""
    labels: dict[str, str] = {}
    tenant: str | None = None
    since_ns: int = 0
    until_ns: int = 0


class Condition(msgspec.Struct, frozen=True):
    """SQL that holds for what is selected, `true` for everything, and the values it is given in order."""

    sql: str
    values: list[object]


def checked(selection: Selection) -> Selection:
    """The selection, if it can be asked for; raises RpcError (INVALID_ARGUMENT) naming the field."""
    if selection.run and not _RUN.fullmatch(selection.run):
        raise invalid("selection.run", f"{selection.run[:80]!r} is no run id: use 1 to 128 letters, digits, '-' or '_'")
    for field in ("tool", "provider", "model", "repository"):
        if len(getattr(selection, field)) > TEXT_CHARACTERS_MAX:
            raise invalid(f"selection.{field}", f"is too long: use at most {TEXT_CHARACTERS_MAX} characters")
    if problem := labels_problem(selection.labels):
        raise invalid("selection.labels", problem)
    if problem := tenant_problem(selection.tenant or ""):
        raise invalid("selection.tenant", problem)
    if selection.since_ns < 0 or selection.until_ns < 0:
        raise invalid("selection.since_ns", "times are nanoseconds since 1970, 0 or more")
    if 0 < selection.until_ns <= selection.since_ns:
        raise invalid("selection.until_ns", "is not after since_ns: swap the two")
    return selection


def of_runs(selection: Selection, alias: str = "r") -> Condition:
    """What holds for the rows of `runs` that are selected, but for the times."""
    sql, values = _equal(selection, ("run", "repository"), alias)
    if selection.tenant is not None:
        sql.append(f"{alias}.tenant = ?")
        values.append(selection.tenant)
    for key, value in selection.labels.items():
        sql.append(f"json_extract_string({alias}.labels, ?) = ?")
        values.extend((label_path(key), value))
    return Condition(" AND ".join(sql) or "true", values)


def of_attempts(selection: Selection) -> Condition:
    """What holds for the rows of `attempts` AS a that are selected."""
    sql, values = _equal(selection, ("run", "tool", "provider", "model"), "a")
    if selection.since_ns:
        sql.append(f"{AT} >= ?")
        values.append(selection.since_ns)
    if selection.until_ns:
        sql.append(f"{AT} < ?")
        values.append(selection.until_ns)
    runs = of_runs(msgspec.structs.replace(selection, run=""))
    if runs.values:
        sql.append(f"a.run IN (SELECT r.run FROM runs AS r WHERE {runs.sql})")  # noqa: S608 - made here; values are bound
        values.extend(runs.values)
    return Condition(" AND ".join(sql) or "true", values)


def label_path(key: str) -> str:
    """The JSON path of a label in `runs.labels`; raises ValueError for what is no label's key."""
    if problem := key_problem(key):
        raise ValueError(problem)
    return f'$."{key}"'


def _equal(selection: Selection, fields: tuple[str, ...], alias: str) -> tuple[list[str], list[object]]:
    given = [(field, value) for field in fields if (value := getattr(selection, field))]
    return [f"{alias}.{field} = ?" for field, _ in given], [value for _, value in given]
