"""What was spent: every attempt once, by whatever it is asked for, and nothing that is unknown as zero."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_histories import histories
from timed_histories import DAY_S, SECOND_NS, START_NS, Timed, ledger_of, told

from services import events as ev
from services.ledger.costs import COUNTED, Costs, get_costs, grouping, row_limit
from services.ledger.selection import Selection, checked
from services.ledger.store import Store
from services.outcome import Cost
from services.rpc import RpcError

NANO = 10**9


def spent(store: Store, *group_by: str, limit: int = 100, **selection) -> dict[tuple[str, ...], Costs]:
    found = get_costs(store, checked(Selection(**selection)), grouping(group_by), limit)
    assert sum(row.cost_nano or 0 for row in found.rows) == (found.total.cost_nano or 0) or found.groups > len(
        found.rows
    )
    return {tuple(row.key): row for row in found.rows}


def usd(rows: dict[tuple[str, ...], Costs]) -> dict[str, float | None]:
    return {"/".join(key): None if row.cost_nano is None else row.cost_nano / NANO for key, row in rows.items()}


def two_runs() -> Timed:
    """Two runs of two tenants on two days; one attempt is unpriced, one only known by a list."""
    story = Timed()
    story.begin("w1", "w2", run="r1", labels={"team": "pay", "ci": "x"}, tenant="acme")
    story.attempt("w1", 1, run="r1", **told(1.0))
    story.attempt("w1", 2, "static", run="r1")
    story.attempt("w1", 3, "fix", run="r1", **told(0.25, model="haiku"))
    story.attempt("w2", 1, run="r1", how={"tool": "codex"}, **told(2.0, model="gpt", provider="openai", basis="list"))
    story.at = DAY_S
    story.begin("w1", run="r2", repository="other", labels={"team": "web"})
    story.attempt("w1", 1, run="r2", how={"tool": "codex"})
    story.attempt("w1", 2, "fix", run="r2", **told(0.5, basis="estimate"))
    return story


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with ledger_of(tmp_path_factory.mktemp("costs"), two_runs().records) as opened:
        yield opened


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (["run"], {"r1": 3.25, "r2": 0.5}),
        (["tool"], {"codex": 2.0, "aider": 1.75}),
        (["model"], {"gpt": 2.0, "opus": 1.5, "haiku": 0.25, "": None}),
        (["provider"], {"openai": 2.0, "anthropic": 1.75, "": None}),
        (["step"], {"edit": 3.0, "fix": 0.75}),
        (["tenant"], {"acme": 3.25, "": 0.5}),
        (["repository"], {"repo": 3.25, "other": 0.5}),
        (["label:team"], {"pay": 3.25, "web": 0.5}),
        (["label:ci"], {"x": 3.25, "": 0.5}),
        (["day"], {"2026-09-21": 3.25, "2026-09-22": 0.5}),
        (["month"], {"2026-09": 3.75}),
        (["run", "workstream"], {"r1/w2": 2.0, "r1/w1": 1.25, "r2/w1": 0.5}),
        (["day", "repository", "tenant", "tool", "model"], {
            "2026-09-21/repo/acme/codex/gpt": 2.0, "2026-09-21/repo/acme/aider/opus": 1.0,
            "2026-09-22/other//aider/opus": 0.5, "2026-09-21/repo/acme/aider/haiku": 0.25,
            "2026-09-22/other//codex/": None,
        }),
    ],
)  # fmt: skip
def test_costs_are_grouped_the_dearest_first(store, by, expected):
    rows = spent(store, *by)
    assert usd(rows) == expected
    known = [cost for cost in usd(rows).values() if cost is not None]
    assert list(usd(rows).values()) == sorted(known, reverse=True) + [None] * (len(rows) - len(known))


@pytest.mark.parametrize(
    ("selection", "total"),
    [
        ({}, 3.75),
        ({"run": "r1"}, 3.25),
        ({"tool": "aider"}, 1.75),
        ({"model": "opus"}, 1.5),
        ({"provider": "openai"}, 2.0),
        ({"repository": "other"}, 0.5),
        ({"labels": {"team": "pay", "ci": "x"}}, 3.25),
        ({"labels": {"team": "pay", "ci": "y"}}, 0.0),
        ({"tenant": "acme"}, 3.25),
        ({"tenant": ""}, 0.5),
        ({"since_ns": START_NS + DAY_S * SECOND_NS}, 0.5),
        ({"until_ns": START_NS + DAY_S * SECOND_NS}, 3.25),
        ({"since_ns": START_NS + 10 * SECOND_NS, "until_ns": START_NS + 31 * SECOND_NS, "tool": "aider"}, 1.25),
        ({"run": "nobody"}, 0.0),
    ],
)
def test_what_is_selected_is_what_is_added(store, selection, total):
    found = get_costs(store, checked(Selection(**selection)), (), 100)
    assert found.rows == []
    assert found.total.cost_nano == round(total * NANO)


def test_what_nobody_knows_is_counted_and_never_zero(store):
    (row,) = [row for row in spent(store, "run", "tool").values() if row.key == ["r2", "codex"]]
    assert (row.cost_nano, row.unpriced, row.attempts) == (None, 1, 1)
    total = get_costs(store, Selection(), (), 1).total
    assert (total.cost_nano, total.unpriced, total.attempts) == (3_750_000_000, 1, 5)
    assert (total.reported_nano, total.list_nano, total.estimate_nano) == (1_250_000_000, 2_000_000_000, 500_000_000)
    assert (total.input_tokens, total.output_tokens) == (400, 40)
    nothing = get_costs(store, Selection(run="nobody"), (), 1).total
    assert (nothing.cost_nano, nothing.attempts) == (0, 0), "what was never begun costs nothing"


def test_price_tables_in_force_are_named(store):
    assert get_costs(store, Selection(), (), 1).price_tables == ["t-1"]
    assert get_costs(store, Selection(model="opus", run="r1"), (), 1).price_tables == []


def test_rows_are_bounded_and_the_total_covers_what_they_leave_out(store):
    found = get_costs(store, Selection(), grouping(["run", "workstream"]), 1)
    assert [row.key for row in found.rows] == [["r1", "w2"]]
    assert (found.groups, found.total.cost_nano) == (3, 3_750_000_000)


def test_what_is_learnt_late_counts(tmp_path: Path):
    story = Timed()
    story.begin("w1")
    story.attempt("w1", 1, **told(0.5))
    story.attempt("w1", 2, "fix", cost=None)
    story.late("w1", 2, ev.ResultRefused(executor="e1", boot="k1", result=ev.StepFinished(ok=True, **told(4.0))))
    with ledger_of(tmp_path, story.records) as store:
        total = get_costs(store, Selection(), (), 1).total
        assert (total.cost_nano, total.unpriced) == (4_500_000_000, 0)
        assert total.cost_nano == store.read("SELECT cost_nano FROM runs")[0][0]


def test_what_a_list_makes_of_it_stands_beside_what_the_tool_says(tmp_path: Path):
    story = Timed()
    story.begin("w1")
    story.attempt("w1", 1, list_cost=Cost(nano_usd=7, basis="list", table="t-9"), **told(0.5))
    story.attempt("w1", 2, "fix", **told(0.25))
    with ledger_of(tmp_path, story.records) as store:
        found = get_costs(store, Selection(), (), 1)
        assert (found.total.cost_nano, found.total.list_cost_nano, found.total.listed) == (750_000_000, 7, 1)
        assert found.price_tables == ["t-9"]


@pytest.mark.parametrize(
    "asked",
    [
        ["tools"], ["tool", "tool"], ["label:"], ["label:A"], ["label:a\"'); DROP"], ['label:a"b'], ["run\0"],
        ["run", "tool", "model", "step", "day", "month", "tenant"],
    ],
)  # fmt: skip
def test_what_is_nothing_to_group_by_is_refused(asked):
    with pytest.raises(RpcError) as caught:
        grouping(asked)
    assert caught.value.reason == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("field", "selection"),
    [
        ("run", {"run": "a b"}),
        ("tool", {"tool": "x" * 5000}),
        ("labels", {"labels": {"A": "x"}}),
        ("labels", {"labels": {f"a{n}": "" for n in range(33)}}),
        ("tenant", {"tenant": "a b"}),
        ("since_ns", {"since_ns": -1}),
        ("until_ns", {"since_ns": 5, "until_ns": 5}),
        ("until_ns", {"since_ns": 5, "until_ns": 4}),
    ],
)
def test_a_selection_that_cannot_be_is_refused_by_field(field, selection):
    with pytest.raises(RpcError, match=f"selection.{field}"):
        checked(Selection(**selection))


@pytest.mark.parametrize("limit", [-1, 10_001])
def test_a_limit_out_of_range_is_refused(limit):
    with pytest.raises(RpcError, match="limit"):
        row_limit(limit)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=histories(),
    by=st.lists(
        st.sampled_from(["run", "workstream", "step", "tool", "model", "day", "tenant"]), max_size=3, unique=True
    ),
)
def test_rows_add_up_to_the_total_and_the_total_to_the_attempts(tmp_path_factory, records, by):
    with ledger_of(tmp_path_factory.mktemp("p"), records) as store:
        found = get_costs(store, Selection(), grouping(by), 10_000)
        (attempts,) = store.read(
            f"""SELECT coalesce(sum(cost_nano), 0), count(*), count(*) FILTER (cost_nano IS NULL),
                coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0) FROM attempts AS a WHERE {COUNTED}"""  # noqa: S608 - a constant
        )
        total = found.total
        assert (
            total.cost_nano or 0,
            total.attempts,
            total.unpriced,
            total.input_tokens,
            total.output_tokens,
        ) == attempts
        assert (total.cost_nano or 0) == store.read("SELECT coalesce(sum(cost_nano), 0) FROM attempts")[0][0]
        if by:
            assert found.groups == len(found.rows)
            for field in ("cost_nano", "attempts", "unpriced", "input_tokens", "list_cost_nano"):
                assert sum(getattr(row, field) or 0 for row in found.rows) == (getattr(total, field) or 0)
