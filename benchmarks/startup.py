"""How long people wait: `swell --help`, a local cluster until it answers, each service until it can be used; beside a bare interpreter.

Services start with TLS and principals where they have them, on a bus that runs. Their files are in the system's cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.auth import written
from benchmarks.trio import Trio, awaited, bare

SWELL = Path(sys.executable).with_name("swell")


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    bare_s = _best([sys.executable, "-c", "pass"])
    rows = [
        {"name": "a bare interpreter", "value": bare_s, "unit": "s", "baseline": None, "ratio": None},
    ]
    for name, argv in (
        ("swell --help", [str(SWELL), "--help"]),
        ("import swell", [sys.executable, "-c", "import swell"]),
    ):
        value = _best(argv)
        rows.append({"name": name, "value": value, "unit": "s", "baseline": bare_s, "ratio": value / bare_s})
    ready = _ready()
    rows.append(
        {
            "name": "swell list, cluster not running",
            "value": ready,
            "unit": "s",
            "baseline": bare_s,
            "ratio": ready / bare_s,
        }
    )
    for service in ("scheduler", "ledger", "executor"):
        value = _served(service)
        name = f"{service}{'' if service == 'executor' else ', TLS and principals'}: started → ready"
        rows.append({"name": name, "value": value, "unit": "s", "baseline": bare_s, "ratio": value / bare_s})
    return rows


def _served(service: str) -> float:
    """The median of five starts, until health says SERVING; of an executor, until it takes commands."""
    found = []
    with bare() as made:
        made.start_bus()
        made.start_service("scheduler")
        made.await_ready("scheduler")
        written(made.root)
        settings = {"executor": "", "ledger": f'file = "{made.root}/ledger.duckdb"\n', "scheduler": ""}[service]
        if service != "executor":
            settings += f'tls = {{ certificate_file = "{made.root}/tls.crt", key_file = "{made.root}/tls.key" }}\n'
            settings += f'auth = {{ principals_file = "{made.root}/principals.json" }}\n'
        for number in range(5):
            name = f"{service}-{number}"
            started = time.perf_counter()
            made.start_service(name, settings)
            made.await_ready(name)
            if service != "executor":
                _await_health(made, name, (made.root / "tls.crt").read_bytes())
            found.append(time.perf_counter() - started)
            made.kill(name)
    return statistics.median(found)


def _await_health(made: Trio, name: str, authority: bytes) -> None:
    protected = grpc.ssl_channel_credentials(authority)
    with grpc.secure_channel(f"127.0.0.1:{made.port(name)}", protected) as channel:
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]  # generated code

        def serving() -> bool | None:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
            return answer.status == health_pb2.HealthCheckResponse.SERVING or None

        awaited(serving)


def _best(argv: list[str]) -> float:
    found = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def _ready() -> float:
    """From nothing to an answered question: the cluster is started, asked, and stopped again."""
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
        environment = os.environ | {"SWELL_STATE_DIR": f"{folder}/state"}
        try:
            started = time.perf_counter()
            subprocess.run([str(SWELL), "list"], check=True, env=environment, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started
        finally:
            subprocess.run([str(SWELL), "dev", "--stop"], check=False, env=environment, stdout=subprocess.DEVNULL)
