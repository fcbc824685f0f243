"""Qwen Code, by `-o stream-json`; the array of `-o json` is read as well.

Like Claude Code's form, but: input includes what was read from the cache; the total repeats output with reasoning; an error
stands in `error.message` of the result, which begins with "[API Error:" and the HTTP status.
"""

import re
from typing import Final

import msgspec

from services.executor.adapters.draft import Counted, Draft, class_of_status, converted
from services.executor.adapters.lines import Events, decoded
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass, Tokens

DOCUMENT_BYTES: Final = 4 * 1024 * 1024


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: Tokens
    output_tokens: Tokens
    cache_read_input_tokens: Tokens = 0


class _Message(msgspec.Struct, frozen=True):
    id: str = ""
    usage: msgspec.Raw = msgspec.Raw()


class _Assistant(msgspec.Struct, frozen=True):
    message: _Message


class _System(msgspec.Struct, frozen=True):
    subtype: str = ""
    session_id: str = ""
    model: str = ""


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""


class _Denial(msgspec.Struct, frozen=True):
    tool_name: str = ""


class _Result(msgspec.Struct, frozen=True):
    is_error: bool = False
    subtype: str = ""
    session_id: str = ""
    num_turns: int = 0
    usage: msgspec.Raw = msgspec.Raw()
    error: _Fault | None = None
    permission_denials: list[_Denial] = []


_systems = msgspec.json.Decoder(_System)
_assistants = msgspec.json.Decoder(_Assistant)
_results = msgspec.json.Decoder(_Result)
_usages = msgspec.json.Decoder(_Usage)
_arrays = msgspec.json.Decoder(list[msgspec.Raw])

_STATUS: Final = re.compile(r"\[API Error: (\d{3})\b")
_EXITS: Final[dict[int, OutcomeClass]] = {53: "max_turns", 55: "max_turns"}


class Qwen:
    """Reads one invocation."""

    sources: tuple[Source, ...] = ("stdout",)
    sums = False

    def __init__(self) -> None:
        self._draft = Draft()
        self._events = Events(
            {"system": self._system, "assistant": self._assistant, "result": self._result}, self._other
        )
        self._counted = Counted()
        self._least = [0, 0, 0]
        self._messages = 0
        self._answered = False

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of its standard output."""
        if source == "stdout":
            self._events.feed(chunk)

    @property
    def concluded(self) -> bool:
        """Whether its result is there."""
        return self._answered

    def so_far(self) -> tuple[Outcome, ...]:
        """By its result, or by the answers that came before it."""
        if self._answered:
            return self._draft.spent()
        begun = Draft()
        begun.model = self._draft.model
        self._at_least(begun)
        return begun.spent()

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        self._events.finish()
        draft = self._draft
        draft.note(self._events.complaint)
        if not self._answered:
            draft.turns = self._messages
            self._at_least(draft)
            if exit_code == 0:
                draft.fail("protocol_error", "it ended without a result, though its exit code says success")
        if exit_code in _EXITS and draft.error_class in {"", "tool_failed"}:
            draft.fail(_EXITS[exit_code], draft.message or f"it ended with exit code {exit_code}")
        return draft.conclude()

    def _at_least(self, draft: Draft) -> None:
        fresh, cached, output = self._least
        if any(self._least):
            draft.count(fresh=fresh, cache_read=cached, output=output, lower_bound=True)

    def _other(self, line: bytes) -> None:
        """All events in one array, each as if it were a line."""
        events = decoded(line, _arrays) if line.startswith(b"[") else None
        for event in events or ():
            self._events.feed(bytes(event) + b"\n")

    def _system(self, line: bytes) -> bool:
        event = decoded(line, _systems)
        if event is not None and event.subtype == "init":
            self._draft.session, self._draft.model = event.session_id, event.model
        return event is not None

    def _assistant(self, line: bytes) -> bool:
        event = decoded(line, _assistants)
        if event is None:
            return False
        usage = converted(event.message.usage, _usages)
        if usage is not None and event.message.id and self._counted.first(event.message.id):
            cached = usage.cache_read_input_tokens
            numbers = (max(usage.input_tokens - cached, 0), cached, usage.output_tokens)
            self._least = [known + more for known, more in zip(self._least, numbers, strict=True)]
            self._messages += 1
        return True

    def _result(self, line: bytes) -> bool:
        event = decoded(line, _results)
        if event is None:
            return False
        self._answered = True
        draft = self._draft
        draft.session = event.session_id or draft.session
        draft.turns = event.num_turns
        for denial in event.permission_denials:
            draft.deny(denial.tool_name)
        usage = converted(event.usage, _usages)
        if usage is not None:
            cached = usage.cache_read_input_tokens
            draft.count(fresh=usage.input_tokens - cached, cache_read=cached, output=usage.output_tokens)
        elif bytes(event.usage):
            draft.note("its usage holds numbers that cannot be")
        if event.is_error:
            said = event.error.message if event.error is not None else event.subtype
            status = _STATUS.match(said)
            number = int(status[1]) if status is not None else 0
            found: OutcomeClass = "max_turns" if event.subtype == "error_max_turns" else class_of_status(number)
            draft.fail(found, said, number)
        else:
            draft.fail("", "")
        return True
