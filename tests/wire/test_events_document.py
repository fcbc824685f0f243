"""docs/events.md says what is recorded: kinds, subjects and fields are those of the code."""

import re
from pathlib import Path

import msgspec
import pytest

from services import events as ev
from services.commands import RunStep
from services.wire import Entry

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
KINDS = {kind.__struct_config__.tag: kind for kind in ev.AnyEvent.__args__}
VALUES = {
    kind.__name__: kind for kind in (ev.Artifact, ev.Snapshot, ev.Check, ev.CheckResult, ev.FixInput, ev.Usage, ev.Cost)
}
MAPPED = {"Event bus": 35, "Orchestrator": 18, "Audit trail": 14}


def sections(level, text=DOCUMENT):
    """Headings of a level with the text below each, deeper headings included."""
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        heading: re.split(rf"^{'#' * (level - 1)} " if level > 1 else r"\A\Z", body, flags=re.MULTILINE)[0]
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def rows(text):
    """The cells of the first table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


CHAPTERS = sections(2)
SECTIONS = sections(3)


def described(name):
    return SECTIONS[name] if name in SECTIONS else CHAPTERS[name]


def test_every_kind_stands_below_its_subject_in_the_order_of_the_code():
    source = Path(ev.__file__).read_text()
    subjects = {}
    for heading, body in sections(2).items():
        if heading.startswith("swell.event."):
            subject = heading.replace("&lt;", "<").replace("&gt;", ">")
            subjects[subject] = re.findall(r"^### (\w+)$", body, flags=re.MULTILINE)
    recorded = {}
    for comment, body in zip(
        *[iter(re.split(r"^# .*: subject `(.+)`$", source, flags=re.MULTILINE)[1:])] * 2, strict=True
    ):
        recorded[comment] = re.findall(r'tag="(\w+)"', body)
    assert subjects == recorded
    assert sorted(kind for kinds in subjects.values() for kind in kinds) == sorted(KINDS)


@pytest.mark.parametrize(
    ("name", "struct"), [*KINDS.items(), *VALUES.items(), ("run_step", RunStep), ("The entry", Entry)]
)
def test_fields_are_those_of_the_code_and_each_has_a_meaning(name, struct):
    told = [(re.fullmatch(r"`(\w+)`( \*)?", cell), meaning) for cell, meaning in rows(described(name))]
    assert all(match and meaning for match, meaning in told)
    fields = [(field.encode_name, field.required) for field in msgspec.structs.fields(struct)]
    assert [(match[1], bool(match[2])) for match, _ in told] == fields


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_told_in_words(name):
    words = SECTIONS[name].split("|")[0].strip()
    assert words.endswith((".", "`"))


@pytest.mark.parametrize("part", MAPPED)
def test_names_used_elsewhere_lead_to_a_kind_or_a_reason(part):
    mapped = rows(SECTIONS[part])
    names = [name for name, _ in mapped]
    assert len(names) == len(set(names)) == MAPPED[part]
    for name, here in mapped:
        assert re.fullmatch(r"`\w+`", name)
        if here.startswith("none"):
            assert re.fullmatch(r"none: .{10,}", here), f"{name}: a reason is missing"
        else:
            kind = re.match(r"`(\w+)`", here)
            assert kind, f"{name} leads to {here!r}"
            assert kind[1] in KINDS, f"{name} leads to {here!r}"


def test_every_subject_is_in_the_table():
    preface = DOCUMENT.split("\n## ")[0]
    for heading in CHAPTERS:
        if heading.startswith("swell.event."):
            assert f"`{heading.replace('&lt;', '<').replace('&gt;', '>')}`" in preface
