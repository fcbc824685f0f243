"""`swell stats`: what a run, or a selection of runs, came to. Imports as swell/cli.py does.

Not to be confused with the metrics that services offer to Prometheus (docs/metrics.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swell.command import cluster_client, command, say
from swell.costs import OfLabels, OfTenant, Repository, SomeRun, amount, selected
from swell.errors import invalid
from swell.options import JsonOption, Since, Until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swell.values import Count, Metrics, ToolFigures

PATH_SHOWN = 30
"""Links of the critical path that are printed; JSON has them all."""
PATH_SHARE = 0.01
"""The part of the time below which a link is not worth a line."""


@command
def stats(
    run: SomeRun = "",
    *,
    since: Since = "",
    until: Until = "",
    repository: Repository = "",
    label: OfLabels = None,
    tenant: OfTenant = None,
    as_json: JsonOption = False,
) -> int:
    """Show what a run, or those submitted in a time, came to: outcomes, durations, repairs, the critical path, advice."""
    from swell.moments import span_ns  # noqa: PLC0415 - as the module says

    if run and (since or until or repository or label or tenant is not None):
        raise invalid("BAD_OPTIONS", "a run is named, and others are described", "Name the run alone, or leave it out.")
    begin, end = span_ns(since, until)
    with cluster_client() as client:
        selection = selected(
            client, run, since_ns=begin, until_ns=end, repository=repository, label=label, tenant=tenant
        )
        found = client.get_metrics(selection)
    if as_json:
        import msgspec  # noqa: PLC0415 - as the module says

        say(msgspec.json.encode(found).decode())
    else:
        say(stat_lines(found))
    return 0


def stat_lines(found: Metrics) -> list[str]:
    """The figures in words; what cannot be known is left out."""
    return [*_summary(found), *_durations(found), *_repairs(found), *_path(found), *_advice(found)]


def _summary(found: Metrics) -> list[str]:
    from swell.text import duration, many  # noqa: PLC0415 - as above

    mean = "" if found.avg_duration_sec is None else f", {duration(found.avg_duration_sec)} each"
    lines = [
        f"{many(found.runs, 'run')}, {many(found.total_workstreams, 'workstream')}: {found.successful} successful, {found.failed} failed",
        f"  worked      {duration(found.total_duration_sec)}{mean}",
    ]
    if found.wall_s is not None:
        lines.append(f"  took        {duration(found.wall_s)}")
    if found.parallelism_efficiency is not None:
        lines.append(f"  efficiency  {found.parallelism_efficiency:.0%} of {found.workers} workers")
    if found.worker_utilization is not None:
        lines.append(f"  slots used  {found.worker_utilization:.0%}, by {found.utilization_basis}")
    if found.peak_parallelism is not None:
        lines.append(f"  at a time   {many(found.peak_parallelism, 'attempt')} at most")
    waves = "" if found.avg_wave_duration_sec is None else f", {duration(found.avg_wave_duration_sec)} each"
    lines.append(f"  waves       {found.wave_count}{waves}")
    unknown = f", and {many(found.costs.unpriced, 'attempt')} of unknown cost" if found.costs.unpriced else ""
    lines.append(f"  cost        {amount(found.costs.cost_nano)}{unknown}")
    if found.budget is not None:
        lines.append(f"  budget      {amount(found.budget.limit_nano)}: {found.budget.status}")
    return lines


def _durations(found: Metrics) -> list[str]:
    from swell.text import columns, duration  # noqa: PLC0415 - as above

    rows = [
        [
            one.step or "queue",
            one.name or "-",
            str(one.count),
            *map(duration, (one.p50_s, one.p90_s, one.p95_s, one.p99_s)),
        ]
        for one in (*found.durations, *found.queue_waits)
    ]
    return ["", *columns([["step", "tool or pool", "count", "p50", "p90", "p95", "p99"], *rows])] if rows else []


def _repairs(found: Metrics) -> list[str]:
    from swell.text import columns, many  # noqa: PLC0415 - as above

    lines: list[str] = []
    if found.tools:
        rows = [
            [one.tool, str(one.workstreams), str(one.completed), f"{one.first_pass / one.workstreams:.0%}",
             str(one.fix_attempts), _cost(one)]
            for one in found.tools
        ]  # fmt: skip
        lines += ["", *columns([["tool", "workstreams", "completed", "first pass", "fix attempts", "cost"], *rows])]
    if found.mean_fix_attempts is not None:
        spread = ", ".join(f"{one.count} with {one.name}" for one in found.fix_attempts)
        lines += ["", f"FIX attempts for each workstream: {found.mean_fix_attempts:.2f} ({spread})"]
    noted = [
        ("breakers", found.breaker_trips),
        ("errors", found.errors),
        ("recoveries", found.recoveries),
        ("flaky gates", found.flaky_gates),
        ("contexts", found.contexts),
    ]
    lines += [f"{name}: {_told(counts)}" for name, counts in noted if counts]
    if found.merge_conflicts or found.gate_failures:
        lines.append(f"the line: {many(found.merge_conflicts, 'conflict')}, {many(found.gate_failures, 'red gate')}")
    return lines


def _cost(one: ToolFigures) -> str:
    """Money for a column, as in a report: a dash for a tool that costs nothing, a question mark where some is unknown."""
    if not one.attempts:
        return "-"
    known = "" if one.cost_nano is None else amount(one.cost_nano)
    return f"{known}+?" if known and one.unpriced else known or "?"


def _told(counts: Iterable[Count]) -> str:
    from swell.text import one_line  # noqa: PLC0415 - as above

    return one_line(", ".join(f"{one.name}{f' ({one.reason})' if one.reason else ''} {one.count}" for one in counts))


def _path(found: Metrics) -> list[str]:
    from swell.text import columns, duration  # noqa: PLC0415 - as above

    least_s = PATH_SHARE * sum(link.duration_s for link in found.critical_path)
    longest = sorted(found.critical_path, key=lambda link: -link.duration_s)[:PATH_SHOWN]
    shown = [link for link in found.critical_path if link in longest and link.duration_s >= least_s]
    if not shown:
        return []
    rows = [
        [
            duration(link.duration_s),
            link.kind,
            link.workstream or "the end",
            f"{link.step} {link.attempt}" if link.step else "-",
        ]
        for link in shown
    ]
    left = len(found.critical_path) - len(shown)
    more = [f"  and {left} shorter stretches"] if left else []
    return ["", "what determined how long it took:", *(f"  {line}" for line in columns(rows)), *more]


def _advice(found: Metrics) -> list[str]:
    from swell.text import one_line  # noqa: PLC0415 - as above

    lines: list[str] = []
    for one in found.recommendations:
        lines += ["", one_line(f"{one.category}: {one.current_value} -> {one.recommended_value}")]
        lines += [f"  {one_line(one.reasoning)}", f"  brings {one_line(one.expected_improvement)}"]
        lines += [f"    {one_line(f'{fact.name} = {fact.value:g} ({fact.source})')}" for fact in one.evidence]
    return lines
