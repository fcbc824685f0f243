"""A seed, from its first request to the end of everything, and what is found wrong with the history it leaves."""

from collections import Counter
from typing import Any

import msgspec

from services.scheduler.fleet import FLEET
from services.wire import Entry, Recorded, request_subject, run_subject
from tests.simulation.broker import Broker
from tests.simulation.checks import Checker
from tests.simulation.clockwork import SECOND_NS, START_NS, Clockwork, Process
from tests.simulation.executors import Executor
from tests.simulation.ledgers import Ledger
from tests.simulation.people import People
from tests.simulation.scenario import Scenario, scenario
from tests.simulation.schedulers import Scheduler, World
from tests.simulation.tools import Tools

HOURS_MAX = 48.0
"""Virtual hours after the faults within which every run must have ended."""

ENTRIES_MAX = 12_000
"""Entries of one history: the largest runs, with every retry there is, stay far below."""

IDLE_S = 600.0
"""Virtual seconds within which executors are done once every run is."""

SILENCE_S = 2 * 3600.0
"""Virtual seconds without an entry after which a run counts as hung."""


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a seed."""

    seed: int
    findings: list[str]
    faults: Counter[str]
    attempts: int
    entries: int
    virtual_s: float
    stats: Counter[str]
    log: list[Recorded]
    history: list[Entry]
    states: dict[str, dict[str, str]]


def simulate(seed: int, *, size: int | None = None) -> Outcome:
    """Play a seed to its end and judge it."""
    return play(scenario(seed, size=size))


class Simulation:
    """Everything that runs in a scenario."""

    def __init__(self, made: Scenario) -> None:
        self.made = made
        self.clockwork = Clockwork(made.seed)
        self.broker = Broker(self.clockwork, made.mix, lease_ttl_s=made.settings.lease_ttl_s)
        self.world = World()
        self.tools = Tools(self.clockwork.random, START_NS)
        for definition, plan in zip(made.specs, made.plans, strict=True):
            self.tools.plans[definition.run] = plan
        self.people = People(self.clockwork, self.broker, self.world, made)
        self.schedulers = [
            Scheduler(self.clockwork, self.broker, self.world, made.settings, f"s{number + 1}")
            for number in range(made.schedulers)
        ]
        for number, (pool, slots) in enumerate(made.executors):
            executor = Executor(
                self.clockwork,
                self.broker,
                self.tools,
                made.rules,
                f"e{number + 1}",
                pool=pool,
                slots=slots,
                lacks=made.lacks.get(number),
            )
            self.world.executors[executor.name] = executor
        self.checker = Checker(self.world, self.tools.repository, made)
        self.ledger = Ledger(self.clockwork, self.broker.log) if made.ledger else None
        self.broker.stored = self._stored
        for process in (*self.schedulers, *self.world.executors.values()):
            self.clockwork.after(self.clockwork.random.random(), process.start)
        self._start_troubles()
        for at_s, what in made.script:
            self.clockwork.after(at_s, self._scripted, what)
        if made.faults_end_s:
            self.clockwork.after(made.faults_end_s, self._cease)
        else:
            self._cease()

    def _stored(self, recorded: Recorded, entry: Entry) -> None:
        self.people.read(recorded, entry)
        for event in entry.events:
            spec = getattr(event, "spec", None)
            if spec is not None and entry.run in self.tools.plans:
                self.tools.define(entry.run, self.world.specs[spec.digest])

    def _scripted(self, what: str) -> None:
        match what:
            case "drain":
                for executor in self.world.executors.values():
                    if executor.work:
                        executor.drain(0.0)
            case _:
                self.people.scripted(what)

    # What goes wrong

    def _start_troubles(self) -> None:
        troubles = self.made.troubles
        for mean_s, trouble in (
            (troubles.outage_s, self._outage),
            (troubles.partition_s, self._partition),
            (troubles.freeze_s, self._freeze),
            (troubles.suspend_s, self._suspend),
            (troubles.slow_s, self._slow),
            (troubles.scheduler_crash_s, self._crash_scheduler),
            (troubles.executor_crash_s, self._crash_executor),
            (troubles.drain_s, self._drain),
            (troubles.scribble_s, self._scribble),
        ):
            if mean_s:
                self.clockwork.after(self.clockwork.random.expovariate(1 / mean_s), self._trouble, mean_s, trouble)

    def _trouble(self, mean_s: float, trouble: Any) -> None:
        if self.clockwork.faulty:
            trouble()
            self.clockwork.after(self.clockwork.random.expovariate(1 / mean_s), self._trouble, mean_s, trouble)

    def _some_s(self) -> float:
        """How long a trouble lasts: mostly a moment, sometimes longer than any lease."""
        return self.clockwork.random.choice([0.3, 2.0, 5.0, 15.0, 40.0]) * (0.5 + self.clockwork.random.random())

    def _outage(self) -> None:
        if self.broker.down:
            return
        forget = self.clockwork.random.random() < self.made.troubles.forgets
        self.clockwork.faults["server restarted, memory lost" if forget else "server away"] += 1
        self.broker.stop(forget=forget)
        for process in self._processes():
            process.sever()
        self.clockwork.after(self._some_s(), self._outage_ends)

    def _outage_ends(self) -> None:
        self.broker.start()
        for process in self._processes():
            self.clockwork.after(self.clockwork.random.random() * 2, process.join)

    def _processes(self) -> list[Process]:
        return [*self.schedulers, *self.world.executors.values()]

    def _any(self) -> Process:
        return self.clockwork.random.choice(self._processes())

    def _partition(self) -> None:
        self.clockwork.faults["connection cut"] += 1
        self._any().cut(self._some_s())

    def _freeze(self) -> None:
        process = self._any()
        if process.alive and not process.frozen:
            self.clockwork.faults[f"{type(process).__name__.lower()} stopped and continued"] += 1
            process.freeze(self._some_s(), suspended=False)

    def _suspend(self) -> None:
        process = self.clockwork.random.choice(self.schedulers)
        if process.alive and not process.frozen:
            self.clockwork.faults["scheduler's host suspended"] += 1
            process.freeze(self._some_s(), suspended=True)

    def _slow(self) -> None:
        self.clockwork.faults["slow consumer"] += 1
        self.clockwork.random.choice(self.schedulers).slowed(self._some_s())

    def _crash_scheduler(self) -> None:
        process = self.clockwork.random.choice(self.schedulers)
        if process.alive:
            self.clockwork.faults["scheduler crash: at any time"] += 1
            process.die()

    def _crash_executor(self) -> None:
        process = self.clockwork.random.choice(list(self.world.executors.values()))
        if process.alive:
            process.die("executor crash: at any time")

    def _drain(self) -> None:
        process = self.clockwork.random.choice(list(self.world.executors.values()))
        process.drain(self.clockwork.random.choice([0.0, 2.0, 20.0]))

    def _scribble(self) -> None:
        name = self.clockwork.random.choice([*self.people.runs, FLEET])
        subject = self.clockwork.random.choice([run_subject(name), request_subject(name)])
        if not self.broker.down and (name == FLEET or self.broker.last(run_subject(name)) is not None):
            self.clockwork.faults["unreadable entry"] += 1
            self.broker.scribble(subject, name)

    def _cease(self) -> None:
        """From here on nothing breaks any more, but for what the tools themselves do."""
        self.clockwork.faulty = False
        self.checker.friendly_from_ns = self.clockwork.now_ns + 60 * SECOND_NS

    # Playing

    def run(self) -> Outcome:
        clockwork, log = self.clockwork, self.broker.log
        calm_until = done_ns = 0
        while not self.world.findings:
            clockwork.play(200, self.world.findings)
            if len(log) > ENTRIES_MAX:
                self.world.findings.append(f"I9: {len(log)} entries, and no end: {self._state()}")
            if clockwork.faulty:
                continue
            if self.people.satisfied and not any(one.work for one in self.world.executors.values()):
                if calm_until == 0:
                    calm_until = clockwork.now_ns + 5 * SECOND_NS
                elif clockwork.now_ns > calm_until:
                    break
                continue
            calm_until = 0
            if self.people.satisfied:
                done_ns = done_ns or clockwork.now_ns
                if clockwork.now_ns - done_ns > IDLE_S * SECOND_NS:
                    busy = [f"{one.name} {list(one.work)}" for one in self.world.executors.values() if one.work]
                    self.world.findings.append(
                        f"I8: every run is over, and for {IDLE_S:g} s executors still work: {busy}"
                    )
            silent_ns = clockwork.now_ns - max(log[-1].time_ns, self.checker.friendly_from_ns)
            if silent_ns > SILENCE_S * SECOND_NS:
                self.world.findings.append(f"I8: nothing has happened for {silent_ns / 1e9:.0f} s: {self._state()}")
            if clockwork.now_ns - self.checker.friendly_from_ns > HOURS_MAX * 3600 * SECOND_NS:
                self.world.findings.append(f"I8: not over {HOURS_MAX:g} h after the last fault: {self._state()}")
        return self._outcome()

    def part(self) -> None:
        """Nobody knows anybody any more: all of it is freed at once, and no collector has to find out that nothing needs it."""
        self.clockwork.stop()
        self.broker.part()
        self.world.executors.clear()

    def _state(self) -> str:
        said = []
        for name, seen in self.people.runs.items():
            said.append(
                f"{name} {seen.status} unanswered={sorted(seen.asked - seen.answered)} rolling={seen.rolling} "
                f"{dict(Counter(seen.states.values()))}"
            )
        return "; ".join(said)

    def _outcome(self) -> Outcome:
        findings = list(self.world.findings)
        findings += self.checker.judge(self.broker.log, self.broker.entries, self.people, ended=not findings)
        if self.ledger is not None and not findings:
            findings += self.ledger.finish()
            for name, seen in self.people.runs.items():
                states = self.ledger.states(name)
                if any(states.get(one, state) != state for one, state in seen.states.items()):
                    findings.append(f"I7: the ledger's states of {name} are {states}, the log says {seen.states}")
        return Outcome(
            seed=self.made.seed,
            findings=findings,
            faults=self.clockwork.faults,
            attempts=self.checker.attempts,
            entries=len(self.broker.log),
            virtual_s=(self.clockwork.now_ns - START_NS) / SECOND_NS,
            stats=self.checker.stats,
            log=self.broker.log,
            history=self.broker.entries,
            states={name: dict(seen.states) for name, seen in self.people.runs.items()},
        )


def play(made: Scenario) -> Outcome:
    """Play a scenario to its end and judge it."""
    simulation = Simulation(made)
    outcome = simulation.run()
    simulation.part()
    return outcome
