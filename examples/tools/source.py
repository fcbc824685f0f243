"""What the rules share about one module: its imports, its names, its docstrings, and editing them.

Invariant: nothing here reads or writes a file; all functions take and give libcst trees.
"""

# ruff: noqa: N802, ARG002 - libcst prescribes the names and parameters of visitors

import re
import sys
from collections.abc import Sequence
from typing import Generic, TypeVar

import libcst as cst

NONE = cst.Name("None")

_Node = TypeVar("_Node", bound=cst.CSTNode)


def code(node: cst.CSTNode) -> str:
    """The source text of a node."""
    return cst.Module(body=[]).code_for_node(node)


def is_name(node: cst.CSTNode | None, name: str) -> bool:
    """Whether a node is this plain name."""
    return isinstance(node, cst.Name) and node.value == name


def called(node: cst.CSTNode | None) -> str:
    """What a call calls, for instance `os.path.join`; empty for anything that is no call of a plain name."""
    if not isinstance(node, cst.Call):
        return ""
    parts: list[str] = []
    func = node.func
    while isinstance(func, cst.Attribute):
        parts.append(func.attr.value)
        func = func.value
    return ".".join([func.value, *reversed(parts)]) if isinstance(func, cst.Name) else ""


class _Finder(cst.CSTVisitor, Generic[_Node]):
    def __init__(self, kind: type[_Node]) -> None:
        self.kind = kind
        self.found: list[_Node] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, self.kind):
            self.found.append(node)
        return True


def find_all(node: cst.CSTNode, kind: type[_Node]) -> list[_Node]:
    """Every node of one kind in a tree, from left to right."""
    finder = _Finder(kind)
    node.visit(finder)
    return finder.found


def _is_text(statement: cst.CSTNode) -> bool:
    """Whether a statement is nothing but a string: a docstring, if it comes first."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    only = statement.body[0]
    return isinstance(only, cst.Expr) and isinstance(only.value, cst.SimpleString)


def imported_names(module: cst.Module, source: str) -> set[str]:
    """The names that ``from <source> import …`` at the top level binds under their own name."""
    names: set[str] = set()
    for statement in module.body:
        for small in statement.body if isinstance(statement, cst.SimpleStatementLine) else ():
            if not isinstance(small, cst.ImportFrom) or small.relative or small.module is None:
                continue
            if code(small.module) == source and not isinstance(small.names, cst.ImportStar):
                names |= {code(alias.name) for alias in small.names if alias.asname is None}
    return names


def imports_module(module: cst.Module, name: str) -> bool:
    """Whether ``import <name>`` stands at the top level."""
    imports = [small for line in _lines(module) for small in line.body if isinstance(small, cst.Import)]
    return any(is_name(alias.name, name) and not alias.asname for each in imports for alias in each.names)


def _lines(module: cst.Module) -> list[cst.SimpleStatementLine]:
    return [line for line in module.body if isinstance(line, cst.SimpleStatementLine)]


class _Names(cst.CSTVisitor):
    """Collects every name that is read or written outside of import statements."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_Import(self, node: cst.Import) -> bool:
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return False

    def visit_Name(self, node: cst.Name) -> None:
        self.names.add(node.value)

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        # A quoted annotation, or an entry of __all__, uses the names that stand in it.
        if len(node.value) < 200:
            self.names |= set(re.findall(r"[A-Za-z_]\w*", node.value))


def names_in(node: cst.CSTNode) -> set[str]:
    """Every name in a node, short strings included, imports left out."""
    collector = _Names()
    node.visit(collector)
    return collector.names


class _DropImports(cst.CSTTransformer):
    def __init__(self, source: str, unused: set[str]) -> None:
        self.source = source
        self.unused = unused

    def leave_ImportFrom(
        self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom
    ) -> cst.ImportFrom | cst.RemovalSentinel:
        names = updated_node.names
        if updated_node.module is None or code(updated_node.module) != self.source or updated_node.relative:
            return updated_node
        if isinstance(names, cst.ImportStar):
            return updated_node
        kept = [alias for alias in names if alias.asname is not None or code(alias.name) not in self.unused]
        if len(kept) == len(names):
            return updated_node
        if not kept:
            return cst.RemoveFromParent()
        if updated_node.lpar is None:
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return updated_node.with_changes(names=kept)

    def leave_Import(self, original_node: cst.Import, updated_node: cst.Import) -> cst.Import | cst.RemovalSentinel:
        if self.source or len(updated_node.names) != 1 or code(updated_node.names[0].name) not in self.unused:
            return updated_node
        return updated_node if updated_node.names[0].asname else cst.RemoveFromParent()


def drop_unused_from(module: cst.Module, source: str, candidates: set[str]) -> cst.Module:
    """Drop names of ``from <source> import …`` that nothing in the module uses any more."""
    unused = candidates - names_in(module)
    return module.visit(_DropImports(source, unused)) if unused else module


def drop_unused_import(module: cst.Module, name: str) -> cst.Module:
    """Drop ``import <name>`` if nothing in the module uses it any more."""
    return module if name in names_in(module) else module.visit(_DropImports("", {name}))


def add_from_import(module: cst.Module, source: str, name: str) -> cst.Module:
    """Add ``from <source> import <name>`` of the standard library where a sorted module has it."""
    if name in imported_names(module, source):
        return module
    body = list(module.body)
    place, joins = _place_for(body, source)
    line = cst.parse_statement(f"from {source} import {name}")
    if not joins:
        line = line.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    body.insert(place, line)
    return module.with_changes(body=body)


def _place_for(body: Sequence[cst.BaseStatement], source: str) -> tuple[int, bool]:
    """Where an import belongs, and whether it joins other imports of the standard library there."""
    place, joins = 0, False
    for index, statement in enumerate(body):
        if not isinstance(statement, cst.SimpleStatementLine):
            break
        first = statement.body[0]
        if isinstance(first, cst.ImportFrom) and first.module is not None and not first.relative:
            origin = code(first.module)
            if origin == "__future__":
                place = index + 1
            elif origin.split(".")[0] in sys.stdlib_module_names and origin < source:
                place, joins = index + 1, True
        elif isinstance(first, cst.Import) and code(first.names[0].name).split(".")[0] in sys.stdlib_module_names:
            place, joins = index + 1, True
        elif index == 0 and _is_text(statement):
            place = 1
    return place, joins


def docstring_lines(node: cst.FunctionDef | cst.ClassDef) -> int:
    """How many leading statements of a body are its docstring: 0 or 1."""
    body = node.body.body
    return 1 if body and _is_text(body[0]) else 0


def is_mutable_literal(node: cst.BaseExpression | None) -> bool:
    """Whether an expression makes a fresh list, dict or set that could be shared by mistake."""
    if isinstance(node, cst.List | cst.Dict | cst.Set):
        return True
    return called(node) in ("list", "dict", "set")


def widen(annotation: cst.Annotation) -> cst.Annotation:
    """The same annotation, with None allowed."""
    inner = annotation.annotation
    if isinstance(inner, cst.SimpleString):
        quote = inner.quote
        return annotation.with_changes(annotation=cst.SimpleString(f"{quote}{inner.raw_value} | None{quote}"))
    return annotation.with_changes(annotation=cst.BinaryOperation(left=inner, operator=cst.BitOr(), right=NONE))


def allows_none(annotation: cst.Annotation) -> bool:
    """Whether an annotation already allows None (or anything)."""
    text = code(annotation.annotation).strip("\"'")
    return bool(re.search(r"\bNone\b|\bOptional\b|^Any$|^object$", text))


class _Returns(cst.CSTVisitor):
    def __init__(self) -> None:
        self.values = 0
        self.yields = False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_Return(self, node: cst.Return) -> None:
        self.values += node.value is not None

    def visit_Yield(self, node: cst.Yield) -> None:
        self.yields = True


def returns_nothing(node: cst.FunctionDef) -> bool:
    """Whether a function never returns a value and never yields one."""
    visitor = _Returns()
    node.body.visit(visitor)
    return not visitor.values and not visitor.yields


def literal_type(node: cst.BaseExpression | None) -> str | None:
    """The type that a literal default speaks for, where there is no doubt."""
    if isinstance(node, cst.Name) and node.value in ("True", "False"):
        return "bool"
    if isinstance(node, cst.Integer):
        return "int"
    if isinstance(node, cst.Float):
        return "float"
    if isinstance(node, cst.SimpleString | cst.ConcatenatedString):
        return "bytes" if "b" in code(node)[:2].lower() else "str"
    return None
