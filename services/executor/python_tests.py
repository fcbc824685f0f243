"""Python's tests by its syntax tree, in a process of its own: a text can keep the parser busy for ever, or end it.

    python -I -S python_tests.py < JSON array of texts > JSON array of [names of tests, assertions, marks], or null

`null` is a text that cannot be parsed. A test is a function that a runner would find by its name, an assertion something
that is asked, a mark something that keeps a test from running or from failing. What no run can reach does not count.
Nothing of a text is run. The program imports nothing but the standard library, so that it starts at once.
"""

import ast
import json
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Final

CPU_S: Final = 20
MEMORY_BYTES: Final = 2 * 1024**3

_SKIPS: Final = frozenset(
    {"SkipTest", "__unittest_skip__", "_exit", "expectedFailure", "importorskip", "skipIf", "skipTest", "skipUnless",
     "skipif", "xfail"}
)  # fmt: skip
_SKIPS_OF: Final = {"pytest": {"exit", "skip"}, "mark": {"skip"}, "unittest": {"skip"}, "sys": {"exit"}}
_ASSERTS: Final = frozenset({"deprecated_call", "fail", "raises", "warns"})
_ENDS: Final = (ast.Return, ast.Raise, ast.Break, ast.Continue)
_OWN: Final = (ast.expr, ast.withitem, ast.keyword, ast.arguments)


def count(text: str) -> tuple[list[str], int, int] | None:
    """Names of tests, assertions and marks in a text; None if it cannot be parsed."""
    try:
        tree = ast.parse(text)
        assertions = marks = 0
        for statement in _reachable(tree.body):
            assertions += _conditions(statement)
            marks += _switches_off(statement)
            for node in _expressions(statement):
                assertions += isinstance(node, ast.Call) and _asserts(node.func)
                marks += _skips(node)
        return _tests(tree.body), assertions, marks
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _tests(body: Sequence[ast.stmt]) -> list[str]:
    """What a test runner finds in a module or a class: the last thing that has a name is what the name means."""
    found: dict[str, list[str]] = {}
    for statement in _level(body):
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                is_fixture = any(_last_name(one) == "fixture" for one in statement.decorator_list)
                found[name] = [name] if name.startswith("test") and not is_fixture else []
            case ast.ClassDef(name=name):
                found[name] = _tests(statement.body) if name.startswith("Test") or statement.bases else []
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Name):
                        found.pop(target.id, None)
            case _:
                pass
    return [name for names in found.values() for name in names]


def _level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of one name space, those below conditions included."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for block in _blocks(statement):
                yield from _level(block)


def _reachable(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements, but for those behind the end of their block or a condition that never holds."""
    for statement in body:
        yield statement
        for block in _blocks(statement):
            yield from _reachable(block)
        if isinstance(statement, _ENDS):
            return


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    constant = statement.test if isinstance(statement, ast.If | ast.While) else None
    for name, block in ast.iter_fields(statement):
        if not isinstance(block, list) or not block:
            continue
        if isinstance(constant, ast.Constant) and name == ("orelse" if constant.value else "body"):
            continue
        if isinstance(block[0], ast.stmt):
            yield block
        elif isinstance(block[0], ast.excepthandler | ast.match_case):
            yield from (part.body for part in block)


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, _OWN):
            yield from ast.walk(child)


def _conditions(statement: ast.stmt) -> int:
    """How many things an `assert` asks; none if it always holds."""
    if not isinstance(statement, ast.Assert) or isinstance(statement.test, ast.Constant | ast.Tuple):
        return 0
    joined = isinstance(statement.test, ast.BoolOp) and isinstance(statement.test.op, ast.And)
    return len(statement.test.values) if joined else 1  # type: ignore[attr-defined]  # a BoolOp has them


def _switches_off(statement: ast.stmt) -> bool:
    """Whether it is `__test__ = False` or the like."""
    return (
        isinstance(statement, ast.Assign)
        and any(
            _last_name(target) in {"__test__", "collect_ignore", "collect_ignore_glob"} for target in statement.targets
        )
        and not (isinstance(statement.value, ast.Constant) and statement.value.value is True)
    )


def _asserts(function: ast.expr) -> bool:
    name = _last_name(function)
    return name.startswith("assert") or name in _ASSERTS


def _skips(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _SKIPS or node.attr in _SKIPS_OF.get(_last_name(node.value), ())
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "skip":
        return True
    return isinstance(node, ast.Name) and node.id in _SKIPS


def _last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, of `c`, and of calls of either."""
    while isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    json.dump([count(text) for text in json.load(sys.stdin)], sys.stdout)
