"""docs/metrics.md says what there is, and what there is keeps to Prometheus's conventions."""

import re
from pathlib import Path

import pytest
from metrics_rig import declared
from prometheus_client.parser import text_string_to_metric_families

from services.metrics import Exposition, Series

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\| (.+) \|$", re.MULTILINE)
HEADINGS = {"scheduler": "Scheduler", "executor": "Executor", "ledger": "Ledger"}
UNITS = ("seconds", "bytes", "ratio", "entries", "info")
NOT_UNITS = {"ms", "milliseconds", "microseconds", "minutes", "hours", "kb", "mb", "kilobytes", "megabytes", "percent"}

Told = tuple[str, str, tuple[str, ...]]


def section(heading: str) -> str:
    found = re.search(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found, heading
    return found[1]


def rows(heading: str) -> set[Told]:
    return {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(section(heading))
    }


@pytest.mark.parametrize("service", ["scheduler", "executor", "ledger"])
def test_every_series_is_described_with_its_type_and_labels_and_no_other(service):
    exposition = dict(declared())[service]
    documented = rows(HEADINGS[service]) | rows("All three services")
    if service != "executor":
        documented |= rows("Calls: scheduler and ledger")
    assert {(one.name, one.kind, one.labels) for one in exposition.series} == documented


def test_every_row_of_the_document_is_one_of_these_tables():
    count = sum(
        len(rows(heading)) for heading in (*HEADINGS.values(), "All three services", "Calls: scheduler and ledger")
    )
    assert len(ROW.findall(DOCUMENT.read_text(encoding="utf-8"))) == count + len(rows("The process"))


def test_the_series_of_the_process_are_described():
    families = text_string_to_metric_families(Exposition("scheduler").text())
    found = {
        (sample.name, family.type, tuple(sorted(sample.labels)))
        for family in families
        for sample in family.samples
        if not sample.name.startswith("swell_")
    }
    assert found == {(name, kind, tuple(sorted(labels))) for name, kind, labels in rows("The process")}


def test_what_the_document_says_of_other_series_exists():
    """Names in prose and queries are those of the tables."""
    text = DOCUMENT.read_text(encoding="utf-8")
    known = {name for name, *_ in ROW.findall(text)}
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bswell_[a-z_]+", text)}
    assert named <= known


@pytest.fixture(params=["scheduler", "executor", "ledger"])
def series(request) -> tuple[Series, ...]:
    return dict(declared())[request.param].series


def test_names_keep_to_the_conventions(series):
    """Prefix, base units, _total for counters and for nothing else, no reserved labels, no colons."""
    for one in series:
        assert re.fullmatch(r"swell_[a-z]+(_[a-z]+)+", one.name), one
        assert (one.kind == "counter") == one.name.endswith("_total"), one
        assert not NOT_UNITS & set(one.name.split("_")), one
        assert not one.name.endswith(("_bucket", "_count", "_sum", "_created", "_gauge", "_counter", "_histogram")), one
        if one.kind == "histogram":
            assert one.name.endswith(UNITS), one
        assert not {"le", "quantile", "run", "workstream", "attempt", "executor", "instance", "job"} & set(
            one.labels
        ), one
        assert all(re.fullmatch(r"[a-z]+", label) for label in one.labels), one


def test_help_says_something(series):
    for one in series:
        assert 10 < len(one.text) < 200, one
        assert one.text.endswith("."), one
        assert "\n" not in one.text


def test_a_time_is_told_in_seconds_and_a_size_in_bytes(series):
    for one in series:
        words = one.name.removesuffix("_total").split("_")
        if {"duration", "wait", "age", "oldest"} & set(words):
            assert words[-1] == "seconds", one
        if {"upload", "file"} & set(words):
            assert words[-1] == "bytes", one
