"""Plugins in a run's definition: who brings them, what refuses them, and what the identity of their checks depends on."""

import json
from pathlib import Path

import msgspec
import pytest

from services.bundle import WorkstreamBundle, WorkstreamChecks
from services.checks import Checks, ChecksError, parse_checks, resolve
from services.profiles import ProfileError, ToolProfile, parse_tool_profiles
from services.scheduler.amendment import Adjustment, amended
from services.scheduler.config import SchedulerConfig
from services.scheduler.submission import Header, SubmissionError, Submissions
from services.spec import Definitions, Repository, RunSpec

MINIMAL = {"openspec_change": "C-1", "ccpm_issue": 1, "gate": 1, "tasks": ["do it"], "tool": "echo"}
STATIC = {"metadata": {"swell": {"static_tools": ["ruff"]}}}


def plan(submissions: Submissions, *workstreams: dict, **tools: dict):
    header = Header(
        request_id="request-1",
        location="/repo",
        base_commit="a" * 40,
        tool_profiles_json=json.dumps(tools).encode() if tools else b"",
    )
    bundles = [{"id": f"ws-{n}", "files_scope": [f"f{n}.py"]} | MINIMAL | one for n, one in enumerate(workstreams)]
    return submissions.plan(header, [("a.json", json.dumps(bundles).encode())])


def own(folder: Path, **plugins: dict) -> Submissions:
    """A scheduler with plugins of its own."""
    for plugin, changes in plugins.items():
        (folder / plugin).mkdir()
        manifest = {"plugin_id": plugin, "name": plugin.title(), "tool": {"command": plugin}} | changes
        (folder / plugin / "manifest.json").write_text(json.dumps(manifest))
    return Submissions(SchedulerConfig(plugins=folder))


def plugin(**changes) -> dict:
    return {"command": "x", "plugin": "A plugin"} | changes


def static_tools(spec: RunSpec, workstream: str = "ws-0") -> list[str]:
    return [check.name for check in Definitions(spec).static(workstream)]


# Who brings them


def test_the_schedulers_plugins_check_every_workstream_after_its_own(tmp_path):
    submissions = own(tmp_path, leaks={}, typos={"requires": ["zz"]}, zz={})
    spec = plan(submissions, STATIC, {}).spec
    assert static_tools(spec) == ["ruff", "leaks", "zz", "typos"]
    assert static_tools(spec, "ws-1") == ["leaks", "zz", "typos"], "and a workstream with nothing else is checked"
    assert set(spec.profiles) == {"echo", "ruff", "leaks", "typos", "zz"}


def test_a_submission_brings_plugins_among_its_profiles():
    spec = plan(Submissions(SchedulerConfig()), {}, mine=plugin(), other={"command": "y"}).spec
    assert static_tools(spec) == ["mine"]
    assert "other" not in spec.profiles


def test_nobody_takes_the_schedulers_plugins_out(tmp_path):
    submissions = own(tmp_path, leaks={})
    for tools in ({"leaks": {"command": "true"}}, {"leaks": plugin(command="true")}):
        with pytest.raises(SubmissionError, match="'leaks' has the id of the plugin") as refused:
            plan(submissions, STATIC, **tools)
        assert refused.value.field == "tool_profiles_json"


def test_a_run_under_way_keeps_the_plugins_it_began_with(tmp_path):
    spec = plan(Submissions(SchedulerConfig()), STATIC).spec
    later = own(tmp_path, leaks={})
    change = Adjustment(workstream="ws-0", hint="mind the gap", tool="ruff")
    assert static_tools(amended(spec, change, later.profiles)) == ["ruff"]
    began = plan(later, STATIC).spec
    assert static_tools(amended(began, change, Submissions(SchedulerConfig()).profiles)) == ["ruff", "leaks"]


def test_a_scheduler_does_not_start_with_plugins_it_cannot_use(tmp_path):
    with pytest.raises(ProfileError, match=r"a/manifest\.json: requires|requires names the tool itself"):
        own(tmp_path, a={"requires": ["a"]})


# What refuses a run


@pytest.mark.parametrize(
    ("tools", "code", "said"),
    [
        ({"a": plugin(requires=["b"]), "b": plugin(requires=["a"])}, "REQUIREMENT_CYCLE", "a/manifest.json: requires goes round"),
        ({"a": plugin(requires=["mypy"])}, "UNKNOWN_REQUIREMENT", "a/manifest.json: requires names 'mypy'"),
        ({"ruff": {"command": "ruff", "requires": ["b"]}}, "UNKNOWN_REQUIREMENT", "the tool profile 'ruff': requires"),
        ({"a": plugin(args=["{workstream}"])}, "CHECK_OF_ONE_ATTEMPT", "'a' depends on {workstream}"),
    ],
)  # fmt: skip
def test_requirements_in_vain_refuse_the_run_and_are_told_once(tools, code, said):
    report = plan(Submissions(SchedulerConfig()), STATIC, STATIC, **tools).report
    assert [finding.code for finding in report.errors] == [code]
    assert said in report.errors[0].message
    assert report.errors[0].remedy


def test_what_a_plugin_requires_may_be_a_static_tool():
    spec = plan(Submissions(SchedulerConfig()), STATIC, a=plugin(requires=["ruff"])).spec
    assert static_tools(spec) == ["ruff", "a"]


# Identity


def spec_of(*bundles: WorkstreamBundle, checks: Checks, **profiles: ToolProfile) -> RunSpec:
    return RunSpec(
        run="r",
        repository=Repository(location="/r", base_commit="a" * 40),
        bundles=list(bundles),
        waves=[[one.id for one in bundles]],
        checks=checks,
        profiles=profiles,
    )


def workstream(number: int, **swell) -> WorkstreamBundle:
    given = {"openspec_change": "C-1", "ccpm_issue": 1, "gate": 1, "tasks": ("x",), "tool": "t"}
    return WorkstreamBundle(
        id=f"ws-{number}", files_scope=(f"f{number}.py",), metadata={"swell": swell} if swell else {}, **given
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"file_extensions": (".py",)},
        {"categories": {"": "style"}},
        {"severities": {"": "info"}},
        {"per_file": True},
        {"requires": ("u",)},
    ],
)
def test_what_changes_a_verdict_changes_the_check(changes):
    profile = ToolProfile(command="x", args=("{files}",))
    checks = Checks(static_tools=("t",))
    specs = [
        spec_of(workstream(1), checks=checks, t=one) for one in (profile, msgspec.structs.replace(profile, **changes))
    ]
    first, second = ([check.check for check in Definitions(spec).static("ws-1")] for spec in specs)
    assert first != second


def test_a_check_that_is_not_strict_is_another_check():
    profile = ToolProfile(command="x")
    found = {
        strict: Definitions(spec_of(workstream(1), checks=Checks(static_tools=("t",), strict=strict), t=profile))
        for strict in (None, True, False)
    }
    ids = {strict: one.static("ws-1")[0] for strict, one in found.items()}
    assert ids[None] == ids[True] != ids[False]
    assert [found[strict].is_strict(ids[strict], ((0, 1),)) for strict in (None, True, False)] == [True, True, False]


def test_on_a_merged_tree_a_check_is_strict_if_one_that_asks_for_it_is():
    both = spec_of(
        workstream(1, strict=False),
        workstream(2),
        workstream(3, strict=True, static_tools=[]),
        checks=Checks(static_tools=("t",), runtime_tool="t"),
        t=ToolProfile(command="x"),
    )
    found = Definitions(both)
    alone, together, apart = (found.line(ranges)[0] for ranges in (((0, 1),), ((0, 2),), ((0, 1), (2, 3))))
    assert alone == apart != together
    assert together == found.static("ws-2")[0]
    assert (found.is_strict(alone, ((0, 1), (2, 3))), found.is_strict(together, ((0, 2),))) == (False, True)
    assert found.is_strict(found.runtime("ws-1")[0], ((0, 1),)), "only STATIC tolerates anything"


def test_which_files_there_are_matters_to_a_check_of_some_of_them():
    checks = Checks(static_tools=("t",))
    for extensions, same in (((), True), (("*",), True), ((".py",), False)):
        profile = ToolProfile(command="x", file_extensions=extensions)
        found = Definitions(spec_of(workstream(1), workstream(2), checks=checks, t=profile))
        assert (found.static("ws-1") == found.static("ws-2")) is same
        assert (found.line(((0, 1),)) == found.line(((0, 2),))) is same


# Settings


def test_strict_and_plugins_are_settings_of_the_repository():
    found = resolve(parse_checks(b'plugins = "tools/plugins"\nstrict = false', "swell.toml"), None, None)
    assert (found.plugins, found.strict) == ("tools/plugins", False)
    assert resolve(None, None, None).strict
    for spelt in (True, "true"):
        assert resolve(Checks(strict=False), {"strict": spelt}, None).strict
    assert not resolve(None, {"strict": "false"}, None).strict
    assert resolve(Checks(strict=False), {"strict": "false"}, WorkstreamChecks(strict=True)).strict


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'plugins = "../x"', "plugins must be a path inside the repository"),
        (b'plugins = "/x"', "plugins must be a path inside the repository"),
        (b'plugins = "."', "plugins must be a path inside the repository"),
        (b'plugins = ""', "plugins holds an empty entry"),
        (b'plugins = ["a"]', "plugins"),
        (b'strict = "false"', "strict"),
        (b"strict = 0", "strict"),
    ],
)
def test_settings_that_cannot_be_used_are_named(data, said):
    with pytest.raises(ChecksError, match=said):
        parse_checks(data, "swell.toml")


@pytest.mark.parametrize("context", [{"plugins": "elsewhere"}, {"strict": "maybe"}, {"strict": 0}])
def test_a_context_says_nothing_that_does_not_come_into_force(context):
    with pytest.raises(ChecksError, match="run context"):
        resolve(None, context, None)


def test_the_fields_are_those_of_any_tool_profile():
    found = parse_tool_profiles(
        b'{"t": {"command": "x", "file-extensions": [".py"], "requires": ["u"], "plugin": "T"}}', "p.json"
    )
    assert found["t"] == ToolProfile(command="x", file_extensions=(".py",), requires=("u",), plugin="T")
