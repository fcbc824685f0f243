"""opencode, by `run --format json`.

What is not obvious, each seen in captured output: there is no final event, so the `step_finish` events are added up, each
part once; input is without the cached tokens, output without reasoning; a cost of 0 means that its configuration has no
price; errors come twice; a permission that nobody can give is refused with exit code 0 and a line on standard error.
"""

import re
from decimal import Decimal
from typing import Final

import msgspec

from services.executor.adapters.draft import Counted, Draft, class_of_status, converted, nano_usd
from services.executor.adapters.lines import Events, Lines, decoded, plain
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass, Tokens


class _Cache(msgspec.Struct, frozen=True):
    read: Tokens = 0
    write: Tokens = 0


class _Tokens(msgspec.Struct, frozen=True):
    input: Tokens
    output: Tokens
    reasoning: Tokens = 0
    cache: _Cache = _Cache()


class _Finish(msgspec.Struct, frozen=True):
    id: str = ""
    reason: str = ""
    tokens: msgspec.Raw = msgspec.Raw()
    cost: msgspec.Raw = msgspec.Raw()


class _Step(msgspec.Struct, frozen=True, rename={"session": "sessionID"}):
    part: _Finish
    session: str = ""


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    message: str = ""
    status_code: int | None = None
    is_retryable: bool = False
    response_headers: dict[str, str] = {}
    response_body: str = ""


class _Fault(msgspec.Struct, frozen=True):
    name: str = ""
    data: _Data = _Data()


class _Error(msgspec.Struct, frozen=True, rename={"session": "sessionID"}):
    error: _Fault
    session: str = ""


_steps = msgspec.json.Decoder(_Step)
_errors = msgspec.json.Decoder(_Error)
_tokens = msgspec.json.Decoder(_Tokens)
_decimals = msgspec.json.Decoder(Decimal)

_NAMES: Final[dict[str, OutcomeClass]] = {
    "ContextOverflowError": "context_window",
    "MessageOutputLengthError": "output_limit",
    "ProviderAuthError": "auth",
}
_CODES: Final = re.compile(r'"(?:code|type)"\s*:\s*"(\w{1,60})"')
_BY_CODE: Final[dict[str, OutcomeClass]] = {
    "insufficient_quota": "usage_limit",
    "billing_hard_limit_reached": "usage_limit",
    "context_length_exceeded": "context_window",
    "model_not_found": "model_not_found",
}
_REASONS: Final[dict[str, OutcomeClass]] = {"length": "output_limit", "content-filter": "refusal"}
_REFUSED: Final = re.compile(rb"permission requested: (\w{1,60})\b.*auto-rejecting")


class Opencode:
    """Reads one invocation."""

    sources: tuple[Source, ...] = ("stdout", "stderr")
    sums = True

    def __init__(self) -> None:
        self._draft = Draft()
        self._events = Events({"step_finish": self._step, "error": self._error})
        self._stderr = Lines()
        self._counted = Counted()
        self._sum = [0, 0, 0, 0]
        self._steps = 0
        self._nano: int | None = 0
        self._broken = False
        self._reason = ""

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of its standard output, or of its standard error."""
        if source == "stdout":
            self._events.feed(chunk)
        elif source == "stderr":
            for line in self._stderr.feed(chunk):
                self._complained(line)

    @property
    def concluded(self) -> bool:
        """Never: it has no last event."""
        return False

    def so_far(self) -> tuple[Outcome, ...]:
        """By the steps that it has finished."""
        self._account(whole=False)
        return self._draft.spent()

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        self._events.finish()
        self._complained(self._stderr.rest())
        draft = self._draft
        draft.note(self._events.complaint)
        missing = self._events.complaint or self._counted.full or self._reason in {"", "tool-calls"}
        self._account(whole=exit_code == 0 and not missing)
        if not draft.error_class and self._reason in _REASONS:
            draft.fail(_REASONS[self._reason], f"the model stopped: {self._reason}")
        if exit_code == 0 and not self._events.seen:
            draft.fail("protocol_error", "it ended without any event, though its exit code says success")
        return draft.conclude()

    def _account(self, *, whole: bool) -> None:
        draft = self._draft
        draft.turns = self._steps
        if self._broken:
            draft.note("its usage holds numbers that cannot be")
            draft.usage = draft.cost = None
        elif self._steps:
            fresh, cache_read, cache_write, output = self._sum
            draft.count(
                fresh=fresh, cache_read=cache_read, cache_write=cache_write, output=output, lower_bound=not whole
            )
            draft.cost = None
            if self._nano is not None:
                draft.charge(Decimal(self._nano).scaleb(-9))

    def _step(self, line: bytes) -> bool:
        event = decoded(line, _steps)
        if event is None:
            return False
        self._draft.session = event.session or self._draft.session
        part = event.part
        self._reason = part.reason
        self._draft.fail("", "")
        if part.id and not self._counted.first(part.id):
            return True
        self._steps += 1
        tokens = converted(part.tokens, _tokens)
        if tokens is None:
            self._broken = True
            return True
        numbers = (tokens.input, tokens.cache.read, tokens.cache.write, tokens.output + tokens.reasoning)
        self._sum = [known + more for known, more in zip(self._sum, numbers, strict=True)]
        self._pay(part.cost, any(numbers))
        return True

    def _pay(self, raw: msgspec.Raw, something: bool) -> None:
        """A step of unknown cost makes the sum unknown."""
        usd = converted(raw, _decimals)
        nano = None if usd is None else nano_usd(usd)
        if nano is None and bytes(raw) not in {b"", b"null"}:
            self._draft.note("its cost is a number that cannot be")
        if nano is None or (nano == 0 and something) or self._nano is None:
            self._nano = None
        else:
            self._nano += nano

    def _error(self, line: bytes) -> bool:
        event = decoded(line, _errors)
        if event is None:
            self._draft.fail("tool_failed", "it told an error in a form that could not be read")
            return False
        self._draft.session = event.session or self._draft.session
        data = event.error.data
        self._draft.fail(_class(event.error), data.message or event.error.name, data.status_code or 0)
        headers = {name.lower(): value for name, value in data.response_headers.items()}
        for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
            if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", headers.get(name, "")):
                self._draft.waits(float(headers[name]) / per_second)
                break
        return True

    def _complained(self, line: bytes) -> None:
        refused = _REFUSED.search(plain(line))
        if refused is not None:
            self._draft.deny(refused[1].decode())


def _class(fault: _Fault) -> OutcomeClass:
    if fault.name in _NAMES:
        return _NAMES[fault.name]
    for code in _CODES.findall(fault.data.response_body):
        if code in _BY_CODE:
            return _BY_CODE[code]
    if fault.data.status_code:
        return class_of_status(fault.data.status_code)
    if fault.data.is_retryable or "timed out" in fault.data.message:
        return "network"
    return "tool_failed"
