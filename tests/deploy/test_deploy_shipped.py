"""What `deploy/` ships names only what there is: series and labels of docs/metrics.md, anchors of the runbook, its own variables."""

import json
import re

import pytest
import yaml

from tests.deploy.promql import Selector, named
from tests.deploy.shipped import (
    BUILT_IN,
    CONFIG,
    DASHBOARDS,
    DOCUMENT,
    ROOT,
    RULE_TESTS,
    RULES,
    TARGET_LABELS,
    Panel,
    Rule,
    dashboard,
    filled,
    known_series,
    panels,
    rules,
    variables,
)

PANELS = [panel for file in DASHBOARDS for panel in panels(file)]
ALERTS = [rule for rule in rules() if rule.alert]
SEVERITIES = {"critical", "warning", "info"}
UNITS = {
    "short", "s", "percentunit", "cps", "bytes", "Bps", "reqps", "currencyUSD", "dateTimeAsIso",
}  # fmt: skip
KNOWN = known_series()


def wrong_in(expr: str) -> list[str]:
    """What an expression names that does not exist."""
    found = named(expr)
    wrong = [f"no series {one.name}" for one in found.selectors if one.name not in KNOWN]
    offered = set(TARGET_LABELS)
    for one in found.selectors:
        labels = KNOWN.get(one.name, frozenset())
        offered |= labels
        wrong += [f"{one.name} has no label {label}" for label, _ in one.matchers if label not in labels]
    return wrong + [f"nothing has the label {label}" for label in found.labels if label not in offered]


def name_of(one: Panel | Rule) -> str:
    return one.name if isinstance(one, Rule) else f"{one.dashboard}: {one.title}"


# Reading PromQL


@pytest.mark.parametrize(
    ("expr", "selectors", "labels"),
    [
        ("up", [Selector("up", ())], ()),
        ('a{b="}", c=~"d|e"}[5m]', [Selector("a", (("b", "}"), ("c", "d|e")))], ()),
        ("sum by (x, y) (rate(a_total[1h30m]) and on (z) b == 1)", [Selector("a_total", ()), Selector("b", ())], ("x", "y", "z")),
        ("sum(a) without (x) / 2e3 or vector(0)", [Selector("a", ())], ("x",)),
        ("a * on (i) group_left (v) tool:b:ratio5m unless c offset 5m", [Selector("a", ()), Selector("tool:b:ratio5m", ()), Selector("c", ())], ("i", "v")),
        ("histogram_quantile(0.9, sum by (le) (a_bucket{}))", [], ()),
    ],
)  # fmt: skip
def test_an_expression_is_read(expr, selectors, labels):
    if not selectors:
        with pytest.raises(ValueError, match="no list of matchers"):
            named(expr)
        return
    found = named(expr)
    assert (list(found.selectors), found.labels) == (selectors, labels)


@pytest.mark.parametrize(
    "expr",
    [
        "swell_scheduler_leaders",
        'swell_scheduler_leader{run="r1"}',
        "sum by (tool) (swell_scheduler_queue_depth)",
        "swell_scheduler_queue_wait_seconds",
        "sum by (le) (swell_scheduler_queue_wait_seconds_count)",
        'tool:swell_scheduler_steps_failed:ratio30m{pool="x"}',
    ],
)
def test_what_does_not_exist_is_found(expr):
    assert wrong_in(expr)


# Dashboards


def test_there_is_a_dashboard_for_each_purpose():
    assert [file.stem for file in DASHBOARDS] == ["swell-cost", "swell-fleet", "swell-health", "swell-run"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_is_whole(file):
    board = dashboard(file)
    assert board["uid"] == file.stem
    assert board["title"].startswith("Swell: ")
    assert len(board["description"]) > 50
    assert board["schemaVersion"] >= 36
    assert "swell" in board["tags"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in board["panels"]]
    assert len(titles) == len(set(titles))
    assert json.dumps(board, indent=2) + "\n" == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_lie_beside_one_another(file):
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(file)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_names_no_place_and_takes_its_source_from_a_variable(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"https?://|\d+\.\d+\.\d+\.\d+|localhost", text)
    board = dashboard(file)
    declared = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert declared["datasource"]["type"] == "datasource"
    sources = [panel["datasource"] for panel in board["panels"] if panel["type"] != "row"]
    sources += [target["datasource"] for panel in board["panels"] for target in panel.get("targets", [])]
    sources += [variable["datasource"] for variable in declared.values() if variable["type"] == "query"]
    assert {json.dumps(source, sort_keys=True) for source in sources} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_variables_of_a_dashboard_are_used_and_filled_from_labels_that_exist(file):
    declared = {variable["name"]: variable for variable in dashboard(file)["templating"]["list"]}
    used = {name for panel in panels(file) for query in panel.queries for name in variables(query.expr)} - BUILT_IN
    assert used == declared.keys() - {"datasource"}
    for name in used:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", declared[name]["definition"])
        assert found, name
        assert found[2] == name
        assert found[2] in KNOWN[found[1]]
        assert declared[name]["query"]["query"] == declared[name]["definition"]


@pytest.mark.parametrize("panel", PANELS, ids=name_of)
def test_a_panel_says_what_it_shows_and_asks_for_what_there_is(panel):
    assert len(panel.raw["description"]) > 4
    assert panel.raw["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel.queries
    assert len({target["refId"] for target in panel.raw["targets"]}) == len(panel.queries)
    for query in panel.queries:
        values = dict.fromkeys(BUILT_IN, "5m") | {"pool": "x", "tool": "x"}
        expr = filled(query.expr, **values)
        assert wrong_in(expr) == []
        labels = set().union(*(KNOWN[one.name] for one in named(expr).selectors))
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels


def test_no_dashboard_asks_for_a_run():
    for panel in PANELS:
        for query in panel.queries:
            assert not re.search(r"\b(run|workstream|attempt|executor)\s*(=|!=|=~|!~)", query.expr)
    assert (
        "No run, workstream or attempt is a label" in dashboard(ROOT / "deploy/grafana/swell-run.json")["description"]
    )


# Rules


@pytest.mark.parametrize("rule", rules(), ids=name_of)
def test_a_rule_asks_for_what_there_is(rule):
    assert wrong_in(rule.expr) == []


@pytest.mark.parametrize("rule", [rule for rule in rules() if not rule.alert], ids=name_of)
def test_a_recording_is_named_by_its_labels_and_used(rule):
    level, metric, operations = rule.name.split(":")
    assert re.fullmatch(r"[a-z]+\d+[smhd]|p\d+_\d+[smhd]", operations)
    assert metric.startswith("swell_")
    grouped = [set(re.split(r",\s*", found)) - {"le"} for found in re.findall(r"sum by \(([\w, ]+)\)", rule.expr)]
    assert all(labels == set(level.split("_")) for labels in grouped), "the level says which labels are left"
    used = [other.expr for other in rules() if other is not rule]
    assert any(rule.name in expr for expr in used), "nothing is recorded that no rule reads"


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_says_what_it_means_and_what_to_do(rule):
    raw = rule.raw
    assert re.fullmatch(r"Swell([A-Z][a-z]+)+", rule.name)
    assert raw["labels"] == {"severity": raw["labels"]["severity"]}
    assert raw["labels"]["severity"] in SEVERITIES
    assert raw["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert re.fullmatch(r"\d+[smh]", raw["for"])
    file, _, anchor = raw["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors((ROOT / file).read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """Where links into a Markdown file lead."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_alert_is_documented_and_no_other():
    """The table of alerts: name, severity, when, and where in the runbook."""
    rows = re.findall(
        r"^\| `(Swell\w+)` \| (\w+) \| .+ \| \[.+\]\((runbook\.md#[\w-]+)\) \|$",
        DOCUMENT.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert sorted(rows) == sorted(
        (rule.name, rule.raw["labels"]["severity"], rule.raw["annotations"]["runbook_url"].removeprefix("docs/"))
        for rule in ALERTS
    )


def test_every_alert_is_tried_firing_and_silent():
    fires: dict[str, set[bool]] = {rule.name: set() for rule in ALERTS}
    document = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))
    assert document["rule_files"] == [RULES.name]
    for test in document["tests"]:
        for case in test["alert_rule_test"]:
            fires[case["alertname"]].add(bool(case.get("exp_alerts")))
    assert {name for name, found in fires.items() if found != {True, False}} == set()


def test_the_scrape_configuration_has_the_three_services_and_the_rules():
    document = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert document["rule_files"] == [RULES.name]
    jobs = {job["job_name"] for job in document["scrape_configs"]}
    assert jobs == {"swell-scheduler", "swell-executor", "swell-ledger"}
    targets = [
        target for job in document["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    ]
    assert len(set(targets)) == 3
    assert all(target.startswith("127.0.0.1:") for target in targets), "the services listen on the loopback"
