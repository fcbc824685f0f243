"""Secrets: values that a tool is handed by reference, and that must not come back in anything that is kept of it.

    profile: {"ANTHROPIC_API_KEY": "env:TEAM_KEY"} ──▶ resolved at the start of the tool ──▶ its environment alone
                                                              └──▶ masked, as it is and encoded, in what it leaves

Invariants:

* A value is in no event, error text or log of ours; errors name the reference.
* What is masked, services.masking says.
* What a tool made (snapshots, bundles, patches) is never rewritten; `Secrets.holds` tells whether a known value stands in it.
"""

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog

from services.masking import ADDRESS, SECRET_CHARS_MIN, Secrets
from services.profiles import ToolProfile

log = structlog.get_logger()

SECRET_BYTES_MAX: Final = 64 * 1024
REMEMBERED_MAX: Final = 1000
"""Values that are kept out of the log of this process: the newest that were gathered."""

_SECRET_NAME: Final = re.compile(
    r"KEY|TOKEN|SECRET|PASS(?:WORD|WD|PHRASE)?(?:\Z|_)|PWD\Z|CREDENTIAL|AUTH|COOKIE|PRIVATE|SIGNATURE|(?:\A|_)PAT\Z",
    re.IGNORECASE,
)
_NOT_ITSELF: Final = re.compile(r"_(?:DIR|ENDPOINT|FILE|HOST|ID|MODEL|NAME|PATH|PORT|SOCK|URL)\Z", re.IGNORECASE)
"""Variables whose value is a secret by their name: not one that only says where it is. A value that is an address with a
password is one, whatever the name; any other ordinary value would make ordinary work look like a leak."""


class SecretMissingError(Exception):
    """A reference leads to no secret that can be used; the text names the reference and what to do, never a value."""


def resolved(profile: ToolProfile, hidden: Sequence[Path] = ()) -> dict[str, str]:
    """The profile's secrets by variable, from the executor's environment and from files.

    `hidden` are the executor's own credentials, which nobody may refer to. Raises SecretMissingError.
    """
    return {name: referred(name, reference, hidden) for name, reference in profile.secrets.items()}


def gathered(profiles: Iterable[ToolProfile], hidden: Sequence[Path] = (), besides: Iterable[str] = ()) -> Secrets:
    """All that any of these profiles hands to its tool, as far as it is there, and more: what is to be masked."""
    values: dict[str, None] = dict.fromkeys(besides)
    for profile in profiles:
        for name in profile.env_allow:
            value = os.environ.get(name, "")
            if is_secret(name, value):
                values[value] = None
        for name, reference in profile.secrets.items():
            try:
                values[referred(name, reference, hidden)] = None
            except SecretMissingError:
                continue
    _logs.remember(values)
    return Secrets(values)


class _Logs:
    """What is kept out of the log of this process."""

    def __init__(self) -> None:
        self._values: dict[str, None] = {}
        self._secrets = Secrets(())

    def remember(self, values: Iterable[str]) -> None:
        fresh = [value for value in values if value not in self._values]
        if not fresh:
            return
        self._values |= dict.fromkeys(fresh)
        while len(self._values) > REMEMBERED_MAX:
            del self._values[next(iter(self._values))]
        self._secrets = Secrets(self._values)

    def mask(self, text: str) -> str:
        return self._secrets.mask_text(text)


_logs = _Logs()


def masked_for_log(text: str) -> str:
    """The text without any value that was gathered in this process, whichever attempt it was for, or looks like a secret."""
    return _logs.mask(text)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable holds a secret: by its name, or because it is an address with a password."""
    named = _SECRET_NAME.search(name) and not _NOT_ITSELF.search(name)
    return bool(named or ADDRESS.search(os.fsencode(value)))


def referred(name: str, reference: str, hidden: Sequence[Path] = ()) -> str:
    """What a reference stands for, `env:NAME` or `file:/path`; `name` is what messages call it. Raises SecretMissingError."""
    kind, _, target = reference.partition(":")
    value = _of_variable(name, target) if kind == "env" else _of_file(name, Path(target), hidden)
    if len(value) < SECRET_CHARS_MIN:
        raise SecretMissingError(
            f"the secret {name} ({reference}) has fewer than {SECRET_CHARS_MIN} characters, too few to be told from other "
            "text in what is kept: use a longer one"
        )
    if "\0" in value:
        raise SecretMissingError(f"the secret {name} ({reference}) holds NUL, which no variable can: store it without")
    return value


def _of_variable(name: str, variable: str) -> str:
    value = os.environ.get(variable)
    if value is None:
        raise SecretMissingError(
            f"the secret {name} (env:{variable}) is not there: set {variable} in the executor's environment"
        )
    return value


_warned: set[Path] = set()


def _of_file(name: str, path: Path, hidden: Sequence[Path]) -> str:
    where = f"the secret {name} (file:{path})"
    real = Path(os.path.realpath(path))
    if any(real.is_relative_to(os.path.realpath(own)) for own in hidden):
        raise SecretMissingError(f"{where} is the executor's own: name a file that is meant for tools")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SecretMissingError(f"{where} cannot be read ({error.strerror}): put it there, readable for us") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretMissingError(f"{where} is no regular file: name one")
        data = file.read(SECRET_BYTES_MAX + 1)
    if len(data) > SECRET_BYTES_MAX:
        raise SecretMissingError(
            f"{where} is larger than {SECRET_BYTES_MAX} bytes: name the file that holds the secret alone"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and path not in _warned:
        _warned.add(path)
        log.warning("executor.secret_file_open_to_others", file=str(path), remedy="chmod 600")
    return data.decode("utf-8", "surrogateescape").rstrip("\r\n")
