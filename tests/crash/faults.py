"""Faults from a seed: who is struck, by which signal, and when. Pure: the same seed plans the same faults.

A fault waits for its point, a kind of entry on the stream, and strikes the moment the entry is seen; the point `random`
is a moment that nothing names. What the words of a target mean is known only when it strikes: `leader` is the scheduler
that holds the lease, `holder` the executor that the entry is about. `host` is an executor with everything below it, its
supervisor, its tools, its git: what the end of a machine or of a container takes away at once. `supervisor` is only that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

import msgspec

from tests.crash.history import LINE, Fact
from tests.crash.rig import EXECUTORS, SCHEDULERS

RANDOM: Final = "random"
PAUSE_MIN_S: Final = 0.5
PAUSE_MAX_S: Final = 4.0
AFTER_MAX_S: Final = 0.3
APART_S: Final = 6.5
"""So far apart, two faults do not make each other's end later."""

SIGNALS: Final = (
    (signal.SIGKILL, 0.72),
    (signal.SIGSTOP, 0.18),
    (signal.SIGTERM, 0.10),
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One planned fault. `skip`: so many entries of its point go by first. SIGSTOP is followed by SIGCONT after `pause_s`.

    `rest_s`: what goes by before this fault is on the watch (before its strike, where it is random). `after_s`: between the
    entry and the strike, so that the middle of what the entry has set going is met as well.
    """

    point: str
    target: str
    number: signal.Signals
    skip: int
    rest_s: float
    after_s: float
    pause_s: float


class Point(msgspec.Struct, frozen=True):
    """An entry worth striking at, and who is worth striking there."""

    matches: Callable[[Fact], bool]
    targets: tuple[str, ...]


def _kind(kind: str) -> Callable[[Fact], bool]:
    return lambda fact: fact.kind == kind


def _scheduled(*steps: str) -> Callable[[Fact], bool]:
    return lambda fact: fact.kind == "step_scheduled" and fact.body["step"] in steps


def _of_line(kind: str) -> Callable[[Fact], bool]:
    return lambda fact: fact.kind == kind and fact.where == "attempt" and fact.workstream == LINE


def _of_workstream(kind: str) -> Callable[[Fact], bool]:
    return lambda fact: fact.kind == kind and fact.where == "attempt" and fact.workstream != LINE


POINTS: Final = {
    "requested": Point(_kind("run_requested"), ("leader", "standby", "nats")),
    "wave started": Point(_kind("wave_started"), ("leader", "executor", "host")),
    "edit scheduled": Point(_scheduled("edit"), ("leader", "executor", "nats")),
    "check scheduled": Point(_scheduled("static", "runtime"), ("leader", "executor", "host")),
    "fix scheduled": Point(_scheduled("fix"), ("leader", "executor", "nats")),
    "merge scheduled": Point(_scheduled("merge"), ("leader", "executor", "host", "nats")),
    "gate scheduled": Point(_scheduled("gate"), ("leader", "executor", "host")),
    "delivery scheduled": Point(_scheduled("deliver"), ("leader", "executor", "host", "nats")),
    "step started": Point(_of_workstream("step_started"), ("holder", "host", "supervisor", "leader", "nats")),
    "step finished": Point(_of_workstream("step_finished"), ("leader", "leader", "holder", "nats", "ledger")),
    "line started": Point(_of_line("step_started"), ("holder", "host", "host", "leader", "nats")),
    "line finished": Point(_of_line("step_finished"), ("leader", "leader", "holder", "nats")),
    "line advanced": Point(_kind("integration_advanced"), ("leader", "ledger")),
    "delivered": Point(_kind("line_delivered"), ("leader", "ledger")),
    "wave finished": Point(_kind("wave_finished"), ("leader", "nats")),
    "lost": Point(_kind("step_lost"), ("leader", "executor")),
    "cancel requested": Point(_kind("cancel_requested"), ("leader", "executor", "nats")),
    "stopping": Point(_kind("run_stopping"), ("leader", "executor", "host")),
    "finished": Point(_kind("run_finished"), ("leader", "ledger", "nats")),
}

ANYBODY: Final = ("leader", "standby", "executor", "executor", "host", "supervisor", "ledger", "nats")


def leaders(random: Random) -> Iterator[Fault]:
    """Nothing but leading schedulers that are killed, one at a time: how long it takes until the other one decides."""
    points = [name for name, point in POINTS.items() if "leader" in point.targets and name != "cancel requested"]
    yield from _alone(random, points, "leader")


def buses(random: Random) -> Iterator[Fault]:
    """Nothing but the bus, killed again and again: how long it takes until somebody decides."""
    points = [name for name, point in POINTS.items() if "nats" in point.targets and name != "cancel requested"]
    yield from _alone(random, points, "nats")


def rolling(random: Random) -> Iterator[Fault]:
    """A rolling restart: every service is asked to end, one after another, as an upgrade does it; twice."""
    for name in ("ledger", *EXECUTORS, *SCHEDULERS) * 2:
        rest_s = random.uniform(1.0, 2.0)
        yield Fault(
            point=RANDOM, target=name, number=signal.SIGTERM, skip=0, rest_s=rest_s, after_s=0.0, pause_s=PAUSE_MIN_S
        )


def _alone(random: Random, points: list[str], target: str) -> Iterator[Fault]:
    rest_s = 0.0
    while True:
        point = random.choice(points)
        kill = signal.SIGKILL
        yield Fault(point=point, target=target, number=kill, skip=0, rest_s=rest_s, after_s=0.0, pause_s=PAUSE_MIN_S)
        rest_s = APART_S


def plan(random: Random) -> Iterator[Fault]:
    """Faults without end; every point gets its turn before any has a second one."""
    while True:
        turns = [*POINTS, *[RANDOM] * (len(POINTS) // 4)]
        random.shuffle(turns)
        for point in turns:
            named = point != RANDOM
            target = random.choice(POINTS[point].targets if named else ANYBODY)
            numbers = [number for number, _ in SIGNALS]
            number = random.choices(numbers, [weight for _, weight in SIGNALS])[0]
            if target in {"host", "supervisor"} or (target == "nats" and number is signal.SIGTERM):
                number = signal.SIGKILL
            yield Fault(
                point=point,
                target=target,
                number=number,
                skip=random.choice((0, 0, 0, 1, 2)) if point in {"step started", "step finished"} else 0,
                rest_s=random.choice((0.0, random.uniform(0.05, 1.0))),
                after_s=random.choice((0.0, random.uniform(0.0, AFTER_MAX_S))),
                pause_s=random.uniform(PAUSE_MIN_S, PAUSE_MAX_S),
            )
