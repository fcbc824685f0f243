"""Make the repository of a shipped example: a fresh git repository with one commit.

The commit is the same every time: fixed author, fixed date, branch `main`. A folder that was made here carries the
marker `swell-example` in its git folder; only such a folder is ever replaced.
"""

import os
import shutil
import subprocess
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent

#: Which folder holds the repository of which example.
REPOSITORIES = {"modernise": "modernise", "blocked": "modernise"}

GIT_TIMEOUT_S = 60
_MARKER = "swell-example"
_IDENTITY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (
        ("NAME", "Swell Example"),
        ("EMAIL", "example@invalid"),
        ("DATE", "2025-01-01T00:00:00+00:00"),
    )
}


def materialise(example: str, target: Path, *, force: bool = False) -> Path:
    """Copy the repository of an example to a folder and commit it; returns the folder.

    Args:
        example: a key of `REPOSITORIES`.
        target: the folder; made if it is not there. One that was made here before is left as it is.
        force: make a folder that was made here afresh, with everything in it.

    Raises:
        ValueError: no such example.
        FileExistsError: the folder holds something else; it is left alone.
        subprocess.CalledProcessError: git failed.
    """
    if example not in REPOSITORIES:
        raise ValueError(f"no example {example!r}; there are: {', '.join(sorted(REPOSITORIES))}")
    if target.exists() and any(target.iterdir()):
        if not (target / ".git" / _MARKER).is_file():
            raise FileExistsError(f"{target} is not an example of ours: name a folder that does not exist yet")
        if not force:
            return target
        shutil.rmtree(target)
    ignored = shutil.ignore_patterns("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")
    shutil.copytree(EXAMPLES / REPOSITORIES[example] / "repo", target, ignore=ignored, dirs_exist_ok=True)
    commit(target, f"The {example} example")
    (target / ".git" / _MARKER).write_text(f"{example}\n", encoding="utf-8")
    return target


def commit(target: Path, message: str) -> None:
    """Make a folder a git repository whose branch `main` has one commit with everything in it.

    Raises:
        subprocess.CalledProcessError: git failed.
    """
    for arguments in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["add", "--all"],
        ["-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "--message", message],
    ):
        # The user's own git configuration must not change what is committed.
        environment = {**os.environ, **_IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            environment.pop(name, None)
        subprocess.run(["git", *arguments], cwd=target, check=True, timeout=GIT_TIMEOUT_S, env=environment)
