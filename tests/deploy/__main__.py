"""The shipped dashboards and rules against a real run: `make metrics-test`, or `python -m tests.deploy`.

Starts a local cluster, has a real Prometheus scrape its three services while real runs are under way, and has promtool read
every scrape. Then evaluates every query of every dashboard and the expression of every rule in that Prometheus, and prints
what each panel shows. Ends with 1 when a query is refused, when a panel is empty that has to show something, or when
promtool complains.
"""

# ruff: noqa: T201 - it prints a table
from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

import msgspec

from tests.deploy.prometheus import MissingError, Prometheus, QueryError, promtool
from tests.deploy.shipped import CONFIG, DASHBOARDS, DOCUMENT, ROW, RULE_TESTS, RULES, Panel, filled, panels, rules
from tests.deploy.work import Told, limit, local_cluster, run_example, run_troubled, told_by_ledger, until

SERVICES: Final = ("scheduler", "executor", "ledger")
VALUES: Final = {"__rate_interval": "15s", "__interval": "2s", "__range": "30m", "pool": ".*", "tool": ".*"}
SETTLE_S: Final = 5.0
MOVING_MIN: Final = 75
"""So many panels have to show something besides 0."""

MAY_BE_EMPTY: Final = {
    ("swell-cost", "Rates"): "the cluster of a laptop has no rates",
    ("swell-health", "Age of the fold snapshot"): "a snapshot is made every 2,000 entries, and these are fewer",
}
"""Panels that show nothing of these runs, and why."""

BEYOND_MAX: Final = 0.05
"""What part of a histogram's observations may lie beyond its last bound."""


class Shown(msgspec.Struct, frozen=True):
    """What a panel shows of the runs: how many series, and their greatest value; or why it cannot be asked."""

    panel: Panel
    series: int
    greatest: float
    error: str


def main() -> int:
    """Run, scrape, evaluate; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy", description="Dashboards and rules on a real run.")
    parser.add_argument("--keep", type=Path, help="keep scrapes, logs and Prometheus's data in this folder")
    given = parser.parse_args()
    with contextlib.ExitStack() as closing:
        folder = given.keep or Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="swell-metrics-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            wrong = _files() + _live(folder)
        except MissingError as error:
            print(error, file=sys.stderr)
            return 2
    for text in wrong:
        print(f"WRONG {text}")
    print(f"\n{'nothing is wrong' if not wrong else f'{len(wrong)} things are wrong'}")
    return 1 if wrong else 0


def _files() -> list[str]:
    """What promtool says of the shipped files."""
    wrong = []
    folder = RULES.parent
    print(promtool("--version")[1].splitlines()[0])
    for arguments in (
        ["check", "config", CONFIG.name],
        ["check", "rules", RULES.name],
        ["test", "rules", RULE_TESTS.name],
    ):
        code, output = promtool(*arguments, folder=folder)
        print(f"$ promtool {' '.join(arguments)}\n{output}\n")
        if code:
            wrong.append(f"promtool {' '.join(arguments)} ends with {code}")
    return wrong


def _live(folder: Path) -> list[str]:
    since = time.time()
    with local_cluster(folder) as cluster:
        targets = {f"swell-{service}": cluster.status.metrics[service] for service in SERVICES}
        with Prometheus(folder / "prometheus", targets) as prometheus:
            until(
                lambda: len(prometheus.over("up == 1", time.time() - 5, time.time())) == len(SERVICES), "first scrapes"
            )
            limit(cluster)
            run_example(cluster, folder)
            run_troubled(cluster, folder)
            time.sleep(SETTLE_S)
            told = told_by_ledger(cluster)
            wrong = _scrapes(targets, folder, told.runs)
            ended = time.time()
            wrong += _agreement(prometheus, told, since, ended)
            wrong += _buckets(prometheus, since, ended)
            wrong += _rules(prometheus, since, ended)
            wrong += _exemplars(prometheus, since, ended)
            wrong += _panels(prometheus, since, ended)
    print(f"\nruns and questions took {time.time() - since:.0f} s")
    return wrong


def _scrapes(targets: dict[str, str], folder: Path, runs: list[str]) -> list[str]:
    """What promtool says of a scrape of each service; and none names a run."""
    wrong = []
    for job, address in targets.items():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        (folder / f"{job}.txt").write_text(text, encoding="utf-8")
        code, output = promtool("check", "metrics", told=text)
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        print(f"$ promtool check metrics < {job} ({len(lines)} samples)\n{output or 'ok'}\n")
        wrong += [f"the scrape of {job} names the run {run}" for run in runs if run in text]
        if code or output:
            wrong.append(f"promtool check metrics on {job} ends with {code}: {output}")
    return wrong


def _agreement(prometheus: Prometheus, told: Told, since: float, ended: float) -> list[str]:
    """Whether sums over all time are what the ledger has."""
    rows, wrong = [], []
    for what, expr, wanted in (
        ("dollars", "sum(swell_scheduler_cost_dollars_total)", told.dollars),
        ("dollars by model", "sum(swell_scheduler_model_cost_dollars_total)", told.dollars),
        ("tokens", "sum(swell_scheduler_tokens_total)", told.tokens),
        ("attempts closed", "sum(swell_scheduler_steps_closed_total)", told.closed),
        ("attempts lost", 'sum(swell_scheduler_events_folded_total{kind="step_lost"})', told.lost),
        ("runs ended", "sum(swell_scheduler_run_duration_seconds_count)", len(told.runs)),
    ):
        found = prometheus.over(expr, since, ended)[0].values[-1]
        rows.append((what, f"{found:g}", f"{wanted:g}"))
        if not math.isclose(found, wanted):
            wrong.append(f"{what}: {found:g} in Prometheus, {wanted:g} in the ledger")
    rows += [
        (f"slowest scrape of {one.labels['job']}", f"{max(one.values):.3f} s", "")
        for one in prometheus.over("max by (job) (scrape_duration_seconds)", since, ended)
    ]
    _print(("what", "Prometheus", "ledger"), rows)
    return wrong


def _buckets(prometheus: Prometheus, since: float, ended: float) -> list[str]:
    """Whether what was observed falls into the buckets."""
    wrong = []
    rows = []
    for name, kind, _ in ROW.findall(DOCUMENT.read_text(encoding="utf-8")):
        if kind != "histogram":
            continue
        by_bound = {
            one.labels["le"]: one.values[-1] for one in prometheus.over(f"sum by (le) ({name}_bucket)", since, ended)
        }
        total = by_bound.get("+Inf", 0)
        if not total:
            rows.append((name, "0", "", "", ""))
            continue
        bounds = sorted((bound for bound in by_bound if bound != "+Inf"), key=float)
        beyond = 1 - by_bound[bounds[-1]] / total
        first = by_bound[bounds[0]] / total
        half = next((bound for bound in bounds if by_bound[bound] >= total / 2), "beyond")
        most = next((bound for bound in bounds if by_bound[bound] >= total * 0.95), "beyond")
        rows.append(
            (
                name,
                f"{total:.0f}",
                f"{first:.0%} <= {bounds[0]}",
                f"p50 <= {half}, p95 <= {most}",
                f"{beyond:.0%} > {bounds[-1]}",
            )
        )
        if beyond > BEYOND_MAX:
            wrong.append(f"{name}: {beyond:.0%} of {total:.0f} observations lie beyond its last bucket, {bounds[-1]}")
    _print(("histogram", "observed", "below the first", "", "beyond the last"), rows)
    return wrong


def _rules(prometheus: Prometheus, since: float, ended: float) -> list[str]:
    """Every rule's expression, and what Prometheus itself says of evaluating it."""
    wrong, rows = [], []
    for rule in rules():
        try:
            found = prometheus.over(rule.expr, since, ended)
        except QueryError as error:
            wrong.append(f"rule {rule.name}: {error}")
            continue
        rows.append((rule.name, "alert" if rule.alert else "recording", f"{len(found)}"))
    groups = prometheus.ask("rules")["groups"]
    sick = [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]
    wrong += [f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in sick]
    _print(("rule", "kind", "series whose expression held"), rows)
    return wrong


def _exemplars(prometheus: Prometheus, since: float, ended: float) -> list[str]:
    """Whether durations and waits lead to attempts."""
    wrong = []
    for name in ("swell_scheduler_step_duration_seconds", "swell_scheduler_queue_wait_seconds"):
        found = prometheus.ask("query_exemplars", query=f"{name}_bucket", start=f"{since:.3f}", end=f"{ended:.3f}")
        attempts = {one["labels"].get("attempt", "") for series in found for one in series["exemplars"]}
        print(f"{name}: {len(attempts)} attempts as exemplars, such as {max(attempts, default='none')}")
        if not attempts or not all(attempt.count("/") == 2 for attempt in attempts):
            wrong.append(f"{name} has no exemplars that name attempts")
    print()
    return wrong


def _panels(prometheus: Prometheus, since: float, ended: float) -> list[str]:
    """What every panel shows."""
    shown = [_shown(prometheus, panel, since, ended) for file in DASHBOARDS for panel in panels(file)]
    rows = [
        (
            one.panel.dashboard,
            one.panel.title,
            str(one.series),
            "REFUSED" if one.error else f"{one.greatest:.4g}" if one.series else "no data",
        )
        for one in shown
    ]
    _print(("dashboard", "panel", "series", "greatest value"), rows)
    wrong = [f"{one.panel.dashboard}: {one.panel.title}: {one.error}" for one in shown if one.error]
    for one in shown:
        excuse = MAY_BE_EMPTY.get((one.panel.dashboard, one.panel.title))
        if not one.series and not one.error and excuse is None:
            wrong.append(f"{one.panel.dashboard}: {one.panel.title} shows nothing")
        if one.series and excuse is not None:
            wrong.append(f"{one.panel.dashboard}: {one.panel.title} shows something, although: {excuse}")
    moving = sum(one.greatest != 0 for one in shown)
    print(f"{len(shown)} panels, {sum(one.series > 0 for one in shown)} with data, {moving} with more than 0")
    if moving < MOVING_MIN:
        wrong.append(f"only {moving} panels show something besides 0, {MOVING_MIN} have to")
    return wrong


def _shown(prometheus: Prometheus, panel: Panel, since: float, ended: float) -> Shown:
    series, greatest = 0, 0.0
    for query in panel.queries:
        try:
            found = prometheus.over(filled(query.expr, **VALUES), since, ended)
        except QueryError as error:
            return Shown(panel, 0, 0.0, str(error))
        series += len(found)
        greatest = max([greatest, *(value for one in found for value in one.values)])
    return Shown(panel, series, greatest, "")


def _print(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if row is head:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
