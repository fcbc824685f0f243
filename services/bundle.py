"""Bundles: the files that describe workstreams, and everything that can be wrong with them.

Invariants:

* A `WorkstreamBundle` that was loaded is valid: every field checked, every path normalised.
* Loading reports all problems of all files in one error, each with file, workstream, field and remedy.
* The same set of workstreams gives the same list, whatever the order of files (sorted by id).
* Bytes from outside are bounded before they are read, and no input makes the loader recurse or run on.

Only `load_and_validate_bundles` touches a disk; the rest is pure. `python -m services.bundle` prints the JSON Schema.

    ValueError
      BundleValidationError       anything at all is wrong
        BundleDependencyError     every bundle is well formed, but a dependency names no workstream
        BundleCycleError          the dependencies exist, but lead back to themselves
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import re
import shlex
import stat
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec
from msgspec import Meta

from services import scope
from services.diagnostic import printable

FILE_BYTES_MAX: Final = 1 << 20
"""Bytes of one bundle file, unless the caller allows more: a person has to be able to review it."""

SET_BYTES_MAX: Final = 64 << 20
"""Bytes of all files of one load: what a scheduler may hold in memory while it plans."""

WORKSTREAMS_MAX: Final = 10_000
"""Workstreams of one run: what planning within a second is measured for."""

PLANNED_MAX: Final = 100_000
"""Workstreams that are planned together to see what is ahead; more than one run takes."""

ID_CHARS_MAX: Final = 100
"""Characters of a workstream id: it becomes a subject token, a folder and part of a branch name."""

NAME_CHARS_MAX: Final = 200
"""Characters of a tool, a conflict group, an issue or a change reference."""

TEXT_CHARS_MAX: Final = 20_000
"""Characters of one task, test or action: a few of them still fit into one argument of a process (128 KiB)."""

ITEMS_MAX: Final = 1_000
MENDING_MAX: Final = 20
"""Programs of `autofix`, and tools of `fix_tiers`: each may have a turn after every change of a tree."""
"""Entries of one list of paths, tasks, tests, actions or gates."""

FREE_BYTES_MAX: Final = 65_536
"""Bytes of one free-form object as compact JSON: it rides along wherever the workstream goes."""

FREE_DEPTH_MAX: Final = 32
"""Levels of nesting in a free-form object: far below what an encoder can recurse."""

COST_USD_MAX: Final = 1_000_000_000
"""US dollars of one limit: in nano-dollars, this still fits a 64-bit integer."""

CYCLES_MAX: Final = 100
"""Cycles reported by name: a dense graph has exponentially many."""

CYCLE_SEARCH_MAX: Final = 1_000_000
"""Edges walked in search of further cycles once one is known: about a second."""

MESSAGE_LINES_MAX: Final = 50
"""Problems listed in the text of an error; the rest is counted, and all are in `problems`."""

NOT_IN_FILES: Final = frozenset({"hints"})
"""Fields that no bundle file may set: they are Swell's own."""

_INTEGER_MAX: Final = 2**53 - 1  # beyond it, JSON readers that use doubles disagree about the value
_SHOWN_MAX: Final = 20  # unknown fields of one object, or members of one cycle, spelt out in messages

# `$` alone would let a final line feed pass in Python, and `\Z` is unknown to JSON Schema.
_Id = Annotated[str, Meta(pattern=r"^ws-[a-z0-9-]+$(?!\n)", max_length=ID_CHARS_MAX)]
_Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Text = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX)]
_Path = Annotated[str, Meta(min_length=1, max_length=scope.PATH_BYTES_MAX)]
_Dropping = Annotated[str, Meta(min_length=1, max_length=scope.DROPPING_CHARS_MAX)]
_Names = Annotated[tuple[_Name, ...], Meta(max_length=ITEMS_MAX)]
_Texts = Annotated[tuple[_Text, ...], Meta(max_length=ITEMS_MAX)]

Capability = Literal["code_generation", "linting", "refactoring", "testing", "version_checking"]
Kind = Literal["design", "impl", "test", "docs", "infra", "refactor", "background", "spike"]
Priority = Literal["foreground", "background"]
GateType = Literal["GATE_LINT", "GATE_UNIT", "GATE_INTEGRATION", "GATE_SECURITY"]


class WorkstreamChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`metadata.swell`: what checks this one workstream; an absent key leaves the repository's setting in force."""

    static_tools: (
        Annotated[
            _Names,
            Meta(description="a list of tool profile ids, run in order as STATIC; the first that fails ends the step"),
        ]
        | None
    ) = None
    runtime_tool: Annotated[_Name, Meta(description="the id of the tool profile run as RUNTIME")] | None = None
    autofix: (
        Annotated[
            tuple[_Name, ...],
            Meta(
                max_length=MENDING_MAX,
                description="a list of tool profile ids, run in order after a red STATIC, before any FIX",
            ),
        ]
        | None
    ) = None
    fix_tool: Annotated[_Name, Meta(description="the id of the tool profile run as FIX")] | None = None
    fix_tiers: (
        Annotated[
            tuple[_Name, ...],
            Meta(
                max_length=MENDING_MAX,
                description="a list of tool profile ids that take over FIX after one attempt each, the last for good",
            ),
        ]
        | None
    ) = None
    droppings: (
        Annotated[
            tuple[_Dropping, ...],
            Meta(
                max_length=ITEMS_MAX,
                description="a list of gitignore patterns of files kept out of snapshots and scope",
            ),
        ]
        | None
    ) = None
    setup: (
        Annotated[
            tuple[_Text | Annotated[tuple[_Text, ...], Meta(min_length=1, max_length=ITEMS_MAX)], ...],
            Meta(
                max_length=ITEMS_MAX,
                description="a list of commands run before the first tool, each a line or a list of arguments",
            ),
        ]
        | None
    ) = None
    strict: (
        Annotated[bool, Meta(description="true or false; false: findings that are no hard fail do not fail STATIC")]
        | None
    ) = None
    allow_no_change: Annotated[
        bool, Meta(description="true or false; true: EDIT that changes nothing counts as success")
    ] = False
    tests_may_shrink: Annotated[
        bool, Meta(description="true or false; true: tests may be deleted, skipped or get fewer assertions")
    ] = False
    gates: (
        Annotated[
            Literal["none"],
            Meta(description="'none': the workstream may complete unchecked and is then reported `unverified`"),
        ]
        | None
    ) = None


_NO_CHECKS: Final = WorkstreamChecks()


class CapabilityPayload(msgspec.Struct, frozen=True, kw_only=True):
    """The known keys of `capability_payload`; other keys are passed on as they are."""

    files: Annotated[
        tuple[_Path, ...], Meta(max_length=ITEMS_MAX, description="a list of the files the capability is about")
    ] = ()
    prompt: Annotated[_Text, Meta(description="a text: what the tool is asked to do")] | None = None
    timeout_ms: (
        Annotated[int, Meta(ge=1_000, le=86_400_000, description="a limit in milliseconds, from 1000 to one day")]
        | None
    ) = None
    max_retries: Annotated[int, Meta(ge=0, le=5, description="a whole number from 0 to 5")] | None = None


class BreakerOverride(msgspec.Struct, frozen=True, kw_only=True):
    """The known keys of `circuit_breaker`, for every step with a FIX loop; an absent key leaves the default in force."""

    max_attempts: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1_000,
                description="a whole number from 1: runs of a step, the first included, so one more than FIX calls",
            ),
        ]
        | None
    ) = None
    max_error_repeats: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=1_000,
                description="a whole number: how often one error may be seen before FIX stops; 0 is unlimited",
            ),
        ]
        | None
    ) = None
    oscillation_threshold: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=1_000,
                description="a whole number: how often one error or tree is seen in the window before FIX stops; 0 is never",
            ),
        ]
        | None
    ) = None


class BundleGate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One test gate. Not required: failure is a warning. Blocking: failure stops the gates after it."""

    type: Annotated[GateType, Meta(description="one of GATE_LINT, GATE_UNIT, GATE_INTEGRATION, GATE_SECURITY")]
    required: Annotated[bool, Meta(description="true or false")] = True
    blocking: Annotated[bool, Meta(description="true or false")] = True


class WorkstreamBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A workstream as its bundle declares it."""

    id: Annotated[
        _Id,
        Meta(
            description="'ws-' and lower-case letters, digits and hyphens; at most 100 characters; unique in all files"
        ),
    ]
    openspec_change: Annotated[_Name, Meta(description="the requirement behind the workstream, such as 'OS-001'")]
    ccpm_issue: Annotated[
        Annotated[int, Meta(ge=-_INTEGER_MAX, le=_INTEGER_MAX)] | _Name,
        Meta(description="an issue reference: a whole number or a text"),
    ]
    gate: Annotated[
        int,
        Meta(ge=1, le=_INTEGER_MAX, description="a whole number, 1 or more; information only"),
    ]
    files_scope: Annotated[
        tuple[_Path, ...],
        Meta(
            min_length=1,
            max_length=ITEMS_MAX,
            description="at least one file, folder or glob that the workstream may change, relative to the repository root",
        ),
    ]
    files_create: Annotated[
        tuple[_Path, ...],
        Meta(max_length=ITEMS_MAX, description="a list of files, folders or globs that the workstream may add"),
    ] = ()
    tasks: Annotated[_Texts, Meta(description="a list of texts that say what to do")]
    tool: Annotated[_Name, Meta(description="the id of the tool profile that does the work")]
    acceptance_tests: Annotated[_Texts, Meta(description="a list of commands that must pass, or prose")] = ()
    depends_on: Annotated[
        tuple[_Id, ...],
        Meta(max_length=WORKSTREAMS_MAX, description="a list of ids of workstreams that must succeed first"),
    ] = ()
    capability: (
        Annotated[
            Capability,
            Meta(description="one of code_generation, linting, refactoring, testing, version_checking"),
        ]
        | None
    ) = None
    capability_payload: Annotated[dict[str, Any], Meta(description="an object passed to the capability")] = {}
    circuit_breaker: (
        Annotated[
            dict[str, Any], Meta(description="an object with max_attempts, max_error_repeats, oscillation_threshold")
        ]
        | None
    ) = None
    metadata: Annotated[dict[str, Any], Meta(description="an object of your own; its key 'swell' holds checks")] = {}
    parallel_ok: Annotated[bool, Meta(description="true or false; false: the workstream runs alone in its wave")] = True
    conflict_group: (
        Annotated[_Name, Meta(description="a name; workstreams of the same group never run at the same time")] | None
    ) = None
    kind: Annotated[Kind, Meta(description="one of design, impl, test, docs, infra, refactor, background, spike")] = (
        "impl"
    )
    priority: Annotated[Priority, Meta(description="foreground or background")] = "foreground"
    estimated_context_tokens: (
        Annotated[int, Meta(ge=0, le=_INTEGER_MAX, description="tokens of context expected, a whole number, 0 or more")]
        | None
    ) = None
    max_cost_usd: (
        Annotated[float, Meta(ge=0, le=COST_USD_MAX, description="a limit in US dollars, 0 or more")] | None
    ) = None
    compensation_actions: Annotated[
        _Texts, Meta(description="a list of texts, the steps that undo the workstream")
    ] = ()
    test_gates: Annotated[
        tuple[BundleGate, ...],
        Meta(max_length=ITEMS_MAX, description="a list of objects with type, required and blocking"),
    ] = ()
    hints: _Texts = ()
    """What people told its tool beside the tasks when they adjusted it in review, oldest first; no file may set it."""

    @property
    def checks(self) -> WorkstreamChecks:
        """`metadata.swell`, with every key absent when there is none."""
        if "swell" not in self.metadata:
            return _NO_CHECKS
        return msgspec.convert(_without_comments(self.metadata.get("swell", {})), WorkstreamChecks)

    @property
    def breaker(self) -> BreakerOverride:
        """The known keys of `circuit_breaker`."""
        return msgspec.convert(self.circuit_breaker or {}, BreakerOverride)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. `file`, `workstream` and `field` are empty where the problem has none."""

    code: str
    message: str
    remedy: str
    file: str = ""
    workstream: str = ""
    field: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.workstream, self.field) if part)
        return f"{where}: {self.message}; {self.remedy}" if where else f"{self.message}; {self.remedy}"


class BundleValidationError(ValueError):
    """Everything that is wrong with a set of bundles; its text is one line for each problem, capped with a count."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MESSAGE_LINES_MAX]]
        if more := len(self.problems) - len(lines):
            lines.append(f"... and {more} more problems")
        return "\n".join(lines)


class BundleDependencyError(BundleValidationError):
    """Dependencies that name no workstream; `missing` lists every (workstream, missing id), sorted."""

    def __init__(self, problems: Sequence[Problem], missing: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(problems)
        self.missing = tuple(missing)


class BundleCycleError(BundleValidationError):
    """Circular dependencies; `cycles` lists each once, its smallest id first, every id depending on the next."""

    def __init__(self, problems: Sequence[Problem], cycles: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(problems)
        self.cycles = tuple(cycles)


def load_and_validate_bundles(
    path: str | Path,
    *,
    file_bytes: int = FILE_BYTES_MAX,
    workstreams: int = WORKSTREAMS_MAX,
    as_if: Mapping[str, bytes] | None = None,
) -> list[WorkstreamBundle]:
    """The workstreams of a bundle file, or of all `*.json` files of a folder, sorted by id.

    A file holds one object or an array of objects. Hidden files and sub-folders are not read. `file_bytes` is the limit
    of one file, `workstreams` that of all together. `as_if` are files of the folder by name, taken to stand there in
    place of what does.

    Raises:
        BundleValidationError: with all problems of all files; a missing path and an empty folder are problems too.
        BundleDependencyError, BundleCycleError: when nothing else is wrong.
    """
    return _assemble(_documents(Path(path), file_bytes, as_if or {}), file_bytes, workstreams)


def parse_bundles(
    documents: Iterable[tuple[str, bytes]], *, file_bytes: int = FILE_BYTES_MAX
) -> list[WorkstreamBundle]:
    """As `load_and_validate_bundles`, for (name, content) pairs that somebody else has read."""
    return _assemble(documents, file_bytes, WORKSTREAMS_MAX)


def encode_bundles(bundles: Iterable[WorkstreamBundle]) -> bytes:
    """One JSON document with all bundles; `parse_bundles` gives them back (allow it `SET_BYTES_MAX`)."""
    return msgspec.json.encode(list(bundles))


def _documents(root: Path, file_bytes: int, as_if: Mapping[str, bytes]) -> Iterator[tuple[str, bytes] | Problem]:
    yield from ((_shown_path(root / name), content) for name, content in sorted(as_if.items()))
    if as_if and not root.exists():
        return
    try:
        if not root.is_dir():
            yield _read(root, _shown_path(root), file_bytes)
            return
        home = root.resolve(strict=True)
        names = sorted(e.name for e in root.iterdir() if e.name.endswith(".json") and not e.name.startswith("."))
    except (OSError, ValueError) as error:
        yield _unreadable(_shown_path(root), error)
        return
    for name in names:
        if name in as_if:
            continue
        shown = _shown_path(root / name)
        try:
            real = (home / name).resolve(strict=True)
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            yield _unreadable(shown, error)
            continue
        if not real.is_relative_to(home):
            yield Problem(
                code="SYMLINK_OUTSIDE",
                file=shown,
                message="is a link to a file outside the folder",
                remedy="copy the file into the folder",
            )
        elif not real.is_dir():
            yield _read(real, shown, file_bytes)


def _read(path: Path, shown: str, file_bytes: int) -> tuple[str, bytes] | Problem:
    """One regular file, refused by its size before it is read."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - takes flags
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Problem(
                    code="UNREADABLE",
                    file=shown,
                    message="is not a regular file",
                    remedy="name a JSON file or a folder of JSON files",
                )
            if status.st_size > file_bytes:
                return _too_large(shown, status.st_size, file_bytes)
            return shown, file.read(file_bytes + 1)
    except (OSError, ValueError) as error:
        return _unreadable(shown, error)


def _shown_path(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(shown: str, error: Exception) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem(
            code="FILE_NOT_FOUND",
            file=shown,
            message="no such file or folder",
            remedy="name a JSON file or a folder of JSON files",
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(
        code="UNREADABLE",
        file=shown,
        message=f"cannot be read: {reason}",
        remedy="make it a readable file, or remove it",
    )


def _too_large(shown: str, size: int, file_bytes: int) -> Problem:
    return Problem(
        code="FILE_TOO_LARGE",
        file=shown,
        message=f"is {size} bytes long, more than {file_bytes}",
        remedy="split it into several files of one folder",
    )


class _Refused(ValueError):  # noqa: N818 - never leaves this module
    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


def _constant(text: str) -> NoReturn:
    raise _Refused("BAD_NUMBER", f"{text} is not JSON", "use a finite number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("BAD_NUMBER", f"the number {text[:40]} is too large", "use a smaller number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise _Refused("BAD_NUMBER", f"the number {text[:40]} is too large", "use a smaller number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused("DUPLICATE_KEY", f"the key {_shown(twice)} stands twice in one object", "keep one of them")
    return found


def _parse_json(name: str, data: bytes) -> list[Any] | Problem:
    """The elements of one document: those of its array, or the single object."""
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
        )
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(
            code="NOT_UTF8",
            file=name,
            message=f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, line {line}",
            remedy="save it as UTF-8",
        )
    except json.JSONDecodeError as error:
        return Problem(
            code="MALFORMED_JSON",
            file=name,
            message=f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            remedy="correct the file at this place",
        )
    except RecursionError:
        return Problem(
            code="NESTED_TOO_DEEPLY",
            file=name,
            message="is nested too deeply",
            remedy=f"use at most {FREE_DEPTH_MAX} levels of objects and arrays",
        )
    except _Refused as error:
        return Problem(code=error.code, file=name, message=str(error), remedy=error.remedy)
    # An escaped NUL or half of a surrogate pair is JSON, but neither an argument nor UTF-8 text can hold it.
    if re.search(r"\\u(?:0000|[dD][89a-fA-F])", text) and (bad := _unusable(value)) is not None:
        return Problem(
            code="UNUSABLE_TEXT",
            file=name,
            message=f"the text {_shown(bad)} holds NUL or half of a surrogate pair",
            remedy="remove that character",
        )
    return value if isinstance(value, list) else [value]


def _unusable(value: Any) -> str | None:
    pending = [value]
    while pending:
        match pending.pop():
            case str(text) if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
                return text
            case list(items):
                pending.extend(items)
            case dict(items):
                pending.extend(items.keys())
                pending.extend(items.values())
    return None


class _Findings:
    """The problems of one workstream."""

    def __init__(self, file: str, workstream: str) -> None:
        self.file = file
        self.workstream = workstream
        self.problems: list[Problem] = []

    def add(self, code: str, field: str, message: str, remedy: str) -> None:
        self.problems.append(
            Problem(
                code=code,
                file=self.file,
                workstream=self.workstream,
                field=field,
                message=printable(message),  # what msgspec says of an unknown key names it as it is
                remedy=remedy,
            )
        )


def _decode_bundle(raw: Mapping[str, Any], found: _Findings) -> WorkstreamBundle | None:
    """The bundle, or None when anything was found."""
    given = _without_comments(raw)
    if isinstance(gates := given.get("test_gates"), list):
        given["test_gates"] = [_without_comments(gate) for gate in gates]
    values = _decode_fields(given, WorkstreamBundle, "", found)
    for field in ("files_scope", "files_create"):
        if field in values:
            values[field] = _declare_paths(values[field], field, found)
    if "depends_on" in values:
        values["depends_on"] = tuple(dict.fromkeys(values["depends_on"]))
    for field, known in _OPEN_OBJECTS.items():
        if values.get(field):
            values[field] = _without_comments(values[field])
            _decode_fields(values[field], known, f"{field}.", found)
    for field in ("capability_payload", "circuit_breaker", "metadata"):
        if values.get(field):
            _check_free(values[field], field, found)
    if "swell" in values.get("metadata", {}):
        _check_swell(values["metadata"]["swell"], found)
    return None if found.problems else WorkstreamBundle(**values)


_OPEN_OBJECTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "capability_payload": CapabilityPayload,
    "circuit_breaker": BreakerOverride,
}


def _decode_fields(
    raw: Mapping[str, Any], type_: type[msgspec.Struct], prefix: str, found: _Findings
) -> dict[str, Any]:
    """The values of an object's fields. Where one is wrong they are converted one by one, so that every wrong one is found."""
    fields = _fields(type_)
    if type_.__struct_config__.forbid_unknown_fields and raw.keys() <= fields.keys():
        with contextlib.suppress(msgspec.ValidationError):
            whole = msgspec.convert(raw, type_)
            return {name: getattr(whole, name) for name in raw}
    missing = [name for name, field in fields.items() if field.required and name not in raw]
    if missing:
        found.add(
            "MISSING_FIELD",
            "",
            f"missing required fields: {', '.join(prefix + name for name in missing)}",
            "add " + "; ".join(f"{name}: {_help(type_, name)}" for name in missing),
        )
    if type_.__struct_config__.forbid_unknown_fields:
        _find_unknown([name for name in raw if name not in fields], list(fields), prefix, found)
    values = {}
    for name, field in fields.items():
        if name in raw:
            try:
                values[name] = msgspec.convert(raw[name], field.type)
            except msgspec.ValidationError as error:
                text, _, at = str(error).partition(" - at `$")
                found.add(
                    "INVALID_FIELD",
                    prefix + name + at.rstrip("`"),
                    f"{text[:1].lower()}{text[1:]}" + ("" if at else f", found {_shown(raw[name])}"),
                    "it takes " + _help(type_, name),
                )
    return values


def _find_unknown(unknown: Sequence[str], valid: Sequence[str], prefix: str, found: _Findings) -> None:
    for name in unknown[:_SHOWN_MAX]:
        near = difflib.get_close_matches(name[:NAME_CHARS_MAX].lower(), valid, n=1)
        found.add(
            "UNKNOWN_FIELD",
            prefix + (name if name.isidentifier() and len(name) < NAME_CHARS_MAX else _shown(name)),
            f"unknown field {_shown(name)}",
            f"did you mean '{prefix}{near[0]}'?" if near else f"remove it; the fields are {', '.join(valid)}",
        )
    if (more := len(unknown) - _SHOWN_MAX) > 0:
        found.add("UNKNOWN_FIELD", "", f"and {more} more unknown fields", "remove them")


def _declare_paths(paths: Iterable[str], field: str, found: _Findings) -> tuple[str, ...]:
    declared: dict[str, None] = {}
    for at, path in enumerate(paths):
        try:
            declared[scope.declare(path)] = None
        except scope.ScopeError as error:
            found.add("INVALID_PATH", f"{field}[{at}]", str(error.args[0]), error.remedy)
    return tuple(declared)


def _check_free(value: Mapping[str, Any], field: str, found: _Findings) -> None:
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > FREE_DEPTH_MAX:
            found.add("TOO_DEEP", field, "is nested too deeply", f"use at most {FREE_DEPTH_MAX} levels")
            return
        if isinstance(item, dict):
            pending.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            pending.extend((child, depth + 1) for child in item)
    if (size := len(msgspec.json.encode(value))) > FREE_BYTES_MAX:
        found.add("TOO_LARGE", field, f"is {size} bytes long", f"use at most {FREE_BYTES_MAX} bytes")


def _check_swell(raw: Any, found: _Findings) -> None:
    if not isinstance(raw, dict):
        found.add("INVALID_FIELD", "metadata.swell", f"expected an object, found {_shown(raw)}", "use an object")
        return
    values = _decode_fields(_without_comments(raw), WorkstreamChecks, "metadata.swell.", found)
    try:
        scope.Droppings(values.get("droppings") or ())
    except scope.ScopeError as error:
        found.add("INVALID_FIELD", "metadata.swell.droppings", str(error.args[0]), error.remedy)
    for number, entry in enumerate(values.get("setup") or ()):
        field = f"metadata.swell.setup[{number}]"
        try:
            words = shlex.split(entry) if isinstance(entry, str) else list(entry)
        except ValueError as error:
            remedy = "close its quotes, or write a list of arguments"
            found.add("INVALID_FIELD", field, f"cannot be split into arguments: {error}", remedy)
        else:
            if not words or not words[0]:
                found.add("INVALID_FIELD", field, "is an empty command", "name a program, or remove it")


def _without_comments(value: Any) -> Any:
    """The object without the keys that begin with `_comment`; anything else as it is."""
    return {k: v for k, v in value.items() if not k.startswith("_comment")} if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    """A value on one short line of printable ASCII."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)} entries"
    if isinstance(value, str):
        return ascii(value if len(value) <= 60 else value[:60] + "...")
    return json.dumps(value)[:60]


@cache
def _fields(type_: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    known = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    return {name: field for name, field in known.items() if type_ is not WorkstreamBundle or name not in NOT_IN_FILES}


@cache
def _help(type_: type[msgspec.Struct], name: str) -> str:
    """What the field takes, as its description in the schema says."""
    _, definitions = msgspec.json.schema_components((type_,), ref_template="{name}")
    schema = definitions[type_.__name__]["properties"][name]
    return str(schema.get("description") or schema["anyOf"][0]["description"])


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one workstream, valid or not; `id` is None when it has no valid one."""

    file: str
    id: str | None
    depends_on: tuple[str, ...]
    bundle: WorkstreamBundle | None


def _assemble(
    documents: Iterable[tuple[str, bytes] | Problem], file_bytes: int, workstreams: int
) -> list[WorkstreamBundle]:
    problems: list[Problem] = []
    entries: list[_Entry] = []
    for part in _parsed(documents, file_bytes, workstreams):
        if isinstance(part, Problem):
            problems.append(part)
            continue
        name, elements = part
        for at, raw in enumerate(elements):
            entry, found = _entry(name, at, raw)
            entries.append(entry)
            problems.extend(found)
    # A dependency can only be called missing when the id of every workstream is known.
    whole = not any(problem.code in _WHOLE_FILE for problem in problems) and all(entry.id for entry in entries)
    if not entries and not problems:
        problems.append(
            Problem(
                code="NO_BUNDLES",
                message="no workstream found",
                remedy="name a JSON file, or a folder with *.json files, that declares at least one",
            )
        )
    problems.extend(_duplicates((entry.id, entry.file) for entry in entries))
    if whole:
        graph = {entry.id: entry.depends_on for entry in entries if entry.id}
        files = {entry.id: entry.file for entry in entries if entry.id}
        if not problems:
            require_acyclic(graph, files)
        else:
            problems.extend(_missing_problems(missing_dependencies(graph), files))
            problems.extend(_cycle_problems(*find_cycles(graph), files))
    if problems:
        raise BundleValidationError(problems)
    return sorted((entry.bundle for entry in entries if entry.bundle is not None), key=lambda bundle: bundle.id)


_WHOLE_FILE: Final = frozenset(
    {
        "DUPLICATE_KEY",
        "FILE_NOT_FOUND",
        "FILE_TOO_LARGE",
        "MALFORMED_JSON",
        "NESTED_TOO_DEEPLY",
        "BAD_NUMBER",
        "NOT_UTF8",
        "SET_TOO_LARGE",
        "SYMLINK_OUTSIDE",
        "TOO_MANY_WORKSTREAMS",
        "UNREADABLE",
        "UNUSABLE_TEXT",
    }
)
"""Problems after which a file may hold workstreams that nobody has seen."""


def _parsed(
    documents: Iterable[tuple[str, bytes] | Problem], file_bytes: int, workstreams: int
) -> Iterator[tuple[str, list[Any]] | Problem]:
    """The elements of each document; ends at the first that exceeds a limit of the whole set."""
    size = count = 0
    for document in documents:
        if isinstance(document, Problem):
            yield document
            continue
        name, data = document
        size += len(data)
        if size > SET_BYTES_MAX:
            yield Problem(
                code="SET_TOO_LARGE",
                file=name,
                message=f"the files up to this one have more than {SET_BYTES_MAX} bytes",
                remedy="submit fewer workstreams at once",
            )
            return
        elements = _too_large(name, len(data), file_bytes) if len(data) > file_bytes else _parse_json(name, data)
        if isinstance(elements, Problem):
            yield elements
            continue
        count += len(elements)
        if count > workstreams:
            yield Problem(
                code="TOO_MANY_WORKSTREAMS",
                file=name,
                message=f"the files up to this one declare more than {workstreams} workstreams",
                remedy="submit fewer workstreams at once",
            )
            return
        yield name, elements


def _entry(file: str, at: int, raw: Any) -> tuple[_Entry, list[Problem]]:
    if not isinstance(raw, dict):
        problem = Problem(
            code="NOT_AN_OBJECT",
            file=file,
            workstream=f"entry {at + 1}",
            message=f"a workstream is an object, found {_shown(raw)}",
            remedy="write one object, or an array of objects",
        )
        return _Entry(file=file, id=None, depends_on=(), bundle=None), [problem]
    given = raw.get("id")
    found = _Findings(
        file, given[:ID_CHARS_MAX] if isinstance(given, str) and given.isprintable() else f"entry {at + 1}"
    )
    bundle = _decode_bundle(raw, found)
    if bundle is not None:
        return _Entry(file=file, id=bundle.id, depends_on=bundle.depends_on, bundle=bundle), []
    known = _Findings(file, "")
    values = _decode_fields({key: raw[key] for key in ("id", "depends_on") if key in raw}, WorkstreamBundle, "", known)
    return (
        _Entry(file=file, id=values.get("id"), depends_on=values.get("depends_on", ()), bundle=None),
        found.problems,
    )


def _duplicates(declared: Iterable[tuple[str | None, str]]) -> list[Problem]:
    first: dict[str, str] = {}
    problems = []
    for id_, file in declared:
        if id_ is None:
            continue
        if id_ in first:
            both = f"twice in {file}" if first[id_] == file else f"in {first[id_]} and in {file}"
            problems.append(
                Problem(
                    code="DUPLICATE_ID",
                    file=file,
                    workstream=id_,
                    field="id",
                    message=f"the id '{id_}' is declared {both}".rstrip(),
                    remedy="rename one of the two",
                )
            )
        else:
            first[id_] = file
    return problems


Graph = Mapping[str, Sequence[str]]
"""Workstream id to the ids it depends on."""


def require_unique(bundles: Iterable[WorkstreamBundle]) -> None:
    """Raises `BundleValidationError` when two bundles have the same id."""
    if problems := _duplicates((bundle.id, "the given bundles") for bundle in bundles):
        raise BundleValidationError(problems)


def require_acyclic(graph: Graph, files: Mapping[str, str] | None = None) -> None:
    """Check that every dependency exists and none leads back to itself; `files` names the file of each id for messages.

    Raises:
        BundleDependencyError: with every missing pair, and the cycles too if there are any.
        BundleCycleError: with every cycle.
    """
    missing = missing_dependencies(graph)
    cycles, complete = find_cycles(graph)
    problems = _missing_problems(missing, files or {}) + _cycle_problems(cycles, complete, files or {})
    if missing:
        raise BundleDependencyError(problems, missing)
    if cycles:
        raise BundleCycleError(problems, cycles)


def missing_dependencies(graph: Graph) -> list[tuple[str, str]]:
    """Every (workstream, id it depends on that is not in the graph), sorted."""
    return sorted({(id_, other) for id_, others in graph.items() for other in others if other not in graph})


def find_cycles(graph: Graph) -> tuple[list[tuple[str, ...]], bool]:
    """The elementary cycles, each once with its smallest id first, sorted; and whether these are all of them.

    At least one cycle is found if there is any. The search ends after `CYCLES_MAX` cycles, or `CYCLE_SEARCH_MAX` edges
    once there is one. (D. B. Johnson, Finding all the elementary circuits of a directed graph, 1975; without recursion.)
    """
    among = _unresolved(graph)
    edges = {id_: sorted({o for o in graph[id_] if o in among}) for id_ in among}
    cycles: list[tuple[str, ...]] = []
    cycles.extend((id_,) for id_ in sorted(edges) if id_ in edges[id_])
    del cycles[CYCLES_MAX:]
    complete = True
    walked = 0
    pending = sorted(_knots(edges, set(edges)), key=min, reverse=True)
    while pending:
        if len(cycles) >= CYCLES_MAX or (cycles and walked > CYCLE_SEARCH_MAX):
            complete = False
            break
        knot = pending.pop()
        inner = {id_: [o for o in edges[id_] if o in knot and o != id_] for id_ in knot}
        walked += sum(map(len, inner.values()))
        start = min(knot)
        for step in _circuits(inner, start):
            if step is None:
                walked += 1
            else:
                cycles.append(step)
            if len(cycles) >= CYCLES_MAX or (cycles and walked > CYCLE_SEARCH_MAX):
                complete = False
                break
        pending.extend(sorted(_knots(inner, knot - {start}), key=min, reverse=True))
    return sorted(cycles), complete


def _unresolved(graph: Graph) -> set[str]:
    """What is left when whoever waits for nothing that is left is taken away, again and again: all cycles, and what waits
    for one.
    """
    waits_for = {id_: {other for other in others if other in graph} for id_, others in graph.items()}
    dependents: dict[str, list[str]] = defaultdict(list)
    for id_, others in waits_for.items():
        for other in others:
            dependents[other].append(id_)
    open_count = {id_: len(others) for id_, others in waits_for.items()}
    free = [id_ for id_, count in open_count.items() if not count]
    for id_ in free:
        for dependent in dependents[id_]:
            open_count[dependent] -= 1
            if not open_count[dependent]:
                free.append(dependent)
    return graph.keys() - free if len(free) < len(graph) else set()


def _circuits(edges: Mapping[str, Sequence[str]], start: str) -> Iterator[tuple[str, ...] | None]:
    """Every elementary cycle through `start`; None for each edge walked, so that the caller can stop."""
    path = [start]
    blocked = {start}
    open_again: set[str] = set()
    waiting: dict[str, set[str]] = defaultdict(set)
    stack = [(start, list(reversed(edges[start])))]
    while stack:
        at, ahead = stack[-1]
        if ahead:
            yield None
            following = ahead.pop()
            if following == start:
                yield tuple(path)
                open_again.update(path)
            elif following not in blocked:
                path.append(following)
                stack.append((following, list(reversed(edges[following]))))
                open_again.discard(following)
                blocked.add(following)
            continue
        if at in open_again:
            freed = [at]
            while freed:
                id_ = freed.pop()
                if id_ in blocked:
                    blocked.discard(id_)
                    freed.extend(waiting.pop(id_, ()))
        else:
            for other in edges[at]:
                waiting[other].add(at)
        stack.pop()
        path.pop()


def _knots(edges: Mapping[str, Sequence[str]], among: set[str]) -> list[set[str]]:
    """The strongly connected sets of two or more of the ids `among`: peel from both sides of a depth-first order.

    (S. R. Kosaraju's two passes; without recursion.)
    """
    backwards: dict[str, list[str]] = defaultdict(list)
    for id_ in among:
        for other in edges[id_]:
            if other in among:
                backwards[other].append(id_)
    seen: set[str] = set()
    finished: list[str] = []
    for root in among:
        finished.extend(_finishing_order(root, edges, among, seen))
    knots = []
    grouped: set[str] = set()
    for root in reversed(finished):
        knot = set(_finishing_order(root, backwards, among, grouped))
        if len(knot) > 1:
            knots.append(knot)
    return knots


def _finishing_order(root: str, edges: Mapping[str, Sequence[str]], among: set[str], seen: set[str]) -> Iterator[str]:
    """What can be reached from `root` and is not yet `seen`, each id after everything reached through it."""
    if root in seen:
        return
    seen.add(root)
    stack = [(root, iter(edges.get(root, ())))]
    while stack:
        at, ahead = stack[-1]
        following = next((other for other in ahead if other in among and other not in seen), None)
        if following is None:
            stack.pop()
            yield at
        else:
            seen.add(following)
            stack.append((following, iter(edges.get(following, ()))))


def _missing_problems(missing: Iterable[tuple[str, str]], files: Mapping[str, str]) -> list[Problem]:
    return [
        Problem(
            code="UNKNOWN_DEPENDENCY",
            file=files.get(id_, ""),
            workstream=id_,
            field="depends_on",
            message=f"missing dependency {id_} -> {other}",
            remedy="add that workstream, or remove it from depends_on",
        )
        for id_, other in missing
    ]


def _cycle_problems(cycles: Iterable[tuple[str, ...]], complete: bool, files: Mapping[str, str]) -> list[Problem]:
    problems = [
        Problem(
            code="CYCLE",
            file=files.get(cycle[0], ""),
            workstream=cycle[0],
            field="depends_on",
            message=f"circular dependency {_cycle_text(cycle)}",
            remedy="remove one of these dependencies",
        )
        for cycle in cycles
    ]
    if not complete:
        problems.append(
            Problem(
                code="CYCLE",
                message="there may be more cycles than these",
                remedy="remove these first, then check again",
            )
        )
    return problems


def _cycle_text(cycle: Sequence[str]) -> str:
    if len(cycle) <= _SHOWN_MAX:
        return " -> ".join((*cycle, cycle[0]))
    shown = " -> ".join(cycle[: _SHOWN_MAX // 2])
    return f"{shown} -> ... -> {cycle[-1]} -> {cycle[0]} ({len(cycle)} workstreams)"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft-07) of a bundle file: one workstream or an array of them.

    It states shapes and ranges. Uniqueness, dependencies and what a path may be are left to the loader.
    """
    structs = (WorkstreamBundle, BundleGate, WorkstreamChecks, CapabilityPayload, BreakerOverride)
    _, definitions = msgspec.json.schema_components(structs, ref_template="#/definitions/{name}")
    for definition in definitions.values():
        definition["patternProperties"] = {"^_comment": True}
    fields = definitions["WorkstreamBundle"]["properties"]
    for name in NOT_IN_FILES:
        del fields[name]
    fields["metadata"]["properties"] = {"swell": {"$ref": "#/definitions/WorkstreamChecks"}}
    for name, known in _OPEN_OBJECTS.items():
        options = fields[name].get("anyOf", [fields[name]])
        options[0]["properties"] = definitions.pop(known.__name__)["properties"]
    one = {"$ref": "#/definitions/WorkstreamBundle"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Swell workstream bundle",
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": WORKSTREAMS_MAX}],
        "definitions": definitions,
    }


def schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
