"""PromQL, read far enough to say which series and labels an expression names; whether it is right is Prometheus's to say."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    | (?P<range>\[[^\]]*\])
    | (?P<number>(?:\d+(?:ms|[smhdwy]))+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)
    | (?P<name>[A-Za-z_:][\w:]*)
    | (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){},=<>])
    """,
    re.VERBOSE,
)
_LISTS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "atan2"})
_AGGREGATES: Final = frozenset(
    {"sum", "min", "max", "avg", "group", "count", "count_values", "bottomk", "topk", "quantile", "stddev", "stdvar"}
)


class Selector(msgspec.Struct, frozen=True):
    """A series that is asked for, and the labels that it is chosen by with their patterns."""

    name: str
    matchers: tuple[tuple[str, str], ...]


class Named(msgspec.Struct, frozen=True):
    """What an expression names. `labels` stand in groupings and matchings of vectors."""

    selectors: tuple[Selector, ...]
    labels: tuple[str, ...]


def named(expression: str) -> Named:
    """What an expression names; raises ValueError for what is no PromQL at all."""
    tokens = list(_tokens(expression))
    selectors: list[Selector] = []
    labels: list[str] = []
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if kind != "name" or text in _WORDS:
            continue
        if text in _LISTS and following == "(":
            end = _closing(tokens, at, ")")
            labels += [label for _, label in tokens[at + 1 : end] if label != ","]
            at = end + 1
        elif text in _LISTS or text in _AGGREGATES or following == "(":
            continue
        elif following == "{":
            end = _closing(tokens, at, "}")
            selectors.append(Selector(text, _matchers(tokens[at + 1 : end])))
            at = end + 1
        else:
            selectors.append(Selector(text, ()))
    return Named(tuple(selectors), tuple(labels))


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ValueError(f"{expression[at : at + 20]!r} in {expression!r}")
        at = found.end()
        if found.lastgroup not in {"space", "range"}:
            yield str(found.lastgroup), found[0]


def _closing(tokens: list[tuple[str, str]], at: int, sign: str) -> int:
    for end in range(at, len(tokens)):
        if tokens[end][1] == sign:
            return end
    raise ValueError(f"{sign} is missing")


def _matchers(tokens: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if len(tokens) % 4 != 3:
        raise ValueError(f"no list of matchers: {tokens}")
    return tuple((tokens[at][1], tokens[at + 2][1][1:-1]) for at in range(0, len(tokens), 4))
