"""One case through the whole of Swell: its own embedded cluster, a real repository, the shipped profiles, the real tool.

The cluster is started as a person would start it, with the tool's address and key in the environment; what came of the
run is read from the log. Every process that is started here is ended here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from services.bundle import parse_bundles
from services.executor.tools import WITHOUT_SANDBOX
from services.profiles import parse_tool_profiles
from swell.client import Client
from swell.cluster import endpoints_of, read_status
from swell.errors import SwellError
from swell.settings import RunSettings
from swell.submission import assemble
from swell.values import Event
from tests.real_tools.cases import COMMAND_S, Case
from tests.real_tools.server import BASE, CACHED, FILE, FRESH, MENDED, OUTPUT, Server, Session

CHECKOUT: Final = Path(__file__).resolve().parents[2]
SWELL: Final = Path(sys.executable).with_name("swell")
START_TIMEOUT_S: Final = 90.0
RUN_TIMEOUT_S: Final = 240.0
STOP_TIMEOUT_S: Final = 60.0
THEN_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.05
_CLOSES: Final = ("step_finished", "step_cancelled", "step_lost")
_TEST: Final = 'from greet import greet\n\n\ndef test_greets():\n    assert greet("you") == "hello you"\n'
_MODELS: Final = {
    "claude": "claude-sonnet-4-5",
    "codex": "gpt-5.5",
    "aider": "openai/gpt-4o",
    "opencode": "scripted/scripted-model",
    "gemini": "gemini-2.5-pro",
}

STOPPING: Final = threading.Event()
"""Set when everything has to end."""

T = TypeVar("T")


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case. `wrong` lists what is not as it has to be; `closes` are the attempts of EDIT and FIX."""

    case: Case
    outcome: str
    then: str = ""
    tokens: str = ""
    cost: str = ""
    tool_s: float = 0.0
    wall_s: float = 0.0
    requests: int = 0
    survivors: int = 0
    message: str = ""
    wrong: list[str] = []
    closes: list[dict[str, Any]] = []


def try_case(case: Case, server: Server, programs: Path, folder: Path) -> Tried:
    """Drive the case; `folder` is made for it, and keeps the output of the tool and the logs of the cluster."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = f"{case.tool}-{case.name}"
    session = server.session(name, case.script)
    repository = _repository(folder / "repo")
    started = time.monotonic()
    try:
        assert not STOPPING.is_set(), "stopped before it began"
        with _cluster(folder, _environment(f"{server.url}/{name}", programs, folder)) as client:
            return _Run(case, session, client, repository, folder).tried(f"{server.url}/{name}", started)
    except (AssertionError, OSError, subprocess.SubprocessError, SwellError) as error:
        return Tried(case=case, outcome="not driven", wrong=[str(error)], wall_s=time.monotonic() - started)


class _Run:
    def __init__(self, case: Case, session: Session, client: Client, repository: Path, folder: Path) -> None:
        self.case = case
        self.session = session
        self.client = client
        self.repository = repository
        self.folder = folder
        self.run = ""
        self.wrong: list[str] = []

    def tried(self, url: str, started: float) -> Tried:
        self.run = self._submit(url)
        try:
            survivors = self._watched()
        except AssertionError as error:
            self.wrong.append(str(error))
            self._swell("cancel", self.run)
            survivors = self._survivors()
        closes = self._closes()
        told = [close.payload for close in closes] + self._late()
        then = self._then()
        if not self._ended():
            self._swell("cancel", self.run, "--reason", "what was to be seen was seen")
        self._keep_outputs()
        self._judge(closes, survivors)
        sums, known = _usage(told)
        first = closes[0].payload if closes else {}
        state = self.client.get_run(self.run).state
        return Tried(
            case=self.case,
            outcome=str(first.get("error_class") or ("cancelled" if self.case.cancel else state)),
            then=then,
            tokens=_told(sums, known, any((one.get("usage") or {}).get("lower_bound") for one in told)),
            cost=_cost(told),
            tool_s=sum(float(one.get("tool_wall_s", 0)) for one in told),
            wall_s=time.monotonic() - started,
            requests=self.session.requests,
            survivors=len(survivors),
            message=str(first.get("message", "")),
            wrong=[*self.wrong, *(f"survivor: {text}" for text in survivors.values())],
            closes=told,
        )

    # The run

    def _watched(self) -> dict[int, str]:
        """Up to what is to be seen; who lives then that should not."""
        if self.case.cancel:
            return self._cancelled()
        if self.case.expect:
            _until(self._closes, "the close of its first attempt", RUN_TIMEOUT_S)
        else:
            _until(self._ended, "its end", RUN_TIMEOUT_S)
        return self._survivors()

    def _submit(self, url: str) -> str:
        case = self.case
        bundle = {
            "id": "ws-greet",
            "openspec_change": "REAL-1",
            "ccpm_issue": 1,
            "gate": 1,
            "files_scope": [FILE],
            "tool": case.tool,
            "tasks": [f"Let greet in {FILE} say hello to the name it is given."],
        }
        submission = assemble(
            parse_bundles([("bundles.json", json.dumps([bundle]).encode())]),
            repo=self.repository,
            settings=RunSettings(max_workers=1, timeout_s=RUN_TIMEOUT_S, review=None if case.expect else "fail"),
            context={f"{case.tool}_model": _MODELS[case.tool], "codex_base_url": f"{url}/v1", **case.context},
            profiles=parse_tool_profiles(json.dumps(_profiles(case, url)).encode(), "profiles"),
        )
        return self.client.submit_run(submission.header, submission.documents).run

    def _cancelled(self) -> dict[int, str]:
        """Cancel it as soon as the tool waits: for its command, or for the model."""
        if self.case.script.kind == "command":
            _until(lambda: _processes(f"timeout\0{COMMAND_S}\0", "cmdline", self._marker), "the agent's command", 60)
        else:
            _until(lambda: self.session.requests, "a request", 60)
        done = self._swell("cancel", self.run)
        if done.returncode not in {0, 1, 3, 130}:
            self.wrong.append(f"swell cancel ended with {done.returncode}: {done.stderr[-300:]}")
        return self._survivors()

    def _swell(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder / "home"), "LANG": "C.UTF-8"}
        return subprocess.run(
            [str(SWELL), *arguments],
            env={**environment, "SWELL_STATE_DIR": str(self.folder / "state")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STOP_TIMEOUT_S,
            check=False,
        )

    # What came of it

    def _events(self, *kinds: str) -> list[Event]:
        return list(self.client.list_events(self.run, kinds=kinds))

    def _closes(self) -> list[Event]:
        """The closes of EDIT and FIX, in order."""
        changing = {
            (event.workstream, event.payload["attempt"])
            for event in self._events("step_scheduled")
            if event.payload["step"] in {"edit", "fix"}
        }
        return [event for event in self._events(*_CLOSES) if (event.workstream, event.attempt) in changing]

    def _ended(self) -> bool:
        return bool(self._events("run_finished"))

    def _then(self) -> str:
        """What follows from the failure, by the shipped table."""
        if not self.case.expect or self.case.cancel:
            return ""
        with contextlib.suppress(AssertionError):
            found = _until(lambda: self._events("recovery_chosen"), "what follows", THEN_TIMEOUT_S)
            return str(found[0].payload["strategy"])
        return "?"

    @property
    def _marker(self) -> str:
        return f"SWELL_ATTEMPT={self.run}/"

    def _survivors(self) -> dict[int, str]:
        """Whoever lives of the run's tools, by the mark in the environment, or as the agent's command."""
        found = _processes(self._marker, "environ")
        if self.case.script.kind == "command":
            found |= _processes(f"timeout\0{COMMAND_S}\0", "cmdline", str(self.folder))
        return found

    def _judge(self, closes: list[Event], survivors: dict[int, str]) -> None:
        expect = self.case.expect
        first = closes[0].payload if closes else {}
        said = (str(close.payload.get("message", "")) for close in closes)
        self.wrong += [message for message in said if WITHOUT_SANDBOX in message]
        if expect == "cancelled":
            kinds = [event.kind for event in (*closes, *self._events("processes_reaped"))]
            if kinds != ["step_cancelled", "processes_reaped"]:
                self.wrong.append(f"what closed and confirmed it is {kinds}")
        elif expect and first.get("error_class") != expect:
            self.wrong.append(f"error_class is {first.get('error_class')!r}, not {expect!r}: {first.get('message')}")
        elif not expect:
            self._judge_success(closes)

    def _judge_success(self, closes: list[Event]) -> None:
        run = self.client.get_run(self.run)
        if run.state != "completed":
            reasons = [item.reason for item in self.client.list_workstreams(self.run)]
            self.wrong.append(f"the run is {run.state}: {reasons}")
            return
        steps = [attempt.step for attempt in self.client.list_attempts(self.run)]
        if "fix" not in steps or len(closes) != 2 or not all(close.payload.get("ok") for close in closes):
            self.wrong.append(f"steps were {steps}")
        delivered = subprocess.run(
            ["git", "show", f"{run.delivered_ref}:{FILE}"],
            cwd=self.repository,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if delivered.stdout != MENDED:
            self.wrong.append(f"delivered is {delivered.stdout!r}")
        sums, known = _usage([close.payload for close in closes])
        count = self.session.answers
        served = (count * FRESH, count * CACHED, 0, count * OUTPUT)
        if self.case.tool == "aider":
            served = (count * (FRESH + CACHED), 0, 0, count * OUTPUT)  # it does not tell what a cache gave
        if not known or sums != served:
            self.wrong.append(f"usage is {sums}, and {served} was served")

    def _late(self) -> list[dict[str, Any]]:
        """What the executor told of an attempt that was closed over its head."""
        return [event.payload["result"] for event in self._events("result_refused")]

    def _keep_outputs(self) -> None:
        """What the tools printed, beside the state."""
        for attempt in self.client.list_attempts(self.run):
            for artifact in attempt.artifacts:
                if artifact.role in {"log", "prompt"}:
                    data = b"".join(self.client.read_artifact(artifact))
                    (self.folder / f"{attempt.step}-{attempt.attempt}.{artifact.role}").write_bytes(data)


def _usage(results: list[dict[str, Any]]) -> tuple[tuple[int, int, int, int], bool]:
    """Input, cache read, cache written, output of all of them; and whether any was told."""
    told = [usage for result in results if (usage := result.get("usage")) is not None]
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    fresh, read, written, output = (sum(usage.get(name, 0) for usage in told) for name in names)
    return (fresh, read, written, output), bool(told)


def _told(sums: tuple[int, int, int, int], known: bool, lower_bound: bool) -> str:
    fresh, read, _, output = sums
    return f"{'≥ ' if lower_bound else ''}{fresh}+{read}/{output}" if known else "unknown"


def _cost(results: list[dict[str, Any]]) -> str:
    told = [cost for result in results if (cost := result.get("cost")) is not None]
    if not told:
        return "unknown"
    return f"${sum(cost['nano_usd'] for cost in told) / 1e9:.5f} {told[0]['basis']}"


# Repository, profiles, cluster


def _repository(folder: Path) -> Path:
    folder.mkdir()
    files = {FILE: BASE, "test_greet.py": _TEST, "swell.toml": 'static_tools = ["ruff"]\nruntime_tool = "pytest"\n'}
    for name, content in files.items():
        (folder / name).write_text(content)
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@invalid"]
    for arguments in (["init", "--quiet", "-b", "main"], ["add", "."], [*identity, "commit", "--quiet", "-m", "files"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=30, stdin=subprocess.DEVNULL)
    return folder


def _profiles(case: Case, url: str) -> dict[str, Any]:
    """The shipped profile where the case, or the tool's way of naming a provider, needs a field of its own."""
    changes = dict(case.profile)
    shipped = json.loads((CHECKOUT / "config" / "tool_profiles.json").read_text())[case.tool]
    if case.tool == "opencode":
        changes["env"] = shipped["env"] | {"OPENCODE_CONFIG_CONTENT": _opencode(shipped, url)}
    return {case.tool: shipped | changes} if changes else {}


def _opencode(shipped: Mapping[str, Any], url: str) -> str:
    """Its own configuration with one more provider, as a person names a server of theirs; braces doubled for the profile."""
    known = json.loads(shipped["env"]["OPENCODE_CONFIG_CONTENT"])
    model = {
        "name": "Scripted",
        "tool_call": True,
        "limit": {"context": 128_000, "output": 8192},
        "cost": {"input": 3, "output": 15, "cache_read": 0.3},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Scripted",
        "options": {"baseURL": f"{url}/v1", "apiKey": "scripted-key"},
        "models": {"scripted-model": model},
    }
    chosen = {"small_model": "scripted/scripted-model", "enabled_providers": ["scripted"]}
    text = json.dumps({**known, **chosen, "provider": {"scripted": provider}})
    return text.replace("{", "{{").replace("}", "}}")


def _environment(url: str, programs: Path, folder: Path) -> dict[str, str]:
    """That of whoever starts the cluster: the tools, and where their providers are."""
    home = folder / "home"
    home.mkdir()
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "SWELL_STATE_DIR": str(folder / "state"),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "scripted-key",
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": "scripted-key",
        "GOOGLE_GEMINI_BASE_URL": url,
        "GEMINI_API_KEY": "scripted-key",
    }


@contextlib.contextmanager
def _cluster(folder: Path, environment: dict[str, str]) -> Iterator[Client]:
    """A cluster of its own: breakers that one case opens hold no other."""
    state = folder / "state"
    with (folder / "dev.log").open("wb") as log:
        owner = subprocess.Popen(
            [str(SWELL), "dev"], env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:

        def ready() -> bool:
            assert owner.poll() is None, f"the cluster has ended: {(folder / 'dev.log').read_text()[-500:]}"
            status = read_status(state)
            return status is not None and status.state == "ready"

        _until(ready, "the cluster", START_TIMEOUT_S)
        status = read_status(state)
        assert status is not None
        with Client(endpoints_of(status, state)) as client:
            yield client
    finally:
        owner.send_signal(signal.SIGINT)
        try:
            owner.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            owner.kill()
            owner.wait()


def _until(look: Callable[[], T], what: str, timeout_s: float) -> T:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert not STOPPING.is_set(), f"stopped while it waited for {what}"
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(POLL_S)
    return found


def _processes(text: str, where: str, also: str = "") -> dict[int, str]:
    """Living processes, zombies apart, that have `text` in their `environ` or `cmdline`, and `also` in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if text.encode() not in (entry / where).read_bytes():
                continue
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state != "Z" and also.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = command[:200]
        except OSError:
            continue
    return found
