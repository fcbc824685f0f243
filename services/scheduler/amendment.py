"""Definitions made from definitions: one that a person adjusted in review, and one for another try of a run that has ended.

Pure. Whatever is changed is validated as a submission is; what is not changed stays pinned as it was.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from services import scope
from services.bundle import (
    ITEMS_MAX,
    SET_BYTES_MAX,
    TEXT_CHARS_MAX,
    BundleValidationError,
    WorkstreamBundle,
    encode_bundles,
    parse_bundles,
)
from services.plan import PlanReport, validate_plan
from services.profiles import ToolProfile, overlay
from services.scheduler.breaker import parse_breaker_config
from services.scheduler.submission import SubmissionError, has_checks, pinned_profiles
from services.spec import RunSpec

ATTEMPTS_MAX = 1000
"""Runs of a step that circuit_breaker.max_attempts may allow; see services/bundle.py."""


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """What a person changes of one workstream; an empty field leaves things as they are."""

    workstream: str
    tool: str = ""
    add_files_scope: tuple[str, ...] = ()
    add_files_create: tuple[str, ...] = ()
    hint: str = ""
    more_attempts: int = 0


def amended(spec: RunSpec, change: Adjustment, profiles: Mapping[str, ToolProfile]) -> RunSpec:
    """The definition with one workstream adjusted. `profiles` are the scheduler's own; those pinned already win, and its
    plugins are those that the run began with.

    Its order and its waves stay: what clashes with a workstream under way is not started beside it, whatever the plan
    says. Raises SubmissionError, whose `field` is the field of the adjustment.
    """
    before = next((bundle for bundle in spec.bundles if bundle.id == change.workstream), None)
    if before is None:
        raise SubmissionError("workstream", f"the run has no workstream {change.workstream[:100]!r}")
    known = overlay({tool: own for tool, own in profiles.items() if own.plugin is None}, spec.profiles)
    after = msgspec.structs.replace(
        before,
        tool=_tool(change.tool or before.tool, known),
        capability=None if change.tool else before.capability,  # the tool that a person names comes before any route
        files_scope=_widened(before.files_scope, change.add_files_scope, "add_files_scope"),
        files_create=_widened(before.files_create, change.add_files_create, "add_files_create"),
        hints=_hinted(before.hints, change.hint),
        circuit_breaker=_allowing_more(spec, before, change.more_attempts),
    )
    if after == before:
        raise SubmissionError(
            "workstream", "nothing would change: give a tool, files, a hint or more attempts, or approve it as it is"
        )
    bundles = [after if bundle.id == after.id else bundle for bundle in spec.bundles]
    _check_bundle(after)
    report = _planned(spec, bundles, known)
    if report.errors:
        raise SubmissionError("workstream", "; ".join(str(finding) for finding in report.errors[:5]), "INVALID_PLAN")
    pinned = pinned_profiles(known, bundles, spec.checks, spec.options.context, spec.registry, spec.gates)
    return msgspec.structs.replace(spec, bundles=bundles, profiles={**spec.profiles, **pinned})


class Another(msgspec.Struct, frozen=True, kw_only=True):
    """Another try of a run: its new id, who asks, which workstreams it is made of, and where it starts."""

    run: str
    actor: str
    workstreams: frozenset[str]
    base_commit: str
    base_ref: str


def another(spec: RunSpec, wanted: Another) -> RunSpec:
    """The definition of a run of some workstreams of another one. Dependencies on others count as contained in its base.

    Raises SubmissionError when they cannot be planned any more.
    """
    bundles = [
        msgspec.structs.replace(bundle, depends_on=tuple(d for d in bundle.depends_on if d in wanted.workstreams))
        for bundle in spec.bundles
        if bundle.id in wanted.workstreams
    ]
    report = _planned(spec, bundles, spec.profiles)
    if report.errors or report.plan is None:
        raise SubmissionError("workstreams", "; ".join(str(f) for f in report.errors[:5]), "INVALID_PLAN")
    return msgspec.structs.replace(
        spec,
        run=wanted.run,
        repository=msgspec.structs.replace(
            spec.repository, base_commit=wanted.base_commit, base_ref=wanted.base_ref[:200]
        ),
        bundles=bundles,
        waves=[list(wave) for wave in report.plan.waves],
        options=msgspec.structs.replace(spec.options, paused=False),
        actor=wanted.actor,
    )


def chosen(spec: RunSpec, states: Mapping[str, str], named: Collection[str]) -> frozenset[str]:
    """The workstreams of another try: those that did not complete; of those, the named ones and what depends on them.

    What somebody has taken back is tried again only by its name. `states` are the final states. Raises SubmissionError when a
    named one does not exist or completed, or none is left.
    """
    bundles = {bundle.id: bundle for bundle in spec.bundles}
    undone = {name for name in bundles if states.get(name) != "completed"}
    if not undone:
        raise SubmissionError("workstreams", "every workstream of the run completed: there is nothing to try again")
    if not named:
        failed = {name for name in undone if states.get(name) not in {"compensated", "compensation_failed"}}
        if not failed:
            raise SubmissionError(
                "workstreams", "all that did not complete was taken back: name what is to be done again"
            )
        return frozenset(failed)
    for name in named:
        if name not in bundles:
            raise SubmissionError("workstreams", f"the run has no workstream {name[:100]!r}")
        if name not in undone:
            raise SubmissionError("workstreams", f"{name} completed: there is nothing to try again")
    found = set(named)
    for wave in spec.waves:  # dependencies come first in the plan's order
        for name in wave:
            if name in undone and found.intersection(bundles[name].depends_on):
                found.add(name)
    return frozenset(found)


def with_dependencies(spec: RunSpec, workstreams: Collection[str]) -> frozenset[str]:
    """These workstreams and everything they depend on, directly or not."""
    needed = {bundle.id: bundle.depends_on for bundle in spec.bundles}
    found = set(workstreams)
    pending = list(found)
    while pending:
        for dependency in needed[pending.pop()]:
            if dependency not in found:
                found.add(dependency)
                pending.append(dependency)
    return frozenset(found)


def _planned(spec: RunSpec, bundles: Sequence[WorkstreamBundle], profiles: Mapping[str, ToolProfile]) -> PlanReport:
    return validate_plan(
        bundles,
        known_tools=profiles.keys(),
        max_workers=spec.options.max_workers,
        checks_present=lambda bundle: has_checks(spec.checks, spec.options.context, bundle, profiles),
        registry=spec.registry or None,
    )


def _tool(tool: str, known: Mapping[str, ToolProfile]) -> str:
    if tool not in known:
        listed = ", ".join(sorted(known)[:20])
        raise SubmissionError("tool", f"there is no tool profile {tool[:100]!r}: use one of {listed}", "UNKNOWN_TOOL")
    return tool


def _widened(declared: Sequence[str], more: Sequence[str], field: str) -> tuple[str, ...]:
    found = dict.fromkeys(declared)
    for number, path in enumerate(more):
        try:
            found[scope.declare(path)] = None
        except scope.ScopeError as error:
            raise SubmissionError(f"{field}[{number}]", f"{error.args[0]}; {error.remedy}", "INVALID_SCOPE") from error
    if len(found) > ITEMS_MAX:
        raise SubmissionError(field, f"a workstream may declare {ITEMS_MAX} at most: name folders or globs")
    return tuple(found)


def _hinted(hints: tuple[str, ...], hint: str) -> tuple[str, ...]:
    if not hint.strip():
        return hints
    if len(hint) > TEXT_CHARS_MAX or "\0" in hint:
        raise SubmissionError("hint", f"must be a text of at most {TEXT_CHARS_MAX} characters without NUL")
    if len(hints) >= ITEMS_MAX:
        raise SubmissionError("hint", f"the workstream has {ITEMS_MAX} hints already: reject it, and submit it anew")
    return (*hints, hint)


def _allowing_more(spec: RunSpec, bundle: WorkstreamBundle, more: int) -> dict[str, object] | None:
    if not more:
        return bundle.circuit_breaker
    limits = parse_breaker_config(spec.breaker, "the run's definition").for_bundle(bundle)
    attempts = max(limits.static.max_fix_iterations, limits.runtime.max_fix_iterations) + 1 + more
    if more < 0 or attempts > ATTEMPTS_MAX:
        raise SubmissionError("more_attempts", f"must be 0 or more, and lead to at most {ATTEMPTS_MAX} attempts")
    return {**(bundle.circuit_breaker or {}), "max_attempts": attempts}


def _check_bundle(bundle: WorkstreamBundle) -> None:
    """The bundle could have come from a file, but for its hints."""
    alone = msgspec.structs.replace(bundle, hints=(), depends_on=())
    try:
        parse_bundles([("the adjusted workstream", encode_bundles([alone]))], file_bytes=SET_BYTES_MAX)
    except BundleValidationError as error:
        raise SubmissionError("workstream", str(error), "INVALID_BUNDLES") from error
