"""Writes golden/ from samples.py: `python tests/wire/regenerate.py`, once for a new kind or field.

The tests only read what it wrote. A golden file that changes is a message that other versions no longer understand.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import samples  # noqa: E402

from services.wire import Entry, encode_command, encode_entry  # noqa: E402

GOLDEN = HERE / "golden"


def full_entry(event):
    """Every field of the envelope set."""
    return Entry(
        id="9" * 32,
        run="r1",
        at_ns=1_790_000_000_000_000_004,
        by="scheduler:s1",
        events=[event],
        seen=41,
        cause="8" * 32,
    )


def minimal_entry(event):
    """Only what an envelope must have."""
    return Entry(id="i", run="r", at_ns=0, by="b", events=[event])


def document(full: bytes, minimal: bytes) -> bytes:
    """Both forms byte for byte, in a file that is JSON itself."""
    return b'{"full":' + full + b',\n"minimal":' + minimal + b"}\n"


def main() -> None:
    """Write every file."""
    GOLDEN.mkdir(exist_ok=True)
    for kind, event in samples.FULL.items():
        data = document(encode_entry(full_entry(event)), encode_entry(minimal_entry(samples.MINIMAL[kind])))
        (GOLDEN / f"{kind}.json").write_bytes(data)
    for kind, command in samples.FULL_COMMANDS.items():
        data = document(encode_command(command), encode_command(samples.MINIMAL_COMMANDS[kind]))
        (GOLDEN / f"{kind}.json").write_bytes(data)


if __name__ == "__main__":
    main()
