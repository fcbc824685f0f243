"""Tools that are a line of Python, and what makes small repositories and bundles."""

import subprocess
from pathlib import Path
from typing import Any

PROFILES = {
    "append": {
        "command": "{python}",
        "args": [
            "-c",
            "import sys; [open(f, 'a').write('X = 2\\n') for f in sys.argv[1:]]; print('edited')",
            "{files}",
        ],
    },
    "pass": {"command": "{python}", "args": ["-c", "print('looks good')"]},
    "break": {"command": "{python}", "args": ["-c", "raise SystemExit('no \\x1b[31mway')"]},
    "repair": {
        "command": "{python}",
        "args": ["-c", "import sys; [open(f, 'a').write('BAD = 1\\n') for f in sys.argv[1:]]", "{files}"],
        "fix_args": ["-c", "import sys; [open(f, 'w').write('GOOD = 1\\n') for f in sys.argv[1:]]", "{files}"],
    },
    "no-bad": {
        "command": "{python}",
        "args": [
            "-c",
            "import sys; bad = [f for f in sys.argv[1:] if 'BAD' in open(f).read()]; sys.exit(str(bad) if bad else 0)",
            "{files}",
        ],
    },
    "pause": {
        "command": "{python}",
        "args": ["-c", "import sys, time; time.sleep(1); open(sys.argv[1], 'a').write('X = 4\\n')", "{files}"],
    },
    "sleep": {"command": "{python}", "args": ["-c", "import time; time.sleep(120)"], "timeout_sec": 120},
    "environment": {
        "command": "{python}",
        "args": ["-c", "import os, sys; print(dict(os.environ)); open(sys.argv[1], 'a').write('X = 3\\n')", "{files}"],
    },
}


def git(repo: Path, *args: str) -> str:
    """Run git; its output."""
    found = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args]
    return subprocess.run(found, cwd=repo, check=True, capture_output=True, text=True).stdout.strip()


def bundle(name: str, tool: str = "append", scope: str = "src/a.py", **more: Any) -> dict[str, Any]:
    """A workstream with the required fields."""
    fields = {"openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "tasks": ["do it"]}
    return {"id": name, "files_scope": [scope], "tool": tool, **fields, **more}
