"""The plan: waves that obey every rule, the same for any order of input, and explained."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import scope
from services.bundle import BundleCycleError, BundleDependencyError, BundleValidationError, WorkstreamBundle
from services.plan import build_execution_plan


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


IDS = [f"ws-{letter}" for letter in "abcdefgh"]


@st.composite
def fleets(draw):
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, max_size=8))
    patterns = st.sampled_from(["src", "src/a", "src/b", "src/a/x.py", "docs/*.md", "docs/a*", "*.md", "lib"])
    return [
        ws(
            id_,
            *draw(st.lists(st.sampled_from(ids[:at]), max_size=3) if at else st.just([])),
            files=draw(st.lists(patterns, min_size=1, max_size=2)),
            files_create=tuple(draw(st.lists(patterns, max_size=1))),
            conflict_group=draw(st.sampled_from([None, None, "g", "h"])),
            parallel_ok=draw(st.sampled_from([True, True, True, False])),
            priority=draw(st.sampled_from(["foreground", "background"])),
        )
        for at, id_ in enumerate(ids)
    ]


def touched(bundle):
    return {*bundle.files_scope, *bundle.files_create}


def clash(a, b):
    """Whether two independent workstreams may not run at the same time: the rules as they are documented."""
    grouped = a.conflict_group is not None and a.conflict_group == b.conflict_group
    return not (a.parallel_ok and b.parallel_ok) or grouped or scope.overlap(touched(a), touched(b)) is not None


@given(fleets(), st.randoms(use_true_random=False))
def test_every_rule_holds_for_any_fleet(fleet, random):
    plan = build_execution_plan(fleet)
    by_id = {bundle.id: bundle for bundle in fleet}
    placed = list(itertools.chain(*plan.waves))
    assert sorted(placed) == sorted(by_id)
    wave_of = {id_: at for at, wave in enumerate(plan.waves) for id_ in wave}
    for bundle in fleet:
        assert all(wave_of[other] < wave_of[bundle.id] for other in bundle.depends_on)
    for wave in plan.waves:
        for a, b in itertools.combinations([by_id[id_] for id_ in wave], 2):
            assert a.parallel_ok
            assert b.parallel_ok
            assert a.conflict_group is None or a.conflict_group != b.conflict_group
            assert scope.overlap(touched(a), touched(b)) is None
            assert not clash(a, b)
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert build_execution_plan(shuffled) == plan


@given(fleets())
def test_packing_is_first_fit_in_the_documented_order(fleet):
    """The rule spelt out: wave after wave, take whom the wave accepts, postpone the others."""
    plan = build_execution_plan(fleet)
    by_id = {bundle.id: bundle for bundle in fleet}
    depth: dict[str, int] = {}
    for id_ in itertools.chain(*plan.waves):
        depth[id_] = max((depth[other] + 1 for other in by_id[id_].depends_on), default=0)
    tail = {
        id_: max((tail_of(by_id, other) for other in by_id if id_ in by_id[other].depends_on), default=0)
        for id_ in by_id
    }
    expected = []
    for level in range(max(depth.values(), default=-1) + 1):
        waiting = sorted(
            (id_ for id_ in by_id if depth[id_] == level),
            key=lambda id_: (by_id[id_].priority != "foreground", -tail[id_], id_),
        )
        while waiting:
            wave: list[str] = []
            for id_ in waiting:
                if not any(clash(by_id[id_], by_id[other]) for other in wave):
                    wave.append(id_)
            waiting = [id_ for id_ in waiting if id_ not in wave]
            expected.append(wave)
    assert plan.waves == expected


def tail_of(by_id, id_):
    return 1 + max((tail_of(by_id, other) for other in by_id if id_ in by_id[other].depends_on), default=0)


def test_the_shape_of_the_seed():
    plan = build_execution_plan([ws("ws-A"), ws("ws-B"), ws("ws-C", "ws-A"), ws("ws-D", "ws-C"), ws("ws-E", "ws-C")])
    assert plan["waves"] == [["ws-A", "ws-B"], ["ws-C"], ["ws-D", "ws-E"]]
    assert (plan["total_waves"], plan["total_workstreams"]) == (3, 5)
    assert plan["dependency_graph"]["ws-C"] == ["ws-A"]
    assert "waves" in plan
    assert "nothing" not in plan
    assert plan.get("nothing", 5) == 5
    assert dict(plan)["waves"] is plan.waves
    assert [key for key, _ in plan.items()] == list(plan.keys()) == list(plan)
    assert len(plan) == len(plan.values())
    with pytest.raises(KeyError):
        plan["nothing"]


def test_an_empty_plan():
    plan = build_execution_plan([])
    assert (plan.waves, plan.total_waves, plan.critical_path, plan.estimated_speedup) == ([], 0, [], 1.0)


def test_a_wave_is_never_cut_to_the_pool():
    fleet = [ws(f"ws-{n}") for n in range(10)]
    plan = build_execution_plan(fleet, max_workers=4)
    assert plan.total_waves == 1
    assert plan.max_parallelism == 10
    assert plan.estimated_speedup == pytest.approx(10 / 3)
    assert build_execution_plan(fleet).estimated_speedup == 10
    with pytest.raises(ValueError, match="max_workers"):
        build_execution_plan(fleet, max_workers=0)


def test_foreground_then_critical_path_then_id():
    plan = build_execution_plan(
        [ws("ws-a", priority="background"), ws("ws-b"), ws("ws-c"), ws("ws-d"), ws("ws-e", "ws-d")]
    )
    assert plan.waves == [["ws-d", "ws-b", "ws-c", "ws-a"], ["ws-e"]]


def test_conflicts_and_reasons_are_recorded():
    plan = build_execution_plan(
        [
            ws("ws-a", conflict_group="db"),
            ws("ws-b", conflict_group="db"),
            ws("ws-c", files=["lib"]),
            ws("ws-d", files=["x"], files_create=("lib/new.py",)),
            ws("ws-e", parallel_ok=False),
            ws("ws-f", "ws-a"),
        ]
    )
    assert plan.waves == [["ws-a", "ws-c"], ["ws-b", "ws-d"], ["ws-e"], ["ws-f"]]
    assert [(c.workstream, c.other, c.reason) for c in plan.conflicts] == [
        ("ws-b", "ws-a", "conflict_group:db"),
        ("ws-d", "ws-c", "file_scope:lib/new.py overlaps lib"),
        ("ws-e", "ws-a", "parallel_ok=false"),
    ]
    assert plan.bottlenecks == ["ws-e"]
    assert plan.why["ws-a"] == "wave 0: no dependencies"
    assert plan.why["ws-d"].startswith("wave 1: no dependencies; not earlier because of ws-c (file_scope:")
    assert plan.why["ws-f"] == "wave 3: depends on ws-a in wave 0"


def test_nobody_joins_one_that_must_be_alone():
    plan = build_execution_plan([ws("ws-a", parallel_ok=False), ws("ws-b")])
    assert plan.waves == [["ws-a"], ["ws-b"]]
    assert plan.conflicts[0].reason == "parallel_ok=false"


def test_the_critical_path_is_the_heaviest_chain():
    fleet = [ws("ws-a"), ws("ws-b", "ws-a"), ws("ws-c", "ws-b"), ws("ws-d")]
    plan = build_execution_plan(fleet)
    assert (plan.critical_path, plan.critical_path_length) == (["ws-a", "ws-b", "ws-c"], 3)
    heavy = build_execution_plan(fleet, weights={"ws-d": 9.5})
    assert (heavy.critical_path, heavy.critical_path_length) == (["ws-d"], 9.5)


def test_unknown_dependencies_cycles_and_duplicates_are_typed_errors():
    with pytest.raises(BundleDependencyError) as missing:
        build_execution_plan([ws("ws-a", "ws-y", "ws-x"), ws("ws-b", "ws-x")])
    assert missing.value.missing == (("ws-a", "ws-x"), ("ws-a", "ws-y"), ("ws-b", "ws-x"))
    with pytest.raises(BundleCycleError) as cycle:
        build_execution_plan([ws("ws-b", "ws-a"), ws("ws-a", "ws-b"), ws("ws-c", "ws-c")])
    assert cycle.value.cycles == (("ws-a", "ws-b"), ("ws-c",))
    with pytest.raises(BundleValidationError, match="declared twice"):
        build_execution_plan([ws("ws-a"), ws("ws-a")])


@pytest.mark.parametrize(
    "fields",
    [
        {"conflict_group": "one"},
        {"files": ["shared.py"]},
        {"files": ["*.py"]},
        {"parallel_ok": False},
    ],
)
def test_thousands_that_may_never_run_together_are_planned_in_time(fields):
    """Trying wave after wave for each would take minutes."""
    fleet = [ws(f"ws-{n:04}", **fields) for n in range(3_000)]
    start = time.perf_counter()
    assert build_execution_plan(fleet).total_waves == 3_000
    assert time.perf_counter() - start < 5


def test_a_chain_of_ten_thousand_is_planned():
    fleet = [ws("ws-00000"), *(ws(f"ws-{n:05}", f"ws-{n - 1:05}") for n in range(1, 10_000))]
    assert build_execution_plan(fleet).critical_path_length == 10_000
