"""The archive: the beginning of the log as a folder of segments, each a Parquet file that its manifest proves.

    segment-<first>-<last>.parquet   the entries of those positions as they were stored: position, subject, time_ns, hash, raw
    segment-<first>-<last>.json      the manifest; without it there is no segment
    segment-<first>-<last>.purged    every run that ends in the segment has left the stream

What it promises:

* A segment is written under another name, synced, read back, and compared: the chain of hashes is computed anew from the bytes
  in the file. Only then does it get its name, and after it its manifest. Whatever kills a writer leaves the segments of before,
  or one more; what else it left is removed by the next writer.
* The segments follow each other without a gap from the beginning of one stream on, and the hashes run through.
* Nothing is read that does not have the size, the SHA-256, the rows and the chain that its manifest says.

One process writes at a time; any number may read.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import duckdb
import msgspec
import structlog

from services.ledger.projector import GENESIS, chained
from services.ledger.store import StoreError
from services.wire import Recorded

log = structlog.get_logger()

MANIFEST_BYTES_MAX = 64 * 1024 * 1024
MEMORY_MB = 256
READ_ROWS = 5000

SegmentRow = tuple[int, str, int, bytes, bytes]
"""position, subject, time_ns, hash, raw."""

_MANIFEST = re.compile(r"segment-([0-9]{16})-([0-9]{16})\.json")
_PART = re.compile(r"segment-[0-9]{16}-[0-9]{16}\.(parquet|json|purged)")
_LEFT = ".part"
_COLUMNS = (
    "position BIGINT NOT NULL, subject VARCHAR NOT NULL, time_ns BIGINT NOT NULL, hash BLOB NOT NULL, raw BLOB NOT NULL"
)
_READ = (
    "SELECT position::BIGINT, subject::VARCHAR, time_ns::BIGINT, hash::BLOB, raw::BLOB "
    "FROM read_parquet(?) WHERE position > ?"
)


class ArchiveError(StoreError):
    """The archive cannot be read or written; the text says what to do."""


class ArchiveBusyError(ArchiveError):
    """Another process writes to the archive."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a segment is. It holds every entry behind position `after` up to `last`.

    `stream_created_ns`: of which stream. `size_bytes`, `sha256`: of the Parquet file. `hash_before`, `hash_after`: of the chain
    before its first and with its last entry. `runs` have their newest entry in it and are wholly in the archive.
    """

    format: Literal[1] = 1
    stream_created_ns: int
    after: int
    last: int
    rows: int
    raw_bytes: int
    size_bytes: int
    sha256: str
    hash_before: str
    hash_after: str
    newest_ns: int
    runs: list[str]

    @property
    def name(self) -> str:
        """What its files are called, without what comes behind the dot."""
        return f"segment-{self.after + 1:016d}-{self.last:016d}"


class Archive:
    """A folder of segments. `load` before anything else; `segments` are those that were there then, in order."""

    def __init__(self, folder: Path, *, read_rows: int = READ_ROWS) -> None:
        """`read_rows`: so many entries are held in memory at a time."""
        self.folder = folder
        self.segments: list[Manifest] = []
        self._read_rows = read_rows
        self._changing = threading.Lock()

    @property
    def end(self) -> int:
        """The position up to which everything is archived, 0 for nothing."""
        return self.segments[-1].last if self.segments else 0

    @property
    def hash(self) -> bytes:
        """The hash of the chain at `end`."""
        return bytes.fromhex(self.segments[-1].hash_after) if self.segments else GENESIS

    @property
    def size_bytes(self) -> int:
        """The size of all segments."""
        return sum(segment.size_bytes for segment in self.segments)

    # Reading

    def load(self, stream_created_ns: int) -> None:
        """Read the manifests anew. Raises ArchiveError unless they are one beginning of that stream, with all their files."""
        with self._changing:
            self.segments = self._found(stream_created_ns)

    def _found(self, stream_created_ns: int) -> list[Manifest]:
        found: list[Manifest] = []
        try:
            names = sorted(file.name for file in self.folder.iterdir() if _MANIFEST.fullmatch(file.name))
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise ArchiveError(
                f"the archive {self.folder} cannot be read: {error.strerror}; mend its permissions"
            ) from error
        for name in names:
            manifest = self._manifest(self.folder / name)
            before = found[-1] if found else None
            self._follows(manifest, before, stream_created_ns)
            found.append(manifest)
        return found

    def _manifest(self, file: Path) -> Manifest:
        try:
            if file.stat().st_size > MANIFEST_BYTES_MAX:
                raise ArchiveError(f"{file} is larger than any manifest: {_RESTORE}")
            manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
            if file.stem != manifest.name:
                raise ArchiveError(f"{file} is the manifest of {manifest.name}: {_RESTORE}")
            size = self._parquet(manifest).stat().st_size
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ArchiveError(f"{file} is not a manifest of this version ({error}): {_RESTORE}") from error
        except OSError as error:
            raise ArchiveError(f"{error.filename} cannot be read: {error.strerror}; {_RESTORE}") from error
        if size != manifest.size_bytes:
            raise ArchiveError(f"{self._parquet(manifest)} has {size} bytes, not {manifest.size_bytes}: {_RESTORE}")
        return manifest

    def _follows(self, manifest: Manifest, before: Manifest | None, stream_created_ns: int) -> None:
        file = self.folder / f"{manifest.name}.json"
        if manifest.stream_created_ns != stream_created_ns:
            raise ArchiveError(
                f"{file} is of a stream created at {manifest.stream_created_ns} ns, but this one was created at "
                f"{stream_created_ns} ns: point `archive` at the folder of this log, or at a new one"
            )
        end, digest = (before.last, before.hash_after) if before is not None else (0, GENESIS.hex())
        if manifest.after != end:
            lacks = (
                f"positions {end + 1} to {manifest.after}" if manifest.after > end else "nothing, but has some twice"
            )
            raise ArchiveError(f"the archive {self.folder} lacks {lacks}, before {file.name}: {_RESTORE}")
        if manifest.hash_before != digest:
            raise ArchiveError(f"{file} does not follow from the segment before it: {_RESTORE}")

    def check(self, manifest: Manifest, file: Path | None = None) -> None:
        """Read a segment whole, and compare it with its manifest. Raises ArchiveError. Blocks."""
        file = file or self._parquet(manifest)
        try:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise ArchiveError(f"{file} cannot be read: {error.strerror}; {_RESTORE}") from error
        if digest != manifest.sha256:
            raise ArchiveError(f"{file} has the SHA-256 {digest}, not {manifest.sha256}: {_RESTORE}")
        position, previous, rows = manifest.after, bytes.fromhex(manifest.hash_before), 0
        for page in self._rows(file, manifest.after):
            for at, subject, _, said, raw in page:
                previous = chained(previous, at, subject, raw)
                if at <= position or at > manifest.last or previous != said:
                    raise ArchiveError(
                        f"{file}: the entry at position {at} does not follow from those before: {_RESTORE}"
                    )
                position = at
            rows += len(page)
        if (position, rows, previous.hex()) != (manifest.last, manifest.rows, manifest.hash_after):
            raise ArchiveError(f"{file} does not hold what its manifest says: {_RESTORE}")

    def records(self, after: int, digest: bytes) -> Iterator[list[Recorded]]:
        """Everything behind position `after`, where the chain has the hash `digest`; each segment is checked first. Blocks.

        Raises ArchiveError.
        """
        for manifest in self.segments:
            if manifest.last <= after:
                continue
            self.check(manifest)
            file = self._parquet(manifest)
            if self._hash_at(manifest, after) != digest:
                raise ArchiveError(
                    f"{file} does not follow from position {after} of the ledger's file: one of the two is of another "
                    "history. Verify the file (`swell ledger verify`), or move it away: it is rebuilt from the archive"
                )
            for page in self._rows(file, after):
                yield [Recorded(at, subject, time_ns, raw) for at, subject, time_ns, _, raw in page]
            after, digest = manifest.last, bytes.fromhex(manifest.hash_after)

    def _hash_at(self, manifest: Manifest, position: int) -> bytes:
        """The hash of the chain at a position of this segment, or just before it."""
        digest = bytes.fromhex(manifest.hash_before)
        for page in self._rows(self._parquet(manifest), manifest.after) if position > manifest.after else ():
            for at, _, _, said, _ in page:
                if at > position:
                    return digest
                digest = said
        return digest

    def _rows(self, file: Path, after: int) -> Iterator[list[SegmentRow]]:
        try:
            with contextlib.closing(_memory()) as connection:
                result = connection.execute(_READ, [str(file), after])
                while page := result.fetchmany(self._read_rows):
                    yield page
        except duckdb.Error as error:
            raise ArchiveError(f"{file} cannot be read ({error}): {_RESTORE}") from error

    def _parquet(self, manifest: Manifest) -> Path:
        return self.folder / f"{manifest.name}.parquet"

    # Writing

    @contextlib.contextmanager
    def writing(self, stream_created_ns: int) -> Iterator[None]:
        """Be the only writer, with the segments as they are now and what a killed writer left removed.

        Raises ArchiveBusyError, ArchiveError.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "archive.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ArchiveError(
                f"the archive {self.folder} cannot be written: {error.strerror}; set `archive` elsewhere"
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ArchiveBusyError(
                    f"another process writes to the archive {self.folder}: wait for its end"
                ) from error
            self.load(stream_created_ns)
            self._tidy()
            yield
        finally:
            os.close(lock)

    def _tidy(self) -> None:
        """Remove what a killed writer left: anything that looks like a part of a segment and belongs to none."""
        whole = {segment.name for segment in self.segments}
        for file in self.folder.iterdir():
            part = _PART.fullmatch(file.name.removesuffix(_LEFT))
            if part and (file.name.endswith(_LEFT) or file.stem not in whole):
                log.warning("ledger.archive_leftover", file=str(file))
                with contextlib.suppress(OSError):
                    file.unlink()

    def add(self, stream_created_ns: int, pages: Iterable[list[SegmentRow]], runs: list[str], last: int) -> Manifest:
        """Write the next segment, up to position `last`; within `writing`. Blocks. Raises ArchiveError, and then nothing is added."""
        after, digest = self.end, self.hash
        draft = Manifest(
            stream_created_ns=stream_created_ns, after=after, last=last, rows=0, raw_bytes=0, size_bytes=0, sha256="",
            hash_before=digest.hex(), hash_after="", newest_ns=0, runs=runs,
        )  # fmt: skip
        file = self._parquet(draft)
        part, described = file.with_name(file.name + _LEFT), file.with_name(f"{draft.name}.json{_LEFT}")
        try:
            manifest = _copied(draft, pages, part)
            self.check(manifest, part)
            described.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            _sync(described)
            part.replace(file)
            _sync(self.folder)
            with self._changing:
                described.replace(file.with_suffix(".json"))
                self.segments.append(manifest)
            _sync(self.folder)
        except (OSError, duckdb.Error) as error:
            raise self._not_written(draft, error) from error
        finally:
            for left in (part, described):
                left.unlink(missing_ok=True)
        return manifest

    def _not_written(self, draft: Manifest, error: Exception) -> ArchiveError:
        free = shutil.disk_usage(self.folder).free
        return ArchiveError(
            f"{draft.name} cannot be written to {self.folder} ({error}), which has {free:,} bytes free: make room or mend its "
            "permissions, then try again. Nothing was dropped"
        )

    def is_purged(self, manifest: Manifest) -> bool:
        """Whether every run that ends in a segment has left the stream."""
        return (self.folder / f"{manifest.name}.purged").exists()

    def purged(self, manifest: Manifest) -> None:
        """Remember so; within `writing`. Raises ArchiveError."""
        try:
            (self.folder / f"{manifest.name}.purged").touch()
        except OSError as error:
            raise ArchiveError(f"the archive {self.folder} cannot be written: {error.strerror}") from error


_RESTORE = (
    "put back the segment from a copy of the archive. Where its runs still stand in the stream, remove this segment and "
    "those behind it instead: they are archived anew"
)


def _memory() -> duckdb.DuckDBPyConnection:
    """A database of its own, in memory: the ledger's file may reach no other one."""
    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{MEMORY_MB}MB",
            "threads": 1,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


def _copied(draft: Manifest, pages: Iterable[list[SegmentRow]], file: Path) -> Manifest:
    """A Parquet file of these entries, synced, and its manifest."""
    rows = raw_bytes = newest_ns = 0
    digest = bytes.fromhex(draft.hash_before)
    with contextlib.closing(_memory()) as connection:
        connection.execute(f"CREATE TABLE segment ({_COLUMNS})").fetchall()
        appender = connection.appender("segment")
        for page in pages:
            appender.append_rows(page)
            rows += len(page)
            raw_bytes += sum(len(row[4]) for row in page)
            newest_ns = max(newest_ns, *(row[2] for row in page))
            digest = page[-1][3]
        appender.flush()
        target = str(file).replace("'", "''")
        connection.execute(f"COPY segment TO '{target}' (FORMAT parquet, COMPRESSION zstd)").fetchall()
    _sync(file)
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return msgspec.structs.replace(
        draft, rows=rows, raw_bytes=raw_bytes, size_bytes=file.stat().st_size, sha256=sha256, hash_after=digest.hex(),
        newest_ns=newest_ns,
    )  # fmt: skip


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


__all__ = ["Archive", "ArchiveBusyError", "ArchiveError", "Manifest", "SegmentRow"]
