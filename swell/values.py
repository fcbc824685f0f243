"""What the services are asked and what they answer, as plain frozen values; the protocol's comments say more.

Times are nanoseconds since 1970-01-01 UTC, 0 for not yet.
"""

from pathlib import Path
from typing import Any

import msgspec


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the services are: host:port each, the bearer token (empty: none), and the embedded cluster's folder, if any.

    `token_file`: where the token is read anew when it changes; it wins over `token`. `ca_file`: the authorities that may vouch
    for the services, PEM; with it everything goes by TLS. `certificate_file` and `key_file`: who we are to services that ask
    for certificates. `tls_name`: the name in their certificate, where it is not the host's.
    """

    scheduler: str
    ledger: str
    token: str = ""
    state_dir: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    tls_name: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to run; 0 for `max_workers` and `timeout_s` leaves the service's default."""

    max_workers: int = 0
    wave_delay_s: float = 0.0
    fail_fast: bool = False
    dry_run: bool = False
    timeout_s: float = 0.0
    stepwise: bool = False
    context_json: str = ""
    scheduling: str = ""
    review: str = ""
    budget_nano: int | None = None
    budget_mode: str = ""
    paused: bool = False
    pools: list[str] = []
    deliver: str = ""
    delivery_style: str = ""
    delivery_remote: str = ""
    delivery_credential: str = ""
    delivery_hook: str = ""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of, beside its bundles. `location` is the repository's path or URL."""

    location: str
    base_commit: str
    base_ref: str = ""
    options: Options = Options()
    run: str = ""
    checks_toml: bytes = b""
    tool_profiles_json: bytes = b""
    breaker_json: bytes = b""
    recovery_json: bytes = b""
    aim_registry_json: bytes = b""
    gates_json: bytes = b""
    actor: str = ""
    request_id: str = ""
    labels: dict[str, str] = {}
    tenant: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle file: its name for messages, and its bytes."""

    name: str
    content: bytes


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be said of a plan."""

    code: str
    workstream: str
    message: str
    remedy: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as the scheduler sees it; `report` is the whole of it."""

    valid: bool
    errors: list[Finding]
    warnings: list[Finding]
    waves: list[list[str]]
    report: dict[str, Any]


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The run as it was recorded; `position` is where its request stands in the log."""

    run: str
    position: int
    warnings: list[Finding]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the ledger knows it. Times are nanoseconds since 1970-01-01 UTC, 0 for not yet.

    `cost_nano` (nano-dollars) and the tokens are sums over its attempts; `unpriced` of these have a cost nobody knows.
    """

    run: str
    state: str
    reason: str
    actor: str
    repository: str
    base_commit: str
    head_commit: str
    delivered_ref: str
    delivered_commit: str
    workstreams: int
    completed: int
    failed: int
    blocked: int
    cancelled: int
    attempts: int
    fix_attempts: int
    waves_started: int
    submitted_ns: int
    finished_ns: int
    position: int
    spec_digest: str
    awaiting_review: int
    rollback: str
    rollback_reason: str
    delivered_remote: str
    labels: dict[str, str] = {}
    tenant: str = ""
    cost_nano: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0


class Wave(msgspec.Struct, frozen=True, kw_only=True):
    """A wave of a run, its number from 0. Times are nanoseconds since 1970-01-01 UTC, 0 for not yet."""

    run: str
    wave: int
    started_ns: int
    finished_ns: int
    workstreams: int


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are meant; what is empty or 0 leaves it open, and so does None for `tenant`. All that is given must hold.

    `tool`: one of its EDIT or FIX attempts was to use it. `labels` are `key=value`, or `key` for any value. `since_ns` and
    `until_ns` (excluded) are about the submission.
    """

    state: str = ""
    repository: str = ""
    tool: str = ""
    labels: tuple[str, ...] = ()
    tenant: str | None = None
    actor: str = ""
    since_ns: int = 0
    until_ns: int = 0


class RunChange(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has changed; `left` when it is no longer in the state that was asked for."""

    run: Run
    left: bool


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of the log: a position, or, where that is 0, the newest entry that the log took up to a time."""

    position: int = 0
    time_ns: int = 0


class Workstream(msgspec.Struct, frozen=True, kw_only=True):
    """A workstream as the ledger knows it. `wave` is -1 before it started; `patch` is the attempt whose patch it goes on with."""

    run: str
    workstream: str
    state: str
    reason: str
    wave: int
    steps_executed: list[str]
    fix_iterations: int
    attempts: int
    commit: str
    tree: str
    started_ns: int
    changed_ns: int
    finished_ns: int
    fix_limit: str
    verdicts_reused: int
    waiting_for: str
    waiting_reason: str
    waiting_until_ns: int
    recoveries: int
    tool: str
    patch: int


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A stored object; `role` is log, patch, names, diagnostics, bundle, prompt or spec."""

    role: str
    digest: str
    name: str
    size_bytes: int


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One tool invocation. `state` is scheduled, started, finished, cancelled or lost.

    `context`, of a tool that is handed files: fits, reduced (`left_out` says by how many) or too_large; "" for any other.
    Money is in nano-dollars: `cost_nano` is None where nobody knows, and `basis` says where it comes from.
    """

    run: str
    workstream: str
    attempt: int
    step: str
    state: str
    ok: bool
    error_class: str
    message: str
    executor: str
    exit_code: int | None
    scheduled_ns: int
    started_ns: int
    closed_ns: int
    commit: str
    tree: str
    on_behalf: str
    files: list[str]
    artifacts: list[Artifact]
    checks_json: str
    signature: str
    tool_wall_s: float
    late_facts: int
    tool: str
    reduction: int
    action: str
    capability: str
    context: str
    left_out: int
    context_tokens: int
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
    mechanical: int = 0
    purpose: str = ""


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt made of its workstream. `digest` is the SHA-256 of its bytes, `artifact` the name to read them by.

    `state` is created, validated, queued, applied, verified, committed, apply_failed, quarantined, dropped or rolled_back.
    """

    run: str
    workstream: str
    attempt: int
    step: str
    state: str
    reason: str
    digest: str
    artifact: str
    size_bytes: int
    files: list[str]
    files_total: int
    created_ns: int
    changed_ns: int
    moves: int
    refused_moves: int
    refused: str

    @property
    def kept(self) -> Artifact:
        """Its bytes, as an artifact."""
        return Artifact(role="patch", digest=self.digest, name=self.artifact, size_bytes=self.size_bytes)


class PatchMove(msgspec.Struct, frozen=True, kw_only=True):
    """A change of state of a patch, `from_state` empty for the first; `position` is the entry that led to it."""

    position: int
    run: str
    workstream: str
    attempt: int
    from_state: str
    to_state: str
    reason: str
    time_ns: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded fact; `payload` is the whole event."""

    position: int
    index: int
    kind: str
    run: str
    workstream: str
    attempt: int
    time_ns: int
    by: str
    payload: dict[str, Any]
    entry: str
    cause: str
    tool: str = ""
    severity: str = ""


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are meant; what is empty or 0 leaves it open. All that is given must hold.

    `since_ns` and `until_ns` (excluded) are times of the log; `after` is a position.
    """

    workstream: str = ""
    kinds: tuple[str, ...] = ()
    tool: str = ""
    severities: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = 0
    after: int = 0


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt with what was told of it: how it was scheduled, claimed and closed, and what came after."""

    attempt: Attempt
    scheduled: Event | None
    claim: Event | None
    close: Event | None
    late: list[Event]
    position: int


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of state of a run (`workstream` is "") or of a workstream."""

    position: int
    index: int
    run: str
    workstream: str
    from_state: str
    to_state: str
    reason: str
    actor: str
    time_ns: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts of one step of one workstream that failed in the same way; class, message and tool are those of the newest."""

    run: str
    workstream: str
    step: str
    signature: str
    error_class: str
    message: str
    count: int
    first_seen_ns: int
    last_seen_ns: int
    first_attempt: int
    last_attempt: int
    tool: str


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What a run (`workstream` is "") or a workstream waits for; `next` is what a person could do, if anything."""

    workstream: str
    state: str
    waiting_for: str
    on: list[str]
    since_ns: int
    until_ns: int
    reason: str
    next: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a run waits for: the run itself first, then its workstreams that have not ended, but for `left_out` of them.

    Without `definition_read` nobody knows which dependencies it has.
    """

    run: Run
    waits: list[Wait]
    left_out: int
    definition_read: bool
    position: int


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """Events as they came, possibly none; everything up to `position` has been delivered."""

    events: list[Event]
    position: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler said to a request; `position` is where the request stands in the log (0: asked before)."""

    position: int
    answer: str


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A run's money, in nano-dollars. `limit_nano` is None without a budget, and for a run that has ended.

    `unknown`: closed attempts that count as their whole cap, because nobody knows what they cost.
    """

    run: str
    limit_nano: int | None
    mode: str
    spent_nano: int
    reserved_nano: int
    unknown: int
    state: str


class SharedBudget(msgspec.Struct, frozen=True, kw_only=True):
    """The money of a tool, of a tenant, or (both are "") of the fleet today, in nano-dollars. `limit_nano` is None without a budget.

    `actor` has set the budget, "" where the configuration has. `unknown` as in Budget.
    """

    tool: str
    tenant: str
    limit_nano: int | None
    mode: str
    spent_nano: int
    reserved_nano: int
    unknown: int
    actor: str


class SharedSlots(msgspec.Struct, frozen=True, kw_only=True):
    """The slots of a pool that a tenant has ("": runs on behalf of nobody): granted, queued or under way.

    `concurrency` is what it may have in all pools, 0 for any number; `weight` its weight among those who want slots.
    `pool_slots` are those of the pool together, 0 where nobody counts them.
    """

    pool: str
    tenant: str
    used: int
    concurrency: int
    weight: int
    pool_slots: int


class SharedRate(msgspec.Struct, frozen=True, kw_only=True):
    """How fast attempts may begin, by provider or provider/model; 0 is any number, and for `opens_ns` now."""

    name: str
    attempts_per_min: int
    burst: int
    tokens_per_min: int
    opens_ns: int


class SharedBudgets(msgspec.Struct, frozen=True, kw_only=True):
    """What runs draw on together, on a day, UTC: the fleet first, then each tool, then each tenant that has a budget or was used."""

    day: str
    budgets: list[SharedBudget]
    rates: list[SharedRate]
    slots: list[SharedSlots]


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """A workstream that waits for a person, and what stopped it."""

    run: str
    workstream: str
    step: str
    error_class: str
    reason: str
    since_ns: int
    attempts: int
    commit: str


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed of a workstream in review; an empty field leaves things as they are."""

    tool: str = ""
    add_files_scope: list[str] = []
    add_files_create: list[str] = []
    hint: str = ""
    more_attempts: int = 0


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """The run that goes on: the same one, or a new one with these workstreams."""

    run: str
    new_run: bool
    workstreams: list[str]
    position: int
    answer: str


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a failed step: whether it may be run again, from `not_before_ns` on, and why."""

    recovered: bool
    strategy: str
    reason: str
    not_before_ns: int
    tool: str
    reduction: int


class Executor(msgspec.Struct, frozen=True, kw_only=True):
    """An executor as the scheduler sees it. `tools`: what it has found, by the id of the profile, with its version.

    `missing`: what it looked for and did not find, by the id, with the program. `version`: of Swell, "" when not told.
    `clock_ahead_ns`: how far its clock is ahead of the log's.
    """

    executor: str
    boot: str
    pool: str
    slots: int
    state: str
    since_ns: int
    reason: str
    tools: dict[str, str] = {}
    missing: dict[str, str] = {}
    version: str = ""
    clock_ahead_ns: int = 0


class ToolBreaker(msgspec.Struct, frozen=True, kw_only=True):
    """The breaker of a tool: closed, open (until `until_ns`) or half_open."""

    tool: str
    state: str
    failures: int
    until_ns: int
    reason: str


class FleetPause(msgspec.Struct, frozen=True, kw_only=True):
    """A pause across runs; `scope` is tool, pool or all."""

    scope: str
    name: str
    actor: str
    reason: str


class Scheduler(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler that answered; times in nanoseconds. `leader`: who leads, "" for nobody, None when it cannot tell.

    `version` is "" of one that is older than this answer. `halted`: why it decides nothing more. `snapshot_ns` is 0 for none.
    """

    name: str = ""
    version: str = ""
    server_time_ns: int = 0
    log_time_ns: int = 0
    position: int = 0
    caught_up: bool = False
    halted: str = ""
    leader: str | None = None
    snapshot_ns: int = 0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts that wait for an executor of the pool; times of the log, nanoseconds, 0 when none waits."""

    name: str
    waiting: int
    oldest_ns: int
    deadline_ns: int


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Executors, breakers and pauses, the scheduler that tells of them, and what waits in each pool."""

    executors: list[Executor]
    breakers: list[ToolBreaker]
    pauses: list[FleetPause]
    scheduler: Scheduler = Scheduler()
    pools: list[Pool] = []


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the ledger is, and who asks; the protocol's comments say more. `version` is "" of an older one."""

    position: int
    stream_last: int
    caught_up: bool
    rebuilding: bool
    verifying: bool
    events_per_s: float
    seconds_left: float
    file_bytes: int
    projection: int
    started_ns: int
    archived: int
    version: str = ""
    server_time_ns: int = 0
    disk_free_bytes: int = 0
    caller: str = ""
    role: str = ""
    tenants: list[str] = []


class VerifyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a verification is: `phase` is folding or comparing."""

    phase: str
    position: int
    end: int
    table: str
    rows: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A row, or a column of it, that is not what the log says; `kind` is changed, missing or extra."""

    table: str
    key: str
    kind: str
    column: str
    stored: str
    folded: str


class ArchiveProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far archiving is: up to `position` of `end`, or (purging) so many runs of so many."""

    phase: str
    position: int
    end: int


class ArchiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of archiving; `held_by` is the run that stops the archive at `archived_to` and `why`, empty if nothing does."""

    archived_to: int
    segments: int
    entries: int
    runs: int
    size_bytes: int
    purged_runs: int
    purged_entries: int
    kept_runs: int
    kept_why: str
    held_by: str
    why: str
    wall_s: float


class LedgerCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of the ledger's file: the tables as of `position`, where the chain has this hash."""

    position: int
    hash: str
    stream_created_ns: int
    size_bytes: int
    sha256: str


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a verification; `chain_broken_at` is 0 when the chain of hashes holds."""

    ok: bool
    position: int
    differences: int
    rows: int
    entries: int
    chain_broken_at: int
    hash: str
    wall_s: float


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """The hash of a position in hex, and when the stream of that position was created; 0 where nobody knows."""

    position: int
    hash: str
    stream_created_ns: int = 0


class AuditProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an audit is: `phase` is stored or log."""

    phase: str
    position: int
    end: int


class AuditFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not what was recorded; `anchor` counts those that were given, from 1, and is 0 for any other finding."""

    kind: str
    source: str
    table: str
    position: int
    until: int
    key: str
    column: str
    stored: str
    expected: str
    anchor: int
    text: str


class AuditResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an audit of the positions `start` to `end`; `hash` is the stored one at `end`."""

    ok: bool
    start: int
    end: int
    hash: str
    stream_created_ns: int
    findings: int
    entries: int
    events: int
    anchors: int
    logged: int
    unlogged: int
    wall_s: float


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs, or attempts, are looked at; '' and 0 leave a filter open, and so does None for `tenant`."""

    run: str = ""
    tool: str = ""
    provider: str = ""
    model: str = ""
    repository: str = ""
    labels: dict[str, str] = {}
    tenant: str | None = None
    since_ns: int = 0
    until_ns: int = 0


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What attempts of coding tools have cost, in nano-dollars: None where no cost is known; the protocol's comments say more."""

    key: list[str]
    cost_nano: int | None
    reported_nano: int
    list_nano: int
    estimate_nano: int
    unpriced: int
    list_cost_nano: int | None
    listed: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    attempts: int
    lower_bounds: int


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Costs by group, the dearest first; `groups` counts all rows, also those there was no room for."""

    rows: list[Costs]
    total: Costs
    groups: int
    price_tables: list[str]
    position: int


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, in seconds: a step with a tool, or (`step` empty) the wait in a pool."""

    step: str
    name: str
    count: int
    total_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float


class ToolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool achieved, of workstreams whose first EDIT it did; `unpriced` of the `attempts` that count have an unknown cost."""

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
    reason: str
    count: int


class CriticalLink(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of the time a run took: step, queue or wait."""

    kind: str
    workstream: str
    attempt: int
    step: str
    tool: str
    started_ns: int
    duration_s: float


class BudgetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands to its budget: ok, warning or exceeded; nano-dollars."""

    status: str
    limit_nano: int
    spent_nano: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A number that a recommendation rests on, and where it comes from."""

    name: str
    value: float
    source: str


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What measurements suggest."""

    category: str
    current_value: str
    recommended_value: str
    expected_improvement: str
    reasoning: str
    evidence: list[Evidence]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """What runs came to; None for a number that cannot be known. The protocol's comments say what each means."""

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
    critical_path: list[CriticalLink]
    recommendations: list[Recommendation]
    position: int


class QueryColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of an answer in SQL; `type` as DuckDB writes it."""

    name: str
    type: str


class QueryHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer in SQL is made of: its columns, the position it reflects, and how old that was, in seconds."""

    columns: list[QueryColumn]
    position: int
    age_s: float


class QueryEnd(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in SQL is whole."""

    rows: int
    wall_s: float
