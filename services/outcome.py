"""What a coding tool's invocation came to: how it ended by its own harness's word, what it used, what that cost.

Every tool has its own form of saying so (services/executor/adapters); this is the one form the rest of Swell sees.

Invariants: token counts and money are integers; money is in nano-dollars (1 USD = 10^9); what a tool did not say is
None, never zero.
"""

import math
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Tokens = Annotated[int, Meta(ge=0, le=10**12)]
Basis = Literal["reported", "list", "estimate", "unknown"]
"""Where a cost comes from: the tool said it, a price list, a guess of the tool for a model it does not know, nowhere."""


NANO_USD_MAX: Final = 10**18
SUM_MAX: Final = 2**62
"""No sum grows beyond it, whatever tools say they have cost: every form that keeps or tells one holds it."""

NanoUsd = Annotated[int, Meta(ge=0, le=NANO_USD_MAX)]
"""Money in nano-dollars: 1 USD = 10^9."""

BudgetMode = Literal["halt", "warn", "continue"]
"""`halt` starts nothing that might not fit; `warn` and `continue` only tell, the one loudly, the other in the log."""

BudgetThreshold = Literal["warning", "exceeded"]
Cap = Literal["enforced", "soft", "none"]
"""Whether an attempt is surely stopped at its cap, is only expected to keep it (profiles.is_capped), or has none."""


@lru_cache(maxsize=1024)
def nano_of(usd: float) -> int:
    """Dollars as they were written, in whole nano-dollars, rounded half up; beyond the range its nearest end."""
    if not math.isfinite(usd):
        return NANO_USD_MAX
    return min(max(int((Decimal(str(usd)) * 10**9).to_integral_value(ROUND_HALF_UP)), 0), NANO_USD_MAX)


def usd_text(nano: int) -> str:
    """Money for people: $0.30, $0.000125; nothing is rounded."""
    whole, part = divmod(nano, 10**9)
    places = f"{part:09}".rstrip("0").ljust(2, "0")
    return f"${whole}.{places}"


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one invocation, each counted once.

    `input_tokens` are those that no cache was read or written for; `output_tokens` include reasoning. `lower_bound`:
    the tool ended before it said its totals, and it has used at least this much.
    """

    input_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    output_tokens: Tokens = 0
    lower_bound: bool = False


class Cost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Money in nano-dollars. `table` is the id of the price table that gave it, "" when the tool reported it."""

    nano_usd: Annotated[int, Meta(ge=0, le=10**18)]
    basis: Basis
    table: Annotated[str, Meta(max_length=100)] = ""


OutcomeClass = Literal[
    "", "auth", "rate_limited", "usage_limit", "overloaded", "server_error", "network", "model_not_found",
    "unsupported_params", "context_window", "output_limit", "refusal", "budget", "max_turns", "permission_denied",
    "tool_failed", "protocol_error",
]  # fmt: skip
"""How an invocation ended by its harness's word; "" for no error. Each is a services.events.ErrorClass too.

`rate_limited` passes in seconds or minutes; `usage_limit` is a quota that is used up until its reset; `budget` and
`max_turns` are caps that we gave the tool; `protocol_error` means that the tool did not say how it ended, or not so that
it could be read.
"""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One invocation, by what its harness emitted; never by what a model or a tool of the agent wrote.

    `message` explains `error_class`; `note` says what of the output could not be read. `provider_status` is an HTTP
    status, 0 where none was told. `retry_after_s` is how long the provider asks to wait, 0 for unknown; `resets_at_ns`
    when a used-up limit starts anew, nanoseconds since 1970 UTC, 0 for unknown. `session` identifies the conversation in
    the tool. `denials` are the tools that the agent wanted to use and was refused, each once. `turns` is 0 where the tool
    does not count them. `usage` and `cost` are None for what was not told.
    """

    error_class: OutcomeClass = ""
    message: str = ""
    note: str = ""
    provider: str = ""
    model: str = ""
    provider_status: int = 0
    retry_after_s: float = 0.0
    resets_at_ns: int = 0
    session: str = ""
    usage: Usage | None = None
    cost: Cost | None = None
    denials: tuple[str, ...] = ()
    turns: int = 0
