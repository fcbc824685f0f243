"""What a run waits for: one situation after the other, with and without its definition."""

from hypothesis import given, settings
from ledger_histories import LOG, START_NS, MemoryObjects, Story, histories, moved, scheduled, sha256
from test_ledger_server import serving

from services import events as ev
from services.bundle import WorkstreamBundle
from services.checks import Checks
from services.ledger.explain import Wait, explain, situation_of
from services.ledger.projector import Projector
from services.ledger.store import Store
from services.ledger.v1 import ledger_pb2 as pb
from services.spec import Definitions, Options, Repository, RunSpec, encode_spec
from services.wire import request_subject

SECOND_NS = 1_000_000_000


def bundle(name: str, *depends_on: str, **rest) -> WorkstreamBundle:
    given = {
        "openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "files_scope": (f"{name}.py",), "tasks": ("do it",),
        "tool": "claude",
    }  # fmt: skip
    return WorkstreamBundle(id=name, depends_on=depends_on, **{**given, **rest})


def spec(**options) -> RunSpec:
    """A and b, c behind a, d beside nobody of its group, in two waves."""
    return RunSpec(
        run="r1",
        repository=Repository(location="repo", base_commit="b" * 40),
        bundles=[
            bundle("ws-a", conflict_group="g"), bundle("ws-b"), bundle("ws-c", "ws-a"), bundle("ws-d", conflict_group="g"),
        ],
        waves=[["ws-a", "ws-b"], ["ws-c", "ws-d"]],
        checks=Checks(),
        profiles={},
        options=Options(**options),
    )  # fmt: skip


def begun(*, wave: bool = True) -> Story:
    """The run is accepted, and its first wave has started."""
    story = Story()
    known = {
        "request_id": "q", "actor": "ann", "spec": LOG, "workstreams": 4, "repository": "repo", "base_commit": "b" * 40,
    }  # fmt: skip
    story.entry(request_subject("r1"), ev.RunRequested(**known))
    story.decide(
        ev.RunAccepted(**known, deadline_ns=START_NS + 3600 * SECOND_NS),
        ev.RunTransitioned(from_state="pending", to_state="running"),
    )
    if wave:
        story.decide(
            ev.WaveStarted(wave=0, workstreams=["ws-a", "ws-b"]),
            moved("ws-a", "pending", "ready"),
            moved("ws-b", "pending", "ready"),
        )
    return story


def explained(folder, story: Story, definition: RunSpec | None) -> dict[str, Wait]:
    store = Store.open(folder / "l")
    try:
        store.commit(Projector(store.tip, store).fold(story.records))
        situation = situation_of(store, "r1")
        assert situation is not None
        waits = explain(situation, None if definition is None else Definitions(definition))
    finally:
        store.close()
    assert len({wait.workstream for wait in waits}) == len(waits)
    return {wait.workstream: wait for wait in waits}


def kinds(waits: dict[str, Wait]) -> dict[str, str]:
    return {name: wait.waiting_for for name, wait in waits.items()}


def test_attempts_executors_dependencies_and_waves(tmp_path):
    story = begun()
    edit = scheduled("ws-a", 1, "edit", tool="claude")
    story.decide(moved("ws-a", "ready", "editing"), edit, scheduled("ws-b", 1, "edit", tool="aider"))
    claimed = story.live("ws-a", 1, ev.StepStarted(executor="e1", boot="k1"))
    waits = explained(tmp_path, story, spec())
    assert kinds(waits) == {"": "attempt", "ws-a": "attempt", "ws-b": "executor", "ws-c": "dependency", "ws-d": "wave"}
    working = waits["ws-a"]
    assert (working.on, working.since_ns, working.until_ns) == (
        ["ws-a/1", "e1"], claimed.time_ns, claimed.time_ns + 60 * SECOND_NS,
    )  # fmt: skip
    assert "edit attempt 1 with claude runs on e1" in working.reason
    assert waits["ws-b"].on == ["p"]
    assert "start an executor of pool p" in waits["ws-b"].next
    assert waits["ws-b"].until_ns == 1
    assert waits["ws-c"].on == ["ws-a"]
    assert "ws-a" in waits["ws-d"].on
    assert waits[""].until_ns == START_NS + 3600 * SECOND_NS
    assert "0 are completed" in waits[""].reason


def test_without_a_definition_it_tells_what_was_mentioned(tmp_path):
    story = begun()
    story.decide(scheduled("ws-a", 1, "edit"))
    waits = explained(tmp_path, story, None)
    assert kinds(waits) == {"": "executor", "ws-a": "executor", "ws-b": "scheduler"}


def test_an_executor_of_the_pool_is_counted(tmp_path):
    story = begun()
    seen = ev.ExecutorTransitioned(
        executor="e9", boot="k", pool="p", slots=2, from_state="spawning", to_state="idle", reason="came"
    )
    story.decide(seen, run="fleet")
    story.decide(scheduled("ws-a", 1, "edit"))
    wait = explained(tmp_path, story, None)["ws-a"]
    assert wait.on == ["p", "e9"]
    assert "1 executor of pool p with 2 slots" in wait.reason
    assert wait.next == ""


def test_slots_and_conflicts(tmp_path):
    story = begun()
    story.decide(moved("ws-a", "ready", "editing"), scheduled("ws-a", 1, "edit"))
    full = explained(tmp_path, story, spec(max_workers=1, scheduling="eager"))
    assert (full["ws-b"].waiting_for, full["ws-b"].on) == ("slot", ["ws-a/1"])
    room = explained(tmp_path / "2", story, spec(max_workers=9, scheduling="eager"))
    assert (room["ws-d"].waiting_for, room["ws-d"].on) == ("conflict", ["ws-a"])
    assert room["ws-b"].waiting_for == "scheduler"


def test_what_stands_before_a_step(tmp_path):
    """A pause of a tool, with who paused it; a breaker, with how long; and since when."""
    story = begun()
    story.decide(ev.FleetPaused(scope="tool", name="claude", actor="bob", reason="costs"), run="fleet")
    delay = ev.StepDelayed(
        step=scheduled("ws-a", 1, "edit", tool="claude"), cause="tool_paused", reason="claude is paused"
    )
    first = story.decide(delay)
    story.decide(delay)
    other = ev.StepDelayed(
        step=scheduled("ws-b", 1, "edit", tool="aider"), cause="tool_breaker", reason="it fails", until_ns=77
    )
    story.decide(other)
    waits = explained(tmp_path, story, spec())
    paused = waits["ws-a"]
    assert (paused.waiting_for, paused.on, paused.since_ns, paused.until_ns) == (
        "tool_paused", ["claude"], first.time_ns, 0,
    )  # fmt: skip
    assert "tool claude paused by bob" in paused.reason
    assert paused.next == "swell resume --tool claude"
    assert (waits["ws-b"].waiting_for, waits["ws-b"].until_ns) == ("tool_breaker", 77)
    assert waits["ws-b"].next.startswith("swell resume --tool aider")
    assert waits[""].waiting_for == "tool_paused"


def test_people_and_money(tmp_path):
    story = begun()
    story.decide(moved("ws-a", "editing", "awaiting_review", "it changed nothing"))
    waits = explained(tmp_path, story, spec())
    assert waits["ws-a"].waiting_for == "review"
    assert waits["ws-a"].next == "swell review show r1 ws-a"
    assert waits["ws-a"].until_ns == 0
    held = story.decide(
        ev.RunTransitioned(from_state="running", to_state="paused", reason="waits for ws-a", cause="review")
    )
    paused = explained(tmp_path / "2", story, spec())[""]
    assert (paused.waiting_for, paused.on, paused.since_ns) == ("review", ["ws-a"], held.time_ns)
    assert paused.next == "swell review list --run r1"
    story.decide(
        ev.RunTransitioned(from_state="paused", to_state="running"),
        ev.RunTransitioned(from_state="running", to_state="paused", reason="used up", cause="budget"),
    )
    assert explained(tmp_path / "3", story, spec())[""].next == "swell budget set r1 USD"


def test_a_pause_of_the_run_names_who_paused_it(tmp_path):
    story = begun()
    paused = story.decide(
        ev.RunTransitioned(from_state="running", to_state="paused", reason="lunch", actor="bob", cause="request")
    )
    waits = explained(tmp_path, story, spec())
    assert (waits[""].waiting_for, waits[""].on, waits[""].since_ns) == ("pause", ["bob"], paused.time_ns)
    assert waits["ws-b"].reason == "the run is paused by bob: lunch"
    assert waits["ws-b"].next == "swell resume r1"


def test_the_line(tmp_path):
    story = begun()
    story.decide(moved("ws-a", "validating", "merging"), moved("ws-b", "validating", "merging"))
    story.decide(scheduled(ev.LINE, 1, "merge", on_behalf="ws-a"))
    waits = explained(tmp_path, story, spec())
    assert (waits["ws-a"].waiting_for, waits["ws-b"].waiting_for) == ("executor", "merge")
    assert waits["ws-b"].on == ["_line/1", "ws-a"]
    assert waits["ws-d"].on == ["ws-a", "ws-b"]
    mid = begun()
    mid.decide(moved("ws-a", "validating", "merging"), moved("ws-b", "ready", "editing"))
    assert explained(tmp_path / "2", mid, spec())["ws-a"].waiting_for == "wave"


def test_before_and_after(tmp_path):
    asked = Story()
    asked.records = begun(wave=False).records[:1]
    waits = explained(tmp_path, asked, spec())
    assert (waits[""].waiting_for, waits[""].since_ns) == ("scheduler", asked.records[0].time_ns)
    over = begun()
    over.finished("partial")
    ended = explained(tmp_path / "2", over, spec())
    assert kinds(ended) == {"": "ended"}
    assert ended[""].reason == "it ended partial: all merged."
    stopping = begun()
    stopping.decide(scheduled("ws-a", 1, "edit"), ev.RunStopping(outcome="cancelled", reason="enough"))
    wait = explained(tmp_path / "3", stopping, spec())[""]
    assert (wait.waiting_for, wait.on) == ("attempt", ["ws-a/1"])


def test_a_delay_between_waves_and_stepwise_runs(tmp_path):
    story = begun()
    story.decide(
        moved("ws-a", "merging", "completed"), moved("ws-b", "merging", "completed"),
        ev.WaveFinished(wave=0, next_not_before_ns=99),
    )  # fmt: skip
    waits = explained(tmp_path, story, spec())
    assert (waits["ws-c"].waiting_for, waits["ws-c"].until_ns) == ("wave", 99)
    assert "wave 2 starts next" in waits["ws-c"].reason
    steps = explained(tmp_path / "2", begun(), spec(stepwise=True))
    assert steps["ws-a"].waiting_for == "request"


@settings(max_examples=8, deadline=None)
@given(histories())
def test_whatever_stands_in_the_log_is_explained(tmp_path_factory, records):
    """Nothing raises, and whatever waits has a reason."""
    store = Store.open(tmp_path_factory.mktemp("s") / "l")
    store.commit(Projector(store.tip, store).fold(records))
    for (run,) in store.read("SELECT run FROM runs"):
        situation = situation_of(store, run)
        assert situation is not None
        for definition in (None, Definitions(spec())):
            waits = explain(situation, definition)
            assert all(wait.reason and wait.waiting_for for wait in waits)
    store.close()


async def test_it_is_asked_over_the_wire_and_reads_the_definition(tmp_path):
    data = encode_spec(spec())
    kept = ev.Artifact(role="spec", digest=sha256(data), name="kept", size_bytes=len(data))
    lost = ev.Artifact(role="spec", digest="0" * 64, name="kept", size_bytes=len(data))
    for artifact, read in ((kept, True), (lost, False)):
        story = begun()
        story.decide(ev.RunAmended(spec=artifact, amends="x", workstreams=[], actor="ann"))
        folder = tmp_path / artifact.digest[:4]
        async with serving(folder, story.records, objects=MemoryObjects(kept=data)) as ledger:
            answer = await ledger.stub.ExplainRun(pb.ExplainRunRequest(run="r1"))
            assert (answer.definition_read, answer.position, answer.run.run) == (read, len(story.records), "r1")
            assert ("ws-c" in {wait.workstream for wait in answer.waits}) == read
            assert answer.waits[0].workstream == ""
