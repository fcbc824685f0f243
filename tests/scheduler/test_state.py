"""The fold: total, deterministic, and moved by recorded decisions only."""

import copy

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness import (
    RUN,
    SPEC,
    START_NS,
    Lost,
    Play,
    broken,
    bundle,
    failed,
    made,
    replay,
    same,
    spec,
)

from services.events import (
    LINE,
    TERMINAL_WORKSTREAM,
    AnyEvent,
    CancelRequested,
    CheckResult,
    IntegrationAdvanced,
    RequestAnswered,
    RunAccepted,
    RunRequested,
    RunTransitioned,
    Snapshot,
    StepCancelled,
    StepFinished,
    StepLost,
    StepScheduled,
    StepStarted,
    WorkstreamTransitioned,
)
from services.scheduler.state import ALLOWED, UNSETTLED, Fact, evolve, unknown_checks
from services.wire import Entry, Place, decode_entry, encode_entry

A, B = "ws-a", "ws-b"
PLAN = spec([bundle(A), bundle(B, A)])


def fact(sequence, place, *events, definition=None):
    entry = Entry(id=f"id-{sequence}", run=RUN, at_ns=0, by="x", events=list(events))
    return Fact(sequence, START_NS + sequence, place, entry, definition)


def fold(*facts):
    return replay(list(facts))


RUN_PLACE = Place("run", RUN)


def accepted(sequence=1, definition=PLAN):
    event = RunAccepted(request_id="q", actor="ann", spec=SPEC, workstreams=2, repository="repo", base_commit="b" * 40)
    return fact(sequence, RUN_PLACE, event, definition=definition)


def scheduled(workstream=A, attempt=1, step="edit", **rest):
    snapshot = Snapshot(commit="c", tree="t")
    return StepScheduled(
        workstream=workstream,
        attempt=attempt,
        step=step,
        pool="p",
        input=snapshot,
        timeout_s=1,
        queue_deadline_ns=9,
        **rest,
    )


def at(workstream=A, attempt=1):
    return Place("attempt", RUN, workstream, attempt)


# Positions


def test_positions_are_of_the_run_and_of_everything():
    run = fold(accepted(5), fact(7, Place("request", RUN), CancelRequested(request_id="q2", actor="x")))
    assert (run.last_run_sequence, run.last_sequence, run.last_entry) == (5, 7, "id-7")


def test_an_attempt_knows_the_newest_entry_on_its_subject():
    run = fold(accepted(1), fact(2, RUN_PLACE, scheduled()))
    assert run.open[A, 1].sequence == 0
    run = evolve(run, fact(3, at(), StepStarted(executor="e1", boot="k1")))
    assert run.open[A, 1].sequence == 3
    assert (run.open[A, 1].executor, run.open[A, 1].boot, run.open[A, 1].started_ns) == ("e1", "k1", START_NS + 3)
    assert run.unclaimed == {}


# Facts move nothing by themselves


@pytest.mark.parametrize("close", [made("t1"), broken("timeout"), StepLost(reason="x"), StepCancelled(reason="x")])
def test_a_close_is_noted_and_moves_nothing(close):
    moved = WorkstreamTransitioned(workstream=A, from_state="pending", to_state="editing")
    run = fold(accepted(1), fact(2, RUN_PLACE, moved, scheduled()), fact(3, at(), close))
    workstream = run.workstreams[A]
    assert workstream.state == "editing"
    assert (workstream.open, run.open, run.unclaimed) == (None, {}, {})
    assert workstream.closed.event == close
    assert run.agenda == {A}


def test_only_the_first_close_counts():
    run = fold(accepted(1), fact(2, RUN_PLACE, scheduled()), fact(3, at(), StepLost(reason="x")))
    before = copy.deepcopy(run.workstreams)
    run = evolve(run, fact(4, at(), made("t1")))
    assert run.workstreams == before


def test_a_fact_of_another_attempt_is_not_of_this_one():
    run = fold(accepted(1), fact(2, RUN_PLACE, scheduled(attempt=2)), fact(3, at(attempt=1), made("t1")))
    assert run.workstreams[A].open.scheduled.attempt == 2
    assert run.agenda == set()


def test_losses_count_until_something_finishes():
    run = fold(accepted(1))
    sequence = 1
    for attempt, close in enumerate([StepLost(reason="x"), StepLost(reason="x"), made("t1"), StepLost(reason="x")], 1):
        run = evolve(run, fact(sequence + 1, RUN_PLACE, scheduled(attempt=attempt)))
        run = evolve(run, fact(sequence + 2, at(attempt=attempt), close))
        sequence += 2
    assert run.workstreams[A].losses == 1


def test_verdicts_belong_to_the_tree_and_only_passes_are_kept():
    results = [
        CheckResult(check=f"c{outcome}", kind="static", name="x", outcome=outcome)
        for outcome in ("passed", "failed", "error", "not_executable")
    ]
    close = StepFinished(ok=False, error_class="check_failed", signature="e", checks=results)
    run = fold(accepted(1), fact(2, RUN_PLACE, scheduled(step="static")), fact(3, at(), close))
    assert run.verdicts == {"t": {"cpassed", "cnot_executable"}}
    from services.events import Check

    wanted = [Check(check=r.check, kind="static", name="x") for r in results]
    assert [c.check for c in unknown_checks(run, "t", wanted)] == ["cfailed", "cerror"]
    assert unknown_checks(run, "another tree", wanted) == wanted


# Requests


def test_a_request_is_open_until_it_is_answered_and_never_again():
    asked = CancelRequested(request_id="q2", actor="x")
    run = fold(accepted(1), fact(2, Place("request", RUN), asked), fact(3, Place("request", RUN), asked))
    assert list(run.requests) == ["q2"]
    run = evolve(run, fact(4, RUN_PLACE, RequestAnswered(request_id="q2", answer="accepted")))
    assert run.requests == {}
    assert evolve(run, fact(5, Place("request", RUN), asked)).requests == {}


def test_of_two_submissions_the_first_is_the_run():
    def submission(request_id):
        return RunRequested(request_id=request_id, actor="x", spec=SPEC, workstreams=1, repository="r", base_commit="b")

    run = fold(fact(1, Place("request", RUN), submission("q1")), fact(2, Place("request", RUN), submission("q2")))
    assert run.requested.request_id == "q1"


# The table of moves


def test_the_table_of_moves_is_closed():
    for state, following in ALLOWED.items():
        assert following <= ALLOWED.keys(), state
        undone = {"compensating"} if state in {"completed", "compensation_failed"} else set()
        assert state not in TERMINAL_WORKSTREAM or following == undone, f"{state} is terminal"
    assert ALLOWED.keys() >= UNSETTLED


def test_every_state_that_is_not_terminal_can_be_cancelled():
    for state, following in ALLOWED.items():
        assert state in {"compensating", *TERMINAL_WORKSTREAM} or "cancelled" in following, state


def test_every_state_but_pending_can_fail():
    for state, following in ALLOWED.items():
        assert state in {"pending", "compensating", *TERMINAL_WORKSTREAM} or "failed" in following, state


def test_dependents_inherit_the_root_of_their_doom():
    three = spec([bundle(A), bundle(B, A), bundle("ws-c", B)])
    run = fold(
        accepted(1, three),
        fact(2, RUN_PLACE, WorkstreamTransitioned(workstream=A, from_state="editing", to_state="failed")),
    )
    assert run.doomed == {B: A}
    run = evolve(
        run, fact(3, RUN_PLACE, WorkstreamTransitioned(workstream=B, from_state="pending", to_state="blocked"))
    )
    assert run.doomed == {"ws-c": A}
    assert run.failures == 1


def test_an_advance_makes_the_candidate_the_head():
    to = Snapshot(commit="m", tree="mt")
    run = fold(accepted(1), fact(2, RUN_PLACE, IntegrationAdvanced(workstream=B, from_commit="b", to=to)))
    run = evolve(run, fact(3, RUN_PLACE, IntegrationAdvanced(workstream=A, from_commit="m", to=to)))
    assert run.line.head == to
    assert run.line.merged == ((0, 2),)


# What cannot be used


def test_a_definition_that_cannot_be_read_is_noted():
    run = fold(accepted(1, None))
    assert "cannot be read" in run.unreadable
    assert run.definitions is None


@pytest.mark.parametrize(
    "breaker",
    [{"no_such_key": 1}, {"oscillation_window": "many"}, {"timeouts": {"edit": -1}}, {"defaults": {}, "x": 1}],
)
def test_a_breaker_policy_this_version_cannot_read_is_noted(breaker):
    """Folding goes on: a definition written by another version must not stop the scheduler for everybody."""
    run = fold(accepted(1, spec([bundle(A)], breaker=breaker)))
    assert run.unreadable


def test_a_second_acceptance_does_not_stop_the_fold():
    """With a definition that lacks what the first one had: whatever stands in the log, folding goes on."""
    failing = WorkstreamTransitioned(workstream=A, from_state="editing", to_state="failed")
    run = fold(accepted(1), accepted(2, spec([bundle(A)])), fact(3, RUN_PLACE, failing))
    assert run.last_sequence == 3


# Any log at all

NAMES = [A, B, LINE, "ws-none", ""]


def values(annotation, field=""):
    """Values of a type of services.events, with names from a small pool so that they meet."""
    kind = msgspec.inspect.type_info(annotation) if not isinstance(annotation, msgspec.inspect.Type) else annotation
    i = msgspec.inspect
    match kind:
        case i.StrType():
            pool = NAMES if field in {"workstream", "on_behalf"} else ["", "q1", "q2", "t", "e1", "x"]
            return st.sampled_from(pool)
        case i.BoolType():
            return st.booleans()
        case i.IntType():
            return st.integers(-1 if kind.ge is None else kind.ge, 4)
        case i.FloatType():
            return st.sampled_from([0.0, 1.5])
        case i.NoneType():
            return st.none()
        case i.LiteralType():
            return st.sampled_from(kind.values)
        case i.UnionType():
            return st.one_of(*(values(t, field) for t in kind.types))
        case i.ListType():
            return st.lists(values(kind.item_type, "workstream" if field == "workstreams" else field), max_size=2)
        case i.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=2)
        case i.TupleType():
            return st.tuples(*(values(t) for t in kind.item_types))
        case i.StructType():
            return st.builds(kind.cls, **{f.name: values(f.type, f.name) for f in kind.fields})
    raise AssertionError(kind)


EVENTS = st.one_of(*(values(kind) for kind in AnyEvent.__args__))
PLACES = st.one_of(
    st.builds(Place, st.sampled_from(["run", "request"]), st.just(RUN)),
    st.builds(Place, st.sampled_from(["attempt", "late"]), st.just(RUN), st.sampled_from(NAMES), st.integers(0, 3)),
)
DEFINITIONS = st.sampled_from([None, PLAN, PLAN, spec([bundle("ws-x"), bundle(A, "ws-x")])])
LOGS = st.lists(st.tuples(PLACES, st.lists(EVENTS, max_size=4), DEFINITIONS), max_size=25)


@given(LOGS)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_folding_goes_on_whatever_stands_in_the_log(log):
    """Total and deterministic: any entries fold, twice into equal states, and each is accounted for."""
    facts = [accepted(1)]
    facts += [fact(n, place, *events, definition=given_) for n, (place, events, given_) in enumerate(log, 2)]
    run = replay(facts)
    assert run.last_sequence == len(facts)
    assert same(run, replay(facts))


@given(LOGS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_can_be_folded_went_over_the_wire(log):
    """Bytes and back is the same value, and folds into the same state."""
    facts = [accepted(1)]
    facts += [fact(n, place, *events, definition=PLAN) for n, (place, events, _) in enumerate(log, 2)]
    over_the_wire = [Fact(f.sequence, f.time_ns, f.place, decode_entry(encode_entry(f.entry)), f.spec) for f in facts]
    assert over_the_wire == facts


def test_a_replay_from_the_start_is_the_state_at_every_moment():
    script = {
        (A, "static"): [failed("e1"), failed("e2")],
        (A, "runtime"): [failed("e3"), Lost],
        (B, "merge"): [Lost, broken("merge_conflict", conflicts=["x"])],
    }
    play = Play(PLAN, script)
    compared = 0
    original = play.write

    def write(place, *events):
        nonlocal compared
        written = original(place, *events)
        assert same(replay(play.facts), play.state)
        compared += 1
        return written

    play.write = write
    play.play()
    assert compared > 30


def test_a_transition_of_the_run_is_its_status():
    run = fold(accepted(1), fact(2, RUN_PLACE, RunTransitioned(from_state="pending", to_state="paused", reason="why")))
    assert (run.status, run.reason) == ("paused", "why")
