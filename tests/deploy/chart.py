"""Swell's chart, rendered: by which values it is looked at, and what comes out."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from tests.deploy.shipped import ROOT
from tests.deploy.tools import fetched

CHART: Final = ROOT / "deploy" / "helm" / "swell"
RELEASE: Final = "swell"
NAMESPACE: Final = "place"
TIMEOUT_S: Final = 60
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_EXTERNAL: Final = {
    "mode": "external",
    "external": {
        "url": "tls://nats.example:4222",
        "secrets": {"scheduler": "n-s", "ledger": "n-l", "executors": {"default": "n-e"}},
    },
}

CASES: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "external": {"nats": _EXTERNAL},
    "existing": {
        "tls": {"mode": "existing", "existing": {"scheduler": "tls-s", "ledger": "tls-l", "nats": "tls-n"}},
        "auth": {"mode": "existing", "principalsSecret": "who"},
    },
    "cert-manager": {"tls": {"mode": "certManager", "certManager": {"issuer": {"name": "ca"}}}},
    "client-certificates": {"tls": {"clientCertificates": "required"}},
    "oidc": {
        "auth": {
            "mode": "existing",
            "limits": {"requests_per_second": 50, "burst": 200},
            "oidc": {"issuer": "https://id.example", "audience": "swell", "keysUrl": "https://id.example/keys"},
        },
        "networkPolicy": {"serviceEgress": [{"ports": [{"protocol": "TCP", "port": 443}]}]},
    },
    "hpa": {"poolDefaults": {"autoscaling": {"mode": "hpa", "min": 2, "max": 5}}},
    "keda": {
        "pools": {"default": {"autoscaling": {"mode": "keda"}}, "gpu": {"replicas": 1, "slots": 1}},
        "monitoring": {"prometheusUrl": "http://prometheus.example:9090"},
    },
    "pools": {
        "pools": {
            "default": None,
            "tools": {
                "image": {"repository": "swell-tools", "tag": "1"},
                "sandbox": "userNamespaces",
                "seccompProfile": "profiles/swell.json",
                "storage": {"className": "fast"},
                "secrets": [{"secret": "keys", "path": "/run/secrets/keys"}],
                "egress": [
                    {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"protocol": "TCP", "port": 443}]}
                ],
                "env": {"HTTPS_PROXY": "http://proxy.example:3128"},
                "files": {"prices.toml": 'fallback = "none"\n'},
                "settings": {"prices_file": "/etc/swell/prices.toml", "sandbox_hidden": ["/run/secrets/keys"]},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "tools", "operator": "Exists"}],
            },
        },
    },
    "settings": {
        "scheduler": {
            "settings": {
                "max_workers": 12,
                "submission_bytes_max": 134217728,
                "gates_file": "/etc/swell/gates.yaml",
                "tool_breaker": {"tools": {"aider": {"failures": 3, "open_s": 300.5}}},
                "shared": {"fleet_usd_per_day": 50.5, "rates": {"anthropic/x": {"attempts_per_min": 30}}},
                "notifications": {"command": ["/bin/tell", "<&>"]},
            },
            "files": {"gates.yaml": "gates: {}\n"},
        },
        "ledger": {"replicas": 3, "settings": {"archive": "/var/lib/swell/archive", "archive_after_days": 30}},
    },
    "monitoring": {
        "monitoring": {"podMonitors": True, "rules": True, "dashboards": True, "labels": {"release": "prometheus"}}
    },
    "closed-off": {
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
            "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
            "dns": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        },
    },
    "no-network-policies": {"networkPolicy": {"enabled": False}},
    "image": {"image": {"repository": "example/swell", "digest": "sha256:" + "a" * 64}, "imagePullSecrets": ["pull"]},
}
PROFILES: Final = ("trial", "production")


class Pod(msgspec.Struct, frozen=True):
    """Pods that an object stands for: how many at most, their labels and their spec."""

    owner: str
    most: int
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


class Rendered(msgspec.Struct, frozen=True):
    """What a case comes out as; `values` are those that were given."""

    objects: list[dict[str, Any]]
    values: dict[str, Any]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """The objects of these kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        """One of them."""
        (found,) = (one for one in self.of(kind) if one["metadata"]["name"] == name)
        return found

    @property
    def pods(self) -> list[Pod]:
        """Everything that runs."""
        return list(self._pods())

    def _pods(self) -> Iterator[Pod]:
        scaled = {
            one["spec"]["scaleTargetRef"]["name"]: one["spec"]
            for one in self.of("HorizontalPodAutoscaler", "ScaledObject")
        }
        for one in self.objects:
            name = one["metadata"]["name"]
            if one["kind"] == "Pod":
                yield Pod(name, 1, one["metadata"]["labels"], one["spec"])
            elif one["kind"] in ("Deployment", "StatefulSet"):
                scaling = scaled.get(name, {})
                most = scaling.get("maxReplicas") or scaling.get("maxReplicaCount") or one["spec"].get("replicas")
                template = one["spec"]["template"]
                yield Pod(name, most, template["metadata"]["labels"], template["spec"])


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> tuple[int, str]:
    """Exit code and output of helm with `values` in a file of its own; it finds no cluster and no settings of anybody's."""
    tools = fetched()
    assert tools is not None
    with tempfile.TemporaryDirectory() as folder:
        command = [str(tools.helm), *arguments]
        if values is not None:
            file = Path(folder) / "values.yaml"
            file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
            command += ["--values", str(file)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"HOME": folder, "PATH": "/nowhere"},
        )
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


@functools.cache
def rendered(case: str) -> Rendered:
    """A case, or a profile that is shipped."""
    profile = CHART / f"values-{case}.yaml"
    values = yaml.safe_load(profile.read_text(encoding="utf-8")) if case in PROFILES else CASES[case]
    return render(values)


def render(values: Mapping[str, Any], release: str = RELEASE) -> Rendered:
    """The chart with these values; AssertionError with what helm says."""
    code, output = helm("template", release, str(CHART), "--namespace", NAMESPACE, values=values)
    assert code == 0, output
    objects = [one for one in yaml.load_all(output, Loader=_Loader) if one]
    return Rendered(objects, dict(values))
