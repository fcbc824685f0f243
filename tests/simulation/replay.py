"""Print the history of a seed: `python -m tests.simulation.replay SEED [--size N] [--from POSITION] [--run RUN]`."""

import argparse
import sys

import msgspec

from services.wire import Entry, Recorded
from tests.simulation.clockwork import SECOND_NS, START_NS
from tests.simulation.simulate import simulate


def line(recorded: Recorded, entry: Entry) -> str:
    """One entry in words: position, time, subject, writer, what it had folded, and its events."""
    said = []
    for event in entry.events:
        fields = msgspec.to_builtins(event)
        kind = fields.pop("kind")
        shown = ", ".join(f"{key}={_short(value)}" for key, value in fields.items())
        said.append(f"\n      {kind}({shown})")
    since_s = (recorded.time_ns - START_NS) / SECOND_NS
    place = recorded.subject.removeprefix("swell.event.")
    return f"{recorded.sequence:5} {since_s:10.3f} {place:28} {entry.by} seen={entry.seen}{''.join(said)}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_short(one)}" for key, one in value.items()) + "}"
    return str(value)[:160]


def main() -> int:
    """Play the seed and print what it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--size", type=int, help="that many workstreams, in one run")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first position to print")
    parser.add_argument("--only", default="", help="a part of the lines to print")
    given = parser.parse_args()
    outcome = simulate(given.seed, size=given.size)
    out = sys.stdout
    for recorded, entry in zip(outcome.log, outcome.history, strict=True):
        text = line(recorded, entry)
        if recorded.sequence >= given.first and given.only in text:
            out.write(f"{text}\n")
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.faults.items()))
    out.write(f"seed {given.seed}: {outcome.entries} entries, {outcome.attempts} attempts, {outcome.virtual_s:.0f} s\n")
    out.write(f"faults: {faults or 'none'}\n")
    for finding in outcome.findings or ["nothing is wrong"]:
        out.write(f"{finding}\n")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
