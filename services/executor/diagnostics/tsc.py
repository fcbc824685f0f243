"""What ``tsc --noEmit --pretty false`` prints: `a.ts(1,7): error TS2322: …`, and without a place `error TS18003: …`.

Lines that are indented go on with the message before them; any others are not the compiler's and are passed over.
Nothing at all is its way to say that all is well. Exit codes: 0, 1 or 2 errors.
"""

import re

from services.executor.diagnostics.report import MESSAGE_CHARS, Findings, clean, digits, lines_of, severity

_PLACED = re.compile(r"\((\d{1,9}),(\d{1,9})\): (error|warning|message|suggestion) (TS\d{1,6}): ")
_BARE = re.compile(r"(error|warning|message|suggestion) (TS\d{1,6}): ")
_LINE_CHARS = 10_000


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each line that names an error's number."""
    heading: re.Match[str] | None = None
    text = ""
    for full in lines_of(data):
        line = clean(full, _LINE_CHARS)
        if line.startswith(" "):
            if heading is not None and len(text) < MESSAGE_CHARS:
                text += f"\n{line}"
            continue
        _add(heading, text, found)
        heading = _PLACED.search(line) or _BARE.match(line)
        text = line[heading.end() :] if heading is not None else ""
    _add(heading, text, found)


def _add(heading: re.Match[str] | None, text: str, found: Findings) -> None:
    if heading is None:
        return
    path, line, column = "", None, None
    *place, word, code = heading.groups()
    if place:
        path, line, column = heading.string[: heading.start()], digits(place[0]), digits(place[1])
    found.add(
        tool="tsc",
        path=path,
        line=line,
        column=column,
        severity="info" if word in {"message", "suggestion"} else severity(word),
        code=code,
        message=text,
    )
