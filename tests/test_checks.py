"""`swell.toml`, what overrides it, and which acceptance tests are commands."""

import json

import pytest

from services.bundle import BundleGate, WorkstreamChecks
from services.checks import (
    CHECKS_BYTES,
    DEFAULT_DROPPINGS,
    DEFAULT_LOCK_FILES,
    Checks,
    ChecksError,
    EffectiveChecks,
    acceptance_command,
    detect,
    parse_checks,
    resolve,
)

WHOLE = b"""
setup = ["uv sync --frozen", ["npm", "ci"]]
lock_files = ["uv.lock"]
static_tools = ["ruff", "mypy"]
runtime_tool = "pytest"
fix_tool = "aider"
droppings = ["out/"]
tool_profiles = "tools/tool_profiles.json"
test_gates = [{type = "GATE_UNIT"}, {type = "GATE_LINT", required = false, blocking = false}]
gates_file = "tools/gates.yaml"
"""


def test_every_key_is_understood():
    assert parse_checks(WHOLE, "swell.toml") == Checks(
        setup=(("uv", "sync", "--frozen"), ("npm", "ci")),
        lock_files=("uv.lock",),
        static_tools=("ruff", "mypy"),
        runtime_tool="pytest",
        fix_tool="aider",
        droppings=("out/",),
        tool_profiles="tools/tool_profiles.json",
        test_gates=(BundleGate(type="GATE_UNIT"), BundleGate(type="GATE_LINT", required=False, blocking=False)),
        gates_file="tools/gates.yaml",
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'static_tool = ["ruff"]', "unknown key 'static_tool'"),
        (b'static_tools = "ruff"', "static_tools"),
        (b"runtime_tool = 1", "runtime_tool"),
        (b'runtime_tool = ""', "runtime_tool holds an empty entry"),
        (b'static_tools = [""]', "static_tools holds an empty entry"),
        (b'setup = ["echo \'open"]', "Close its quotes"),
        (b"setup = [[]]", "setup holds an empty entry"),
        (b"setup = [1]", "setup"),
        (b'tool_profiles = "../x.json"', "inside the repository"),
        (b'tool_profiles = "/x.json"', "inside the repository"),
        (b'gates_file = "../x.yaml"', "inside the repository"),
        (b'test_gates = ["GATE_UNIT"]', "test_gates"),
        (b'test_gates = [{type = "GATE_MAGIC"}]', "test_gates"),
        (b'test_gates = [{type = "GATE_UNIT", tool = "x"}]', "test_gates"),
        (b'test_gates = [{type = "GATE_UNIT"}, {type = "GATE_UNIT", required = false}]', "a type twice"),
        (b"x = ", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"#" * (CHECKS_BYTES + 1), "larger than"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(data, said):
    with pytest.raises(ChecksError) as raised:
        parse_checks(data, "there/swell.toml")
    assert str(raised.value).startswith("there/swell.toml: ")
    assert said in str(raised.value)


def test_without_any_layer_the_defaults_hold():
    found = resolve(None, None, None)
    assert found == EffectiveChecks()
    assert found.droppings == DEFAULT_DROPPINGS
    assert found.lock_files == DEFAULT_LOCK_FILES
    assert found.tools == ()


def test_each_layer_wins_over_the_one_below_for_the_keys_it_gives():
    repository = parse_checks(WHOLE, "swell.toml")
    context = {"static_tools": ["black"], "runtime_tool": "context", "max_workers": 4, "dry_run": True}
    override = WorkstreamChecks(runtime_tool="bundle", allow_no_change=True, setup=("make deps",))
    found = resolve(repository, context, override)
    assert found.static_tools == ("black",)
    assert found.runtime_tool == "bundle"
    assert found.fix_tool == "aider"
    assert found.setup == (("make", "deps"),)
    assert found.allow_no_change
    assert found.tools == ("black", "bundle", "aider")


def test_labels_and_tenant_are_of_the_repository_and_say_nothing_of_checks():
    found = parse_checks(b'tenant = "acme"\n[labels]\nteam = "pay"\n', "swell.toml")
    assert (found.labels, found.tenant) == ({"team": "pay"}, "acme")
    assert resolve(found, {"labels": "anything", "tenant": 3}, None) == EffectiveChecks()
    for bad in (b'[labels]\nTeam = "x"', b"[labels]\nteam = 1", b'tenant = "a b"', b'[labels]\nteam = "a\\u202e"'):
        with pytest.raises(ChecksError, match=r"swell\.toml: "):
            parse_checks(bad, "swell.toml")


def test_an_empty_list_is_an_answer_too():
    found = resolve(parse_checks(WHOLE, "swell.toml"), None, WorkstreamChecks(static_tools=(), droppings=()))
    assert found.static_tools == ()
    assert found.droppings == ()


@pytest.mark.parametrize("key", ["droppings", "lock_files"])
@pytest.mark.parametrize("pattern", ["!", "[z-a]", "*a*a*a*a", "a" * 201])
def test_patterns_that_will_not_do_are_refused_in_every_layer(key, pattern):
    layers = {
        "swell.toml": lambda: parse_checks(f'{key} = ["ok", "{pattern}"]'.encode(), "swell.toml"),
        "run context": lambda: resolve(None, {key: ["ok", pattern]}, None),
    }
    if key == "droppings":
        layers["metadata.swell"] = lambda: resolve(None, None, WorkstreamChecks(droppings=("ok", pattern)))
    for source, read in layers.items():
        with pytest.raises(ChecksError, match=f"^{source}: {key}: .*(correct|use at most)"):
            read()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("setup", ["echo a\0b"]),
        ("setup", ["true", ["echo", "a\0b"]]),
        ("setup", [["echo", "\ud800"]]),
        ("lock_files", ["a\0b"]),
        ("droppings", ["\udc80"]),
        ("static_tools", ["ruff", "\0"]),
        ("runtime_tool", "\0"),
        ("fix_tool", "\ud800"),
        ("tool_profiles", "a\0b"),
    ],
)
def test_what_no_argument_or_file_name_can_hold_is_refused(key, value):
    with pytest.raises(ChecksError, match=f"^run context: {key} holds NUL .*Remove it"):
        resolve(None, {key: value}, None)
    if "\0" in repr(value) or "x00" in repr(value):
        with pytest.raises(ChecksError, match=f"^swell.toml: {key} holds NUL .*Remove it"):
            parse_checks(f"{key} = {json.dumps(value)}".encode(), "swell.toml")


def test_the_setup_of_a_bundle_is_looked_at_too():
    with pytest.raises(ChecksError, match=r"^metadata\.swell: setup holds NUL"):
        resolve(None, None, WorkstreamChecks(setup=("make a\0b",)))


def test_a_wrong_context_is_named():
    with pytest.raises(ChecksError, match=r"run context.*static_tools"):
        resolve(None, {"static_tools": "ruff"}, None)


IN_TREE = {"scripts/check.sh", "./run", "Makefile"}


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("sh -c 'exit 0'", ["sh", "-c", "exit 0"]),
        ("ls tests", ["ls", "tests"]),
        ("ls .", ["ls", "."]),
        ("true", ["true"]),
        ("scripts/check.sh --fast", ["scripts/check.sh", "--fast"]),
        ("./run all", ["./run", "all"]),
        ("/bin/sh x", ["/bin/sh", "x"]),
        ("env printf one two three --", ["env", "printf", "one", "two", "three", "--"]),
        ("make sure two-factor login works", None),
        ("make sure users can log in", None),
        ("test that the page loads quickly", None),
        ("find all users in the database", None),
        ("Users can log in", None),
        ("users can log in", None),
        ("cat shows the file.", None),
        ("ls 'open", None),
        ("scripts/absent.sh", None),
        ("/bin/absent", None),
        ("FOO=1 ls", None),
        ("", None),
        ("   ", None),
        ("# ls -l", None),
        ("$ make sure users can log in", ["make", "sure", "users", "can", "log", "in"]),
        ("$ anything at all.", ["anything", "at", "all."]),
        ("$ ", None),
        ("ls; rm x", None),
    ],
)
def test_acceptance_tests_are_commands_or_prose(text, argv):
    assert acceptance_command(text, IN_TREE.__contains__) == argv


def test_programs_of_the_tools_path_count(tmp_path):
    (tmp_path / "mine").write_text("")
    (tmp_path / "mine").chmod(0o755)
    assert acceptance_command("mine --x", IN_TREE.__contains__) is None
    assert acceptance_command("mine --x", IN_TREE.__contains__, path=str(tmp_path)) == ["mine", "--x"]


@pytest.mark.parametrize(
    ("files", "static_tools", "runtime_tool"),
    [
        ({"a.py": "", "tests/test_a.py": ""}, ("ruff",), "pytest"),
        ({"a.py": "", "pyproject.toml": "[tool.mypy]\n[tool.ruff.lint]\n"}, ("ruff", "mypy"), None),
        ({"a.py": "", "mypy.ini": "", "pyproject.toml": "[tool.pytest.ini_options]\n"}, ("mypy",), "pytest"),
        ({"a.py": "", "setup.cfg": "[mypy]\n[tool:pytest]\n"}, ("mypy",), "pytest"),
        ({"package.json": "{}", "package-lock.json": ""}, None, None),
        ({"go.mod": ""}, None, None),
        ({"README": ""}, None, None),
    ],
)
def test_detect_writes_a_file_that_parses(files, static_tools, runtime_tool):
    text = detect(files, files.get)
    found = parse_checks(text.encode(), "swell.toml")
    assert (found.static_tools, found.runtime_tool) == (static_tools, runtime_tool)
    assert found.setup is None


@pytest.mark.parametrize(
    ("file", "tool"), [("package.json", "npm-test"), ("go.mod", "go-test"), ("Cargo.toml", "cargo-test")]
)
def test_other_languages_are_suggested_with_a_whole_profile(file, tool):
    assert f'# runtime_tool = "{tool}"' in detect([file], {}.get)
