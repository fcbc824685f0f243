"""What checks a repository: ``swell.toml`` at its root, and what overrides it.

The order, each layer only for the keys it gives: what Swell ships < ``swell.toml`` at the base commit < the run's context
< ``metadata.swell`` of the bundle. All of them come from outside and are parsed strictly.

    setup = ["uv sync", ["npm", "ci"]]          # before the first tool; cached by the content of the lock files
    lock_files = ["uv.lock"]                    # what that cache depends on, as gitignore patterns
    static_tools = ["ruff", "mypy"]             # tool profile ids, in order; the first that fails ends STATIC
    runtime_tool = "pytest"                     # the tool profile id of RUNTIME
    autofix = ["ruff-fix", "ruff-format"]       # tool profile ids that mend what a machine can, before FIX; no AI, no cost
    fix_tool = "aider"                          # the tool profile id of FIX; by default the workstream's own tool
    fix_tiers = ["codex", "claude"]             # tool profile ids that take over FIX after one attempt each, the last for good
    droppings = ["__pycache__/"]                # gitignore patterns kept out of snapshots and scope
    tool_profiles = "tools/tool_profiles.json"  # a file of the repository that overlays the shipped profiles
    plugins = "tools/plugins"                   # a folder of the repository with plugins: more static tools
    protected = ["db/schema.sql", "ci/**"]      # files that a workstream may change only if its bundle names them one by one
    strict = true                               # false: findings that are no hard fail do not fail STATIC
    test_gates = [{type = "GATE_UNIT"}]         # gates of every workstream, with required and blocking; see docs/gates.md
    gates_file = "tools/gates.yaml"             # a file of the repository that says what gates stand for
    labels = {team = "payments"}                # labels of every run over the repository, under those of its submission
    tenant = "acme"                             # the tenant of every run over the repository that names none
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

import msgspec

from services.bundle import MENDING_MAX, BundleGate
from services.diagnostic import printable
from services.labels import labels_problem, tenant_problem
from services.scope import Droppings, ScopeError, declare

CHECKS_FILE = "swell.toml"
CHECKS_BYTES = 256 * 1024
PROTECTED_MAX = 100
"""Entries of ``protected``; each changed path is held against all of them."""

DEFAULT_DROPPINGS = (
    ".aider*",
    ".coverage",
    ".hypothesis/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    "__pycache__/",
    "*.pyc",
)
DEFAULT_LOCK_FILES = (
    "Cargo.lock",
    "Pipfile.lock",
    "go.sum",
    "package-lock.json",
    "pnpm-lock.yaml",
    "poetry.lock",
    "pyproject.toml",
    "requirements*.lock",
    "requirements*.txt",
    "uv.lock",
    "yarn.lock",
)


OF_RUNS = frozenset({"labels", "tenant"})
"""Keys of swell.toml that say nothing of checks, and are only read where a run is submitted."""

OF_REPOSITORY = frozenset({"plugins", "test_gates", "gates_file", "protected"})
"""Keys of swell.toml that the run's context cannot give."""

_UNFIT = re.compile("[\0\ud800-\udfff]")


class ChecksError(ValueError):
    """A layer of settings cannot be used; the text names where it stands, the key and the remedy."""


Commands = tuple[tuple[str, ...], ...]


class Checks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer of settings; None means that the layer says nothing about the key."""

    setup: Commands | None = None
    lock_files: tuple[str, ...] | None = None
    static_tools: tuple[str, ...] | None = None
    runtime_tool: str | None = None
    autofix: tuple[str, ...] | None = None
    fix_tool: str | None = None
    fix_tiers: tuple[str, ...] | None = None
    droppings: tuple[str, ...] | None = None
    tool_profiles: str | None = None
    plugins: str | None = None
    protected: tuple[str, ...] | None = None
    strict: bool | None = None
    test_gates: tuple[BundleGate, ...] | None = None
    gates_file: str | None = None
    labels: dict[str, str] | None = None
    tenant: str | None = None


_OF_CHECKS = tuple(key for key in Checks.__struct_fields__ if key not in OF_RUNS)


class Overrides(Protocol):
    """What a bundle's ``metadata.swell`` offers; None, or a missing attribute, leaves the lower layers in force."""

    @property
    def static_tools(self) -> tuple[str, ...] | None: ...
    @property
    def runtime_tool(self) -> str | None: ...
    @property
    def autofix(self) -> tuple[str, ...] | None: ...
    @property
    def fix_tool(self) -> str | None: ...
    @property
    def fix_tiers(self) -> tuple[str, ...] | None: ...
    @property
    def droppings(self) -> tuple[str, ...] | None: ...
    @property
    def setup(self) -> tuple[str | tuple[str, ...], ...] | None: ...
    @property
    def strict(self) -> bool | None: ...
    @property
    def allow_no_change(self) -> bool: ...
    @property
    def tests_may_shrink(self) -> bool: ...
    @property
    def gates(self) -> Literal["none"] | None: ...


class EffectiveChecks(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force for one workstream; `test_gates` without what its bundle says of them."""

    setup: Commands = ()
    lock_files: tuple[str, ...] = DEFAULT_LOCK_FILES
    static_tools: tuple[str, ...] = ()
    runtime_tool: str | None = None
    autofix: tuple[str, ...] = ()
    fix_tool: str | None = None
    fix_tiers: tuple[str, ...] = ()
    droppings: tuple[str, ...] = DEFAULT_DROPPINGS
    tool_profiles: str | None = None
    plugins: str | None = None
    protected: tuple[str, ...] = ()
    strict: bool = True
    test_gates: tuple[BundleGate, ...] = ()
    gates_file: str | None = None
    allow_no_change: bool = False
    tests_may_shrink: bool = False

    @property
    def tools(self) -> tuple[str, ...]:
        """The ids of all tool profiles that the settings name."""
        named = (*self.static_tools, self.runtime_tool, *self.autofix, self.fix_tool, *self.fix_tiers)
        return tuple(dict.fromkeys(tool for tool in named if tool is not None))


def parse_checks(data: bytes, source: str) -> Checks:
    """The settings of a ``swell.toml``, which ``source`` names in errors.

    Raises:
        ChecksError: it is larger than 256 KiB, not TOML, or says something that is not understood or not usable.
    """
    if len(data) > CHECKS_BYTES:
        raise ChecksError(f"{source}: larger than {CHECKS_BYTES} bytes. It should hold nothing but settings.")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChecksError(f"{source}: not valid TOML ({error}). Correct it at the place named.") from error
    for key in document:
        if key not in Checks.__struct_fields__:
            raise ChecksError(f"{source}: unknown key {key!r}. Known are: {', '.join(Checks.__struct_fields__)}.")
    return _layer(document, source)


def resolve(
    repository: Checks | None, context: Mapping[str, object] | None, override: Overrides | None
) -> EffectiveChecks:
    """The settings in force, from the repository's, the run's context and the bundle's ``metadata.swell``.

    Of the context only the keys of ``swell.toml`` count; what else stands there is not looked at. ``strict`` may be the
    text "true" or "false" there.

    Raises:
        ChecksError: the context or the bundle gives one of these keys a value that is not understood or not usable; or
            the context gives one of OF_REPOSITORY.
    """
    of_context = {key: value for key, value in (context or {}).items() if key in _OF_CHECKS}
    if misplaced := sorted(OF_REPOSITORY & of_context.keys()):
        raise ChecksError(f"run context: {misplaced[0]} is read from the repository. Give it in swell.toml.")
    if of_context.get("strict") in ("true", "false"):
        of_context["strict"] = of_context["strict"] == "true"
    of_bundle = {
        key: value for key in _OF_CHECKS if override is not None and (value := getattr(override, key, None)) is not None
    }
    layers = (repository or Checks(), _layer(of_context, "run context"), _layer(of_bundle, "metadata.swell"))
    given = {key: value for layer in layers for key in _OF_CHECKS if (value := getattr(layer, key)) is not None}
    return EffectiveChecks(
        **given,
        allow_no_change=override is not None and override.allow_no_change,
        tests_may_shrink=override is not None and override.tests_may_shrink,
    )


def _layer(document: Mapping[str, Any], source: str) -> Checks:
    named = dict(document)
    if "setup" in named:
        named["setup"] = _commands(named["setup"], source)
    try:
        checks = msgspec.convert(named, Checks)
    except msgspec.ValidationError as error:
        raise ChecksError(
            f"{source}: {printable(str(error))}. The keys are described in docs and in `swell init`."
        ) from error
    for key in Checks.__struct_fields__:
        value = getattr(checks, key)
        if isinstance(value, tuple) and len(value) > MENDING_MAX and key in {"autofix", "fix_tiers"}:
            raise ChecksError(
                f"{source}: {key} names {len(value)} tools. At most {MENDING_MAX} take their turn; drop some."
            )
        if value == "" or (isinstance(value, tuple) and any(item in {"", ()} for item in value)):
            raise ChecksError(f"{source}: {key} holds an empty entry. Remove it, or leave the key out.")
        if any(map(_UNFIT.search, _texts(value))):
            raise ChecksError(
                f"{source}: {key} holds NUL or half of a surrogate pair, which no argument or file name can. Remove it."
            )
    if problem := labels_problem(checks.labels or {}) or tenant_problem(checks.tenant or ""):
        raise ChecksError(f"{source}: {problem}.")
    types = [gate.type for gate in checks.test_gates or ()]
    if len(set(types)) < len(types):
        raise ChecksError(f"{source}: test_gates has a type twice. Keep one entry for each.")
    for key, patterns in (("lock_files", checks.lock_files), ("droppings", checks.droppings)):
        try:
            _check_patterns(patterns or ())
        except ScopeError as error:
            raise ChecksError(f"{source}: {key}: {error}.") from error
        except re.error as error:
            raise ChecksError(f"{source}: {key}: not a gitignore pattern: {error}; correct it or remove it.") from error
    if len(checks.protected or ()) > PROTECTED_MAX:
        raise ChecksError(f"{source}: protected has more than {PROTECTED_MAX} entries. Name folders instead of files.")
    for pattern in checks.protected or ():
        try:
            declare(pattern)
        except ScopeError as error:
            raise ChecksError(f"{source}: protected: {error}.") from error
    for key in ("tool_profiles", "plugins", "gates_file"):
        path = PurePosixPath(getattr(checks, key) or "inside")
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ChecksError(f"{source}: {key} must be a path inside the repository, not {str(path)!r}.")
    return checks


@lru_cache(maxsize=64)
def _check_patterns(patterns: tuple[str, ...]) -> None:
    """Raises what reading them as gitignore patterns raises. Kept, since each workstream has the same context."""
    Droppings(patterns)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)


def _commands(value: object, source: str) -> object:
    """Lines become argument lists; what is neither a line nor a list is left for the type check to refuse."""
    if not isinstance(value, list | tuple):
        return value
    commands = []
    for entry in value:
        try:
            commands.append(shlex.split(entry) if isinstance(entry, str) else entry)
        except ValueError as error:
            raise ChecksError(
                f"{source}: setup: {entry!r} cannot be split into arguments ({error}). Close its quotes, or write a list."
            ) from error
    return commands


# Acceptance tests

_TELLING = re.compile(r"^-|[./\\=\d]")
_FULL_STOP = re.compile(r"[\w)'\"]\.\Z")


def acceptance_command(text: str, cwd_has: Callable[[str], bool], *, path: str | None = None) -> list[str] | None:
    """The command that an acceptance test is, or None when it is prose and cannot be executed.

    ``cwd_has`` says whether a relative path exists in the worktree; ``path`` is the PATH of the tools, by default our
    own. The rule, in this order:

    1. ``$ …`` is a command, ``# …`` is prose, whatever follows.
    2. What ends in a full stop (``ruff check .`` does not), does not split like a shell's line, or is empty, is prose.
    3. The first word must begin with a small letter or a digit, or contain ``/``; and it must be a program on PATH, or
       (with ``/``) a path in the worktree. Otherwise it is prose.
    4. Four words or more, all of letters alone, none with an option, path, dot, ``=`` or digit: English that begins with
       the name of a program ("make sure users can log in"), so prose.
    5. All else is a command. There is no shell: no ``VAR=value``, no pipes; use ``$ sh -c '…'``.
    """
    return _command(text, lambda word: _can_start(word, cwd_has, path))


def may_be_command(text: str) -> bool:
    """Whether an acceptance test is a command in some worktree, with some programs on the PATH; else it is prose everywhere."""
    return _command(text, _could_start) is not None


def _command(text: str, can_start: Callable[[str], bool]) -> list[str] | None:
    text = text.strip()
    if text.startswith("# "):
        return None
    forced = text.startswith("$ ")
    try:
        words = shlex.split(text.removeprefix("$ "))
    except ValueError:
        return None
    if forced:
        return words or None
    if not words or _FULL_STOP.search(text) or not can_start(words[0]) or _is_english(words):
        return None
    return words


def _can_start(word: str, cwd_has: Callable[[str], bool], path: str | None) -> bool:
    if "/" in word and not word.startswith("/"):
        return cwd_has(word)
    return _could_start(word) and shutil.which(word, path=path) is not None


def _could_start(word: str) -> bool:
    return word[:1].islower() or word[:1].isdigit() or "/" in word


def _is_english(words: list[str]) -> bool:
    if any(_TELLING.search(word) for word in words):
        return False
    return sum(word.strip(",;:!?'\"()").isalpha() for word in words) >= 4


# swell init


def detect(files: Iterable[str], read: Callable[[str], str | None]) -> str:
    """The text of a ``swell.toml`` for a repository with these files; ``read`` gives a file's text, or None.

    What has no shipped tool profile is written as a suggestion, commented out.
    """
    names = {str(PurePosixPath(file)) for file in files}
    settings = read("pyproject.toml") or ""
    setup_cfg = read("setup.cfg") or ""
    python = any(name.endswith(".py") for name in names)
    static = [
        tool
        for tool, own in (("ruff", {"ruff.toml", ".ruff.toml"}), ("mypy", {"mypy.ini", ".mypy.ini"}))
        if names & own or f"[tool.{tool}" in settings or f"[{tool}]" in setup_cfg
    ]
    tested = (
        "[tool.pytest" in settings
        or "[tool:pytest]" in setup_cfg
        or bool(names & {"pytest.ini", "conftest.py", "tests/conftest.py"})
        or any(_is_python_test(name) for name in names)
    )
    lines = ["# What checks this repository. Swell reads this file at the base commit of a run.", ""]
    lines += _setup_lines(names)
    if static:
        lines.append(f"static_tools = [{', '.join(map(_quoted, static))}]")
    else:
        lines.append(f'{"# " if not python else ""}static_tools = ["ruff"]')
    lines.append(f'{"" if tested else "# "}runtime_tool = "pytest"')
    lines += ["", *_other_languages(names)]
    return "\n".join(lines).rstrip() + "\n"


def _quoted(word: str) -> str:
    return f'"{word}"'


def _is_python_test(name: str) -> bool:
    file = PurePosixPath(name).name
    return file.endswith(".py") and (file.startswith("test_") or file.endswith("_test.py"))


def _setup_lines(names: set[str]) -> list[str]:
    """Setup runs code and needs the network, so it is suggested, never switched on."""
    known = (
        ("uv.lock", "uv sync --frozen"),
        ("poetry.lock", "poetry install"),
        ("requirements.txt", "python -m pip install -r requirements.txt"),
        ("package-lock.json", "npm ci"),
    )
    commands = [command for file, command in known if file in names]
    return [f"# setup = [{', '.join(map(_quoted, commands))}]"] if commands else []


def _other_languages(names: set[str]) -> list[str]:
    known = (
        ("package.json", "npm-test", "npm", ("test",)),
        ("go.mod", "go-test", "go", ("test", "./...")),
        ("Cargo.toml", "cargo-test", "cargo", ("test",)),
    )
    lines: list[str] = []
    for file, tool, command, arguments in known:
        if file in names:
            profile = msgspec.json.encode(
                {tool: {"type": "test", "command": command, "args": arguments, "timeout_sec": 600}}
            )
            lines += [
                f"# {file} was found, and there is no shipped tool profile for it. Put this into tools/tool_profiles.json:",
                f"#   {profile.decode()}",
                "# and then:",
                '# tool_profiles = "tools/tool_profiles.json"',
                f'# runtime_tool = "{tool}"',
            ]
    return lines
