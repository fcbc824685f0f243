"""`swell budget`: what a run, a tool or the fleet may spend, what was spent, and another budget."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from swell.command import cluster_client, command, say
from swell.errors import invalid
from swell.options import JsonOption, Reason

app = typer.Typer(help="See and change what a run, a tool or the fleet may spend.", no_args_is_help=True)

Whose = Annotated[
    str | None, typer.Argument(help="A run's id, the beginning of one, or 'last'.", metavar="[RUN]", show_default=False)
]
Given = Annotated[
    list[str],
    typer.Argument(
        help="The run, unless --fleet or --tool is given; then the dollars that all attempts together may cost, or `none`.",
        metavar="[RUN] USD",
    ),
]
Fleet = Annotated[bool, typer.Option("--fleet", help="All runs together, for each day, UTC.")]
Tool = Annotated[str, typer.Option("--tool", help="This tool in all runs, for each day, UTC.", show_default=False)]
ForTenant = Annotated[
    str, typer.Option("--tenant", help="All runs on behalf of this tenant, for each day, UTC.", show_default=False)
]
Mode = Annotated[
    Literal["halt", "warn", "continue"],
    typer.Option("--mode", help="When it is used up: start nothing more, or only tell."),
]


@app.command()
@command
def show(run: Whose = None, fleet: Fleet = False, as_json: JsonOption = False) -> int:
    """Show the budget of a run or of the fleet, what attempts have cost, and what is reserved for those under way."""
    from swell.listing import resolve_run  # noqa: PLC0415 - help must not wait for this
    from swell.tables import budget_lines, json_line, shared_lines  # noqa: PLC0415 - as above

    if fleet == (run is not None):
        raise invalid("WHOSE_BUDGET", "it is not clear whose budget is meant", "Name a run, or give --fleet.", "RUN")
    with cluster_client() as client:
        if run is None:
            shared = client.get_shared_budgets()
            say(json_line("budgets", shared) if as_json else shared_lines(shared))
            return 0
        found = client.get_budget(resolve_run(client, run))
    say(json_line("budget", found) if as_json else budget_lines(found))
    return 0


@app.command("set")
@command
def set_(
    given: Given,
    fleet: Fleet = False,
    tool: Tool = "",
    tenant: ForTenant = "",
    mode: Mode = "halt",
    reason: Reason = "",
) -> int:
    """Give a run, a tool, a tenant or the fleet another budget; what waits for it goes on if that has room."""
    from services.outcome import usd_text  # noqa: PLC0415 - as above
    from swell.listing import resolve_run  # noqa: PLC0415 - as above
    from swell.submission import actor  # noqa: PLC0415 - as above

    shared = [fleet, bool(tool), bool(tenant)]
    if len(given) != (1 if any(shared) else 2) or sum(shared) > 1:
        remedy = "Give RUN and USD; or only USD, with one of --fleet, --tool TOOL and --tenant TENANT."
        raise invalid("WHOSE_BUDGET", "it is not clear whose budget is meant", remedy, "RUN")
    limit_nano = _nano(given[-1])
    amount = "no budget" if limit_nano is None else f"a budget of {usd_text(limit_nano)}"
    with cluster_client() as client:
        if any(shared):
            done = client.set_shared_budget(tool, limit_nano, tenant=tenant, mode=mode, reason=reason, actor=actor())
            whose = f"tool {tool}" if tool else f"tenant {tenant}" if tenant else "the fleet"
            said, following = f"{whose} has {amount} for each day", "--fleet"
        else:
            following = resolve_run(client, given[0])
            done = client.set_budget(following, limit_nano, mode=mode, reason=reason, actor=actor())
            said = f"run {following} has {amount}"
    say(said + (f": {done.answer}" if done.answer else ""))
    say(f"  next: swell budget show {following}")
    return 0


def _nano(text: str) -> int | None:
    """The nano-dollars of an amount; None for `none`. Raises SwellError BAD_AMOUNT."""
    if text.strip().lower() == "none":
        return None
    amount = re.fullmatch(r"\$?([0-9]{1,10})(?:\.([0-9]{1,9}))?", text.strip(), re.ASCII)
    nano = int(amount[1]) * 10**9 + int((amount[2] or "").ljust(9, "0")) if amount is not None else -1
    if not 0 <= nano <= 10**18:
        raise invalid("BAD_AMOUNT", f"{text[:80]!r} is no amount", "Give dollars such as 2 or 0.50, or `none`.", "USD")
    return nano
