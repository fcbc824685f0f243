"""One value of every kind with every field set, and one with only what is required; golden/ holds their bytes."""

from services import events as ev
from services.commands import RunStep

ARTIFACT = ev.Artifact(role="log", digest="5" * 64, name="log-1f", size_bytes=1234)
DIAGNOSTICS = ev.Artifact(role="diagnostics", digest="6" * 64, name="diagnostics-2f", size_bytes=56)
PATCH = ev.Artifact(role="patch", digest="7" * 64, name="patch-3f", size_bytes=78)
SPEC = ev.Artifact(role="spec", digest="8" * 64, name="spec-4f", size_bytes=910)
PLAIN = ev.Snapshot(commit="a" * 40, tree="b" * 40)
CARRIED = ev.Snapshot(commit="c" * 40, tree="d" * 40, bundle=ARTIFACT)
CHECK = ev.Check(check="0123456789abcdef", kind="static", name="ruff")
TEST = ev.Check(check="fedcba9876543210", kind="acceptance", name="pytest -q tests/test_x.py")
RESULT = ev.CheckResult(
    check="0123456789abcdef", kind="runtime", name="pytest", outcome="failed", exit_code=1, wall_s=2.5, findings=3,
    message="3 tests failed: straße, 漢字, 😀", optional=True, tests=40, failures=3, skipped=2,
)  # fmt: skip
DESTINATION = ev.Destination(style="merge", remote="https://example.com/r.git", credential="env:TOKEN", hook="open-pr")
FIX = ev.FixInput(step="runtime", attempt=4, diagnostics=DIAGNOSTICS, earlier_patches=[PATCH], mechanical=2)
FINISHED = ev.StepFinished(
    ok=True, error_class="check_failed", message="2 findings", exit_code=1, snapshot=CARRIED, changed=True,
    files=["src/a.py", "docs/ä.md"], files_total=2, violations=["etc/passwd"], conflicts=["src/b.py"], others=["ws-b"],
    discarded=["report.xml"], checks=[RESULT], signature="e3b0c442", findings=2, artifacts=[ARTIFACT, PATCH],
    tool_wall_s=1.25, wall_s=2.0, dry_run=True,
    usage=ev.Usage(input_tokens=2400, cache_read_tokens=10_000, cache_write_tokens=600, output_tokens=59, lower_bound=True),
    cost=ev.Cost(nano_usd=13_335_000, basis="reported", table="t1"),
    list_cost=ev.Cost(nano_usd=13_300_000, basis="list", table="t1"), model="claude-sonnet-4-5", provider="anthropic",
    session="3d548743-bcea", denials=["Bash"], retry_after_s=30.5, resets_at_ns=1_790_000_000_000_000_000,
    context=ev.HandedContext(decision="reduced", files=7, left_out=3, tokens=110_000, limit_tokens=112_000),
)  # fmt: skip

DELAYED = ev.StepScheduled(
    workstream="ws-a", attempt=0, step="edit", pool="default", input=PLAIN, timeout_s=600.0, queue_deadline_ns=0,
    tool="claude",
)  # fmt: skip

FULL: dict[str, ev.AnyEvent] = {
    "run_requested": ev.RunRequested(
        request_id="q-12345678", actor="ann", spec=SPEC, workstreams=7, repository="/srv/repo", base_commit="a" * 40,
        timeout_s=3600.5, paused=True, labels={"team": "payments"}, tenant="acme",
    ),
    "cancel_requested": ev.CancelRequested(request_id="q-12345678", actor="ann", reason="wrong branch"),
    "step_requested": ev.StepRequested(
        request_id="q-12345678", actor="ann", workstream="ws-a", step="static", with_fix=True
    ),
    "pause_requested": ev.PauseRequested(
        request_id="q-12345678", actor="ann", scope="tool", name="claude", reason="its key is being changed"
    ),
    "resume_requested": ev.ResumeRequested(
        request_id="q-12345678", actor="ann", scope="pool", name="default", reason="the key is changed"
    ),
    "review_requested": ev.ReviewRequested(
        request_id="q-12345678", actor="ann", verdict="adjust", workstreams=["ws-a", "ws-b"], from_step="static",
        spec=SPEC, amends="9" * 64, reason="another tool",
    ),
    "recovery_requested": ev.RecoveryRequested(
        request_id="q-12345678", actor="ann", workstream="ws-a", step="edit", error_class="timeout", reason="too slow"
    ),
    "rollback_requested": ev.RollbackRequested(
        request_id="q-12345678", actor="ann", reason="released by mistake", workstreams=["ws-a"], with_dependents=True
    ),
    "delivery_requested": ev.DeliveryRequested(
        request_id="q-12345678", actor="ann", style="squash", remote="https://example.com/r.git",
        credential="env:TOKEN", series=True, reason="it is wanted there",
    ),
    "access_refused": ev.AccessRefused(
        principal="ann",
        method="/swell.scheduler.v1.SchedulerService/CancelRun",
        reason="ROLE_MISSING",
        run="r1",
        count=3,
    ),
    "budget_requested": ev.BudgetRequested(
        request_id="q-12345678", actor="ann", limit_nano=1_000_000_000, mode="warn", reason="it is worth it",
        scope="tool", name="claude",
    ),
    "request_answered": ev.RequestAnswered(
        request_id="q-12345678", answer="refused", reason="the run is over", ok=False
    ),
    "run_accepted": ev.RunAccepted(
        request_id="q-12345678", actor="ann", spec=SPEC, workstreams=7, repository="/srv/repo", base_commit="a" * 40,
        deadline_ns=1_790_000_000_000_000_000, labels={"team": "payments"}, tenant="acme",
    ),
    "run_transitioned": ev.RunTransitioned(
        from_state="running", to_state="paused", reason="3 workstreams await review", actor="ann", cause="review"
    ),
    "run_amended": ev.RunAmended(
        spec=SPEC, amends="9" * 64, workstreams=["ws-a", "ws-b"], actor="ann", reason="another tool"
    ),
    "run_stopping": ev.RunStopping(
        outcome="cancelled", reason="its time is over", actor="ann", cause="run_timeout"
    ),
    "wave_started": ev.WaveStarted(wave=2, workstreams=["ws-a", "ws-b"], more=True),
    "wave_finished": ev.WaveFinished(wave=2, next_not_before_ns=1_790_000_000_000_000_001),
    "workstream_transitioned": ev.WorkstreamTransitioned(
        workstream="ws-a", from_state="ready", to_state="editing", reason="dispatched", actor="ann"
    ),
    "step_scheduled": ev.StepScheduled(
        workstream="_line", attempt=3, step="gate", pool="default", input=PLAIN, timeout_s=600.0,
        queue_deadline_ns=1_790_000_000_000_000_002, base=PLAIN, on_behalf="ws-a", theirs=CARRIED, checks=[CHECK, TEST],
        every_check=True, merged=[(0, 3), (5, 6)], fix=FIX, dry_run=True, tool="codex", reduction=2,
        action="cmd:make undo", idle_timeout_s=120.5, reason="the breaker of claude is open", cap="soft",
        cap_nano=300_000_000, capability="refactoring", purpose="search", trusted=True, tools=["codex"], cost_nano=20_000_000, reverts=True,
        delivery=DESTINATION, series=True, request_id="q-12345678",
        deliveries=[ev.Delivered(to=DESTINATION, commit="c" * 40, head="d" * 40)],
    ),
    "step_delayed": ev.StepDelayed(
        step=DELAYED, cause="tool_breaker", reason="the breaker of claude is open", until_ns=1_790_000_000_000_000_005
    ),
    "recovery_chosen": ev.RecoveryChosen(
        workstream="ws-a", step="edit", attempt=3, error_class="tool_failed", strategy="fallback_tool",
        reason="claude failed 3 times", tool="codex", reduction=1, not_before_ns=1_790_000_000_000_000_006,
        replaced="claude",
    ),
    "review_resolved": ev.ReviewResolved(
        workstream="ws-a", verdict="retry", actor="ann", request_id="q-12345678", from_step="runtime",
        reason="the network is back",
    ),
    "budget_changed": ev.BudgetChanged(
        actor="ann", limit_nano=2_500_000_000, mode="warn", reason="it is worth it", scope="tool", name="claude"
    ),
    "budget_reached": ev.BudgetReached(
        threshold="exceeded", limit_nano=1_000_000_000, spent_nano=1_020_000_000, reserved_nano=300_000_000, mode="warn",
        workstream="ws-a", tool="claude", day="2026-11-23", tenant="acme",
    ),
    "step_skipped": ev.StepSkipped(
        workstream="ws-a", step="gate", tree="b" * 40, reason="verdict_reused", checks=[CHECK], sources=["r0/ws-a/2"],
    ),
    "fix_loop_ended": ev.FixLoopEnded(
        workstream="ws-a", step="static", limit="oscillation_tree", reason="the same tree was seen 2 times"
    ),
    "integration_advanced": ev.IntegrationAdvanced(workstream="ws-a", from_commit="a" * 40, to=CARRIED),
    "merge_staged": ev.MergeStaged(workstream="ws-a", from_commit="a" * 40, to=CARRIED),
    "merge_postponed": ev.MergePostponed(workstream="ws-b", reason="what is staged is not verified yet"),
    "merge_refused": ev.MergeRefused(
        workstream="ws-b", reason="red", message="GATE_INTEGRATION fails since ws-b was merged together with ws-a",
        files=["src/a.py"], others=["ws-a"], onto=CARRIED, result=CARRIED, diagnostics=DIAGNOSTICS, gate="GATE_INTEGRATION",
        taken_back=True,
    ),
    "gate_flaked": ev.GateFlaked(gate="GATE_INTEGRATION", check="0123456789abcdef", tree="b" * 40, failures=1),
    "line_delivered": ev.LineDelivered(
        ref="refs/heads/swell/r1", commit="c" * 40, head="d" * 40, to=DESTINATION, warning="open-pr ended with 1"
    ),
    "delivery_refused": ev.DeliveryRefused(
        ref="refs/heads/swell/r1", commit="c" * 40, reason="checked out elsewhere", to=DESTINATION
    ),
    "revert_started": ev.RevertStarted(
        request_id="q-12345678", actor="ann", workstreams=["ws-b", "ws-a"], reason="released by mistake"
    ),
    "integration_reverted": ev.IntegrationReverted(workstreams=["ws-b", "ws-a"], from_commit="a" * 40, to=CARRIED),
    "revert_finished": ev.RevertFinished(
        state="refused", workstreams=["ws-a"], reason="it conflicts with ws-b", files=["src/a.py"]
    ),
    "rollback_started": ev.RollbackStarted(
        request_id="q-12345678", actor="ann", workstreams=2, reason="released by mistake"
    ),
    "rollback_finished": ev.RollbackFinished(
        state="compensation_failed", compensated=1, failed=1, without_actions=3, remaining=["ws-a"],
        reason="make undo ended with 2",
    ),
    "run_finished": ev.RunFinished(
        state="partial", reason="2 of 7 workstreams completed", completed=2, failed=1, blocked=3, cancelled=1,
        spent_nano=1_234_567_890,
    ),
    "fleet_paused": ev.FleetPaused(scope="tool", name="claude", actor="ann", reason="its key is being changed"),
    "fleet_resumed": ev.FleetResumed(scope="tool", name="claude", actor="ann", reason="the key is changed"),
    "tool_breaker_opened": ev.ToolBreakerOpened(
        tool="claude", failures=5, until_ns=1_790_000_000_000_000_007, reason="5 failures in a row",
        error_class="rate_limited",
    ),
    "tool_breaker_half_opened": ev.ToolBreakerHalfOpened(tool="claude"),
    "probe_granted": ev.ProbeGranted(
        tool="claude", run="r1", workstream="ws-a", attempt=3, expires_ns=1_790_000_000_000_000_008
    ),
    "limits_set": ev.LimitsSet(
        fleet_nano=50_000_000_000, tools_nano={"claude": 20_000_000_000}, mode="warn",
        rates={"anthropic": ev.Rate(attempts_per_min=30, burst=5, tokens_per_min=400_000)},
        pools={"default": 40}, tenants={"acme": ev.TenantShare(weight=3, concurrency=20, budget_nano=40_000_000_000)},
    ),
    "attempt_granted": ev.AttemptGranted(
        run="r1", workstream="ws-a", attempt=3, tool="claude", provider="anthropic", model="claude-sonnet-4-5",
        cap="enforced", cap_nano=5_000_000_000, expires_ns=1_790_000_000_000_000_009, pool="default", tenant="acme",
    ),
    "grant_returned": ev.GrantReturned(run="r1", workstream="ws-a", attempt=3, reason="it was not scheduled in time"),
    "tool_breaker_closed": ev.ToolBreakerClosed(tool="claude", reason="the probe succeeded", actor="ann"),
    "executor_transitioned": ev.ExecutorTransitioned(
        executor="executor-1", boot="0123456789ab", pool="default", slots=4, from_state="busy", to_state="draining",
        reason="it is being ended",
    ),
    "step_started": ev.StepStarted(executor="executor-1", boot="0123456789ab"),
    "step_finished": FINISHED,
    "step_cancelled": ev.StepCancelled(reason="nobody claimed it", actor="ann", error_class="queue_timeout"),
    "step_lost": ev.StepLost(reason="the executor has started anew", executor="executor-1"),
    "processes_reaped": ev.ProcessesReaped(executor="executor-1", boot="0123456789ab", processes=3),
    "result_refused": ev.ResultRefused(executor="executor-1", boot="0123456789ab", result=FINISHED),
}  # fmt: skip

MINIMAL: dict[str, ev.AnyEvent] = {
    "run_requested": ev.RunRequested(
        request_id="q", actor="a", spec=SPEC, workstreams=1, repository="r", base_commit="c"
    ),
    "cancel_requested": ev.CancelRequested(request_id="q", actor="a"),
    "step_requested": ev.StepRequested(request_id="q", actor="a", workstream="w", step="edit"),
    "pause_requested": ev.PauseRequested(request_id="q", actor="a"),
    "resume_requested": ev.ResumeRequested(request_id="q", actor="a"),
    "review_requested": ev.ReviewRequested(request_id="q", actor="a", verdict="approve"),
    "recovery_requested": ev.RecoveryRequested(request_id="q", actor="a", workstream="w", step="edit"),
    "rollback_requested": ev.RollbackRequested(request_id="q", actor="a"),
    "delivery_requested": ev.DeliveryRequested(request_id="q", actor="a"),
    "budget_requested": ev.BudgetRequested(request_id="q", actor="a"),
    "access_refused": ev.AccessRefused(principal="", method="m", reason="R"),
    "request_answered": ev.RequestAnswered(request_id="q", answer="accepted"),
    "run_accepted": ev.RunAccepted(
        request_id="q", actor="a", spec=SPEC, workstreams=1, repository="r", base_commit="c"
    ),
    "run_transitioned": ev.RunTransitioned(from_state="pending", to_state="running"),
    "run_amended": ev.RunAmended(spec=SPEC, amends="d", workstreams=[], actor="a"),
    "run_stopping": ev.RunStopping(outcome="failed", reason=""),
    "wave_started": ev.WaveStarted(wave=0, workstreams=[]),
    "wave_finished": ev.WaveFinished(wave=0),
    "workstream_transitioned": ev.WorkstreamTransitioned(workstream="w", from_state="pending", to_state="ready"),
    "step_scheduled": ev.StepScheduled(
        workstream="w", attempt=1, step="edit", pool="p", input=PLAIN, timeout_s=1.0, queue_deadline_ns=0
    ),
    "step_delayed": ev.StepDelayed(
        step=ev.StepScheduled(
            workstream="w", attempt=0, step="edit", pool="p", input=PLAIN, timeout_s=1.0, queue_deadline_ns=0
        ),
        cause="retry", reason="",
    ),
    "recovery_chosen": ev.RecoveryChosen(
        workstream="w", step="edit", attempt=0, error_class="unknown", strategy="review", reason=""
    ),
    "review_resolved": ev.ReviewResolved(workstream="w", verdict="reject", actor="a"),
    "budget_changed": ev.BudgetChanged(actor="a"),
    "budget_reached": ev.BudgetReached(threshold="warning", limit_nano=0, spent_nano=0),
    "step_skipped": ev.StepSkipped(workstream="w", step="static", tree="", reason="noop"),
    "fix_loop_ended": ev.FixLoopEnded(workstream="w", step="static", limit="max_fix_iterations", reason=""),
    "integration_advanced": ev.IntegrationAdvanced(workstream="w", from_commit="c", to=PLAIN),
    "merge_staged": ev.MergeStaged(workstream="w", from_commit="c", to=PLAIN),
    "merge_postponed": ev.MergePostponed(workstream="w", reason=""),
    "merge_refused": ev.MergeRefused(workstream="w", reason="red", message=""),
    "gate_flaked": ev.GateFlaked(gate="g", check="c", tree="", failures=1),
    "line_delivered": ev.LineDelivered(ref="r", commit="c"),
    "delivery_refused": ev.DeliveryRefused(ref="r", commit="c", reason=""),
    "revert_started": ev.RevertStarted(request_id="q", actor="a", workstreams=[]),
    "integration_reverted": ev.IntegrationReverted(workstreams=[], from_commit="f", to=ev.Snapshot(commit="c", tree="t")),
    "revert_finished": ev.RevertFinished(state="reverted", workstreams=[]),
    "rollback_started": ev.RollbackStarted(request_id="q", actor="a", workstreams=0),
    "rollback_finished": ev.RollbackFinished(state="compensated", compensated=0, failed=0, without_actions=0),
    "run_finished": ev.RunFinished(state="completed", reason="", completed=0, failed=0, blocked=0, cancelled=0),
    "fleet_paused": ev.FleetPaused(scope="all"),
    "fleet_resumed": ev.FleetResumed(scope="all"),
    "tool_breaker_opened": ev.ToolBreakerOpened(tool="t", failures=1, until_ns=0, reason=""),
    "tool_breaker_half_opened": ev.ToolBreakerHalfOpened(tool="t"),
    "probe_granted": ev.ProbeGranted(tool="t", run="r", workstream="w", attempt=1, expires_ns=0),
    "limits_set": ev.LimitsSet(),
    "attempt_granted": ev.AttemptGranted(run="r", workstream="w", attempt=1, tool="t", provider="p", expires_ns=0),
    "grant_returned": ev.GrantReturned(workstream="w", attempt=1, reason=""),
    "tool_breaker_closed": ev.ToolBreakerClosed(tool="t", reason=""),
    "executor_transitioned": ev.ExecutorTransitioned(
        executor="e", boot="b", pool="p", slots=1, from_state="spawning", to_state="idle"
    ),
    "step_started": ev.StepStarted(executor="e", boot="b"),
    "step_finished": ev.StepFinished(ok=False),
    "step_cancelled": ev.StepCancelled(reason=""),
    "step_lost": ev.StepLost(reason=""),
    "processes_reaped": ev.ProcessesReaped(executor="e", boot="b", processes=0),
    "result_refused": ev.ResultRefused(executor="e", boot="b", result=ev.StepFinished(ok=False)),
}  # fmt: skip

FULL_COMMANDS: dict[str, RunStep] = {
    "run_step": RunStep(
        run="r1",
        spec=SPEC,
        scheduled_ns=1_790_000_000_000_000_003,
        step=FULL["step_scheduled"],
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
}
MINIMAL_COMMANDS: dict[str, RunStep] = {
    "run_step": RunStep(run="r", spec=SPEC, scheduled_ns=0, step=MINIMAL["step_scheduled"]),
}
