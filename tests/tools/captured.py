"""Captured outputs of real tools (fixtures/), fed to adapters the way an executor would, or worse."""

import json
from pathlib import Path

from services.outcome import Cost, Outcome, Usage

FIXTURES = Path(__file__).parent / "fixtures"


def captured(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def heard(adapter, *, exit_code: int | None = 0, chunk: int = 0, **sources: bytes | str) -> Outcome:
    """What an adapter makes of these sources (bytes, or a fixture's name), in chunks of so many bytes."""
    for source, given in sources.items():
        data = captured(given) if isinstance(given, str) else given
        for start in range(0, len(data), chunk or max(len(data), 1)):
            adapter.feed(data[start : start + (chunk or len(data))], source)
    return adapter.finish(exit_code)


def lines(*events: dict) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def changed(name: str, **fields) -> bytes:
    """The last line of a captured stream with some of its fields replaced."""
    *before, last = captured(name).strip().split(b"\n")
    return b"\n".join([*before, json.dumps(json.loads(last) | fields).encode()]) + b"\n"


def usage(fresh=0, read=0, written=0, output=0, *, lower_bound=False) -> Usage:
    return Usage(
        input_tokens=fresh,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=output,
        lower_bound=lower_bound,
    )


def reported(nano_usd: int) -> Cost:
    return Cost(nano_usd=nano_usd, basis="reported")
