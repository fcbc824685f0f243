"""Rendered Kubernetes objects as pods that containers can be made of. Pure.

Only what the chart uses is known. Whatever else stands in an object is an UnknownError, so that no field of the chart
goes without being acted upon: a field is either read here, or named in `_MEANINGLESS` with what it would do in a cluster.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

_MEANINGLESS: Final = {
    "affects which node a pod runs on": {"topologySpreadConstraints", "nodeSelector", "tolerations"},
    "affects rollouts": {"strategy", "progressDeadlineSeconds", "podManagementPolicy", "updateStrategy", "minReadySeconds"},
    "affects tokens of service accounts and variables of services, which the lab has none of": {
        "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets",
    },
    "affects when images are pulled": {"imagePullPolicy"},
    "is a request, and no limit": {"requests"},
    "is how ownership of volumes is changed": {"fsGroupChangePolicy"},
}  # fmt: skip
_PASSED_OVER: Final = frozenset().union(*_MEANINGLESS.values())
_IGNORED_KINDS: Final = {"PodDisruptionBudget"}
"""Kinds that do nothing in a lab, where nothing is evicted."""

_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class UnknownError(ValueError):
    """The lab does not know a kind, a field or a value; teach it, or leave it out of the chart."""


class Probe(msgspec.Struct, frozen=True):
    """How a container is asked. `command` is run in it, or `path` fetched from `port`."""

    command: tuple[str, ...] = ()
    path: str = ""
    port: int = 0
    period_s: float = 10.0
    timeout_s: float = 1.0
    failures: int = 3


class File(msgspec.Struct, frozen=True):
    """A file of a volume, and its mode."""

    path: str
    data: bytes
    mode: int


class Mount(msgspec.Struct, frozen=True):
    """What a container sees at `at`: `files`; or the claim `claim`; or, where both are empty, a folder that lives as long as its pod."""

    at: str
    volume: str
    read_only: bool = False
    files: tuple[File, ...] = ()
    claim: str = ""


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One container of a pod; `options` are those of `podman run` that confine it."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    options: tuple[str, ...]
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that are alike: `names` are those of a StatefulSet or a Pod; a Deployment's are drawn when they are made."""

    owner: str
    kind: str
    replicas: int
    names: tuple[str, ...]
    labels: dict[str, str]
    annotations: dict[str, str]
    grace_s: float
    spec: dict[str, Any]


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A name for pods. `headless` gives each pod a name below it; `unready`: pods that are not ready count as well."""

    name: str
    selector: dict[str, str]
    headless: bool
    unready: bool


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A NetworkPolicy: for the pods that it selects, what may come in and go out; None where it says nothing of that direction."""

    name: str
    selector: dict[str, Any]
    ingress: list[dict[str, Any]] | None
    egress: list[dict[str, Any]] | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was rendered. `hooks` are the pods that Helm runs when it is asked to."""

    templates: list[Template]
    hooks: list[Template]
    services: list[Service]
    policies: list[Policy]
    secrets: dict[str, dict[str, bytes]]
    settings: dict[str, dict[str, bytes]]


def read(objects: Iterable[dict[str, Any]]) -> Manifest:
    """What these objects ask for. Raises UnknownError."""
    found = Manifest(templates=[], hooks=[], services=[], policies=[], secrets={}, settings={})
    for one in objects:
        kind, name, spec = (
            one["kind"],
            one["metadata"]["name"],
            Fields(one.get("spec", {}), f"{one['kind']} {one['metadata']['name']}"),
        )
        match kind:
            case "ConfigMap":
                found.settings[name] = {key: text.encode() for key, text in one["data"].items()}
            case "Secret":
                found.secrets[name] = {key: base64.b64decode(text) for key, text in one["data"].items()}
            case "Service":
                found.services.append(_service(name, spec))
            case "NetworkPolicy":
                found.policies.append(_policy(name, spec))
            case "Deployment" | "StatefulSet":
                found.templates.append(_template(kind, name, spec))
            case "Pod":
                labels, annotations = one["metadata"]["labels"], one["metadata"].get("annotations", {})
                pod = _of_pod(kind, name, 1, (name,), labels, annotations, one["spec"])
                (found.hooks if "helm.sh/hook" in annotations else found.templates).append(pod)
            case _ if kind not in _IGNORED_KINDS:
                raise UnknownError(f"{kind} {name}: the lab has no such kind")
    return found


class Fields:
    """A mapping of a manifest whose every key has to be taken, or be one of `_MEANINGLESS`."""

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self._left = {key: value for key, value in given.items() if key not in _PASSED_OVER}
        self._where = where

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        return self._left.pop(key, default)

    def within(self, key: str) -> Fields:
        """A mapping in it."""
        return Fields(self._left.pop(key, {}), f"{self._where}.{key}")

    def only(self, key: str, *allowed: Any) -> Any:
        """The value of a key, which is left out or one of `allowed`. Raises UnknownError."""
        value = self._left.pop(key, allowed[0])
        if value not in allowed:
            raise UnknownError(f"{self._where}.{key} is {value!r}: the lab knows {', '.join(map(repr, allowed))}")
        return value

    def done(self) -> None:
        """Raises UnknownError for what nobody has taken."""
        if self._left:
            raise UnknownError(f"{self._where}: the lab does not know {', '.join(sorted(self._left))}")


def _service(name: str, spec: Fields) -> Service:
    headless = spec.only("clusterIP", "", "None") == "None"
    for port in spec.take("ports"):
        if port["targetPort"] not in (port["port"], port["name"]):
            raise UnknownError(f"Service {name}: the lab translates no ports, and {port} has to be")
    found = Service(
        name=name,
        selector=spec.take("selector"),
        headless=headless,
        unready=spec.take("publishNotReadyAddresses", False),
    )
    spec.done()
    return found


def _policy(name: str, spec: Fields) -> Policy:
    kinds = spec.take("policyTypes")
    ingress, egress = spec.take("ingress", []), spec.take("egress", [])
    found = Policy(
        name=name,
        selector=spec.take("podSelector"),
        ingress=ingress if "Ingress" in kinds else None,
        egress=egress if "Egress" in kinds else None,
    )
    spec.done()
    return found


def _template(kind: str, name: str, spec: Fields) -> Template:
    replicas = spec.take("replicas", 1)
    spec.take("selector")
    template = spec.take("template")
    claims = spec.take("volumeClaimTemplates", [])
    names: tuple[str, ...] = ()
    if kind == "StatefulSet":
        spec.take("serviceName")
        names = tuple(f"{name}-{at}" for at in range(replicas))
    spec.done()
    meta = template["metadata"]
    volumes = [{"name": one["metadata"]["name"], "persistentVolumeClaim": {}} for one in claims]
    pod = template["spec"] | {"volumes": [*template["spec"].get("volumes", []), *volumes]}
    return _of_pod(kind, name, replicas, names, meta["labels"], meta.get("annotations", {}), pod)


def _of_pod(
    kind: str,
    owner: str,
    replicas: int,
    names: tuple[str, ...],
    labels: dict[str, str],
    annotations: dict[str, str],
    spec: dict[str, Any],
) -> Template:
    return Template(
        kind=kind,
        owner=owner,
        replicas=replicas,
        names=names,
        labels=labels,
        annotations=annotations,
        grace_s=spec.get("terminationGracePeriodSeconds", 30),
        spec=spec,
    )


def containers(manifest: Manifest, template: Template, pod: str) -> list[Container]:
    """The containers of the pod called `pod`. Raises UnknownError."""
    spec = Fields(template.spec, f"{template.kind} {template.owner}")
    spec.take("terminationGracePeriodSeconds")
    spec.take("activeDeadlineSeconds")
    spec.only("restartPolicy", "Always", "Never")
    security = spec.within("securityContext")
    if not security.take("runAsNonRoot"):
        raise UnknownError(f"{pod} may run as root")
    user, group, owner = security.take("runAsUser"), security.take("runAsGroup"), security.take("fsGroup")
    if not user == group == owner:
        raise UnknownError(f"{pod} has user {user}, group {group} and volumes of {owner}: the lab takes one for all")
    seccomp = security.take("seccompProfile")
    if seccomp != {"type": "RuntimeDefault"}:
        raise UnknownError(f"{pod} has the seccomp profile {seccomp}: the lab has the engine's own")
    security.done()
    volumes = {one["name"]: one for one in spec.take("volumes", [])}
    found = [
        _container(manifest, Fields(one, f"{pod}/{one['name']}"), pod, volumes, ("--user", f"{user}:{group}"))
        for one in spec.take("containers")
    ]
    spec.done()
    return found


def _container(
    manifest: Manifest, one: Fields, pod: str, volumes: Mapping[str, Any], options: tuple[str, ...]
) -> Container:
    ports = {port["name"]: port["containerPort"] for port in one.take("ports", [])}
    folder = one.take("workingDir", "")
    one.take("lifecycle")  # how NATS is told to end, which it also does by a signal
    found = Container(
        name=one.take("name"),
        image=one.take("image"),
        command=tuple(one.take("command")),
        environment=tuple(_environment(manifest, pod, one.take("env", []))),
        mounts=tuple(_mount(manifest, pod, Fields(mount, pod), volumes) for mount in one.take("volumeMounts", [])),
        options=(
            *options,
            *(["--workdir", folder] if folder else []),
            *_confined(one.within("securityContext")),
            *_limits(one.within("resources")),
        ),
        startup=_probe(one.within("startupProbe"), ports),
        readiness=_probe(one.within("readinessProbe"), ports),
        liveness=_probe(one.within("livenessProbe"), ports),
    )
    one.done()
    return found


def _confined(security: Fields) -> Iterator[str]:
    security.only("readOnlyRootFilesystem", True)
    yield from ("--read-only", "--read-only-tmpfs=false")
    security.only("allowPrivilegeEscalation", False)
    yield from ("--security-opt", "no-new-privileges")
    security.only("capabilities", {"drop": ["ALL"]})
    yield from ("--cap-drop", "all")
    security.done()


def _limits(resources: Fields) -> Iterator[str]:
    limits = resources.within("limits")
    yield from ("--memory", str(int(quantity(limits.take("memory", "4Gi")))))
    yield from ("--cpus", f"{quantity(limits.take('cpu', '4')):g}")
    limits.done()
    resources.done()


def quantity(text: str) -> float:
    """What Kubernetes writes as 400m, 2 or 256Mi."""
    text = str(text)
    if text.endswith("m"):
        return float(text[:-1]) / 1000
    number = text.rstrip("kKMGi")
    return float(number) * _UNITS[text[len(number) :]]


def _environment(manifest: Manifest, pod: str, given: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for one in given:
        match one:
            case {"name": name, "value": value}:
                yield name, value
            case {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}:
                yield name, pod
            case {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}:
                yield name, manifest.secrets[secret][key].decode()
            case _:
                raise UnknownError(f"{pod}: the lab does not know the variable {one}")


def _mount(manifest: Manifest, pod: str, mount: Fields, volumes: Mapping[str, Any]) -> Mount:
    name, at, read_only = mount.take("name"), mount.take("mountPath"), mount.take("readOnly", False)
    mount.done()
    match volumes[name]:
        case {"configMap": {"name": source}}:
            return Mount(at, name, read_only, tuple(_files(manifest.settings[source], 0o644)))
        case {"secret": {"secretName": source, **more}}:
            mode = more.get("defaultMode", 0o644)
            return Mount(at, name, read_only, tuple(_files(manifest.secrets[source], mode, more.get("items"))))
        case {"projected": {"defaultMode": mode, "sources": sources}}:
            return Mount(at, name, read_only, tuple(_projected(manifest, sources, mode)))
        case {"emptyDir": _}:
            return Mount(at, name, read_only)
        case {"persistentVolumeClaim": _}:
            return Mount(at, name, read_only, claim=f"{name}-{pod}")
    raise UnknownError(f"{pod}: the lab does not know the volume {volumes[name]}")


def _projected(manifest: Manifest, sources: Iterable[Mapping[str, Any]], mode: int) -> Iterator[File]:
    for source in sources:
        secret = source["secret"]
        yield from _files(manifest.secrets[secret["name"]], mode, secret["items"])


def _files(data: Mapping[str, bytes], mode: int, items: Iterable[Mapping[str, str]] | None = None) -> Iterator[File]:
    pairs = [(one["key"], one["path"]) for one in items] if items is not None else [(key, key) for key in data]
    yield from (File(path, data[key], mode) for key, path in pairs)


def _probe(given: Fields, ports: Mapping[str, int]) -> Probe | None:
    execute, fetch = given.within("exec"), given.within("httpGet")
    command, path = tuple(execute.take("command", ())), fetch.take("path", "")
    found = Probe(
        command=command,
        path=path,
        port=ports[fetch.take("port")] if path else 0,
        period_s=given.take("periodSeconds", 10),
        timeout_s=given.take("timeoutSeconds", 1),
        failures=given.take("failureThreshold", 3),
    )
    for one in (execute, fetch, given):
        one.done()
    return found if command or path else None
