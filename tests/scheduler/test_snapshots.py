"""Fold snapshots: what is thawed is what was frozen, at every moment; what does not belong to the log is refused."""

import msgspec
import pytest

from services.artifacts import Artifacts
from services.bus import SNAPSHOTS
from services.events import RequestAnswered
from services.scheduler.fleet import Fleet
from services.scheduler.snapshots import KEY, Folded, Pointer, SnapshotMismatchError, Snapshots, freeze, id_of, thaw
from services.scheduler.state import evolve
from services.spec import Definitions, encode_spec
from services.wire import Entry, encode_entry, run_subject
from tests.memory_bus import MemoryBus
from tests.scheduler.scheduler_harness import RUN, Lost, Play, bundle, failed, same, spec

A, B, C = "ws-a", "ws-b", "ws-c"


def story() -> Play:
    """A run with FIX, a loss, a failure, blocked dependents, merges and a delivery."""
    plan = spec([bundle(A), bundle(B, A), bundle(C)], review="fail", losses_max=1)
    return Play(
        plan, {(A, "static"): [failed()], (A, "edit"): [Lost], (C, "runtime"): [failed("x"), failed("x")]}
    ).play()


def folded(run, **rest) -> Folded:
    given = {"runs": {RUN: run}, "over": {}, "fleet": Fleet(), "answers": []}
    return Folded(**{**given, **rest})


def test_a_thawed_run_goes_on_as_if_it_had_never_been_frozen():
    """At every position of a history: freeze, thaw, fold the rest; the end is the same."""
    facts = story().facts
    end = None
    for fact in facts:
        end = evolve(end, fact)
    state = None
    for number, fact in enumerate(facts):
        state = evolve(state, fact)
        thawed = thaw(freeze(folded(state))).runs[RUN]
        thawed.definitions = Definitions(facts_spec(facts)) if state.definitions is not None else None
        for later in facts[number + 1 :]:
            thawed = evolve(thawed, later)
        assert same(thawed, end), f"frozen after fact {number}"


def facts_spec(facts):
    return next(fact.spec for fact in facts if fact.spec is not None)


def test_an_open_attempt_stays_one_value():
    play = Play(spec([bundle(A)]))
    play.settle()
    run = thaw(freeze(folded(play.state))).runs[RUN]
    assert run.open[A, 1] is run.workstreams[A].open is run.unclaimed[A, 1]


@pytest.mark.parametrize("data", [b"", b"\x80", b"nonsense", msgspec.msgpack.encode({"runs": 1})])
def test_bytes_that_are_no_snapshot_are_a_value_error(data):
    with pytest.raises(ValueError, match="not a fold snapshot"):
        thaw(data)


class Kept:
    """A log of one entry, with a snapshot of it."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.artifacts = Artifacts(self.bus.objects)

    async def make(self) -> "Kept":
        play = story()
        artifact = await self.artifacts.put("spec", encode_spec(play.spec))
        play.state.spec = artifact
        self.run = play.state
        data = encode_entry(
            Entry(id="e1", run=RUN, at_ns=0, by="x", events=[RequestAnswered(request_id="q-1", answer="accepted")])
        )
        self.position = await self.bus.append(run_subject(RUN), data, expect=0)
        snapshots = self.snapshots()
        snapshots.soon(self.position, 5, id_of(data), folded(self.run))
        await snapshots.close()
        return self

    def snapshots(self, entries: int = 1) -> Snapshots:
        return Snapshots(self.bus, self.artifacts, entries=entries)

    async def pointer(self) -> Pointer:
        recorded = await self.bus.get_key(SNAPSHOTS, KEY)
        return msgspec.json.decode(recorded.data, type=Pointer)

    async def point(self, **changes) -> None:
        changed = msgspec.structs.replace(await self.pointer(), **changes)
        await self.bus.put_key(SNAPSHOTS, KEY, msgspec.json.encode(changed))


@pytest.fixture
async def kept():
    return await Kept().make()


async def test_what_was_written_is_restored_with_its_definitions(kept):
    restored = await kept.snapshots().restore()
    assert (restored.position, restored.time_ns) == (kept.position, 5)
    assert same(restored.folded.runs[RUN], kept.run)
    assert restored.folded.runs[RUN].definitions.order == kept.run.definitions.order


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position": 99}, "the log ends at"),
        ({"stream_created_ns": 1}, "another one"),
        ({"entry": "somebody else"}, "another entry"),
    ],
)
async def test_a_snapshot_of_another_log_stops_the_start_with_a_remedy(kept, changes, said):
    await kept.point(**changes)
    with pytest.raises(SnapshotMismatchError, match=said) as caught:
        await kept.snapshots().restore()
    assert "fold_snapshot_entries = 0" in str(caught.value)


async def test_an_entry_that_left_the_stream_with_its_run_is_no_other_entry(kept):
    await kept.bus.add(run_subject("later"), b"{}")
    assert await kept.bus.erase(kept.position)
    assert (await kept.snapshots().restore()).position == kept.position


@pytest.mark.parametrize("damage", ["object", "code", "pointer"])
async def test_a_snapshot_that_cannot_be_used_is_ignored(kept, damage):
    match damage:
        case "object":
            await kept.bus.objects.delete((await kept.pointer()).object.name)
        case "code":
            await kept.point(code="of another version")
        case "pointer":
            await kept.bus.put_key(SNAPSHOTS, KEY, b"{}")
    assert await kept.snapshots().restore() is None


async def test_none_are_kept_when_none_are_wanted(kept):
    assert await kept.snapshots(0).restore() is None
    assert await kept.snapshots().restore() is None


async def test_the_older_object_goes_when_a_newer_one_stands(kept):
    before = (await kept.pointer()).object
    snapshots = kept.snapshots()
    snapshots.soon(kept.position + 1, 6, "e2", folded(kept.run))
    await snapshots.close()
    assert (await kept.pointer()).object.name != before.name
    assert not await kept.bus.objects.delete(before.name)
