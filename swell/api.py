"""Swell from Python: run workstreams, or single steps of one, and wait for the answer.

Every call here goes through the log of a cluster: the one that SWELL_SCHEDULER and SWELL_LEDGER name, else the embedded
one, which is started if need be. So what was called from Python is seen by `swell list`, and the other way round.

A context is a mapping. Its keys `repo_root` (default "."), `dry_run`, `timeout_sec`, `max_workers`, `wave_delay_sec`,
`fail_fast`, `scheduling` ("barrier" or "eager"), `review` ("fail", or "wait" for a person), `pools` (the pool that does the
work, then those that do what it has no tool for), `budget_usd`, `budget_mode` ("halt", "warn" or "continue"),
`tool_profiles` (a file, or a mapping in the form of one), `breaker` and `recovery` (files), `location` (where executors find the repository), `deliver` ("wave", "end" or
"never"), `delivery_style`, `delivery_remote`, `delivery_credential`, `delivery_hook`, `labels` (a mapping) and `tenant`, `base_ref` and `allow_dirty` say how to run; `static_tools`, `runtime_tool` and the other keys of swell.toml override it; everything
else stands for placeholders in tool arguments.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypedDict

import msgspec

from services.bundle import WorkstreamBundle, parse_bundles
from services.plan import build_execution_plan
from services.profiles import ToolProfile, parse_tool_profiles
from swell.client import Client
from swell.cluster import connected
from swell.errors import SwellError, invalid
from swell.follow import elapsed_s
from swell.settings import RunSettings, in_force
from swell.submission import actor, assemble
from swell.values import Attempt, Event, Run, Workstream

STEPS: Final = ("edit", "static", "runtime")
_SETTINGS: Final = {
    "max_workers": "max_workers",
    "timeout_sec": "timeout_s",
    "wave_delay_sec": "wave_delay_s",
    "fail_fast": "fail_fast",
    "dry_run": "dry_run",
    "scheduling": "scheduling",
    "review": "review",
    "pools": "pools",
    "budget_usd": "budget_usd",
    "budget_mode": "budget_mode",
    "breaker": "breaker",
    "recovery": "recovery",
    "location": "location",
    "deliver": "deliver",
    "delivery_style": "delivery_style",
    "delivery_remote": "delivery_remote",
    "delivery_credential": "delivery_credential",
    "delivery_hook": "delivery_hook",
    "labels": "labels",
    "tenant": "tenant",
}
_OURS: Final = frozenset({*_SETTINGS, "repo_root", "tool_profiles", "base_ref", "allow_dirty"})

Bundle = WorkstreamBundle | Mapping[str, Any]
Context = Mapping[str, Any]


class StepResult(TypedDict):
    """How a step went. `details` holds its attempts, exit code, files, and `noop` when there was nothing to do."""

    step_name: str
    success: bool
    details: dict[str, Any]
    error_message: str | None


def run_workstream(run_id: str, ws_id: str, bundle_obj: Bundle, context: Context | None = None) -> dict[str, Any]:
    """Run one workstream through EDIT, STATIC and RUNTIME as run `run_id`; what it depends on counts as done.

    With `review` "wait" in the context it may wait for a person (`swell review list`) as long as that takes.
    Returns `success`, `final_status` (completed, failed, cancelled …), `steps_executed`, `total_fix_iterations`,
    `elapsed_seconds`, `run_id`, `ws_id`, `steps` (a StepResult for each step executed), and `error` unless successful.
    Raises SwellError when the run cannot be submitted, ValueError for a bundle that is not `ws_id`.
    """
    bundle = _alone(_bundle(bundle_obj, ws_id))
    return execute_workstreams_parallel(run_id, [bundle], context)[ws_id]


def execute_workstreams_parallel(
    run_id: str, bundles: Iterable[Bundle], context: Context | None = None
) -> dict[str, dict[str, Any]]:
    """Run workstreams in waves as run `run_id`. The result of `run_workstream` for each of them, by id.

    One that was blocked or cancelled has `success` false and says why in `error`, as in `dependency <id> failed`.
    Raises SwellError when the run cannot be submitted, BundleValidationError for dependencies that cannot be planned.
    """
    given = [_bundle(bundle) for bundle in bundles]
    build_execution_plan(given)
    with connected() as endpoints, Client(endpoints) as client:
        position = _submit(client, run_id, given, context or {}, stepwise=False)
        ended = client.wait(run_id, max(position - 1, 0))
        workstreams = client.list_workstreams(run_id)
        attempts = client.list_attempts(run_id)
        skipped = list(client.list_events(run_id, kinds=["step_skipped"]))
    dry_run = bool(in_force(_flags(context or {}, None)).dry_run)
    results = {item.workstream: _result(item, attempts, skipped, dry_run=dry_run) for item in workstreams}
    for bundle in given:
        results.setdefault(bundle.id, _never_reached(bundle.id, ended))
    return results


def _never_reached(workstream: str, run: Run) -> dict[str, Any]:
    """The result of a workstream that its run ended without mentioning."""
    return {
        "success": False,
        "final_status": run.state,
        "steps_executed": [],
        "total_fix_iterations": 0,
        "elapsed_seconds": 0.0,
        "run_id": run.run,
        "ws_id": workstream,
        "steps": [],
        "error": run.reason or "the run ended before it was reached",
    }


def run_edit_step(run_id: str, ws_id: str, bundle: Bundle, context: Context | None = None) -> StepResult:
    """Run EDIT. Like the other steps: the first call makes run `run_id`, of this workstream; later ones go on with it.

    Raises SwellError when the run exists without this workstream, or has ended.
    """
    return _step(run_id, ws_id, bundle, context, "edit")


def run_static_step(run_id: str, ws_id: str, bundle: Bundle, context: Context | None = None) -> StepResult:
    """Run STATIC once, without FIX."""
    return _step(run_id, ws_id, bundle, context, "static")


def run_runtime_step(run_id: str, ws_id: str, bundle: Bundle, context: Context | None = None) -> StepResult:
    """Run RUNTIME once, without FIX."""
    return _step(run_id, ws_id, bundle, context, "runtime")


def run_fix_step(run_id: str, ws_id: str, bundle: Bundle, context: Context | None = None) -> StepResult:
    """Run FIX once, on what the last failed check found."""
    return _step(run_id, ws_id, bundle, context, "fix")


def run_static_with_fix(run_id: str, ws_id: str, bundle: Bundle, context: Context | None = None) -> StepResult:
    """Run STATIC, and FIX as long as it fails and the breaker allows."""
    return _step(run_id, ws_id, bundle, context, "static", with_fix=True)


def run_runtime_with_fix(run_id: str, ws_id: str, bundle: Bundle, context: Context | None = None) -> StepResult:
    """Run RUNTIME, and FIX as long as it fails and the breaker allows."""
    return _step(run_id, ws_id, bundle, context, "runtime", with_fix=True)


# Submitting


def _bundle(given: Bundle, ws_id: str | None = None) -> WorkstreamBundle:
    if isinstance(given, WorkstreamBundle):
        bundle = given
    else:
        (bundle,) = parse_bundles([("bundle", json.dumps(dict(given)).encode())])
    if ws_id is not None and bundle.id != ws_id:
        raise ValueError(f"the bundle is {bundle.id}, not {ws_id}: pass the bundle of that workstream")
    return bundle


def _alone(bundle: WorkstreamBundle) -> WorkstreamBundle:
    return msgspec.structs.replace(bundle, depends_on=())


def _submit(client: Client, run_id: str, bundles: list[WorkstreamBundle], context: Context, *, stepwise: bool) -> int:
    """Submit a run; the position of the request."""
    profiles = context.get("tool_profiles")
    layer: Mapping[str, ToolProfile] = {}
    if isinstance(profiles, Mapping):
        layer = _profiles(profiles)
    submission = assemble(
        bundles,
        repo=Path(str(context.get("repo_root", "."))),
        settings=in_force(_flags(context, None if layer or profiles is None else str(profiles))),
        base=context.get("base_ref"),
        allow_dirty=bool(context.get("allow_dirty", False)),
        run=run_id,
        context={key: value for key, value in context.items() if key not in _OURS and value is not None},
        stepwise=stepwise,
        profiles=layer,
    )
    if stepwise and context.get("timeout_sec") is None:
        # Somebody who asks step by step takes as long as they take: the scheduler has its own limit for that.
        options = msgspec.structs.replace(submission.header.options, timeout_s=0.0)
        submission = msgspec.structs.replace(
            submission, header=msgspec.structs.replace(submission.header, options=options)
        )
    return client.submit_run(submission.header, submission.documents).position


def _flags(context: Context, tool_profiles: str | None) -> RunSettings:
    # What this module's functions tell of knows completed and failed; waiting for a person has to be asked for.
    given: dict[str, Any] = {"review": "fail"}
    given |= {ours: context[theirs] for theirs, ours in _SETTINGS.items() if context.get(theirs) is not None}
    try:
        return msgspec.convert(given | {"tool_profiles": tool_profiles}, RunSettings)
    except msgspec.ValidationError as error:
        raise invalid(
            "BAD_CONTEXT", str(error), f"Mend the context; its settings are {', '.join(_SETTINGS)}."
        ) from error


def _profiles(given: Mapping[str, Any]) -> dict[str, ToolProfile]:
    """Profiles as values of ToolProfile, or in the form of their file."""
    made = {tool: profile for tool, profile in given.items() if isinstance(profile, ToolProfile)}
    plain = {tool: profile for tool, profile in given.items() if tool not in made}
    return parse_tool_profiles(json.dumps(plain).encode(), "context tool_profiles") | made


# Results


def _result(item: Workstream, attempts: list[Attempt], skipped: list[Event], *, dry_run: bool) -> dict[str, Any]:
    own = [attempt for attempt in attempts if attempt.workstream == item.workstream]
    reasons = {
        event.payload.get("step", ""): event.payload.get("reason", "")
        for event in skipped
        if event.payload.get("workstream") == item.workstream
    }
    success = item.state == "completed"
    result: dict[str, Any] = {
        "success": success,
        "final_status": item.state,
        "steps_executed": item.steps_executed,
        "total_fix_iterations": item.fix_iterations,
        "elapsed_seconds": elapsed_s(item.started_ns, item.finished_ns),
        "run_id": item.run,
        "ws_id": item.workstream,
        "steps": [_step_result(step, own, reasons.get(step, "")) for step in STEPS if step in item.steps_executed],
    }
    for step in result["steps"]:
        step["details"]["dry_run"] = dry_run
    if not success:
        result["error"] = item.reason or f"{item.workstream} is {item.state}"
    return result


def _step_result(step: str, attempts: list[Attempt], skipped: str) -> StepResult:
    """How a step went, by its newest attempt; one that needed none (`skipped` says why) succeeded."""
    own = [attempt for attempt in attempts if attempt.step == step]
    if not own:
        return {"step_name": step, "success": True, "details": _nothing_done(skipped), "error_message": None}
    last = own[-1]
    message = None if last.ok else last.message or last.error_class or last.state
    return {"step_name": step, "success": last.ok, "details": _details(last, own), "error_message": message}


def _nothing_done(reason: str) -> dict[str, Any]:
    return {"attempts": [], "skipped": reason, "noop": reason == "noop"}


def _details(last: Attempt, attempts: list[Attempt]) -> dict[str, Any]:
    return {
        "attempts": [attempt.attempt for attempt in attempts],
        "exit_code": last.exit_code,
        "error_class": last.error_class or None,
        "files": last.files,
        "commit": last.commit,
        "tree": last.tree,
        "tool_wall_s": last.tool_wall_s,
        "checks": json.loads(last.checks_json or "[]"),
        "artifacts": [msgspec.to_builtins(artifact) for artifact in last.artifacts],
        "noop": False,
    }


# Single steps


def _step(
    run_id: str, ws_id: str, bundle: Bundle, context: Context | None, step: str, *, with_fix: bool = False
) -> StepResult:
    wanted = _alone(_bundle(bundle, ws_id))
    with connected() as endpoints, Client(endpoints) as client:
        _ensure_stepwise(client, run_id, wanted, context or {})
        request = str(uuid.uuid4())
        position = client.request_step(run_id, ws_id, step, with_fix=with_fix, actor=actor(), request_id=request)
        return _answer(client, run_id, ws_id, step, request, after=max(position - 1, 0))


def _ensure_stepwise(client: Client, run_id: str, bundle: WorkstreamBundle, context: Context) -> None:
    """The run exists, with this workstream, and the scheduler has accepted it."""
    try:
        client.get_run(run_id)
    except SwellError as error:
        if error.code != "NOT_FOUND":
            raise
    else:
        known = client.list_workstreams(run_id)
        if known and all(item.workstream != bundle.id for item in known):
            raise invalid(
                "WORKSTREAM_NOT_FOUND",
                f"run {run_id} has no workstream {bundle.id}",
                "Use one run for each workstream.",
            )
        return
    position = _submit(client, run_id, [bundle], context, stepwise=True)
    for watched in client.watch(run_id, max(position - 1, 0)):
        if any(event.kind == "run_accepted" for event in watched.events):
            return


def _answer(client: Client, run_id: str, ws_id: str, step: str, request: str, *, after: int) -> StepResult:
    """Wait for the answer to a request; what it says, with the attempts made for it."""
    numbers: set[int] = set()
    skipped = ""
    for watched in client.watch(run_id, after):
        for event in watched.events:
            fact = event.payload
            if event.kind == "step_scheduled" and fact.get("workstream") == ws_id:
                numbers.add(int(fact.get("attempt", 0)))
            elif event.kind == "step_skipped" and fact.get("workstream") == ws_id:
                skipped = fact.get("reason", "")
            elif event.kind == "run_finished":
                message = f"run {run_id} ended before the step did: {fact.get('reason', '')}"
                return {"step_name": step, "success": False, "details": {}, "error_message": message}
            elif event.kind == "request_answered" and fact.get("request_id") == request:
                if fact.get("answer") == "accepted":
                    continue
                made = [attempt for attempt in client.list_attempts(run_id, ws_id) if attempt.attempt in numbers]
                return _answered(step, fact, made, skipped)
    raise SwellError("UNAVAILABLE", "WATCH_ENDED", f"the watch of run {run_id} ended")


def _answered(step: str, fact: dict[str, Any], made: list[Attempt], skipped: str) -> StepResult:
    success = fact.get("answer") == "done" and bool(fact.get("ok", True))
    details = _details(made[-1], made) if made else _nothing_done(skipped)
    details["fix_iterations"] = sum(attempt.step == "fix" for attempt in made)
    return {
        "step_name": step,
        "success": success,
        "details": details,
        "error_message": None if success else fact.get("reason") or f"{step} failed",
    }
