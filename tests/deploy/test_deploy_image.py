"""What goes into the image: pinned, complete, only what runs, and nothing else of the checkout."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

from deploy.generate import BUILT_WITH, LockError, subset
from tests.deploy.shipped import ROOT

DOCKERFILES = ("Dockerfile", "Dockerfile.tools")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def entries(text: str) -> dict[str, str]:
    """Each requirement of a lock by its name, with its hashes."""
    found = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in found if entry.strip()}


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_a_lock_of_the_image_is_part_of_the_lock(name):
    whole = entries((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    part = entries((ROOT / "deploy" / name).read_text(encoding="utf-8"))
    assert part.items() <= whole.items()
    assert all("--hash=sha256:" in entry for entry in part.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("build.lock", [*PROJECT["build-system"]["requires"], *BUILT_WITH]),
    ],
)
def test_a_lock_of_the_image_has_all_that_is_needed_and_no_more(name, wanted):
    """By what the installed packages say of themselves."""
    part = entries((ROOT / "deploy" / name).read_text(encoding="utf-8"))
    needed: set[str] = set()
    left = [named(one) for one in wanted]
    while left:
        one, extras = left.pop()
        if one not in needed or extras:
            needed.add(one)
            asked = importlib.metadata.requires(one) or []
            left += [named(text) for text in asked if asked_for(text, extras) and applies(text)]
    assert needed <= part.keys()
    beyond = part.keys() - needed
    assert not beyond & {"pytest", "mypy", "ruff", "hypothesis", "libcst", "grpcio-tools", "buf-bin"}
    assert len(beyond) <= 2, "what only some Python or system needs"


def named(requirement: str) -> tuple[str, frozenset[str]]:
    """A distribution and the extras of it that are asked for."""
    match = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", requirement)
    assert match is not None
    return match[1].lower().replace("_", "-"), frozenset(re.findall(r"[\w-]+", match[2] or ""))


def asked_for(requirement: str, extras: frozenset[str]) -> bool:
    """Whether a requirement holds with these extras."""
    found = re.search(r"extra\s*==\s*[\"']([\w-]+)", requirement)
    return found is None or found[1] in extras


def applies(requirement: str) -> bool:
    """Whether a requirement's marker holds in the image, a Linux with this Python."""
    _, _, marker = requirement.partition(";")
    if match := re.search(r"python_(?:full_)?version\s*<=?\s*[\"']3\.(\d+)", marker):
        return sys.version_info < (3, int(match[1]))
    return not re.search(
        r"(sys_platform|platform_system|os_name)\s*==\s*[\"'](win32|Windows|nt|darwin|emscripten)|PyPy", marker
    )


def test_a_lock_that_lacks_something_is_refused():
    with pytest.raises(LockError, match="lacks grpcio"):
        subset("duckdb==1 \\\n    --hash=sha256:0\n    # via swell (pyproject.toml)\n", ["duckdb", "grpcio>=1"])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name, tools):
    done = subprocess.run(
        [tools.hadolint, "--no-color", ROOT / "deploy" / name], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


def test_the_image_runs_as_nobody_in_particular_and_begins_nothing_by_itself():
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    final = text.rpartition("\nFROM ")[2]
    assert "USER 10001:10001" in final
    assert "ENTRYPOINT" not in text
    installed = re.findall(r"^      ([a-z][a-z -]+) \\$", final, re.MULTILINE)
    assert installed == ["bubblewrap ca-certificates git"]
    assert text.count("--require-hashes") == 2


def test_nothing_goes_into_the_build_but_what_is_named():
    """The context is an allow-list, and the Dockerfile copies nothing that is not in it."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / one).exists() for one in allowed)
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for word in line.split()}
    assert copied == allowed
