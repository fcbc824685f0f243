"""What weakens the checks is found: protected files that nobody named, and tests that got fewer."""

import time

import msgspec
import pytest
from executor_rig import Bench, Run, git, sh
from hypothesis import given, settings
from hypothesis import strategies as st

from services.bundle import WorkstreamChecks
from services.checks import Checks, ChecksError, EffectiveChecks, parse_checks, resolve
from services.events import FixInput
from services.executor import python_tests
from services.executor.snapshot import changes
from services.executor.tampering import (
    ALWAYS_PROTECTED,
    TEST_BYTES_MAX,
    Counted,
    Counts,
    Protected,
    count,
    findings,
    protected_patterns,
    shrunk,
)
from services.git import Git
from services.profiles import ToolProfile
from services.spec import Definitions

# Protected paths

NONE = EffectiveChecks()


@pytest.mark.parametrize(
    "path",
    [
        ".gitattributes", "src/.gitignore", ".github/workflows/ci.yml", ".gitlab-ci.yml", ".circleci/config.yml",
        "azure-pipelines.yml", "ci/Jenkinsfile", "uv.lock", "web/package-lock.json", "go.sum", "swell.toml",
        "config/gates.yaml", "conftest.py", "tests/unit/conftest.py", "pytest.ini", "tox.ini", "ruff.toml", "mypy.ini",
        "tsconfig.build.json", ".pre-commit-config.yaml", "sitecustomize.py",
        # Twins
        "SWELL.TOML", ".GitHub/workflows/ci.yml", ".g\u200dithub/x", "\uff53well.toml", ".\u0262ithub".replace("\u0262", "\uff27") + "/x",
        "swell.toml.", "swell.toml ", ".github\\workflows\\ci.yml", "\u017fwell.toml", "Conftest.py", "con\ufb01g/gates.yaml",
    ],
)  # fmt: skip
def test_what_is_always_protected(path):
    assert Protected(protected_patterns(NONE)).covers(path)


@pytest.mark.parametrize(
    "path",
    ["src/a.py", "README.md", "pyproject.toml", "requirements.txt", "tests/test_a.py", "git/x.py", "swell.toml.md",
     "my-conftest.py", "docs/github.md", "src/config/gates.yaml"],
)  # fmt: skip
def test_what_is_nobodys_business(path):
    assert not Protected(protected_patterns(NONE)).covers(path)


def test_the_repository_adds_to_what_is_protected():
    checks = parse_checks(
        b'tool_profiles = "./tools/[x].json"\nplugins = "tools/plug"\nprotected = ["db/**", "*.SQL", "locked/"]',
        "swell.toml",
    )
    protected = Protected(protected_patterns(resolve(checks, None, None)))
    for path in ("tools/[x].json", "tools/plug/a/plugin.toml", "db/a/b", "x/y.sql", "X.sql", "a/locked/b"):
        assert protected.covers(path), path
    for path in ("tools/x.json", "tools/other", "dbs/a", "locked.txt"):
        assert not protected.covers(path), path


@pytest.mark.parametrize(
    ("text", "said"),
    [(b'protected = ["!a"]', "negation"), (b'protected = ["../a"]', "'..'"), (b'protected = "a"', "protected"),
     (b"protected = [" + b'"a",' * 101 + b"]", "more than 100")],
)  # fmt: skip
def test_what_cannot_be_protected_is_refused(text, said):
    with pytest.raises(ChecksError, match=said):
        parse_checks(text, "swell.toml")


def test_only_the_repository_says_what_is_protected():
    with pytest.raises(ChecksError, match="protected is read from the repository"):
        resolve(None, {"protected": []}, None)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_path_and_no_pattern_stops_the_comparison(path, pattern):
    Protected((*protected_patterns(NONE), pattern)).covers(path)


def test_many_paths_are_compared_at_once():
    protected = Protected((*protected_patterns(NONE), *(f"a{n}/**/b*c*/**/d" for n in range(100))))
    started = time.process_time()
    for n in range(10_000):
        protected.covers(f"src/package{n}/module/file.py")
    assert time.process_time() - started < 5


# Tests that get fewer

PYTHON = """
import pytest

class TestA:
    def test_one(self):
        assert a == 1 and b == 2

class Helper:
    def test_none(self): ...

def test_two():
    with pytest.raises(ValueError):
        f()
    self.assertEqual(1, 2)

if False:
    def test_never(): ...
    assert 1

@pytest.fixture
def test_data():
    return 1
    assert unreachable
    raise Odd

def check(x):
    assert x
    assert True
    assert (x, "always")
"""


def test_python_is_counted_by_what_can_run():
    assert python_tests.count(PYTHON) == (["test_one", "test_two"], 5, 0)
    assert python_tests.count("def test_a(): ...\ndef test_a(): ...\ntest_b = 1") == (["test_a"], 0, 0)
    assert python_tests.count("def test_a(): ...\ntest_a = None\n") == ([], 0, 0)
    assert python_tests.count("def f(:") is None


@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.skip\ndef test_a(): ...", "@mark.skipif(True)\ndef test_a(): ...", "@pytest.mark.xfail()\ndef test_a(): ...",
        "pytestmark = pytest.mark.skip(reason='')", "pytest.skip('', allow_module_level=True)", "raise unittest.SkipTest",
        "__test__ = False", "class A:\n    __test__ = 0", "pytest.importorskip('x')", "@unittest.skipIf(1, '')\nclass A: ...",
        "def test_a(self):\n    self.skipTest('')", "import os\nos._exit(0)", "collect_ignore = ['a']",
    ],
)  # fmt: skip
def test_marks_of_python_are_seen(text):
    found = python_tests.count(text)
    assert found is not None
    assert found[2] == 1
    assert python_tests.count(text.replace("skip", "keep")) != found or "skip" not in text


SCRIPT = """
import { it } from 'vitest'
describe("a", () => {
  it("adds", () => { expect(1).toBe(1); assert.equal(1, 1) })
  test.each([1])('many', () => { x.should.be(1) })
  // it("commented", () => {})
  /* it("as well", () => {}) */
  xit("old", () => {}); it.skip(`later`, () => {}); describe.only("x", () => {})
  const url = "http://x"; it('after', () => {})
})
"""
GO = """//go:build integration

package a
func TestA(t *testing.T) { if x { t.Fatalf("x") }; require.NoError(t, err) }
// func TestB(t *testing.T) {}
func FuzzC(f *testing.F) { f.Skip() }
func helper() {}
"""
RUST = """
fn add() {}
#[cfg(test)]
mod tests {
    #[test]
    fn one() { assert_eq!(1, '"'); }
    #[tokio::test]
    #[ignore]
    async fn two() { assert!(true); }
    // #[test] fn three() {}
    #[cfg(target_os = "linux")]
    fn helper<'a>() {}
}
"""


@pytest.mark.parametrize(
    ("path", "text", "tests", "assertions", "marks"),
    [
        ("a.test.ts", SCRIPT, {"adds", "", "later", "after"}, 3, 3),
        ("a_test.go", GO, {"TestA", "FuzzC"}, 2, 2),
        ("src/lib.rs", RUST, {"one", "two"}, 2, 1),
        ("tests/test_a.py", "def test_a(:\n  assert x\n  # def test_b\n", {"test_a"}, 1, 0),
        ("tests/helper.py", "def test_a(:\n  assert x\n", set(), 1, 0),
    ],
)
def test_other_languages_are_counted_by_patterns(path, text, tests, assertions, marks):
    found = count(path, text.encode())
    assert (found.tests, found.assertions, found.marks) == (tests, assertions, marks)


def counts(path, before, after):
    """Numbers of (tests by name, assertions, marks) before and after; None for no file."""
    sides = [
        None if side is None else Counted(tests=frozenset(side[0]), assertions=side[1], marks=side[2])
        for side in (before, after)
    ]
    return Counts(path=path, before=sides[0], after=sides[1])


@pytest.mark.parametrize(
    ("given_counts", "said"),
    [
        ([("a", ("xy", 2, 0), ("xy", 2, 0))], []),
        ([("a", ("xy", 2, 0), ("xz", 3, 0))], []),  # renamed
        ([("a", ("xy", 2, 0), ("x", 2, 0))], ["a: holds fewer tests than before: y"]),
        ([("a", ("xy", 2, 0), None)], ["a: is a test file that was deleted"]),
        ([("a", ("xy", 2, 0), ("xy", 1, 0))], ["a: holds 1 assertions, 1 fewer than before"]),
        ([("a", ("xy", 2, 0), ("xy", 2, 1))], ["a: marks more tests"]),
        ([("a", ("xy", 2, 0), None), ("b", None, ("xy", 2, 0))], []),  # moved
        ([("a", ("xy", 2, 0), ("x", 1, 0)), ("b", None, ("y", 1, 0))], []),  # split
        ([("a", ("xy", 2, 0), None), ("b", None, ("y", 2, 0))], ["a: is a test file that was deleted"]),
        ([("a", ("xy", 2, 0), None), ("b", None, ("pq", 2, 0))], ["a: is a test file that was deleted"]),
        ([("a", ("xy", 2, 0), None), ("b", None, ("xy", 1, 0))], ["a: holds 1 assertions, 1 fewer"]),
        ([("a", ("x", 1, 0), None), ("b", ("x", 1, 0), None), ("c", None, ("x", 1, 0))], ["b: is a test file"]),
        ([("b", None, ("xy", 2, 5))], []),  # new ones may be as they like
        ([("a", ("", 2, 0), None)], ["a: holds 0 assertions, 2 fewer"]),  # what tests share
    ],
)  # fmt: skip
def test_what_counts_as_fewer(given_counts, said):
    lines = shrunk([counts(*one) for one in given_counts])
    assert len(lines) == len(said), lines
    assert all(line.startswith(beginning) for line, beginning in zip(lines, said, strict=True)), lines


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd"))), max_size=4))
def test_something_is_said_exactly_when_a_test_is_lost(files):
    """With one assertion in each test; a name is the same test wherever it stands, and moves but once."""
    lines = shrunk([counts(f"f{n}", (old, 0, 0), (new, 0, 0)) for n, (old, new) in enumerate(files)])
    before, after = sum(len(old) for old, _ in files), sum(len(new) for _, new in files)
    if before > after:
        assert lines
    if all(old <= new for old, new in files):
        assert not lines


@given(st.sampled_from(["a.test.js", "a_test.go", "tests/a.rs", "test_a.py", "a_test.rb"]), st.binary(max_size=300))
def test_any_bytes_can_be_counted(path, data):
    count(path, data)
    python_tests.count(data.decode("utf-8", "replace"))


@pytest.mark.parametrize("path", ["a.test.js", "a_test.go", "tests/a.rs", "test_a.py"])
@pytest.mark.parametrize(
    "piece", ["`", "\\`", "'", '"', "it(", "it.a", "it('", "/*", "assert.", "#[test", "#[test]\n#[x]", "#[cfg(", "test.only", " "]
)  # fmt: skip
def test_no_text_keeps_the_patterns_busy(path, piece):
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    count(path, text.encode())
    assert time.process_time() - started < 2


# On a repository


async def found_in(folder, before, after, named=(), **checks):
    """What is found between two commits of these files; None deletes one."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "--quiet")
    trees = []
    for files in (before, after):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_text(content)
        git(folder, "add", "--all")
        trees.append(git(folder, "write-tree"))
    program = Git(folder)
    return await findings(
        program, await changes(program, *trees), named=frozenset(named), checks=msgspec.structs.replace(NONE, **checks)
    )


TWO = "def test_a():\n    assert f()\n\ndef test_b():\n    assert g()\n"
ONE = "def test_a():\n    assert f()\n"


async def test_files_are_counted_before_and_after(tmp_path):
    before = {
        "tests/test_x.py": TWO,
        "tests/test_y.py": TWO,
        "a.py": "",
        "spec/a_spec.rb": "x",
        "tests/data.json": "{}",
    }
    after = {
        "tests/test_x.py": ONE,
        "tests/test_y.py": None,
        "tests/test_z.py": TWO,
        "spec/a_spec.rb": None,
        "tests/data.json": None,
    }
    assert await found_in(tmp_path / "r", before, after) == [
        "spec/a_spec.rb: is a test file that was deleted",
        "tests/test_x.py: holds fewer tests than before: test_b",
    ]
    assert await found_in(tmp_path / "s", before, after, tests_may_shrink=True) == []


async def test_a_test_that_becomes_something_else_is_gone(tmp_path):
    before = {"test_x.py": TWO, "test_y.py": TWO, "test_z.py": TWO}
    after = {
        "test_x.py": None,
        "x.py": TWO,
        "test_y.py": "#" * (TEST_BYTES_MAX + 1),
        "test_z.py": "def test_a(:\n  assert f()\n",
    }
    assert await found_in(tmp_path / "r", before, after) == [
        "test_x.py: is a test file that was deleted",
        "test_y.py: is a test file that was deleted",
        "test_z.py: holds fewer tests than before: test_b",
    ]


async def test_a_text_that_ends_the_parser_is_counted_by_patterns(tmp_path, monkeypatch):
    monkeypatch.setattr("services.executor.tampering.PARSE_TIMEOUT_S", 0.0)
    assert await found_in(tmp_path / "r", {"test_x.py": TWO}, {"test_x.py": ONE}) == [
        "test_x.py: holds fewer tests than before: test_b"
    ]


PROJECT = '[project]\nname = "a"\n[tool.ruff]\nselect = ["ALL"]\n'


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pyproject.toml", PROJECT, PROJECT + "[tool.uv]\nx = 1\n", None),
        ("pyproject.toml", PROJECT, PROJECT.replace('"ALL"', ""), "tool.ruff"),
        ("pyproject.toml", PROJECT, PROJECT + "[tool.pytest.ini_options]\naddopts = '-k none'", "tool.pytest"),
        ("pyproject.toml", PROJECT, "[", "cannot be read, tool.ruff"),
        ("sub/pyproject.toml", None, PROJECT, "tool.ruff"),
        ("PyProject.toml", None, PROJECT, "tool.ruff"),
        ("pyproject.toml", PROJECT, None, "tool.ruff"),
        ("setup.cfg", "[metadata]\nname=a\n", "[metadata]\nname=b\n", None),
        ("setup.cfg", "[metadata]\nname=a\n", "[tool:pytest]\naddopts=-x\n[mypy-a.*]\nignore_errors=1\n", "mypy-a.*, tool:pytest"),
        ("package.json", '{"version": "1", "scripts": {"test": "jest"}}', '{"version": "2", "scripts": {"test": "jest"}}', None),
        ("package.json", '{"scripts": {"test": "jest"}}', '{"scripts": {"test": "true"}}', "scripts"),
        ("package.json", "{}", "[" * 5000, "cannot be read"),
    ],
)  # fmt: skip
async def test_of_some_files_only_what_is_about_checking_is_protected(tmp_path, name, old, new, said):
    found = await found_in(tmp_path / "r", {"a": "", **({} if old is None else {name: old})}, {name: new})
    if said is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"{name}: changes ")
        assert said in line
        assert (
            await found_in(tmp_path / "s", {"a": "", **({} if old is None else {name: old})}, {name: new}, named=[name])
            == []
        )


# In a step


async def test_only_a_name_allows_what_a_glob_covers(bench: Bench, tmp_path):
    run = Run(tmp_path, {"tool": sh("echo x >> a.txt; echo x > swell.toml")}, files_scope=("**",), files_create=("**",))
    done = await bench.do(run)
    assert (done.ok, done.error_class, done.files) == (False, "tampering", ["a.txt", "swell.toml"])
    assert done.violations == [
        "swell.toml: is protected, and no entry of files_scope or files_create names this very path"
    ]
    assert done.message == f"changed what judges it: {done.violations[0]}"
    assert bench.content(run, done.snapshot, "swell.toml") == "x"
    assert {artifact.role for artifact in done.artifacts} >= {"patch", "names", "bundle"}
    named = Run(tmp_path, run.spec.profiles, files_scope=("a.txt",), files_create=("swell.toml",))
    assert (await bench.do(named)).ok


@pytest.mark.parametrize(("swell", "error_class"), [({}, "tampering"), ({"tests_may_shrink": True}, None)])
@pytest.mark.parametrize("step", ["edit", "fix"])
async def test_tests_of_the_base_may_not_get_fewer_unless_the_bundle_says_so(
    bench: Bench, tmp_path, step, swell, error_class
):
    Run(tmp_path, {})
    (tmp_path / "repo/test_a.py").write_text(TWO)
    git(tmp_path / "repo", "add", "--all")
    git(tmp_path / "repo", "commit", "--quiet", "--message", "tests")
    run = Run(
        tmp_path,
        {"tool": sh("head -n 2 test_a.py > x; mv x test_a.py")},
        files_scope=("*.py",),
        metadata={"swell": swell},
    )
    done = await bench.do(run, step)
    assert done.error_class == error_class
    assert done.violations == ([] if error_class is None else ["test_a.py: holds fewer tests than before: test_b"])
    assert WorkstreamChecks().tests_may_shrink is False


async def test_what_is_beyond_the_scope_as_well_is_told_with_it(bench: Bench, tmp_path):
    """As a broken scope: that is not to be had by approving what judges the work."""
    done = await bench.do(Run(tmp_path, {"tool": sh("echo x > stray; echo x > .gitattributes")}))
    assert done.error_class == "scope_violation"
    assert done.violations[1:] == [".gitattributes", "stray"]


async def test_conflict_markers_come_before_what_else_a_fix_has_done(bench: Bench, tmp_path):
    mark = "a" * 40
    marked = f'printf "<<<<<<< {mark}\\nx\\n=======\\ny\\n>>>>>>> {mark}\\n" > a.txt; echo x > uv.lock'
    run = Run(tmp_path, {"tool": sh(marked)}, files_create=("*",))
    done = await bench.do(run, "fix", fix=FixInput(step="merge", attempt=1))
    assert (done.error_class, done.conflicts) == ("merge_conflict", ["a.txt"])


async def test_what_an_edit_keeps_in_its_cache_no_check_reads(bench: Bench, tmp_path):
    tools = {
        "tool": sh('echo new > a.txt; touch "$SWELL_CACHE_DIR/poison"'),
        "check": sh('test ! -e "$SWELL_CACHE_DIR/poison"'),
    }
    run = Run(tmp_path, tools)
    done = await bench.do(run)
    checks = Definitions(run.spec).static("ws-a")
    assert (await bench.do(run, "static", input=done.snapshot, checks=checks)).ok


@pytest.mark.parametrize(
    "path", ["pytest.toml", ".pytest.toml", ".cargo/config.toml", "vite.config.ts", ".npmrc", "bunfig.toml"]
)
def test_what_checkers_read_is_protected(path):
    assert Protected(ALWAYS_PROTECTED).covers(path)


async def test_what_a_person_has_approved_is_not_looked_for_again(bench: Bench, tmp_path):
    tools = {"tool": sh("echo x >> a.txt; echo x > swell.toml")}
    run = Run(tmp_path, tools, files_scope=("**",), files_create=("**",))
    assert (await bench.do(run, trusted=True)).ok


async def test_a_workstream_changes_nothing_of_what_judges_it(bench: Bench, tmp_path):
    """Though it may: its own `swell.toml` and tool profiles, named one by one, say that nothing is checked."""
    Run(tmp_path, {})
    (tmp_path / "repo/swell.toml").write_text('static_tools = ["check"]\ntool_profiles = "profiles.json"\n')
    (tmp_path / "repo/profiles.json").write_text(
        '{"check": {"type": "test", "command": "grep", "args": ["-q", "good", "a.txt"]}}'
    )
    git(tmp_path / "repo", "add", "--all")
    git(tmp_path / "repo", "commit", "--quiet", "--message", "checks")
    softening = sh(
        """echo 'static_tools = []' > swell.toml; echo '{"check": {"type": "test", "command": "true"}}' > profiles.json"""
    )
    check = ToolProfile(type="test", command="grep", args=("-q", "good", "a.txt"))
    run = Run(tmp_path, {"tool": softening, "check": check}, files_scope=("swell.toml", "profiles.json"))
    run.spec = msgspec.structs.replace(run.spec, checks=Checks(static_tools=("check",), tool_profiles="profiles.json"))
    edited = await bench.do(run)
    assert (edited.ok, edited.files) == (True, ["profiles.json", "swell.toml"])
    checks = Definitions(run.spec).static("ws-a")
    for step in ("static", "gate"):
        judged = await bench.do(run, step, input=edited.snapshot, checks=checks)
        assert (judged.ok, judged.error_class) == (False, "check_failed")
