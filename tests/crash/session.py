"""One session of the crash matrix: runs go in, faults strike, and when they are over everything is judged.

The runs are small and real: barrier waves of several workstreams, tools that take a moment, FIX loops for STATIC and for
RUNTIME, workstreams that build on what another one made, now and then somebody who cancels. What a tool does it writes
into a diary, so that the log can be compared with what has really happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from services.bundle import parse_bundles
from services.bus import Recorded
from services.ledger.projector import Projector
from services.ledger.store import Store
from services.profiles import parse_tool_profiles
from swell.errors import SwellError
from swell.settings import RunSettings
from swell.submission import assemble
from tests.crash.faults import POINTS, RANDOM, Fault, plan
from tests.crash.history import (
    CLOSES,
    Effect,
    Expected,
    Fact,
    broken,
    chain_of,
    effects,
    effects_are_recorded,
    opened,
    stream_is_whole,
)
from tests.crash.rig import EXECUTORS, GONE_S, SCHEDULERS, Rig, Strike, processes

END_S: Final = 60.0
"""Every run has ended by then, once the faults are over."""
ANSWER_S: Final = 90.0
"""A submission is answered by then, faults or not."""
POINT_S: Final = 5.0
"""A point that does not come up is given up after this long, and the fault strikes at random."""
TAKEOVER_S: Final = 10.0
LIVE_RUNS: Final = 3
STRIKERS: Final = 4
Plan = Callable[[Random], Iterator[Fault]]
TABLES: Final = ("meta", "entries", "events", "transitions", "runs", "workstreams", "attempts")


# What is run


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is submitted. `kinds`: what is wrong with what each workstream's EDIT makes (see `tools`)."""

    run: str
    kinds: dict[str, str]
    bundles: list[dict[str, Any]]
    profiles: dict[str, Any]
    max_workers: int
    cancel_after_s: float | None
    timeout_s: float | None
    diary: Path


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


def make_repository(folder: Path, files: Sequence[str]) -> str:
    """A repository with a branch, a stash and an index that nobody may touch; its base commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    (folder / "f").mkdir()
    for name in files:
        (folder / name).write_text("base\n")
    (folder / "swell.toml").write_text('static_tools = ["no-bad"]\ngates_file = "gates.yaml"\n')
    (folder / "gates.yaml").write_text("GATE_INTEGRATION: {tool: quiet, wave_boundary: true}\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "base")
    git(folder, "branch", "mine")
    (folder / files[0]).write_text("mine\n")
    git(folder, "stash", "--quiet")
    return git(folder, "rev-parse", "HEAD")


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


def _sh(script: str, *arguments: str, fix: str = "") -> dict[str, Any]:
    literal = script.replace("{", "{{").replace("}", "}}")
    profile: dict[str, Any] = {"command": "sh", "args": ["-c", literal, "tool", *arguments], "grace_sec": 1.0}
    if fix:
        profile["fix_args"] = ["-c", fix.replace("{", "{{").replace("}", "}}"), "tool", *arguments]
    return profile


def _say(diary: Path, tool: str, what: str) -> str:
    return f'echo "{what} {tool} $SWELL_ATTEMPT" >> {diary}; '


def tools(workstream: str, kind: str, seconds: tuple[float, float], diary: Path) -> dict[str, Any]:
    """The tools of one workstream: EDIT leaves what is `good`, or what STATIC, RUNTIME or the gate of the wave refuses; FIX mends it."""
    edit, done = f"edit-{workstream}", f"done-{workstream}"
    word = {"static": "BAD", "loud": "LOUD"}.get(kind, "GOOD")
    write = f'sleep {seconds[0]:.2f}; echo "{word} {workstream}" >> "$1"; '
    mend = f'if grep -q "BAD\\|LOUD" "$1"; then sed -i "s/BAD/GOOD/; s/LOUD/GOOD/" "$1"; else echo "DONE {workstream}" >> "$1"; fi; '
    found = {
        edit: _sh(
            _say(diary, edit, "start") + write + _say(diary, edit, "end"),
            "{files}",
            fix=f"{_say(diary, edit, 'start')}sleep {seconds[1]:.2f}; {mend}{_say(diary, edit, 'end')}",
        ),
    }
    if kind == "runtime":
        look = f'sleep 0.1; grep -q "DONE {workstream}" "$1"; found=$?; '
        found[done] = _sh(
            f"{_say(diary, done, 'start')}{look}{_say(diary, done, 'end')}exit $found", f"f/{_file(workstream)}"
        )
    return found


def _file(workstream: str) -> str:
    """Workstreams of the second wave write into the files of the first."""
    return f"{workstream[3]}.txt"


def draw_run(random: Random, run: str, diary: Path) -> Planned:
    """A run of one to four files, some of them changed again in a second wave."""
    first = [f"ws-{name}" for name in "abcd"[: random.randint(1, 4)]]
    second = [f"{name}-2" for name in first if random.random() < 0.5]
    kinds = {name: random.choice(("good", "static", "runtime", "loud")) for name in (*first, *second)}
    profiles: dict[str, Any] = {}
    bundles = []
    for name, kind in kinds.items():
        profiles |= tools(name, kind, (random.uniform(0.1, 1.2), random.uniform(0.1, 0.8)), diary)
        bundle: dict[str, Any] = {
            "id": name,
            "files_scope": [f"f/{_file(name)}"],
            "tool": f"edit-{name}",
            "openspec_change": "CRASH",
            "ccpm_issue": 1,
            "gate": 1,
            "tasks": ["change the file"],
            "depends_on": [name.removesuffix("-2")] if name in second else [],
        }
        if kind == "runtime":
            bundle["metadata"] = {"swell": {"runtime_tool": f"done-{name}"}}
        if "loud" in kinds.values():
            bundle["test_gates"] = [{"type": "GATE_INTEGRATION"}]
        bundles.append(bundle)
    look = 'sleep 0.1; cat "$@" | grep -q BAD; found=$?; '
    profiles["no-bad"] = _sh(
        f"{_say(diary, 'no-bad', 'start')}{look}{_say(diary, 'no-bad', 'end')}[ $found = 1 ]", "{files}"
    )
    listen = "sleep 0.1; cat f/* | grep -q LOUD; found=$?; "
    profiles["quiet"] = _sh(
        f"{_say(diary, 'GATE_INTEGRATION', 'start')}{listen}{_say(diary, 'GATE_INTEGRATION', 'end')}[ $found = 1 ]", "-"
    )
    return Planned(
        run=run,
        kinds=kinds,
        bundles=bundles,
        profiles=profiles,
        max_workers=random.randint(1, 4),
        cancel_after_s=random.uniform(0.3, 6.0) if random.random() < 0.25 else None,
        timeout_s=random.uniform(2.0, 9.0) if random.random() < 0.1 else None,
        diary=diary,
    )


# One session


class Verdict(msgspec.Struct, kw_only=True):
    """What a session has come to. `settled_s`: from the last fault to the end of the last run. `again`: see `handed_back_whole`."""

    seed: int
    runs: int = 0
    cancelled: int = 0
    entries: int = 0
    again: int = 0
    strikes: list[Strike] = []
    wrong: list[str] = []
    takeovers_s: list[tuple[str, float]] = []
    settled_s: float = 0.0


class _Watch(msgspec.Struct):
    """A fault that waits for its point; `skip` entries of it still go by."""

    fault: Fault
    skip: int
    struck: asyncio.Event


class Session:
    """Faults of one seed on a rig that runs already. `kills`: so many times SIGKILL, then the faults are over; or when no more
    are planned.

    `planned`: which faults. `strikers`: faults on the watch at a time. `live`: runs at a time.
    """

    def __init__(
        self, rig: Rig, seed: int, *, kills: int, planned: Plan = plan, strikers: int = STRIKERS, live: int = LIVE_RUNS
    ) -> None:
        self._rig = rig
        self._seed = seed
        self._kills = kills
        self._strikers = strikers
        self._live = live
        self._random = Random(seed)
        self._faults = planned(self._random)
        self._folder = rig.folder / f"session-{seed}"
        self._repo = self._folder / "repo"
        self._planned: dict[str, Planned] = {}
        self._acknowledged: dict[str, int] = {}
        self._cancelled: dict[str, int] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._wrong: list[str] = []
        self._seen: asyncio.Queue[Fact] = asyncio.Queue()
        self._watching: list[_Watch] = []
        self._first = 0
        self._over = False

    async def run(self) -> Verdict:
        """Everything from the first submission to the judgement."""
        self._first = len(self._rig.strikes)
        make_repository(self._repo, [f"f/{name}.txt" for name in "abcd"])
        before = witness(self._repo)
        self._rig.listeners.append(self._take)
        try:
            loading = asyncio.create_task(self._load())
            striking = asyncio.create_task(self._strike_all())
            await asyncio.wait({loading, striking}, return_when=asyncio.FIRST_COMPLETED)
            self._over = True
            calm_at = time.monotonic()
            await striking
            await self._rig.calm()
            await self._all_ended(loading)
            settled_s = time.monotonic() - calm_at
            await self._no_process_lives()
        finally:
            self._rig.listeners.remove(self._take)
        return await self._judge(before, settled_s)

    # Load

    async def _load(self) -> None:
        """As many runs at a time as there should be, for as long as faults strike."""
        random = Random(self._seed + 1)
        live: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while not self._over:
                while len(live) < self._live:
                    number += 1
                    run = f"crash-{self._seed}-{number}"
                    self._ends[run] = asyncio.Event()
                    self._planned[run] = draw_run(random, run, self._folder / f"diary-{number}")
                    live.add(asyncio.create_task(self._one(self._planned[run])))
                done, live = await asyncio.wait(live, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            await asyncio.gather(*live)
        finally:
            for task in live:
                task.cancel()

    async def _one(self, planned: Planned) -> None:
        planned.diary.touch()
        await self._submit(planned)
        if planned.cancel_after_s is not None:
            await asyncio.sleep(planned.cancel_after_s)
            await self._cancel(planned.run)
        if planned.run in self._acknowledged:
            await self._ends[planned.run].wait()

    async def _submit(self, planned: Planned) -> None:
        """Until it is acknowledged: by either scheduler, as the same request however often it is made."""
        submission = await asyncio.to_thread(
            assemble,
            parse_bundles([("bundles.json", json.dumps(planned.bundles).encode())]),
            repo=self._repo,
            settings=RunSettings(max_workers=planned.max_workers, timeout_s=planned.timeout_s),
            run=planned.run,
            profiles=parse_tool_profiles(json.dumps(planned.profiles).encode(), "profiles"),
        )
        header = msgspec.structs.replace(submission.header, request_id=f"request-{planned.run}")
        deadline = time.monotonic() + ANSWER_S
        at = self._random.randrange(2)
        while True:
            client = self._rig.client(SCHEDULERS[at])
            try:
                answer = await asyncio.to_thread(client.submit_run, header, submission.documents)
            except SwellError as error:
                if time.monotonic() > deadline:
                    self._wrong.append(f"{planned.run}: not acknowledged within {ANSWER_S:g} s: {error}")
                    return
                if error.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "CANCELLED"}:
                    self._wrong.append(f"{planned.run}: its submission was answered so: {error}")
                    return
                at = 1 - at
            else:
                self._acknowledged[planned.run] = answer.position
                return

    async def _cancel(self, run: str) -> None:
        for at in (*SCHEDULERS, *SCHEDULERS):
            try:
                position = await asyncio.to_thread(
                    self._rig.client(at).cancel_run, run, reason="changed my mind", actor="somebody"
                )
            except SwellError as error:
                if error.code == "FAILED_PRECONDITION":
                    return  # it is over, or a request that was not acknowledged has been heard
            else:
                self._cancelled[run] = position
                return

    # Faults

    def _take(self, fact: Fact, _: float) -> None:
        """One fact from the log, the moment it is seen."""
        if fact.run not in self._planned:
            return
        if fact.kind == "run_finished":
            self._ends[fact.run].set()
        for watch in list(self._watching):
            if POINTS[watch.fault.point].matches(fact):
                if watch.skip:
                    watch.skip -= 1
                    continue
                self._watching.remove(watch)
                if watch.fault.after_s:
                    asyncio.get_running_loop().call_later(watch.fault.after_s, self._strike_at, watch, fact)
                else:
                    self._strike_at(watch, fact)
        if fact.kind == "step_finished" and fact.where == "attempt":
            self._none_lives(f"{fact.run}/{fact.workstream}/{fact.attempt}")

    def _strike_at(self, watch: _Watch, fact: Fact) -> None:
        """Its entry has been seen; where nobody is there to be struck, it waits for the next one."""
        if self._strike(watch.fault, watch.fault.point, fact):
            watch.struck.set()
        else:
            self._watching.append(watch)

    def _strike(self, fault: Fault, point: str, fact: Fact | None) -> bool:
        name = self._who(fault.target, fact)
        match fault.target:
            case "host":
                return self._rig.strike_host(name, point)
            case "supervisor":
                return self._rig.strike_supervisor(name, point)
            case _:
                return self._rig.strike(name, fault.number, point, fault.pause_s)

    def _who(self, target: str, fact: Fact | None) -> str:
        match target:
            case "leader":
                return self._rig.leader or SCHEDULERS[0]
            case "standby":
                return next(name for name in SCHEDULERS if name != self._rig.leader)
            case "holder" | "host" | "supervisor" if fact is not None and fact.by.startswith("executor:"):
                return fact.by.partition(":")[2]
            case "executor" | "holder" | "host" | "supervisor":
                return self._random.choice(EXECUTORS)
            case _:
                return target

    async def _strike_all(self) -> None:
        """Faults as they are planned, several on the watch at a time, up to the number of kills."""
        await asyncio.gather(*(self._strike_on() for _ in range(self._strikers)))

    async def _strike_on(self) -> None:
        while self._killed() < self._kills and not self._over:
            fault = next(self._faults, None)
            if fault is None:
                return
            await asyncio.sleep(fault.rest_s)
            if fault.point != RANDOM:
                watch = _Watch(fault, fault.skip, asyncio.Event())
                self._watching.append(watch)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POINT_S):
                        await watch.struck.wait()
                if watch not in self._watching:
                    continue  # it has struck, or is about to
                self._watching.remove(watch)
            self._strike(fault, RANDOM, None)

    def _killed(self) -> int:
        return sum(strike.number is signal.SIGKILL for strike in self._rig.strikes[self._first :])

    # The end

    async def _all_ended(self, loading: asyncio.Task[None]) -> None:
        await asyncio.wait({loading}, timeout=END_S)
        if loading.done():
            loading.result()
            return
        left = sorted(run for run, end in self._ends.items() if not end.is_set())
        self._wrong.append(f"{left} have not ended {END_S:g} s after the last fault")
        loading.cancel()
        await asyncio.wait({loading})

    def _none_lives(self, attempt: str) -> None:
        """An executor that says that an attempt is finished has left no process of it."""
        left = [process for process in processes() if process.marker == attempt]
        if left:
            self._wrong.append(f"{attempt} is finished, and of its processes live {left}")

    async def _no_process_lives(self) -> None:
        deadline = time.monotonic() + GONE_S
        while left := [p for p in processes() if p.marker.partition("/")[0] in self._planned]:
            if time.monotonic() > deadline:
                self._wrong.append(f"every run has ended, and these live: {left}")
                return
            await asyncio.sleep(0.05)

    async def _judge(self, before: dict[str, Any], settled_s: float) -> Verdict:
        watched = list(self._rig.watched)  # before the rest is read: late facts may still come
        records = await self._rig.records()
        facts = opened(records)
        strikes = self._rig.strikes[self._first :]
        late = await behind(self._rig, records[-1].sequence)
        wrong = [*self._wrong, *late, *stream_is_whole(records, watched)]
        again = 0
        for run, planned in self._planned.items():
            mine = [fact for fact in facts if fact.run == run]
            if run not in self._acknowledged:
                continue
            asked = any(fact.kind == "cancel_requested" for fact in mine)
            expected = Expected(
                run=run,
                max_workers=planned.max_workers,
                depends_on={bundle["id"]: bundle["depends_on"] for bundle in planned.bundles},
                outcome="" if asked or planned.timeout_s else "completed",
            )
            wrong += broken(mine, expected)
            done = effects(planned.diary.read_text())
            again += handed_back_whole(mine, done)
            wrong += [f"{run}: {line}" for line in effects_are_recorded(mine, done)]
            wrong += [f"{run}: {line}" for line in self._acknowledged_are_there(run, mine)]
            wrong += [f"{run}: {line}" for line in delivered_wrongly(self._repo, mine, planned.kinds)]
        after = witness(self._repo)
        wrong += [f"{what} of the user has changed" for what in before if before[what] != after[what]]
        takeovers = list(takeovers_of(facts, strikes))
        wrong += [
            f"the next decision after {name} took {s:.1f} s"
            for name, s in takeovers
            if s > TAKEOVER_S and "leader" in name
        ]
        wrong += self._rig.wrong
        self._rig.wrong = []
        return Verdict(
            seed=self._seed,
            runs=len(self._acknowledged),
            cancelled=len(self._cancelled),
            entries=len(records),
            strikes=strikes,
            wrong=wrong,
            again=again,
            takeovers_s=takeovers,
            settled_s=settled_s,
        )

    def _acknowledged_are_there(self, run: str, facts: Sequence[Fact]) -> Iterator[str]:
        """What a service has said to be recorded at a position stands there."""
        stood = {fact.position: fact.kind for fact in facts}
        for kind, position in (
            ("run_requested", self._acknowledged.get(run)),
            ("cancel_requested", self._cancelled.get(run)),
        ):
            if position is not None and stood.get(position) != kind:
                yield f"{kind} was acknowledged at {position}, where {stood.get(position)} stands"


def delivered_wrongly(repo: Path, facts: Sequence[Fact], kinds: dict[str, str]) -> Iterator[str]:
    """The branch is the last delivered commit, has every completed workstream's change once, and nothing of the others.

    An attempt that an executor hands back leaves what its tool has done so far to the next one, whose tool does it again.
    """
    run = facts[0].run
    handed = Counter(fact.workstream for fact in facts if fact.body.get("error_class") == "handed_back")
    branch = git(repo, "rev-parse", "--verify", "--quiet", f"refs/heads/swell/{run}", check=False)
    told = [fact.body["commit"] for fact in facts if fact.kind == "line_delivered"]
    tried = {
        fact.body["input"]["commit"]
        for fact in facts
        if fact.kind == "step_scheduled" and fact.body["step"] == "deliver"
    }
    cancelled = any(fact.kind == "run_stopping" for fact in facts)
    if not cancelled and branch != (told[-1] if told else ""):
        yield f"the branch is at {branch or 'nothing'}, delivered was {told}"
    if branch and branch not in tried:
        yield f"the branch is at {branch}, which nobody had to deliver"
    if not branch:
        return
    merged = []
    for fact in facts:
        if fact.kind == "integration_advanced":
            merged.append(fact.body["workstream"])
            if fact.body["to"]["commit"] == branch:
                break
    for name, kind in kinds.items():
        text = git(repo, "show", f"{branch}:f/{_file(name)}").splitlines()
        least = int(name in merged)
        right = range(least, least + least * handed[name] + 1)
        if text.count(f"GOOD {name}") not in right or f"BAD {name}" in text:
            yield f"the branch has {text.count(f'GOOD {name}')} times the change of {name}, {right} is right: {text}"
        if kind == "runtime" and text.count(f"DONE {name}") not in right:
            yield f"the branch has {text.count(f'DONE {name}')} times the FIX of {name}, {right} is right: {text}"


def handed_back_whole(facts: Sequence[Fact], done: Sequence[Effect]) -> int:
    """How many attempts were handed back although their tool had written down its end: it is run again for nothing."""
    ended = {effect.attempt for effect in done if effect.what == "end" and effect.tool.startswith("edit-")}
    handed = [fact for fact in facts if fact.body.get("error_class") == "handed_back" and fact.where == "attempt"]
    return sum(f"{fact.run}/{fact.workstream}/{fact.attempt}" in ended for fact in handed)


def takeovers_of(facts: Sequence[Fact], strikes: Sequence[Strike]) -> Iterator[tuple[str, float]]:
    """From each kill of the leader, or of the bus, to the next decision that was owed, in seconds; what was struck, and how long.

    Owed: an attempt was closed, or something was asked, and its run has not been decided on since. Left out is what another
    fault to the schedulers or to the bus makes longer.
    """
    for strike in strikes:
        what = "bus" if strike.part == "nats" else "leader" if strike.leading else ""
        if not what or strike.number is signal.SIGSTOP:
            continue
        owed: dict[str, int] = {}
        for fact in facts:
            if fact.where == "run":
                since = owed.pop(fact.run, None)
                if since is not None and fact.time_ns > strike.at_ns:
                    if not _disturbed(strikes, strike, fact.time_ns):
                        yield f"{strike.number.name} of the {what}", (fact.time_ns - max(strike.at_ns, since)) / 1e9
                    break
            elif fact.kind in CLOSES or fact.where == "request":
                owed.setdefault(fact.run, fact.time_ns)


def _disturbed(strikes: Sequence[Strike], by: Strike, until_ns: int) -> bool:
    """Whether the bus or a scheduler was struck as well, in that time or shortly before it."""
    return any(
        other is not by
        and (other.part == "nats" or other.part in SCHEDULERS)
        and by.at_ns - 6e9 < other.at_ns < until_ns
        for other in strikes
    )


# The ledger


def tables_of(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in a ledger's file."""
    store = Store.open(file)
    try:
        return {table: sorted(store.read(f"SELECT * FROM {table}"), key=repr) for table in TABLES}  # noqa: S608
    finally:
        store.close()


def ledger_differs(file: Path, records: Sequence[Recorded], scratch: Path) -> list[str]:
    """Where the tables of a ledger that was struck are not those of a fold of the whole log, and its hash not the log's."""
    lived = tables_of(file)
    store = Store.open(scratch)
    store.bind(lived["meta"][0][1])
    store.commit(Projector(store.tip, store).fold(records))
    store.close()
    folded = tables_of(scratch)
    wrong = [
        f"table {table} of the ledger has {len(lived[table])} rows, a fold of the log {len(folded[table])}; "
        f"they differ in {[row for row in lived[table] if row not in folded[table]][:2]}"
        for table in TABLES
        if lived[table] != folded[table]
    ]
    if chain_of(records) not in lived["meta"][0]:
        wrong.append("the hash in the ledger is not that of the log")
    return wrong


async def behind(rig: Rig, last: int) -> list[str]:
    """What is wrong if the ledger does not answer for position `last` of the log within the time it has."""
    deadline = time.monotonic() + END_S
    client = rig.client(SCHEDULERS[0])
    said = "nothing of it"
    while True:
        try:
            newest = await asyncio.to_thread(lambda: list(client.list_events(after=last - 1, limit=1)))
            if not last or newest:
                return []
        except SwellError as error:
            said = str(error)
        if time.monotonic() > deadline:
            return [f"the ledger has not absorbed position {last} within {END_S:g} s; it says {said}"]
        await asyncio.sleep(0.05)


async def close_and_compare(rig: Rig) -> list[str]:
    """Let the ledger absorb the whole log, stop everything, and compare its file with the log; what is wrong."""
    records = await rig.records()
    if late := await behind(rig, records[-1].sequence if records else 0):
        return [*rig.wrong, *late]
    await rig.stop()
    return rig.wrong + await asyncio.to_thread(
        ledger_differs, rig.folder / "ledger.duckdb", records, rig.folder / "folded.duckdb"
    )


def table_of(strikes: Sequence[Strike]) -> list[str]:
    """How often each service was struck, by signal and by point."""
    counted = Counter((strike.part.partition("-")[0], strike.number.name, strike.point) for strike in strikes)
    return [
        f"{part:<10} {number:<8} {point:<20} {count:>5}" for (part, number, point), count in sorted(counted.items())
    ]
