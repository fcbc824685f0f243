"""What attempts draw on across runs: budgets of a day, rates, grants that are used, given back, and never given twice."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness import BASE, SECOND_NS, SPEC, START_NS, bundle, failed, made, passed, spec
from test_state import EVENTS

from services.config import ConfigError, load
from services.events import (
    LINE,
    AttemptGranted,
    BudgetChanged,
    BudgetReached,
    BudgetRequested,
    CancelRequested,
    GrantReturned,
    LimitsSet,
    PauseRequested,
    Rate,
    RecoveryChosen,
    RequestAnswered,
    ResultRefused,
    ResumeRequested,
    RunAccepted,
    RunRequested,
    Snapshot,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    StepStarted,
)
from services.outcome import Cost, Usage
from services.profiles import ToolProfile, model_of
from services.scheduler import fleet as fleets
from services.scheduler.appends import appends
from services.scheduler.budget import budget_name
from services.scheduler.config import PREFIX, SchedulerConfig
from services.scheduler.decide import asking, due
from services.scheduler.fleet import BreakerLimits, Fleet
from services.scheduler.grants import GRANTS_MAX, SharedLimits, day_of, midnight_ns, standing
from services.scheduler.rates import DEBT_NS_MAX, MINUTE_NS, Bucket, interval_ns, opens_ns, pay, take
from services.scheduler.state import Fact, evolve
from services.wire import Entry, attempt_subject, parse_subject

NANO = 10**9
DAY_NS = 86_400 * SECOND_NS


def cents(count):
    return count * NANO // 100


def paid(tree, count, *, tokens=10, lower_bound=False):
    usage = Usage(output_tokens=tokens, lower_bound=lower_bound)
    cost = None if count is None else Cost(nano_usd=cents(count), basis="reported")
    return StepFinished(
        ok=True, changed=True, snapshot=Snapshot(commit=f"commit-of-{tree}", tree=tree), usage=usage, cost=cost
    )


def ai(cap_usd=0.30, **rest):
    return ToolProfile(command="ai", type="ai", args=("{max_cost_usd}",), cost_cap_usd=cap_usd, **rest)


class Together:
    """Several runs on one log, with the decisions of all and those across runs, and time that a test moves."""

    def __init__(self, shared=None, runs=("r1", "r2"), names="abcd", profiles=None, bundles=None, **options):
        self.limits = shared or SharedLimits()
        self.profiles = profiles or {"editor": ai()}
        self.fleet = Fleet()
        self.runs = {}
        self.specs = {}
        self.now_ns = START_NS
        self.log = []
        self.cost = lambda _step: 30
        for run in runs:
            self.submit(run, bundles or [bundle(f"ws-{letter}") for letter in names], **options)

    def submit(self, run, bundles, *, tenant="", **options):
        made_spec = spec(bundles, profiles=self.profiles, static=(), runtime=None, **{"review": "wait", **options})
        self.specs[run] = msgspec.structs.replace(made_spec, run=run)
        request = RunRequested(
            request_id=f"q-{run}", actor="ann", spec=SPEC, workstreams=len(bundles), repository="repo", base_commit=BASE,
            tenant=tenant,
        )  # fmt: skip
        self.write(f"swell.event.{run}.request", request)

    def write(self, subject, *events):
        place = parse_subject(subject)
        self.now_ns += 1_000_000
        entry = Entry(id=f"id-{len(self.log)}", run=place.run, at_ns=0, by="x", events=list(events))
        named = self.specs.get(place.run) if any(isinstance(event, RunAccepted) for event in events) else None
        fact = Fact(len(self.log) + 1, self.now_ns, place, entry, named)
        self.log.append(fact)
        self.fleet, self.runs = fold(self.fleet, self.runs, fact)

    # Deciding

    def due_across_runs(self):
        return fleets.due(
            self.fleet, self.now_ns, BreakerLimits(), wants=[], seen=[], watched_s=1.0, lease_s=10.0, shared=self.limits,
            asks=asking(self.runs.values(), self.fleet),
            live={name for name, run in self.runs.items() if run.finished is None},
        )  # fmt: skip

    def step(self):
        """One entry of each that owes one; whether there was any."""
        before = len(self.log)
        events = self.due_across_runs()
        if events:
            self.write("swell.event.fleet.run", *events)
        for name, run in list(self.runs.items()):
            if run.finished is not None:
                continue
            decisions = due(run, self.now_ns, None, self.fleet)
            for append in appends(run, decisions) if decisions else ():
                self.write(append.subject, *append.events)
            assert len(self.runs[name].open) <= run.definitions.spec.options.max_workers if run.definitions else True
        return len(self.log) > before

    def settle(self):
        for _ in range(400):
            if not self.step():
                return self
        raise AssertionError(f"still deciding: {[fact.entry.events for fact in self.log[-3:]]}")

    # Attempts

    def close(self, run, workstream, attempt, event=None):
        subject = attempt_subject(run, workstream, attempt)
        scheduled = self.runs[run].open[workstream, attempt].scheduled
        self.write(subject, StepStarted(executor="e1", boot="k1"))
        self.write(subject, event or self.success(scheduled))

    def success(self, scheduled):
        if scheduled.step in {"edit", "fix"}:
            return paid(f"{scheduled.workstream}-{scheduled.attempt}", self.cost(scheduled))
        return made(f"{scheduled.theirs.tree}+") if scheduled.step == "merge" else passed(scheduled)

    def play(self, rounds=300):
        """On until every run is over, or nothing moves; time goes to whatever is next."""
        for _ in range(rounds):
            self.settle()
            opened = [(name, *key) for name, run in self.runs.items() for key in sorted(run.open)]
            if opened:
                self.close(*opened[0])
            elif all(run.finished for run in self.runs.values()):
                return self
            else:
                self.past(1)
        return self

    def past(self, seconds):
        self.now_ns += int(seconds * SECOND_NS)
        return self

    # What came of it

    def of(self, kind, run=""):
        return [
            event
            for fact in self.log
            for event in fact.entry.events
            if isinstance(event, kind) and run in ("", fact.place.run)
        ]

    def edits(self, run=""):
        return [event for event in self.of(StepScheduled, run) if event.step == "edit"]

    def money(self, tool=""):
        [found] = [one for one in standing(self.fleet.shared, self.now_ns) if one.tool == tool]
        return found.spent_nano, found.reserved_nano


def fold(fleet, runs, fact):
    place = fact.place
    run = runs.get(place.run)
    attempt = run.open.get((place.workstream, place.attempt)) if run is not None and place.kind == "attempt" else None
    scheduled = attempt.scheduled if attempt is not None else None
    fleet = fleets.evolve(fleet, fact.sequence, fact.time_ns, place, fact.entry, scheduled)
    if place.run != "fleet":
        runs[place.run] = evolve(run, fact)
    return fleet, runs


def budget(usd_cents, scope="fleet", name="", request_id="q-budget"):
    limit_nano = None if usd_cents is None else cents(usd_cents)
    return BudgetRequested(request_id=request_id, actor="ann", limit_nano=limit_nano, scope=scope, name=name)


# Rates


@given(
    st.builds(Rate, attempts_per_min=st.integers(1, 600), burst=st.integers(1, 6)),
    st.lists(st.integers(0, 90 * SECOND_NS), min_size=1, max_size=60),
)
@settings(deadline=None)
def test_no_span_of_time_has_more_than_the_burst_and_the_rate(rate, gaps):
    bucket, now_ns, taken = Bucket(), START_NS, []
    for gap_ns in gaps:
        now_ns += gap_ns
        if opens_ns(bucket, rate) <= now_ns:
            take(bucket, rate, now_ns)
            taken.append(now_ns)
    assert taken
    for first, begun_ns in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= rate.burst + (taken[last] - begun_ns) * rate.attempts_per_min / MINUTE_NS


def test_a_bucket_gives_its_burst_at_once_and_then_one_each_interval():
    rate, bucket = Rate(attempts_per_min=30, burst=3), Bucket()
    for _ in range(3):
        assert opens_ns(bucket, rate) <= START_NS
        take(bucket, rate, START_NS)
    assert opens_ns(bucket, rate) == START_NS + interval_ns(rate) == START_NS + 2 * SECOND_NS


def test_tokens_over_a_minutes_worth_are_waited_for():
    rate, bucket = Rate(tokens_per_min=600), Bucket()
    pay(bucket, rate, 600, START_NS)
    assert opens_ns(bucket, rate) <= START_NS
    pay(bucket, rate, 60, START_NS)
    assert opens_ns(bucket, rate) == START_NS + 6 * SECOND_NS


@pytest.mark.parametrize("tokens", [10**12, 2**62, -5])
def test_what_a_tool_tells_of_its_tokens_holds_nobody_up_for_ever(tokens):
    bucket = pay(Bucket(), Rate(tokens_per_min=1), tokens, START_NS)
    assert START_NS <= bucket.tokens_ns <= START_NS + DEBT_NS_MAX


@given(st.integers(0, 4_000_000_000))
def test_days_are_those_of_the_calendar(second):
    at = datetime.fromtimestamp(second, UTC)
    assert day_of(second * SECOND_NS + 999_999_999) == at.date().isoformat()
    assert midnight_ns(second * SECOND_NS) % DAY_NS == 0


# Nothing is limited by default


def test_without_limits_nothing_is_asked_and_the_spending_is_kept_all_the_same():
    both = Together().play()
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]
    assert both.of(AttemptGranted) == both.of(LimitsSet) == both.of(StepDelayed) == []
    assert not [fact for fact in both.log if fact.place.run == "fleet"]
    assert both.money() == both.money("editor") == (cents(240), 0)


# Budgets of the fleet and of tools


@pytest.mark.parametrize(
    "limits", [SharedLimits(fleet_usd_per_day=1.0), SharedLimits(tool_usd_per_day={"editor": 1.0})]
)
def test_two_runs_together_keep_to_a_budget_of_the_day(limits):
    """A dollar, thirty cents each: three begin, whichever run they are of, and the others wait for tomorrow."""
    both = Together(limits).play(60)
    assert len(both.edits()) == len(both.of(AttemptGranted)) == 3
    assert {grant.run for grant in both.of(AttemptGranted)} == {"r1", "r2"}
    assert both.money() == (cents(90), 0)
    waiting = [one.delayed for run in both.runs.values() for one in run.workstreams.values() if one.delayed]
    assert waiting
    assert {(one.cause, one.until_ns) for one in waiting} == {("limit", midnight_ns(START_NS))}
    assert "swell budget set" in waiting[0].reason
    assert [run.status for run in both.runs.values()] == ["running", "running"]


def test_the_next_day_they_go_on():
    both = Together(SharedLimits(fleet_usd_per_day=1.0), names="ab").play(60)
    both.now_ns = midnight_ns(both.now_ns)
    both.play()
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]
    assert both.money() == (cents(30), 0)


def test_a_budget_that_a_person_sets_beats_the_file_and_counts_what_the_day_has_cost():
    both = Together(names="ab", max_workers=1)
    both.settle()
    both.close("r1", "ws-a", 1)
    both.write("swell.event.fleet.request", budget(40))
    both.settle()
    [changed] = both.of(BudgetChanged)
    assert (changed.actor, changed.scope, changed.limit_nano) == ("ann", "fleet", cents(40))
    assert both.money() == (cents(30), cents(30))  # what was under way already goes on
    both.limits = SharedLimits(fleet_usd_per_day=9.0)
    both.play(40)
    assert len(both.edits()) == 2
    both.write("swell.event.fleet.request", budget(None, request_id="q-none"))
    both.play()
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]


def test_a_request_is_carried_out_once_and_one_that_names_nobody_is_refused():
    both = Together()
    for _ in range(2):
        both.write("swell.event.fleet.request", budget(40, "tool", "editor"))
        both.settle()
    both.write("swell.event.fleet.request", budget(40, "run", request_id="q-run"))
    both.write("swell.event.fleet.request", budget(40, "tool", "", request_id="q-tool"))
    both.settle()
    answers = {answer.request_id: answer.answer for answer in both.of(RequestAnswered, "fleet")}
    assert answers == {"q-budget": "accepted", "q-run": "refused", "q-tool": "refused"}
    assert len(both.of(BudgetChanged)) == 1


def test_the_file_is_recorded_when_it_changes_and_what_it_no_longer_names_goes():
    both = Together(SharedLimits(fleet_usd_per_day=0.3), names="a").settle()
    both.settle()
    assert len(both.of(LimitsSet)) == 1
    both.limits = SharedLimits()
    both.play()
    assert both.of(LimitsSet)[1] == LimitsSet()
    assert not both.fleet.shared.is_limited
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]


@pytest.mark.parametrize("mode", ["warn", "continue"])
def test_a_budget_that_only_tells_stops_nobody(mode):
    both = Together(SharedLimits(fleet_usd_per_day=1.0, mode=mode)).play()
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]
    assert [told.threshold for told in both.of(BudgetReached)] == ["warning", "exceeded"]
    assert both.of(AttemptGranted) == []


def test_each_threshold_is_told_once_for_a_day():
    both = Together(SharedLimits(fleet_usd_per_day=0.9, tool_usd_per_day={"editor": 2.0}), names="abcd").play(60)
    told = [(one.threshold, one.tool, one.day, one.spent_nano) for one in both.of(BudgetReached)]
    day = day_of(START_NS)
    assert told == [("warning", "", day, cents(90)), ("exceeded", "", day, cents(90))]
    both.now_ns = midnight_ns(both.now_ns)
    both.play(60)
    assert [(one.threshold, one.day) for one in both.of(BudgetReached)[2:]] == [
        ("warning", day_of(both.now_ns)), ("exceeded", day_of(both.now_ns)),
    ]  # fmt: skip


def test_an_attempt_counts_as_its_whole_cap_until_its_late_report():
    both = Together(SharedLimits(fleet_usd_per_day=1.0), names="a").settle()
    both.close("r1", "ws-a", 1, StepLost(reason="gone", executor="e1"))
    assert both.money() == (cents(30), cents(30))
    told = ResultRefused(executor="e1", boot="k1", result=paid("t", 5))
    both.write("swell.event.r1.ws-a.1.late", told)
    assert both.money() == (cents(5), cents(30))


def test_an_attempt_that_nobody_began_has_cost_nothing():
    both = Together(SharedLimits(fleet_usd_per_day=1.0), runs=("r1",), names="a").settle()
    both.write(attempt_subject("r1", "ws-a", 1), StepCancelled(reason="x", error_class="queue_timeout"))
    assert both.money() == (0, 0)


def test_a_tool_that_nothing_holds_to_an_amount_is_not_started_under_a_budget():
    loose = ToolProfile(command="ai", type="ai")
    both = Together(SharedLimits(fleet_usd_per_day=1.0), runs=("r1",), names="a", profiles={"editor": loose}).settle()
    assert both.edits() == []
    [chosen] = both.of(RecoveryChosen)
    assert (chosen.error_class, "cost_cap_usd" in chosen.reason) == ("budget", True)


def test_a_cap_is_no_more_than_what_a_day_may_cost():
    both = Together(SharedLimits(fleet_usd_per_day=0.2), runs=("r1",), names="a").settle()
    assert [step.cap_nano for step in both.edits()] == [cents(20)]


def test_a_budget_of_nothing_lets_nothing_begin_until_a_person_says_so():
    both = Together(SharedLimits(fleet_usd_per_day=0.0), runs=("r1",), names="a").settle()
    delayed = both.runs["r1"].workstreams["ws-a"].delayed
    assert (both.edits(), delayed.cause) == ([], "limit")
    both.write("swell.event.fleet.request", budget(100))
    both.play()
    assert both.runs["r1"].status == "completed"


def test_old_days_are_forgotten_and_open_attempts_are_not():
    both = Together(SharedLimits(fleet_usd_per_day=50.0), names="ab", max_workers=1).settle()
    both.close("r1", "ws-a", 1, StepLost(reason="gone", executor="e1"))
    both.write(attempt_subject("r2", "ws-a", 1), StepStarted(executor="e1", boot="k1"))
    both.now_ns += 9 * DAY_NS
    both.settle()
    days = {account.rpartition("/")[2] for account in both.fleet.shared.book.accounts}
    assert days == {day_of(START_NS), day_of(both.now_ns)}  # an attempt of r2 still holds the first one
    assert "r1/ws-a/1" in both.fleet.shared.book.holds
    both.close("r2", "ws-a", 1)
    both.now_ns += DAY_NS
    both.play()
    assert all(day_of(START_NS) not in account for account in both.fleet.shared.book.accounts)
    assert both.fleet.shared.book.holds == {}


def test_the_run_waits_with_its_own_budget_in_order():
    """What waits for its share is promised nothing of its run's budget meanwhile."""
    both = Together(
        SharedLimits(rates={"editor": Rate(attempts_per_min=6)}), runs=("r1",), names="abc", budget_nano=cents(90)
    ).play()
    assert both.runs["r1"].status == "completed"


# Rates across runs


def test_attempts_of_a_provider_begin_no_faster_than_its_rate():
    limits = SharedLimits(rates={"acme": Rate(attempts_per_min=6, burst=2)})
    both = Together(limits, profiles={"editor": ai(provider="acme")}).play()
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]
    at_ns = [f.time_ns for f in both.log for e in f.entry.events if isinstance(e, AttemptGranted)]
    assert len(at_ns) == 8
    for first in range(8):
        for last in range(first, 8):
            assert last - first + 1 <= 2 + (at_ns[last] - at_ns[first]) / (10 * SECOND_NS)
    assert {grant.provider for grant in both.of(AttemptGranted)} == {"acme"}


def test_runs_take_turns_and_a_run_goes_by_its_plan():
    limits = SharedLimits(rates={"editor": Rate(attempts_per_min=6)})
    both = Together(limits, names="abc", max_workers=3).play()
    order = [(grant.run, grant.workstream) for grant in both.of(AttemptGranted)]
    assert order == [(run, f"ws-{letter}") for letter in "abc" for run in ("r1", "r2")]


def test_a_model_has_a_rate_beside_that_of_its_provider():
    profiles = {
        "editor": ai(provider="acme", model="{big}"),
        "other": ai(provider="acme"),
    }
    limits = SharedLimits(rates={"acme": Rate(attempts_per_min=60, burst=10), "acme/huge": Rate(attempts_per_min=1)})
    bundles = [bundle("ws-a"), bundle("ws-b"), bundle("ws-c", tool="other"), bundle("ws-d", tool="other")]
    one = Together(limits, runs=("r1",), bundles=bundles, profiles=profiles, context={"big": "huge"}).settle()
    assert [step.workstream for step in one.edits()] == ["ws-a", "ws-c", "ws-d"]
    assert one.past(61).settle().edits()[-1].workstream == "ws-b"


def test_a_tool_that_has_told_its_provider_takes_from_its_rate():
    limits = SharedLimits(rates={"acme": Rate(attempts_per_min=1)})
    one = Together(limits, runs=("r1",), names="abc", max_workers=1).settle()
    told = msgspec.structs.replace(paid("t", 30), provider="acme")
    one.close("r1", "ws-a", 1, told)
    one.settle()
    one.close("r1", "ws-b", 1, told)
    one.settle()
    assert [grant.workstream for grant in one.of(AttemptGranted)] == ["ws-b"]
    delayed = one.runs["r1"].workstreams["ws-c"].delayed
    assert "the rate of acme" in delayed.reason


def test_tokens_that_attempts_tell_are_waited_for():
    limits = SharedLimits(rates={"editor": Rate(tokens_per_min=100)})
    one = Together(limits, runs=("r1",), names="ab", max_workers=1).settle()
    one.close("r1", "ws-a", 1, paid("t", 1, tokens=150))
    one.settle()
    assert len(one.edits()) == 1
    one.past(31).settle()
    assert len(one.edits()) == 2


def test_what_waits_for_one_provider_does_not_hold_up_another():
    profiles = {"editor": ai(provider="slow"), "other": ai(provider="quick")}
    limits = SharedLimits(rates={"slow": Rate(attempts_per_min=1), "quick": Rate(attempts_per_min=600, burst=9)})
    bundles = [bundle("ws-a"), bundle("ws-b"), bundle("ws-c", tool="other")]
    one = Together(limits, runs=("r1",), bundles=bundles, profiles=profiles).settle()
    assert [step.workstream for step in one.edits()] == ["ws-a", "ws-c"]


def test_a_tool_whose_day_is_over_does_not_hold_up_another():
    """However many wait for the one, and however few slots there are."""
    profiles = {"editor": ai(), "other": ai()}
    limits = SharedLimits(tool_usd_per_day={"editor": 0.1}, rates={"other": Rate(attempts_per_min=60, burst=9)})
    bundles = [*(bundle(f"ws-{n}") for n in range(6)), bundle("ws-y", tool="other"), bundle("ws-z", tool="other")]
    one = Together(limits, runs=("r1",), bundles=bundles, profiles=profiles, max_workers=2)
    one.write("swell.event.fleet.request", budget(0, "tool", "editor"))
    one.settle()
    assert [step.workstream for step in one.edits()] == ["ws-y", "ws-z"]


def test_once_the_fleets_day_is_over_no_more_begin_than_there_are_slots():
    one = Together(SharedLimits(fleet_usd_per_day=0.0), runs=("r1",), names="abcdefgh", max_workers=3).settle()
    run = one.runs["r1"]
    assert (len(run.delayed), len(run.startable)) == (3, 5)


def test_those_who_wait_keep_to_the_slots_of_their_run():
    """Nine are ready, three may be under way: three wait, and the others have not begun."""
    limits = SharedLimits(rates={"editor": Rate(attempts_per_min=1)})
    one = Together(limits, runs=("r1",), names="abcdefghi", max_workers=3).settle()
    run = one.runs["r1"]
    assert (len(run.open), len(run.delayed), len(run.startable)) == (1, 2, 6)
    assert len(one.of(StepDelayed)) == 3


def test_waiting_writes_nothing():
    limits = SharedLimits(fleet_usd_per_day=9, rates={"editor": Rate(attempts_per_min=1)})
    both = Together(limits).settle()
    written = len(both.log)
    for _ in range(20):
        both.past(1).settle()
    assert len(both.log) == written


# Grants that are not used


def test_a_share_that_is_not_used_in_time_is_given_back():
    both = Together(SharedLimits(fleet_usd_per_day=0.4, grant_s=10.0), names="a")
    while not any(run.delayed for run in both.runs.values()):
        both.step()
    both.write("swell.event.fleet.run", *both.due_across_runs())
    [grant] = both.of(AttemptGranted)
    both.write(f"swell.event.{grant.run}.request", PauseRequested(request_id="q-pause", actor="ann"))
    both.settle()
    assert both.edits() == []
    assert both.money() == (0, cents(30))
    both.past(10).settle()
    [returned] = both.of(GrantReturned)
    assert (returned.workstream, returned.attempt) == (grant.workstream, grant.attempt)
    assert len(both.edits()) == 1
    [other] = {"r1", "r2"} - {grant.run}
    assert len(both.edits(other)) == 1
    both.close(other, "ws-a", 1, paid("t", 5))
    both.write(f"swell.event.{grant.run}.request", ResumeRequested(request_id="q-resume", actor="ann"))
    both.play()
    assert [run.status for run in both.runs.values()] == ["completed", "completed"]


def test_a_run_that_is_over_has_its_shares_taken_back():
    one = Together(SharedLimits(fleet_usd_per_day=9.0), runs=("r1",), names="a")
    while not one.runs["r1"].delayed:
        one.step()
    grants = one.due_across_runs()
    one.write("swell.event.r1.request", CancelRequested(request_id="q-cancel", actor="ann"))
    for _ in range(9):  # nobody decides across runs meanwhile
        decisions = due(one.runs["r1"], one.now_ns, None, one.fleet)
        for append in appends(one.runs["r1"], decisions) if decisions and not one.runs["r1"].finished else ():
            one.write(append.subject, *append.events)
    assert one.runs["r1"].finished is not None
    one.write("swell.event.fleet.run", *grants)
    assert one.money() == (0, cents(30))
    one.settle()
    [returned] = one.of(GrantReturned)
    assert returned.run == "r1"
    assert one.money() == (0, 0)
    assert one.fleet.shared.grants == {}


def test_a_grant_that_comes_too_late_reserves_nothing():
    """Two schedulers: one schedules before the limits, the other grants after them."""
    one = Together(runs=("r1",), names="a").settle()
    grant = AttemptGranted(
        run="r1", workstream="ws-a", attempt=1, tool="editor", provider="editor", expires_ns=one.now_ns + 1,
        cap="enforced", cap_nano=cents(30),
    )  # fmt: skip
    one.write("swell.event.fleet.run", grant)
    assert one.money() == (0, cents(30))
    one.close("r1", "ws-a", 1, paid("t", None))
    one.write("swell.event.fleet.run", grant)
    one.write("swell.event.r1.run", GrantReturned(workstream="ws-a", attempt=1, reason="x"))
    assert one.money() == (cents(30), 0)


def test_a_grant_is_for_the_tool_and_the_cap_that_were_asked_for():
    """A budget that is lowered meanwhile: the step asks again, with less."""
    one = Together(SharedLimits(fleet_usd_per_day=0.3, grant_s=5.0), runs=("r1",), names="a")
    while not one.runs["r1"].delayed:
        one.step()
    one.write("swell.event.fleet.run", *one.due_across_runs())
    one.write("swell.event.fleet.request", budget(20))
    one.play()
    assert [step.cap_nano for step in one.edits()] == [cents(20)]
    assert one.runs["r1"].status == "completed"


def test_no_more_are_granted_at_once_than_an_entry_holds():
    names = [bundle(f"ws-{number:03}") for number in range(GRANTS_MAX + 50)]
    one = Together(SharedLimits(fleet_usd_per_day=900.0), runs=("r1",), bundles=names, max_workers=1000)
    while not one.runs["r1"].delayed:
        one.step()
    assert len([e for e in one.due_across_runs() if isinstance(e, AttemptGranted)]) == GRANTS_MAX
    one.settle()
    assert len(one.edits()) == GRANTS_MAX + 50


def test_checks_and_merges_draw_on_nothing():
    both = Together(SharedLimits(fleet_usd_per_day=9.0, rates={"editor": Rate(attempts_per_min=600, burst=9)})).play()
    assert {step.cap for step in both.of(StepScheduled) if step.step != "edit"} == {None}
    assert {grant.workstream for grant in both.of(AttemptGranted)} == {f"ws-{letter}" for letter in "abcd"}
    assert LINE in {step.workstream for step in both.of(StepScheduled)}


# Any order of things


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fleet.run", "fleet.request", "q1.run", "q1.ws-a.1", "q1.ws-a.1.late"]),
            st.lists(EVENTS, max_size=4),
            st.sampled_from([None, "none", "enforced"]),
            st.integers(0, 4 * DAY_NS),
        ),
        max_size=20,
    )
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_folding_goes_on_whatever_stands_in_the_log(log):
    """Total: no account falls below nothing, what is folded is kept in a snapshot, and decisions follow from it."""
    fleet, now_ns = Fleet(), START_NS
    for number, (name, events, cap, passed_ns) in enumerate(log, 1):
        now_ns += passed_ns
        place = parse_subject(f"swell.event.{name}")
        step = StepScheduled(
            workstream="ws-a", attempt=1, step="edit", pool="p", input=Snapshot(commit="c", tree="t"), timeout_s=1.0,
            queue_deadline_ns=1, tool="t", cap=cap, cap_nano=5 if cap else 0,
        )  # fmt: skip
        entry = Entry(id="x", run=place.run, at_ns=0, by="b", events=[step, *events] if name == "q1.run" else events)
        fleet = fleets.evolve(fleet, number, now_ns, place, entry, step if place.kind == "attempt" else None)
    for account in fleet.shared.book.accounts.values():
        assert min(account.spent_nano, account.reserved_nano) >= 0
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fleet), type=Fleet) == fleet
    limits = SharedLimits(fleet_usd_per_day=1.0)
    fleets.due(fleet, now_ns, BreakerLimits(), wants=[], seen=[], watched_s=1.0, lease_s=1.0, shared=limits, live=set())
    assert standing(fleet.shared, now_ns)[0].tool == ""


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_happens_the_fleet_keeps_to_its_budget_and_every_replay_agrees(data):
    """I6 over two runs: at each grant, what is spent and reserved is within the budget, but for what was overshot."""
    limit = data.draw(st.sampled_from([30, 60, 100, 250]))
    rate = Rate(attempts_per_min=data.draw(st.integers(6, 60)), burst=data.draw(st.integers(1, 3)))
    both = Together(SharedLimits(fleet_usd_per_day=limit / 100, rates={"editor": rate}), names="abc", max_workers=2)
    overshot = 0
    for _ in range(60):
        before = len(both.log)
        both.step()
        for fact in both.log[before:]:
            if any(isinstance(event, AttemptGranted) for event in fact.entry.events):
                spent, reserved = both.money()
                assert spent + reserved <= cents(limit) + overshot
        opened = [(name, *key) for name, run in both.runs.items() for key in sorted(run.open)]
        match data.draw(st.sampled_from(["close", "close", "lose", "fail", "wait", "pause"])):
            case "close" if opened:
                run, name, attempt = data.draw(st.sampled_from(opened))
                scheduled = both.runs[run].open[name, attempt].scheduled
                cost = data.draw(st.sampled_from([0, 10, 30, 50, None]))
                if scheduled.step == "edit":
                    overshot += cents(20) if cost == 50 else 0
                    both.close(run, name, attempt, paid(f"{name}-{attempt}", cost))
                else:
                    both.close(run, name, attempt)
            case "lose" if opened:
                both.close(*data.draw(st.sampled_from(opened)), StepLost(reason="gone", executor="e1"))
            case "fail" if opened:
                both.close(*data.draw(st.sampled_from(opened)), failed())
            case "wait":
                both.past(data.draw(st.sampled_from([1, 10, 40])))
            case "pause":
                kind = data.draw(st.sampled_from([PauseRequested, ResumeRequested]))
                request = kind(request_id=f"q-{len(both.log)}", actor="ann")
                both.write(f"swell.event.{data.draw(st.sampled_from(['r1', 'r2']))}.request", request)
            case _:
                pass
    again, runs = Fleet(), {}
    for fact in both.log:
        again, runs = fold(again, runs, fact)
    assert again == both.fleet
    packed = msgspec.msgpack.encode(both.fleet)
    assert msgspec.msgpack.decode(packed, type=Fleet) == both.fleet


# The file, and names


def shared_of(tmp_path, text):
    file = tmp_path / "scheduler.toml"
    file.write_text(f"[shared]\n{text}\n")
    return load(SchedulerConfig, file, {}, PREFIX).shared


def test_limits_of_the_file_are_recorded_in_whole_nano_dollars(tmp_path):
    text = """
        fleet_usd_per_day = 50
        tool_usd_per_day.claude = 0.1
        rates."anthropic/big" = { attempts_per_min = 30, burst = 5, tokens_per_min = 400000 }
    """
    assert shared_of(tmp_path, text).recorded == LimitsSet(
        fleet_nano=50 * NANO,
        tools_nano={"claude": NANO // 10},
        rates={"anthropic/big": Rate(attempts_per_min=30, burst=5, tokens_per_min=400_000)},
    )


def test_the_environment_may_set_them_too():
    env = {"SWELL_SHARED_FLEET_USD_PER_DAY": "2.5"}
    assert load(SchedulerConfig, None, env, PREFIX).shared.fleet_usd_per_day == 2.5


@pytest.mark.parametrize(
    "text",
    [
        "fleet_usd_per_day = -1", "fleet_usd_per_day = nan", "fleet_usd_per_day = inf", 'mode = "stop"', "grant_s = 0",
        "rates.a = { attempts_per_min = 0 }", "rates.a = { attempts_per_min = 1.5 }", "rates.a = { burst = 0 }",
        "rates.a = { tokens_per_min = -5 }", "rates.a = { requests = 5 }", 'tool_usd_per_day."" = 1', "fleet_usd = 1",
    ],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused_by_name(tmp_path, text):
    with pytest.raises(ConfigError, match=r"scheduler\.toml"):
        shared_of(tmp_path, text)


@pytest.mark.parametrize(
    ("model", "context", "named"),
    [
        (None, {}, ""), ("big", {}, "big"), ("{m}", {"m": "big"}, "big"), ("{m}", {}, ""), ("{m}", {"m": ""}, ""),
        ("{m}", {"m": ["x"]}, ""), ("{m}", {"m": "a\0b"}, ""),
    ],
)  # fmt: skip
def test_a_profile_names_its_model_or_what_the_context_says(model, context, named):
    assert model_of(ToolProfile(command="ai", type="ai", model=model), context, fix=False) == named


@pytest.mark.parametrize(
    ("account", "name"),
    [
        ("fleet/2026-11-23", "fleet"),
        ("tool/a/b/2026-11-23", "tool/a/b"),
        ("run/r1", "run/r1"),
        ("workstream/r/w", "workstream/r/w"),
    ],
)
def test_the_budget_of_an_account(account, name):
    assert budget_name(account) == name
