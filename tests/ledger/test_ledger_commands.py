"""What commands tell of what a ledger holds, and of what it does not: flags and commands, never fields and methods."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ledger_asked import Asked, asked
from ledger_histories import Story
from test_ledger_lists import asked as requested
from test_ledger_lists import various
from typer.testing import CliRunner, Result

from services.ledger.sql import Limits
from swell.cli import ORDERS, app
from swell.errors import SwellError
from swell.values import RunFilter, Selection

Swell = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that a run was over."""
    root = tmp_path_factory.mktemp("place").resolve()
    (root / ".git").mkdir()
    (root / "src").mkdir()
    return root


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Asked]:
    """Five runs, and one over `place`."""
    story = Story()
    story.records = various()
    requested(story, "f", repository=str(place))
    with asked(tmp_path_factory.mktemp("asked"), story.records, limits=Limits(rows_max=50)) as found:
        yield found


@pytest.fixture
def swell(ledger: Asked, monkeypatch: pytest.MonkeyPatch) -> Swell:
    monkeypatch.setenv("SWELL_SCHEDULER", ledger.address)
    monkeypatch.setenv("SWELL_LEDGER", ledger.address)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def listed(swell: Swell, *words: object) -> str:
    shown = swell("list", "--json", *words)
    assert shown.exit_code == 0, shown.output
    return "".join(run["run"] for run in json.loads(shown.stdout))


# Runs


def test_an_empty_tenant_means_runs_of_nobody_and_none_means_all(swell: Swell) -> None:
    assert listed(swell) == "fedcba"
    assert listed(swell, "--tenant", "") == "fedc"
    assert listed(swell, "--tenant", "t1") == "a"


def test_runs_are_watched_by_no_tenant(ledger: Asked) -> None:
    watch = ledger.client.watch_runs(RunFilter(tenant=""), include_initial=True)
    assert {change.run.run for change in next(watch)} == set("cdef")


@pytest.mark.parametrize(("order", "first"), [("cost desc", "a"), ("submitted", "a"), ("attempts desc", "b")])
def test_runs_are_ordered_by_words_of_the_command_line(swell: Swell, order: str, first: str) -> None:
    assert set(ORDERS) == {"submitted", "finished", "cost", "attempts"}
    assert listed(swell, "--order", order, "--limit", 1) == first


def test_that_no_run_matches_is_not_that_there_is_none(swell: Swell) -> None:
    assert swell("list", "--tool", "none-such").stdout == "no run matches\n"


@pytest.mark.parametrize("inside", [".", "src"])
def test_a_repository_is_found_by_a_path_from_here(
    swell: Swell, place: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.chdir(place)
    assert listed(swell, "--repository", inside) == "f"
    assert listed(swell, "--repository", "other") == "b", "what is no path here is what it is"
    told = json.loads(swell("stats", "--repository", inside, "--json").stdout)
    assert told["runs"] == 1


# Workstreams


@pytest.mark.parametrize("command", ["events", "errors", "explain", "show"])
def test_a_workstream_that_is_not_there_is_refused(swell: Swell, command: str) -> None:
    shown = swell(command, "a", "nowhere")
    assert shown.exit_code == 2
    assert "no workstream 'nowhere'" in shown.stderr
    assert swell(command, "a", "w").exit_code == 0


def test_that_no_event_matches_is_told(swell: Swell) -> None:
    assert swell("events", "a", "--kind", "fleet_paused").stdout == "no event matches\n"
    assert swell("events", "a", "--kind", "fleet_paused", "--json").stdout == ""


def test_one_workstream_is_explained(ledger: Asked) -> None:
    everything = {wait.workstream for wait in ledger.client.explain_run("d").waits}
    assert everything > {""}
    assert {wait.workstream for wait in ledger.client.explain_run("d", "w").waits} == {"", "w"}
    assert {wait.workstream for wait in ledger.client.explain_run("d", "other").waits} == {""}


# Errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["costs", "--by", "nothing"], "error: --by: 'nothing' is nothing to group by"),
        (["costs", "--label", "A=b"], "error: --label: 'A' is no label"),
        (["costs", "--tenant", "a b"], "error: --tenant: 'a b' is no tenant"),
        (["events", "a", "--tool", "x" * 4097], "error: --tool: 4097 characters"),
        (["audit", "anchor", "--at", "99999"], "with `swell ledger status`"),
        (["sql", "FROM range(10)", "--max-rows", "3"], "or ask for more: the limit is the question's own"),
        (["sql", "FROM range(100)"], "or raise `sql_rows_max`"),
    ],
)
def test_errors_name_flags_and_commands(swell: Swell, words: list[str], said: str) -> None:
    shown = swell(*words)
    assert shown.exit_code in {1, 2}
    assert said in shown.stderr


@pytest.mark.parametrize(
    ("asking", "said"),
    [
        (lambda client: client.get_run("nope"), "check the id with `swell list`"),
        (lambda client: client.get_costs(Selection(labels={"A": "b"})), "labels: 'A' is no label"),
    ],
)
def test_errors_of_the_client_name_commands_and_arguments(ledger: Asked, asking: Any, said: str) -> None:
    with pytest.raises(SwellError) as caught:
        asking(ledger.client)
    assert said in caught.value.message
    assert "selection." not in caught.value.message


def test_costs_of_nothing_are_told_as_such(swell: Swell) -> None:
    shown = swell("costs", "a", "--month", "1999-01")
    assert shown.exit_code == 0, shown.output
    assert "no attempt of a coding tool is among what was selected" in shown.stdout
    assert "no attempt" not in swell("costs", "a").stdout


# Files


def test_an_answer_in_sql_replaces_a_file_only_when_told_to(swell: Swell, tmp_path: Path) -> None:
    target = tmp_path / "answer.csv"
    target.write_text("kept")
    shown = swell("sql", "SELECT 1 AS one", "-f", "csv", "-o", target)
    assert (shown.exit_code, target.read_text()) == (2, "kept")
    assert "--force" in shown.stderr
    assert swell("sql", "SELECT 1 AS one", "-f", "csv", "-o", target, "--force").exit_code == 0
    assert target.read_text().split() == ["one", "1"]


def test_an_answer_in_sql_is_printed_for_a_dash(swell: Swell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert swell("sql", "SELECT 1 AS one", "-f", "csv", "-o", "-").stdout.split() == ["one", "1"]
    assert swell("sql", "SELECT 1 AS one", "-f", "parquet", "-o", "-").exit_code == 2
    assert list(tmp_path.iterdir()) == []
