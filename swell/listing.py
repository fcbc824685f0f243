"""What the commands that look at runs find, and how it is printed. Rendering, and the reads it needs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

from services.outcome import usd_text
from swell.errors import SwellError, invalid
from swell.follow import elapsed_s
from swell.report.figures import is_unpriced
from swell.text import columns, duration, many, one_line, size, visible

if TYPE_CHECKING:
    from services.aim import Registry
    from services.bundle import WorkstreamBundle
    from services.plan import Conflict, ExecutionPlan, PlanReport
    from services.plan import Finding as PlanFinding
    from swell.client import Client
    from swell.values import Attempt, Event, Finding, Run, RunFilter, Workstream

FILES_MAX: Final = 200_000
READ_BYTES_MAX: Final = 1024 * 1024
PREFIX_RUNS_MAX: Final = 10_000
NAMES_MAX: Final = 5
LIVE_LINE_BYTES: Final = 64 * 1024
ADVICE: Final = frozenset(
    {"NO_COST_LIMIT", "NO_CONTEXT_ESTIMATE", "SINGLETON_WAVE", "TOOL_NOT_ROUTED", "SCOPE_UNMATCHED"}
)
"""Warnings about how a plan might be better, which somebody who starts a run has not asked for."""


# Before a run


def detected_checks(repo: Path) -> tuple[Path, str]:
    """Where the repository's swell.toml belongs, and what it should say."""
    from services.checks import CHECKS_FILE, detect  # noqa: PLC0415 - help must not wait for this
    from services.repository import (  # noqa: PLC0415 - as above
        RepositoryError,
        inspect,
        list_files,
        read_file,
    )

    try:
        state = inspect(repo, allow_dirty=True)
        files = list_files(state.root, state.base_commit, FILES_MAX)

        def read(path: str) -> str | None:
            data = read_file(state.root, state.base_commit, path, READ_BYTES_MAX)
            return None if data is None else data.decode("utf-8", "replace")

        return state.root / CHECKS_FILE, detect(files, read)
    except RepositoryError as error:
        raise invalid(error.code, str(error.args[0]), error.remedy, str(repo)) from error


def local_plan(path: Path, repo: Path, tool_profiles: str | None = None) -> PlanReport:
    """The plan of the bundles at `path` as one run, by what the repository says of checks and tools, if it is one.

    `tool_profiles`: the file laid over its tool profiles, by default that of the settings. Raises SwellError.
    """
    from swell.submission import load_bundles  # noqa: PLC0415 - as above

    return plan_of(load_bundles(path), repo, tool_profiles)


def plan_of(
    bundles: Sequence[WorkstreamBundle],
    repo: Path,
    tool_profiles: str | None = None,
    *,
    budget_usd: float | None = None,
) -> PlanReport:
    """As `local_plan`, of bundles that are loaded. `budget_usd` is the money of the run, by default that of the settings."""
    from services.checks import CHECKS_BYTES, CHECKS_FILE, Checks, ChecksError, parse_checks  # noqa: PLC0415 - as above
    from services.gates import asked_for  # noqa: PLC0415 - as above
    from services.plan import validate_plan  # noqa: PLC0415 - as above
    from services.plugins import in_force as checks_in_force  # noqa: PLC0415 - as above
    from services.plugins import requirement_problems  # noqa: PLC0415 - as above
    from services.repository import RepositoryError, inspect, list_files, read_file  # noqa: PLC0415 - as above
    from swell.settings import MAX_WORKERS, RunSettings, in_force  # noqa: PLC0415 - as above
    from swell.submission import gates_at, laid_over, profiles_in  # noqa: PLC0415 - as above

    settings = in_force(RunSettings(tool_profiles=tool_profiles, budget_usd=budget_usd))
    checks = Checks()
    files: list[str] | None = None
    try:
        state = inspect(repo, allow_dirty=True)
        data = read_file(state.root, state.base_commit, CHECKS_FILE, CHECKS_BYTES)
        checks = checks if data is None else parse_checks(data, CHECKS_FILE)
        profiles = laid_over(state.root, state.base_commit, checks, settings.tool_profiles)
        gates_at(state.root, state.base_commit, checks)
        files = list_files(state.root, state.base_commit, FILES_MAX)
    except RepositoryError:
        profiles = profiles_in(settings.tool_profiles)
    except ChecksError as error:
        raise invalid("BAD_CHECKS", str(error), "Mend it, then commit it.", str(repo)) from error

    judging = {
        override: checks_in_force(checks, None, override, profiles) for override in {one.checks for one in bundles}
    }

    def checked(bundle: WorkstreamBundle) -> bool:
        found = judging[bundle.checks]
        gates = asked_for(found.test_gates, bundle.test_gates)
        named = found.static_tools or found.runtime_tool or bundle.acceptance_tests
        return bool(files is None or named or any(gate.required for gate in gates))

    report = validate_plan(
        bundles,
        known_tools=None,
        max_workers=settings.max_workers or MAX_WORKERS,
        checks_present=checked,
        registry=_registry() if any(bundle.capability for bundle in bundles) else None,
        windows={tool: one.context_tokens for tool, one in profiles.items() if one.context_tokens is not None},
        # Of a listing that was cut off nothing can be said to be missing.
        files=files if files is not None and len(files) < FILES_MAX else None,
        budget_usd=settings.budget_usd,
    )
    # What else they require may be a plugin or a profile of the scheduler's, which only a submission meets.
    problems = [one for found in judging.values() for one in requirement_problems(found.static_tools, profiles)]
    circles = sorted({one for one in problems if one.code == "REQUIREMENT_CYCLE"}, key=str)
    return msgspec.structs.replace(report, errors=[*report.errors, *circles], valid=report.valid and not circles)


def _registry() -> Registry:
    """What routes capabilities, by what is set here. Which tools a run would have is the scheduler's to say."""
    from services.aim import REGISTRY_VARIABLE, RegistryError, load_registry, registry_file  # noqa: PLC0415 - as above

    try:
        return load_registry(registry_file(os.environ))
    except RegistryError as error:
        raise invalid("BAD_AIM_REGISTRY", str(error), "Name a file with an AIM registry.", REGISTRY_VARIABLE) from error


def plan_lines(report: PlanReport, ahead: Sequence[str] = (), findings: Sequence[PlanFinding] = ()) -> list[str]:
    """The plan as a table: wave, workstream, what it waits for, why it stands there; then what is `ahead`, and `findings`."""
    lines: list[str] = []
    if report.plan is not None:
        found = report.plan
        rows = [["wave", "workstream", "after", "why"]]
        wave_of = {name: number for number, wave in enumerate(found.waves, 1) for name in wave}
        held: dict[str, list[Conflict]] = {name: [] for name in wave_of}
        for conflict in found.conflicts:
            held[conflict.workstream].append(conflict)
        rows += [
            [str(number), name, ", ".join(found.dependency_graph[name]) or "-", _why(found, name, wave_of, held[name])]
            for name, number in wave_of.items()
        ]
        lines += columns(rows)
        lines += ["", f"{many(found.total_workstreams, 'workstream')} in {many(found.total_waves, 'wave')}"]
        lines.append(f"critical path: {' -> '.join(map(one_line, found.critical_path))}")
    lines += [*ahead, ""] if ahead else []
    lines += [f"error: {one_line(str(finding))}" for finding in report.errors]
    return lines + warning_lines([*report.warnings, *findings])


def _why(plan: ExecutionPlan, name: str, wave_of: dict[str, int], held: Sequence[Conflict]) -> str:
    """Why a workstream stands in its wave, counting waves from 1 as everything that is shown does."""
    needed = plan.dependency_graph[name]
    last = max(needed, key=lambda other: (wave_of[other], other), default="")
    reasons = [f"depends on {last} in wave {wave_of[last]}" if last else "no dependencies"]
    reasons += [f"not beside {one.other} ({one.reason})" for one in held[:3]]
    return "; ".join(reasons)


def warning_lines(warnings: Sequence[Finding | PlanFinding], *, advice: bool = True) -> list[str]:
    """The warnings, one line for all workstreams with the same one; without `advice`, only what a run does not honour."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for warning in warnings:
        if advice or warning.code not in ADVICE:
            alike.setdefault((warning.code, warning.message, warning.remedy), []).append(warning.workstream)
    lines = []
    for (code, message, remedy), names in alike.items():
        about = ", ".join(name for name in names[:NAMES_MAX] if name) + (", …" if len(names) > NAMES_MAX else "")
        lines.append(one_line(f"warning: {code}{' ' if about else ''}{about}: {message}; {remedy}", 500))
    return lines


# Runs


def resolve_run(client: Client, run: str) -> str:
    """The id of the run that is meant: 'last', an id, or the unique beginning of one."""
    if run == "last":
        newest = client.list_runs(limit=1)
        if not newest:
            raise invalid("NO_RUNS", "there is no run yet", "Start one with `swell run`.")
        return newest[0].run
    try:
        return client.get_run(run).run
    except SwellError as error:
        if error.code not in {"NOT_FOUND", "INVALID_ARGUMENT"}:
            raise
    matches = [found.run for found in client.list_runs(limit=PREFIX_RUNS_MAX) if found.run.startswith(run)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(matches[:5])
        raise invalid("AMBIGUOUS_RUN", f"{len(matches)} runs begin with {run!r}: {listed}", "Give more of the id.")
    raise SwellError("NOT_FOUND", "RUN_NOT_FOUND", f"there is no run {run!r}", "See them with `swell list`.")


def when(time_ns: int) -> str:
    """A time of the log in local time; - for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns / 1e9)) if time_ns else "-"


def location_of(text: str) -> str:
    """Where runs say that their repository is: of a path that is here its absolute form, else the text itself."""
    if not text or not Path(text).exists():
        return text
    found = Path(text).resolve()
    return str(next((at for at in (found, *found.parents) if (at / ".git").exists()), found))


def runs_wanted(labels: Sequence[str], tenant: str | None, repository: str, **more: Any) -> RunFilter:
    """A filter of runs. Raises SwellError for a label or a tenant that no run can have."""
    from services.labels import labels_problem, tenant_problem  # noqa: PLC0415 - as above
    from swell.values import RunFilter  # noqa: PLC0415 - as above

    named = dict(label.partition("=")[::2] for label in labels)
    if problem := labels_problem(named):
        raise invalid("BAD_LABEL", problem, "Write it as team=payments, or as team for any value.", "--label")
    if problem := tenant_problem(tenant or ""):
        raise invalid("BAD_TENANT", problem, "Use a tenant's name, or '' for none.", "--tenant")
    return RunFilter(labels=tuple(labels), tenant=tenant, repository=location_of(repository), **more)


class RunList(msgspec.Struct, frozen=True):
    """Runs, newest first; `filtered` when others may be there."""

    runs: list[Run]
    filtered: bool = False

    def json(self) -> str:
        """The runs as a JSON array."""
        return msgspec.json.encode(self.runs).decode()

    def lines(self) -> list[str]:
        """One line for each run."""
        if not self.runs:
            return ["no run matches" if self.filtered else "no runs yet"]
        rows = [["run", "state", "completed", "submitted", "took", "repository"]]
        for run in self.runs:
            took = duration(elapsed_s(run.submitted_ns, run.finished_ns)) if run.finished_ns else "-"
            done = f"{run.completed}/{run.workstreams}"
            rows.append([run.run, run.state, done, when(run.submitted_ns), took, run.repository])
        return columns(rows)


def attempt_lines(attempt: Attempt) -> list[str]:
    """An attempt with its outcome and what it left behind."""
    outcome = "ok" if attempt.ok else attempt.state if attempt.state != "finished" else "failed"
    about = f" for {attempt.on_behalf}" if attempt.on_behalf else ""
    took = (
        f", {duration(elapsed_s(attempt.started_ns, attempt.closed_ns))}"
        if attempt.closed_ns and attempt.started_ns
        else ""
    )
    where = f", on {attempt.executor}" if attempt.executor else ""
    where += f", with {attempt.tool}" if attempt.tool else ""
    where += f", 1/{2**attempt.reduction} of its files" if attempt.reduction else ""
    where += f", {attempt.left_out} of its files left out" if attempt.left_out else ""
    about += f" {attempt.action}" if attempt.action else ""
    about += f" as {attempt.capability}" if attempt.capability else ""
    lines = [f"{attempt.workstream}/{attempt.attempt} {attempt.step}{about}: {outcome}{took}{where}"]
    if attempt.error_class:
        lines.append(f"  {attempt.error_class}: {attempt.message}")
    if attempt.exit_code is not None:
        lines.append(f"  exit code {attempt.exit_code}")
    if attempt.files:
        lines.append(f"  files: {', '.join(attempt.files[:10])}" + (" …" if len(attempt.files) > 10 else ""))
    if money := _money(attempt):
        lines.append(f"  {money}")
    if attempt.reason:
        lines.append(f"  as it is because {attempt.reason}")
    lines += [f"  check {line}" for line in check_lines(attempt)]
    lines += [f"  {item.role}: {size(item.size_bytes)}, sha256 {item.digest[:16]}" for item in attempt.artifacts]
    return [one_line(lines[0], 500), *(f"  {one_line(line, 500)}" for line in lines[1:])]


def _money(attempt: Attempt) -> str:
    """What its tool has used and cost, and by whose word; empty for one that costs nothing and told nothing."""
    said = [attempt.model] if attempt.model else []
    if attempt.cost_nano is not None:
        said.append(
            f"{usd_text(attempt.cost_nano)} ({attempt.basis})" if attempt.basis else usd_text(attempt.cost_nano)
        )
    elif is_unpriced(attempt):
        said.append("cost unknown")
    read = attempt.input_tokens + attempt.cache_read_tokens + attempt.cache_write_tokens
    if read or attempt.output_tokens:
        least = "at least " if attempt.lower_bound else ""
        said.append(f"{least}{read} tokens in ({attempt.cache_read_tokens} from a cache), {attempt.output_tokens} out")
    return ", ".join(said)


def check_lines(attempt: Attempt) -> list[str]:
    """What each of its checks came to."""
    return [_said(check) for check in _checks(attempt)]


def _said(check: dict[str, Any]) -> str:
    """Its name, its outcome, how many tests it has run, and what it says."""
    outcome, count = str(check.get("outcome", "")), check.get("tests")
    if check.get("optional") and outcome in {"failed", "error"}:
        outcome += " (a warning)"
    if isinstance(count, int):
        outcome += f", {count} tests, {check.get('failures') or 0} failed, {check.get('skipped') or 0} skipped"
    return ": ".join(part for part in (str(check.get("name", "")), outcome, str(check.get("message", ""))) if part)


def _checks(attempt: Attempt) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(attempt.checks_json or "[]", type=list[dict[str, Any]])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return []


def require_workstream(known: list[Workstream], run: str, workstream: str) -> None:
    """Raise SwellError WORKSTREAM_NOT_FOUND unless the run has it."""
    if all(item.workstream != workstream for item in known):
        raise SwellError(
            "NOT_FOUND",
            "WORKSTREAM_NOT_FOUND",
            f"run {run} has no workstream {workstream!r}, or has not reached it yet",
            "So far it has: " + ", ".join(item.workstream for item in known[:20]) + ".",
        )


def event_line(event: Event) -> str:
    """An event on one line: position, time, kind, what it is about, what it says."""
    about = (
        f" {event.workstream}/{event.attempt}" if event.attempt else f" {event.workstream}" if event.workstream else ""
    )
    said = {key: value for key, value in event.payload.items() if key not in {"kind", "workstream", "attempt"}}
    return one_line(
        f"{event.position:>8} {when(event.time_ns)} {event.kind}{about} {msgspec.json.encode(said).decode()}", 2000
    )


# What tools left behind


def write_logs(client: Client, run: str, workstream: str, out: TextIO) -> None:
    """The logs of all attempts, in the order they were scheduled."""
    if workstream:
        require_workstream(client.list_workstreams(run), run, workstream)
    shown: set[tuple[str, int]] = set()
    _write_new_logs(client, run, workstream, out, shown)
    if not shown:
        out.write("no logs yet\n")


def follow_logs(client: Client, run: str, workstream: str, out: TextIO) -> None:
    """The logs so far, then those of each attempt as it is closed, until the run has ended.

    In between, what a running tool prints, as it appears: lines that begin with `>` and the workstream's id.
    """
    if workstream:
        require_workstream(client.list_workstreams(run), run, workstream)
    shown: set[tuple[str, int]] = set()
    threading.Thread(target=_write_live, args=(client, run, workstream, out), daemon=True, name="swell-live").start()
    for watched in client.watch(run):
        kinds = {event.kind for event in watched.events}
        if kinds & {"step_finished", "step_cancelled", "step_lost", "result_refused", "run_finished"}:
            _write_new_logs(client, run, workstream, out, shown)
        if "run_finished" in kinds:
            return


def _write_live(client: Client, run: str, workstream: str, out: TextIO) -> None:
    """Whole lines as they come, until the client is closed."""
    partial: dict[str, bytes] = {}
    with contextlib.suppress(SwellError, ValueError):
        for name, piece in client.watch_output(run, workstream):
            *lines, partial[name] = (partial.get(name, b"") + piece).split(b"\n")
            if len(partial[name]) > LIVE_LINE_BYTES:
                lines.append(partial.pop(name))
            out.writelines(one_line(f"> {name} {line.decode(errors='replace')}") + "\n" for line in lines)
            out.flush()


def _write_new_logs(client: Client, run: str, workstream: str, out: TextIO, shown: set[tuple[str, int]]) -> None:
    for attempt in client.list_attempts(run, workstream):
        key = (attempt.workstream, attempt.attempt)
        found = [artifact for artifact in attempt.artifacts if artifact.role == "log"]
        if key in shown or not found:
            continue
        shown.add(key)
        out.write(one_line(f"=== {attempt.workstream}/{attempt.attempt} {attempt.step}") + "\n")
        for artifact in found:
            _copy(client.read_artifact(artifact), out)
        out.write("\n")
        out.flush()


def write_diff(client: Client, run: str, workstream: str, out: TextIO, attempt: int = 0) -> None:
    """The patch of an attempt, or the one that a workstream goes on with; of a run those of all that completed."""
    workstreams = client.list_workstreams(run)
    if workstream:
        require_workstream(workstreams, run, workstream)
        wanted = [(item.workstream, attempt or item.patch) for item in workstreams if item.workstream == workstream]
    else:
        wanted = [(item.workstream, item.patch) for item in workstreams if item.state == "completed"]
    patches = {(patch.workstream, patch.attempt): patch for patch in client.list_patches(run, workstream)}
    for place in wanted:
        if place in patches:
            _copy(client.read_artifact(patches[place].kept), out)
    if not any(place in patches for place in wanted) and out.isatty():
        out.write("no changes\n")


def _copy(chunks: Any, out: TextIO) -> None:
    """Bytes as they are into a file or pipe; made visible for a terminal."""
    if not out.isatty() and hasattr(out, "buffer"):
        out.flush()
        for chunk in chunks:
            out.buffer.write(chunk)
        out.buffer.flush()
        return
    last = ""
    for chunk in chunks:
        # A character cut in two at a chunk's border shows as two replacement characters; nothing is lost in the store.
        last = visible(chunk.decode("utf-8", "replace"))
        out.write(last)
    if last and not last.endswith("\n"):
        out.write(os.linesep)
