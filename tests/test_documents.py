"""What the documents name exists, and what exists and belongs into a document is named there."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
import typer.main
from msgspec import Struct
from typer.core import TyperGroup

from services.aim import AimTool, Route, Security
from services.bundle import NOT_IN_FILES, BreakerOverride, WorkstreamBundle, WorkstreamChecks
from services.checks import Checks
from services.config import load, load_yaml
from services.decomposition import ChangeRequest, Migration, Rules, parse_rules
from services.profiles import ToolProfile, load_tool_profiles
from services.scheduler.breaker import parse_breaker_config
from services.scheduler.recovery import parse_recovery_config
from swell.cli import app

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs" / "adr"
DOCUMENTS = sorted(
    file.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "examples/*/*.md")
    for file in ROOT.glob(pattern)
)
SERVICES = ("scheduler", "executor", "ledger")
CONFIG_BYTES = 64 * 1024


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section_of(name: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text_of(name), re.DOTALL | re.MULTILINE
    )
    assert found, f"{name} has no section {heading!r}"
    return found[1]


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def first_cells(text: str) -> set[str]:
    """What stands in code in the first cell of each row of the tables in a text."""
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def modules() -> set[str]:
    """Every module of ours that holds code, by its dotted name; a package stands for its `__init__`."""
    found = set()
    for package in ("services", "swell"):
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if "v1" in parts or "data" in parts:  # generated; a copy in an installation
                continue
            if parts[-1] != "__init__":
                found.add(".".join(parts))
            elif len(ast.parse(file.read_text(encoding="utf-8")).body) > 1:
                found.add(".".join(parts[:-1]))
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), re.MULTILINE))


def own_modules() -> str:
    return section_of("ARCHITECTURE.md", "## Code map")


# The read-me file


def test_the_quick_start_is_two_commands():
    (block,) = code_blocks(section_of("README.md", "## Quick start"))
    assert block.splitlines() == ["make demo", "make test"]


def test_the_commands_in_the_readme_are_those_of_the_program():
    shown = {cell.split()[1] for cell in first_cells(section_of("README.md", "## Commands")) if "swell " in cell}
    offered = {info.name or info.callback.__name__ for info in app.registered_commands}
    offered |= {group.name for group in app.registered_groups}
    assert shown == offered


def test_the_python_example_uses_public_names():
    swell = importlib.import_module("swell")
    section = section_of("README.md", "## From Python")
    used = set(re.findall(r"\bswell\.([a-z_]+)\(", section))
    named = set(re.findall(r"`(\w+)`", section)) - {"run_id"}
    assert used
    assert used | named <= set(swell.__all__) | {"__all__"}


def test_variables_in_the_readme_are_read_somewhere():
    named = {name for name in first_cells(section_of("README.md", "## Settings")) if re.fullmatch("[A-Z_]+", name)}
    source = "".join(
        file.read_text(encoding="utf-8") for part in ("swell", "services") for file in (ROOT / part).rglob("*.py")
    )
    assert named
    assert not {name for name in named if f'"{name}"' not in source}


# Every document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_exist(name):
    text = text_of(name)
    named = set(re.findall(r"`make ([a-z-]+)`", text))
    named |= {line.split()[1] for block in code_blocks(text) for line in block.splitlines() if line.startswith("make ")}
    assert named <= make_targets()


def unknown_in(command: str) -> list[str]:
    """What of a command line of ours does not exist: the command, its subcommand, its options."""
    found = typer.main.get_command(app)
    words = re.sub(r"[\[\]]", " ", command.partition("#")[0]).split()[1:]
    options = {option for param in found.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    for word in words:
        if isinstance(found, TyperGroup) and not word.startswith("-"):
            if word not in found.commands:
                return [f"{command}: {word}"] if re.fullmatch("[a-z]+", word) else []
            found = found.commands[word]
            options |= {option for param in found.params for option in (*param.opts, *param.secondary_opts)}
    return [
        f"{command}: {option}" for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", command) if option not in options
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist_with_their_options(name):
    text = text_of(name)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    told = [" ".join(span.split()) for span in re.findall(r"`(swell\s[^`]+)`", prose)]
    told += [line.strip() for block in code_blocks(text) for line in block.splitlines() if line.startswith("swell ")]
    assert [unknown for command in told for unknown in unknown_in(command)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_resolve(name):
    prose = re.sub(r"```.*?```", "", text_of(name), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if ":" not in target]
    missing = [target for target in targets if not ((ROOT / name).parent / target.partition("#")[0]).exists()]
    assert missing == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_names_a_place_on_somebodys_machine(name):
    assert re.findall(r"(?:^|[\s`\"'(=])(/(?:home|root|Users|work|tmp|mnt)/\S*)", text_of(name)) == []
    assert str(ROOT) not in text_of(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_code_exist(name):
    """A path of ours with a folder and an ending, such as `services/events.py`."""
    pattern = r"`((?:services|swell|tests|config|proto|benchmarks)/[\w/.-]+\.(?:py|proto|toml|json|yaml|sql))`"
    assert [path for path in re.findall(pattern, text_of(name)) if not (ROOT / path).exists()] == []


# Architecture and decisions


def test_every_module_is_named_in_the_code_map():
    assert modules() - first_cells(own_modules()) == set()


def test_the_code_map_names_only_modules_that_exist():
    assert {name for name in first_cells(own_modules()) if "/" not in name} - modules() == set()


def test_the_contracts_that_are_named_exist():
    contracts = set(re.findall(r"^name = (.+)$", text_of(".importlinter"), re.MULTILINE))
    rows = section_of("ARCHITECTURE.md", "## What must always hold, and what enforces it").splitlines()
    cells = [row.split("|")[2] for row in rows if row.startswith("|") and "contract" in row]
    named = {contract for cell in cells for contract in re.findall(r'"([^"]+)"', cell)}
    assert named == contracts


def test_the_index_of_decisions_is_complete():
    files = {file.name for file in RECORDS.glob("*.md")} - {"README.md"}
    listed = re.findall(r"\]\(([^)]+\.md)\)", text_of("docs/adr/README.md"))
    assert listed == sorted(files)


@pytest.mark.parametrize("record", sorted(file.name for file in RECORDS.glob("0*.md")))
def test_a_decision_has_its_parts_and_is_short(record):
    text = text_of(f"docs/adr/{record}")
    assert text.startswith(f"# {record[:4]}: ")
    assert re.search(r"^Status: (accepted|superseded by \d{4}) · Date: \d{4}-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) < 60
    title = text.splitlines()[0].partition(": ")[2]
    assert f"[{record[:4]}]({record}) | {title} |" in text_of("docs/adr/README.md")


def test_every_dependency_has_its_reason():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[<>=\[ ]", one)[0].lower() for one in wanted}
    record = text_of("docs/adr/0010-dependencies.md").lower()
    assert {name for name in names if f"`{name}`" not in record} == set()


# References


def test_every_field_of_a_bundle_is_described():
    described = first_cells(section_of("docs/bundles.md", "## The 22 fields").partition("\n### ")[0])
    fields = {field.encode_name for field in msgspec.structs.fields(WorkstreamBundle)} - NOT_IN_FILES
    assert len(fields) == 22
    assert described == fields


@pytest.mark.parametrize(
    ("name", "heading", "kind"),
    [
        ("docs/bundles.md", "### `circuit_breaker`", BreakerOverride),
        ("docs/bundles.md", "### `metadata.swell`", WorkstreamChecks),
        ("docs/bundles.md", "## `swell.toml`", Checks),
        ("docs/tool-profiles.md", "## Fields", ToolProfile),
        ("docs/decomposition.md", "## The request", ChangeRequest),
        ("docs/decomposition.md", "### A migration", Migration),
        ("docs/aim.md", "### A route", Route),
        ("docs/aim.md", "### A tool", AimTool),
        ("docs/aim.md", "### Limits", Security),
    ],
)
def test_every_key_is_described(name, heading, kind):
    described = first_cells(section_of(name, heading).partition("\n### ")[0]) - {"binary"}
    assert described == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_every_shipped_tool_profile_is_described():
    described = first_cells(section_of("docs/tool-profiles.md", "## Where profiles come from"))
    assert described == set(load_tool_profiles(ROOT / "config" / "tool_profiles.json"))


# Configuration


def settings_of(service: str) -> tuple[type[Struct], str]:
    module = importlib.import_module(f"services.{service}.config")
    return getattr(module, f"{service.capitalize()}Config"), module.PREFIX


def keys_of(text: str) -> dict[str, set[str]]:
    """The keys that stand in a TOML file, in comments or not, by section."""
    keys: dict[str, set[str]] = {"": set()}
    section = ""
    for line in text.splitlines():
        if head := re.match(r"\[([\w.]+)\]", line):
            section = head[1]
            keys[section] = set()
        elif key := re.match(r"(?:# )?(\w+)(?:\.\w+)? = ", line):
            keys[section].add(key[1])
    return keys


def test_every_file_of_settings_is_known():
    known = {f"{service}.toml" for service in SERVICES} | {
        "tool_profiles.json",
        "circuit_breaker_config.yaml",
        "recovery.yaml",
        "prices.toml",
        "aim_registry.json",
        "gates.yaml",
        "decomposition_rules.yaml",
    }
    assert {file.name for file in (ROOT / "config").iterdir()} == known


def tables_of(at: str, settings: Struct) -> dict[str, set[str]]:
    """The keys of settings, and of the tables within them."""
    values = msgspec.structs.asdict(settings)
    inner = {name: value for name, value in values.items() if isinstance(value, Struct)}
    found = {at: set(values) - set(inner)}
    for name, value in inner.items():
        found |= tables_of(f"{at}.{name}".lstrip("."), value)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_shipped_settings_load_and_show_every_key(service):
    kind, prefix = settings_of(service)
    file = ROOT / "config" / f"{service}.toml"
    loaded = load(kind, file, {}, prefix)
    assert keys_of(file.read_text(encoding="utf-8")) == tables_of("", loaded)


@pytest.mark.parametrize("service", SERVICES)
def test_shipped_settings_are_the_defaults(service):
    """What is not in a comment says what holds anyway, but for the one key that has no default."""
    kind, prefix = settings_of(service)
    loaded = load(kind, ROOT / "config" / f"{service}.toml", {}, prefix)
    required = {field.name: getattr(loaded, field.name) for field in msgspec.structs.fields(kind) if field.required}
    assert loaded == kind(**required)


def test_shipped_limits_load():
    file = ROOT / "config" / "circuit_breaker_config.yaml"
    assert parse_breaker_config(load_yaml(file, CONFIG_BYTES), str(file))


def test_the_shipped_rules_of_decomposition_load_and_show_every_key():
    file = ROOT / "config" / "decomposition_rules.yaml"
    shipped = parse_rules(load_yaml(file, CONFIG_BYTES), str(file))
    default = parse_rules({}, "")
    assert set(load_yaml(file, CONFIG_BYTES)) == set(Rules.__struct_fields__)
    assert msgspec.structs.replace(shipped, group_by={}, dependency_inference={}, prioritization={}) == default


def test_the_shipped_recovery_table_is_the_default_one_and_names_every_class():
    file = ROOT / "config" / "recovery.yaml"
    shipped = parse_recovery_config(load_yaml(file, CONFIG_BYTES), str(file))
    default = parse_recovery_config(None, "")
    assert msgspec.structs.replace(shipped, classes={}) == default
    assert {name: default.strategies(name) for name in shipped.classes} == shipped.classes
