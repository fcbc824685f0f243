"""One step, from a command to what happened: workspace, tool, snapshot, evidence.

Work is kept before anything is cleaned up: whatever a tool attempt produced is committed, bundled from the run's base
commit, and uploaded, before the fact that names it is appended; failed attempts too.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec
import structlog

from services.artifacts import Artifacts
from services.bus import Bus, BusError
from services.checks import EffectiveChecks
from services.commands import RunStep
from services.compensation import GRAMMAR, BranchDelete, Cmd, CompensationError, GitRevert, parse_action
from services.context import (
    FILE_CHARS_MAX,
    ContextDecision,
    ContextFile,
    decide_context,
    estimate_tokens,
    halved,
    input_limit,
)
from services.diagnostic import Diagnostic, summarise
from services.events import (
    LINE,
    Artifact,
    Check,
    Delivered,
    Destination,
    ErrorClass,
    HandedContext,
    Snapshot,
    StepFinished,
)
from services.executor import prompts
from services.executor import snapshot as snapshots
from services.executor.checking import OUTPUT_MARGIN_BYTES, Checking, Judged, literal_profile
from services.executor.clean import CleanFiles
from services.executor.delivery import Story, access, delivery_key, dressed, patches, told
from services.executor.merge import (
    Conflict,
    MergeUnavailableError,
    blame_workstreams,
    commit_on,
    is_marked,
    side,
    three_tree,
)
from services.executor.mirror import DeliveryRefusedError, MirrorError, attempt_ref, delivery_ref, quarantine_ref
from services.executor.output import read_output
from services.executor.ports import PortBlocks
from services.executor.repositories import Repositories, Repository, has_room
from services.executor.sandbox import Bubblewrap, Exposure, Sandbox, look
from services.executor.scratch import Scratches, caches
from services.executor.secrets import SecretMissingError, gathered
from services.executor.snapshot import SnapshotError, Taken
from services.executor.tampering import findings
from services.executor.tools import (
    CANCEL_GRACE_S,
    WITHOUT_SANDBOX,
    Invocation,
    InvocationError,
    Listening,
    Purse,
    invoke,
    multiplied,
    tool_path,
    untimely,
)
from services.executor.trial import Trials
from services.executor.workspace import Workspace, WorkspaceError
from services.git import Git, GitError
from services.masking import Masking, Secrets
from services.outcome import Cost, Outcome, usd_text
from services.prices import load_prices
from services.process import Exit, Launch, ProcessError, Supervisor, Tool, child_environment
from services.profiles import PlaceholderError, ToolProfile, model_of, placeholders
from services.scope import Droppings, Scope, ScopePattern
from services.spec import CHECKS_NAMED_MAX, Definitions, Ranges, decode_spec
from services.trace import VARIABLE, of_attempt, of_run
from services.wire import live_subject

log = structlog.get_logger()

ARGUMENT_BYTES_MAX: Final = 120 * 1024
"""The kernel takes 128 KiB for one argument."""

FILES_NAMED_MAX = 200
FILES_NAMED_CHARS = 12_000
FILES_EXPANDED_MAX = 2_000
PATCH_BYTES_MAX = 20 * 1024 * 1024
EARLIER_PATCH_CHARS = 50_000
MESSAGE_CHARS = 1500
DISK_FREE_BYTES_MIN = 256 * 1024
"""With less than this, whatever fails has failed for want of room."""

SCANNED_AT_ONCE_BYTES = 32 * 1024 * 1024
"""Of the content of changed files, while it is searched for secrets; a larger file is searched alone."""

LIVE_POLL_S = 0.25
LIVE_BYTES = 32 * 1024


class StepConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where an executor works, and its limits.

    `output_bytes` is kept of each output of a tool; `keep_work_timeout_s` is how long the work of a step that is stopped
    may take to be kept; `prices_files` are laid over the shipped prices; `linger_s` how long an AI tool may go on in silence after it has said its last word.
    `sandbox_read` is what every tool sees in a sandbox besides the system; `hidden` what none sees, as is all of `root`.
    Attempts have blocks of ports from `port_first` to `port_last`, and are refused while the disk has less than
    `disk_free_bytes` free; `partial_clone` is told to mirrors.
    """

    root: Path
    slots: int
    output_bytes: int = 10 * 1024 * 1024
    setup_timeout_s: float = 900.0
    keep_work_timeout_s: float = 30.0
    linger_s: float = 30.0
    prices_files: tuple[Path, ...] = ()
    sandbox_read: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    specs_kept: int = 16
    port_first: int = 0
    port_last: int = 0
    disk_free_bytes: int = 0
    partial_clone: bool = True

    @property
    def exposure(self) -> Exposure:
        """What of this machine a sandbox shows, and what it never does."""
        return Exposure(readable=self.sandbox_read, hidden=(self.root, *self.hidden))


class _Failed(Exception):  # noqa: N818 - not an error of ours: an outcome that ends the step early
    def __init__(self, error_class: ErrorClass, message: str, artifacts: list[Artifact] | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.artifacts = artifacts or []


class Stopped(msgspec.Struct, frozen=True):
    """What a step leaves that was stopped: how many processes were ended, and its work, if its tool had been started.

    `whole`: the tool had ended by itself, so `kept` is the step's own result.
    """

    processes: int = 0
    kept: StepFinished | None = None
    whole: bool = False


_BLAMED_ON_TOOLS: Final = frozenset({"tool_failed", "check_failed", "check_error", "setup_error", "no_change"})
"""What a full disk makes of tools; neither they nor the workstream are to blame then."""

_TRIED: Final = frozenset({"tool_failed", "timeout", "idle_timeout"})
"""Failures of a tool that has had its chance at the work."""

_NOT_STARTED: Final[dict[InvocationError | None, ErrorClass]] = {
    "not_found": "tool_missing",
    "sandbox_missing": "tool_missing",
    "secret_missing": "auth",
}
_FULL_TEXTS: Final = ("No space left on device", "Disk quota exceeded")
_TROUBLE: Final = (MirrorError, WorkspaceError, SnapshotError, GitError, MergeUnavailableError, ProcessError)


class Steps:
    """Runs steps for an executor. One supervisor, one mirror per repository, one folder of worktrees per mirror."""

    def __init__(self, config: StepConfig, artifacts: Artifacts, supervisor: Supervisor, bus: Bus) -> None:
        """`bus` is asked only to say live output. Raises PriceTableError for a price file that cannot be used."""
        self.config = config
        self.prices = load_prices(*config.prices_files)
        self.artifacts = artifacts
        self.supervisor = supervisor
        self.bus = bus
        self._definitions: OrderedDict[str, Definitions] = OrderedDict()
        self.repositories = Repositories(config.root, config.slots, strays=self._strays, partial=config.partial_clone)
        self.ports = PortBlocks(config.port_first, config.port_last)
        self.setups: Counter[str] = Counter()
        """The setups that attempts use just now, by name."""
        self._unconfined = 0
        self._loose: set[Tool] = set()
        self.setup_locks: dict[str, asyncio.Lock] = {}
        self._stopped: dict[tuple[str, str, int], Stopped] = {}
        self.clean = CleanFiles(config.root / "clean")
        self.scratches = Scratches(config.root / "scratch", config.slots)
        self._droppings: dict[tuple[str, ...], Droppings] = {}
        self.bubblewrap = Bubblewrap(reason="nobody has looked for one")
        self.trials = Trials(supervisor, config.root / "scratch")

    async def prepare(self) -> None:
        """Remove what a former life of this executor left behind, and find out whether tools can have a sandbox."""
        for name in ("scratch", "worktrees"):
            await asyncio.to_thread(shutil.rmtree, self.config.root / name, ignore_errors=True)
        for name in ("scratch", "worktrees", "mirrors", "setup", "cache"):
            (self.config.root / name).mkdir(parents=True, exist_ok=True)
        self.bubblewrap = await look(self.supervisor, self.config.root / "scratch")
        if self.bubblewrap.reason:
            log.warning(
                "executor.no_sandbox", reason=self.bubblewrap.reason, consequence="tools see this whole machine"
            )
        else:
            log.info("executor.sandbox", program=self.bubblewrap.program, flags=self.bubblewrap.flags)

    def sandbox(self) -> Sandbox:
        """What programs are tried in before there is any attempt."""
        return Sandbox(
            self.bubblewrap,
            self.config.exposure,
            scratch=self.config.root / "scratch",
            contained=self.supervisor.mode == "pidns",
        )

    def droppings(self, patterns: tuple[str, ...]) -> Droppings:
        """These patterns, ready to match."""
        if patterns not in self._droppings:
            self._droppings[patterns] = Droppings(patterns)
        return self._droppings[patterns]

    def stopped(self, key: tuple[str, str, int]) -> Stopped:
        """What an attempt left whose `run` was cancelled; asked once."""
        return self._stopped.pop(key, Stopped())

    async def run(self, command: RunStep) -> StepFinished:
        """Carry out a command; nothing is raised but a cancellation.

        Cancelling it ends its tool and keeps its work, within `keep_work_timeout_s`, before the cancellation goes on;
        `stopped` then says what there is.
        """
        started = time.monotonic()
        attempt: _Attempt | None = None
        try:
            self._require_room()
            definitions = await self._definition(command)
            location = definitions.spec.repository.location
            async with self.repositories.used(location, command.run) as repository:
                await repository.mirror.ensure(definitions.spec.repository.base_commit, run=command.run)
                attempt = _Attempt(self, command, definitions, repository)
                result = await self._carried_out(attempt)
        except _Failed as failed:
            result = StepFinished(
                ok=False,
                error_class=failed.error_class,
                message=str(failed)[:1500],
                artifacts=failed.artifacts,
            )
        except _TROUBLE as error:
            result = StepFinished(ok=False, error_class="workspace_error", message=self._explained(error))
        except (BusError, OSError, ValueError) as error:
            if not _says_full(error):
                log.error("step.failed", exc_info=error)
            result = StepFinished(ok=False, error_class="workspace_error", message=self._explained(error))
        if result.cost is None and command.step.cap is not None:
            result = _free(result) if attempt is None else attempt.accounted(result)
        if attempt is not None:
            result = attempt.described(result)
        result = redacted(result, attempt.secrets if attempt is not None else Secrets(()))
        if result.error_class in _BLAMED_ON_TOOLS and self._disk_is_full():
            message = f"{self._full} ({result.message})"[:MESSAGE_CHARS]
            result = msgspec.structs.replace(result, error_class="workspace_error", message=message)
        return msgspec.structs.replace(result, wall_s=round(time.monotonic() - started, 4))

    def has_room(self) -> bool:
        """Whether the disk keeps `disk_free_bytes` free."""
        return has_room(self.config.root, self.config.disk_free_bytes)

    def _require_room(self) -> None:
        if not self.has_room():
            raise _Failed("workspace_error", self.no_room)

    @property
    def no_room(self) -> str:
        """What is said of an attempt that is refused because there is no room."""
        return (
            f"the disk of {self.config.root} has less than {self.config.disk_free_bytes} bytes free, which is what "
            "disk_free_bytes keeps: free space there, or give the executor a state_dir on a larger one"
        )

    def started(self, tool: Tool, workspace: Workspace) -> None:
        """A tool was started in a workspace; one without a sandbox could write into any."""
        workspace.started()
        if not tool.wrapped:
            self._unconfined += 1
            self._loose.add(tool)
            tool.ended.add_done_callback(lambda _: self._loose.discard(tool))

    def _strays(self) -> int | None:
        """How many tools without a sandbox were started so far; None while one runs, or what it left behind may."""
        surely = self.supervisor.mode == "pidns" or not self._unconfined
        return self._unconfined if surely and not self._loose else None

    @property
    def _full(self) -> str:
        root = self.config.root
        return f"the disk of {root} is full: free space there, or give the executor a state_dir on a larger one"

    def _explained(self, error: Exception) -> str:
        if _says_full(error):
            return f"{self._full} ({error})"[:MESSAGE_CHARS]
        return (str(error) if isinstance(error, _TROUBLE) else f"{type(error).__name__}: {error}")[:MESSAGE_CHARS]

    def _disk_is_full(self) -> bool:
        try:
            disk = os.statvfs(self.config.root)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < DISK_FREE_BYTES_MIN

    async def _carried_out(self, attempt: "_Attempt") -> StepFinished:
        try:
            return await attempt.carry_out()
        except asyncio.CancelledError:
            self._stopped[attempt.key] = attempt.stopped()
            raise

    async def _definition(self, command: RunStep) -> Definitions:
        digest = command.spec.digest
        known = self._definitions.get(digest)
        if known is None:
            known = Definitions(decode_spec(await self.artifacts.get(command.spec)))
            self._definitions[digest] = known
            while len(self._definitions) > self.config.specs_kept:
                self._definitions.popitem(last=False)
        return known


class _Attempt:
    """One attempt at a step, with its folder and its placeholders."""

    def __init__(self, steps: Steps, command: RunStep, definitions: Definitions, repository: Repository) -> None:
        self.steps = steps
        self.command = command
        self.step = command.step
        self.definitions = definitions
        self.spec = definitions.spec
        self.repository = repository
        self.key = (command.run, command.step.workstream, command.step.attempt)
        self.marker = f"{command.run}/{command.step.workstream}/{command.step.attempt}"
        self.trace = of_attempt(of_run(command.run, command.trace), self.key)
        self.workstream = command.step.on_behalf or command.step.workstream
        self.secrets = gathered(self.spec.profiles.values(), steps.config.exposure.hidden)
        self.outcome: Outcome | None = None
        """What its AI tool came to, once it has ended: whatever goes wrong afterwards, it is paid for."""
        self.context: HandedContext | None = None
        """What it was decided to hand to its tool, where that takes files."""
        self._tools: list[Tool] = []
        self._leaked = False
        self._tampered = False
        self._kept: StepFinished | None = None
        self._whole = False
        self._lingered = False
        self._overspent_nano: int | None = None
        self._remarks: list[str] = []
        self._ports: range | None = None
        self._setups: list[str] = []
        self._unconfined = ""
        """Why its AI tool runs without the sandbox that it wanted, from before its start on."""

    async def carry_out(self) -> StepFinished:
        """The step, whichever it is."""
        match self.step.step:
            case "edit" | "fix":
                return await self.change()
            case "static" | "runtime" | "gate":
                return await self.check()
            case "merge":
                return await self.merge()
            case "deliver":
                return await self.deliver()
            case "compensate":
                return await self.compensate()
            case _:
                assert_never(self.step.step)

    def accounted(self, result: StepFinished) -> StepFinished:
        """The result with what the attempt has cost, as far as that is known: nothing, where no tool was started."""
        if not self._tools:
            return _free(result)
        return result if self.outcome is None else self._with_outcome(result, self.outcome)

    def described(self, result: StepFinished) -> StepFinished:
        """The result with what its tool was handed, and whether it lacked its sandbox."""
        message = result.message
        if self._unconfined:
            message = f"{message[: MESSAGE_CHARS - 700]}{'; ' if message else ''}{WITHOUT_SANDBOX}{self._unconfined}"
        return msgspec.structs.replace(result, context=self.context, message=message[:MESSAGE_CHARS])

    def stopped(self) -> Stopped:
        """What is to be said when it did not come to its end. Every tool it started is dead then."""
        ends = [tool.ended.result() for tool in self._tools if tool.ended.done()]
        kept = self._kept
        if kept is None and self.step.cap is not None and not self._tools:
            kept = _free(StepFinished(ok=False))
        if kept is None and self._unconfined:
            kept = StepFinished(ok=False)
        if kept is not None:
            kept = redacted(self.described(kept), self.secrets)
        return Stopped(sum(1 + ended.survivors for ended in ends if ended.ended_by != "itself"), kept, self._whole)

    # Folders, values and environments

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        """The attempt's own folder, outside the worktree, with an empty `home`, `tmp` and `cache`, and its block of ports."""
        folder = self.steps.scratches.take()
        self._ports = self.steps.ports.take()
        try:
            yield folder
        finally:
            self.steps.ports.give_back(self._ports)
            self.steps.setups.subtract(self._setups)
            self._setups.clear()
            self.steps.scratches.give_back(folder)

    def _cache(self, workspace: Workspace) -> Path:
        """A folder that tools may keep caches in: one for each workspace, so never shared by two tools at a time.

        What changes the tree has another one than what judges it: no check reads what an EDIT has put there.
        """
        cache = (
            self.repository.cache / workspace.path.name / ("work" if self.step.step in {"edit", "fix"} else "checks")
        )
        cache.mkdir(parents=True, exist_ok=True)
        return cache

    def _environment(self, workspace: Workspace, scratch: Path, setup: Path | None) -> dict[str, str]:
        env = child_environment(
            {"PYTHONDONTWRITEBYTECODE": "1", "SWELL_CACHE_DIR": str(self._cache(workspace))},
            home=scratch / "home",
            temporary=scratch / "tmp",
        )
        env |= caches(scratch / "cache")
        env[VARIABLE] = self.trace.text
        if self._ports is not None:
            env |= {"SWELL_PORT_FIRST": str(self._ports.start), "SWELL_PORT_COUNT": str(len(self._ports))}
        path = tool_path(env["PATH"])
        if setup is not None:
            env["SWELL_SETUP_DIR"] = str(setup)
            path = f"{setup / 'bin'}{os.pathsep}{path}"
        return env | {"PATH": path}

    def _sandbox(self, workspace: Workspace, scratch: Path, setup: Path | None) -> Sandbox:
        return Sandbox(
            self.steps.bubblewrap,
            self.steps.config.exposure,
            workspace=workspace,
            scratch=scratch,
            cache=self._cache(workspace),
            setup=setup,
            contained=self.steps.supervisor.mode == "pidns",
        )

    async def _context(
        self,
        workspace: Workspace,
        scratch: Path,
        ranges: Ranges,
        profiles: Iterable[ToolProfile],
        *,
        fix: bool = False,
    ) -> dict[str, Any]:
        """What placeholders stand for. The run's own context comes first: it cannot replace what the engine says."""
        profiles = list(profiles)
        files: list[str] = []
        handed = [profile for profile in profiles if "files" in placeholders(profile, fix=fix)]
        changing = self.step.step in {"edit", "fix"}
        if handed or (not changing and any(profile.suffixes for profile in profiles)):
            files = await asyncio.to_thread(self._files, workspace, self.definitions.files(ranges))
            for profile in handed:
                self._check_number(profile.given(files))
            if changing:
                files = handed[0].given(files)
        bundle = self.definitions.bundles.get(self.workstream)
        limit_usd = Decimal(str(bundle.max_cost_usd or 0)) if bundle is not None else Decimal(0)
        if self.step.cap_nano:  # what is reserved for this attempt
            limit_usd = Decimal(self.step.cap_nano) / 10**9
        caps = {"max_cost_usd": format(limit_usd.normalize(), "f")} if limit_usd else {}
        return {
            **self.spec.options.context,
            **caps,
            "files": files,
            "worktree_path": str(workspace.path),
            "repo_root": str(workspace.path),
            "cwd": str(workspace.path),
            "scratch": str(scratch),
            "cache": str(self._cache(workspace)),
            "python": sys.executable,
            "workstream": self.workstream,
            "run": self.command.run,
            "step": self.step.step,
            "attempt": self.step.attempt,
        }

    def _whose(self, ranges: Ranges) -> str:
        """The workstream whose settings hold: the attempt's own, of the line the first that the tree carries."""
        return self.workstream if self.workstream != LINE else self.definitions.order[ranges[0][0]]

    def _files(self, workspace: Workspace, patterns: Sequence[str]) -> list[str]:
        """The existing files that a declared scope covers; none of them can be taken for an option."""
        found: dict[str, None] = {}
        rest = []
        for pattern in patterns:
            if (workspace.path / pattern).is_file():
                found[pattern] = None
            elif any(mark in pattern for mark in "*?[") or (workspace.path / pattern).is_dir():
                rest.append(ScopePattern(text=pattern))
        if rest:
            for path, status in sorted(workspace.scan().items()):
                if len(status) > 1 and any(pattern.covers(path) for pattern in rest):
                    found[path] = None
        return [f"./{path}" if path.startswith("-") else path for path in found]

    def _started(self, tool: Tool, workspace: Workspace) -> None:
        self._tools.append(tool)
        self.steps.started(tool, workspace)

    def _check_number(self, files: Sequence[str]) -> None:
        """More than FILES_EXPANDED_MAX are an error: a tool that sees only some of its files would judge only those."""
        if len(files) > FILES_EXPANDED_MAX:
            raise _Failed(
                "tool_failed",
                f"{{files}} stands for more than {FILES_EXPANDED_MAX} files: narrow files_scope, or give the tool a folder",
            )

    def _profiles(self, checks: Iterable[Check]) -> list[ToolProfile]:
        return [profile for check in checks if (profile := self.definitions.profile(check)) is not None]

    def _log_in(self, scratch: Path) -> bytes:
        """What the step's tool has printed."""
        limit = self.steps.config.output_bytes + OUTPUT_MARGIN_BYTES
        both = b"".join(read_output(scratch / name, limit) for name in ("stdout", "stderr"))
        return self.secrets.mask(both)

    def _log(self, scratch: Path) -> bytes:
        """The log of the attempt: what its tool has printed, and what we have to say."""
        printed, said = self._log_in(scratch), "".join(self._remarks).encode(errors="backslashreplace")
        end = b"\n" if said and printed and not printed.endswith(b"\n") else b""
        return self._about_sandbox() + printed + end + self.secrets.mask(said)

    def _about_sandbox(self) -> bytes:
        """What a log begins with whose tool ran without the sandbox that it wanted."""
        return self.secrets.mask(f"{WITHOUT_SANDBOX}{self._unconfined}\n".encode()) if self._unconfined else b""

    def _own(self) -> Ranges:
        index = self.definitions.index[self.workstream]
        return ((index, index + 1),)

    # Bringing things here and keeping things

    async def _bring(self, wanted: Snapshot) -> None:
        """Make a commit available in the mirror, from its bundle if need be."""
        mirror = self.repository.mirror
        if wanted.bundle is None or await mirror.has(wanted.commit):
            return
        data = await self.steps.artifacts.get(wanted.bundle)
        with tempfile.NamedTemporaryFile(dir=self.steps.config.root / "scratch", suffix=".bundle") as file:
            await asyncio.to_thread(file.write, data)
            file.flush()
            await mirror.import_bundle(Path(file.name), wanted.commit)

    async def _keep(self, role: str, data: bytes) -> list[Artifact]:
        return [await self.steps.artifacts.put(role, data)] if data else []

    async def _bundle(self, commit: str) -> Artifact:
        ref = attempt_ref(*self.key)
        # In a folder that no tool has seen: a link that one left in its own would lead git anywhere.
        with tempfile.TemporaryDirectory(prefix="bundle-", dir=self.steps.config.root / "scratch") as folder:
            target = Path(folder) / "snapshot.bundle"
            await self.repository.mirror.export_bundle(self.spec.repository.base_commit, commit, ref, target)
            return await self.steps.artifacts.put("bundle", await asyncio.to_thread(target.read_bytes))

    # EDIT and FIX

    async def change(self) -> StepFinished:
        """Run the workstream's tool, and keep what it made of the tree."""
        await self._bring(self.step.input)
        checks = self.definitions.checks(self.workstream)
        bundle = self.definitions.bundles[self.workstream]
        fix = self.step.step == "fix"
        tool = self.step.tool or (checks.fix_tool if fix else None) or bundle.tool
        profile = self.spec.profiles.get(tool)
        if profile is None:
            raise _Failed("tool_missing", f"no tool profile {tool!r}: add it to the tool profiles, or correct the name")
        async with self._scratch() as scratch, self.repository.pool.at(self.step.input.commit) as workspace:
            setup = await self._setup(workspace, checks, scratch)
            told = await self._told(scratch) if fix and self.step.fix is not None else None
            context = await self._context(workspace, scratch, self._own(), [profile], fix=fix)
            files, prompt = await self._handed(workspace, scratch, tool, profile, context["files"], told, fix=fix)
            context["files"] = files
            if profile.suffixes and not files and "files" in placeholders(profile, fix=fix):
                # Without a file many programs take all there are.
                endings = ", ".join(profile.suffixes)
                raise _Failed(
                    "no_change", f"{profile.command} has nothing to do: no file of the scope ends in {endings}"
                )
            if "prompt" in placeholders(profile, fix=fix) and len(prompt.encode()) > ARGUMENT_BYTES_MAX:
                raise _Failed(
                    "context_window",
                    f"the prompt is {len(prompt.encode())} bytes, and {profile.command} takes it as an argument, which holds "
                    f"{ARGUMENT_BYTES_MAX}: give it by {{prompt_file}} or stdin in its profile, or split the workstream",
                )
            (scratch / "prompt.md").write_text(prompt)
            context |= {"prompt": prompt, "prompt_file": str(scratch / "prompt.md")}
            if told is not None:
                context["diagnostics_file"] = str(scratch / "diagnostics.json")
            keeping = asyncio.create_task(self._keep("prompt", prompt.encode()))
            others = len(self._tools)
            invocation: Invocation | None = None
            listening = self._listening(profile, context, scratch, fix=fix)
            try:
                async with listening, self._live(scratch):
                    invocation = await self._invoke(profile, context, workspace, scratch, setup, listening, fix=fix)
                self._lingered = listening.lingered
                self._overspent_nano = listening.overspent_nano
                self._remark_on(listening)
                self._unconfined = invocation.unconfined  # one that could not be started ran nowhere
                self.outcome = self._named(listening.outcome(invocation.exit), profile)
                result = await self._worked(workspace, checks, scratch, await keeping)
                return self._judged_work(result, invocation, self.outcome, profile, checks, scratch)
            except asyncio.CancelledError:
                if len(self._tools) > others:
                    self._remark_on(listening)
                    await self._keep_work(workspace, checks, scratch, keeping)
                    self._kept = self._accounted(self._kept, self._named(listening.outcome(self._last_exit()), profile))
                if self._kept is not None and invocation is not None and _ended_itself(invocation):
                    # Its tool is done and paid for: it must not run again on top of its own work.
                    outcome = self._named(listening.outcome(invocation.exit), profile)
                    self._kept = self._judged_work(self._kept, invocation, outcome, profile, checks, scratch)
                    self._whole = True
                raise
            finally:
                keeping.cancel()

    async def _worked(
        self, workspace: Workspace, checks: EffectiveChecks, scratch: Path, told: list[Artifact]
    ) -> StepFinished:
        """What the tool made of the tree, kept; not yet whether that is a success."""
        taken, logged = await asyncio.gather(
            snapshots.take(
                workspace,
                parent=self.step.input.commit,
                message=f"{self.step.step} {self.marker}\n",
                time_ns=self.command.scheduled_ns,
                droppings=checks.droppings,
            ),
            self._keep("log", self._log(scratch)),
        )
        kept = [*told, *logged]
        # EDIT is about the workstream's own change: what an attempt before this one left in its input counts.
        base = self.step.base or self.step.input
        changed = taken.changed
        if self.step.step == "edit":
            changed = taken.tree != await self.repository.mirror.tree(base.commit)
        bundled = self.step.input.bundle
        files: list[str] = []
        violations: list[str] = []
        conflicts: list[str] = []
        if taken.changed or changed:
            git = self.repository.mirror.git
            changes, patch = await asyncio.gather(
                snapshots.changes(git, base.commit, taken.commit),
                snapshots.patch(git, base.commit, taken.commit, PATCH_BYTES_MAX),
            )
            leaks = await self._leaks(changes)
            if leaks:
                return await self._quarantined(taken, leaks, changes, kept)
            names = "".join(f"{change.status}\t{change.path}\n" for change in changes)
            # A line that is taken out stands in the patch as well: one with a secret is not told, its tree is.
            told_patch = b"" if self.secrets.holds(patch.content) else patch.content
            artifacts = await asyncio.gather(self._keep("patch", told_patch), self._keep("names", names.encode()))
            kept += [*artifacts[0], *artifacts[1]]
            if taken.changed:
                bundled = await self._bundle(taken.commit)
                kept.append(bundled)
            violations = await self._violations(changes, taken)
            if not self.step.trusted:
                tampered = await findings(git, changes, named=self._named_paths, checks=checks)
                self._tampered = bool(tampered) and not violations
                violations = tampered + violations
            if self.step.fix is not None and self.step.fix.step == "merge":
                conflicts = await self._unresolved(changes)
            files = [change.path for change in changes]
        violations += [f"{path}: cannot be part of a commit" for path in taken.left_out]
        return StepFinished(
            ok=False,
            snapshot=Snapshot(commit=taken.commit, tree=taken.tree, bundle=bundled),
            changed=changed,
            files=named(files),
            files_total=len(files),
            violations=named(violations) or [text[:MESSAGE_CHARS] for text in violations[:1]],
            conflicts=named(conflicts),
            artifacts=kept,
        )

    async def _unresolved(self, changes: Sequence[snapshots.Change]) -> list[str]:
        """The changed files in which conflict markers are left."""
        git = self.repository.mirror.git
        new = [change for change in changes if change.status != "D" and not change.is_gitlink]
        marked: set[str] = set()
        for part in await _parted(git, sorted({change.new_id for change in new})):
            content = await git("cat-file", "--batch", stdin=_lines(part), output_bytes=snapshots.LISTING_BYTES)
            if is_marked(content):
                marked |= {one for one in part if is_marked(await _blob(git, one))}
        return [change.path for change in new if change.new_id in marked]

    async def _leaks(self, changes: Sequence[snapshots.Change]) -> list[str]:
        """The changed paths in whose name or new content a known secret stands."""
        if not self.secrets.known:
            return []
        git = self.repository.mirror.git
        new = [change for change in changes if change.status != "D"]
        found = {change.path for change in new if self.secrets.holds(change.path.encode(errors="surrogateescape"))}
        blobs = sorted({change.new_id for change in new if not change.is_gitlink})
        leaking: set[str] = set()
        for part in await _parted(git, blobs):
            content = await git("cat-file", "--batch", stdin=_lines(part), output_bytes=snapshots.LISTING_BYTES)
            if await asyncio.to_thread(self.secrets.holds, content):
                leaking |= (
                    set(part) if len(part) == 1 else {one for one in part if self.secrets.holds(await _blob(git, one))}
                )
        return sorted(found | {change.path for change in new if change.new_id in leaking})

    async def _quarantined(
        self, taken: Taken, leaks: list[str], changes: Sequence[snapshots.Change], kept: list[Artifact]
    ) -> StepFinished:
        """A snapshot with a secret in it is kept where it is, under a ref of its own, and leaves this machine in no form."""
        self._leaked = True
        await self.repository.mirror.keep(quarantine_ref(*self.key), taken.commit)
        log.warning("step.quarantined", commit=taken.commit, files=len(leaks))
        return StepFinished(
            ok=False,
            changed=True,
            files=named([change.path for change in changes]),
            files_total=len(changes),
            violations=named([f"{path}: holds a secret" for path in leaks]) or ["a file holds a secret"],
            artifacts=kept,
        )

    @property
    def _named_paths(self) -> frozenset[str]:
        """What the bundle declares, of which an exact path is a name."""
        bundle = self.definitions.bundles[self.workstream]
        return frozenset((*bundle.files_scope, *bundle.files_create))

    async def _violations(self, changes: list[snapshots.Change], taken: Taken) -> list[str]:
        bundle = self.definitions.bundles[self.workstream]
        scope = Scope(edit=tuple(bundle.files_scope), create=tuple(bundle.files_create))
        outside = scope.outside([(change.status, change.path) for change in changes])
        found = [violation.path for violation in outside]
        registry = self.definitions.spec.registry
        if registry and self.definitions.route(self.workstream) is not None:
            refused = (change.path for change in changes if registry.security.refuses(change.path))
            found += [path for path in refused if path not in found]
        return found + await snapshots.hazards(self.repository.mirror.git, changes, taken.tree)

    async def _keep_work(
        self, workspace: Workspace, checks: EffectiveChecks, scratch: Path, keeping: asyncio.Task[list[Artifact]]
    ) -> None:
        """The step is stopped, and its tool is dead: what it made so far must not be lost, nor take for ever to keep."""
        told = keeping.result() if keeping.done() and not keeping.cancelled() and keeping.exception() is None else []
        working = asyncio.create_task(self._worked(workspace, checks, scratch, told))
        try:
            await asyncio.wait({working}, timeout=self.steps.config.keep_work_timeout_s)
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        if working.cancelled():
            log.warning("step.work_not_kept", reason="keep_work_timeout_s is over")
        elif (error := working.exception()) is not None:
            log.warning("step.work_not_kept", reason=self.secrets.mask_text(str(error)))
        else:
            self._kept = msgspec.structs.replace(working.result(), tool_wall_s=self._tool_wall_s())

    def _last_exit(self) -> Exit | None:
        last = self._tools[-1].ended if self._tools else None
        return last.result() if last is not None and last.done() else None

    def _tool_wall_s(self) -> float:
        ended = self._last_exit()
        return round(ended.wall_s, 4) if ended is not None else 0.0

    def _listening(self, profile: ToolProfile, context: dict[str, Any], scratch: Path, *, fix: bool) -> Listening:
        purse = None
        if self.step.cap_nano:
            told = "max_cost_usd" in placeholders(profile, fix=fix)
            purse = Purse(
                cap_nano=self.step.cap_nano,
                price=self._least_cost,
                named=lambda outcome: self._named(outcome, profile),
                told=told,
            )
        try:
            return Listening(
                profile,
                context,
                scratch,
                limit_bytes=self.steps.config.output_bytes + OUTPUT_MARGIN_BYTES,
                linger_s=self.steps.config.linger_s,
                purse=purse,
            )
        except PlaceholderError as error:
            raise _Failed("tool_failed", str(error)) from error

    def _accounted(self, kept: StepFinished | None, outcome: Outcome) -> StepFinished | None:
        """What was kept, with what it cost; the costs alone, where nothing else could be kept."""
        if kept is None and outcome.usage is None and outcome.cost is None:
            return None
        return self._with_outcome(kept or StepFinished(ok=False, tool_wall_s=self._tool_wall_s()), outcome)

    def _named(self, outcome: Outcome, profile: ToolProfile) -> Outcome:
        """The outcome with the provider and the model that the profile names, where the tool has not told them."""
        model = outcome.model or model_of(profile, self.spec.options.context, fix=self.step.step == "fix")
        return msgspec.structs.replace(outcome, model=model, provider=outcome.provider or profile.provider or "")

    def _with_outcome(self, result: StepFinished, outcome: Outcome) -> StepFinished:
        mask = self.secrets.mask_text
        listed = self._list_cost(outcome)
        return msgspec.structs.replace(
            result,
            usage=outcome.usage,
            cost=outcome.cost or listed,
            list_cost=listed,
            model=mask(outcome.model),
            provider=mask(outcome.provider),
            session=mask(outcome.session),
            denials=[mask(name) for name in outcome.denials],
            retry_after_s=outcome.retry_after_s,
            resets_at_ns=outcome.resets_at_ns,
        )

    @property
    def _day(self) -> date:
        """The day of the attempt, whose prices hold."""
        return datetime.fromtimestamp(self.command.scheduled_ns / 1e9, UTC).date()

    def _remark_on(self, listening: Listening) -> None:
        """What nobody could price held nothing to the cap: that must not pass in silence."""
        if listening.unpriced and listening.overspent_nano is None:
            known = ", ".join(repr(name) for name in listening.unpriced if name)
            why = f"no price is known for {known}" if known else "the tool told neither its model nor its costs"
            remedy = ": add it to your price file (docs/prices.md)" if known else ": name its `model` in its profile"
            self._remark(f"{why}, so nothing could be ended at the cap of {usd_text(self.step.cap_nano)}{remedy}")

    def _remark(self, text: str) -> None:
        """A word of ours in the log of the attempt, after what the tool has printed."""
        self._remarks.append(f"[swell: {' '.join(text.split())}]\n")

    def _least_cost(self, outcome: Outcome) -> Cost | None:
        """What a running tool has cost: as it says, else at least by the price table; None where nobody knows."""
        if outcome.cost is not None or outcome.usage is None or not outcome.model:
            return outcome.cost
        try:
            return self.steps.prices.at_least(
                outcome.model, outcome.usage, at=self._day, provider=outcome.provider or None
            )
        except ValueError:  # impossible counts
            return None

    def _list_cost(self, outcome: Outcome) -> Cost | None:
        """What the price table makes of the usage; None where the model or its price is not known."""
        if outcome.usage is None or not outcome.model:
            return None
        try:
            return self.steps.prices.cost(
                outcome.model,
                outcome.usage,
                at=self._day,
                provider=outcome.provider or None,
                requests=outcome.turns,
                unknown="token_cap",
            )
        except ValueError:  # impossible counts
            return None

    def _judged_work(
        self,
        result: StepFinished,
        invocation: Invocation,
        outcome: Outcome,
        profile: ToolProfile,
        checks: EffectiveChecks,
        scratch: Path,
    ) -> StepFinished:
        ended = invocation.exit
        error_class, message = self._verdict(result, invocation, outcome, profile, checks, scratch)
        return msgspec.structs.replace(
            self._with_outcome(result, outcome),
            ok=error_class is None,
            error_class=error_class,
            message=message[:MESSAGE_CHARS],
            exit_code=ended.exit_code if ended is not None and ended.ended_by == "itself" else None,
            tool_wall_s=round(ended.wall_s, 4) if ended is not None else 0.0,
        )

    def _verdict(
        self,
        result: StepFinished,
        invocation: Invocation,
        outcome: Outcome,
        profile: ToolProfile,
        checks: EffectiveChecks,
        scratch: Path,
    ) -> tuple[ErrorClass | None, str]:
        """Success needs the tool's own, a tree that changed (unless the bundle says otherwise), and the scope kept."""
        if self._leaked:
            return "scope_violation", (
                f"{', '.join(result.violations[:10])}: a secret that tools are given would have become part of the change; it "
                f"is kept on this executor alone, as {quarantine_ref(*self.key)} of its mirror, and goes nowhere: have the tool "
                "read the secret from its environment, and replace the secret if it may be known"
            )
        if result.violations and not self._tampered:
            return "scope_violation", f"changed outside its scope: {', '.join(result.violations[:10])}"
        failure = self._failure(invocation, outcome, profile, scratch)
        if result.conflicts and (failure is None or failure[0] in _TRIED):
            return "merge_conflict", f"conflict markers are left in {', '.join(result.conflicts[:10])}"
        if self._tampered:
            return "tampering", f"changed what judges it: {', '.join(result.violations[:10])}"
        if failure is not None:
            return failure
        if not result.changed and outcome.denials:
            denied = self.secrets.mask_text(", ".join(outcome.denials))
            return (
                "permission_denied",
                f"the tool changed nothing, and its agent was refused {denied}: allow it in args",
            )
        if not result.changed and not (checks.allow_no_change and self.step.step == "edit"):
            return "no_change", "the tool succeeded and changed nothing"
        return None, f"of what the tool said of itself, {outcome.note}" if outcome.note else ""

    def _failure(
        self, invocation: Invocation, outcome: Outcome, profile: ToolProfile, scratch: Path
    ) -> tuple[ErrorClass, str] | None:
        """Why the tool itself did not succeed, if it did not. What its harness says counts whatever its exit code is."""
        ended = invocation.exit
        if ended is None:
            return _NOT_STARTED.get(invocation.error, "tool_failed"), invocation.message
        late = untimely(invocation, profile, timeout_s=self.step.timeout_s, idle_timeout_s=self.step.idle_timeout_s)
        if late is not None:
            return late
        if crowd := multiplied(invocation, profile):
            return "tool_failed", crowd
        if self._overspent_nano is not None and ended.ended_by == "cancel":
            return "budget", (
                f"{profile.command} had spent at least {usd_text(self._overspent_nano)}, which is more than the "
                f"{usd_text(self.step.cap_nano)} that the attempt may cost, and was ended: raise cost_cap_usd in its profile, "
                "or the budget where that is lower"
            )
        if ended.ended_by != "itself" and not (self._lingered and ended.ended_by == "cancel"):
            return "workspace_error", "the tool supervisor ended, and the tool with it: the executor starts anew"
        if outcome.error_class:
            said = self.secrets.mask_text(outcome.message)
            return outcome.error_class, f"{profile.command} says: {said}" if said else f"{profile.command} failed"
        if invocation.ok or ended.ended_by != "itself":
            return None
        last = self._log_in(scratch)[-300:].decode(errors="replace").strip()
        how = f"exit code {ended.exit_code}" if ended.exit_code is not None else f"signal {ended.signal}"
        more = f"; {invocation.hint}" if invocation.hint else ""
        return profile.error_class(ended.exit_code), f"the tool ended with {how}: {last}{more}"

    async def _invoke(
        self,
        profile: ToolProfile,
        context: dict[str, Any],
        workspace: Workspace,
        scratch: Path,
        setup: Path | None,
        listening: Listening | None = None,
        *,
        fix: bool,
        env: Mapping[str, str] | None = None,
    ) -> Invocation:
        def started(tool: Tool) -> None:
            self._started(tool, workspace)
            if listening is not None:
                listening.watch(tool)

        def unconfined(reason: str) -> None:
            self._unconfined = reason

        return await invoke(
            self.steps.supervisor,
            profile,
            context,
            cwd=workspace.path,
            env=self._environment(workspace, scratch, setup) | dict(env or {}),
            scratch=scratch,
            timeout_s=self.step.timeout_s,
            idle_timeout_s=self.step.idle_timeout_s,
            output_bytes=self.steps.config.output_bytes,
            marker=self.marker,
            fix=fix,
            sandbox=self._sandbox(workspace, scratch, setup),
            trials=self.steps.trials,
            on_unconfined=unconfined,
            on_started=started,
            followed=listening is not None and profile.adapter is not None,
        )

    # What goes along with the prompt

    async def _handed(
        self,
        workspace: Workspace,
        scratch: Path,
        tool: str,
        profile: ToolProfile,
        files: list[str],
        told: dict[str, Any] | None,
        *,
        fix: bool,
    ) -> tuple[list[str], str]:
        """The files that the tool is handed, if it is handed any, and its prompt: of an AI tool, as much as its model has room for.

        An attempt is one call of its tool, with one snapshot and one cost, so what is too much is left out and never
        handed over in parts.
        """
        scope = self.definitions.bundles[self.workstream].files_scope
        first = self._first_files(told, [*files, *scope])
        kept = halved(files, self.step.reduction, first)
        shown = kept or halved(scope, self.step.reduction, first)
        prompt = self._prompt(tool, shown if self.step.reduction else None, told)
        if profile.type != "ai" or "files" not in placeholders(profile, fix=fix):
            return kept, prompt
        measured = await asyncio.to_thread(_measured, workspace.path, files)
        model = model_of(profile, self.spec.options.context, fix=fix)
        window = profile.context_tokens or self.steps.prices.window(model, at=self._day)

        def decided(prompt_tokens: int) -> ContextDecision:
            return decide_context(
                measured,
                limit_tokens=input_limit(windows=None if window is None else {"": window}),
                prompt_tokens=prompt_tokens,
                priority=first,
                reduction=self.step.reduction,
                model=model,
            )

        tokens = estimate_tokens(len(prompt), model)
        found = decided(tokens)
        if found.decision != "too_large" and list(found.files) != kept:
            # The prompt names what is handed over, which may be longer than the scope in its own words.
            naming = self._prompt(tool, found.files, told)
            found = decided(max(tokens, estimate_tokens(len(naming), model)))
            prompt = self._prompt(tool, found.files, told)
        await self._measure(found, profile, scratch)
        return list(found.files), prompt

    async def _measure(self, found: ContextDecision, profile: ToolProfile, scratch: Path) -> None:
        """Record the decision; what was left out is named in the log of the attempt."""
        self.context = HandedContext(
            decision=found.decision,
            files=len(found.files),
            left_out=len(found.left_out),
            tokens=found.estimated_tokens,
            limit_tokens=found.limit_tokens,
        )
        if found.left_out:
            names = named([f"{one.path} ({one.reason})" for one in found.left_out])
            more = f" and {len(found.left_out) - len(names)} more" if len(names) < len(found.left_out) else ""
            self._remark(f"context {found.decision}: {'; '.join(found.reasons)}; left out: {', '.join(names)}{more}")
        if found.decision == "too_large":
            raise _Failed(
                "context_window",
                f"what {profile.command} would be handed does not fit into its model's window: {'; '.join(found.reasons)}: "
                "narrow files_scope, split the workstream, or set context_tokens in its profile if its model takes more",
                await self._keep("log", self._log(scratch)),
            )

    def _first_files(self, told: dict[str, Any] | None, paths: Iterable[str]) -> set[str]:
        """Of these, the ones that stay when fewer are handed over: what diagnostics name or else the bundle, and its new files."""
        bundle = self.definitions.bundles[self.workstream]
        created = [ScopePattern(text=pattern) for pattern in bundle.files_create]
        if told is not None:
            named_first = {str(found.get("path", "")) for found in told["diagnostics"]}
        else:
            files = bundle.capability_payload.get("files", ())
            named_first = (
                {path for path in files if isinstance(path, str)} if isinstance(files, list | tuple) else set()
            )
        bare = {path: path.removeprefix("./") for path in paths}
        return {
            path
            for path, name in bare.items()
            if name in named_first or path in named_first or any(pattern.covers(name) for pattern in created)
        }

    def _prompt(self, tool: str, shown: Sequence[str] | None, told: dict[str, Any] | None) -> str:
        """What the tool is told. `shown` are the files that are named in place of the scope; `told` is for FIX."""
        bundle = self.definitions.bundles[self.workstream]
        if told is None or self.step.fix is None:
            prompt = prompts.edit(bundle, self.command.run, tool=tool, files=shown)
        else:
            prompt = prompts.fix(
                bundle,
                self.command.run,
                step=self.step.fix.step,
                failures=[
                    prompts.Failure(command=" ".join(check["command"]), output=check["output_tail"])
                    for check in told["checks"]
                ],
                diagnostics=[msgspec.convert(found, Diagnostic) for found in told["diagnostics"]],
                earlier=[attempt["patch"] for attempt in told["previous_attempts"]],
                files=shown,
            )
        if prompt.decision == "too_large":
            raise _Failed(
                "context_window",
                f"the prompt would be about {prompt.estimate} tokens, over the limit of {prompt.limit}: shorten the tasks, "
                "hints and acceptance tests of the bundle, or split the workstream",
            )
        return self.secrets.mask_known(prompt.text)

    async def _told(self, scratch: Path) -> dict[str, Any]:
        """The diagnostics file of a FIX attempt: what failed, and what was tried before."""
        fix = self.step.fix
        told: dict[str, Any] = {"step": "", "checks": [], "diagnostics": []}
        previous: list[dict[str, Any]] = []
        if fix is not None:
            told["step"] = fix.step
            if fix.diagnostics is not None:
                told = msgspec.json.decode(await self.steps.artifacts.get(fix.diagnostics))
            for number, artifact in enumerate(fix.earlier_patches, 1):
                patch = (await self.steps.artifacts.get(artifact)).decode(errors="replace")
                previous.append({"attempt": number, "patch": patch[:EARLIER_PATCH_CHARS]})
        told["previous_attempts"] = previous
        (scratch / "diagnostics.json").write_bytes(msgspec.json.encode(told))
        return told

    @contextlib.asynccontextmanager
    async def _live(self, scratch: Path) -> AsyncIterator[None]:
        """While the block runs, say what the tool prints as it appears; at its end, what is left."""
        subject = live_subject(self.command.run, self.step.workstream)
        file = scratch / "stdout"
        said = 0
        masking = self.secrets.stream()

        async def tail() -> None:
            nonlocal said
            while True:
                await asyncio.sleep(LIVE_POLL_S)
                said += await self._say(subject, file, said, masking)

        tailing = asyncio.create_task(tail())
        try:
            yield
        finally:
            tailing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tailing
            if said:
                await self._say(subject, file, said, masking)
                if rest := masking.flush():
                    await self.steps.bus.say(subject, rest)

    async def _say(self, subject: str, file: Path, position: int, masking: Masking) -> int:
        data = read_output(file, LIVE_BYTES, start=position)
        if shown := masking.feed(data):
            await self.steps.bus.say(subject, shown)
        return len(data)

    # Setup

    async def _setup(self, workspace: Workspace, checks: EffectiveChecks, scratch: Path) -> Path | None:
        """The folder that the repository's `setup` filled, run once for the same commands and lock files."""
        if not checks.setup:
            return None
        key = await asyncio.to_thread(_setup_key, workspace, checks)
        folder = self.steps.config.root / "setup" / key
        self.steps.setups[key] += 1
        self._setups.append(key)
        complete = folder / ".complete"
        async with self.steps.setup_locks.setdefault(key, asyncio.Lock()):
            if complete.exists():
                os.utime(complete)  # so that it counts as used
                return folder
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(parents=True)
            output = b""
            kept = self.repository.cache / "setup"  # no tool sees it, so none can put anything there
            kept.mkdir(parents=True, exist_ok=True)
            for number, argv in enumerate(checks.setup):
                stdout, stderr = scratch / f"setup-{number}.out", scratch / f"setup-{number}.err"
                tool = await self.steps.supervisor.spawn(
                    Launch(
                        argv=tuple(argv),
                        cwd=workspace.path,
                        env=self._environment(workspace, scratch, folder) | caches(kept),
                        stdout=stdout,
                        stderr=stderr,
                        timeout_s=self.steps.config.setup_timeout_s,
                        output_bytes=self.steps.config.output_bytes,
                        marker=self.marker,
                    )
                )
                self._started(tool, workspace)
                try:
                    ended = await tool.wait()
                except asyncio.CancelledError:
                    tool.stop(grace_s=CANCEL_GRACE_S)
                    await tool.wait()
                    raise
                limit = self.steps.config.output_bytes + OUTPUT_MARGIN_BYTES
                printed = read_output(stdout, limit) + read_output(stderr, limit)
                output += self.secrets.mask(f"$ {' '.join(argv)}\n".encode() + printed)
                if ended.ended_by != "itself" or ended.exit_code != 0:
                    raise _Failed(
                        "setup_error",
                        f"setup command {argv[0]!r} failed (exit code {ended.exit_code}, ended by {ended.ended_by}): "
                        f"{output[-300:].decode(errors='replace').strip()}",
                        await self._keep("log", output),
                    )
            complete.touch()
        if workspace.changed():
            await workspace.materialise(workspace.commit)
        return folder

    # STATIC, RUNTIME, gates

    async def check(self) -> StepFinished:
        """Judge one tree; what the checks change is put back and reported."""
        await self._bring(self.step.input)
        ranges = tuple((start, end) for start, end in self.step.merged) or self._own()
        checks = self.definitions.checks(self._whose(ranges))
        async with self._scratch() as scratch, self.repository.pool.at(self.step.input.commit) as workspace:
            setup = await self._setup(workspace, checks, scratch)
            wanted = self.step.checks
            if self.step.every_check:
                wanted = self.definitions.asked(self.step.step, ranges)
            context = await self._context(workspace, scratch, ranges, self._profiles(wanted))
            checking = Checking(
                self.steps.supervisor,
                workspace,
                definitions=self.definitions,
                ranges=ranges,
                context=context,
                env=self._environment(workspace, scratch, setup),
                scratch=scratch,
                droppings=self.steps.droppings(checks.droppings),
                marker=self.marker,
                output_bytes=self.steps.config.output_bytes,
                secrets=self.secrets,
                sandbox=self._sandbox(workspace, scratch, setup),
                trials=self.steps.trials,
                clean=self.steps.clean,
                on_started=lambda tool: self._started(tool, workspace),
            )
            judged = await checking.all(wanted, timeout_s=self.step.timeout_s, idle_timeout_s=self.step.idle_timeout_s)
            tree = workspace.tree
        return await self._judged(judged, tree)

    async def _judged(self, judged: Judged, tree: str) -> StepFinished:
        kept = await self._keep("log", b"\n".join(judged.log))
        outcome = judged.outcome
        if outcome == "failed" or judged.tolerated:
            step = "static" if self.step.step == "static" else "runtime"
            diagnostics = {
                "step": step,
                "checks": [msgspec.to_builtins(finding) for finding in judged.findings],
                "diagnostics": [msgspec.to_builtins(found) for found in judged.diagnostics],
                "tolerated": [msgspec.to_builtins(found) for found in judged.tolerated],
                "summary": msgspec.to_builtins(summarise([*judged.diagnostics, *judged.tolerated])),
            }
            kept += await self._keep("diagnostics", msgspec.json.encode(diagnostics))
        classes: dict[str, ErrorClass | None] = {
            "passed": None,
            "failed": "check_failed",
            "error": judged.untimely or "check_error",
        }
        return StepFinished(
            ok=outcome == "passed",
            error_class=classes[outcome],
            message=judged.message,
            exit_code=next((r.exit_code for r in judged.results if not r.optional and r.outcome == "failed"), None),
            snapshot=Snapshot(commit=self.step.input.commit, tree=tree, bundle=self.step.input.bundle),
            checks=judged.worst_first[:CHECKS_NAMED_MAX],
            discarded=named(judged.discarded),
            signature=judged.signature if outcome == "failed" else "",
            findings=len(judged.diagnostics) + len(judged.tolerated),
            artifacts=kept,
            tool_wall_s=round(judged.tool_wall_s, 4),
        )

    # The line

    async def merge(self) -> StepFinished:
        """The workstream's change since its base, applied to the head of the line, as one commit."""
        base, theirs, head = self.step.base, self.step.theirs, self.step.input
        if base is None or theirs is None:
            raise _Failed("protocol_error", "a merge needs a base and a side to merge")
        mirror = self.repository.mirror
        for wanted in (base, theirs, head):
            await self._bring(wanted)
        outcome = await three_tree(mirror, base=base.commit, ours=head.commit, theirs=theirs.commit)
        if isinstance(outcome, Conflict):
            return await self._conflicting(outcome, base=base.commit, theirs=theirs.commit)
        bundle = self.definitions.bundles[self.workstream]
        subject = f"{self.workstream}: {bundle.tasks[0] if bundle.tasks else bundle.openspec_change}"[:100]
        commit = await commit_on(
            mirror,
            tree=outcome.tree,
            parent=head.commit,
            subject=f'Revert "{subject}"' if self.step.reverts else subject,
            run=self.command.run,
            workstream=self.workstream,
            attempt=self.step.attempt,
            time_ns=self.command.scheduled_ns,
            tools=self.step.tools,
            cost_nano=self.step.cost_nano,
            reverts=self.step.reverts,
        )
        bundled = await self._bundle(commit)
        return StepFinished(
            ok=True,
            changed=True,
            snapshot=Snapshot(commit=commit, tree=outcome.tree, bundle=bundled),
            artifacts=[bundled],
        )

    async def _conflicting(self, found: Conflict, *, base: str, theirs: str) -> StepFinished:
        """Both sides, for whoever mends it: a tree with conflict markers on the head, and what each side wanted."""
        mirror, head = self.repository.mirror, self.step.input
        others = await blame_workstreams(mirror, base=base, head=head.commit, files=found.paths)
        result = StepFinished(
            ok=False,
            error_class="merge_conflict",
            message=f"{self.workstream} conflicts with {', '.join(others) or 'the line'}"[:1500],
            conflicts=named(found.files),
            others=others[:50],
        )
        if self.step.purpose is not None or self.step.reverts:
            return result
        commit = await commit_on(
            mirror,
            tree=found.tree,
            parent=head.commit,
            subject=f"{self.workstream}: conflicts",
            run=self.command.run,
            workstream=self.workstream,
            attempt=self.step.attempt,
            time_ns=self.command.scheduled_ns,
        )
        their_side, own_side = await asyncio.gather(
            side(mirror, found, base=base, commit=head.commit), side(mirror, found, base=base, commit=theirs)
        )
        line = f"the line's side ({', '.join(others) or 'the base'})"
        told = {
            "step": "merge",
            "checks": [
                {"name": name, "command": [f"git diff # {name}"], "output_tail": self.secrets.mask_known(patch)}
                for name, patch in ((line, their_side), (f"the side of {self.workstream}", own_side))
            ],
            "diagnostics": [
                msgspec.to_builtins(
                    Diagnostic(
                        tool="git merge",
                        path=path,
                        severity="error",
                        code=kind.removeprefix("CONFLICT ").strip("()") or "conflict",
                        message=f"both sides changed it: keep what each side wanted, and take the conflict markers out; {line}",
                    )
                )
                for path, kind in zip(named(found.files), found.kinds, strict=False)
            ],
        }
        bundled, kept = await asyncio.gather(self._bundle(commit), self._keep("diagnostics", msgspec.json.encode(told)))
        return msgspec.structs.replace(
            result,
            changed=True,
            snapshot=Snapshot(commit=commit, tree=found.tree, bundle=bundled),
            artifacts=[bundled, *kept],
        )

    async def deliver(self) -> StepFinished:
        """Put the verified head on the run's branch, in the repository or elsewhere; or keep its commits as patches."""
        if self.step.workstream != LINE:
            raise _Failed("protocol_error", "only the line is delivered")
        await self._bring(self.step.input)
        mirror, to = self.repository.mirror, self.step.delivery or Destination()
        base, head = self.spec.repository.base_commit, self.step.input.commit
        if self.step.series:
            try:
                kept = await self._keep("series", await patches(mirror, base=base, head=head))
            except GitError as error:
                raise _Failed(
                    "delivery_refused", f"its patches cannot be made: {error} Or deliver a branch."
                ) from error
            return StepFinished(ok=True, snapshot=self.step.input, artifacts=kept)
        story = Story(self.command.run, ())
        if to.style != "rebase" or to.hook:
            story = await told(mirror, run=self.command.run, base=base, head=head)
        commit = await dressed(mirror, story, style=to.style, base=base, head=head)
        try:
            await mirror.deliver(
                commit,
                ref=delivery_ref(self.command.run),
                expected_old=self.step.base.commit if self.step.base is not None else None,
                location=to.remote or None,
                access=self._access(to),
                anew=bool(self.step.request_id),
            )
        except DeliveryRefusedError as error:
            raise _Failed("delivery_refused", str(error)) from error
        warning, kept = await self._announce(to, story, commit)
        snapshot = Snapshot(commit=commit, tree=await mirror.tree(commit))
        return StepFinished(ok=True, message=warning[:MESSAGE_CHARS], snapshot=snapshot, artifacts=kept)

    def _access(self, to: Destination) -> dict[str, str]:
        """What git needs to be let in; the secret in it is masked from here on."""
        location = to.remote or self.repository.mirror.location
        try:
            environment, secret = access(location, to.credential, self.steps.config.exposure.hidden)
        except SecretMissingError as error:
            raise _Failed("delivery_refused", str(error)) from error
        if secret:
            self.secrets = gathered(self.spec.profiles.values(), self.steps.config.exposure.hidden, besides=[secret])
        return environment

    async def _announce(self, to: Destination, story: Story, commit: str) -> tuple[str, list[Artifact]]:
        """Call the program that opens a pull request, or whatever it does; how it failed, or '', and its log.

        The branch stands where it is either way. The program is called again whenever the delivery is.
        """
        profile = self.spec.profiles.get(to.hook)
        if profile is None:
            return ("", []) if not to.hook else (f"the run has no tool profile {to.hook} to call", [])
        branch = delivery_ref(self.command.run).removeprefix("refs/heads/")
        repository = self.spec.repository
        location = to.remote or repository.location
        key = delivery_key(location=location, ref=delivery_ref(self.command.run), commit=commit)
        async with self._scratch() as scratch, self.repository.pool.at(self.step.input.commit) as workspace:
            texts = {"title_file": story.title, "body_file": story.body}
            for name, text in texts.items():
                await asyncio.to_thread((scratch / name).write_text, f"{text}\n", "utf-8", "replace")
            context = {
                **await self._context(workspace, scratch, (), [profile]),
                **{name: str(scratch / name) for name in texts},
                "branch": branch,
                "base": repository.base_ref.removeprefix("refs/heads/") or repository.base_commit,
                "commit": commit,
                "remote": location,
            }
            told_of = {"SWELL_DELIVERY_KEY": key}
            invocation = await self._invoke(profile, context, workspace, scratch, None, fix=False, env=told_of)
            kept = await self._keep("log", self._log_in(scratch))
            failure = self._failure(invocation, Outcome(), profile, scratch)
        return ("" if failure is None else f"delivered, but {to.hook} failed: {failure[1]}"), kept

    # Undoing

    async def compensate(self) -> StepFinished:
        """Carry out one action that undoes what the workstream did. What a command leaves in its worktree is discarded."""
        try:
            action = parse_action(self.step.action)
        except CompensationError as error:
            raise _Failed("protocol_error", str(error)) from error
        match action:
            case Cmd(argv=argv):
                return await self._command(argv)
            case BranchDelete():
                return await self._withdraw()
            case GitRevert():
                raise _Failed("protocol_error", f"git:revert is not available in this version. {GRAMMAR}")
            case _:
                assert_never(action)

    async def _command(self, argv: Sequence[str]) -> StepFinished:
        if self.workstream not in self.definitions.bundles:
            raise _Failed("protocol_error", "only a workstream of the run has commands that undo it")
        await self._bring(self.step.input)
        checks = self.definitions.checks(self.workstream)
        profile = literal_profile(argv, timeout_s=self.step.timeout_s)
        async with self._scratch() as scratch, self.repository.pool.at(self.step.input.commit) as workspace:
            setup = await self._setup(workspace, checks, scratch)
            invocation = await self._invoke(profile, {}, workspace, scratch, setup, fix=False)
            logged = await self._keep("log", self._log_in(scratch))
            error_class, message = self._failure(invocation, Outcome(), profile, scratch) or (None, "")
        ended = invocation.exit
        return StepFinished(
            ok=error_class is None,
            error_class=error_class,
            message=message[:MESSAGE_CHARS],
            exit_code=ended.exit_code if ended is not None and ended.ended_by == "itself" else None,
            artifacts=logged,
            tool_wall_s=self._tool_wall_s(),
        )

    async def _withdraw(self) -> StepFinished:
        await self._bring(self.step.input)
        ref = delivery_ref(self.command.run)
        own = Delivered(to=Destination(), commit=self.step.base.commit if self.step.base is not None else "", head="")
        deleted = []
        for delivered in self.step.deliveries or [own]:
            try:
                deleted.append(
                    await self.repository.mirror.withdraw(
                        ref,
                        run=self.command.run,
                        expected=delivered.commit or None,
                        head=self.step.input.commit,
                        location=delivered.to.remote or None,
                        access=self._access(delivered.to),
                    )
                )
            except DeliveryRefusedError as error:
                raise _Failed("delivery_refused", str(error)) from error
        return StepFinished(ok=True, message="" if any(deleted) else f"there is no branch {ref}: nothing to delete")


def _says_full(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that a disk has no room: ours, or that of git on our behalf."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if isinstance(error, GitError) and any(text in error.stderr_tail for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _ended_itself(invocation: Invocation) -> bool:
    return invocation.exit is not None and invocation.exit.ended_by == "itself"


def _free(result: StepFinished) -> StepFinished:
    """An attempt that has started no tool has cost nothing."""
    return msgspec.structs.replace(result, cost=Cost(nano_usd=0, basis="list"))


def redacted(result: StepFinished, secrets: Secrets) -> StepFinished:
    """The same without a secret in any of its texts."""
    mask = secrets.mask_text
    return msgspec.structs.replace(
        result,
        message=mask(result.message)[:MESSAGE_CHARS],
        files=[mask(path) for path in result.files],
        violations=[mask(text) for text in result.violations],
        conflicts=[mask(path) for path in result.conflicts],
        discarded=[mask(path) for path in result.discarded],
        checks=[msgspec.structs.replace(check, message=mask(check.message)) for check in result.checks],
        model=mask(result.model),
        provider=mask(result.provider),
        session=mask(result.session),
        denials=[mask(name) for name in result.denials],
    )


def _measured(root: Path, paths: Iterable[str]) -> list[ContextFile]:
    """Files with their sizes in bytes, which are never less than their characters; nothing is read."""
    found = []
    for path in paths:
        try:
            status = (root / path).stat()
        except OSError:
            size = 0
        else:
            size = min(status.st_size, FILE_CHARS_MAX) if stat.S_ISREG(status.st_mode) else 0
        found.append(ContextFile(path=path, chars=size))
    return found


def _lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{one}\n" for one in ids).encode()


async def _blob(git: Git, blob: str) -> bytes:
    return await git("cat-file", "blob", blob, output_bytes=snapshots.LISTING_BYTES)


async def _parted(git: Git, blobs: Sequence[str]) -> list[list[str]]:
    """These blobs in groups of at most SCANNED_AT_ONCE_BYTES; larger ones are alone."""
    if not blobs:
        return []
    listed = await git("cat-file", "--batch-check=%(objectsize)", stdin=_lines(blobs))
    parts: list[list[str]] = []
    room = 0
    for blob, size in zip(blobs, map(int, listed.split()), strict=True):
        if size > room or not parts:
            parts.append([])
            room = SCANNED_AT_ONCE_BYTES
        parts[-1].append(blob)
        room -= size
    return parts


def named(paths: Sequence[str]) -> list[str]:
    """As many of these as an event has room for."""
    kept: list[str] = []
    room = FILES_NAMED_CHARS
    for path in paths[:FILES_NAMED_MAX]:
        room -= len(path) + 4
        if room < 0:
            break
        kept.append(path)
    return kept


def _setup_key(workspace: Workspace, checks: EffectiveChecks) -> str:
    """Repository, commands and lock files by content: the same key means the same dependencies."""
    digest = hashlib.sha256(repr((workspace.mirror.key, checks.setup)).encode())
    matching = Droppings(checks.lock_files)
    for path, status in sorted(workspace.scan().items()):
        if len(status) > 1 and stat.S_ISREG(status[0]) and matching.matches(path):
            digest.update(os.fsencode(path) + b"\0")
            digest.update(hashlib.sha256((workspace.path / path).read_bytes()).digest())
    return digest.hexdigest()[:32]
