"""A report as lines: sections, each left out when there is nothing to be said. Rendering only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from services.events import LINE
from services.outcome import usd_text
from swell.listing import check_lines, when
from swell.report.figures import worth_a_row
from swell.report.notes import notes
from swell.screen import Cell, Screen, number, state_cell
from swell.standing import cost_text, count_text, run_lines, wave_lines, workstream_lines
from swell.text import duration, many, one_line

if TYPE_CHECKING:
    from swell.report.figures import ErrorGroup, Figures, Spent
    from swell.report.material import Material
    from swell.values import Attempt

ROWS_MAX: Final = 100
FAILURES_SHOWN: Final = 10
FINDINGS_SHOWN: Final = 8
ERRORS_SHOWN: Final = 20
LINE_SHOWN: Final = 40
NOTES_SHOWN: Final = 40
STAYS_SHOWN: Final = 12
_STAYS: Final = {LINE: "the line", "": "the end"}

Section = tuple[str, list[str]]


def report_lines(material: Material, screen: Screen) -> list[str]:
    """The whole report."""
    found = material.figures()
    facts = [("budget", budget_text(material)), ("workers", workers_text(found)), ("queue", queue_text(found))]
    lines = run_lines(material.run, found, screen, [*facts, ("critical", path_text(found))])
    for title, body in _sections(material, found, screen):
        if body:
            lines += ["", screen.heading(title), *(f"  {line}" if line else "" for line in body)]
    return [*lines, "", *screen.facts([("next", one) for one in _next(material)], indent="")]


def _sections(material: Material, found: Figures, screen: Screen) -> Iterable[Section]:
    narrow = Screen(screen.width - 2, screen.colour) if screen.width else screen
    yield "Waves", _trimmed(wave_lines(found, narrow)) if found.waves else []
    yield "Workstreams", _workstreams(found, material.read_ns, narrow)
    yield "Steps", _steps(found, narrow)
    yield "Money", _money(found, narrow)
    yield "First pass", _first_pass(found, narrow)
    yield "Failures", _failures(material, found, narrow)
    yield "The same again", _errors(found.errors, narrow)
    yield "Merges and gates", _line(found, narrow)
    yield "Advice", _advice(material, narrow)
    yield "Events", _notes(material, narrow)


def budget_text(material: Material) -> str:
    """The run's budget; empty without one."""
    limit = material.definition.budget_nano
    return "" if limit is None else f"{usd_text(limit)}, of which {usd_text(material.run.cost_nano)} are spent"


def workers_text(found: Figures) -> str:
    """How many tools may run at a time, and what part of the slots' time was used, each where it is known."""
    return "; ".join(part for part in (str(found.workers or ""), slots_text(found)) if part)


def slots_text(found: Figures) -> str:
    """What part of the slots' time was used, and whose slots they are; empty where nobody knows."""
    if found.utilisation is None:
        return ""
    return f"{percent(found.utilisation)} of the slots' time used, by {found.utilisation_basis}"


def queue_text(found: Figures) -> str:
    """How long attempts waited to be claimed; empty when none was."""
    if not found.queue.count:
        return ""
    return f"attempts waited {seconds(found.queue.p50_s)} (median), at most {seconds(found.queue.max_s)}"


def path_text(found: Figures) -> str:
    """The critical path by workstream, with the time that each added; an ellipsis for those that added little."""
    stays = [
        (name, sum(link.duration_s for link in links))
        for name, links in groupby(found.critical_path, key=lambda link: link.workstream)
    ]
    longest = sorted((length for _, length in stays), reverse=True)[:STAYS_SHOWN]
    least_s = longest[-1] if longest else 0.0
    told = [f"{_STAYS.get(name, name)} ({seconds(length)})" if length >= least_s else "…" for name, length in stays]
    return " -> ".join(text for text, _ in groupby(told)) if len(stays) > 1 else ""


def percent(share: float) -> str:
    """A share of 1 in per cent."""
    return f"{share * 100:.0f} %"


def seconds(length: float) -> str:
    """A length of time; below a tenth of a second in milliseconds."""
    return f"{length * 1000:.0f} ms" if 0 < length < 0.1 else duration(length)


def _workstreams(found: Figures, now_ns: int, screen: Screen) -> list[str]:
    rows = worth_a_row(found.workstreams, ROWS_MAX)
    left = len(found.workstreams) - len(rows)
    more = [f"and {left} more: swell status shows all"] if left else []
    return [*workstream_lines(rows, now_ns, screen), *more] if rows else []


def _steps(found: Figures, screen: Screen) -> list[str]:
    rows: list[list[Cell | str]] = [
        [
            step.step,
            number(str(step.ok or "")),
            Cell(str(step.failed), "bad", right=True) if step.failed else number(""),
            number(str(step.other or "")),
            *(number(seconds(value) if value else "") for value in (step.work.p50_s, step.work.p95_s, step.work.max_s)),
            number(seconds(step.work.total_s) if step.work.total_s else ""),
        ]
        for step in found.steps
    ]
    return screen.table(["step", "ok", "failed", "other", "median", "p95", "longest", "in all"], rows) if rows else []


def _money(found: Figures, screen: Screen) -> list[str]:
    if not found.spent.attempts:
        return []
    rows: list[list[Cell | str]] = []
    groups = (("tool", found.by_tool), ("model", found.by_model), ("step", found.by_step), ("basis", found.by_basis))
    for kind, group in groups:
        rows += [[kind, name, *_spent_cells(spent)] for name, spent in group]
    rows.append(["all", "", *_spent_cells(found.spent)])
    return screen.table(["by", "", "cost", "attempts", "unknown", "in", "cached", "out"], rows, gives=1)


def _spent_cells(spent: Spent) -> list[Cell]:
    tokens = (spent.input_tokens + spent.cache_write_tokens, spent.cache_read_tokens, spent.output_tokens)
    return [
        number(cost_text(spent)),
        number(str(spent.attempts)),
        number(str(spent.unpriced or "")),
        *(number(count_text(count) if count else "") for count in tokens),
    ]


def _first_pass(found: Figures, screen: Screen) -> list[str]:
    rows: list[list[Cell | str]] = [
        [one.tool, number(f"{one.passed}/{one.ended}"), number(percent(one.passed / one.ended)), number(str(one.fixes))]
        for one in found.first_pass
    ]
    return screen.table(["tool", "passed", "share", "fix"], rows, gives=0) if rows else []


def _failures(material: Material, found: Figures, screen: Screen) -> list[str]:
    lines: list[str] = []
    for failure in found.failures[:FAILURES_SHOWN]:
        attempt = failure.attempt
        after = " (later mended)" if failure.mended else ""
        lines.append(screen.paint(one_line(failure_title(attempt) + after), "" if failure.mended else "bad"))
        lines += screen.wrapped(attempt.message, "  ") if attempt.message else []
        told = material.findings.get((attempt.workstream, attempt.attempt), [])
        lines += [f"  {one_line(line, (screen.width or 200) - 4)}" for line in told[:FINDINGS_SHOWN]]
        if len(told) > FINDINGS_SHOWN:
            lines.append(f"  … {many(len(told) - FINDINGS_SHOWN, 'line')} more")
    left = len(found.failures) - FAILURES_SHOWN
    return [*lines, f"and {left} more: swell show {material.run.run}"] if left > 0 else lines


def failure_title(attempt: Attempt) -> str:
    """Which attempt it was, and the class of its failure."""
    about = f" for {attempt.on_behalf}" if attempt.on_behalf else ""
    return f"{attempt.workstream}/{attempt.attempt} {attempt.step}{about}: {attempt.error_class or attempt.state}"


def _errors(found: Sequence[ErrorGroup], screen: Screen) -> list[str]:
    errors = [error for error in found if error.count > 1]
    rows: list[list[Cell | str]] = [
        [
            number(str(error.count)),
            error.error_class,
            ",".join(error.steps),
            str(len(error.workstreams)) if len(error.workstreams) > 3 else ",".join(error.workstreams),
            error.message,
        ]
        for error in errors[:ERRORS_SHOWN]
    ]
    more = [f"and {len(errors) - ERRORS_SHOWN} more"] if len(errors) > ERRORS_SHOWN else []
    return [*screen.table(["times", "class", "step", "workstreams", "newest message"], rows), *more] if rows else []


def _line(found: Figures, screen: Screen) -> list[str]:
    rows: list[list[Cell | str]] = [
        [
            number(str(attempt.attempt)),
            attempt.step,
            attempt.on_behalf or attempt.purpose or "-",
            state_cell(outcome(attempt)),
            number(seconds((attempt.closed_ns - attempt.started_ns) / 1e9 if attempt.closed_ns else 0.0)),
            attempt.message or "; ".join(check_lines(attempt)),
        ]
        for attempt in found.line[-LINE_SHOWN:]
    ]
    left = len(found.line) - len(rows)
    more = [f"and {left} before"] if left else []
    return [*screen.table(["", "step", "for", "outcome", "time", "says"], rows), *more] if rows else []


def outcome(attempt: Attempt) -> str:
    """How an attempt ended, in a word."""
    return "ok" if attempt.ok else "failed" if attempt.state == "finished" else attempt.state


def _advice(material: Material, screen: Screen) -> list[str]:
    lines: list[str] = []
    for one in material.metrics.recommendations:
        what = f"{one.category}: {one.current_value} -> {one.recommended_value}"
        lines += [part for text in (what, f"  {one.reasoning}") for part in screen.wrapped(one_line(text))]
    return [*lines, f"the numbers behind it: swell stats {material.run.run}"] if lines else []


def _notes(material: Material, screen: Screen) -> list[str]:
    told = notes(material.run.run, material.events)
    lines = [part for note in told[-NOTES_SHOWN:] for part in screen.wrapped(f"{when(note.time_ns)} {note.text}")]
    left = len(told) - NOTES_SHOWN
    more = [f"and {left} before: swell events {material.run.run}"] if left > 0 else []
    return [*more, *lines]


def _next(material: Material) -> list[str]:
    run = material.run
    hints = [f"swell report {run.run} --html FILE writes this with the timeline and the diffs"]
    failed = next((item.workstream for item in material.workstreams if item.state == "failed"), "")
    if failed:
        hints.append(
            f"swell show {run.run} {failed} has each attempt, swell logs {run.run} {failed} what its tools said"
        )
    if run.delivered_ref and not run.delivered_remote:
        hints.append(f"git merge {run.delivered_ref.removeprefix('refs/heads/')}")
    return hints


def _trimmed(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    return lines
