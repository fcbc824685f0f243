from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueryFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUERY_FORMAT_UNSPECIFIED: _ClassVar[QueryFormat]
    QUERY_FORMAT_ROWS: _ClassVar[QueryFormat]
    QUERY_FORMAT_ARROW: _ClassVar[QueryFormat]
QUERY_FORMAT_UNSPECIFIED: QueryFormat
QUERY_FORMAT_ROWS: QueryFormat
QUERY_FORMAT_ARROW: QueryFormat

class Run(_message.Message):
    __slots__ = ("run", "state", "reason", "actor", "repository", "base_commit", "head_commit", "delivered_ref", "delivered_commit", "workstreams", "completed", "failed", "blocked", "cancelled", "attempts", "fix_attempts", "waves_started", "submitted_ns", "finished_ns", "position", "spec_digest", "awaiting_review", "rollback", "rollback_reason", "delivered_remote", "labels", "tenant", "cost_nano", "unpriced", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    HEAD_COMMIT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_REF_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_COMMIT_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FIX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    WAVES_STARTED_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_NS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_NS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    AWAITING_REVIEW_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_REMOTE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
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
    labels: _containers.ScalarMap[str, str]
    tenant: str
    cost_nano: int
    unpriced: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    def __init__(self, run: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ..., repository: _Optional[str] = ..., base_commit: _Optional[str] = ..., head_commit: _Optional[str] = ..., delivered_ref: _Optional[str] = ..., delivered_commit: _Optional[str] = ..., workstreams: _Optional[int] = ..., completed: _Optional[int] = ..., failed: _Optional[int] = ..., blocked: _Optional[int] = ..., cancelled: _Optional[int] = ..., attempts: _Optional[int] = ..., fix_attempts: _Optional[int] = ..., waves_started: _Optional[int] = ..., submitted_ns: _Optional[int] = ..., finished_ns: _Optional[int] = ..., position: _Optional[int] = ..., spec_digest: _Optional[str] = ..., awaiting_review: _Optional[int] = ..., rollback: _Optional[str] = ..., rollback_reason: _Optional[str] = ..., delivered_remote: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., tenant: _Optional[str] = ..., cost_nano: _Optional[int] = ..., unpriced: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class Workstream(_message.Message):
    __slots__ = ("run", "workstream", "state", "reason", "wave", "steps_executed", "fix_iterations", "attempts", "commit", "tree", "started_ns", "changed_ns", "finished_ns", "fix_limit", "verdicts_reused", "waiting_for", "waiting_reason", "waiting_until_ns", "recoveries", "tool", "patch")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    STEPS_EXECUTED_FIELD_NUMBER: _ClassVar[int]
    FIX_ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_NS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_NS_FIELD_NUMBER: _ClassVar[int]
    FIX_LIMIT_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_REUSED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    WAITING_REASON_FIELD_NUMBER: _ClassVar[int]
    WAITING_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    state: str
    reason: str
    wave: int
    steps_executed: _containers.RepeatedScalarFieldContainer[str]
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
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., wave: _Optional[int] = ..., steps_executed: _Optional[_Iterable[str]] = ..., fix_iterations: _Optional[int] = ..., attempts: _Optional[int] = ..., commit: _Optional[str] = ..., tree: _Optional[str] = ..., started_ns: _Optional[int] = ..., changed_ns: _Optional[int] = ..., finished_ns: _Optional[int] = ..., fix_limit: _Optional[str] = ..., verdicts_reused: _Optional[int] = ..., waiting_for: _Optional[str] = ..., waiting_reason: _Optional[str] = ..., waiting_until_ns: _Optional[int] = ..., recoveries: _Optional[int] = ..., tool: _Optional[str] = ..., patch: _Optional[int] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("role", "digest", "name", "size_bytes")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    role: str
    digest: str
    name: str
    size_bytes: int
    def __init__(self, role: _Optional[str] = ..., digest: _Optional[str] = ..., name: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("run", "workstream", "attempt", "step", "state", "ok", "error_class", "message", "executor", "exit_code", "scheduled_ns", "started_ns", "closed_ns", "commit", "tree", "on_behalf", "files", "artifacts", "checks_json", "signature", "tool_wall_s", "late_facts", "tool", "reduction", "action", "capability", "context", "left_out", "context_tokens", "pool", "reason", "cap", "cap_nano", "provider", "model", "session", "cost_nano", "basis", "price_table", "list_cost_nano", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "lower_bound", "findings", "wall_s", "mechanical", "purpose")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_NS_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_NS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    ON_BEHALF_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TOOL_WALL_S_FIELD_NUMBER: _ClassVar[int]
    LATE_FACTS_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    CAP_NANO_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    PRICE_TABLE_FIELD_NUMBER: _ClassVar[int]
    LIST_COST_NANO_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOWER_BOUND_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    MECHANICAL_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    attempt: int
    step: str
    state: str
    ok: bool
    error_class: str
    message: str
    executor: str
    exit_code: int
    scheduled_ns: int
    started_ns: int
    closed_ns: int
    commit: str
    tree: str
    on_behalf: str
    files: _containers.RepeatedScalarFieldContainer[str]
    artifacts: _containers.RepeatedCompositeFieldContainer[Artifact]
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
    pool: str
    reason: str
    cap: str
    cap_nano: int
    provider: str
    model: str
    session: str
    cost_nano: int
    basis: str
    price_table: str
    list_cost_nano: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    lower_bound: bool
    findings: int
    wall_s: float
    mechanical: int
    purpose: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ..., step: _Optional[str] = ..., state: _Optional[str] = ..., ok: _Optional[bool] = ..., error_class: _Optional[str] = ..., message: _Optional[str] = ..., executor: _Optional[str] = ..., exit_code: _Optional[int] = ..., scheduled_ns: _Optional[int] = ..., started_ns: _Optional[int] = ..., closed_ns: _Optional[int] = ..., commit: _Optional[str] = ..., tree: _Optional[str] = ..., on_behalf: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., artifacts: _Optional[_Iterable[_Union[Artifact, _Mapping]]] = ..., checks_json: _Optional[str] = ..., signature: _Optional[str] = ..., tool_wall_s: _Optional[float] = ..., late_facts: _Optional[int] = ..., tool: _Optional[str] = ..., reduction: _Optional[int] = ..., action: _Optional[str] = ..., capability: _Optional[str] = ..., context: _Optional[str] = ..., left_out: _Optional[int] = ..., context_tokens: _Optional[int] = ..., pool: _Optional[str] = ..., reason: _Optional[str] = ..., cap: _Optional[str] = ..., cap_nano: _Optional[int] = ..., provider: _Optional[str] = ..., model: _Optional[str] = ..., session: _Optional[str] = ..., cost_nano: _Optional[int] = ..., basis: _Optional[str] = ..., price_table: _Optional[str] = ..., list_cost_nano: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., lower_bound: _Optional[bool] = ..., findings: _Optional[int] = ..., wall_s: _Optional[float] = ..., mechanical: _Optional[int] = ..., purpose: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("position", "index", "kind", "run", "workstream", "attempt", "time_ns", "by", "payload_json", "entry", "cause", "tool", "severity")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    position: int
    index: int
    kind: str
    run: str
    workstream: str
    attempt: int
    time_ns: int
    by: str
    payload_json: str
    entry: str
    cause: str
    tool: str
    severity: str
    def __init__(self, position: _Optional[int] = ..., index: _Optional[int] = ..., kind: _Optional[str] = ..., run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ..., time_ns: _Optional[int] = ..., by: _Optional[str] = ..., payload_json: _Optional[str] = ..., entry: _Optional[str] = ..., cause: _Optional[str] = ..., tool: _Optional[str] = ..., severity: _Optional[str] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run", "as_of")
    RUN_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    run: str
    as_of: Moment
    def __init__(self, run: _Optional[str] = ..., as_of: _Optional[_Union[Moment, _Mapping]] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run", "position")
    RUN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    run: Run
    position: int
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., position: _Optional[int] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "state", "repository", "tool", "labels", "tenant", "actor", "since_ns", "until_ns", "order_by")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    state: str
    repository: str
    tool: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    actor: str
    since_ns: int
    until_ns: int
    order_by: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[str] = ..., repository: _Optional[str] = ..., tool: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ..., actor: _Optional[str] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ..., order_by: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token", "position")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    position: int
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ListWorkstreamsRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token", "state", "tool", "as_of")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    state: str
    tool: str
    as_of: Moment
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[str] = ..., tool: _Optional[str] = ..., as_of: _Optional[_Union[Moment, _Mapping]] = ...) -> None: ...

class ListWorkstreamsResponse(_message.Message):
    __slots__ = ("workstreams", "next_page_token", "position")
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    workstreams: _containers.RepeatedCompositeFieldContainer[Workstream]
    next_page_token: str
    position: int
    def __init__(self, workstreams: _Optional[_Iterable[_Union[Workstream, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ListAttemptsRequest(_message.Message):
    __slots__ = ("run", "workstream", "page_size", "page_token", "state", "step", "tool", "executor", "error_class", "ok", "as_of")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    page_size: int
    page_token: str
    state: str
    step: str
    tool: str
    executor: str
    error_class: str
    ok: bool
    as_of: Moment
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[str] = ..., step: _Optional[str] = ..., tool: _Optional[str] = ..., executor: _Optional[str] = ..., error_class: _Optional[str] = ..., ok: _Optional[bool] = ..., as_of: _Optional[_Union[Moment, _Mapping]] = ...) -> None: ...

class ListAttemptsResponse(_message.Message):
    __slots__ = ("attempts", "next_page_token", "position")
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    next_page_token: str
    position: int
    def __init__(self, attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("run", "workstream", "kinds", "after_position", "newest_first", "page_size", "page_token", "tool", "severities", "since_ns", "until_ns")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    SEVERITIES_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    kinds: _containers.RepeatedScalarFieldContainer[str]
    after_position: int
    newest_first: bool
    page_size: int
    page_token: str
    tool: str
    severities: _containers.RepeatedScalarFieldContainer[str]
    since_ns: int
    until_ns: int
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ..., after_position: _Optional[int] = ..., newest_first: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., tool: _Optional[str] = ..., severities: _Optional[_Iterable[str]] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("run", "after_position", "kinds", "resume_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    after_position: int
    kinds: _containers.RepeatedScalarFieldContainer[str]
    resume_token: str
    def __init__(self, run: _Optional[str] = ..., after_position: _Optional[int] = ..., kinds: _Optional[_Iterable[str]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("events", "position", "resume_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    position: int
    resume_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., position: _Optional[int] = ..., resume_token: _Optional[str] = ...) -> None: ...

class ReadArtifactRequest(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ReadArtifactResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class WatchOutputRequest(_message.Message):
    __slots__ = ("run", "workstream")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ...) -> None: ...

class WatchOutputResponse(_message.Message):
    __slots__ = ("workstream", "chunk")
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    workstream: str
    chunk: bytes
    def __init__(self, workstream: _Optional[str] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class Executor(_message.Message):
    __slots__ = ("executor", "boot", "pool", "slots", "state", "since_ns", "reason", "started_ns", "terminated_ns")
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_NS_FIELD_NUMBER: _ClassVar[int]
    executor: str
    boot: str
    pool: str
    slots: int
    state: str
    since_ns: int
    reason: str
    started_ns: int
    terminated_ns: int
    def __init__(self, executor: _Optional[str] = ..., boot: _Optional[str] = ..., pool: _Optional[str] = ..., slots: _Optional[int] = ..., state: _Optional[str] = ..., since_ns: _Optional[int] = ..., reason: _Optional[str] = ..., started_ns: _Optional[int] = ..., terminated_ns: _Optional[int] = ...) -> None: ...

class ListExecutorsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "state")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    state: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class ListExecutorsResponse(_message.Message):
    __slots__ = ("executors", "next_page_token", "position")
    EXECUTORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    executors: _containers.RepeatedCompositeFieldContainer[Executor]
    next_page_token: str
    position: int
    def __init__(self, executors: _Optional[_Iterable[_Union[Executor, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ToolBreaker(_message.Message):
    __slots__ = ("tool", "state", "failures", "opened_ns", "until_ns", "reason", "error_class")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    OPENED_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    tool: str
    state: str
    failures: int
    opened_ns: int
    until_ns: int
    reason: str
    error_class: str
    def __init__(self, tool: _Optional[str] = ..., state: _Optional[str] = ..., failures: _Optional[int] = ..., opened_ns: _Optional[int] = ..., until_ns: _Optional[int] = ..., reason: _Optional[str] = ..., error_class: _Optional[str] = ...) -> None: ...

class ListToolBreakersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListToolBreakersResponse(_message.Message):
    __slots__ = ("tool_breakers", "position")
    TOOL_BREAKERS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    tool_breakers: _containers.RepeatedCompositeFieldContainer[ToolBreaker]
    position: int
    def __init__(self, tool_breakers: _Optional[_Iterable[_Union[ToolBreaker, _Mapping]]] = ..., position: _Optional[int] = ...) -> None: ...

class Pause(_message.Message):
    __slots__ = ("scope", "name", "actor", "reason", "since_ns")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    scope: str
    name: str
    actor: str
    reason: str
    since_ns: int
    def __init__(self, scope: _Optional[str] = ..., name: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., since_ns: _Optional[int] = ...) -> None: ...

class ListPausesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPausesResponse(_message.Message):
    __slots__ = ("pauses", "position")
    PAUSES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    pauses: _containers.RepeatedCompositeFieldContainer[Pause]
    position: int
    def __init__(self, pauses: _Optional[_Iterable[_Union[Pause, _Mapping]]] = ..., position: _Optional[int] = ...) -> None: ...

class Patch(_message.Message):
    __slots__ = ("run", "workstream", "attempt", "step", "state", "reason", "digest", "artifact", "size_bytes", "files", "files_total", "created_ns", "changed_ns", "moves", "refused_moves", "refused")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_NS_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_MOVES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    attempt: int
    step: str
    state: str
    reason: str
    digest: str
    artifact: str
    size_bytes: int
    files: _containers.RepeatedScalarFieldContainer[str]
    files_total: int
    created_ns: int
    changed_ns: int
    moves: int
    refused_moves: int
    refused: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ..., step: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., digest: _Optional[str] = ..., artifact: _Optional[str] = ..., size_bytes: _Optional[int] = ..., files: _Optional[_Iterable[str]] = ..., files_total: _Optional[int] = ..., created_ns: _Optional[int] = ..., changed_ns: _Optional[int] = ..., moves: _Optional[int] = ..., refused_moves: _Optional[int] = ..., refused: _Optional[str] = ...) -> None: ...

class PatchMove(_message.Message):
    __slots__ = ("position", "index", "turn", "run", "workstream", "attempt", "from_state", "to_state", "reason", "time_ns")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    position: int
    index: int
    turn: int
    run: str
    workstream: str
    attempt: int
    from_state: str
    to_state: str
    reason: str
    time_ns: int
    def __init__(self, position: _Optional[int] = ..., index: _Optional[int] = ..., turn: _Optional[int] = ..., run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., reason: _Optional[str] = ..., time_ns: _Optional[int] = ...) -> None: ...

class GetPatchRequest(_message.Message):
    __slots__ = ("run", "workstream", "attempt")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    attempt: int
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class GetPatchResponse(_message.Message):
    __slots__ = ("patch", "position")
    PATCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    patch: Patch
    position: int
    def __init__(self, patch: _Optional[_Union[Patch, _Mapping]] = ..., position: _Optional[int] = ...) -> None: ...

class ListPatchesRequest(_message.Message):
    __slots__ = ("run", "workstream", "state", "digest", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    state: str
    digest: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., state: _Optional[str] = ..., digest: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPatchesResponse(_message.Message):
    __slots__ = ("patches", "next_page_token", "position")
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    patches: _containers.RepeatedCompositeFieldContainer[Patch]
    next_page_token: str
    position: int
    def __init__(self, patches: _Optional[_Iterable[_Union[Patch, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ListPatchMovesRequest(_message.Message):
    __slots__ = ("run", "workstream", "attempt", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    attempt: int
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPatchMovesResponse(_message.Message):
    __slots__ = ("moves", "next_page_token")
    MOVES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedCompositeFieldContainer[PatchMove]
    next_page_token: str
    def __init__(self, moves: _Optional[_Iterable[_Union[PatchMove, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("position", "stream_last", "caught_up", "rebuilding", "events_per_s", "file_bytes", "projection", "started_ns", "seconds_left", "verifying", "archived", "version", "server_time_ns", "disk_free_bytes", "caller", "role", "tenants")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STREAM_LAST_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    REBUILDING_FIELD_NUMBER: _ClassVar[int]
    EVENTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    VERIFYING_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    position: int
    stream_last: int
    caught_up: bool
    rebuilding: bool
    events_per_s: float
    file_bytes: int
    projection: int
    started_ns: int
    seconds_left: float
    verifying: bool
    archived: int
    version: str
    server_time_ns: int
    disk_free_bytes: int
    caller: str
    role: str
    tenants: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, position: _Optional[int] = ..., stream_last: _Optional[int] = ..., caught_up: _Optional[bool] = ..., rebuilding: _Optional[bool] = ..., events_per_s: _Optional[float] = ..., file_bytes: _Optional[int] = ..., projection: _Optional[int] = ..., started_ns: _Optional[int] = ..., seconds_left: _Optional[float] = ..., verifying: _Optional[bool] = ..., archived: _Optional[int] = ..., version: _Optional[str] = ..., server_time_ns: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., caller: _Optional[str] = ..., role: _Optional[str] = ..., tenants: _Optional[_Iterable[str]] = ...) -> None: ...

class VerifyLedgerRequest(_message.Message):
    __slots__ = ("differences_max",)
    DIFFERENCES_MAX_FIELD_NUMBER: _ClassVar[int]
    differences_max: int
    def __init__(self, differences_max: _Optional[int] = ...) -> None: ...

class VerifyLedgerResponse(_message.Message):
    __slots__ = ("progress", "difference", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: VerifyProgress
    difference: Difference
    result: VerifyResult
    def __init__(self, progress: _Optional[_Union[VerifyProgress, _Mapping]] = ..., difference: _Optional[_Union[Difference, _Mapping]] = ..., result: _Optional[_Union[VerifyResult, _Mapping]] = ...) -> None: ...

class VerifyProgress(_message.Message):
    __slots__ = ("phase", "position", "end", "table", "rows")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    phase: str
    position: int
    end: int
    table: str
    rows: int
    def __init__(self, phase: _Optional[str] = ..., position: _Optional[int] = ..., end: _Optional[int] = ..., table: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("table", "key", "kind", "column", "stored", "folded")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    table: str
    key: str
    kind: str
    column: str
    stored: str
    folded: str
    def __init__(self, table: _Optional[str] = ..., key: _Optional[str] = ..., kind: _Optional[str] = ..., column: _Optional[str] = ..., stored: _Optional[str] = ..., folded: _Optional[str] = ...) -> None: ...

class VerifyResult(_message.Message):
    __slots__ = ("ok", "position", "differences", "rows", "entries", "chain_broken_at", "hash", "wall_s")
    OK_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    CHAIN_BROKEN_AT_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    ok: bool
    position: int
    differences: int
    rows: int
    entries: int
    chain_broken_at: int
    hash: str
    wall_s: float
    def __init__(self, ok: _Optional[bool] = ..., position: _Optional[int] = ..., differences: _Optional[int] = ..., rows: _Optional[int] = ..., entries: _Optional[int] = ..., chain_broken_at: _Optional[int] = ..., hash: _Optional[str] = ..., wall_s: _Optional[float] = ...) -> None: ...

class RebuildLedgerRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class RebuildLedgerResponse(_message.Message):
    __slots__ = ("position", "stream_last")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STREAM_LAST_FIELD_NUMBER: _ClassVar[int]
    position: int
    stream_last: int
    def __init__(self, position: _Optional[int] = ..., stream_last: _Optional[int] = ...) -> None: ...

class Wave(_message.Message):
    __slots__ = ("run", "wave", "started_ns", "finished_ns", "workstreams")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_NS_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    run: str
    wave: int
    started_ns: int
    finished_ns: int
    workstreams: int
    def __init__(self, run: _Optional[str] = ..., wave: _Optional[int] = ..., started_ns: _Optional[int] = ..., finished_ns: _Optional[int] = ..., workstreams: _Optional[int] = ...) -> None: ...

class ListWavesRequest(_message.Message):
    __slots__ = ("run", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWavesResponse(_message.Message):
    __slots__ = ("waves", "next_page_token", "position")
    WAVES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    waves: _containers.RepeatedCompositeFieldContainer[Wave]
    next_page_token: str
    position: int
    def __init__(self, waves: _Optional[_Iterable[_Union[Wave, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ArchiveLedgerRequest(_message.Message):
    __slots__ = ("older_than_days", "purge", "dry_run")
    OLDER_THAN_DAYS_FIELD_NUMBER: _ClassVar[int]
    PURGE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    older_than_days: int
    purge: bool
    dry_run: bool
    def __init__(self, older_than_days: _Optional[int] = ..., purge: _Optional[bool] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ArchiveLedgerResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: ArchiveProgress
    result: ArchiveResult
    def __init__(self, progress: _Optional[_Union[ArchiveProgress, _Mapping]] = ..., result: _Optional[_Union[ArchiveResult, _Mapping]] = ...) -> None: ...

class ArchiveProgress(_message.Message):
    __slots__ = ("phase", "position", "end")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    phase: str
    position: int
    end: int
    def __init__(self, phase: _Optional[str] = ..., position: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ArchiveResult(_message.Message):
    __slots__ = ("archived_to", "segments", "entries", "runs", "size_bytes", "purged_runs", "purged_entries", "kept_runs", "kept_why", "held_by", "why", "wall_s")
    ARCHIVED_TO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PURGED_RUNS_FIELD_NUMBER: _ClassVar[int]
    PURGED_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    KEPT_RUNS_FIELD_NUMBER: _ClassVar[int]
    KEPT_WHY_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, archived_to: _Optional[int] = ..., segments: _Optional[int] = ..., entries: _Optional[int] = ..., runs: _Optional[int] = ..., size_bytes: _Optional[int] = ..., purged_runs: _Optional[int] = ..., purged_entries: _Optional[int] = ..., kept_runs: _Optional[int] = ..., kept_why: _Optional[str] = ..., held_by: _Optional[str] = ..., why: _Optional[str] = ..., wall_s: _Optional[float] = ...) -> None: ...

class BackupLedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupLedgerResponse(_message.Message):
    __slots__ = ("copy", "chunk")
    COPY_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    copy: LedgerCopy
    chunk: bytes
    def __init__(self, copy: _Optional[_Union[LedgerCopy, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class LedgerCopy(_message.Message):
    __slots__ = ("position", "hash", "stream_created_ns", "size_bytes", "sha256")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    STREAM_CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    position: int
    hash: str
    stream_created_ns: int
    size_bytes: int
    sha256: str
    def __init__(self, position: _Optional[int] = ..., hash: _Optional[str] = ..., stream_created_ns: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class RestoreLedgerRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: RestoreHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[RestoreHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class RestoreHeader(_message.Message):
    __slots__ = ("size_bytes", "sha256", "reason")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    sha256: str
    reason: str
    def __init__(self, size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RestoreLedgerResponse(_message.Message):
    __slots__ = ("copy", "stream_last")
    COPY_FIELD_NUMBER: _ClassVar[int]
    STREAM_LAST_FIELD_NUMBER: _ClassVar[int]
    copy: LedgerCopy
    stream_last: int
    def __init__(self, copy: _Optional[_Union[LedgerCopy, _Mapping]] = ..., stream_last: _Optional[int] = ...) -> None: ...

class Anchor(_message.Message):
    __slots__ = ("position", "hash", "stream_created_ns")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    STREAM_CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    position: int
    hash: bytes
    stream_created_ns: int
    def __init__(self, position: _Optional[int] = ..., hash: _Optional[bytes] = ..., stream_created_ns: _Optional[int] = ...) -> None: ...

class VerifyAuditRequest(_message.Message):
    __slots__ = ("from_position", "to_position", "anchors", "with_log", "findings_max")
    FROM_POSITION_FIELD_NUMBER: _ClassVar[int]
    TO_POSITION_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    WITH_LOG_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_MAX_FIELD_NUMBER: _ClassVar[int]
    from_position: int
    to_position: int
    anchors: _containers.RepeatedCompositeFieldContainer[Anchor]
    with_log: bool
    findings_max: int
    def __init__(self, from_position: _Optional[int] = ..., to_position: _Optional[int] = ..., anchors: _Optional[_Iterable[_Union[Anchor, _Mapping]]] = ..., with_log: _Optional[bool] = ..., findings_max: _Optional[int] = ...) -> None: ...

class VerifyAuditResponse(_message.Message):
    __slots__ = ("progress", "finding", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: AuditProgress
    finding: AuditFinding
    result: AuditResult
    def __init__(self, progress: _Optional[_Union[AuditProgress, _Mapping]] = ..., finding: _Optional[_Union[AuditFinding, _Mapping]] = ..., result: _Optional[_Union[AuditResult, _Mapping]] = ...) -> None: ...

class AuditProgress(_message.Message):
    __slots__ = ("phase", "position", "end")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    phase: str
    position: int
    end: int
    def __init__(self, phase: _Optional[str] = ..., position: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class AuditFinding(_message.Message):
    __slots__ = ("kind", "source", "table", "position", "until", "key", "column", "stored", "expected", "anchor", "text")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, kind: _Optional[str] = ..., source: _Optional[str] = ..., table: _Optional[str] = ..., position: _Optional[int] = ..., until: _Optional[int] = ..., key: _Optional[str] = ..., column: _Optional[str] = ..., stored: _Optional[str] = ..., expected: _Optional[str] = ..., anchor: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class AuditResult(_message.Message):
    __slots__ = ("ok", "start", "end", "hash", "stream_created_ns", "findings", "entries", "events", "anchors", "logged", "unlogged", "wall_s")
    OK_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    STREAM_CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    LOGGED_FIELD_NUMBER: _ClassVar[int]
    UNLOGGED_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, ok: _Optional[bool] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., hash: _Optional[str] = ..., stream_created_ns: _Optional[int] = ..., findings: _Optional[int] = ..., entries: _Optional[int] = ..., events: _Optional[int] = ..., anchors: _Optional[int] = ..., logged: _Optional[int] = ..., unlogged: _Optional[int] = ..., wall_s: _Optional[float] = ...) -> None: ...

class GetAnchorRequest(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class GetAnchorResponse(_message.Message):
    __slots__ = ("anchor", "time_ns")
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    anchor: Anchor
    time_ns: int
    def __init__(self, anchor: _Optional[_Union[Anchor, _Mapping]] = ..., time_ns: _Optional[int] = ...) -> None: ...

class ExportAuditRequest(_message.Message):
    __slots__ = ("table", "run", "since_ns", "until_ns")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    table: str
    run: str
    since_ns: int
    until_ns: int
    def __init__(self, table: _Optional[str] = ..., run: _Optional[str] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ...) -> None: ...

class ExportAuditResponse(_message.Message):
    __slots__ = ("lines", "end")
    LINES_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    lines: bytes
    end: ExportEnd
    def __init__(self, lines: _Optional[bytes] = ..., end: _Optional[_Union[ExportEnd, _Mapping]] = ...) -> None: ...

class ExportEnd(_message.Message):
    __slots__ = ("rows", "position")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    rows: int
    position: int
    def __init__(self, rows: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class Moment(_message.Message):
    __slots__ = ("position", "time_ns")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    position: int
    time_ns: int
    def __init__(self, position: _Optional[int] = ..., time_ns: _Optional[int] = ...) -> None: ...

class GetAttemptRequest(_message.Message):
    __slots__ = ("run", "workstream", "attempt")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    attempt: int
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class GetAttemptResponse(_message.Message):
    __slots__ = ("attempt", "scheduled", "claim", "close", "late", "position")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    attempt: Attempt
    scheduled: Event
    claim: Event
    close: Event
    late: _containers.RepeatedCompositeFieldContainer[Event]
    position: int
    def __init__(self, attempt: _Optional[_Union[Attempt, _Mapping]] = ..., scheduled: _Optional[_Union[Event, _Mapping]] = ..., claim: _Optional[_Union[Event, _Mapping]] = ..., close: _Optional[_Union[Event, _Mapping]] = ..., late: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., position: _Optional[int] = ...) -> None: ...

class Transition(_message.Message):
    __slots__ = ("position", "index", "run", "workstream", "from_state", "to_state", "reason", "actor", "time_ns")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    position: int
    index: int
    run: str
    workstream: str
    from_state: str
    to_state: str
    reason: str
    actor: str
    time_ns: int
    def __init__(self, position: _Optional[int] = ..., index: _Optional[int] = ..., run: _Optional[str] = ..., workstream: _Optional[str] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ..., time_ns: _Optional[int] = ...) -> None: ...

class ListTransitionsRequest(_message.Message):
    __slots__ = ("run", "workstream", "actor", "newest_first", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    actor: str
    newest_first: bool
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., actor: _Optional[str] = ..., newest_first: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTransitionsResponse(_message.Message):
    __slots__ = ("transitions", "next_page_token", "position")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    transitions: _containers.RepeatedCompositeFieldContainer[Transition]
    next_page_token: str
    position: int
    def __init__(self, transitions: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("run", "workstream", "step", "signature", "error_class", "message", "count", "first_seen_ns", "last_seen_ns", "first_attempt", "last_attempt", "tool")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_NS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LAST_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., step: _Optional[str] = ..., signature: _Optional[str] = ..., error_class: _Optional[str] = ..., message: _Optional[str] = ..., count: _Optional[int] = ..., first_seen_ns: _Optional[int] = ..., last_seen_ns: _Optional[int] = ..., first_attempt: _Optional[int] = ..., last_attempt: _Optional[int] = ..., tool: _Optional[str] = ...) -> None: ...

class ListErrorsRequest(_message.Message):
    __slots__ = ("run", "workstream", "step", "tool", "error_class", "since_ns", "until_ns", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    step: str
    tool: str
    error_class: str
    since_ns: int
    until_ns: int
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., step: _Optional[str] = ..., tool: _Optional[str] = ..., error_class: _Optional[str] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListErrorsResponse(_message.Message):
    __slots__ = ("errors", "next_page_token", "position")
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    errors: _containers.RepeatedCompositeFieldContainer[Failure]
    next_page_token: str
    position: int
    def __init__(self, errors: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ExplainRunRequest(_message.Message):
    __slots__ = ("run", "workstream")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("workstream", "state", "waiting_for", "on", "since_ns", "until_ns", "reason", "next")
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    workstream: str
    state: str
    waiting_for: str
    on: _containers.RepeatedScalarFieldContainer[str]
    since_ns: int
    until_ns: int
    reason: str
    next: str
    def __init__(self, workstream: _Optional[str] = ..., state: _Optional[str] = ..., waiting_for: _Optional[str] = ..., on: _Optional[_Iterable[str]] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ..., reason: _Optional[str] = ..., next: _Optional[str] = ...) -> None: ...

class ExplainRunResponse(_message.Message):
    __slots__ = ("run", "waits", "left_out", "definition_read", "position")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_READ_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    run: Run
    waits: _containers.RepeatedCompositeFieldContainer[Wait]
    left_out: int
    definition_read: bool
    position: int
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., waits: _Optional[_Iterable[_Union[Wait, _Mapping]]] = ..., left_out: _Optional[int] = ..., definition_read: _Optional[bool] = ..., position: _Optional[int] = ...) -> None: ...

class WatchRunsRequest(_message.Message):
    __slots__ = ("state", "repository", "labels", "tenant", "include_initial", "resume_token")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_INITIAL_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    state: str
    repository: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    include_initial: bool
    resume_token: str
    def __init__(self, state: _Optional[str] = ..., repository: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ..., include_initial: _Optional[bool] = ..., resume_token: _Optional[str] = ...) -> None: ...

class RunChange(_message.Message):
    __slots__ = ("run", "left")
    RUN_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    run: Run
    left: bool
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., left: _Optional[bool] = ...) -> None: ...

class WatchRunsResponse(_message.Message):
    __slots__ = ("changes", "position", "resume_token")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[RunChange]
    position: int
    resume_token: str
    def __init__(self, changes: _Optional[_Iterable[_Union[RunChange, _Mapping]]] = ..., position: _Optional[int] = ..., resume_token: _Optional[str] = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("run", "tool", "provider", "model", "repository", "labels", "tenant", "since_ns", "until_ns")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    run: str
    tool: str
    provider: str
    model: str
    repository: str
    labels: _containers.ScalarMap[str, str]
    tenant: str
    since_ns: int
    until_ns: int
    def __init__(self, run: _Optional[str] = ..., tool: _Optional[str] = ..., provider: _Optional[str] = ..., model: _Optional[str] = ..., repository: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., tenant: _Optional[str] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ...) -> None: ...

class GetCostsRequest(_message.Message):
    __slots__ = ("selection", "group_by", "limit")
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    group_by: _containers.RepeatedScalarFieldContainer[str]
    limit: int
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ..., group_by: _Optional[_Iterable[str]] = ..., limit: _Optional[int] = ...) -> None: ...

class Costs(_message.Message):
    __slots__ = ("key", "cost_nano", "reported_nano", "list_nano", "estimate_nano", "unpriced", "list_cost_nano", "listed", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "attempts", "lower_bounds")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_FIELD_NUMBER: _ClassVar[int]
    REPORTED_NANO_FIELD_NUMBER: _ClassVar[int]
    LIST_NANO_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_NANO_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    LIST_COST_NANO_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LOWER_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    key: _containers.RepeatedScalarFieldContainer[str]
    cost_nano: int
    reported_nano: int
    list_nano: int
    estimate_nano: int
    unpriced: int
    list_cost_nano: int
    listed: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    attempts: int
    lower_bounds: int
    def __init__(self, key: _Optional[_Iterable[str]] = ..., cost_nano: _Optional[int] = ..., reported_nano: _Optional[int] = ..., list_nano: _Optional[int] = ..., estimate_nano: _Optional[int] = ..., unpriced: _Optional[int] = ..., list_cost_nano: _Optional[int] = ..., listed: _Optional[int] = ..., input_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., attempts: _Optional[int] = ..., lower_bounds: _Optional[int] = ...) -> None: ...

class GetCostsResponse(_message.Message):
    __slots__ = ("rows", "total", "groups", "price_tables", "position")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PRICE_TABLES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Costs]
    total: Costs
    groups: int
    price_tables: _containers.RepeatedScalarFieldContainer[str]
    position: int
    def __init__(self, rows: _Optional[_Iterable[_Union[Costs, _Mapping]]] = ..., total: _Optional[_Union[Costs, _Mapping]] = ..., groups: _Optional[int] = ..., price_tables: _Optional[_Iterable[str]] = ..., position: _Optional[int] = ...) -> None: ...

class GetMetricsRequest(_message.Message):
    __slots__ = ("selection",)
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class Durations(_message.Message):
    __slots__ = ("step", "name", "count", "total_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    P50_S_FIELD_NUMBER: _ClassVar[int]
    P90_S_FIELD_NUMBER: _ClassVar[int]
    P95_S_FIELD_NUMBER: _ClassVar[int]
    P99_S_FIELD_NUMBER: _ClassVar[int]
    MAX_S_FIELD_NUMBER: _ClassVar[int]
    step: str
    name: str
    count: int
    total_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float
    def __init__(self, step: _Optional[str] = ..., name: _Optional[str] = ..., count: _Optional[int] = ..., total_s: _Optional[float] = ..., p50_s: _Optional[float] = ..., p90_s: _Optional[float] = ..., p95_s: _Optional[float] = ..., p99_s: _Optional[float] = ..., max_s: _Optional[float] = ...) -> None: ...

class ToolFigures(_message.Message):
    __slots__ = ("tool", "workstreams", "completed", "first_pass", "fix_attempts", "cost_nano", "attempts", "unpriced")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FIRST_PASS_FIELD_NUMBER: _ClassVar[int]
    FIX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    tool: str
    workstreams: int
    completed: int
    first_pass: int
    fix_attempts: int
    cost_nano: int
    attempts: int
    unpriced: int
    def __init__(self, tool: _Optional[str] = ..., workstreams: _Optional[int] = ..., completed: _Optional[int] = ..., first_pass: _Optional[int] = ..., fix_attempts: _Optional[int] = ..., cost_nano: _Optional[int] = ..., attempts: _Optional[int] = ..., unpriced: _Optional[int] = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("name", "reason", "count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    count: int
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class CriticalLink(_message.Message):
    __slots__ = ("kind", "workstream", "attempt", "step", "tool", "started_ns", "duration_s")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    kind: str
    workstream: str
    attempt: int
    step: str
    tool: str
    started_ns: int
    duration_s: float
    def __init__(self, kind: _Optional[str] = ..., workstream: _Optional[str] = ..., attempt: _Optional[int] = ..., step: _Optional[str] = ..., tool: _Optional[str] = ..., started_ns: _Optional[int] = ..., duration_s: _Optional[float] = ...) -> None: ...

class BudgetFigures(_message.Message):
    __slots__ = ("status", "limit_nano", "spent_nano")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_NANO_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANO_FIELD_NUMBER: _ClassVar[int]
    status: str
    limit_nano: int
    spent_nano: int
    def __init__(self, status: _Optional[str] = ..., limit_nano: _Optional[int] = ..., spent_nano: _Optional[int] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("name", "value", "source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    source: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., source: _Optional[str] = ...) -> None: ...

class Recommendation(_message.Message):
    __slots__ = ("category", "current_value", "recommended_value", "expected_improvement", "reasoning", "evidence")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    CURRENT_VALUE_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_IMPROVEMENT_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    category: str
    current_value: str
    recommended_value: str
    expected_improvement: str
    reasoning: str
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    def __init__(self, category: _Optional[str] = ..., current_value: _Optional[str] = ..., recommended_value: _Optional[str] = ..., expected_improvement: _Optional[str] = ..., reasoning: _Optional[str] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ...) -> None: ...

class GetMetricsResponse(_message.Message):
    __slots__ = ("runs", "total_workstreams", "successful", "failed", "total_duration_sec", "avg_duration_sec", "wall_s", "workers", "parallelism_efficiency", "worker_utilization", "utilization_basis", "peak_parallelism", "wave_count", "avg_wave_duration_sec", "single_waves", "tools", "durations", "queue_waits", "mean_fix_attempts", "fix_attempts", "breaker_trips", "merge_conflicts", "gate_failures", "errors", "recoveries", "flaky_gates", "contexts", "budget", "costs", "critical_path", "recommendations", "position")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    SUCCESSFUL_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_SEC_FIELD_NUMBER: _ClassVar[int]
    AVG_DURATION_SEC_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PARALLELISM_EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    WORKER_UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_BASIS_FIELD_NUMBER: _ClassVar[int]
    PEAK_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    WAVE_COUNT_FIELD_NUMBER: _ClassVar[int]
    AVG_WAVE_DURATION_SEC_FIELD_NUMBER: _ClassVar[int]
    SINGLE_WAVES_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_WAITS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FIX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BREAKER_TRIPS_FIELD_NUMBER: _ClassVar[int]
    MERGE_CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    GATE_FAILURES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    FLAKY_GATES_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_PATH_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    runs: int
    total_workstreams: int
    successful: int
    failed: int
    total_duration_sec: float
    avg_duration_sec: float
    wall_s: float
    workers: int
    parallelism_efficiency: float
    worker_utilization: float
    utilization_basis: str
    peak_parallelism: int
    wave_count: int
    avg_wave_duration_sec: float
    single_waves: int
    tools: _containers.RepeatedCompositeFieldContainer[ToolFigures]
    durations: _containers.RepeatedCompositeFieldContainer[Durations]
    queue_waits: _containers.RepeatedCompositeFieldContainer[Durations]
    mean_fix_attempts: float
    fix_attempts: _containers.RepeatedCompositeFieldContainer[Count]
    breaker_trips: _containers.RepeatedCompositeFieldContainer[Count]
    merge_conflicts: int
    gate_failures: int
    errors: _containers.RepeatedCompositeFieldContainer[Count]
    recoveries: _containers.RepeatedCompositeFieldContainer[Count]
    flaky_gates: _containers.RepeatedCompositeFieldContainer[Count]
    contexts: _containers.RepeatedCompositeFieldContainer[Count]
    budget: BudgetFigures
    costs: Costs
    critical_path: _containers.RepeatedCompositeFieldContainer[CriticalLink]
    recommendations: _containers.RepeatedCompositeFieldContainer[Recommendation]
    position: int
    def __init__(self, runs: _Optional[int] = ..., total_workstreams: _Optional[int] = ..., successful: _Optional[int] = ..., failed: _Optional[int] = ..., total_duration_sec: _Optional[float] = ..., avg_duration_sec: _Optional[float] = ..., wall_s: _Optional[float] = ..., workers: _Optional[int] = ..., parallelism_efficiency: _Optional[float] = ..., worker_utilization: _Optional[float] = ..., utilization_basis: _Optional[str] = ..., peak_parallelism: _Optional[int] = ..., wave_count: _Optional[int] = ..., avg_wave_duration_sec: _Optional[float] = ..., single_waves: _Optional[int] = ..., tools: _Optional[_Iterable[_Union[ToolFigures, _Mapping]]] = ..., durations: _Optional[_Iterable[_Union[Durations, _Mapping]]] = ..., queue_waits: _Optional[_Iterable[_Union[Durations, _Mapping]]] = ..., mean_fix_attempts: _Optional[float] = ..., fix_attempts: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., breaker_trips: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., merge_conflicts: _Optional[int] = ..., gate_failures: _Optional[int] = ..., errors: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., recoveries: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., flaky_gates: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., contexts: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., budget: _Optional[_Union[BudgetFigures, _Mapping]] = ..., costs: _Optional[_Union[Costs, _Mapping]] = ..., critical_path: _Optional[_Iterable[_Union[CriticalLink, _Mapping]]] = ..., recommendations: _Optional[_Iterable[_Union[Recommendation, _Mapping]]] = ..., position: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("sql", "format", "rows_max", "min_position")
    SQL_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITION_FIELD_NUMBER: _ClassVar[int]
    sql: str
    format: QueryFormat
    rows_max: int
    min_position: int
    def __init__(self, sql: _Optional[str] = ..., format: _Optional[_Union[QueryFormat, str]] = ..., rows_max: _Optional[int] = ..., min_position: _Optional[int] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("header", "rows", "arrow", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: QueryHeader
    rows: QueryRows
    arrow: bytes
    end: QueryEnd
    def __init__(self, header: _Optional[_Union[QueryHeader, _Mapping]] = ..., rows: _Optional[_Union[QueryRows, _Mapping]] = ..., arrow: _Optional[bytes] = ..., end: _Optional[_Union[QueryEnd, _Mapping]] = ...) -> None: ...

class QueryHeader(_message.Message):
    __slots__ = ("columns", "position", "age_s")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[QueryColumn]
    position: int
    age_s: float
    def __init__(self, columns: _Optional[_Iterable[_Union[QueryColumn, _Mapping]]] = ..., position: _Optional[int] = ..., age_s: _Optional[float] = ...) -> None: ...

class QueryColumn(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class QueryRows(_message.Message):
    __slots__ = ("count", "columns")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    count: int
    columns: _containers.RepeatedCompositeFieldContainer[QueryValues]
    def __init__(self, count: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[QueryValues, _Mapping]]] = ...) -> None: ...

class QueryValues(_message.Message):
    __slots__ = ("nulls", "integers", "doubles", "booleans", "texts", "blobs")
    NULLS_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    BOOLEANS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    nulls: _containers.RepeatedScalarFieldContainer[int]
    integers: QueryIntegers
    doubles: QueryDoubles
    booleans: QueryBooleans
    texts: QueryTexts
    blobs: QueryBlobs
    def __init__(self, nulls: _Optional[_Iterable[int]] = ..., integers: _Optional[_Union[QueryIntegers, _Mapping]] = ..., doubles: _Optional[_Union[QueryDoubles, _Mapping]] = ..., booleans: _Optional[_Union[QueryBooleans, _Mapping]] = ..., texts: _Optional[_Union[QueryTexts, _Mapping]] = ..., blobs: _Optional[_Union[QueryBlobs, _Mapping]] = ...) -> None: ...

class QueryIntegers(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class QueryDoubles(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class QueryBooleans(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, values: _Optional[_Iterable[bool]] = ...) -> None: ...

class QueryTexts(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class QueryBlobs(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class QueryEnd(_message.Message):
    __slots__ = ("rows", "wall_s")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    rows: int
    wall_s: float
    def __init__(self, rows: _Optional[int] = ..., wall_s: _Optional[float] = ...) -> None: ...
