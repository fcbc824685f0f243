"""What an executor says of itself, once a second, on a key that expires; and how the scheduler tells it to look again."""

import msgspec

from services.events import ExecutorState
from services.wire import token

NUDGE = "swell.nudge"
"""`swell.nudge.<pool>.<executor>`: one of your attempts was closed by somebody else. Not stored; the re-reading finds it anyway."""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """Who, since which start, and which attempts (run, workstream, number) its supervising loops moved on since the last beat.

    `state`: what it says it is doing; `terminated` is its last word. `tools`: those it found, id to version (empty: not
    known); at most 200. `missing`: those it looked for and did not find, id to program; as many. `version`: of Swell, "" for not
    told. `at_ns`: its own clock, Unix time in nanoseconds, 0 for not told; information only.
    """

    executor: str
    boot: str
    pool: str
    slots: int
    state: ExecutorState = "idle"
    attempts: list[tuple[str, str, int]] = []
    tools: dict[str, str] = {}
    missing: dict[str, str] = {}
    version: str = ""
    at_ns: int = 0


def nudge_subject(pool: str, executor: str) -> str:
    """Where an executor listens for nudges."""
    return f"{NUDGE}.{token(pool)}.{token(executor)}"


def beat_key(pool: str, executor: str) -> str:
    """The key of an executor's beats: below its pool, so that a pool's executors can be permitted to write theirs alone."""
    return f"{token(pool)}.{token(executor)}"


EXECUTOR_MOVES: dict[ExecutorState, frozenset[ExecutorState]] = {
    "spawning": frozenset({"idle", "terminated"}),
    "idle": frozenset({"busy", "draining", "terminated"}),
    "busy": frozenset({"idle", "draining", "terminated"}),
    "draining": frozenset({"terminated"}),
    "terminated": frozenset(),
}
"""The life of an executor between one start and its end; a new start is a new boot, and begins with `spawning`."""


class ExecutorMoveError(ValueError):
    """An executor cannot go from one state to another."""


def moved(before: ExecutorState, after: ExecutorState) -> ExecutorState:
    """`after`, if an executor may go there from `before`, or is there already; raises ExecutorMoveError."""
    if after != before and after not in EXECUTOR_MOVES[before]:
        raise ExecutorMoveError(f"an executor cannot go from {before} to {after}")
    return after
