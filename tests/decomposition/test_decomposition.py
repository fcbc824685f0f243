"""Decomposition: limits, groups, inferred dependencies and priorities, from whatever files in whatever order."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bundle import encode_bundles, parse_bundles
from services.config import load_yaml
from services.decomposition import (
    PATTERNS_MAX,
    DecompositionError,
    FileChange,
    Migration,
    decompose,
    migrated_files,
    parse_request,
    parse_rules,
    requested_files,
)
from services.plan import build_execution_plan

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "decomposition_rules.yaml"
RULES = parse_rules(load_yaml(SHIPPED, 1 << 20), str(SHIPPED))


def request(**changes):
    fields = {"change": "OS-042", "issue": 7, "text": "Rename the field", "tool": "claude", "files": ["a.py"]}
    return parse_request({**fields, **changes}, "request.yaml")


def made(files, rules=RULES, **changes):
    asked = request(files=files, **changes)
    return decompose(asked, requested_files(asked), rules)


def scopes(decomposition):
    return [list(bundle.files_scope) for bundle in decomposition.bundles]


SEGMENTS = st.sampled_from(["src", "docs", "tests", "a", "b", "[slug]", "deploy"])
NAMES = st.sampled_from(["x.py", "test_x.py", "y.sql", "z.md", "w.go", "v", "ü.proto", "Makefile", "q.ts"])
PATHS = st.builds(
    lambda folders, name, n: "/".join([*folders, f"{n}{name}"]),
    st.lists(SEGMENTS, max_size=3),
    NAMES,
    st.integers(0, 30),
)
REASONS = st.sampled_from(
    ["", "fix the crash", "a typo", "make it faster", "rename", "rename it there", "split", "move", "cut", "add"]
)
FILES = st.lists(
    st.builds(
        lambda path, lines, reason: {"path": path, "lines": lines, "reason": reason}, PATHS, st.integers(0, 80), REASONS
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda file: file["path"],
)
LIMITS = st.fixed_dictionaries(
    {
        "max_files_per_workstream": st.integers(1, 12),
        "max_tasks_per_workstream": st.integers(2, 8),
        "max_lines_changed_per_workstream": st.integers(1, 90),
    }
)


@given(FILES, LIMITS, st.text(min_size=1, max_size=30).filter(str.strip), st.randoms(use_true_random=False))
def test_whatever_is_decomposed_is_valid_within_its_limits_and_the_same_in_any_order(files, limits, change, shuffled):
    rules = parse_rules({**load_yaml(SHIPPED, 1 << 20), "workstream_limits": limits}, "rules")
    try:
        found = made(files, rules, change=change)
    except DecompositionError as error:
        assert error.code == "BAD_REQUEST"  # noqa: PT017 - a text with half of a surrogate pair
        return
    assert parse_bundles([("bundles.json", encode_bundles(found.bundles))]) == found.bundles
    build_execution_plan(found.bundles)
    listed = [path for bundle in found.bundles for path in bundle.files_scope]
    assert sorted(listed) == sorted(file["path"] for file in files)
    lines = {file["path"]: file["lines"] for file in files}
    for bundle in found.bundles:
        assert len(bundle.files_scope) <= limits["max_files_per_workstream"]
        assert len(bundle.tasks) <= limits["max_tasks_per_workstream"]
        total = sum(lines[path] for path in bundle.files_scope)
        assert total <= limits["max_lines_changed_per_workstream"] or len(bundle.files_scope) == 1
    scores = [part.score for part in found.explanation.workstreams]
    assert scores == sorted(scores, reverse=True)
    shuffled.shuffle(files)
    assert made(files, rules, change=change) == found


def test_the_limits_are_ten_files_seven_tasks_and_fifty_lines():
    limits = RULES.workstream_limits
    assert limits.max_files_per_workstream == 10
    assert limits.max_tasks_per_workstream == 7
    assert limits.max_lines_changed_per_workstream == 50


@pytest.mark.parametrize(
    ("files", "sizes", "opened"),
    [
        ([f"{n:02}.py" for n in range(23)], [10, 10, 3], ["group", "files", "files"]),
        ([{"path": f"{n}.py", "lines": 20} for n in range(5)], [2, 2, 1], ["group", "lines", "lines"]),
        ([{"path": f"{n}.py", "reason": f"do {n}"} for n in range(8)], [6, 2], ["group", "tasks"]),
        ([{"path": f"{n}.py", "reason": "the same"} for n in range(8)], [8], ["group"]),
        ([{"path": "big.py", "lines": 51}, "small.py"], [1, 1], ["group", "lines"]),
    ],
)
def test_a_workstream_ends_at_the_first_limit_it_reaches(files, sizes, opened):
    found = made(files)
    assert [len(scope) for scope in scopes(found)] == sizes
    assert [part.opened_by for part in found.explanation.workstreams] == opened


def test_a_file_that_alone_exceeds_the_lines_is_told():
    found = made([{"path": "big.py", "lines": 51}, "small.py"])
    assert [(f.code, f.workstream) for f in found.explanation.findings] == [("FILE_OVER_LIMIT", "ws-os-042-001-python")]
    assert "51 lines" in found.explanation.to_text()


def test_the_first_rule_that_matches_makes_the_group():
    found = made(["docs/conf.py", "tests/test_a.py", "src/a.py", "api/x.proto", "logo.png"])
    assert [part.group for part in found.explanation.workstreams] == [
        "schemas", "documentation", "tests", "python", "other",
    ]  # fmt: skip
    assert [bundle.kind for bundle in found.bundles] == ["impl", "docs", "test", "impl", "impl"]


def test_the_order_of_the_rules_is_that_of_the_file():
    groups = {"a": {"patterns": ["*.py"]}, "b": {"patterns": ["src"]}}
    for order in (["a", "b"], ["b", "a"]):
        rules = parse_rules({"group_by": {"directory": {name: groups[name] for name in order}}}, "rules")
        assert made(["src/x.py"], rules).explanation.workstreams[0].group == order[0]


def test_what_a_rule_names_first_waits_for_what_it_names_second():
    inference = {
        "users": {"if_files_changed": ["src"], "then_depends_on_workstreams_changing": ["api"]},
    }
    groups = {"directory": {"src": {"patterns": ["src"]}, "api": {"patterns": ["api"]}}}
    found = made(
        ["src/a.py", "api/b.py"], parse_rules({"group_by": groups, "dependency_inference": inference}, "rules")
    )
    source, api = found.bundles
    assert (source.depends_on, api.depends_on) == ((api.id,), ())
    assert [(one.on, one.rule) for one in found.explanation.workstreams[0].depends_on] == [(api.id, "users")]
    assert f"after {api.id} (users)" in found.explanation.to_text()


def test_code_waits_for_schemas_as_the_description_of_the_shipped_rule_says():
    found = made(["db/a.sql", "src/a.py"])
    schema, code = found.bundles
    assert schema.files_scope == ("db/a.sql",)
    assert (schema.depends_on, code.depends_on) == ((), (schema.id,))


def test_rules_that_make_a_circle_are_refused_with_the_circle_and_the_rules():
    inference = {
        "there": {"if_files_changed": ["a"], "then_depends_on_workstreams_changing": ["b"]},
        "back": {"if_files_changed": ["b"], "then_depends_on_workstreams_changing": ["a"]},
    }
    groups = {"directory": {"a": {"patterns": ["a"]}, "b": {"patterns": ["b"]}}}
    rules = parse_rules({"group_by": groups, "dependency_inference": inference}, "rules")
    with pytest.raises(DecompositionError) as caught:
        made(["a/x", "b/x"], rules)
    assert caught.value.code == "CYCLIC_INFERENCE"
    assert "ws-os-042-001-a -[there]-> ws-os-042-002-b -[back]-> ws-os-042-001-a" in str(caught.value)
    assert caught.value.remedy
    assert len(made(["a/x", "a/y"], rules).bundles) == 1, "a workstream never waits for itself"


def test_a_long_circle_is_named_and_counted():
    names = [f"g{n}" for n in range(4)]
    inference = {
        f"r{n}": {"if_files_changed": [name], "then_depends_on_workstreams_changing": [names[n - 1]]}
        for n, name in enumerate(names)
    }
    groups = {"directory": {name: {"patterns": [name]} for name in names}}
    with pytest.raises(DecompositionError, match=r"-\[r0\]-> .* -\[r3\]-> .* -\[r2\]-> .* -\[r1\]-> "):
        made([f"{name}/x" for name in names], parse_rules({"group_by": groups, "dependency_inference": inference}, "r"))


@pytest.mark.parametrize(
    ("text", "reason", "score", "rule"),
    [
        ("Rename the field", "", 50, ""),
        ("Fix the crash", "", 100, "bug_fixes"),
        ("BUG: it is slow", "", 100, "bug_fixes"),
        ("It is slow", "", 80, "performance"),
        ("Fix the crash", "a typo", 10, "cosmetic"),
        ("A prefix and a suffix", "", 50, ""),
        ("A bug-fix", "", 100, "bug_fixes"),
    ],
)
def test_the_highest_keyword_of_the_reason_else_of_the_text_is_the_score(text, reason, score, rule):
    found = made([{"path": "a.py", "reason": reason}], text=text)
    (part,) = found.explanation.workstreams
    assert (part.score, part.scored_by) == (score, rule)
    assert found.bundles[0].priority == ("background" if score < 20 else "foreground")


def test_a_plan_takes_a_higher_score_first():
    found = made([{"path": "a.py", "reason": "a typo"}, "b.py", {"path": "c.py", "reason": "fix it"}])
    (wave,) = build_execution_plan(found.bundles).waves
    by_id = {bundle.id: bundle.files_scope for bundle in found.bundles}
    assert [by_id[id_] for id_ in wave] == [("c.py",), ("b.py",), ("a.py",)]


def test_tasks_are_the_text_and_one_for_each_reason():
    found = made(
        [{"path": "a.py", "reason": "cut"}, {"path": "b.py", "reason": "cut"}, {"path": "c.py", "reason": "add"}]
    )
    assert found.bundles[0].tasks == ("Rename the field", "a.py, b.py: cut", "c.py: add")


def test_paths_that_fill_a_task_are_counted():
    files = [{"path": f"{'d/' * 30}{'n' * 1900}{n}.py", "reason": "cut"} for n in range(9)]
    (bundle,) = made(files).bundles
    assert bundle.tasks[1].endswith(" and 5 more: cut")


def test_what_every_workstream_shares_is_handed_on():
    found = made(
        ["a.py"], acceptance_tests=["pytest -q"], gate=2, max_cost_usd=1.5, capability="refactoring", issue="ISSUE-9"
    )  # fmt: skip
    (bundle,) = found.bundles
    assert (bundle.acceptance_tests, bundle.gate, bundle.max_cost_usd) == (("pytest -q",), 2, 1.5)
    assert (bundle.capability, bundle.ccpm_issue, bundle.openspec_change, bundle.tool) == (
        "refactoring", "ISSUE-9", "OS-042", "claude",
    )  # fmt: skip


# Migrations

MIGRATION = Migration(pattern="Optional", task="Rewrite {count} lines of {path}", files=("src/**",), exclude=("*.pyi",))


def test_a_migration_takes_the_files_it_names_with_its_task_for_each():
    found = migrated_files(MIGRATION, {"src/a.py": 3, "src/b.pyi": 1, "lib/c.py": 2})
    assert found == [FileChange(path="src/a.py", lines=3, reason="Rewrite 3 lines of src/a.py")]
    bundles = decompose(request(files=[], migration={"pattern": "x", "task": "y"}), found, RULES).bundles
    assert bundles[0].tasks[1] == "Rewrite 3 lines of src/a.py"


@pytest.mark.parametrize(
    ("matching", "code"),
    [
        ({}, "NO_FILES"),
        ({"lib/a.py": 1}, "NO_FILES"),
        ({"src/\\xff.py": 1}, "INVALID_PATH"),
        ({"src/ x": 1, "src/y ": 1}, "INVALID_PATH"),
        ({f"src/{n}.py": 1 for n in range(20_001)}, "TOO_MANY_FILES"),
    ],
)
def test_a_migration_that_cannot_be_made_is_refused(matching, code):
    with pytest.raises(DecompositionError) as caught:
        migrated_files(MIGRATION, matching)
    assert caught.value.code == code
    assert "`" in caught.value.remedy, "it names the key of the request to mend"


def test_a_task_that_grows_too_long_is_refused():
    growing = Migration(pattern="x", task="{path}" * 300)
    with pytest.raises(DecompositionError, match="characters") as caught:
        migrated_files(growing, {"d/" * 30 + "x": 1})
    assert caught.value.code == "TASK_TOO_LONG"


# Hostile input


@pytest.mark.parametrize(
    ("rules", "message", "remedy"),
    [
        ({"workstream_limit": {}}, "unknown field `workstream_limit`", "'workstream_limits'"),
        ({"workstream_limits": {"max_files": 1}}, "unknown field `max_files`", "max_files_per_workstream"),
        ({"workstream_limits": {"max_tasks_per_workstream": 1}}, ">= 2", "max_tasks_per_workstream"),
        ({"group_by": {"size": {}}}, "size", "group_by"),
        ({"group_by": {"language": {"x": {"patterns": []}}}}, "length", "patterns"),
        ({"group_by": {"language": {"A b": {"patterns": ["x"]}}}}, "matching regex", "patterns"),
        ({"group_by": {"language": {"x": {"patterns": ["!x"]}}}}, "negation", "what the workstream may touch"),
        ({"group_by": {"language": {"x": {"patterns": ["/x"]}}}}, "absolute", "relative"),
        ({"group_by": {"language": {"x": {"patterns": ["*"], "pattern": []}}}}, "`pattern`", "'patterns'"),
        ({"dependency_inference": {"x": {"if_files_changed": ["x"]}}}, "missing", "then_depends_on"),
        ({"prioritization": {"x": {"keywords": ["x"], "priority_score": 1001}}}, "<= 1000", "priority_score"),
        (
            {"group_by": {"language": {str(n): {"patterns": ["x", "y"]} for n in range(PATTERNS_MAX)}}},
            f"400 patterns are more than {PATTERNS_MAX}",
            "fewer",
        ),
        (
            {"prioritization": {"x": {"keywords": ["x"] * 150, "priority_score": 1}, "y": {"keywords": ["x"] * 51, "priority_score": 1}}},
            "201 keywords",
            "fewer",
        ),
        (["group_by"], "Expected `object`", "group_by"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_used_are_refused_with_the_key_and_the_remedy(rules, message, remedy):
    with pytest.raises(DecompositionError) as caught:
        parse_rules(rules, "rules.yaml")
    assert caught.value.code == "BAD_RULES"
    assert "rules.yaml" in str(caught.value)
    assert message in str(caught.value)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"file": ["a"]}, "BAD_REQUEST", "`file`"),
        ({"text": ""}, "BAD_REQUEST", "length"),
        ({"text": "x" * 16_001}, "BAD_REQUEST", "length"),
        ({"text": "a\0b"}, "BAD_REQUEST", "NUL"),
        ({"tool": "\ud800"}, "BAD_REQUEST", "surrogate"),
        ({"files": []}, "NO_FILES", "files"),
        ({"migration": {"pattern": "x", "task": "y"}}, "BAD_REQUEST", "one of them"),
        ({"files": [], "migration": {"pattern": "x", "task": "y", "files": ["../x"]}}, "BAD_REQUEST", "'..'"),
        ({"files": [{"path": "a", "line": 1}]}, "BAD_REQUEST", "`line`"),
        ({"files": [{"path": "a", "lines": -1}]}, "BAD_REQUEST", ">= 0"),
        ({"files": ["../a"]}, "INVALID_PATH", "'..'"),
        ({"files": [".git/config"]}, "INVALID_PATH", ".git"),
        ({"files": ["/etc/passwd"]}, "INVALID_PATH", "absolute"),
        ({"files": ["a.py", "./a.py"]}, "DUPLICATE_FILE", "'a.py'"),
        ({"files": ["a"] * 20_001}, "BAD_REQUEST", "length"),
        ({"max_cost_usd": float("nan")}, "BAD_REQUEST", "Expected"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused(changes, code, message):
    with pytest.raises(DecompositionError) as caught:
        requested_files(request(**changes))
    assert (caught.value.code, bool(caught.value.remedy)) == (code, True)
    assert message in str(caught.value)


def test_more_workstreams_or_dependencies_than_a_run_takes_are_refused():
    each = {"workstream_limits": {"max_files_per_workstream": 1}}
    files = [f"src/{n}" for n in range(10_001)]
    with pytest.raises(DecompositionError, match="10001 workstreams"):
        made(files, parse_rules(each, "rules"))
    all_on_all = {"x": {"if_files_changed": ["src"], "then_depends_on_workstreams_changing": ["src"]}}
    with pytest.raises(DecompositionError, match="more than 100000 dependencies"):
        made(files[:400], parse_rules({**each, "dependency_inference": all_on_all}, "rules"))


def test_thousands_of_files_are_decomposed():
    draw = random.Random(1)
    files = [f"src/{draw.randrange(100)}/{n}.{draw.choice(['py', 'sql', 'md', 'go', 'x'])}" for n in range(3_000)]
    with pytest.raises(DecompositionError, match="dependencies"):
        made(
            files,
            parse_rules({**load_yaml(SHIPPED, 1 << 20), "workstream_limits": {"max_files_per_workstream": 1}}, "r"),
        )
    found = made(files)
    assert sum(map(len, scopes(found))) == 3_000
