"""Patches of a run as files: which ones, in which order, and written so that nothing is lost on the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from swell.errors import SwellError, invalid
from swell.gitpatch import START
from swell.listing import require_workstream

if TYPE_CHECKING:
    from swell.client import Client
    from swell.values import Patch


def chosen(client: Client, run: str, workstream: str, attempt: int, *, quarantined: bool) -> list[Patch]:
    """The patch of an attempt, or that a workstream goes on with; of a run what stands on its line, in that order.

    Raises SwellError PATCH_NOT_FOUND, WORKSTREAM_NOT_FOUND, QUARANTINED.
    """
    if not workstream:
        patches = {(one.workstream, one.attempt): one for one in client.list_patches(run, state="committed")}
        moves = [move for move in client.list_patch_moves(run) if move.to_state == "committed"]
        last = {(move.workstream, move.attempt): move.position for move in moves}
        found = [patches[place] for place in sorted(last, key=lambda place: last[place]) if place in patches]
        if not found:
            raise SwellError(
                "NOT_FOUND",
                "PATCH_NOT_FOUND",
                f"nothing is merged in run {run}",
                f"See its patches with `swell patch list {run}`, and name the workstream of one.",
            )
        return found
    require_workstream(client.list_workstreams(run), run, workstream)
    patch = client.get_patch(run, workstream, attempt)
    if patch.state == "quarantined" and not quarantined:
        raise SwellError(
            "FAILED_PRECONDITION",
            "QUARANTINED",
            f"the patch of {workstream}/{patch.attempt} is in quarantine: {patch.reason}",
            f"Look at it with `swell diff {run} {workstream} --attempt {patch.attempt}`; "
            "--quarantined exports it all the same.",
        )
    return [patch]


def export(client: Client, patches: Sequence[Patch], target: Path, *, series: bool, force: bool) -> list[Path]:
    """Write patches into one file, or (`series`) numbered ones into a folder; all of them or none.

    A folder with patches of another series is refused: who takes all of it would mix them.

    Raises SwellError EXISTS unless `force`, NOT_WRITABLE, PATCH_INCOMPLETE.
    """
    width = max(4, len(str(len(patches))))
    groups = (
        {target / f"{number:0{width}}-{patch.workstream}.patch": [patch] for number, patch in enumerate(patches, 1)}
        if series
        else {target: list(patches)}
    )
    with ExitStack() as left:
        try:
            (target if series else target.absolute().parent).mkdir(parents=True, exist_ok=True)
            if not force and (there := next((file for file in groups if os.path.lexists(file)), None)):
                raise _exists(there)
            if series and (others := sorted(set(target.glob("*.patch")) - set(groups))):
                raise invalid(
                    "EXISTS", f"{others[0].name} is no part of this series", "Name another folder.", str(target)
                )
            halves = {}
            for file, some in groups.items():
                halves[file] = half = file.with_name(f".{file.name}.{os.getpid()}.half")
                left.callback(half.unlink, missing_ok=True)
                _fill(client, some, half)
            for file, half in halves.items():
                _put(half, file, left, force=force)
        except FileExistsError as error:
            raise _exists(Path(error.filename2 or error.filename)) from error
        except OSError as error:
            raise invalid(
                "NOT_WRITABLE", f"cannot be written: {error.strerror}", "Name another place.", str(target)
            ) from error
        for half in halves.values():
            half.unlink(missing_ok=True)
        left.pop_all()
    return list(groups)


def _fill(client: Client, patches: Sequence[Patch], file: Path) -> None:
    with file.open("wb") as opened:
        for patch in patches:
            first = True
            last = b""
            for chunk in client.read_artifact(patch.kept):
                if first and not chunk.startswith(START):
                    raise _incomplete(patch)
                first, last = False, chunk
                opened.write(chunk)
            if last and not last.endswith(b"\n"):
                opened.write(b"\n")


def _put(half: Path, file: Path, left: ExitStack, *, force: bool) -> None:
    """Give the whole file its name; what was there before is only replaced by force."""
    if force:
        half.replace(file)
        return
    os.link(half, file)
    left.callback(file.unlink)


def _exists(file: Path) -> SwellError:
    return invalid("EXISTS", "it is there already", "Name another place, or replace it with --force.", str(file))


def _incomplete(patch: Patch) -> SwellError:
    return SwellError(
        "FAILED_PRECONDITION",
        "PATCH_INCOMPLETE",
        f"the patch of {patch.workstream}/{patch.attempt} was too long to be kept; only its list of files is",
        f"Take the branch swell/{patch.run} of the repository instead.",
    )


__all__ = ["chosen", "export"]
