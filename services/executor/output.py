"""Reading what tools wrote, as what it is: bytes from outside.

The files a tool's output goes to are within its reach. It may have replaced one by a pipe, a link or something endless;
so a file is opened without following links and without waiting, must be a regular file, and is read up to a limit.
"""

import os
import stat
from pathlib import Path


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
