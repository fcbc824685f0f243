"""The forecast: a list schedule that obeys the rules of the plan, and conflicts as an earlier run met them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bundle import WorkstreamBundle
from services.forecast import History, forecast
from services.plan import build_execution_plan, clash, footprint, independent, validate_plan


def ws(id_, *needs, files=None, **fields):
    return WorkstreamBundle(
        id=id_,
        openspec_change="OS-1",
        ccpm_issue=1,
        gate=1,
        files_scope=tuple(files or [f"src/{id_}.py"]),
        tasks=("Do it",),
        tool="tool",
        depends_on=needs,
        **fields,
    )


def report_of(bundles):
    return validate_plan(bundles, known_tools=None, max_workers=4, checks_present=lambda _: True)


def ahead(bundles, *, workers=(4,), executors=(), slots=2, history=None):
    report = report_of(bundles)
    return forecast(
        bundles, report.plan, report.overlaps, workers=workers, executors=executors, slots=slots, history=history
    )


def run_like(seconds=None, touched=None, conflicted=None):
    return History(run="run-1", seconds=seconds or {}, touched=touched or {}, conflicted=conflicted or {})


def codes(told):
    return [(finding.code, finding.workstream) for finding in told.findings]


IDS = [f"ws-{letter}" for letter in "abcdefghij"]


@st.composite
def fleets(draw):
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, min_size=1))
    patterns = st.sampled_from(
        ["src", "src/a", "src/b", "src/a/x.py", "docs/*.md", "docs/a*", "*.md", "lib", "lib/y", "z"]
    )
    bundles = [
        ws(
            id_,
            *draw(st.lists(st.sampled_from(ids[:at]), max_size=2, unique=True) if at else st.just([])),
            files=draw(st.lists(patterns, min_size=1, max_size=2)),
            conflict_group=draw(st.sampled_from([None, None, None, "g", "h"])),
            parallel_ok=draw(st.sampled_from([True] * 6 + [False])),
        )
        for at, id_ in enumerate(ids)
    ]
    return bundles, {id_: float(draw(st.integers(1, 5))) for id_ in ids}


def one_by_one(bundles, order, seconds, places):
    """What the scheduler does without waves: whatever may begin does, in the order of the plan."""
    marks = {bundle.id: footprint(bundle) for bundle in bundles}
    needs = {bundle.id: set(bundle.depends_on) for bundle in bundles}
    now, running, done = 0.0, {}, set()
    while len(done) < len(bundles):
        for id_ in order:
            begun = id_ in running or id_ in done
            if begun or len(running) == places or not needs[id_] <= done:
                continue
            if not any(clash(marks[id_], marks[other]) for other in running):
                running[id_] = now + seconds[id_]
        now = min(running.values())
        for id_ in [id_ for id_, end in running.items() if end == now]:
            del running[id_]
            done.add(id_)
    return now


@given(fleets(), st.integers(1, 5))
def test_estimates_are_those_of_playing_it_through(fleet, places):
    bundles, seconds = fleet
    told = ahead(bundles, workers=[places], history=run_like(seconds))
    plan = build_execution_plan(bundles)
    order = [id_ for wave in plan.waves for id_ in wave]
    (estimate,) = told.estimates
    assert estimate.eager == one_by_one(bundles, order, seconds, places)
    chosen = {bundle.id: bundle for bundle in bundles}
    unbound = [ws(id_, files=[f"own/{id_}"]) for id_ in chosen]
    assert estimate.waves == sum(
        one_by_one([b for b in unbound if b.id in wave], wave, seconds, places) for wave in plan.waves
    )
    assert told.critical_path_length <= min(estimate.eager, estimate.waves)
    assert max(estimate.eager, estimate.waves) <= told.work


@given(fleets())
def test_who_is_independent_is_who_cannot_be_reached(fleet):
    bundles, _ = fleet
    graph = {bundle.id: sorted(set(bundle.depends_on)) for bundle in bundles}

    def before(id_):
        return {other for needed in graph[id_] for other in (needed, *before(needed))}

    pairs = list(itertools.permutations(graph, 2))
    assert independent(graph, pairs) == [(a, b) for a, b in pairs if a not in before(b) and b not in before(a)]


@pytest.mark.parametrize(
    ("workers", "executors", "places", "steps"),
    [([1], [], [1], [8]), ([4], [], [4], [2]), ([8], [1], [2], [4]), ([3, 8], [1, 4], [2, 3, 2, 8], [4, 3, 4, 1])],
)
def test_workers_and_executors_bound_each_other(workers, executors, places, steps):
    told = ahead([ws(f"ws-{n}") for n in range(8)], workers=workers, executors=executors)
    assert [one.places for one in told.estimates] == places
    assert [one.waves for one in told.estimates] == steps
    assert [one.eager for one in told.estimates] == steps
    assert (told.unit, told.like, told.work) == ("steps", "", 8.0)


@pytest.mark.parametrize("changes", [{"workers": [0]}, {"executors": [0]}, {"slots": 0}])
def test_a_fleet_of_nobody_is_refused(changes):
    with pytest.raises(ValueError, match="1 or more"):
        ahead([ws("ws-a")], **changes)


def test_a_wave_is_as_long_as_its_longest_and_eager_does_not_wait_for_it():
    bundles = [ws("ws-a"), ws("ws-b"), ws("ws-c", "ws-a")]
    told = ahead(bundles, history=run_like({"ws-a": 1.0, "ws-b": 10.0, "ws-c": 5.0}))
    (estimate,) = told.estimates
    assert (estimate.waves, estimate.eager) == (15.0, 10.0)
    assert (told.critical_path, told.critical_path_length) == (["ws-b"], 10.0)


def test_what_did_not_run_before_is_taken_as_the_median():
    bundles = [ws(f"ws-{letter}") for letter in "abcd"]
    told = ahead(bundles, history=run_like({"ws-a": 2.0, "ws-b": 4.0, "ws-c": 100.0, "ws-elsewhere": 7.0}))
    assert told.work == 110.0
    assert codes(told) == [("NO_HISTORY", "ws-d")]
    assert "4.0 s" in told.findings[0].message


def test_a_conflict_group_of_thousands_is_still_estimated():
    told = ahead([ws(f"ws-{n}", conflict_group="one") for n in range(3_000)], workers=[8])
    assert [(one.waves, one.eager) for one in told.estimates] == [(3_000.0, 3_000.0)]


# Conflicts


def test_workstreams_that_may_meet_and_changed_the_same_file_are_told():
    bundles = [ws("ws-a"), ws("ws-b"), ws("ws-c", "ws-a"), ws("ws-d", files=["src"])]
    both = ("src/shared.py",)
    history = run_like(touched={"ws-a": both, "ws-b": both, "ws-c": both, "ws-d": both, "ws-gone": both})
    told = ahead(bundles, history=history)
    assert [(pair.workstream, pair.other, pair.together) for pair in told.conflicts] == [
        ("ws-a", "ws-b", True), ("ws-b", "ws-c", True),
        ("ws-a", "ws-d", False), ("ws-b", "ws-d", False), ("ws-c", "ws-d", False),
    ]  # fmt: skip
    assert [one for one in codes(told) if one[0] == "SHARED_FILES"] == [
        ("SHARED_FILES", "ws-a"),
        ("SHARED_FILES", "ws-b"),
    ]


def test_a_merge_that_met_another_is_told_first():
    bundles = [ws("ws-a"), ws("ws-b"), ws("ws-c")]
    history = run_like(
        touched={"ws-a": ("x",), "ws-b": ("x",)}, conflicted={("ws-b", "ws-c"): ("y",), ("ws-b", "ws-z"): ()}
    )
    told = ahead(bundles, history=history)
    assert [(pair.workstream, pair.other, pair.files, pair.conflicted) for pair in told.conflicts] == [
        ("ws-b", "ws-c", ["y"], True), ("ws-a", "ws-b", ["x"], False),
    ]  # fmt: skip


def test_scopes_that_overlap_for_nothing_are_told():
    bundles = [ws("ws-a", files=["src"]), ws("ws-b", files=["src/b.py"]), ws("ws-c", files=["src"])]
    history = run_like(touched={"ws-a": ("src/a.py",), "ws-b": ("src/b.py",)})
    told = ahead(bundles, history=history)
    assert [one for one in codes(told) if one[0] == "OVERLAP_UNUSED"] == [("OVERLAP_UNUSED", "ws-a")]


def test_what_was_changed_outside_the_scope_of_now_is_told():
    bundles = [ws("ws-a", files=["src"], files_create=("docs/a.md",)), ws("ws-b")]
    history = run_like(touched={"ws-a": ("src/a.py", "docs/a.md", "lib/x\x1b.py"), "ws-b": ("src/ws-b.py",)})
    told = ahead(bundles, history=history)
    (finding,) = [finding for finding in told.findings if finding.code == "CHANGED_OUTSIDE_SCOPE"]
    assert (finding.workstream, "lib/x\\x1b.py" in finding.message, "docs" in finding.message) == ("ws-a", True, False)


def test_many_conflicts_of_a_kind_are_counted():
    bundles = [ws(f"ws-{n:02}") for n in range(15)]
    told = ahead(bundles, history=run_like(touched={bundle.id: ("x",) for bundle in bundles}))
    findings = [finding for finding in told.findings if finding.code == "SHARED_FILES"]
    assert len(findings) == 11
    assert findings[-1].message == f"and {15 * 14 // 2 - 10} more of the same"
