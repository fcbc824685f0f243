"""Reading what tools wrote, as what it is: bytes from outside.

The files a tool's output goes to are within its reach. It may have replaced one by a pipe, a link or something endless;
so a file is opened without following links and without waiting, must be a regular file, and is read up to a limit.
"""

import os
import stat
import struct
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct("<QQ")
_UNSURE_BYTES: Final = 256 * 1024
"""The oldest of a ring: they may be overwritten already when its header does not say so yet (supervisor.PIPE_BYTES)."""


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


class Followed:
    """One output of a tool, read while it comes: its file, and then the ring beside it (services.executor.supervisor).

    `lost` counts the bytes that were overwritten before they could be read; a line end stands for them.
    """

    def __init__(self, file: Path, limit_bytes: int, ring_bytes: int = 0) -> None:
        """`limit_bytes` are read of the file; `ring_bytes` is what the ring was asked to hold, 0 for no ring."""
        self.lost = 0
        self._file = file
        self._limit = limit_bytes
        self._ring = file.with_name(f"{file.name}.ring")
        self._ring_bytes = ring_bytes
        self._position = 0

    def read(self, most_bytes: int) -> bytes:
        """At most so many of the bytes that were not read yet; nothing when there are none now."""
        room = min(most_bytes, self._limit - self._position)
        data = read_output(self._file, room, start=self._position) if room > 0 else b""
        if self._ring_bytes:
            total, begin = self._header()  # after the file: the end of an output that is cut is added to it
            data = data[: max(begin - self._position, 0)] if total else data
            if total and not data:
                return self._newest(total, begin, most_bytes)
        self._position += len(data)
        return data

    def _header(self) -> tuple[int, int]:
        header = read_output(self._ring, _HEADER.size)
        return _HEADER.unpack(header) if len(header) == _HEADER.size else (0, 0)

    def _newest(self, total: int, begin: int, most_bytes: int) -> bytes:
        if self._lose(max(begin, self._oldest(total))):
            return b"\n"
        at = self._position % self._ring_bytes
        count = min(most_bytes, total - self._position, self._ring_bytes - at)
        if count <= 0:
            return b""
        data = read_output(self._ring, count, start=_HEADER.size + at)
        if self._lose(self._oldest(self._header()[0])):
            return b"\n"
        self._position += len(data)
        return data

    def _oldest(self, total: int) -> int:
        """The first position that is surely still there."""
        return total - self._ring_bytes + _UNSURE_BYTES

    def _lose(self, oldest: int) -> bool:
        lost = max(oldest - self._position, 0)
        self.lost += lost
        self._position += lost
        return lost > 0
