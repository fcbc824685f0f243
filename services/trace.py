"""Which trace and which span something belongs to, as W3C Trace Context says it from process to process. Pure.

    caller's traceparent ──▶ the request's entry ──▶ decisions, commands ──▶ the attempt's span ──▶ TRACEPARENT of its tools

* The trace of a run is the one that its submission was part of; of a run whose submission says nothing of one, it derives
  from the run's id.
* The spans of runs and attempts have ids that derive from what they are called. So whoever needs one knows it without
  asking: the executor that names it to a tool, the ledger that exports it, and a ledger that was rebuilt.
* Whatever comes from outside and is no traceparent is as good as none; it is never an error.
"""

import hashlib
import re
from typing import Final

import msgspec

METADATA: Final = "traceparent"
"""What it is called in the metadata of a call."""

VARIABLE: Final = "TRACEPARENT"
"""What it is called in the environment of a process."""

DRAWN_BYTES: Final = 24
TEXT_CHARS_MAX: Final = 256

# A version after 00 may say more at the end; 00 may not. https://www.w3.org/TR/trace-context/#versioning-of-traceparent
_TEXT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class Trace(msgspec.Struct, frozen=True):
    """A span in its trace: 32 and 16 hexadecimal digits. `sampled`: whoever began the trace wants it to be exported."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def text(self) -> str:
        """As a traceparent."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def within(self, span_id: str) -> "Trace":
        """Another span of the same trace."""
        return Trace(self.trace_id, span_id, self.sampled)


def parsed(text: str) -> Trace | None:
    """What a traceparent says; None for any other text."""
    found = _TEXT.fullmatch(text) if len(text) <= TEXT_CHARS_MAX else None
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return Trace(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


def normal(text: str) -> str:
    """The traceparent, as this version writes it; "" for any other text."""
    found = parsed(text)
    return "" if found is None else found.text


def begun(drawn: bytes) -> Trace:
    """A trace that begins here, with ids from DRAWN_BYTES random bytes."""
    return Trace(_id(drawn[:16]), _id(drawn[16:DRAWN_BYTES]))


def of_run(run: str, trace: str = "") -> Trace:
    """The span of a run; `trace` is the traceparent of the request that submitted it, or of anything in that trace."""
    asked = parsed(trace)
    own = hashlib.sha256(f"swell:{run}".encode()).digest()
    return Trace(_id(own[:16]), _id(own[16:24])) if asked is None else asked.within(_id(own[16:24]))


def of_attempt(run: Trace, attempt: tuple[str, str, int], part: str = "") -> Trace:
    """The span of an attempt (run, workstream and number) in that of its run, or of a `part` of the attempt."""
    name = "/".join(map(str, (*attempt, part) if part else attempt))
    return run.within(_id(hashlib.sha256(f"swell:{name}".encode()).digest()[16:24]))


def _id(drawn: bytes) -> str:
    """As digits; never all zeros, which stand for none."""
    return drawn.hex() if any(drawn) else f"{1:0{len(drawn) * 2}x}"
