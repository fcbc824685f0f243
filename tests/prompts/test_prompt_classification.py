"""How work is classified, and who is asked to do it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bundle import WorkstreamBundle
from services.executor.prompts import Classification, classify, family, role


def work(files=1, tasks=("Add a thing",), gate=1, **fields):
    scope = files if isinstance(files, tuple) else tuple(f"src/m{n}.py" for n in range(files))
    return WorkstreamBundle(
        id="ws-a", openspec_change="OS-1", ccpm_issue=1, gate=gate, files_scope=scope, tasks=tuple(tasks), tool="aider",
        **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("files", "tasks", "expected"),
    [
        (1, 0, "simple"),
        (2, 3, "simple"),
        (2, 4, "moderate"),
        (3, 3, "moderate"),
        (5, 5, "moderate"),
        (5, 6, "complex"),
        (6, 1, "complex"),
        (1, 99, "complex"),
        (10, 50, "complex"),
        (11, 1, "enterprise"),
    ],
)
def test_complexity_is_by_files_and_tasks(files, tasks, expected):
    assert classify(work(files, ["Add"] * tasks)).complexity == expected


def test_files_to_create_do_not_count():
    assert classify(work(1, files_create=tuple("abcdefghijkl"))).complexity == "simple"


@pytest.mark.parametrize(("gate", "expected"), [(1, "standard"), (2, "production"), (9, "production")])
def test_quality_is_by_gate(gate, expected):
    assert classify(work(gate=gate)).quality == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("src/a.py",), "code"),
        (("docs/a.md",), "docs"),
        (("README.MD", "src/a.py"), "docs"),
        (("tests/a.py",), "tests"),
        (("src/Latest.py",), "tests"),
        (("tests/readme.md",), "docs"),
        (("docs/a.rst",), "code"),
    ],
)
def test_domain_is_by_paths_and_docs_come_first(files, expected):
    assert classify(work(files)).domain == expected


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (("Add a thing",), "feature"),
        ((), "feature"),
        (("Fix it", "then REFACTOR it"), "refactor"),
        (("Fix it, and review it",), "bugfix"),
        (("Debug it",), "bugfix"),
        (("Add a prefix",), "bugfix"),
        (("Analyze it",), "analysis_only"),
        (("Review it",), "analysis_only"),
        (("Preview it",), "analysis_only"),
    ],
)
def test_operation_is_by_the_first_word_that_matches(tasks, expected):
    assert classify(work(tasks=tasks)).operation == expected


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, Classification()),
        ({"complexity": "enterprise", "quality": "production"}, Classification(complexity="enterprise", quality="production")),
        ({"domain": "analysis", "operation": "analysis_only"}, Classification(domain="analysis", operation="analysis_only")),
        ({"domain": "{{ 7*7 }}", "complexity": 3, "operation": ["bugfix"], "other": 1}, Classification()),
    ],
)  # fmt: skip
def test_what_is_declared_replaces_what_would_be_inferred(declared, expected):
    bundle = work(11, ["Fix"], 2, metadata={"classification": declared})
    assert classify(bundle) == expected


@pytest.mark.parametrize("declared", [None, "simple", ["simple"], 3])
def test_what_is_not_an_object_declares_nothing(declared):
    assert classify(work(11, metadata={"classification": declared})).complexity == "enterprise"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("simple", "standard", "code", "refactor"), "Software Engineer specializing in code refactoring"),
        (
            ("moderate", "standard", "docs", "feature"),
            "experienced Technical Writer specializing in feature development",
        ),
        (("complex", "production", "tests", "bugfix"), "Senior QA Engineer specializing in debugging"),
        (("enterprise", "standard", "analysis", "analysis_only"), "Principal Code Reviewer focused on code analysis"),
    ],
)
def test_a_role_is_experience_profession_and_speciality(words, expected):
    assert (
        role(Classification(**dict(zip(("complexity", "quality", "domain", "operation"), words, strict=True))))
        == expected
    )


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("aider", "aider"),
        ("Aider", "aider"),
        ("aider-fast", "aider"),
        ("codex", "codex"),
        ("codex_cli", "codex"),
        ("claude", "universal"),
        ("claude-cli", "universal"),
        ("raider", "universal"),
        ("aiderx", "universal"),
        ("", "universal"),
    ],
)
def test_aider_and_codex_have_templates_of_their_own(tool, expected):
    assert family(tool) == expected


@given(
    st.integers(1, 30), st.lists(st.text()), st.integers(1, 99),
    st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)  # fmt: skip
def test_every_bundle_has_a_classification_and_always_the_same(files, tasks, gate, declared):
    bundle = work(files, tasks, gate, metadata={"classification": declared})
    assert classify(bundle) == classify(bundle)
    assert role(classify(bundle))
