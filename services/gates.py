"""Gates: which tool profile judges what a gate's type asks for, and when; and which gates a workstream has.

    GATE_LINT: {tool: ruff}                                         # config/gates.yaml, and what lies over it
    GATE_INTEGRATION: {tool: pytest-integration, wave_boundary: true, timeout_s: 1800}

A gate is asked for by its type, in `test_gates` of swell.toml or of a bundle; what its type means stands here. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from services.bundle import BundleGate, GateType
from services.diagnostic import printable
from services.profiles import NAME_CHARS_MAX, TIMEOUT_S_MAX

GATES_BYTES: Final = 64 * 1024
GATE_TYPES: Final[tuple[GateType, ...]] = get_args(GateType)


class GatesError(ValueError):
    """What gates stand for cannot be used; the text names file, type, field and remedy."""


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a type of gate stands for.

    Attributes:
        tool: the id of the tool profile that judges.
        wave_boundary: whether it judges what a wave has merged, once for all; else each workstream's tree and each
            merged tree.
        timeout_s: its limit in seconds, in place of that of the profile and of the step; at most 30 days.
    """

    tool: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
    wave_boundary: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=TIMEOUT_S_MAX)] | None = None


Gates = dict[GateType, Gate]


def parse_gates(document: Mapping[str, Any], source: str) -> Gates:
    """What a mapping in the form of config/gates.yaml says; ``source`` names it in errors.

    Raises:
        GatesError: it names an unknown type or field, or gives one a value that is not understood.
    """
    found: Gates = {}
    for name, raw in document.items():
        try:
            kind = msgspec.convert(name, GateType)
        except msgspec.ValidationError as error:
            raise GatesError(
                f"{source}: unknown type of gate {name!r:.80}. Known are: {', '.join(GATE_TYPES)}."
            ) from error
        try:
            found[kind] = msgspec.convert(raw, Gate)
        except msgspec.ValidationError as error:
            raise GatesError(
                f"{source}: {kind}: {printable(str(error))[:300]}. Give it a tool, and if need be wave_boundary and timeout_s."
            ) from error
    return found


def asked_for(repository: Iterable[BundleGate], bundle: Iterable[BundleGate]) -> tuple[BundleGate, ...]:
    """The gates of a workstream: those of its repository in order, then its bundle's; of one type the bundle's own."""
    return tuple({gate.type: gate for gate in (*repository, *bundle)}.values())
