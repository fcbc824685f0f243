"""The JSON Schema: generated, committed, and of one mind with the loader about shapes."""

import json
from pathlib import Path

import jsonschema
import pytest

from services import bundle as b

COMMITTED = Path(b.__file__).parents[1] / "swell" / "schema" / "workstream.schema.json"
MINIMAL = {
    "id": "ws-api-layer",
    "openspec_change": "OS-011",
    "ccpm_issue": 2002,
    "gate": 1,
    "files_scope": ["src/api/handler.py"],
    "tasks": ["Add API layer"],
    "tool": "aider",
}


def schema_accepts(document) -> bool:
    return jsonschema.Draft7Validator(json.loads(COMMITTED.read_text())).is_valid(document)


def loader_accepts(document) -> bool:
    try:
        b.parse_bundles([("x.json", json.dumps(document).encode())])
    except b.BundleValidationError:
        return False
    return True


def test_the_committed_schema_is_the_generated_one():
    """Regenerate with `python -m services.bundle > swell/schema/workstream.schema.json`."""
    assert COMMITTED.read_text() == b.schema_text()
    jsonschema.Draft7Validator.check_schema(b.json_schema())


@pytest.mark.parametrize(
    "document",
    [
        MINIMAL,
        [MINIMAL],
        {**MINIMAL, "_comment_x": 1, "metadata": {"own": [1], "swell": {"gates": "none", "_comment": ""}}},
        {
            **MINIMAL,
            "capability_payload": {"own": 1},
            "circuit_breaker": {"own": 1},
            "test_gates": [{"type": "GATE_UNIT"}],
        },
    ],
)
def test_both_accept(document):
    assert schema_accepts(document)
    assert loader_accepts(document)


@pytest.mark.parametrize(
    "document",
    [
        [],
        5,
        [5],
        {},
        {key: value for key, value in MINIMAL.items() if key != "tool"},
        *(
            {**MINIMAL, **change}
            for change in (
                {"colour": 1},
                {"id": "ws-A"},
                {"id": "ws-a\n"},
                {"gate": 0},
                {"gate": "1"},
                {"gate": True},
                {"files_scope": []},
                {"files_scope": [1]},
                {"tasks": "x"},
                {"ccpm_issue": None},
                {"capability": "magic"},
                {"capability_payload": {"timeout_ms": 1}},
                {"circuit_breaker": {"max_attempts": 0}},
                {"metadata": {"swell": {"gate": 1}}},
                {"kind": "magic"},
                {"max_cost_usd": -1},
                {"test_gates": [{}]},
                {"test_gates": [{"type": "GATE_UNIT", "x": 1}]},
            )
        ),
    ],
)
def test_both_refuse(document):
    assert not schema_accepts(document)
    assert not loader_accepts(document)
