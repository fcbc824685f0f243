"""The FIX-loop breaker: how often a workstream may try to repair itself, and when it is going round in circles.

    step fails ── record_failure ──▶ decide ── allowed ──▶ FIX ── record_fix ──▶ step runs again
                                        └── a limit trips ──▶ the workstream fails

Invariants:

* Counters span the workstream and are never reset, so no sequence of verdicts makes the loop endless.
* A decision names the limit that tripped.
* An error or a tree that is seen `min_oscillation_repeats` times within the last `oscillation_window` failures trips,
  so with the default of 2 an error that one FIX left unchanged stops the loop at once.

Not to be confused with the breaker of a tool, which counts failures of a provider across workstreams.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from services.bundle import WorkstreamBundle

FixStep = Literal["static", "runtime"]
"""The steps that have a FIX loop."""

Limit = Literal["max_fix_iterations", "oscillation_signature", "oscillation_tree"]

FIX_ITERATIONS_MAX: Final = 1_000
"""FIX calls of one step that a configuration may ask for; each costs a tool call."""

OSCILLATION_WINDOW_MAX: Final = 100
"""Failures that a state remembers, and the largest window."""

STEP_TIMEOUT_S_MAX: Final = 86_400
"""Seconds of one step: a day."""

_Count = Annotated[int, Meta(ge=0, le=FIX_ITERATIONS_MAX)]
_Attempts = Annotated[int, Meta(ge=1, le=FIX_ITERATIONS_MAX)]
_Window = Annotated[int, Meta(ge=1, le=OSCILLATION_WINDOW_MAX)]
_Repeats = Annotated[int, Meta(ge=0, le=OSCILLATION_WINDOW_MAX)]
_Seconds = Annotated[float, Meta(gt=0, le=STEP_TIMEOUT_S_MAX)]


class CircuitBreakerError(RuntimeError):
    """Raised by callers that run a FIX loop in place, when a limit tripped."""


class BreakerConfigError(ValueError):
    """A breaker configuration that cannot be used; the text names the source, the key and the remedy."""


class StepTimeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds after which a step is ended; `idle` without progress (output, CPU time, a changed file), 0 for no such limit."""

    edit: _Seconds = 600
    static: _Seconds = 300
    runtime: _Seconds = 300
    fix: _Seconds = 300
    idle: Annotated[float, Meta(ge=0, le=STEP_TIMEOUT_S_MAX)] = 120


class StepLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one step.

    max_fix_iterations: FIX calls; 0 is none.
    oscillation_window: last failures looked at.
    min_oscillation_repeats: occurrences in the window that trip; 0 never trips.
    error_repeats_max: occurrences of one error in the whole workstream that trip; 0 never trips.
    """

    max_fix_iterations: int
    oscillation_window: int = 5
    min_oscillation_repeats: int = 2
    error_repeats_max: int = 0


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of both FIX loops and the time limits of the steps."""

    static: StepLimits = StepLimits(max_fix_iterations=3)
    runtime: StepLimits = StepLimits(max_fix_iterations=2)
    timeouts: StepTimeouts = StepTimeouts()

    def limits(self, step: str) -> StepLimits:
        """The limits of a step; one without a FIX loop gets no FIX call. What is red as merged, or conflicts, is like RUNTIME."""
        match step:
            case "static":
                return self.static
            case "runtime" | "merge" | "gate":
                return self.runtime
            case _:
                return StepLimits(max_fix_iterations=0)

    def for_bundle(self, bundle: WorkstreamBundle) -> BreakerConfig:
        """These limits with what the bundle's `circuit_breaker` overrides, for both loops.

        `max_attempts` counts runs of the step, the first included, hence one more than FIX calls.
        """
        override = bundle.breaker
        changes: dict[str, int] = {}
        if override.max_attempts is not None:
            changes["max_fix_iterations"] = override.max_attempts - 1
        if override.max_error_repeats is not None:
            changes["error_repeats_max"] = override.max_error_repeats
        if override.oscillation_threshold is not None:
            changes["min_oscillation_repeats"] = override.oscillation_threshold
        return msgspec.structs.replace(
            self,
            static=msgspec.structs.replace(self.static, **changes),
            runtime=msgspec.structs.replace(self.runtime, **changes),
        )


class FixLoopState(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened in the FIX loops of one workstream so far.

    step_attempts, fix_attempts: failures of checked steps, and FIX calls; also by step.
    signature_counts: error signature to how often it was seen.
    recent_signatures, recent_trees: of the last `OSCILLATION_WINDOW_MAX` failures, oldest first.
    """

    step_attempts: int = 0
    fix_attempts: int = 0
    step_attempts_by_step: dict[str, int] = {}
    fix_attempts_by_step: dict[str, int] = {}
    signature_counts: dict[str, int] = {}
    recent_signatures: tuple[str, ...] = ()
    recent_trees: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a FIX call is allowed; if not, which limit tripped and why."""

    allowed: bool
    limit: Limit | None
    reason: str


def record_failure(
    state: FixLoopState, step: str, signature: str, tree: str, *, replaces: str | None = None
) -> FixLoopState:
    """The state after `step` failed on `tree` with an error of that signature.

    `replaces` is the signature of the failure before, where only a program has mended since what it could: both are one
    failure then, and what is left of it is what counts.
    """
    if replaces is not None and state.recent_signatures[-1:] == (replaces,):
        counts = {**state.signature_counts, replaces: state.signature_counts.get(replaces, 1) - 1}
        state = msgspec.structs.replace(
            state,
            step_attempts=state.step_attempts - 1,
            step_attempts_by_step={**state.step_attempts_by_step, step: state.step_attempts_by_step.get(step, 1) - 1},
            signature_counts={known: count for known, count in counts.items() if count},
            recent_signatures=state.recent_signatures[:-1],
            recent_trees=state.recent_trees[:-1],
        )
    return msgspec.structs.replace(
        state,
        step_attempts=state.step_attempts + 1,
        step_attempts_by_step=_counted(state.step_attempts_by_step, step),
        signature_counts=_counted(state.signature_counts, signature),
        recent_signatures=(*state.recent_signatures, signature)[-OSCILLATION_WINDOW_MAX:],
        recent_trees=(*state.recent_trees, tree)[-OSCILLATION_WINDOW_MAX:],
    )


def record_fix(state: FixLoopState, step: str) -> FixLoopState:
    """The state after a FIX call for `step`, whatever came of it."""
    return msgspec.structs.replace(
        state,
        fix_attempts=state.fix_attempts + 1,
        fix_attempts_by_step=_counted(state.fix_attempts_by_step, step),
    )


def allow_fix_attempt(state: FixLoopState, step: str, cfg: BreakerConfig | Mapping[str, Any]) -> bool:
    """Whether the number of FIX calls for `step` is below its limit; oscillation is a separate question."""
    return state.fix_attempts_by_step.get(step, 0) < _config(cfg).limits(step).max_fix_iterations


def detect_oscillation(state: FixLoopState, cfg: BreakerConfig | Mapping[str, Any], step: str = "static") -> bool:
    """Whether an error signature or a tree was seen too often within the window of `step`."""
    return _oscillating(state, _config(cfg).limits(step)) is not None


def decide(
    state: FixLoopState, step: str, cfg: BreakerConfig | Mapping[str, Any], *, untried: bool = False
) -> Decision:
    """Whether a FIX call may follow the failures recorded so far. The number of calls is looked at first.

    `untried`: the next call is that of a tool that has not tried yet, so going round in circles does not stop it.
    """
    limits = _config(cfg).limits(step)
    if not allow_fix_attempt(state, step, cfg):
        return Decision(
            allowed=False,
            limit="max_fix_iterations",
            reason=f"{step} has had {state.fix_attempts_by_step.get(step, 0)} FIX calls of "
            f"{limits.max_fix_iterations} allowed",
        )
    if not untried and (tripped := _oscillating(state, limits)) is not None:
        return tripped
    return Decision(allowed=True, limit=None, reason="")


def _oscillating(state: FixLoopState, limits: StepLimits) -> Decision | None:
    watched: tuple[tuple[Limit, str, tuple[str, ...]], ...] = (
        ("oscillation_signature", "error", state.recent_signatures),
        ("oscillation_tree", "tree", state.recent_trees),
    )
    for limit, noun, recent in watched:
        value, count = _most_frequent(recent[-limits.oscillation_window :])
        if 0 < limits.min_oscillation_repeats <= count:
            return Decision(
                allowed=False,
                limit=limit,
                reason=f"the same {noun} {value[:12]} was seen {count} times in the last "
                f"{limits.oscillation_window} failures",
            )
    value, count = max(state.signature_counts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if 0 < limits.error_repeats_max <= count:
        return Decision(
            allowed=False,
            limit="oscillation_signature",
            reason=f"the same error {value[:12]} was seen {count} times in this workstream",
        )
    return None


def _most_frequent(values: tuple[str, ...]) -> tuple[str, int]:
    return max(Counter(values).items(), key=lambda item: (item[1], item[0]), default=("", 0))


def _counted(counts: Mapping[str, int], key: str) -> dict[str, int]:
    return {**counts, key: counts.get(key, 0) + 1}


def _config(cfg: BreakerConfig | Mapping[str, Any]) -> BreakerConfig:
    return cfg if isinstance(cfg, BreakerConfig) else parse_breaker_config(cfg, "the given configuration")


class _FixIterations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    static: _Count = 3
    runtime: _Count = 2


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_fix_iterations: _FixIterations = _FixIterations()
    oscillation_window: _Window = 5
    min_oscillation_repeats: _Repeats = 2
    timeouts: StepTimeouts = StepTimeouts()


class _LegacyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_attempts_per_step: _Attempts | None = None
    max_fix_attempts_per_step: _Count | None = None
    max_attempts_per_error_signature: _Count | None = None
    oscillation_window: _Window | None = None
    oscillation_threshold: _Repeats | None = None


class _LegacyDefaults(_LegacyLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enable_fix_for_steps: tuple[FixStep, ...] = ("static", "runtime")


class _LegacyPerStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    static: _LegacyLimits = _LegacyLimits()
    runtime: _LegacyLimits = _LegacyLimits()


class _LegacyForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    defaults: _LegacyDefaults = _LegacyDefaults()
    per_step: _LegacyPerStep = _LegacyPerStep()


_LEGACY_ONLY: Final = {*_LegacyDefaults.__struct_fields__} - {*_Form.__struct_fields__}


def parse_breaker_config(mapping: Mapping[str, Any] | None, source: str) -> BreakerConfig:
    """The configuration in one of its forms; absent keys take the defaults, and so does an empty file (None).

    * `max_fix_iterations {static, runtime}`, `oscillation_window`, `min_oscillation_repeats`, `timeouts`;
    * the older `defaults {...}` and `per_step {static, runtime}`, whose keys override `defaults`; the keys of `defaults`
      may also stand by themselves. Both may stand below a key `circuit_breakers`.

    `source` names the origin in errors.

    Raises:
        BreakerConfigError: unknown key (named), wrong type or range, both forms mixed, not a mapping.
    """
    if mapping is None:
        return BreakerConfig()
    if not isinstance(mapping, Mapping):
        raise BreakerConfigError(f"{source}: is not a mapping; write keys such as 'oscillation_window: 5'")
    if list(mapping) == ["circuit_breakers"]:
        return parse_breaker_config(mapping["circuit_breakers"], f"{source}: circuit_breakers")
    if "defaults" in mapping or "per_step" in mapping:
        return _from_legacy(_convert(mapping, _LegacyForm, source))
    if _LEGACY_ONLY & mapping.keys():
        return _from_legacy(_LegacyForm(defaults=_convert(mapping, _LegacyDefaults, source)))
    return _from_form(_convert(mapping, _Form, source))


_T = TypeVar("_T", bound=msgspec.Struct)


def _convert(mapping: Mapping[str, Any], type_: type[_T], source: str) -> _T:
    try:
        return msgspec.convert(dict(mapping), type_)
    except msgspec.ValidationError as error:
        keys = ", ".join(type_.__struct_fields__)
        raise BreakerConfigError(f"{source}: {error}; the keys at the top are {keys}") from None


def _from_form(form: _Form) -> BreakerConfig:
    def limits(max_fix_iterations: int) -> StepLimits:
        return StepLimits(
            max_fix_iterations=max_fix_iterations,
            oscillation_window=form.oscillation_window,
            min_oscillation_repeats=form.min_oscillation_repeats,
        )

    return BreakerConfig(
        static=limits(form.max_fix_iterations.static),
        runtime=limits(form.max_fix_iterations.runtime),
        timeouts=form.timeouts,
    )


def _from_legacy(form: _LegacyForm) -> BreakerConfig:
    built_in = BreakerConfig()
    enabled = form.defaults.enable_fix_for_steps
    return BreakerConfig(
        static=_legacy_limits(form.per_step.static, form.defaults, built_in.static, enabled="static" in enabled),
        runtime=_legacy_limits(form.per_step.runtime, form.defaults, built_in.runtime, enabled="runtime" in enabled),
    )


def _legacy_limits(step: _LegacyLimits, defaults: _LegacyLimits, built_in: StepLimits, *, enabled: bool) -> StepLimits:
    def given(key: str) -> int | None:
        own = getattr(step, key)
        value: int | None = getattr(defaults, key) if own is None else own
        return value

    def given_or(key: str, default: int) -> int:
        value = given(key)
        return default if value is None else value

    attempts, fixes = given("max_attempts_per_step"), given("max_fix_attempts_per_step")
    bounds = [bound for bound in (fixes, None if attempts is None else attempts - 1) if bound is not None]
    return StepLimits(
        max_fix_iterations=min(bounds, default=built_in.max_fix_iterations) if enabled else 0,
        oscillation_window=given_or("oscillation_window", built_in.oscillation_window),
        min_oscillation_repeats=given_or("oscillation_threshold", built_in.min_oscillation_repeats),
        error_repeats_max=given_or("max_attempts_per_error_signature", built_in.error_repeats_max),
    )
