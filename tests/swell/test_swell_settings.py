"""Flag over environment over file over default."""

from pathlib import Path

import pytest

from swell.errors import SwellError
from swell.settings import RunSettings, config_file, from_environment, in_force, workstream_dir


def _environ(tmp_path: Path, config: str = "", **variables: str) -> dict[str, str]:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), **variables}
    file = config_file(environ)
    file.parent.mkdir(exist_ok=True)
    file.write_text(config)
    return environ


def test_defaults_are_four_workers_and_an_hour(tmp_path: Path) -> None:
    found = in_force(RunSettings(), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (found.max_workers, found.timeout_s, found.dry_run) == (4, 3600.0, None)


def test_the_file_overrides_the_default(tmp_path: Path) -> None:
    found = in_force(RunSettings(), _environ(tmp_path, "[run]\nmax_workers = 7\n"))
    assert found.max_workers == 7


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = _environ(tmp_path, "[run]\nmax_workers = 7\n", PIPELINE_MAX_WORKERS="8", PIPELINE_TIMEOUT_SEC="60")
    found = in_force(RunSettings(), environ)
    assert (found.max_workers, found.timeout_s) == (8, 60)


def test_a_flag_overrides_the_environment(tmp_path: Path) -> None:
    environ = _environ(tmp_path, "", PIPELINE_MAX_WORKERS="8", PIPELINE_DRY_RUN="1")
    found = in_force(RunSettings(max_workers=9, dry_run=False), environ)
    assert (found.max_workers, found.dry_run) == (9, False)


@pytest.mark.parametrize(
    ("text", "expected"), [("1", True), ("0", False), ("true", False), ("yes", False), ("", False)]
)
def test_only_1_means_dry_run(text: str, expected: bool) -> None:
    assert from_environment({"PIPELINE_DRY_RUN": text}).dry_run is expected


@pytest.mark.parametrize("text", ["0", "-1", "four", "1.5", "1e3", "٣", "10001", "9" * 5000])
def test_a_bad_number_names_the_variable(text: str) -> None:
    with pytest.raises(SwellError, match="PIPELINE_MAX_WORKERS") as caught:
        from_environment({"PIPELINE_MAX_WORKERS": text})
    assert caught.value.is_input


@pytest.mark.parametrize(
    "text", ["[run]\nworkers = 3\n", "[run]\nmax_workers = 0\n", "max_workers = 3\n", "[run", "\xff"]
)
def test_a_bad_file_names_itself(tmp_path: Path, text: str) -> None:
    environ = _environ(tmp_path)
    config_file(environ).write_bytes(text.encode("latin-1"))
    with pytest.raises(SwellError, match=r"config\.toml"):
        in_force(RunSettings(), environ)


def test_bundles_are_looked_for_in_the_repository_unless_the_environment_names_a_folder() -> None:
    assert workstream_dir(Path("r"), {}) == Path("r/workstreams")
    assert workstream_dir(Path("r"), {"PIPELINE_WORKSTREAM_DIR": "/elsewhere"}) == Path("/elsewhere")
