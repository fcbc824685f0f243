"""What a report is made of, read from the ledger, each kind up to a limit: what is over is counted, and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, Self

import msgspec

from swell.errors import SwellError
from swell.report.figures import Figures, failures, figures
from swell.tables import diagnostics_lines
from swell.values import (
    Artifact,
    Attempt,
    Event,
    LedgerStatus,
    Metrics,
    Patch,
    Run,
    Selection,
    Wave,
    Workstream,
)

if TYPE_CHECKING:
    from services.spec import RunSpec
    from swell.client import Client

NOTES_MAX: Final = 500
FAILURES_MAX: Final = 20
"""Failed attempts whose diagnostics are read."""
DIAGNOSTICS_BYTES_MAX: Final = 8 * 1024 * 1024
SPEC_BYTES_MAX: Final = 64 * 1024 * 1024
DIFFS_MAX: Final = 200
DIFF_BYTES_MAX: Final = 128 * 1024
"""Of one diff; the rest is named by the command that shows it."""
DIFFS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of all diffs together."""

NOTABLE: Final = (
    "budget_changed", "budget_reached", "cancel_requested", "delivery_refused", "fix_loop_ended", "gate_flaked",
    "integration_reverted", "line_delivered", "merge_postponed", "merge_refused", "pause_requested", "recovery_chosen",
    "resume_requested", "revert_finished", "revert_started", "review_requested", "review_resolved", "rollback_finished",
    "rollback_started", "run_accepted", "run_amended", "run_finished", "run_stopping", "run_transitioned",
)  # fmt: skip
ACROSS_RUNS: Final = (
    "fleet_paused", "fleet_resumed", "tool_breaker_closed", "tool_breaker_half_opened", "tool_breaker_opened",
)  # fmt: skip


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """The patch that a workstream goes on with. `text` is its beginning; `cut_bytes` are left out; `missing` says why all is."""

    workstream: str
    patch: Patch
    text: str = ""
    cut_bytes: int = 0
    missing: str = ""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's definition says of its course. `workers` is 0 where the definition is no longer stored."""

    workers: int = 0
    eager: bool = False
    budget_nano: int | None = None


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """A run with everything that belongs to it, at `read_ns` (nanoseconds since 1970-01-01 UTC)."""

    run: Run
    workstreams: list[Workstream]
    attempts: list[Attempt]
    waves: list[Wave]
    definition: Definition
    events: list[Event]
    events_cut: bool
    findings: dict[tuple[str, int], list[str]]
    diffs: list[Diff]
    diffs_left: int
    metrics: Metrics
    status: LedgerStatus
    read_ns: int

    @classmethod
    def of(cls, client: Client, run: str, now_ns: int, *, diffs: bool) -> Self:
        """Read it. `diffs`: the patches as well."""
        status = client.ledger_status()
        found = client.get_run(run)
        attempts = client.list_attempts(run)
        workstreams = client.list_workstreams(run)
        events = list(islice(_events(client, found, attempts), NOTES_MAX + 1))
        patches, left = _diffs(client, run, workstreams) if diffs else ([], 0)
        return cls(
            run=found,
            workstreams=workstreams,
            attempts=attempts,
            waves=client.list_waves(run),
            definition=_definition(client, events),
            events=events[:NOTES_MAX],
            events_cut=len(events) > NOTES_MAX,
            findings=_findings(client, workstreams, attempts),
            diffs=patches,
            diffs_left=left,
            metrics=client.get_metrics(Selection(run=run)),
            status=status,
            read_ns=now_ns,
        )

    def json(self) -> str:
        """The run, its figures, what failed checks said, what the figures suggest and the events worth a word, as one JSON object."""
        told = {
            "run": self.run,
            "figures": self.figures(),
            "findings": [
                {"workstream": workstream, "attempt": attempt, "lines": lines}
                for (workstream, attempt), lines in self.findings.items()
            ],
            "recommendations": self.metrics.recommendations,
            "events": self.events,
            "position": self.status.position,
            "read_ns": self.read_ns,
        }
        return msgspec.json.encode(told).decode()

    def figures(self) -> Figures:
        """Its figures, as of when it was read."""
        return figures(
            self.run,
            self.workstreams,
            self.attempts,
            self.waves,
            now_ns=self.read_ns,
            workers=self.definition.workers,
            metrics=self.metrics,
        )


def _events(client: Client, run: Run, attempts: Sequence[Attempt]) -> Iterator[Event]:
    """What is worth a word, in the order of the log: of the run, and of the tools, providers and pools it used meanwhile."""
    own = client.list_events(run.run, kinds=NOTABLE, limit=NOTES_MAX + 1)
    first = next(own, None)
    if first is None:
        return
    about = {("tool", attempt.tool) for attempt in attempts} | {("pool", attempt.pool) for attempt in attempts}
    about |= {("tool", f"provider:{attempt.provider}") for attempt in attempts} | {("all", "")}
    until_ns = run.finished_ns or 2**63
    across: list[Event] = []
    for event in client.list_events("fleet", kinds=ACROSS_RUNS, after=first.position, limit=10 * NOTES_MAX):
        if event.time_ns > until_ns:
            break
        name = event.payload.get("tool", event.payload.get("name", ""))
        if (event.payload.get("scope", "tool"), name) in about:
            across.append(event)
    yield from sorted([first, *own, *across], key=lambda event: (event.position, event.index))


def _definition(client: Client, events: Sequence[Event]) -> Definition:
    spec = None
    for event in events:
        if event.kind in {"run_accepted", "run_amended"}:
            spec = event.payload.get("spec")
    found = _spec(client, spec) if spec else None
    if found is None:
        return Definition()
    budget = found.options.budget_nano
    for event in events:
        if event.kind == "budget_changed" and event.payload.get("scope", "run") == "run":
            budget = event.payload.get("limit_nano")
    return Definition(
        workers=found.options.max_workers,
        eager=found.options.scheduling == "eager",
        budget_nano=budget,
    )


def _spec(client: Client, told: object) -> RunSpec | None:
    """The definition, where it is still stored and can be read."""
    from services.spec import decode_spec  # noqa: PLC0415 - help must not wait for this

    try:
        return decode_spec(_read(client, msgspec.convert(told, Artifact), SPEC_BYTES_MAX))
    except (SwellError, ValueError):
        return None


def _findings(
    client: Client, workstreams: Sequence[Workstream], attempts: Sequence[Attempt]
) -> dict[tuple[str, int], list[str]]:
    """What the checks of failed attempts say, by workstream and number: of FAILURES_MAX, first of what nothing has mended."""
    found: dict[tuple[str, int], list[str]] = {}
    for failure in failures(workstreams, attempts):
        attempt = failure.attempt
        kept = next((artifact for artifact in attempt.artifacts if artifact.role == "diagnostics"), None)
        if kept is None or kept.size_bytes > DIAGNOSTICS_BYTES_MAX:
            continue
        if len(found) == FAILURES_MAX:
            break
        try:
            lines = diagnostics_lines(_read(client, kept, DIAGNOSTICS_BYTES_MAX), brief=True)
            lines = [line.removeprefix("  ") for line in lines]
        except SwellError as error:
            lines = [error.message]
        found[attempt.workstream, attempt.attempt] = lines
    return found


def _diffs(client: Client, run: str, workstreams: Sequence[Workstream]) -> tuple[list[Diff], int]:
    """The patches that workstreams go on with, in the order of the plan, and how many more there are."""
    kept = {(patch.workstream, patch.attempt): patch for patch in client.list_patches(run)}
    wanted = [kept[place] for item in workstreams if (place := (item.workstream, item.patch)) in kept]
    found: list[Diff] = []
    room = DIFFS_BYTES_MAX
    for patch in wanted[:DIFFS_MAX]:
        if room <= 0:
            break
        found.append(_diff(client, patch, min(DIFF_BYTES_MAX, room)))
        room -= len(found[-1].text)
    return found, len(wanted) - len(found)


def _diff(client: Client, patch: Patch, limit_bytes: int) -> Diff:
    try:
        data = _read(client, patch.kept, limit_bytes)
    except SwellError as error:
        return Diff(workstream=patch.workstream, patch=patch, missing=error.message)
    cut_bytes = max(patch.size_bytes - len(data), 0)
    if cut_bytes:
        data = data[: data.rfind(b"\n") + 1] or data
        cut_bytes = patch.size_bytes - len(data)
    text = data.decode("utf-8", "replace")
    return Diff(workstream=patch.workstream, patch=patch, text=text, cut_bytes=cut_bytes)


def _read(client: Client, artifact: Artifact, limit_bytes: int) -> bytes:
    """The bytes of an artifact, at most so many; the rest is not fetched."""
    data = bytearray()
    pieces = client.read_artifact(artifact)
    for piece in pieces:
        data += piece
        if len(data) >= limit_bytes:
            break
    return bytes(data[:limit_bytes])
