"""What `swell gc` does: it has the executor of the embedded cluster collect its garbage, and tells what that was.

The executor alone knows what is in use just now, so it is asked, as services/sweep.py says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Final

import msgspec

from services.sweep import ANSWER_FILE, FILE_BYTES_MAX, REQUEST_FILE, Sweep, SweepAnswer, SweepRequest
from swell.cluster import write_private
from swell.errors import SwellError
from swell.text import columns, one_line, size
from swell.values import Endpoints

EXECUTOR_S: Final = 20.0
"""How long the executor may take to start."""

ANSWER_S: Final = 3600.0
"""How long it may take to look through everything: to pack a large repository anew takes minutes."""

POLL_S: Final = 0.05

_MEANS: Final = {
    "refs": "snapshots and base commits of runs that have ended",
    "objects": "what no run needs of a repository",
    "mirror": "a repository that nothing has used for long",
    "workspace": "worktrees that stood ready",
    "cache": "caches of tools",
    "setup": "what a setup made",
    "scratch": "left over by an attempt",
}


def collected(endpoints: Endpoints, *, dry_run: bool, timeout_s: float = ANSWER_S) -> SweepAnswer:
    """What the executor of the embedded cluster answers. Raises SwellError: NOT_EMBEDDED, NO_EXECUTOR, NOT_SWEPT."""
    if endpoints.state_dir is None:
        raise SwellError(
            "FAILED_PRECONDITION",
            "NOT_EMBEDDED",
            "the cluster is elsewhere",
            "Its executors collect by themselves, see gc_interval_s in their settings.",
        )
    folder = endpoints.state_dir / "executor"
    request = SweepRequest(id=uuid.uuid4().hex, dry_run=dry_run)
    deadline = time.monotonic() + timeout_s
    asked = 0
    while time.monotonic() < deadline:
        pid = _executor(endpoints.state_dir)
        if pid != asked:  # one that starts anew has forgotten what the last one was asked
            write_private(folder / REQUEST_FILE, msgspec.json.encode(request))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
            asked = pid
        time.sleep(POLL_S)
        answer = _answer(folder / ANSWER_FILE)
        if answer is not None and answer.id == request.id:
            if answer.sweep is None:
                raise SwellError("UNAVAILABLE", "NOT_SWEPT", answer.error, "Nothing was removed: try again.")
            return answer
    raise SwellError(
        "DEADLINE_EXCEEDED",
        "NOT_SWEPT",
        f"the executor has not answered for {timeout_s:g} s, and goes on",
        "Look into logs/executor.log of the state folder.",
    )


def _executor(state_dir: Path) -> int:
    """The pid of the executor, once it serves: what is not ready yet would die of the signal. Raises SwellError."""
    deadline = time.monotonic() + EXECUTOR_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, msgspec.MsgspecError, KeyError):
            ready = msgspec.json.decode((state_dir / "ready" / "executor.json").read_bytes(), type=dict[str, int])
            if b"services.executor" in Path(f"/proc/{ready['pid']}/cmdline").read_bytes():
                return ready["pid"]
        time.sleep(POLL_S)
    raise SwellError(
        "UNAVAILABLE",
        "NO_EXECUTOR",
        f"the executor was not there for {EXECUTOR_S:g} s",
        "Look into logs/executor.log of the state folder.",
        str(state_dir),
    )


def _answer(file: Path) -> SweepAnswer | None:
    try:
        with file.open("rb") as opened:
            return msgspec.json.decode(opened.read(FILE_BYTES_MAX), type=SweepAnswer)
    except (OSError, msgspec.MsgspecError):
        return None


def swept_lines(answer: SweepAnswer) -> list[str]:
    """What went, or would go, and what stays."""
    sweep = answer.sweep or Sweep(dry_run=True)
    rows = [
        (one.kind, one.name, str(one.count), size(one.bytes) if one.bytes else "-", _MEANS[one.kind])
        for one in sweep.removed
    ]
    lines = columns([("KIND", "NAME", "COUNT", "SIZE", ""), *rows]) if rows else []
    verb = "would be freed, at most" if sweep.dry_run else "freed"
    lines.append(f"{size(sweep.bytes)} {verb}; {size(answer.free_bytes)} free on its disk")
    lines.append(f"kept: what {sweep.live_runs} live runs need, and all artifacts and facts")
    if sweep.busy:
        lines.append(f"kept for now: objects of {sweep.busy} repositories that attempts use just now")
    if sweep.quarantined:
        lines.append(f"kept: {sweep.quarantined} quarantined snapshots, which exist nowhere else")
    return lines + [f"could not be looked at: {one_line(trouble)}" for trouble in sweep.troubles]
