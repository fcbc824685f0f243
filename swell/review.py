"""`swell review`: what waits for a person, and the answers. Imports as swell/cli.py does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from swell.command import cluster_client, command, say
from swell.errors import invalid
from swell.options import FromStep, JsonOption, Reason, RunArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swell.client import Client
    from swell.values import Review

app = typer.Typer(help="See what waits for a person, and decide.", no_args_is_help=True)

Named = Annotated[list[str] | None, typer.Argument(help="A run, then workstreams of it.", metavar="[RUN [WS]...]")]
Classes = Annotated[
    list[str] | None, typer.Option("--class", help="Only what stopped with this class of error; may be repeated.")
]
Everything = Annotated[bool, typer.Option("--all", help="What waits in all runs, or in the run that is named.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
@command
def list_(
    run: Annotated[str, typer.Option("--run", help="Only of this run.", metavar="RUN")] = "",
    classes: Classes = None,
    text: Annotated[str, typer.Option("--text", help="Only with this text in the reason.")] = "",
    as_json: JsonOption = False,
) -> int:
    """List what waits for a person, in all live runs."""
    from swell.tables import ReviewList  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        found = ReviewList(client.list_reviews(_resolved(client, run), error_classes=classes or [], text=text))
    say(found.json() if as_json else found.lines())
    return 0


@app.command()
@command
def show(
    run: RunArgument,
    workstream: Annotated[str, typer.Argument(help="The workstream.", metavar="WS")],
) -> int:
    """Show why a workstream waits: attempts, diagnostics, the patch so far, and how to answer."""
    from swell.tables import write_review  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        write_review(client, _resolved(client, run), workstream, sys.stdout)
    return 0


@app.command()
@command
def approve(
    named: Named = None,
    everything: Everything = False,
    classes: Classes = None,
    from_step: FromStep = None,
    reason: Reason = "",
    yes: Yes = False,
) -> int:
    """Let workstreams go on, with fresh counters of retries and FIX."""
    return _resolve_all("approve", named or [], classes or [], from_step or "", reason, everything=everything, yes=yes)


@app.command()
@command
def reject(
    named: Named = None,
    everything: Everything = False,
    classes: Classes = None,
    reason: Reason = "",
    yes: Yes = False,
) -> int:
    """Fail workstreams; what depends on them is blocked."""
    return _resolve_all("reject", named or [], classes or [], "", reason, everything=everything, yes=yes)


@app.command()
@command
def adjust(
    run: RunArgument,
    workstream: Annotated[str, typer.Argument(help="The workstream.", metavar="WS")],
    *,
    tool: Annotated[str, typer.Option("--tool", help="The tool that does the work from here on.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="One more path it may change; may be repeated.")
    ] = None,
    create: Annotated[
        list[str] | None, typer.Option("--create", help="One more path it may add; may be repeated.")
    ] = None,
    hint: Annotated[str, typer.Option("--hint", help="What its tool is told beside its tasks.")] = "",
    attempts: Annotated[int, typer.Option("--attempts", min=0, help="So many more runs of a step with its FIX.")] = 0,
    from_step: FromStep = None,
    reason: Reason = "",
) -> int:
    """Change what a workstream does, and let it go on."""
    from swell.submission import actor  # noqa: PLC0415 - as the module says
    from swell.values import Adjustment  # noqa: PLC0415 - as above

    change = Adjustment(
        tool=tool, add_files_scope=scope or [], add_files_create=create or [], hint=hint, more_attempts=attempts
    )
    with cluster_client() as client:
        name = _resolved(client, run)
        done = client.adjust_workstream(
            name, workstream, change, from_step=from_step or "", reason=reason, actor=actor()
        )
    say(f"adjusted {workstream} of run {name}" + (f": {done.answer}" if done.answer else ""))
    say(f"  next: swell watch {name}")
    return 0


def _resolve_all(
    verdict: str,
    named: Sequence[str],
    classes: Sequence[str],
    from_step: str,
    reason: str,
    *,
    everything: bool,
    yes: bool,
) -> int:
    from swell.submission import actor  # noqa: PLC0415 - as the module says

    if not named and not everything:
        raise invalid("BAD_SELECTION", "nothing is named", "Give RUN, RUN WS…, or --all.")
    if len(named) > 1 and everything:
        raise invalid("BAD_SELECTION", "workstreams and --all are both given", "Leave one of them out.")
    with cluster_client() as client:
        run = _resolved(client, named[0]) if named else ""
        wanted = set(named[1:])
        waiting = client.list_reviews(run, error_classes=classes)
        chosen = [review for review in waiting if not wanted or review.workstream in wanted]
        missing = wanted - {review.workstream for review in chosen}
        if missing:
            raise invalid(
                "NOT_IN_REVIEW",
                f"{', '.join(sorted(missing))} of run {run} does not wait for a person",
                "See what does with `swell review list`.",
            )
        if not chosen:
            say("nothing waits for a person")
            return 0
        if not wanted and not yes and not _confirmed(verdict, chosen):
            say("nothing was decided")
            return 1
        by_run: dict[str, list[str]] = {}
        for review in chosen:
            by_run.setdefault(review.run, []).append(review.workstream)
        for name, workstreams in by_run.items():
            client.resolve_reviews(name, verdict, workstreams, from_step=from_step, reason=reason, actor=actor())
            done = "approved" if verdict == "approve" else "rejected"
            say(f"{done} in run {name}: {', '.join(workstreams)}")
        say([f"  next: swell watch {name}" for name in by_run])
    return 0


def _confirmed(verdict: str, chosen: Sequence[Review]) -> bool:
    """Whether somebody says yes to deciding about all of these."""
    from swell.tables import ReviewList  # noqa: PLC0415 - as the module says

    say(ReviewList(list(chosen)).lines())
    return typer.confirm(f"{verdict} {len(chosen)} workstream{'s' if len(chosen) > 1 else ''}?")


def _resolved(client: Client, run: str) -> str:
    from swell.listing import resolve_run  # noqa: PLC0415 - as the module says

    return resolve_run(client, run) if run else ""
