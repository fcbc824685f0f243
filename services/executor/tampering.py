"""Whether a change weakens what judges it: protected files that its bundle does not name, and tests that got fewer.

Invariants:

* What is protected comes from the run's definition, so from the base commit: no change can lift it.
* A protected path is allowed only where the bundle spells it out. A glob or a folder that covers it does not suffice.
  Paths are compared folded (case, Unicode form, invisible characters, what NTFS drops), so that a twin counts.
* Of a configuration file that also says other things, only the parts that judge are protected (`_PARTS`).
* A file that was a test at the base is counted before and after: tests, assertions, and marks that keep tests from
  running. Tests that moved to another test file are counted there.
* Nothing of the repository is run, and what is read of it is limited.

Python is counted by its syntax tree (services/executor/python_tests.py; by patterns where it cannot be parsed), JavaScript, TypeScript, Go and Rust by
patterns. Of tests in other languages only a deletion is found. Counting proves nothing: a test may be made worthless and
still count. It finds what tools do that want a red check to be green.
"""

import asyncio
import configparser
import fnmatch
import glob
import hashlib
import itertools
import re
import sys
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import structlog

from services import process
from services.checks import CHECKS_FILE, EffectiveChecks
from services.diagnostic import printable
from services.executor import python_tests
from services.executor.snapshot import LISTING_BYTES, Change
from services.git import Git
from services.scope import ScopePattern, declare, overlap_key

log = structlog.get_logger()

TEST_BYTES_MAX: Final = 1024 * 1024
"""Of one file that is counted or compared; a larger one is no test that a person wrote."""

TESTS_MAX: Final = 2000
"""Changed test files that are counted."""

READ_AT_ONCE: Final = 64
"""Files that are asked of git in one go."""

PARSE_TIMEOUT_S: Final = 30.0
NAMES_SHOWN_MAX: Final = 5

LOCK_FILES: Final = (
    "Cargo.lock", "Gemfile.lock", "Package.resolved", "Pipfile.lock", "Podfile.lock", "bun.lock", "bun.lockb",
    "composer.lock", "deno.lock", "flake.lock", "go.sum", "gradle.lockfile", "mix.lock", "npm-shrinkwrap.json",
    "package-lock.json", "packages.lock.json", "pdm.lock", "pixi.lock", "pnpm-lock.yaml", "poetry.lock", "pubspec.lock",
    "requirements*.lock", "uv.lock", "yarn.lock",
)  # fmt: skip
CI_FILES: Final = (
    ".appveyor.yml", ".buildkite", ".circleci", ".cirrus.yml", ".drone.yml", ".forgejo", ".husky",
    ".pre-commit-config.yaml", ".semaphore", ".teamcity", ".tekton", ".travis.yml", ".woodpecker*", "CODEOWNERS",
    "Jenkinsfile*", "appveyor.yml", "azure-pipelines*", "bitbucket-pipelines.yml", "buildspec.y*ml", "cloudbuild.*",
    "lefthook.y*ml",
)  # fmt: skip
CHECKER_FILES: Final = (
    ".bandit", ".cargo/config*", ".clippy.toml", ".coveragerc", ".eslintignore", ".eslintrc*", ".flake8", ".golangci.*", ".mocharc*",
    ".mypy.ini", ".pylintrc", ".npmrc", ".pytest.ini", ".pytest.toml", ".rspec", ".rubocop.yml", ".ruff.toml", ".semgrep*", "biome.json*", "bunfig.toml",
    "clippy.toml", "conftest.py", "deny.toml", "eslint.config.*", "jest.config.*", "karma.conf.*", "mypy.ini",
    "noxfile.py", "phpunit.xml*", "playwright.config.*", "pylintrc", "pyrightconfig.json", "pytest.ini",
    "pytest.toml", "ruff.toml", "sitecustomize.py", "tox.ini", "tsconfig*.json", "usercustomize.py", "vite.config.*",
    "vitest.config.*",
)  # fmt: skip
ALWAYS_PROTECTED: Final = (".git*", CHECKS_FILE, "config/gates.yaml", *LOCK_FILES, *CI_FILES, *CHECKER_FILES)
"""As a declared scope is written: without a `/` at any depth, and a folder covers what is below it."""

_PARTS: Final[Mapping[str, frozenset[str]]] = {
    "pyproject.toml": frozenset(
        f"tool.{name}"
        for name in ("bandit", "basedpyright", "coverage", "mypy", "pylint", "pyright", "pytest", "ruff", "ty", "tox")
    ),
    "setup.cfg": frozenset({"coverage", "flake8", "mypy", "pylint", "tool"}),
    "package.json": frozenset({"ava", "c8", "eslintConfig", "jest", "mocha", "nyc", "scripts", "vitest"}),
}
"""Of files that say other things as well, the tables, groups of sections or keys that are about checking."""


# Protected paths


class Protected:
    """Which paths only a bundle that names them may touch."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """`patterns` are declared scope patterns."""
        folded = dict.fromkeys(_folded(pattern) for pattern in patterns)
        names = [fnmatch.translate(pattern) for pattern in folded if "/" not in pattern]
        self._name = re.compile("|".join(names) or r"(?!)")
        anchored = [pattern for pattern in folded if "/" in pattern]
        self._anchored = [(overlap_key(one).removesuffix("/"), ScopePattern(text=one)) for one in anchored]

    def covers(self, path: str) -> bool:
        """Whether `path`, or a twin of it, is protected."""
        path = _folded(path)
        return any(map(self._name.match, path.split("/"))) or any(
            path.startswith(beginning) and pattern.covers(path) for beginning, pattern in self._anchored
        )


def protected_patterns(checks: EffectiveChecks) -> tuple[str, ...]:
    """What is protected in a repository: what always is, the files that its `swell.toml` names, and what that adds."""
    named = (str(PurePosixPath(path)) for path in (checks.tool_profiles, checks.plugins, checks.gates_file) if path)
    return (*ALWAYS_PROTECTED, *map(glob.escape, named), *map(declare, checks.protected))


@lru_cache(maxsize=64)
def _protected(patterns: tuple[str, ...]) -> Protected:
    return Protected(patterns)


def _folded(path: str) -> str:
    """One spelling for all that some file system takes for the same: NTFS drops dots and spaces at the end of a name."""
    text = path.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return "/".join(segment.rstrip(" .") or segment for segment in text.replace("\\", "/").split("/"))


def _unnamed(changes: Sequence[Change], named: Collection[str], protected: Protected) -> list[str]:
    """A line for each protected path that was touched and that the bundle does not name."""
    touched = (change.path for change in changes if change.path not in named and protected.covers(change.path))
    return [
        f"{path}: is protected, and no entry of files_scope or files_create names this very path" for path in touched
    ]


def _parts(name: str, data: bytes) -> dict[str, Any]:
    """The parts of a configuration file that are about checking, by name; a file that cannot be read is one part."""
    wanted = _PARTS[name]
    try:
        text = data.decode()
        match name:
            case "pyproject.toml":
                tools = tomllib.loads(text).get("tool", {})
                return {f"tool.{key}": value for key, value in tools.items() if f"tool.{key}" in wanted}
            case "setup.cfg":
                parser = configparser.RawConfigParser(strict=False)
                parser.read_string(text)
                groups = {section: re.split(r"[:.-]", section)[0] for section in parser.sections()}
                return {section: parser.items(section) for section, group in groups.items() if group in wanted}
            case _:
                return {key: value for key, value in msgspec.json.decode(text, type=dict).items() if key in wanted}
    except (ValueError, AttributeError, RecursionError, configparser.Error):
        return {"settings of checks that cannot be read": data}


def _parts_changed(path: str, before: bytes, after: bytes) -> list[str]:
    name = _folded(path).rpartition("/")[2]
    old, new = _parts(name, before) if before else {}, _parts(name, after) if after else {}
    changed = sorted(part for part in old.keys() | new.keys() if old.get(part) != new.get(part))
    if not changed:
        return []
    shown = printable(", ".join(changed[:NAMES_SHOWN_MAX]))
    return [f"{path}: changes {shown}, which is protected, and no entry of files_scope or files_create names this file"]


# Tests


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a test file holds. `marks` are what keeps tests from running or from failing: skip, xfail, only and their like."""

    tests: frozenset[str] = frozenset()
    assertions: int = 0
    marks: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """A changed test file before and after; None where it is not there, or no test."""

    path: str
    before: Counted | None
    after: Counted | None

    @property
    def lost(self) -> frozenset[str]:
        """Tests that are not in this file any more."""
        old, new = self.before or Counted(), self.after or Counted()
        return old.tests - new.tests

    @property
    def gained(self) -> frozenset[str]:
        """Tests that were not in this file."""
        old, new = self.before or Counted(), self.after or Counted()
        return new.tests - old.tests


def is_test(path: str) -> bool:
    """Whether a file may hold tests: by its name, and of Rust any file."""
    return path.endswith(".rs") or _is_named_test(path)


def _is_named_test(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if _TEST_NAME.search(name):
        return True
    return _TEST_CODE.search(name) is not None and not _TEST_FOLDERS.isdisjoint(folder.split("/"))


def count(path: str, data: bytes) -> Counted:
    """The tests in a file, by the language that its name tells."""
    suffix = path.rpartition(".")[2]
    text = data.decode("utf-8", "replace")
    if suffix == "py":
        return _of_python(path, _PYTHON.count(text))
    if suffix in {"rs", "go"}:
        found = _RUST if suffix == "rs" else _GO
    elif _JAVASCRIPT.search(path):
        found = _SCRIPT
    else:
        # Of another language it is only told whether it is still there: the same file is the same test.
        return Counted(tests=frozenset({hashlib.sha256(data).hexdigest()}))
    return found.count(text)


def _of_python(path: str, counted: Counted) -> Counted:
    """A runner finds functions in files of some names only; assertions count anywhere."""
    if _PYTHON_TEST.search(path.rpartition("/")[2]):
        return counted
    return msgspec.structs.replace(counted, tests=frozenset())


def shrunk(counted: Sequence[Counts]) -> list[str]:
    """A line for each way in which tests that stood at the base got fewer. Files between which tests moved count as one."""
    lines = []
    for group in _groups(counted):
        at_base = [counts for counts in group if counts.before is not None]
        if at_base:
            before = [counts.before for counts in at_base if counts.before is not None]
            after = [counts.after for counts in group if counts.after is not None]
            lines += _fewer(group, at_base, before, after)
    return sorted(lines)


def _fewer(
    group: Sequence[Counts], at_base: Sequence[Counts], before: list[Counted], after: list[Counted]
) -> list[str]:
    here = Counter(name for counts in group for name in counts.gained)
    lines = []
    missing = sum(len(one.tests) for one in before) - sum(len(one.tests) for one in after)
    if missing > 0:
        # A file that is gone as a whole has moved rather than one that is still there.
        in_turn = sorted(at_base, key=lambda counts: counts.after is not None)
        gone = [(counts, _not_in(here, counts.lost)) for counts in in_turn]
        lines += [f"{counts.path}: {_gone(counts, names)}" for counts, names in gone if names]
    path = next((counts.path for counts in at_base if counts.after is not None), at_base[0].path)
    old, new = sum(one.assertions for one in before), sum(one.assertions for one in after)
    if new < old and not lines:
        lines.append(f"{path}: holds {new} assertions, {old - new} fewer than before")
    old, new = sum(one.marks for one in before), sum(one.marks for one in after)
    if new > old:
        lines.append(
            f"{path}: marks more tests to be skipped, to be expected to fail, or to be the only ones ({new - old} more)"
        )
    return lines


def _not_in(here: Counter[str], lost: Iterable[str]) -> list[str]:
    """The tests that are not in another file now; each that is, is there once."""
    gone = []
    for name in sorted(lost):
        if here[name]:
            here[name] -= 1
        else:
            gone.append(name)
    return gone


def _gone(counts: Counts, gone: Sequence[str]) -> str:
    if counts.after is None:
        return "is a test file that was deleted"
    more = ", …" if len(gone) > NAMES_SHOWN_MAX else ""
    return f"holds fewer tests than before: {printable(', '.join(gone[:NAMES_SHOWN_MAX]))}{more}"


def _groups(counted: Sequence[Counts]) -> list[list[Counts]]:
    """Files between which a test moved stand together."""
    gained = {name: number for number, counts in enumerate(counted) for name in counts.gained}
    leader = list(range(len(counted)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for number, counts in enumerate(counted):
        for name in counts.lost:
            if name in gained:
                leader[find(number)] = find(gained[name])
    groups: dict[int, list[Counts]] = {}
    for number, counts in enumerate(counted):
        groups.setdefault(find(number), []).append(counts)
    return list(groups.values())


def _numbered(names: Iterable[str]) -> frozenset[str]:
    """The same with a number where a name is there more than once."""
    seen: Counter[str] = Counter()
    found = set()
    for name in names:
        seen[name] += 1
        found.add(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return frozenset(found)


# What is counted by patterns. None of them can be made to look at the rest of a text again and again.

_PYTHON_TEST: Final = re.compile(r"\A(?:test_.*|.*_test|tests?)\.py\Z")
_TEXT: Final = r"""\"(?:\\.|[^"\\\n])*(?:"|(?=\n)|\Z)"""


class Patterns(msgspec.Struct, frozen=True, kw_only=True):
    """How a language is counted. `skipped` finds comments and texts; `tests` has a group `name` for what a test is called."""

    skipped: re.Pattern[str]
    tests: re.Pattern[str]
    assertions: re.Pattern[str]
    marks: re.Pattern[str]
    directives: re.Pattern[str] = re.compile(r"(?!)")

    def count(self, text: str) -> Counted:
        """What stands in comments does not count, but for `directives`, which are marks."""
        code = self.skipped.sub(lambda found: " " if found[0][:1] in "/#" else found[0], text)
        return Counted(
            tests=_numbered(found["name"] or "" for found in self.tests.finditer(code)),
            assertions=sum(1 for _ in self.assertions.finditer(code)),
            marks=sum(1 for _ in itertools.chain(self.marks.finditer(code), self.directives.finditer(text))),
        )


_PYTHON: Final = Patterns(
    skipped=re.compile(rf"""#[^\n]*|{_TEXT}|'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)"""),
    tests=re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(?P<name>test\w*)", re.MULTILINE),
    assertions=re.compile(r"(?<![\w])assert\w*\b|\.(?:raises|warns|fail)\("),
    marks=re.compile(
        r"\bmark\.skip\b|\b(?:pytest|unittest)\.skip\b|\b(?:skipif|skipIf|skipUnless|skipTest|xfail|SkipTest)\b"
    ),
)
_SCRIPT: Final = Patterns(
    skipped=re.compile(
        rf"""//[^\n]*|/\*.*?(?:\*/|\Z)|{_TEXT}|'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)|`(?:\\.|[^`\\])*(?:`|\Z)""", re.DOTALL
    ),
    tests=re.compile(
        r"(?<![\w$.])(?:it|test|specify)(?:\.\w+)*\s{0,9}(?:`|\((?:\s{0,99}(?P<quote>[\"'`])(?P<name>[^\n]{0,200}?)(?P=quote))?)"
    ),
    assertions=re.compile(r"(?<![\w$.])(?:expect\w*|assert(?:\.\w+)*)\s{0,9}\(|\.should\b"),
    marks=re.compile(
        r"(?<![\w$.])(?:xit|xtest|xdescribe|xcontext|fit|fdescribe)\s{0,9}\("
        r"|\.(?:skip|only|todo|fixme|failing|fails|skipIf|runIf)(?=\s{0,9}[(`.])"
    ),
)
_GO: Final = Patterns(
    skipped=re.compile(rf"""//[^\n]*|/\*.*?(?:\*/|\Z)|{_TEXT}|'(?:\\.|[^'\\\n])'|`[^`]*(?:`|\Z)""", re.DOTALL),
    tests=re.compile(r"^func[ \t]+(?P<name>(?:Test|Benchmark|Fuzz|Example)\w*)[ \t]*\(", re.MULTILINE),
    assertions=re.compile(r"\.(?:Errorf?|Fatalf?|Fail|FailNow)\(|(?<![\w.])(?:assert|require)\.\w+\("),
    marks=re.compile(r"\.Skip(?:f|Now)?\("),
    directives=re.compile(r"^//(?:go:build|[ \t]*\+build)\b", re.MULTILINE),
)
_RUST: Final = Patterns(
    skipped=re.compile(rf"""//[^\n]*|/\*.*?(?:\*/|\Z)|{_TEXT}|'(?:\\.|[^'\\\n])'""", re.DOTALL),
    tests=re.compile(
        r"#\[\s{0,9}(?:\w+::){0,5}(?:test|rstest|test_case|bench)\b[^\]\n]{0,300}\]"
        r"(?:(?:\s{0,99}#\[[^\]\n]{0,300}\]){0,9}\s{0,99}(?:pub\s+)?(?:async\s+)?fn\s+(?P<name>\w+))?"
    ),
    assertions=re.compile(r"(?<!\w)(?:debug_|prop_)?assert\w*!"),
    marks=re.compile(
        r"#!?\[\s{0,9}(?:ignore|should_panic)\b"
        r"|#!?\[\s{0,9}cfg(?:_attr)?\s{0,9}\(\s{0,9}(?:any\s{0,9}\(\s{0,9}\)|all\s{0,9}\(\s{0,9}test|not\s{0,9}\(\s{0,9}test|[^\]\n]{0,200}\bignore\b)"
    ),
)
_JAVASCRIPT: Final = re.compile(r"\.[cm]?[jt]sx?\Z")
_TEST_CODE: Final = re.compile(r"\.(?:py|rs|[cm]?[jt]sx?)\Z")
_TEST_FOLDERS: Final = frozenset({"__tests__", "e2e", "spec", "test", "tests", "testing"})
_TEST_NAME: Final = re.compile(
    r"\A(?:test_.*|.*_test|tests?)\.py\Z|\.(?:test|spec|cy|e2e)\.[cm]?[jt]sx?\Z|_test\.go\Z"
    r"|(?:Test|Tests|IT|Spec)\.(?:java|kt|groovy|scala|cs|php|swift|m)\Z|\.(?:bats|feature)\Z"
    r"|_(?:test|spec)\.(?:rb|exs|dart|cc|cpp|c|ml|erl|jl)\Z|\Atest_.*\.(?:rb|cc|cpp|c|jl|lua|r|R|sh)\Z"
)


# Both together


async def findings(
    git: Git, changes: Sequence[Change], *, named: Collection[str], checks: EffectiveChecks
) -> list[str]:
    """Why a person should look at these changes, whatever the scope says; each line names the path first.

    `named` is what the bundle declares, `checks` what is in force for its workstream. Raises GitError.
    """
    protected = _protected(protected_patterns(checks))
    lines = await asyncio.to_thread(_unnamed, changes, named, protected)
    lines += await _judging_parts(git, [change for change in changes if change.path not in named])
    if not checks.tests_may_shrink:
        lines += await _tests(git, changes)
    return lines


async def _judging_parts(git: Git, changes: Sequence[Change]) -> list[str]:
    mixed = [change for change in changes if _folded(change.path).rpartition("/")[2] in _PARTS]
    lines: list[str] = []
    for change in mixed[:TESTS_MAX]:
        content = await _contents(git, _blobs([change]))
        before, after = content.get(change.old_id, b""), content.get(change.new_id, b"")
        lines += await asyncio.to_thread(_parts_changed, change.path, before, after)
    return lines


async def _tests(git: Git, changes: Sequence[Change]) -> list[str]:
    touched = [change for change in changes if is_test(change.path)]
    if all(change.status == "A" for change in touched):
        return []
    if len(touched) > TESTS_MAX:
        return [
            f"{touched[0].path}: is one of {len(touched)} test files that changed; more than {TESTS_MAX} are not counted"
        ]
    counted: list[Counts] = []
    for at in range(0, len(touched), READ_AT_ONCE):
        part = touched[at : at + READ_AT_ONCE]
        content = await _contents(git, _blobs(part))
        parsed = await _parsed({one: data for one, data in content.items() if one in _python_blobs(part)})
        counted += await asyncio.to_thread(_counted, part, content, parsed)
    return await asyncio.to_thread(shrunk, counted)


def _python_blobs(changes: Iterable[Change]) -> set[str]:
    return {blob for one in changes if one.path.endswith(".py") for blob in (one.old_id, one.new_id)}


async def _parsed(content: Mapping[str, bytes]) -> dict[str, Counted]:
    """Python's counts by blob, of those that can be parsed. When one of them takes too long, none is."""
    if not content:
        return {}
    texts = msgspec.json.encode([data.decode("utf-8", "replace") for data in content.values()])
    try:
        done = await process.run(
            (sys.executable, "-I", "-S", python_tests.__file__),
            cwd=Path("/"), stdin=texts, timeout_s=PARSE_TIMEOUT_S, output_bytes=LISTING_BYTES,
        )  # fmt: skip
    except process.ProcessError as error:
        log.warning("tampering.not_parsed", files=len(content), reason=str(error))
        return {}
    if done.exit_code != 0:
        log.warning("tampering.not_parsed", files=len(content), exit_code=done.exit_code)
        return {}
    found = msgspec.json.decode(done.stdout, type=list[tuple[list[str], int, int] | None])
    return {
        blob: Counted(tests=_numbered(one[0]), assertions=one[1], marks=one[2])
        for blob, one in zip(content, found, strict=True)
        if one is not None
    }


def _counted(changes: Sequence[Change], content: Mapping[str, bytes], parsed: Mapping[str, Counted]) -> list[Counts]:
    return [_counts(change, content, parsed) for change in changes]


def _counts(change: Change, content: Mapping[str, bytes], parsed: Mapping[str, Counted]) -> Counts:
    """Both sides in the same way. A file that became too large to be counted has no test any more."""
    path, sides = change.path, [blob for blob in (change.old_id, change.new_id) if blob in content]
    by_tree = all(blob in parsed for blob in sides)
    before, after = (
        None if blob not in sides else _of_python(path, parsed[blob]) if by_tree else count(path, content[blob])
        for blob in (change.old_id, change.new_id)
    )
    if before is not None and not before.tests and not _is_named_test(path):
        before = None
    return Counts(path=path, before=before, after=after)


def _blobs(changes: Iterable[Change]) -> list[str]:
    """What regular files of these hold, before and after."""
    sides = ((mode, blob) for one in changes for mode, blob in ((one.old_mode, one.old_id), (one.new_mode, one.new_id)))
    return sorted({blob for mode, blob in sides if mode.startswith("100")})


async def _contents(git: Git, blobs: Sequence[str]) -> dict[str, bytes]:
    """The content of blobs by id; of those that are not too large."""
    if not blobs:
        return {}
    listed = await git("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=_lines(blobs))
    sizes = {name: int(size) for name, size in (line.split() for line in listed.decode().splitlines())}
    wanted = [blob for blob in blobs if sizes[blob] <= TEST_BYTES_MAX]
    out = await git("cat-file", "--batch", stdin=_lines(wanted), output_bytes=LISTING_BYTES)
    found, at = {}, 0
    for blob in wanted:
        start = out.index(b"\n", at) + 1
        found[blob] = out[start : start + sizes[blob]]
        at = start + sizes[blob] + 1
    return found


def _lines(blobs: Iterable[str]) -> bytes:
    return "".join(f"{blob}\n" for blob in blobs).encode()
