"""Golden histories: logs as versions before wrote them, and the rows that they fold to. Written by

    python tests/ledger/golden_histories.py record NAME FILE   a new history, of the lines of `swell audit export --entries`
    python tests/ledger/golden_histories.py wire NAME KIND...  a new history, of the golden bytes of these kinds (tests/wire)
    python tests/ledger/golden_histories.py again NAME...      its rows anew, for a projection of another VERSION
    python tests/ledger/golden_histories.py schema [--again]   the digest of the schema under its VERSION

The tests only read what it wrote. `docs/events.md` says what may change; look at the difference before you commit it.
"""

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import msgspec  # noqa: E402

from services import events  # noqa: E402
from services.bus import Recorded  # noqa: E402
from services.ledger import patches, projector  # noqa: E402
from services.ledger.projector import Projector  # noqa: E402
from services.ledger.store import Store  # noqa: E402
from services.ledger.verify import KEYS, columns_in  # noqa: E402

GOLDEN = HERE / "golden"
DIGESTS = GOLDEN / "schemas.json"
WIRE = HERE.parent / "wire" / "golden"
SCHEMA = Path(projector.__file__).with_name("schema.sql")
ROWS = (
    projector.RunRow, projector.WaveRow, projector.WorkstreamRow, projector.AttemptRow, projector.ExecutorRow,
    projector.ToolBreakerRow, projector.PauseRow, patches.PatchRow,
)  # fmt: skip
VIEWS = {"aim_audit": ("timestamp", "tool_id", "payload", "result")}
NOT_KEPT = {("meta", "projection"), ("entries", "raw")}
"""Another one in any version; and what stands in the log beside it."""

Table = dict[str, Any]


def names() -> list[str]:
    """Every golden history."""
    return sorted(folder.name for folder in GOLDEN.iterdir() if (folder / "log.jsonl").exists())


def log_of(name: str) -> list[Recorded]:
    """The messages of a history."""
    return parsed((GOLDEN / name / "log.jsonl").read_text(encoding="utf-8"))


def parsed(text: str) -> list[Recorded]:
    """Messages from lines of JSON with `position`, `subject`, `time_ns` and `raw`."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [Recorded(one["position"], one["subject"], one["time_ns"], one["raw"].encode()) for one in lines]


def rows_of(name: str) -> dict[str, Table]:
    """The rows that a history is known to fold to, table by table."""
    found: dict[str, Table] = json.loads((GOLDEN / name / "rows.json").read_text(encoding="utf-8"))
    return found


def folded(file: Path, batches: list[list[Recorded]]) -> dict[str, Table]:
    """What the present projection makes of messages: all columns and rows of all tables."""
    opened = Store.open(file, readers=1)
    try:
        opened.bind(42)
        fold = Projector(opened.tip, opened)
        for batch in batches:
            opened.commit(fold.fold(batch))
        tables = {}
        for table, key in {**KEYS, **VIEWS}.items():
            columns = columns_in(opened, table)
            order = f" ORDER BY {', '.join(key)}" if key else ""
            rows = opened.read(f"SELECT * FROM {table}{order}")  # noqa: S608 - constants
            tables[table] = {"columns": columns, "rows": [[_plain(value) for value in row] for row in rows]}
        return tables
    finally:
        opened.close()


def known(table: Table, columns: list[str]) -> list[list[Any]]:
    """Rows with these columns alone. Raises KeyError for one that is gone."""
    places = {name: place for place, name in enumerate(table["columns"])}
    return [[row[places[name]] for name in columns] for row in table["rows"]]


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def schema_digest() -> str:
    """A digest of the schema but for comments and layout, and of the fields and defaults of the rows."""
    sql = " ".join(re.sub(r"--.*", "", SCHEMA.read_text(encoding="utf-8")).split())
    fields = [
        [row.__name__, *(f"{field.name}: {field.type} = {field.default!r}" for field in msgspec.structs.fields(row))]
        for row in ROWS
    ]
    shapes = [str(shape) for shape in (projector.EntryRow, projector.EventRow, projector.TransitionRow)]
    return hashlib.sha256(json.dumps([sql, fields, shapes]).encode()).hexdigest()


def digests() -> dict[str, str]:
    """The digest of the schema of each version that has one."""
    found: dict[str, str] = json.loads(DIGESTS.read_text())
    return found


def write_rows(name: str) -> None:
    """Fold a history and write its rows, one to a line."""
    with tempfile.TemporaryDirectory() as folder:
        tables = folded(Path(folder) / "l", [log_of(name)])
    parts = []
    for table, found in tables.items():
        keep = [column for column in found["columns"] if (table, column) not in NOT_KEPT]
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in known(found, keep))
        parts.append(f'{json.dumps(table)}: {{"columns": {json.dumps(keep)}, "rows": [\n{lines}\n]}}')
    (GOLDEN / name / "rows.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def record(name: str, file: Path) -> None:
    """Keep what stands in a file as a new history."""
    folder = GOLDEN / name
    if folder.exists():
        raise SystemExit(f"{folder} exists: what was recorded is for ever; take another name")
    keep(folder, parsed(file.read_text(encoding="utf-8")))


def wire(name: str, kinds: list[str]) -> None:
    """Keep the golden bytes of kinds, each on its subject, as a new history."""
    folder = GOLDEN / name
    if folder.exists():
        raise SystemExit(f"{folder} exists: what was recorded is for ever; take another name")
    source = Path(events.__file__).read_text(encoding="utf-8")
    parts = re.split(r"^# .*: subject `(.+)`$", source, flags=re.MULTILINE)[1:]
    subjects = {
        kind: subject
        for subject, body in zip(parts[::2], parts[1::2], strict=True)
        for kind in re.findall(r'tag="(\w+)"', body)
    }
    records: list[Recorded] = []
    for kind in kinds:
        for data in both_forms(WIRE / f"{kind}.json"):
            run = str(json.loads(data)["run"])
            subject = subjects[kind].replace("<run>", run).replace("<workstream>", "ws-a").replace("<attempt>", "1")
            position = len(records) + 1
            records.append(Recorded(position, subject, 1_790_000_000_000_000_000 + position * 1000, data))
    keep(folder, records)


def both_forms(file: Path) -> tuple[bytes, bytes]:
    """The golden bytes of a kind: every field set, and only what is required."""
    forms = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
    return bytes(forms["full"]), bytes(forms["minimal"])


def keep(folder: Path, records: list[Recorded]) -> None:
    """Write messages, and the rows that they fold to."""
    folder.mkdir(parents=True)
    lines = [
        {"position": one.sequence, "subject": one.subject, "time_ns": one.time_ns, "raw": one.data.decode()}
        for one in records
    ]
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    write_rows(folder.name)


def write_schema(*, again: bool) -> None:
    """Note the digest of the schema under its version."""
    GOLDEN.mkdir(exist_ok=True)
    known_digests = digests() if DIGESTS.exists() else {}
    version = str(projector.VERSION)
    if known_digests.get(version, schema_digest()) != schema_digest() and not again:
        raise SystemExit(
            f"version {version} has another schema already: raise VERSION in services/ledger/projector.py; "
            "--again is for a version that nobody has run yet"
        )
    known_digests[version] = schema_digest()
    DIGESTS.write_text(json.dumps(known_digests, indent=2) + "\n")


def main(arguments: list[str]) -> None:
    """Entry point."""
    match arguments:
        case ["record", name, file]:
            record(name, Path(file))
        case ["wire", name, *kinds] if kinds:
            wire(name, kinds)
        case ["again", *some] if some:
            for name in some:
                write_rows(name)
        case ["schema", *flags] if flags in ([], ["--again"]):
            write_schema(again=bool(flags))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
