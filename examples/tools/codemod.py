"""Rewrite Python files by named rules: `codemod.py --rule RULE [--rule RULE …] FILE…`.

Edits only the files given, and of those only the ones that end in `.py`. Rules are applied in the order given.
A rule that finds nothing to do is no failure. Every rule is idempotent.

Exit codes: 0 done, 1 a file cannot be read or parsed (nothing is written then), 2 wrong arguments.
"""

import argparse
import difflib
import sys
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from files import read
from rules_code import (
    BareExcept,
    MutableDefault,
    NoneComparison,
    ObjectBase,
    OpenAlias,
    PathCalls,
    RaiseFrom,
    SuperCall,
)
from rules_text import FormatCall, PercentFormat, StringPrefix
from rules_types import BuiltinGenerics, DocstringTypes, OptionalUnion, TypeComments


class Rule(NamedTuple):
    """A transformer, and a text without which a source cannot have anything for it to do."""

    transformer: type[cst.CSTTransformer]
    marker: str


RULES: dict[str, Rule] = {
    "bare-except": Rule(BareExcept, "except"),
    "builtin-generics": Rule(BuiltinGenerics, "typing"),
    "docstring-types": Rule(DocstringTypes, "def "),
    "format-call": Rule(FormatCall, "format"),
    "mutable-default": Rule(MutableDefault, "def "),
    "none-comparison": Rule(NoneComparison, "None"),
    "object-base": Rule(ObjectBase, "object"),
    "open-alias": Rule(OpenAlias, "io"),
    "optional-union": Rule(OptionalUnion, "typing"),
    "os-path": Rule(PathCalls, "os"),
    "percent-format": Rule(PercentFormat, "%"),
    "raise-from": Rule(RaiseFrom, "raise "),
    "string-prefix": Rule(StringPrefix, "u"),
    "super-call": Rule(SuperCall, "super"),
    "type-comments": Rule(TypeComments, "# type:"),
}


def rewrite(source: str, rules: list[str]) -> str:
    """The source after some rules, in their order.

    Raises:
        KeyError: a rule that does not exist.
        cst.ParserSyntaxError: a source that is not Python.
    """
    module = cst.parse_module(source)
    for name in rules:
        rule = RULES[name]
        if rule.marker in source:
            module = module.visit(rule.transformer())
    return module.code


def changed_lines(before: str, after: str) -> int:
    """How many lines the second text has that the first has not."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return sum(line.startswith("+") and not line.startswith("+++") for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="codemod", description="Rewrite Python files by named rules.")
    parser.add_argument("--rule", action="append", choices=sorted(RULES), required=True, dest="rules")
    parser.add_argument("--check", action="store_true", help="write nothing; name the files that would change")
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    planned: list[tuple[Path, str, str]] = []
    for path in sorted(each for each in options.files if each.suffix == ".py"):
        try:
            before = read(path)
            planned.append((path, before, rewrite(before, options.rules)))
        except (OSError, ValueError, cst.ParserSyntaxError) as error:
            print(f"codemod: {path}: {error}", file=sys.stderr)
            return 1
    for path, before, after in planned:
        if after == before:
            continue
        if not options.check:
            path.write_bytes(after.encode("utf-8"))
        print(f"{path}: {changed_lines(before, after)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
