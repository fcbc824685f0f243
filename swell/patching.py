"""Patches carried out on a checkout: checked, applied, reversed, captured. `PatchManager` is their Python API.

What it promises:

* A patch is applied as a whole or not at all; when anything fails, the files are as they were.
* Applying and reversing take bytes as they lie in the checkout: no attribute, filter, line ending or whitespace setting
  changes them, and no program that a repository names is started. So reversing restores the very bytes.
* Neither the index nor any ref nor any object of the repository is touched.
* What a patch would do is not read from its text: it is carried out in a scratch repository first, and git says what
  differs. Paths out of the tree or into a `.git`, links that leave the tree and submodules are refused; modes, links
  and files that steer git or CI are told.
* Uncommitted work is not touched: a file that differs from its commit is refused, unless it is what the patch expects.
* Capturing, and asking what is uncommitted, read the checkout as the person's own git would, filters included.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from services.executor.snapshot import Change, leaves_tree, parse_raw
from services.git import Git, GitError, GitMissingError, readable
from swell.errors import SwellError, invalid
from swell.gitpatch import FilePatch, PatchFormatError, parse_patch

__all__ = ["Applied", "ApplyResult", "ParsedPatch", "PatchArtifact", "PatchManager", "carry_out", "read_patch"]

PATCH_BYTES_MAX: Final = 256 * 1024 * 1024
PATH_BYTES_MAX: Final = 4095
LISTING_BYTES: Final = 512 * 1024 * 1024
CONFLICTS_TOLD_MAX: Final = 20

PathLike = str | Path

_STEPS: Final = frozenset({"edit", "fix", "fix_static", "fix_runtime"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_CONVERTED: Final = "* -text !eol -filter -ident -working-tree-encoding\n"
"""Laid over every .gitattributes: the bytes of a file are its content."""
_WHITESPACE: Final = "--whitespace=nowarn"
_FULL_ID: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# What some file system does not see in a name.
_UNSEEN: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_STEERS_GIT: Final = frozenset({".gitattributes", ".gitmodules", ".gitignore", ".mailmap"})
_CI_FOLDERS: Final = (".github/", ".circleci/", ".buildkite/", ".gitlab/", ".woodpecker/", ".teamcity/", ".forgejo/")
_CI_FILES: Final = frozenset(
    {
        ".gitlab-ci.yml", ".travis.yml", ".drone.yml", ".woodpecker.yml", "azure-pipelines.yml", "bitbucket-pipelines.yml",
        "Jenkinsfile", ".pre-commit-config.yaml",
    }
)  # fmt: skip


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a patch changes: lines such as `M src/a.py`, in the order of paths, and what a person should know of it."""

    files: list[str]
    notes: list[str]


class ParsedPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What a patch says. `files_modified` are the names afterwards, of deleted files those they had."""

    files_modified: list[str]
    hunks: int
    additions: int
    deletions: int


class PatchArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """A captured patch. `diff_hash` is the SHA-256 of its bytes, `line_count` how many lines it adds and takes away."""

    patch_id: str
    patch_file: Path
    diff_hash: str
    files_modified: list[str]
    line_count: int
    created_at: str
    run_id: str
    ws_id: str
    step_name: str
    attempt: int
    validated: bool = False
    applied: bool = False


class ApplyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of applying or reversing. `conflicts` name the file each; on failure nothing has changed."""

    success: bool
    patch_file: Path
    files: list[str] = []
    conflicts: list[str] = []
    notes: list[str] = []
    error_message: str = ""


class PatchConflictError(SwellError):
    """The patch does not fit. `conflicts` name the file each; `remedy` is what else to do than to start elsewhere."""

    def __init__(self, conflicts: list[str], where: str, remedy: str = "") -> None:
        shown = "; ".join(conflicts[:CONFLICTS_TOLD_MAX])
        more = f"; and {len(conflicts) - CONFLICTS_TOLD_MAX} more" if len(conflicts) > CONFLICTS_TOLD_MAX else ""
        super().__init__(
            "FAILED_PRECONDITION",
            "PATCH_CONFLICT",
            f"the patch does not fit, and nothing was changed: {shown}{more}",
            remedy or "Check out the commit that it was made for, or merge the branch of its run instead.",
            where,
        )
        self.conflicts = conflicts


class _Blob(msgspec.Struct, frozen=True):
    """What lies at a path: its mode and the id of its bytes."""

    mode: str
    id: str


def read_patch(file: PathLike) -> bytes:
    """The bytes of a patch file. Raises SwellError NOT_READABLE, PATCH_TOO_LARGE."""
    path = Path(file)
    try:
        with path.open("rb") as opened:
            content = opened.read(PATCH_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise invalid("NOT_READABLE", f"the patch cannot be read: {said}", "Name a patch file.", str(file)) from error
    if len(content) > PATCH_BYTES_MAX:
        raise invalid(
            "PATCH_TOO_LARGE",
            f"the patch has over {PATCH_BYTES_MAX} bytes",
            "Merge the branch of its run instead.",
            str(file),
        )
    return content


def carry_out(
    patch: bytes,
    repo: Path,
    *,
    reverse: bool = False,
    check_only: bool = False,
    allow_dirty: bool = False,
    where: str = "",
) -> Applied:
    """Apply a patch to the checkout around `repo`, or take it back; `check_only` changes nothing.

    `where` names the patch in errors; `allow_dirty` changes files with uncommitted changes too, if the patch fits.

    Raises:
        SwellError: NOT_A_REPOSITORY, NOT_A_PATCH, HOSTILE_PATCH, DIRTY, APPLY_FAILED, GIT_FAILED.
        PatchConflictError: it does not fit.
    """
    root = _root(repo)
    files = _parsed(patch, where)
    if not files:
        return Applied(files=[], notes=[])
    try:
        with _scratch(files) as scratch:
            work = _Work(root, scratch, patch, files, reverse=reverse, where=where)
            work.refuse_paths()
            if not allow_dirty:
                work.refuse_dirty()
            changes = work.rehearse()
            notes = work.hazards(changes)
            if not check_only:
                work.apply()
    except GitError as error:
        raise _git_failed(error) from error
    return Applied(files=[f"{change.status} {change.path}" for change in changes], notes=notes)


class _Work:
    """One patch on one checkout."""

    def __init__(
        self, root: Path, scratch: Path, patch: bytes, files: list[FilePatch], *, reverse: bool, where: str
    ) -> None:
        self._root = root
        self._patch = patch
        self._files = files
        self._where = where
        self._flags = ("apply", _WHITESPACE, *(("--reverse",) if reverse else ()))
        self._index, self._kept = scratch / "index", scratch / "kept"
        self._git = Git(root, git_dir=scratch, work_tree=root, index=self._index, output_bytes=LISTING_BYTES)
        self._reverse = reverse
        self._paths: list[bytes] = []
        self._before: dict[bytes, _Blob] = {}
        self._changed: set[bytes] = set()

    def refuse_paths(self) -> None:
        """Every path that git reads in the patch must lie in the tree, and be one that we read in it as well."""
        named = set()
        for way in ((), ("--reverse",)):
            try:
                told = self._git.sync("apply", "--numstat", "-z", *way, "-", stdin=self._patch).stdout
            except GitError as error:
                raise self._not_a_patch(_first_error(error)) from error
            named |= {entry.split(b"\t", 2)[2] for entry in told.split(b"\0") if entry}
        read = {path for file in self._files for path in (file.old_path, file.new_path) if path is not None}
        if odd := named ^ read:
            raise self._not_a_patch(f"it is not clear what it does to {readable(min(odd))}")
        self._paths = sorted(named)
        for path in self._paths:
            if reason := _refusal(self._root, path):
                raise self._hostile(readable(path), reason)
        self._before = self._blobs()

    def _blobs(self) -> dict[bytes, _Blob]:
        """What lies at the paths now, read into the scratch repository byte for byte."""
        there = [path for path in self._paths if _is_file(self._root, path)]
        if not there:
            return {}
        self._git.sync("update-index", "--add", "-z", "--stdin", stdin=b"\0".join(there) + b"\0")
        found = {}
        for entry in self._git.sync("ls-files", "--stage", "-z").stdout.split(b"\0"):
            if entry:
                head, _, path = entry.partition(b"\t")
                mode, oid, _ = head.decode().split()
                found[path] = _Blob(mode, oid)
        return found

    def refuse_dirty(self) -> None:
        """Raise SwellError DIRTY for files with changes that are in no commit, and that the patch does not expect."""
        status = Git(self._root, user_config=True).sync(
            "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=all",
            output_bytes=LISTING_BYTES,
        )  # fmt: skip
        self._changed = {line[3:] for line in status.stdout.split(b"\0") if line}
        expected = self._expected()
        dirty = [path for path in self._paths if path in self._changed and not self._fits(path, expected[path])]
        if dirty:
            shown = ", ".join(readable(path) for path in dirty[:CONFLICTS_TOLD_MAX])
            raise SwellError(
                "FAILED_PRECONDITION",
                "DIRTY",
                f"{len(dirty)} of the files it touches have uncommitted changes: {shown}",
                "Commit or stash them, or lay the patch over them with --allow-dirty (allow_dirty=True).",
                str(self._root),
            )

    def _expected(self) -> dict[bytes, tuple[str, bool]]:
        """For each path what the patch expects of it first: an id ("" where it does not say), and whether a file is there."""
        expected: dict[bytes, tuple[str, bool]] = {}
        for file in reversed(self._files) if self._reverse else self._files:
            old = (file.new_path, file.new_id) if self._reverse else (file.old_path, file.old_id)
            new = file.old_path if self._reverse else file.new_path
            if old[0] is not None:
                expected.setdefault(old[0], (old[1], True))
            if new is not None:
                expected.setdefault(new, ("", False))
        return expected

    def _fits(self, path: bytes, expected: tuple[str, bool]) -> bool:
        """Whether just that lies at a path; where the patch leaves the content alone, any content does."""
        oid, there = expected
        found = self._before.get(path)
        if found is None or not there:
            return (found is not None) == there
        return not oid or (bool(_FULL_ID.fullmatch(oid)) and found.id == oid)

    def rehearse(self) -> list[Change]:
        """What git makes of the patch, in the scratch repository. Raises PatchConflictError."""
        self._refuse_modes()
        self._check("--check")
        if not self._index.exists():
            self._git.sync("read-tree", "--empty")
        tree = self._git.sync("write-tree").stdout.decode().strip()
        shutil.copy2(self._index, self._kept)
        self._check("--cached")
        raw = self._git.sync("diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", tree)
        self._refuse_folders()
        return parse_raw(raw.stdout)

    def _refuse_folders(self) -> None:
        """Git looks neither for a folder where a file is to lie, nor for a file where a folder is to be, until it writes."""
        held = set(self._git.sync("ls-files", "-z").stdout.split(b"\0"))
        gone = {path for path in self._before if path not in held}
        conflicts = []
        for path in (path for path in self._paths if path in held):
            if not all(name in gone for name in _below(self._root, path)):
                conflicts.append(f"{readable(path)}: a folder is there")
            for folder in _folders(self._root, [path]):
                name = os.fsencode(folder.relative_to(self._root))
                if os.path.lexists(folder) and not folder.is_dir() and name not in gone:
                    conflicts.append(f"{readable(path)}: {readable(name)} is no folder")
        if conflicts:
            raise PatchConflictError(conflicts, self._where)

    def _check(self, manner: str) -> None:
        done = self._git.sync(*self._flags, manner, "-", stdin=self._patch, ok=(0, 1, 128))
        if done.exit_code:
            remedy = ""
            if converted := self._converted():
                remedy = f"The checkout converts {readable(converted)} (line endings, or a filter): use `git apply`."
            raise PatchConflictError(_conflicts(done.stderr) or ["git gives no reason"], self._where, remedy)

    def _converted(self) -> bytes | None:
        """A file that is unchanged, and that the checkout holds otherwise than its commit does."""
        told = Git(self._root, user_config=True).sync("ls-files", "--stage", "-z", output_bytes=LISTING_BYTES).stdout
        for entry in told.split(b"\0"):
            head, _, path = entry.partition(b"\t")
            if path in self._before and path not in self._changed and self._before[path].id != head.decode().split()[1]:
                return path
        return None

    def _refuse_modes(self) -> None:
        """Git lets a mode pass that is not the one a patch starts from; reversing would then not restore it."""
        conflicts = []
        seen: set[bytes] = set()
        for file in reversed(self._files) if self._reverse else self._files:
            path, mode = (file.new_path, file.new_mode) if self._reverse else (file.old_path, file.old_mode)
            if path is None or path in seen:
                continue
            seen.add(path)
            found = self._before.get(path)
            if found is not None and mode and file.old_mode != file.new_mode and found.mode != mode:
                conflicts.append(f"{readable(path)}: its mode is {found.mode}, the patch expects {mode}")
        if conflicts:
            raise PatchConflictError(conflicts, self._where)

    def hazards(self, changes: list[Change]) -> list[str]:
        """What a person should know of these changes, the path first. Raises SwellError HOSTILE_PATCH."""
        notes = []
        targets = self._targets(changes)
        for change in changes:
            if change.is_gitlink:
                raise self._hostile(change.path, "is a submodule")
            if change.is_symlink:
                target = targets[change.new_id]
                if leaves_tree(change.path, target):
                    raise self._hostile(change.path, "is a symbolic link that leaves the tree")
                notes.append(f"{change.path}: is a symbolic link to {readable(target)}")
            notes += [f"{change.path}: {reason}" for reason in _remarks(change)]
        return notes

    def _targets(self, changes: list[Change]) -> dict[str, bytes]:
        """Where links lead, by the id of their text."""
        links = sorted({change.new_id for change in changes if change.is_symlink})
        told = self._git.sync("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in links).encode()).stdout
        targets, at = {}, 0
        for oid in links:
            end = told.index(b"\n", at)
            length = int(told[at:end].split()[-1])
            targets[oid] = told[end + 1 : end + 1 + length]
            at = end + length + 2
        return targets

    def apply(self) -> None:
        """Change the files, all or none. Raises SwellError APPLY_FAILED."""
        folders = [folder for folder in _folders(self._root, self._paths) if not folder.is_dir()]
        try:
            self._git.sync(*self._flags, "-", stdin=self._patch)
        except GitError as error:
            self._restore(folders)
            raise SwellError(
                "INTERNAL",
                "APPLY_FAILED",
                f"the files could not be written, and are as they were: {_first_error(error)}",
                "Free some disk space, or mend the permissions, then try again.",
                str(self._root),
            ) from error
        except BaseException:
            self._restore(folders)
            raise

    def _restore(self, folders: list[Path]) -> None:
        """Put back what lay at the paths; `folders` were not there."""
        for path in self._paths:
            file = self._root / os.fsdecode(path)
            if path not in self._before and _is_file(self._root, path):
                file.unlink()
        for folder in reversed(folders):
            if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()
        git = Git(self._root, git_dir=self._kept.parent, work_tree=self._root, index=self._kept)
        git.sync("checkout-index", "--force", "-z", "--stdin", stdin=b"".join(path + b"\0" for path in self._before))

    def _hostile(self, path: str, reason: str) -> SwellError:
        return SwellError(
            "INVALID_ARGUMENT",
            "HOSTILE_PATCH",
            f"the patch is refused, and nothing was changed: {path} {reason}",
            "Find out who made it; take the rest of it with git apply --exclude, if it is meant well.",
            self._where,
        )

    def _not_a_patch(self, message: str) -> SwellError:
        return _not_a_patch(message, self._where)


def _parsed(patch: bytes, where: str) -> list[FilePatch]:
    try:
        return parse_patch(patch)
    except PatchFormatError as error:
        raise _not_a_patch(str(error), where) from error


def _not_a_patch(message: str, where: str) -> SwellError:
    return invalid(
        "NOT_A_PATCH",
        f"this is no patch that git applies: {message}",
        "Use what `swell patch export` or `git diff --binary --full-index` writes.",
        where,
    )


def _root(repo: Path) -> Path:
    """The top of the checkout around a folder."""
    refused = invalid(
        "NOT_A_REPOSITORY", "this is not the checkout of a git repository", "Name one with --repo.", str(repo)
    )
    if not repo.is_dir():
        raise refused
    try:
        found = Git(repo, user_config=True).sync("rev-parse", "--show-toplevel").stdout
    except GitMissingError as error:
        raise _git_failed(error) from error
    except GitError as error:
        raise refused from error
    return Path(os.fsdecode(found.removesuffix(b"\n")))


def _git_failed(error: GitError) -> SwellError:
    return SwellError("INTERNAL", "GIT_FAILED", f"`{error.command}` failed: {error.stderr_tail}", error.remedy)


@contextmanager
def _scratch(files: list[FilePatch]) -> Iterator[Path]:
    """An empty repository for what the patch names, in which nothing is converted."""
    long = any(len(oid) == 64 for file in files for oid in (file.old_id, file.new_id))
    with tempfile.TemporaryDirectory(prefix="swell-patch-") as folder:
        scratch = Path(folder, "git")
        Git(Path(folder)).sync(
            "init", "--bare", "--quiet", "--template=", f"--object-format={'sha256' if long else 'sha1'}", str(scratch)
        )
        (scratch / "info").mkdir(exist_ok=True)
        (scratch / "info" / "attributes").write_text(_NOT_CONVERTED)
        yield scratch


def _refusal(root: Path, path: bytes) -> str:
    """Why nothing may be written at a path, or ''."""
    parts = os.fsdecode(path).split("/")
    if len(path) > PATH_BYTES_MAX:
        return "is longer than a path may be"
    if any(part in {"", ".", ".."} for part in parts):
        return "leads out of the tree"
    if any(_is_git(part) for part in parts):
        return "is inside a .git folder"
    for folder in _folders(root, [path]):
        if stat.S_ISLNK(_mode(folder)):
            break
        if os.path.lexists(folder / ".git"):
            return f"lies in another repository, {folder.relative_to(root)}"
    return ""


def _is_git(part: str) -> bool:
    """Whether some file system takes a name for `.git`."""
    seen = _UNSEEN.sub("", part).partition(":")[0].rstrip(". ").casefold()
    return seen in {".git", "git~1"}


def _folders(root: Path, paths: Iterable[bytes]) -> list[Path]:
    """The folders that paths lie in, below the root, the outer ones first."""
    names = {
        b"/".join(parts[:depth]) for parts in (path.split(b"/") for path in paths) for depth in range(1, len(parts))
    }
    return [root / os.fsdecode(name) for name in sorted(names)]


def _is_file(root: Path, path: bytes) -> bool:
    """Whether a file or a link lies at a path, and not behind a link."""
    if any(stat.S_ISLNK(_mode(folder)) for folder in _folders(root, [path])):
        return False
    mode = _mode(root / os.fsdecode(path))
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _below(root: Path, path: bytes) -> Iterator[bytes]:
    """What keeps a folder at a path from going away: its files, and folders in it that are empty."""
    for place, folders, files in os.walk(os.fsencode(root) + b"/" + path):
        name = place.removeprefix(os.fsencode(root) + b"/")
        yield from (name + b"/" + file for file in files)
        if name != path and not folders and not files:
            yield name


def _mode(path: Path) -> int:
    """Of what lies at a path; 0 where nothing does, or can."""
    try:
        return path.lstat().st_mode
    except (OSError, ValueError):
        return 0


def _remarks(change: Change) -> list[str]:
    remarks = []
    name = change.path.rpartition("/")[2]
    if change.new_mode == "100755" != change.old_mode:
        remarks.append("is executable" if change.status == "A" else "becomes executable")
    if change.old_mode == "100755" and change.new_mode == "100644":
        remarks.append("is no longer executable")
    if change.status == "T":
        remarks.append("changes its type")
    if name in _STEERS_GIT:
        remarks.append("steers git")
    if change.path.startswith(_CI_FOLDERS) or name in _CI_FILES:
        remarks.append("steers what runs in CI")
    return remarks


def _conflicts(stderr: bytes) -> list[str]:
    """What git complains of, the file first, in order."""
    found: list[str] = []
    line = ""
    for said in readable(stderr).splitlines():
        if not said.startswith(("error: ", "fatal: ")):
            continue
        reason = said.partition(": ")[2]
        if failed := re.fullmatch(r"patch failed: (.+):(\d+)", reason):
            line = failed[2]
        elif line and reason.endswith(": patch does not apply"):
            found.append(f"{reason} at line {line}")
            line = ""
        else:
            found.append(reason)
    return sorted(found)


def _first_error(error: GitError) -> str:
    return next(iter(_conflicts(error.stderr_tail.encode())), error.stderr_tail)


# The Python API


class PatchManager:
    """Captures changes as patches, reads, applies and reverses them. Patches are kept in `folder`."""

    def __init__(self, folder: PathLike = Path(".ledger") / "patches") -> None:
        self.folder = Path(folder)

    def capture_patch(
        self, run_id: str, ws_id: str, worktree_path: PathLike, step_name: str = "edit", attempt: int = 1
    ) -> PatchArtifact:
        """Keep what a checkout has changed since its commit: new, deleted, renamed and binary files, modes and links.

        Ignored files stay out. No change gives an empty patch.

        Raises:
            SwellError: BAD_NAME, NOT_A_REPOSITORY, GIT_FAILED, NOT_WRITABLE.
        """
        patch_id = _patch_id(run_id, ws_id, step_name, attempt)
        content = _captured(_root(Path(worktree_path)), self.folder)
        file = self.folder / f"{patch_id}.patch"
        _write(file, content)
        files = _parsed(content, str(file))
        return PatchArtifact(
            patch_id=patch_id,
            patch_file=file,
            diff_hash=hashlib.sha256(content).hexdigest(),
            files_modified=[readable(one.path) for one in files],
            line_count=sum(one.additions + one.deletions for one in files),
            created_at=datetime.now(UTC).isoformat(),
            run_id=run_id,
            ws_id=ws_id,
            step_name=step_name,
            attempt=attempt,
        )

    def parse_patch(self, patch_file: PathLike) -> ParsedPatch:
        """What a patch file says. Raises SwellError NOT_READABLE, PATCH_TOO_LARGE, NOT_A_PATCH."""
        files = _parsed(read_patch(patch_file), str(patch_file))
        return ParsedPatch(
            files_modified=[readable(file.path) for file in files],
            hunks=sum(file.hunks for file in files),
            additions=sum(file.additions for file in files),
            deletions=sum(file.deletions for file in files),
        )

    def apply_patch(
        self, patch_file: PathLike, target_path: PathLike, dry_run: bool = False, *, allow_dirty: bool = False
    ) -> ApplyResult:
        """Apply a patch to a checkout, as a whole or not at all; `dry_run` only says whether it would fit."""
        return _tried(patch_file, target_path, reverse=False, check_only=dry_run, allow_dirty=allow_dirty)

    def reverse_patch(
        self, patch_file: PathLike, target_path: PathLike, dry_run: bool = False, *, allow_dirty: bool = False
    ) -> ApplyResult:
        """Take an applied patch back: the files are then, byte for byte, what they were."""
        return _tried(patch_file, target_path, reverse=True, check_only=dry_run, allow_dirty=allow_dirty)

    def get_patch_stats(self, patch_file: PathLike) -> dict[str, Any]:
        """`files_modified`, `file_count`, `hunks`, `additions`, `deletions`, `line_count` and `size_bytes` of a patch file."""
        parsed = self.parse_patch(patch_file)
        return {
            **msgspec.structs.asdict(parsed),
            "file_count": len(parsed.files_modified),
            "line_count": parsed.additions + parsed.deletions,
            "size_bytes": Path(patch_file).stat().st_size,
        }


def _tried(
    patch_file: PathLike, target_path: PathLike, *, reverse: bool, check_only: bool, allow_dirty: bool
) -> ApplyResult:
    file = Path(patch_file)
    try:
        done = carry_out(
            read_patch(file),
            Path(target_path),
            reverse=reverse,
            check_only=check_only,
            allow_dirty=allow_dirty,
            where=str(file),
        )
    except PatchConflictError as error:
        return ApplyResult(success=False, patch_file=file, conflicts=error.conflicts, error_message=str(error))
    except SwellError as error:
        return ApplyResult(success=False, patch_file=file, error_message=str(error))
    return ApplyResult(success=True, patch_file=file, files=done.files, notes=done.notes)


def _patch_id(run_id: str, ws_id: str, step_name: str, attempt: int) -> str:
    for name, value in (("run_id", run_id), ("ws_id", ws_id)):
        if not _NAME.fullmatch(value):
            raise invalid(
                "BAD_NAME", f"{name} is {value[:80]!r}", "Use 1 to 128 letters, digits, '.', '-' or '_', no dot first."
            )
    if step_name not in _STEPS:
        raise invalid("BAD_NAME", f"step_name is {step_name[:80]!r}", f"Use one of {', '.join(sorted(_STEPS))}.")
    if attempt < 1:
        raise invalid("BAD_NAME", f"attempt is {attempt}", "Attempts count from 1.")
    return f"{ws_id}-{run_id}-{step_name}-{attempt}"


def _captured(root: Path, folder: Path) -> bytes:
    """The patch from the commit of a checkout to its files; `folder` is left out where it lies in the checkout."""
    with tempfile.TemporaryDirectory(prefix="swell-patch-") as scratch:
        objects, index = Path(scratch, "objects"), Path(scratch, "index")
        (objects / "info").mkdir(parents=True)
        git = Git(root, index=index, user_config=True, output_bytes=PATCH_BYTES_MAX)
        try:
            told = Git(root, user_config=True).sync(
                "rev-parse", "--path-format=absolute", "--git-path", "objects", "--git-path", "index"
            )
            theirs, own_index, _ = told.stdout.split(b"\n")
            (objects / "info" / "alternates").write_bytes(theirs + b"\n")
            if Path(os.fsdecode(own_index)).exists():
                shutil.copy2(os.fsdecode(own_index), index)
            environment = {"GIT_OBJECT_DIRECTORY": str(objects)}
            apart = folder.absolute().resolve()
            left_out = [f":(exclude,top,literal){apart.relative_to(root)}"] if root in apart.parents else []
            git.sync(
                "--no-literal-pathspecs", "-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", ".", *left_out,
                environment=environment,
            )  # fmt: skip
            tree = git.sync("write-tree", environment=environment).stdout.decode().strip()
            base = git.sync("rev-parse", "--verify", "--quiet", "HEAD^{tree}", ok=(0, 1, 128)).stdout.decode().strip()
            base = base or git.sync("hash-object", "-t", "tree", "--stdin", stdin=b"").stdout.decode().strip()
            return git.sync(
                "diff-tree", "-p", "-r", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/",
                "--binary", "--full-index", "-M", base, tree,
                environment=environment,
            ).stdout  # fmt: skip
        except GitError as error:
            raise _git_failed(error) from error


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_name(f".{file.name}.half")
        half.write_bytes(content)
        half.replace(file)
    except OSError as error:
        raise invalid(
            "NOT_WRITABLE", f"cannot be written: {error.strerror}", "Name another folder.", str(file)
        ) from error
