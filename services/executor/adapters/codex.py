"""Codex CLI, by `exec --json`.

What is not obvious, each seen in captured output:

* An item of type `error` is a warning, and an `error` event may be a retry ("Reconnecting... 1/2"): only `turn.failed`,
  or an `error` after which nothing completes, is the end.
* `input_tokens` include the cached ones, `output_tokens` the reasoning. The totals are those of the thread so far: the
  last ones count and are never added up; a resumed thread repeats what was used before, which nothing here can tell
  apart, so a profile must not resume.
* A provider that cannot be reached is waited for without end ("waiting for network", at ever longer intervals): that
  counts as its last word unless something follows.
* A refused or failed command or patch ends with exit code 0 and `turn.completed`.
* Statuses stand in texts only; HTTP 500 reads "experiencing high demand", without one.
"""

import re
from typing import Final

import msgspec

from services.executor.adapters.draft import Draft, class_of_status, converted
from services.executor.adapters.lines import Events, decoded
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass, Tokens


class _Thread(msgspec.Struct, frozen=True):
    thread_id: str = ""


class _Item(msgspec.Struct, frozen=True):
    type: str = ""
    status: str | None = None


class _ItemEvent(msgspec.Struct, frozen=True):
    item: _Item


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: Tokens
    output_tokens: Tokens
    cached_input_tokens: Tokens | None = None
    cache_write_input_tokens: Tokens | None = None


class _Completed(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Failed(msgspec.Struct, frozen=True):
    error: _Error = _Error()


_threads = msgspec.json.Decoder(_Thread)
_items = msgspec.json.Decoder(_ItemEvent)
_completed = msgspec.json.Decoder(_Completed)
_errors = msgspec.json.Decoder(_Error)
_failed = msgspec.json.Decoder(_Failed)
_usages = msgspec.json.Decoder(_Usage)

_STATUS: Final = re.compile(r"(?:unexpected|last) status:? (\d{3})\b")
_RETRY: Final = "Reconnecting..."
_WAITING: Final = "Reconnecting... waiting for network"
_TEXTS: Final[tuple[tuple[str, OutcomeClass], ...]] = (
    ("context window", "context_window"),
    ("usage limit", "usage_limit"),
    ("quota exceeded", "usage_limit"),
    ("rate limit exceeded", "rate_limited"),
    ("at capacity", "overloaded"),
    ("experiencing high demand", "server_error"),
    ("missing environment variable", "auth"),
    ("stream disconnected", "network"),
    ("connection failed", "network"),
    ("error sending request", "network"),
    ("timed out", "network"),
    ("timeout", "network"),
)


class Codex:
    """Reads one invocation."""

    sources: tuple[Source, ...] = ("stdout",)
    sums = False

    def __init__(self) -> None:
        self._draft = Draft()
        self._draft.provider = "openai"
        self._events = Events(
            {
                "thread.started": self._thread,
                "item.started": self._going_on,
                "item.completed": self._item,
                "turn.started": self._turn,
                "turn.completed": self._complete,
                "turn.failed": self._fail,
                "error": self._error,
            }
        )
        self._completed = False
        self._said = ""
        self._waiting = ""

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of its standard output."""
        if source == "stdout":
            self._events.feed(chunk)

    @property
    def concluded(self) -> bool:
        """Whether its turn has ended, or waits for a network."""
        return self._completed or bool(self._draft.error_class or self._waiting)

    def so_far(self) -> tuple[Outcome, ...]:
        """By the turn that it has completed; `exec` has one, so this comes with its last word."""
        return self._draft.spent()

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        self._events.finish()
        draft = self._draft
        draft.note(self._events.complaint)
        if self._waiting and not draft.error_class and not self._completed:
            draft.fail("network", self._waiting)
        if self._said and not draft.error_class and not self._completed and exit_code not in {None, 0}:
            self._blame(self._said)
        if exit_code == 0 and not self._completed and not draft.error_class:
            draft.fail("protocol_error", "it ended without turn.completed, though its exit code says success")
        return draft.conclude()

    def _thread(self, line: bytes) -> bool:
        event = decoded(line, _threads)
        if event is not None:
            self._draft.session = event.thread_id
        return event is not None

    def _turn(self, line: bytes) -> bool:  # noqa: ARG002 - that it began is all there is to it
        self._draft.turns += 1
        return True

    def _going_on(self, line: bytes) -> bool:  # noqa: ARG002 - that it works is all there is to it
        self._waiting = ""
        return True

    def _item(self, line: bytes) -> bool:
        self._waiting = ""
        event = decoded(line, _items)
        if event is not None and event.item.status == "declined":
            self._draft.deny(event.item.type)
        return event is not None

    def _complete(self, line: bytes) -> bool:
        event = decoded(line, _completed)
        if event is None:
            return False
        self._completed = True
        self._draft.fail("", "")
        usage = converted(event.usage, _usages)
        if usage is None:
            self._draft.usage = None
            if bytes(event.usage):
                self._draft.note("its usage holds numbers that cannot be")
            return True
        cached, written = usage.cached_input_tokens or 0, usage.cache_write_input_tokens or 0
        self._draft.count(
            fresh=usage.input_tokens - cached - written,
            cache_read=cached,
            cache_write=written,
            output=usage.output_tokens,
        )
        return True

    def _error(self, line: bytes) -> bool:
        event = decoded(line, _errors)
        if event is None:
            return False
        self._waiting = event.message if event.message.startswith(_WAITING) else ""
        if not event.message.startswith(_RETRY):
            self._said = event.message
        return True

    def _fail(self, line: bytes) -> bool:
        event = decoded(line, _failed)
        if event is None:
            return False
        self._completed = False
        self._blame(event.error.message or self._said or "the turn failed")
        return True

    def _blame(self, message: str) -> None:
        status = _STATUS.search(message)
        if status is not None:
            self._draft.fail(class_of_status(int(status[1])), message, int(status[1]))
            return
        lower = message.lower()
        found: OutcomeClass = next((error_class for text, error_class in _TEXTS if text in lower), "tool_failed")
        self._draft.fail(found, message)
