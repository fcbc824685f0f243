"""Gemini CLI, by `-o stream-json`; the single object of `-o json` is read as well.

What is not obvious, each seen in captured output: `output_tokens` and `candidates` are without thoughts, so output is the
total less the input; on failure standard output is empty, and the error is an object at the very end of standard error,
after stack traces; in a stream the provider's own object stands as text in the result's, as in "[API Error: {…}]"; exit
codes are HTTP statuses modulo 256, so the object decides, and they only where it names no status.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from services.executor.adapters.draft import Draft, class_of_status, converted
from services.executor.adapters.lines import Events, decoded
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass, Tokens

DOCUMENT_BYTES: Final = 1024 * 1024
"""Of standard output, where it is one object and no stream; and of the end of standard error."""


class _Init(msgspec.Struct, frozen=True):
    session_id: str = ""
    model: str = ""


class _Stats(msgspec.Struct, frozen=True):
    total_tokens: Tokens
    input_tokens: Tokens
    cached: Tokens = 0


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""
    type: str = ""
    code: int | str | None = None


class _Result(msgspec.Struct, frozen=True):
    status: str = ""
    stats: msgspec.Raw = msgspec.Raw()
    error: _Fault | None = None


class _ErrorEvent(msgspec.Struct, frozen=True):
    severity: str = "error"
    message: str = ""


class _ModelTokens(msgspec.Struct, frozen=True):
    prompt: Tokens
    total: Tokens
    cached: Tokens = 0


class _Model(msgspec.Struct, frozen=True):
    tokens: _ModelTokens


class _DocumentStats(msgspec.Struct, frozen=True):
    models: Annotated[dict[str, _Model], Meta(max_length=100)] = {}


class _Document(msgspec.Struct, frozen=True):
    session_id: str = ""
    stats: msgspec.Raw = msgspec.Raw()
    error: _Fault | None = None


class _Nested(msgspec.Struct, frozen=True):
    error: _Fault


_inits = msgspec.json.Decoder(_Init)
_results = msgspec.json.Decoder(_Result)
_error_events = msgspec.json.Decoder(_ErrorEvent)
_stats = msgspec.json.Decoder(_Stats)
_documents = msgspec.json.Decoder(_Document)
_document_stats = msgspec.json.Decoder(_DocumentStats)
_nested = msgspec.json.Decoder(_Nested)

_EXITS: Final[dict[int, OutcomeClass]] = {41: "auth", 53: "max_turns"}
_STATUSES: Final = {status % 256: status for status in (400, 401, 403, 404, 429, 500, 502, 503, 504, 529)}
_RETRY: Final = re.compile(r"retry (?:after|in) (\d{1,9}(?:\.\d{1,9})?) ?s", re.IGNORECASE)
_BROKEN: Final = re.compile(r"fetch failed|timeout|\A\[API Error: terminated\]", re.IGNORECASE)
"""A connection that could not be made, or broke while an answer came."""
_DAILY: Final = re.compile(r"per ?day|daily", re.IGNORECASE)


class Gemini:
    """Reads one invocation."""

    sources: tuple[Source, ...] = ("stdout", "stderr")
    sums = False

    def __init__(self) -> None:
        self._draft = Draft()
        self._draft.provider = "google"
        self._events = Events({"init": self._init, "result": self._result, "error": self._error_event})
        self._streams = False
        self._document = bytearray()
        self._stderr = bytearray()
        self._answered = False

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of its standard output, or of its standard error."""
        if source == "stdout":
            self._events.feed(chunk)
            if not self._streams:
                self._document += chunk[: DOCUMENT_BYTES - len(self._document)]
        elif source == "stderr":
            self._stderr += chunk
            if len(self._stderr) > 2 * DOCUMENT_BYTES:
                del self._stderr[:-DOCUMENT_BYTES]

    @property
    def concluded(self) -> bool:
        """Whether its result is there."""
        return self._streams and self._answered

    def so_far(self) -> tuple[Outcome, ...]:
        """By its result, which comes last."""
        return self._draft.spent()

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        self._events.finish()
        draft = self._draft
        if not self._streams:
            self._read_document()
        else:
            draft.note(self._events.complaint)
        if exit_code not in {None, 0} or not self._answered:
            self._read_stderr()
        if not draft.error_class and exit_code in _EXITS:
            draft.fail(_EXITS[exit_code], f"it ended with exit code {exit_code}")
        elif draft.error_class == "tool_failed" and not draft.provider_status and exit_code in _STATUSES:
            draft.fail(class_of_status(_STATUSES[exit_code]), draft.message, _STATUSES[exit_code])
        if exit_code == 0 and not self._answered and not draft.error_class:
            draft.fail("protocol_error", "it ended without a result, though its exit code says success")
        return draft.conclude()

    # The stream

    def _init(self, line: bytes) -> bool:
        event = decoded(line, _inits)
        if event is not None:
            self._stream()
            self._draft.session, self._draft.model = event.session_id, event.model
        return event is not None

    def _stream(self) -> None:
        self._streams = True
        self._document.clear()

    def _error_event(self, line: bytes) -> bool:
        event = decoded(line, _error_events)
        if event is not None and event.severity == "error":
            self._draft.fail("tool_failed", event.message)
        return event is not None

    def _result(self, line: bytes) -> bool:
        event = decoded(line, _results)
        if event is None:
            return False
        self._stream()
        self._answered = True
        if event.status == "error" or event.error is not None:
            self._blame(event.error or _Fault(message=self._draft.message or "it ended with an error"))
        else:
            self._draft.fail("", "")
        stats = converted(event.stats, _stats)
        if stats is not None:
            self._count(stats.input_tokens, stats.cached, stats.total_tokens)
        elif bytes(event.stats):
            self._draft.note("its usage holds numbers that cannot be")
        return True

    def _count(self, prompt: int, cached: int, total: int) -> None:
        self._draft.count(fresh=prompt - cached, cache_read=cached, output=total - prompt)

    # Objects

    def _read_document(self) -> None:
        found = decoded(bytes(self._document).strip(), _documents)
        if found is None:
            return
        self._answered = True
        self._draft.session = found.session_id
        if found.error is not None:
            self._blame(found.error)
        stats = converted(found.stats, _document_stats)
        if stats is None or not stats.models:
            if bytes(found.stats) and stats is None:
                self._draft.note("its usage holds numbers that cannot be")
            return
        tokens = [model.tokens for model in stats.models.values()]
        self._count(
            sum(one.prompt for one in tokens), sum(one.cached for one in tokens), sum(one.total for one in tokens)
        )
        self._draft.model = max(stats.models, key=lambda name: stats.models[name].tokens.total)

    def _read_stderr(self) -> None:
        """The last object that begins on a line of its own and goes on to the end."""
        text = bytes(self._stderr).replace(b"\r", b"")
        start = text.rfind(b"\n{\n") + 1
        found = decoded(text[start:].strip(), _documents) if text.startswith(b"{\n", start) else None
        if found is not None and found.error is not None:
            self._draft.session = self._draft.session or found.session_id
            self._blame(found.error)

    def _blame(self, fault: _Fault) -> None:
        inner = _inner(fault.message)
        message = inner.error.message if inner is not None else fault.message
        code = fault.code if isinstance(fault.code, int) else 0
        if not code and inner is not None and isinstance(inner.error.code, int):
            code = inner.error.code
        found: OutcomeClass = "tool_failed"
        if code in _EXITS:
            found = _EXITS[code]
        elif 400 <= code <= 599:
            found = class_of_status(code)
        elif _BROKEN.search(fault.message):
            found = "network"
        if found == "rate_limited" and _DAILY.search(message):
            found = "usage_limit"
        self._draft.fail(found, message or fault.type, code)
        wait = _RETRY.search(fault.message)
        if wait is not None:
            self._draft.waits(float(wait[1]))


def _inner(message: str) -> _Nested | None:
    """The provider's error object that stands in the text of the harness's; None where there is none."""
    start, end = message.find("{"), message.rfind("}")
    return decoded(message[start : end + 1].encode(), _nested) if 0 <= start < end else None
