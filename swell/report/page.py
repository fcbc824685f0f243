"""A report as one HTML file that needs nothing else: no script, no font, no image, and no way to fetch any. Owns jinja2 here.

Everything shown is a value: it is escaped, and control and reordering characters in it are spelt out. The templates are
shipped with this package, and nothing else is ever compiled.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec
from jinja2 import DictLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.outcome import usd_text
from swell.listing import check_lines, when
from swell.report.figures import STEPS, queued_s, worked_s, worth_a_row
from swell.report.notes import notes
from swell.report.terminal import failure_title, outcome, path_text, percent, seconds, slots_text
from swell.report.timeline import timeline
from swell.standing import cost_text, count_text, run_facts, tokens_text, why_text
from swell.text import many, size, visible

if TYPE_CHECKING:
    from swell.report.material import Diff, Material

WORKSTREAMS_SHOWN: Final = 3000
FAILURES_SHOWN: Final = 100
ATTEMPTS_SHOWN: Final = 500
CELL_CHARACTERS_MAX: Final = 2000
_SOURCES: Final = ("page.html.j2", "page.css")


class ShownDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A diff as it is shown: `blocks` are lines of one kind each; `cut` says how much is not there."""

    name: str
    about: str
    blocks: list[tuple[str, str]]
    cut: str
    missing: str


def page(material: Material) -> str:
    """The whole file."""
    run, found = material.run, material.figures()
    shown = {
        "run": run,
        "found": found,
        "facts": [(name, text) for name, text in run_facts(run, found) if name not in _IN_FIGURES],
        "budget": material.definition.budget_nano,
        "eager": material.definition.eager,
        "time": timeline(run, found, material.read_ns),
        "path": path_text(found),
        "slots": slots_text(found),
        "groups": [
            ("tool", found.by_tool),
            ("model", found.by_model),
            ("step", found.by_step),
            ("basis", found.by_basis),
        ],
        "workstreams": worth_a_row(found.workstreams, WORKSTREAMS_SHOWN),
        "workstreams_left": max(len(found.workstreams) - WORKSTREAMS_SHOWN, 0),
        "errors": [error for error in found.errors if error.count > 1],
        "failures": found.failures[:FAILURES_SHOWN],
        "failures_left": max(len(found.failures) - FAILURES_SHOWN, 0),
        "findings": lambda attempt: material.findings.get((attempt.workstream, attempt.attempt), []),
        "diffs": [shown_diff(diff) for diff in material.diffs],
        "diffs_left": material.diffs_left,
        "notes": notes(run.run, material.events),
        "notes_cut": material.events_cut,
        "advice": material.metrics.recommendations,
        "attempts": material.attempts[-ATTEMPTS_SHOWN:],
        "attempts_left": max(len(material.attempts) - ATTEMPTS_SHOWN, 0),
        "status": material.status,
        "read_ns": material.read_ns,
        "version": version("swell"),
        "steps": [step for step in STEPS if any(figure.step == step for figure in found.steps)],
        "why": lambda row: why_text(row, material.read_ns),
        "queued": lambda attempt: queued_s(attempt, material.read_ns),
        "worked": lambda attempt: worked_s(attempt, material.read_ns),
    }
    there = {
        "timeline": True,
        "waves": found.waves,
        "workstreams": True,
        "money": found.spent.attempts,
        "steps": found.steps,
        "failures": found.failures,
        "line": found.line,
        "diffs": material.diffs or material.diffs_left,
        "advice": material.metrics.recommendations,
        "events": material.events,
        "attempts": material.attempts,
    }
    titles = {
        name: "Merges and gates" if name == "line" else name.capitalize()
        for name, is_there in there.items()
        if is_there
    }
    return _template().render(sections=list(titles.items()), **shown)


_IN_FIGURES: Final = frozenset({"progress", "time", "attempts", "cost", "tokens"})


@cache
def _template() -> Template:
    folder = files("swell.report")
    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader({name: folder.joinpath(name).read_text(encoding="utf-8") for name in _SOURCES}),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        checks=lambda attempt: "; ".join(check_lines(attempt)),
        cost=cost_text,
        iso=_iso,
        many=many,
        failure_title=failure_title,
        outcome=outcome,
        percent=percent,
        seconds=seconds,
        short=count_text,
        tokens=tokens_text,
        usd=usd_text,
        when=when,
    )
    return environment.get_template("page.html.j2")


def _shown(value: Any) -> Any:
    """A text that cannot steer what shows it; what a macro made is done already, and stays."""
    return visible(value) if type(value) is str else value


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown_diff(diff: Diff) -> ShownDiff:
    """A diff in blocks of lines that look alike: add, del, hunk, file or same."""
    blocks: list[tuple[str, list[str]]] = []
    added = removed = 0
    is_header, is_binary = True, False
    for line in diff.text.splitlines():
        if line.startswith("diff --git "):
            kind, is_header, is_binary = "file", True, False
        elif is_binary:
            continue
        elif line.startswith("@@"):
            kind, is_header = "hunk", False
        elif is_header:
            kind, is_binary = "same", line.startswith("GIT binary patch")
        else:
            kind = {"+": "add", "-": "del"}.get(line[:1], "same")
            added, removed = added + (kind == "add"), removed + (kind == "del")
        if not blocks or blocks[-1][0] != kind:
            blocks.append((kind, []))
        blocks[-1][1].append(line[:CELL_CHARACTERS_MAX])
    least = "at least " if diff.cut_bytes else ""
    return ShownDiff(
        name=diff.workstream,
        about=f"{many(diff.patch.files_total, 'file')}, {least}+{added} −{removed}, {size(diff.patch.size_bytes)}, {diff.patch.state.replace('_', ' ')}",  # noqa: RUF001 - a minus
        blocks=[(kind, "\n".join(lines)) for kind, lines in blocks],
        cut=size(diff.cut_bytes) if diff.cut_bytes else "",
        missing=diff.missing,
    )
