-- The views that questions in SQL are asked of: what they are called and mean is promised, and `swell sql --schema` prints it.
-- They are made in each snapshot of the ledger's file, over its tables, which may change with any version.
-- Times are TIMESTAMP in UTC, to the microsecond; money is DECIMAL in US dollars; lists and objects are JSON. What did not
-- happen is NULL; a text that nobody gave is empty.

CREATE SCHEMA swell;

CREATE VIEW swell.ledger AS
SELECT
    position,
    entry,
    lower(hex(hash)) AS hash,
    make_timestamp(nullif(stream_created_ns, 0) // 1000) AS stream_created_at,
    projection
FROM main.meta;
COMMENT ON VIEW swell.ledger IS 'How far the ledger has come; one row';
COMMENT ON COLUMN swell.ledger.position IS 'The newest position of the log that this snapshot holds';
COMMENT ON COLUMN swell.ledger.entry IS 'The id of the entry there';
COMMENT ON COLUMN swell.ledger.hash IS 'The hash of the chain up to there, in hex';
COMMENT ON COLUMN swell.ledger.stream_created_at IS 'When the log was made';
COMMENT ON COLUMN swell.ledger.projection IS 'The version of the projection';

CREATE VIEW swell.runs AS
SELECT
    run,
    state,
    reason,
    actor,
    tenant,
    labels::JSON AS labels,
    repository,
    base_commit,
    head_commit,
    delivered_ref,
    delivered_commit,
    delivered_remote,
    workstreams,
    completed,
    failed,
    blocked,
    cancelled,
    awaiting_review,
    attempts,
    fix_attempts,
    waves_started,
    make_timestamp(nullif(submitted_ns, 0) // 1000) AS submitted_at,
    make_timestamp(nullif(finished_ns, 0) // 1000) AS finished_at,
    (nullif(finished_ns, 0) - submitted_ns) / 1e9 AS duration_s,
    (cost_nano::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9)) AS cost_usd,
    cost_nano,
    unpriced,
    input_tokens,
    cache_read_tokens,
    cache_write_tokens,
    output_tokens,
    rollback,
    rollback_reason,
    spec_digest,
    request_id,
    accepted,
    first_position,
    position
FROM main.runs;
COMMENT ON VIEW swell.runs IS 'Every run';
COMMENT ON COLUMN swell.runs.run IS 'The run''s id';
COMMENT ON COLUMN swell.runs.state IS 'pending, running, paused, completed, partial, failed or cancelled';
COMMENT ON COLUMN swell.runs.reason IS 'Why it is in this state';
COMMENT ON COLUMN swell.runs.actor IS 'Who submitted it';
COMMENT ON COLUMN swell.runs.tenant IS 'For whom; empty where nobody said';
COMMENT ON COLUMN swell.runs.labels IS 'What was written on it: a JSON object of text to text, read as labels->>''team''';
COMMENT ON COLUMN swell.runs.repository IS 'The repository''s location';
COMMENT ON COLUMN swell.runs.base_commit IS 'The commit it started from';
COMMENT ON COLUMN swell.runs.head_commit IS 'The head of its line';
COMMENT ON COLUMN swell.runs.delivered_ref IS 'The delivered branch; empty until something is delivered';
COMMENT ON COLUMN swell.runs.delivered_commit IS 'The delivered commit';
COMMENT ON COLUMN swell.runs.delivered_remote IS 'Where that branch is; empty for the run''s own repository';
COMMENT ON COLUMN swell.runs.workstreams IS 'How many workstreams it has';
COMMENT ON COLUMN swell.runs.completed IS 'How many of them completed';
COMMENT ON COLUMN swell.runs.failed IS 'How many failed';
COMMENT ON COLUMN swell.runs.blocked IS 'How many are blocked by a failure';
COMMENT ON COLUMN swell.runs.cancelled IS 'How many were cancelled';
COMMENT ON COLUMN swell.runs.awaiting_review IS 'How many await a person''s review';
COMMENT ON COLUMN swell.runs.attempts IS 'How many attempts were scheduled';
COMMENT ON COLUMN swell.runs.fix_attempts IS 'How many of them were FIX attempts';
COMMENT ON COLUMN swell.runs.waves_started IS 'How many waves were started';
COMMENT ON COLUMN swell.runs.submitted_at IS 'When it was submitted';
COMMENT ON COLUMN swell.runs.finished_at IS 'When it ended; NULL while it lives';
COMMENT ON COLUMN swell.runs.duration_s IS 'From the one to the other, in seconds';
COMMENT ON COLUMN swell.runs.cost_usd IS 'What its attempts have cost as far as it was told, in US dollars';
COMMENT ON COLUMN swell.runs.cost_nano IS 'The same in billionths of a dollar';
COMMENT ON COLUMN swell.runs.unpriced IS 'Attempts of coding tools that ended without anybody knowing what they have cost';
COMMENT ON COLUMN swell.runs.input_tokens IS 'Tokens its attempts have read, cached ones apart';
COMMENT ON COLUMN swell.runs.cache_read_tokens IS 'Tokens read from a cache';
COMMENT ON COLUMN swell.runs.cache_write_tokens IS 'Tokens written to a cache';
COMMENT ON COLUMN swell.runs.output_tokens IS 'Tokens written';
COMMENT ON COLUMN swell.runs.rollback IS 'Whether its completed work was undone: empty, running, compensated or compensation_failed; of some workstreams only, reverted, undelivered or refused';
COMMENT ON COLUMN swell.runs.rollback_reason IS 'Why it was rolled back, or what came of it';
COMMENT ON COLUMN swell.runs.spec_digest IS 'Its definition, by SHA-256 in hex';
COMMENT ON COLUMN swell.runs.request_id IS 'The id of the request that asked for it';
COMMENT ON COLUMN swell.runs.accepted IS 'Whether the scheduler took it';
COMMENT ON COLUMN swell.runs.first_position IS 'The position of its first entry';
COMMENT ON COLUMN swell.runs.position IS 'The position of its newest entry';

CREATE VIEW swell.workstreams AS
SELECT
    run,
    workstream,
    ordinal,
    state,
    reason,
    nullif(wave, -1) AS wave,
    steps_executed::JSON AS steps_executed,
    fix_iterations,
    fix_limit,
    attempts,
    last_attempt,
    recoveries,
    verdicts_reused,
    tool,
    nullif(patch, 0) AS patch,
    commit,
    tree,
    make_timestamp(nullif(started_ns, 0) // 1000) AS started_at,
    make_timestamp(nullif(changed_ns, 0) // 1000) AS changed_at,
    make_timestamp(nullif(finished_ns, 0) // 1000) AS finished_at,
    waiting_for,
    waiting_reason,
    make_timestamp(nullif(waiting_until_ns, 0) // 1000) AS waiting_until
FROM main.workstreams;
COMMENT ON VIEW swell.workstreams IS 'The workstreams that runs have reached';
COMMENT ON COLUMN swell.workstreams.run IS 'The run''s id';
COMMENT ON COLUMN swell.workstreams.workstream IS 'The workstream''s id';
COMMENT ON COLUMN swell.workstreams.ordinal IS 'Its place among those of its run, in the order of first mention';
COMMENT ON COLUMN swell.workstreams.state IS 'Its state, such as editing or completed';
COMMENT ON COLUMN swell.workstreams.reason IS 'Why it is in this state';
COMMENT ON COLUMN swell.workstreams.wave IS 'The wave it started in, from 0; NULL before';
COMMENT ON COLUMN swell.workstreams.steps_executed IS 'The steps that were carried out, each once: a JSON list';
COMMENT ON COLUMN swell.workstreams.fix_iterations IS 'FIX attempts of its STATIC and RUNTIME steps';
COMMENT ON COLUMN swell.workstreams.fix_limit IS 'Why its FIX loop was stopped, if it was';
COMMENT ON COLUMN swell.workstreams.attempts IS 'How many attempts were scheduled';
COMMENT ON COLUMN swell.workstreams.last_attempt IS 'The number of the newest';
COMMENT ON COLUMN swell.workstreams.recoveries IS 'How often recovery sent it on after a failure';
COMMENT ON COLUMN swell.workstreams.verdicts_reused IS 'Verdicts that were known already and not taken again';
COMMENT ON COLUMN swell.workstreams.tool IS 'The tool of its newest EDIT or FIX, when it was not the one that the definition names';
COMMENT ON COLUMN swell.workstreams.patch IS 'The attempt whose patch it goes on with; NULL while it has none';
COMMENT ON COLUMN swell.workstreams.commit IS 'Its latest snapshot';
COMMENT ON COLUMN swell.workstreams.tree IS 'The tree of that snapshot';
COMMENT ON COLUMN swell.workstreams.started_at IS 'When its first attempt was scheduled';
COMMENT ON COLUMN swell.workstreams.changed_at IS 'When it reached its present state';
COMMENT ON COLUMN swell.workstreams.finished_at IS 'When it reached a terminal state; NULL before';
COMMENT ON COLUMN swell.workstreams.waiting_for IS 'What its next step waits for: retry, tool_breaker or tool_paused; empty while it waits for nothing';
COMMENT ON COLUMN swell.workstreams.waiting_reason IS 'What it waits for, in words';
COMMENT ON COLUMN swell.workstreams.waiting_until IS 'Until when it waits; NULL when nobody knows';

CREATE VIEW swell.attempts AS
SELECT
    run,
    workstream,
    attempt,
    step,
    state,
    ok,
    error_class,
    message,
    signature,
    reason,
    tool,
    pool,
    executor,
    exit_code,
    make_timestamp(nullif(scheduled_ns, 0) // 1000) AS scheduled_at,
    make_timestamp(nullif(started_ns, 0) // 1000) AS started_at,
    make_timestamp(nullif(closed_ns, 0) // 1000) AS closed_at,
    (nullif(started_ns, 0) - scheduled_ns) / 1e9 AS queue_s,
    CASE WHEN started_ns > 0 THEN (nullif(closed_ns, 0) - started_ns) / 1e9 END AS duration_s,
    tool_wall_s,
    provider,
    model,
    session,
    (cost_nano::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9)) AS cost_usd,
    cost_nano,
    (
        cost_nano IS NOT NULL OR basis <> '' OR (cap <> '' AND started_ns > 0 AND closed_ns > 0)
        OR input_tokens > 0 OR output_tokens > 0 OR cache_read_tokens > 0 OR cache_write_tokens > 0
    ) AS counted,
    (list_cost_nano::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9)) AS list_cost_usd,
    list_cost_nano,
    basis,
    price_table,
    lower_bound,
    cap,
    (cap_nano::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9)) AS cap_usd,
    cap_nano,
    input_tokens,
    cache_read_tokens,
    cache_write_tokens,
    output_tokens,
    findings,
    files::JSON AS files,
    artifacts::JSON AS artifacts,
    on_behalf,
    purpose,
    action,
    capability,
    context,
    context_tokens,
    left_out,
    reduction,
    commit,
    tree,
    late_facts,
    scheduled_position AS position
FROM main.attempts;
COMMENT ON VIEW swell.attempts IS 'Every numbered tool invocation';
COMMENT ON COLUMN swell.attempts.run IS 'The run''s id';
COMMENT ON COLUMN swell.attempts.workstream IS 'The workstream''s id; _line for merges, gates and deliveries';
COMMENT ON COLUMN swell.attempts.attempt IS 'Its number within the workstream, from 1';
COMMENT ON COLUMN swell.attempts.step IS 'edit, static, runtime, fix, merge, gate, deliver or compensate';
COMMENT ON COLUMN swell.attempts.state IS 'scheduled, started, finished, cancelled or lost';
COMMENT ON COLUMN swell.attempts.ok IS 'Whether it finished and succeeded';
COMMENT ON COLUMN swell.attempts.error_class IS 'Why it did not succeed, such as check_failed or timeout';
COMMENT ON COLUMN swell.attempts.message IS 'What happened, for people';
COMMENT ON COLUMN swell.attempts.signature IS 'What failed, normalised; equal signatures mean the same failure';
COMMENT ON COLUMN swell.attempts.reason IS 'Why it was scheduled as it was';
COMMENT ON COLUMN swell.attempts.tool IS 'The tool of an EDIT or FIX';
COMMENT ON COLUMN swell.attempts.pool IS 'The pool of executors it was sent to';
COMMENT ON COLUMN swell.attempts.executor IS 'The executor that claimed it';
COMMENT ON COLUMN swell.attempts.exit_code IS 'The exit code of its tool; NULL where there was none';
COMMENT ON COLUMN swell.attempts.scheduled_at IS 'When it was scheduled';
COMMENT ON COLUMN swell.attempts.started_at IS 'When it was claimed; NULL before';
COMMENT ON COLUMN swell.attempts.closed_at IS 'When it was closed; NULL before';
COMMENT ON COLUMN swell.attempts.queue_s IS 'How long it waited to be claimed, in seconds';
COMMENT ON COLUMN swell.attempts.duration_s IS 'From claim to close, in seconds';
COMMENT ON COLUMN swell.attempts.tool_wall_s IS 'The wall time of its tool, in seconds';
COMMENT ON COLUMN swell.attempts.provider IS 'Who sold the model, as its tool told';
COMMENT ON COLUMN swell.attempts.model IS 'The model, as its tool told';
COMMENT ON COLUMN swell.attempts.session IS 'The tool''s own session';
COMMENT ON COLUMN swell.attempts.cost_usd IS 'What it has cost in US dollars; NULL where nobody knows';
COMMENT ON COLUMN swell.attempts.cost_nano IS 'The same in billionths of a dollar';
COMMENT ON COLUMN swell.attempts.counted IS 'Whether it counts towards costs: it has cost something, told of usage, or is a coding tool''s and has ended';
COMMENT ON COLUMN swell.attempts.list_cost_usd IS 'What it would have cost at list prices; NULL where nobody knows';
COMMENT ON COLUMN swell.attempts.list_cost_nano IS 'The same in billionths of a dollar';
COMMENT ON COLUMN swell.attempts.basis IS 'Where the cost comes from: reported, list, estimate or unknown; empty where nothing was told of it';
COMMENT ON COLUMN swell.attempts.price_table IS 'The price table it was computed with';
COMMENT ON COLUMN swell.attempts.lower_bound IS 'Whether it has cost at least that much, and perhaps more';
COMMENT ON COLUMN swell.attempts.cap IS 'How its tool was held to a cap';
COMMENT ON COLUMN swell.attempts.cap_usd IS 'That cap in US dollars; 0 without one';
COMMENT ON COLUMN swell.attempts.cap_nano IS 'The same in billionths of a dollar';
COMMENT ON COLUMN swell.attempts.input_tokens IS 'Tokens read, cached ones apart';
COMMENT ON COLUMN swell.attempts.cache_read_tokens IS 'Tokens read from a cache';
COMMENT ON COLUMN swell.attempts.cache_write_tokens IS 'Tokens written to a cache';
COMMENT ON COLUMN swell.attempts.output_tokens IS 'Tokens written';
COMMENT ON COLUMN swell.attempts.findings IS 'How many findings its checks had';
COMMENT ON COLUMN swell.attempts.files IS 'Files it changed, the first 200: a JSON list';
COMMENT ON COLUMN swell.attempts.artifacts IS 'What it left behind: a JSON list of objects with role, digest, name and size_bytes';
COMMENT ON COLUMN swell.attempts.on_behalf IS 'For merges and gates: the workstream being merged';
COMMENT ON COLUMN swell.attempts.purpose IS 'Of a step of the line: what it is for';
COMMENT ON COLUMN swell.attempts.action IS 'What a compensation does';
COMMENT ON COLUMN swell.attempts.capability IS 'The capability that it serves, by way of the AIM registry';
COMMENT ON COLUMN swell.attempts.context IS 'Of a tool that is handed files: fits, reduced or too_large';
COMMENT ON COLUMN swell.attempts.context_tokens IS 'The tokens of its files and its prompt together, by estimate';
COMMENT ON COLUMN swell.attempts.left_out IS 'How many files it was not handed';
COMMENT ON COLUMN swell.attempts.reduction IS 'How many times the list of files it is given was halved';
COMMENT ON COLUMN swell.attempts.commit IS 'The commit it produced or judged';
COMMENT ON COLUMN swell.attempts.tree IS 'The tree it produced or judged';
COMMENT ON COLUMN swell.attempts.late_facts IS 'Entries on its subject after its close';
COMMENT ON COLUMN swell.attempts.position IS 'The position at which it was scheduled';

CREATE VIEW swell.checks AS
SELECT
    run,
    workstream,
    attempt,
    step,
    said.name AS name,
    said.kind AS kind,
    said.check AS check_id,
    said.outcome AS outcome,
    coalesce(said.optional, false) AS optional,
    said.exit_code AS exit_code,
    coalesce(said.wall_s, 0) AS wall_s,
    coalesce(said.findings, 0) AS findings,
    coalesce(said.message, '') AS message,
    said.tests AS tests,
    said.failures AS failures,
    said.skipped AS skipped,
    tree,
    make_timestamp(nullif(closed_ns, 0) // 1000) AS closed_at
FROM (
    SELECT run, workstream, attempt, step, closed_ns, tree, unnest(from_json(
        checks_json,
        '[{"check": "VARCHAR", "kind": "VARCHAR", "name": "VARCHAR", "outcome": "VARCHAR", "exit_code": "INTEGER",
           "wall_s": "DOUBLE", "findings": "INTEGER", "message": "VARCHAR", "optional": "BOOLEAN", "tests": "INTEGER",
           "failures": "INTEGER", "skipped": "INTEGER"}]'
    )) AS said
    FROM main.attempts WHERE checks_json <> '[]'
);
COMMENT ON VIEW swell.checks IS 'Every verdict of a check that an attempt gave';
COMMENT ON COLUMN swell.checks.run IS 'The run''s id';
COMMENT ON COLUMN swell.checks.workstream IS 'The workstream''s id; _line for gates';
COMMENT ON COLUMN swell.checks.attempt IS 'The attempt that judged';
COMMENT ON COLUMN swell.checks.step IS 'Its step';
COMMENT ON COLUMN swell.checks.name IS 'The check''s name';
COMMENT ON COLUMN swell.checks.kind IS 'The kind of check';
COMMENT ON COLUMN swell.checks.check_id IS 'The identity of its definition';
COMMENT ON COLUMN swell.checks.outcome IS 'passed, failed, error or not_executable';
COMMENT ON COLUMN swell.checks.optional IS 'Whether it only warns';
COMMENT ON COLUMN swell.checks.exit_code IS 'Its exit code; NULL where there was none';
COMMENT ON COLUMN swell.checks.wall_s IS 'How long it took, in seconds';
COMMENT ON COLUMN swell.checks.findings IS 'How much it found';
COMMENT ON COLUMN swell.checks.message IS 'What it said, for people';
COMMENT ON COLUMN swell.checks.tests IS 'How many tests its report tells of; NULL without a report';
COMMENT ON COLUMN swell.checks.failures IS 'How many of them failed or broke';
COMMENT ON COLUMN swell.checks.skipped IS 'How many were skipped';
COMMENT ON COLUMN swell.checks.tree IS 'The tree that was judged';
COMMENT ON COLUMN swell.checks.closed_at IS 'When its attempt was closed';

CREATE VIEW swell.errors AS
SELECT
    run,
    workstream,
    step,
    signature,
    error_class,
    message,
    count,
    make_timestamp(nullif(first_seen_ns, 0) // 1000) AS first_seen_at,
    make_timestamp(nullif(last_seen_ns, 0) // 1000) AS last_seen_at,
    first_attempt,
    last_attempt
FROM main.errors;
COMMENT ON VIEW swell.errors IS 'What went wrong, each failure of a step once: attempts with the same signature';
COMMENT ON COLUMN swell.errors.run IS 'The run''s id';
COMMENT ON COLUMN swell.errors.workstream IS 'The workstream''s id';
COMMENT ON COLUMN swell.errors.step IS 'The step that failed';
COMMENT ON COLUMN swell.errors.signature IS 'What failed, normalised; the class where a failure has none';
COMMENT ON COLUMN swell.errors.error_class IS 'The class of the newest';
COMMENT ON COLUMN swell.errors.message IS 'The message of the newest';
COMMENT ON COLUMN swell.errors.count IS 'How many attempts failed so';
COMMENT ON COLUMN swell.errors.first_seen_at IS 'When the first of them was closed';
COMMENT ON COLUMN swell.errors.last_seen_at IS 'When the newest of them was closed';
COMMENT ON COLUMN swell.errors.first_attempt IS 'The first of them';
COMMENT ON COLUMN swell.errors.last_attempt IS 'The newest of them';

CREATE VIEW swell.waves AS
SELECT
    run,
    wave,
    workstreams,
    make_timestamp(nullif(started_ns, 0) // 1000) AS started_at,
    make_timestamp(nullif(finished_ns, 0) // 1000) AS finished_at
FROM main.waves;
COMMENT ON VIEW swell.waves IS 'The waves of every run';
COMMENT ON COLUMN swell.waves.run IS 'The run''s id';
COMMENT ON COLUMN swell.waves.wave IS 'Its number, from 0';
COMMENT ON COLUMN swell.waves.workstreams IS 'How many workstreams it started';
COMMENT ON COLUMN swell.waves.started_at IS 'When it started';
COMMENT ON COLUMN swell.waves.finished_at IS 'When it was over; NULL while it is under way';

CREATE VIEW swell.transitions AS
SELECT
    position,
    idx,
    run,
    workstream,
    from_state,
    to_state,
    reason,
    actor,
    make_timestamp(nullif(time_ns, 0) // 1000) AS recorded_at
FROM main.transitions;
COMMENT ON VIEW swell.transitions IS 'Every change of state of a run or a workstream';
COMMENT ON COLUMN swell.transitions.position IS 'The position of its entry';
COMMENT ON COLUMN swell.transitions.idx IS 'Its place within the entry, from 0';
COMMENT ON COLUMN swell.transitions.run IS 'The run''s id';
COMMENT ON COLUMN swell.transitions.workstream IS 'The workstream''s id; empty for the run''s own';
COMMENT ON COLUMN swell.transitions.from_state IS 'The state before';
COMMENT ON COLUMN swell.transitions.to_state IS 'The state from then on';
COMMENT ON COLUMN swell.transitions.reason IS 'Why';
COMMENT ON COLUMN swell.transitions.actor IS 'Who asked for it, where a person did';
COMMENT ON COLUMN swell.transitions.recorded_at IS 'When';

CREATE VIEW swell.events AS
SELECT
    position,
    idx,
    kind,
    severity,
    run,
    workstream,
    nullif(attempt, 0) AS attempt,
    tool,
    make_timestamp(nullif(time_ns, 0) // 1000) AS recorded_at,
    payload::JSON AS payload
FROM main.events;
COMMENT ON VIEW swell.events IS 'Every event of the log';
COMMENT ON COLUMN swell.events.position IS 'The position of its entry: joins with entries';
COMMENT ON COLUMN swell.events.idx IS 'Its place within the entry, from 0';
COMMENT ON COLUMN swell.events.kind IS 'Its kind, such as step_finished';
COMMENT ON COLUMN swell.events.severity IS 'debug, info, warning, error or critical';
COMMENT ON COLUMN swell.events.run IS 'The run it belongs to';
COMMENT ON COLUMN swell.events.workstream IS 'The workstream it is about, or empty';
COMMENT ON COLUMN swell.events.attempt IS 'The attempt it is about, or NULL';
COMMENT ON COLUMN swell.events.tool IS 'The tool it is about, or empty';
COMMENT ON COLUMN swell.events.recorded_at IS 'When the log took it';
COMMENT ON COLUMN swell.events.payload IS 'The whole event, read as payload->>''reason''';

CREATE VIEW swell.entries AS
SELECT
    position,
    subject,
    run,
    id,
    "by" AS writer,
    make_timestamp(nullif(time_ns, 0) // 1000) AS recorded_at,
    make_timestamp(nullif(at_ns, 0) // 1000) AS written_at,
    cause,
    trace,
    lower(hex(hash)) AS hash,
    raw
FROM main.entries;
COMMENT ON VIEW swell.entries IS 'Every entry of the log: the envelope of one or more events';
COMMENT ON COLUMN swell.entries.position IS 'Its position';
COMMENT ON COLUMN swell.entries.subject IS 'The subject it was said on';
COMMENT ON COLUMN swell.entries.run IS 'The run it belongs to';
COMMENT ON COLUMN swell.entries.id IS 'Its id';
COMMENT ON COLUMN swell.entries.writer IS 'Who wrote it';
COMMENT ON COLUMN swell.entries.recorded_at IS 'When the log took it';
COMMENT ON COLUMN swell.entries.written_at IS 'When it was written, by the writer''s clock';
COMMENT ON COLUMN swell.entries.cause IS 'The id of the entry that led to it';
COMMENT ON COLUMN swell.entries.trace IS 'Its W3C traceparent; empty without one';
COMMENT ON COLUMN swell.entries.hash IS 'The hash of the chain up to it, in hex';
COMMENT ON COLUMN swell.entries.raw IS 'Its bytes as they were stored';

CREATE VIEW swell.patches AS
SELECT
    run,
    workstream,
    attempt,
    step,
    state,
    reason,
    digest,
    artifact,
    size_bytes,
    files::JSON AS files,
    files_total,
    make_timestamp(nullif(created_ns, 0) // 1000) AS created_at,
    make_timestamp(nullif(changed_ns, 0) // 1000) AS changed_at,
    moves
FROM main.patches;
COMMENT ON VIEW swell.patches IS 'What EDIT and FIX attempts made of their workstreams';
COMMENT ON COLUMN swell.patches.run IS 'The run''s id';
COMMENT ON COLUMN swell.patches.workstream IS 'The workstream''s id';
COMMENT ON COLUMN swell.patches.attempt IS 'The attempt that made it';
COMMENT ON COLUMN swell.patches.step IS 'edit or fix';
COMMENT ON COLUMN swell.patches.state IS 'created, validated, queued, applied, verified, committed, apply_failed, quarantined, dropped or rolled_back';
COMMENT ON COLUMN swell.patches.reason IS 'Why it is in this state';
COMMENT ON COLUMN swell.patches.digest IS 'SHA-256 of its bytes, in hex: the same change has the same';
COMMENT ON COLUMN swell.patches.artifact IS 'The name to read it by';
COMMENT ON COLUMN swell.patches.size_bytes IS 'Its size in bytes';
COMMENT ON COLUMN swell.patches.files IS 'Paths it changes, the first 200: a JSON list';
COMMENT ON COLUMN swell.patches.files_total IS 'How many paths it changes';
COMMENT ON COLUMN swell.patches.created_at IS 'When it was made';
COMMENT ON COLUMN swell.patches.changed_at IS 'When it reached its present state';
COMMENT ON COLUMN swell.patches.moves IS 'How many changes of state it has had';

CREATE VIEW swell.patch_moves AS
SELECT
    position,
    idx,
    turn,
    run,
    workstream,
    attempt,
    from_state,
    to_state,
    reason,
    make_timestamp(nullif(time_ns, 0) // 1000) AS recorded_at
FROM main.patch_history;
COMMENT ON VIEW swell.patch_moves IS 'Every change of state of a patch';
COMMENT ON COLUMN swell.patch_moves.position IS 'The position of the entry that led to it';
COMMENT ON COLUMN swell.patch_moves.idx IS 'The place of the event within the entry, from 0';
COMMENT ON COLUMN swell.patch_moves.turn IS 'Its place among the moves of one event, from 0';
COMMENT ON COLUMN swell.patch_moves.run IS 'The run''s id';
COMMENT ON COLUMN swell.patch_moves.workstream IS 'The workstream''s id';
COMMENT ON COLUMN swell.patch_moves.attempt IS 'The attempt that made the patch';
COMMENT ON COLUMN swell.patch_moves.from_state IS 'The state before; empty for the first';
COMMENT ON COLUMN swell.patch_moves.to_state IS 'The state from then on';
COMMENT ON COLUMN swell.patch_moves.reason IS 'Why';
COMMENT ON COLUMN swell.patch_moves.recorded_at IS 'When';

CREATE VIEW swell.executors AS
SELECT
    executor,
    boot,
    pool,
    slots,
    state,
    make_timestamp(nullif(since_ns, 0) // 1000) AS since,
    reason,
    make_timestamp(nullif(started_ns, 0) // 1000) AS started_at,
    make_timestamp(nullif(terminated_ns, 0) // 1000) AS terminated_at
FROM main.executors;
COMMENT ON VIEW swell.executors IS 'Every executor that was seen, as its newest start left it';
COMMENT ON COLUMN swell.executors.executor IS 'Its name';
COMMENT ON COLUMN swell.executors.boot IS 'The id of its newest start';
COMMENT ON COLUMN swell.executors.pool IS 'The pool whose commands it takes';
COMMENT ON COLUMN swell.executors.slots IS 'How many attempts it carries out at a time';
COMMENT ON COLUMN swell.executors.state IS 'spawning, idle, draining or terminated';
COMMENT ON COLUMN swell.executors.since IS 'Since when';
COMMENT ON COLUMN swell.executors.reason IS 'Why it is in this state';
COMMENT ON COLUMN swell.executors.started_at IS 'When this start was first seen';
COMMENT ON COLUMN swell.executors.terminated_at IS 'When it was found terminated; NULL while it lives';

CREATE VIEW swell.tool_breakers AS
SELECT
    tool,
    state,
    failures,
    make_timestamp(nullif(opened_ns, 0) // 1000) AS opened_at,
    make_timestamp(nullif(until_ns, 0) // 1000) AS until,
    reason,
    error_class
FROM main.tool_breakers;
COMMENT ON VIEW swell.tool_breakers IS 'The breaker of every tool that ever had one open';
COMMENT ON COLUMN swell.tool_breakers.tool IS 'The id of the tool''s profile';
COMMENT ON COLUMN swell.tool_breakers.state IS 'closed (it may be started), open (it may not) or half_open (one attempt probes it)';
COMMENT ON COLUMN swell.tool_breakers.failures IS 'Failures in a row when it opened last; 0 once closed';
COMMENT ON COLUMN swell.tool_breakers.opened_at IS 'When it opened last';
COMMENT ON COLUMN swell.tool_breakers.until IS 'Until when it stays open; NULL once it is not';
COMMENT ON COLUMN swell.tool_breakers.reason IS 'Why it is in this state';
COMMENT ON COLUMN swell.tool_breakers.error_class IS 'The class of the failure that opened it last';

CREATE VIEW swell.pauses AS
SELECT
    scope,
    name,
    actor,
    reason,
    make_timestamp(nullif(since_ns, 0) // 1000) AS since
FROM main.pauses;
COMMENT ON VIEW swell.pauses IS 'What is paused for all runs';
COMMENT ON COLUMN swell.pauses.scope IS 'tool, pool or all';
COMMENT ON COLUMN swell.pauses.name IS 'The tool''s or pool''s name; empty for all';
COMMENT ON COLUMN swell.pauses.actor IS 'Who paused it';
COMMENT ON COLUMN swell.pauses.reason IS 'Why';
COMMENT ON COLUMN swell.pauses.since IS 'Since when';

CREATE VIEW swell.aim_audit AS
SELECT
    timestamp::TIMESTAMP AS started_at,
    actor,
    tool_id AS tool,
    capability,
    payload,
    result
FROM main.aim_audit;
COMMENT ON VIEW swell.aim_audit IS 'One record for each invocation of a tool by way of the AIM registry';
COMMENT ON COLUMN swell.aim_audit.started_at IS 'When it began';
COMMENT ON COLUMN swell.aim_audit.actor IS 'Who asked for the run';
COMMENT ON COLUMN swell.aim_audit.tool IS 'The tool';
COMMENT ON COLUMN swell.aim_audit.capability IS 'The capability';
COMMENT ON COLUMN swell.aim_audit.payload IS 'The SHA-256 of the prompt that the tool was given; empty without one';
COMMENT ON COLUMN swell.aim_audit.result IS 'ok, an error class, or the attempt''s state';

CREATE VIEW swell.documentation AS
SELECT v.view_name, c.column_index AS ordinal, c.column_name, c.data_type, c.comment, v.comment AS about
FROM duckdb_views() AS v JOIN duckdb_columns() AS c ON c.schema_name = v.schema_name AND c.table_name = v.view_name
WHERE v.schema_name = 'swell'
ORDER BY v.view_name, c.column_index;
COMMENT ON VIEW swell.documentation IS 'These views and their columns';
COMMENT ON COLUMN swell.documentation.view_name IS 'The view';
COMMENT ON COLUMN swell.documentation.ordinal IS 'The place of the column, from 1';
COMMENT ON COLUMN swell.documentation.column_name IS 'The column';
COMMENT ON COLUMN swell.documentation.data_type IS 'Its type';
COMMENT ON COLUMN swell.documentation.comment IS 'What it means';
COMMENT ON COLUMN swell.documentation.about IS 'What the view means';
