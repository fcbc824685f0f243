"""The ledger, modelled: the real fold over random batches, a store of rows as dictionaries, crashes before a commit."""

import copy
from typing import Any

from services.events import LINE
from services.ledger.patches import PatchRow
from services.ledger.projector import (
    AttemptRow,
    Batch,
    ExecutorRow,
    KnownRun,
    PauseRow,
    Projector,
    RunRow,
    Tip,
    ToolBreakerRow,
    WorkstreamRow,
)
from services.wire import Recorded
from tests.simulation.clockwork import Clockwork

_CLOSED = {"finished", "cancelled", "lost"}


class Rows:
    """Everything that was committed."""

    def __init__(self) -> None:
        self.tip = Tip()
        self.appended: dict[str, list[Any]] = {
            name: [] for name in ("entries", "events", "transitions", "patch_history")
        }
        self.tables: dict[str, dict[Any, Any]] = {
            name: {} for name in ("runs", "workstreams", "attempts", "patches", "executors", "tool_breakers")
        }
        self._pauses: list[PauseRow] = []

    def commit(self, batch: Batch) -> None:
        self.tip = batch.tip
        self.appended["entries"] += batch.entries
        self.appended["events"] += batch.events
        self.appended["transitions"] += batch.transitions
        self.appended["patch_history"] += batch.patch_moves
        tables = self.tables
        tables["runs"].update((one.run, copy.copy(one)) for one in batch.runs)
        tables["workstreams"].update(((one.run, one.workstream), copy.copy(one)) for one in batch.workstreams)
        tables["attempts"].update(((one.run, one.workstream, one.attempt), copy.copy(one)) for one in batch.attempts)
        tables["patches"].update(((one.run, one.workstream, one.attempt), copy.copy(one)) for one in batch.patches)
        tables["executors"].update((one.executor, copy.copy(one)) for one in batch.executors)
        tables["tool_breakers"].update((one.tool, copy.copy(one)) for one in batch.tool_breakers)
        if batch.pauses is not None:
            self._pauses = list(batch.pauses)

    # What services.ledger.projector.Known asks

    def run(self, run: str) -> KnownRun | None:
        row: RunRow | None = self.tables["runs"].get(run)
        if row is None:
            return None
        workstreams: list[WorkstreamRow] = [
            copy.copy(one) for key, one in self.tables["workstreams"].items() if key[0] == run
        ]
        attempts = [
            copy.copy(one) for key, one in self.tables["attempts"].items() if key[0] == run and one.state not in _CLOSED
        ]
        current = ((run, one.workstream, one.patch) for one in workstreams if one.patch)
        patches: list[PatchRow] = [copy.copy(self.tables["patches"][key]) for key in current]
        return KnownRun(copy.copy(row), workstreams, attempts, patches)

    def attempt(self, run: str, workstream: str, attempt: int) -> AttemptRow | None:
        return copy.copy(self.tables["attempts"].get((run, workstream, attempt)))

    def executor(self, executor: str) -> ExecutorRow | None:
        return copy.copy(self.tables["executors"].get(executor))

    def tool_breaker(self, tool: str) -> ToolBreakerRow | None:
        return copy.copy(self.tables["tool_breakers"].get(tool))

    def pauses(self) -> list[PauseRow]:
        return list(self._pauses)

    def differences(self, other: "Rows") -> list[str]:
        """Where two stores differ, in words."""
        found = []
        if self.tip != other.tip:
            found.append(f"tips {self.tip} and {other.tip}")
        for name, ours in self.appended.items():
            theirs = other.appended[name]
            if ours != theirs:
                found += [f"{name} {one} and {two}" for one, two in zip(ours, theirs, strict=False) if one != two][:1]
            if len(ours) != len(theirs):
                found.append(f"{len(ours)} and {len(theirs)} {name} appended")
        for name, table in self.tables.items():
            for key in table.keys() | other.tables[name].keys():
                one, two = table.get(key), other.tables[name].get(key)
                if one != two:
                    found.append(f"{name} {key}: {one} and {two}")
        if self._pauses != other._pauses:
            found.append(f"pauses {self._pauses} and {other._pauses}")
        return found


class Ledger:
    """One ledger that follows the log."""

    def __init__(self, clockwork: Clockwork, log: list[Recorded]) -> None:
        self._clockwork = clockwork
        self._log = log
        self.rows = Rows()
        self._start()
        clockwork.after(1.0, self._absorb)

    def _start(self) -> None:
        limit = self._clockwork.random.choice([3, 20, 50_000])
        self._projector = Projector(self.rows.tip, self.rows, live_rows_max=limit)

    def _absorb(self) -> None:
        self._batch()
        self._clockwork.after(self._clockwork.random.choice([0.05, 1.0, 15.0]), self._absorb)

    def _batch(self) -> None:
        position = self.rows.tip.position
        if position >= len(self._log):
            return
        end = min(len(self._log), position + self._clockwork.random.choice([1, 5, 50, 1000]))
        batch = self._projector.fold(self._log[position:end])
        if self._clockwork.chance(0.05, "ledger crash: folded, not committed"):
            self._start()
            return
        self.rows.commit(batch)
        if self._clockwork.chance(0.02, "ledger crash: committed"):
            self._start()

    def finish(self) -> list[str]:
        """Absorb the rest; patches that were asked to move as none may; what a ledger that reads the log anew has otherwise (I7)."""
        while self.rows.tip.position < len(self._log):
            self._batch()
        anew = Rows()
        anew.commit(Projector(anew.tip, anew).fold(self._log))
        lost = [
            f"patch {'/'.join(map(str, key))}: {row.refused}"
            for key, row in self.rows.tables["patches"].items()
            if row.refused_moves
        ]
        return lost[:3] + [f"I7: a rebuilt ledger differs: {one}" for one in self.rows.differences(anew)[:3]]

    def states(self, run: str) -> dict[str, str]:
        """The state of each workstream of a run, as its rows tell."""
        rows = self.rows.tables["workstreams"].items()
        return {key[1]: row.state for key, row in rows if key[0] == run and key[1] != LINE}


def summary(rows: Rows) -> dict[str, int]:
    """How many rows each table has."""
    return {name: len(table) for name, table in rows.tables.items()} | {
        "appended": sum(map(len, rows.appended.values()))
    }


__all__ = ["Ledger", "Rows", "summary"]
