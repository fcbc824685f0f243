"""podman and a network of its own: `ip netns` holds the bridge and its rules, so the machine's own network stays as it is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Self

TIMEOUT_S: Final = 120
INSIDE: Final = "SWELL_LAB_NETWORK"
"""The variable that names the network namespace that a process runs in."""


class EngineError(RuntimeError):
    """podman or the network cannot do what was asked; the text says what and why."""


class MissingError(RuntimeError):
    """This machine cannot have a lab; the text says what to do."""


def needed() -> None:
    """Raises MissingError."""
    if os.geteuid() != 0:
        raise MissingError("containers on a network of their own need root: run this as root")
    for program, package in (
        ("podman", "podman"),
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("git", "git"),
        ("iptables", "iptables"),
    ):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is not on PATH: install it (Debian: apt-get install {package})")


@contextlib.contextmanager
def own_network(module: str, arguments: Sequence[str]) -> Iterator[int | None]:
    """Run `python -m module` again in a network namespace of its own; the block gets its exit code, or None when it is in it already."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is taken down
    if os.environ.get(INSIDE):
        yield None
        return
    name = f"swell-lab-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=TIMEOUT_S)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, timeout=TIMEOUT_S)
        again = ["nsenter", f"--net=/run/netns/{name}", sys.executable, "-m", module, *arguments]
        yield _waited_for(subprocess.Popen(again, env=os.environ | {INSIDE: name}))
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=TIMEOUT_S)


def _waited_for(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Whoever ends this ends it as well, and waits until it has taken everything down; Ctrl-C reaches both."""
    try:
        return process.wait()
    except SystemExit:
        process.terminate()
        raise
    finally:
        process.wait(timeout=TIMEOUT_S)


class Engine:
    """podman, for containers on one network called `name`; each of them has a name that begins with it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Self:
        self("network", "create", "--disable-dns", self.name)
        return self

    def __exit__(self, *_: object) -> None:
        left = self("ps", "--all", "--quiet", "--filter", f"name=^{self.name}-").split()
        if left:
            self("rm", "--force", "--time", "0", "--volumes", *left)
        self("network", "rm", "--force", self.name)

    def __call__(self, *arguments: str, timeout_s: float = TIMEOUT_S) -> str:
        """What podman prints. Raises EngineError when it ends with another code than 0."""
        code, said, wrong = self.tried(*arguments, timeout_s=timeout_s)
        if code != 0:
            raise EngineError(f"podman {' '.join(arguments[:4])} … ends with {code}: {wrong.strip()[-800:]}")
        return said

    def tried(self, *arguments: str, timeout_s: float = TIMEOUT_S, told: str | None = None) -> tuple[int, str, str]:
        """Exit code and both outputs; 124 when it took too long."""
        try:
            done = subprocess.run(
                ["podman", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, input=told
            )
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {timeout_s:g} s"
        return done.returncode, done.stdout, done.stderr

    def full(self, name: str) -> str:
        """The name of a container."""
        return f"{self.name}-{name}"

    def run(self, name: str, *arguments: str) -> None:
        """Start a container in the background."""
        self("run", "--detach", "--name", self.full(name), "--network", self.name, *arguments)

    def state(self, name: str) -> tuple[int, str, float]:
        """Process, address and time of the start of a container (seconds since 1970)."""
        (found,) = json.loads(self("inspect", self.full(name)))
        networks: dict[str, Any] = found["NetworkSettings"]["Networks"] or {}
        return (
            found["State"]["Pid"],
            networks.get(self.name, {}).get("IPAddress", ""),
            datetime.fromisoformat(found["State"]["StartedAt"]).timestamp(),
        )
