"""The process that answers one question in SQL, and the one that makes a snapshot ready for questions.

It runs as a script, started anew for each, with an empty environment, in an empty folder of its own; services.ledger.sql
starts it, bounds it and kills it. What a question may do is decided four times:

* the text must parse as one statement of the type SELECT, before there is a database at all, and once more with it;
* the database is a copy that is opened read-only, without access to files, extensions, Python or further settings;
* the process gives itself limits before it has read a word of the text: memory, processor time, wall time, no file
  written, few open; and it ends when the service that started it does;
* the service counts wall time, rows and bytes as well, and kills it.

    sql_child.py answer     reads two lines of JSON: an `Ask`; then, once "checked" is said, an empty one that says that
                            `ledger.duckdb` is in the folder. Says frames; its input stays open until it may end.
    sql_child.py prepare    reads a `Prepare`, and makes the copy in its folder ready; prints a `Prepared`

A frame is its kind (one byte), the length of what follows (four bytes, big-endian), and that: JSON, but for rows
(MessagePack) and Arrow (bytes of an IPC stream, cut anywhere).
"""

import contextlib
import datetime as dt
import decimal
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import duckdb
import msgspec

DATABASE = "ledger.duckdb"
VIEWS = "swell"
"""The schema of the documented views."""

CHECKED, HEADER, ROWS, ARROW, END, FAILED = b"c", b"h", b"r", b"a", b"e", b"x"
FRAME_BYTES = 3 * 1024 * 1024
"""No frame is larger, so a row is not either: it stays below what clients of gRPC take, 4 MiB."""
BATCH_BYTES = 256 * 1024
BATCH_ROWS = 8192
MESSAGE_CHARACTERS = 2000
LINE_BYTES = 1024 * 1024
FILES_OPEN = 64

Failure = Literal["not_select", "invalid", "refused", "time", "memory", "rows", "bytes", "row", "failed"]
Kind = Literal["integers", "doubles", "booleans", "texts", "blobs"]

_INTEGERS = frozenset({"tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger"})
_DOUBLES = frozenset({"float", "double"})
_OUTSIDE = ("read-only", "configuration has been locked", "disabled by configuration", "disabled through configuration")
_SHORT_OF_MEMORY = ("out of memory", "bad_alloc", "bad allocation", "allocation failure", "could not allocate")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A question and its limits; `memory_bytes` is what the process may take on top of what it takes by itself."""

    sql: str
    arrow: bool
    rows_max: int
    bytes_max: int
    memory_bytes: int
    timeout_s: float


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    """`views` is the SQL that makes the documented views."""

    views: str
    memory_bytes: int


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """`position` is the newest that the copy holds."""

    position: int


class Column(msgspec.Struct, frozen=True):
    """A column of the answer; `type` as DuckDB writes it."""

    name: str
    type: str


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of the answer."""

    columns: list[Column]


class Values(msgspec.Struct, frozen=True):
    """The values of one column; where one is NULL its number is in `nulls`, and what stands in `values` means nothing."""

    kind: Kind
    values: list[Any]
    nulls: list[int]


class Rows(msgspec.Struct, frozen=True):
    """Some rows, column by column."""

    count: int
    columns: list[Values]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is whole."""

    rows: int


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """There is no answer, or no more of it."""

    failure: Failure
    message: str


class RefusedError(Exception):
    """A question that is not answered."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


# Limits


def _limit_early() -> None:
    """What holds before anything is read."""
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, FILES_OPEN)):
        resource.setrlimit(what, (most, most))
    os.nice(5)
    with contextlib.suppress(OSError):  # when memory runs out, this goes first
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(ask: Ask) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + ask.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = int(2 * ask.timeout_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _alarm(seconds: float) -> None:
    """Die in so many seconds, whatever is being done then; never for 0."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _die_with_the_input() -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


# The one statement


def the_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The statement that the text is. Raises RefusedError, duckdb.Error."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise RefusedError("not_select", f"{len(statements)} statements: ask one SELECT at a time")
    if statements[0].type is not duckdb.StatementType.SELECT:
        hint = "; give a PIVOT its values with IN (…)" if statements[0].type is duckdb.StatementType.MULTI else ""
        raise RefusedError(
            "not_select", f"a statement of the type {statements[0].type.name}: only SELECT is answered{hint}"
        )
    return statements[0]


def _opened(database: str, memory_bytes: int, timeout_s: float) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
        "memory_limit": f"{max(memory_bytes // 2 // 2**20, 16)}MB",
        "threads": 1,
        "async_threads": 1,
        "max_temp_directory_size": "0B",
        "max_execution_time": max(1, int(timeout_s * 1000)),
    }
    connection = duckdb.connect(database, read_only=database != ":memory:", config=settings)
    connection.execute("SET TimeZone = 'UTC'").fetchall()
    if database != ":memory:":
        connection.execute(f"SET search_path = '{VIEWS}'").fetchall()
    connection.execute("SET lock_configuration = true").fetchall()
    return connection


# The answer


class _Saying:
    """Frames on what was standard output, which nothing else writes to."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self.sent = 0

    def say(self, kind: bytes, data: bytes) -> None:
        rest = memoryview(kind + len(data).to_bytes(4, "big") + data)
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def say_json(self, kind: bytes, value: msgspec.Struct) -> None:
        self.say(kind, msgspec.json.encode(value))

    def part(self, kind: bytes, data: bytes, bytes_max: int) -> None:
        """A piece of the answer. Raises RefusedError when that is too much."""
        self.sent += len(data)
        if self.sent > bytes_max:
            raise RefusedError("bytes", f"the answer is larger than {bytes_max} bytes")
        self.say(kind, data)


def _answer(ask: Ask, saying: _Saying) -> int:
    """Say the header and the rows; how many those were."""
    connection = _opened(DATABASE, ask.memory_bytes, ask.timeout_s)
    relation = connection.sql(the_one_select(connection, ask.sql))
    if relation is None:
        raise RefusedError("not_select", "only SELECT is answered")
    types = [str(kind.id) for kind in relation.types]
    columns = [Column(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]
    casts = [_cast(kind, arrow=ask.arrow) for kind in types]
    if any(casts):
        names = (name.replace('"', '""') for name in relation.columns)
        relation = relation.project(
            ", ".join(f'#{at}{cast} AS "{name}"' for at, (cast, name) in enumerate(zip(casts, names, strict=True), 1))
        )
    saying.say_json(HEADER, Header(columns=columns))
    if ask.arrow:
        return _say_arrow(relation, ask, saying)
    found = connection.execute(the_one_select(connection, relation.sql_query()))
    return _say_rows(found, [_kind(kind) for kind in types], ask, saying)


def _cast(kind: str, *, arrow: bool) -> str:
    """What a column needs: a time with a zone cannot be read without one more library, an enum not be written to Arrow."""
    if kind == "timestamp with time zone":
        return "::TIMESTAMP"
    return "::VARCHAR" if kind == "time with time zone" or (arrow and kind == "enum") else ""


def _kind(kind: str) -> Kind:
    if kind in _INTEGERS:
        return "integers"
    if kind in _DOUBLES:
        return "doubles"
    return "booleans" if kind == "boolean" else "blobs" if kind == "blob" else "texts"


def _say_rows(found: duckdb.DuckDBPyConnection, kinds: Sequence[Kind], ask: Ask, saying: _Saying) -> int:
    total, size = 0, 256
    while batch := found.fetchmany(size):
        total += len(batch)
        if total > ask.rows_max:
            raise RefusedError("rows", f"the answer has more than {ask.rows_max} rows")
        said = 0
        for data in _packed(batch, kinds):
            said += len(data)
            saying.part(ROWS, data, ask.bytes_max)
        size = max(1, min(BATCH_ROWS, size * 4, len(batch) * BATCH_BYTES // max(said, 1)))
    return total


_packer = msgspec.msgpack.Encoder()


def _packed(batch: list[tuple[Any, ...]], kinds: Sequence[Kind]) -> Iterator[bytes]:
    """Rows in frames that fit; raises RefusedError for one row that does not."""
    columns = [_values(kind, values) for kind, values in zip(kinds, zip(*batch, strict=True), strict=True)]
    data = _packer.encode(Rows(len(batch), columns))
    if len(data) <= FRAME_BYTES:
        yield data
    elif len(batch) == 1:
        raise RefusedError("row", f"one row takes {len(data)} bytes, more than {FRAME_BYTES}")
    else:
        half = len(batch) // 2
        yield from _packed(batch[:half], kinds)
        yield from _packed(batch[half:], kinds)


_EMPTY: dict[Kind, Any] = {"integers": 0, "doubles": 0.0, "booleans": False, "texts": "", "blobs": b""}


def _values(kind: Kind, values: Sequence[Any]) -> Values:
    nulls = [at for at, value in enumerate(values) if value is None]
    empty = _EMPTY[kind]
    if kind == "texts":
        return Values(kind, [empty if value is None else _text(value) for value in values], nulls)
    return Values(kind, [empty if value is None else value for value in values] if nulls else list(values), nulls)


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case decimal.Decimal():
            return format(value, "f")
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case list() | tuple() | dict():
            try:
                return msgspec.json.encode(value, enc_hook=_text).decode()
            except (TypeError, ValueError):  # a map with keys that JSON has not
                return str(value)
        case bytes():
            return value.hex()
        case _:
            return str(value)


class _Pipe:
    """What an Arrow stream is written to."""

    def __init__(self, saying: _Saying, bytes_max: int) -> None:
        self._saying = saying
        self._bytes_max = bytes_max
        self.failed: Exception | None = None

    def write(self, data: memoryview) -> int:
        whole = bytes(data)
        try:
            for start in range(0, len(whole), BATCH_BYTES):
                self._saying.part(ARROW, whole[start : start + BATCH_BYTES], self._bytes_max)
        except Exception as error:
            self.failed = error  # the library that calls this tells only its text
            raise
        return len(whole)


def _say_arrow(relation: duckdb.DuckDBPyRelation, ask: Ask, saying: _Saying) -> int:
    import nanoarrow  # type: ignore[import-untyped]  # noqa: PLC0415 - only who asks for Arrow waits for it
    from nanoarrow.ipc import StreamWriter  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    total = 0
    pipe = _Pipe(saying, ask.bytes_max)
    stream = nanoarrow.c_array_stream(relation)
    writer = StreamWriter.from_writable(pipe)
    try:
        writer.write_stream(nanoarrow.c_array_stream([], schema=stream.get_schema()))
        for array in stream:
            total += array.length
            if total > ask.rows_max:
                raise RefusedError("rows", f"the answer has more than {ask.rows_max} rows")
            writer.write_array(array)
        writer.close()
    except nanoarrow.NanoarrowException as error:
        raise pipe.failed or RefusedError(
            "invalid", f"this cannot be written as Arrow: {error}; cast it, or ask for rows"
        ) from error
    return total


# What went wrong


def _failed(error: BaseException) -> Failed:
    text = str(error)
    low = text.lower()
    failure: Failure
    match error:
        case RefusedError():
            failure = error.failure
        case duckdb.InterruptException():
            failure = "time"
        case duckdb.OutOfMemoryException() | MemoryError():
            failure = "memory"
        case _ if any(sign in low for sign in _SHORT_OF_MEMORY):
            failure = "memory"
        case duckdb.PermissionException():
            failure = "refused"
        case duckdb.InvalidInputException() if any(sign in text for sign in _OUTSIDE):
            failure = "refused"
        case duckdb.InternalException() | duckdb.FatalException() | duckdb.IOException():
            failure = "failed"
        case duckdb.Error() | RecursionError() | OverflowError() | ValueError():
            failure = "invalid"
        case _:
            failure = "failed"
            text = f"{type(error).__name__}: {text}"
    return Failed(failure=failure, message=text[:MESSAGE_CHARACTERS])


# The two uses


def answer() -> NoReturn:
    """Answer one question; never returns."""
    _limit_early()
    saying = _Saying()
    ask = msgspec.json.decode(sys.stdin.buffer.readline(LINE_BYTES), type=Ask)
    _limit(ask)
    try:
        _alarm(2 * ask.timeout_s)
        the_one_select(_opened(":memory:", ask.memory_bytes, ask.timeout_s), ask.sql)
        saying.say(CHECKED, b"")
        _alarm(0)
        if not sys.stdin.buffer.readline(LINE_BYTES):
            os._exit(0)
        _alarm(2 * ask.timeout_s)
        _die_with_the_input()
        saying.say_json(END, End(rows=_answer(ask, saying)))
    except BrokenPipeError:
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - whatever it was, the service is told
        said = _failed(error)
        del error
        saying.say_json(FAILED, said)
    os._exit(0)


def prepare() -> None:
    """Take the journal of the copy into it, and add the views."""
    os.nice(10)
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Prepare)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": f"{max(given.memory_bytes // 2**20, 32)}MB",
        "threads": 1,
        "fsync_mode": "NONE",
    }
    with duckdb.connect(DATABASE, config=settings) as connection:
        connection.execute(given.views)
        connection.execute("CHECKPOINT").fetchall()
        ((position,),) = connection.execute("SELECT position FROM main.meta").fetchall()
    sys.stdout.write(msgspec.json.encode(Prepared(position=position)).decode())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["answer"]:
            answer()
        case ["prepare"]:
            prepare()
        case _:
            raise SystemExit(__doc__)
