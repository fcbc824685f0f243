"""The templates of prompts, and the one way to fill them in. Owns jinja2.

Invariants:

* A template's source is shipped with this package (`*.md.j2`). Nothing else is ever compiled: data are values.
* A template prints `Quoted` text and whole numbers, and nothing else (see quoting.py).
* A template that names a variable nobody passes is an error that names both, whether or not the place is reached.
* Templates run sandboxed: no attribute that leads out of a value, and no change of a value.

Each begins with its version in a comment, `{# 1.1 #}`. Its digest is the SHA-256 of its own source and of those it
extends, so two prompts with the same digest were written by the same template.
"""

import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

import msgspec
from jinja2 import DictLoader, StrictUndefined, TemplateError, Undefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.executor.prompts.quoting import Quoted

SUFFIX: Final = ".md.j2"
_VERSION: Final = re.compile(r"\{# (\d+\.\d+) #\}")


class PromptTemplateError(Exception):
    """A template that cannot be filled in; the text names it, and what is wrong with it."""


class PromptTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """Which template, in which version. `digest` is hexadecimal; `variables` are those that it and what it extends name."""

    name: str
    version: str
    digest: str
    variables: frozenset[str]


class PromptTemplates:
    """A closed set of templates."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """`sources` by name, as in `edit`; one extends or includes another by its file name, as in `edit.md.j2`."""
        self._sources = dict(sources)
        # Prompts are Markdown, not HTML: to escape their text would change it.
        self._environment = ImmutableSandboxedEnvironment(
            loader=DictLoader({f"{name}{SUFFIX}": source for name, source in sources.items()}),
            undefined=StrictUndefined,
            autoescape=False,
            finalize=_only_quoted,
            trim_blocks=True,
            lstrip_blocks=True,
            cache_size=-1,
        )
        self._described: dict[str, PromptTemplate] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Every template, sorted."""
        return tuple(sorted(self._sources))

    def describe(self, name: str) -> PromptTemplate:
        """A template's version, digest and variables. Raises PromptTemplateError when there is none that can be read."""
        known = self._described.get(name)
        if known is None:
            known = self._described[name] = self._read(name)
        return known

    def fill(self, name: str, values: Mapping[str, Any]) -> str:
        """The text of a template with these values.

        Raises PromptTemplateError: there is no such template, it is malformed, it names a variable that `values` lacks,
        prints what is not quoted, or does what the sandbox forbids.
        """
        template = self.describe(name)
        if missing := sorted(template.variables - set(values)):
            raise PromptTemplateError(
                f"template {name} names {', '.join(repr(variable) for variable in missing)}, which nobody passes: correct "
                f"the name, or pass it; known are {', '.join(sorted(values))}"
            )
        try:
            return self._environment.get_template(f"{name}{SUFFIX}").render(values)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise PromptTemplateError(f"template {name}: {error or type(error).__name__}") from error

    def _read(self, name: str) -> PromptTemplate:
        trees = self._trees(name)
        version = _VERSION.match(self._sources[name])
        if version is None:
            raise PromptTemplateError(f"template {name} has no version: begin it with a comment such as {{# 1.0 #}}")
        digest = sha256()
        variables: set[str] = set()
        for part, tree in trees.items():
            digest.update(f"{part}\0{self._sources[part]}\0".encode())
            try:
                variables |= meta.find_undeclared_variables(tree)
            except TemplateError as error:
                raise PromptTemplateError(f"template {part} is malformed: {error}") from error
        return PromptTemplate(
            name=name, version=version.group(1), digest=digest.hexdigest(), variables=frozenset(variables)
        )

    def _trees(self, name: str) -> dict[str, nodes.Template]:
        """A template and all it extends or includes, itself first, as jinja2 reads them."""
        trees: dict[str, nodes.Template] = {}
        wanted = [name]
        for part in wanted:
            if part not in self._sources:
                raise PromptTemplateError(f"there is no template {part!r}: take one of {', '.join(self.names)}")
            try:
                trees[part] = self._environment.parse(self._sources[part])
            except TemplateError as error:
                raise PromptTemplateError(f"template {part} is malformed: {error}") from error
            for reference in trees[part].find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
                target = reference.template  # type: ignore[attr-defined]  # each of the four has it
                if not isinstance(target, nodes.Const) or not isinstance(target.value, str):
                    raise PromptTemplateError(
                        f"template {part} refers to another by more than its name: write the name"
                    )
                if (other := target.value.removesuffix(SUFFIX)) not in wanted:
                    wanted.append(other)
        return trees


@cache
def shipped_templates() -> PromptTemplates:
    """Those that come with this package."""
    return PromptTemplates(
        {
            entry.name.removesuffix(SUFFIX): entry.read_text(encoding="utf-8")
            for entry in files("services.executor.prompts").iterdir()
            if entry.name.endswith(SUFFIX)
        }
    )


def _only_quoted(value: Any) -> Any:
    if isinstance(value, Quoted | Undefined) or type(value) is int:
        return value
    raise TypeError(
        f"prints {type(value).__name__} that was not quoted: pass it through services.executor.prompts.quoting"
    )
