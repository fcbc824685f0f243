"""The ledger as a process of its own, on a real NATS server."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ledger_histories import sha256, steady

from services.bus import Bus, BusConfig
from services.ledger.__main__ import removing
from services.ledger.absorb import Absorber
from services.ledger.archive import DAY_NS, Archivist, Outcome
from services.ledger.config import LedgerConfig
from services.ledger.history import History
from services.ledger.segment import Archive
from services.ledger.store import Store
from services.ledger.v1 import ledger_pb2 as pb
from services.ledger.v1 import ledger_pb2_grpc

NATS = Path(sys.executable).with_name("nats-server")


@pytest.fixture
def nats(tmp_path):
    """The url of a NATS server with JetStream."""
    command = [NATS, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", tmp_path, "-js", "-sd", tmp_path / "js"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not (found := [file for file in tmp_path.glob("*.ports") if file.stat().st_size]):
        assert time.monotonic() < deadline, "no ports file"
        time.sleep(0.01)
    yield json.loads(found[0].read_text())["nats"][0]
    server.terminate()
    server.wait()


@contextlib.asynccontextmanager
async def connected(url: str):
    """The bus, with its streams."""
    bus = await Bus.connect(BusConfig(url=url), name="test")
    try:
        await bus.ensure_streams()
        yield bus
    finally:
        await bus.close()


def announced(ready: Path) -> dict[str, int]:
    """What the ready file says; nothing while there is none. A starting ledger removes that of its former life."""
    try:
        told: dict[str, int] = json.loads(ready.read_text())
    except FileNotFoundError:
        return {}
    return told


@contextlib.asynccontextmanager
async def running(folder: Path, url: str, **settings: str):
    """A ledger; its process, and a channel to it."""
    ready = folder / "ready"
    env = {
        **os.environ,
        "SWELL_BUS_URL": url,
        "SWELL_LEDGER_FILE": str(folder / "l"),
        "SWELL_LEDGER_READY_FILE": str(ready),
        **settings,
    }
    with (folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting it blocks for a moment only
            [sys.executable, "-m", "services.ledger"], env=env, stderr=stderr
        )
    try:
        async with asyncio.timeout(20):
            while announced(ready).get("pid") != process.pid:
                assert process.poll() is None, (folder / "stderr").read_text()
                await asyncio.sleep(0.01)
        told = announced(ready)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{told['port']}") as channel:
            yield process, channel
    finally:
        process.kill()
        process.wait()


async def reached(stub: ledger_pb2_grpc.LedgerServiceStub, position: int, **call) -> None:
    """Wait until the ledger has absorbed a position."""
    watch = stub.WatchEvents(pb.WatchEventsRequest(after_position=position - 1), **call)
    async with asyncio.timeout(20):
        while (await watch.read()).position < position:
            pass
    watch.cancel()


async def test_it_absorbs_survives_a_kill_and_stops_cleanly(tmp_path, nats):
    records = steady(2, 5)
    half = len(records) // 2
    async with connected(nats) as bus:
        await bus.objects.write("thing", b"payload")
        for record in records[:half]:
            await bus.add(record.subject, record.data)
    (tmp_path / "token").write_text("secret\n")
    admitted = {"metadata": (("authorization", "Bearer secret"),)}
    token = {
        "SWELL_LEDGER_TOKEN_FILE": str(tmp_path / "token"),
        "SWELL_LEDGER_ANCHORS_FILE": str(tmp_path / "anchors"),
        "SWELL_LEDGER_ANCHOR_INTERVAL_S": "0.02",
    }
    async with running(tmp_path, nats, **token) as (process, channel):
        await reached(ledger_pb2_grpc.LedgerServiceStub(channel), half, **admitted)
        process.kill()
    async with connected(nats) as bus:
        for record in records[half:]:
            await bus.add(record.subject, record.data)
    async with running(tmp_path, nats, **token) as (process, channel):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="no valid token"):
            await stub.ListRuns(pb.ListRunsRequest())
        await reached(stub, len(records), **admitted)
        runs = (await stub.ListRuns(pb.ListRunsRequest(), **admitted)).runs
        assert [(run.run, run.state, run.completed) for run in runs] == [
            ("run1", "completed", 5),
            ("run0", "completed", 5),
        ]
        audited = [one async for one in stub.VerifyAudit(pb.VerifyAuditRequest(with_log=True), **admitted)][-1].result
        assert (audited.ok, audited.logged) == (True, len(records))
        anchors = [json.loads(line) for line in (tmp_path / "anchors").read_text().splitlines()]
        assert anchors
        for told in anchors:
            found = await stub.GetAnchor(pb.GetAnchorRequest(position=told["position"]), **admitted)
            assert (told["hash"], told["stream_created_ns"]) == (
                found.anchor.hash.hex(),
                found.anchor.stream_created_ns,
            )
        call = stub.ReadArtifact(pb.ReadArtifactRequest(name="thing", digest=sha256(b"payload")), **admitted)
        assert b"".join([answer.chunk async for answer in call]) == b"payload"
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(10):
            while (await health.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert not (tmp_path / "ready").exists()


async def test_it_rebuilds_after_a_rebuild_was_asked_for_and_after_its_file_was_deleted(tmp_path, nats):
    """Each time it ends with exit code 3, which asks for a start; the new file holds the same."""
    records = steady(2, 20)
    often = {"SWELL_LEDGER_LAG_INTERVAL_S": "0.05"}
    async with connected(nats) as bus:
        for record in records:
            await bus.add(record.subject, record.data)

    async def runs_of(channel) -> bytes:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        await reached(stub, len(records))
        said = [answer async for answer in stub.VerifyLedger(pb.VerifyLedgerRequest())]
        assert said[-1].result.ok
        return (await stub.ListRuns(pb.ListRunsRequest())).SerializeToString(deterministic=True)

    async def drained(watch) -> None:
        while True:
            await watch.read()

    async with running(tmp_path, nats, **often) as (process, channel):
        before = await runs_of(channel)
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        watch = stub.WatchEvents(pb.WatchEventsRequest())
        await watch.read()
        answer = await stub.RebuildLedger(pb.RebuildLedgerRequest(reason="doubt"))
        assert answer.position == len(records)
        with pytest.raises(grpc.aio.AioRpcError, match="the ledger stops"):
            await drained(watch)
        assert await asyncio.to_thread(process.wait, 10) == 3
    async with running(tmp_path, nats, **often) as (process, channel):
        assert (tmp_path / "l.corrupt-1").exists()
        assert await runs_of(channel) == before
        (tmp_path / "l").unlink()
        assert await asyncio.to_thread(process.wait, 10) == 3
    async with running(tmp_path, nats, **often) as (process, channel):
        assert await runs_of(channel) == before
        (tmp_path / "l.wal").unlink(missing_ok=True)
        process.kill()
    async with running(tmp_path, nats, **often) as (process, channel):
        assert await runs_of(channel) == before
    told = (tmp_path / "stderr").read_text()
    assert "a rebuild was asked for: doubt" in told
    assert "deleted or replaced while in use" in told
    assert "ledger.rebuilding" in told
    assert "ledger.whole" in told


async def test_a_drill_the_file_is_lost_the_stream_is_purged_and_a_backup_comes_back(tmp_path, nats):
    """What was asked before is answered after each loss, to the byte."""
    records = steady(3, 5)
    archive = {"SWELL_LEDGER_ARCHIVE": str(tmp_path / "archive"), "SWELL_LEDGER_LAG_INTERVAL_S": "0.05"}
    async with connected(nats) as bus:
        for record in records:
            await bus.add(record.subject, record.data)

    async def answers_of(channel) -> bytes:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        await reached(stub, len(records))
        said = [answer async for answer in stub.VerifyLedger(pb.VerifyLedgerRequest())]
        assert said[-1].result.ok
        return (await stub.ListRuns(pb.ListRunsRequest())).SerializeToString(deterministic=True)

    async with running(tmp_path, nats, **archive) as (process, channel):
        before = await answers_of(channel)
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        said = [answer async for answer in stub.ArchiveLedger(pb.ArchiveLedgerRequest(purge=True))]
        result = said[-1].result
        assert (result.archived_to, result.runs, result.purged_runs) == (len(records), 3, 0)
        assert (result.kept_runs, result.kept_why) == (3, "younger than 2 days")
        backup = b"".join([answer.chunk async for answer in stub.BackupLedger(pb.BackupLedgerRequest(), timeout=30)])
    async with connected(nats) as bus:
        assert (await purged(tmp_path, bus)).purged_runs == 3
        left = [one async for batch in bus.replay("swell.event.>") for one in batch]
        assert len(left) == 6, "of each run its request and its end"
    (tmp_path / "l").unlink()
    (tmp_path / "l.wal").unlink(missing_ok=True)
    async with running(tmp_path, nats, **archive) as (process, channel):
        assert await answers_of(channel) == before
        sent = [pb.RestoreLedgerRequest(header=pb.RestoreHeader(size_bytes=len(backup), sha256=sha256(backup)))]
        sent += [pb.RestoreLedgerRequest(chunk=backup[at : at + 32_768]) for at in range(0, len(backup), 32_768)]
        await ledger_pb2_grpc.LedgerServiceStub(channel).RestoreLedger(iter(sent), timeout=30)
        assert await asyncio.to_thread(process.wait, 10) == 3
    async with running(tmp_path, nats, **archive) as (process, channel):
        assert await answers_of(channel) == before
    (tmp_path / "l").unlink()
    (tmp_path / "l.wal").unlink(missing_ok=True)
    env = {**os.environ, "SWELL_BUS_URL": nats, "SWELL_LEDGER_FILE": str(tmp_path / "l")}
    command = [sys.executable, "-m", "services.ledger"]
    alone = await asyncio.to_thread(subprocess.run, command, env=env, timeout=20, capture_output=True, text=True)
    assert alone.returncode == 1
    assert "the stream lacks positions 2 to " in alone.stdout + alone.stderr
    assert "no archive is configured" in alone.stdout + alone.stderr


async def purged(folder: Path, bus: Bus) -> Outcome:
    """What an archivist does in a year from now, on the file of a ledger that is stopped."""
    store = Store.open(folder / "l")
    archive = Archive(folder / "archive")
    absorber = Absorber(store, bus, history=History(archive))
    archivist = Archivist(
        store,
        absorber,
        bus,
        archive,
        remover=lambda: removing(LedgerConfig(file=folder / "l", bus=bus.config)),
        now_ns=lambda: time.time_ns() + 365 * DAY_NS,
    )
    *_, outcome = [said async for said in archivist.work(0, purge=True)]
    store.close()
    assert isinstance(outcome, Outcome)
    return outcome


async def test_another_log_stops_it_with_a_remedy(tmp_path, nats):
    records = steady(1, 1)
    async with connected(nats) as bus:
        for record in records:
            await bus.add(record.subject, record.data)
    async with running(tmp_path, nats) as (_, channel):
        await reached(ledger_pb2_grpc.LedgerServiceStub(channel), len(records))
    async with connected(nats) as bus:
        await bus._api("STREAM.DELETE.SWELL_EVENTS")
        await bus.ensure_streams()
    env = {**os.environ, "SWELL_BUS_URL": nats, "SWELL_LEDGER_FILE": str(tmp_path / "l")}
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "services.ledger"], env=env, capture_output=True, timeout=20, text=True
    )
    assert ended.returncode == 1
    assert "it is rebuilt from the log" in ended.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "missing required field `file`"),
        ({"SWELL_LEDGER_FILE": "l", "SWELL_LEDGER_BINT": "x"}, "did you mean 'SWELL_LEDGER_BIND'"),
        ({"SWELL_LEDGER_FILE": "l", "SWELL_LOG_LEVEL": "loud"}, "is no level"),
    ],
)
def test_settings_that_cannot_be_used_end_it_at_once(tmp_path, env, said):
    ended = subprocess.run(
        [sys.executable, "-m", "services.ledger"],
        env={**os.environ, **env},
        capture_output=True,
        check=False,
        timeout=20,
        text=True,
    )
    assert ended.returncode == 2
    assert said in ended.stderr
