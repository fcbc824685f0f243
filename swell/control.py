"""Commands that steer what runs: pause, resume, retry, rollback, and the executors. Imports as swell/cli.py does."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swell.command import cluster_client, command, say
from swell.errors import invalid
from swell.options import FromStep, JsonOption, Reason, RepoOption, RunArgument

if TYPE_CHECKING:
    from swell.client import Client

SomeRun = Annotated[str, typer.Argument(help="A run's id, the beginning of one, or 'last'.", metavar="[RUN]")]
Workstreams = Annotated[list[str] | None, typer.Argument(help="Only these workstreams.", metavar="[WS]...")]
ToolScope = Annotated[str, typer.Option("--tool", help="One tool, in all runs.", metavar="TOOL")]
PoolScope = Annotated[str, typer.Option("--pool", help="One pool of executors, in all runs.", metavar="POOL")]
DeliverAs = Annotated[
    Literal["rebase", "squash", "merge"] | None,
    typer.Option("--style", help="One commit for each workstream, one for all, or a merge. Default: as submitted."),
]
DeliverWith = Annotated[
    str | None,
    typer.Option("--credential", help="What executors show there: env:NAME or file:/path of theirs.", metavar="REF"),
]
DeliverTo = Annotated[
    str | None,
    typer.Option("--remote", help="A remote's name, a path or an address. Default: as the run was submitted."),
]
Series = Annotated[
    Path | None, typer.Option("--series", help="Push nothing, write its commits as patches here.", metavar="DIR")
]
RolledBack = Annotated[
    list[str] | None,
    typer.Option("--workstream", help="Only this workstream, by reverting it; may be repeated.", metavar="WS"),
]
WithDependents = Annotated[bool, typer.Option("--with-dependents", help="What builds on it as well.")]
EveryScope = Annotated[bool, typer.Option("--all", help="Everything, in all runs.")]


@command
def pause(
    run: SomeRun = "",
    tool: ToolScope = "",
    pool: PoolScope = "",
    everything: EveryScope = False,
    reason: Reason = "",
) -> int:
    """Start nothing new of a run, of a tool, of a pool, or at all; what runs goes on."""
    from swell.submission import actor  # noqa: PLC0415 - as the module says

    scope, name = _scope(run, tool, pool, everything=everything)
    with cluster_client() as client:
        if scope == "run":
            name = _resolve(client, name)
            done = client.pause_run(name, reason=reason, actor=actor())
        else:
            done = client.pause_fleet(scope, name, reason=reason, actor=actor())
    say(_told(f"paused {_named(scope, name)}", done.answer))
    say(f"  next: swell resume {_flags(scope, name)}")
    return 0


@command
def resume(
    run: SomeRun = "",
    tool: ToolScope = "",
    pool: PoolScope = "",
    everything: EveryScope = False,
    reason: Reason = "",
) -> int:
    """End a pause; for a tool also its open breaker."""
    from swell.submission import actor  # noqa: PLC0415 - as the module says

    scope, name = _scope(run, tool, pool, everything=everything)
    with cluster_client() as client:
        if scope == "run":
            name = _resolve(client, name)
            done = client.resume_run(name, reason=reason, actor=actor())
        else:
            done = client.resume_fleet(scope, name, reason=reason, actor=actor())
    say(_told(f"resumed {_named(scope, name)}", done.answer))
    return 0


@command
def retry(
    run: RunArgument,
    workstreams: Workstreams = None,
    from_step: FromStep = None,
    reason: Reason = "",
    as_json: JsonOption = False,
) -> int:
    """Try again: what waits for a person, or, of a run that has ended, what did not complete, as a new run."""
    from swell.submission import actor  # noqa: PLC0415 - as above
    from swell.tables import json_line  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        name = _resolve(client, run)
        done = client.retry_run(name, workstreams or [], from_step=from_step or "", reason=reason, actor=actor())
        if done.new_run:
            client.await_run(done.run, RECORDED_S)
    if as_json:
        say(json_line("retried", done))
    elif done.new_run:
        listed = ", ".join(done.workstreams[:10]) + (", …" if len(done.workstreams) > 10 else "")
        say(f"run {done.run} tries again {len(done.workstreams)} workstreams of {name}: {listed}")
        say(f"  next: swell watch {done.run}")
    else:
        say(_told(f"run {name} goes on", done.answer))
        say(f"  next: swell watch {name}")
    return 0


RECORDED_S = 5.0
"""How long the ledger is waited for, so that whoever asks for the run next finds it."""


@command
def deliver(
    run: RunArgument,
    *,
    style: DeliverAs = None,
    remote: DeliverTo = None,
    credential: DeliverWith = None,
    series: Series = None,
    repo: RepoOption = Path(),
    reason: Reason = "",
    as_json: JsonOption = False,
) -> int:
    """Deliver the verified head of a run, live or ended; or write its commits as patches."""
    from swell.follow import LeftError, follow_request  # noqa: PLC0415 - as the module says
    from swell.submission import actor, remote_address  # noqa: PLC0415 - as above
    from swell.view import choose  # noqa: PLC0415 - as above

    if series is not None and (style or remote is not None or credential):
        raise invalid("BAD_DELIVERY", "a series is written here, and pushed nowhere", "Give --series alone.")
    with cluster_client() as client:
        name = _resolve(client, run)
        request = str(uuid.uuid4())
        done = client.deliver_run(
            name,
            style=style or "",
            remote=remote_address(repo, remote) if remote is not None else None,
            credential=credential,
            series=series is not None,
            reason=reason,
            actor=actor(),
            request_id=request,
        )
        view = choose("json" if as_json else "lines")
        try:
            progress = follow_request(client, name, request, view, after=max(done.position - 1, 0))
        except LeftError:
            sys.stderr.write(f"left the delivery of run {name}, which goes on by itself; see it: swell events {name}\n")
            return 1
        ok, said = progress.done[request]
        if ok and series is not None:
            _write_series(client, name, series, as_json=as_json)
        elif not ok and series is not None:
            say(_told(f"run {name} has no series", said))
    return 0 if ok else 1


def _write_series(client: Client, run: str, folder: Path, *, as_json: bool) -> None:
    """The newest series of a run, as files."""
    from services.events import LINE  # noqa: PLC0415 - as the module says
    from swell.series import Written, write_series  # noqa: PLC0415 - as above
    from swell.tables import json_line  # noqa: PLC0415 - as above

    kept = [
        artifact
        for attempt in client.list_attempts(run, LINE)
        for artifact in attempt.artifacts
        if artifact.role == "series"
    ]
    mailbox = b"".join(client.read_artifact(kept[-1])) if kept else b""
    files = write_series(mailbox, folder)
    if as_json:
        say(json_line("series_written", Written(run=run, files=[str(file) for file in files])))
    else:
        say(f"wrote {len(files)} patches to {folder}; apply them: git am --keep-cr {folder}/*.patch")


@command
def rollback(
    run: RunArgument,
    workstream: RolledBack = None,
    with_dependents: WithDependents = False,
    reason: Reason = "",
    as_json: JsonOption = False,
) -> int:
    """Undo what a run that has ended completed: by its compensation actions, or of some workstreams only, on its branch."""
    from swell.follow import LeftError, follow_rollback  # noqa: PLC0415 - as the module says
    from swell.submission import actor  # noqa: PLC0415 - as above
    from swell.view import choose  # noqa: PLC0415 - as above

    with cluster_client() as client:
        name = _resolve(client, run)
        done = client.rollback_run(
            name, workstream or [], with_dependents=with_dependents, reason=reason, actor=actor()
        )
        view = choose("json" if as_json else "lines")
        try:
            progress = follow_rollback(client, name, view, after=max(done.position - 1, 0))
        except LeftError:
            sys.stderr.write(f"left the rollback of run {name}, which goes on by itself; see it: swell events {name}\n")
            return 1
    if progress.rollback == "compensation_failed" and not as_json:
        say(f"  next: mend what its actions name, then try again: swell rollback {name}")
    return 0 if progress.rollback in {"compensated", "reverted"} else 1


@command
def executors(as_json: JsonOption = False) -> int:
    """Show executors, the breakers of tools, and pauses across runs."""
    from swell.tables import FleetList  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        found = FleetList(client.get_fleet())
    say(found.json() if as_json else found.lines())
    return 0


def _scope(run: str, tool: str, pool: str, *, everything: bool) -> tuple[str, str]:
    given = [
        pair for pair in (("run", run), ("tool", tool), ("pool", pool), ("all", "" if everything else "-")) if _is(pair)
    ]
    if len(given) != 1:
        raise invalid("BAD_SCOPE", "say what is meant, once", "Give a RUN, --tool TOOL, --pool POOL, or --all.")
    return given[0]


def _is(pair: tuple[str, str]) -> bool:
    return pair == ("all", "") or (pair[0] != "all" and bool(pair[1]))


def _named(scope: str, name: str) -> str:
    return "everything" if scope == "all" else f"{scope} {name}"


def _flags(scope: str, name: str) -> str:
    return {"run": name, "all": "--all"}.get(scope, f"--{scope} {name}")


def _told(what: str, answer: str) -> str:
    from swell.text import one_line  # noqa: PLC0415 - as the module says

    return one_line(f"{what}: {answer}" if answer else what, 500)


def _resolve(client: Client, run: str) -> str:
    from swell.listing import resolve_run  # noqa: PLC0415 - as the module says

    return resolve_run(client, run)
