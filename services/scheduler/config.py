"""The scheduler's settings, one frozen value; config/scheduler.toml is the shipped file."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.bus import BusConfig

PREFIX = "SWELL_SCHEDULER"

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the scheduler service.

    `bus`: how to reach the bus (services.bus.BusConfig). Default: a server on this machine.
    `id`: its name in the log. Default: a fresh one at every start.
    `bind`: where to listen, host:port, port 0 for any; loopback only. Default "127.0.0.1:0".
    `token_file`: holds the bearer token that callers must send. Default none: every local process may call.
    `ready_file`: where {"port": …, "pid": …} is written once calls are answered. Default none.
    `executor_lease_s`: how long an executor may go without naming an attempt before it is lost, seconds. Default 10.
    `reconcile_s`: how often every live run is looked at, seconds. Default 0.25.
    `tool_profiles`: a file laid over the shipped tool profiles. Default none.
    `client_profiles`: whether a submission may bring its own tool profiles. Default true.
    `breaker_file`: FIX-loop limits and step time limits. Default: the shipped config/circuit_breaker_config.yaml.
    `max_workers`: attempts of one run at a time, when the submission does not say. Default 4.
    `max_workers_limit`: the most a submission may ask for. Default 10,000.
    `run_timeout_s`: a run's time limit when the submission does not say, seconds. Default 3,600.
    `stepwise_timeout_s`: the same for runs whose steps are asked for one by one, seconds. Default 86,400.
    `queue_timeout_s`: how long a command may wait for an executor, seconds. Default 900.
    `losses_max`: losses of its executor in a row before an attempt is given up. Default 2.
    `submission_bytes_max`: all bundle files of a submission, bytes. Default 64 MiB.
    `concurrent_rpcs`: calls under way at a time. Default 128.
    `stop_grace_s`: how long calls under way may go on after SIGTERM, seconds. Default 2.
    """

    bus: BusConfig = BusConfig()
    id: str = ""
    bind: str = "127.0.0.1:0"
    token_file: Path | None = None
    ready_file: Path | None = None
    executor_lease_s: Seconds = 10.0
    reconcile_s: Seconds = 0.25
    tool_profiles: Path | None = None
    client_profiles: bool = True
    breaker_file: Path | None = None
    max_workers: Count = 4
    max_workers_limit: Count = 10_000
    run_timeout_s: Seconds = 3600.0
    stepwise_timeout_s: Seconds = 86_400.0
    queue_timeout_s: Seconds = 900.0
    losses_max: Annotated[int, Meta(ge=0)] = 2
    submission_bytes_max: Count = 64 * 1024 * 1024
    concurrent_rpcs: Count = 128
    stop_grace_s: Annotated[float, Meta(ge=0)] = 2.0
