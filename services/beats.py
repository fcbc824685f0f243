"""What an executor says of itself, once a second, on a key that expires; and how the scheduler tells it to look again."""

import msgspec

NUDGE = "swell.nudge"
"""`swell.nudge.<executor>`: one of your attempts was closed by somebody else. Not stored; the re-reading finds it anyway."""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """Who, since which start, and which attempts (run, workstream, number) its supervising loops moved on since the last beat."""

    executor: str
    boot: str
    pool: str
    slots: int
    attempts: list[tuple[str, str, int]] = []


def nudge_subject(executor: str) -> str:
    """Where an executor listens for nudges."""
    return f"{NUDGE}.{executor}"
