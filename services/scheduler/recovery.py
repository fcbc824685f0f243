"""What follows from a failed attempt: a table from error class to strategies, as data.

    attempt fails ── class ──▶ strategies in the table's order ──▶ the first that is not used up

The order is that of the product's contract: retry with exponential backoff, fewer files, another tool, a person. A class
that no repetition helps (a login, a budget, a scope) names a person at once. Where a provider refuses for now (its rate,
a quota, overload), nothing has failed: the step waits until the provider takes requests again, which is no retry, and no
other tool, perhaps a dearer one, steps in unless the table names `fallback_tool` for that class. Counters stand in the
run's state and are renewed only by a person, so no sequence of failures makes a run endless.

Pure: the jitter of a delay is derived from the attempt's own name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from services.events import ErrorClass, Strategy

RETRIES_MAX: Final = 100
"""Repetitions that a configuration may ask for; each may cost a tool call."""

DELAY_S_MAX: Final = 86_400.0

_Count = Annotated[int, Meta(ge=0, le=RETRIES_MAX)]
_Seconds = Annotated[float, Meta(ge=0, le=DELAY_S_MAX)]


class RecoveryConfigError(ValueError):
    """A recovery table that cannot be used; the text names the source, the key and the remedy."""


LIMITED: Final[frozenset[ErrorClass]] = frozenset({"rate_limited", "usage_limit", "overloaded"})
"""The provider refuses for now; it says nothing about the work, and nothing about the tool."""

_ORDER: Final[tuple[Strategy, ...]] = ("retry", "reduce_context", "fallback_tool", "review")
_PERSON: Final[tuple[Strategy, ...]] = ("review",)
_DECIDED_ELSEWHERE: Final = frozenset({"check_failed", "merge_conflict", "lost"})
"""Classes whose repetition has a loop of its own, bounded there: FIX, merging, losses."""

DEFAULT_CLASSES: Final[Mapping[ErrorClass, tuple[Strategy, ...]]] = {
    "tool_failed": _ORDER,
    "timeout": ("reduce_context", "fallback_tool", "review"),
    "idle_timeout": ("retry", "fallback_tool", "review"),
    "rate_limited": ("wait", "review"),
    "usage_limit": ("wait", "review"),
    "overloaded": ("wait", "review"),
    "server_error": ("retry", "fallback_tool", "review"),
    "network": ("retry", "fallback_tool", "review"),
    "model_not_found": ("fallback_tool", "review"),
    "unsupported_params": ("fallback_tool", "review"),
    "context_window": ("reduce_context", "fallback_tool", "review"),
    "output_limit": ("reduce_context", "fallback_tool", "review"),
    "refusal": ("fallback_tool", "review"),
    "max_turns": ("fallback_tool", "review"),
    "permission_denied": ("fallback_tool", "review"),
    "no_change": ("fallback_tool", "review"),
    "tool_missing": ("fallback_tool", "review"),
    "check_error": ("retry", "review"),
    "setup_error": _PERSON,
    "auth": _PERSON,
    "budget": _PERSON,
    "scope_violation": _PERSON,
    "tampering": _PERSON,
    "check_failed": _PERSON,
    "merge_conflict": _PERSON,
    "delivery_refused": _PERSON,
    "queue_timeout": _PERSON,
    "lost": _PERSON,
    "protocol_error": _PERSON,
    "workspace_error": ("retry", "review"),
    "unknown": ("retry", "review"),
}


class RecoveryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table and its limits.

    `retries`: repetitions by `retry`, for each step of a workstream. `initial_delay_s`, `factor`, `delay_max_s`: the first
    delay, what each next one is multiplied by, and the longest. `jitter`: the part of a delay that may be added to it.
    `waits`: how often a step may wait for a provider that refuses for now. `reductions`: how often the list of files may be halved. `compensations`: repetitions of one compensation action.
    `conflicts`, `reds`: how often a workstream whose merge conflicts, or is red as merged, is sent back to FIX. `flakes`: how
    often a gate of a wave that has passed and failed on the same tree is tried again before a person is asked.
    `classes`: strategies by error class, in order; a class that is not named keeps its default.
    """

    retries: _Count = 3
    initial_delay_s: _Seconds = 1.0
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    delay_max_s: _Seconds = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    waits: _Count = 20
    reductions: _Count = 1
    compensations: _Count = 3
    conflicts: _Count = 2
    reds: _Count = 2
    flakes: _Count = 2
    classes: dict[ErrorClass, tuple[Strategy, ...]] = {}

    def strategies(self, error_class: ErrorClass) -> tuple[Strategy, ...]:
        """What is tried for a class, in order; at the end a person."""
        return self.classes.get(error_class) or DEFAULT_CLASSES.get(error_class, _PERSON)

    def delay_s(self, used: int, name: str) -> float:
        """How long to wait before repetition `used` + 1 of the attempt called `name`: 1, 2, 4 … with the defaults."""
        # In this order nothing overflows: a power beyond the cap is never taken.
        delay = self.initial_delay_s
        for _ in range(used):
            if delay >= self.delay_max_s:
                break
            delay *= self.factor
        delay = min(delay, self.delay_max_s)
        draw = int.from_bytes(hashlib.sha256(f"{name}/{used}".encode()).digest()[:8]) / 2**64
        return min(delay * (1 + self.jitter * draw), self.delay_max_s)


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What recovery has done for one step of a workstream so far. `tool` is in force, '' for the one of the definition."""

    retries: int = 0
    waits: int = 0
    reductions: int = 0
    tool: str = ""
    tools: tuple[str, ...] = ()


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy, with what it puts in force and why."""

    strategy: Strategy
    reason: str
    delay_s: float = 0.0
    tool: str = ""
    reduction: int = 0


def choose(
    config: RecoveryConfig,
    used: Used,
    error_class: ErrorClass,
    *,
    tool: str,
    fallback: Sequence[str],
    reducible: bool,
    name: str,
    wait_s: float = 0.0,
) -> Choice:
    """The next strategy for a step that failed with `error_class` under `tool`.

    `fallback` are the tools that may stand in, in order; `reducible` says whether fewer files change what the tool gets.
    `name` identifies the attempt, for its jitter. `wait_s` is how long the provider asks to wait; a wait is never shorter
    than the delay of a retry, nor longer than DELAY_S_MAX.
    """
    for strategy in config.strategies(error_class):
        match strategy:
            case "retry" if used.retries < config.retries:
                delay_s = config.delay_s(used.retries, name)
                reason = f"{error_class}: retry {used.retries + 1} of {config.retries} in {delay_s:.1f} s"
                return Choice(
                    strategy="retry", reason=reason, delay_s=delay_s, tool=used.tool, reduction=used.reductions
                )
            case "wait" if used.waits < config.waits:
                delay_s = min(max(wait_s, config.delay_s(used.waits, name)), DELAY_S_MAX)
                reason = (
                    f"{error_class}: wait {used.waits + 1} of {config.waits}, {delay_s:.1f} s; it counts as no attempt"
                )
                return Choice(
                    strategy="wait", reason=reason, delay_s=delay_s, tool=used.tool, reduction=used.reductions
                )
            case "reduce_context" if reducible and used.reductions < config.reductions:
                reduction = used.reductions + 1
                reason = f"{error_class}: again with 1/{2**reduction} of its files"
                return Choice(strategy="reduce_context", reason=reason, tool=used.tool, reduction=reduction)
            case "fallback_tool":
                for other in fallback:
                    if other != tool and other not in used.tools:
                        reason = f"{error_class}: {other} in place of {tool}"
                        return Choice(strategy="fallback_tool", reason=reason, tool=other, reduction=used.reductions)
            case _:
                pass
    tried = _tried(used)
    return Choice(strategy="review", reason=f"{error_class}: {tried}a person has to decide", tool=used.tool)


def after(used: Used, choice_strategy: Strategy, tool: str, reduction: int, replaced: str) -> Used:
    """The counters once a strategy was chosen; `replaced` is the tool that was in force until then."""
    match choice_strategy:
        case "retry":
            return msgspec.structs.replace(used, retries=used.retries + 1)
        case "wait":
            return msgspec.structs.replace(used, waits=used.waits + 1)
        case "reduce_context":
            return msgspec.structs.replace(used, reductions=reduction)
        case "fallback_tool":
            return msgspec.structs.replace(used, tool=tool, tools=(*used.tools, replaced, tool))
        case _:
            return used


def _tried(used: Used) -> str:
    said = []
    if used.retries:
        said.append(f"{used.retries} retries")
    if used.waits:
        said.append(f"{used.waits} waits")
    if used.reductions:
        said.append(f"{used.reductions} reductions of its files")
    if used.tools:
        said.append(f"the tools {', '.join(dict.fromkeys(used.tools))}")
    return f"after {' and '.join(said)}, " if said else ""


def parse_recovery_config(mapping: Mapping[str, Any] | None, source: str) -> RecoveryConfig:
    """The configuration; absent keys take the defaults, and so does an empty file (None).

    Raises:
        RecoveryConfigError: unknown key or class (named), wrong type or range, a class that repeats what has a loop of
            its own.
    """
    if mapping is None:
        return RecoveryConfig()
    try:
        config = msgspec.convert(dict(mapping) if isinstance(mapping, Mapping) else mapping, RecoveryConfig)
    except msgspec.ValidationError as error:
        keys = ", ".join(RecoveryConfig.__struct_fields__)
        raise RecoveryConfigError(
            f"{source}: {error}; the keys are {keys}, the classes {', '.join(get_args(ErrorClass))}"
        ) from None
    for error_class, strategies in config.classes.items():
        automatic = [strategy for strategy in strategies if strategy not in {"review", "fail"}]
        if error_class in _DECIDED_ELSEWHERE and automatic:
            raise RecoveryConfigError(
                f"{source}: classes.{error_class}: {automatic[0]} cannot be chosen here, its repetition has limits of its "
                "own; leave [review]"
            )
        if "fail" in strategies:
            raise RecoveryConfigError(
                f"{source}: classes.{error_class}: 'fail' is not a strategy of the table; submit with review = \"fail\""
            )
    return config
