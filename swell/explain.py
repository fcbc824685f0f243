"""`swell explain` and `swell errors`: what a run waits for, and what failed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swell.command import cluster_client, command, say
from swell.options import JsonOption, RunArgument, Since, ToolFilter, Until, WorkstreamArgument

if TYPE_CHECKING:
    from swell.values import Explanation, Failure, Wait


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to an app."""
    app.command(rich_help_panel=panel)(explain)
    app.command(rich_help_panel=panel)(errors)


@command
def explain(run: RunArgument, workstream: WorkstreamArgument = "", as_json: JsonOption = False) -> int:
    """Tell what a run waits for, on what, since when and until when, and what you could do about it."""
    from swell.listing import require_workstream, resolve_run  # noqa: PLC0415 - help must not wait for this

    with cluster_client() as client:
        name = resolve_run(client, run)
        if workstream:
            require_workstream(client.list_workstreams(name), name, workstream)
        found = client.explain_run(name, workstream)
    say(_json(found) if as_json else explanation_lines(found))
    return 0


@command
def errors(
    run: RunArgument,
    workstream: WorkstreamArgument = "",
    step: Annotated[str, typer.Option("--step", help="Only this step.", show_default=False)] = "",
    tool: ToolFilter = "",
    error_class: Annotated[
        str, typer.Option("--class", help="Only this class of error, such as timeout.", show_default=False)
    ] = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most this many.")] = 100,
    as_json: JsonOption = False,
) -> int:
    """Show what failed in a run, each failure once, the one seen last first; 'all' stands for every run."""
    from swell.listing import require_workstream, resolve_run  # noqa: PLC0415 - as above
    from swell.moments import span_ns  # noqa: PLC0415 - as above

    since_ns, until_ns = span_ns(since, until)
    with cluster_client() as client:
        name = "" if run == "all" else resolve_run(client, run)
        if name and workstream:
            require_workstream(client.list_workstreams(name), name, workstream)
        found = list(
            client.list_errors(
                name,
                workstream,
                step=step,
                tool=tool,
                error_class=error_class,
                since_ns=since_ns,
                until_ns=until_ns,
                limit=limit,
            )
        )
    say(_json(found) if as_json else failure_lines(found))
    return 0


def _json(found: Any) -> str:
    import msgspec  # noqa: PLC0415 - help must not wait for this

    return msgspec.json.encode(found).decode()


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """A table, one line for each failure."""
    from swell.listing import when  # noqa: PLC0415 - as above
    from swell.text import columns  # noqa: PLC0415 - as above

    if not failures:
        return ["nothing failed"]
    several = len({one.run for one in failures}) > 1
    rows = [[*(["run"] if several else []), "workstream", "step", "class", "times", "first seen", "last seen", "what"]]
    for one in failures:
        attempts = f"{one.workstream}/{one.last_attempt}"
        seen = [when(one.first_seen_ns), when(one.last_seen_ns)]
        what = one.message or one.signature
        row = [attempts, one.step, one.error_class, str(one.count), *seen, what]
        rows.append([*([one.run] if several else []), *row])
    return columns(rows)


def explanation_lines(found: Explanation) -> list[str]:
    """The run on top, then each workstream that has not ended."""
    from swell.text import one_line  # noqa: PLC0415 - as above

    lines: list[str] = []
    for wait in found.waits:
        about, indent = (f"  {wait.workstream}", "    ") if wait.workstream else (f"run {found.run.run}", "  ")
        lines.append(f"{about} ({wait.state}): {one_line(wait.reason, 600)}")
        if times := _times(wait):
            lines.append(f"{indent}{times}")
        if wait.next:
            lines.append(f"{indent}next: {one_line(wait.next, 400)}")
    if found.left_out:
        lines.append(f"  and {found.left_out} more workstreams")
    if not found.definition_read and not found.run.finished_ns:
        lines.append("  its definition could not be read: nobody knows which dependencies it has")
    return lines


def _times(wait: Wait) -> str:
    from swell.listing import when  # noqa: PLC0415 - as above

    since = f"since {when(wait.since_ns)}" if wait.since_ns else ""
    until = f"until {when(wait.until_ns)}" if wait.until_ns else ""
    return ", ".join(part for part in (since, until) if part)
