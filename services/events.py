"""The facts Swell records: one frozen value per kind, with a written tag that never changes.

An event is past tense and cannot be refused afterwards. New fields have defaults; a changed meaning is a new kind.
Who writes which kind on which subject stands in docs/events.md, which a test compares with this module.

Units: `_s` seconds, `_ns` nanoseconds since 1970-01-01 UTC, `_bytes` bytes. Paths are relative to the repository.
"""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from services.context import Verdict as ContextVerdict
from services.outcome import BudgetMode, BudgetThreshold, Cap, Cost, NanoUsd, Usage

LINE = "_line"
"""The reserved pseudo-workstream that owns the merge, gate and delivery attempts of a run."""

Step = Literal["edit", "static", "runtime", "fix", "merge", "gate", "deliver", "compensate"]

WorkstreamState = Literal[
    "pending", "blocked", "ready", "editing", "static_check", "runtime_check", "fixing", "validating", "merging",
    "completed", "failed", "cancelled", "awaiting_review", "compensating", "compensated",
    "compensation_failed",
]  # fmt: skip
RunStatus = Literal["pending", "running", "paused", "completed", "partial", "failed", "cancelled"]

ErrorClass = Literal[
    "check_failed", "check_error", "no_change", "scope_violation", "tampering", "setup_error", "tool_missing", "tool_failed",
    "timeout", "idle_timeout", "queue_timeout", "lost", "handed_back", "auth", "rate_limited", "usage_limit",
    "overloaded", "server_error", "network", "model_not_found", "unsupported_params", "context_window", "output_limit",
    "refusal", "budget", "max_turns", "permission_denied", "merge_conflict", "delivery_refused", "workspace_error", "protocol_error", "unknown",
]  # fmt: skip
"""Why an attempt did not succeed; from what Swell and the tool's harness observed, never from model text."""

CheckOutcome = Literal["passed", "failed", "error", "not_executable"]
CheckKind = Literal["static", "runtime", "acceptance", "gate"]
FixLimit = Literal["max_fix_iterations", "oscillation_signature", "oscillation_tree", "not_fixable"]

ExecutorState = Literal["spawning", "idle", "busy", "draining", "terminated"]
Strategy = Literal["retry", "wait", "reduce_context", "fallback_tool", "review", "fail"]
"""What recovery does about a failed attempt; `wait` for a provider that refuses for now; `fail` where nobody is asked."""

Delay = Literal["retry", "tool_breaker", "tool_paused", "tool_missing", "budget", "limit"]
"""What a step waits for; `limit` is its share of what runs draw on together."""

Purpose = Literal["wave", "start", "search"]
"""What a step of the line is for, beside merging one workstream after another."""

PauseScope = Literal["run", "tool", "pool", "all"]
BudgetScope = Literal["run", "tool", "tenant", "fleet"]
"""Whose budget: a run's, or for each day, UTC, that of a tool or of the fleet."""
Verdict = Literal["approve", "reject", "adjust", "retry"]

DeliveryStyle = Literal["rebase", "squash", "merge"]
"""What is delivered: the line as it is, one commit for each workstream; one commit for all; or a merge of base and line."""

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


class Destination(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and how a verified head is delivered: to `refs/heads/swell/<run>` of `remote`, "" for the run's repository.

    `credential` refers to what the executor shows there, `env:NAME` or `file:/path`, never the thing itself. `hook` is the
    profile of a program that is called afterwards, "" for none.
    """

    style: DeliveryStyle = "rebase"
    remote: str = ""
    credential: str = ""
    hook: str = ""


class Delivered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands on the branch of a destination: `commit`, made of the verified `head`."""

    to: Destination
    commit: str
    head: str


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that can be said of a tree. `check` identifies its definition, so that verdicts can be reused."""

    check: str
    kind: CheckKind
    name: str


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict of one check on the tree of its attempt. `error` means the check itself could not judge.

    `optional`: a gate that only warns: whatever it says, the step does not fail for it. `tests`, `failures` and
    `skipped` count tests, as far as its report tells them; what broke counts as a failure, what was skipped as a test.
    """

    check: str
    kind: CheckKind
    name: str
    outcome: CheckOutcome
    exit_code: int | None = None
    wall_s: float = 0.0
    findings: int = 0
    message: Message = ""
    optional: bool = False
    tests: int | None = None
    failures: int | None = None
    skipped: int | None = None


class FixInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a FIX attempt is told: the check step that failed, its attempt, its diagnostics, earlier FIX attempts.

    `mechanical`: a program mends what a machine can, the so-manieth of `autofix` in swell.toml; the FIX loop does not count
    it. 0: a FIX tool does it.
    """

    step: Step
    attempt: int
    diagnostics: Artifact | None = None
    earlier_patches: list[Artifact] = []
    mechanical: Annotated[int, Meta(ge=0)] = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Common to all kinds: the tag field `kind`."""


# What users ask: subject `swell.event.<run>.request`


class RunRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_requested"):
    """Somebody submitted a run. `spec` is the run's whole definition (services/spec.py) by digest.

    `labels` are the submitter's own words to find the run and its cost by; `tenant` is on whose behalf it runs.
    """

    request_id: str
    actor: str
    spec: Artifact
    workstreams: int
    repository: str
    base_commit: str
    timeout_s: float = 0.0
    paused: bool = False
    labels: dict[str, str] = {}
    tenant: str = ""


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


class PauseRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="pause_requested"):
    """Nothing new is to be started; what runs goes on. `run` on a run's subject, the others on `swell.event.fleet.request`."""

    request_id: str
    actor: str
    scope: PauseScope = "run"
    name: str = ""
    reason: Message = ""


class ResumeRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="resume_requested"):
    """The end of a pause; for a tool also of its open breaker."""

    request_id: str
    actor: str
    scope: PauseScope = "run"
    name: str = ""
    reason: Message = ""


class ReviewRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="review_requested"):
    """What somebody decides about workstreams that await review; none named: all of the run.

    `approve` and `retry` go on at `from_step` (by default the step that stopped), `reject` fails them. `adjust` goes on
    by the definition `spec`, which was made from the one whose digest is `amends`.
    """

    request_id: str
    actor: str
    verdict: Verdict
    workstreams: list[str] = []
    from_step: Step | None = None
    spec: Artifact | None = None
    amends: str = ""
    reason: Message = ""


class RecoveryRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="recovery_requested"):
    """A failed step of a stepwise run is to be recovered from by the run's recovery table."""

    request_id: str
    actor: str
    workstream: str
    step: Step
    error_class: ErrorClass = "unknown"
    reason: Message = ""


class RollbackRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="rollback_requested"):
    """The completed work of a run that has ended is to be undone: by its compensation actions.

    With `workstreams`, only theirs, and by reverting it on the line; `with_dependents`, also what builds on it.
    """

    request_id: str
    actor: str
    reason: Message = ""
    workstreams: list[str] = []
    with_dependents: bool = False


class DeliveryRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="delivery_requested"):
    """Somebody asks for the delivery of the verified head; what is None is as the run's definition has it.

    `series`: nothing is pushed, the commits are kept as patches instead.
    """

    request_id: str
    actor: str
    style: DeliveryStyle | None = None
    remote: str | None = None
    credential: str | None = None
    series: bool = False
    reason: Message = ""


class BudgetRequested(Event, frozen=True, kw_only=True, omit_defaults=True, tag="budget_requested"):
    """Somebody asks for another budget, in nano-dollars; none without `limit_nano`.

    On a run's subject it is the run's. On the fleet's it is that of all runs together, or of the tool or tenant `name`, for
    each day.
    """

    request_id: str
    actor: str
    limit_nano: NanoUsd | None = None
    mode: BudgetMode = "halt"
    reason: Message = ""
    scope: BudgetScope = "run"
    name: str = ""


# Who was not let in: subject `swell.event.fleet.request`


class AccessRefused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="access_refused"):
    """Somebody may not make a call that would have changed something, and made it `count` times.

    `principal` is who called, "" for a stranger; `method` the call's full name; `reason` the UPPER_SNAKE reason of the answer;
    `run` the run that the first of these calls was about, "" where it named none.
    """

    principal: str
    method: str
    reason: str
    run: str = ""
    count: int = 1


# What the scheduler decides: subject `swell.event.<run>.run`


class RequestAnswered(Event, frozen=True, kw_only=True, omit_defaults=True, tag="request_answered"):
    """The answer to a request; `refused` carries the reason and what to do instead."""

    request_id: str
    answer: Literal["accepted", "refused", "done"]
    reason: Message = ""
    ok: bool = True


class RunAccepted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_accepted"):
    """The run exists. `deadline_ns` is when the run as a whole times out; `labels` and `tenant` are those of the request."""

    request_id: str
    actor: str
    spec: Artifact
    workstreams: int
    repository: str
    base_commit: str
    deadline_ns: int = 0
    labels: dict[str, str] = {}
    tenant: str = ""


class RunTransitioned(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_transitioned"):
    from_state: RunStatus
    to_state: RunStatus
    reason: Message = ""
    actor: str = "scheduler"
    cause: Literal["", "request", "review", "budget"] = ""


class RunAmended(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_amended"):
    """From here on the run is defined by `spec`: a person adjusted workstreams of it."""

    spec: Artifact
    amends: str
    workstreams: list[str]
    actor: str
    reason: Message = ""


class RunStopping(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_stopping"):
    """Nothing new is started; open attempts are closed, then the run ends as `outcome`."""

    outcome: RunStatus
    reason: Message
    actor: str = "scheduler"
    cause: Literal["", "run_timeout"] = ""


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
    `tool` is the profile that EDIT and FIX use, when it is not the one the definition names; `reduction` how many times
    the list of files it is given was halved. `action` is what a compensation does. `idle_timeout_s` of 0 is no limit.
    `reason` says why the step is not done as it is defined, such as with another tool while the first one's breaker is open.
    `cap_nano` is what the attempt may cost, reserved until its close, and `cap` whether anything holds it to that; an attempt
    without `cap` costs nothing. `capability` is what `tool` was chosen to serve by the AIM registry.
    `trusted`: a person has approved what the workstream changes of what judges it, so that is not looked for again.
    `purpose` of a step of the line: `wave` judges what is staged by the gates of a wave; `start` the head that the wave
    began with; `search` finds out which workstream made a gate red, and what it merges goes nowhere.
    Of a merge: `tools` have made what is merged, and `cost_nano` is what that has cost (None: no tool that costs); `reverts`
    says that the work of `on_behalf` is taken out, `base` being the head with it and `theirs` the head before it; the gate
    of what is left says so too.
    Of a delivery: `delivery` is where to and how (None: as the line is, to the run's repository), `series` asks for patches
    in the place of a push, and `request_id` is the request that it answers. `deliveries` are the branches that a
    compensation may withdraw; none: that of the run's repository.
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
    tool: str = ""
    reduction: int = 0
    action: str = ""
    idle_timeout_s: float = 0.0
    reason: Message = ""
    cap: Cap | None = None
    cap_nano: NanoUsd = 0
    capability: str = ""
    trusted: bool = False
    purpose: Purpose | None = None
    tools: list[str] = []
    cost_nano: NanoUsd | None = None
    reverts: bool = False
    delivery: Destination | None = None
    series: bool = False
    request_id: str = ""
    deliveries: list[Delivered] = []


class StepDelayed(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_delayed"):
    """A step is decided and not scheduled yet: `cause` and `reason` say what it waits for, `until_ns` (0: unknown) how long.

    `step` is what will be scheduled; its attempt number, deadline and tool are settled then.
    """

    step: StepScheduled
    cause: Delay
    reason: Message
    until_ns: int = 0


class RecoveryChosen(Event, frozen=True, kw_only=True, omit_defaults=True, tag="recovery_chosen"):
    """What follows from a failed attempt, by the run's recovery table, and why.

    `tool` and `reduction` are in force for the step from here on; `replaced` is the tool until then. `attempt` is 0 where
    none was made.
    """

    workstream: str
    step: Step
    attempt: int
    error_class: ErrorClass
    strategy: Strategy
    reason: Message
    tool: str = ""
    reduction: int = 0
    not_before_ns: int = 0
    replaced: str = ""


class ReviewResolved(Event, frozen=True, kw_only=True, omit_defaults=True, tag="review_resolved"):
    """A person's verdict on a workstream that awaited review; the transition it leads to stands in the same entry."""

    workstream: str
    verdict: Verdict
    actor: str
    request_id: str = ""
    from_step: Step | None = None
    reason: Message = ""


class BudgetChanged(Event, frozen=True, kw_only=True, omit_defaults=True, tag="budget_changed"):
    """From here on the run has this budget, in nano-dollars; none without `limit_nano`.

    Across runs it is that of the fleet, or of the tool or tenant `name`, for each day, and beats what the configuration says.
    """

    actor: str
    limit_nano: NanoUsd | None = None
    mode: BudgetMode = "halt"
    reason: Message = ""
    scope: BudgetScope = "run"
    name: str = ""


class BudgetReached(Event, frozen=True, kw_only=True, omit_defaults=True, tag="budget_reached"):
    """What was spent has reached 0.8 of a budget (`warning`), or all of it (`exceeded`); each is told once for a budget.

    `workstream` is empty for the budget of the run. Across runs it is the budget of the tool `tool` or of the tenant `tenant`,
    or of the fleet where none is named, for the day `day`, such as 2026-11-23. Amounts are in nano-dollars.
    """

    threshold: BudgetThreshold
    limit_nano: NanoUsd
    spent_nano: NanoUsd
    reserved_nano: NanoUsd = 0
    mode: BudgetMode = "halt"
    workstream: str = ""
    tool: str = ""
    day: str = ""
    tenant: str = ""


class StepSkipped(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_skipped"):
    """A step needed no attempt: nothing is configured (`noop`), or its verdict on this tree is known (`verdict_reused`).

    `sources` are the attempts of other runs, `<run>/<workstream>/<n>`, by whose verdicts it is known.
    """

    workstream: str
    step: Step
    tree: str
    reason: Literal["noop", "verdict_reused", "nothing_to_merge", "dry_run"]
    checks: list[Check] = []
    sources: list[str] = []


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


class MergeStaged(Event, frozen=True, kw_only=True, omit_defaults=True, tag="merge_staged"):
    """`workstream` is merged and passed its gates on top of what is staged; the gates of the wave have not passed it yet.

    `from_commit` is the end of what was staged before, or the head. What is staged is nobody's base.
    """

    workstream: str
    from_commit: str
    to: Snapshot


class MergePostponed(Event, frozen=True, kw_only=True, omit_defaults=True, tag="merge_postponed"):
    """A merge onto what is staged did not succeed: it is tried again once that is verified or taken back."""

    workstream: str
    reason: Message


class MergeRefused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="merge_refused"):
    """A merge did not become the head: it conflicts (`files`, `others`), or the merged tree is red.

    `onto` is the commit that the workstream goes on from, and `result` what the merge made there: a tree with conflict
    markers, or the red one; both are missing when it cannot be mended. `diagnostics` is what a FIX is told.
    `gate` is the check that was red. With `taken_back`, what was staged as that workstream and all that was staged after
    it are not any more; the later ones are merged again, unless they are refused as well.
    """

    workstream: str
    reason: Literal["conflict", "red", "error"]
    message: Message
    files: list[str] = []
    others: list[str] = []
    onto: Snapshot | None = None
    result: Snapshot | None = None
    diagnostics: Artifact | None = None
    gate: str = ""
    taken_back: bool = False


class GateFlaked(Event, frozen=True, kw_only=True, omit_defaults=True, tag="gate_flaked"):
    """A gate failed and passed on one and the same tree: it tells nothing about any workstream."""

    gate: str
    check: str
    tree: str
    failures: int


class LineDelivered(Event, frozen=True, kw_only=True, omit_defaults=True, tag="line_delivered"):
    """The verified head is the branch `ref` of the destination, by default of the run's repository.

    `commit` stands on the branch; `head` is what it was made of, where that is another one. `warning` says how the program
    failed that was to be called afterwards.
    """

    ref: str
    commit: str
    head: str = ""
    to: Destination | None = None
    warning: Message = ""


class DeliveryRefused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="delivery_refused"):
    """The repository did not take the verified head: the branch is not where the last delivery left it, or is in use."""

    ref: str
    commit: str
    reason: Message
    to: Destination | None = None


class RevertStarted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="revert_started"):
    """The work of these workstreams is being taken off the line, the one that was merged last first."""

    request_id: str
    actor: str
    workstreams: list[str]
    reason: Message = ""


class IntegrationReverted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="integration_reverted"):
    """The head of the run's line moved: `workstreams` are no longer on it, and the new tree passed every check of what is left."""

    workstreams: list[str]
    from_commit: str
    to: Snapshot


class RevertFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="revert_finished"):
    """`reverted`: the head is another one, and stands wherever the run was delivered; `undelivered`: not everywhere.

    `refused`: it conflicts (`files`), or what is left is red without it: nothing moved.
    """

    state: Literal["reverted", "undelivered", "refused"]
    workstreams: list[str]
    reason: Message = ""
    files: list[str] = []


class RollbackStarted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="rollback_started"):
    """Completed workstreams are compensated one after another, the last of the plan first."""

    request_id: str
    actor: str
    workstreams: int
    reason: Message = ""


class RollbackFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="rollback_finished"):
    """Every completed workstream was looked at. `remaining` are those whose actions did not all succeed."""

    state: Literal["compensated", "compensation_failed"]
    compensated: int
    failed: int
    without_actions: int
    remaining: list[str] = []
    reason: Message = ""


class RunFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="run_finished"):
    state: RunStatus
    reason: Message
    completed: int
    failed: int
    blocked: int
    cancelled: int
    spent_nano: NanoUsd = 0


# What the scheduler decides across runs: subject `swell.event.fleet.run`


class FleetPaused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="fleet_paused"):
    """Nothing new is started that needs the tool or the pool `name`, or (`all`) at all."""

    scope: PauseScope
    name: str = ""
    actor: str = "scheduler"
    reason: Message = ""


class FleetResumed(Event, frozen=True, kw_only=True, omit_defaults=True, tag="fleet_resumed"):
    scope: PauseScope
    name: str = ""
    actor: str = "scheduler"
    reason: Message = ""


class ToolBreakerOpened(Event, frozen=True, kw_only=True, omit_defaults=True, tag="tool_breaker_opened"):
    """The tool failed `failures` times in a row, or its provider refuses for now: it is not started before `until_ns`.

    `tool` is a tool, or `provider:NAME` for every tool that has told that it works with this provider.
    """

    tool: str
    failures: int
    until_ns: int
    reason: Message
    error_class: ErrorClass = "unknown"


class ToolBreakerHalfOpened(Event, frozen=True, kw_only=True, omit_defaults=True, tag="tool_breaker_half_opened"):
    """The time of an open breaker is over: one attempt may probe the tool."""

    tool: str


class ProbeGranted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="probe_granted"):
    """This attempt is the probe of a half-open breaker, if it is scheduled before `expires_ns`."""

    tool: str
    run: str
    workstream: str
    attempt: int
    expires_ns: int


class Rate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How fast attempts may begin that work with one provider, or with one of its models.

    `attempts_per_min`: so many attempts a minute; `burst` of them may begin at once. None: any number.
    `tokens_per_min`: so many tokens a minute. Those of an attempt are known when it closes, so the ones after it wait
    until they are paid off. None: any number.
    """

    attempts_per_min: Annotated[int, Meta(ge=1, le=60_000)] | None = None
    burst: Annotated[int, Meta(ge=1, le=10_000)] = 1
    tokens_per_min: Annotated[int, Meta(ge=1, le=10**12)] | None = None


class TenantShare(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a tenant may have of what runs share.

    `weight`: of a pool that several tenants want, each gets slots in proportion to its weight. `concurrency`: so many of its
    attempts may be under way at a time, in all pools; 0: any number. `budget_nano`: what it may spend each day, UTC, in
    nano-dollars; None: any amount.
    """

    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    concurrency: Annotated[int, Meta(ge=0, le=100_000)] = 0
    budget_nano: NanoUsd | None = None


class LimitsSet(Event, frozen=True, kw_only=True, omit_defaults=True, tag="limits_set"):
    """From here on these are the limits across runs that the scheduler's configuration names, and no others.

    `fleet_nano` and `tools_nano` are budgets for each day, UTC, in nano-dollars. `rates` are by provider, or by
    provider/model. `pools` are slots by pool: so many attempts of all runs at a time, 0 for as many as its executors carry.
    `tenants` are by name. In both, "*" stands for each that is not named.
    """

    fleet_nano: NanoUsd | None = None
    tools_nano: dict[str, NanoUsd] = {}
    mode: BudgetMode = "halt"
    rates: dict[str, Rate] = {}
    pools: dict[str, int] = {}
    tenants: dict[str, TenantShare] = {}


class AttemptGranted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="attempt_granted"):
    """This attempt has its share of what runs draw on together, and may be scheduled before `expires_ns`.

    `cap_nano` is reserved on the budgets of the fleet, of `tool` and of `tenant` for the day on which this stands in the log;
    with `cap` None the attempt costs nothing. It has a slot of `pool`, "" where none was counted.
    """

    run: str
    workstream: str
    attempt: int
    tool: str
    provider: str
    expires_ns: int
    model: str = ""
    cap: Cap | None = "none"
    cap_nano: NanoUsd = 0
    pool: str = ""
    tenant: str = ""


class GrantReturned(Event, frozen=True, kw_only=True, omit_defaults=True, tag="grant_returned"):
    """The attempt was not scheduled in time: what was reserved for it is free. `run` is named only across runs."""

    workstream: str
    attempt: int
    reason: Message
    run: str = ""


class ToolBreakerClosed(Event, frozen=True, kw_only=True, omit_defaults=True, tag="tool_breaker_closed"):
    tool: str
    reason: Message
    actor: str = "scheduler"


class ExecutorTransitioned(Event, frozen=True, kw_only=True, omit_defaults=True, tag="executor_transitioned"):
    """An executor came, began to drain, or went. Busy and idle are told by its attempts, so they are not recorded here."""

    executor: str
    boot: str
    pool: str
    slots: int
    from_state: ExecutorState
    to_state: ExecutorState
    reason: Message = ""


# The life of one attempt: subject `swell.event.<run>.<workstream>.<attempt>`


class StepStarted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_started"):
    """An executor claimed the attempt: the first entry on its subject."""

    executor: str
    boot: str


class HandedContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much of the files in its scope an AI tool was handed, by estimate, and what was left out.

    `tokens` are those of the files and the prompt together, `limit_tokens` what the window of its model has room for.
    """

    decision: ContextVerdict
    files: int = 0
    left_out: int = 0
    tokens: int = 0
    limit_tokens: int = 0


class StepFinished(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_finished"):
    """The attempt's close by its executor: what happened, on which tree, and where the evidence is.

    `ok` is the step's own success (for checks: all passed). `snapshot` is what the step produced (edit, fix, merge).
    `signature` identifies the failure (services/diagnostic.py). Lists are capped; `files_total` is the true count.
    From `usage` on: what an AI tool said of itself, in whole or as far as it got. `cost` is what counts: the tool's own
    figure, or, where it has none, `list_cost`, what the price table makes of the usage. `context` is our own word: what
    of its files a tool was handed that takes files; none for any other.
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
    usage: Usage | None = None
    cost: Cost | None = None
    list_cost: Cost | None = None
    model: str = ""
    provider: str = ""
    session: str = ""
    denials: list[str] = []
    retry_after_s: float = 0.0
    resets_at_ns: int = 0
    context: HandedContext | None = None


class StepCancelled(Event, frozen=True, kw_only=True, omit_defaults=True, tag="step_cancelled"):
    """The attempt's close by the scheduler: nobody wants it any more, or nobody claimed it in time."""

    reason: Message
    actor: str = "scheduler"
    error_class: ErrorClass | None = None


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
    """An executor came too late with its result, or was told to stop; what it had learnt is kept here, its work as well."""

    executor: str
    boot: str
    result: StepFinished


AnyEvent = (
    RunRequested
    | CancelRequested
    | StepRequested
    | PauseRequested
    | ResumeRequested
    | ReviewRequested
    | RecoveryRequested
    | RollbackRequested
    | DeliveryRequested
    | BudgetRequested
    | AccessRefused
    | RequestAnswered
    | RunAccepted
    | RunTransitioned
    | RunAmended
    | RunStopping
    | WaveStarted
    | WaveFinished
    | WorkstreamTransitioned
    | StepScheduled
    | StepDelayed
    | RecoveryChosen
    | ReviewResolved
    | BudgetChanged
    | BudgetReached
    | StepSkipped
    | FixLoopEnded
    | IntegrationAdvanced
    | MergeStaged
    | MergePostponed
    | MergeRefused
    | GateFlaked
    | LineDelivered
    | DeliveryRefused
    | RevertStarted
    | IntegrationReverted
    | RevertFinished
    | RollbackStarted
    | RollbackFinished
    | RunFinished
    | FleetPaused
    | FleetResumed
    | ToolBreakerOpened
    | ToolBreakerHalfOpened
    | ProbeGranted
    | LimitsSet
    | AttemptGranted
    | GrantReturned
    | ToolBreakerClosed
    | ExecutorTransitioned
    | StepStarted
    | StepFinished
    | StepCancelled
    | StepLost
    | ProcessesReaped
    | ResultRefused
)

_REQUESTS = (
    RunRequested,
    CancelRequested,
    StepRequested,
    PauseRequested,
    ResumeRequested,
    ReviewRequested,
    RecoveryRequested,
    RollbackRequested,
    DeliveryRequested,
    BudgetRequested,
    AccessRefused,
)
_STANDS_ON: dict[type, str] = {
    **dict.fromkeys(_REQUESTS, "request"),
    **dict.fromkeys((StepStarted, StepFinished, StepCancelled, StepLost), "attempt"),
    **dict.fromkeys((ProcessesReaped, ResultRefused), "late"),
}


def stands_on(event: AnyEvent) -> str:
    """The kind of subject on which an event means something: request, run, attempt or late.

    Who may write on a subject is the bus's to say. Executors write on those of attempts, so whatever else stands there is not
    believed: nothing is decided, asked for or commanded by it.
    """
    return _STANDS_ON.get(type(event), "run")


KINDS: frozenset[str] = frozenset(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))
"""The tags of all kinds, as they are written."""

TERMINAL_WORKSTREAM: frozenset[str] = frozenset(
    {"completed", "failed", "cancelled", "blocked", "compensated", "compensation_failed"}
)
TERMINAL_RUN: frozenset[str] = frozenset({"completed", "partial", "failed", "cancelled"})
