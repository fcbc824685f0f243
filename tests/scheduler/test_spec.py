"""What a run's definition implies, where no other test says it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.spec import ranges_with


@given(st.lists(st.integers(min_value=0, max_value=30)))
def test_ranges_hold_what_was_put_in_and_are_ascending_and_apart(indices):
    ranges = ()
    for index in indices:
        ranges = ranges_with(ranges, index)
    held = [index for start, end in ranges for index in range(start, end)]
    assert held == sorted(set(indices))
    assert all(start < end for start, end in ranges)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(ranges))
