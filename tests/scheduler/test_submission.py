"""What can be wrong with a submission is found before anything is written."""

import json

import msgspec
import pytest

from services.aim import Registry
from services.events import Destination
from services.gates import GATE_TYPES, Gate
from services.scheduler.config import PoolRule, SchedulerConfig
from services.scheduler.submission import Header, SubmissionError, Submissions
from services.spec import decode_spec, encode_spec

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def submissions() -> Submissions:
    return Submissions(SchedulerConfig())


def header(**changes) -> Header:
    return Header(**({"request_id": "request-1", "location": "/repo", "base_commit": COMMIT, "actor": "ann"} | changes))


def document(*workstreams: dict) -> list[tuple[str, bytes]]:
    minimal = {"openspec_change": "C-1", "ccpm_issue": 1, "gate": 1, "tasks": ["do it"], "tool": "echo"}
    bundles = [{"id": f"ws-{n}", "files_scope": [f"f{n}.py"]} | minimal | given for n, given in enumerate(workstreams)]
    return [("a.json", json.dumps(bundles).encode())]


def _many_labels(count: int) -> bytes:
    return b"[labels]\n" + b"".join(b"own%d = 'x'\n" % number for number in range(count))


CHECKED = {"metadata": {"swell": {"static_tools": ["ruff"]}}}


def codes(planned) -> set[str]:
    return {finding.code for finding in planned.report.errors}


def test_a_sound_submission_becomes_a_definition_that_can_be_read_back(submissions):
    spec = submissions.plan(header(), document(CHECKED)).spec
    assert spec is not None
    assert decode_spec(encode_spec(spec)) == spec
    assert set(spec.profiles) == {"echo", "ruff"}, "only what the run can need is pinned"


def test_labels_and_tenant_come_over_those_of_the_repository_and_are_no_part_of_the_definition(submissions):
    own = b'tenant = "acme"\n[labels]\nteam = "payments"\nci = "no"\n'
    planned = submissions.plan(header(checks_toml=own, labels={"ci": "yes", "a/b": ""}), document(CHECKED))
    assert planned.labels == {"team": "payments", "ci": "yes", "a/b": ""}
    assert planned.tenant == "acme"
    assert submissions.plan(header(checks_toml=own, tenant="other"), document(CHECKED)).tenant == "other"
    plain = submissions.plan(header(), document(CHECKED))
    assert (plain.labels, plain.tenant) == ({}, "")
    assert plain.spec == submissions.plan(header(labels={"x": "y"}, tenant="t"), document(CHECKED)).spec


def test_the_same_request_names_the_same_run(submissions):
    runs = {submissions.plan(header(), document(CHECKED)).spec.run for _ in range(2)}
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"request_id": "x"}, "request_id"),
        ({"run": "a b"}, "run"),
        ({"run": "fleet"}, "run"),
        ({"location": ""}, "repository.location"),
        ({"location": "https://user:secret-token@host/repo.git"}, "repository.location"),
        ({"location": "HTTPS://secret-token@host/repo.git"}, "repository.location"),
        ({"location": "https://host/repo.git?private_token=x"}, "repository.location"),
        ({"location": "user:secret-token@host:repo.git"}, "repository.location"),
        ({"base_commit": "main"}, "repository.base_commit"),
        ({"max_workers": -1}, "options.max_workers"),
        ({"max_workers": 10**6}, "options.max_workers"),
        ({"wave_delay_s": float("nan")}, "options.wave_delay_s"),
        ({"timeout_s": float("inf")}, "options.timeout_s"),
        ({"timeout_s": -1.0}, "options.timeout_s"),
        ({"context_json": "[]"}, "options.context_json"),
        ({"context_json": '{"a": {"b": 1}}'}, "options.context_json"),
        ({"context_json": '{"a": "x\\u0000y"}'}, "options.context_json"),
        ({"checks_toml": b"no_such_key = 1"}, "checks_toml"),
        ({"tool_profiles_json": b"{"}, "tool_profiles_json"),
        ({"breaker_json": b'{"no_such_key": 1}'}, "breaker_json"),
        ({"recovery_json": b'{"no_such_key": 1}'}, "recovery_json"),
        ({"recovery_json": b'{"classes": {"lost": ["retry"]}}'}, "recovery_json"),
        ({"recovery_json": b"[]"}, "recovery_json"),
        ({"recovery_json": b" " * 100_000}, "recovery_json"),
        ({"labels": {"Team": "x"}}, "labels"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"k" * 64: "x"}}, "labels"),
        ({"labels": {"team": "x" * 257}}, "labels"),
        ({"labels": {"team": "a\nb"}}, "labels"),
        ({"labels": {"team": "a\u202eb"}}, "labels"),
        ({"labels": {f"k{n}": "" for n in range(33)}}, "labels"),
        ({"labels": {f"k{n}": "" for n in range(20)}, "checks_toml": _many_labels(13)}, "labels"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "-a"}, "tenant"),
        ({"tenant": "t" * 64}, "tenant"),
        ({"checks_toml": b'labels = {Team = "x"}'}, "checks_toml"),
        ({"checks_toml": b'tenant = "a b"'}, "checks_toml"),
        ({"gates_json": b"[]"}, "gates_json"),
        ({"gates_json": b'{"GATE_UNIT": {"tool": "pytest", "x": 1}}'}, "gates_json"),
        ({"gates_json": b'{"GATE_MAGIC": {"tool": "pytest"}}'}, "gates_json"),
        ({"gates_json": b"{" * 60_000}, "gates_json"),
        ({"gates_json": b" " * 100_000}, "gates_json"),
        ({"scheduling": "chaotic"}, "options.scheduling"),
        ({"review": "maybe"}, "options.review"),
    ],
)
def test_what_cannot_be_used_is_named(submissions, changes, field):
    with pytest.raises(SubmissionError) as refused:
        submissions.plan(header(**changes), document(CHECKED))
    assert refused.value.field == field
    assert "secret-token" not in str(refused.value)


def test_a_workstream_that_nothing_checks_is_refused_unless_it_says_so(submissions):
    assert codes(submissions.plan(header(), document({}))) == {"NO_CHECKS"}
    wanted = {"metadata": {"swell": {"gates": "none"}}}
    assert submissions.plan(header(), document(wanted)).spec is not None


def test_a_check_without_a_profile_is_refused(submissions):
    missing = {"metadata": {"swell": {"static_tools": ["no-such-tool"]}}}
    assert codes(submissions.plan(header(), document(missing))) == {"UNKNOWN_TOOL"}


# Gates


def gates(**stand_for) -> bytes:
    return json.dumps(stand_for).encode()


def asking(*types, **fields) -> dict:
    return {"test_gates": [{"type": type_, **fields} for type_ in types]}


def test_gates_are_pinned_with_their_tools_once_one_is_asked_for(submissions):
    plain = submissions.plan(header(), document(CHECKED)).spec
    assert (plain.gates, set(plain.profiles)) == ({}, {"echo", "ruff"})
    spec = submissions.plan(header(), document(CHECKED, CHECKED | asking("GATE_SECURITY"))).spec
    assert (set(spec.gates), set(spec.profiles)) == (set(GATE_TYPES), {"bandit", "echo", "ruff"})
    assert decode_spec(encode_spec(spec)) == spec


def test_what_a_submission_says_of_gates_lies_over_the_service_s_own(submissions, tmp_path):
    file = tmp_path / "gates.yaml"
    file.write_text("GATE_UNIT: {tool: mypy}\nGATE_LINT: {tool: yamllint}\n")
    own = Submissions(SchedulerConfig(gates_file=file))
    given = header(gates_json=gates(GATE_UNIT={"tool": "pytest", "timeout_s": 5}))
    spec = own.plan(given, document(asking("GATE_UNIT"))).spec
    assert spec.gates == {"GATE_UNIT": Gate(tool="pytest", timeout_s=5.0), "GATE_LINT": Gate(tool="yamllint")}
    assert "mypy" not in spec.profiles
    assert codes(own.plan(header(), document(asking("GATE_SECURITY")))) == {"GATE_WITHOUT_TOOL"}


@pytest.mark.parametrize(
    ("checks", "bundle", "missing"),
    [
        (b"", asking("GATE_UNIT"), False),
        (b"", asking("GATE_INTEGRATION", blocking=False), False),
        (b"", asking("GATE_UNIT", required=False), True),
        (b'test_gates = [{type = "GATE_UNIT"}]', {}, False),
        (b'test_gates = [{type = "GATE_UNIT"}]', asking("GATE_UNIT", required=False), True),
        (b'test_gates = [{type = "GATE_UNIT"}]', asking("GATE_LINT", required=False), False),
        (b"", asking("GATE_UNIT", required=False) | {"metadata": {"swell": {"gates": "none"}}}, False),
    ],
)
def test_a_gate_that_only_warns_checks_nothing(submissions, checks, bundle, missing):
    found = submissions.plan(header(checks_toml=checks), document(bundle))
    assert codes(found) == ({"NO_CHECKS"} if missing else set())


@pytest.mark.parametrize(
    ("gate", "profile", "code"),
    [
        ({"tool": "judge"}, {"command": "judge"}, None),
        ({"tool": "gone"}, {"command": "judge"}, "UNKNOWN_TOOL"),
        ({"tool": "judge"}, {"command": "judge", "type": "ai"}, "GATE_OF_AI"),
        ({"tool": "judge"}, {"command": "judge", "args": ["{attempt}"]}, "CHECK_OF_ONE_ATTEMPT"),
    ],
)
def test_a_gate_that_nothing_could_judge_is_told_once(submissions, gate, profile, code):
    given = header(gates_json=gates(GATE_UNIT=gate), tool_profiles_json=json.dumps({"judge": profile}).encode())
    wanted = CHECKED | asking("GATE_UNIT", required=False)
    found = [(f.code, f.remedy != "") for f in submissions.plan(given, document(wanted, wanted)).report.errors]
    assert found == ([(code, True)] if code else [])
    assert not codes(submissions.plan(given, document(CHECKED)))  # nobody asks for it


def test_the_run_s_context_asks_for_no_gates(submissions):
    with pytest.raises(SubmissionError, match=r"test_gates is read from the repository"):
        submissions.plan(header(context_json='{"test_gates": ["GATE_UNIT"]}'), document(CHECKED))


@pytest.mark.parametrize(
    ("bundle", "options", "refused"),
    [
        ({}, {"budget_nano": 10**9}, True),
        ({"max_cost_usd": 3}, {}, True),
        ({}, {}, False),
        ({}, {"budget_nano": 10**9, "budget_mode": "warn"}, False),
        ({"max_cost_usd": 3}, {"dry_run": True}, False),
    ],
)
def test_under_a_budget_every_ai_tool_has_to_say_what_it_may_cost(submissions, bundle, options, refused):
    profiles = {"agent": {"type": "ai", "command": "agent"}}
    wanted = document(CHECKED | {"tool": "agent"} | bundle)
    found = submissions.plan(header(tool_profiles_json=json.dumps(profiles).encode(), **options), wanted)
    assert codes(found) == ({"UNCAPPED_TOOL"} if refused else set())
    profiles["agent"]["cost_cap_usd"] = 0.5
    found = submissions.plan(header(tool_profiles_json=json.dumps(profiles).encode(), **options), wanted)
    assert found.spec is not None


@pytest.mark.parametrize(
    "options",
    [
        {"budget_nano": -1},
        {"budget_nano": 10**19},
        {"budget_mode": "loud"},
        {"pools": ("a", "a")},
        {"pools": ("a.b",)},
        {"pools": ("",)},
        {"pools": tuple(f"p{number}" for number in range(11))},
        {"deliver": "sometimes"},
        {"delivery_style": "octopus"},
    ],
)
def test_an_option_that_cannot_be_is_refused(submissions, options):
    with pytest.raises(SubmissionError) as refused:
        submissions.plan(header(**options), document(CHECKED))
    assert refused.value.field == f"options.{next(iter(options))}"


def test_a_destination_is_pinned_with_the_program_that_is_called(submissions):
    profiles = json.dumps({"open-pr": {"command": "gh"}}).encode()
    given = {
        "deliver": "end", "delivery_style": "squash", "delivery_remote": "https://example.com/r.git",
        "delivery_credential": "env:TOKEN", "delivery_hook": "open-pr",
    }  # fmt: skip
    spec = submissions.plan(header(tool_profiles_json=profiles, **given), document(CHECKED)).spec
    assert spec.options.deliver == "end"
    assert spec.options.destination == Destination(
        style="squash", remote="https://example.com/r.git", credential="env:TOKEN", hook="open-pr"
    )
    assert "open-pr" in spec.profiles


def test_the_runs_own_repository_is_no_remote(submissions):
    given = header()
    spec = submissions.plan(header(delivery_remote=given.location), document(CHECKED)).spec
    assert spec.options.destination == Destination()


@pytest.mark.parametrize("given", [{"delivery_remote": "ext::x"}, {"delivery_credential": "env:TOKEN"}])
def test_a_destination_that_cannot_be_is_refused(submissions, given):
    with pytest.raises(SubmissionError) as refused:
        submissions.plan(header(**given), document(CHECKED))
    assert (refused.value.field, refused.value.reason) == ("delivery", "INVALID_DELIVERY")


def test_a_scheduler_that_takes_no_profiles_takes_no_credentials_either():
    strict = Submissions(SchedulerConfig(client_profiles=False))
    given = {"delivery_remote": "https://example.com/r.git"}
    assert strict.plan(header(**given), document(CHECKED)).spec is not None
    with pytest.raises(SubmissionError, match="takes no references to credentials"):
        strict.plan(header(**given, delivery_credential="env:TOKEN"), document(CHECKED))


SETUP = b'setup = [["/bin/sh", "-c", "id"]]'


def _of_bundle(**swell) -> dict:
    return {"metadata": {"swell": {"static_tools": ["ruff"]} | swell}}


@pytest.mark.parametrize(
    ("given", "bundle", "field"),
    [
        ({"checks_toml": SETUP}, CHECKED, "checks_toml"),
        ({"context_json": '{"setup": ["sh -c id"]}'}, CHECKED, "options.context_json"),
        ({"context_json": '{"codex_base_url": "https://elsewhere.example"}'}, CHECKED, "options.context_json"),
        ({}, _of_bundle(setup=["sh -c id"]), "documents"),
        ({}, CHECKED | {"acceptance_tests": ["$ sh -c id"]}, "documents"),
        ({}, CHECKED | {"acceptance_tests": ["It works.", "make all"]}, "documents"),
        ({}, CHECKED | {"acceptance_tests": ["./attack"]}, "documents"),
        ({"tool_profiles_json": b'{"mine": {"command": "sh"}}'}, CHECKED, "tool_profiles_json"),
    ],
)
def test_a_scheduler_that_takes_no_profiles_takes_no_command_line_in_another_form(submissions, given, bundle, field):
    assert submissions.plan(header(**given), document(bundle)).spec is not None
    with pytest.raises(SubmissionError) as refused:
        Submissions(SchedulerConfig(client_profiles=False)).plan(header(**given), document(bundle))
    assert refused.value.field == field


def test_a_scheduler_that_takes_no_profiles_takes_what_runs_nothing_of_the_submissions():
    prose = ["# $ sh", "The page loads.", "Users can log in", "make sure users can log in"]
    strict = Submissions(SchedulerConfig(client_profiles=False))
    given = header(checks_toml=b'setup = []\nstatic_tools = ["ruff"]', context_json='{"claude_model": "m"}')
    assert strict.plan(given, document(CHECKED | {"acceptance_tests": prose})).spec is not None


def test_the_definition_of_an_earlier_run_is_held_to_todays_policy(submissions):
    """What was taken under another policy, or from another list, is not taken again."""
    profiles = b'{"ruff": {"command": "/tmp/own"}}'
    lax = [header(), header(tool_profiles_json=profiles), header(checks_toml=SETUP), header(location="/elsewhere/r")]
    plain, own, commands, elsewhere = (
        decode_spec(encode_spec(submissions.plan(one, document(CHECKED)).spec)) for one in lax
    )
    strict = Submissions(SchedulerConfig(client_profiles=False))
    strict.check_again(plain)
    for spec in (own, commands):
        submissions.check_again(spec)
        with pytest.raises(SubmissionError):
            strict.check_again(spec)
    narrowed = Submissions(SchedulerConfig(repositories=["/repo"]))
    narrowed.check_again(plain)
    with pytest.raises(SubmissionError) as refused:
        narrowed.check_again(elsewhere)
    assert refused.value.reason == "REPOSITORY_NOT_ALLOWED"
    with pytest.raises(SubmissionError):
        narrowed.check_destination(Destination(), "/elsewhere/r")


@pytest.mark.parametrize("hook", ["no-such", "claude"])
def test_what_is_called_after_a_delivery_is_a_known_program(submissions, hook):
    assert codes(submissions.plan(header(delivery_hook=hook), document(CHECKED))) == {"UNKNOWN_TOOL"}


def test_workstreams_with_different_setups_cannot_share_a_run(submissions):
    """A merged tree can be prepared in one way only, and its verdict would stand for both."""
    other = {"metadata": {"swell": {"static_tools": ["ruff"], "setup": ["true"]}}}
    assert codes(submissions.plan(header(), document(CHECKED, other))) == {"SETUP_DIFFERS"}


def test_what_mends_uncounted_is_no_ai_tool(submissions):
    profiles = json.dumps({"mender": {"command": "mender", "type": "ai"}}).encode()
    mending = {"metadata": {"swell": {"static_tools": ["ruff"], "autofix": ["mender"]}}}
    assert "AUTOFIX_OF_AI" in codes(submissions.plan(header(tool_profiles_json=profiles), document(mending)))


@pytest.mark.parametrize("where", [{"args": ["{workstream}"]}, {"env": {"A": "{step}"}}, {"stdin": "{prompt_file}"}])
def test_a_check_that_depends_on_its_attempt_is_refused(submissions, where):
    """Its verdict could not be reused for the tree."""
    profiles = json.dumps({"ruff": {"command": "ruff"} | where}).encode()
    planned = submissions.plan(header(tool_profiles_json=profiles), document(CHECKED))
    assert codes(planned) == {"CHECK_OF_ONE_ATTEMPT"}


def test_what_only_fix_is_told_does_not_make_a_check_depend_on_its_attempt(submissions):
    profiles = json.dumps({"ruff": {"command": "ruff", "fix_args": ["{diagnostics_file}"]}}).encode()
    assert submissions.plan(header(tool_profiles_json=profiles), document(CHECKED)).spec is not None


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ("barrier", "wait", False)),
        ({"scheduling": "eager", "review": "fail", "paused": True}, ("eager", "fail", True)),
        ({"review": "wait", "fail_fast": True}, ("barrier", "fail", False)),
    ],
)
def test_what_is_not_said_is_the_services_own(submissions, changes, wanted):
    """Who wants to stop at the first failure does not want to wait for a person after it."""
    options = submissions.plan(header(**changes), document(CHECKED)).spec.options
    assert (options.scheduling, options.review, options.paused) == wanted


def test_the_service_may_have_another_default_and_another_recovery_table(tmp_path):
    table = tmp_path / "recovery.yaml"
    table.write_text("retries: 7\n")
    own = Submissions(SchedulerConfig(review="fail", recovery_file=table))
    spec = own.plan(header(), document(CHECKED)).spec
    assert (spec.options.review, spec.recovery) == ("fail", {"retries": 7})
    given = header(recovery_json=b'{"retries": 1}', review="wait")
    spec = own.plan(given, document(CHECKED)).spec
    assert (spec.options.review, spec.recovery) == ("wait", {"retries": 1})


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("git:revert", "COMPENSATION_UNAVAILABLE"),
        ("please undo", "INVALID_COMPENSATION"),
        ("cmd:", "INVALID_COMPENSATION"),
    ],
)
def test_compensation_that_nobody_could_carry_out_is_refused(submissions, action, code):
    assert codes(submissions.plan(header(), document(CHECKED | {"compensation_actions": [action]}))) == {code}


def test_compensation_that_can_be_carried_out_is_enforced(submissions):
    planned = submissions.plan(header(), document(CHECKED | {"compensation_actions": ["cmd:true", "branch:delete"]}))
    assert planned.spec is not None
    assert "NOT_ENFORCED" not in {finding.code for finding in planned.report.warnings}


# Capabilities

ROUTED = CHECKED | {"capability": "code_generation"}


def registry(*tools: str, **route) -> bytes:
    """A registry that routes code_generation to these tools."""
    routes = {"code_generation": {"primary": tools[0], "fallback": tools[1:], **route}}
    return json.dumps({"capabilities": routes, "tools": {tool: {} for tool in tools}}).encode()


def warned(planned) -> dict[str, str]:
    """Findings about capabilities, by code."""
    wanted = ("NOT_ROUTED", "TOOL_NOT_ROUTED", "INVALID_AIM_REGISTRY")
    return {f.code: f.message for f in planned.report.warnings if f.code in wanted}


def test_a_definition_without_capabilities_says_nothing_of_them(submissions):
    """So that its digest is what it was before there were any."""
    spec = submissions.plan(header(aim_registry_json=b"{broken"), document(CHECKED)).spec
    assert b"registry" not in encode_spec(spec)


def test_the_part_of_the_registry_that_the_bundles_need_is_pinned_with_its_profiles(submissions):
    planned = submissions.plan(header(), document(ROUTED))
    spec = planned.spec
    assert set(spec.registry.capabilities) == {"code_generation"}
    assert set(spec.registry.tools) == {"aider", "claude-cli"}
    assert set(spec.profiles) >= {"aider", "claude", "echo", "ruff"}
    assert decode_spec(encode_spec(spec)) == spec
    assert warned(planned) == {
        "TOOL_NOT_ROUTED": "the route of code_generation skips 'jules': there is no tool profile 'jules'"
    }


def test_a_submission_brings_its_own_registry_and_a_service_may_have_one(tmp_path, submissions):
    file = tmp_path / "registry.json"
    file.write_bytes(registry("claude"))
    own = Submissions(SchedulerConfig(aim_registry_file=file))
    file.write_bytes(registry("codex"))
    assert own.plan(header(), document(ROUTED)).spec.registry.capabilities["code_generation"].tools == ("claude",)
    given = header(aim_registry_json=registry("codex", "aider", max_retries=2))
    route = own.plan(given, document(ROUTED)).spec.registry.capabilities["code_generation"]
    assert (route.tools, route.max_retries) == (("codex", "aider"), 2)


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b" " * 2_000_000, registry("claude", "claude"), b'{"capabilities": {"magic": {}}}']
)
def test_a_registry_that_cannot_be_used_is_a_warning_and_routes_nothing(submissions, data):
    planned = submissions.plan(header(aim_registry_json=data), document(ROUTED))
    assert planned.report.valid
    assert set(warned(planned)) == {"INVALID_AIM_REGISTRY", "NOT_ROUTED"}
    assert warned(planned)["INVALID_AIM_REGISTRY"].startswith("the submission's AIM registry: ")
    assert planned.spec.registry is msgspec.UNSET


def test_a_route_whose_tools_have_no_profile_is_a_warning(submissions):
    planned = submissions.plan(header(aim_registry_json=registry("x", "y")), document(ROUTED))
    assert planned.report.valid
    assert set(warned(planned)) == {"TOOL_NOT_ROUTED", "NOT_ROUTED"}
    assert planned.spec.registry == Registry()


def test_the_limits_of_the_registry_refuse_a_run(submissions):
    given = header(aim_registry_json=registry("claude", context_requirements={"language": "required"}))
    assert codes(submissions.plan(given, document(ROUTED))) == {"MISSING_CONTEXT"}
    language = ROUTED | {"capability_payload": {"language": "c"}}
    assert codes(submissions.plan(given, document(language))) == set()
    assert codes(submissions.plan(header(), document(ROUTED | {"files_scope": ["conf/.env"]}))) == {"FORBIDDEN_PATH"}


def test_under_a_budget_every_tool_of_a_route_needs_a_cap(submissions):
    profiles = json.dumps({"dear": {"command": "dear", "type": "ai"}}).encode()
    given = header(aim_registry_json=registry("claude", "dear"), tool_profiles_json=profiles, budget_nano=10**9)
    assert codes(submissions.plan(given, document(CHECKED))) == set()
    assert codes(submissions.plan(given, document(ROUTED))) == {"UNCAPPED_TOOL"}


DEEP = 100_000


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("context_json", "[" * DEEP),
        ("tool_profiles_json", '{"a":' * DEEP),
        ("breaker_json", '{"a":' * 5_000 + "1" + "}" * 5_000),
        ("breaker_json", "[" * DEEP),
        ("recovery_json", '{"a":' * 5_000 + "1" + "}" * 5_000),
        ("aim_registry_json", '{"a":' * DEEP),
        ("gates_json", '{"a":' * 5_000 + "1" + "}" * 5_000),
        ("checks_toml", "a = " + "[" * DEEP),
    ],
)
def test_what_is_nested_too_deeply_is_refused_and_ends_nothing(submissions, field, text):
    given = header(**{field: text if field == "context_json" else text.encode()})
    routed = document(CHECKED | {"capability": "code_generation"})
    if field == "aim_registry_json":  # one that cannot be used routes nothing, and says so
        assert "INVALID_AIM_REGISTRY" in {finding.code for finding in submissions.plan(given, routed).report.warnings}
        return
    with pytest.raises(SubmissionError) as refused:
        submissions.plan(given, routed)
    assert refused.value.field in {field, "options.context_json"}


def test_a_bundle_that_is_nested_too_deeply_is_refused(submissions):
    with pytest.raises(SubmissionError, match=r"a\.json"):
        submissions.plan(header(), [("a.json", b"[" * DEEP)])


PLACES = ("https://git.example/team", "/srv/git/", "git@git.example:team/")


@pytest.mark.parametrize(
    ("location", "among"),
    [
        ("https://git.example/team", True),
        ("https://git.example/team/app.git", True),
        ("https://git.example/team-b/app.git", False),
        ("https://git.example/team/../other/app.git", False),
        ("https://git.example/team/%2e%2e/other/app.git", False),
        ("https://git.example.evil/team/app.git", False),
        ("https://other.example/https://git.example/team/app.git", False),
        ("http://git.example/team/app.git", False),
        ("/srv/git/app", True),
        ("/srv/git", False),
        ("/srv/git/../secret", False),
        ("/srv/gitother/app", False),
        ("git@git.example:team/app.git", True),
        ("git@git.example:team/../other.git", False),
        ("file:///srv/git/app", False),
    ],
)
def test_runs_are_over_the_repositories_that_are_listed_and_deliver_there(location, among):
    own = Submissions(SchedulerConfig(repositories=PLACES))
    if among:
        assert own.plan(header(location=location), document(CHECKED)).spec is not None
        to = Destination(remote=location)
        own.check_destination(to, "/srv/git/app")
        return
    with pytest.raises(SubmissionError) as refused:
        own.plan(header(location=location), document(CHECKED))
    assert (refused.value.field, refused.value.reason) == ("repository.location", "REPOSITORY_NOT_ALLOWED")
    with pytest.raises(SubmissionError, match="repositories") as elsewhere:
        own.check_destination(Destination(remote=location), "/srv/git/app")
    assert elsewhere.value.field == "delivery"


@pytest.mark.parametrize("location", ["ext::sh -c touch% /tmp/x", "fd::17", "-oProxyCommand=x", "repo", "https://"])
def test_what_is_no_address_is_refused_wherever_runs_may_be(submissions, location):
    with pytest.raises(SubmissionError) as refused:
        submissions.plan(header(location=location), document(CHECKED))
    assert refused.value.field == "repository.location"


@pytest.mark.parametrize(
    ("changes", "pool"),
    [
        ({}, "default"),
        ({"labels": {"gpu": "a100"}}, "gpu"),
        ({"labels": {"gpu": "a100", "size": "large"}}, "gpu-large"),
        ({"tenant": "acme"}, "acme"),
        ({"tenant": "acme", "labels": {"gpu": "h100"}}, "gpu"),
        ({"labels": {"gpu": "a100"}, "pools": ("mine",)}, "mine"),
    ],
)
def test_a_run_that_names_no_pool_goes_where_the_first_rule_sends_it(changes, pool):
    rules = (
        PoolRule(pool="gpu-large", labels={"gpu": "*", "size": "large"}),
        PoolRule(pool="gpu", labels={"gpu": "*"}),
        PoolRule(pool="acme", tenant="acme"),
    )
    spec = Submissions(SchedulerConfig(pool_rules=rules)).plan(header(**changes), document(CHECKED)).spec
    assert spec.options.pool == pool
