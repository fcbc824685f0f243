"""Events worth a word, in the words of `swell watch`. Pure."""

from collections.abc import Sequence

import msgspec

from swell.progress import Progress
from swell.values import Event


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says, in one line, and when it was recorded."""

    time_ns: int
    kind: str
    text: str


def notes(run: str, events: Sequence[Event]) -> list[Note]:
    """What these events say, in their order."""
    progress = Progress(run)
    return [
        Note(time_ns=event.time_ns, kind=event.kind, text=text) for event in events for text in progress.words(event)
    ]
