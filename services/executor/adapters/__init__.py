"""What each coding tool says of itself, in one form: pure readers of bytes, one module for each tool.

An adapter is fed what the tool writes, in chunks cut anywhere, from the sources it names, and says at the end what it came
to. It reads only what the tool's harness emits; what a model wrote, or a command of the agent printed, decides nothing.

Invariants: memory does not grow with what is fed; nothing that is fed raises; unknown events are passed over; what was
spent so far may be asked at any time, in a time that does not grow either.
"""

from typing import Protocol, assert_never

from services.executor.adapters.aider import LOG as AIDER_LOG
from services.executor.adapters.aider import Aider
from services.executor.adapters.claude import Claude
from services.executor.adapters.codex import Codex
from services.executor.adapters.gemini import Gemini
from services.executor.adapters.generic import Generic
from services.executor.adapters.opencode import Opencode
from services.executor.adapters.qwen import Qwen
from services.executor.adapters.source import Source
from services.outcome import Outcome
from services.profiles import ToolProfile


class Adapter(Protocol):
    """Reads one invocation of one tool."""

    sources: tuple[Source, ...]
    sums: bool
    """Whether it adds up what it is told in pieces, so that a piece that was cut out of the output is missing."""

    @property
    def concluded(self) -> bool:
        """Whether the tool has said its last word, and has only to end."""

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of what the tool wrote there. Chunks may be cut anywhere; of an unexpected source they are ignored."""

    def so_far(self) -> tuple[Outcome, ...]:
        """What it has told of its spending until now: model, usage and cost, one for each model. Changes nothing.

        Empty while it has told nothing. Each is at least what was spent; what has no usage or cost in it was not told.
        """

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to. `exit_code` is that of a tool that ended by itself, else None. Called once, last."""


def adapter_of(profile: ToolProfile) -> Adapter | None:
    """A fresh adapter, as the profile says; None where it names none."""
    match profile.adapter:
        case None:
            return None
        case "aider":
            return Aider()
        case "claude":
            return Claude()
        case "codex":
            return Codex()
        case "gemini":
            return Gemini()
        case "generic":
            assert profile.result is not None  # noqa: S101 - a profile with this adapter has one
            return Generic(profile.result)
        case "opencode":
            return Opencode()
        case "qwen":
            return Qwen()
        case _:
            assert_never(profile.adapter)


def file_of(profile: ToolProfile) -> str | None:
    """The file that the tool's adapter reads beside its outputs, with placeholders; None where it reads none."""
    match profile.adapter:
        case "aider":
            return AIDER_LOG
        case "generic" if profile.result is not None and profile.result.source not in {"stdout", "stderr"}:
            return profile.result.source
        case _:
            return None
