"""The ledger's settings, one frozen value; config/ledger.toml is the shipped file."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.access import AuthConfig
from services.bus import BusConfig
from services.tls import TlsConfig

PREFIX = "SWELL_LEDGER"

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the ledger service.

    `file`: the DuckDB file; disposable, rebuilt from the log. Required.
    `bus`: how to reach the bus (services.bus.BusConfig). Default: a server on this machine.
    `tls`: certificate and key of what is listened on (services.tls.TlsConfig). Default: no TLS.
    `auth`: who may call (services.access.AuthConfig). Default: whoever sends the token of `token_file`.
    `bind`: where to listen, host:port, port 0 for any; beyond loopback only with `tls` and `auth`. Default "127.0.0.1:0".
    `health_address`: where health checks are answered without TLS as well, for probes that speak none, host:port, port 0 for
        any. Default "": nowhere.
    `token_file`: holds the bearer token that callers must send where `auth` names nobody. Default none: every local process may
        call.
    `ready_file`: where {"port": …, "pid": …} is written once calls are answered, with "metrics_port" if there is one,
    and removed at the end; after a kill it is stale until the next start, so compare `pid`. Default none.
    `metrics_address`: where Prometheus finds /metrics, host:port, port 0 for any; beyond loopback only with `metrics_plaintext`.
        Default "": nowhere.
    `metrics_plaintext`: whether other machines may read it without TLS. Default false.
    `archive`: the folder of the archive; every replica reads the same one, or a copy. Default none.
    `archive_after_days`: what is over and older than that is archived without being asked, days. Default 0: only by command.
    `purge_archived`: what was so archived and verified also leaves the log (docs/retention.md). Default false.
    `purge_user`, `purge_password_file`, `purge_credentials_file`: who purges, on the same bus, if `bus`'s user may not, as it
    should (docs/nats.md); used while something is purged. Default none: `bus`'s.
    `missing_up_to`: up to that position entries may be missing for good: the ledger goes on without them. Default 0: none may.
    `linger_s`: how long a batch is let fill before it is committed, seconds. Default 0.05.
    `batch_max`: entries of one commit at most; a ledger that is behind is faster in large ones. Default 5,000.
    `memory_limit_mb`: DuckDB's memory, megabytes. Default 256.
    `threads`: threads DuckDB may use for one query or commit. Default 1.
    `readers`: queries under way at a time. Default 4.
    `query_timeout_s`: a query is stopped after that, seconds. Default 30.
    `live_lag_max`: the service is healthy, and says so, while at most that many entries are not absorbed; one that is
    further behind at its start answers nothing about runs before it has caught up. Default 1,000.
    `aside_max`: how many files that were damaged or of another version are kept beside the file. Default 2.
    `lag_interval_s`: how often lag and health are measured, seconds. Default 1.
    `watch_backlog`: entries that may wait for one watcher; more end its watch. Default 10,000.
    `watch_backlog_bytes`: the same in bytes. Default 1 MiB.
    `watches_max`: watches under way at a time; fewer than `concurrent_rpcs`, so that questions are still answered.
    Default 1,000.
    `min_position_wait_s`: how long a question waits for the position that it asks for, seconds. Default 5.
    `as_of_entries_max`: entries of a run that are folded for an answer about an earlier moment. Default 50,000.
    `heartbeat_s`: how often a silent watch hears its position, seconds. Default 15.
    `artifact_bytes_max`: larger artifacts are not served, bytes. Default 1 GiB.
    `concurrent_rpcs`: calls under way at a time, watches included. Default 1,256.
    `request_bytes_max`: the size of a request, bytes. Default 64 KiB.
    `anchor_interval_s`: how often the newest hash is told, seconds; see docs/audit.md. Default 3,600; 0 never.
    `anchors_file`: where they are told as well, one line of JSON each; nothing in it is ever changed. Default none.
    `aim_audit_days`: AIM audit records are told for that many days; 0 for ever. Default 30.
    `sql_queries`: questions in SQL under way at a time, each a process; more are refused, and with 0 all. Default 2.
    `sql_timeout_s`: such a question is ended after that, seconds; its answer must have been taken by then. Default 30.
    `sql_memory_mb`: what its process may take, megabytes; DuckDB half of it. Default 512.
    `sql_rows_max`: rows of an answer. Default 1,000,000.
    `sql_bytes_max`: size of an answer, bytes. Default 64 MiB.
    `sql_snapshot_age_s`: a copy of the file that is older is not asked any more, seconds; up to 60 for a file that takes more
    than a fifth of that to copy. Default 5.
    `sql_snapshot_idle_s`: a copy that is not asked for that long is removed, seconds. Default 300.
    `stop_grace_s`: how long calls under way may go on after SIGTERM, seconds. Default 2.
    """

    file: Path
    bus: BusConfig = BusConfig()
    tls: TlsConfig = TlsConfig()
    auth: AuthConfig = AuthConfig()
    bind: str = "127.0.0.1:0"
    health_address: str = ""
    token_file: Path | None = None
    ready_file: Path | None = None
    metrics_address: str = ""
    metrics_plaintext: bool = False
    archive: Path | None = None
    archive_after_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    purge_archived: bool = False
    purge_user: str = ""
    purge_password_file: Path | None = None
    purge_credentials_file: Path | None = None
    missing_up_to: Annotated[int, Meta(ge=0)] = 0
    linger_s: Annotated[float, Meta(ge=0, le=5)] = 0.05
    batch_max: Annotated[int, Meta(ge=1, le=100_000)] = 5000
    memory_limit_mb: Annotated[int, Meta(ge=32)] = 256
    threads: Count = 1
    readers: Annotated[int, Meta(ge=1, le=64)] = 4
    query_timeout_s: Seconds = 30.0
    live_lag_max: Count = 1000
    aside_max: Annotated[int, Meta(ge=0, le=100)] = 2
    lag_interval_s: Seconds = 1.0
    watch_backlog: Count = 10_000
    watch_backlog_bytes: Count = 1024**2
    watches_max: Count = 1000
    min_position_wait_s: Annotated[float, Meta(ge=0, le=60)] = 5.0
    as_of_entries_max: Count = 50_000
    heartbeat_s: Seconds = 15.0
    artifact_bytes_max: Count = 1024**3
    concurrent_rpcs: Count = 1256
    request_bytes_max: Annotated[int, Meta(ge=1024)] = 64 * 1024
    anchor_interval_s: Annotated[float, Meta(ge=0)] = 3600.0
    anchors_file: Path | None = None
    aim_audit_days: Annotated[int, Meta(ge=0, le=36_500)] = 30
    sql_queries: Annotated[int, Meta(ge=0, le=64)] = 2
    sql_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    sql_memory_mb: Annotated[int, Meta(ge=128)] = 512
    sql_rows_max: Count = 1_000_000
    sql_bytes_max: Count = 64 * 1024**2
    sql_snapshot_age_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    sql_snapshot_idle_s: Seconds = 300.0
    stop_grace_s: Annotated[float, Meta(ge=0)] = 2.0

    @property
    def purge_bus(self) -> BusConfig:
        """How purging reaches the bus."""
        if not self.purge_user:
            return self.bus
        return msgspec.structs.replace(
            self.bus,
            user=self.purge_user,
            password_file=self.purge_password_file,
            credentials_file=self.purge_credentials_file,
        )
