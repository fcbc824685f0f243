"""Reading source files within limits."""

from pathlib import Path

#: Larger files are refused: no source that people edit has this size.
FILE_BYTES = 2_000_000


def read(path: Path) -> str:
    """The text of a source file, line ends as they are.

    Raises:
        OSError: it cannot be read.
        ValueError: too large, or not UTF-8; the text says which file and what to do.
    """
    content = path.read_bytes()
    if len(content) > FILE_BYTES:
        raise ValueError(f"{path}: larger than {FILE_BYTES} bytes; leave it out of the file scope")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); convert it first") from error
