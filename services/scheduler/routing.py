"""Which of several tools does a step, and in which pool of executors.

    ordered(tools, strategy, records) -> tools       as the AIM registry's route says: as written, least busy, or best so far
    Places(sightings, now_ns).place(pools, profile)  -> Placement

What is known of tools is folded from closes, so every scheduler knows the same; what executors have found they say in their
beats. A tool counts as missing in a pool only if all of its executors that beat looked for the very program of the profile
and did not find it: a run may bring profiles that no executor knows.

Pure: no clock, no I/O.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import msgspec

from services.aim import Strategy
from services.outcome import SUM_MAX
from services.profiles import ToolProfile

RECORD_MAX: Final = 200
"""Ended attempts that a record weighs fully; beyond, older ones fade."""

UNTRIED: Final = 0.5
"""The score of a tool that has no record yet."""

_MINUTE_NS = 60_000_000_000
_USD_NANO = 1_000_000_000


class Record(msgspec.Struct):
    """What became of a tool's attempts: how many have `ended`, how many with success, time and cost of all of them together.

    `open`: its attempts that are scheduled and not closed.
    """

    open: int = 0
    ended: int = 0
    succeeded: int = 0
    wall_ns: int = 0
    cost_nano: int = 0

    def note(self, *, ok: bool, wall_ns: int, cost_nano: int) -> None:
        """One more attempt has ended and says something about its tool."""
        if self.ended >= RECORD_MAX:
            self.ended, self.succeeded = self.ended // 2, self.succeeded // 2
            self.wall_ns, self.cost_nano = self.wall_ns // 2, self.cost_nano // 2
        self.ended += 1
        self.succeeded += ok
        self.wall_ns = min(self.wall_ns + max(wall_ns, 0), SUM_MAX)
        self.cost_nano = min(self.cost_nano + max(cost_nano, 0), SUM_MAX)

    @property
    def score(self) -> float:
        """From 0 to 1: success weighs 0.7, quickness and cheapness 0.15 each, by minutes and dollars an attempt."""
        if not self.ended:
            return UNTRIED
        minutes = self.wall_ns / self.ended / _MINUTE_NS
        dollars = self.cost_nano / self.ended / _USD_NANO
        return 0.7 * self.succeeded / self.ended + 0.15 / (1 + minutes) + 0.15 / (1 + dollars)


def ordered(
    tools: Sequence[str], strategy: Strategy, records: Mapping[str, Record], chosen: Mapping[str, int]
) -> tuple[str, ...]:
    """The tools in the order in which they are to be tried; among equals as they stand.

    `chosen` counts what has been decided for them besides and is not folded yet.
    """
    match strategy:
        case "order":
            return tuple(tools)
        case "load_balance":
            known = {tool: records[tool].open if tool in records else 0 for tool in tools}
            return tuple(sorted(tools, key=lambda tool: known[tool] + chosen.get(tool, 0)))
        case "measured":
            return tuple(sorted(tools, key=lambda tool: -records[tool].score if tool in records else -UNTRIED))


class Sighting(msgspec.Struct):
    """The newest beat of an executor: its boot, and when each attempt was last named, in the scheduler's own time.

    `gone`: it said so itself. `serves`: it takes new work. `missing`: tools it looked for and did not find, with the
    programs it looked for.
    """

    boot: str
    seen_ns: int
    gone: bool = False
    named: dict[tuple[str, str, int], int] = {}
    pool: str = ""
    serves: bool = False
    missing: Mapping[str, str] = {}


class Sightings(msgspec.Struct):
    """What the scheduler has seen of executors. `since_ns`: connected and caught up without a break since then."""

    executors: dict[str, Sighting]
    since_ns: int
    lease_s: float


class Placement(msgspec.Struct, frozen=True):
    """The pool that a step is offered to; `missing`: nobody there has its tool."""

    pool: str
    missing: bool = False


class Places:
    """Which pools have which tools, as far as is known at `now_ns`; asked often, and so remembered for one decision."""

    def __init__(self, sightings: Sightings | None, now_ns: int) -> None:
        """Before executors have been watched for a whole lease, nothing is known to be missing."""
        self._sightings = sightings
        self._now_ns = now_ns
        self._known: dict[tuple[str, str], bool | None] = {}

    @cached_property
    def _by_pool(self) -> dict[str, list[Sighting]]:
        """The executors that serve each pool, looked for when somebody asks."""
        found: dict[str, list[Sighting]] = {}
        sightings, now_ns = self._sightings, self._now_ns
        if sightings is None or not sightings.since_ns:
            return found
        lease_ns = int(sightings.lease_s * 1_000_000_000)
        if now_ns - sightings.since_ns < lease_ns:
            return found
        for sighting in sightings.executors.values():
            if sighting.serves and not sighting.gone and now_ns - sighting.seen_ns < lease_ns:
                found.setdefault(sighting.pool, []).append(sighting)
        return found

    def place(self, pools: Sequence[str], tool: str, profile: ToolProfile | None) -> Placement:
        """The first pool with an executor that has the tool; else the first one without any executor, where it waits for one.

        Without sightings, and for a tool that no executor can know, the first pool.
        """
        if not self._by_pool or profile is None or not tool:
            return Placement(pools[0])
        known = [self._has(pool, tool, profile) for pool in pools]
        for wanted in (True, None):
            if wanted in known:
                return Placement(pools[known.index(wanted)])
        return Placement(pools[0], missing=True)

    def _has(self, pool: str, tool: str, profile: ToolProfile) -> bool | None:
        """Whether some executor of a pool has the tool; None when there is no executor."""
        key = (pool, tool)
        if key not in self._known:
            executors = self._by_pool.get(pool, [])
            own = "PATH" not in profile.env
            self._known[key] = (
                any(not own or one.missing.get(tool) != profile.command for one in executors) if executors else None
            )
        return self._known[key]
