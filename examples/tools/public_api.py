"""Write a package's public interface as a module: `public_api.py --package DIR --output DIR/api.py`.

The interface is every public class, function and constant of every library module. A module that defines `main`
is a program and is left out, as are modules and names with a leading underscore. `__all__` of the package's
`__init__.py`, if it has one, is refreshed to name the library modules.

Exit codes: 0 done, 1 two modules offer one name or a source cannot be read, 2 wrong arguments.
"""

import argparse
import ast
import sys
from pathlib import Path

from files import read


def public_names(tree: ast.Module) -> list[str]:
    """The public classes, functions and constants of a module, as an import sorter orders them."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for each in targets if isinstance(each, ast.Name) and each.id.isupper()}
    return sorted((name for name in names if not name.startswith("_")), key=_import_order)


def _import_order(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name


def interface(modules: dict[str, list[str]], package: str) -> str:
    """The text of the module that offers everything.

    Raises:
        ValueError: a name that two modules offer.
    """
    origin: dict[str, str] = {}
    lines = [
        f'"""Everything that {package} offers, in one place; written by a tool from the modules themselves."""',
        "",
    ]
    for module, names in sorted(modules.items()):
        for name in names:
            if name in origin:
                raise ValueError(f"{name} is offered by {origin[name]} and by {module}: rename one of them")
            origin[name] = module
        if names:
            lines += [f"from {package}.{module} import ("] + [f"    {name}," for name in names] + [")"]
    lines += ["", "__all__ = ["] + [f'    "{name}",' for name in sorted(origin)] + ["]", ""]
    return "\n".join(lines)


def refresh_all(text: str, names: list[str]) -> str:
    """The text of a package's `__init__.py` with `__all__` naming these modules; unchanged if it has none."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            lines = text.splitlines(keepends=True)
            listed = "".join(f'    "{name}",\n' for name in names)
            return "".join([*lines[: node.lineno - 1], f"__all__ = [\n{listed}]\n", *lines[node.end_lineno :]])
    return text


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="public_api", description="Write a package's public interface.")
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    modules: dict[str, list[str]] = {}
    try:
        for path in sorted(options.package.glob("*.py")):
            tree = ast.parse(read(path))
            program = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
            if not program and not path.stem.startswith("_") and path != options.output:
                modules[path.stem] = public_names(tree)
        options.output.write_text(interface(modules, options.package.name), encoding="utf-8")
        front = options.package / "__init__.py"
        names = sorted([*modules, options.output.stem])
        front.write_text(refresh_all(read(front), names), encoding="utf-8")
    except (OSError, ValueError, SyntaxError) as error:
        print(f"public_api: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {sum(map(len, modules.values()))} names of {len(modules)} modules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
