"""Which merge made a gate red. Pure: it says what has to be known next, and reads what is known by then.

    start ── merge 1 ── merge 2 ── … ── merge n       the gate passes at the start, and fails twice at the end

`next_of` is asked again after each answer. It finds the first merge with which the gate fails; then whether that
merge fails on the start alone, or only together with an earlier one, and with which. Nobody is blamed for a gate that
both fails and passes on one tree.

Gate runs, beside the one that repeats the first failure and the one at a start that nothing is known about:
⌈log2 n⌉ + 1 for a single culprit, 2⌈log2 n⌉ + 2 for two that fail only together.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from services.events import Snapshot

FAILURES_SURE = 2
"""Failures on one tree after which it counts as red where somebody is sent back for it."""


class Known(NamedTuple):
    """What is known of one gate.

    `passed`: trees. `failed`: by tree, how often. `joined`: what a merge made of another commit than the one it was
    staged on, by `joint`, None where it conflicts.
    """

    passed: Collection[str]
    failed: Mapping[str, int]
    joined: Mapping[str, Snapshot | None]


class Judge(NamedTuple):
    """Run the gate on this commit; it is the start (0), the end (n), or between them."""

    snapshot: Snapshot
    at_start: bool = False


class Join(NamedTuple):
    """Merge number `merge` (1 to n) onto this commit."""

    onto: Snapshot
    merge: int


class Culprit(NamedTuple):
    """The gate fails since merge number `merge`, and with `partner` (0: by itself) only together."""

    merge: int
    partner: int = 0


class RedBefore(NamedTuple):
    """The gate fails at the start: none of the merges is to blame."""


class Flaky(NamedTuple):
    """The gate passed on a tree that it failed on."""


Next = Judge | Join | Culprit | RedBefore | Flaky


def joint(onto: str, workstream: str) -> str:
    """The key of `Known.joined`."""
    return f"{onto}/{workstream}"


def next_of(points: Sequence[Snapshot], workstreams: Sequence[str], known: Known) -> Next:
    """What to do next, or what was found.

    `points` are the start and the n commits of the line after it, `workstreams` whose merges they are; the gate has
    failed at the last point.
    """
    search = _Search(points, workstreams, known)
    end = len(points) - 1
    if search.is_flaky():
        return Flaky()
    if known.failed.get(points[end].tree, 0) < FAILURES_SURE:
        return Judge(points[end])
    if points[0].tree not in known.passed:
        sure = known.failed.get(points[0].tree, 0) >= FAILURES_SURE
        return RedBefore() if sure else Judge(points[0], at_start=True)
    first = search.first(0, end)
    if not isinstance(first, int):
        return first
    return search.partner(first, end)


class _Search:
    def __init__(self, points: Sequence[Snapshot], workstreams: Sequence[str], known: Known) -> None:
        self.points = points
        self.workstreams = workstreams
        self.known = known

    def is_flaky(self) -> bool:
        seen = [*self.points, *(made for made in self.known.joined.values() if made is not None)]
        return any(self.known.failed.get(point.tree) and point.tree in self.known.passed for point in seen)

    def verdict(self, snapshot: Snapshot) -> bool | None:
        """Whether the gate passes there; None while nobody knows."""
        if snapshot.tree in self.known.passed:
            return True
        return False if self.known.failed.get(snapshot.tree) else None

    def first(self, good: int, bad: int) -> int | Judge:
        """The first merge with which the gate fails."""
        while bad - good > 1:
            middle = (good + bad) // 2
            passed = self.verdict(self.points[middle])
            if passed is None:
                return Judge(self.points[middle])
            good, bad = (middle, bad) if passed else (good, middle)
        return bad

    def partner(self, culprit: int, end: int) -> Next:
        """Whether it fails without those before it, and if not, the earliest one that it fails with."""
        if culprit == 1:
            return Culprit(culprit)
        good, bad = -1, culprit - 1  # bad: with all of those before it, which is known to fail
        while bad - good > 1:
            middle = 0 if good < 0 else (good + bad) // 2
            key = joint(self.points[middle].commit, self.workstreams[culprit - 1])
            if key not in self.known.joined:
                return Join(self.points[middle], culprit)
            made = self.known.joined[key]
            if made is None:  # it stands on what came between: no more can be told
                return Culprit(culprit)
            passed = self.verdict(made)
            if passed is None:
                return Judge(made)
            if middle == 0 and not passed:
                return Culprit(culprit)
            good, bad = (middle, bad) if passed else (good, middle)
        if culprit != end and self.known.failed.get(self.points[culprit].tree, 0) < FAILURES_SURE:
            return Judge(self.points[culprit])
        return Culprit(culprit, partner=bad)
