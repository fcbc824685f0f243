"""Where a verified head may be delivered, and which credentials may be shown there. Pure.

    an absolute path                        no credentials
    https://…, http://…                     `env:NAME` or `file:/path`: "user:password", or a token alone
    ssh://…, user@host:path                 `file:/path`: a private key

An address that runs programs or carries credentials itself is none. What a reference stands for is known to executors only.
"""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, urlsplit

from services.events import Destination

REMOTE_CHARS_MAX: Final = 4096
CREDENTIAL_CHARS_MAX: Final = 1024

_SSH: Final = re.compile(r"\A(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*:[^:]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_HELPER: Final = re.compile(r"\A[A-Za-z0-9+.-]*::")  # `ext::command` and its like run programs
_SCHEMES: Final = ("http", "https", "ssh", "file")
_REFERENCE: Final = re.compile(r"\A(?:env:[A-Za-z_][A-Za-z0-9_]{0,199}|file:/[^\x00-\x1f\x7f]*)\Z")


def location_problem(location: str) -> str:
    """Why this is no location of a repository that git may use; '' if it is an absolute path or an address."""
    if not location or location.startswith("-") or _HELPER.match(location) or _CONTROL.search(location):
        return "is no location of a repository"
    if "://" in location:
        try:
            parts = urlsplit(location)
        except ValueError:
            return "is no address git may use"
        if parts.scheme not in _SCHEMES or (parts.hostname or "").startswith("-") or not parts.path.strip("/"):
            return "is no address git may use"
    elif not location.startswith("/") and not _SSH.match(location):
        return "is neither absolute nor an address"
    return ""


def is_among(location: str, places: Collection[str]) -> bool:
    """Whether a location is one of these, or below one of them; anything is among none.

    They are compared as they are written, part by part: "https://git.example/team" has "https://git.example/team/app" below
    it, not "https://git.example/team-b/app" and not "https://user@git.example/team/app". Nothing with a ".." is among any.
    """
    if not places:
        return True
    if ".." in re.split(r"[/:]", unquote(location)):
        return False
    return any(location == place or location.startswith(_below(place)) for place in places)


def _below(place: str) -> str:
    return place if place.endswith(("/", ":")) else f"{place}/"


def carries_credentials(location: str) -> bool:
    """Whether a location holds a password or token itself, which would be recorded with it. An ssh user's name is none.

    Nothing that git fetches from needs a query, and tokens are put there.
    """
    if "://" not in location:
        return not location.startswith("/") and "@" in location.partition(":")[2].partition("/")[0]
    try:
        parts = urlsplit(location)
    except ValueError:
        return "@" in location
    in_front = "@" in parts.netloc if parts.scheme in ("http", "https") else parts.password is not None
    return in_front or bool(parts.query) or bool(parts.fragment)


def is_web(location: str) -> bool:
    """Whether git speaks HTTP with it."""
    return location.startswith(("http://", "https://"))


def is_local(location: str) -> bool:
    """Whether it is on the executor's own machine."""
    return location.startswith(("/", "file://"))


def destination_problem(to: Destination, location: str) -> str:
    """What is wrong with a destination of a run over the repository at `location`, with a remedy; '' for nothing."""
    where = to.remote or location
    if len(to.remote) > REMOTE_CHARS_MAX:
        return f"remote is longer than {REMOTE_CHARS_MAX} characters: give an absolute path or an address"
    if to.remote and (problem := location_problem(to.remote)):
        return f"remote {problem}: give an absolute path, or an http(s), ssh or file address"
    if carries_credentials(to.remote):
        return "remote carries credentials, which would be recorded: give a reference to them, env:NAME or file:/path"
    if not to.credential:
        return ""
    if len(to.credential) > CREDENTIAL_CHARS_MAX or not _REFERENCE.match(to.credential):
        return 'credential is no reference: write "env:NAME" or "file:/absolute/path" of the executors\' machine'
    if is_local(where):
        return "credential is for an address: a path of the executors' machine takes none"
    if not is_web(where) and not to.credential.startswith("file:"):
        return 'credential of an ssh address is a private key: write "file:/absolute/path"'
    return ""
