"""A run's whole definition, pinned by content at submission: what is to be done, where, and by which rules.

Stored once as an artifact and named by digest in the log. Scheduler and executors derive the same things from it, among
them the identity of every check, so that a verdict can be reused wherever the same check meets the same tree.
"""

import hashlib
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from services.aim import Registry, Route, route_for
from services.bundle import BundleGate, GateType, WorkstreamBundle, WorkstreamChecks
from services.checks import Checks, EffectiveChecks
from services.events import Check, CheckKind, Destination, Step
from services.gates import Gate, asked_for
from services.outcome import BudgetMode, NanoUsd
from services.plan import Footprint, footprint
from services.plugins import in_force
from services.profiles import ToolProfile, is_capped, placeholders

CHECKS_NAMED_MAX = 100
"""Checks that one event names; more are meant together, and derived again from the definition."""

CHECK_NAME_CHARS = 200
"""Characters of a check's name in events; the whole text of an acceptance test stands in the definition."""

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges over the plan's order, ascending and apart."""


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """Where the work happens. `location`: a path or URL the executors can fetch from; `base_tree`: the base commit's tree."""

    location: str
    base_commit: str
    base_ref: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to run. `context` holds further values for tool arguments (strings, numbers, booleans, lists of strings).

    Defaults: 4 attempts at a time, no delay between waves, one hour for the run, 15 minutes for a command to be claimed,
    2 losses of an executor before an attempt is given up. `scheduling`: in waves, or each workstream as soon as its
    dependencies are merged. `review`: whether what no automatic recovery helps waits for a person, or fails. `paused`:
    nothing is started before somebody resumes the run. `verdict_reuse_s`: how old a verdict of another run may be, seconds; 0: none counts. `budget_nano`: what all attempts together may cost, in nano-dollars
    (None: anything), and `budget_mode` what follows when it is used up. `pool` does the work; `other_pools`, in order, do
    what it has no tool for. `deliver`: after each wave, at the end of the run, or only when somebody asks; `destination` is
    where to and how.
    """

    max_workers: int = 4
    wave_delay_s: float = 0.0
    fail_fast: bool = False
    dry_run: bool = False
    timeout_s: float = 3600.0
    stepwise: bool = False
    queue_timeout_s: float = 900.0
    losses_max: int = 2
    pool: str = "default"
    other_pools: list[str] = []
    scheduling: Literal["barrier", "eager"] = "barrier"
    review: Literal["wait", "fail"] = "wait"
    paused: bool = False
    budget_nano: NanoUsd | None = None
    budget_mode: BudgetMode = "halt"
    verdict_reuse_s: float = 0.0
    deliver: Literal["wave", "end", "never"] = "wave"
    destination: Destination = Destination()
    context: dict[str, Any] = {}


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a run. `waves` are the plan; `breaker` is FIX-loop policy and `recovery` the recovery table, each in
    the form of its config file. `registry` is what routes the capabilities of its bundles, pinned; left out when none asks
    for one. `gates` is what gates stand for; empty when no workstream asks for one.
    """

    run: str
    repository: Repository
    bundles: list[WorkstreamBundle]
    waves: list[list[str]]
    checks: Checks
    profiles: dict[str, ToolProfile]
    breaker: dict[str, Any] = {}
    recovery: dict[str, Any] = {}
    options: Options = Options()
    actor: str = ""
    version: int = 1
    registry: Registry | UnsetType = UNSET
    gates: dict[GateType, Gate] = {}


_decoder = msgspec.json.Decoder(RunSpec)


def encode_spec(spec: RunSpec) -> bytes:
    """Canonical bytes: equal specs have equal digests."""
    return msgspec.json.encode(spec, order="sorted")


def decode_spec(data: bytes) -> RunSpec:
    """Raises ValueError when the bytes are not a spec of this version."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ValueError(f"not a run definition of this version: {error}") from error


class Definitions:
    """What a spec implies: order, bundles by id, the checks each workstream must pass and their identities."""

    def __init__(self, spec: RunSpec) -> None:
        """Derives nothing that could fail: the spec was validated before it was stored."""
        self.spec = spec
        self.order: list[str] = [workstream for wave in spec.waves for workstream in wave]
        self.index = {workstream: index for index, workstream in enumerate(self.order)}
        self.wave_of = [number for number, wave in enumerate(spec.waves) for _ in wave]
        self.bundles = {bundle.id: bundle for bundle in spec.bundles}
        self._checks: dict[str, EffectiveChecks] = {}
        self._resolved: dict[WorkstreamChecks, EffectiveChecks] = {}
        self._footprints: dict[str, Footprint] = {}
        self._alike: bool | None = None
        self._all_strict: bool | None = None
        self._texts: dict[str, str] = {}
        self._own_only: set[str] = set()
        self._asked_for: dict[str, tuple[BundleGate, ...]] = {}
        self._identities: dict[tuple[str, str, str, Ranges | None, bool], Check] = {}
        self._routes: dict[str, Route | None] = {}
        self._chains: dict[tuple[str, Step], tuple[str, ...]] = {}
        self._capped: dict[tuple[str, bool], bool] = {}

    def footprint(self, workstream: str) -> Footprint:
        """What a workstream keeps others from while it is under way."""
        known = self._footprints.get(workstream)
        if known is None:
            known = self._footprints[workstream] = footprint(self.bundles[workstream])
        return known

    def checks(self, workstream: str) -> EffectiveChecks:
        """The checks of one workstream: repository, then run context, then its own `metadata.swell`; and all plugins."""
        known = self._checks.get(workstream)
        if known is None:
            override = self.bundles[workstream].checks
            known = self._resolved.get(override)
            if known is None:
                known = in_force(self.spec.checks, self.spec.options.context, override, self.spec.profiles)
                self._resolved[override] = known
            self._checks[workstream] = known
        return known

    def route(self, workstream: str) -> Route | None:
        """Who serves a workstream's capability, by the registry's ids, within the limits that its payload gives.

        None when it asks for none, or the pinned registry has no route for it.
        """
        if workstream not in self._routes:
            bundle, registry = self.bundles[workstream], self.spec.registry
            found = None
            if isinstance(registry, Registry) and bundle.capability is not None:
                found = registry.capabilities.get(bundle.capability)
            self._routes[workstream] = found and route_for(found, bundle.capability_payload)
        return self._routes[workstream]

    def routed(self, workstream: str) -> tuple[str, ...]:
        """The profile ids of a workstream's route, in order; () without one."""
        route, registry = self.route(workstream), self.spec.registry
        if route is None or not isinstance(registry, Registry):
            return ()
        known = (tool for tool in registry.profiles_of(route) if tool in self.spec.profiles)
        return tuple(dict.fromkeys(known))

    def chain(self, workstream: str, step: Step) -> tuple[str, ...]:
        """The profile ids to try for EDIT or FIX, the wanted one first; () for any other step.

        The route's tools, then the tool that the definition names and what its profile lists as fallback. FIX by a
        `fix_tool` of the checks is not routed.
        """
        known = self._chains.get((workstream, step))
        if known is None:
            known = self._chains[workstream, step] = self._chain(workstream, step)
        return known

    def _chain(self, workstream: str, step: Step) -> tuple[str, ...]:
        if step not in {"edit", "fix"}:
            return ()
        fix_tool = self.checks(workstream).fix_tool if step == "fix" else None
        routed = () if fix_tool else self.routed(workstream)
        direct = fix_tool or self.bundles[workstream].tool
        return tuple(dict.fromkeys((*routed, *self.with_fallbacks(direct))))

    def with_fallbacks(self, tool: str) -> tuple[str, ...]:
        """A tool and what its profile lists as fallback, as far as there are profiles."""
        profile = self.spec.profiles.get(tool)
        fallback = () if profile is None else profile.fallback
        return (tool, *(other for other in fallback if other in self.spec.profiles))

    def is_capped(self, tool: str, *, fix: bool) -> bool:
        """Whether a call of a tool that has a profile can be held to an amount of money (services.profiles.is_capped)."""
        known = self._capped.get((tool, fix))
        if known is None:
            known = self._capped[tool, fix] = is_capped(self.spec.profiles[tool], fix=fix)
        return known

    def static(self, workstream: str) -> list[Check]:
        """The STATIC checks of a workstream on its own files, in order."""
        return self._static([workstream], self._own(workstream))

    def runtime(self, workstream: str) -> list[Check]:
        """The RUNTIME checks of a workstream: its runtime tool, its acceptance tests, then those of its gates that do not
        wait for the wave's boundary, required or not.
        """
        own = self._own(workstream)
        return self._runtime([workstream], own) + self._gates([workstream], own)

    def gates(self, workstream: str) -> tuple[BundleGate, ...]:
        """The gates that a workstream asks for: those of its repository, then its bundle's; of one type the bundle's."""
        known = self._asked_for.get(workstream)
        if known is None:
            known = asked_for(self.checks(workstream).test_gates, self.bundles[workstream].test_gates)
            self._asked_for[workstream] = known
        return known

    def wave_gates(self, ranges: Sequence[tuple[int, int]]) -> list[Check]:
        """The gates, required or not, that judge once for all what the workstreams in these ranges have come to."""
        if not any(gate.wave_boundary for gate in self.spec.gates.values()):
            return []
        shown = self._representing(ranges)
        return self._gates(self._within(shown), shown, wave_boundary=True)

    def asked(self, step: Step, ranges: Sequence[tuple[int, int]]) -> list[Check]:
        """Every check that a step runs for the workstreams in these ranges: `required`, and in RUNTIME the gates that warn."""
        required = self.required(step, ranges)
        gates = self._gates(self._within(ranges), tuple(ranges)) if step == "runtime" else []
        return list(dict.fromkeys([*required, *gates]))

    def required(self, step: Step, ranges: Sequence[tuple[int, int]]) -> list[Check]:
        """Every check that a tree has passed once this step has passed for the workstreams in these ranges."""
        everything = self.line(ranges)
        match step:
            case "static":
                return [check for check in everything if check.kind == "static"]
            case "runtime":
                return [check for check in everything if check.kind != "static"]
            case "gate":
                return everything
            case _:
                return []

    def is_strict(self, check: Check, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether findings that are no hard fail fail this check of the workstreams in these ranges."""
        if check.kind != "static":
            return True
        return self._is_strict(check.name, self._within(ranges))

    def is_required(self, check: Check, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether it fails a step that this check does not pass: always, but for a gate that none of these requires."""
        return check.kind != "gate" or any(gate.required for gate in self._asking(check, ranges))

    def is_blocking(self, check: Check, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether a step ends with this check if it does not pass it: STATIC, and a gate that one of these requires so."""
        if check.kind == "gate":
            return any(gate.required and gate.blocking for gate in self._asking(check, ranges))
        return check.kind == "static"

    def tool(self, check: Check) -> str:
        """The id of the tool profile of a check; of an acceptance test, its name."""
        return self._tool(check.kind, check.name)

    def profile(self, check: Check) -> ToolProfile | None:
        """How the tool of a check is called; None for an acceptance test, and where there is no such profile."""
        return self._profile(check.kind, check.name)

    def is_shared(self, check: Check) -> bool:
        """Whether a verdict of it means the same in any run that has this check."""
        return check.check not in self._own_only

    def time_limit_s(self, check: Check, step_s: float) -> float:
        """Seconds that a check may take: those that its gate is given, else those of the step."""
        gate = self._gate(check.name) if check.kind == "gate" else None
        return step_s if gate is None or gate.timeout_s is None else gate.timeout_s

    def text(self, check: Check) -> str:
        """The whole text of an acceptance test; for any other check, its name."""
        return self._texts.get(check.check, check.name)

    def line(self, merged: Sequence[tuple[int, int]]) -> list[Check]:
        """What a tree must pass that carries these workstreams (ranges over the order): the union of their checks, and of
        the gates that they require and that do not wait for the wave's boundary.
        """
        ranges = self._representing(merged)
        workstreams = self._within(ranges)
        return (
            self._static(workstreams, ranges)
            + self._runtime(workstreams, ranges)
            + self._gates(workstreams, ranges, required=True)
        )

    def files(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """The declared scope of the workstreams in these ranges, without repetition, in plan order."""
        seen: dict[str, None] = {}
        for start, end in ranges:
            for workstream in self.order[start:end]:
                bundle = self.bundles[workstream]
                seen.update(dict.fromkeys([*bundle.files_scope, *bundle.files_create]))
        return list(seen)

    def _are_alike(self) -> bool:
        """Whether any workstream's checks are those of all: the same tools, none that is given files, no tests of its own."""
        if self._alike is None:
            first = self.checks(self.order[0]) if self.order else None
            gates = self.bundles[self.order[0]].test_gates if self.order else ()
            tools = (
                [] if first is None else [*first.static_tools, *([first.runtime_tool] if first.runtime_tool else [])]
            )
            tools += [gate.tool for gate in self.spec.gates.values()]
            profiles = [self.spec.profiles[tool] for tool in tools if tool in self.spec.profiles]
            self._alike = not any(_depends_on_files(profile) for profile in profiles) and all(
                self.checks(name) is first
                and not self.bundles[name].acceptance_tests
                and self.bundles[name].test_gates == gates
                for name in self.order
            )
        return self._alike

    def _within(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        return [workstream for start, end in ranges for workstream in self.order[start:end]]

    def _asking(self, check: Check, ranges: Sequence[tuple[int, int]]) -> Iterator[BundleGate]:
        """How the workstreams in these ranges ask for the gate that a check is."""
        shown = self._representing(ranges)
        return (gate for name in self._within(shown) for gate in self.gates(name) if gate.type == check.name)

    def _representing(self, ranges: Sequence[tuple[int, int]]) -> Ranges:
        """As many of these workstreams as it takes to see what checks all of them have."""
        whole: Ranges = tuple((start, end) for start, end in ranges)
        return tuple((start, start + 1) for start, _ in whole[:1]) if self._are_alike() else whole

    def _own(self, workstream: str) -> Ranges:
        index = self.index[workstream]
        return ((index, index + 1),)

    def _static(self, workstreams: Sequence[str], ranges: Ranges) -> list[Check]:
        tools = dict.fromkeys(tool for workstream in workstreams for tool in self.checks(workstream).static_tools)
        return [
            self._identify("static", tool, workstreams[0], ranges, strict=self._is_strict(tool, workstreams))
            for tool in tools
        ]

    def _is_strict(self, tool: str, workstreams: Sequence[str]) -> bool:
        """Whether one of those that ask for a static tool is strict; so is one that nobody asks for."""
        if self._all_strict is None:
            self._all_strict = all(self.checks(name).strict for name in self.order)
        if self._all_strict:
            return True
        asking = [checks.strict for checks in map(self.checks, workstreams) if tool in checks.static_tools]
        return any(asking) or not asking

    def _runtime(self, workstreams: Sequence[str], ranges: Ranges) -> list[Check]:
        tools = dict.fromkeys(
            tool for workstream in workstreams if (tool := self.checks(workstream).runtime_tool) is not None
        )
        tests = dict.fromkeys(text for workstream in workstreams for text in self.bundles[workstream].acceptance_tests)
        return [self._identify("runtime", tool, workstreams[0], ranges) for tool in tools] + [
            self._identify("acceptance", text, workstreams[0], ranges) for text in tests
        ]

    def _gates(
        self, workstreams: Sequence[str], ranges: Ranges, *, wave_boundary: bool = False, required: bool = False
    ) -> list[Check]:
        """The gates of these workstreams that wait for the wave's boundary, or do not; if `required`, without others."""
        wanted = {type_ for type_, gate in self.spec.gates.items() if gate.wave_boundary == wave_boundary}
        types = dict.fromkeys(
            gate.type
            for workstream in (workstreams if wanted else ())
            for gate in self.gates(workstream)
            if gate.type in wanted and (gate.required or not required)
        )
        return [self._identify("gate", type_, workstreams[0], ranges) for type_ in types]

    def _tool(self, kind: CheckKind, name: str) -> str:
        gate = self._gate(name) if kind == "gate" else None
        return name if gate is None else gate.tool

    def _profile(self, kind: CheckKind, name: str) -> ToolProfile | None:
        if kind == "acceptance":
            return None
        gate = self._gate(name) if kind == "gate" else None
        profile = self.spec.profiles.get(self._tool(kind, name))
        if profile is None or gate is None or gate.timeout_s is None:
            return profile
        return msgspec.structs.replace(profile, timeout_sec=gate.timeout_s)

    def _gate(self, name: str) -> Gate | None:
        return next((gate for type_, gate in self.spec.gates.items() if type_ == name), None)

    def _identify(self, kind: CheckKind, name: str, workstream: str, ranges: Ranges, *, strict: bool = True) -> Check:
        """A check is the same when its tool, its arguments, its environment, its files and what fails it are the same."""
        profile = self._profile(kind, name)
        takes_files = profile is not None and _depends_on_files(profile)
        setup = self.checks(workstream).setup
        key = (kind, name, repr(setup), ranges if takes_files else None, strict)
        known = self._identities.get(key)
        if known is None:
            named = placeholders(profile, fix=False) if profile is not None else set()
            given = {name: value for name, value in sorted(self.spec.options.context.items()) if name in named}
            files = self.files(ranges) if takes_files else None
            parts = [kind, name, profile, setup, given, files, *([] if strict else ["not strict"])]
            digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]
            short = name if len(name) <= CHECK_NAME_CHARS else f"{name[: CHECK_NAME_CHARS - 1]}…"
            known = Check(check=digest, kind=kind, name=short)
            if kind == "acceptance":
                self._texts[digest] = name
            if named & _OF_THE_ATTEMPT:
                self._own_only.add(digest)
            self._identities[key] = known
        return known


_OF_THE_ATTEMPT = frozenset({"run", "workstream", "attempt", "step"})
"""Placeholders by which a check is another one in every run."""


def _depends_on_files(profile: ToolProfile) -> bool:
    """Whether it matters to a tool which files a workstream declares: to what it is given, or to whether it is run."""
    return bool(profile.suffixes) or "files" in placeholders(profile, fix=False)


def ranges_without(ranges: Sequence[tuple[int, int]], index: int) -> Ranges:
    """Ascending, disjoint half-open ranges with one index less: ((0, 4),) without 2 is ((0, 2), (3, 4))."""
    parts = [
        part
        for start, end in ranges
        for part in ([(start, index), (index + 1, end)] if start <= index < end else [(start, end)])
    ]
    return tuple((start, end) for start, end in parts if start < end)


def ranges_with(ranges: Sequence[tuple[int, int]], index: int) -> Ranges:
    """Ascending, disjoint half-open ranges with one more index: ((0, 3), (5, 6)) with 3 is ((0, 4), (5, 6))."""
    at = bisect_right(ranges, (index, sys.maxsize))
    start, end = index, index + 1
    before, after = list(ranges[:at]), list(ranges[at:])
    if before and before[-1][1] >= index:
        start, known_end = before.pop()
        end = max(end, known_end)
    if after and after[0][0] == end:
        _, end = after.pop(0)
    return (*before, (start, end), *after)


STEP_TIMEOUT_S: dict[Step, float] = {
    "edit": 600.0,
    "static": 300.0,
    "runtime": 300.0,
    "fix": 300.0,
    "merge": 300.0,
    "gate": 600.0,
    "deliver": 300.0,
    "compensate": 300.0,
}
"""Time limits of the steps in seconds; edit, static, runtime and fix are overridden by `timeouts` of the breaker config."""
