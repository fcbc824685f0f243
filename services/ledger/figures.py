"""What runs came to: outcomes, durations, waits, repairs, the use of workers, and what determined how long they took.

Everything is a function of the ledger's rows of one commit, and of the run's definition where that can be read. A number
that they do not tell is None.
"""

# ruff: noqa: S608 - columns and expressions come from this module; every value is bound
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from services.events import LINE, Artifact
from services.ledger.costs import COUNTED, Costs, costs_in
from services.ledger.critical_path import Link, Ran, critical_path
from services.ledger.selection import Condition, Selection, of_runs
from services.ledger.store import Reads
from services.rpc import invalid

ATTEMPTS_MAX: Final = 200_000
"""Attempts of one run that a critical path is looked for in."""

ROWS_MAX: Final = 1000
"""Rows of each list: tools, pools and classes of errors are few."""

_QUANTILES = "[0.5, 0.9, 0.95, 0.99]"
_SETTLED = "('completed', 'failed', 'compensating', 'compensated', 'compensation_failed')"
_COMPLETED = "('completed', 'compensating', 'compensated', 'compensation_failed')"
_RAN = "a.started_ns > 0 AND a.closed_ns > 0"


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took; see Durations in the protocol."""

    step: str = ""
    name: str = ""
    count: int
    total_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float


class ToolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool achieved; see ToolFigures in the protocol."""

    tool: str
    workstreams: int
    completed: int
    first_pass: int
    fix_attempts: int
    cost_nano: int | None
    attempts: int
    unpriced: int


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened."""

    name: str
    reason: str = ""
    count: int


class BudgetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands to its budget, in nano-dollars."""

    status: Literal["ok", "warning", "exceeded"]
    limit_nano: int
    spent_nano: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What runs came to; see GetMetricsResponse in the protocol."""

    runs: int
    total_workstreams: int
    successful: int
    failed: int
    total_duration_sec: float
    avg_duration_sec: float | None
    wall_s: float | None
    workers: int | None
    parallelism_efficiency: float | None
    worker_utilization: float | None
    utilization_basis: str
    peak_parallelism: int | None
    wave_count: int
    avg_wave_duration_sec: float | None
    single_waves: int
    tools: list[ToolFigures]
    durations: list[Durations]
    queue_waits: list[Durations]
    mean_fix_attempts: float | None
    fix_attempts: list[Count]
    breaker_trips: list[Count]
    merge_conflicts: int
    gate_failures: int
    errors: list[Count]
    recoveries: list[Count]
    flaky_gates: list[Count]
    contexts: list[Count]
    budget: BudgetFigures | None
    costs: Costs
    critical_path: list[Link]
    position: int


class _Bundle(msgspec.Struct, frozen=True):
    id: str
    depends_on: list[str] = []


class _Options(msgspec.Struct, frozen=True):
    max_workers: int = 4
    scheduling: str = "barrier"
    budget_nano: int | None = None


class Definition(msgspec.Struct, frozen=True):
    """As much of a run's definition (services/spec.py) as figures need."""

    bundles: list[_Bundle] = []
    options: _Options = _Options()


class _Defined(msgspec.Struct, frozen=True):
    spec: Artifact


class _Span(msgspec.Struct, frozen=True):
    """The runs that are looked at: how many, from when to when, and where in the log."""

    runs: int
    workstreams: int
    completed: int
    failed: int
    begin_ns: int
    end_ns: int
    first_position: int
    position: int


_definition = msgspec.json.Decoder(Definition)
_event = msgspec.json.Decoder(dict[str, Any])
_defined = msgspec.json.Decoder(_Defined)


def for_runs(selection: Selection) -> Selection:
    """The selection, if runs can be told by it; raises RpcError (INVALID_ARGUMENT)."""
    for field in ("tool", "provider", "model"):
        if getattr(selection, field):
            raise invalid(f"selection.{field}", "selects attempts, not runs: leave it out, or ask GetCosts")
    return selection


def definition_of(store: Reads, run: str) -> Artifact | None:
    """Where a run's definition is; None when there is no such run. Blocks: call it in a thread."""
    bounds = store.read("SELECT first_position, position FROM runs WHERE run = ?", [run])
    if not bounds:
        return None
    # The bounds as values let whole row groups be skipped.
    found = store.read(
        """SELECT payload FROM events WHERE position BETWEEN ? AND ? AND run = ?
            AND kind IN ('run_requested', 'run_accepted', 'run_amended') ORDER BY position DESC, idx DESC LIMIT 1""",
        [*bounds[0], run],
    )
    try:
        return _defined.decode(found[0][0]).spec if found else None
    except msgspec.MsgspecError:
        return None


def read_definition(data: bytes) -> Definition | None:
    """What a definition's bytes say; None when they are not one."""
    try:
        return _definition.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def get_figures(tables: Reads, selection: Selection, definition: Definition | None = None) -> Figures | None:
    """What the selected runs came to; None when one run is asked for and not there. Blocks: call it in a thread.

    `definition` is that of the run, where one is asked for.
    """
    return _Reading(tables, selection, definition).figures()


class _Reading:
    """One answer, of one commit."""

    def __init__(self, snapshot: Reads, selection: Selection, definition: Definition | None) -> None:
        self._snapshot = snapshot
        self._one = bool(selection.run)
        self._run = selection.run
        self._definition = definition
        runs = of_runs(selection)
        times = [
            (f"r.submitted_ns {sign} ?", at)
            for sign, at in ((">=", selection.since_ns), ("<", selection.until_ns))
            if at
        ]
        self._runs = Condition(
            " AND ".join([runs.sql, *(sql for sql, _ in times)]), [*runs.values, *(at for _, at in times)]
        )
        self._span = self._spanned()

    def figures(self) -> Figures | None:
        span = self._span
        if self._one and not span.runs:
            return None
        busy_s = self._value(f"sum(a.closed_ns - a.started_ns) FILTER ({_RAN} AND a.workstream <> '{LINE}')") / 1e9
        wall_s = (span.end_ns - span.begin_ns) / 1e9 if self._one else None
        workers = self._definition.options.max_workers if self._one and self._definition is not None else None
        utilization, basis = self._utilization(workers)
        conflicts, red = self._line()
        mean_fixes, fixes = self._fixes()
        noted = self._noted()
        waves = self._waves()
        return Figures(
            runs=span.runs,
            total_workstreams=span.workstreams,
            successful=span.completed,
            failed=span.failed,
            total_duration_sec=busy_s,
            avg_duration_sec=busy_s / span.workstreams if span.workstreams else None,
            wall_s=wall_s,
            workers=workers,
            parallelism_efficiency=busy_s / (wall_s * workers) if wall_s and workers else None,
            worker_utilization=utilization,
            utilization_basis=basis,
            peak_parallelism=self._peak(),
            wave_count=waves[0],
            avg_wave_duration_sec=waves[1],
            single_waves=waves[2],
            tools=self._tools(),
            durations=self._durations(
                "a.step", "a.tool", "a.closed_ns - a.started_ns", f"{_RAN} AND a.state = 'finished'"
            ),
            queue_waits=self._durations("''", "a.pool", "a.started_ns - a.scheduled_ns", "a.started_ns > 0"),
            mean_fix_attempts=mean_fixes,
            fix_attempts=fixes,
            breaker_trips=[*self._fix_limits(), *self._tool_breakers()],
            merge_conflicts=conflicts,
            gate_failures=red,
            errors=self._counted(
                "CASE WHEN a.error_class = '' THEN a.state ELSE a.error_class END",
                "a.step",
                "a.closed_ns > 0 AND NOT a.ok",
            ),
            recoveries=noted["recovery_chosen"],
            flaky_gates=noted["gate_flaked"],
            contexts=self._counted("a.context", "''", "a.context <> ''"),
            budget=self._budget() if self._one else None,
            costs=costs_in(self._snapshot, self._of_attempts()).total,
            critical_path=self._critical_path() if self._one else [],
            position=self._snapshot.tip.position,
        )

    # Which rows

    def _of_attempts(self, alias: str = "a") -> Condition:
        if self._one and self._runs.sql == "r.run = ?":
            return Condition(f"{alias}.run = ?", [self._run])
        return Condition(f"{alias}.run IN (SELECT r.run FROM runs AS r WHERE {self._runs.sql})", self._runs.values)

    def _attempts(self, columns: str, more: str = "", values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Columns of the selected attempts; `more` follows the condition."""
        where = self._of_attempts()
        return self._snapshot.read(
            f"SELECT {columns} FROM attempts AS a WHERE {where.sql} {more}", [*where.values, *values]
        )

    def _value(self, expression: str) -> int:
        return int(self._attempts(expression)[0][0] or 0)

    def _spanned(self) -> _Span:
        (newest_ns,) = self._snapshot.read(
            "SELECT coalesce(max(time_ns), 0) FROM entries WHERE position = (SELECT position FROM meta)"
        )[0]
        found = self._snapshot.read(
            f"""SELECT count(*), coalesce(sum(r.workstreams), 0), coalesce(sum(r.completed), 0),
                coalesce(sum(r.failed + r.blocked + r.cancelled), 0), coalesce(min(r.submitted_ns), 0),
                coalesce(max(CASE WHEN r.finished_ns > 0 THEN r.finished_ns ELSE ? END), 0),
                coalesce(min(r.first_position), 0), coalesce(max(r.position), 0)
                FROM runs AS r WHERE {self._runs.sql}""",
            [newest_ns, *self._runs.values],
        )[0]
        span = _Span(*(int(value) for value in found))
        return msgspec.structs.replace(span, end_ns=max(span.begin_ns, span.end_ns))

    # Durations

    def _durations(self, step: str, name: str, time_ns: str, where: str) -> list[Durations]:
        rows = self._attempts(
            f"""{step}, {name}, count(*), sum({time_ns}) / 1e9, quantile_cont(({time_ns}) / 1e9, {_QUANTILES}),
                max({time_ns}) / 1e9""",
            f"AND {where} AND {time_ns} >= 0 GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2 LIMIT {ROWS_MAX}",
        )
        return [
            Durations(
                step=row[0], name=row[1], count=row[2], total_s=row[3], max_s=row[5],
                p50_s=row[4][0], p90_s=row[4][1], p95_s=row[4][2], p99_s=row[4][3],
            )
            for row in rows
        ]  # fmt: skip

    def _peak(self) -> int | None:
        """The most that ran at a time: at one instant, what ends is counted before what begins."""
        where = self._of_attempts()
        found = self._snapshot.read(
            f"""WITH edges AS (
                SELECT unnest([a.started_ns, a.closed_ns]) AS edge_ns, unnest([1, -1]) AS change
                FROM attempts AS a WHERE {_RAN} AND {where.sql})
            SELECT max(running) FROM (SELECT sum(change) OVER (ORDER BY edge_ns, change ROWS UNBOUNDED PRECEDING) AS running FROM edges)""",
            where.values,
        )
        return None if found[0][0] is None else int(found[0][0])

    def _utilization(self, workers: int | None) -> tuple[float | None, str]:
        """The busy part of the slots' time, and what the slots are; None when neither executors nor workers are known."""
        span = self._span
        if span.end_ns <= span.begin_ns:
            return None, ""
        own = self._attempts("a.executor, a.pool, min(a.started_ns)", "AND a.started_ns > 0 GROUP BY 1, 2")
        if not own:
            return None, ""
        pools = sorted({pool for _, pool, _ in own})
        known = self._snapshot.read(
            f"""SELECT executor, slots, started_ns, terminated_ns FROM executors
                WHERE pool IN ({", ".join("?" * len(pools))}) AND slots > 0 AND started_ns > 0""",
            pools,
        )
        since = {executor: started_ns for executor, _, started_ns, _ in known}
        if all(since.get(executor, span.end_ns) <= first_ns for executor, _, first_ns in own):
            slot_ns = sum(
                slots * max(0, min(ended_ns or span.end_ns, span.end_ns) - max(started_ns, span.begin_ns))
                for _, slots, started_ns, ended_ns in known
            )
            return (self._busy_ns(sorted(since)) / slot_ns, "executors") if slot_ns else (None, "")
        if workers is None:
            return None, ""
        busy_ns = self._value(f"sum(a.closed_ns - a.started_ns) FILTER ({_RAN})")
        return busy_ns / ((span.end_ns - span.begin_ns) * workers), "max_workers"

    def _busy_ns(self, executors: list[str]) -> int:
        """How long attempts of any run ran on these executors while the selected runs did."""
        begin_ns, end_ns = self._span.begin_ns, self._span.end_ns
        found = self._snapshot.read(
            f"""SELECT sum(least(CASE WHEN closed_ns > 0 THEN closed_ns ELSE ? END, ?) - greatest(started_ns, ?)) FROM attempts
                WHERE executor IN ({", ".join("?" * len(executors))}) AND started_ns BETWEEN 1 AND ?
                AND (closed_ns = 0 OR closed_ns > ?)""",
            [end_ns, end_ns, begin_ns, *executors, end_ns, begin_ns],
        )
        return int(found[0][0] or 0)

    # Outcomes

    def _waves(self) -> tuple[int, float | None, int]:
        where = self._of_attempts("w")
        count, mean, single = self._snapshot.read(
            f"""SELECT count(*), avg(w.finished_ns - w.started_ns) FILTER (w.finished_ns > 0) / 1e9,
                count(*) FILTER (w.workstreams = 1) FROM waves AS w WHERE {where.sql}""",
            where.values,
        )[0]
        return count, mean, single

    def _tools(self) -> list[ToolFigures]:
        where = self._of_attempts()
        whose = self._of_attempts("w")
        rows = self._snapshot.read(
            f"""WITH did AS (
                SELECT a.run, a.workstream, arg_min(a.tool, a.attempt) FILTER (a.step = 'edit') AS tool,
                    count(*) FILTER (a.step = 'edit' AND a.state = 'finished' AND NOT a.ok) AS failed_edits,
                    count(*) FILTER (a.step = 'fix') AS fixes, sum(a.cost_nano) AS cost_nano,
                    count(*) FILTER {COUNTED} AS attempts, count(*) FILTER {COUNTED} - count(a.cost_nano) AS unpriced
                FROM attempts AS a WHERE a.step IN ('edit', 'fix') AND {where.sql} GROUP BY ALL)
            SELECT did.tool, count(*), count(*) FILTER (w.state IN {_COMPLETED}),
                count(*) FILTER (w.state IN {_COMPLETED} AND did.failed_edits = 0 AND did.fixes = 0), sum(did.fixes),
                CASE WHEN sum(did.attempts) = 0 THEN 0 ELSE sum(did.cost_nano) END, sum(did.attempts), sum(did.unpriced)
            FROM did JOIN workstreams AS w ON w.run = did.run AND w.workstream = did.workstream
            WHERE did.tool <> '' AND w.state IN {_SETTLED} AND {whose.sql}
            GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {ROWS_MAX}""",
            [*where.values, *whose.values],
        )
        return [
            ToolFigures(
                tool=tool, workstreams=count, completed=completed, first_pass=first, fix_attempts=int(fixes),
                cost_nano=None if cost is None else int(cost), attempts=int(attempts), unpriced=int(unpriced),
            )
            for tool, count, completed, first, fixes, cost, attempts, unpriced in rows
        ]  # fmt: skip

    def _fixes(self) -> tuple[float | None, list[Count]]:
        where = self._of_attempts("w")
        rows = self._snapshot.read(
            f"""SELECT w.fix_iterations, count(*) FROM workstreams AS w
                WHERE w.state IN {_SETTLED} AND w.attempts > 0 AND {where.sql} GROUP BY 1 ORDER BY 1 LIMIT {ROWS_MAX}""",
            where.values,
        )
        total = sum(count for _, count in rows)
        mean = sum(fixes * count for fixes, count in rows) / total if total else None
        return mean, [Count(name=str(fixes), count=count) for fixes, count in rows]

    def _fix_limits(self) -> list[Count]:
        where = self._of_attempts("w")
        rows = self._snapshot.read(
            f"""SELECT w.fix_limit, count(*) FROM workstreams AS w WHERE w.fix_limit <> '' AND {where.sql}
                GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {ROWS_MAX}""",
            where.values,
        )
        return [Count(name="fix_loop", reason=limit, count=count) for limit, count in rows]

    def _tool_breakers(self) -> list[Count]:
        """Breakers of tools that the runs used, opened while they ran."""
        used = [tool for (tool,) in self._attempts("DISTINCT a.tool", f"AND a.tool <> '' ORDER BY 1 LIMIT {ROWS_MAX}")]
        if not used:
            return []
        rows = self._snapshot.read(
            f"""SELECT tool, coalesce(json_extract_string(payload, '$.error_class'), 'unknown'), count(*) FROM events
                WHERE run = 'fleet' AND kind = 'tool_breaker_opened' AND time_ns BETWEEN ? AND ?
                AND tool IN ({", ".join("?" * len(used))}) GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {ROWS_MAX}""",
            [self._span.begin_ns, self._span.end_ns, *used],
        )
        return [Count(name=tool, reason=reason, count=count) for tool, reason, count in rows]

    def _line(self) -> tuple[int, int]:
        """Merges that conflicted, and gates that were red."""
        conflicts, red = self._attempts(
            "count(*) FILTER (a.step = 'merge' AND a.error_class = 'merge_conflict'),"
            "count(*) FILTER (a.step = 'gate' AND a.state = 'finished' AND a.error_class = 'check_failed')"
        )[0]
        return conflicts, red

    def _counted(self, name: str, reason: str, where: str) -> list[Count]:
        rows = self._attempts(
            f"{name}, {reason}, count(*)", f"AND {where} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {ROWS_MAX}"
        )
        return [Count(name=name, reason=reason, count=count) for name, reason, count in rows]

    def _noted(self) -> dict[str, list[Count]]:
        """What only events tell: strategies of recovery, and flaky gates."""
        where = self._of_attempts("e")
        rows = self._snapshot.read(
            f"""SELECT e.kind, coalesce(json_extract_string(e.payload, CASE e.kind WHEN 'gate_flaked' THEN '$.gate'
                    ELSE '$.strategy' END), ''), count(*) FROM events AS e
                WHERE e.position BETWEEN ? AND ? AND e.kind IN ('recovery_chosen', 'gate_flaked') AND {where.sql}
                GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {ROWS_MAX}""",
            [self._span.first_position, self._span.position, *where.values],
        )
        found: dict[str, list[Count]] = {"recovery_chosen": [], "gate_flaked": []}
        for kind, name, count in rows:
            found[kind].append(Count(name=name, count=count))
        return found

    def _budget(self) -> BudgetFigures | None:
        changed = self._snapshot.read(
            """SELECT payload FROM events WHERE position BETWEEN ? AND ? AND run = ? AND kind = 'budget_changed'
                ORDER BY position DESC, idx DESC LIMIT 1""",
            [self._span.first_position, self._span.position, self._run],
        )
        if changed:
            limit = _event.decode(changed[0][0]).get("limit_nano")
        else:
            limit = self._definition.options.budget_nano if self._definition is not None else None
        if not isinstance(limit, int):
            return None
        ((spent,),) = self._snapshot.read("SELECT cost_nano FROM runs WHERE run = ?", [self._run])
        status: Literal["ok", "warning", "exceeded"] = "ok"
        if spent * 10 >= limit * 8:
            status = "exceeded" if spent >= limit else "warning"
        return BudgetFigures(status=status, limit_nano=limit, spent_nano=spent)

    def _critical_path(self) -> list[Link]:
        rows = self._snapshot.read(
            """SELECT a.workstream, a.attempt, a.step, a.tool, a.scheduled_ns, a.started_ns, a.closed_ns, a.on_behalf,
                coalesce(w.wave, -1) FROM attempts AS a
                LEFT JOIN workstreams AS w ON w.run = a.run AND w.workstream = a.workstream
                WHERE a.run = ? AND a.closed_ns > 0 LIMIT ?""",
            [self._run, ATTEMPTS_MAX + 1],
        )
        if not rows or len(rows) > ATTEMPTS_MAX:
            return []
        known = self._definition
        eager = known is not None and known.options.scheduling == "eager"
        dependencies = {bundle.id: bundle.depends_on for bundle in known.bundles} if known is not None and eager else {}
        return critical_path([Ran(*row) for row in rows], self._span.begin_ns, self._span.end_ns, dependencies)
