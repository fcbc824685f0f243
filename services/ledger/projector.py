"""Folds the log into rows: pure, total, and independent of where one batch ends and the next begins.

What it promises:

* The rows are a function of the log alone: no clock, no price, no setting enters a row. Folding the log again, in any
  batches, over rows read back from a store, gives the same rows.
* Content never raises. Bytes that are no entry are kept as an entry with one event of kind `undecodable`; a kind that
  this version does not know, or an event that does not fit its kind, is kept as it is and changes nothing else.
* A fact counts only where its writer may put it: decisions on `<run>.run`, decisions across runs on `fleet.run`,
  requests on `<run>.request`, the life of an attempt on its own subject and only if the attempt was scheduled.
  Anything else is recorded and otherwise ignored.
* Memory holds the runs that have not ended, with their workstreams, the patch of each, and open attempts, up to `live_rows_max` rows, and
  what is paused, at most `PAUSES_MAX`. Everything else is fetched again through `Known` when a late fact mentions it.

The batch that `fold` returns must be stored before `fold` is called again: the next call may fetch those rows.

The chain of hashes: `hash = SHA-256(previous ‖ sequence ‖ length ‖ subject ‖ raw)`, where `previous` is the 32-byte
hash of the entry before (32 zero bytes before the first), `sequence` the position as 8 bytes big-endian, `length` the
size of the subject in UTF-8 as 2 bytes big-endian, `subject` those bytes, and `raw` the message as it was stored.
"""

import hashlib
from collections.abc import Iterable
from typing import Protocol, assert_never

import msgspec

from services import events
from services.events import LINE, TERMINAL_RUN, TERMINAL_WORKSTREAM, AnyEvent
from services.ledger.patches import SETTLED, PatchMoveRow, PatchRow, PatchState, refusal
from services.wire import Place, Recorded, decode_envelope, parse_subject

VERSION = 7
"""The version of this projection: a store of any other version is rebuilt. Raise it whenever a row could differ."""

GENESIS = bytes(32)
"""The hash before the first entry."""

UNDECODABLE = "undecodable"
FLEET = "fleet"
"""Stands where a run's id stands, for decisions across runs; it is no run."""

FILES_MAX = 200
PAUSES_MAX = 1000
"""Pauses of tools and pools at a time; more are recorded as events only."""

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_STEPS = frozenset({"edit", "static", "runtime"})
_JUDGING = frozenset({"static", "runtime", "gate", "deliver", "compensate"})
_PRODUCING = frozenset({"edit", "fix"})
_GOING_ON = frozenset({"retry", "wait", "reduce_context", "fallback_tool"})
_CLOSED = frozenset({"finished", "cancelled", "lost"})
_WITH_ITS_PATCH = frozenset({"static_check", "runtime_check", "fixing", "merging"})
"""Where a workstream that a person lets go on does so with the patch it has."""

EntryRow = tuple[int, str, str, str, str, int, int, str, str, bytes, bytes]
"""position, subject, run, id, by, at_ns, time_ns, cause, trace, hash, raw."""
EventRow = tuple[int, int, str, str, str, int, int, str, str, str]
"""position, idx, kind, run, workstream, attempt, time_ns, tool, severity, payload."""
TransitionRow = tuple[int, int, str, str, str, str, str, str, int]
"""position, idx, run, workstream ('' for the run's own), from_state, to_state, reason, actor, time_ns."""


class RunRow(msgspec.Struct, kw_only=True):
    """A row of `runs`; the fields are the columns, in order. `line_attempt` is the newest attempt of `_line`.

    `labels` is a JSON object. `cost_nano` and the tokens are sums over its attempts as far as they were told; `unpriced`
    counts attempts of coding tools that ended without anybody knowing what they have cost.
    """

    run: str
    first_position: int
    position: int = 0
    state: str = "pending"
    reason: str = ""
    actor: str = ""
    repository: str = ""
    base_commit: str = ""
    head_commit: str = ""
    delivered_ref: str = ""
    delivered_commit: str = ""
    workstreams: int = 0
    completed: int = 0
    failed: int = 0
    blocked: int = 0
    cancelled: int = 0
    awaiting_review: int = 0
    attempts: int = 0
    fix_attempts: int = 0
    line_attempt: int = 0
    waves_started: int = 0
    submitted_ns: int = 0
    finished_ns: int = 0
    spec_digest: str = ""
    request_id: str = ""
    accepted: bool = False
    rollback: str = ""
    rollback_reason: str = ""
    delivered_remote: str = ""
    labels: str = "{}"
    tenant: str = ""
    cost_nano: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0


class WaveRow(msgspec.Struct, kw_only=True):
    """A row of `waves`; `finished_ns` is 0 while it is under way."""

    run: str
    wave: int
    started_ns: int = 0
    finished_ns: int = 0
    workstreams: int = 0


class WorkstreamRow(msgspec.Struct, kw_only=True):
    """A row of `workstreams`. `ordinal` is its place among those first mentioned; `steps_executed` a JSON list.

    `waiting_*` say what its next step, or the line on its behalf, waits for; `recoveries` counts what recovery did to go on.
    `patch` is the attempt whose patch it goes on with, 0 without one. `staged_at` is the position at which
    its merge was staged, while it is; an entry stages one at most.
    """

    run: str
    workstream: str
    ordinal: int
    state: str = "pending"
    reason: str = ""
    wave: int = -1
    steps_executed: str = "[]"
    fix_iterations: int = 0
    attempts: int = 0
    last_attempt: int = 0
    commit: str = ""
    tree: str = ""
    started_ns: int = 0
    changed_ns: int = 0
    finished_ns: int = 0
    fix_limit: str = ""
    verdicts_reused: int = 0
    waiting_for: str = ""
    waiting_reason: str = ""
    waiting_until_ns: int = 0
    recoveries: int = 0
    tool: str = ""
    patch: int = 0
    staged_at: int = 0


class AttemptRow(msgspec.Struct, kw_only=True):
    """A row of `attempts`. `files`, `artifacts` and `checks_json` are JSON lists; `mechanical` as in FixInput; `purpose` of a step of the
    line as in StepScheduled, or `revert` for a merge that takes work out.

    From `provider` on: what its tool told of itself. What it has cost is None where nobody knows; `basis` and `price_table`
    say where the figure comes from. What is told after the close counts where the close did not know, or only a part.
    """

    run: str
    workstream: str
    attempt: int
    scheduled_position: int
    scheduled_idx: int
    step: str
    state: str = "scheduled"
    ok: bool = False
    error_class: str = ""
    message: str = ""
    executor: str = ""
    exit_code: int | None = None
    scheduled_ns: int = 0
    started_ns: int = 0
    closed_ns: int = 0
    commit: str = ""
    tree: str = ""
    on_behalf: str = ""
    files: str = "[]"
    artifacts: str = "[]"
    checks_json: str = "[]"
    signature: str = ""
    tool_wall_s: float = 0.0
    late_facts: int = 0
    tool: str = ""
    reduction: int = 0
    action: str = ""
    capability: str = ""
    context: str = ""
    left_out: int = 0
    context_tokens: int = 0
    mechanical: int = 0
    purpose: str = ""
    pool: str = ""
    reason: str = ""
    cap: str = ""
    cap_nano: int = 0
    provider: str = ""
    model: str = ""
    session: str = ""
    cost_nano: int | None = None
    basis: str = ""
    price_table: str = ""
    list_cost_nano: int | None = None
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    lower_bound: bool = False
    findings: int = 0
    wall_s: float = 0.0


class ExecutorRow(msgspec.Struct, kw_only=True):
    """A row of `executors`, about its newest boot; `first_position` and `first_idx` say where it was first mentioned."""

    executor: str
    first_position: int
    first_idx: int
    boot: str = ""
    pool: str = ""
    slots: int = 0
    state: str = ""
    since_ns: int = 0
    reason: str = ""
    started_ns: int = 0
    terminated_ns: int = 0


class ToolBreakerRow(msgspec.Struct, kw_only=True):
    """A row of `tool_breakers`; `failures` and `until_ns` are 0 once it is closed."""

    tool: str
    state: str = "closed"
    failures: int = 0
    opened_ns: int = 0
    until_ns: int = 0
    reason: str = ""
    error_class: str = ""


class PauseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `pauses`, there as long as the pause."""

    scope: str
    name: str
    actor: str
    reason: str
    since_ns: int


class Tip(msgspec.Struct, frozen=True):
    """The entry that was folded last: its position, id ('' if it had none) and hash."""

    position: int = 0
    entry: str = ""
    hash: bytes = GENESIS


class KnownRun(msgspec.Struct, frozen=True):
    """What is stored of a run: its row, workstreams and waves, attempts that are not closed, and each workstream's patch."""

    row: RunRow
    workstreams: list[WorkstreamRow]
    open_attempts: list[AttemptRow]
    patches: list[PatchRow] = []
    waves: list[WaveRow] = []


class Known(Protocol):
    """The rows stored so far."""

    def run(self, run: str) -> KnownRun | None:
        """A run, or None when it is not stored."""

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:
        """One attempt, or None when it is not stored."""

    def executor(self, executor: str) -> ExecutorRow | None:
        """One executor, or None when it is not stored."""

    def tool_breaker(self, tool: str) -> ToolBreakerRow | None:
        """The breaker of a tool, or None when it is not stored."""

    def pauses(self) -> list[PauseRow]:
        """Everything that is paused."""


class Batch(msgspec.Struct, frozen=True):
    """What one call of `fold` came to: rows to append, rows that replace those of the same key, and the new tip.

    `pauses` replaces the whole table; None leaves it.
    """

    tip: Tip
    entries: list[EntryRow]
    events: list[EventRow]
    transitions: list[TransitionRow]
    runs: list[RunRow]
    workstreams: list[WorkstreamRow]
    attempts: list[AttemptRow]
    patches: list[PatchRow] = []
    patch_moves: list[PatchMoveRow] = []
    executors: list[ExecutorRow] = []
    tool_breakers: list[ToolBreakerRow] = []
    pauses: list[PauseRow] | None = None
    waves: list[WaveRow] = []


class _Outline(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    workstream: str = ""
    attempt: int = 0


class _Kind(msgspec.Struct, frozen=True, kw_only=True):
    kind: str


class _Live(msgspec.Struct):
    row: RunRow
    workstreams: dict[str, WorkstreamRow]
    attempts: dict[tuple[str, int], AttemptRow]
    patches: dict[str, PatchRow]
    waves: dict[int, WaveRow]


class _At(msgspec.Struct, frozen=True):
    """Where and when the event being folded stands."""

    position: int
    idx: int
    time_ns: int
    run: str


_Request = (
    events.RunRequested
    | events.CancelRequested
    | events.StepRequested
    | events.PauseRequested
    | events.ResumeRequested
    | events.ReviewRequested
    | events.RecoveryRequested
    | events.RollbackRequested
    | events.DeliveryRequested
    | events.BudgetRequested
)
_RunDecision = (
    events.RequestAnswered
    | events.RunAccepted
    | events.RunTransitioned
    | events.RunAmended
    | events.RunStopping
    | events.WaveFinished
    | events.IntegrationAdvanced
    | events.MergeStaged
    | events.MergePostponed
    | events.MergeRefused
    | events.GateFlaked
    | events.LineDelivered
    | events.DeliveryRefused
    | events.RevertStarted
    | events.IntegrationReverted
    | events.RevertFinished
    | events.RollbackStarted
    | events.RollbackFinished
    | events.RunFinished
)
_Decision = (
    events.WorkstreamTransitioned
    | events.StepScheduled
    | events.StepDelayed
    | events.StepSkipped
    | events.FixLoopEnded
    | events.RecoveryChosen
    | events.ReviewResolved
    | events.BudgetChanged
    | events.BudgetReached
    | events.WaveStarted
    | _RunDecision
)
_FleetDecision = (
    events.FleetPaused
    | events.FleetResumed
    | events.ToolBreakerOpened
    | events.ToolBreakerHalfOpened
    | events.ProbeGranted
    | events.LimitsSet
    | events.AttemptGranted
    | events.ToolBreakerClosed
    | events.ExecutorTransitioned
)
_Life = events.StepStarted | events.StepFinished | events.StepCancelled | events.StepLost

_event_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_outline_decoder = msgspec.json.Decoder(_Outline)
_kind_decoder = msgspec.json.Decoder(_Kind)
_steps_decoder = msgspec.json.Decoder(list[str])
_encoder = msgspec.json.Encoder()
_NOWHERE = Place("", "")


def chained(previous: bytes, sequence: int, subject: str, raw: bytes) -> bytes:
    """The hash of an entry after one with the hash `previous`; the formula stands in the module's docstring."""
    name = subject.encode()
    parts = (previous, sequence.to_bytes(8, "big"), len(name).to_bytes(2, "big"), name, raw)
    return hashlib.sha256(b"".join(parts)).digest()


def place_of(subject: str) -> Place:
    """The place a subject names; one of kind '' for a subject that none of ours looks like."""
    try:
        return parse_subject(subject)
    except ValueError:  # also numbers that Python refuses to read
        return _NOWHERE


class Projector:
    """The fold. `known` gives back rows that were stored; `live_rows_max` bounds what is kept in memory."""

    def __init__(self, tip: Tip, known: Known, *, live_rows_max: int = 50_000) -> None:
        """Start behind `tip`."""
        self.tip = tip
        self._known = known
        self._live_rows_max = live_rows_max
        self._live: dict[str, _Live] = {}
        self._paused = {(row.scope, row.name): row for row in known.pauses()}
        self._begin()

    def _begin(self) -> None:
        self._entries: list[EntryRow] = []
        self._events: list[EventRow] = []
        self._transitions: list[TransitionRow] = []
        self._runs: dict[str, RunRow] = {}
        self._workstreams: dict[tuple[str, str], WorkstreamRow] = {}
        self._attempts: dict[tuple[str, str, int], AttemptRow] = {}
        self._patches: dict[tuple[str, str, int], PatchRow] = {}
        self._patch_moves: list[PatchMoveRow] = []
        self._executors: dict[str, ExecutorRow] = {}
        self._breakers: dict[str, ToolBreakerRow] = {}
        self._waves: dict[tuple[str, int], WaveRow] = {}
        self._pauses_moved = False

    @property
    def live_rows(self) -> int:
        """How many rows of runs, workstreams, attempts, patches and waves memory holds."""
        return sum(
            1 + len(live.workstreams) + len(live.attempts) + len(live.patches) + len(live.waves)
            for live in self._live.values()
        )

    def fold(self, records: Iterable["Recorded"]) -> Batch:
        """Fold messages that follow the tip; the batch must be stored before the next call."""
        self._forget()
        self._begin()
        for record in records:
            self._fold(record)
        return Batch(
            tip=self.tip,
            entries=self._entries,
            events=self._events,
            transitions=self._transitions,
            runs=list(self._runs.values()),
            workstreams=list(self._workstreams.values()),
            attempts=list(self._attempts.values()),
            patches=list(self._patches.values()),
            patch_moves=self._patch_moves,
            executors=list(self._executors.values()),
            tool_breakers=list(self._breakers.values()),
            pauses=list(self._paused.values()) if self._pauses_moved else None,
            waves=list(self._waves.values()),
        )

    def _forget(self) -> None:
        """Let go of what is stored and settled: closed attempts, ended runs, and the idlest runs over the limit."""
        for run in self._runs:
            live = self._live[run]
            if live.row.state in TERMINAL_RUN:
                del self._live[run]
        for run, workstream, attempt in self._attempts:
            open_run = self._live.get(run)
            if open_run is not None and self._attempts[run, workstream, attempt].state in _CLOSED:
                open_run.attempts.pop((workstream, attempt), None)
        if self.live_rows <= self._live_rows_max:
            return
        for run in sorted(self._live, key=lambda name: self._live[name].row.position):
            if self.live_rows <= self._live_rows_max:
                return
            del self._live[run]

    def _fold(self, record: "Recorded") -> None:
        chain = chained(self.tip.hash, record.sequence, record.subject, record.data)
        place = place_of(record.subject)
        try:
            envelope = decode_envelope(record.data)
        except (ValueError, RecursionError) as error:  # msgspec raises ValueErrors of several classes
            self._undecodable(record, place, chain, error)
            return
        self.tip = Tip(record.sequence, envelope.id, chain)
        self._entries.append(
            (
                record.sequence,
                record.subject,
                place.run,
                envelope.id,
                envelope.by,
                _int64(envelope.at_ns),
                record.time_ns,
                envelope.cause,
                envelope.trace,
                chain,
                record.data,
            )
        )
        attempt = self._touch(record.sequence, place)
        for idx, raw in enumerate(envelope.events):
            at = _At(record.sequence, idx, record.time_ns, place.run)
            self._take(at, place, attempt, raw)

    def _undecodable(self, record: "Recorded", place: Place, chain: bytes, error: Exception) -> None:
        self.tip = Tip(record.sequence, "", chain)
        self._entries.append(
            (record.sequence, record.subject, place.run, "", "", 0, record.time_ns, "", "", chain, record.data)
        )
        payload = _encoder.encode({"kind": UNDECODABLE, "error": str(error)[:500]}).decode()
        self._events.append(
            (
                record.sequence,
                0,
                UNDECODABLE,
                place.run,
                place.workstream,
                _int32(place.attempt),
                record.time_ns,
                "",
                "error",
                payload,
            )
        )
        self._touch(record.sequence, place)

    def _touch(self, position: int, place: Place) -> AttemptRow | None:
        """Move the run on to this entry; return the attempt the entry is about if it is scheduled and not closed."""
        live = self._find(place.run)
        if live is None:
            return None
        live.row.position = position
        self._runs[place.run] = live.row
        if place.kind not in ("attempt", "late"):
            return None
        attempt = self._attempt(live, place.workstream, place.attempt)
        if attempt is None:
            return None
        self._attempts[place.run, place.workstream, place.attempt] = attempt
        if place.kind == "late" or attempt.state in _CLOSED:
            attempt.late_facts += 1
            return None
        return attempt

    def _take(self, at: _At, place: Place, attempt: AttemptRow | None, raw: msgspec.Raw) -> None:
        payload = bytes(raw).decode(errors="replace")
        event: AnyEvent | None
        try:
            event = _event_decoder.decode(raw)
            kind = str(event.__struct_config__.tag)
            workstream, number = getattr(event, "workstream", ""), getattr(event, "attempt", 0)
        except (ValueError, RecursionError):
            event = None
            kind, workstream, number = _outline(raw)
        tool = getattr(event, "tool", "")
        if isinstance(event, events.StepDelayed):
            workstream, tool = event.step.workstream, event.step.tool
        if place.kind in ("attempt", "late"):
            workstream, number = place.workstream, place.attempt
            about = self._attempts.get((at.run, workstream, number))
            tool = about.tool if about is not None else ""
        self._events.append(
            (
                at.position,
                at.idx,
                kind,
                at.run,
                workstream,
                _int32(number),
                at.time_ns,
                tool,
                severity_of(event),
                payload,
            )
        )
        if event is not None:
            self._told(at, place, attempt, event)

    def _told(self, at: _At, place: Place, attempt: AttemptRow | None, event: AnyEvent) -> None:
        """Sort by who may tell it and where; the frequent kinds come first."""
        match event:
            case events.StepStarted() | events.StepFinished() | events.StepCancelled() | events.StepLost():
                if place.kind == "attempt" and attempt is not None:
                    self._lived(at, attempt, event)
            case (
                events.WorkstreamTransitioned()
                | events.StepScheduled()
                | events.StepDelayed()
                | events.StepSkipped()
                | events.FixLoopEnded()
                | events.RecoveryChosen()
                | events.ReviewResolved()
                | events.BudgetChanged()
                | events.BudgetReached()
                | events.WaveStarted()
                | events.RequestAnswered()
                | events.RunAccepted()
                | events.RunTransitioned()
                | events.RunAmended()
                | events.RunStopping()
                | events.WaveFinished()
                | events.IntegrationAdvanced()
                | events.MergeStaged()
                | events.MergePostponed()
                | events.MergeRefused()
                | events.GateFlaked()
                | events.LineDelivered()
                | events.DeliveryRefused()
                | events.RevertStarted()
                | events.IntegrationReverted()
                | events.RevertFinished()
                | events.RollbackStarted()
                | events.RollbackFinished()
                | events.RunFinished()
            ):
                if place.kind == "run" and place.run != FLEET:
                    self._decided(at, event)
            case (
                events.RunRequested()
                | events.CancelRequested()
                | events.StepRequested()
                | events.PauseRequested()
                | events.ResumeRequested()
                | events.ReviewRequested()
                | events.RecoveryRequested()
                | events.RollbackRequested()
                | events.DeliveryRequested()
                | events.BudgetRequested()
            ):
                if place.kind == "request" and place.run != FLEET:
                    self._requested(at, event)
            case (
                events.FleetPaused()
                | events.FleetResumed()
                | events.ToolBreakerOpened()
                | events.ToolBreakerHalfOpened()
                | events.ProbeGranted()
                | events.LimitsSet()
                | events.AttemptGranted()
                | events.ToolBreakerClosed()
                | events.ExecutorTransitioned()
            ):
                if place.kind == "run" and place.run == FLEET:
                    self._decided_across_runs(at, event)
            case events.ResultRefused():
                if place.kind == "late":
                    self._learnt(at, place, event.result)
            case events.ProcessesReaped() | events.GrantReturned() | events.AccessRefused():
                pass  # counted by `_touch`, whatever the entry tells
            case _:
                assert_never(event)

    # Finding rows

    def _find(self, run: str) -> _Live | None:
        """The run in memory, or fetched into it; None when it was never mentioned."""
        live = self._live.get(run)
        if live is not None or run in ("", FLEET):
            return live
        known = self._known.run(run)
        if known is None:
            return None
        live = _Live(
            known.row,
            {row.workstream: row for row in known.workstreams},
            {(row.workstream, row.attempt): row for row in known.open_attempts},
            {row.workstream: row for row in known.patches},
            {row.wave: row for row in known.waves},
        )
        self._live[run] = live
        return live

    def _run(self, at: _At) -> _Live:
        """The run, made if this is its first decision or request."""
        live = self._live.get(at.run)
        if live is None:
            row = RunRow(run=at.run, first_position=at.position, position=at.position, submitted_ns=at.time_ns)
            live = self._live[at.run] = _Live(row, {}, {}, {}, {})
        self._runs[at.run] = live.row
        return live

    def _workstream(self, live: _Live, name: str) -> WorkstreamRow:
        """The workstream, made if this is its first mention."""
        row = live.workstreams.get(name)
        if row is None:
            row = WorkstreamRow(run=live.row.run, workstream=name, ordinal=len(live.workstreams))
            live.workstreams[name] = row
        self._workstreams[live.row.run, name] = row
        return row

    def _wave(self, live: _Live, number: int) -> WaveRow:
        """The wave, made if this is its first mention."""
        row = live.waves.setdefault(number, WaveRow(run=live.row.run, wave=number))
        self._waves[live.row.run, number] = row
        return row

    def _attempt(self, live: _Live, workstream: str, number: int) -> AttemptRow | None:
        """A scheduled attempt, from memory, from this batch, or as it was stored."""
        row = live.attempts.get((workstream, number))
        if row is not None:
            return row
        if workstream == LINE:
            newest = live.row.line_attempt
        else:
            owner = live.workstreams.get(workstream)
            newest = 0 if owner is None else owner.last_attempt
        if not 1 <= number <= newest:
            return None
        return self._attempts.get((live.row.run, workstream, number)) or self._known.attempt(
            live.row.run, workstream, number
        )

    # What users ask

    def _requested(self, at: _At, event: _Request) -> None:
        """Only the first request for a run is a row; what comes of the others is decided."""
        if not isinstance(event, events.RunRequested):
            return
        row = self._run(at).row
        if row.request_id or row.accepted:
            return
        row.request_id = event.request_id
        _describe(row, event)

    # What the scheduler decides

    def _decided(self, at: _At, event: _Decision) -> None:
        live = self._run(at)
        match event:
            case events.WorkstreamTransitioned():
                self._move_workstream(at, live, event)
            case events.StepScheduled():
                self._schedule(at, live, event)
            case events.StepDelayed():
                self._delay(live, event)
            case events.WaveStarted():
                live.row.waves_started += not event.more
                wave = self._wave(live, _int32(event.wave))
                wave.started_ns = wave.started_ns or at.time_ns
                wave.workstreams += len(event.workstreams)
                for name in event.workstreams:
                    self._workstream(live, name).wave = _int32(event.wave)
            case events.StepSkipped():
                if event.workstream != LINE:
                    _skip(self._workstream(live, event.workstream), event)
                if event.step == "gate":
                    known = "every verdict on the merged tree is known" if event.checks else "no check is configured"
                    self._patch_to(at, live, event.workstream, "verified", known)
            case events.FixLoopEnded():
                if event.workstream != LINE:
                    self._workstream(live, event.workstream).fix_limit = event.limit
            case events.RecoveryChosen():
                if event.workstream != LINE and event.strategy in _GOING_ON:
                    self._workstream(live, event.workstream).recoveries += 1
            case events.BudgetChanged() | events.BudgetReached():
                pass  # told by the event itself; what a run has spent stands in its end
            case events.ReviewResolved():
                pass  # the transition it leads to stands in the same entry
            case _:
                self._decided_of_run(at, live, event)

    def _decided_of_run(self, at: _At, live: _Live, event: _RunDecision) -> None:
        row = live.row
        match event:
            case events.RunAccepted():
                row.accepted = True
                row.request_id = event.request_id
                _describe(row, event)
            case events.RequestAnswered():
                if event.answer == "refused" and event.request_id == row.request_id and not row.accepted:
                    self._move_run(at, row, "failed", event.reason, "scheduler")
            case events.RunTransitioned():
                self._move_run(at, row, event.to_state, event.reason, event.actor, from_state=event.from_state)
            case events.RunAmended():
                row.spec_digest = event.spec.digest
            case events.IntegrationAdvanced():
                row.head_commit = event.to.commit
                self._workstream(live, event.workstream).staged_at = 0
                self._patch_to(at, live, event.workstream, "committed", f"the line is at {event.to.commit[:12]}")
            case events.IntegrationReverted():
                row.head_commit = event.to.commit
            case events.MergeStaged():
                self._workstream(live, event.workstream).staged_at = at.position
            case events.MergeRefused() if event.taken_back:
                self._taken_back(at, live, event)
            case events.MergeRefused():
                self._patch_to(at, live, event.workstream, "apply_failed", event.message)
            case events.LineDelivered():
                row.delivered_ref, row.delivered_commit = event.ref, event.commit
                row.delivered_remote = event.to.remote if event.to is not None else ""
            case events.RevertStarted():
                row.rollback, row.rollback_reason = "running", event.reason
            case events.RevertFinished():
                row.rollback, row.rollback_reason = event.state, event.reason
            case events.RollbackStarted():
                row.rollback, row.rollback_reason = "running", event.reason
            case events.RollbackFinished():
                row.rollback, row.rollback_reason = event.state, event.reason
            case events.RunFinished():
                self._finish(at, row, event)
            case events.WaveFinished():
                self._wave(live, _int32(event.wave)).finished_ns = at.time_ns
            case events.RunStopping() | events.DeliveryRefused():
                pass  # the transitions they lead to are decided beside them
            case events.MergePostponed() | events.GateFlaked():
                pass  # nothing of it is the head
            case _:
                assert_never(event)

    # What the scheduler decides across runs

    def _decided_across_runs(self, at: _At, event: _FleetDecision) -> None:
        match event:
            case events.ExecutorTransitioned():
                self._move_executor(at, event)
            case events.FleetPaused():
                if (event.scope, event.name) in self._paused or len(self._paused) < PAUSES_MAX:
                    self._paused[event.scope, event.name] = PauseRow(
                        scope=event.scope, name=event.name, actor=event.actor, reason=event.reason, since_ns=at.time_ns
                    )
                    self._pauses_moved = True
            case events.FleetResumed():
                self._pauses_moved |= self._paused.pop((event.scope, event.name), None) is not None
            case events.ToolBreakerOpened():
                row = self._breaker(event.tool)
                row.state, row.reason, row.error_class = "open", event.reason, event.error_class
                row.failures = _count(event.failures)
                row.opened_ns, row.until_ns = at.time_ns, _int64(event.until_ns)
            case events.ToolBreakerHalfOpened():
                row = self._breaker(event.tool)
                row.state, row.until_ns = "half_open", 0
            case events.ToolBreakerClosed():
                row = self._breaker(event.tool)
                row.state, row.reason = "closed", event.reason
                row.failures = row.until_ns = 0
            case events.ProbeGranted() | events.AttemptGranted() | events.LimitsSet():
                pass  # the attempt that is granted tells how it went; limits in force are the scheduler's
            case _:
                assert_never(event)

    def _breaker(self, tool: str) -> ToolBreakerRow:
        """The breaker of a tool, made if this is its first mention."""
        row = self._breakers.get(tool) or self._known.tool_breaker(tool) or ToolBreakerRow(tool=tool)
        self._breakers[tool] = row
        return row

    def _move_executor(self, at: _At, event: events.ExecutorTransitioned) -> None:
        """Another boot takes the row over, unless it is told only that it has ended: the newer one stays."""
        row = self._executors.get(event.executor) or self._known.executor(event.executor)
        if row is None:
            row = ExecutorRow(executor=event.executor, first_position=at.position, first_idx=at.idx)
        elif event.boot != row.boot and event.to_state == "terminated":
            return
        self._executors[event.executor] = row
        if event.boot != row.boot or row.started_ns == 0:
            row.started_ns = at.time_ns
        row.boot, row.pool, row.slots = event.boot, event.pool, _count(event.slots)
        row.state, row.reason, row.since_ns = event.to_state, event.reason, at.time_ns
        row.terminated_ns = at.time_ns if event.to_state == "terminated" else 0

    # Runs, workstreams, attempts

    def _finish(self, at: _At, row: RunRow, event: events.RunFinished) -> None:
        if row.state != event.state:
            self._move_run(at, row, event.state, event.reason, "scheduler")
        row.reason = event.reason
        row.finished_ns = at.time_ns
        row.completed = _count(event.completed)
        row.failed = _count(event.failed)
        row.blocked = _count(event.blocked)
        row.cancelled = _count(event.cancelled)

    def _move_run(
        self, at: _At, row: RunRow, to_state: str, reason: str, actor: str, *, from_state: str | None = None
    ) -> None:
        self._transitions.append(
            (at.position, at.idx, at.run, "", from_state or row.state, to_state, reason, actor, at.time_ns)
        )
        row.state = to_state
        row.reason = reason
        row.finished_ns = at.time_ns if to_state in TERMINAL_RUN else 0

    def _move_workstream(self, at: _At, live: _Live, event: events.WorkstreamTransitioned) -> None:
        self._transitions.append(
            (
                at.position,
                at.idx,
                at.run,
                event.workstream,
                event.from_state,
                event.to_state,
                event.reason,
                event.actor,
                at.time_ns,
            )
        )
        if event.workstream == LINE:
            return
        row = self._workstream(live, event.workstream)
        self._move_patch_along(at, live, row, event)
        _tally(live.row, row.state, -1)
        _tally(live.row, event.to_state, 1)
        row.state = event.to_state
        row.reason = event.reason
        row.changed_ns = at.time_ns
        row.finished_ns = at.time_ns if event.to_state in TERMINAL_WORKSTREAM else 0
        _wait_no_longer(row)

    def _delay(self, live: _Live, event: events.StepDelayed) -> None:
        name = _owner(event.step)
        if not name:
            return
        row = self._workstream(live, name)
        row.waiting_for, row.waiting_reason, row.waiting_until_ns = event.cause, event.reason, _int64(event.until_ns)

    def _schedule(self, at: _At, live: _Live, event: events.StepScheduled) -> None:
        name, number = event.workstream, event.attempt
        if not 1 <= number <= _INT32 or self._attempt(live, name, number) is not None:
            return
        live.row.attempts += 1
        live.row.fix_attempts += event.step == "fix"
        if name == LINE:
            live.row.line_attempt = max(live.row.line_attempt, number)
        else:
            workstream = self._workstream(live, name)
            workstream.attempts += 1
            workstream.fix_iterations += event.step == "fix"
            workstream.last_attempt = max(workstream.last_attempt, number)
            workstream.started_ns = workstream.started_ns or at.time_ns
            if event.step in _PRODUCING:
                workstream.tool = event.tool
        owner = _owner(event)
        if owner in live.workstreams:
            _wait_no_longer(self._workstream(live, owner))
        row = AttemptRow(
            run=at.run,
            workstream=name,
            attempt=number,
            scheduled_position=at.position,
            scheduled_idx=at.idx,
            step=event.step,
            scheduled_ns=at.time_ns,
            on_behalf=event.on_behalf,
            tool=event.tool,
            reduction=_count(event.reduction),
            action=event.action,
            capability=event.capability,
            mechanical=_count(event.fix.mechanical) if event.fix is not None else 0,
            purpose="revert" if event.reverts else event.purpose or "",
            pool=event.pool,
            reason=event.reason,
            cap=event.cap or "",
            cap_nano=event.cap_nano,
        )
        if event.step in _JUDGING:
            row.commit, row.tree = event.input.commit, event.input.tree
        live.attempts[name, number] = row
        self._attempts[at.run, name, number] = row

    # The life of an attempt

    def _lived(self, at: _At, row: AttemptRow, event: _Life) -> None:
        if row.state in _CLOSED:
            return
        run, before = self._live[row.run].row, _account(row)
        self._moved_on(at, row, event)
        _tally_account(run, before, _account(row))

    def _learnt(self, at: _At, place: Place, result: events.StepFinished) -> None:
        """What an attempt has cost, told beside its close: it counts where the close did not know, or only a part."""
        row = self._attempts.get((at.run, place.workstream, place.attempt))
        if row is None or not _adds(row, result):
            return
        run, before = self._live[row.run].row, _account(row)
        _spent(row, result)
        _tally_account(run, before, _account(row))

    def _moved_on(self, at: _At, row: AttemptRow, event: _Life) -> None:
        match event:
            case events.StepStarted():
                row.state = "started"
                row.executor = event.executor
                row.started_ns = at.time_ns
            case events.StepFinished():
                row.state = "finished"
                row.closed_ns = at.time_ns
                _result(row, event)
                live = self._live[row.run]
                if row.workstream == LINE:
                    self._patch_on_line(at, live, row, event)
                else:
                    workstream = self._workstream(live, row.workstream)
                    if row.step in _PRODUCING:
                        self._patch_made(at, live, row, event)
                    if event.error_class != "handed_back":
                        _executed(workstream, row.step)
                    if event.snapshot is not None and row.step in _PRODUCING:
                        workstream.commit, workstream.tree = event.snapshot.commit, event.snapshot.tree
            case events.StepCancelled():
                row.state = "cancelled"
                row.closed_ns = at.time_ns
                row.message = event.reason
                row.error_class = event.error_class or ""
            case events.StepLost():
                row.state = "lost"
                row.closed_ns = at.time_ns
                row.message = event.reason
                row.error_class = "lost"
                row.executor = row.executor or event.executor
            case _:
                assert_never(event)

    # The life of a patch

    def _patch_made(self, at: _At, live: _Live, attempt: AttemptRow, event: events.StepFinished) -> None:
        """The patch of an attempt, if it left one: from here on its workstream's, if the workstream goes on with it."""
        kept = next((artifact for artifact in event.artifacts if artifact.role == "patch"), None)
        if kept is None:
            return
        made = PatchRow(
            run=at.run,
            workstream=attempt.workstream,
            attempt=attempt.attempt,
            created_position=at.position,
            created_idx=at.idx,
            step=attempt.step,
            state="created",
            reason=f"{attempt.step} attempt {attempt.attempt}",
            digest=kept.digest,
            artifact=kept.name,
            size_bytes=_int64(kept.size_bytes),
            files=attempt.files,
            files_total=_count(event.files_total),
            created_ns=at.time_ns,
            changed_ns=at.time_ns,
        )
        self._patch_moved(at, made, "")
        if event.violations:
            outside = f"changed outside its scope: {', '.join(event.violations[:10])}"
            self._move_patch(at, made, "quarantined", event.message or outside)
        else:
            self._move_patch(at, made, "validated", "it is within its scope")
        if not _goes_on(attempt, event):
            self._move_patch(at, made, "dropped", f"not gone on with: {event.error_class or event.message}")
            return
        before = live.patches.get(made.workstream)
        if before is not None and before.state not in SETTLED:
            self._move_patch(at, before, "dropped", f"attempt {made.attempt} replaces it")
        live.patches[made.workstream] = made
        self._workstream(live, made.workstream).patch = made.attempt

    def _patch_on_line(self, at: _At, live: _Live, attempt: AttemptRow, event: events.StepFinished) -> None:
        if not event.ok or attempt.purpose:
            return  # what it leads to is decided
        if attempt.step == "merge":
            commit = event.snapshot.commit[:12] if event.snapshot is not None else ""
            self._patch_to(at, live, attempt.on_behalf, "applied", f"merged as {commit}")
        elif attempt.step == "gate":
            self._patch_to(at, live, attempt.on_behalf, "verified", "every check passed on the merged tree")

    def _taken_back(self, at: _At, live: _Live, event: events.MergeRefused) -> None:
        """A workstream is not staged any more, and neither is what was staged after it: that is merged again."""
        refused = self._workstream(live, event.workstream)
        later = [row for row in live.workstreams.values() if row.staged_at > refused.staged_at > 0]
        for row in [refused, *sorted(later, key=lambda one: one.staged_at)]:
            reason = event.message if row is refused else f"{event.workstream} was taken back, and this stood on it"
            row.staged_at = 0
            self._patch_to(at, live, row.workstream, "rolled_back", reason)
            if row is not refused:
                self._patch_to(at, live, row.workstream, "queued", "it is merged again")

    def _move_patch_along(
        self, at: _At, live: _Live, workstream: WorkstreamRow, event: events.WorkstreamTransitioned
    ) -> None:
        """What a move of a workstream means for its patch."""
        patch = live.patches.get(event.workstream)
        if patch is None:
            return
        if event.from_state == "ready" and patch.state == "quarantined" and event.to_state in _WITH_ITS_PATCH:
            self._move_patch(at, patch, "validated", workstream.reason or "let go on")
        match event.to_state:
            case "merging":
                self._move_patch(at, patch, "queued", event.reason or "it waits for the line")
            case "awaiting_review":
                self._move_patch(at, patch, "quarantined", event.reason or "its workstream awaits review")
            case "failed" | "cancelled" | "completed":
                if patch.state not in SETTLED:
                    self._move_patch(at, patch, "dropped", event.reason or f"its workstream is {event.to_state}")
            case "compensated":
                if patch.state != "dropped":
                    self._move_patch(at, patch, "rolled_back", event.reason or f"its workstream is {event.to_state}")
            case _:
                pass

    def _patch_to(self, at: _At, live: _Live, workstream: str, to: PatchState, reason: str) -> None:
        """Move the patch that a workstream goes on with, if it has one."""
        patch = live.patches.get(workstream)
        if patch is not None:
            self._move_patch(at, patch, to, reason)

    def _move_patch(self, at: _At, patch: PatchRow, to: PatchState, reason: str) -> None:
        """Make a move that exists; count one that does not. Where it is already it stays."""
        if to == patch.state:
            return
        self._patches[patch.run, patch.workstream, patch.attempt] = patch
        if why := refusal(patch.state, to, reason):
            patch.refused_moves += 1
            patch.refused = f"{why} (at {at.position})"
            return
        before, patch.state, patch.reason, patch.changed_ns = patch.state, to, reason, at.time_ns
        self._patch_moved(at, patch, before)

    def _patch_moved(self, at: _At, patch: PatchRow, before: str) -> None:
        self._patches[patch.run, patch.workstream, patch.attempt] = patch
        patch.moves += 1
        last = self._patch_moves[-1] if self._patch_moves else (0, 0, 0)
        turn = last[2] + 1 if last[:2] == (at.position, at.idx) else 0
        self._patch_moves.append(
            (
                at.position,
                at.idx,
                turn,
                patch.run,
                patch.workstream,
                patch.attempt,
                before,
                patch.state,
                patch.reason,
                at.time_ns,
            )
        )


def _goes_on(attempt: AttemptRow, event: events.StepFinished) -> bool:
    """Whether a workstream goes on with what an EDIT or FIX left; of a machine's FIX only with what is within the scope."""
    if event.snapshot is None or event.error_class in {"workspace_error", "unknown"}:
        return False
    return not (attempt.mechanical and event.violations)


_SEVERITY_OF_STATE = {
    "failed": "error",
    "compensation_failed": "error",
    "awaiting_review": "warning",
    "partial": "warning",
}
_SEVERITY_OF_KIND: dict[type, str] = {
    events.StepScheduled: "info",
    events.StepStarted: "debug",
    events.AttemptGranted: "debug",
    events.ProbeGranted: "debug",
    events.GrantReturned: "debug",
    events.RecoveryChosen: "warning",
    events.FixLoopEnded: "warning",
    events.GateFlaked: "warning",
    events.MergeRefused: "warning",
    events.FleetPaused: "warning",
    events.AccessRefused: "warning",
    events.ResultRefused: "warning",
    events.RunStopping: "warning",
    events.RollbackStarted: "warning",
    events.RevertStarted: "warning",
    events.StepLost: "error",
    events.ToolBreakerOpened: "error",
    events.DeliveryRefused: "error",
}
"""Of the kinds whose severity does not depend on what they tell; other kinds are `info`."""


def severity_of(event: AnyEvent | None) -> str:
    """How much an event is worth looking at: debug, info, warning, error, or critical for tampering; None is unreadable."""
    if event is None:
        return "error"
    known = _SEVERITY_OF_KIND.get(type(event))
    if known is not None:
        return known
    match event:
        case events.StepFinished():
            if event.ok:
                return "info"
            if event.error_class == "tampering":
                return "critical"
            return "warning" if event.error_class in {"check_failed", "handed_back", "no_change"} else "error"
        case events.WorkstreamTransitioned() | events.RunTransitioned():
            return _SEVERITY_OF_STATE.get(event.to_state, "info")
        case events.RunFinished() | events.RollbackFinished():
            return _SEVERITY_OF_STATE.get(event.state, "info")
        case events.StepCancelled():
            return "warning" if event.error_class is not None else "info"
        case events.BudgetReached():
            return "error" if event.threshold == "exceeded" else "warning"
        case events.RevertFinished():
            return "info" if event.state == "reverted" else "error"
        case _:
            return "info"


def _outline(raw: msgspec.Raw) -> tuple[str, str, int]:
    """Kind, workstream and attempt of an event that this version cannot read."""
    try:
        outline = _outline_decoder.decode(raw)
    except (ValueError, RecursionError):
        try:
            return _kind_decoder.decode(raw).kind, "", 0
        except (ValueError, RecursionError):
            return UNDECODABLE, "", 0
    return outline.kind, outline.workstream, outline.attempt


def _owner(step: events.StepScheduled) -> str:
    """The workstream that a step is about; '' for one of the line that is about none alone."""
    return step.on_behalf if step.workstream == LINE else step.workstream


def _wait_no_longer(row: WorkstreamRow) -> None:
    if row.waiting_for:
        row.waiting_for, row.waiting_reason, row.waiting_until_ns = "", "", 0


def _describe(row: RunRow, event: events.RunRequested | events.RunAccepted) -> None:
    row.actor = event.actor
    row.repository = event.repository
    row.base_commit = event.base_commit
    row.head_commit = event.base_commit
    row.workstreams = _count(event.workstreams)
    row.spec_digest = event.spec.digest
    row.labels = _encoder.encode(dict(sorted(event.labels.items()))).decode()
    row.tenant = event.tenant


def _result(row: AttemptRow, event: events.StepFinished) -> None:
    row.ok = event.ok
    row.error_class = event.error_class or ""
    row.message = event.message
    row.exit_code = None if event.exit_code is None else _int32(event.exit_code)
    row.files = _encoder.encode(event.files[:FILES_MAX]).decode()
    row.artifacts = _encoder.encode([_sized(artifact) for artifact in event.artifacts]).decode()
    row.checks_json = _encoder.encode(event.checks).decode()
    row.signature = event.signature
    row.tool_wall_s, row.wall_s = event.tool_wall_s, event.wall_s
    row.findings = _count(event.findings)
    row.session = event.session
    if _adds(row, event):
        _spent(row, event)
    if event.context is not None:
        row.context = event.context.decision
        row.left_out = _count(event.context.left_out)
        row.context_tokens = max(0, _int64(event.context.tokens))
    if event.snapshot is not None:
        row.commit, row.tree = event.snapshot.commit, event.snapshot.tree


def _adds(row: AttemptRow, result: events.StepFinished) -> bool:
    """Whether a result tells more of what an attempt has used and cost than is known: of several the dearest counts."""
    if result.usage is None and result.cost is None:
        return False
    if row.cost_nano is not None and not row.lower_bound:
        return False
    return (result.cost.nano_usd if result.cost is not None else 0) >= (row.cost_nano or 0)


def _spent(row: AttemptRow, result: events.StepFinished) -> None:
    row.provider, row.model = result.provider or row.provider, result.model or row.model
    if result.cost is not None:
        row.basis, row.price_table = result.cost.basis, result.cost.table
        row.cost_nano = None if result.cost.basis == "unknown" else result.cost.nano_usd
    if result.list_cost is not None and result.list_cost.basis != "unknown":
        row.list_cost_nano, row.price_table = result.list_cost.nano_usd, result.list_cost.table or row.price_table
    if result.usage is not None:
        row.input_tokens, row.output_tokens = result.usage.input_tokens, result.usage.output_tokens
        row.cache_read_tokens = result.usage.cache_read_tokens
        row.cache_write_tokens = result.usage.cache_write_tokens
        row.lower_bound = result.usage.lower_bound


def _account(row: AttemptRow) -> tuple[int, int, int, int, int, int]:
    """What an attempt adds to the sums of its run, in the order of their columns."""
    unpriced = bool(row.cap) and row.started_ns > 0 and row.state in _CLOSED and row.cost_nano is None
    return (
        row.cost_nano or 0,
        int(unpriced),
        row.input_tokens,
        row.cache_read_tokens,
        row.cache_write_tokens,
        row.output_tokens,
    )


def _tally_account(run: RunRow, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    if before == after:
        return
    columns = ("cost_nano", "unpriced", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    for column, left, right in zip(columns, before, after, strict=True):
        total = getattr(run, column) + right - left
        setattr(run, column, _count(total) if column == "unpriced" else max(0, _int64(total)))


def _sized(artifact: events.Artifact) -> events.Artifact:
    size_bytes = _int64(artifact.size_bytes)
    if size_bytes == artifact.size_bytes:
        return artifact
    return msgspec.structs.replace(artifact, size_bytes=size_bytes)


def _skip(row: WorkstreamRow, event: events.StepSkipped) -> None:
    _executed(row, event.step)
    if event.reason == "verdict_reused":
        row.verdicts_reused += len(event.checks) or 1


def _executed(row: WorkstreamRow, step: str) -> None:
    if step not in _STEPS:
        return
    steps = _steps_decoder.decode(row.steps_executed)
    if step not in steps:
        row.steps_executed = _encoder.encode([*steps, step]).decode()


def _tally(row: RunRow, state: str, change: int) -> None:
    match state:
        case "completed":
            row.completed = max(0, row.completed + change)
        case "failed":
            row.failed = max(0, row.failed + change)
        case "blocked":
            row.blocked = max(0, row.blocked + change)
        case "cancelled":
            row.cancelled = max(0, row.cancelled + change)
        case "awaiting_review":
            row.awaiting_review = max(0, row.awaiting_review + change)
        case _:
            pass


def _count(number: int) -> int:
    return max(0, _int32(number))


def _int32(number: int) -> int:
    return number if -_INT32 <= number <= _INT32 else max(-_INT32, min(_INT32, number))


def _int64(number: int) -> int:
    return number if -_INT64 <= number <= _INT64 else max(-_INT64, min(_INT64, number))
