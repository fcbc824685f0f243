"""Who may do what on the bus: one table, for whoever configures a nats-server.

    python -m services.permissions --pools default,gpu --format nats-conf|markdown

Each service has a user of its own, and executors one for each pool (`gpu`) or one for each executor (`gpu/e1`). What the
configuration of a server says, what docs/nats.md lists and what tests try out is made from these lists and nothing else.

Invariants: nobody but the scheduler makes streams, writes decisions, commands or leases; executors make no consumer but
their pool's, so nothing is delivered in their name to where they may not write; nobody hears another's answers.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from services.bus_config import ARTIFACTS, COMMANDS, EVENTS, EXECUTORS, LEASES, SNAPSHOTS, inbox_of
from services.wire import token

OBJECTS: Final = f"OBJ_{ARTIFACTS}"
BEATS: Final = f"KV_{EXECUTORS}"
STREAMS: Final = (EVENTS, COMMANDS, OBJECTS, BEATS, f"KV_{LEASES}", f"KV_{SNAPSHOTS}")

SCHEDULER: Final = "swell-scheduler"
LEDGER: Final = "swell-ledger"
ADMIN: Final = "swell-admin"

NOTIFYING: Final = ("swell-notify-command", "swell-notify-webhook")
"""The durable consumers of the scheduler's notifications, one for each channel."""

Action = Literal["publish", "subscribe"]


class Grant(msgspec.Struct, frozen=True):
    """A subject or wildcard that may be published to or heard, and what for."""

    action: Action
    subject: str
    reason: str


class User(msgspec.Struct, frozen=True):
    """A user of the bus: all that it may do. `denied` is taken out of what it may publish to."""

    name: str
    grants: tuple[Grant, ...]
    denied: tuple[str, ...] = ()

    def subjects(self, action: Action) -> list[str]:
        """What it may publish to or hear."""
        return [grant.subject for grant in self.grants if grant.action == action]


def scheduler() -> User:
    """Decides: makes the streams, writes decisions, closes, commands and its lease; reads events, beats and artifacts."""
    return User(
        SCHEDULER,
        (
            *_publish("decisions, and what users ask", "swell.event.*.run", "swell.event.*.request"),
            *_publish("the closes of attempts that no executor ends", "swell.event.*.*.*"),
            *_publish("commands for executors", "swell.command.*.*.*.*"),
            *_publish("nudges: look at your attempt again", "swell.nudge.*.*"),
            *_publish("leadership", f"$KV.{LEASES}.scheduler"),
            *_publish("where the newest fold snapshot is", f"$KV.{SNAPSHOTS}.scheduler"),
            *_publish("definitions of runs and fold snapshots", f"$O.{ARTIFACTS}.C.*", f"$O.{ARTIFACTS}.M.*"),
            *_api("to remove fold snapshots that are superseded", f"STREAM.PURGE.{OBJECTS}"),
            *_api("to make the streams at its start", *(f"STREAM.CREATE.{name}" for name in STREAMS)),
            *_api("to check their settings", *(f"STREAM.INFO.{name}" for name in STREAMS)),
            *_reading(EVENTS, OBJECTS, f"KV_{SNAPSHOTS}"),
            *_api("to tell who leads", f"STREAM.MSG.GET.KV_{LEASES}"),
            *_following("the log", EVENTS),
            *_following("beats", BEATS),
            *_consuming("notifications", EVENTS, NOTIFYING),
            *_hearing(SCHEDULER),
        ),
    )


def ledger() -> User:
    """Reads events and artifacts, hears live output, writes nothing."""
    streams = (EVENTS, COMMANDS, OBJECTS)
    return User(
        LEDGER,
        (
            *_api("to check the settings of streams", *(f"STREAM.INFO.{name}" for name in streams)),
            *_reading(*streams),
            *_following("the log", EVENTS),
            *_hear("live output, for those who watch", "swell.live.*.*"),
            *_hearing(LEDGER),
        ),
    )


def executor(pool: str, one: str = "") -> User:
    """Claims and closes attempts, takes its pool's commands, writes artifacts, beats and live output.

    Of all executors of a pool, or of the one with this id, which then writes no other's beats. Raises
    services.wire.WireError for names that cannot stand in a subject.
    """
    name = f"swell-executor-{token(pool)}" + (f"@{token(one)}" if one else "")
    which = one or "*"
    commands = f"swell.command.{pool}.>"
    return User(
        name,
        (
            *_publish("the claims and closes of attempts", "swell.event.*.*.*"),
            *_publish("facts of attempts that are closed", "swell.event.*.*.*.late"),
            *_publish("what steps produce", f"$O.{ARTIFACTS}.C.*", f"$O.{ARTIFACTS}.M.*"),
            *_publish("beats", f"$KV.{EXECUTORS}.{pool}.{which}"),
            *_publish("live output", "swell.live.*.*"),
            *_api(
                "to check the settings of streams", *(f"STREAM.INFO.{s}" for s in (EVENTS, COMMANDS, OBJECTS, BEATS))
            ),
            *_reading(EVENTS, OBJECTS),
            *_api(
                "to make its pool's consumer, of its pool's commands", f"CONSUMER.CREATE.{COMMANDS}.{pool}.{commands}"
            ),
            *_consuming("its pool's commands", COMMANDS, (pool,)),
            *_hear("nudges", f"swell.nudge.{pool}.{which}"),
            *_hearing(name),
        ),
        denied=("swell.event.fleet.>",),
    )


def admin() -> User:
    """Removes archived runs from the log, and does nothing else; the ledger uses it if it is told to (docs/retention.md)."""
    return User(
        ADMIN,
        (
            *_api("to remove archived runs", f"STREAM.PURGE.{EVENTS}", f"STREAM.MSG.DELETE.{EVENTS}"),
            *_hearing(ADMIN),
        ),
    )


def users(pools: Iterable[str]) -> list[User]:
    """Everybody's, with executors for each of `pools`, each `pool` or `pool/executor`."""
    executors = [executor(*text.partition("/")[::2]) for text in pools]
    return [scheduler(), ledger(), *executors, admin()]


def password_variable(user: str) -> str:
    """The variable of the nats-server's environment that holds a user's password."""
    return re.sub(r"[^A-Z0-9]", "_", user.upper()) + "_PASSWORD"


def nats_conf(table: Sequence[User], passwords: Mapping[str, str] | None = None) -> str:
    """The `authorization` block of a nats-server's configuration.

    `passwords`: the password, or its bcrypt hash, by user name; without them each is a variable of the server's environment.
    Raises ValueError when two users would share one.
    """
    variables = [password_variable(user.name) for user in table]
    if passwords is None and len(set(variables)) < len(variables):
        raise ValueError("two pools differ only in what a variable's name cannot say: rename one")
    lines = ["authorization {", "  users: ["]
    for user, variable in zip(table, variables, strict=True):
        password = f"${variable}" if passwords is None else json.dumps(passwords[user.name])
        publish = {"allow": user.subjects("publish")} | ({"deny": list(user.denied)} if user.denied else {})
        lines += [
            "    {",
            f"      user: {json.dumps(user.name)}",
            f"      password: {password}",
            "      permissions: {",
            f"        publish: {json.dumps(publish)}",
            f"        subscribe: {json.dumps({'allow': user.subjects('subscribe')})}",
            "      }",
            "    }",
        ]
    return "\n".join([*lines, "  ]", "}", ""])


def markdown(table: Sequence[User]) -> str:
    """The table for people."""
    parts = []
    for user in table:
        rows = [f"| {grant.action} | `{grant.subject}` | {grant.reason} |" for grant in user.grants]
        rows += [f"| never publish | `{subject}` | whatever is allowed above |" for subject in user.denied]
        parts.append("\n".join([f"### `{user.name}`", "", "| may | subject | what for |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _publish(reason: str, *subjects: str) -> list[Grant]:
    return [Grant("publish", subject, reason) for subject in subjects]


def _hear(reason: str, *subjects: str) -> list[Grant]:
    return [Grant("subscribe", subject, reason) for subject in subjects]


def _api(reason: str, *calls: str) -> list[Grant]:
    return _publish(reason, *(f"$JS.API.{call}" for call in calls))


def _hearing(user: str) -> list[Grant]:
    return _hear("answers to what it asks", f"{inbox_of(user)}.>")


def _reading(*streams: str) -> list[Grant]:
    return _api("to read single messages", *(f"STREAM.MSG.GET.{stream}" for stream in streams))


def _following(what: str, stream: str) -> list[Grant]:
    """A consumer for a while, whose server waits until what it sent is taken."""
    return [
        *_api(f"to follow {what}", f"CONSUMER.CREATE.{stream}.*", f"CONSUMER.DELETE.{stream}.*"),
        *_publish(f"to keep pace with {what}", f"$JS.FC.{stream}.>", f"$JS.FC.*.*.{stream}.>"),
    ]


def _consuming(what: str, stream: str, names: Iterable[str]) -> list[Grant]:
    """A durable consumer that exists, or that another grant lets one make. Servers have two forms of acknowledging."""
    return [
        grant
        for name in names
        for grant in (
            *_api(f"to take {what}", f"CONSUMER.INFO.{stream}.{name}", f"CONSUMER.MSG.NEXT.{stream}.{name}"),
            *_publish(f"to acknowledge {what}", f"$JS.ACK.{stream}.{name}.>", f"$JS.ACK.*.*.{stream}.{name}.>"),
        )
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; the exit code is 2 when what was asked for does not exist."""
    parser = argparse.ArgumentParser(prog="python -m services.permissions", description="Who may do what on the bus.")
    parser.add_argument(
        "--pools", default="default", help="pools of executors, or pool/executor, with commas between them"
    )
    parser.add_argument("--format", choices=("nats-conf", "markdown"), default="nats-conf")
    given = parser.parse_args(arguments)
    try:
        table = users(given.pools.split(","))
        text = nats_conf(table) if given.format == "nats-conf" else markdown(table)
    except ValueError as error:
        sys.stderr.write(f"permissions: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
