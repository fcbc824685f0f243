"""Repairs for state that is shared by mistake, found from the tests that fail because of it.

Two mistakes are known: a list, dict or set that stands in the body of a class and is changed in place through
`self`, so that all instances share it; and one that is a default value, so that all calls share it. Only what a
failing test reaches by name is changed.
"""

# ruff: noqa: N802, ARG002 - libcst prescribes the names and parameters of visitors

from collections.abc import Iterable, Mapping
from pathlib import Path

import libcst as cst
from rules_code import MutableDefault
from source import code, docstring_lines, is_mutable_literal, is_name, names_in

_CHANGING = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "clear", "sort", "discard"}


def _definitions(module: cst.Module) -> dict[str, cst.CSTNode]:
    """The functions and classes at the top level of a module."""
    return {each.name.value: each for each in module.body if isinstance(each, cst.FunctionDef | cst.ClassDef)}


def _reached(tests: Iterable[tuple[str, str]], modules: Mapping[Path, cst.Module]) -> set[str]:
    """The names that failing tests mention, and those that what they mention mentions, and so on."""
    definitions: dict[str, list[cst.CSTNode]] = {}
    roots: set[str] = set()
    for text, name in tests:
        tests_of_file = _definitions(cst.parse_module(text))
        if name in tests_of_file:
            roots |= names_in(tests_of_file[name])
        for each, node in tests_of_file.items():
            definitions.setdefault(each, []).append(node)
    for module in modules.values():
        for name, node in _definitions(module).items():
            definitions.setdefault(name, []).append(node)
    reached: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            for node in definitions.get(name, []):
                waiting.extend(names_in(node) - reached)
    return reached


class _SharedAttributes(cst.CSTVisitor):
    """Which attributes of `self` a class changes in place, and which it binds afresh in `__init__`."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.bound: set[str] = set()
        self.constructed = False
        self.function: list[str] = []

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.constructed = self.constructed or node.name.value == "__init__"
        self.function.append(node.name.value)

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:
        self.function.pop()

    def visit_Call(self, node: cst.Call) -> None:
        if isinstance(node.func, cst.Attribute) and node.func.attr.value in _CHANGING:
            self._mark(node.func.value, self.changed)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._mark(node.target, self.changed)

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        if isinstance(node.target, cst.Subscript):
            self._mark(node.target.value, self.changed)
        elif self.function[:1] == ["__init__"]:
            self._mark(node.target, self.bound)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        if self.function[:1] == ["__init__"] and node.value is not None:
            self._mark(node.target, self.bound)

    def _mark(self, node: cst.BaseExpression, names: set[str]) -> None:
        if isinstance(node, cst.Attribute) and is_name(node.value, "self"):
            names.add(node.attr.value)


class _OwnState(cst.CSTTransformer):
    """Moves shared lists, dicts and sets of classes into `__init__`."""

    def __init__(self, only: set[str]) -> None:
        self.only = only
        self.done: list[str] = []

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        name = updated_node.name.value
        if name not in self.only or not isinstance(updated_node.body, cst.IndentedBlock):
            return updated_node
        attributes = _SharedAttributes()
        updated_node.visit(attributes)
        shared = attributes.changed - attributes.bound
        kept: list[cst.BaseStatement] = []
        moved: list[cst.BaseStatement] = []
        notes: list[str] = []
        for statement in updated_node.body.body:
            found = self._literal(statement, shared) if isinstance(statement, cst.BaseStatement) else None
            if found is None:
                kept.append(statement)
                continue
            attribute, value, declaration = found
            moved.append(cst.parse_statement(f"self.{attribute} = {code(value)}\n"))
            notes.append(f"each {name} has its own {attribute}")
            if declaration is not None:
                kept.append(declaration)
        # A derived class without a constructor of its own takes its parent's arguments: not ours to guess.
        inherits = bool(updated_node.bases) and not attributes.constructed
        if not moved or inherits:
            return updated_node
        self.done += notes
        body = updated_node.body.with_changes(body=self._into_init(kept, moved))
        return updated_node.with_changes(body=body)

    def _literal(
        self, statement: cst.BaseStatement, shared: set[str]
    ) -> tuple[str, cst.BaseExpression, cst.BaseStatement | None] | None:
        """The attribute, its value, and the annotation that stays, if a statement binds shared state."""
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return None
        small = statement.body[0]
        if isinstance(small, cst.AnnAssign):
            target, rest = small.target, small.with_changes(value=None, equal=cst.MaybeSentinel.DEFAULT)
        elif isinstance(small, cst.Assign) and len(small.targets) == 1:
            target, rest = small.targets[0].target, None
        else:
            return None
        if small.value is None or code(target) not in shared or not is_mutable_literal(small.value):
            return None
        return code(target), small.value, None if rest is None else statement.with_changes(body=[rest])

    def _into_init(self, body: list[cst.BaseStatement], moved: list[cst.BaseStatement]) -> list[cst.BaseStatement]:
        for place, statement in enumerate(body):
            if isinstance(statement, cst.FunctionDef) and statement.name.value == "__init__":
                block = cst.ensure_type(statement.body, cst.IndentedBlock)
                after = docstring_lines(statement)
                lines = [*block.body[:after], *moved, *block.body[after:]]
                body[place] = statement.with_changes(body=block.with_changes(body=lines))
                return body
        made = cst.ensure_type(cst.parse_statement("def __init__(self) -> None:\n    pass\n"), cst.FunctionDef)
        block = cst.ensure_type(made.body, cst.IndentedBlock)
        made = made.with_changes(body=block.with_changes(body=moved), leading_lines=[cst.EmptyLine(indent=False)])
        place = next((index for index, each in enumerate(body) if isinstance(each, cst.FunctionDef)), len(body))
        return [*body[:place], made, *body[place:]]


def repair_shared_state(
    sources: Mapping[Path, str], tests: Iterable[tuple[str, str]]
) -> dict[Path, tuple[str, list[tuple[int, str]]]]:
    """The sources after the repairs, and what was done: line (0: the whole file) and text.

    Args:
        sources: the files that may be changed, and their text.
        tests: the text of a test file, and the name of a failing test in it.
    """
    modules = {path: cst.parse_module(text) for path, text in sources.items()}
    reached = _reached(tests, modules)
    result: dict[Path, tuple[str, list[tuple[int, str]]]] = {}
    for path, module in modules.items():
        own = _OwnState(reached)
        after = module.visit(own)
        defaults = after.visit(MutableDefault(only=reached))
        done = [(0, text) for text in own.done]
        if not defaults.deep_equals(after):
            done.append((0, "default values are made afresh in each call"))
        result[path] = (defaults.code, done)
    return result
