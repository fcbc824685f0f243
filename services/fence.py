"""What an unanswered or refused append came to, judged by what stands there. Pure.

A refusal is not yet a fence: the acknowledgement of our own append may have been lost, and its repetition is then refused
because of ourselves. So the subject's last entry is read from the leader before anything is concluded.
"""

from typing import Literal

from services.wire import Recorded

Judgement = Literal["mine", "again", "refused"]


def judge(data: bytes, expect: int, newest: Recorded | None, fenced: Recorded | None) -> Judgement:
    """What became of `data`, appended after sequence `expect`.

    `newest` is the last entry of the subject itself, `fenced` the last one of what the expectation is about (the same, or
    the wildcard's). `mine`: it is stored; `again`: nothing has happened, the same bytes may be sent again; `refused`:
    something else came first.
    """
    if newest is not None and newest.data == data:
        return "mine"
    if (fenced.sequence if fenced is not None else 0) == expect:
        return "again"
    return "refused"
