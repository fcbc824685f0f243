"""Rules on statements and classes: dated idioms that newer Python says more plainly or more safely."""

# ruff: noqa: N802, ARG002 - libcst prescribes the names and parameters of visitors

from typing import cast

import libcst as cst
from source import (
    NONE,
    add_from_import,
    allows_none,
    called,
    code,
    docstring_lines,
    drop_unused_import,
    imports_module,
    is_mutable_literal,
    is_name,
    names_in,
    widen,
)


class ObjectBase(cst.CSTTransformer):
    """`class X(object)` becomes `class X`."""

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        bases = [base for base in updated_node.bases if base.keyword or not is_name(base.value, "object")]
        if len(bases) == len(updated_node.bases):
            return updated_node
        if bases:
            bases[-1] = bases[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        parenthesis = cst.MaybeSentinel.DEFAULT
        return updated_node.with_changes(bases=bases, lpar=parenthesis, rpar=parenthesis)


class SuperCall(cst.CSTTransformer):
    """`super(X, self)` inside a method of X becomes `super()`."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.first: list[str] = []

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.classes.append(node.name.value)

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        self.classes.pop()
        return updated_node

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        params = (*node.params.posonly_params, *node.params.params)
        self.first.append(params[0].name.value if params else "")

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        self.first.pop()
        return updated_node

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        if not is_name(updated_node.func, "super") or not self.classes or len(self.first) != 1:
            return updated_node
        arguments = [code(argument.value) for argument in updated_node.args]
        if arguments != [self.classes[-1], self.first[-1]]:
            return updated_node
        return updated_node.with_changes(args=[])


class NoneComparison(cst.CSTTransformer):
    """`x == None` becomes `x is None`, and `!=` becomes `is not`."""

    def leave_Comparison(self, original_node: cst.Comparison, updated_node: cst.Comparison) -> cst.Comparison:
        return updated_node.with_changes(comparisons=[self._target(each) for each in updated_node.comparisons])

    def _target(self, target: cst.ComparisonTarget) -> cst.ComparisonTarget:
        if not is_name(target.comparator, "None"):
            return target
        if isinstance(target.operator, cst.Equal):
            return target.with_changes(operator=cst.Is())
        if isinstance(target.operator, cst.NotEqual):
            return target.with_changes(operator=cst.IsNot())
        return target


class BareExcept(cst.CSTTransformer):
    """`except:` becomes `except Exception:`, so that an interrupt still ends the program."""

    def leave_ExceptHandler(
        self, original_node: cst.ExceptHandler, updated_node: cst.ExceptHandler
    ) -> cst.ExceptHandler:
        if updated_node.type is not None:
            return updated_node
        space = cst.SimpleWhitespace(" ")
        return updated_node.with_changes(type=cst.Name("Exception"), whitespace_after_except=space)


class _AddCause(cst.CSTTransformer):
    def __init__(self, name: str) -> None:
        self.name = name
        self.changed = False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def visit_Try(self, node: cst.Try) -> bool:
        return False

    def leave_Raise(self, original_node: cst.Raise, updated_node: cst.Raise) -> cst.Raise:
        if not isinstance(updated_node.exc, cst.Call) or updated_node.cause is not None:
            return updated_node
        self.changed = True
        return updated_node.with_changes(cause=cst.From(item=cst.Name(self.name)))


class RaiseFrom(cst.CSTTransformer):
    """A new exception raised while handling another one names it as its cause."""

    def leave_ExceptHandler(
        self, original_node: cst.ExceptHandler, updated_node: cst.ExceptHandler
    ) -> cst.ExceptHandler:
        if updated_node.type is None:
            return updated_node
        name = "error"
        if updated_node.name is not None:
            name = code(updated_node.name.name)
        elif name in names_in(updated_node.body):
            return updated_node
        adder = _AddCause(name)
        body = updated_node.body.visit(adder)
        if not adder.changed:
            return updated_node
        handler = updated_node.with_changes(body=body)
        if handler.name is None:
            handler = handler.with_changes(
                name=cst.AsName(
                    name=cst.Name(name),
                    whitespace_before_as=cst.SimpleWhitespace(" "),
                    whitespace_after_as=cst.SimpleWhitespace(" "),
                )
            )
        return handler


class MutableDefault(cst.CSTTransformer):
    """A list, dict or set as a default value becomes None, and is made afresh in each call.

    Args:
        only: the functions to change; None for all.
    """

    def __init__(self, only: set[str] | None = None) -> None:
        self.only = only

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        body = updated_node.body
        if not isinstance(body, cst.IndentedBlock) or (
            self.only is not None and (updated_node.name.value not in self.only)
        ):
            return updated_node
        guards: list[cst.BaseStatement] = []
        params = updated_node.params.with_changes(
            params=[self._param(param, guards) for param in updated_node.params.params],
            kwonly_params=[self._param(param, guards) for param in updated_node.params.kwonly_params],
        )
        if not guards:
            return updated_node
        after = docstring_lines(updated_node)
        statements = [*body.body[:after], *guards, *body.body[after:]]
        return updated_node.with_changes(params=params, body=body.with_changes(body=statements))

    def _param(self, param: cst.Param, guards: list[cst.BaseStatement]) -> cst.Param:
        if not is_mutable_literal(param.default):
            return param
        name, default = param.name.value, code(cast(cst.BaseExpression, param.default))
        guards.append(cst.parse_statement(f"if {name} is None:\n    {name} = {default}\n"))
        annotation = param.annotation
        if annotation is not None and not allows_none(annotation):
            annotation = widen(annotation)
        return param.with_changes(default=NONE, annotation=annotation)


class OpenAlias(cst.CSTTransformer):
    """`io.open` is `open`; `import io` goes when nothing else needs it."""

    def __init__(self) -> None:
        self.known = False

    def visit_Module(self, node: cst.Module) -> None:
        self.known = imports_module(node, "io")

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        if self.known and called(updated_node) == "io.open":
            return updated_node.with_changes(func=cst.Name("open"))
        return updated_node

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        changed = self.known and not updated_node.deep_equals(original_node)
        return drop_unused_import(updated_node, "io") if changed else updated_node


#: Functions of one path, and what pathlib calls them. (`os.path.join` and `splitext` are handled apart.)
_PATH_CALLS = {
    "os.path.exists": "Path({0}).exists()",
    "os.path.isdir": "Path({0}).is_dir()",
    "os.path.isfile": "Path({0}).is_file()",
    "os.path.basename": "Path({0}).name",
    "os.makedirs": "Path({0}).mkdir(parents=True)",
    "os.listdir": "[entry.name for entry in Path({0}).iterdir()]",
}


class PathCalls(cst.CSTTransformer):
    """Calls of `os.path` become calls of `pathlib`, which stay strings where strings were wanted.

    `pathlib` drops a trailing slash and `./`; code that relies on those must not be given to this rule.
    """

    def __init__(self) -> None:
        self.known = False

    def visit_Module(self, node: cst.Module) -> None:
        self.known = imports_module(node, "os")

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        name = called(updated_node)
        plain = all(argument.keyword is None and not argument.star for argument in updated_node.args)
        if not self.known or not plain or not updated_node.args:
            return updated_node
        arguments = [code(argument.value) for argument in updated_node.args]
        if name == "os.path.join":
            return cst.parse_expression(f"str(Path({', '.join(arguments)}))")
        if name in _PATH_CALLS and len(arguments) == 1:
            return cst.parse_expression(_PATH_CALLS[name].format(*arguments))
        return updated_node

    def leave_Subscript(self, original_node: cst.Subscript, updated_node: cst.Subscript) -> cst.BaseExpression:
        call = updated_node.value
        if not self.known or not isinstance(call, cst.Call) or called(call) != "os.path.splitext":
            return updated_node
        path, part = code(call.args[0].value), code(updated_node)[len(code(call)) :]
        if part == "[0]":
            return cst.parse_expression(f'str(Path({path}).with_suffix(""))')
        return cst.parse_expression(f"Path({path}).suffix") if part == "[1]" else updated_node

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        if not self.known or updated_node.deep_equals(original_node):
            return updated_node
        return drop_unused_import(add_from_import(updated_node, "pathlib", "Path"), "os")
