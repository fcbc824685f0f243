"""Any tool, by what its profile says of its output (`result`, services/profiles.py): one JSON object, lines of JSON, or text.

Invariants: a value that is not there, or not of the kind it has to be, is unknown and never zero; text is compared as it
is, at the beginning of a line, so nothing that is printed can make the reading slow.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec

from services.executor.adapters.draft import TURNS_MAX, Draft
from services.executor.adapters.lines import Lines, decoded, plain
from services.executor.adapters.source import Source
from services.outcome import Outcome, OutcomeClass
from services.profiles import Result as Reading
from services.profiles import UsageFields, pointer_steps

DOCUMENT_BYTES: Final = 4 * 1024 * 1024

NUMBER_MAX: Final = 10**24
"""Above every limit on an amount; and few enough digits for a sum of decimals to be exact to the nano-dollar."""

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_NUMBER: Final = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?")
_MISSING: Final = object()


class Generic:
    """Reads one invocation."""

    def __init__(self, reading: Reading) -> None:
        """`reading` is the profile's word on where things stand."""
        self._reading = reading
        own: Source = "file"
        if reading.source == "stdout":
            own = "stdout"
        elif reading.source == "stderr":
            own = "stderr"
        self.sources: tuple[Source, ...] = (own,)
        self.sums = reading.repeated == "sum"
        self._draft = Draft()
        self._draft.provider = reading.provider
        self._lines = Lines()
        self._document = bytearray()
        self._too_long = False
        self._results = 0
        self._sums: dict[str, int | Decimal | None] = {}

    def feed(self, chunk: bytes, source: Source = "stdout") -> None:
        """More of the source that the profile names."""
        if source not in self.sources:
            return
        if self._reading.format == "json":
            room = DOCUMENT_BYTES - len(self._document)
            self._too_long = self._too_long or len(chunk) > room
            self._document += chunk[:room]
            return
        for line in self._lines.feed(chunk):
            self._line(line)

    @property
    def concluded(self) -> bool:
        """Never: its profile does not say what comes last."""
        return False

    def so_far(self) -> tuple[Outcome, ...]:
        """By the lines that it has printed; one object is read at the end alone."""
        told = Draft()
        told.provider, told.model = self._draft.provider, self._draft.model
        self._account(told, lower_bound=True)
        return told.spent()

    def finish(self, exit_code: int | None) -> Outcome:
        """What it came to; `exit_code` is None when it did not end by itself."""
        draft = self._draft
        if self._reading.format == "json":
            if self._too_long:
                draft.note(f"its result is longer than {DOCUMENT_BYTES} bytes and was not read")
            else:
                self._object(bytes(self._document).strip())
        else:
            self._line(self._lines.rest())
            if self._lines.dropped:
                draft.note(f"{self._lines.dropped} of its lines were too long")
        self._account(draft, lower_bound=exit_code is None and self._reading.repeated == "sum")
        if not self._results and exit_code == 0 and self._reading.required:
            draft.fail("protocol_error", "it ended without the result that its profile describes")
        return draft.conclude()

    def _line(self, line: bytes) -> None:
        if self._reading.format == "text":
            self._text(plain(line).decode())
            return
        bare = line if line.startswith(b"{") else plain(line).strip()
        if bare.startswith(b"{"):
            self._object(bare)

    # JSON

    def _object(self, data: bytes) -> None:
        found = decoded(data, _decoder) if data else None
        if not isinstance(found, dict):
            return
        for pointer, value in self._reading.select.items():
            there = _at(found, pointer)
            if there != value or isinstance(there, bool) is not isinstance(value, bool):
                return
        self._results += 1
        reading, draft = self._reading, self._draft
        for name, pointer in ("model", reading.model), ("session", reading.session), ("provider", reading.provider_at):
            text = _at(found, pointer) if pointer else None
            if isinstance(text, str):
                setattr(draft, name, text)
        turns = _at(found, reading.turns) if reading.turns else None
        if isinstance(turns, int) and not isinstance(turns, bool) and 0 <= turns <= TURNS_MAX:
            draft.turns = draft.turns + turns if self.sums else turns
        for name, pointer in self._amounts():
            self._add(name, _at(found, pointer))
        self._fault(found)

    def _fault(self, found: dict[str, Any]) -> None:
        error = self._reading.error
        if error is None:
            return
        if not _is_error(_at(found, error.when)):
            self._draft.fail("", "")
            return
        message = _at(found, error.message) if error.message else _at(found, error.when)
        said = message if isinstance(message, str) else "it says that it failed"
        code = _at(found, error.code) if error.code else None
        self._draft.fail(error.classes.get(_key(code), "tool_failed"), said)

    # Text

    def _text(self, line: str) -> None:
        reading, draft = self._reading, self._draft
        for name, label in self._amounts():
            if line.startswith(label):
                number = _NUMBER.match(line[len(label) :].replace(",", "").lstrip(" :=$"))
                self._add(name, None if number is None else _number(number[0]))
                self._results += 1
        for name, label in ("model", reading.model), ("session", reading.session):
            if label and line.startswith(label):
                setattr(draft, name, line[len(label) :].strip(" :="))
                self._results += 1
        error = reading.error
        if error is not None and line.startswith(error.when):
            said = line[len(error.when) :].strip(" :")
            found: OutcomeClass = next((kind for text, kind in error.classes.items() if text in said), "tool_failed")
            draft.fail(found, said or line)
            self._results += 1

    # Amounts

    def _amounts(self) -> Sequence[tuple[str, str]]:
        reading = self._reading
        usage = reading.usage or UsageFields()
        named = [(name, getattr(usage, name)) for name in ("input", "cache_read", "cache_write", "output", "reasoning")]
        return [(name, place) for name, place in (*named, ("cost", reading.cost_usd)) if place]

    def _add(self, name: str, value: object) -> None:
        """The last one counts, or the sum of all; one that is no number makes a sum unknown."""
        known: int | Decimal | None = None
        if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
            known = value if value >= 0 else None
        if value is _MISSING or value is None:
            if self._reading.repeated == "last" or name in self._sums:
                return
        elif known is None:
            self._draft.note(f"its {name} is no number that can be")
        if self._reading.repeated == "sum" and name in self._sums:
            before = self._sums[name]
            known = None if before is None or known is None else _plus(before, known)
        self._sums[name] = known

    def _account(self, draft: Draft, *, lower_bound: bool) -> None:
        fields = self._reading.usage
        if fields is not None:
            self._count(draft, fields, lower_bound=lower_bound)
        cost = self._sums.get("cost")
        if cost is not None:
            draft.charge(Decimal(cost))

    def _count(self, draft: Draft, fields: UsageFields, *, lower_bound: bool) -> None:
        said = {name: value for name, value in self._sums.items() if name != "cost"}
        if not said:
            return
        whole: dict[str, int] = {}
        for name, value in said.items():
            if not isinstance(value, int):
                draft.note("its usage holds numbers that cannot be")
                return
            whole[name] = value
        read, written = whole.get("cache_read", 0), whole.get("cache_write", 0)
        fresh, output = whole.get("input", 0), whole.get("output", 0)
        if fields.input_includes_cache:
            fresh -= read + written
        if not fields.output_includes_reasoning:
            output += whole.get("reasoning", 0)
        draft.count(fresh=fresh, cache_read=read, cache_write=written, output=output, lower_bound=lower_bound)


@lru_cache(maxsize=256)
def _steps(pointer: str) -> tuple[str, ...]:
    return tuple(pointer_steps(pointer))


def _at(value: object, pointer: str) -> object:
    """What stands at a JSON pointer (RFC 6901); _MISSING where nothing does."""
    for step in _steps(pointer):
        if isinstance(value, dict):
            value = value.get(step, _MISSING)
        elif isinstance(value, list) and re.fullmatch(r"[0-9]{1,6}", step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return _MISSING
    return value


def _is_error(value: object) -> bool:
    return value is not _MISSING and value not in (None, False, 0, "", "none", "ok", "success")


def _key(code: object) -> str:
    return str(code).lower() if isinstance(code, bool) else str(code)


def _number(text: str) -> int | Decimal:
    return Decimal(text) if "." in text else int(text)


def _plus(one: int | Decimal, other: int | Decimal) -> int | Decimal | None:
    """The sum; None for numbers that no amount has, which would only be rounded."""
    if isinstance(one, int) and isinstance(other, int):
        return one + other if abs(one + other) < NUMBER_MAX else None
    total = Decimal(one) + Decimal(other)
    return total if abs(total) < NUMBER_MAX else None
