"""What the ledger tells Prometheus: how far it is, what its commits cost, and how its file does."""

import asyncio
from typing import Final, Protocol

from services.metrics import COMMIT_BUCKETS_S, DELAY_BUCKETS_S, Exposition, Reading, Series

POSITION = Series("swell_ledger_position", "gauge", "The position in the log up to which entries are committed.")
LAG = Series("swell_ledger_lag_entries", "gauge", "Positions of the log that are not committed yet, as last looked at.")
CAUGHT_UP = Series("swell_ledger_caught_up", "gauge", "1 if answers are as fresh as promised, else calls are refused.")
REBUILDING = Series("swell_ledger_rebuilding", "gauge", "1 while a new file is made from the log.")
PROGRESS = Series(
    "swell_ledger_replay_progress_ratio",
    "gauge",
    "How much of what the log held at the start is committed, from 0 to 1; 1 once all is.",
)
CONDEMNED = Series("swell_ledger_condemned", "gauge", "1 if the file is damaged and the next start will rebuild it.")
ASIDE = Series("swell_ledger_aside_files", "gauge", "Files that were damaged or of another version and are still kept.")
FILE_BYTES = Series("swell_ledger_file_bytes", "gauge", "Size of the database and its journal.")
DISK_FREE = Series("swell_ledger_disk_free_bytes", "gauge", "Bytes free on the disk of its file.")
WATCHES = Series("swell_ledger_watches", "gauge", "Watches under way.")
ENTRIES = Series("swell_ledger_entries_folded_total", "counter", "Entries committed, a replay's among them.")
EVENTS = Series("swell_ledger_events_folded_total", "counter", "Events in the entries committed.")

ARCHIVE_POSITION = Series("swell_ledger_archive_position", "gauge", "The position up to which the log is archived.")
ARCHIVE_BYTES = Series("swell_ledger_archive_bytes", "gauge", "Size of the archive's segments.")
ARCHIVE_FAILING = Series("swell_ledger_archive_failing", "gauge", "1 if the last attempt to archive or purge failed.")
PURGED_RUNS = Series("swell_ledger_purged_runs_total", "counter", "Archived runs that were removed from the stream.")

READ: Final = (
    POSITION, LAG, CAUGHT_UP, REBUILDING, PROGRESS, CONDEMNED, ASIDE, FILE_BYTES, DISK_FREE, WATCHES, ENTRIES, EVENTS,
    ARCHIVE_POSITION, ARCHIVE_BYTES, ARCHIVE_FAILING, PURGED_RUNS,
)  # fmt: skip


class Absorbing(Protocol):
    """What of the absorbing is read; services.ledger.absorb.Absorber is one."""

    position: int
    entries: int
    events: int

    @property
    def lag(self) -> int:
        """Positions that are not committed."""

    @property
    def caught_up(self) -> bool:
        """Whether answers are fresh."""

    @property
    def rebuilding(self) -> bool:
        """Whether a new file is made from the log."""

    @property
    def progress(self) -> float:
        """How much of what the log held at the start is committed."""

    @property
    def watches(self) -> int:
        """Watches under way."""


class Stored(Protocol):
    """What of the file is read; services.ledger.store.Store is one."""

    condemned: str

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def disk_free_bytes(self) -> int:
        """Bytes free on its disk."""

    @property
    def aside_files(self) -> int:
        """Files that were moved aside."""


class LedgerMetrics:
    """The ledger's series; `read` has the gauges read."""

    def __init__(self, exposition: Exposition) -> None:
        """Declare the histograms in `exposition`."""
        self._exposition = exposition
        self._archive_position = self._archive_bytes = self._purged_runs = 0
        self._archive_failing = False
        self._fold_s = exposition.histogram(
            "swell_ledger_fold_duration_seconds", "How long batches took to be folded.", buckets=COMMIT_BUCKETS_S
        )
        self._commit_s = exposition.histogram(
            "swell_ledger_commit_duration_seconds", "How long batches took to be committed.", buckets=COMMIT_BUCKETS_S
        )

        self._delay_s = exposition.histogram(
            "swell_ledger_commit_delay_seconds",
            "From the time that the log gave an entry to its commit, of the oldest of each batch; not while it catches up.",
            buckets=DELAY_BUCKETS_S,
        )

    def committed(self, fold_s: float, commit_s: float, delay_s: float | None) -> None:
        """A batch is stored; called from the thread that writes. `delay_s` is the age of its oldest entry, None for none told."""
        self._fold_s.observe((), fold_s)
        self._commit_s.observe((), commit_s)
        if delay_s is not None:
            self._delay_s.observe((), max(delay_s, 0.0))

    def archived(self, position: int, size_bytes: int) -> None:
        """The archive reaches that far."""
        self._archive_position, self._archive_bytes = position, size_bytes

    def archiving(self, *, failed: bool) -> None:
        """An attempt to archive has ended."""
        self._archive_failing = failed

    def purged(self, runs: int) -> None:
        """So many more runs have left the stream."""
        self._purged_runs += runs

    def read(self, absorber: Absorbing, store: Stored) -> None:
        """Have the gauges read from now on."""

        async def reader() -> list[Reading]:
            aside, file_bytes, free_bytes = await asyncio.to_thread(
                lambda: (store.aside_files, store.size_bytes, store.disk_free_bytes)
            )
            return [
                (POSITION, (), absorber.position),
                (LAG, (), absorber.lag),
                (CAUGHT_UP, (), absorber.caught_up),
                (REBUILDING, (), absorber.rebuilding),
                (PROGRESS, (), absorber.progress),
                (CONDEMNED, (), bool(store.condemned)),
                (ASIDE, (), aside),
                (FILE_BYTES, (), file_bytes),
                (DISK_FREE, (), free_bytes),
                (WATCHES, (), absorber.watches),
                (ENTRIES, (), absorber.entries),
                (EVENTS, (), absorber.events),
                (ARCHIVE_POSITION, (), self._archive_position),
                (ARCHIVE_BYTES, (), self._archive_bytes),
                (ARCHIVE_FAILING, (), self._archive_failing),
                (PURGED_RUNS, (), self._purged_runs),
            ]

        self._exposition.read(READ, reader)
