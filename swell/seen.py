"""How far one command has seen the log, for the next one: whichever of several ledgers answers it, it reads no less.

A minute is kept, no longer: a ledger that is ready is not that far behind, and a log that was replaced is forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swell.cluster import default_state_dir

if TYPE_CHECKING:
    from swell.client import Client

KEPT_S: Final = 60.0
_DIGITS_MAX: Final = 19


@contextlib.contextmanager
def remembered(client: Client) -> Iterator[None]:
    """Have a client of a remote cluster ask for at least what the last one saw, and keep what it sees.

    The embedded cluster has one ledger and needs none of this. A folder that cannot be written costs only the promise.
    """
    if client.endpoints.state_dir is not None:
        yield
        return
    file = _file(client.endpoints.ledger)
    client.saw(_read(file))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            scratch = file.with_name(f"{file.name}.{os.getpid()}")
            scratch.write_text(str(client.seen))
            scratch.replace(file)


def _file(ledger: str) -> Path:
    return default_state_dir() / "seen" / hashlib.sha256(ledger.encode()).hexdigest()[:32]


def _read(file: Path) -> int:
    try:
        if time.time() - file.stat().st_mtime > KEPT_S:
            return 0
        with file.open("rb") as opened:
            text = opened.read(_DIGITS_MAX + 1)
    except OSError:
        return 0
    return int(text) if text.isdigit() and len(text) <= _DIGITS_MAX else 0
