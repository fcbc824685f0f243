"""Which tools there are, whether they can be started, and whether they are held back: what `swell tools` prints.

    profiles: shipped ← the repository's ← the user's own file          as a run made here would have them
    found:    on the PATH of the embedded cluster's executor, if it runs, else on ours

Invariants: what a repository says is only looked up, never started; of variables only names are kept, never values.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from services.aim import CAPABILITIES, RegistryError, load_registry, pinned, registry_file
from services.checks import CHECKS_BYTES, CHECKS_FILE, Checks, ChecksError, EffectiveChecks, parse_checks
from services.config import load_yaml
from services.discovery import plugins_at
from services.executor.found import FoundTool, ToolFinder
from services.executor.sandbox import Exposure, Sandbox
from services.executor.sandbox import look as look_for_sandbox
from services.executor.tools import tool_path
from services.gates import GATES_BYTES, parse_gates
from services.outcome import usd_text
from services.plugins import in_force as checks_in_force
from services.plugins import with_plugins
from services.process import ProcessError, Supervisor
from services.profiles import (
    PROFILES_BYTES,
    ProfileError,
    ToolProfile,
    load_tool_profiles,
    parse_tool_profiles,
    shipped_tool_profiles,
)
from services.repository import RepositoryError, inspect, read_file
from services.resources import resource
from swell import cluster
from swell.errors import SwellError, invalid
from swell.listing import when
from swell.settings import RunSettings, in_force
from swell.submission import gates_at
from swell.text import columns, one_line
from swell.values import Fleet, ToolBreaker

if TYPE_CHECKING:
    from swell.client import Client

ENVIRON_BYTES_MAX: Final = 4 * 1024 * 1024
NO_RUN_YET: Final = frozenset({"NOT_A_REPOSITORY", "NO_COMMIT"})
"""What a folder may be for the tools of a run to be those that everybody has."""

PLACES: Final = {"cluster": "the running cluster", "here": "this shell"}

Origin = Literal["shipped", "repository", "file"]


class KnownTool(msgspec.Struct, frozen=True, kw_only=True):
    """A profile, and who gave it: it comes with Swell, it is the repository's, or the user's own file has it."""

    profile: ToolProfile
    origin: Origin


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a run made here; `checks` are the repository's settings, None when it is no repository.

    `judges` are the tools of the gates that the repository asks for.
    """

    tools: dict[str, KnownTool]
    checks: EffectiveChecks | None = None
    judges: tuple[str, ...] = ()

    @property
    def profiles(self) -> dict[str, ToolProfile]:
        """The profiles by tool id."""
        return {tool: known.profile for tool, known in self.tools.items()}


def known_tools(repo: Path, file: str | None = None) -> Known:
    """The tools that a run of the repository at `repo` would know, with those of `file` laid over them.

    A folder that is no repository has the shipped ones. Raises SwellError BAD_CHECKS, BAD_PROFILES, BAD_GATES, or what is
    wrong with the repository.
    """
    checks = None
    tools = shipped_tools()
    try:
        found = _repository(repo)
        own, plugins = ({}, {}) if found is None else (found.profiles, found.plugins)
        users = {} if file is None else load_tool_profiles(Path(file).expanduser())
        with_plugins(own | users, plugins)
        tools |= _from("repository", own) | _from("file", users) | _from("repository", plugins)
        if found is not None:
            checks = checks_in_force(found.checks, None, None, {tool: known.profile for tool, known in tools.items()})
    except RepositoryError as error:
        raise invalid(error.code, str(error.args[0]), error.remedy, str(repo)) from error
    except ChecksError as error:
        raise invalid("BAD_CHECKS", str(error), "Mend it, then commit it.", str(repo)) from error
    except ProfileError as error:
        raise invalid("BAD_PROFILES", str(error), "Mend the tool profiles.") from error
    return Known(tools=tools, checks=checks, judges=() if found is None else found.judges)


def chosen_profiles(file: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The user's own file of tool profiles: `file`, else that of their settings, if any. Raises SwellError."""
    return file if file is not None else in_force(RunSettings(), environ).tool_profiles


def shipped_tools() -> dict[str, KnownTool]:
    """The tools that come with Swell."""
    return _from("shipped", shipped_tool_profiles())


def _from(origin: Origin, profiles: Mapping[str, ToolProfile]) -> dict[str, KnownTool]:
    return {tool: KnownTool(profile=profile, origin=origin) for tool, profile in profiles.items()}


class _Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository has at its commit: settings, own profiles, plugins, and the tools of the gates it asks for."""

    checks: Checks
    profiles: dict[str, ToolProfile]
    plugins: dict[str, ToolProfile]
    judges: tuple[str, ...]


def _repository(repo: Path) -> _Committed | None:
    """What a folder has committed; None when it is no repository."""
    try:
        state = inspect(repo, allow_dirty=True)
    except RepositoryError as error:
        if error.code in NO_RUN_YET:
            return None
        raise
    settings = read_file(state.root, state.base_commit, CHECKS_FILE, CHECKS_BYTES)
    checks = Checks() if settings is None else parse_checks(settings, CHECKS_FILE)
    plugins = {} if checks.plugins is None else plugins_at(state.root, state.base_commit, checks.plugins)
    judges = _judges(checks, gates_at(state.root, state.base_commit, checks))
    if checks.tool_profiles is None:
        return _Committed(checks=checks, profiles={}, plugins=plugins, judges=judges)
    data = read_file(state.root, state.base_commit, checks.tool_profiles, PROFILES_BYTES)
    if data is None:
        raise invalid(
            "BAD_PROFILES",
            f"{CHECKS_FILE} names the tool profiles {checks.tool_profiles}, which the commit does not have",
            "Commit that file, or mend `tool_profiles`.",
            str(state.root),
        )
    own = parse_tool_profiles(data, checks.tool_profiles)
    return _Committed(checks=checks, profiles=own, plugins=plugins, judges=judges)


def _judges(checks: Checks, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The tools of the gates that the repository asks for, by what is shipped and what lies over it."""
    shipped = load_yaml(resource("config/gates.yaml"), GATES_BYTES)
    stand_for = parse_gates({**shipped, **given}, "gates")
    return tuple(stand_for[gate.type].tool for gate in checks.test_gates or () if gate.type in stand_for)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where tools would be started from: the PATH they get, and the names of the variables that are set and not empty."""

    kind: Literal["cluster", "here"]
    path: str
    variables: frozenset[str]


def place_of(state_dir: Path | None, environ: Mapping[str, str] = os.environ) -> Place:
    """The running executor of the embedded cluster in `state_dir`, if there is one; else this process.

    A cluster keeps the environment that it was started with, so that one counts, and may differ from ours.
    """
    running = None if state_dir is None else _executor_environment(state_dir)
    kind: Literal["cluster", "here"] = "here" if running is None else "cluster"
    found = environ if running is None else running
    return Place(
        kind=kind,
        path=tool_path(found.get("PATH", os.defpath)),
        variables=frozenset(name for name, value in found.items() if value),
    )


def _executor_environment(state_dir: Path) -> dict[str, str] | None:
    if not (state_dir / "cluster.json").exists() or not cluster.is_owned(state_dir):
        return None
    status = cluster.read_status(state_dir)
    process = Path("/proc") / str(0 if status is None else status.children.get("executor", 0))
    try:
        if b"services.executor" not in (process / "cmdline").read_bytes():
            return None
        with (process / "environ").open("rb") as file:
            data = file.read(ENVIRON_BYTES_MAX)
    except OSError:
        return None
    pairs = (entry.partition(b"=") for entry in data.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def find_tools(known: Known, path: str) -> dict[str, FoundTool]:
    """The tools whose programs are on a PATH, with the versions of AI tools, and whether they have a sandbox.

    The repository's are not started.

    Raises SwellError TOOLS_NOT_ASKED.
    """
    trusted = [tool for tool, item in known.tools.items() if item.origin != "repository"]

    async def look() -> dict[str, FoundTool]:
        supervisor = Supervisor()
        await supervisor.start()
        try:
            had = await look_for_sandbox(supervisor, Path(folder), path)
            sandbox = Sandbox(had, Exposure(), scratch=Path(folder), contained=supervisor.mode == "pidns")
            finder = ToolFinder(supervisor, Path(folder), known.profiles, trusted=trusted, path=path, sandbox=sandbox)
            return await finder.look()
        finally:
            await supervisor.close()

    try:
        with tempfile.TemporaryDirectory(prefix="swell-tools-", ignore_cleanup_errors=True) as folder:
            return asyncio.run(look())
    except (ProcessError, OSError) as error:
        raise SwellError(
            "UNAVAILABLE", "TOOLS_NOT_ASKED", f"tools cannot be asked for their version: {error}"
        ) from error


def table_of_tools(client: Client, repo: Path, file: str | None) -> ToolTable:
    """The tools of a run of `repo`, with those of `file`, or else of the user's settings, laid over. Raises SwellError."""
    known = known_tools(repo, chosen_profiles(file))
    state_dir = client.endpoints.state_dir
    place = place_of(state_dir)
    found = find_tools(known, place.path)
    return ToolTable.of(
        known,
        found,
        client.get_fleet(),
        place,
        remote=state_dir is None,
        served=served_capabilities(known.profiles),
        spent_nano={one.tool: one.spent_nano for one in client.get_shared_budgets().budgets if one.tool},
    )


def served_capabilities(
    profiles: Mapping[str, ToolProfile], environ: Mapping[str, str] = os.environ
) -> dict[str, list[str]]:
    """What the AIM registry in force here routes to each of these tools; nothing if there is none that can be used."""
    try:
        registry = load_registry(registry_file(environ))
    except RegistryError:
        return {}  # `swell doctor` says what is wrong with it
    able, _ = pinned(registry, profiles, CAPABILITIES)
    served: dict[str, list[str]] = {}
    for capability, route in able.capabilities.items():
        for tool in able.profiles_of(route):
            served.setdefault(tool, []).append(capability)
    return served


class ToolRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tool, or one provider, as it is shown: a row without `type` is a provider, or a tool of other runs.

    `program` is empty when it was not found; `version_reason` says why a program that was asked told no version.
    `capabilities`: what the AIM registry routes to it. `spent_nano`: what its attempts of today, UTC, have cost in all runs.
    `sandboxed`: whether it would run in a sandbox, "" where nobody has tried; `unconfined` says why it would not, although
    its profile wants one.
    """

    tool: str
    type: str = ""
    origin: str = ""
    program: str = ""
    version: str = ""
    version_reason: str = ""
    sandboxed: Literal["", "yes", "no"] = ""
    unconfined: str = ""
    capabilities: Sequence[str] = ()
    adapter: str = ""
    fallback: Sequence[str] = ()
    breaker: ToolBreaker | None = None
    paused: bool = False
    executors: int = 0
    """How many executors have found it."""
    spent_nano: int = 0


class ToolTable(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a run made here. `found_by`: whose PATH counted; `remote`: the cluster may be on other machines."""

    tools: list[ToolRow]
    found_by: str
    remote: bool

    @classmethod
    def of(
        cls,
        known: Known,
        found: Mapping[str, FoundTool],
        fleet: Fleet,
        place: Place,
        *,
        remote: bool,
        served: Mapping[str, Sequence[str]],
        spent_nano: Mapping[str, int],
    ) -> ToolTable:
        """The profiles, what was found of them, and what the scheduler says of their breakers, pauses and costs."""
        breakers = {breaker.tool: breaker for breaker in fleet.breakers}
        paused = {pause.name for pause in fleet.pauses if pause.scope == "tool"}
        holders = Counter(tool for executor in fleet.executors for tool in executor.tools)
        rows = []
        for tool, item in sorted(known.tools.items()):
            profile, there = item.profile, found.get(tool)
            rows.append(
                ToolRow(
                    tool=tool,
                    type=profile.type,
                    origin=item.origin,
                    program="" if there is None else there.program,
                    version="" if there is None else there.version,
                    version_reason="" if there is None else there.reason,
                    sandboxed="" if there is None else there.sandboxed,
                    unconfined="" if there is None else there.unconfined,
                    capabilities=served.get(tool, ()),
                    adapter=profile.adapter or "",
                    fallback=profile.fallback,
                    breaker=breakers.get(tool),
                    paused=tool in paused,
                    executors=holders[tool],
                    spent_nano=spent_nano.get(tool, 0),
                )
            )
        others = sorted((breakers.keys() | paused | spent_nano.keys()) - known.tools.keys())
        rows += [
            ToolRow(tool=name, breaker=breakers.get(name), paused=name in paused, spent_nano=spent_nano.get(name, 0))
            for name in others
        ]
        return cls(tools=rows, found_by=place.kind, remote=remote)

    def json(self) -> str:
        """All of it as one JSON object."""
        return msgspec.json.encode(self).decode()

    def lines(self) -> list[str]:
        """A table, and what is to be known about it."""
        rows = [
            [
                "tool",
                "type",
                "executors",
                "found",
                "version",
                "sandbox",
                "adapter",
                "capabilities",
                "fallback",
                "breaker",
                "today",
            ]
        ]
        rows += [
            [
                row.tool,
                row.type or "-",
                str(row.executors) if row.executors else "-",
                row.program or ("no" if row.type else "-"),
                row.version or (f"? ({row.version_reason})" if row.version_reason else "-"),
                row.sandboxed or "-",
                row.adapter or "-",
                ", ".join(row.capabilities) or "-",
                ", ".join(row.fallback) or "-",
                _held(row),
                usd_text(row.spent_nano) if row.spent_nano else "-",
            ]
            for row in self.tools
        ]
        there = sum(1 for row in self.tools if row.program)
        known = sum(1 for row in self.tools if row.type)
        lines = [
            *columns(rows),
            "",
            f"{there} of {known} found on this machine, on the PATH of {PLACES[self.found_by]}",
        ]
        lines += [f"without a sandbox: {', '.join(tools)}: {reason}" for reason, tools in self._unconfined().items()]
        if self.remote:
            lines.append("the cluster's executors may be on other machines, and have other tools")
        return lines

    def _unconfined(self) -> dict[str, list[str]]:
        """Why tools would run without the sandbox that they want, or not at all, and which."""
        found: dict[str, list[str]] = {}
        for row in self.tools:
            if row.unconfined:
                found.setdefault(one_line(row.unconfined, 1000), []).append(row.tool)
        return found


def _held(row: ToolRow) -> str:
    """What holds a tool back, in words."""
    said = ["paused"] if row.paused else []
    breaker = row.breaker
    if breaker is not None:
        state = breaker.state.replace("_", " ")
        if breaker.state == "open":
            state += f" until {when(breaker.until_ns)}" + (f": {breaker.reason}" if breaker.reason else "")
        elif breaker.failures:
            state += f", {breaker.failures} failed"
        said.append(state)
    return "; ".join(said) or "closed"
