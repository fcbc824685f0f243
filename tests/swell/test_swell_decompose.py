"""`swell decompose`: what it reads, what it writes, and what it leaves alone."""

import json
from pathlib import Path

import pytest
from small_repository import git

from services.bundle import load_and_validate_bundles


@pytest.fixture
def asked(tmp_path: Path):
    """Write a change request; its file."""

    def write(**fields):
        file = tmp_path / "request.yaml"
        known = {"change": "OS-7", "issue": 7, "text": "Fix the crash", "tool": "append"}
        file.write_text(json.dumps({**known, **fields}))
        return file

    return write


def test_what_is_written_is_valid(swell, repo: Path, asked):
    done = swell("decompose", asked(files=["src/a.py", "docs/x.md", {"path": "src/b.py", "lines": 9}]), "--repo", repo)
    assert done.exit_code == 0, done.output
    file = repo / "workstreams" / "ws-os-7.json"
    assert [bundle.files_scope for bundle in load_and_validate_bundles(file)] == [
        ("docs/x.md",),
        ("src/a.py", "src/b.py"),
    ]
    assert "score 100 (bug_fixes)" in done.output
    assert f"wrote {file}" in done.output
    checked = swell("validate", "--repo", repo, file.parent)
    assert checked.exit_code == 0, checked.output
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_each_workstream_has_a_file_of_its_own_if_that_is_asked_for(swell, repo: Path, asked, tmp_path: Path):
    done = swell("decompose", asked(files=["a.py", "b.md"]), "--each", "--out", tmp_path / "out", "--json")
    names = sorted(part["id"] + ".json" for part in json.loads(done.stdout)["workstreams"])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names == [
        "ws-os-7-001-documentation.json", "ws-os-7-002-python.json",
    ]  # fmt: skip
    assert len(load_and_validate_bundles(tmp_path / "out")) == 2


def test_nothing_is_overwritten_unless_that_is_asked_for(swell, asked, tmp_path: Path):
    out = tmp_path / "out"
    file = out / "ws-os-7.json"
    assert swell("decompose", asked(files=["a.py"]), "--out", out).exit_code == 0
    before = file.read_bytes()
    refused = swell("decompose", asked(files=["b.py"]), "--out", out)
    assert refused.exit_code == 2
    assert "ws-os-7.json is there already" in refused.stderr
    assert file.read_bytes() == before
    assert swell("decompose", asked(files=["b.py"]), "--out", out, "--force").exit_code == 0
    assert load_and_validate_bundles(file)[0].files_scope == ("b.py",)


def test_a_link_is_not_written_through(swell, asked, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine").write_text("mine")
    (out / "ws-os-7.json").symlink_to(tmp_path / "mine")
    assert swell("decompose", asked(files=["a.py"]), "--out", out).exit_code == 2
    assert swell("decompose", asked(files=["a.py"]), "--out", out, "--force").exit_code == 0
    assert (tmp_path / "mine").read_text() == "mine"


def test_workstreams_that_do_not_go_with_the_folder_are_not_written(swell, asked, tmp_path: Path):
    out = tmp_path / "out"
    assert swell("decompose", asked(files=["a.py"]), "--out", out).exit_code == 0
    refused = swell("decompose", asked(files=["a.py"]), "--out", out, "--each")
    assert (refused.exit_code, "declared" in refused.stderr) == (2, True)
    assert [file.name for file in out.iterdir()] == ["ws-os-7.json"]


def test_many_workstreams_go_into_files_that_bundles_may_have(swell, asked, tmp_path: Path):
    files = [{"path": f"{n}.py", "lines": 50} for n in range(150)]
    done = swell("decompose", asked(files=files, text="x" * 15_000), "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "ws-os-7-part-2.json", "ws-os-7-part-3.json", "ws-os-7.json",
    ]  # fmt: skip
    assert len(load_and_validate_bundles(tmp_path / "out")) == 150


def test_an_explanation_alone_writes_nothing(swell, asked, tmp_path: Path):
    done = swell("decompose", asked(files=["a.py"]), "--out", tmp_path / "out", "--explain")
    assert (done.exit_code, "ws-os-7-001-python" in done.output) == (0, True)
    assert not (tmp_path / "out").exists()


def test_a_migration_finds_its_files_at_the_commit(swell, repo: Path, asked, tmp_path: Path):
    (repo / "src" / "link.py").symlink_to("a.py")
    (repo / "src" / "ü.py").write_text("A = 1\nA = 3\n")
    (repo / "src" / "binary.py").write_bytes(b"A = 1\n\0")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "more")
    (repo / "src" / "b.py").write_text("A = 2\n")
    migration = {"files": ["src/*.py"], "pattern": "^A += [0-9]$", "task": "Rename A in {path} ({count})"}
    done = swell("decompose", asked(migration=migration), "--repo", repo, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    (part,) = json.loads(done.stdout)["workstreams"]
    assert (part["files"], part["lines"]) == (["src/a.py", "src/ü.py"], 3)
    (bundle,) = load_and_validate_bundles(tmp_path / "out")
    assert bundle.tasks == ("Fix the crash", "Rename A in src/a.py (1)", "Rename A in src/ü.py (2)")


@pytest.mark.parametrize(
    ("fields", "rules", "message"),
    [
        ({"migration": {"pattern": "(", "task": "x"}}, None, "git cannot use the pattern"),
        ({"migration": {"pattern": "nowhere to be found", "task": "x"}}, None, "no file of the commit"),
        ({"files": ["a.py"], "filez": 1}, None, "`filez`"),
        ({"files": ["a.py"]}, "group_by: {language: {x: {pattern: [a]}}}", "`pattern`"),
        ({"files": ["a.py"]}, "a: b: c", "not YAML"),
        ({"files": ["a.py"]}, "x: &x [*x]", "alias"),
        ({"files": ["a.py"]}, "#" * 300_000, "larger"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_remedy(swell, repo: Path, asked, tmp_path: Path, fields, rules, message):
    file = tmp_path / "rules.yaml"
    file.write_text(rules or "{}")
    out = tmp_path / "out"
    refused = swell("decompose", asked(**fields), "--repo", repo, "--rules", file, "--out", out)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert "next: " in refused.stderr
    assert not out.exists()
