"""Requests on their way into the log, and their answers on the way back.

A request is appended to the request subject of its run (or of the fleet) and answered by an event of the scheduler that
leads, which need not be this one. A `request_id` that was answered is not asked again: its first answer stands.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import aclosing

import grpc
import msgspec
import structlog

from services.bus import Bus, BusUnavailableError, RefusedError
from services.events import (
    AccessRefused,
    AnyEvent,
    BudgetRequested,
    CancelRequested,
    DeliveryRequested,
    PauseRequested,
    RecoveryChosen,
    RecoveryRequested,
    RequestAnswered,
    ResumeRequested,
    ReviewRequested,
    RollbackRequested,
    RunRequested,
    StepRequested,
)
from services.rpc import RpcError, caller, invalid
from services.scheduler.shell import Shell
from services.scheduler.submission import REQUEST_ID, RUN_ID
from services.telemetry import about
from services.wire import Entry, WireError, all_of_run, decode_entry, encode_entry, request_subject, run_subject

log = structlog.get_logger()

FLEET = "fleet"
FOLD_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
"""How long an answer is waited for: below what the front door waits for a call."""
COLLISIONS_MAX = 20

Request = (
    CancelRequested
    | StepRequested
    | PauseRequested
    | ResumeRequested
    | ReviewRequested
    | RecoveryRequested
    | RollbackRequested
    | DeliveryRequested
    | BudgetRequested
)


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no refusal: where its request stands (0: it was known already), and what was said to it."""

    position: int = 0
    text: str = ""


class Requests:
    """The requests of one server."""

    def __init__(self, bus: Bus, shell: Shell) -> None:
        """`shell` tells what has been folded."""
        self._bus = bus
        self._shell = shell

    async def first(self, run: str, event: RunRequested) -> int:
        """The request stands first on its subject, or this very request stands there already; its position.

        It is the same when the same caller asks for the same tenant: what another's request made is not told.
        """
        try:
            return await self._append(run, [event], expect=0)
        except RefusedError as refused:
            position = await self._position_of(run, event)
            if position is not None:
                return position
            raise RpcError(
                grpc.StatusCode.ALREADY_EXISTS,
                "RUN_EXISTS",
                f"run {run} exists already: choose another id, or none",
                {"run": run},
            ) from refused

    async def _position_of(self, run: str, event: RunRequested) -> int | None:
        """Where the request stands that made the run, if it is this one."""
        try:
            first = await self._bus.next(request_subject(run))
        except BusUnavailableError as error:
            raise unavailable(error) from error
        if first is None:
            return None
        try:
            events = decode_entry(first.data).events
        except WireError:
            return None
        asked = (event.request_id, event.actor, event.tenant)
        for known in events:
            if isinstance(known, RunRequested) and (known.request_id, known.actor, known.tenant) == asked:
                return first.sequence
        return None

    async def add(self, run: str, event: Request) -> int:
        """Append a request; somebody else's, between our look and our append, only means looking again."""
        return await self._behind(run, [event])

    async def refused(self, refusals: Sequence[AccessRefused]) -> int:
        """Append who was not let in, to what the fleet was asked."""
        return await self._behind(FLEET, refusals)

    async def _behind(self, run: str, events: Sequence[AnyEvent]) -> int:
        for _ in range(COLLISIONS_MAX):
            try:
                last = await self._bus.last(request_subject(run))
            except BusUnavailableError as error:
                raise unavailable(error) from error
            try:
                return await self._append(run, events, expect=last.sequence if last is not None else 0)
            except RefusedError:
                continue
        raise RpcError(grpc.StatusCode.ABORTED, "TOO_MANY_REQUESTS", f"run {run} is asked too much at once: try again")

    async def answered(self, run: str, event: Request) -> Answered:
        """Append a request unless it was answered before; the answer. Raises RpcError for a refusal and for silence."""
        check_request_id(event.request_id)
        known = await self.answer(run, event.request_id)
        if known is not None:
            return known
        position = await self.add(run, event)
        said = await self._shell.answer(run, event.request_id, ANSWER_TIMEOUT_S)
        if said is None:
            raise _silent(run)
        return Answered(position=position, text=_accepted(run, said))

    async def answer(self, run: str, request_id: str) -> Answered | None:
        """The answer to a request that was made before; None when there is none. Raises RpcError for a refusal."""
        said = await self._shell.answer(run, request_id, 0.0)
        return None if said is None else Answered(text=_accepted(run, said))

    async def recovered(self, run: str, event: RecoveryRequested) -> tuple[Answered, RecoveryChosen]:
        """Ask for a recovery; the answer, and what was chosen. Raises RpcError for a refusal and for silence."""
        known = await self.answer(run, event.request_id)
        position = 0 if known is not None else await self.add(run, event)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                said, choice = await self._choice(run, event, max(position - 1, 0))
        except TimeoutError as error:
            raise _silent(run) from error
        return Answered(position=position, text=_accepted(run, said)), choice

    async def _choice(self, run: str, request: RecoveryRequested, after: int) -> tuple[RequestAnswered, RecoveryChosen]:
        """The entry of the scheduler that answers, from behind a position on: choice and answer stand in it together."""
        async with aclosing(self._bus.follow(after, subject=run_subject(run))) as batches:  # type: ignore[type-var]
            async for batch in batches:
                for recorded in batch:
                    try:
                        events = decode_entry(recorded.data).events
                    except WireError:
                        continue
                    said = next(
                        (e for e in events if isinstance(e, RequestAnswered) and e.request_id == request.request_id),
                        None,
                    )
                    if said is None:
                        continue
                    _accepted(run, said)
                    for chosen in events:
                        if isinstance(chosen, RecoveryChosen) and chosen.workstream == request.workstream:
                            return said, chosen
                    raise RpcError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        "REFUSED",
                        said.reason or f"nothing of {request.workstream} is to be recovered from",
                        {"run": run},
                    )
        raise _silent(run)

    async def live(self, run: str, request_id: str, *, unless_answered: bool = False) -> None:
        """Raise RpcError unless the run exists and goes on, as far as the log tells by now.

        With `unless_answered`, a request that was answered while the run went on is let through, to get that answer again.
        """
        await self.known(run, request_id)
        if unless_answered and await self._shell.answer(run, request_id, 0.0) is not None:
            return
        if run in self._shell.over:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "RUN_IS_OVER",
                f"run {run} has ended already: {self._shell.over[run].finished.state}",
                {"run": run},
            )

    async def known(self, run: str, request_id: str | None = None) -> None:
        """Raise RpcError unless the run exists, as far as the log tells by now; and for a `request_id` that is none."""
        if not RUN_ID.match(run):
            raise invalid("run", f"{run[:80]!r} is no run id")
        if request_id is not None:
            check_request_id(request_id)
        if run not in self._shell.runs and run not in self._shell.over:
            try:
                last = await self._bus.last(all_of_run(run))
            except BusUnavailableError as error:
                raise unavailable(error) from error
            if last is not None:
                await self._shell.folded(last.sequence, FOLD_TIMEOUT_S)
        if run not in self._shell.runs and run not in self._shell.over:
            raise no_run(run)

    async def _append(self, run: str, events: Sequence[AnyEvent], *, expect: int) -> int:
        entry = Entry(
            id=uuid.uuid4().hex,
            run=run,
            at_ns=time.time_ns(),
            by="client",
            events=list(events),
            seen=self._shell.position,
            trace=caller(),
        )
        try:
            data = encode_entry(entry)
        except WireError as error:
            raise invalid("request", f"cannot be recorded: {error}") from error
        try:
            position = await self._bus.append(request_subject(run), data, expect=expect)
        except BusUnavailableError as error:
            raise unavailable(error) from error
        with about(run=run):
            log.info("scheduler.requested", request=type(events[0]).__struct_config__.tag, position=position)
        return position


def no_run(run: str) -> RpcError:
    """The error for a run that does not exist, as far as the caller may know."""
    return RpcError(
        grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", f"there is no run {run}: `swell list` shows them", {"run": run}
    )


def check_request_id(request_id: str) -> None:
    """Raise RpcError unless this can identify a request."""
    if not REQUEST_ID.match(request_id):
        raise invalid("request_id", "give a fresh UUID of 8 to 64 letters, digits, '-' or '_'")


def unavailable(error: BusUnavailableError) -> RpcError:
    """The error for a bus that does not answer."""
    return RpcError(grpc.StatusCode.UNAVAILABLE, "BUS_UNAVAILABLE", str(error))


def _accepted(run: str, said: RequestAnswered) -> str:
    """What was said to a request that was not refused."""
    if said.answer == "refused":
        raise RpcError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "REFUSED",
            said.reason or f"run {run} refused it without a reason",
            {"run": run},
        )
    return said.reason


def _silent(run: str) -> RpcError:
    return RpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "NOT_ANSWERED_YET",
        f"the request to {run} is recorded, but no scheduler has answered it for {ANSWER_TIMEOUT_S:g} s: "
        "it is answered once one leads; see the health of the scheduler, and ask again",
        {"run": run},
    )
