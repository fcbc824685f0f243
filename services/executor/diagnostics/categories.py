"""Which category a finding belongs to: by the form of its report, and where that is anybody's, by its tool.

A profile may say otherwise (`categories`, `severities`), by the beginning of a code. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from services.diagnostic import Category, Diagnostic, Severity
from services.profiles import ReportFormat, ToolProfile

_T = TypeVar("_T")
_WORD: Final = re.compile(r"[a-z0-9]+")
_RUST_ERROR: Final = re.compile(r"E\d{4}")
_TSC_SYNTAX: Final = re.compile(r"TS1\d{3}")

SYNTAX: Final = re.compile(r"(?i:(?:invalid-)?syntax(?:-?error)?|pars(?:e|ing)-?error)|E9\d*|F7\d\d|[EF]\d{4}")
"""Codes by which linters say that they cannot read a file: their words, and those of ruff, flake8 and pylint."""

OF_TOOLS: Final[dict[str, Category]] = {
    **dict.fromkeys(("bandit", "brakeman", "checkov", "codeql", "gitleaks", "gosec", "grype"), "security"),
    **dict.fromkeys(("osv", "pip", "safety", "semgrep", "snyk", "tfsec", "trivy", "trufflehog"), "security"),
    **dict.fromkeys(("black", "gofmt", "goimports", "isort", "mdformat", "prettier", "rustfmt", "yapf"), "formatting"),
    **dict.fromkeys(("biome", "codespell", "eslint", "flake8", "golangci", "hadolint", "markdownlint"), "style"),
    **dict.fromkeys(("pycodestyle", "pydocstyle", "pylint", "rubocop", "ruff", "shellcheck", "stylelint"), "style"),
    **dict.fromkeys(("vale", "yamllint"), "style"),
    **dict.fromkeys(("basedpyright", "flow", "mypy", "pyre", "pyright", "tsc", "ty"), "type"),
    **dict.fromkeys(("jq",), "syntax"),
    **dict.fromkeys(("jest", "junit", "pytest"), "test_failure"),
}
"""The first word of a tool's name to the category of what it finds, but for what is no syntax."""


def category_of(report_format: ReportFormat, tools: Sequence[str], code: str, severity: Severity) -> Category:
    """The category of a finding. `tools` are the names of its tool, the one that counts most first."""
    match report_format:
        case "junit-xml":
            return "test_failure"
        case "go-test-json":
            return "type" if code == "build" else "test_failure"
        case "mypy-json":
            return "syntax" if code == "syntax" else "type"
        case "pyright-json":
            return "syntax" if severity == "error" and not code else "type"
        case "tsc-text":
            return "syntax" if _TSC_SYNTAX.fullmatch(code) else "type"
        case "cargo-json":
            return _of_cargo(code, severity)
        case "ruff-json" | "eslint-json":
            return "syntax" if SYNTAX.fullmatch(code) else "style"
        case _:
            return _of_tool(tools, code)


def _of_cargo(code: str, severity: Severity) -> Category:
    if code == "test-failed":
        return "test_failure"
    if _RUST_ERROR.fullmatch(code):
        return "type"
    return "syntax" if severity == "error" and not code else "style"


def _of_tool(tools: Sequence[str], code: str) -> Category:
    words = (word[0] for tool in tools if (word := _WORD.search(tool.lower())) is not None)
    category: Category = next((OF_TOOLS[word] for word in words if word in OF_TOOLS), "other")
    return "syntax" if category in {"style", "type", "other"} and SYNTAX.fullmatch(code) else category


def as_profiled(found: Diagnostic, profile: ToolProfile) -> Diagnostic:
    """The diagnostic with the category and the severity that its profile gives its code."""
    return msgspec.structs.replace(
        found,
        category=_by_prefix(profile.categories, found.code) or found.category,
        severity=_by_prefix(profile.severities, found.code) or found.severity,
    )


def _by_prefix(told: Mapping[str, _T], code: str) -> _T | None:
    """What is told of the longest prefix of a code."""
    longest = max((prefix for prefix in told if code.startswith(prefix)), key=len, default=None)
    return None if longest is None else told[longest]
