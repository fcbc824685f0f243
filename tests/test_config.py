"""Configuration: what is not understood is an error that says where and what instead."""

from pathlib import Path

import msgspec
import pytest

from services.config import ConfigError, load, load_yaml
from services.ledger.config import PREFIX, LedgerConfig

SHIPPED = Path(__file__).resolve().parent.parent / "config" / "ledger.toml"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str = "here"
    password_file: Path | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    file: Path
    section: Section = Section()
    slots: int = 2
    linger_s: float = 0.5
    quick: bool = False
    pools: list[str] = []
    prices: dict[str, int] = {}


def settings(text: str | None, tmp_path: Path, **env: str) -> Settings:
    file = None
    if text is not None:
        file = tmp_path / "settings.toml"
        file.write_text(text)
    return load(Settings, file, env, "SWELL_TEST")


def test_the_file_then_the_environment(tmp_path):
    text = 'file = "f"\nslots = 3\n[section]\nurl = "there"\n'
    found = settings(text, tmp_path, SWELL_TEST_SLOTS="5", SWELL_SECTION_PASSWORD_FILE="p", OTHER="x")
    assert found == Settings(file=Path("f"), slots=5, section=Section(url="there", password_file=Path("p")))


def test_the_environment_alone_is_enough(tmp_path):
    env = {
        "SWELL_TEST_FILE": "f",
        "SWELL_TEST_LINGER_S": "0.25",
        "SWELL_TEST_QUICK": "true",
        "SWELL_TEST_POOLS": '["a", "b"]',
        "SWELL_TEST_PRICES": '{"x": 1}',
    }
    found = settings(None, tmp_path, **env)
    assert (found.linger_s, found.quick, found.pools, found.prices) == (0.25, True, ["a", "b"], {"x": 1})


@pytest.mark.parametrize(
    ("text", "env", "said"),
    [
        ('file = "f"\nslotz = 3\n', {}, "settings.toml: unknown key 'slotz'; did you mean 'slots'?"),
        ('file = "f"\n[section]\nurll = 1\n', {}, "unknown key 'section.urll'; did you mean 'url'?"),
        ('file = "f"\nzzz = 3\n', {}, "unknown key 'zzz'; known are file, "),
        ('file = "f"\nsection = 3\n', {}, "'section' is a section: write it as [section]"),
        (
            'file = "f"\nslots = "3"\n',
            {},
            "settings.toml and the environment: Expected `int`, got `str` - at `$.slots`",
        ),
        ("slots = 3\n", {}, "missing required field `file`"),
        ("slots = \n", {}, "settings.toml is not TOML"),
        (
            'file = "f"',
            {"SWELL_TEST_SLOTZ": "1"},
            "unknown variable SWELL_TEST_SLOTZ; did you mean 'SWELL_TEST_SLOTS'?",
        ),
        (
            'file = "f"',
            {"SWELL_SECTION_URLL": "1"},
            "unknown variable SWELL_SECTION_URLL; did you mean 'SWELL_SECTION_URL'?",
        ),
        ('file = "f"', {"SWELL_TEST_SECTION": "1"}, "unknown variable SWELL_TEST_SECTION"),
        ('file = "f"', {"SWELL_TEST_SLOTS": "many"}, "SWELL_TEST_SLOTS cannot be used: Expected `int`"),
        ('file = "f"', {"SWELL_TEST_POOLS": "[1"}, "SWELL_TEST_POOLS cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, env, said):
    with pytest.raises(ConfigError) as caught:
        settings(text, tmp_path, **env)
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml cannot be read \(No such file"):
        load(Settings, tmp_path / "nowhere.toml", {}, "SWELL_TEST")


def test_the_shipped_file_shows_the_defaults():
    """Every key that the shipped file has in a comment can be uncommented, and most stand there with their default."""
    shipped = load(LedgerConfig, SHIPPED, {}, PREFIX)
    assert shipped == LedgerConfig(file=Path("ledger.duckdb"))
    documented = {
        line.removeprefix("# ").partition(" = ")[0] for line in SHIPPED.read_text().splitlines() if " = " in line
    }
    sections = (shipped, shipped.bus, shipped.tls, shipped.auth, shipped.auth.oidc)
    known = {name for one in sections for name in one.__struct_fields__} - {"bus", "tls", "auth", "oidc"}
    assert known == {name for name in documented if name.isidentifier()}


def test_the_shipped_file_uncommented_loads(tmp_path):
    file = tmp_path / "all.toml"
    lines = SHIPPED.read_text().splitlines()
    file.write_text("\n".join(line.removeprefix("# ") if " = " in line else line for line in lines))
    files = {
        "archive": Path("archive"),
        "token_file": Path("ledger.token"),
        "ready_file": Path("ledger.ready"),
        "anchors_file": Path("ledger.anchors"),
        "purge_user": "swell-admin",
        "purge_password_file": Path("purge.password"),
        "purge_credentials_file": Path("purge.creds"),
    }
    found = load(LedgerConfig, file, {}, PREFIX)
    assert msgspec.structs.replace(found, bus=LedgerConfig(file=Path("x")).bus) == LedgerConfig(
        file=Path("ledger.duckdb"), **files
    )


def yaml_of(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    return file


def test_yaml_gives_plain_values(tmp_path):
    file = yaml_of(tmp_path, "a: 1\nb: [x, y]\nc: &c {d: true}\ne: *c\n")
    assert load_yaml(file, 1000) == {"a": 1, "b": ["x", "y"], "c": {"d": True}, "e": {"d": True}}


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "key 'a' is given twice"),
        ("a: {b: 1, b: 2}\n", "key 'b' is given twice"),
        ("a: !!python/object/apply:os.getpid []\n", "could not determine a constructor"),
        ("- a\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("1: a\n", "must hold a mapping with text as keys"),
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ("a: [", "is not YAML"),
        ("a: b\n---\nc: d\n", "is not YAML"),
        ("a: &a [*a]\n", "an alias stands for what contains it"),
        ("a: 2026-13-45\n", "a value that cannot be read"),
        (BOMB, "more than 100000 values"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "x" * 5000, "larger than 4096 bytes"),
    ],
)
def test_yaml_that_cannot_be_used_is_named(tmp_path, text, said):
    file = yaml_of(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(file, 4096 if "larger" in said else 100_000)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
