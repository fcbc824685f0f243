"""Schema evolution: what was written once folds for ever, to the rows that are known of it; another schema has another VERSION."""

import contextlib
import json
from pathlib import Path

import duckdb
import golden_histories as golden
import msgspec
import pytest
from ledger_histories import steady
from test_ledger_store import absorb

from services import events as ev
from services.bus import Recorded
from services.ledger import projector
from services.ledger.store import Store

MEND = "python tests/ledger/golden_histories.py"


@pytest.mark.parametrize("name", golden.names())
def test_what_a_version_wrote_folds_to_the_rows_that_are_known_of_it(tmp_path, name):
    """New tables and columns may come; those that are known are there, and hold what they held. Batches make no difference."""
    records = golden.log_of(name)
    third = len(records) // 3
    found = golden.folded(tmp_path / "l", [records[:third], records[third:]])
    for table, rows in golden.rows_of(name).items():
        assert table in found, f"the table {table} is gone: keep it, or a view of that name"
        gone = set(rows["columns"]) - set(found[table]["columns"])
        assert not gone, f"{table} has lost {sorted(gone)}: keep them"
        assert golden.known(found[table], rows["columns"]) == rows["rows"], (
            f"{table} holds other rows than before. If that is meant, raise VERSION in services/ledger/projector.py, "
            f"then `{MEND} again {name}`, and look at the difference"
        )


def test_every_kind_of_event_stands_in_a_history():
    seen = {
        row[2]
        for name in golden.names()
        for row in golden.known(golden.rows_of(name)["events"], ["position", "idx", "kind"])
    }
    kinds = {str(kind.__struct_config__.tag) for kind in ev.AnyEvent.__args__}
    missing = kinds - seen
    assert not missing, f"no golden history holds {sorted(missing)}: `{MEND} wire NAME {' '.join(sorted(missing))}`"


def test_a_schema_of_its_own_has_a_version_of_its_own():
    version = str(projector.VERSION)
    known = golden.digests()
    assert version in known, f"version {version} is new: note its schema with `{MEND} schema`"
    assert known[version] == golden.schema_digest(), (
        "services/ledger/schema.sql or a row of services/ledger/projector.py has changed, and files of version "
        f"{version} are of another shape: raise VERSION in services/ledger/projector.py, then `{MEND} schema`. "
        "(`--again` if nobody has run this version yet.)"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda sql: sql.replace("attempts INTEGER NOT NULL", "attempts BIGINT NOT NULL", 1),
        lambda sql: sql + "\nCREATE VIEW more AS SELECT 1 AS one;",
        lambda sql: sql.replace("    state VARCHAR NOT NULL,\n", "", 1),
    ],
    ids=["a type", "a view", "a column"],
)
def test_any_change_of_the_schema_has_another_digest(tmp_path, monkeypatch, change):
    sql = golden.SCHEMA.read_text()
    before = golden.schema_digest()
    monkeypatch.setattr(golden, "SCHEMA", tmp_path / "schema.sql")
    golden.SCHEMA.write_text(sql.replace("\n\n--", "\n\n-- Another comment.\n--"))
    assert golden.schema_digest() == before
    golden.SCHEMA.write_text(change(sql))
    assert golden.schema_digest() != before


def test_any_change_of_a_row_has_another_digest(monkeypatch):
    before = golden.schema_digest()
    wider = msgspec.defstruct("PauseRow", [("more", str, "")], bases=(projector.PauseRow,), kw_only=True, frozen=True)
    monkeypatch.setattr(golden, "ROWS", (*golden.ROWS[:-2], wider, golden.ROWS[-1]))
    assert golden.schema_digest() != before


# Versions to come


def with_more(record: Recorded) -> Recorded:
    """The same entry as a later version could have written it: with fields that this one does not know."""
    try:
        entry = json.loads(record.data)
    except ValueError:
        return record
    entry = {"first": [None, 1e9], **entry, "of_tomorrow": {"deep": {"x": [{}]}}}
    entry["events"] = [
        {"of_tomorrow": "née", **event, "of_another_day": [1, {"kind": "x"}]} for event in entry["events"]
    ]
    return msgspec.structs.replace(record, data=json.dumps(entry).encode())


def test_fields_of_tomorrow_change_no_row(tmp_path):
    """Only the bytes, their hash, and the payload that is told of them are others."""
    plain = golden.log_of("version-7")
    rows = golden.folded(tmp_path / "plain", [plain])
    more = golden.folded(tmp_path / "more", [[with_more(record) for record in plain]])
    other = {"entries": {"raw", "hash"}, "events": {"payload"}, "meta": {"hash"}}
    for table, found in rows.items():
        columns = [name for name in found["columns"] if name not in other.get(table, ())]
        assert golden.known(more[table], columns) == golden.known(found, columns), table


def test_kinds_of_tomorrow_are_kept_as_they_came():
    events = golden.rows_of("tomorrow")["events"]
    payloads = {row[0]: row[1] for row in golden.known(events, ["kind", "payload"])}
    assert json.loads(payloads["workstream_split"])["into"] == ["w0a", "w0b"]


# Files of versions before


def older(file: Path, records: list[Recorded]) -> None:
    """A file as version 6 of the projection made it, with its own tables."""
    with duckdb.connect(str(file)) as connection:
        connection.execute((golden.GOLDEN / "schema-6.sql").read_text())
        connection.execute("INSERT INTO meta VALUES (6, 42, ?, 'id', ?)", [len(records), bytes(32)])
        for record in records:
            connection.execute(
                "INSERT INTO entries VALUES (?, ?, '', 'id', 'by', 1, ?, '', ?, ?)",
                [record.sequence, record.subject, record.time_ns, bytes(32), record.data],
            )
        columns = connection.execute("SELECT count(*) FROM duckdb_columns() WHERE table_name = 'attempts'").fetchall()
        assert columns[0][0] < len(projector.AttemptRow.__struct_fields__), "it is of another layout"


@pytest.mark.parametrize("version_told", [6, projector.VERSION])
def test_a_file_of_an_older_layout_is_moved_aside_and_rebuilt_equal(tmp_path, version_told):
    """Also one that says that it is of this version: its tables are looked at."""
    records = steady(1, 3)
    older(tmp_path / "l", records)
    if version_told != 6:
        with duckdb.connect(str(tmp_path / "l")) as hand:
            hand.execute("DROP TABLE patches")
            hand.execute("UPDATE meta SET projection = ?", [version_told])
    with contextlib.closing(Store.open(tmp_path / "l")) as store:
        assert (store.made_anew, store.tip.position) == (True, 0)
    with duckdb.connect(str(tmp_path / "l.corrupt-1"), read_only=True) as aside:
        assert aside.execute("SELECT count(*) FROM entries").fetchall() == [(len(records),)], "nothing of it is lost"
    assert absorb(tmp_path / "l", [records]) == absorb(tmp_path / "anew", [records])
