"""Bundles: what is accepted, and that everything else is refused with a remedy, all at once."""

import itertools
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services import bundle as b

MINIMAL = {
    "id": "ws-api-layer",
    "openspec_change": "OS-011",
    "ccpm_issue": 2002,
    "gate": 1,
    "files_scope": ["src/api/handler.py"],
    "tasks": ["Add API layer"],
    "tool": "aider",
}
FULL = {
    **MINIMAL,
    "ccpm_issue": "GH-7",
    "files_create": ["tests/api/"],
    "acceptance_tests": ["pytest -q"],
    "capability": "refactoring",
    "capability_payload": {"files": ["a"], "prompt": "p", "timeout_ms": 1000, "max_retries": 5, "own": [1]},
    "circuit_breaker": {"max_attempts": 2, "max_error_repeats": 0, "oscillation_threshold": 3},
    "metadata": {"owner": "team", "swell": {"static_tools": ["ruff"], "setup": ["pip install .", ["make", "deps"]]}},
    "parallel_ok": False,
    "conflict_group": "db",
    "kind": "docs",
    "priority": "background",
    "estimated_context_tokens": 0,
    "max_cost_usd": 0,
    "compensation_actions": ["git revert"],
    "test_gates": [{"type": "GATE_UNIT", "required": False, "blocking": False}],
}


def parse(*documents):
    return b.parse_bundles(
        (f"{at}.json", d if isinstance(d, bytes) else json.dumps(d).encode()) for at, d in enumerate(documents)
    )


def refused(*documents):
    with pytest.raises(b.BundleValidationError) as caught:
        parse(*documents)
    assert all(problem.message and problem.remedy and problem.code for problem in caught.value.problems)
    return caught.value


def test_the_minimal_bundle_has_the_documented_defaults():
    (only,) = parse(MINIMAL)
    assert (only.parallel_ok, only.kind, only.priority) == (True, "impl", "foreground")
    assert only.files_create == only.acceptance_tests == only.depends_on == only.compensation_actions == ()
    assert only.test_gates == ()
    assert only.capability is None
    assert only.circuit_breaker is None
    assert only.conflict_group is None
    assert only.max_cost_usd is None
    assert only.estimated_context_tokens is None
    assert only.capability_payload == {}
    assert only.metadata == {}
    assert only.checks == b.WorkstreamChecks()


def test_there_are_22_fields_and_all_of_them_survive_a_round_trip():
    bundles = parse([FULL])
    assert len(set(b.WorkstreamBundle.__struct_fields__) - b.NOT_IN_FILES) == 22
    assert b.parse_bundles([("again.json", b.encode_bundles(bundles))]) == bundles
    assert bundles[0].checks.setup == ("pip install .", ("make", "deps"))
    assert bundles[0].breaker == b.BreakerOverride(max_attempts=2, max_error_repeats=0, oscillation_threshold=3)
    assert bundles[0].test_gates == (b.BundleGate(type="GATE_UNIT", required=False, blocking=False),)


def test_ten_thousand_workstreams_survive_a_round_trip_in_one_document():
    bundles = parse(*([{**MINIMAL, "id": f"ws-{at}-{n}"} for n in range(500)] for at in range(20)))
    again = b.parse_bundles([("all.json", b.encode_bundles(bundles))], file_bytes=b.SET_BYTES_MAX)
    assert len(again) == 10_000
    assert again == bundles


def test_a_folder_is_read_whole_and_sorted_by_id(tmp_path: Path):
    (tmp_path / "2.json").write_text(json.dumps({**MINIMAL, "id": "ws-a", "depends_on": ["ws-c", "ws-c"]}))
    (tmp_path / "1.json").write_text(json.dumps([{**MINIMAL, "id": "ws-c"}, {**MINIMAL, "id": "ws-b"}]))
    (tmp_path / ".hidden.json").write_text("no")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path, str(tmp_path)):
        bundles = b.load_and_validate_bundles(path)
        assert [bundle.id for bundle in bundles] == ["ws-a", "ws-b", "ws-c"]
        assert bundles[0].depends_on == ("ws-c",)


def test_paths_are_normalised_and_named_once():
    (only,) = parse({**MINIMAL, "files_scope": ["./src\\api//", "src/api", "docs/*/"]})
    assert only.files_scope == ("src/api", "docs/*/**")


def test_comments_are_ignored_except_in_free_metadata():
    (only,) = parse(
        {
            **MINIMAL,
            "_comment": 1,
            "_comment_tool": "why",
            "circuit_breaker": {"_comment": "x", "max_attempts": 2},
            "test_gates": [{"_comment": "x", "type": "GATE_LINT"}],
            "metadata": {"_comment": "kept", "swell": {"_comment": "x", "gates": "none"}},
        }
    )
    assert only.circuit_breaker == {"max_attempts": 2}
    assert only.metadata["_comment"] == "kept"
    assert only.checks.gates == "none"


def test_missing_fields_are_listed_together():
    (problem,) = refused({"id": "ws-a", "gate": 1}).problems
    assert problem.code == "MISSING_FIELD"
    assert "openspec_change, ccpm_issue, files_scope, tasks, tool" in problem.message


def test_an_unknown_field_is_named_with_the_nearest_valid_one():
    (problem,) = refused({**MINIMAL, "file_scope": []}).problems
    assert (problem.code, problem.field, problem.workstream) == ("UNKNOWN_FIELD", "file_scope", "ws-api-layer")
    assert "'files_scope'" in problem.remedy


def test_all_problems_of_all_files_come_together():
    error = refused({**MINIMAL, "gate": 0, "tool": ""}, b"{", {**MINIMAL, "id": "WS", "files_scope": ["../x", "/y"]})
    assert [(p.file, p.field) for p in error.problems] == [
        ("0.json", "gate"),
        ("0.json", "tool"),
        ("1.json", ""),
        ("2.json", "id"),
        ("2.json", "files_scope[0]"),
        ("2.json", "files_scope[1]"),
    ]
    assert len(str(error).splitlines()) == 6


def test_the_text_of_an_error_is_capped_with_a_count():
    error = refused([{**MINIMAL, "id": f"ws-{n}", "gate": 0} for n in range(80)])
    lines = str(error).splitlines()
    assert len(error.problems) == 80
    assert len(lines) == b.MESSAGE_LINES_MAX + 1
    assert lines[-1] == "... and 30 more problems"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "ws-A"}, "id"),
        ({"id": "ws-a\n"}, "id"),
        ({"id": "ws-" + "a" * 98}, "id"),
        ({"id": 5}, "id"),
        ({"gate": 0}, "gate"),
        ({"gate": True}, "gate"),
        ({"gate": "1"}, "gate"),
        ({"ccpm_issue": 1.5}, "ccpm_issue"),
        ({"ccpm_issue": None}, "ccpm_issue"),
        ({"files_scope": []}, "files_scope"),
        ({"files_scope": "src"}, "files_scope"),
        ({"files_scope": [1]}, "files_scope[0]"),
        ({"files_scope": [""]}, "files_scope[0]"),
        ({"files_scope": [".git/hooks"]}, "files_scope[0]"),
        ({"files_create": ["a", "C:\\x"]}, "files_create[1]"),
        ({"files_create": ["!a"]}, "files_create[0]"),
        ({"tasks": ["x" * (b.TEXT_CHARS_MAX + 1)]}, "tasks[0]"),
        ({"tasks": ["x"] * (b.ITEMS_MAX + 1)}, "tasks"),
        ({"tasks": None}, "tasks"),
        ({"depends_on": ["nobody"]}, "depends_on[0]"),
        ({"capability": "magic"}, "capability"),
        ({"capability_payload": {"timeout_ms": 999}}, "capability_payload.timeout_ms"),
        ({"capability_payload": {"max_retries": 6}}, "capability_payload.max_retries"),
        ({"capability_payload": []}, "capability_payload"),
        ({"circuit_breaker": {"max_attempts": 0}}, "circuit_breaker.max_attempts"),
        ({"circuit_breaker": {"oscillation_threshold": -1}}, "circuit_breaker.oscillation_threshold"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"swell": []}}, "metadata.swell"),
        ({"metadata": {"swell": {"gate": "none"}}}, "metadata.swell.gate"),
        ({"metadata": {"swell": {"gates": "all"}}}, "metadata.swell.gates"),
        ({"metadata": {"swell": {"static_tools": "ruff"}}}, "metadata.swell.static_tools"),
        ({"metadata": {"swell": {"droppings": ["*a*b*c*d"]}}}, "metadata.swell.droppings"),
        ({"metadata": {"x": "y" * b.FREE_BYTES_MAX}}, "metadata"),
        ({"metadata": {"x": json.loads("[" * 40 + "]" * 40)}}, "metadata"),
        ({"parallel_ok": 1}, "parallel_ok"),
        ({"kind": "magic"}, "kind"),
        ({"priority": "urgent"}, "priority"),
        ({"estimated_context_tokens": -1}, "estimated_context_tokens"),
        ({"max_cost_usd": -0.01}, "max_cost_usd"),
        ({"max_cost_usd": "5"}, "max_cost_usd"),
        ({"max_cost_usd": 1e12}, "max_cost_usd"),
        ({"test_gates": [{"type": "GATE_MAGIC"}]}, "test_gates[0].type"),
        ({"test_gates": [{"required": True}]}, "test_gates[0]"),
        ({"test_gates": [{"type": "GATE_LINT", "x": 1}]}, "test_gates[0]"),
        ({"test_gates": ["GATE_LINT"]}, "test_gates[0]"),
    ],
)
def test_a_wrong_value_is_reported_at_its_field(change, field):
    (problem,) = refused({**MINIMAL, **change}).problems
    assert problem.field == field


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "MALFORMED_JSON"),
        (b"\x00", "MALFORMED_JSON"),
        (b'{"id": tru}', "MALFORMED_JSON"),
        (b"[1] x", "MALFORMED_JSON"),
        (b'{"id": "a\nb"}', "MALFORMED_JSON"),
        (b"[" * 100_000, "NESTED_TOO_DEEPLY"),
        (b'{"a":' * 100_000, "NESTED_TOO_DEEPLY"),
        (b'{"id": "\xff"}', "NOT_UTF8"),
        (b'{"max_cost_usd": NaN}', "BAD_NUMBER"),
        (b"[-Infinity]", "BAD_NUMBER"),
        (b"1e999", "BAD_NUMBER"),
        (b"1" * 10_000, "BAD_NUMBER"),
        (b'{"gate": 1, "gate": 2}', "DUPLICATE_KEY"),
        (b'{"id": "ws-\\u0000"}', "UNUSABLE_TEXT"),
        (b'{"id": "\\ud800"}', "UNUSABLE_TEXT"),
        (b"null", "NOT_AN_OBJECT"),
        (b"[[]]", "NOT_AN_OBJECT"),
        (b"[]", "NO_BUNDLES"),
        (b" " * (b.FILE_BYTES_MAX + 1), "FILE_TOO_LARGE"),
    ],
)
def test_a_hostile_document_is_one_clear_problem(data, code):
    (problem,) = refused(data).problems
    assert problem.code == code
    assert len(str(problem)) < 300


def test_malformed_json_is_located():
    assert "line 2, column 8" in str(refused(b'{\n  "a": tru}'))


def test_a_byte_order_mark_is_no_error():
    assert len(parse(b"\xef\xbb\xbf" + json.dumps(MINIMAL).encode())) == 1


def test_no_documents_at_all_is_an_error():
    assert refused().problems[0].code == "NO_BUNDLES"


def test_too_many_workstreams_end_the_load():
    error = refused(b"[" + b"1," * 400_000 + b"1]")
    assert [p.code for p in error.problems] == ["TOO_MANY_WORKSTREAMS"]


def test_the_whole_set_is_limited():
    page = b" " * (1 << 20)
    (*_, last) = refused(*[page] * 65).problems
    assert last.code == "SET_TOO_LARGE"


@pytest.mark.parametrize("name", ["nothing", "nothing.json", "a\0b", "x" * 5000])
def test_a_path_that_is_not_there_is_an_error(tmp_path: Path, name):
    with pytest.raises(b.BundleValidationError):
        b.load_and_validate_bundles(f"{tmp_path}/{name}")


def test_an_empty_folder_is_an_error(tmp_path: Path):
    with pytest.raises(b.BundleValidationError, match="no workstream found"):
        b.load_and_validate_bundles(tmp_path)


def test_a_large_file_is_refused_by_its_size(tmp_path: Path):
    """A sparse file: reading it would take memory that the limit is there to protect."""
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(b.BundleValidationError, match="50000000 bytes"):
        b.load_and_validate_bundles(tmp_path)


def test_a_named_pipe_does_not_hang_the_loader(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(b.BundleValidationError, match="not a regular file"):
        b.load_and_validate_bundles(tmp_path)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_read(tmp_path: Path):
    folder = tmp_path / "bundles"
    folder.mkdir()
    (tmp_path / "secret.json").write_text(json.dumps(MINIMAL))
    (folder / "real").write_text(json.dumps(MINIMAL))
    (folder / "in.json").symlink_to("real")
    assert len(b.load_and_validate_bundles(folder)) == 1
    (folder / "out.json").symlink_to("../secret.json")
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "gone.json").symlink_to("nowhere")
    with pytest.raises(b.BundleValidationError) as caught:
        b.load_and_validate_bundles(folder)
    assert [(Path(p.file).name, p.code) for p in caught.value.problems] == [
        ("gone.json", "FILE_NOT_FOUND"),
        ("loop.json", "UNREADABLE"),
        ("out.json", "SYMLINK_OUTSIDE"),
    ]


def test_a_duplicate_id_names_both_files():
    (problem,) = refused(MINIMAL, MINIMAL).problems
    assert problem.code == "DUPLICATE_ID"
    assert "0.json" in problem.message
    assert "1.json" in problem.message


def ws(id_, *needs):
    return {**MINIMAL, "id": id_, "depends_on": list(needs)}


def test_every_missing_dependency_is_listed():
    error = refused([ws("ws-b", "ws-y", "ws-x"), ws("ws-a", "ws-x", "ws-b")])
    assert type(error) is b.BundleDependencyError
    assert error.missing == (("ws-a", "ws-x"), ("ws-b", "ws-x"), ("ws-b", "ws-y"))
    assert "ws-b -> ws-y" in str(error)


def test_every_cycle_is_listed_once_from_its_smallest_id():
    error = refused([ws("ws-c", "ws-a"), ws("ws-b", "ws-c"), ws("ws-a", "ws-b", "ws-a"), ws("ws-d", "ws-a")])
    assert type(error) is b.BundleCycleError
    assert error.cycles == (("ws-a",), ("ws-a", "ws-b", "ws-c"))
    assert "ws-a -> ws-b -> ws-c -> ws-a" in str(error)


def test_dependencies_are_not_called_missing_while_a_file_is_unreadable():
    assert [p.code for p in refused([ws("ws-a", "ws-b")], b"{").problems] == ["MALFORMED_JSON"]


def test_dependencies_are_checked_beside_other_problems():
    error = refused([{**ws("ws-a", "ws-x", "ws-b"), "gate": 0}, ws("ws-b", "ws-a")])
    assert type(error) is b.BundleValidationError
    assert [p.code for p in error.problems] == ["INVALID_FIELD", "UNKNOWN_DEPENDENCY", "CYCLE"]


def test_a_cycle_of_a_thousand_is_one_cycle():
    ids = [f"ws-{n:04}" for n in range(1_000)]
    graph = dict(zip(ids, ([other] for other in ids[1:] + ids[:1]), strict=True))
    assert b.find_cycles(graph) == ([tuple(ids)], True)


def test_a_dense_graph_is_cut_off_and_says_so():
    ids = [f"ws-{n:03}" for n in range(100)]
    cycles, complete = b.find_cycles(dict.fromkeys(ids, ids))
    assert len(cycles) == b.CYCLES_MAX
    assert not complete


def test_a_chain_of_ten_thousand_has_no_cycle():
    ids = [f"ws-{n:05}" for n in range(10_000)]
    assert b.find_cycles({id_: ids[:at][-1:] for at, id_ in enumerate(ids)}) == ([], True)


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcdef"), max_size=4), max_size=5))
def test_the_cycles_are_those_that_brute_force_finds(graph):
    expected = sorted(
        path
        for size in range(1, len(graph) + 1)
        for path in itertools.permutations(graph, size)
        if path[0] == min(path)
        and all(after in graph[before] for before, after in zip(path, (*path[1:], path[0]), strict=True))
    )
    assert b.find_cycles(graph) == (expected, True)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@example({"test_gates": [{"\x1b[2J": None}]})
@given(st.dictionaries(st.sampled_from([*b.WorkstreamBundle.__struct_fields__, "_comment", "x"]), JSON_VALUES))
def test_any_object_is_either_a_bundle_or_a_readable_error(raw):
    try:
        (only,) = parse({**MINIMAL, **raw})
    except b.BundleValidationError as error:
        text = str(error)
    else:
        text = only.id
    assert all(line.isprintable() for line in text.splitlines())


@given(st.binary(max_size=200))
def test_any_bytes_are_either_bundles_or_an_error(data):
    with pytest.raises(b.BundleValidationError):
        parse(data)


def test_bundles_are_frozen():
    (only,) = parse(MINIMAL)
    with pytest.raises(AttributeError):
        only.id = "ws-other"
    assert msgspec.structs.replace(only, id="ws-other").id == "ws-other"


@pytest.mark.parametrize("setup", [["echo 'unclosed"], ["   "], [[]]])
def test_a_setup_command_that_cannot_be_run_is_reported_with_its_place(setup):
    text = json.dumps(MINIMAL | {"metadata": {"swell": {"setup": setup}}}).encode()
    with pytest.raises(b.BundleValidationError) as refused:
        b.parse_bundles([("a.json", text)])
    assert [problem.field for problem in refused.value.problems] == ["metadata.swell.setup[0]"]
