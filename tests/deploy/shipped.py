"""What `deploy/` ships for Prometheus and Grafana, as values: panels with their queries, rules, and what may be named in them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARDS: Final = tuple(sorted((ROOT / "deploy" / "grafana").glob("*.json")))
RULES: Final = ROOT / "deploy" / "prometheus" / "swell.rules.yml"
RULE_TESTS: Final = ROOT / "deploy" / "prometheus" / "swell.rules.test.yml"
CONFIG: Final = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DOCUMENT: Final = ROOT / "docs" / "metrics.md"
ROW: Final = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\| .+ \|$", re.MULTILINE)
TARGET_LABELS: Final = frozenset({"job", "instance"})
"""What Prometheus itself puts on every series."""

BUILT_IN: Final = frozenset({"__rate_interval", "__interval", "__range"})
"""Variables of Grafana itself."""


class Query(msgspec.Struct, frozen=True):
    """A query of a panel, as it stands there."""

    expr: str
    legend: str


class Panel(msgspec.Struct, frozen=True):
    """A panel of a dashboard with its queries; `raw` is all of it."""

    dashboard: str
    title: str
    queries: tuple[Query, ...]
    raw: dict[str, Any]


class Rule(msgspec.Struct, frozen=True):
    """A rule: an alert, or a recording."""

    name: str
    expr: str
    alert: bool
    raw: dict[str, Any]


def dashboard(file: Path) -> dict[str, Any]:
    """A dashboard as it stands in its file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def panels(file: Path) -> list[Panel]:
    """The panels of a dashboard, rows left out."""
    return [
        Panel(
            dashboard=file.stem,
            title=raw["title"],
            queries=tuple(Query(target["expr"], target.get("legendFormat", "")) for target in raw["targets"]),
            raw=raw,
        )
        for raw in dashboard(file)["panels"]
        if raw["type"] != "row"
    ]


def filled(expr: str, **values: str) -> str:
    """A query with the values of its variables; KeyError names one that has none."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], expr)


def variables(expr: str) -> set[str]:
    """The variables that a query uses."""
    return {braced or bare for braced, bare in re.findall(r"\$(?:\{(\w+)\}|(\w+))", expr)}


def rules() -> list[Rule]:
    """Every rule, in order."""
    return list(_rules(yaml.safe_load(RULES.read_text(encoding="utf-8"))))


def _rules(document: dict[str, Any]) -> Iterator[Rule]:
    for group in document["groups"]:
        for raw in group["rules"]:
            yield Rule(raw.get("alert") or raw["record"], raw["expr"], "alert" in raw, raw)


def known_series() -> dict[str, frozenset[str]]:
    """Every series that may be named, with its labels: what docs/metrics.md has, what rules record, and `up`."""
    known = {"up": TARGET_LABELS}
    for name, kind, text in ROW.findall(DOCUMENT.read_text(encoding="utf-8")):
        labels = frozenset(re.findall(r"`(\w+)`", text)) | TARGET_LABELS
        if kind == "histogram":
            known |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            known[name] = labels
    for rule in rules():
        if not rule.alert:
            known[rule.name] = frozenset(rule.name.partition(":")[0].split("_"))
    return known
