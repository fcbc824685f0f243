"""What has passed in one run is not asked again in another, for a while, in the same pool, of the same check."""

import msgspec
import pytest
from scheduler_harness import RUN, SECOND_NS, Play, bundle, failed, made, spec

from services.events import CheckResult, Snapshot, StepFinished, StepScheduled, StepSkipped, WorkstreamTransitioned
from services.profiles import ToolProfile
from services.scheduler import fleet as fleets
from services.scheduler.fleet import Fleet
from services.spec import Definitions, RunSpec

A, B = "ws-a", "ws-b"
NAMES = [A, B]


class FleetPlay(Play):
    """A run that knows what another one, told in `fleet`, has come to."""

    def __init__(self, definition: RunSpec, fleet: Fleet, script=None) -> None:
        super().__init__(definition, script)
        self.fleet = fleet

    def write(self, place, *events):
        open_ = self.state.open.get((place.workstream, place.attempt)) if self.state is not None else None
        fact = super().write(place, *events)
        if hasattr(self, "fleet"):
            scheduled = open_.scheduled if open_ is not None else None
            fleets.evolve(self.fleet, fact.sequence, fact.time_ns, fact.place, fact.entry, scheduled)
        return fact


def deterministic():
    return {(name, "edit"): [made(f"{name}-edit-1")] for name in NAMES}


def definition(**options):
    return spec([bundle(name) for name in NAMES], **{"verdict_reuse_s": 3600.0, **options})


def again(fleet, *, later_s=0.0, **options):
    play = FleetPlay(definition(**options), fleet, deterministic())
    play.now_ns += int(later_s * SECOND_NS)
    return play.play()


@pytest.fixture
def fleet():
    """After one run of everything."""
    fleet = Fleet()
    again(fleet)
    return fleet


def judging(play):
    return [e for e in play.of(StepScheduled) if e.step in {"static", "runtime", "gate"}]


def test_an_unchanged_set_of_bundles_asks_for_no_verdict_again(fleet):
    play = again(fleet)
    assert judging(play) == []
    assert {e.to_state for e in play.of(WorkstreamTransitioned) if e.workstream == A} >= {"completed"}
    sources = {source for e in play.of(StepSkipped) for source in e.sources}
    assert f"{RUN}/{A}/2" in sources
    assert all(source.startswith(f"{RUN}/") for source in sources)


@pytest.mark.parametrize(
    "options", [{"verdict_reuse_s": 0.0}, {"pool": "other"}, {"static": ("mypy",), "runtime": "tox"}]
)
def test_another_pool_or_check_or_none_at_all_is_judged_anew(fleet, options):
    assert len(judging(again(fleet, **options))) == 5


def test_old_verdicts_do_not_count(fleet):
    assert len(judging(again(fleet, later_s=3601.0))) == 5


def test_what_failed_is_never_taken_over():
    fleet = Fleet()
    red = {**deterministic(), (A, "static"): [failed()] * 9, (A, "fix"): [made("x")] * 3}
    FleetPlay(definition(), fleet, red).play()
    play = FleetPlay(definition(), fleet, deterministic()).play()
    assert [(e.workstream, e.step) for e in judging(play) if e.workstream == A] == [(A, "static"), (A, "runtime")]


def test_a_check_that_is_another_one_in_every_run_is_never_shared():
    known = {"ruff": ToolProfile(command="ruff", args=("{run}",)), "pytest": ToolProfile(command="pytest")}
    definitions = Definitions(definition(profiles=known))
    ruff, pytest_ = definitions.line([(0, 1)])
    assert not definitions.is_shared(ruff)
    assert definitions.is_shared(pytest_)


def test_a_check_is_what_it_is_given():
    """Values of the context, and the files of a scope, not the numbers of a plan."""
    known = {"ruff": ToolProfile(command="ruff", args=("{files}", "{level}")), "pytest": ToolProfile(command="pytest")}

    def ruff(context, *names):
        made = spec([bundle(name) for name in names], profiles=known, context=context)
        return Definitions(made).static(names[-1])[0].check

    assert ruff({"level": "1"}, A) == ruff({"level": "1", "unused": "x"}, B, A)
    assert len({ruff({"level": "1"}, A), ruff({"level": "2"}, A), ruff({"level": "1"}, B)}) == 3


def counted(tests, skipped=0):
    """RUNTIME passes, and says how many tests there were."""
    [check] = Definitions(chain()).runtime(A)
    result = CheckResult(
        check=check.check, kind="runtime", name="pytest", outcome="passed", tests=tests, skipped=skipped
    )
    return StepFinished(ok=True, checks=[result], snapshot=Snapshot(commit="c", tree=""))


def chain(**rest):
    return spec([bundle(A), bundle(B, A, **rest)], review="wait")


@pytest.mark.parametrize(
    ("now", "rest", "state"),
    [
        (counted(10), {}, "completed"),
        (counted(12), {}, "completed"),
        (counted(9), {}, "awaiting_review"),
        (counted(10, skipped=1), {}, "awaiting_review"),
        (counted(3), {"metadata": {"swell": {"tests_may_shrink": True}}}, "completed"),
    ],
)
def test_fewer_tests_than_on_the_tree_it_started_from_go_to_a_person(now, rest, state):
    first = msgspec.structs.replace(counted(10), snapshot=Snapshot(commit="c", tree="made-by-a"))
    script = {(A, "edit"): [made("made-by-a")], (A, "runtime"): [first], (B, "runtime"): [now]}
    play = FleetPlay(chain(**rest), Fleet(), script).until_stuck()
    assert play.states == {A: "completed", B: state}
    if state == "awaiting_review":
        assert "ran 9 tests; on the tree that it started from it ran 10" in play.reason(B)
        play.review("approve", B)
        play.play()
        assert play.states[B] == "completed"
        assert play.steps_of(B).count("edit") == 1


def test_only_so_many_trees_are_remembered(monkeypatch):
    monkeypatch.setattr(fleets, "TREES_KEPT", 2)
    fleet = Fleet()
    again(fleet)
    assert len(fleet.verdicts) == 2
    assert msgspec.json.decode(msgspec.json.encode(fleet.verdicts))
