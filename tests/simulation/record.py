"""Record the history of a story for ever: `python -m tests.simulation.record [NAME …]`. A history that exists is never written again.

A file holds one JSON value a line: first what the fold of the history must come to, and the definitions it names; then
every entry with its place and time. tests/scheduler/histories/test_histories.py folds them with every later version.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from services.checks import Checks
from services.scheduler import fleet as fleets
from services.scheduler.fleet import FLEET, BreakerLimits, Fleet
from services.scheduler.state import Fact, RunState, evolve
from services.spec import Options, RunSpec
from services.wire import Entry, Place, parse_subject
from tests.simulation.scenario import Habits, Scenario, bundle, spec
from tests.simulation.schedulers import Settings
from tests.simulation.simulate import Outcome, Simulation
from tests.simulation.tools import Plan, Sick

FOLDER = Path(__file__).resolve().parents[1] / "scheduler" / "histories"
SEEDS = 200


class Recorded(msgspec.Struct, frozen=True):
    """One entry of a history, with its place and the digest of the definition that it names."""

    sequence: int
    subject: str
    time_ns: int
    entry: Entry


class Expected(msgspec.Struct, frozen=True):
    """What a run comes to."""

    status: str
    reason: str
    states: dict[str, str]
    reasons: dict[str, str]
    attempts: dict[str, int]
    head: str
    delivered: str
    answers: dict[str, str]


class Head(msgspec.Struct, frozen=True):
    """The first line of a file."""

    story: str
    definitions: dict[str, RunSpec]
    runs: dict[str, Expected]
    breakers: dict[str, str]
    pauses: list[str]


def fold(records: list[Recorded], definitions: dict[str, RunSpec], place_of: Callable[[str], Place]) -> Head:
    """What a history comes to, by the scheduler's own fold."""
    runs: dict[str, RunState] = {}
    fleet = Fleet()
    for one in records:
        place = place_of(one.subject)
        run = runs.get(place.run)
        attempt = run.open.get((place.workstream, place.attempt)) if run is not None else None
        scheduled = attempt.scheduled if attempt is not None and place.kind == "attempt" else None
        fleets.evolve(fleet, one.sequence, one.time_ns, place, one.entry, scheduled)
        if place.run == FLEET:
            continue
        named = [getattr(event, "spec", None) for event in one.entry.events]
        definition = next((definitions[found.digest] for found in named if found is not None), None)
        runs[place.run] = evolve(run, Fact(one.sequence, one.time_ns, place, one.entry, definition))
    return Head(
        story="",
        definitions=definitions,
        runs={name: _expected(run) for name, run in runs.items()},
        breakers={tool: breaker.state for tool, breaker in fleet.breakers.items()},
        pauses=sorted(f"{scope} {name}".strip() for scope, name in fleet.paused),
    )


def _expected(run: RunState) -> Expected:
    line = run.line
    return Expected(
        status=run.status,
        reason=run.reason,
        states={name: one.state for name, one in run.workstreams.items()},
        reasons={name: one.reason for name, one in run.workstreams.items()},
        attempts={name: one.attempts for name, one in run.workstreams.items()}
        | {"_line": line.attempts if line else 0},
        head=line.head.commit if line else "",
        delivered=own.commit if line is not None and (own := line.deliveries.get("")) is not None else "",
        answers={request: answer.answer for request, answer in run.answers.items()},
    )


def read(path: Path) -> tuple[Head, list[Recorded]]:
    """A history from its file."""
    first, *rest = path.read_bytes().splitlines()
    return msgspec.json.decode(first, type=Head), [msgspec.json.decode(line, type=Recorded) for line in rest]


# The stories


def _scenario(seed: int, plan: Plan, *, habits: Habits | None = None, script: Any = (), **rest: Any) -> Scenario:
    bundles = rest.pop("bundles", None) or [bundle("ws-a"), bundle("ws-b"), bundle("ws-c", "ws-a", "ws-b")]
    limits = BreakerLimits(failures=2, open_s=20.0, probe_s=15.0)
    breaker = rest.pop("breaker", {})
    return Scenario(
        seed=seed,
        specs=[
            spec(
                "golden",
                bundles,
                Checks(static_tools=("ruff",), runtime_tool="pytest"),
                options=Options(**{"max_workers": 2, "timeout_s": 0.0, **rest}),
                breaker={
                    "timeouts": {"edit": 30.0, "static": 20.0, "runtime": 20.0, "fix": 30.0, "idle": 0.0},
                    **breaker,
                },
            )
        ],
        plans=[plan],
        submitted_s=[1.5],
        settings=Settings(lease_s=6.0, reconcile_s=1.0, lease_ttl_s=4.0, limits=limits),
        habits=habits or Habits(repeated=0.0, review_s=5.0),
        schedulers=1,
        executors=[("default", 2), ("default", 2)],
        script=list(script),
    )


Story = tuple[Callable[[int], Scenario], Callable[[Outcome], bool]]


def _tells(*wanted: str) -> Callable[[Outcome], bool]:
    return lambda outcome: all(outcome.stats[one] or outcome.faults[one] for one in wanted)


STORIES: dict[str, Story] = {
    "happy_path": (lambda seed: _scenario(seed, Plan()), _tells("run completed", "step gate")),
    "eager": (lambda seed: _scenario(seed, Plan(), scheduling="eager"), _tells("run completed")),
    "fix_loop": (
        lambda seed: _scenario(seed, Plan(tempers={"ws-a": "both"})),
        _tells("run completed", "step fix"),
    ),
    "oscillation": (
        lambda seed: _scenario(seed, Plan(tempers={"ws-a": "oscillating"}), review="fail"),
        _tells("→ failed", "→ blocked", "step fix"),
    ),
    "loss": (
        lambda seed: _scenario(seed, Plan(tempers={"ws-b": "kills_once"})),
        _tells("lost", "run completed"),
    ),
    "cancel": (
        lambda seed: _scenario(seed, Plan(), script=[(8.0, "cancel")]),
        _tells("run cancelled", "closed: cancelled"),
    ),
    "review_adjust": (
        lambda seed: _scenario(
            seed, Plan(tempers={"ws-a": "fixable_static"}), breaker={"max_fix_iterations": {"static": 0, "runtime": 0}}
        ),
        _tells("amended", "run completed", "step fix"),
    ),
    "pause": (
        lambda seed: _scenario(seed, Plan(), script=[(6.0, "pause"), (6.5, "pause")]),
        _tells("run paused request", "run completed"),
    ),
    "breaker_probe": (
        lambda seed: _scenario(
            seed,
            Plan(sick=[Sick("editor", 0.0, 15.0, "rate_limited"), Sick("spare", 0.0, 15.0, "rate_limited")]),
            bundles=[bundle(f"ws-{name}") for name in "abcd"],
            max_workers=4,
        ),
        _tells("breaker open", "probes", "breaker closed", "run completed"),
    ),
    "rollback": (
        lambda seed: _scenario(
            seed,
            Plan(compensation_fails=1),
            habits=Habits(rollback=1.0, repeated=0.0),
            bundles=[bundle("ws-a", compensation_actions=("cmd:undo it", "branch:delete")), bundle("ws-b")],
        ),
        _tells("rollbacks", "→ compensated"),
    ),
    "hand_back": (
        lambda seed: _scenario(seed, Plan(wall_s=8.0), script=[(5.0, "drain")]),
        _tells("closed: handed_back", "run completed"),
    ),
}


def record(name: str) -> Path | None:
    """Play a story and write its history; None when it is there already. Raises ValueError when no seed tells it."""
    path = FOLDER / f"{name}.jsonl"
    if path.exists():
        return None
    made, tells = STORIES[name]
    for seed in range(SEEDS):
        simulation = Simulation(made(seed))
        outcome = simulation.run()
        if outcome.findings or not tells(outcome):
            continue
        records = [
            Recorded(one.sequence, one.subject, one.time_ns, entry)
            for one, entry in zip(outcome.log, outcome.history, strict=True)
        ]
        head = msgspec.structs.replace(fold(records, simulation.world.specs, parse_subject), story=name)
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (head, *records)))
        return path
    raise ValueError(f"no seed below {SEEDS} tells the story {name}")


def main() -> int:
    """Record what is asked for, by default every story that is not there yet."""
    for name in sys.argv[1:] or sorted(STORIES):
        path = record(name)
        sys.stdout.write(f"{name}: {'is there already, and stays as it is' if path is None else path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
