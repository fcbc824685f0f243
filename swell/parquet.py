"""Rows as a Parquet file: an Arrow IPC stream in, a file out. No SQL of anybody runs here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path


def write_parquet(stream: bytes, names: Sequence[str], target: Path) -> int:
    """Write what an Arrow IPC stream holds, its columns under these names; how many rows that are. Raises OSError."""
    import duckdb  # noqa: PLC0415 - only who asks for Parquet waits for it
    import nanoarrow  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
    from nanoarrow.ipc import InputStream  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    rows = nanoarrow.ArrayStream(InputStream.from_readable(io.BytesIO(stream))).read_all()
    renamed = ", ".join(f'#{at} AS "{name.replace(chr(34), chr(34) * 2)}"' for at, name in enumerate(names, 1))
    with duckdb.connect() as connection:
        try:
            connection.from_arrow(rows).project(renamed).write_parquet(str(target), compression="zstd")
        except duckdb.IOException as error:
            raise OSError(str(error)) from error
    return len(rows)
