"""Claude Code, by `--output-format stream-json --verbose`; the single object of `--output-format json` is read as well.

What is not obvious, each seen in captured output:

* `subtype` is "success" on API errors too: `is_error`, `terminal_reason` and `api_error_status` decide.
* After a resume `total_cost_usd` and `modelUsage` are of the whole session in newer versions, and of the process in older
  ones; `model_usage_since_last_result`, which the streams of newer versions have, is of this invocation in any case.
* `usage` lacks the call that reached a budget.
* A denied tool is no error: exit code 0, and `permission_denials` names it.
* Without a result line (killed) only the `assistant` events tell what was used; their output counts are those of the
  beginning of each message, so the sum over unique messages is a lower bound.
"""

from decimal import Decimal
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from services.executor.adapters.draft import NAME_CHARS, Counted, Draft, class_of_status, converted, nano_usd
from services.executor.adapters.lines import Events, decoded
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass, Tokens, Usage

_Count = Tokens | None


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: _Count = None
    cache_read_input_tokens: _Count = None
    cache_creation_input_tokens: _Count = None
    output_tokens: _Count = None


class _ModelUsage(msgspec.Struct, frozen=True, rename="camel"):
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_read_input_tokens: Tokens = 0
    cache_creation_input_tokens: Tokens = 0
    cost: Decimal | None = msgspec.field(name="costUSD", default=None)
    basis: str = msgspec.field(name="costBasis", default="list")
    provider: str = ""


_ByModel = Annotated[dict[str, _ModelUsage], Meta(max_length=100)]


class _Message(msgspec.Struct, frozen=True):
    id: str = ""
    model: str = ""
    usage: msgspec.Raw = msgspec.Raw()


class _Assistant(msgspec.Struct, frozen=True):
    message: _Message
    error: str | None = None


class _System(msgspec.Struct, frozen=True):
    subtype: str = ""
    session_id: str = ""
    model: str = ""
    error: str | None = None


class _RateLimit(msgspec.Struct, frozen=True, rename="camel"):
    status: str = ""
    resets_at: int | float | None = None


class _RateLimitEvent(msgspec.Struct, frozen=True):
    rate_limit_info: _RateLimit


class _Denial(msgspec.Struct, frozen=True):
    tool_name: str = ""


class _Result(msgspec.Struct, frozen=True):
    is_error: bool = False
    subtype: str = ""
    terminal_reason: str | None = None
    stop_reason: str | None = None
    api_error_status: int | None = None
    api_error_type: str | None = None
    session_id: str = ""
    num_turns: int = 0
    queued_turn_count: int = 0
    result: str | None = None
    errors: msgspec.Raw = msgspec.Raw()
    total_cost_usd: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    by_model: msgspec.Raw = msgspec.field(name="modelUsage", default=msgspec.Raw())
    since_last: msgspec.Raw = msgspec.field(name="model_usage_since_last_result", default=msgspec.Raw())
    permission_denials: msgspec.Raw = msgspec.Raw()


_assistants = msgspec.json.Decoder(_Assistant)
_systems = msgspec.json.Decoder(_System)
_rate_limits = msgspec.json.Decoder(_RateLimitEvent)
_results = msgspec.json.Decoder(_Result)
_usages = msgspec.json.Decoder(_Usage)
_by_models = msgspec.json.Decoder(_ByModel)
_denials = msgspec.json.Decoder(list[_Denial])
_texts = msgspec.json.Decoder(list[str])
_decimals = msgspec.json.Decoder(Decimal)

_REASONS: Final[dict[str, OutcomeClass]] = {
    "max_turns": "max_turns",
    "error_max_turns": "max_turns",
    "budget_exhausted": "budget",
    "error_max_budget_usd": "budget",
    "prompt_too_long": "context_window",
}
_TYPES: Final[dict[str, OutcomeClass]] = {
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "usage_limit",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "not_found_error": "model_not_found",
    "request_too_large": "context_window",
    "invalid_request_error": "unsupported_params",
    "timeout_error": "network",
    "api_error": "server_error",
}
_WORDS: Final[dict[str, OutcomeClass]] = {
    "authentication_failed": "auth",
    "billing_error": "usage_limit",
    "rate_limit": "rate_limited",
    "invalid_request": "unsupported_params",
    "max_output_tokens": "output_limit",
}
"""What an `assistant` event says of the error that it stands for; only where there is no HTTP status to go by."""

_STOPS: Final[dict[str, OutcomeClass]] = {"refusal": "refusal", "max_tokens": "output_limit"}


MODELS_MAX: Final = 20
"""Models that are told apart before a result; what others did counts for no model."""

_NOTHING: Final = (0, 0, 0, 0, 0)


class Claude:
    """Reads one invocation."""

    sources: tuple[Source, ...] = ("stdout",)
    sums = False

    def __init__(self) -> None:
        self._draft = Draft()
        self._draft.provider = "anthropic"
        self._events = Events(
            {
                "system": self._system,
                "assistant": self._assistant,
                "rate_limit_event": self._rate_limit,
                "result": self._result,
            }
        )
        self._counted = Counted()
        self._least: dict[str, list[int]] = {}
        self._answered = False
        self._queued = False
        self._since = [0, 0, 0, 0]
        self._since_nano: int | None = 0
        self._guessed = False
        self._streams = False
        self._window_closed = False
        self._error = ""

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of its standard output."""
        if source == "stdout":
            self._events.feed(chunk)

    @property
    def concluded(self) -> bool:
        """Whether its result is there, and nothing follows."""
        return self._answered and not self._queued and not self._least

    def so_far(self) -> tuple[Outcome, ...]:
        """By its last result, and by the messages that were begun since: their output is known only in part."""
        found = self._draft.spent()
        for model, numbers in self._least.items():
            begun = Draft()
            begun.provider, begun.model = self._draft.provider, model
            begun.count(
                fresh=numbers[0], cache_read=numbers[1], cache_write=numbers[2], output=numbers[3], lower_bound=True
            )
            found += begun.spent()
        return found

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        self._events.finish()
        draft = self._draft
        draft.note(self._events.complaint)
        self._at_least()
        if not self._answered and exit_code == 0:
            draft.fail("protocol_error", "it ended without a result line, though its exit code says success")
        return draft.conclude()

    # Events

    def _system(self, line: bytes) -> bool:
        event = decoded(line, _systems)
        if event is None:
            return False
        if event.subtype == "init":
            self._streams = True
            self._draft.session, self._draft.model = event.session_id, event.model
        elif event.subtype == "api_retry":
            self._error = event.error or ""
        return True

    def _assistant(self, line: bytes) -> bool:
        event = decoded(line, _assistants)
        if event is None:
            return False
        self._error = event.error or ""
        message = event.message
        usage = converted(message.usage, _usages)
        if usage is not None and message.model != "<synthetic>" and message.id and self._counted.first(message.id):
            self._begin((message.model or self._draft.model)[:NAME_CHARS], usage)
        return True

    def _begin(self, model: str, usage: _Usage) -> None:
        numbers = [getattr(usage, name) or 0 for name in usage.__struct_fields__]
        if not any(numbers):
            return
        fresh, cache_read, cache_write, output = numbers
        model = model if model in self._least or len(self._least) < MODELS_MAX else ""
        before = self._least.get(model, _NOTHING)
        more = (fresh, cache_read, cache_write, output, 1)
        self._least[model] = [known + another for known, another in zip(before, more, strict=True)]

    def _rate_limit(self, line: bytes) -> bool:
        event = decoded(line, _rate_limits)
        if event is None:
            return False
        self._window_closed = event.rate_limit_info.status == "rejected"
        if self._window_closed and event.rate_limit_info.resets_at is not None:
            self._draft.resets(event.rate_limit_info.resets_at)
        return True

    def _result(self, line: bytes) -> bool:
        event = decoded(line, _results)
        if event is None:
            return False
        self._answered = True
        draft = self._draft
        draft.usage = draft.cost = None
        self._least = {}
        self._queued = event.queued_turn_count > 0
        draft.session = event.session_id or draft.session
        draft.turns = event.num_turns
        for denial in converted(event.permission_denials, _denials) or ():
            draft.deny(denial.tool_name)
        self._judge(event)
        self._account(event)
        return True

    def _judge(self, event: _Result) -> None:
        status = event.api_error_status or 0
        if not event.is_error:
            stopped = _STOPS.get(event.stop_reason or "", "")
            self._draft.fail(stopped, f"the model stopped: {event.stop_reason}" if stopped else "")
            return
        errors = converted(event.errors, _texts) or ()
        said = event.result or "; ".join(errors) or f"it ended with {event.terminal_reason or event.subtype}"
        self._draft.fail(self._class(event, status), said, status)

    def _class(self, event: _Result, status: int) -> OutcomeClass:
        for reason in (event.terminal_reason, event.subtype):
            if reason in _REASONS:
                return _REASONS[reason]
        by_type = _TYPES.get(event.api_error_type or "")
        if by_type is not None or status:
            found = by_type or class_of_status(status)
            return "usage_limit" if found == "rate_limited" and self._window_closed else found
        if self._error in _WORDS:
            return _WORDS[self._error]
        return "network" if self._error or event.terminal_reason == "api_error" else "tool_failed"

    # Amounts

    def _account(self, event: _Result) -> None:
        """By what is surely of this invocation: since the last result, or all of a stream of a version without that."""
        draft = self._draft
        since = converted(event.since_last, _by_models)
        whole = converted(event.by_model, _by_models)
        own = self._own(event)
        if since is not None:
            self._add(since)
        elif bytes(event.since_last) not in {b"", b"null"}:
            draft.usage = own and msgspec.structs.replace(own, lower_bound=True)
            draft.note("its usage holds numbers that cannot be")
        elif whole and self._streams:
            self._count(_sum(whole), _nano(whole), guessed=_guessed(whole))
        elif whole and own is not None and _sum(whole) != own:
            draft.usage = msgspec.structs.replace(own, lower_bound=True)
            draft.note("its cost may be of a whole session, which was resumed, and is not taken")
        else:
            draft.usage = own
            self._charge_total(event, whole or {})
        if since or whole:
            self._name(since or whole or {})

    def _own(self, event: _Result) -> Usage | None:
        """The invocation's own usage. It lacks the last call when a cap ended it, and what helpers of the agent used."""
        own = converted(event.usage, _usages)
        numbers = [] if own is None else [getattr(own, name) for name in own.__struct_fields__]
        if all(number is None for number in numbers):
            if bytes(event.usage) and bytes(event.since_last) in {b"", b"null"}:
                self._draft.note("its usage holds numbers that cannot be")
            return None
        fresh, cache_read, cache_write, output = (number or 0 for number in numbers)
        return Usage(
            input_tokens=fresh, cache_read_tokens=cache_read, cache_write_tokens=cache_write, output_tokens=output
        )

    def _charge_total(self, event: _Result, whole: dict[str, _ModelUsage]) -> None:
        usd = converted(event.total_cost_usd, _decimals)
        if usd is not None and self._draft.usage is not None:
            self._draft.charge(usd, "estimate" if _guessed(whole) else "reported")
        elif usd is None and bytes(event.total_cost_usd) not in {b"", b"null"}:
            self._draft.note("its cost is a number that cannot be")

    def _add(self, since: dict[str, _ModelUsage]) -> None:
        """What came since the last result of this invocation, or of the one that it resumed."""
        more, nano = _sum(since), _nano(since)
        self._since = [known + other for known, other in zip(self._since, _numbers(more), strict=True)]
        self._since_nano = None if self._since_nano is None or nano is None else self._since_nano + nano
        self._guessed = self._guessed or _guessed(since)
        fresh, cache_read, cache_write, output = self._since
        total = Usage(
            input_tokens=fresh, cache_read_tokens=cache_read, cache_write_tokens=cache_write, output_tokens=output
        )
        self._count(total, self._since_nano, guessed=self._guessed)

    def _count(self, total: Usage, nano: int | None, *, guessed: bool) -> None:
        draft = self._draft
        fresh, cache_read, cache_write, output = _numbers(total)
        draft.count(fresh=fresh, cache_read=cache_read, cache_write=cache_write, output=output)
        if nano is None:
            draft.note("its cost is missing, or a number that cannot be")
        elif draft.usage is not None:
            draft.charge(Decimal(nano).scaleb(-9), "estimate" if guessed else "reported")

    def _name(self, models: dict[str, _ModelUsage]) -> None:
        """The model that did most, and who served it."""
        name, usage = max(models.items(), key=lambda item: item[1].output_tokens + item[1].input_tokens)
        self._draft.model = self._draft.model or name
        if usage.provider not in {"", "firstParty"}:
            self._draft.provider = usage.provider

    def _at_least(self) -> None:
        """What was begun after the last result, or without any."""
        if self._least:
            before = (*_numbers(self._draft.usage or Usage()), self._draft.turns)
            fresh, cache_read, cache_write, output, self._draft.turns = map(
                sum, zip(before, *self._least.values(), strict=True)
            )
            self._draft.model = self._draft.model or next(iter(self._least))
            self._draft.cost = None
            self._draft.count(
                fresh=fresh, cache_read=cache_read, cache_write=cache_write, output=output, lower_bound=True
            )


def _guessed(models: dict[str, _ModelUsage]) -> bool:
    return any(usage.basis == "unknown" for usage in models.values())


def _nano(models: dict[str, _ModelUsage]) -> int | None:
    """The sum of the models' costs; None when one is no sum of money, or missing."""
    parts = [None if usage.cost is None else nano_usd(usage.cost) for usage in models.values()]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _numbers(usage: Usage) -> tuple[int, int, int, int]:
    return usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens


def _sum(models: dict[str, _ModelUsage]) -> Usage:
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in models.values()),
        cache_read_tokens=sum(usage.cache_read_input_tokens for usage in models.values()),
        cache_write_tokens=sum(usage.cache_creation_input_tokens for usage in models.values()),
        output_tokens=sum(usage.output_tokens for usage in models.values()),
    )
