"""A patch series as files: what the executor kept as one mailbox, parted into what `git am` takes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path
from typing import Final

import msgspec

from swell.errors import invalid

_FROM: Final = re.compile(rb"^From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001$", re.MULTILINE)
"""How each mail of `git format-patch` begins; no line of a patch can look like that."""

_SUBJECT: Final = re.compile(rb"^Subject: \[PATCH[^\]]*\] (.*(?:\n[ \t].*)*)", re.MULTILINE)
_NAME_CHARS: Final = 60


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a run's series, in order."""

    run: str
    files: list[str]


def parted(mailbox: bytes) -> Iterator[tuple[str, bytes]]:
    """The mails with the names of their files, 0001-….patch and so on."""
    starts = [found.start() for found in _FROM.finditer(mailbox)]
    for number, (start, end) in enumerate(itertools.pairwise([*starts, len(mailbox)]), 1):
        mail = mailbox[start:end]
        found = _SUBJECT.search(mail)
        subject = _read(found[1]) if found is not None else ""
        words = re.sub(r"[^A-Za-z0-9_.]+", "-", subject).strip("-.")[:_NAME_CHARS].strip("-.")
        yield f"{number:04}-{words or 'patch'}.patch", mail


def _read(subject: bytes) -> str:
    """A subject as text: git encodes one that is not ASCII."""
    text = subject.decode("utf-8", "replace")
    try:
        return str(make_header(decode_header(text)))
    except (LookupError, ValueError, HeaderParseError):
        return text


def write_series(mailbox: bytes, folder: Path) -> list[Path]:
    """Write the files into a folder that has no patches yet, made if need be. Raises SwellError SERIES_NOT_WRITTEN."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.patch")):
            raise invalid("SERIES_NOT_WRITTEN", "there are patches already", "Name another folder.", str(folder))
        files = []
        for name, mail in parted(mailbox):
            (folder / name).write_bytes(mail)
            files.append(folder / name)
    except OSError as error:
        raise invalid(
            "SERIES_NOT_WRITTEN", f"cannot be written: {error.strerror}", "Name a folder of yours.", str(folder)
        ) from error
    return files
