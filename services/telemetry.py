"""Logs: one JSON object per line on standard error, of this code and of the libraries alike.

* A line is ASCII and at most LINE_CHARS_MAX characters, whatever the values are: line feeds and control characters are
  escaped, what is too long is cut, what has no form in JSON is told as text. So is an exception that nobody handled.
* Logging never raises: neither for what is logged, nor where the line goes to.
* No line holds a value that `configure` was told to mask, nor what looks like a secret by its shape.
* What a line is about stands in the same fields everywhere, see `about` and docs/logs.md. Whoever handles a request, a
  decision or a step says once what it is about; every line until its end, of whatever module, then says so.
"""

import contextlib
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, TextIO, cast

import structlog

from services.masking import KEY_BLOCK_BYTES, SECRET_CHARS_MIN, Secrets
from services.trace import Trace

LEVEL_VARIABLE = "SWELL_LOG_LEVEL"
"""The environment variable that sets the level: debug, info (the default), warning or error."""

LINE_CHARS_MAX: Final = 16 * 1024
"""What collectors of logs take as one line."""

TEXT_CHARS_MAX: Final = 8 * 1024
"""Of one value."""

FIRST_CHARS_MAX: Final = 1024
"""Of the value of a field that begins a line."""

FIELDS_MAX: Final = 50
FIELD_CHARS_MAX: Final = 100
ROOM_MIN: Final = 32
"""A field for which less room is left is left out."""

NODES_MAX: Final = 200
"""Values within one value: items of lists, entries of tables."""

DEPTH_MAX: Final = 4
DIGITS_MAX: Final = 20
CUT: Final = "[cut]"

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIRST: Final = ("timestamp", "level", "service", "event", "run", "workstream", "attempt", "trace_id", "span_id")
"""The fields that begin a line, in this order; room is kept for them."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,60}")
_OURS: Final = frozenset({"timestamp", "level", "service", "trace_id", "span_id"})

log = structlog.get_logger()


def configure(service: str, env: Mapping[str, str], mask: Callable[[str], str] | None = None) -> None:
    """Log as `service` from now on. `mask` takes secrets out of a text; by default only what looks like one.

    Raises ValueError for a level that does not exist.
    """
    name = env.get(LEVEL_VARIABLE, "info").lower()
    if name not in _LEVELS:
        raise ValueError(f"{LEVEL_VARIABLE}={name!r} is no level: use {', '.join(_LEVELS)}")
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    line = _Line(service, mask or Secrets(()).mask_text)
    structlog.configure(
        processors=[*shared, line],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[name]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, line]
        )
    )
    # Libraries speak up at warning at the earliest: what they do in between is ours to log.
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[name], logging.WARNING), force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _unhandled
    threading.excepthook = _unhandled_in_thread


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Log nothing meanwhile: for a command whose answer says all that there is to say."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def about(
    *, run: str = "", workstream: str = "", attempt: int = 0, trace: Trace | None = None
) -> contextlib.AbstractContextManager[Any]:
    """Every line in this context, and in tasks that begin in it, is about this; what is left empty is not touched.

    `run` is a run's id, or `fleet` for what concerns all of them. `trace` is the span that the work belongs to.
    """
    known: dict[str, object] = {"run": run, "workstream": workstream, "attempt": attempt}
    if trace is not None:
        known |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
    return structlog.contextvars.bound_contextvars(**{name: value for name, value in known.items() if value})


def _unhandled(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.error("service.crashed", exc_info=(kind, error, traceback))


def _unhandled_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        log.error("service.thread_crashed", exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback))


class _Unfailing:
    """A stream that swallows what it cannot write: a full disk under the log must not end the work that it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Line:
    """Makes a line of what is to be logged."""

    def __init__(self, service: str, mask: Callable[[str], str]) -> None:
        self._service = service
        self._mask = mask

    def __call__(self, _logger: structlog.types.WrappedLogger, _method: str, event: structlog.types.EventDict) -> str:
        event["service"] = self._service
        names = [name for name in _FIRST if name in event]
        names += [name for name in list(event)[:FIELDS_MAX] if name not in _FIRST]
        parts: list[str] = []
        left = LINE_CHARS_MAX
        for name in names:
            key = f'"{name}"' if _NAME.fullmatch(name) else self._text(str(name), FIELD_CHARS_MAX)
            room = min(left - len(key), FIRST_CHARS_MAX if name in _FIRST else TEXT_CHARS_MAX)
            if room < ROOM_MIN:
                break
            value = event[name]
            # Ours, and of every line: nothing in them is to be looked for.
            known = name in _OURS and isinstance(value, str)
            # What separates a field from the next is counted.
            parts.append(f"{key}: {json.dumps(value) if known else self._value(value, room - 4)}")
            left -= len(parts[-1]) + 2
        return "{" + ", ".join(parts) + "}"

    def _value(self, value: object, limit: int) -> str:
        """JSON of at most `limit` characters."""
        if isinstance(value, str):
            return self._text(value, limit)
        rendered = json.dumps(self._plain(value, DEPTH_MAX, [NODES_MAX]))
        return rendered if len(rendered) <= limit else self._text(rendered, limit)

    def _text(self, text: str, limit: int) -> str:
        """A text as JSON of at most `limit` characters; of a longer one its beginning and its end.

        Masked is what is longer than what is kept, so that no secret is cut and then not recognised.
        """
        reach = limit + KEY_BLOCK_BYTES
        if len(text) <= reach:
            whole = json.dumps(self._masked(text))
            if len(whole) <= limit:
                return whole
        half = (limit - len(CUT) - 2) // 2
        begins = _fitting(self._masked(text[:reach]), half, at_end=False)
        return f'"{begins}{CUT}{_fitting(self._masked(text[-reach:]), half, at_end=True)}"'

    def _masked(self, text: str) -> str:
        """Without secrets, and without halves of characters, which no reader of JSON has to take."""
        if len(text) < SECRET_CHARS_MIN and text.isascii():
            return text
        return self._mask(text if text.isascii() else text.encode("utf-8", "replace").decode())

    def _begins(self, text: str, limit: int) -> str:
        return self._masked(text[: limit + KEY_BLOCK_BYTES])[:limit]

    def _plain(self, value: object, depth: int, nodes: list[int]) -> object:
        """The same in what JSON has; `nodes` counts down over the whole of it."""
        nodes[0] -= 1
        match value:
            case None | bool():
                return value
            case int():
                return value if abs(value) < 10**DIGITS_MAX else CUT
            case float():
                return value if math.isfinite(value) else str(value)
            case str():
                return self._begins(value, TEXT_CHARS_MAX)
            case Mapping() if depth:
                return {
                    self._begins(str(name), FIELD_CHARS_MAX): self._plain(one, depth - 1, nodes)
                    for name, one in _few(value.items(), nodes)
                }
            case list() | tuple() | set() | frozenset() if depth:
                return [self._plain(one, depth - 1, nodes) for one in _few(value, nodes)]
            case _:
                return self._begins(_told(value), TEXT_CHARS_MAX)


def _few(values: Iterable[Any], nodes: list[int]) -> Iterable[Any]:
    """As many of these as there is room for."""
    for value in values:
        if nodes[0] <= 0:
            return
        yield value


def _fitting(text: str, room: int, *, at_end: bool) -> str:
    """As much of a text's beginning (or end), escaped as in JSON, as fits into `room` characters."""
    keep = min(room, len(text))
    while True:
        part = text[len(text) - keep :] if at_end else text[:keep]
        rendered = json.dumps(part)[1:-1]
        if len(rendered) <= room:
            return rendered
        keep = keep * room // len(rendered)


def _told(value: object) -> str:
    """What an object says of itself."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be told must not take the line with it
        return f"{type(value).__name__} that cannot be told: {type(error).__name__}"
