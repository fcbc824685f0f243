"""Keeps the pods of a manifest running, as a cluster would: starts, probes, restarts and replaces them, and lets names lead to them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self, TypeVar

from tests.deploy.lab.engine import Engine, EngineError
from tests.deploy.lab.manifest import Container, Manifest, Mount, Probe, Service, Template, containers
from tests.deploy.lab.network import Fence

OWNER: Final = 10001
STARTING_PAUSE_S: Final = 0.2
"""Between two questions whether something has started: shorter than a cluster's, for a start is measured."""

LOOK_S: Final = 0.1
RESTART_S: Final = (0.0, 1.0, 5.0, 10.0)
"""How long a container that ends time and again stays away."""

T = TypeVar("T")


def until(look: Callable[[], T], what: str, timeout_s: float) -> T:
    """What `look` finds, once it finds something; raises TimeoutError after a while."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(LOOK_S)
    return found


class Pod:
    """One pod, which has one container. `started_s`: from the start of its container to the first probe that it passed, each time."""

    def __init__(self, lab: Lab, template: Template, name: str) -> None:
        self.name = name
        self.template = template
        self.address = ""
        self.ready = False
        self.restarts = 0
        self.started_s: list[float] = []
        self.failures: list[str] = []
        self._lab = lab
        self._process = 0
        self.begun = 0.0
        self._held = threading.Event()
        self._gone = threading.Event()
        (self.container,) = containers(lab.manifest, template, name)
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    @property
    def component(self) -> str:
        """What it is."""
        return self.template.labels.get("app.kubernetes.io/component", self.template.owner)

    def begin(self) -> None:
        """Make its container, and watch over it from now on."""
        self._lab.make(self.name, self.container)
        self._note_start()
        self._thread.start()

    def kill(self) -> None:
        """SIGKILL, and it is not started again before `release`."""
        self._held.set()
        self._lab.engine("kill", "--signal", "KILL", self._lab.engine.full(self.name))
        until(lambda: not self._alive(), f"the end of {self.name}", 10)

    def release(self) -> None:
        """Start it again."""
        self._held.clear()

    def restart(self) -> None:
        """SIGTERM, and whatever its service does then; it is started again."""
        before = len(self.started_s)
        self._lab.engine("kill", "--signal", "TERM", self._lab.engine.full(self.name))
        until(lambda: len(self.started_s) > before, f"{self.name} to be ready again", 180)

    def end(self, grace_s: float | None = None) -> None:
        """SIGTERM, SIGKILL after its grace, and it is gone."""
        self._gone.set()
        self._set_ready(ready=False)
        grace = self.template.grace_s if grace_s is None else grace_s
        self._lab.engine(
            "rm", "--force", "--time", str(int(grace)), self._lab.engine.full(self.name), timeout_s=grace + 60
        )
        self._thread.join(timeout=30)

    def cut(self) -> None:
        """Take it off the network; it knows nothing of it."""
        self._lab.engine("network", "disconnect", self._lab.engine.name, self._lab.engine.full(self.name))

    def heal(self) -> None:
        """Put it back, where it was."""
        self._lab.engine(
            "network", "connect", "--ip", self.address, self._lab.engine.name, self._lab.engine.full(self.name)
        )

    def log(self) -> str:
        """What it has printed in all of its lives."""
        code, said, wrong = self._lab.engine.tried("logs", self._lab.engine.full(self.name))
        return said + wrong if code == 0 else ""

    def _supervise(self) -> None:
        try:
            while not self._gone.is_set():
                self._until_started()
                self._while_it_lives()
                self._set_ready(ready=False)
                if not self._gone.is_set():
                    self._start_again()
        except EngineError as error:
            if not self._gone.is_set():
                self.failures.append(str(error))

    def _start_again(self) -> None:
        if not self._held.is_set():
            self._gone.wait(RESTART_S[min(self.restarts, len(RESTART_S) - 1)])
        while self._held.is_set() and not self._gone.is_set():
            time.sleep(LOOK_S)
        if not self._gone.is_set():
            self.restarts += 1
            self._lab.engine("start", self._lab.engine.full(self.name))
            self._note_start()

    def _note_start(self) -> None:
        self._process, self.address, self.begun = self._lab.engine.state(self.name)
        self._lab.name_all()

    def _alive(self) -> bool:
        try:
            with open(f"/proc/{self._process}/stat", encoding="utf-8") as stat:  # noqa: PTH123 - ten times a second
                return stat.read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def _until_started(self) -> None:
        for probe in (self.container.startup, self.container.readiness):
            while probe is not None and self._alive() and not self._gone.is_set() and not self._passes(probe):
                time.sleep(STARTING_PAUSE_S)
        if self._alive():
            self.started_s.append(time.time() - self.begun)
            self._set_ready(ready=True)

    def _while_it_lives(self) -> None:
        now = time.monotonic()
        due = {what: now + probe.period_s for what, probe in self._probes()}
        failed = dict.fromkeys(due, 0)
        while self._alive() and not self._gone.is_set():
            for what, probe in self._probes():
                if time.monotonic() < due[what]:
                    continue
                failed[what] = 0 if self._passes(probe) else failed[what] + 1
                due[what] = time.monotonic() + probe.period_s
                if what == "readiness":
                    self._set_ready(ready=failed[what] < probe.failures)
                elif failed[what] >= probe.failures and self._alive():
                    self.failures.append(
                        f"{self.name} did not pass its liveness probe {failed[what]} times and was killed"
                    )
                    self._lab.engine("kill", "--signal", "KILL", self._lab.engine.full(self.name))
            time.sleep(LOOK_S)

    def _probes(self) -> Iterator[tuple[str, Probe]]:
        for what, probe in (("readiness", self.container.readiness), ("liveness", self.container.liveness)):
            if probe is not None:
                yield what, probe

    def _passes(self, probe: Probe) -> bool:
        if probe.path:
            try:
                with urllib.request.urlopen(
                    f"http://{self.address}:{probe.port}{probe.path}", timeout=probe.timeout_s
                ) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False
        return (
            self._lab.engine.tried("exec", self._lab.engine.full(self.name), *probe.command, timeout_s=probe.timeout_s)[
                0
            ]
            == 0
        )

    def _set_ready(self, *, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._lab.name_all()


class Lab:
    """The pods of a manifest. `folder` holds their volumes; `namespace` is part of the names under which services are found."""

    def __init__(self, engine: Engine, folder: Path, namespace: str) -> None:
        self.engine = engine
        self.folder = folder
        self.namespace = namespace
        self.manifest = Manifest(templates=[], hooks=[], services=[], policies=[], secrets={}, settings={})
        self.pods: dict[str, Pod] = {}
        self.added: dict[str, tuple[str, dict[str, str]]] = {}
        """Containers that no manifest has: their addresses and labels."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._hosts = folder / "hosts"
        self._hosts.touch(mode=0o644)
        self._resolver = folder / "resolv.conf"
        self._resolver.write_text(
            "nameserver 127.0.0.1\n", encoding="utf-8"
        )  # nobody: what is in no file has no address
        self._fence = Fence()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in list(self.pods.values()):
            with contextlib.suppress(EngineError):
                pod.end(grace_s=0)

    def install(self, manifest: Manifest) -> None:
        """Have everything that the manifest asks for, besides what there is."""
        self.manifest = Manifest(
            templates=[*self.manifest.templates, *manifest.templates],
            hooks=[*self.manifest.hooks, *manifest.hooks],
            services=[*self.manifest.services, *manifest.services],
            policies=[*self.manifest.policies, *manifest.policies],
            secrets=self.manifest.secrets | manifest.secrets,
            settings=self.manifest.settings | manifest.settings,
        )
        for template in manifest.templates:
            for at in range(template.replicas):
                self.create(template, template.names[at] if template.names else "")

    def create(self, template: Template, name: str = "") -> Pod:
        """A pod, under a fresh name unless it has one."""
        pod = Pod(self, template, name or f"{template.owner}-{next(self._numbers):05d}")
        self.pods[pod.name] = pod
        pod.begin()
        return pod

    def replace(self, pod: Pod, grace_s: float | None = None) -> Pod:
        """Delete a pod; there is another one at once."""
        del self.pods[pod.name]
        ending = threading.Thread(target=pod.end, args=[grace_s])
        ending.start()
        successor = self.create(pod.template)
        ending.join()
        return successor

    def of(self, component: str) -> list[Pod]:
        """The pods of a component, as they were made."""
        return [pod for pod in self.pods.values() if pod.component == component]

    def await_ready(self, timeout_s: float) -> None:
        """Until every pod is ready. Raises TimeoutError."""
        try:
            until(lambda: all(pod.ready for pod in list(self.pods.values())), "all pods to be ready", timeout_s)
        except TimeoutError as error:
            left = [pod for pod in self.pods.values() if not pod.ready]
            said = "\n".join(f"{pod.name} ({pod.restarts} restarts): {pod.log()[-1500:]}" for pod in left)
            raise TimeoutError(f"{error}; these are not: {said}") from error

    def make(self, name: str, one: Container) -> None:
        """Start a container as a pod says."""
        variables = [f"--env={key}={value}" for key, value in one.environment]
        volumes = [
            f"--volume={self._place(name, mount)}:{mount.at}{':ro' if mount.read_only else ''}" for mount in one.mounts
        ]
        self.engine.run(name, *self.names_of(name), *one.options, *variables, *volumes, one.image, *one.command)

    def names_of(self, name: str) -> list[str]:
        """Options by which a container finds the others."""
        return [
            "--hostname",
            name,
            "--no-hosts",
            f"--volume={self._hosts}:/etc/hosts:ro",
            f"--volume={self._resolver}:/etc/resolv.conf:ro",
        ]

    def run_hooks(self) -> Iterator[tuple[str, int, str]]:
        """Run the pods that Helm runs when it is asked to; of each container its name, exit code and output."""
        for template in self.manifest.hooks:
            for one in containers(self.manifest, template, template.owner):
                name = f"{template.owner}-{one.name}"
                self.make(name, one)
                self.added[name] = self.engine.state(name)[1], template.labels
                self.name_all()
                code = int(self.engine("wait", self.engine.full(name)))
                _, said, wrong = self.engine.tried("logs", self.engine.full(name))
                self.engine("rm", "--force", self.engine.full(name))
                del self.added[name]
                yield name, code, said + wrong

    def name_all(self) -> None:
        """Let names lead where they have to, and nothing go where it may not."""
        with self._lock:
            pods = [pod for pod in list(self.pods.values()) if pod.address]
            lines = ["127.0.0.1 localhost", "::1 localhost"]
            for service in self.manifest.services:
                lines += self._lines(service, pods)
            lines += [f"{address} {name}" for name, (address, _) in self.added.items() if address]
            text = "\n".join([*lines, ""])
            with self._hosts.open("r+", encoding="utf-8") as file:
                file.write(text)  # over what stood there: containers see this very file
                file.truncate()
            known = [(pod.address, pod.template.labels) for pod in pods] + [
                one for one in self.added.values() if one[0]
            ]
            self._fence.put(self.manifest.policies, known)

    def _lines(self, service: Service, pods: list[Pod]) -> Iterator[str]:
        chosen = [pod for pod in pods if service.selector.items() <= pod.template.labels.items()]
        for pod in chosen:
            if not pod.ready and not service.unready:
                continue
            for name in self._called(service.name):
                yield f"{pod.address} {name}"
                if service.headless:
                    yield f"{pod.address} {pod.name}.{name}"

    def _called(self, service: str) -> list[str]:
        return [
            f"{service}.{self.namespace}.svc",
            service,
            f"{service}.{self.namespace}",
            f"{service}.{self.namespace}.svc.cluster.local",
        ]

    def _place(self, name: str, mount: Mount) -> Path:
        """The folder behind a mount. Files are links into a folder that can be exchanged, as a kubelet has them."""
        if mount.claim:
            return _owned(self.folder / "claims" / mount.claim, 0o2770)
        place = self.folder / "pods" / name / mount.volume
        if not mount.files:
            return _owned(place, 0o2777)
        held = place / "..data.1"
        shutil.rmtree(place, ignore_errors=True)
        held.mkdir(parents=True)
        (place / "..data").symlink_to(held.name)
        for file in mount.files:
            (held / file.path).write_bytes(file.data)
            os.chown(held / file.path, 0, OWNER)
            (held / file.path).chmod(file.mode | (file.mode & 0o400) >> 3)  # the group of volumes reads what root reads
            (place / file.path).symlink_to(f"..data/{file.path}")
        return place


def _owned(place: Path, mode: int) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    os.chown(place, 0, OWNER)
    place.chmod(mode)
    return place
