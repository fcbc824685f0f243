"""What the end-to-end tests work with: one real cluster, small repositories, tools that are a line of shell.

Nothing here looks into a service: runs go in by the client or the command line, and are judged by what the ledger answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import checker
import msgspec

from services.bundle import parse_bundles
from services.profiles import parse_tool_profiles
from swell.client import Client
from swell.cluster import Status, endpoints_of, read_status
from swell.settings import RunSettings
from swell.submission import assemble
from swell.values import Attempt, Event, Run, Workstream

CHECKOUT: Final = Path(__file__).resolve().parents[2]
SWELL: Final = Path(sys.executable).with_name("swell")
WAIT_S: Final = 60.0
_CLOSED: Final = {"step_finished", "step_cancelled", "step_lost"}

T = TypeVar("T")

SECRETS: Final = {
    "E2E_API_KEY": "sk-this-must-not-reach-a-tool",
    "SWELL_TOKEN_FILE": "/nowhere/token",
    "AWS_SECRET_ACCESS_KEY": "aws-this-must-not-reach-a-tool",
}
"""What stands in the environment of whoever starts the cluster."""


def until(look: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """What `look` finds, as soon as it is something."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.01)
    return found


# Repositories, bundles, tools


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git as a person would, with nobody's configuration; its output."""
    identity = {
        f"GIT_{who}_{field}": value
        for who in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "Somebody"), ("EMAIL", "somebody@invalid"))
    }
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_GLOBAL": os.devnull, **identity}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=check, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()


def commit_files(folder: Path, files: Mapping[str, str], message: str = "files") -> str:
    """Write files and commit them, in a repository that is made if need be; the commit."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--initial-branch", "main")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def bundle(name: str, tool: str, scope: str | Sequence[str], **fields: Any) -> dict[str, Any]:
    """A workstream with what is required; `swell` becomes `metadata.swell`."""
    settings = fields.pop("swell", None)
    if settings is not None:
        fields["metadata"] = {"swell": settings}
    required = {"openspec_change": "E2E", "ccpm_issue": 1, "gate": 1, "tasks": ["change the file"]}
    files = [scope] if isinstance(scope, str) else list(scope)
    return {"id": name, "files_scope": files, "tool": tool, **required, **fields}


def sh(script: str, *arguments: str, fix: str | None = None, **fields: Any) -> dict[str, Any]:
    """A tool that is a line of shell; $1 … are `arguments`, by default the files of its scope. `fix` is run by FIX."""
    given = list(arguments) or ["{files}"]
    profile: dict[str, Any] = {"command": "sh", "args": ["-c", _literal(script), "tool", *given], **fields}
    if fix is not None:
        profile["fix_args"] = ["-c", _literal(fix), "tool", *given]
    return profile


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# The user's checkout


def witness(repo: Path) -> dict[str, Any]:
    """Everything of a checkout that a run must leave alone; branches of Swell apart."""
    folder = repo / ".git"
    refs = git(repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    files = [path for path in repo.rglob("*") if path.is_file() and folder not in path.parents]
    return {
        "HEAD": (folder / "HEAD").read_bytes(),
        "index": (folder / "index").read_bytes(),
        "config": (folder / "config").read_bytes(),
        "refs": [ref for ref in refs if not ref.startswith(("refs/heads/swell/", "refs/swell/"))],
        "status": git(repo, "--no-optional-locks", "status", "--porcelain"),
        "stash": git(repo, "stash", "list"),
        "worktrees": git(repo, "worktree", "list"),
        "hooks": sorted(path.name for path in (folder / "hooks").glob("*")),
        "files": {str(path.relative_to(repo)): path.read_bytes() for path in sorted(files)},
    }


# Processes


def processes(*needles: str) -> dict[int, str]:
    """Living processes (zombies apart) whose environment or command line holds all of the texts."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            text = (entry / "environ").read_bytes() + b"\0" + line
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and all(needle.encode() in text for needle in needles):
            found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def children_reaped(pid: int) -> tuple[int, ...]:
    """Page faults and times of the children that a process has waited for: they grow with each child."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[8]), int(fields[10]), int(fields[13]), int(fields[14])


def children(pid: int) -> list[int]:
    """The processes whose parent it is."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def unread(port: int) -> int:
    """Bytes on their way over the loopback to or from a port, sent and not yet read."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if port in {int(address.rpartition(":")[2], 16) for address in fields[1:3]}:
            total += sum(int(queue, 16) for queue in fields[4].split(":"))
    return total


# Runs


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended, as the ledger knows it; its events have passed the checker."""

    lab: Any
    repo: Path
    run: Run
    events: list[Event]
    workstreams: dict[str, Workstream]
    attempts: list[Attempt]

    def state(self, workstream: str) -> str:
        return self.workstreams[workstream].state

    def reason(self, workstream: str) -> str:
        return self.workstreams[workstream].reason

    def states(self) -> dict[str, str]:
        return {name: item.state for name, item in self.workstreams.items()}

    def of(self, workstream: str, step: str = "") -> list[Attempt]:
        """The attempts of a workstream, or of one of its steps."""
        return [one for one in self.attempts if one.workstream == workstream and step in {"", one.step}]

    def payloads(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The facts of one kind that have these values, oldest first."""
        found = [event.payload for event in self.events if event.kind == kind]
        return [fact for fact in found if all(fact.get(name) == value for name, value in fields.items())]

    def checks(self, attempt: Attempt) -> dict[str, str]:
        """What each check said, by name."""
        return {check["name"]: check["outcome"] for check in json.loads(attempt.checks_json or "[]")}

    def artifact(self, attempt: Attempt, role: str) -> bytes:
        """A stored object of an attempt."""
        (artifact,) = [one for one in attempt.artifacts if one.role == role]
        return b"".join(self.lab.client.read_artifact(artifact))

    def delivered(self, path: str) -> str:
        """A file on the delivered branch, byte for byte."""
        command = ["git", "show", f"{self.run.delivered_ref}:{path}"]
        return subprocess.run(command, cwd=self.repo, check=True, capture_output=True, timeout=30).stdout.decode()

    def delivered_files(self) -> set[str]:
        """What differs between base and delivered branch."""
        return set(git(self.repo, "diff", "--name-only", self.run.base_commit, self.run.delivered_ref).splitlines())

    def merged(self) -> list[str]:
        """The workstreams in the order in which they became part of the line."""
        return [fact["workstream"] for fact in self.payloads("integration_advanced")]


class Lab:
    """The cluster of the session, and what is done with it."""

    def __init__(self, state_dir: Path, home: Path) -> None:
        self.state_dir = state_dir
        self.home = home
        self.client = Client(endpoints_of(self.status(), state_dir))

    # The cluster

    def status(self) -> Status:
        found = read_status(self.state_dir)
        assert found is not None
        return found

    def pid(self, name: str) -> int:
        """The process of a part of the cluster."""
        return self.status().children[name]

    def port(self, name: str) -> int:
        """Where the bus or a service listens."""
        if name == "nats":
            settings = tomllib.loads((self.state_dir / "config" / "ledger.toml").read_text())["bus"]
            return int(settings["url"].rpartition(":")[2])
        return int(getattr(self.status(), name).rpartition(":")[2])

    def kill(self, name: str) -> int:
        """Kill a part as a machine would, and wait until the daemon has started another one; the dead one's pid."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.pid(name) != pid, f"another {name}")
        return pid

    # The command line

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{SWELL.parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "SWELL_STATE_DIR": str(self.state_dir),
            **more,
        }

    def start(self, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start `swell` as a user would."""
        return subprocess.Popen(
            [str(SWELL), *map(str, arguments)],
            cwd=cwd or self.home,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def swell(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `swell` as a user would, to its end."""
        with self.start(*arguments, cwd=cwd) as process:
            stdout, stderr = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    # Runs

    def submit(
        self,
        repo: Path,
        bundles: Iterable[Mapping[str, Any]],
        profiles: Mapping[str, Any] | None = None,
        *,
        run: str = "",
        context: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> str:
        """Submit a run; its id. What fails, fails at once, unless `settings` say otherwise: nothing is retried or reviewed."""
        submission = assemble(
            parse_bundles([("bundles.json", json.dumps(list(bundles)).encode())]),
            repo=repo,
            settings=RunSettings(**{"review": "fail", "recovery": str(self._no_recovery()), **settings}),
            run=run,
            context=context,
            profiles=parse_tool_profiles(json.dumps(dict(profiles or {})).encode(), "profiles"),
        )
        return self.client.submit_run(submission.header, submission.documents).run

    def _no_recovery(self) -> Path:
        file = self.home / "no-recovery.yaml"
        file.write_text("retries: 0\nreductions: 0\n")
        return file

    def run(
        self, repo: Path, bundles: Sequence[Mapping[str, Any]], profiles: Mapping[str, Any] | None = None, **more: Any
    ) -> Outcome:
        """Submit a run, wait for its end, and check its events."""
        run = self.submit(repo, bundles, profiles, **more)
        return self.outcome(run, repo, bundles, max_workers=more.get("max_workers"))

    def outcome(
        self, run: str, repo: Path, bundles: Iterable[Mapping[str, Any]], max_workers: int | None = None
    ) -> Outcome:
        """Wait for the end of a run, and check its events."""
        self.wait(run)
        events = list(self.client.list_events(run))
        checker.check(
            events,
            max_workers=max_workers or 4,
            depends_on={one["id"]: list(one.get("depends_on", [])) for one in bundles},
        )
        return Outcome(
            lab=self,
            repo=repo,
            run=self.client.get_run(run),
            events=events,
            workstreams={item.workstream: item for item in self.client.list_workstreams(run)},
            attempts=self.client.list_attempts(run),
        )

    def watch(self, run: str, timeout_s: float = WAIT_S) -> Iterator[Event]:
        """The events of a run as they come, up to its end."""
        deadline = time.monotonic() + timeout_s
        for watched in self.client.watch(run):
            for event in watched.events:
                yield event
                if event.kind == "run_finished":
                    return
            assert time.monotonic() < deadline, f"run {run} has not ended after {timeout_s:g} s"

    def wait(self, run: str) -> None:
        """Until the run has ended, and whatever its cancelled attempts still had to say is said."""
        closes: dict[tuple[str, int], str] = {}
        started = set()
        for event in self.watch(run):
            key = (event.workstream, event.attempt)
            if event.kind == "step_started":
                started.add(key)
            elif event.kind in _CLOSED:
                closes[key] = event.kind
        cancelled = {key for key, kind in closes.items() if kind == "step_cancelled" and key in started}
        until(
            lambda: cancelled <= {(e.workstream, e.attempt) for e in self._late(run)},
            f"the end of the processes of {sorted(cancelled)}",
        )

    def _late(self, run: str) -> list[Event]:
        return list(self.client.list_events(run, kinds=["processes_reaped", "result_refused"]))

    def until_event(self, run: str, kind: str, count: int = 1, **fields: Any) -> list[Event]:
        """Wait until so many facts of one kind with these values are recorded."""

        def look() -> list[Event]:
            found = [
                event
                for event in self.client.list_events(run, kinds=[kind])
                if all(event.payload.get(name) == value for name, value in fields.items())
            ]
            return found if len(found) >= count else []

        return until(look, f"{count} x {kind} {fields} in {run}")
