"""Repositories, and leavings of tools, that try to get out: to have something run, to write elsewhere, to move refs.

Each goes through a whole life: it is inspected, mirrored, checked out, changed, committed, compared, merged, bundled,
delivered, and cleaned up after. What is not Swell's is hashed before and after: the person's checkout with its index,
refs, stash, configuration and hooks, and another project of theirs that many of the attempts aim at.
"""

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.executor.merge import three_tree
from services.executor.mirror import Mirror, MirrorError, attempt_ref, check_location, delivery_ref
from services.executor.snapshot import SnapshotError, changes, hazards, take
from services.executor.workspace import Workspace, WorkspaceError, WorkspacePool
from services.repository import RepositoryError, inspect, read_file
from tests.git.conftest import ENVIRONMENT, FILES, Checkout

HOOKS = (
    "applypatch-msg", "commit-msg", "fsmonitor-watchman", "post-checkout", "post-commit", "post-index-change", "post-merge",
    "post-receive", "post-rewrite", "post-update", "pre-auto-gc", "pre-commit", "pre-merge-commit", "pre-push", "pre-receive",
    "prepare-commit-msg", "proc-receive", "push-to-checkout", "reference-transaction", "sendemail-validate", "update",
)  # fmt: skip
_SWELLS = (".git/objects", ".git/refs/heads/swell", ".git/logs/refs/heads/swell")


class Scene(msgspec.Struct, frozen=True):
    """What a case works with: the person's repository, another project of theirs, and a mark that code leaves if it is run."""

    user: Checkout
    other: Checkout
    mark: Path

    @property
    def git_dir(self) -> Path:
        """Of the person's repository."""
        return self.user.path / ".git"

    @property
    def evil(self) -> str:
        """A command that leaves the mark, and passes on what it is given."""
        return f"touch {self.mark}; cat"

    def hooks(self, folder: Path) -> None:
        """Every hook that git knows."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in HOOKS:
            (folder / name).write_text(f"#!/bin/sh\ntouch {self.mark}\n")
            (folder / name).chmod(0o755)

    def config(self, *settings: tuple[str, str]) -> None:
        """Settings of the person's repository."""
        for name, value in settings:
            self.user.git("config", name, value)


class Lived(msgspec.Struct, frozen=True):
    """How a life ended: "" when it went through; then what tools saw, and what the delivered commit changes."""

    ended: str = ""
    files: frozenset[str] = frozenset()
    changed: tuple[str, ...] = ()
    delivered: bool = False


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The person's repository and their other project, to be copied for each case."""
    top = tmp_path_factory.mktemp("projects")
    for name in ("user", "other"):
        (top / name).mkdir()
        checkout = Checkout(top / name)
        checkout.git("init", "--quiet", "--initial-branch=main")
        checkout.commit(FILES, "first")
        checkout.write({"README.md": "stashed\n"})
        checkout.git("stash")
        (top / name / ".git/info").mkdir(exist_ok=True)
        (top / name / ".git/info/exclude").write_text("mine\n")
    return top


@pytest.fixture
def scene(tmp_path: Path, projects: Path) -> Scene:
    for name in ("user", "other"):
        shutil.copytree(projects / name, tmp_path / name, symlinks=True)
    return Scene(Checkout(tmp_path / "user"), Checkout(tmp_path / "other"), tmp_path / "ran")


def witness(folder: Path) -> dict[str, str]:
    """Every file below a folder that is not Swell's to write, by what it is and holds."""
    found = {}
    for top, folders, names in os.walk(folder):
        relative = os.path.relpath(top, folder)
        folders[:] = [name for name in folders if os.path.normpath(f"{relative}/{name}") not in _SWELLS]
        for name in (*names, *folders):
            path = Path(top, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                content = os.fsencode(path.readlink())
            else:
                content = path.read_bytes() if stat.S_ISREG(mode) else b""
            found[f"{relative}/{name}"] = f"{mode:o} {hashlib.sha256(content).hexdigest()}"
    # Folders that only hold what is Swell's come with it.
    return {name: what for name, what in found.items() if not name.startswith("./.git/logs/refs/heads")}


async def life(scene: Scene, folder: Path) -> Lived:
    """A whole life of a run of one workstream."""
    try:
        base = inspect(scene.user.path, allow_dirty=True).base_commit
        read_file(scene.user.path, base, "swell.toml", 1000)
    except RepositoryError as error:
        return Lived(ended=error.code)
    mirror = Mirror(folder / "mirrors", str(scene.user.path))
    pool = WorkspacePool(mirror, folder / "pool", 1)
    try:
        await mirror.ensure(base, run="r1")
        async with pool.at(base) as workspace:
            (workspace.path / "README.md").write_text("changed by a tool\n")
            taken = await take(workspace, parent=base, message="edit\n", time_ns=0)
        await three_tree(mirror, base=base, ours=base, theirs=taken.commit)
        async with pool.at(taken.commit) as workspace:
            files = frozenset(path for path, entry in workspace.scan().items() if len(entry) > 1)
        await mirror.export_bundle(base, taken.commit, attempt_ref("r1", "ws-a", 1), folder / "bundle")
        await mirror.deliver(taken.commit, ref=delivery_ref("r1"), expected_old=None)
    except (MirrorError, WorkspaceError) as error:
        return Lived(ended=error.code)
    changed = tuple(change.path for change in await changes(mirror.git, base, taken.commit))
    delivered = scene.user.git("rev-parse", delivery_ref("r1")) == taken.commit
    return Lived(files=files, changed=changed, delivered=delivered)


# Repositories


def with_hooks(scene: Scene) -> None:
    scene.hooks(scene.git_dir / "hooks")


def with_hooks_elsewhere(scene: Scene) -> None:
    scene.hooks(scene.user.path.parent / "hooks")
    scene.config(("core.hooksPath", str(scene.user.path.parent / "hooks")))


def with_filters(scene: Scene) -> None:
    scene.user.commit({".gitattributes": "* filter=evil\n"})
    scene.config(*((f"filter.evil.{name}", scene.evil) for name in ("clean", "smudge", "process")))
    scene.config(("filter.evil.required", "true"))
    os.utime(scene.user.path / "README.md", (1, 1))


def with_included_filters(scene: Scene) -> None:
    with_filters(scene)
    (scene.git_dir / "config").rename(scene.git_dir / "more")
    (scene.git_dir / "config").write_text("[include]\n\tpath = more\n")


def with_filters_of_the_worktree(scene: Scene) -> None:
    scene.user.commit({".gitattributes": "* filter=evil\n"})
    scene.config(("extensions.worktreeConfig", "true"))
    scene.user.git("config", "--worktree", "filter.evil.clean", scene.evil)
    os.utime(scene.user.path / "README.md", (1, 1))


def with_filters_named_oddly(scene: Scene) -> None:
    scene.user.commit({".gitattributes": "* filter=a=b.c\n"})
    scene.config(("filter.a=b.c.clean", scene.evil))
    os.utime(scene.user.path / "README.md", (1, 1))


def with_monitor(scene: Scene) -> None:
    scene.config(("core.fsmonitor", f"touch {scene.mark}"), ("core.untrackedCache", "true"))


def with_differs(scene: Scene) -> None:
    scene.user.commit({".gitattributes": "* diff=evil\n"})
    scene.config(
        ("diff.external", f"touch {scene.mark}"),
        ("diff.evil.command", f"touch {scene.mark}"),
        ("diff.evil.textconv", scene.evil),
    )


def with_merge_drivers(scene: Scene) -> None:
    scene.user.commit({".gitattributes": "* merge=evil\n"})
    scene.config(("merge.evil.driver", f"touch {scene.mark}"), ("merge.default", "evil"))


def with_programs(scene: Scene) -> None:
    """For transport, passwords, pages, signatures; and aliases of what we call."""
    names = (
        "core.sshCommand", "core.askPass", "core.gitProxy", "core.pager", "core.editor", "credential.helper", "gpg.program",
        "gpg.ssh.program", "sequence.editor", "interactive.diffFilter", "uploadpack.packObjectsHook", "init.templateDir",
        "alias.status", "alias.push", "alias.upload-pack", "remote.origin.uploadpack", "remote.origin.receivepack",
    )  # fmt: skip
    scene.config(
        *((name, f"!touch {scene.mark}") for name in names), ("commit.gpgSign", "true"), ("log.showSignature", "true")
    )
    scene.config(("remote.origin.url", f"ext::sh -c 'touch {scene.mark}'"), ("remote.origin.vcs", "ext"))


def with_rewritten_addresses(scene: Scene) -> None:
    scene.config((f"url.ext::sh -c 'touch {scene.mark}' .insteadOf", "/"), ("protocol.ext.allow", "always"))


def with_refs_of_alternates(scene: Scene) -> None:
    scene.config(("core.alternateRefsCommand", f"touch {scene.mark}; true"))
    (scene.git_dir / "objects/info/alternates").write_text(f"{scene.other.path}/.git/objects\n")


def with_a_promise(scene: Scene) -> None:
    """What is missing here is to be fetched by a program of the repository's choice."""
    scene.config(
        ("remote.p.promisor", "true"), ("remote.p.url", str(scene.other.path)), ("extensions.partialClone", "p"),
        ("remote.p.uploadpack", f"touch {scene.mark}; git-upload-pack"),
    )  # fmt: skip
    scene.user.commit({"swell.toml": "# missing\n"})
    blob = scene.user.git("rev-parse", "HEAD:swell.toml")
    (scene.git_dir / "objects" / blob[:2] / blob[2:]).unlink()


def with_replaced_commits(scene: Scene) -> None:
    base = scene.user.git("rev-parse", "HEAD")
    wrong = scene.user.commit({"smuggled": "x"})
    scene.user.git("reset", "--quiet", "--hard", base)
    scene.user.git("replace", base, wrong)


def with_grafts(scene: Scene) -> None:
    base = scene.user.git("rev-parse", "HEAD")
    wrong = scene.user.commit({"smuggled": "x"})
    scene.user.git("reset", "--quiet", "--hard", base)
    (scene.git_dir / "info/grafts").write_text(f"{base} {wrong}\n")


def with_a_lying_graph(scene: Scene) -> None:
    """It says that the base commit has another tree."""
    scene.user.commit({"smuggled": "x"})
    scene.user.git("rm", "--quiet", "smuggled")
    scene.user.commit({"honest": "x"})
    scene.user.git("commit-graph", "write", "--reachable")
    path = scene.git_dir / "objects/info/commit-graph"
    true, false = (bytes.fromhex(scene.user.git("rev-parse", f"{name}^{{tree}}")) for name in ("HEAD", "HEAD~"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(true, false))


def with_linked_objects(scene: Scene) -> None:
    """A copy by hard links would follow them."""
    (scene.git_dir / "objects/stolen").symlink_to(scene.other.path)
    (scene.git_dir / "objects/pack/stolen").symlink_to(scene.other.path / "README.md")


def with_submodules(scene: Scene) -> None:
    for number, (name, path) in enumerate((("../../hooks", "sub"), ("x", "../out"), ("-u", "-u"))):
        scene.user.git("config", "--file", ".gitmodules", f"submodule.{name}.path", path)
        scene.user.git("config", "--file", ".gitmodules", f"submodule.{name}.url", f"ext::sh -c 'touch {scene.mark}'")
        scene.user.git("config", "--file", ".gitmodules", f"submodule.{name}.update", f"!touch {scene.mark}")
        scene.user.git(
            "update-index",
            "--add",
            "--cacheinfo",
            f"160000,{number:040x}".replace("0,", "1,"),
            f"sub{number}",
            ok=(0, 128, 129),
        )
    scene.user.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    scene.user.git("add", ".gitmodules")
    scene.user.git("commit", "--quiet", "--message", "submodules")
    scene.config(
        ("submodule.recurse", "true"),
        ("fetch.recurseSubmodules", "true"),
        ("submodule.x.update", f"!touch {scene.mark}"),
    )


def with_links_out(scene: Scene) -> None:
    """A folder that was a link leading out: what is checked out next must not be written through it."""
    (scene.user.path / "out").symlink_to(scene.other.path)
    (scene.user.path / "deep").symlink_to("../../../../../../../../../../etc")
    scene.user.commit()


def crafted(scene: Scene, entries: dict[str, str]) -> None:
    """A commit whose tree no git would make: mode and content by name."""
    lines = b""
    for name, mode in entries.items():
        blob = scene.user.git("hash-object", "-w", "--stdin", stdin=f"#!/bin/sh\ntouch {scene.mark}\n".encode())
        inner = b"100755 pre-commit\0" + bytes.fromhex(blob)
        tree = scene.user.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=inner)
        lines += f"{mode} ".encode() + os.fsencode(name) + b"\0" + bytes.fromhex(tree if mode == "40000" else blob)
    top = scene.user.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=lines)
    scene.user.git("update-ref", "HEAD", scene.user.git("commit-tree", "-m", "crafted", "-p", "HEAD", top))


def with_git_folder_in_tree(scene: Scene) -> None:
    crafted(scene, {".git": "40000", "README.md": "100644"})


def with_git_twins_in_tree(scene: Scene) -> None:
    crafted(scene, {".GIT": "40000", "git~1": "40000"})


def with_parents_in_tree(scene: Scene) -> None:
    crafted(scene, {"..": "40000", "../../escaped": "100755"})


def with_slashes_in_names(scene: Scene) -> None:
    crafted(scene, {f"{scene.mark}": "100755", "a/../../b": "100644"})


def with_double_names(scene: Scene) -> None:
    """A link and a folder of one name: what is in the folder would be written where the link leads."""
    blob = scene.user.git("hash-object", "-w", "--stdin", stdin=os.fsencode(scene.other.path))
    file = scene.user.git("hash-object", "-w", "--stdin", stdin=b"overwritten")
    inner = b"100644 README.md\0" + bytes.fromhex(file)
    tree = scene.user.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=inner)
    lines = b"120000 a\0" + bytes.fromhex(blob) + b"40000 a\0" + bytes.fromhex(tree)
    top = scene.user.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=lines)
    scene.user.git("update-ref", "HEAD", scene.user.git("commit-tree", "-m", "crafted", "-p", "HEAD", top))


def with_attributes(scene: Scene) -> None:
    scene.user.commit(
        {
            ".gitattributes": "*.txt text eol=crlf\n*.id ident\n*.sub export-subst export-ignore\n*.u text working-tree-encoding=UTF-16\n",
            "a.txt": "one\ntwo\n", "a.id": "$Id$\n", "a.sub": "$Format:%H$\n", "a.u": "\ufeffx\n".encode("utf-16"),
            "sub/.gitattributes": "[attr]evil filter=evil merge=union\n* evil\n",
        }
    )  # fmt: skip


def with_twins(scene: Scene) -> None:
    names = (
        "Case",
        "case",
        "CASE",
        "caf\u00e9",
        "cafe\u0301",
        ".gitIgnore",
        ".g\u200ditmodules",
        "\u2025",
        "con",
        "a:b",
        "x\\..\\y",
        "end.",
        "end ",
    )
    scene.user.commit(dict.fromkeys(names, "x"))


def with_odd_names(scene: Scene) -> None:
    deep = "/".join(["d" * 200] * 15)
    names = (
        "-rf",
        "--exec=touch",
        ":(top)x",
        ":!a",
        "n" * 255,
        f"{deep}/x",
        "\t",
        "new\nline",
        "'$(touch ran)'",
        "*",
        "[a]",
        "\x7f",
        "@{-1}",
    )
    scene.user.commit({**dict.fromkeys(names, "x"), os.fsdecode(b"\xff\xfe"): "x"})


def with_odd_refs(scene: Scene) -> None:
    for name in (
        "refs/heads/HEAD",
        "refs/heads/-x",
        "refs/swell/base/r1",
        "refs/swell/attempts/r1/ws-a/1",
        "refs/remotes/origin/main",
    ):
        scene.user.git("update-ref", name, "HEAD")
    scene.user.git("symbolic-ref", "refs/heads/swell/other", "refs/heads/main")
    scene.user.git("tag", "-a", "-m", "x", "main")
    (scene.git_dir / "FETCH_HEAD").write_text("x\n")


def with_a_branch_in_the_way(scene: Scene) -> None:
    scene.user.git("update-ref", "refs/heads/swell/r1", "HEAD")


def with_a_symbolic_branch_in_the_way(scene: Scene) -> None:
    """What is pushed to it would move `main`, were it not refused or put in its place."""
    scene.user.git("branch", "victim")
    scene.user.git("symbolic-ref", "refs/heads/swell/r1", "refs/heads/victim")


def with_another_worktree(scene: Scene) -> None:
    scene.config(("core.worktree", str(scene.other.path)), ("receive.denyCurrentBranch", "updateInstead"))


def with_hidden_files(scene: Scene) -> None:
    """What the person's index and sparse checkout hide is there for tools."""
    scene.user.git("update-index", "--assume-unchanged", "README.md")
    scene.user.git("update-index", "--skip-worktree", "src/a.py")
    (scene.user.path / "src/a.py").unlink()
    (scene.git_dir / "info").mkdir(exist_ok=True)
    (scene.git_dir / "info/exclude").write_text("*\n")
    (scene.git_dir / "info/sparse-checkout").write_text("/bin\n")
    scene.config(("core.sparseCheckout", "true"))


FAILS: dict[Callable[[Scene], None], str] = {
    with_a_promise: "GIT_FAILED",
    with_git_folder_in_tree: "UNUSABLE",
    with_git_twins_in_tree: "UNUSABLE",
    with_parents_in_tree: "UNUSABLE",
    with_slashes_in_names: "UNUSABLE",
    with_another_worktree: "NOT_A_REPOSITORY",
    with_a_branch_in_the_way: "DELIVERY_REFUSED",
    with_a_symbolic_branch_in_the_way: "DELIVERY_REFUSED",
}
"""Those that cannot be worked with, and why; all the others are as good as any repository."""

REPOSITORIES = (
    with_hooks, with_hooks_elsewhere, with_filters, with_included_filters, with_filters_of_the_worktree,
    with_filters_named_oddly, with_monitor, with_differs, with_merge_drivers, with_programs, with_rewritten_addresses,
    with_refs_of_alternates, with_a_promise, with_replaced_commits, with_grafts, with_a_lying_graph, with_linked_objects,
    with_submodules, with_links_out, with_git_folder_in_tree, with_git_twins_in_tree, with_parents_in_tree,
    with_slashes_in_names, with_double_names, with_attributes, with_twins, with_odd_names, with_odd_refs,
    with_a_branch_in_the_way, with_a_symbolic_branch_in_the_way, with_another_worktree, with_hidden_files,
)  # fmt: skip


def beheld(top: Path) -> dict[str, dict[str, str]]:
    """All that is there: both projects, and whatever else was made."""
    return {path.name: witness(path) for path in top.iterdir()}


@pytest.mark.parametrize("make", REPOSITORIES)
async def test_no_repository_gets_out(scene: Scene, tmp_path: Path, make: Callable[[Scene], None]):
    make(scene)
    scene.mark.unlink(missing_ok=True)  # git has run something while the repository was made
    before = beheld(tmp_path)
    lived = await life(scene, tmp_path / "state")
    assert lived.ended == FAILS.get(make, "")
    assert not scene.mark.exists(), "something was run"
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    assert beheld(tmp_path) == before
    if not lived.ended and make is not with_double_names:
        assert lived.delivered
        assert lived.changed == ("README.md",)
        assert "smuggled" not in lived.files
        assert FILES.keys() <= lived.files


# Leavings

Deed = Callable[[Scene, Workspace], None]


def admin_of(workspace: Workspace) -> Path:
    """What git keeps beside the worktree."""
    return Path((workspace.path / ".git").read_text().removeprefix("gitdir: ").strip())


def replaced(path: Path, target: Path) -> None:
    """A link in the place of whatever was there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def own_git(workspace: Workspace, *arguments: str) -> None:
    """A tool's use of git in its worktree."""
    subprocess.run(("git", *arguments), cwd=workspace.path, env=ENVIRONMENT, check=True, capture_output=True)


def redirects_git(scene: Scene, workspace: Workspace) -> None:
    (workspace.path / ".git").write_text(f"gitdir: {scene.other.path}/.git\n")


def links_git(scene: Scene, workspace: Workspace) -> None:
    replaced(workspace.path / ".git", scene.other.path / ".git")


def moves_git_in(scene: Scene, workspace: Workspace) -> None:
    """A whole repository in place of `.git`, with hooks, a monitor and filters."""
    (workspace.path / ".git").unlink()
    own_git(workspace, "init", "--quiet")
    scene.hooks(workspace.path / ".git/hooks")
    for name in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge"):
        own_git(workspace, "config", name, scene.evil)
    (workspace.path / ".gitattributes").write_text("* filter=evil\n")


def configures_the_mirror(scene: Scene, workspace: Workspace) -> None:
    for name in ("filter.evil.clean", "filter.evil.smudge", "core.fsmonitor", "merge.evil.driver", "diff.external"):
        own_git(workspace, "config", name, scene.evil)
    own_git(workspace, "config", "core.hooksPath", str(workspace.path))
    (workspace.mirror.folder / "info").mkdir(exist_ok=True)
    (workspace.mirror.folder / "info/attributes").write_text("* filter=evil merge=evil diff=evil\n")


def leads_the_mirror_elsewhere(scene: Scene, workspace: Workspace) -> None:
    """A `commondir` makes git read configuration and refs from another place."""
    place = workspace.path.parent / "common"
    for name in ("refs", "objects"):
        (place / name).mkdir(parents=True)
    (place / "config").write_text(f'[core]\n\trepositoryformatversion = 0\n[filter "evil"]\n\tclean = "{scene.evil}"\n')
    (workspace.path / ".gitattributes").write_text("* filter=evil\n")
    (workspace.mirror.folder / "commondir").write_text(f"{place}\n")


def configures_the_worktree(scene: Scene, workspace: Workspace) -> None:
    own_git(workspace, "config", "extensions.worktreeConfig", "true")
    own_git(workspace, "config", "--worktree", "filter.evil.clean", scene.evil)
    (workspace.mirror.folder / "config.worktree").write_text(f'[filter "evil"]\n\tclean = "{scene.evil}"\n')
    (workspace.path / ".gitattributes").write_text("* filter=evil\n")


def plants_hooks(scene: Scene, workspace: Workspace) -> None:
    for folder in (workspace.mirror.folder, admin_of(workspace), workspace.path):
        scene.hooks(folder / "hooks")
    shutil.rmtree(workspace.path / "hooks")


def borrows_objects(scene: Scene, workspace: Workspace) -> None:
    (workspace.mirror.folder / "objects/info/alternates").write_text(f"{scene.other.path}/.git/objects\n")


def links_info(scene: Scene, workspace: Workspace) -> None:
    """Our cleaning up of `info/exclude` would remove the person's."""
    replaced(workspace.mirror.folder / "info", scene.other.path / ".git/info")


def blocks_info(scene: Scene, workspace: Workspace) -> None:
    (workspace.mirror.folder / "info/exclude").mkdir(parents=True)
    (workspace.mirror.folder / "info/exclude/x").write_text("x")


def links_refs(scene: Scene, workspace: Workspace) -> None:
    replaced(workspace.mirror.folder / "refs", scene.other.path / ".git/refs")


def links_our_refs(scene: Scene, workspace: Workspace) -> None:
    """The ref of the attempt would become a branch there."""
    replaced(workspace.mirror.folder / "refs/swell", scene.other.path / ".git/refs/heads")


def links_refs_of_the_attempt(scene: Scene, workspace: Workspace) -> None:
    (workspace.mirror.folder / "refs/swell/attempts").mkdir(parents=True, exist_ok=True)
    replaced(workspace.mirror.folder / "refs/swell/attempts/r1", scene.other.path / ".git/refs/heads")


def links_objects(scene: Scene, workspace: Workspace) -> None:
    """All that are not there yet, so that what we write would lie there."""
    for number in range(256):
        folder = workspace.mirror.folder / "objects" / f"{number:02x}"
        if not folder.exists():
            folder.symlink_to(scene.other.path / ".git/hooks")


def links_its_admin(scene: Scene, workspace: Workspace) -> None:
    """Putting back what git keeps beside the worktree would empty the person's `.git`."""
    replaced(admin_of(workspace), scene.other.path / ".git")


def links_all_admins(scene: Scene, workspace: Workspace) -> None:
    name = admin_of(workspace).name
    place = scene.other.path.parent / "links"
    place.mkdir()
    (place / name).symlink_to(scene.other.path / ".git")
    replaced(workspace.mirror.folder / "worktrees", place)


def adds_an_admin(scene: Scene, workspace: Workspace) -> None:
    """`git worktree prune` would empty what it leads to."""
    (workspace.mirror.folder / "worktrees/more").symlink_to(scene.other.path)


def links_our_index(scene: Scene, workspace: Workspace) -> None:
    replaced(workspace.index, scene.other.path / ".git/index")


def takes_the_head(scene: Scene, workspace: Workspace) -> None:
    replaced(workspace.mirror.folder / "HEAD", scene.other.path / ".git/HEAD")


def hides_from_the_index(scene: Scene, workspace: Workspace) -> None:
    own_git(workspace, "update-index", "--assume-unchanged", "README.md")
    own_git(workspace, "update-index", "--skip-worktree", "src/a.py")
    (workspace.path / "added").write_text("x")
    own_git(workspace, "add", "--intent-to-add", "added")
    own_git(workspace, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},gone")
    own_git(workspace, "config", "core.sparseCheckout", "true")
    (admin_of(workspace) / "info").mkdir(exist_ok=True)
    (admin_of(workspace) / "info/sparse-checkout").write_text("/bin\n")


def stages_a_gitlink(scene: Scene, workspace: Workspace) -> None:
    own_git(workspace, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    (workspace.path / ".gitmodules").write_text(
        f'[submodule "x"]\n\tpath = sub\n\turl = ext::touch {scene.mark}\n\tupdate = !touch {scene.mark}\n'
    )


def nests_a_repository(scene: Scene, workspace: Workspace) -> None:
    place = workspace.path / "nested"
    shutil.copytree(scene.other.path, place, symlinks=True)
    scene.hooks(place / ".git/hooks")
    with (place / ".git/config").open("a") as config:
        config.write(f"[core]\n\tfsmonitor = touch {scene.mark}\n\tworktree = {scene.other.path}\n")


def links_a_folder(scene: Scene, workspace: Workspace) -> None:
    """To a folder with files of the same names."""
    replaced(workspace.path / "src", scene.other.path / "src")


def links_its_folder(scene: Scene, workspace: Workspace) -> None:
    replaced(workspace.path, scene.other.path)


def links_out(scene: Scene, workspace: Workspace) -> None:
    (workspace.path / "out").symlink_to(scene.other.path / "README.md")
    (workspace.path / "into").symlink_to(".git/config")


def moves_refs(scene: Scene, workspace: Workspace) -> None:
    own_git(workspace, "checkout", "--quiet", "-b", "swell/r1")
    own_git(workspace, "commit", "--quiet", "--all", "--message", "mine")
    own_git(workspace, "tag", "v1")
    own_git(workspace, "update-ref", "refs/replace/" + workspace.commit, "HEAD")
    own_git(workspace, "update-ref", "refs/swell/attempts/r1/ws-a/1", "HEAD")
    own_git(workspace, "update-ref", "refs/swell/base/r1", "HEAD")
    (workspace.mirror.folder / "shallow").write_text(f"{workspace.commit}\n")
    (workspace.mirror.folder / "info").mkdir(exist_ok=True)
    (workspace.mirror.folder / "info/grafts").write_text(f"{workspace.commit}\n")


def pushes(scene: Scene, workspace: Workspace) -> None:
    """A remote that it adds is nobody's when we deliver."""
    own_git(workspace, "remote", "add", "origin", str(scene.other.path))
    own_git(workspace, "config", "remote.origin.mirror", "true")
    own_git(workspace, "config", f"url.{scene.other.path}.insteadOf", str(scene.user.path))


def changes_line_ends(scene: Scene, workspace: Workspace) -> None:
    (workspace.path / ".gitattributes").write_text("*.new text eol=crlf ident\n")
    (workspace.path / "added.new").write_bytes(b"$Id: x$\r\nmixed\n")


LEAVINGS: dict[Deed, set[str]] = {
    redirects_git: set(), links_git: set(), moves_git_in: {".gitattributes"}, configures_the_mirror: set(),
    leads_the_mirror_elsewhere: {".gitattributes"}, configures_the_worktree: {".gitattributes"}, plants_hooks: set(),
    borrows_objects: set(), links_info: set(), blocks_info: set(), links_refs: set(), links_our_refs: set(),
    links_refs_of_the_attempt: set(), links_objects: set(), links_its_admin: set(), links_all_admins: set(),
    adds_an_admin: set(), links_our_index: set(), takes_the_head: set(), hides_from_the_index: {"added"},
    stages_a_gitlink: {".gitmodules"}, nests_a_repository: set(), links_a_folder: {"src", "src/a.py", "src/b.py"},
    links_its_folder: set(), links_out: {"into", "out"}, moves_refs: set(), pushes: set(),
    changes_line_ends: {".gitattributes", "added.new"},
}  # fmt: skip
"""What is part of the change besides the tool's own work."""

HAZARDOUS = frozenset({stages_a_gitlink, links_a_folder, links_out})


async def attempt(scene: Scene, mirror: Mirror, pool: WorkspacePool, base: str, number: int, deed: Deed) -> str:
    """One attempt by a tool that leaves such a thing; what is wrong with what came of it, "" for nothing."""
    async with pool.at(base) as workspace:
        if scene.user.git("ls-files").count("\n") + 1 != sum(len(entry) > 1 for entry in workspace.scan().values()):
            return "what was left before is still there"
        (workspace.path / "README.md").write_text(f"changed by tool {number}\n")
        deed(scene, workspace)
        try:
            taken = await take(workspace, parent=base, message="edit\n", time_ns=0)
        except SnapshotError as error:
            return "" if deed is links_its_folder and error.code == "UNREADABLE" else str(error)
    found = await changes(mirror.git, base, taken.commit)
    if {change.path for change in found} != LEAVINGS[deed] | {"README.md"}:
        return f"the change is {[change.path for change in found]}"
    if bool(await hazards(mirror.git, found, taken.tree)) != (deed in HAZARDOUS):
        return "hazards"
    await mirror.keep(attempt_ref("r1", "ws-a", number), taken.commit)
    return ""


async def test_no_leavings_get_out(scene: Scene, tmp_path: Path):
    """One executor, to which one tool after another does its worst."""
    base = scene.user.git("rev-parse", "HEAD")
    mirror = Mirror(tmp_path / "mirrors", str(scene.user.path))
    await mirror.ensure(base, run="r1")
    pool = WorkspacePool(mirror, tmp_path / "pool", 1)
    before = witness(scene.user.path), witness(scene.other.path)
    wrong = {}
    for number, deed in enumerate(LEAVINGS):
        said = await attempt(scene, mirror, pool, base, number, deed)
        if scene.mark.exists():
            said = "something was run"
        elif (witness(scene.user.path), witness(scene.other.path)) != before:
            said = "it got out"
        if said:
            wrong[deed.__name__] = said
    assert wrong == {}
    async with pool.at(base) as workspace:
        (workspace.path / "README.md").write_text("the last change\n")
        pushes(scene, workspace)
        taken = await take(workspace, parent=base, message="edit\n", time_ns=0)
    await mirror.export_bundle(base, taken.commit, attempt_ref("r1", "ws-a", 100), tmp_path / "bundle")
    await mirror.deliver(taken.commit, ref=delivery_ref("r1"), expected_old=None)
    await WorkspacePool(mirror, tmp_path / "pool", 1).reap_leftovers()
    assert scene.user.git("rev-parse", delivery_ref("r1")) == taken.commit
    assert (witness(scene.user.path), witness(scene.other.path)) == before


# Places


LOCATIONS = (
    "ext::sh -c 'touch ran'", "--upload-pack=touch ran", "-oProxyCommand=touch", "fd::17", "ssh://-oProxyCommand=touch/x",
    "relative/path", "file://", "http://", "git://host/x", "/tmp/a\nb",
)  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_no_location_runs_anything(location: str):
    with pytest.raises(MirrorError):
        check_location(location)


def test_how_many_there_are(tell: Callable[[str], None]):
    """None of them gets out, or a test above fails."""
    number = len(REPOSITORIES) + len(LEAVINGS) + len(LOCATIONS)
    assert number >= 25
    tell(
        f"{len(REPOSITORIES)} hostile repositories, {len(LEAVINGS)} kinds of leavings, {len(LOCATIONS)} locations: "
        f"{number} cases, 0 escapes unless one of them failed"
    )
