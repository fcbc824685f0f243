"""Who looks on while a lab is struck: at the log, at whether requests come through, at whether a pod serves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from services.bus import Bus, Recorded
from services.bus_config import EVENTS, BusConfig
from services.probe import credentials_of, probe
from services.wire import request_subject
from swell.client import Client
from swell.errors import SwellError
from swell.values import Endpoints
from tests.crash.history import Fact, opened
from tests.deploy.lab.kubelet import Lab, Pod, until

ASK_S: Final = 0.05
SAY_S: Final = 0.25
"""How long between two entries that are asked for, to see when none comes through."""

SERVES_S: Final = 180.0


def _leader_by(pod: Pod) -> str:
    """Who leads the log, by one of the servers; "?" and its name where it does not know."""
    try:
        with urllib.request.urlopen(f"http://{pod.address}:8222/jsz?streams=true", timeout=10) as answer:
            accounts = json.load(answer)["account_details"]
    except (OSError, KeyError):
        return f"? {pod.name}"
    found = [
        one["cluster"].get("leader")
        for account in accounts
        for one in account["stream_detail"]
        if one["name"] == EVENTS
    ]
    return str(found[0]) if found and found[0] else f"? {pod.name}"


class Log:
    """Everything on the log, as the ledger's user of the bus sees it, the moment it stands there."""

    def __init__(self, lab: Lab, config: BusConfig) -> None:
        self.watched: list[Recorded] = []
        self._lab = lab
        self._config = config
        self._facts: list[Fact] = []
        self._loop = asyncio.new_event_loop()
        self._bus: Bus | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ask(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def facts(self, run: str) -> list[Fact]:
        """Of a run, so far."""
        return [fact for fact in list(self._facts) if fact.run == run]

    def ended(self, run: str) -> bool:
        """Whether a run has ended."""
        return any(fact.kind == "run_finished" for fact in self.facts(run))

    def whole(self) -> list[Recorded]:
        """The whole log, read anew."""
        return self._ask(self._read())

    @property
    def leader(self) -> str:
        """The scheduler that has decided last."""
        said = [fact.by for fact in self._facts[-200:] if fact.where == "run" and fact.by.startswith("scheduler:")]
        return said[-1].removeprefix("scheduler:") if said else ""

    def stream_leader(self) -> str:
        """The server that leads the log, once it says so itself and everybody else says the same."""

        def agreed() -> str:
            said = {pod.name: _leader_by(pod) for pod in self._lab.of("nats")}
            (leader, *others) = set(said.values())
            return leader if not others else ""

        return until(agreed, "servers that agree on who leads the log", 60)

    def _ask(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    async def _begin(self) -> None:
        self._bus = await Bus.connect(self._config, name="live")
        self._watching = asyncio.create_task(self._watch(self._bus))

    async def _end(self) -> None:
        self._watching.cancel()
        await asyncio.wait({self._watching})
        if self._bus is not None:
            await self._bus.close()

    async def _watch(self, bus: Bus) -> None:
        async for batch in bus.follow(0):
            self.watched += batch
            self._facts += opened(batch)

    async def _read(self) -> list[Recorded]:
        assert self._bus is not None
        end = (await self._bus.identity()).last
        found: list[Recorded] = []
        async for batch in self._bus.follow(0):
            found += batch
            if len(found) >= end:
                break
        return found[:end]


class Asking:
    """Asks a pod all the time whether it serves, beside its probes."""

    def __init__(self, lab: Lab, pod: Pod, files: Path) -> None:
        """`files` is the folder with the authority and a client's certificate."""
        self._lab = lab
        self._pod = pod
        self._files = files
        self._serves: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def told(self, since: float) -> float:
        """How long after `since` (seconds since 1970) it served for the first time."""
        served = until(lambda: [at for at in list(self._serves) if at >= since], f"{self._pod.name} to serve", SERVES_S)
        self._over.set()
        self._thread.join(timeout=30)
        return served[0] - since

    def _ask(self) -> None:
        while not self._over.wait(ASK_S):
            if self._look():
                self._serves.append(time.time())

    def _look(self) -> bool:
        files = self._files
        match self._pod.component:
            case "nats":
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(
                        f"http://{self._pod.address}:8222/healthz?js-server-only=true", timeout=1
                    ) as answer,
                ):
                    return bool(answer.status == 200)
                return False
            case "executor":
                with contextlib.suppress(OSError):
                    return (
                        self._lab.folder / "pods" / self._pod.name / "state" / "ready"
                    ).stat().st_mtime > self._pod.begun
                return False
            case component:
                port = {"scheduler": 7400, "ledger": 7401}[component]
                shown = credentials_of(files / "ca.crt", files / "me.crt", files / "me.key")
                return not probe(f"{self._pod.address}:{port}", shown, tls_name="localhost", timeout_s=1)


class Talker:
    """Asks for something small all the time, through every scheduler, and notes when it was acknowledged, and where it stands."""

    def __init__(self, lab: Lab, endpoints: Callable[[Pod], Endpoints]) -> None:
        """`endpoints` says how an admin calls one of the schedulers."""
        self.acknowledged: list[tuple[float, int]] = []
        self._lab = lab
        self._endpoints = endpoints
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._talk, args=[at], daemon=True) for at in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.acknowledged) > 1, "an answer of the scheduler", 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def longest(self, since: float) -> tuple[float, float, float]:
        """The longest time between two acknowledgements since then, in seconds; when it began and ended, after `since`."""
        times = sorted(at for at, _ in list(self.acknowledged))
        before = max((at for at in times if at < since), default=since)
        times = [before, *(at for at in times if at >= since), time.monotonic()]
        pause, begins = max((later - earlier, earlier) for earlier, later in itertools.pairwise(times))
        return pause, begins - since, begins - since + pause

    def lost(self, records: Sequence[Recorded]) -> Iterator[str]:
        """Acknowledged entries that do not stand where they were said to stand."""
        stands = {record.sequence: record.subject for record in records}
        for _, position in self.acknowledged:
            if stands.get(position) != request_subject("fleet"):
                yield f"a request was acknowledged at {position}, where {stands.get(position)} stands"

    def _talk(self, at: int) -> None:
        number = 0
        while not self._over.is_set():
            pod = self._lab.of("scheduler")[at]
            with contextlib.suppress(SwellError), Client(self._endpoints(pod)) as client:
                while not self._over.wait(SAY_S) and self._lab.of("scheduler")[at] is pod:
                    number += 1
                    answer = client.set_shared_budget("nobody's", 10**9 + number, reason="to be heard", actor="live")
                    if answer.position:
                        self.acknowledged.append((time.monotonic(), answer.position))
            self._over.wait(SAY_S)
