"""`swell report`: what a run came to, on the terminal, as JSON, or as one HTML file. Imports as swell/cli.py does."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from swell.command import cluster_client, command, say
from swell.errors import invalid
from swell.options import JsonOption, RunArgument


@command
def report(
    run: RunArgument,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write one HTML file with the timeline and the diffs; '-' prints it.", metavar="FILE"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Report on a run: summary, waves, workstreams, critical path, money, failures, merges and gates, events."""
    from swell.listing import resolve_run  # noqa: PLC0415 - as the module says
    from swell.report.material import Material  # noqa: PLC0415 - as above
    from swell.report.page import page  # noqa: PLC0415 - as above
    from swell.report.terminal import report_lines  # noqa: PLC0415 - as above
    from swell.screen import Screen  # noqa: PLC0415 - as above

    if html is not None and as_json:
        raise invalid("BAD_OPTIONS", "a report is written as HTML or printed as JSON", "Leave one of the two out.")
    if html is not None and str(html) != "-" and html.exists() and not force:
        raise invalid("EXISTS", "the file is there already", "Name another one, or replace it with --force.", str(html))
    with cluster_client() as client:
        material = Material.of(client, resolve_run(client, run), time.time_ns(), diffs=html is not None)
    if as_json:
        say(material.json())
    elif html is None:
        say(report_lines(material, Screen.of(sys.stdout)))
    elif str(html) == "-":
        sys.stdout.write(page(material))
    else:
        _write(html, page(material))
        say(f"wrote {html}")
    return 0


def _write(file: Path, text: str) -> None:
    """The whole file or nothing of it."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise invalid(
            "NOT_WRITABLE", f"cannot be written: {error.strerror}", "Name another file.", str(file)
        ) from error
