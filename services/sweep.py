"""What an executor is asked about its garbage, and what it answers: files in its folder, and a signal to look at them.

<state_dir>/sweep-request.json    written by whoever asks, who then sends SIGUSR1 to the executor
<state_dir>/sweep-answer.json     written by the executor, with the id of the request
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

REQUEST_FILE: Final = "sweep-request.json"
ANSWER_FILE: Final = "sweep-answer.json"
FILE_BYTES_MAX: Final = 16 * 1024 * 1024

Kind = Literal["refs", "objects", "mirror", "workspace", "cache", "setup", "scratch"]


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went, or would go. `bytes` is its size on the disk; of objects that are not removed yet, at most that."""

    kind: Kind
    name: str
    count: int = 1
    bytes: int = 0


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one look. `removed` would be removed, if it was a `dry_run`; `quarantined` snapshots stay.

    `busy` counts repositories that hold more than is needed, perhaps, and were in use.
    """

    dry_run: bool
    removed: list[Removed] = []
    live_runs: int = 0
    quarantined: int = 0
    busy: int = 0
    troubles: list[str] = []

    @property
    def bytes(self) -> int:
        """All of it together."""
        return sum(one.bytes for one in self.removed)


class SweepRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look through the folder, and with `dry_run` only say what would be removed. `id` names the answer."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    dry_run: bool = False


class SweepAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of a request; `error` says why nothing did."""

    id: str
    sweep: Sweep | None = None
    error: str = ""
    free_bytes: int = 0
