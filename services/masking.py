"""Masks secrets in text: known values, in every form they may take, and what looks like one by its shape.

Invariants:

* A known value is masked wherever it stands, in its base64 (whatever it is encoded together with), URL and JSON forms.
* What only looks like a secret is masked by its shape: well-known prefixes of keys, private keys, passwords in addresses,
  and random text beside a key that says it is secret. Random text alone is not: git ids look like that.
"""

import base64
import itertools
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Final

SECRET_CHARS_MIN: Final = 8
"""Shorter values would mask ordinary text."""

LINE_CHARS_MIN: Final = 16
"""Of a value of several lines, such as a private key, each line of so many characters is a secret by itself."""

HELD_BYTES: Final = 4096
"""What of a line that has not ended yet is held back while it is streamed."""

STEPS_BACK_MAX: Final = 8
"""How often what is held back is extended by what may belong to it."""

KEY_BLOCK_BYTES: Final = 16 * 1024
MASK: Final = b"[secret]"

_TOKEN: Final = rb"[A-Za-z0-9_-]"
_SHAPES: Final = tuple(
    (needle, re.compile(pattern))
    for needle, pattern in (
        (b"sk-", rb"(?<![A-Za-z0-9_-])sk-(?=" + _TOKEN + rb"{0,300}?\d)" + _TOKEN + rb"{20,}"),
        (b"key_", rb"(?<![A-Za-z0-9_])key_(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{20,}"),
        *((f"gh{kind}_".encode(), f"gh{kind}_[A-Za-z0-9]{{30,}}".encode()) for kind in "pousr"),
        (b"github_pat_", rb"github_pat_[A-Za-z0-9_]{40,}"),
        (b"glpat-", rb"glpat-" + _TOKEN + rb"{20,}"),
        (b"xox", rb"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
        (b"AKIA", rb"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])"),
        (b"ASIA", rb"(?<![A-Z0-9])ASIA[A-Z0-9]{16}(?![A-Z0-9])"),
        (b"AIza", rb"AIza" + _TOKEN + rb"{35}"),
        (b"npm_", rb"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}"),
        (b"pypi-", rb"pypi-" + _TOKEN + rb"{50,}"),
        (b"hf_", rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}"),
        (b"eyJ", rb"(?<![A-Za-z0-9_-])eyJ" + _TOKEN + rb"{10,}+\.eyJ" + _TOKEN + rb"{10,}+\." + _TOKEN + rb"{10,}"),
    )
)
_BEGIN, _END = (
    re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"),
    re.compile(rb"-----END [A-Z ]{0,30}PRIVATE KEY-----"),
)
ADDRESS: Final = re.compile(rb"://[^/@\s:\"']{1,100}:([^/@\s\"']{3,200})@")
"""An address with a password, which is its group."""

_KEYS: Final = tuple(
    re.compile(re.escape(key))
    for key in (b"token", b"secret", b"passw", b"api_key", b"api-key", b"apikey", b"access_key", b"bearer", b"authoriz")
)
# In lower case, from a key (as far as `_KEYS` names it) to its value, which is random: letters and digits, twelve or more.
_BESIDE: Final = re.compile(
    rb"(?:or?d|ation)?(?:[_-]?(?:key|value))?(?:\\?[\"'])?(?:\s{0,3}[:=]>?\s{0,3}|(?<=bearer)\s)(?:\\?[\"'])?"
    rb"(?:(?:bearer|basic|token)\s)?"
    rb"((?=[a-z0-9+/_.~-]{0,200}?[0-9])(?=[a-z0-9+/_.~-]{0,200}?[a-z])[a-z0-9+/_.~-]{12,}={0,2})"
)
_CUT: Final = re.compile(rb"\n\[swell: \d+ bytes left out here\]\n")
_WORD: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_.~=-"


class Secrets:
    """Known values, and how they look in what is kept. See the module for what is masked."""

    def __init__(self, values: Iterable[str]) -> None:
        """Values of fewer than SECRET_CHARS_MIN characters are left alone."""
        forms: set[bytes] = set()
        for value in values:
            lines = [line for line in value.splitlines() if len(line) >= LINE_CHARS_MIN]
            for part in {value, *lines}:
                if len(part) >= SECRET_CHARS_MIN:
                    forms |= _forms(part)
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def holds(self, data: bytes) -> bool:
        """Whether a known value stands in it, in any form."""
        return any(form in data for form in self._forms)

    @property
    def known(self) -> bool:
        """Whether there is any value at all."""
        return bool(self._forms)

    def mask(self, data: bytes) -> bytes:
        """The same with every secret replaced, known or by its shape; what a cut has left of a known one as well."""
        for form in self._forms:
            if form in data:
                data = data.replace(form, MASK)
        if b"\n[swell: " in data and self._forms:
            data = self._mended(data)
        return _shapeless(data)

    def mask_known(self, text: str) -> str:
        """The text without the known secrets; what only looks like one is left: it may be the code that is talked about."""
        data = text.encode("utf-8", "surrogateescape")
        masked = data
        for form in self._forms:
            masked = masked.replace(form, MASK)
        return text if masked == data else masked.decode("utf-8", "replace")

    def mask_text(self, text: str) -> str:
        """The same for text."""
        data = text.encode("utf-8", "surrogateescape")
        masked = self.mask(data)
        return text if masked == data else masked.decode("utf-8", "replace")

    def stream(self) -> "Masking":
        """For output that comes in pieces."""
        return Masking(self)

    def _mended(self, data: bytes) -> bytes:
        """What the supervisor's cut left of a secret, at its end or its beginning."""
        marks = _CUT.findall(data)
        parts = _CUT.split(data)
        for at in range(len(marks)):
            ending = self.overlap(parts[at])
            if ending >= SECRET_CHARS_MIN:
                parts[at] = parts[at][: len(parts[at]) - ending] + MASK
            beginning = max((_common(form, parts[at + 1]) for form in self._forms), default=0)
            if beginning >= SECRET_CHARS_MIN:
                parts[at + 1] = MASK + parts[at + 1][beginning:]
        return b"".join(itertools.chain.from_iterable(itertools.zip_longest(parts, marks, fillvalue=b"")))

    def overlap(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of a known value."""
        longest = 0
        last = data[-1:]
        for form in self._forms if data else ():
            if last not in form:
                continue
            for count in range(min(len(form) - 1, len(data)), longest, -1):
                if data.endswith(form[:count]):
                    longest = count
                    break
        return longest


def _common(form: bytes, data: bytes) -> int:
    """How many bytes at the beginning of the data are an end of the form."""
    return next((n for n in range(min(len(form) - 1, len(data)), 0, -1) if data.startswith(form[-n:])), 0)


class Masking:
    """Masks a stream: whatever could still become a secret is held back, at most a line or HELD_BYTES of it."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown now."""
        data = self._held + data
        cut = data.rfind(b"\n") + 1
        if len(data) - cut > HELD_BYTES:
            cut = _word_start(data, len(data) - HELD_BYTES)
        opened = data.rfind(b"-----BEGIN ", 0, cut)
        if opened >= 0 and b"-----END " not in data[opened:cut] and cut - opened < KEY_BLOCK_BYTES:
            cut = opened
        for _ in range(STEPS_BACK_MAX):
            overlap = self._secrets.overlap(data[:cut])
            if not overlap:
                break
            cut = _word_start(data, cut - overlap)  # with what stands before it, it may be a secret by its shape
        self._held = data[cut:]
        return self._secrets.mask(data[:cut])

    def flush(self) -> bytes:
        """The rest, at the end of the stream."""
        data, self._held = self._held, b""
        return self._secrets.mask(data)


def _word_start(data: bytes, cut: int) -> int:
    """Where the word begins in which the cut would be; the cut itself if that is too far away."""
    before = data[max(cut - HELD_BYTES, 0) : cut]
    word_bytes = len(before) - len(before.rstrip(_WORD))
    return cut - word_bytes if word_bytes < HELD_BYTES else cut


def _forms(value: str) -> set[bytes]:
    raw = value.encode("utf-8", "surrogateescape")
    forms = {raw}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= {encode(raw), encode(raw).rstrip(b"=")}
        for before in range(3):  # what stands before it decides where its bits fall
            encoded = encode(b"\0" * before + raw)
            forms.add(encoded[-(-8 * before // 6) : 8 * (before + len(raw)) // 6])
    for quoted in (urllib.parse.quote(raw, safe=""), urllib.parse.quote(raw), urllib.parse.quote_plus(raw)):
        forms |= {quoted.encode(), re.sub(r"%..", lambda escape: escape.group().lower(), quoted).encode()}
    for ascii_only in (True, False):
        text = value if ascii_only else raw.decode("utf-8", "replace")
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for escaped in (once, once.replace("/", "\\/"), json.dumps(once, ensure_ascii=ascii_only)[1:-1]):
            forms.add(escaped.encode("utf-8", "surrogateescape"))
    return {form for form in forms if len(form) >= SECRET_CHARS_MIN}


def _shapeless(data: bytes) -> bytes:
    """Without what looks like a secret. What is looked for first is a plain text, which is fast."""
    for needle, shape in _SHAPES:
        if needle in data:
            data = shape.sub(MASK, data)
    spans = sorted(_values(data))
    if not spans:
        return data
    parts, at = [], 0
    for start, end in spans:
        if start >= at:
            parts += [data[at:start], MASK]
            at = end
    return b"".join([*parts, data[at:]])


def _blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Private keys from their first to their last line, or to the end; each is found with a bounded look ahead."""
    ends = [match.span() for match in _END.finditer(data)]
    at = 0
    for begun in _BEGIN.finditer(data):
        while at < len(ends) and ends[at][0] < begun.end():
            at += 1
        end = ends[at][1] if at < len(ends) else len(data)
        if end - begun.start() <= KEY_BLOCK_BYTES:
            yield begun.start(), end


def _values(data: bytes) -> Iterator[tuple[int, int]]:
    """Where private keys stand, and random text beside a key that says it is secret."""
    if b"PRIVATE KEY-----" in data:
        yield from _blocks(data)
    if b"@" in data:
        yield from (match.span(1) for match in ADDRESS.finditer(data))
    lower = data.lower()
    for key in _KEYS:
        for found in key.finditer(lower):
            if (beside := _BESIDE.match(lower, found.end())) is not None:
                yield beside.span(1)
