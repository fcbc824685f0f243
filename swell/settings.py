"""How a run is configured: flag, else environment, else file, else default.

environment  PIPELINE_DRY_RUN PIPELINE_MAX_WORKERS PIPELINE_TIMEOUT_SEC PIPELINE_WORKSTREAM_DIR SWELL_LABELS SWELL_TENANT
file         the table [run] of `swell/config.toml` under $XDG_CONFIG_HOME or ~/.config
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from swell.errors import invalid

MAX_WORKERS: Final = 4
MAX_WORKERS_MAX: Final = 10_000
TIMEOUT_S: Final = 3600.0
FILE_BYTES_MAX: Final = 256 * 1024

_Workers = Annotated[int, Meta(ge=1, le=MAX_WORKERS_MAX)]
_Seconds = Annotated[float, Meta(gt=0)]
_Delay = Annotated[float, Meta(ge=0)]
_Dollars = Annotated[float, Meta(ge=0, le=1_000_000_000)]


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one layer; None where it says nothing. Files are paths relative to the current folder."""

    max_workers: _Workers | None = None
    timeout_s: _Seconds | None = None
    wave_delay_s: _Delay | None = None
    fail_fast: bool | None = None
    dry_run: bool | None = None
    scheduling: Literal["barrier", "eager"] | None = None
    review: Literal["wait", "fail"] | None = None
    pools: list[str] | None = None
    budget_usd: _Dollars | None = None
    budget_mode: Literal["halt", "warn", "continue"] | None = None
    tool_profiles: str | None = None
    breaker: str | None = None
    recovery: str | None = None
    location: str | None = None
    deliver: Literal["wave", "end", "never"] | None = None
    delivery_style: Literal["rebase", "squash", "merge"] | None = None
    delivery_remote: str | None = None
    delivery_credential: str | None = None
    delivery_hook: str | None = None
    labels: dict[str, str] | None = None
    tenant: str | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    run: RunSettings = RunSettings()


def from_environment(environ: Mapping[str, str] = os.environ) -> RunSettings:
    """What the environment says. Raises SwellError BAD_VARIABLE."""
    return RunSettings(
        max_workers=_positive(environ, "PIPELINE_MAX_WORKERS", MAX_WORKERS_MAX),
        timeout_s=_positive(environ, "PIPELINE_TIMEOUT_SEC", None),
        dry_run=environ["PIPELINE_DRY_RUN"] == "1" if "PIPELINE_DRY_RUN" in environ else None,
        labels=parse_labels(environ["SWELL_LABELS"].split(","), "SWELL_LABELS")
        if environ.get("SWELL_LABELS")
        else None,
        tenant=environ.get("SWELL_TENANT") or None,
    )


def parse_labels(pairs: Iterable[str], subject: str = "--label") -> dict[str, str]:
    """KEY=VALUE texts as labels, in which a later one wins. Raises SwellError BAD_LABEL."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.strip().partition("=")
        if not equals:
            raise invalid("BAD_LABEL", f"{pair[:80]!a} is not KEY=VALUE", "Write it as team=payments.", subject)
        found[key] = value
    return found


def _positive(environ: Mapping[str, str], name: str, limit: int | None) -> int | None:
    text = environ.get(name)
    if text is None or not text.strip():
        return None
    value = int(text) if text.strip().isascii() and text.strip().isdigit() and len(text) < 12 else 0
    if value < 1 or (limit is not None and value > limit):
        wanted = "a whole number of 1 or more" if limit is None else f"a whole number from 1 to {limit}"
        raise invalid("BAD_VARIABLE", f"{text!r} is not {wanted}", "Mend or unset the variable.", name)
    return value


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's configuration file, which need not exist."""
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "swell" / "config.toml"


def from_file(file: Path) -> RunSettings:
    """What the user's file says; nothing when there is none. Raises SwellError BAD_CONFIG."""
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise invalid("BAD_CONFIG", f"is larger than {FILE_BYTES_MAX} bytes", "Make it smaller.", str(file))
        return msgspec.convert(tomllib.loads(data.decode()), _File).run
    except (FileNotFoundError, NotADirectoryError):
        return RunSettings()
    except OSError as error:
        raise invalid("BAD_CONFIG", f"cannot be read: {error.strerror}", "Make it readable.", str(file)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        keys = ", ".join(RunSettings.__struct_fields__)
        raise invalid("BAD_CONFIG", f"{error}", f"Mend it; [run] may have: {keys}.", str(file)) from error


def layered(*layers: RunSettings) -> RunSettings:
    """The settings in force; earlier layers win, with labels each for itself."""
    found: dict[str, Any] = {}
    for name in RunSettings.__struct_fields__:
        found[name] = next((value for layer in layers if (value := getattr(layer, name)) is not None), None)
    given = [layer.labels for layer in reversed(layers) if layer.labels is not None]
    found["labels"] = {key: value for labels in given for key, value in labels.items()} if given else None
    return RunSettings(**found)


def in_force(flags: RunSettings, environ: Mapping[str, str] = os.environ) -> RunSettings:
    """Flags over the environment over the user's file over the defaults."""
    defaults = RunSettings(max_workers=MAX_WORKERS, timeout_s=TIMEOUT_S, wave_delay_s=0.0)
    return layered(flags, from_environment(environ), from_file(config_file(environ)), defaults)


def workstream_dir(repo: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where bundles are when no path is given: PIPELINE_WORKSTREAM_DIR, else `workstreams` in the repository."""
    chosen = environ.get("PIPELINE_WORKSTREAM_DIR")
    return Path(chosen) if chosen else repo / "workstreams"
