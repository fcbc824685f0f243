"""Swell runs fleets of AI coding tools over a dependency graph of workstreams, and merges only what is green.

The public names are made when they are first used, so that `import swell` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.bundle import (
        BundleCycleError,
        BundleDependencyError,
        BundleValidationError,
        WorkstreamBundle,
        load_and_validate_bundles,
    )
    from services.executor.tools import ToolResult, run_tool
    from services.plan import ExecutionPlan, build_execution_plan
    from services.prices import UnknownModelError
    from services.profiles import ToolProfile, load_tool_profiles
    from services.scheduler.breaker import CircuitBreakerError, FixLoopState, allow_fix_attempt, detect_oscillation
    from swell.aim import execute_with_aim, is_aim_available
    from swell.api import (
        StepResult,
        execute_workstreams_parallel,
        run_edit_step,
        run_fix_step,
        run_runtime_step,
        run_runtime_with_fix,
        run_static_step,
        run_static_with_fix,
        run_workstream,
    )
    from swell.context import ContextEstimator
    from swell.cost import BudgetEvent, BudgetExceededError, CostBudget, CostTracker
    from swell.errors import SwellError
    from swell.figures import get_costs, get_run_metrics
    from swell.metrics import MetricsAggregator
    from swell.patching import ApplyResult, ParsedPatch, PatchArtifact, PatchManager
    from swell.prompts import Classification, PromptContext, PromptEngine
    from swell.recovery import (
        RecoveryManager,
        cancel_run,
        list_reviews,
        pause_run,
        resolve_reviews,
        resume_run,
        retry_run,
    )

_HOMES = {
    "services.bundle": (
        "BundleCycleError",
        "BundleDependencyError",
        "BundleValidationError",
        "WorkstreamBundle",
        "load_and_validate_bundles",
    ),
    "services.executor.tools": ("ToolResult", "run_tool"),
    "services.plan": ("ExecutionPlan", "build_execution_plan"),
    "services.prices": ("UnknownModelError",),
    "services.profiles": ("ToolProfile", "load_tool_profiles"),
    "services.scheduler.breaker": (
        "CircuitBreakerError",
        "FixLoopState",
        "allow_fix_attempt",
        "detect_oscillation",
    ),
    "swell.aim": ("execute_with_aim", "is_aim_available"),
    "swell.api": (
        "StepResult",
        "execute_workstreams_parallel",
        "run_edit_step",
        "run_fix_step",
        "run_runtime_step",
        "run_runtime_with_fix",
        "run_static_step",
        "run_static_with_fix",
        "run_workstream",
    ),
    "swell.context": ("ContextEstimator",),
    "swell.cost": ("BudgetEvent", "BudgetExceededError", "CostBudget", "CostTracker"),
    "swell.errors": ("SwellError",),
    "swell.figures": ("get_costs", "get_run_metrics"),
    "swell.metrics": ("MetricsAggregator",),
    "swell.patching": ("ApplyResult", "ParsedPatch", "PatchArtifact", "PatchManager"),
    "swell.prompts": ("Classification", "PromptContext", "PromptEngine"),
    "swell.recovery": (
        "RecoveryManager",
        "cancel_run",
        "list_reviews",
        "pause_run",
        "resolve_reviews",
        "resume_run",
        "retry_run",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ApplyResult",
    "BudgetEvent",
    "BudgetExceededError",
    "BundleCycleError",
    "BundleDependencyError",
    "BundleValidationError",
    "CircuitBreakerError",
    "Classification",
    "ContextEstimator",
    "CostBudget",
    "CostTracker",
    "ExecutionPlan",
    "FixLoopState",
    "MetricsAggregator",
    "ParsedPatch",
    "PatchArtifact",
    "PatchManager",
    "PromptContext",
    "PromptEngine",
    "RecoveryManager",
    "StepResult",
    "SwellError",
    "ToolProfile",
    "ToolResult",
    "UnknownModelError",
    "WorkstreamBundle",
    "allow_fix_attempt",
    "build_execution_plan",
    "cancel_run",
    "detect_oscillation",
    "execute_with_aim",
    "execute_workstreams_parallel",
    "get_costs",
    "get_run_metrics",
    "is_aim_available",
    "list_reviews",
    "load_and_validate_bundles",
    "load_tool_profiles",
    "pause_run",
    "resolve_reviews",
    "resume_run",
    "retry_run",
    "run_edit_step",
    "run_fix_step",
    "run_runtime_step",
    "run_runtime_with_fix",
    "run_static_step",
    "run_static_with_fix",
    "run_tool",
    "run_workstream",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'swell' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
