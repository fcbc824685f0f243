"""Real processes are killed, stopped and asked to end, at named points and at random: what was promised holds.

`python -m tests.crash.soak` goes on for as long as one likes; this is what fits into a minute.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

from tests.crash.faults import leaders, rolling
from tests.crash.history import keep, opened
from tests.crash.rig import Rig
from tests.crash.session import Session, Verdict, close_and_compare

QUIET_SEED = 10
LEADER_SEED = 11
ROLLING_SEED = 14
SEEDS = (12, 13)
KILLS = 15
LEADER_KILLS = 1
KILLS_MIN = 30


async def test_what_was_promised_holds_whoever_dies(tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Every run ends as it should; the log, the branch, the ledger and /proc say the same. Left alone, nothing even complains."""
    rig = Rig(tmp_path)
    verdicts: list[Verdict] = []
    wrong: list[str] = []
    try:
        await rig.start()
        verdicts += [await Session(rig, QUIET_SEED, kills=0, live=1).run()]
        wrong += [f"left alone, this happened: {what}" for what in (*rig.deaths, *rig.complaints())]
        sessions = [Session(rig, LEADER_SEED, kills=LEADER_KILLS, planned=leaders, strikers=1, live=1)]
        sessions += [Session(rig, seed, kills=KILLS) for seed in SEEDS]
        for session in sessions:
            verdicts += [await session.run()]
        deaths = len(rig.deaths)
        verdicts += [await Session(rig, ROLLING_SEED, kills=1, planned=rolling, strikers=1).run()]
        wrong += [f"rolling restart: {what}" for what in disturbances(rig, deaths)]
        wrong += await close_and_compare(rig)
    finally:
        await rig.stop()
    wrong += [f"seed {verdict.seed}: {line}" for verdict in verdicts for line in verdict.wrong]
    tell("\n".join(told(rig, verdicts, wrong)))
    assert not wrong, f"{wrong}; stream and logs are kept in {kept(rig)}"
    assert killed(rig) >= KILLS_MIN


def disturbances(rig: Rig, deaths: int) -> Iterator[str]:
    """What a rolling restart must not show: a service that ends otherwise than well, an attempt that is lost."""
    yield from (str(death) for death in rig.deaths[deaths:] if death.exit_code != 0)
    for fact in opened(rig.watched):
        if fact.run.startswith(f"crash-{ROLLING_SEED}-") and fact.kind == "step_lost":
            yield f"{fact.run}/{fact.workstream}/{fact.attempt} was lost: {fact.body}"


def kept(rig: Rig) -> Path:
    """What somebody needs to find out, in a folder that outlives the tests' own."""
    folder = Path(mkdtemp(prefix="swell-crash-"))
    keep(folder / "history.jsonl", rig.watched)
    shutil.copytree(rig.folder / "logs", folder / "logs")
    return folder


def killed(rig: Rig) -> int:
    return sum(strike.number is signal.SIGKILL for strike in rig.strikes)


def told(rig: Rig, verdicts: list[Verdict], wrong: list[str]) -> list[str]:
    """What the terminal shows."""
    parts = Counter(f"{strike.part.partition('-')[0]} {strike.number.name}" for strike in rig.strikes)
    named = sum(strike.point != "random" for strike in rig.strikes)
    takeovers = [f"{name} {seconds:.1f} s" for verdict in verdicts for name, seconds in verdict.takeovers_s]
    runs, cancelled = (sum(getattr(verdict, what) for verdict in verdicts) for what in ("runs", "cancelled"))
    seeds = ", ".join(str(verdict.seed) for verdict in verdicts)
    faults = f"{killed(rig)} kills of {len(rig.strikes)} faults, {named} at named points"
    return [
        f"crash matrix: seeds {seeds}: {runs} runs ({cancelled} cancelled), {faults}",
        f"  struck: {', '.join(f'{part} {count}' for part, count in sorted(parts.items()))}",
        f"  to the next decision after: {', '.join(takeovers) or 'nothing undisturbed'}",
        f"  findings: {len(wrong)}",
        *(f"  - {line}" for line in wrong[:20]),
    ]
