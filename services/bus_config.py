"""How the bus is reached: its servers, credentials and TLS, what is asked of whoever runs it, what its streams are called.

Secrets are files. They are read for every connection that is made, so that a password, a certificate or a .creds file that
is replaced counts from the next reconnection on, without a restart.
"""

import asyncio
import re
import ssl
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from services.posting import PostError, Receiver

EVENTS: Final = "SWELL_EVENTS"
COMMANDS: Final = "SWELL_COMMANDS"
ARTIFACTS: Final = "SWELL_ARTIFACTS"
EXECUTORS: Final = "SWELL_EXECUTORS"
LEASES: Final = "SWELL_LEASES"
SNAPSHOTS: Final = "SWELL_SNAPSHOTS"

SECRET_BYTES_MAX: Final = 64 * 1024
MONITORING_BYTES_MAX: Final = 256 * 1024
MONITORING_S: Final = 5.0

_SERVER: Final = re.compile(r"(nats|tls)://[^/@?#\s,]+")
_NO_TOKEN: Final = re.compile(r"[\s.*>]")
_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64  # OpenSSL's X509_V_ERR_…
_UNKNOWN_CA: Final = frozenset({2, 18, 19, 20, 21})


class AccessError(OSError):
    """A setting or file cannot be used to reach the bus; the text names it and says what to do. Connecting goes on after it."""


class BusConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the bus.

    `url`: nats://host:port, or tls://host:port for TLS; of a cluster several, with commas. No password stands in it.
    `user`, `password_file`: credentials; the file holds the password alone. `credentials_file`: a .creds file instead.
        `user` also names the inbox that answers come to, _INBOX_<user>, whatever the credentials are.
    `ca_file`: who vouches for the servers (PEM); default: the system's authorities. `certificate_file`, `key_file`: our own
        certificate (PEM), for servers that ask for one. `tls_name`: the name in the servers' certificates, if it is another
        than in `url`. Any of these, too, means TLS; then nothing is ever said without it.
    `replicas`: copies of each stream, 1 on one server, 3 in a cluster.
    `synced`: stated on purpose: the server runs with `sync_interval: always`, so one copy survives a power cut. Default false.
    `monitoring_url`: where the server's monitoring answers, http://host:8222; it is asked for that instead. Default none.
    `connect_timeout_s`: how long a start waits. `append_timeout_s`: how long an append is retried while nothing is known
        about it. `beat_ttl_s`, `lease_ttl_s`: how long a beat or a lease stands without renewal.
    """

    url: str = "nats://127.0.0.1:4222"
    user: Annotated[str, Meta(max_length=256)] = ""
    password_file: Path | None = None
    credentials_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    tls_name: str = ""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    synced: bool = False
    monitoring_url: str = ""
    connect_timeout_s: float = 15.0
    append_timeout_s: float = 30.0
    beat_ttl_s: float = 30.0
    lease_ttl_s: float = 2.0

    @property
    def servers(self) -> list[str]:
        """The servers of `url`."""
        return [server.strip() for server in self.url.split(",")]

    @property
    def tls(self) -> bool:
        """Whether nothing may be said without TLS."""
        files = (self.ca_file, self.certificate_file, self.key_file)
        return any(map(bool, files)) or bool(self.tls_name) or any(one.startswith("tls://") for one in self.servers)

    @property
    def inbox(self) -> str:
        """The prefix of the subjects that answers come to: the user's own, so that nobody else can be allowed to hear them."""
        return inbox_of(self.user)

    @property
    def secret_files(self) -> list[Path]:
        """The files that no tool may see."""
        files = (self.password_file, self.credentials_file, self.key_file)
        return [file for file in files if file is not None]


def inbox_of(user: str) -> str:
    """The prefix of the subjects on which a user hears what it is answered."""
    return f"_INBOX_{re.sub(_NO_TOKEN, '-', user)}" if user else "_INBOX"


def check_access(config: BusConfig) -> None:
    """Raises AccessError for settings that contradict each other, and for files that cannot be used."""
    for server in config.servers:
        if not _SERVER.fullmatch(server):
            raise AccessError(
                "bus.url must be nats://host:port or tls://host:port, several with commas between them, without user, "
                "password or path: credentials are given by user and password_file, or by credentials_file"
            )
    if config.password_file is not None and config.credentials_file is not None:
        raise AccessError("bus.password_file and bus.credentials_file are both set: set one of them")
    if config.password_file is not None and not config.user:
        raise AccessError("bus.password_file is set and bus.user is not: set user, too")
    if (config.certificate_file is None) != (config.key_file is None):
        raise AccessError("bus.certificate_file and bus.key_file belong together: set both, or neither")
    if config.password_file is not None:
        read_password(config)
    if config.credentials_file is not None and b"BEGIN NATS USER JWT" not in _read(config, "credentials_file"):
        raise AccessError(
            f"bus.credentials_file {config.credentials_file} is no .creds file: write one with `nsc generate creds`"
        )
    if config.tls:
        tls_context(config)


def read_password(config: BusConfig) -> str:
    """What `password_file` holds now. Raises AccessError."""
    try:
        text = _read(config, "password_file").decode().strip()
    except UnicodeDecodeError as error:
        raise AccessError(f"bus.password_file {config.password_file} is not text: write the password alone") from error
    if not text:
        raise AccessError(f"bus.password_file {config.password_file} is empty: write the password alone into it")
    return text


def tls_context(config: BusConfig) -> ssl.SSLContext:
    """Made of the files as they are now. Raises AccessError."""
    for key in ("ca_file", "certificate_file", "key_file"):
        if getattr(config, key) is not None:
            _read(config, key)
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ValueError) as error:
        raise AccessError(f"bus.ca_file {config.ca_file} holds no certificate ({error}): write PEM") from error
    if config.certificate_file is not None:
        try:
            context.load_cert_chain(config.certificate_file, config.key_file)
        except (OSError, ValueError) as error:
            raise AccessError(
                f"bus.certificate_file {config.certificate_file} and bus.key_file {config.key_file} cannot be used "
                f"({error}): write a PEM certificate and its own key, without a passphrase"
            ) from error
    return context


def _read(config: BusConfig, key: str) -> bytes:
    path: Path = getattr(config, key)
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise AccessError(
            f"bus.{key} {path} cannot be read ({error.strerror}): create it, readable by this process"
        ) from error
    if len(data) > SECRET_BYTES_MAX:
        raise AccessError(f"bus.{key} {path} is larger than {SECRET_BYTES_MAX} bytes: it is not what it should be")
    return data


def refusal(config: BusConfig, error: Exception) -> str:
    """Why no connection comes about for good and what to do, '' for what may pass by itself."""
    if isinstance(error, AccessError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(config, error)
    if isinstance(error, ssl.SSLError):
        return (
            f"TLS with the bus at {config.url} failed ({error.reason or error}): it may ask for a certificate of ours that its "
            "own authority signed: check certificate_file and key_file"
        )
    text = str(error).lower()
    if "authorization" in text or "authentication" in text:
        what = "user and password_file" if config.credentials_file is None else "credentials_file"
        return f"the bus at {config.url} refused user {config.user!r}: check {what}"
    return ""


def _unverified(config: BusConfig, error: ssl.SSLCertVerificationError) -> str:
    beginning = f"the certificate of the bus at {config.url}"
    match error.verify_code:
        case code if code == _EXPIRED:
            return f"{beginning} has expired: renew it on the servers, or mend this machine's clock"
        case code if code == _NOT_YET:
            return f"{beginning} is not valid yet: mend this machine's clock, or the servers'"
        case code if code in (_NAME, _ADDRESS):
            return f"{beginning} is for another name: write that name into url, or set tls_name"
        case code if code in _UNKNOWN_CA:
            return f"{beginning} was signed by nobody known here: set ca_file to the authority that signed it"
    return f"{beginning} cannot be verified ({error.verify_message})"


async def unsynced(config: BusConfig) -> str:
    """What to say of acknowledged entries that a power cut may take, '' for nothing. A client of a server cannot see that."""
    if config.replicas > 1 or (config.synced and not config.monitoring_url):
        return ""
    check = (
        "run it with `jetstream { sync_interval: always }` and say so by bus.synced or bus.monitoring_url, or run three "
        "servers with bus.replicas = 3 (docs/nats.md)"
    )
    if not config.monitoring_url:
        return f"streams have one copy, and whether the server syncs it to its disk is not known here: {check}"
    try:
        receiver = Receiver("bus.monitoring_url", config.monitoring_url.rstrip("/") + "/jsz?config=1")
        async with asyncio.timeout(MONITORING_S):
            answer = await receiver.get(answer_bytes=MONITORING_BYTES_MAX)
        found = msgspec.json.decode(answer.body, type=_Monitored).config
    except (*PostError, msgspec.MsgspecError) as error:
        return f"streams have one copy, and bus.monitoring_url {config.monitoring_url} does not tell ({error or 'time-out'}): {check}"
    if found.sync_always:
        return ""
    return (
        f"streams have one copy, and the server syncs it every {found.sync_interval / 1e9:g} s only: what it acknowledged "
        f"since is lost in a power cut: {check}"
    )


class _JetStream(msgspec.Struct):
    sync_interval: int = 0
    sync_always: bool = False


class _Monitored(msgspec.Struct):
    config: _JetStream
