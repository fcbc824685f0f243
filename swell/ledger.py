"""`swell ledger`: how far the ledger is, whether its tables say what the log says, and making them anew."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from swell.command import cluster_client, command, say
from swell.options import JsonOption, Reason

if TYPE_CHECKING:
    from swell.client import Client

app = typer.Typer(help="Look after the ledger.", no_args_is_help=True)

REBUILD_S = 600.0
"""How long a rebuild is waited for; it goes on in any case."""
POLL_S = 0.5


@app.command()
@command
def status(as_json: JsonOption = False) -> int:
    """Show how far the ledger is."""
    from swell.tables import LedgerState  # noqa: PLC0415 - help must not wait for this

    with cluster_client() as client:
        found = LedgerState(client.ledger_status())
    say(found.json() if as_json else found.lines())
    return 0


@app.command()
@command
def verify(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Tell at most so many differences.")] = 100,
    as_json: JsonOption = False,
) -> int:
    """Fold the whole log anew and compare every row; ends with 1 when anything differs."""
    from swell.tables import difference_line, json_line, verified_lines  # noqa: PLC0415 - as above
    from swell.values import Difference, VerifyProgress, VerifyResult  # noqa: PLC0415 - as above

    ok = False
    with cluster_client() as client:
        for said in client.verify_ledger(limit):
            match said:
                case VerifyProgress():
                    _note(f"{said.phase} {said.table or f'{said.position} of {said.end}'}")
                case Difference():
                    _note("")
                    say(json_line("difference", said) if as_json else difference_line(said))
                case VerifyResult():
                    _note("")
                    ok = said.ok
                    say(json_line("verify_result", said) if as_json else verified_lines(said))
    return 0 if ok else 1


@app.command()
@command
def rebuild(
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is level with the log.")] = True,
) -> int:
    """Make the ledger's file anew from the log. Meanwhile runs go on, and questions about them wait."""
    if not yes and not typer.confirm("Make the ledger's file anew from the log?"):
        say("nothing was done")
        return 1
    with cluster_client() as client:
        before = client.ledger_status().started_ns
        _, end = client.rebuild_ledger(reason)
        if not wait:
            say(f"the ledger makes its file anew up to position {end}; see: swell ledger status")
            return 0
        return _await_rebuilt(client, before, end)


def _await_rebuilt(client: Client, before_ns: int, end: int) -> int:
    """Wait for a new process that has absorbed the log up to `end`."""
    from swell.errors import SwellError  # noqa: PLC0415 - as above

    deadline = time.monotonic() + REBUILD_S
    while time.monotonic() < deadline:
        try:
            found = client.ledger_status()
        except SwellError as error:
            if error.code != "UNAVAILABLE":
                raise
        else:
            if found.started_ns != before_ns:
                _note(f"position {found.position} of {max(end, found.stream_last)}")
                if not found.rebuilding and found.caught_up and found.position >= end:
                    _note("")
                    say(f"the ledger is whole again at position {found.position}")
                    return 0
        time.sleep(POLL_S)
    say(f"the ledger is not whole after {REBUILD_S:g} s, and goes on; see: swell ledger status")
    return 1


def _note(text: str) -> None:
    """A line of progress that is drawn over, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
