"""A workspace is exactly its commit, whatever the last tool did to it."""

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from services.executor.mirror import Mirror
from services.executor.workspace import Workspace, WorkspaceError, WorkspacePool, restore, scan
from tests.git.conftest import ENVIRONMENT, Checkout


def content(top: Path) -> dict[str, tuple[str, bytes]]:
    """Every path with its kind, execute bit and bytes: what a commit can say of it. `.git` of the top excluded."""
    found: dict[str, tuple[str, bytes]] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if name == ".git" or name.startswith(".git/"):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = ("link", os.fsencode(path.readlink()))
        elif stat.S_ISDIR(mode):
            found[name] = ("folder", b"")
        else:
            found[name] = (f"{stat.filemode(mode)}", path.read_bytes())
    return found


def tool(workspace: Workspace, *args: str) -> None:
    """A tool's own use of git."""
    subprocess.run(("git", *args), cwd=workspace.path, env=ENVIRONMENT, check=True, capture_output=True)


def commits(workspace: Workspace) -> None:
    (workspace.path / "README.md").write_text("committed by the tool")
    tool(workspace, "commit", "-qam", "mine")


def branches(workspace: Workspace) -> None:
    tool(workspace, "checkout", "-q", "-b", "feature/x")
    commits(workspace)


def stashes(workspace: Workspace) -> None:
    (workspace.path / "README.md").write_text("stashed by the tool")
    tool(workspace, "stash")


def deletes_git(workspace: Workspace) -> None:
    (workspace.path / ".git").unlink()


def makes_own_repository(workspace: Workspace) -> None:
    deletes_git(workspace)
    tool(workspace, "init", "-q")
    tool(workspace, "add", "-A")
    tool(workspace, "commit", "-qm", "own")


def points_git_elsewhere(workspace: Workspace) -> None:
    (workspace.path / ".git").write_text("gitdir: /nonexistent\n")


def leaves_locks(workspace: Workspace) -> None:
    admin = Path((workspace.path / ".git").read_text().removeprefix("gitdir: ").strip())
    for name in ("index.lock", "HEAD.lock"):
        (admin / name).write_text("")
    (admin / "rebase-merge").mkdir()
    (admin / "index").write_bytes(b"broken")


def swaps_kinds(workspace: Workspace) -> None:
    (workspace.path / "README.md").unlink()
    (workspace.path / "README.md").mkdir()
    (workspace.path / "README.md" / "x").write_text("x")
    shutil.rmtree(workspace.path / "src")
    (workspace.path / "src").write_text("a file")
    shutil.rmtree(workspace.path / "docs")
    (workspace.path / "docs").symlink_to("/etc")


def changes_modes(workspace: Workspace) -> None:
    (workspace.path / "run.sh").chmod(0o644)
    (workspace.path / "README.md").chmod(0o000)
    (workspace.path / "src").chmod(0o555)
    (workspace.path / "docs").chmod(0o000)
    workspace.path.chmod(0o555)


def leaves_much(workspace: Workspace) -> None:
    (workspace.path / "build/deep/er").mkdir(parents=True)
    (workspace.path / "build/deep/er/x.o").write_text("x")
    (workspace.path / "src/x.log").write_text("ignored")
    (workspace.path / "none").mkdir()
    (workspace.path / "src.d").mkdir()
    (workspace.path / "src.d/y").write_text("y")
    for folder in ("build/deep/er", "build/deep", "src.d"):
        (workspace.path / folder).chmod(0o500)
    os.mkfifo(workspace.path / "pipe")


def nests_repositories(workspace: Workspace) -> None:
    (workspace.path / "nested").mkdir()
    subprocess.run(("git", "init", "-q"), cwd=workspace.path / "nested", env=ENVIRONMENT, check=True)
    subprocess.run(
        ("git", "commit", "-q", "--allow-empty", "-m", "x"), cwd=workspace.path / "nested", env=ENVIRONMENT, check=True
    )


def hides_a_change(workspace: Workspace) -> None:
    """Same size, and the times put back."""
    path = workspace.path / "src/b.py"
    before = path.stat()
    path.write_text("b = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def removes_everything(workspace: Workspace) -> None:
    shutil.rmtree(workspace.path)


def replaces_its_folder(workspace: Workspace) -> None:
    workspace.path.rename(workspace.path.with_name("moved"))
    workspace.path.symlink_to(workspace.path.with_name("moved"))


def writes_configuration(workspace: Workspace) -> None:
    tool(workspace, "config", "filter.evil.smudge", "sed s/a/b/")
    tool(workspace, "config", "core.autocrlf", "true")
    admin = Path(workspace.path / ".git").read_text().removeprefix("gitdir: ").strip()
    (Path(admin).parent.parent / "info").mkdir(exist_ok=True)
    (Path(admin).parent.parent / "info/attributes").write_text("* filter=evil\n")


def goes_very_deep(workspace: Workspace) -> None:
    """Deeper than a path may be long."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(workspace.path)
    try:
        for _ in range(30):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
    finally:
        os.fchdir(before)
        os.close(before)


DEEDS = [
    commits, branches, stashes, deletes_git, makes_own_repository, points_git_elsewhere, leaves_locks, swaps_kinds,
    changes_modes, leaves_much, nests_repositories, hides_a_change, removes_everything, replaces_its_folder,
    writes_configuration, goes_very_deep,
]  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same commit", "other commit"])
async def test_nothing_a_tool_did_is_left(
    pool: WorkspacePool, user: Checkout, base: str, deed: Callable[[Workspace], None], *, elsewhere: bool
):
    mirror = pool._mirror
    second = user.commit({"src/a.py": "other\n", "src/new.py": "new\n", "README.md": "two\n"})
    await mirror.ensure(second, run="r2")
    wanted = second if elsewhere else base
    user.git("checkout", "--quiet", wanted)
    expected = content(user.path)
    async with pool.at(base) as workspace:
        deed(workspace)
    async with pool.at(wanted) as workspace:
        assert content(workspace.path) == expected
        assert (workspace.commit, workspace.tree) == (wanted, user.git("rev-parse", f"{wanted}^{{tree}}"))
        view = Checkout(workspace.path)
        assert view.git("status", "--porcelain", "--ignored") == ""
        assert view.git("rev-parse", "HEAD") == wanted
        assert view.git("symbolic-ref", "-q", "HEAD", ok=(1,)) == ""
        assert view.git("stash", "list") == ""
        assert view.git("for-each-ref", "refs/heads", "refs/tags", "refs/stash") == ""
        assert view.git("config", "--get", "filter.evil.smudge", ok=(1,)) == ""
        assert not workspace.changed()


async def test_a_first_workspace_equals_a_checkout(pool: WorkspacePool, user: Checkout, base: str):
    async with pool.at(base) as workspace:
        assert content(workspace.path) == content(user.path)
        assert Checkout(workspace.path).git("status", "--porcelain", "--ignored") == ""


async def test_an_untouched_workspace_is_used_again_without_git(
    pool: WorkspacePool, base: str, monkeypatch: pytest.MonkeyPatch
):
    async with pool.at(base) as workspace:
        first = workspace.path
    monkeypatch.setattr("services.process.run", None)  # any git process would fail
    async with pool.at(base) as workspace:
        assert workspace.path == first
        assert not workspace.changed()
        assert workspace.differences() == []


async def test_every_kind_of_change_is_seen(pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        path = workspace.path
        (path / "src/b.py").write_text("b = 2\n")  # same length, right after the checkout
        (path / "run.sh").chmod(0o644)
        (path / "empty").unlink()
        (path / "new").mkdir()
        assert workspace.changed()
        assert workspace.differences() == ["empty", "new", "run.sh", "src/b.py"]


async def test_a_write_right_after_the_checkout_is_always_seen(pool: WorkspacePool, base: str):
    """The file system's clock may not have moved between two writes; the manifest waits for it."""
    for n in range(40):
        async with pool.at(base) as workspace:
            path = workspace.path / "src/b.py"
            with path.open("r+b") as file:
                file.write(b"b = %d" % (n % 8 + 2))
            assert workspace.changed()


async def test_workspaces_at_the_commit_are_preferred(mirror: Mirror, pool: WorkspacePool, user: Checkout, base: str):
    second = user.commit({"x": "1"})
    await mirror.ensure(second, run="r2")
    async with pool.at(base) as one, pool.at(second) as two:
        paths = {base: one.path, second: two.path}
    for commit in (second, base, second, base):
        async with pool.at(commit) as workspace:
            assert workspace.path == paths[commit]


async def test_the_pool_is_bounded(pool: WorkspacePool, base: str):
    async with pool.at(base), pool.at(base):
        third = asyncio.ensure_future(pool.at(base).__aenter__())
        done, _ = await asyncio.wait({third}, timeout=0.05)
        assert not done
    async with asyncio.timeout(10):
        await third


async def test_live_worktrees_are_locked_and_leftovers_collected(
    mirror: Mirror, pool: WorkspacePool, base: str, tmp_path: Path
):
    async with pool.at(base) as workspace:
        listed = (await mirror.git("worktree", "list", "--porcelain")).decode()
        assert f"worktree {workspace.path}\n" in listed
        assert "locked" in listed
        path = workspace.path
    other = WorkspacePool(mirror, tmp_path / "pool-of-another", 1)
    async with other.at(base) as living:
        assert await WorkspacePool(mirror, tmp_path / "pool", 2).reap_leftovers() == 2
        assert not path.exists()
        listed = (await mirror.git("worktree", "list", "--porcelain")).decode()
        assert str(path) not in listed
        assert str(living.path) in listed


async def test_a_commit_that_is_not_there_is_refused(pool: WorkspacePool):
    with pytest.raises(WorkspaceError) as caught:
        async with pool.at("1" * 40):
            pass
    assert caught.value.code == "COMMIT_MISSING"


async def test_a_failing_block_gives_its_place_back(pool: WorkspacePool, base: str):
    for _ in range(3):
        with pytest.raises(RuntimeError):
            async with pool.at(base):
                raise RuntimeError
    async with asyncio.timeout(10), pool.at(base), pool.at(base):
        pass


async def test_many_at_once_from_nothing(mirror: Mirror, tmp_path: Path, base: str):
    """The case in which `git worktree add` is known to trip over its own locks."""
    pool = WorkspacePool(mirror, tmp_path / "many", 8)

    async def one() -> Path:
        async with pool.at(base) as workspace:
            await asyncio.sleep(0)
            return workspace.path

    assert all(path.is_dir() for path in await asyncio.gather(*(one() for _ in range(16))))


async def test_submodules_of_the_base_stay_empty_folders(
    mirror: Mirror, pool: WorkspacePool, user: Checkout, base: str
):
    user.git("update-index", "--add", "--cacheinfo", f"160000,{base},vendor/lib")
    user.git("commit", "-qm", "submodule")
    commit = user.git("rev-parse", "HEAD")
    await mirror.ensure(commit, run="r2")
    for _ in range(2):
        async with pool.at(commit) as workspace:
            assert list((workspace.path / "vendor/lib").iterdir()) == []
            (workspace.path / "vendor/lib").rmdir()


def test_restoring_follows_no_link(tmp_path: Path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "precious")
    restore(top, {}, scan(top))
    assert (tmp_path / "precious/file").exists()
    assert list(top.iterdir()) == []
    top.rmdir()
    top.symlink_to(tmp_path / "precious")
    with pytest.raises(NotADirectoryError):
        scan(top)


async def test_a_cancelled_making_is_over_only_when_nothing_is_removed_any_more(pool, base):
    """The thread that cleans cannot be cancelled: it would remove what the next attempt has just been given."""
    async with pool.at(base) as workspace:
        heap = workspace.path / "heap"
        heap.mkdir()
        for number in range(4000):
            (heap / f"{number}").touch()

    async def hold():
        async with pool.at(base):
            raise AssertionError("it was cancelled before")

    holding = asyncio.create_task(hold())
    async with asyncio.timeout(20):
        while heap.exists() and len(list(heap.iterdir())) == 4000:  # noqa: ASYNC110 - the folder tells nobody
            await asyncio.sleep(0)
    holding.cancel()
    await asyncio.wait([holding])
    assert holding.cancelled()
    assert not heap.exists()
    async with pool.at(base) as workspace:
        assert not workspace.changed()


# When a scan is spared


@pytest.mark.parametrize(
    ("between", "scans"),
    [
        ("nothing", 0),
        ("another commit", 0),
        ("a tool", 1),
        ("a tool, and a look that found nothing", 1),
        ("a tool without a sandbox elsewhere", 1),
        ("one that still runs", 1),
        ("one that ran during the look", 2),
    ],
)
async def test_a_scan_is_spared_only_where_nothing_can_have_written(
    tmp_path: Path,
    mirror: Mirror,
    user: Checkout,
    base: str,
    between: str,
    scans: int,
    monkeypatch: pytest.MonkeyPatch,
):
    strays: list[int | None] = [0]
    pool = WorkspacePool(mirror, tmp_path / "warm", 1, strays=lambda: strays[0])
    other = user.commit({"x": "1"})
    await mirror.ensure(other, run="r2")
    counted = []
    scanning = Workspace.scan
    async with pool.at(base) as workspace:
        monkeypatch.setattr(Workspace, "scan", lambda one: counted.append(1) or scanning(one))
        if between.startswith("a tool,"):
            workspace.started()
            assert not workspace.changed()
        elif between == "a tool":
            workspace.started()
        elif between == "one that ran during the look":
            strays[0] = None
            workspace.started()
            assert not workspace.changed()
            strays[0] = 1
    if between == "a tool without a sandbox elsewhere":
        strays[0] = 1
    elif between == "one that still runs":
        strays[0] = None
    async with pool.at(other if between == "another commit" else base) as workspace:
        assert (workspace.path / "x").exists() is (between == "another commit")
        assert len(counted) == scans
        assert workspace.scan() == workspace._manifest


async def test_on_the_way_to_another_commit_every_kind_of_change_is_noted(
    tmp_path: Path, mirror: Mirror, user: Checkout, base: str, monkeypatch: pytest.MonkeyPatch
):
    """Without a look at the whole: files to folders and back, links, modes, folders that come and go."""
    (user.path / "run.sh").chmod(0o644)
    (user.path / "link").unlink()
    shutil.rmtree(user.path / "docs")
    for path in ("src/a.py", "README.md"):
        (user.path / path).unlink()
    second = user.commit({"link/now/a/folder": "x", "docs": "now a file", "new/deep/er/file": "1", "src/b.py": "2\n"})
    await mirror.ensure(second, run="r2")
    pool = WorkspacePool(mirror, tmp_path / "warm", 1, strays=lambda: 0)
    scanning, counted = Workspace.scan, []
    async with pool.at(base):
        monkeypatch.setattr(Workspace, "scan", lambda one: counted.append(1) or scanning(one))
        monkeypatch.setattr("services.executor.workspace.MOVED_PART", 1)
    for commit in (second, base, second):
        async with pool.at(commit) as workspace:
            assert not counted
            assert scanning(workspace) == workspace._manifest
            assert workspace.tree == user.git("rev-parse", f"{commit}^{{tree}}")
