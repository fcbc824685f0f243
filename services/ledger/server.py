"""LedgerService over gRPC: checks what is asked, reads the store in threads, and is the only place that knows its stubs.

Watching delivers from the projection's commits: what a watcher saw, a list shows. A watch replays the store until it is
level with the absorber and joins the live commits in that same instant, so nothing is missing and nothing comes twice.
"""

# ruff: noqa: N802, ARG002 - the names and arguments of the methods are those of the generated base class
import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol, TypeVar

import grpc
import msgspec

from services import events
from services.bus import BusError, BusUnavailableError, ObjectMissingError
from services.ledger import export, queries
from services.ledger.absorb import Absorber, WatchEndedError, WatchOverflowError
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
from services.ledger.export import Wanted
from services.ledger.pages import cursor_of, page_size, token_of
from services.ledger.patches import PatchRow
from services.ledger.projector import VERSION, AttemptRow, RunRow, WorkstreamRow
from services.ledger.queries import EntryEvents, EventRecord
from services.ledger.segment import ArchiveBusyError, ArchiveError
from services.ledger.store import QueryTooSlowError, Store, StoreDamagedError, StoreError
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.v1 import ledger_pb2_grpc
from services.ledger.verify import Difference, Progress, Result, Verifier, VerifyBusyError, VerifyError
from services.rpc import RpcError, invalid
from services.wire import live_subject

SERVICE = str(pb.DESCRIPTOR.services_by_name["LedgerService"].full_name)

CHUNK_BYTES = 1024 * 1024
# An answer stays well below the 4 MiB that clients take by default; one row may be large, so pages are cut by size as well.
ANSWER_BYTES = 3 * 1024 * 1024
KINDS_MAX = 64
DIFFERENCES_MAX = 1000
DAYS_MAX = 36_500
ANCHORS_MAX = 1000
HASH_BYTES = 32
REASON_CHARACTERS_MAX = 500
LIVE_BYTES_MAX = 64 * 1024
NAME_CHARACTERS_MAX = 512

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_WORD = re.compile(r"[a-z0-9_]{1,64}")
_OBJECT = re.compile(rf"[!-~]{{1,{NAME_CHARACTERS_MAX}}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_names = msgspec.json.Decoder(list[str])
_labels = msgspec.json.Decoder(dict[str, str])
_artifacts = msgspec.json.Decoder(list[events.Artifact])

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
    """

    def __init__(
        self,
        store: Store,
        absorber: Absorber,
        objects: Objects,
        live: LiveOutput,
        verifier: Verifier,
        auditor: Auditor,
        *,
        archivist: Archivist | None = None,
        copies: Copies | None = None,
        heartbeat_s: float = 15.0,
        artifact_bytes_max: int = 1024**3,
        aim_audit_days: int = 30,
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
        self._started_ns = started_ns
        self._heartbeat_s = heartbeat_s
        self._artifact_bytes_max = artifact_bytes_max

    async def _asked(self, query: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The answer of a query over tables that are whole."""
        if self._absorber.catching_up:
            status = self._absorber.status()
            left = f"; about {status.seconds_left:.0f} s are left" if status.seconds_left >= 0 else ""
            raise RpcError(
                grpc.StatusCode.UNAVAILABLE,
                "LEDGER_BEHIND",
                f"the ledger {'is being rebuilt' if status.rebuilding else 'catches up'}: it is at position "
                f"{status.position} of {status.stream_last}{left}; try again then",
                {"position": str(status.position), "stream_last": str(status.stream_last)},
            )
        return await self._read(query, *arguments, **named)

    async def _read(self, query: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The answer of a query, read in a thread."""
        try:
            return await asyncio.to_thread(query, self._store, *arguments, **named)
        except QueryTooSlowError as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUERY_TOO_SLOW", str(error)) from error
        except StoreDamagedError as error:
            self._absorber.condemn(str(error))
            raise _damaged(error) from error

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        """One run, and the position the answer reflects."""
        run = _name("run", request.run)
        found = await self._asked(queries.get_run, run)
        if found is None:
            raise _no_run(run)
        row, position = found
        return pb.GetRunResponse(run=_run(row), position=position)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        """A page of runs, newest first."""
        state = _optional(_WORD, "state", request.state)
        size = page_size(request.page_size, 50)
        cursor = cursor_of(request.page_token, "ListRuns", (state,), 1)
        rows = await self._asked(queries.list_runs, state=state, before=cursor[0] if cursor else None, limit=size + 1)
        runs = _fitting((_run(row) for row in rows), size)
        token = token_of("ListRuns", (state,), [rows[len(runs) - 1].first_position]) if len(runs) < len(rows) else ""
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    async def ListWorkstreams(self, request: pb.ListWorkstreamsRequest, context: Any) -> pb.ListWorkstreamsResponse:
        """A page of a run's workstreams, in the order in which they were first mentioned."""
        run = _name("run", request.run)
        state = _optional(_WORD, "state", request.state)
        size = page_size(request.page_size, 100)
        cursor = cursor_of(request.page_token, "ListWorkstreams", (run, state), 1)
        found = await self._asked(
            queries.list_workstreams,
            run,
            state=state,
            after=cursor[0] if cursor else None,
            limit=size + 1,
        )
        if found is None:
            raise _no_run(run)
        rows, position = found
        page = _fitting((_workstream(row) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            token = token_of("ListWorkstreams", (run, state), [rows[len(page) - 1].ordinal])
        return pb.ListWorkstreamsResponse(workstreams=page, next_page_token=token, position=position)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        """A page of a run's attempts in the order they were scheduled."""
        run = _name("run", request.run)
        workstream = _optional(_NAME, "workstream", request.workstream)
        size = page_size(request.page_size, 100)
        cursor = cursor_of(request.page_token, "ListAttempts", (run, workstream), 2) or [0, -1]
        rows = await self._asked(
            queries.list_attempts,
            run,
            workstream=workstream,
            after=(cursor[0], cursor[1]),
            limit=size + 1,
        )
        if rows is None:
            raise _no_run(run)
        page = _fitting((_attempt(row) for row in rows), size)
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = token_of("ListAttempts", (run, workstream), [last.scheduled_position, last.scheduled_idx])
        return pb.ListAttemptsResponse(attempts=page, next_page_token=token)

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:
        """A page of events."""
        run = _optional(_NAME, "run", request.run)
        workstream = _optional(_NAME, "workstream", request.workstream)
        kinds = _kinds(request.kinds)
        after = _position("after_position", request.after_position)
        size = page_size(request.page_size, 100)
        arguments = (run, workstream, kinds, after, request.newest_first)
        cursor = cursor_of(request.page_token, "ListEvents", arguments, 2)
        rows = await self._asked(
            queries.list_events,
            run=run,
            workstream=workstream,
            kinds=kinds,
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

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        """How far the ledger is; never refused."""
        status = self._absorber.status()
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
        answer = pb.RebuildLedgerResponse(position=self._absorber.position, stream_last=self._absorber.stream_last)
        self._absorber.condemn(f"a rebuild was asked for: {request.reason or 'no reason given'}")
        return answer

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
        self._absorber.condemn(f"a restore was asked for: {header.reason or 'no reason given'}")
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
        except StoreError as error:
            reason = "ARCHIVE_UNUSABLE" if isinstance(error, ArchiveError) else "COPY_IMPOSSIBLE"
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, reason, str(error)) from error
        except BusError as error:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "BUS_UNAVAILABLE", str(error)) from error

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Any) -> AsyncIterator[pb.WatchEventsResponse]:
        """Entries after a position, stored and then live; a message without events says how far the watch has come."""
        run = _optional(_NAME, "run", request.run)
        delivered = _position("after_position", request.after_position)
        while delivered < self._absorber.position:
            page = await self._read(queries.replay, run=run, after=delivered)
            for entry in page.entries:
                yield _entry(entry)
            delivered = page.position
        with self._absorber.watch(run, delivered) as watch:
            yield pb.WatchEventsResponse(position=delivered)
            while True:
                try:
                    entries = await watch.take(self._heartbeat_s)
                except (WatchOverflowError, WatchEndedError) as ended:
                    raise _resume(ended, delivered) from ended
                if not entries:
                    delivered = max(delivered, self._absorber.position)
                    yield pb.WatchEventsResponse(position=delivered)
                for entry in entries:
                    yield _entry(entry)
                    delivered = entry.position

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


def _kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    if len(kinds) > KINDS_MAX:
        raise invalid("kinds", f"{len(kinds)} are too many: give at most {KINDS_MAX}, or none for all")
    return tuple(_matching(_WORD, "kinds", kind, "use kinds of events such as step_finished") for kind in kinds)


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
    return pb.Run(labels=_labels.decode(row.labels), **_said(row, _RUN_FIELDS))


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
    )


def _entry(entry: EntryEvents) -> pb.WatchEventsResponse:
    return pb.WatchEventsResponse(events=[_event(record) for record in entry.events], position=entry.position)


def _fields(message: Any, *composed: str) -> tuple[str, ...]:
    """The fields that a row has under the same name."""
    return tuple(field.name for field in message.DESCRIPTOR.fields if field.name not in composed)


def _said(value: msgspec.Struct, fields: tuple[str, ...]) -> dict[str, Any]:
    """What a message's fields hold."""
    return {name: getattr(value, name) for name in fields}


_RUN_FIELDS = _fields(pb.Run, "labels")
_WORKSTREAM_FIELDS = _fields(pb.Workstream, "steps_executed")
_ATTEMPT_FIELDS = _fields(pb.Attempt, "files", "artifacts")
_EXECUTOR_FIELDS = _fields(pb.Executor)
_BREAKER_FIELDS = _fields(pb.ToolBreaker)
_PAUSE_FIELDS = _fields(pb.Pause)
_PATCH_FIELDS = _fields(pb.Patch, "files")
_WAVE_FIELDS = _fields(pb.Wave)
_MOVE_FIELDS = _fields(pb.PatchMove, "index")
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


def _damaged(error: Exception) -> RpcError:
    return RpcError(
        grpc.StatusCode.UNAVAILABLE,
        "LEDGER_DAMAGED",
        f"{error}; it ends now and is rebuilt when it is started again, by itself under a supervisor",
    )


def _resume(ended: Exception, delivered: int) -> RpcError:
    code, reason = (
        (grpc.StatusCode.ABORTED, "WATCH_OVERFLOW")
        if isinstance(ended, WatchOverflowError)
        else (grpc.StatusCode.UNAVAILABLE, "WATCH_ENDED")
    )
    return RpcError(
        code, reason, f"{ended}: watch again with after_position {delivered}", {"after_position": str(delivered)}
    )


__all__ = ["SERVICE", "LedgerServer", "Objects"]
