"""How a run is shown while it runs: a live table on a terminal, lines elsewhere, NDJSON when asked for. Rendering only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

import msgspec

from services.events import TERMINAL_WORKSTREAM
from swell.progress import STEPS, Progress, WorkstreamView
from swell.text import duration, one_line
from swell.values import Event, Submitted

if TYPE_CHECKING:
    from rich.console import Group

ROWS_MAX: Final = 40
"""Workstreams shown live; those that have ended or not begun give way first."""
REFRESH_S: Final = 0.25

Style = Literal["live", "lines", "json"]
_MARKS: Final = {
    "": "[dim]·[/]",
    "running": "[yellow]…[/]",
    "ok": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "skipped": "[dim]-[/]",
}
_TROUBLE: Final = (TERMINAL_WORKSTREAM - {"completed"}) | {"awaiting_review"}
_COLOURS: Final = {
    "completed": "green",
    "failed": "red",
    "blocked": "magenta",
    "cancelled": "magenta",
    "awaiting_review": "yellow",
    "compensation_failed": "red",
}


class View(Protocol):
    """Shows a run from `__enter__` to `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, progress: Progress, event: Event, lines: list[str]) -> None:
        """One event was folded, and said these lines."""

    def tick(self, progress: Progress, now_ns: int) -> None:
        """Time has passed."""

    def note(self, text: str) -> None:
        """Something beside the run, such as what Ctrl-C does."""


def choose(style: Style) -> View:
    """The view of that style."""
    if style == "json":
        return _Json()
    return _Live() if style == "live" else _Lines()


class _Quiet:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def tick(self, progress: Progress, now_ns: int) -> None:
        """Nothing moves between events."""

    def note(self, text: str) -> None:
        sys.stderr.write(f"{one_line(text)}\n")
        sys.stderr.flush()


class _Lines(_Quiet):
    """One line for each transition."""

    def show(self, progress: Progress, event: Event, lines: list[str]) -> None:  # noqa: ARG002 - as the protocol says
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()


class _Json(_Quiet):
    """One JSON object for each event."""

    def show(self, progress: Progress, event: Event, lines: list[str]) -> None:  # noqa: ARG002 - as the protocol says
        sys.stdout.write(event_json(event) + "\n")
        sys.stdout.flush()


def event_json(event: Event) -> str:
    """An event as one line of JSON; control characters are escaped by the format."""
    return msgspec.json.encode(event).decode()


class _Live:
    """A table that is drawn over: waves, steps, FIX count, elapsed time."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for it
        from rich.live import Live  # noqa: PLC0415 - as above

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, progress: Progress, event: Event, lines: list[str]) -> None:  # noqa: ARG002 - as the protocol says
        for line in lines:
            if _lasting(event):
                self._console.print(line, markup=False)

    def tick(self, progress: Progress, now_ns: int) -> None:
        self._live.update(table(progress, now_ns, self._console.size.height), refresh=True)

    def note(self, text: str) -> None:
        self._console.print(one_line(text), style="bold yellow", markup=False)


def _lasting(event: Event) -> bool:
    """What stays above the live table."""
    if event.kind == "step_finished":
        return not event.payload.get("ok")
    return event.kind in {
        "run_accepted", "run_stopping", "run_finished", "merge_refused", "gate_flaked", "fix_loop_ended", "step_lost",
        "line_delivered", "delivery_refused", "cancel_requested", "request_answered", "run_transitioned", "run_amended",
        "pause_requested", "resume_requested", "review_requested", "review_resolved", "recovery_chosen", "step_delayed",
        "rollback_started", "rollback_finished", "delivery_requested", "revert_started", "integration_reverted",
        "revert_finished",
    }  # fmt: skip


def table(progress: Progress, now_ns: int, height: int) -> Group:
    """The run at a glance."""
    from rich.console import Group  # noqa: PLC0415 - only a terminal pays for it
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    grid = Table(box=None, pad_edge=False)
    for title in ("wave", "workstream", "state", *STEPS, "fix", "time"):
        grid.add_column(title, no_wrap=title != "state", justify="right" if title in {"fix", "time"} else "left")
    rows = sorted(progress.workstreams.values(), key=lambda view: (view.wave < 0, view.wave, view.workstream))
    shown = _fitting(rows, max(min(ROWS_MAX, height - 6), 3))
    for view in shown:
        state = "merged" if view.merged and view.state == "completed" else view.state
        why = view.waiting or (view.reason if view.state in _TROUBLE else "")
        text = state + (f": {one_line(why, 60)}" if why else "")
        grid.add_row(
            str(view.wave + 1) if view.wave >= 0 else "",
            Text(view.workstream),
            Text(text, style=_COLOURS.get(view.state, "")),
            *(_MARKS[view.marks[step]] for step in STEPS),
            str(view.fixes or ""),
            duration(_time_of(view, now_ns)) if view.started_ns else "",
        )
    done = sum(view.state == "completed" for view in progress.workstreams.values())
    elapsed = max(now_ns - progress.started_ns, 0) / 1e9 if progress.started_ns else 0.0
    hidden = f", {len(rows) - len(shown)} not shown" if len(shown) < len(rows) else ""
    head = f"run {progress.run} {progress.state}  {done}/{len(rows)} completed{hidden}  {duration(elapsed)}"
    return Group(Text(one_line(head), style="bold"), grid)


def _fitting(rows: list[WorkstreamView], room: int) -> list[WorkstreamView]:
    if len(rows) <= room:
        return rows
    urgent = sorted(rows, key=lambda view: (view.state in TERMINAL_WORKSTREAM, not view.started_ns))[:room]
    kept = {view.workstream for view in urgent}
    return [view for view in rows if view.workstream in kept]


def _time_of(view: WorkstreamView, now_ns: int) -> float:
    return max((view.ended_ns or now_ns) - view.started_ns, 0) / 1e9


def summary_json(summary: dict[str, Any]) -> str:
    """The object that ends NDJSON output."""
    return msgspec.json.encode({"kind": "summary", **summary}).decode()


def submitted_json(done: Submitted) -> str:
    """What was submitted, as one line of JSON."""
    return msgspec.json.encode({"kind": "submitted", **msgspec.structs.asdict(done)}).decode()
