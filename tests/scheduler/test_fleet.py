"""What runs share: breakers of tools, pauses, and the lives of executors."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_harness import RUN, SECOND_NS, START_NS, Play, broken, bundle, failed, made, spec

from services.beats import EXECUTOR_MOVES
from services.events import (
    ExecutorTransitioned,
    FleetPaused,
    FleetResumed,
    PauseRequested,
    ProbeGranted,
    RecoveryChosen,
    RequestAnswered,
    ResumeRequested,
    Snapshot,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    ToolBreakerClosed,
    ToolBreakerHalfOpened,
    ToolBreakerOpened,
)
from services.profiles import ToolProfile
from services.scheduler.decide import wanting
from services.scheduler.fleet import TOOL_FAULTS, BreakerLimits, Fleet, Seen, ToolLimits, Want, barrier, due, evolve
from services.scheduler.recovery import LIMITED
from services.wire import Entry, Place

LIMITS = BreakerLimits(failures=3, open_s=60, probe_s=30)
TREE = Snapshot(commit="c", tree="t")
LEASE_S = 10.0
OK = StepFinished(ok=True)
BAD = StepFinished(ok=False, error_class="tool_failed", message="boom")


class Shared:
    """The log across runs, with time that a test moves."""

    def __init__(self, limits=LIMITS):
        self.limits = limits
        self.fleet = Fleet()
        self.log = []
        self.now_ns = START_NS
        self.numbers = itertools.count(1)
        self.told = []

    def write(self, place, event, attempt=None):
        entry = Entry(id=f"id-{len(self.log)}", run=place.run, at_ns=0, by="x", events=[event])
        self.log.append((len(self.log) + 1, self.now_ns, place, entry, attempt))
        self.fleet = evolve(self.fleet, *self.log[-1])

    def settle(self, wants=(), seen=(), watched_s=1000.0):
        for _ in range(50):
            events = due(
                self.fleet, self.now_ns, self.limits, wants=wants, seen=seen, watched_s=watched_s, lease_s=LEASE_S
            )
            if not events:
                return self
            for event in events:
                self.told.append(event)
                self.write(Place("run", "fleet"), event)
        raise AssertionError(f"it never comes to rest: {events}")

    def ask(self, event, **given):
        self.write(Place("request", "fleet"), event)
        return self.settle(**given)

    def schedule(self, tool="editor", workstream=None, attempt=1):
        step = StepScheduled(
            workstream=workstream or f"ws-{next(self.numbers)}", attempt=attempt, step="edit", pool="p", input=TREE,
            timeout_s=1, queue_deadline_ns=1, tool=tool,
        )  # fmt: skip
        self.write(Place("run", RUN), step)
        return step

    def close(self, step, event):
        self.write(Place("attempt", RUN, step.workstream, step.attempt), event, step)

    def use(self, *outcomes, tool="editor"):
        for outcome in outcomes:
            self.close(self.schedule(tool), outcome)
            self.settle()
        return self

    def state(self, tool="editor"):
        breaker = self.fleet.breakers.get(tool)
        return breaker.state if breaker is not None else "closed"

    def of(self, kind):
        return [e for e in self.told if isinstance(e, kind)]

    def past(self, seconds):
        self.now_ns += int(seconds * SECOND_NS)
        return self

    def replayed(self):
        fleet = Fleet()
        for fact in self.log:
            fleet = evolve(fleet, *fact)
        return fleet


def want(name="ws-x", tool="editor", attempt=1):
    return Want(tool, RUN, name, attempt)


def half_open():
    shared = Shared().use(BAD, BAD, BAD).past(60)
    shared.settle()
    assert shared.state() == "half_open"
    return shared


# Breakers


def test_failures_in_a_row_open_a_breaker_and_it_says_until_when():
    shared = Shared().use(BAD, BAD)
    assert shared.state() == "closed"
    shared.use(BAD)
    [opened] = shared.of(ToolBreakerOpened)
    assert (opened.tool, opened.failures, opened.error_class) == ("editor", 3, "tool_failed")
    assert opened.until_ns == shared.now_ns + 60 * SECOND_NS
    assert "boom" in opened.reason
    found = barrier(shared.fleet, "editor", want())
    assert (found.cause, found.until_ns) == ("tool_breaker", opened.until_ns)
    assert barrier(shared.fleet, "other", want(tool="other")) is None


def test_a_success_in_between_begins_the_count_anew():
    assert Shared().use(BAD, BAD, OK, BAD, BAD).state() == "closed"


@pytest.mark.parametrize("error_class", sorted(TOOL_FAULTS))
def test_what_a_tool_is_to_blame_for_counts(error_class):
    assert Shared().use(*[broken(error_class)] * 3).state() == "open"


@pytest.mark.parametrize("error_class", ["check_failed", "no_change", "scope_violation", "tampering", "merge_conflict"])
def test_what_the_work_is_to_blame_for_does_not(error_class):
    assert Shared().use(*[broken(error_class)] * 9).state() == "closed"


@pytest.mark.parametrize(
    "neutral",
    [StepCancelled(reason="x"), StepLost(reason="x"), broken("handed_back"), broken("workspace_error"),
     broken("unknown"), StepFinished(ok=True, dry_run=True)],
)  # fmt: skip
def test_what_says_nothing_about_a_tool_neither_counts_nor_resets(neutral):
    assert Shared().use(BAD, BAD, *[neutral] * 5).state() == "closed"
    assert Shared().use(BAD, BAD, neutral, BAD).state() == "open"


def test_each_tool_has_a_breaker_and_may_have_limits_of_its_own():
    limits = BreakerLimits(failures=3, open_s=60, tools={"frail": ToolLimits(failures=1, open_s=5)})
    shared = Shared(limits).use(BAD, tool="frail").use(BAD, BAD)
    assert (shared.state("frail"), shared.state("editor")) == ("open", "closed")
    assert shared.fleet.breakers["frail"].until_ns == shared.now_ns + 5 * SECOND_NS


def test_an_open_breaker_becomes_half_open_when_its_time_is_over_and_not_before():
    shared = Shared().use(BAD, BAD, BAD)
    shared.past(59).settle()
    assert shared.state() == "open"
    shared.past(1).settle()
    assert shared.state() == "half_open"
    assert len(shared.of(ToolBreakerHalfOpened)) == 1


def test_results_of_attempts_begun_before_it_opened_do_not_decide_a_probe():
    shared = Shared()
    early = [shared.schedule() for _ in range(6)]
    for step in early[:3]:
        shared.close(step, BAD)
    shared.settle().past(60).settle()
    shared.settle([want("ws-x")])
    for step in early[3:]:
        shared.close(step, OK)
        shared.settle([want("ws-x")])
    assert shared.state() == "half_open"


def test_a_half_open_breaker_lets_exactly_one_attempt_through():
    shared = half_open()
    wants = [want("ws-x"), want("ws-y")]
    shared.settle(wants)
    [grant] = shared.of(ProbeGranted)
    assert (grant.workstream, grant.expires_ns) == ("ws-x", shared.now_ns + 30 * SECOND_NS)
    assert barrier(shared.fleet, "editor", wants[0]) is None
    assert barrier(shared.fleet, "editor", wants[1]) is not None
    shared.schedule(workstream="ws-x")
    shared.settle(wants[1:])
    assert barrier(shared.fleet, "editor", wants[0]) is not None, "it is used up"
    assert len(shared.of(ProbeGranted)) == 1


def probing():
    shared = half_open().settle([want("ws-x")])
    return shared, shared.schedule(workstream="ws-x")


def test_a_probe_that_succeeds_closes_the_breaker():
    shared, probe = probing()
    shared.close(probe, OK)
    shared.settle()
    assert shared.state() == "closed"
    assert len(shared.of(ToolBreakerClosed)) == 1
    assert shared.use(BAD, BAD).state() == "closed", "the count begins anew"


def test_a_probe_whose_work_is_bad_shows_that_the_tool_works():
    shared, probe = probing()
    shared.close(probe, failed())
    assert shared.settle().state() == "closed"


def test_a_probe_that_fails_opens_the_breaker_again_for_its_full_time():
    shared, probe = probing()
    shared.close(probe, BAD)
    shared.settle()
    assert shared.state() == "open"
    assert shared.of(ToolBreakerOpened)[-1].until_ns == shared.now_ns + 60 * SECOND_NS


@pytest.mark.parametrize("neutral", [StepCancelled(reason="x"), StepLost(reason="x")])
def test_a_probe_that_tells_nothing_is_passed_on(neutral):
    shared, probe = probing()
    shared.close(probe, neutral)
    shared.settle([want("ws-y")])
    assert shared.state() == "half_open"
    assert shared.of(ProbeGranted)[-1].workstream == "ws-y"


@pytest.mark.parametrize("error_class", ["handed_back", "workspace_error", "unknown"])
def test_a_probe_that_ends_without_a_word_about_the_tool_is_passed_on(error_class):
    shared, probe = probing()
    shared.close(probe, broken(error_class))
    shared.settle([want("ws-y")])
    assert shared.state() == "half_open"
    assert shared.of(ProbeGranted)[-1].workstream == "ws-y"


def test_a_grant_that_nobody_uses_passes_to_another():
    shared = half_open()
    wants = [want("ws-x"), want("ws-y")]
    shared.settle(wants).past(29).settle(wants)
    assert len(shared.of(ProbeGranted)) == 1
    shared.past(1).settle(wants)
    assert [g.workstream for g in shared.of(ProbeGranted)] == ["ws-x", "ws-y"]
    assert barrier(shared.fleet, "editor", wants[0]) is not None


def test_a_grant_in_use_does_not_expire():
    shared, _ = probing()
    shared.past(1000).settle([want("ws-y")])
    assert len(shared.of(ProbeGranted)) == 1


@pytest.mark.parametrize("seconds", [0, 60])
def test_resuming_a_tool_closes_its_breaker_at_once(seconds):
    shared = Shared().use(BAD, BAD, BAD).past(seconds).settle()
    shared.ask(ResumeRequested(request_id="q", actor="ann", scope="tool", name="editor"))
    [closed] = shared.of(ToolBreakerClosed)
    assert (closed.actor, closed.reason) == ("ann", "reset by ann")
    assert shared.state() == "closed"
    assert shared.use(BAD, BAD).state() == "closed"


@given(st.lists(st.sampled_from(["bad", "ok", "lost", "back", "start", "time", "settle", "wish"]), max_size=80))
def test_the_state_is_a_fold_of_the_log_whatever_happens(moves):
    """A restart forgets nothing; at most one probe is under way; and every breaker leads somewhere."""
    shared, running = Shared(BreakerLimits(failures=2, open_s=10, probe_s=5)), []
    wants = [want("ws-x"), want("ws-y")]
    for move in moves:
        match move:
            case "start":
                free = [w for w in wants if barrier(shared.fleet, "editor", w) is None]
                if free and all(s.workstream != free[0].workstream for s in running):
                    before = shared.state()
                    running.append(shared.schedule(workstream=free[0].workstream))
                    if before == "half_open":
                        assert all(barrier(shared.fleet, "editor", w) for w in wants)
            case "time":
                shared.past(6)
            case "settle":
                shared.settle()
            case "wish":
                shared.settle(wants)
            case _ if running:
                event = {"bad": BAD, "ok": OK, "lost": StepLost(reason="x"), "back": broken("handed_back")}[move]
                shared.close(running.pop(0), event)
    assert shared.replayed() == shared.fleet
    for step in running:
        shared.close(step, OK)
    for _ in range(10):
        shared.past(60).settle(wants)
        granted = next((w for w in wants if barrier(shared.fleet, "editor", w) is None), None)
        assert granted is not None or shared.state() != "half_open"
        if shared.state() == "closed":
            break
        if granted is not None:
            shared.close(shared.schedule(workstream=granted.workstream), OK)
    assert shared.state() == "closed"


# Providers that refuse for now


def refused(error_class="rate_limited", *, provider="anthropic", **rest):
    return StepFinished(ok=False, error_class=error_class, message="429", provider=provider, **rest)


@pytest.mark.parametrize("error_class", sorted(LIMITED))
def test_a_provider_that_refuses_opens_its_breaker_at_once_for_as_long_as_it_says(error_class):
    shared = Shared().use(refused(error_class, retry_after_s=90.0))
    [opened] = shared.of(ToolBreakerOpened)
    assert (opened.tool, opened.error_class) == ("provider:anthropic", error_class)
    assert opened.until_ns == shared.now_ns + 90 * SECOND_NS
    found = barrier(shared.fleet, "editor", want())
    assert (found.limited, found.until_ns) == (error_class, opened.until_ns)


def test_a_used_up_quota_is_waited_for_until_its_reset_but_never_longer_than_a_day():
    at = START_NS + 7200 * SECOND_NS
    assert Shared().use(refused("usage_limit", resets_at_ns=at)).of(ToolBreakerOpened)[0].until_ns == at
    never = Shared().use(refused("usage_limit", resets_at_ns=2**62))
    assert never.of(ToolBreakerOpened)[0].until_ns == START_NS + 86_400 * SECOND_NS


def test_a_refusal_that_does_not_say_for_how_long_holds_for_the_breakers_own_time():
    shared = Shared().use(refused("overloaded"))
    assert shared.of(ToolBreakerOpened)[0].until_ns == shared.now_ns + 60 * SECOND_NS


def test_all_tools_of_a_provider_wait_and_those_of_others_go_on():
    shared = Shared()
    shared.use(StepFinished(ok=True, provider="anthropic"), tool="second")
    shared.use(StepFinished(ok=True, provider="openai"), tool="third")
    shared.use(refused(), tool="editor")
    assert barrier(shared.fleet, "second", want(tool="second")).limited == "rate_limited"
    assert barrier(shared.fleet, "third", want(tool="third")) is None


def test_without_a_known_provider_the_tools_own_breaker_opens():
    shared = Shared().use(refused(provider=""))
    assert shared.state("editor") == "open"


def test_a_refusal_is_no_failure_of_the_tool():
    """Two failures, a refusal, and a third failure after it: the count of the tool goes by the failures alone."""
    shared = Shared().use(BAD, BAD, refused())
    assert shared.fleet.breakers["editor"].failures == 2


def test_one_attempt_of_any_tool_of_the_provider_probes_it_and_its_success_opens_the_way_for_all():
    shared = Shared()
    shared.use(StepFinished(ok=True, provider="anthropic"), tool="second")
    shared.use(refused()).past(60)
    wants = [want("ws-1", tool="second"), want("ws-2")]
    shared.settle(wants=wants)
    [granted] = shared.of(ProbeGranted)
    assert (granted.tool, granted.workstream) == ("provider:anthropic", "ws-1")
    assert barrier(shared.fleet, "second", wants[0]) is None
    assert barrier(shared.fleet, "editor", wants[1]) is not None
    probe = shared.schedule("second", "ws-1")
    shared.close(probe, StepFinished(ok=False, error_class="no_change", provider="anthropic"))
    shared.settle()
    assert shared.state("provider:anthropic") == "closed"
    assert shared.fleet == shared.replayed()


def test_a_refusal_that_comes_while_it_is_open_keeps_it_open_for_longer():
    shared = Shared()
    running = shared.schedule("editor")
    shared.use(refused(retry_after_s=30.0))
    shared.close(running, refused("usage_limit", retry_after_s=600.0))
    shared.settle()
    assert [e.until_ns for e in shared.of(ToolBreakerOpened)] == [shared.now_ns + s * SECOND_NS for s in (30, 600)]


def test_a_probe_that_is_refused_again_closes_the_way_for_as_long_as_it_says_now():
    shared = Shared().use(refused()).past(60)
    shared.settle(wants=[want("ws-1")])
    shared.close(shared.schedule("editor", "ws-1"), refused(retry_after_s=300.0))
    shared.settle()
    assert shared.state("provider:anthropic") == "open"
    assert shared.of(ToolBreakerOpened)[-1].until_ns == shared.now_ns + 300 * SECOND_NS


# In a run


def routed(*fallback):
    profiles = {"editor": ToolProfile(command="e", fallback=fallback), "second": ToolProfile(command="s")}
    play = Play(spec([bundle("ws-a"), bundle("ws-b")], profiles=profiles))
    shared = Shared().use(BAD, BAD, BAD)
    play.fleet = shared.fleet
    return play, shared


def test_while_a_breaker_is_open_the_fallback_does_it_and_the_step_says_why():
    play, _ = routed("second")
    play.play()
    edits = [e for e in play.of(StepScheduled) if e.step == "edit"]
    assert {e.tool for e in edits} == {"second"}
    assert all("breaker of editor is open" in e.reason for e in edits)
    assert play.of(RecoveryChosen) == []


@pytest.mark.parametrize(("strategies", "tools"), [(["wait"], []), (["fallback_tool", "wait"], ["second"])])
def test_while_a_provider_refuses_another_tool_steps_in_only_if_the_table_says_so(strategies, tools):
    """It might be a dearer one."""
    profiles = {"editor": ToolProfile(command="e", fallback=("second",)), "second": ToolProfile(command="s")}
    recovery = {"classes": {"usage_limit": strategies}}
    play = Play(spec([bundle("ws-a")], profiles=profiles, recovery=recovery))
    play.fleet = Shared().use(refused("usage_limit", retry_after_s=90.0)).fleet
    play.settle()
    assert [e.tool for e in play.of(StepScheduled)] == tools
    assert [d.cause for d in play.of(StepDelayed)] == (["tool_breaker"] if not tools else [])


def test_a_refused_attempt_waits_as_long_as_it_was_told_and_is_no_attempt():
    """Not one of the retries is used up, and the tool stays the same."""
    script = {("ws-a", "edit"): [refused(retry_after_s=90.0), refused("overloaded"), BAD, BAD, made("t")]}
    play = Play(spec([bundle("ws-a")], profiles={"editor": ToolProfile(command="e")}, recovery={"retries": 2}), script)
    play.settle()
    play.act("ws-a", 1)
    play.settle()
    [delayed] = play.of(StepDelayed)
    assert 90 <= (delayed.until_ns - play.now_ns) / SECOND_NS + 1 <= 91
    waiting = play.state.workstreams["ws-a"]
    assert (waiting.recovery["edit"].waits, waiting.recovery["edit"].retries) == (1, 0)
    play.play()
    assert [e.strategy for e in play.of(RecoveryChosen)] == ["wait", "wait", "retry", "retry"]
    assert play.state.status == "completed"


def test_a_breaker_never_fails_a_workstream_it_waits_and_says_so():
    play, shared = routed()
    play.settle()
    assert play.of(StepScheduled) == []
    delayed = play.of(StepDelayed)
    assert {(d.cause, d.until_ns) for d in delayed} == {("tool_breaker", shared.fleet.breakers["editor"].until_ns)}
    play.now_ns += 3_000 * SECOND_NS
    play.settle()
    assert set(play.states.values()) == {"editing"}
    shared.past(60).settle()
    play.settle()
    shared.settle(wanting(play.state))
    play.settle()
    [probe] = play.of(StepScheduled)
    assert probe.workstream == shared.of(ProbeGranted)[0].workstream == "ws-a"
    shared.ask(ResumeRequested(request_id="q", actor="ann", scope="tool", name="editor"))
    play.play()
    assert play.state.status == "completed"


# Requests


@pytest.mark.parametrize(("scope", "name"), [("all", ""), ("pool", "gpu"), ("tool", "editor")])
def test_pausing_and_resuming_across_runs(scope, name):
    shared = Shared().ask(PauseRequested(request_id="p", actor="ann", scope=scope, name=name, reason="bill"))
    assert shared.fleet.paused[scope, name].reason == "bill"
    shared.ask(PauseRequested(request_id="p2", actor="bob", scope=scope, name=name))
    assert len(shared.of(FleetPaused)) == 1, "it is paused already"
    shared.ask(ResumeRequested(request_id="r", actor="bob", scope=scope, name=name))
    assert shared.fleet.paused == {}
    assert [e.actor for e in shared.of(FleetResumed)] == ["bob"]
    assert [e.request_id for e in shared.of(RequestAnswered)] == ["p", "p2", "r"]
    assert shared.replayed() == shared.fleet


@pytest.mark.parametrize(("scope", "name"), [("run", ""), ("tool", ""), ("pool", ""), ("all", "x")])
def test_a_request_for_nothing_in_particular_is_refused(scope, name):
    shared = Shared().ask(PauseRequested(request_id="p", actor="ann", scope=scope, name=name))
    [answer] = shared.of(RequestAnswered)
    assert (answer.answer, answer.ok) == ("refused", False)
    assert shared.fleet.paused == {}


def test_a_repeated_request_is_answered_once():
    request = PauseRequested(request_id="p", actor="ann", scope="all")
    shared = Shared().ask(request).ask(ResumeRequested(request_id="r", actor="ann", scope="all")).ask(request)
    assert shared.fleet.paused == {}
    assert len(shared.of(RequestAnswered)) == 2


def test_requests_that_came_together_are_decided_one_after_the_other():
    shared = Shared()
    for number, kind in enumerate([PauseRequested, ResumeRequested, PauseRequested]):
        shared.write(Place("request", "fleet"), kind(request_id=f"q{number}", actor="ann", scope="all"))
    shared.settle()
    assert ("all", "") in shared.fleet.paused
    assert len(shared.of(RequestAnswered)) == 3


# Executors


def beat(state="idle", *, boot="k1", silent_s=0.0, executor="e1"):
    return Seen(executor=executor, boot=boot, pool="p", slots=2, state=state, silent_s=silent_s)


def lives(shared):
    return [(e.boot, e.from_state, e.to_state) for e in shared.of(ExecutorTransitioned)]


def test_an_executor_comes_drains_and_ends_by_its_own_word():
    shared = Shared()
    for state in ("spawning", "idle", "busy", "idle", "draining", "draining", "terminated", "terminated"):
        shared.settle(seen=[beat(state)])
    assert lives(shared) == [
        ("k1", "spawning", "idle"), ("k1", "idle", "draining"), ("k1", "draining", "terminated"),
    ]  # fmt: skip


def test_three_leases_of_silence_end_it_and_its_next_beat_brings_it_back():
    shared = Shared().settle(seen=[beat()])
    shared.settle(seen=[beat(silent_s=3 * LEASE_S)])
    assert len(lives(shared)) == 1
    shared.settle(seen=[beat(silent_s=3 * LEASE_S + 1)])
    assert lives(shared)[-1] == ("k1", "idle", "terminated")
    shared.settle(seen=[beat()])
    assert lives(shared)[-1] == ("k1", "spawning", "idle")
    assert "back" in shared.of(ExecutorTransitioned)[-1].reason


def test_one_whose_key_is_gone_has_ended_once_it_was_watched_for_long_enough():
    shared = Shared().settle(seen=[beat()])
    shared.settle(seen=[], watched_s=3 * LEASE_S)
    assert len(lives(shared)) == 1, "who has just begun to look declares nobody gone"
    shared.settle(seen=[], watched_s=3 * LEASE_S + 1)
    assert lives(shared)[-1] == ("k1", "idle", "terminated")


def test_a_new_boot_is_the_end_of_the_old_one():
    shared = Shared().settle(seen=[beat()]).settle(seen=[beat(boot="k2")])
    assert lives(shared) == [("k1", "spawning", "idle"), ("k1", "idle", "terminated"), ("k2", "spawning", "idle")]


def test_one_that_was_never_seen_alive_leaves_no_trace():
    assert lives(Shared().settle(seen=[beat("terminated")])) == []
    assert lives(Shared().settle(seen=[beat(silent_s=1000)])) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(EXECUTOR_MOVES)), st.sampled_from(["k1", "k2"]), st.sampled_from([0.0, 31.0]),
            st.booleans(),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_whatever_an_executor_says_its_recorded_life_has_only_allowed_moves(said):
    shared, before = Shared(), {}
    for state, boot, silent_s, there in said:
        shared.settle(seen=[beat(state, boot=boot, silent_s=silent_s)] if there else [])
    for event in shared.of(ExecutorTransitioned):
        was = before.get(event.executor)
        assert event.to_state in EXECUTOR_MOVES[event.from_state]
        if event.from_state == "spawning":
            assert was is None or was[1] == "terminated"
        else:
            assert was == (event.boot, event.from_state)
        before[event.executor] = event.boot, event.to_state
    assert shared.replayed() == shared.fleet
    assert msgspec.json.encode(shared.told)
