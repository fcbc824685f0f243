"""What a run waits for: pure reasoning over what the ledger has folded, and over the run's definition where it can be read.

`situation_of` reads, `explain` reasons. The ledger has no clock of its own: times are those of the log, and whether a
time is past is for the reader to say.
"""

# ruff: noqa: S608 - columns and conditions come from this module; every value is bound
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from services.events import LINE, TERMINAL_RUN, TERMINAL_WORKSTREAM, Artifact
from services.ledger.projector import AttemptRow, ExecutorRow, PauseRow, RunRow, WorkstreamRow
from services.ledger.store import Reads, columns_of, rows_of
from services.plan import clash
from services.spec import Definitions

ON_MAX: Final = 20
"""What a wait is told to be on, at most."""
WAITS_MAX: Final = 1000
DELAYS_READ_MAX: Final = 5000

_BEGUN: Final = frozenset({"editing", "static_check", "runtime_check", "fixing", "validating", "merging"})
_UNSETTLED: Final = frozenset({"ready", "editing", "static_check", "runtime_check", "fixing", "validating"})
_WHY_NOTHING: Final = "the scheduler decides next; if this stays so, `swell doctor` tells whether one runs"


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What a run (workstream '') or a workstream waits for. Times are 0 where nobody knows; `next` is '' where nobody need act."""

    workstream: str = ""
    state: str
    waiting_for: str
    on: list[str] = []
    since_ns: int = 0
    until_ns: int = 0
    reason: str
    next: str = ""


class _Scheduled(msgspec.Struct, frozen=True):
    """What of a step_scheduled is looked at."""

    timeout_s: float = 0.0
    queue_deadline_ns: int = 0


class _Told(msgspec.Struct, frozen=True):
    """What of the other events is looked at."""

    deadline_ns: int = 0
    next_not_before_ns: int = 0
    cause: str = ""
    reason: str = ""
    actor: str = ""
    spec: Artifact | None = None


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the reasons are drawn from, as of one commit."""

    run: RunRow
    position: int
    workstreams: list[WorkstreamRow]
    open: list[AttemptRow]
    scheduled: dict[tuple[str, int], _Scheduled]
    told: dict[str, tuple[int, _Told]]
    """The newest event of some kinds, with its time."""
    moves: list[tuple[str, str, str, int]]
    """The run's own changes of state: to which, why, by whom, when."""
    delayed: dict[str, tuple[int, str]]
    """Since when a workstream waits, and for which tool."""
    pauses: list[PauseRow]
    executors: list[ExecutorRow]

    @property
    def spec(self) -> Artifact | None:
        """The run's definition, the amended one once somebody adjusted it."""
        named = (self.told.get(kind, (0, _Told()))[1].spec for kind in ("run_amended", "run_accepted", "run_requested"))
        return next((spec for spec in named if spec is not None), None)


_scheduled = msgspec.json.Decoder(_Scheduled)
_told = msgspec.json.Decoder(_Told)


def situation_of(reads: Reads, run: str) -> Situation | None:
    """What there is to know of a run; None when there is no such run. Blocks: call it in a thread."""
    found = reads.read(f"SELECT (SELECT position FROM meta), {columns_of(RunRow)} FROM runs WHERE run = ?", [run])
    if not found:
        return None
    row = rows_of(RunRow, [found[0][1:]])[0]
    within = [row.first_position, row.position, run]
    opened = rows_of(
        AttemptRow,
        reads.read(
            f"""SELECT {columns_of(AttemptRow)} FROM attempts
                WHERE scheduled_position BETWEEN ? AND ? AND run = ? AND closed_ns = 0
                ORDER BY scheduled_position, scheduled_idx""",
            within,
        ),
    )
    moves = reads.read(
        """SELECT to_state, reason, actor, time_ns FROM transitions
           WHERE position BETWEEN ? AND ? AND run = ? AND workstream = '' ORDER BY position, idx""",
        within,
    )
    return Situation(
        run=row,
        position=found[0][0],
        workstreams=rows_of(
            WorkstreamRow,
            reads.read(f"SELECT {columns_of(WorkstreamRow)} FROM workstreams WHERE run = ? ORDER BY ordinal", [run]),
        ),
        open=opened,
        scheduled=_scheduling(reads, run, opened),
        told=_newest(reads, within),
        moves=[(to, reason, actor, time_ns) for to, reason, actor, time_ns in moves],
        delayed=_delays(reads, within),
        pauses=rows_of(PauseRow, reads.read(f"SELECT {columns_of(PauseRow)} FROM pauses")),
        executors=rows_of(
            ExecutorRow, reads.read(f"SELECT {columns_of(ExecutorRow)} FROM executors WHERE state <> 'terminated'")
        ),
    )


def _scheduling(reads: Reads, run: str, opened: Sequence[AttemptRow]) -> dict[tuple[str, int], _Scheduled]:
    if not opened:
        return {}
    places = [row.scheduled_position for row in opened]
    sql = """
        SELECT workstream, attempt, payload FROM events
        WHERE position BETWEEN ? AND ? AND run = ? AND kind = 'step_scheduled' AND position IN (SELECT unnest(?))"""
    return {
        (workstream, attempt): _scheduled.decode(payload)
        for workstream, attempt, payload in reads.read(sql, [min(places), max(places), run, places])
    }


def _newest(reads: Reads, within: list[Any]) -> dict[str, tuple[int, _Told]]:
    sql = """
        SELECT kind, arg_max(time_ns, (position, idx)), arg_max(payload, (position, idx)) FROM events
        WHERE position BETWEEN ? AND ? AND run = ? AND kind IN (
            'run_requested', 'run_accepted', 'run_amended', 'run_transitioned', 'run_stopping', 'wave_finished')
        GROUP BY kind"""
    return {kind: (time_ns, _decoded(payload)) for kind, time_ns, payload in reads.read(sql, within)}


def _decoded(payload: str) -> _Told:
    try:
        return _told.decode(payload)
    except msgspec.MsgspecError:
        return _Told()  # of a version to come: nothing of it is known


def _delays(reads: Reads, within: list[Any]) -> dict[str, tuple[int, str]]:
    """The first delay of each step that is delayed now: those since the newest attempt of its workstream."""
    sql = f"""
        SELECT d.workstream, d.time_ns, d.tool, d.position, a.newest FROM (
            SELECT workstream, time_ns, tool, position FROM events
            WHERE position BETWEEN ? AND ? AND run = ? AND kind = 'step_delayed'
            ORDER BY position DESC LIMIT {DELAYS_READ_MAX}) AS d
        LEFT JOIN (
            SELECT workstream, max(scheduled_position) AS newest FROM attempts
            WHERE scheduled_position BETWEEN ? AND ? AND run = ? GROUP BY workstream) AS a USING (workstream)
        ORDER BY d.position DESC"""
    found: dict[str, tuple[int, str]] = {}
    for workstream, time_ns, tool, position, newest in reads.read(sql, [*within, *within]):
        if newest is None or position > newest:
            found[workstream] = (time_ns, found.get(workstream, (0, tool))[1])
    return found


def explain(situation: Situation, definitions: Definitions | None) -> list[Wait]:
    """What the run waits for, then what each of its workstreams does that has not ended."""
    reasoning = _Reasoning(situation, definitions)
    waits = list(reasoning.workstreams())
    return [reasoning.of_run(waits), *waits]


class _Reasoning:
    """The reasons in one situation."""

    def __init__(self, situation: Situation, definitions: Definitions | None) -> None:
        self.situation = situation
        self.run = situation.run
        self.definitions = definitions
        self.rows = {row.workstream: row for row in situation.workstreams}
        self.opened = {row.workstream: row for row in situation.open if row.workstream != LINE}
        self.line = next((row for row in situation.open if row.workstream == LINE), None)
        self.begun = [row for row in situation.workstreams if row.state in _BEGUN]

    # The run

    def of_run(self, waits: Sequence[Wait]) -> Wait:
        run = self.run
        since_ns = self.situation.moves[-1][3] if self.situation.moves else run.submitted_ns
        if run.state in TERMINAL_RUN:
            undoing = " Its completed work is being undone." if run.rollback == "running" else ""
            reason = f"it ended {run.state}: {run.reason or 'no reason is recorded'}.{undoing}"
            return Wait(state=run.state, waiting_for="ended", since_ns=run.finished_ns or since_ns, reason=reason)
        if run.state == "pending":
            return Wait(
                state=run.state,
                waiting_for="scheduler",
                since_ns=run.submitted_ns,
                reason=f"{run.actor or 'somebody'} has asked for it, and no scheduler has accepted it yet",
                next="look whether a scheduler runs: swell doctor",
            )
        if run.state == "paused":
            return self._paused(since_ns)
        stopping = self.situation.told.get("run_stopping")
        if stopping is not None:
            names = [_name(row) for row in self.situation.open]
            reason = f"it ends ({stopping[1].reason}): nothing new is started, {_counted(len(names), 'attempt')} left to close"
            return self._wait("", run.state, "attempt", names, stopping[0], reason)
        return self._running(waits, since_ns)

    def _paused(self, since_ns: int) -> Wait:
        _, reason, actor, _ = self.situation.moves[-1] if self.situation.moves else ("", "", "", 0)
        cause = self.situation.told.get("run_transitioned", (0, _Told()))[1].cause
        run = self.run.run
        if cause == "review":
            waiting = [row.workstream for row in self.rows.values() if row.state == "awaiting_review"]
            what = reason or "a person has to decide about what stopped"
            return self._wait("", "paused", "review", waiting, since_ns, what, next_=f"swell review list --run {run}")
        if cause == "budget":
            return self._wait("", "paused", "budget", [], since_ns, reason, next_=f"swell budget set {run} USD")
        said = f"{actor or 'somebody'} paused it" + (f": {reason}" if reason else "")
        return self._wait("", "paused", "pause", [actor], since_ns, said, next_=f"swell resume {run}")

    def _running(self, waits: Sequence[Wait], since_ns: int) -> Wait:
        """What keeps it from its end: what moves, or else what stands in front of everything."""
        by_kind: dict[str, list[Wait]] = {}
        for wait in waits:
            by_kind.setdefault(wait.waiting_for, []).append(wait)
        first = next((kind for kind in _TELLING if kind in by_kind), "scheduler")
        counted = [
            f"{len(by_kind[kind])} {_PLAIN[kind]}"
            for kind in (*_TELLING, "wave", "dependency", "slot", "conflict")
            if kind in by_kind
        ]
        reason = f"of {self.run.workstreams} workstreams {self.run.completed} are completed" + (
            "; " + ", ".join(counted) if counted else f"; {_WHY_NOTHING}"
        )
        named = [wait.workstream for wait in by_kind.get(first, ())]
        acting = next((wait.next for wait in by_kind.get(first, ()) if wait.next), "")
        return self._wait("", "running", first, named, since_ns, reason, until_ns=self._deadline_ns(), next_=acting)

    def _deadline_ns(self) -> int:
        """When the run times out: the time in which it was paused does not count."""
        deadline_ns = self.situation.told.get("run_accepted", (0, _Told()))[1].deadline_ns
        held_ns = paused_ns = 0
        for to_state, _, _, time_ns in self.situation.moves:
            if to_state == "paused":
                paused_ns = time_ns
            elif paused_ns:
                held_ns, paused_ns = held_ns + max(time_ns - paused_ns, 0), 0
        return deadline_ns + held_ns if deadline_ns else 0

    # Its workstreams

    def workstreams(self) -> Iterator[Wait]:
        """Those that have not ended, in the order of the plan, or as they were mentioned."""
        ended = self.run.state in TERMINAL_RUN
        named = list(self.definitions.order) if self.definitions is not None else []
        for name in dict.fromkeys((*named, *self.rows)):
            row = self.rows.get(name) or WorkstreamRow(run=self.run.run, workstream=name, ordinal=0)
            if row.state in TERMINAL_WORKSTREAM or (ended and row.state != "compensating"):
                continue
            yield self._of(row)

    def _of(self, row: WorkstreamRow) -> Wait:
        attempt = self.opened.get(row.workstream)
        if attempt is None and self.line is not None and self.line.on_behalf == row.workstream:
            attempt = self.line
        if attempt is not None:
            return self._under_way(row, attempt)
        if row.state == "awaiting_review":
            return self._wait(
                row.workstream,
                row.state,
                "review",
                [],
                row.changed_ns,
                f"a person has to decide: {row.reason or 'it stopped'}",
                next_=f"swell review show {self.run.run} {row.workstream}",
            )
        if row.waiting_for:
            return self._delayed(row)
        if self.run.state == "paused":
            _, reason, actor, since_ns = self.situation.moves[-1]
            said = f"the run is paused by {actor}" + (f": {reason}" if reason else "")
            return self._wait(
                row.workstream, row.state, "pause", [actor], since_ns, said, next_=f"swell resume {self.run.run}"
            )
        if row.state == "merging":
            return self._merging(row)
        return self._unstarted(row) if row.state in {"pending", "ready"} else self._between(row)

    def _under_way(self, row: WorkstreamRow, attempt: AttemptRow) -> Wait:
        told = self.situation.scheduled.get((attempt.workstream, attempt.attempt), _Scheduled())
        what = f"{attempt.step} attempt {attempt.attempt}" + (f" with {attempt.tool}" if attempt.tool else "")
        if attempt.workstream == LINE:
            what = f"the line's {what}"
        if attempt.state == "started":
            return self._wait(
                row.workstream,
                row.state,
                "attempt",
                [_name(attempt), attempt.executor],
                attempt.started_ns,
                f"{what} runs on {attempt.executor}",
                until_ns=attempt.started_ns + int(told.timeout_s * 1e9) if told.timeout_s else 0,
                next_=f"swell logs {self.run.run} {row.workstream} -f" if attempt.workstream != LINE else "",
            )
        seen = [one for one in self.situation.executors if one.pool == attempt.pool]
        slots = sum(one.slots for one in seen)
        return self._wait(
            row.workstream,
            row.state,
            "executor",
            [attempt.pool, *(one.executor for one in seen)],
            attempt.scheduled_ns,
            f"{what} is scheduled, and nobody has claimed it: {_counted(len(seen), 'executor')} of pool {attempt.pool} "
            f"with {_counted(slots, 'slot')} seen",
            until_ns=told.queue_deadline_ns,
            next_="" if seen else f"start an executor of pool {attempt.pool}; swell executors shows those there are",
        )

    def _delayed(self, row: WorkstreamRow) -> Wait:
        since_ns, tool = self.situation.delayed.get(row.workstream) or self.situation.delayed.get(LINE) or (0, row.tool)
        on = [tool] if tool else []
        reason = row.waiting_reason
        acting = ""
        match row.waiting_for:
            case "tool_breaker":
                acting = f"swell resume --tool {tool} tries at once" if tool else ""
            case "tool_paused":
                paused = [one for one in self.situation.pauses if one.scope in {"all", "pool"} or one.name == tool]
                reason += "".join(f"; {one.scope} {one.name} paused by {one.actor}".rstrip() for one in paused[:3])
                acting = next((f"swell resume {_flags(one)}" for one in paused), "")
            case "tool_missing":
                acting = f"install {tool or 'the tool'} where an executor runs; swell tools shows what is found"
            case "budget":
                acting = f"swell budget set {self.run.run} USD"
            case "limit":
                acting = "swell budget show --fleet tells what all runs draw on"
            case _:
                pass
        return self._wait(
            row.workstream,
            row.state,
            row.waiting_for,
            on,
            since_ns,
            reason,
            until_ns=row.waiting_until_ns,
            next_=acting,
        )

    def _merging(self, row: WorkstreamRow) -> Wait:
        if row.staged_at:
            others = [one.workstream for one in self.begun if one.staged_at and one is not row]
            reason = "it is merged, and waits for the gates of the wave"
            return self._wait(row.workstream, row.state, "gates", others, row.changed_ns, reason)
        if self.line is not None:
            behind = self.line.on_behalf or "what is staged"
            reason = f"it waits for the line, which is at the {self.line.step} of {behind}"
            return self._wait(row.workstream, row.state, "merge", [_name(self.line), behind], row.changed_ns, reason)
        unsettled = [one.workstream for one in self.rows.values() if one.state in _UNSETTLED]
        if unsettled and not self._is_eager():
            reason = f"what is done is merged once the rest of its wave is done as well: {_listed(unsettled)}"
            return self._wait(row.workstream, row.state, "wave", unsettled, row.changed_ns, reason)
        return self._wait(row.workstream, row.state, "scheduler", [], row.changed_ns, _WHY_NOTHING)

    def _unstarted(self, row: WorkstreamRow) -> Wait:
        missing = self._missing(row.workstream)
        if missing:
            failed = [name for name in missing if self._state_of(name) in {"failed", "cancelled", "blocked"}]
            reason = f"it depends on {_listed(missing)}" + (f"; {_listed(failed)} will not complete" if failed else "")
            return self._wait(row.workstream, row.state, "dependency", missing, self._settled_ns(row), reason)
        if row.state == "pending" and not self._is_eager():
            return self._next_wave(row)
        return self._between(row)

    def _next_wave(self, row: WorkstreamRow) -> Wait:
        under_way = [one.workstream for one in self.rows.values() if one.state in _UNSETTLED or one.state == "merging"]
        known = self.definitions
        number = known.wave_of[known.index[row.workstream]] + 1 if known and self._knows(row.workstream) else 0
        which = f"wave {number}" if number else "its wave"
        finished = self.situation.told.get("wave_finished")
        if under_way:
            reason = f"{which} has not started: {_listed(under_way)} of the wave before {'are' if len(under_way) > 1 else 'is'} under way"
            return self._wait(row.workstream, row.state, "wave", under_way, self._settled_ns(row), reason)
        until_ns = finished[1].next_not_before_ns if finished is not None else 0
        reason = f"{which} starts next"
        return self._wait(row.workstream, row.state, "wave", [], self._settled_ns(row), reason, until_ns=until_ns)

    def _between(self, row: WorkstreamRow) -> Wait:
        """It could go on: what is in its place, or whether it is just being decided."""
        since_ns = self._settled_ns(row)
        if self.definitions is not None:
            options = self.definitions.spec.options
            if options.stepwise and not self.situation.open:
                reason = "it does a step when somebody asks for one"
                return self._wait(row.workstream, row.state, "request", [], since_ns, reason)
            if len(self.situation.open) >= options.max_workers:
                names = [_name(one) for one in self.situation.open]
                reason = f"all {options.max_workers} slots of the run are taken"
                return self._wait(row.workstream, row.state, "slot", names, since_ns, reason)
            clashing = self._clashing(row) if row.state in {"pending", "ready"} else []
            if clashing:
                reason = f"it may not run beside {_listed(clashing)}: they share a conflict group or files"
                return self._wait(row.workstream, row.state, "conflict", clashing, since_ns, reason)
        return self._wait(row.workstream, row.state, "scheduler", [], since_ns, _WHY_NOTHING)

    def _clashing(self, row: WorkstreamRow) -> list[str]:
        definitions = self.definitions
        if definitions is None or not self._knows(row.workstream):
            return []
        mine = definitions.footprint(row.workstream)
        return [
            one.workstream
            for one in self.begun
            if one is not row and self._knows(one.workstream) and clash(mine, definitions.footprint(one.workstream))
        ]

    # What is known

    def _knows(self, name: str) -> bool:
        return self.definitions is not None and name in self.definitions.index

    def _is_eager(self) -> bool:
        return self.definitions is not None and self.definitions.spec.options.scheduling == "eager"

    def _state_of(self, name: str) -> str:
        row = self.rows.get(name)
        return row.state if row is not None else "pending"

    def _missing(self, name: str) -> list[str]:
        if self.definitions is None or name not in self.definitions.bundles:
            return []
        return [other for other in self.definitions.bundles[name].depends_on if self._state_of(other) != "completed"]

    def _settled_ns(self, row: WorkstreamRow) -> int:
        return row.changed_ns or self.run.submitted_ns

    def _wait(
        self,
        workstream: str,
        state: str,
        waiting_for: str,
        on: Iterable[str],
        since_ns: int,
        reason: str,
        *,
        until_ns: int = 0,
        next_: str = "",
    ) -> Wait:
        return Wait(
            workstream=workstream,
            state=state,
            waiting_for=waiting_for,
            on=[name for name in on if name][:ON_MAX],
            since_ns=since_ns,
            until_ns=until_ns,
            reason=reason,
            next=next_,
        )


_TELLING: Final = (
    "attempt", "executor", "gates", "merge", "review", "budget", "tool_missing", "tool_paused", "tool_breaker", "limit", "retry",
    "request", "pause", "scheduler",
)  # fmt: skip
"""What keeps a run from its end, the most telling first."""

_PLAIN: Final = {
    "attempt": "at work",
    "executor": "waiting for an executor",
    "gates": "waiting for gates",
    "merge": "waiting for the line",
    "review": "waiting for a person",
    "budget": "waiting for money",
    "tool_missing": "waiting for a tool that is nowhere found",
    "tool_paused": "waiting for a tool that is paused",
    "tool_breaker": "waiting for a tool that fails",
    "limit": "waiting for their share of a limit",
    "retry": "waiting to be tried again",
    "request": "waiting to be asked for a step",
    "pause": "paused",
    "scheduler": "about to go on",
    "wave": "waiting for their wave",
    "dependency": "waiting for dependencies",
    "slot": "waiting for a slot",
    "conflict": "waiting for others that share their files or group",
}


def _name(attempt: AttemptRow) -> str:
    return f"{attempt.workstream}/{attempt.attempt}"


def _flags(pause: PauseRow) -> str:
    return "--all" if pause.scope == "all" else f"--{pause.scope} {pause.name}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
