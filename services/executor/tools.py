"""Running one tool by its profile.

``invoke`` is what the executor does for every check and every AI tool: substitute, start, wait, judge the exit code.
``run_tool`` is the same for a caller that has neither an executor nor an event loop.

Invariants: nothing is started when a placeholder is unknown; a tool sees the environment it was given and what its
profile allows, nothing of ours; a tool's failure is a value, never an exception.
"""

import asyncio
import contextlib
import os
import shlex
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from services.executor.adapters import Adapter, adapter_of, file_of
from services.executor.adapters.source import Source
from services.executor.installation import located
from services.executor.output import Followed
from services.executor.sandbox import Sandbox, SandboxBrokenError, SandboxMissingError
from services.executor.secrets import SecretMissingError, gathered, resolved
from services.executor.trial import Trials, hint
from services.git import Git, GitError, text
from services.outcome import Cost, Outcome
from services.process import (
    Containment,
    Exit,
    Launch,
    ProcessError,
    ProgramMissingError,
    SpawnError,
    Supervisor,
    Tool,
    child_environment,
)
from services.profiles import (
    Context,
    PlaceholderError,
    ToolProfile,
    shipped_tool_profiles,
    substitute,
    substitute_one,
)

EXIT_TIMEOUT = -1
EXIT_NOT_FOUND = -2
EXIT_OTHER = -3
CANCEL_GRACE_S = 3.0
"""Between SIGTERM and SIGKILL for a tool that nobody waits for any more; less where its profile says less."""

LISTEN_S = 0.25
LISTEN_BYTES = 128 * 1024
"""Fed at once; a few milliseconds of work."""

RING_BYTES = 32 * 1024 * 1024
"""How far a tool may be ahead of its adapter once its output is cut; also what one round of listening reads at most."""

OVERSPENT_S = 1.0
"""How long a tool may go on that has spent more than it may: one that was about to end is not ended."""

OVERSPENT_PATIENT_S = 10.0
"""The same for a tool that was told its cap or has said its last word: its totals are worth the wait."""

WITHOUT_SANDBOX = "it ran without a sandbox: "
"""Before the reason, wherever it is told."""

RESULT_BYTES = 1024 * 1024  # of each output, in a ToolResult

InvocationError = Literal["not_found", "spawn_failed", "placeholder", "secret_missing", "sandbox_missing"]


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What came of starting a tool: either an ``exit`` or an ``error`` with its ``message``.

    ``argv`` is for people and reports: what is not UTF-8 in it stands there escaped.

    ``ok`` means that it ended by itself with one of the profile's success codes; whether anything changed, and what a
    report says, is judged elsewhere. ``unconfined`` says why it ran without the sandbox that it wanted, as far as that is to
    be told of each attempt; ``hint`` what to do about a sandbox that may have kept it from starting; both "" otherwise.
    ``stdout`` and ``stderr`` are files, which may not exist when there is an error.
    """

    argv: tuple[str, ...]
    exit: Exit | None = None
    error: InvocationError | None = None
    message: str = ""
    stdout: Path
    stderr: Path
    ok: bool = False
    unconfined: str = ""
    hint: str = ""


def tool_path(path: str) -> str:
    """A PATH with the folder of our interpreter last, so that checkers installed beside Swell are found."""
    own = str(Path(sys.executable).parent)
    return path if own in path.split(os.pathsep) else f"{path}{os.pathsep}{own}"


async def invoke(
    supervisor: Supervisor,
    profile: ToolProfile,
    context: Context,
    *,
    cwd: Path,
    env: Mapping[str, str],
    scratch: Path,
    timeout_s: float,
    idle_timeout_s: float = 0.0,
    output_bytes: int,
    marker: str,
    fix: bool = False,
    sandbox: Sandbox | None = None,
    trials: Trials | None = None,
    on_unconfined: Callable[[str], None] | None = None,
    on_started: Callable[[Tool], None] | None = None,
    followed: bool = False,
) -> Invocation:
    """Runs one tool to its end, in ``cwd``, with its outputs in ``scratch``.

    ``env`` is the whole environment of the tool, but for what the profile adds to it: variables, and secrets. A profile that
    wants a sandbox gets ``sandbox``; without one only what insists on it is refused. An AI tool that does not start in it by
    ``trials`` has none, or is refused, as well. The limits are the lower of the
    profile's and the caller's; ``idle_timeout_s`` (0: none) holds as ``idle_limit_s`` says. ``fix`` takes the profile's
    ``fix_args``. ``on_unconfined`` is called before a tool is started without the sandbox that it wanted, with the reason, as
    far as that is to be told. ``on_started`` is called once the tool runs, and may keep the ``Tool``. ``followed``:
    somebody listens (``Listening``), and is to hear what is cut out of its outputs as well. Cancelling the call stops the
    tool, with a grace of at most CANCEL_GRACE_S, and waits until it is dead.

    Raises:
        SupervisorGoneError: there is no supervisor to start it; says nothing about the tool.
    """
    stdout, stderr = scratch / "stdout", scratch / "stderr"

    def refused(error: InvocationError, reason: Exception) -> Invocation:
        return Invocation(argv=argv, error=error, message=str(reason), stdout=stdout, stderr=stderr)

    def launched(*, sandboxed: bool) -> Launch:
        return _launch(
            profile,
            known,
            cwd,
            env,
            fix=fix,
            sandboxed=sandboxed,
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
            output_bytes=output_bytes,
            marker=marker,
            stdout=stdout,
            stderr=stderr,
            followed=followed,
        )

    argv: tuple[str, ...] = (profile.command,)
    known = {"cwd": str(cwd), "worktree_path": str(cwd), **context, "scratch": str(scratch)}
    unconfined = ""
    try:
        launch = launched(sandboxed=False)
        argv = _told(launch)
        secrets = resolved(profile, () if sandbox is None else sandbox.hidden)
        if profile.sandboxing != "none":
            unconfined = await _unconfined(profile, launch, env, sandbox, trials, known)
            launch = launched(sandboxed=not unconfined)
            argv = _told(launch)
        launch = msgspec.structs.replace(launch, env={**launch.env, **secrets})
        if unconfined and profile.sandboxing == "bwrap":
            return refused("sandbox_missing", SandboxMissingError(unconfined))
        _furnish(profile, env)
        if sandbox is not None and profile.sandboxing != "none" and not unconfined:
            launch = sandbox.confine(launch, profile, known)
    except PlaceholderError as error:
        return refused("placeholder", error)
    except SecretMissingError as error:
        return refused("secret_missing", error)
    except SandboxMissingError as error:
        return refused("sandbox_missing", error)
    except (OSError, SandboxBrokenError) as error:
        return refused("spawn_failed", error)
    told = unconfined if _is_told(profile, sandbox) else ""
    if told and on_unconfined is not None:
        on_unconfined(told)
    try:
        tool = await supervisor.spawn(launch)
    except ProgramMissingError as error:
        return refused("not_found", error)
    except SpawnError as error:
        return refused("spawn_failed", error)
    try:
        if on_started is not None:
            on_started(tool)
        ended = await tool.wait()
    except BaseException:
        tool.stop(grace_s=CANCEL_GRACE_S)
        await tool.wait()
        raise
    ok = ended.ended_by == "itself" and ended.exit_code in profile.success_exit_codes
    return Invocation(
        argv=argv,
        exit=ended,
        ok=ok,
        stdout=stdout,
        stderr=stderr,
        unconfined=told,
        hint=hint(ended, stderr) if launch.wrapped and not ok else "",
    )


def _told(launch: Launch) -> tuple[str, ...]:
    return tuple(word.encode(errors="backslashreplace").decode() for word in launch.argv)


async def _unconfined(
    profile: ToolProfile,
    launch: Launch,
    env: Mapping[str, str],
    sandbox: Sandbox | None,
    trials: Trials | None,
    context: Context,
) -> str:
    """Why a tool whose profile wants a sandbox cannot have one; "" when it can."""
    if sandbox is None:
        return 'there are sandboxes in executors only: submit a run, or set "sandbox": "none" in its profile'
    if sandbox.reason or trials is None or profile.type != "ai":
        return sandbox.reason
    program = located(launch.argv[0], launch.cwd, launch.env.get("PATH", os.defpath))
    if program is None or sandbox.is_own(program) or sandbox.leads_to_own(launch, env):
        return ""
    return (await trials.of(program, profile, env, sandbox, context)).unconfined


def _is_told(profile: ToolProfile, sandbox: Sandbox | None) -> bool:
    """Whether it is told that there was no sandbox. That an executor has none at all is told once, unless it is asked for."""
    return profile.sandbox is not None or sandbox is None or not sandbox.reason


def _launch(
    profile: ToolProfile,
    context: Context,
    cwd: Path,
    env: Mapping[str, str],
    *,
    fix: bool,
    sandboxed: bool,
    timeout_s: float,
    idle_timeout_s: float,
    output_bytes: int,
    marker: str,
    stdout: Path,
    stderr: Path,
    followed: bool,
) -> Launch:
    arguments = profile.fix_args if fix and profile.fix_args is not None else profile.args
    if sandboxed:
        other = profile.args_in_sandbox
        arguments = tuple(
            other.get(word, word) if isinstance(word, str) else tuple(other.get(one, one) for one in word)
            for word in arguments
        )
    allowed = {name: os.environ[name] for name in profile.env_allow if name in os.environ}
    added = {name: substitute_one(value, context) for name, value in profile.env.items()}
    return Launch(
        argv=(substitute_one(profile.command, context), *substitute((*profile.headless_args, *arguments), context)),
        cwd=cwd if profile.working_dir is None else cwd / substitute_one(profile.working_dir, context),
        env={**env, **allowed, **added},
        stdin=None if profile.stdin is None else Path(substitute_one(profile.stdin, context)),
        stdout=stdout,
        stderr=stderr,
        timeout_s=min(profile.timeout_sec, timeout_s),
        idle_timeout_s=idle_limit_s(profile, idle_timeout_s),
        grace_s=profile.grace_sec,
        output_bytes=min(profile.output_bytes, output_bytes),
        ring_bytes=RING_BYTES if followed else 0,
        memory_bytes=profile.memory_bytes,
        processes=profile.processes,
        marker=marker,
    )


def _furnish(profile: ToolProfile, env: Mapping[str, str]) -> None:
    """Puts the profile's files into the home folder.

    It is fresh, but a setup command of the repository may have been there before: no link in it is followed.
    """
    for path, content in profile.home_files.items():
        *folders, name = path.split("/")
        at = os.open(env["HOME"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o700, dir_fd=at)
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = inner
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=at)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=at), "w", encoding="utf-8") as file:
                file.write(content)
        finally:
            os.close(at)


class Purse(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool may spend: nano-dollars, and what it has spent at the least by what it told (None: nobody knows).

    `named` adds what its profile says and it did not. `told`: the tool has been given its cap, and is expected to end by itself.
    """

    cap_nano: int
    price: Callable[[Outcome], Cost | None]
    named: Callable[[Outcome], Outcome]
    told: bool = False


class Listening:
    """Feeds an adapter with what its tool writes, while it writes it; as an async context around the tool's run.

    The files are within the tool's reach, so each is read as `read_output` does it, up to a limit; output that the
    supervisor cuts is read from its ring. A tool that has said its last word and then nothing for `linger_s` is ended, for
    some never do so themselves; `lingered` tells that, and such an end is no failure. A tool that has spent more than its
    purse holds, and goes on, is ended; `overspent_nano` is what it had spent by then. What has no price ends nothing:
    `unpriced` names the models.
    """

    def __init__(
        self,
        profile: ToolProfile,
        context: Context,
        scratch: Path,
        *,
        limit_bytes: int,
        linger_s: float,
        purse: Purse | None = None,
    ) -> None:
        """`context` is that of the tool. Raises PlaceholderError for a file of the profile's that cannot be named."""
        self.lingered = False
        self.overspent_nano: int | None = None
        self.unpriced: tuple[str, ...] = ()
        self._adapter = adapter_of(profile)
        self._linger_s = linger_s
        self._purse = purse
        self._spent_nano = 0
        self._tool: Tool | None = None
        self._outputs: dict[Source, Followed] = {}
        self._task: asyncio.Task[None] | None = None
        self._outcome: Outcome | None = None
        if self._adapter is not None:
            file = file_of(profile)
            for source in self._adapter.sources:
                named = {"stdout": "stdout", "stderr": "stderr"}.get(source) or file
                if named is not None:
                    told = {**context, "scratch": str(scratch)}
                    path = scratch / (named if source != "file" else substitute_one(named, told))
                    self._outputs[source] = Followed(path, limit_bytes, RING_BYTES if source != "file" else 0)

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        while await self._catch_up():
            pass

    def outcome(self, ended: Exit | None) -> Outcome:
        """What the tool came to by its own word; `ended` is None when it was not seen to end. The tool is dead by then."""
        if self._outcome is None:
            exit_code = ended.exit_code if ended is not None and ended.ended_by == "itself" else None
            told = Outcome() if self._adapter is None else self._adapter.finish(exit_code)
            if told.usage is not None and self._adapter is not None and self._is_partial(self._adapter, ended):
                told = msgspec.structs.replace(told, usage=msgspec.structs.replace(told.usage, lower_bound=True))
            self._outcome = told
        return self._outcome

    def _is_partial(self, adapter: Adapter, ended: Exit | None) -> bool:
        missed = ended is None or any(output.lost for output in self._outputs.values())
        return (adapter.sums and missed) or (self.overspent_nano is not None and not adapter.concluded)

    def watch(self, tool: Tool) -> None:
        """This is the tool: it may be ended when it lingers, or has spent too much."""
        self._tool = tool

    async def _listen(self) -> None:
        silent_s = over_s = 0.0
        while True:
            await asyncio.sleep(LISTEN_S)
            heard = await self._catch_up()
            silent_s = 0.0 if heard else silent_s + LISTEN_S
            over_s = over_s + LISTEN_S if self._is_over() else 0.0
            if self._adapter is None or self._tool is None or self._tool.ended.done():
                continue
            if self._adapter.concluded and silent_s >= self._linger_s:
                self.lingered = True
            elif self._purse is not None and over_s > self._patience_s(self._adapter, self._purse):
                self.overspent_nano = self._spent_nano
            else:
                continue
            self._tool.stop(grace_s=CANCEL_GRACE_S)
            return

    def _patience_s(self, adapter: Adapter, purse: Purse) -> float:
        return OVERSPENT_PATIENT_S if purse.told or adapter.concluded else OVERSPENT_S

    def _is_over(self) -> bool:
        return self._purse is not None and self._spent_nano > self._purse.cap_nano

    async def _catch_up(self) -> bool:
        """Feeds what is there now, piece by piece, so that nobody waits long for the loop; whether there was anything."""
        more = False
        for source, output in self._outputs.items():
            fed = 0
            while fed < RING_BYTES:
                data = output.read(LISTEN_BYTES)
                if not data or self._adapter is None:
                    break
                fed += len(data)
                self._adapter.feed(data, source)
                more = True
                await asyncio.sleep(0)
        if more:
            self._reckon()
        return more

    def _reckon(self) -> None:
        """What was spent, by what was told so far."""
        if self._adapter is None or self._purse is None:
            return
        spent = 0
        unpriced = []
        for part in map(self._purse.named, self._adapter.so_far()):
            cost = self._purse.price(part)
            if cost is not None:
                spent += cost.nano_usd
            elif part.usage is not None:
                unpriced.append(part.model)
        self._spent_nano = spent
        self.unpriced = tuple(unpriced)


def idle_limit_s(profile: ToolProfile, idle_timeout_s: float) -> float | None:
    """How long a tool may go without progress: by its profile (0: for ever), else by the step, unless it is an AI tool.

    An AI tool whose profile says nothing has no such limit: a model that thinks prints nothing.
    """
    if profile.idle_timeout_sec is not None:
        return profile.idle_timeout_sec or None
    return None if profile.type == "ai" else idle_timeout_s or None


def untimely(
    invocation: Invocation, profile: ToolProfile, *, timeout_s: float, idle_timeout_s: float
) -> tuple[Literal["timeout", "idle_timeout"], str] | None:
    """The error class of a tool that was ended because of a limit, and what to do about it; None for any other end."""
    ended = invocation.exit
    if ended is None or ended.ended_by not in {"timeout", "idle"}:
        return None
    name = invocation.argv[0]
    if ended.ended_by == "idle":
        limit_s = idle_limit_s(profile, idle_timeout_s)
        more = ", or timeouts.idle in the breaker configuration" if profile.idle_timeout_sec is None else ""
        return "idle_timeout", (
            f"{name} made no progress for {limit_s:g} s (no output, no CPU time, no changed file) and was ended after "
            f"{ended.wall_s:.1f} s: raise idle_timeout_sec in its profile (0: no limit){more}"
        )
    key = "timeout_sec in its profile"
    if timeout_s <= profile.timeout_sec:
        key = "the time limit of the step (timeouts in the breaker configuration)"
    limit_s = min(timeout_s, profile.timeout_sec)
    return (
        "timeout",
        f"{name} reached its timeout of {limit_s:g} s and was ended after {ended.wall_s:.1f} s: raise {key}",
    )


def multiplied(invocation: Invocation, profile: ToolProfile) -> str:
    """What to say of a tool that was ended because it had more processes than it may; "" for any other end."""
    if invocation.exit is None or invocation.exit.ended_by != "processes":
        return ""
    return f"{invocation.argv[0]} had more than {profile.processes} processes and was ended: raise processes in its profile"


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_tool`` returns.

    ``exit_code`` is the tool's own, 128 + n when signal n ended it, -1 when its time was up, -2 when the program was not
    found, -3 when it could not be run for another reason, which ``stderr`` then states. ``stderr`` begins with a line of ours
    when the tool's profile wants a sandbox, as those of the type ai do: it had none. ``started_at`` and
    ``completed_at`` are ISO 8601 in UTC; ``duration_sec`` and ``elapsed_sec`` are the same number. ``content`` has
    ``files_modified``, ``diff`` and ``tool`` where the worktree is one of git's, and is empty elsewhere. ``truncated``
    says that ``stdout`` or ``stderr`` is not whole; then a mark in it stands for what was left out.
    """

    tool_id: str
    command_line: str
    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool
    started_at: str
    completed_at: str
    duration_sec: float
    elapsed_sec: float
    success: bool
    content: dict[str, object]
    truncated: bool = False


def run_tool(
    tool_id: str,
    context: Mapping[str, object],
    profiles: Mapping[str, ToolProfile] | None = None,
    run_id: str | None = None,
    ws_id: str | None = None,
    *,
    containment: Containment = "auto",
) -> ToolResult:
    """Runs one tool and waits for it, in ``context["worktree_path"]`` or else the current folder, without a sandbox.

    The context's strings, numbers and ``files`` are what placeholders stand for; ``timeout_sec`` in it replaces the
    profile's; ``{prompt_file}`` is a file with its ``prompt``, and ``{repo_root}`` the worktree, unless it names others.
    ``profiles`` defaults to the shipped ones.

    Raises:
        KeyError: there is no profile ``tool_id``. A failure of the tool is a result, never an exception.
    """
    known = shipped_tool_profiles() if profiles is None else profiles
    if tool_id not in known:
        raise KeyError(f"no tool profile {tool_id!r}; known are {', '.join(sorted(known))}")
    marker = f"{run_id or 'local'}/{ws_id or tool_id}/{uuid.uuid4().hex}"
    cwd = Path(str(context.get("worktree_path") or ".")).absolute()
    running = _run_tool(tool_id, known[tool_id], context, cwd=cwd, marker=marker, containment=containment)
    if not _loop_is_running():
        return asyncio.run(running)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, running).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _run_tool(
    tool_id: str,
    profile: ToolProfile,
    context: Mapping[str, object],
    *,
    cwd: Path,
    marker: str,
    containment: Containment,
) -> ToolResult:
    started_at = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="swell-tool-") as folder:
        scratch = Path(folder)
        before = await _tree(cwd, scratch)
        try:
            invocation = await _invoke_alone(
                profile, context, cwd=cwd, scratch=scratch, marker=marker, containment=containment
            )
        except (ProcessError, OSError, ValueError) as error:
            invocation = Invocation(
                argv=(profile.command,), error="spawn_failed", message=str(error), stdout=scratch, stderr=scratch
            )
        content = await _content(tool_id, cwd, scratch, before)
        completed_at = datetime.now(UTC)
        mask = gathered([profile]).mask_text
        stdout, stderr = mask(_shown(invocation.stdout)), mask(_shown(invocation.stderr))
    ended = invocation.exit
    without = f"{WITHOUT_SANDBOX}{invocation.unconfined}\n" if invocation.unconfined else ""
    duration = ended.wall_s if ended is not None else (completed_at - started_at).total_seconds()
    return ToolResult(
        tool_id=tool_id,
        command_line=shlex.join(invocation.argv),
        exit_code=_exit_code(invocation),
        stdout=stdout,
        stderr=f"{without}{stderr}{invocation.message}",
        timed_out=ended is not None and ended.ended_by in {"timeout", "idle"},
        started_at=started_at.isoformat(),
        completed_at=completed_at.isoformat(),
        duration_sec=duration,
        elapsed_sec=duration,
        success=invocation.ok,
        content=content,
        truncated=ended is not None and (ended.stdout_truncated or ended.stderr_truncated),
    )


async def _invoke_alone(
    profile: ToolProfile,
    context: Mapping[str, object],
    *,
    cwd: Path,
    scratch: Path,
    marker: str,
    containment: Containment,
) -> Invocation:
    """``invoke`` with everything that an executor would have at hand."""
    home, temporary, prompt_file = scratch / "home", scratch / "tmp", scratch / "prompt.md"
    home.mkdir()
    temporary.mkdir()
    known: dict[str, object] = {"repo_root": str(cwd), **context}
    if "prompt" in context and "prompt_file" not in context:
        prompt_file.write_text(str(context["prompt"]), encoding="utf-8")
        known["prompt_file"] = str(prompt_file)
    timeout_s = float(str(context.get("timeout_sec", profile.timeout_sec)))
    environment = child_environment(home=home, temporary=temporary)
    supervisor = Supervisor(containment)
    await supervisor.start()
    try:
        return await invoke(
            supervisor,
            msgspec.structs.replace(profile, timeout_sec=timeout_s),
            known,
            cwd=cwd,
            env=environment | {"PATH": tool_path(environment["PATH"])},
            scratch=scratch,
            timeout_s=timeout_s,
            output_bytes=RESULT_BYTES,
            marker=marker,
        )
    finally:
        await supervisor.close()


def _exit_code(invocation: Invocation) -> int:
    ended = invocation.exit
    if ended is None:
        return EXIT_NOT_FOUND if invocation.error == "not_found" else EXIT_OTHER
    if ended.ended_by in {"timeout", "idle"}:
        return EXIT_TIMEOUT
    if ended.ended_by != "itself":
        return EXIT_OTHER
    if ended.exit_code is not None:
        return ended.exit_code
    return EXIT_OTHER if ended.signal is None else 128 + ended.signal


def _shown(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


async def _tree(worktree: Path, scratch: Path) -> str | None:
    """The tree of everything in a git worktree, ignored files apart; None when there is no such thing to be had.

    Index and objects go to ``scratch``, so the repository is not touched.
    """
    git = Git(worktree)
    try:
        top = text(await git("rev-parse", "--show-toplevel"))
        objects = text(await git("rev-parse", "--path-format=absolute", "--git-path", "objects"))
        (scratch / "objects").mkdir(exist_ok=True)
        aside = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        whole = Git(Path(top))
        await whole("add", "--all", environment=aside)
        return text(await whole("write-tree", environment=aside))
    except GitError:
        return None


async def _content(tool_id: str, worktree: Path, scratch: Path, before: str | None) -> dict[str, object]:
    """What the tool changed in a git worktree, whatever was changed there before."""
    after = None if before is None else await _tree(worktree, scratch)
    if before is None or after is None:
        return {}
    git = Git(worktree)
    try:
        objects = text(await git("rev-parse", "--path-format=absolute", "--git-path", "objects"))
        aside = {
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        names = await git("diff-tree", "-r", "-z", "--name-only", "--no-renames", before, after, environment=aside)
        diff = await git("diff-tree", "-r", "-p", "--binary", "--full-index", before, after, environment=aside)
    except GitError:
        return {}
    return {
        "files_modified": [name.decode(errors="replace") for name in names.split(b"\0") if name],
        "diff": diff.decode(errors="replace"),
        "tool": tool_id,
    }
