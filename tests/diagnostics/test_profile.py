"""What a profile may say of its report, and what is refused before anything runs."""

import json

import pytest

from services.profiles import ProfileError, parse_tool_profiles


def report(**fields):
    document = {"t": {"command": "x", "report": fields}}
    return parse_tool_profiles(json.dumps(document).encode(), "profiles.json")["t"].report


def test_a_pattern_is_kept_as_it_is():
    found = report(format="pattern", pattern=r"(?P<file>[^:]+):(?P<line>\d+): (?P<message>.*)", source="stderr")
    assert found.pattern == r"(?P<file>[^:]+):(?P<line>\d+): (?P<message>.*)"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "pattern", "pattern": "(a+)+$"}, r"tool 't'.*report\.pattern repeats a group, as \(a\+\)\+ does"),
        ({"format": "pattern", "pattern": "(?P<message>.*.*.*x)"}, r"report\.pattern has too many ways"),
        ({"format": "pattern", "pattern": "(?P<nope>x)"}, "unknown group 'nope'"),
        ({"format": "pattern", "pattern": "("}, "no regular expression"),
        ({"format": "pattern"}, "give both, or neither"),
        ({"format": "ruff-json", "pattern": "(?P<message>x)"}, "give both, or neither"),
        ({"format": "pattern", "patern": "(?P<message>x)"}, "patern"),
        ({"format": "xml"}, "xml"),
    ],
)
def test_what_is_refused_at_load(fields, said):
    with pytest.raises(ProfileError, match=said):
        report(**fields)
