"""The chart by every profile and toggle: valid for Kubernetes, closed by default, and with settings that the services take."""

import base64
import hashlib
import ipaddress
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import grpc
import jsonschema
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from deploy.generate import SERVICES, stale
from services.config import load
from tests.deploy.chart import CASES, CHART, NAMESPACE, PROFILES, RELEASE, Rendered, helm, render, rendered
from tests.deploy.shipped import DASHBOARDS, ROOT, RULES

EVERY = [*CASES, *PROFILES]
OLDEST, NEWEST = "v1.29.0", "v1.37.0"
"""The oldest cluster that Chart.yaml admits, and the newest that there are schemas of."""

CRDS = {
    kind: json.loads((Path(__file__).parent / "crds" / f"{kind.lower()}.json").read_text(encoding="utf-8"))
    for kind in ("Certificate", "PodMonitor", "PrometheusRule", "ScaledObject")
}
pytestmark = pytest.mark.usefixtures("tools")


@pytest.fixture(scope="module", autouse=True)
def _at_once(tools):
    """Render what the tests look at, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rendered, EVERY))


# Valid


@cache
def strict_schemas(archive: Path, version: str) -> tuple[zipfile.ZipFile, str, Registry]:
    """Where the schemas of a version stand, and what they share, looked through once."""
    files = zipfile.ZipFile(archive)
    folder = f"kubernetes_validate/kubernetes-json-schema/{version}-local-strict"
    shared = Resource.from_contents(json.loads(files.read(f"{folder}/_definitions.json")), DRAFT202012)
    return files, folder, Registry().with_resource("_definitions.json", shared).crawl()


@cache
def strict(archive: Path, version: str, name: str) -> jsonschema.Draft202012Validator:
    files, folder, registry = strict_schemas(archive, version)
    schema = Resource.from_contents(json.loads(files.read(f"{folder}/{name}")), DRAFT202012)
    return jsonschema.Draft202012Validator(schema.contents, registry=registry.with_resource("", schema).crawl())


def wrong_in(one: dict, archive: Path, version: str) -> list[str]:
    """What the schema of its kind does not have, or wants otherwise."""
    return wrong_in_text(json.dumps(one), archive, version)


@cache
def wrong_in_text(text: str, archive: Path, version: str) -> list[str]:
    one = json.loads(text)
    if one["kind"] in CRDS:
        validator = jsonschema.Draft202012Validator(CRDS[one["kind"]])
    else:
        group, _, number = one["apiVersion"].rpartition("/")
        prefix = f"{group.partition('.')[0]}-" if group else ""
        validator = strict(archive, version, f"{one['kind'].lower()}-{prefix}{number}.json")
    return [
        f"{one['kind']} {one['metadata']['name']}: {error.json_path}: {error.message}"
        for error in validator.iter_errors(one)
    ]


@pytest.mark.parametrize(
    ("case", "version"),
    [*((case, NEWEST) for case in EVERY), *((case, OLDEST) for case in ("default", "hpa", "pools", *PROFILES))],
)
def test_every_object_is_valid(case, version, tools):
    """Strictly: a field that its kind does not have is refused, of custom resources too."""
    assert [wrong for one in rendered(case).objects for wrong in wrong_in(one, tools.schemas, version)] == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_an_unknown_field_is_found(version, tools):
    """The check can fail: of a kind of Kubernetes, and of each custom one."""
    objects = [one for case in ("monitoring", "keda", "cert-manager") for one in rendered(case).objects]
    for kind in ("Deployment", *CRDS):
        found = next(one for one in objects if one["kind"] == kind)
        assert wrong_in(found | {"spec": found["spec"] | {"replicaz": 1}}, tools.schemas, version) != []


@pytest.mark.parametrize("profile", ["", *PROFILES])
def test_helm_finds_nothing_to_mend(profile):
    values = yaml.safe_load((CHART / f"values-{profile}.yaml").read_text()) if profile else {}
    code, output = helm("lint", "--strict", str(CHART), values=values)
    assert code == 0, output
    assert "[WARNING]" not in output


def test_what_is_repeated_is_current():
    """Rules, dashboards, locks of the image, and settings in the schema: `make chart` writes them."""
    assert stale() == []


def test_rules_and_dashboards_arrive_as_they_are():
    shown = rendered("monitoring")
    assert shown.named("PrometheusRule", RELEASE)["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))
    maps = [one for one in shown.of("ConfigMap") if one["metadata"]["labels"].get("grafana_dashboard")]
    found = {name: json.loads(text) for one in maps for name, text in one["data"].items()}
    assert found == {file.name: json.loads(file.read_text(encoding="utf-8")) for file in DASHBOARDS}
    jobs = [
        relabelling["replacement"]
        for one in shown.of("PodMonitor")
        for relabelling in one["spec"]["podMetricsEndpoints"][0]["relabelings"]
        if relabelling["targetLabel"] == "job"
    ]
    assert sorted(jobs) == ["swell-executor", "swell-ledger", "swell-scheduler"], "the rules go by these"


# Policies


@pytest.mark.parametrize("case", EVERY)
def test_pods_may_do_little(case):
    for pod in rendered(case).pods:
        may_do_little(pod)


def test_the_example_is_valid_and_its_pod_may_do_as_little(tools):
    found = Rendered(list(yaml.safe_load_all((ROOT / "deploy" / "example.yaml").read_text(encoding="utf-8"))), {})
    for version in (OLDEST, NEWEST):
        assert [wrong for one in found.objects for wrong in wrong_in(one, tools.schemas, version)] == []
    (pod,) = found.pods
    may_do_little(pod)
    assert pod.labels[f"{RELEASE}-client"] == "true"


def may_do_little(pod):
    """What every pod keeps to."""
    spec, context = pod.spec, pod.spec["securityContext"]
    assert spec["automountServiceAccountToken"] is False, pod.owner
    assert spec["enableServiceLinks"] is False, "variables of services would be read as settings"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), pod.owner
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["fsGroup"] == 10001
    confined = context["seccompProfile"]["type"]
    assert confined == "RuntimeDefault" or (confined in ("Localhost", "Unconfined") and spec["hostUsers"] is False)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume], pod.owner
    for container in pod.containers:
        bounds = container["securityContext"]
        assert bounds["allowPrivilegeEscalation"] is False
        assert bounds["readOnlyRootFilesystem"] is True
        assert bounds["capabilities"] == {"drop": ["ALL"]}
        assert bounds.get("procMount", "Default") == "Default" or spec["hostUsers"] is False
        assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("case", EVERY)
def test_images_are_pinned(case):
    for pod in rendered(case).pods:
        for container in pod.containers:
            assert re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", container["image"]), container["image"]
            assert not container["image"].endswith(":latest")


def selects(selector: dict, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    among = all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))
    return wanted and among


@pytest.mark.parametrize("case", EVERY)
def test_every_pod_has_its_policies(case):
    """Closed by default, with DNS; a budget of disruption where, and only where, there are several."""
    shown = rendered(case)
    policies = shown.of("NetworkPolicy")
    for pod in shown.pods:
        mine = [one["spec"] for one in policies if selects(one["spec"]["podSelector"], pod.labels)]
        if case == "no-network-policies":
            assert mine == []
        else:
            assert any(
                set(one["policyTypes"]) == {"Ingress", "Egress"} and not {"ingress", "egress"} & one.keys()
                for one in mine
            )
            assert any(rule["ports"][0]["port"] == 53 for one in mine for rule in one.get("egress", []))
        budgets = [one for one in shown.of("PodDisruptionBudget") if selects(one["spec"]["selector"], pod.labels)]
        assert len(budgets) == (1 if pod.most > 1 else 0), pod.owner


EDGES = {
    ("scheduler", "nats", 4222), ("ledger", "nats", 4222), ("executor", "nats", 4222), ("nats", "nats", 6222),
    ("test", "scheduler", 7400), ("test", "ledger", 7401),
}  # fmt: skip
"""Who calls whom within a release."""


def allowed(shown, source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether policies let one pod of the release call another."""

    def passes(labels: dict[str, str], direction: str, towards: str, other: dict[str, str]) -> bool:
        rules = [
            rule
            for one in shown.of("NetworkPolicy")
            if selects(one["spec"]["podSelector"], labels)
            for rule in one["spec"].get(direction, [])
        ]
        return any(
            port in [one["port"] for one in rule.get("ports", [{"port": port}])]
            and any(
                "podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], other)
                for peer in rule.get(towards, [{"podSelector": {}}])
            )
            for rule in rules
        )

    return passes(source, "egress", "to", target) and passes(target, "ingress", "from", source)


@pytest.mark.parametrize("case", ["default", "trial", "keda", "closed-off"])
def test_pods_reach_whom_they_need_and_nobody_else(case):
    shown = rendered(case)
    pods = [(pod.labels["app.kubernetes.io/component"], pod.labels) for pod in shown.pods]
    ports = {port for _, _, port in EDGES}
    found = {
        (source, target, port)
        for source, its in pods
        for target, other in pods
        for port in ports
        if allowed(shown, its, other, port)
    }
    assert found == EDGES


def test_executors_go_out_but_not_to_what_is_near():
    shown = rendered("default")
    (egress,) = (
        one["spec"]["egress"]
        for one in shown.of("NetworkPolicy")
        if one["metadata"]["name"].endswith("-default-egress")
    )
    block = egress[0]["to"][0]["ipBlock"]
    for near in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254"):
        assert any(ipaddress.ip_address(near) in ipaddress.ip_network(one) for one in block["except"]), near


@pytest.mark.parametrize("case", EVERY)
def test_what_is_referred_to_exists(case):
    """Ports of services, Secrets and ConfigMaps with their keys; a name that the values gave is somebody else's object."""
    shown = rendered(case)
    given = set(re.findall(r"[\w.-]+", json.dumps(shown.values)))
    secrets = {one["metadata"]["name"]: one["data"].keys() for one in shown.of("Secret")}
    secrets |= {one["spec"]["secretName"]: {"tls.crt", "tls.key", "ca.crt"} for one in shown.of("Certificate")}
    maps = {one["metadata"]["name"] for one in shown.of("ConfigMap")}
    for service in shown.of("Service"):
        (pod,) = (one for one in shown.pods if selects({"matchLabels": service["spec"]["selector"]}, one.labels))
        names = {port["name"] for container in pod.containers for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for pod in shown.pods:
        volumes = {volume["name"] for volume in pod.spec["volumes"]} | {
            claim["metadata"]["name"]
            for one in shown.of("StatefulSet")
            if one["metadata"]["name"] == pod.owner
            for claim in one["spec"]["volumeClaimTemplates"]
        }
        assert {mount["name"] for container in pod.containers for mount in container["volumeMounts"]} == volumes, (
            pod.owner
        )
        for volume in pod.spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
        sources = [
            volume["secret"] | {"name": volume["secret"]["secretName"]}
            for volume in pod.spec["volumes"]
            if "secret" in volume
        ]
        sources += [
            source["secret"]
            for volume in pod.spec["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
        ]
        sources += [
            variable["valueFrom"]["secretKeyRef"] | {"items": [variable["valueFrom"]["secretKeyRef"]]}
            for container in pod.containers
            for variable in container.get("env", [])
            if "secretKeyRef" in variable.get("valueFrom", {})
        ]
        for source in sources:
            name = source["name"]
            assert name in secrets or name in given, f"{pod.owner}: {name}"
            assert {item["key"] for item in source.get("items", [])} <= secrets.get(
                name, {item["key"] for item in source.get("items", [])}
            )


# Settings


def settings_of(case: str):
    """Each ConfigMap with settings: the service, its text, and the variables of its container."""
    shown = rendered(case)
    for pod in shown.pods:
        for container in pod.containers:
            service = container["name"]
            if service in SERVICES and container["command"][2] == f"services.{service}":
                volume = next(one for one in pod.spec["volumes"] if one["name"] == "config")
                data = shown.named("ConfigMap", volume["configMap"]["name"])["data"]
                assert container["command"][3] == f"/etc/swell/{service}.toml"
                variables = {one["name"]: one.get("value", pod.owner) for one in container.get("env", [])}
                yield service, data, variables, container


@pytest.mark.parametrize("case", EVERY)
def test_services_take_their_settings(case, tmp_path):
    """Read by each service's own loader, with the variables that its container has."""
    found = list(settings_of(case))
    assert {service for service, *_ in found} == set(SERVICES)
    for service, data, variables, container in found:
        file = tmp_path / f"{service}.toml"
        file.write_text(data[f"{service}.toml"], encoding="utf-8")
        settings = load(SERVICES[service], file, variables, f"SWELL_{service.upper()}")
        assert settings.bus.url.startswith("tls://")
        assert settings.metrics_address.rpartition(":")[2] in {
            str(port["containerPort"]) for port in container["ports"]
        }
        mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
        paths = [Path(one) for one in re.findall(r'"(/(?:etc|var|run)/[^"]*)"', data[f"{service}.toml"])]
        for path in paths:
            assert any(path.is_relative_to(mount) for mount in mounts), f"{service}: {path} is nowhere"
            if path.is_relative_to("/etc/swell"):
                assert path.name in data, f"{service}: {path} is in no file of the values"


def test_values_reach_settings_as_they_are():
    (text,) = (data["scheduler.toml"] for service, data, *_ in settings_of("settings") if service == "scheduler")
    table = tomllib.loads(text)
    given = CASES["settings"]["scheduler"]["settings"]
    assert {key: table[key] for key in given} == given
    assert isinstance(table["submission_bytes_max"], int)


def test_a_pool_has_what_it_says_and_else_the_defaults():
    shown = rendered("pools")
    (data,) = (data for service, data, *_ in settings_of("pools") if service == "executor")
    table = tomllib.loads(data["executor.toml"])
    assert (table["pool"], table["slots"], table["stop_grace_s"]) == ("tools", 4, 600)
    assert table["sandbox_hidden"] == ["/etc/swell-bus", "/run/secrets/keys"]
    deployment = shown.named("Deployment", "swell-executor-tools")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "swell-tools:1"


@pytest.mark.parametrize("case", EVERY)
def test_an_executor_has_time_to_end(case):
    """Longer than the grace of its steps and the keeping of their work: it is never killed before."""
    shown = rendered(case)
    for service, data, _, container in settings_of(case):
        if service == "executor":
            table = tomllib.loads(data["executor.toml"])
            (pod,) = (
                one for one in shown.pods if container in one.containers and one.labels["swell/pool"] == table["pool"]
            )
            needed = table.get("stop_grace_s", 25) + table.get("keep_work_timeout_s", 30)
            assert pod.spec["terminationGracePeriodSeconds"] > needed + 20


def test_a_changed_setting_rolls_its_pods_alone():
    before = rendered("default")
    after = render({"ledger": {"settings": {"readers": 8}}})

    def checksums(shown):
        return {
            one["metadata"]["name"]: one["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for one in shown.of("Deployment", "StatefulSet")
        }

    changed = {name for name, checksum in checksums(after).items() if checksums(before)[name] != checksum}
    assert changed == {"swell-ledger"}


def test_two_releases_share_no_object():
    releases = rendered("default"), render({}, "other")
    names = [{(one["kind"], one["metadata"]["name"]) for one in shown.objects} for shown in releases]
    assert not names[0] & names[1]
    for shown in releases:
        instance = {pod.labels["app.kubernetes.io/instance"] for pod in shown.pods}
        assert len(instance) == 1
        for one in shown.of("Service", "Deployment", "StatefulSet", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            assert {selector.get("matchLabels", selector)["app.kubernetes.io/instance"]} == instance


# Profiles


UNITS = {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def amount(text: str | float) -> float:
    found = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(text))
    assert found
    return float(found[1]) * UNITS[found[2]]


@pytest.mark.parametrize("which", ["requests", "limits"])
def test_the_trial_fits_on_a_small_node(which):
    """2 processors and 2 GB, all pods together, that of `helm test` too."""
    asked = [
        container["resources"][which]
        for pod in rendered("trial").pods
        for container in pod.containers
        for _ in range(pod.most)
    ]
    assert round(sum(amount(one["cpu"]) for one in asked), 6) <= 2
    assert sum(amount(one["memory"]) for one in asked) <= 2e9


def test_the_trial_of_three_nodes_has_three_copies():
    shown = rendered("default")
    assert shown.named("StatefulSet", "swell-nats")["spec"]["replicas"] == 3
    for _, data, *_ in settings_of("default"):
        assert '"swell' not in data
        bus = tomllib.loads(next(text for name, text in data.items() if name.endswith(".toml")))["bus"]
        assert bus["replicas"] == 3
        assert len(bus["url"].split(",")) == 3


def test_production_generates_no_secret():
    shown = rendered("production")
    assert shown.of("Secret") == []
    assert {pod.most for pod in shown.pods if pod.labels["app.kubernetes.io/component"] in ("scheduler", "ledger")} == {
        2
    }
    assert shown.of("ScaledObject", "HorizontalPodAutoscaler")
    assert not [pod for pod in shown.pods if pod.labels["app.kubernetes.io/component"] == "nats"]


# What is generated for a trial


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """The files of the Secrets with certificates, by component."""
    folder = tmp_path_factory.mktemp("tls")
    for component in ("scheduler", "ledger", "nats"):
        (folder / component).mkdir()
        for name, text in rendered("client-certificates").named("Secret", f"swell-tls-{component}")["data"].items():
            (folder / component / name).write_bytes(base64.b64decode(text))
    return folder


@pytest.mark.parametrize("component", ["scheduler", "ledger"])
def test_probes_trust_the_certificates(component, certificates):
    """The very commands of the pod and of `helm test`, against a server with that certificate that asks for theirs."""
    shown = rendered("client-certificates")
    folder = certificates / component
    (container,) = (
        one for pod in shown.pods for one in pod.containers if one["name"] == component and "livenessProbe" in one
    )
    (test,) = (one for one in shown.named("Pod", "swell-test")["spec"]["containers"] if one["name"] == component)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        pairs = [((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())]
        guard = grpc.ssl_server_credentials(pairs, (folder / "ca.crt").read_bytes(), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", guard)
        server.start()

        def ends(command: list[str]) -> int:
            host = next(word for word in command if ":" in word)
            words = [word.replace("/etc/swell-tls", str(folder)).replace(host, f"127.0.0.1:{port}") for word in command]
            return subprocess.run(
                [sys.executable, *words[1:]], check=False, cwd=ROOT, timeout=30, capture_output=True
            ).returncode

        ready, alive = (container[name]["exec"]["command"] for name in ("readinessProbe", "livenessProbe"))
        try:
            servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            assert (ends(ready), ends(alive), ends(test["command"])) == (1, 0, 1)
            servicer.set("", health_pb2.HealthCheckResponse.SERVING)
            assert (ends(ready), ends(test["command"])) == (0, 0)
            assert ends([word for word in ready if "certificate" not in word and "key-file" not in word]) == 1
        finally:
            server.stop(0).wait()


@pytest.mark.parametrize("case", ["default", "trial", "keda"])
def test_nats_takes_its_configuration(case, certificates, tmp_path):
    shown = rendered(case)
    (pod,) = (one for one in shown.pods if one.labels["app.kubernetes.io/component"] == "nats")
    text = shown.named("ConfigMap", "swell-nats")["data"]["nats.conf"]
    file = tmp_path / "nats.conf"
    file.write_text(text.replace("/etc/swell-tls", str(certificates / "nats")).replace("/var/lib/swell", str(tmp_path)))
    variables = {"POD_NAME": "swell-nats-0"}
    for one in pod.containers[0]["env"]:
        if "secretKeyRef" in one["valueFrom"]:
            secret = shown.named("Secret", one["valueFrom"]["secretKeyRef"]["name"])
            variables[one["name"]] = base64.b64decode(secret["data"]["password"]).decode()
    assert len(set(variables.values())) == len(variables)
    server = Path(sys.executable).with_name("nats-server")
    done = subprocess.run(
        [server, "-t", "-c", file], env=variables, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    users = set(re.findall(r"user: (\S+),", text))
    pools = shown.values.get("pools") or {"default": {}}
    assert users == {"swell-scheduler", "swell-ledger", *(f"swell-executor-{pool}" for pool in pools)}
    assert "sync_interval: always" in text


def test_the_generated_token_is_the_principals():
    shown = rendered("default")
    token = base64.b64decode(shown.named("Secret", "swell-client")["data"]["token"])
    (principal,) = json.loads(base64.b64decode(shown.named("Secret", "swell-principals")["data"]["principals.json"]))[
        "principals"
    ]
    assert principal == {"name": "admin", "role": "admin", "token_sha256": hashlib.sha256(token).hexdigest()}


def test_notes_warn():
    """Of one NATS server, of secrets that were generated, and of an account that two releases share."""
    code, output = helm(
        "install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", "--disable-openapi-validation",
        values={"nats": {"trial": {"nodes": 1}}},
    )  # fmt: skip
    assert code == 0, output
    assert "WARNING: the log is on one NATS server" in output
    assert "for trials" in output
