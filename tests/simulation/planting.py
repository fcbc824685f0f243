"""Plant known bugs into copies of Swell and see in how many seeds the simulation finds each: `python -m tests.simulation.planting`.

A bug is a patch in tests/simulation/planted: its first line says what is broken. The copy holds services/ and
tests/simulation/; the simulation runs there in a process of its own. A patch that no longer applies has to be made anew.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PLANTED = Path(__file__).resolve().parent / "planted"
SEEDS = 2500
TIMEOUT_S = 300.0

_FOUND = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)


class Planted(msgspec.Struct, frozen=True):
    """What the simulation says of one bug: the first seed that finds it, and by what."""

    bug: str
    seed: int
    finding: str
    wall_s: float

    def text(self) -> str:
        """One row of the table."""
        seed = "not found" if self.seed < 0 else f"seed {self.seed:4}"
        return f"{self.bug:40} {seed} {self.wall_s:5.1f} s  {self.finding[:110]}"


def bugs() -> list[Path]:
    """All planted bugs, by name."""
    return sorted(PLANTED.glob("*.patch"))


def plant(bug: Path, into: Path) -> None:
    """A copy of the tree with the bug in it. Raises RuntimeError when the patch does not apply."""
    shutil.copytree(ROOT / "services", into / "services")
    (into / "tests").mkdir()
    shutil.copytree(ROOT / "tests" / "simulation", into / "tests" / "simulation")
    command = ["patch", "--strip=1", "--forward", "--no-backup-if-mismatch", "--input", str(bug)]
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{bug.name} does not apply: make it anew against the present code\n{done.stdout}{done.stderr}"
        )


def hunt(bug: Path, seeds: int = SEEDS) -> Planted:
    """Let the simulation look for a bug."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swell-planted-") as folder:
        into = Path(folder)
        plant(bug, into)
        command = [sys.executable, "-m", "tests.simulation.soak", "--seeds", str(seeds), "--into", folder]
        done = subprocess.run(
            command,
            cwd=into,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    wall_s = time.monotonic() - began
    found = _FOUND.search(done.stdout)
    if found is None:
        return Planted(bug.stem, -1, (done.stdout + done.stderr)[-300:], wall_s)
    return Planted(bug.stem, int(found[1]), found[2], wall_s)


def main() -> int:
    """Print the whole table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the names of the bugs to plant")
    given = parser.parse_args()
    missed = 0
    with ThreadPoolExecutor(given.processes) as pool:
        wanted = [bug for bug in bugs() if given.only in bug.stem]
        for one in pool.map(lambda bug: hunt(bug, given.seeds), wanted):
            sys.stdout.write(f"{one.text()}\n")
            sys.stdout.flush()
            missed += one.seed < 0
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
