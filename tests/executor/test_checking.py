"""Which files a check is given, which findings it may pass with, and which files it need not look at again."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from executor_rig import Run, git, sh

from services.executor import clean, step
from services.executor.clean import CleanFiles
from services.plugins import parse_manifest
from services.profiles import Report, ToolProfile

LINES = Report(format="pattern", pattern=r"(?P<file>[^:]*):(?P<line>\d+): (?P<code>[A-Z]+) (?P<message>.*)")
CATEGORIES = {"": "style", "SX": "syntax", "TY": "type", "TF": "test_failure", "SE": "security"}


def asking(tmp_path, script="", **fields):
    """A check that notes the files it is given, then does what the script says."""
    return sh(f'echo "$@" >> {tmp_path}/asked; {script}', **fields)


def asked(tmp_path) -> list[str]:
    """The files of each call so far, anew with each question."""
    file = tmp_path / "asked"
    found = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return found


def changed(run: Run, **checks) -> Run:
    settings = msgspec.structs.replace(run.spec.checks, **checks)
    run.spec = msgspec.structs.replace(run.spec, checks=settings)
    return run


async def judged(bench, run, **fields):
    return await bench.do(run, "static", every_check=True, **fields)


# Files by their ending


@pytest.mark.parametrize(
    ("extensions", "given"),
    [
        ((), ["a.txt b.txt c.py d.txt"]),
        (("*",), ["a.txt b.txt c.py d.txt"]),
        ((".py", "*"), ["a.txt b.txt c.py d.txt"]),
        ((".py",), ["c.py"]),
        ((".py", ".txt"), ["a.txt b.txt c.py d.txt"]),
        ((".md",), []),
    ],
)
async def test_a_check_is_given_the_files_that_end_as_it_says(bench, tmp_path, extensions, given):
    run = Run(tmp_path, {"check": asking(tmp_path, file_extensions=extensions)}, files_scope=("*.txt", "*.py"))
    git(run.repo, "mv", "c.txt", "c.py")
    git(run.repo, "commit", "--quiet", "--message", "py")
    done = await judged(bench, run, input=run.snapshot("HEAD"))
    assert (done.ok, [" ".join(sorted(call.split())) for call in asked(tmp_path)]) == (True, given)
    (check,) = done.checks
    assert (check.outcome, check.message) == ("passed", "" if given else "noop: no file of the scope ends in .md")


async def test_a_check_of_the_whole_tree_is_run_if_the_scope_has_a_file_for_it(bench, tmp_path):
    tools = {
        "check1": sh(f"echo ran >> {tmp_path}/asked", "{repo_root}", file_extensions=(".txt",)),
        "check2": sh("exit 1", "{repo_root}", file_extensions=(".py",)),
    }
    done = await judged(bench, Run(tmp_path, tools))
    assert (done.ok, asked(tmp_path)) == (True, ["ran"])
    assert [check.message.partition(":")[0] for check in done.checks] == ["", "noop"]


async def test_only_the_files_that_are_given_count_towards_their_limit(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "FILES_EXPANDED_MAX", 20)
    run = Run(tmp_path, {"check": asking(tmp_path, file_extensions=(".py",))}, files_scope=("many",))
    (run.repo / "many").mkdir()
    for number in range(21):
        (run.repo / "many" / f"{number}.txt").touch()
    (run.repo / "many" / "a.py").touch()
    git(run.repo, "add", "--all")
    git(run.repo, "commit", "--quiet", "--message", "many")
    assert (await judged(bench, run, input=run.snapshot("HEAD"))).ok
    assert asked(tmp_path) == ["many/a.py"]
    everything = Run(tmp_path, {"check": asking(tmp_path)}, files_scope=("many",))
    refused = await judged(bench, everything, input=everything.snapshot("HEAD"))
    assert (refused.error_class, "stands for more than 20 files" in refused.message) == ("tool_failed", True)


async def test_a_tool_that_changes_the_tree_is_given_them_as_well(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh('echo "$@" > d.txt', file_extensions=(".txt", ".none"))})
    done = await bench.do(run)
    assert bench.content(run, done.snapshot, "d.txt") == "a.txt b.txt c.txt d.txt"
    none = Run(tmp_path, {"tool": sh('echo "($@)" > d.txt', file_extensions=(".none",))})
    done = await bench.do(none)
    assert (done.error_class, "no file of the scope ends in .none" in done.message) == ("no_change", True)


# Programs that are not there


@pytest.mark.parametrize(
    ("plugin", "named"), [(None, "the check 'check'"), ("Finds leaks", "the plugin 'check' (Finds leaks)")]
)
async def test_a_tool_that_is_not_installed_is_told_and_never_silent(bench, tmp_path, plugin, named):
    run = Run(tmp_path, {"check": ToolProfile(command="no-such-program", plugin=plugin)})
    done = await judged(bench, run)
    assert (done.ok, done.error_class, [check.outcome for check in done.checks]) == (False, "check_error", ["error"])
    for said in (f"tool_missing: {named}", "install it on the executor", "no-such-program"):
        assert said in done.message


# The plugins of the document


async def test_the_documents_plugins_work(bench, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    found = {one["plugin_id"]: one for one in blocks if "plugin_id" in one}
    plugins = {name: parse_manifest(json.dumps(one).encode(), "m", name) for name, one in found.items()}
    run = Run(tmp_path, plugins, files_scope=("*",))
    (run.repo / "a.json").write_text("{}")
    (run.repo / "a.py").write_text("import os\n\nassert 1\n")
    first = edited(run)
    (run.repo / "b.json").write_text("{")
    second = edited(run)
    done = await judged(bench, run, input=first)
    assert [(check.name, check.outcome) for check in done.checks] == [
        ("ruff-style", "failed"),
        ("json-syntax", "passed"),
    ]
    told = msgspec.json.decode(await bench.read(done, "diagnostics"))
    assert {(one["code"], one["category"]) for one in told["diagnostics"]} == {
        ("F401", "style"),
        ("S101", "security"),
    }
    (check,) = (await judged(bench, run, input=second)).checks
    assert (check.name, check.outcome) == ("json-syntax", "failed")


# Findings that do not fail


FOUND = {
    "style": "echo 'a.txt:1: ST long'; exit 1",
    "security": "echo 'a.txt:1: SE eval'; exit 1",
    "syntax": "echo 'a.txt:1: ST long'; echo 'b.txt:2: SX broken'; exit 1",
    "type": "echo 'a.txt:1: TY no'; exit 1",
    "test": "echo 'a.txt:1: TF no'; exit 1",
    "nothing": "exit 1",
    "crash": "kill -9 $$",
    "many": "for n in $(seq 1001); do echo 'a.txt:1: ST long'; done; exit 1",
    "success": "exit 0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "strictly", "otherwise"),
    [
        ("style", "failed", "passed"),
        ("security", "failed", "passed"),
        ("syntax", "failed", "failed"),
        ("type", "failed", "failed"),
        ("test", "failed", "failed"),
        ("nothing", "error", "error"),
        ("crash", "error", "error"),
        ("many", "failed", "failed"),
        ("success", "passed", "passed"),
    ],
)
async def test_without_strict_only_findings_that_are_no_hard_fail_pass(bench, tmp_path, found, strictly, otherwise):
    for strict, outcome in ((None, strictly), (False, otherwise)):
        tools = {"check": sh(FOUND[found], report=LINES, categories=CATEGORIES)}
        done = await judged(bench, changed(Run(tmp_path, tools), strict=strict))
        assert [check.outcome for check in done.checks] == [outcome]
        assert done.ok is (outcome == "passed")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(1, "passed"), *((code, "failed") for code in (2, 70, 101, 126, 127, 134, 137, 139, 255))],
)
async def test_without_strict_only_an_exit_code_of_findings_passes(bench, tmp_path, code, outcome):
    """A tool that has crashed in the middle may have named some findings before."""
    tools = {"check": sh(f"echo 'a.txt:1: ST long'; exit {code}", report=LINES, categories=CATEGORIES)}
    (check,) = (await judged(bench, changed(Run(tmp_path, tools), strict=False))).checks
    assert check.outcome == outcome
    assert (f"strict is false, but exit code {code}" in check.message) is (outcome == "failed")


async def test_a_check_without_a_report_stays_failed(bench, tmp_path):
    done = await judged(bench, changed(Run(tmp_path, {"check": sh("echo bad; exit 1")}), strict=False))
    assert (done.ok, done.error_class) == (False, "check_failed")


async def test_what_is_tolerated_is_told(bench, tmp_path):
    tools = {
        "check1": sh(FOUND["style"], report=LINES, categories=CATEGORIES, severities={"": "warning"}),
        "check2": sh(FOUND["syntax"], report=LINES, categories=CATEGORIES),
    }
    run = changed(Run(tmp_path, tools), strict=False)
    done = await judged(bench, run)
    assert [(check.name, check.outcome, check.findings) for check in done.checks] == [
        ("check2", "failed", 2),
        ("check1", "passed", 1),
    ]
    assert "strict is false" in done.checks[1].message
    told = msgspec.json.decode(await bench.read(done, "diagnostics"))
    assert [one["tool"] for one in told["diagnostics"]] == ["check2", "check2"]
    assert [(one["tool"], one["category"], one["severity"]) for one in told["tolerated"]] == [
        ("check1", "style", "warning")
    ]
    assert told["summary"] == {
        "total_issues": 3,
        "issues_by_tool": {"check1": 1, "check2": 2},
        "issues_by_category": {"style": 2, "syntax": 1},
        "has_hard_fail": True,
        "style_only": False,
        "total_errors": 2,
        "total_warnings": 1,
    }
    alone = await judged(bench, changed(Run(tmp_path, {"check1": tools["check1"]}), strict=False))
    assert (alone.ok, alone.findings, alone.signature) == (True, 1, "")
    assert msgspec.json.decode(await bench.read(alone, "diagnostics"))["summary"]["style_only"]
    signatures = {
        (await judged(bench, changed(Run(tmp_path, one), strict=False))).signature
        for one in (tools, {"check2": tools["check2"]})
    }
    assert len(signatures) == 1, "what is tolerated is no part of a failure"


# Files that are known to be clean


def linter(tmp_path) -> Path:
    """A compiled program of which nobody knows that it runs others; its language is that of the shell."""
    program = tmp_path / "linter"
    if not program.exists():
        shutil.copy(Path("/bin/sh").resolve(), program)
    return program


def per_file(tmp_path, script="", *arguments, **fields):
    """A check of single files that notes those it is given: the place is told by a path that is not there."""
    literal = f'echo "$@" >> "${{0%/tool}}/asked"; {script}'.replace("{", "{{").replace("}", "}}")
    args = ("-c", literal, f"{tmp_path}/tool", *arguments, "{files}")
    return ToolProfile(command=str(linter(tmp_path)), args=args, per_file=True, **fields)


FINDS_BAD = 'grep -Hn bad "$@" | sed "s/:bad.*/: ST bad/"; ! grep -q bad "$@"'


def edited(run: Run, **files: str):
    for name, content in files.items():
        (run.repo / f"{name}.txt").write_text(content)
    git(run.repo, "add", "--all")
    git(run.repo, "commit", "--quiet", "--allow-empty", "--message", "edited")
    return run.snapshot("HEAD")


async def test_files_that_were_clean_are_not_handed_over_again_until_they_change(bench, tmp_path):
    run = Run(tmp_path, {"check": per_file(tmp_path)})
    changed_tree = edited(run, b="new\n")
    assert (await judged(bench, run)).ok
    assert asked(tmp_path) == ["a.txt b.txt c.txt d.txt"]
    again = await judged(bench, run)
    assert (again.ok, asked(tmp_path)) == (True, [])
    assert again.checks[0].message == "unchanged since it was clean: 4 files, none looked at"
    other = await judged(bench, run, input=changed_tree)
    assert (other.ok, asked(tmp_path)) == (True, ["b.txt"])
    assert other.checks[0].message == "3 files unchanged since they were clean were not looked at"
    assert (await judged(bench, run)).ok
    assert asked(tmp_path) == [], "what was clean before is still known"


ALL = "a.txt b.txt c.txt d.txt"


@pytest.mark.parametrize("strict", [True, False])
async def test_nothing_is_known_clean_from_a_check_that_did_not_pass(bench, tmp_path, strict):
    """Not even where its findings are tolerated: it may have stopped at the first file, or told of the first few."""
    tools = {"check": per_file(tmp_path, FINDS_BAD, report=LINES, categories=CATEGORIES)}
    run = changed(Run(tmp_path, tools), strict=strict)
    head = edited(run, b="bad\n")
    for _ in range(2):
        done = await judged(bench, run, input=head)
        assert (done.ok, done.findings, asked(tmp_path)) == (not strict, 1, [ALL])
    git(run.repo, "mv", "d.txt", "b2.txt")
    moved = edited(run, b="good\n", b2="d\n")
    wide = changed(Run(tmp_path, tools, files_scope=("*.txt",)), strict=strict)
    assert (await judged(bench, wide, input=moved)).ok
    assert [sorted(call.split()) for call in asked(tmp_path)] == [["a.txt", "b.txt", "b2.txt", "c.txt"]]
    git(run.repo, "mv", "b2.txt", "b3.txt")
    again = edited(run)
    assert (await judged(bench, Run(tmp_path, tools, files_scope=("*.txt",)), input=again)).ok
    assert asked(tmp_path) == ["b3.txt"], "the same content under another name is another file"


FIRST_BAD = 'for f in "$@"; do if grep -q bad "$f"; then echo "$f:1: ST bad"; exit 1; fi; done'
MYPY = """printf '{"file":"%s","line":1,"column":0,"message":"no","hint":null,"code":"%s","severity":"error"}'"""
BLOCKED = (
    f'if grep -q broken "$1"; then {MYPY} "$1" syntax; exit 2; fi; '
    f'if grep -q bad "$2"; then {MYPY} "$2" arg-type; exit 1; fi'
)


@pytest.mark.parametrize(
    ("script", "report", "first"),
    [(FIRST_BAD, LINES, "bad\n"), (BLOCKED, Report(format="mypy-json"), "broken\n")],
)
async def test_what_a_checker_that_stops_early_has_not_looked_at_is_looked_at(bench, tmp_path, script, report, first):
    run = Run(tmp_path, {"check": per_file(tmp_path, script, report=report)})
    both, mended = edited(run, a=first, b="bad\n"), edited(run, a="good\n")
    for head, named in ((both, "a.txt"), (mended, "b.txt")):
        done = await judged(bench, run, input=head)
        assert (done.ok, asked(tmp_path)) == (False, [ALL])
        assert done.checks[0].message.startswith(f"{named}:1: ")


async def test_files_with_warnings_are_reported_each_time(bench, tmp_path):
    run = Run(tmp_path, {"check": per_file(tmp_path, "echo 'b.txt:1: ST long'", report=LINES)})
    for given in (ALL, "b.txt"):
        assert (await judged(bench, run)).ok
        assert asked(tmp_path) == [given]


@pytest.mark.parametrize(
    ("script", "report"),
    [
        ("echo bad; exit 1", Report()),  # no report tells which file it was
        ("echo 'nowhere.txt:1: ST bad'; exit 1", LINES),
        ("echo ':1: ST bad'; exit 1", LINES),
        ("for n in $(seq 1001); do echo 'a.txt:1: ST bad'; done; exit 1", LINES),
        ("kill -9 $$", LINES),
        ("echo 'a.txt:1: ST bad'; kill -9 $$", LINES),
        ("exit 1", LINES),  # it reports nothing and fails: it has crashed
    ],
)
async def test_nothing_is_known_clean_from_a_check_that_leaves_it_open(bench, tmp_path, script, report):
    run = Run(tmp_path, {"check": per_file(tmp_path, script, report=report)})
    for _ in range(2):
        assert not (await judged(bench, run)).ok
        assert asked(tmp_path) == [ALL]


@pytest.mark.parametrize(
    "script",
    [
        "echo ':1: ST bad'",
        "echo 'nowhere.txt:1: ST bad'",
        "for n in $(seq 1001); do echo 'a.txt:1: ST bad'; done",
    ],
)
async def test_a_report_that_leaves_files_open_does_so_of_a_check_that_passed(bench, tmp_path, script):
    run = Run(tmp_path, {"check": per_file(tmp_path, script, report=LINES)})
    for _ in range(2):
        assert (await judged(bench, run)).ok
        assert asked(tmp_path) == [ALL]


async def test_another_checker_knows_nothing_of_it(bench, tmp_path):
    """Its profile, what stands in its arguments, its program, and the files it reads are part of what it is."""
    program = linter(tmp_path)
    reads = 'eval "$(cat d*)"'

    def run(context=None, **fields) -> Run:
        made = Run(tmp_path, {"check": per_file(tmp_path, reads, "{level}", **fields)}, files_scope=("a.txt", "b.txt"))
        options = msgspec.structs.replace(made.spec.options, context={"level": "one"} | (context or {}))
        made.spec = msgspec.structs.replace(made.spec, options=options)
        return made

    async def calls(made: Run, **more) -> int:
        done = await judged(bench, made, **more)
        assert done.ok, done.message
        return len(asked(tmp_path))

    first = run()
    quiet = edited(first, d="true\n")
    assert [await calls(run(), input=quiet) for _ in range(2)] == [1, 0]
    assert await calls(run({"unused": "x"}), input=quiet) == 0
    assert await calls(run({"level": "two"}), input=quiet) == 1
    assert await calls(run(timeout_sec=9.0), input=quiet) == 1
    os.utime(program, ns=(1, 1))
    assert [await calls(run(), input=quiet) for _ in range(2)] == [1, 0]
    louder = edited(first, d=":\n")
    assert await calls(run(), input=louder) == 0, "a file that it does not say it reads"
    config = {"config_files": ("d.*",)}
    assert [await calls(run(**config), input=one) for one in (quiet, louder, quiet, louder)] == [1, 1, 0, 0]


BLOB = "100644 blob " + "a" * 40


def checker(tmp_path, tree=None, **fields) -> str | None:
    """What a checker is on a tree: paths, each with what it holds."""
    profile = ToolProfile(**{"command": str(linter(tmp_path)), "args": ("{files}",), "per_file": True} | fields)
    root = tmp_path / "tree"
    context = {**dict.fromkeys(("worktree_path", "repo_root", "cwd"), str(root)), "config": "lint/strict.cfg"}
    listed = {"a.txt": BLOB, "src/a.txt": BLOB, "lint/deep/a.txt": BLOB} | (tree or {})
    return clean.checker_of("check", profile, context, {"PATH": os.environ["PATH"]}, listed, root)


CONFIGS = [
    "lint/strict.cfg", "--config=lint/strict.cfg", "--config={repo_root}/lint/strict.cfg", "-clint/strict.cfg",
    "./lint//./strict.cfg", "--rules=lint", "lint/", "{repo_root}/lint/*.cfg", "-Clint/strict", "{config}", "@lint/strict.cfg",
    '{"extends": ["./lint/strict.cfg"]}', "one.cfg,lint/strict.cfg", "--root={worktree_path}", ".", "--root=./", "-C.",
    "src/../lint/strict.cfg", "lint/deep/../strict.cfg", "/proc/self/cwd/lint/strict.cfg",
]  # fmt: skip


@pytest.mark.parametrize("word", CONFIGS)
@pytest.mark.parametrize(
    "fields",
    [
        lambda word: {"args": (word, "{files}")},
        lambda word: {"args": (("--with", word, "{files}"),)},
        lambda word: {"env": {"CONFIG": word}},
        lambda word: {"headless_args": (word,)},
        lambda word: {"args_in_sandbox": {"--plain": word}},
    ],
    ids=["argument", "group", "variable", "headless", "sandbox"],
)
def test_configuration_that_a_word_may_name_is_part_of_the_checker(tmp_path, fields, word):
    one, other = (checker(tmp_path, {"lint/strict.cfg": f"100644 blob {c * 40}"}, **fields(word)) for c in "ab")
    assert one is None or one != other


@pytest.mark.parametrize(
    "word", ["--quiet", "--format=json", "--config=elsewhere.cfg", "--rules=strict", "srcs", "lint.cfg"]
)
def test_a_word_that_names_nothing_of_the_tree_costs_no_file_its_mark(tmp_path, word):
    found = {checker(tmp_path, {"src/a.txt": f"100644 blob {c * 40}"}, args=(word, "{files}")) for c in "ab"}
    assert len(found) == 1
    assert None not in found


def test_configuration_outside_of_the_tree_is_part_of_the_checker(tmp_path):
    config = tmp_path / "lint.cfg"
    for word in (str(config), f"--config={config}", f"-c{config}"):
        found = []
        for content in (None, "lax", "strict"):
            config.unlink(missing_ok=True) if content is None else config.write_text(content)
            found.append(checker(tmp_path, args=(word, "{files}")))
        assert len({*found, None}) == 4
        assert checker(tmp_path, args=(word.replace("lint.cfg", ""), "{files}")) is None, "a folder may hold anything"
    assert checker(tmp_path, args=("--config=/dev/null", "{files}")) is not None


@pytest.mark.parametrize(
    ("fields", "spared"),
    [
        ({}, True),
        ({"args": ("--config=lint.cfg", "{files}")}, False),
        ({"args": ("--config=folder/lint.cfg", "{files}")}, False),
        ({"config_files": ("lint.cfg",)}, False),
        ({"config_files": ("elsewhere.cfg",)}, False),  # it may stand below the link to a folder
        ({"secrets": {"TOKEN": "env:TOKEN"}}, False),
        ({"args": ("{unknown}", "{files}")}, False),
    ],
)
def test_nothing_is_spared_where_configuration_may_be_reached_through_a_link(tmp_path, fields, spared):
    (tmp_path / "tree" / "lax").mkdir(parents=True)
    (tmp_path / "tree" / "folder").symlink_to("lax")
    links = dict.fromkeys(("folder", "lint.cfg"), "120000 blob " + "a" * 40)
    assert (checker(tmp_path, links, **fields) is not None) is spared


def test_what_turns_blobs_into_files_is_part_of_the_checker(tmp_path):
    found = {checker(tmp_path, {path: BLOB}) for path in (".gitattributes", "src/.gitattributes", "other")}
    assert len(found) == 3
    assert checker(tmp_path, {"sub": f"160000 commit {'a' * 40}"}) != checker(tmp_path)


RUNNERS = ("sh", "python3.11", "node", "rustfmt", "uv", "php8.2")


@pytest.mark.parametrize("kind", ["script", "shims", *RUNNERS, "link"])
def test_nothing_is_spared_for_a_program_whose_code_is_elsewhere(tmp_path, kind):
    own = linter(tmp_path)
    program = tmp_path / "bin" / (kind if kind in RUNNERS else "own")
    if kind == "shims":
        program = tmp_path / "shims" / "own"
    program.parent.mkdir()
    shutil.copy(own, program)
    if kind == "script":
        program.write_text(f"#!{own}\n. {tmp_path}/rules\n")
    elif kind == "link":
        program.rename(program.with_name("mise"))
        program.symlink_to("mise")
    assert checker(tmp_path, command=str(program)) is None
    assert checker(tmp_path) is not None
    assert checker(tmp_path, command="{python}", args=("-m", "linter", "{files}")) is None


def test_a_program_behind_a_link_is_the_one_it_leads_to(tmp_path):
    own, other, program = linter(tmp_path), tmp_path / "other", tmp_path / "program"
    shutil.copy(own, other)
    found = []
    for target in (own, other, own):
        program.unlink(missing_ok=True)
        program.symlink_to(target)
        found.append(checker(tmp_path, command=str(program)))
    assert found[0] == found[2] != found[1]
    assert None not in found


@pytest.mark.parametrize("arguments", [(), ("--config=lint/ruff.toml",)])
async def test_a_real_linter_is_never_passed_by_what_another_configuration_said(bench, tmp_path, arguments):
    """Its settings are changed behind a link in the one case, behind an option in the other."""
    ruff = Path(sys.executable).with_name("ruff")
    profile = ToolProfile(
        command=str(ruff),
        args=("check", "--no-cache", "--output-format", "json", *arguments, "{files}"),
        per_file=True,
        report=Report(format="ruff-json"),
        config_files=("ruff.toml",),
        file_extensions=(".py",),
    )
    run = Run(tmp_path, {"check": profile}, files_scope=("*.py",))
    (run.repo / "m.py").write_text("import os\n")
    (run.repo / "lint").mkdir()
    heads = []
    for name, rules in (("lax", "E9"), ("hard", "F"), ("lax", "E9")):
        (run.repo / f"{name}.toml").write_text(f'lint.select = ["{rules}"]\n')
        place = run.repo / "lint" / "ruff.toml" if arguments else run.repo / "ruff.toml"
        place.unlink(missing_ok=True)
        if arguments:
            place.write_text(f'lint.select = ["{rules}"]\n')
        else:
            place.symlink_to(f"{name}.toml")
        heads.append(edited(run))
    done = [await judged(bench, run, input=head) for head in heads]
    assert [one.ok for one in done] == [True, False, True], [one.message for one in done]
    spared = done[2].checks[0].message == "unchanged since it was clean: 1 files, none looked at"
    assert spared is bool(arguments)


async def test_a_checker_of_the_worktree_is_never_spared(bench, tmp_path):
    """What it is cannot be told before it is started."""
    run = Run(tmp_path, {"check": ToolProfile(command="./check.sh", args=("{files}",), per_file=True)})
    script = run.repo / "check.sh"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    script.chmod(0o755)
    head = edited(run)
    for _ in range(2):
        assert (await judged(bench, run, input=head)).ok
        assert asked(tmp_path) == ["a.txt b.txt c.txt d.txt"]


async def test_links_are_looked_at_each_time(bench, tmp_path):
    run = Run(tmp_path, {"check": per_file(tmp_path)})
    (run.repo / "b.txt").unlink()
    (run.repo / "b.txt").symlink_to("elsewhere.txt")
    (run.repo / "elsewhere.txt").write_text("x")
    head = edited(run)
    for given in ("a.txt b.txt c.txt d.txt", "b.txt"):
        assert (await judged(bench, run, input=head)).ok
        assert asked(tmp_path) == [given]


# What is kept of it


MARKS = ["0" * 32, "f" * 32]


def test_marks_are_kept_by_checker_and_limited(tmp_path, monkeypatch):
    found = CleanFiles(tmp_path / "clean")
    assert found.known("c") == set()
    found.add("c", [])
    assert not (tmp_path / "clean").exists()
    found.add("c", MARKS)
    found.add("d", MARKS[:1])
    assert (found.known("c"), found.known("d")) == (set(MARKS), set(MARKS[:1]))
    monkeypatch.setattr(clean, "MARKS_MAX", 3)
    found.add("c", ["1" * 32, MARKS[0], "2" * 32])
    assert found.known("c") == {"1" * 32, MARKS[0], "2" * 32}, "what was told last stays"
    monkeypatch.setattr(clean, "CHECKERS_MAX", 2)
    for number, name in enumerate("cde"):
        found.add(name, MARKS)
        os.utime(tmp_path / "clean" / name, (number, number))
    found.add("f", MARKS)
    assert sorted(file.name for file in (tmp_path / "clean").iterdir()) == ["e", "f"]


def test_as_many_marks_as_there_may_be_can_be_read_again(tmp_path):
    found = CleanFiles(tmp_path)
    marks = [f"{number:032x}" for number in range(clean.MARKS_MAX)]
    found.add("c" * 64, marks)
    assert len(found.known("c" * 64)) == clean.MARKS_MAX


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\x00\xff" * 100),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(b"[" * 100_000),
        lambda file: file.write_bytes(b'{"checker":"c","marks":["../../x"]}'),
        lambda file: file.write_bytes(b'{"checker":"d","marks":["%s"]}' % (b"0" * 32)),
        lambda file: file.write_bytes(b'{"checker":"c","marks":["%s"],"more":1}' % (b"0" * 32)),
        lambda file: file.write_bytes(file.read_bytes() + b" " * clean.FILE_BYTES_MAX),
        lambda file: (file.unlink(), os.mkfifo(file)),
        lambda file: (file.rename(file.with_name("x")), file.symlink_to("x")),
    ],
)  # fmt: skip
def test_what_is_no_such_file_counts_as_empty_and_is_written_anew(tmp_path, damage):
    found = CleanFiles(tmp_path)
    found.add("c", MARKS)
    damage(tmp_path / "c")
    assert found.known("c") == set()
    found.add("c", MARKS[:1])
    assert found.known("c") == set(MARKS[:1])


def test_a_folder_that_takes_nothing_costs_nothing_but_the_memory(tmp_path):
    (tmp_path / "clean").write_text("in the way")
    found = CleanFiles(tmp_path / "clean")
    found.add("c", MARKS)
    assert found.known("c") == set()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c").mkdir()
    found = CleanFiles(tmp_path / "other")
    found.add("c", MARKS)
    assert found.known("c") == set()
