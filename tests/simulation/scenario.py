"""What a seed stands for: runs with their workstreams, tools, options, how many processes, and what goes wrong."""

from random import Random
from typing import Any

import msgspec

from services.bundle import BundleGate, WorkstreamBundle
from services.checks import Checks
from services.events import ErrorClass, Rate
from services.gates import Gate, Gates
from services.plan import build_execution_plan
from services.profiles import ToolProfile
from services.scheduler.fleet import BreakerLimits
from services.scheduler.grants import PoolLimits, SharedLimits, TenantLimits
from services.spec import Options, Repository, RunSpec
from tests.simulation.algebra import BASE
from tests.simulation.broker import Mix
from tests.simulation.executors import Lack, Rules
from tests.simulation.schedulers import Settings
from tests.simulation.tools import TEMPERS, Plan, Sick, Temper

PAYING = 0.3
"""The part of the runs whose tools cost money."""

MENDING = 0.3
"""The part of the runs with programs that mend before FIX, or with tiers of FIX tools."""

GATED = 0.35
"""The part of the runs with gates, of the wave among them."""

LACKING = 0.25
"""The part of the seeds in which executors lack tools."""

SHARING = 0.5
CROWDED = 0.25
"""The part of the scenarios with money in which runs draw on something together."""

PROFILES = {
    "editor": ToolProfile(command="editor", args=("{files}",), fallback=("spare",)),
    "helper": ToolProfile(command="helper", args=("{prompt}",), fallback=("editor",)),
    "spare": ToolProfile(command="spare", args=("{prompt}",)),
    "ruff": ToolProfile(command="ruff", type="static-check"),
    "mypy": ToolProfile(command="mypy", type="static-check"),
    "format": ToolProfile(command="format", type="formatter"),
    "mend": ToolProfile(command="mend", type="formatter"),
    "pytest": ToolProfile(command="pytest", type="test"),
}


class Troubles(msgspec.Struct, kw_only=True):
    """What happens to processes and to the server while there are faults, as mean seconds between two of a kind; 0 never."""

    outage_s: float = 0.0
    forgets: float = 0.0
    partition_s: float = 0.0
    freeze_s: float = 0.0
    suspend_s: float = 0.0
    slow_s: float = 0.0
    scheduler_crash_s: float = 0.0
    executor_crash_s: float = 0.0
    drain_s: float = 0.0
    scribble_s: float = 0.0


class Habits(msgspec.Struct, kw_only=True):
    """What people do while they are not friendly: how likely, or mean seconds between two of a kind."""

    cancel: float = 0.0
    pause_s: float = 0.0
    fleet_pause_s: float = 0.0
    review_s: float = 20.0
    repeated: float = 0.1
    rollback: float = 0.0
    reverts: float = 0.0
    delivers: float = 0.0
    races_end: float = 0.0
    approvals: int = 2


class Scenario(msgspec.Struct, kw_only=True):
    """One run of the simulation."""

    seed: int
    specs: list[RunSpec]
    plans: list[Plan]
    submitted_s: list[float]
    tenants: dict[str, str] = {}
    """On whose behalf runs are."""
    mix: Mix = msgspec.field(default_factory=Mix)
    settings: Settings
    rules: Rules = Rules()
    troubles: Troubles = msgspec.field(default_factory=Troubles)
    habits: Habits = msgspec.field(default_factory=Habits)
    schedulers: int = 2
    executors: list[tuple[str, int]] = []
    """Pool and slots of each."""
    lacks: dict[int, Lack] = {}
    """What some of them do not have."""
    faults_end_s: float = 0.0
    ledger: bool = False
    script: list[tuple[float, str]] = []
    """What happens at which second: cancel, pause, resume, drain."""


def bundle(name: str, *depends_on: str, **rest: Any) -> WorkstreamBundle:
    """A workstream with one file of its own."""
    given: dict[str, Any] = {
        "openspec_change": "OS-1",
        "ccpm_issue": 1,
        "gate": 1,
        "files_scope": (f"{name}.py",),
        "tasks": ("do it",),
        "tool": "editor",
    }
    return WorkstreamBundle(id=name, depends_on=depends_on, **{**given, **rest})


def spec(run: str, bundles: list[WorkstreamBundle], checks: Checks, **rest: Any) -> RunSpec:
    """A run over these workstreams, planned as a submission is."""
    return RunSpec(
        run=run,
        repository=Repository(location="repo", base_commit=BASE),
        bundles=bundles,
        waves=build_execution_plan(bundles).waves,
        checks=checks,
        profiles=PROFILES,
        **rest,
    )


def scenario(seed: int, *, size: int | None = None) -> Scenario:
    """What this seed stands for; `size`: that many workstreams, and one run."""
    random = Random(seed * 2 + 1)
    runs = 2 if size is None and random.random() < 0.15 else 1
    specs, plans = [], []
    for number in range(runs):
        count = size or _size(random)
        specs.append(_spec(random, f"run-{number + 1}", count))
        plans.append(_plan(random, specs[-1]))
    _give_tiers(Random(f"tiers/{seed}"), specs)
    _give_gates(Random(f"gates/{seed}"), specs, plans)
    _give_money(Random(f"money/{seed}"), specs, plans)
    shared = _share(Random(f"shared/{seed}"), specs, plans)
    shared, tenants = _crowd(Random(f"tenants/{seed}"), shared, specs)
    calm = random.random() < 0.1
    slots = [random.randint(1, 4) for _ in range(random.randint(2, 4))]
    made = Scenario(
        seed=seed,
        specs=specs,
        plans=plans,
        submitted_s=[random.random() * 3 for _ in specs],
        tenants=tenants,
        settings=Settings(
            lease_s=random.choice([4.0, 6.0, 10.0]),
            reconcile_s=random.choice([1.0, 2.0, 3.0]),
            lease_ttl_s=random.choice([4.0, 8.0]),
            limits=BreakerLimits(
                failures=random.choice([2, 3, 5]),
                open_s=random.choice([5.0, 20.0, 60.0]),
                probe_s=random.choice([3.0, 15.0]),
            ),
            shared=shared,
            crash=0.0 if calm or random.random() < 0.6 else 0.01,
        ),
        executors=[("default", slot) for slot in slots],
        schedulers=random.choice([1, 2, 2, 2, 3]),
        faults_end_s=0.0 if calm else random.choice([30.0, 90.0, 240.0]),
        ledger=seed % 3 == 0,
        habits=_habits(random),
    )
    wishes = Random(f"wishes/{seed}")
    made.habits.reverts, made.habits.delivers = _maybe(wishes, 1.0, 0.25), _maybe(wishes, 0.2, 0.3)
    for at, definition in enumerate(made.specs):
        options = msgspec.structs.replace(
            definition.options, deliver=wishes.choice(["wave", "wave", "wave", "end", "never"])
        )
        made.specs[at] = msgspec.structs.replace(definition, options=options)
    _give_places(Random(f"places/{seed}"), made)
    if calm:
        return made
    made.mix = Mix(
        lose_request=_maybe(random, 0.02),
        lose_answer=_maybe(random, 0.03),
        late_request=_maybe(random, 0.02),
        lose_command=_maybe(random, 0.1),
        double_command=_maybe(random, 0.1),
        reorder=random.random() < 0.5,
        lose_beat=_maybe(random, 0.1),
        everybody_leads=_maybe(random, 0.5, 0.3),
        codec=seed % 10 == 0,
    )
    made.rules = Rules(crash=_maybe(random, 0.02), stuck=_maybe(random, 0.01))
    made.troubles = Troubles(
        outage_s=_maybe(random, 60.0, 0.25),
        forgets=0.5,
        partition_s=_maybe(random, 40.0, 0.3),
        freeze_s=_maybe(random, 40.0, 0.3),
        suspend_s=_maybe(random, 60.0, 0.15),
        slow_s=_maybe(random, 40.0, 0.25),
        scheduler_crash_s=_maybe(random, 40.0, 0.3),
        executor_crash_s=_maybe(random, 30.0, 0.3),
        drain_s=_maybe(random, 25.0, 0.4),
        scribble_s=_maybe(random, 30.0, 0.1),
    )
    return made


def _give_tiers(random: Random, specs: list[RunSpec]) -> None:
    """Some repositories have programs that mend what a machine can, and more than one tool for what they cannot."""
    for at, definition in enumerate(specs):
        if random.random() < MENDING:
            checks = msgspec.structs.replace(
                definition.checks,
                autofix=random.choice([(), ("format",), ("format", "mend")]),
                fix_tiers=random.choice([(), ("helper",), ("helper", "spare")]),
            )
            specs[at] = msgspec.structs.replace(definition, checks=checks)


def _give_gates(random: Random, specs: list[RunSpec], plans: list[Plan]) -> None:
    """Some runs have gates that judge what a wave has merged, and work that these refuse."""
    for at, definition in enumerate(specs):
        if random.random() >= GATED:
            continue
        asking = random.choice([0.3, 1.0])
        gates = (BundleGate(type="GATE_INTEGRATION", required=random.random() < 0.9), BundleGate(type="GATE_UNIT"))
        bundles = [
            msgspec.structs.replace(one, test_gates=gates[: random.randint(1, 2)]) if random.random() < asking else one
            for one in definition.bundles
        ]
        means: Gates = {
            "GATE_INTEGRATION": Gate(tool="integration", wave_boundary=True),
            "GATE_UNIT": Gate(tool="unit", wave_boundary=random.random() < 0.5),
        }
        specs[at] = msgspec.structs.replace(definition, bundles=bundles, gates=means)
        names = [one.id for one in bundles]
        plans[at].discords = {
            frozenset(random.sample(names, min(len(names), random.choice([1, 2, 2]))))
            for _ in range(random.randint(0, 2))
        }
        plans[at].red_before = random.random() < 0.05


def _give_places(random: Random, made: Scenario) -> None:
    """Some executors lack tools, for a while or for good; some runs may use another pool, which has them all."""
    if random.random() >= LACKING:
        return
    made.lacks = {
        number: Lack(
            tools=tuple(random.sample(["editor", "helper", "spare", "mend"], random.randint(1, 3))),
            until_s=random.choice([10.0, 60.0, 10.0**6]),
        )
        for number in range(len(made.executors))
        if random.random() < 0.7
    }
    if random.random() < 0.5:
        made.executors.append(("other", random.randint(1, 3)))
        for at, definition in enumerate(made.specs):
            options = msgspec.structs.replace(definition.options, other_pools=["nowhere", "other"])
            made.specs[at] = msgspec.structs.replace(definition, options=options)


def _give_money(random: Random, specs: list[RunSpec], plans: list[Plan]) -> None:
    """Some runs pay for their tools, under budgets that hold or do not hold all of their work."""
    for at, definition in enumerate(specs):
        if random.random() >= PAYING:
            continue
        profiles = dict(definition.profiles)
        for tool, cap_usd, flag in (("editor", 0.3, True), ("helper", 0.2, False), ("spare", 0.5, True)):
            held = ("--max", "{max_cost_usd}") if flag else ()
            known = profiles[tool]
            profiles[tool] = msgspec.structs.replace(known, type="ai", args=(*known.args, *held), cost_cap_usd=cap_usd)
        budget_nano = random.choice([None, 0, 3 * 10**8, 10**9, 4 * 10**9, 20 * 10**9])
        mode = random.choice(["halt", "halt", "halt", "warn"])
        bundles = [
            msgspec.structs.replace(one, max_cost_usd=random.choice([0.3, 1.0])) if random.random() < 0.1 else one
            for one in definition.bundles
        ]
        options = msgspec.structs.replace(definition.options, budget_nano=budget_nano, budget_mode=mode)
        specs[at] = msgspec.structs.replace(definition, profiles=profiles, options=options, bundles=bundles)
        plans[at].purse = random.randint(1, 2**31)


def _share(random: Random, specs: list[RunSpec], plans: list[Plan]) -> SharedLimits:
    """What the runs of some scenarios with money draw on together: budgets of a day, rates of providers, or both."""
    if not any(plan.purse for plan in plans) or random.random() >= SHARING:
        return SharedLimits()
    for at, definition in enumerate(specs):
        profiles = {
            name: msgspec.structs.replace(one, provider="acme", model="big")
            if one.type == "ai" and name != "spare"
            else one
            for name, one in definition.profiles.items()
        }
        specs[at] = msgspec.structs.replace(definition, profiles=profiles)
    rates = {
        "acme": Rate(attempts_per_min=random.choice([6, 20, 60]), burst=random.choice([1, 3])),
        "acme/big": Rate(attempts_per_min=random.choice([10, 30]), burst=2),
        "spare": Rate(attempts_per_min=10),
    }
    named = random.sample(sorted(rates), random.choice([0, 1, 1, 2]))
    return SharedLimits(
        fleet_usd_per_day=random.choice([None, 0.0, 0.7, 1.0, 2.0, 3.0, 10.0]),
        tool_usd_per_day=random.choice([{}, {}, {"editor": 1.0}, {"spare": 0.6, "helper": 0.4}]),
        mode=random.choice(["halt", "halt", "halt", "warn"]),
        rates={name: rates[name] for name in named},
        grant_s=random.choice([3.0, 10.0]),
    )


def _crowd(random: Random, shared: SharedLimits, specs: list[RunSpec]) -> tuple[SharedLimits, dict[str, str]]:
    """Slots of pools and tenants, in some scenarios."""
    if random.random() >= CROWDED:
        return shared, {}
    shares = {
        name: TenantLimits(weight=random.choice([1, 2, 5]), concurrency=random.choice([0, 0, 1, 2, 4]))
        for name in random.sample(["*", "a", "b"], random.choice([0, 1, 2]))
    }
    pools = {random.choice(["*", "default"]): PoolLimits(slots=random.choice([0, 1, 2, 3, 6]))}
    limits = msgspec.structs.replace(shared, pools=pools, tenants=shares, grant_s=random.choice([3.0, 10.0]))
    return limits, {definition.run: random.choice(["", "a", "b"]) for definition in specs}


def _maybe(random: Random, value: float, probability: float = 0.4) -> float:
    return value if random.random() < probability else 0.0


def _size(random: Random) -> int:
    return random.choice([1, 3, 4, 5, 5, 6, 6, 8, 8, 12, 20])


def _habits(random: Random) -> Habits:
    return Habits(
        cancel=_maybe(random, 1.0, 0.1),
        pause_s=_maybe(random, 40.0, 0.25),
        fleet_pause_s=_maybe(random, 40.0, 0.25),
        review_s=random.choice([5.0, 20.0, 60.0]),
        rollback=_maybe(random, 1.0, 0.2),
        races_end=_maybe(random, 0.7, 0.25),
        approvals=random.randint(0, 3),
    )


def _spec(random: Random, run: str, count: int) -> RunSpec:
    bundles: list[WorkstreamBundle] = []
    density = random.choice([0.0, 0.15, 0.4, 0.8])
    grouped = random.random() < 0.3
    for number in range(count):
        earlier = [one.id for one in bundles[-6:]]
        depends = [name for name in earlier if random.random() < density][:3]
        rest: dict[str, Any] = {"tool": random.choice(["editor", "editor", "helper"])}
        if grouped and random.random() < 0.3:
            rest["conflict_group"] = random.choice(["db", "ui"])
        if random.random() < 0.04:
            rest["parallel_ok"] = False
        if grouped and bundles and random.random() < 0.15:
            rest["files_scope"] = (f"ws-{number:02}.py", random.choice(bundles).files_scope[0])
        if random.random() < 0.3:
            rest["compensation_actions"] = ("cmd:undo it", "branch:delete")[: random.randint(1, 2)]
        if random.random() < 0.2:
            rest["acceptance_tests"] = ("make accept",)
        if random.random() < 0.1:
            rest["circuit_breaker"] = {"max_attempts": random.randint(1, 3)}
        bundles.append(bundle(f"ws-{number:02}", *depends, **rest))
    static = random.choice([("ruff",), ("ruff",), ("ruff", "mypy"), ()])
    stepwise = random.random() < 0.03
    options = Options(
        max_workers=random.choice([1, 2, 4, 4, 8]),
        wave_delay_s=random.choice([0.0, 0.0, 0.0, 5.0]),
        fail_fast=random.random() < 0.08,
        dry_run=random.random() < 0.02,
        timeout_s=random.choice([0.0, 0.0, 0.0, 0.0, 20.0, 90.0]),
        stepwise=stepwise,
        queue_timeout_s=random.choice([60.0, 900.0]),
        losses_max=random.choice([0, 1, 2, 2]),
        scheduling=random.choice(["barrier", "eager"]),
        review=random.choice(["wait", "wait", "fail"]),
        paused=random.random() < 0.05,
        pool="default" if random.random() < 0.97 else "nobody",
    )
    recovery = {"retries": random.choice([0, 1, 3]), "reductions": random.choice([0, 1])}
    timeouts = {"edit": 30.0, "static": 20.0, "runtime": 20.0, "fix": 30.0, "idle": random.choice([0.0, 12.0])}
    breaker = {
        "max_fix_iterations": {"static": random.randint(1, 3), "runtime": random.randint(0, 2)},
        "timeouts": timeouts,
    }
    if random.random() < 0.3:
        breaker["min_oscillation_repeats"] = random.choice([0, 3])
    return spec(
        run,
        bundles,
        Checks(static_tools=static, runtime_tool=random.choice(["pytest", "pytest", None]) if static else "pytest"),
        options=options,
        recovery=recovery,
        breaker=breaker,
    )


def _plan(random: Random, definition: RunSpec) -> Plan:
    trouble = random.choice([0.1, 0.3, 0.7])
    tempers: dict[str, Temper] = {}
    for one in definition.bundles:
        if random.random() < trouble:
            tempers[one.id] = random.choices(list(TEMPERS), list(TEMPERS.values()))[0]
    sick = []
    if random.random() < 0.25:
        start_s = random.random() * 30
        tool = random.choice(["editor", "helper"])
        error_class: ErrorClass = random.choice(["rate_limited", "auth", "tool_failed", "tool_missing"])
        sick.append(Sick(tool, start_s, start_s + random.choice([10.0, 60.0, 200.0]), error_class))
        if random.random() < 0.4:
            sick.append(Sick("spare", start_s, start_s + 60.0, "rate_limited"))
    names = [one.id for one in definition.bundles]
    quarrels = set()
    if len(names) > 2 and random.random() < 0.15:
        quarrels.add(frozenset(random.sample(names, 2)))
    return Plan(
        tempers=tempers,
        sick=sick,
        flaky=_maybe(random, 0.05, 0.15),
        check_errors=_maybe(random, 0.05, 0.15),
        conflicts={name: random.choice([1, 2, 99]) for name in names if random.random() < 0.03},
        quarrels=quarrels,
        refuses_delivery=random.random() < 0.05,
        compensation_fails=random.choice([0, 0, 1, 9]),
        wall_s=random.choice([1.0, 3.0, 8.0]),
    )
