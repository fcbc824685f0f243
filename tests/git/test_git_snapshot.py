"""A snapshot is what lies in the workspace; changes, patches and hazards are read from trees."""

import asyncio
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor import snapshot
from services.executor.mirror import Mirror
from services.executor.snapshot import SnapshotError, Taken, changes, hazards, leaves_tree, parse_raw, patch, take
from services.executor.workspace import Workspace, WorkspacePool
from tests.git.conftest import Checkout
from tests.git.test_git_workspace import DEEDS, branches, commits, deletes_git, makes_own_repository, tool

DROPPINGS = [".aider*", "__pycache__/", "*.pyc"]
TIME_NS = 1_700_000_000_123_456_789


async def taken(workspace: Workspace, droppings: list[str] | None = None) -> Taken:
    return await take(
        workspace,
        parent=workspace.commit,
        message="work\n",
        time_ns=TIME_NS,
        droppings=DROPPINGS if droppings is None else droppings,
    )


async def names(mirror: Mirror, base: str, commit: str) -> dict[str, str]:
    return {change.path: change.status for change in await changes(mirror.git, base, commit)}


async def test_everything_that_lies_there_is_taken(mirror: Mirror, pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        top = workspace.path
        (top / "README.md").write_text("# two\n")
        (top / "src/b.py").unlink()
        (top / "run.sh").chmod(0o644)
        (top / "link").unlink()
        (top / "link").symlink_to("src")
        (top / "empty").unlink()
        (top / "empty").symlink_to("README.md")
        (top / "bin/blob").write_bytes(b"\0\1")
        (top / "docs/crlf.txt").write_bytes(b"one\r\nthree\r\n")
        (top / 'new\n \u00fc\t"name').write_text("")
        (top / "sub/folder").mkdir(parents=True)
        (top / "sub/folder/x").write_text("x")
        (top / "sub/folder/x").chmod(0o000)
        result = await taken(workspace)
    assert result.changed
    assert result.left_out == ()
    assert await names(mirror, base, result.commit) == {
        "README.md": "M", "src/b.py": "D", "run.sh": "M", "link": "M", "empty": "T", "bin/blob": "M",
        "docs/crlf.txt": "M", 'new\n \u00fc\t"name': "A", "sub/folder/x": "A",
    }  # fmt: skip
    assert await mirror.git("cat-file", "blob", f"{result.commit}:docs/crlf.txt") == b"one\r\nthree\r\n"
    by_path = {change.path: change for change in await changes(mirror.git, base, result.tree)}
    assert (by_path["run.sh"].old_mode, by_path["run.sh"].new_mode) == ("100755", "100644")
    assert by_path["link"].is_symlink


async def test_ignored_files_and_droppings_stay_out_unless_tracked(
    mirror: Mirror, pool: WorkspacePool, user: Checkout, base: str
):
    user.write({"kept.log": "tracked", ".aider.conf": "tracked"})
    user.git("add", "--force", "kept.log", ".aider.conf")
    commit = user.commit()
    await mirror.ensure(commit, run="r2")
    async with pool.at(commit) as workspace:
        top = workspace.path
        for name in (
            "x.log",
            "build/y",
            ".aider.chat.history.md",
            "src/__pycache__/a.pyc",
            "real.py",
            "kept.log",
            ".aider.conf",
        ):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text("changed")
        result = await taken(workspace)
    assert await names(mirror, commit, result.commit) == {"real.py": "A", "kept.log": "M", ".aider.conf": "M"}


async def test_droppings_alone_are_no_change(pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        (workspace.path / ".aider.tags").write_text("x")
        os.utime(workspace.path / "README.md")
        result = await taken(workspace)
        assert result == Taken(commit=base, tree=workspace.tree, changed=False)


async def test_an_untouched_workspace_needs_no_git(pool: WorkspacePool, base: str, monkeypatch: pytest.MonkeyPatch):
    async with pool.at(base) as workspace:
        monkeypatch.setattr("services.process.run", None)  # any git process would fail
        assert await taken(workspace) == Taken(commit=base, tree=workspace.tree, changed=False)
        monkeypatch.undo()


async def test_the_same_input_gives_the_same_commit(
    pool: WorkspacePool, user: Checkout, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def once(pool: WorkspacePool) -> str:
        async with pool.at(base) as workspace:
            (workspace.path / "new").write_text("x")
            return (await taken(workspace)).commit

    first = await once(pool)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    other = Mirror(tmp_path / "other", f"file://{user.path}")
    await other.ensure(base, run="r1")
    assert await once(WorkspacePool(other, tmp_path / "elsewhere", 1)) == first
    shown = await other.git("show", "--no-patch", "--format=%an <%ae> %ai|%cn <%ce> %ci|%P|%B", first)
    who = "Swell <swell@invalid> 2023-11-14 22:13:20 +0000"
    assert shown.decode().strip() == f"{who}|{who}|{base}|work"


@pytest.mark.parametrize("deed", [commits, branches, deletes_git, makes_own_repository], ids=lambda deed: deed.__name__)
async def test_a_tools_own_git_does_not_matter(mirror: Mirror, pool: WorkspacePool, base: str, deed):
    async with pool.at(base) as workspace:
        (workspace.path / "new").write_text("x")
        deed(workspace)
        (workspace.path / "README.md").write_text("last word")
        result = await taken(workspace)
    assert await names(mirror, base, result.commit) == {"new": "A", "README.md": "M"}
    assert (await mirror.git("rev-parse", f"{result.commit}^")).decode().strip() == base


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
async def test_a_snapshot_survives_every_deed_or_says_why(mirror: Mirror, pool: WorkspacePool, base: str, deed):
    """And it never reads through a link, nor makes a submodule."""
    async with pool.at(base) as workspace:
        deed(workspace)
        try:
            result = await taken(workspace)
        except SnapshotError as error:
            assert error.code == "UNREADABLE"  # noqa: PT017 - both endings are right, depending on the deed
            assert deed.__name__ in {"replaces_its_folder", "goes_very_deep"}
        else:
            assert not any(change.is_gitlink for change in await changes(mirror.git, base, result.tree))


async def test_staged_and_broken_indexes_do_not_matter(mirror: Mirror, pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        tool(workspace, "rm", "-q", "--cached", "README.md")
        tool(workspace, "update-index", "--assume-unchanged", "src/a.py")
        (workspace.path / "src/a.py").write_text("changed")
        result = await taken(workspace)
    assert await names(mirror, base, result.commit) == {"src/a.py": "M"}


async def test_nested_repositories_stay_out_and_are_reported(mirror: Mirror, pool: WorkspacePool, base: str):
    """With and without a commit of their own; in ignored folders they are nobody's business."""
    async with pool.at(base) as workspace:
        for name in ("empty repo*", "full", "src/in src", "build/ignored"):
            folder = workspace.path / name
            folder.mkdir(parents=True)
            tool(workspace, "init", "-q", name)
            (folder / "x").write_text("x")
        tool(workspace, "-C", "full", "commit", "-q", "--allow-empty", "-m", "x")
        (workspace.path / "real").write_text("x")
        result = await taken(workspace)
    assert result.left_out == ("empty repo*", "full", "src/in src")
    assert await names(mirror, base, result.commit) == {"real": "A"}


async def test_a_repository_made_around_tracked_files_loses_none_of_them(
    mirror: Mirror, pool: WorkspacePool, base: str
):
    async with pool.at(base) as workspace:
        tool(workspace, "init", "-q", "src")
        (workspace.path / "src/a.py").write_text("changed")
        result = await taken(workspace)
    assert result.left_out == ("src",)
    assert await names(mirror, base, result.commit) == {"src/a.py": "M"}


async def test_special_files_and_names_git_refuses_stay_out(mirror: Mirror, pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        (workspace.path / "README.md").unlink()
        os.mkfifo(workspace.path / "README.md")
        (workspace.path / "docs/.GIT").mkdir()
        (workspace.path / "docs/.GIT/config").write_text("x")
        result = await taken(workspace)
    assert result.left_out == ("README.md", "docs/.GIT")
    assert await names(mirror, base, result.commit) == {"README.md": "D"}


async def test_names_that_are_not_text_are_kept_and_flagged(mirror: Mirror, pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        (workspace.path / os.fsdecode(b"caf\xe9")).write_text("x")
        result = await taken(workspace)
    found = await changes(mirror.git, base, result.tree)
    assert [(change.path, change.is_utf8) for change in found] == [("caf\\xe9", False)]
    assert await hazards(mirror.git, found, result.tree) == ["caf\\xe9: has a name that is not UTF-8"]


async def test_huge_files_are_refused_by_name(pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        for name in ("dump.bin", "ignored.log"):
            with (workspace.path / name).open("wb") as file:
                file.truncate(snapshot.FILE_BYTES_MAX + 1)
        with pytest.raises(SnapshotError, match=r"dump\.bin") as caught:
            await taken(workspace)
        assert caught.value.code == "FILE_TOO_LARGE"
        (workspace.path / "dump.bin").unlink()
        assert not (await taken(workspace)).changed


async def test_filters_that_a_tool_configures_do_not_run(pool: WorkspacePool, base: str, tmp_path: Path):
    async with pool.at(base) as workspace:
        for setting in ("clean", "smudge"):
            tool(workspace, "config", f"filter.evil.{setting}", f"touch {tmp_path}/ran; cat")
        (workspace.path / ".gitattributes").write_text("* filter=evil\n")
        (workspace.path / "README.md").write_text("changed")
        result = await taken(workspace)
    async with pool.at(result.commit):
        pass
    assert not (tmp_path / "ran").exists()


async def test_a_parent_of_ones_own_choice(mirror: Mirror, pool: WorkspacePool, base: str):
    """A workspace that is left as it was may still differ from another parent."""
    async with pool.at(base) as workspace:
        (workspace.path / "new").write_text("x")
        first = await taken(workspace)
    async with pool.at(first.commit) as workspace:
        again = await take(workspace, parent=base, message="work\n", time_ns=TIME_NS)
    assert again == first


async def test_patches_apply_and_long_ones_become_statistics(
    mirror: Mirror, pool: WorkspacePool, user: Checkout, base: str, tmp_path: Path
):
    async with pool.at(base) as workspace:
        (workspace.path / "bin/blob").write_bytes(os.urandom(2000))
        (workspace.path / "docs/crlf.txt").write_bytes(b"one\r\nthree\r\n")
        (workspace.path / "README.md").rename(workspace.path / "MOVED.md")
        (workspace.path / 'odd/q"\n').write_text("x")
        result = await taken(workspace)
    full = await patch(mirror.git, base, result.commit, 1_000_000)
    assert full.complete
    user.git("apply", "--index", "-", stdin=full.content)
    assert user.git("write-tree") == result.tree
    short = await patch(mirror.git, base, result.commit, 900)
    assert not short.complete
    assert len(short.content) <= 900
    assert b"over 900 bytes" in short.content
    assert b"bin/blob" in short.content


async def test_hazards_are_named(mirror: Mirror, pool: WorkspacePool, user: Checkout, base: str):
    async with pool.at(base) as workspace:
        top = workspace.path
        for name, target in {
            "out": "/etc/passwd",
            "up": "../x",
            "src/fine": "../README.md",
            "src/far": "../../x",
            "g": ".git/config",
        }.items():
            (top / name).symlink_to(target)
        (top / ".gitmodules").write_text("[submodule]\n")
        (top / "readme.MD").write_text("twin")
        (top / "SRC").mkdir()
        (top / "SRC/new.py").write_text("twin folder")
        (top / 'odd/sp ace "quoted" e\u0301.txt').write_text("twin")
        result = await taken(workspace)
    found = await changes(mirror.git, base, result.tree)
    leaves = "is a symbolic link that leaves the tree"
    assert sorted(await hazards(mirror.git, found, result.tree)) == sorted([
        f"out: {leaves}", f"up: {leaves}", f"src/far: {leaves}", f"g: {leaves}", ".gitmodules: declares submodules",
        "readme.MD: differs from README.md only in case or Unicode form",
        "SRC/new.py: differs from src only in case or Unicode form",
        "src/far: differs from SRC only in case or Unicode form",
        "src/fine: differs from SRC only in case or Unicode form",
        'odd/sp ace "quoted" e\u0301.txt: differs from odd/sp ace "quoted" \u00e9.txt only in case or Unicode form',
    ])  # fmt: skip


async def test_a_submodule_is_a_hazard(mirror: Mirror, user: Checkout, base: str):
    user.git("update-index", "--add", "--cacheinfo", f"160000,{base},vendor/lib")
    user.git("commit", "-qm", "submodule")
    commit = user.git("rev-parse", "HEAD")
    await mirror.ensure(commit, run="r2")
    found = await changes(mirror.git, base, commit)
    assert found[0].is_gitlink
    assert await hazards(mirror.git, found, commit) == ["vendor/lib: is a submodule"]


@pytest.mark.parametrize(
    ("path", "target", "leaves"),
    [("a", "b", False), ("a/b", "../c", False), ("a/b", "../../c", True), ("a", "b/../..", True), ("a", "/x", True),
     ("a/b/c", "./../../d", False), ("a", ".git/hooks", True), ("a", "x/.GIT", True), ("a", "", True)],
)  # fmt: skip
def test_links_that_leave_the_tree(path: str, target: str, leaves: bool):
    assert leaves_tree(path, target.encode()) is leaves


@given(
    st.lists(st.tuples(st.sampled_from("ADMT"), st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b)))
)
def test_any_path_is_read_back(entries: list[tuple[str, bytes]]):
    raw = b"".join(f":100644 100755 {'0' * 40} {'1' * 40} {s}".encode() + b"\0" + p + b"\0" for s, p in entries)
    found = parse_raw(raw)
    assert [(c.status, c.path, c.is_utf8) for c in found] == [
        (s, p.decode("utf-8", "backslashreplace"), p.decode("utf-8", "replace").encode() == p) for s, p in entries
    ]


async def test_the_persons_checkout_is_untouched_by_a_whole_life(
    mirror: Mirror, pool: WorkspacePool, user: Checkout, base: str, tmp_path: Path
):
    user.write({"README.md": "dirty", "untracked": "x", "y.log": "ignored"})
    user.git("stash")
    user.write({"src/a.py": "staged"})
    user.git("add", "src/a.py")
    os.utime(user.path / "src/b.py", ns=(1, 1))
    before = user.fingerprint()
    second = user.git("rev-parse", "HEAD")
    await mirror.ensure(second, run="r5")
    for deed in (branches, commits, makes_own_repository):
        async with pool.at(base) as workspace:
            deed(workspace)
            (workspace.path / "new").write_text("x")
            result = await taken(workspace)
    await mirror.export_bundle(base, result.commit, "refs/swell/attempts/r5/ws/1", tmp_path / "b")
    await mirror.deliver(result.commit, ref="refs/heads/swell/r5", expected_old=None)
    shutil.rmtree(mirror.folder)
    assert user.fingerprint() == before
    assert user.git("rev-parse", "swell/r5^{tree}") == result.tree
    user.git("fsck", "--full")


async def test_a_file_rewritten_in_the_second_of_its_checkout_is_seen_a_second_later(mirror, pool, user, base):
    """Same size, same second: git tells such files by the time of its index, which a copy must keep."""
    user.write({"same": "tracked"})
    commit = user.commit()
    await mirror.ensure(commit, run="r2")
    while time.time() % 1 > 0.3:  # noqa: ASYNC110 - the rewrite has to fall into the same second
        await asyncio.sleep(0.01)
    async with pool.at(commit) as workspace:
        (workspace.path / "same").write_text("changed")
        written = int((workspace.path / "same").stat().st_mtime)
        while time.time() < written + 1:  # noqa: ASYNC110 - the snapshot has to fall into a later one
            await asyncio.sleep(0.01)
        result = await taken(workspace)
    assert await names(mirror, commit, result.commit) == {"same": "M"}
