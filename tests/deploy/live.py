"""The chart in containers, struck while it works: `python -m tests.deploy.live`, part of `make deploy-test`.

Renders the chart as values-lab.yaml has it (three NATS servers, two schedulers, two executors, a ledger; TLS with client
certificates, principals, users of the bus with their permissions, network policies), and has `tests.deploy.lab` run what
comes out. A run goes through it over a repository that executors fetch by HTTP; meanwhile a NATS server is killed, an
executor cut off, the leading scheduler deleted. Then the log is judged from its bytes by the checker of the crash matrix,
the ledger compares itself with it, and whoever may not do something tries it. Ends with 1 when something is wrong, and with 2
where there is no podman or no root.
"""

# ruff: noqa: T201 - it prints a report
from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
import yaml

from services.bus import Bus, BusError
from services.bus_config import BusConfig
from services.wire import attempt_subject, run_subject
from swell.client import Client
from swell.errors import SwellError
from swell.values import Endpoints
from tests.auth.certificates import Authority
from tests.crash.history import LINE, Expected, Fact, broken, effects, effects_are_recorded, opened, stream_is_whole
from tests.crash.session import git, tools
from tests.deploy.chart import NAMESPACE, RELEASE, Rendered, render
from tests.deploy.lab.engine import Engine, MissingError, needed, own_network
from tests.deploy.lab.kubelet import OWNER, Lab, Pod, until
from tests.deploy.lab.manifest import read
from tests.deploy.shipped import ROOT
from tests.deploy.watching import Asking, Log, Talker

VALUES: Final = Path(__file__).with_name("values-lab.yaml")
EXAMPLE: Final = ROOT / "deploy" / "example.yaml"
RUN: Final = "live"
ROLES: Final = {"root": "admin", "ann": "operator", "vic": "viewer"}
LOAD_MAX: Final = 6
"""For each processor: more is not the work of one lab."""

START_S_MAX: Final = 3.0
PAUSE_S_MAX: Final = 5.0
READY_S: Final = 180.0
RUN_S: Final = 420.0
AWAY_S: Final = 20.0
LOOK_S: Final = 1.0
CUT_S: Final = 18.0
"""Longer than `executor_lease_s`, which is 10."""

OWN_PAUSE_S_MAX: Final = 3.0
"""Beyond what NATS takes to elect leaders: a request that went to a dead one is repeated after 2 s."""

DECIDING: Final = {"SWELL_EVENTS", "KV_SWELL_LEASES", ""}
"""What nothing is decided without: the leaders of these streams, and "" for that of the servers, who lets the log be followed."""

ELECTED: Final = re.compile(
    r"(\S+ \S+) \[INF\] (?:JetStream cluster new stream leader for '\$G > (\w+)'|Self is new JetStream cluster metadata leader)"
)

BAD: Final = ("c", "f")
"""Files whose first change is refused by the check, and mended by FIX."""

FILES: Final = "abcdefgh"
TWICE: Final = "abcdef"
"""Files that a second workstream changes again."""


class Wrong(list[str]):
    """What is wrong, told as soon as it is found. Where others work on this machine, times are told, and not judged."""

    def __init__(self) -> None:
        super().__init__()
        self._before = os.getloadavg()[0]

    def slow(self, text: str) -> None:
        """Something took too long."""
        load, processors = os.getloadavg()[0], os.cpu_count() or 1
        if self._before > processors or load > LOAD_MAX * processors:
            print(
                f"SLOW  {text}; not judged: the load is {load:.0f}, it was {self._before:.0f} at the beginning",
                flush=True,
            )
        else:
            self.add(text)

    def add(self, text: str) -> None:
        """One thing more."""
        print(f"WRONG {text}", flush=True)
        self.append(text)


def main() -> int:
    """Build up, strike, judge; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.live", description="The chart in containers.")
    parser.add_argument("--image", default="swell:0.1.0")
    parser.add_argument("--keep", type=Path, help="keep logs and the stream in this folder")
    given = parser.parse_args()
    try:
        needed()
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    with own_network("tests.deploy.live", sys.argv[1:]) as code:
        if code is not None:
            return code
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        wrong = Wrong()
        with (
            tempfile.TemporaryDirectory(prefix="swell-lab-") as folder,
            Engine(f"swell-lab-{os.getpid()}") as engine,
            Lab(engine, Path(folder), NAMESPACE) as lab,
        ):
            Path(folder).chmod(0o755)  # the users of containers pass through it
            try:
                Trial(lab, given.image, wrong).carry_out()
            finally:
                if given.keep is not None:
                    _keep(lab, given.keep)
        print("nothing is wrong" if not wrong else f"{len(wrong)} things are wrong")
        return 1 if wrong else 0


def _keep(lab: Lab, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pod in lab.pods.values():
        (folder / f"{pod.name}.log").write_text(pod.log(), encoding="utf-8")


class Trial:
    """One run through one lab."""

    def __init__(self, lab: Lab, image: str, wrong: Wrong) -> None:
        self.lab = lab
        self.image = image
        self.wrong = wrong
        self.began = time.monotonic()
        self.client_files = lab.folder / "client"
        self.tokens = {name: secrets.token_hex(32) for name in ROLES}
        self.rendered = self._rendered()
        self.secrets = {
            one["metadata"]["name"]: {key: base64.b64decode(text) for key, text in one["data"].items()}
            for one in self.rendered.of("Secret")
        }

    def carry_out(self) -> None:
        """All of it."""
        self.say(
            "the chart is put up: "
            + ", ".join(f"{pod.most} {pod.owner}" for pod in self.rendered.pods if pod.owner != f"{RELEASE}-test")
        )
        self.lab.install(read([*self.rendered.objects, *self._own_objects()]))
        self.lab.await_ready(READY_S)
        self.say("every pod is ready")
        self._helm_test()
        self._cold_starts()
        self._refused_connections()
        self._make_repository()
        with Log(self.lab, self.bus("swell-ledger")) as log:
            self._run_through_faults(log)
            asked = self._refusals()
            self._judge(log, asked)
        self._ledger_agrees()
        for pod in self.lab.pods.values():
            for text in pod.failures:
                self.wrong.add(text)

    def say(self, text: str) -> None:
        """One line of the report."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    # What there is

    def _rendered(self) -> Rendered:
        repository, _, tag = self.image.rpartition(":")
        values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
        return render(values | {"image": {"repository": repository, "tag": tag}})

    def _own_objects(self) -> Iterator[dict[str, Any]]:
        """What an installation of one's own brings: principals, a client's files, and the example's pod to call from."""
        listed = [
            {"name": name, "role": role, "token_sha256": hashlib.sha256(self.tokens[name].encode()).hexdigest()}
            for name, role in ROLES.items()
        ]
        authority = self.secrets[f"{RELEASE}-ca"]
        maker = Authority.of(authority["tls.crt"], authority["tls.key"])
        files = {f"{name}.token": token.encode() for name, token in self.tokens.items()}
        files |= {
            "token": files["ann.token"],
            "ca.crt": authority["tls.crt"],
            "wrong.token": secrets.token_hex(32).encode(),
        }
        for name, made in (
            ("me", maker.make("client", [])),
            ("old", maker.make("client", [], begins=timedelta(days=-2), ends=timedelta(days=-1))),
            ("else", Authority("somebody else").make("client", [])),
        ):
            files |= {f"{name}.crt": made.pem, f"{name}.key": made.key_pem}
        self.client_files.mkdir()
        for name, data in files.items():
            (self.client_files / name).write_bytes(data)
        yield _secret("lab-principals", {"principals.json": json.dumps({"principals": listed}).encode()})
        yield _secret(f"{RELEASE}-client", files)
        text = EXAMPLE.read_text(encoding="utf-8").replace("swell:0.1.0", self.image)
        yield from yaml.safe_load_all(text)

    def endpoints(self, name: str, scheduler: Pod, *, certificate: str = "me") -> Endpoints:
        """How `name` calls one of the schedulers, and the ledger."""
        (ledger,) = self.lab.of("ledger")
        return Endpoints(
            scheduler=f"{scheduler.address}:7400",
            ledger=f"{ledger.address}:7401",
            token_file=self.client_files / f"{name}.token" if name else None,
            ca_file=self.client_files / "ca.crt",
            certificate_file=self.client_files / f"{certificate}.crt" if certificate else None,
            key_file=self.client_files / f"{certificate}.key" if certificate else None,
            tls_name="localhost",
        )

    def bus(self, user: str, **changed: Any) -> BusConfig:
        """How a user of the bus reaches it."""
        component = {"swell-scheduler": "scheduler", "swell-ledger": "ledger"}.get(user, "executor-default")
        file = self.client_files / f"{component}.password"
        file.write_bytes(self.secrets[f"{RELEASE}-bus-{component}"]["password"])
        settings = {
            "url": ",".join(f"tls://{pod.address}:4222" for pod in self.lab.of("nats")),
            "user": user,
            "password_file": file,
            "ca_file": self.client_files / "ca.crt",
            "tls_name": f"{RELEASE}-nats.{NAMESPACE}.svc",
            "replicas": 3,
        }
        return BusConfig(**(settings | changed))

    def swell(self, *arguments: str, timeout_s: float = 60, **environment: str) -> tuple[int, str]:
        """The image's `swell`, in a container that is none of the cluster's; as ann unless the environment says otherwise."""
        files = {"SWELL_CERTIFICATE_FILE": "/etc/swell-client/me.crt", "SWELL_KEY_FILE": "/etc/swell-client/me.key"}
        variables = [f"--env={key}={value}" for key, value in (files | environment).items()]
        code, said, wrong = self.lab.engine.tried(
            "exec", *variables, self.lab.engine.full("swell-example"), "swell", *arguments, timeout_s=timeout_s
        )
        return code, said + wrong

    # Before the run

    def _helm_test(self) -> None:
        """The pod of `helm test`, container by container."""
        for name, code, said in self.lab.run_hooks():
            self.say(f"helm test, {name}: {'passes' if code == 0 else said}")
            if code != 0:
                self.wrong.add(f"helm test, {name}, ends with {code}: {said}")

    def _cold_starts(self) -> None:
        """Each kind of pod once more, in a cluster that serves: from the start of its container until it serves.

        Asked is what its probe asks, but from here: a probe is a program that has to start as well, in a container that has
        a part of a processor.
        """
        for component in ("nats", "ledger", "executor", "scheduler"):
            pod = self.lab.of(component)[-1]
            asking = Asking(self.lab, pod, self.client_files)
            pod.restart()
            took = pod.started_s[-1]
            served = min(asking.told(pod.begun), took)
            self.say(
                f"cold start of {component}: serves after {served:.2f} s, and its own probe has said so after {took:.2f} s"
            )
            if served > START_S_MAX:
                self.wrong.slow(f"{component} took {served:.2f} s to start, {START_S_MAX:g} may be")
            self.lab.await_ready(READY_S)

    def _make_repository(self) -> None:
        """A repository in the example's pod, and a checkout of it; bundles and profiles beside it."""
        place = self.lab.folder / "pods" / "swell-example" / "srv"
        checkout = place / "live"
        (checkout / "f").mkdir(parents=True)
        git(checkout, "init", "--quiet", "--initial-branch", "main")
        for name in FILES:
            (checkout / "f" / f"{name}.txt").write_text("base\n", encoding="utf-8")
        (checkout / "swell.toml").write_text('static_tools = ["no-bad"]\n', encoding="utf-8")
        git(checkout, "add", "--all")
        git(checkout, "commit", "--quiet", "--message", "base")
        git(checkout, "clone", "--quiet", "--bare", str(checkout), str(place / "git" / "live.git"))
        git(checkout, "remote", "add", "origin", "http://swell-example:8080/live.git")
        work = place / "work"
        work.mkdir()
        bundles, profiles = _work()
        (work / "bundles.json").write_text(json.dumps(bundles), encoding="utf-8")
        (place / "profiles.json").write_text(json.dumps(profiles), encoding="utf-8")
        for folder in (checkout, place / "git" / "live.git", work):
            for path in (folder, *folder.rglob("*")):
                os.chown(path, OWNER, OWNER, follow_symlinks=False)

    # The run

    def _run_through_faults(self, log: Log) -> None:
        code, said = self.swell(
            "submit", "work", "--repo", "live", "--location", "origin", "--tool-profiles", "profiles.json",
            "--run", RUN, "--max-workers", "6", "--json",
        )  # fmt: skip
        if code != 0:
            raise RuntimeError(f"swell submit ends with {code}: {said}")
        self.say(f"a run of {len(_work()[0])} workstreams is submitted")
        with Talker(self.lab, lambda pod: self.endpoints("root", pod)) as talker:
            until(lambda: sum(one.kind == "step_started" for one in log.facts(RUN)) >= 3, "steps that run", 60)
            self.talked = talker
            self._strike_executor(log)
            self._strike_nats(log, talker)
            self._strike_leader(log, talker)
            self._await_end(log)

    def _strike_nats(self, log: Log, talker: Talker) -> None:
        """First one that does not lead the log, then the one that does: that is the worst to lose."""
        other = next(pod for pod in self.lab.of("nats") if pod.name != log.stream_leader())
        self._without(other, "which does not lead the log", AWAY_S / 2, log, talker)
        self._without(self.lab.pods[log.stream_leader()], "which leads the log", AWAY_S, log, talker)

    def _without(self, victim: Pod, what: str, away_s: float, log: Log, talker: Talker) -> None:
        began, since = time.monotonic(), time.time()
        victim.kill()
        self.say(f"{victim.name}, {what}, is killed")
        time.sleep(away_s)
        pause, begins, ends = talker.longest(began)
        elected = [at - since for name, at in self._elections(since) if name in DECIDING]
        theirs = max((at for at in elected if at <= ends + 1), default=0.0)
        self.say(
            f"without it: {pause:.2f} s at most between two acknowledged entries, from {begins:+.1f} s to {ends:+.1f} s; "
            f"NATS had elected its leaders after {theirs:.2f} s"
        )
        if pause > max(PAUSE_S_MAX, theirs + OWN_PAUSE_S_MAX):
            self.wrong.slow(
                f"the loss of {victim.name} stopped everything for {pause:.2f} s; {PAUSE_S_MAX:g} may be, "
                f"or {OWN_PAUSE_S_MAX:g} beyond what NATS itself took ({theirs:.2f})"
            )
        victim.release()
        until(lambda: victim.ready, f"{victim.name} to be ready", READY_S)
        self.say(f"{victim.name} is back after {away_s:g} s, ready {victim.started_s[-1]:.1f} s after its start")

    def _elections(self, since: float) -> Iterator[tuple[str, float]]:
        """Each leader that was elected since then, by what the servers say: of which stream, "" for that of the servers, and when."""
        for pod in self.lab.of("nats"):
            for said, stream in ELECTED.findall(pod.log()):
                at = datetime.strptime(said, "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
                if at > since:
                    yield stream, at

    def _strike_executor(self, log: Log) -> None:
        """One that works, for longer than its lease."""
        holder = until(lambda: self._holder(log), "an executor that works", 60)
        holder.cut()
        time.sleep(LOOK_S)  # for what it had said before to arrive
        held = {fact.key for fact in self._open(log) if fact.by == f"executor:{holder.name}"}
        self.say(
            f"{holder.name} is cut off, with attempts {', '.join(f'{name}/{number}' for name, number in sorted(held))}"
        )
        time.sleep(CUT_S)
        lost = {fact.key for fact in log.facts(RUN) if fact.kind == "step_lost"}
        holder.heal()
        self.say(f"{holder.name} is back after {CUT_S:g} s; {len(lost)} of its attempts were closed as lost meanwhile")
        if not held or lost != held:
            self.wrong.add(f"of the attempts {held} of an executor that was cut off, {lost} were closed as lost")
        until(lambda: holder.ready, f"{holder.name} to be ready", READY_S)

    def _strike_leader(self, log: Log, talker: Talker) -> None:
        """Its pod goes at once, as with its node; another one comes, under another name."""
        if log.ended(RUN):
            self.wrong.add("the run ended before everything had been struck: give its tools more time")
        leader = until(lambda: self.lab.pods.get(log.leader), "a leading scheduler", 30)
        began, decided = time.monotonic(), len(_decisions(log))
        successor = self.lab.replace(leader, grace_s=0)
        self.say(f"{leader.name}, which leads, is deleted")
        until(lambda: log.leader not in ("", leader.name), "another leader", 30)
        self.say(f"{log.leader} leads {time.monotonic() - began:.1f} s later")
        until(lambda: len(_decisions(log)) > decided or log.ended(RUN), "a decision of it", 60)
        until(lambda: successor.ready, f"{successor.name} to be ready", READY_S)
        pause, begins, _ = talker.longest(began)
        self.say(
            f"in its place stands {successor.name}, ready {successor.started_s[-1]:.1f} s after its start; pause {pause:.2f} s from {begins:+.1f} s"
        )

    def _await_end(self, log: Log) -> None:
        until(lambda: log.ended(RUN), "the end of the run", RUN_S)
        (state,) = (fact.body["state"] for fact in log.facts(RUN) if fact.kind == "run_finished")
        self.say(f"the run is {state}")
        code, said = self.swell("show", RUN)
        print("\n".join(f"    {line}" for line in said.splitlines()[:16]))
        if code != 0:
            self.wrong.add(f"swell show ends with {code}")

    def _holder(self, log: Log) -> Pod | None:
        names = [fact.by.removeprefix("executor:") for fact in self._open(log) if fact.workstream != LINE]
        return next((self.lab.pods[name] for name in names if name in self.lab.pods), None)

    def _open(self, log: Log) -> list[Fact]:
        """Claims that are not closed."""
        claims = {fact.key: fact for fact in log.facts(RUN) if fact.kind == "step_started"}
        for fact in log.facts(RUN):
            if fact.kind in ("step_finished", "step_lost", "step_cancelled"):
                claims.pop(fact.key, None)
        return list(claims.values())

    # Who may not

    def _refusals(self) -> int:
        """Callers that are refused; how many of them have to stand in the log."""
        scheduler = self.lab.of("scheduler")[-1]
        cancel: Callable[[Client], object] = lambda client: client.cancel_run(RUN, reason="x", actor="x")  # noqa: E731 - named for the table
        asked = 0
        cases = [
            ("nobody", self.endpoints("", scheduler), cancel, "UNAUTHENTICATED"),
            ("a wrong token", self.endpoints("wrong", scheduler), cancel, "UNAUTHENTICATED"),
            ("a viewer", self.endpoints("vic", scheduler), cancel, "ROLE_MISSING"),
            (
                "an operator",
                self.endpoints("ann", scheduler),
                lambda c: c.pause_fleet("all", "", reason="x", actor="x"),
                "ROLE_MISSING",
            ),
            (
                "a viewer, of the ledger",
                self.endpoints("vic", scheduler),
                lambda c: c.rebuild_ledger("x"),
                "ROLE_MISSING",
            ),
            ("an expired certificate", self.endpoints("ann", scheduler, certificate="old"), cancel, ""),
            ("a stranger's certificate", self.endpoints("ann", scheduler, certificate="else"), cancel, ""),
            ("no certificate", self.endpoints("ann", scheduler, certificate=""), cancel, ""),
        ]
        with ThreadPoolExecutor(len(cases)) as pool:  # who has no certificate is tried again for a while
            answers = list(pool.map(lambda case: _refused(case[1], case[2]), cases))
        for (who, _, _, reason), said in zip(cases, answers, strict=True):
            self.say(f"{who}: {said or 'is let in'}")
            if not said or reason not in said:
                self.wrong.add(f"{who} should have been refused{reason and ' as '}{reason}")
            asked += bool(reason) and "ledger" not in who
        if _refused(self.endpoints("vic", scheduler), lambda client: client.get_run(RUN)):
            self.wrong.add("a viewer may not even look")
        return asked

    def _refused_connections(self) -> None:
        """Users of the bus that there are not, and what those that there are may not."""
        wrong_password = self.client_files / "wrong.token"
        for who, config in (
            ("a user that there is not", self.bus("swell-somebody")),
            ("a wrong password", self.bus("swell-scheduler", password_file=wrong_password)),
            ("nobody", self.bus("", password_file=None)),
        ):
            said = asyncio.run(_connects(config))
            self.say(f"NATS, {who}: {said or 'is let in'}")
            if "refused" not in said and "uthorization" not in said:
                self.wrong.add(f"NATS let in {who}, or refused for another reason: {said}")
        for user, subject in (
            ("swell-ledger", run_subject("x")),
            ("swell-executor-default", run_subject("x")),
            ("swell-executor-default", "swell.event.fleet.run"),
            ("swell-ledger", attempt_subject("x", "y", 1)),
        ):
            said = asyncio.run(_appends(self.bus(user), subject))
            self.say(f"NATS, {user} on {subject}: {said or 'is let through'}")
            if "permit" not in said:
                self.wrong.add(f"{user} may write on {subject}, or may not for another reason: {said}")

    # What it came to

    def _judge(self, log: Log, asked: int) -> None:
        records = log.whole()
        facts = opened(records)
        bundles, _ = _work()
        expected = Expected(
            run=RUN,
            max_workers=6,
            depends_on={one["id"]: one["depends_on"] for one in bundles},
            outcome="completed",
        )
        diary = "".join(
            file.read_text(encoding="utf-8")
            for file in (self.lab.folder / "pods").glob(f"{RELEASE}-executor-*/tmp/diary")
        )
        mine = [fact for fact in facts if fact.run == RUN]
        for text in (
            *stream_is_whole(records, log.watched),
            *broken(mine, expected),
            *effects_are_recorded(mine, effects(diary)),
            *self.talked.lost(records),
        ):
            self.wrong.add(text)
        refusals = [fact for fact in facts if fact.kind == "access_refused"]
        counted = sum(fact.body.get("count", 1) for fact in refusals)
        if counted < asked:
            self.wrong.add(f"{asked} calls were refused, and {counted} stand in the log")
        self.say(
            f"the log: {len(records)} entries, {len(mine)} facts of the run, {len(effects(diary))} lines that tools wrote themselves, "
            f"{len(self.talked.acknowledged)} entries acknowledged meanwhile, {counted} refusals by {len(refusals)} events"
        )
        self._branch_is_right(mine)

    def _branch_is_right(self, facts: Sequence[Fact]) -> None:
        place = self.lab.folder / "pods" / "swell-example" / "srv" / "git" / "live.git"
        told = [fact.body["commit"] for fact in facts if fact.kind == "line_delivered"]
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.git"
            shutil.copytree(place, copy)
            for path in (copy, *copy.rglob("*")):
                os.chown(path, 0, 0, follow_symlinks=False)
            at = git(copy, "rev-parse", "--verify", "--quiet", f"refs/heads/swell/{RUN}", check=False)
            if not told or at != told[-1]:
                self.wrong.add(f"the branch is at {at or 'nothing'}, delivered was {told}")
                return
            for name in FILES:
                found = git(copy, "show", f"{at}:f/{name}.txt").splitlines()
                wanted = [f"GOOD ws-{name}", *([f"GOOD ws-{name}-2"] if name in TWICE else [])]
                if not set(wanted) <= set(found) or any(line.startswith("BAD") for line in found):
                    self.wrong.add(f"f/{name}.txt has {found} at the end, it should have {wanted}")
        self.say(f"the branch swell/{RUN} is at {at[:12]}, with every change")

    def _ledger_agrees(self) -> None:
        token = {"SWELL_TOKEN_FILE": "/etc/swell-client/root.token"}
        for command in (["ledger", "verify"], ["audit", "verify", "--log"]):
            code, said = self.swell(*command, timeout_s=120, **token)
            self.say(f"swell {' '.join(command)}: {said.strip().splitlines()[-1] if said.strip() else ''}")
            if code != 0:
                self.wrong.add(f"swell {' '.join(command)} ends with {code}: {said}")


def _work() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The bundles and the tool profiles of the run."""
    profiles: dict[str, Any] = {}
    bundles = []
    for name in (*FILES, *(f"{one}-2" for one in TWICE)):
        workstream = f"ws-{name}"
        kind = "static" if name in BAD else "good"
        profiles |= tools(workstream, kind, (15.0, 3.0), Path("/tmp/diary"))
        bundles.append({
            "id": workstream, "files_scope": [f"f/{name[0]}.txt"], "tool": f"edit-{workstream}", "openspec_change": "LIVE",
            "ccpm_issue": 1, "gate": 1, "tasks": ["change the file"], "depends_on": [f"ws-{name[0]}"] if name.endswith("-2") else [],
        })  # fmt: skip
    say = 'echo "{} no-bad $SWELL_ATTEMPT" >> /tmp/diary; '
    look = 'sleep 1; cat "$@" | grep -q BAD; found=$?; '
    script = f"{say.format('start')}{look}{say.format('end')}[ $found = 1 ]"
    profiles["no-bad"] = {
        "command": "sh",
        "args": ["-c", script.replace("{", "{{").replace("}", "}}"), "tool", "{files}"],
    }
    return bundles, profiles


def _decisions(log: Log) -> list[Fact]:
    return [fact for fact in log.facts(RUN) if fact.where == "run"]


def _secret(name: str, data: dict[str, bytes]) -> dict[str, Any]:
    encoded = {key: base64.b64encode(one).decode() for key, one in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


def _refused(endpoints: Endpoints, call: Callable[[Client], object]) -> str:
    """Why a call was refused; "" if it was not."""
    try:
        with Client(endpoints) as client:
            call(client)
    except SwellError as error:
        return f"{error.code} {error.reason}: {error}".splitlines()[0]
    return ""


async def _connects(config: BusConfig) -> str:
    try:
        bus = await Bus.connect(config, name="trial")
    except BusError as error:
        return str(error)
    await bus.close()
    return ""


async def _appends(config: BusConfig, subject: str) -> str:
    bus = await Bus.connect(config, name="trial")
    try:
        await bus.append(subject, b"{}", expect=0)
    except BusError as error:
        return str(error)
    finally:
        await bus.close()
    return ""


if __name__ == "__main__":
    sys.exit(main())
