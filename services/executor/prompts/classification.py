"""What kind of work a workstream is, who would do it well, and which template speaks to its tool.

Rules, in this order; the first that applies wins:

| | rule |
|---|---|
| complexity | by files in `files_scope` (F) and tasks (T): `simple` F ≤ 2 and T ≤ 3 · `moderate` F ≤ 5 and T ≤ 5 · `complex` F ≤ 10 · else `enterprise` |
| quality | `production` if the gate is 2 or more, else `standard` |
| domain | by the paths in `files_scope`: `docs` if any contains `.md` · `tests` if any contains `test` · else `code` |
| operation | by words in the tasks: `refactor` · `bugfix` for `fix` or `bug` · `analysis_only` for `analyze` or `review` · else `feature` |

`metadata.classification`, if it is an object, replaces all four: a key that is absent, or has a value unknown here, is
`moderate`, `standard`, `code` or `refactor`. `analysis` as domain is only ever declared. Upper and lower case are alike.

Pure, and total: every bundle has a classification.
"""

import re
from typing import Any, Final, Literal, cast, get_args

import msgspec

from services.bundle import WorkstreamBundle

Complexity = Literal["simple", "moderate", "complex", "enterprise"]
Quality = Literal["standard", "production"]
Domain = Literal["code", "docs", "tests", "analysis"]
Operation = Literal["refactor", "bugfix", "feature", "analysis_only"]
Family = Literal["aider", "codex", "universal"]

PRODUCTION_GATE: Final = 2

_EXPERIENCE: Final[dict[Complexity, str]] = {
    "simple": "",
    "moderate": "experienced",
    "complex": "Senior",
    "enterprise": "Principal",
}
_BASE: Final[dict[Domain, str]] = {
    "code": "Software Engineer",
    "docs": "Technical Writer",
    "tests": "QA Engineer",
    "analysis": "Code Reviewer",
}
_SPECIALITY: Final[dict[Operation, str]] = {
    "refactor": "specializing in code refactoring",
    "bugfix": "specializing in debugging",
    "feature": "specializing in feature development",
    "analysis_only": "focused on code analysis",
}
_FAMILY: Final = re.compile(r"(aider|codex)(?![a-z0-9])")


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """The four words that a prompt's header and role come from."""

    complexity: Complexity = "moderate"
    quality: Quality = "standard"
    domain: Domain = "code"
    operation: Operation = "refactor"


def classify(bundle: WorkstreamBundle) -> Classification:
    """By `metadata.classification` if there is one, else by size, gate, paths and tasks; see the module's rules."""
    declared = bundle.metadata.get("classification")
    if isinstance(declared, dict):
        return _declared(declared)
    return Classification(
        complexity=_complexity(len(bundle.files_scope), len(bundle.tasks)),
        quality="production" if bundle.gate >= PRODUCTION_GATE else "standard",
        domain=_domain([path.lower() for path in bundle.files_scope]),
        operation=_operation(" ".join(bundle.tasks).lower()),
    )


def role(classification: Classification) -> str:
    """Experience, profession and speciality, as in `Senior Software Engineer specializing in debugging`."""
    words = (
        _EXPERIENCE[classification.complexity],
        _BASE[classification.domain],
        _SPECIALITY[classification.operation],
    )
    return " ".join(word for word in words if word)


def family(tool: str) -> Family:
    """Whose template a tool is told by: `aider` and `codex` have their own, also as `aider-fast`; all others share one."""
    found = _FAMILY.match(tool.lower())
    return cast("Family", found.group(1)) if found else "universal"


def _declared(given: dict[str, Any]) -> Classification:
    known = {"complexity": Complexity, "quality": Quality, "domain": Domain, "operation": Operation}
    return Classification(**{key: given[key] for key, words in known.items() if given.get(key) in get_args(words)})


def _complexity(files: int, tasks: int) -> Complexity:
    if files <= 2 and tasks <= 3:
        return "simple"
    if files <= 5 and tasks <= 5:
        return "moderate"
    return "complex" if files <= 10 else "enterprise"


def _domain(paths: list[str]) -> Domain:
    if any(".md" in path for path in paths):
        return "docs"
    return "tests" if any("test" in path for path in paths) else "code"


def _operation(tasks: str) -> Operation:
    if "refactor" in tasks:
        return "refactor"
    if "fix" in tasks or "bug" in tasks:
        return "bugfix"
    return "analysis_only" if "analyze" in tasks or "review" in tasks else "feature"
