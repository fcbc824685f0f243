"""What the executor's tests work with: a small repository, a run's definition, and steps asked for one by one.

Git, the supervisor, tools and (where an executor takes part) the bus are real; the scheduler is the test itself.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from services.artifacts import Artifacts
from services.bundle import WorkstreamBundle
from services.bus import Bus
from services.checks import Checks
from services.commands import RunStep
from services.events import Artifact, Snapshot, StepFinished, StepScheduled
from services.executor.step import StepConfig, Steps
from services.process import Supervisor
from services.profiles import ToolProfile
from services.spec import Options, Repository, RunSpec, encode_spec
from services.wire import (
    Entry,
    attempt_subject,
    command_subject,
    decode_entry,
    encode_command,
    encode_entry,
    late_subject,
)

WAIT_S = 20.0


def git(folder: Path, *arguments: str, ok: bool = True) -> str:
    identity = {f"GIT_{role}_{field}": "somebody" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null", **identity}
    done = subprocess.run(
        ("git", *arguments), cwd=folder, env=environment, capture_output=True, check=ok, text=True, timeout=30
    )
    return done.stdout.strip()


def sh(script: str, *arguments: str, **fields: Any) -> ToolProfile:
    """A tool that is a line of shell; $1 … are `arguments`, by default its files."""
    literal = script.replace("{", "{{").replace("}", "}}")
    return ToolProfile(command="sh", args=("-c", literal, "tool", *(arguments or ("{files}",))), **fields)


async def until(look, what: str = "it", timeout_s: float = WAIT_S):
    """What `look` finds (or its awaited answer), as soon as it is something."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        await asyncio.sleep(0.01)


def processes(marker: str) -> dict[int, str]:
    """Living processes (zombies apart) whose environment or command line holds a text."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = (entry / "environ").read_bytes() + b"\0" + (entry / "cmdline").read_bytes()
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z" and marker.encode() in text:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


class Run:
    """A run over a repository with the files a.txt to d.txt, and one workstream `ws-a` of all four."""

    def __init__(self, folder: Path, profiles: dict[str, ToolProfile], **bundle: Any) -> None:
        self.id = f"r{uuid.uuid4().hex[:10]}"
        self.repo = folder / "repo"
        if not self.repo.exists():
            self.repo.mkdir()
            git(self.repo, "init", "--quiet", "--initial-branch=main")
            for name in "abcd":
                (self.repo / f"{name}.txt").write_text(f"{name}\n")
            git(self.repo, "add", "--all")
            git(self.repo, "commit", "--quiet", "--message", "first")
        self.base = self.snapshot("HEAD")
        given = {
            "openspec_change": "OS-1", "ccpm_issue": 1, "gate": 1, "tasks": ("change it",), "tool": "tool",
            "files_scope": ("a.txt", "b.txt", "c.txt", "d.txt"), **bundle,
        }  # fmt: skip
        checks = Checks(static_tools=tuple(name for name in profiles if name.startswith("check")))
        self.spec = RunSpec(
            run=self.id,
            repository=Repository(location=str(self.repo), base_commit=self.base.commit),
            bundles=[WorkstreamBundle(id="ws-a", **given)],
            waves=[["ws-a"]],
            checks=checks,
            profiles=profiles,
            options=Options(),
        )
        self.stored: Artifact | None = None
        self.attempts = 0

    def snapshot(self, commit: str) -> Snapshot:
        return Snapshot(
            commit=git(self.repo, "rev-parse", commit), tree=git(self.repo, "rev-parse", f"{commit}^{{tree}}")
        )

    async def command(self, artifacts: Artifacts, step: str = "edit", **fields: Any) -> RunStep:
        """The next attempt, from the base unless it is told otherwise."""
        if self.stored is None:
            self.stored = await artifacts.put("spec", encode_spec(self.spec))
        self.attempts += 1
        given = {"pool": "default", "input": self.base, "base": self.base, "timeout_s": 30.0, **fields}
        scheduled = StepScheduled(workstream="ws-a", attempt=self.attempts, step=step, queue_deadline_ns=2**62, **given)
        return RunStep(run=self.id, spec=self.stored, scheduled_ns=1_790_000_000 * 10**9, step=scheduled)


class Bench:
    """Steps without an executor around them."""

    def __init__(self, folder: Path, supervisor: Supervisor, artifacts: Artifacts, bus: Any, **config: Any) -> None:
        self.folder = folder
        self.artifacts = artifacts
        self.root = config.pop("root", folder / "state")
        self.steps = Steps(StepConfig(root=self.root, slots=2, **config), artifacts, supervisor, bus)

    async def do(self, run: Run, step: str = "edit", **fields: Any) -> StepFinished:
        return await self.steps.run(await run.command(self.artifacts, step, **fields))

    async def read(self, result: StepFinished, role: str) -> bytes:
        (artifact,) = [one for one in result.artifacts if one.role == role]
        return await self.artifacts.get(artifact)

    def content(self, run: Run, snapshot: Snapshot, path: str) -> str:
        """A file of a snapshot, as the mirror has it."""
        (mirror,) = (self.root / "mirrors").glob("*.git")
        return git(mirror, "show", f"{snapshot.commit}:{path}")

    def worktrees(self) -> list[Path]:
        return [path for path in (self.root / "worktrees").glob("*/*") if path.is_dir()]


class Desk:
    """The scheduler's place at the bus: sends commands to one pool, reads what comes back."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.pool = f"p{uuid.uuid4().hex[:10]}"
        self.artifacts = Artifacts(bus.objects)

    async def ask(self, run: Run, step: str = "edit", **fields: Any) -> tuple[str, str, int]:
        command = await run.command(self.artifacts, step, pool=self.pool, **fields)
        key = (run.id, "ws-a", command.step.attempt)
        assert await self.bus.command(command_subject(self.pool, *key), encode_command(command))
        return key

    async def close(self, key: tuple[str, str, int], event: Any) -> None:
        """Close an attempt as the scheduler would."""
        claim = await until(lambda: self.bus.last(attempt_subject(*key)), "the claim")
        entry = Entry(id=uuid.uuid4().hex, run=key[0], at_ns=0, by="scheduler:test", events=[event])
        await self.bus.append(attempt_subject(*key), encode_entry(entry), expect=claim.sequence)

    async def finished(self, key: tuple[str, str, int]) -> StepFinished:
        """The executor's close of an attempt."""

        async def look() -> StepFinished | None:
            last = await self.bus.last(attempt_subject(*key))
            events = [] if last is None else decode_entry(last.data).events
            return next((event for event in events if isinstance(event, StepFinished)), None)

        return await until(look, f"the close of {key}")

    async def late(self, key: tuple[str, str, int]) -> dict[str, Any]:
        """The newest late facts of an attempt, by kind."""
        last = await until(lambda: self.bus.last(late_subject(*key)), f"late facts of {key}")
        return {type(event).__name__: event for event in decode_entry(last.data).events}


class Service:
    """`python -m services.executor` as a process."""

    def __init__(self, folder: Path, server: Any, desk: Desk, **settings: Any) -> None:
        self.folder = folder
        self.ready = folder / "ready.json"
        given = {
            "state_dir": str(folder / "state"), "pool": desk.pool, "slots": 2, "ready_file": str(self.ready), "id": desk.pool,
            **settings,
        }  # fmt: skip
        bus = {"url": server.url, "user": server.user, "password_file": str(server.password_file)}
        lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in given.items()]
        lines += ["[bus]", *(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in bus.items())]
        self.config = folder / "executor.toml"
        self.config.write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it is to be killed, stopped and let go on
                (sys.executable, "-m", "services.executor", self.config), stdout=log, stderr=log,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        await until(lambda: self.ready.exists() or self.process.poll() is not None, "the executor")
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def ended(self, timeout_s: float = WAIT_S) -> int:
        """Its exit code."""
        await until(lambda: self.process.poll() is not None, "the end of the executor", timeout_s)
        return self.process.returncode

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
