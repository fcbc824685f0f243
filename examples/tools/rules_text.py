"""Rules on strings: `%` and `.format` become f-strings, `u""` becomes `""`.

Each rule leaves alone what it cannot translate without a doubt: mappings, stars in widths, nested quotes, and
`%d` of something that is not known to be a whole number (`%d` cuts a fraction off, an f-string refuses it).
"""

# ruff: noqa: N802, ARG002 - libcst prescribes the names and parameters of visitors

import re
from collections.abc import Sequence

import libcst as cst
from source import called, code

_DIRECTIVE = re.compile(r"%(?P<flags>[-+ 0]*)(?P<width>\d+)?(?:\.(?P<digits>\d+))?(?P<kind>[diouxXeEfFgGcrsa%])")
_FIELD = re.compile(r"\{\{|\}\}|\{(?P<field>[^{}]*)\}|[{}]")
_FIELD_PARTS = re.compile(r"^(?P<name>\w*)(?P<rest>(?:\.\w+)*)(?:!(?P<conversion>[rsa]))?(?::(?P<spec>.*))?$")


class _WholeNumbers(cst.CSTVisitor):
    """Finds the local names of one function that are bound to nothing but whole numbers."""

    def __init__(self, function: cst.FunctionDef | cst.Module) -> None:
        self.bindings: dict[str, list[cst.BaseExpression | bool]] = {}
        if isinstance(function, cst.FunctionDef):
            for param in (*function.params.posonly_params, *function.params.params, *function.params.kwonly_params):
                known = param.annotation is not None and code(param.annotation.annotation) == "int"
                self._bind(param.name, known)
            function.body.visit(self)
        self.names: set[str] = {name for name, found in self.bindings.items() if True in found}
        for _ in range(3):
            self.names = {
                name
                for name, found in self.bindings.items()
                if all(self.whole(value) if isinstance(value, cst.BaseExpression) else value for value in found)
            }

    def _bind(self, target: cst.BaseExpression, value: cst.BaseExpression | bool) -> None:
        if isinstance(target, cst.Name):
            self.bindings.setdefault(target.value, []).append(value)
        elif isinstance(target, cst.Tuple | cst.List):
            parts = self._parts(value, len(target.elements))
            for element, part in zip(target.elements, parts, strict=True):
                self._bind(element.value, part)

    def _parts(self, value: cst.BaseExpression | bool, count: int) -> list[cst.BaseExpression | bool]:
        if isinstance(value, cst.Tuple) and len(value.elements) == count:
            return [element.value for element in value.elements]
        if isinstance(value, cst.Call) and called(value) == "divmod":
            return [value, value]
        return [False] * count

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self._bind(node.name, False)
        return False

    def visit_Assign(self, node: cst.Assign) -> None:
        for target in node.targets:
            self._bind(target.target, node.value)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self._bind(node.target, code(node.annotation.annotation) == "int")

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._bind(node.target, False if isinstance(node.operator, cst.DivideAssign) else node.value)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:
        self._bind(node.target, node.value)

    def visit_AsName(self, node: cst.AsName) -> None:
        self._bind(node.name, False)

    def visit_For(self, node: cst.For) -> None:
        self._loop(node.target, node.iter)

    def visit_CompFor(self, node: cst.CompFor) -> None:
        self._loop(node.target, node.iter)

    def _loop(self, target: cst.BaseExpression, over: cst.BaseExpression) -> None:
        if called(over) == "range":
            self._bind(target, True)
        elif called(over) == "enumerate" and isinstance(target, cst.Tuple):
            self._bind(target.elements[0].value, True)
            self._bind(target.elements[1].value, False)
        else:
            self._bind(target, False)

    def whole(self, node: cst.BaseExpression) -> bool:
        """Whether an expression is a whole number without a doubt."""
        if isinstance(node, cst.Integer):
            return True
        if isinstance(node, cst.Name):
            return node.value in self.names
        if isinstance(node, cst.UnaryOperation):
            return self.whole(node.expression)
        if isinstance(node, cst.BinaryOperation):
            exact = not isinstance(node.operator, cst.Divide | cst.Power | cst.MatrixMultiply)
            return exact and self.whole(node.left) and self.whole(node.right)
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
            if node.func.value in ("len", "int", "ord", "hash", "id"):
                return True
            return node.func.value in ("divmod", "abs", "min", "max") and all(
                self.whole(argument.value) for argument in node.args
            )
        return False


class _SwapQuotes(cst.CSTTransformer):
    """Rewrites plain strings to use the other quote, so that they can stand inside an f-string."""

    def __init__(self, outer: str) -> None:
        self.outer = outer

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> cst.SimpleString:
        inner = "'" if self.outer == '"' else '"'
        if updated_node.prefix or updated_node.quote != self.outer or inner in updated_node.raw_value:
            return updated_node
        return cst.SimpleString(f"{inner}{updated_node.raw_value}{inner}")


def _field(node: cst.BaseExpression, quote: str) -> str | None:
    """The text of an expression inside an f-string, or None where Python 3.11 could not read it."""
    if isinstance(node, cst.Lambda | cst.NamedExpr | cst.Dict | cst.Set | cst.DictComp | cst.SetComp | cst.Yield):
        return None
    if isinstance(node, cst.GeneratorExp | cst.StarredElement):
        return None
    swapped = node.visit(_SwapQuotes(quote[0]))
    text = code(swapped) if isinstance(swapped, cst.CSTNode) else ""
    if any(sign in text for sign in (quote[0], "\\", "\n", "#")) or "!=" in text:
        return None
    if isinstance(node, cst.FormattedString) or not text:
        return None
    return text


def _fstring(literal: cst.SimpleString, body: str) -> cst.BaseExpression:
    prefix = literal.prefix.replace("u", "")
    return cst.parse_expression(f"f{prefix}{literal.quote}{body}{literal.quote}")


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _method_of_literal(call: cst.Call) -> str:
    """The method that is called on a plain string literal, if that is what a call does."""
    if isinstance(call.func, cst.Attribute) and isinstance(call.func.value, cst.SimpleString):
        return call.func.attr.value
    return ""


class PercentFormat(cst.CSTTransformer):
    """`"%s is %d" % (a, len(b))` becomes `f"{a} is {len(b)}"`."""

    def __init__(self) -> None:
        self.numbers: list[_WholeNumbers] = []

    def visit_Module(self, node: cst.Module) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._enter(node)

    def _enter(self, node: cst.Module | cst.FunctionDef) -> None:
        self.numbers.append(_WholeNumbers(node))

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        self.numbers.pop()
        return updated_node

    def leave_BinaryOperation(
        self, original_node: cst.BinaryOperation, updated_node: cst.BinaryOperation
    ) -> cst.BaseExpression:
        left, right = updated_node.left, updated_node.right
        if not isinstance(updated_node.operator, cst.Modulo) or not isinstance(left, cst.SimpleString):
            return updated_node
        if "b" in left.prefix.lower() or left.lpar:
            return updated_node
        values = self._values(right)
        body = None if values is None else self._body(left, values)
        if body is None:
            return updated_node
        return _fstring(left, body).with_changes(lpar=updated_node.lpar, rpar=updated_node.rpar)

    def _values(self, right: cst.BaseExpression) -> list[cst.BaseExpression] | None:
        if isinstance(right, cst.Tuple):
            return [element.value for element in right.elements]
        single = isinstance(right, cst.SimpleString) or self.numbers[-1].whole(right)
        joined = isinstance(right, cst.Call) and _method_of_literal(right) == "join"
        return [right] if single or joined or called(right) in ("str", "repr", "type") else None

    def _body(self, literal: cst.SimpleString, values: list[cst.BaseExpression]) -> str | None:
        text, parts, position, waiting = literal.raw_value, [], 0, list(values)
        while (start := text.find("%", position)) >= 0:
            match = _DIRECTIVE.match(text, start)
            if match is None:
                return None
            parts.append(_escape(text[position:start]))
            position = match.end()
            if match["kind"] == "%":
                parts.append("%")
                continue
            piece = self._piece(match, waiting.pop(0), literal.quote) if waiting else None
            if piece is None:
                return None
            parts.append(piece)
        return None if waiting else "".join([*parts, _escape(text[position:])])

    def _piece(self, match: re.Match[str], value: cst.BaseExpression, quote: str) -> str | None:
        expression = _field(value, quote)
        flags, kind, width = match["flags"], match["kind"], match["width"] or ""
        if expression is None:
            return None
        digits = "" if match["digits"] is None else f".{match['digits']}"
        if kind in "sra":
            if set(flags) - {"-"}:
                return None
            conversion = "" if kind == "s" and not (width or digits) else f"!{kind}"
            align = ("<" if "-" in flags else ">") if width else ""
            spec = f"{align}{width}{digits}"
            return f"{{{expression}{conversion}{':' + spec if spec else ''}}}"
        if kind in "diuxXoc" and (digits or not self.numbers[-1].whole(value)):
            return None
        kind = "d" if kind in "iu" else kind
        align = "<" if "-" in flags and width else ""
        sign = "+" if "+" in flags else " " if " " in flags else ""
        zero = "0" if "0" in flags and "-" not in flags and width else ""
        spec = f"{align}{sign}{zero}{width}{digits}{kind}"
        return f"{{{expression}}}" if spec == "d" else f"{{{expression}:{spec}}}"


class FormatCall(cst.CSTTransformer):
    """`"{} of {n}".format(a, n=b)` becomes `f"{a} of {b}"`."""

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        if _method_of_literal(updated_node) != "format":
            return updated_node
        literal = cst.ensure_type(cst.ensure_type(updated_node.func, cst.Attribute).value, cst.SimpleString)
        if literal.lpar or any(argument.star for argument in updated_node.args):
            return updated_node
        body = self._body(literal, updated_node.args)
        if body is None:
            return updated_node
        return _fstring(literal, body).with_changes(lpar=updated_node.lpar, rpar=updated_node.rpar)

    def _body(self, literal: cst.SimpleString, arguments: Sequence[cst.Arg]) -> str | None:
        if "b" in literal.prefix.lower() or "\\N" in literal.value:
            return None
        named = {argument.keyword.value: argument.value for argument in arguments if argument.keyword}
        listed = [argument.value for argument in arguments if not argument.keyword]
        used: list[str] = []
        failed = False

        def replace(match: re.Match[str]) -> str:
            nonlocal failed
            if match["field"] is None:
                failed = failed or match[0] not in ("{{", "}}")
                return match[0]
            parts = _FIELD_PARTS.match(match["field"])
            value = None
            if parts is not None:
                name = parts["name"] or str(len(used))
                place = int(name) if name.isdigit() else len(listed)
                value = listed[place] if place < len(listed) else named.get(name)
                used.append(name)
            text = _field(value, literal.quote) if value is not None else None
            if parts is None or text is None:
                failed = True
                return ""
            if parts["rest"] and not isinstance(value, cst.Name | cst.Attribute | cst.Call):
                text = f"({text})"
            conversion = f"!{parts['conversion']}" if parts["conversion"] else ""
            spec = f":{parts['spec']}" if parts["spec"] else ""
            return f"{{{text}{parts['rest']}{conversion}{spec}}}"

        body = _FIELD.sub(replace, literal.raw_value)
        # An argument that is used twice would be evaluated twice, one that is not used not at all.
        once = len(used) == len(set(used)) == len(arguments)
        return body if once and not failed else None


class StringPrefix(cst.CSTTransformer):
    """`u"text"` becomes `"text"`."""

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> cst.SimpleString:
        if updated_node.prefix.lower() != "u":
            return updated_node
        return updated_node.with_changes(value=updated_node.value[1:])
