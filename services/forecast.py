"""What a plan will come to: how long it takes with so many workers and executors, and what will conflict.

Durations are those of an earlier run where there is one, else one step for each workstream. An estimate is a list
schedule: a workstream takes a place as soon as one is free and the rules of the plan let it begin, in the order of the
plan. It knows nothing of waiting for providers, of merges and gates, or of repairs that the earlier run did not need.

Pure: no clock, no disk. The same plan and history give the same forecast.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from statistics import median
from typing import Final, TypeAlias

import msgspec

from services import scope
from services.bundle import WorkstreamBundle
from services.diagnostic import printable
from services.plan import (
    LISTED_MAX,
    OVERLAP_PAIRS_MAX,
    ExecutionPlan,
    Finding,
    Overlap,
    clash,
    critical_path,
    footprint,
    independent,
)

PAIRS_KEPT: Final = 1_000
"""Pairs that a forecast names; its findings count the rest."""

FILES_SHOWN: Final = 5
"""Files of one pair that are spelt out."""

WAKES_MAX: Final = 2_000_000
"""Times that workstreams are looked at in one estimate without waves; scopes made to interleave get none."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier run tells, by workstream.

    seconds: how long its attempts worked. touched: the files that it really changed. conflicted: whom a merge of it
    met, with the files.
    """

    run: str
    seconds: dict[str, float]
    touched: dict[str, tuple[str, ...]]
    conflicted: dict[tuple[str, str], tuple[str, ...]]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """How long the run takes with so many workers; `executors` None: as many as that needs.

    places: what can work at a time. waves: with each wave waiting for the one before; eager: with each workstream waiting
    for its own dependencies only, None when that is too much to find out.
    """

    workers: int
    executors: int | None
    places: int
    waves: float
    eager: float | None


class SharedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Two workstreams that do not wait for each other and changed the same files in the earlier run.

    together: they may be under way at the same time, so that the later merge meets the change of the earlier one.
    conflicted: it did so in that run.
    """

    workstream: str
    other: str
    files: list[str]
    together: bool
    conflicted: bool


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan will come to. `unit` is that of all durations: `s`, or `steps` without an earlier run (`like` is "")."""

    like: str
    unit: str
    work: float
    critical_path: list[str]
    critical_path_length: float
    estimates: list[Estimate]
    conflicts: list[SharedFiles]
    findings: list[Finding]


def forecast(
    bundles: Sequence[WorkstreamBundle],
    plan: ExecutionPlan,
    overlaps: Sequence[Overlap],
    *,
    workers: Iterable[int],
    executors: Iterable[int],
    slots: int,
    history: History | None = None,
) -> Forecast:
    """The forecast for each number of workers with each number of executors of `slots` each.

    `bundles` are those of the plan, `overlaps` those of its report. Raises ValueError for a number below 1.
    """
    by_id = {bundle.id: bundle for bundle in bundles}
    pools: list[int | None] = [*dict.fromkeys(executors)]
    fleets = [(count, pool) for count in dict.fromkeys(workers) for pool in pools or [None]]
    if min([slots, *(n for fleet in fleets for n in fleet if n is not None)]) < 1:
        raise ValueError("workers, executors and slots are 1 or more")
    conflicts: list[SharedFiles] = []
    findings: list[Finding] = []
    durations = dict.fromkeys(by_id, 1.0)
    if history is not None:
        durations, findings = _durations(by_id, history)
        conflicts, told = _shared(by_id, plan, overlaps, history)
        findings += told + _strayed(by_id, history)
    path, length = critical_path(plan.dependency_graph, durations)
    places = {fleet: min(fleet[0], fleet[1] * slots) if fleet[1] is not None else fleet[0] for fleet in fleets}
    spans = {count: _spans(by_id, plan, durations, count) for count in dict.fromkeys(places.values())}
    return Forecast(
        like="" if history is None else history.run,
        unit="steps" if history is None else "s",
        work=sum(durations.values()),
        critical_path=path,
        critical_path_length=length,
        estimates=[
            Estimate(
                workers=fleet[0],
                executors=fleet[1],
                places=places[fleet],
                waves=spans[places[fleet]][0],
                eager=spans[places[fleet]][1],
            )
            for fleet in fleets
        ],
        conflicts=conflicts[:PAIRS_KEPT],
        findings=findings,
    )


# Durations


def _durations(by_id: Mapping[str, WorkstreamBundle], history: History) -> tuple[dict[str, float], list[Finding]]:
    known = {id_: history.seconds[id_] for id_ in by_id if history.seconds.get(id_, 0.0) > 0}
    usual = median(known.values()) if known else 1.0
    unknown = [id_ for id_ in by_id if id_ not in known]
    findings = []
    if unknown:
        findings.append(
            Finding(
                code="NO_HISTORY",
                workstream=unknown[0],
                message=f"and {len(unknown) - 1} others have done nothing in run {history.run}; {usual:.1f} s is assumed"
                if len(unknown) > 1
                else f"has done nothing in run {history.run}; {usual:.1f} s is assumed",
                remedy="name a run of the same workstreams for an estimate that can be relied on",
            )
        )
    return {id_: known.get(id_, usual) for id_ in by_id}, findings


def _spans(
    by_id: Mapping[str, WorkstreamBundle], plan: ExecutionPlan, durations: Mapping[str, float], places: int
) -> tuple[float, float | None]:
    return _in_waves(plan.waves, durations, places), _eager(by_id, plan, durations, places)


def _in_waves(waves: Iterable[Sequence[str]], durations: Mapping[str, float], places: int) -> float:
    total = 0.0
    for wave in waves:
        busy = [0.0] * min(places, len(wave))
        for id_ in wave:
            heapq.heapreplace(busy, busy[0] + durations[id_])
        total += max(busy)
    return total


_Resource: TypeAlias = tuple[str, str]


class _Held:
    """What is taken by the workstreams under way, and who waits for it.

    A conflict group and a declared key are taken; a key is also in the way of every key that encloses it. Who finds
    something taken waits for that, and is looked at again when it is free.
    """

    def __init__(self, by_id: Mapping[str, WorkstreamBundle]) -> None:
        self._footprints = {id_: footprint(bundle) for id_, bundle in by_id.items()}
        enclosing = scope.nesting(key for known in self._footprints.values() for key in known.keys)
        self._chains: dict[str, tuple[str, ...]] = {}
        for key in enclosing:  # sorted, so that what encloses a key comes before it
            outer = enclosing[key]
            self._chains[key] = (key,) if outer is None else (key, *self._chains[outer])
        self._taken: Counter[_Resource] = Counter()

    def is_alone(self, id_: str) -> bool:
        return self._footprints[id_].alone

    def blocker(self, id_: str) -> _Resource | None:
        """Something taken that is in the way."""
        mine = self._footprints[id_]
        if mine.group is not None and ("group", mine.group) in self._taken:
            return ("group", mine.group)
        for key in mine.keys:
            if ("below", key) in self._taken:
                return ("below", key)
            for outer in self._chains[key][1:]:
                if ("at", outer) in self._taken:
                    return ("at", outer)
        return None

    def is_taken(self, resource: _Resource) -> bool:
        return resource in self._taken

    def take(self, id_: str) -> None:
        for resource in self._resources(id_):
            self._taken[resource] += 1

    def free(self, id_: str) -> Iterator[_Resource]:
        """Give back; what is free by that."""
        for resource in self._resources(id_):
            self._taken[resource] -= 1
            if not self._taken[resource]:
                del self._taken[resource]
                yield resource

    def _resources(self, id_: str) -> Iterator[_Resource]:
        mine = self._footprints[id_]
        if mine.group is not None:
            yield ("group", mine.group)
        for key in mine.keys:
            yield ("at", key)
            for outer in self._chains[key]:
                yield ("below", outer)


def _eager(
    by_id: Mapping[str, WorkstreamBundle], plan: ExecutionPlan, durations: Mapping[str, float], places: int
) -> float | None:
    """How long it takes when each workstream begins as soon as it may."""
    order = [id_ for wave in plan.waves for id_ in wave]
    rank = {id_: at for at, id_ in enumerate(order)}
    open_count = {id_: len(needed) for id_, needed in plan.dependency_graph.items()}
    dependents: dict[str, list[str]] = defaultdict(list)
    for id_, needed in plan.dependency_graph.items():
        for other in needed:
            dependents[other].append(id_)
    held = _Held(by_id)
    queue = _Queue(held)
    for id_ in order:
        if not open_count[id_]:
            queue.add(rank[id_])
    running: list[tuple[float, int]] = []
    now = 0.0
    while True:
        while len(running) < places and (at := queue.pop()) is not None:
            if queue.looks > WAKES_MAX:
                return None
            id_ = order[at]
            if held.is_alone(id_):
                if running:
                    queue.wait_for_quiet(at)
                    continue
                running.append((now + durations[id_], at))
                break
            if (blocker := held.blocker(id_)) is not None:
                queue.wait_for(blocker, at)
                continue
            held.take(id_)
            heapq.heappush(running, (now + durations[id_], at))
        if not running:
            return now
        now = running[0][0]
        while running and running[0][0] == now:
            id_ = order[heapq.heappop(running)[1]]
            if not held.is_alone(id_):
                queue.freed(held.free(id_))
            for dependent in dependents[id_]:
                open_count[dependent] -= 1
                if not open_count[dependent]:
                    queue.add(rank[dependent])
        if not running:
            queue.quiet()


class _Queue:
    """Whose turn it is, by rank. Of those that wait for what only one of them can take, the first is looked at again, and
    the next one when that has to wait for something else: so a large group is not gone through each time one ends.
    """

    def __init__(self, held: _Held) -> None:
        self.looks = 0
        self._held = held
        self._ready: list[int] = []
        self._waiting: dict[_Resource, list[int]] = defaultdict(list)
        self._woken: dict[int, _Resource] = {}
        self._lonely: list[int] = []

    def add(self, at: int) -> None:
        heapq.heappush(self._ready, at)

    def pop(self) -> int | None:
        self.looks += 1
        return heapq.heappop(self._ready) if self._ready else None

    def wait_for(self, resource: _Resource, at: int) -> None:
        heapq.heappush(self._waiting[resource], at)
        before = self._woken.pop(at, None)
        if before is not None and not self._held.is_taken(before):
            self._wake(before)

    def wait_for_quiet(self, at: int) -> None:
        heapq.heappush(self._lonely, at)

    def quiet(self) -> None:
        """Nothing is under way."""
        if self._lonely:
            self.add(heapq.heappop(self._lonely))

    def freed(self, resources: Iterable[_Resource]) -> None:
        for resource in resources:
            self._wake(resource)

    def _wake(self, resource: _Resource) -> None:
        waiters = self._waiting.get(resource)
        while waiters:
            at = heapq.heappop(waiters)
            self._woken[at] = resource
            self.add(at)
            if resource[0] != "at":
                return


# Conflicts


def _shared(
    by_id: Mapping[str, WorkstreamBundle], plan: ExecutionPlan, overlaps: Sequence[Overlap], history: History
) -> tuple[list[SharedFiles], list[Finding]]:
    """Pairs that changed the same files, and pairs that are kept apart although they did not."""
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    changed: dict[str, list[str]] = defaultdict(list)
    for id_ in sorted(by_id.keys() & history.touched.keys()):
        for path in history.touched[id_]:
            changed[path].append(id_)
    looked = (((a, b), path) for path in sorted(changed) for a, b in combinations(changed[path], 2))
    for pair, path in islice(looked, OVERLAP_PAIRS_MAX):
        files[pair].append(path)
    for pair, paths in sorted(history.conflicted.items()):
        if by_id.keys() >= set(pair):
            files[pair] = list(dict.fromkeys([*files[pair], *paths]))
    footprints = {id_: footprint(by_id[id_]) for id_ in {id_ for pair in files for id_ in pair}}
    shared = [
        SharedFiles(
            workstream=a,
            other=b,
            files=files[a, b][:FILES_SHOWN],
            together=not clash(footprints[a], footprints[b]),
            conflicted=(a, b) in history.conflicted,
        )
        for a, b in independent(plan.dependency_graph, sorted(files))
    ]
    shared.sort(key=lambda pair: (not pair.together, not pair.conflicted))
    meeting = [pair for pair in shared if pair.together]
    idle = [
        (one.workstream, one.other)
        for one in overlaps
        if history.touched.get(one.workstream)
        and history.touched.get(one.other)
        and not set(history.touched[one.workstream]) & set(history.touched[one.other])
    ]
    return shared, [
        *_counted(
            "SHARED_FILES",
            [
                (
                    pair.workstream,
                    f"may run beside {pair.other}, and both changed {', '.join(pair.files)} in run {history.run}",
                )
                for pair in meeting
            ],
            "name the file in both scopes, give both a conflict_group, or let one depend on the other",
        ),
        *_counted(
            "OVERLAP_UNUSED",
            [
                (a, f"is kept apart from {b} by scopes, but in run {history.run} they changed no file in common")
                for a, b in idle
            ],
            "narrow their scopes to let them run side by side",
        ),
    ]


def _strayed(by_id: Mapping[str, WorkstreamBundle], history: History) -> list[Finding]:
    """Workstreams that changed what their scope does not cover now."""
    told = []
    for id_ in sorted(by_id.keys() & history.touched.keys()):
        allowed = scope.Scope(edit=(*by_id[id_].files_scope, *by_id[id_].files_create))
        outside = allowed.outside(("M", path) for path in history.touched[id_])
        if outside:
            paths = ", ".join(violation.path for violation in outside[:FILES_SHOWN])
            told.append((id_, f"changed {paths} in run {history.run}, which its scope does not cover"))
    return _counted("CHANGED_OUTSIDE_SCOPE", told, "add it to files_scope, or expect a scope_violation")


def _counted(code: str, told: Sequence[tuple[str, str]], remedy: str) -> list[Finding]:
    findings = [
        Finding(code=code, workstream=id_, message=printable(message), remedy=remedy)
        for id_, message in told[:LISTED_MAX]
    ]
    if (more := len(told) - LISTED_MAX) > 0:
        findings.append(Finding(code=code, message=f"and {more} more of the same", remedy=remedy))
    return findings
