"""What gates stand for, and which gates a workstream has."""

import pytest

from services.bundle import BundleGate, GateType
from services.config import ConfigError, load_yaml, parse_yaml
from services.gates import GATE_TYPES, GATES_BYTES, Gate, GatesError, asked_for, parse_gates
from services.profiles import TIMEOUT_S_MAX, shipped_tool_profiles
from services.resources import resource


def test_the_shipped_gates_stand_for_shipped_checkers_that_report():
    file = resource("config/gates.yaml")
    shipped = parse_gates(load_yaml(file, GATES_BYTES), str(file))
    assert set(shipped) == set(GATE_TYPES) == set(GateType.__args__)
    profiles = shipped_tool_profiles()
    for gate in shipped.values():
        assert profiles[gate.tool].report.format != "none"
        assert profiles[gate.tool].type != "ai"
    assert [type_ for type_, gate in shipped.items() if gate.wave_boundary] == ["GATE_INTEGRATION"]


def test_a_gate_has_a_tool_and_may_have_more():
    document = {"GATE_UNIT": {"tool": "a"}, "GATE_LINT": {"tool": "b", "wave_boundary": True, "timeout_s": 7}}
    assert parse_gates(document, "x") == {
        "GATE_UNIT": Gate(tool="a"),
        "GATE_LINT": Gate(tool="b", wave_boundary=True, timeout_s=7.0),
    }
    assert parse_gates({}, "x") == {}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"GATE_MAGIC": {"tool": "a"}}, "unknown type of gate 'GATE_MAGIC'. Known are: GATE_LINT"),
        ({"gate_lint": {"tool": "a"}}, "unknown type of gate"),
        ({"GATE_UNIT": {}}, "x: GATE_UNIT: .*tool"),
        ({"GATE_UNIT": {"tool": ""}}, "GATE_UNIT"),
        ({"GATE_UNIT": {"tool": "a" * 201}}, "GATE_UNIT"),
        ({"GATE_UNIT": {"tool": 1}}, "GATE_UNIT"),
        ({"GATE_UNIT": "pytest"}, "GATE_UNIT"),
        ({"GATE_UNIT": None}, "GATE_UNIT"),
        ({"GATE_UNIT": ["pytest"]}, "GATE_UNIT"),
        ({"GATE_UNIT": {"tool": "a", "required": False}}, "required"),
        ({"GATE_UNIT": {"tool": "a", "wave_boundary": "yes"}}, "wave_boundary"),
        ({"GATE_UNIT": {"tool": "a", "timeout_s": 0}}, "timeout_s"),
        ({"GATE_UNIT": {"tool": "a", "timeout_s": TIMEOUT_S_MAX + 1}}, "timeout_s"),
        ({"GATE_UNIT": {"tool": "a", "timeout_s": float("nan")}}, "timeout_s"),
        ({"GATE_UNIT": {"tool": "a", "\x1b[2J": 1}}, r"\\x1b\[2J"),
    ],
)
def test_what_is_not_understood_names_file_type_and_remedy(document, said):
    with pytest.raises(GatesError, match=said) as raised:
        parse_gates(document, "x")
    assert str(raised.value).startswith("x: ")
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        b"GATE_UNIT: {tool: a}\nGATE_UNIT: {tool: b}\n",
        b"- GATE_UNIT",
        b"",
        b"GATE_UNIT: !!python/object/apply:os.system [id]",
        b"a: &a [*a]",
        b"\xff",
        b"x: \x07",
        b"#" * (GATES_BYTES + 1),
    ],
)
def test_yaml_that_cannot_be_used_is_told(data):
    with pytest.raises(ConfigError, match=r"^tools/gates\.yaml"):
        parse_yaml(data, "tools/gates.yaml", GATES_BYTES)


def gate(type_, **fields):
    return BundleGate(type=type_, **fields)


def test_a_bundle_s_own_entry_wins_by_type_and_keeps_its_place():
    repository = (gate("GATE_UNIT"), gate("GATE_LINT", required=False))
    assert asked_for(repository, ()) == repository
    assert asked_for((), repository) == repository
    own = (gate("GATE_SECURITY", blocking=False), gate("GATE_UNIT", required=False))
    assert asked_for(repository, own) == (own[1], repository[1], own[0])
