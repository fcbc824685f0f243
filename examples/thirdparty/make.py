"""Make a repository from an installed third-party package, with three workstreams for it.

The repository holds the package as it is installed, `swell.toml`, the import check, and `workstreams/`: three
bundles over disjoint files, each for a rule of the codemod that has something to do there. Their tools are the
profiles in `tool_profiles.json` beside this module. Nothing is downloaded.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

from examples.materialise import commit

HERE = Path(__file__).resolve().parent
CODEMOD = HERE.parent / "tools" / "codemod.py"

#: In this order rules are tried; the first three that find work make the workstreams.
RULES = ["optional-union", "builtin-generics", "docstring-types", "raise-from", "format-call", "percent-format"]

LINES_MIN = 5_000
WORKSTREAMS = 3
FILES_PER_WORKSTREAM = 4
BATCH = 8
FILE_BYTES_MAX = 20_000
TIMEOUT_S = 120

_CHECKS = """\
# A package that we do not own: its syntax, and whether it can still be imported, are what is checked.
static_tools = ["ruff-syntax"]
runtime_tool = "import-check"
"""


def make(package: str, target: Path) -> None:
    """Copy an installed package to a fresh git repository with one commit and three bundles.

    Args:
        package: the import name of a pure Python package, for instance `rich`.
        target: a folder that does not exist yet.

    Raises:
        FileExistsError: the folder is there already.
        ValueError: not installed, not a package, too small, or with too little for the rules to do.
        subprocess.CalledProcessError: git or the codemod failed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not an installed package: install it, or name another one")
    shutil.copytree(
        spec.submodule_search_locations[0], target / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    sources = sorted(path.relative_to(target) for path in (target / package).rglob("*.py"))
    lines = sum((target / path).read_bytes().count(b"\n") for path in sources)
    if lines < LINES_MIN:
        raise ValueError(f"{package} has {lines} lines, fewer than {LINES_MIN}: name a larger package")
    shutil.copyfile(HERE / "import_check.py", target / "import_check.py")
    (target / "swell.toml").write_text(_CHECKS, encoding="utf-8")
    (target / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    chosen = _choose(target, [path for path in sources if (target / path).stat().st_size <= FILE_BYTES_MAX])
    if len(chosen) < WORKSTREAMS:
        raise ValueError(f"{package} has work for {len(chosen)} rules, not {WORKSTREAMS}: name another package")
    (target / "workstreams").mkdir()
    for rule, files in chosen.items():
        path = target / "workstreams" / f"ws-{rule}.json"
        path.write_text(json.dumps(_bundle(rule, files), indent=2) + "\n", encoding="utf-8")
    commit(target, f"{package} as installed")


def _choose(target: Path, sources: list[Path]) -> dict[str, list[Path]]:
    """Disjoint files for the first rules that have something to do."""
    chosen: dict[str, list[Path]] = {}
    free = [path for path in sources if path.name not in ("__main__.py", "__init__.py")]
    for rule in RULES:
        files: list[Path] = []
        for start in range(0, len(free), BATCH):
            batch = free[start : start + BATCH]
            files += _importable(target, _with_work(target, rule, batch))
            if len(files) >= FILES_PER_WORKSTREAM:
                break
        if files:
            chosen[rule] = files[:FILES_PER_WORKSTREAM]
            free = [path for path in free if path not in chosen[rule]]
        if len(chosen) == WORKSTREAMS:
            break
    return chosen


def _with_work(target: Path, rule: str, files: list[Path]) -> list[Path]:
    """The files in which a rule would change something."""
    if not files:
        return []
    command = [sys.executable, str(CODEMOD), "--check", "--rule", rule, *map(str, files)]
    done = subprocess.run(command, cwd=target, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    named = {line.partition(": ")[0] for line in done.stdout.splitlines()}
    return [path for path in files if str(path) in named]


def _importable(target: Path, files: list[Path]) -> list[Path]:
    """The files that can be imported here: parts for other systems, or with other requirements, cannot."""
    if not files:
        return []
    command = [sys.executable, "-B", "import_check.py", *map(str, files)]
    done = subprocess.run(command, cwd=target, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    failed = {line.partition(": ")[0] for line in done.stdout.splitlines()}
    return [path for path in files if str(path) not in failed]


def _bundle(rule: str, files: list[Path]) -> dict[str, object]:
    """The bundle of one workstream, from the template."""
    text = (HERE / "bundle.json").read_text(encoding="utf-8").replace("{rule}", rule)
    bundle: dict[str, object] = json.loads(text)
    bundle["files_scope"] = [str(path) for path in files]
    return bundle
