"""Which tools can be started on this machine, which versions they say they are, and whether they run in a sandbox.

    profile → program on the tool's PATH (nothing is started) → for a type `ai` its trial (services/executor/trial.py)

Invariants: a tool is looked up as the supervisor would start it; only the program of a profile of type `ai`, of which whoever
asks says that it is trusted, is tried.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from services.executor.sandbox import Sandbox
from services.executor.tools import tool_path
from services.executor.trial import VERSION_TIMEOUT_S, Trials, Tried
from services.process import Supervisor, child_environment
from services.profiles import PlaceholderError, ToolProfile, placeholders, substitute_one

FOUND_TTL_S: Final = 300.0
"""How long what was found counts; then programs are looked up anew."""

VERSIONS_AT_ONCE: Final = 3
"""Tools start slowly and take a processor each while they do."""

ANNOUNCED_MAX: Final = 200
ANNOUNCED_ID_CHARS: Final = 64
PROGRAM_CHARS: Final = 200
"""With all of them, what is announced takes 80 KB at most, where the bus takes a megabyte or more."""


class FoundTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that can be started: its program's path, and its version, empty when it is not known.

    `reason` says why it is not known although the program was asked. `sandboxed`: whether it runs in a sandbox here, ""
    when nobody has looked; `unconfined` says why not, "" where its profile wants none.
    """

    program: str
    version: str = ""
    reason: str = ""
    sandboxed: Literal["", "yes", "no"] = ""
    unconfined: str = ""


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
        sandbox: Sandbox | None = None,
        trials: Trials | None = None,
        ttl_s: float = FOUND_TTL_S,
        timeout_s: float = VERSION_TIMEOUT_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is for the tools' scratch folders; it must be there when they are looked for.

        `trusted`: the tools that may be asked for their version; by default all. `path`: where programs are looked up, by
        default our own PATH as tools get it. `sandbox`: in which they are asked, by default in none. `trials`: those that
        attempts go by as well, by default its own. `timeout_s`: how long a tool may take to tell its version.
        """
        self.ttl_s = ttl_s
        self._profiles = dict(profiles)
        self._trusted = set(self._profiles if trusted is None else trusted)
        self._path = tool_path(os.environ.get("PATH", os.defpath)) if path is None else path
        self._sandbox = sandbox
        self._trials = trials or Trials(supervisor, folder, timeout_s=timeout_s, now_s=now_s)
        self._now_s = now_s
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
        gate = asyncio.Semaphore(VERSIONS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for tool, program in programs.items():
                profile = self._profiles[tool]
                if tool in self._trusted and _may_be_asked(profile):
                    group.create_task(self._ask(program, profile, gate))
        self._found = {tool: self._told(self._profiles[tool], program) for tool, program in programs.items()}
        self._found_at_s = self._now_s()
        return dict(self._found)

    def _told(self, profile: ToolProfile, program: Path) -> FoundTool:
        """What is known of the program; on whoever's behalf it was asked, it is the same file."""
        tried = self._trials.known(program, profile) if _may_be_asked(profile) else None
        unconfined = "" if tried is None else tried.unconfined
        sandboxed: Literal["", "yes", "no"] = ""
        if self._sandbox is not None:
            if profile.sandboxing != "none":
                unconfined = unconfined or self._sandbox.reason
            if unconfined or profile.sandboxing == "none":
                sandboxed = "no"
            elif tried is not None or profile.type != "ai":
                sandboxed = "yes"
        tried = tried or Tried()
        return FoundTool(
            program=str(program),
            version=tried.version,
            reason=tried.reason,
            sandboxed=sandboxed,
            unconfined=unconfined,
        )

    async def _ask(self, program: Path, profile: ToolProfile, gate: asyncio.Semaphore) -> None:
        async with gate:
            await self._trials.of(program, profile, child_environment({"PATH": self._path}), self._sandbox)


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
        and len(profile.command) <= PROGRAM_CHARS
    )
