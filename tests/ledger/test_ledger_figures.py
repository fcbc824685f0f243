"""What runs came to, and what that suggests: every number from the log, and none where nothing was measured."""

import json
import statistics
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledger_histories import histories, moved, scheduled
from timed_histories import DAY_S, SECOND_NS, START_NS, Timed, ledger_of, told

from services import events as ev
from services.events import LINE
from services.ledger.advice import recommendations
from services.ledger.critical_path import Ran, critical_path
from services.ledger.figures import (
    Count,
    Definition,
    Figures,
    ToolFigures,
    definition_of,
    for_runs,
    get_figures,
    read_definition,
)
from services.ledger.selection import Selection
from services.rpc import RpcError


def definition(**options) -> Definition:
    return msgspec.convert({"options": options}, Definition)


def figures(folder: Path, story: Timed, known: Definition | None = None, **selection) -> Figures:
    with ledger_of(folder, story.records) as store:
        found = get_figures(store, Selection(**(selection or {"run": "r1"})), known)
    assert found is not None
    return found


def joined(executor: str = "e1", slots: int = 2) -> ev.ExecutorTransitioned:
    return ev.ExecutorTransitioned(
        executor=executor, boot="k1", pool="p", slots=slots, from_state="spawning", to_state="idle"
    )


def one_run() -> Timed:
    """w1 passes at once; w2 needs two FIX after a failed EDIT; w3 fails. Two waves, a conflict, a red gate, a breaker."""
    story = Timed()
    story.fleet(joined())
    story.begin("w1", "w2", "w3")
    story.attempt("w1", 1, wait=1, took=10, **told(1.0))
    story.attempt("w1", 2, "static", wait=1, took=2)
    story.settled("w1")
    story.attempt("w2", 1, wait=3, took=5, ok=False, error_class="tool_failed", how={"tool": "codex"})
    story.decide(
        ev.RecoveryChosen(
            workstream="w2", step="edit", attempt=1, error_class="tool_failed", strategy="retry", reason="x"
        )
    )
    story.attempt("w2", 2, took=5, how={"tool": "codex"}, **told(0.5))
    for number in (3, 5):
        story.attempt("w2", number, "static", took=1, ok=False, error_class="check_failed", signature="s")
        story.attempt("w2", number + 1, "fix", took=3, how={"tool": "codex"}, **told(0.25))
    story.decide(ev.FixLoopEnded(workstream="w2", step="static", limit="oscillation_signature", reason="again"))
    story.settled("w2")
    story.attempt("w3", 1, took=4, how={"tool": "codex"}, ok=False, error_class="timeout")
    story.fleet(ev.ToolBreakerOpened(tool="codex", failures=3, until_ns=1, reason="3 in a row", error_class="timeout"))
    story.fleet(ev.ToolBreakerOpened(tool="other", failures=3, until_ns=1, reason="not ours", error_class="timeout"))
    story.settled("w3", "failed")
    story.attempt(LINE, 1, "merge", took=1, ok=False, error_class="merge_conflict", how={"on_behalf": "w2"})
    story.attempt(LINE, 2, "gate", took=1, ok=False, error_class="check_failed")
    story.decide(ev.GateFlaked(gate="GATE_UNIT", check="c", tree="t", failures=1))
    story.decide(ev.WaveFinished(wave=0))
    story.decide(ev.WaveStarted(wave=1, workstreams=["w3"]))
    story.at += 10
    story.decide(ev.RunFinished(state="partial", reason="", completed=2, failed=1, blocked=0, cancelled=0))
    return story


def test_the_numbers_of_a_run(tmp_path: Path):
    """All of them, by hand: three workstreams that worked for 34 s, and two steps of the line."""
    story = one_run()
    found = figures(tmp_path, story, definition(max_workers=4))
    assert (found.runs, found.total_workstreams, found.successful, found.failed) == (1, 3, 2, 1)
    assert found.total_duration_sec == pytest.approx(34)
    assert found.avg_duration_sec == pytest.approx(34 / 3)
    assert found.wall_s == pytest.approx(story.at)
    assert found.workers == 4
    assert found.parallelism_efficiency == pytest.approx(34 / (story.at * 4))
    assert found.worker_utilization == pytest.approx(36 / (story.at * 2))
    assert found.utilization_basis == "executors"
    assert found.peak_parallelism == 1
    assert (found.wave_count, found.single_waves) == (2, 1)
    assert found.avg_wave_duration_sec == pytest.approx(story.at - 10)
    assert found.tools == [
        ToolFigures(
            tool="codex",
            workstreams=2,
            completed=1,
            first_pass=0,
            fix_attempts=2,
            cost_nano=10**9,
            attempts=5,
            unpriced=2,
        ),
        ToolFigures(
            tool="aider",
            workstreams=1,
            completed=1,
            first_pass=1,
            fix_attempts=0,
            cost_nano=10**9,
            attempts=1,
            unpriced=0,
        ),
    ]
    assert found.mean_fix_attempts == pytest.approx(2 / 3)
    assert [(one.name, one.count) for one in found.fix_attempts] == [("0", 2), ("2", 1)]
    assert [(one.name, one.reason, one.count) for one in found.breaker_trips] == [
        ("fix_loop", "oscillation_signature", 1),
        ("codex", "timeout", 1),
    ]
    assert (found.merge_conflicts, found.gate_failures) == (1, 1)
    assert found.recoveries == [Count(name="retry", count=1)]
    assert found.flaky_gates == [Count(name="GATE_UNIT", count=1)]
    assert found.errors[0] == Count(name="check_failed", reason="static", count=2)
    assert {(one.name, one.reason) for one in found.errors} == {
        ("check_failed", "static"), ("check_failed", "gate"), ("tool_failed", "edit"), ("timeout", "edit"),
        ("merge_conflict", "merge"),
    }  # fmt: skip
    assert (found.costs.cost_nano, found.costs.unpriced) == (2 * 10**9, 2)
    assert found.budget is None
    (waits,) = found.queue_waits
    assert (waits.name, waits.count, waits.max_s) == ("p", 11, 3)


def test_a_tool_that_costs_nothing_is_told_from_one_whose_cost_nobody_knows(tmp_path: Path):
    story = Timed()
    story.begin("w1", "w2", "w3")
    story.attempt("w1", 1, how={"tool": "codemod", "cap": None})
    story.attempt("w2", 1, how={"tool": "silent"})
    story.attempt("w3", 1, **told(0.25))
    story.attempt("w3", 2, "fix")
    for name in ("w1", "w2", "w3"):
        story.settled(name)
    costs = {one.tool: (one.cost_nano, one.attempts, one.unpriced) for one in figures(tmp_path, story).tools}
    assert costs == {"codemod": (0, 0, 0), "silent": (None, 1, 1), "aider": (250_000_000, 2, 1)}


def test_quantiles_are_those_of_the_values(tmp_path: Path):
    story = Timed()
    story.begin("w1")
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    for number, took in enumerate(values, 1):
        story.attempt("w1", number, took=took)
    (edits,) = figures(tmp_path, story).durations
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert [edits.p50_s, edits.p90_s, edits.p95_s, edits.p99_s] == pytest.approx(
        [cuts[49], cuts[89], cuts[94], cuts[98]]
    )
    assert (edits.step, edits.name, edits.count, edits.total_s, edits.max_s) == ("edit", "aider", 6, 63, 32)


def test_what_cannot_be_known_is_missing(tmp_path: Path):
    """No executors were told of, the definition is gone, nothing has run: no number is made up."""
    story = Timed()
    story.begin("w1")
    found = figures(tmp_path, story)
    for field in (
        "workers", "parallelism_efficiency", "worker_utilization", "peak_parallelism", "avg_wave_duration_sec",
        "mean_fix_attempts", "budget",
    ):  # fmt: skip
        assert getattr(found, field) is None, field
    assert (found.utilization_basis, found.critical_path, found.durations) == ("", [], [])
    assert recommendations(found) == []


def test_without_executors_the_workers_of_the_definition_are_the_slots(tmp_path: Path):
    story = Timed()
    story.begin("w1")
    story.attempt("w1", 1, took=10)
    found = figures(tmp_path, story, definition(max_workers=2))
    assert (found.worker_utilization, found.utilization_basis) == (pytest.approx(0.5), "max_workers")


@pytest.mark.parametrize(
    ("selection", "runs"),
    [
        ({"repository": "other"}, 1),
        ({"labels": {"team": "pay"}}, 1),
        ({"tenant": "acme"}, 1),
        ({"since_ns": START_NS + DAY_S * SECOND_NS}, 1),
        ({"until_ns": START_NS + 5 * SECOND_NS}, 1),
        ({"until_ns": START_NS + 2 * DAY_S * SECOND_NS}, 2),
    ],
)
def test_runs_are_selected_together(tmp_path: Path, selection, runs):
    story = Timed()
    story.begin("w1", labels={"team": "pay"})
    story.attempt("w1", 1)
    story.at = DAY_S
    story.begin("w1", run="r2", repository="other", tenant="acme")
    story.attempt("w1", 1, run="r2")
    found = figures(tmp_path, story, **selection)
    assert (found.runs, found.total_workstreams, found.total_duration_sec) == (runs, runs, 10 * runs)
    assert (found.wall_s, found.critical_path, found.parallelism_efficiency) == (None, [], None)


@pytest.mark.parametrize("field", ["tool", "provider", "model"])
def test_attempts_are_not_selected_here(field):
    with pytest.raises(RpcError, match=f"selection.{field}"):
        for_runs(Selection(**{field: "x"}))


@pytest.mark.parametrize(
    ("limit", "status"), [(10**9 * 10, "ok"), (1_250_000_000, "warning"), (10**9, "exceeded"), (0, "exceeded")]
)
def test_how_a_run_stands_to_its_budget(tmp_path: Path, limit, status):
    """The newest word on it counts: of the definition, or of somebody who changed it."""
    story = Timed()
    story.begin("w1")
    story.attempt("w1", 1, **told(1.0))
    known = definition(budget_nano=limit)
    found = figures(tmp_path, story, known)
    assert found.budget is not None
    assert (found.budget.status, found.budget.spent_nano, found.budget.limit_nano) == (status, 10**9, limit)
    story.decide(ev.BudgetChanged(actor="ann", limit_nano=5 * 10**9))
    changed = figures(tmp_path / "changed", story, known)
    assert changed.budget is not None
    assert (changed.budget.status, changed.budget.limit_nano) == ("ok", 5 * 10**9)
    story.decide(ev.BudgetChanged(actor="ann"))
    assert figures(tmp_path / "none", story, known).budget is None


def test_the_definition_is_found_by_its_newest_word_and_may_be_anything(tmp_path: Path):
    story = Timed()
    story.begin("w1")
    newer = ev.Artifact(role="spec", digest="6" * 64, name="spec-2", size_bytes=1)
    story.decide(ev.RunAmended(spec=newer, amends="5" * 64, workstreams=["w1"], actor="ann"))
    with ledger_of(tmp_path, story.records) as store:
        assert definition_of(store, "r1") == newer
        assert definition_of(store, "nobody") is None
    assert read_definition(b"[]") is None
    assert read_definition(b"\xff") is None
    known = read_definition(json.dumps({"bundles": [{"id": "a", "depends_on": ["b"], "x": 1}], "y": {}}).encode())
    assert known is not None
    assert (known.bundles[0].depends_on, known.options.max_workers) == (["b"], 4)


# The critical path


def ran(workstream: str, attempt: int, scheduled_s: float, started_s: float, closed_s: float, **more) -> Ran:
    ns = [int(at * SECOND_NS) for at in (scheduled_s, started_s, closed_s)]
    return Ran(workstream, attempt, more.pop("step", "edit"), "aider", *ns, **more)


def path(attempts: list[Ran], end_s: float, dependencies=None) -> list[tuple[str, str, int, float]]:
    links = critical_path(attempts, 0, int(end_s * SECOND_NS), dependencies)
    return [(link.kind, link.workstream, link.attempt, link.duration_s) for link in links]


def test_the_path_follows_what_was_waited_for():
    """The merge waits for the wave, so for a, whose slow attempt had failed first, and b for the line; c for nobody's sake."""
    attempts = [
        ran("a", 1, 1, 3, 10, wave=0),
        ran("a", 2, 15, 15.5, 20, wave=0),
        ran("c", 1, 1, 1, 12, wave=0),
        ran(LINE, 1, 20, 20, 22, step="merge", on_behalf="c"),
        ran("b", 1, 22.5, 23, 30, wave=1),
    ]
    assert path(attempts, 31) == [
        ("wait", "a", 1, 1),
        ("queue", "a", 1, 2),
        ("step", "a", 1, 7),
        ("wait", "a", 2, 5),
        ("queue", "a", 2, 0.5),
        ("step", "a", 2, 4.5),
        ("step", LINE, 1, 2),
        ("wait", "b", 1, 0.5),
        ("queue", "b", 1, 0.5),
        ("step", "b", 1, 7),
        ("wait", "", 0, 1),
    ]


def test_where_dependencies_are_known_the_wave_is_not_what_is_waited_for():
    attempts = [ran("a", 1, 1, 1, 10), ran("slow", 1, 1, 1, 14), ran("b", 1, 10.5, 11, 20)]
    waited = path(attempts, 20, {"a": [], "slow": [], "b": ["a"]})
    assert [(kind, name) for kind, name, *_ in waited] == [
        ("wait", "a"), ("step", "a"), ("wait", "b"), ("queue", "b"), ("step", "b"),
    ]  # fmt: skip


def test_a_worker_that_gets_free_is_what_was_waited_for():
    attempts = [ran("a", 1, 1, 1, 10, wave=0), ran("b", 1, 10.1, 10.2, 15, wave=0)]
    assert [(kind, name) for kind, name, *_ in path(attempts, 15)] == [
        ("wait", "a"), ("step", "a"), ("wait", "b"), ("queue", "b"), ("step", "b"),
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", LINE]), st.integers(1, 9), st.integers(-5, 50), st.integers(0, 50), st.integers(0, 60),
            st.sampled_from(["", "a", "b"]), st.integers(-1, 2),
        ),
        max_size=30,
    ),
    st.integers(0, 60),
    st.sampled_from([{}, {"b": ["a"], "a": ["b"]}]),
)  # fmt: skip
def test_the_links_add_up_to_the_time_whatever_the_clocks_said(rows, end, dependencies):
    attempts = [Ran(w, n, "edit", "", s, b, c, on_behalf, wave) for w, n, s, b, c, on_behalf, wave in rows]
    links = critical_path(attempts, 0, end, dependencies)
    cursor = 0
    for link in links:
        assert link.started_ns == cursor
        cursor += round(link.duration_s * SECOND_NS)
    assert cursor == end


@settings(
    max_examples=6,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(records=histories())
def test_figures_of_any_history_are_told(tmp_path_factory, records):
    with ledger_of(tmp_path_factory.mktemp("f"), records) as store:
        assert get_figures(store, Selection(run="nobody")) is None
        for (run,) in [*store.read("SELECT run FROM runs"), ("",)]:
            found = get_figures(store, Selection(run=run))
            assert found is not None
            recommendations(found)
            if found.critical_path:
                assert sum(link.duration_s for link in found.critical_path) == pytest.approx(found.wall_s)


# Recommendations


def plain(**more) -> Figures:
    base = figures_of_nothing()
    return msgspec.structs.replace(base, **more)


def figures_of_nothing() -> Figures:
    empty = {field.name: [] if "list" in str(field.type) else None for field in msgspec.structs.fields(Figures)}
    counts = dict.fromkeys(
        ("runs", "total_workstreams", "successful", "failed", "total_duration_sec", "wave_count", "single_waves",
         "merge_conflicts", "gate_failures", "position"), 0,
    )  # fmt: skip
    return Figures(**{**empty, **counts, "utilization_basis": "executors"})


def durations(count: int, total_s: float, p90_s: float = 1.0, **names):
    from services.ledger.figures import Durations

    return Durations(count=count, total_s=total_s, p50_s=1, p90_s=p90_s, p95_s=p90_s, p99_s=p90_s, max_s=p90_s, **names)


def tool(
    name: str,
    workstreams: int,
    first_pass: int,
    completed: int | None = None,
    cost_nano: int | None = None,
    attempts: int = 20,
    unpriced: int = 0,
):
    done = workstreams if completed is None else completed
    return ToolFigures(
        tool=name, workstreams=workstreams, completed=done, first_pass=first_pass, fix_attempts=0, cost_nano=cost_nano,
        attempts=attempts, unpriced=unpriced,
    )  # fmt: skip


BUSY = {
    "worker_utilization": 0.9, "peak_parallelism": 4, "durations": [durations(30, 300.0)],
    "queue_waits": [durations(30, 150.0, 20.0, name="p")],
}  # fmt: skip
IDLE = {"worker_utilization": 0.2, "peak_parallelism": 2, "workers": 8, "durations": [durations(30, 300.0)]}
CIRCLES = [Count(name="fix_loop", reason="oscillation_tree", count=3)]


@pytest.mark.parametrize(
    ("measured", "category", "current", "recommended"),
    [
        (BUSY, "workers", "4 attempts at a time", "6 attempts at a time: more slots in pool p"),
        (IDLE, "workers", "8 workers", "2 workers"),
        ({"wave_count": 4, "single_waves": 3}, "waves", "3 of 4 waves", "--eager"),
        ({"tools": [tool("a", 10, 3), tool("b", 10, 9)]}, "routing", "a: 30%", "b: 90%"),
        ({"tools": [tool("a", 10, 9, cost_nano=30 * 10**9), tool("b", 10, 9, cost_nano=10**10)]}, "cost", "a: $3.00", "b: $1.00"),
        ({"breaker_trips": CIRCLES, "fix_attempts": [Count(name="2", count=9)]}, "fix_loops", "3 of 9", "fix_tiers"),
        ({"flaky_gates": [Count(name="G", count=2)]}, "gates", "G was flaky 2 times", "mend G"),
        ({"contexts": [Count(name="reduced", count=3), Count(name="fits", count=9)]}, "context", "3 of 12", "smaller scopes"),
    ],
)  # fmt: skip
def test_what_is_measured_is_suggested_with_its_numbers(measured, category, current, recommended):
    (found,) = recommendations(plain(**measured))
    assert found.category == category
    assert current in found.current_value
    assert recommended in found.recommended_value
    assert found.reasoning
    assert found.expected_improvement
    assert found.evidence
    assert all(one.name and one.source for one in found.evidence)
    assert recommendations(plain(**measured)) == [found]


@pytest.mark.parametrize(
    "measured",
    [
        {**BUSY, "durations": [durations(19, 300.0)]},
        {**BUSY, "worker_utilization": 0.8},
        {**BUSY, "queue_waits": [durations(30, 10.0, 4.0)]},
        {**BUSY, "worker_utilization": None},
        {**IDLE, "peak_parallelism": 8},
        {**IDLE, "workers": None},
        {**IDLE, "durations": [durations(5, 300.0)]},
        {"wave_count": 2, "single_waves": 2},
        {"wave_count": 9, "single_waves": 4},
        {"tools": [tool("a", 9, 0), tool("b", 10, 10)]},
        {"tools": [tool("a", 10, 9), tool("b", 10, 10)]},
        {"tools": [tool("a", 10, 10)]},
        {"tools": [tool("a", 10, 9, cost_nano=None), tool("b", 10, 9, cost_nano=1)]},
        {"tools": [tool("a", 10, 9, cost_nano=40), tool("b", 10, 9, cost_nano=20, unpriced=1)]},
        {"tools": [tool("a", 10, 9, cost_nano=40), tool("b", 10, 9, cost_nano=0, attempts=0)]},
        {"tools": [tool("a", 10, 10, cost_nano=40), tool("b", 10, 9, cost_nano=20)]},
        {"tools": [tool("a", 10, 0, 5, cost_nano=40), tool("b", 10, 0, 9, cost_nano=20)]},
        {"breaker_trips": CIRCLES, "fix_attempts": [Count(name="2", count=90)]},
        {"breaker_trips": CIRCLES, "fix_attempts": [Count(name="0", count=9)]},
        {"flaky_gates": [Count(name="G", count=1)]},
        {"contexts": [Count(name="reduced", count=9)]},
    ],
)
def test_nothing_is_suggested_where_too_little_says_so(measured):
    assert recommendations(plain(**measured)) == []


def test_idle_workers_of_a_run_are_fewer(tmp_path: Path):
    """From the log: eight workers, of which two were ever used."""
    story = Timed()
    story.begin("w1", "w2")
    for number in range(1, 11):
        for name in ("w1", "w2"):
            story.decide(scheduled(name, number, "edit", tool="aider"))
            story.live(name, number, ev.StepStarted(executor="e1", boot="k1"))
        story.at += 10
        for name in ("w1", "w2"):
            story.live(name, number, ev.StepFinished(ok=False, error_class="tool_failed"))
    story.decide(moved("w1", "editing", "failed"), moved("w2", "editing", "failed"))
    found = figures(tmp_path, story, definition(max_workers=8))
    (advice,) = recommendations(found)
    assert (advice.category, advice.current_value, advice.recommended_value) == ("workers", "8 workers", "2 workers")
    assert {one.name: one.value for one in advice.evidence}["worker_utilization"] == pytest.approx(0.25)
