"""Blocks of TCP ports for attempts, so that servers which tests start do not get into each other's way.

Every block has PORTS_EACH ports and begins at a multiple of that, so blocks of executors with other settings are the same
or disjoint. A block is taken by binding an abstract Unix socket of its name. The kernel lets one process of a network
namespace do that, whichever user's it is, and frees the name when the process ends: no file is left, and executors in
namespaces of their own share nothing.

What nobody takes this way (any other program) may sit on a port of a block all the same.
"""

import errno
import socket
from typing import Final

import structlog

log = structlog.get_logger()

PORTS_EACH: Final = 20
"""Ports of one block."""


class PortBlocks:
    """The blocks between two ports, as far as no other process has taken them; one that was taken once stays ours."""

    def __init__(self, first: int, last: int) -> None:
        """`first` and `last` are the lowest and the highest port that may be handed out; `first` 0 hands out none."""
        start = -(-first // PORTS_EACH) * PORTS_EACH
        self._starts = iter(range(start, last + 2 - PORTS_EACH, PORTS_EACH) if first else ())
        self._free: list[range] = []
        self._held: list[socket.socket] = []
        self._told = False

    def take(self) -> range | None:
        """A block that nobody else has; None when there is none left."""
        if self._free:
            return self._free.pop()
        for start in self._starts:
            if self._is_ours(start):
                return range(start, start + PORTS_EACH)
        if self._held and not self._told:
            self._told = True
            log.warning("executor.no_ports", remedy="widen port_first and port_last: attempts go without ports")
        return None

    def give_back(self, block: range | None) -> None:
        """The block may be handed out again."""
        if block is not None:
            self._free.append(block)

    def close(self) -> None:
        """Leave all blocks to others."""
        for held in self._held:
            held.close()
        self._held.clear()
        self._free.clear()

    def _is_ours(self, start: int) -> bool:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0swell-ports-{start}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                log.warning("executor.ports_not_taken", port=start, error=str(error))
            return False
        self._held.append(claim)
        return True
