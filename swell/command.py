"""What every command shares: how it reaches a cluster, how it ends, and how it tells of errors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Final, NoReturn, ParamSpec

import typer

from swell.errors import SwellError

if TYPE_CHECKING:
    from swell.client import Client

P = ParamSpec("P")

OPTIONS: Final = {
    "error_class": "--class",
    "group_by": "--by",
    "kinds": "--kind",
    "labels": "--label",
    "model": "--model",
    "repository": "--repository",
    "rows_max": "--max-rows",
    "severities": "--severity",
    "since_ns": "--since",
    "step": "--step",
    "tenant": "--tenant",
    "tool": "--tool",
    "until_ns": "--until",
}
"""By which options the fields of requests are filled that a service may refuse."""


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """A command whose result is the exit code and whose errors are told, not shown as a traceback."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except SwellError as error:
            _fail(error)
        except BrokenPipeError:
            # The reader has left: what is still buffered must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except KeyboardInterrupt:
            code = 130
        raise typer.Exit(code or 0)

    return run


def _fail(error: SwellError) -> NoReturn:
    from swell.text import visible  # noqa: PLC0415 - only errors need it

    if os.environ.get("SWELL_DEBUG") == "1":
        raise error
    said = [f"error: {visible(_named(error))}"]
    if error.where:
        said.append(f"  where: {visible(error.where)}")
    if error.remedy:
        said.append(f"  next: {visible(error.remedy)}")
    sys.stdout.flush()
    sys.stderr.write("\n".join(said) + "\n")
    raise typer.Exit(2 if error.is_input else 1)


def _named(error: SwellError) -> str:
    """Its message; a field of a request under the name of the option that fills it."""
    field, colon, rest = error.message.partition(": ")
    if error.reason != "INVALID_FIELD" or field not in OPTIONS:
        return error.message
    return f"{OPTIONS[field]}{colon}{rest}"


@contextmanager
def cluster_client() -> Iterator[Client]:
    """A client of the configured cluster, or of the embedded one, which is started if need be."""
    from swell.client import Client  # noqa: PLC0415 - gRPC
    from swell.cluster import connected  # noqa: PLC0415 - as above
    from swell.seen import remembered  # noqa: PLC0415 - as above

    said = False

    def report(text: str) -> None:
        nonlocal said
        if sys.stderr.isatty():
            said = True
            sys.stderr.write(f"\r\x1b[K{text} …")
            sys.stderr.flush()

    with connected(report=report) as endpoints, Client(endpoints) as client, remembered(client):
        if said:
            sys.stderr.write("\r\x1b[K")
        yield client


@contextmanager
def much_is_made() -> Iterator[None]:
    """No search for cyclic garbage meanwhile: where a hundred thousand values are made that all stay, it takes a third of
    the time and finds nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def say(lines: list[str] | str) -> None:
    """Print lines, or a text."""
    sys.stdout.write(("\n".join(lines) if isinstance(lines, list) else lines) + "\n")
