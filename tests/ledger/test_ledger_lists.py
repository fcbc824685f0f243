"""Lists with filters and orders, what is told of one attempt, failures, and how a run stood earlier."""

import itertools

import grpc
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_histories import BASE, LOG, SPEC, START_NS, Story, histories, moved, scheduled, snapshot, steady
from test_ledger_server import pages, reason, serving

from services import events as ev
from services.ledger import queries
from services.ledger.past import ErrorFilter, TooMuchHistoryError, as_of, list_errors
from services.ledger.projector import Projector, RunRow
from services.ledger.queries import AttemptFilter, EventFilter
from services.ledger.runs import RunFilter, RunOrder, list_runs, parse_order
from services.ledger.store import Store
from services.ledger.v1 import ledger_pb2 as pb
from services.outcome import Cost
from services.wire import request_subject

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def asked(story: Story, run: str, **rest) -> None:
    """A run is asked for and accepted."""
    known = {
        "request_id": f"q-{run}", "actor": "ann", "spec": SPEC, "workstreams": 1, "repository": "repo",
        "base_commit": BASE.commit, **rest,
    }  # fmt: skip
    story.entry(request_subject(run), ev.RunRequested(**known), run=run)
    story.decide(ev.RunAccepted(**known), ev.RunTransitioned(from_state="pending", to_state="running"), run=run)


def various() -> list:
    """Five runs: labels, tenants, repositories, tools and costs differ."""
    story = Story()
    asked(story, "a", labels={"team": "core", "key": 'x","team":"web'}, tenant="t1")
    asked(story, "b", labels={"team": "web"}, tenant="t2", repository="other")
    asked(story, "c", labels={"team": "core", "ticket": "7"}, actor="bob")
    asked(story, "d")
    asked(story, "e", labels={"steam": "core"})
    for run, tools, nano in (("a", ["claude"], 30), ("b", ["claude", "aider"], 10), ("d", ["aider"], 20)):
        for number, tool in enumerate(tools, 1):
            story.decide(scheduled("w", number, "edit", tool=tool), run=run)
            story.live("w", number, ev.StepStarted(executor="e1", boot="k1"), run=run)
            cost = Cost(nano_usd=nano, basis="reported")
            story.live("w", number, ev.StepFinished(ok=True, snapshot=snapshot("d"), cost=cost), run=run)
    story.decide(scheduled("w", 1, "static", tool="codex"), run="c")
    story.finished(run="b")
    story.finished(run="a")
    return story.records


async def names(stub, **wanted) -> str:
    return "".join(run.run for run in await pages(stub.ListRuns, pb.ListRunsRequest(page_size=2, **wanted), "runs"))


async def test_runs_by_what_they_are(tmp_path):
    records = various()
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub
        for wanted, found in (
            ({}, "edcba"),
            ({"state": "running"}, "edc"),
            ({"repository": "other"}, "b"),
            ({"tenant": "t1"}, "a"),
            ({"actor": "bob"}, "c"),
            ({"labels": ["team=core"]}, "ca"),
            ({"labels": ["team"]}, "cba"),
            ({"labels": ["team", "ticket=7"]}, "c"),
            ({"labels": ["team=web"]}, "b"),
            ({"labels": ["eam=core"]}, ""),
            ({"tool": "claude"}, "ba"),
            ({"tool": "aider"}, "db"),
            ({"tool": "codex"}, ""),
            ({"tool": "aider", "state": "running"}, "d"),
            ({"since_ns": START_NS + 5000}, "edc"),
            ({"until_ns": START_NS + 5000}, "ba"),
            ({"since_ns": START_NS + 3000, "until_ns": START_NS + 5000}, "b"),
            ({"since_ns": START_NS + 5000, "until_ns": START_NS + 5000}, ""),
        ):
            assert await names(stub, **wanted) == found, wanted
        answer = await stub.ListRuns(pb.ListRunsRequest(page_size=1, tenant="t1"))
        (run,) = answer.runs
        assert (dict(run.labels), run.tenant, run.cost_nano) == (
            {"team": "core", "key": 'x","team":"web'}, "t1", 30,
        )  # fmt: skip
        assert answer.position == len(records)


async def test_runs_in_the_order_asked_for(tmp_path):
    async with serving(tmp_path, various()) as ledger:
        for order, found in (
            ("submitted_ns", "abcde"),
            ("submitted_ns desc", "edcba"),
            ("finished_ns desc", "abedc"),
            ("finished_ns asc", "bacde"),
            ("cost_nano desc", "adbec"),
            ("attempts desc", "bdcae"),
        ):
            runs = await pages(ledger.stub.ListRuns, pb.ListRunsRequest(page_size=2, order_by=order), "runs")
            column = order.split()[0]
            said = [getattr(run, column) for run in runs if run.finished_ns or column != "finished_ns"]
            assert said == sorted(said, reverse=order.endswith("desc"))
            assert "".join(run.run for run in runs) == found, order


async def test_what_is_asked_wrongly_is_told(tmp_path):
    async with serving(tmp_path, various()) as ledger:
        stub = ledger.stub
        for call in (
            stub.ListRuns(pb.ListRunsRequest(order_by="size")),
            stub.ListRuns(pb.ListRunsRequest(order_by="attempts down")),
            stub.ListRuns(pb.ListRunsRequest(since_ns=2, until_ns=1)),
            stub.ListRuns(pb.ListRunsRequest(since_ns=-1)),
            stub.ListRuns(pb.ListRunsRequest(labels=["=x"])),
            stub.ListRuns(pb.ListRunsRequest(labels=["x"] * 33)),
            stub.ListRuns(pb.ListRunsRequest(tool="x" * 4097)),
            stub.ListRuns(pb.ListRunsRequest(page_size=-1)),
            stub.ListEvents(pb.ListEventsRequest(since_ns=2, until_ns=1)),
            stub.ListEvents(pb.ListEventsRequest(severities=["Loud!"])),
            stub.ListErrors(pb.ListErrorsRequest(since_ns=2, until_ns=1)),
            stub.GetRun(pb.GetRunRequest(run="a", as_of=pb.Moment())),
            stub.GetRun(pb.GetRunRequest(run="a", as_of=pb.Moment(position=-1))),
            stub.GetAttempt(pb.GetAttemptRequest(run="a", workstream="w")),
            stub.WatchRuns(pb.WatchRunsRequest(state="!")).read(),
            stub.WatchEvents(pb.WatchEventsRequest(kinds=["!"])).read(),
        ):
            assert await reason(call) == INVALID
        with pytest.raises(grpc.aio.AioRpcError, match="submitted_ns, finished_ns, cost_nano, attempts"):
            await stub.ListRuns(pb.ListRunsRequest(order_by="size"))
        with pytest.raises(grpc.aio.AioRpcError, match="since_ns 2 is behind until_ns 1"):
            await stub.ListRuns(pb.ListRunsRequest(since_ns=2, until_ns=1))
        missing = (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        for call in (
            stub.ListTransitions(pb.ListTransitionsRequest(run="nope")),
            stub.ExplainRun(pb.ExplainRunRequest(run="nope")),
            stub.GetRun(pb.GetRunRequest(run="nope", as_of=pb.Moment(position=3))),
            stub.ListAttempts(pb.ListAttemptsRequest(run="e", as_of=pb.Moment(position=3))),
        ):
            assert await reason(call) == missing
        attempt = stub.GetAttempt(pb.GetAttemptRequest(run="a", workstream="w", attempt=9))
        assert await reason(attempt) == (grpc.StatusCode.NOT_FOUND, "ATTEMPT_NOT_FOUND")


async def test_a_token_belongs_to_filter_and_order(tmp_path):
    async with serving(tmp_path, various()) as ledger:
        stub = ledger.stub
        bad = (grpc.StatusCode.INVALID_ARGUMENT, "BAD_PAGE_TOKEN")
        token = (await stub.ListRuns(pb.ListRunsRequest(page_size=1, state="running"))).next_page_token
        for request in (
            pb.ListRunsRequest(page_token=token),
            pb.ListRunsRequest(page_token=token, state="running", order_by="submitted_ns"),
            pb.ListRunsRequest(page_token=token, state="running", labels=["x"]),
            pb.ListRunsRequest(page_token=token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), state="running"),
            pb.ListRunsRequest(page_token="x" * 300, state="running"),
        ):
            assert await reason(stub.ListRuns(request)) == bad
        same = pb.ListRunsRequest(page_token=token, state="running", order_by="submitted_ns desc")
        assert [run.run for run in (await stub.ListRuns(same)).runs] == ["d", "c"]
        watch = stub.WatchRuns(pb.WatchRunsRequest(resume_token=token)).read()
        assert await reason(watch) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_RESUME_TOKEN")


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from(["submitted_ns", "finished_ns", "finished_ns desc", "cost_nano desc", "attempts", "attempts desc"]),
    st.sampled_from(
        [RunFilter(), RunFilter(state="x"), RunFilter(labels=("l=1",)), RunFilter(state="y", labels=("l",))]
    ),
)
def test_pages_of_any_order_are_the_whole_sorted(tmp_path_factory, runs, order, wanted):
    """Small pages, put together, are what sorting the matching rows in memory gives."""
    store = Store.open(tmp_path_factory.mktemp("s") / "l")
    rows = [
        RunRow(
            run=f"r{at}", first_position=at + 1, position=at + 1, state=state, attempts=number, cost_nano=number,
            finished_ns=number, labels=msgspec.json.encode({"l": str(label)} if label else {}).decode(),
        )
        for at, (state, label, number) in enumerate(runs)
    ]  # fmt: skip
    batch = Projector(store.tip, store).fold([])
    store.commit(msgspec.structs.replace(batch, runs=rows))
    parsed = parse_order(order)
    found, behind = [], None
    while page := list_runs(store, wanted, parsed, behind=behind, limit=2):
        found += [row.run for row in page]
        last = parsed.cursor_of(page[-1])
        behind = (last[0], last[1])
    store.close()
    matching = [row for row in rows if wanted.matches(row)]
    assert found == [row.run for row in sorted(matching, key=parsed.cursor_of, reverse=parsed.descending)]


def stumbling() -> list:
    """A workstream fails twice in one way and once in another; one result comes too late."""
    story = Story()
    story.accepted("a", "b")
    red = {"ok": False, "error_class": "check_failed", "signature": "s1"}
    story.step("a", 1, "static", ev.StepFinished(**red, message="first"))
    story.step("a", 2, "fix", ev.StepFinished(ok=True, snapshot=snapshot("d")))
    story.step("a", 3, "static", ev.StepFinished(**red, message="second"))
    story.step("b", 1, "edit", ev.StepFinished(ok=False, error_class="timeout", message="slow"))
    story.decide(scheduled("b", 2, "edit", tool="claude"))
    story.live("b", 2, ev.StepStarted(executor="e7", boot="k1"))
    story.live("b", 2, ev.StepLost(reason="gone", executor="e7"))
    story.late("b", 2, ev.ProcessesReaped(executor="e7", boot="k1", processes=3))
    story.late("b", 2, ev.ResultRefused(executor="e7", boot="k1", result=ev.StepFinished(ok=True, artifacts=[LOG])))
    story.decide(moved("a", "static_check", "failed", "it stays red"))
    return story.records


async def test_failures_are_told_once_with_how_often_and_when(tmp_path):
    records = stumbling()
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub
        found = await pages(stub.ListErrors, pb.ListErrorsRequest(page_size=1), "errors")
        assert [(e.workstream, e.step, e.signature, e.error_class, e.message, e.count) for e in found] == [
            ("b", "edit", "lost", "lost", "gone", 1),
            ("b", "edit", "timeout", "timeout", "slow", 1),
            ("a", "static", "s1", "check_failed", "second", 2),
        ]
        twice = found[2]
        assert (twice.first_attempt, twice.last_attempt, twice.first_seen_ns < twice.last_seen_ns) == (1, 3, True)
        for wanted, count in (
            ({"run": "r1"}, 3), ({"run": "r2"}, 0), ({"workstream": "b"}, 2), ({"step": "static"}, 1),
            ({"tool": "claude"}, 1), ({"error_class": "timeout"}, 1), ({"since_ns": twice.last_seen_ns + 1}, 2),
            ({"until_ns": twice.last_seen_ns}, 1),
        ):  # fmt: skip
            answer = await stub.ListErrors(pb.ListErrorsRequest(**wanted))
            assert (len(answer.errors), answer.position) == (count, len(records)), wanted


def test_failures_are_those_of_the_view(tmp_path):
    store = Store.open(tmp_path / "l")
    store.commit(Projector(store.tip, store).fold(stumbling()))
    view = store.read("SELECT * FROM errors ORDER BY last_seen_ns DESC")
    records, _ = list_errors(store, ErrorFilter(), behind=None, limit=10)
    assert [msgspec.structs.astuple(one)[:11] for one in records] == view
    store.close()


async def test_an_attempt_with_claim_close_and_late_facts(tmp_path):
    async with serving(tmp_path, stumbling()) as ledger:
        answer = await ledger.stub.GetAttempt(pb.GetAttemptRequest(run="r1", workstream="b", attempt=2))
        assert (answer.attempt.state, answer.attempt.executor, answer.attempt.late_facts) == ("lost", "e7", 2)
        assert [answer.scheduled.kind, answer.claim.kind, answer.close.kind] == [
            "step_scheduled", "step_started", "step_lost",
        ]  # fmt: skip
        assert [fact.kind for fact in answer.late] == ["processes_reaped", "result_refused"]
        assert msgspec.json.decode(answer.late[0].payload_json)["processes"] == 3
        open_one = await ledger.stub.GetAttempt(pb.GetAttemptRequest(run="r1", workstream="a", attempt=1))
        assert (open_one.close.kind, len(open_one.late)) == ("step_finished", 0)


async def test_changes_of_state_with_reason_and_actor(tmp_path):
    async with serving(tmp_path, stumbling()) as ledger:
        stub = ledger.stub
        both = await pages(stub.ListTransitions, pb.ListTransitionsRequest(run="r1", page_size=1), "transitions")
        assert [(t.workstream, t.from_state, t.to_state, t.reason, t.actor) for t in both] == [
            ("", "pending", "running", "", "scheduler"),
            ("a", "static_check", "failed", "it stays red", "scheduler"),
        ]
        for wanted, count in (({"workstream": "a"}, 1), ({"workstream": "-"}, 1), ({"actor": "ann"}, 0)):
            assert len((await stub.ListTransitions(pb.ListTransitionsRequest(run="r1", **wanted))).transitions) == count
        back = await stub.ListTransitions(pb.ListTransitionsRequest(run="r1", newest_first=True))
        assert [t.position for t in back.transitions] == [t.position for t in both][::-1]


async def test_attempts_and_events_by_more_than_their_run(tmp_path):
    async with serving(tmp_path, stumbling()) as ledger:
        stub = ledger.stub
        for wanted, found in (
            ({"step": "static"}, [("a", 1), ("a", 3)]), ({"ok": True}, [("a", 2)]), ({"state": "lost"}, [("b", 2)]),
            ({"executor": "e7"}, [("b", 2)]), ({"error_class": "timeout"}, [("b", 1)]), ({"tool": "claude"}, [("b", 2)]),
            ({"ok": False, "workstream": "b"}, [("b", 1), ("b", 2)]),
        ):  # fmt: skip
            request = pb.ListAttemptsRequest(run="r1", page_size=1, **wanted)
            attempts = await pages(stub.ListAttempts, request, "attempts")
            assert [(a.workstream, a.attempt) for a in attempts] == found, wanted
        tooled = (await stub.ListEvents(pb.ListEventsRequest(run="r1", tool="claude"))).events
        assert tooled
        assert {event.tool for event in tooled} == {"claude"}
        everything = (await stub.ListEvents(pb.ListEventsRequest(run="r1", page_size=1000))).events
        severe = await stub.ListEvents(pb.ListEventsRequest(run="r1", severities=["warning", "error"]))
        assert [e.position for e in severe.events] == [
            e.position for e in everything if e.severity in {"warning", "error"}
        ]  # fmt: skip
        middle = everything[len(everything) // 2].time_ns
        early = (await stub.ListEvents(pb.ListEventsRequest(run="r1", until_ns=middle))).events
        late = (await stub.ListEvents(pb.ListEventsRequest(run="r1", since_ns=middle, newest_first=True))).events
        assert [*early, *reversed(late)] == list(everything)


@pytest.mark.parametrize("newest_first", [False, True])
def test_events_are_found_however_far_apart_they_are(tmp_path, monkeypatch, newest_first):
    """Windows of positions that grow: nothing is left out between them."""
    monkeypatch.setattr(queries, "WINDOW", 3)
    monkeypatch.setattr(queries, "WINDOW_GROWTH", 2)
    store = Store.open(tmp_path / "l")
    store.commit(Projector(store.tip, store).fold(steady(3, 3)))
    for wanted in (EventFilter(), EventFilter(kinds=("run_finished",)), EventFilter(run="run1"), EventFilter(run="no")):
        found, cursor = [], None
        while page := queries.list_events(
            store, wanted, after_position=0, newest_first=newest_first, cursor=cursor, limit=4
        ):
            found += [(record.position, record.idx) for record in page]
            cursor = found[-1]
        conditions, values = wanted.where()
        where = " AND ".join(conditions) or "true"
        expected = store.read(f"SELECT position, idx FROM events WHERE {where}", values)  # noqa: S608 - our conditions
        assert found == sorted(expected, reverse=newest_first)
    store.close()


async def test_a_run_as_it_stood(tmp_path):
    records = stumbling()
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub

        async def stood(**moment) -> tuple[str, int, int, int]:
            then = pb.Moment(**moment)
            run = await stub.GetRun(pb.GetRunRequest(run="r1", as_of=then))
            attempts = await pages(
                stub.ListAttempts, pb.ListAttemptsRequest(run="r1", as_of=then, page_size=2), "attempts"
            )
            request = pb.ListWorkstreamsRequest(run="r1", as_of=then, page_size=1)
            workstreams = await pages(stub.ListWorkstreams, request, "workstreams")
            failed = sum(workstream.state == "failed" for workstream in workstreams)
            return run.run.state, len(attempts), failed, run.position

        assert await stood(position=1) == ("pending", 0, 0, 1)
        assert await stood(position=5) == ("running", 1, 0, 5)
        assert await stood(position=10**9) == ("running", 5, 1, len(records))
        assert await stood(time_ns=records[4].time_ns) == ("running", 1, 0, 5)
        assert await stood(time_ns=2**62) == ("running", 5, 1, len(records))


@settings(max_examples=12, deadline=None)
@given(histories())
def test_as_of_now_is_what_is_stored(tmp_path_factory, records):
    """Folding a run's entries alone gives the rows that the whole log gives, whatever it holds."""
    store = Store.open(tmp_path_factory.mktemp("s") / "l")
    store.commit(Projector(store.tip, store).fold(records))
    for (run,) in store.read("SELECT run FROM runs"):
        then = as_of(store, run, position=2**62, entries_max=1000)
        found = queries.get_run(store, run)
        attempts = queries.list_attempts(store, run, AttemptFilter(), after=(0, -1), limit=1000)
        workstreams = queries.list_workstreams(store, run, state="", after=None, limit=1000)
        assert then is not None
        assert (then.row, then.attempts) == (found[0], attempts[0])
        assert then.workstreams == workstreams[0]
    store.close()


async def test_too_much_history_is_refused(tmp_path):
    async with serving(tmp_path, steady(1, 5)) as ledger:
        ledger.answers._as_of_entries_max = 10
        request = pb.GetRunRequest(run="run0", as_of=pb.Moment(position=10**6))
        assert await reason(ledger.stub.GetRun(request)) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MUCH_HISTORY")


async def test_a_clock_that_goes_back(tmp_path):
    """Times filter by what the log says; positions order, and nothing is left out or told twice."""
    records = [
        msgspec.structs.replace(
            record, time_ns=START_NS + (1000 - 7 * record.sequence if record.sequence % 3 else 5000)
        )
        for record in steady(4, 2)
    ]
    async with serving(tmp_path, records) as ledger:
        stub = ledger.stub
        runs = await pages(stub.ListRuns, pb.ListRunsRequest(page_size=1), "runs")
        assert [run.run for run in runs] == ["run3", "run2", "run1", "run0"]
        events = await pages(stub.ListEvents, pb.ListEventsRequest(page_size=9), "events")
        places = [(event.position, event.index) for event in events]
        assert places == sorted(set(places))
        since = START_NS + 1000 - 7 * 20
        late = await pages(stub.ListEvents, pb.ListEventsRequest(page_size=9, since_ns=since), "events")
        assert [e.position for e in late] == [e.position for e in events if e.time_ns >= since]
        for run, at_ns in itertools.product(runs, (START_NS + 5000, since)):
            newest = max((r.sequence for r in records if r.time_ns <= at_ns and f".{run.run}." in r.subject), default=0)
            request = pb.GetRunRequest(run=run.run, as_of=pb.Moment(time_ns=at_ns))
            if newest:
                assert (await stub.GetRun(request)).position == newest
            else:
                assert (await reason(stub.GetRun(request)))[1] == "RUN_NOT_FOUND"


def test_orders_are_read_as_they_are_written():
    assert parse_order("") == parse_order(" submitted_ns  desc ") == RunOrder()
    assert parse_order("attempts") == RunOrder(column="attempts", descending=False)
    for text in ("desc", "attempts desc desc", "attempts, cost_nano", "runs.attempts"):
        with pytest.raises(ValueError, match="use one of"):
            parse_order(text)


def test_too_many_bytes_are_not_folded_for_one_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("services.ledger.past.AS_OF_BYTES_MAX", 1000)
    store = Store.open(tmp_path / "l")
    store.commit(Projector(store.tip, store).fold(steady(1, 1)))
    with store.reading() as tables, pytest.raises(TooMuchHistoryError, match="of 1000 bytes together"):
        as_of(tables, "run0", position=10**6, entries_max=10**6)
    store.close()
