"""The life of a patch, folded from the facts of its workstream and of the line. Pure.

A patch is what an EDIT or FIX attempt made of its workstream: one for each attempt that left any. Which facts move it:

    created       an EDIT or FIX closed with a patch
    validated     it changes nothing outside its scope; or a person let a quarantined one go on
    queued        its workstream waits for the line
    applied       a merge attempt put it on the head of the line
    verified      a gate passed on the merged tree, or every verdict on that tree was known
    committed     the merged tree is the head of the line
    apply_failed  the line refused it: a conflict, a red merged tree, an error
    quarantined   it left its scope, or its workstream awaits review; never without a reason
    dropped       a later patch replaces it, or its workstream ended without it
    rolled_back   its workstream was compensated, or taken off the line; or it was staged, and taken back
"""

from typing import Literal

import msgspec

PatchState = Literal[
    "created", "validated", "queued", "applied", "verified", "committed", "apply_failed", "quarantined", "dropped",
    "rolled_back",
]  # fmt: skip

ALLOWED: dict[PatchState, frozenset[PatchState]] = {
    "created": frozenset({"validated", "apply_failed", "quarantined", "dropped"}),
    "validated": frozenset({"queued", "quarantined", "dropped"}),
    "queued": frozenset({"applied", "apply_failed", "quarantined", "dropped"}),
    "applied": frozenset({"verified", "apply_failed", "rolled_back", "quarantined", "dropped"}),
    "verified": frozenset({"committed", "rolled_back", "quarantined", "dropped"}),
    "apply_failed": frozenset({"queued", "quarantined", "dropped"}),
    "quarantined": frozenset({"validated", "dropped"}),
    "committed": frozenset({"rolled_back"}),
    "rolled_back": frozenset({"queued", "quarantined"}),
    "dropped": frozenset(),
}
"""Which moves exist. Out of quarantine leads only a person's word; back from `rolled_back` only what was staged and taken back."""

SETTLED: frozenset[PatchState] = frozenset({"committed", "rolled_back", "dropped"})
"""Where a patch stays when its workstream ends, or when a later patch takes its place."""

PatchMoveRow = tuple[int, int, int, str, str, int, str, str, str, int]
"""position, idx, turn (its place among the moves of one event), run, workstream, attempt, from_state ('' at first), to_state,
reason, time_ns."""


class PatchRow(msgspec.Struct, kw_only=True):
    """A row of `patches`. `digest` is the SHA-256 of its bytes: the same change has the same; `artifact` the name to read it by.

    `files` is a JSON list of the first paths it changes, of `files_total`. `moves` counts its history. A move that does not
    exist is not made: `refused_moves` counts them, `refused` tells the newest.
    """

    run: str
    workstream: str
    attempt: int
    created_position: int
    created_idx: int
    step: str
    state: PatchState
    reason: str
    digest: str
    artifact: str
    size_bytes: int
    files: str
    files_total: int
    created_ns: int
    changed_ns: int
    moves: int = 0
    refused_moves: int = 0
    refused: str = ""


def refusal(state: PatchState, to: PatchState, reason: str) -> str:
    """Why a patch cannot move from one state to another for this reason; '' when it can."""
    if to not in ALLOWED[state]:
        return f"{state} does not lead to {to}"
    if to == "quarantined" and not reason:
        return "quarantined needs a reason"
    return ""
