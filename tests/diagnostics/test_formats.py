"""Each format: what a real tool says in it, what its silence and its exit codes mean, and that lines may move.

The samples in `reports` are captures of cargo, and for tools that are not installed here written after what they print.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from services.diagnostic import error_signature
from services.executor.diagnostics import REPORT_DECIDES, ReportError, judge, parse

RUFF = Path(sys.executable).parent / "ruff"
REPORTS = Path(__file__).parent / "reports"
TREE = Path("/srv/tree")
SAMPLES = {
    "pyright-json": "pyright.json",
    "eslint-json": "eslint.json",
    "tsc-text": "tsc.txt",
    "cargo-json": "cargo_check.jsonl",
    "go-test-json": "go_test.jsonl",
    "go-vet-json": "go_vet.txt",
}


def sample(name: str) -> bytes:
    return (REPORTS / name).read_bytes()


def failed(report_format: str, data: bytes, *, exit_code: int = 1, tree: Path = TREE, **more):
    return judge(report_format, data, worktree=tree, exit_code=exit_code, success=False, **more).diagnostics


def places(found):
    return [(one.path, one.line, one.column, one.severity, one.code) for one in found]


def by_ruff(folder: Path, form: str, code: str) -> tuple[int, bytes]:
    """What ruff prints in this form of a file with this code."""
    (folder / "pkg").mkdir(exist_ok=True)
    (folder / "pkg" / "a.py").write_text(code)
    argv = [RUFF, "check", "--isolated", "--no-cache", "--select", "F", "--output-format", form, "."]
    done = subprocess.run(argv, cwd=folder, capture_output=True, check=False)
    return done.returncode, done.stdout


RUFF_FORMS = [("sarif", "sarif", "ruff"), ("rdjson", "rdjson", "ruff"), ("gitlab", "gitlab-json", "gitlab")]


@pytest.mark.parametrize(("form", "report_format", "tool"), RUFF_FORMS)
def test_ruff_in_other_forms(tmp_path, form, report_format, tool):
    """SARIF, rdjson and GitLab's form as ruff writes them: findings, moved lines, and a clean run."""
    code, report = by_ruff(tmp_path, form, "import os\n\n\ndef f():\n    return undefined\n")
    found = judge(report_format, report, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics
    severity = "warning" if form == "rdjson" else "error"
    assert places(found) == [("pkg/a.py", 1, 8, severity, "F401"), ("pkg/a.py", 5, 12, severity, "F821")]
    assert [one.tool for one in found] == [tool, tool]
    assert found[1].message == "Undefined name `undefined`"
    assert (found[0].end_line, found[0].end_column) == (1, 10)

    _, moved = by_ruff(tmp_path, form, "\n\n\nimport os\n\n\n\ndef f():\n    return undefined\n")
    again = parse(report_format, moved, worktree=tmp_path)
    assert again[0].line == 4
    assert error_signature(again) == error_signature(found)

    code, clean = by_ruff(tmp_path, form, "x = 1\n")
    assert judge(report_format, clean, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics == []


@pytest.mark.parametrize(("form", "report_format", "tool"), RUFF_FORMS)
def test_a_report_cut_short_anywhere_is_an_error(tmp_path, form, report_format, tool):
    _, report = by_ruff(tmp_path, form, "import os\n")
    report = report.strip()
    for end in range(0, len(report), max(1, len(report) // 40)):
        with pytest.raises(ReportError):
            parse(report_format, report[:end], worktree=tmp_path)


def test_pyright():
    """Its lines and columns count from 0, ours from 1."""
    found = failed("pyright-json", sample("pyright.json"))
    assert places(found) == [
        ("pkg/a.py", 2, 12, "error", "reportReturnType"),
        ("pkg/a.py", 1, 8, "warning", "reportMissingModuleSource"),
        ("pkg/a.py", 5, 1, "error", ""),
    ]
    assert (found[0].end_line, found[0].end_column) == (2, 15)


@pytest.mark.parametrize("exit_code", [2, 3, 4])
def test_pyright_that_could_not_work(exit_code):
    with pytest.raises(ReportError, match=f"exit code {exit_code}"):
        failed("pyright-json", sample("pyright.json"), exit_code=exit_code)


def test_pyright_that_looked_at_no_file():
    with pytest.raises(ReportError, match="no source file"):
        parse("pyright-json", b'{"generalDiagnostics": [], "summary": {"filesAnalyzed": 0}}', worktree=TREE)


def test_eslint():
    assert places(failed("eslint-json", sample("eslint.json"))) == [
        ("src/a.js", 1, 7, "error", "no-unused-vars"),
        ("src/a.js", 3, 9, "warning", "eqeqeq"),
        ("src/b.js", 2, 5, "error", "parsing-error"),
    ]


def test_eslint_with_too_many_warnings_has_failed_and_not_crashed():
    report = (
        b'[{"filePath": "a.js", "messages": [{"ruleId": "x", "severity": 1, "message": "m", "line": 1, "column": 1}]}]'
    )
    (found,) = failed("eslint-json", report)
    assert found.severity == "warning"
    with pytest.raises(ReportError, match="exit code 2"):
        failed("eslint-json", report, exit_code=2)


def test_tsc():
    found = failed("tsc-text", sample("tsc.txt"), exit_code=2)
    assert places(found) == [
        ("src/a.ts", 1, 7, "error", "TS2322"),
        ("src/my (old) file.ts", 12, 3, "error", "TS2345"),
        ("", None, None, "error", "TS18003"),
    ]
    assert found[0].message == "Type 'string' is not assignable to type 'number'."
    assert found[1].message.endswith(
        "'Options'.\n  Types of property 'a' are incompatible.\n    Type 'string' is not assignable to type 'number'."
    )


def test_tsc_coloured_and_with_windows_line_ends():
    (found,) = parse("tsc-text", b"\x1b[96msrc/a.ts(1,7)\x1b[0m: \x1b[91merror\x1b[0m TS1: m\r\n", worktree=TREE)
    assert (found.path, found.line, found.message) == ("src/a.ts", 1, "m")


@pytest.mark.parametrize("report_format", ["tsc-text", "pattern", "rdjsonl", "mypy-json"])
def test_a_form_without_a_word_for_all_is_well(report_format):
    """Nothing printed is a clean run if the exit code says so, and a crash otherwise."""
    expression = "(?P<message>x.*)"
    silent = judge(report_format, b"", worktree=TREE, exit_code=0, success=True, expression=expression).diagnostics
    assert silent == []
    with pytest.raises(ReportError, match="reported no error"):
        failed(report_format, b"", expression=expression)


EMPTY = ["ruff-json", "junit-xml", "sarif", "pyright-json", "eslint-json", "cargo-json", "go-test-json", "go-vet-json",
         "rdjson", "gitlab-json"]  # fmt: skip


NO_REPORT = [b"", b"\n \n", b"\xef\xbb\xbf", b"null", b"[", b"Segmentation fault\n"]


@pytest.mark.parametrize("report_format", EMPTY)
@pytest.mark.parametrize("data", NO_REPORT)
def test_a_missing_report_is_an_error_even_of_a_tool_that_succeeded(report_format, data):
    with pytest.raises(ReportError):
        judge(report_format, data, worktree=TREE, exit_code=0, success=True)


def test_cargo_check():
    found = failed("cargo-json", sample("cargo_check.jsonl"), exit_code=101)
    assert places(found) == [
        ("src/lib.rs", 1, 5, "warning", "unused_imports"),
        ("src/lib.rs", 3, 18, "error", "E0308"),
    ]
    assert found[1].message == "mismatched types: expected `u32`, found `&str`"


def test_cargo_test():
    """The warning, which both targets have, once; then the tests that failed, from the text after the build."""
    found = failed("cargo-json", sample("cargo_test.jsonl"), exit_code=101)
    assert places(found) == [
        ("src/lib.rs", 2, 9, "warning", "unused_variables"),
        ("src/lib.rs", 10, 18, "error", "test-failed"),
        ("src/lib.rs", 3, 5, "error", "test-failed"),
    ]
    assert [one.message for one in found[1:]] == [
        "tests::wrong: assertion `left == right` failed: a message",
        "tests::deep: attempt to divide by zero",
    ]


def test_cargo_that_fails_with_nothing_but_warnings_could_not_work():
    """A build script that failed is no message of the compiler."""
    warning = {"reason": "compiler-message", "message": {"message": "unused", "level": "warning"}}
    lines = [warning, {"reason": "build-finished", "success": False}]
    data = b"\n".join(msgspec.json.encode(line) for line in lines)
    with pytest.raises(ReportError, match="reported no error"):
        failed("cargo-json", data, exit_code=101)
    warning["message"]["level"] = "error"
    assert failed("cargo-json", b"\n".join(msgspec.json.encode(line) for line in lines), exit_code=101)


@pytest.mark.parametrize(
    ("report_format", "file", "code", "counted"),
    [
        ("cargo-json", "cargo_test.jsonl", 101, (3, 2, 0)),
        ("cargo-json", "cargo_check.jsonl", 101, (None, None, None)),
        ("go-test-json", "go_test.jsonl", 1, (3, 2, 0)),
    ],
)
def test_tests_are_counted(report_format, file, code, counted):
    found = judge(report_format, sample(file), worktree=TREE, exit_code=code, success=False).counts
    assert (found.tests, found.failures, found.skipped) == counted


def test_cargo_test_of_an_older_rust():
    text = (
        b'{"reason": "build-finished", "success": true}\n---- t stdout ----\n'
        b"thread 't' panicked at 'it's wrong', src/lib.rs:9:5\nnote: run with\n\nfailures:\n    t\n"
    )
    (found,) = failed("cargo-json", text, exit_code=101)
    assert (found.path, found.line, found.message) == ("src/lib.rs", 9, "t: it's wrong")


def test_a_failed_rust_test_that_did_not_panic():
    text = b'{"reason": "build-finished"}\n---- t stdout ----\nError: "no file"\n\n\nfailures:\n    t\n'
    (found,) = failed("cargo-json", text, exit_code=101)
    assert (found.path, found.message) == ("", 't: Error: "no file"')


def test_cargo_that_did_not_finish_or_whose_compiler_crashed():
    whole = sample("cargo_check.jsonl")
    with pytest.raises(ReportError, match="build is finished"):
        failed("cargo-json", whole[: whole.index(b'{"reason": "build-finished"')], exit_code=101)
    crash = b'{"reason": "compiler-message", "message": {"level": "error: internal compiler error", "message": "boom"}}'
    with pytest.raises(ReportError, match="compiler itself has crashed: boom"):
        failed("cargo-json", crash, exit_code=101)


def test_an_error_inside_a_foreign_macro_is_placed_where_the_macro_is_used():
    inner = {"file_name": "/rustc/1/std.rs", "line_start": 9, "line_end": 9, "column_start": 1, "column_end": 2}
    outer = inner | {"file_name": "src/lib.rs", "line_start": 4}
    message = {"level": "error", "message": "m", "spans": [inner | {"is_primary": True, "expansion": {"span": outer}}]}
    lines = [{"reason": "compiler-message", "message": message}, {"reason": "build-finished"}]
    (found,) = failed("cargo-json", "\n".join(map(json.dumps, lines)).encode(), exit_code=101)
    assert (found.path, found.line) == ("src/lib.rs", 4)


def test_go_test(tmp_path):
    """A test that failed only by its part is not told twice; its file is found in the folder of its package."""
    (tmp_path / "calc").mkdir()
    (tmp_path / "calc" / "calc_test.go").write_text("package calc\n")
    (found,) = failed("go-test-json", sample("go_test.jsonl"), tree=tmp_path)
    assert (found.path, found.line, found.code) == ("calc/calc_test.go", 9, "test-failed")
    assert found.message == "TestDivide/by_two: calc_test.go:9: got 2, want 3"


def test_go_test_that_does_not_compile():
    found = failed("go-test-json", sample("go_test_build.jsonl"))
    assert places(found) == [
        ("calc/calc.go", 4, 9, "error", "build"),
        ("calc/calc.go", 8, 2, "error", "build"),
    ]
    assert found[1].message == "not enough arguments in call to f\n\thave ()\n\twant (int)"


def test_go_test_that_does_not_compile_before_go_1_24():
    events = sample("go_test_build.jsonl").splitlines(keepends=True)[6:]
    (found,) = failed("go-test-json", b"".join(events).replace(b"FailedBuild", b"Other"))
    assert (found.code, found.message) == ("build", "example.com/m/calc: failed")


def test_a_panic_is_placed_at_its_innermost_frame_inside_the_worktree(tmp_path):
    (tmp_path / "a.go").write_text("package m\n")
    text = f"panic: boom\n\ngoroutine 7 [running]:\nm.f(...)\n\t/usr/lib/go/x.go:1\n\t{tmp_path}/a.go:12 +0x1d\n"
    events = [
        *({"Action": "output", "Package": "m", "Test": "TestP", "Output": line + "\n"} for line in text.split("\n")),
        {"Action": "fail", "Package": "m", "Test": "TestP"},
        {"Action": "fail", "Package": "m"},
    ]
    (found,) = failed("go-test-json", "\n".join(map(json.dumps, events)).encode(), tree=tmp_path)
    assert (found.path, found.line) == ("a.go", 12)
    assert found.message.startswith("TestP: panic: boom")


def test_a_package_that_fails_without_a_failing_test_is_a_finding():
    events = [
        {"Action": "output", "Package": "m", "Output": "os.Exit was called\n"},
        {"Action": "fail", "Package": "m"},
    ]
    (found,) = failed("go-test-json", "\n".join(map(json.dumps, events)).encode())
    assert (found.code, found.message) == ("package-failed", "m: os.Exit was called")


@pytest.mark.parametrize("kept", range(1, 16))
def test_go_test_cut_short_is_an_error(kept):
    lines = sample("go_test.jsonl").splitlines(keepends=True)
    with pytest.raises(ReportError, match="cut short"):
        failed("go-test-json", b"".join(lines[:kept]))


def test_go_vet(tmp_path):
    (found,) = parse("go-vet-json", sample("go_vet.txt"), worktree=TREE)
    assert places([found]) == [("calc/calc.go", 7, 2, "error", "printf")]
    assert (found.end_line, found.end_column) == (7, 20)


def test_go_vet_whose_success_says_nothing_is_judged_by_its_report():
    (found,) = judge("go-vet-json", sample("go_vet.txt"), worktree=TREE, exit_code=0, success=True).diagnostics
    assert found.path == "calc/calc.go"
    assert "go-vet-json" in REPORT_DECIDES
    assert judge("go-vet-json", b"# m\n{}\n", worktree=TREE, exit_code=0, success=True).diagnostics == []


def test_go_vet_with_a_broken_analyzer_cut_short_or_with_text():
    for data in (b'{"m": {"printf": {"error": "boom"}}}', b'{\n"m": {\n', b"# m\nvet: ./a.go:3:2: undefined: x\n"):
        with pytest.raises(ReportError):
            parse("go-vet-json", data, worktree=TREE)


def test_rdjsonl():
    """Severities by name and by number, a diagnostic without place, other separators inside a text."""
    lines = [
        {"message": "a\u2028b", "location": {"path": "./a.c", "range": {"start": {"line": 3, "column": 5}}},
         "severity": "ERROR", "code": {"value": "E1"}, "source": {"name": "lint"}},
        {"message": "m", "severity": 3},
        {"message": "n"},
    ]  # fmt: skip
    data = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    found = failed("rdjsonl", data)
    assert places(found) == [("a.c", 3, 5, "error", "E1"), ("", None, None, "info", ""), ("", None, None, "error", "")]
    assert [one.tool for one in found] == ["lint", "rdjson", "rdjson"]


def test_gitlab_by_lines():
    report = [
        {"description": "d", "check_name": "c", "fingerprint": "f", "severity": "minor",
         "location": {"path": "a.rb", "lines": {"begin": 3, "end": 4}}},
        {"description": "d", "severity": "info", "location": {"path": "b.rb", "lines": {"begin": 1}}},
    ]  # fmt: skip
    found = failed("gitlab-json", json.dumps(report).encode())
    assert places(found) == [("a.rb", 3, None, "warning", "c"), ("b.rb", 1, None, "info", "")]
    assert found[0].end_line == 4


def sarif(*results, **run) -> bytes:
    tool = {"driver": {"name": "x", "rules": run.pop("rules", [])}}
    return json.dumps({"version": "2.1.0", "runs": [{"tool": tool, "results": list(results), **run}]}).encode()


def result(**fields):
    return {"message": {"text": "m"}, "ruleId": "r", **fields}


def at(uri: str, **more):
    return [{"physicalLocation": {"artifactLocation": {"uri": uri, **more}, "region": {"startLine": 3}}}]


@pytest.mark.parametrize(
    ("fields", "rules", "severity"),
    [
        ({}, [], "warning"),
        ({"level": "error"}, [], "error"),
        ({"level": "note"}, [], "info"),
        ({"level": "none"}, [], "info"),
        ({}, [{"id": "r", "defaultConfiguration": {"level": "error"}}], "error"),
        ({"ruleIndex": 1}, [{"id": "q"}, {"id": "r", "defaultConfiguration": {"level": "note"}}], "info"),
        ({"kind": "review"}, [], "info"),
    ],
)
def test_sarif_levels(fields, rules, severity):
    (found,) = failed("sarif", sarif(result(**fields), rules=rules))
    assert found.severity == severity


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "pass"},
        {"kind": "notApplicable"},
        {"baselineState": "absent"},
        {"suppressions": [{"kind": "inSource"}]},
    ],
)
def test_sarif_results_that_do_not_count(fields):
    assert parse("sarif", sarif(result(**fields)), worktree=TREE) == []


def test_sarif_suppression_that_was_rejected_counts():
    (found,) = failed("sarif", sarif(result(suppressions=[{"kind": "external", "status": "rejected"}])))
    assert found.code == "r"


@pytest.mark.parametrize(
    ("places_", "run", "path"),
    [
        (at("src/a%20b.c"), {}, "src/a b.c"),
        (at("file:///srv/tree/src/a.c"), {}, "src/a.c"),
        (at("a.c", uriBaseId="ROOT"), {"originalUriBaseIds": {"ROOT": {"uri": "file:///srv/tree/src/"}}}, "src/a.c"),
        (
            at("a.c", uriBaseId="SRC"),
            {"originalUriBaseIds": {"SRC": {"uri": "src/", "uriBaseId": "TOP"}, "TOP": {"uri": "file:///srv/tree/"}}},
            "src/a.c",
        ),
        (at("a.c", uriBaseId="A"), {"originalUriBaseIds": {"A": {"uri": "a/", "uriBaseId": "A"}}}, "a/" * 8 + "a.c"),
        (at("https://example.com/a.c"), {}, ""),
        (at("http://[broken"), {}, ""),
        (
            [{"physicalLocation": {"artifactLocation": {"index": 0}}}],
            {"artifacts": [{"location": {"uri": "b.c"}}]},
            "b.c",
        ),
        ([{"physicalLocation": {"artifactLocation": {"index": 7}}}], {}, ""),
        ([], {}, ""),
    ],
)
def test_sarif_addresses(places_, run, path):
    (found,) = failed("sarif", sarif(result(locations=places_), **run))
    assert found.path == path


def test_sarif_messages_by_id():
    rules = [{"id": "r", "messageStrings": {"default": {"text": "{0} is {1}, {9}"}}}]
    message = {"id": "default", "arguments": ["a", "b"]}
    (found,) = failed("sarif", sarif(result(message=message), rules=rules))
    assert found.message == "a is b, {9}"


@pytest.mark.parametrize(
    ("report", "match"),
    [
        (sarif(invocations=[{"executionSuccessful": False, "toolExecutionNotifications": [{"message": {"text": "disk full"}}]}]), "disk full"),
        (b'{"version": "2.1.0", "runs": []}', "no run"),
        (b'{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": null}]}', "no results"),
        (b'{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}}]}', "no results"),
        (b'{"version": "1.0.0", "runs": []}', "version"),
    ],
)  # fmt: skip
def test_sarif_of_a_tool_that_came_to_nothing(report, match):
    with pytest.raises(ReportError, match=match):
        judge("sarif", report, worktree=TREE, exit_code=0, success=True)


_NUMBER = re.compile(rb'("(?:line|line_start|line_end|endLine)": ?|\.go:|\.rs:|\.tsx?\()(\d+)')


@pytest.mark.parametrize(
    ("report_format", "name"),
    [*SAMPLES.items(), ("cargo-json", "cargo_test.jsonl"), ("go-test-json", "go_test_build.jsonl")],
)
def test_the_signature_is_the_same_when_lines_move(report_format, name):
    data = sample(name)
    moved = _NUMBER.sub(lambda place: place[1] + str(int(place[2]) + 17).encode(), data)
    one, other = (parse(report_format, report, worktree=TREE) for report in (data, moved))
    assert [d.line for d in one] != [d.line for d in other]
    assert error_signature(one) == error_signature(other)
    assert error_signature(one[:-1]) != error_signature(other)


def test_a_name_for_the_tool_takes_the_place_of_the_reports_own():
    (found,) = parse("sarif", sarif(result()), worktree=TREE, tool="my-check")
    assert found.tool == "my-check"
