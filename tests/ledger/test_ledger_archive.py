"""The archive: what goes into it, what harms it, what is rebuilt from it, and what leaves the stream for it."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import pytest
from ledger_disk import small_disk
from ledger_histories import START_NS, MemoryLog, Story, moved, scheduled, steady

from services import events as ev
from services.bus import Recorded
from services.ledger.absorb import Absorber
from services.ledger.archive import DAY_NS, SEGMENT_BYTES_MAX, Archivist, Outcome, due
from services.ledger.history import History, LogGapError
from services.ledger.projector import Projector, chained
from services.ledger.segment import Archive, ArchiveBusyError, ArchiveError, Manifest
from services.ledger.store import Store
from services.ledger.verify import Difference, Result, Verifier, compare
from services.wire import ENTRY_BYTES_MAX, request_subject, run_subject

LATER_NS = START_NS + 40 * DAY_NS


def fleet(story: Story) -> None:
    story.decide(
        ev.ExecutorTransitioned(executor="e1", boot="k", pool="p", slots=1, from_state="spawning", to_state="idle"),
        run="fleet",
    )


def mixed() -> list[Recorded]:
    """Five runs, entries of the fleet, something unreadable, a cancelled request and one after the end."""
    story = Story()
    fleet(story)
    story.records += [
        msgspec.structs.replace(one, sequence=one.sequence + 1, time_ns=one.time_ns + 1000) for one in steady(3, 2)
    ]
    story.raw("swell.event.x.y.z", b"nonsense")
    story.accepted("w0", run="asked")
    story.entry(request_subject("asked"), ev.CancelRequested(request_id="q-cancel", actor="ann"), run="asked")
    story.decide(ev.RequestAnswered(request_id="q-cancel", answer="accepted"), run="asked")
    story.finished("cancelled", run="asked", completed=0)
    fleet(story)
    story.entry(request_subject("asked"), ev.RollbackRequested(request_id="q-back", actor="ann"), run="asked")
    story.decide(
        ev.RequestAnswered(request_id="q-back", answer="accepted"),
        ev.RollbackStarted(request_id="q-back", actor="ann", workstreams=0),
        run="asked",
    )
    story.decide(
        ev.RollbackFinished(state="compensated", compensated=0, failed=0, without_actions=0, remaining=[], reason=""),
        ev.RequestAnswered(request_id="q-back", answer="done"),
        run="asked",
    )
    story.accepted("w0", run="last")
    story.step("w0", 1, "edit", ev.StepFinished(ok=True), run="last")
    story.finished(run="last")
    return story.records


class World:
    """A ledger over a log in memory, with an archive."""

    def __init__(self, folder: Path, records: list[Recorded]) -> None:
        self.folder = folder
        self.log = MemoryLog(records)
        self.log.last_sequence = records[-1].sequence
        self.archive = Archive(folder / "archive", read_rows=7)
        self.store = Store.open(folder / "l")
        self.store.bind(42)
        self.store.commit(Projector(self.store.tip, self.store).fold(records))
        self.absorber = Absorber(self.store, self.log, history=History(self.archive))

    def archivist(self, *, segment: int = 20, **settings) -> Archivist:
        settings = {"now_ns": lambda: LATER_NS} | settings
        return Archivist(
            self.store,
            self.absorber,
            self.log,
            self.archive,
            segment_entries_max=segment,
            remover=lambda: nullcontext(self.log),
            **settings,
        )

    async def work(self, days: int = 0, *, segment: int = 20, now_ns: int = LATER_NS, **asked) -> Outcome:
        *_, last = [said async for said in self.archivist(segment=segment, now_ns=lambda: now_ns).work(days, **asked)]
        assert isinstance(last, Outcome)
        return last


@pytest.fixture
def world(tmp_path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(records: list[Recorded]) -> World:
        made.append(World(tmp_path, records))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


@contextmanager
def opened(file: Path) -> Iterator[Store]:
    store = Store.open(file)
    try:
        yield store
    finally:
        store.close()


async def rebuilt(file: Path, log: MemoryLog, archive: Archive | None, end: int, **history) -> None:
    """A new file folds everything up to `end`, as a start of the service does."""
    with opened(file) as store:
        absorber = Absorber(store, log, batch_max=11, linger_s=0, history=History(archive, **history))
        await absorber.verify()
        await absorbed(absorber, end)


async def absorbed(absorber: Absorber, end: int) -> None:
    task = asyncio.ensure_future(absorber.run())
    try:
        while absorber.position < end and not task.done():  # noqa: ASYNC110 - the gauge is what is public
            await asyncio.sleep(0.002)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
        absorber.close()


def differences(one: Path, other: Path) -> list[Difference]:
    with opened(one) as stored, opened(other) as folded, stored.snapshot() as left, folded.snapshot() as right:
        return [said for said in compare(left, right) if isinstance(said, Difference)]


# What is archived


async def test_what_is_over_and_old_is_archived_in_segments_that_follow_each_other(world):
    records = mixed()
    made = world(records)
    outcome = await made.work()
    assert (outcome.archived_to, outcome.entries, outcome.held_by) == (len(records), len(records), "")
    assert outcome.segments == len(made.archive.segments) == -(-len(records) // 20)
    assert outcome.runs == 5
    ended = [run for segment in made.archive.segments for run in segment.runs]
    assert sorted(ended) == ["asked", "last", "run0", "run1", "run2"]
    fresh = Archive(made.archive.folder)
    fresh.load(42)
    assert [one for page in fresh.records(0, bytes(32)) for one in page] == records
    assert fresh.hash == made.store.tip.hash
    assert (await made.work()).segments == 0, "nothing twice"


def test_the_largest_segment_of_the_largest_entries_fits_into_memory(tmp_path):
    """Of what cannot be packed, so many bytes that the next entry would be left for the next segment."""
    rows, digest = [], bytes(32)
    for position in range(1, SEGMENT_BYTES_MAX // ENTRY_BYTES_MAX + 1):
        raw = random.Random(position).randbytes(ENTRY_BYTES_MAX)
        digest = chained(digest, position, "swell.event.r.run", raw)
        rows.append((position, "swell.event.r.run", START_NS, digest, raw))
    archive = Archive(tmp_path)
    with archive.writing(42):
        archive.add(42, [rows[:100], rows[100:]], ["r"], len(rows))
    assert archive.size_bytes > SEGMENT_BYTES_MAX * 0.99


async def test_a_run_that_goes_on_holds_up_what_came_after_its_first_entry(world):
    story = Story()
    story.records = steady(1, 1)
    first = len(story.records) + 1
    story.accepted("a", run="live")
    story.accepted("a", run="done")
    story.finished(run="done")
    made = world(story.records)
    outcome = await made.work()
    assert (outcome.archived_to, outcome.held_by, outcome.why) == (first - 1, "live", "is running")
    story.finished(run="live")
    made.store.commit(Projector(made.store.tip, made.store).fold(story.records[-1:]))
    assert (await made.work()).archived_to == len(story.records)


async def test_age_counts_from_the_newest_entry(world):
    made = world(steady(2, 1))
    newest_ns = made.log.records[-1].time_ns
    foreseen = await made.work(1, now_ns=newest_ns + 2 * DAY_NS, dry_run=True)
    assert (foreseen.entries, foreseen.segments, made.archive.end) == (len(made.log.records), 0, 0)
    for age_days in (0, 29, 31):
        outcome = await made.work(30, now_ns=newest_ns + age_days * DAY_NS)
        assert bool(outcome.segments) == (age_days > 30)


def test_what_is_due_is_found_in_little_memory(tmp_path):
    """However much requests and answers say together."""
    with opened(tmp_path / "l") as store:
        store.bind(42)
        told = "INSERT INTO events SELECT i, 0, ?, 'run-' || i, '', 0, i, '', 'info', ? FROM range(1, 20001) t(i)"
        answer = json.dumps({"kind": "request_answered", "request_id": "q", "answer": "done", "reason": "x" * 2000})
        store._connection.execute(told, ["request_answered", answer]).fetchall()
        tracemalloc.start()
        try:
            assert due(store, 0, LATER_NS).held_by == ""
            assert tracemalloc.get_traced_memory()[1] < 30_000_000
        finally:
            tracemalloc.stop()


UNSETTLED = {
    "a rollback that was asked for": [(True, ev.RollbackRequested(request_id="q2", actor="a"))],
    "a rollback under way": [
        (True, ev.RollbackRequested(request_id="q2", actor="a")),
        (False, ev.RequestAnswered(request_id="q2", answer="accepted")),
        (False, ev.RollbackStarted(request_id="q2", actor="a", workstreams=1)),
    ],
    "a delivery under way": [
        (True, ev.DeliveryRequested(request_id="q2", actor="a")),
        (False, ev.RequestAnswered(request_id="q2", answer="accepted")),
    ],
    "an open attempt": [(False, scheduled("a", 1, "compensate"))],
}
SETTLED = {
    "a delivery": ev.RequestAnswered(request_id="q2", answer="done"),
    "a rollback": ev.RequestAnswered(request_id="q2", answer="refused"),
}


@pytest.mark.parametrize("what", UNSETTLED)
async def test_an_ended_run_that_owes_something_holds_up_the_rest(world, what):
    story = Story()
    story.accepted("a")
    story.decide(moved("a", "merging", "completed"))
    story.finished()
    for asked, event in UNSETTLED[what]:
        story.entry(request_subject("r1") if asked else run_subject("r1"), event)
    made = world(story.records)
    assert due(made.store, 0, LATER_NS).held_by == "r1"
    story.decide(
        ev.RequestAnswered(request_id="q2", answer="done"),
        ev.RollbackFinished(state="compensated", compensated=0, failed=0, without_actions=0, remaining=[], reason=""),
    )
    story.live("a", 1, ev.StepCancelled(reason="over"))
    made.store.commit(Projector(made.store.tip, made.store).fold(story.records[made.store.tip.position :]))
    assert due(made.store, 0, LATER_NS).held_by == ""


# What is rebuilt


async def test_a_file_rebuilt_from_archive_and_purged_stream_equals_one_folded_straight(world, tmp_path):
    records = mixed()
    made = world(records)
    outcome = await made.work(purge=True)
    assert outcome.purged_runs == 5
    left = {one.sequence for one in made.log.records}
    assert len(left) < len(records) / 2
    later = Story()
    later.records = list(records)
    later.accepted("z", run="new")
    made.log.extend(later.records[len(records) :])
    await rebuilt(tmp_path / "again", made.log, Archive(made.archive.folder), len(later.records))
    with opened(tmp_path / "straight") as straight:
        straight.bind(42)
        straight.commit(Projector(straight.tip, straight).fold(later.records))
    assert differences(tmp_path / "straight", tmp_path / "again") == []


async def test_a_file_that_is_behind_catches_up_from_the_archive(world, tmp_path):
    """As a restored backup does, or a replica that lagged while runs were purged."""
    records = mixed()
    made = world(records)
    await made.work(purge=True)
    with opened(tmp_path / "behind") as behind:
        behind.bind(42)
        behind.commit(Projector(behind.tip, behind).fold(records[:30]))
    await rebuilt(tmp_path / "behind", made.log, Archive(made.archive.folder), len(records))
    made.store.close()
    assert differences(tmp_path / "l", tmp_path / "behind") == []
    made.store = Store.open(tmp_path / "l")


async def test_a_follower_that_meets_a_hole_goes_on_from_the_archive(world, tmp_path):
    """The archive had nothing when the ledger started; it grew, and the stream was purged, since."""
    records = mixed()
    made = world(records)
    archive = Archive(made.archive.folder)
    with opened(tmp_path / "slow") as slow:
        slow.bind(42)
        absorber = Absorber(slow, made.log, batch_max=5, linger_s=0, history=History(archive))
        await absorber.verify()
        await made.work(purge=True)
        await absorbed(absorber, len(records))
        assert slow.tip == made.store.tip


async def test_a_ledger_is_verified_against_archive_and_stream(world):
    made = world(mixed())
    await made.work(purge=True)
    verifier = Verifier(made.store, made.absorber, made.log, batch_max=50, history=History(made.archive))
    *differing, result = [said async for said in verifier.verify() if isinstance(said, Difference | Result)]
    assert differing == []
    assert result.ok
    assert result.entries == made.store.tip.position


@pytest.mark.parametrize("hole", [(1, 3), (40, 44), (-3, -1)])
async def test_a_hole_that_no_archive_fills_stops_a_rebuild_until_a_person_accepts_it(world, tmp_path, hole):
    records = mixed()
    first, last = (place if place > 0 else len(records) + 1 + place for place in hole)
    log = MemoryLog([one for one in records if not first <= one.sequence <= last])
    log.last_sequence = len(records)
    end = log.records[-1].sequence
    with pytest.raises(LogGapError, match=f"lacks positions {first} to {last}.*missing_up_to = {last}"):
        await rebuilt(tmp_path / "holed", log, None, end)
    assert Store.open(tmp_path / "holed").tip.position < first
    await rebuilt(tmp_path / "accepted", log, None, end, missing_up_to=last)


# What harms the archive


def overwritten(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 9)


def changed(**fields) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        told = json.loads(file.with_suffix(".json").read_text())
        file.with_suffix(".json").write_text(json.dumps(told | fields))

    return change


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte is changed": (overwritten, "has the SHA-256"),
    "it is truncated": (truncated, "has .* bytes, not"),
    "its file is gone": (Path.unlink, "cannot be read"),
    "its manifest is of another stream": (changed(stream_created_ns=43), "of a stream created at 43 ns"),
    "its manifest has another hash": (changed(hash_before="0" * 64), "does not follow"),
    "its manifest tells other rows": (changed(rows=3), "does not hold what its manifest says"),
    "its manifest has fields of nobody's": (changed(more=1), "not a manifest of this version"),
    "its manifest is of another format": (changed(format=2), "not a manifest of this version"),
    "its manifest is torn": (lambda file: truncated(file.with_suffix(".json")), "not a manifest of this version"),
    "its manifest is renamed": (
        lambda file: file.with_suffix(".json").rename(file.with_name(f"segment-{5:016d}-{9:016d}.json")),
        "is the manifest of",
    ),
    "the segment is gone": (lambda file: (file.unlink(), file.with_suffix(".json").unlink()), "lacks positions 21 to 40"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """An archive of `mixed` in five segments."""
    folder = tmp_path_factory.mktemp("sound")
    made = World(folder, mixed())
    asyncio.run(made.work())
    made.store.close()
    return folder / "archive"


def harmed(folder: Path) -> Path:
    return folder / f"segment-{21:016d}-{40:016d}.parquet"


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_archive_is_told_with_a_remedy(sound, tmp_path, harm):
    shutil.copytree(sound, tmp_path / "archive")
    does, said = HARMS[harm]
    does(harmed(tmp_path / "archive"))
    archive = Archive(tmp_path / "archive")

    def read() -> None:
        archive.load(42)
        list(archive.records(0, bytes(32)))

    with pytest.raises(ArchiveError, match=f"{said}.*(put back|point `archive`)"):
        read()


async def test_nothing_is_rebuilt_or_purged_from_a_harmed_archive(world, tmp_path):
    records = mixed()
    made = world(records)
    await made.work()
    overwritten(harmed(made.archive.folder))
    with pytest.raises(ArchiveError, match="has the SHA-256"):
        await rebuilt(tmp_path / "again", made.log, Archive(made.archive.folder), len(records))
    with opened(tmp_path / "again") as again:
        assert again.tip.position == 20, "what was sound is folded, and is gone on from once the segment is put back"
    with pytest.raises(ArchiveError, match="has the SHA-256"):
        await made.work(purge=True)
    assert {one.sequence for one in made.log.records} >= set(range(21, 41))


async def test_an_archive_of_another_history_is_not_built_upon(world, tmp_path):
    records = mixed()
    made = world(records)
    await made.work()
    forged = [msgspec.structs.replace(one, data=one.data + b" ") if one.sequence == 5 else one for one in records]
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other", forged)
    other.archive = Archive(made.archive.folder)
    with pytest.raises(ArchiveError, match="is not a beginning of the ledger's file"):
        await other.work(purge=True)
    other.store.close()
    with opened(tmp_path / "short") as short:
        short.bind(42)
        short.commit(Projector(short.tip, short).fold(forged[:30]))
        with pytest.raises(ArchiveError, match="does not follow from position 30"):
            list(made.archive.records(30, short.tip.hash))


async def test_a_look_at_the_archive_while_it_grows_forgets_no_segment(world, monkeypatch):
    """A verification or an audit reads the manifests anew while the archivist writes."""
    made = world(mixed())
    found = made.archive._found

    def slowly(stream_created_ns: int) -> list[Manifest]:
        segments = found(stream_created_ns)
        time.sleep(0.1)
        return segments

    monkeypatch.setattr(made.archive, "_found", slowly)
    working = asyncio.create_task(made.work())
    while not working.done():
        await asyncio.to_thread(made.archive.load, 42)
    fresh = Archive(made.archive.folder)
    fresh.load(42)
    assert (await working).segments == len(fresh.segments) == len(made.archive.segments)


async def test_one_writer_at_a_time_and_leftovers_are_removed(world):
    made = world(mixed())
    folder = made.archive.folder
    with Archive(folder).writing(42), pytest.raises(ArchiveBusyError, match="another process"):
        await made.work()
    left = [folder / f"segment-{1:016d}-{20:016d}.parquet", folder / f"segment-{1:016d}-{20:016d}.json.part"]
    for file in left:
        file.write_bytes(b"half")
    (folder / "notes.txt").write_text("a person's")
    assert (await made.work()).segments
    assert not left[1].exists()
    assert left[0].read_bytes() != b"half"
    assert sorted({file.suffix for file in folder.iterdir()}) == [".json", ".lock", ".parquet", ".txt"]


async def test_a_full_disk_adds_nothing_and_drops_nothing(world, tmp_path):
    records = mixed()
    made = world(records)
    with small_disk(tmp_path / "disk", 1) as disk:
        made.archive = Archive(disk / "archive")
        assert (await made.work(days=0, segment=30, now_ns=LATER_NS)).segments
        (tmp_path / "rest").mkdir()
        more = steady(60, 2)
        other = World(tmp_path / "rest", more)
        other.archive = Archive(disk / "other")
        (disk / "filler").write_bytes(bytes(disk_free(disk) - 20_000))
        with pytest.raises(ArchiveError, match=r"has [\d,]+ bytes free: make room.*Nothing was dropped"):
            await other.work(segment=10_000, purge=True)
        assert other.log.records == more
        assert [file.name for file in (disk / "other").iterdir()] == ["archive.lock"]
        (disk / "filler").unlink()
        assert (await other.work(segment=10_000)).segments == 1
        other.store.close()


def disk_free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from ledger_histories import steady
from services.ledger.projector import Projector, Tip
from services.ledger.segment import Archive
class Nothing:
    def __getattr__(self, name):
        return lambda *_: [] if name == "pauses" else None
batch = Projector(Tip(), Nothing()).fold(steady(20, 4))
rows = [(row[0], row[1], row[6], *row[9:]) for row in batch.entries]
archive = Archive(Path(sys.argv[1]))
with archive.writing(42):
    while archive.end < len(rows):
        print(archive.end, flush=True)
        last = min(archive.end + 40, len(rows))
        archive.add(42, [rows[archive.end : last]], [], last)
print("whole", flush=True)
"""


def reached_by(writer: subprocess.Popen) -> int:
    """What a writer says it found; before that it may log what it removed."""
    while not (line := writer.stdout.readline()).strip().isdigit():
        assert line
    return int(line)


def test_a_killed_writer_leaves_whole_segments(tmp_path):
    """Killed again and again wherever it is, each writer begins where the one before got to."""
    random.seed(7)
    reached = [0]
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "a", Path(__file__).parent], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert reached_by(writer) >= reached[-1]
            reached_by(writer)
            time.sleep(random.uniform(0, 0.03))
            writer.send_signal(signal.SIGKILL)
        archive = Archive(tmp_path / "a")
        archive.load(42)
        assert sum(len(page) for page in archive.records(0, bytes(32))) == archive.end
        reached.append(archive.end)
    assert reached == sorted(reached)
    assert reached[-1] > 0, "some got somewhere"
    done = subprocess.run(
        [sys.executable, "-c", WRITER, tmp_path / "a", Path(__file__).parent],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("whole\n")
    assert not [file for file in (tmp_path / "a").iterdir() if file.name.endswith(".part")]


# What leaves the stream


async def test_only_what_is_over_archived_and_past_its_day_leaves_the_stream(world):
    records = mixed()
    made = world(records)
    young_ns = records[-1].time_ns + DAY_NS
    outcome = await made.work(purge=True, now_ns=young_ns)
    assert (outcome.purged_runs, outcome.kept_runs, outcome.kept_why) == (0, 5, "younger than 2 days")
    assert made.log.records == records
    made.log.commands = [Recorded(1, "swell.command.p.run1.w0.1", START_NS, b"")]
    outcome = await made.work(purge=True)
    assert (outcome.purged_runs, outcome.kept_runs, outcome.kept_why) == (4, 1, "their commands are not gone yet")
    assert [one for one in made.log.records if ".run1." in one.subject] == [
        one for one in records if ".run1." in one.subject
    ]
    made.log.commands = []
    assert (await made.work(purge=True)).purged_runs >= 1
    assert (await made.work(purge=True)).purged_runs == 0, "it is known what was purged"
    left = [one.subject for one in made.log.records]
    assert [subject for subject in left if ".fleet." in subject] == [run_subject("fleet")] * 2
    for run in ("run0", "run1", "run2", "last"):
        assert [subject for subject in left if f".{run}." in subject] == [request_subject(run), run_subject(run)]
    asked = [one.sequence for one in made.log.records if ".asked." in one.subject]
    first = next(one.sequence for one in records if ".asked." in one.subject)
    assert asked == [first, first + 4, first + 6, first + 7, first + 8], (
        "its first request, its end, and what came after"
    )


@pytest.mark.parametrize("change", [{"time_ns": 5}, {"data": b"{}"}], ids=["time", "bytes"])
async def test_nothing_leaves_the_stream_that_was_archived_otherwise(world, change):
    """The time of an entry is in no hash: once it has left the stream, nobody knows it any more."""
    made = world(mixed())
    await made.work()
    at = next(at for at, one in enumerate(made.log.records) if ".run1.w0." in one.subject)
    made.log.records[at] = msgspec.structs.replace(made.log.records[at], **change)
    with pytest.raises(ArchiveError, match=f"another entry at position {at + 1} .*nothing of run run1.*swell audit"):
        await made.work(purge=True)
    assert made.log.records[at] in made.log.records
    assert sum(".run1." in one.subject for one in made.log.records) > 10


async def test_what_was_asked_of_a_run_since_it_was_archived_keeps_it_in_the_stream(world):
    records = mixed()
    made = world(records)
    await made.work()
    story = Story()
    story.records = list(records)
    story.entry(request_subject("run1"), ev.RollbackRequested(request_id="q-late", actor="ann"), run="run1")
    made.log.extend(story.records[len(records) :])
    outcome = await made.work(purge=True)
    assert (outcome.purged_runs, outcome.kept_why) == (4, "something was asked of them lately")
    assert sum(".run1." in one.subject for one in made.log.records) > 10


async def test_without_being_asked_it_archives_what_is_worth_it(world):
    made = world(mixed())
    newest_ns = made.log.records[-1].time_ns
    for days_later, segments in ((30.5, 0), (31.5, 5)):
        archivist = made.archivist(after_days=30, purge=True, now_ns=lambda at=days_later: int(newest_ns + at * DAY_NS))
        await archivist._routine()  # what `run` does once an hour
        assert len(made.archive.segments) == segments
    assert len(made.log.records) < 20
