"""The real coding tools under Swell: `make tools-test`, or `python -m tests.real_tools --tools claude --cases success 401`.

Installs the tools in their pinned versions, starts a scripted model server on the loopback, drives every case through a
cluster of its own, and prints what came of it. Ends with 1 when anything is not as it has to be. Nothing but the
installation needs a network.
"""

# ruff: noqa: T201 - it prints a table
from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.real_tools.cases import TOOLS, cases
from tests.real_tools.drive import STOPPING, Tried, try_case
from tests.real_tools.install import InstallError, default_folder, install, versions
from tests.real_tools.server import Server

WORKERS = 6
"""Clusters at a time; most of the time they wait for a tool that waits."""


def main() -> int:
    """Drive the cases; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_tools", description="Real coding tools under Swell.")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--cases", nargs="+", default=[])
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where the tools are installed")
    parser.add_argument("--keep", type=Path, help="keep logs, outputs and results in this folder")
    parser.add_argument("--workers", type=int, default=WORKERS)
    given = parser.parse_args()
    started = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: STOPPING.set())
    try:
        programs = install(given.folder, set(given.tools))
        found = versions(programs, given.tools)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 2
    print("installed:", ", ".join(f"{tool} {version}" for tool, version in found.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="runs-", dir=given.folder) as temporary:
        folder = given.keep or Path(temporary)
        tried = _drive(given.tools, given.cases, programs, folder, given.workers)
        (folder / "results.json").write_text(json.dumps([_plain(one) for one in tried], indent=1))
    _print(tried)
    wrong = [one for one in tried if one.wrong]
    for one in wrong:
        print(f"\n{one.case.tool} {one.case.name}: " + "\n  ".join(one.wrong))
    print(
        f"\n{len(tried) - len(wrong)} of {len(tried)} cases as they have to be, in {time.monotonic() - started:.0f} s"
    )
    return 1 if wrong or not tried else 0


def _drive(tools: list[str], names: list[str], programs: Path, folder: Path, workers: int) -> list[Tried]:
    chosen = cases(tools, names)
    with Server() as server, ThreadPoolExecutor(workers) as pool:
        ordered = sorted(chosen, key=lambda case: -case.weight)
        running = {
            (case.tool, case.name): pool.submit(try_case, case, server, programs, folder / f"{case.tool}-{case.name}")
            for case in ordered
        }
        return [running[case.tool, case.name].result() for case in chosen]


def _plain(tried: Tried) -> dict[str, object]:
    return {
        "tool": tried.case.tool,
        "case": tried.case.name,
        "outcome": tried.outcome,
        "then": tried.then,
        "message": tried.message,
        "wrong": tried.wrong,
        "closes": tried.closes,
    }


def _print(tried: list[Tried]) -> None:
    head = ["tool", "case", "outcome", "then", "tokens", "cost", "tool s", "run s", "requests", "survivors", ""]
    rows = [
        [
            one.case.tool,
            one.case.name,
            one.outcome,
            one.then,
            one.tokens,
            one.cost,
            f"{one.tool_s:.1f}",
            f"{one.wall_s:.1f}",
            str(one.requests),
            str(one.survivors),
            "WRONG" if one.wrong else "ok",
        ]
        for one in tried
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if row is head:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


if __name__ == "__main__":
    sys.exit(main())
