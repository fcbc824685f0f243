"""SchedulerService: what users ask for becomes requests in the log; the answers come back through the log as well."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import structlog

from services.artifacts import Artifacts
from services.bus import Bus, BusError, BusUnavailableError, RefusedError
from services.events import AnyEvent, CancelRequested, RunRequested, Step, StepRequested
from services.plan import Finding, PlanReport
from services.rpc import RpcError, invalid
from services.scheduler.config import SchedulerConfig
from services.scheduler.shell import Shell
from services.scheduler.submission import REQUEST_ID, RUN_ID, Header, Planned, SubmissionError, Submissions
from services.scheduler.v1 import scheduler_pb2 as pb
from services.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from services.spec import RunSpec, decode_spec, encode_spec
from services.wire import Entry, all_of_run, encode_entry, request_subject

log = structlog.get_logger()

SERVICE = "swell.scheduler.v1.SchedulerService"
FINDINGS_MAX = 200
FOLD_TIMEOUT_S = 10.0
SILENCE_S = 30.0
DOCUMENT_COST_BYTES = 256
"""What a document weighs beside its content and name: many empty ones are not free."""

_Context = grpc.aio.ServicerContext[Any, Any]
_STEPS: dict[str, Step] = {"edit": "edit", "static": "static", "runtime": "runtime", "fix": "fix"}


class SchedulerServer(SchedulerServiceServicer):
    """Answers calls of one scheduler, leading or not: requests only need the log."""

    def __init__(
        self, config: SchedulerConfig, bus: Bus, artifacts: Artifacts, shell: Shell, submissions: Submissions
    ) -> None:
        """`shell` tells what has been folded; nothing is decided here."""
        self._config = config
        self._bus = bus
        self._artifacts = artifacts
        self._shell = shell
        self._submissions = submissions

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
        planned = await self._planned(header, documents)
        if planned.spec is None:
            raise _refused(planned.report)
        spec = planned.spec
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
        )
        position = await self._first_request(spec.run, event)
        return pb.SubmitRunResponse(run=spec.run, position=position, warnings=_findings(planned.report.warnings))

    async def CancelRun(self, request: pb.CancelRunRequest, _context: _Context) -> pb.CancelRunResponse:  # noqa: N802
        """See the protocol."""
        await self._live(request.run, request.request_id)
        event = CancelRequested(
            request_id=request.request_id, actor=request.actor[:200] or "unknown", reason=request.reason[:500]
        )
        return pb.CancelRunResponse(position=await self._request(request.run, event))

    async def RequestStep(self, request: pb.RequestStepRequest, _context: _Context) -> pb.RequestStepResponse:  # noqa: N802
        """See the protocol."""
        await self._live(request.run, request.request_id)
        if request.step not in _STEPS:
            raise invalid("step", f"{request.step[:40]!r} cannot be asked for: use {', '.join(_STEPS)}")
        event = StepRequested(
            request_id=request.request_id,
            actor=request.actor[:200] or "unknown",
            workstream=request.workstream[:128],
            step=_STEPS[request.step],
            with_fix=request.with_fix,
        )
        return pb.RequestStepResponse(position=await self._request(request.run, event))

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

    async def _planned(self, header: pb.RunHeader, documents: list[tuple[str, bytes]]) -> Planned:
        try:
            return await asyncio.to_thread(self._submissions.plan, _plain(header), documents)
        except SubmissionError as error:
            raise RpcError(
                grpc.StatusCode.INVALID_ARGUMENT, error.reason, f"{error.field}: {error}"[:4000], {"field": error.field}
            ) from error

    async def _stored(self, data: bytes) -> Any:
        try:
            return await self._artifacts.put("spec", data, keep=True)
        except BusUnavailableError as error:
            raise _unavailable(error) from error
        except BusError as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "SUBMISSION_TOO_LARGE", str(error)) from error

    async def _first_request(self, run: str, event: RunRequested) -> int:
        """The request stands first on its subject, or this very request stands there already."""
        try:
            return await self._append(run, event, expect=0)
        except RefusedError as refused:
            position = refused.last.sequence if refused.last is not None else 0
            await self._shell.folded(position, FOLD_TIMEOUT_S)
            known = self._shell.request_of(run)
            if known == event.request_id:
                return position
            raise RpcError(
                grpc.StatusCode.ALREADY_EXISTS,
                "RUN_EXISTS",
                f"run {run} exists already: choose another id, or none",
                {"run": run},
            ) from refused

    async def _request(self, run: str, event: CancelRequested | StepRequested) -> int:
        """Append a request; somebody else's, between our look and our append, only means looking again."""
        for _ in range(20):
            try:
                last = await self._bus.last(request_subject(run))
            except BusUnavailableError as error:
                raise _unavailable(error) from error
            try:
                return await self._append(run, event, expect=last.sequence if last is not None else 0)
            except RefusedError:
                continue
        raise RpcError(grpc.StatusCode.ABORTED, "TOO_MANY_REQUESTS", f"run {run} is asked too much at once: try again")

    async def _append(self, run: str, event: AnyEvent, *, expect: int) -> int:
        entry = Entry(
            id=uuid.uuid4().hex, run=run, at_ns=time.time_ns(), by="client", events=[event], seen=self._shell.position
        )
        try:
            return await self._bus.append(request_subject(run), encode_entry(entry), expect=expect)
        except BusUnavailableError as error:
            raise _unavailable(error) from error

    async def _live(self, run: str, request_id: str) -> None:
        """Raise RpcError unless the run exists and goes on, as far as the log tells by now."""
        if not RUN_ID.match(run):
            raise invalid("run", f"{run[:80]!r} is no run id")
        if not REQUEST_ID.match(request_id):
            raise invalid("request_id", "give a fresh UUID of 8 to 64 letters, digits, '-' or '_'")
        if run not in self._shell.runs and run not in self._shell.over:
            try:
                last = await self._bus.last(all_of_run(run))
            except BusUnavailableError as error:
                raise _unavailable(error) from error
            if last is not None:
                await self._shell.folded(last.sequence, FOLD_TIMEOUT_S)
        if run in self._shell.over:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "RUN_IS_OVER",
                f"run {run} has ended already: {self._shell.over[run].finished.state}",
                {"run": run},
            )
        if run not in self._shell.runs:
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "RUN_NOT_FOUND",
                f"there is no run {run}: `swell list` shows them",
                {"run": run},
            )


async def _in_time(messages: AsyncIterator[pb.SubmitRunRequest]) -> AsyncIterator[pb.SubmitRunRequest]:
    """The messages of a submission that is made without a pause: a silent caller holds nobody up."""
    stream = aiter(messages)
    while True:
        try:
            message = await asyncio.wait_for(anext(stream), SILENCE_S)
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
        accept_unenforced=options.accept_unenforced,
        stepwise=options.stepwise,
        context_json=options.context_json,
        checks_toml=header.checks_toml,
        tool_profiles_json=header.tool_profiles_json,
        breaker_json=header.breaker_json,
        actor=header.actor,
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


def _unavailable(error: BusUnavailableError) -> RpcError:
    return RpcError(grpc.StatusCode.UNAVAILABLE, "BUS_UNAVAILABLE", str(error))
