"""How fast the ledger folds and stores entries, beside DuckDB's appender taking the same event rows and nothing else.

And how fast, and in how much memory, it makes its file anew from a log of many finished runs:
`python -c "from benchmarks import ingest; print(ingest.rebuilt(10_000))"` is a million events.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from services import events as ev
from services.bus import Recorded
from services.ledger.projector import Batch, Projector
from services.ledger.store import Store
from services.wire import Entry, attempt_subject, encode_entry, request_subject, run_subject

RUNS = 2
WORKSTREAMS = 500
BATCH = 5000
ROUNDS = 3
FINISHED_RUNS = 1000
RUN_WORKSTREAMS = 7


def measure() -> list[dict[str, object]]:
    """Rows {"name", "value", "unit", "baseline", "ratio"}: the best of ROUNDS, ours and the baseline in turn."""
    records = history()
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rate, folded = _ingested(Path(folder) / "ledger", records)
            ours.append(rate)
            bare.append(_appended(Path(folder) / "bare", folded))
    return [
        *rebuilt(FINISHED_RUNS),
        {
            "name": "ledger ingest (fold, ten tables, one transaction per batch; baseline: event rows only)",
            "value": round(max(ours)),
            "unit": "events/s",
            "baseline": round(max(bare)),
            "ratio": round(max(ours) / max(bare), 3),
        },
    ]


def _ingested(file: Path, records: list[Recorded]) -> tuple[float, list[Batch]]:
    """Events per second through fold and store, and what was stored."""
    store = Store.open(file)
    fold = Projector(store.tip, store)
    folded: list[Batch] = []
    started = time.perf_counter()
    for first in range(0, len(records), BATCH):
        folded.append(fold.fold(records[first : first + BATCH]))
        store.commit(folded[-1])
    seconds = time.perf_counter() - started
    store.close()
    return sum(len(batch.events) for batch in folded) / seconds, folded


def rebuilt(runs: int) -> list[dict[str, object]]:
    """Rows as of `measure`: a new file from a log of finished runs, and how memory grows over its second half."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "ledger", threads=1)
        fold = Projector(store.tip, store)
        log = finished_runs(runs)
        resident_bytes: dict[bool, int] = {}
        seconds, told = 0.0, 0
        while records := list(itertools.islice(log, BATCH)):
            started = time.perf_counter()
            batch = fold.fold(records)
            store.commit(batch)
            seconds += time.perf_counter() - started
            told += len(batch.events)
            resident_bytes.setdefault(batch.runs[-1].run >= f"run{runs // 2:06}", _resident_bytes())
        grown_bytes = _resident_bytes() - resident_bytes[True]
        size_bytes = store.size_bytes
        store.close()
    return [
        {
            "name": f"ledger rebuild, {told:,} events of {runs:,} finished runs in {seconds:.1f} s "
            f"(baseline: 30,000 events/s), file {size_bytes / 2**20:.0f} MiB",
            "value": round(told / seconds),
            "unit": "events/s",
            "baseline": 30_000,
            "ratio": round(told / seconds / 30_000, 2),
        },
        {
            "name": "resident memory of it at the end; baseline: half-way",
            "value": round((resident_bytes[True] + grown_bytes) / 2**20),
            "unit": "MiB",
            "baseline": round(resident_bytes[True] / 2**20),
            "ratio": round(1 + grown_bytes / resident_bytes[True], 2),
        },
    ]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _appended(file: Path, folded: list[Batch]) -> float:
    """Events per second when their finished rows are appended and nothing else is done."""
    bare = [
        Batch(tip=batch.tip, entries=[], events=batch.events, transitions=[], runs=[], workstreams=[], attempts=[])
        for batch in folded
    ]
    store = Store.open(file)
    started = time.perf_counter()
    for batch in bare:
        store.commit(batch)
    seconds = time.perf_counter() - started
    store.close()
    return sum(len(batch.events) for batch in bare) / seconds


def history() -> list[Recorded]:
    """RUNS runs of WORKSTREAMS workstreams, each edited, checked twice and merged."""
    return list(_recorded(RUNS, WORKSTREAMS))


def finished_runs(runs: int) -> Iterator[Recorded]:
    """Runs of RUN_WORKSTREAMS workstreams: about 100 events each."""
    return _recorded(runs, RUN_WORKSTREAMS)


def _recorded(runs: int, workstreams: int) -> Iterator[Recorded]:
    positions = itertools.count(1)
    for number in range(runs):
        run = f"run{number:06}"
        for subject, told in _run(run, workstreams):
            position = next(positions)
            entry = Entry(id=f"{position:032x}", run=run, at_ns=position, by="scheduler:1", events=told)
            yield Recorded(position, subject, position * 1000, encode_entry(entry))


def _run(run: str, workstreams: int) -> list[tuple[str, list[ev.AnyEvent]]]:
    log = ev.Artifact(role="log", digest="a" * 64, name="log", size_bytes=1000)
    base = ev.Snapshot(commit="b" * 40, tree="c" * 40)
    names = [f"workstream-{index}" for index in range(workstreams)]
    accepted = ev.RunAccepted(
        request_id=run, actor="ann", spec=log, workstreams=workstreams, repository="repo", base_commit=base.commit
    )
    asked = ev.RunRequested(
        request_id=run, actor="ann", spec=log, workstreams=workstreams, repository="repo", base_commit=base.commit
    )
    told: list[tuple[str, list[ev.AnyEvent]]] = [
        (request_subject(run), [asked]),
        (run_subject(run), [accepted, ev.RunTransitioned(from_state="pending", to_state="running")]),
        (run_subject(run), [ev.WaveStarted(wave=0, workstreams=names)]),
    ]
    for name in names:
        for attempt, step in enumerate(_STEPS, 1):
            told += _attempt(run, name, attempt, step, base=base, log=log)
        told.append(
            (run_subject(run), [ev.WorkstreamTransitioned(workstream=name, from_state="merging", to_state="completed")])
        )
    finished = ev.RunFinished(
        state="completed", reason="all merged", completed=workstreams, failed=0, blocked=0, cancelled=0
    )
    told.append((run_subject(run), [finished]))
    return told


_STEPS: tuple[ev.Step, ...] = ("edit", "static", "runtime")
_STATES: dict[ev.Step, ev.WorkstreamState] = {
    "edit": "editing",
    "static": "static_check",
    "runtime": "runtime_check",
}


def _attempt(
    run: str, name: str, attempt: int, step: ev.Step, *, base: ev.Snapshot, log: ev.Artifact
) -> list[tuple[str, list[ev.AnyEvent]]]:
    subject = attempt_subject(run, name, attempt)
    decision: list[ev.AnyEvent] = [
        ev.WorkstreamTransitioned(workstream=name, from_state="ready", to_state=_STATES[step]),
        ev.StepScheduled(
            workstream=name, attempt=attempt, step=step, pool="p", input=base, timeout_s=60, queue_deadline_ns=1
        ),
    ]
    finish = ev.StepFinished(ok=True, snapshot=base, files=["a.py", "b.py"], files_total=2, artifacts=[log, log])
    return [
        (run_subject(run), decision),
        (subject, [ev.StepStarted(executor="executor-1", boot="boot-1")]),
        (subject, [finish]),
    ]
