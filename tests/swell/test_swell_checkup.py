"""`swell doctor --cluster`: what is told of a cluster from outside, by what it is shown; and of a real one."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from services.bus import Account, Standing, StreamStanding
from swell import checkup
from swell.checkup import (
    examine_cluster,
    judged_account,
    judged_caller,
    judged_clocks,
    judged_expiry,
    judged_leadership,
    judged_ledger_disk,
    judged_metrics,
    judged_pools,
    judged_releases,
    judged_snapshot,
    judged_streams,
    judged_tools,
    judged_versions,
    samples_of,
)
from swell.cluster import read_status
from swell.values import Executor, Fleet, LedgerStatus, Pool, Scheduler
from swell.verdict import Check

Swell = Callable[..., Result]
NOW_NS = 1_800_000_000_000_000_000
MINUTE_NS = 60_000_000_000


def executor(name: str = "e1", pool: str = "default", state: str = "idle", **known: Any) -> Executor:
    return Executor(executor=name, boot="b", pool=pool, slots=4, state=state, since_ns=1, reason="", **known)


def fleet(*executors: Executor, pools: tuple[Pool, ...] = (), **scheduler: Any) -> Fleet:
    told = Scheduler(**({"name": "s1", "version": "1", "log_time_ns": NOW_NS, "leader": "s1"} | scheduler))
    return Fleet(executors=list(executors), breakers=[], pauses=[], scheduler=told, pools=list(pools))


def waiting(pool: str, left_minutes: float) -> Pool:
    return Pool(name=pool, waiting=3, oldest_ns=NOW_NS - MINUTE_NS, deadline_ns=NOW_NS + int(left_minutes * MINUTE_NS))


def status(**known: Any) -> LedgerStatus:
    base: dict[str, Any] = {
        "position": 1, "stream_last": 1, "caught_up": True, "rebuilding": False, "verifying": False, "events_per_s": 0.0,
        "seconds_left": 0.0, "file_bytes": 2**30, "projection": 1, "started_ns": 1, "archived": 0, "version": "1",
    }  # fmt: skip
    return LedgerStatus(**(base | known))


def right(check: Check, state: str, said: str) -> None:
    """That is the verdict, it says so, and what is not right has a remedy."""
    assert (check.state, bool(check.remedy)) == (state, state != "ok"), check
    assert said in check.found


# What the services tell


@pytest.mark.parametrize(
    ("told", "state", "said"),
    [
        ({"caught_up": True}, "ok", "s1 leads"),
        ({"caught_up": True, "leader": "s2"}, "ok", "s2 leads, s1 stands by"),
        ({"caught_up": False, "leader": "s2"}, "warning", "still folds"),
        ({"leader": ""}, "failed", "nobody leads"),
        ({"leader": None}, "warning", "cannot tell"),
        ({"halted": "position 7: unknown kind"}, "failed", "position 7"),
        ({"halted": "draining"}, "warning", "is ending"),
    ],
)
def test_who_leads_and_who_decides_nothing_more(told: dict[str, Any], state: str, said: str) -> None:
    right(judged_leadership(fleet(**told).scheduler), state, said)


@pytest.mark.parametrize(
    ("executors", "pools", "state", "said"),
    [
        ((executor(),), (), "ok", "1 executors, 4 slots"),
        ((executor(),), (waiting("default", 10),), "ok", "3 attempts wait, the oldest for 60.0 s"),
        ((executor(),), (waiting("default", 4),), "warning", "given up in 4.0 minutes"),
        ((executor(state="draining"),), (), "warning", "0 executors"),
        ((executor(state="terminated"),), (waiting("default", 10),), "failed", "0 executors, 0 slots; 3 attempts"),
        ((), (), "failed", "none was seen"),
    ],
)
def test_a_pool_with_work_needs_executors_before_its_deadline(
    executors: tuple[Executor, ...], pools: tuple[Pool, ...], state: str, said: str
) -> None:
    (check,) = judged_pools(fleet(*executors, pools=pools))
    right(check, state, said)


def test_each_pool_has_its_line() -> None:
    found = judged_pools(fleet(executor(), executor("e2", "gpu"), pools=(waiting("arm", 10),)))
    assert [(one.name, one.state) for one in found] == [
        ("pool arm", "failed"),
        ("pool default", "ok"),
        ("pool gpu", "ok"),
    ]


@pytest.mark.parametrize(
    ("tools", "state", "said"),
    [
        (({"aider": "1", "ruff": "1"}, {"aider": "1", "ruff": "2"}), "ok", "aider, ruff"),
        (
            ({"aider": "1", "ruff": "1"}, {"aider": "1"}),
            "warning",
            "ruff is not on e1 of pool default, which did not find ./ruff",
        ),
        (({"ruff": "1"}, {"ruff": "1"}), "warning", "no executor has an AI tool"),
        ((), "warning", "no executor works"),
    ],
)
def test_executors_of_a_pool_have_the_same_tools(tools: tuple[dict[str, str], ...], state: str, said: str) -> None:
    told = [executor(f"e{at}", tools=found, missing={"ruff": "./ruff"}) for at, found in enumerate(tools)]
    right(judged_tools(told), state, said)


@pytest.mark.parametrize(
    ("scheduler", "leader", "worker", "state"),
    [
        ("a-swell-scheduler-5d8f7c9b6d-x2x4k", "a-swell-scheduler-5d8f7c9b6d-9zzzz", "a-swell-executor-gpu-7d9f8c6b5-abcde", "ok"),
        ("a-swell-scheduler-5d8f7c9b6d-x2x4k", "b-swell-scheduler-6d8f7c9b6d-9zzzz", "local", "failed"),
        ("a-swell-scheduler-5d8f7c9b6d-x2x4k", "a-swell-scheduler-5d8f7c9b6d-x2x4k", "b-swell-executor-gpu-7d9f8c6b5-abcde", "warning"),
        ("local", "local", "local", "ok"),
        ("local", "", "b-swell-executor-gpu-7d9f8c6b5-abcde", "ok"),
    ],
)  # fmt: skip
def test_two_releases_in_one_account_are_told_by_their_pods(
    scheduler: str, leader: str, worker: str, state: str
) -> None:
    assert judged_releases(fleet(executor(worker), name=scheduler, leader=leader)).state == state


def test_a_long_log_without_a_fold_snapshot_is_told() -> None:
    right(judged_snapshot(fleet(snapshot_ns=NOW_NS - 3 * MINUTE_NS).scheduler), "ok", "3.0 minutes ago")
    right(judged_snapshot(fleet(position=10).scheduler), "ok", "short")
    right(judged_snapshot(fleet(position=20_000).scheduler), "warning", "20,000 entries")


def test_clocks_that_differ_are_told_the_worst_first() -> None:
    right(judged_clocks({"ledger": 0.2, "the log": -4.0}), "ok", "2 within 4.0 s")
    right(
        judged_clocks({"ledger": 6.0, "NATS": -60.0}),
        "warning",
        "NATS is 60.0 s behind this machine, ledger is 6.0 s ahead",
    )
    right(judged_clocks({"executor e1": 3600.0}), "failed", "executor e1 is 60.0 minutes ahead of this machine")


def test_versions_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "version", lambda _: "2.0")
    right(judged_versions({"ledger": "2.0"}), "ok", "2.0")
    right(
        judged_versions({"ledger": "2.0", "executor e1": "1.9", "scheduler s": ""}),
        "warning",
        "executor e1: 1.9, scheduler s: an",
    )


def test_who_asks_and_how_much_room_the_ledger_has() -> None:
    right(
        judged_caller(status(caller="ann", role="viewer", tenants=["red"])), "ok", "ann, viewer, bound to tenants red"
    )
    right(judged_ledger_disk(status(disk_free_bytes=2**32)), "ok", "4.0 GiB free")
    right(judged_ledger_disk(status(disk_free_bytes=2**30)), "warning", "too little for a copy")
    right(judged_ledger_disk(status(disk_free_bytes=2**20)), "failed", "1.0 MiB free")


# Certificates


def test_a_certificate_is_told_of_before_it_ends() -> None:
    for left, state in ((timedelta(days=15), "ok"), (timedelta(days=13), "warning"), (timedelta(seconds=-1), "failed")):
        assert judged_expiry("it", 1e9 + left.total_seconds(), 1e9, "x").state == state


# The bus


def streams(**known: Any) -> list[StreamStanding]:
    return [StreamStanding(name=name, **known) for name in ("SWELL_EVENTS", "SWELL_COMMANDS")]


def standing(found: list[StreamStanding]) -> Standing:
    return Standing(server="n1", version="2.12.0", max_payload=2**20, streams=found, account=None, denied=[])


@pytest.mark.parametrize(
    ("found", "state", "said"),
    [
        (streams(), "ok", "2 as they should be"),
        (streams(problem="stream X does not exist"), "failed", "none of Swell's streams exists"),
        ([*streams()[:1], *streams(problem="stream X does not exist")[1:]], "failed", "stream X does not exist"),
        (streams(replicas=3), "failed", "no majority"),
        (streams(replicas=3, leader="n1", away=["n3"]), "warning", "n3 of SWELL_COMMANDS, n3 of SWELL_EVENTS"),
        (streams(replicas=3, leader="n1"), "ok", "3 copies"),
    ],
)
def test_streams_that_are_missing_headless_or_short_of_a_copy(
    found: list[StreamStanding], state: str, said: str
) -> None:
    (check,) = judged_streams(standing(found), 3)
    right(check, state, said)


def test_an_account_without_room_is_told() -> None:
    storage, memory = judged_account(Account(memory=96, memory_max=100, storage=85, storage_max=100))
    right(storage, "warning", "85 B of 100 B")
    right(memory, "failed", "96 B of 100 B")
    assert {one.state for one in judged_account(Account(memory=9, memory_max=0, storage=9, storage_max=0))} == {"ok"}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster is named, and none runs."""
    monkeypatch.setenv("SWELL_STATE_DIR", str(tmp_path / "state"))
    for name in ("SWELL_SCHEDULER", "SWELL_LEDGER", "SWELL_TOKEN_FILE", "SWELL_CA_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_bus_without_streams_and_without_sync_is_told(nowhere: None, own_nats_server: Any, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.toml"
    file.write_text(
        f'bind = "127.0.0.1:0"\n[bus]\nurl = "{own_nats_server.url}"\nuser = "swell"\npassword_file = "{own_nats_server.password_file}"\n'
    )
    found = {check.name: check for check in examine_cluster(bus=file).checks}
    right(found["settings"], "failed", "no cluster is named")
    right(found["bus"], "ok", "NATS 2.")
    right(found["streams"], "failed", "none of Swell's streams")
    right(found["durability"], "warning", "A POWER CUT MAY LOSE")
    assert found["durability"].remedy.startswith("Run it with `jetstream { sync_interval: always }`")
    right(found["account storage"], "ok", "used")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[bus]\nurl = 7\n", "Expected `str`"),
        ("[bus]\nurls = ''\n", "unknown key 'bus.urls'"),
        ("bus = 7\n", "no section"),
        ("[bus]\nurl = 'nats://127.0.0.1:1'\n", "no NATS server answered"),
    ],
)
def test_settings_of_a_bus_that_cannot_be_used(
    nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setattr(checkup, "BUS_S", 0.3)
    (tmp_path / "x.toml").write_text(text)
    found = {check.name: check for check in examine_cluster(bus=tmp_path / "x.toml").checks}
    right(found["bus"], "failed", said)


# Metrics

SCRAPED = """# HELP swell_build_info always 1
swell_build_info{service="ledger",version="0.9"} 1.0
swell_ledger_lag_entries 12.0
swell_ledger_disk_free_bytes 1048576.0
rubbish
swell_broken x
"""


def test_what_a_scrape_shows() -> None:
    samples = samples_of(SCRAPED)
    assert samples["swell_build_info"] == [({"service": "ledger", "version": "0.9"}, 1.0)]
    assert "swell_broken" not in samples
    (check,) = judged_metrics("m", samples, 0)
    right(check, "ok", "ledger, 12 entries behind, 1.0 MiB of disk free")


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        ("swell_ledger_condemned 1.0", "failed", "ledger: its file is damaged"),
        ("swell_event_loop_responsive 0.0", "warning", "does not answer for itself"),
        ("swell_executor_out_of_room 1.0", "warning", "takes no commands"),
        ("swell_tls_certificate_expiry_timestamp_seconds 5.0", "failed", "expired"),
    ],
)
def test_what_only_series_tell(line: str, state: str, said: str) -> None:
    right(judged_metrics("m", samples_of(SCRAPED + line + "\n"), 1e9)[-1], state, said)


def test_a_url_that_shows_nothing_of_ours(nowhere: None) -> None:
    (check,) = judged_metrics("m", samples_of("up 1\n"), 0)
    right(check, "failed", "no series of Swell")
    found = {check.name: check for check in examine_cluster(metrics=["http://127.0.0.1:1/metrics", "x"]).checks}
    assert found["metrics http://127.0.0.1:1/metrics"].state == found["metrics x"].state == "failed"


# A real one


def test_a_real_cluster_is_in_order(cluster: Path, swell: Swell) -> None:
    running = read_status(cluster)
    assert running is not None
    urls = [argument for address in running.metrics.values() for argument in ("--metrics", f"http://{address}/metrics")]
    started = time.monotonic()
    shown = swell("doctor", "--cluster", "--json", "--bus", cluster / "config" / "scheduler.toml", *urls)
    assert time.monotonic() - started < checkup.LOOK_S
    found = {check["name"]: check for check in json.loads(shown.output)["checks"]}
    assert shown.exit_code == 0, shown.output
    assert {name for name, check in found.items() if check["state"] != "ok"} <= {"tools"}
    assert found["leader"]["found"] == "local leads"
    assert found["pool default"]["found"].startswith("1 executors, ")
    assert "admin" in found["caller"]["found"]
    assert "not permitted to this user" in found["bus permissions"]["found"]
    assert "5 within 0." in found["clocks"]["found"]
    assert sum(name.startswith("metrics ") for name in found) == 3


def test_options_about_a_cluster_need_one(swell: Swell, tmp_path: Path) -> None:
    shown = swell("doctor", "--bus", tmp_path / "x.toml")
    assert shown.exit_code == 2
    assert "Add --cluster" in shown.output
