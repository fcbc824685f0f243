"""Follows deploy/README.md literally: `python -m tests.deploy.readme`, part of `make deploy-test`.

Every line of its code blocks is run by bash, in order, in this checkout. `helm` renders with the real one, and what comes out is
put up in containers (`tests.deploy.lab`); `kubectl` has the few verbs that the README needs, on these. Ends with 1 when a
command fails or no run is finished at the end, and with 2 where there is no podman or no root.
"""

# ruff: noqa: T201 - it prints what it does
from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import shlex
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from tests.deploy.chart import helm
from tests.deploy.lab.engine import Engine, MissingError, needed, own_network
from tests.deploy.lab.kubelet import Lab, until
from tests.deploy.lab.manifest import read
from tests.deploy.shipped import ROOT

README: Final = ROOT / "deploy" / "README.md"
COMMANDS_MAX: Final = 10
MADE: Final = ("swell.token", "swell-ca.crt")
"""Files that the commands leave here."""

WAIT_S: Final = 180.0
FINISHED: Final = "completed: all 3 workstreams completed"
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION: Final = re.compile(r"^## ", re.MULTILINE)

SHIM: Final = """\
#!{python}
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({at!r})
asked.sendall(json.dumps([{program!r}, *sys.argv[1:]]).encode() + b"\\n")
for line in asked.makefile():
    said = json.loads(line)
    sys.stdout.write(said.get("out", ""))
    sys.stdout.flush()
    sys.stderr.write(said.get("err", ""))
    if "code" in said:
        os._exit(said["code"])
"""


def sections() -> list[list[str]]:
    """The commands of each section of the README that has some."""
    text = README.read_text(encoding="utf-8")
    found = [
        [line for block in _BLOCK.findall(part) for line in block.splitlines() if line.strip()]
        for part in _SECTION.split(text)
    ]
    return [commands for commands in found if commands]


def main() -> int:
    """Follow it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.readme", description="deploy/README.md, followed.")
    parser.parse_args()
    try:
        needed()
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    with own_network("tests.deploy.readme", sys.argv[1:]) as code:
        if code is not None:
            return code
        with (
            tempfile.TemporaryDirectory(prefix="swell-readme-") as folder,
            Engine(f"swell-lab-{os.getpid()}") as engine,
        ):
            Path(folder).chmod(0o755)
            with contextlib.closing(Cluster(engine, Path(folder))) as cluster:
                return _follow(cluster, Path(folder))


def _follow(cluster: Cluster, folder: Path) -> int:
    programs = folder / "bin"
    programs.mkdir()
    with _listening(folder / "asked", cluster):
        for program in ("helm", "kubectl"):
            shim = programs / program
            shim.write_text(
                SHIM.format(python=sys.executable, at=str(folder / "asked"), program=program), encoding="utf-8"
            )
            shim.chmod(0o755)
        commands = [command for section in sections() for command in section]
        script = "".join(f"echo; echo {shlex.quote('$ ' + command)}\n{command}\n" for command in commands)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        began = time.monotonic()
        script += "kill $(jobs -p)\n"  # port-forwards; who follows the README has a terminal to close
        running = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=ROOT, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert running.stdout is not None
        said = []
        try:
            for line in running.stdout:
                print(f"    {line}", end="", flush=True)
                said.append(line)
        finally:
            for name in MADE:
                (ROOT / name).unlink(missing_ok=True)
    code = running.wait()
    shown = sum(FINISHED in line for line in said)
    print(
        f"\n{len(commands)} commands, {len(sections()[0])} of them to a finished run, in {time.monotonic() - began:.0f} s; the last ends with {code}"
    )
    if code != 0 or shown < 2:
        print("WRONG a command failed" if code else "WRONG no run is shown as finished")
        return 1
    return 0


class Told(msgspec.Struct):
    """What a program says, and how it ends; `keeps`: not before it is killed."""

    code: int = 0
    out: str = ""
    err: str = ""
    keeps: bool = False


class Cluster:
    """What `helm` and `kubectl` do, on a lab."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._lab: Lab | None = None
        self._forwards: list[socketserver.TCPServer] = []

    def close(self) -> None:
        """End everything."""
        for forward in self._forwards:
            forward.shutdown()
        if self._lab is not None:
            self._lab.__exit__()

    def ask(self, command: Sequence[str]) -> Told:
        """Carry out one call. What is not known fails, so that the README says nothing that is not tried."""
        verbs: dict[str, Callable[[list[str]], Told]] = {
            "helm install": self._install, "helm uninstall": self._uninstall, "kubectl apply": self._apply,
            "kubectl delete": self._delete, "kubectl wait": self._wait, "kubectl exec": self._exec, "kubectl get": self._get,
            "kubectl port-forward": self._forward,
        }  # fmt: skip
        program, *rest = command
        if program == "kubectl":
            match rest:
                case ["-n", namespace, *rest] if self._lab is not None and namespace == self._lab.namespace:
                    pass
                case _:
                    return Told(1, err=f"kubectl {shlex.join(rest)}: no such namespace\n")
        carry_out = verbs.get(f"{program} {rest[0]}" if rest else program)
        if carry_out is None:
            return Told(64, err=f"nobody has taught the lab: {shlex.join(command)}\n")
        try:
            return carry_out(rest[1:])
        except Exception as error:  # noqa: BLE001 - whatever it is, the command has failed
            return Told(1, err=f"{shlex.join(command)}: {type(error).__name__}: {error}\n")

    @property
    def lab(self) -> Lab:
        """The lab that has been put up."""
        assert self._lab is not None
        return self._lab

    def _install(self, arguments: list[str]) -> Told:
        parser = argparse.ArgumentParser(exit_on_error=False)
        for name in ("release", "chart"):
            parser.add_argument(name)
        parser.add_argument("-n", required=True)
        parser.add_argument("-f", required=True)
        for name in ("--create-namespace", "--wait"):
            parser.add_argument(name, action="store_true", required=True)
        given = parser.parse_args(arguments)
        code, output = helm("template", given.release, given.chart, "--namespace", given.n, "--values", given.f)
        if code != 0:
            return Told(code, err=output)
        (self._folder / "lab").mkdir()
        self._lab = Lab(self._engine, self._folder / "lab", given.n)
        self._lab.install(read(one for one in yaml.safe_load_all(output) if one))
        self._lab.await_ready(WAIT_S)
        started = ", ".join(f"{pod.name} after {pod.started_s[-1]:.1f} s" for pod in self._lab.pods.values())
        return Told(out=f"NAME: {given.release}\nSTATUS: deployed\n(ready: {started})\n")

    def _uninstall(self, arguments: list[str]) -> Told:
        (release,) = arguments[:1]
        for pod in list(self.lab.pods.values()):
            pod.end(grace_s=5)
        return Told(out=f'release "{release}" uninstalled\n')

    def _apply(self, arguments: list[str]) -> Told:
        objects = _objects(arguments)
        self.lab.install(read(objects))
        return Told(out="".join(f"{one['kind'].lower()}/{one['metadata']['name']} created\n" for one in objects))

    def _delete(self, arguments: list[str]) -> Told:
        objects = _objects(arguments)
        for one in objects:
            if pod := self.lab.pods.pop(one["metadata"]["name"], None):
                pod.end()
        return Told(out="".join(f'{one["kind"].lower()} "{one["metadata"]["name"]}" deleted\n' for one in objects))

    def _wait(self, arguments: list[str]) -> Told:
        condition, name = arguments
        assert condition == "--for=condition=Ready"
        pod = self.lab.pods[name.removeprefix("pod/")]
        until(lambda: pod.ready, f"{name} to be ready", 30)  # as long as kubectl waits
        return Told(out=f"{name} condition met\n")

    def _exec(self, arguments: list[str]) -> Told:
        pod, dashes, *command = arguments
        assert dashes == "--"
        code, said, wrong = self._engine.tried(
            "exec", self._engine.full(self.lab.pods[pod].name), *command, timeout_s=WAIT_S
        )
        return Told(code, said, wrong)

    def _get(self, arguments: list[str]) -> Told:
        kind, name, option, path = arguments
        assert (kind, option) == ("secret", "-o")
        found = re.fullmatch(r"jsonpath=\{\.data\.(.+)\}", path)
        assert found is not None
        return Told(out=base64.b64encode(self.lab.manifest.secrets[name][found[1].replace("\\.", ".")]).decode())

    def _forward(self, arguments: list[str]) -> Told:
        service, port = arguments
        (chosen,) = (one for one in self.lab.manifest.services if one.name == service.removeprefix("service/"))
        pod = next(pod for pod in self.lab.pods.values() if chosen.selector.items() <= pod.template.labels.items())
        self._forwards.append(_forwarding(int(port), (pod.address, int(port))))
        return Told(out=f"Forwarding from 127.0.0.1:{port} -> {port}\n", keeps=True)


def _objects(arguments: Sequence[str]) -> list[dict[str, Any]]:
    option, file = arguments
    assert option == "-f"
    return [one for one in yaml.safe_load_all((ROOT / file).read_text(encoding="utf-8")) if one]


def _forwarding(port: int, to: tuple[str, int]) -> socketserver.TCPServer:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(to, timeout=10) as there:
                there.settimeout(None)
                back = threading.Thread(target=_copy, args=[there, self.request], daemon=True)
                back.start()
                _copy(self.request, there)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _listening(at: Path, cluster: Cluster) -> Iterator[None]:
    """Answer the programs on PATH, until the block ends."""
    over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            told = cluster.ask(json.loads(self.rfile.readline()))
            said: dict[str, object] = {"out": told.out, "err": told.err}
            self.wfile.write(json.dumps(said if told.keeps else said | {"code": told.code}).encode() + b"\n")
            self.wfile.flush()
            if told.keeps:
                over.wait()

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    server = Server(str(at), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
