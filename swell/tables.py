"""How reviews, patches, executors, breakers, pauses and the ledger are printed. Rendering, and the reads it needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

import msgspec

from services.outcome import usd_text
from swell.errors import SwellError
from swell.follow import review_commands
from swell.listing import attempt_lines, require_workstream, when, write_diff
from swell.text import columns, duration, many, one_line, size
from swell.values import (
    ArchiveResult,
    Budget,
    Difference,
    Fleet,
    LedgerStatus,
    Patch,
    PatchMove,
    Review,
    SharedBudgets,
    VerifyResult,
)

if TYPE_CHECKING:
    from swell.client import Client
    from swell.values import Attempt

DIAGNOSTICS_BYTES_MAX: Final = 8 * 1024 * 1024
DIAGNOSTICS_SHOWN: Final = 20
TAIL_LINES: Final = 10


def json_line(record: str, value: msgspec.Struct) -> str:
    """A value as one line of JSON; `record` says what it is."""
    return msgspec.json.encode({"record": record, **msgspec.structs.asdict(value)}).decode()


# Reviews


class ReviewList(msgspec.Struct, frozen=True):
    """What waits for a person."""

    reviews: list[Review]

    def json(self) -> str:
        """The reviews as a JSON array."""
        return msgspec.json.encode(self.reviews).decode()

    def lines(self) -> list[str]:
        """One line for each."""
        if not self.reviews:
            return ["nothing waits for a person"]
        rows = [["run", "workstream", "step", "class", "since", "attempts", "reason"]]
        for review in self.reviews:
            step, what = review.step or "-", review.error_class or "-"
            since, tries = when(review.since_ns), str(review.attempts)
            rows.append([review.run, review.workstream, step, what, since, tries, review.reason or "-"])
        return columns(rows)


def write_review(client: Client, run: str, workstream: str, out: TextIO) -> None:
    """Why a workstream waits: reason, attempts, diagnostics, the patch so far, and the commands that answer.

    Raises SwellError WORKSTREAM_NOT_FOUND, NOT_IN_REVIEW.
    """
    require_workstream(client.list_workstreams(run), run, workstream)
    review = next((found for found in client.list_reviews(run) if found.workstream == workstream), None)
    if review is None:
        raise SwellError(
            "FAILED_PRECONDITION",
            "NOT_IN_REVIEW",
            f"{workstream} of run {run} does not wait for a person",
            f"See its state with `swell show {run} {workstream}`.",
        )
    attempts = client.list_attempts(run, workstream)
    lines = [
        f"{workstream} of run {run} waits for a person since {when(review.since_ns)}",
        f"  step     {review.step or '-'}",
        f"  class    {review.error_class or '-'}",
        f"  reason   {one_line(review.reason, 1000)}",
        f"  attempts {review.attempts}, newest snapshot {review.commit[:12] or '-'}",
    ]
    for attempt in attempts:
        lines += ["", *attempt_lines(attempt)]
    lines += _diagnostics(client, attempts)
    lines += ["", "patch so far:", ""]
    out.write("\n".join(lines) + "\n")
    out.flush()
    write_diff(client, run, workstream, out)
    out.write("\n".join(["", *(f"next: {line}" for line in review_commands(run, [review]))]) + "\n")


# Patches


class PatchList(msgspec.Struct, frozen=True):
    """Patches of a run."""

    patches: list[Patch]

    def json(self) -> str:
        """The patches as a JSON array."""
        return msgspec.json.encode(self.patches).decode()

    def lines(self) -> list[str]:
        """One line for each."""
        if not self.patches:
            return ["no patches"]
        rows = [["workstream", "step", "state", "since", "files", "size", "hash", "reason"]]
        for patch in self.patches:
            made, since = f"{patch.workstream}/{patch.attempt}", when(patch.changed_ns)
            files, bytes_ = str(patch.files_total), size(patch.size_bytes)
            rows.append([made, patch.step, patch.state, since, files, bytes_, patch.digest[:12], patch.reason])
        return columns(rows)


class PatchDetail(msgspec.Struct, frozen=True):
    """A patch, its history, and the patches of its run that are the same change."""

    patch: Patch
    history: list[PatchMove]
    same: list[Patch]

    @classmethod
    def of(cls, client: Client, run: str, workstream: str, attempt: int) -> Self:
        """Read it. Raises SwellError PATCH_NOT_FOUND."""
        patch = client.get_patch(run, workstream, attempt)
        same = [one for one in client.list_patches(run, digest=patch.digest) if one != patch]
        return cls(patch, client.list_patch_moves(run, workstream, patch.attempt), same)

    def json(self) -> str:
        """The values as one JSON object."""
        return msgspec.json.encode(self).decode()

    def lines(self) -> list[str]:
        """What it is, what it changes, and what became of it."""
        patch = self.patch
        files = ", ".join(patch.files[:10]) + (" …" if patch.files_total > 10 else "")
        lines = [
            f"{patch.workstream}/{patch.attempt} of run {patch.run}: {patch.state}",
            f"  reason   {patch.reason}",
            f"  made by  {patch.step}, {when(patch.created_ns)}",
            f"  hash     {patch.digest}",
            f"  size     {size(patch.size_bytes)}, {many(patch.files_total, 'file')}: {files}",
        ]
        if self.same:
            lines.append(f"  same as  {', '.join(f'{one.workstream}/{one.attempt}' for one in self.same)}")
        if patch.refused_moves:
            lines.append(f"  refused  {patch.refused_moves} moves that do not exist, the newest: {patch.refused}")
        lines.append("  history")
        moves = columns([when(move.time_ns), move.to_state, move.reason] for move in self.history)
        return [*(one_line(line, 500) for line in lines[:-1]), lines[-1], *(f"    {line}" for line in moves)]


def _diagnostics(client: Client, attempts: Sequence[Attempt]) -> list[str]:
    """What the newest diagnostics of checks that failed say, in short."""
    for attempt in reversed(attempts):
        for artifact in attempt.artifacts:
            if artifact.role == "diagnostics" and artifact.size_bytes <= DIAGNOSTICS_BYTES_MAX:
                lines = diagnostics_lines(b"".join(client.read_artifact(artifact)))
                if lines:
                    return ["", f"diagnostics of attempt {attempt.attempt} ({attempt.step}):", *lines]
    return []


def diagnostics_lines(data: bytes, *, brief: bool = False) -> list[str]:
    """What an artifact with diagnostics says, in short: each check with the end of its output, then the first findings.

    `brief`: no output where there are findings. Nothing where no check is in it, and where it cannot be read.
    """
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return []
    lines: list[str] = []
    if found.get("checks") == []:
        return lines
    told = _objects(found.get("diagnostics"))
    for check in _objects(found.get("checks")):
        if brief and told:
            break
        lines.append(f"  {check.get('check', '')}: exit code {check.get('exit_code', '-')}")
        tail = str(check.get("output_tail", "")).splitlines()[-TAIL_LINES:]
        lines += [f"    {one_line(line, 200)}" for line in tail]
    for item in told[:DIAGNOSTICS_SHOWN]:
        where = ":".join(str(item[key]) for key in ("path", "line", "column") if item.get(key))
        lines.append(f"  {where}: {item.get('code') or item.get('tool', '')} {item.get('message', '')}")
    if len(told) > DIAGNOSTICS_SHOWN:
        lines.append(f"  and {len(told) - DIAGNOSTICS_SHOWN} more")
    summary = found.get("summary")
    categories = summary.get("issues_by_category") if isinstance(summary, dict) else None
    if isinstance(categories, dict) and categories:
        lines.append("  findings: " + ", ".join(f"{count} {name}" for name, count in categories.items()))
    if tolerated := _objects(found.get("tolerated")):
        lines.append(f"  {len(tolerated)} of these tolerated, since strict is false")
    return [line[: len(line) - len(line.lstrip())] + one_line(line, 500) for line in lines]


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# The fleet


class FleetList(msgspec.Struct, frozen=True):
    """Executors, breakers of tools, and pauses."""

    fleet: Fleet

    def json(self) -> str:
        """All of it as one JSON object."""
        return msgspec.json.encode(self.fleet).decode()

    def lines(self) -> list[str]:
        """A table of executors, then the tools that are held back, then the pauses."""
        rows = [["executor", "pool", "slots", "state", "since", "reason"]]
        for executor in self.fleet.executors:
            since, why = when(executor.since_ns), executor.reason or "-"
            rows.append([executor.executor, executor.pool, str(executor.slots), executor.state, since, why])
        lines = columns(rows) if self.fleet.executors else ["no executor was seen yet"]
        breakers = [["tool", "breaker", "failures", "until", "reason"]]
        for breaker in self.fleet.breakers:
            until = when(breaker.until_ns) if breaker.state == "open" else "-"
            breakers.append([breaker.tool, breaker.state, str(breaker.failures), until, breaker.reason or "-"])
        if len(breakers) > 1:
            lines += ["", *columns(breakers)]
        pauses = [["paused", "by", "reason"]]
        for pause in self.fleet.pauses:
            what = "everything" if pause.scope == "all" else f"{pause.scope} {pause.name}"
            pauses.append([what, pause.actor, pause.reason or "-"])
        if len(pauses) > 1:
            lines += ["", *columns(pauses)]
        return lines


# The ledger


class LedgerState(msgspec.Struct, frozen=True):
    """How far the ledger is."""

    status: LedgerStatus

    def json(self) -> str:
        """All of it as one JSON object."""
        return msgspec.json.encode(self.status).decode()

    def lines(self) -> list[str]:
        """What it is doing, and how far it is."""
        now = self.status
        doing = "being made anew from the log" if now.rebuilding else "whole"
        if now.verifying:
            doing += ", being verified"
        level = "level with the log" if now.caught_up else "behind the log"
        left = "" if now.seconds_left <= 0 else f", about {duration(now.seconds_left)} left"
        archived = f"; archived up to {now.archived}" if now.archived else ""
        return [
            f"ledger {level}: position {now.position} of {now.stream_last}{left}{archived}",
            f"  file      {doing}; {size(now.file_bytes)}, projection {now.projection}",
            f"  absorbs   {now.events_per_s:.0f} events a second",
            f"  runs for  {duration(max(time.time_ns() - now.started_ns, 0) / 1e9)}",
        ]


def archived_lines(result: ArchiveResult, *, dry_run: bool) -> list[str]:
    """What came of archiving."""
    if dry_run:
        lines = [
            f"would archive {many(result.entries, 'entry', 'entries')}, the end of {many(result.runs, 'run')}, behind position {result.archived_to}"
        ]
    else:
        made = f"{many(result.entries, 'entry', 'entries')}, the end of {many(result.runs, 'run')}, in {many(result.segments, 'segment')} of {size(result.size_bytes)}"
        lines = [f"archived up to position {result.archived_to}: {made}, {duration(result.wall_s)}"]
    if result.purged_runs or result.kept_runs:
        kept = f"; {result.kept_runs} stay in the log for now: {result.kept_why}" if result.kept_runs else ""
        lines.append(
            f"  removed from the log: {many(result.purged_entries, 'entry', 'entries')} of {many(result.purged_runs, 'run')}{kept}"
        )
    if result.held_by:
        lines.append(f"  the archive ends there because run {result.held_by} {result.why}")
    return lines


def difference_line(found: Difference) -> str:
    """One difference on one line."""
    where = f"{found.table} {found.key}"
    if found.kind != "changed":
        return one_line(f"{where}: {found.kind}", 1000)
    return one_line(f"{where}: {found.column} is {found.stored!r}, the log says {found.folded!r}", 1000)


def budget_lines(found: Budget) -> list[str]:
    """A run's money in words."""
    limit = "none" if found.limit_nano is None else usd_text(found.limit_nano)
    mode = f" ({found.mode})" if found.mode not in {"", "halt"} else ""
    lines = [
        f"run {found.run}: {found.state}",
        f"  budget    {limit}{mode}",
        f"  spent     {usd_text(found.spent_nano)}",
        f"  reserved  {usd_text(found.reserved_nano)}",
    ]
    if found.unknown:
        lines.append(f"  {many(found.unknown, 'attempt')} of unknown cost, each counted as its whole cap")
    return lines


def shared_lines(found: SharedBudgets) -> list[str]:
    """What runs draw on together, in words."""
    lines = [f"{found.day}, UTC"]
    for one in found.budgets:
        limit = "none" if one.limit_nano is None else f"{usd_text(one.limit_nano)} a day"
        mode = f" ({one.mode})" if one.mode not in {"", "halt"} else ""
        by = f", by {one_line(one.actor)}" if one.actor else ""
        lines += [
            f"tool {one_line(one.tool)}"
            if one.tool
            else f"tenant {one_line(one.tenant)}"
            if one.tenant
            else "the fleet",
            f"  budget    {limit}{mode}{by}",
            f"  spent     {usd_text(one.spent_nano)}",
            f"  reserved  {usd_text(one.reserved_nano)}",
        ]
        if one.unknown:
            lines.append(f"  {many(one.unknown, 'attempt')} of unknown cost, each counted as its whole cap")
    for rate in found.rates:
        parts = [f"{rate.attempts_per_min} attempts a minute, {rate.burst} at once"] if rate.attempts_per_min else []
        parts += [f"{rate.tokens_per_min} tokens a minute"] if rate.tokens_per_min else []
        shut = f"; the next one may begin at {when(rate.opens_ns)}" if rate.opens_ns else ""
        lines.append(f"rate of {one_line(rate.name)}: {', '.join(parts)}{shut}")
    for slots in found.slots:
        whose = f"tenant {one_line(slots.tenant)}" if slots.tenant else "runs without a tenant"
        of = f" of {slots.pool_slots}" if slots.pool_slots else ""
        most = f", at most {slots.concurrency} in all pools" if slots.concurrency else ""
        lines.append(f"slots of pool {one_line(slots.pool)}: {slots.used}{of} by {whose}, weight {slots.weight}{most}")
    return lines


def verified_lines(result: VerifyResult) -> list[str]:
    """What came of a verification."""
    verdict = "every row is what the log says" if not result.differences else many(result.differences, "difference")
    chain = "the chain of hashes holds"
    if result.chain_broken_at:
        chain = f"the chain of hashes is broken at position {result.chain_broken_at}"
    lines = [
        f"{verdict}, and {chain}: {many(result.rows, 'row')}, {many(result.entries, 'entry', 'entries')}, {duration(result.wall_s)}",
        f"  position {result.position}, hash {result.hash}",
    ]
    return lines if result.ok else [*lines, "  next: swell ledger rebuild makes the tables anew from the log"]
