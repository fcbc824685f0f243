"""Tenants: what each may have of what runs share, and that nobody waits for ever because others want more.

Time is moved by the tests: every attempt lasts as long as its tenant's do, and slots are counted while it lasts.
"""

import heapq
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness import bundle
from test_grants import SECOND_NS, Together, budget, cents

from services.config import ConfigError, load
from services.events import (
    LINE,
    AttemptGranted,
    BudgetChanged,
    BudgetReached,
    ExecutorTransitioned,
    RequestAnswered,
    StepDelayed,
)
from services.profiles import ToolProfile
from services.scheduler.config import PREFIX, SchedulerConfig
from services.scheduler.decide import asking
from services.scheduler.grants import (
    GRANTS_MAX,
    PoolLimits,
    SharedLimits,
    TenantLimits,
    slots_in,
    slots_standing,
    standing,
)


def limits(slots=0, tenants=None, **rest):
    return SharedLimits(
        pools={"*": PoolLimits(slots=slots)},
        tenants={name: TenantLimits(**has) for name, has in (tenants or {}).items()},
        **rest,
    )


class Timed(Together):
    """Runs of several tenants whose attempts last a while."""

    def __init__(self, shared, *, lasts=None, free=True):
        profiles = {"editor": ToolProfile(command="edit", type="codemod")} if free else None
        super().__init__(shared, runs=(), profiles=profiles)
        self.lasts = lasts or {}
        self.ends = []
        self.seen = set()
        self.begun = {}
        self.held = Counter()
        """Slot-seconds by tenant."""

    def ask(self, tenant, runs=1, workstreams=10, workers=100):
        for _ in range(runs):
            name = f"{tenant or 'nobody'}-{len(self.specs)}"
            self.submit(name, [bundle(f"ws-{n}") for n in range(workstreams)], tenant=tenant, max_workers=workers)
        self.settle()

    def tenant(self, run):
        return self.runs[run].accepted.tenant

    def using(self, *, line=False):
        """Open attempts by tenant."""
        return Counter(
            self.tenant(name) for name, run in self.runs.items() for key in run.open if line or key[0] != LINE
        )

    def until(self, seconds, check=lambda _: None):
        """On for so long, everything that ends meanwhile ended."""
        end_ns = self.now_ns + int(seconds * SECOND_NS)
        while True:
            for name, run in self.runs.items():
                for key in run.open:
                    if (name, *key) not in self.seen:
                        self.seen.add((name, *key))
                        self.begun.setdefault(self.tenant(name), self.now_ns)
                        lasts_s = self.lasts.get(self.tenant(name), 10) if key[0] != LINE else 0.01
                        lasts_ns = int(lasts_s * SECOND_NS)
                        heapq.heappush(self.ends, (self.now_ns + lasts_ns, name, *key))
            check(self)
            if not self.ends or self.ends[0][0] > end_ns:
                self._to(end_ns)
                return self
            at_ns, *which = heapq.heappop(self.ends)
            self._to(at_ns)
            self.close(*which)
            self.settle()

    def _to(self, at_ns):
        passed_s = max(at_ns - self.now_ns, 0) / SECOND_NS
        for tenant, slots in self.using().items():
            self.held[tenant] += slots * passed_s
        self.now_ns = max(self.now_ns, at_ns)


def test_a_tenant_that_comes_late_gets_its_part_as_attempts_of_others_end():
    """Ten slots, all taken by one who wants a thousand; the other asks for twenty and has half of the slots 10 s later."""
    both = Timed(limits(10))
    both.ask("greedy", runs=10, workstreams=100)
    both.until(5)
    assert both.using() == {"greedy": 10}
    both.ask("modest", workstreams=20)
    came_ns = both.now_ns
    both.until(6)
    assert both.using() == {"greedy": 5, "modest": 5}
    assert both.begun["modest"] - came_ns < 6 * SECOND_NS
    both.until(60)
    assert all(run.status == "completed" for name, run in both.runs.items() if name.startswith("modest"))


def test_slots_go_by_weight_whatever_was_asked_for_and_however_long_attempts_last():
    """Twelve slots and weights of 3, 2 and 1: they have six, four and two, whose attempts last 4 s, 30 s and 11 s."""
    three = Timed(
        limits(12, {"a": {"weight": 3}, "b": {"weight": 2}}), lasts={"a": 4, "b": 30, "c": 11}
    )  # c is one of those not named
    for tenant, runs, workstreams in (("a", 1, 300), ("b", 2, 20), ("c", 5, 12)):
        three.ask(tenant, runs=runs, workstreams=workstreams)
    three.until(60)
    assert three.using() == {"a": 6, "b": 4, "c": 2}
    three.held.clear()
    three.until(90)
    assert three.held.total() == pytest.approx(12 * 90, rel=0.02)
    assert [three.held[tenant] / 90 for tenant in "abc"] == pytest.approx([6, 4, 2], rel=0.05)


def test_within_a_tenant_its_runs_take_turns():
    one = Timed(limits(3), free=True)
    one.ask("a", runs=3, workstreams=20)
    one.ask("b", runs=1, workstreams=20)
    one.until(300)
    begun = Counter(grant.run for grant in one.of(AttemptGranted)[:60])
    of_a = [begun[name] for name in one.runs if name.startswith("a-")]
    assert max(of_a) - min(of_a) <= 2


def test_a_tenant_keeps_to_its_concurrency_in_all_pools_and_others_do_not_wait_for_it():
    two = Timed(limits(10, {"*": {"concurrency": 3}, "big": {}}))
    two.ask("small", runs=2, workstreams=20)
    two.ask("big", workstreams=120)
    two.until(60, lambda now: now.using()["small"] <= 3 or pytest.fail(f"{now.using()}"))
    [waits] = {event.reason for event in two.of(StepDelayed) if "small" in event.reason}
    assert "a slot of tenant small" in waits
    assert two.held["big"] > two.held["small"]


def test_runs_of_nobody_are_one_tenant():
    both = Timed(limits(4))
    both.ask("", runs=6, workstreams=20)
    both.ask("a", workstreams=20)
    both.until(25)
    assert both.using() == {"": 2, "a": 2}


def test_without_limits_on_slots_nothing_is_asked():
    both = Timed(SharedLimits())
    both.ask("a", workstreams=3)
    both.until(100)
    assert both.of(AttemptGranted) == both.of(StepDelayed) == []
    assert both.fleet.shared.using == {}


def executors(runs, *slots):
    for n, count in enumerate(slots):
        moved = ExecutorTransitioned(
            executor=f"e{n}", boot="b", pool="default", slots=count, from_state="spawning", to_state="idle"
        )
        runs.write("swell.event.fleet.run", moved)


def test_slots_may_be_as_many_as_the_executors_carry():
    both = Timed(limits(0))
    both.ask("a", workstreams=40)
    assert both.using() == {"a": 1}  # somebody has to be asked for before there is an executor
    executors(both, 4, 4)
    both.settle()
    assert both.using() == {"a": 10}
    assert [(one.used, one.pool_slots) for one in slots_standing(both.fleet.shared, {"default": 8})] == [(10, 10)]
    assert slots_in(both.fleet.shared.limits, "default", {"default": 8}) == 10


def test_what_is_given_back_is_free_again():
    """Money, slots and counts of an attempt that was granted and not scheduled in time, or whose run has ended."""
    both = Timed(limits(4, fleet_usd_per_day=100.0), free=False)
    both.ask("a", workstreams=10)
    assert sum(both.fleet.shared.using.values()) == 4
    both.until(3000)
    assert all(run.finished for run in both.runs.values())
    assert both.fleet.shared.using == {}
    assert both.fleet.shared.tenants == {}
    assert both.fleet.shared.opened == {}


# Money of a tenant


def spent(runs, tenant):
    [found] = [one for one in standing(runs.fleet.shared, runs.now_ns) if one.tenant == tenant]
    return found.spent_nano, found.budget.limit_nano if found.budget is not None else None


@pytest.mark.parametrize("named", ["a", "*"])
def test_a_tenant_keeps_to_its_budget_of_the_day_and_others_go_on(named):
    both = Timed(SharedLimits(tenants={named: TenantLimits(usd_per_day=1.0)}), free=False)
    both.ask("a", runs=2, workstreams=4)
    both.ask("" if named == "*" else "b", workstreams=3)
    both.until(60)
    assert [run.status for name, run in both.runs.items() if not name.startswith("a-")] == ["completed"]
    assert spent(both, "a") == (cents(90), cents(100))
    waiting = [one.delayed.reason for run in both.runs.values() for one in run.workstreams.values() if one.delayed]
    assert waiting
    assert all("tenant a may spend" in reason and "--tenant a USD" in reason for reason in waiting)
    told = {(event.tenant, event.threshold) for event in both.of(BudgetReached)}
    assert ("a", "warning") in told


def test_a_person_gives_a_tenant_another_budget():
    both = Timed(SharedLimits(tenants={"*": TenantLimits(usd_per_day=0.5)}), free=False)
    both.ask("a", workstreams=3)
    both.until(100)
    assert spent(both, "a")[0] == cents(30)
    both.write("swell.event.fleet.request", budget(300, "tenant", "a"))
    both.write("swell.event.fleet.request", budget(300, "tenant", "", request_id="q-nobody"))
    both.settle()
    assert [answer.answer for answer in both.of(RequestAnswered, "fleet")] == ["accepted", "refused"]
    [changed] = both.of(BudgetChanged)
    assert (changed.scope, changed.name) == ("tenant", "a")
    both.until(100)
    assert spent(both, "a") == (cents(90), cents(300))


# Whatever is asked for


@given(
    slots=st.integers(1, 6),
    tenants=st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 3), st.integers(1, 12), st.integers(1, 20)),
        min_size=1,
        max_size=4,
    ),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_slots_are_never_exceeded_and_everybody_is_served(slots, tenants):
    """Weight, concurrency, runs, workstreams and duration of each."""
    names = [f"t{n}" for n in range(len(tenants))]
    shares = {
        name: {"weight": weight, "concurrency": most} for name, (weight, most, *_) in zip(names, tenants, strict=True)
    }
    some = Timed(limits(slots, shares), lasts={name: one[4] for name, one in zip(names, tenants, strict=True)})
    for name, (_, _, runs, workstreams, _) in zip(names, tenants, strict=True):
        some.ask(name, runs=runs, workstreams=workstreams)

    def check(now):
        used = now.using()
        assert used.total() <= slots
        for name, (_, most, *_) in zip(names, tenants, strict=True):
            assert not most or used[name] <= most
        assert sum(now.fleet.shared.using.values()) == now.using(line=True).total() + sum(
            len(mine) for mine in now.fleet.shared.grants.values()
        )

    some.until(20_000, check)
    assert all(run.status == "completed" for run in some.runs.values())
    assert set(some.begun) == set(names)
    assert some.fleet.shared.using == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tenants.acme = { weight = 0 }", "weight"),
        ('tenants.acme = { weight = "3" }', "weight"),
        ("tenants.acme = { concurrency = -1 }", "concurrency"),
        ("tenants.acme = { usd_per_day = -1.0 }", "usd_per_day"),
        ("tenants.acme = { slots = 1 }", "slots"),
        ('tenants."a b" = { weight = 1 }', "is no tenant"),
        ("pools.default = { slots = 1.5 }", "slots"),
        ("pools.default = { size = 1 }", "size"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, text, named):
    file = tmp_path / "scheduler.toml"
    file.write_text(f"[shared]\n{text}\n")
    with pytest.raises(ConfigError, match=named) as told:
        load(SchedulerConfig, file, {}, PREFIX)
    assert str(file) in str(told.value)


def test_tenants_of_whom_nothing_was_heard_for_days_are_forgotten():
    both = Timed(
        SharedLimits(tenants={"*": TenantLimits(usd_per_day=1.0), "b": TenantLimits(usd_per_day=2.0)}), free=False
    )
    for tenant in ("a", "b", "c"):
        both.ask(tenant, workstreams=1)
    both.write("swell.event.fleet.request", budget(300, "tenant", "c"))
    both.settle()
    both.until(100)
    assert {"tenant/a", "tenant/b", "tenant/c"} <= both.fleet.shared.book.budgets.keys()
    both.now_ns += 9 * 86_400 * SECOND_NS
    both.ask("d", workstreams=1)
    both.until(100)
    assert {name for name in both.fleet.shared.book.budgets if name.startswith("tenant/")} == {
        "tenant/b", "tenant/c", "tenant/d",
    }  # fmt: skip


def test_who_asks_for_what_is_full_is_not_looked_at():
    """Nobody asks while the pool is full; and of many who want the same no more are looked at than may be served at once."""
    many = Timed(limits(2))
    many.ask("a", runs=6, workstreams=60)
    assert asking(many.runs.values(), many.fleet) == []
    many.limits = limits(1000)
    many.settle()
    wide = Timed(SharedLimits(tenants={"a": TenantLimits(concurrency=1)}))
    wide.ask("a", runs=30, workstreams=30)
    assert len(asking(wide.runs.values(), wide.fleet)) <= GRANTS_MAX
