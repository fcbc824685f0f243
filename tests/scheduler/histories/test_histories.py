"""Histories that were recorded once are folded for ever: what a run came to then, it comes to with every later version."""

from pathlib import Path

import pytest

from services.wire import decode_entry, encode_entry, parse_subject
from tests.simulation.record import fold, read

HERE = Path(__file__).resolve().parent
HISTORIES = sorted(HERE.glob("*.jsonl"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_comes_to_what_it_came_to(path):
    """States, reasons, attempts, answers, head: all as they were recorded."""
    head, records = read(path)
    found = fold(records, head.definitions, parse_subject)
    assert found.runs == head.runs
    assert found.breakers == head.breakers
    assert found.pauses == head.pauses


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_entry_can_still_be_read_and_written(path):
    """The wire form of every entry survives."""
    _, records = read(path)
    for one in records:
        assert decode_entry(encode_entry(one.entry)) == one.entry


def test_every_story_is_there():
    """The folder holds what its script knows of."""
    from tests.simulation.record import STORIES

    assert {path.stem for path in HISTORIES} >= STORIES.keys()
