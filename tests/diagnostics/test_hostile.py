"""Reports that are not to be trusted, in every format: whatever they hold, it is findings in bounds, or a ReportError."""

import json
import os
import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.diagnostic import Diagnostic, error_signature
from services.executor.diagnostics import ReportError, parse, read
from services.executor.diagnostics.report import DIAGNOSTICS_MAX, MESSAGE_CHARS, NAME_CHARS, PATH_CHARS, REPORT_BYTES
from services.profiles import ReportFormat

REPORTS = Path(__file__).parent / "reports"
TREE = Path("/srv/tree")
FORMATS = get_args(ReportFormat)
EXPRESSION = r"(?P<file>[^:]*):(?P<line>\d+): (?P<severity>\w+): (?P<message>.*)"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**40) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ODD = st.sampled_from([-1, 0, 2**31, 2**63, 10**30, 1.5, "", "\x00", "\x1b[31mred\x1b[0m\x07", "../../etc/passwd", "/etc/passwd",
                       "a" * 5_000, "a\nb", "\u202e", "é" * 3_000, "<stdin>", "file:///%00", [], {}, None, True])  # fmt: skip


def bounded(found: list[Diagnostic]) -> None:
    assert len(found) <= DIAGNOSTICS_MAX + 1
    for one in found:
        assert isinstance(one, Diagnostic)
        assert one.tool
        assert one.message
        assert len(one.message) <= MESSAGE_CHARS
        assert len(one.path) <= PATH_CHARS
        assert one.path.isprintable()
        assert len(one.code) <= NAME_CHARS
        assert not set("\x00\x1b\x07") & set(one.tool + one.code + one.message)
        assert all(n is None or 1 <= n < 2**31 for n in (one.line, one.column, one.end_line, one.end_column))
    assert len(error_signature(found)) == 64
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Diagnostic]) == found


def survives(report_format: str, data: bytes) -> None:
    try:
        found = parse(report_format, data, worktree=TREE, expression=EXPRESSION)
    except ReportError as error:
        said = str(error)
    else:
        bounded(found)
        return
    assert len(said) < 1_000


@given(st.sampled_from(FORMATS), st.binary(max_size=300))
def test_any_bytes(report_format, data):
    survives(report_format, data)


@given(st.sampled_from(FORMATS), JSON)
def test_any_json(report_format, value):
    survives(report_format, json.dumps(value).encode())


DOCUMENTS = {
    "pyright-json": json.loads((REPORTS / "pyright.json").read_text()),
    "eslint-json": json.loads((REPORTS / "eslint.json").read_text()),
    "go-vet-json": {"m": {"printf": [{"posn": "/srv/tree/a.go:1:2", "end": "a.go:1:3", "message": "m"}]}},
    "ruff-json": [{"filename": "a", "message": "m", "location": {"row": 1, "column": 1},
                   "end_location": {"row": 1, "column": 1}, "code": "E1"}],
    "gitlab-json": [{"description": "d", "check_name": "c", "severity": "minor", "location": {"path": "a", "lines": {"begin": 1}}}],
    "rdjson": {"source": {"name": "s"}, "severity": "ERROR", "diagnostics": [
        {"message": "m", "location": {"path": "a", "range": {"start": {"line": 1, "column": 1}}}, "code": {"value": "c"}}]},
    "sarif": {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x", "rules": [{"id": "r"}]}},
        "originalUriBaseIds": {"B": {"uri": "file:///b/", "uriBaseId": "B"}}, "artifacts": [{"location": {"uri": "z"}}],
        "results": [{"message": {"id": "i", "arguments": ["a"]}, "ruleId": "r", "ruleIndex": 0, "locations": [{"physicalLocation":
            {"artifactLocation": {"uri": "a", "uriBaseId": "B", "index": 0}, "region": {"startLine": 1, "endColumn": 2}}}]}]}]},
}  # fmt: skip
LINES = {
    "cargo-json": (REPORTS / "cargo_test.jsonl").read_text().split("\n"),
    "go-test-json": (REPORTS / "go_test.jsonl").read_text().split("\n"),
    "mypy-json": ['{"file": "a", "line": 1, "column": 1, "message": "m", "severity": "error", "hint": "h"}'],
    "rdjsonl": [json.dumps(DOCUMENTS["rdjson"]["diagnostics"][0])],
}


@st.composite
def mutated(draw, value):
    """The same with something odd at one random place."""
    value = json.loads(json.dumps(value))
    node, steps = value, draw(st.integers(1, 8))
    while isinstance(node, dict | list) and node:
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        steps -= 1
        if steps <= 0 or not isinstance(node[key], dict | list) or not node[key]:
            if draw(st.booleans()) and isinstance(node, dict):
                del node[key]
            else:
                node[key] = draw(ODD | JSON)
            break
        node = node[key]
    return value


@given(st.data(), st.sampled_from(sorted(DOCUMENTS)))
def test_documents_with_something_odd_in_them(data, report_format):
    survives(report_format, json.dumps(data.draw(mutated(DOCUMENTS[report_format]))).encode())


@given(st.data(), st.sampled_from(sorted(LINES)))
def test_lines_with_something_odd_in_them(data, report_format):
    lines = list(LINES[report_format])
    at = data.draw(st.integers(0, len(lines) - 1))
    if lines[at].startswith("{"):
        lines[at] = json.dumps(data.draw(mutated(json.loads(lines[at]))))
    else:
        lines[at] = data.draw(st.text(max_size=50))
    survives(report_format, "\n".join(lines).encode())


@given(st.sampled_from(["tsc-text", "pattern", "cargo-json", "junit-xml"]), st.lists(st.sampled_from(
    ["a.ts(1,2): error TS1: ", "(", ")", "1", ":", "\n", " ", "error TS2: x", "a:1: error: m", "\x1b[3", "\x00", "---- t stdout ----\n",
     "thread 't' panicked at ", "', ", '{"reason": "build-finished"}\n', "<testsuite>", "<testcase>", "<failure>", "</failure>",
     "</testcase>", "</testsuite>", "&#0;", "é"]), max_size=25))  # fmt: skip
def test_texts_of_the_right_words_in_any_order(report_format, parts):
    survives(report_format, "".join(parts).encode())


JSON_FORMATS = [one for one in FORMATS if one not in {"none", "tsc-text", "pattern", "junit-xml"}]


@pytest.mark.parametrize("report_format", JSON_FORMATS)
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"runs":[', '{"message":{"a":', '[{"x":'])
def test_depth_is_a_typed_error(report_format, opening):
    with pytest.raises(ReportError):
        parse(report_format, opening.encode() * 200_000, worktree=TREE)


def test_depth_in_a_field_that_nobody_reads_and_in_xml():
    with pytest.raises(ReportError, match="nested too deeply"):
        parse("eslint-json", b'[{"filePath": "a", "messages": [], "x": ' + b"[" * 300_000, worktree=TREE)
    with pytest.raises(ReportError, match="nested too deeply"):
        parse("junit-xml", b"<testsuite>" * 300_000, worktree=TREE)


@pytest.mark.parametrize("report_format", sorted(DOCUMENTS))
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_and_utf_16_are_read(report_format, encoding):
    """PowerShell redirects in UTF-16, and many a Windows tool writes a mark."""
    text = json.dumps(DOCUMENTS[report_format])
    assert parse(report_format, text.encode(encoding), worktree=TREE) == parse(
        report_format, text.encode(), worktree=TREE
    )


@pytest.mark.parametrize("report_format", ["eslint-json", "pyright-json", "ruff-json"])
def test_bytes_that_are_no_utf_8_are_replaced_and_lose_no_finding(report_format):
    data = json.dumps(DOCUMENTS[report_format]).encode().replace(b'"message": "', b'"message": "\xff\xfe ')
    found = parse(report_format, data, worktree=TREE)
    assert found
    assert all(one.message.startswith("\ufffd\ufffd ") for one in found)


def test_absurd_numbers_are_unknown_places():
    line = '{"file": "a", "line": 1%s, "column": -9, "message": "m", "severity": "error"}'
    (found,) = parse("mypy-json", (line % ("0" * 30)).encode(), worktree=TREE)
    assert (found.line, found.column) == (None, None)
    for number in ("e400", "." + "5" * 30, "0" * 5_000, "x"):
        with pytest.raises(ReportError):
            parse("mypy-json", (line % number).encode(), worktree=TREE)


def test_of_a_key_that_stands_twice_the_last_counts():
    data = b'[{"filePath": "a", "messages": [], "filePath": "b", "messages": [{"severity": 2, "message": "m"}]}]'
    (found,) = parse("eslint-json", data, worktree=TREE)
    assert found.path == "b"


@pytest.mark.parametrize(
    ("given_", "path"),
    [
        ("/srv/tree/a.py", "a.py"),
        ("./b/../a.py", "a.py"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("/etc/passwd", "/etc/passwd"),
        ("/srv/tree2/a.py", "/srv/tree2/a.py"),
        ("a\nb.py", ""),
        ("a\x00.py", ""),
        ("\x1b[31ma.py", ""),
        ("a" * (PATH_CHARS + 1), ""),
    ],
)
def test_paths_are_inside_the_tree_or_as_they_are_or_dropped(given_, path):
    data = json.dumps([{"filePath": given_, "messages": [{"severity": 2, "message": "m"}]}]).encode()
    assert parse("eslint-json", data, worktree=TREE)[0].path == path


def test_messages_are_cut_and_without_colours():
    data = json.dumps([{"filePath": "a", "messages": [
        {"severity": 2, "message": "\x1b[1mbad\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07\x00\x08" + "x" * 10_000, "ruleId": "r\n\x1b[1mq"}
    ]}]).encode()  # fmt: skip
    (found,) = parse("eslint-json", data, worktree=TREE)
    assert found.message.startswith("bad linkxxx")
    assert len(found.message) == MESSAGE_CHARS
    assert found.code == "r q"


UNITS = {
    "ruff-json": (
        "[",
        '{"filename":"/x/a.py","message":"m","location":{"row":1,"column":1},"end_location":{"row":1,"column":1}}',
        ",",
        "]",
    ),
    "mypy-json": ("", '{"file":"a","line":1,"column":1,"message":"m","severity":"error"}', "\n", ""),
    "junit-xml": ("<testsuite>", "<testcase><failure/></testcase>", "", "</testsuite>"),
    "sarif": ('{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[', '{"message":{}}', ",", "]}]}"),
    "pyright-json": ('{"generalDiagnostics":[', '{"severity":"error","message":"m"}', ",", "]}"),
    "eslint-json": ('[{"filePath":"a","messages":[', '{"severity":2,"message":"m"}', ",", "]}]"),
    "tsc-text": ("", "a(1,1): error TS1: m", "\n", ""),
    "rdjsonl": ("", '{"message":"m"}', "\n", ""),
    "rdjson": ('{"diagnostics":[', '{"message":"m"}', ",", "]}"),
    "gitlab-json": ("[", '{"description":"m","location":{"path":"a"}}', ",", "]"),
    "pattern": ("", "a:1: error: m", "\n", ""),
}


@pytest.mark.parametrize("report_format", sorted(UNITS))
def test_more_findings_than_are_kept_are_counted(report_format):
    head, unit, between, tail = UNITS[report_format]
    data = head + between.join([unit] * 20_000) + tail
    found = parse(report_format, data.encode(), worktree=TREE, expression=EXPRESSION)
    assert len(found) == DIAGNOSTICS_MAX + 1
    assert found[-1].message == "19000 more findings are not shown; there are 20000 in all"


@pytest.mark.parametrize(
    ("report_format", "data"),
    [
        ("junit-xml", b"<testsuite><testcase><failure>" + b"\n" * 2_000_000 + b"</failure></testcase></testsuite>"),
        ("junit-xml", b"<testsuite><testcase><failure>" + b"E " * 1_000_000 + b"</failure></testcase></testsuite>"),
        ("tsc-text", b"(1,1" * 500_000),
        ("tsc-text", b"a(1,1): error TS1: m\n" + b" \n" * 500_000),
        ("cargo-json", b'{"reason":"build-finished"}\n---- t stdout ----\n' + b"thread 't' panicked at 'x', " * 50_000),
        ("go-test-json", json.dumps({"Action": "output", "Package": "m", "Output": "\n" * 500_000}).encode()),
        ("go-test-json", b'{"Action":"fail","Package":"%s","Test":"T"}\n' % (b"a/" * 400) * 2_000),
        ("sarif", json.dumps({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}},
            "originalUriBaseIds": {"A": {"uri": "x" * 500_000, "uriBaseId": "A"}},
            "results": [{"message": {"text": "{0}" * 3_000, "arguments": ["y" * 100_000]}, "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": "a", "uriBaseId": "A"}}}]}]}]}).encode()),
    ],
)  # fmt: skip
def test_texts_that_would_take_a_careless_reader_forever(report_format, data):
    started = time.process_time()
    survives(report_format, data)
    assert time.process_time() - started < 3.0


def test_the_size_is_limited_for_every_format():
    data = b" " * (REPORT_BYTES + 1)
    for report_format in FORMATS:
        with pytest.raises(ReportError, match="larger than"):
            parse(report_format, data, worktree=TREE)


def test_a_report_file_that_is_something_else(tmp_path):
    """A pipe, a link, a device, a folder: none of them is waited for, followed or read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "folder", Path("/dev/zero"), tmp_path / "x\x00y"):
        with pytest.raises(ReportError):
            read(path)
    assert read(tmp_path / "real") == b"x"


def test_a_huge_report_file_is_read_up_to_the_limit(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert len(read(tmp_path / "sparse")) == REPORT_BYTES + 1


def test_a_traceback_does_not_lead_out_of_the_worktree(tmp_path):
    (tmp_path / "out").symlink_to("/etc")
    text = f'File "{tmp_path}/out/passwd", line 1\n{"x" * 300}.py:3: \n../../etc/passwd:1: \n'
    data = f"<testsuite><testcase file='t.py' line='4'><failure>{text}</failure></testcase></testsuite>"
    (found,) = parse("junit-xml", data.encode(), worktree=tmp_path)
    assert (found.path, found.line) == ("t.py", 5)
