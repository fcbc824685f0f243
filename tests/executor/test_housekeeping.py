"""When an executor collects its garbage, and what it does without room on its disk."""

import asyncio
import os
import stat
import subprocess

import msgspec
import pytest
from executor_rig import Run, sh, until

from services.bus import BusUnavailableError
from services.executor.housekeeping import Housekeeping
from services.executor.ports import PORTS_EACH, PortBlocks
from services.sweep import ANSWER_FILE, REQUEST_FILE, Removed, Sweep, SweepAnswer, SweepRequest
from services.wire import attempt_subject

HUGE = 2**60


class PlayedGarbage:
    """Stands for the look through the folder: notes the occasions, and frees what it is told to."""

    def __init__(self, root, *, frees=lambda: None, error=None):
        self.root = root
        self.occasions = []
        self.frees = frees
        self.error = error

    async def sweep(self, occasion, *, dry_run=False, enough=lambda: True):
        self.occasions.append((occasion, dry_run))
        if self.error is not None:
            raise self.error
        self.frees()
        return Sweep(dry_run=dry_run, removed=[Removed(kind="setup", name="x", bytes=10)])


@pytest.fixture
async def keep(tmp_path):
    running = []

    def make(garbage, *, asked=None, disk_free_bytes=0, interval_s=0.0):
        house = Housekeeping(
            garbage, disk_free_bytes=disk_free_bytes, interval_s=interval_s, asked=asked or asyncio.Event()
        )
        running.append(asyncio.create_task(house.run()))
        return house

    yield make
    for task in running:
        task.cancel()


async def test_it_looks_from_time_to_time(tmp_path, keep):
    garbage = PlayedGarbage(tmp_path)
    house = keep(garbage, interval_s=0.01)
    await until(lambda: len(garbage.occasions) > 1)
    assert set(garbage.occasions) == {("routine", False)}
    assert house.freed_bytes >= 10


@pytest.mark.parametrize("dry_run", [True, False])
async def test_it_answers_who_asks(tmp_path, keep, dry_run):
    asked = asyncio.Event()
    garbage = PlayedGarbage(tmp_path)
    house = keep(garbage, asked=asked)
    request = SweepRequest(id="0" * 32, dry_run=dry_run)
    (tmp_path / REQUEST_FILE).write_bytes(msgspec.json.encode(request))
    asked.set()
    await until((tmp_path / ANSWER_FILE).exists)
    answer = msgspec.json.decode((tmp_path / ANSWER_FILE).read_bytes(), type=SweepAnswer)
    assert (answer.id, answer.sweep.dry_run, answer.sweep.bytes) == (request.id, dry_run, 10)
    assert stat.S_IMODE((tmp_path / ANSWER_FILE).stat().st_mode) == 0o600
    assert (garbage.occasions, house.freed_bytes) == ([("asked", dry_run)], 0 if dry_run else 10)


async def test_what_the_log_does_not_answer_for_stays_and_is_told(tmp_path, keep):
    asked = asyncio.Event()
    keep(PlayedGarbage(tmp_path, error=BusUnavailableError("no answer")), asked=asked)
    (tmp_path / REQUEST_FILE).write_bytes(msgspec.json.encode(SweepRequest(id="1" * 32)))
    asked.set()
    await until((tmp_path / ANSWER_FILE).exists)
    answer = msgspec.json.decode((tmp_path / ANSWER_FILE).read_bytes(), type=SweepAnswer)
    assert (answer.sweep, answer.error) == (None, "no answer")


@pytest.mark.parametrize("data", [b"", b"{", b'{"id": "../x"}', b'{"id": "' + b"0" * 32 + b'", "more": 1}', b"\xff"])
async def test_a_request_that_is_none_is_passed_over(tmp_path, keep, data):
    asked = asyncio.Event()
    garbage = PlayedGarbage(tmp_path)
    keep(garbage, asked=asked)
    (tmp_path / REQUEST_FILE).write_bytes(data)
    asked.set()
    await until(lambda: not asked.is_set())
    (tmp_path / REQUEST_FILE).write_bytes(msgspec.json.encode(SweepRequest(id="2" * 32)))
    asked.set()
    await until((tmp_path / ANSWER_FILE).exists)
    assert garbage.occasions == [("asked", False)]


async def test_without_room_garbage_goes_first_and_then_nothing_is_taken(tmp_path, keep, monkeypatch):
    free = [0]
    garbage = PlayedGarbage(tmp_path)
    house = keep(garbage, disk_free_bytes=100)
    monkeypatch.setattr(Housekeeping, "free_bytes", property(lambda _: free[0]))
    assert [await house.has_room() for _ in range(3)] == [False] * 3
    assert garbage.occasions == [("pressed", False)]  # not again and again
    assert house.out_of_room
    free[0] = 100
    assert await house.has_room()
    assert not house.out_of_room


async def test_garbage_that_makes_room_is_enough(tmp_path, keep, monkeypatch):
    free = [0]
    house = keep(PlayedGarbage(tmp_path, frees=lambda: free.__setitem__(0, 100)), disk_free_bytes=100)
    monkeypatch.setattr(Housekeeping, "free_bytes", property(lambda _: free[0]))
    assert await house.has_room()
    assert not house.out_of_room


async def test_an_attempt_without_room_is_refused_and_leaves_nothing(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh("true")})
    bench.steps.config = msgspec.structs.replace(bench.steps.config, disk_free_bytes=HUGE)
    refused = await bench.do(run)
    assert (refused.ok, refused.error_class) == (False, "workspace_error")
    assert "disk_free_bytes" in refused.message
    assert list((bench.root / "mirrors").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "state"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk)
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(("umount", "--lazy", disk), check=True)


async def test_an_executor_without_room_leaves_commands_to_others_and_goes_on_by_itself(
    small_disk, desk, service, tmp_path
):
    run = Run(tmp_path, {"tool": sh('echo changed >> "$1"')})
    fill = small_disk / "fill"
    fill.write_bytes(bytes(30 * 1024 * 1024))
    executor = service(disk_free_bytes=16 * 1024 * 1024)
    await executor.start()
    await until(lambda: "executor.no_room" in executor.log, "the refusal")
    key = await desk.ask(run)
    await asyncio.sleep(1.2)
    assert await desk.bus.last(attempt_subject(*key)) is None
    fill.unlink()
    assert (await desk.finished(key)).ok
    assert "executor.room_again" in executor.log
    executor.kill()


# Ports, and what else an attempt has of its own


def test_blocks_of_two_executors_are_disjoint_and_free_again_after_them():
    one, two = PortBlocks(41_000, 41_119), PortBlocks(41_030, 41_119)
    taken = [one.take(), two.take(), one.take(), two.take(), two.take(), one.take()]
    assert all(block is not None for block in taken)
    assert len({port for block in taken for port in block}) == 6 * PORTS_EACH
    assert (one.take(), two.take()) == (None, None)
    one.give_back(taken[0])
    assert (two.take(), one.take()) == (None, taken[0])
    one.close()
    three = PortBlocks(41_000, 41_119)
    assert three.take() == taken[0]
    two.close()
    three.close()


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 65_535), (41_001, 41_038), (41_019, 41_000)])
def test_where_no_whole_block_lies_there_is_none(first, last):
    assert PortBlocks(first, last).take() is None


@pytest.fixture
async def with_ports(bench):
    bench.steps.ports = PortBlocks(41_200, 41_399)
    yield bench
    bench.steps.ports.close()


async def test_attempts_have_ports_and_caches_of_their_own(with_ports, tmp_path):
    say = 'printf "%s\\n" $SWELL_PORT_FIRST $SWELL_PORT_COUNT "$XDG_CACHE_HOME" "$PIP_CACHE_DIR" "$npm_config_cache" > a.txt'
    run = Run(tmp_path, {"tool": sh(f'{say}; mkdir -p "$PIP_CACHE_DIR"; touch "$PIP_CACHE_DIR/x"; sleep 0.5')})
    results = await asyncio.gather(with_ports.do(run), with_ports.do(run))
    told = [with_ports.content(run, result.snapshot, "a.txt").splitlines() for result in results]
    assert {count for _, count, *_ in told} == {str(PORTS_EACH)}
    firsts = {int(first) for first, *_ in told}
    assert len(firsts) == 2
    assert len({folder for _, _, *folders in told for folder in folders}) == 6
    await asyncio.gather(*with_ports.steps.scratches.removing)
    assert not any(os.path.exists(folder) for _, _, *folders in told for folder in folders[1:])  # noqa: ASYNC240, PTH110 - text


async def test_setup_has_caches_that_stay_and_that_tools_do_not_have(with_ports, tmp_path):
    run = Run(tmp_path, {"tool": sh('ls "$XDG_CACHE_HOME" > a.txt; echo ran >> a.txt')})
    (run.repo / "swell.toml").write_text("")
    checks = msgspec.structs.replace(
        run.spec.checks, setup=(("sh", "-c", 'mkdir -p "$PIP_CACHE_DIR"; touch "$PIP_CACHE_DIR/wheel"'),)
    )
    run.spec = msgspec.structs.replace(run.spec, checks=checks)
    done = await with_ports.do(run)
    assert with_ports.content(run, done.snapshot, "a.txt") == "ran"
    assert list((with_ports.root / "cache").glob("*/setup/pip/wheel"))
    assert not any(with_ports.steps.setups.values())
