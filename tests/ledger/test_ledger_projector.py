"""The fold: what histories come to, whatever they contain and however they are cut."""

import copy
import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_histories import BASE, LOG, SPEC, Story, batchings, histories, moved, scheduled, snapshot, steady

from services import events as ev
from services.bus import Recorded
from services.ledger.patches import PatchRow
from services.ledger.projector import (
    GENESIS,
    AttemptRow,
    Batch,
    ExecutorRow,
    KnownRun,
    PauseRow,
    Projector,
    RunRow,
    Tip,
    ToolBreakerRow,
    WaveRow,
    WorkstreamRow,
)
from services.outcome import Cost, Usage


class Tables:
    """The rows stored so far, in memory: the other implementation of Known beside the store."""

    def __init__(self) -> None:
        self.entries: list[tuple] = []
        self.events: list[tuple] = []
        self.transitions: list[tuple] = []
        self.patch_history: list[tuple] = []
        self.runs: dict[str, RunRow] = {}
        self.workstreams: dict[tuple[str, str], WorkstreamRow] = {}
        self.attempts: dict[tuple[str, str, int], AttemptRow] = {}
        self.patches: dict[tuple[str, str, int], PatchRow] = {}
        self.executors: dict[str, ExecutorRow] = {}
        self.breakers: dict[str, ToolBreakerRow] = {}
        self.paused: list[PauseRow] = []
        self.waves: dict[tuple[str, int], WaveRow] = {}

    def commit(self, batch: Batch) -> None:
        self.entries += batch.entries
        self.events += batch.events
        self.transitions += batch.transitions
        self.patch_history += batch.patch_moves
        self.runs |= {row.run: copy.copy(row) for row in batch.runs}
        self.workstreams |= {(row.run, row.workstream): copy.copy(row) for row in batch.workstreams}
        self.attempts |= {(row.run, row.workstream, row.attempt): copy.copy(row) for row in batch.attempts}
        self.patches |= {(row.run, row.workstream, row.attempt): copy.copy(row) for row in batch.patches}
        self.executors |= {row.executor: copy.copy(row) for row in batch.executors}
        self.breakers |= {row.tool: copy.copy(row) for row in batch.tool_breakers}
        self.waves |= {(row.run, row.wave): copy.copy(row) for row in batch.waves}
        if batch.pauses is not None:
            self.paused = list(batch.pauses)

    def run(self, run: str) -> KnownRun | None:
        if run not in self.runs:
            return None
        return KnownRun(
            copy.copy(self.runs[run]),
            sorted((copy.copy(w) for w in self.workstreams.values() if w.run == run), key=lambda w: w.ordinal),
            [copy.copy(a) for a in self.attempts.values() if a.run == run and a.state in ("scheduled", "started")],
            [
                copy.copy(self.patches[run, w.workstream, w.patch])
                for w in self.workstreams.values()
                if w.run == run and w.patch
            ],
            [copy.copy(wave) for wave in self.waves.values() if wave.run == run],
        )

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:
        return copy.copy(self.attempts.get((run, workstream, attempt)))

    def executor(self, executor: str) -> ExecutorRow | None:
        return copy.copy(self.executors.get(executor))

    def tool_breaker(self, tool: str) -> ToolBreakerRow | None:
        return copy.copy(self.breakers.get(tool))

    def pauses(self) -> list[PauseRow]:
        return list(self.paused)

    def rows(self) -> tuple:
        keyed = (self.runs, self.workstreams, self.attempts, self.patches, self.executors, self.breakers)
        return (self.entries, self.events, self.transitions, self.patch_history, *keyed, self.paused)


def folded(batches: list[list[Recorded]], *, forgetful: bool = False, live_rows_max: int = 50_000) -> Tables:
    """The tables after these batches; a forgetful fold starts anew from the tables after each."""
    tables = Tables()
    projector = Projector(Tip(), tables, live_rows_max=live_rows_max)
    for batch in batches:
        tables.commit(projector.fold(batch))
        if forgetful:
            projector = Projector(projector.tip, tables)
    return tables


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_completed_run_is_summed_up(story):
    story.accepted("a", "b")
    story.step("a", 1, "edit", ev.StepFinished(ok=True, snapshot=snapshot("d"), changed=True, artifacts=[LOG]))
    story.step("a", 2, "static", ev.StepFinished(ok=False, error_class="check_failed", signature="E501"))
    story.step("a", 3, "fix", ev.StepFinished(ok=True, snapshot=snapshot("e"), changed=True))
    story.step("a", 4, "static", ev.StepFinished(ok=True))
    story.decide(ev.StepSkipped(workstream="a", step="runtime", tree="E" * 40, reason="verdict_reused"))
    story.decide(moved("a", "merging", "completed", "merged"), moved("b", "ready", "failed", "no luck"))
    story.decide(
        ev.IntegrationAdvanced(workstream="a", from_commit=BASE.commit, to=snapshot("f")),
        ev.LineDelivered(ref="refs/heads/swell/r1", commit="f" * 40),
    )
    story.decide(ev.RunFinished(state="partial", reason="b failed", completed=1, failed=1, blocked=0, cancelled=0))
    tables = folded([story.records])
    run = tables.runs["r1"]
    assert (run.state, run.reason, run.completed, run.failed, run.attempts, run.fix_attempts) == (
        "partial", "b failed", 1, 1, 4, 1,
    )  # fmt: skip
    assert (run.head_commit, run.delivered_ref, run.waves_started) == ("f" * 40, "refs/heads/swell/r1", 1)
    assert run.submitted_ns == story.records[0].time_ns
    assert run.finished_ns == story.records[-1].time_ns
    assert run.position == len(story.records)
    a, b = tables.workstreams["r1", "a"], tables.workstreams["r1", "b"]
    assert a.steps_executed == '["edit","static","runtime"]'
    assert (a.state, a.fix_iterations, a.attempts, a.commit, a.verdicts_reused) == ("completed", 1, 4, "e" * 40, 1)
    assert (b.state, b.reason, b.wave, b.ordinal, b.started_ns) == ("failed", "no luck", 0, 1, 0)


def test_an_attempt_tells_what_happened(story):
    story.accepted("a")
    finish = ev.StepFinished(
        ok=False, error_class="timeout", message="too slow", exit_code=9, files=[f"f{n}" for n in range(300)],
        artifacts=[LOG], signature="s", tool_wall_s=1.5,
    )  # fmt: skip
    story.step("a", 1, "static", finish)
    row = folded([story.records]).attempts["r1", "a", 1]
    assert (row.state, row.ok, row.error_class, row.exit_code) == ("finished", False, "timeout", 9)
    assert (row.commit, row.tree) == (BASE.commit, BASE.tree), "a check judges its input"
    assert len(msgspec.json.decode(row.files)) == 200
    assert msgspec.json.decode(row.artifacts)[0]["name"] == LOG.name
    assert (row.executor, row.tool_wall_s) == ("e1", 1.5)
    assert row.scheduled_ns < row.started_ns < row.closed_ns


def test_nothing_changes_a_closed_attempt_but_the_count_of_late_facts(story):
    story.accepted("a")
    story.decide(scheduled("a", 1, "edit"))
    story.live("a", 1, ev.StepLost(reason="gone", executor="e1"))
    story.live("a", 1, ev.StepFinished(ok=True))
    story.late("a", 1, ev.ProcessesReaped(executor="e1", boot="k", processes=2))
    for batches in ([story.records], [[record] for record in story.records]):
        row = folded(batches).attempts["r1", "a", 1]
        assert (row.state, row.ok, row.late_facts, row.message) == ("lost", False, 2, "gone")


def test_the_line_has_attempts_but_is_no_workstream(story):
    story.accepted("a")
    story.decide(scheduled(ev.LINE, 1, "merge", on_behalf="a"), moved(ev.LINE, "ready", "merging"))
    story.live(ev.LINE, 1, ev.StepStarted(executor="e1", boot="k"))
    tables = folded([[record] for record in story.records])
    assert set(tables.workstreams) == {("r1", "a")}
    assert tables.attempts["r1", ev.LINE, 1].on_behalf == "a"
    assert tables.attempts["r1", ev.LINE, 1].state == "started"
    assert tables.runs["r1"].attempts == 1


def test_blocked_workstreams_have_no_wave_until_they_start(story):
    story.accepted("a")
    story.decide(moved("b", "pending", "blocked", "dependency a failed"))
    assert folded([story.records]).workstreams["r1", "b"].wave == -1
    assert folded([story.records]).runs["r1"].blocked == 1
    story.decide(moved("b", "blocked", "ready"), ev.WaveStarted(wave=1, workstreams=["b"]))
    tables = folded([story.records])
    assert (tables.workstreams["r1", "b"].wave, tables.workstreams["r1", "b"].ordinal) == (1, 1)
    assert tables.runs["r1"].blocked == 0


def test_a_refused_submission_is_a_failed_run(story):
    request = ev.RunRequested(
        request_id="q", actor="ann", spec=LOG, workstreams=1, repository="r", base_commit=BASE.commit
    )
    story.entry("swell.event.r1.request", request)
    story.decide(ev.RequestAnswered(request_id="q", answer="refused", reason="no checks", ok=False))
    run = folded([story.records]).runs["r1"]
    assert (run.state, run.reason, run.finished_ns) == ("failed", "no checks", story.records[-1].time_ns)


def test_decisions_count_only_where_the_scheduler_writes(story):
    """An executor's subject cannot end a run, and nobody can claim an attempt that was not scheduled."""
    story.accepted("a")
    story.live("a", 7, ev.StepFinished(ok=True))
    story.live("a", 1, ev.RunFinished(state="failed", reason="", completed=0, failed=1, blocked=0, cancelled=0))
    story.decide(ev.StepFinished(ok=True))
    tables = folded([story.records])
    assert tables.runs["r1"].state == "running"
    assert tables.attempts == {}
    assert [row[2] for row in tables.events][-3:] == ["step_finished", "run_finished", "step_finished"]


def test_what_cannot_be_read_is_kept_and_changes_nothing(story):
    story.accepted("a")
    story.raw("swell.event.r1.run", b"\xff not json")
    story.raw(
        "swell.event.r1.run",
        b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[{"kind":"of_tomorrow","workstream":"a"},{"kind":"wave_started"}]}',
    )
    tables = folded([story.records])
    kinds = [(row[0], row[1], row[2], row[4]) for row in tables.events if row[0] > 2]
    assert kinds == [(3, 0, "undecodable", ""), (4, 0, "of_tomorrow", "a"), (4, 1, "wave_started", "")]
    assert tables.entries[2][10] == b"\xff not json"
    assert tables.runs["r1"].waves_started == 1
    assert tables.runs["r1"].position == 4


def test_the_chain_is_the_documented_formula(story):
    story.accepted("a")
    story.raw("swell.event.r1.run", b"\xff")
    previous = GENESIS
    for record, row in zip(story.records, folded([story.records]).entries, strict=True):
        subject = record.subject.encode()
        bytes_ = previous + record.sequence.to_bytes(8, "big") + len(subject).to_bytes(2, "big") + subject + record.data
        previous = hashlib.sha256(bytes_).digest()
        assert row[9] == previous


def test_an_altered_entry_changes_every_hash_after_it(story):
    story.accepted("a")
    story.finished()
    altered = [*story.records]
    altered[1] = msgspec.structs.replace(altered[1], data=altered[1].data + b" ")
    before, after = ([row[9] for row in folded([records]).entries] for records in (story.records, altered))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_ended_runs_and_closed_attempts_leave_memory():
    tables = Tables()
    projector = Projector(Tip(), tables)
    tables.commit(projector.fold(steady(3, 4)))
    assert projector.live_rows > 0
    projector.fold([])
    assert projector.live_rows == 0


def test_memory_is_bounded_even_when_no_run_ends(story):
    for number in range(20):
        story.accepted("a", "b", run=f"r{number}")
    tables = Tables()
    projector = Projector(Tip(), tables, live_rows_max=9)
    for record in story.records:
        tables.commit(projector.fold([record]))
    projector.fold([])
    assert projector.live_rows <= 9


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_batches_restarts_and_limits_do_not_show(data):
    """However a history is cut, forgotten and fetched again, the tables are the same."""
    records = data.draw(histories())
    whole = folded([records]).rows()
    cut = data.draw(batchings(records))
    assert folded(cut).rows() == whole
    assert folded(cut, forgetful=True).rows() == whole
    assert folded(cut, live_rows_max=1).rows() == whole


def test_what_a_workstream_waits_for_shows_until_its_step_is_scheduled_or_it_moves_on(story):
    story.accepted("a", "b")
    delayed = ev.StepDelayed(step=scheduled("a", 1, "edit"), cause="tool_breaker", reason="aider is out", until_ns=9)
    story.decide(delayed)
    waiting = folded([story.records])
    row = waiting.workstreams["r1", "a"]
    assert (row.waiting_for, row.waiting_reason, row.waiting_until_ns) == ("tool_breaker", "aider is out", 9)
    assert waiting.events[-1][4] == "a", "the event is about the workstream whose step waits"
    story.decide(scheduled("a", 1, "edit"))
    row = folded([story.records]).workstreams["r1", "a"]
    assert (row.waiting_for, row.waiting_reason, row.waiting_until_ns) == ("", "", 0)
    story.decide(delayed, moved("a", "editing", "cancelled"))
    assert folded([story.records]).workstreams["r1", "a"].waiting_for == ""


def test_a_wait_of_the_line_shows_at_the_workstream_it_is_about(story):
    story.accepted("a")
    merge = scheduled(ev.LINE, 1, "merge", on_behalf="a")
    story.decide(ev.StepDelayed(step=merge, cause="retry", reason="later", until_ns=5))
    tables = folded([story.records])
    assert tables.workstreams["r1", "a"].waiting_for == "retry"
    assert set(tables.workstreams) == {("r1", "a")}
    story.decide(merge)
    assert folded([story.records]).workstreams["r1", "a"].waiting_for == ""


def test_recoveries_count_what_went_on_by_itself_and_the_newest_tool_shows(story):
    story.accepted("a")
    for strategy in ("retry", "reduce_context", "fallback_tool", "review"):
        story.decide(
            ev.RecoveryChosen(
                workstream="a", step="edit", attempt=1, error_class="timeout", strategy=strategy, reason="slow"
            )
        )
    story.step("a", 1, "edit", ev.StepFinished(ok=False))
    story.decide(scheduled("a", 2, "edit", tool="claude", reduction=2), scheduled("a", 3, "static"))
    tables = folded([story.records])
    assert (tables.workstreams["r1", "a"].recoveries, tables.workstreams["r1", "a"].tool) == (3, "claude")
    assert (tables.attempts["r1", "a", 2].tool, tables.attempts["r1", "a", 2].reduction) == ("claude", 2)


def test_an_attempt_says_what_its_tool_was_handed(story):
    story.accepted("a")
    measured = ev.HandedContext(decision="reduced", files=7, left_out=3, tokens=110_000, limit_tokens=112_000)
    story.step("a", 1, "edit", ev.StepFinished(ok=True, context=measured))
    story.step("a", 2, "static", ev.StepFinished(ok=True))
    attempts = folded([story.records]).attempts
    told = [(row.context, row.left_out, row.context_tokens) for row in attempts.values()]
    assert told == [("reduced", 3, 110_000), ("", 0, 0)]


def test_closes_by_the_scheduler_have_a_class(story):
    story.accepted("a")
    story.decide(scheduled("a", 1, "edit"), scheduled("a", 2, "edit"))
    story.live("a", 1, ev.StepCancelled(reason="nobody claimed it", error_class="queue_timeout"))
    story.live("a", 2, ev.StepLost(reason="gone"))
    tables = folded([story.records])
    assert [tables.attempts["r1", "a", n].error_class for n in (1, 2)] == ["queue_timeout", "lost"]


def test_a_step_handed_back_keeps_its_work_and_was_not_carried_out(story):
    story.accepted("a")
    story.step("a", 1, "edit", ev.StepFinished(ok=False, error_class="handed_back", snapshot=snapshot("d")))
    row = folded([story.records]).workstreams["r1", "a"]
    assert (row.steps_executed, row.commit) == ("[]", "d" * 40)


def test_reviews_are_counted_and_an_amended_run_has_the_new_definition(story):
    story.accepted("a", "b")
    story.decide(moved("a", "editing", "awaiting_review"), moved("b", "editing", "awaiting_review"))
    story.decide(ev.RunTransitioned(from_state="running", to_state="paused", cause="review"))
    run = folded([story.records]).runs["r1"]
    assert (run.awaiting_review, run.state, run.finished_ns) == (2, "paused", 0)
    story.decide(
        ev.RunAmended(spec=LOG, amends="5" * 64, workstreams=["a"], actor="ann"),
        ev.ReviewResolved(workstream="a", verdict="adjust", actor="ann"),
        moved("a", "awaiting_review", "ready"),
        ev.RunTransitioned(from_state="paused", to_state="running"),
    )
    run = folded([story.records]).runs["r1"]
    assert (run.awaiting_review, run.state, run.spec_digest) == (1, "running", LOG.digest)


@pytest.mark.parametrize("end", ["reverted", "undelivered", "refused"])
def test_a_revert_moves_the_head_and_leaves_the_end_of_the_run(story, end):
    story.accepted("a")
    story.finished()
    story.decide(ev.RevertStarted(request_id="q2", actor="ann", workstreams=["a"], reason="regret"))
    assert folded([story.records]).runs["r1"].rollback == "running"
    if end != "refused":
        story.decide(ev.IntegrationReverted(workstreams=["a"], from_commit="d" * 40, to=snapshot("e")))
    story.decide(ev.RevertFinished(state=end, workstreams=["a"], reason="so it is"))
    run = folded([story.records]).runs["r1"]
    assert (run.state, run.rollback, run.rollback_reason) == ("completed", end, "so it is")
    assert run.head_commit == ("b" if end == "refused" else "e") * 40


@pytest.mark.parametrize("end", ["compensated", "compensation_failed"])
def test_a_rollback_moves_workstreams_and_leaves_the_end_of_the_run(story, end):
    story.accepted("a")
    story.step("a", 1, "edit", ev.StepFinished(ok=True, snapshot=snapshot("d")))
    story.decide(moved("a", "merging", "completed"))
    story.finished()
    ended_ns = story.records[-1].time_ns
    story.decide(ev.RollbackStarted(request_id="q2", actor="ann", workstreams=1, reason="regret"))
    assert folded([story.records]).runs["r1"].rollback == "running"
    story.decide(moved("a", "completed", "compensating"), scheduled("a", 2, "compensate", action="cmd:undo it"))
    assert folded([story.records]).workstreams["r1", "a"].finished_ns == 0
    story.live("a", 2, ev.StepStarted(executor="e1", boot="k"))
    story.live("a", 2, ev.StepFinished(ok=True, snapshot=snapshot("e")))
    story.decide(
        moved("a", "compensating", end),
        ev.RollbackFinished(state=end, compensated=1, failed=0, without_actions=0, reason="all undone"),
    )
    for batches in ([story.records], [[record] for record in story.records]):
        tables = folded(batches)
        run, row = tables.runs["r1"], tables.workstreams["r1", "a"]
        assert (run.state, run.finished_ns, run.rollback, run.rollback_reason) == (
            "completed", ended_ns, end, "all undone",
        )  # fmt: skip
        assert (row.state, row.commit) == (end, "d" * 40), "a compensation is not the workstream's work"
        assert row.finished_ns == story.records[-1].time_ns
        assert (tables.attempts["r1", "a", 2].step, tables.attempts["r1", "a", 2].action) == (
            "compensate",
            "cmd:undo it",
        )


def appeared(to_state: str, boot: str = "k1", from_state: str = "spawning") -> ev.ExecutorTransitioned:
    return ev.ExecutorTransitioned(
        executor="e1", boot=boot, pool="p", slots=2, from_state=from_state, to_state=to_state, reason=to_state
    )


def test_an_executor_is_its_newest_start(story):
    first = story.decide(appeared("idle"), run="fleet")
    drained = story.decide(appeared("draining", from_state="idle"), run="fleet")
    row = folded([story.records]).executors["e1"]
    assert (row.state, row.started_ns, row.since_ns, row.terminated_ns) == (
        "draining", first.time_ns, drained.time_ns, 0,
    )  # fmt: skip
    ended = story.decide(appeared("terminated", from_state="draining"), run="fleet")
    assert folded([story.records]).executors["e1"].terminated_ns == ended.time_ns
    again = story.decide(appeared("idle", boot="k2"), run="fleet")
    story.decide(appeared("terminated", from_state="idle"), run="fleet")
    row = folded([[record] for record in story.records]).executors["e1"]
    assert (row.boot, row.state, row.started_ns, row.terminated_ns) == ("k2", "idle", again.time_ns, 0)
    assert (row.first_position, row.slots, row.pool) == (1, 2, "p")


def test_a_tool_breaker_is_followed(story):
    story.decide(
        ev.ToolBreakerOpened(tool="aider", failures=3, until_ns=99, reason="3 failures", error_class="auth"),
        run="fleet",
    )
    opened_ns = story.records[0].time_ns
    row = folded([story.records]).breakers["aider"]
    assert (row.state, row.failures, row.opened_ns, row.until_ns, row.error_class) == ("open", 3, opened_ns, 99, "auth")
    story.decide(
        ev.ToolBreakerHalfOpened(tool="aider"),
        ev.ProbeGranted(tool="aider", run="r1", workstream="a", attempt=1, expires_ns=7),
        run="fleet",
    )
    row = folded([story.records]).breakers["aider"]
    assert (row.state, row.until_ns, row.reason) == ("half_open", 0, "3 failures")
    story.decide(ev.ToolBreakerClosed(tool="aider", reason="the probe succeeded"), run="fleet")
    row = folded([[record] for record in story.records]).breakers["aider"]
    assert (row.state, row.failures, row.until_ns, row.opened_ns) == ("closed", 0, 0, opened_ns)


def test_a_pause_is_there_as_long_as_it_lasts(story):
    story.decide(
        ev.FleetPaused(scope="tool", name="aider", actor="ann", reason="costs"),
        ev.FleetPaused(scope="all", actor="bob"),
        run="fleet",
    )
    assert [(row.scope, row.name, row.actor) for row in folded([story.records]).paused] == [
        ("tool", "aider", "ann"),
        ("all", "", "bob"),
    ]
    story.decide(ev.FleetResumed(scope="tool", name="aider"), ev.FleetResumed(scope="pool", name="p"), run="fleet")
    for forgetful in (False, True):
        tables = folded([[record] for record in story.records], forgetful=forgetful)
        assert [(row.scope, row.since_ns) for row in tables.paused] == [("all", story.records[0].time_ns)]


def test_decisions_across_runs_count_only_on_their_subject_and_no_run_is_called_fleet(story):
    story.accepted("a")
    story.decide(appeared("idle"), ev.FleetPaused(scope="all"))
    story.entry("swell.event.fleet.request", ev.FleetPaused(scope="all"), run="fleet")
    story.decide(ev.RunTransitioned(from_state="pending", to_state="running"), run="fleet")
    tables = folded([story.records])
    assert (tables.executors, tables.paused, set(tables.runs)) == ({}, [], {"r1"})


# What attempts cost


def spent(nano: int, *, basis: str = "reported", lower_bound: bool = False, **rest) -> ev.StepFinished:
    cost = Cost(nano_usd=nano, basis=basis, table="t1")
    usage = Usage(input_tokens=10, cache_read_tokens=3, output_tokens=5, lower_bound=lower_bound)
    return ev.StepFinished(ok=True, cost=cost, usage=usage, model="m", provider="p", **rest)


def test_what_attempts_cost_adds_up_in_their_run():
    story = Story()
    story.accepted("a")
    story.step("a", 1, "edit", spent(700), cap="none")
    story.step("a", 2, "static", ev.StepFinished(ok=True))
    story.step("a", 3, "fix", ev.StepFinished(ok=False, error_class="timeout"), cap="soft")
    story.step("a", 4, "fix", spent(0, basis="unknown"), cap="none")
    story.decide(scheduled("a", 5, "fix", cap="none"))
    story.live("a", 5, ev.StepCancelled(reason="nobody claimed it"))
    story.step("a", 6, "fix", ev.StepFinished(ok=True))  # a formatter costs nothing
    tables = folded([story.records])
    run = tables.runs["r1"]
    assert (run.cost_nano, run.unpriced, run.input_tokens, run.cache_read_tokens, run.output_tokens) == (
        700,
        2,
        20,
        6,
        10,
    )
    edit = tables.attempts["r1", "a", 1]
    assert (edit.cost_nano, edit.basis, edit.price_table, edit.model, edit.provider) == (
        700,
        "reported",
        "t1",
        "m",
        "p",
    )
    assert [tables.attempts["r1", "a", number].cost_nano for number in (2, 3, 4, 5)] == [None] * 4


@pytest.mark.parametrize(
    ("close", "late", "cost"),
    [
        (ev.StepLost(reason="gone"), [spent(900)], 900),
        (ev.StepLost(reason="gone"), [spent(900, lower_bound=True), spent(400)], 900),
        (ev.StepLost(reason="gone"), [spent(400, lower_bound=True), spent(900)], 900),
        (spent(100, lower_bound=True), [spent(900)], 900),
        (spent(100), [spent(900)], 100),
    ],
)
def test_what_is_told_after_a_close_counts_where_the_close_did_not_know(close, late, cost):
    story = Story()
    story.accepted("a")
    story.step("a", 1, "edit", close, cap="none")
    story.finished()
    assert folded([story.records]).runs["r1"].unpriced == (
        close.cost is None if isinstance(close, ev.StepFinished) else 1
    )
    for result in late:
        story.late("a", 1, ev.ResultRefused(executor="e1", boot="k1", result=result))
    for batches in ([story.records], [[record] for record in story.records]):
        tables = folded(batches)
        run, attempt = tables.runs["r1"], tables.attempts["r1", "a", 1]
        assert (run.cost_nano, run.unpriced, attempt.cost_nano) == (cost, 0, cost)
        assert attempt.state == ("lost" if isinstance(close, ev.StepLost) else "finished")


def test_waves_begin_and_end():
    story = Story()
    story.accepted("a", "b")
    story.decide(ev.WaveStarted(wave=1, workstreams=["c"], more=True))
    story.decide(ev.WaveStarted(wave=1, workstreams=["d", "e"]))
    story.decide(ev.WaveFinished(wave=0))
    for batches in ([story.records], [[record] for record in story.records]):
        waves = folded(batches).waves
        assert [(row.wave, row.workstreams, row.finished_ns > 0) for row in waves.values()] == [
            (0, 2, True),
            (1, 3, False),
        ]
        assert waves["r1", 1].started_ns == story.records[2].time_ns


def test_events_tell_their_tool_and_how_much_they_are_worth_looking_at():
    story = Story()
    story.accepted("a")
    story.step("a", 1, "edit", ev.StepFinished(ok=False, error_class="tampering"))
    scheduling = scheduled("a", 2, "fix", tool="claude")
    story.decide(scheduling)
    story.live("a", 2, ev.StepStarted(executor="e1", boot="k1"))
    story.live("a", 2, ev.StepLost(reason="gone"))
    told = [(row[2], row[7], row[8]) for row in folded([story.records]).events]
    assert ("step_finished", "", "critical") in told
    assert told[-3:] == [
        ("step_scheduled", "claude", "info"),
        ("step_started", "claude", "debug"),
        ("step_lost", "claude", "error"),
    ]


def test_labels_and_tenant_are_those_of_the_run():
    story = Story()
    known = {"request_id": "q", "actor": "ann", "spec": SPEC, "workstreams": 1, "repository": "r", "base_commit": "c"}
    story.decide(ev.RunAccepted(**known, labels={"team": "pay", "a": "1"}, tenant="acme"))
    run = folded([story.records]).runs["r1"]
    assert (run.labels, run.tenant) == ('{"a":"1","team":"pay"}', "acme")
