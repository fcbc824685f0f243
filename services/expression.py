"""Regular expressions from a configuration, of which the worst case is known before they are used.

`re` has no limit on time, and an expression such as `(a+)+$` takes longer than anybody lives on a line of 40 letters. So
an expression is taken apart, and refused unless its worst case on a line is bounded:

* only a single character or a class may be repeated; a group may be optional (`?`), and nothing else;
* no back references, conditions, assertions that look around, atomic groups or flags;
* a repetition that can give back what the part after it could take as well has as many ways to match as the line has
  characters; the ways of all such parts multiply, and the product is at most WAYS_MAX. So one such part is allowed, and
  two are not: `[^:]+:` has one way, `.+:` has many.

Invariant: an expression that passes takes at most some WAYS_MAX * (LINE_CHARS + EXPRESSION_CHARS) steps on a line of
LINE_CHARS, matched from its beginning. Unknown kinds of parts are refused, so a later Python cannot widen this.

Pure.
"""

import re
import warnings
from re import _parser  # type: ignore[attr-defined]  # the only way to the parts of an expression; kinds are checked
from typing import Any, Final

import msgspec

EXPRESSION_CHARS: Final = 1_000
LINE_CHARS: Final = 1_000
WAYS_MAX: Final = 10_000
GROUPS: Final = frozenset({"file", "line", "column", "severity", "code", "message"})
FEW: Final = 16
"""A repetition between limits that are no further apart counts by its number, any other as many as LINE_CHARS."""

_OTHER_DIGITS: Final = 1 << 128
_OTHER_LETTERS: Final = 1 << 129
_OTHER_SPACES: Final = 1 << 130
_OTHER_REST: Final = 1 << 131
_OTHERS: Final = _OTHER_DIGITS | _OTHER_LETTERS | _OTHER_SPACES | _OTHER_REST
_ASCII: Final = (1 << 128) - 1
_ALL: Final = _ASCII | _OTHERS
"""A set of characters: a bit for each of ASCII, and one for each kind that the others fall into."""

_DIGITS: Final = sum(1 << ord(c) for c in "0123456789") | _OTHER_DIGITS
_SPACES: Final = sum(1 << number for number in range(128) if chr(number).isspace()) | _OTHER_SPACES
_WORD: Final = sum(1 << n for n in range(128) if chr(n).isalnum() or chr(n) == "_") | _OTHER_DIGITS | _OTHER_LETTERS
_CATEGORIES: Final = {
    "CATEGORY_DIGIT": _DIGITS,
    "CATEGORY_NOT_DIGIT": _ALL & ~_DIGITS,
    "CATEGORY_SPACE": _SPACES,
    "CATEGORY_NOT_SPACE": _ALL & ~_SPACES,
    "CATEGORY_WORD": _WORD,
    "CATEGORY_NOT_WORD": _ALL & ~_WORD,
}


class ExpressionError(ValueError):
    """An expression cannot be used; the text says which part of it, and what to write instead."""


class _After(msgspec.Struct, frozen=True):
    """What follows a place: the characters it may begin with, whether it matches whatever comes, whether it is the end."""

    first: int
    sure: bool = False
    end: bool = False


class _Ways(msgspec.Struct, frozen=True):
    """What a part and all that follows it may begin with, and in how many ways the part can match."""

    after: _After
    number: int = 1


def compiled(text: str) -> re.Pattern[str]:
    """The expression, to be matched from the beginning of a line without its end, of at most LINE_CHARS.

    Raises:
        ExpressionError: it is none, too long, or its worst case is not bounded.
    """
    if not text or len(text) > EXPRESSION_CHARS:
        raise ExpressionError(f"must be a regular expression of 1 to {EXPRESSION_CHARS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expression = re.compile(text)
            tree = _parser.parse(text)
        ways = _sequence(tree, _After(0, sure=True, end=True))
    except ExpressionError:
        raise
    except RecursionError as error:
        raise ExpressionError("is nested too deeply; use fewer groups") from error
    except (re.error, OverflowError, ValueError, Warning) as error:
        raise ExpressionError(f"is no regular expression ({error}); correct it") from error
    if tree.state.flags != re.UNICODE:
        raise ExpressionError("sets flags, such as (?i); leave them out and write both cases, such as [Ee]rror")
    if ways.number > WAYS_MAX:
        raise ExpressionError(
            "has too many ways to match a line, which may take forever; end repeated parts at a character that they do "
            "not contain themselves, such as [^:]+: in place of .+:"
        )
    return expression


def check(pattern: str) -> re.Pattern[str]:
    """The same for a profile's pattern, whose groups say what of a line is what.

    Raises:
        ExpressionError: as ``compiled``; or its groups are not among GROUPS, or it has no group "message".
    """
    expression = compiled(pattern)
    if unknown := set(expression.groupindex) - GROUPS:
        raise ExpressionError(f"has the unknown group {min(unknown)!r}; known are {', '.join(sorted(GROUPS))}")
    if "message" not in expression.groupindex:
        raise ExpressionError("has no group (?P<message>…), which it needs")
    return expression


def _sequence(items: Any, after: _After) -> _Ways:
    number = 1
    for kind, value in reversed(list(items)):
        ways = _part(str(kind), value, after)
        number *= ways.number
        after = ways.after
    return _Ways(after, number)


def _part(kind: str, value: Any, after: _After) -> _Ways:
    match kind:
        case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
            return _Ways(_After(_characters(kind, value)))
        case "AT":
            return _Ways(_position(str(value), after))
        case "SUBPATTERN":
            return _group(value, after)
        case "BRANCH":
            return _branch(value[1], after)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _repeat(kind, value, after)
        case _:
            raise _refused(kind)


def _refused(kind: str) -> ExpressionError:
    names = {
        "GROUPREF": "a back reference",
        "GROUPREF_EXISTS": "a condition on a group",
        "ASSERT": "an assertion that looks around, (?=…) or (?<=…)",
        "ASSERT_NOT": "an assertion that looks around, (?!…) or (?<!…)",
        "ATOMIC_GROUP": "an atomic group, (?>…)",
    }
    return ExpressionError(f"has {names.get(kind, kind)}, which is not supported; write it without")


def _position(kind: str, after: _After) -> _After:
    if kind in {"AT_END", "AT_END_STRING"}:
        return _After(0, end=after.end)
    return _After(after.first)


def _group(value: Any, after: _After) -> _Ways:
    _, added, dropped, items = value
    if added or dropped:
        raise ExpressionError("sets flags for a group, such as (?i:…); leave them out and write both cases")
    return _sequence(items, after)


def _branch(alternatives: Any, after: _After) -> _Ways:
    ways = [_sequence(items, after) for items in alternatives]
    together, apart = 0, True
    for one in ways:
        apart = apart and not together & one.after.first
        together |= one.after.first
    numbers = [one.number for one in ways]
    sure = any(one.after.sure for one in ways)
    return _Ways(_After(together, sure=sure), max(numbers) if apart and not sure else sum(numbers))


def _repeat(kind: str, value: Any, after: _After) -> _Ways:
    least, most, items = int(value[0]), int(value[1]), list(value[2])
    if len(items) != 1 or str(items[0][0]) not in {"LITERAL", "NOT_LITERAL", "IN", "ANY"}:
        return _optional(least, most, items, after)
    what, which = str(items[0][0]), items[0][1]
    first = _characters(what, which)
    if most == 0:
        return _Ways(after)
    sure = least == 0 and (after.sure or (what == "ANY" and most > LINE_CHARS and after.end))
    begins = _After(first | (after.first if least == 0 else 0), sure=sure)
    if kind == "POSSESSIVE_REPEAT" or least == most or after.sure or not first & after.first:
        return _Ways(begins)
    return _Ways(begins, most - least + 1 if most - least < FEW else LINE_CHARS)


def _optional(least: int, most: int, items: Any, after: _After) -> _Ways:
    if (least, most) != (0, 1):
        raise ExpressionError(
            "repeats a group, as (a+)+ does, which may take forever; repeat a single character or a class, such as [a-z.]+"
        )
    inner = _sequence(items, after)
    begins = _After(inner.after.first | after.first, sure=after.sure)
    apart = not inner.after.first & after.first and not after.sure
    return _Ways(begins, inner.number if apart else inner.number + 1)


def _characters(kind: str, value: Any) -> int:
    match kind:
        case "ANY":
            return _ALL
        case "LITERAL":
            return _bit(int(value))
        case "NOT_LITERAL":
            return _ALL & ~(_bit(int(value)) & _ASCII)
        case _:
            return _class(value)


def _class(items: Any) -> int:
    """`some` holds what may be in the class, `whole` only the kinds of others that are in it altogether."""
    some, whole, negated = 0, 0, False
    for kind, value in items:
        match str(kind):
            case "NEGATE":
                negated = True
            case "LITERAL":
                some |= _bit(int(value))
            case "RANGE":
                low, high = value
                some |= sum(1 << number for number in range(low, min(high, 127) + 1))
                some |= _OTHERS if high > 127 else 0
            case "CATEGORY":
                category = _CATEGORIES.get(str(value))
                if category is None:
                    raise _refused(str(value))
                some |= category
                whole |= category
            case other:
                raise _refused(other)
    return _ALL & ~(some & _ASCII | whole) if negated else some


def _bit(number: int) -> int:
    if number < 128:
        return 1 << number
    character = chr(number)
    if character.isspace():
        return _OTHER_SPACES
    if character.isdecimal():
        return _OTHER_DIGITS
    return _OTHER_LETTERS if character.isalnum() else _OTHER_REST
