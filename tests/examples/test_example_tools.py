"""The shipped examples: their tools repair what they say, and their workstreams end as their READMEs promise."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flow import EXAMPLES, Flow, bundles, levels

from examples import demo
from examples.materialise import materialise
from examples.thirdparty.make import make
from services.bundle import load_and_validate_bundles
from services.profiles import load_tool_profiles

TOOLS = EXAMPLES / "tools"
REQUIRED = {"id", "openspec_change", "ccpm_issue", "gate", "files_scope", "tasks", "tool"}
TIMEOUT_S = 60

# Rule, source before, source after. `None` after: left alone.
RULES = [
    ("bare-except", "try:\n    f()\nexcept:\n    pass\n", "try:\n    f()\nexcept Exception:\n    pass\n"),
    (
        "builtin-generics",
        "from typing import Any, List\nx: List[Any] = []\n",
        "from typing import Any\nx: list[Any] = []\n",
    ),
    ("builtin-generics", "from typing import List\nclass A:\n    def list(self) -> List[int]: ...\n", None),
    (
        "docstring-types",
        'def f(x, y=None, z=1):\n    """F.\n\n    :param int x: it\n    :type y: str\n    :rtype: list[str] or None\n    """\n    return g(x)\n',
        (
            'def f(x: int, y: str | None = None, z: int = 1) -> list[str] | None:\n    """F.\n\n    :param int x: it\n'
            '    :type y: str\n    :rtype: list[str] or None\n    """\n    return g(x)\n'
        ),
    ),
    (
        "docstring-types",
        'class A:\n    """A.\n\n    :ivar list[A] b: them\n    """\n    def __init__(self):\n        self.b = []\n',
        'class A:\n    """A.\n\n    :ivar list[A] b: them\n    """\n    def __init__(self) -> None:\n        self.b: "list[A]" = []\n',
    ),
    ("docstring-types", 'def f(x):\n    """F.\n\n    :param Unknown x: it\n    """\n    return x\n', None),
    ("format-call", 'x = "{} {b!r:>5}".format(a.c, b=d)\n', 'x = f"{a.c} {d!r:>5}"\n'),
    ("format-call", 'x = "{0} {0}".format(f())\n', None),
    ("format-call", 'x = "{:{w}}".format(a, w=3)\n', None),
    (
        "mutable-default",
        'def f(a, b=[]):\n    """F."""\n    return b\n',
        'def f(a, b=None):\n    """F."""\n    if b is None:\n        b = []\n    return b\n',
    ),
    ("none-comparison", "x = a == None or b != None or c == 1\n", "x = a is None or b is not None or c == 1\n"),
    (
        "object-base",
        "class A(object):\n    pass\n\nclass B(A, object):\n    pass\n",
        "class A:\n    pass\n\nclass B(A):\n    pass\n",
    ),
    ("open-alias", "import io\n\nwith io.open(p) as f:\n    pass\n", "\nwith open(p) as f:\n    pass\n"),
    ("open-alias", "import io\nx = io.open(p), io.StringIO()\n", "import io\nx = open(p), io.StringIO()\n"),
    ("optional-union", "from typing import Optional\nx: Optional[int] = None\n", "x: int | None = None\n"),
    ("optional-union", "from typing import Union\ndef f(x: Union[int, str]): ...\n", "def f(x: int | str): ...\n"),
    ("optional-union", 'from typing import Optional\nx: Optional["A"] = None\n', None),
    (
        "os-path",
        "import os\n\nx = os.path.join(a, 'b')\ny = os.path.exists(x)\n",
        "from pathlib import Path\n\nx = str(Path(a, 'b'))\ny = Path(x).exists()\n",
    ),
    ("os-path", "import os\n\nx = os.path.getsize(a)\n", None),
    ("percent-format", "x = '%s of %r: 100%% {}' % (a, b)\n", "x = f'{a} of {b!r}: 100% {{}}'\n"),
    ("percent-format", 'x = "%-5s|%5s|%.2f" % (a, b, c)\n', 'x = f"{a!s:<5}|{b!s:>5}|{c:.2f}"\n'),
    ("percent-format", 'x = "%d %03d" % (len(a), len(b))\n', 'x = f"{len(a)} {len(b):03d}"\n'),
    ("percent-format", 'x = "%d" % (maybe_a_fraction,)\n', None),
    ("percent-format", 'x = "%s" % maybe_a_tuple\n', None),
    ("percent-format", 'x = "%(a)s" % {"a": 1}\n', None),
    ("percent-format", "x = \"%s\" % (a['b'],)\n", "x = f\"{a['b']}\"\n"),
    (
        "raise-from",
        "try:\n    f()\nexcept KeyError:\n    raise Wrong('x')\n",
        "try:\n    f()\nexcept KeyError as error:\n    raise Wrong('x') from error\n",
    ),
    ("raise-from", "try:\n    f()\nexcept KeyError:\n    raise\n", None),
    ("string-prefix", "x = u'a', U\"b\", b'c'\n", "x = 'a', \"b\", b'c'\n"),
    (
        "super-call",
        "class A(B):\n    def f(self):\n        super(A, self).f()\n        super(B, self).f()\n",
        "class A(B):\n    def f(self):\n        super().f()\n        super(B, self).f()\n",
    ),
    (
        "type-comments",
        "x = []  # type: list[int]\ny = f()  # type: ignore\n",
        "x: list[int] = []\ny = f()  # type: ignore\n",
    ),
]


@pytest.fixture(scope="module")
def codemod() -> object:
    """The codemod, imported as its own folder's scripts import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import codemod as module  # type: ignore[import-not-found]

        yield module


@pytest.mark.parametrize(("rule", "before", "after"), RULES, ids=[f"{rule}-{n}" for n, (rule, *_) in enumerate(RULES)])
def test_a_rule_rewrites_what_it_is_sure_of_and_only_once(codemod, rule, before, after):
    wanted = before if after is None else after
    assert codemod.rewrite(before, [rule]) == wanted
    assert codemod.rewrite(wanted, [rule]) == wanted


def test_every_rule_is_tried_above(codemod):
    assert {rule for rule, *_ in RULES} == set(codemod.RULES)


@pytest.mark.parametrize(
    "expression",
    [
        "'%s|%5s|%-6s|%.2s' % (s, s, n, s)",
        "'%d|%5d|%-5d|%05d|%+d|%x' % (n, n, n, n, n, n)",
        "'%r|%8r|%a' % (s, s, s)",
        "'%.1f|%8.3f|%e|%g' % (f, f, f, f)",
        "'{{%s}} %% %s' % (s, n)",
        "'{}|{:>5}|{!r}|{x.real}'.format(s, n, s, x=n)",
    ],
)
def test_a_rewritten_string_says_the_same(codemod, expression):
    source = f"def g(s: str, n: int, f: float):\n    return {expression}\n"
    results = []
    rewritten = codemod.rewrite(source, ["percent-format", "format-call"])
    assert rewritten != source
    for text in (source, rewritten):
        namespace: dict = {}
        exec(text, namespace)  # noqa: S102 - the source stands above
        results.append([namespace["g"](s, n, f) for s, n, f in (("ä'b", 7, 2.5), ("", -12345, -0.125))])
    assert results[0] == results[1]


def run_tool(script: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-B", str(TOOLS / script), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_the_codemod_touches_only_the_files_given(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_bytes(b"x = u'1'\r\n")
    done = run_tool("codemod.py", "--rule", "string-prefix", "a.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "a.py: 1 lines\n")
    assert (tmp_path / "a.py").read_bytes() == b"x = '1'\r\n"
    assert (tmp_path / "b.py").read_bytes() == b"x = u'1'\r\n"
    again = run_tool("codemod.py", "--rule", "string-prefix", "a.py", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "")


def test_the_codemod_writes_nothing_when_a_file_cannot_be_parsed(tmp_path):
    (tmp_path / "a.py").write_text("x = u'1'\n")
    (tmp_path / "b.py").write_text("x = (\n")
    done = run_tool("codemod.py", "--rule", "string-prefix", "a.py", "b.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "b.py" in done.stderr
    assert (tmp_path / "a.py").read_text() == "x = u'1'\n"


def check(tool: str, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-B", "-m", tool, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def mypy(cwd: Path, name: str) -> list[dict]:
    """What a real mypy reports on one file; its cache of the standard library is shared by the tests."""
    cache = str(cwd.parent / "mypy")
    flags = ["--strict", "--output", "json", "--no-error-summary", "--no-site-packages", "--cache-dir", cache, name]
    rows = [json.loads(line) for line in check("mypy", cwd, *flags).stdout.splitlines()]
    keys = {"file": "path", "line": "line", "code": "code", "message": "message"}
    found = [{new: row[old] for old, new in keys.items()} for row in rows if row["severity"] == "error"]
    return [{"tool": "mypy", "severity": "error", **row} for row in found]


def fix(cwd: Path, diagnostics: list[dict], *files: str, tail: str = "") -> str:
    """Run the fixer on diagnostics in the form that the engine writes; returns what it says."""
    checks = [{"check": "any", "command": [], "exit_code": 1, "output_tail": tail}]
    document = {"step": "static", "checks": checks, "diagnostics": diagnostics, "previous_attempts": []}
    path = cwd / "diagnostics.json"
    path.write_text(json.dumps(document))
    done = run_tool("fix_from_diagnostics.py", "--diagnostics", str(path), *files, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


REPAIRED_BY_MYPY = [
    ("no-untyped-def", "def f(n=3, s='x'):\n    print(n, s)\n", "def f(n: int = 3, s: str = 'x') -> None:"),
    (
        "return-value",
        "def f(n: int) -> str:\n    if n:\n        return 'x'\n    return None\n",
        "def f(n: int) -> str | None:",
    ),
    ("assignment", "def f(s: str = None) -> str:\n    return s or ''\n", "def f(s: str | None = None)"),
    ("assignment", "x: int = None\n", "x: int | None = None"),
    (
        "union-attr",
        "def g() -> str | None: ...\ndef f() -> str:\n    s = g()\n    return s.upper()\n",
        '    if s is None:\n        raise ValueError("s must not be None")\n    return s.upper()',
    ),
    ("arg-type", "def f(s: str | None) -> int:\n    return len(s)\n", "    if s is None:\n"),
    ("index", "def f(s: str | None) -> str:\n    return s[0]\n", "    if s is None:\n"),
    (
        "var-annotated",
        "def f(n: int) -> dict[int, list[int]]:\n    d = {}\n    d.setdefault(n, []).append(n)\n    return d\n",
        "    d: dict[int, list[int]] = {}",
    ),
]


@pytest.mark.parametrize(
    ("code", "source", "expected"), REPAIRED_BY_MYPY, ids=[f"{row[0]}-{n}" for n, row in enumerate(REPAIRED_BY_MYPY)]
)
def test_the_fixer_repairs_what_a_real_mypy_reports(tmp_path, code, source, expected):
    (tmp_path / "a.py").write_text(source)
    found = mypy(tmp_path, "a.py")
    assert code in [each["code"] for each in found]
    fix(tmp_path, found, "a.py")
    assert expected in (tmp_path / "a.py").read_text()
    assert code not in [each["code"] for each in mypy(tmp_path, "a.py")]


def test_the_fixer_names_what_it_cannot_repair_and_changes_nothing(tmp_path):
    source = "def f() -> int:\n    return 'x'\n"
    (tmp_path / "a.py").write_text(source)
    said = fix(tmp_path, mypy(tmp_path, "a.py"), "a.py")
    assert "a.py:2: no rule repairs return-value" in said
    assert (tmp_path / "a.py").read_text() == source


def test_the_fixer_repairs_what_a_real_ruff_reports_in_the_files_given(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("import os\nx = None\ny = x == None\n")
    flags = ["--isolated", "--no-cache", "--select", "E711,F401", "--output-format", "json", "a.py"]
    report = check("ruff", tmp_path, "check", *flags)
    keys = {"path": "filename", "code": "code", "message": "message"}
    found = [
        {"tool": "ruff", "line": row["location"]["row"], **{new: row[old] for new, old in keys.items()}}
        for row in json.loads(report.stdout)
    ]
    assert {each["code"] for each in found} == {"F401", "E711"}
    fix(tmp_path, found, "a.py")
    assert (tmp_path / "a.py").read_text() == "x = None\ny = x is None\n"
    assert (tmp_path / "b.py").read_text().startswith("import os")


SHARED = """\
class Basket:
    items: list[str] = []
    names = ("a",)

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, item: str) -> None:
        self.items.append(item)


class Other:
    kept: list[str] = []

    def put(self, item: str) -> None:
        self.kept.append(item)


def collect(item: str, into: list[str] = []) -> list[str]:
    into.append(item)
    return into
"""

SHARED_TESTS = """\
from shared import Basket, collect


def test_baskets_are_apart():
    one, two = Basket("one"), Basket("two")
    one.put("apple")
    assert two.items == []


def test_collect_starts_anew():
    assert collect("a") == ["a"]
    assert collect("b") == ["b"]
"""


def test_the_fixer_repairs_shared_state_that_failing_tests_reach(tmp_path):
    """Only the class and the function that failing tests reach are changed; the other class keeps its list."""
    (tmp_path / "shared.py").write_text(SHARED)
    (tmp_path / "test_shared.py").write_text(SHARED_TESTS)
    flags = ["-q", "--disable-plugin-autoload", "-p", "no:cacheprovider", "test_shared.py"]
    red = check("pytest", tmp_path, *flags)
    assert "2 failed" in red.stdout
    fix(tmp_path, [], "shared.py", tail=red.stdout)
    text = (tmp_path / "shared.py").read_text()
    assert "        self.items = []\n" in text
    assert "    kept: list[str] = []\n" in text
    assert (tmp_path / "test_shared.py").read_text() == SHARED_TESTS
    green = check("pytest", tmp_path, *flags)
    assert "2 passed" in green.stdout, green.stdout


def test_the_fixer_finds_failing_tests_in_the_messages_of_a_report_too(tmp_path):
    """A report's place may be the library's own line; the message names the test."""
    (tmp_path / "shared.py").write_text(SHARED)
    (tmp_path / "test_shared.py").write_text(SHARED_TESTS)
    message = "test_shared::test_baskets_are_apart: AssertionError: assert ['apple'] == []"
    fix(
        tmp_path,
        [{"tool": "pytest", "path": "shared.py", "line": 9, "code": "failure", "message": message}],
        "shared.py",
    )
    text = (tmp_path / "shared.py").read_text()
    assert "        self.items = []\n" in text
    assert "into: list[str] = []" in text


def test_the_fixer_refuses_what_is_no_diagnostics_file(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "d.json").write_text('{"diagnostics": 3}')
    done = run_tool("fix_from_diagnostics.py", "--diagnostics", "d.json", "a.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "field diagnostics" in done.stderr


def test_one_name_in_two_modules_is_no_interface(tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("__init__", "a", "b"):
        (tmp_path / "p" / f"{name}.py").write_text("def f(): ...\n" if name != "__init__" else "")
    done = run_tool("public_api.py", "--package", "p", "--output", "p/api.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "f is offered by a and by b" in done.stderr


@pytest.mark.parametrize("example", ["modernise", "blocked"])
def test_bundles_are_complete_and_consistent(example):
    found = bundles(example)
    profiles = json.loads((EXAMPLES / "modernise" / "tool_profiles.json").read_text())
    repository = EXAMPLES / "modernise" / "repo"
    for path in (EXAMPLES / example / "workstreams").glob("*.json"):
        bundle = json.loads(path.read_text())
        assert bundle.keys() >= REQUIRED
        assert bundle["id"] == path.stem
        assert re.fullmatch(r"ws-[a-z0-9-]+", bundle["id"])
        assert set(bundle.get("depends_on", [])) <= found.keys()
        assert bundle["tool"] in profiles
        assert all((repository / name).is_file() for name in bundle["files_scope"])
        assert not any((repository / name).exists() for name in bundle.get("files_create", []))
    assert len(levels(found)) >= 3
    assert {bundle.id for bundle in load_and_validate_bundles(EXAMPLES / example / "workstreams")} == found.keys()
    for level in levels(found):
        scopes = [
            name for each in level for name in (*found[each]["files_scope"], *found[each].get("files_create", []))
        ]
        assert len(scopes) == len(set(scopes)), "two workstreams of one level share a file"


@pytest.mark.parametrize("example", ["modernise", "thirdparty"])
def test_tool_profiles_are_what_the_engine_reads(example):
    path = EXAMPLES / example / "tool_profiles.json"
    assert load_tool_profiles(path).keys() == json.loads(path.read_text()).keys()


def test_modernise_serialises_two_independent_workstreams():
    found = bundles("modernise")
    assert len(found) >= 7
    groups = [found[name].get("conflict_group") for name in levels(found)[0]]
    assert groups.count("printed-numbers") == 2


def test_the_base_is_red_and_large_enough(tmp_path):
    """Every check of the whole repository fails at the base commit; exactly the known tests fail."""
    tree = materialise("modernise", tmp_path / "repo")
    sources = list((tree / "src").rglob("*.py"))
    assert len(sources) >= 9
    assert sum(path.read_text().count("\n") for path in sources) >= 1000
    assert check("ruff", tree, "check", "--no-cache", "src", "tests").returncode == 1
    assert check("mypy", tree, "--cache-dir", str(tmp_path / "cache"), "src").returncode == 1
    suite = check(
        "pytest", tree, "-q", "--disable-plugin-autoload", "-p", "no:cacheprovider", "--doctest-modules", "src", "tests"
    )
    failed = set(re.findall(r"^FAILED (\S+)", suite.stdout, re.MULTILINE))
    assert {name.partition("::")[0] for name in failed} == {"tests/test_money.py", "tests/test_tariff.py"}
    assert int(re.search(r"(\d+) passed", suite.stdout)[1]) >= 40


def test_materialise_makes_the_same_commit_and_leaves_other_folders_alone(tmp_path):
    def commit(tree: Path) -> str:
        command = ["git", "log", "--format=%H %an <%ae> %D", "--all"]
        return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout

    first, second = (materialise("modernise", tmp_path / name) for name in ("a", "b"))
    assert commit(first) == commit(second)
    assert "Swell Example <example@invalid> HEAD -> main" in commit(first)
    (first / "README.md").unlink()
    assert not (materialise("modernise", first) / "README.md").exists()
    assert (materialise("modernise", first, force=True) / "README.md").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(FileExistsError):
        materialise("modernise", tmp_path / "mine", force=True)
    with pytest.raises(ValueError, match="no example"):
        materialise("nothing", tmp_path / "c")


@pytest.fixture
def flow(tmp_path):
    def start(example: str) -> Flow:
        (tmp_path / "scratch").mkdir()
        return Flow(example, materialise(example, tmp_path / "line"), tmp_path / "scratch")

    return start


def test_modernise_ends_green_with_exactly_the_promised_fix_loops(flow):
    run = flow("modernise")
    outcomes = run.run()
    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys(outcomes, "completed")
    assert {name: " ".join(outcome.steps) for name, outcome in outcomes.items()} == {
        "ws-dispatch": "edit static runtime",
        "ws-money": "edit static runtime",
        "ws-public-api": "edit static runtime",
        "ws-shipments": "edit static fix static fix static runtime",
        "ws-tables": "edit static runtime",
        "ws-tariffs": "edit static runtime fix static runtime",
        "ws-units": "edit static fix static runtime",
    }
    assert run.line_green == [True, True, True]
    whole = check(
        "pytest",
        run.line,
        "-q",
        "--disable-plugin-autoload",
        "-p",
        "no:cacheprovider",
        "--doctest-modules",
        "src",
        "tests",
    )
    assert whole.returncode == 0, whole.stdout
    assert "parse_money" in (run.line / "src/parcelkit/api.py").read_text()


def test_blocked_ends_with_one_failure_and_everything_independent_completed(flow):
    run = flow("blocked")
    outcomes = run.run()
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "ws-dispatch": "blocked",
        "ws-labels": "failed",
        "ws-manifests": "blocked",
        "ws-tables": "completed",
        "ws-units": "completed",
    }
    assert outcomes["ws-labels"].steps == ["edit", "static", "fix", "static", "fix", "static"]
    assert outcomes["ws-labels"].reason.startswith("static oscillation: ")
    assert "mypy return-value" in outcomes["ws-labels"].reason
    assert outcomes["ws-manifests"].reason == "dependency ws-labels failed"
    assert outcomes["ws-dispatch"].reason == "dependency ws-manifests blocked"
    assert run.line_green == [True, True, True]


def test_third_party_workstreams_change_code_that_stays_importable(tmp_path):
    tree = tmp_path / "repo"
    make("rich", tree)
    profiles = json.loads((EXAMPLES / "thirdparty" / "tool_profiles.json").read_text())
    found = [json.loads(path.read_text()) for path in sorted((tree / "workstreams").glob("*.json"))]
    scopes = [name for bundle in found for name in bundle["files_scope"]]
    assert len(found) == 3
    assert len(scopes) == len(set(scopes))
    for bundle in found:
        assert bundle.keys() >= REQUIRED
        before = [(tree / name).read_text() for name in bundle["files_scope"]]
        rule = profiles[bundle["tool"]]["args"][2]
        done = run_tool("codemod.py", "--rule", rule, *bundle["files_scope"], cwd=tree)
        assert done.returncode == 0, done.stderr
        after = [(tree / name).read_text() for name in bundle["files_scope"]]
        assert all(old != new for old, new in zip(before, after, strict=True))
        static = profiles["ruff-syntax"]["args"][2:-1]
        assert check("ruff", tree, *static, *bundle["files_scope"]).returncode == 0
        imported = subprocess.run(
            [sys.executable, "-B", profiles["import-check"]["args"][0], *bundle["files_scope"]],
            cwd=tree,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert imported.returncode == 0, imported.stdout


def test_third_party_refuses_what_is_too_small(tmp_path):
    with pytest.raises(ValueError, match="fewer than"):
        make("pluggy", tmp_path / "repo")
    with pytest.raises(ValueError, match="not an installed package"):
        make("surely_not_installed", tmp_path / "other")


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["thirdparty"], 2), (["nothing"], 2)])
def test_the_demo_says_what_it_can_run(arguments, code, capsys):
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    assert ended.value.code == code
    told = "".join(capsys.readouterr())
    assert all(name in told for name in ("blocked", "modernise"))
