from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FleetScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLEET_SCOPE_UNSPECIFIED: _ClassVar[FleetScope]
    FLEET_SCOPE_TOOL: _ClassVar[FleetScope]
    FLEET_SCOPE_POOL: _ClassVar[FleetScope]
    FLEET_SCOPE_ALL: _ClassVar[FleetScope]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_APPROVE: _ClassVar[Verdict]
    VERDICT_REJECT: _ClassVar[Verdict]
    VERDICT_RETRY: _ClassVar[Verdict]
FLEET_SCOPE_UNSPECIFIED: FleetScope
FLEET_SCOPE_TOOL: FleetScope
FLEET_SCOPE_POOL: FleetScope
FLEET_SCOPE_ALL: FleetScope
VERDICT_UNSPECIFIED: Verdict
VERDICT_APPROVE: Verdict
VERDICT_REJECT: Verdict
VERDICT_RETRY: Verdict

class BundleDocument(_message.Message):
    __slots__ = ("name", "content")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    content: bytes
    def __init__(self, name: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class Repository(_message.Message):
    __slots__ = ("location", "base_commit", "base_ref")
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    BASE_REF_FIELD_NUMBER: _ClassVar[int]
    location: str
    base_commit: str
    base_ref: str
    def __init__(self, location: _Optional[str] = ..., base_commit: _Optional[str] = ..., base_ref: _Optional[str] = ...) -> None: ...

class RunOptions(_message.Message):
    __slots__ = ("max_workers", "wave_delay_s", "fail_fast", "dry_run", "timeout_s", "stepwise", "context_json", "scheduling", "review", "paused", "budget_nano", "budget_mode", "pools", "deliver", "delivery_style", "delivery_remote", "delivery_credential", "delivery_hook")
    MAX_WORKERS_FIELD_NUMBER: _ClassVar[int]
    WAVE_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    FAIL_FAST_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    STEPWISE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_JSON_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    BUDGET_NANO_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MODE_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    DELIVER_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_STYLE_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_REMOTE_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_HOOK_FIELD_NUMBER: _ClassVar[int]
    max_workers: int
    wave_delay_s: float
    fail_fast: bool
    dry_run: bool
    timeout_s: float
    stepwise: bool
    context_json: str
    scheduling: str
    review: str
    paused: bool
    budget_nano: int
    budget_mode: str
    pools: _containers.RepeatedScalarFieldContainer[str]
    deliver: str
    delivery_style: str
    delivery_remote: str
    delivery_credential: str
    delivery_hook: str
    def __init__(self, max_workers: _Optional[int] = ..., wave_delay_s: _Optional[float] = ..., fail_fast: _Optional[bool] = ..., dry_run: _Optional[bool] = ..., timeout_s: _Optional[float] = ..., stepwise: _Optional[bool] = ..., context_json: _Optional[str] = ..., scheduling: _Optional[str] = ..., review: _Optional[str] = ..., paused: _Optional[bool] = ..., budget_nano: _Optional[int] = ..., budget_mode: _Optional[str] = ..., pools: _Optional[_Iterable[str]] = ..., deliver: _Optional[str] = ..., delivery_style: _Optional[str] = ..., delivery_remote: _Optional[str] = ..., delivery_credential: _Optional[str] = ..., delivery_hook: _Optional[str] = ...) -> None: ...

class RunHeader(_message.Message):
    __slots__ = ("request_id", "run", "repository", "options", "checks_toml", "tool_profiles_json", "breaker_json", "actor", "recovery_json", "aim_registry_json", "gates_json", "labels", "tenant")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_TOML_FIELD_NUMBER: _ClassVar[int]
    TOOL_PROFILES_JSON_FIELD_NUMBER: _ClassVar[int]
    BREAKER_JSON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_JSON_FIELD_NUMBER: _ClassVar[int]
    AIM_REGISTRY_JSON_FIELD_NUMBER: _ClassVar[int]
    GATES_JSON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    run: str
    repository: Repository
    options: RunOptions
    checks_toml: bytes
    tool_profiles_json: bytes
    breaker_json: bytes
    actor: str
    recovery_json: bytes
    aim_registry_json: bytes
    gates_json: bytes
    labels: _containers.ScalarMap[str, str]
    tenant: str
    def __init__(self, request_id: _Optional[str] = ..., run: _Optional[str] = ..., repository: _Optional[_Union[Repository, _Mapping]] = ..., options: _Optional[_Union[RunOptions, _Mapping]] = ..., checks_toml: _Optional[bytes] = ..., tool_profiles_json: _Optional[bytes] = ..., breaker_json: _Optional[bytes] = ..., actor: _Optional[str] = ..., recovery_json: _Optional[bytes] = ..., aim_registry_json: _Optional[bytes] = ..., gates_json: _Optional[bytes] = ..., labels: _Optional[_Mapping[str, str]] = ..., tenant: _Optional[str] = ...) -> None: ...

class PlanRunRequest(_message.Message):
    __slots__ = ("header", "documents")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    header: RunHeader
    documents: _containers.RepeatedCompositeFieldContainer[BundleDocument]
    def __init__(self, header: _Optional[_Union[RunHeader, _Mapping]] = ..., documents: _Optional[_Iterable[_Union[BundleDocument, _Mapping]]] = ...) -> None: ...

class PlanFinding(_message.Message):
    __slots__ = ("code", "workstream", "message", "remedy")
    CODE_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    code: str
    workstream: str
    message: str
    remedy: str
    def __init__(self, code: _Optional[str] = ..., workstream: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Wave(_message.Message):
    __slots__ = ("workstreams",)
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    workstreams: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, workstreams: _Optional[_Iterable[str]] = ...) -> None: ...

class PlanRunResponse(_message.Message):
    __slots__ = ("valid", "errors", "warnings", "waves", "report_json")
    VALID_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    errors: _containers.RepeatedCompositeFieldContainer[PlanFinding]
    warnings: _containers.RepeatedCompositeFieldContainer[PlanFinding]
    waves: _containers.RepeatedCompositeFieldContainer[Wave]
    report_json: str
    def __init__(self, valid: _Optional[bool] = ..., errors: _Optional[_Iterable[_Union[PlanFinding, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[PlanFinding, _Mapping]]] = ..., waves: _Optional[_Iterable[_Union[Wave, _Mapping]]] = ..., report_json: _Optional[str] = ...) -> None: ...

class SubmitRunRequest(_message.Message):
    __slots__ = ("header", "document")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    header: RunHeader
    document: BundleDocument
    def __init__(self, header: _Optional[_Union[RunHeader, _Mapping]] = ..., document: _Optional[_Union[BundleDocument, _Mapping]] = ...) -> None: ...

class SubmitRunResponse(_message.Message):
    __slots__ = ("run", "position", "warnings")
    RUN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    run: str
    position: int
    warnings: _containers.RepeatedCompositeFieldContainer[PlanFinding]
    def __init__(self, run: _Optional[str] = ..., position: _Optional[int] = ..., warnings: _Optional[_Iterable[_Union[PlanFinding, _Mapping]]] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run", "request_id", "reason", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    request_id: str
    reason: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CancelRunResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class RequestStepRequest(_message.Message):
    __slots__ = ("run", "workstream", "step", "with_fix", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WITH_FIX_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    step: str
    with_fix: bool
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., step: _Optional[str] = ..., with_fix: _Optional[bool] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RequestStepResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class PauseRunRequest(_message.Message):
    __slots__ = ("run", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class PauseRunResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class SetBudgetRequest(_message.Message):
    __slots__ = ("run", "limit_nano", "mode", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_NANO_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    limit_nano: int
    mode: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., limit_nano: _Optional[int] = ..., mode: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class SetBudgetResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class GetBudgetRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class GetBudgetResponse(_message.Message):
    __slots__ = ("run", "limit_nano", "mode", "spent_nano", "reserved_nano", "unknown", "state")
    RUN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_NANO_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANO_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANO_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    limit_nano: int
    mode: str
    spent_nano: int
    reserved_nano: int
    unknown: int
    state: str
    def __init__(self, run: _Optional[str] = ..., limit_nano: _Optional[int] = ..., mode: _Optional[str] = ..., spent_nano: _Optional[int] = ..., reserved_nano: _Optional[int] = ..., unknown: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class SetSharedBudgetRequest(_message.Message):
    __slots__ = ("tool", "limit_nano", "mode", "reason", "request_id", "actor", "tenant")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_NANO_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tool: str
    limit_nano: int
    mode: str
    reason: str
    request_id: str
    actor: str
    tenant: str
    def __init__(self, tool: _Optional[str] = ..., limit_nano: _Optional[int] = ..., mode: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class SetSharedBudgetResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class GetSharedBudgetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSharedBudgetsResponse(_message.Message):
    __slots__ = ("day", "budgets", "rates", "slots")
    DAY_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    day: str
    budgets: _containers.RepeatedCompositeFieldContainer[SharedBudget]
    rates: _containers.RepeatedCompositeFieldContainer[SharedRate]
    slots: _containers.RepeatedCompositeFieldContainer[SharedSlots]
    def __init__(self, day: _Optional[str] = ..., budgets: _Optional[_Iterable[_Union[SharedBudget, _Mapping]]] = ..., rates: _Optional[_Iterable[_Union[SharedRate, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[SharedSlots, _Mapping]]] = ...) -> None: ...

class SharedBudget(_message.Message):
    __slots__ = ("tool", "limit_nano", "mode", "spent_nano", "reserved_nano", "unknown", "actor", "tenant")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_NANO_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANO_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANO_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tool: str
    limit_nano: int
    mode: str
    spent_nano: int
    reserved_nano: int
    unknown: int
    actor: str
    tenant: str
    def __init__(self, tool: _Optional[str] = ..., limit_nano: _Optional[int] = ..., mode: _Optional[str] = ..., spent_nano: _Optional[int] = ..., reserved_nano: _Optional[int] = ..., unknown: _Optional[int] = ..., actor: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class SharedSlots(_message.Message):
    __slots__ = ("pool", "tenant", "used", "concurrency", "weight", "pool_slots")
    POOL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    POOL_SLOTS_FIELD_NUMBER: _ClassVar[int]
    pool: str
    tenant: str
    used: int
    concurrency: int
    weight: int
    pool_slots: int
    def __init__(self, pool: _Optional[str] = ..., tenant: _Optional[str] = ..., used: _Optional[int] = ..., concurrency: _Optional[int] = ..., weight: _Optional[int] = ..., pool_slots: _Optional[int] = ...) -> None: ...

class SharedRate(_message.Message):
    __slots__ = ("name", "attempts_per_min", "burst", "tokens_per_min", "opens_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_PER_MIN_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MIN_FIELD_NUMBER: _ClassVar[int]
    OPENS_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    attempts_per_min: int
    burst: int
    tokens_per_min: int
    opens_ns: int
    def __init__(self, name: _Optional[str] = ..., attempts_per_min: _Optional[int] = ..., burst: _Optional[int] = ..., tokens_per_min: _Optional[int] = ..., opens_ns: _Optional[int] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ResumeRunResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class PauseFleetRequest(_message.Message):
    __slots__ = ("scope", "name", "reason", "request_id", "actor")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    scope: FleetScope
    name: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, scope: _Optional[_Union[FleetScope, str]] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class PauseFleetResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class ResumeFleetRequest(_message.Message):
    __slots__ = ("scope", "name", "reason", "request_id", "actor")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    scope: FleetScope
    name: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, scope: _Optional[_Union[FleetScope, str]] = ..., name: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ResumeFleetResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class Review(_message.Message):
    __slots__ = ("run", "workstream", "step", "error_class", "reason", "since_ns", "attempts", "commit")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    step: str
    error_class: str
    reason: str
    since_ns: int
    attempts: int
    commit: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., step: _Optional[str] = ..., error_class: _Optional[str] = ..., reason: _Optional[str] = ..., since_ns: _Optional[int] = ..., attempts: _Optional[int] = ..., commit: _Optional[str] = ...) -> None: ...

class ListReviewsRequest(_message.Message):
    __slots__ = ("run", "error_classes", "text", "page_size", "page_token")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASSES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    error_classes: _containers.RepeatedScalarFieldContainer[str]
    text: str
    page_size: int
    page_token: str
    def __init__(self, run: _Optional[str] = ..., error_classes: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReviewsResponse(_message.Message):
    __slots__ = ("reviews", "next_page_token")
    REVIEWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reviews: _containers.RepeatedCompositeFieldContainer[Review]
    next_page_token: str
    def __init__(self, reviews: _Optional[_Iterable[_Union[Review, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ResolveReviewsRequest(_message.Message):
    __slots__ = ("run", "verdict", "workstreams", "from_step", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    verdict: Verdict
    workstreams: _containers.RepeatedScalarFieldContainer[str]
    from_step: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., workstreams: _Optional[_Iterable[str]] = ..., from_step: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ResolveReviewsResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class AdjustWorkstreamRequest(_message.Message):
    __slots__ = ("run", "workstream", "tool", "add_files_scope", "add_files_create", "hint", "more_attempts", "from_step", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ADD_FILES_SCOPE_FIELD_NUMBER: _ClassVar[int]
    ADD_FILES_CREATE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    MORE_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    tool: str
    add_files_scope: _containers.RepeatedScalarFieldContainer[str]
    add_files_create: _containers.RepeatedScalarFieldContainer[str]
    hint: str
    more_attempts: int
    from_step: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., tool: _Optional[str] = ..., add_files_scope: _Optional[_Iterable[str]] = ..., add_files_create: _Optional[_Iterable[str]] = ..., hint: _Optional[str] = ..., more_attempts: _Optional[int] = ..., from_step: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class AdjustWorkstreamResponse(_message.Message):
    __slots__ = ("position", "answer", "spec_digest")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    spec_digest: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ..., spec_digest: _Optional[str] = ...) -> None: ...

class RetryRunRequest(_message.Message):
    __slots__ = ("run", "workstreams", "from_step", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstreams: _containers.RepeatedScalarFieldContainer[str]
    from_step: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., workstreams: _Optional[_Iterable[str]] = ..., from_step: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RetryRunResponse(_message.Message):
    __slots__ = ("position", "answer", "run", "new_run", "workstreams")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NEW_RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    run: str
    new_run: bool
    workstreams: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ..., run: _Optional[str] = ..., new_run: _Optional[bool] = ..., workstreams: _Optional[_Iterable[str]] = ...) -> None: ...

class RollbackRunRequest(_message.Message):
    __slots__ = ("run", "reason", "request_id", "actor", "workstreams", "with_dependents")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAMS_FIELD_NUMBER: _ClassVar[int]
    WITH_DEPENDENTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    reason: str
    request_id: str
    actor: str
    workstreams: _containers.RepeatedScalarFieldContainer[str]
    with_dependents: bool
    def __init__(self, run: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ..., workstreams: _Optional[_Iterable[str]] = ..., with_dependents: _Optional[bool] = ...) -> None: ...

class DeliverRunRequest(_message.Message):
    __slots__ = ("run", "style", "remote", "credential", "series", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    style: str
    remote: str
    credential: str
    series: bool
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., style: _Optional[str] = ..., remote: _Optional[str] = ..., credential: _Optional[str] = ..., series: _Optional[bool] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class DeliverRunResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class RollbackRunResponse(_message.Message):
    __slots__ = ("position", "answer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ...) -> None: ...

class RecoverStepRequest(_message.Message):
    __slots__ = ("run", "workstream", "step", "error_class", "reason", "request_id", "actor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKSTREAM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    workstream: str
    step: str
    error_class: str
    reason: str
    request_id: str
    actor: str
    def __init__(self, run: _Optional[str] = ..., workstream: _Optional[str] = ..., step: _Optional[str] = ..., error_class: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RecoverStepResponse(_message.Message):
    __slots__ = ("position", "answer", "recovered", "strategy", "reason", "not_before_ns", "tool", "reduction")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_NS_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    position: int
    answer: str
    recovered: bool
    strategy: str
    reason: str
    not_before_ns: int
    tool: str
    reduction: int
    def __init__(self, position: _Optional[int] = ..., answer: _Optional[str] = ..., recovered: _Optional[bool] = ..., strategy: _Optional[str] = ..., reason: _Optional[str] = ..., not_before_ns: _Optional[int] = ..., tool: _Optional[str] = ..., reduction: _Optional[int] = ...) -> None: ...

class GetFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("executors", "breakers", "pauses", "scheduler", "pools")
    EXECUTORS_FIELD_NUMBER: _ClassVar[int]
    BREAKERS_FIELD_NUMBER: _ClassVar[int]
    PAUSES_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    executors: _containers.RepeatedCompositeFieldContainer[Executor]
    breakers: _containers.RepeatedCompositeFieldContainer[ToolBreaker]
    pauses: _containers.RepeatedCompositeFieldContainer[FleetPause]
    scheduler: Scheduler
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    def __init__(self, executors: _Optional[_Iterable[_Union[Executor, _Mapping]]] = ..., breakers: _Optional[_Iterable[_Union[ToolBreaker, _Mapping]]] = ..., pauses: _Optional[_Iterable[_Union[FleetPause, _Mapping]]] = ..., scheduler: _Optional[_Union[Scheduler, _Mapping]] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ...) -> None: ...

class Scheduler(_message.Message):
    __slots__ = ("name", "version", "server_time_ns", "log_time_ns", "position", "caught_up", "halted", "leader", "snapshot_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    LOG_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    HALTED_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    server_time_ns: int
    log_time_ns: int
    position: int
    caught_up: bool
    halted: str
    leader: str
    snapshot_ns: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., server_time_ns: _Optional[int] = ..., log_time_ns: _Optional[int] = ..., position: _Optional[int] = ..., caught_up: _Optional[bool] = ..., halted: _Optional[str] = ..., leader: _Optional[str] = ..., snapshot_ns: _Optional[int] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("name", "waiting", "oldest_ns", "deadline_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    OLDEST_NS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    waiting: int
    oldest_ns: int
    deadline_ns: int
    def __init__(self, name: _Optional[str] = ..., waiting: _Optional[int] = ..., oldest_ns: _Optional[int] = ..., deadline_ns: _Optional[int] = ...) -> None: ...

class Executor(_message.Message):
    __slots__ = ("executor", "boot", "pool", "slots", "state", "since_ns", "reason", "tools", "missing", "version", "clock_ahead_ns")
    class ToolsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class MissingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_AHEAD_NS_FIELD_NUMBER: _ClassVar[int]
    executor: str
    boot: str
    pool: str
    slots: int
    state: str
    since_ns: int
    reason: str
    tools: _containers.ScalarMap[str, str]
    missing: _containers.ScalarMap[str, str]
    version: str
    clock_ahead_ns: int
    def __init__(self, executor: _Optional[str] = ..., boot: _Optional[str] = ..., pool: _Optional[str] = ..., slots: _Optional[int] = ..., state: _Optional[str] = ..., since_ns: _Optional[int] = ..., reason: _Optional[str] = ..., tools: _Optional[_Mapping[str, str]] = ..., missing: _Optional[_Mapping[str, str]] = ..., version: _Optional[str] = ..., clock_ahead_ns: _Optional[int] = ...) -> None: ...

class ToolBreaker(_message.Message):
    __slots__ = ("tool", "state", "failures", "until_ns", "reason")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    tool: str
    state: str
    failures: int
    until_ns: int
    reason: str
    def __init__(self, tool: _Optional[str] = ..., state: _Optional[str] = ..., failures: _Optional[int] = ..., until_ns: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class FleetPause(_message.Message):
    __slots__ = ("scope", "name", "actor", "reason")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    scope: FleetScope
    name: str
    actor: str
    reason: str
    def __init__(self, scope: _Optional[_Union[FleetScope, str]] = ..., name: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
