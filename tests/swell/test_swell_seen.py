"""What one command has seen, the next one asks for: for a minute, and of a remote cluster only."""

import os
import time
from pathlib import Path

import pytest

from swell.client import Client
from swell.seen import remembered
from swell.values import Endpoints


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SWELL_STATE_DIR", str(tmp_path))
    return tmp_path / "seen"


def command(position: int, state_dir: Path | None = None) -> int:
    """What a command finds at its beginning; it then sees a position."""
    endpoints = Endpoints(scheduler="127.0.0.1:1", ledger="127.0.0.1:2", state_dir=state_dir)
    with Client(endpoints) as client, remembered(client):
        found = client.seen
        client.saw(position)
    return found


def test_the_next_command_asks_for_what_the_last_one_saw(folder):
    assert [command(position) for position in (7, 3, 0)] == [0, 7, 7]
    (file,) = folder.iterdir()
    long_ago = time.time() - 61
    os.utime(file, (long_ago, long_ago))
    assert command(0) == 0


@pytest.mark.parametrize("text", ["x", "-1", "1" * 20, ""])
def test_what_cannot_be_read_counts_for_nothing(folder, text):
    command(7)
    (file,) = folder.iterdir()
    file.write_text(text)
    assert command(0) == 0


def test_a_folder_that_cannot_be_written_changes_nothing(folder):
    folder.write_text("in the way")
    assert [command(7), command(7)] == [0, 0]


def test_the_embedded_cluster_keeps_nothing(folder, tmp_path):
    assert [command(7, tmp_path), command(7, tmp_path)] == [0, 0]
    assert not folder.exists()
