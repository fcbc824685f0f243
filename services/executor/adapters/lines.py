"""Cutting what a tool prints into lines, and reading lines that are JSON; from bytes that may be anything.

Invariants: memory is bounded by LINE_BYTES_MAX whatever arrives; nothing that arrives raises; what could not be read is
counted, so that it can be told.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
"""A longer line is dropped as a whole; the longest that tools are known to print is a result with its final text."""

_ANSI: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_HALF_PAIR: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_AROUND: Final = b" \t\r\0"

_T = TypeVar("_T")


class Lines:
    """Cuts chunks into lines. `dropped` counts the lines that were too long, and were not given out."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self.dropped = 0
        self._most = line_bytes_max
        self._parts: list[bytes] = []
        self._held = 0
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their ends."""
        *whole, rest = chunk.split(b"\n")
        if whole and (self._parts or self._skipping):
            self._hold(whole[0])
            first = self.rest()
            whole[:1] = [first] if first else []
        self._hold(rest)
        if len(chunk) > self._most:
            kept = [line for line in whole if len(line) <= self._most]
            self.dropped += len(whole) - len(kept)
            return kept
        return whole

    def rest(self) -> bytes:
        """What came after the last line end; it is not kept any longer."""
        held = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self._skipping = False
        return held

    def _hold(self, part: bytes) -> None:
        if not part or self._skipping:
            return
        self._held += len(part)
        if self._held > self._most:
            self._parts.clear()
            self._skipping = True
            self.dropped += 1
        else:
            self._parts.append(part)


def plain(line: bytes) -> bytes:
    """The line without terminal sequences and control characters, as valid UTF-8."""
    return _CONTROL.sub(b"", _ANSI.sub(b"", line)).decode("utf-8", "replace").encode()


def mended(line: bytes) -> bytes:
    """JSON without what JSON does not allow: raw control characters, bytes that are no UTF-8, halves of pairs."""
    return _HALF_PAIR.sub(rb"\\ufffd", plain(line).strip())


def decoded(line: bytes, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """What the line holds; None when it is not of that form, after an attempt to mend it."""
    try:
        return decoder.decode(line)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        try:
            return decoder.decode(mended(line))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None


class _Kind(msgspec.Struct, frozen=True):
    type: str = ""


_kinds = msgspec.json.Decoder(_Kind)


class Events:
    """Reads lines of JSON that carry their kind in `type`, and hands those of the kinds it knows to their readers.

    Unknown kinds are passed over. `unreadable` counts lines that begin like an event and are none; `seen` counts events.
    `other` is told every line that does not begin like one, where somebody wants them.
    """

    def __init__(
        self, readers: Mapping[str, Callable[[bytes], bool]], other: Callable[[bytes], None] | None = None
    ) -> None:
        """A reader returns False for an event that is not of the form it knows."""
        self.seen = 0
        self.unreadable = 0
        self._readers = readers
        self._other = other
        self._lines = Lines()

    @property
    def dropped(self) -> int:
        """Lines that were too long."""
        return self._lines.dropped

    def feed(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk):
            self._take(line)

    def finish(self) -> None:
        """The end: what is left is a line as well, or the beginning of one."""
        self._take(self._lines.rest())

    @property
    def complaint(self) -> str:
        """What could not be read, in words; nothing when all could."""
        said = []
        if self.unreadable:
            said.append(f"{self.unreadable} of its lines could not be read")
        if self.dropped:
            said.append(f"{self.dropped} of its lines were longer than {LINE_BYTES_MAX} bytes")
        return " and ".join(said)

    def _take(self, line: bytes) -> None:
        line = line.strip(_AROUND)
        if not line:
            return
        if not line.startswith(b"{"):
            bare = plain(line).strip()
            if not bare.startswith(b"{"):
                if self._other is not None:
                    self._other(bare)
                return
            line = bare
        kind = decoded(line, _kinds)
        if kind is None:
            self.unreadable += 1
            return
        self.seen += 1
        reader = self._readers.get(kind.type)
        if reader is not None and not reader(line):
            self.unreadable += 1
