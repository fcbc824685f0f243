"""Reports of real checkers, and reports that are not to be trusted."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.diagnostics import Diagnostic, ReportError, judge, parse, read
from services.executor.diagnostics.report import DIAGNOSTICS_MAX, REPORT_BYTES

BIN = Path(sys.executable).parent
TREE = Path("/nowhere")


def check(folder: Path, *argv: str) -> tuple[int, bytes]:
    done = subprocess.run([BIN / argv[0], *argv[1:]], cwd=folder, capture_output=True, check=False)
    return done.returncode, done.stdout


@pytest.fixture
def ruff_config(tmp_path):
    (tmp_path / "ruff.toml").write_text('lint.select = ["E", "F"]\ncache-dir = ".ruff_cache"\n')


def test_ruff(tmp_path, ruff_config):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text("x = 1\nimport os\n")
    code, out = check(tmp_path, "ruff", "check", "--output-format", "json", ".")
    found = judge("ruff-json", out, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics
    assert [(one.path, one.line, one.code, one.severity) for one in found] == [
        ("pkg/a.py", 2, "E402", "error"),
        ("pkg/a.py", 2, "F401", "error"),
    ]
    assert (found[1].column, found[1].end_line, found[1].end_column) == (8, 2, 10)
    assert "`os` imported but unused" in found[1].message


def test_ruff_syntax_error_and_clean_run(tmp_path, ruff_config):
    (tmp_path / "a.py").write_text("def (\n")
    _, out = check(tmp_path, "ruff", "check", "--output-format", "json", ".")
    assert {(one.path, one.line, one.severity) for one in parse("ruff-json", out, worktree=tmp_path)} >= {
        ("a.py", 1, "error")
    }
    (tmp_path / "a.py").write_text("x = 1\n")
    assert (
        parse("ruff-json", check(tmp_path, "ruff", "check", "--output-format", "json", ".")[1], worktree=tmp_path) == []
    )


def test_ruff_that_crashed_is_an_error_not_a_clean_run(tmp_path):
    (tmp_path / "ruff.toml").write_text("nonsense = 1\n")
    code, out = check(tmp_path, "ruff", "check", "--output-format", "json", ".")
    assert code == 2
    with pytest.raises(ReportError, match="ruff's JSON report is missing: the tool wrote nothing"):
        parse("ruff-json", out, worktree=tmp_path)


def test_mypy(tmp_path):
    (tmp_path / "a.py").write_text('def f(x: int) -> str:\n    return x\n\n\ny = f("a")\nreveal_type(y)\n')
    code, out = check(tmp_path, "mypy", "--output", "json", "--cache-dir=/dev/null", ".")
    found = judge("mypy-json", out, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics
    assert [(one.path, one.line, one.column, one.code, one.severity) for one in found] == [
        ("a.py", 2, 12, "return-value", "error"),
        ("a.py", 5, 7, "arg-type", "error"),
        ("a.py", 6, 13, "misc", "info"),
    ]
    (tmp_path / "a.py").write_text("def f(x: int) -> int:\n    return x\n")
    code, out = check(tmp_path, "mypy", "--output", "json", "--cache-dir=/dev/null", ".")
    assert judge("mypy-json", out, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics == []


def test_mypy_that_could_not_run_is_an_error(tmp_path):
    code, out = check(tmp_path, "mypy", "--output", "json", "--cache-dir=/dev/null", "absent.py")
    assert code == 2
    with pytest.raises(ReportError, match="errors prevented further checking"):
        judge("mypy-json", out, worktree=tmp_path, exit_code=code, success=False)


@pytest.mark.parametrize(("report_format", "data"), [("mypy-json", b"\n"), ("ruff-json", b"[]")])
def test_a_tool_that_failed_and_reports_nothing_has_crashed(report_format, data):
    with pytest.raises(ReportError, match="exit code 137"):
        judge(report_format, data, worktree=TREE, exit_code=137, success=False)


def test_mypy_reports_a_syntax_error_as_a_finding(tmp_path):
    (tmp_path / "a.py").write_text("def (\n")
    code, out = check(tmp_path, "mypy", "--output", "json", "--cache-dir=/dev/null", ".")
    assert code == 2
    found = judge("mypy-json", out, worktree=tmp_path, exit_code=code, success=False).diagnostics
    assert (found[0].path, found[0].line, found[0].column, found[0].code) == ("a.py", 1, 5, "syntax")


def test_mypy_text_in_between_is_an_error():
    with pytest.raises(ReportError, match="line 1: Traceback"):
        parse("mypy-json", b"Traceback (most recent call last):\n", worktree=TREE)


def pytest_report(folder: Path) -> tuple[int, bytes]:
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:asyncio -p no:hypothesispytest\n")
    arguments = ("-q", "--junitxml=junit.xml", "-o", "junit_family=xunit1", "-p", "no:cacheprovider")
    code, _ = check(folder, "pytest", *arguments)
    return code, read(folder / "junit.xml")


def test_pytest(tmp_path):
    (tmp_path / "lib.py").write_text("def divide(a, b):\n    return a / b\n")
    (tmp_path / "test_lib.py").write_text(
        "from lib import divide\n\n\ndef test_ok():\n    assert divide(4, 2) == 2\n\n\n"
        "def test_wrong():\n    assert divide(4, 2) == 3, 'a & <b>'\n\n\n"
        "def test_deep():\n    divide(1, 0)\n"
    )
    code, report = pytest_report(tmp_path)
    found = judge("junit-xml", report, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics
    assert [(one.tool, one.path, one.line, one.code) for one in found] == [
        ("pytest", "test_lib.py", 9, "failure"),
        ("pytest", "lib.py", 2, "failure"),
    ]
    assert found[0].message.startswith("test_lib::test_wrong: AssertionError: a & <b>")
    assert "ZeroDivisionError" in found[1].message


def counts(report_format, data, tmp_path):
    found = judge(report_format, data, worktree=tmp_path, exit_code=0, success=True).counts
    return found.tests, found.failures, found.skipped


def test_tests_are_counted(tmp_path):
    (tmp_path / "test_lib.py").write_text(
        "import pytest\n\n\ndef test_ok():\n    pass\n\n\ndef test_no():\n    assert 0\n\n\n"
        "@pytest.mark.skip\ndef test_later():\n    pass\n\n\n@pytest.fixture\ndef broken():\n    yield\n    assert 0\n\n\n"
        "def test_breaks(broken):\n    pass\n"
    )
    assert counts("junit-xml", pytest_report(tmp_path)[1], tmp_path) == (4, 2, 1)
    both = b"<testsuite><testcase><failure/><error/></testcase><testcase><system-out/><skipped/></testcase></testsuite>"
    assert counts("junit-xml", both, tmp_path) == (2, 1, 1)
    assert counts("ruff-json", b"[]", tmp_path) == (None, None, None)


def test_pytest_that_cannot_collect(tmp_path):
    (tmp_path / "test_broken.py").write_text("x = 1\ndef (\n")
    code, report = pytest_report(tmp_path)
    assert code == 2
    (found,) = judge("junit-xml", report, worktree=tmp_path, exit_code=code, success=False).diagnostics
    assert (found.path, found.line, found.code) == ("test_broken.py", 2, "error")


def test_no_tests_are_a_finding(tmp_path):
    code, report = pytest_report(tmp_path)
    assert code == 5
    (found,) = judge("junit-xml", report, worktree=tmp_path, exit_code=code, success=False).diagnostics
    assert (found.code, found.severity) == ("no-tests", "error")


def test_all_tests_pass(tmp_path):
    (tmp_path / "test_a.py").write_text("def test_a():\n    pass\n")
    code, report = pytest_report(tmp_path)
    assert judge("junit-xml", report, worktree=tmp_path, exit_code=code, success=code == 0).diagnostics == []


BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<testsuites><testsuite name="x"><testcase name="&b;"/></testsuite></testsuites>"""
EXTERNAL = b"""<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>
<testsuite><testcase name="t"><failure>&e;</failure></testcase></testsuite>"""


@pytest.mark.parametrize("data", [BOMB, EXTERNAL, b"<!DOCTYPE testsuite><testsuite/>"])
def test_dtds_and_entities_are_refused(data):
    with pytest.raises(ReportError, match="refused"):
        parse("junit-xml", data, worktree=TREE)


@pytest.mark.parametrize("report_format", ["ruff-json", "junit-xml"])
@pytest.mark.parametrize("data", [b"", b"null", b"[{}]", b"<html/>", b"<testsuites>", b"\xff\xfe"])
def test_what_is_no_report_is_an_error(report_format, data):
    with pytest.raises(ReportError):
        parse(report_format, data, worktree=TREE)


@given(st.binary(max_size=300), st.sampled_from(["ruff-json", "mypy-json", "junit-xml"]))
def test_any_bytes_are_findings_or_a_report_error(data, report_format):
    try:
        found = parse(report_format, data, worktree=TREE)
    except ReportError:
        return
    assert all(isinstance(one, Diagnostic) for one in found)


def test_size_and_count_are_limited():
    with pytest.raises(ReportError, match="larger"):
        parse("mypy-json", b" " * (REPORT_BYTES + 1), worktree=TREE)
    line = b'{"file": "a.py", "line": 0, "column": -1, "message": "m", "severity": "error"}\n'
    assert len(parse("mypy-json", line * DIAGNOSTICS_MAX, worktree=TREE)) == DIAGNOSTICS_MAX
    *found, last = parse("mypy-json", line * (DIAGNOSTICS_MAX + 10), worktree=TREE)
    assert len(found) == DIAGNOSTICS_MAX
    assert (found[0].line, found[0].column) == (None, None)
    assert (last.code, last.severity, last.tool) == ("more-findings", "info", "mypy")
    assert last.message == "10 more findings are not shown; there are 1010 in all"


def test_a_missing_report_is_an_error(tmp_path):
    with pytest.raises(ReportError, match=r"junit\.xml"):
        read(tmp_path / "junit.xml")
    (tmp_path / "link.xml").symlink_to("/etc/passwd")
    with pytest.raises(ReportError):
        read(tmp_path / "link.xml")


def test_a_tool_without_reports_is_judged_by_its_exit_code_alone():
    assert judge("none", b"anything", worktree=TREE, exit_code=1, success=False).diagnostics == []
