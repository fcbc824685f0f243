"""What `swell doctor --cluster` looks at: a cluster from outside, through its services, its bus and its metrics.

The services are those that SWELL_SCHEDULER and SWELL_LEDGER name, else the embedded ones. Each check is one line, and says
what to do where that is not all right. Invariants: nothing is changed; a viewer's token is enough, and what it may not ask
for is told as such; all looks go on at the same time, each for LOOK_S at most; no secret is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from services.address import is_loopback
from services.bus import Account, Bus, BusError, Standing
from services.bus_config import ARTIFACTS, EVENTS, BusConfig, unsynced
from services.config import ConfigError, load_section
from services.posting import PostError, Receiver
from swell.doctor import Surroundings, asking, judged_ledger
from swell.errors import SwellError
from swell.text import one_line, size
from swell.tools import shipped_tools
from swell.values import Endpoints, Executor, Fleet, LedgerStatus, Scheduler
from swell.verdict import Check, Running, Verdict, failed, ok, warning

LOOK_S: Final = 12.0
CONNECT_S: Final = 2.0
SCRAPE_S: Final = 4.0
SETTLED_S: Final = 2.0
BUS_S: Final = 5.0
SCRAPE_BYTES_MAX: Final = 8 * 1024 * 1024
CERTIFICATE_DAYS: Final = 14
"""A certificate that ends sooner is told."""

CLOCK_WARN_S: Final = 5.0
CLOCK_FAIL_S: Final = 3600.0
DEADLINE_NEAR_S: Final = 300.0
SNAPSHOT_ENTRIES: Final = 10_000
"""A log that is longer than this and has no fold snapshot makes the next start slow."""

DISK_BYTES_MIN: Final = 256 * 1024 * 1024
ROOM_WARN, ROOM_FAIL = 0.8, 0.95
NAMES_SHOWN: Final = 8

_EXPIRED, _NOT_YET, _NAMES = 10, 9, frozenset({62, 64})  # OpenSSL's X509_V_ERR_…
_UNKNOWN: Final = frozenset({2, 18, 19, 20, 21})
_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_POD: Final = re.compile(r"(.+)-[0-9a-f]{5,10}-[a-z0-9]{5}")
"""The name of a pod of a Deployment, which comes first in it."""

_SERVING: Final = frozenset({"idle", "busy"})
Service = Literal["scheduler", "ledger"]


class Seen:
    """What looks learn for checks across them: versions and clocks (seconds ahead of ours) by who has them."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = threading.Lock()
        self.versions: dict[str, str] = {}
        self.clocks: dict[str, float] = {}

    def version(self, who: str, said: str) -> None:
        """`said` is "" of who does not tell."""
        with self._lock:
            self.versions[who] = said

    def clock(self, who: str, ahead_s: float) -> None:
        """Positive where it is later there than here."""
        with self._lock:
            self.clocks[who] = ahead_s


def examine_cluster(
    *, bus: Path | None = None, metrics: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> Verdict:
    """Look at the cluster; `bus` is a service's TOML whose [bus] says how to reach NATS, `metrics` are URLs of /metrics."""
    seen = Seen()
    looks: list[tuple[str, Callable[[], Check | Sequence[Check]]]] = []
    endpoints: Endpoints | None = None
    checks: list[Check] = []
    try:
        endpoints = Surroundings(Path(), None, environ).endpoints()
    except SwellError as error:
        checks.append(failed("settings", str(error), error.remedy or "Mend what it names."))
    else:
        if endpoints is None:
            checks.append(
                failed("settings", "no cluster is named, and none runs here", "Set SWELL_SCHEDULER and SWELL_LEDGER.")
            )
    if endpoints is not None:
        looks += [
            ("scheduler certificate", partial(certificate, "scheduler", endpoints)),
            ("ledger certificate", partial(certificate, "ledger", endpoints)),
            ("scheduler", partial(_scheduler, endpoints, seen)),
            ("ledger", partial(_ledger, endpoints, seen)),
        ]
    if bus is not None:
        looks.append(("bus", partial(_bus, bus, seen)))
    looks += [(f"metrics {url}", partial(_metrics, url, seen)) for url in metrics]
    running = [Running(name, look, limit_s=LOOK_S) for name, look in looks]
    deadline = time.monotonic() + LOOK_S
    for one in running:
        checks += one.result(max(deadline - time.monotonic(), 0))
    checks += [judged_versions(seen.versions), judged_clocks(seen.clocks)] if seen.versions else []
    return Verdict(ok=all(check.state != "failed" for check in checks), checks=checks)


# Certificates


def certificate(service: Service, endpoints: Endpoints) -> Check:
    """How a service shows who it is."""
    name, at = f"{service} certificate", getattr(endpoints, service)
    host, _, port = at.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if endpoints.ca_file is None:
        remedy = "Set SWELL_CA_FILE to the file of the services' authority: it turns TLS on."
        if endpoints.state_dir is None and _speaks_tls(host, int(port)):
            return failed(name, f"{at} speaks TLS, and is called without", remedy)
        if is_loopback(host):
            return ok(name, f"none is asked for: {at} is on this machine")
        return warning(name, f"{at} is called without TLS", remedy)
    variable = f"SWELL_{service.upper()}"
    try:
        context = ssl.create_default_context(cafile=endpoints.ca_file)
        context.set_alpn_protocols(["h2"])
        if endpoints.certificate_file is not None:
            context.load_cert_chain(endpoints.certificate_file, endpoints.key_file)
    except OSError as error:  # of ssl as well
        remedy = "Check SWELL_CA_FILE, SWELL_CERTIFICATE_FILE and SWELL_KEY_FILE."
        return failed(name, f"the files of certificates cannot be used: {error}", remedy)
    wanted = endpoints.tls_name or host
    try:
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT_S) as raw,
            context.wrap_socket(raw, server_hostname=wanted) as shown,
        ):
            until_s = ssl.cert_time_to_seconds(str((shown.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        return failed(name, *_unverified(error, at, wanted, variable))
    except ssl.SSLError as error:
        return failed(
            name,
            f"{at} takes no TLS connection ({error.reason or error})",
            f"Set {variable} to a port that speaks TLS; if it asks for certificates set SWELL_CERTIFICATE_FILE and SWELL_KEY_FILE.",
        )
    except OSError as error:
        return failed(name, f"{at} cannot be reached: {error}", f"Check {variable}, and that the {service} runs.")
    return judged_expiry(name, until_s, time.time(), f"for {wanted}, by an authority of SWELL_CA_FILE")


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said to it
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_S) as raw,
            context.wrap_socket(raw, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _unverified(error: ssl.SSLCertVerificationError, at: str, wanted: str, variable: str) -> tuple[str, str]:
    """What was found, and what to do."""
    match error.verify_code:
        case code if code == _EXPIRED:
            return (
                f"that of {at} has expired",
                "Renew it: services take the new file without a restart. Or set the clock here.",
            )
        case code if code == _NOT_YET:
            return (
                f"that of {at} is not valid yet",
                "Set the clock here, or that of the authority; then have it made anew.",
            )
        case code if code in _NAMES:
            return (
                f"that of {at} is for another name than {wanted}",
                f"Use a name that it has in {variable}, or set SWELL_TLS_NAME to one.",
            )
        case code if code in _UNKNOWN:
            return (
                f"that of {at} comes from an authority that is not in SWELL_CA_FILE",
                "Set SWELL_CA_FILE to the file of the authority that made it.",
            )
    return f"that of {at} cannot be verified: {error.verify_message}", "Have it made anew."


def judged_expiry(name: str, until_s: float, now_s: float, what: str) -> Check:
    """A certificate that ends at `until_s`, Unix time."""
    days = (until_s - now_s) / 86400
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until_s))
    remedy = "Renew it: services take the new file without a restart."
    if days <= 0:
        return failed(name, f"expired at {at}", remedy)
    if days < CERTIFICATE_DAYS:
        return warning(name, f"expires at {at}, in {days:.1f} days", remedy)
    return ok(name, f"until {at}, {what}")


# The services


def _scheduler(endpoints: Endpoints, seen: Seen) -> list[Check]:
    try:
        with asking(endpoints, "scheduler") as client:
            deadline = time.monotonic() + SETTLED_S
            while True:
                before_ns = time.time_ns()
                fleet = client.get_fleet()
                asked_ns = (before_ns + time.time_ns()) // 2
                if _is_settled(fleet) or time.monotonic() > deadline:
                    break
                time.sleep(SETTLED_S / 20)
    except SwellError as error:
        if error.reason == "TENANT_BOUND":
            return [warning("scheduler", "it answers; who is bound to tenants is not told of the fleet", error.remedy)]
        return [_unanswered("scheduler", error)]
    found = fleet.scheduler
    seen.version(f"scheduler {found.name}".strip(), found.version)
    for executor in fleet.executors:
        if executor.state in _SERVING:
            seen.version(f"executor {executor.executor}", executor.version)
    if not found.version:
        told = ok("scheduler", "it answers; older than this version, so it does not tell how it stands")
        return [told, *judged_pools(fleet), judged_tools(fleet.executors)]
    _clocks(fleet, asked_ns, seen)
    return [
        judged_leadership(found),
        judged_releases(fleet),
        judged_snapshot(found),
        *judged_pools(fleet),
        judged_tools(fleet.executors),
    ]


def _is_settled(fleet: Fleet) -> bool:
    """What has just been started takes a moment to lead, or to be known."""
    return bool(fleet.scheduler.leader) and any(one.state in _SERVING for one in fleet.executors)


def _clocks(fleet: Fleet, asked_ns: int, seen: Seen) -> None:
    found = fleet.scheduler
    seen.clock(f"scheduler {found.name}", (found.server_time_ns - asked_ns) / 1e9)
    log_ahead_s = (found.log_time_ns - asked_ns) / 1e9
    if found.position:
        seen.clock("the log", log_ahead_s)
    for executor in fleet.executors:
        if executor.state in _SERVING and executor.version:
            seen.clock(f"executor {executor.executor}", log_ahead_s + executor.clock_ahead_ns / 1e9)


def _ledger(endpoints: Endpoints, seen: Seen) -> list[Check]:
    try:
        with asking(endpoints, "ledger") as client:
            before_ns = time.time_ns()
            status = client.ledger_status()
            asked_ns = (before_ns + time.time_ns()) // 2
    except SwellError as error:
        return [_unanswered("ledger", error)]
    seen.version("ledger", status.version)
    if not status.version:
        return [judged_ledger(status)]
    seen.clock("ledger", (status.server_time_ns - asked_ns) / 1e9)
    return [judged_caller(status), judged_ledger(status), judged_ledger_disk(status)]


def _unanswered(name: str, error: SwellError) -> Check:
    where = f"{error.where}: " if error.where else ""
    return failed(name, f"{where}{error.message} ({error.reason})", error.remedy or "Look into its log.")


def judged_caller(status: LedgerStatus) -> Check:
    """Who we are there."""
    tenants = f", bound to tenants {_listed(status.tenants)}" if status.tenants else ""
    who = status.caller or "whoever holds the cluster's token"
    return ok("caller", f"{who}, {status.role}{tenants}")


def judged_leadership(scheduler: Scheduler) -> Check:
    """Somebody leads, and who answers goes on deciding."""
    name = "leader"
    if scheduler.halted == "draining":
        return warning(name, f"{scheduler.name} is ending", "Look again in a moment.")
    if scheduler.halted:
        return failed(
            name,
            f"{scheduler.name} decides nothing more: {scheduler.halted}",
            "Upgrade it: the log has an entry of a newer version. Order: ledger, executors, schedulers.",
        )
    if scheduler.leader is None:
        return warning(
            name, f"{scheduler.name} cannot tell who leads: the bus does not say", "Look at the bus (--bus)."
        )
    if not scheduler.leader:
        return failed(name, "nobody leads: nothing is decided", "Look into the schedulers' logs, and at the bus.")
    if not scheduler.caught_up:
        return warning(
            name, f"{scheduler.leader} leads; {scheduler.name} still folds the log", "Look again in a moment."
        )
    same = scheduler.leader == scheduler.name
    return ok(name, f"{scheduler.leader} leads" + ("" if same else f", {scheduler.name} stands by"))


def judged_releases(fleet: Fleet) -> Check:
    """Two releases on one account are one cluster, whose schedulers take turns to lead; told by the names of pods."""
    name = "releases"
    remedy = "Give each release an account of NATS of its own: nothing else keeps them apart (docs/runbook.md)."
    ours, leads = _deployment(fleet.scheduler.name), _deployment(fleet.scheduler.leader or "")
    if ours and leads and ours != leads:
        return failed(
            name, f"{fleet.scheduler.name} answers and {fleet.scheduler.leader} leads: two releases on one log", remedy
        )
    if not ours.endswith("-scheduler"):
        return ok(name, "no pods of a chart: nothing to tell them apart by")
    release = ours.removesuffix("-scheduler")
    owners = {owner for one in fleet.executors if one.state in _SERVING and (owner := _deployment(one.executor))}
    others = sorted(owner for owner in owners if not owner.startswith(f"{release}-executor-"))
    if others:
        return warning(name, f"executors of {_listed(others)} work for release {release}", remedy)
    return ok(name, f"{release} alone")


def _deployment(pod: str) -> str:
    """The Deployment of a pod, "" for what is no pod's name."""
    found = _POD.fullmatch(pod)
    return found[1] if found else ""


def judged_snapshot(scheduler: Scheduler) -> Check:
    """A start folds what came after the newest fold snapshot."""
    name = "fold snapshot"
    if scheduler.snapshot_ns:
        age_s = max(scheduler.log_time_ns - scheduler.snapshot_ns, 0) / 1e9
        return ok(name, f"made {_span(age_s)} ago")
    if scheduler.position > SNAPSHOT_ENTRIES:
        return warning(
            name,
            f"none is known, and the log has {scheduler.position:,} entries: a start folds them all",
            "Set fold_snapshot_entries of the schedulers, and look for scheduler.snapshot in the leader's log.",
        )
    return ok(name, "none yet: the log is short")


def judged_pools(fleet: Fleet) -> list[Check]:
    """A line for each pool: who takes its commands, and what waits."""
    now_ns = fleet.scheduler.log_time_ns
    waiting = {pool.name: pool for pool in fleet.pools}
    names = sorted({*waiting, *(one.pool for one in fleet.executors if one.state != "terminated")})
    if not names:
        return [failed("executors", "none was seen", "Start one, and look into its log: it may not reach the bus.")]
    checks = []
    for pool in names:
        alive = [one for one in fleet.executors if one.pool == pool and one.state in _SERVING]
        text = f"{len(alive)} executors, {sum(one.slots for one in alive)} slots"
        there = waiting.get(pool)
        left_s = 0.0
        if there is not None and there.waiting:
            left_s = (there.deadline_ns - now_ns) / 1e9
            waits = _span(max(now_ns - there.oldest_ns, 0) / 1e9)
            text += f"; {there.waiting} attempts wait, the oldest for {waits}; the first is given up in {_span(left_s)}"
        checks.append(_judged_pool(f"pool {pool}", text, alive=bool(alive), waits=bool(left_s), left_s=left_s))
    return checks


def _judged_pool(name: str, text: str, *, alive: bool, waits: bool, left_s: float) -> Check:
    if waits and not alive:
        return failed(
            name, text, "Start executors of this pool; or the runs name a pool that does not exist: cancel them."
        )
    if not alive:
        return warning(name, text, "Start executors of this pool, if runs are to go there.")
    if waits and left_s < DEADLINE_NEAR_S:
        return warning(
            name, text, "Start more executors, or raise queue_timeout_s: what is given up waits for a person."
        )
    return ok(name, text)


def judged_tools(executors: Iterable[Executor]) -> Check:
    """Executors of a pool should have the same tools: an attempt goes to whichever is free."""
    name = "tools"
    serving = [one for one in executors if one.state in _SERVING]
    if not serving:
        return warning(name, "not known: no executor works", "Start executors first.")
    uneven = []
    for pool in sorted({one.pool for one in serving}):
        members = [one for one in serving if one.pool == pool]
        some = {tool for one in members for tool in one.tools}
        uneven += [_lacking(tool, members) for tool in sorted(some) if not all(tool in one.tools for one in members)]
    if uneven:
        return warning(
            name, _listed(uneven), "Use one image for a pool, or put these executors into pools of their own."
        )
    found = {tool for one in serving for tool in one.tools}
    if not found & {tool for tool, item in shipped_tools().items() if item.profile.type == "ai"}:
        return warning(
            name, "no executor has an AI tool that comes with Swell", "Build an image with one (docs/kubernetes.md)."
        )
    return ok(name, f"the same within each pool: {_listed(sorted(found))}")


def _lacking(tool: str, members: Sequence[Executor]) -> str:
    """Which of a pool's executors lack a tool that others have, and the program that they did not find."""
    without = [one for one in members if tool not in one.tools]
    programs = sorted({program for one in without if (program := one.missing.get(tool))})
    found = f", which did not find {_listed(programs)}" if programs else ""
    return f"{tool} is not on {_listed([one.executor for one in without])} of pool {members[0].pool}{found}"


def judged_ledger_disk(status: LedgerStatus) -> Check:
    """Copies for SQL and backups need as much room again."""
    name = "ledger disk"
    text = f"{size(status.disk_free_bytes)} free beside a file of {size(status.file_bytes)}"
    if status.disk_free_bytes < DISK_BYTES_MIN:
        return failed(
            name, text, "Enlarge its volume, or remove the file of a stopped ledger: it is made anew from the log."
        )
    if status.disk_free_bytes < 2 * status.file_bytes:
        return warning(
            name, f"{text}: too little for a copy", "Enlarge its volume before `swell sql` and backups fail."
        )
    return ok(name, text)


def judged_versions(versions: Mapping[str, str]) -> Check:
    """All of one version, and of this client's; `versions` by who has it, "" for not told."""
    name, ours = "versions", version("swell")
    others = {who: said or "an older one, that does not tell" for who, said in versions.items() if said != ours}
    if others:
        told = _listed([f"{who}: {said}" for who, said in sorted(others.items())])
        return warning(
            name,
            f"{ours} here; {told}",
            "During an upgrade wait; else upgrade in this order: ledger, executors, schedulers.",
        )
    return ok(name, f"{ours}, here and there")


def judged_clocks(clocks: Mapping[str, float]) -> Check:
    """Clocks by whose they are, in seconds ahead of ours."""
    name, remedy = (
        "clocks",
        "Have the clocks set: chrony or systemd-timesyncd on each machine. Tokens and certificates depend on them.",
    )
    if not clocks:
        return ok(name, "none was told")
    far = sorted(((who, s) for who, s in clocks.items() if abs(s) > CLOCK_WARN_S), key=lambda one: -abs(one[1]))
    if not far:
        return ok(name, f"{len(clocks)} within {max(abs(s) for s in clocks.values()):.1f} s of this machine's")
    told = _listed([f"{who} is {_span(abs(s))} {'ahead of' if s > 0 else 'behind'} this machine" for who, s in far])
    if abs(far[0][1]) >= CLOCK_FAIL_S:
        return failed(name, told, remedy)
    return warning(name, told, remedy)


# The bus


def _bus(file: Path, seen: Seen) -> list[Check]:
    try:
        config = load_section(BusConfig, file, "bus")
    except ConfigError as error:
        return [failed("bus", str(error), "Mend the file of --bus.")]
    try:
        standing, loose, monitored = asyncio.run(_asked(msgspec.structs.replace(config, connect_timeout_s=BUS_S)))
    except (BusError, TimeoutError) as error:
        return [failed("bus", str(error) or "it did not answer in time", "See docs/nats.md.")]
    if standing.time_ns:
        seen.clock(f"NATS {standing.server}".strip(), (standing.time_ns - standing.asked_ns) / 1e9)
    checks = [
        ok("bus", f"NATS {standing.version}, messages of {size(standing.max_payload)}, as {config.user or 'nobody'}")
    ]
    if standing.certificate_until_s:
        checks.append(judged_expiry("bus certificate", standing.certificate_until_s, time.time(), "verified"))
    checks += judged_streams(standing, config.replicas)
    checks.append(_judged_durability(loose, config))
    checks += monitored
    checks += judged_account(standing.account) if standing.account is not None else []
    untold = [f"stream {name}" for name in standing.denied] + ["the account's limits"] * (standing.account is None)
    if untold:
        checks.append(ok("bus permissions", f"not permitted to this user, so not looked at: {_listed(untold)}"))
    return checks


async def _asked(config: BusConfig) -> tuple[Standing, str, list[Check]]:
    bus = await Bus.connect(config, name="swell-doctor")
    try:
        async with asyncio.timeout(BUS_S):
            standing = await bus.standing()
    finally:
        await bus.close()
    return standing, await unsynced(config), await _monitored(config.monitoring_url)


def _judged_durability(loose: str, config: BusConfig) -> Check:
    if loose:
        what, _, remedy = loose.partition(": run it")
        told = f"A POWER CUT MAY LOSE ACKNOWLEDGED ENTRIES: {what}"
        return warning("durability", told, f"Run it{remedy}.")
    return ok("durability", f"{config.replicas} copies" if config.replicas > 1 else "one copy, synced at every write")


def judged_streams(standing: Standing, replicas: int) -> list[Check]:
    """They exist, are as Swell makes them, have a leader, and all their copies."""
    name, streams = "streams", standing.streams
    problems = [one.problem for one in streams if one.problem]
    if problems and len(problems) == len(streams) and all("does not exist" in one for one in problems):
        return [
            failed(
                name,
                "none of Swell's streams exists in this account",
                "Start a scheduler, it makes them; if one runs, this user belongs to another account than it.",
            )
        ]
    if problems:
        return [
            failed(
                name, "; ".join(problems), "See docs/nats.md; streams that no scheduler has made yet come at its start."
            )
        ]
    headless = [one.name for one in streams if one.replicas > 1 and not one.leader]
    if headless:
        return [
            failed(
                name,
                f"no leader, so no majority of servers: {_listed(headless)}",
                "Bring the servers of NATS back; nothing that was acknowledged is lost (docs/runbook.md).",
            )
        ]
    away = sorted({f"{peer} of {one.name}" for one in streams for peer in one.away})
    if away:
        return [
            warning(
                name,
                f"copies that are down or behind: {_listed(away)}",
                "Bring that server back: the next one that is lost stops everything.",
            )
        ]
    by_name = {one.name: one for one in streams}
    held = ""
    if (log := by_name.get(EVENTS)) is not None:
        held += f"; the log has {log.messages:,} entries, {size(log.size_bytes)}"
    if (objects := by_name.get(f"OBJ_{ARTIFACTS}")) is not None:
        held += f"; artifacts {size(objects.size_bytes)}"
    return [ok(name, f"{len(streams)} as they should be, {replicas} copies of each{held}")]


def judged_account(account: Account) -> list[Check]:
    """How much room the account has left."""
    return [
        _judged_room("account storage", account.storage, account.storage_max),
        _judged_room("account memory", account.memory, account.memory_max),
    ]


def _judged_room(name: str, used: int, most: int) -> Check:
    if not most:
        return ok(name, f"{size(used)} used, no limit")
    text = f"{size(used)} of {size(most)} used"
    remedy = (
        "Make room or raise the limit: a bus without room takes nothing more, and everything waits (docs/runbook.md)."
    )
    if used >= most * ROOM_FAIL:
        return failed(name, text, remedy)
    if used >= most * ROOM_WARN:
        return warning(name, text, remedy)
    return ok(name, text)


class _Limits(msgspec.Struct, frozen=True):
    max_memory: int = 0
    max_storage: int = 0


class _Jsz(msgspec.Struct, frozen=True):
    memory: int = 0
    storage: int = 0
    config: _Limits = _Limits()


async def _monitored(url: str) -> list[Check]:
    """What the server's own monitoring says of its room, where it is named."""
    if not url:
        return []
    try:
        async with asyncio.timeout(SCRAPE_S):
            base = url.rstrip("/")
            answer = await Receiver("bus.monitoring_url", f"{base}/jsz?config=1").get(answer_bytes=SCRAPE_BYTES_MAX)
            health = await Receiver("bus.monitoring_url", f"{base}/healthz").get(answer_bytes=SCRAPE_BYTES_MAX)
        found = msgspec.json.decode(answer.body, type=_Jsz)
    except (*PostError, msgspec.MsgspecError, TimeoutError) as error:
        return [warning("bus monitoring", f"{url} does not tell: {error or 'time-out'}", "Check bus.monitoring_url.")]
    checks = [
        _judged_room("bus storage", found.storage, found.config.max_storage),
        _judged_room("bus memory", found.memory, found.config.max_memory),
    ]
    if health.status != 200:
        said = one_line(health.body.decode("utf-8", "replace"), 200)
        checks.append(failed("bus health", said, "See the server's log; after a full disk it has to be restarted."))
    return checks


# Metrics


Samples = Mapping[str, list[tuple[dict[str, str], float]]]


def _metrics(url: str, seen: Seen) -> list[Check]:
    name = f"metrics {url}"

    async def scrape() -> bytes:
        async with asyncio.timeout(SCRAPE_S):
            answer = await Receiver("--metrics", url).get(answer_bytes=SCRAPE_BYTES_MAX)
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        return answer.body

    try:
        samples = samples_of(asyncio.run(scrape()).decode("utf-8", "replace"))
    except PostError as error:
        remedy = "Give http://host:port/metrics of a service whose metrics_address can be reached from here."
        return [failed(name, str(error) or "it did not answer in time", remedy)]
    for labels, _ in samples.get("swell_build_info", []):
        seen.version(f"{labels.get('service', 'service')} at {url}", labels.get("version", ""))
    return judged_metrics(name, samples, time.time())


def samples_of(text: str) -> Samples:
    """The samples of Prometheus's text format, by name; lines that are none are left out."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for series, labels, value in _SAMPLE.findall(text):
        with contextlib.suppress(ValueError):
            sample = dict(_LABEL.findall(labels)), float(value)
            found.setdefault(series, []).append(sample)
    return found


def judged_metrics(name: str, samples: Samples, now_s: float) -> list[Check]:
    """What a service's own series tell and its answers do not."""

    def value(series: str) -> float | None:
        return samples[series][0][1] if samples.get(series) else None

    if not samples.get("swell_build_info"):
        return [failed(name, "no series of Swell are shown there", "Give the /metrics of a service of Swell.")]
    service = samples["swell_build_info"][0][0].get("service", "service")
    wrong: list[tuple[Callable[[str, str, str], Check], str, str]] = []
    for series, bad, judge, text, remedy in _BAD:
        if value(series) == bad:
            wrong.append((judge, text, remedy))
    checks = [judge(name, f"{service}: {text}", remedy) for judge, text, remedy in wrong]
    checks = checks or [ok(name, service + _told(value))]
    until_s = value("swell_tls_certificate_expiry_timestamp_seconds")
    if until_s:
        checks.append(judged_expiry(f"{name} certificate", until_s, now_s, f"in use by this {service}"))
    return checks


def _told(value: Callable[[str], float | None]) -> str:
    told = ""
    if (leads := value("swell_scheduler_leader")) is not None:
        told += ", leads" if leads else ", stands by"
    if (age_s := value("swell_scheduler_snapshot_age_seconds")) is not None:
        told += f", fold snapshot {_span(age_s)} old"
    for series in ("swell_scheduler_lag_entries", "swell_ledger_lag_entries"):
        if (lag := value(series)) is not None:
            told += f", {lag:,.0f} entries behind"
    for series in ("swell_executor_disk_free_bytes", "swell_ledger_disk_free_bytes"):
        if (free := value(series)) is not None:
            told += f", {size(int(free))} of disk free"
    return told


_BAD: Final[Sequence[tuple[str, float, Callable[[str, str, str], Check], str, str]]] = (
    (
        "swell_event_loop_responsive",
        0,
        warning,
        "it does not answer for itself in time",
        "Look at its processor and its log.",
    ),
    ("swell_scheduler_halted", 1, failed, "it decides nothing more", "Upgrade it: its log says scheduler.halted."),
    ("swell_scheduler_caught_up", 0, warning, "it still folds the log", "Look again in a moment."),
    ("swell_ledger_condemned", 1, failed, "its file is damaged", "Start it again: it makes the file anew."),
    ("swell_ledger_archive_failing", 1, warning, "it cannot archive", "Its log says why (docs/retention.md)."),
    ("swell_executor_out_of_room", 1, warning, "its disk is full: it takes no commands", "Make room on its disk."),
)
"""Series, the value that is not right, and what is said of it."""


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _listed(names: Sequence[Any]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(str, names[:NAMES_SHOWN])) + more
