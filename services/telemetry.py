"""Logs: one JSON object per line on standard error, of this code and of the libraries alike."""

import logging
import sys
from collections.abc import Mapping

import structlog

LEVEL_VARIABLE = "SWELL_LOG_LEVEL"
"""The environment variable that sets the level: debug, info (the default), warning or error."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(service: str, env: Mapping[str, str]) -> None:
    """Log as `service` from now on. Raises ValueError for a level that does not exist."""
    name = env.get(LEVEL_VARIABLE, "info").lower()
    if name not in _LEVELS:
        raise ValueError(f"{LEVEL_VARIABLE}={name!r} is no level: use {', '.join(_LEVELS)}")
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, _naming(service), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[name]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _naming(service)],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    # Libraries speak up at warning at the earliest: what they do in between is ours to log.
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[name], logging.WARNING), force=True)


def _naming(service: str) -> structlog.types.Processor:
    def name(
        _logger: structlog.types.WrappedLogger, _method: str, event: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return name
