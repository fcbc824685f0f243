"""The executor's own copy of a repository: bare, self-contained, one per location.

    <root>/<sha256 of the location>.git     the mirror
    <root>/<sha256 of the location>.lock    held while refs of the base, worktrees or the mirror itself are made

Invariants:

* The repository at the location is only read, except for `refs/heads/swell/*`, which `deliver` pushes with a lease;
  neither side's hooks run where git lets us say so.
* A commit that the mirror has, it has whole: objects are fetched in packs, never one by one, and git checks their
  connection before a ref names them. So presence of a commit answers for everything below it. (The first copy of a
  local repository takes its objects as they lie there; what somebody commits at that very moment may be torn.)
* From a server that offers it, history comes without the content of its files (a partial clone): then a base commit is
  whole in its own tree, and what runs make of it comes whole in bundles. Nothing is ever fetched behind our back: no
  configuration in a tool's reach names the server, so what is missing is an error at once, for tools and for us.
* The mirror's refs are only `refs/swell/base/<run>`, `refs/swell/attempts/<run>/<workstream>/<n>` and
  `refs/swell/quarantine/<run>/<workstream>/<n>`; the first keeps the base commit, the last what is kept nowhere else.
  From a server that gives out branches only, they are at `refs/swell/source/*`.
* Only `forget` removes refs, and of those that are named to it alone; only `prune` removes objects, which no ref reaches.
* A tool without a sandbox can write to the mirror that its worktree belongs to. `guard` puts back what git obeys before
  git acts for us, so that no filter, driver or hook of theirs runs in our name; and it takes away links, so that nothing
  of ours is written where they lead.

    MirrorError
    └── DeliveryRefusedError     the branch is not what we left there, or cannot be moved
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from services.delivery import is_local, location_problem
from services.git import COMMIT, Git, GitError, redacted, text

FETCH_TIMEOUT_S: Final = 1800.0
LOCK_TIMEOUT_S: Final = 1800.0
LOCK_POLL_S: Final = 0.01
LISTING_BYTES: Final = 512 * 1024 * 1024
LOCATION_BYTES_MAX: Final = 8192
COMMITS_KNOWN_MAX: Final = 100_000
"""Commits whose presence or tree is remembered; about 20 MB."""

MirrorCode = Literal[
    "LOCATION_REFUSED", "COMMIT_MISSING", "FETCH_FAILED", "BUNDLE_REFUSED", "NAME_REFUSED", "BUSY", "DELIVERY_REFUSED",
]  # fmt: skip

_NAME: Final = re.compile(r"\A[A-Za-z0-9_-]{1,128}\Z")
_ATTEMPT_REF: Final = re.compile(r"\Arefs/swell/attempts/[A-Za-z0-9_-]{1,128}/[A-Za-z0-9_-]{1,128}/[0-9]{1,9}\Z")
_DELIVERY_REF: Final = re.compile(r"\Arefs/heads/swell/[A-Za-z0-9_-]{1,128}\Z")

# Packs only: a loose object could be there without what it needs.
_PACKED: Final = ("-c", "fetch.unpackLimit=1", "-c", "transfer.unpackLimit=1")
# On the other side of a local path our `-c` settings do not arrive; these do.
_UPLOAD_PACK: Final = "git -c safe.directory=* -c uploadpack.allowAnySHA1InWant=true upload-pack"
_RECEIVE_PACK: Final = (
    "git -c safe.directory=* -c core.hooksPath=/dev/null -c core.alternateRefsCommand=true -c receive.denyCurrentBranch=refuse -c receive.autogc=false"
    " -c gc.auto=0 -c maintenance.auto=false -c receive.updateServerInfo=false receive-pack"
)

_CONFIG: Final = """\
[core]
	repositoryformatversion = {version}
	filemode = true
	bare = true
	symlinks = true
	ignorecase = false
	logallrefupdates = false
	hooksPath = /dev/null
[gc]
	auto = 0
[maintenance]
	auto = false
[user]
	name = Swell
	email = swell@invalid
"""
_PROMISOR: Final = "swell"
_FILTER: Final = "--filter=blob:none"
_KEPT: Final = ("refs/swell/base", "refs/swell/attempts")
_LOCATION: Final = "swell-location"
# What a tool could leave here for git to obey in every worktree.
_FOREIGN: Final = (
    "commondir", "config.worktree", "info/attributes", "info/exclude", "info/grafts", "info/sparse-checkout",
    "objects/info/alternates", "shallow",
)  # fmt: skip
_HEAD: Final = b"ref: refs/heads/none\n"
# Where git writes for us, parents first.
_FOLDERS: Final = (
    "info", "objects", "objects/info", "objects/pack", "refs", "refs/swell", "refs/swell/attempts", "refs/swell/base", "worktrees",
)  # fmt: skip


class MirrorError(Exception):
    """The mirror cannot do what it was asked. `code` is stable, `remedy` says what to do next."""

    def __init__(self, code: MirrorCode, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}. {self.remedy}"


class DeliveryRefusedError(MirrorError):
    """The delivery did not happen. `found` is the commit at the branch: "" when there is none, None when unknown."""

    def __init__(self, message: str, remedy: str, found: str | None) -> None:
        super().__init__("DELIVERY_REFUSED", message, remedy)
        self.found = found


def check_location(location: str) -> str:
    """`location`, if it is an absolute path or an http, https, ssh or file address; raises MirrorError otherwise."""
    if problem := location_problem(location):
        raise MirrorError(
            "LOCATION_REFUSED",
            f"{redacted(location)[:200]!r} {problem}",
            "Give an absolute path, or an http(s), ssh or file address.",
        )
    return location


def attempt_ref(run: str, workstream: str, attempt: int) -> str:
    """The ref that keeps an attempt's snapshot, in the mirror and in the bundle that carries it."""
    return f"refs/swell/attempts/{_name(run)}/{_name(workstream)}/{attempt}"


def quarantine_ref(run: str, workstream: str, attempt: int) -> str:
    """The ref that keeps what an attempt made and what may leave this machine in no form."""
    return f"refs/swell/quarantine/{_name(run)}/{_name(workstream)}/{attempt}"


def delivery_ref(run: str) -> str:
    """The branch that a run delivers."""
    return f"refs/heads/swell/{_name(run)}"


class Mirror:
    """The mirror of the repository at `location`, below `root`.

    Safe under concurrent callers, in this process and in others that use the same `root`.
    """

    def __init__(
        self, root: Path, location: str, *, fetch_timeout_s: float = FETCH_TIMEOUT_S, partial: bool = True
    ) -> None:
        """`partial`: history is taken without the content of its files, where the server offers it."""
        self.location = check_location(location)
        self._partial = partial and not is_local(location)
        self.key = hashlib.sha256(location.encode()).hexdigest()
        self.folder = root / f"{self.key}.git"
        self.git = Git(self.folder, git_dir=self.folder)
        self._root = root
        self._fetch_timeout_s = fetch_timeout_s
        self._lock = asyncio.Lock()
        self._present: set[str] = set()
        self._pinned: set[tuple[str, str]] = set()
        self._trees: dict[str, str] = {}
        self._config = b""

    @property
    def _is_local(self) -> bool:
        return is_local(self.location)

    @property
    def lock_file(self) -> Path:
        """Held while the mirror is to be alone; the time of the file says when it was last used."""
        return self._root / f"{self.key}.lock"

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Alone with the mirror, among all processes that share it; raises MirrorError(BUSY) after LOCK_TIMEOUT_S."""
        self._root.mkdir(parents=True, exist_ok=True)
        async with self._lock:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                await _locked(descriptor)
                yield
            finally:
                os.close(descriptor)

    async def ensure(self, commit: str, *, run: str) -> None:
        """Makes `commit` and its history available here, and pins it for `run`.

        Raises:
            MirrorError: FETCH_FAILED, COMMIT_MISSING, NAME_REFUSED, BUSY.
        """
        pin = f"refs/swell/base/{_name(run)}"
        if (run, _commit(commit)) in self._pinned and self.folder.is_dir():
            return
        async with self.exclusive():
            created = not self.folder.is_dir()
            if created:
                self._present.clear()
                self._trees.clear()
                await self._create(commit)
            self.guard()
            if not await self.has(commit):
                await self._fetch(commit, pin)
            await self._complete(commit)
            await self.keep(pin, commit)
            if created:
                self._keep_packs()
            if location_of(self.folder) != self.location:
                _write(self.folder / _LOCATION, self.location.encode())
                (self.folder / _LOCATION).chmod(0o600)
        self._pinned.add((run, commit))

    async def has(self, commit: str) -> bool:
        """Whether `commit` is here, with everything below it."""
        if _commit(commit) in self._present:
            return True
        if not self.folder.is_dir():
            return False
        found = await self.git.run("cat-file", "-e", f"{commit}^{{commit}}", ok=(0, 1, 128))
        if found.exit_code == 0:
            self.learn(commit)
        return found.exit_code == 0

    async def tree(self, commit: str) -> str:
        """The tree of a commit that is here; raises MirrorError(COMMIT_MISSING) otherwise."""
        if commit not in self._trees:
            found = await self.git.run(
                "rev-parse", "--verify", "--quiet", f"{_commit(commit)}^{{tree}}", ok=(0, 1, 128)
            )
            if found.exit_code:
                raise self._missing(commit)
            self.learn(commit, text(found.stdout))
        return self._trees[commit]

    def learn(self, commit: str, tree: str = "") -> None:
        """Remembers that `commit` is here, and what its tree is."""
        if len(self._present) >= COMMITS_KNOWN_MAX:
            self._present.clear()
            self._trees.clear()
        self._present.add(commit)
        if tree:
            self._trees[commit] = tree

    async def keep(self, ref: str, commit: str) -> None:
        """Makes a ref of Swell's, so that git keeps `commit`."""
        self.guard()
        _without_links(self.folder, ref.split("/")[:-1])
        await self.git("update-ref", ref, commit)

    def guard(self) -> None:
        """Puts back what git obeys, and takes away links that it would follow; some 20 system calls when all is well."""
        for name in _FOLDERS:
            _without_links(self.folder, name.split("/"))
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / "objects") as entries:
            for entry in entries:
                if entry.is_symlink():
                    Path(entry.path).unlink()
        config = self.folder / "config"
        if not self._config:
            found = config.read_bytes() if config.is_file() else b""
            self._config = _configuration(sha256=b"objectformat" in found, partial=b"partialClone" in found).encode()
        if not config.is_file() or config.is_symlink() or config.read_bytes() != self._config:
            _write(config, self._config)
        head = self.folder / "HEAD"
        if not head.is_file() or head.is_symlink() or head.read_bytes() != _HEAD:
            _write(head, _HEAD)
        for name in _FOREIGN:
            if os.path.lexists(self.folder / name):
                _discard(self.folder / name)

    async def import_bundle(self, path: Path, commit: str) -> None:
        """Takes in what a bundle file carries; afterwards `commit` is here.

        The bundle's prerequisite, the run's base commit, must be here already (`ensure`). Only its attempt refs count.

        Raises:
            MirrorError: BUNDLE_REFUSED: not a bundle, damaged, based on something else, or without `commit`.
        """
        if await self.has(commit):
            return
        self.guard()
        await asyncio.to_thread(_unlink_links, self.folder / "refs" / "swell")
        try:
            await self.git(
                *_PACKED, "-c", "fetch.fsckObjects=true", "fetch", *_FETCH_QUIETLY, "--", _absolute(path),
                "+refs/swell/attempts/*:refs/swell/attempts/*",
            )  # fmt: skip
        except GitError as error:
            raise MirrorError(
                "BUNDLE_REFUSED", f"bundle for {commit[:12]} cannot be taken in: {error.stderr_tail}",
                "Ensure the run's base commit first; if it is here, run the attempt again.",
            ) from error  # fmt: skip
        if not await self.has(commit):
            raise MirrorError(
                "BUNDLE_REFUSED", f"bundle does not carry commit {commit[:12]}", "Run the attempt that made it again."
            )

    async def export_bundle(self, base_commit: str, commit: str, ref: str, target: Path) -> None:
        """Writes what `commit` adds to `base_commit` to the bundle file `target`, under `ref` (see `attempt_ref`).

        `base_commit` is the *run's* base commit, not the step's: a receiver has nothing else for sure. The ref is made
        here as well, which keeps the commit. Raises MirrorError when there is nothing to carry.
        """
        if not _ATTEMPT_REF.match(ref):
            raise MirrorError("NAME_REFUSED", f"{ref[:200]!r} is no attempt's ref", "Use attempt_ref.")
        if _commit(base_commit) == _commit(commit):
            raise MirrorError("BUNDLE_REFUSED", f"nothing to carry: {commit[:12]} is the base", "Pass no bundle.")
        await self.keep(ref, commit)
        await self.git("-c", "pack.threads=1", "bundle", "create", "--quiet", _absolute(target), f"^{base_commit}", ref)

    async def deliver(
        self,
        commit: str,
        *,
        ref: str,
        expected_old: str | None,
        location: str | None = None,
        access: Mapping[str, str] | None = None,
        anew: bool = False,
    ) -> None:
        """Pushes `commit` to the branch `ref` (see `delivery_ref`) of `location`, by default the mirror's own.

        `expected_old` is the commit of the last recorded delivery, None before the first: the branch moves only from
        there. With `anew` a branch that is not there any more is made again. A branch that is at `commit` already counts
        as delivered, so a repeated delivery is harmless. `access` is added to the environment of git.

        Raises:
            DeliveryRefusedError: the branch is elsewhere, is checked out, or the repository refused it.
        """
        target = check_location(location or self.location)
        if not _DELIVERY_REF.match(ref):
            raise DeliveryRefusedError(
                f"{ref[:200]!r} is no branch of Swell's", "Deliver to refs/heads/swell/<run>.", None
            )
        if not await self.has(commit):
            raise self._missing(commit)
        self.guard()
        try:
            await self._push(f"{commit}:{ref}", ref, expected_old, target, access)
        except GitError as error:
            found = await self._found_at(target, ref, access)
            if found == commit:
                return
            if not (anew and found == "" and expected_old is not None):
                raise _refusal(error, ref, expected_old, found) from error
            await self.deliver(commit, ref=ref, expected_old=None, location=location, access=access)

    async def _push(
        self, what: str, ref: str, expected_old: str | None, target: str, access: Mapping[str, str] | None
    ) -> None:
        await self.git(
            "push", "--quiet", "--no-verify", "--no-follow-tags", "--recurse-submodules=no",
            f"--force-with-lease={ref}:{'' if expected_old is None else _commit(expected_old)}",
            *([f"--receive-pack={_RECEIVE_PACK}"] if is_local(target) else []),
            "--", target, what, timeout_s=self._fetch_timeout_s, environment=dict(access or {}),
        )  # fmt: skip

    async def withdraw(
        self,
        ref: str,
        *,
        run: str,
        expected: str | None,
        head: str,
        location: str | None = None,
        access: Mapping[str, str] | None = None,
    ) -> bool:
        """Deletes the branch `ref` that `run` delivered; False when there is none any more.

        It goes only from `expected`, the commit of the last recorded delivery. Where that is not known, it may stand at
        `head` or at any commit of the run's line that is here. `location` and `access` as for `deliver`. Raises
        DeliveryRefusedError.
        """
        target = check_location(location or self.location)
        if not _DELIVERY_REF.match(ref):
            raise DeliveryRefusedError(f"{ref[:200]!r} is no branch of Swell's", "Name refs/heads/swell/<run>.", None)
        found = await self._found_at(target, ref, access)
        if found is None:
            raise DeliveryRefusedError(
                f"{redacted(target)} does not answer for {ref}",
                "Check the address and access, then try again.",
                None,
            )
        if not found:
            return False
        if not (found == expected if expected is not None else await self._is_of(found, run, head)):
            raise DeliveryRefusedError(
                f"branch {ref} is at {found[:12]}, which is not where this run left it",
                "Somebody else moved it: keep what is wanted of it, and delete it by hand.",
                found,
            )
        await _refuse_in_use(target, ref, found)
        self.guard()
        try:
            await self._push(f":{ref}", ref, found, target, access)
        except GitError as error:
            if await self._found_at(target, ref, access) != "":
                raise DeliveryRefusedError(
                    f"branch {ref} could not be deleted: {error.stderr_tail}", error.remedy, found
                ) from error
        return True

    async def _is_of(self, commit: str, run: str, head: str) -> bool:
        if commit == head:
            return True
        if not await self.has(commit):
            return False
        trailer = "--format=%ae %(trailers:key=Swell-Run,valueonly,separator=%x20)"
        said = text(await self.git("log", "-1", "--no-show-signature", trailer, commit))
        return said == f"swell@invalid {_name(run)}"

    async def _found_at(self, target: str, ref: str, access: Mapping[str, str] | None) -> str | None:
        upload = [f"--upload-pack={_UPLOAD_PACK}"] if is_local(target) else []
        try:
            listed = text(
                await self.git("ls-remote", "--quiet", *upload, "--", target, ref, environment=dict(access or {}))
            )
        except GitError:
            return None
        return next((oid for oid, name in (line.split("\t") for line in listed.splitlines()) if name == ref), "")

    async def _create(self, commit: str) -> None:
        """A new mirror, empty or, next to a local repository, with its packs hard-linked instead of copied."""
        new = self._root / f"{self.key}.new"
        shutil.rmtree(new, ignore_errors=True)
        outside = Git(self._root)
        sha256 = len(commit) == 64
        if not (self._is_local and await self._linked(outside, new)):
            shutil.rmtree(new, ignore_errors=True)
            form = "sha256" if sha256 else "sha1"
            await outside("init", "--quiet", "--bare", "--template=", f"--object-format={form}", str(new))
        # A clone of what is a partial clone itself is one as well.
        partial = self._partial or any((new / "objects/pack").glob("*.promisor"))
        self._config = _configuration(sha256=sha256, partial=partial).encode()
        _write(new / "config", self._config)
        _write(new / "HEAD", _HEAD)
        _write(new / _LOCATION, self.location.encode())
        (new / _LOCATION).chmod(0o600)
        new.rename(self.folder)

    def _keep_packs(self) -> None:
        """What came first, which is most of it, is never packed anew: `prune` is about what came since."""
        for pack in (self.folder / "objects/pack").glob("*.pack"):
            pack.with_suffix(".keep").touch()

    async def _complete(self, commit: str) -> None:
        """Fetches, at one time, what of the commit's own tree is missing in a partial clone."""
        if self._partial:
            tree = await self.tree(commit)
            listed = await self.git(
                "rev-list", "--objects", "--no-object-names", "--missing=print", tree, output_bytes=LISTING_BYTES
            )
            missing = [line[1:] for line in listed.split(b"\n") if line.startswith(b"?")]
            if missing:
                try:
                    await self.git(
                        *_PACKED, *self._promisor(), "-c", "fetch.negotiationAlgorithm=noop",
                        "fetch", *_FETCH_QUIETLY, _FILTER, "--stdin", _PROMISOR,
                        stdin=b"".join(oid + b"\n" for oid in missing), timeout_s=self._fetch_timeout_s,
                    )  # fmt: skip
                except GitError as error:
                    raise self._unfetched(commit, error) from error

    def _promisor(self) -> tuple[str, ...]:
        """Says to one command of ours where the rest of a partial clone is."""
        said = (f"url={self.location}", "promisor=true", "partialclonefilter=blob:none")
        return tuple(word for one in said for word in ("-c", f"remote.{_PROMISOR}.{one}"))

    # What is not needed any more

    async def kept(self) -> dict[str, list[str]]:
        """The refs that are kept for runs, but for those of what is quarantined, by run."""
        listed = text(await self.git("for-each-ref", "--format=%(refname)", *_KEPT, output_bytes=LISTING_BYTES))
        found: dict[str, list[str]] = {}
        for ref in listed.splitlines():
            found.setdefault(ref.split("/")[3], []).append(ref)
        return found

    async def newest_base(self) -> str:
        """The ref of the newest base commit, which what is fetched next builds upon; "" when there is none."""
        found = await self.git("for-each-ref", "--sort=-committerdate", "--count=1", "--format=%(refname)", _KEPT[0])
        return text(found)

    async def quarantined(self) -> int:
        """How many snapshots are kept here alone."""
        return len((await self.git("for-each-ref", "--format=x", "refs/swell/quarantine")).split())

    async def forget(self, refs: Sequence[str]) -> None:
        """Removes refs of runs that nothing needs any more. What they kept goes with `prune`."""
        async with self.exclusive():
            self.guard()
            await self.git("update-ref", "--stdin", stdin="".join(f"delete {ref}\n" for ref in refs).encode())
        gone = {ref.split("/")[3] for ref in refs}
        self._pinned = {(run, commit) for run, commit in self._pinned if run not in gone}

    def loose(self) -> tuple[int, int]:
        """What came since the mirror was made, needed or not: files of objects, and their bytes on the disk."""
        files = size = 0
        kept = {path.stem for path in (self.folder / "objects/pack").glob("*.keep")}
        for folder, _, names in os.walk(self.folder / "objects"):
            for name in names:
                if name.partition(".")[0] not in kept:
                    with contextlib.suppress(OSError):
                        size += Path(folder, name).lstat().st_blocks * 512
                        files += 1
        return files, size

    async def prune(self) -> int:
        """Removes every object that no ref and no worktree reaches; returns the bytes that this freed.

        Nobody may use the mirror meanwhile: what an attempt has made and not yet named would be gone.
        """
        async with self.exclusive():
            self.guard()
            before = self.loose()[1]
            self._present.clear()
            self._trees.clear()
            self._pinned.clear()
            await self.git("worktree", "prune")
            await self.git("pack-refs", "--all")
            # First what takes no room: packing anew needs some before it gives any.
            await self.git("prune", "--expire=now", timeout_s=self._fetch_timeout_s)
            await self.git(
                "-c", "pack.threads=1", "-c", "repack.writeBitmaps=false", "repack", "-a", "-d", "-q", "-n",
                timeout_s=self._fetch_timeout_s,
            )  # fmt: skip
            return max(before - self.loose()[1], 0)

    async def _linked(self, outside: Git, new: Path) -> bool:
        """Whether a clone by hard links succeeded; its refs are dropped, they are not ours."""
        try:
            await outside(
                "clone", "--quiet", "--bare", "--no-tags", "--template=", f"--upload-pack={_UPLOAD_PACK}", "--",
                self.location, str(new), timeout_s=self._fetch_timeout_s,
            )  # fmt: skip
        except GitError:
            return False  # plain fetching says what is wrong with the repository, if anything is
        (new / "packed-refs").unlink(missing_ok=True)
        shutil.rmtree(new / "refs")
        (new / "refs" / "heads").mkdir(parents=True)
        return not (new / "objects" / "info" / "alternates").exists() and not (new / "shallow").exists()

    async def _fetch(self, commit: str, pin: str) -> None:
        """By object id; a server that refuses those is asked for its branches instead."""
        command: tuple[str, ...]
        if self._partial:
            command = (*_PACKED, *self._promisor(), "fetch", "--prune", *_FETCH_QUIETLY, _FILTER, _PROMISOR)
        else:
            upload = [f"--upload-pack={_UPLOAD_PACK}"] if self._is_local else []
            command = (*_PACKED, "fetch", "--prune", *_FETCH_QUIETLY, *upload, "--", self.location)
        try:
            await self.git(*command, f"+{commit}:{pin}", timeout_s=self._fetch_timeout_s)
        except GitError as error:
            if "not our ref" not in error.stderr_tail and "unadvertised object" not in error.stderr_tail:
                raise self._unfetched(commit, error) from error
            if not self._is_local:
                await self._fetch_branches(commit, command)
        if not await self.has(commit):
            raise self._missing(commit)

    async def _fetch_branches(self, commit: str, command: tuple[str, ...]) -> None:
        try:
            await self.git(*command, "+refs/heads/*:refs/swell/source/*", timeout_s=self._fetch_timeout_s)
        except GitError as error:
            raise self._unfetched(commit, error) from error

    def _unfetched(self, commit: str, error: GitError) -> MirrorError:
        place = redacted(self.location)
        return MirrorError(
            "FETCH_FAILED", f"cannot fetch {commit[:12]} from {place}: {error.stderr_tail}", error.remedy
        )

    def _missing(self, commit: str) -> MirrorError:
        return MirrorError(
            "COMMIT_MISSING",
            f"commit {commit[:12]} is not in {redacted(self.location)}",
            "Push it there, or submit the run again.",
        )


_FETCH_QUIETLY: Final = (
    "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules",
)  # fmt: skip


async def _refuse_in_use(target: str, ref: str, found: str) -> None:
    """Of a local repository it can be seen who has the branch checked out; others have to look after themselves."""
    if not is_local(target):
        return
    folder = Path(target.removeprefix("file://"))
    try:
        listed = await Git(folder)("worktree", "list", "--porcelain")
    except GitError:
        return
    place = ""
    for line in listed.decode("utf-8", "replace").splitlines():
        if line.startswith("worktree "):
            place = line.removeprefix("worktree ")
        elif line == f"branch {ref}":
            raise DeliveryRefusedError(
                f"branch {ref} is checked out in {place}, deleting it would pull the ground from under that checkout",
                "Check out another branch there, then roll back again.",
                found,
            )


def _absolute(path: Path) -> str:
    """For git, which runs in the mirror's folder."""
    return str(path.absolute())


def _name(token: str) -> str:
    if not _NAME.match(token):
        raise MirrorError("NAME_REFUSED", f"{token[:200]!r} cannot be part of a ref", "Use letters, digits, '-', '_'.")
    return token


def _commit(commit: str) -> str:
    if not COMMIT.match(commit):
        raise MirrorError("NAME_REFUSED", f"{commit[:80]!r} is not a commit id", "Give the full id.")
    return commit


def _configuration(*, sha256: bool, partial: bool) -> str:
    extensions = [*(["objectformat = sha256"] if sha256 else []), *([f"partialClone = {_PROMISOR}"] if partial else [])]
    more = "".join(f"\t{line}\n" for line in extensions)
    return _CONFIG.format(version=int(bool(extensions))) + (f"[extensions]\n{more}" if more else "")


def location_of(folder: Path) -> str:
    """Where the repository of the mirror in this folder is; "" when that cannot be told."""
    try:
        with (folder / _LOCATION).open("rb") as file:
            said = file.read(LOCATION_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError):
        return ""
    return said if hashlib.sha256(said.encode()).hexdigest() == folder.stem else ""


def _discard(path: Path) -> None:
    """Removes a file, a folder or a link, and nothing that a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _without_links(top: Path, parts: Sequence[str]) -> None:
    """Makes sure that the way down from `top` leads through folders of its own; one that was replaced is made anew."""
    path = top
    for part in parts:
        path /= part
        if path.is_symlink():
            path.unlink()
            path.mkdir()


def _unlink_links(top: Path) -> None:
    for folder, folders, _ in os.walk(top):
        for path in (Path(folder, name) for name in folders):
            if path.is_symlink():
                path.unlink()


def _write(path: Path, content: bytes) -> None:
    """Replaces a file, or whatever stands there, at once."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_bytes(content)
    new.replace(path)


async def _locked(descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise MirrorError(
                    "BUSY", f"the mirror is held by another process for {LOCK_TIMEOUT_S:g} s", "Look for a hanging git."
                ) from None
            await asyncio.sleep(LOCK_POLL_S)
        else:
            return


def _refusal(error: GitError, ref: str, expected_old: str | None, found: str | None) -> DeliveryRefusedError:
    if "currently checked out" in error.stderr_tail:
        return DeliveryRefusedError(
            f"branch {ref} is checked out, moving it would pull the ground from under that checkout",
            "Check out another branch there, then deliver again.",
            found,
        )
    if found is not None and found != (expected_old or ""):
        return DeliveryRefusedError(
            f"branch {ref} is at {found or 'no commit'}, expected {expected_old or 'no branch'}",
            "Somebody else moved it: rename or delete that branch, then deliver again.",
            found,
        )
    return DeliveryRefusedError(f"push to {ref} failed: {error.stderr_tail}", error.remedy, found)
