"""Which tool does a step, and in which pool: the registry's route, what executors have, and how well tools have done."""

import msgspec
import pytest
from scheduler_harness import RUN, SECOND_NS, Play, broken, bundle, failed, spec

from services.aim import AimTool, Registry, Route
from services.events import (
    FleetPaused,
    FleetResumed,
    RecoveryChosen,
    Snapshot,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    ToolBreakerOpened,
)
from services.outcome import Cost
from services.profiles import ToolProfile
from services.scheduler import fleet as fleets
from services.scheduler.decide import wanting
from services.scheduler.fleet import BreakerLimits, Fleet
from services.scheduler.routing import RECORD_MAX, UNTRIED, Places, Record, Sighting, Sightings, ordered
from services.wire import Entry, Place

A, B = "ws-a", "ws-b"
LEASE_S = 10.0
PROFILES = {
    name: ToolProfile(command=name, fallback=fallback)
    for name, fallback in (("aider", ()), ("codex", ()), ("claude", ()), ("editor", ("spare",)), ("spare", ()))
}


def routed(primary="aider", fallback=("claude-cli",), *, bundles=None, **rest):
    """A run whose workstreams ask for code_generation, with the editor as the tool that their bundles name."""
    options = {name: rest.pop(name) for name in list(rest) if name not in Route.__struct_fields__}
    tools = {
        tool: AimTool(profile={"claude-cli": "claude"}.get(tool, tool)) for tool in ("aider", "codex", "claude-cli")
    }
    registry = Registry(
        capabilities={"code_generation": Route(primary=primary, fallback=fallback, **rest)}, tools=tools
    )
    known = bundles or [bundle(A, capability="code_generation")]
    return msgspec.structs.replace(spec(known, profiles=PROFILES, **options), registry=registry)


def edits(play, name=A):
    return [e.tool for e in play.of(StepScheduled) if e.step == "edit" and e.workstream == name]


def beating(now_ns, since_s=60.0, **executors):
    """What is seen of executors: pool, and what they lack."""
    return Sightings(
        executors={
            name: Sighting(
                boot="k", seen_ns=now_ns, pool=pool, serves=True, missing={tool: tool for tool in lacks}
            )
            for name, (pool, *lacks) in executors.items()
        },
        since_ns=now_ns - int(since_s * SECOND_NS),
        lease_s=LEASE_S,
    )  # fmt: skip


# The chain


def test_a_capability_is_served_by_its_route_and_the_attempt_says_so():
    play = Play(routed()).play()
    [edit] = [e for e in play.of(StepScheduled) if e.step == "edit"]
    assert (edit.tool, edit.capability) == ("aider", "code_generation")
    assert {e.capability for e in play.of(StepScheduled) if e.step not in {"edit", "fix"}} == {""}


def test_a_failing_tool_is_followed_by_the_next_of_its_route_then_by_the_bundles_own():
    script = {(A, "edit"): [broken("tool_failed")] * 4}
    play = Play(routed(recovery={"retries": 0, "reductions": 0}, review="wait"), script).until_stuck()
    assert edits(play) == ["aider", "claude", "editor", "spare"]
    assert [(e.replaced, e.tool) for e in play.of(RecoveryChosen)][:3] == [
        ("aider", "claude"), ("claude", "editor"), ("editor", "spare"),
    ]  # fmt: skip


def test_each_tool_of_a_route_is_retried_as_often_as_the_route_says():
    script = {(A, "edit"): [broken("server_error")] * 9}
    play = Play(routed(max_retries=1, recovery={"retries": 0, "reductions": 0}, review="wait"), script).until_stuck()
    assert edits(play) == ["aider", "aider", "claude", "claude", "editor", "spare"]


def test_the_routes_time_limit_holds_when_it_is_the_shorter_one():
    play = Play(routed(timeout_ms=90_000)).play()
    assert {e.timeout_s for e in play.of(StepScheduled) if e.step == "edit"} == {90.0}
    play = Play(routed(timeout_ms=80_000_000)).play()
    assert {e.timeout_s for e in play.of(StepScheduled) if e.step == "edit"} == {600.0}


def test_fix_takes_the_route_as_well_unless_the_checks_name_a_tool():
    script = {(A, "static"): [failed()]}
    play = Play(routed(), script).play()
    assert [e.tool for e in play.of(StepScheduled) if e.step == "fix"] == ["aider"]
    definition = routed()
    checks = msgspec.structs.replace(definition.checks, fix_tool="codex")
    play = Play(msgspec.structs.replace(definition, checks=checks), script).play()
    assert [e.tool for e in play.of(StepScheduled) if e.step == "fix"] == ["codex"]


def test_a_tool_whose_breaker_is_open_is_passed_over():
    play = Play(routed())
    opened = ToolBreakerOpened(
        tool="aider", failures=5, until_ns=play.now_ns * 2, reason="it fails", error_class="auth"
    )
    tell(play.fleet, Place("run", "fleet"), opened)
    play.play()
    assert edits(play) == ["claude"]


def test_what_failed_is_what_is_replaced_and_not_the_tool_it_stood_in_for():
    play = Play(routed(recovery={"retries": 0, "reductions": 0}), {(A, "edit"): [broken("tool_failed")]})
    opened = ToolBreakerOpened(tool="aider", failures=5, until_ns=play.now_ns + 10**9, reason="x", error_class="auth")
    tell(play.fleet, Place("run", "fleet"), opened)
    play.until_stuck()
    assert [e.replaced for e in play.of(RecoveryChosen)] == ["claude"]


# Strategies


def tell(fleet, place, *events, attempt=None, run="fleet", time_ns=1):
    entry = Entry(id="i", run=run, at_ns=0, by="x", events=list(events))
    fleets.evolve(fleet, fleet.last_sequence + 1, time_ns, place, entry, attempt)


def scheduled(tool, attempt=1, **rest):
    return StepScheduled(
        workstream="w", attempt=attempt, step="edit", pool="p", input=Snapshot(commit="c", tree="t"), timeout_s=1,
        queue_deadline_ns=1, tool=tool, **rest,
    )  # fmt: skip


def used(fleet, tool, *, closes=(), still_open=0):
    """Attempts of a tool as they come to their ends."""
    for close in closes:
        tell(fleet, Place("run", "other"), scheduled(tool), run="other")
        tell(fleet, Place("attempt", "other", "w", 1), close, attempt=scheduled(tool), run="other")
    for _ in range(still_open):
        tell(fleet, Place("run", "other"), scheduled(tool), run="other")


def ended(ok=True, minutes=1.0, usd=0.0, **rest):
    cost = Cost(nano_usd=int(usd * 10**9), basis="reported")
    return StepFinished(ok=ok, tool_wall_s=minutes * 60, cost=cost, **rest)


def test_load_is_balanced_by_what_is_open_in_all_runs():
    definition = routed(
        strategy="load_balance", bundles=[bundle(name, capability="code_generation") for name in (A, B)]
    )
    play = Play(definition)
    used(play.fleet, "aider", still_open=3)
    used(play.fleet, "claude", still_open=1)
    play.until_stuck()
    assert edits(play, A) == edits(play, B) == ["claude"]


def test_load_is_balanced_within_one_decision_as_well():
    names = [f"ws-{number}" for number in range(6)]
    play = Play(
        routed(
            strategy="load_balance",
            fallback=("codex", "claude-cli"),
            bundles=[bundle(name, capability="code_generation") for name in names],
            max_workers=6,
        )
    )
    play.settle()
    assert sorted(edits(play, name)[0] for name in names) == ["aider", "aider", "claude", "claude", "codex", "codex"]


def test_measured_prefers_what_succeeds_then_what_is_quick_and_cheap():
    fleet = Fleet()
    used(fleet, "a", closes=[ended(), ended(ok=False, error_class="tool_failed")])
    used(fleet, "b", closes=[ended(minutes=20, usd=3.0)])
    used(fleet, "c", closes=[ended(minutes=1, usd=0.1)])
    used(fleet, "d", closes=[ended(ok=False, error_class="no_change")])
    assert ordered(["d", "new", "a", "b", "c"], "measured", fleet.records, {}) == ("c", "b", "a", "new", "d")
    assert ordered(["d", "a"], "order", fleet.records, {}) == ("d", "a")
    assert fleet.records["a"].score == pytest.approx(0.7 / 2 + 0.15 / 2 + 0.15)


def test_what_says_nothing_about_a_tool_leaves_its_record():
    fleet = Fleet()
    silent = [
        ended(ok=False, error_class=one)
        for one in ("rate_limited", "usage_limit", "overloaded", "handed_back", "workspace_error", "setup_error")
    ]
    used(fleet, "a", closes=[*silent, StepLost(reason="gone"), StepCancelled(reason="no")])
    assert fleet.records["a"] == Record()
    used(fleet, "dry", closes=[])
    tell(fleet, Place("run", "other"), scheduled("dry", dry_run=True), run="other")
    assert "dry" not in fleet.records


def test_a_record_forgets_and_never_grows_beyond_its_bound():
    record = Record()
    for _ in range(10 * RECORD_MAX):
        record.note(ok=False, wall_ns=1, cost_nano=1)
    before = record.score
    for _ in range(RECORD_MAX):
        record.note(ok=True, wall_ns=1, cost_nano=1)
    assert record.ended <= RECORD_MAX
    assert record.score > before + 0.4
    assert Record().score == UNTRIED


# What executors have


def test_a_step_waits_with_its_reason_where_nobody_has_its_tool_and_then_asks_a_person():
    play = Play(spec([bundle(A, tool="aider")], profiles=PROFILES, review="wait", queue_timeout_s=30.0))
    play.settle(beating(play.now_ns, e1=("default", "aider"), e2=("default", "aider")))
    [delayed] = play.of(StepDelayed)
    assert delayed.cause == "tool_missing"
    assert "no executor of pool default has found 'aider'" in delayed.reason
    assert delayed.until_ns == pytest.approx(play.now_ns + 30 * SECOND_NS, abs=SECOND_NS)
    assert not play.state.open
    play.now_ns += 20 * SECOND_NS
    assert play.due(beating(play.now_ns, e1=("default", "aider"))) == []
    play.now_ns += 11 * SECOND_NS
    play.settle(beating(play.now_ns, e1=("default", "aider")))
    assert play.states == {A: "awaiting_review"}
    assert play.of(RecoveryChosen)[-1].error_class == "tool_missing"


def test_it_goes_on_as_soon_as_somebody_has_it():
    play = Play(spec([bundle(A, tool="aider")], profiles=PROFILES))
    play.settle(beating(play.now_ns, e1=("default", "aider")))
    play.settle(beating(play.now_ns, e1=("default", "aider"), e2=("default",)))
    assert edits(play) == ["aider"]


def test_a_tool_that_nobody_has_is_passed_over_for_the_next_of_its_chain():
    play = Play(spec([bundle(A)], profiles=PROFILES))
    play.settle(beating(play.now_ns, e1=("default", "editor")))
    [edit] = play.of(StepScheduled)
    assert edit.tool == "spare"
    assert "no executor" in edit.reason


def test_another_pool_does_what_the_first_has_no_tool_for():
    play = Play(spec([bundle(A, tool="aider")], profiles=PROFILES, other_pools=["big", "gpu"]))
    play.settle(beating(play.now_ns, e1=("default", "aider"), e2=("gpu",)))
    assert [e.pool for e in play.of(StepScheduled)] == ["gpu"]


def test_a_paused_pool_is_not_gone_to():
    play = Play(spec([bundle(A, tool="aider")], profiles=PROFILES, other_pools=["big"]))
    tell(play.fleet, Place("run", "fleet"), FleetPaused(scope="pool", name="big", actor="ann"))
    play.settle(beating(play.now_ns, e1=("default", "aider"), e2=("big",)))
    [delayed] = play.of(StepDelayed)
    assert (delayed.cause, delayed.until_ns) == ("tool_paused", 0)
    assert delayed.reason == "only pool big has aider, and ann has paused it"
    tell(play.fleet, Place("run", "fleet"), FleetResumed(scope="pool", name="big", actor="ann"))
    play.settle(beating(play.now_ns, e1=("default", "aider"), e2=("big",)))
    assert edits(play) == ["aider"]


AIDER = PROFILES["aider"]


@pytest.mark.parametrize(
    ("sightings", "said"),
    [
        (lambda now: None, ("one", False)),
        (lambda now: beating(now, since_s=LEASE_S / 2, e1=("one", "aider")), ("one", False)),
        (beating, ("one", False)),
        (lambda now: beating(now, e1=("one",)), ("one", False)),
        (lambda now: beating(now, e1=("one", "aider")), ("two", False)),
        (lambda now: beating(now, e1=("one", "aider"), e2=("two", "aider")), ("one", True)),
        (lambda now: beating(now, e1=("one", "aider"), e2=("one",), e3=("two",)), ("one", False)),
        (lambda now: beating(now, e3=("two",)), ("two", False)),
        (lambda now: beating(now, e3=("two", "aider")), ("one", False)),
        (lambda now: beating(now, e3=("three",)), ("one", False)),
    ],
)
def test_places(sightings, said):
    """Nothing is missing that was not looked for; an executor that has it beats a pool that has nobody."""
    now = 10**15
    placement = Places(sightings(now), now).place(("one", "two"), "aider", AIDER)
    assert (placement.pool, placement.missing) == said


def test_only_the_very_program_that_was_looked_for_is_missing():
    now = 10**15
    places = Places(beating(now, e1=("one", "aider")), now)
    assert not places.place(("one",), "aider", ToolProfile(command="/opt/aider")).missing
    places = Places(beating(now, e1=("one", "aider")), now)
    assert not places.place(("one",), "aider", ToolProfile(command="aider", env={"PATH": "/opt"})).missing


def test_silent_leaving_and_starting_executors_do_not_count():
    now = 10**15
    seen = beating(now, e1=("one",), e2=("one",), e3=("one",), e4=("one", "aider"))
    seen.executors["e1"].gone = True
    seen.executors["e2"].seen_ns = now - int(LEASE_S * SECOND_NS) - 1
    seen.executors["e3"].serves = False
    assert Places(seen, now).place(("one",), "aider", AIDER).missing


def test_a_dry_run_needs_no_tool():
    play = Play(spec([bundle(A, tool="aider")], profiles=PROFILES, dry_run=True))
    play.settle(beating(play.now_ns, e1=("default", "aider")))
    assert edits(play) == ["aider"]
    assert play.state.run == RUN


# Breakers and probes


def across(play, seconds, until=lambda: False, seen=None):
    """Time goes by with the decisions across runs; every attempt that is open ends after five seconds."""
    end_ns = play.now_ns + seconds * SECOND_NS
    while play.now_ns < end_ns and not until():
        play.now_ns += 5 * SECOND_NS
        wants = wanting(play.state) if play.state.accepted else []
        owed = fleets.due(
            play.fleet, play.now_ns, BreakerLimits(), wants=wants, seen=[], watched_s=1.0, lease_s=LEASE_S
        )
        if owed:
            tell(play.fleet, Place("run", "fleet"), *owed, time_ns=play.now_ns)
        play.settle(seen() if seen else None)
        for key in sorted(play.state.open):
            attempt = play.state.open[key].scheduled
            play.act(*key)
            close = play.facts[-1].entry.events[0]
            tell(play.fleet, Place("attempt", RUN, *key), close, attempt=attempt, run=RUN, time_ns=play.now_ns)
        play.settle(seen() if seen else None)


def opened(play, tool, seconds=60, error_class="tool_failed"):
    event = ToolBreakerOpened(
        tool=tool, failures=5, until_ns=play.now_ns + seconds * SECOND_NS, reason="it fails", error_class=error_class
    )
    tell(play.fleet, Place("run", "fleet"), event, time_ns=play.now_ns)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_nobody_has_is_asked_of_a_person_in_time_although_its_breaker_is_probed(count):
    names = [f"ws-{number}" for number in range(count)]
    play = Play(spec([bundle(name, tool="aider") for name in names], profiles=PROFILES, review="wait", timeout_s=0.0))
    opened(play, "aider", error_class="tool_missing")
    across(play, 2000, lambda: len(play.state.reviews) == count, lambda: beating(play.now_ns, e1=("default", "aider")))
    assert set(play.states.values()) == {"awaiting_review"}
    assert len(play.of(StepDelayed)) <= 3 * count


def test_a_tool_that_works_again_comes_back_although_another_stands_in():
    """One step waits for the probe; the others do not wait for it."""
    names = [f"ws-{number:02}" for number in range(30)]
    play = Play(routed(bundles=[bundle(name, capability="code_generation") for name in names], max_workers=2))
    opened(play, "aider", seconds=30)
    across(play, 3000, lambda: play.state.finished is not None)
    tools = [edits(play, name)[0] for name in names]
    assert set(tools[:2]) == {"claude"}
    assert set(tools[-10:]) == {"aider"}
    assert play.fleet.breakers.get("aider") is None


def test_a_stand_in_is_probed_while_the_wanted_tool_stays_shut():
    play = Play(routed(review="wait", timeout_s=0.0))
    opened(play, "aider", seconds=10**6)
    for tool in ("claude", "editor", "spare"):
        opened(play, tool, seconds=10)
    across(play, 600, lambda: bool(play.state.finished))
    assert edits(play) == ["claude"]


def test_no_more_begin_than_can_wait_for_a_tool_that_is_shut_and_others_go_on():
    shut = [bundle(f"ws-{number:03}", tool="aider") for number in range(300)]
    play = Play(spec([*shut, bundle("ws-z", tool="codex")], profiles=PROFILES, max_workers=4, review="wait"))
    opened(play, "aider", seconds=10**6)
    play.settle()
    assert len(play.of(StepDelayed)) == 4
    assert edits(play, "ws-z") == ["codex"]
    assert sum(state == "ready" for state in play.states.values()) == 296


def test_the_routes_terms_are_for_its_tools_alone():
    definition = routed(timeout_ms=5000)
    checks = msgspec.structs.replace(definition.checks, fix_tiers=("editor",))
    play = Play(msgspec.structs.replace(definition, checks=checks), {(A, "static"): [failed("a"), failed("b")]}).play()
    fixes = [(e.tool, e.capability, e.timeout_s) for e in play.of(StepScheduled) if e.step == "fix"]
    assert fixes == [("aider", "code_generation", 5.0), ("editor", "", 300.0)]


def test_absurd_records_stay_within_what_a_snapshot_holds():
    record = Record()
    for _ in range(RECORD_MAX):
        record.note(ok=True, wall_ns=2**70, cost_nano=2**70)
    assert 0 <= msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record).cost_nano < 2**63
