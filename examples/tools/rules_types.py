"""Rules on types: what stands in docstrings, comments and `typing` becomes plain annotations."""

# ruff: noqa: N802, ARG002 - libcst prescribes the names and parameters of visitors

import builtins
import re

import libcst as cst
from source import (
    allows_none,
    code,
    drop_unused_from,
    imported_names,
    is_name,
    literal_type,
    names_in,
    returns_nothing,
    widen,
)

_PARAM = re.compile(r"^\s*:param (?P<type>[^:]+?) (?P<name>\w+):", re.MULTILINE)
_TYPE = re.compile(r"^\s*:type (?P<name>\w+): *(?P<type>.+?)\s*$", re.MULTILINE)
_IVAR = re.compile(r"^\s*:ivar (?P<type>[^:]+?) (?P<name>\w+):", re.MULTILINE)
_RTYPE = re.compile(r"^\s*:rtype: *(?P<type>.+?)\s*$", re.MULTILINE)
_BUILTIN = {"List": "list", "Dict": "dict", "Set": "set", "FrozenSet": "frozenset", "Tuple": "tuple", "Type": "type"}


def _top_level_names(module: cst.Module) -> set[str]:
    """Names a module binds at its top level, classes left out: those count once they are complete."""
    names: set[str] = set()
    for statement in module.body:
        if isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                if isinstance(small, cst.Import | cst.ImportFrom) and not isinstance(small.names, cst.ImportStar):
                    for alias in small.names:
                        bound = alias.asname.name if alias.asname else alias.name
                        names.add(code(bound).split(".")[0])
                elif isinstance(small, cst.Assign):
                    names |= {code(target.target) for target in small.targets}
    return names


class DocstringTypes(cst.CSTTransformer):
    """Types of `:param int x:`, `:type x: int`, `:rtype: int` and `:ivar int x:` become annotations.

    A parameter whose default is None gets `| None`. Where the docstring is silent, a literal default speaks for
    its type, and a function that returns no value gets `-> None`. A type that names something the module does
    not know is left alone. A class that is not complete yet is quoted.
    """

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.all_classes: set[str] = set()
        self.attributes: list[dict[str, str]] = []
        self.depth = 0

    def visit_Module(self, node: cst.Module) -> None:
        self.known = _top_level_names(node) | set(dir(builtins))
        self.all_classes = {each.name.value for each in node.body if isinstance(each, cst.ClassDef)}

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        text = node.get_docstring() or ""
        self.attributes.append({match["name"]: match["type"] for match in _IVAR.finditer(text)})

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        self.attributes.pop()
        self.known.add(updated_node.name.value)
        return updated_node

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.depth += 1

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        self.depth -= 1
        text = updated_node.get_docstring() or ""
        types = {match["name"]: match["type"] for match in (*_PARAM.finditer(text), *_TYPE.finditer(text))}
        params = updated_node.params.with_changes(
            params=[self._param(param, types) for param in updated_node.params.params],
            kwonly_params=[self._param(param, types) for param in updated_node.params.kwonly_params],
        )
        returns = updated_node.returns
        if returns is None:
            documented = _RTYPE.search(text)
            if documented is not None:
                returns = self._annotation(documented["type"])
            elif returns_nothing(updated_node):
                returns = cst.Annotation(cst.Name("None"))
        return updated_node.with_changes(params=params, returns=returns)

    def _param(self, param: cst.Param, types: dict[str, str]) -> cst.Param:
        if param.annotation is not None:
            return param
        documented = types.get(param.name.value) or literal_type(param.default)
        annotation = self._annotation(documented) if documented else None
        if annotation is None:
            return param
        if is_name(param.default, "None"):
            annotation = annotation if allows_none(annotation) else widen(annotation)
        spaced = cst.AssignEqual(cst.SimpleWhitespace(" "), cst.SimpleWhitespace(" "))
        equal = spaced if param.default is not None else param.equal
        return param.with_changes(annotation=annotation, equal=equal)

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign | cst.AnnAssign:
        """Annotate `self.x = []` from the class's `:ivar list[int] x:`."""
        if not self.attributes or not self.depth or len(updated_node.targets) != 1:
            return updated_node
        target = updated_node.targets[0].target
        empty = isinstance(updated_node.value, cst.List | cst.Dict) and not updated_node.value.elements
        if not empty or not isinstance(target, cst.Attribute) or not is_name(target.value, "self"):
            return updated_node
        # Popped: only the first binding of an attribute may be annotated.
        documented = self.attributes[-1].pop(target.attr.value, None)
        annotation = self._annotation(documented) if documented else None
        if annotation is None:
            return updated_node
        return cst.AnnAssign(target=target, annotation=annotation, value=updated_node.value)

    def _annotation(self, text: str) -> cst.Annotation | None:
        text = re.sub(r"\s+or\s+", " | ", text.strip())
        try:
            expression = cst.parse_expression(text)
        except cst.ParserSyntaxError:
            return None
        roots = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", text))
        if roots - self.known - self.all_classes:
            return None
        if roots - self.known:
            expression = cst.SimpleString(f'"{text}"')
        return cst.Annotation(expression)


class TypeComments(cst.CSTTransformer):
    """`x = []  # type: list[int]` becomes `x: list[int] = []`."""

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine:
        comment = updated_node.trailing_whitespace.comment
        match = re.match(r"# type: (?!ignore)(?P<type>[^#]+)$", comment.value) if comment else None
        assign = updated_node.body[0]
        if match is None or len(updated_node.body) != 1 or not isinstance(assign, cst.Assign):
            return updated_node
        target = assign.targets[0].target
        if len(assign.targets) != 1 or not isinstance(target, cst.Name | cst.Attribute):
            return updated_node
        try:
            annotation = cst.Annotation(cst.parse_expression(match["type"].strip()))
        except cst.ParserSyntaxError:
            return updated_node
        typed = cst.AnnAssign(target=target, annotation=annotation, value=assign.value)
        return updated_node.with_changes(body=[typed], trailing_whitespace=cst.TrailingWhitespace())


class _TypingRule(cst.CSTTransformer):
    """A rule that replaces names of `typing`, and drops their imports when they are no longer used."""

    names: frozenset[str]

    def __init__(self) -> None:
        self.imported: set[str] = set()

    def visit_Module(self, node: cst.Module) -> None:
        self.imported = imported_names(node, "typing") & self.names

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        return drop_unused_from(updated_node, "typing", self.imported) if self.imported else updated_node

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return False


class OptionalUnion(_TypingRule):
    """`Optional[X]` becomes `X | None`, `Union[A, B]` becomes `A | B`.

    A member in quotes stays as it is, because `"A" | None` fails when it is evaluated.
    """

    names = frozenset({"Optional", "Union"})

    def leave_Subscript(self, original_node: cst.Subscript, updated_node: cst.Subscript) -> cst.BaseExpression:
        name = code(updated_node.value)
        if name not in self.imported:
            return updated_node
        members = [each.slice.value for each in updated_node.slice if isinstance(each.slice, cst.Index)]
        if any(isinstance(member, cst.SimpleString | cst.ConcatenatedString) for member in members):
            return updated_node
        if name == "Optional" and len(members) == 1 and not is_name(members[0], "None"):
            members.append(cst.Name("None"))
        # `None | None`, and None in front of a name, would be evaluated without any type that knows `|`.
        if len(members) < 2 or is_name(members[0], "None"):
            return updated_node
        joined = members[0]
        for member in members[1:]:
            joined = cst.BinaryOperation(left=joined, operator=cst.BitOr(), right=member)
        return joined


class BuiltinGenerics(_TypingRule):
    """`List[int]` becomes `list[int]`; likewise Dict, Set, FrozenSet, Tuple and Type."""

    names = frozenset(_BUILTIN)

    def visit_Module(self, node: cst.Module) -> None:
        super().visit_Module(node)
        shadowed = _bound_names(node)
        self.imported = {name for name in self.imported if _BUILTIN[name] not in shadowed}

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        if updated_node.value not in self.imported:
            return updated_node
        return updated_node.with_changes(value=_BUILTIN[updated_node.value])

    def visit_Attribute_attr(self, node: cst.Attribute) -> None:
        # `module.List` is somebody else's List.
        self.imported -= {node.attr.value}


class _Bound(cst.CSTVisitor):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.names.add(node.name.value)

    def visit_Param(self, node: cst.Param) -> None:
        self.names.add(node.name.value)

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        self.names |= names_in(node.target)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self.names |= names_in(node.target)


def _bound_names(module: cst.Module) -> set[str]:
    """Names that a module binds anywhere: a builtin that is shadowed must not become an annotation."""
    collector = _Bound()
    module.visit(collector)
    return collector.names
