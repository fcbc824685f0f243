"""Histories in which time passes as a test says: runs with tools, models, costs, labels, waves."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledger_histories import BASE, SPEC, START_NS, Story, moved, scheduled, snapshot

from services import events as ev
from services.bus import Recorded
from services.ledger.projector import Projector
from services.ledger.store import Store
from services.outcome import Cost, Usage
from services.wire import request_subject, run_subject

SECOND_NS = 10**9
DAY_S = 86_400


class Timed(Story):
    """A story with a clock, which only the test moves: `at` is seconds since the story began."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def raw(self, subject: str, data: bytes) -> Recorded:
        record = Recorded(len(self.records) + 1, subject, START_NS + int(self.at * SECOND_NS), data)
        self.records.append(record)
        return record

    def begin(self, *workstreams: str, run: str = "r1", **known: Any) -> None:
        """A run is asked for, accepted, and started with one wave."""
        told = {
            "request_id": f"q-{run}", "actor": "ann", "spec": SPEC, "workstreams": len(workstreams),
            "repository": "repo", "base_commit": BASE.commit, **known,
        }  # fmt: skip
        self.entry(request_subject(run), ev.RunRequested(**told), run=run)
        self.decide(
            ev.RunAccepted(**told), ev.RunTransitioned(from_state="pending", to_state="running"),
            ev.WaveStarted(wave=0, workstreams=list(workstreams)), run=run,
        )  # fmt: skip

    def attempt(
        self,
        workstream: str,
        number: int,
        step: str = "edit",
        *,
        run: str = "r1",
        wait: float = 0,
        took: float = 10,
        ok: bool = True,
        executor: str = "e1",
        how: dict[str, Any] | None = None,
        **finish: Any,
    ) -> None:
        """An attempt is scheduled now, claimed after `wait` seconds, and finished `took` seconds later; the clock moves on."""
        given = {"tool": "aider", "cap": "none"} if step in {"edit", "fix"} else {}
        self.decide(scheduled(workstream, number, step, **(given | (how or {}))), run=run)
        self.at += wait
        self.live(workstream, number, ev.StepStarted(executor=executor, boot="k1"), run=run)
        self.at += took
        made = snapshot("d") if ok and step in {"edit", "fix"} else None
        self.live(workstream, number, ev.StepFinished(**({"ok": ok, "snapshot": made} | finish)), run=run)

    def settled(self, workstream: str, state: str = "completed", *, run: str = "r1") -> None:
        self.decide(moved(workstream, "merging", state), run=run)

    def fleet(self, *told: ev.AnyEvent) -> None:
        self.entry(run_subject("fleet"), *told, run="fleet")


def told(usd: float, *, model: str = "opus", provider: str = "anthropic", basis: str = "reported", **more: Any) -> dict:
    """What a tool told of itself: 100 tokens in, 10 out."""
    return {
        "model": model,
        "provider": provider,
        "usage": Usage(input_tokens=100, output_tokens=10),
        "cost": Cost(nano_usd=round(usd * 10**9), basis=basis, table="" if basis == "reported" else "t-1"),
        **more,
    }


@contextlib.contextmanager
def ledger_of(folder: Path, records: list[Recorded]) -> Iterator[Store]:
    """A store into which these records were folded."""
    store = Store.open(folder / "ledger.duckdb")
    try:
        store.commit(Projector(store.tip, store).fold(records))
        yield store
    finally:
        store.close()
