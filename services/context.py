"""How much of a model's context window some text takes, and which files are worth the room.

Invariants:

* Everything is an integer and every choice is deterministic: the same files give the same decision.
* Priority files are never left out; if they alone are too much, the decision says `too_large`.
* Each token is counted once, and a limit may be used to its last token.
* Whatever is left out is named, with the reason.

Pure: the caller measures the files.

Token counts here are estimates, from published rules of thumb for English text:

| family | characters a token | source |
|---|---|---|
| GPT, o-series, Codex | 4 | OpenAI, "What are tokens and how to count them", help.openai.com article 4936856 |
| Gemini | 4 | Google, "Understand and count tokens", ai.google.dev/gemini-api/docs/tokens |
| Claude | 3.5 | Anthropic, Glossary, platform.claude.com/docs/en/about-claude/glossary |
| DeepSeek | 3.33 (0.3 tokens a character) | DeepSeek, "Token & Token Usage", api-docs.deepseek.com/quick_start/token_usage |
| any other | 4 | - |

Text that is not English, and dense code, takes more; newer tokenizers of a family may, too. So a caller leaves room: see
`input_limit`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

TOKENS_PER_1000_CHARS: Final = 250
"""Of a model whose family publishes no ratio: 4 characters a token."""

FAMILY_TOKENS_PER_1000_CHARS: Final[Mapping[str, int]] = {
    "chatgpt": 250,
    "claude": 286,
    "codex": 250,
    "deepseek": 300,
    "gemini": 250,
    "gpt": 250,
    "o1": 250,
    "o3": 250,
    "o4": 250,
}
"""By the first letters of a model's name, without its provider; rounded up. Sources: the module's docstring."""

WINDOW_TOKENS_DEFAULT: Final = 128_000
"""The context window of a model that no table names."""

OUTPUT_TOKENS_RESERVED: Final = 16_000
"""Tokens of a window that are kept free for the answer; of a small window, half."""

FILE_CHARS_MAX: Final = 10**12
_HALVINGS_MAX: Final = 64  # beyond it, one file is left of any list there can be

Excess = Literal["reduce", "split"]
"""What to do with files that are too much together: leave the largest out, or hand them over in several parts."""

Verdict = Literal["fits", "reduced", "split", "too_large"]


class ContextFile(msgspec.Struct, frozen=True):
    """A file that a tool would read. `chars` may be its size in bytes, which is never less; 0 if it cannot be read."""

    path: str
    chars: Annotated[int, Meta(ge=0, le=FILE_CHARS_MAX)]


class LeftOut(msgspec.Struct, frozen=True):
    """A file that is not handed over: to keep the task small (`reduction`), or for want of room (`window`)."""

    path: str
    reason: Literal["reduction", "window"]


class ContextDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Which files are handed over.

    `parts` holds one list of files, or several when the decision is `split`; every part begins with the priority files.
    `estimated_tokens` are those of the largest part, the prompt included. `reasons` say in words what led here.
    """

    decision: Verdict
    parts: tuple[tuple[str, ...], ...]
    left_out: tuple[LeftOut, ...] = ()
    estimated_tokens: int
    limit_tokens: int
    reasons: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that some part holds, once."""
        return tuple(dict.fromkeys(path for part in self.parts for path in part))


def estimate_tokens(chars: int, model: str = "") -> int:
    """Tokens of a text of so many characters, rounded up. `model` as a provider names it: `openai/gpt-4`, `claude-opus-5`."""
    ratio = named_by_prefix(model, FAMILY_TOKENS_PER_1000_CHARS, TOKENS_PER_1000_CHARS)
    return -(-chars * ratio // 1000)


def input_limit(model: str = "", windows: Mapping[str, int] | None = None) -> int:
    """Tokens that a model may be given: its window in `windows` (by the first letters of its name) without the reserve."""
    window = named_by_prefix(model, windows or {}, WINDOW_TOKENS_DEFAULT)
    return window - min(OUTPUT_TOKENS_RESERVED, window // 2)


def named_by_prefix(model: str, table: Mapping[str, int], default: int) -> int:
    """What a table says of a model: its longest key that the name begins with, upper and lower case alike."""
    name = model.rpartition("/")[2].lower()
    known = [key for key in table if name.startswith(key.lower())]
    return table[max(known, key=len)] if known else default


def halved(files: Sequence[str], reduction: int, priority: Collection[str] = ()) -> list[str]:
    """The files of a repetition with a smaller context, in their order: each step of `reduction` leaves half, rounded up.

    Those in `priority` come first, and all stay; then the first of the others. At least one stays.
    """
    divisor = 1 << min(max(reduction, 0), _HALVINGS_MAX)
    room = max(-(-len(files) // divisor), 1)
    wanted = [path for path in files if path in priority]
    others = [path for path in files if path not in priority]
    kept = {*wanted, *others[: max(room - len(wanted), 0)]}
    return [path for path in files if path in kept]


def decide_context(
    files: Sequence[ContextFile],
    *,
    limit_tokens: int,
    prompt_tokens: int = 0,
    priority: Collection[str] = (),
    reduction: int = 0,
    model: str = "",
    excess: Excess = "reduce",
) -> ContextDecision:
    """What of `files` goes along with a prompt of `prompt_tokens` into `limit_tokens` (see `input_limit`).

    First `reduction` halves the list, then what does not fit is dealt with as `excess` says: `reduce` keeps the priority
    files and then the smallest others; `split` keeps the order, and makes as many parts as are needed. A file named
    twice counts once, with its first size.
    """
    sizes: dict[str, int] = {}
    for file in files:
        sizes.setdefault(file.path, estimate_tokens(file.chars, model))
    taken = halved(list(sizes), reduction, priority)
    there = set(taken)
    gone = [LeftOut(path, "reduction") for path in sizes if path not in there]
    reasons = [f"{len(gone)} of {len(sizes)} files left out by {reduction} halvings"] if gone else []
    total = prompt_tokens + sum(sizes[path] for path in taken)
    if total <= limit_tokens:
        return ContextDecision(
            decision="reduced" if gone else "fits",
            parts=(tuple(taken),),
            left_out=tuple(gone),
            estimated_tokens=total,
            limit_tokens=limit_tokens,
            reasons=tuple(reasons),
        )
    reasons.append(f"{total} tokens are estimated, {limit_tokens} are allowed")
    room = _Room(sizes=sizes, order=taken, priority=priority, prompt_tokens=prompt_tokens, limit_tokens=limit_tokens)
    return (room.reduced if excess == "reduce" else room.split)(gone, reasons)


class _Room:
    """The choice among files that do not fit together."""

    def __init__(
        self,
        *,
        sizes: Mapping[str, int],
        order: Sequence[str],
        priority: Collection[str],
        prompt_tokens: int,
        limit_tokens: int,
    ) -> None:
        self.sizes = sizes
        self.order = order
        self.first = [path for path in order if path in priority]
        self.others = [path for path in order if path not in priority]
        self.fixed = prompt_tokens + sum(sizes[path] for path in self.first)
        self.limit = limit_tokens

    def reduced(self, gone: list[LeftOut], reasons: list[str]) -> ContextDecision:
        used = self.fixed
        kept = set(self.first)
        if used <= self.limit:
            for path in sorted(self.others, key=lambda path: self.sizes[path]):
                if used + self.sizes[path] > self.limit:
                    break  # the rest is no smaller
                used += self.sizes[path]
                kept.add(path)
        if used > self.limit or not kept:
            return self._too_large(gone, reasons)
        without = [LeftOut(path, "window") for path in self.order if path not in kept]
        return ContextDecision(
            decision="reduced",
            parts=(tuple(path for path in self.order if path in kept),),
            left_out=(*gone, *without),
            estimated_tokens=used,
            limit_tokens=self.limit,
            reasons=(*reasons, f"the {len(without)} largest files left out"),
        )

    def split(self, gone: list[LeftOut], reasons: list[str]) -> ContextDecision:
        largest = max((self.sizes[path] for path in self.others), default=0)
        if not self.others or self.fixed + largest > self.limit:
            return self._too_large(gone, reasons)
        parts: list[list[str]] = []
        used: list[int] = []
        for path in self.others:
            if not parts or used[-1] + self.sizes[path] > self.limit:
                parts.append([*self.first])
                used.append(self.fixed)
            parts[-1].append(path)
            used[-1] += self.sizes[path]
        return ContextDecision(
            decision="split",
            parts=tuple(tuple(part) for part in parts),
            left_out=tuple(gone),
            estimated_tokens=max(used),
            limit_tokens=self.limit,
            reasons=(*reasons, f"handed over in {len(parts)} parts"),
        )

    def _too_large(self, gone: list[LeftOut], reasons: list[str]) -> ContextDecision:
        if self.fixed > self.limit:
            why = f"the prompt and {len(self.first)} priority files alone are {self.fixed} tokens"
        else:
            why = "a single file does not fit beside the prompt"
        return ContextDecision(
            decision="too_large",
            parts=(tuple(self.first),),
            left_out=(*gone, *(LeftOut(path, "window") for path in self.others)),
            estimated_tokens=self.fixed,
            limit_tokens=self.limit,
            reasons=(*reasons, why),
        )
