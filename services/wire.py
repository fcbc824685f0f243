"""How entries and commands look as bytes, and what their subjects are called.

One message on SWELL_EVENTS is one Entry: what one decision produced, hence atomic. JSON, so that an auditor can read it.
Entries are at most 256 KiB; anything large is an artifact named by digest.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec

from services.commands import AnyCommand
from services.events import AnyEvent

ENTRY_BYTES_MAX = 256 * 1024
COMMAND_BYTES_MAX = 256 * 1024
ATTEMPT_DIGITS_MAX = 9

_TOKEN = re.compile(r"\A[A-Za-z0-9_-]{1,128}\Z")


class WireError(ValueError):
    """Bytes from the bus are not what this version writes; the text says what is wrong and what to do."""


class UnknownKindError(WireError):
    """An event kind that this version does not know: written by a newer version."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One append to the log.

    `id` is a fresh UUID; `seen` the position the writer had folded; `cause` the id of the entry that led to this one;
    `at_ns` the writer's own clock (information only); `by` who wrote it, such as `scheduler:7f3a`. `trace` is the W3C
    traceparent that it belongs to, "" without one.
    """

    id: str
    run: str
    at_ns: int
    by: str
    events: list[AnyEvent]
    seen: int = 0
    cause: str = ""
    trace: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """One stored message. `time_ns` is when the stream took it."""

    sequence: int
    subject: str
    time_ns: int
    data: bytes


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An Entry with its events undecoded, byte for byte as they were written."""

    id: str
    run: str
    at_ns: int
    by: str
    events: list[msgspec.Raw]
    seen: int = 0
    cause: str = ""
    trace: str = ""


# Bad UTF-8 is a plain ValueError, and so are msgspec's own errors; deep nesting is a RecursionError.
_UNREADABLE = (ValueError, RecursionError)

_encoder = msgspec.json.Encoder()
_entry_decoder = msgspec.json.Decoder(Entry)
_envelope_decoder = msgspec.json.Decoder(Envelope)
_command_decoder: msgspec.json.Decoder[AnyCommand] = msgspec.json.Decoder(AnyCommand)
_kind_decoder = msgspec.json.Decoder(dict[str, Any])


def encode_entry(entry: Entry) -> bytes:
    """Raises WireError when the entry is larger than ENTRY_BYTES_MAX, or holds what could not be read back."""
    try:
        data = _encoder.encode(entry)
        _entry_decoder.decode(data)
    except _UNREADABLE as error:
        raise WireError(f"entry of run {entry.run} could not be read back: {error}") from error
    if len(data) > ENTRY_BYTES_MAX:
        kinds = ", ".join(sorted({type(event).__name__ for event in entry.events}))
        raise WireError(
            f"entry of run {entry.run} is {len(data)} bytes, over {ENTRY_BYTES_MAX} ({kinds}): move its text to an artifact"
        )
    return data


def decode_entry(data: bytes) -> Entry:
    """Raises UnknownKindError for a kind of a newer version, WireError for anything else that does not fit."""
    try:
        return _entry_decoder.decode(data)
    except msgspec.ValidationError as error:
        for kind in _kinds(data):
            if kind not in _KNOWN:
                raise UnknownKindError(
                    f"event kind {kind!r} is not known to this version: upgrade this service"
                ) from error
        raise WireError(f"not an entry: {error}") from error
    except _UNREADABLE as error:
        raise WireError(f"not an entry: {error}") from error


def decode_envelope(data: bytes) -> Envelope:
    """An entry without a look at its events, whatever their kind. Raises WireError."""
    try:
        return _envelope_decoder.decode(data)
    except _UNREADABLE as error:
        raise WireError(f"not an entry: {error}") from error


def encode_command(command: AnyCommand) -> bytes:
    """Raises WireError when the command is larger than COMMAND_BYTES_MAX."""
    data = _encoder.encode(command)
    if len(data) > COMMAND_BYTES_MAX:
        raise WireError(f"command of run {command.run} is {len(data)} bytes, over {COMMAND_BYTES_MAX}")
    return data


def decode_command(data: bytes) -> AnyCommand:
    """Raises WireError."""
    try:
        return _command_decoder.decode(data)
    except _UNREADABLE as error:
        raise WireError(f"not a command of this version: {error}") from error


def _kinds(data: bytes) -> list[str]:
    """The kinds that an entry's events name; one without a name was written by no version."""
    try:
        named = [_kind_decoder.decode(raw).get("kind") for raw in decode_envelope(data).events]
    except _UNREADABLE:
        return []
    return [kind for kind in named if isinstance(kind, str)]


_KNOWN = {
    str(kind.__struct_config__.tag)
    for kind in AnyEvent.__args__  # the union is the registry
}


@lru_cache(maxsize=4096)
def token(name: str) -> str:
    """`name`, if it can be one token of a subject; raises WireError otherwise."""
    if not _TOKEN.match(name):
        raise WireError(f"{name!r} cannot be part of a subject: use 1 to 128 letters, digits, '-' or '_'")
    return name


def run_subject(run: str) -> str:
    """Where the scheduler's decisions of a run stand."""
    return f"swell.event.{token(run)}.run"


def request_subject(run: str) -> str:
    """Where what users ask of a run stands."""
    return f"swell.event.{token(run)}.request"


def attempt_subject(run: str, workstream: str, attempt: int) -> str:
    """Where the life of one attempt stands: at most one claim and one close."""
    return f"swell.event.{token(run)}.{token(workstream)}.{attempt}"


def late_subject(run: str, workstream: str, attempt: int) -> str:
    """Where facts of a closed attempt go."""
    return attempt_subject(run, workstream, attempt) + ".late"


def all_of_run(run: str) -> str:
    """Every subject of a run."""
    return f"swell.event.{token(run)}.>"


def command_subject(pool: str, run: str, workstream: str, attempt: int) -> str:
    """Where the wake-up call of one attempt goes."""
    return f"swell.command.{token(pool)}.{token(run)}.{token(workstream)}.{attempt}"


def live_subject(run: str, workstream: str) -> str:
    """Where an executor says what a tool prints; `*` for any workstream. Nothing keeps it."""
    return f"swell.live.{token(run)}.{workstream if workstream == '*' else token(workstream)}"


class Place(msgspec.Struct, frozen=True):
    """What an event subject says: `kind` is run, request, attempt or late."""

    kind: str
    run: str
    workstream: str = ""
    attempt: int = 0


@lru_cache(maxsize=4096)
def parse_subject(subject: str) -> Place:
    """The place an event subject names; raises WireError for any other subject."""
    match subject.split("."):
        case ["swell", "event", run, ("run" | "request") as kind]:
            return Place(kind, run)
        case ["swell", "event", run, workstream, attempt] if _is_number(attempt):
            return Place("attempt", run, workstream, int(attempt))
        case ["swell", "event", run, workstream, attempt, "late"] if _is_number(attempt):
            return Place("late", run, workstream, int(attempt))
        case _:
            raise WireError(f"{subject!r} is not a subject of SWELL_EVENTS")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= ATTEMPT_DIGITS_MAX
