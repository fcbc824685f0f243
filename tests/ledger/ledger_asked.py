"""A ledger that answers questions in SQL, on an event loop in a thread of its own, for tests that call it as a client does."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from ledger_histories import MemoryLive, MemoryLog, MemoryObjects

from services.access import anybody
from services.ledger.absorb import Absorber
from services.ledger.audit import Auditor
from services.ledger.server import SERVICE, LedgerServer
from services.ledger.snapshots import Snapshots
from services.ledger.sql import Limits, Questions
from services.ledger.store import Store
from services.ledger.v1 import ledger_pb2_grpc
from services.ledger.verify import Verifier
from services.rpc import Health, create_server, serve
from swell.client import Client
from swell.values import Endpoints

T = TypeVar("T")


class Asked:
    """The ledger, and a client of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.client: Client
        self.address = ""
        self.log: MemoryLog
        self.absorber: Absorber
        self.store: Store
        self.snapshots: Snapshots
        self.questions: Questions

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def rows(self, sql: str, **options: Any) -> list[tuple[Any, ...]]:
        return [row for part in self.client.query(sql, **options) if isinstance(part, list) for row in part]

    def processes(self) -> list[int]:
        """The processes that answer questions of this ledger now: what stands in one of its folders."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if str(self.snapshots.folder) in str((entry / "cwd").readlink()):
                        found.append(int(entry.name))
        return found

    def folders(self, kind: str) -> list[str]:
        folder = self.snapshots.folder
        return (
            sorted(found.name for found in folder.iterdir() if found.name.startswith(kind)) if folder.exists() else []
        )


@contextlib.contextmanager
def asked(folder: Path, records=(), *, limits: Limits, age_s=5.0, idle_s=300.0) -> Iterator[Asked]:
    loop = uvloop.new_event_loop()  # as the service has
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    here = Asked(loop)
    stop: list[Callable[[], Coroutine[Any, Any, None]]] = []

    async def start() -> None:
        here.store = store = Store.open(folder / "l")
        here.log = MemoryLog(list(records))
        here.absorber = Absorber(store, here.log, linger_s=0, batch_max=500)
        await here.absorber.verify()
        absorbing = asyncio.create_task(here.absorber.run())
        here.snapshots = Snapshots(store, age_s=age_s, idle_s=idle_s)
        here.questions = Questions(here.snapshots, limits)
        server = create_server(access=anybody(), max_message_bytes=65536, concurrent_rpcs=50)
        verifier = Verifier(store, here.absorber, here.log, batch_max=50)
        answers = LedgerServer(
            store, here.absorber, MemoryObjects(), MemoryLive(), verifier, Auditor(store, here.log), here.questions
        )
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(answers, server)
        here.address = f"127.0.0.1:{await serve(server, '127.0.0.1:0', [SERVICE], Health([SERVICE]))}"

        async def end() -> None:
            absorbing.cancel()
            await asyncio.wait([absorbing])
            here.absorber.close()
            await server.stop(0)
            await here.snapshots.close()
            store.close()

        stop.append(end)
        while here.absorber.position < len(here.log.records):  # noqa: ASYNC110 - the gauge is what is public
            await asyncio.sleep(0.002)

    try:
        here.run(start())
        with Client(Endpoints(scheduler=here.address, ledger=here.address)) as client:
            here.client = client
            yield here
    finally:
        for end in stop:
            here.run(end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
