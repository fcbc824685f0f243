"""`swell budget`: what a run may spend, what it has spent, and another budget for one that goes on."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from swell.command import cluster_client, command, say
from swell.errors import invalid
from swell.options import JsonOption, Reason, RunArgument

app = typer.Typer(help="See and change what a run may spend.", no_args_is_help=True)

Amount = Annotated[str, typer.Argument(help="Dollars that all attempts together may cost, or `none`.", metavar="USD")]
Mode = Annotated[
    Literal["halt", "warn", "continue"],
    typer.Option("--mode", help="When it is used up: start nothing more, or only tell."),
]


@app.command()
@command
def show(run: RunArgument, as_json: JsonOption = False) -> int:
    """Show the budget of a run, what its attempts have cost, and what is reserved for those under way."""
    from swell.listing import resolve_run  # noqa: PLC0415 - help must not wait for this
    from swell.tables import budget_lines, json_line  # noqa: PLC0415 - as above

    with cluster_client() as client:
        found = client.get_budget(resolve_run(client, run))
    say(json_line("budget", found) if as_json else budget_lines(found))
    return 0


@app.command("set")
@command
def set_(run: RunArgument, amount: Amount, mode: Mode = "halt", reason: Reason = "") -> int:
    """Give a run another budget; one that waits for its budget goes on if that has room."""
    from services.outcome import usd_text  # noqa: PLC0415 - as above
    from swell.listing import resolve_run  # noqa: PLC0415 - as above
    from swell.submission import actor  # noqa: PLC0415 - as above

    limit_nano = _nano(amount)
    with cluster_client() as client:
        name = resolve_run(client, run)
        done = client.set_budget(name, limit_nano, mode=mode, reason=reason, actor=actor())
    given = "no budget" if limit_nano is None else f"a budget of {usd_text(limit_nano)}"
    say(f"run {name} has {given}" + (f": {done.answer}" if done.answer else ""))
    say(f"  next: swell budget show {name}")
    return 0


def _nano(text: str) -> int | None:
    """The nano-dollars of an amount; None for `none`. Raises SwellError BAD_AMOUNT."""
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415 - as above

    if text.strip().lower() == "none":
        return None
    try:
        usd = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        usd = Decimal("NaN")
    nano = usd * 10**9 if usd.is_finite() else usd
    if not nano.is_finite() or not 0 <= nano <= 10**18 or nano != nano.to_integral_value():
        raise invalid("BAD_AMOUNT", f"{text!r} is no amount", "Give dollars such as 2 or 0.50, or `none`.", "USD")
    return int(nano)
