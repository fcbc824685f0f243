"""The demo: `python -m examples.demo [EXAMPLE]` runs an example on the local cluster, as a user would.

It makes a fresh git repository of the example's library, then calls `swell run` on it, and shows what came of it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from examples.materialise import materialise

ROOT = Path(__file__).resolve().parent
TARGET = Path("demo-run")


def main(arguments: list[str]) -> int:
    """Run the example; return the exit code of `swell run`."""
    known = sorted(folder.parent.name for folder in ROOT.glob("*/workstreams"))
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="Run an example on the local cluster.")
    parser.add_argument("example", nargs="?", default="modernise", choices=known, help="default: %(default)s")
    example = parser.parse_args(arguments).example
    repository = materialise(example, TARGET / example, force=True)
    command = [
        *("swell", "run", str(ROOT / example / "workstreams"), "--repo", str(repository)),
        *("--tool-profiles", str(ROOT / "modernise" / "tool_profiles.json")),
        *("--context", f"example_tools={ROOT / 'tools'}"),
    ]
    print(f"$ {' '.join(command)}\n", flush=True)
    code = subprocess.run([str(Path(sys.executable).with_name("swell")), *command[1:]], check=False).returncode
    for question in (["log", "--oneline", "--branches"], ["status", "--short", "--branch"]):
        print(f"\n$ git -C {repository} {' '.join(question)}", flush=True)
        subprocess.run(["git", "-C", str(repository), *question], check=False)
    print("\nnext: swell report last, or swell report last --html report.html")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
