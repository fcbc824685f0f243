"""Tells people what a run needs of them: notifications by command and by signed webhook, each at least once.

Every scheduler that has a channel configured takes part; leadership is not needed. A channel is a durable consumer of the
scheduler's decisions, shared by all schedulers, which begins with what is decided after it first exists:

    decision on the log ──▶ consumer swell-notify-command ──▶ one scheduler ──▶ command    exit code 0   ──▶ acknowledged
                        └─▶ consumer swell-notify-webhook ──▶ one scheduler ──▶ POST       status 2xx    ──▶ acknowledged
                                                                                otherwise  ──▶ put off, ever longer

* Acknowledged is what was delivered, so a scheduler that dies in between only makes for a repetition. `id` is the same in
  every repetition: receivers drop what they know.
* What cannot be delivered is put off and blocks nothing else. After `give_up_s` it is dropped, with an error in the log.
* There is no order between notifications; `position` gives one.
* The text of a notification comes from events alone, which hold no secret. The webhook's URL may be one: it is not logged.

Signature of a webhook, when a secret is set: the header `Swell-Signature: t=<unix seconds>,v1=<hex>` where `<hex>` is
HMAC-SHA256(secret, "<unix seconds>." + body). Receivers compute it from the raw body, and refuse old times.
"""

import asyncio
import contextlib
import hashlib
import hmac
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from services.bus import Bus, BusError, Consumer, Delivery
from services.config import ConfigError
from services.events import (
    AnyEvent,
    BudgetReached,
    RunFinished,
    RunTransitioned,
    ToolBreakerOpened,
    WorkstreamTransitioned,
)
from services.outcome import usd_text
from services.posting import PostError, Receiver
from services.process import ProcessError, child_environment
from services.process import run as run_process
from services.scheduler.config import NotificationKind, NotificationsConfig
from services.telemetry import about
from services.trace import of_run
from services.wire import UnknownKindError, WireError, decode_entry, decode_envelope, parse_subject

log = structlog.get_logger()

DECISIONS = "swell.event.*.run"
FLEET = "fleet"

AT_ONCE = 8
"""Notifications of one channel under way: one that hangs holds up no more than its share."""

PULL_S = 5.0
RETRY_FIRST_S = 1.0
TRIES_MIN = 5
"""So many times a notification is tried however old it is: nobody may have been alive to try it."""

ACK_MARGIN_S = 5.0
TOLD_MAX = 10_000
OUTPUT_BYTES = 64 * 1024  # of the shell that throws the command's own away
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 16, 4096


class NotDeliveredError(Exception):
    """The receiver did not take a notification; the text says why and what to do."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver gets, as one JSON object; a field without meaning for its kind is "".

    `id`: the entry's id and the event's place in it, the same whenever this is repeated. `run`: "" where all runs are
    concerned. `time`: when the log took the decision, RFC 3339 in UTC. `position`: the entry's sequence in the log.
    """

    id: str
    kind: NotificationKind
    run: str
    time: str
    position: int
    workstream: str = ""
    tool: str = ""
    state: str = ""
    reason: str = ""
    actor: str = ""


class Told(msgspec.Struct, frozen=True):
    """What an event says to people."""

    kind: NotificationKind
    workstream: str = ""
    tool: str = ""
    state: str = ""
    reason: str = ""
    actor: str = ""


def told(event: AnyEvent) -> Told | None:
    """What an event says to people, None when it is of no concern to them. A new notification is a new case here."""
    match event:
        case RunFinished():
            return Told("run_ended", state=event.state, reason=event.reason)
        case WorkstreamTransitioned(to_state="awaiting_review"):
            return Told(
                "review_needed",
                workstream=event.workstream,
                state=event.to_state,
                reason=event.reason,
                actor=event.actor,
            )
        case BudgetReached():
            spent = f"{usd_text(event.spent_nano)} of {usd_text(event.limit_nano)} spent"
            kind: NotificationKind = "budget_exceeded" if event.threshold == "exceeded" else "budget_warning"
            reason = f"{spent}, {usd_text(event.reserved_nano)} reserved for attempts under way"
            if event.day:
                whose = "of the tool" if event.tool else f"of tenant {event.tenant}" if event.tenant else "of the fleet"
                reason = f"{whose} on {event.day}: {reason}"
            return Told(kind, workstream=event.workstream, tool=event.tool, state=event.mode, reason=reason)
        case RunTransitioned(to_state="paused", cause="review" | "budget"):
            return Told("run_held", state=event.to_state, reason=event.reason, actor=event.actor)
        case ToolBreakerOpened():
            return Told("breaker_open", tool=event.tool, state="open", reason=event.reason)
        case _:
            return None


def notifications(subject: str, position: int, time_ns: int, data: bytes) -> list[Notification]:
    """What an entry of the log says to people. Raises UnknownKindError, WireError."""
    run = parse_subject(subject).run
    entry = decode_entry(data)
    return [
        Notification(
            id=f"{entry.id}-{place}",
            run="" if run == FLEET else run,
            time=_rfc3339(time_ns),
            position=position,
            **msgspec.structs.asdict(said),
        )
        for place, event in enumerate(entry.events)
        if (said := told(event)) is not None
    ]


def _rfc3339(time_ns: int) -> str:
    whole = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{time_ns // 1_000_000 % 1000:03d}Z"


# Channels


class Channel(Protocol):
    """A way to reach people."""

    name: str

    async def send(self, body: bytes) -> None:
        """Deliver one notification; raises NotDeliveredError when the receiver did not take it."""


class Command:
    """A program that gets the notification as JSON on its standard input and takes it by exit code 0.

    Its environment is services.process.child_environment, its working folder /; what it prints is thrown away.
    """

    name = "command"

    def __init__(self, argv: tuple[str, ...], timeout_s: float) -> None:
        """Raises ConfigError when the program is not there."""
        if shutil.which(argv[0], path=child_environment()["PATH"]) is None:
            raise ConfigError(
                f"notifications.command: {argv[0]!r} is not an executable program: install it, give its full path, or "
                "leave notifications.command out"
            )
        self._argv = ("/bin/sh", "-c", 'exec "$@" >/dev/null 2>&1', "notifications.command", *argv)
        self._program = argv[0]
        self._timeout_s = timeout_s

    async def send(self, body: bytes) -> None:
        """Run it."""
        try:
            ended = await run_process(
                self._argv, cwd=Path("/"), stdin=body, timeout_s=self._timeout_s, output_bytes=OUTPUT_BYTES
            )
        except ProcessError as error:
            raise NotDeliveredError(f"notifications.command: {error}") from error
        if ended.exit_code != 0:
            raise NotDeliveredError(
                f"notifications.command: {self._program} ended with exit code {ended.exit_code}: run it by hand, with a "
                "notification as JSON on its standard input, to see why"
            )


class Webhook:
    """A URL that gets the notification as the JSON body of a POST, signed, and takes it by a status of 2xx. See services.posting."""

    name = "webhook"

    def __init__(self, url: str, secret: bytes | None, timeout_s: float) -> None:
        """Raises ConfigError for a URL that cannot be used."""
        self._timeout_s = timeout_s
        self._secret = secret
        try:
            self._receiver = Receiver("notifications.webhook_url", url)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self._receiver.has_user:
            raise ConfigError("notifications.webhook_url must not hold a user: sign with webhook_secret_file instead")
        if not self._receiver.is_private:
            host = self._receiver.host
            raise ConfigError(
                f"notifications.webhook_url: {host} is another machine: use https (http only reaches this one)"
            )

    async def send(self, body: bytes) -> None:
        """Post it."""
        where = f"notifications.webhook_url: {self._receiver.host}"
        try:
            async with asyncio.timeout(self._timeout_s):
                status = (await self._receiver.post(body, self._signed(body))).status
        except TimeoutError as error:
            raise NotDeliveredError(
                f"{where} did not answer within {self._timeout_s:g} s: check it, or raise notifications.timeout_s"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise NotDeliveredError(
                f"{where} has no certificate that can be trusted ({error.verify_message}): mend it, or name its authority "
                "with SSL_CERT_FILE"
            ) from error
        except PostError as error:
            raise NotDeliveredError(
                f"{where} could not be reached, or does not speak HTTP ({error}): check URL and receiver"
            ) from error
        if 300 <= status < 400:
            raise NotDeliveredError(f"{where} redirects ({status}), which is not followed: set the final URL")
        if not 200 <= status < 300:
            raise NotDeliveredError(f"{where} answered {status}: look at the receiver's log")

    def _signed(self, body: bytes) -> dict[str, str]:
        if self._secret is None:
            return {}
        return {"Swell-Signature": signature(self._secret, int(time.time()), body)}


def signature(secret: bytes, stamp_s: int, body: bytes) -> str:
    """The value of the header Swell-Signature: when it was signed, seconds since 1970, and by whom."""
    mac = hmac.new(secret, f"{stamp_s}.".encode() + body, hashlib.sha256)
    return f"t={stamp_s},v1={mac.hexdigest()}"


def _read_secret(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"notifications.webhook_secret_file {file} cannot be read ({error.strerror}): write the secret into it"
        ) from error
    if not SECRET_BYTES_MIN <= len(data.strip()) <= SECRET_BYTES_MAX:
        raise ConfigError(
            f"notifications.webhook_secret_file {file} must hold {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes: "
            "`openssl rand -hex 32` makes such a secret"
        )
    return data.strip()


def channels(config: NotificationsConfig) -> list[Channel]:
    """The channels that are configured. Raises ConfigError."""
    made: list[Channel] = []
    if config.command:
        made.append(Command(config.command, config.timeout_s))
    if config.webhook_url:
        secret = None if config.webhook_secret_file is None else _read_secret(config.webhook_secret_file)
        made.append(Webhook(config.webhook_url, secret, config.timeout_s))
    elif config.webhook_secret_file is not None:
        raise ConfigError("notifications.webhook_secret_file is set and webhook_url is not: set both, or neither")
    return made


# Delivery


class Notifier:
    """Delivers over every channel that is configured; without one it does nothing, and no consumer is made."""

    def __init__(self, config: NotificationsConfig) -> None:
        """Raises ConfigError when a channel cannot be used."""
        self._config = config
        self._channels = channels(config)

    @contextlib.asynccontextmanager
    async def telling(self, bus: Bus) -> AsyncIterator[None]:
        """Notify as long as this is entered; what is under way at its end is left to another scheduler at once."""
        tasks = {asyncio.create_task(_Telling(bus, channel, self._config).run()) for channel in self._channels}
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("notify.stopped", error=str(result), kind=type(result).__name__)


class _Telling:
    """One channel at work."""

    def __init__(self, bus: Bus, channel: Channel, config: NotificationsConfig) -> None:
        self._channel = channel
        self._config = config
        self._consumer: Consumer = bus.consume(
            f"swell-notify-{channel.name}", [DECISIONS], ack_wait_s=config.timeout_s + ACK_MARGIN_S
        )
        self._under_way: set[asyncio.Task[None]] = set()
        self._delivered: dict[str, None] = {}

    async def run(self) -> None:
        try:
            await self._patiently()
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            await self._consumer.close()

    async def _patiently(self) -> None:
        """Begin again when the bus fails; its errors say what to do."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await self._consumer.open()
                pause_s = RETRY_FIRST_S
                await self._take()
            except BusError as error:
                log.warning("notify.bus_retry", channel=self._channel.name, error=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._config.retry_max_s)

    async def _take(self) -> None:
        while True:
            room = AT_ONCE - len(self._under_way)
            if room <= 0:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                continue
            for delivery in await self._consumer.next(wanted=room, timeout_s=PULL_S):
                await self._begin(delivery)

    async def _begin(self, delivery: Delivery) -> None:
        """Acknowledge what says nothing to people, which is most; start to deliver the rest."""
        try:
            said = notifications(delivery.subject, delivery.sequence, delivery.time_ns, delivery.data)
        except UnknownKindError as error:
            with _about(delivery):
                await self._put_off(delivery, [], str(error))  # a newer scheduler, if there is one, can read it
            return
        except WireError as error:
            with _about(delivery):
                log.error("notify.unreadable", position=delivery.sequence, error=str(error))
            said = []
        wanted = [notification for notification in said if notification.kind in self._config.on]
        if not wanted:
            await delivery.ack()
            return
        with _about(delivery):
            task = asyncio.create_task(self._deliver(delivery, wanted))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(self, delivery: Delivery, wanted: list[Notification]) -> None:
        try:
            for notification in wanted:
                if notification.id not in self._delivered:
                    await self._channel.send(msgspec.json.encode(notification) + b"\n")
                    self._remember(notification.id)
                    await delivery.more_time()
        except asyncio.CancelledError:
            await delivery.nak(0.0)
            raise
        except NotDeliveredError as error:
            await self._put_off(delivery, wanted, str(error))
        except Exception as error:  # one notification must not end the others: this is the boundary of a message
            log.exception("notify.failed", position=delivery.sequence)
            await self._put_off(delivery, wanted, str(error))
        else:
            await delivery.ack()

    def _remember(self, name: str) -> None:
        """So that the first of an entry's notifications is not repeated because of the second."""
        self._delivered[name] = None
        if len(self._delivered) > TOLD_MAX:
            del self._delivered[next(iter(self._delivered))]

    async def _put_off(self, delivery: Delivery, wanted: list[Notification], reason: str) -> None:
        """Try again later; at the end of the patience, drop it and say so."""
        missing = [n.id for n in wanted if n.id not in self._delivered]
        known = {
            "channel": self._channel.name,
            "position": delivery.sequence,
            "notifications": missing,
            "tries": delivery.count,
            "error": reason,
        }
        age_s = (time.time_ns() - delivery.time_ns) / 1e9
        if age_s > self._config.give_up_s and delivery.count >= TRIES_MIN:
            log.error("notify.given_up", age_s=round(age_s), **known)
            await delivery.ack()
            return
        delay_s = min(RETRY_FIRST_S * 2.0 ** min(delivery.count - 1, 30), self._config.retry_max_s)
        log.warning("notify.retry", delay_s=delay_s, **known)
        await delivery.nak(delay_s)


def _about(delivery: Delivery) -> contextlib.AbstractContextManager[object]:
    """Every line in this context is about the run of this decision."""
    try:
        run, trace = parse_subject(delivery.subject).run, decode_envelope(delivery.data).trace
    except WireError:
        return contextlib.nullcontext()
    return about(run=run, trace=None if run == FLEET else of_run(run, trace))
