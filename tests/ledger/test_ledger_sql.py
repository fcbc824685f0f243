"""Questions in SQL: what they see, what they are refused, what kills them, and what stays of them."""

import asyncio
import contextlib
import csv
import io
import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import duckdb
import msgspec
import nanoarrow
import pytest
from ledger_asked import Asked, asked
from ledger_histories import LOG, Story, moved, scheduled, snapshot, steady
from nanoarrow.ipc import InputStream
from typer.testing import CliRunner

from services import events as ev
from services.ledger.costs import COUNTED
from services.ledger.snapshots import Snapshots, child, environment
from services.ledger.sql import Limits
from services.ledger.sql_child import DATABASE, VIEWS, Ask, RefusedError, the_one_select
from services.ledger.store import Store
from services.outcome import Cost, Usage
from services.process import spawn_piped
from services.rpc import RpcError
from swell.cli import app
from swell.errors import SwellError
from swell.sql import _csv, _table
from swell.values import QueryColumn, QueryEnd

LIMITS = Limits(queries=4, timeout_s=1.5, memory_mb=256, rows_max=50_000, bytes_max=4 * 2**20)
GONE_S = 5.0
SHOWN = Path(__file__).parents[2] / "services" / "ledger" / "views.sql"
DOCUMENT = Path(__file__).parents[2] / "docs" / "sql.md"


def rich() -> list:
    """A run that is done and has cost something, one that failed, and one under way."""
    story = Story()
    story.accepted("a", "b")
    finish = ev.StepFinished(
        ok=True,
        snapshot=snapshot("d"),
        files=["x.py"],
        artifacts=[LOG],
        model="m-1",
        usage=Usage(input_tokens=1000, output_tokens=500),
        cost=Cost(nano_usd=1_234_567_891, basis="reported"),
    )
    story.step("a", 1, "edit", finish)
    verdict = ev.CheckResult(check="c1", kind="static", name="ruff", outcome="failed", wall_s=2.5, findings=3)
    story.step("b", 3, "fix", ev.StepFinished(ok=False, error_class="tool_failed"), cap="none")
    for attempt in (1, 2):
        failed = ev.StepFinished(ok=False, error_class="check_failed", signature="s1", message="red", checks=[verdict])
        story.step("b", attempt, "static", failed)
    story.decide(moved("a", "merging", "completed"), moved("b", "static_check", "failed", "it stays red"))
    story.finished("partial")
    story.accepted("c", run="r2")
    story.decide(scheduled("c", 1, "edit"), run="r2")
    return story.records


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Iterator[Asked]:
    with asked(tmp_path_factory.mktemp("asked"), [*rich()], limits=LIMITS) as here:
        yield here


@pytest.fixture(scope="module")
def busy(tmp_path_factory) -> Iterator[Asked]:
    """One with enough in it to be hurt by questions."""
    with asked(tmp_path_factory.mktemp("busy"), steady(60, 5), limits=LIMITS) as here:
        yield here


def gone(here: Asked) -> bool:
    """Whether nothing of any question is left, within GONE_S."""
    deadline = time.monotonic() + GONE_S
    while here.processes() or here.folders("question") or here.questions.under_way:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# The views


def test_every_view_is_documented_and_can_be_read(ledger):
    told = ledger.rows("SELECT view_name, column_name, comment, about FROM documentation")
    views = {view for view, *_ in told}
    assert views == {
        name for name, schema in ledger.rows("SELECT view_name, schema_name FROM duckdb_views()") if schema == VIEWS
    }
    assert [row for row in told if not row[2] or not row[3]] == []
    read = [
        f"SELECT count(*) FROM (SELECT {', '.join(name for where, name, *_ in told if where == view)} FROM {view})"  # noqa: S608
        for view in sorted(views)
    ]
    assert len(ledger.rows(" UNION ALL ".join(read))) == len(views), "and no name of a column needs quotes"


def test_the_views_tell_every_column_of_the_tables(ledger):
    """A column that the projection gains is missed here until a view has it, or it is named as left out."""
    left_out = {
        "attempts.scheduled_idx", "attempts.mechanical", "attempts.wall_s", "attempts.checks_json",
        "runs.line_attempt", "workstreams.staged_at", "executors.first_position", "executors.first_idx",
        "patches.created_position", "patches.created_idx", "patches.refused_moves", "patches.refused",
    }  # fmt: skip
    tables = ledger.rows(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main' AND database_name = 'ledger'"
        " AND table_name IN (SELECT table_name FROM duckdb_tables())"
    )
    sources = {"meta": "ledger", "patch_history": "patch_moves"}
    told = {(view, column) for view, column in ledger.rows("SELECT view_name, column_name FROM documentation")}
    missing = set()
    for table, column in tables:
        stem = column.removesuffix("_ns")
        names = {
            column,
            stem,
            f"{stem}_at",
            {"time_ns": "recorded_at", "at_ns": "written_at", "by": "writer", "scheduled_position": "position"}.get(
                column, ""
            ),
        }
        if not any((sources.get(table, table), name) in told for name in names):
            missing.add(f"{table}.{column}")
    assert missing == left_out


def test_money_times_and_lists_have_types_of_their_own(ledger):
    header, rows, _ = ledger.client.query(
        "SELECT cost_usd, cost_nano, artifacts, closed_at, model, queue_s FROM attempts WHERE run = 'r1' AND step = 'edit'"
    )
    assert [column.type for column in header.columns][:4] == ["DECIMAL(28,9)", "BIGINT", "JSON", "TIMESTAMP"]
    ((usd, nano, artifacts, closed, model, queue_s),) = rows
    assert (usd, nano, model) == ("1.234567891", 1_234_567_891, "m-1")
    assert json.loads(artifacts)[0]["role"] == "log"
    assert closed.startswith("2026-")
    assert queue_s == pytest.approx(1e-6)


def test_the_examples_of_the_document_are_answered(ledger):
    text = DOCUMENT.read_text()
    examples = [block.partition("```")[0] for block in text.split("```sql\n")[1:]]
    assert len(examples) >= 4
    answers = [ledger.rows(example) for example in examples]
    assert all(answers), "each finds something in a small history"


def test_costs_and_views_count_the_same_attempts(ledger):
    """The document's first example tells what `swell costs` tells: of two, the cost of one is unknown."""
    example = DOCUMENT.read_text().split("```sql\n")[1].partition("```")[0]
    assert sorted(row[-2:] for row in ledger.rows(example)) == [(1, 0), (1, 1)]
    assert ledger.rows("SELECT count(*), count(*) FILTER (cost_usd IS NULL) FROM attempts WHERE counted") == [(2, 1)]
    assert re.sub(r"\ba\.", "", " ".join(COUNTED.split())) in " ".join(SHOWN.read_text().split())


def test_an_answer_tells_its_position_and_age(ledger):
    header, rows, end = ledger.client.query("SELECT position FROM ledger")
    assert header.position == ledger.absorber.position == rows[0][0]
    assert 0 <= header.age_s < 60
    assert isinstance(end, QueryEnd)
    assert end.rows == 1


# Values

EVERY_TYPE = """
SELECT * FROM (VALUES
    (1::TINYINT, 9007199254740993::BIGINT, 170141183460469231731687303715884105727::HUGEINT, 1.5::DOUBLE, true, 'é'::VARCHAR,
     '\\x00\\xff'::BLOB, 0.100::DECIMAL(9, 3), TIMESTAMP '2026-01-02 03:04:05.000006', DATE '2026-01-02', [1, NULL], {'a': 1.50},
     MAP {'k': 1}, '{"j": [1]}'::JSON, TIMESTAMPTZ '2026-01-02 03:04:05+02', INTERVAL 90 MINUTE, 'x'::ENUM ('x', 'y')),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
)"""


def test_values_of_every_type_arrive_as_they_are(ledger):
    first, second = ledger.rows(EVERY_TYPE)
    assert first == (
        1, 9007199254740993, "170141183460469231731687303715884105727", 1.5, True, "é", b"\x00\xff", "0.100",
        "2026-01-02T03:04:05.000006", "2026-01-02", "[1,null]", '{"a":"1.50"}', '{"k":1}', '{"j": [1]}',
        "2026-01-02T01:04:05", "1:30:00", "x",
    )  # fmt: skip
    assert second == (None,) * 17


def arrow_of(here: Asked, sql: str) -> nanoarrow.Array:
    stream = b"".join(part for part in here.client.query(sql, arrow=True) if isinstance(part, bytes))
    return nanoarrow.ArrayStream(InputStream.from_readable(io.BytesIO(stream))).read_all()


def test_an_arrow_stream_holds_the_same_rows(busy):
    sql = "SELECT position, kind, recorded_at, attempt FROM events ORDER BY position, idx"
    rows = busy.rows(sql)
    array = arrow_of(busy, sql)
    assert len(array) == len(rows) > 1000
    found = [
        (row["position"], row["kind"], row["recorded_at"].isoformat(), row["attempt"]) for row in array.to_pylist()
    ]
    assert found == rows
    assert len(arrow_of(busy, "SELECT 'a'::ENUM ('a') AS e, * FROM runs WHERE false")) == 0, (
        "and without rows its columns"
    )


# What is asked with bad intent

REFUSED = {
    "a file as CSV": ("SELECT * FROM read_csv('/etc/passwd')", "SQL_REFUSED"),
    "a file as text": ("SELECT * FROM read_text('/etc/passwd')", "SQL_REFUSED"),
    "a file as bytes": ("SELECT * FROM read_blob('/proc/self/environ')", "SQL_REFUSED"),
    "a file as Parquet": ("SELECT * FROM read_parquet('/etc/passwd')", "SQL_REFUSED"),
    "a file as JSON": ("SELECT * FROM read_json('/etc/passwd')", "SQL_REFUSED"),
    "a file by its name": ("FROM '/etc/passwd'", "SQL_INVALID"),
    "a file sniffed": ("SELECT * FROM sniff_csv('/etc/passwd')", "SQL_REFUSED"),
    "names of files": ("SELECT * FROM glob('/etc/*')", "SQL_REFUSED"),
    "COPY TO": ("COPY (SELECT 1) TO '/tmp/stolen.csv'", "SQL_NOT_SELECT"),
    "COPY FROM": ("COPY runs FROM '/etc/passwd'", "SQL_NOT_SELECT"),
    "ATTACH": ("ATTACH '/tmp/other.db'", "SQL_NOT_SELECT"),
    "INSTALL": ("INSTALL httpfs", "SQL_NOT_SELECT"),
    "LOAD": ("LOAD httpfs", "SQL_NOT_SELECT"),
    "EXPORT": ("EXPORT DATABASE '/tmp/stolen'", "SQL_NOT_SELECT"),
    "SET": ("SET enable_external_access = true", "SQL_NOT_SELECT"),
    "RESET": ("RESET memory_limit", "SQL_NOT_SELECT"),
    "PRAGMA": ("PRAGMA memory_limit = '8GB'", "SQL_NOT_SELECT"),
    "getenv": ("SELECT getenv('HOME')", "SQL_INVALID"),
    "secrets": ("SELECT * FROM duckdb_secrets()", "SQL_REFUSED"),
    "CALL": ("CALL enable_logging()", "SQL_NOT_SELECT"),
    "CREATE": ("CREATE TABLE t AS SELECT 1", "SQL_NOT_SELECT"),
    "INSERT": ("INSERT INTO runs VALUES (1)", "SQL_NOT_SELECT"),
    "UPDATE": ("UPDATE main.runs SET state = 'completed'", "SQL_NOT_SELECT"),
    "DELETE": ("DELETE FROM main.runs", "SQL_NOT_SELECT"),
    "DELETE in a CTE": ("WITH gone AS (DELETE FROM main.runs RETURNING *) SELECT * FROM gone", "SQL_REFUSED"),
    "two statements": ("SELECT 1; SELECT 2", "SQL_NOT_SELECT"),
    "a second one behind a comment": ("SELECT 1 -- ;\n; DROP TABLE main.runs", "SQL_NOT_SELECT"),
    "a second one in query()": ("SELECT * FROM query('SELECT 1; DROP TABLE main.runs')", "SQL_INVALID"),
    "NUL": ("SELECT 1 \0; DROP TABLE main.runs", "INVALID_FIELD"),
    "1,000 parentheses": (f"SELECT {'(' * 1000}1{')' * 1000}", "SQL_INVALID"),
    "a variable of Python": ("SELECT * FROM ask", "SQL_INVALID"),
    "10 MB of SQL": (f"SELECT '{'x' * 10_000_000}'", "SQL_TOO_LONG"),
    "nothing": (" -- ", "SQL_NOT_SELECT"),
}
SPENT = {
    "repeat": ("SELECT repeat('x', 1000000000)", "SQL_MEMORY"),
    "list_sum(range)": ("SELECT list_sum(range(200000000))", "SQL_MEMORY"),
    "a recursive CTE": ("WITH RECURSIVE r AS (SELECT 1 UNION ALL FROM r) SELECT count(*) FROM r", "SQL_TIME"),
    "a cross join": ("SELECT count(*) FROM events a, events b, events c", "SQL_TIME"),
    "what DuckDB cannot stop": ("SELECT levenshtein(repeat('a', 150000), repeat('b', 150000))", "SQL_TIME"),
    "many rows": ("FROM range(10000000)", "SQL_ROWS"),
    "many bytes": ("SELECT repeat('x', 10000) FROM range(10000)", "SQL_BYTES"),
    "a large row": ("SELECT repeat('x', 5000000)", "SQL_ROW"),
}
ALLOWED = {
    "comments": "SELECT /* ; DROP TABLE main.runs; */ 1 -- ; DROP TABLE main.runs",
    "settings": "SELECT current_setting('temp_directory'), * FROM pragma_database_list",
    "its own copy": "SELECT size FROM read_blob('ledger.duckdb')",
}


def outcomes(here: Asked, questions: dict[str, str]) -> tuple[dict[str, str], float]:
    """How each question ended, "" for an answer; and the longest that a call of GetStatus took meanwhile."""
    slowest = 0.0
    with ThreadPoolExecutor(LIMITS.queries) as others:
        asking = {name: others.submit(here.rows, sql) for name, sql in questions.items()}
        while not all(one.done() for one in asking.values()):
            started = time.monotonic()
            here.client.ledger_status()
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.02)
    ended = {}
    for name, one in asking.items():
        error = one.exception()
        ended[name] = ""
        if error is not None:
            assert isinstance(error, SwellError), f"{name}: {error}"
            assert error.code in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, f"{name}: {error}"
            assert len(error.message) < 3000
            ended[name] = error.reason
    return ended, slowest


def test_what_is_no_harmless_question_is_refused(busy):
    asked_of_it = {
        name: (sql, expected)
        for name, (sql, expected) in REFUSED.items()
        if expected != "SQL_NOT_SELECT" or name in {"COPY TO", "two statements", "nothing"}
    }
    ended, slowest = outcomes(busy, {name: sql for name, (sql, _) in asked_of_it.items()})
    assert ended == {name: expected for name, (_, expected) in asked_of_it.items()}
    assert slowest < 1
    assert gone(busy)


@pytest.mark.parametrize("name", [name for name, (_, expected) in REFUSED.items() if expected == "SQL_NOT_SELECT"])
def test_what_is_not_one_select_never_meets_a_database(name):
    """The check that the process makes before it is told where the copy is."""
    sql, _ = REFUSED[name]
    with duckdb.connect() as connection, pytest.raises(RefusedError) as caught:
        the_one_select(connection, sql)
    assert caught.value.failure == "not_select"


def test_what_takes_too_much_ends_and_says_which_limit_to_raise(busy):
    started = time.monotonic()
    ended, slowest = outcomes(busy, {name: sql for name, (sql, _) in SPENT.items()})
    assert ended == {name: expected for name, (_, expected) in SPENT.items()}
    assert slowest < 1
    assert time.monotonic() - started < 3 * LIMITS.timeout_s + 10
    assert gone(busy)


def test_what_looks_bad_and_is_harmless_is_answered(busy):
    ended, slowest = outcomes(busy, ALLOWED)
    assert ended == dict.fromkeys(ALLOWED, "")
    assert slowest < 1


def test_the_document_tells_every_item_with_its_outcome():
    rows = re.findall(r"^\| ([^|]+?) \| (refused|killed|bounded|answered)[^|]* \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == {*REFUSED, *SPENT, *ALLOWED}
    told = dict(rows)
    assert {told[name] for name in REFUSED} == {"refused"}
    assert {told[name] for name in SPENT} == {"killed", "bounded"}
    assert {told[name] for name in ALLOWED} == {"answered"}


def test_settings_tell_no_place_but_the_questions_own(busy):
    found = busy.rows("SELECT value FROM duckdb_settings() WHERE value LIKE '%/%'") + busy.rows(
        "SELECT file FROM pragma_database_list"
    )
    folder = str(busy.snapshots.folder)
    places = [text for (text,) in found if text.startswith(("/", "[/"))]
    assert all(folder in text for text in places)


def test_a_question_that_is_too_long_for_the_service_says_so(busy):
    """Past the client's own limit the server's stands, and names both sizes."""
    request = busy.client._ledger_pb2.QueryRequest(sql=f"SELECT '{'x' * 100_000}'")
    with pytest.raises(busy.client._grpc.RpcError) as caught:
        list(busy.client._ledger.Query(request))
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"
    assert "65536" in caught.value.details()


def test_an_error_in_the_text_is_told_as_duckdb_tells_it(ledger):
    with pytest.raises(SwellError) as caught:
        ledger.rows("SELECT stat FROM runs")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "Did you mean" in caught.value.message or "Candidate" in caught.value.message


# Limits that the service holds


def test_more_questions_than_allowed_are_refused(tmp_path):
    slow = "SELECT count(*) FROM range(100000) a, range(100000) b"
    with asked(tmp_path, rich(), limits=Limits(queries=1, timeout_s=0.5)) as here, ThreadPoolExecutor(1) as other:
        asking = other.submit(here.rows, slow)
        while not here.questions.under_way:
            time.sleep(0.01)
        with pytest.raises(SwellError) as caught:
            here.rows("SELECT 1")
        assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "SQL_BUSY")
        assert asking.exception().reason == "SQL_TIME"
        assert here.rows("SELECT 1") == [(1,)]


async def at_once(here: Asked, count: int) -> list[str]:
    async def asking() -> str:
        try:
            return str([part async for part in here.questions.answer("SELECT 1")][-1])
        except RpcError as error:
            return error.reason

    return await asyncio.gather(*(asking() for _ in range(count)))


def test_questions_of_the_same_instant_are_counted(ledger):
    said = ledger.run(at_once(ledger, LIMITS.queries + 3))
    assert said.count("SQL_BUSY") == 3, said
    assert gone(ledger)


def test_a_question_that_its_process_could_not_read_is_refused_before_it(ledger):
    """Each of these characters takes six bytes in the line that the process reads."""
    with pytest.raises(RpcError) as caught:
        ledger.run(anext(ledger.questions.answer(f"SELECT '{chr(1) * 180_000}'")))
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.message.startswith("sql: it takes 10")


def test_a_caller_who_leaves_takes_the_process_along(busy):
    for _ in range(3):
        call = busy.client.query("SELECT a.payload FROM events a, events b")
        next(call)
        next(call)
        assert busy.questions.under_way == 1
        call.close()
        assert gone(busy)


async def stalled(here: Asked) -> tuple[int, int, str]:
    """Take one part and no more; parts waiting meanwhile, questions under way after the time limit, and how it ended."""
    answer = here.questions.answer("SELECT a.payload FROM events a, events b")
    await anext(answer)
    async with asyncio.timeout(GONE_S):
        while here.questions.under_way:  # noqa: ASYNC110 - as a caller sees it
            await asyncio.sleep(0.05)
    parts = 0
    try:
        async for _ in answer:
            parts += 1
    except RpcError as error:
        return parts, here.questions.under_way, error.reason
    return parts, here.questions.under_way, ""


def test_a_caller_who_stops_reading_holds_neither_process_nor_memory(busy):
    parts, under_way, reason = busy.run(stalled(busy))
    assert parts <= 2
    assert under_way == 0
    assert reason == "SQL_TIME"
    assert gone(busy)


def test_a_process_whose_ledger_is_gone_ends(busy, tmp_path):
    """What kills it otherwise died first: its input ends, and so does it."""
    busy.rows("SELECT 1")
    (tmp_path / DATABASE).hardlink_to(busy.snapshots.newest.file)
    slow = "SELECT count(*) FROM range(10000000) a, range(10000000) b"
    ask = Ask(sql=slow, arrow=False, rows_max=1, bytes_max=1, memory_bytes=2**28, timeout_s=60)

    async def orphaned() -> int:
        process = await spawn_piped(child("answer"), cwd=tmp_path, env=environment(), buffer_bytes=1024)
        await process.send(msgspec.json.encode(ask) + b"\n\n")
        await process.stdout.readexactly(5)
        process.close_input()
        async with asyncio.timeout(GONE_S):
            await process.stdout.read()
        return (await process.end())[0]

    assert busy.run(orphaned()) == 0


# The copies


def test_one_copy_serves_everybody_until_it_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr("services.ledger.snapshots.AGE_PER_MAKING", 0)
    with asked(tmp_path, rich(), limits=LIMITS, age_s=1.0) as here, ThreadPoolExecutor(4) as pool:
        first = list(pool.map(here.rows, ["SELECT position FROM ledger"] * 4))
        assert here.folders("copy") == ["copy-1"], "asked by four at once, made once"
        assert first == [[(len(here.log.records),)]] * 4
        here.run(extended(here))
        time.sleep(1.0)
        assert here.rows("SELECT position FROM ledger") == [(here.absorber.position,)]
        assert here.folders("copy") == ["copy-2"], "the old one is gone"


async def extended(here: Asked) -> None:
    story = Story()
    story.records = list(here.log.records)
    story.accepted("z", run=f"r{len(story.records)}")
    here.log.extend(story.records[len(here.log.records) :])
    while here.absorber.position < len(here.log.records):  # noqa: ASYNC110 - the gauge is what is public
        await asyncio.sleep(0.002)


def test_who_names_a_position_reads_it(tmp_path):
    with asked(tmp_path, rich(), limits=LIMITS, age_s=60) as here:
        here.rows("SELECT 1")
        here.run(extended(here))
        now = here.absorber.position
        assert here.rows("SELECT position FROM ledger") < [(now,)]
        assert here.rows("SELECT position FROM ledger", min_position=now) == [(now,)]
        with pytest.raises(RpcError) as caught:
            here.run(anext(here.questions.answer("SELECT 1", min_position=now + 1)))
        assert caught.value.reason == "LEDGER_BEHIND"


def test_a_copy_that_nobody_asks_is_removed_and_so_is_what_a_kill_left(tmp_path):
    left = tmp_path / "l.sql" / "copy-9"
    left.mkdir(parents=True)
    (left / "ledger.duckdb").write_bytes(b"half")
    with asked(tmp_path, rich(), limits=LIMITS, idle_s=0.3) as here:
        assert here.folders("") == []
        here.rows("SELECT 1")
        deadline = time.monotonic() + GONE_S
        while here.folders("copy") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert here.folders("") == []
        assert here.rows("SELECT 1") == [(1,)]
    assert not (tmp_path / "l.sql").exists()


async def test_who_stops_does_not_wait_for_a_copy_to_be_made_ready(tmp_path, monkeypatch):
    slow = [sys.executable, "-c", "import time; time.sleep(8)"]
    monkeypatch.setattr("services.ledger.snapshots.child", lambda _use: slow)
    with contextlib.closing(Store.open(tmp_path / "l")) as store:
        snapshots = Snapshots(store)
        asking = asyncio.create_task(snapshots.linked(tmp_path / "linked", 0))
        while not snapshots._preparing:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await snapshots.close()
        assert time.monotonic() - began < 4
        with pytest.raises(RpcError, match="the ledger stops"):
            await asking
        assert not snapshots.folder.exists()


def test_without_room_for_a_copy_questions_are_refused_and_the_ledger_goes_on(tmp_path, monkeypatch):
    with asked(tmp_path, rich(), limits=LIMITS) as here:
        monkeypatch.setattr("services.ledger.store.JOURNAL_BYTES", 2**60)
        with pytest.raises(RpcError) as caught:
            here.run(anext(here.questions.answer("SELECT 1")))
        assert (caught.value.code.name, caught.value.reason) == ("UNAVAILABLE", "SNAPSHOT_FAILED")
        assert "make room" in caught.value.message
        here.run(extended(here))
        assert here.folders("") == []


# The command line


@pytest.fixture
def swell(ledger, monkeypatch):
    monkeypatch.setenv("SWELL_SCHEDULER", ledger.address)
    monkeypatch.setenv("SWELL_LEDGER", ledger.address)
    return lambda *words: CliRunner().invoke(app, ["sql", *map(str, words)])


COSTS = "SELECT run, cost_usd, labels, finished_at FROM runs ORDER BY run"


def test_answers_are_written_as_a_table_csv_json_and_parquet(swell, tmp_path):
    swell(COSTS)  # a copy is made, and the ledger of this process says so
    shown = swell(COSTS)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[1].split()[:3] == ["r1", "1.234567891", "{}"]
    assert "2 rows, as of position" in shown.stderr
    rows = list(csv.DictReader(io.StringIO(swell(COSTS, "--format", "csv").stdout)))
    assert [(row["run"], row["cost_usd"]) for row in rows] == [("r1", "1.234567891"), ("r2", "0.000000000")]
    told = json.loads(swell(COSTS, "--format", "json").stdout, parse_float=Decimal)
    assert told[0]["cost_usd"] == Decimal("1.234567891")
    assert told[0]["labels"] == {}
    assert told[1]["finished_at"] is None
    assert [json.loads(line)["run"] for line in swell(COSTS, "-f", "jsonl").stdout.splitlines()] == ["r1", "r2"]
    target = tmp_path / "costs.parquet"
    assert swell(COSTS.replace("run,", "run, run,", 1), "-f", "parquet", "-o", target).exit_code == 0
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT run, run_1, cost_usd FROM '{target}'").fetchall()  # noqa: S608 - a path of ours
    assert found == [("r1", "r1", Decimal("1.234567891")), ("r2", "r2", Decimal("0.000000000"))]
    assert [file.name for file in tmp_path.iterdir()] == ["costs.parquet"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def columns(*names: str) -> list[QueryColumn]:
    return [QueryColumn(name=name, type="VARCHAR") for name in names]


@pytest.mark.parametrize(
    ("names", "row", "line"),
    [
        (("a", "b"), (None, ""), ',""'),
        (("a",), (None,), '""'),
        (("a", "b"), ("=1+1", "\x1b[31m"), "=1+1,\x1b[31m"),
        (("a", "b"), ('say "x"', "1,2"), '"say ""x""","1,2"'),
        (("a", "b"), ("one\r\ntwo", b"\x00\xff"), '"one\r\ntwo",00ff'),
    ],
)
def test_csv_holds_values_as_they_are_and_tells_nothing_from_empty(names, row, line):
    out = io.StringIO(newline="")
    assert _csv(columns(*names), iter([row]), out) == 1
    assert out.getvalue() == ",".join(names) + "\r\n" + line + "\r\n"
    read = [*csv.reader(io.StringIO(out.getvalue(), newline=""))]
    assert read[1] == ["" if value is None else value.hex() if isinstance(value, bytes) else value for value in row]


def test_csv_steers_no_terminal():
    out = Terminal(newline="")
    _csv(columns("\x1b[2J"), iter([("\x1b[31m\u202e",)]), out)
    assert out.getvalue() == "\\x1b[2J\r\n\\x1b[31m\\u202e\r\n"


@pytest.mark.parametrize(("width", "longest"), [(80, 80), (40, 40)])
def test_a_table_fits_its_terminal(monkeypatch, width, longest):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [("r1", "x" * 50, "y" * 50, "12.50"), ("r2", "z", "", "3.00")]
    out = Terminal()
    assert _table(columns("run", "message", "reason", "cost_usd"), iter(rows), out) == 2
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) == longest
    assert lines[1].startswith("r1")
    assert lines[1].endswith("12.50")
    assert lines[1].count("…") == 2, "only the widest are cut"
    whole = io.StringIO()
    _table(columns("run", "message", "reason", "cost_usd"), iter(rows), whole)
    assert "y" * 50 in whole.getvalue()


def test_a_question_comes_from_standard_input(swell):
    shown = CliRunner().invoke(
        app, ["sql", "-", "--format", "csv"], input="SELECT count(*) AS runs\nFROM runs -- all\n"
    )
    assert shown.stdout.splitlines()[-2:] == ["runs", "2"]


def test_the_schema_is_told_with_its_comments(swell):
    shown = swell("--schema")
    assert shown.exit_code == 0, shown.output
    assert "runs: Every run" in shown.stdout
    line = next(line for line in shown.stdout.splitlines() if line.startswith("  cost_usd"))
    assert line.split()[1] == "DECIMAL(28,9)"
    assert "US dollars" in line


def test_what_cannot_be_asked_is_told_and_leaves_no_file(swell, tmp_path):
    target = tmp_path / "x.csv"
    shown = swell("SELECT nothing FROM runs", "-f", "csv", "-o", target)
    assert shown.exit_code == 2
    assert "nothing" in shown.stderr
    assert list(tmp_path.iterdir()) == []
    assert swell().exit_code == 2
    assert swell("SELECT 1", "--schema").exit_code == 2
    assert swell("SELECT 1", "-f", "parquet").exit_code == 2
    assert swell("SELECT range FROM range(10)", "--max-rows", 5).exit_code == 1
