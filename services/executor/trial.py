"""Whether a program starts in its sandbox, and which version it says it is: its `--version`, asked where it is to run.

    inside it answers                                  it runs in the sandbox
    inside it fails, outside it answers                it cannot run in the sandbox; the words say why and what to do
    it fails in both, or does not answer in time       nothing speaks against the sandbox

Invariants: a program is started with nothing but `--version`, in a home folder of its own, without a credential and without
a way to anything of the attempt, within the limits below, and leaves no process behind; one whose profile insists on a
sandbox is never started outside. What it prints is hostile: printable text of one line comes through.
"""

import asyncio
import math
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from services.executor.output import read_output
from services.executor.sandbox import Sandbox, SandboxBrokenError, SandboxMissingError
from services.executor.scratch import caches
from services.executor.secrets import is_secret
from services.process import Exit, Launch, ProcessError, ProgramMissingError, SpawnError, Supervisor
from services.profiles import Context, PlaceholderError, ToolProfile, substitute_one

VERSION_TTL_S: Final = 3600.0
"""How long a version counts while the file stays the same: what the file starts may have been replaced."""

UNTOLD_TTL_S: Final = 300.0
"""The same for a program that has told no version, or does not start in its sandbox."""

VERSION_TIMEOUT_S: Final = 10.0
VERSION_OUTPUT_BYTES: Final = 64 * 1024
VERSION_CHARS: Final = 80
REASON_CHARS: Final = 200
GRACE_S: Final = 1.0
MISSED_MAX: Final = 3
KNOWN_MAX: Final = 1000

_NOT_STARTED: Final = frozenset({126, 127})
"""What shells, env and the like end with when they cannot start a program."""

_OWN: Final = ("home", "tmp", "cache")
_STAND_INS: Final = {
    "cwd": "tmp", "worktree_path": "tmp", "repo_root": "tmp", "cache": "cache",
    "prompt_file": "prompt.md", "diagnostics_file": "diagnostics.json",
}  # fmt: skip
"""What placeholders for anything of the attempt stand for in a trial, below its own folder."""

_VARIABLES: Final = {"HOME": "home", "TMPDIR": "tmp", "SWELL_CACHE_DIR": "cache"}

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_a-z0-9=>])")
"""Sequences that steer a terminal: CSI, OSC, and those of two characters."""

_PATHS: Final = re.compile(r"""(?<![\w.])/[^\s:;,'"`()<>\[\]]+""")


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial. `version` is empty when it is not known, `reason` then says why.

    `refusal` says why it cannot run in its sandbox, "" when nothing speaks against it; `remedy` what to do then.
    """

    version: str = ""
    reason: str = ""
    refusal: str = ""
    remedy: str = ""

    @property
    def unconfined(self) -> str:
        """Both in one."""
        return f"{self.refusal}: {self.remedy}" if self.refusal else ""


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `slow`: it did not end in time; `failed`: without success; `unstarted`: because it could not be started.

    `unasked`: there was nobody to start it, or no sandbox to start it in.
    """

    came: Literal["answered", "slow", "failed", "unstarted", "unasked"]
    version: str = ""
    reason: str = ""
    printed: bytes = b""


class _Known(msgspec.Struct, frozen=True):
    identity: tuple[int, int, int, int]
    tried: Tried
    at_s: float


class Trials:
    """Tries programs, each once while its file stays the same and the answer counts."""

    def __init__(
        self,
        supervisor: Supervisor,
        folder: Path,
        *,
        timeout_s: float = VERSION_TIMEOUT_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is for the programs' scratch folders; it must be there. `timeout_s`: how long one may take to answer."""
        self._supervisor = supervisor
        self._folder = folder
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._known: dict[tuple[object, ...], _Known] = {}
        self._asking: dict[tuple[object, ...], asyncio.Lock] = {}

    def known(self, program: Path, profile: ToolProfile) -> Tried | None:
        """What its last trial came to, however long ago."""
        known = self._known.get(_key(program, profile))
        return None if known is None else known.tried

    async def of(
        self,
        program: Path,
        profile: ToolProfile,
        env: Mapping[str, str],
        sandbox: Sandbox | None,
        context: Context | None = None,
    ) -> Tried:
        """What came of its trial, now or lately. `env` is what it is started with, but for what its profile adds.

        Without a `sandbox`, or where none can be had, it is asked outside, unless its profile insists on one. `context` is
        what placeholders stand for, as far as that is known.
        """
        key = _key(program, profile)
        async with self._asking.setdefault(key, asyncio.Lock()):
            identity = await asyncio.to_thread(file_identity, program)
            known = self._known.get(key)
            if known is not None and known.identity == identity and self._counts(known):
                return known.tried
            asked, tried = await self._try(program, profile, env, sandbox, context or {})
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
                self._asking = {key: self._asking[key]}
            self._known[key] = _Known(identity, tried, self._now_s() if asked else -math.inf)
            return tried

    def _counts(self, known: _Known) -> bool:
        ttl_s = VERSION_TTL_S if known.tried.version and not known.tried.refusal else UNTOLD_TTL_S
        return self._now_s() - known.at_s < ttl_s

    async def _try(
        self,
        program: Path,
        profile: ToolProfile,
        env: Mapping[str, str],
        sandbox: Sandbox | None,
        context: Context,
    ) -> tuple[bool, Tried]:
        """Whether anybody could be asked, and what came of it."""
        strict = profile.sandboxing == "bwrap"
        if profile.sandboxing == "none" or (sandbox is not None and sandbox.reason and not strict):
            sandbox = None
        inside = await self._ask(program, profile, env, sandbox, context)
        if sandbox is None or inside.came not in ({"unstarted"} if strict else {"failed", "unstarted"}):
            return inside.came != "unasked", Tried(version=inside.version, reason=inside.reason)
        if strict:
            refusal, remedy = _refusal(program, inside, "does not start inside of the sandbox")
            return True, Tried(reason=inside.reason, refusal=refusal, remedy=remedy)
        outside = await self._ask(program, profile, env, None, context)
        starts = outside.came == "answered" or (outside.came == "slow" and inside.came == "unstarted")
        if not starts:
            return outside.came != "unasked", Tried(reason=outside.reason)
        refusal, remedy = _refusal(program, inside, "does not start inside of the sandbox, and does outside")
        return True, Tried(version=outside.version, reason=outside.reason, refusal=refusal, remedy=remedy)

    async def _ask(
        self,
        program: Path,
        profile: ToolProfile,
        env: Mapping[str, str],
        sandbox: Sandbox | None,
        context: Context,
    ) -> _Answer:
        try:
            with tempfile.TemporaryDirectory(prefix="found-", dir=self._folder, ignore_cleanup_errors=True) as made:
                scratch = Path(made)
                for name in _OWN:
                    (scratch / name).mkdir()
                own = {name: scratch / folder for name, folder in _STAND_INS.items()}
                known = {**context, **own, "scratch": scratch}
                added = {name: substitute_one(value, known) for name, value in profile.env.items()}
                added = {name: value for name, value in added.items() if not is_secret(name, value)}
                folders = {name: str(scratch / folder) for name, folder in _VARIABLES.items()}
                folders |= caches(scratch / "cache")
                launch = Launch(
                    argv=(str(program), "--version"),
                    cwd=scratch / "tmp",
                    env={**env, **folders, **added},
                    stdout=scratch / "stdout",
                    stderr=scratch / "stderr",
                    timeout_s=self._timeout_s,
                    grace_s=GRACE_S,
                    output_bytes=VERSION_OUTPUT_BYTES,
                    memory_bytes=profile.memory_bytes,
                    processes=profile.processes,
                    marker=f"found/{uuid.uuid4().hex}",
                )
                if sandbox is not None:
                    launch = sandbox.for_trial(scratch).confine(launch, profile, known)
                ended = await self._ended(launch)
                said = [read_output(file, VERSION_OUTPUT_BYTES) for file in (launch.stdout, launch.stderr)]
                return _answered(ended, said, wrapped=launch.wrapped)
        except (ProgramMissingError, SpawnError) as error:
            return _Answer(came="unstarted", reason=str(error)[:REASON_CHARS])
        except (ProcessError, OSError, PlaceholderError, SandboxMissingError, SandboxBrokenError) as error:
            return _Answer(came="unasked", reason=str(error)[:REASON_CHARS])

    async def _ended(self, launch: Launch) -> Exit:
        tool = await self._supervisor.spawn(launch)
        try:
            return await tool.wait()
        except BaseException:
            tool.stop(grace_s=GRACE_S)
            await tool.wait()
            raise


def hint(ended: Exit, stderr: Path) -> str:
    """What to say of a tool that ended like this in a sandbox, where that may be why; else ""."""
    if not unstarted(ended, read_output(stderr, VERSION_OUTPUT_BYTES)):
        return ""
    return f"it ran in a sandbox, which may lack what it needs: {_remedy(())}"


def unstarted(ended: Exit, stderr: bytes) -> bool:
    """Whether a tool in a sandbox ended as it does when it, or what it is made of, cannot be started."""
    return ended.ended_by == "itself" and (ended.exit_code in _NOT_STARTED or stderr.startswith(b"bwrap: "))


def spoken_version(output: bytes) -> str:
    """The first line with anything printable in it, without what steers a terminal, in at most VERSION_CHARS characters."""
    return next(_printable(output), "")[:VERSION_CHARS].rstrip()


def _printable(output: bytes) -> Iterator[str]:
    text = _ESCAPES.sub("", output[:VERSION_OUTPUT_BYTES].decode("utf-8", "replace"))
    for line in text.splitlines():
        shown = "".join(letter for letter in line if letter.isprintable() and letter != "\N{REPLACEMENT CHARACTER}")
        if shown := " ".join(shown.split()):
            yield shown


def _answered(ended: Exit, said: Sequence[bytes], *, wrapped: bool) -> _Answer:
    if ended.ended_by != "itself":
        return _Answer(came="slow", reason=f"it was ended after {ended.wall_s:.1f} s")
    if ended.exit_code != 0:
        how = f"signal {ended.signal}" if ended.exit_code is None else f"exit code {ended.exit_code}"
        came: Literal["failed", "unstarted"] = "unstarted" if wrapped and unstarted(ended, said[1]) else "failed"
        return _Answer(came=came, reason=f"it ended with {how}", printed=b"\n".join(reversed(said)))
    if ended.stdout_truncated or ended.stderr_truncated:
        return _Answer(came="answered", reason=f"it printed {ended.stdout_bytes + ended.stderr_bytes} bytes")
    version = next((version for output in said if (version := spoken_version(output))), "")
    return _Answer(came="answered", version=version, reason="" if version else "it printed nothing")


def _refusal(program: Path, inside: _Answer, what: str) -> tuple[str, str]:
    """What is told of a program that does not start inside, and what to do."""
    lines = list(_printable(inside.printed))
    told = f": {lines[0][:REASON_CHARS]}" if lines else ""
    asked_for = dict.fromkeys(path for line in lines for path in _PATHS.findall(line))
    missed = [path for path in asked_for if len(path) <= REASON_CHARS and os.path.exists(path)]  # noqa: PTH110 - false where we may not look
    return f"{program} {what} ({inside.reason}{told})", _remedy(missed[:MISSED_MAX])


def _remedy(missed: Sequence[str]) -> str:
    """What to do about a program that does not start in its sandbox; `missed` are files that it has asked for."""
    named = ", ".join(f'"{path}"' for path in missed) or "…"
    return f'name what it needs in its profile, "sandbox_read": [{named}], or set "sandbox": "none" there'


def _key(program: Path, profile: ToolProfile) -> tuple[object, ...]:
    """What a trial depends on besides the file."""
    env = tuple(sorted(profile.env.items()))
    return (program, profile.sandboxing, profile.reach, profile.sandbox_read, env)


def file_identity(program: Path) -> tuple[int, int, int, int]:
    """What changes when a program is replaced, be it behind a link."""
    try:
        found = program.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
