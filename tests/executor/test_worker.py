"""An executor with everything real around it but the scheduler, which is the test."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
from executor_rig import Run, git, processes, sh, until

from services.artifacts import Artifacts
from services.beats import Beat, nudge_subject
from services.bus import EXECUTORS, Bus, BusUnavailableError
from services.events import ProcessesReaped, StepCancelled, StepFinished, StepLost
from services.executor.journal import Journal
from services.executor.pulse import Pulse
from services.executor.sandbox import Bubblewrap
from services.executor.step import StepConfig, Steps
from services.executor.worker import Executor
from services.process import Supervisor
from services.trace import of_attempt, of_run
from services.wire import attempt_subject, command_subject, decode_entry, encode_command

APPEND = 'echo new >> "$1"'
STUBBORN = (
    f"trap '' TERM INT HUP; {APPEND}; (setsid sh -c \"trap '' TERM; sleep 71; :\" &) ; while :; do sleep 72; done"
)


class Running:
    """An executor in this process; `steps` and `journal` are its own."""

    def __init__(self, executor: Executor, steps: Steps, journal: Journal, pulse: Pulse) -> None:
        self.executor = executor
        self.steps = steps
        self.journal = journal
        self.pulse = pulse


@pytest.fixture(params=["pidns", "sweep"])
async def contained(request):
    started = Supervisor(request.param)
    await started.start()
    yield started
    await started.close()


@pytest.fixture
async def running(tmp_path, nats_server, desk, contained):
    async with contextlib.AsyncExitStack() as open_things:
        pulse = Pulse(
            lambda: Bus.connect(nats_server.config(), name="beats"),
            executor=desk.pool,
            boot="b1",
            pool=desk.pool,
            slots=2,
        )
        pulse.start()
        open_things.push_async_callback(pulse.close, terminated=True)
        bus = await Bus.connect(nats_server.config(), name="executor")
        open_things.push_async_callback(bus.close)
        steps = Steps(StepConfig(root=tmp_path / "state", slots=2), Artifacts(bus.objects), contained, bus)
        await steps.prepare()
        journal = Journal(tmp_path / "state" / "journal")
        executor = Executor(bus, steps, pulse, journal)
        task = asyncio.create_task(executor.run())
        yield Running(executor, steps, journal, pulse)
        if not executor._stopping.is_set():
            await executor.drain(0)
        task.cancel()
        await asyncio.wait({task})


def at_work(key):
    return lambda: processes(f"SWELL_ATTEMPT={'/'.join(map(str, key))}")


async def test_a_step_from_command_to_close(running, desk, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    key = await desk.ask(run)
    done = await desk.finished(key)
    assert (done.ok, done.files) == (True, ["a.txt"])
    await until(lambda: running.journal.entries() == [])
    await until(lambda: running.pulse.state == "idle")


async def test_a_command_that_cannot_be_read_is_refused_with_a_fact(running, desk):
    subject = f"swell.command.{desk.pool}.r1.ws-a.7"
    key = (f"r{desk.pool}", "ws-a", 7)
    await desk.bus.command(subject.replace(".r1.", f".{key[0]}."), b"{}")
    assert (await desk.finished(key)).error_class == "protocol_error"


@pytest.mark.parametrize("event", [StepCancelled(reason="enough"), StepLost(reason="no beat")])
async def test_an_attempt_closed_elsewhere_is_ended_and_told(running, desk, tmp_path, event):
    """Tool and children are dead, the work is kept, the worktree is used again clean; found by nudge or by reading."""
    run = Run(tmp_path, {"tool": sh(STUBBORN, grace_sec=0.3), "list": sh("cat a.txt > b.txt")})
    key = await desk.ask(run)
    await until(lambda: len(at_work(key)()) >= 3, "the tool")
    assert running.journal.entries() == [key]
    await desk.close(key, event)
    if isinstance(event, StepCancelled):
        await desk.bus.say(nudge_subject(desk.pool, desk.pool), attempt_subject(*key).encode())
    late = await desk.late(key)
    assert at_work(key)() == {}
    refused, reaped = late["ResultRefused"].result, late["ProcessesReaped"]
    assert (reaped.executor, reaped.boot, reaped.processes >= 1) == (desk.pool, "b1", True)
    assert (refused.ok, refused.error_class, refused.changed) == (False, "handed_back", True)
    assert b"+new" in await desk.artifacts.get(next(a for a in refused.artifacts if a.role == "patch"))
    await until(lambda: running.journal.entries() == [])
    again = await desk.finished(await desk.ask(run, tool="list", input=refused.snapshot))
    assert again.ok, "the kept snapshot is as good as any"
    clean = await desk.finished(await desk.ask(run, tool="list"))
    assert clean.ok
    assert clean.snapshot.tree != again.snapshot.tree


async def test_a_result_that_comes_too_late_is_kept(running, desk, tmp_path):
    """The attempt is closed while the step is at its end: the append is refused, and nothing is lost."""
    run = Run(tmp_path, {"tool": sh(APPEND)})
    held = asyncio.Event()
    at_close = asyncio.Event()
    own = running.executor._bus

    class Slow:
        """The executor's connection, with a pause before the close."""

        def __getattr__(self, name):
            return getattr(own, name)

        async def append(self, subject, data, *, expect):
            if expect:
                at_close.set()
                await held.wait()
            return await own.append(subject, data, expect=expect)

    running.executor._bus = Slow()
    key = await desk.ask(run)
    await at_close.wait()
    await desk.close(key, StepLost(reason="no beat"))
    held.set()
    late = await desk.late(key)
    assert late["ResultRefused"].result.ok
    assert late["ProcessesReaped"].processes == 0
    assert isinstance(decode_entry((await desk.bus.last(attempt_subject(*key))).data).events[0], StepLost)


async def test_what_a_tool_used_until_its_attempt_was_closed_elsewhere_is_told_late(running, desk, tmp_path):
    stream = Path(__file__).parents[1] / "tools" / "fixtures" / "claude_tool.ndjson"
    run = Run(
        tmp_path,
        {"tool": sh(f"{APPEND}; grep -v total_cost '{stream}'; sleep 60", type="ai", adapter="claude", sandbox="none")},
    )
    key = await desk.ask(run)
    await until(lambda: any(line.startswith("sleep 60") for line in at_work(key)().values()), "the tool")
    await desk.close(key, StepCancelled(reason="enough"))
    refused = (await desk.late(key))["ResultRefused"].result
    assert (refused.usage.input_tokens, refused.usage.lower_bound, refused.cost.basis) == (2400, True, "list")
    assert (refused.model, refused.provider) == ("claude-sonnet-4-5", "anthropic")


async def test_a_close_that_cannot_be_appended_is_given_up_when_somebody_else_closes(running, desk, tmp_path):
    own = running.executor._bus

    class Full:
        """The executor's connection to a server that takes no close."""

        def __getattr__(self, name):
            return getattr(own, name)

        async def append(self, subject, data, *, expect):
            if expect:
                raise BusUnavailableError("no answer")
            return await own.append(subject, data, expect=expect)

    running.executor._bus = Full()
    key = await desk.ask(Run(tmp_path, {"tool": sh(APPEND)}))
    await desk.close(key, StepLost(reason="no beat"))
    late = await desk.late(key)
    assert late.keys() == {"ResultRefused", "ProcessesReaped"}


async def test_what_is_not_done_in_time_is_handed_back(running, desk, tmp_path):
    """Within the grace what ends by itself is closed as ever; the rest is ended, kept and closed by the executor."""
    running.steps.bubblewrap = Bubblewrap(reason="there is none here")
    stubborn = sh(STUBBORN, grace_sec=0.3, sandbox="auto")
    run = Run(tmp_path, {"tool": stubborn, "quick": sh(f"sleep 0.4; {APPEND}"), "look": sh("true")})
    slow = await desk.ask(run)
    quick = await desk.ask(run, tool="quick")
    await until(lambda: len(at_work(slow)()) >= 3 and at_work(quick)(), "both tools")
    waiting = await desk.ask(run, tool="quick")
    started = time.monotonic()
    await running.executor.drain(1.5)
    assert time.monotonic() - started < 1.5 + 8
    assert (await desk.finished(quick)).ok
    back = await desk.finished(slow)
    assert (back.ok, back.error_class, back.changed) == (False, "handed_back", True)
    assert "told to stop" in back.message
    assert back.message.endswith("; it ran without a sandbox: there is none here")
    assert back.snapshot.tree != run.base.tree
    assert back.snapshot.bundle in back.artifacts
    assert at_work(slow)() == {}
    assert await desk.bus.last(attempt_subject(*waiting)) is None, "nothing new is claimed"
    assert running.journal.entries() == []
    assert running.pulse.state == "draining"


async def test_a_tool_that_has_ended_is_not_handed_back(running, desk, tmp_path):
    """Told to stop while its work is being kept: the result is the step's own, and the tool does not run a second time."""
    held = asyncio.Event()
    steps = running.executor._steps
    own = steps.artifacts

    class Slow:
        def __getattr__(self, name):
            return getattr(own, name)

        async def put(self, role, data, **rest):
            if role == "patch" and not held.is_set():
                held.set()
                await asyncio.Event().wait()
            return await own.put(role, data, **rest)

    steps.artifacts = Slow()
    key = await desk.ask(Run(tmp_path, {"tool": sh(APPEND)}))
    async with asyncio.timeout(20):
        await held.wait()
    await running.executor.drain(0)
    done = await desk.finished(key)
    assert (done.ok, done.error_class, done.changed) == (True, None, True)


async def test_a_check_is_handed_back_and_a_dry_run_is_not(running, desk, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND), "check": sh("sleep 60")})
    check = await desk.ask(run, "static", every_check=True)
    await until(at_work(check), "the check")
    dry = await desk.ask(run, "static", dry_run=True)
    assert (await desk.finished(dry)).dry_run
    hurry = asyncio.Event()
    hurry.set()
    started = time.monotonic()
    await running.executor.drain(60, hurry=hurry)
    assert time.monotonic() - started < 8
    back = await desk.finished(check)
    assert (back.error_class, back.snapshot) == ("handed_back", None)


# As a process


async def beat_of(desk):
    last = await desk.bus.last(f"$KV.{EXECUTORS}.{desk.pool}.{desk.pool}", stream=f"KV_{EXECUTORS}")
    return None if last is None else msgspec.json.decode(last.data, type=Beat)


@pytest.mark.parametrize("containment", ["pidns", "sweep"])
async def test_the_next_life_tells_what_became_of_the_last_ones_processes(service, desk, tmp_path, containment):
    """The supervisor outlives a killed executor and ends its tools; the next executor proves and records it."""
    run = Run(tmp_path, {"tool": sh(STUBBORN, grace_sec=0.3), "quick": sh(APPEND)})
    executor = service(containment=containment)
    await executor.start()
    key = await desk.ask(run)
    await until(lambda: len(at_work(key)()) >= 3, "the tool")
    before = await beat_of(desk)
    executor.kill()
    await executor.start()
    late = await desk.late(key)
    assert at_work(key)() == {}
    assert isinstance(late["ProcessesReaped"], ProcessesReaped)
    assert late["ProcessesReaped"].boot != before.boot
    journal = Journal(tmp_path / "state" / "journal")
    await until(lambda: journal.entries() == [])
    assert (await desk.finished(await desk.ask(run, tool="quick"))).ok
    assert [path.name for path in (tmp_path / "state" / "worktrees").glob("*/*") if path.is_dir()] == ["1"]


async def test_tools_die_with_a_supervisor_that_is_killed_with_its_executor(service, desk, tmp_path):
    """Nobody of the former life is left to end them: in sweep mode a child that lost its parent lives on until then."""
    run = Run(tmp_path, {"tool": sh(STUBBORN, grace_sec=0.3)})
    executor = service(containment="sweep")
    await executor.start()
    key = await desk.ask(run)
    await until(lambda: len(at_work(key)()) >= 3, "the tool")
    (supervisor,) = processes("supervisor.py serve".replace(" ", "\0")).keys() & children(executor.process.pid)
    executor.process.send_signal(signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    executor.kill()
    await executor.start()
    late = await desk.late(key)
    assert at_work(key)() == {}
    assert late["ProcessesReaped"].processes >= 1


def children(pid: int) -> set[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 - a file of the kernel's
        return set(map(int, file.read().split()))


async def test_sigterm_drains(service, desk, tmp_path):
    """It hands back what is not done after the grace, says so, and ends with 0; its last beat is its last word."""
    run = Run(tmp_path, {"tool": sh(f"{APPEND}; sleep 73")})
    executor = service(stop_grace_s=0.5)
    await executor.start()
    key = await desk.ask(run)
    await until(at_work(key), "the tool")
    executor.process.terminate()
    assert await executor.ended() == 0, executor.log
    assert (await desk.finished(key)).error_class == "handed_back"
    assert (await beat_of(desk)).state == "terminated"
    assert at_work(key)() == {}
    assert not executor.ready.exists()


async def test_a_second_sigterm_skips_the_grace(service, desk, tmp_path):
    run = Run(tmp_path, {"tool": sh("sleep 74")})
    executor = service(stop_grace_s=600.0)
    await executor.start()
    key = await desk.ask(run)
    await until(at_work(key), "the tool")
    executor.process.terminate()
    await until(lambda: is_state(desk, "draining"), "the drain")
    executor.process.terminate()
    assert await executor.ended() == 0, executor.log
    assert (await desk.finished(key)).error_class == "handed_back"


async def is_state(desk, state) -> bool:
    beat = await beat_of(desk)
    return beat is not None and beat.state == state


async def test_an_executor_that_was_away_finds_its_attempt_closed(service, desk, tmp_path):
    """Stopped while its tool runs on and ends; the attempt is lost meanwhile, and what it brings back changes nothing."""
    run = Run(tmp_path, {"tool": sh(f"sleep 0.3; {APPEND}; sleep 0.3")})
    executor = service()
    await executor.start()
    key = await desk.ask(run)
    await until(at_work(key), "the tool")
    executor.process.send_signal(signal.SIGSTOP)
    try:
        await desk.close(key, StepLost(reason="no beat"))
        await until(lambda: not at_work(key)(), "the end of the tool")
    finally:
        executor.process.send_signal(signal.SIGCONT)
    late = await desk.late(key)
    assert late.keys() >= {"ResultRefused", "ProcessesReaped"}
    assert late["ResultRefused"].result.changed
    assert isinstance(decode_entry((await desk.bus.last(attempt_subject(*key))).data).events[0], StepLost)
    assert (await desk.finished(await desk.ask(run))).ok


async def test_two_executors_cannot_share_a_state_folder(service, desk):
    first, second = service(), service()
    await first.start()
    second.ready.unlink()
    with pytest.raises(AssertionError, match="a folder of its own"):
        await second.start()
    assert second.process.returncode == 1


async def test_a_beat_names_an_attempt_while_its_step_is_in_progress(service, desk, tmp_path):
    """Also before its tool runs: a setup that takes long is no loss."""
    run = Run(tmp_path, {"tool": sh(APPEND)})
    run.spec = msgspec.structs.replace(
        run.spec, checks=msgspec.structs.replace(run.spec.checks, setup=(("sleep", "2.5"),))
    )
    executor = service()
    await executor.start()
    key = await desk.ask(run)
    seen = set()

    async def look() -> bool:
        beat = await beat_of(desk)
        seen.add((beat.state, tuple(beat.attempts)))
        last = await desk.bus.last(attempt_subject(*key))
        return last is not None and any(isinstance(e, StepFinished) for e in decode_entry(last.data).events)

    await until(look, "the end of the step")
    assert ("busy", (key,)) in seen
    assert git(run.repo, "status", "--porcelain") == ""


# Traces and logs


async def test_a_step_its_tools_and_every_line_about_it_are_one_span(service, desk, tmp_path, monkeypatch):
    """The span of the attempt, in the trace of whoever asked for the run; and no line holds the tool's secret."""
    secret = "pa55-word of the team"
    monkeypatch.setenv("TEAM_PASSWORD", secret)
    asked = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    one = service()
    await one.start()
    run = Run(tmp_path, {"tool": sh('printf %s "$TRACEPARENT" > "$1"', secrets={"KEY": "env:TEAM_PASSWORD"})})
    command = msgspec.structs.replace(await run.command(desk.artifacts, pool=desk.pool), trace=asked)
    key = (run.id, "ws-a", 1)
    assert await desk.bus.command(command_subject(desk.pool, *key), encode_command(command))
    patch = next(one for one in (await desk.finished(key)).artifacts if one.role == "patch")
    span = of_attempt(of_run(run.id, asked), key)
    assert span.text.encode() in await desk.artifacts.get(patch)
    entry = decode_entry((await desk.bus.last(attempt_subject(*key))).data)
    assert entry.trace == span.text
    hostile = msgspec.json.encode({"kind": f"{secret}\n\x1b[31m" + "x" * 5000})
    await desk.bus.command(command_subject(desk.pool, run.id, "ws-a", 2), hostile)
    assert (await desk.finished((run.id, "ws-a", 2))).error_class == "protocol_error"
    lines = [msgspec.json.decode(line) for line in one.log.splitlines()]
    assert secret not in one.log
    about = [line for line in lines if line.get("run") == run.id]
    first = [line for line in about if line["attempt"] == 1]
    ids = {"run": run.id, "workstream": "ws-a", "attempt": 1, "trace_id": span.trace_id, "span_id": span.span_id}
    assert [line["event"] for line in first] == ["executor.claimed", "executor.closed"]
    assert all({name: line[name] for name in ids} == ids for line in first)
    assert {line["event"] for line in about if line["attempt"] == 2} == {
        "executor.unreadable_command",
        "executor.closed",
    }
