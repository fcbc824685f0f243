"""The AIM registry from Python: a tool by what it can do instead of by its name, on this machine, without a cluster.

    registry ──▶ route ──▶ the tools that are found here, each as often as it may be tried ──▶ the fallback tool
                                    └──▶ one audit file for each invocation

Invariants: a payload that the registry's limits do not allow reaches no tool; a tool's failure is a value, never an
exception; what is written is masked; an audit that cannot be written costs a warning, not the work. docs/aim.md says more.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from services.aim import (
    Registry,
    RegistryError,
    Route,
    beyond_limits,
    load_registry,
    missing_context,
    pinned,
    registry_file,
    route_for,
)
from services.bundle import CapabilityPayload
from services.executor.found import program_of
from services.executor.secrets import gathered
from services.executor.tools import EXIT_NOT_FOUND, EXIT_OTHER, ToolResult, run_tool, tool_path
from services.profiles import ToolProfile, shipped_tool_profiles
from swell.cluster import default_state_dir, prepare_state_dir
from swell.errors import SwellError
from swell.submission import actor

RETENTION_DAYS: Final = 30
"""How long audit files are kept."""

SAID_CHARS: Final = 300
KEPT_CHARS: Final = 2_000
"""Characters of a tool's standard error that an audit file keeps, from its end."""

_logger = logging.getLogger("swell.aim")
_warned: set[str] = set()
_turns: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


def is_aim_available() -> bool:
    """Whether there is an AIM registry that can be used; one that cannot be is told once, as a warning."""
    return _registry() is not None


def execute_with_aim(
    capability: str,
    payload: Mapping[str, Any],
    fallback_tool: str | None = None,
    context: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    ws_id: str | None = None,
    *,
    profiles: Mapping[str, ToolProfile] | None = None,
) -> ToolResult:
    """Ask the tools that serve a capability, one after the other, until one succeeds; then `fallback_tool`, a profile.

    `context` is as for `run_tool`; `payload` is merged into it, where only its `files` and `prompt` come first. Its
    `timeout_ms` (in whole seconds) and `max_retries` are in force instead of the route's. `profiles` defaults to the shipped
    ones. Returns the result of the tool that succeeded or of the fallback tool; if that failed as well, or there is none,
    exit code 1 and what went wrong in `stderr`. Never raises for a failure of a tool, a registry or a payload.
    """
    started_at = datetime.now(UTC)
    known = shipped_tool_profiles() if profiles is None else profiles
    try:
        call = _Call(capability, payload, context or {}, run_id, ws_id, known)
        found = call.routed()
    except _RefusedError as error:
        return _failed(capability, f"AIM: {error}", started_at)
    if isinstance(found, ToolResult):
        return found
    if fallback_tool is None:
        return _failed(capability, f"AIM: {found}", started_at)
    if fallback_tool not in known:
        last = f"there is no tool profile {fallback_tool!r}"
    else:
        result = call.invoke(fallback_tool, known[fallback_tool], call.timeout_s)
        if result.success:
            return result
        last = _why(fallback_tool, result)
    return _failed(capability, f"AIM: {found}\nFallback: {last}", started_at)


class _RefusedError(ValueError):
    """A payload that no tool may be given."""


class _Call:
    """One call of `execute_with_aim`: what every invocation of it shares."""

    def __init__(
        self,
        capability: str,
        payload: Mapping[str, Any],
        context: Mapping[str, Any],
        run_id: str | None,
        ws_id: str | None,
        profiles: Mapping[str, ToolProfile],
    ) -> None:
        """Raises _RefusedError for a payload that is none."""
        self._capability = str(capability)
        self._context = context
        self._ids = {"run_id": run_id, "ws_id": ws_id}
        self._profiles = profiles
        try:
            self._payload: dict[str, Any] = msgspec.to_builtins(dict(payload), enc_hook=str, str_keys=True)
            self._known = msgspec.convert(self._payload, CapabilityPayload)
        except msgspec.ValidationError as error:
            raise _RefusedError(f"the payload cannot be used: {error}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise _RefusedError(f"the payload must be an object of JSON: {error or 'nested too deeply'}") from error

    @property
    def timeout_s(self) -> float | None:
        """The limit that the payload asks for."""
        return None if self._known.timeout_ms is None else float(self._known.timeout_ms // 1000)

    def routed(self) -> ToolResult | str:
        """The result of the first tool that succeeds; else why none did. Raises _RefusedError."""
        registry = _registry()
        if registry is None:
            return "there is no AIM registry that can be used"
        self._require_within(registry)
        declared = next((route for name, route in registry.capabilities.items() if name == self._capability), None)
        if declared is None:
            return f"the registry has no route for the capability {self._capability[:100]!r}"
        if missing := missing_context(declared, self._payload):
            return "; ".join(map(str, missing))
        able, skipped = pinned(registry, self._profiles, {self._capability})
        failures = [f"{skip.tool}: {skip.reason}" for skip in skipped]
        for route in able.capabilities.values():
            result = self._first_success(able, route_for(route, self._payload), failures)
            if result is not None:
                return result
        return f"All tools failed for capability {self._capability}: {'; '.join(failures)}"

    def _require_within(self, registry: Registry) -> None:
        try:
            breaches = beyond_limits(registry.security, self._payload, self._files())
        except (TypeError, ValueError, RecursionError) as error:
            raise _RefusedError(f"the payload must be an object of JSON: {error or 'nested too deeply'}") from error
        if breaches:
            raise _RefusedError("; ".join(map(str, breaches)))

    def _files(self) -> list[str]:
        """What a tool is handed as its files."""
        files = self._known.files or self._context.get("files", ())
        return [str(file) for file in files] if isinstance(files, list | tuple) else [str(files)]

    def _first_success(self, registry: Registry, route: Route, failures: list[str]) -> ToolResult | None:
        path = tool_path(os.environ.get("PATH", os.defpath))
        for tool in _in_turn(self._capability, route):
            entry = registry.tools[tool]
            profile = self._profiles[entry.profile]
            if self._capability == "version_checking":
                profile = _asking_version(profile, entry.version_command)
            if program_of(profile, path) is None:
                failures.append(f"{tool}: {profile.command} was not found on this machine")
                continue
            result = self._tried(tool, profile, route)
            if result.success:
                return result
            failures.append(_why(tool, result))
        return None

    def _tried(self, tool: str, profile: ToolProfile, route: Route) -> ToolResult:
        """The result of a tool, after as many attempts as its route allows and make sense, with growing pauses."""
        result = self.invoke(tool, profile, route.timeout_s)
        for retry in range(route.max_retries):
            hopeless = result.timed_out or result.exit_code in {EXIT_NOT_FOUND, EXIT_OTHER}
            if result.success or hopeless or profile.error_class(result.exit_code) == "auth":
                break
            time.sleep(2**retry)
            result = self.invoke(tool, profile, route.timeout_s)
        return result

    def invoke(self, tool: str, profile: ToolProfile, timeout_s: float | None) -> ToolResult:
        """Run one tool once, and leave a record of it."""
        own = {key: value for key, value in self._payload.items() if key in {"files", "prompt"}}
        told = {"files": [], **self._payload, **self._context, **own}
        if timeout_s is not None:
            told["timeout_sec"] = timeout_s
        at = datetime.now(UTC)
        try:
            result = run_tool(tool, told, {tool: profile}, self._ids["run_id"], self._ids["ws_id"])
        except (OSError, ValueError) as error:
            result = _failed(tool, str(error), at, exit_code=EXIT_OTHER)
        self._record(tool, result, at)
        return result

    def _record(self, tool: str, result: ToolResult, at: datetime) -> None:
        record = {
            "actor": actor(),
            "tool_id": tool,
            "capability": self._capability,
            "payload": self._payload,
            "result": {
                "success": result.success,
                "exit_code": result.exit_code,
                "timed_out": result.timed_out,
                "duration_sec": result.duration_sec,
                "stderr": result.stderr[-KEPT_CHARS:],
                **{name: value for name, value in self._ids.items() if value is not None},
            },
        }
        try:
            mask = gathered(self._profiles.values()).mask_text
            folder = default_state_dir() / "aim_audit"
            prepare_state_dir(folder.parent)
            _write(folder, f"{tool}_{self._capability}", _masked(record, mask), at)
            _prune(folder, at.date())
        except (OSError, SwellError, ValueError, RecursionError) as error:
            _logger.warning("the audit of %s cannot be written: %s", tool, error)


def _registry() -> Registry | None:
    try:
        return load_registry(registry_file(os.environ))
    except RegistryError as error:
        if str(error) not in _warned:
            _warned.add(str(error))
            _logger.warning("there is no AIM registry, tools are used directly: %s", error)
        return None


def _in_turn(capability: str, route: Route) -> Sequence[str]:
    """The tools as they are asked: each first in turn where their load is balanced. Nothing is measured here."""
    first = next(_turns[capability]) % len(route.tools) if route.strategy == "load_balance" else 0
    return (*route.tools[first:], *route.tools[:first])


def _asking_version(profile: ToolProfile, command: Sequence[str]) -> ToolProfile:
    """The profile's program, asked for nothing but its version, without its secrets."""
    program, *arguments = command or (profile.command, "--version")
    environment = {name: value for name, value in profile.env.items() if name == "PATH"}
    return ToolProfile(command=program, args=tuple(arguments), env=environment, timeout_sec=profile.timeout_sec)


def _why(tool: str, result: ToolResult) -> str:
    how = "its time was up" if result.timed_out else f"exit code {result.exit_code}"
    said = result.stderr.strip()[-SAID_CHARS:]
    return f"{tool}: {how}: {said}" if said else f"{tool}: {how}"


def _failed(tool: str, text: str, started_at: datetime, exit_code: int = 1) -> ToolResult:
    completed_at = datetime.now(UTC)
    took_s = (completed_at - started_at).total_seconds()
    return ToolResult(
        tool_id=tool,
        command_line="",
        exit_code=exit_code,
        stdout="",
        stderr=text,
        timed_out=False,
        started_at=started_at.isoformat(),
        completed_at=completed_at.isoformat(),
        duration_sec=took_s,
        elapsed_sec=took_s,
        success=False,
        content={},
    )


# The audit


def _masked(value: Any, mask: Callable[[str], str], key: str = "") -> Any:
    """The value without secrets: each text is looked at beside the name it stands under."""
    match value:
        case str():
            return mask(f"{key}: {value}").removeprefix(f"{key}: ")
        case dict():
            return {mask(str(name)): _masked(item, mask, str(name)) for name, item in value.items()}
        case list():
            return [_masked(item, mask, key) for item in value]
        case _:
            return value


def _write(folder: Path, name: str, record: dict[str, Any], at: datetime) -> None:
    """One new file, readable by its owner alone; two of the same microsecond get different ones."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:150]
    day = folder / at.strftime("%Y-%m-%d")
    day.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        file = day / f"{at:%Y-%m-%dT%H-%M-%S-%f}_{name}.json"
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            at += timedelta(microseconds=1)
            continue
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode({"timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z", **record}))
        return


def _prune(folder: Path, today: date) -> None:
    """Remove the days that are over RETENTION_DAYS old; nothing else that lies there."""
    oldest = (today - timedelta(days=RETENTION_DAYS)).isoformat()
    for day in folder.iterdir():
        if _DAY.fullmatch(day.name) and day.name < oldest and day.is_dir() and not day.is_symlink():
            shutil.rmtree(day)
