"""From a change request to workstreams: files grouped, split by limits, ordered and joined by rules.

    files ── first matching rule ──▶ groups ── limits ──▶ workstreams ── inference ──▶ dependencies

Invariants of `decompose`:

* Every file stands in exactly one workstream, as an exact path of its `files_scope`.
* No workstream exceeds a limit, but for a single file whose lines alone do, which is told.
* The result depends on the set of files only, not on their order; ids are unique and number the workstreams by
  falling score, so that a plan takes those of a higher score first within a level.
* Workstreams never wait for each other in a circle: rules that would make them are refused, by name.

Pure: no clock, no disk.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from services import scope
from services.bundle import COST_USD_MAX, ITEMS_MAX, WORKSTREAMS_MAX, Capability, Kind, WorkstreamBundle, find_cycles
from services.diagnostic import printable
from services.plan import Finding

FILES_MAX: Final = 20_000
"""Files of one change request."""

PATTERNS_MAX: Final = 200
"""Patterns in all rules of a file together, and keywords: each is held against every file."""

EDGES_MAX: Final = 100_000
"""Dependencies inferred in one decomposition: what bundle files can still hold."""

REQUEST_CHARS_MAX: Final = 16_000
"""Characters of the text of a change request: it stands in every workstream."""

REASON_CHARS_MAX: Final = 2_000
"""Characters of what is to be done to one file."""

PATHS_CHARS_SHOWN: Final = 8_000
"""Characters of paths that one task names before it only counts them."""

SLUG_CHARS: Final = 40
LINES_MAX: Final = 1_000_000
CYCLES_SHOWN: Final = 3
KEYS_SHOWN: Final = 20

_RuleName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$(?!\n)")]
_Pattern = Annotated[str, Meta(min_length=1, max_length=scope.PATH_BYTES_MAX)]
_Patterns = Annotated[tuple[_Pattern, ...], Meta(min_length=1, max_length=PATTERNS_MAX)]
_Keyword = Annotated[str, Meta(min_length=1, max_length=100)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Lines = Annotated[int, Meta(ge=0, le=LINES_MAX)]
_Score = Annotated[int, Meta(ge=0, le=1_000)]
_Reason = Annotated[str, Meta(max_length=REASON_CHARS_MAX)]

T = TypeVar("T", bound=msgspec.Struct)


class DecompositionError(ValueError):
    """A change cannot be decomposed. `code` is stable; the text says where and what, `remedy` what to do next."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


class WorkstreamLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one workstream may hold. Lines are what the request says of its files; one that says nothing counts 0."""

    max_files_per_workstream: Annotated[int, Meta(ge=1, le=ITEMS_MAX)] = 10
    max_tasks_per_workstream: Annotated[int, Meta(ge=2, le=ITEMS_MAX)] = 7
    max_lines_changed_per_workstream: Annotated[int, Meta(ge=1, le=LINES_MAX)] = 50


class GroupRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files that match a pattern belong together; `kind` is that of their workstreams."""

    patterns: _Patterns
    description: str = ""
    kind: Kind = "impl"


class InferenceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workstream that changes the former files depends on every other one that changes the latter."""

    if_files_changed: _Patterns
    then_depends_on_workstreams_changing: _Patterns
    description: str = ""


class PriorityRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text with one of the keywords, as whole words in any case, has this score."""

    keywords: Annotated[tuple[_Keyword, ...], Meta(min_length=1, max_length=PATTERNS_MAX)]
    priority_score: _Score
    description: str = ""


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How changes are decomposed; an absent key takes its default, and a section that is absent has no rule.

    default_priority_score: of what no keyword stands in. background_below: the score below which a workstream's
    priority is `background`.
    """

    workstream_limits: WorkstreamLimits = WorkstreamLimits()
    group_by: dict[Literal["directory", "language"], dict[_RuleName, GroupRule]] = {}
    dependency_inference: dict[_RuleName, InferenceRule] = {}
    prioritization: dict[_RuleName, PriorityRule] = {}
    default_priority_score: _Score = 50
    background_below: _Score = 20


class RequestedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a change request: lines that are expected to change, and what is to be done to it."""

    path: _Pattern
    lines: _Lines = 0
    reason: _Reason = ""


class Migration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files of a commit that match `files` and not `exclude`, and hold a line that matches `pattern`.

    `pattern` is a POSIX extended regular expression. `task` says what is to be done; `{path}` and `{count}` in it stand
    for the file and the number of its lines that match, which also counts as its lines to change.
    """

    pattern: Annotated[str, Meta(min_length=1, max_length=500)]
    task: Annotated[str, Meta(min_length=1, max_length=REASON_CHARS_MAX)]
    files: _Patterns = ("**",)
    exclude: Annotated[tuple[_Pattern, ...], Meta(max_length=PATTERNS_MAX)] = ()


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed, by which tool, and where: `files`, or a `migration` that finds them.

    `change`, `issue`, `tool`, `gate`, `capability`, `acceptance_tests` and `max_cost_usd` are handed to every workstream.
    """

    change: _Name
    issue: Annotated[int, Meta(ge=-(2**53) + 1, le=2**53 - 1)] | _Name
    text: Annotated[str, Meta(min_length=1, max_length=REQUEST_CHARS_MAX)]
    tool: _Name
    files: Annotated[tuple[_Pattern | RequestedFile, ...], Meta(max_length=FILES_MAX)] = ()
    migration: Migration | None = None
    gate: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 1
    capability: Capability | None = None
    acceptance_tests: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=REASON_CHARS_MAX)], ...], Meta(max_length=100)
    ] = ()
    max_cost_usd: Annotated[float, Meta(ge=0, le=COST_USD_MAX)] | None = None


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """One file to be changed; its path is in normal form."""

    path: str
    lines: int = 0
    reason: str = ""


class Inferred(msgspec.Struct, frozen=True, kw_only=True):
    """A dependency and the rule that made it."""

    on: str
    rule: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Why a workstream is what it is.

    group: the rule that its files match first, `other` for none. score, scored_by: its priority, and the rule whose
    keyword made it, empty for the default. opened_by: what it was begun for: a new `group`, or the limit that the one
    before it had reached (`files`, `lines`, `tasks`).
    """

    id: str
    group: str
    score: int
    scored_by: str
    opened_by: Literal["group", "files", "lines", "tasks"]
    files: list[str]
    lines: int
    tasks: int
    depends_on: list[Inferred]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """How a change was decomposed, in the order of the workstreams' ids."""

    change: str
    files: int
    limits: WorkstreamLimits
    workstreams: list[Part]
    findings: list[Finding]

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def to_text(self) -> str:
        """One paragraph for each workstream, then what else is to be told."""
        limits = self.limits
        bounds = (
            f"at most {limits.max_files_per_workstream} files, {limits.max_tasks_per_workstream} tasks, "
            f"{limits.max_lines_changed_per_workstream} lines each"
        )
        lines = [f"{self.change}: {self.files} files in {len(self.workstreams)} workstreams ({bounds})"]
        for part in self.workstreams:
            score = f"score {part.score}" + (f" ({part.scored_by})" if part.scored_by else "")
            opened = (
                ""
                if part.opened_by == "group"
                else f", begun because the one before had no room for more {part.opened_by}"
            )
            size = f"{len(part.files)} files, {part.lines} lines, {part.tasks} tasks"
            lines += ["", part.id, f"  group {part.group}, {score}, {size}{opened}"]
            lines += [f"  after {one.on} ({one.rule})" for one in part.depends_on]
            lines += [f"  {printable(path)}" for path in part.files]
        lines += ["", *map(str, self.findings)] if self.findings else []
        return "\n".join(lines) + "\n"


class Decomposition(msgspec.Struct, frozen=True, kw_only=True):
    """The workstreams, and why they are what they are; both in the order of the ids, which begin with `name`."""

    name: str
    bundles: list[WorkstreamBundle]
    explanation: Explanation


def parse_rules(mapping: Mapping[str, Any], source: str) -> Rules:
    """The rules of a file. Raises DecompositionError BAD_RULES: unknown key (named), wrong type or range, bad pattern."""
    rules = _converted(Rules, mapping, source, "BAD_RULES")
    patterns = [
        *(pattern for section in rules.group_by.values() for rule in section.values() for pattern in rule.patterns),
        *(
            pattern
            for rule in rules.dependency_inference.values()
            for pattern in (*rule.if_files_changed, *rule.then_depends_on_workstreams_changing)
        ),
    ]
    keywords = sum(len(rule.keywords) for rule in rules.prioritization.values())
    for what, count in (("patterns", len(patterns)), ("keywords", keywords)):
        if count > PATTERNS_MAX:
            raise DecompositionError(
                "BAD_RULES", f"{source}: {count} {what} are more than {PATTERNS_MAX}", "Write fewer, wider ones."
            )
    for pattern in patterns:
        _declared(pattern, source, "BAD_RULES")
    return rules


def parse_request(mapping: Mapping[str, Any], source: str) -> ChangeRequest:
    """A change request. Raises DecompositionError BAD_REQUEST, NO_FILES."""
    request = _converted(ChangeRequest, mapping, source, "BAD_REQUEST")
    told = [request.change, str(request.issue), request.text, request.tool, *request.acceptance_tests]
    told += [file.reason for file in request.files if isinstance(file, RequestedFile)]
    told += [] if request.migration is None else [request.migration.task, request.migration.pattern]
    if any("\0" in text or any("\ud800" <= c <= "\udfff" for c in text) for text in told):
        raise DecompositionError(
            "BAD_REQUEST", f"{source}: a text holds NUL or half of a surrogate pair", "Remove that character."
        )
    if bool(request.files) == (request.migration is not None):
        code = "BAD_REQUEST" if request.files else "NO_FILES"
        raise DecompositionError(
            code, f"{source}: it needs `files` or a `migration`, one of them", "Give the one that is meant."
        )
    if request.migration is not None:
        for pattern in (*request.migration.files, *request.migration.exclude):
            _declared(pattern, source, "BAD_REQUEST")
    return request


def requested_files(request: ChangeRequest) -> list[FileChange]:
    """The files that a request lists. Raises DecompositionError INVALID_PATH, DUPLICATE_FILE."""
    files = [RequestedFile(path=file) if isinstance(file, str) else file for file in request.files]
    return _unique(FileChange(path=file.path, lines=file.lines, reason=file.reason.strip()) for file in files)


def migrated_files(migration: Migration, matching: Mapping[str, int]) -> list[FileChange]:
    """The files of a commit that a migration is about; `matching` counts lines that match its pattern, by path.

    Raises DecompositionError NO_FILES, TOO_MANY_FILES, INVALID_PATH, TASK_TOO_LONG.
    """
    wanted = _matcher(migration.files)
    unwanted = _matcher(migration.exclude)
    chosen = {path: n for path, n in matching.items() if wanted(path) and not unwanted(path)}
    if not chosen:
        raise DecompositionError(
            "NO_FILES", "no file of the commit matches the migration", "Look at its `pattern`, `files` and `exclude`."
        )
    if len(chosen) > FILES_MAX:
        raise DecompositionError(
            "TOO_MANY_FILES", f"{len(chosen)} files match, more than {FILES_MAX}", "Take fewer at once, by `files`."
        )
    for path in chosen:
        # A file that git knows by a name that is no text, or that holds a `\`, cannot be declared as it is.
        if not _can_be_declared(path):
            raise DecompositionError(
                "INVALID_PATH", f"{path[:200]!a} cannot be named in a bundle", "Leave it out by `exclude`."
            )
    return [
        FileChange(path=path, lines=min(count, LINES_MAX), reason=_rendered(migration.task, path, count))
        for path, count in chosen.items()
    ]


def decompose(request: ChangeRequest, files: Sequence[FileChange], rules: Rules) -> Decomposition:
    """The workstreams of a change.

    Raises:
        DecompositionError: NO_FILES, TOO_MANY_WORKSTREAMS, TOO_MANY_DEPENDENCIES, CYCLIC_INFERENCE.
    """
    if not files:
        raise DecompositionError("NO_FILES", "the change has no files", "Name at least one.")
    drafts = _drafts(request, files, rules)
    if len(drafts) > WORKSTREAMS_MAX:
        raise DecompositionError(
            "TOO_MANY_WORKSTREAMS",
            f"{len(drafts)} workstreams are more than {WORKSTREAMS_MAX}",
            "Raise the limits of a workstream, or decompose fewer files at once.",
        )
    digits = max(3, len(str(len(drafts))))
    name = f"ws-{_slug(request.change)}"
    ids = [f"{name}-{at:0{digits}}-{_slug(draft.group)}" for at, draft in enumerate(drafts, 1)]
    edges = _inferred(ids, drafts, rules.dependency_inference)
    _require_acyclic(edges)
    bundles = []
    parts = []
    for id_, draft in zip(ids, drafts, strict=True):
        tasks = draft.tasks(request.text)
        needed = [Inferred(on=other, rule=rule) for other, rule in sorted(edges[id_].items())]
        parts.append(
            Part(
                id=id_,
                group=draft.group,
                score=draft.score,
                scored_by=draft.scored_by,
                opened_by=draft.opened_by,
                files=[file.path for file in draft.files],
                lines=draft.lines,
                tasks=len(tasks),
                depends_on=needed,
            )
        )
        bundles.append(
            WorkstreamBundle(
                id=id_,
                openspec_change=request.change,
                ccpm_issue=request.issue,
                gate=request.gate,
                files_scope=tuple(file.path for file in draft.files),
                tasks=tasks,
                tool=request.tool,
                acceptance_tests=request.acceptance_tests,
                depends_on=tuple(one.on for one in needed),
                capability=request.capability,
                metadata={"decomposition": {"group": draft.group, "priority_score": draft.score, "lines": draft.lines}},
                kind=draft.kind,
                priority="background" if draft.score < rules.background_below else "foreground",
                max_cost_usd=request.max_cost_usd,
            )
        )
    limits = rules.workstream_limits
    findings = [_over(part, limits) for part in parts if part.lines > limits.max_lines_changed_per_workstream]
    explanation = Explanation(
        change=printable(request.change), files=len(files), limits=limits, workstreams=parts, findings=findings
    )
    return Decomposition(name=name, bundles=bundles, explanation=explanation)


class _Group(msgspec.Struct, frozen=True):
    at: int
    name: str
    kind: Kind


class _Draft:
    """A workstream while it is filled."""

    def __init__(
        self, group: _Group, score: int, scored_by: str, opened_by: Literal["group", "files", "lines", "tasks"]
    ) -> None:
        self.group = group.name
        self.kind = group.kind
        self.score = score
        self.scored_by = scored_by
        self.opened_by = opened_by
        self.files: list[FileChange] = []
        self.lines = 0
        self._about: dict[str, list[str]] = {}

    def full(self, file: FileChange, limits: WorkstreamLimits) -> Literal["files", "lines", "tasks"] | None:
        """The limit that the file would exceed; a first file always fits."""
        if not self.files:
            return None
        if len(self.files) >= limits.max_files_per_workstream:
            return "files"
        if self.lines + file.lines > limits.max_lines_changed_per_workstream:
            return "lines"
        more = bool(file.reason) and file.reason not in self._about
        return "tasks" if 1 + len(self._about) + more > limits.max_tasks_per_workstream else None

    def add(self, file: FileChange) -> None:
        self.files.append(file)
        self.lines += file.lines
        if file.reason:
            self._about.setdefault(file.reason, []).append(file.path)

    def tasks(self, text: str) -> tuple[str, ...]:
        """The request itself, then one task for all files with the same reason."""
        return (text, *(_task(reason, paths) for reason, paths in self._about.items()))


def _drafts(request: ChangeRequest, files: Iterable[FileChange], rules: Rules) -> list[_Draft]:
    """By falling score, then in the order of the grouping rules, then by path."""
    grouping = _grouping(rules)
    scoring = _scoring(rules)
    default = scoring(request.text) or (rules.default_priority_score, "")
    together: dict[tuple[int, int], list[tuple[FileChange, _Group, str]]] = defaultdict(list)
    for file in sorted(files, key=lambda file: file.path):
        group = grouping(file.path)
        score, scored_by = scoring(file.reason) or default
        together[(-score, group.at)].append((file, group, scored_by))
    drafts: list[_Draft] = []
    for (falling, _), members in sorted(together.items()):
        draft: _Draft | None = None
        for file, group, scored_by in members:
            full = "group" if draft is None else draft.full(file, rules.workstream_limits)
            if draft is None or full is not None:
                draft = _Draft(group, -falling, scored_by, full or "group")
                drafts.append(draft)
            draft.add(file)
    return drafts


def _grouping(rules: Rules) -> Callable[[str], _Group]:
    """What gives the group of a path: the first rule, in the order of the file, that matches it."""
    ordered = [(name, rule) for section in rules.group_by.values() for name, rule in section.items()]
    groups = [(_Group(at, name, rule.kind), _matcher(rule.patterns)) for at, (name, rule) in enumerate(ordered)]
    other = _Group(len(groups), "other", "impl")

    def group_of(path: str) -> _Group:
        return next((group for group, matches in groups if matches(path)), other)

    return group_of


def _scoring(rules: Rules) -> Callable[[str], tuple[int, str] | None]:
    """What gives the highest score of a text and the rule behind it (ties: the first rule), None without a keyword."""
    known = [
        (rule.priority_score, name, [_worded(keyword) for keyword in rule.keywords])
        for name, rule in rules.prioritization.items()
    ]

    @cache
    def score_of(text: str) -> tuple[int, str] | None:
        told = _worded(text)
        found = [(score, name) for score, name, keywords in known if any(keyword in told for keyword in keywords)]
        return max(found, key=lambda one: one[0], default=None)

    return score_of


def _worded(text: str) -> str:
    """The words alone, each between blanks, so that one text is found in another as whole words."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return f" {' '.join(words)} "


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    parsed = [scope.ScopePattern.parse(pattern) for pattern in patterns]
    return lambda path: any(pattern.covers(path) for pattern in parsed)


def _inferred(
    ids: Sequence[str], drafts: Sequence[_Draft], inference: Mapping[str, InferenceRule]
) -> dict[str, dict[str, str]]:
    """For each id the ids it depends on, each with the first rule that says so."""
    edges: dict[str, dict[str, str]] = {id_: {} for id_ in ids}
    count = 0
    for name, rule in inference.items():
        waits, first = _matcher(rule.if_files_changed), _matcher(rule.then_depends_on_workstreams_changing)
        waiting = [id_ for id_, draft in zip(ids, drafts, strict=True) if any(waits(file.path) for file in draft.files)]
        needed = [id_ for id_, draft in zip(ids, drafts, strict=True) if any(first(file.path) for file in draft.files)]
        count += len(waiting) * len(needed)
        if count > EDGES_MAX:
            raise DecompositionError(
                "TOO_MANY_DEPENDENCIES",
                f"with the rule '{name}' the workstreams would have more than {EDGES_MAX} dependencies",
                "Narrow its patterns, or decompose fewer files at once.",
            )
        for id_ in waiting:
            for other in needed:
                if other != id_:
                    edges[id_].setdefault(other, name)
    return edges


def _require_acyclic(edges: Mapping[str, Mapping[str, str]]) -> None:
    cycles, _ = find_cycles({id_: list(needed) for id_, needed in edges.items()})
    if not cycles:
        return
    shortest = sorted(cycles, key=lambda cycle: (len(cycle), cycle))[:CYCLES_SHOWN]
    told = []
    for cycle in shortest:
        steps = zip(cycle, (*cycle[1:], cycle[0]), strict=True)
        named = [f" -[{edges[id_][other]}]-> {other}" for id_, other in steps]
        shown = named if len(named) <= KEYS_SHOWN else [*named[:KEYS_SHOWN], " …"]
        told.append(cycle[0] + "".join(shown))
    more = f" and {len(cycles) - len(told)} more" if len(cycles) > len(told) else ""
    raise DecompositionError(
        "CYCLIC_INFERENCE",
        f"the rules of dependency_inference make workstreams wait for each other: {'; '.join(told)}{more}",
        "Remove one of these rules, narrow it, or group the files that it names apart from each other.",
    )


def _task(reason: str, paths: Sequence[str]) -> str:
    """What is to be done to which files."""
    if len(paths) == 1 and paths[0] in reason:
        return reason
    shown: list[str] = []
    room = PATHS_CHARS_SHOWN
    for path in paths:
        room -= len(path) + 2
        if room < 0:
            break
        shown.append(path)
    more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
    return f"{', '.join(shown)}{more}: {reason}"


def _rendered(template: str, path: str, count: int) -> str:
    text = template.replace("{count}", str(count)).replace("{path}", path)
    if len(text) > PATHS_CHARS_SHOWN:
        raise DecompositionError(
            "TASK_TOO_LONG", f"the task for {path[:200]!a} has {len(text)} characters", "Shorten the template."
        )
    return text.strip()


def _over(part: Part, limits: WorkstreamLimits) -> Finding:
    return Finding(
        code="FILE_OVER_LIMIT",
        workstream=part.id,
        message=f"{printable(part.files[0])} alone changes {part.lines} lines, more than "
        f"{limits.max_lines_changed_per_workstream}",
        remedy="divide the change of this file, or raise max_lines_changed_per_workstream",
    )


def _unique(files: Iterable[FileChange]) -> list[FileChange]:
    """The files with normal paths, each once."""
    found: dict[str, FileChange] = {}
    for file in files:
        path = _declared(file.path, "files", "INVALID_PATH")
        if path in found:
            raise DecompositionError("DUPLICATE_FILE", f"{path[:200]!a} is listed twice", "List each file once.")
        found[path] = msgspec.structs.replace(file, path=path)
    return list(found.values())


def _declared(pattern: str, source: str, code: str) -> str:
    try:
        return scope.declare(pattern)
    except scope.ScopeError as error:
        raise DecompositionError(code, f"{source}: {error.args[0]}", f"Mend it: {error.remedy}.") from None


def _can_be_declared(path: str) -> bool:
    try:
        return scope.declare(path) == path
    except scope.ScopeError:
        return False


def _slug(text: str) -> str:
    """Small letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:SLUG_CHARS].strip("-") or "change"


_STRUCTS: Final[Mapping[type[msgspec.Struct], Sequence[tuple[str, type[msgspec.Struct]]]]] = {
    Rules: (
        ("at the top", Rules),
        ("in workstream_limits", WorkstreamLimits),
        ("in a rule of group_by", GroupRule),
        ("in a rule of dependency_inference", InferenceRule),
        ("in a rule of prioritization", PriorityRule),
    ),
    ChangeRequest: (("at the top", ChangeRequest), ("in a file", RequestedFile), ("in migration", Migration)),
}


def _converted(kind: type[T], mapping: Mapping[str, Any], source: str, code: str) -> T:
    try:
        return msgspec.convert(mapping, kind)
    except msgspec.ValidationError as error:
        said = printable(str(error))
        unknown = re.search(r"unknown field `(.*?)`", said)
        names = [name for _, struct in _STRUCTS[kind] for name in struct.__struct_fields__]
        near = difflib.get_close_matches(unknown[1][:100], names, n=1) if unknown else []
        keys = "; ".join(f"{where}: {', '.join(struct.__struct_fields__)}" for where, struct in _STRUCTS[kind])
        remedy = f"Did you mean '{near[0]}'?" if near else f"The keys are, {keys}."
        raise DecompositionError(code, f"{source}: {said[:500]}", remedy) from None
