"""Patches on real checkouts: captured, applied, reversed, byte for byte; refused when they do not fit or mean harm."""

import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_repository import git

from services.git import Git
from swell import PatchManager, SwellError
from swell.gitpatch import PatchFormatError, parse_patch
from swell.patching import PatchConflictError, carry_out

Tree = dict[bytes, tuple[str, bytes]]
"""Path to mode and content; of a link its target."""

FILES: Tree = {
    b"src/a.py": ("100644", b"".join(b"a%d = 1\n" % n for n in range(20))),
    b"docs/crlf.txt": ("100644", b"one\r\ntwo\r\nthree\r\n"),
    b"bin/blob": ("100644", bytes(range(256)) * 4),
    b"no newline": ("100644", b"end"),
    b"empty": ("100644", b""),
    b"run.sh": ("100755", b"#!/bin/sh\n"),
    b"link": ("120000", b"src/a.py"),
    b'odd "quoted"\t\xc3\xa9\\.txt': ("100644", b"odd\n"),
    b"trailing": ("100644", b"space \t\n\n\n"),
}


def write(root: Path, tree: Tree) -> None:
    for name, (mode, content) in tree.items():
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "120000":
            path.symlink_to(os.fsdecode(content))
        else:
            path.write_bytes(content)
            path.chmod(0o755 if mode == "100755" else 0o644)


def read(root: Path) -> Tree:
    found: Tree = {}
    for path in root.rglob("*"):
        known = os.fsencode(path.relative_to(root))
        if known == b".git" or known.startswith(b".git/"):
            continue
        if path.is_symlink():
            found[known] = ("120000", os.fsencode(path.readlink()))
        elif path.is_file():
            executable = path.stat().st_mode & stat.S_IXUSR
            found[known] = ("100755" if executable else "100644", path.read_bytes())
    return found


def clear(root: Path) -> None:
    for one in root.iterdir():
        if one.name == ".git":
            continue
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()


def begun(root: Path, tree: Tree) -> Path:
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    write(root, tree)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "begin", "--allow-empty")
    return root


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("template") / "target", FILES)


@pytest.fixture
def target(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "target", symlinks=True)
    return tmp_path / "target"


def change(target: Path, *, files: Tree | None = None, gone: tuple[bytes, ...] = ()) -> bytes:
    """The patch of a change to a clone of the target."""
    clone = target.parent / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    shutil.copytree(target, clone, symlinks=True)
    for name in (*gone, *(files or {})):
        path = clone / os.fsdecode(name)
        if path.is_symlink() or path.exists():
            path.unlink()
    write(clone, files or {})
    manager = PatchManager(target.parent / "patches")
    return manager.capture_patch("r1", "ws-a", clone).patch_file.read_bytes()


@contextmanager
def untouched(target: Path) -> Iterator[None]:
    """Nothing of the checkout, its index, or its refs changes."""

    def seen() -> tuple[Tree, bytes, str]:
        folders = sorted(str(path) for path in target.rglob("*") if path.is_dir() and ".git" not in path.parts)
        index = (target / ".git" / "index").read_bytes()
        return read(target), index + "".join(folders).encode(), git(target, "for-each-ref")

    before = seen()
    yield
    assert seen() == before


# What is captured, applied, and taken back

CHANGES: dict[str, tuple[Tree, tuple[bytes, ...], list[str]]] = {
    "content": (
        {
            b"docs/crlf.txt": ("100644", b"one\r\n2\r\nthree\r\n"),
            b"bin/blob": ("100644", bytes(range(255, -1, -1))),
            b"new/deep/file.txt": ("100644", b"new\n"),
            b"nothing": ("100644", b""),
            b"no newline": ("100644", b"other end"),
            b"trailing": ("100644", b" \t \n  \n\n\n\n"),
            b"src/b.py": FILES[b"src/a.py"],
        },
        (b"src/a.py", b"empty"),
        [
            "M bin/blob", "M docs/crlf.txt", "D empty", "A new/deep/file.txt", "M no newline", "A nothing", "D src/a.py",
            "A src/b.py", "M trailing",
        ],
    ),
    "modes and names": (
        {
            b"src/a.py": ("100755", FILES[b"src/a.py"][1]),
            b"docs/crlf.txt": ("100644", b"one\ntwo\nthree\n"),
            b'odd "quoted"\t\xc3\xa9\\.txt': ("100644", b"more\n"),
            b"new\nline": ("100644", b"x\n"),
            b"\xff\xfe": ("100644", b"x\n"),
            b"link": ("120000", b"empty"),
            b"run.sh": ("100644", b""),
        },
        (),
        ["M docs/crlf.txt", "M link", "A new\nline", 'M odd "quoted"\t\xe9\\.txt', "M run.sh", "M src/a.py", "A \\xff\\xfe"],
    ),
    "types": (
        {b"link": ("100644", b"no link\n"), b"empty/inner": ("100644", b"in\n"), b"no newline": ("120000", b"link")},
        (b"empty",),
        ["D empty", "A empty/inner", "T link", "T no newline"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_applies_and_reversing_restores_every_byte(target: Path, what: str) -> None:
    files, gone, told = CHANGES[what]
    patch = change(target, files=files, gone=gone)
    wanted = read(target.parent / "clone")
    with untouched(target):
        assert carry_out(patch, target, check_only=True).files == told
    index = (target / ".git" / "index").read_bytes()
    carry_out(patch, target)
    assert read(target) == wanted
    carry_out(patch, target, reverse=True)
    assert read(target) == FILES
    assert (target / ".git" / "index").read_bytes() == index


def test_no_change_is_an_empty_patch_that_changes_nothing(target: Path, tmp_path: Path) -> None:
    manager = PatchManager(tmp_path / "patches")
    with untouched(target):
        captured = manager.capture_patch("r1", "ws-a", target)
    assert (captured.files_modified, captured.line_count, captured.patch_file.read_bytes()) == ([], 0, b"")
    with untouched(target):
        assert manager.apply_patch(captured.patch_file, target).success


def test_a_captured_patch_is_an_artifact_whose_hash_is_that_of_the_change(target: Path, tmp_path: Path) -> None:
    manager = PatchManager(tmp_path / "patches")
    write(target, {b"src/a.py": ("100644", b"a0 = 1\nnew = 2\n"), b"x": ("100644", b"y\n")})
    git(target, "add", "x")
    (target / ".gitignore").write_text("*.log\n")
    (target / "noise.log").write_text("ignored")
    with untouched(target):
        first = manager.capture_patch("r1", "ws-a", target, "fix_static", 2)
        second = manager.capture_patch("r2", "ws-b", target / "src")
    assert first.patch_id == "ws-a-r1-fix_static-2"
    assert first.patch_file == tmp_path / "patches" / "ws-a-r1-fix_static-2.patch"
    assert first.files_modified == [".gitignore", "src/a.py", "x"]
    assert (first.line_count, first.validated, first.applied) == (1 + 1 + 19 + 1, False, False)
    assert first.diff_hash == second.diff_hash
    stats = manager.get_patch_stats(first.patch_file)
    assert stats["size_bytes"] == first.patch_file.stat().st_size
    assert (stats["file_count"], stats["hunks"], stats["additions"], stats["deletions"]) == (3, 3, 3, 19)
    assert manager.parse_patch(first.patch_file).files_modified == first.files_modified
    reversed_ = manager.reverse_patch(first.patch_file, target)
    assert (reversed_.success, (target / "src/a.py").exists(), (target / "x").exists()) == (True, True, False)
    assert b"new = 2" not in (target / "src/a.py").read_bytes()


def test_patches_kept_in_the_checkout_are_no_part_of_the_next(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(target)
    (target / "x").write_text("x\n")
    manager = PatchManager()
    first = manager.capture_patch("r1", "ws-a", ".")
    assert first.patch_file == Path(".ledger/patches/ws-a-r1-edit-1.patch")
    assert manager.capture_patch("r1", "ws-a", ".").diff_hash == first.diff_hash


@pytest.mark.parametrize(("run", "ws", "step", "attempt"), [("../r", "w", "edit", 1), ("r", "", "edit", 1), ("r", "w", "x", 1), ("r", "w", "edit", 0)])  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(target: Path, run: str, ws: str, step: str, attempt: int) -> None:
    with pytest.raises(SwellError, match=r"Use|count"):
        PatchManager(target.parent / "p").capture_patch(run, ws, target, step, attempt)


_names = st.sampled_from([b"a", b"b/c", b"b/d", b"sp ace", b'q"\\\t', b"\xc3\xa9\n", b"x.txt"])
_contents = st.lists(st.sampled_from([b"one\n", b"two\r\n", b" \t\n", b"\n", b"three", b"\0\1\xff"]), max_size=8).map(
    b"".join
)
_entries = st.tuples(st.sampled_from(["100644", "100755"]), _contents) | st.just(("120000", b"x.txt"))
_trees = st.dictionaries(_names, _entries, max_size=6)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(before=_trees, after=_trees)
def test_whatever_the_trees_applying_gives_the_one_and_reversing_the_other(before: Tree, after: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = begun(Path(folder, "target"), before)
        clear(root)
        write(root, after)
        manager = PatchManager(Path(folder, "patches"))
        patch = manager.capture_patch("r1", "ws-a", root).patch_file.read_bytes()
        clear(root)
        write(root, before)
        named = {path for file in parse_patch(patch) for path in (file.old_path, file.new_path)}
        assert named - {None} <= before.keys() | after.keys()
        carry_out(patch, root)
        assert read(root) == after
        carry_out(patch, root, reverse=True)
        assert read(root) == before


def test_nothing_that_a_repository_configures_changes_bytes_or_runs(target: Path) -> None:
    trace = target.parent / "trace"
    git(target, "config", "filter.evil.clean", f"touch {trace}; cat")
    git(target, "config", "filter.evil.smudge", f"touch {trace}; cat")
    git(target, "config", "core.autocrlf", "true")
    git(target, "config", "apply.whitespace", "fix")
    patch = change(target, files={b"docs/crlf.txt": ("100644", b"one\r\n2 \r\nthree\r\n"), b"n": ("100644", b"n \n")})
    trace.unlink(missing_ok=True)
    (target / ".git" / "info" / "attributes").write_text("* text eol=crlf\n*.txt filter=evil\n")
    (target / ".gitattributes").write_text("* text=auto eol=crlf\n*.txt filter=evil working-tree-encoding=UTF-16\n")
    carry_out(patch, target, allow_dirty=True)
    assert ((target / "docs/crlf.txt").read_bytes(), (target / "n").read_bytes()) == (
        b"one\r\n2 \r\nthree\r\n",
        b"n \n",
    )
    carry_out(patch, target, reverse=True, allow_dirty=True)
    assert (target / "docs/crlf.txt").read_bytes() == FILES[b"docs/crlf.txt"][1]
    assert not trace.exists()


def test_several_patches_of_one_file_go_there_and_back_as_one(target: Path) -> None:
    lines = FILES[b"src/a.py"][1].splitlines(keepends=True)
    first = change(target, files={b"src/a.py": ("100644", b"".join([b"first\n", *lines]))})
    second = change(target, files={b"src/a.py": ("100644", b"".join([*lines, b"last\n"]))})
    carry_out(first + second, target)
    assert (target / "src/a.py").read_bytes() == b"".join([b"first\n", *lines, b"last\n"])
    carry_out(first + second, target, reverse=True, allow_dirty=True)
    assert read(target) == FILES


# What does not fit


def test_a_conflict_names_its_file_and_leaves_everything_as_it_was(target: Path) -> None:
    patch = change(
        target, files={b"bin/blob": ("100644", b"\0new"), b"new": ("100644", b"n\n"), b"src/a.py": ("100644", b"x\n")}
    )
    (target / "src/a.py").write_text("something else\n")
    (target / "new").write_text("mine\n")
    git(target, "add", "-A")
    git(target, "commit", "-qm", "meanwhile")
    with untouched(target), pytest.raises(PatchConflictError) as caught:
        carry_out(patch, target)
    assert caught.value.conflicts == [
        "new: already exists in working directory",
        "src/a.py: patch does not apply at line 1",
    ]
    with untouched(target):
        (target.parent / "p").write_bytes(patch)
        result = PatchManager().apply_patch(target.parent / "p", target)
    assert (result.success, result.conflicts) == (False, caught.value.conflicts)
    assert "src/a.py" in result.error_message


@pytest.mark.parametrize("check_only", [True, False])
def test_a_folder_where_a_file_is_to_lie_and_a_file_where_a_folder_is_to_be_conflict(
    target: Path, *, check_only: bool
) -> None:
    (target / "void" / "in").mkdir(parents=True)
    (target / "way").symlink_to("nowhere")
    patch = b"".join(map(added, ("src", "docs/sub", "void", "run.sh/x/y", "link/z", "way/z")))
    with untouched(target), pytest.raises(PatchConflictError) as caught:
        carry_out(patch, target, check_only=check_only)
    assert "beyond a symbolic link" in caught.value.conflicts[0]
    patch = b"".join(map(added, ("src", "docs/sub", "void", "run.sh/x/y")))
    with untouched(target), pytest.raises(PatchConflictError) as caught:
        carry_out(patch, target, check_only=check_only)
    assert caught.value.conflicts == [
        "run.sh/x/y: run.sh is no folder", "src: a folder is there", "void: a folder is there"
    ]  # fmt: skip


def test_a_folder_gives_way_to_a_file_where_the_patch_empties_it(target: Path) -> None:
    (target / "docs" / "sub").mkdir()
    (target / "docs" / "sub" / "b.txt").write_text("b\n")
    git(target, "add", "-A")
    git(target, "commit", "-qm", "more")
    clone = target.parent / "way"
    shutil.copytree(target, clone)
    shutil.rmtree(clone / "docs")
    (clone / "docs").write_text("a file\n")
    (clone / "run.sh").unlink()
    (clone / "run.sh").mkdir()
    (clone / "run.sh" / "x").write_text("x\n")
    patch = PatchManager(target.parent / "patches").capture_patch("r1", "ws-a", clone).patch_file.read_bytes()
    before = read(target)
    carry_out(patch, target)
    assert read(target) == read(clone)
    carry_out(patch, target, reverse=True)
    assert read(target) == before


def test_where_the_checkout_converts_a_file_the_conflict_says_so(target: Path) -> None:
    patch = change(target, files={b"src/a.py": ("100644", b"x\n")})
    git(target, "config", "core.autocrlf", "true")
    (target / "src/a.py").unlink()
    git(target, "checkout", "src/a.py")
    assert b"\r\n" in (target / "src/a.py").read_bytes()
    with untouched(target), pytest.raises(PatchConflictError, match=r"src/a\.py.*converts src/a\.py.*git apply"):
        carry_out(patch, target)


def test_reversing_what_was_not_applied_conflicts(target: Path) -> None:
    patch = change(target, files={b"src/a.py": ("100644", b"x\n"), b"n": ("100644", b"n\n")})
    with untouched(target), pytest.raises(PatchConflictError, match=r"n: No such file.*src/a\.py"):
        carry_out(patch, target, reverse=True)


def test_a_mode_that_is_another_conflicts_because_reversing_would_not_restore_it(target: Path) -> None:
    patch = change(target, files={b"src/a.py": ("100755", FILES[b"src/a.py"][1])})
    (target / "src/a.py").chmod(0o755)
    with untouched(target), pytest.raises(PatchConflictError, match="its mode is 100755, the patch expects 100644"):
        carry_out(patch, target, allow_dirty=True)


def test_uncommitted_work_in_a_touched_file_is_refused_and_elsewhere_left_alone(target: Path) -> None:
    lines = FILES[b"src/a.py"][1]
    patch = change(target, files={b"src/a.py": ("100644", lines + b"end\n")})
    (target / "empty").write_text("mine\n")
    (target / "src/a.py").write_bytes(b"mine\n" + lines)
    with untouched(target), pytest.raises(SwellError, match=r"uncommitted changes: src/a\.py") as caught:
        carry_out(patch, target)
    assert (caught.value.reason, "--allow-dirty" in caught.value.remedy) == ("DIRTY", True)
    carry_out(patch, target, allow_dirty=True)
    assert (target / "src/a.py").read_bytes() == b"mine\n" + lines + b"end\n"
    carry_out(patch, target, reverse=True, allow_dirty=True)
    (target / "src/a.py").write_bytes(lines)
    carry_out(patch, target)
    assert (target / "empty").read_text() == "mine\n"


def test_when_a_file_cannot_be_written_the_others_are_put_back(target: Path) -> None:
    """The disk ends in the middle: a limit on the size of files stands for it."""
    big = b"\0" * 4_000_000
    patch = change(
        target,
        files={b"a/new": ("100644", b"n\n"), b"src/a.py": ("100644", b"x\n"), b"z": ("100644", big)},
        gone=(b"empty",),
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with untouched(target), pytest.raises(SwellError, match="are as they were") as caught:
            carry_out(patch, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.reason == "APPLY_FAILED"
    carry_out(patch, target)
    assert (target / "z").read_bytes() == big


@pytest.mark.parametrize(
    "content",
    [b"no patch\n", b"The patch is over 20 bytes\n src/a.py | 3 +\n", b"--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+x\n"],
)
def test_what_is_no_patch_of_git_is_refused(target: Path, content: bytes) -> None:
    with untouched(target), pytest.raises(SwellError) as caught:
        carry_out(content, target)
    assert caught.value.reason == "NOT_A_PATCH"


def test_only_a_checkout_takes_patches(target: Path, tmp_path: Path) -> None:
    patch = change(target, files={b"n": ("100644", b"n\n")})
    git(tmp_path, "clone", "-q", "--bare", str(target), "bare")
    for place in (tmp_path / "nowhere", tmp_path / "bare"):
        with pytest.raises(SwellError) as caught:
            carry_out(patch, place)
        assert caught.value.reason == "NOT_A_REPOSITORY"


def test_a_folder_of_the_checkout_stands_for_all_of_it(target: Path) -> None:
    patch = change(target, files={b"n": ("100644", b"n\n")})
    carry_out(patch, target / "src")
    assert (target / "n").exists()


# What means harm


def added(path: str, content: str = "x\n", mode: str = "100644") -> bytes:
    """A patch that makes a file, written by hand."""
    lines = content.splitlines(keepends=True)
    body = "".join(f"+{line}" if line.endswith("\n") else f"+{line}\n\\ No newline at end of file\n" for line in lines)
    head = f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex {'0' * 40}..{'1' * 40}\n--- /dev/null\n+++ b/{path}\n"
    return f"{head}@@ -0,0 +1,{len(lines)} @@\n{body}".encode()


GITLINK = f"Subproject commit {'a' * 40}\n"
HOSTILE = {
    "parent": added("../escaped"),
    "parent within": added("src/../../escaped"),
    "absolute": added("/escaped"),
    "git": added(".git/hooks/pre-commit"),
    "git in a folder": added("src/.git/config"),
    "git in capitals": added(".GIT/config"),
    "git short name": added("git~1/config"),
    "git with a dot": added(".git./config"),
    "git stream": added(".git::$INDEX_ALLOCATION/config"),
    "git with unseen characters": added(".g\u200cit/config"),
    "link out": added("out", "../../etc/passwd", "120000"),
    "link to root": added("out", "/etc/passwd", "120000"),
    "link into git": added("hooks", ".git/hooks", "120000"),
    "link then through it": added("d", "/tmp", "120000") + added("d/escaped"),
    "submodule": added("sub", GITLINK, "160000"),
    "name too long": added("x" * 300 + "/y"),
    "path too long": added("x/" * 3000 + "y"),
    "path too deep": added("x/" * 1900 + "y") + added("../escaped"),
    "beyond a link of the tree": added("way/escaped"),
    "in another repository": added("nested/x"),
    "with a second patch that only git sees": added("n") + b"--- a/../escaped\n+++ b/../escaped\n@@ -0,0 +1 @@\n+x\n",
    "rename out": b"diff --git a/empty b/../e\nsimilarity index 100%\nrename from empty\nrename to ../e\n",
    "rename of a link that leads out elsewhere": (
        b"diff --git a/deep/down/link b/link2\nsimilarity index 100%\nrename from deep/down/link\nrename to link2\n"
    ),
    "copy out of git": b"diff --git a/.git/config b/n\nsimilarity index 100%\ncopy from .git/config\ncopy to n\n",
}


@pytest.fixture(scope="session")
def trap(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with links, one of them out of it, and another repository inside; no test may change it."""
    folder = tmp_path_factory.mktemp("trap")
    root = folder / "target"
    shutil.copytree(template, root, symlinks=True)
    (folder / "outside").mkdir()
    (root / "way").symlink_to(folder / "outside")
    (root / "deep" / "down").mkdir(parents=True)
    (root / "deep" / "down" / "link").symlink_to("../../empty")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "links")
    (root / "nested").mkdir()
    git(root / "nested", "init", "-q")
    return root


NOT_BY_ITS_PATHS = {
    "name too long", "beyond a link of the tree", "link then through it", "with a second patch that only git sees",
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_leads_out_of_the_tree_is_refused(trap: Path, what: str) -> None:
    outside = sorted(path for path in trap.parent.iterdir()), sorted((trap.parent / "outside").iterdir())
    with untouched(trap), pytest.raises(SwellError) as caught:
        carry_out(HOSTILE[what], trap)
    if what in NOT_BY_ITS_PATHS:
        assert caught.value.reason in {"HOSTILE_PATCH", "NOT_A_PATCH", "PATCH_CONFLICT"}
    else:
        assert caught.value.reason == "HOSTILE_PATCH"
    with untouched(trap), pytest.raises(SwellError):
        carry_out(HOSTILE[what], trap, reverse=True)
    assert (sorted(path for path in trap.parent.iterdir()), sorted((trap.parent / "outside").iterdir())) == outside


def test_what_steers_git_or_ci_or_is_executable_is_told(target: Path) -> None:
    patch = change(
        target,
        files={
            b".github/workflows/ci.yml": ("100644", b"on: push\n"),
            b".gitattributes": ("100644", b"* text\n"),
            b"src/a.py": ("100755", FILES[b"src/a.py"][1]),
            b"run.sh": ("100644", b"#!/bin/sh\n"),
            b"new.sh": ("100755", b"x\n"),
            b"inner": ("120000", b"src"),
            b"link": ("100644", b"no link\n"),
        },
    )
    assert carry_out(patch, target, check_only=True).notes == [
        ".gitattributes: steers git",
        ".github/workflows/ci.yml: steers what runs in CI",
        "inner: is a symbolic link to src",
        "link: changes its type",
        "new.sh: is executable",
        "run.sh: is no longer executable",
        "src/a.py: becomes executable",
    ]


# How patches are read


@settings(max_examples=60)
@given(st.binary(max_size=200).map(lambda noise: added("a/b") + noise) | st.binary(max_size=60))
def test_reading_never_fails_but_by_saying_so(content: bytes) -> None:
    with suppress(PatchFormatError):
        assert all(file.path for file in parse_patch(content))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (b"@@ -0,0 +1,3 @@\n+x\n", "ends within a hunk"),
        (b"@@ -0,0 +1,2 @@\n+x\n?y\n", "a line of a hunk begins"),
        (b"@@ -1,1 +0,0 @@\n+x\n-y\n", "longer than it says"),
    ],
)
def test_hunks_that_do_not_add_up_are_refused(cut: bytes, message: str) -> None:
    head = b"diff --git a/n b/n\n--- a/n\n+++ b/n\n"
    with pytest.raises(PatchFormatError, match=message):
        parse_patch(head + cut)


def test_a_line_of_content_that_looks_like_a_patch_is_content() -> None:
    (file,) = parse_patch(added("n", "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n"))
    assert (file.path, file.additions, file.status) == (b"n", 4, "added")


def test_a_mail_around_a_patch_says_nothing() -> None:
    mail = b"From 1\nSubject: [PATCH] x\n\n---\n n | 1 +\n\n" + added("n") + b"-- \n2.39.5\n"
    assert [file.path for file in parse_patch(mail)] == [b"n"]


def test_renames_copies_and_modes_are_read(target: Path) -> None:
    write(target, {b"src/b b.py": FILES[b"src/a.py"]})
    (target / "src/a.py").unlink()
    (target / "run.sh").chmod(0o644)
    captured = PatchManager(target.parent / "p").capture_patch("r", "w", target)
    moded, renamed = parse_patch(captured.patch_file.read_bytes())
    assert (moded.path, moded.old_mode, moded.new_mode, moded.status) == (b"run.sh", "100755", "100644", "modified")
    assert (renamed.old_path, renamed.new_path, renamed.status) == (b"src/a.py", b"src/b b.py", "renamed")


def test_git_agrees_with_the_count_of_lines(target: Path) -> None:
    patch = change(
        target, files={name: (mode, body + b"more\n") for name, (mode, body) in FILES.items() if mode != "120000"}
    )
    told = Git(target).sync("apply", "--numstat", "-z", "-", stdin=patch).stdout.split(b"\0")[:-1]
    ours = {file.path: (file.additions, file.deletions) for file in parse_patch(patch) if not file.binary}
    theirs = {path: (int(add), int(gone)) for add, gone, path in (one.split(b"\t", 2) for one in told) if add != b"-"}
    assert ours == theirs
