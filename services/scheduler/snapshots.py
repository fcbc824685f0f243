"""Fold snapshots: the folded state at one position of the log, so that a start folds only what came after it.

    freeze(state) → bytes → an object, and a key that names it        every few thousand entries, by the leader
    key → object → thaw → the shell's state, then follow from there   at a start

A snapshot is disposable: one that is missing, damaged, or made by other code is ignored, and the log is folded from its
beginning. One that does not belong to the log is a different matter: a position ahead of the stream, another stream, or
another entry at the position means that the log is not what it was, and that stops the start with a remedy.

Snapshots are recognised by the source of everything that folds, so no change of it can meet an older state.
"""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from services import beats, events, outcome, spec
from services.artifacts import Artifacts
from services.bus import SNAPSHOTS, Bus, BusError, BusUnavailableError
from services.events import Artifact, RequestAnswered
from services.scheduler import bisection, breaker, budget, fleet, grants, rates, recovery, routing, state
from services.scheduler.fleet import Fleet
from services.scheduler.state import Over, RunState
from services.spec import Definitions, decode_spec
from services.wire import WireError, decode_envelope

log = structlog.get_logger()

KEY = "scheduler"
PAUSE_S = 10.0
"""At least so long from one snapshot to the next: writing one takes the time of the loop that decides."""

SPECS_AT_ONCE = 8


class SnapshotMismatchError(BusError):
    """The log is not the one that the snapshot was taken from; the text says what to do."""


class Folded(msgspec.Struct, kw_only=True):
    """What a scheduler has folded. `answers` are the newest, in order."""

    runs: dict[str, RunState]
    over: dict[str, Over]
    fleet: Fleet
    answers: list[tuple[str, str, RequestAnswered]]


class Pointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which object holds the newest snapshot, and what it is a snapshot of."""

    code: str
    object: Artifact
    position: int
    time_ns: int
    entry: str
    stream_created_ns: int


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that belongs to the log, ready to go on from."""

    folded: Folded
    position: int
    time_ns: int


def _code() -> str:
    """A digest of everything that decides what a state means."""
    digest = hashlib.sha256()
    for module in (
        events,
        beats,
        outcome,
        spec,
        bisection,
        breaker,
        budget,
        rates,
        grants,
        recovery,
        routing,
        fleet,
        state,
    ):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def freeze(folded: Folded) -> bytes:
    """A state as bytes. What is derived from a run's definition is left out: the definition is an artifact."""
    return msgspec.msgpack.encode(folded, enc_hook=_nothing)


def thaw(data: bytes) -> Folded:
    """The state that was frozen, without definitions. Raises ValueError when the bytes are not one."""
    try:
        folded = msgspec.msgpack.decode(data, type=Folded, dec_hook=_refuse)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ValueError(f"not a fold snapshot: {error}") from error
    for run in folded.runs.values():
        _relink(run)
    return folded


def _nothing(value: Any) -> None:
    if not isinstance(value, Definitions):
        raise NotImplementedError(f"{type(value).__name__} cannot be part of a fold snapshot")


def _refuse(kind: type, _value: Any) -> Any:
    raise ValueError(f"a fold snapshot holds no {kind.__name__}")


def _relink(run: RunState) -> None:
    """An open attempt is one value, however many lists it stands in."""
    attempts = [workstream.open for workstream in run.workstreams.values()]
    attempts.append(run.line.open if run.line is not None else None)
    for attempt in attempts:
        if attempt is None:
            continue
        key = (attempt.scheduled.workstream, attempt.scheduled.attempt)
        if key in run.open:
            run.open[key] = attempt
        if key in run.unclaimed:
            run.unclaimed[key] = attempt


class Snapshots:
    """Keeps the newest snapshot of a scheduler's fold on the bus.

    `time_ns` is the log time of the newest one that was written or restored here, 0 for none.
    """

    def __init__(self, bus: Bus, artifacts: Artifacts, *, entries: int) -> None:
        """A snapshot is due every `entries` entries; 0 makes none, and removes the one that is there."""
        self._bus = bus
        self._artifacts = artifacts
        self._entries = entries
        self._code = _code()
        self._position = 0
        self.time_ns = 0
        self._not_before = 0.0
        self._writing: asyncio.Task[None] | None = None

    async def restore(self) -> Restored | None:
        """The newest snapshot, or None when there is none that can be used.

        Raises SnapshotMismatchError, BusUnavailableError.
        """
        recorded = await self._bus.get_key(SNAPSHOTS, KEY)
        if recorded is None or not recorded.data:
            return None
        try:
            pointer = msgspec.json.decode(recorded.data, type=Pointer)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            log.warning("scheduler.snapshot_ignored", reason=str(error))
            return None
        if self._entries == 0:
            await self._bus.put_key(SNAPSHOTS, KEY, b"")
            await self._bus.objects.delete(pointer.object.name)
            return None
        await self._verify(pointer)
        if pointer.code != self._code:
            log.info("scheduler.snapshot_ignored", reason="it was made by other code", position=pointer.position)
            return None
        try:
            folded = thaw(await self._artifacts.get(pointer.object))
            await self._define(folded)
        except BusUnavailableError:
            raise
        except (BusError, ValueError) as error:
            log.warning("scheduler.snapshot_ignored", reason=str(error), position=pointer.position)
            return None
        self._position, self.time_ns = pointer.position, pointer.time_ns
        return Restored(folded=folded, position=pointer.position, time_ns=pointer.time_ns)

    async def _verify(self, pointer: Pointer) -> None:
        """The log still is what it was when the snapshot was made."""
        identity = await self._bus.identity()
        problem = ""
        if identity.created_ns != pointer.stream_created_ns:
            problem = "the log is another one"
        elif pointer.position > identity.last:
            problem = f"it was made at position {pointer.position}, and the log ends at {identity.last}"
        elif pointer.position >= identity.first:
            recorded = await self._bus.read(pointer.position)  # None: it is archived, and left the stream with its run
            if recorded is not None and id_of(recorded.data) != pointer.entry:
                problem = f"the log has another entry at position {pointer.position}"
        if problem:
            raise SnapshotMismatchError(
                f"the fold snapshot does not belong to the log: {problem}. If entries were lost, restore the log from "
                "its backup. If the log was replaced on purpose, start once with fold_snapshot_entries = 0: that "
                "removes the snapshot"
            )

    async def _define(self, folded: Folded) -> None:
        """Fetch the definitions of live runs. Raises BusError, ValueError."""
        limit = asyncio.Semaphore(SPECS_AT_ONCE)

        async def define(run: RunState) -> None:
            if run.spec is not None and run.workstreams:
                async with limit:
                    data = await self._artifacts.get(run.spec, keep=True)
                run.definitions = Definitions(decode_spec(data))

        await asyncio.gather(*(define(run) for run in folded.runs.values()))

    def soon(self, position: int, time_ns: int, entry: str, folded: Folded) -> None:
        """Write a snapshot behind everybody's back, if one is due and none is being written.

        `entry` is the id of the entry at `position`. The state is frozen at once; later changes do not enter it.
        """
        if self._entries == 0 or position - self._position < self._entries or time.monotonic() < self._not_before:
            return
        if self._writing is not None and not self._writing.done():
            return
        self._not_before = time.monotonic() + PAUSE_S
        try:
            data = freeze(folded)
        except (OverflowError, ValueError, TypeError) as error:  # a start without one takes longer, and that is all
            log.error("scheduler.snapshot_failed", error=f"the state cannot be written: {error}")
            return
        self._writing = asyncio.create_task(self._write(position, time_ns, entry, data))

    async def _write(self, position: int, time_ns: int, entry: str, data: bytes) -> None:
        try:
            before = await self._bus.get_key(SNAPSHOTS, KEY)
            stored = await self._artifacts.put("fold", data)
            pointer = Pointer(
                code=self._code,
                object=stored,
                position=position,
                time_ns=time_ns,
                entry=entry,
                stream_created_ns=(await self._bus.identity()).created_ns,
            )
            expect = before.sequence if before is not None else 0
            taken = await self._bus.take_key(SNAPSHOTS, KEY, msgspec.json.encode(pointer), expect=expect)
            superseded = stored.name if taken is None else _object_of(before.data if before is not None else b"")
            if superseded:
                await self._bus.objects.delete(superseded)
        except BusError as error:
            log.warning("scheduler.snapshot_failed", error=str(error))
        else:
            self._position, self.time_ns = position, time_ns
            log.info("scheduler.snapshot", position=position, size_bytes=len(data))

    async def close(self) -> None:
        """Wait for a snapshot under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=5)


def id_of(data: bytes) -> str:
    """The id of an entry; of bytes that are none, their digest."""
    try:
        return decode_envelope(data).id
    except WireError:
        return hashlib.sha256(data).hexdigest()


def _object_of(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=Pointer).object.name
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""
