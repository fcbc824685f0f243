"""SchedulerService: what users ask for becomes requests in the log; the answers come back through the log as well."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

import grpc
import grpc.aio
import msgspec
import structlog

from services.access import actor, check_pools, principal, submitted_for
from services.artifacts import Artifacts
from services.bus import BusError, BusUnavailableError
from services.events import (
    BudgetRequested,
    BudgetScope,
    CancelRequested,
    DeliveryRequested,
    Destination,
    ErrorClass,
    PauseRequested,
    PauseScope,
    RecoveryRequested,
    ResumeRequested,
    ReviewRequested,
    RollbackRequested,
    RunRequested,
    Step,
    StepRequested,
    Verdict,
)
from services.labels import tenant_problem
from services.metrics import version
from services.outcome import NANO_USD_MAX
from services.plan import Finding, PlanReport
from services.rpc import RpcError, invalid
from services.scheduler.amendment import Adjustment, Another, amended, another, chosen, with_dependencies
from services.scheduler.budget import Account, run_account
from services.scheduler.config import SchedulerConfig
from services.scheduler.fleet import ExecutorLife, slots_carried
from services.scheduler.grants import day_of, slots_standing, standing
from services.scheduler.rates import Bucket, opens_ns
from services.scheduler.requests import FLEET, Requests, no_run, unavailable
from services.scheduler.shell import Shell
from services.scheduler.state import RunState
from services.scheduler.submission import BUDGET_MODES, STYLES, Header, Planned, SubmissionError, Submissions, run_of
from services.scheduler.v1 import scheduler_pb2 as pb
from services.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from services.spec import RunSpec, decode_spec, encode_spec

log = structlog.get_logger()

SERVICE = "swell.scheduler.v1.SchedulerService"
FINDINGS_MAX = 200
SILENCE_S = 30.0
DOCUMENT_COST_BYTES = 256
"""What a document weighs beside its content and name: many empty ones are not free."""

_Context = grpc.aio.ServicerContext[Any, Any]
_STEPS: dict[str, Step] = {"edit": "edit", "static": "static", "runtime": "runtime", "fix": "fix"}
_VERDICTS: dict[int, Verdict] = {
    pb.VERDICT_APPROVE: "approve",
    pb.VERDICT_REJECT: "reject",
    pb.VERDICT_RETRY: "retry",
}
_SCOPES: dict[int, PauseScope] = {pb.FLEET_SCOPE_TOOL: "tool", pb.FLEET_SCOPE_POOL: "pool", pb.FLEET_SCOPE_ALL: "all"}
_SCOPE_OF: dict[PauseScope, pb.FleetScope] = {
    "tool": pb.FLEET_SCOPE_TOOL,
    "pool": pb.FLEET_SCOPE_POOL,
    "all": pb.FLEET_SCOPE_ALL,
}
REVIEWS_PAGE = 100
REVIEWS_PAGE_MAX = 1000
NAMED_MAX = 10_000
NAME_CHARS_MAX = 200


class SchedulerServer(SchedulerServiceServicer):
    """Answers calls of one scheduler, leading or not: requests only need the log."""

    def __init__(
        self,
        config: SchedulerConfig,
        requests: Requests,
        artifacts: Artifacts,
        shell: Shell,
        submissions: Submissions,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`shell` tells what has been folded; nothing is decided here, and by `clock_ns` nothing but told."""
        self._clock_ns = clock_ns
        self._config = config
        self._artifacts = artifacts
        self._shell = shell
        self._submissions = submissions
        self._requests = requests

    async def tenant_of(self, run: str) -> str | None:
        """On whose behalf a run is; None when there is no such run."""
        try:
            await self._requests.known(run)
            state = self._shell.runs.get(run) or await self._ended(run)
        except RpcError as error:
            if error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                return None
            raise
        return state.requested.tenant if state.requested is not None else None

    async def PlanRun(self, request: pb.PlanRunRequest, _context: _Context) -> pb.PlanRunResponse:  # noqa: N802
        """See the protocol."""
        documents = [(document.name, document.content) for document in request.documents]
        report = (await self._planned(request.header, documents)).report
        waves = [] if report.plan is None else report.plan.waves
        return pb.PlanRunResponse(
            valid=report.valid,
            errors=_findings(report.errors),
            warnings=_findings(report.warnings),
            waves=[pb.Wave(workstreams=list(wave)) for wave in waves],
            report_json=report.to_json(),
        )

    async def SubmitRun(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.SubmitRunRequest], _context: _Context
    ) -> pb.SubmitRunResponse:
        """See the protocol."""
        header, documents = await self._received(request_iterator)
        who = principal()
        planned = await self._planned(header, documents, behalf=partial(submitted_for, who))
        if planned.spec is None:
            raise _refused(planned.report)
        spec = planned.spec
        check_pools(who, (spec.options.pool, *spec.options.other_pools))
        data = await asyncio.to_thread(_encoded, spec)
        artifact = await self._stored(data)
        event = RunRequested(
            request_id=header.request_id,
            actor=spec.actor,
            spec=artifact,
            workstreams=len(spec.bundles),
            repository=spec.repository.location,
            base_commit=spec.repository.base_commit,
            timeout_s=spec.options.timeout_s,
            paused=spec.options.paused,
            labels=planned.labels,
            tenant=planned.tenant,
        )
        position = await self._requests.first(spec.run, event)
        return pb.SubmitRunResponse(run=spec.run, position=position, warnings=_findings(planned.report.warnings))

    async def CancelRun(self, request: pb.CancelRunRequest, _context: _Context) -> pb.CancelRunResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.live(request.run, request.request_id)
        event = CancelRequested(
            request_id=request.request_id, actor=actor(request.actor), reason=_reason(request.reason)
        )
        return pb.CancelRunResponse(position=await self._requests.add(request.run, event))

    async def RequestStep(self, request: pb.RequestStepRequest, _context: _Context) -> pb.RequestStepResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.live(request.run, request.request_id)
        event = StepRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            workstream=request.workstream[:128],
            step=_step(request.step, "step"),
            with_fix=request.with_fix,
        )
        return pb.RequestStepResponse(position=await self._requests.add(request.run, event))

    # Pauses

    async def PauseRun(self, request: pb.PauseRunRequest, _context: _Context) -> pb.PauseRunResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.live(request.run, request.request_id, unless_answered=True)
        event = PauseRequested(
            request_id=request.request_id, actor=actor(request.actor), reason=_reason(request.reason)
        )
        done = await self._requests.answered(request.run, event)
        return pb.PauseRunResponse(position=done.position, answer=done.text)

    async def ResumeRun(self, request: pb.ResumeRunRequest, _context: _Context) -> pb.ResumeRunResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.live(request.run, request.request_id, unless_answered=True)
        event = ResumeRequested(
            request_id=request.request_id, actor=actor(request.actor), reason=_reason(request.reason)
        )
        done = await self._requests.answered(request.run, event)
        return pb.ResumeRunResponse(position=done.position, answer=done.text)

    async def SetBudget(self, request: pb.SetBudgetRequest, _context: _Context) -> pb.SetBudgetResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.live(request.run, request.request_id, unless_answered=True)
        done = await self._requests.answered(request.run, _budget_request(request))
        return pb.SetBudgetResponse(position=done.position, answer=done.text)

    async def SetSharedBudget(  # noqa: N802
        self, request: pb.SetSharedBudgetRequest, _context: _Context
    ) -> pb.SetSharedBudgetResponse:
        """See the protocol."""
        if len(request.tool) > NAME_CHARS_MAX:
            raise invalid("tool", f"is longer than {NAME_CHARS_MAX} characters: give the id of a tool profile, or none")
        if request.tool != request.tool.strip() or not request.tool.isprintable():
            raise invalid("tool", "has blanks around it, or what cannot be printed: give the id of a tool profile")
        if problem := tenant_problem(request.tenant):
            raise invalid("tenant", problem)
        if request.tool and request.tenant:
            raise invalid("tenant", "name a tool or a tenant, not both")
        scope: BudgetScope = "tool" if request.tool else "tenant" if request.tenant else "fleet"
        event = msgspec.structs.replace(_budget_request(request), scope=scope, name=request.tool or request.tenant)
        done = await self._requests.answered(FLEET, event)
        return pb.SetSharedBudgetResponse(position=done.position, answer=done.text)

    async def GetSharedBudgets(  # noqa: N802
        self, _request: pb.GetSharedBudgetsRequest, _context: _Context
    ) -> pb.GetSharedBudgetsResponse:
        """See the protocol."""
        shared, now_ns = self._shell.fleet.shared, self._shell.now_ns
        opens = {name: opens_ns(shared.buckets.get(name, Bucket()), rate) for name, rate in shared.limits.rates.items()}
        return pb.GetSharedBudgetsResponse(
            day=day_of(now_ns),
            budgets=[
                pb.SharedBudget(
                    tool=found.tool,
                    tenant=found.tenant,
                    limit_nano=found.budget.limit_nano if found.budget is not None else None,
                    mode=found.budget.mode if found.budget is not None else "",
                    spent_nano=found.spent_nano,
                    reserved_nano=found.reserved_nano,
                    unknown=found.unknown,
                    actor=found.actor,
                )
                for found in standing(shared, now_ns)
            ],
            rates=[
                pb.SharedRate(
                    name=name,
                    attempts_per_min=rate.attempts_per_min or 0,
                    burst=rate.burst,
                    tokens_per_min=rate.tokens_per_min or 0,
                    opens_ns=opens[name] if opens[name] > now_ns else 0,
                )
                for name, rate in sorted(shared.limits.rates.items())
            ],
            slots=[
                pb.SharedSlots(
                    pool=found.pool,
                    tenant=found.tenant,
                    used=found.used,
                    concurrency=found.share.concurrency,
                    weight=found.share.weight,
                    pool_slots=found.pool_slots,
                )
                for found in slots_standing(shared, slots_carried(self._shell.fleet))
            ],
        )

    async def GetBudget(self, request: pb.GetBudgetRequest, _context: _Context) -> pb.GetBudgetResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.known(request.run)
        over = self._shell.over.get(request.run)
        if over is not None:
            finished = over.finished
            return pb.GetBudgetResponse(run=request.run, spent_nano=finished.spent_nano, state=finished.state)
        run = self._shell.runs[request.run]
        account = run.book.accounts.get(run_account(run.run), Account())
        budget = run.book.budget_of(run_account(run.run))
        return pb.GetBudgetResponse(
            run=run.run,
            limit_nano=budget.limit_nano if budget is not None else None,
            mode=budget.mode if budget is not None else "",
            spent_nano=account.spent_nano,
            reserved_nano=account.reserved_nano,
            unknown=sum(hold.closed and hold.figure_nano is None for hold in run.book.holds.values()),
            state=run.status,
        )

    async def PauseFleet(self, request: pb.PauseFleetRequest, _context: _Context) -> pb.PauseFleetResponse:  # noqa: N802
        """See the protocol."""
        scope, name = _fleet_scope(request.scope, request.name)
        event = PauseRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            scope=scope,
            name=name,
            reason=_reason(request.reason),
        )
        done = await self._requests.answered(FLEET, event)
        return pb.PauseFleetResponse(position=done.position, answer=done.text)

    async def ResumeFleet(self, request: pb.ResumeFleetRequest, _context: _Context) -> pb.ResumeFleetResponse:  # noqa: N802
        """See the protocol."""
        scope, name = _fleet_scope(request.scope, request.name)
        event = ResumeRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            scope=scope,
            name=name,
            reason=_reason(request.reason),
        )
        done = await self._requests.answered(FLEET, event)
        return pb.ResumeFleetResponse(position=done.position, answer=done.text)

    async def GetFleet(self, _request: pb.GetFleetRequest, _context: _Context) -> pb.GetFleetResponse:  # noqa: N802
        """See the protocol."""
        leader = await self._shell.leads()
        fleet = self._shell.fleet
        executors = self._shell.executors
        return pb.GetFleetResponse(
            executors=[self._executor(life) for _, life in sorted(executors.items())],
            scheduler=pb.Scheduler(
                name=self._shell.name,
                version=version(),
                server_time_ns=self._clock_ns(),
                log_time_ns=self._shell.now_ns,
                position=self._shell.position,
                caught_up=self._shell.caught_up,
                halted=self._shell.halted,
                leader=leader,
                snapshot_ns=self._shell.snapshot_ns,
            ),
            pools=_pools(self._shell.runs.values(), executors.values()),
            breakers=[
                pb.ToolBreaker(
                    tool=breaker.tool,
                    state=breaker.state,
                    failures=breaker.failures,
                    until_ns=breaker.until_ns,
                    reason=breaker.reason,
                )
                for _, breaker in sorted(fleet.breakers.items())
            ],
            pauses=[
                pb.FleetPause(scope=_SCOPE_OF[scope], name=name, actor=paused.actor, reason=paused.reason)
                for (scope, name), paused in sorted(fleet.paused.items())
            ],
        )

    def _executor(self, life: ExecutorLife) -> pb.Executor:
        beat = self._shell.beat_of(life.executor) if life.state != "terminated" else None
        return pb.Executor(
            executor=life.executor,
            boot=life.boot,
            pool=life.pool,
            slots=life.slots,
            state=life.state,
            since_ns=life.since_ns,
            reason=life.reason,
            tools={} if beat is None else beat.tools,
            missing={} if beat is None else beat.missing,
            version="" if beat is None else beat.version,
            clock_ahead_ns=0 if beat is None else self._shell.clock_ahead_ns(life.executor),
        )

    # Reviews

    async def ListReviews(self, request: pb.ListReviewsRequest, _context: _Context) -> pb.ListReviewsResponse:  # noqa: N802
        """See the protocol."""
        size = request.page_size or REVIEWS_PAGE
        if not 1 <= size <= REVIEWS_PAGE_MAX:
            raise invalid("page_size", f"{size} is not between 1 and {REVIEWS_PAGE_MAX}")
        after = _page_token(request.page_token)
        if request.run:
            await self._requests.known(request.run)
            tenants = principal().tenants
            if tenants and await self.tenant_of(request.run) not in tenants:
                raise no_run(request.run)
        names = [name for name in ([request.run] if request.run else sorted(self._shell.runs)) if self._is_theirs(name)]
        found: list[pb.Review] = []
        for review in _reviews(self._shell.runs, names, after):
            if request.error_classes and review.error_class not in request.error_classes:
                continue
            if request.text and request.text.lower() not in review.reason.lower():
                continue
            if len(found) == size:
                return pb.ListReviewsResponse(reviews=found, next_page_token=f"{found[-1].run}/{found[-1].workstream}")
            found.append(review)
        return pb.ListReviewsResponse(reviews=found)

    def _is_theirs(self, name: str) -> bool:
        """Whether a live run is of a tenant that the caller may see."""
        tenants = principal().tenants
        run = self._shell.runs.get(name)
        return not tenants or (run is not None and run.requested is not None and run.requested.tenant in tenants)

    async def ResolveReviews(  # noqa: N802
        self, request: pb.ResolveReviewsRequest, _context: _Context
    ) -> pb.ResolveReviewsResponse:
        """See the protocol."""
        await self._requests.live(request.run, request.request_id, unless_answered=True)
        if request.verdict not in _VERDICTS:
            raise invalid("verdict", "say whether it is approved, rejected or to be tried again")
        verdict = _VERDICTS[request.verdict]
        if verdict == "reject" and request.from_step:
            raise invalid("from_step", "what is rejected goes on nowhere: leave it out")
        event = ReviewRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            verdict=verdict,
            workstreams=_named(request.workstreams),
            from_step=_step(request.from_step, "from_step") if request.from_step else None,
            reason=_reason(request.reason),
        )
        done = await self._requests.answered(request.run, event)
        return pb.ResolveReviewsResponse(position=done.position, answer=done.text)

    async def AdjustWorkstream(  # noqa: N802
        self, request: pb.AdjustWorkstreamRequest, _context: _Context
    ) -> pb.AdjustWorkstreamResponse:
        """See the protocol."""
        await self._requests.live(request.run, request.request_id, unless_answered=True)
        known = await self._requests.answer(request.run, request.request_id)
        if known is not None:
            return pb.AdjustWorkstreamResponse(answer=known.text)
        state = self._shell.runs[request.run]
        if state.definitions is None or state.spec is None:
            raise invalid("run", f"run {request.run} has no definition that can be adjusted")
        change = Adjustment(
            workstream=request.workstream,
            tool=request.tool,
            add_files_scope=tuple(request.add_files_scope[:NAMED_MAX]),
            add_files_create=tuple(request.add_files_create[:NAMED_MAX]),
            hint=request.hint,
            more_attempts=request.more_attempts,
        )
        amends = state.spec.digest
        with _submission_errors():
            spec = await asyncio.to_thread(amended, state.definitions.spec, change, self._submissions.profiles)
        artifact = await self._stored(await asyncio.to_thread(_encoded, spec))
        event = ReviewRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            verdict="adjust",
            workstreams=[request.workstream],
            from_step=_step(request.from_step, "from_step") if request.from_step else None,
            spec=artifact,
            amends=amends,
            reason=_reason(request.reason),
        )
        done = await self._requests.answered(request.run, event)
        return pb.AdjustWorkstreamResponse(position=done.position, answer=done.text, spec_digest=artifact.digest)

    # Trying again, and undoing

    async def RetryRun(self, request: pb.RetryRunRequest, _context: _Context) -> pb.RetryRunResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.known(request.run, request.request_id)
        live = request.run in self._shell.runs and self._shell.runs[request.run].finished is None
        if live or await self._requests.answer(request.run, request.request_id) is not None:
            return await self._retry_live(request)
        if request.from_step:
            raise invalid("from_step", f"run {request.run} has ended, and a new run begins with edit: leave it out")
        return await self._retry_ended(request)

    async def _retry_live(self, request: pb.RetryRunRequest) -> pb.RetryRunResponse:
        event = ReviewRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            verdict="retry",
            workstreams=_named(request.workstreams),
            from_step=_step(request.from_step, "from_step") if request.from_step else None,
            reason=_reason(request.reason),
        )
        done = await self._requests.answered(request.run, event)
        return pb.RetryRunResponse(
            position=done.position, answer=done.text, run=request.run, workstreams=request.workstreams
        )

    async def _retry_ended(self, request: pb.RetryRunRequest) -> pb.RetryRunResponse:
        """A new run, whose id follows from the request: asking again makes no second one."""
        old = await self._ended(request.run)
        definitions = old.definitions
        if definitions is None:
            raise invalid("run", f"run {request.run} has no definition that could be tried again")
        with _submission_errors():
            self._submissions.check_again(definitions.spec)
            spec = await asyncio.to_thread(_another, old, definitions.spec, request)
        check_pools(principal(), (spec.options.pool, *spec.options.other_pools))
        artifact = await self._stored(await asyncio.to_thread(_encoded, spec))
        event = RunRequested(
            request_id=request.request_id,
            actor=spec.actor,
            spec=artifact,
            workstreams=len(spec.bundles),
            repository=spec.repository.location,
            base_commit=spec.repository.base_commit,
            timeout_s=spec.options.timeout_s,
            labels=old.requested.labels if old.requested is not None else {},
            tenant=old.requested.tenant if old.requested is not None else "",
        )
        position = await self._requests.first(spec.run, event)
        return pb.RetryRunResponse(
            position=position,
            run=spec.run,
            new_run=True,
            workstreams=[name for wave in spec.waves for name in wave],
        )

    async def RollbackRun(self, request: pb.RollbackRunRequest, _context: _Context) -> pb.RollbackRunResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.known(request.run, request.request_id)
        if request.run in self._shell.runs and self._shell.runs[request.run].finished is None:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "RUN_IS_LIVE",
                f"run {request.run} has not ended: cancel it first: swell cancel {request.run}",
                {"run": request.run},
            )
        if request.with_dependents and not request.workstreams:
            raise invalid("with_dependents", "is for workstreams that are named: name some, or leave it out")
        event = RollbackRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            reason=_reason(request.reason),
            workstreams=_named(request.workstreams),
            with_dependents=request.with_dependents,
        )
        done = await self._requests.answered(request.run, event)
        return pb.RollbackRunResponse(position=done.position, answer=done.text)

    async def DeliverRun(self, request: pb.DeliverRunRequest, _context: _Context) -> pb.DeliverRunResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.known(request.run, request.request_id)
        known = await self._requests.answer(request.run, request.request_id)
        if known is not None:
            return pb.DeliverRunResponse(answer=known.text)
        if request.style not in STYLES:
            raise invalid("style", f"{request.style[:40]!r} is not rebase, squash or merge")
        state = self._shell.runs.get(request.run) or await self._ended(request.run)
        if state.definitions is None:
            raise invalid("run", f"run {request.run} has no definition that could be delivered by")
        own, location = state.definitions.spec.options.destination, state.definitions.spec.repository.location
        remote = request.remote if request.HasField("remote") else own.remote
        credential = request.credential if request.HasField("credential") else ""
        with _submission_errors():
            self._submissions.check_destination(Destination(remote=remote, credential=credential), location)
        event = DeliveryRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            style=STYLES[request.style] if request.style else None,
            remote=remote if request.HasField("remote") else None,
            credential=credential if request.HasField("credential") else None,
            series=request.series,
            reason=_reason(request.reason),
        )
        done = await self._requests.answered(request.run, event)
        return pb.DeliverRunResponse(position=done.position, answer=done.text)

    async def RecoverStep(self, request: pb.RecoverStepRequest, _context: _Context) -> pb.RecoverStepResponse:  # noqa: N802
        """See the protocol."""
        await self._requests.live(request.run, request.request_id, unless_answered=True)
        if request.error_class and request.error_class not in get_args(ErrorClass):
            raise invalid(
                "error_class", f"{request.error_class[:40]!r} is none: use one of {', '.join(get_args(ErrorClass))}"
            )
        event = RecoveryRequested(
            request_id=request.request_id,
            actor=actor(request.actor),
            workstream=request.workstream[:128],
            step=_step(request.step, "step"),
            error_class=cast("ErrorClass", request.error_class or "unknown"),
            reason=_reason(request.reason),
        )
        done, choice = await self._requests.recovered(request.run, event)
        return pb.RecoverStepResponse(
            position=done.position,
            answer=done.text,
            recovered=choice.strategy not in {"review", "fail"},
            strategy=choice.strategy,
            reason=choice.reason,
            not_before_ns=choice.not_before_ns,
            tool=choice.tool,
            reduction=choice.reduction,
        )

    async def _ended(self, run: str) -> RunState:
        """An ended run, folded again from the log."""
        try:
            state = await self._shell.recall(run)
        except BusUnavailableError as error:
            raise unavailable(error) from error
        if state is None:
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "RUN_NOT_FOUND",
                f"the log has no run {run} any more: submit its bundles anew",
                {"run": run},
            )
        return state

    # Submitting

    async def _received(
        self, messages: AsyncIterator[pb.SubmitRunRequest]
    ) -> tuple[pb.RunHeader, list[tuple[str, bytes]]]:
        header: pb.RunHeader | None = None
        documents: list[tuple[str, bytes]] = []
        size = 0
        async for message in _in_time(messages):
            match message.WhichOneof("part"):
                case "header" if header is None:
                    header = message.header
                case "document" if header is not None:
                    documents.append((message.document.name, message.document.content))
                    size += len(message.document.content) + len(message.document.name) + DOCUMENT_COST_BYTES
                case _:
                    raise invalid("part", "send the header once and first, then documents")
            if size > self._config.submission_bytes_max:
                limit = self._config.submission_bytes_max
                raise RpcError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "SUBMISSION_TOO_LARGE",
                    f"the bundle files are over {limit} bytes together: split the run",
                    {"limit_bytes": str(limit)},
                )
        if header is None:
            raise invalid("header", "the first message must carry the header")
        return header, documents

    async def _planned(
        self, header: pb.RunHeader, documents: list[tuple[str, bytes]], behalf: Callable[[str], str] = str
    ) -> Planned:
        with _submission_errors():
            return await asyncio.to_thread(self._submissions.plan, _plain(header), documents, behalf=behalf)

    async def _stored(self, data: bytes) -> Any:
        try:
            return await self._artifacts.put("spec", data, keep=True)
        except BusUnavailableError as error:
            raise unavailable(error) from error
        except BusError as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "SUBMISSION_TOO_LARGE", str(error)) from error


async def _in_time(messages: AsyncIterator[pb.SubmitRunRequest]) -> AsyncIterator[pb.SubmitRunRequest]:
    """The messages of a submission that is made without a pause: a silent caller holds nobody up."""
    stream = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise RpcError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "SUBMISSION_STALLED",
                f"nothing came for {SILENCE_S:g} s: send the whole submission at once",
            ) from error
        yield message


def _plain(header: pb.RunHeader) -> Header:
    options = header.options
    return Header(
        request_id=header.request_id,
        run=header.run,
        location=header.repository.location,
        base_commit=header.repository.base_commit,
        base_ref=header.repository.base_ref,
        max_workers=options.max_workers,
        wave_delay_s=options.wave_delay_s,
        fail_fast=options.fail_fast,
        dry_run=options.dry_run,
        timeout_s=options.timeout_s,
        stepwise=options.stepwise,
        context_json=options.context_json,
        scheduling=options.scheduling,
        review=options.review,
        budget_nano=options.budget_nano if options.HasField("budget_nano") else None,
        budget_mode=options.budget_mode,
        paused=options.paused,
        pools=tuple(options.pools),
        deliver=options.deliver,
        delivery_style=options.delivery_style,
        delivery_remote=options.delivery_remote,
        delivery_credential=options.delivery_credential,
        delivery_hook=options.delivery_hook,
        checks_toml=header.checks_toml,
        tool_profiles_json=header.tool_profiles_json,
        breaker_json=header.breaker_json,
        recovery_json=header.recovery_json,
        aim_registry_json=header.aim_registry_json,
        gates_json=header.gates_json,
        actor=actor(header.actor),
        labels=dict(header.labels),
        tenant=header.tenant,
    )


def _encoded(spec: RunSpec) -> bytes:
    """The definition's bytes, if they can be read back: what cannot must not become a run."""
    try:
        data = encode_spec(spec)
        decode_spec(data)
    except ValueError as error:
        raise invalid("header", f"the definition cannot be stored: {error}") from error
    return data


def _findings(findings: list[Finding]) -> list[pb.PlanFinding]:
    return [
        pb.PlanFinding(code=f.code, workstream=f.workstream, message=f.message, remedy=f.remedy)
        for f in findings[:FINDINGS_MAX]
    ]


def _refused(report: PlanReport) -> RpcError:
    lines = [str(finding) for finding in report.errors[:50]]
    if len(report.errors) > len(lines):
        lines.append(f"... and {len(report.errors) - len(lines)} more")
    return RpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_PLAN",
        "\n".join(lines)[:4000],
        {"codes": ",".join(sorted({finding.code for finding in report.errors}))},
    )


@contextlib.contextmanager
def _submission_errors() -> Iterator[None]:
    """What is wrong with a definition, as an answer that names the field."""
    try:
        yield
    except SubmissionError as error:
        raise RpcError(
            grpc.StatusCode.INVALID_ARGUMENT, error.reason, f"{error.field}: {error}"[:4000], {"field": error.field}
        ) from error


def _budget_request(request: pb.SetBudgetRequest | pb.SetSharedBudgetRequest) -> BudgetRequested:
    limit_nano = request.limit_nano if request.HasField("limit_nano") else None
    if limit_nano is not None and not 0 <= limit_nano <= NANO_USD_MAX:
        raise invalid("limit_nano", f"is not between 0 and {NANO_USD_MAX} nano-dollars")
    if request.mode not in BUDGET_MODES:
        raise invalid("mode", "is not halt, warn or continue")
    return BudgetRequested(
        request_id=request.request_id,
        actor=actor(request.actor),
        limit_nano=limit_nano,
        mode=BUDGET_MODES[request.mode],
        reason=_reason(request.reason),
    )


def _reason(text: str) -> str:
    return text[:500]


def _step(text: str, field: str) -> Step:
    if text not in _STEPS:
        raise invalid(field, f"{text[:40]!r} cannot be asked for: use {', '.join(_STEPS)}")
    return _STEPS[text]


def _named(workstreams: Sequence[str]) -> list[str]:
    if len(workstreams) > NAMED_MAX:
        raise invalid("workstreams", f"name {NAMED_MAX} at most, or none for all")
    return [name[:128] for name in dict.fromkeys(workstreams)]


def _fleet_scope(scope: int, name: str) -> tuple[PauseScope, str]:
    if scope not in _SCOPES:
        raise invalid("scope", "say what is meant: a tool, a pool, or all")
    if (scope == pb.FLEET_SCOPE_ALL) != (not name):
        raise invalid("name", "name the tool or the pool; all has no name")
    if len(name) > NAME_CHARS_MAX:
        raise invalid(
            "name", f"is longer than {NAME_CHARS_MAX} characters: give the id of a tool profile or the name of a pool"
        )
    return _SCOPES[scope], name


def _page_token(text: str) -> tuple[str, str]:
    run, slash, workstream = text.partition("/")
    if text and not (slash and run and workstream):
        raise invalid("page_token", "is not one of ours: give the one from the previous answer, or none")
    return run, workstream


def _reviews(runs: Mapping[str, RunState], names: Sequence[str], after: tuple[str, str]) -> Iterator[pb.Review]:
    """What waits for a person in these runs, by run and workstream, from behind `after` on."""
    for name in names:
        if name not in runs or name < after[0]:
            continue
        for workstream in sorted(runs[name].reviews):
            state = runs[name].workstreams[workstream]
            if (name, workstream) <= after:
                continue
            review = state.review
            yield pb.Review(
                run=name,
                workstream=workstream,
                step=review.step if review is not None else "",
                error_class=review.error_class if review is not None else "",
                reason=review.reason if review is not None else state.reason,
                since_ns=review.since_ns if review is not None else 0,
                attempts=state.attempts,
                commit=state.latest.commit if state.latest is not None else "",
            )


def _another(old: RunState, spec: RunSpec, request: pb.RetryRunRequest) -> RunSpec:
    """The definition of a new run of what an ended one left undone.

    It starts from what was delivered, if that is all that was merged; else from the old base, and then what its
    workstreams depend on is done again, since nothing contains it.
    """
    states = {name: workstream.state for name, workstream in old.workstreams.items()}
    workstreams = chosen(spec, states, _named(request.workstreams))
    line = old.line
    undone = {"compensated", "compensation_failed", "compensating"} & set(states.values())
    own = line.deliveries.get("") if line is not None else None
    delivered = (
        own.commit if line is not None and own is not None and own.head == line.head.commit and not undone else ""
    )
    return another(
        spec,
        Another(
            run=run_of(request.request_id),
            actor=actor(request.actor),
            workstreams=workstreams if delivered else with_dependencies(spec, workstreams),
            base_commit=delivered or spec.repository.base_commit,
            base_ref=f"swell/{old.run}" if delivered else spec.repository.base_ref,
        ),
    )


def _pools(runs: Iterable[RunState], executors: Iterable[ExecutorLife]) -> list[pb.Pool]:
    """The pools in which attempts wait to be claimed, and those of executors that have not ended."""
    waiting: dict[str, list[tuple[int, int]]] = {life.pool: [] for life in executors if life.state != "terminated"}
    for run in runs:
        for attempt in run.unclaimed.values():
            times = attempt.scheduled_ns, attempt.scheduled.queue_deadline_ns
            waiting.setdefault(attempt.scheduled.pool, []).append(times)
    return [
        pb.Pool(
            name=name,
            waiting=len(times),
            oldest_ns=min((scheduled_ns for scheduled_ns, _ in times), default=0),
            deadline_ns=min((deadline_ns for _, deadline_ns in times), default=0),
        )
        for name, times in sorted(waiting.items())
    ]
