"""`swell audit`: whether what is recorded is what was recorded, anchors of it, and the records as lines of JSON.

An anchor is `POSITION:HASH`, on a line of its own with ` stream=CREATED_NS` behind it, or a line of the ledger's `anchors_file`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from swell.command import cluster_client, command, say
from swell.errors import SwellError, invalid
from swell.options import JsonOption, Since, Until

if TYPE_CHECKING:
    import msgspec

    from swell.client import Client
    from swell.values import Anchor, AuditFinding, AuditResult

app = typer.Typer(help="Prove what is recorded, and take it elsewhere.", no_args_is_help=True)

ANCHORS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a file with anchors; about half a million of them."""

_ANCHOR: Final = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})(?: stream=([0-9]{1,19}))?")

Out = Annotated[Path | None, typer.Option("--out", help="Into this file. Default: standard output.", metavar="FILE")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]


@app.command()
@command
def verify(
    start: Annotated[int, typer.Option("--from", min=1, help="The first position.", metavar="P")] = 1,
    end: Annotated[
        int | None, typer.Option("--to", min=1, help="The last position. Default: the newest.", metavar="P")
    ] = None,
    *,
    anchors: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", help="What `swell audit anchor` printed, or a file of such; repeatable.", metavar="P:HASH"
        ),
    ] = None,
    with_log: Annotated[bool, typer.Option("--log", help="Compare with the log as well, byte by byte.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Tell at most so many findings.")] = 100,
    as_json: JsonOption = False,
) -> int:
    """Follow the chain of hashes through what is recorded; ends with 1 when anything was changed, removed or put in."""
    from swell.values import AuditFinding, AuditProgress, AuditResult  # noqa: PLC0415 - help must not wait for this

    if end is not None and end < start:
        raise invalid("BAD_RANGE", f"--to {end} is before --from {start}", "Give a later one, or leave it out.")
    named = [known for given in anchors or [] for known in anchors_in(given)]
    ok = False
    with cluster_client() as client:
        for said in client.verify_audit(
            start, end or 0, anchors=[anchor for _, anchor in named], with_log=with_log, findings_max=limit
        ):
            match said:
                case AuditProgress():
                    _note(f"{said.phase} {said.position} of {said.end}")
                case AuditFinding():
                    _note("")
                    name = named[said.anchor - 1][0] if said.anchor else ""
                    say(_json("audit_finding", said, anchor_name=name) if as_json else finding_line(said, name))
                case AuditResult():
                    _note("")
                    ok = said.ok
                    say(_json("audit_result", said) if as_json else result_lines(said))
    return 0 if ok else 1


@app.command()
@command
def anchor(
    position: Annotated[
        int | None, typer.Option("--at", min=1, help="The position. Default: the newest.", metavar="P")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Print position and hash, to be kept where nobody who can change the cluster can change them."""
    with cluster_client() as client:
        found = client.anchor(position or 0)
    say(_json("anchor", found) if as_json else anchor_line(found))
    return 0


@app.command()
@command
def export(
    entries: Annotated[
        bool, typer.Option("--entries", help="The log's entries with their hashes, not events.")
    ] = False,
    *,
    run: Annotated[str, typer.Option("--run", help="Only of this run; its id, the beginning of one, or 'last'.")] = "",
    since: Since = "",
    until: Until = "",
    out: Out = None,
    force: Force = False,
) -> int:
    """Write events, or entries, as lines of JSON: one line for each row, oldest first."""
    from swell.listing import resolve_run  # noqa: PLC0415 - as above
    from swell.moments import span_ns  # noqa: PLC0415 - as above

    table = "entries" if entries else "events"
    since_ns, until_ns = span_ns(since, until)
    with cluster_client() as client:
        name = resolve_run(client, run) if run else ""
        _write(client, table, out, force=force, run=name, since_ns=since_ns, until_ns=until_ns)
    return 0


@app.command()
@command
def aim(
    since: Since = "", until: Until = "", *, out: Out = None, force: Force = False, as_json: JsonOption = False
) -> int:
    """Show who had which tool called for which capability, with what came of it; --json or --out for lines of JSON."""
    import msgspec  # noqa: PLC0415 - as above

    from swell.moments import span_ns  # noqa: PLC0415 - as above
    from swell.text import columns  # noqa: PLC0415 - as above

    since_ns, until_ns = span_ns(since, until)
    with cluster_client() as client:
        if as_json or out is not None:
            _write(client, "aim", out, force=force, since_ns=since_ns, until_ns=until_ns)
            return 0
        pieces = [piece for piece, _ in client.export_audit("aim", since_ns=since_ns, until_ns=until_ns)]
    records = [msgspec.json.decode(line, type=dict[str, str]) for line in b"".join(pieces).splitlines()]
    if not records:
        say("no tool was called by capability")
        return 0
    names = ("timestamp", "actor", "tool_id", "capability", "result", "payload")
    say(columns([names, *([str(record[name])[:64] for name in names] for record in records)]))
    return 0


# Anchors


def anchor_line(found: Anchor) -> str:
    """An anchor as it is kept; this form never changes."""
    return f"{found.position}:{found.hash} stream={found.stream_created_ns}"


def anchors_in(given: str) -> list[tuple[str, Anchor]]:
    """The anchors that an argument names, itself or as a file, each with what it is called. Raises SwellError BAD_ANCHOR."""
    if known := _anchor(given):
        return [(given.partition(":")[0] + " as given", known)]
    file = Path(given)
    try:
        if file.stat().st_size > ANCHORS_BYTES_MAX:
            raise _bad(given, f"it is larger than {ANCHORS_BYTES_MAX} bytes", "Take a part of it.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _bad(given, f"it is neither POSITION:HASH nor a file that can be read: {why}", _REMEDY) from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        known = _anchor(text) or _anchor_of_json(text)
        if known is None:
            raise _bad(f"{given}:{number}", "it is no anchor", f"Remove the line if it was cut short. {_REMEDY}")
        found.append((f"{given}:{number}", known))
    if not found:
        raise _bad(given, "there is no anchor in it", _REMEDY)
    return found


_REMEDY: Final = "An anchor is what `swell audit anchor` prints."


def _bad(where: str, why: str, remedy: str) -> SwellError:
    return invalid("BAD_ANCHOR", why, remedy, where[:200])


def _anchor(text: str) -> Anchor | None:
    from swell.values import Anchor  # noqa: PLC0415 - as above

    match = _ANCHOR.fullmatch(text)
    if match is None or int(match[3] or 0) >= 2**63:
        return None
    return Anchor(position=int(match[1]), hash=match[2], stream_created_ns=int(match[3] or 0))


def _anchor_of_json(text: str) -> Anchor | None:
    """A line of the ledger's `anchors_file`, or of `swell audit anchor --json`."""
    import msgspec  # noqa: PLC0415 - as above

    try:
        line = msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
    return _anchor(f"{line.get('position')}:{line.get('hash')} stream={line.get('stream_created_ns')}")


# What is told


def finding_line(found: AuditFinding, anchor_name: str = "") -> str:
    """One finding on one line; `anchor_name` is the anchor's."""
    from swell.text import one_line  # noqa: PLC0415 - as above

    against = f"anchor {anchor_name}" if found.source == "anchor" else found.source
    where = f"{found.table} {found.key}".rstrip()
    what = f" {found.column}" if found.column else ""
    values = f" (stored {found.stored or 'nothing'}, expected {found.expected})" if found.expected else ""
    return one_line(f"{found.kind}: {where}{what}: {found.text} [{against}]{values}", 1000)


def result_lines(result: AuditResult) -> list[str]:
    """What came of an audit."""
    from swell.text import duration, many  # noqa: PLC0415 - as above

    if result.end < result.start:
        return ["nothing is recorded yet"]
    verdict = "no alteration was found" if result.ok else many(result.findings, "finding")
    lines = [
        (
            f"{verdict} from {result.start} to {result.end}: {many(result.entries, 'entry', 'entries')}, {many(result.events, 'event')}, "
            f"{duration(result.wall_s)}"
        ),
        f"  anchors   {result.anchors} looked up" if result.anchors else "  anchors   none given",
        f"  log       {many(result.logged, 'entry', 'entries')} compared"
        if result.logged or result.unlogged
        else "  log       not asked",
    ]
    if result.unlogged:
        lines[-1] += f", {result.unlogged} are no longer in it"
    lines.append(f"  ends at   {result.end}:{result.hash} stream={result.stream_created_ns}")
    if result.ok and not result.anchors and not result.logged and not result.unlogged:
        lines.append("  no proof against who can write the ledger's file: give --anchor or --log")
    if not result.ok:
        lines.append(
            "  next: docs/audit.md tells what each finding proves; `swell ledger verify` compares every other table"
        )
    return lines


def _json(record: str, value: msgspec.Struct, **more: str) -> str:
    """A value as one line of JSON; `record` says what it is."""
    from msgspec import json, structs  # noqa: PLC0415 - as above

    return json.encode({"record": record, **structs.asdict(value), **more}).decode()


# Lines of JSON


def _write(client: Client, table: str, out: Path | None, *, force: bool, **asked: Any) -> None:
    """Write lines to a file, whole or not at all, or to standard output."""
    if out is None:
        for piece, _ in client.export_audit(table, **asked):
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        return
    if not force and os.path.lexists(out):
        raise invalid("EXISTS", "it is there already", "Name another place, or replace it with --force.", str(out))
    half = out.with_name(f".{out.name}.{os.getpid()}.half")
    rows = 0
    try:
        with half.open("wb") as opened:
            rows = _copied(client.export_audit(table, **asked), opened)
            opened.flush()
            os.fsync(opened.fileno())
        if force:
            half.replace(out)
        else:
            os.link(half, out)
    except FileExistsError as error:
        raise invalid("EXISTS", "it is there already", "Name another place.", str(out)) from error
    except OSError as error:
        raise invalid(
            "NOT_WRITABLE", f"cannot be written: {error.strerror}", "Name another place.", str(out)
        ) from error
    finally:
        half.unlink(missing_ok=True)
    say(f"wrote {rows} lines to {out}")


def _copied(pieces: Iterable[tuple[bytes, int]], opened: Any) -> int:
    rows = 0
    for piece, rows in pieces:
        opened.write(piece)
        _note(f"{rows} lines")
    _note("")
    return rows


def _note(text: str) -> None:
    """A line of progress that is drawn over, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
