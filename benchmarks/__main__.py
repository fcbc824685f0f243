"""Runs the benchmarks and prints one table: `python -m benchmarks [NAME…]`."""

import importlib
import os
import platform
import sys

NAMES = (
    "startup",
    "plan",
    "decisions",
    "ingest",
    "steps",
    "dispatch",
    "capacity",
    "workspaces",
    "simulated",
    "restart",
    "failover",
    "auth",
)


def main(arguments: list[str]) -> int:
    """Measure what is named, or everything."""
    print(f"{os.cpu_count()} processors, Python {platform.python_version()}, {platform.system()}\n")
    print(f"{'':66} {'value':>12} {'unit':8} {'baseline':>12} {'ratio':>8}")
    for name in arguments or NAMES:
        if name not in NAMES:
            raise SystemExit(f"no benchmark {name!r}: there are {', '.join(NAMES)}")
        print(f"{name}:", flush=True)
        for row in importlib.import_module(f"benchmarks.{name}").measure():
            baseline = "" if row["baseline"] is None else f"{row['baseline']:,.4g}"
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            print(f"  {row['name']:64} {row['value']:12,.4g} {row['unit']:8} {baseline:>12} {ratio:>8}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
