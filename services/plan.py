"""The plan of a run: which workstreams may run together, in which order, and why.

Invariants of `build_execution_plan`:

* Every workstream stands in exactly one wave, and each of its dependencies in an earlier one.
* No two workstreams of a wave share a conflict group or overlap in scope; `parallel_ok = false` stands alone.
* The plan depends on the set of bundles only, not on their order. A wave is never cut to the size of a pool.

Levels come first: a workstream's level is the longest chain of dependencies below it. Inside a level, workstreams are
taken foreground first, then by the weight of the longest chain that waits for them (descending), then by id; each goes
into the first wave of the level that takes it.

Pure: no clock, no disk. Time is near-linear in workstreams, dependencies and declared paths (times the depth to which
declared paths nest): a free wave is found by skipping whole runs of taken ones, never by trying wave after wave.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, Final

import msgspec

from services import scope
from services.aim import Registry, beyond_limits, missing_context, payload_of
from services.bundle import (
    NAME_CHARS_MAX,
    WORKSTREAMS_MAX,
    BreakerOverride,
    BundleValidationError,
    Graph,
    WorkstreamBundle,
    require_acyclic,
    require_unique,
)
from services.compensation import CompensationError, GitRevert, parse_actions

LISTED_MAX: Final = 10
"""Findings of one kind that a report spells out before it only counts."""

PATTERN_CHARS_SHOWN: Final = 120
"""Characters of a pattern that a reason shows."""

OVERLAP_PAIRS_MAX: Final = 20_000
"""Pairs of overlapping paths that `validate_plan` looks at; beyond, its count is a lower bound."""

OVERLAPS_KEPT: Final = 1_000
"""Pairs of overlapping workstreams that a report names; the findings count the rest."""

SOURCES_AT_ONCE: Final = 16_384
"""Workstreams whose dependents are looked for in one pass: at most two KiB for each workstream of the plan."""

SCOPE_TRIALS_MAX: Final = 1_000_000
"""Files held against globs that match none of the first ones; beyond, a glob counts as matching."""

JUMPS_MAX: Final = 100
"""Runs of taken waves that one workstream is carried over before it gets a new wave: scopes made to interleave cannot
make planning quadratic, they only cost themselves a later wave."""

WHAT_IF_WORKERS: Final = (1, 2, 4, 8, 16, 32)
"""Pool sizes for which a report estimates the makespan, besides the one asked for."""


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """`workstream` was kept out of a wave of its level because of `other`."""

    workstream: str
    other: str
    reason: str


class ExecutionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Waves of workstreams. Also reads as a mapping of its fields: `plan["waves"]`.

    waves: ids, in the order in which they should be started.
    dependency_graph: id to the ids it depends on, both sorted.
    critical_path, critical_path_length: the heaviest chain of dependencies, first to last, and its weight.
    conflicts: why workstreams of one level stand in different waves.
    why: id to a sentence that explains its wave.
    max_parallelism: workstreams of the largest wave.
    estimated_speedup: unit steps one after another, divided by the unit steps of the plan.
    bottlenecks: ids that stand alone because of `parallel_ok = false`.
    """

    waves: list[list[str]]
    total_waves: int
    total_workstreams: int
    dependency_graph: dict[str, list[str]]
    critical_path: list[str]
    critical_path_length: float
    conflicts: list[Conflict]
    why: dict[str, str]
    max_parallelism: int
    estimated_speedup: float
    bottlenecks: list[str]

    def __getitem__(self, key: str) -> Any:
        if key not in self.__struct_fields__:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.__struct_fields__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__struct_fields__)

    def __len__(self) -> int:
        return len(self.__struct_fields__)

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in self.__struct_fields__ else default

    def keys(self) -> tuple[str, ...]:
        return self.__struct_fields__

    def values(self) -> tuple[Any, ...]:
        return tuple(self[key] for key in self)

    def items(self) -> tuple[tuple[str, Any], ...]:
        return tuple((key, self[key]) for key in self)


def build_execution_plan(
    bundles: Iterable[WorkstreamBundle],
    max_workers: int | None = None,
    *,
    weights: Mapping[str, float] | None = None,
) -> ExecutionPlan:
    """Order the workstreams into waves.

    `max_workers` only enters `estimated_speedup` (None: as many as a wave needs). `weights` gives the cost of a workstream
    for the critical path, 1 where it is silent.

    Raises:
        BundleDependencyError: a dependency names no workstream.
        BundleCycleError: dependencies lead back to themselves.
        BundleValidationError: two bundles have the same id.
        ValueError: `max_workers` is less than 1.
    """
    if max_workers is not None and max_workers < 1:
        raise ValueError(f"max_workers is {max_workers}; use 1 or more, or None for no limit")
    ordered = sorted(bundles, key=lambda bundle: bundle.id)
    require_unique(ordered)
    by_id = {bundle.id: bundle for bundle in ordered}
    graph = {bundle.id: sorted(set(bundle.depends_on)) for bundle in ordered}
    require_acyclic(graph)
    order = _topological(graph)
    path, tails = _critical_path(graph, order, weights or {})

    waves: list[list[str]] = []
    conflicts: list[Conflict] = []
    why: dict[str, str] = {}
    wave_of: dict[str, int] = {}
    for level in _levels(graph, order):
        level.sort(key=lambda id_: (by_id[id_].priority != "foreground", -tails[id_], id_))
        first = len(waves)
        packing = _pack(by_id[id_] for id_ in level)
        waves.extend(packing.waves)
        conflicts.extend(packing.conflicts)
        wave_of.update((id_, first + at) for at, wave in enumerate(packing.waves) for id_ in wave)
        held: dict[str, list[Conflict]] = defaultdict(list)
        for conflict in packing.conflicts:
            held[conflict.workstream].append(conflict)
        for id_ in level:
            why[id_] = _explain(wave_of, id_, graph[id_], held[id_])

    total = len(ordered)
    steps = makespan(waves, max_workers or max(total, 1))
    return ExecutionPlan(
        waves=waves,
        total_waves=len(waves),
        total_workstreams=total,
        dependency_graph=graph,
        critical_path=path,
        critical_path_length=tails[path[0]] if path else 0.0,
        conflicts=conflicts,
        why=dict(sorted(why.items())),
        max_parallelism=max(map(len, waves), default=0),
        estimated_speedup=total / steps if steps else 1.0,
        bottlenecks=sorted(wave[0] for wave in waves if len(wave) == 1 and not by_id[wave[0]].parallel_ok),
    )


def critical_path(graph: Graph, weights: Mapping[str, float]) -> tuple[list[str], float]:
    """The heaviest chain of dependencies of a graph without cycles, first to last, and its weight (1 for who has none)."""
    path, tails = _critical_path(graph, _topological(graph), weights)
    return path, tails[path[0]] if path else 0.0


def makespan(waves: Iterable[Sequence[str]], workers: int) -> int:
    """Unit steps until the last wave ends, when each workstream takes one and each wave waits for the one before."""
    return sum(-(-len(wave) // workers) for wave in waves)


_ALONE: Final = "parallel_ok=false"


class Footprint(msgspec.Struct, frozen=True):
    """What a workstream keeps others from: `keys` are those of its declared patterns (services.scope.overlap_key)."""

    alone: bool
    group: str | None
    keys: tuple[str, ...]


def footprint(bundle: WorkstreamBundle) -> Footprint:
    """What `clash` needs of a workstream."""
    keys = tuple({scope.overlap_key(pattern): None for pattern in _scope_of(bundle)})
    return Footprint(not bundle.parallel_ok, bundle.conflict_group, keys)


def clash(a: Footprint, b: Footprint) -> bool:
    """Whether two workstreams that do not depend on each other may not be under way together."""
    if a.alone or b.alone or (a.group is not None and a.group == b.group):
        return True
    return any(one.startswith(other) or other.startswith(one) for one in a.keys for other in b.keys)


def _scope_reason(a: str, b: str) -> str:
    return f"file_scope:{_short(a)}" if a == b else f"file_scope:{_short(a)} overlaps {_short(b)}"


def _short(pattern: str) -> str:
    """A pattern may be long, and stands in a reason for every workstream it held back."""
    return pattern if len(pattern) <= PATTERN_CHARS_SHOWN else pattern[:PATTERN_CHARS_SHOWN] + "..."


def _scope_of(bundle: WorkstreamBundle) -> list[str]:
    return sorted({*bundle.files_scope, *bundle.files_create})


def _topological(graph: Graph) -> list[str]:
    """All ids, dependencies first."""
    open_count = {id_: len(needed) for id_, needed in graph.items()}
    dependents = _reversed(graph)
    ready = [id_ for id_, count in open_count.items() if count == 0]
    for id_ in ready:
        for dependent in dependents[id_]:
            open_count[dependent] -= 1
            if open_count[dependent] == 0:
                ready.append(dependent)
    return ready


def _reversed(graph: Graph) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {id_: [] for id_ in graph}
    for id_, needed in graph.items():
        for other in needed:
            dependents[other].append(id_)
    return dependents


def _levels(graph: Graph, order: Sequence[str]) -> list[list[str]]:
    depth: dict[str, int] = {}
    levels: list[list[str]] = []
    for id_ in order:
        depth[id_] = max((depth[other] + 1 for other in graph[id_]), default=0)
        if depth[id_] == len(levels):
            levels.append([])
        levels[depth[id_]].append(id_)
    return levels


def _critical_path(
    graph: Graph, order: Sequence[str], weights: Mapping[str, float]
) -> tuple[list[str], dict[str, float]]:
    """The heaviest chain, and for each id the weight of the heaviest chain that starts with it. Ties go to the smaller id."""
    dependents = _reversed(graph)
    tails: dict[str, float] = {}
    following: dict[str, str | None] = {}
    for id_ in reversed(order):
        best = min(dependents[id_], key=lambda other: (-tails[other], other), default=None)
        following[id_] = best
        tails[id_] = weights.get(id_, 1.0) + (tails[best] if best is not None else 0.0)
    path: list[str] = []
    at = min(order, key=lambda id_: (-tails[id_], id_), default=None)
    while at is not None:
        path.append(at)
        at = following[at]
    return path, tails


class _Taken:
    """The waves in which something is taken, each with who took it; finds the next free one without stepping."""

    __slots__ = ("_next", "by")

    def __init__(self) -> None:
        self.by: dict[int, tuple[str, str]] = {}
        self._next: dict[int, int] = {}

    def add(self, wave: int, owner: tuple[str, str]) -> None:
        if wave not in self.by:
            self.by[wave] = owner
            self._next[wave] = wave + 1

    def free_from(self, wave: int) -> int:
        """The first wave from `wave` on that is not taken. (A disjoint set whose links are halved on the way.)"""
        links = self._next
        while wave in links:
            links[wave] = links.get(links[wave], links[wave])
            wave = links[wave]
        return wave


class _Blocker(msgspec.Struct, frozen=True):
    """A set of taken waves, and the reason to give when it takes one that is wanted."""

    taken: _Taken
    own: str
    is_scope: bool = False

    def reason(self, theirs: str) -> str:
        return _scope_reason(self.own, theirs) if self.is_scope else self.own


class _Packing:
    """The waves of one level while it is filled."""

    def __init__(self, level: Sequence[WorkstreamBundle]) -> None:
        self.waves: list[list[str]] = []
        self.conflicts: list[Conflict] = []
        self._scopes = {bundle.id: [(scope.overlap_key(p), p) for p in _scope_of(bundle)] for bundle in level}
        self._enclosing = scope.nesting(key for keyed in self._scopes.values() for key, _ in keyed)
        self._closed = _Taken()
        self._groups: dict[str, _Taken] = defaultdict(_Taken)
        self._at_key: dict[str, _Taken] = defaultdict(_Taken)
        self._below_key: dict[str, _Taken] = defaultdict(_Taken)
        # What a key may not enter only grows, so the first wave it may enter never moves back.
        self._first_free: dict[str, int] = defaultdict(int)

    def add_alone(self, id_: str) -> None:
        if self.waves:
            self.conflicts.append(Conflict(workstream=id_, other=self.waves[0][0], reason=_ALONE))
        self._closed.add(len(self.waves), (id_, ""))
        self.waves.append([id_])

    def add(self, id_: str, group: str | None) -> None:
        blockers = [_Blocker(self._closed, _ALONE)]
        if group is not None:
            blockers.append(_Blocker(self._groups[group], f"conflict_group:{group}"))
        start = 0
        for key, pattern in self._scopes[id_]:
            of_key = self._scope_blockers(key, pattern)
            self._first_free[key] = _settle(of_key, self._first_free[key])
            start = max(start, self._first_free[key])
            blockers += of_key
        self._blame(id_, blockers, 0)
        wave = start
        for _ in range(JUMPS_MAX):
            blocked = _first_blocked(blockers, wave)
            if blocked is None:
                break
            self._blame(id_, [blocked], wave)
            wave = blocked.taken.free_from(wave)
        else:
            wave = len(self.waves)
        self._enter(wave, id_, group)

    def _scope_blockers(self, key: str, pattern: str) -> list[_Blocker]:
        """What lies at or below the key, and what encloses it."""
        blockers = [_Blocker(self._below_key[key], pattern, is_scope=True)] if key in self._below_key else []
        blockers += [
            _Blocker(self._at_key[outer], pattern, is_scope=True)
            for outer in _chain(self._enclosing, self._enclosing[key])
            if outer in self._at_key
        ]
        return blockers

    def _blame(self, id_: str, blockers: Sequence[_Blocker], wave: int) -> None:
        blocked = _first_blocked(blockers, wave)
        if blocked is None:
            return
        other, theirs = blocked.taken.by[wave]
        conflict = Conflict(workstream=id_, other=other, reason=blocked.reason(theirs))
        if not self.conflicts or self.conflicts[-1] != conflict:
            self.conflicts.append(conflict)

    def _enter(self, wave: int, id_: str, group: str | None) -> None:
        if wave == len(self.waves):
            self.waves.append([])
        self.waves[wave].append(id_)
        if group is not None:
            self._groups[group].add(wave, (id_, ""))
        for key, pattern in self._scopes[id_]:
            self._at_key[key].add(wave, (id_, pattern))
            for outer in _chain(self._enclosing, key):
                self._below_key[outer].add(wave, (id_, pattern))


def _first_blocked(blockers: Iterable[_Blocker], wave: int) -> _Blocker | None:
    return next((blocker for blocker in blockers if wave in blocker.taken.by), None)


def _settle(blockers: Sequence[_Blocker], wave: int) -> int:
    """The first wave from `wave` on that none of them takes."""
    while (blocked := _first_blocked(blockers, wave)) is not None:
        wave = blocked.taken.free_from(wave)
    return wave


def _chain(enclosing: Mapping[str, str | None], key: str | None) -> Iterator[str]:
    while key is not None:
        yield key
        key = enclosing[key]


def _pack(level: Iterable[WorkstreamBundle]) -> _Packing:
    """First fit, in the order given, by the rules in their order: alone, conflict group, scope."""
    level = list(level)
    packing = _Packing(level)
    for bundle in level:
        if bundle.parallel_ok:
            packing.add(bundle.id, bundle.conflict_group)
        else:
            packing.add_alone(bundle.id)
    return packing


def _explain(wave_of: Mapping[str, int], id_: str, needed: Sequence[str], held: Sequence[Conflict]) -> str:
    last = max(needed, key=lambda other: (wave_of[other], other), default=None)
    text = (
        f"wave {wave_of[id_]}: no dependencies"
        if last is None
        else f"wave {wave_of[id_]}: depends on {last} in wave {wave_of[last]}"
    )
    if held:
        text += "; not earlier because of " + ", ".join(f"{c.other} ({c.reason})" for c in held[:LISTED_MAX])
        if len(held) > LISTED_MAX:
            text += f" and {len(held) - LISTED_MAX} more"
    return text


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One error or warning of a plan; `workstream` is empty when it is about the whole plan, or counts the rest."""

    code: str
    message: str
    remedy: str
    workstream: str = ""

    def __str__(self) -> str:
        where = f" {self.workstream}" if self.workstream else ""
        return f"{self.code}{where}: {self.message}; {self.remedy}"


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """Two workstreams that do not wait for each other, and the declared patterns that keep them apart."""

    workstream: str
    other: str
    pattern: str
    other_pattern: str


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan would do, and what speaks against it.

    total_cost_limit_usd: the sum of `max_cost_usd` over the workstreams that declare one, as an exact decimal.
    what_if: number of workers to the unit steps the run would take.
    plan: None when there is an error in the dependencies.
    overlaps: pairs that are kept apart by their scopes alone, the first OVERLAPS_KEPT.
    """

    valid: bool
    errors: list[Finding]
    warnings: list[Finding]
    total_cost_limit_usd: str
    what_if: dict[int, int]
    plan: ExecutionPlan | None
    overlaps: list[Overlap]

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def to_text(self) -> str:
        """Waves, estimates and findings as plain text with aligned columns."""
        lines = [f"plan: {'valid' if self.valid else 'NOT VALID'}"]
        if self.plan is not None:
            lines += _plan_lines(self.plan)
            rows = [("workers", "steps"), *((str(w), str(s)) for w, s in self.what_if.items())]
            lines += ["", *_columns(rows)]
            lines += ["", f"cost limit: {self.total_cost_limit_usd} USD"]
        for title, findings in (("errors", self.errors), ("warnings", self.warnings)):
            if findings:
                lines += ["", f"{title}:", *(f"  {finding}" for finding in _first_of_each_code(findings))]
        return "\n".join(lines) + "\n"


def validate_plan(
    bundles: Iterable[WorkstreamBundle],
    *,
    known_tools: Collection[str] | None,
    max_workers: int,
    checks_present: Callable[[WorkstreamBundle], bool],
    registry: Registry | None = None,
    windows: Mapping[str, int] | None = None,
    files: Collection[str] | None = None,
    budget_usd: float | None = None,
) -> PlanReport:
    """Check a set of workstreams without side effects.

    `known_tools` are the tool profiles there are (None: not known, not checked). `checks_present` says whether anything
    at all checks a workstream, with repository, context and bundle taken into account; `gates: none` is handled here.
    `registry` is what routes capabilities, as far as its tools can be asked (None: there is none). `windows` are the
    tokens that tools can hold, as far as they are known; `files` the paths of the base commit (None: not known);
    `budget_usd` the money of the run (None: no budget).

    Errors: DUPLICATE_ID, UNKNOWN_DEPENDENCY, CYCLE, UNKNOWN_TOOL, NO_CHECKS, INVALID_COMPENSATION,
    COMPENSATION_UNAVAILABLE, DUPLICATE_GATE, MISSING_CONTEXT, PAYLOAD_TOO_LARGE, TOO_MANY_FILES, FORBIDDEN_PATH. Warnings: EMPTY_PLAN,
    NOT_ENFORCED, NOT_ROUTED, SCOPE_OVERLAP, NO_COST_LIMIT, NO_CONTEXT_ESTIMATE, SINGLETON_WAVE, CONTEXT_OVER_WINDOW,
    LIMITS_OVER_BUDGET, SCOPE_UNMATCHED, BEYOND_ONE_RUN.
    """
    ordered = sorted(bundles, key=lambda bundle: bundle.id)
    errors: list[Finding] = []
    plan = None
    try:
        plan = build_execution_plan(ordered, max_workers)
    except BundleValidationError as error:
        errors += [
            Finding(code=p.code, workstream=p.workstream, message=p.message, remedy=p.remedy) for p in error.problems
        ]
    errors += _unknown_tools(ordered, known_tools) + _unchecked(ordered, checks_present)
    errors += [finding for bundle in ordered for finding in _uncompensable(bundle)]
    errors += [finding for bundle in ordered for finding in _unservable(bundle, registry)]
    errors += [finding for bundle in ordered for finding in _doubled_gates(bundle)]
    warnings = [finding for bundle in ordered for finding in _not_enforced(bundle)]
    warnings += _unrouted(ordered, registry)
    if not ordered:
        warnings.append(
            Finding(code="EMPTY_PLAN", message="there is no workstream", remedy="declare at least one in a bundle")
        )
    overlaps: list[Overlap] = []
    if plan is not None:
        overlaps, told = _overlaps(ordered, plan)
        warnings += told + _singletons(plan)
    warnings += _unlimited(ordered) + _beyond(ordered) + _overfilled(ordered, windows or {})
    warnings += [] if files is None else _unmatched(ordered, files)
    limits = sum((Decimal(str(b.max_cost_usd)) for b in ordered if b.max_cost_usd is not None), Decimal(0))
    if budget_usd is not None and limits > Decimal(str(budget_usd)):
        warnings.append(
            Finding(
                code="LIMITS_OVER_BUDGET",
                message=f"the workstreams may cost {limits:f} USD together, more than the budget of {budget_usd:g} USD",
                remedy="raise the budget, lower max_cost_usd, or expect the run to pause when it is used up",
            )
        )
    pools = sorted({*WHAT_IF_WORKERS, max_workers})
    return PlanReport(
        valid=not errors,
        errors=errors,
        warnings=warnings,
        total_cost_limit_usd=f"{limits:f}",
        what_if={workers: makespan(plan.waves, workers) for workers in pools} if plan is not None else {},
        plan=plan,
        overlaps=overlaps,
    )


def _unknown_tools(bundles: Iterable[WorkstreamBundle], known: Collection[str] | None) -> list[Finding]:
    if known is None:
        return []
    listed = ", ".join(sorted(known)[:LISTED_MAX]) or "none"
    findings = []
    for bundle in bundles:
        checks = bundle.checks
        named = [bundle.tool, *(checks.static_tools or ()), checks.runtime_tool]
        named += [*(checks.autofix or ()), checks.fix_tool, *(checks.fix_tiers or ())]
        findings += [
            Finding(
                code="UNKNOWN_TOOL",
                workstream=bundle.id,
                message=f"there is no tool profile '{tool}'",
                remedy=f"add it to the tool profiles, or name one of: {listed}",
            )
            for tool in dict.fromkeys(named)
            if tool is not None and tool not in known
        ]
    return findings


def _unchecked(
    bundles: Iterable[WorkstreamBundle], checks_present: Callable[[WorkstreamBundle], bool]
) -> list[Finding]:
    return [
        Finding(
            code="NO_CHECKS",
            workstream=bundle.id,
            message="nothing checks this workstream",
            remedy="name static_tools or runtime_tool in swell.toml, add acceptance_tests or required test_gates, "
            'or set metadata.swell.gates to "none"',
        )
        for bundle in bundles
        if bundle.checks.gates != "none" and not checks_present(bundle)
    ]


def _uncompensable(bundle: WorkstreamBundle) -> list[Finding]:
    """Compensation actions that nobody could carry out when they are needed."""
    try:
        actions = parse_actions(bundle.compensation_actions)
    except CompensationError as error:
        return [
            Finding(
                code="INVALID_COMPENSATION",
                workstream=bundle.id,
                message=str(error).rstrip("."),
                remedy="correct compensation_actions",
            )
        ]
    return [
        Finding(
            code="COMPENSATION_UNAVAILABLE",
            workstream=bundle.id,
            message="git:revert is not available in this version",
            remedy='revert the branch by hand, or write "cmd:<command line>" or "branch:delete"',
        )
        for action in actions
        if isinstance(action, GitRevert)
    ][:1]


def _unservable(bundle: WorkstreamBundle, registry: Registry | None) -> list[Finding]:
    """What the route of its capability, or the registry's limits, do not allow."""
    route = None if registry is None or bundle.capability is None else registry.capabilities.get(bundle.capability)
    if registry is None or route is None:
        return []
    payload = payload_of(bundle)
    named = bundle.capability_payload.get("files", ())
    breaches = missing_context(route, payload)
    breaches += beyond_limits(registry.security, payload, [*bundle.files_scope, *bundle.files_create, *named])
    return [
        Finding(
            code=breach.code,
            workstream=bundle.id,
            message=f"capability {bundle.capability}: {breach.field} {breach.message}",
            remedy=breach.remedy,
        )
        for breach in breaches
    ]


def _unrouted(bundles: Sequence[WorkstreamBundle], registry: Registry | None) -> list[Finding]:
    """Workstreams whose capability nothing routes, so that their own tool does the work."""
    found: list[Finding] = []
    routed = {} if registry is None else registry.capabilities
    for capability in sorted({bundle.capability for bundle in bundles if bundle.capability is not None}):
        if capability not in routed:
            found += _listed(
                "NOT_ROUTED",
                [bundle.id for bundle in bundles if bundle.capability == capability],
                f"nothing routes its capability {capability}; its own tool is used",
                "give the AIM registry a route whose tools have profiles, or leave capability out",
            )
    return found


def _doubled_gates(bundle: WorkstreamBundle) -> list[Finding]:
    """Types of gates that a bundle asks for more than once: it is not certain which entry is meant."""
    types = Counter(gate.type for gate in bundle.test_gates)
    return [
        Finding(
            code="DUPLICATE_GATE",
            workstream=bundle.id,
            message=f"test_gates has {type_} {count} times",
            remedy="keep one entry",
        )
        for type_, count in types.items()
        if count > 1
    ]


def _not_enforced(bundle: WorkstreamBundle) -> list[Finding]:
    known = BreakerOverride.__struct_fields__
    return [
        Finding(
            code="NOT_ENFORCED",
            workstream=bundle.id,
            message=f"circuit_breaker.{key[:NAME_CHARS_MAX]!a} is not enforced",
            remedy="do not rely on it",
        )
        for key in sorted(bundle.circuit_breaker or {})[:LISTED_MAX]
        if key not in known
    ]


def _unlimited(bundles: Sequence[WorkstreamBundle]) -> list[Finding]:
    unlimited = [b.id for b in bundles if b.max_cost_usd is None]
    unestimated = [b.id for b in bundles if b.estimated_context_tokens is None]
    return _listed(
        "NO_COST_LIMIT", unlimited, "declares no max_cost_usd", "set it to see the sum of all limits"
    ) + _listed(
        "NO_CONTEXT_ESTIMATE",
        unestimated,
        "declares no estimated_context_tokens",
        "set it to have it compared with what the tool can hold",
    )


def _beyond(bundles: Sequence[WorkstreamBundle]) -> list[Finding]:
    if len(bundles) <= WORKSTREAMS_MAX:
        return []
    message = f"{len(bundles)} workstreams can be planned, but one run takes at most {WORKSTREAMS_MAX}"
    return [Finding(code="BEYOND_ONE_RUN", message=message, remedy="submit them in several runs")]


def _overfilled(bundles: Iterable[WorkstreamBundle], windows: Mapping[str, int]) -> list[Finding]:
    """Workstreams that expect more context than their own tool can hold."""
    over: dict[str, list[str]] = defaultdict(list)
    for bundle in bundles:
        if bundle.tool in windows and (bundle.estimated_context_tokens or 0) > windows[bundle.tool]:
            over[bundle.tool].append(bundle.id)
    return [
        finding
        for tool, ids in sorted(over.items())
        for finding in _listed(
            "CONTEXT_OVER_WINDOW",
            ids,
            f"expects more context than {tool} can hold ({windows[tool]} tokens)",
            "divide it, or name a tool with a larger window",
        )
    ]


def _unmatched(bundles: Sequence[WorkstreamBundle], files: Collection[str]) -> list[Finding]:
    """Workstreams with a pattern in `files_scope` that stands for no file there is, nor for one that is to be created."""
    listed = sorted({*files, *(pattern for bundle in bundles for pattern in bundle.files_create)})
    unmatched = _matching_none({pattern for bundle in bundles for pattern in bundle.files_scope}, listed)
    found = [(bundle.id, pattern) for bundle in bundles for pattern in bundle.files_scope if pattern in unmatched]
    remedy = "mend files_scope, or name what is to be created in files_create"
    findings = [
        Finding(
            code="SCOPE_UNMATCHED",
            workstream=id_,
            message=f"declares {_short(pattern)}, which stands for no file of the base commit",
            remedy=remedy,
        )
        for id_, pattern in found[:LISTED_MAX]
    ]
    if (more := len(found) - LISTED_MAX) > 0:
        message = f"and {more} more paths that stand for no file of the base commit"
        findings.append(Finding(code="SCOPE_UNMATCHED", message=message, remedy=remedy))
    return findings


def _matching_none(patterns: Collection[str], listed: Sequence[str]) -> set[str]:
    """The patterns that cover none of the sorted paths."""
    known = set(listed)
    trials = 0
    found = set()
    for pattern in sorted(patterns):
        if pattern in known:
            continue
        key = scope.overlap_key(pattern)
        parsed = scope.ScopePattern(text=pattern)
        covered = False
        for at in range(bisect_left(listed, key), len(listed)):
            trials += 1
            covered = trials > SCOPE_TRIALS_MAX or parsed.covers(listed[at])
            if covered or not listed[at].startswith(key):
                break
        if not covered:
            found.add(pattern)
    return found


def _singletons(plan: ExecutionPlan) -> list[Finding]:
    if plan.total_workstreams == 1:
        return []
    alone = [wave[0] for wave in plan.waves if len(wave) == 1]
    return _listed("SINGLETON_WAVE", alone, "runs alone in its wave", "look at `why` in the plan for the reason")


def _listed(code: str, ids: Sequence[str], message: str, remedy: str) -> list[Finding]:
    findings = [Finding(code=code, workstream=id_, message=message, remedy=remedy) for id_ in ids[:LISTED_MAX]]
    if (more := len(ids) - LISTED_MAX) > 0:
        findings.append(Finding(code=code, message=f"and {more} more workstreams: {message}", remedy=remedy))
    return findings


def _overlaps(bundles: Sequence[WorkstreamBundle], plan: ExecutionPlan) -> tuple[list[Overlap], list[Finding]]:
    """Pairs that overlap in scope although neither waits for the other, directly or not."""
    remedy = "add a dependency if the order matters, or separate their scopes"
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    looked = 0
    for a, mine, b, theirs in _overlapping(bundles):
        looked += 1
        if looked > OVERLAP_PAIRS_MAX:
            break
        pairs.setdefault((min(a, b), max(a, b)), (mine, theirs) if a < b else (theirs, mine))
    free = independent(plan.dependency_graph, pairs)
    overlaps = [
        Overlap(workstream=a, other=b, pattern=_short(pairs[a, b][0]), other_pattern=_short(pairs[a, b][1]))
        for a, b in free[:OVERLAPS_KEPT]
    ]
    findings = [
        Finding(
            code="SCOPE_OVERLAP",
            workstream=one.workstream,
            message=f"is independent of {one.other} but will not run beside it "
            f"({_scope_reason(one.pattern, one.other_pattern)})",
            remedy=remedy,
        )
        for one in overlaps[:LISTED_MAX]
    ]
    if (more := len(free) - LISTED_MAX) > 0:
        least = "at least " if looked > OVERLAP_PAIRS_MAX else ""
        findings.append(
            Finding(
                code="SCOPE_OVERLAP",
                message=f"and {least}{more} more independent pairs that will not run at the same time",
                remedy=remedy,
            )
        )
    return overlaps, findings


def independent(graph: Graph, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the pairs, in their order, of which neither workstream waits for the other, directly or not."""
    order = _topological(graph)
    rank = {id_: at for at, id_ in enumerate(order)}
    depth = {id_: at for at, level in enumerate(_levels(graph, order)) for id_ in level}
    asked = list(pairs)
    # Within a level nobody waits for anybody; else only the later one may wait for the earlier one.
    doubtful: dict[str, list[str]] = defaultdict(list)
    for a, b in asked:
        if depth[a] != depth[b]:
            earlier, later = (a, b) if rank[a] < rank[b] else (b, a)
            doubtful[earlier].append(later)
    ordered: set[tuple[str, str]] = set()
    sources = sorted(doubtful, key=rank.__getitem__)
    for first in range(0, len(sources), SOURCES_AT_ONCE):
        block = sources[first : first + SOURCES_AT_ONCE]
        last = max(rank[later] for earlier in block for later in doubtful[earlier])
        reached = _reached(graph, order[rank[block[0]] : last + 1], block)
        for bit, earlier in enumerate(block):
            ordered.update((earlier, later) for later in doubtful[earlier] if reached[later] >> bit & 1)
    return [(a, b) for a, b in asked if (a, b) not in ordered and (b, a) not in ordered]


def _reached(graph: Graph, order: Sequence[str], sources: Sequence[str]) -> dict[str, int]:
    """For each id of `order` the sources that it is, or waits for, as bits in their order; none stands before `order`."""
    own = {id_: 1 << bit for bit, id_ in enumerate(sources)}
    reached: dict[str, int] = {}
    for id_ in order:
        bits = own.get(id_, 0)
        for other in graph[id_]:
            bits |= reached.get(other, 0)
        reached[id_] = bits
    return reached


def _overlapping(bundles: Iterable[WorkstreamBundle]) -> Iterator[tuple[str, str, str, str]]:
    """Each (id, pattern, other id, its pattern) that overlaps, by way of the keys that enclose each other."""
    owners: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for bundle in bundles:
        for pattern in _scope_of(bundle):
            owners[scope.overlap_key(pattern)].append((bundle.id, pattern))
    enclosing = scope.nesting(owners)
    for key in sorted(owners):
        if len(owners[key]) == 1 and enclosing[key] is None:
            continue
        for at, (a, mine) in enumerate(owners[key]):
            outer = (owner for above in _chain(enclosing, enclosing[key]) for owner in owners[above])
            for b, theirs in chain(owners[key][:at], outer):
                if a != b:
                    yield a, mine, b, theirs


def _plan_lines(plan: ExecutionPlan) -> list[str]:
    rows = [("wave", "size", "workstreams")]
    for at, wave in enumerate(plan.waves):
        more = f" and {len(wave) - LISTED_MAX} more" if len(wave) > LISTED_MAX else ""
        rows.append((str(at), str(len(wave)), " ".join(wave[:LISTED_MAX]) + more))
    path = " -> ".join(plan.critical_path[:LISTED_MAX]) + (" -> ..." if len(plan.critical_path) > LISTED_MAX else "")
    return [
        f"{plan.total_workstreams} workstreams in {plan.total_waves} waves, speedup {plan.estimated_speedup:.2f}",
        "",
        *_columns(rows),
        "",
        f"critical path ({plan.critical_path_length:g}): {path}",
    ]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _first_of_each_code(findings: Sequence[Finding]) -> list[str]:
    seen: Counter[str] = Counter()
    lines = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= LISTED_MAX + 1:
            lines.append(str(finding))
    lines += [f"{code}: and {n - LISTED_MAX - 1} more" for code, n in sorted(seen.items()) if n > LISTED_MAX + 1]
    return lines
