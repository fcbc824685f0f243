"""What a coding tool's invocation came to: how it ended by its own harness's word, what it used, what that cost.

Every tool has its own form of saying so (services/executor/adapters); this is the one form the rest of Swell sees.

Invariants: token counts and money are integers; money is in nano-dollars (1 USD = 10^9); what a tool did not say is
None, never zero.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Tokens = Annotated[int, Meta(ge=0, le=10**12)]
Basis = Literal["reported", "list", "estimate", "unknown"]
"""Where a cost comes from: the tool said it, a price list, a guess of the tool for a model it does not know, nowhere."""


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
