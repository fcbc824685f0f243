"""Questions in SQL: one process each, started for it, bounded from outside, and killed.

services/ledger/sql_child.py says what the process itself refuses. Here stand the limits that do not depend on it: how many
there are at a time, wall time from the start to the last row taken, the size of what it says, and that nothing of it stays.
A question whose caller left, or takes nothing, is killed like any other: what waits for the caller is bounded by two frames.
"""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncGenerator

import grpc
import msgspec
import structlog

from services.ledger import sql_child
from services.ledger.snapshots import Snapshots, child, environment
from services.ledger.sql_child import Ask, Column, End, Failed, Header, Rows
from services.process import Piped, ProcessError, spawn_piped
from services.rpc import RpcError, invalid

log = structlog.get_logger()

KILL_S = 1.0
"""DuckDB ends most questions at their time limit by itself, and says so; what it cannot end is killed so much later."""
START_S = 10.0
"""What the process may take to start, on a machine that is busy."""
FRAMES_WAITING = 2
BUFFER_BYTES = 256 * 1024
TEXT_CHARACTERS = 2000

_headers = msgspec.json.Decoder(Header)
_ends = msgspec.json.Decoder(End)
_failures = msgspec.json.Decoder(Failed)
_rows = msgspec.msgpack.Decoder(Rows)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one question may take, and how many there may be at a time; as in services.ledger.config."""

    queries: int = 2
    timeout_s: float = 30.0
    memory_mb: int = 512
    rows_max: int = 1_000_000
    bytes_max: int = 64 * 1024**2


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """The first of an answer: its columns, the position it reflects, and how old that is."""

    columns: list[Column]
    position: int
    age_s: float


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The last of an answer."""

    rows: int
    wall_s: float


Part = Beginning | Rows | bytes | Ending


class Questions:
    """Answers questions in SQL about the copies of one ledger. `under_way`: how many it answers now."""

    def __init__(self, snapshots: Snapshots, limits: Limits) -> None:
        """Answer within `limits`."""
        self._snapshots = snapshots
        self._limits = limits
        self._asked = 0
        self.under_way = 0

    async def answer(
        self, sql: str, *, arrow: bool = False, rows_max: int = 0, min_position: int = 0
    ) -> AsyncGenerator[Part, None]:
        """The parts of an answer: its beginning, then rows or (`arrow`) bytes, then its ending.

        Close it, however it ends. Raises RpcError.
        """
        if not sql.strip():
            raise invalid("sql", "there is no question: give one SELECT")
        if "\0" in sql:
            raise invalid("sql", "it holds a NUL character: leave it out")
        if rows_max < 0 or min_position < 0:
            raise invalid("rows_max" if rows_max < 0 else "min_position", "it is negative: give 0 or more")
        limits = self._limits
        if self.under_way >= limits.queries:
            raise RpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "SQL_BUSY",
                f"{self.under_way} questions are under way, and the ledger answers {limits.queries} at a time: try again, or "
                "raise `sql_queries`",
            )
        ask = Ask(
            sql=sql,
            arrow=arrow,
            rows_max=min(rows_max or limits.rows_max, limits.rows_max),
            bytes_max=limits.bytes_max,
            memory_bytes=limits.memory_mb * 2**20,
            timeout_s=limits.timeout_s,
        )
        line = msgspec.json.encode(ask) + b"\n"
        if len(line) > sql_child.LINE_BYTES:
            raise invalid(
                "sql", f"it takes {len(line)} bytes as JSON, more than {sql_child.LINE_BYTES}: ask with a shorter text"
            )
        parts: asyncio.Queue[Part | None] = asyncio.Queue()
        room = asyncio.Semaphore(FRAMES_WAITING)
        self.under_way += 1  # at once: the next caller may be checked before the task begins
        asking = asyncio.create_task(self._ask(ask, line, min_position, parts, room))

        def over(_asking: asyncio.Task[None]) -> None:
            self.under_way -= 1
            parts.put_nowait(None)

        asking.add_done_callback(over)  # it may be cancelled before it begins
        try:
            while (part := await parts.get()) is not None:
                yield part
                room.release()
            await asking
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            if not asking.cancelled():
                asking.exception()  # nobody waits for it when the caller has left

    async def _ask(
        self, ask: Ask, line: bytes, min_position: int, parts: asyncio.Queue[Part | None], room: asyncio.Semaphore
    ) -> None:
        """Put every part of an answer. `line` is the question as its process reads it."""
        self._asked += 1
        folder = self._snapshots.folder / f"question-{self._asked}"
        try:
            folder.mkdir(parents=True, mode=0o700)
            process = await spawn_piped(child("answer"), cwd=folder, env=environment(), buffer_bytes=BUFFER_BYTES)
            question = _Question(process, ask, self._limits.rows_max, parts, room)
            try:
                await question.check(line)
                copy = await self._snapshots.linked(folder / sql_child.DATABASE, min_position)
                await question.follow(copy.position, copy.age_s)
            except msgspec.MsgspecError as error:
                raise question.broken(f"it said what nobody understands ({error})") from error
            finally:
                await _ended(process)
        except (OSError, ProcessError) as error:
            raise RpcError(
                grpc.StatusCode.UNAVAILABLE, "SQL_UNAVAILABLE", f"no process for the question: {error}; try again"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


async def _ended(process: Piped) -> tuple[int, str]:
    """Its exit code and complaint once it is dead, also for a caller that is being cancelled."""
    process.kill()
    return await asyncio.shield(asyncio.ensure_future(process.end()))


class _Question:
    def __init__(
        self, process: Piped, ask: Ask, rows_max: int, parts: asyncio.Queue[Part | None], room: asyncio.Semaphore
    ) -> None:
        self._process = process
        self._ask = ask
        self._rows_max = rows_max
        self._parts = parts
        self._room = room
        self._said_bytes = 0

    async def check(self, line: bytes) -> None:
        """Whether it is a question at all, before there is anything to ask it of."""
        try:
            async with asyncio.timeout(self._ask.timeout_s + START_S):
                await self._process.send(line)
                await self._frame(sql_child.CHECKED)
        except TimeoutError as error:
            raise self._late("to be read") from error

    async def follow(self, position: int, age_s: float) -> None:
        """Take the answer as it comes, as fast as the caller does."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._ask.timeout_s + KILL_S):
                await self._process.send(b"\n")
                _, data = await self._frame(sql_child.HEADER)
                await self._put(Beginning(columns=_headers.decode(data).columns, position=position, age_s=age_s))
                while True:
                    kind, data = await self._frame(sql_child.ROWS, sql_child.ARROW, sql_child.END)
                    if kind == sql_child.END:
                        break
                    await self._put(_rows.decode(data) if kind == sql_child.ROWS else data)
        except TimeoutError as error:
            raise self._late("to be answered") from error
        self._parts.put_nowait(Ending(rows=_ends.decode(data).rows, wall_s=time.monotonic() - started))

    async def _put(self, part: Part) -> None:
        await self._room.acquire()
        self._parts.put_nowait(part)

    async def _frame(self, *expected: bytes) -> tuple[bytes, bytes]:
        """The next frame of these kinds; raises RpcError for every other outcome."""
        try:
            head = await self._process.stdout.readexactly(5)
            size = int.from_bytes(head[1:], "big")
            self._said_bytes += size
            if size > sql_child.FRAME_BYTES or self._said_bytes > self._ask.bytes_max + 2 * sql_child.FRAME_BYTES:
                raise self.broken("it said more than it may")
            data = await self._process.stdout.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise await self._dead() from error
        kind = head[:1]
        if kind == sql_child.FAILED:
            raise self._failed(_failures.decode(data))
        if kind not in expected:
            raise self.broken(f"it said {kind!r} out of turn")
        return kind, data

    def _late(self, what: str) -> RpcError:
        return RpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SQL_TIME",
            f"the question took more than {self._ask.timeout_s:g} s {what} and taken: ask for less, take the answer faster, or "
            "raise `sql_timeout_s`",
            {"timeout_s": f"{self._ask.timeout_s:g}"},
        )

    def broken(self, what: str) -> RpcError:
        log.error("ledger.sql_broken", what=what, sql=self._ask.sql[:TEXT_CHARACTERS])
        return RpcError(grpc.StatusCode.INTERNAL, "SQL_BROKEN", f"the question's process was killed: {what}")

    async def _dead(self) -> RpcError:
        code, complaint = await _ended(self._process)
        log.warning("ledger.sql_died", exit_code=code, complaint=complaint, sql=self._ask.sql[:TEXT_CHARACTERS])
        if code in _TIME_SIGNALS:
            return self._late("to be answered")
        return RpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SQL_DIED",
            f"the question's process died ({'signal' if code < 0 else 'exit code'} {abs(code)}), most likely for lack of memory: "
            f"ask for less, or raise `sql_memory_mb` ({self._ask.memory_bytes // 2**20})",
            {"exit_code": str(code)},
        )

    def _failed(self, said: Failed) -> RpcError:
        code, reason, remedy = _OUTCOMES[said.failure]
        text = said.message.partition("\n\nPossible solutions")[0].strip()[:TEXT_CHARACTERS]
        rows = (
            "raise `sql_rows_max`"
            if self._ask.rows_max >= self._rows_max
            else "ask for more: the limit is the question's own"
        )
        told = remedy.format(ask=self._ask, mb=self._ask.memory_bytes // 2**20, rows=rows)
        return RpcError(code, reason, f"{text}{told}")


_TIME_SIGNALS = {-signal.SIGALRM, -signal.SIGXCPU}
_BAD = grpc.StatusCode.INVALID_ARGUMENT
_SPENT = grpc.StatusCode.RESOURCE_EXHAUSTED
_OUTCOMES: dict[str, tuple[grpc.StatusCode, str, str]] = {
    "not_select": (_BAD, "SQL_NOT_SELECT", ""),
    "invalid": (_BAD, "SQL_INVALID", ""),
    "refused": (_BAD, "SQL_REFUSED", ": only the views can be read (SELECT * FROM documentation)"),
    "time": (_SPENT, "SQL_TIME", ": it took more than {ask.timeout_s:g} s; ask for less, or raise `sql_timeout_s`"),
    "memory": (_SPENT, "SQL_MEMORY", ": it needs more than {mb} MB; ask for less, or raise `sql_memory_mb`"),
    "rows": (_SPENT, "SQL_ROWS", ": add LIMIT, aggregate, or {rows}"),
    "bytes": (_SPENT, "SQL_BYTES", ": ask for fewer rows or columns, or raise `sql_bytes_max`"),
    "row": (_SPENT, "SQL_ROW", ": cut it, as with left(payload::VARCHAR, 1000)"),
    "failed": (grpc.StatusCode.INTERNAL, "SQL_BROKEN", ""),
}
