"""What an executor removes of its folder, and what never; real git, and a log that the test writes."""

import asyncio
import os
import shutil
import time
from pathlib import Path

import pytest
from executor_rig import Bench, Run, git, sh
from memory_bus import MemoryBus

from services.events import (
    Event,
    LineDelivered,
    RequestAnswered,
    RevertFinished,
    RevertStarted,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunTransitioned,
)
from services.executor.garbage import Garbage, has_ended
from services.executor.mirror import attempt_ref, quarantine_ref
from services.wire import Entry, encode_entry, run_subject

APPEND = 'for f in "$@"; do echo changed >> "$f"; done'

FINISHED = RunFinished(state="completed", reason="done", completed=1, failed=0, blocked=0, cancelled=0)
MOVED = RunTransitioned(from_state="pending", to_state="running")
ANSWERED = RequestAnswered(request_id="q", answer="refused", ok=False)
UNDOING = RollbackStarted(request_id="q", actor="somebody", workstreams=1)
DELIVERED = LineDelivered(ref="refs/heads/swell/r1", commit="c" * 40)
DONE = RequestAnswered(request_id="d", answer="done")
REVERTING = RevertStarted(request_id="q", actor="somebody", workstreams=["ws-a"])
REVERTED = RevertFinished(state="reverted", workstreams=["ws-a"], reason="done")
UNDONE = RollbackFinished(state="compensated", compensated=1, failed=0, without_actions=0)


async def say(bus: MemoryBus, run: str, *events: Event) -> None:
    last = await bus.last(run_subject(run))
    entry = Entry(id=os.urandom(8).hex(), run=run, at_ns=0, by="scheduler:test", events=list(events))
    await bus.append(run_subject(run), encode_entry(entry), expect=0 if last is None else last.sequence)


@pytest.fixture
def garbage(bench):
    steps = bench.steps
    return Garbage(steps.config.root, steps.bus, steps.repositories, steps.scratches, steps.setups, keep_s=3600.0)


def refs(bench) -> list[str]:
    (mirror,) = (bench.root / "mirrors").glob("*.git")
    return git(mirror, "for-each-ref", "--format=%(refname)").split()


def has(bench, commit: str) -> bool:
    (mirror,) = (bench.root / "mirrors").glob("*.git")
    return git(mirror, "cat-file", "-t", commit, ok=False) == "commit"


def unused(folder: Path, *, since_s: float = 7200.0) -> None:
    """As if nothing had used it for so long."""
    then = time.time() - since_s
    os.utime(folder, (then, then))


def kinds(sweep) -> list[str]:
    return sorted({one.kind for one in sweep.removed})


# Which runs have ended


@pytest.mark.parametrize(
    ("entries", "ended"),
    [
        ([], True),
        ([[MOVED]], False),
        ([[MOVED], [FINISHED]], True),
        ([[MOVED], [FINISHED], [ANSWERED]], True),
        ([[MOVED], [ANSWERED]], False),
        ([[FINISHED], [ANSWERED, UNDOING]], False),
        ([[FINISHED], [ANSWERED, UNDOING], [ANSWERED]], False),
        ([[FINISHED], [ANSWERED, UNDOING], [UNDONE]], True),
        ([[FINISHED], [ANSWERED, UNDOING], [UNDONE], [ANSWERED]], True),
        ([[FINISHED], [ANSWERED], [DELIVERED]], False),
        ([[FINISHED], [ANSWERED], [DELIVERED, DONE]], True),
        ([[MOVED], [DELIVERED, DONE]], False),
        ([[FINISHED], [REVERTING], [ANSWERED]], False),
        ([[FINISHED], [REVERTING], [REVERTED], [ANSWERED]], True),
    ],
)
async def test_the_log_says_which_runs_have_ended(entries, ended):
    bus = MemoryBus()
    for events in entries:
        await say(bus, "r1", *events)
    assert await has_ended(bus, "r1") is ended


async def test_an_entry_of_a_newer_version_ends_nothing():
    bus = MemoryBus()
    await say(bus, "r1", FINISHED)
    last = await bus.last(run_subject("r1"))
    newer = encode_entry(Entry(id="x", run="r1", at_ns=0, by="s", events=[ANSWERED])).replace(
        b"request_answered", b"run_woken"
    )
    await bus.append(run_subject("r1"), newer, expect=last.sequence)
    assert not await has_ended(bus, "r1")


# Snapshots


@pytest.fixture
async def two(bench, tmp_path):
    """A run that has ended and a live one, each with a snapshot of its own."""
    over, live = Run(tmp_path, {"tool": sh(APPEND)}), Run(tmp_path, {"tool": sh(f"{APPEND}; echo more >> a.txt")})
    gone, kept = (await bench.do(over)).snapshot, (await bench.do(live)).snapshot
    await say(bench.steps.bus, over.id, MOVED)
    await say(bench.steps.bus, over.id, FINISHED)
    await say(bench.steps.bus, live.id, MOVED)
    return over, gone, live, kept


async def test_what_live_runs_need_stays_and_the_rest_goes(bench, garbage, two):
    over, gone, live, kept = two
    told = await garbage.sweep("asked", dry_run=True)
    assert (has(bench, gone.commit), has(bench, kept.commit), told.dry_run) == (True, True, True)
    sweep = await garbage.sweep("asked")
    assert kinds(sweep) == kinds(told) == ["objects", "refs"]
    assert (has(bench, gone.commit), has(bench, kept.commit), sweep.live_runs) == (False, True, 1)
    assert attempt_ref(live.id, "ws-a", 1) in refs(bench)
    assert attempt_ref(over.id, "ws-a", 1) not in refs(bench)
    assert (await bench.do(live, "static", input=kept)).ok


async def test_a_run_that_is_undone_after_all_gets_everything_again(bench, garbage, two):
    """Nothing of it is here any more: its base comes from the repository, its snapshot from the bundle."""
    over, gone, _, _ = two
    assert (await garbage.sweep("asked")).removed
    undone = await bench.do(over, "compensate", action="cmd:grep -q changed a.txt", input=gone)
    assert undone.ok, undone.message
    assert has(bench, gone.commit)


async def test_little_is_left_for_later_and_what_attempts_have_in_hand_counts_as_live(bench, garbage, two):
    over, gone, _, _ = two
    location = str(over.repo)
    async with bench.steps.repositories.used(location, over.id):
        assert kinds(await garbage.sweep("asked")) == []
        assert attempt_ref(over.id, "ws-a", 1) in refs(bench)
        assert has(bench, gone.commit)
    async with bench.steps.repositories.used(location, "another"):
        sweep = await garbage.sweep("asked")
        assert (kinds(sweep), sweep.busy, has(bench, gone.commit)) == (["refs"], 1, True)
    assert kinds(await garbage.sweep("routine")) == []
    assert has(bench, gone.commit)


async def test_an_attempt_that_comes_while_objects_go_waits(bench, garbage, two, monkeypatch):
    _, gone, live, kept = two
    repository = await bench.steps.repositories.open(str(live.repo))
    begun, go_on = asyncio.Event(), asyncio.Event()
    prune = repository.mirror.prune

    async def slow():
        begun.set()
        await go_on.wait()
        return await prune()

    monkeypatch.setattr(repository.mirror, "prune", slow)
    sweeping = asyncio.create_task(garbage.sweep("asked"))
    await begun.wait()
    doing = asyncio.create_task(bench.do(live, "static", input=kept))
    await asyncio.sleep(0.1)
    assert not doing.done()
    go_on.set()
    assert (await doing).ok
    assert "objects" in kinds(await sweeping)
    assert not has(bench, gone.commit)


async def test_the_newest_base_commit_stays_for_the_next_fetch(bench, garbage, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    await bench.do(run)
    await garbage.sweep("asked")
    assert refs(bench) == [f"refs/swell/base/{run.id}"]
    assert kinds(await garbage.sweep("asked")) == []


async def test_what_is_quarantined_exists_nowhere_else_and_stays(bench, garbage, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    made = (await bench.do(run)).snapshot
    (mirror,) = (bench.root / "mirrors").glob("*.git")
    git(mirror, "update-ref", quarantine_ref(run.id, "ws-a", 1), made.commit)
    unused(mirror.with_suffix(".lock"))
    sweep = await garbage.sweep("pressed", enough=lambda: False)
    assert (sweep.quarantined, has(bench, made.commit)) == (1, True)
    assert {"refs", "workspace", "cache"} <= set(kinds(sweep))


# Repositories and folders


async def test_a_repository_that_nothing_uses_any_more_goes_as_a_whole(bench, garbage, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    await bench.do(run)
    (lock,) = (bench.root / "mirrors").glob("*.lock")
    await say(bench.steps.bus, run.id, MOVED)
    unused(lock)
    assert "mirror" not in kinds(await garbage.sweep("routine"))  # a live run
    await say(bench.steps.bus, run.id, FINISHED)
    unused(lock)
    sweep = await garbage.sweep("routine")
    assert kinds(sweep) == ["mirror"]
    assert sweep.bytes > 0
    for name in ("mirrors/*.git", "worktrees/*/*", "cache/*/*"):
        assert not list(bench.root.glob(name)), name
    assert (await bench.do(run)).ok


async def test_setups_go_when_unused_for_long_and_never_in_use(bench, garbage):
    for name in ("old", "new", "used"):
        folder = bench.root / "setup" / name
        folder.mkdir()
        (folder / ".complete").touch()
        if name != "new":
            unused(folder / ".complete")
    bench.steps.setups["used"] += 1
    assert [one.name for one in (await garbage.sweep("routine")).removed] == ["old"]
    assert sorted(path.name for path in (bench.root / "setup").iterdir()) == ["new", "used"]
    assert [one.name for one in (await garbage.sweep("pressed", enough=lambda: False)).removed] == ["new"]


async def test_without_room_what_can_be_made_again_goes_until_there_is_enough(bench, garbage, two):
    _, _, live, kept = two
    assert not {"workspace", "cache", "mirror"} & set(kinds(await garbage.sweep("pressed", enough=lambda: True)))
    sweep = await garbage.sweep("pressed", enough=lambda: False)
    assert {"workspace", "cache"} <= set(kinds(sweep))
    assert "mirror" not in kinds(sweep)  # a live run needs it, whatever the disk says
    assert bench.worktrees() == []
    assert (await bench.do(live, "static", input=kept)).ok


async def test_a_folder_that_an_attempt_left_goes(bench, garbage, tmp_path):
    scratch = bench.steps.scratches.take()
    left = bench.root / "scratch" / "attempt-left"
    (left / "home").mkdir(parents=True)
    (left / "home").chmod(0o500)
    assert [one.name for one in (await garbage.sweep("routine")).removed] == ["attempt-left"]
    assert scratch.is_dir()
    assert not left.exists()


@pytest.mark.parametrize("life", ["this one", "the next one"])
async def test_a_mirror_that_cannot_be_read_is_told_and_the_others_are_looked_at(
    bench, garbage, tmp_path, supervisor, life
):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        await bench.do(Run(tmp_path / name, {"tool": sh(APPEND)}))
    broken, _ = sorted((bench.root / "mirrors").glob("*.git"))
    shutil.rmtree(broken / "objects")
    if life == "the next one":
        steps = Bench(tmp_path, supervisor, bench.artifacts, bench.steps.bus).steps
        garbage = Garbage(bench.root, steps.bus, steps.repositories, steps.scratches, steps.setups, keep_s=3600.0)
    sweep = await garbage.sweep("asked")
    assert len(sweep.troubles) == 1
    assert broken.name in sweep.troubles[0]
    assert {"objects", "refs"} <= set(kinds(sweep))
