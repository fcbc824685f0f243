"""What undoes a completed workstream: the grammar of `compensation_actions`. Pure.

    cmd:<command line>    run in a worktree at the head of the run's line; quoting as in a shell, and no shell
    branch:delete         delete the run's delivered branch, if it stands where the run left it
    git:revert            reserved: understood, and not available in this version

An action is tried again after a crash, so what a command does twice should come to the same as doing it once.
"""

import re
import shlex
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

ACTION_CHARS_MAX: Final = 4096
ACTIONS_MAX: Final = 50
"""Actions of one workstream."""

WORDS_MAX: Final = 256
GRAMMAR: Final = 'Write "cmd:<command line>" or "branch:delete".'

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class CompensationError(ValueError):
    """An action cannot be understood; the text says which one, and what can be written instead."""


class Cmd(msgspec.Struct, frozen=True):
    """Run this command; exit code 0 is success."""

    argv: tuple[str, ...]


class BranchDelete(msgspec.Struct, frozen=True):
    """Delete the run's branch in the repository. A branch that is not there is a success."""


class GitRevert(msgspec.Struct, frozen=True):
    """Revert the run's commits."""


Action: TypeAlias = Cmd | BranchDelete | GitRevert


def parse_action(text: str) -> Action:
    """One action. Raises CompensationError."""
    shown = f"compensation action {text[:80]!a}"
    if len(text) > ACTION_CHARS_MAX:
        raise CompensationError(
            f"{shown} has {len(text)} characters, over {ACTION_CHARS_MAX}. Put the command into a script of the repository."
        )
    if _CONTROL.search(text):
        raise CompensationError(f"{shown} holds a control character or half of a surrogate pair. Remove it.")
    kind, colon, rest = text.strip().partition(":")
    match kind, rest.strip():
        case "cmd", command if colon:
            return Cmd(_words(command, shown))
        case "branch", "delete":
            return BranchDelete()
        case "git", "revert":
            return GitRevert()
        case _:
            raise CompensationError(f"{shown} is not known. {GRAMMAR}")


def parse_actions(texts: Sequence[str]) -> tuple[Action, ...]:
    """The actions of one workstream, in the order in which they are carried out. Raises CompensationError."""
    if len(texts) > ACTIONS_MAX:
        raise CompensationError(
            f"{len(texts)} compensation actions are more than {ACTIONS_MAX}. Put them into one script."
        )
    return tuple(map(parse_action, texts))


def _words(command: str, shown: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise CompensationError(
            f"{shown}: {error}. Close every quotation, or write \\ before a mark that is none."
        ) from error
    if not words or not words[0]:
        raise CompensationError(f"{shown} names no command. {GRAMMAR}")
    if len(words) > WORDS_MAX:
        raise CompensationError(f"{shown} has {len(words)} words, over {WORDS_MAX}. Put the command into a script.")
    return tuple(words)
