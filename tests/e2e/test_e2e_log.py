"""The log itself, message by message as the bus has it, after everything the other tests did to the cluster."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import checker
import msgspec
import pytest
from lab import SECRETS, Lab, bundle, commit_files, sh

from services.bus import Bus, BusConfig


class Message(msgspec.Struct, frozen=True):
    """One message of SWELL_EVENTS."""

    sequence: int
    subject: str
    entry: dict[str, Any]

    @property
    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.entry["events"]]


@pytest.fixture(scope="module")
def messages(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    """All of them, after one more run."""
    repo = tmp_path_factory.mktemp("log") / "repo"
    commit_files(repo, {"a.txt": "", "swell.toml": 'static_tools = ["pass"]\n'})
    tools = {"edit": sh('echo new >> "$1"'), "pass": sh("true", "-")}
    last = lab.run(repo, [bundle("ws-a", "edit", "a.txt")], tools).run.position
    settings = tomllib.loads((lab.state_dir / "config" / "ledger.toml").read_text())["bus"]
    config = BusConfig(**{**settings, "password_file": Path(settings["password_file"])})
    return asyncio.run(_read(config, last))


async def _read(config: BusConfig, last: int) -> list[Message]:
    bus = await Bus.connect(config, name="swell-e2e")
    found: list[Message] = []
    try:
        async with asyncio.timeout(30):
            async for batch in bus.follow(after=0):
                found += [Message(one.sequence, one.subject, json.loads(one.data)) for one in batch]
                if found[-1].sequence >= last:
                    break
    finally:
        await bus.close()
    return found


def test_no_message_is_missing(messages: list[Message]) -> None:
    """Nothing was ever removed, whatever was killed: the sequence has no gap."""
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))


def test_ids_are_unique(messages: list[Message]) -> None:
    """No entry was appended twice, whatever became of its acknowledgement."""
    assert len({message.entry["id"] for message in messages}) == len(messages)


def test_an_attempts_subject_holds_a_claim_and_a_close(messages: list[Message]) -> None:
    """At most two entries, by whoever may write them; late facts stand apart."""
    subjects: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        subjects[message.subject].append(message)
    for subject, found in subjects.items():
        kinds = [kind for message in found for kind in message.kinds]
        writers = {message.entry["by"].partition(":")[0] for message in found}
        place = subject.split(".")
        if place[-1] == "late":
            assert set(kinds) <= checker.LATE, subject
            assert writers == {"executor"}, subject
        elif place[-1].isdigit():
            assert kinds[:-1] in ([], ["step_started"]), subject
            assert kinds[-1] in checker.CLOSES, subject
            assert kinds[0] in {"step_started", "step_cancelled"}, subject
            assert found[-1].entry["by"].startswith("executor" if kinds[-1] == "step_finished" else "scheduler"), (
                subject
            )
        elif place[-1] == "run":
            assert writers == {"scheduler"}, subject


def test_the_ledger_lists_the_log(lab: Lab, messages: list[Message]) -> None:
    """Every event of every run, in order, with its whole content; also after the ledger was killed."""
    recorded: dict[str, list[tuple[int, int, dict[str, Any]]]] = defaultdict(list)
    for message in messages:
        run = message.subject.split(".")[2]
        recorded[run] += [(message.sequence, at, event) for at, event in enumerate(message.entry["events"])]
    for run, expected in recorded.items():
        listed = [(event.position, event.index, event.payload) for event in lab.client.list_events(run)]
        assert listed[: len(expected)] == expected, run


def test_no_secret_is_in_the_log(lab: Lab, messages: list[Message]) -> None:
    text = json.dumps([message.entry for message in messages])
    secrets = [file.read_text().strip() for file in Path(lab.state_dir, "secrets").iterdir()]
    for secret in [*secrets, *SECRETS.values()]:
        assert secret not in text
