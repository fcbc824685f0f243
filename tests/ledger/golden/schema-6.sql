-- The ledger's tables. They are folded from the log and can be rebuilt from it at any time (services/ledger/projector.py
-- says what each column means). Times are nanoseconds since 1970-01-01 UTC, taken from the log. Lists are JSON text.
-- No secondary indexes: replaying them after a crash is where stores of this kind break.

-- The one row that says how far the tables reach: the position, id and hash of the entry absorbed last, the creation time
-- of the stream it came from (0 before the first start), and the version of the projection.
CREATE TABLE meta (
    projection INTEGER NOT NULL,
    stream_created_ns BIGINT NOT NULL,
    position BIGINT NOT NULL,
    entry VARCHAR NOT NULL,
    hash BLOB NOT NULL
);

-- Every message of the log as it was stored, chained by hash.
CREATE TABLE entries (
    position BIGINT NOT NULL,
    subject VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    id VARCHAR NOT NULL,
    "by" VARCHAR NOT NULL,
    at_ns BIGINT NOT NULL,
    time_ns BIGINT NOT NULL,
    cause VARCHAR NOT NULL,
    hash BLOB NOT NULL,
    raw BLOB NOT NULL
);

-- Every event of every entry.
CREATE TABLE events (
    position BIGINT NOT NULL,
    idx INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    workstream VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    time_ns BIGINT NOT NULL,
    payload VARCHAR NOT NULL
);

-- Every change of state of a run (workstream '') or a workstream.
CREATE TABLE transitions (
    position BIGINT NOT NULL,
    idx INTEGER NOT NULL,
    run VARCHAR NOT NULL,
    workstream VARCHAR NOT NULL,
    from_state VARCHAR NOT NULL,
    to_state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    actor VARCHAR NOT NULL,
    time_ns BIGINT NOT NULL
);

CREATE TABLE runs (
    run VARCHAR PRIMARY KEY,
    first_position BIGINT NOT NULL,
    position BIGINT NOT NULL,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    actor VARCHAR NOT NULL,
    repository VARCHAR NOT NULL,
    base_commit VARCHAR NOT NULL,
    head_commit VARCHAR NOT NULL,
    delivered_ref VARCHAR NOT NULL,
    delivered_commit VARCHAR NOT NULL,
    workstreams INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    blocked INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    awaiting_review INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    fix_attempts INTEGER NOT NULL,
    line_attempt INTEGER NOT NULL,
    waves_started INTEGER NOT NULL,
    submitted_ns BIGINT NOT NULL,
    finished_ns BIGINT NOT NULL,
    spec_digest VARCHAR NOT NULL,
    request_id VARCHAR NOT NULL,
    accepted BOOLEAN NOT NULL,
    rollback VARCHAR NOT NULL,
    rollback_reason VARCHAR NOT NULL,
    delivered_remote VARCHAR NOT NULL
);

CREATE TABLE workstreams (
    run VARCHAR NOT NULL,
    workstream VARCHAR NOT NULL,
    ordinal INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    wave INTEGER NOT NULL,
    steps_executed VARCHAR NOT NULL,
    fix_iterations INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    last_attempt INTEGER NOT NULL,
    commit VARCHAR NOT NULL,
    tree VARCHAR NOT NULL,
    started_ns BIGINT NOT NULL,
    changed_ns BIGINT NOT NULL,
    finished_ns BIGINT NOT NULL,
    fix_limit VARCHAR NOT NULL,
    verdicts_reused INTEGER NOT NULL,
    waiting_for VARCHAR NOT NULL,
    waiting_reason VARCHAR NOT NULL,
    waiting_until_ns BIGINT NOT NULL,
    recoveries INTEGER NOT NULL,
    tool VARCHAR NOT NULL,
    patch INTEGER NOT NULL,
    staged_at BIGINT NOT NULL,
    PRIMARY KEY (run, workstream)
);

CREATE TABLE attempts (
    run VARCHAR NOT NULL,
    workstream VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    scheduled_position BIGINT NOT NULL,
    scheduled_idx INTEGER NOT NULL,
    step VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    ok BOOLEAN NOT NULL,
    error_class VARCHAR NOT NULL,
    message VARCHAR NOT NULL,
    executor VARCHAR NOT NULL,
    exit_code INTEGER,
    scheduled_ns BIGINT NOT NULL,
    started_ns BIGINT NOT NULL,
    closed_ns BIGINT NOT NULL,
    commit VARCHAR NOT NULL,
    tree VARCHAR NOT NULL,
    on_behalf VARCHAR NOT NULL,
    files VARCHAR NOT NULL,
    artifacts VARCHAR NOT NULL,
    checks_json VARCHAR NOT NULL,
    signature VARCHAR NOT NULL,
    tool_wall_s DOUBLE NOT NULL,
    late_facts INTEGER NOT NULL,
    tool VARCHAR NOT NULL,
    reduction INTEGER NOT NULL,
    action VARCHAR NOT NULL,
    capability VARCHAR NOT NULL,
    context VARCHAR NOT NULL,
    left_out INTEGER NOT NULL,
    context_tokens BIGINT NOT NULL,
    mechanical INTEGER NOT NULL,
    purpose VARCHAR NOT NULL,
    PRIMARY KEY (run, workstream, attempt)
);

-- What EDIT and FIX attempts made of their workstreams, each in its state (services/ledger/patches.py); the bytes are artifacts.
CREATE TABLE patches (
    run VARCHAR NOT NULL,
    workstream VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    created_position BIGINT NOT NULL,
    created_idx INTEGER NOT NULL,
    step VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    artifact VARCHAR NOT NULL,
    size_bytes BIGINT NOT NULL,
    files VARCHAR NOT NULL,
    files_total INTEGER NOT NULL,
    created_ns BIGINT NOT NULL,
    changed_ns BIGINT NOT NULL,
    moves INTEGER NOT NULL,
    refused_moves INTEGER NOT NULL,
    refused VARCHAR NOT NULL,
    PRIMARY KEY (run, workstream, attempt)
);

-- Every change of state of a patch, in order; nothing here is ever changed. `turn` tells the moves of one event apart.
CREATE TABLE patch_history (
    position BIGINT NOT NULL,
    idx INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    run VARCHAR NOT NULL,
    workstream VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    from_state VARCHAR NOT NULL,
    to_state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    time_ns BIGINT NOT NULL
);

-- One record for each invocation of a tool by way of the AIM registry: attempts that serve a capability and were claimed.
-- `timestamp` is when it began, RFC 3339 in UTC; `actor` who asked for the run; `payload` the digest of the prompt that the
-- tool was given, empty while it runs or where it was given none; `result` ok, an error class, or the attempt's state.
CREATE VIEW aim_audit AS
SELECT
    strftime(make_timestamp(a.started_ns // 1000), '%Y-%m-%dT%H:%M:%S.%fZ') AS timestamp,
    coalesce(r.actor, '') AS actor,
    a.tool AS tool_id,
    a.capability AS capability,
    coalesce(
        list_filter(
            from_json(a.artifacts, '[{"role": "VARCHAR", "digest": "VARCHAR"}]'), lambda kept: kept.role = 'prompt'
        )[1].digest,
        ''
    ) AS payload,
    CASE WHEN a.ok THEN 'ok' WHEN a.error_class <> '' THEN a.error_class ELSE a.state END AS result
FROM attempts a LEFT JOIN runs r ON r.run = a.run
WHERE a.capability <> '' AND a.started_ns > 0;

-- Every executor that was seen, as its newest start left it. `terminated_ns` is 0 unless its state is terminated.
CREATE TABLE executors (
    executor VARCHAR PRIMARY KEY,
    first_position BIGINT NOT NULL,
    first_idx INTEGER NOT NULL,
    boot VARCHAR NOT NULL,
    pool VARCHAR NOT NULL,
    slots INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    since_ns BIGINT NOT NULL,
    reason VARCHAR NOT NULL,
    started_ns BIGINT NOT NULL,
    terminated_ns BIGINT NOT NULL
);

-- The breaker of every tool that ever had one open.
CREATE TABLE tool_breakers (
    tool VARCHAR PRIMARY KEY,
    state VARCHAR NOT NULL,
    failures INTEGER NOT NULL,
    opened_ns BIGINT NOT NULL,
    until_ns BIGINT NOT NULL,
    reason VARCHAR NOT NULL,
    error_class VARCHAR NOT NULL
);

-- What is paused for all runs. Few rows, which come and go: replaced as a whole, hence no key.
CREATE TABLE pauses (
    scope VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    actor VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    since_ns BIGINT NOT NULL
);
