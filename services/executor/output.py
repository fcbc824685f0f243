"""Reading what tools wrote, as what it is: bytes from outside.

The files a tool's output goes to are within its reach. It may have replaced one by a pipe, a link or something endless;
so a file is opened without following links and without waiting, must be a regular file, and is read up to a limit.
"""

import base64
import json
import os
import stat
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

SECRET_CHARS_MIN = 8
MASK = b"[secret]"


def read_output(file: Path, limit_bytes: int, *, start: int = 0) -> bytes:
    """At most `limit_bytes` of a regular file, from `start`; nothing when it is missing or something else."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.pread(descriptor, limit_bytes, start)
    finally:
        os.close(descriptor)


class Secrets:
    """Values that were handed to a tool on purpose, and must not come back in what is kept of it.

    Masked as they are, and in their base64, URL and JSON forms. Shorter ones than SECRET_CHARS_MIN are left alone:
    they would mask ordinary text.
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms: set[bytes] = set()
        for value in values:
            if len(value) >= SECRET_CHARS_MIN:
                raw = value.encode("utf-8", "surrogateescape")
                forms |= {raw, base64.b64encode(raw), base64.urlsafe_b64encode(raw), base64.b64encode(raw).rstrip(b"=")}
                forms |= {urllib.parse.quote(raw, safe="").encode(), json.dumps(value)[1:-1].encode()}
        self._forms = sorted(forms, key=len, reverse=True)

    def mask(self, data: bytes) -> bytes:
        """The same with every secret replaced."""
        for form in self._forms:
            data = data.replace(form, MASK)
        return data

    def mask_text(self, text: str) -> str:
        """The same for text."""
        if not self._forms:
            return text
        return self.mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
