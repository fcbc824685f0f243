"""Beats from a thread of their own, heard on a real bus by a listener on another connection."""

import asyncio
import contextlib
import time

import msgspec
import pytest
from executor_rig import until

from services.beats import Beat, ExecutorMoveError
from services.bus import EXECUTORS, Bus, BusUnavailableError
from services.executor.pulse import BEAT_S, Pulse

KEY = ("r1", "ws-a", 1)


class Heard:
    """What one executor says."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []

    @property
    def states(self) -> list[str]:
        return [beat.state for beat in self.beats]


@pytest.fixture
async def heard(desk):
    """Beats of the executor named like the desk's pool."""
    kept = Heard()

    async def listen(queue) -> None:
        while True:
            _, data = await queue.get()
            kept.beats.append(msgspec.json.decode(data, type=Beat))

    async with desk.bus.hear(f"$KV.{EXECUTORS}.{desk.pool}.{desk.pool}") as queue:
        listening = asyncio.create_task(listen(queue))
        yield kept
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


@pytest.fixture
async def pulse(desk, nats_server):
    made = Pulse(
        lambda: Bus.connect(nats_server.config(), name="beats"), executor=desk.pool, boot="b1", pool=desk.pool, slots=3
    )
    yield made
    await made.close(terminated=False)


async def test_the_life_of_an_executor_is_told(pulse, heard, desk):
    pulse.start()
    await until(lambda: heard.beats, "the first beat")
    pulse.enter("idle")
    await until(lambda: heard.states[-1] == "idle")
    pulse.enter("busy")
    await until(lambda: heard.states[-1] == "busy")
    pulse.enter("draining")
    await until(lambda: heard.states[-1] == "draining")
    await pulse.close(terminated=True)
    await until(lambda: heard.states[-1] == "terminated")
    assert list(dict.fromkeys(heard.states)) == ["spawning", "idle", "busy", "draining", "terminated"]
    first = heard.beats[0]
    assert (first.executor, first.boot, first.pool, first.slots) == (desk.pool, "b1", desk.pool, 3)
    async with asyncio.timeout(5):
        await pulse.gone()


async def test_what_is_not_allowed_is_refused(pulse):
    with pytest.raises(ExecutorMoveError):
        pulse.enter("busy")
    assert pulse.state == "spawning"


async def test_an_end_that_is_not_clean_has_no_last_word(pulse, heard):
    pulse.start()
    await until(lambda: heard.beats)
    await pulse.close(terminated=False)
    assert "terminated" not in heard.states


async def test_beats_go_on_while_the_main_loop_stands_still_and_name_no_attempt(pulse, heard):
    """The listener's loop is the one that is blocked: what was said meanwhile is heard afterwards."""
    pulse.start()
    pulse.enter("idle")
    pulse.advance(KEY)
    await until(lambda: any(beat.attempts == [KEY] for beat in heard.beats), "a beat that names the attempt")
    before = len(heard.beats)
    time.sleep(2.5 * BEAT_S)  # noqa: ASYNC251 - the point
    await until(lambda: len(heard.beats) >= before + 2, "the beats of the standstill", timeout_s=1.0)
    assert all(beat.attempts == [] for beat in heard.beats[before + 1 :])
    pulse.advance(KEY)
    await until(lambda: heard.beats[-1].attempts == [KEY])
    pulse.forget(KEY)
    after = len(heard.beats)
    await until(lambda: len(heard.beats) > after + 1)
    assert heard.beats[-1].attempts == []


async def test_a_bus_that_is_not_there_yet_is_waited_for(desk, heard, nats_server):
    tries = []

    async def connect() -> Bus:
        tries.append(1)
        if len(tries) == 1:
            raise BusUnavailableError("not yet")
        return await Bus.connect(nats_server.config(), name="beats")

    pulse = Pulse(connect, executor=desk.pool, boot="b1", pool=desk.pool, slots=1)
    pulse.start()
    await until(lambda: heard.beats)
    await pulse.close(terminated=True)
    await until(lambda: heard.states[-1] == "terminated")


async def test_the_end_does_not_wait_for_a_bus():
    async def never() -> Bus:
        await asyncio.Event().wait()
        raise AssertionError

    pulse = Pulse(never, executor="x", boot="b1", pool="p", slots=1)
    pulse.start()
    started = time.monotonic()
    await pulse.close(terminated=True)
    assert time.monotonic() - started < 3
    async with asyncio.timeout(5):
        await pulse.gone()
