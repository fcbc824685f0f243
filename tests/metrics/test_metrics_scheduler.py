"""The scheduler's series: the real shell and the real executor over the bus in memory; only the tools are played."""

from collections import Counter

import msgspec
import pytest
from memory_bus import Faults
from metrics_rig import Scrape
from played_cluster import PlayedSteps, Told, until

from services.events import (
    AttemptGranted,
    BudgetReached,
    BudgetRequested,
    ExecutorTransitioned,
    FixInput,
    PauseRequested,
    Rate,
    ResultRefused,
    RunFinished,
    Snapshot,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    StepStarted,
    ToolBreakerOpened,
    WorkstreamTransitioned,
)
from services.metrics import OTHER, Exposition
from services.outcome import Cost, Usage
from services.scheduler.budget import Budget, Draw, reserve, run_account, set_budget
from services.scheduler.fleet import FLEET
from services.scheduler.grants import SharedLimits
from services.scheduler.metrics import MODELS_MAX, POOLS_MAX, TOOLS_MAX, SchedulerMetrics
from services.scheduler.state import Attempt, RunState
from services.wire import (
    Entry,
    Place,
    attempt_subject,
    request_subject,
    run_subject,
)


async def test_counters_agree_with_the_log(cluster):
    """Steps, outcomes, FIX iterations, waits and events of a run with one red check, in scheduler and executor."""
    scheduler = cluster.scheduler()
    executor = cluster.executor(steps=PlayedSteps(red={"ws-a"}))
    await until(lambda: scheduler.part.caught_up)
    await cluster.submit("r1", "ws-a", "ws-b")
    await until(lambda: cluster.of(RunFinished) and cluster.of(ExecutorTransitioned))
    await cluster.folded(scheduler)
    await until(lambda: executor.part.running == 0)
    told, did = await scheduler.scrape(), await executor.scrape()

    steps = {(e.workstream, e.attempt): e for e in cluster.of(StepScheduled)}
    closed, waits = Counter(), 0
    for place, event in cluster.events():
        if isinstance(event, StepFinished):
            step = steps[place.workstream, place.attempt]
            closed[step.step, step.tool or "none", "ok" if event.ok else event.error_class] += 1
        waits += isinstance(event, StepStarted)
    assert closed["edit", "editor", "ok"] == 2
    assert closed["static", "none", "check_failed"] == 1
    assert told.by("swell_scheduler_steps_closed_total", "step", "tool", "outcome") == closed
    assert did.by("swell_executor_steps_closed_total", "step", "outcome") == told.by(
        "swell_scheduler_steps_closed_total", "step", "outcome"
    )
    scheduled = Counter((step.step,) for step in steps.values())
    assert told.by("swell_scheduler_steps_scheduled_total", "step") == scheduled
    assert told.by("swell_scheduler_step_duration_seconds_count", "step") == scheduled
    assert told.value("swell_scheduler_step_duration_seconds_sum", step="edit") == pytest.approx(4.0)
    assert told.value("swell_scheduler_step_duration_seconds_bucket", step="edit", le="1.0") == 0
    assert told.value("swell_scheduler_queue_wait_seconds_count", pool="default") == waits == len(steps)
    assert told.by("swell_scheduler_fix_iterations_total", "step") == {("static",): 1}
    assert told.by("swell_scheduler_runs_finished_total", "state") == {("completed",): 1}
    assert told.by("swell_scheduler_run_duration_seconds_count", "state") == {("completed",): 1}
    moves = Counter((event.to_state,) for event in cluster.of(WorkstreamTransitioned))
    assert moves["completed",] == 2
    assert told.by("swell_scheduler_workstream_transitions_total", "state") == moves
    assert told.by("swell_scheduler_leadership_changes_total", "to") == {("leading",): 1}
    kinds = Counter((type(event).__struct_config__.tag,) for _, event in cluster.events())
    assert told.by("swell_scheduler_events_folded_total", "kind") == kinds
    assert told.value("swell_scheduler_entries_folded_total") == len(cluster.server.events.messages)
    assert did.by("swell_executor_claims_total", "outcome") == {("won",): len(steps)}
    edits = scheduled["edit",] + scheduled["fix",]
    assert sum(did.by("swell_executor_tool_seconds_total", "step").values()) == pytest.approx(
        1.5 * (edits + scheduled["merge",])
    )
    assert did.by("swell_executor_beats_total", "outcome").keys() == {("sent",)}


async def test_what_runs_draw_on_together_is_told(cluster):
    """Budgets of today, rates, grants, and how long they were waited for; nothing of it while nothing is limited."""
    scheduler = cluster.scheduler()
    await until(lambda: scheduler.part.caught_up)
    assert scheduler.part.fleet.shared.is_limited is False
    assert "swell_scheduler_shared_budget_dollars{" not in (await scheduler.scrape()).text
    step = StepScheduled(
        workstream="ws-a", attempt=1, step="edit", pool="default", input=Snapshot(commit="c", tree="t"), timeout_s=1,
        queue_deadline_ns=2**62, tool="claude", cap="enforced", cap_nano=2 * 10**9,
    )  # fmt: skip
    budget = BudgetRequested(request_id="q-budget", actor="ann", limit_nano=5 * 10**9, scope="tool", name="claude")
    grant = AttemptGranted(
        run="r1", workstream="ws-a", attempt=1, tool="claude", provider="acme", expires_ns=2**62, cap="enforced",
        cap_nano=2 * 10**9, pool="default",
    )  # fmt: skip
    await cluster.add(f"swell.event.{FLEET}.request", FLEET, budget)
    await until(lambda: scheduler.part.fleet.shared.is_limited)
    pause = PauseRequested(request_id="q-pause", actor="ann", scope="all")  # so that nothing is decided meanwhile
    await cluster.add(f"swell.event.{FLEET}.request", FLEET, pause)
    await until(lambda: scheduler.part.fleet.paused)
    await cluster.submit("r1", "ws-a")
    await until(lambda: "r1" in scheduler.part.runs)
    await cluster.add(run_subject("r1"), "r1", StepDelayed(step=step, cause="limit", reason="its turn"))
    await cluster.add(run_subject(FLEET), FLEET, grant)
    await until(lambda: scheduler.part.fleet.shared.grants)
    told = await scheduler.scrape()
    assert told.by("swell_scheduler_shared_budget_dollars", "scope", "tool", "amount") == {
        ("fleet", "", "reserved"): 2, ("tool", "claude", "limit"): 5, ("tool", "claude", "reserved"): 2,
    }  # fmt: skip
    assert told.by("swell_scheduler_pool_slots_used", "pool", "tenant") == {("default", ""): 1}
    assert told.by("swell_scheduler_pool_slots_wanted", "pool", "tenant") == {("default", ""): 1}
    assert told.value("swell_scheduler_grants_unused") == 1
    assert told.value("swell_scheduler_grants_total", tool="claude") == 1
    assert told.value("swell_scheduler_shared_wait_seconds_count") == 1


async def test_a_rate_tells_how_long_the_next_attempt_has_to_wait(cluster):
    scheduler = cluster.scheduler(shared=SharedLimits(rates={"acme": Rate(attempts_per_min=1), "free": Rate()}))
    await until(lambda: scheduler.part.fleet.shared.is_limited)
    assert (await scheduler.scrape()).value("swell_scheduler_rate_wait_seconds", rate="acme") == 0
    grant = AttemptGranted(run="r1", workstream="ws-a", attempt=1, tool="claude", provider="acme", expires_ns=2**62)
    await cluster.add(run_subject(FLEET), FLEET, grant)
    await until(lambda: scheduler.part.fleet.shared.buckets)
    told = await scheduler.scrape()
    assert 50 < told.value("swell_scheduler_rate_wait_seconds", rate="acme") <= 60
    assert told.value("swell_scheduler_rate_wait_seconds", rate="free") == 0


async def test_a_start_does_not_count_history_again(cluster):
    """A scheduler that starts later counts nothing of what was there, sees the same state, and counts on from there."""
    first = cluster.scheduler("s1")
    cluster.executor()
    await cluster.submit("r1", "ws-a")
    await until(lambda: cluster.of(RunFinished) and cluster.of(ExecutorTransitioned))
    await cluster.folded(first)
    second = cluster.scheduler("s2")
    await until(lambda: second.part.caught_up)
    early = await second.scrape()
    assert early.by("swell_scheduler_events_folded_total", "kind") == {}
    assert early.value("swell_scheduler_entries_folded_total") == 0
    assert early.by("swell_scheduler_steps_closed_total", "step") == {}
    assert early.value("swell_scheduler_runs_ended") == 1
    before = (await first.scrape()).by("swell_scheduler_steps_closed_total", "step")
    await cluster.submit("r2", "ws-a")
    await until(lambda: len(cluster.of(RunFinished)) == 2)
    await cluster.folded(first, second)
    one, other = await first.scrape(), await second.scrape()
    news = {key: count - before[key] for key, count in one.by("swell_scheduler_steps_closed_total", "step").items()}
    assert other.by("swell_scheduler_steps_closed_total", "step") == news
    assert one.value("swell_scheduler_leader") + other.value("swell_scheduler_leader") == 1


async def test_only_who_appends_counts_its_decisions(cluster):
    first, second = cluster.scheduler("s1"), cluster.scheduler("s2")
    cluster.executor()
    await cluster.submit("r1", "ws-a")
    await until(lambda: cluster.of(RunFinished) and cluster.of(ExecutorTransitioned))
    await cluster.folded(first, second)
    decided = [
        event
        for (place, event) in cluster.events()
        if place.kind == "run" or isinstance(event, StepCancelled | StepLost)
    ]
    found = [(await one.scrape()).value("swell_scheduler_decisions_total") for one in (first, second)]
    assert sum(found) == len(decided)
    assert 0 in found


async def test_an_append_that_is_refused_or_unanswered_is_counted(cluster):
    scheduler = cluster.scheduler(faults=Faults(unanswered_appends=frozenset({2})))
    cluster.executor()
    await cluster.submit("r1", "ws-a")
    await until(lambda: cluster.of(RunFinished))
    told = await scheduler.scrape()
    assert told.value("swell_scheduler_appends_total", outcome="unanswered") == 1
    assert told.value("swell_scheduler_appends_total", outcome="stored") > 3


async def test_executors_are_told_by_state_of_their_life(cluster):
    """Spawning, idle, busy, draining, terminated, with their slots, by pool; every state of a pool is there."""
    scheduler = cluster.scheduler()
    for number, state in enumerate(("idle", "busy", "idle", "idle")):
        await cluster.beat(f"e{number}", state, pool="big", slots=3)
    await until(lambda: len(cluster.of(ExecutorTransitioned)) == 4)
    await cluster.beat("e2", "draining", pool="big", slots=3)
    await cluster.beat("e3", "terminated", pool="big", slots=3)
    await cluster.beat("e4", "spawning", pool="small", slots=5)
    await until(lambda: len(cluster.of(ExecutorTransitioned)) == 6)
    await cluster.folded(scheduler)
    told = await scheduler.scrape()
    assert told.by("swell_scheduler_executors", "pool", "state") == {
        ("big", "idle"): 1, ("big", "busy"): 1, ("big", "draining"): 1, ("big", "terminated"): 1, ("small", "spawning"): 1,
    }  # fmt: skip
    assert told.by("swell_scheduler_executor_slots", "pool", "state")["small", "spawning"] == 5
    assert told.value("swell_scheduler_executor_slots", pool="big", state="busy") == 3
    assert told.value("swell_scheduler_executors", pool="small", state="busy") == 0
    assert told.by("swell_scheduler_executor_transitions_total", "pool", "state") == {
        ("big", "idle"): 4, ("big", "draining"): 1, ("big", "terminated"): 1,
    }  # fmt: skip


async def test_what_waits_is_told_with_its_age(cluster):
    scheduler = cluster.scheduler()
    await cluster.submit("r1", "ws-a", "ws-b")
    await until(lambda: len(cluster.of(StepScheduled)) == 2)
    await cluster.folded(scheduler)
    told = await scheduler.scrape()
    assert told.by("swell_scheduler_queue_depth", "pool") == {("default",): 2}
    assert told.by("swell_scheduler_attempts_open", "step") == {("edit",): 2}
    assert told.by("swell_scheduler_workstreams", "state") == {("editing",): 2}
    assert told.by("swell_scheduler_runs", "state") == {("running",): 1}
    assert told.value("swell_scheduler_runs", state="paused") == 0
    older = (await scheduler.scrape()).value("swell_scheduler_queue_oldest_seconds", pool="default")
    assert older > told.value("swell_scheduler_queue_oldest_seconds", pool="default") >= 0
    assert told.value("swell_scheduler_lag_entries") == 0
    key = cluster.of(StepScheduled)[0].workstream
    await cluster.add(attempt_subject("r1", key, 1), "r1", StepStarted(executor="e1", boot="b1"))
    await until(lambda: told_depth(scheduler, 1))


async def told_depth(scheduler, depth):
    return (await scheduler.scrape()).by("swell_scheduler_queue_depth", "pool") == {("default",): depth}


async def test_pauses_and_breakers_are_told(cluster):
    scheduler = cluster.scheduler()
    await cluster.submit("r1", "ws-a")
    await until(lambda: cluster.of(StepScheduled))
    await cluster.add(
        run_subject(FLEET), FLEET, ToolBreakerOpened(tool="aider", failures=5, until_ns=2**62, reason="x")
    )
    pause = PauseRequested(request_id="q1", actor="ann", scope="tool", name="claude")
    await cluster.add(f"swell.event.{FLEET}.request", FLEET, pause)
    await cluster.add(request_subject("r1"), "r1", PauseRequested(request_id="q2", actor="ann"))

    async def paused():
        told = await scheduler.scrape()
        return told if told.by("swell_scheduler_pauses", "scope") == {("tool",): 1, ("run",): 1} else None

    told = await until(paused)
    assert told.value("swell_scheduler_tool_breaker_state", tool="aider", state="open") == 1
    assert told.value("swell_scheduler_tool_breaker_state", tool="aider", state="closed") == 0
    assert told.value("swell_scheduler_tool_breaker_opened_total", tool="aider") == 1
    assert told.by("swell_scheduler_runs", "state") == {("paused",): 1}


async def test_a_bus_that_does_not_answer_costs_the_lag_only(cluster):
    scheduler = cluster.scheduler()
    await until(lambda: scheduler.part.caught_up)

    class Silent:
        async def identity(self):
            raise TimeoutError

    exposition = Exposition("scheduler")
    SchedulerMetrics(exposition).read(scheduler.part, Silent())
    told = await Told(exposition, scheduler.part).scrape()
    assert told.value("swell_event_loop_responsive") == 1
    assert "swell_scheduler_lag_entries" not in told.text
    assert told.value("swell_scheduler_caught_up") == 1


def close_of(tool, pool="default", step="edit"):
    scheduled = StepScheduled(
        workstream="ws-a", attempt=1, step=step, pool=pool, input=Snapshot(commit="c", tree="t"), timeout_s=1.0,
        queue_deadline_ns=1, tool=tool, fix=FixInput(step="static", attempt=1) if step == "fix" else None,
    )  # fmt: skip
    return Attempt(scheduled=scheduled, scheduled_ns=1)


def test_names_from_outside_do_not_make_series_without_end():
    exposition = Exposition("scheduler")
    metrics = SchedulerMetrics(exposition)
    place = Place("attempt", "r1", "ws-a", 1)
    for number in range(3 * TOOLS_MAX):
        attempt = close_of(f'tool-{number}\n"', pool=f"pool-{number}")
        started = Entry(id="i", run="r1", at_ns=0, by="x", events=[StepStarted(executor="e", boot="b")])
        finished = msgspec.structs.replace(started, events=[StepFinished(ok=True, wall_s=1.0)])
        metrics.folded(place, started, 2, attempt)
        metrics.folded(place, finished, 3, attempt)
    told = Scrape(exposition.text())
    tools = told.by("swell_scheduler_steps_closed_total", "tool")
    assert len(tools) == TOOLS_MAX + 1
    assert tools[OTHER,] == 2 * TOOLS_MAX
    assert len(told.by("swell_scheduler_queue_wait_seconds_count", "pool")) == POOLS_MAX + 1
    assert "ws-a" not in told.text


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (StepFinished(ok=True), "ok"),
        (StepFinished(ok=False, error_class="timeout"), "timeout"),
        (StepFinished(ok=False), "unknown"),
        (StepLost(reason="no beat"), "lost"),
        (StepCancelled(reason="enough"), "cancelled"),
        (StepCancelled(reason="late", error_class="queue_timeout"), "queue_timeout"),
    ],
)
def test_every_close_has_an_outcome(event, outcome):
    exposition = Exposition("scheduler")
    entry = Entry(id="i", run="r1", at_ns=0, by="x", events=[event])
    SchedulerMetrics(exposition).folded(Place("attempt", "r1", "ws-a", 1), entry, 3, close_of("aider", step="fix"))
    told = Scrape(exposition.text())
    assert told.by("swell_scheduler_steps_closed_total", "step", "tool", "outcome") == {("fix", "aider", outcome): 1}


def test_a_close_of_an_attempt_that_is_closed_already_counts_as_nothing_but_an_event():
    exposition = Exposition("scheduler")
    entry = Entry(id="i", run="r1", at_ns=0, by="x", events=[StepFinished(ok=True)])
    SchedulerMetrics(exposition).folded(Place("attempt", "r1", "ws-a", 1), entry, 3, None)
    told = Scrape(exposition.text())
    assert told.by("swell_scheduler_steps_closed_total", "step") == {}
    assert told.value("swell_scheduler_events_folded_total", kind="step_finished") == 1


def test_what_may_be_counted_is_shown_before_it_is():
    """A rate does not see the first of what was not there before."""
    exposition = Exposition("scheduler")
    metrics = SchedulerMetrics(exposition)
    scheduled = msgspec.structs.replace(close_of("claude").scheduled, cap="soft")
    entry = Entry(id="i", run="r1", at_ns=0, by="x", events=[scheduled])
    metrics.folded(Place("run", "r1"), entry, 3, None)
    told = Scrape(exposition.text())
    assert told.value("swell_scheduler_steps_scheduled_total", step="edit") == 1
    for name, labels in (
        ("swell_scheduler_steps_closed_total", {"step": "edit", "tool": "claude", "outcome": "ok"}),
        ("swell_scheduler_cost_dollars_total", {"tool": "claude"}),
        ("swell_scheduler_unpriced_attempts_total", {"tool": "claude"}),
        ("swell_scheduler_tool_breaker_opened_total", {"tool": "claude"}),
        ("swell_scheduler_step_duration_seconds_count", {"step": "edit"}),
        ("swell_scheduler_run_duration_seconds_count", {"state": "partial"}),
        ("swell_scheduler_events_folded_total", {"kind": "step_lost"}),
        ("swell_scheduler_budgets_reached_total", {"scope": "fleet", "threshold": "exceeded"}),
        ("swell_scheduler_merges_refused_total", {"reason": "conflict"}),
    ):
        assert told.value(name, **labels) == 0


PLACE = Place("attempt", "r1", "ws-a", 1)
LATE = msgspec.structs.replace(PLACE, kind="late")
USAGE = Usage(input_tokens=100, cache_read_tokens=40, output_tokens=7)
PAID = StepFinished(ok=True, cost=Cost(nano_usd=250_000_000, basis="reported"), usage=USAGE, model="m-1")


def spent_by(tool, *closes, cap="enforced"):
    """What is told after these (place, event) of an attempt that an executor had begun."""
    exposition = Exposition("scheduler")
    metrics = SchedulerMetrics(exposition)
    attempt = close_of(tool)
    attempt.executor = "e1"
    attempt.scheduled = msgspec.structs.replace(attempt.scheduled, cap=cap)
    for place, event in closes:
        entry = Entry(id="i", run="r1", at_ns=0, by="x", events=[event])
        metrics.folded(place, entry, 3, attempt if place.kind == "attempt" else None)
    return Scrape(exposition.text())


def test_an_attempt_counts_with_its_cost_and_tokens():
    told = spent_by("claude", (PLACE, PAID))
    assert told.by("swell_scheduler_cost_dollars_total", "tool") == {("claude",): 0.25}
    assert told.by("swell_scheduler_model_cost_dollars_total", "tool", "model", "basis") == {
        ("claude", "m-1", "reported"): 0.25
    }
    assert told.by("swell_scheduler_tokens_total", "tool", "model", "kind") == {
        ("claude", "m-1", "input"): 100, ("claude", "m-1", "cache_read"): 40, ("claude", "m-1", "output"): 7,
    }  # fmt: skip
    assert told.by("swell_scheduler_unpriced_attempts_total") == {}


@pytest.mark.parametrize("close", [StepLost(reason="no beat"), StepCancelled(reason="enough")])
def test_what_is_learnt_after_the_close_counts_once(close):
    late = (LATE, ResultRefused(executor="e1", boot="b", result=PAID))
    told = spent_by("claude", (PLACE, close), late, late)
    assert told.by("swell_scheduler_cost_dollars_total", "tool") == {("claude",): 0.25}
    assert told.by("swell_scheduler_unpriced_attempts_total", "tool") == {("claude",): 1}


def test_a_late_word_on_an_attempt_that_has_told_counts_as_nothing():
    told = spent_by("claude", (PLACE, PAID), (LATE, ResultRefused(executor="e1", boot="b", result=PAID)))
    assert told.by("swell_scheduler_cost_dollars_total", "tool") == {("claude",): 0.25}


@pytest.mark.parametrize(
    ("close", "cap", "unpriced"),
    [
        (StepFinished(ok=True), "soft", {("claude",): 1}),
        (StepFinished(ok=True, cost=Cost(nano_usd=0, basis="unknown")), "soft", {("claude",): 1}),
        (StepFinished(ok=True), None, {}),
        (StepLost(reason="no beat"), None, {}),
    ],
)
def test_a_tool_that_costs_and_does_not_tell_is_counted(close, cap, unpriced):
    told = spent_by("claude", (PLACE, close), cap=cap)
    assert told.by("swell_scheduler_unpriced_attempts_total", "tool") == unpriced


def test_a_tool_cannot_make_series_without_end_by_naming_models():
    exposition = Exposition("scheduler")
    metrics = SchedulerMetrics(exposition)
    for number in range(2 * MODELS_MAX):
        paid = msgspec.structs.replace(PAID, model=f"m-{number}" if number else "")
        metrics.folded(PLACE, Entry(id="i", run="r1", at_ns=0, by="x", events=[paid]), 3, close_of("claude"))
    scraped = Scrape(exposition.text())
    assert scraped.by("swell_scheduler_cost_dollars_total", "tool") == {("claude",): 0.25 * 2 * MODELS_MAX}
    told = scraped.by("swell_scheduler_model_cost_dollars_total", "tool", "model")
    assert len(told) == MODELS_MAX + 2
    assert told["claude", "none"] == 0.25
    assert told["claude", OTHER] == 0.25 * (MODELS_MAX - 1)


@pytest.mark.parametrize(
    ("fields", "scope"),
    [
        ({}, "run"), ({"workstream": "ws-a"}, "workstream"), ({"day": "2026-11-23"}, "fleet"),
        ({"day": "2026-11-23", "tool": "claude"}, "tool"),
    ],
)  # fmt: skip
def test_a_threshold_is_counted_by_whose_budget_it_is(fields, scope):
    exposition = Exposition("scheduler")
    reached = BudgetReached(threshold="warning", limit_nano=10, spent_nano=8, **fields)
    entry = Entry(id="i", run="r1", at_ns=0, by="x", events=[reached])
    SchedulerMetrics(exposition).folded(Place("run", "r1"), entry, 3, None)
    told = Scrape(exposition.text())
    assert told.by("swell_scheduler_budgets_reached_total", "scope", "threshold") == {(scope, "warning"): 1}


async def test_budgets_of_runs_are_told_as_sums(cluster):
    scheduler = cluster.scheduler()
    await until(lambda: scheduler.part.caught_up)
    for number in range(3):
        run = RunState(run=f"r{number}")
        account = run_account(run.run)
        reserve(run.book, Draw(attempt="ws-a/1", accounts=(account,), cap_nano=2 * 10**9))
        if number:
            set_budget(run.book, account, Budget(limit_nano=5 * 10**9))
        scheduler.part.runs[run.run] = run
    told = await scheduler.scrape()
    assert told.by("swell_scheduler_run_budget_dollars", "limited", "amount") == {
        ("yes", "limit"): 10, ("yes", "reserved"): 4, ("no", "reserved"): 2,
    }  # fmt: skip
    scheduler.part.runs.clear()


async def test_a_lease_that_changes_hands_is_counted(cluster):
    scheduler = cluster.scheduler()
    await until(lambda: scheduler.part.leader)
    scheduler.part._ticked -= 3600
    scheduler.part._stood_still()
    await until(lambda: scheduler.part.leader)
    told = await scheduler.scrape()
    assert told.by("swell_scheduler_leadership_changes_total", "to") == {("leading",): 2, ("standing_by",): 1}
    assert told.value("swell_scheduler_stood_still_total") == 1
