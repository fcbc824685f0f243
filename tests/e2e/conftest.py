"""One embedded cluster for all end-to-end tests; nothing of it lives when they are over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import SECRETS, Lab, processes, until

from swell.cluster import Cluster, stop


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The cluster, started as the first `swell` command of a user starts it."""
    folder = tmp_path_factory.mktemp("e2e")
    state_dir, home = folder / "state", folder / "home"
    home.mkdir()
    before = dict(os.environ)
    os.environ.update(SECRETS)
    try:
        joined = Cluster.join_or_start(state_dir, timeout_s=60)
    finally:
        os.environ.clear()
        os.environ.update(before)
    lab = Lab(state_dir, home)
    yield lab
    lab.client.close()
    joined.close()
    assert stop(state_dir)
    until(lambda: not processes(str(state_dir)), f"the end of {processes(str(state_dir))}")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Where a test makes its repository."""
    return tmp_path / "repo"
