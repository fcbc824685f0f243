from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
    __slots__ = ("max_workers", "wave_delay_s", "fail_fast", "dry_run", "timeout_s", "accept_unenforced", "stepwise", "context_json")
    MAX_WORKERS_FIELD_NUMBER: _ClassVar[int]
    WAVE_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    FAIL_FAST_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_UNENFORCED_FIELD_NUMBER: _ClassVar[int]
    STEPWISE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_JSON_FIELD_NUMBER: _ClassVar[int]
    max_workers: int
    wave_delay_s: float
    fail_fast: bool
    dry_run: bool
    timeout_s: float
    accept_unenforced: bool
    stepwise: bool
    context_json: str
    def __init__(self, max_workers: _Optional[int] = ..., wave_delay_s: _Optional[float] = ..., fail_fast: _Optional[bool] = ..., dry_run: _Optional[bool] = ..., timeout_s: _Optional[float] = ..., accept_unenforced: _Optional[bool] = ..., stepwise: _Optional[bool] = ..., context_json: _Optional[str] = ...) -> None: ...

class RunHeader(_message.Message):
    __slots__ = ("request_id", "run", "repository", "options", "checks_toml", "tool_profiles_json", "breaker_json", "actor")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_TOML_FIELD_NUMBER: _ClassVar[int]
    TOOL_PROFILES_JSON_FIELD_NUMBER: _ClassVar[int]
    BREAKER_JSON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    run: str
    repository: Repository
    options: RunOptions
    checks_toml: bytes
    tool_profiles_json: bytes
    breaker_json: bytes
    actor: str
    def __init__(self, request_id: _Optional[str] = ..., run: _Optional[str] = ..., repository: _Optional[_Union[Repository, _Mapping]] = ..., options: _Optional[_Union[RunOptions, _Mapping]] = ..., checks_toml: _Optional[bytes] = ..., tool_profiles_json: _Optional[bytes] = ..., breaker_json: _Optional[bytes] = ..., actor: _Optional[str] = ...) -> None: ...

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
