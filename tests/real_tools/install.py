"""The real tools, each in the version that was measured, in a folder that outlives checkouts.

npm and pip are called as they are configured where this runs. A tool that stands there in its version is not installed
anew; a folder that was left half done is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

NPM: Final = {
    "@anthropic-ai/claude-code": "2.1.330",
    "@google/gemini-cli": "0.61.0",
    "@openai/codex": "0.169.0",
    "opencode-ai": "1.18.33",
}
"""Exact, for the newest that npm would choose depends on the version of Node, and is sometimes far older."""

AIDER: Final = "0.86.2"
PROGRAMS: Final = {"claude": "claude", "codex": "codex", "opencode": "opencode", "gemini": "gemini"}
INSTALL_TIMEOUT_S: Final = 900
VERSION_TIMEOUT_S: Final = 60


class InstallError(Exception):
    """A tool cannot be installed; the text says what to do."""


def default_folder() -> Path:
    """`swell-real-tools` under `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "swell-real-tools"


def install(folder: Path, tools: set[str]) -> Path:
    """Have these tools in the folder; the folder of their programs, which holds nothing else. Raises InstallError."""
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    if tools & set(PROGRAMS):
        _npm(folder / "npm")
    if "aider" in tools:
        _aider(folder / f"aider-{AIDER}")
    for tool in tools:
        target = (
            folder / f"aider-{AIDER}" / "bin" / "aider" if tool == "aider" else folder / "npm/node_modules/.bin" / tool
        )
        link = programs / tool
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return programs


def versions(programs: Path, tools: list[str]) -> dict[str, str]:
    """What each tool says of itself. Raises InstallError when one does not start."""
    found = {}
    for tool in tools:
        with _quiet_home(programs) as environment:
            said = _run([str(programs / tool), "--version"], programs, VERSION_TIMEOUT_S, environment)
        found[tool] = next((word for word in said.split() if word[:1].isdigit()), said.strip()[:40])
    return found


def _npm(folder: Path) -> None:
    wanted = json.dumps({"name": "real-tools", "private": True, "dependencies": NPM}, indent=2)
    done = folder / "installed.json"
    if done.is_file() and done.read_text() == wanted:
        return
    if shutil.which("npm") is None:
        raise InstallError("npm is not there: install Node 20 or newer, or leave its tools out with --tools aider")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(wanted)
    _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel", "error"], folder, INSTALL_TIMEOUT_S)
    done.write_text(wanted)


def _aider(folder: Path) -> None:
    done = folder / "installed"
    if done.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)], folder.parent, INSTALL_TIMEOUT_S)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    _run([*pip, f"aider-chat=={AIDER}"], folder, INSTALL_TIMEOUT_S)
    done.write_text(AIDER)


class _quiet_home:  # noqa: N801 - used as a function is
    """An environment whose home is beside the programs, for tools that write there even to tell their version."""

    def __init__(self, programs: Path) -> None:
        self._home = programs.parent / "home"

    def __enter__(self) -> dict[str, str]:
        self._home.mkdir(exist_ok=True)
        return {"PATH": os.environ["PATH"], "HOME": str(self._home), "TMPDIR": str(self._home)}

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._home, ignore_errors=True)


def _run(argv: list[str], cwd: Path, timeout_s: float, environment: dict[str, str] | None = None) -> str:
    """Its output. Raises InstallError with the end of it."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{' '.join(argv[:3])}: {error}") from error
    if done.returncode != 0:
        raise InstallError(
            f"{' '.join(argv[:3])} ended with {done.returncode}: mend what it says, or leave the tool out with --tools:\n"
            + done.stdout[-2000:]
        )
    return done.stdout
