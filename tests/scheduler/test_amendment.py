"""Definitions made from definitions keep what was pinned, and change nothing that could not have been submitted."""

import json

import pytest
from test_submission import CHECKED, codes, document, header

from services.bundle import BundleValidationError, parse_bundles
from services.scheduler.amendment import Adjustment, Another, amended, another, chosen, with_dependencies
from services.scheduler.config import SchedulerConfig
from services.scheduler.submission import SubmissionError, Submissions
from services.spec import Definitions, decode_spec, encode_spec

NEW = "b" * 40


@pytest.fixture(scope="module")
def submissions() -> Submissions:
    return Submissions(SchedulerConfig())


@pytest.fixture(scope="module")
def spec(submissions):
    """ws-0 ← ws-1 ← ws-2, and ws-3 by itself."""
    chain = [CHECKED, CHECKED | {"depends_on": ["ws-0"]}, CHECKED | {"depends_on": ["ws-1"]}, CHECKED]
    return submissions.plan(header(paused=True), document(*chain)).spec


def of(spec, workstream):
    return next(bundle for bundle in spec.bundles if bundle.id == workstream)


def test_an_adjustment_changes_one_workstream_and_nothing_else(spec, submissions):
    change = Adjustment(
        workstream="ws-1", tool="claude", add_files_scope=("docs/",), add_files_create=("new.py",), hint="look",
        more_attempts=3,
    )  # fmt: skip
    after = amended(spec, change, submissions.profiles)
    bundle = of(after, "ws-1")
    assert (bundle.tool, bundle.hints) == ("claude", ("look",))
    assert bundle.files_scope == ("f1.py", "docs")
    assert bundle.files_create == ("new.py",)
    assert bundle.breaker.max_attempts == 7, "3 FIX calls and the first run, and 3 more"
    assert [b for b in after.bundles if b.id != "ws-1"] == [b for b in spec.bundles if b.id != "ws-1"]
    assert (after.waves, after.options, after.recovery, after.breaker) == (
        spec.waves, spec.options, spec.recovery, spec.breaker
    )  # fmt: skip
    assert set(after.profiles) >= {"claude", "echo", "ruff"}
    assert decode_spec(encode_spec(after)) == after
    again = amended(after, Adjustment(workstream="ws-1", hint="and here"), submissions.profiles)
    assert of(again, "ws-1").hints == ("look", "and here")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"workstream": "ws-9"}, "workstream"),
        ({}, "workstream"),
        ({"tool": "nobody"}, "tool"),
        ({"add_files_scope": ("ok.py", "../up")}, "add_files_scope[1]"),
        ({"add_files_create": (".git/config",)}, "add_files_create[0]"),
        ({"hint": "a\0b"}, "hint"),
        ({"more_attempts": -1}, "more_attempts"),
        ({"more_attempts": 1000}, "more_attempts"),
    ],
)
def test_what_cannot_be_adjusted_is_named(spec, submissions, change, field):
    with pytest.raises(SubmissionError) as refused:
        amended(spec, Adjustment(**({"workstream": "ws-1"} | change)), submissions.profiles)
    assert refused.value.field == field


def test_a_bundle_file_may_not_give_hints():
    with pytest.raises(BundleValidationError, match="unknown field 'hints'"):
        parse_bundles([("a.json", json.dumps(json.loads(document(CHECKED)[0][1])[0] | {"hints": ["x"]}).encode())])


def test_another_try_is_made_of_what_did_not_complete(spec):
    states = {"ws-0": "completed", "ws-1": "failed", "ws-2": "blocked", "ws-3": "failed"}
    assert chosen(spec, states, []) == {"ws-1", "ws-2", "ws-3"}
    assert chosen(spec, states, ["ws-1"]) == {"ws-1", "ws-2"}, "what depends on it goes along"
    assert chosen(spec, states, ["ws-3"]) == {"ws-3"}
    taken_back = {**states, "ws-3": "compensated"}
    assert chosen(spec, taken_back, []) == {"ws-1", "ws-2"}, "what was taken back is done again only by its name"
    assert chosen(spec, taken_back, ["ws-3"]) == {"ws-3"}
    assert with_dependencies(spec, {"ws-2"}) == {"ws-0", "ws-1", "ws-2"}
    for named in (["ws-0"], ["ws-9"]):
        with pytest.raises(SubmissionError, match=named[0]):
            chosen(spec, states, named)
    with pytest.raises(SubmissionError, match="nothing to try again"):
        chosen(spec, dict.fromkeys(states, "completed"), [])


def test_another_try_starts_elsewhere_and_keeps_the_rules(spec):
    wanted = Another(
        run="again", actor="bob", workstreams=frozenset({"ws-1", "ws-2"}), base_commit=NEW, base_ref="swell/r"
    )
    made = another(spec, wanted)
    assert (made.run, made.actor, made.repository.base_commit, made.repository.base_ref) == (
        "again",
        "bob",
        NEW,
        "swell/r",
    )
    assert made.waves == [["ws-1"], ["ws-2"]]
    assert [of(made, name).depends_on for name in ("ws-1", "ws-2")] == [(), ("ws-1",)]
    assert made.options.paused is False
    assert (made.recovery, made.breaker, made.profiles) == (spec.recovery, spec.breaker, spec.profiles)


def test_what_may_stand_in_for_a_tool_is_pinned_and_must_exist(submissions):
    """A fallback of a fallback as well; nothing is looked up once a run is under way."""
    profiles = {"echo": {"command": "echo", "fallback": ["two"]}, "two": {"command": "echo", "fallback": ["three"]}}
    three = {"three": {"command": "echo"}}
    made = submissions.plan(header(tool_profiles_json=json.dumps(profiles | three).encode()), document(CHECKED))
    assert set(made.spec.profiles) == {"echo", "ruff", "two", "three"}
    missing = {"echo": {"command": "echo", "fallback": ["nobody"]}}
    made = submissions.plan(header(tool_profiles_json=json.dumps(missing).encode()), document(CHECKED))
    assert codes(made) == {"UNKNOWN_TOOL"}


def test_the_tool_that_a_person_names_comes_before_any_route_and_the_pinned_registry_stays(submissions):
    routed = CHECKED | {"capability": "code_generation"}
    spec = submissions.plan(header(), document(routed, routed)).spec
    after = amended(spec, Adjustment(workstream="ws-0", tool="codex"), submissions.profiles)
    assert Definitions(spec).chain("ws-0", "edit") == ("aider", "claude", "echo")
    assert Definitions(after).chain("ws-0", "edit") == ("codex",)
    assert Definitions(after).chain("ws-1", "edit") == ("aider", "claude", "echo")
    hinted = amended(spec, Adjustment(workstream="ws-0", hint="look"), submissions.profiles)
    assert Definitions(hinted).chain("ws-0", "edit") == ("aider", "claude", "echo")
    assert after.registry == hinted.registry == spec.registry
    wanted = Another(run="r2", actor="ann", workstreams=frozenset({"ws-1"}), base_commit=NEW, base_ref="")
    assert another(spec, wanted).registry == spec.registry


def test_an_adjustment_stays_within_the_limits_of_the_registry(submissions):
    spec = submissions.plan(header(), document(CHECKED | {"capability": "code_generation"})).spec
    with pytest.raises(SubmissionError, match="FORBIDDEN_PATH"):
        amended(spec, Adjustment(workstream="ws-0", add_files_scope=("conf/.env",)), submissions.profiles)
