"""Repairs for type errors that mypy reports, by line, code and message.

Each repair is one that a reader of the message would make without knowing the program: say that None may be
returned, say that a value must be there, write the type that is plain from the code. Everything else stays.
"""

# ruff: noqa: N802 - libcst prescribes the names and parameters of visitors

import re
from collections.abc import Sequence

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from source import allows_none, code, find_all, is_name, literal_type, returns_nothing, widen

_ATTRIBUTE = re.compile(r'Item "None" of "[^"]*" has no attribute "(?P<attribute>\w+)"')
_ARGUMENT = re.compile(
    r'Argument (?P<which>\d+|"\w+") to .* has incompatible type "(?P<got>.*)"; expected "(?P<want>.*)"'
)
_RETURN = re.compile(r'Incompatible return value type \(got "(?P<got>.*)", expected "(?P<want>.*)"\)')
_DEFAULT = re.compile(r'Incompatible default for (?:parameter|argument) "(?P<name>\w+)" \(.*"None"')
_ASSIGNED = re.compile(r'Incompatible types in assignment \(expression has type "None", variable has type')
_VARIABLE = re.compile(r'Need type annotation for "(?P<name>[\w.]+)"')
_INDEXED = re.compile(r'Value of type "(?P<got>.*)" is not indexable')

Report = tuple[int, str, str]


def _only_none_apart(got: str, want: str) -> bool:
    """Whether a type is the wanted one but for None."""
    members = {part.strip() for part in got.split(" | ")}
    return "None" in members and members - {"None"} <= {part.strip() for part in want.split(" | ")}


class _Repairs(cst.CSTTransformer):
    """Applies the repairs of one file in one walk; statements are matched by their first and last line."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = reports
        self.done: list[tuple[int, str]] = []
        self.returns: list[cst.FunctionDef] = []
        self.guards: dict[cst.CSTNode, list[tuple[int, str]]] = {}

    def _span(self, node: cst.CSTNode) -> range:
        where = self.get_metadata(PositionProvider, node)
        return range(where.start.line, where.end.line + 1)

    def _at(self, node: cst.CSTNode, *codes: str) -> list[Report]:
        span = self._span(node)
        return [report for report in self.reports if report[0] in span and report[1] in codes]

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.returns.append(node)

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        self.returns.pop()
        node = self._widen_return(original_node, updated_node)
        node = node.with_changes(params=self._params(original_node, node))
        head = self.get_metadata(PositionProvider, original_node.name).start.line
        for line, kind, _ in self.reports:
            if kind == "no-untyped-def" and line in range(self._span(original_node).start, head + 1):
                node = self._annotate(line, node)
        return node

    def _widen_return(self, original: cst.FunctionDef, updated: cst.FunctionDef) -> cst.FunctionDef:
        for line, _, message in self._at(original, "return-value"):
            match = _RETURN.search(message)
            if match is None or updated.returns is None or not self._innermost(original, line):
                continue
            if _only_none_apart(match["got"], match["want"]) and not allows_none(updated.returns):
                self.done.append((line, f"{original.name.value} may return None"))
                return updated.with_changes(returns=widen(updated.returns))
            if allows_none(updated.returns):
                self.done.append((line, f"{original.name.value} may return None"))
        return updated

    def _innermost(self, function: cst.FunctionDef, line: int) -> bool:
        nested = find_all(function.body, cst.FunctionDef)
        return not any(line in self._span(each) for each in nested)

    def _params(self, original: cst.FunctionDef, updated: cst.FunctionDef) -> cst.Parameters:
        optional = {}
        for line, _, message in self._at(original.params, "assignment"):
            match = _DEFAULT.search(message)
            if match is not None:
                optional[match["name"]] = line

        def widened(param: cst.Param) -> cst.Param:
            line = optional.get(param.name.value)
            if line is None or param.annotation is None or allows_none(param.annotation):
                return param
            self.done.append((line, f"{param.name.value} may be None"))
            return param.with_changes(annotation=widen(param.annotation))

        params = updated.params
        return params.with_changes(
            params=[widened(param) for param in params.params],
            kwonly_params=[widened(param) for param in params.kwonly_params],
        )

    def _annotate(self, line: int, node: cst.FunctionDef) -> cst.FunctionDef:
        """Annotate what is plain: no value returned, and literal defaults."""
        typed = node
        if node.returns is None and returns_nothing(node):
            typed = typed.with_changes(returns=cst.Annotation(cst.Name("None")))
        listed = []
        for param in node.params.params:
            kind = literal_type(param.default) if param.annotation is None else None
            spaced = cst.AssignEqual(cst.SimpleWhitespace(" "), cst.SimpleWhitespace(" "))
            listed.append(
                param.with_changes(annotation=cst.Annotation(cst.Name(kind)), equal=spaced) if kind else param
            )
        typed = typed.with_changes(params=typed.params.with_changes(params=listed))
        if not typed.deep_equals(node):
            self.done.append((line, f"annotated {node.name.value}"))
        return typed

    def leave_AnnAssign(self, original_node: cst.AnnAssign, updated_node: cst.AnnAssign) -> cst.AnnAssign:
        for line, _, message in self._at(original_node, "assignment"):
            if _ASSIGNED.search(message) and not allows_none(updated_node.annotation):
                self.done.append((line, f"{code(updated_node.target)} may be None"))
                return updated_node.with_changes(annotation=widen(updated_node.annotation))
        return updated_node

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign | cst.AnnAssign:
        for line, _, message in self._at(original_node, "var-annotated"):
            match = _VARIABLE.search(message)
            target = updated_node.targets[0].target
            if match is None or len(updated_node.targets) != 1 or code(target).split(".")[-1] != match["name"]:
                continue
            annotation = self._returned_type(match["name"])
            if annotation is not None:
                self.done.append((line, f"{match['name']} has the type that is returned"))
                return cst.AnnAssign(target=target, annotation=annotation, value=updated_node.value)
        return updated_node

    def _returned_type(self, name: str) -> cst.Annotation | None:
        """The annotation of the function around, if it returns the variable itself."""
        if not self.returns or self.returns[-1].returns is None:
            return None
        returned = [each for each in find_all(self.returns[-1].body, cst.Return) if is_name(each.value, name)]
        return cst.Annotation(self.returns[-1].returns.annotation.deep_clone()) if returned else None

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.FlattenSentinel[cst.BaseStatement]:
        guards = [self._guard(name) for name in self._must_not_be_none(original_node)]
        return cst.FlattenSentinel([*guards, updated_node]) if guards else updated_node

    def _guard(self, name: str) -> cst.BaseStatement:
        words = f"{name} must not be None"
        return cst.parse_statement(f'if {name} is None:\n    raise ValueError("{words}")\n')

    def _must_not_be_none(self, statement: cst.SimpleStatementLine) -> list[str]:
        """The plain names in a statement that mypy says may be None where a value is needed."""
        found: dict[str, int] = {}
        for line, kind, message in self._at(statement, "union-attr", "arg-type", "index"):
            for name in self._culprits(statement, kind, message):
                found.setdefault(name, line)
        for name, line in found.items():
            self.done.append((line, f"{name} is checked for None"))
        return list(found)

    def _culprits(self, statement: cst.SimpleStatementLine, kind: str, message: str) -> set[str]:
        if kind == "union-attr" and (match := _ATTRIBUTE.search(message)):
            attributes = find_all(statement, cst.Attribute)
            owners = [each.value for each in attributes if each.attr.value == match["attribute"]]
            return {owner.value for owner in owners if isinstance(owner, cst.Name)}
        if kind == "index" and (match := _INDEXED.search(message)) and "None" in match["got"].split(" | "):
            indexed = [each.value for each in find_all(statement, cst.Subscript)]
            return {each.value for each in indexed if isinstance(each, cst.Name)}
        match = _ARGUMENT.search(message) if kind == "arg-type" else None
        if match is None or not match["which"].isdigit() or "None" in match["want"]:
            return set()
        if "None" not in match["got"].split(" | "):
            return set()
        return self._arguments(statement, int(match["which"]) - 1)

    def _arguments(self, statement: cst.SimpleStatementLine, place: int) -> set[str]:
        """The names at one place of the calls in a statement, if there is just one."""
        names = set()
        for call in find_all(statement, cst.Call):
            arguments = call.args
            if place < len(arguments) and isinstance(arguments[place].value, cst.Name):
                names.add(code(arguments[place].value))
        return names if len(names) == 1 else set()


def repair(source: str, reports: Sequence[Report]) -> tuple[str, list[tuple[int, str]]]:
    """The source with the repairs for some reports, and what was done: line and text.

    Args:
        source: the text of one module.
        reports: line (from 1), mypy's code, mypy's message.
    """
    repairs = _Repairs(reports)
    module = MetadataWrapper(cst.parse_module(source)).visit(repairs)
    return module.code, repairs.done
