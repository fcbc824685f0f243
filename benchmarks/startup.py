"""How long people wait: `swell --help`, and a local cluster until it answers; beside a bare interpreter."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SWELL = Path(sys.executable).with_name("swell")


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    bare = _best([sys.executable, "-c", "pass"])
    rows = [
        {"name": "a bare interpreter", "value": bare, "unit": "s", "baseline": None, "ratio": None},
    ]
    for name, argv in (
        ("swell --help", [str(SWELL), "--help"]),
        ("import swell", [sys.executable, "-c", "import swell"]),
    ):
        value = _best(argv)
        rows.append({"name": name, "value": value, "unit": "s", "baseline": bare, "ratio": value / bare})
    ready = _ready()
    rows.append(
        {
            "name": "swell list, cluster not running",
            "value": ready,
            "unit": "s",
            "baseline": bare,
            "ratio": ready / bare,
        }
    )
    return rows


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
