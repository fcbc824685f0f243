"""What is delivered, and how the executor shows itself to who takes it.

    rebase    the line as it is: one commit for each workstream
    squash    one commit on the run's base
    merge     a merge of the base and the line
    series    the commits of the line as patches, as `git format-patch` writes them; nothing is pushed

Invariants:

* Whatever the style, the tree is that of the verified head: no commit is replayed on anything.
* The commit follows from the line alone, so a delivery that is tried again pushes the same one.
* A credential reaches git by its environment, for the one address that it is meant for; no redirection is followed with it.
"""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from services.delivery import is_web
from services.events import DeliveryStyle
from services.executor.mirror import Mirror
from services.executor.secrets import referred
from services.executor.snapshot import commit_tree

NAMED_MAX: Final = 1000
"""Workstreams that one commit names."""

SERIES_BYTES_MAX: Final = 64 * 1024 * 1024
LISTING_BYTES: Final = 256 * 1024 * 1024
_LOGIN: Final = "x-access-token"
"""The user of a token that comes without one."""


class Commit(msgspec.Struct, frozen=True):
    """A commit of the line: its subject, whose work it is, and whether that is taken out by it."""

    subject: str
    workstream: str
    reverts: bool


class Story(msgspec.Struct, frozen=True):
    """What a line tells of itself, in the order of its commits."""

    run: str
    commits: tuple[Commit, ...]

    @property
    def workstreams(self) -> list[str]:
        """Those whose work is on the line at its end."""
        left: dict[str, None] = {}
        for commit in self.commits:
            left.pop(commit.workstream, None)
            if commit.workstream and not commit.reverts:
                left[commit.workstream] = None
        return list(left)

    @property
    def title(self) -> str:
        """One line."""
        count = len(self.workstreams)
        return f"Swell run {self.run}: {count} workstream{'s' if count != 1 else ''}"

    @property
    def body(self) -> str:
        """A list of the commits."""
        lines = [f"* {commit.subject}" for commit in self.commits[:NAMED_MAX]]
        if len(self.commits) > NAMED_MAX:
            lines.append(f"* and {len(self.commits) - NAMED_MAX} more")
        return "\n".join(lines)

    def message(self) -> str:
        """The message of a commit that holds all of it."""
        trailers = [f"Swell-Run: {self.run}", *(f"Swell-Workstream: {name}" for name in self.workstreams[:NAMED_MAX])]
        return "\n".join([self.title, "", self.body, "", *trailers, ""])


async def told(mirror: Mirror, *, run: str, base: str, head: str) -> Story:
    """What the commits from `base` to `head` say."""
    shown = (
        "%s%x00%(trailers:key=Swell-Workstream,valueonly,separator=%x20)%x00%(trailers:key=Swell-Reverts,valueonly)%x00"
    )
    listed = await mirror.git(
        "log", "--reverse", "--no-show-signature", f"--format={shown}", f"{base}..{head}", output_bytes=LISTING_BYTES
    )
    fields = [field.strip() for field in listed.decode("utf-8", "replace").split("\0")]
    triples = zip(fields[::3], fields[1::3], fields[2::3], strict=False)
    return Story(run, tuple(Commit(subject, workstream, bool(reverts)) for subject, workstream, reverts in triples))


async def dressed(mirror: Mirror, story: Story, *, style: DeliveryStyle, base: str, head: str) -> str:
    """The commit to deliver: `head`, or another one with its tree."""
    if style == "rebase":
        return head
    time_s = int(await mirror.git("log", "-1", "--no-show-signature", "--format=%ct", head))
    parents = [base] if style == "squash" else [base, head]
    commit = await commit_tree(mirror.git, await mirror.tree(head), parents, story.message(), time_s * 10**9)
    mirror.learn(commit, await mirror.tree(head))
    return commit


async def patches(mirror: Mirror, *, base: str, head: str) -> bytes:
    """The commits of the line as one mailbox. Raises GitError when they are larger than SERIES_BYTES_MAX."""
    return await mirror.git(
        "format-patch", "--stdout", "--numbered", "--always", "--binary", "--full-index", "--no-renames",
        "--no-signature", "--no-attach", "--no-color", "--no-ext-diff", "--no-textconv", f"{base}..{head}",
        output_bytes=SERIES_BYTES_MAX,
    )  # fmt: skip


def access(location: str, reference: str, hidden: Sequence[Path]) -> tuple[dict[str, str], str]:
    """What git needs in its environment to be let in, and the secret in it. Raises SecretMissingError.

    `hidden` are the executor's own credentials, which nobody may refer to.
    """
    if not reference:
        return {}, ""
    secret = referred("of the delivery", reference, hidden)
    if not is_web(location):
        key = shlex.quote(reference.removeprefix("file:"))
        return {"GIT_SSH_COMMAND": f"ssh -i {key} -o IdentitiesOnly=yes -o BatchMode=yes"}, secret
    login = secret if ":" in secret else f"{_LOGIN}:{secret}"
    shown = base64.b64encode(login.encode("utf-8", "surrogateescape")).decode()
    parts = urlsplit(location)
    settings = {
        f"http.{parts.scheme}://{parts.netloc}/.extraHeader": f"Authorization: Basic {shown}",
        "http.followRedirects": "false",
    }
    environment = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return environment, secret


def delivery_key(*, location: str, ref: str, commit: str) -> str:
    """The same for the same commit on the same branch, however often it is delivered."""
    return hashlib.sha256(f"{location}\n{ref}\n{commit}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
