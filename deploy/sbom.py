"""Prints what is in the image that runs it, as CycloneDX 1.6: the Python packages, and Debian's (`make image-sbom`).

Needs nothing but Python and dpkg, and no network.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys


def python_packages() -> list[dict[str, object]]:
    """Every distribution that is installed beside the interpreter."""
    found = {one.metadata["Name"].lower().replace("_", "-"): one for one in importlib.metadata.distributions()}
    return [
        _component(name, one.version, f"pkg:pypi/{name}@{one.version}", one.metadata["License-Expression"])
        for name, one in sorted(found.items())
    ]


def debian_packages() -> list[dict[str, object]]:
    """Every package that dpkg knows."""
    told = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    rows = sorted(line.split("\t") for line in told.splitlines())
    return [
        _component(name, version, f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={arch}", None)
        for name, version, arch in rows
    ]


def _component(name: str, version: str, purl: str, license_expression: str | None) -> dict[str, object]:
    found: dict[str, object] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if license_expression:
        found["licenses"] = [{"expression": license_expression}]
    return found


def document() -> dict[str, object]:
    """All of it."""
    swell = importlib.metadata.version("swell")
    python = platform.python_version()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "swell", "version": swell}},
        "components": [
            _component("python", python, f"pkg:generic/python@{python}", None),
            *python_packages(),
            *debian_packages(),
        ],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
