"""The bus of the simulation: one log with expected sequences, a work queue for commands, two buckets whose keys expire.

What goes wrong on the way is drawn here: requests and answers get lost or late, commands are lost, doubled, reordered.
What an unanswered or refused append came to is judged by services.fence, as on the real bus.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from services.commands import RunStep
from services.events import AnyEvent, RunFinished
from services.fence import judge
from services.wire import (
    Entry,
    Recorded,
    decode_command,
    decode_entry,
    encode_command,
    encode_entry,
)
from tests.simulation.clockwork import SECOND_NS, Clockwork, Process

Answer = Literal["ok", "refused", "unavailable"]
Done = Callable[[Answer, int], None]

ANSWER_S = 5.0
"""How long an append waits for its answer before it looks for itself."""
APPEND_TIMEOUT_S = 30.0
ACK_WAIT_S = 30.0

_encoder = msgspec.json.Encoder()


class Mix(msgspec.Struct, kw_only=True):
    """What goes wrong in a run, as probabilities of each single occasion."""

    lose_request: float = 0.0
    lose_answer: float = 0.0
    late_request: float = 0.0
    lose_command: float = 0.0
    double_command: float = 0.0
    reorder: bool = False
    lose_beat: float = 0.0
    everybody_leads: float = 0.0
    codec: bool = False


class Command(msgspec.Struct):
    """A command that waits for its acknowledgement."""

    subject: str
    pool: str
    sequence: int
    command: RunStep
    flying: bool = False
    deliveries: int = 0


class Broker:
    """Everything that is stored, and who is told of it."""

    __slots__ = (
        "_dispatching",
        "_keys",
        "beats",
        "before_final",
        "clockwork",
        "commands",
        "down",
        "entries",
        "followers",
        "lease",
        "lease_ttl_ns",
        "log",
        "mix",
        "newest",
        "newest_of_run",
        "stored",
        "time_ns",
        "workers",
    )

    def __init__(self, clockwork: Clockwork, mix: Mix, *, lease_ttl_s: float) -> None:
        self.clockwork = clockwork
        self.mix = mix
        self.lease_ttl_ns = int(lease_ttl_s * SECOND_NS)
        self.down = False
        self.log: list[Recorded] = []
        self.entries: list[Entry] = []
        self.newest: dict[str, Recorded] = {}
        self.newest_of_run: dict[str, Recorded] = {}
        self.time_ns = 0
        self.followers: list[Process] = []
        self.commands: dict[str, Command] = {}
        self.workers: list[Any] = []
        self.beats: dict[str, tuple[int, Any]] = {}
        self.lease: tuple[int, int, str] = (0, 0, "")
        self._keys = 0
        self._dispatching = False
        self.before_final: Callable[[str], None] | None = None
        self.stored: Callable[[Recorded, Entry], None] | None = None

    # The log

    def encoded(self, entry: Entry) -> tuple[bytes, Entry]:
        """An entry as bytes, and as everybody reads it from them."""
        if self.mix.codec:
            data = encode_entry(entry)
            return data, decode_entry(data)
        return _encoder.encode(entry), entry

    def last(self, subject: str) -> Recorded | None:
        if subject.endswith(".>"):
            return self.newest_of_run.get(subject[:-2])
        return self.newest.get(subject)

    def store(self, subject: str, data: bytes, entry: Entry, expect: int | None, over: str = "") -> int:
        """The sequence, 0 when something else than `expect` stands there."""
        if expect is not None:
            if self.before_final is not None and subject.endswith(".run") and final(entry.events):
                self.before_final(entry.run)
            found = self.last(over or subject)
            if (found.sequence if found is not None else 0) != expect:
                return 0
        self.time_ns = max(self.time_ns + 1, self.clockwork.now_ns)
        recorded = Recorded(len(self.log) + 1, subject, self.time_ns, data)
        self.log.append(recorded)
        self.entries.append(entry)
        self.newest[subject] = recorded
        self.newest_of_run[f"swell.event.{entry.run}"] = recorded
        for follower in self.followers:
            follower.grown()  # type: ignore[attr-defined]
        if self.stored is not None:
            self.stored(recorded, entry)
        return recorded.sequence

    def scribble(self, subject: str, run: str) -> None:
        """Somebody writes what no version understands."""
        nothing = Entry(id="", run=run, at_ns=0, by="nobody", events=[])
        self.store(subject, b"\xff\x00 no entry", nothing, None)

    def latency_s(self) -> float:
        return 0.0005 + self.clockwork.draw() * 0.002

    def append(
        self, process: Process, subject: str, entry: Entry, expect: int | None, done: Done, over: str = ""
    ) -> None:
        """services.bus.Bus.append (and, without `expect`, add), from send to answer; `done` runs in `process`."""
        data, read = self.encoded(entry)
        _Append(self, process, subject, data, read, expect, over, done).send()

    # Commands

    def command(self, subject: str, command: RunStep) -> None:
        """Offered to the executors, unless its subject holds one already."""
        if self.down or subject in self.commands:
            return
        if self.mix.codec:
            read = decode_command(encode_command(command))
            assert read == command, "a command does not survive its own encoding"
            command = read
        if self.clockwork.chance(self.mix.lose_command, "command lost"):
            return
        self._keys += 1
        self.commands[subject] = Command(subject, command.step.pool, self._keys, command)
        self.kick()

    def kick(self) -> None:
        """Something may be delivered."""
        if not self._dispatching and self.commands:
            self._dispatching = True
            self.clockwork.after(self.latency_s(), self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        if self.down:
            return
        waiting = [command for command in self.commands.values() if not command.flying]
        if self.mix.reorder and len(waiting) > 1 and self.clockwork.faulty:
            self.clockwork.faults["commands reordered"] += 1
            self.clockwork.random.shuffle(waiting)
        for command in waiting:
            free = [worker for worker in self.workers if worker.takes(command.pool)]
            if not free:
                continue
            command.flying = True
            command.deliveries += 1
            self._deliver(self.clockwork.random.choice(free), command)
            if self.clockwork.chance(self.mix.double_command, "command doubled"):
                self._deliver(self.clockwork.random.choice(free), command)
            self.clockwork.after(ACK_WAIT_S, self._overdue, command)

    def _deliver(self, worker: Any, command: Command) -> None:
        worker.pulled()
        worker.later(self.latency_s(), worker.take, command)

    def _overdue(self, command: Command) -> None:
        if self.commands.get(command.subject) is command:
            command.flying = False
            self.kick()

    def ack(self, command: Command) -> None:
        if self.commands.get(command.subject) is command:
            del self.commands[command.subject]

    # Keys that expire

    def put_beat(self, executor: str, beat: Any) -> bool:
        """Whether it is stored."""
        clockwork = self.clockwork
        if self.down or (clockwork.faulty and clockwork.chance(self.mix.lose_beat, "beat lost")):
            return False
        self.time_ns = max(self.time_ns + 1, clockwork.now_ns)
        self.beats[executor] = (self.time_ns, beat)
        for follower in self.followers:
            follower.beaten(self.time_ns, beat)  # type: ignore[attr-defined]
        return True

    def take_lease(self, name: str, expect: int) -> int | None:
        """The revision, or None when somebody else has it."""
        revision, at_ns, _ = self.lease
        if at_ns < self.clockwork.now_ns - self.lease_ttl_ns:
            revision = 0
        if revision != expect and not self.clockwork.chance(self.mix.everybody_leads, "lease believed by two"):
            return None
        self._keys += 1
        self.lease = (self._keys, self.clockwork.now_ns, name)
        return self._keys

    # Outages

    def stop(self, *, forget: bool) -> None:
        """The server is gone for a while; `forget`: with what it keeps in memory."""
        self.down = True
        if forget:
            self.commands.clear()
            self.beats.clear()
            self.lease = (0, 0, "")

    def start(self) -> None:
        self.down = False
        self.kick()

    def part(self) -> None:
        """Nobody is told of anything any more."""
        self.followers.clear()
        self.workers.clear()
        self.before_final = self.stored = None


class _Append:
    """One append on its way."""

    __slots__ = (
        "broker",
        "data",
        "deadline_ns",
        "done",
        "ended",
        "entry",
        "epoch",
        "expect",
        "over",
        "pause_s",
        "process",
        "sent",
        "subject",
    )

    def __init__(
        self,
        broker: Broker,
        process: Process,
        subject: str,
        data: bytes,
        entry: Entry,
        expect: int | None,
        over: str,
        done: Done,
    ) -> None:
        self.broker = broker
        self.process = process
        self.subject = subject
        self.data = data
        self.entry = entry
        self.expect = expect
        self.over = over
        self.done = done
        self.sent = 0
        self.pause_s = 0.01
        self.ended = False
        self.deadline_ns = process.monotonic_ns() + int(APPEND_TIMEOUT_S * SECOND_NS)
        self.epoch = process.epoch

    def back(self, delay_s: float, do: Callable[..., None], *args: Any) -> None:
        """Something reaches the process that sent this, if it still lives."""
        self.broker.clockwork.after_in(delay_s, self.process, self.epoch, do, args)

    def send(self) -> None:
        broker, clockwork, mix = self.broker, self.broker.clockwork, self.broker.mix
        self.sent += 1
        if broker.down or not self.process.connected:
            self.back(ANSWER_S, self.look, self.sent)
            return
        delay_s = broker.latency_s()
        if clockwork.faulty:
            if clockwork.chance(mix.lose_request, "request lost"):
                self.back(ANSWER_S, self.look, self.sent)
                return
            if clockwork.chance(mix.late_request, "request late"):
                delay_s = clockwork.random.random() * 3 * ANSWER_S
                self.back(ANSWER_S, self.look, self.sent)
        clockwork.after(delay_s, self.arrive, self.sent)

    def arrive(self, sent: int) -> None:
        broker = self.broker
        if broker.down:
            self.back(ANSWER_S, self.look, sent)
            return
        sequence = broker.store(self.subject, self.data, self.entry, self.expect, self.over)
        if broker.clockwork.faulty and (
            broker.clockwork.chance(broker.mix.lose_answer, "answer lost") or not self.process.connected
        ):
            self.back(ANSWER_S, self.look, sent)
        elif sequence:
            self.back(broker.latency_s(), self.end, "ok", sequence)
        else:
            self.back(broker.latency_s(), self.look, sent)

    def look(self, sent: int) -> None:
        """No answer, or a refusal: what stands there?"""
        if self.ended or sent != self.sent:
            return
        if not self.broker.down and self.process.connected:
            newest = self.broker.last(self.subject)
            if self.expect is None:
                if newest is not None and newest.data == self.data:
                    self.end("ok", newest.sequence)
                    return
            else:
                fenced = self.broker.last(self.over) if self.over else newest
                match judge(self.data, self.expect, newest, fenced):
                    case "mine":
                        assert newest is not None
                        self.end("ok", newest.sequence)
                        return
                    case "refused":
                        self.end("refused", 0)
                        return
                    case "again":
                        pass
        if self.process.monotonic_ns() > self.deadline_ns:
            self.end("unavailable", 0)
        else:
            self.pause_s = min(self.pause_s * 2, 1.0)
            self.back(self.pause_s, self.send)

    def end(self, answer: Answer, sequence: int) -> None:
        if not self.ended:
            self.ended = True
            self.done(answer, sequence)


def final(events: list[AnyEvent]) -> bool:
    """Whether this ends a run."""
    return any(isinstance(event, RunFinished) for event in events)
