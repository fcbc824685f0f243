"""`swell patch`: what attempts made, what became of it, and patches as files. Imports as swell/cli.py does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swell.command import cluster_client, command, say
from swell.errors import invalid
from swell.options import AttemptOption, JsonOption, RepoOption, RunArgument, WorkstreamArgument

if TYPE_CHECKING:
    from swell.client import Client

app = typer.Typer(help="See the patches of a run; export, apply and reverse them.", no_args_is_help=True)

StateOption = Annotated[str, typer.Option("--state", help="Only in this state, such as quarantined.", metavar="STATE")]
Files = Annotated[
    list[Path], typer.Argument(help="Patch files, in their order; they count as one patch.", metavar="FILE...")
]
Check = Annotated[bool, typer.Option("--check", help="Only say whether it fits; change nothing.")]
OverDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Change files with uncommitted changes too, if the patch fits.")
]


@app.command("list")
@command
def list_(
    run: RunArgument, workstream: WorkstreamArgument = "", state: StateOption = "", as_json: JsonOption = False
) -> int:
    """List the patches of a run: each attempt that changed something made one."""
    from services.ledger.patches import ALLOWED  # noqa: PLC0415 - as the module says
    from swell.listing import require_workstream  # noqa: PLC0415 - as above
    from swell.tables import PatchList  # noqa: PLC0415 - as above

    if state and state not in ALLOWED:
        raise invalid("BAD_STATE", f"no patch is ever in the state {state!r}", f"Use one of {', '.join(ALLOWED)}.")
    with cluster_client() as client:
        name = _resolve(client, run)
        if workstream:
            require_workstream(client.list_workstreams(name), name, workstream)
        found = PatchList(client.list_patches(name, workstream, state=state))
    say(found.json() if as_json else found.lines())
    return 0


@app.command()
@command
def show(
    run: RunArgument,
    workstream: Annotated[str, typer.Argument(help="The workstream.", metavar="WS")],
    attempt: AttemptOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Show what a patch changes, and every state it was in, with reason and time."""
    from swell.tables import PatchDetail  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        found = PatchDetail.of(client, _resolve(client, run), workstream, attempt)
    say(found.json() if as_json else found.lines())
    return 0


@app.command()
@command
def export(
    run: RunArgument,
    workstream: WorkstreamArgument = "",
    attempt: AttemptOption = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write. Default: named by run and workstream, here."),
    ] = None,
    series: Annotated[
        Path | None, typer.Option("--series", help="A folder for one numbered file for each workstream instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Also a patch that is in quarantine.")] = False,
) -> int:
    """Write the patch of a workstream, or what a run has merged in its order, into files."""
    from swell import export as exporting  # noqa: PLC0415 - as the module says

    if output is not None and series is not None:
        raise invalid("TWO_PLACES", "--output and --series exclude each other", "Give one of them.")
    if attempt and not workstream:
        raise invalid("NO_WORKSTREAM", "--attempt is about a workstream", "Name it behind the run.")
    with cluster_client() as client:
        name = _resolve(client, run)
        patches = exporting.chosen(client, name, workstream, attempt, quarantined=quarantined)
        parts = [name, workstream, str(attempt) if attempt else ""]
        target = series or output or Path("-".join(part for part in parts if part) + ".patch")
        written = exporting.export(client, patches, target, series=series is not None, force=force)
    say([f"wrote {file}" for file in written])
    return 0


@app.command()
@command
def apply(files: Files, repo: RepoOption = Path(), check: Check = False, allow_dirty: OverDirty = False) -> int:
    """Apply patches to a checkout: as a whole, or nothing of them. They stay uncommitted."""
    return _carry_out(files, repo, reverse=False, check=check, allow_dirty=allow_dirty)


@app.command()
@command
def reverse(files: Files, repo: RepoOption = Path(), check: Check = False, allow_dirty: OverDirty = False) -> int:
    """Take applied patches back: every file is then, byte for byte, what it was."""
    return _carry_out(files, repo, reverse=True, check=check, allow_dirty=allow_dirty)


def _carry_out(files: list[Path], repo: Path, *, reverse: bool, check: bool, allow_dirty: bool) -> int:
    from swell.patching import carry_out, read_patch  # noqa: PLC0415 - as the module says
    from swell.text import one_line  # noqa: PLC0415 - as above

    patch = b"".join(read_patch(file) for file in files)
    where = ", ".join(str(file) for file in files)
    done = carry_out(patch, repo, reverse=reverse, check_only=check, allow_dirty=allow_dirty, where=where)
    what = ("would be reversed" if reverse else "would apply") if check else ("reversed" if reverse else "applied")
    said = [*done.files, *(f"note: {note}" for note in done.notes)]
    say([f"{what}: {len(done.files)} files", *(f"  {one_line(line, 500)}" for line in said)])
    return 0


def _resolve(client: Client, run: str) -> str:
    from swell.listing import resolve_run  # noqa: PLC0415 - as the module says

    return resolve_run(client, run)
