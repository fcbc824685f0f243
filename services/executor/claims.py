"""The three rules by which an executor keeps to the log. Pure.

    claim     the first entry on an attempt's subject: expects that nothing stands there
    close     the entry after its own claim: expects that nothing has come in between
    foreign   what anybody else has written there ends the attempt

The entry of a close is made once and sent as the same bytes until it is settled: by its bytes an executor recognises its
own entry, however late it was stored.
"""

from collections.abc import Sequence

import msgspec

from services.events import AnyEvent, StepFinished, StepStarted
from services.wire import Recorded, WireError, decode_envelope


class Fenced(msgspec.Struct, frozen=True):
    """Events for an attempt's subject, to be appended after sequence `expect` of it."""

    events: Sequence[AnyEvent]
    expect: int


def writer(executor: str) -> str:
    """How an executor signs its entries."""
    return f"executor:{executor}"


def claim(executor: str, boot: str) -> Fenced:
    """An executor, in its present life, takes an attempt that nobody has taken."""
    return Fenced([StepStarted(executor=executor, boot=boot)], 0)


def close(result: StepFinished, claimed: int) -> Fenced:
    """It ends the attempt that it has claimed with the entry at sequence `claimed`."""
    return Fenced([result], claimed)


def is_foreign(last: Recorded | None, executor: str) -> bool:
    """Whether the newest entry of an attempt that this executor holds was written by somebody else; not for one that cannot be read."""
    if last is None:
        return False
    try:
        return decode_envelope(last.data).by != writer(executor)
    except WireError:
        return False
