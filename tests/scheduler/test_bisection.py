"""The search for the merge that made a gate red, against gates of every kind."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.events import Snapshot
from services.scheduler.bisection import (
    Culprit,
    Flaky,
    Join,
    Judge,
    Known,
    Next,
    RedBefore,
    joint,
    next_of,
)


class Hunt:
    """A line of n merges, and a gate that is red where `is_red` says so of the set of what is merged."""

    def __init__(self, count, is_red, *, conflicting=()):
        self.count, self.is_red, self.conflicting = count, is_red, set(conflicting)
        self.merged = {}
        self.points = [self.made(range(1, number + 1)) for number in range(count + 1)]
        self.workstreams = [f"ws-{number}" for number in range(1, count + 1)]
        self.passed, self.failed, self.joined = set(), {self.points[-1].tree: 1}, {}
        self.runs = []

    def made(self, merges):
        merges = frozenset(merges)
        name = ".".join(map(str, sorted(merges)))
        self.merged[f"tree {name}"] = merges
        return Snapshot(commit=f"commit {name}", tree=f"tree {name}")

    def answer(self, found, number):
        if isinstance(found, Join):
            key = joint(found.onto.commit, self.workstreams[found.merge - 1])
            conflicts = found.merge in self.conflicting
            self.joined[key] = None if conflicts else self.made(self.merged[found.onto.tree] | {found.merge})
            return
        self.runs.append(found)
        tree = found.snapshot.tree
        if self.is_red(self.merged[tree], number):
            self.failed[tree] = self.failed.get(tree, 0) + 1
        else:
            self.passed.add(tree)

    def next(self) -> Next:
        return next_of(self.points, self.workstreams, Known(self.passed, self.failed, self.joined))

    def end(self):
        for number in range(200):
            found = self.next()
            if not isinstance(found, Judge | Join):
                return found
            self.answer(found, number)
        raise AssertionError("the search does not end")

    @property
    def counted(self):
        """Runs beside the one that repeats the first failure, and the one at the start."""
        return len(self.runs) - 2


def bound(count):
    return math.ceil(math.log2(count))


@given(st.data())
def test_a_single_culprit_is_found_in_log2_n_and_1_runs(data):
    count = data.draw(st.integers(1, 300))
    guilty = data.draw(st.integers(1, count))
    hunt = Hunt(count, lambda merged, _: guilty in merged)
    assert hunt.end() == Culprit(guilty)
    assert hunt.counted <= bound(count) + 1


@given(st.data())
def test_two_that_fail_only_together_are_found_in_2_log2_n_and_2_runs(data):
    count = data.draw(st.integers(2, 300))
    first = data.draw(st.integers(1, count - 1))
    second = data.draw(st.integers(first + 1, count))
    hunt = Hunt(count, lambda merged, _: {first, second} <= merged)
    assert hunt.end() == Culprit(second, first)
    assert hunt.counted <= 2 * bound(count) + 2


def test_what_was_red_before_is_nobodys_fault():
    hunt = Hunt(8, lambda *_: True)
    assert hunt.end() == RedBefore()
    assert [run.at_start for run in hunt.runs] == [False, True, True]


def test_a_gate_that_passes_where_it_failed_blames_nobody():
    hunt = Hunt(8, lambda _, number: number > 0)
    assert hunt.end() == Flaky()
    assert len(hunt.runs) == 1


@given(st.integers(2, 40), st.randoms(use_true_random=False))
def test_a_gate_that_fails_by_chance_never_blames_with_proof_to_the_contrary(count, chance):
    """Whoever is blamed was never seen green with what it is blamed for."""
    hunt = Hunt(count, lambda *_: chance.random() < 0.5)
    found = hunt.end()
    if isinstance(found, Culprit):
        assert hunt.points[found.merge].tree not in hunt.passed
        assert hunt.points[found.merge - 1].tree in hunt.passed
    assert isinstance(found, Culprit | Flaky | RedBefore)


@given(st.data())
def test_whatever_is_red_where_the_search_ends_beside_something_green(data):
    """Several culprits, later merges that mend: the blamed one turned green to red."""
    count = data.draw(st.integers(1, 40))
    red = data.draw(st.sets(st.integers(1, count - 1))) if count > 1 else set()
    hunt = Hunt(count, lambda merged, _: len(merged) in red | {count})
    found = hunt.end()
    assert isinstance(found, Culprit)
    assert hunt.is_red(frozenset(range(1, found.merge + 1)), 0)
    assert not hunt.is_red(frozenset(range(1, found.merge)), 0)


def test_a_merge_that_stands_on_those_before_it_is_blamed_without_a_partner():
    hunt = Hunt(8, lambda merged, _: {2, 6} <= merged, conflicting=[6])
    assert hunt.end() == Culprit(6)
