"""What determined how long a run took: walked back from its end, from each attempt to what it had waited for. Pure.

The links follow one another without a gap or an overlap, so they add up to the time the run took:

    step   an attempt ran, from its claim to its close
    queue  it was scheduled, and no executor had claimed it
    wait   nothing that the run waited for was scheduled: a decision, a delay, a pause, a worker that was not free

An attempt waited for what closed last before it was scheduled, of: the earlier attempts of its workstream, and those of the
line on its behalf; for the first of a workstream also what its dependencies, or else the line and the wave before it, did;
for one of the line what it works on, with the wave of that unless dependencies are known, or else everything. Where nothing
of that closed within GAP_NS before, whatever else did so freed its worker.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, Literal

import msgspec

from services.events import LINE

GAP_NS: Final = 10**9
"""A worker that gets free is used at once: what is scheduled later than a second after it, has waited for something else."""


class Ran(msgspec.Struct, frozen=True):
    """An attempt; `started_ns` is 0 for one that nobody claimed, `wave` that of its workstream, -1 for none."""

    workstream: str
    attempt: int
    step: str
    tool: str
    scheduled_ns: int
    started_ns: int
    closed_ns: int
    on_behalf: str = ""
    wave: int = -1


class Link(msgspec.Struct, frozen=True):
    """A stretch of time; see CriticalLink in the protocol."""

    kind: Literal["step", "queue", "wait"]
    workstream: str
    attempt: int
    step: str
    tool: str
    started_ns: int
    duration_s: float


class _Walk:
    """Attempts, by what may have been waited for; each list by the time of closing."""

    def __init__(self, attempts: Iterable[Ran], dependencies: Mapping[str, Sequence[str]]) -> None:
        self.all = sorted(attempts, key=attrgetter("closed_ns"))
        self.of: dict[str, list[Ran]] = {}
        self.of_wave: dict[int, list[Ran]] = {}
        self.first: dict[str, int] = {}
        self.wave: dict[str, int] = {}
        for ran in self.all:
            self.of.setdefault(ran.workstream, []).append(ran)
            self.of_wave.setdefault(ran.wave, []).append(ran)
            self.wave[ran.workstream] = ran.wave
            self.first[ran.workstream] = min(self.first.get(ran.workstream, ran.attempt), ran.attempt)
            if ran.on_behalf and ran.on_behalf != ran.workstream:
                self.of.setdefault(ran.on_behalf, []).append(ran)
        self.dependencies = dependencies

    def before(self, ran: Ran) -> Ran | None:
        """What an attempt was waiting for; None when it was nothing but its run."""
        found = [self._last(self.of.get(name, []), ran) for name in self._awaited(ran)]
        if ran.workstream == LINE and not ran.on_behalf:
            found.append(self._last(self.all, ran))
        elif ran.workstream == LINE and ran.on_behalf not in self.dependencies:
            found.append(self._last(self.of_wave.get(self.wave.get(ran.on_behalf, -1), []), ran))
        elif self.first[ran.workstream] == ran.attempt and ran.workstream not in self.dependencies:
            earlier = (self.of.get(LINE, []), self.of_wave.get(ran.wave - 1, []) if ran.wave > 0 else [])
            found.extend(self._last(known, ran) for known in earlier)
        latest = max((one for one in found if one is not None), key=attrgetter("closed_ns"), default=None)
        if latest is not None and ran.scheduled_ns - latest.closed_ns <= GAP_NS:
            return latest
        freed = self._last(self.all, ran)
        return freed if freed is not None and ran.scheduled_ns - freed.closed_ns <= GAP_NS else latest

    def _awaited(self, ran: Ran) -> list[str]:
        if ran.workstream == LINE:
            return [name for name in (ran.on_behalf, LINE) if name]
        first = self.first[ran.workstream] == ran.attempt
        return [ran.workstream, *(self.dependencies.get(ran.workstream, ()) if first else ())]

    def _last(self, known: list[Ran], ran: Ran) -> Ran | None:
        """The last that had closed when an attempt was scheduled, itself apart."""
        for index in range(bisect_right(known, ran.scheduled_ns, key=attrgetter("closed_ns")) - 1, -1, -1):
            if known[index] is not ran and known[index].scheduled_ns < ran.scheduled_ns:
                return known[index]
        return None


def critical_path(
    attempts: Iterable[Ran], begin_ns: int, end_ns: int, dependencies: Mapping[str, Sequence[str]] | None = None
) -> list[Link]:
    """The links from `begin_ns` to `end_ns`, in order, of closed attempts.

    `dependencies` are those of workstreams that started as soon as these were done; what is not in it started with its wave.
    """
    walk = _Walk((ran for ran in attempts if ran.closed_ns), dependencies or {})
    links: list[Link] = []
    cursor = max(begin_ns, end_ns)
    later: Ran | None = None
    ran = walk.all[-1] if walk.all else None

    def stretch(kind: Literal["step", "queue", "wait"], since_ns: int, of: Ran | None) -> None:
        nonlocal cursor
        since_ns = max(begin_ns, min(since_ns, cursor))
        if since_ns < cursor:
            named = ("", 0, "", "") if of is None else (of.workstream, of.attempt, of.step, of.tool)
            links.append(Link(kind, *named, since_ns, (cursor - since_ns) / 1e9))
            cursor = since_ns

    while ran is not None:
        stretch("wait", ran.closed_ns, later)
        if ran.started_ns:
            stretch("step", ran.started_ns, ran)
        stretch("queue", ran.scheduled_ns, ran)
        later, ran = ran, walk.before(ran)
    stretch("wait", begin_ns, later)
    return links[::-1]
