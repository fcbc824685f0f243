"""Working folders for tools: git worktrees of the mirror, used again and again, each time from a clean commit.

    <root>/<n>          the worktree: what a tool sees
    <root>/<n>.index    our own index of it, which no tool knows; the tool's one is a copy

Invariants:

* A workspace is handed out with exactly the content of its commit: nothing more (ignored files, empty folders,
  nested repositories), nothing less, in the modes git would give; and with a fresh `HEAD` and index for the tool's
  own git commands. Whatever the last tool did to it, its `.git` included, is undone; when that fails, the folder is
  thrown away and made anew.
* Nothing in the tool's reach is believed: what changed is found by comparing the status of every file (mode, inode,
  size, both times) with a manifest taken when the workspace was made. An equal scan proves that nothing changed, so
  neither using the workspace again nor a snapshot needs git. Two writes can share one tick of the file system's
  clock; so a manifest counts only once that clock has moved past its youngest entry (`settled`).
* A scan is spared only where one has shown that nothing changed, nothing was started in the workspace since, and no tool
  without a sandbox has run anywhere since: one of those could have written here (`strays`).
* Worktrees are locked while this process lives, and collected (`reap_leftovers`) when a next one starts.
* One pool owns `root`; nobody else puts anything there.

Worktrees share the mirror's refs and stash: a branch that a tool makes is removed once no workspace of the pool is
in use.
"""

import asyncio
import contextlib
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

from services import process
from services.executor.mirror import Mirror
from services.git import Git, GitError

SCAN_AT_ONCE_MAX: Final = 1_000
"""Entries that are scanned on the event loop: about 3 ms."""

ENTRIES_MAX: Final = 2_000_000
"""Files and folders in one workspace; about 1 GB of manifest."""

SETTLE_S: Final = 0.1
"""How long to wait for the file system's clock; coarser clocks make the manifest uncertain instead."""

FOLDER_MODE: Final = 0o755
MOVED_PART: Final = 4
"""Where more than this part of the files differs, looking at all of them is quicker."""

LISTING_BYTES: Final = 64 * 1024 * 1024
REMOVE_TIMEOUT_S: Final = 300.0

Entry: TypeAlias = tuple[int, ...]
"""(mode, inode, size, mtime_ns, ctime_ns) of a file; (mode,) of a folder."""

Manifest: TypeAlias = dict[str, Entry]
"""Every path below a workspace, `.git` of its top excluded; folders included, its top as `.`."""

WorkspaceCode = Literal["COMMIT_MISSING", "TOO_MANY_FILES", "UNUSABLE"]

_CLOCK_REALTIME_COARSE: Final = 5  # <time.h>; the clock that stamps files


class WorkspaceError(Exception):
    """A workspace cannot be made or read. `code` is stable, `remedy` says what to do next."""

    def __init__(self, code: WorkspaceCode, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}. {self.remedy}"


class Workspace:
    """One worktree. `path` is where a tool works, `commit` and `tree` what it started from."""

    def __init__(
        self, mirror: Mirror, path: Path, admin: Path, strays: Callable[[], int | None] = lambda: None
    ) -> None:
        """For `strays` see WorkspacePool."""
        self.mirror = mirror
        self.path = path
        self.commit = ""
        self.tree = ""
        self.index = path.with_name(f"{path.name}.index")
        self._admin = admin
        self._manifest: Manifest | None = None
        self._settled = False
        self._strays = strays
        self._proof: int | None = None

    def git(self, index: Path | None = None) -> Git:
        """Git on this worktree with an index of ours, by default the one of `commit`; the tool's is not touched."""
        return Git(self.path, git_dir=self.mirror.folder, work_tree=self.path, index=index or self.index)

    def scan(self) -> Manifest:
        """What is there now."""
        return scan(self.path)

    def changed(self, now: Manifest | None = None) -> bool:
        """Whether anything may have changed since the workspace was handed out; False is certain.

        A mere touch counts, and so do ignored files; only a snapshot's tree tells what matters to git.
        """
        differs = not self._settled or (self.scan() if now is None else now) != self._manifest
        self._proof = None if differs else self._strays()
        return differs

    def started(self) -> None:
        """Something was started that may write here."""
        self._proof = None

    def differences(self, now: Manifest | None = None) -> list[str]:
        """Paths that appeared, went, or were touched since the workspace was handed out, in order."""
        then = self._manifest or {}
        found = self.scan() if now is None else now
        return sorted(path for path in then.keys() | found.keys() if then.get(path) != found.get(path))

    async def materialise(self, commit: str) -> None:
        """Makes the content that of `commit`, which the mirror must have."""
        known = self._manifest if self._settled and not self.index.is_symlink() else None
        proven = known is not None and self._proof is not None and self._proof == self._strays()
        now = known if known is not None and proven else await self._scanned(known)
        if now == known and commit == self.commit:
            self._proof = self._strays()
            self._restore_admin()
            return
        self._manifest = self._proof = None
        if now != known:
            await self._restored(known or {}, now)
        self._mend_link()
        if known is None:
            self.index.unlink(missing_ok=True)
        tree, _ = await asyncio.gather(
            self.mirror.tree(commit),
            self.git()("-c", "advice.detachedHead=false", "read-tree", "--reset", "-u", commit),
        )
        manifest = await self._moved(now, self.tree, tree) if now == known else await self._scanned(now)
        self._settled = await settled(manifest)
        self.commit, self.tree, self._manifest = commit, tree, manifest
        self._proof = self._strays() if self._settled else None
        self._restore_admin()

    async def _moved(self, then: Manifest, before: str, after: str) -> Manifest:
        """The manifest once git has brought these files from one tree to another: it touches what differs, and nothing else."""
        listed = await self.mirror.git(
            "diff-tree", "-r", "-z", "--name-only", "--no-renames", before, after, output_bytes=LISTING_BYTES
        )
        paths = [os.fsdecode(path) for path in listed.split(b"\0") if path]
        if len(paths) * MOVED_PART > len(then):
            return await self._scanned(then)
        return moved(self.path, then, paths)

    async def _restored(self, known: Manifest, now: Manifest) -> None:
        restoring = asyncio.ensure_future(asyncio.to_thread(restore, self.path, known, now))
        try:
            await asyncio.shield(restoring)
        except asyncio.CancelledError:
            # A thread cannot be cancelled; until it is done, nobody else may have the folder.
            await asyncio.wait([restoring])
            raise

    async def _scanned(self, like: Manifest | None) -> Manifest:
        """A scan; one that takes a few milliseconds is cheaper here than the way to a thread and back."""
        if like is not None and len(like) <= SCAN_AT_ONCE_MAX:
            return self.scan()
        return await asyncio.to_thread(self.scan)

    def is_at(self, commit: str) -> bool:
        """Whether this workspace was last handed out at `commit`."""
        return self._manifest is not None and self.commit == commit

    def detach(self) -> None:
        """Takes the worktree off whatever branch a tool left it on."""
        with contextlib.suppress(OSError):
            self._unlink_admin()
            _keep(self._admin / "HEAD", self._head)

    @property
    def _head(self) -> bytes:
        return f"{self.commit}\n".encode()

    def remove_admin(self) -> None:
        """Makes the mirror forget this worktree."""
        self._unlink_admin()
        shutil.rmtree(self._admin, ignore_errors=True)

    def _unlink_admin(self) -> None:
        """A link that a tool put in place of what git keeps here leads to somebody else's."""
        for path in (self._admin.parent, self._admin):
            if path.is_symlink():
                path.unlink()

    def _mend_link(self) -> None:
        _keep(self.path / ".git", f"gitdir: {self._admin}\n".encode())

    def _restore_admin(self) -> None:
        """What git keeps beside a worktree, as if it had just been made: no branch, no half-done merge, no lock."""
        self._mend_link()
        wanted = {
            "HEAD": self._head,
            "commondir": b"../..\n",
            "gitdir": f"{self.path / '.git'}\n".encode(),
            "locked": _REASON,
        }
        self._unlink_admin()
        self._admin.mkdir(parents=True, exist_ok=True)
        for entry in list(os.scandir(self._admin)):
            if entry.name not in wanted and entry.name != "index":
                remove(Path(entry.path))
        for name, content in wanted.items():
            _keep(self._admin / name, content)
        _keep(self._admin / "index", self.index.read_bytes())
        shutil.copystat(self.index, self._admin / "index")  # its time tells git which files it must look into


_REASON: Final = b"swell: in use by an executor\n"


class WorkspacePool:
    """At most `size` workspaces of `mirror` below `root`, which belongs to this pool alone."""

    def __init__(
        self, mirror: Mirror, root: Path, size: int, *, strays: Callable[[], int | None] = lambda: None
    ) -> None:
        """`strays` counts the tools without a sandbox that were started so far; None while one runs, or may."""
        self._mirror = mirror
        self._strays = strays
        self._root = root.absolute()
        self._free: list[Workspace | None] = [None] * size
        self._places = asyncio.Semaphore(size)
        self._busy = 0
        self._made = 0

    @contextlib.asynccontextmanager
    async def at(self, commit: str) -> AsyncIterator[Workspace]:
        """A workspace with exactly the content of `commit`, for as long as the block runs; waits for a free one.

        One that is already there is preferred, then the one that was used least recently.

        Raises:
            WorkspaceError: COMMIT_MISSING: ensure or import it first. UNUSABLE: the disk does not let us.
            MirrorError: BUSY: another process holds the mirror.
        """
        if not await self._mirror.has(commit):
            raise WorkspaceError(
                "COMMIT_MISSING", f"commit {commit[:12]} is not in the mirror", "Ensure it or import its bundle first."
            )
        async with self._places:
            workspace = self._choose(commit)
            self._busy += 1
            try:
                try:
                    workspace = await self._prepared(workspace, commit)
                except BaseException:
                    # Half made, or half removed: the place gets a new folder.
                    workspace = None
                    raise
                yield workspace
            finally:
                self._busy -= 1
                self._free.append(workspace)
                if workspace is not None:
                    workspace.detach()
                if not self._busy:
                    _sweep_refs(self._mirror.folder)

    async def reap_leftovers(self) -> int:
        """Removes what a former life left below `root` and in the mirror; call before the first `at`. Returns how many."""
        self._root.mkdir(parents=True, exist_ok=True)
        found = [Path(entry.path) for entry in os.scandir(self._root)]
        for path in found:
            await removed(path)
        if not self._mirror.folder.is_dir():
            return len(found)
        async with self._mirror.exclusive():
            self._mirror.guard()
            for admin in _admins(self._mirror.folder):
                if admin.is_symlink():  # git would empty what it leads to
                    admin.unlink()
                elif self._root in _worktree_of(admin).parents:
                    shutil.rmtree(admin, ignore_errors=True)
            await self._mirror.git("worktree", "prune")
        return len(found)

    @property
    def root(self) -> Path:
        """Where the workspaces are."""
        return self._root

    @property
    def free(self) -> list[Path]:
        """The workspaces that stand ready and nobody uses."""
        return [workspace.path for workspace in self._free if workspace is not None]

    async def shrink(self) -> None:
        """Gives up the workspaces that nobody uses; others are made when they are needed."""
        ready = [workspace for workspace in self._free if workspace is not None]
        self._free = [None] * len(self._free)
        for workspace in ready:
            await self._discard(workspace)

    def _choose(self, commit: str) -> Workspace | None:
        """Takes a place out of the free ones; the caller holds a permit, so there is one."""
        for place, workspace in enumerate(self._free):
            if workspace is not None and workspace.is_at(commit):
                return self._free.pop(place)
        return self._free.pop(next((at for at, workspace in enumerate(self._free) if workspace is not None), 0))

    async def _prepared(self, workspace: Workspace | None, commit: str) -> Workspace:
        self._mirror.guard()
        if workspace is not None:
            try:
                await workspace.materialise(commit)
            except (OSError, GitError, WorkspaceError):
                await self._discard(workspace)
            else:
                return workspace
        try:
            made = await self._made_anew(commit)
            await made.materialise(commit)
        except (OSError, GitError) as error:
            raise WorkspaceError(
                "UNUSABLE", f"no workspace can be made below {self._root}: {error}", "Check its disk and permissions."
            ) from error
        return made

    async def _made_anew(self, commit: str) -> Workspace:
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._place()
        async with self._mirror.exclusive():
            await self._mirror.git(
                "worktree", "add", "--quiet", "--detach", "--no-checkout", "--lock", str(path), commit
            )
        admin = Path(_content(path / ".git").removeprefix("gitdir: ").rstrip("\n"))
        return Workspace(self._mirror, path, admin, self._strays)

    def _place(self) -> Path:
        """A folder that is not there: a workspace that could not be removed keeps its name."""
        while True:
            self._made += 1
            path = self._root / f"{self._made}"
            if not os.path.lexists(path):
                return path

    async def _discard(self, workspace: Workspace) -> None:
        workspace.remove_admin()
        workspace.index.unlink(missing_ok=True)
        await removed(workspace.path)


def scan(top: Path) -> Manifest:
    """The status of `top` and everything below, without following links; what forbids reading is opened up first.

    About 3 µs a file. Raises WorkspaceError(TOO_MANY_FILES), and OSError when `top` is not a folder.
    """
    mode = top.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(f"{top} is not a folder any more")
    found: Manifest = {".": (mode,)}
    folders = [""]
    base = str(top)
    while folders:
        prefix = folders.pop()
        for name, status in _statuses(f"{base}/{prefix}"):
            mode = status.st_mode
            path = prefix + name
            if mode & _KIND == _FOLDER:
                if path != ".git":
                    found[path] = (mode,)
                    folders.append(path + "/")
            elif path != ".git":
                found[path] = (mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if len(found) > ENTRIES_MAX:
            raise WorkspaceError(
                "TOO_MANY_FILES", f"{top} holds more than {ENTRIES_MAX} files", "Find out which tool leaves them."
            )
    return found


# The bits of a mode that say what kind it is: compared by hand, a call for each file would take as long as its status.
_KIND: Final = 0o170000
_FOLDER: Final = stat.S_IFDIR


def _statuses(folder: str) -> list[tuple[str, os.stat_result]]:
    """What is in a folder; by its descriptor, so that the system need not find the way to it for every file."""
    try:
        return _listed(folder)
    except PermissionError:
        Path(folder).chmod(0o700)
        return _listed(folder)


def _listed(folder: str) -> list[tuple[str, os.stat_result]]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as entries:
            return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    finally:
        os.close(descriptor)


async def settled(manifest: Manifest) -> bool:
    """Waits until a later write must show in a file's times; False when this file system's clock cannot promise it.

    Whole seconds mean a clock too coarse to wait for; times ahead of ours mean another machine's clock.
    """
    youngest = max((entry[-1] for entry in manifest.values() if len(entry) > 1), default=0)
    if youngest and youngest % 1_000_000_000 == 0:
        return False
    deadline = time.monotonic() + SETTLE_S
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= youngest:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.001)
    return True


def moved(top: Path, then: Manifest, paths: Iterable[str]) -> Manifest:
    """A manifest in which the status of these files, and of the folders above them, is what it is now."""
    touched = set(paths)
    for path in list(touched):
        while (path := path.rpartition("/")[0]) and path not in touched:
            touched.add(path)
    now = dict(then)
    for path in touched:
        now.pop(path, None)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = (top / path).lstat()
            mode = found.st_mode
            times = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            now[path] = (mode,) if stat.S_ISDIR(mode) else (mode, *times)
    return now


def restore(top: Path, known: Manifest, now: Manifest) -> None:
    """Removes whatever in `now` is not as in `known`; what is missing then is git's to write again."""
    gone = ""
    for path in sorted(now, key=_in_tree_order):
        entry = now[path]
        before = known.get(path)
        if entry == before or (gone and path.startswith(gone)):
            continue
        target = top / path
        if path == "." or (before is not None and len(entry) == len(before) == 1):
            target.chmod(stat.S_IMODE(before[0]) if before else FOLDER_MODE)
        else:
            remove(target)
            gone = path + "/"


def remove(path: Path) -> None:
    """Removes a file or a whole folder, read-only or not, without following links; raises OSError."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        path.unlink()
        return
    folders = [str(path)]
    for folder in folders:  # grows while it is read: parents stand before their children
        Path(folder).chmod(0o700)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    Path(entry.path).unlink()
    for folder in reversed(folders):
        Path(folder).rmdir()


async def removed(path: Path) -> None:
    """Removes by all means: paths longer than the system takes in one piece are left to `rm`."""
    try:
        await asyncio.to_thread(remove, path)
    except FileNotFoundError:
        return
    except OSError:
        with contextlib.suppress(process.ProcessError):
            await process.run(
                ("rm", "-rf", "--one-file-system", "--", str(path)),
                cwd=path.parent, timeout_s=REMOVE_TIMEOUT_S, output_bytes=1024 * 1024,
            )  # fmt: skip


def _in_tree_order(path: str) -> str:
    """A folder sorts before what is in it, and nothing comes between."""
    return path.replace("/", "\0")


def _keep(path: Path, content: bytes) -> None:
    """Writes `content` unless it is there; a link or folder in its place is removed, not followed."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            remove(path)
        elif path.read_bytes() == content:
            return
        else:
            path.unlink()
    except FileNotFoundError:
        pass
    path.write_bytes(content)


def _admins(mirror: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError), os.scandir(mirror / "worktrees") as entries:
        yield from [Path(entry.path) for entry in entries]


def _sweep_refs(mirror: Path) -> None:
    """Removes branches, tags and stashes, which are tools' doings, but for those that a worktree stands on."""
    if (mirror / "refs").is_symlink():
        return  # the next guard takes it away
    used = {_content(admin / "HEAD").strip() for admin in _admins(mirror)}
    for folder, folders, names in os.walk(mirror / "refs"):
        if "swell" in folders and folder == str(mirror / "refs"):
            folders.remove("swell")
        for name in names:
            path = Path(folder, name)
            if f"ref: {path.relative_to(mirror)}" not in used:
                path.unlink(missing_ok=True)
    shutil.rmtree(mirror / "logs", ignore_errors=True)  # where stashes are counted


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _worktree_of(admin: Path) -> Path:
    return Path(_content(admin / "gitdir").rstrip("\n") or admin)
