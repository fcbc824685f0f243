"""Which spans end in a batch: the same ones, once each, however the log is cut into batches."""

import asyncio
import contextlib
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_histories import START_NS, MemoryLog, Story, batchings, histories, scheduled, snapshot, steady

from services import events as ev
from services.ledger import spans
from services.ledger.absorb import Absorber
from services.ledger.copying import copy_store
from services.ledger.past import Nothing
from services.ledger.projector import Projector, Tip
from services.ledger.store import Store, restored_file
from services.otlp import encoded
from services.outcome import Cost
from services.trace import of_attempt, of_run
from services.wire import decode_entry, encode_entry, request_subject

ASKED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(records, run="r1"):
    """The same entries as the services write them: the run's with its request's trace, an attempt's with its own span."""
    told = []
    for record in records:
        entry = decode_entry(record.data)
        parts = record.subject.split(".")
        text = ASKED
        if entry.by != "scheduler:1" and len(parts) > 4:
            text = of_attempt(of_run(run, ASKED), (run, parts[3], int(parts[4]))).text
        fields = {name: getattr(entry, name) for name in entry.__struct_fields__} | {"trace": text}
        told.append(type(record)(record.sequence, record.subject, record.time_ns, encode_entry(type(entry)(**fields))))
    return told


def ended(*batches):
    projector = Projector(Tip(), Nothing())
    return [span for batch in batches for span in spans.ended(projector.fold(batch))]


def told(span):
    return {name: value for name, value in span.attributes.items() if not name.endswith(("repository", "base_commit"))}


def story():
    made = Story()
    made.accepted("ws-a")
    finish = ev.StepFinished(
        ok=True, snapshot=snapshot("d"), cost=Cost(nano_usd=70, basis="list"), model="m", tool_wall_s=1.5
    )
    made.decide(scheduled("ws-a", 1, "edit", tool="claude"))
    made.live("ws-a", 1, ev.StepStarted(executor="e1", boot="k1"))
    made.live("ws-a", 1, finish)
    made.decide(scheduled("_line", 1, "merge", on_behalf="ws-a"))
    made.live("_line", 1, ev.StepLost(reason="no beat"))
    made.finished("failed", completed=0)
    return traced(made.records)


def test_a_run_and_its_attempts_are_spans_of_the_trace_that_asked_for_it():
    edit, edit_queue, merge, merge_queue, run = ended(story())
    own = of_run("r1", ASKED)
    assert (run.trace, run.parent, run.name) == (own, ASKED[36:52], "swell run")
    assert (run.start_ns, run.end_ns) == (START_NS + 1000, START_NS + 8000), "from the request to the end"
    assert (run.error, told(run)["swell.cost_nano"]) == ("failed: all merged", 70)
    assert (edit.trace, edit.parent) == (of_attempt(own, ("r1", "ws-a", 1)), own.span_id)
    assert (edit.name, edit.start_ns, edit.end_ns, edit.error) == ("edit", START_NS + 3000, START_NS + 5000, None)
    assert told(edit) == {
        "swell.run": "r1", "swell.workstream": "ws-a", "swell.attempt": 1, "swell.step": "edit", "swell.state": "finished",
        "swell.executor": "e1", "swell.pool": "p", "swell.tool": "claude", "swell.model": "m", "swell.tool_wall_s": 1.5,
        "swell.cost_nano": 70,
    }  # fmt: skip
    assert (edit_queue.name, edit_queue.parent) == ("queue", edit.trace.span_id)
    assert (edit_queue.start_ns, edit_queue.end_ns) == (START_NS + 3000, START_NS + 4000)
    assert (merge.name, merge.error, told(merge)["swell.on_behalf"]) == ("merge", "lost: no beat", "ws-a")
    assert merge_queue.end_ns == merge.end_ns, "nobody claimed it"


def test_every_attribute_is_described():
    text = (Path(__file__).resolve().parents[2] / "docs" / "logs.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and " | ledger | " in row]
    for span in ended(story(), steady(1, 1)):
        [row] = [row for row in rows if f"`{span.name}`" in row.split("|")[1]]
        described = {f"swell{name.removeprefix('swell')}" for name in re.findall(r"`([^`]+)`", row.split("|")[5])}
        assert span.attributes.keys() <= described


def test_a_run_without_a_trace_has_one_that_derives_from_its_id_and_no_parent():
    *_, run = ended(steady(1, 1))
    assert (run.trace, run.parent, run.error) == (of_run("run0"), "", None)


def test_facts_that_do_not_count_end_nothing():
    """A second close, one of an attempt that nobody scheduled, and what comes late."""
    made = Story()
    made.accepted("ws-a")
    made.step("ws-a", 1, "edit", ev.StepFinished(ok=True))
    made.live("ws-a", 1, ev.StepFinished(ok=False), ev.StepFinished(ok=False))
    made.live("ws-a", 9, ev.StepFinished(ok=True))
    made.decide(ev.StepFinished(ok=True))
    made.entry(
        request_subject("r1"), ev.RunFinished(state="failed", reason="", completed=0, failed=0, blocked=0, cancelled=0)
    )
    made.late("ws-a", 1, ev.ResultRefused(executor="e1", boot="k1", result=ev.StepFinished(ok=True)))
    assert [span.name for span in ended(made.records)] == ["edit", "queue"]


def test_two_closes_in_one_entry_are_one_span():
    made = Story()
    made.accepted("ws-a")
    made.decide(scheduled("ws-a", 1, "edit"))
    made.live("ws-a", 1, ev.StepStarted(executor="e1", boot="k1"), ev.StepFinished(ok=True), ev.StepFinished(ok=False))
    assert [span.name for span in ended(made.records)] == ["edit", "queue"]


@settings(max_examples=60)
@given(st.data())
def test_any_log_has_the_same_spans_however_it_is_cut(data):
    """Each id once, and all of them can be sent."""
    records = data.draw(histories())
    whole = ended(records)
    assert ended(*data.draw(batchings(records))) == whole
    assert encoded([], whole)
    counted = [span.trace for span in whole if span.name != "swell run"]
    assert len(counted) == len(set(counted))


async def test_a_ledger_shows_what_it_commits_but_nothing_of_a_rebuild(tmp_path):
    """A new file of an old log holds nothing new; what comes after does, and what was stored is not shown again."""
    records = steady(2, 1)
    log = MemoryLog(records[:-12])
    shown = []

    async def absorbed(until: int) -> None:
        store = Store.open(tmp_path / "l")
        absorber = Absorber(
            store, log, linger_s=0, lag_max=1000, on_commit=lambda batch: shown.extend(spans.ended(batch))
        )
        await absorber.verify()
        task = asyncio.create_task(absorber.run())
        while absorber.position < until:  # noqa: ASYNC110 - it is a number
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait({task})
        absorber.close()
        store.close()

    await absorbed(len(records) - 12)
    assert shown == []
    log.extend(records[-12:])
    await absorbed(len(records))
    assert shown == ended(records)[-len(shown) :]
    assert (len(shown), shown[-1].name) == (7, "swell run")
    await absorbed(len(records))
    assert len(shown) == 7


async def test_what_follows_a_restored_backup_is_not_shown_again(tmp_path):
    records = steady(1, 1)
    with contextlib.closing(Store.open(tmp_path / "l")) as store:
        store.bind((await MemoryLog().identity()).created_ns)
        store.commit(Projector(store.tip, store).fold(records[:3]))
        copy_store(store, restored_file(tmp_path / "l"))
    shown, log = [], MemoryLog(records)
    with contextlib.closing(Store.open(tmp_path / "l")) as store:
        absorber = Absorber(store, log, linger_s=0, on_commit=lambda batch: shown.append(batch.tip.position))
        await absorber.verify()
        assert (absorber.catching_up, absorber.rebuilding) == (True, False)
        task = asyncio.create_task(absorber.run())
        while absorber.catching_up:  # noqa: ASYNC110 - it is a number
            await asyncio.sleep(0.005)
        assert shown == []
        log.extend(steady(2, 1)[len(records) :])
        while absorber.position < len(log.records):  # noqa: ASYNC110 - it is a number
            await asyncio.sleep(0.005)
        assert shown[-1] == len(log.records)
        task.cancel()
        await asyncio.wait({task})
        absorber.close()


def test_attempts_of_the_same_number_are_told_apart():
    made = ended(steady(2, 2))
    assert len({span.trace.span_id for span in made}) == len(made)
