"""The simulation finds what it is for: each bug planted into a copy of Swell is found within so many seeds."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.simulation.planting import SEEDS, bugs, hunt
from tests.simulation.simulate import simulate

AT_ONCE = 2


def test_every_planted_bug_is_found(tell):
    """The table: bug, the seed that finds it, and by which check."""
    planted = bugs()
    assert len(planted) >= 20
    with ThreadPoolExecutor(AT_ONCE) as pool:
        table = list(pool.map(hunt, planted))
    tell("\n".join(one.text() for one in table))
    missed = [one.text() for one in table if one.seed < 0]
    assert not missed, f"not found within {SEEDS} seeds:\n" + "\n".join(missed)
    own = [f"seed {seed}: {found}" for seed in sorted({one.seed for one in table}) for found in simulate(seed).findings]
    assert not own, "without any planted bug there is something to find in the same seeds:\n" + "\n".join(own)


def test_a_patch_that_no_longer_applies_is_named(tmp_path):
    """Nobody believes in a bug that was never planted."""
    stale = tmp_path / "stale.patch"
    stale.write_text(
        "stale\n\n--- a/services/fence.py\n+++ b/services/fence.py\n@@ -1,1 +1,1 @@\n-never there\n+nor here\n"
    )
    with pytest.raises(RuntimeError, match=r"stale\.patch does not apply"):
        hunt(stale, 1)
