"""Scheduler and ledger as processes, with TLS and principals, and the client that reaches them."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric import ec

from swell.client import Client
from swell.cluster import remote_endpoints
from swell.errors import SwellError
from swell.values import Document, Header, Options

ISSUER = "https://issuer.example"
KEY = ec.generate_private_key(ec.SECP256R1())


def principals(**tokens: str) -> bytes:
    listed = [
        {"name": name, "role": role, "token_sha256": hashlib.sha256(name.encode()).hexdigest()}
        | ({"tenants": ["red"]} if name == "red" else {})
        for name, role in tokens.items()
    ]
    return json.dumps({"principals": listed}).encode()


def started(folder: Path, service: str, settings: str) -> subprocess.Popen[bytes]:
    file = folder / f"{service}.toml"
    file.write_text(settings)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
    with (folder / f"{service}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"services.{service}", str(file)], env=kept, stdout=log, stderr=log
        )


def port_of(folder: Path, service: str, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 20
    while not (folder / f"{service}.ready").exists():
        assert process.poll() is None, (folder / f"{service}.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return json.loads((folder / f"{service}.ready").read_text())["port"]


class Services:
    """Where they are, and their files."""

    def __init__(self, folder: Path, bus):
        self.folder = folder
        self.authority = Authority()
        self.authority.make("swell.example").write(folder)
        (folder / "ca.crt").write_bytes(self.authority.pem)
        (folder / "principals.json").write_bytes(
            principals(vera="viewer", oscar="operator", ada="admin", red="operator")
        )
        key = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(KEY.public_key()))
        (folder / "keys.json").write_text(json.dumps({"keys": [key | {"kid": "k"}]}))
        common = f"""
bind = "0.0.0.0:0"
metrics_address = "127.0.0.1:0"
%s
[tls]
certificate_file = "{folder}/tls.crt"
key_file = "{folder}/tls.key"
[auth]
principals_file = "{folder}/principals.json"
[auth.oidc]
issuer = "{ISSUER}"
audience = "swell"
keys_file = "{folder}/keys.json"
[bus]
url = "{bus.url}"
user = "{bus.user}"
password_file = "{bus.password_file}"
"""
        self._settings = {
            "scheduler": common % f'ready_file = "{folder}/scheduler.ready"',
            "ledger": common % f'ready_file = "{folder}/ledger.ready"\nfile = "{folder}/ledger.duckdb"',
        }
        self.ports: dict[str, int] = {}

    @contextlib.contextmanager
    def running(self):
        made = {service: started(self.folder, service, text) for service, text in self._settings.items()}
        try:
            self.ports = {service: port_of(self.folder, service, process) for service, process in made.items()}
            yield self
        finally:
            for process in made.values():
                process.terminate()
            for process in made.values():
                process.wait()

    def client(self, token: str, **more: str) -> Client:
        file = self.folder / "token"
        file.write_text(token)
        environ = {
            "SWELL_SCHEDULER": f"localhost:{self.ports['scheduler']}",
            "SWELL_LEDGER": f"localhost:{self.ports['ledger']}",
            "SWELL_TOKEN_FILE": str(file),
            "SWELL_CA_FILE": str(self.folder / "ca.crt"),
            "SWELL_TLS_NAME": "swell.example",
        } | more
        return Client(remote_endpoints({name: value for name, value in environ.items() if value}))


@pytest.fixture(scope="module")
def services(tmp_path_factory, nats_server):
    (tmp_path_factory.getbasetemp() / "secured").mkdir()
    server = type(nats_server)(tmp_path_factory.mktemp("nats"))
    server.start()
    try:
        with Services(tmp_path_factory.getbasetemp() / "secured", server).running() as made:
            yield made
    finally:
        server.kill()


def refusal(call) -> SwellError:
    with pytest.raises(SwellError) as caught:
        call()
    return caught.value


def test_the_actor_is_the_principal_and_a_refusal_is_an_event(services):
    with services.client("ada") as client:
        client.pause_fleet("pool", "gpu", reason="cold", actor="somebody else")
        assert [pause.actor for pause in client.get_fleet().pauses] == ["ada"]
        position = client.seen
    with services.client("vera") as client:
        denied = refusal(lambda: client.pause_fleet("all", "", reason="", actor="ada"))
        assert (denied.code, denied.reason) == ("PERMISSION_DENIED", "ROLE_MISSING")
        assert "vera has the role viewer" in str(denied)
        assert "Ask whoever runs the cluster" in str(denied)
        client.seen = max(client.seen, position)
        deadline = time.monotonic() + 15
        while not (told := list(client.list_events("fleet", kinds=["access_refused"]))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert told[0].payload["principal"] == "vera"
        assert told[0].payload["reason"] == "ROLE_MISSING"
        assert refusal(lambda: client.rebuild_ledger("x")).reason == "ROLE_MISSING"


def test_a_token_of_the_provider_is_taken(services):
    said = {"iss": ISSUER, "aud": "swell", "sub": "olga", "swell_role": "admin", "exp": time.time() + 60}
    with services.client(jwt.encode(said, KEY, "ES256", headers={"kid": "k"})) as client:
        client.resume_fleet("pool", "gpu", reason="", actor="")
    with services.client(jwt.encode(said | {"exp": 1}, KEY, "ES256", headers={"kid": "k"})) as client:
        denied = refusal(client.get_fleet)
        assert (denied.reason, denied.remedy) == (
            "TOKEN_EXPIRED",
            "Write a fresh token into the file of SWELL_TOKEN_FILE.",
        )


def test_a_token_that_is_renewed_is_taken_without_another_client(services):
    with services.client("nobody's") as client:
        assert refusal(client.get_fleet).reason == "UNAUTHENTICATED"
        (services.folder / "token").write_text("vera\n")
        client.get_fleet()
        (services.folder / "token").unlink()
        client.get_fleet()


BUNDLE = {
    "id": "ws-a", "openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "files_scope": ["a.py"], "tasks": ["x"], "tool": "aider",
    "metadata": {"swell": {"gates": "none"}},
}  # fmt: skip


def submit(client: Client, **more: str) -> str:
    header = Header(location="/nowhere", base_commit="a" * 40, options=Options(dry_run=True, paused=True), **more)
    return client.submit_run(header, [Document(name="ws-a.json", content=json.dumps(BUNDLE).encode())]).run


def test_a_tenant_is_the_default_of_who_is_bound_to_it_and_the_run_theirs(services):
    with services.client("oscar") as client:
        foreign = submit(client, tenant="blue")
    with services.client("red") as client:
        assert refusal(lambda: submit(client, tenant="blue")).reason == "NOT_YOURS"
        submitted = submit(client, actor="a liar")
        run = client.get_run(submitted)
        assert (run.tenant, run.actor) == ("red", "red")
        assert [one.run for one in client.list_runs()] == [submitted]
        assert refusal(client.get_fleet).reason == "TENANT_BOUND"
        assert refusal(lambda: client.get_run("r-else")).reason == "NOT_YOURS"
        assert refusal(lambda: client.get_run(foreign)).reason == "NOT_YOURS"
        assert refusal(lambda: client.cancel_run(foreign, reason="", actor="oscar")).reason == "NOT_YOURS"
        client.cancel_run(submitted, reason="enough", actor="x")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SWELL_TLS_NAME": ""}, "CERTIFICATE_NAME"),
        ({"SWELL_CA_FILE": "other.crt"}, "CERTIFICATE_UNKNOWN"),
        ({"SWELL_CA_FILE": "", "SWELL_TLS_NAME": "", "SWELL_TOKEN_FILE": ""}, "CONNECTION_CLOSED"),
    ],
)
def test_a_connection_that_cannot_be_protected_says_why(services, monkeypatch, changes, reason):
    monkeypatch.setattr("swell.client.OUTAGE_S", 0.0)
    (services.folder / "other.crt").write_bytes(Authority("another").pem)
    changes = {name: value and str(services.folder / value) for name, value in changes.items()}
    with services.client("vera", **changes) as client:
        told = refusal(client.get_fleet)
    assert (told.code, told.reason) == ("UNAVAILABLE", reason)
    assert told.remedy


# Without services


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"SWELL_TOKEN_FILE": "t"}, "TOKEN_UNPROTECTED"),
        ({"SWELL_TOKEN_FILE": "t", "SWELL_SCHEDULER": "127.0.0.1:1"}, "TOKEN_UNPROTECTED"),
        ({"SWELL_TLS_NAME": "x"}, "NO_CA"),
        ({"SWELL_CERTIFICATE_FILE": "pem"}, "NO_CA"),
        ({"SWELL_CA_FILE": "pem", "SWELL_KEY_FILE": "pem"}, "NO_KEY"),
        ({"SWELL_CA_FILE": "t"}, "PEM_UNREADABLE"),
        ({"SWELL_CA_FILE": "nowhere"}, "PEM_UNREADABLE"),
        ({"SWELL_TOKEN_FILE": "nowhere"}, "TOKEN_UNREADABLE"),
    ],
)
def test_a_client_refuses_what_would_not_be_protected(tmp_path, environ, reason):
    (tmp_path / "t").write_text("token")
    (tmp_path / "pem").write_bytes(Authority().pem)
    files = {name: str(tmp_path / value) if name.endswith("_FILE") else value for name, value in environ.items()}
    addresses = {"SWELL_SCHEDULER": "swell.example:1", "SWELL_LEDGER": "swell.example:2"}
    assert refusal(lambda: Client(remote_endpoints(addresses | files))).reason == reason


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_token_may_go_to_this_machine(tmp_path, host):
    (tmp_path / "t").write_text("token")
    environ = {"SWELL_SCHEDULER": f"{host}:1", "SWELL_LEDGER": f"{host}:2", "SWELL_TOKEN_FILE": str(tmp_path / "t")}
    Client(remote_endpoints(environ)).close()
