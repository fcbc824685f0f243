"""Templates: a closed set, filled in with values that were quoted."""

import json
import re
from pathlib import Path

import pytest

from services.executor.prompts import PromptTemplateError, PromptTemplates, shipped_templates
from services.executor.prompts.quoting import words

VERSIONS = Path(__file__).parent / "golden" / "versions.json"
DOCUMENT = Path(__file__).parents[2] / "docs" / "prompts.md"


def one(source, **values):
    return PromptTemplates({"t": f"{{# 1.0 #}}\n{source}"}).fill("t", values)


def test_a_changed_template_has_a_new_version():
    """When this fails: raise the version in the template's first line, and add its digest to golden/versions.json."""
    known = json.loads(VERSIONS.read_text())
    for name in shipped_templates().names:
        told = shipped_templates().describe(name)
        assert known[name].get(told.version) == told.digest, (name, told.version, told.digest)


def test_every_template_is_documented():
    named = re.findall(r"^\| `(\w+)` \| (?:EDIT|FIX|what)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == list(shipped_templates().names)


def test_the_digest_covers_what_a_template_extends():
    base = "{# 1.0 #}\nx{% block b %}{% endblock %}"
    child = '{# 1.0 #}\n{% extends "base.md.j2" %}{% block b %}y{% endblock %}'
    first = PromptTemplates({"base": base, "child": child})
    second = PromptTemplates({"base": base + " ", "child": child})
    assert first.fill("child", {}) == "xy"
    assert first.describe("child").digest != second.describe("child").digest
    assert first.describe("child").digest == PromptTemplates({"child": child, "base": base}).describe("child").digest


@pytest.mark.parametrize(
    "source", ["{{ nope }}", "{% if no %}{{ nope }}{% endif %}", "{% for x in nope %}{% endfor %}"]
)
def test_an_unknown_variable_is_named_with_its_template(source):
    """Also where the place is not reached."""
    with pytest.raises(PromptTemplateError, match=r"template t names 'nope', which nobody passes.*known are no"):
        one(source, no=False)


def test_an_unknown_variable_of_a_parent_is_named_too():
    templates = PromptTemplates({"p": "{# 1.0 #}\n{{ nope }}", "c": '{# 1.0 #}\n{% extends "p.md.j2" %}'})
    with pytest.raises(PromptTemplateError, match="template c names 'nope'"):
        templates.fill("c", {})


def test_an_unknown_field_is_an_error():
    with pytest.raises(PromptTemplateError, match=r"template t: .*nope"):
        one("{{ value.nope }}", value={"there": words("x")})


@pytest.mark.parametrize(
    "source",
    [
        "{{ value.__class__ }}",
        "{{ value.__class__.__mro__ }}",
        "{{ value['__class__'] }}",
        "{{ ''.__class__ }}",
        "{{ value.format.__globals__ }}",
        "{{ items.append(1) }}",
        "{{ items.clear() }}",
        "{% for x in range(999999999) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(PromptTemplateError, match="template t"):
        one(source, value=words("x"), items=[])


@pytest.mark.parametrize("value", ["plain", b"x", 1.5, None, True, ["x"], {"x": 1}, object()])
def test_only_quoted_text_and_whole_numbers_are_printed(value):
    with pytest.raises(PromptTemplateError, match="was not quoted"):
        one("{{ value }}", value=value)
    assert one("{{ value }} {{ count }}", value=words("x"), count=3) == "x 3"


def test_a_filter_takes_the_quotes_off():
    with pytest.raises(PromptTemplateError, match="was not quoted"):
        one("{{ value | upper }}", value=words("x"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "malformed"),
        ("{{ name | nope }}", "malformed: No filter named 'nope'"),
        ('{% include "other.md.j2" %}', "no template 'other'"),
        ('{% include "/etc/passwd" %}', "no template '/etc/passwd'"),
        ("{% include name %}", "more than its name"),
        ("{% import name as x %}", "more than its name"),
    ],
)
def test_a_template_that_cannot_be_read_says_why(source, message):
    with pytest.raises(PromptTemplateError, match=message):
        one(source, name="t")


def test_a_template_without_a_version_is_refused():
    with pytest.raises(PromptTemplateError, match="template t has no version"):
        PromptTemplates({"t": "text"}).fill("t", {})
    with pytest.raises(PromptTemplateError, match="there is no template 'x': take one of t"):
        PromptTemplates({"t": "text"}).fill("x", {})
