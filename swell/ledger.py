"""`swell ledger`: how far it is, whether its tables say what the log says, making them anew, backup, restore and archive."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swell.command import cluster_client, command, say
from swell.errors import SwellError, invalid
from swell.options import JsonOption, Reason

if TYPE_CHECKING:
    from swell.client import Client
    from swell.values import LedgerCopy

app = typer.Typer(help="Look after the ledger.", no_args_is_help=True)

REBUILD_S = 600.0
"""How long a rebuild is waited for; it goes on in any case."""
POLL_S = 0.5
REFUSALS = 10
"""A ledger that starts again refuses a few polls; after so many the reason is told."""
SENT_BYTES = 32 * 1024
"""A ledger takes requests up to twice that size by default."""


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
    if not yes and not _confirmed("Make the ledger's file anew from the log?"):
        say("nothing was done")
        return 1
    with cluster_client() as client:
        before = client.ledger_status().started_ns
        _, end = client.rebuild_ledger(reason)
        if not wait:
            say(f"the ledger makes its file anew up to position {end}; see: swell ledger status")
            return 0
        return _await_rebuilt(client, before, end)


@app.command()
@command
def backup(
    to: Annotated[Path, typer.Option("--to", help="Where the copy goes: a new file.")],
    as_json: JsonOption = False,
) -> int:
    """Copy the ledger's file while it is in use."""
    from swell.tables import json_line  # noqa: PLC0415 - as above
    from swell.text import size  # noqa: PLC0415 - as above

    if to.exists():
        raise invalid("EXISTS", "there is a file already", "Name a new one, or remove it.", str(to))
    with cluster_client() as client:
        copied = _received(client, to)
    told = f"the ledger as of position {copied.position} is in {to}: {size(copied.size_bytes)}"
    say(json_line("ledger_copy", copied) if as_json else [told, f"  hash {copied.hash}", f"  SHA-256 {copied.sha256}"])
    return 0


def _received(client: Client, to: Path) -> LedgerCopy:
    """A whole copy under its name, or nothing at all."""
    from swell.values import LedgerCopy  # noqa: PLC0415 - as above

    part = to.with_name(to.name + ".part")
    digest, got, told = hashlib.sha256(), 0, None
    try:
        with part.open("wb") as opened:
            for said in client.backup_ledger():
                if isinstance(said, LedgerCopy):
                    told = said
                    continue
                opened.write(said)
                digest.update(said)
                got += len(said)
                _note(f"{got} of {told.size_bytes if told else 0} bytes")
            opened.flush()
            os.fsync(opened.fileno())
        _note("")
        if told is None or (got, digest.hexdigest()) != (told.size_bytes, told.sha256):
            raise SwellError("DATA_LOSS", "BACKUP_TORN", "the copy came damaged", "Try again.", str(to))
        part.replace(to)
    except OSError as error:
        raise invalid("NOT_WRITABLE", f"cannot be written: {error.strerror}", "Name another place.", str(to)) from error
    finally:
        part.unlink(missing_ok=True)
    return told


@app.command()
@command
def restore(
    source: Annotated[Path, typer.Option("--from", help="A file that `swell ledger backup` made.")],
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is level with the log.")] = True,
) -> int:
    """Put a backup in the place of the ledger's file; it then catches up with the log. Runs go on meanwhile."""
    try:
        with source.open("rb") as opened:
            digest, size_bytes = hashlib.file_digest(opened, "sha256").hexdigest(), source.stat().st_size
    except OSError as error:
        raise invalid("NOT_READABLE", f"cannot be read: {error.strerror}", "Name a backup.", str(source)) from error
    if not yes and not _confirmed(f"Put {source} in the place of the ledger's file?"):
        say("nothing was done")
        return 1
    with cluster_client() as client, source.open("rb") as opened:
        before = client.ledger_status().started_ns
        chunks = iter(lambda: opened.read(SENT_BYTES), b"")
        copied, end = client.restore_ledger(chunks, size_bytes=size_bytes, sha256=digest, reason=reason)
        say(f"the ledger goes on from {source}, which is as of position {copied.position}")
        if not wait:
            say(f"it catches up to position {end}; see: swell ledger status")
            return 0
        return _await_rebuilt(client, before, end)


@app.command()
@command
def archive(
    older_than: Annotated[
        int, typer.Option("--older-than", min=0, max=36_500, help="Only what is older, in days; 0: all that is over.")
    ] = 30,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove archived runs from the log, once they are verified.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be archived.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Move what is over and old into the archive, and on request out of the log. It can be asked as before."""
    from swell.tables import archived_lines, json_line  # noqa: PLC0415 - as above
    from swell.values import ArchiveProgress  # noqa: PLC0415 - as above

    with cluster_client() as client:
        for said in client.archive_ledger(older_than, purge=purge, dry_run=dry_run):
            if isinstance(said, ArchiveProgress):
                _note(f"{said.phase} {said.position} of {said.end}")
            else:
                _note("")
                say(json_line("archive_result", said) if as_json else archived_lines(said, dry_run=dry_run))
    return 0


def _confirmed(question: str) -> bool:
    """What a person at a terminal answers. Raises SwellError NO_TERMINAL where there is none."""
    if not sys.stdin.isatty():
        raise invalid("NO_TERMINAL", "nobody can be asked here, and nothing was done", "Give --yes.")
    return typer.confirm(question)


def _await_rebuilt(client: Client, before_ns: int, end: int) -> int:
    """Wait for a new process that has absorbed the log up to `end`; tell once why there is none."""
    from swell.text import visible  # noqa: PLC0415 - as above

    deadline = time.monotonic() + REBUILD_S
    refusals, trouble, told = 0, "", False
    while time.monotonic() < deadline:
        try:
            found = client.ledger_status()
        except SwellError as error:
            if error.code != "UNAVAILABLE":
                raise
            refusals += 1
            trouble = error.message if refusals >= REFUSALS else ""
        else:
            if found.started_ns != before_ns:
                _note(f"position {found.position} of {max(end, found.stream_last)}")
                if not found.rebuilding and found.caught_up and found.position >= end:
                    _note("")
                    say(f"the ledger is whole again at position {found.position}")
                    return 0
        trouble = _failing(client) or trouble
        if trouble and not told:
            told = True
            _note("")
            sys.stderr.write(f"the ledger does not come up, and is waited for: {visible(trouble)}\n")
        time.sleep(POLL_S)
    say(f"the ledger is not whole after {REBUILD_S:g} s, and goes on; see: swell ledger status")
    return 1


def _failing(client: Client) -> str:
    """What the embedded cluster knows of a ledger that keeps dying; '' for one that does not, or that is elsewhere."""
    from swell.cluster import read_status  # noqa: PLC0415 - as above

    state_dir = client.endpoints.state_dir
    status = None if state_dir is None else read_status(state_dir)
    return status.failing["ledger"].message if status is not None and "ledger" in status.failing else ""


def _note(text: str) -> None:
    """A line of progress that is drawn over, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
