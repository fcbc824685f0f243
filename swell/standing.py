"""How a run stands, as lines: what `swell status` and `swell show` print, and what `swell report` begins with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

import msgspec

from services.outcome import usd_text
from swell.listing import attempt_lines, require_workstream, when
from swell.report.figures import Figures, Spent, WorkstreamFigures, figures
from swell.screen import Cell, Screen, bar, number, state_cell
from swell.text import duration, many, one_line

if TYPE_CHECKING:
    from swell.client import Client
    from swell.values import Attempt, Run, Wave, Workstream

BAR_WIDTH: Final = 20
WAVES_SHOWN: Final = 12
LABELS_SHOWN: Final = 20


class RunStatus(msgspec.Struct, frozen=True):
    """A run, its waves and its workstreams, at `now_ns` of this machine's clock."""

    run: Run
    workstreams: list[Workstream]
    waves: list[Wave]
    attempts: list[Attempt]
    now_ns: int

    @classmethod
    def of(cls, client: Client, run: str) -> Self:
        """Read it."""
        found = client.get_run(run)
        return cls(
            found, client.list_workstreams(run), client.list_waves(run), client.list_attempts(run), time.time_ns()
        )

    def json(self) -> str:
        """Run, workstreams and waves as one JSON object."""
        told = {"run": self.run, "workstreams": self.workstreams, "waves": self.waves}
        return msgspec.json.encode(told).decode()

    def lines(self, screen: Screen) -> list[str]:
        """The run, its waves, then its workstreams, each with its reason or what it waits for."""
        found = plain_figures(self.run, self.workstreams, self.attempts, self.waves, self.now_ns)
        return [
            *run_lines(self.run, found, screen),
            "",
            *(wave_lines(found, screen) if len(found.waves) > 1 else []),
            *workstream_lines(found.workstreams, self.now_ns, screen),
        ]


class RunDetail(msgspec.Struct, frozen=True):
    """A run with its attempts, at `now_ns` of this machine's clock; `workstream` is the only one that is told of, "" for all."""

    status: RunStatus
    workstream: str

    @classmethod
    def of(cls, client: Client, run: str, workstream: str) -> Self:
        """Read it. Raises SwellError WORKSTREAM_NOT_FOUND."""
        status = RunStatus.of(client, run)
        if workstream:
            require_workstream(status.workstreams, run, workstream)
        return cls(status, workstream)

    def json(self) -> str:
        """Run, workstreams and attempts as one JSON object."""
        told = {
            "run": self.status.run,
            "workstreams": [item for item in self.status.workstreams if self._is_meant(item)],
            "attempts": self._attempts(),
        }
        return msgspec.json.encode(told).decode()

    def lines(self, screen: Screen) -> list[str]:
        """The run, its workstreams, and every attempt with its outcome, its cost and what it left behind."""
        status = self.status
        found = plain_figures(status.run, status.workstreams, status.attempts, status.waves, status.now_ns)
        rows = [row for row in found.workstreams if self._is_meant(row.item)]
        lines = [*run_lines(status.run, found, screen), "", *workstream_lines(rows, status.now_ns, screen)]
        for attempt in self._attempts():
            head, *rest = attempt_lines(attempt)
            lines += ["", screen.paint(head, "" if attempt.ok or not attempt.closed_ns else "bad")]
            lines += [part for line in rest for part in screen.wrapped(line, "  ")]
        return lines

    def _is_meant(self, item: Workstream | Attempt) -> bool:
        return self.workstream in {"", item.workstream}

    def _attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.status.attempts if self._is_meant(attempt)]


def plain_figures(
    run: Run, workstreams: Sequence[Workstream], attempts: Sequence[Attempt], waves: Sequence[Wave], now_ns: int
) -> Figures:
    """The figures of a run that need nothing of its definition."""
    return figures(run, workstreams, attempts, waves, now_ns=now_ns)


# The run


def run_lines(run: Run, found: Figures, screen: Screen, facts: Sequence[tuple[str, str]] = ()) -> list[str]:
    """The run with its state, reason, progress, cost and what it delivered; `facts` are told at the end of it."""
    why = f": {run.reason}" if run.reason and run.state != "running" else ""
    head, *more = screen.wrapped(f"run {run.run} {run.state}{why}")
    shown = f"run {run.run} {run.state}"
    if head.startswith(shown):
        head = f"run {screen.paint(run.run, 'strong')} {screen.state(run.state)}{head[len(shown) :]}"
    return [head, *more, *screen.facts([*run_facts(run, found), *facts])]


def run_facts(run: Run, found: Figures) -> list[tuple[str, str]]:
    """What there is to be said of a run, by name; what is empty is left out by whoever shows it."""
    review = ""
    if run.awaiting_review and not run.finished_ns:
        verb = "waits" if run.awaiting_review == 1 else "wait"
        review = f"{run.awaiting_review} {verb} for a person: swell review list --run {run.run}"
    rollback = f"{run.rollback}: {run.rollback_reason}".rstrip(": ") if run.rollback else ""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(run.labels.items())[:LABELS_SHOWN])
    return [
        ("progress", progress_text(run, found)),
        ("time", time_text(run, found)),
        ("attempts", f"{run.attempts}, {run.fix_attempts} of them FIX"),
        ("cost", spent_text(found.spent)),
        ("tokens", tokens_text(found.spent)),
        ("repository", f"{run.repository} at {run.base_commit[:12]}"),
        ("asked for", f"by {run.actor}, {when(run.submitted_ns)}" if run.actor else ""),
        ("delivered", delivered_text(run)),
        ("review", review),
        ("rollback", rollback),
        ("labels", labels),
        ("tenant", run.tenant),
    ]


def progress_text(run: Run, found: Figures) -> str:
    """A bar of what has completed, and what became of the rest."""
    taken_back = sum(row.item.state == "compensated" for row in found.workstreams)
    counts = [
        (run.failed, "failed"),
        (run.blocked, "blocked"),
        (run.cancelled, "cancelled"),
        (run.awaiting_review, "in review"),
        (taken_back, "taken back"),
        (0 if run.finished_ns else run.workstreams - len(found.workstreams), "not begun"),
    ]
    share = run.completed / run.workstreams if run.workstreams else 0.0
    said = "".join(f", {count} {name}" for count, name in counts if count > 0)
    return f"{bar(share, BAR_WIDTH)} {run.completed}/{run.workstreams} completed{said}"


def time_text(run: Run, found: Figures) -> str:
    """How long it took, or has run."""
    if run.finished_ns:
        return f"{duration(found.took_s)}, ended {when(run.finished_ns)}"
    return f"{duration(found.took_s)} so far" if run.submitted_ns else ""


def spent_text(spent: Spent) -> str:
    """Money for people, and how many attempts it says nothing of; empty when no tool costs anything."""
    if not spent.attempts:
        return ""
    if not spent.unpriced:
        return usd_text(spent.cost_nano)
    return f"{usd_text(spent.cost_nano)}, and that of {spent.unpriced} of {many(spent.attempts, 'attempt')}, which nobody knows"


def tokens_text(spent: Spent) -> str:
    """Tokens for people; empty when none were told."""
    if not spent.tokens:
        return ""
    cached = f", {count_text(spent.cache_read_tokens)} from a cache" if spent.cache_read_tokens else ""
    cached += f", {count_text(spent.cache_write_tokens)} into it" if spent.cache_write_tokens else ""
    return f"{count_text(spent.input_tokens)} in{cached}, {count_text(spent.output_tokens)} out"


def count_text(count: int) -> str:
    """A large number in short: 812, 12.3k, 4.6M."""
    if count < 10_000:
        return str(count)
    value, unit = (count / 1e3, "k") if count < 999_950 else (count / 1e6, "M")
    return f"{value:.1f}{unit}"


def delivered_text(run: Run) -> str:
    """The branch, its commit, and where it is; empty when nothing was delivered."""
    if not run.delivered_ref:
        return ""
    where = f" of {run.delivered_remote}" if run.delivered_remote else ""
    return f"branch {run.delivered_ref.removeprefix('refs/heads/')} at {run.delivered_commit[:12]}{where}"


# Waves and workstreams


def wave_lines(found: Figures, screen: Screen) -> list[str]:
    """A line for each wave, with its progress; of many, the last."""
    rows: list[list[Cell | str]] = []
    for wave in found.waves[-WAVES_SHOWN:]:
        share = wave.ended / wave.workstreams if wave.workstreams else 0.0
        slowest = f"{wave.slowest} {duration(wave.slowest_s)}" if wave.slowest else ""
        rows.append(
            [
                number(str(wave.wave + 1)),
                bar(share, 10),
                f"{wave.completed}/{wave.workstreams} completed",
                number(duration(wave.took_s)),
                slowest,
            ]
        )
    left = len(found.waves) - len(rows)
    more = [f"and {many(left, 'wave')} before"] if left else []
    return [*screen.table(["wave", "", "", "took", "slowest"], rows), *more, ""]


def workstream_lines(rows: Sequence[WorkstreamFigures], now_ns: int, screen: Screen) -> list[str]:
    """A line for each, and below it what it waits for, what it is at, or why it did not complete."""
    cells: list[list[Cell | str]] = [
        [
            number(str(row.item.wave + 1) if row.item.wave >= 0 else ""),
            row.item.workstream,
            state_cell(row.item.state),
            number(duration(row.took_s) if row.started_ns else ""),
            number(str(row.item.fix_iterations or "")),
            number(cost_text(row.spent)),
            ", ".join(row.tools) or "-",
        ]
        for row in rows
    ]
    titles = ["wave", "workstream", "state", "time", "fix", "cost", "tool"]
    head, *lines = screen.table(titles, cells, gives=6)
    told = [head]
    for row, line in zip(rows, lines, strict=True):
        told.append(line)
        if said := why_text(row, now_ns):
            told += [screen.paint(part, "dim") for part in screen.wrapped(said, " " * 6)]
    return told


def cost_text(spent: Spent) -> str:
    """Money for a column; with a plus where some of it is unknown, a question mark where all of it is."""
    if not spent.unpriced:
        return usd_text(spent.cost_nano) if spent.cost_nano else ""
    return f"{usd_text(spent.cost_nano)}+?" if spent.cost_nano else "?"


def why_text(row: WorkstreamFigures, now_ns: int) -> str:
    """What a workstream waits for and until when, what it is at and since when, or why it ended; empty when it is merged."""
    item = row.item
    if item.state == "completed" and item.reason in {"", "merged"}:
        return ""
    if item.waiting_for:
        until = f" until {when(item.waiting_until_ns)}" if item.waiting_until_ns else ""
        return f"waits for {item.waiting_for.replace('_', ' ')}{until}: {item.waiting_reason}"
    said = one_line(row.why, 500)
    newest = next((attempt for attempt in reversed(row.attempts) if not attempt.closed_ns), None)
    if newest is not None and not row.ended_ns:
        since_ns = newest.started_ns or newest.scheduled_ns
        return f"{said}, for {duration(max(now_ns - since_ns, 0) / 1e9)}"
    limit = f" (FIX ended: {item.fix_limit.replace('_', ' ')})" if item.fix_limit and item.state != "completed" else ""
    return f"{said}{limit}"
