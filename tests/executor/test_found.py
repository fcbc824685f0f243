"""Tools that are looked for: real programs on a PATH of their own, some of them hostile, asked by a real supervisor."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from executor_rig import processes, until
from hypothesis import given
from hypothesis import strategies as st

from services.beats import Beat
from services.bus import EXECUTORS
from services.executor.found import (
    ANNOUNCED_MAX,
    FoundTool,
    ToolFinder,
    announced,
    program_of,
)
from services.executor.trial import VERSION_CHARS, VERSION_TTL_S, spoken_version
from services.process import Supervisor
from services.profiles import ToolProfile

SYSTEM = "/usr/bin:/bin"


class Folder:
    """A folder of programs that are a line of shell, and a clock that is set."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.path = f"{folder}:{SYSTEM}"
        self.now_s = 1000.0
        self._supervisor = supervisor

    def program(self, name: str, script: str, mode: int = 0o755) -> Path:
        """Each call of it is counted."""
        file = self.folder / name
        file.write_text(f"#!/bin/sh\necho {name} >> {self.calls}\n{script}\n")
        file.chmod(mode)
        return file

    def called(self, name: str) -> int:
        return self.calls.read_text().split().count(name) if self.calls.exists() else 0

    def finder(self, **kinds: str) -> ToolFinder:
        """Of tools named like their programs, and of these types."""
        return self.finder_of({name: ToolProfile(command=name, type=kind) for name, kind in kinds.items()})

    def finder_of(self, profiles: dict[str, ToolProfile], **options) -> ToolFinder:
        given = {"path": self.path, "now_s": lambda: self.now_s, **options}
        return ToolFinder(self._supervisor, self.folder, profiles, **given)


@pytest.fixture
def folder(tmp_path, supervisor) -> Folder:
    (tmp_path / "bin").mkdir()
    return Folder(tmp_path / "bin", supervisor)


# Looking up


def test_a_program_is_found_as_the_supervisor_would_start_it(folder):
    """The first one on PATH that is a file and may be executed; looking it up starts nothing."""
    folder.program("agent", "echo 1.0")
    folder.program("locked", "echo 1.0", mode=0o644)
    (folder.folder / "directory").mkdir()
    assert program_of(ToolProfile(command="agent"), folder.path) == folder.folder / "agent"
    assert program_of(ToolProfile(command="sh"), folder.path) in {Path("/usr/bin/sh"), Path("/bin/sh")}
    for name in ("locked", "directory", "absent", "", "a\0b"):
        with contextlib.suppress(ValueError):  # no profile holds an empty command
            assert program_of(ToolProfile(command=name), folder.path) is None
    assert folder.called("agent") == 0


def test_the_path_of_the_profile_counts(folder):
    folder.program("agent", "echo 1.0")
    profile = ToolProfile(command="agent", env={"PATH": str(folder.folder)})
    assert program_of(profile, SYSTEM) == folder.folder / "agent"
    assert program_of(msgspec.structs.replace(profile, env={"PATH": "{scratch}"}), folder.path) is None


@pytest.mark.parametrize("command", ["./agent", "bin/agent", "{worktree_path}/agent", "{scratch}/agent"])
def test_what_only_a_run_could_tell_is_not_found(folder, command, monkeypatch):
    folder.program("agent", "echo 1.0")
    monkeypatch.chdir(folder.folder)
    assert program_of(ToolProfile(command=command), f".::{folder.folder / 'nothing'}") is None


def test_paths_and_the_interpreter_are_found(folder):
    agent = folder.program("agent", "echo 1.0")
    assert program_of(ToolProfile(command=str(agent)), "") == agent
    assert program_of(ToolProfile(command="{python}"), "") == Path(sys.executable)


# Asking


async def test_only_tools_of_type_ai_that_are_trusted_are_started(folder):
    for name in ("claude", "ruff", "theirs"):
        folder.program(name, 'echo "$1 of ${0##*/}"')
    profiles = {
        "claude": ToolProfile(command="claude", type="ai"),
        "ruff": ToolProfile(command="ruff", type="static-check"),
        "theirs": ToolProfile(command="theirs", type="ai"),
        "mine": ToolProfile(command="{python}", type="ai"),
        "absent": ToolProfile(command="no-such-program", type="ai"),
    }
    found = await folder.finder_of(profiles, trusted=["claude", "ruff", "mine", "absent"]).look()
    assert found == {
        "claude": FoundTool(program=str(folder.folder / "claude"), version="--version of claude"),
        "ruff": FoundTool(program=str(folder.folder / "ruff")),
        "theirs": FoundTool(program=str(folder.folder / "theirs")),
        "mine": FoundTool(program=sys.executable),
    }
    assert [folder.called(name) for name in ("claude", "ruff", "theirs")] == [1, 0, 0]


async def test_a_tool_is_asked_without_credentials_and_in_a_home_of_its_own(folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    folder.program("agent", 'echo "${OPENAI_API_KEY:-none} $# $(ls -A "$HOME" | wc -l) ${QUIET##*/}"; touch "$HOME/x"')
    profile = ToolProfile(
        command="agent",
        type="ai",
        env={"QUIET": "{scratch}", "LATER": "{cwd}"},
        env_allow=("OPENAI_API_KEY",),
        headless_args=("--yes",),
        args=("{prompt_file}",),
        stdin="{prompt_file}",
    )
    version = (await folder.finder_of({"agent": profile}).look())["agent"].version
    assert version.startswith("none 1 0 found-")
    assert not list(folder.folder.glob("found-*"))


async def test_a_tool_that_says_it_on_standard_error_is_heard(folder):
    folder.program("agent", "echo 'agent 2' >&2")
    assert (await folder.finder(agent="ai").look())["agent"].version == "agent 2"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 1.0; exit 3", "it ended with exit code 3"),
        ("echo 1.0; kill -SEGV $$", "it ended with signal 11"),
        ("exit 0", "it printed nothing"),
        ("printf '\\000\\033[31m\\007\\n'", "it printed nothing"),
        ("head -c 100000000 /dev/zero", "it printed 100000000 bytes"),
        ("yes 1.0 | head -c 100000000 | tr -d '\\n'", "it printed "),
        ("rm ../stdout; mkfifo ../stdout; echo 1.0", "it printed nothing"),
    ],
)
async def test_a_hostile_answer_is_none(folder, script, reason):
    folder.program("agent", script)
    profile = ToolProfile(command="agent", type="ai")
    found = (await folder.finder_of({"agent": profile}, timeout_s=60).look())["agent"]
    assert found.version == ""
    assert found.reason.startswith(reason)


async def test_a_tool_that_hangs_is_ended_and_nothing_of_any_tool_lives(folder):
    """The one that hangs ignores SIGTERM; another one leaves a process in a session of its own."""
    folder.program("hangs", "trap '' TERM; echo 1.0; sleep 600 & sleep 600; sleep 600")
    folder.program("leaves", "echo 2.0; setsid sleep 600 >/dev/null 2>&1 &")
    profiles = {name: ToolProfile(command=name, type="ai") for name in ("hangs", "leaves")}
    found = await folder.finder_of(profiles, timeout_s=0.5).look()
    assert found["hangs"].reason.startswith("it was ended after ")
    assert found["leaves"].version == "2.0"
    assert processes(str(folder.folder)) == {}


async def test_a_file_that_is_no_program_has_no_version(folder):
    file = folder.program("agent", "")
    file.write_bytes(b"\x7fELF nothing of the kind")
    found = (await folder.finder(agent="ai").look())["agent"]
    assert found.version == ""
    assert "cannot start the tool" in found.reason


async def test_without_a_supervisor_tools_are_found_all_the_same(folder):
    folder.program("agent", "echo 1.0")
    gone = Supervisor()
    finder = ToolFinder(gone, folder.folder, {"agent": ToolProfile(command="agent", type="ai")}, path=folder.path)
    found = (await finder.look())["agent"]
    assert found.version == ""
    assert "supervisor is not running" in found.reason


async def test_a_look_that_is_cancelled_leaves_nothing(folder):
    folder.program("agent", "sleep 600")
    looking = asyncio.create_task(folder.finder(agent="ai").look())
    await until(lambda: folder.called("agent"), "the call")
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert processes(str(folder.folder)) == {}


# What is said


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (b"2.0.14 (Claude Code)\n", "2.0.14 (Claude Code)"),
        (b"\n\n  aider   0.86.1 \nmore\n", "aider 0.86.1"),
        (b"\x1b[1;31mcodex-cli\x1b[0m 0.46.0\x07\x00\n", "codex-cli 0.46.0"),
        (b"\x1b]0;title\x07gemini 1\r\nx", "gemini 1"),
        (b"\x1b]8;;link\x1b\\1.0\x1b]8;;\x1b\\", "1.0"),
        ("1.0 \u202e0.9\u2066 \ufeff".encode(), "1.0 0.9"),
        (b"\xff\xfe1.0\xff", "1.0"),
        (b"x" * 1000, "x" * VERSION_CHARS),
        (b"", ""),
        (b"\x00" * 100, ""),
    ],
)
def test_one_printable_line_comes_through(output, version):
    assert spoken_version(output) == version


@given(st.binary(max_size=400))
def test_whatever_is_printed_the_version_is_one_short_printable_line(output):
    version = spoken_version(output)
    assert len(version) <= VERSION_CHARS
    assert version.isprintable()
    assert version == version.strip()


# Keeping


async def test_what_was_found_counts_for_its_time_and_a_version_while_the_file_stays(folder):
    folder.program("agent", "echo 1.0")
    folder.program("echoes", "echo 1")
    finder = folder.finder(agent="ai", echoes="utility")
    assert (await finder.look())["agent"].version == "1.0"
    (folder.folder / "echoes").unlink()
    assert "echoes" in await finder.look()
    assert "echoes" not in await finder.glance()

    folder.now_s += finder.ttl_s
    assert await finder.look() == {"agent": FoundTool(program=str(folder.folder / "agent"), version="1.0")}
    assert folder.called("agent") == 1

    folder.program("agent", "echo 2.0 is out")
    folder.now_s += finder.ttl_s
    assert (await finder.look())["agent"].version == "2.0 is out"

    folder.now_s += VERSION_TTL_S
    await finder.look()
    assert folder.called("agent") == 3


async def test_a_tool_that_did_not_tell_is_asked_again(folder):
    folder.program("agent", f"test -e {folder.folder}/ready && echo 1.0")
    finder = folder.finder(agent="ai")
    assert (await finder.look())["agent"].version == ""
    (folder.folder / "ready").touch()
    folder.now_s += finder.ttl_s
    assert (await finder.look())["agent"].version == "1.0"


async def test_a_glance_asks_nobody(folder):
    folder.program("agent", "echo 1.0")
    assert await folder.finder(agent="ai").glance() == {"agent": FoundTool(program=str(folder.folder / "agent"))}
    assert folder.called("agent") == 0


# Announcing


def test_what_is_announced_is_bounded():
    found = {f"tool-{number:04}": FoundTool(program="/x", version="ü" * VERSION_CHARS) for number in range(1000)}
    told = announced(found | {"a" * 65: FoundTool(program="/x")})
    assert list(told) == [f"tool-{number:04}" for number in range(ANNOUNCED_MAX)]
    beat = Beat(executor="e" * 64, boot="b", pool="p", slots=1, tools=told)
    assert len(msgspec.json.encode(beat)) < 64 * 1024


def test_beats_of_older_and_newer_executors_are_understood():
    class OlderBeat(msgspec.Struct, frozen=True, kw_only=True):
        executor: str
        boot: str
        pool: str
        slots: int

    newer = Beat(executor="e1", boot="b1", pool="p", slots=2, tools={"claude": "2.0"})
    assert msgspec.json.decode(msgspec.json.encode(newer), type=OlderBeat).slots == 2
    older = OlderBeat(executor="e1", boot="b1", pool="p", slots=2)
    assert msgspec.json.decode(msgspec.json.encode(older), type=Beat).tools == {}


async def test_an_executor_says_which_tools_it_found(service, desk, folder, monkeypatch):
    """Those of the shipped profiles, at once; an AI tool's version when it has told it. Its log, which have no sandbox."""
    elsewhere = folder.folder.parent / "elsewhere"
    elsewhere.touch()
    folder.program("codex", f"cat {elsewhere} && echo 1.0")
    folder.program("claude", f"until test -e {folder.folder}/ready; do sleep 0.05; done; echo 2.0.14")
    monkeypatch.setenv("PATH", f"{folder.folder}{os.pathsep}{os.environ['PATH']}")
    heard: list[Beat] = []

    def of(version: str) -> Callable[[], bool]:
        return lambda: any(beat.tools.get("claude") == version and "echo" in beat.tools for beat in heard)

    async def listen(queue) -> None:
        while True:
            _, data = await queue.get()
            heard.append(msgspec.json.decode(data, type=Beat))

    executor = service()
    async with desk.bus.hear(f"$KV.{EXECUTORS}.{desk.pool}.{desk.pool}") as queue:
        listening = asyncio.create_task(listen(queue))
        await executor.start()
        await until(of(""), "a beat with tools")
        (folder.folder / "ready").touch()
        await until(of("2.0.14"), "a beat with the version")
        if "executor.no_sandbox" not in executor.log:
            await until(lambda: "executor.tools_unconfined" in executor.log, "the tool without a sandbox")
            assert f"{folder.folder}/codex does not start inside of the sandbox" in executor.log
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
