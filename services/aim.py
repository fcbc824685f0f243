"""The AIM registry: which tools serve a capability, in which order, and within which limits. docs/aim.md has the file's form.

    capability ──▶ Route: primary, fallback … ──▶ AimTool ──▶ tool profile

Invariants:

* A registry that was read is sound: every route names tools that it has, each once, and every pattern can be matched.
* A registry that was `pinned` leads to profiles that exist, for every tool of every route. It is what a run keeps, so a
  file that changes later changes nothing.
* Limits are answers, not exceptions: each `Breach` names the field and what to do.

Pure, but for `load_registry` and `registry_file`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from services import scope
from services.bundle import Capability, WorkstreamBundle
from services.profiles import ToolProfile
from services.resources import resource

REGISTRY_VARIABLE: Final = "AIM_REGISTRY_PATH"
REGISTRY_BYTES: Final = 1024 * 1024
TOOLS_MAX: Final = 200
FALLBACKS_MAX: Final = 10
WORDS_MAX: Final = 100
PATTERNS_MAX: Final = 100
REQUIREMENTS_MAX: Final = 50
TEXT_CHARS_MAX: Final = 4096
TIMEOUT_MS_MAX: Final = 86_400_000
RETRIES_MAX: Final = 5
PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024
FILES_MAX: Final = 10_000
SHOWN_MAX: Final = 10
"""Paths that breaches of one kind name."""

CAPABILITIES: Final[tuple[str, ...]] = get_args(Capability)

Strategy = Literal["order", "load_balance", "measured"]
Requirement = Literal["required", "optional"]

_ToolId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)", max_length=100)]
_Text = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX)]
_Pattern = Annotated[str, Meta(min_length=1, max_length=scope.PATH_BYTES_MAX)]
_Patterns = Annotated[tuple[_Pattern, ...], Meta(max_length=PATTERNS_MAX)]

_SPELLINGS: Final = {
    "loadBalance": "load_balance",
    "detectCommands": "detect_commands",
    "versionCommand": "version_command",
    "installCommand": "install_command",
    "updateCommand": "update_command",
    "configPaths": "config_paths",
    "logPaths": "log_paths",
    "adapterScript": "adapter_script",
    "crossToolRulesPath": "cross_tool_rules_path",
}
_Commands = list[str | list[str]]
_ACCEPTED_OF_TOOLS: Final[dict[str, Any]] = {
    "detect_commands": _Commands,
    "install_command": _Commands,
    "update_command": _Commands,
    "config_paths": _Commands,
    "log_paths": _Commands,
    "adapter_script": str | None,
}
_ACCEPTED_OF_FILES: Final[dict[str, Any]] = {"cross_tool_rules_path": str | None, "conflict_resolution": dict[str, Any]}
"""Fields that older files have, which are checked for their type and not used."""


class RegistryError(ValueError):
    """A registry cannot be used; the text names file, field and remedy."""


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who serves a capability. Ids are those of the registry's tools.

    strategy: "order": the primary, then the fallbacks as they stand; "load_balance": the one with the least to do first;
        "measured": the one that did best so far first.
    timeout_ms: how long one invocation may take; None: as long as the tool's profile and the step allow.
    max_retries: how often a tool that failed is asked again before the next one.
    context_requirements: fields of the payload that must be there ("required"), or may.
    """

    primary: _ToolId
    fallback: Annotated[tuple[_ToolId, ...], Meta(max_length=FALLBACKS_MAX)] = ()
    strategy: Strategy = "order"
    timeout_ms: Annotated[int, Meta(ge=1000, le=TIMEOUT_MS_MAX)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=RETRIES_MAX)] = 0
    context_requirements: Annotated[dict[_Text, Requirement], Meta(max_length=REQUIREMENTS_MAX)] = {}

    @property
    def tools(self) -> tuple[str, ...]:
        """The primary and its fallbacks, in order."""
        return (self.primary, *self.fallback)

    @property
    def timeout_s(self) -> float | None:
        """The limit in whole seconds; None for none of its own."""
        return None if self.timeout_ms is None else float(self.timeout_ms // 1000)


class AimTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tool of the registry.

    name: for people. profile: the id of its tool profile; "": the profile that names this tool as its `aim_tool_id`, else
    the one of the same id. capabilities: what it may be asked for; none: anything. version_command: program and arguments
    that tell its version; none: the profile's program with `--version`.
    """

    name: Annotated[str, Meta(max_length=200)] = ""
    profile: Annotated[str, Meta(max_length=200)] = ""
    capabilities: tuple[Capability, ...] = ()
    version_command: Annotated[tuple[_Text, ...], Meta(max_length=WORDS_MAX)] = ()


class Security(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits on what tools are given by capability. Patterns are scope patterns; no allowed pattern: every path is."""

    allowed_file_patterns: _Patterns = ()
    forbidden_paths: _Patterns = ()
    max_payload_size_bytes: Annotated[int, Meta(ge=1, le=PAYLOAD_BYTES_MAX)] = 1_048_576
    max_file_count: Annotated[int, Meta(ge=1, le=FILES_MAX)] = 50

    def refuses(self, path: str) -> str:
        """Why a path, or a declared pattern, may not be given to a tool; "" when it may.

        A pattern is forbidden when it covers a forbidden path that is spelt out, or can match nothing else. What a wider
        one matches is known when a tool has changed it, and judged then.
        """
        own = scope.ScopePattern(text=path)
        for pattern in self.forbidden_paths:
            exact = scope.overlap_key(pattern) == f"{pattern}/"
            if scope.ScopePattern(text=pattern).covers(path) or (exact and own.covers(pattern)):
                return f"is forbidden by {pattern!r}"
        if self.allowed_file_patterns and not any(
            scope.ScopePattern(text=pattern).covers(path) for pattern in self.allowed_file_patterns
        ):
            return "is matched by none of allowed_file_patterns"
        return ""


class Registry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Capabilities to routes, tools by id, and the limits for all of them."""

    capabilities: dict[Capability, Route] = {}
    tools: dict[str, AimTool] = {}
    security: Security = Security()

    def profiles_of(self, route: Route) -> tuple[str, ...]:
        """The profile ids of a route's tools, in order. Of a pinned registry."""
        return tuple(self.tools[tool].profile for tool in route.tools)


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of a route that cannot be asked, and why."""

    capability: str
    tool: str
    reason: str


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """A payload that its route or the registry's limits do not allow."""

    code: Literal["MISSING_CONTEXT", "PAYLOAD_TOO_LARGE", "TOO_MANY_FILES", "FORBIDDEN_PATH"]
    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}; {self.remedy}"


def registry_file(environ: Mapping[str, str]) -> Path:
    """The file named by AIM_REGISTRY_PATH, else the shipped one. Raises RegistryError when the named one is not there."""
    named = environ.get(REGISTRY_VARIABLE)
    if not named:
        return resource("config/aim_registry.json")
    file = Path(named).expanduser()
    if not file.is_file():
        raise RegistryError(
            f"{REGISTRY_VARIABLE}: there is no file {str(file)[:300]!r}. Correct or unset the variable."
        )
    return file


def read_registry(file: Path) -> bytes:
    """The content of a registry file. Raises RegistryError when it cannot be read, or is too large."""
    try:
        with file.open("rb") as stream:
            data = stream.read(REGISTRY_BYTES + 1)
    except OSError as error:
        raise RegistryError(
            f"{file}: cannot be read ({error.strerror}). Check the path to the AIM registry."
        ) from error
    if len(data) > REGISTRY_BYTES:
        raise RegistryError(f"{file}: larger than {REGISTRY_BYTES} bytes. Drop what is not about capabilities.")
    return data


def load_registry(file: Path) -> Registry:
    """The registry of a file. Raises RegistryError."""
    return parse_registry(read_registry(file), str(file))


def parse_registry(data: bytes, source: str) -> Registry:
    """The registry in the content of a file that `source` names in errors. Raises RegistryError."""
    if len(data) > REGISTRY_BYTES:
        raise RegistryError(f"{source}: larger than {REGISTRY_BYTES} bytes. Drop what is not about capabilities.")
    try:
        document = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        json.dumps(document, ensure_ascii=False).encode()  # refuses half of a surrogate pair, which is no text
    except (ValueError, RecursionError) as error:
        raise RegistryError(
            f"{source}: not valid JSON ({str(error)[:300] or 'nested too deeply'}). Correct it at the place named."
        ) from error
    given = _spelt(document, f"{source}: the registry")
    _pass_over(given, _ACCEPTED_OF_FILES, f"{source}: ")
    tools = {
        tool: _tool(raw, f"{source}: tools.{_shown(tool)}")
        for tool, raw in _entries(given.pop("tools", {}), f"{source}: tools", TOOLS_MAX).items()
    }
    for tool in tools:
        _converted(tool, _ToolId, f"{source}: tools: the id {_shown(tool)}", "Use letters, digits, '.', '_' and '-'.")
    routes = {
        _capability(name, source): _route(raw, f"{source}: capabilities.{name}", tools, name)
        for name, raw in _entries(given.pop("capabilities", {}), f"{source}: capabilities", WORDS_MAX).items()
    }
    security = _security(given.pop("security", {}), f"{source}: security")
    if given:
        raise RegistryError(
            f"{source}: unknown field {_shown(next(iter(given)))}. Known are: capabilities, tools, security."
        )
    return Registry(capabilities=routes, tools=tools, security=security)


def pinned(
    registry: Registry, profiles: Mapping[str, ToolProfile], capabilities: Collection[str]
) -> tuple[Registry, list[Skipped]]:
    """The part of a registry that serves these capabilities with these profiles, and the tools that cannot be asked.

    Every tool that is left names its profile. A route none of whose tools is left is left out.
    """
    by_id = sorted(profiles.items(), reverse=True)
    declared = {profile.aim_tool_id: id_ for id_, profile in by_id if profile.aim_tool_id}
    routes: dict[Capability, Route] = {}
    tools: dict[str, AimTool] = {}
    skipped: list[Skipped] = []
    for capability, route in sorted(registry.capabilities.items()):
        if capability not in capabilities:
            continue
        able: list[str] = []
        for tool in route.tools:
            wanted: str = registry.tools[tool].profile or declared.get(tool, tool)
            profile = profiles.get(wanted)
            if profile is None:
                reason = f"there is no tool profile {wanted!r}"
            elif profile.aim_capabilities and capability not in profile.aim_capabilities:
                reason = f"aim_capabilities of the tool profile {wanted!r} do not name {capability}"
            else:
                able.append(tool)
                tools[tool] = msgspec.structs.replace(registry.tools[tool], profile=wanted)
                continue
            skipped.append(Skipped(capability=capability, tool=tool, reason=reason))
        if able:
            routes[capability] = msgspec.structs.replace(route, primary=able[0], fallback=tuple(able[1:]))
    return Registry(capabilities=routes, tools=tools, security=registry.security), skipped


def route_for(route: Route, payload: Mapping[str, object]) -> Route:
    """The route with what a payload says instead of it: `timeout_ms` and `max_retries`, as far as they can be used."""
    timeout_ms, max_retries = payload.get("timeout_ms"), payload.get("max_retries")
    if type(timeout_ms) is int and 1000 <= timeout_ms <= TIMEOUT_MS_MAX:
        route = msgspec.structs.replace(route, timeout_ms=timeout_ms)
    if type(max_retries) is int and 0 <= max_retries <= RETRIES_MAX:
        route = msgspec.structs.replace(route, max_retries=max_retries)
    return route


def payload_of(bundle: WorkstreamBundle) -> dict[str, Any]:
    """What a workstream gives to its capability: `files`, `prompt` from its tasks, and its `capability_payload` over them."""
    return {
        "files": [*bundle.files_scope, *bundle.files_create],
        "prompt": " ".join(bundle.tasks),
        **bundle.capability_payload,
    }


def missing_context(route: Route, payload: Mapping[str, object]) -> list[Breach]:
    """The fields that a route requires, and the payload has not, or has empty."""
    return [
        Breach(
            code="MISSING_CONTEXT",
            field=field,
            message="is required by the route and not given",
            remedy=f"give {field} in the payload, or make it optional in context_requirements",
        )
        for field, requirement in route.context_requirements.items()
        if requirement == "required" and payload.get(field) in (None, "", [], (), {})
    ]


def beyond_limits(security: Security, payload: Mapping[str, object], files: Sequence[str]) -> list[Breach]:
    """What of a payload, and of the files that its tool is to work on, the registry's limits do not allow.

    Raises TypeError or ValueError for a payload that JSON cannot hold.
    """
    breaches = []
    size = len(msgspec.json.encode(payload, enc_hook=str))
    if size > security.max_payload_size_bytes:
        breaches.append(
            Breach(
                code="PAYLOAD_TOO_LARGE",
                field="payload",
                message=f"is {size} bytes of JSON, over {security.max_payload_size_bytes}",
                remedy="shorten it, or raise max_payload_size_bytes",
            )
        )
    named = dict.fromkeys(files)
    if len(files) > security.max_file_count:
        breaches.append(
            Breach(
                code="TOO_MANY_FILES",
                field="files",
                message=f"names {len(files)} files, over {security.max_file_count}",
                remedy="name fewer, or folders, or raise max_file_count",
            )
        )
        return breaches
    refused = [(path, reason) for path in named if (reason := _refusal(security, path))]
    breaches += [
        Breach(
            code="FORBIDDEN_PATH",
            field="files",
            message=f"{_shown(path)} {reason}",
            remedy="leave it out, or change the registry's security",
        )
        for path, reason in refused[:SHOWN_MAX]
    ]
    return breaches


def _refusal(security: Security, path: str) -> str:
    try:
        return security.refuses(scope.declare(path))
    except scope.ScopeError as error:
        return f"cannot be given to a tool: {error.args[0]}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:100]!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:80]}…")


def _spelt(raw: object, where: str) -> dict[str, Any]:
    """The object with its names in snake_case. A field that is given in two spellings is given twice."""
    if not isinstance(raw, dict):
        raise RegistryError(f"{where} must be an object, not {type(raw).__name__}. See docs/aim.md.")
    named: dict[str, Any] = {}
    for key, value in raw.items():
        name = str(_SPELLINGS.get(key, key))
        if name in named:
            raise RegistryError(f"{where}: {name} is given twice, in two spellings. Keep one of them.")
        named[name] = value
    return named


def _entries(raw: object, where: str, most: int) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RegistryError(f"{where} must be an object, not {type(raw).__name__}. See docs/aim.md.")
    if len(raw) > most:
        raise RegistryError(f"{where} has {len(raw)} entries. Use at most {most}.")
    return raw


def _converted(value: Any, type_: Any, where: str, remedy: str = "See docs/aim.md.") -> Any:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        raise RegistryError(f"{where}{at.rstrip('`')}: {text}. {remedy}") from error


def _pass_over(given: dict[str, Any], accepted: Mapping[str, Any], before: str) -> None:
    """Takes out the fields that are accepted and not used."""
    for name, type_ in accepted.items():
        if name in given:
            _converted(given.pop(name), type_, f"{before}{name}")


def _tool(raw: object, where: str) -> AimTool:
    given = _spelt(raw, where)
    _pass_over(given, _ACCEPTED_OF_TOOLS, f"{where}.")
    tool: AimTool = _converted(given, AimTool, where)
    return tool


def _capability(name: str, source: str) -> Capability:
    if name not in CAPABILITIES:
        raise RegistryError(
            f"{source}: capabilities: there is no capability {_shown(name)}. Known are: {', '.join(CAPABILITIES)}."
        )
    found: Capability = msgspec.convert(name, Capability)
    return found


def _route(raw: object, where: str, tools: Mapping[str, AimTool], capability: str) -> Route:
    given = _spelt(raw, where)
    balanced = _converted(given.pop("load_balance", False), bool, f"{where}.load_balance")
    if balanced and given.setdefault("strategy", "load_balance") != "load_balance":
        raise RegistryError(f"{where}: load_balance contradicts strategy. Keep one of them.")
    route: Route = _converted(given, Route, where)
    seen: set[str] = set()
    for tool in route.tools:
        if tool in seen:
            whose = "the primary" if tool == route.primary else "the same tool"
            raise RegistryError(f"{where}.fallback: names {tool!r} again, {whose}. Name each tool once.")
        seen.add(tool)
        if tool not in tools:
            raise RegistryError(
                f"{where}: there is no tool {tool!r}. Add it to tools, or name one of: {', '.join(sorted(tools)[:20])}."
            )
        if tools[tool].capabilities and capability not in tools[tool].capabilities:
            raise RegistryError(
                f"{where}: {tool!r} does not have {capability} among its capabilities. Add it there, or leave the tool out."
            )
    return route


def _security(raw: object, where: str) -> Security:
    security: Security = _converted(_spelt(raw, where), Security, where)
    declared = {}
    for field in ("allowed_file_patterns", "forbidden_paths"):
        try:
            declared[field] = tuple(scope.declare(pattern) for pattern in getattr(security, field))
        except scope.ScopeError as error:
            raise RegistryError(f"{where}.{field}: {error.args[0]}. To mend it: {error.remedy}.") from error
    return msgspec.structs.replace(security, **declared)
