"""Tool profiles: how a command-line program is called, and how its answer is judged.

A profile is data. Reading one executes nothing, and what it says about arguments is substituted argument by argument,
never through a shell; so a prompt may contain anything, and stays one argument.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from services import expression
from services.diagnostic import Category, Severity
from services.outcome import OutcomeClass
from services.scope import Droppings, ScopeError

PROFILES_BYTES = 1024 * 1024
STRING_BYTES_MAX = 64 * 1024
ITEMS_MAX = 1_000
DEPTH_MAX = 4
NUMBER_MAX = 2**53
"""The largest whole number that every reader of JSON keeps exactly; far above every limit that makes sense."""
TIMEOUT_S_MAX = 30 * 86_400.0
GRACE_S_MAX = 60.0
COST_CAP_USD_MAX = 10_000.0
COST_CAP_USD_MIN = 0.000_001
FALLBACKS_MAX = 10
HOME_FILES_MAX = 20
NAME_CHARS_MAX = 200
POINTER_STEPS_MAX = 20
EXTENSIONS_MAX = 100
REQUIRES_MAX = 100
CODES_MAX = 200
CODE_CHARS_MAX = 200
PLUGIN_NAME_CHARS_MAX = 200
EXIT_CODE_MAX = 255
_EXIT_CODES = frozenset(str(code) for code in range(EXIT_CODE_MAX + 1))
_SURROGATE = re.compile("[\ud800-\udfff]")
ReportFormat = Literal[
    "ruff-json", "mypy-json", "junit-xml", "sarif", "pyright-json", "eslint-json", "tsc-text", "cargo-json",
    "go-test-json", "go-vet-json", "rdjson", "rdjsonl", "gitlab-json", "pattern", "none",
]  # fmt: skip
ToolErrorClass = Literal[
    "auth", "rate_limited", "usage_limit", "overloaded", "server_error", "network", "model_not_found",
    "unsupported_params", "context_window", "output_limit", "refusal", "budget", "max_turns", "permission_denied",
    "tool_failed", "tool_missing",
]  # fmt: skip
"""What a failing exit code of a tool may mean; a part of services.events.ErrorClass."""

AdapterName = Literal["aider", "claude", "codex", "gemini", "generic", "opencode", "qwen"]
"""Who reads what an AI tool says of itself (services/executor/adapters)."""

Sandboxing = Literal["auto", "bwrap", "none"]
Network = Literal["all", "loopback", "none"]
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.*", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXTENSION = re.compile(r"\*|\.[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,39}")

Argument = str | tuple[str, ...]
"""One argument, or a group of them that is there only when every placeholder in it stands for something."""
Context = Mapping[str, object]
"""What placeholders stand for: strings, numbers and paths; under ``files`` a list of strings."""


class ProfileError(ValueError):
    """A file of tool profiles cannot be used; the text names file, tool, field and remedy."""


class PlaceholderError(ValueError):
    """An argument names something that the context does not have; nothing was started."""


_MOST = {
    "timeout_sec": TIMEOUT_S_MAX,
    "idle_timeout_sec": TIMEOUT_S_MAX,
    "output_bytes": NUMBER_MAX,
    "context_tokens": NUMBER_MAX,
    "memory_bytes": NUMBER_MAX,
    "processes": NUMBER_MAX,
}


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a checker's findings stand, and in which form.

    ``source`` is "stdout", "stderr" or a path with placeholders, such as ``{scratch}/junit.xml``. ``pattern`` is for the
    format "pattern": a regular expression with named groups, of bounded time (services/expression.py).
    """

    format: ReportFormat = "none"
    source: str = "stdout"
    pattern: str | None = None

    def __post_init__(self) -> None:
        if (self.format == "pattern") != (self.pattern is not None):
            raise ValueError('report.pattern is for the format "pattern", which needs it; give both, or neither')
        if self.pattern is not None:
            try:
                expression.check(self.pattern)
            except expression.ExpressionError as error:
                raise ValueError(f"report.pattern {error}") from error


class UsageFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the tokens of an invocation stand: JSON pointers, or for text the beginnings of lines that a number follows.

    ``input_includes_cache``: what was read from a cache or written to one is a part of the input as well.
    ``output_includes_reasoning``: otherwise ``reasoning`` is added to the output.
    """

    input: str = ""
    cache_read: str = ""
    cache_write: str = ""
    output: str = ""
    reasoning: str = ""
    input_includes_cache: bool = False
    output_includes_reasoning: bool = True


class ErrorFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a failure is told.

    In JSON ``when`` points to what is there, and neither false, 0, empty, "none", "ok" nor "success", only after a
    failure; ``message`` points to its text (default: ``when``), ``code`` to what ``classes`` lead from. In text ``when``
    begins the line of an error, and ``classes`` lead from what the rest of that line contains.
    """

    when: str
    message: str = ""
    code: str = ""
    classes: dict[str, OutcomeClass] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the adapter "generic" reads a tool: where its result stands, in which form, and what in it means what.

    Attributes:
        format: json (one object), ndjson (an object on each line) or text.
        source: "stdout", "stderr" or a path with placeholders, such as ``{scratch}/result.json``.
        select: of lines of JSON only those count that have these values at these pointers.
        repeated: whether the last of several results has the totals, or each is a part of the sum.
        required: whether a tool that ends with success and without any result has failed.
        usage: where the tokens stand.
        cost_usd: where the cost stands, in dollars.
        model, session, turns: where these stand; turns, the number of requests, not in text, and added up as amounts are.
        provider: who serves the model, where that is always the same; ``provider_at`` is where it stands otherwise.
        error: how a failure is told. The exit code counts in any case.
    """

    format: Literal["json", "ndjson", "text"]
    source: str = "stdout"
    select: dict[str, str | int | bool] = {}
    repeated: Literal["last", "sum"] = "last"
    required: bool = False
    usage: UsageFields | None = None
    cost_usd: str = ""
    model: str = ""
    session: str = ""
    turns: str = ""
    provider: str = ""
    provider_at: str = ""
    error: ErrorFields | None = None

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError('result.source must be "stdout", "stderr" or a path')
        if self.select and self.format != "ndjson":
            raise ValueError("result.select chooses among lines of JSON; leave it out, or set format to ndjson")
        if self.error is not None and not self.error.when:
            raise ValueError("result.error.when must not be empty")
        if self.error is not None and "" in self.error.classes.values():
            raise ValueError("result.error.classes leads to no class; name one, or leave the entry out")
        if self.format == "text":
            if self.turns or self.provider_at or (self.error is not None and (self.error.message or self.error.code)):
                raise ValueError(
                    "result has turns, provider_at, error.message or error.code, which text has no place for"
                )
            return
        for name, pointer in self._pointers():
            try:
                pointer_steps(pointer)
            except ValueError as error:
                raise ValueError(f"result.{name} is {pointer[:80]!r}: {error}") from error

    def _pointers(self) -> list[tuple[str, str]]:
        found = [("select", pointer) for pointer in self.select]
        found += [(name, getattr(self, name)) for name in ("cost_usd", "model", "session", "turns", "provider_at")]
        for part, names in (
            ("usage", ("input", "cache_read", "cache_write", "output", "reasoning")),
            ("error", ("when", "message", "code")),
        ):
            fields = getattr(self, part)
            found += [(f"{part}.{name}", getattr(fields, name)) for name in names if fields is not None]
        return [(name, pointer) for name, pointer in found if pointer]


def pointer_steps(pointer: str) -> list[str]:
    """The steps of a JSON pointer (RFC 6901). Raises ValueError when it is none."""
    if not pointer.startswith("/"):
        raise ValueError("a JSON pointer begins with /, such as /usage/input_tokens")
    if re.search(r"~(?![01])", pointer):
        raise ValueError("in a JSON pointer ~ is written ~0, and / inside a name ~1")
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]
    if len(steps) > POINTER_STEPS_MAX:
        raise ValueError(f"a pointer may have at most {POINTER_STEPS_MAX} steps")
    return steps


class ToolProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one tool is called. Names may be written in snake_case or in kebab-case.

    Attributes:
        command: the program, a name on the tool's PATH or a path; ``binary`` means the same.
        type: what it is for: ai, test, static-check, formatter or utility. Only ai makes a
            difference, to idle limits and to its sandbox.
        args: its arguments, with placeholders (see ``substitute``). A list among them is a group that is there only when
            every placeholder in it stands for something, such as ``["--model", "{model}"]``.
        fix_args: its arguments when the step is FIX; by default ``args``.
        env: variables for the tool, with placeholders. The tool sees these and the allow-list, nothing else.
        env_allow: names of variables that are handed on from the executor's own environment, such as an API key.
        stdin: a file it reads as its standard input, with placeholders; by default nothing at all.
        working_dir: where it runs, with placeholders, relative to the step's folder; by default that folder.
        timeout_sec: its limit in seconds, at most 30 days.
        idle_timeout_sec: its limit on time without progress in seconds, at most 30 days; 0 for none. By default that of
            the step, except for the type ai: a model that thinks prints nothing, and needs a limit of its own.
        grace_sec: seconds between SIGTERM and SIGKILL, at most 60.
        output_bytes: what is kept of each of its two outputs.
        memory_bytes: private writable memory of each of its processes; by default no limit.
        processes: processes of the user it runs as (the kernel exempts root); by default no limit.
        success_exit_codes: the exit codes that mean success.
        error_classes: what other exit codes mean: code, as text, to auth, rate_limited, budget, tool_failed or
            tool_missing; a code that is not named is tool_failed.
        fallback: other profiles that may stand in for this one, in the order in which they are tried, at most 10.
        report: its findings, for a checker.
        secrets: variables whose values are secret, each by reference: "env:NAME", a variable of the executor's, or
            "file:PATH", an absolute path whose content it is. Resolved when the tool is started, never kept.
        sandbox: "bwrap" runs it in a sandbox or not at all; "auto" in one where it can be had, and starts in it. None:
            "auto" for the type ai, else "none". See docs/sandbox.md.
        sandbox_read: further files and folders that it sees in a sandbox, read-only; absolute, placeholders allowed.
        args_in_sandbox: arguments that are others inside a sandbox, such as those that switch off the tool's own, which
            mostly cannot be made inside of another.
        network: what of the network it reaches in a sandbox: "all", "loopback" (its own, which nobody else is on), or
            "none". True and false stand for all and none.
        capture_output: accepted for older files; output is always captured.
        aim_tool_id: the id of its tool in the AIM registry (services/aim.py), where the registry names no profile.
        aim_capabilities: what the AIM registry may route to it; none: anything.
        headless_mode_supported: accepted for older files.
        headless_args: put before ``args``.
        cost_cap_usd: what one attempt of an AI tool may cost, in dollars; reserved before it begins. A tool that is seen to
            have spent more is ended; where that cannot be relied on (``is_capped``) the cap is only expected. A run with a
            budget starts no AI tool without it.
        context_tokens: the context window of its model, in tokens, for what it is handed as ``{files}``. By default what the
            price table says of its model (``model_of``), else 128,000.
        adapter: who reads what an AI tool says of itself: its errors, usage and cost. None: only its exit code counts.
        result: for the adapter "generic": how its output is read.
        provider, model: who serves an AI tool, and with which model, where the tool itself does not tell; the model may be a
            placeholder that the context of the run fills, and is by default what ``{model}`` in its arguments stands for. Rates
            across runs go by both, and costs by the model.
        home_files: files that are put into its fresh home folder: relative path to content, as it is.
        file_extensions: how the files end that it is given, such as ".py"; none, or "*" among them: all. A check of which
            no file ends like that passes without a process.
        requires: other checks of the same workstream that come before it in STATIC.
        plugin: what it is called as a plugin, see services/plugins.py; such a profile is a check of every workstream.
        categories: code prefix to the category of its diagnostics; the longest prefix counts, "" is every code.
        severities: the same for their severity.
        per_file: whether what it says of a file depends on nothing but that file and ``config_files``, so that a file
            which it found nothing in need not be looked at again. It needs ``{files}``.
        config_files: gitignore patterns of the repository's files on which a ``per_file`` check depends besides.
    """

    command: str
    type: Literal["ai", "test", "static-check", "utility", "formatter"] = "utility"
    args: tuple[Argument, ...] = ()
    fix_args: tuple[Argument, ...] | None = None
    env: dict[str, str] = {}
    env_allow: tuple[str, ...] = ()
    stdin: str | None = None
    working_dir: str | None = None
    timeout_sec: float = 60.0
    idle_timeout_sec: float | None = None
    grace_sec: float = 5.0
    output_bytes: int = 10 * 1024 * 1024
    memory_bytes: int | None = None
    processes: int | None = None
    success_exit_codes: tuple[int, ...] = (0,)
    error_classes: dict[str, ToolErrorClass] = {}
    fallback: tuple[str, ...] = ()
    report: Report = Report()
    secrets: dict[str, str] = {}
    sandbox: Sandboxing | None = None
    sandbox_read: tuple[str, ...] = ()
    args_in_sandbox: dict[str, str] = {}
    network: Network | bool = "all"
    capture_output: bool = True
    aim_tool_id: str | None = None
    aim_capabilities: tuple[str, ...] = ()
    headless_mode_supported: bool = True
    headless_args: tuple[str, ...] = ()
    adapter: AdapterName | None = None
    cost_cap_usd: float | None = None
    context_tokens: int | None = None
    result: Result | None = None
    provider: str | None = None
    model: str | None = None
    home_files: dict[str, str] = {}
    file_extensions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    plugin: str | None = None
    categories: dict[str, Category] = {}
    severities: dict[str, Severity] = {}
    per_file: bool = False
    config_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("command must not be empty")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if name == "idle_timeout_sec" and value == 0:
                continue
            if value is not None and not 0 < value <= most:  # neither holds for NaN
                raise ValueError(f"{name} must be above 0 and at most {most:.0f}")
        if not 0 <= self.grace_sec <= GRACE_S_MAX:
            raise ValueError(f"grace_sec must be at least 0 and at most {GRACE_S_MAX:.0f}")
        if not self.success_exit_codes:
            raise ValueError("success_exit_codes must name at least one code")
        self._check_error_classes()
        if len(self.fallback) > FALLBACKS_MAX or len(set(self.fallback)) < len(self.fallback) or "" in self.fallback:
            raise ValueError(f"fallback must name at most {FALLBACKS_MAX} other tools, each once")
        self._check_adapter()
        self._check_model()
        self._check_home_files()
        self._check_secrets()
        self._check_files()
        self._check_plugin()
        for group in (*self.args, *(self.fix_args or ())):
            if not isinstance(group, str) and not _names_in(group):
                raise ValueError(
                    f"args has the group {list(group)!r:.80}, which holds no placeholder; drop its brackets"
                )

    def _check_model(self) -> None:
        if self.cost_cap_usd is not None and not (COST_CAP_USD_MIN <= self.cost_cap_usd <= COST_CAP_USD_MAX):
            raise ValueError(
                f"cost_cap_usd is {self.cost_cap_usd}; use dollars from {COST_CAP_USD_MIN:f} to {COST_CAP_USD_MAX}"
            )
        if self.cost_cap_usd is not None and self.type != "ai":
            raise ValueError(f'cost_cap_usd is given, but type is {self.type}; set type to "ai", or drop it')

        for name in ("provider", "model", "context_tokens"):
            if getattr(self, name) is not None and self.type != "ai":
                raise ValueError(f'{name} is given, but type is {self.type}; set type to "ai", or drop it')
        for name in ("provider", "model"):
            value = getattr(self, name)
            if value is not None and not 1 <= len(value) <= NAME_CHARS_MAX:
                raise ValueError(f"{name} must have 1 to {NAME_CHARS_MAX} characters")

    def _check_adapter(self) -> None:
        if self.adapter is not None and self.type != "ai":
            raise ValueError(f'adapter {self.adapter} is given, but type is {self.type}; set type to "ai", or drop it')
        if (self.adapter == "generic") != (self.result is not None):
            raise ValueError('result is for the adapter "generic", which needs it; give both, or neither')
        words = {word for argument in (*self.args, *(self.fix_args or ())) for word in _words(argument)}
        if self.adapter == "aider" and "{scratch}/aider.analytics.jsonl" not in words:
            raise ValueError(
                'adapter aider reads the log of aider; add "--analytics-log", "{scratch}/aider.analytics.jsonl" to args'
            )
        if self.adapter == "codex" and "resume" in words:
            raise ValueError(
                "adapter codex cannot read what a resumed thread used, for it tells the totals of the whole thread; drop resume"
            )

    def _check_files(self) -> None:
        if len(self.file_extensions) > EXTENSIONS_MAX:
            raise ValueError(f"file_extensions has {len(self.file_extensions)} entries; use at most {EXTENSIONS_MAX}")
        for extension in self.file_extensions:
            if not _EXTENSION.fullmatch(extension):
                raise ValueError(
                    f'file_extensions has {extension[:40]!r}; begin each with a dot, such as ".py", or write "*" for all'
                )
        if self.per_file and "files" not in placeholders(self, fix=False):
            raise ValueError('per_file is for a tool that is given its files; add "{files}" to args, or drop per_file')
        if self.per_file and self.working_dir is not None:
            raise ValueError(
                "per_file needs a report whose paths are those of the worktree; drop working_dir, or per_file"
            )
        if self.config_files and not self.per_file:
            raise ValueError("config_files is for per_file checks; set per_file, or drop it")
        try:
            Droppings(self.config_files)
        except (ScopeError, re.error) as error:
            raise ValueError(f"config_files: {error}") from error

    def _check_plugin(self) -> None:
        if len(self.requires) > REQUIRES_MAX or len(set(self.requires)) < len(self.requires) or "" in self.requires:
            raise ValueError(f"requires must name at most {REQUIRES_MAX} other checks, each once")
        if self.plugin is not None and not 0 < len(self.plugin.strip()) <= PLUGIN_NAME_CHARS_MAX:
            raise ValueError(f"plugin must be a name of 1 to {PLUGIN_NAME_CHARS_MAX} characters")
        for field, prefixes in (("categories", self.categories), ("severities", self.severities)):
            if len(prefixes) > CODES_MAX or any(len(prefix) > CODE_CHARS_MAX for prefix in prefixes):
                raise ValueError(
                    f"{field} may have {CODES_MAX} prefixes of {CODE_CHARS_MAX} characters each; drop some"
                )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How the files end that it is given; empty: in any way."""
        return () if "*" in self.file_extensions else self.file_extensions

    def given(self, files: Sequence[str]) -> list[str]:
        """Those of the files that it is given."""
        return [file for file in files if not self.suffixes or file.endswith(self.suffixes)]

    def _check_home_files(self) -> None:
        if len(self.home_files) > HOME_FILES_MAX:
            raise ValueError(f"home_files has {len(self.home_files)} entries; use at most {HOME_FILES_MAX}")
        for path in self.home_files:
            if not path or any(part in {"", ".", ".."} for part in path.split("/")):
                raise ValueError(f"home_files has {path[:80]!r}; name files by paths below the home folder, without ..")

    def _check_secrets(self) -> None:
        for name, reference in self.secrets.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(
                    f"secrets has {name[:80]!r}, which is no name of a variable; use letters, digits and _"
                )
            if not _REFERENCE.fullmatch(reference):
                # Not shown: who misunderstands this field writes the secret itself into it.
                raise ValueError(f'secrets.{name} is no reference; write "env:NAME" or "file:/absolute/path"')
            if name in self.env:
                raise ValueError(f"{name} stands in env and in secrets; keep one of them")

    @property
    def sandboxing(self) -> Sandboxing:
        """Whether it runs in a sandbox, with the default filled in."""
        return self.sandbox or ("auto" if self.type == "ai" else "none")

    @property
    def reach(self) -> Network:
        """What of the network it reaches in a sandbox."""
        if isinstance(self.network, bool):
            return "all" if self.network else "none"
        return self.network

    def _check_error_classes(self) -> None:
        for code in self.error_classes:
            if code not in _EXIT_CODES:
                raise ValueError(
                    f'error_classes has {code[:40]!r}; its keys must be exit codes, "0" to "{EXIT_CODE_MAX}"'
                )
            if int(code) in self.success_exit_codes:
                raise ValueError(
                    f"error_classes has {code}, which success_exit_codes calls a success; keep one of them"
                )

    def error_class(self, exit_code: int | None) -> ToolErrorClass:
        """What it means that the tool ended by itself with this exit code, which is none of success."""
        return self.error_classes.get(str(exit_code), "tool_failed")


def shipped_tool_profiles() -> dict[str, ToolProfile]:
    """The profiles that come with Swell; in a checkout and in an installation alike."""
    root = Path(__file__).resolve().parent.parent
    inside = root / "config" / "tool_profiles.json"
    return load_tool_profiles(inside if inside.is_file() else root / "swell" / "data" / "config" / "tool_profiles.json")


def load_tool_profiles(path: str | Path) -> dict[str, ToolProfile]:
    """The profiles of a file, by tool id.

    Raises:
        ProfileError: it is missing, too large, not JSON, or says something that is not understood; or it holds NUL, half
            of a surrogate pair, a number that is not finite or beyond 2**53, a text above 64 KiB, a list above 1,000.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(PROFILES_BYTES + 1)
    except OSError as error:
        raise ProfileError(
            f"{file}: cannot be read ({error.strerror}). Check the path to the tool profiles."
        ) from error
    return parse_tool_profiles(data, str(file))


def parse_tool_profiles(data: bytes, source: str) -> dict[str, ToolProfile]:
    """The same, from the content of a file that ``source`` names in errors."""
    if len(data) > PROFILES_BYTES:
        raise ProfileError(
            f"{source}: larger than {PROFILES_BYTES} bytes. Split it, or drop what is not a tool profile."
        )
    document = json_of(data, source)
    if not isinstance(document, dict):
        raise ProfileError(f'{source}: must be an object {{"<tool id>": {{"command": …}}}}.')
    for tool in document:
        _check_values(tool, f"{source}: tool {tool[:80]!r}", "its id")
    return {tool: profile_of(raw, tool, source) for tool, raw in document.items()}


def json_of(data: bytes, source: str) -> object:
    """What a JSON file says. Raises ProfileError when it is none, or has a key twice in one object."""
    try:
        return json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{source}: not valid JSON ({error}). Correct it at the place named.") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands twice in one object")
        found[key] = value
    return found


def profile_of(raw: object, tool: str, source: str) -> ToolProfile:
    """The profile that the fields of a file make. Raises ProfileError as `load_tool_profiles`."""
    where = f"{source}: tool {tool!r}"
    if not isinstance(raw, dict):
        raise ProfileError(f'{where}: must be an object with at least "command".')
    named: dict[str, object] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        name = "command" if name == "binary" else name
        if name not in ToolProfile.__struct_fields__:
            raise ProfileError(
                f"{where}: unknown field {key!r}. Known are: {', '.join(sorted(ToolProfile.__struct_fields__))}."
            )
        if name in named:
            raise ProfileError(f"{where}: field {key!r} is given twice, in two spellings. Keep one of them.")
        named[name] = value
        _check_values(value, where, key)
    try:
        profile = msgspec.convert(named, ToolProfile)
    except msgspec.ValidationError as error:
        raise ProfileError(f"{where}: {error}. See the fields of ToolProfile.") from error
    if tool in profile.fallback:
        raise ProfileError(f"{where}: fallback names the tool itself. Name another one, or leave it out.")
    if tool in profile.requires:
        raise ProfileError(f"{where}: requires names the tool itself. Name another one, or leave it out.")
    return profile


def _check_values(value: object, where: str, field: str, depth: int = 0) -> None:
    """Refuses what JSON can hold and nothing after it can: no argument, no file name, no other reader of JSON."""
    match value:
        case str():
            if "\0" in value:
                raise ProfileError(f"{where}: {field} holds NUL, which no argument or file name can. Remove it.")
            if _SURROGATE.search(value):
                raise ProfileError(
                    f"{where}: {field} holds half of a surrogate pair, which is no text. Write both halves, or the letter."
                )
            if (size := len(value.encode())) > STRING_BYTES_MAX:
                raise ProfileError(
                    f"{where}: {field} is {size} bytes long. Use at most {STRING_BYTES_MAX}, or let the tool read a file."
                )
        case int() | float():
            if not abs(value) <= NUMBER_MAX:  # nor does NaN
                raise ProfileError(
                    f"{where}: {field} is {str(value)[:40]}, not a finite number of at most 2**53. Write a smaller one."
                )
        case list() | dict():
            if len(value) > ITEMS_MAX:
                raise ProfileError(f"{where}: {field} has {len(value)} entries. Use at most {ITEMS_MAX}.")
            if depth == DEPTH_MAX:
                raise ProfileError(f"{where}: {field} is nested too deeply. See the fields of ToolProfile.")
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                _check_values(name, where, f"a name in {field}", depth + 1)
                _check_values(item, where, f"{field}[{name!a:.40}]", depth + 1)
        case _:
            return


def overlay(base: Mapping[str, ToolProfile], *layers: Mapping[str, ToolProfile]) -> dict[str, ToolProfile]:
    """The profiles of ``base``, replaced as wholes by those of the same id in each later layer."""
    merged = dict(base)
    for layer in layers:
        merged |= layer
    return merged


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(profile: ToolProfile, *, fix: bool) -> set[str]:
    """The names of all placeholders that a call of the tool fills in, wherever they stand; ``fix`` for a FIX call."""
    arguments = profile.fix_args if fix and profile.fix_args is not None else profile.args
    texts = [profile.command, *profile.headless_args, *profile.env.values(), *profile.sandbox_read]
    texts += [word for argument in arguments for word in _words(argument)]
    texts += [text for text in (profile.stdin, profile.working_dir, profile.report.source) if text is not None]
    return _names_in(texts)


def is_capped(profile: ToolProfile, *, fix: bool) -> bool:
    """Whether a call of the tool can be held to an amount of money.

    Either it is told the amount (``{max_cost_usd}``), or it says with every answer what that has cost, by which the
    executor ends it. What other tools say of their spending comes at their end, lacks a part, or has no price for sure.
    """
    result = profile.result
    tells = result is not None and result.format != "json" and result.repeated == "sum" and bool(result.cost_usd)
    return tells or "max_cost_usd" in placeholders(profile, fix=fix)


def _words(argument: Argument) -> tuple[str, ...]:
    return (argument,) if isinstance(argument, str) else argument


def _names_in(texts: Iterable[str]) -> set[str]:
    return {match.group(1) for text in texts for match in _PLACEHOLDER.finditer(text) if match.group(1)}


def substitute(arguments: Sequence[Argument], context: Context) -> list[str]:
    """The arguments with ``{name}`` replaced by what the context has under that name.

    Each argument stays one argument, whatever the value contains; values are not looked at again. One that is exactly
    ``{files}`` becomes one argument for each file; inside a longer argument the files are joined by a space. ``{{`` and
    ``}}`` are literal braces, and braces that enclose no name stand for themselves, so JSON may be written as it is.
    ``{python}`` is the interpreter that runs Swell, unless the context says otherwise. A group is left out as a whole
    when one of its placeholders stands for nothing: it is not in the context, or empty.

    Raises:
        PlaceholderError: the context has no such name, or something under it that is not text, a number or a path, or
            that holds NUL, which no argument can.
    """
    substituted: list[str] = []
    for argument in arguments:
        if not isinstance(argument, str):
            if all(context.get(name) not in (None, "", [], ()) for name in _names_in(argument) - {"python"}):
                substituted += substitute(argument, context)
        elif argument == "{files}":
            substituted += _files(context)
        else:
            substituted.append(substitute_one(argument, context))
    return substituted


def substitute_one(text: str, context: Context) -> str:
    """The same for one text that stays one text, such as the value of a variable."""

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        return match.group()[0] if name is None else _value(name, text, context)

    return _PLACEHOLDER.sub(replacement, text)


def model_of(profile: ToolProfile, context: Context, *, fix: bool) -> str:
    """The model that a call of the tool works with: what the profile names, else what the run's context gives it.

    That is by ``{model}`` or ``{…_model}`` in its arguments; "" where nothing is named, or the placeholder stands for nothing.
    """
    if profile.model is not None:
        try:
            return "".join(substitute(((profile.model,),), context))[:NAME_CHARS_MAX]
        except PlaceholderError:
            return ""
    for name in sorted(placeholders(profile, fix=fix)):
        value = context.get(name) if name == "model" or name.endswith("_model") else None
        if isinstance(value, str) and value:
            return value[:NAME_CHARS_MAX]
    return ""


def _files(context: Context) -> list[str]:
    files = context.get("files")
    if files is None:
        raise PlaceholderError("{files} is used, but the context names no files. Give it a list of paths.")
    if isinstance(files, str) or not isinstance(files, Sequence):
        raise PlaceholderError("{files} must stand for a list of paths.")
    return [_without_nul("files", str(file)) for file in files]


def _value(name: str, text: str, context: Context) -> str:
    if name == "files":
        return " ".join(_files(context))
    if name == "python" and name not in context:
        return sys.executable
    if name not in context:
        known = ", ".join(sorted({*context, "python"}))
        raise PlaceholderError(
            f"unknown placeholder {{{name}}} in {text!r}. The context has: {known}. Write {{{{{name}}}}} for the text itself."
        )
    value = context[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise PlaceholderError(
            f"{{{name}}} in {text!r} must stand for text, a number or a path, not {type(value).__name__}."
        )
    return _without_nul(name, str(value))


def _without_nul(name: str, value: str) -> str:
    if "\0" in value:
        raise PlaceholderError(f"{{{name}}} stands for a text that holds NUL, which no argument can. Remove it.")
    return value
