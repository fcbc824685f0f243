"""What kind of finding each is, by the form of its report and by its tool; what a profile says of it; and what all come to."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.diagnostic import HARD_FAILS, MORE_FINDINGS, Diagnostic, Summary, error_signature, summarise, tolerable
from services.executor.diagnostics import parse
from services.executor.diagnostics.categories import as_profiled, category_of
from services.profiles import ToolProfile

REPORTS = Path(__file__).parent / "reports"
TREE = Path("/srv/tree")


def sarif(driver: str, *codes: str) -> bytes:
    results = [{"ruleId": code, "message": {"text": "x"}} for code in codes]
    return json.dumps(
        {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": driver}}, "results": results}]}
    ).encode()


@pytest.mark.parametrize(
    ("report_format", "tools", "code", "severity", "category"),
    [
        ("ruff-json", ("ruff", "lint"), "F401", "error", "style"),
        ("ruff-json", ("ruff", "lint"), "E501", "error", "style"),
        ("ruff-json", ("ruff", "lint"), "E902", "error", "syntax"),
        ("ruff-json", ("ruff", "lint"), "F706", "error", "syntax"),
        ("ruff-json", ("ruff", "lint"), "invalid-syntax", "error", "syntax"),
        ("ruff-json", ("ruff", "lint"), "syntax-error", "error", "syntax"),
        ("mypy-json", ("mypy", "types"), "arg-type", "error", "type"),
        ("mypy-json", ("mypy", "types"), "", "info", "type"),
        ("mypy-json", ("mypy", "types"), "syntax", "error", "syntax"),
        ("pyright-json", ("pyright", ""), "reportCallIssue", "warning", "type"),
        ("pyright-json", ("pyright", ""), "", "error", "syntax"),
        ("tsc-text", ("tsc", ""), "TS2322", "error", "type"),
        ("tsc-text", ("tsc", ""), "TS1005", "error", "syntax"),
        ("eslint-json", ("eslint", ""), "semi", "error", "style"),
        ("eslint-json", ("eslint", ""), "parsing-error", "error", "syntax"),
        ("junit-xml", ("pytest", ""), "failure", "error", "test_failure"),
        ("go-test-json", ("go", ""), "test-failed", "error", "test_failure"),
        ("go-test-json", ("go", ""), "build", "error", "type"),
        ("cargo-json", ("cargo", ""), "E0308", "error", "type"),
        ("cargo-json", ("cargo", ""), "", "error", "syntax"),
        ("cargo-json", ("cargo", ""), "clippy::len_zero", "warning", "style"),
        ("cargo-json", ("cargo", ""), "test-failed", "error", "test_failure"),
        ("go-vet-json", ("go vet", ""), "printf", "error", "other"),
        ("sarif", ("Bandit", "check"), "B101", "error", "security"),
        ("sarif", ("Semgrep OSS", "check"), "eval", "error", "security"),
        ("sarif", ("gitleaks", "check"), "aws", "error", "security"),
        ("sarif", ("golangci-lint", "check"), "unused", "error", "style"),
        ("sarif", ("somebody's", "gitleaks"), "aws", "error", "security"),
        ("sarif", ("somebody's", "mine"), "x", "error", "other"),
        ("sarif", ("somebody's", "mine"), "SyntaxError", "error", "syntax"),
        ("rdjson", ("Ruff", "mine"), "E999", "error", "syntax"),
        ("gitlab-json", ("gitlab", "ty"), "invalid-assignment", "error", "type"),
        ("pattern", ("pattern", "black_fix"), "", "error", "formatting"),
        ("pattern", ("pattern", "isort"), "E0001", "error", "formatting"),
        ("pattern", ("pattern", "pylint"), "C0103", "info", "style"),
        ("pattern", ("pattern", "pylint"), "E0001", "error", "syntax"),
        ("pattern", ("pattern", "yamllint"), "syntax", "error", "syntax"),
        ("pattern", ("pattern", ""), "", "error", "other"),
        ("pattern", ("pattern", "\u00e9-"), "", "error", "other"),
    ],
)  # fmt: skip
def test_each_form_and_tool_has_its_categories(report_format, tools, code, severity, category):
    assert category_of(report_format, tools, code, severity) == category


@pytest.mark.parametrize(
    ("report_format", "file", "categories"),
    [
        ("pyright-json", "pyright.json", {"type", "syntax"}),
        ("eslint-json", "eslint.json", {"style", "syntax"}),
        ("tsc-text", "tsc.txt", {"type"}),
        ("go-vet-json", "go_vet.txt", {"other"}),
        ("go-test-json", "go_test.jsonl", {"test_failure"}),
        ("go-test-json", "go_test_build.jsonl", {"type"}),
        ("cargo-json", "cargo_check.jsonl", {"style", "type"}),
        ("cargo-json", "cargo_test.jsonl", {"style", "test_failure"}),
    ],
)
def test_reports_of_real_tools_carry_them(report_format, file, categories):
    found = parse(report_format, (REPORTS / file).read_bytes(), worktree=TREE)
    assert {one.category for one in found} == categories


def test_the_report_names_its_tool_before_the_check_does():
    (found,) = parse("sarif", sarif("Bandit", "B101"), worktree=TREE, tool="mypy")
    assert (found.tool, found.category) == ("mypy", "security")


def test_a_profile_says_otherwise_by_the_longest_prefix():
    profile = ToolProfile(
        command="x", categories={"S": "security", "SIM": "other", "": "formatting"}, severities={"S1": "info"}
    )
    told = [
        as_profiled(Diagnostic(tool="t", code=code, message="m", category="style"), profile)
        for code in ("S101", "SIM1", "E5", "")
    ]
    assert [(one.category, one.severity) for one in told] == [
        ("security", "info"),
        ("other", "error"),
        ("formatting", "error"),
        ("formatting", "error"),
    ]
    plain = Diagnostic(tool="t", code="S1", message="m", category="type", severity="warning")
    assert as_profiled(plain, ToolProfile(command="x")) == plain


def finding(category="other", severity="error", tool="t", code="c") -> Diagnostic:
    return Diagnostic(tool=tool, category=category, severity=severity, code=code, message="m")


def test_what_diagnostics_come_to():
    found = [finding("type"), finding("style", "warning", "u"), finding("style", "info"), finding(code=MORE_FINDINGS)]
    assert summarise(found) == Summary(
        total_issues=3,
        issues_by_tool={"t": 2, "u": 1},
        issues_by_category={"style": 2, "type": 1},
        has_hard_fail=True,
        style_only=False,
        total_errors=1,
        total_warnings=1,
    )
    assert summarise([]) == Summary(
        total_issues=0,
        issues_by_tool={},
        issues_by_category={},
        has_hard_fail=False,
        style_only=False,
        total_errors=0,
        total_warnings=0,
    )


@pytest.mark.parametrize(
    ("categories", "hard", "style"),
    [
        (("style",), False, True),
        (("style", "formatting"), False, True),
        (("security",), False, False),
        (("style", "other"), False, False),
        (("style", "syntax"), True, False),
        (("type",), True, False),
        (("test_failure",), True, False),
    ],
)
def test_hard_fails_and_mere_style(categories, hard, style):
    found = [finding(category) for category in categories]
    summary = summarise(found)
    assert (summary.has_hard_fail, summary.style_only) == (hard, style)
    assert tolerable(found) is not hard
    assert not tolerable([*found, finding(code=MORE_FINDINGS)]), "what is not known may be a hard fail"
    assert not tolerable([])


@given(st.lists(st.sampled_from(["syntax", "type", "style", "formatting", "security", "test_failure", "other"])))
def test_nothing_hard_is_ever_tolerated(categories):
    found = [finding(category) for category in categories]
    assert tolerable(found) == (bool(categories) and not HARD_FAILS & set(categories))
    assert sum(summarise(found).issues_by_category.values()) == len(found)


def test_the_signature_is_that_of_the_words_whatever_the_category():
    assert error_signature([finding("style")]) == error_signature([finding("syntax", "warning")])
