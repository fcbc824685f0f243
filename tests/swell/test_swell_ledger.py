"""`swell ledger`: how far it is, whether it says what the log says, and making it anew, on a real cluster."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
from small_repository import bundle
from typer.testing import Result

from swell import ledger
from swell.client import Client
from swell.cluster import Failure, Status
from swell.errors import SwellError
from swell.values import Endpoints, LedgerStatus

pytestmark = pytest.mark.usefixtures("cluster")

Swell = Callable[..., Result]


def test_a_ledger_is_verified_row_for_row(swell: Swell, bundles: Callable[..., Path], repo: Path) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    status = json.loads(swell("ledger", "status", "--json").stdout)
    assert status["position"] > 0
    asked = swell("sql", "SELECT run, state FROM runs", "--format", "jsonl")
    assert asked.exit_code == 0, asked.output
    run = json.loads(swell("show", "last", "--json").stdout)["run"]
    assert {"run": run["run"], "state": run["state"]} in [json.loads(line) for line in asked.stdout.splitlines()]
    assert "position" in swell("ledger", "status").stdout
    shown = swell("ledger", "verify")
    assert shown.exit_code == 0, shown.output
    assert "every row is what the log says, and the chain of hashes holds" in shown.stdout
    result = json.loads(swell("ledger", "verify", "--json").stdout.splitlines()[-1])
    assert result["record"] == "verify_result"
    assert result["ok"] is True
    assert result["rows"] > 0


def test_a_ledger_is_made_anew_and_knows_the_same(swell: Swell, bundles: Callable[..., Path], repo: Path) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    before = swell("show", "last", "--json").stdout
    assert swell("ledger", "rebuild").exit_code == 2, "nobody said yes"
    shown = swell("ledger", "rebuild", "--yes", "--reason", "to see it")
    assert shown.exit_code == 0, shown.output
    assert "whole again" in shown.stdout
    assert swell("show", "last", "--json").stdout == before


def test_a_backup_is_one_file_and_takes_the_place_of_the_ledgers(
    swell: Swell, bundles: Callable[..., Path], repo: Path, tmp_path: Path
) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    before = swell("show", "last", "--json").stdout
    copy = tmp_path / "copy.duckdb"
    shown = swell("ledger", "backup", "--to", copy)
    assert shown.exit_code == 0, shown.output
    assert f"is in {copy}" in shown.stdout
    assert [file.name for file in tmp_path.glob("copy*")] == ["copy.duckdb"]
    assert swell("ledger", "backup", "--to", copy).exit_code == 2, "nothing is written over"
    assert swell("ledger", "restore", "--from", tmp_path / "none", "--yes").exit_code == 2
    (tmp_path / "bad").write_bytes(b"nonsense" * 100)
    refused = swell("ledger", "restore", "--from", tmp_path / "bad", "--yes")
    assert refused.exit_code == 2
    assert "no file of this version" in refused.stderr
    assert swell("ledger", "restore", "--from", copy).exit_code == 2, "nobody said yes"
    shown = swell("ledger", "restore", "--from", copy, "--yes", "--reason", "a drill")
    assert shown.exit_code == 0, shown.output
    assert "whole again" in shown.stdout
    assert swell("show", "last", "--json").stdout == before


def test_what_is_over_is_archived_and_asked_as_before(swell: Swell, bundles: Callable[..., Path], repo: Path) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    before = swell("show", "last", "--json").stdout
    assert "would archive" in swell("ledger", "archive", "--older-than", "0", "--dry-run").stdout
    shown = swell("ledger", "archive", "--older-than", "0", "--purge")
    assert shown.exit_code == 0, shown.output
    assert "archived up to position" in shown.stdout
    assert "younger than 2 days" in shown.stdout
    again = json.loads(swell("ledger", "archive", "--older-than", "0", "--json").stdout)
    assert (again["record"], again["segments"]) == ("archive_result", 0)
    assert swell("show", "last", "--json").stdout == before


class Dying:
    """A client of a cluster whose ledger never comes up again, in place of which a Client would wait for minutes."""

    def __init__(self, state_dir: Path | None) -> None:
        self.endpoints = Endpoints(scheduler="", ledger="", token="", state_dir=state_dir)

    def ledger_status(self) -> LedgerStatus:
        raise SwellError("UNAVAILABLE", "UNREACHABLE", "nobody listens at port 7")


@pytest.mark.parametrize("embedded", [True, False])
def test_who_waits_for_a_rebuild_is_told_why_the_ledger_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded: bool
) -> None:
    monkeypatch.setattr(ledger, "REBUILD_S", 0.3)
    monkeypatch.setattr(ledger, "POLL_S", 0.001)
    dies = Failure(reason="CHILD_DIES", message="ledger died 3 times: segment-1 is harmed", remedy="Mend it.")
    status = Status(pid=1, state="ready", started_ns=1, failing={"ledger": dies})
    (tmp_path / "cluster.json").write_bytes(msgspec.json.encode(status))
    client = cast("Client", Dying(tmp_path if embedded else None))
    assert ledger._await_rebuilt(client, 1, 5) == 1
    shown = capsys.readouterr()
    assert shown.err.count("does not come up") == 1
    assert ("segment-1 is harmed" if embedded else "nobody listens at port 7") in shown.err
