"""The git program as a callable: one place decides its environment, its settings, its limits and its errors.

Invariants:

* No configuration of the machine or of a person takes part (`GIT_CONFIG_NOSYSTEM`, `GIT_CONFIG_GLOBAL`), no hook runs,
  no prompt waits, no optional lock is taken, no maintenance starts by itself; no replacement, graft or commit graph,
  which could lie about history, is read. `user_config` lifts the first rule, for reading a person's own checkout the
  way their own `git status` would; what is missing there is then not fetched.
* The environment is an allow-list; what else stands in ours (`GIT_DIR`, `GIT_CONFIG_COUNT`, …) never reaches git.
* Every call has a time limit and an output limit.
* No error text carries the credentials of an address.

    GitError
    └── GitMissingError     git is not installed, or older than GIT_VERSION_MIN
"""

import functools
import os
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Final

from services import process
from services.process import Completed, ProcessError, ProgramMissingError, child_environment

GIT_VERSION_MIN: Final = (2, 38)
"""`git merge-tree --write-tree` appeared in this version."""

TIMEOUT_S: Final = 120.0
OUTPUT_BYTES: Final = 64 * 1024 * 1024
STDERR_TAIL_CHARS: Final = 2000

COMMIT: Final = re.compile(r"\A(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
"""A full object id: SHA-1 or SHA-256."""

_PASSED: Final = (
    "GIT_ASKPASS",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "all_proxy",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
)
_FIXED: Final = {
    "GIT_ALLOW_PROTOCOL": "file:http:https:ssh",
    "GIT_GRAFT_FILE": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LANG": "C",
    "LC_ALL": "C",
}
# What a person's repository lacks is not fetched: its configuration says by which program. Not every git knows the first.
_PERSONS: Final = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
_NOBODYS: Final = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"}
_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "advice.graftFileDeprecated=false",
    "core.commitGraph=false",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
)
# Found through HOME even when no configuration names them.
_NOBODYS_SETTINGS: Final = ("core.attributesFile=/dev/null", "core.excludesFile=/dev/null", "safe.directory=*")

_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")
_REMEDIES: Final = (
    ("dubious ownership", "Run as the owner of the repository, or add it to safe.directory."),
    ("not a git repository", "Name the folder of a git repository."),
    ("No space left on device", "Free some disk space, then try again."),
    ("could not read Username", "Give the executor credentials (ssh key, GIT_ASKPASS); it never asks."),
    ("Permission denied", "Grant the user that runs Swell access to the repository."),
    (".lock': File exists", "Another git process is at work there, or died: wait, or remove the lock file."),
    ("unable to access", "Check the address and the network, then try again."),
)


class GitError(Exception):
    """A git command failed. `exit_code` is None when it did not run to its end; `remedy` says what to do next."""

    def __init__(self, command: str, exit_code: int | None, stderr_tail: str, remedy: str) -> None:
        super().__init__(command, exit_code, stderr_tail, remedy)
        self.command = command
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail
        self.remedy = remedy

    def __str__(self) -> str:
        ended = "did not end" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        return f"`{self.command}` {ended}: {self.stderr_tail.rstrip('.')}. {self.remedy}"


class GitMissingError(GitError):
    """Git is not there, or too old."""


def redacted(text: str) -> str:
    """`text` without the user name and password of any address in it."""
    return _CREDENTIALS.sub("***@", text)


@functools.cache
def _inherited() -> dict[str, str]:
    home = os.environ.get("HOME")
    return child_environment(_FIXED, home=Path(home) if home else None, allow=_PASSED)


class Git:
    """Git in one folder.

    `git_dir` and `work_tree` spare the search for a repository (which would find a *surrounding* one where a tool has
    deleted `.git`); `index` replaces the index file. Path arguments are taken literally. Limits are per call:
    `timeout_s` seconds, `output_bytes` bytes on each output.
    """

    def __init__(
        self,
        folder: Path,
        *,
        git_dir: Path | None = None,
        work_tree: Path | None = None,
        index: Path | None = None,
        user_config: bool = False,
        timeout_s: float = TIMEOUT_S,
        output_bytes: int = OUTPUT_BYTES,
    ) -> None:
        self.folder = folder
        self._timeout_s = timeout_s
        self._output_bytes = output_bytes
        self._environment = _inherited() | (_PERSONS if user_config else _NOBODYS)
        if git_dir is not None:
            self._environment["GIT_DIR"] = str(git_dir)
        if work_tree is not None:
            self._environment["GIT_WORK_TREE"] = str(work_tree)
        if index is not None:
            self._environment["GIT_INDEX_FILE"] = str(index)
        settings = _SETTINGS if user_config else (*_SETTINGS, *_NOBODYS_SETTINGS)
        self._prefix = ("git", "--no-pager", "--literal-pathspecs", *(a for s in settings for a in ("-c", s)))

    async def run(
        self,
        *args: str,
        stdin: bytes | None = None,
        ok: Collection[int] = (0,),
        environment: dict[str, str] | None = None,
        timeout_s: float | None = None,
        output_bytes: int | None = None,
    ) -> Completed:
        """`git args…` to its end; exit codes outside `ok` raise GitError. `environment` is added for this call."""
        try:
            completed = await process.run(
                (*self._prefix, *args),
                cwd=self.folder,
                env=self._environment | (environment or {}),
                stdin=stdin,
                timeout_s=self._timeout_s if timeout_s is None else timeout_s,
                output_bytes=self._output_bytes if output_bytes is None else output_bytes,
            )
        except ProcessError as error:
            raise _not_run(args, error) from error
        return _checked(args, completed, ok)

    async def __call__(
        self,
        *args: str,
        stdin: bytes | None = None,
        ok: Collection[int] = (0,),
        environment: dict[str, str] | None = None,
        timeout_s: float | None = None,
        output_bytes: int | None = None,
    ) -> bytes:
        """The standard output of `git args…`; errors as for `run`."""
        completed = await self.run(
            *args, stdin=stdin, ok=ok, environment=environment, timeout_s=timeout_s, output_bytes=output_bytes
        )
        return completed.stdout

    def sync(
        self,
        *args: str,
        stdin: bytes | None = None,
        ok: Collection[int] = (0,),
        environment: dict[str, str] | None = None,
        output_bytes: int | None = None,
    ) -> Completed:
        """The same as `run`, for callers without an event loop."""
        try:
            completed = process.run_sync(
                (*self._prefix, *args),
                cwd=self.folder,
                env=self._environment | (environment or {}),
                stdin=stdin,
                timeout_s=self._timeout_s,
                output_bytes=self._output_bytes if output_bytes is None else output_bytes,
            )
        except ProcessError as error:
            raise _not_run(args, error) from error
        return _checked(args, completed, ok)


def text(output: bytes) -> str:
    """One line of git's output; bytes that are not UTF-8 survive as surrogates."""
    return output.decode("utf-8", "surrogateescape").strip()


def readable(path: bytes) -> str:
    r"""A path for people and for JSON: always valid text; bytes that are not UTF-8 appear as `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def version_of(output: str) -> tuple[int, int]:
    """The version in what `git version` printed; raises GitMissingError when it is below GIT_VERSION_MIN."""
    found = re.match(r"git version (\d+)\.(\d+)", output)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < GIT_VERSION_MIN:
        wanted = ".".join(map(str, GIT_VERSION_MIN))
        raise GitMissingError(
            "git version", 0, f"{output.strip()[:80]!r} is below {wanted}", f"Install git {wanted} or newer."
        )
    return version


def _shown(args: tuple[str, ...]) -> str:
    return redacted(shlex.join(("git", *args))[:500])


def _not_run(args: tuple[str, ...], error: ProcessError) -> GitError:
    if isinstance(error, ProgramMissingError):
        wanted = ".".join(map(str, GIT_VERSION_MIN))
        return GitMissingError(_shown(args), None, "git is not installed", f"Install git {wanted} or newer.")
    return GitError(_shown(args), None, redacted(str(error)), "Check the repository's size and the limits.")


def _checked(args: tuple[str, ...], completed: Completed, ok: Collection[int]) -> Completed:
    if completed.exit_code in ok:
        return completed
    tail = redacted(completed.stderr.decode("utf-8", "replace").strip()[-STDERR_TAIL_CHARS:])
    remedy = next(
        (remedy for mark, remedy in _REMEDIES if mark in tail), "Read git's message; run the command by hand."
    )
    raise GitError(_shown(args), completed.exit_code, tail, remedy)
