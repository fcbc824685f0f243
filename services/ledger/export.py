"""What is recorded as lines of JSON, one for each row, in order and in pieces of bounded size.

* `entries`: what the log holds, with the hash of each. `raw` is the message as text where it is UTF-8, which JSON gives back
  byte for byte, else `raw_base64`: so whoever has these lines can follow the chain of hashes without Swell.
* `events`: what happened, one line for each event. `payload` is the event as it was written.
* `aim`: one line for each invocation of a tool by capability, of the last `aim_audit_days` days: the view `aim_audit`.

Entries and events up to a position never change, so pages are as good as one read. All functions block: call them in a thread.
"""

# ruff: noqa: S608 - tables and columns come from this module and the schema; every value is bound
import base64
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.ledger.store import Reads
from services.ledger.verify import Values, columns_in, pieces_of

PIECE_BYTES = 4 * 1024 * 1024
"""The entries of one piece together, in bytes."""

POSITIONS = 64 * 1024
"""The size of entries is asked for that many positions at a time."""

DAY_NS = 86_400 * 1_000_000_000
_LATEST_NS = 2**63 - 1

_encoder = msgspec.json.Encoder()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows: of a run ('' all), recorded from `since_ns` and before `until_ns` (0: no limit)."""

    run: str = ""
    since_ns: int = 0
    until_ns: int = 0


def bounds(store: Reads, wanted: Wanted) -> tuple[int, int]:
    """The positions (after, up to) between which everything that is wanted stands; as of now."""
    found = store.read(
        "SELECT min(position), max(position) FROM entries WHERE (? = '' OR run = ?) AND time_ns >= ? AND time_ns < ?",
        [wanted.run, wanted.run, wanted.since_ns, wanted.until_ns or _LATEST_NS],
    )
    first, last = found[0]
    return (first - 1, last) if first is not None else (0, 0)


def ranges(store: Reads, after: int, until: int) -> list[tuple[int, int]]:
    """Ranges (after, up to) of positions that hold about PIECE_BYTES of entries each; ask for POSITIONS at a time."""
    return list(pieces_of(store, after, until, most_bytes=PIECE_BYTES))


def entry_lines(store: Reads, wanted: Wanted, piece: tuple[int, int]) -> list[bytes]:
    """The entries of a range, as lines."""
    columns = columns_in(store, "entries")
    lines = []
    for row in _rows(store, "SELECT * FROM entries AS t", wanted, piece, "position"):
        entry = dict(zip(columns, row, strict=True))
        raw = bytes(entry.pop("raw"))
        entry["hash"] = bytes(entry["hash"]).hex()
        try:
            entry["raw"] = raw.decode()
        except UnicodeDecodeError:
            entry["raw_base64"] = base64.b64encode(raw).decode()
        lines.append(_encoder.encode(entry))
    return lines


def event_lines(store: Reads, wanted: Wanted, piece: tuple[int, int]) -> list[bytes]:
    """The events of a range, as lines."""
    columns = columns_in(store, "events")
    place = columns.index("payload")
    names = [*columns[:place], *columns[place + 1 :], "entry", "by", "cause", "payload"]
    said = f"""SELECT {", ".join(f"t.{name}" for name in (*columns[:place], *columns[place + 1 :]))},
        n.id, n."by", n.cause, t.payload FROM events AS t LEFT JOIN entries AS n ON n.position = t.position"""
    lines = []
    for *values, payload in _rows(store, said, wanted, piece, "position, t.idx"):
        event: dict[str, Any] = dict(zip(names, [*values, _object(payload)], strict=True))
        lines.append(_encoder.encode(event))
    return lines


def _rows(store: Reads, select: str, wanted: Wanted, piece: tuple[int, int], order: str) -> list[Values]:
    return store.read(
        f"""{select} WHERE t.position > ? AND t.position <= ? AND (? = '' OR t.run = ?)
            AND t.time_ns >= ? AND t.time_ns < ? ORDER BY t.{order}""",
        [*piece, wanted.run, wanted.run, wanted.since_ns, wanted.until_ns or _LATEST_NS],
    )


def _object(payload: str) -> msgspec.Raw | str:
    """An event as it was written, on one line; as text if somebody has made it something else than JSON."""
    try:
        return msgspec.Raw(msgspec.json.format(payload.encode(), indent=-1))
    except (msgspec.DecodeError, RecursionError):
        return payload


def kept_since(now_ns: int, days: int) -> int:
    """From when on AIM audit records are kept, in nanoseconds; 0 for all that there are."""
    return max(0, now_ns - days * DAY_NS) if days else 0


def aim_days(store: Reads, wanted: Wanted) -> list[str]:
    """The days on which there is anything that is wanted."""
    sql = "SELECT DISTINCT left(timestamp, 10) FROM aim_audit WHERE timestamp >= ? AND timestamp < ? ORDER BY 1"
    return [day for (day,) in store.read(sql, _stamps(wanted))]


def aim_lines(store: Reads, wanted: Wanted, day: str) -> list[bytes]:
    """The AIM audit records of a day, oldest first, as lines."""
    columns = columns_in(store, "aim_audit")
    sql = "SELECT * FROM aim_audit WHERE timestamp >= ? AND timestamp < ? AND left(timestamp, 10) = ? ORDER BY ALL"
    return [_encoder.encode(dict(zip(columns, row, strict=True))) for row in store.read(sql, [*_stamps(wanted), day])]


def _stamps(wanted: Wanted) -> list[str]:
    """Times as `aim_audit` tells them."""
    return [_stamp(wanted.since_ns), _stamp(wanted.until_ns or _LATEST_NS)]


def _stamp(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


__all__ = [
    "PIECE_BYTES",
    "POSITIONS",
    "Wanted",
    "aim_days",
    "aim_lines",
    "bounds",
    "entry_lines",
    "event_lines",
    "kept_since",
    "ranges",
]
