"""Many seeds: `python -m tests.simulation.soak --seeds 100000 [--from N] [--processes 2]`.

Prints how it goes and what was broken, and stops at the first seed whose history is wrong: that history is written as JSON lines.
"""

import argparse
import contextlib
import functools
import gc
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.simulation.simulate import Outcome, simulate

CHUNK = 50


class Tally(msgspec.Struct):
    """What a number of seeds came to."""

    runs: int = 0
    attempts: int = 0
    entries: int = 0
    cpu_s: float = 0.0
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    stats: Counter[str] = msgspec.field(default_factory=Counter)
    findings: list[tuple[int, str]] = []

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.attempts += outcome.attempts
        self.entries += outcome.entries
        self.faults += outcome.faults
        self.stats += outcome.stats
        self.findings += [(outcome.seed, finding) for finding in outcome.findings[:1]]

    def merge(self, other: "Tally") -> None:
        self.runs += other.runs
        self.attempts += other.attempts
        self.entries += other.entries
        self.cpu_s += other.cpu_s
        self.faults += other.faults
        self.stats += other.stats
        self.findings += other.findings

    def text(self) -> str:
        """The whole in words."""
        faults = ", ".join(f"{kind} {count}" for kind, count in self.faults.most_common())
        bound = f"3/N bound {3 / self.runs:.1e}" if self.runs and not self.findings else "no bound"
        return (
            f"{self.runs} runs, {self.attempts} attempts, {self.entries} entries, {self.runs / max(self.cpu_s, 1e-9):.0f} "
            f"runs per CPU second; {sum(self.faults.values())} faults: {faults or 'none'}; "
            f"{len(self.findings)} violations, {bound}"
        )


def play(seeds: range, size: int | None = None) -> Tally:
    """Play seeds up to the first whose history is wrong."""
    tally = Tally()
    before = time.process_time()
    for seed in seeds:
        try:
            tally.add(simulate(seed, size=size))
        except Exception:  # noqa: BLE001 - a seed that cannot be played is a finding like any other
            tally.findings.append((seed, f"raised: {traceback.format_exc(limit=-3)}"))
        if tally.findings:
            break
    tally.cpu_s = time.process_time() - before
    return tally


def collect_rarely() -> None:
    """What is loaded stays; what runs leave behind is looked for less often than by default, which takes a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 10)


def _chunks(first: int, seeds: int) -> Iterator[range]:
    for start in range(first, first + seeds, CHUNK):
        yield range(start, min(start + CHUNK, first + seeds))


def keep(outcome: Outcome, folder: Path) -> Path:
    """Write a history as JSON lines; where it stands."""
    path = folder / f"seed-{outcome.seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for recorded, entry in zip(outcome.log, outcome.history, strict=True):
            line = {
                "sequence": recorded.sequence,
                "subject": recorded.subject,
                "time_ns": recorded.time_ns,
                "entry": msgspec.to_builtins(entry),
            }
            file.write(msgspec.json.encode(line) + b"\n")
    return path


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--size", type=int, help="that many workstreams, in one run")
    parser.add_argument("--into", type=Path, default=Path(), help="the folder for the history of a wrong seed")
    given = parser.parse_args()
    collect_rarely()
    total = Tally()
    began, told = time.monotonic(), 0.0
    with contextlib.ExitStack() as stack:
        chunks = _chunks(given.first, given.seeds)
        one = functools.partial(play, size=given.size)
        played = map(one, chunks)
        if given.processes > 1:
            played = stack.enter_context(multiprocessing.Pool(given.processes)).imap(one, chunks)  # type: ignore[assignment]
        for tally in played:
            total.merge(tally)
            if total.findings:
                break
            if time.monotonic() - told > 10:
                told = time.monotonic()
                sys.stdout.write(
                    f"{told - began:7.0f} s: {total.runs} runs, {total.attempts} attempts, all right so far\n"
                )
                sys.stdout.flush()
    sys.stdout.write(f"seeds from {given.first}: {total.text()}\n")
    for seed, finding in total.findings[:1]:
        size = f" --size {given.size}" if given.size else ""
        sys.stdout.write(f"seed {seed}: {finding}\nagain: python -m tests.simulation.replay {seed}{size}\n")
        if not finding.startswith("raised"):
            sys.stdout.write(f"history: {keep(simulate(seed, size=given.size), given.into)}\n")
    return 1 if total.findings else 0


if __name__ == "__main__":
    sys.exit(main())
