"""The gRPC client of both services: plain values in, plain values out. The only part of the front door that sees stubs.

Every call has a deadline. A call that may be repeated is repeated while the service does not answer: reads always,
writes because their `request_id` makes a repetition harmless.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec

from services.trace import DRAWN_BYTES, METADATA, VARIABLE, begun, parsed
from swell.cluster import has_room
from swell.errors import SwellError
from swell.secured import Token, credentials, no_handshake
from swell.values import (
    Adjustment,
    Anchor,
    Answer,
    ArchiveProgress,
    ArchiveResult,
    Artifact,
    Attempt,
    AttemptFacts,
    AuditFinding,
    AuditProgress,
    AuditResult,
    Budget,
    Difference,
    Document,
    Endpoints,
    Event,
    EventFilter,
    Executor,
    Explanation,
    Failure,
    Finding,
    Fleet,
    FleetPause,
    Header,
    LedgerCopy,
    LedgerStatus,
    Metrics,
    Moment,
    Patch,
    PatchMove,
    Plan,
    Pool,
    QueryColumn,
    QueryEnd,
    QueryHeader,
    Recovery,
    Retried,
    Review,
    Run,
    RunChange,
    RunFilter,
    Scheduler,
    Selection,
    SharedBudget,
    SharedBudgets,
    SharedRate,
    SharedSlots,
    Spent,
    Submitted,
    ToolBreaker,
    Transition,
    VerifyProgress,
    VerifyResult,
    Wait,
    Watched,
    Wave,
    Workstream,
)

if TYPE_CHECKING:
    import grpc

CALL_TIMEOUT_S: Final = 30.0
SUBMIT_TIMEOUT_S: Final = 120.0
VERIFY_TIMEOUT_S: Final = 3600.0
"""A verification reads the whole log."""
WATCH_TIMEOUT_S: Final = 60.0
"""A watch is asked for anew this often: it bounds the time a dead connection goes unnoticed."""
OUTAGE_S: Final = 15.0
"""A service that restarts is waited for this long."""
ANCHORS_AT_ONCE: Final = 1000
"""One call takes no more."""
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
PAGE: Final = 1000
TOKEN_BYTES_MAX: Final = 4096
POSITION: Final = "x-swell-position"
"""The metadata by which a ledger tells how far it was when it answered."""
MIN_POSITION: Final = "x-swell-min-position"
"""The metadata by which it is asked to be at least so far."""
_WATCHED: Final = frozenset({"state", "repository", "labels", "tenant"})
SQL_TIMEOUT_S: Final = 3600.0
"""The ledger ends a question at its own limit; this is for a connection that died."""
SQL_BYTES_MAX: Final = 60_000
"""The ledger takes requests of 64 KiB."""

_RPC: Final = re.compile(r"\b(ListRuns|GetStatus)\b")
_COMMANDS: Final = {"ListRuns": "`swell list`", "GetStatus": "`swell ledger status`"}
"""The commands that ask what a message of a service names by its method."""

_REMEDIES: Final = {
    "UNAUTHENTICATED": "Check SWELL_TOKEN_FILE, or SWELL_CERTIFICATE_FILE.",
    "TOKEN_EXPIRED": "Write a fresh token into the file of SWELL_TOKEN_FILE.",
    "TOKEN_INVALID": "Write a token that is made for Swell into the file of SWELL_TOKEN_FILE.",
    "ROLE_MISSING": "Ask whoever runs the cluster for that role, or for somebody who has it.",
    "NO_ROLE": "Ask whoever runs the identity provider for a role.",
    "TENANT_BOUND": "Ask somebody who is bound to no tenant.",
}
"""What to do about refusals, by their reason."""

_T = TypeVar("_T")
_S = TypeVar("_S", bound=msgspec.Struct)


def _plain(value: Any, type_: type[_S], **known: Any) -> _S:
    """A message as the struct with the same field names; `known` are fields made by the caller."""
    read = {name: getattr(value, name) for name in type_.__struct_fields__ if name not in known}
    return type_(**{name: list(item) if _repeated(item) else item for name, item in read.items()}, **known)


def _built(message: Any) -> dict[str, Any]:
    """A message and all it holds as plain values; None for an optional field that is not set."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_built(item) for item in value] if field.message_type else list(value)
    if field.has_presence and not message.HasField(field.name):
        return None
    return _built(value) if field.message_type else value


def _repeated(item: Any) -> bool:
    return not isinstance(item, str | bytes | int | float | bool)


def _run(value: Any) -> Run:
    return _plain(value, Run, labels=dict(value.labels))


def _attempt(value: Any) -> Attempt:
    optional = ("exit_code", "cost_nano", "list_cost_nano")
    return _plain(
        value,
        Attempt,
        **{name: getattr(value, name) if value.HasField(name) else None for name in optional},
        artifacts=[_plain(artifact, Artifact) for artifact in value.artifacts],
    )


def _event(value: Any) -> Event:
    try:
        payload = msgspec.json.decode(value.payload_json, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        payload = {}
    return _plain(value, Event, payload=payload)


def _rows(told: Any) -> list[tuple[Any, ...]]:
    columns = []
    for column in told.columns:
        values = list(getattr(column, column.WhichOneof("values")).values)
        for at in column.nulls:
            values[at] = None
        columns.append(values)
    return list(zip(*columns, strict=True))


def _findings(values: Iterable[Any]) -> list[Finding]:
    return [_plain(value, Finding) for value in values]


class Client:
    """One connection to each service. Close it, or use it as a context. Safe to use from several threads.

    It remembers the newest position of the log that it has seen, and asks every ledger for at least that: whatever it has
    written or read stays there, whichever of several ledgers answers next.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        import grpc  # noqa: PLC0415 - costs 0.15 s, and most commands that print help need none of it

        from services.ledger.v1 import ledger_pb2, ledger_pb2_grpc  # noqa: PLC0415 - as above
        from services.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc  # noqa: PLC0415 - as above

        self.endpoints = endpoints
        self._grpc = grpc
        self._scheduler_pb2 = scheduler_pb2
        self._ledger_pb2 = ledger_pb2
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
        ]
        self._token = Token(endpoints)
        protected = credentials(endpoints)
        if endpoints.tls_name:
            options.append(("grpc.ssl_target_name_override", endpoints.tls_name))
        self._channels = [
            grpc.insecure_channel(at, options) if protected is None else grpc.secure_channel(at, protected, options)
            for at in (endpoints.scheduler, endpoints.ledger)
        ]
        self._scheduler = scheduler_pb2_grpc.SchedulerServiceStub(self._channels[0])  # type: ignore[no-untyped-call]
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(self._channels[1])  # type: ignore[no-untyped-call]
        self._trace = parsed(os.environ.get(VARIABLE, ""))
        self.seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections and every watch."""
        for channel in self._channels:
            channel.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Who calls, and in which trace: the one that we were started in, else one of the call's own."""
        trace = self._trace or begun(os.urandom(DRAWN_BYTES))
        token = self._token.text()
        return ((METADATA, trace.text), *((("authorization", f"Bearer {token}"),) if token else ()))

    # The scheduler

    def plan_run(self, header: Header, documents: Sequence[Document]) -> Plan:
        """What a run would do, and what speaks against it. Changes nothing."""
        request = self._scheduler_pb2.PlanRunRequest(
            header=self._header(header), documents=[self._document(document) for document in documents]
        )
        answer = self._call(self._scheduler.PlanRun, request, timeout_s=SUBMIT_TIMEOUT_S)
        return Plan(
            valid=answer.valid,
            errors=_findings(answer.errors),
            warnings=_findings(answer.warnings),
            waves=[list(wave.workstreams) for wave in answer.waves],
            report=msgspec.json.decode(answer.report_json or "{}"),
        )

    def submit_run(self, header: Header, documents: Sequence[Document]) -> Submitted:
        """Submit a run. Without a `request_id` a fresh one is taken, so that repeating after a failure is harmless."""
        if not header.request_id:
            header = msgspec.structs.replace(header, request_id=str(uuid.uuid4()))
        message = self._scheduler_pb2.SubmitRunRequest

        def parts() -> Iterator[Any]:
            yield message(header=self._header(header))
            for document in documents:
                yield message(document=self._document(document))

        answer = self._repeat(lambda: self._submit(parts()))
        self.saw(answer.position)
        return Submitted(run=answer.run, position=answer.position, warnings=_findings(answer.warnings))

    def _submit(self, parts: Iterator[Any]) -> Any:
        return self._scheduler.SubmitRun(parts, timeout=SUBMIT_TIMEOUT_S, metadata=self._metadata())

    def cancel_run(self, run: str, *, reason: str, actor: str) -> int:
        """Ask for the end of a run; the position of the request."""
        request = self._scheduler_pb2.CancelRunRequest(
            run=run, request_id=str(uuid.uuid4()), reason=reason, actor=actor
        )
        return int(self._call(self._scheduler.CancelRun, request).position)

    def request_step(
        self, run: str, workstream: str, step: str, *, with_fix: bool, actor: str, request_id: str = ""
    ) -> int:
        """Ask for one step of a stepwise run; the position of the request. Its answer is an event."""
        request = self._scheduler_pb2.RequestStepRequest(
            run=run,
            workstream=workstream,
            step=step,
            with_fix=with_fix,
            request_id=request_id or str(uuid.uuid4()),
            actor=actor,
        )
        return int(self._call(self._scheduler.RequestStep, request).position)

    def pause_run(self, run: str, *, reason: str, actor: str, request_id: str = "") -> Answer:
        """Start nothing new of a run. Like what follows here, it returns once the scheduler has answered."""
        request = self._scheduler_pb2.PauseRunRequest(run=run, reason=reason, **_asked(actor, request_id))
        return _plain(self._call(self._scheduler.PauseRun, request), Answer)

    def resume_run(self, run: str, *, reason: str, actor: str, request_id: str = "") -> Answer:
        """Go on with a run that somebody paused."""
        request = self._scheduler_pb2.ResumeRunRequest(run=run, reason=reason, **_asked(actor, request_id))
        return _plain(self._call(self._scheduler.ResumeRun, request), Answer)

    def set_budget(
        self, run: str, limit_nano: int | None, *, mode: str = "", reason: str, actor: str, request_id: str = ""
    ) -> Answer:
        """Give a live run another budget, in nano-dollars; None for none."""
        request = self._scheduler_pb2.SetBudgetRequest(
            run=run, limit_nano=limit_nano, mode=mode, reason=reason, **_asked(actor, request_id)
        )
        return _plain(self._call(self._scheduler.SetBudget, request), Answer)

    def get_budget(self, run: str) -> Budget:
        """What a run may spend, has spent, and has reserved."""
        answer = self._call(self._scheduler.GetBudget, self._scheduler_pb2.GetBudgetRequest(run=run))
        limit_nano = answer.limit_nano if answer.HasField("limit_nano") else None
        return _plain(answer, Budget, limit_nano=limit_nano)

    def set_shared_budget(
        self,
        tool: str,
        limit_nano: int | None,
        *,
        mode: str = "",
        reason: str,
        actor: str,
        request_id: str = "",
        tenant: str = "",
    ) -> Answer:
        """Give a tool or a tenant (neither: the fleet) another budget for each day, in nano-dollars; None for none."""
        request = self._scheduler_pb2.SetSharedBudgetRequest(
            tool=tool, tenant=tenant, limit_nano=limit_nano, mode=mode, reason=reason, **_asked(actor, request_id)
        )
        return _plain(self._call(self._scheduler.SetSharedBudget, request), Answer)

    def get_shared_budgets(self) -> SharedBudgets:
        """What the fleet, tools and tenants may spend today, have spent, and have reserved; who has slots; the rates in force."""
        answer = self._call(self._scheduler.GetSharedBudgets, self._scheduler_pb2.GetSharedBudgetsRequest())
        return SharedBudgets(
            day=answer.day,
            budgets=[
                _plain(found, SharedBudget, limit_nano=found.limit_nano if found.HasField("limit_nano") else None)
                for found in answer.budgets
            ],
            rates=[_plain(rate, SharedRate) for rate in answer.rates],
            slots=[_plain(found, SharedSlots) for found in answer.slots],
        )

    def pause_fleet(self, scope: str, name: str, *, reason: str, actor: str, request_id: str = "") -> Answer:
        """Start nothing new that needs the tool or the pool `name`, or ("all") at all."""
        request = self._scheduler_pb2.PauseFleetRequest(
            scope=self._scope(scope), name=name, reason=reason, **_asked(actor, request_id)
        )
        return _plain(self._call(self._scheduler.PauseFleet, request), Answer)

    def resume_fleet(self, scope: str, name: str, *, reason: str, actor: str, request_id: str = "") -> Answer:
        """End such a pause; for a tool also its open breaker."""
        request = self._scheduler_pb2.ResumeFleetRequest(
            scope=self._scope(scope), name=name, reason=reason, **_asked(actor, request_id)
        )
        return _plain(self._call(self._scheduler.ResumeFleet, request), Answer)

    def _scope(self, scope: str) -> Any:
        return self._scheduler_pb2.FleetScope.Value(f"FLEET_SCOPE_{scope.upper()}")

    def get_fleet(self) -> Fleet:
        """Executors, breakers of tools, and pauses."""
        answer = self._call(self._scheduler.GetFleet, self._scheduler_pb2.GetFleetRequest())
        name_of = self._scheduler_pb2.FleetScope.Name
        return Fleet(
            executors=[
                _plain(executor, Executor, tools=dict(executor.tools), missing=dict(executor.missing))
                for executor in answer.executors
            ],
            scheduler=Scheduler(**_built(answer.scheduler)),
            pools=[_plain(pool, Pool) for pool in answer.pools],
            breakers=[_plain(breaker, ToolBreaker) for breaker in answer.breakers],
            pauses=[
                _plain(pause, FleetPause, scope=name_of(pause.scope).removeprefix("FLEET_SCOPE_").lower())
                for pause in answer.pauses
            ],
        )

    def list_reviews(self, run: str = "", *, error_classes: Sequence[str] = (), text: str = "") -> list[Review]:
        """The workstreams of live runs, or of one run, that wait for a person."""

        def page(token: str, count: int) -> Any:
            request = self._scheduler_pb2.ListReviewsRequest(
                run=run, error_classes=error_classes, text=text, page_size=count, page_token=token
            )
            return self._call(self._scheduler.ListReviews, request)

        return [_plain(review, Review) for review in _paged(page, "reviews")]

    def resolve_reviews(
        self,
        run: str,
        verdict: str,
        workstreams: Sequence[str] = (),
        *,
        from_step: str = "",
        reason: str,
        actor: str,
        request_id: str = "",
    ) -> Answer:
        """Decide about workstreams that wait for a person: approve, reject or retry; none named: all of the run."""
        request = self._scheduler_pb2.ResolveReviewsRequest(
            run=run,
            verdict=f"VERDICT_{verdict.upper()}",
            workstreams=workstreams,
            from_step=from_step,
            reason=reason,
            **_asked(actor, request_id),
        )
        return _plain(self._call(self._scheduler.ResolveReviews, request), Answer)

    def adjust_workstream(
        self,
        run: str,
        workstream: str,
        change: Adjustment,
        *,
        from_step: str = "",
        reason: str,
        actor: str,
        request_id: str = "",
    ) -> Answer:
        """Let a workstream that waits for a person go on by an amended definition."""
        fields: dict[str, Any] = {**msgspec.structs.asdict(change), **_asked(actor, request_id)}
        request = self._scheduler_pb2.AdjustWorkstreamRequest(
            run=run, workstream=workstream, from_step=from_step, reason=reason, **fields
        )
        return _plain(self._call(self._scheduler.AdjustWorkstream, request, timeout_s=SUBMIT_TIMEOUT_S), Answer)

    def retry_run(
        self,
        run: str,
        workstreams: Sequence[str] = (),
        *,
        from_step: str = "",
        reason: str,
        actor: str,
        request_id: str = "",
    ) -> Retried:
        """Try again what waits for a person, or, of a run that has ended, what did not complete, as a new run."""
        request = self._scheduler_pb2.RetryRunRequest(
            run=run, workstreams=workstreams, from_step=from_step, reason=reason, **_asked(actor, request_id)
        )
        return _plain(self._call(self._scheduler.RetryRun, request, timeout_s=SUBMIT_TIMEOUT_S), Retried)

    def rollback_run(
        self,
        run: str,
        workstreams: Sequence[str] = (),
        *,
        with_dependents: bool = False,
        reason: str,
        actor: str,
        request_id: str = "",
    ) -> Answer:
        """Undo what a run that has ended completed: by its compensation actions, or of these workstreams only, on the line."""
        request = self._scheduler_pb2.RollbackRunRequest(
            run=run,
            workstreams=workstreams,
            with_dependents=with_dependents,
            reason=reason,
            **_asked(actor, request_id),
        )
        return _plain(self._call(self._scheduler.RollbackRun, request), Answer)

    def deliver_run(
        self,
        run: str,
        *,
        style: str = "",
        remote: str | None = None,
        credential: str | None = None,
        series: bool = False,
        reason: str,
        actor: str,
        request_id: str = "",
    ) -> Answer:
        """Deliver the verified head of a run; None for `remote` and `credential` is as the run was submitted."""
        request = self._scheduler_pb2.DeliverRunRequest(
            run=run,
            style=style,
            remote=remote,
            credential=credential,
            series=series,
            reason=reason,
            **_asked(actor, request_id),
        )
        return _plain(self._call(self._scheduler.DeliverRun, request), Answer)

    def recover_step(
        self,
        run: str,
        workstream: str,
        step: str,
        *,
        error_class: str,
        reason: str,
        actor: str,
        request_id: str = "",
    ) -> Recovery:
        """What the run's recovery table makes of a failed step of a stepwise run."""
        request = self._scheduler_pb2.RecoverStepRequest(
            run=run,
            workstream=workstream,
            step=step,
            error_class=error_class,
            reason=reason,
            **_asked(actor, request_id),
        )
        return _plain(self._call(self._scheduler.RecoverStep, request), Recovery)

    # The ledger

    def ledger_status(self) -> LedgerStatus:
        """How far the ledger is."""
        request = self._ledger_pb2.GetStatusRequest()
        return _plain(self._call(self._ledger.GetStatus, request, as_it_is=True), LedgerStatus)

    def verify_ledger(self, differences_max: int = 0) -> Iterator[VerifyProgress | Difference | VerifyResult]:
        """Progress, then differences, then one result: the ledger's tables against a fold of the whole log."""
        request = self._ledger_pb2.VerifyLedgerRequest(differences_max=differences_max)
        call = self._ledger.VerifyLedger(request, timeout=VERIFY_TIMEOUT_S, metadata=self._metadata())
        try:
            for answer in call:
                match answer.WhichOneof("said"):
                    case "progress":
                        yield _plain(answer.progress, VerifyProgress)
                    case "difference":
                        yield _plain(answer.difference, Difference)
                    case "result":
                        yield _plain(answer.result, VerifyResult)
                    case _:
                        continue
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def rebuild_ledger(self, reason: str) -> tuple[int, int]:
        """Condemn the ledger's file; the position absorbed, and the end of the log, when it was."""
        request = self._ledger_pb2.RebuildLedgerRequest(reason=reason)
        answer = self._call(self._ledger.RebuildLedger, request, timeout_s=VERIFY_TIMEOUT_S, as_it_is=True)
        return int(answer.position), int(answer.stream_last)

    def get_run(self, run: str, as_of: Moment | None = None) -> Run:
        """One run, now or as it stood; NOT_FOUND when there is none."""
        answer = self._call(self._ledger.GetRun, self._ledger_pb2.GetRunRequest(run=run, as_of=self._moment(as_of)))
        return _run(answer.run)

    def _moment(self, as_of: Moment | None) -> Any:
        if as_of is None:
            return None
        if as_of.position:
            return self._ledger_pb2.Moment(position=as_of.position)
        return self._ledger_pb2.Moment(time_ns=as_of.time_ns)

    def await_run(self, run: str, timeout_s: float) -> bool:
        """Whether the ledger knows the run, waiting for it to catch up with the log."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.01
        while True:
            try:
                self.get_run(run)
            except SwellError as error:
                if error.code != "NOT_FOUND" and error.reason != "LEDGER_BEHIND":
                    raise
            else:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)

    def list_runs(
        self, wanted: RunFilter | None = None, *, state: str = "", order_by: str = "", limit: int = 50
    ) -> list[Run]:
        """Runs that are meant, the newest first unless `order_by` says otherwise, at most `limit`.

        `state` is short for a filter by it alone.
        """
        asked = _filter(wanted or RunFilter(state=state))

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListRunsRequest(page_size=count, page_token=token, order_by=order_by, **asked)
            return self._call(self._ledger.ListRuns, request)

        return [_run(run) for run in _paged(page, "runs", limit)]

    def list_workstreams(
        self, run: str, *, state: str = "", tool: str = "", as_of: Moment | None = None
    ) -> list[Workstream]:
        """The workstreams that a run has reached, in the order in which they were first mentioned."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListWorkstreamsRequest(
                run=run, page_size=count, page_token=token, state=state, tool=tool, as_of=self._moment(as_of)
            )
            return self._call(self._ledger.ListWorkstreams, request)

        return [_plain(workstream, Workstream) for workstream in _paged(page, "workstreams")]

    def list_attempts(
        self,
        run: str,
        workstream: str = "",
        *,
        state: str = "",
        step: str = "",
        tool: str = "",
        executor: str = "",
        error_class: str = "",
        ok: bool | None = None,
        as_of: Moment | None = None,
    ) -> list[Attempt]:
        """The attempts of a run, or of one of its workstreams, in the order they were scheduled."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListAttemptsRequest(
                run=run,
                workstream=workstream,
                page_size=count,
                page_token=token,
                state=state,
                step=step,
                tool=tool,
                executor=executor,
                error_class=error_class,
                ok=ok,
                as_of=self._moment(as_of),
            )
            return self._call(self._ledger.ListAttempts, request)

        return [_attempt(attempt) for attempt in _paged(page, "attempts")]

    def get_attempt(self, run: str, workstream: str, attempt: int) -> AttemptFacts:
        """One attempt and what was told of it; NOT_FOUND when there is none."""
        request = self._ledger_pb2.GetAttemptRequest(run=run, workstream=workstream, attempt=attempt)
        answer = self._call(self._ledger.GetAttempt, request)
        facts = {
            name: _event(getattr(answer, name)) if answer.HasField(name) else None
            for name in ("scheduled", "claim", "close")
        }
        late = [_event(event) for event in answer.late]
        return AttemptFacts(attempt=_attempt(answer.attempt), late=late, position=answer.position, **facts)

    def list_transitions(
        self, run: str, workstream: str = "", *, actor: str = "", newest_first: bool = False, limit: int | None = None
    ) -> Iterator[Transition]:
        """Changes of state of a run and its workstreams; `workstream` "-" is the run itself, "" all."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListTransitionsRequest(
                run=run,
                workstream=workstream,
                actor=actor,
                newest_first=newest_first,
                page_size=count,
                page_token=token,
            )
            return self._call(self._ledger.ListTransitions, request)

        return (_plain(found, Transition) for found in _paged(page, "transitions", limit))

    def list_errors(
        self,
        run: str = "",
        workstream: str = "",
        *,
        step: str = "",
        tool: str = "",
        error_class: str = "",
        since_ns: int = 0,
        until_ns: int = 0,
        limit: int | None = None,
    ) -> Iterator[Failure]:
        """What failed, each failure once, the one seen last first."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListErrorsRequest(
                run=run,
                workstream=workstream,
                step=step,
                tool=tool,
                error_class=error_class,
                since_ns=since_ns,
                until_ns=until_ns,
                page_size=count,
                page_token=token,
            )
            return self._call(self._ledger.ListErrors, request)

        return (_plain(found, Failure) for found in _paged(page, "errors", limit))

    def explain_run(self, run: str, workstream: str = "") -> Explanation:
        """What a run and its workstreams, or one of them, wait for."""
        request = self._ledger_pb2.ExplainRunRequest(run=run, workstream=workstream)
        answer = self._call(self._ledger.ExplainRun, request)
        waits = [_plain(wait, Wait) for wait in answer.waits]
        return _plain(answer, Explanation, run=_run(answer.run), waits=waits)

    def get_patch(self, run: str, workstream: str, attempt: int = 0) -> Patch:
        """The patch of an attempt, or (0) the one its workstream goes on with; NOT_FOUND when there is none."""
        request = self._ledger_pb2.GetPatchRequest(run=run, workstream=workstream, attempt=attempt)
        return _plain(self._call(self._ledger.GetPatch, request).patch, Patch)

    def list_patches(self, run: str = "", workstream: str = "", *, state: str = "", digest: str = "") -> list[Patch]:
        """Patches, in the order they were made."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListPatchesRequest(
                run=run, workstream=workstream, state=state, digest=digest, page_size=count, page_token=token
            )
            return self._call(self._ledger.ListPatches, request)

        return [_plain(patch, Patch) for patch in _paged(page, "patches")]

    def list_patch_moves(self, run: str, workstream: str = "", attempt: int = 0) -> list[PatchMove]:
        """The history of a run's patches, of those of a workstream, or of that of an attempt, in order."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListPatchMovesRequest(
                run=run, workstream=workstream, attempt=attempt, page_size=count, page_token=token
            )
            return self._call(self._ledger.ListPatchMoves, request)

        return [_plain(move, PatchMove) for move in _paged(page, "moves")]

    def list_events(
        self,
        run: str = "",
        wanted: EventFilter | None = None,
        *,
        workstream: str = "",
        kinds: Sequence[str] = (),
        after: int = 0,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Events, oldest first unless asked otherwise. `workstream`, `kinds` and `after` are short for a filter by them alone."""
        asked = _filter(wanted or EventFilter(workstream=workstream, kinds=tuple(kinds), after=after))
        behind = asked.pop("after")

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListEventsRequest(
                run=run, after_position=behind, newest_first=newest_first, page_size=count, page_token=token, **asked
            )
            return self._call(self._ledger.ListEvents, request)

        return (_event(event) for event in _paged(page, "events", limit))

    def watch(self, run: str, after: int = 0, *, kinds: Sequence[str] = ()) -> Iterator[Watched]:
        """Events of a run as they are recorded, from the first one after position `after`, for ever.

        A broken connection is mended and resumed without gap or repetition; a ledger that does not answer for
        OUTAGE_S raises UNAVAILABLE. Empty answers come while nothing happens.
        """

        def ask(token: str) -> Any:
            request = self._ledger_pb2.WatchEventsRequest(
                run=run, kinds=kinds, after_position=0 if token else told, resume_token=token
            )
            return self._ledger.WatchEvents(request, timeout=WATCH_TIMEOUT_S, metadata=self._metadata())

        told = after
        for answer in self._watched(ask):
            told = max(told, answer.position)
            yield Watched(events=[_event(event) for event in answer.events], position=told)

    def watch_runs(
        self, wanted: RunFilter | None = None, *, include_initial: bool = False
    ) -> Iterator[list[RunChange]]:
        """Runs as they change, each as it is newest, for ever; mended as `watch` is. Empty lists come while nothing happens.

        Of the filter count state, repository, labels and tenant. A run that leaves the state is told once more. What is
        told before the first connection is lost may be told twice when there is a beginning.
        """
        asked = {name: value for name, value in _filter(wanted or RunFilter()).items() if name in _WATCHED}

        def ask(token: str) -> Any:
            request = self._ledger_pb2.WatchRunsRequest(include_initial=include_initial, resume_token=token, **asked)
            return self._ledger.WatchRuns(request, timeout=WATCH_TIMEOUT_S, metadata=self._metadata())

        for answer in self._watched(ask):
            yield [RunChange(run=_run(change.run), left=change.left) for change in answer.changes]

    def _watched(self, ask: Callable[[str], Any]) -> Iterator[Any]:
        """The answers of a watch, asked for anew with the newest token whenever its connection breaks."""
        grpc = self._grpc
        mending = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
        unadmitted = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        heard = time.monotonic()
        pause_s = 0.05
        token = ""
        while True:
            call = ask(token)
            answered = False
            try:
                for answer in call:
                    heard = time.monotonic()
                    answered = True
                    pause_s = 0.05
                    token = answer.resume_token or token
                    self.saw(answer.position)
                    yield answer
            except grpc.RpcError as error:
                if answered and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    heard = time.monotonic()  # our own limit on one call ended it, not silence
                if answered and error.code() in unadmitted:
                    continue  # the token may have been renewed since; if not, asking anew says so
                if error.code() not in mending or time.monotonic() - heard > OUTAGE_S:
                    raise self._error(error) from error
            finally:
                call.cancel()
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    def wait(self, run: str, after: int = 0) -> Run:
        """The run when it has ended."""
        for watched in self.watch(run, after):
            if any(event.kind == "run_finished" for event in watched.events):
                break
        return self.get_run(run)

    def read_artifact(self, artifact: Artifact) -> Iterator[bytes]:
        """The bytes of a stored object in pieces; the ledger checks their digest."""
        request = self._ledger_pb2.ReadArtifactRequest(name=artifact.name, digest=artifact.digest)
        call = self._ledger.ReadArtifact(request, timeout=SUBMIT_TIMEOUT_S, metadata=self._metadata())
        try:
            for answer in call:
                yield answer.chunk
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def get_costs(self, selection: Selection, group_by: Sequence[str] = (), *, limit: int = 0) -> Spent:
        """What was spent, grouped, the dearest first, at most `limit` rows (0: 100), with the total of everything."""
        request = self._ledger_pb2.GetCostsRequest(selection=self._selection(selection), group_by=group_by, limit=limit)
        return msgspec.convert(_built(self._call(self._ledger.GetCosts, request)), Spent)

    def get_metrics(self, selection: Selection) -> Metrics:
        """What a run, or the selected runs, came to; NOT_FOUND when the one that is named is not there."""
        request = self._ledger_pb2.GetMetricsRequest(selection=self._selection(selection))
        return msgspec.convert(_built(self._call(self._ledger.GetMetrics, request)), Metrics)

    def watch_output(self, run: str, workstream: str = "") -> Iterator[tuple[str, bytes]]:
        """(workstream, piece) of what the run's tools print from now on, until the iterator is closed."""
        request = self._ledger_pb2.WatchOutputRequest(run=run, workstream=workstream)
        call = self._ledger.WatchOutput(request, metadata=self._metadata())
        try:
            for answer in call:
                if answer.chunk:
                    yield answer.workstream, answer.chunk
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def list_waves(self, run: str) -> list[Wave]:
        """The waves of a run that have begun, in order."""

        def page(token: str, count: int) -> Any:
            request = self._ledger_pb2.ListWavesRequest(run=run, page_size=count, page_token=token)
            return self._call(self._ledger.ListWaves, request)

        return [_plain(wave, Wave) for wave in _paged(page, "waves")]

    # Audit

    def verify_audit(
        self,
        start: int = 0,
        end: int = 0,
        *,
        anchors: Sequence[Anchor] = (),
        with_log: bool = False,
        findings_max: int = 0,
    ) -> Iterator[AuditProgress | AuditFinding | AuditResult]:
        """Progress and findings, then one result: what is stored from `start` to `end` (0: the newest) against its chain.

        More anchors than one call takes are looked up by calls of their own, which follow the chain no further than needed.
        """
        parts = [anchors[at : at + ANCHORS_AT_ONCE] for at in range(0, len(anchors), ANCHORS_AT_ONCE)] or [anchors]
        found, wall_s = 0, 0.0
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            request = self._ledger_pb2.VerifyAuditRequest(
                from_position=start,
                to_position=end if last else max(start, 1),
                anchors=[
                    self._ledger_pb2.Anchor(
                        position=one.position, hash=bytes.fromhex(one.hash), stream_created_ns=one.stream_created_ns
                    )
                    for one in part
                ],
                with_log=with_log and last,
                findings_max=findings_max,
            )
            for said in self._audited(request):
                match said:
                    case AuditResult():
                        wall_s += said.wall_s
                        if last:
                            found += said.findings
                            yield msgspec.structs.replace(
                                said, ok=found == 0, findings=found, anchors=len(anchors), wall_s=wall_s
                            )
                    case AuditFinding(source="anchor"):
                        found += not last
                        yield msgspec.structs.replace(said, anchor=said.anchor + number * ANCHORS_AT_ONCE)
                    case AuditFinding() if not last:
                        continue  # the last call finds it again
                    case _:
                        yield said

    def anchor(self, position: int = 0) -> Anchor:
        """The hash of a position, 0 for the newest; NOT_FOUND when nothing is recorded there."""
        answer = self._call(self._ledger.GetAnchor, self._ledger_pb2.GetAnchorRequest(position=position))
        return _plain(answer.anchor, Anchor, hash=answer.anchor.hash.hex())

    def export_audit(
        self, table: str, *, run: str = "", since_ns: int = 0, until_ns: int = 0
    ) -> Iterator[tuple[bytes, int]]:
        """Pieces of whole lines of JSON, one line for each row, and how many rows there have been with each piece.

        Raises SwellError INCOMPLETE when the lines are not as many as the ledger has rows of this.
        """
        request = self._ledger_pb2.ExportAuditRequest(table=table, run=run, since_ns=since_ns, until_ns=until_ns)
        call = self._ledger.ExportAudit(request, timeout=VERIFY_TIMEOUT_S, metadata=self._metadata())
        lines, rows = 0, -1
        try:
            for answer in call:
                if answer.WhichOneof("said") == "end":
                    rows = int(answer.end.rows)
                else:
                    lines += answer.lines.count(b"\n")
                    yield answer.lines, lines
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()
        if lines != rows:
            raise SwellError(
                "DATA_LOSS",
                "INCOMPLETE",
                f"{lines} lines arrived, not {rows}",
                "Export again; the ledger's log says more.",
            )

    def _audited(self, request: Any) -> Iterator[AuditProgress | AuditFinding | AuditResult]:
        call = self._ledger.VerifyAudit(request, timeout=VERIFY_TIMEOUT_S, metadata=self._metadata())
        try:
            for answer in call:
                match answer.WhichOneof("said"):
                    case "progress":
                        yield _plain(answer.progress, AuditProgress)
                    case "finding":
                        yield _plain(answer.finding, AuditFinding)
                    case "result":
                        yield _plain(answer.result, AuditResult)
                    case _:
                        continue
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    # SQL

    def query(
        self, sql: str, *, arrow: bool = False, rows_max: int = 0, min_position: int = 0
    ) -> Iterator[QueryHeader | list[tuple[Any, ...]] | bytes | QueryEnd]:
        """The answer to a SELECT: a header, then lists of rows or (`arrow`) pieces of an Arrow IPC stream, then an end.

        A value is None, int, float, bool or bytes, or text: docs/sql.md says which. Raises SwellError SQL_TOO_LONG, SQL_….
        """
        if (length := len(sql.encode(errors="replace"))) > SQL_BYTES_MAX:
            raise SwellError(
                "INVALID_ARGUMENT",
                "SQL_TOO_LONG",
                f"the question takes {length} bytes, and the ledger takes {SQL_BYTES_MAX}",
                "Join with a view instead of listing values, or ask in parts.",
            )
        pb2 = self._ledger_pb2
        style = pb2.QUERY_FORMAT_ARROW if arrow else pb2.QUERY_FORMAT_ROWS
        request = pb2.QueryRequest(sql=sql, format=style, rows_max=rows_max, min_position=min_position)

        def asked() -> tuple[Any, Any]:
            call = self._ledger.Query(request, timeout=SQL_TIMEOUT_S, metadata=self._metadata())
            return call, next(call)

        call, answer = self._repeat(asked)
        try:
            while answer is not None:
                match answer.WhichOneof("said"):
                    case "header":
                        told = answer.header
                        yield _plain(told, QueryHeader, columns=[_plain(one, QueryColumn) for one in told.columns])
                    case "rows":
                        yield _rows(answer.rows)
                    case "arrow":
                        yield answer.arrow
                    case "end":
                        yield _plain(answer.end, QueryEnd)
                answer = next(call, None)
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    # Messages

    def _header(self, header: Header) -> Any:
        pb2 = self._scheduler_pb2
        return pb2.RunHeader(
            request_id=header.request_id,
            run=header.run,
            repository=pb2.Repository(
                location=header.location, base_commit=header.base_commit, base_ref=header.base_ref
            ),
            options=pb2.RunOptions(**msgspec.structs.asdict(header.options)),
            checks_toml=header.checks_toml,
            tool_profiles_json=header.tool_profiles_json,
            breaker_json=header.breaker_json,
            recovery_json=header.recovery_json,
            aim_registry_json=header.aim_registry_json,
            gates_json=header.gates_json,
            actor=header.actor,
            labels=header.labels,
            tenant=header.tenant,
        )

    def _selection(self, selection: Selection) -> Any:
        return self._ledger_pb2.Selection(**msgspec.structs.asdict(selection))

    def _document(self, document: Document) -> Any:
        return self._scheduler_pb2.BundleDocument(name=document.name, content=document.content)

    # Calls

    def _call(self, method: Any, request: Any, *, timeout_s: float = CALL_TIMEOUT_S, as_it_is: bool = False) -> Any:
        """The answer of a unary method; `as_it_is`: however far behind the ledger may be."""

        def call() -> Any:
            least = () if as_it_is or not self.seen else ((MIN_POSITION, str(self.seen)),)
            answer, state = method.with_call(request, timeout=timeout_s, metadata=(*self._metadata(), *least))
            self.saw(getattr(answer, "position", 0))
            for key, value in state.trailing_metadata() or ():
                if key == POSITION:
                    self.saw(int(value))
            return answer

        return self._repeat(call)

    def saw(self, position: int) -> None:
        """Remember a position of the log."""
        self.seen = max(self.seen, position)

    def _repeat(self, call: Callable[[], _T]) -> _T:
        """The answer; while the service cannot be reached, the call is repeated for OUTAGE_S."""
        started = time.monotonic()
        pause_s = 0.05
        while True:
            try:
                return call()
            except self._grpc.RpcError as error:
                away = error.code() is self._grpc.StatusCode.UNAVAILABLE
                hopeless = not away or no_handshake(error.details() or "", "") is not None
                if hopeless or time.monotonic() - started > OUTAGE_S:
                    raise self._error(error) from error
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    # Archive, backup and restore

    def archive_ledger(
        self, older_than_days: int, *, purge: bool = False, dry_run: bool = False
    ) -> Iterator[ArchiveProgress | ArchiveResult]:
        """Archive what is over and older than so many days; with `purge` it leaves the log, too. Progress, then one result."""
        request = self._ledger_pb2.ArchiveLedgerRequest(older_than_days=older_than_days, purge=purge, dry_run=dry_run)
        call = self._ledger.ArchiveLedger(request, timeout=VERIFY_TIMEOUT_S, metadata=self._metadata())
        try:
            for answer in call:
                match answer.WhichOneof("said"):
                    case "progress":
                        yield _plain(answer.progress, ArchiveProgress)
                    case "result":
                        yield _plain(answer.result, ArchiveResult)
                    case _:
                        continue
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def backup_ledger(self) -> Iterator[LedgerCopy | bytes]:
        """A copy of the ledger's file: what it is, its bytes, and at last what it is with its SHA-256."""
        request = self._ledger_pb2.BackupLedgerRequest()
        call = self._ledger.BackupLedger(request, timeout=VERIFY_TIMEOUT_S, metadata=self._metadata())
        try:
            for answer in call:
                if answer.WhichOneof("said") == "chunk":
                    yield answer.chunk
                else:
                    yield _plain(answer.copy, LedgerCopy)
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def restore_ledger(
        self, chunks: Iterable[bytes], *, size_bytes: int, sha256: str, reason: str
    ) -> tuple[LedgerCopy, int]:
        """Send a file that takes the place of the ledger's; what it is, and the end of the log."""
        message, header = self._ledger_pb2.RestoreLedgerRequest, self._ledger_pb2.RestoreHeader

        def parts() -> Iterator[Any]:
            yield message(header=header(size_bytes=size_bytes, sha256=sha256, reason=reason))
            for chunk in chunks:
                yield message(chunk=chunk)

        try:
            answer = self._ledger.RestoreLedger(parts(), timeout=VERIFY_TIMEOUT_S, metadata=self._metadata())
        except self._grpc.RpcError as error:
            raise self._error(error) from error
        return _plain(answer.copy, LedgerCopy), int(answer.stream_last)

    def _error(self, error: grpc.RpcError) -> SwellError:
        """The status of a call as our error: its ErrorInfo gives reason and remedy."""
        from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - only on errors
        from grpc_status import rpc_status  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

        code = error.code().name
        where = f"scheduler {self.endpoints.scheduler}, ledger {self.endpoints.ledger}"
        try:
            status = rpc_status.from_call(error)
        except ValueError:
            status = None
        for detail in status.details if status is not None else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
                remedy = dict(info.metadata).get("remedy", "") or _REMEDIES.get(info.reason, "")
                said = (status.message or code).strip().removeprefix("selection.")
                return SwellError(code, info.reason, _RPC.sub(lambda named: _COMMANDS[named[0]], said), remedy)
        if code == "UNAVAILABLE" and (failed := no_handshake(error.details() or "", where)) is not None:
            return failed
        if code == "UNAVAILABLE" and self.endpoints.state_dir is not None and not has_room(self.endpoints.state_dir):
            return SwellError(
                code,
                "DISK_FULL",
                "the disk of the cluster's state folder is full, and its services wait for room",
                "Make room: the cluster then goes on by itself, and with it every run; nothing is lost.",
                str(self.endpoints.state_dir),
            )
        if code == "UNAVAILABLE" and self.endpoints.state_dir is None and "Socket closed" in (error.details() or ""):
            return SwellError(
                code,
                "CONNECTION_CLOSED",
                "a service closes the connection at once",
                "If it speaks TLS set SWELL_CA_FILE; if it asks for certificates set SWELL_CERTIFICATE_FILE and SWELL_KEY_FILE.",
                where,
            )
        if code == "UNAVAILABLE":
            return SwellError(
                code,
                code,
                "a service does not answer",
                "Look into the logs of the cluster, or start it anew with `swell dev --stop`; "
                "for a remote cluster check SWELL_SCHEDULER and SWELL_LEDGER.",
                where,
            )
        if code == "DEADLINE_EXCEEDED":
            return SwellError(code, code, "a service did not answer in time", "Try again; its log says more.", where)
        remedy = _REMEDIES.get(code, "")
        return SwellError(code, code, error.details() or code, remedy, where)


def _asked(actor: str, request_id: str) -> dict[str, str]:
    """Who asks, and under which id: a fresh one makes repeating the call harmless."""
    return {"actor": actor, "request_id": request_id or str(uuid.uuid4())}


def _filter(wanted: RunFilter | EventFilter) -> dict[str, Any]:
    """A filter as the fields of a request."""
    return msgspec.structs.asdict(wanted)


def _paged(page: Callable[[str, int], Any], field: str, limit: int | None = None) -> Iterator[Any]:
    token, left = "", limit
    while left is None or left > 0:
        answer = page(token, PAGE if left is None else min(PAGE, left))
        values = getattr(answer, field)
        yield from values
        left = None if left is None else left - len(values)
        token = answer.next_page_token
        if not token:
            return
