"""The facts Swell records: one frozen value per kind, with a written tag that never changes.

An event is past tense and cannot be refused afterwards. New fields have defaults; a changed meaning is a new kind.
Who writes which kind on which subject stands in docs/events.md, which a test compares with this module.

Units: `_s` seconds, `_ns` nanoseconds since 1970-01-01 UTC, `_bytes` bytes. Paths are relative to the repository.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

LINE = "_line"
"""The reserved pseudo-workstream that owns the merge, gate and delivery attempts of a run."""

Step = Literal["edit", "static", "runtime", "fix", "merge", "gate", "deliver", "compensate"]

WorkstreamState = Literal[
    "pending", "blocked", "ready", "editing", "static_check", "runtime_check", "fixing", "validating", "merging",
    "completed", "failed", "cancelled", "awaiting_review", "invalidated", "compensating", "compensated",
    "compensation_failed",
]  # fmt: skip
RunStatus = Literal["pending", "running", "paused", "completed", "partial", "failed", "cancelled"]

ErrorClass = Literal[
    "check_failed", "check_error", "no_change", "scope_violation", "setup_error", "tool_missing", "tool_failed",
    "timeout", "merge_conflict", "delivery_refused", "workspace_error", "protocol_error", "unknown",
]  # fmt: skip
"""Why an attempt did not succeed; from what Swell and the tool's harness observed, never from model text."""

CheckOutcome = Literal["passed", "failed", "error", "not_executable"]
CheckKind = Literal["static", "runtime", "acceptance"]
FixLimit = Literal["max_fix_iterations", "oscillation_signature", "oscillation_tree", "not_fixable"]

Message = Annotated[str, Meta(max_length=2000)]


class Artifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored object: what it is called, what it holds, and the SHA-256 that proves it."""

    role: str
    digest: str
    name: str
    size_bytes: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A git commit and its tree. `bundle` carries it between executors; none when the repository itself has it."""

    commit: str
    tree: str
    bundle: Artifact | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that can be said of a tree. `check` identifies its definition, so that verdicts can be reused."""

    check: str
    kind: CheckKind
    name: str


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict of one check on the tree of its attempt. `error` means the check itself could not judge."""

    check: str
    kind: CheckKind
    name: str
    outcome: CheckOutcome
    exit_code: int | None = None
    wall_s: float = 0.0
    findings: int = 0
    message: Message = ""


class FixInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a FIX attempt is told: the check step that failed, its attempt, its diagnostics, earlier FIX attempts."""

    step: Step
    attempt: int
    diagnostics: Artifact | None = None
    earlier_patches: list[Artifact] = []


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Common to all kinds: the tag field `kind`."""


# What users ask: subject `swell.event.<run>.request`


class RunRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_requested"):
    """Somebody submitted a run. `spec` is the run's whole definition (services/spec.py) by digest."""

    request_id: str
    actor: str
    spec: Artifact
    workstreams: int
    repository: str
    base_commit: str
    timeout_s: float = 0.0


class CancelRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="cancel_requested"):
    request_id: str
    actor: str
    reason: Message = ""


class StepRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_requested"):
    """One step of one workstream of a stepwise run is asked for; `with_fix` drives its FIX loop to an end as well."""

    request_id: str
    actor: str
    workstream: str
    step: Step
    with_fix: bool = False


# What the scheduler decides: subject `swell.event.<run>.run`


class RequestAnswered(Event, frozen=True, kw_only=True, omit_defaults=True, tag="request_answered"):
    """The answer to a request; `refused` carries the reason and what to do instead."""

    request_id: str
    answer: Literal["accepted", "refused", "done"]
    reason: Message = ""
    ok: bool = True


class RunAccepted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_accepted"):
    """The run exists. `deadline_ns` is when the run as a whole times out."""

    request_id: str
    actor: str
    spec: Artifact
    workstreams: int
    repository: str
    base_commit: str
    deadline_ns: int = 0


class RunTransitioned(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_transitioned"):
    from_state: RunStatus
    to_state: RunStatus
    reason: Message = ""
    actor: str = "scheduler"


class RunStopping(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_stopping"):
    """Nothing new is started; open attempts are closed, then the run ends as `outcome`."""

    outcome: RunStatus
    reason: Message
    actor: str = "scheduler"


class WaveStarted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="wave_started"):
    """These workstreams are the wave's; `more` follow in another event of the same wave when the list is long."""

    wave: int
    workstreams: list[str]
    more: bool = False


class WaveFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="wave_finished"):
    """Every workstream of the wave is settled and merged or failed. The next wave starts no earlier than `next_not_before_ns`."""

    wave: int
    next_not_before_ns: int = 0


class WorkstreamTransitioned(Event, frozen=True, kw_only=True, omit_defaults=True, tag="workstream_transitioned"):
    workstream: str
    from_state: WorkstreamState
    to_state: WorkstreamState
    reason: Message = ""
    actor: str = "scheduler"


class StepScheduled(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_scheduled"):
    """An attempt exists. Everything its command needs, so that the command can be derived again.

    `workstream` is `_line` for merge, gate and delivery; `on_behalf` then names the workstream being merged.
    `base` is where the workstream started; for a delivery, what was delivered last.
    `checks` are what has to be judged; when they are too many to name, `every_check` stands for all that the definition
    asks of this step. `merged` are half-open ranges over the plan's order: the workstreams on the line that a gate answers for.
    """

    workstream: str
    attempt: int
    step: Step
    pool: str
    input: Snapshot
    timeout_s: float
    queue_deadline_ns: int
    base: Snapshot | None = None
    on_behalf: str = ""
    theirs: Snapshot | None = None
    checks: list[Check] = []
    every_check: bool = False
    merged: list[tuple[int, int]] = []
    fix: FixInput | None = None
    dry_run: bool = False


class StepSkipped(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_skipped"):
    """A step needed no attempt: nothing is configured (`noop`), or its verdict on this tree is known (`verdict_reused`)."""

    workstream: str
    step: Step
    tree: str
    reason: Literal["noop", "verdict_reused", "nothing_to_merge", "dry_run"]
    checks: list[Check] = []


class FixLoopEnded(Event, frozen=True, kw_only=True, omit_defaults=True, tag="fix_loop_ended"):
    """The FIX loop of a step was stopped; `limit` names what tripped."""

    workstream: str
    step: Step
    limit: FixLimit
    reason: Message


class IntegrationAdvanced(Event, frozen=True, kw_only=True, omit_defaults=True, tag="integration_advanced"):
    """The head of the run's line moved: `workstream` is merged, and the new tree passed every required check."""

    workstream: str
    from_commit: str
    to: Snapshot


class MergeRefused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="merge_refused"):
    """A merge did not become the head: it conflicts (`files`, `others`), or the merged tree is red."""

    workstream: str
    reason: Literal["conflict", "red", "error"]
    message: Message
    files: list[str] = []
    others: list[str] = []


class LineDelivered(Event, frozen=True, kw_only=True, omit_defaults=True, tag="line_delivered"):
    """The verified head is the branch `ref` of the repository."""

    ref: str
    commit: str


class DeliveryRefused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="delivery_refused"):
    """The repository did not take the verified head: the branch is not where the last delivery left it, or is in use."""

    ref: str
    commit: str
    reason: Message


class RunFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_finished"):
    state: RunStatus
    reason: Message
    completed: int
    failed: int
    blocked: int
    cancelled: int


# The life of one attempt: subject `swell.event.<run>.<workstream>.<attempt>`


class StepStarted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_started"):
    """An executor claimed the attempt: the first entry on its subject."""

    executor: str
    boot: str


class StepFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_finished"):
    """The attempt's close by its executor: what happened, on which tree, and where the evidence is.

    `ok` is the step's own success (for checks: all passed). `snapshot` is what the step produced (edit, fix, merge).
    `signature` identifies the failure (services/diagnostic.py). Lists are capped; `files_total` is the true count.
    """

    ok: bool
    error_class: ErrorClass | None = None
    message: Message = ""
    exit_code: int | None = None
    snapshot: Snapshot | None = None
    changed: bool = False
    files: list[str] = []
    files_total: int = 0
    violations: list[str] = []
    conflicts: list[str] = []
    others: list[str] = []
    discarded: list[str] = []
    checks: list[CheckResult] = []
    signature: str = ""
    findings: int = 0
    artifacts: list[Artifact] = []
    tool_wall_s: float = 0.0
    wall_s: float = 0.0
    dry_run: bool = False


class StepCancelled(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_cancelled"):
    """The attempt's close by the scheduler: nobody wants it any more, or nobody claimed it in time."""

    reason: Message
    actor: str = "scheduler"


class StepLost(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_lost"):
    """The attempt's close by the scheduler: its executor is gone."""

    reason: Message
    executor: str = ""


# Facts of an attempt that is closed already: subject `swell.event.<run>.<workstream>.<attempt>.late`


class ProcessesReaped(Event, frozen=True, kw_only=True, omit_defaults=True, tag="processes_reaped"):
    """No process of the attempt lives any more on this executor."""

    executor: str
    boot: str
    processes: int


class ResultRefused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="result_refused"):
    """An executor came too late with its result; what it had learnt is kept here."""

    executor: str
    boot: str
    result: StepFinished


AnyEvent = (
    RunRequested
    | CancelRequested
    | StepRequested
    | RequestAnswered
    | RunAccepted
    | RunTransitioned
    | RunStopping
    | WaveStarted
    | WaveFinished
    | WorkstreamTransitioned
    | StepScheduled
    | StepSkipped
    | FixLoopEnded
    | IntegrationAdvanced
    | MergeRefused
    | LineDelivered
    | DeliveryRefused
    | RunFinished
    | StepStarted
    | StepFinished
    | StepCancelled
    | StepLost
    | ProcessesReaped
    | ResultRefused
)

TERMINAL_WORKSTREAM: frozenset[str] = frozenset(
    {"completed", "failed", "cancelled", "blocked", "compensated", "compensation_failed"}
)
TERMINAL_RUN: frozenset[str] = frozenset({"completed", "partial", "failed", "cancelled"})
