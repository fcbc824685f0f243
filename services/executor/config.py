"""The executor's settings, one frozen value; config/executor.toml is the shipped file."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.bus import BusConfig

PREFIX = "SWELL_EXECUTOR"

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class ExecutorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the executor service.

    `state_dir`: where mirrors, worktrees and scratch folders go; of one executor alone; nothing there
        is needed after a restart. Required.
    `bus`: how to reach the bus (services.bus.BusConfig). Default: a server on this machine.
    `id`: its name, the same across restarts. Default: drawn once and kept in `state_dir`.
    `pool`: whose commands it takes. Default "default".
    `slots`: attempts it runs at a time. Default: the number of processors, at least 2.
    `ready_file`: where {"port": 0, "pid": …} is written once commands are taken, with "metrics_port" if there is one.
        Default none.
    `metrics_address`: where Prometheus finds /metrics, host:port, port 0 for any; beyond loopback only with `metrics_plaintext`.
        Default "": nowhere.
    `metrics_plaintext`: whether other machines may read it without TLS. Default false.
    `containment`: how a tool's processes are held together: pidns, sweep, or auto for what can be had. Default auto.
    `sandbox_read`: files and folders outside the system that every tool sees in its sandbox, read-only. Default none.
    `sandbox_hidden`: files and folders that no tool sees in a sandbox, wherever they lie, nor may refer to as a secret; as are
        `state_dir` and the secrets of `bus`. Default none.
    `output_bytes`: what is kept of each output of a tool, bytes. Default 10 MiB.
    `setup_timeout_s`: the limit on each of a repository's setup commands, seconds. Default 900.
    `keep_work_timeout_s`: how long a stopped step may take to keep its work (snapshot and upload), seconds. Default 30.
    `disk_free_bytes`: with less than this free on the disk of `state_dir` it collects garbage, then takes no commands; 0: it
        never looks. Default 256 MiB.
    `gc_interval_s`: how often it collects garbage by itself, seconds; 0: only when asked and without room. Default 600.
    `gc_keep_s`: how long mirrors without a live run, and what setups made, are kept unused, seconds. Default 7 days.
    `partial_clone`: history is taken without the content of old files from servers that offer that. Default true.
    `port_first`, `port_last`: between them attempts get their blocks of 20 ports; `port_first` 0 gives none. Default 20000
        and 29999.
    `prices_file`: prices laid over the shipped ones (docs/prices.md). Default none.
    `stop_grace_s`: how long running steps may go on after SIGTERM before they are handed back, seconds. Default 25.
    """

    state_dir: Path
    bus: BusConfig = BusConfig()
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    pool: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "default"
    slots: Annotated[int, Meta(ge=0, le=1024)] = 0
    ready_file: Path | None = None
    metrics_address: str = ""
    metrics_plaintext: bool = False
    containment: Literal["auto", "pidns", "sweep"] = "auto"
    sandbox_read: list[Path] = []
    sandbox_hidden: list[Path] = []
    output_bytes: Count = 10 * 1024 * 1024
    setup_timeout_s: Seconds = 900.0
    keep_work_timeout_s: Seconds = 30.0
    disk_free_bytes: Annotated[int, Meta(ge=0)] = 256 * 1024 * 1024
    gc_interval_s: Annotated[float, Meta(ge=0)] = 600.0
    gc_keep_s: Seconds = 604_800.0
    partial_clone: bool = True
    port_first: Port = 20_000
    port_last: Port = 29_999
    prices_file: Path | None = None
    stop_grace_s: Annotated[float, Meta(ge=0)] = 25.0
