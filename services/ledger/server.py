"""LedgerService over gRPC: checks what is asked, reads the store in threads, and is the only place that knows its stubs.

Watching delivers from the projection's commits: what a watcher saw, a list shows. A watch replays the store until it is
level with the absorber and joins the live commits in that same instant, so nothing is missing and nothing comes twice
(services/ledger/watches.py).
"""

# ruff: noqa: N802, ARG002 - the names and arguments of the methods are those of the generated base class
import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NoReturn, Protocol, TypeVar, assert_never

import grpc
import msgspec

from services import events
from services.access import principal
from services.bus import BusError, BusUnavailableError, ObjectMissingError
from services.ledger import export, queries
from services.ledger.absorb import Absorber
from services.ledger.advice import recommendations
from services.ledger.anchors import Anchor
from services.ledger.archive import Archivist, Outcome
from services.ledger.audit import (
    AuditBusyError,
    AuditError,
    Auditor,
    AuditProgress,
    AuditResult,
    Finding,
    anchor_at,
)
from services.ledger.copying import Copied, Copies, CopyBusyError
from services.ledger.costs import Costs, get_costs, grouping, row_limit
from services.ledger.definitions import DefinitionCache
from services.ledger.explain import WAITS_MAX, explain, situation_of
from services.ledger.export import Wanted
from services.ledger.figures import Definition, Figures, definition_of, for_runs, get_figures, read_definition
from services.ledger.pages import cursor_of, page_size, token_of
from services.ledger.past import (
    AsOf,
    ErrorFilter,
    TooMuchHistoryError,
    as_of,
    get_attempt,
    list_errors,
    list_transitions,
)
from services.ledger.patches import PatchRow
from services.ledger.projector import VERSION, AttemptRow, RunRow, WorkstreamRow
from services.ledger.queries import AttemptFilter, EventFilter, EventRecord
from services.ledger.runs import RunFilter, changed_runs, list_runs, parse_order, present_runs
from services.ledger.segment import ArchiveBusyError, ArchiveError
from services.ledger.selection import Selection, checked
from services.ledger.sql import Beginning, Ending, Part, Questions
from services.ledger.sql_child import Rows
from services.ledger.store import QueryTooSlowError, Snapshot, Store, StoreDamagedError, StoreError, StoreMemoryError
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.v1 import ledger_pb2_grpc
from services.ledger.verify import Difference, Progress, Result, Verifier, VerifyBusyError, VerifyError
from services.ledger.watches import (
    EventFeed,
    Feed,
    Frame,
    RunFeed,
    TooManyWatchesError,
    WatchEndedError,
    WatchOverflowError,
)
from services.metrics import version
from services.rpc import RpcError, invalid
from services.wire import live_subject

SERVICE = str(pb.DESCRIPTOR.services_by_name["LedgerService"].full_name)

CHUNK_BYTES = 1024 * 1024
ANSWER_S = 0.2
"""How long an answer after which the service ends may take to its caller."""
# An answer stays well below the 4 MiB that clients take by default; one row may be large, so pages are cut by size as well.
ANSWER_BYTES = 3 * 1024 * 1024
KINDS_MAX = 64
"""The definition of the largest run is some 20 MiB."""
DIFFERENCES_MAX = 1000
DAYS_MAX = 36_500
ANCHORS_MAX = 1000
HASH_BYTES = 32
REASON_CHARACTERS_MAX = 500
LIVE_BYTES_MAX = 64 * 1024
NAME_CHARACTERS_MAX = 512
NEW_RUN_WAIT_S = 5.0
"""How long a question about a run that is not absorbed yet waits, where it must be known whose run it is."""
TEXT_CHARACTERS_MAX = 4096
LABELS_MAX = 32
RUNS_PER_FRAME = 200

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_WORD = re.compile(r"[a-z0-9_]{1,64}")
_OBJECT = re.compile(rf"[!-~]{{1,{NAME_CHARACTERS_MAX}}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_names = msgspec.json.Decoder(list[str])
_label_map = msgspec.json.Decoder(dict[str, str])
_artifacts = msgspec.json.Decoder(list[events.Artifact])

Moment = tuple[int, int]
"""A position and a time of which one is 0."""

T = TypeVar("T")
Message = TypeVar(
    "Message",
    pb.Run,
    pb.Workstream,
    pb.Attempt,
    pb.Event,
    pb.Executor,
    pb.ToolBreaker,
    pb.Pause,
    pb.Patch,
    pb.PatchMove,
    pb.Wave,
    pb.Transition,
    pb.Failure,
    pb.Wait,
    pb.Costs,
)


class Objects(Protocol):
    """Stored objects; services.bus.Objects is one."""

    def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        """An object in chunks; raises services.bus.ObjectMissingError, BusError, BusUnavailableError."""


class LiveOutput(Protocol):
    """What is said on the bus and not kept; services.bus.Bus is one."""

    def hear(self, subject: str) -> AbstractAsyncContextManager["asyncio.Queue[tuple[str, bytes]]"]:
        """A queue of what is said on a subject."""


class LedgerServer(ledger_pb2_grpc.LedgerServiceServicer):
    """The service. `heartbeat_s`: a silent watch hears its position that often; `artifact_bytes_max`: larger ones are refused.

    `started_ns` is when the process started, for GetStatus. Of AIM audit records those of `aim_audit_days` are told, 0: all.
    `as_of_entries_max`: entries of a run that are folded for an answer about an earlier moment, at most.
    """

    def __init__(
        self,
        store: Store,
        absorber: Absorber,
        objects: Objects,
        live: LiveOutput,
        verifier: Verifier,
        auditor: Auditor,
        questions: Questions,
        *,
        archivist: Archivist | None = None,
        copies: Copies | None = None,
        heartbeat_s: float = 15.0,
        artifact_bytes_max: int = 1024**3,
        aim_audit_days: int = 30,
        as_of_entries_max: int = 50_000,
        started_ns: int = 0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Serve what `store` holds and `absorber` commits. Without an `archivist` there is no archive."""
        self._archivist = archivist
        self._copies = copies or Copies(store, absorber.log)
        self._store = store
        self._absorber = absorber
        self._objects = objects
        self._live = live
        self._verifier = verifier
        self._auditor = auditor
        self._aim_audit_days = aim_audit_days
        self._clock_ns = clock_ns
        self._questions = questions
        self._started_ns = started_ns
        self._heartbeat_s = heartbeat_s
        self._artifact_bytes_max = artifact_bytes_max
        self._as_of_entries_max = as_of_entries_max
        self._definitions = DefinitionCache(objects)
        # Of its own: what is not answered yet must not keep others from their threads.
        self._threads = ThreadPoolExecutor(store.readers, thread_name_prefix="ledger-reader")

    async def close(self) -> None:
        """End the reads that are under way; nothing may be asked any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        ending = asyncio.create_task(asyncio.to_thread(self._threads.shutdown))
        while not ending.done():
            self._store.interrupt()  # again: one may just have been about to begin
            await asyncio.wait([ending], timeout=0.1)

    async def _asked(self, query: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The answer of a query over tables that are whole."""
        self._require_whole()
        return await self._read(query, *arguments, **named)

    def _require_whole(self) -> None:
        """Raise RpcError unless the tables are whole."""
        if self._absorber.catching_up:
            status = self._absorber.status()
            left = f"; about {status.seconds_left:.0f} s are left" if status.seconds_left >= 0 else ""
            raise RpcError(
                grpc.StatusCode.UNAVAILABLE,
                "LEDGER_BEHIND",
                f"the ledger {'is being rebuilt' if status.rebuilding else 'catches up'}: it is at position "
                f"{status.position} of {status.stream_last}{left}; try again then",
                {"position": str(status.position), "stream_last": str(status.stream_last)},
                retry_s=max(1.0, min(status.seconds_left, 60.0)),
            )

    async def _read(self, query: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The answer of a query, of one commit, read in a thread."""

        def answered() -> T:
            with self._store.reading() as snapshot:
                return query(snapshot, *arguments, **named)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, answered)
        except QueryTooSlowError as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUERY_TOO_SLOW", str(error)) from error
        except StoreMemoryError as error:
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "QUERY_TOO_LARGE",
                "the answer needs more memory than the ledger gives to one: ask for less, such as one run or a smaller "
                "page, or raise `memory_limit_mb`",
            ) from error
        except StoreDamagedError as error:
            self._absorber.condemn(str(error))
            raise _damaged(error) from error

    async def tenant_of(self, run: str) -> str | None:
        """On whose behalf a run is; None when the log has no such run as of now."""
        if not _NAME.fullmatch(run):
            return None
        found = await self._asked(queries.get_run, run)
        if found is None:
            await self._absorber.look()
            await self._absorber.reached(self._absorber.stream_last, NEW_RUN_WAIT_S)
            found = await self._asked(queries.get_run, run)
        return None if found is None else found[0].tenant

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        """One run, and the position the answer reflects."""
        run = _name("run", request.run)
        moment = _moment(request)
        if moment is not None:
            then = await self._as_of(run, moment)
            return pb.GetRunResponse(run=_run(then.row), position=then.position)
        found = await self._asked(queries.get_run, run)
        if found is None:
            raise _no_run(run)
        row, position = found
        return pb.GetRunResponse(run=_run(row), position=position)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        """A page of runs, in the order asked for."""
        wanted = RunFilter(
            state=_optional(_WORD, "state", request.state),
            repository=_text("repository", request.repository),
            tool=_text("tool", request.tool),
            labels=_labels(request.labels),
            tenant=_text("tenant", request.tenant) if request.HasField("tenant") else None,
            actor=_text("actor", request.actor),
            since_ns=request.since_ns,
            until_ns=request.until_ns,
        )
        _check_times(request.since_ns, request.until_ns)
        try:
            order = parse_order(request.order_by)
        except ValueError as error:
            raise invalid("order_by", str(error)) from error
        size = page_size(request.page_size, 50)
        arguments = (msgspec.structs.astuple(wanted), msgspec.structs.astuple(order))
        cursor = cursor_of(request.page_token, "ListRuns", arguments, 2)
        rows, position = await self._asked(
            _positioned(list_runs), wanted, order, behind=(cursor[0], cursor[1]) if cursor else None, limit=size + 1
        )
        page = _fitting((_run(row) for row in rows), size)
        token = token_of("ListRuns", arguments, order.cursor_of(rows[len(page) - 1])) if len(page) < len(rows) else ""
        return pb.ListRunsResponse(runs=page, next_page_token=token, position=position)

    async def ListWorkstreams(self, request: pb.ListWorkstreamsRequest, context: Any) -> pb.ListWorkstreamsResponse:
        """A page of a run's workstreams, in the order in which they were first mentioned."""
        run = _name("run", request.run)
        state = _optional(_WORD, "state", request.state)
        tool = _text("tool", request.tool)
        moment = _moment(request)
        size = page_size(request.page_size, 100)
        arguments = (run, state, tool, moment)
        cursor = cursor_of(request.page_token, "ListWorkstreams", arguments, 1)
        if moment is not None:
            then = await self._as_of(run, moment)
            matching = [
                row
                for row in then.workstreams
                if state in ("", row.state) and tool in ("", row.tool) and row.ordinal > (cursor[0] if cursor else -1)
            ]
            rows, position = matching[: size + 1], then.position
        else:
            found = await self._asked(
                queries.list_workstreams,
                run,
                state=state,
                tool=tool,
                after=cursor[0] if cursor else None,
                limit=size + 1,
            )
            if found is None:
                raise _no_run(run)
            rows, position = found
        page = _fitting((_workstream(row) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            token = token_of("ListWorkstreams", arguments, [rows[len(page) - 1].ordinal])
        return pb.ListWorkstreamsResponse(workstreams=page, next_page_token=token, position=position)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        """A page of a run's attempts in the order they were scheduled."""
        run = _name("run", request.run)
        wanted = AttemptFilter(
            workstream=_optional(_NAME, "workstream", request.workstream),
            state=_optional(_WORD, "state", request.state),
            step=_optional(_WORD, "step", request.step),
            tool=_text("tool", request.tool),
            executor=_text("executor", request.executor),
            error_class=_optional(_WORD, "error_class", request.error_class),
            ok=request.ok if request.HasField("ok") else None,
        )
        moment = _moment(request)
        size = page_size(request.page_size, 100)
        arguments = (run, msgspec.structs.astuple(wanted), moment)
        cursor = cursor_of(request.page_token, "ListAttempts", arguments, 2) or [0, -1]
        after = (cursor[0], cursor[1])
        if moment is not None:
            then = await self._as_of(run, moment)
            matching = [
                row
                for row in then.attempts
                if wanted.matches(row) and (row.scheduled_position, row.scheduled_idx) > after
            ]
            rows, position = matching[: size + 1], then.position
        else:
            found = await self._asked(queries.list_attempts, run, wanted, after=after, limit=size + 1)
            if found is None:
                raise _no_run(run)
            rows, position = found
        page = _fitting((_attempt(row) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = token_of("ListAttempts", arguments, [last.scheduled_position, last.scheduled_idx])
        return pb.ListAttemptsResponse(attempts=page, next_page_token=token, position=position)

    async def _as_of(self, run: str, moment: Moment) -> AsOf:
        """How a run stood."""
        position, time_ns = moment
        try:
            then = await self._asked(
                as_of, run, position=position, time_ns=time_ns, entries_max=self._as_of_entries_max
            )
        except TooMuchHistoryError as error:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "TOO_MUCH_HISTORY",
                f"{error}: ask for an earlier moment, or raise `as_of_entries_max` of the ledger",
                {"run": run},
            ) from error
        if then is None:
            when = f"position {position}" if position else f"time {time_ns}"
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "RUN_NOT_FOUND",
                f"no run {run} is recorded up to {when}: ask for a later moment, or check the id with ListRuns",
                {"run": run},
            )
        return then

    async def GetAttempt(self, request: pb.GetAttemptRequest, context: Any) -> pb.GetAttemptResponse:
        """One attempt with its facts; late ones as far as they fit."""
        run, workstream = _name("run", request.run), _name("workstream", request.workstream)
        if request.attempt < 1:
            raise invalid("attempt", f"{request.attempt} is no attempt: they are numbered from 1")
        found = await self._asked(get_attempt, run, workstream, request.attempt)
        if found is None:
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "ATTEMPT_NOT_FOUND",
                f"run {run} has no attempt {request.attempt} of {workstream}: ListAttempts, or `swell show {run}`, has those there are",
                {"run": run, "workstream": workstream},
            )
        answer = pb.GetAttemptResponse(attempt=_attempt(found.row), position=found.position)
        for field, record in (("scheduled", found.scheduled), ("claim", found.claim), ("close", found.close)):
            if record is not None:
                getattr(answer, field).CopyFrom(_event(record))
        answer.late.extend(_fitting((_event(record) for record in found.late), len(found.late)))
        return answer

    async def ListTransitions(self, request: pb.ListTransitionsRequest, context: Any) -> pb.ListTransitionsResponse:
        """A page of changes of state."""
        run = _name("run", request.run)
        workstream = _optional(_NAME, "workstream", request.workstream)
        actor = _text("actor", request.actor)
        size = page_size(request.page_size, 100)
        arguments = (run, workstream, actor, request.newest_first)
        cursor = cursor_of(request.page_token, "ListTransitions", arguments, 2)
        found = await self._asked(
            list_transitions,
            run,
            workstream={"": None, "-": ""}.get(workstream, workstream),
            actor=actor,
            newest_first=request.newest_first,
            cursor=(cursor[0], cursor[1]) if cursor else None,
            limit=size + 1,
        )
        if found is None:
            raise _no_run(run)
        rows, position = found
        page = _fitting((pb.Transition(index=row.idx, **_said(row, _TRANSITION_FIELDS)) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            token = token_of("ListTransitions", arguments, [rows[len(page) - 1].position, rows[len(page) - 1].idx])
        return pb.ListTransitionsResponse(transitions=page, next_page_token=token, position=position)

    async def ListErrors(self, request: pb.ListErrorsRequest, context: Any) -> pb.ListErrorsResponse:
        """A page of failures, the one seen last first."""
        _check_times(request.since_ns, request.until_ns)
        wanted = ErrorFilter(
            run=_optional(_NAME, "run", request.run),
            workstream=_optional(_NAME, "workstream", request.workstream),
            step=_optional(_WORD, "step", request.step),
            tool=_text("tool", request.tool),
            error_class=_optional(_WORD, "error_class", request.error_class),
            since_ns=request.since_ns,
            until_ns=request.until_ns,
        )
        size = page_size(request.page_size, 100)
        arguments = msgspec.structs.astuple(wanted)
        cursor = cursor_of(request.page_token, "ListErrors", arguments, 3)
        rows, position = await self._asked(
            list_errors, wanted, behind=(cursor[0], cursor[1], cursor[2]) if cursor else None, limit=size + 1
        )
        page = _fitting((pb.Failure(**_said(row, _FAILURE_FIELDS)) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = token_of("ListErrors", arguments, [last.last_seen_ns, last.position, last.idx])
        return pb.ListErrorsResponse(errors=page, next_page_token=token, position=position)

    async def ExplainRun(self, request: pb.ExplainRunRequest, context: Any) -> pb.ExplainRunResponse:
        """What a run waits for."""
        run = _name("run", request.run)
        workstream = _optional(_NAME, "workstream", request.workstream)
        situation = await self._asked(situation_of, run)
        if situation is None:
            raise _no_run(run)
        definitions = None if situation.spec is None else await self._definitions.of(situation.spec)
        waits = await asyncio.to_thread(explain, situation, definitions)
        if workstream:
            waits = [wait for wait in waits if wait.workstream in ("", workstream)]
        told = _fitting((pb.Wait(**_said(wait, _WAIT_FIELDS)) for wait in waits), WAITS_MAX)
        return pb.ExplainRunResponse(
            run=_run(situation.run),
            waits=told,
            left_out=len(waits) - len(told),
            definition_read=definitions is not None,
            position=situation.position,
        )

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:
        """A page of events."""
        _check_times(request.since_ns, request.until_ns)
        wanted = EventFilter(
            run=_optional(_NAME, "run", request.run),
            workstream=_optional(_NAME, "workstream", request.workstream),
            tool=_text("tool", request.tool),
            kinds=_kinds("kinds", request.kinds),
            severities=_kinds("severities", request.severities),
            since_ns=request.since_ns,
            until_ns=request.until_ns,
        )
        after = _position("after_position", request.after_position)
        size = page_size(request.page_size, 100)
        arguments = (msgspec.structs.astuple(wanted), after, request.newest_first)
        cursor = cursor_of(request.page_token, "ListEvents", arguments, 2)
        rows = await self._asked(
            queries.list_events,
            wanted,
            after_position=after,
            newest_first=request.newest_first,
            cursor=(cursor[0], cursor[1]) if cursor else None,
            limit=size + 1,
        )
        page = _fitting((_event(row) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            token = token_of("ListEvents", arguments, [rows[len(page) - 1].position, rows[len(page) - 1].idx])
        return pb.ListEventsResponse(events=page, next_page_token=token)

    async def ListExecutors(self, request: pb.ListExecutorsRequest, context: Any) -> pb.ListExecutorsResponse:
        """A page of executors, newest first."""
        state = _optional(_WORD, "state", request.state)
        size = page_size(request.page_size, 100)
        cursor = cursor_of(request.page_token, "ListExecutors", (state,), 2)
        rows, position = await self._asked(
            queries.list_executors, state=state, before=(cursor[0], cursor[1]) if cursor else None, limit=size + 1
        )
        page = _fitting((pb.Executor(**_said(row, _EXECUTOR_FIELDS)) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = token_of("ListExecutors", (state,), [last.first_position, last.first_idx])
        return pb.ListExecutorsResponse(executors=page, next_page_token=token, position=position)

    async def ListToolBreakers(self, request: pb.ListToolBreakersRequest, context: Any) -> pb.ListToolBreakersResponse:
        """Every tool's breaker."""
        rows, position = await self._asked(queries.list_tool_breakers)
        told = _fitting((pb.ToolBreaker(**_said(row, _BREAKER_FIELDS)) for row in rows), len(rows))
        return pb.ListToolBreakersResponse(tool_breakers=told, position=position)

    async def ListPauses(self, request: pb.ListPausesRequest, context: Any) -> pb.ListPausesResponse:
        """What is paused for all runs."""
        rows, position = await self._asked(queries.list_pauses)
        told = _fitting((pb.Pause(**_said(row, _PAUSE_FIELDS)) for row in rows), len(rows))
        return pb.ListPausesResponse(pauses=told, position=position)

    async def GetPatch(self, request: pb.GetPatchRequest, context: Any) -> pb.GetPatchResponse:
        """One patch, and the position the answer reflects."""
        run, workstream = _name("run", request.run), _name("workstream", request.workstream)
        attempt = _number("attempt", request.attempt)
        found = await self._asked(queries.get_patch, run, workstream, attempt)
        if found is None:
            which = f"attempt {attempt}" if attempt else "the work"
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "PATCH_NOT_FOUND",
                f"{which} of {workstream} of run {run} has left no patch: ListPatches, or `swell patch list {run}`, has those there are",
                {"run": run, "workstream": workstream},
            )
        row, position = found
        return pb.GetPatchResponse(patch=_patch(row), position=position)

    async def ListPatches(self, request: pb.ListPatchesRequest, context: Any) -> pb.ListPatchesResponse:
        """A page of patches, in the order they were made."""
        run = _optional(_NAME, "run", request.run)
        workstream = _optional(_NAME, "workstream", request.workstream)
        state = _optional(_WORD, "state", request.state)
        digest = _optional(_DIGEST, "digest", request.digest)
        size = page_size(request.page_size, 100)
        arguments = (run, workstream, state, digest)
        cursor = cursor_of(request.page_token, "ListPatches", arguments, 2) or [0, -1]
        rows, position = await self._asked(
            queries.list_patches,
            run=run,
            workstream=workstream,
            state=state,
            digest=digest,
            after=(cursor[0], cursor[1]),
            limit=size + 1,
        )
        page = _fitting((_patch(row) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = token_of("ListPatches", arguments, [last.created_position, last.created_idx])
        return pb.ListPatchesResponse(patches=page, next_page_token=token, position=position)

    async def ListPatchMoves(self, request: pb.ListPatchMovesRequest, context: Any) -> pb.ListPatchMovesResponse:
        """A page of the history of a run's patches, oldest first."""
        run = _name("run", request.run)
        workstream = _optional(_NAME, "workstream", request.workstream)
        attempt = _number("attempt", request.attempt)
        size = page_size(request.page_size, 100)
        arguments = (run, workstream, attempt)
        cursor = cursor_of(request.page_token, "ListPatchMoves", arguments, 3) or [0, -1, -1]
        rows = await self._asked(
            queries.list_patch_moves,
            run,
            workstream=workstream,
            attempt=attempt,
            after=(cursor[0], cursor[1], cursor[2]),
            limit=size + 1,
        )
        page = _fitting((pb.PatchMove(index=row.idx, **_said(row, _MOVE_FIELDS)) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = token_of("ListPatchMoves", arguments, [last.position, last.idx, last.turn])
        return pb.ListPatchMovesResponse(moves=page, next_page_token=token)

    async def ListWaves(self, request: pb.ListWavesRequest, context: Any) -> pb.ListWavesResponse:
        """A page of a run's waves, in order."""
        run = _name("run", request.run)
        size = page_size(request.page_size, 100)
        cursor = cursor_of(request.page_token, "ListWaves", (run,), 1)
        found = await self._asked(queries.list_waves, run, after=cursor[0] if cursor else -1, limit=size + 1)
        if found is None:
            raise _no_run(run)
        rows, position = found
        page = _fitting((pb.Wave(**_said(row, _WAVE_FIELDS)) for row in rows), size)
        token = token_of("ListWaves", (run,), [rows[len(page) - 1].wave]) if len(page) < len(rows) else ""
        return pb.ListWavesResponse(waves=page, next_page_token=token, position=position)

    async def GetCosts(self, request: pb.GetCostsRequest, context: Any) -> pb.GetCostsResponse:
        """What was spent, as much of it as fits, and the total of all."""
        selection, group_by = checked(_selection(request.selection)), grouping(request.group_by)
        limit = row_limit(request.limit)
        spent = await self._asked(get_costs, selection, group_by, limit)
        return pb.GetCostsResponse(
            rows=_fitting((_costs(row) for row in spent.rows), limit),
            total=_costs(spent.total),
            groups=spent.groups,
            price_tables=spent.price_tables,
            position=spent.position,
        )

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        """What runs came to. The definition of one run is read too, where it can be."""
        selection = for_runs(checked(_selection(request.selection)))
        definition = await self._definition(selection.run) if selection.run else None
        figures = await self._asked(get_figures, selection, definition)
        if figures is None:
            raise _no_run(selection.run)
        advice = [
            pb.Recommendation(
                evidence=[_told(one, pb.Evidence) for one in found.evidence], **_said(found, _ADVICE_FIELDS)
            )
            for found in recommendations(figures)
        ]
        return pb.GetMetricsResponse(recommendations=advice, **_figures(figures))

    async def _definition(self, run: str) -> Definition | None:
        """What a run was defined as; None when that is not stored any more, is too large, or cannot be read."""
        found = await self._asked(definition_of, run)
        if found is None:
            return None
        data = await self._definitions.read(found)
        return None if data is None else await asyncio.to_thread(read_definition, data)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        """How far the ledger is; never refused."""
        status, caller = self._absorber.status(), principal()
        return pb.GetStatusResponse(
            position=status.position,
            stream_last=status.stream_last,
            caught_up=status.caught_up,
            rebuilding=status.rebuilding,
            events_per_s=status.events_per_s,
            seconds_left=status.seconds_left,
            file_bytes=self._store.size_bytes,
            projection=VERSION,
            started_ns=self._started_ns,
            verifying=self._verifier.running,
            archived=self._absorber.archived,
            version=version(),
            server_time_ns=self._clock_ns(),
            disk_free_bytes=await asyncio.to_thread(lambda: self._store.disk_free_bytes),
            caller=caller.name,
            role=caller.role,
            tenants=caller.tenants,
        )

    async def VerifyLedger(
        self, request: pb.VerifyLedgerRequest, context: Any
    ) -> AsyncIterator[pb.VerifyLedgerResponse]:
        """Progress, the first differences, and what came of it."""
        most = _differences_max(request.differences_max)
        if self._absorber.catching_up:
            raise _not_whole("verify it")
        told = 0
        try:
            async with aclosing(self._verifier.verify()) as saying:
                async for said in saying:
                    match said:
                        case Progress():
                            yield pb.VerifyLedgerResponse(progress=pb.VerifyProgress(**_said(said, _PROGRESS_FIELDS)))
                        case Difference():
                            told += 1
                            if told <= most:
                                yield pb.VerifyLedgerResponse(
                                    difference=pb.Difference(**_said(said, _DIFFERENCE_FIELDS))
                                )
                        case Result():
                            result = pb.VerifyResult(hash=said.hash.hex(), **_said(said, _RESULT_FIELDS))
                            yield pb.VerifyLedgerResponse(result=result)
        except VerifyBusyError as error:
            raise RpcError(grpc.StatusCode.ABORTED, "VERIFY_RUNNING", str(error)) from error
        except VerifyError as error:
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "VERIFY_IMPOSSIBLE", str(error)) from error
        except ArchiveError as error:
            raise _unusable(error) from error
        except QueryTooSlowError as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUERY_TOO_SLOW", str(error)) from error
        except StoreDamagedError as error:
            self._absorber.condemn(str(error))
            raise _damaged(error) from error

    async def RebuildLedger(self, request: pb.RebuildLedgerRequest, context: Any) -> pb.RebuildLedgerResponse:
        """Condemn the file; whoever started this process starts it again."""
        if len(request.reason) > REASON_CHARACTERS_MAX:
            raise invalid(
                "reason", f"{len(request.reason)} characters are too many: use at most {REASON_CHARACTERS_MAX}"
            )
        if self._absorber.catching_up or self._absorber.condemned.is_set():
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "REBUILD_RUNNING",
                "the file is being made anew, or catches up, already: see GetStatus, and wait until it says caught_up",
            )
        if not self._absorber.connected:
            raise RpcError(
                grpc.StatusCode.UNAVAILABLE,
                "BUS_UNAVAILABLE",
                "the log cannot be reached, and nothing could be rebuilt from it: check the NATS server, then try again",
            )
        if self._archivist is not None:
            with self._copy_errors():
                await self._archivist.check()
        answer = pb.RebuildLedgerResponse(position=self._absorber.position, stream_last=self._absorber.stream_last)
        self._condemn_soon(f"a rebuild was asked for: {request.reason or 'no reason given'}")
        return answer

    def _condemn_soon(self, reason: str) -> None:
        """Condemn the file once the answer is on its way: the service ends with it."""
        asyncio.get_running_loop().call_later(ANSWER_S, self._absorber.condemn, reason)

    async def ArchiveLedger(
        self, request: pb.ArchiveLedgerRequest, context: Any
    ) -> AsyncIterator[pb.ArchiveLedgerResponse]:
        """Progress, and what came of it."""
        if not 0 <= request.older_than_days <= DAYS_MAX:
            raise invalid("older_than_days", f"{request.older_than_days} cannot be used: give 0 to {DAYS_MAX}")
        if self._archivist is None:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "NO_ARCHIVE",
                "this ledger has no archive: set `archive` in its settings to a folder, and start it again",
            )
        if self._absorber.catching_up:
            raise _not_whole("archive it")
        working = self._archivist.work(request.older_than_days, purge=request.purge, dry_run=request.dry_run)
        with self._copy_errors():
            await self._archivist.check()
            async with aclosing(working) as saying:
                async for said in saying:
                    match said:
                        case Outcome():
                            told = pb.ArchiveResult(**_said(said, _ARCHIVED_FIELDS))
                            yield pb.ArchiveLedgerResponse(result=told)
                        case _:
                            yield pb.ArchiveLedgerResponse(
                                progress=pb.ArchiveProgress(phase=said.phase, position=said.position, end=said.end)
                            )

    async def BackupLedger(
        self, request: pb.BackupLedgerRequest, context: Any
    ) -> AsyncIterator[pb.BackupLedgerResponse]:
        """What the copy is, its bytes, and what it is with its digest."""
        _needs_deadline(context)
        with self._copy_errors():
            async with aclosing(self._copies.backup()) as copying:
                async for said in copying:
                    if isinstance(said, bytes):
                        yield pb.BackupLedgerResponse(chunk=said)
                    else:
                        yield pb.BackupLedgerResponse(copy=_copy(said))

    async def RestoreLedger(
        self, request_iterator: AsyncIterator[pb.RestoreLedgerRequest], context: Any
    ) -> pb.RestoreLedgerResponse:
        """Take a file, and condemn the present one; whoever started this process starts it again."""
        _needs_deadline(context)
        parts = aiter(request_iterator)
        first = await anext(parts, None)
        if first is None or first.WhichOneof("part") != "header":
            raise invalid("part", "send the header first, then the file")
        header = first.header
        _matching(_DIGEST, "sha256", header.sha256, "give the SHA-256 of the file as 64 lower-case hex digits")
        if header.size_bytes <= 0:
            raise invalid("size_bytes", f"{header.size_bytes} cannot be the size of a file")
        if len(header.reason) > REASON_CHARACTERS_MAX:
            raise invalid(
                "reason", f"{len(header.reason)} characters are too many: use at most {REASON_CHARACTERS_MAX}"
            )
        with self._copy_errors():
            copied = await self._copies.restore(header.sha256, header.size_bytes, _chunks(parts))
        answer = pb.RestoreLedgerResponse(copy=_copy(copied), stream_last=self._absorber.stream_last)
        self._condemn_soon(f"a restore was asked for: {header.reason or 'no reason given'}")
        return answer

    @contextlib.contextmanager
    def _copy_errors(self) -> Iterator[None]:
        try:
            yield
        except (ArchiveBusyError, CopyBusyError) as error:
            raise RpcError(grpc.StatusCode.ABORTED, "BUSY", str(error)) from error
        except StoreDamagedError as error:
            self._absorber.condemn(str(error))
            raise _damaged(error) from error
        except ArchiveError as error:
            raise _unusable(error) from error
        except StoreError as error:
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "COPY_IMPOSSIBLE", str(error)) from error
        except BusError as error:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "BUS_UNAVAILABLE", str(error)) from error

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Any) -> None:
        """Entries after a position, stored and then live; a message without events says how far the watch has come."""
        run = _optional(_NAME, "run", request.run)
        kinds = tuple(sorted(set(_kinds("kinds", request.kinds))))
        arguments = (run, kinds)
        after = _position("after_position", request.after_position)
        token = _token("WatchEvents", arguments, request.resume_token)
        if token is not None and after:
            raise invalid("after_position", "it says where to begin, and so does resume_token: leave one of them out")

        def feed() -> EventFeed:
            return EventFeed(
                run,
                kinds,
                event=_encoded_event,
                end=lambda position: pb.WatchEventsResponse(
                    position=position, resume_token=token_of("WatchEvents", arguments, [position])
                ).SerializeToString(),
            )

        async def behind(told: int) -> list[Frame]:
            page = await self._read(queries.replay, run=run, after=told)
            return feed().replayed(page.entries, page.position)

        await self._follow(("WatchEvents", arguments), feed(), after if token is None else token, behind, context.write)

    async def WatchRuns(self, request: pb.WatchRunsRequest, context: Any) -> None:
        """Runs that there are, if asked for, then runs as they change."""
        wanted = RunFilter(
            state=_optional(_WORD, "state", request.state),
            repository=_text("repository", request.repository),
            labels=_labels(request.labels),
            tenant=_text("tenant", request.tenant) if request.HasField("tenant") else None,
        )
        arguments = msgspec.structs.astuple(wanted)
        token = _token("WatchRuns", arguments, request.resume_token)
        after = self._absorber.position if token is None else token

        def feed() -> RunFeed:
            return RunFeed(
                wanted,
                change=_encoded_change,
                end=lambda position: pb.WatchRunsResponse(
                    position=position,
                    resume_token=token_of("WatchRuns", arguments, [position]) if position else "",
                ).SerializeToString(),
            )

        async def behind(told: int) -> list[Frame]:
            rows, reached = await self._read(changed_runs, wanted, after=told, limit=RUNS_PER_FRAME)
            return feed().replayed(rows, told, reached)

        async def present() -> AsyncGenerator[bytes, None]:
            place = 0
            while True:
                rows = await self._asked(present_runs, wanted, after=place, limit=RUNS_PER_FRAME)
                for frame in feed().replayed([(row, False) for row in rows], 0, 0):
                    yield frame.data
                if len(rows) < RUNS_PER_FRAME:
                    return
                place = rows[-1].first_position

        beginning = present() if request.include_initial and token is None else None
        await self._follow(("WatchRuns", arguments), feed(), after, behind, context.write, beginning)

    async def _follow(
        self,
        key: tuple[str, object],
        feed: Feed,
        after: int,
        behind: Callable[[int], Awaitable[list[Frame]]],
        write: Callable[[bytes], Awaitable[None]],
        beginning: AsyncGenerator[bytes, None] | None = None,
    ) -> NoReturn:
        """Write what a watch begins with, then everything behind a position, for ever."""
        watching = self._absorber.watching
        told = after
        begun = beginning is None
        try:
            with watching.counted():
                watch = watching.watch()
                if beginning is not None:
                    async with aclosing(beginning) as messages:
                        async for message in messages:
                            await watch.write(write, message)
                    begun = True
                await watching.follow(
                    watch, key, feed, after, behind=behind, write=write, heartbeat_s=self._heartbeat_s
                )
        except (WatchOverflowError, WatchEndedError) as ended:
            if not begun:
                raise _anew(ended) from ended
            told = max(ended.position, told)
            raise _resume(ended, told, token_of(key[0], key[1], [told])) from ended  # type: ignore[arg-type]
        except TooManyWatchesError as error:
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_WATCHES",
                f"{error}: end some, ask another ledger, or raise `watches_max`",
            ) from error

    async def WatchOutput(self, request: pb.WatchOutputRequest, context: Any) -> AsyncIterator[pb.WatchOutputResponse]:
        """Pieces as they are printed, until the caller leaves; an empty one when there was none for a while."""
        run = _matching(_NAME, "run", request.run, "give the run's id")
        workstream = _optional(_NAME, "workstream", request.workstream)
        async with self._live.hear(live_subject(run, workstream or "*")) as heard:
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        subject, data = await heard.get()
                except TimeoutError:
                    yield pb.WatchOutputResponse()
                else:
                    yield pb.WatchOutputResponse(workstream=subject.rpartition(".")[2], chunk=data[:LIVE_BYTES_MAX])

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Any
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """An object in chunks; ends with DATA_LOSS when its bytes are not those of the digest."""
        name = _matching(
            _OBJECT, "name", request.name, f"use the name of an Artifact, 1 to {NAME_CHARACTERS_MAX} characters"
        )
        digest = _matching(
            _DIGEST, "digest", request.digest, "give the SHA-256 of the object as 64 lower-case hex digits"
        )
        seen = hashlib.sha256()
        try:
            reading = self._objects.read(name, limit_bytes=self._artifact_bytes_max)
            async with aclosing(reading) as pieces:  # type: ignore[type-var]  # an async generator, typed as an iterator
                async for piece in pieces:
                    seen.update(piece)
                    for start in range(0, len(piece), CHUNK_BYTES):
                        yield pb.ReadArtifactResponse(chunk=piece[start : start + CHUNK_BYTES])
        except ObjectMissingError as error:
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "ARTIFACT_NOT_FOUND",
                f"{error}: artifacts are collected once no live run refers to them",
                {"name": name},
            ) from error
        except BusUnavailableError as error:
            raise RpcError(
                grpc.StatusCode.UNAVAILABLE, "BUS_UNAVAILABLE", f"{error}; try again", {"name": name}
            ) from error
        except BusError as error:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION, "ARTIFACT_UNREADABLE", str(error), {"name": name}
            ) from error
        if seen.hexdigest() != digest:
            raise RpcError(
                grpc.StatusCode.DATA_LOSS,
                "ARTIFACT_DIGEST_MISMATCH",
                f"the bytes of {name} have the SHA-256 {seen.hexdigest()}, not {digest}: discard what was received",
                {"name": name, "digest": digest, "found": seen.hexdigest()},
            )

    # Audit

    async def VerifyAudit(self, request: pb.VerifyAuditRequest, context: Any) -> AsyncIterator[pb.VerifyAuditResponse]:
        """Progress and the first findings, and what came of it."""
        most = _differences_max(request.findings_max, "findings_max")
        start, end = _position("from_position", request.from_position), _position("to_position", request.to_position)
        if end and start > end:
            raise invalid(
                "to_position", f"{end} is before {start}, where it begins: give a later one, or 0 for the newest"
            )
        anchors = _anchors(request.anchors)
        await self._asked(anchor_at, 0)
        told = 0
        try:
            auditing = self._auditor.audit(start=max(start, 1), end=end, anchors=anchors, with_log=request.with_log)
            async with aclosing(auditing) as saying:
                async for said in saying:
                    match said:
                        case AuditProgress():
                            yield pb.VerifyAuditResponse(progress=pb.AuditProgress(**_said(said, _AUDIT_FIELDS)))
                        case Finding():
                            told += 1
                            if told <= most:
                                yield pb.VerifyAuditResponse(finding=pb.AuditFinding(**_said(said, _FINDING_FIELDS)))
                        case AuditResult():
                            result = pb.AuditResult(hash=said.hash.hex(), **_said(said, _AUDITED_FIELDS))
                            yield pb.VerifyAuditResponse(result=result)
        except AuditBusyError as error:
            raise RpcError(grpc.StatusCode.ABORTED, "AUDIT_RUNNING", str(error)) from error
        except AuditError as error:
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "AUDIT_IMPOSSIBLE", str(error)) from error
        except ArchiveError as error:
            raise _unusable(error) from error
        except QueryTooSlowError as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUERY_TOO_SLOW", str(error)) from error
        except StoreDamagedError as error:
            self._absorber.condemn(str(error))
            raise _damaged(error) from error

    async def GetAnchor(self, request: pb.GetAnchorRequest, context: Any) -> pb.GetAnchorResponse:
        """The hash of a position."""
        position = _position("position", request.position)
        found = await self._asked(anchor_at, position)
        if found is None:
            raise RpcError(
                grpc.StatusCode.NOT_FOUND,
                "NOTHING_RECORDED",
                f"nothing is recorded at position {position or 1}: see how far the ledger is with GetStatus",
                {"position": str(position)},
            )
        anchor, time_ns = found
        return pb.GetAnchorResponse(anchor=pb.Anchor(**msgspec.structs.asdict(anchor)), time_ns=time_ns)

    async def ExportAudit(self, request: pb.ExportAuditRequest, context: Any) -> AsyncIterator[pb.ExportAuditResponse]:
        """Pieces of lines, then how many there were."""
        if request.table not in ("entries", "events", "aim"):
            raise invalid("table", f"{request.table[:80]!r} cannot be exported: use entries, events or aim")
        if request.table == "aim" and request.run:
            raise invalid("run", "AIM audit records are not told by run: leave it empty, and give times")
        wanted = Wanted(
            run=_optional(_NAME, "run", request.run),
            since_ns=_time_ns("since_ns", request.since_ns),
            until_ns=_time_ns("until_ns", request.until_ns),
        )
        if wanted.until_ns and wanted.since_ns >= wanted.until_ns:
            raise invalid("until_ns", "it is not after since_ns: give a later time, or 0 for no limit")
        after, until = await self._asked(export.bounds, wanted)
        rows = 0
        pieces = (
            self._aim_pieces(wanted) if request.table == "aim" else self._pieces(request.table, wanted, after, until)
        )
        async for lines in pieces:
            rows += len(lines)
            for some in _joined(lines):
                yield pb.ExportAuditResponse(lines=some)
        yield pb.ExportAuditResponse(end=pb.ExportEnd(rows=rows, position=until))

    async def _pieces(self, table: str, wanted: Wanted, after: int, until: int) -> AsyncIterator[list[bytes]]:
        lines_of = export.entry_lines if table == "entries" else export.event_lines
        while after < until:
            end = min(after + export.POSITIONS, until)
            for piece in await self._read(export.ranges, after, end):
                yield await self._read(lines_of, wanted, piece)
            after = end

    async def _aim_pieces(self, wanted: Wanted) -> AsyncIterator[list[bytes]]:
        kept_ns = export.kept_since(self._clock_ns(), self._aim_audit_days)
        kept = msgspec.structs.replace(wanted, since_ns=max(wanted.since_ns, kept_ns))
        for day in await self._read(export.aim_days, kept):
            yield await self._read(export.aim_lines, kept, day)

    async def Query(self, request: pb.QueryRequest, context: Any) -> AsyncIterator[pb.QueryResponse]:
        """The answer to a SELECT, part by part."""
        self._require_whole()
        if request.format not in _FORMATS:
            raise invalid("format", f"{request.format} is none: use QUERY_FORMAT_ROWS or QUERY_FORMAT_ARROW")
        answer = self._questions.answer(
            request.sql,
            arrow=request.format == pb.QUERY_FORMAT_ARROW,
            rows_max=request.rows_max,
            min_position=request.min_position,
        )
        async with aclosing(answer) as parts:
            async for part in parts:
                yield _part(part)


# What is asked


def _matching(pattern: re.Pattern[str], field: str, value: str, remedy: str) -> str:
    if not pattern.fullmatch(value):
        raise invalid(field, f"{value[:80]!r} cannot be used: {remedy}")
    return value


def _name(field: str, value: str) -> str:
    return _matching(_NAME, field, value, "use 1 to 128 letters, digits, '-' or '_'")


def _optional(pattern: re.Pattern[str], field: str, value: str) -> str:
    return _matching(pattern, field, value, f"use what matches {pattern.pattern}, or leave it empty") if value else ""


def _number(field: str, value: int) -> int:
    if value < 0:
        raise invalid(field, f"{value} is negative: attempts start at 1, and 0 leaves it open")
    return value


def _position(field: str, value: int) -> int:
    if value < 0:
        raise invalid(field, f"{value} is negative: positions start at 1, and 0 means from the beginning")
    return value


def _anchors(given: Sequence[pb.Anchor]) -> list[Anchor]:
    if len(given) > ANCHORS_MAX:
        raise invalid("anchors", f"{len(given)} are too many: give at most {ANCHORS_MAX} at a time")
    for anchor in given:
        if anchor.position < 1 or len(anchor.hash) != HASH_BYTES:
            raise invalid(
                "anchors",
                f"position {anchor.position} with a hash of {len(anchor.hash)} bytes is none: positions start at 1, and a "
                f"hash has {HASH_BYTES} bytes",
            )
    return [Anchor(one.position, one.hash, one.stream_created_ns) for one in given]


def _time_ns(field: str, value: int) -> int:
    if value < 0:
        raise invalid(field, f"{value} is negative: give nanoseconds since 1970-01-01 UTC, or 0 for no limit")
    return value


def _differences_max(asked: int, field: str = "differences_max") -> int:
    if not 0 <= asked <= DIFFERENCES_MAX:
        raise invalid(field, f"{asked} cannot be used: give 1 to {DIFFERENCES_MAX}, or 0 for 100")
    return asked or 100


def _kinds(field: str, words: Sequence[str]) -> tuple[str, ...]:
    if len(words) > KINDS_MAX:
        raise invalid(field, f"{len(words)} are too many: give at most {KINDS_MAX}, or none for all")
    example = "step_finished" if field == "kinds" else "warning"
    return tuple(_matching(_WORD, field, word, f"use {field} of events such as {example}") for word in words)


def _text(field: str, value: str) -> str:
    """What may be any text, such as a path or a person's name."""
    if len(value) > TEXT_CHARACTERS_MAX:
        raise invalid(field, f"{len(value)} characters are too many: use at most {TEXT_CHARACTERS_MAX}")
    return value


def _labels(labels: Sequence[str]) -> tuple[str, ...]:
    if len(labels) > LABELS_MAX:
        raise invalid("labels", f"{len(labels)} are too many: give at most {LABELS_MAX}")
    for label in labels:
        if not label.partition("=")[0]:
            raise invalid("labels", f"{label[:80]!r} names no label: give key=value, or key for any value")
    return tuple(sorted({_text("labels", label) for label in labels}))


def _check_times(since_ns: int, until_ns: int) -> None:
    for field, value in (("since_ns", since_ns), ("until_ns", until_ns)):
        if value < 0:
            raise invalid(field, f"{value} is negative: give nanoseconds since 1970-01-01 UTC, or 0 to leave it open")
    if until_ns and until_ns < since_ns:
        raise invalid("since_ns", f"since_ns {since_ns} is behind until_ns {until_ns}: exchange them")


def _moment(request: Any) -> Moment | None:
    """The moment that a question is about, None for now."""
    if not request.HasField("as_of"):
        return None
    named = request.as_of.WhichOneof("moment")
    value = getattr(request.as_of, named) if named else 0
    if value < 1:
        raise invalid("as_of", "give a position from 1, or a time in nanoseconds since 1970-01-01 UTC")
    return (value, 0) if named == "position" else (0, value)


def _token(method: str, arguments: tuple[object, ...], token: str) -> int | None:
    """The position in a resume token, None without one."""
    cursor = cursor_of(token, method, arguments, 1, field="resume_token")
    return None if cursor is None else max(cursor[0], 0)


def _positioned(query: Callable[..., T]) -> Callable[..., tuple[T, int]]:
    """The same query, and the position that its answer reflects."""

    def asked(snapshot: Snapshot, *arguments: Any, **named: Any) -> tuple[T, int]:
        return query(snapshot, *arguments, **named), snapshot.tip.position

    return asked


# What is answered


def _fitting(messages: Iterable[Message], size: int) -> list[Message]:
    """The first `size` messages or fewer, so that they fit an answer; at least one, if there is one."""
    fitting: list[Message] = []
    total_bytes = 0
    for message in messages:
        total_bytes += message.ByteSize()
        if len(fitting) == size or (fitting and total_bytes > ANSWER_BYTES):
            break
        fitting.append(message)
    return fitting


def _joined(lines: Iterable[bytes]) -> Iterable[bytes]:
    """Lines with their line feeds, in pieces of about CHUNK_BYTES."""
    some: list[bytes] = []
    held_bytes = 0
    for line in lines:
        some.append(line + b"\n")
        held_bytes += len(some[-1])
        if held_bytes >= CHUNK_BYTES:
            yield b"".join(some)
            some, held_bytes = [], 0
    if some:
        yield b"".join(some)


def _run(row: RunRow) -> pb.Run:
    return pb.Run(labels=_label_map.decode(row.labels), **_said(row, _RUN_FIELDS))


def _workstream(row: WorkstreamRow) -> pb.Workstream:
    return pb.Workstream(steps_executed=_names.decode(row.steps_executed), **_said(row, _WORKSTREAM_FIELDS))


def _attempt(row: AttemptRow) -> pb.Attempt:
    artifacts = [
        pb.Artifact(role=artifact.role, digest=artifact.digest, name=artifact.name, size_bytes=artifact.size_bytes)
        for artifact in _artifacts.decode(row.artifacts)
    ]
    return pb.Attempt(files=_names.decode(row.files), artifacts=artifacts, **_said(row, _ATTEMPT_FIELDS))


def _patch(row: PatchRow) -> pb.Patch:
    return pb.Patch(files=_names.decode(row.files), **_said(row, _PATCH_FIELDS))


def _selection(asked: pb.Selection) -> Selection:
    tenant = asked.tenant if asked.HasField("tenant") else None
    return Selection(labels=dict(asked.labels), tenant=tenant, **_said(asked, _SELECTION_FIELDS))


def _costs(costs: Costs) -> pb.Costs:
    return pb.Costs(**_said(costs, _fields(pb.Costs)))


def _told(value: msgspec.Struct, message: Any) -> Any:
    """The message with the fields of a struct."""
    return message(**msgspec.structs.asdict(value))


def _figures(figures: Figures) -> dict[str, Any]:
    """What the fields of GetMetricsResponse hold, but for the recommendations."""
    lists = {name: [_told(one, message) for one in getattr(figures, name)] for name, message in _FIGURE_LISTS.items()}
    budget = None if figures.budget is None else _told(figures.budget, pb.BudgetFigures)
    return {**_said(figures, _FIGURE_FIELDS), **lists, "budget": budget, "costs": _costs(figures.costs)}


def _event(record: EventRecord) -> pb.Event:
    return pb.Event(
        position=record.position,
        index=record.idx,
        kind=record.kind,
        run=record.run,
        workstream=record.workstream,
        attempt=record.attempt,
        time_ns=record.time_ns,
        by=record.by,
        payload_json=record.payload,
        entry=record.entry,
        cause=record.cause,
        tool=record.tool,
        severity=record.severity,
    )


def _encoded_event(record: EventRecord) -> bytes:
    """As part of a WatchEventsResponse: encoded messages that stand behind each other are one message."""
    return pb.WatchEventsResponse(events=[_event(record)]).SerializeToString()


def _encoded_change(row: RunRow, left: bool) -> bytes:
    """As part of a WatchRunsResponse."""
    return pb.WatchRunsResponse(changes=[pb.RunChange(run=_run(row), left=left)]).SerializeToString()


def _part(part: Part) -> pb.QueryResponse:
    match part:
        case Beginning():
            columns = [pb.QueryColumn(name=column.name, type=column.type) for column in part.columns]
            return pb.QueryResponse(header=pb.QueryHeader(columns=columns, position=part.position, age_s=part.age_s))
        case Rows():
            values = [
                pb.QueryValues(nulls=column.nulls, **{column.kind: _VALUES[column.kind](values=column.values)})
                for column in part.columns
            ]
            return pb.QueryResponse(rows=pb.QueryRows(count=part.count, columns=values))
        case Ending():
            return pb.QueryResponse(end=pb.QueryEnd(rows=part.rows, wall_s=part.wall_s))
        case bytes():
            return pb.QueryResponse(arrow=part)
        case _:
            assert_never(part)


_FORMATS = frozenset({pb.QUERY_FORMAT_UNSPECIFIED, pb.QUERY_FORMAT_ROWS, pb.QUERY_FORMAT_ARROW})
_VALUES: dict[str, Any] = {
    "integers": pb.QueryIntegers,
    "doubles": pb.QueryDoubles,
    "booleans": pb.QueryBooleans,
    "texts": pb.QueryTexts,
    "blobs": pb.QueryBlobs,
}


def _fields(message: Any, *composed: str) -> tuple[str, ...]:
    """The fields that a row has under the same name."""
    return tuple(field.name for field in message.DESCRIPTOR.fields if field.name not in composed)


def _said(value: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """What a message's fields hold."""
    return {name: getattr(value, name) for name in fields}


_RUN_FIELDS = _fields(pb.Run, "labels")
_TRANSITION_FIELDS = _fields(pb.Transition, "index")
_FAILURE_FIELDS = _fields(pb.Failure)
_WAIT_FIELDS = _fields(pb.Wait)
_WORKSTREAM_FIELDS = _fields(pb.Workstream, "steps_executed")
_ATTEMPT_FIELDS = _fields(pb.Attempt, "files", "artifacts")
_EXECUTOR_FIELDS = _fields(pb.Executor)
_BREAKER_FIELDS = _fields(pb.ToolBreaker)
_PAUSE_FIELDS = _fields(pb.Pause)
_PATCH_FIELDS = _fields(pb.Patch, "files")
_WAVE_FIELDS = _fields(pb.Wave)
_MOVE_FIELDS = _fields(pb.PatchMove, "index")
_SELECTION_FIELDS = _fields(pb.Selection, "labels", "tenant")
_ADVICE_FIELDS = _fields(pb.Recommendation, "evidence")
_FIGURE_LISTS = {
    "tools": pb.ToolFigures,
    "durations": pb.Durations,
    "queue_waits": pb.Durations,
    "critical_path": pb.CriticalLink,
    **dict.fromkeys(("fix_attempts", "breaker_trips", "errors", "recoveries", "flaky_gates", "contexts"), pb.Count),
}
_FIGURE_FIELDS = _fields(pb.GetMetricsResponse, *_FIGURE_LISTS, "recommendations", "budget", "costs")
_PROGRESS_FIELDS = _fields(pb.VerifyProgress)
_DIFFERENCE_FIELDS = _fields(pb.Difference)
_RESULT_FIELDS = _fields(pb.VerifyResult, "hash")
_ARCHIVED_FIELDS = _fields(pb.ArchiveResult)
_COPY_FIELDS = _fields(pb.LedgerCopy, "hash")
_AUDIT_FIELDS = _fields(pb.AuditProgress)
_FINDING_FIELDS = _fields(pb.AuditFinding)
_AUDITED_FIELDS = _fields(pb.AuditResult, "hash")


def _no_run(run: str) -> RpcError:
    return RpcError(
        grpc.StatusCode.NOT_FOUND,
        "RUN_NOT_FOUND",
        f"no run {run} is recorded: check the id with ListRuns; a run just submitted appears within moments",
        {"run": run},
    )


def _copy(copied: Copied) -> pb.LedgerCopy:
    return pb.LedgerCopy(hash=copied.hash.hex(), **_said(copied, _COPY_FIELDS))


async def _chunks(parts: AsyncIterator[pb.RestoreLedgerRequest]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part.chunk


def _needs_deadline(context: Any) -> None:
    """There is one copy at a time: a caller that stops reading or sending must not hold up the others for ever."""
    if context.time_remaining() is None:
        raise RpcError(
            grpc.StatusCode.INVALID_ARGUMENT, "DEADLINE_REQUIRED", "say how long the call may take: set its deadline"
        )


def _not_whole(what: str) -> RpcError:
    return RpcError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "LEDGER_BEHIND",
        f"the ledger is not whole yet: {what} once GetStatus says caught_up",
    )


def _unusable(error: ArchiveError) -> RpcError:
    return RpcError(grpc.StatusCode.DATA_LOSS, "ARCHIVE_UNUSABLE", str(error))


def _damaged(error: Exception) -> RpcError:
    return RpcError(
        grpc.StatusCode.UNAVAILABLE,
        "LEDGER_DAMAGED",
        f"{error}; it ends now and is rebuilt when it is started again, by itself under a supervisor",
    )


def _resume(ended: Exception, told: int, token: str) -> RpcError:
    return RpcError(
        *_ended_watch(ended),
        f"{ended}: watch again with resume_token {token}, which is behind position {told}",
        {"after_position": str(told), "resume_token": token},
    )


def _anew(ended: Exception) -> RpcError:
    """A token goes on behind a position, and would leave out the rest of the beginning."""
    return RpcError(
        *_ended_watch(ended),
        f"{ended}, before it had told its beginning: watch again from the beginning",
        {"after_position": "0", "resume_token": ""},
    )


def _ended_watch(ended: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(ended, WatchOverflowError):
        return grpc.StatusCode.ABORTED, "WATCH_OVERFLOW"
    return grpc.StatusCode.UNAVAILABLE, "WATCH_ENDED"


__all__ = ["SERVICE", "LedgerServer", "Objects"]
