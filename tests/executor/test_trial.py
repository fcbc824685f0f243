"""Programs tried in the sandbox that they are to run in, and what becomes of those that do not start there."""

import asyncio
from pathlib import Path

import pytest
from executor_rig import Run, sh, until

from services.executor.found import ToolFinder
from services.executor.sandbox import Bubblewrap
from services.executor.trial import UNTOLD_TTL_S, VERSION_TTL_S, Trials
from services.process import child_environment
from services.profiles import ToolProfile

SYSTEM = "/usr/bin:/bin"


@pytest.fixture
def boxed(bench):
    if bench.steps.bubblewrap.reason:
        pytest.skip(f"no sandbox can be had here: {bench.steps.bubblewrap.reason}")
    return bench


class Agent:
    """An AI tool that appends to a.txt, and counts its calls; what it `needs` lies in a folder that no rule shows."""

    def __init__(self, folder: Path, version: str = "echo 1.0") -> None:
        self.calls = folder / "calls"
        self.needed = folder / "elsewhere" / "needed"
        self.program = folder / "agents" / "agent"
        for file in (self.needed, self.program):
            file.parent.mkdir(parents=True, exist_ok=True)
        self.needed.touch()
        self.write(version)

    def write(self, version: str) -> None:
        self.program.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; exit; fi\n'
            "echo new >> a.txt; test -w / && echo outside || echo inside\n"
        )
        self.program.chmod(0o755)

    def profile(self, **fields) -> ToolProfile:
        return ToolProfile(command=str(self.program), type="ai", **fields)


@pytest.fixture
def agent(tmp_path) -> Agent:
    return Agent(tmp_path)


@pytest.fixture
def stray(tmp_path) -> Agent:
    """It needs what is not there inside."""
    return Agent(tmp_path, f"cat {tmp_path}/elsewhere/needed && echo 1.0")


def where(log: bytes) -> str:
    """Whether the tool found itself in a sandbox; as another user than root it cannot write to / anywhere."""
    return log.decode().splitlines()[-1]


# What attempts do


async def test_an_ai_tool_runs_in_a_sandbox_unless_it_is_told_otherwise(boxed, tmp_path, agent):
    run = Run(tmp_path, {"tool": agent.profile(), "own": agent.profile(sandbox="none")})
    done = await boxed.do(run)
    assert (done.ok, done.message) == (True, "")
    assert where(await boxed.read(done, "log")) == "inside"
    assert where(await boxed.read(await boxed.do(run, tool="own"), "log")) in {"outside", "inside"}
    assert ToolProfile(command="x").sandboxing == "none"
    assert ToolProfile(command="x", type="ai").sandboxing == "auto"


async def test_one_that_does_not_start_inside_runs_outside_and_that_is_told(boxed, tmp_path, stray):
    """In the attempt's message and in its log, with what it lacks and what to do."""
    done = await boxed.do(Run(tmp_path, {"tool": stray.profile()}))
    assert done.ok
    log = (await boxed.read(done, "log")).decode()
    for said in (done.message, log.splitlines()[0]):
        assert (
            f"it ran without a sandbox: {stray.program} does not start inside of the sandbox, and does outside" in said
        )
        assert f'"sandbox_read": ["{stray.needed}"]' in said
        assert '"sandbox": "none"' in said


async def test_what_the_remedy_names_helps(boxed, tmp_path, stray):
    profile = stray.profile(sandbox_read=(str(stray.needed),))
    done = await boxed.do(Run(tmp_path, {"tool": profile}))
    assert (done.ok, done.message) == (True, "")
    assert where(await boxed.read(done, "log")) == "inside"


async def test_one_that_insists_is_refused_with_the_same_words_and_never_started_outside(boxed, tmp_path, stray):
    stray.write(f"echo called >> {stray.calls}; {tmp_path}/elsewhere/needed")
    stray.needed.write_text("#!/bin/sh\necho 1.0\n")
    stray.needed.chmod(0o755)
    done = await boxed.do(Run(tmp_path, {"tool": stray.profile(sandbox="bwrap")}))
    assert (done.ok, done.error_class) == (False, "tool_missing")
    assert "does not start inside of the sandbox (it ended with exit code 127" in done.message
    assert '"sandbox_read": [' in done.message
    assert not stray.calls.exists()


@pytest.mark.parametrize("version", ["exit 2", "echo usage >&2; exit 64", "kill -9 $$"])
async def test_one_that_knows_no_version_stays_inside(boxed, tmp_path, version):
    """Inside and outside alike: that says nothing of the sandbox."""
    agent = Agent(tmp_path, version)
    run = Run(tmp_path, {"tool": agent.profile(), "strict": agent.profile(sandbox="bwrap")})
    for tool in ("tool", "strict"):
        done = await boxed.do(run, tool=tool)
        assert (done.ok, done.message) == (True, "")
        assert where(await boxed.read(done, "log")) == "inside"


async def test_a_program_in_the_worktree_is_neither_tried_nor_let_out(boxed, tmp_path):
    """A model may have written it."""
    calls = tmp_path / "calls"
    script = f"#!/bin/sh\necho called >> {calls}\necho new >> a.txt\n"
    run = Run(tmp_path, {"tool": ToolProfile(command="./a.txt", type="ai")})
    make = sh("printf '%s' \"$1\" > a.txt; chmod +x a.txt", script.replace("{", "{{"))
    run.spec.profiles["make"] = make
    made = await boxed.do(run, tool="make")
    assert made.ok, made.message
    done = await boxed.do(run, input=made.snapshot)
    assert "without a sandbox" not in done.message
    assert not calls.exists()


@pytest.mark.parametrize(
    ("env", "out"),
    [
        ({"ROOT": "{repo_root}"}, False),
        ({"NODE_OPTIONS": "--require {worktree_path}/a.js"}, False),
        ({"TOOLS": "/usr:{cache}/tools"}, False),
        ({"PATH": "{cache}/bin:/usr/bin:/bin"}, False),
        ({"PATH": "{scratch}/bin:/usr/bin:/bin"}, False),
        ({"PATH": "bin:/usr/bin:/bin"}, False),
        ({"PATH": "/usr/bin::/bin"}, False),
        ({"SETTINGS": "{scratch}/settings", "PATH": "/usr/bin:/bin"}, True),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
async def test_one_that_variables_lead_to_what_tools_write_is_not_let_out(boxed, tmp_path, stray, env, out):
    done = await boxed.do(Run(tmp_path, {"tool": stray.profile(env=env)}))
    assert done.ok, done.message
    assert ("without a sandbox" in done.message) is out
    assert out or where(await boxed.read(done, "log")) == "inside"


async def test_what_an_earlier_tool_left_in_the_cache_is_started_by_no_trial(boxed, tmp_path):
    mark = tmp_path / "escaped"
    script = f"#!/bin/sh\\nid > {mark}\\necho new >> a.txt\\n"
    leave = f"mkdir $SWELL_CACHE_DIR/bin; cd $SWELL_CACHE_DIR/bin; printf '{script}' > mine; chmod +x mine; cd -; echo >> a.txt"
    program = tmp_path / "agents" / "agent"
    program.parent.mkdir()
    for body, env in (
        ("#!/usr/bin/env mine\n", {"PATH": "{cache}/bin:/usr/bin:/bin"}),
        ('#!/bin/sh\nexec "$SWELL_CACHE_DIR/bin/mine" "$@"\n', {}),
    ):
        program.write_text(body)
        program.chmod(0o755)
        run = Run(tmp_path, {"tool": ToolProfile(command=str(program), type="ai", env=env), "first": sh(leave)})
        assert (await boxed.do(run, tool="first")).ok
        done = await boxed.do(run)
        assert "without a sandbox" not in done.message
        assert not mark.exists()


async def test_a_trial_is_handed_neither_secrets_nor_anything_of_the_attempt(tmp_path, supervisor):
    """Where it is asked outside as well."""
    told = tmp_path / "told"
    agent = Agent(tmp_path, f"env > {told}; echo 1.0")
    own = ("cwd", "worktree_path", "repo_root", "cache", "scratch", "prompt_file", "diagnostics_file")
    literal = {"OPENAI_API_KEY": "sk-literal", "PROXY": "http://me:password@proxy", "AGENT_MODEL": "m1"}
    profile = agent.profile(env={**literal, **{f"THE_{name}": f"{{{name}}}" for name in own}})
    (tmp_path / "attempt").mkdir()
    (tmp_path / "trials").mkdir()
    given = child_environment({"PATH": SYSTEM, "SWELL_CACHE_DIR": f"{tmp_path}/attempt/cache"})
    context = {name: f"{tmp_path}/attempt/{name}" for name in own}
    tried = await Trials(supervisor, tmp_path / "trials").of(agent.program, profile, given, None, context)
    assert tried.version == "1.0", tried
    variables = dict(line.split("=", 1) for line in told.read_text().splitlines())
    assert (variables["AGENT_MODEL"], "OPENAI_API_KEY" in variables, "PROXY" in variables) == ("m1", False, False)
    assert f"{tmp_path}/attempt" not in told.read_text()
    assert all(variables[f"THE_{name}"].startswith(f"{tmp_path}/trials/") for name in own)


async def test_one_that_is_stopped_while_it_runs_outside_tells_that_it_did(boxed, tmp_path):
    """Nobody may learn of it from its end alone."""
    stray = Agent(tmp_path, f"cat {tmp_path}/elsewhere/needed && echo 1.0")
    stray.program.write_text(f"{stray.program.read_text()}\ntouch {tmp_path}/running; sleep 60\n")
    run = Run(tmp_path, {"tool": stray.profile()})
    command = await run.command(boxed.artifacts)
    task = asyncio.create_task(boxed.steps.run(command))
    await until((tmp_path / "running").exists)
    task.cancel()
    await asyncio.wait({task})
    left = boxed.steps.stopped((run.id, "ws-a", command.step.attempt)).kept
    assert left.message.startswith(f"it ran without a sandbox: {stray.program} does not start inside")
    assert (await boxed.read(left, "log")).startswith(b"it ran without a sandbox: ")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 127", True),
        ("no-such-program-anywhere", True),
        ("./a.txt", True),
        ("exit 3", False),
    ],
)
async def test_an_end_as_of_a_program_that_cannot_be_started_gets_a_hint(boxed, tmp_path, script, told):
    run = Run(tmp_path, {"tool": sh(script, type="ai"), "plain": sh(script), "check": sh(script, sandbox="bwrap")})
    done = await boxed.do(run)
    assert done.error_class == "tool_failed"
    assert ('"sandbox_read": […]' in done.message) is told
    assert "sandbox" not in (await boxed.do(run, tool="plain")).message
    checked = await boxed.do(run, "static", every_check=True)
    assert ("sandbox_read" in checked.message) is told


async def test_a_script_that_the_arguments_name_is_there(boxed, tmp_path):
    script = tmp_path / "mine" / "agent.sh"
    script.parent.mkdir()
    script.write_text("echo new >> a.txt")
    (tmp_path / "mine" / "key").write_text("canary")
    done = await boxed.do(Run(tmp_path, {"tool": ToolProfile(command="sh", type="ai", args=(str(script),))}))
    assert (done.ok, done.message) == (True, "")
    run = Run(tmp_path, {"tool": sh("ls $(dirname $1) > a.txt", str(script), type="ai")})
    done = await boxed.do(run)
    assert boxed.content(run, done.snapshot, "a.txt") == "agent.sh"


async def test_where_no_sandbox_can_be_had_nothing_is_tried_nor_told_by_each_attempt(bench, tmp_path):
    """Unless the profile asks for one: the start of the executor, and the doctor, tell it once."""
    agent = Agent(tmp_path, f"echo called >> {tmp_path}/calls")
    bench.steps.bubblewrap = Bubblewrap(reason="bubblewrap is not installed: install it")
    run = Run(tmp_path, {"tool": agent.profile(), "asked": agent.profile(sandbox="auto")})
    assert (await bench.do(run)).message == ""
    asked = await bench.do(run, tool="asked")
    assert (asked.ok, asked.message) == (True, "it ran without a sandbox: bubblewrap is not installed: install it")
    assert not agent.calls.exists()


# How often programs are tried


async def test_a_program_is_tried_once_while_its_file_stays_and_the_answer_counts(boxed, tmp_path, supervisor):
    now_s = 1000.0
    trials = Trials(supervisor, boxed.root / "scratch", now_s=lambda: now_s)
    counted = f"cat {tmp_path}/elsewhere/needed && echo called >> {tmp_path}/calls && echo 1.0"
    agent = Agent(tmp_path, counted)
    env = child_environment({"PATH": SYSTEM})

    async def calls() -> int:
        tried = await asyncio.gather(
            *(trials.of(agent.program, agent.profile(), env, boxed.steps.sandbox()) for _ in range(3))
        )
        assert all(one.version == "1.0" and one.unconfined for one in tried)
        return agent.calls.read_text().count("called")

    assert await calls() == 1
    now_s += UNTOLD_TTL_S - 1
    assert await calls() == 1
    now_s += 1
    assert await calls() == 2
    agent.write(f"{counted} && true")
    assert await calls() == 3
    assert UNTOLD_TTL_S < VERSION_TTL_S


async def test_a_trial_that_nobody_could_make_does_not_count(boxed, tmp_path, agent):
    """As of a profile whose variables only an attempt can tell."""
    trials = boxed.steps.trials
    profile = agent.profile(env={"WHICH": "{run}"})
    env = child_environment({"PATH": SYSTEM})
    assert "{run}" in (await trials.of(agent.program, profile, env, boxed.steps.sandbox())).reason
    assert (await trials.of(agent.program, profile, env, boxed.steps.sandbox(), {"run": "r1"})).version == "1.0"


@pytest.mark.parametrize("strict", [False, True])
async def test_one_that_does_not_answer_inside_is_not_let_out_for_it(boxed, tmp_path, supervisor, strict):
    agent = Agent(tmp_path, f"test -e {tmp_path}/elsewhere/needed || sleep 60; echo 1.0")
    trials = Trials(supervisor, boxed.root / "scratch", timeout_s=0.3)
    profile = agent.profile(sandbox="bwrap" if strict else "auto")
    tried = await trials.of(agent.program, profile, child_environment({"PATH": SYSTEM}), boxed.steps.sandbox())
    assert (tried.version, tried.unconfined) == ("", "")
    assert tried.reason.startswith("it was ended after ")


# What finders tell


async def test_finders_tell_which_tools_have_a_sandbox(boxed, tmp_path, supervisor, agent):
    stray = Agent(tmp_path / "stray", f"cat {tmp_path}/stray/elsewhere/needed && echo 2.0")
    profiles = {
        "agent": agent.profile(),
        "stray": stray.profile(),
        "own": agent.profile(sandbox="none"),
        "strict": stray.profile(sandbox="bwrap"),
        "check": ToolProfile(command="sh"),
        "confined": ToolProfile(command="sh", sandbox="bwrap"),
    }
    steps = boxed.steps
    finder = ToolFinder(supervisor, tmp_path, profiles, path=SYSTEM, sandbox=steps.sandbox(), trials=steps.trials)
    assert {tool: one.sandboxed for tool, one in (await finder.glance()).items()} == {
        "agent": "", "stray": "", "own": "no", "strict": "", "check": "no", "confined": "yes",
    }  # fmt: skip
    found = await finder.look()
    assert {tool: one.sandboxed for tool, one in found.items()} == {
        "agent": "yes", "stray": "no", "own": "no", "strict": "yes", "check": "no", "confined": "yes",
    }  # fmt: skip
    assert {tool: one.version for tool, one in found.items() if one.version} == {
        "agent": "1.0", "stray": "2.0", "own": "1.0",
    }  # fmt: skip
    assert "does not start inside of the sandbox, and does outside" in found["stray"].unconfined
    assert steps.trials.known(agent.program, agent.profile()) is not None, "attempts go by the same trials"


async def test_finders_tell_why_there_is_none(tmp_path, bench, supervisor, agent):
    bench.steps.bubblewrap = Bubblewrap(reason="bubblewrap is not installed")
    profiles = {"agent": agent.profile(), "strict": agent.profile(sandbox="bwrap")}
    found = await ToolFinder(supervisor, tmp_path, profiles, path=SYSTEM, sandbox=bench.steps.sandbox()).look()
    assert (found["agent"].version, found["agent"].sandboxed) == ("1.0", "no")
    assert (found["strict"].version, found["strict"].reason) == ("", "bubblewrap is not installed")
    assert {one.unconfined for one in found.values()} == {"bubblewrap is not installed"}
