"""One embedded cluster for the whole session, small repositories, and tools that are a line of Python."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_repository import PROFILES, git
from typer.testing import CliRunner, Result

from swell.cli import app
from swell.cluster import Cluster, stop


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with three files, checks and tool profiles of its own, and trees that no other test has verdicts of."""
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    for name in "abc":
        (root / "src" / f"{name}.py").write_text(f"{name.upper()} = 1\n")
    (root / "unique").write_text(str(tmp_path))
    (root / "swell.toml").write_text('static_tools = ["pass"]\ntool_profiles = "tools.json"\n')
    (root / "tools.json").write_text(json.dumps(PROFILES))
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "begin")
    return root


@pytest.fixture
def bundles(tmp_path: Path) -> Callable[..., Path]:
    """Write workstreams into a folder; the folder."""

    def write(*workstreams: dict[str, Any]) -> Path:
        folder = tmp_path / "bundles"
        folder.mkdir(exist_ok=True)
        (folder / "all.json").write_text(json.dumps(workstreams))
        return folder

    return write


@pytest.fixture
def at_once(tmp_path: Path) -> Path:
    """A recovery table that repeats nothing: what fails, stops."""
    file = tmp_path / "recovery.yaml"
    file.write_text("retries: 0\nreductions: 0\n")
    return file


@pytest.fixture
def swell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Call the command line in this process, with nothing of the user's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in list(os.environ):
        if name.startswith("PIPELINE_"):
            monkeypatch.delenv(name)

    def call(*args: object) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args])

    return call


@pytest.fixture(scope="session")
def session_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a running cluster that all tests share."""
    state_dir = tmp_path_factory.mktemp("cluster") / "state"
    joined = Cluster.join_or_start(state_dir, timeout_s=60)
    yield state_dir
    joined.close()
    stop(state_dir)


@pytest.fixture
def cluster(session_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared cluster is the one that commands and the API use."""
    monkeypatch.setenv("SWELL_STATE_DIR", str(session_state))
    return session_state
