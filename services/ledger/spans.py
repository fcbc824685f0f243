"""What of a committed batch are spans that have ended: runs, their attempts, and how long attempts waited for an executor.

    swell run   from its submission to its end         parent: whoever asked for it
    └ step      from its schedule to its close         edit, static, runtime, fix, merge, gate, deliver, compensate
      └ queue   from its schedule to its claim (or close)

Pure, and of the log alone: ids derive from what is named, times are the stream's. So whichever ledger exports a span, it is
the same span.
"""

from services.ledger.projector import AttemptRow, Batch, RunRow
from services.otlp import Span, Value
from services.trace import of_attempt, of_run, parsed

CLOSES = frozenset({"step_finished", "step_cancelled", "step_lost"})


def ended(batch: Batch) -> list[Span]:
    """The spans that end in a batch."""
    traces = {entry[0]: entry[8] for entry in batch.entries}
    runs = {row.run: row for row in batch.runs}
    attempts = {(row.run, row.workstream, row.attempt): row for row in batch.attempts}
    spans: list[Span] = []
    for position, _, kind, run, workstream, number, time_ns, *_ in batch.events:
        if kind == "run_finished":
            finished = runs.get(run)
            if finished is not None and finished.finished_ns == time_ns:
                del runs[run]
                spans.append(_run(finished, traces[position]))
        elif kind in CLOSES:
            # A fact that did not count, such as a second close, has left the row as it was.
            closed = attempts.get((run, workstream, number))
            if closed is not None and closed.closed_ns == time_ns:
                del attempts[run, workstream, number]
                spans += _attempt(closed, traces[position])
    return spans


def _run(row: RunRow, trace: str) -> Span:
    asked = parsed(trace)
    return Span(
        trace=of_run(row.run, trace),
        parent="" if asked is None else asked.span_id,
        name="swell run",
        start_ns=row.submitted_ns,
        end_ns=row.finished_ns,
        error=None if row.state == "completed" else f"{row.state}: {row.reason}",
        attributes=_said(
            {
                "swell.run": row.run,
                "swell.state": row.state,
                "swell.repository": row.repository,
                "swell.base_commit": row.base_commit,
                "swell.workstreams": row.workstreams,
                "swell.completed": row.completed,
                "swell.failed": row.failed,
                "swell.attempts": row.attempts,
                "swell.cost_nano": row.cost_nano,
            }
        ),
    )


def _attempt(row: AttemptRow, trace: str) -> list[Span]:
    key = (row.run, row.workstream, row.attempt)
    run = of_run(row.run, trace)
    own = of_attempt(run, key)
    about: dict[str, Value | None] = {
        "swell.run": row.run,
        "swell.workstream": row.workstream,
        "swell.attempt": row.attempt,
        "swell.step": row.step,
        "swell.on_behalf": row.on_behalf,
    }
    told: dict[str, Value | None] = {
        "swell.state": row.state,
        "swell.executor": row.executor,
        "swell.pool": row.pool,
        "swell.tool": row.tool,
        "swell.model": row.model,
        "swell.error_class": row.error_class,
        "swell.tool_wall_s": row.tool_wall_s,
        "swell.cost_nano": row.cost_nano,
    }
    failure = None if row.state == "finished" and row.ok else f"{row.error_class or row.state}: {row.message}"
    return [
        Span(
            trace=own,
            parent=run.span_id,
            name=row.step,
            start_ns=row.scheduled_ns,
            end_ns=row.closed_ns,
            error=failure,
            attributes=_said(about | told),
        ),
        Span(
            trace=of_attempt(run, key, "queue"),
            parent=own.span_id,
            name="queue",
            start_ns=row.scheduled_ns,
            end_ns=row.started_ns or row.closed_ns,
            attributes=_said(about),
        ),
    ]


def _said(values: dict[str, Value | None]) -> dict[str, Value]:
    """Without what is not known."""
    return {name: value for name, value in values.items() if value is not None and value != ""}
