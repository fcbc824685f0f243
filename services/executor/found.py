"""Which tools can be started on this machine, and which versions they say they are.

    profile → program on the tool's PATH (nothing is started) → for a type `ai` its `--version`, while the file stays the same

Invariants: a tool is looked up as the supervisor would start it; only the program of a profile of type `ai`, of which whoever
asks says that it is trusted, is started, and with nothing but `--version`; it gets a home folder of its own, no credential,
and the limits below, and leaves no process behind. What it prints is hostile: one line of printable text comes through.
"""

import asyncio
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from services.executor.output import read_output
from services.executor.tools import Invocation, invoke, tool_path
from services.process import ProcessError, Supervisor, child_environment
from services.profiles import PlaceholderError, ToolProfile, placeholders, substitute_one

FOUND_TTL_S: Final = 300.0
"""How long what was found counts; then programs are looked up anew."""

VERSION_TTL_S: Final = 3600.0
"""How long a version counts while the file stays the same: what the file starts may have been replaced."""

VERSION_TIMEOUT_S: Final = 10.0
VERSION_OUTPUT_BYTES: Final = 64 * 1024
VERSION_CHARS: Final = 80
REASON_CHARS: Final = 200
VERSIONS_AT_ONCE: Final = 3
"""Tools start slowly and take a processor each while they do."""

ANNOUNCED_MAX: Final = 200
ANNOUNCED_ID_CHARS: Final = 64
"""With both, what is announced takes 30 KB at most, where the bus takes a megabyte or more."""

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_a-z0-9=>])")
"""Sequences that steer a terminal: CSI, OSC, and those of two characters."""


class FoundTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that can be started: its program's path, and its version, empty when it is not known.

    `reason` says why it is not known although the program was asked.
    """

    program: str
    version: str = ""
    reason: str = ""


class _Known(msgspec.Struct, frozen=True):
    identity: tuple[int, int, int, int]
    version: str
    reason: str
    at_s: float


def program_of(profile: ToolProfile, path: str) -> Path | None:
    """The program of a profile, found as the supervisor finds it; None when there is none. Starts nothing.

    `path` is the tool's PATH unless the profile sets another. A program that is named relative to a run's worktree, or by a
    placeholder of a run, cannot be told before the run; it counts as not found.
    """
    try:
        command = substitute_one(profile.command, {})
        search = substitute_one(profile.env.get("PATH", path), {})
    except PlaceholderError:
        return None
    if "/" in command:
        program = Path(command)
        return program if program.is_absolute() and _can_start(program) else None
    for folder in search.split(os.pathsep):
        program = Path(folder, command)
        if program.is_absolute() and _can_start(program):
            return program
    return None


def programs_of(profiles: Mapping[str, ToolProfile], path: str) -> dict[str, Path]:
    """The programs of those profiles that have one, by tool id; see `program_of`."""
    return {tool: program for tool, profile in profiles.items() if (program := program_of(profile, path)) is not None}


def _can_start(program: Path) -> bool:
    try:
        return os.access(program, os.X_OK) and program.is_file()
    except (OSError, ValueError):
        return False


def spoken_version(output: bytes) -> str:
    """The first line with anything printable in it, without what steers a terminal, in at most VERSION_CHARS characters."""
    text = _ESCAPES.sub("", output[:VERSION_OUTPUT_BYTES].decode("utf-8", "replace"))
    for line in text.splitlines():
        shown = "".join(letter for letter in line if letter.isprintable() and letter != "\N{REPLACEMENT CHARACTER}")
        if shown := " ".join(shown.split()):
            return shown[:VERSION_CHARS].rstrip()
    return ""


def announced(found: Mapping[str, FoundTool]) -> dict[str, str]:
    """Tool to version, as a beat carries it: the first ANNOUNCED_MAX by name, without ids longer than ANNOUNCED_ID_CHARS."""
    return _told({name: tool.version for name, tool in found.items()})


def _told(found: Mapping[str, str]) -> dict[str, str]:
    names = [name for name in sorted(found) if len(name) <= ANNOUNCED_ID_CHARS]
    return {name: found[name] for name in names[:ANNOUNCED_MAX]}


class ToolFinder:
    """Finds tools, and keeps what it found for `ttl_s`."""

    def __init__(
        self,
        supervisor: Supervisor,
        folder: Path,
        profiles: Mapping[str, ToolProfile],
        *,
        trusted: Iterable[str] | None = None,
        path: str | None = None,
        ttl_s: float = FOUND_TTL_S,
        timeout_s: float = VERSION_TIMEOUT_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is for the tools' scratch folders; it must be there when they are looked for.

        `trusted`: the tools that may be asked for their version; by default all. `path`: where programs are looked up, by
        default our own PATH as tools get it. `timeout_s`: how long a tool may take to tell its version.
        """
        self.ttl_s = ttl_s
        self._supervisor = supervisor
        self._folder = folder
        self._profiles = dict(profiles)
        self._trusted = set(self._profiles if trusted is None else trusted)
        self._path = tool_path(os.environ.get("PATH", os.defpath)) if path is None else path
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._versions: dict[Path, _Known] = {}
        self._found: dict[str, FoundTool] = {}
        self._found_at_s: float | None = None

    async def glance(self) -> dict[str, FoundTool]:
        """What can be started at this moment, with the versions that are known; nobody is asked."""
        programs = await asyncio.to_thread(programs_of, self._profiles, self._path)
        return {tool: self._told(self._profiles[tool], program) for tool, program in programs.items()}

    def missing(self, found: Mapping[str, FoundTool]) -> dict[str, str]:
        """The tools that were looked for and are not among the found ones, with their programs, as a beat carries them.

        What only a run can tell, such as a program in its worktree or on a PATH of the profile's own, was not looked for.
        """
        return _told(
            {
                tool: profile.command
                for tool, profile in self._profiles.items()
                if tool not in found and _is_looked_for(profile)
            }
        )

    async def look(self) -> dict[str, FoundTool]:
        """What can be started, by tool id. Never raises but when cancelled."""
        if self._found_at_s is not None and self._now_s() - self._found_at_s < self.ttl_s:
            return dict(self._found)
        programs = await asyncio.to_thread(programs_of, self._profiles, self._path)
        asked = {
            program: self._profiles[tool]
            for tool, program in programs.items()
            if tool in self._trusted and _may_be_asked(self._profiles[tool])
        }
        gate = asyncio.Semaphore(VERSIONS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for program, profile in asked.items():
                group.create_task(self._ask(program, profile, gate))
        self._found = {tool: self._told(self._profiles[tool], program) for tool, program in programs.items()}
        self._found_at_s = self._now_s()
        return dict(self._found)

    def _told(self, profile: ToolProfile, program: Path) -> FoundTool:
        """What is known of the program; on whoever's behalf it was asked, it is the same file."""
        known = self._versions.get(program) if _may_be_asked(profile) else None
        if known is None:
            return FoundTool(program=str(program))
        return FoundTool(program=str(program), version=known.version, reason=known.reason)

    async def _ask(self, program: Path, profile: ToolProfile, gate: asyncio.Semaphore) -> None:
        identity = _identity(program)
        known = self._versions.get(program)
        same = known is not None and known.version and known.identity == identity
        if same and known is not None and self._now_s() - known.at_s < VERSION_TTL_S:
            return
        async with gate:
            version, reason = await self._asked(program, profile)
        self._versions[program] = _Known(identity, version, reason, self._now_s())

    async def _asked(self, program: Path, profile: ToolProfile) -> tuple[str, str]:
        """The version of a program, or why there is none."""
        probe = ToolProfile(
            command=str(program).replace("{", "{{").replace("}", "}}"),
            type=profile.type,
            args=("--version",),
            env=profile.env,
            timeout_sec=self._timeout_s,
            grace_sec=1.0,
            memory_bytes=profile.memory_bytes,
            processes=profile.processes,
        )
        try:
            with tempfile.TemporaryDirectory(prefix="found-", dir=self._folder, ignore_cleanup_errors=True) as made:
                scratch = Path(made)
                home, temporary = scratch / "home", scratch / "tmp"
                home.mkdir()
                temporary.mkdir()
                done = await invoke(
                    self._supervisor,
                    probe,
                    {},
                    cwd=temporary,
                    env=child_environment({"PATH": self._path}, home=home, temporary=temporary),
                    scratch=scratch,
                    timeout_s=self._timeout_s,
                    output_bytes=VERSION_OUTPUT_BYTES,
                    marker=f"found/{uuid.uuid4().hex}",
                )
                if (reason := _refusal(done)) != "":
                    return "", reason
                said = (read_output(file, VERSION_OUTPUT_BYTES) for file in (done.stdout, done.stderr))
                version = next((version for output in said if (version := spoken_version(output))), "")
                return version, "" if version else "it printed nothing"
        except (ProcessError, OSError) as error:
            return "", str(error)[:REASON_CHARS]


def _refusal(done: Invocation) -> str:
    """Why a program that was asked has not answered; empty when it has."""
    ended = done.exit
    if ended is None:
        return done.message[:REASON_CHARS] or "it could not be started"
    if ended.ended_by != "itself":
        return f"it was ended after {ended.wall_s:.1f} s"
    if not done.ok:
        return (
            f"it ended with {f'signal {ended.signal}' if ended.exit_code is None else f'exit code {ended.exit_code}'}"
        )
    if ended.stdout_truncated or ended.stderr_truncated:
        return f"it printed {ended.stdout_bytes + ended.stderr_bytes} bytes"
    return ""


def _may_be_asked(profile: ToolProfile) -> bool:
    """A program that a placeholder stands for, such as an interpreter, has a version that says nothing of the tool."""
    bare = ToolProfile(command=profile.command)
    return profile.type == "ai" and not placeholders(bare, fix=False)


def _is_looked_for(profile: ToolProfile) -> bool:
    bare = ToolProfile(command=profile.command)
    plain = "/" not in profile.command or profile.command.startswith("/")
    return (
        plain
        and "PATH" not in profile.env
        and not placeholders(bare, fix=False)
        and len(profile.command) <= REASON_CHARS
    )


def _identity(program: Path) -> tuple[int, int, int, int]:
    """What changes when a program is replaced, be it behind a link."""
    try:
        found = program.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
