"""`python -m tests.crash.soak --kills 1000 [--seed N]`: sessions of the crash matrix until so many processes were killed.

Ends with 1 at the first violation, and tells the seed and where the history is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

import structlog

from tests.crash.faults import buses, leaders
from tests.crash.history import keep
from tests.crash.rig import Rig, Strike
from tests.crash.session import Session, Verdict, close_and_compare, table_of

SESSIONS_OF_A_RIG = 6
KILLS_OF_A_SESSION = 25
KILLS_ALONE = 4
ALONE = {SESSIONS_OF_A_RIG - 2: leaders, SESSIONS_OF_A_RIG - 1: buses}
"""The last sessions of a rig measure: nothing but leaders, nothing but the bus."""


class Soak:
    """The sum of all sessions."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sessions = 0
        self.runs = 0
        self.cancelled = 0
        self.again = 0
        self.strikes: list[Strike] = []
        self.takeovers_s: list[tuple[str, float]] = []
        self.reaping_s: list[float] = []
        self.complaints: Counter[str] = Counter()
        self.own_deaths: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.started = time.monotonic()

    @property
    def kills(self) -> int:
        return sum(strike.number is signal.SIGKILL for strike in self.strikes)

    def add(self, verdict: Verdict) -> None:
        """One session more."""
        self.sessions += 1
        self.runs += verdict.runs
        self.cancelled += verdict.cancelled
        self.again += verdict.again
        self.strikes += verdict.strikes
        self.takeovers_s += verdict.takeovers_s
        self.wrong += [f"seed {verdict.seed}: {line}" for line in verdict.wrong]
        _say(
            f"seed {verdict.seed}: {verdict.runs} runs, {verdict.cancelled} cancelled, {len(verdict.strikes)} faults, "
            f"settled after {verdict.settled_s:.1f} s; so far {self.kills} kills of {len(self.strikes)} faults, "
            f"{self.runs} runs, {time.monotonic() - self.started:.0f} s"
        )

    def leave(self, rig: Rig) -> None:
        """What a rig tells at its end."""
        self.reaping_s += rig.reaping_s
        self.complaints += rig.complaints()
        self.own_deaths.update(f"{death.part} exit {death.exit_code}" for death in rig.deaths if not death.struck)

    def report(self) -> list[str]:
        """The final table."""
        rows = ["", f"{'service':<10} {'signal':<8} {'point':<20} {'count':>5}", *table_of(self.strikes)]
        rows += ["", f"{self.sessions} sessions from seed {self.seed}, {self.runs} runs, {self.cancelled} cancelled"]
        rows += [f"{self.kills} kills, {len(self.strikes)} faults, {time.monotonic() - self.started:.0f} s"]
        for name in sorted({name for name, _ in self.takeovers_s}):
            found = sorted(seconds for what, seconds in self.takeovers_s if what == name)
            rows.append(
                f"{name} to the next decision: {len(found)} times, median {found[len(found) // 2]:.2f} s, "
                f"longest {found[-1]:.2f} s, over 3 s: {sum(seconds > 3 for seconds in found)}"
            )
        if self.reaping_s:
            rows.append(f"kill of an executor to the end of its tools: at most {max(self.reaping_s):.2f} s")
        rows.append(f"tools that had ended, were handed back, and ran again: {self.again}")
        rows += [f"ended by itself: {what}: {count}" for what, count in self.own_deaths.most_common()]
        rows += [f"logged as an error: {what}: {count}" for what, count in self.complaints.most_common(15)]
        rows.append(f"violations: {len(self.wrong)}")
        if not self.wrong and self.strikes:
            rows.append(
                f"with 95 % confidence a fault breaks a promise less often than 3/N = {3 / len(self.strikes):.2%}"
            )
        return rows


async def soak(kills: int, seed: int, folder: Path) -> Soak:
    """Sessions on one rig after the other, until so many kills or a violation."""
    total = Soak(seed)
    number = 0
    while total.kills < kills and not total.wrong:
        rig = Rig(folder / f"rig-{number}")
        number += 1
        await rig.start()
        try:
            for turn in range(SESSIONS_OF_A_RIG):
                wanted = min(KILLS_OF_A_SESSION, kills - total.kills)
                planned = ALONE.get(turn)
                session = Session(rig, seed, kills=wanted)
                if planned is not None:
                    session = Session(rig, seed, kills=min(KILLS_ALONE, wanted), planned=planned, strikers=1)
                total.add(await session.run())
                seed += 1
                if total.wrong or total.kills >= kills:
                    break
            total.wrong += await close_and_compare(rig)
        finally:
            await rig.stop()
            keep(rig.folder / "history.jsonl", rig.watched)
            total.leave(rig)
        if not total.wrong:
            shutil.rmtree(rig.folder)
    return total


def main(arguments: Sequence[str]) -> int:
    """Run with these arguments; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="processes to kill (SIGKILL)")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000), help="of the first session")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="swell-crash-"))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    _say(f"seed {given.seed}, {given.kills} kills, in {folder}")
    total = asyncio.run(soak(given.kills, given.seed, folder))
    for line in total.report():
        _say(line)
    if total.wrong:
        for line in total.wrong:
            _say(f"VIOLATION {line}")
        _say(f"history and logs are kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
