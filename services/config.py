"""Configuration: one frozen value per service, parsed once. The only module that imports yaml.

Settings come from a TOML file, and from environment variables that override it. A key or a variable that nobody reads
is an error that names the nearest one that exists, so a slip of the pen is never a silent default.
"""

import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

CONFIG_BYTES_MAX = 1024 * 1024
YAML_NODES_MAX = 100_000

_OF_CLIENTS = frozenset({"SWELL_TLS_NAME"})
"""Variables of `swell` that look like a service's, and are not."""

T = TypeVar("T", bound=msgspec.Struct)


class ConfigError(ValueError):
    """A setting cannot be used; the text names the file or variable, the key, and what to do."""


def load(kind: type[T], file: Path | None, env: Mapping[str, str], prefix: str) -> T:
    """The settings `kind`, a frozen msgspec.Struct whose struct-typed fields are sections.

    `file` is TOML, None for none. `prefix` is the service's, such as SWELL_LEDGER: `<prefix>_<KEY>` sets a key of
    `kind`, and `SWELL_<SECTION>_<KEY>` one of its section, whatever the service;
    of a section within a section `SWELL_<SECTION>_<SECTION>_<KEY>`. Values from the environment are text
    for text, numbers, booleans and paths, and JSON for lists and tables. Raises ConfigError.
    """
    settings = {} if file is None else _read_toml(file)
    origin = "the configuration" if file is None else str(file)
    _check_keys(kind, settings, origin, "")
    return _converted(kind, _overridden(kind, settings, env, prefix), f"{origin} and the environment")


def load_section(kind: type[T], file: Path, section: str) -> T:
    """One section of a TOML file, whatever else stands there; the defaults where it is missing. Raises ConfigError."""
    found = _read_toml(file).get(section, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: {section} is no section: write [{section}] above its keys")
    _check_keys(kind, found, str(file), f"{section}.")
    return _converted(kind, found, f"{file} [{section}]")


def load_yaml(path: Path, max_bytes: int) -> Mapping[str, Any]:
    """The mapping in a YAML file of at most `max_bytes`, as `parse_yaml` reads it. Raises ConfigError."""
    return parse_yaml(_read(path, max_bytes), str(path), max_bytes)


def parse_yaml(data: bytes, source: str, max_bytes: int) -> Mapping[str, Any]:
    """The mapping in at most `max_bytes` of YAML, of plain values only; `source` names it in errors.

    A key given twice is an error. So are aliases that stand for themselves, and a document that its aliases blow up
    beyond YAML_NODES_MAX values. Raises ConfigError.
    """
    loader = None
    try:
        loader = _Loader(_decoded(data, source, max_bytes))
        node = loader.get_single_node()
        if node is not None:
            _count_nodes(node, source)
        found = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML that can be used: {_one_line(error)}; mend it there") from error
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deeply: flatten it") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{source} holds a value that cannot be read ({error}): mend it, or put it in quotes"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{source} must hold a mapping with text as keys at its top")
    return found


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error


def _decoded(data: bytes, source: str, max_bytes: int) -> str:
    if len(data) > max_bytes:
        raise ConfigError(f"{source} is larger than {max_bytes} bytes: make it smaller")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_decoded(_read(file, CONFIG_BYTES_MAX), str(file), CONFIG_BYTES_MAX))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is not TOML: {error or 'nested too deeply'}; mend it there") from error


def _check_keys(kind: type[msgspec.Struct], settings: Mapping[str, Any], origin: str, at: str) -> None:
    sections = _sections(kind)
    for key, value in settings.items():
        if key not in kind.__struct_fields__:
            raise ConfigError(f"{origin}: unknown key {at + key!r}{_nearest(key, kind.__struct_fields__)}")
        if key in sections:
            if not isinstance(value, dict):
                raise ConfigError(f"{origin}: {at + key!r} is a section: write it as [{at + key}] with keys below it")
            _check_keys(sections[key], value, origin, f"{at}{key}.")


def _sections(kind: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The fields of `kind` that are structs of their own."""
    return {
        name: hint
        for name, hint in typing.get_type_hints(kind).items()
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct)
    }


def _overridden(
    kind: type[msgspec.Struct], settings: Mapping[str, Any], env: Mapping[str, str], prefix: str
) -> dict[str, Any]:
    merged = dict(settings)
    sections = _sections(kind)
    _override(kind, merged, env, prefix, skip=frozenset(sections))
    family = prefix.partition("_")[0]
    for name, section in sections.items():
        values = _section(section, merged.get(name, {}), env, f"{family}_{name.upper()}")
        if values or name in merged:
            merged[name] = values
    return merged


def _section(
    kind: type[msgspec.Struct], settings: Mapping[str, Any], env: Mapping[str, str], prefix: str
) -> dict[str, Any]:
    """A section, and the sections within it, with what the environment says of them."""
    values = dict(settings)
    inner = _sections(kind)
    own = {
        name: text
        for name, text in env.items()
        if not any(name.startswith(f"{prefix}_{one.upper()}_") for one in inner)
    }
    _override(kind, values, own, prefix, skip=frozenset(inner))
    for name, section in inner.items():
        found = _section(section, values.get(name, {}), env, f"{prefix}_{name.upper()}")
        if found or name in values:
            values[name] = found
    return values


def _override(
    kind: type[msgspec.Struct], values: dict[str, Any], env: Mapping[str, str], prefix: str, *, skip: frozenset[str]
) -> None:
    hints = typing.get_type_hints(kind)
    variables = {f"{prefix}_{name.upper()}": name for name in kind.__struct_fields__ if name not in skip}
    for variable, text in env.items():
        if not variable.startswith(prefix + "_") or variable in _OF_CLIENTS:
            continue
        if variable not in variables:
            raise ConfigError(f"the environment: unknown variable {variable}{_nearest(variable, list(variables))}")
        name = variables[variable]
        values[name] = _from_text(text, hints[name], variable)


def _from_text(text: str, hint: Any, variable: str) -> Any:
    """The value that a variable's text stands for."""
    try:
        if _structured(hint):
            return msgspec.json.decode(text, type=hint, dec_hook=_decode)
        return msgspec.convert(text, hint, strict=False, dec_hook=_decode)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"the environment: {variable} cannot be used: {error}; mend or unset it") from error


def _structured(hint: Any) -> bool:
    """Whether values of this type are lists or tables."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(typing.get_origin(part) in (list, dict, tuple, Mapping) or part in (list, dict, tuple) for part in parts)


def _decode(wanted: type[Any], value: Any) -> Any:
    if wanted is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise msgspec.ValidationError(f"expected {wanted.__name__}, got {type(value).__name__}")


def _converted(kind: type[T], settings: Mapping[str, Any], origin: str) -> T:
    try:
        return msgspec.convert(settings, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {error}; mend that key") from error


def _nearest(word: str, words: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(words))}"


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; raises yaml.YAMLError."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _count_nodes(root: yaml.Node, source: str) -> int:
    """How many values the document holds once its aliases are written out."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in above:
            raise ConfigError(
                f"{source}: an alias stands for what contains it (line {node.start_mark.line + 1}): write it out"
            )
        if id(node) not in sizes:
            above.add(id(node))
            match node:
                case yaml.MappingNode():
                    total = sum(size(key) + size(value) for key, value in node.value)
                case yaml.SequenceNode():
                    total = sum(size(item) for item in node.value)
                case _:
                    total = 0
            above.discard(id(node))
            sizes[id(node)] = total + 1
        if sizes[id(node)] > YAML_NODES_MAX:
            raise ConfigError(
                f"{source} holds more than {YAML_NODES_MAX} values once its aliases are written out: make it smaller"
            )
        return sizes[id(node)]

    return size(root)


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())[:300]
