"""aider, by its standard output and its `--analytics-log`, which it writes whether or not analytics are sent.

What is not obvious, each seen in captured output: the exit code is 0 on 401, 429 and 500, without a key, and when its
reflections are used up. Its own words and the model's share standard output, so a line there is believed only where the log
bears it out: a message that was begun and not answered has failed, and the last line of the form `litellm.…Error` says how.
Costs of single messages are exact in the log, and 0 for models that it has no price for.
"""

import re
from decimal import Decimal
from typing import Final

import msgspec

from services.executor.adapters.draft import Draft, class_of_status, nano_usd
from services.executor.adapters.lines import Lines, decoded, plain
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass, Tokens

LOG: Final = "{scratch}/aider.analytics.jsonl"
"""Where its profile has to have the log written."""

REFLECTIONS: Final = 3


class _Properties(msgspec.Struct, frozen=True):
    main_model: str | None = None
    prompt_tokens: msgspec.Raw = msgspec.Raw()
    completion_tokens: msgspec.Raw = msgspec.Raw()
    cost: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, frozen=True):
    event: str = ""
    properties: _Properties = _Properties()


_events = msgspec.json.Decoder(_Event)
_counts = msgspec.json.Decoder(Tokens)
_decimals = msgspec.json.Decoder(Decimal)

_REDACTED: Final = "/REDACTED"
"""Ends the name of a model in the log that aider keeps to itself."""

_MODEL: Final = re.compile(rb"(?:Main model|Model): (\S{1,200}) with ")
_ERROR: Final = re.compile(rb"litellm\.(?:exceptions\.)?(\w{0,60}(?:Error|Timeout)): ?(.{0,2000})")
_REFLECTED: Final = re.compile(rb"Only \d+ reflections allowed, stopping\.")
_STATUS: Final = re.compile(r"\b(4\d\d|5\d\d)\b")

_NAMES: Final[dict[str, OutcomeClass]] = {
    "AuthenticationError": "auth",
    "PermissionDeniedError": "auth",
    "RateLimitError": "rate_limited",
    "ServiceUnavailableError": "overloaded",
    "InternalServerError": "server_error",
    "APIError": "server_error",
    "APIConnectionError": "network",
    "Timeout": "network",
    "APITimeoutError": "network",
    "NotFoundError": "model_not_found",
    "ContextWindowExceededError": "context_window",
    "ContentPolicyViolationError": "refusal",
    "BudgetExceededError": "usage_limit",
    "UnsupportedParamsError": "unsupported_params",
    "BadRequestError": "unsupported_params",
}
_TEXTS: Final[tuple[tuple[str, OutcomeClass], ...]] = (
    ("api key", "auth"),
    ("api_key", "auth"),
    ("insufficient_quota", "usage_limit"),
    ("exceeded your current quota", "usage_limit"),
    ("context length", "context_window"),
    ("context window", "context_window"),
    ("overloaded", "overloaded"),
    ("exception - connection", "network"),
)
"""What the provider's own words say where litellm's name of the error does not: it makes a 401 a
BadRequestError, and a connection that broke an InternalServerError ("Connection error.", which aider wraps)."""


class Aider:
    """Reads one invocation."""

    sources: tuple[Source, ...] = ("stdout", "file")
    sums = True

    def __init__(self) -> None:
        self._draft = Draft()
        self._stdout = Lines()
        self._log = Lines()
        self._model = ""
        self._said: tuple[str, str] | None = None
        self._reflected = False
        self._begun = 0
        self._answered = 0
        self._ended = False
        self._unreadable = 0
        self._fresh = 0
        self._output = 0
        self._broken = False
        self._nano: int | None = 0

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of its standard output, or of its log."""
        if source == "stdout":
            for line in self._stdout.feed(chunk):
                self._heard(line)
        elif source == "file":
            for line in self._log.feed(chunk):
                self._logged(line)

    @property
    def concluded(self) -> bool:
        """Whether its log says that it ends."""
        return self._ended

    def so_far(self) -> tuple[Outcome, ...]:
        """By its log, which has a line for every answer."""
        self._account(None)
        return self._draft.spent()

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        self._heard(self._stdout.rest())
        self._logged(self._log.rest())
        draft = self._draft
        if self._unreadable or self._log.dropped:
            draft.note(f"{self._unreadable + self._log.dropped} lines of its log could not be read")
        self._account(exit_code)
        self._judge(exit_code)
        return draft.conclude()

    def _heard(self, line: bytes) -> None:
        if not self._model:
            found = _MODEL.match(plain(line))
            if found is not None:
                self._model = found[1].decode()
        if b"litellm." in line[:200]:
            error = _ERROR.match(plain(line))
            if error is not None:
                self._said = (error[1].decode(), error[2].decode("utf-8", "replace"))
        elif b"reflections allowed" in line and _REFLECTED.fullmatch(plain(line).strip()):
            self._reflected = True

    def _logged(self, line: bytes) -> None:
        if not line.strip():
            return
        entry = decoded(line, _events)
        if entry is None:
            self._unreadable += 1
            return
        if entry.event == "message_send_starting":
            self._begun += 1
        elif entry.event == "message_send":
            self._answered += 1
            self._count(entry.properties)
        elif entry.event == "exit":
            self._ended = True

    def _count(self, properties: _Properties) -> None:
        named = properties.main_model or ""
        if named not in {"", "None"} and not named.endswith(_REDACTED):
            self._model = named
        try:
            fresh, output = _counts.decode(properties.prompt_tokens), _counts.decode(properties.completion_tokens)
        except msgspec.DecodeError:
            self._broken = True
            return
        self._fresh += fresh
        self._output += output
        try:
            nano = nano_usd(_decimals.decode(properties.cost))
        except msgspec.DecodeError:
            nano = None
        if nano is None and bytes(properties.cost) not in {b"", b"null"}:
            self._draft.note("its cost is a number that cannot be")
        unknown = nano is None or self._nano is None or (nano == 0 and fresh + output > 0)
        self._nano = None if unknown else (self._nano or 0) + (nano or 0)

    def _account(self, exit_code: int | None) -> None:
        draft = self._draft
        draft.model = self._model
        draft.provider = self._model.partition("/")[0] if "/" in self._model else ""
        draft.turns = self._answered
        if self._broken:
            draft.note("its usage holds numbers that cannot be")
            draft.usage = draft.cost = None
            return
        if not self._answered:
            return
        whole = exit_code is not None and self._ended and self._begun <= self._answered
        draft.count(fresh=self._fresh, output=self._output, lower_bound=not whole)
        draft.cost = None
        if self._nano is not None:
            draft.charge(Decimal(self._nano).scaleb(-9))

    def _judge(self, exit_code: int | None) -> None:
        logged = self._begun or self._answered
        if not logged:
            self._draft.note("its analytics log is not there")
        unanswered = self._begun > self._answered
        if self._said is not None and (unanswered or not logged):
            self._blame(*self._said)
        elif unanswered and exit_code == 0:
            self._draft.fail("tool_failed", "the model did not answer, and it did not say why")
        elif self._reflected and self._answered > REFLECTIONS:
            self._draft.fail("max_turns", "it used up its reflections without an edit that applies and passes")

    def _blame(self, name: str, said: str) -> None:
        found = _NAMES.get(name, "tool_failed")
        status = _STATUS.search(said)
        number = int(status[1]) if status is not None else 0
        if found in {"unsupported_params", "rate_limited", "server_error", "tool_failed"}:
            lower = said.lower()
            found = next((error_class for text, error_class in _TEXTS if text in lower), found)
        if found in {"unsupported_params", "tool_failed"} and number:
            found = class_of_status(number)
        self._draft.fail(found, f"{name}: {said}", number)
