"""What an executor tells Prometheus: its life-cycle state, its slots, and what becomes of the attempts it claims."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol, get_args

from services.artifacts import ObjectStore
from services.bus import BusUnavailableError, RefusedError
from services.events import ExecutorState, Step, StepFinished
from services.metrics import Counter, Exposition, Reading, Series

STATE = Series(
    "swell_executor_state", "gauge", "1 for the life-cycle state that it is in, 0 for the others.", ("state",)
)
SLOTS = Series("swell_executor_slots", "gauge", "Attempts that it may run at a time.")
RUNNING = Series("swell_executor_attempts_running", "gauge", "Attempts that it has claimed and not closed.")
BEATS = Series(
    "swell_executor_beats_total", "counter", "Beats, by whether the bus took them: sent or failed.", ("outcome",)
)
DISK_FREE = Series("swell_executor_disk_free_bytes", "gauge", "Bytes free on the disk of its folder.")
OUT_OF_ROOM = Series(
    "swell_executor_out_of_room", "gauge", "1 while it takes no commands because its disk has too little room."
)
GARBAGE = Series("swell_executor_garbage_freed_bytes_total", "counter", "Bytes of garbage that it has removed.")

READ: Final = (STATE, SLOTS, RUNNING, BEATS, DISK_FREE, OUT_OF_ROOM, GARBAGE)
UNREADABLE: Final = "unreadable"
"""Stands for the step of a command that this version cannot read."""


class Beating(Protocol):
    """What of the pulse is read; services.executor.pulse.Pulse is one."""

    slots: int
    sent: int
    failed: int

    @property
    def state(self) -> ExecutorState:
        """The life-cycle state."""


class Working(Protocol):
    """What of the work is read; services.executor.worker.Executor is one."""

    @property
    def running(self) -> int:
        """Attempts under way."""


class Kept(Protocol):
    """What of the housekeeping is read; services.executor.housekeeping.Housekeeping is one."""

    out_of_room: bool
    freed_bytes: int

    @property
    def free_bytes(self) -> int:
        """What the disk has free."""


class ExecutorMetrics:
    """An executor's series. The worker tells it what happens; `read` has the gauges read."""

    def __init__(self, exposition: Exposition) -> None:
        """Declare the counters in `exposition`."""
        self._exposition = exposition
        counter = exposition.counter
        self._claims = counter(
            "swell_executor_claims_total",
            "Claims of attempts: won, refused (somebody else's, or over), or unanswered by the bus.",
            "outcome",
        )
        self._closed = counter(
            "swell_executor_steps_closed_total",
            "Attempts that it closed; the outcome is ok or the class of the error, handed_back among them.",
            "step",
            "outcome",
        )
        self._refused = counter(
            "swell_executor_results_refused_total",
            "Attempts that were closed elsewhere before it could: its result came late, or it was told to stop.",
            "step",
        )
        self._tool_s = counter(
            "swell_executor_tool_seconds_total", "Wall time of the tools of attempts that have ended.", "step"
        )
        self._reaped = counter(
            "swell_executor_processes_reaped_total",
            "Processes that were ended because their attempt was over, a former life's among them.",
        )
        self._uploaded = counter("swell_executor_upload_bytes_total", "Bytes of artifacts that the bus has taken.")
        for outcome in ("won", "refused", "unanswered"):
            self._claims.add((outcome,), 0)
        for step in get_args(Step):
            self._refused.add((step,), 0)
            self._closed.add((step, "ok"), 0)
            self._tool_s.add((step,), 0)

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Around the append of a claim."""
        try:
            yield
        except RefusedError:
            self._claims.add(("refused",))
            raise
        except BusUnavailableError:
            self._claims.add(("unanswered",))
            raise
        self._claims.add(("won",))

    def closed(self, step: str, result: StepFinished) -> None:
        """Its own result closed an attempt."""
        self._closed.add((step, "ok" if result.ok else result.error_class or "unknown"))
        self._tool_s.add((step,), max(result.tool_wall_s, 0.0))

    def refused(self, step: str, result: StepFinished | None) -> None:
        """An attempt was closed elsewhere; `result` is what there was of its own."""
        self._refused.add((step,))
        if result is not None:
            self._tool_s.add((step,), max(result.tool_wall_s, 0.0))

    def reaped(self, processes: int) -> None:
        """So many processes of an attempt that is over were ended."""
        self._reaped.add((), processes)

    def counted(self, objects: ObjectStore) -> "CountedObjects":
        """The same store; what is written to it is counted."""
        return CountedObjects(objects, self._uploaded)

    def read(self, pulse: Beating, executor: Working, house: Kept) -> None:
        """Have the gauges read from now on."""

        async def reader() -> list[Reading]:
            return [
                *((STATE, (state,), state == pulse.state) for state in get_args(ExecutorState)),
                (SLOTS, (), pulse.slots),
                (RUNNING, (), executor.running),
                (BEATS, ("sent",), pulse.sent),
                (BEATS, ("failed",), pulse.failed),
                (DISK_FREE, (), house.free_bytes),
                (OUT_OF_ROOM, (), house.out_of_room),
                (GARBAGE, (), house.freed_bytes),
            ]

        self._exposition.read(READ, reader)


class CountedObjects:
    """An object store that counts the bytes it has taken."""

    def __init__(self, objects: ObjectStore, taken: Counter) -> None:
        """`taken` counts the bytes."""
        self._objects = objects
        self._taken = taken

    async def write(self, name: str, data: bytes) -> None:
        """Store an object under a fresh name."""
        await self._objects.write(name, data)
        self._taken.add((), len(data))

    def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        """An object in chunks."""
        return self._objects.read(name, limit_bytes=limit_bytes)
