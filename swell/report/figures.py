"""What a run came to, in figures: of its workstreams, waves, attempts, money and failures. Pure: time is handed in.

The definitions, which docs/report.md repeats for people:

* A workstream *takes* from its first attempt to its end, or until now. It *works* while one of its attempts is claimed and
  open, and *queues* while one is scheduled and nobody has claimed it.
* First pass: a workstream completed without FIX and without a recovery; it counts for the tool of its first EDIT.

Utilisation and critical path are the ledger's (docs/costs.md), and handed in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

import msgspec

from services.events import LINE, TERMINAL_WORKSTREAM
from swell.values import Attempt, CriticalLink, Metrics, Run, Wave, Workstream

AI_STEPS: Final = frozenset({"edit", "fix"})
STEPS: Final = ("edit", "static", "runtime", "fix", "merge", "gate", "deliver", "compensate")
UNSAID: Final = "not said"
"""Of a group: the attempts that did not tell."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What attempts cost, in nano-dollars, and the tokens they used. `unpriced` of them have an unknown cost, not counted."""

    attempts: int = 0
    cost_nano: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, attempts: Iterable[Attempt]) -> Self:
        """The sum over attempts."""
        found = list(attempts)
        return cls(
            attempts=len(found),
            cost_nano=sum(one.cost_nano or 0 for one in found),
            unpriced=sum(is_unpriced(one) for one in found),
            input_tokens=sum(one.input_tokens for one in found),
            cache_read_tokens=sum(one.cache_read_tokens for one in found),
            cache_write_tokens=sum(one.cache_write_tokens for one in found),
            output_tokens=sum(one.output_tokens for one in found),
        )

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens + self.output_tokens


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Lengths of time, in seconds: true quantiles, between neighbours by proportion."""

    count: int
    total_s: float
    p50_s: float
    p95_s: float
    max_s: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """That of these lengths; all zero when there are none."""
        found = sorted(seconds)
        if not found:
            return cls(count=0, total_s=0.0, p50_s=0.0, p95_s=0.0, max_s=0.0)
        return cls(
            count=len(found),
            total_s=sum(found),
            p50_s=_quantile(found, 0.5),
            p95_s=_quantile(found, 0.95),
            max_s=found[-1],
        )


class StepFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of one step: how many succeeded, failed, and did neither (cancelled, lost or open); how long they worked."""

    step: str
    ok: int
    failed: int
    other: int
    work: Spread


class WorkstreamFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One workstream. Times are nanoseconds of the log, 0 for not yet; lengths are seconds.

    `tools` and `models` are those of its EDIT and FIX attempts, in the order of their first use; `why` is what it waits
    for, what it is at, or why it is as it is.
    """

    item: Workstream
    attempts: list[Attempt]
    started_ns: int
    ended_ns: int
    took_s: float
    worked_s: float
    queued_s: float
    spent: Spent
    tools: list[str]
    models: list[str]
    why: str


class WaveFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One wave: `ended` of its workstreams are settled, `completed` of them well; `slowest` took longest, "" for none."""

    wave: int
    started_ns: int
    finished_ns: int
    took_s: float
    workstreams: int
    completed: int
    ended: int
    slowest: str
    slowest_s: float


class ErrorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that are the same by their signature, or, where they have none, by their class. `message` is the newest."""

    signature: str
    error_class: str
    steps: list[str]
    message: str
    count: int
    workstreams: list[str]
    first_ns: int
    last_ns: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that has failed; `mended`: what it was for has completed nevertheless."""

    attempt: Attempt
    mended: bool


class FirstPass(msgspec.Struct, frozen=True, kw_only=True):
    """Of a tool's workstreams that have ended, how many completed without FIX or recovery, and how many FIX all had."""

    tool: str
    passed: int
    ended: int
    fixes: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `by_*` are names with what was spent, the dearest first; each of them adds up to `spent`.

    `workers` is 0 for not known; `utilisation_basis` says what slots it is of.
    """

    took_s: float
    workers: int
    workstreams: list[WorkstreamFigures]
    waves: list[WaveFigures]
    line: list[Attempt]
    steps: list[StepFigures]
    queue: Spread
    utilisation: float | None
    utilisation_basis: str
    first_pass: list[FirstPass]
    critical_path: list[CriticalLink]
    spent: Spent
    by_tool: list[tuple[str, Spent]]
    by_model: list[tuple[str, Spent]]
    by_step: list[tuple[str, Spent]]
    by_basis: list[tuple[str, Spent]]
    failures: list[Failure]
    errors: list[ErrorGroup]


def is_unpriced(attempt: Attempt) -> bool:
    """Whether a tool that costs something worked and ended, and nobody knows what that has cost."""
    is_done = bool(attempt.started_ns and attempt.closed_ns)
    return bool(attempt.cap) and is_done and attempt.cost_nano is None


def worked_s(attempt: Attempt, now_ns: int) -> float:
    """Seconds from its claim to its close, or until now."""
    return _between(attempt.started_ns, attempt.closed_ns or now_ns) if attempt.started_ns else 0.0


def queued_s(attempt: Attempt, now_ns: int) -> float:
    """Seconds from its scheduling to its claim, to its close where nobody claimed it, or until now."""
    return _between(attempt.scheduled_ns, attempt.started_ns or attempt.closed_ns or now_ns)


def has_failed(attempt: Attempt) -> bool:
    """Whether it was closed for a reason that is its own: not one that somebody cancelled."""
    return bool(attempt.closed_ns) and not attempt.ok and attempt.state != "cancelled"


def failures(workstreams: Sequence[Workstream], attempts: Sequence[Attempt]) -> list[Failure]:
    """What has failed: first what nothing has mended, each time the newest first."""
    completed = {item.workstream for item in workstreams if item.state == "completed"}
    found = [
        Failure(attempt=attempt, mended=(attempt.on_behalf or attempt.workstream) in completed)
        for attempt in reversed(attempts)
        if has_failed(attempt)
    ]
    return sorted(found, key=lambda failure: failure.mended)


def figures(
    run: Run,
    workstreams: Sequence[Workstream],
    attempts: Sequence[Attempt],
    waves: Sequence[Wave],
    *,
    now_ns: int,
    workers: int = 0,
    metrics: Metrics | None = None,
) -> Figures:
    """The figures of a run at a time; without `metrics` they lack utilisation and critical path."""
    of_each: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        of_each[attempt.workstream].append(attempt)
    rows = [_workstream(item, of_each[item.workstream], now_ns) for item in workstreams]
    took_s = _between(run.submitted_ns, run.finished_ns or now_ns)
    costly = [attempt for attempt in attempts if _costs(attempt)]
    return Figures(
        took_s=took_s,
        workers=workers,
        workstreams=rows,
        waves=[_wave(wave, rows, now_ns) for wave in waves],
        line=of_each.get(LINE, []),
        steps=_steps(attempts, now_ns),
        queue=Spread.of(queued_s(attempt, now_ns) for attempt in attempts if attempt.started_ns),
        utilisation=metrics.worker_utilization if metrics else None,
        utilisation_basis=metrics.utilization_basis if metrics else "",
        first_pass=_first_pass(rows),
        critical_path=metrics.critical_path if metrics else [],
        spent=Spent.of(costly),
        by_tool=_grouped(costly, lambda attempt: attempt.tool),
        by_model=_grouped(costly, _model),
        by_step=_grouped(costly, lambda attempt: attempt.step),
        by_basis=_grouped(costly, lambda attempt: attempt.basis),
        failures=failures(workstreams, attempts),
        errors=_errors(attempts),
    )


def worth_a_row(rows: Sequence[WorkstreamFigures], most: int) -> list[WorkstreamFigures]:
    """At most so many, in their order: what has not completed rather than what has, then what took longest."""
    if len(rows) <= most:
        return list(rows)
    kept = sorted(rows, key=lambda row: (row.item.state == "completed", -row.took_s))[:most]
    names = {row.item.workstream for row in kept}
    return [row for row in rows if row.item.workstream in names]


def _costs(attempt: Attempt) -> bool:
    return attempt.cost_nano is not None or is_unpriced(attempt) or Spent.of([attempt]).tokens > 0


def _model(attempt: Attempt) -> str:
    return f"{attempt.provider}/{attempt.model}" if attempt.provider and attempt.model else attempt.model


def _grouped(attempts: Iterable[Attempt], name_of: Callable[[Attempt], str]) -> list[tuple[str, Spent]]:
    groups: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[name_of(attempt) or UNSAID].append(attempt)
    spent = [(name, Spent.of(group)) for name, group in groups.items()]
    return sorted(spent, key=lambda row: (-row[1].cost_nano, -row[1].tokens, row[0]))


def _workstream(item: Workstream, attempts: list[Attempt], now_ns: int) -> WorkstreamFigures:
    ended_ns = item.finished_ns if item.state in TERMINAL_WORKSTREAM else 0
    made = [attempt for attempt in attempts if attempt.step in AI_STEPS]
    return WorkstreamFigures(
        item=item,
        attempts=attempts,
        started_ns=item.started_ns,
        ended_ns=ended_ns,
        took_s=_between(item.started_ns, ended_ns or now_ns) if item.started_ns else 0.0,
        worked_s=sum(worked_s(attempt, now_ns) for attempt in attempts),
        queued_s=sum(queued_s(attempt, now_ns) for attempt in attempts),
        spent=Spent.of(attempts),
        tools=list(dict.fromkeys(attempt.tool for attempt in made if attempt.tool)),
        models=list(dict.fromkeys(_model(attempt) for attempt in made if attempt.model)),
        why=_why(item, attempts),
    )


def _why(item: Workstream, attempts: Sequence[Attempt]) -> str:
    """In words, without times: those are rendered where they are shown."""
    if item.waiting_for:
        return f"waits for {item.waiting_for.replace('_', ' ')}: {item.waiting_reason}"
    if item.state in TERMINAL_WORKSTREAM or item.state == "awaiting_review":
        return item.reason
    newest = next((attempt for attempt in reversed(attempts) if not attempt.closed_ns), None)
    if newest is None:
        return item.reason
    if not newest.started_ns:
        return f"{newest.step} waits for a free slot" + (f" in pool {newest.pool}" if newest.pool else "")
    by = f" by {newest.tool}" if newest.tool else ""
    return f"{newest.step}{by} on {newest.executor}"


def _wave(wave: Wave, rows: Sequence[WorkstreamFigures], now_ns: int) -> WaveFigures:
    mine = [row for row in rows if row.item.wave == wave.wave]
    slowest = max(mine, key=lambda row: row.took_s, default=None)
    return WaveFigures(
        wave=wave.wave,
        started_ns=wave.started_ns,
        finished_ns=wave.finished_ns,
        took_s=_between(wave.started_ns, wave.finished_ns or now_ns),
        workstreams=wave.workstreams,
        completed=sum(row.item.state == "completed" for row in mine),
        ended=sum(row.item.state in TERMINAL_WORKSTREAM for row in mine),
        slowest=slowest.item.workstream if slowest and slowest.took_s else "",
        slowest_s=slowest.took_s if slowest else 0.0,
    )


def _steps(attempts: Iterable[Attempt], now_ns: int) -> list[StepFigures]:
    of_step: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        of_step[attempt.step].append(attempt)
    return [
        StepFigures(
            step=step,
            ok=sum(attempt.ok for attempt in of_step[step]),
            failed=sum(has_failed(attempt) for attempt in of_step[step]),
            other=sum(not attempt.ok and not has_failed(attempt) for attempt in of_step[step]),
            work=Spread.of(worked_s(attempt, now_ns) for attempt in of_step[step] if attempt.started_ns),
        )
        for step in sorted(of_step, key=lambda step: (STEPS.index(step) if step in STEPS else len(STEPS), step))
    ]


def _first_pass(rows: Iterable[WorkstreamFigures]) -> list[FirstPass]:
    of_tool: dict[str, list[WorkstreamFigures]] = defaultdict(list)
    for row in rows:
        tool = next((attempt.tool for attempt in row.attempts if attempt.step == "edit" and attempt.tool), "")
        if tool and row.item.state in {"completed", "failed"}:
            of_tool[tool].append(row)
    return [
        FirstPass(
            tool=tool,
            passed=sum(
                row.item.state == "completed" and not row.item.fix_iterations and not row.item.recoveries
                for row in mine
            ),
            ended=len(mine),
            fixes=sum(row.item.fix_iterations for row in mine),
        )
        for tool, mine in sorted(of_tool.items())
    ]


def _errors(attempts: Iterable[Attempt]) -> list[ErrorGroup]:
    groups: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        if has_failed(attempt):
            groups[attempt.signature, attempt.error_class or attempt.state].append(attempt)
    found = [
        ErrorGroup(
            signature=signature,
            error_class=error_class,
            steps=list(dict.fromkeys(attempt.step for attempt in group)),
            message=max(group, key=lambda attempt: attempt.closed_ns).message,
            count=len(group),
            workstreams=[
                name for name, _ in Counter(attempt.on_behalf or attempt.workstream for attempt in group).most_common()
            ],
            first_ns=min(attempt.closed_ns for attempt in group),
            last_ns=max(attempt.closed_ns for attempt in group),
        )
        for (signature, error_class), group in groups.items()
    ]
    return sorted(found, key=lambda group: (-group.count, -group.last_ns, group.signature))


def _between(from_ns: int, to_ns: int) -> float:
    return max(to_ns - from_ns, 0) / 1e9 if from_ns and to_ns else 0.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    """As `quantile_cont` of SQL."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
