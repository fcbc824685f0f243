"""The document on reports names what there is: every format, every limit, and an example that works."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from services.executor.diagnostics import (
    CRASH_CODES,
    ERRORS_ALONE,
    FINDING_CODES,
    MILD,
    REPORT_DECIDES,
    finding_codes,
    parse,
)
from services.executor.diagnostics.pattern import MATCHING_S
from services.executor.diagnostics.report import DIAGNOSTICS_MAX, MESSAGE_CHARS, REPORT_BYTES, severity
from services.expression import EXPRESSION_CHARS, GROUPS, LINE_CHARS, check
from services.profiles import ReportFormat

TEXT = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]


def test_the_table_has_every_format_in_order():
    rows = re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    assert tuple(rows) == get_args(ReportFormat)


def test_the_rules_name_their_formats():
    mild = re.search(r"in the formats (.*?) an info will do", TEXT, re.DOTALL)
    crash = re.search(r'"could not work" for (.*?)\. This', TEXT, re.DOTALL)
    assert set(re.findall(r"`([^`]+)`", mild[1])) == MILD
    assert set(re.findall(r"`([^`]+)`", crash[1])) == set(CRASH_CODES)
    for report_format, codes in CRASH_CODES.items():
        row = re.search(rf"^\| `{report_format}` .*$", TEXT, re.MULTILINE)
        assert all(re.search(rf"\b{code} (?:could not work|crashed|bad)", row[0]) for code in codes)
    assert {"go-vet-json"} == REPORT_DECIDES
    assert {"cargo-json"} == ERRORS_ALONE


def test_the_exit_codes_of_findings_are_those_of_the_code():
    """No shell's word for a signal is among them, nor what a format calls "could not work"."""
    said = re.search(
        r"worked and found something: 1, of `tsc-text` also 2, of `cargo-json` 101 alone, of\n(.*?) success alone", TEXT
    )
    assert said is not None
    assert {"tsc-text": {1, 2}, "cargo-json": {101}, said[1].strip("`"): set()} == FINDING_CODES
    for report_format in get_args(ReportFormat):
        codes = finding_codes(report_format)
        assert codes.isdisjoint(CRASH_CODES.get(report_format, ()))
        assert all(0 < code < 126 for code in codes)


@pytest.mark.parametrize(
    "said",
    [
        f"larger than {REPORT_BYTES // 1024**2} MiB",
        f"first {DIAGNOSTICS_MAX:,} findings",
        f"{MESSAGE_CHARS:,} characters",
        f"more than {EXPRESSION_CHARS:,} characters",
        f"first {LINE_CHARS:,} characters",
        f"may take {MATCHING_S:g} seconds",
    ],
)
def test_limits_are_those_of_the_code(said):
    assert said in " ".join(TEXT.split())


def test_the_severities_are_those_of_the_code():
    words = re.search(r"A severity may be (.*?); every other", TEXT, re.DOTALL)
    assert all(severity(word) != "error" for word in re.findall(r"`([^`]+)`", words[1]))


def test_the_example_of_a_pattern_finds_something():
    (pattern,) = [
        profile["report"]["pattern"] for one in EXAMPLES for profile in one.values() if "pattern" in profile["report"]
    ]
    check(pattern)
    (found,) = parse("pattern", b"src/a.c:3:7: warning: unused\n", worktree=Path("/w"), expression=pattern)
    assert (found.path, found.line, found.column, found.severity) == ("src/a.c", 3, 7, "warning")
    assert all(f"`{group}`" in TEXT for group in GROUPS)
