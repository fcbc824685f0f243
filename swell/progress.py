"""What a run looks like while it runs: a fold over its events. Pure; the clock is the log's.

`Progress.take` folds one event and answers with the lines that say what it changed, in stable wording: other programs
may read them.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from services.events import LINE, TERMINAL_WORKSTREAM
from services.outcome import usd_text
from swell.text import duration, one_line
from swell.values import Event

STEPS: Final = ("edit", "static", "runtime")
Mark = Literal["", "running", "ok", "failed", "skipped"]


class WorkstreamView:
    """One workstream as it is shown."""

    def __init__(self, workstream: str) -> None:
        self.workstream = workstream
        self.wave = -1
        self.state = "pending"
        self.reason = ""
        self.fixes = 0
        self.marks: dict[str, Mark] = dict.fromkeys(STEPS, "")
        self.merged = False
        self.waiting = ""
        self.started_ns = 0
        self.ended_ns = 0


class Progress:
    """A run as far as its events have been folded."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.state = "pending"
        self.reason = ""
        self.workstreams: dict[str, WorkstreamView] = {}
        self.waves: list[list[str]] = []
        self.started_ns = 0
        self.now_ns = 0
        self.delivered = ""
        self.delivered_commit = ""
        self.delivery_refused = ""
        self.head = ""
        self.base = ""
        self.finished = False
        self.cause = ""
        self.rollback = ""
        self.done: dict[str, tuple[bool, str]] = {}
        """Whether what requests asked for succeeded, and what was said of it."""
        self.failures: dict[str, str] = {}
        self._steps: dict[tuple[str, int], tuple[str, str, int]] = {}
        self._tools: dict[tuple[str, int], str] = {}
        self.open_attempts: set[tuple[str, int]] = set()
        self.unreaped: set[tuple[str, int]] = set()
        self.reaped: dict[tuple[str, int], int] = {}

    @property
    def awaits_review(self) -> bool:
        """Whether the run is paused until a person decides about its workstreams."""
        return self.state == "paused" and self.cause == "review"

    @property
    def awaits_money(self) -> bool:
        """Whether the run is paused until it has another budget."""
        return self.state == "paused" and self.cause == "budget"

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first event to the last one folded."""
        return max(self.now_ns - self.started_ns, 0) / 1e9

    def workstream(self, name: str) -> WorkstreamView:
        """The view of a workstream, made when it is first heard of."""
        return self.workstreams.setdefault(name, WorkstreamView(name))

    def take(self, event: Event) -> list[str]:
        """Fold one event; the lines that tell of it, each with the time since the first event."""
        said = self.words(event)
        return [f"[{self.elapsed_s:7.1f}s] {line}" for line in said]

    def words(self, event: Event) -> list[str]:
        """Fold one event; what tells of it, line by line."""
        self.started_ns = self.started_ns or event.time_ns
        self.now_ns = max(self.now_ns, event.time_ns)
        said = getattr(self, f"_on_{event.kind}", _nothing)(event, event.payload)
        return [one_line(line) for line in said]

    # Runs

    def _on_run_accepted(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self.base = fact.get("base_commit", "")
        return [
            (
                f"run {event.run} accepted: {fact.get('workstreams', 0)} workstreams from {self.base[:12]}, "
                f"asked for by {fact.get('actor', '')}"
            )
        ]

    def _on_request_answered(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        if fact.get("answer") == "done":
            self.done[fact.get("request_id", "")] = (bool(fact.get("ok", True)), fact.get("reason", ""))
        if fact.get("answer") == "refused":
            return [f"request refused: {fact.get('reason', '')}"]
        return []

    def _on_run_transitioned(self, event: Event, fact: dict[str, Any]) -> list[str]:
        before = self.state
        self.state, self.reason, self.cause = fact.get("to_state", ""), fact.get("reason", ""), fact.get("cause", "")
        if self.state == "running":
            return [f"run {event.run} goes on{_because(self.reason)}"] if before == "paused" else []
        return [f"run {event.run} {self.state}{_because(self.reason)}"]

    def _on_run_amended(self, event: Event, fact: dict[str, Any]) -> list[str]:
        names = ", ".join(fact.get("workstreams", []))
        return [f"run {event.run} amended by {fact.get('actor', '')}: {names}{_because(fact.get('reason', ''))}"]

    def _on_pause_requested(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"{_scope(event, fact)}: {fact.get('actor', '')} asks to pause{_because(fact.get('reason', ''))}"]

    def _on_resume_requested(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"{_scope(event, fact)}: {fact.get('actor', '')} asks to resume{_because(fact.get('reason', ''))}"]

    def _on_review_requested(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        names = ", ".join(fact.get("workstreams", [])) or "everything in review"
        return [f"{names}: {fact.get('actor', '')} says {fact.get('verdict', '')}{_because(fact.get('reason', ''))}"]

    def _on_recovery_requested(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [
            (
                f"{fact.get('workstream', '')} {fact.get('step', '')}: {fact.get('actor', '')} asks to recover from "
                f"{fact.get('error_class', '') or 'unknown'}{_because(fact.get('reason', ''))}"
            )
        ]

    def _on_rollback_requested(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"run {event.run}: {fact.get('actor', '')} asks to roll back{_because(fact.get('reason', ''))}"]

    def _on_rollback_started(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self.rollback = "running"
        count = fact.get("workstreams", 0)
        return [f"run {event.run} rollback started: {count} workstreams{_because(fact.get('reason', ''))}"]

    def _on_rollback_finished(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self.rollback = fact.get("state", "")
        counts = f"{fact.get('compensated', 0)} compensated, {fact.get('failed', 0)} failed"
        counts += f", {fact.get('without_actions', 0)} without actions"
        left = ", ".join(fact.get("remaining", []))
        return [
            f"run {event.run} rollback finished: {self.rollback} ({counts}){_because(fact.get('reason', ''))}"
            + (f"; remaining: {left}" if left else "")
        ]

    def _on_revert_started(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self.rollback = "running"
        names = ", ".join(fact.get("workstreams", []))
        return [f"run {event.run} rollback started: {names}{_because(fact.get('reason', ''))}"]

    def _on_integration_reverted(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        self.head = fact.get("to", {}).get("commit", "")
        names = list(fact.get("workstreams", []))
        for name in names:
            self.workstream(name).merged = False
        return [f"{', '.join(names)} taken off the line: {self.head[:12]}"]

    def _on_revert_finished(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self.rollback = fact.get("state", "")
        return [f"run {event.run} rollback finished: {self.rollback}{_because(fact.get('reason', ''))}"]

    def _on_delivery_requested(self, event: Event, fact: dict[str, Any]) -> list[str]:
        where = f" to {fact['remote']}" if fact.get("remote") else ""
        what = "its patches" if fact.get("series") else f"a delivery{where}"
        return [f"run {event.run}: {fact.get('actor', '')} asks for {what}{_because(fact.get('reason', ''))}"]

    def _on_cancel_requested(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"run {event.run}: {fact.get('actor', '')} asks to cancel{_because(fact.get('reason', ''))}"]

    def _on_run_stopping(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"run {event.run} stopping: {fact.get('reason', '')}"]

    def _on_run_finished(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self.state, self.reason, self.finished = fact.get("state", ""), fact.get("reason", ""), True
        counts = ", ".join(f"{fact.get(name, 0)} {name}" for name in ("completed", "failed", "blocked", "cancelled"))
        spent = f", {usd_text(int(fact['spent_nano']))} spent" if fact.get("spent_nano") else ""
        return [f"run {event.run} finished: {self.state} ({counts}{spent}){_because(self.reason)}"]

    # Waves and workstreams

    def _on_wave_started(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        wave, names = int(fact.get("wave", 0)), list(fact.get("workstreams", []))
        while len(self.waves) <= wave:
            self.waves.append([])
        self.waves[wave] += names
        for name in names:
            self.workstream(name).wave = wave
        return [f"wave {wave + 1} started: {', '.join(names)}"]

    def _on_wave_finished(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"wave {int(fact.get('wave', 0)) + 1} finished"]

    def _on_workstream_transitioned(self, event: Event, fact: dict[str, Any]) -> list[str]:
        view = self.workstream(fact.get("workstream", ""))
        before = view.state
        view.state, view.reason, view.waiting = fact.get("to_state", ""), fact.get("reason", ""), ""
        if view.state in TERMINAL_WORKSTREAM:
            view.ended_ns = event.time_ns
            return [f"{view.workstream} {view.state}{_because(view.reason)}"]
        if view.state in {"awaiting_review", "compensating"} or before == "awaiting_review":
            return [f"{view.workstream} {view.state}{_because(view.reason)}"]
        return []

    def _on_fix_loop_ended(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [
            (
                f"{fact.get('workstream', '')} fix loop of {fact.get('step', '')} ended: "
                f"{fact.get('limit', '')}{_because(fact.get('reason', ''))}"
            )
        ]

    def _on_budget_requested(self, event: Event, fact: dict[str, Any]) -> list[str]:
        wanted = _budget(fact)
        whose = _budget_owner(event, fact)
        return [f"{whose}: {fact.get('actor', '')} asks for {wanted}{_because(fact.get('reason', ''))}"]

    def _on_budget_changed(self, event: Event, fact: dict[str, Any]) -> list[str]:
        whose = _budget_owner(event, fact)
        return [f"{whose} has {_budget(fact)}, by {fact.get('actor', '')}{_because(fact.get('reason', ''))}"]

    def _on_budget_reached(self, event: Event, fact: dict[str, Any]) -> list[str]:
        whose = fact.get("workstream") or f"run {event.run}"
        if fact.get("day"):
            whose = f"{'tool ' + fact['tool'] if fact.get('tool') else 'the fleet'} on {fact['day']}"
        spent, limit, reserved = (usd_text(int(fact.get(f"{name}_nano", 0))) for name in ("spent", "limit", "reserved"))
        said = "has used up its budget" if fact.get("threshold") == "exceeded" else "comes near its budget"
        return [f"{whose} {said}: {spent} of {limit} spent, {reserved} reserved"]

    def _on_review_resolved(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        step = f" from {fact['from_step']}" if fact.get("from_step") else ""
        return [
            (
                f"{fact.get('workstream', '')} review: {fact.get('verdict', '')} by {fact.get('actor', '')}{step}"
                f"{_because(fact.get('reason', ''))}"
            )
        ]

    def _on_recovery_chosen(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        number = f" (attempt {fact['attempt']})" if fact.get("attempt") else ""
        tool = f" with {fact['tool']}" if fact.get("strategy") == "fallback_tool" and fact.get("tool") else ""
        return [
            (
                f"{self._shown(fact.get('workstream', ''))} {fact.get('step', '')}{number} recovery: "
                f"{fact.get('strategy', '')}{tool}{_because(fact.get('reason', ''))}"
            )
        ]

    # Steps

    def _on_step_delayed(self, event: Event, fact: dict[str, Any]) -> list[str]:
        step = fact.get("step", {})
        workstream, until_ns = step.get("workstream", ""), int(fact.get("until_ns", 0))
        waits = f"waits for {str(fact.get('cause', '')).replace('_', ' ')}{_because(fact.get('reason', ''))}"
        if until_ns > event.time_ns:
            waits += f" (for {duration((until_ns - event.time_ns) / 1e9)})"
        if workstream != LINE:
            self.workstream(workstream).waiting = waits
        return [f"{self._shown(workstream)} {step.get('step', '')} {waits}"]

    def _on_step_scheduled(self, event: Event, fact: dict[str, Any]) -> list[str]:
        workstream, step, number = fact.get("workstream", ""), fact.get("step", ""), int(fact.get("attempt", 0))
        on_behalf = _PURPOSES.get(fact.get("purpose", ""), fact.get("on_behalf", ""))
        self._steps[workstream, number] = (step, on_behalf, event.time_ns)
        self._tools[workstream, number] = str(fact.get("tool", ""))
        self.open_attempts.add((workstream, number))
        if workstream == LINE:
            return []
        view = self.workstream(workstream)
        view.waiting = ""
        view.started_ns = view.started_ns or event.time_ns
        if step == "fix":
            view.fixes += 1
        elif step in view.marks:
            view.marks[step] = "running"
        return []

    def _on_step_started(self, event: Event, _fact: dict[str, Any]) -> list[str]:
        self.unreaped.add((event.workstream, event.attempt))
        tool = self._tools.pop((event.workstream, event.attempt), "")
        return [f"{self._named(event)} started{f', by {tool}' if tool else ''}"]

    def _on_step_skipped(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        workstream, step = fact.get("workstream", ""), fact.get("step", "")
        if workstream != LINE and step in STEPS:
            self.workstream(workstream).marks[step] = "skipped" if fact.get("reason") == "noop" else "ok"
        return [f"{self._shown(workstream)} {step} skipped: {fact.get('reason', '')}"]

    def _on_step_finished(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self._close(event)
        self.unreaped.discard((event.workstream, event.attempt))
        ok = bool(fact.get("ok"))
        self._mark(event, ok=ok)
        wall = duration(float(fact.get("wall_s", 0.0)))
        if ok:
            return [f"{self._named(event)} ok ({wall})"]
        why = _failure(fact)
        self.failures[event.workstream] = why
        return [f"{self._named(event)} failed ({wall}): {why}"]

    def _on_step_cancelled(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self._close(event)
        self._mark(event, ok=False)
        return [f"{self._named(event)} cancelled{_because(fact.get('reason', ''))}"]

    def _on_step_lost(self, event: Event, fact: dict[str, Any]) -> list[str]:
        self._close(event)
        self._mark(event, ok=False)
        return [f"{self._named(event)} lost{_because(fact.get('reason', ''))}"]

    def _on_processes_reaped(self, event: Event, fact: dict[str, Any]) -> list[str]:
        count = int(fact.get("processes", 0))
        self.unreaped.discard((event.workstream, event.attempt))
        self.reaped[event.workstream, event.attempt] = count
        return [f"{self._named(event)}: {count} processes ended"]

    # The line

    def _on_integration_advanced(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        view = self.workstream(fact.get("workstream", ""))
        view.merged = True
        self.head = fact.get("to", {}).get("commit", "")
        return [f"{view.workstream} merged: {self.head[:12]}"]

    def _on_merge_staged(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"{fact.get('workstream', '')} staged: {fact.get('to', {}).get('commit', '')[:12]}"]

    def _on_merge_postponed(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"{fact.get('workstream', '')} merge postponed{_because(fact.get('reason', ''))}"]

    def _on_gate_flaked(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"gate {fact.get('gate', '')} is flaky: it failed and passed on tree {fact.get('tree', '')[:12]}"]

    def _on_merge_refused(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        files = ", ".join(fact.get("files", [])[:5])
        return [
            f"{fact.get('workstream', '')} merge refused: {fact.get('reason', '')}: {fact.get('message', '')}"
            + (f" ({files})" if files else "")
        ]

    def _on_line_delivered(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        self.delivered = fact.get("ref", "").removeprefix("refs/heads/")
        self.delivered_commit = fact.get("commit", "")
        where = f" of {remote}" if (remote := (fact.get("to") or {}).get("remote")) else ""
        warning = fact.get("warning", "")
        return [
            f"delivered: branch {self.delivered}{where} at {self.delivered_commit[:12]}",
            *([f"warning: {warning}"] if warning else []),
        ]

    def _on_delivery_refused(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        self.delivery_refused = fact.get("reason", "")
        return [f"delivery refused: {fact.get('ref', '')}{_because(self.delivery_refused)}"]

    # Across runs

    def _on_access_refused(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        method, run = str(fact.get("method", "")).rpartition("/")[2], fact.get("run", "")
        times = f" {count} times" if (count := fact.get("count", 1)) > 1 else ""
        return [
            f"{fact.get('principal', '') or 'a stranger'} was refused {method}{f' of {run}' if run else ''}{times}: {fact.get('reason', '')}"
        ]

    def _on_fleet_paused(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"{_scope(event, fact)} paused by {fact.get('actor', '')}{_because(fact.get('reason', ''))}"]

    def _on_fleet_resumed(self, event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"{_scope(event, fact)} resumed by {fact.get('actor', '')}{_because(fact.get('reason', ''))}"]

    def _on_tool_breaker_opened(self, event: Event, fact: dict[str, Any]) -> list[str]:
        wait_s = max(int(fact.get("until_ns", 0)) - event.time_ns, 0) / 1e9
        return [
            (
                f"tool {fact.get('tool', '')} breaker open for {duration(wait_s)} after {fact.get('failures', 0)} failures"
                f"{_because(fact.get('reason', ''))}"
            )
        ]

    def _on_tool_breaker_half_opened(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"tool {fact.get('tool', '')} breaker half open: one attempt may probe it"]

    def _on_probe_granted(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        probe = f"{fact.get('run', '')}/{fact.get('workstream', '')}/{fact.get('attempt', 0)}"
        return [f"tool {fact.get('tool', '')} is probed by {probe}"]

    def _on_limits_set(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        budgets = [("the fleet", fact["fleet_nano"])] if fact.get("fleet_nano") is not None else []
        budgets += [(f"tool {tool}", nano) for tool, nano in fact.get("tools_nano", {}).items()]
        said = [f"{whose} may spend {usd_text(int(nano))} a day" for whose, nano in budgets]
        said += [f"{name} has a rate" for name in fact.get("rates", {})]
        return [f"limits across runs: {', '.join(said) or 'none'}"]

    def _on_attempt_granted(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        whose = f"{fact.get('run', '')}/{fact.get('workstream', '')}/{fact.get('attempt', 0)}"
        return [f"{whose} has its share: {fact.get('tool', '')}, {usd_text(int(fact.get('cap_nano', 0)))} reserved"]

    def _on_grant_returned(self, event: Event, fact: dict[str, Any]) -> list[str]:
        whose = f"{fact.get('run') or event.run}/{fact.get('workstream', '')}/{fact.get('attempt', 0)}"
        return [f"{whose} gives its share back{_because(fact.get('reason', ''))}"]

    def _on_tool_breaker_closed(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [f"tool {fact.get('tool', '')} breaker closed{_because(fact.get('reason', ''))}"]

    def _on_executor_transitioned(self, _event: Event, fact: dict[str, Any]) -> list[str]:
        return [
            (
                f"executor {fact.get('executor', '')} {fact.get('from_state', '')} -> {fact.get('to_state', '')}"
                f"{_because(fact.get('reason', ''))}"
            )
        ]

    def _close(self, event: Event) -> None:
        self.open_attempts.discard((event.workstream, event.attempt))

    def _mark(self, event: Event, *, ok: bool) -> None:
        step = self._steps.get((event.workstream, event.attempt), ("", "", 0))[0]
        if event.workstream != LINE and step in STEPS:
            self.workstream(event.workstream).marks[step] = "ok" if ok else "failed"

    def _named(self, event: Event) -> str:
        step, on_behalf, _ = self._steps.get((event.workstream, event.attempt), ("step", "", 0))
        if event.workstream == LINE:
            return f"{on_behalf or 'line'} {step}"
        return f"{event.workstream} {step} (attempt {event.attempt})"

    def _shown(self, workstream: str) -> str:
        return "line" if workstream == LINE else workstream


_PURPOSES = {"wave": "the wave:", "start": "before the wave:", "search": "who made it red:"}
"""What a step of the line that is on behalf of nobody is about."""


def _nothing(_event: Event, _fact: dict[str, Any]) -> list[str]:
    return []


def _scope(event: Event, fact: dict[str, Any]) -> str:
    """What a pause is about."""
    scope = fact.get("scope", "run")
    if scope == "run":
        return f"run {event.run}"
    return "everything" if scope == "all" else f"{scope} {fact.get('name', '')}"


def _budget_owner(event: Event, fact: dict[str, Any]) -> str:
    match fact.get("scope"):
        case "tool":
            return f"tool {fact.get('name', '')} (each day)"
        case "fleet":
            return "the fleet (each day)"
        case _:
            return f"run {event.run}"


def _budget(fact: dict[str, Any]) -> str:
    if fact.get("limit_nano") is None:
        return "no budget"
    mode = fact.get("mode", "halt")
    return f"a budget of {usd_text(int(fact['limit_nano']))}" + ("" if mode == "halt" else f" ({mode})")


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _failure(fact: dict[str, Any]) -> str:
    failing = ", ".join(
        check.get("name", "") for check in fact.get("checks", []) if check.get("outcome") in {"failed", "error"}
    )
    parts = [fact.get("error_class") or "unknown", failing, fact.get("message", "")]
    return ": ".join(part for part in parts if part)
