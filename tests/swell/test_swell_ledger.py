"""`swell ledger`: how far it is, whether it says what the log says, and making it anew, on a real cluster."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_repository import bundle
from typer.testing import Result

pytestmark = pytest.mark.usefixtures("cluster")

Swell = Callable[..., Result]


def test_a_ledger_is_verified_row_for_row(swell: Swell, bundles: Callable[..., Path], repo: Path) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    status = json.loads(swell("ledger", "status", "--json").stdout)
    assert status["position"] > 0
    assert "position" in swell("ledger", "status").stdout
    shown = swell("ledger", "verify")
    assert shown.exit_code == 0, shown.output
    assert "every row is what the log says, and the chain of hashes holds" in shown.stdout
    result = json.loads(swell("ledger", "verify", "--json").stdout.splitlines()[-1])
    assert result["kind"] == "verify_result"
    assert result["ok"] is True
    assert result["rows"] > 0


def test_a_ledger_is_made_anew_and_knows_the_same(swell: Swell, bundles: Callable[..., Path], repo: Path) -> None:
    assert swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run").exit_code == 0
    before = swell("show", "last", "--json").stdout
    assert swell("ledger", "rebuild").exit_code == 1, "nobody said yes"
    shown = swell("ledger", "rebuild", "--yes", "--reason", "to see it")
    assert shown.exit_code == 0, shown.output
    assert "whole again" in shown.stdout
    assert swell("show", "last", "--json").stdout == before
