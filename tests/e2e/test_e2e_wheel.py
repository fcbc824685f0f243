"""What is installed away from a checkout works: the wheel brings configuration and examples, and `swell run` runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lab import CHECKOUT, git, processes, until, witness

WHEEL_TIMEOUT_S = 120


class Installed(msgspec.Struct, frozen=True):
    """A fresh environment that holds the wheel, sees the dependencies, and does not see this checkout."""

    wheel: Path
    folder: Path
    python: Path
    state_dir: Path

    @property
    def site(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def run(self, *command: object, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        path = [str(self.python.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = {
            "PATH": os.pathsep.join(path),
            "HOME": str(cwd),
            "LANG": "C.UTF-8",
            "SWELL_STATE_DIR": str(self.state_dir),
        }
        return subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(CHECKOUT)]
    subprocess.run([*pip, *build], check=True, timeout=WHEEL_TIMEOUT_S, capture_output=True)
    (wheel,) = folder.glob("swell-*.whl")
    home = folder / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    made = Installed(wheel, home, home / "bin" / "python", folder / "state")
    (made.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["--python", str(made.python), "install", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=WHEEL_TIMEOUT_S, capture_output=True)
    yield made
    made.run(home / "bin" / "swell", "dev", "--stop", cwd=folder)
    until(lambda: not processes(str(made.state_dir)), "the end of the cluster")


def test_it_is_the_wheel_that_is_imported(installed: Installed, tmp_path: Path) -> None:
    code = "import swell, services, services.bus; print(swell.__file__, services.__file__)"
    done = installed.run(installed.python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(installed.site) for file in done.stdout.split())


def test_configuration_schemas_and_examples_are_inside(installed: Installed) -> None:
    """Everything of config/ and of the examples; nothing of the tests, no cache, no secret of the checkout."""
    inside = set(zipfile.ZipFile(installed.wheel).namelist())
    expected = {f"swell/data/config/{file.name}" for file in (CHECKOUT / "config").iterdir() if file.is_file()}
    tracked = git(CHECKOUT, "ls-files", "examples").splitlines()
    expected |= {f"swell/data/{file}" for file in tracked}
    expected |= {"services/ledger/schema.sql", "services/executor/supervisor.py"}
    assert expected - inside == set()
    assert [name for name in inside if name.startswith(("tests/", "demo-run/")) or "__pycache__" in name] == []


def test_the_defaults_are_found(installed: Installed, tmp_path: Path) -> None:
    code = (
        "from services.profiles import shipped_tool_profiles; from services.bundle import json_schema; "
        "print(sorted(shipped_tool_profiles()), json_schema()['title'])"
    )
    done = installed.run(installed.python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'pytest'" in done.stdout
    assert "Swell workstream bundle" in done.stdout


def test_the_packaged_example_runs_from_another_folder(installed: Installed, tmp_path: Path) -> None:
    """`swell run` of the files that the wheel installed, on a repository that the installed example made."""
    examples = installed.site / "swell" / "data" / "examples"
    code = "import sys; from pathlib import Path; from materialise import materialise; materialise('modernise', Path(sys.argv[1]))"
    repo = tmp_path / "repo"
    made = installed.run(
        installed.python, "-c", f"import sys; sys.path.insert(0, {str(examples)!r}); {code}", repo, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    before = witness(repo)
    done = installed.run(
        *(installed.python.parent / "swell", "run", examples / "modernise" / "workstreams", "--repo", repo, "--json"),
        *("--tool-profiles", examples / "modernise" / "tool_profiles.json"),
        *("--context", f"example_tools={examples / 'tools'}"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr}"
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["state"] == "completed"
    assert len(summary["workstreams"]) == 7
    assert git(repo, "rev-parse", summary["branch"]) == summary["commit"]
    assert witness(repo) == before
    told = installed.run(installed.python.parent / "swell", "report", "last", "--html", "-", cwd=tmp_path)
    assert told.stdout.startswith("<!doctype html>"), told.stderr
    running = processes(str(installed.state_dir))
    assert running
    assert not [line for line in running.values() if str(CHECKOUT / "swell") in line]
