"""Budgets: recorded spend and reservations are within the limit at each dispatch, whatever the tools do."""

from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.scheduler.budget import (
    Book,
    Budget,
    Draw,
    Refusal,
    Report,
    late,
    notices,
    refusal,
    reserve,
    run_account,
    set_budget,
    settle,
    told,
    workstream_account,
)

USD = 10**9
RUN = run_account("r")
OTHER = run_account("other")
THIRD = run_account("third")


def book_with(limit_nano: int, *, mode: str = "halt", name: str = RUN) -> Book:
    return set_budget(Book(), name, Budget(limit_nano=limit_nano, mode=mode))


def draw(attempt: str, cap_nano: int, *accounts: str, cap: str = "enforced") -> Draw:
    return Draw(attempt=attempt, accounts=accounts or (RUN,), cap_nano=cap_nano, cap=cap)


def spent(book: Book, account: str = RUN) -> tuple[int, int]:
    return book.accounts[account].spent_nano, book.accounts[account].reserved_nano


def kinds(book: Book) -> list[tuple[str, str]]:
    return [(notice.account, notice.kind) for notice in notices(book)]


def tell(book: Book) -> list[tuple[str, str]]:
    """Tell what is due, as the scheduler does: decide, record, fold."""
    due = kinds(book)
    for account, kind in due:
        told(book, account, kind)
    return due


def test_a_dollar_is_three_attempts_of_thirty_cents():
    book = book_with(USD)
    for attempt in ("1", "2", "3"):
        one = draw(attempt, 300_000_000)
        assert refusal(book, one) is None
        settle(reserve(book, one), attempt, Report(nano_usd=300_000_000))
    fourth = draw("4", 300_000_000)
    assert refusal(book, fourth) == Refusal(
        account=RUN, reason="used_up", limit_nano=USD, spent_nano=900_000_000, reserved_nano=0, cap_nano=300_000_000
    )
    set_budget(book, RUN, Budget(limit_nano=2 * USD))
    assert refusal(book, fourth) is None


def test_a_reservation_holds_what_others_may_not_take():
    book = reserve(book_with(USD), draw("1", 600_000_000))
    refused = refusal(book, draw("2", 600_000_000))
    assert refused is not None
    assert refused.reason == "reserved"
    settle(book, "1", Report(nano_usd=1))
    assert refusal(book, draw("2", 600_000_000)) is None


@pytest.mark.parametrize("mode", ["warn", "continue"])
def test_only_halt_refuses(mode):
    book = book_with(1, mode=mode)
    assert refusal(book, draw("1", USD, cap="none")) is None


def test_a_budget_of_nothing_lets_nothing_through():
    book = set_budget(Book(), RUN, Budget(limit_nano=0))
    assert refusal(book, draw("1", 0)).reason == "used_up"
    assert refusal(book, draw("1", 1)).reason == "used_up"


def test_what_has_no_cap_is_refused_under_a_budget_unless_it_says_so():
    book = book_with(USD)
    assert refusal(book, draw("1", 5, cap="none")).reason == "uncapped"
    assert refusal(book, draw("1", 5, cap="soft")) is None
    assert refusal(book, draw("1", 5, THIRD, cap="none")) is None


def test_an_attempt_draws_on_all_its_accounts_and_the_tightest_decides():
    book = book_with(10 * USD)
    own = workstream_account("r", "ws-a")
    for name, limit in ((own, 2 * USD), (OTHER, 3 * USD), (THIRD, 100 * USD)):
        set_budget(book, name, Budget(limit_nano=limit))
    accounts = (RUN, own, OTHER, THIRD)
    reserve(book, draw("1", USD, *accounts))
    assert {spent(book, account) for account in accounts} == {(0, USD)}
    reserve(book, draw("2", USD, RUN, OTHER, THIRD))
    assert refusal(book, draw("3", USD + 1, *accounts)).account == own
    assert refusal(book, draw("3", 2 * USD, RUN, OTHER)).account == OTHER


def test_a_reason_that_waiting_does_not_help_goes_first():
    book = set_budget(book_with(USD), THIRD, Budget(limit_nano=1))
    reserve(book, draw("1", USD, RUN))
    assert refusal(book, draw("2", 2, RUN, THIRD)).reason == "used_up"


def test_what_nobody_knows_counts_as_the_full_cap_until_it_is_known():
    book = reserve(book_with(USD), draw("1", 400))
    settle(book, "1", None)
    assert spent(book) == (400, 0)
    late(book, "1", Report(nano_usd=150))
    assert spent(book) == (150, 0)
    late(book, "1", Report(nano_usd=150))
    assert spent(book) == (150, 0)


def test_a_lower_bound_never_makes_less_of_the_cap_and_may_make_more():
    book = reserve(book_with(USD), draw("1", 400))
    settle(book, "1", Report(nano_usd=100, lower_bound=True))
    assert spent(book) == (400, 0)
    late(book, "1", Report(nano_usd=500, lower_bound=True))
    assert spent(book) == (500, 0)


def test_late_reports_count_the_same_in_any_order_and_before_the_close():
    reports = [
        Report(nano_usd=70), Report(nano_usd=90), Report(nano_usd=80, lower_bound=True), Report(nano_usd=70), None,
    ]  # fmt: skip
    sums = set()
    for order in permutations(reports):
        for closes in range(len(order)):
            book = reserve(Book(), draw("1", 400))
            for report in order[:closes]:
                late(book, "1", report)
            settle(book, "1", None)
            for report in order[closes:]:
                late(book, "1", report)
            sums.add(spent(book))
    assert sums == {(90, 0)}


def test_a_known_cost_is_final_and_forgotten():
    book = reserve(Book(), draw("1", 400))
    settle(book, "1", Report(nano_usd=100))
    assert not book.holds
    settle(late(book, "1", Report(nano_usd=300)), "1", None)
    assert spent(book) == (100, 0)


def test_a_dispatch_that_is_folded_twice_is_one():
    book = reserve(reserve(Book(), draw("1", 400)), draw("1", 300, RUN, RUN))
    assert spent(book) == (0, 400)
    assert spent(settle(settle(book, "1", None), "1", None)) == (400, 0)


def test_what_a_tool_overshoots_is_recorded():
    book = reserve(book_with(1000), draw("1", 400))
    settle(book, "1", Report(nano_usd=5000))
    assert spent(book) == (5000, 0)
    assert refusal(book, draw("2", 1)).reason == "used_up"


def test_each_threshold_is_told_once():
    book = book_with(1000)
    told_so_far = []
    for attempt in range(12):
        settle(reserve(book, draw(str(attempt), 100)), str(attempt), Report(nano_usd=100))
        told_so_far.append(tell(book))
    assert told_so_far[7] == [(RUN, "warning")]
    assert told_so_far[9] == [(RUN, "exceeded")]
    assert sum(map(len, told_so_far)) == 2


def test_a_threshold_that_was_left_before_it_was_told_is_not_told():
    book = settle(reserve(book_with(1000), draw("1", 900)), "1", None)
    assert kinds(book) == [(RUN, "warning")]
    late(book, "1", Report(nano_usd=10))
    assert kinds(book) == []


def test_another_budget_may_be_warned_of_again():
    book = settle(reserve(book_with(1000), draw("1", 900)), "1", Report(nano_usd=900))
    assert tell(book) == [(RUN, "warning")]
    set_budget(book, RUN, Budget(limit_nano=10_000))
    assert tell(book) == []
    set_budget(book, RUN, Budget(limit_nano=900))
    assert tell(book) == [(RUN, "warning"), (RUN, "exceeded")]
    set_budget(book, RUN, None)
    assert tell(book) == []


def test_what_is_spent_before_there_is_a_budget_counts():
    book = settle(reserve(Book(), draw("1", 900)), "1", Report(nano_usd=900))
    set_budget(book, RUN, Budget(limit_nano=900))
    assert refusal(book, draw("2", 1)).reason == "used_up"


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30), st.booleans())
def test_no_number_breaks_the_book(cap, nano, lower_bound):
    book = reserve(book_with(USD), draw("1", cap))
    settle(book, "1", Report(nano_usd=nano, lower_bound=lower_bound))
    late(book, "1", Report(nano_usd=nano))
    late(book, "nobody", Report(nano_usd=nano))
    settle(book, "nobody", None)
    told(book, "nobody", "warning")
    assert refusal(book, draw("2", cap)) is None or book.accounts
    assert spent(book)[0] >= 0
    assert spent(book)[1] == 0


RUNS = ("r", "s")
caps = st.integers(0, 400)


class Dispatching(RuleBasedStateMachine):
    """Tools that keep their cap, overshoot, lie, say nothing, speak late or only of a lower bound; budgets that change."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.number = 0
        self.open: dict[str, Draw] = {}
        self.closed: dict[str, Draw] = {}
        self.reports: dict[str, list[Report]] = {}
        self.final: dict[str, int] = {}
        self.told: list[tuple[str, str]] = []

    @rule(
        name=st.sampled_from([RUN, run_account("s"), workstream_account("r", "ws"), OTHER, THIRD]),
        budget=st.none()
        | st.builds(
            Budget,
            limit_nano=st.integers(0, 2000),
            mode=st.sampled_from(["halt", "halt", "halt", "warn", "continue"]),
        ),
    )
    def budgets_change(self, name, budget):
        set_budget(self.book, name, budget)
        self.told = [one for one in self.told if not one[0].startswith(name)]

    @rule(
        run=st.sampled_from(RUNS),
        cap_nano=caps,
        cap=st.sampled_from(["enforced", "enforced", "soft", "none"]),
    )
    def a_step_is_due(self, run, cap_nano, cap):
        self.number += 1
        accounts = (run_account(run), workstream_account(run, "ws"), OTHER, THIRD)
        wanted = Draw(attempt=str(self.number), accounts=accounts, cap_nano=cap_nano, cap=cap)
        if refusal(self.book, wanted) is not None:
            return
        reserve(self.book, wanted)
        self.open[wanted.attempt] = wanted
        for key in accounts:
            budget, account = self.book.budget_of(key), self.book.accounts[key]
            if budget is not None and budget.mode == "halt":
                assert account.spent_nano + account.reserved_nano <= budget.limit_nano
                assert cap != "none"

    @precondition(lambda self: self.open)
    @rule(data=st.data(), nano=st.integers(0, 900), how=st.sampled_from(["told", "bound", "silent"]))
    def a_step_closes(self, data, nano, how):
        attempt = data.draw(st.sampled_from(sorted(self.open)))
        report = None if how == "silent" else Report(nano_usd=nano, lower_bound=how == "bound")
        settle(self.book, attempt, report)
        self.closed[attempt] = self.open.pop(attempt)
        if report is not None:
            self.reports.setdefault(attempt, []).append(report)
        if how == "told":
            self.final[attempt] = max(one.nano_usd for one in self.reports[attempt])

    @precondition(lambda self: self.open or self.closed)
    @rule(data=st.data(), nano=st.integers(0, 900), bound=st.booleans())
    def something_is_learnt_late(self, data, nano, bound):
        attempt = data.draw(st.sampled_from(sorted([*self.open, *self.closed])))
        late(self.book, attempt, Report(nano_usd=nano, lower_bound=bound))
        self.reports.setdefault(attempt, []).append(Report(nano_usd=nano, lower_bound=bound))

    @rule()
    def what_is_due_is_told(self):
        fresh = tell(self.book)
        assert not set(fresh) & set(self.told)
        self.told += fresh
        assert kinds(self.book) == []

    @rule()
    def the_scheduler_restarts(self):
        self.book = msgspec.json.decode(msgspec.json.encode(self.book), type=Book)

    @invariant()
    def the_accounts_are_the_sums_of_their_attempts(self):
        for key, account in self.book.accounts.items():
            assert account.reserved_nano == sum(one.cap_nano for one in self.open.values() if key in one.accounts)
            assert account.spent_nano == sum(
                self.counts_as(attempt, one) for attempt, one in self.closed.items() if key in one.accounts
            )

    def counts_as(self, attempt: str, one: Draw) -> int:
        if attempt in self.final:
            return self.final[attempt]
        reports = self.reports.get(attempt, [])
        bounds = [report.nano_usd for report in reports]
        exact = [report for report in reports if not report.lower_bound]
        return max(bounds) if exact else max([one.cap_nano, *bounds])


TestDispatching = Dispatching.TestCase
TestDispatching.settings = settings(max_examples=60, stateful_step_count=60)


behaviours = st.lists(
    st.tuples(st.sampled_from(["honest", "overshoots", "silent", "lost"]), st.integers(1, 300), st.integers(0, 500)),
    max_size=60,
)


@given(behaviours, st.integers(0, 2000), st.integers(1, 8))
def test_a_halted_run_overshoots_by_no_more_than_its_tools_do(tools, limit, slots):
    """A fixed budget, several attempts at a time: recorded spending ≤ limit + what attempts exceeded their caps."""
    book = book_with(limit)
    over, open_attempts = 0, []

    def finish(attempt: str, behaviour: str, cap: int, excess: int) -> int:
        cost = {"honest": cap // 2, "overshoots": cap + excess}.get(behaviour)
        settle(book, attempt, None if cost is None else Report(nano_usd=cost))
        return excess if behaviour == "overshoots" else 0

    for number, (behaviour, cap, excess) in enumerate(tools):
        wanted = draw(str(number), cap)
        if refusal(book, wanted) is None:
            reserve(book, wanted)
            assert sum(spent(book)) <= limit
            open_attempts.append((str(number), behaviour, cap, excess))
        if len(open_attempts) >= slots:
            over += finish(*open_attempts.pop(0))
    over += sum(finish(*one) for one in open_attempts)
    if book.accounts:
        assert spent(book)[0] <= limit + over
        assert spent(book)[1] == 0
