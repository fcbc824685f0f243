"""The scheduler's settings, one frozen value; config/scheduler.toml is the shipped file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from services.access import AuthConfig
from services.bus import BusConfig
from services.scheduler.fleet import BreakerLimits
from services.scheduler.grants import SharedLimits
from services.tls import TlsConfig

PREFIX = "SWELL_SCHEDULER"

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotificationKind = Literal[
    "run_ended", "review_needed", "run_held", "breaker_open", "budget_warning", "budget_exceeded"
]


class NotificationsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to tell, and of what; nobody is told when neither `command` nor `webhook_url` is set. See scheduler/notify.py.

    `command`: a program and its arguments; it gets the notification as JSON on standard input. Default none.
    `webhook_url`: gets it by POST; https, or http on this machine. Default none.
    `webhook_secret_file`: holds the secret that signs what is posted, 16 bytes at least. Default none: unsigned.
    `on`: which notifications are sent. Default all.
    `timeout_s`: how long a delivery may take, seconds. Default 10.
    `retry_max_s`: the longest pause before it is tried again, seconds. Default 300.
    `give_up_s`: for how long it is tried, seconds since the event. Default 86,400.
    """

    command: tuple[str, ...] = ()
    webhook_url: str = ""
    webhook_secret_file: Path | None = None
    on: tuple[NotificationKind, ...] = get_args(NotificationKind)
    timeout_s: Seconds = 10.0
    retry_max_s: Seconds = 300.0
    give_up_s: Seconds = 86_400.0


class PoolRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pool does the work of runs that name none themselves.

    `pool`: that pool. Required.
    `labels`: the labels that a run must have, all of them; "*" is any value. Default none.
    `tenant`: on whose behalf it must be. Default anybody's.
    """

    pool: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    labels: dict[str, str] = {}
    tenant: str = ""

    def matches(self, labels: Mapping[str, str], tenant: str) -> bool:
        """Whether it speaks of a run with these labels and this tenant."""
        if self.tenant and self.tenant != tenant:
            return False
        return all(key in labels and value in {"*", labels[key]} for key, value in self.labels.items())


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the scheduler service.

    `bus`: how to reach the bus (services.bus.BusConfig). Default: a server on this machine.
    `notifications`: whom to tell of what (NotificationsConfig). Default: nobody.
    `id`: its name in the log. Default: a fresh one at every start.
    `tls`: certificate and key of what is listened on (services.tls.TlsConfig). Default: no TLS.
    `auth`: who may call (services.access.AuthConfig). Default: whoever sends the token of `token_file`.
    `bind`: where to listen, host:port, port 0 for any; beyond loopback only with `tls` and `auth`. Default "127.0.0.1:0".
    `health_address`: where health checks are answered without TLS as well, for probes that speak none, host:port, port 0 for
        any. Default "": nowhere.
    `token_file`: holds the bearer token that callers must send where `auth` names nobody. Default none: every local process may
        call.
    `ready_file`: where {"port": …, "pid": …} is written once calls are answered, with "metrics_port" if there is one.
        Default none.
    `metrics_address`: where Prometheus finds /metrics, host:port, port 0 for any; beyond loopback only with `metrics_plaintext`.
        Default "": nowhere.
    `metrics_plaintext`: whether other machines may read it without TLS. Default false.
    `executor_lease_s`: how long an executor may go without naming an attempt before it is lost, seconds. Default 10.
    `reconcile_s`: how often every live run is looked at, seconds. Default 0.25.
    `tool_profiles`: a file laid over the shipped tool profiles. Default none.
    `plugins`: a folder with plugins, which are checks of every workstream of every run (services.plugins). Default none.
    `client_profiles`: whether a submission may bring its own tool profiles, and with `setup` and acceptance tests other command
        lines. Default true.
    `breaker_file`: FIX-loop limits and step time limits. Default: the shipped config/circuit_breaker_config.yaml.
    `recovery_file`: what follows from each class of error. Default: the shipped config/recovery.yaml.
    `aim_registry_file`: what routes capabilities to tools. Default: the shipped config/aim_registry.json.
    `gates_file`: what gates stand for. Default: the shipped config/gates.yaml.
    `review`: whether a workstream that no automatic recovery helps waits for a person ("wait") or fails ("fail"), when the
    submission does not say. Default "wait".
    `max_workers`: attempts of one run at a time, when the submission does not say. Default 4.
    `max_workers_limit`: the most a submission may ask for. Default 10,000.
    `run_timeout_s`: a run's time limit when the submission does not say, seconds. Default 3,600.
    `stepwise_timeout_s`: the same for runs whose steps are asked for one by one, seconds. Default 86,400.
    `repositories`: places of the repositories that runs may be over and deliver to: addresses or paths as submissions write
        them, with all that is below. Default none: any.
    `pool_rules`: which pool a run goes to that names none (PoolRule), the first that matches. Default none: pool "default".
    `queue_timeout_s`: how long a command may wait for an executor, seconds. Default 900.
    `losses_max`: losses of its executor in a row before an attempt is given up. Default 2.
    `verdict_reuse_s`: for how long a check that has passed a tree in one run counts in others, seconds; 0 is not at all. Default 86,400.
    `submission_bytes_max`: all bundle files of a submission, bytes. Default 64 MiB.
    `fold_snapshot_entries`: the folded state is kept every so many entries, so that a start need not fold the whole log;
        0 keeps none and removes the one that is there. Default 2,000.
    `tool_breaker`: when the breaker of a tool opens, and for how long (services.scheduler.fleet.BreakerLimits).
    `shared`: what all runs may draw together, by day and by minute (services.scheduler.grants.SharedLimits). Default: anything.
    `concurrent_rpcs`: calls under way at a time. Default 128.
    `stop_grace_s`: how long calls under way may go on after SIGTERM, seconds. Default 2.
    """

    bus: BusConfig = BusConfig()
    tls: TlsConfig = TlsConfig()
    auth: AuthConfig = AuthConfig()
    notifications: NotificationsConfig = NotificationsConfig()
    id: str = ""
    bind: str = "127.0.0.1:0"
    health_address: str = ""
    token_file: Path | None = None
    ready_file: Path | None = None
    metrics_address: str = ""
    metrics_plaintext: bool = False
    executor_lease_s: Seconds = 10.0
    reconcile_s: Seconds = 0.25
    tool_profiles: Path | None = None
    plugins: Path | None = None
    client_profiles: bool = True
    breaker_file: Path | None = None
    recovery_file: Path | None = None
    aim_registry_file: Path | None = None
    gates_file: Path | None = None
    review: Literal["wait", "fail"] = "wait"
    max_workers: Count = 4
    max_workers_limit: Count = 10_000
    run_timeout_s: Seconds = 3600.0
    stepwise_timeout_s: Seconds = 86_400.0
    repositories: tuple[Annotated[str, Meta(min_length=2, max_length=4096)], ...] = ()
    pool_rules: tuple[PoolRule, ...] = ()
    queue_timeout_s: Seconds = 900.0
    losses_max: Annotated[int, Meta(ge=0)] = 2
    verdict_reuse_s: Annotated[float, Meta(ge=0)] = 86_400.0
    submission_bytes_max: Count = 64 * 1024 * 1024
    fold_snapshot_entries: Annotated[int, Meta(ge=0)] = 2000
    tool_breaker: BreakerLimits = BreakerLimits()
    shared: SharedLimits = SharedLimits()
    concurrent_rpcs: Count = 128
    stop_grace_s: Annotated[float, Meta(ge=0)] = 2.0
