"""What files stand for, read anew when they change: secrets are renewed under a running service.

A mounted secret of Kubernetes is a folder of links behind one link, `..data`, which is swapped: every file then has another
inode at once. So a file counts as changed when what its name leads to is another one, and files that belong together are
read again when one of them changed meanwhile.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from services.metrics import Exposition, Reading, Series

log = structlog.get_logger()

BYTES_MAX = 1024 * 1024
LOOK_S = 1.0
"""How often a file is looked at, at most."""
READINGS_MAX = 5
"""How often files are read that change while they are read, before they count as unusable for now."""

REFUSED = Series(
    "swell_watched_refused",
    "gauge",
    "Whether a file holds what cannot be used, so that its former content is in force, by what it is for.",
    ("file",),
)

T = TypeVar("T")

_Seen = tuple[tuple[int, ...], ...]


class Watched(Generic[T]):
    """What the files of a setting stand for. Safe to use from several threads."""

    def __init__(
        self,
        setting: str,
        files: Sequence[Path],
        parse: Callable[[Sequence[bytes]], T],
        *,
        look_s: float = LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`parse` makes of their bytes what they stand for, or raises ValueError. Raises ValueError when that cannot be had now."""
        self._setting = setting
        self._files = tuple(files)
        self._parse = parse
        self._look_s = look_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: _Seen = ()
        self._refused = False
        self._looked = clock()
        self._current = self._read()

    def current(self) -> T:
        """What they stand for now; the former stays in force when they changed to what cannot be used, and the log says why."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= self._look_s:
                self._looked = now
                if self._signature() != self._seen:
                    self._renew()
            return self._current

    def is_refused(self) -> bool:
        """Whether they hold by now what cannot be used."""
        self.current()
        return self._refused

    def _renew(self) -> None:
        try:
            self._current = self._read()
        except ValueError as error:
            self._refused = True
            log.error("watched.refused", setting=self._setting, error=str(error), remedy="the former stays in force")
        else:
            self._refused = False
            log.info("watched.renewed", setting=self._setting, files=[str(file) for file in self._files])

    def _read(self) -> T:
        for _ in range(READINGS_MAX):
            before = self._seen = self._signature()
            found = [self._bytes(file) for file in self._files]
            if self._signature() == before:
                return self._parse(found)
        raise ValueError(f"{self._setting}: the files change faster than they can be read")

    def _bytes(self, file: Path) -> bytes:
        try:
            with file.open("rb") as opened:
                data = opened.read(BYTES_MAX + 1)
        except OSError as error:
            raise ValueError(
                f"{self._setting}: {file} cannot be read ({error.strerror}): check the path and its permissions"
            ) from error
        if len(data) > BYTES_MAX:
            raise ValueError(f"{self._setting}: {file} is larger than {BYTES_MAX} bytes: make it smaller")
        return data

    def _signature(self) -> _Seen:
        return tuple(_identity(file) for file in self._files)


def tell_refused(exposition: Exposition, watched: Mapping[str, Watched[Any]]) -> None:
    """Tell `exposition` which of these cannot be used, by what they are for."""

    async def read() -> list[Reading]:
        return [(REFUSED, (name,), int(one.is_refused())) for name, one in watched.items()]

    exposition.read((REFUSED,), read)


def _identity(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)  # noqa: PTH116 - Path.stat costs twice as much, at every handshake
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
