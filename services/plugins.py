"""Plugins: checks as data, one folder each, which become tool profiles and are checks of every workstream.

    <folder>/<plugin id>/manifest.json     {plugin_id, name, file_extensions, requires, tool, report, categories, severities}

Invariants: of a plugin nothing but its manifest is read, and nothing of it is ever loaded or executed here; an id stands
for one plugin only. Pure; services/discovery.py finds the folders.
"""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from services.checks import Checks, EffectiveChecks, Overrides, resolve
from services.plan import Finding
from services.profiles import PLUGIN_NAME_CHARS_MAX, ProfileError, ToolProfile, json_of, profile_of

MANIFEST: Final = "manifest.json"
MANIFEST_BYTES: Final = 64 * 1024
CIRCLE_SHOWN_MAX: Final = 10
NAME_CHARS_SHOWN: Final = 80

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OF_PROFILES: Final = ("file_extensions", "requires", "report", "categories", "severities")
"""Fields of a manifest that a tool profile has under the same name."""

FIELDS: Final = ("plugin_id", "name", *_OF_PROFILES, "tool")


class PluginError(ProfileError):
    """A folder with plugins cannot be used; the text names file, field and remedy."""


# Manifests


def parse_manifest(data: bytes, source: str, folder: str) -> ToolProfile:
    """The tool profile that a manifest makes; ``source`` names it in errors, ``folder`` is the name of its folder.

    Raises:
        ProfileError: it is larger than 64 KiB, not JSON, or says something that is not understood; or its id is not the
            name of its folder.
    """
    if len(data) > MANIFEST_BYTES:
        raise PluginError(f"{source}: larger than {MANIFEST_BYTES} bytes. A manifest says how one tool is called.")
    fields = _fields(json_of(data, source), source)
    plugin = fields.pop("plugin_id")
    if not isinstance(plugin, str) or not _ID.fullmatch(plugin):
        raise PluginError(
            f"{source}: plugin_id is {plugin!r:.80}. Use 1 to 64 letters, digits, '_', '-' and '.', none of these first."
        )
    if plugin != folder:
        raise PluginError(
            f"{source}: plugin_id is {plugin!r}, and its folder is {folder!r}. "
            "Give both the same name; one id stands for one plugin."
        )
    tool, name = _tool(fields.pop("tool"), source), fields.pop("name")
    return profile_of({**tool, **fields, "plugin": name}, plugin, source)


def _fields(document: object, source: str) -> dict[str, Any]:
    """The fields of a manifest in snake_case."""
    if not isinstance(document, dict):
        raise PluginError(f'{source}: must be an object {{"plugin_id": …, "name": …, "tool": {{"command": …}}}}.')
    fields: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in FIELDS:
            raise PluginError(f"{source}: unknown field {key[:80]!r}. Known are: {', '.join(FIELDS)}.")
        if name in fields:
            raise PluginError(f"{source}: field {key!r} is given twice, in two spellings. Keep one of them.")
        fields[name] = value
    for name in ("plugin_id", "name", "tool"):
        if name not in fields:
            raise PluginError(f"{source}: {name} is missing. Add it.")
    if not isinstance(fields["name"], str) or not 0 < len(fields["name"].strip()) <= PLUGIN_NAME_CHARS_MAX:
        raise PluginError(
            f"{source}: name must be a text of 1 to {PLUGIN_NAME_CHARS_MAX} characters. Shorten or write it."
        )
    return fields


def _tool(raw: object, source: str) -> dict[str, Any]:
    """The fields of ``tool``, as those of a tool profile."""
    if not isinstance(raw, dict):
        raise PluginError(f'{source}: tool must be an object with at least "command".')
    fields: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name in {*_OF_PROFILES, "plugin"}:
            raise PluginError(f"{source}: tool has the field {key!r}, which stands beside it. Move it there.")
        name = "success_exit_codes" if name == "success_codes" else name
        if name in fields:
            raise PluginError(f"{source}: tool has {name} twice, in two spellings. Keep one of them.")
        fields[name] = value
    if fields.setdefault("type", "static-check") == "ai":
        raise PluginError(f"{source}: tool.type is ai, and a plugin is a check. Make it a tool profile of its own.")
    return fields


def with_plugins(profiles: Mapping[str, ToolProfile], plugins: Mapping[str, ToolProfile]) -> dict[str, ToolProfile]:
    """Both together. Raises PluginError when an id stands for a plugin and for a profile that would replace it."""
    for name in sorted(plugins.keys() & profiles.keys()):
        raise PluginError(
            f"the tool profile {name!r} has the id of the plugin {name!r} ({plugins[name].plugin}), which would go unused. "
            "Give one of them another id."
        )
    return {**profiles, **plugins}


# What is in force


def in_force(
    repository: Checks | None,
    context: Mapping[str, object] | None,
    override: Overrides | None,
    profiles: Mapping[str, ToolProfile],
) -> EffectiveChecks:
    """The settings in force as `resolve` has them, with the plugins after the static tools, in the order of `requires`.

    What requires something comes after it; otherwise static tools come as they are named, then plugins by id. What goes
    round in a circle comes last: nothing here fails but what fails in `resolve`. `requirement_problems` tells of it.
    """
    found = resolve(repository, context, override)
    return msgspec.structs.replace(found, static_tools=_ordered(found.static_tools, profiles)[0])


def requirement_problems(static_tools: Sequence[str], profiles: Mapping[str, ToolProfile]) -> list[Finding]:
    """What `requires` of the static tools in force asks for in vain: REQUIREMENT_CYCLE, UNKNOWN_REQUIREMENT."""
    found = [
        Finding(
            code="UNKNOWN_REQUIREMENT",
            message=f"{_where(tool, profiles)}: requires names {other!r:.80}, which is no check of the same workstream",
            remedy="add it to static_tools or to the plugins, or take it out of requires",
        )
        for tool in static_tools
        if tool in profiles
        for other in profiles[tool].requires
        if other not in static_tools
    ]
    order, ready = _ordered(static_tools, profiles)
    rest = order[ready:]
    if rest:
        at, seen = min(rest), list[str]()
        while at not in seen:
            seen.append(at)
            at = min(other for other in profiles[at].requires if other in rest)
        circle = seen[seen.index(at) :]
        start = circle.index(min(circle))
        circle = [*circle[start:], *circle[:start], circle[start]]
        told = [name[:NAME_CHARS_SHOWN] for name in circle[:CIRCLE_SHOWN_MAX]]
        shown = " -> ".join([*told, *(["..."] if len(circle) > CIRCLE_SHOWN_MAX else [])])
        found.append(
            Finding(
                code="REQUIREMENT_CYCLE",
                message=f"{_where(circle[0], profiles)}: requires goes round in a circle: {shown}",
                remedy="take one of these out of requires",
            )
        )
    return found


def _where(tool: str, profiles: Mapping[str, ToolProfile]) -> str:
    return f"{tool}/{MANIFEST}" if profiles[tool].plugin is not None else f"the tool profile {tool!r:.80}"


def _ordered(static_tools: Iterable[str], profiles: Mapping[str, ToolProfile]) -> tuple[tuple[str, ...], int]:
    """The static tools and plugins in order, and how many of them wait for none of themselves."""
    plugins = sorted(tool for tool, profile in profiles.items() if profile.plugin is not None)
    names = list(dict.fromkeys([*static_tools, *plugins]))
    rank = {name: number for number, name in enumerate(names)}
    required = {
        name: {other for other in profiles[name].requires if other in rank} if name in profiles else set()
        for name in names
    }
    waiting: dict[str, list[str]] = {name: [] for name in names}
    for name, others in required.items():
        for other in others:
            waiting[other].append(name)
    left = {name: len(others) for name, others in required.items()}
    ready = [rank[name] for name in names if not left[name]]
    order: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for other in waiting[name]:
            left[other] -= 1
            if not left[other]:
                heapq.heappush(ready, rank[other])
    return (*order, *(name for name in names if left[name])), len(order)
